"""The six messages of a file transfer, as values and as bytes. FILES.md describes them. Pure functions, no state.

Reading raises :class:`~srmudp.exceptions.DecodeError` and nothing else, whatever the bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

from ..exceptions import DecodeError
from ..wire.codec import Reader, encode_prefixed, encode_varint
from .names import MAX_PATH, MAX_SENT, check_path, safe_name

CHANNEL = 40
"""The channel all of it travels on."""
CHUNK = 256 * 1024
"""Bytes of a file in one message, at most, as we send them."""
MAX_CHUNK = 1024 * 1024
"""The same as we accept them."""
MAX_FILES = 10_000
"""Files in one offer."""
MAX_OFFER = 1024 * 1024
"""Bytes of an offer."""
MAX_REASON = 200
"""Bytes of UTF-8 of a reason."""
ID = 8
HASH = 32


class Kind(IntEnum):
    """The first byte of a message."""

    OFFER = 1
    ACCEPT = 2
    STOP = 3
    CHUNK = 4
    DONE = 5
    UNKNOWN = 6


class Code(IntEnum):
    """Why a transfer was stopped. A number that is not listed here counts as ``FAULT``."""

    REFUSED = 1
    CANCELLED = 2
    NO_ROOM = 3
    TOO_MANY = 4
    CHANGED = 5
    DAMAGED = 6
    FAULT = 7


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of an offer: its path inside the folder (``""`` if it is offered by itself), size and SHA-256."""

    path: str
    size: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Offer:
    """ "Will you have this?" One file, or a folder with all that is in it."""

    id: bytes
    name: str
    is_folder: bool
    entries: tuple[Entry, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.entries)

    @property
    def digest(self) -> bytes:
        """The same for the same content under the same name, whoever offers it and however often."""
        return hashlib.sha256(b"srmudp files" + encode(self)[1 + ID :]).digest()


@dataclass(frozen=True, slots=True)
class Have:
    """Of file ``index`` the first ``offset`` bytes are there already; ``sha256`` is theirs."""

    index: int
    offset: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Accept:
    """ "Send it." ``attempt`` stands in every chunk, so that those of an earlier attempt are told apart."""

    id: bytes
    attempt: int
    have: tuple[Have, ...] = ()


@dataclass(frozen=True, slots=True)
class Stop:
    """No, or not any more; from either side, final."""

    id: bytes
    code: Code
    reason: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes of file ``index`` from ``offset`` on."""

    id: bytes
    attempt: int
    index: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Done:
    """All of it is there, compared with the hashes and in its place."""

    id: bytes


@dataclass(frozen=True, slots=True)
class Unknown:
    """ "I know nothing of that transfer": the receiving program was restarted. The sender offers it again."""

    id: bytes


FileMessage = Offer | Accept | Stop | Chunk | Done | Unknown


def encode(message: FileMessage) -> bytes:
    """The bytes of a message.

    Raises:
        ValueError: a field is out of its range; our own mistake.
    """
    match message:
        case Offer():
            parts = [bytes((Kind.OFFER,)), message.id, _text(message.name, MAX_SENT), bytes((message.is_folder,))]
            if message.is_folder:
                parts.append(encode_varint(len(message.entries)))
            for entry in message.entries:
                if message.is_folder:
                    parts.append(_text(entry.path, MAX_PATH))
                parts += [encode_varint(entry.size), entry.sha256]
        case Accept():
            parts = [bytes((Kind.ACCEPT,)), message.id, encode_varint(message.attempt)]
            parts.append(encode_varint(len(message.have)))
            for have in message.have:
                parts += [encode_varint(have.index), encode_varint(have.offset), have.sha256]
        case Stop():
            reason = message.reason.encode("utf-8", "replace")[:MAX_REASON].decode("utf-8", "ignore")
            parts = [bytes((Kind.STOP,)), message.id, encode_varint(message.code), _text(reason, MAX_REASON)]
        case Chunk():
            head = bytes((Kind.CHUNK,)) + message.id + encode_varint(message.attempt) + encode_varint(message.index)
            parts = [head, encode_varint(message.offset), message.data]
        case Done():
            parts = [bytes((Kind.DONE,)), message.id]
        case Unknown():
            parts = [bytes((Kind.UNKNOWN,)), message.id]
    return b"".join(parts)


def decode(data: bytes) -> FileMessage:
    """The message that ``data`` is.

    Raises:
        DecodeError: none; the text says why, without quoting it.
    """
    reader = Reader(data)
    try:
        kind = Kind(reader.u8())
    except ValueError:
        raise DecodeError("an unknown kind of message") from None
    id_ = reader.take(ID)
    message: FileMessage
    if kind is Kind.CHUNK:
        attempt, index, offset = reader.varint(), reader.varint(), reader.varint()
        if not 1 <= reader.remaining <= MAX_CHUNK:
            raise DecodeError(f"a chunk of {reader.remaining} bytes")
        return Chunk(id_, attempt, index, offset, reader.take(reader.remaining))
    if kind is Kind.OFFER:
        message = _offer(reader, id_)
    elif kind is Kind.ACCEPT:
        attempt, count = reader.varint(), reader.varint()
        if count > MAX_FILES:
            raise DecodeError(f"{count} files, at most {MAX_FILES} are allowed")
        have = (Have(reader.varint(), reader.varint(), reader.take(HASH)) for _ in range(count))
        message = Accept(id_, attempt, tuple(have))
    elif kind is Kind.STOP:
        number = reader.varint()
        code = Code(number) if number in Code._value2member_map_ else Code.FAULT
        message = Stop(id_, code, reader.text(MAX_REASON))
    elif kind is Kind.DONE:
        message = Done(id_)
    else:
        message = Unknown(id_)
    reader.finish()
    return message


def _offer(reader: Reader, id_: bytes) -> Offer:
    if len(reader.data) > MAX_OFFER:
        raise DecodeError(f"an offer of {len(reader.data)} bytes, at most {MAX_OFFER} are allowed")
    name = reader.text(MAX_SENT)
    safe_name(name)
    kind = reader.u8()
    if kind > 1:
        raise DecodeError("neither a file nor a folder")
    count = reader.varint() if kind else 1
    if count > MAX_FILES:
        raise DecodeError(f"{count} files, at most {MAX_FILES} are allowed")
    entries: list[Entry] = []
    for _ in range(count):
        path = reader.text(MAX_PATH) if kind else ""
        entries.append(Entry(path, reader.varint(), reader.take(HASH)))
    if kind:
        _check_tree(entries)
    if sum(entry.size for entry in entries) >= 1 << 62:
        raise DecodeError("larger than any disk")
    return Offer(id_, name, bool(kind), tuple(entries))


def _check_tree(entries: Sequence[Entry]) -> None:
    """No path twice, and none that is a file here and a folder there."""
    paths = sorted(check_path(entry.path) for entry in entries)
    for one, other in pairwise(paths):  # in this order whatever begins with a path comes right behind it
        if other[: len(one)] == one:
            raise DecodeError("a file that is there twice, or is a folder too")


def _text(text: str, maximum: int) -> bytes:
    return encode_prefixed(text.encode(), maximum)
