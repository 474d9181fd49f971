"""Datagrams: first bytes, handshake messages and the segments of records. Big-endian, fixed layout.

::

    PUNCH       type version sender-index:8   | ephemeral:32 cookie:16 zeros tag:16      PUNCH_SIZE bytes in all
    PUBLIC_KEY  type version receiver-index:8 | Noise message 2, a sealed Hello
    SHARED_KEY  type version receiver-index:8 | Noise message 3, a sealed Hello
    COOKIE      type version receiver-index:8 | cookie:16 tag:16                         COOKIE_SIZE bytes
    RECORD      record-header | segment | ciphertext
    RESEND      record-header | segment transmission:8 | ciphertext

    record-header = type epoch receiver-index:8 record-number:8 first-transmission:8 count size:2

What stands before the bar of a handshake message is its clear header, mixed into the handshake hash. The record header
is the additional data of the AEAD call, the same for all segments (with the type RECORD in a RESEND too). The segment
and the new transmission number are outside it: hints that anyone can forge.

The version governs the whole layout: there are no spare bits, and what is not described here is refused. A datagram of
another version raises :class:`UnknownVersion`, so that it can be counted apart.

Nothing here proves who sent the bytes. All functions are pure; the memoised tables of struct formats are bounded.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

from ..exceptions import DecodeError
from ..models import Address, PeerId
from .codec import Reader, encode_address, encode_prefixed

VERSION = 1
PUNCH, PUBLIC_KEY, SHARED_KEY, COOKIE, RECORD, RESEND = 0xC1, 0xC2, 0xC3, 0xC4, 0xC5, 0xC6
STUN_END = 4
"""First bytes below it are STUN's (RFC 7983 section 7)."""

RECORD_KINDS = (RECORD, RESEND)
"""The first bytes of what carries a record or a piece of one."""

TAG = 16
"""Bytes of an AES-GCM tag, and of the tag of a PUNCH."""
KEY = 32
"""Bytes of an X25519 or Ed25519 public key."""

HANDSHAKE_HEADER = 10
"""Bytes of the clear header of a handshake datagram."""
PUNCH_SIZE = 512
"""Bytes of every PUNCH: no smaller than the largest PUBLIC_KEY, so that answering a spoofed one amplifies nothing."""
COOKIE_BYTES = 16
COOKIE_SIZE = HANDSHAKE_HEADER + COOKIE_BYTES + TAG
NO_COOKIE = bytes(COOKIE_BYTES)
NO_TAG = bytes(TAG)

MAX_NAME = 64
"""Bytes of the UTF-8 form of a claimed name."""
MAX_TOKEN = 64
"""Bytes of an invite token."""
MIN_HELLO = 64
"""Bytes of a Hello without name, address and token."""
MIN_PUBLIC_KEY = HANDSHAKE_HEADER + KEY + KEY + TAG + MIN_HELLO + TAG
MAX_PUBLIC_KEY = PUNCH_SIZE
MIN_SHARED_KEY = HANDSHAKE_HEADER + KEY + TAG + MIN_HELLO + TAG
MAX_SHARED_KEY = 1000
"""Bytes of the largest SHARED_KEY: what every path must bear."""

RECORD_HEADER = 29
"""Bytes of the record header, the additional data of its AEAD call."""
RECORD_OVERHEAD = 30
"""Bytes before the ciphertext in a RECORD datagram."""
RESEND_OVERHEAD = 38
"""Bytes before the ciphertext in a RESEND datagram."""
MAX_SEGMENTS = 44
"""Datagrams of one record: what one call with segmentation offload carries at 1,452 bytes each."""
NUMBER_LIMIT = 1 << 62
"""Record and transmission numbers stay below it, because an acknowledgement writes them as variable-length integers."""

