"""STUN messages (RFC 8489): Binding requests, indications, responses and errors, reading beside writing.

::

    0 0 | type:14 | length:2 | 21 12 a4 42 | transaction-id:12 | attributes
    attribute = type:2 length:2 value, padded to a multiple of four bytes

The three attributes of RFC 5780 that tell a NAT's behaviour are read and written too. Of authentication (passwords,
integrity) nothing is: who asks a public server has no secret with it. What such an attribute says is skipped.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from ..exceptions import DecodeError
from ..models import Address

MAGIC_COOKIE: Final = b"\x21\x12\xa4\x42"
HEADER: Final = 20
"""Bytes before the first attribute."""
TRANSACTION_ID: Final = 12
"""Bytes of a transaction id."""
MAX_SIZE: Final = 1472
"""Bytes of a message that is read: a full Ethernet packet, so that it can be tried whether one gets through."""
MAX_ENCODED: Final = 1280
"""The same of one that is written: senders should not exceed it, with headers (RFC 8489 section 6.1)."""
MAX_TEXT: Final = 763
"""Bytes of SOFTWARE and of a reason (sections 14.8 and 14.14)."""

MAPPED_ADDRESS: Final = 0x0001
CHANGE_REQUEST: Final = 0x0003
ERROR_CODE: Final = 0x0009
UNKNOWN_ATTRIBUTES: Final = 0x000A
XOR_MAPPED_ADDRESS: Final = 0x0020
SOFTWARE: Final = 0x8022
FINGERPRINT: Final = 0x8028
RESPONSE_ORIGIN: Final = 0x802B
OTHER_ADDRESS: Final = 0x802C

OBSOLETE: Final = frozenset((0x0002, 0x0004, 0x0005, 0x000B))
"""Required attributes of RFC 3489 that servers of today still add to their answers: nothing to stumble over."""

_MESSAGE_INTEGRITY = frozenset((0x0008, 0x001C))
# USERNAME, REALM, NONCE, PASSWORD-ALGORITHM and USERHASH: of authentication, hence nothing to stumble over.
_AUTHENTICATION = _MESSAGE_INTEGRITY | {0x0006, 0x0014, 0x0015, 0x001D, 0x001E}
_FILLER = 0xFFFE
"""Of those that need not be understood, and nobody's (section 18.3). PADDING of RFC 5780 would be refused by many."""
_METHOD_BITS = 0x3EEF
_BINDING = 0x0001
_FINGERPRINT_XOR = 0x5354_554E
_FINGERPRINT_SIZE = 8
_CHANGE_IP, _CHANGE_PORT = 0x4, 0x2


class StunClass(IntEnum):
    """What a message is: the two class bits, where they stand in its type."""

    REQUEST = 0x0000
    INDICATION = 0x0010
    SUCCESS = 0x0100
    ERROR = 0x0110


