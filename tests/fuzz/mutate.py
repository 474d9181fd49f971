"""A small seeded mutator: the same seed and inputs give the same mutation, in every run and on every machine.

::

    mutator = Mutator(random.Random(7))
    mutator.mutate(data, others)             # one to four changes: bits, bytes, cuts, splices, fields, order
    mutator.datagram(data, others)           # the same, but mostly in the fields of a datagram's clear header

It knows nothing of what the bytes mean but the places of the fields in a clear header, so that it reaches the checks
behind the first one: a record with another count, the index of somebody else, a number far ahead.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from srmudp.wire.codec import VARINT_MAX, encode_varint
from srmudp.wire.packet import COOKIE, PUBLIC_KEY, PUNCH, RECORD, RESEND, SHARED_KEY

INTERESTING: Final = (0, 1, 2, 0x0F, 0x10, 0x3F, 0x40, 0x7F, 0x80, 0xBF, 0xC0, 0xFE, 0xFF)
"""Bytes at both sides of what variable-length integers, signs and ASCII turn on."""
NUMBERS: Final = (0, 1, 2, 16, 43, 44, 45, 255, 256, 1 << 14, 65_535, 65_536, 65_537, 1 << 20, 1 << 32, 1 << 61)
LIMITS: Final = ((1 << 62) - 1, 1 << 62, (1 << 62) - 44, (1 << 62) - (1 << 13), (1 << 63), (1 << 64) - 1)

TOKENS: Final = tuple(
    text.encode()
    for text in (
        *(
            "@",
            ":",
            "[",
            "]",
            ".",
            "%",
            "%eth0",
            "::",
            "::ffff:",
            "0x",
            "/24",
            ",",
            "\n",
            " ",
            "\0",
            "\x1b[2J",
            "\u202e",
        ),
        *("127.0.0.1", "255.255.255.255", "[fe80::1%1]:1", "65536", "-1", "1e9", "\u0661", "xn--", "\u00e4.example"),
        *('{"a":', '"peer_id":', '"pinned":true', '"addresses":["', "[" * 200, "]" * 200, '"', "\\u0000", "\\ud800"),
        *("null", "NaN", "9" * 5000, "srmudp identity ", "peer_id ", "seed ", "\r\n", "a" * 64, "\u00df"),
    )
)
"""Pieces of text that its readers turn on."""
STEP: Final = 6
"""Bytes of one step of a script."""

_HANDSHAKE: Final = {"kind": (0, 1), "version": (1, 1), "index": (2, 8)}
_SEGMENT: Final = {
    "kind": (0, 1),
    "epoch": (1, 1),
    "index": (2, 8),
    "number": (10, 8),
    "first": (18, 8),
    "count": (26, 1),
    "size": (27, 2),
    "segment": (29, 1),
}
FIELDS: Final[dict[int, dict[str, tuple[int, int]]]] = {
    PUNCH: {**_HANDSHAKE, "cookie": (42, 16), "padding": (58, 8), "tag": (496, 16)},
    PUBLIC_KEY: _HANDSHAKE,
    SHARED_KEY: _HANDSHAKE,
    COOKIE: {**_HANDSHAKE, "cookie": (10, 16), "tag": (26, 16)},
    RECORD: _SEGMENT,
    RESEND: {**_SEGMENT, "transmission": (30, 8)},
}
"""Offset and length of the clear fields of a datagram, by its first byte."""


class Mutator:
    """Changes bytes by chance.

    Args:
        rng: decides everything.
        longest: bytes of the largest result.
    """

    def __init__(self, rng: random.Random, longest: int = 70_000) -> None:
        self.rng = rng
        self.longest = longest

    def mutate(self, data: bytes, others: Sequence[bytes] = ()) -> bytes:
        """One to four changes anywhere.

        Args:
            others: inputs to splice with.
        """
        changes = (
            *(self._flip, self._set, self._set, self._noise, self._truncate, self._extend, self._cut, self._repeat),
            *(self._swap, self._count, self._varint, self._splice),
        )
        for _ in range(self.rng.choice((1, 1, 2, 4))):
            change = self.rng.choice(changes)
            data = self._splice(data, others) if change == self._splice else change(data)
        return data[: self.longest]

    def datagram(self, data: bytes, others: Sequence[bytes] = ()) -> bytes:
        """A change of a datagram: of a field of its clear header, or of anything."""
        if self.rng.random() < 0.4:
            return self.mutate(data, others)
        for _ in range(self.rng.choice((1, 1, 2, 3))):
            data = self.field(data, others)
        if self.rng.random() < 0.2:
            data = self.rng.choice((self._truncate, self._extend))(data)
        return data[: self.longest]

    def field(self, data: bytes, others: Sequence[bytes] = ()) -> bytes:
        """One field of the clear header set to another number, or to that of another datagram."""
        rng = self.rng
        fields = FIELDS.get(data[0]) if data else None
        if fields is None:
            return self._set(data)
        name = rng.choice(sorted(fields))
        offset, size = fields[name]
        if len(data) < offset + size:
            return self._set(data)
        old = int.from_bytes(data[offset : offset + size], "big")
        if name == "kind":
            value = rng.choice((*FIELDS, 0, 1, 4, 0x40, 0x80))
        else:
            donors = [other for other in others if len(other) >= offset + size]
            choice = rng.randrange(5)
            if choice == 0 and donors:
                donor = rng.choice(donors)
                value = int.from_bytes(donor[offset : offset + size], "big")
            elif choice == 1:
                value = old + rng.choice((-2, -1, 1, 2, 10, 1000, 32_768, 65_536, 1 << 20))
            elif choice == 2:
                value = rng.choice(NUMBERS)
            elif choice == 3:
                value = rng.choice(LIMITS)
            else:
                value = old ^ 1 << rng.randrange(8 * size)
        return data[:offset] + (value % (1 << 8 * size)).to_bytes(size, "big") + data[offset + size :]

    def script(self, data: bytes, others: Sequence[bytes] = ()) -> bytes:
        """A script of six-byte steps behind a header of two: steps changed, doubled, moved, cut or borrowed."""
        rng = self.rng
        header, body = data[:2].ljust(2, b"\0"), data[2:]
        steps = [body[at : at + STEP] for at in range(0, len(body) - STEP + 1, STEP)]
        donors = [other for other in others if len(other) > 2 + STEP]
        for _ in range(rng.choice((1, 2, 3, 6))):
            choice = rng.randrange(8)
            at = rng.randrange(len(steps)) if steps else 0
            if choice == 0 or not steps:
                steps.insert(at, rng.randbytes(STEP))
            elif choice == 1:
                steps.insert(at, steps[rng.randrange(len(steps))])
            elif choice == 2:
                del steps[at]
            elif choice == 3 and donors:
                donor = rng.choice(donors)
                cut = 2 + STEP * rng.randrange((len(donor) - 2) // STEP)
                steps[at:at] = [donor[start : start + STEP] for start in range(cut, min(len(donor), cut + 36), STEP)]
            elif choice == 4:
                steps.append(steps.pop(at))
            elif choice == 5 and rng.random() < 0.3:
                header = rng.randbytes(2)
            else:
                step = bytearray(steps[at].ljust(STEP, b"\0"))
                step[rng.randrange(STEP)] = rng.choice((rng.randrange(256), rng.choice(INTERESTING)))
                steps[at] = bytes(step)
        return header + b"".join(steps[:64])

    def reorder(self, items: Sequence[bytes]) -> list[bytes]:
        """The same inputs in another order, some of them twice, some left out."""
        result = [item for item in items if self.rng.random() < 0.9]
        result += [self.rng.choice(items) for _ in range(self.rng.randrange(3))] if items else []
        self.rng.shuffle(result)
        return result

    def _at(self, data: bytes) -> int:
        """A place in the data, rather at its beginning."""
        end = len(data)
        if self.rng.random() < 0.5:
            end = min(end, 64)
        return self.rng.randrange(end) if end else 0

    def text(self, data: bytes, others: Sequence[bytes] = ()) -> bytes:
        """The same as :meth:`mutate`, with words in between."""
        for _ in range(self.rng.randrange(3)):
            at = self._at(data)
            data = data[:at] + self.rng.choice(TOKENS) + data[at + self.rng.choice((0, 0, 1, 4)) :]
        return self.mutate(data, others) if self.rng.random() < 0.7 else data[: self.longest]

    def _flip(self, data: bytes) -> bytes:
        if not data:
            return data
        at = self._at(data)
        return data[:at] + bytes((data[at] ^ 1 << self.rng.randrange(8),)) + data[at + 1 :]

    def _set(self, data: bytes) -> bytes:
        at = self._at(data)
        return data[:at] + bytes((self.rng.choice(INTERESTING),)) + data[at + 1 :]

    def _noise(self, data: bytes) -> bytes:
        at, size = self._at(data), self.rng.choice((1, 2, 4, 8, 16))
        return data[:at] + self.rng.randbytes(size) + data[at + size :]

    def _count(self, data: bytes) -> bytes:
        """A number of two, four or eight bytes set to a limit."""
        at, size = self._at(data), self.rng.choice((2, 4, 8))
        value = self.rng.choice((*NUMBERS, *LIMITS)) % (1 << 8 * size)
        return data[:at] + value.to_bytes(size, "big") + data[at + size :]

    def _varint(self, data: bytes) -> bytes:
        """A variable-length integer in the place of a byte."""
        at = self._at(data)
        value = min(self.rng.choice((*NUMBERS, *LIMITS)), VARINT_MAX)
        return data[:at] + encode_varint(value) + data[at + 1 :]

    def _truncate(self, data: bytes) -> bytes:
        return data[: self.rng.randrange(min(len(data), self.rng.choice((50, 70_000))) + 1)]

    def _extend(self, data: bytes) -> bytes:
        size = self.rng.choice((1, 1, 2, 8, 100, 1500))
        return data + self.rng.choice((bytes(size), b"\xff" * size, self.rng.randbytes(size)))

    def _cut(self, data: bytes) -> bytes:
        at = self._at(data)
        return data[:at] + data[at + self.rng.choice((1, 1, 2, 4, 8, 32)) :]

    def _repeat(self, data: bytes) -> bytes:
        at, size = self._at(data), self.rng.choice((1, 2, 4, 8, 32))
        return data[: at + size] + data[at : at + size] * self.rng.choice((1, 1, 3, 64)) + data[at + size :]

    def _swap(self, data: bytes) -> bytes:
        """Two neighbouring pieces change places."""
        at, size = self._at(data), self.rng.choice((1, 2, 4, 8, 32))
        return data[:at] + data[at + size : at + 2 * size] + data[at : at + size] + data[at + 2 * size :]

    def _splice(self, data: bytes, others: Sequence[bytes] = ()) -> bytes:
        """The head of this one and the tail of another."""
        other = self.rng.choice(others) if others else data
        return data[: self._at(data)] + other[self._at(other) :]