_HANDSHAKE = struct.Struct(">BBQ")
_HEADER = struct.Struct(">BBQQQBH")
_SEGMENT = struct.Struct(">BBQQQBHB")
_RESEND = struct.Struct(">BBQQQBHBQ")
_U64 = struct.Struct(">Q")
_RECORD_TYPE = bytes((RECORD,))
_SEGMENT_BYTES = tuple(bytes((segment,)) for segment in range(MAX_SEGMENTS))
FIRST_SEGMENT = _SEGMENT_BYTES[0]
"""What stands between the header and the ciphertext of a record of one datagram."""
_SEGMENT_BYTES_UPTO = tuple(_SEGMENT_BYTES[:count] for count in range(MAX_SEGMENTS + 1))
_FORMATS_KEPT = 256
_MIN_CIPHERTEXT = TAG + 1
_tuple = tuple.__new__  # half the cost of calling a NamedTuple's class
_PUNCH_PADDING = bytes(PUNCH_SIZE - HANDSHAKE_HEADER - KEY - COOKIE_BYTES - TAG)


class UnknownVersion(DecodeError):
    """A handshake datagram of a version that we do not speak. The right answer is silence."""


class Kind(Enum):
    """What a datagram claims to be by its first byte."""

    STUN = "stun"
    PUNCH = "punch"
    PUBLIC_KEY = "public_key"
    SHARED_KEY = "shared_key"
    COOKIE = "cookie"
    RECORD = "record"
    RESEND = "resend"
    UNKNOWN = "unknown"


_BY_FIRST_BYTE = {
    **dict.fromkeys(range(STUN_END), Kind.STUN),
    PUNCH: Kind.PUNCH,
    PUBLIC_KEY: Kind.PUBLIC_KEY,
    SHARED_KEY: Kind.SHARED_KEY,
    COOKIE: Kind.COOKIE,
    RECORD: Kind.RECORD,
    RESEND: Kind.RESEND,
}
_KINDS = tuple(_BY_FIRST_BYTE.get(byte, Kind.UNKNOWN) for byte in range(256))


def kind_of(first_byte: int) -> Kind:
    """What a datagram with this first byte (0 to 255) is to be read as."""
    return _KINDS[first_byte]


# --- handshake ---


class Punch(NamedTuple):
    """A parsed PUNCH. ``message`` is Noise message 1: the ephemeral key and its clear payload."""

    header: bytes
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    ephemeral: bytes
    cookie: bytes
    tag: bytes
    message: bytes

    @property
    def tagged_bytes(self) -> bytes:
        """What the tag covers: everything before it."""
        return self.header + self.message[:-TAG]


class HandshakeMessage(NamedTuple):
    """A parsed PUBLIC_KEY or SHARED_KEY: clear header, the receiver's index, Noise message."""

    header: bytes
    index: int  # type: ignore[assignment]  # as above
    message: bytes


class CookieReply(NamedTuple):
    """A parsed COOKIE: clear header, the receiver's index, the cookie and a tag keyed by the sender's PeerId."""

    header: bytes
    index: int  # type: ignore[assignment]  # as above
    cookie: bytes
    tag: bytes

    @property
    def tagged_bytes(self) -> bytes:
        """What the tag covers: everything before it."""
        return self.header + self.cookie


def punch_header(index: int) -> bytes:
    """The clear header of a PUNCH; ``index`` (64 bits, not zero) is where the sender wants the answer.

    The datagram is this header followed by Noise message 1 with the payload that :func:`punch_payload` makes.
    """
    return _handshake_header(PUNCH, index)


def public_key_header(index: int) -> bytes:
    """The clear header of a PUBLIC_KEY; ``index`` is the one its PUNCH named. The Noise message follows it."""
    return _handshake_header(PUBLIC_KEY, index)


def shared_key_header(index: int) -> bytes:
    """The clear header of a SHARED_KEY; ``index`` is the one in the Hello it answers. The Noise message follows it."""
    return _handshake_header(SHARED_KEY, index)


def punch_payload(
    header: bytes, ephemeral: bytes, cookie: bytes = NO_COOKIE, tag_of: Callable[[bytes], bytes] | None = None
) -> bytes:
    """The clear Noise payload of a PUNCH: cookie, padding and tag.

    Args:
        header: from :func:`punch_header`.
        ephemeral: our ephemeral public key, as Noise message 1 shows it.
        cookie: from a COOKIE; ``NO_COOKIE`` without one.
        tag_of: gives the tag over all preceding bytes; None leaves the punch untagged (zeros).
    """
    if len(header) != HANDSHAKE_HEADER or len(ephemeral) != KEY or len(cookie) != COOKIE_BYTES:
        raise ValueError("a header, key or cookie has the wrong length")
    body = cookie + _PUNCH_PADDING
    tag = NO_TAG if tag_of is None else tag_of(header + ephemeral + body)
    if len(tag) != TAG:
        raise ValueError("the tag has the wrong length")
    return body + tag