@dataclass(frozen=True, slots=True)
class StunMessage:
    """A Binding message. Of an attribute that occurs twice the first counts.

    Attributes:
        kind: request, indication, success or error response.
        transaction_id: 12 bytes that a response repeats.
        xor_mapped: XOR-MAPPED-ADDRESS: the address that the request came from.
        mapped: MAPPED-ADDRESS, the same in clear; routers have been seen to rewrite it.
        software: what the sender calls its program. Clean it before it meets a terminal.
        error: code (300 to 699) and reason of an error response.
        unknown: types of attributes that the sender of an error did not understand.
        origin: RESPONSE-ORIGIN (RFC 5780): where the response came from.
        other: OTHER-ADDRESS (RFC 5780): another address and port that the server answers from. A claim.
        change_ip, change_port: CHANGE-REQUEST (RFC 5780): the answer shall come from there.
        fingerprint: it has one. A wrong one makes the message unreadable.
        not_understood: types of required attributes that nothing is known of here. Only in what was read.
    """

    kind: StunClass
    transaction_id: bytes
    xor_mapped: Address | None = None
    mapped: Address | None = None
    software: str = ""
    error: tuple[int, str] | None = None
    unknown: tuple[int, ...] = ()
    origin: Address | None = None
    other: Address | None = None
    change_ip: bool = False
    change_port: bool = False
    fingerprint: bool = False
    not_understood: tuple[int, ...] = ()

    @property
    def address(self) -> Address | None:
        """The address that the server saw."""
        return self.xor_mapped or self.mapped

    def encode(self) -> bytes:
        """The datagram.

        Raises:
            ValueError: a field that no reader would accept.
        """
        if len(self.transaction_id) != TRANSACTION_ID:
            raise ValueError(f"a transaction id has {TRANSACTION_ID} bytes")
        parts: list[bytes] = []
        if self.software:
            parts.append(_attribute(SOFTWARE, _text(self.software)))
        if self.change_ip or self.change_port:
            flags = _CHANGE_IP * self.change_ip | _CHANGE_PORT * self.change_port
            parts.append(_attribute(CHANGE_REQUEST, flags.to_bytes(4, "big")))
        if self.error is not None:
            code, reason = self.error
            if not 300 <= code <= 699:
                raise ValueError(f"an error code is 300 to 699, not {code}")
            parts.append(_attribute(ERROR_CODE, bytes((0, 0, code // 100, code % 100)) + _text(reason)))
        if self.unknown:
            parts.append(_attribute(UNKNOWN_ATTRIBUTES, b"".join(kind.to_bytes(2, "big") for kind in self.unknown)))
        for kind, address in (
            (XOR_MAPPED_ADDRESS, self.xor_mapped),
            (MAPPED_ADDRESS, self.mapped),
            (RESPONSE_ORIGIN, self.origin),
            (OTHER_ADDRESS, self.other),
        ):
            if address is not None:
                mask = MAGIC_COOKIE + self.transaction_id if kind == XOR_MAPPED_ADDRESS else b""
                parts.append(_attribute(kind, _pack_address(address, mask)))
        body = b"".join(parts)
        length = len(body) + _FINGERPRINT_SIZE * self.fingerprint
        kind_and_length = (_BINDING | self.kind).to_bytes(2, "big") + length.to_bytes(2, "big")
        message = kind_and_length + MAGIC_COOKIE + self.transaction_id + body
        if self.fingerprint:
            message += _attribute(FINGERPRINT, _fingerprint(message))
        if len(message) > MAX_ENCODED:
            raise ValueError(f"a message of {len(message)} bytes")
        return message


def padded(message: bytes, size: int) -> bytes:
    """``message`` made so long by an attribute that everybody skips: to see what length gets through.

    Args:
        message: encoded, without a fingerprint.
        size: bytes, a multiple of four at least four above those of ``message``; else it is rounded down to one, or the
            message stays as it is.
    """
    room = (size - len(message)) // 4 * 4 - 4
    if room < 0:
        return message
    length = int.from_bytes(message[2:4], "big") + 4 + room
    return message[:2] + length.to_bytes(2, "big") + message[4:] + _attribute(_FILLER, bytes(room))


def parse_stun(data: bytes) -> StunMessage:
    """Read one datagram. Work is bounded by ``MAX_SIZE``.

    Raises:
        DecodeError: not a Binding message of RFC 8489, or its fingerprint is wrong.
    """
    if not HEADER <= len(data) <= MAX_SIZE:
        raise DecodeError(f"a STUN message of {len(data)} bytes")
    kind, length = int.from_bytes(data[:2], "big"), int.from_bytes(data[2:4], "big")
    if kind & ~0x3FFF or data[4:8] != MAGIC_COOKIE or length % 4 or length != len(data) - HEADER:
        raise DecodeError("not a STUN message")
    if kind & _METHOD_BITS != _BINDING:
        raise DecodeError(f"a STUN message of type {kind:#06x}")
    found: dict[int, bytes] = {}
    not_understood: dict[int, None] = {}
    protected = False  # behind an integrity attribute nothing counts but another one and the fingerprint
    for attribute, start, end in _attributes(data):
        if attribute == FINGERPRINT:
            if end != len(data) or data[start:end] != _fingerprint(data[: start - 4]):
                raise DecodeError("a wrong fingerprint")
        elif protected:
            continue
        elif attribute in _AUTHENTICATION:
            protected = attribute in _MESSAGE_INTEGRITY
            continue
        elif attribute < 0x8000 and attribute not in _READ:
            not_understood[attribute] = None
            continue
        if attribute in _READ:
            found.setdefault(attribute, data[start:end])
    transaction_id = data[8:HEADER]
    change = _change(found.get(CHANGE_REQUEST))
    return StunMessage(
        StunClass(kind & ~_BINDING),
        transaction_id,
        _address(found.get(XOR_MAPPED_ADDRESS), MAGIC_COOKIE + transaction_id),
        _address(found.get(MAPPED_ADDRESS)),
        _read_text(found.get(SOFTWARE, b"")),
        _error(found.get(ERROR_CODE)),
        _unknown(found.get(UNKNOWN_ATTRIBUTES, b"")),
        _address(found.get(RESPONSE_ORIGIN)),
        _address(found.get(OTHER_ADDRESS)),
        bool(change & _CHANGE_IP),
        bool(change & _CHANGE_PORT),
        FINGERPRINT in found,
        tuple(not_understood),
    )


_READ = frozenset(
    {
        *(MAPPED_ADDRESS, CHANGE_REQUEST, ERROR_CODE, UNKNOWN_ATTRIBUTES, XOR_MAPPED_ADDRESS, SOFTWARE, FINGERPRINT),
        *(RESPONSE_ORIGIN, OTHER_ADDRESS),
    }
)


def _attributes(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Type, and where the value begins and ends, of each attribute."""
    at = HEADER
    while at < len(data):
        kind, size = int.from_bytes(data[at : at + 2], "big"), int.from_bytes(data[at + 2 : at + 4], "big")
        start = at + 4
        at = start + size + -size % 4
        if at > len(data):
            raise DecodeError("an attribute is cut short")
        yield kind, start, start + size


def _attribute(kind: int, value: bytes) -> bytes:
    return kind.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value + bytes(-len(value) % 4)


def _fingerprint(before: bytes) -> bytes:
    """The value of a FINGERPRINT behind ``before``, whose header counts it already (section 14.7)."""
    return (zlib.crc32(before) ^ _FINGERPRINT_XOR).to_bytes(4, "big")


def _pack_address(address: Address, mask: bytes) -> bytes:
    ip = ip_address(address.host)
    if isinstance(ip, IPv6Address):
        ip = ip.ipv4_mapped or ip
    family = 1 if isinstance(ip, IPv4Address) else 2
    if not 0 <= address.port <= 0xFFFF:
        raise ValueError(f"not a port: {address.port}")
    return bytes((0, family)) + _masked(address.port.to_bytes(2, "big"), mask) + _masked(ip.packed, mask)


def _masked(data: bytes, mask: bytes) -> bytes:
    """XOR with the beginning of ``mask``; unchanged where that is empty."""
    return bytes(a ^ b for a, b in zip(data, mask, strict=False)) if mask else data


def _address(value: bytes | None, mask: bytes = b"") -> Address | None:
    if value is None:
        return None
    size = {1: 8, 2: 20}.get(value[1] if len(value) > 1 else 0)
    if len(value) != size:
        raise DecodeError("an address of another family or length")
    port = int.from_bytes(_masked(value[2:4], mask), "big")
    packed = _masked(value[4:], mask)
    if len(packed) == 4:
        return Address(str(IPv4Address(packed)), port)
    ip = IPv6Address(packed)
    return Address(str(ip.ipv4_mapped or ip), port)


def _change(value: bytes | None) -> int:
    if value is None:
        return 0
    if len(value) != 4:
        raise DecodeError("a CHANGE-REQUEST has four bytes")
    return int.from_bytes(value, "big")


def _error(value: bytes | None) -> tuple[int, str] | None:
    if value is None:
        return None
    if len(value) < 4:
        raise DecodeError("an ERROR-CODE is cut short")
    code = (value[2] & 7) * 100 + value[3]
    if not 3 <= value[2] & 7 <= 6 or value[3] > 99:
        raise DecodeError(f"error code {code}")
    return code, _read_text(value[4:])


def _unknown(value: bytes) -> tuple[int, ...]:
    if len(value) % 2:
        raise DecodeError("UNKNOWN-ATTRIBUTES of odd length")
    return tuple(int.from_bytes(value[at : at + 2], "big") for at in range(0, len(value), 2))


def _text(text: str) -> bytes:
    encoded = text.encode()
    if len(encoded) > MAX_TEXT:
        raise ValueError(f"a text of {len(encoded)} bytes")
    return encoded


def _read_text(value: bytes) -> str:
    """Lenient, since nothing depends on it: what is not UTF-8 is left out."""
    return value[:MAX_TEXT].decode(errors="ignore")