def parse_punch(datagram: bytes) -> Punch:
    """The parts of a PUNCH, none of them verified.

    Raises:
        UnknownVersion: of another version.
        DecodeError: wrong type, length or index, or padding that is not zero.
    """
    header, index, message = _parse_handshake(datagram, PUNCH, PUNCH_SIZE, PUNCH_SIZE)
    if message[KEY + COOKIE_BYTES : -TAG] != _PUNCH_PADDING:
        raise DecodeError("the padding is not zero")
    return Punch(header, index, message[:KEY], message[KEY : KEY + COOKIE_BYTES], message[-TAG:], message)


def parse_public_key(datagram: bytes) -> HandshakeMessage:
    """The parts of a PUBLIC_KEY; errors as for :func:`parse_punch`."""
    return _parse_handshake(datagram, PUBLIC_KEY, MIN_PUBLIC_KEY, MAX_PUBLIC_KEY)


def parse_shared_key(datagram: bytes) -> HandshakeMessage:
    """The parts of a SHARED_KEY; errors as for :func:`parse_punch`."""
    return _parse_handshake(datagram, SHARED_KEY, MIN_SHARED_KEY, MAX_SHARED_KEY)


def build_cookie(index: int, cookie: bytes, tag_of: Callable[[bytes], bytes]) -> bytes:
    """A COOKIE datagram; ``index`` is the one its PUNCH named, ``tag_of`` gives the tag over all preceding bytes."""
    body = _handshake_header(COOKIE, index) + cookie
    tag = tag_of(body)
    if len(cookie) != COOKIE_BYTES or len(tag) != TAG:
        raise ValueError("the cookie or its tag has the wrong length")
    return body + tag


def parse_cookie(datagram: bytes) -> CookieReply:
    """The parts of a COOKIE; errors as for :func:`parse_punch`, and an empty cookie is refused."""
    header, index, body = _parse_handshake(datagram, COOKIE, COOKIE_SIZE, COOKIE_SIZE)
    cookie = body[:COOKIE_BYTES]
    if cookie == NO_COOKIE:
        raise DecodeError("an empty cookie")
    return CookieReply(header, index, cookie, body[COOKIE_BYTES:])


def _handshake_header(kind: int, index: int) -> bytes:
    if not 0 < index < 1 << 64:
        raise ValueError(f"not an index: {index}")
    return _HANDSHAKE.pack(kind, VERSION, index)


def _parse_handshake(datagram: bytes, expected: int, shortest: int, longest: int) -> HandshakeMessage:
    if len(datagram) < HANDSHAKE_HEADER:
        raise DecodeError("shorter than a handshake header")
    kind, version, index = _HANDSHAKE.unpack_from(datagram)
    if kind != expected:
        raise DecodeError(f"type {kind:#x} where {expected:#x} was expected")
    if version != VERSION:  # before the length, which another version may have changed
        raise UnknownVersion(f"version {version}")
    if not shortest <= len(datagram) <= longest:
        raise DecodeError(f"{len(datagram)} bytes where {shortest} to {longest} are allowed")
    if index == 0:
        raise DecodeError("index zero")
    return HandshakeMessage(datagram[:HANDSHAKE_HEADER], index, datagram[HANDSHAKE_HEADER:])


_EPHEMERAL_IDENTITY = 0x01


@dataclass(frozen=True, slots=True)
class Hello:
    """What each side says of itself under seal in PUBLIC_KEY and SHARED_KEY.

    ::

        peer-id:32 instance:16 generation:4 flags index:8 | name observed-address token

    Flag bit 0 marks an ephemeral identity; a set bit without a meaning is refused, since the version governs.

    Attributes:
        peer_id: claimed; must map to the static key that the handshake proved.
        instance: 16 random bytes, one run of the program.
        generation: number of the session between the two instances, 32 bits.
        ephemeral_identity: the identity lives no longer than the program.
        name: claimed name, at most ``MAX_NAME`` bytes of UTF-8. Not cleaned, not to be trusted.
        index: the sender's receive index, 64 bits, not zero.
        observed: the receiver's address as the sender sees it.
        token: invite token, at most ``MAX_TOKEN`` bytes, empty without one.
    """

    peer_id: PeerId
    instance: bytes
    generation: int
    ephemeral_identity: bool
    name: str
    index: int
    observed: Address | None = None
    token: bytes = b""

    def encode(self) -> bytes:
        """The bytes that are sealed.

        Raises:
            ValueError: a field does not fit.
        """
        if len(self.instance) != 16 or not 0 < self.index < 1 << 64 or not 0 <= self.generation < 1 << 32:
            raise ValueError("an instance, generation or index is out of range")
        return b"".join(
            (
                self.peer_id.key,
                self.instance,
                self.generation.to_bytes(4, "big"),
                b"\x01" if self.ephemeral_identity else b"\x00",
                self.index.to_bytes(8, "big"),
                encode_prefixed(self.name.encode(), MAX_NAME),
                encode_address(self.observed),
                encode_prefixed(self.token, MAX_TOKEN),
            )
        )

    @classmethod
    def decode(cls, payload: bytes) -> Hello:
        """Read what ``encode`` wrote.

        Raises:
            DecodeError: too short, too long, an unknown flag, index zero, or a name that is not UTF-8.
        """
        reader = Reader(payload)
        peer_id, instance, generation = PeerId(reader.take(32)), reader.take(16), reader.u32()
        flags, index = reader.u8(), reader.u64()
        if flags & ~_EPHEMERAL_IDENTITY:
            raise DecodeError("unknown flags")
        if index == 0:
            raise DecodeError("index zero")
        name, observed, token = reader.text(MAX_NAME), reader.optional_address(), reader.prefixed(MAX_TOKEN)
        reader.finish()
        return cls(peer_id, instance, generation, bool(flags), name, index, observed, token)


# --- records ---


class RecordHeader(NamedTuple):
    """What all segments of a record share and its AEAD call authenticates.

    Attributes:
        epoch: key epoch, 8 bits.
        index: the receiver's index, 64 bits.
        number: record number, the nonce; below ``NUMBER_LIMIT``.
        first: transmission number of segment 0 on the first flight; the others follow it.
        count: segments, 1 to ``MAX_SEGMENTS``.
        size: bytes of ciphertext in every segment but the last, which may be shorter; 1 to 65,535.
    """

    epoch: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    number: int
    first: int
    count: int  # type: ignore[assignment]  # as above
    size: int

    def pack(self) -> bytes:
        """The ``RECORD_HEADER`` bytes that are the AEAD call's additional data.

        Raises:
            struct.error: a field has more bits than its place.
        """
        return _HEADER.pack(RECORD, *self)


class Segment(NamedTuple):
    """One parsed RECORD or RESEND datagram.

    Attributes:
        header: of its record.
        aad: the packed header, as a RECORD shows it.
        segment: which one, below ``header.count``.
        transmission: its transmission number; a hint until the record opened, and after that too when ``resent``.
        resent: it came as a RESEND.
        payload: its piece of the ciphertext.
    """

    header: RecordHeader
    aad: bytes
    segment: int
    transmission: int
    resent: bool
    payload: bytes


class Pieces(NamedTuple):
    """Several parsed RECORD datagrams of one record.

    Attributes:
        header, aad: as of a :class:`Segment`.
        segments: which ones, a byte each, in the order in which they came.
        payloads: their pieces of the ciphertext.
        following: the offset of what stands behind them.
    """

    header: RecordHeader
    aad: bytes
    segments: bytes
    payloads: tuple[bytes, ...]
    following: int


def parse_segment(datagram: bytes) -> Segment:
    """The parts of a RECORD or RESEND datagram.

    Raises:
        DecodeError: a length, count or number that no honest sender writes.
    """
    length = len(datagram)
    if length <= RECORD_OVERHEAD:
        raise DecodeError("shorter than a segment")
    kind, epoch, index, number, first, count, size, segment = _SEGMENT.unpack_from(datagram)
    if not 0 < count <= MAX_SEGMENTS or segment >= count:
        raise DecodeError("a segment outside its record")
    if number >= NUMBER_LIMIT or first > NUMBER_LIMIT - count:
        raise DecodeError("a number beyond the limit")
    if kind == RECORD:
        resent = False
        transmission = first + segment
        aad = datagram[:RECORD_HEADER]
        length -= RECORD_OVERHEAD
        payload = datagram[RECORD_OVERHEAD:]
    elif kind == RESEND:
        if count == 1 or length <= RESEND_OVERHEAD:
            raise DecodeError("not a segment that may be sent again")
        resent = True
        (transmission,) = _U64.unpack_from(datagram, RECORD_OVERHEAD)
        if transmission >= NUMBER_LIMIT:
            raise DecodeError("a number beyond the limit")
        aad = _RECORD_TYPE + datagram[1:RECORD_HEADER]
        length -= RESEND_OVERHEAD
        payload = datagram[RESEND_OVERHEAD:]
    else:
        raise DecodeError(f"type {kind:#x} is not a segment")
    if count == 1:
        if length != size or size < _MIN_CIPHERTEXT:
            raise DecodeError("a length that the header does not state")
    elif length > size or (length < size and segment != count - 1):
        raise DecodeError("a length that the header does not state")
    header = _tuple(RecordHeader, (epoch, index, number, first, count, size))
    return _tuple(Segment, (header, aad, segment, transmission, resent, payload))


def parse_run(buffer: bytes, offset: int, segment_size: int) -> tuple[RecordHeader, bytes, bytes, int] | None:
    """The whole record at ``offset``: header, its packed form, the ciphertext, and the offset of what follows it.

    The fast way through a received batch: one join instead of a parse for each datagram. None if its first flight does
    not lie there in order, whole and with equal headers; read datagram by datagram then.

    Args:
        buffer: datagrams back to back, each ``segment_size`` bytes, the last may be shorter.
        offset: where a datagram begins.
        segment_size: bytes of a datagram on the wire.
    """
    end = len(buffer)
    begin = offset + RECORD_OVERHEAD
    if end <= begin:
        return None
    kind, epoch, index, number, first, count, size, segment = _SEGMENT.unpack_from(buffer, offset)
    if kind != RECORD or segment or number >= NUMBER_LIMIT or first > NUMBER_LIMIT - count:
        return None
    aad = buffer[offset : offset + RECORD_HEADER]
    if count == 1:
        if offset + segment_size < end:
            end = offset + segment_size
        if end - begin != size or size < _MIN_CIPHERTEXT:
            return None
        ciphertext = buffer[begin:end]
    elif not 0 < count <= MAX_SEGMENTS:
        return None
    else:
        last = offset + (count - 1) * segment_size
        if last + segment_size < end:
            end = last + segment_size
        if size + RECORD_OVERHEAD != segment_size or end - last <= RECORD_OVERHEAD:
            return None
        # One unpack finds all headers and one all pieces: half the cost of comparing columns, a third of slicing
        # segment by segment.
        heads = _heads(count, size)(buffer, offset)
        if heads[0::2].count(aad) != count or heads[1::2] != _SEGMENT_BYTES_UPTO[count]:
            return None
        ciphertext = b"".join((*_bodies(count - 1, size)(buffer, offset), buffer[last + RECORD_OVERHEAD : end]))
    return _tuple(RecordHeader, (epoch, index, number, first, count, size)), aad, ciphertext, end


def parse_pieces(buffer: bytes, offset: int, segment_size: int) -> Pieces | None:
    """Several datagrams of the first flight of one record that stand one after the other at ``offset``.

    The fast way where :func:`parse_run` says None because some were lost; takes as many as fit together. None if there
    are not two such; then read datagram by datagram. Arguments as for :func:`parse_run`.
    """
    end = len(buffer)
    if segment_size <= RECORD_OVERHEAD or end - offset < 2 * segment_size:
        return None
    most = (end - offset) // segment_size
    kind, epoch, index, number, first, count, size, _ = _SEGMENT.unpack_from(buffer, offset)
    if (
        kind != RECORD
        or size + RECORD_OVERHEAD != segment_size
        or not 1 < count <= MAX_SEGMENTS
        or number >= NUMBER_LIMIT
        or first > NUMBER_LIMIT - count
    ):
        return None
    taken = most if most < count else count
    aad = buffer[offset : offset + RECORD_HEADER]
    heads = _heads(taken, size)(buffer, offset)
    if heads[0::2].count(aad) != taken:
        taken = next(place for place, head in enumerate(heads[0::2]) if head != aad)
        if taken < 2:
            return None
    segments = b"".join(heads[1 : 2 * taken : 2])
    if max(segments) >= count:
        return None
    payloads = _bodies(taken, size)(buffer, offset)
    following = offset + taken * segment_size
    if taken == most and following + RECORD_OVERHEAD < end < following + segment_size:
        last = _SEGMENT_BYTES[count - 1]  # nothing else of the record is shorter
        if buffer[following : following + RECORD_OVERHEAD] == aad + last:
            segments += last
            payloads += (buffer[following + RECORD_OVERHEAD :],)
            following = end
    header = _tuple(RecordHeader, (epoch, index, number, first, count, size))
    return _tuple(Pieces, (header, aad, segments, payloads, following))


def cut_record(header: RecordHeader, ciphertext: bytes, aad: bytes | None = None) -> bytes:
    """All datagrams of a record's first flight back to back, ready for segmentation offload.

    Each is ``RECORD_OVERHEAD + header.size`` bytes long, the last may be shorter.

    Args:
        aad: ``header.pack()`` where the caller has it already.

    Raises:
        ValueError: the ciphertext does not have the length that the header states.
    """
    _check_length(header, len(ciphertext))
    if aad is None:
        aad = header.pack()
    count, size = header.count, header.size
    if count == 1:
        return aad + FIRST_SEGMENT + ciphertext
    parts = [aad] * (3 * count)
    parts[1::3] = _SEGMENT_BYTES_UPTO[count]
    parts[2::3] = (*_pieces(count - 1, size)(ciphertext), ciphertext[(count - 1) * size :])
    return b"".join(parts)


def resend_segment(header: RecordHeader, ciphertext: bytes, segment: int, transmission: int) -> bytes:
    """One RESEND datagram, ``RESEND_OVERHEAD - RECORD_OVERHEAD`` bytes longer than its RECORD was.

    Args:
        ciphertext: the stored bytes of the whole record, as they were sealed.
        transmission: a new transmission number.

    Raises:
        ValueError: a record of one datagram (it is never sent twice), no such segment, or a wrong length or number.
    """
    _check_length(header, len(ciphertext))
    if header.count == 1 or not 0 <= segment < header.count or not 0 <= transmission < NUMBER_LIMIT:
        raise ValueError("no such segment, or one that is never sent again")
    start = segment * header.size
    return _RESEND.pack(RESEND, *header, segment, transmission) + ciphertext[start : start + header.size]


def _check_length(header: RecordHeader, length: int) -> None:
    count, size = header.count, header.size
    if not 0 < count <= MAX_SEGMENTS or not (count - 1) * size < length <= count * size or length < _MIN_CIPHERTEXT:
        raise ValueError(f"{length} bytes of ciphertext cannot be {count} segments of {size}")
    if count == 1 and length != size:
        raise ValueError(f"{length} bytes of ciphertext cannot be one segment of {size}")


@lru_cache(_FORMATS_KEPT)
def _heads(count: int, size: int) -> Callable[[bytes, int], tuple[bytes, ...]]:
    """Unpacks header and segment byte of ``count`` datagrams, alternating."""
    head = f"{RECORD_HEADER}s1s"
    return struct.Struct(head + f"{size}x{head}" * (count - 1)).unpack_from


@lru_cache(_FORMATS_KEPT)
def _bodies(count: int, size: int) -> Callable[[bytes, int], tuple[bytes, ...]]:
    """Unpacks the ciphertext of ``count`` datagrams of full size."""
    return struct.Struct(f"{RECORD_OVERHEAD}x{size}s" * count).unpack_from


@lru_cache(_FORMATS_KEPT)
def _pieces(count: int, size: int) -> Callable[[bytes], tuple[bytes, ...]]:
    """Cuts the first ``count`` pieces of ``size`` bytes off a ciphertext."""
    return struct.Struct(f"{size}s" * count).unpack_from
