"""What a record carries: frames, one class each, reading beside writing.

A frame is a type byte and its fields: variable-length integers unless the class says otherwise; a channel is one byte
below ``CHANNELS``. A record is nothing but frames; an unknown type is refused, since the version of the handshake
governs. Reading checks what can be checked without state and raises ``DecodeError`` only; writing raises ``ValueError``
for what no reader would accept. What a number *means* (never sent, beyond credit, too large) is for the protocol.

The five frames that come with every message or record are named tuples, because building one costs 0.2 µs against 1 µs
for a frozen dataclass; the rest are dataclasses. Mind that a tuple equals any tuple with the same items: tell frames
apart by class, not by ``==``.

A part that is most of its record and longer than ``COPY_LIMIT`` is a view of it: whoever keeps one keeps the record.
All others are copied out as ``bytes``, so that a short part cannot keep a long record alive.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Final, NamedTuple

from ..config import CHANNELS
from ..exceptions import DecodeError
from ..models import Address, Candidate, CandidateKind
from .codec import ONE_BYTE, VARINT_MAX, Reader, encode_address, encode_prefixed, encode_varint, read_varint

PADDING: Final = 0x00
PING: Final = 0x01
ACK: Final = 0x02
SESSION_START: Final = 0x03
MESSAGE_PART: Final = 0x04
UNRELIABLE_PART: Final = 0x05
TAKEN: Final = 0x06
GRANT: Final = 0x07
WITHDRAWN: Final = 0x08
CLOSE: Final = 0x09
PATH_CHALLENGE: Final = 0x0A
PATH_RESPONSE: Final = 0x0B
KEY_UPDATE: Final = 0x0C
KEY_UPDATE_REPLY: Final = 0x0D
SINGLE_ONLY: Final = 0x0E
WINDOW: Final = 0x0F
OBSERVED_ADDRESS: Final = 0x10
ESTABLISHED: Final = 0x11
CANDIDATES: Final = 0x12

MAX_FRAMES = 1024
"""Frames read from one record; a run of padding counts as one."""
MAX_RANGES = 64
"""Ranges in each of the three lists of an Ack."""
MAX_ACKS = 8
"""Acks read from one record. An honest one has one; many full ones would cost 10 ms to read, and more to act upon."""
MAX_STARTS = 8
"""SessionStarts read from one record, likewise: of 64 channels each, as many as fit would cost a tenth of a second."""
MAX_CANDIDATES = 16
"""Addresses in a Candidates."""
MAX_LISTS = 4
"""Candidates read from one record, likewise: an honest one has one."""
CANDIDATE_KINDS = (
    CandidateKind.HOST,
    CandidateKind.PEER_REFLEXIVE,
    CandidateKind.SERVER_REFLEXIVE,
    CandidateKind.MAPPED,
    CandidateKind.GIVEN,
)
"""What their kinds are on the wire: the place in this list."""
MAX_REASON = 128
"""Bytes of the UTF-8 text in a Close."""
COPY_LIMIT = 1024
"""Parts of messages up to this many bytes are copied out of the record."""
PART_HEADER = 18
"""Bytes :func:`message_part_header` takes while sequence and total are below 2^30."""
MAX_PART_HEADER = 34
"""Bytes it takes at most."""

Ranges = tuple[tuple[int, int], ...]
"""Numbers as (first, last), both included, descending, with at least one number missing between two ranges."""

_ZEROS = re.compile(rb"\x00+")
# Writers know two forms of fixed width: a message of one part below 16 KiB, and anything with numbers below 2^30.
_WHOLE = struct.Struct(">BBIBHH")
_PARTS = (MESSAGE_PART, UNRELIABLE_PART)
_WHOLE_SIZE = _WHOLE.size
_pack_whole, _unpack_whole = _WHOLE.pack, _WHOLE.unpack_from
_PART = struct.Struct(">BBIIII")
_tuple = tuple.__new__


def _channel(reader: Reader) -> int:
    channel = reader.u8()
    if channel >= CHANNELS:
        raise DecodeError(f"channel {channel}")
    return channel


def _channel_byte(channel: int) -> bytes:
    if not 0 <= channel < CHANNELS:
        raise ValueError(f"not a channel: {channel}")
    return bytes((channel,))


@dataclass(frozen=True, slots=True)
class Padding:
    """``size`` zero bytes, each of them a frame; a run is read as one. Not to be acknowledged."""

    size: int = 1

    def serialise(self) -> bytes:
        if self.size < 1:
            raise ValueError("no padding")
        return bytes(self.size)


@dataclass(frozen=True, slots=True)
class Ping:
    """Asks for an acknowledgement."""

    def serialise(self) -> bytes:
        return b"\x01"

    @classmethod
    def parse(cls, reader: Reader) -> Ping:
        return cls()


class Ack(NamedTuple):
    """Acknowledges: delay, then three lists of ranges.

    Attributes:
        delay_us: microseconds from the newest record opened to this frame.
        opened: record numbers that were authenticated.
        transmissions: transmission numbers that arrived, hints included.
        discarded: record numbers whose segments were given up; their information is wanted anew.

    A list is its count, then the largest number and its range's length - 1, then for each further range the numbers
    missing before it - 1 and its length - 1 (as in RFC 9000 section 19.3.1).
    """

    delay_us: int
    opened: Ranges
    transmissions: Ranges = ()
    discarded: Ranges = ()

    def serialise(self) -> bytes:
        """Raises ``ValueError`` for ranges that are not as :data:`Ranges` says, or more than ``MAX_RANGES``."""
        numbers = [self.delay_us]
        for ranges in (self.opened, self.transmissions, self.discarded):
            if len(ranges) > MAX_RANGES:
                raise ValueError(f"{len(ranges)} ranges")
            numbers.append(len(ranges))
            above = None
            for first, last in ranges:
                if first < 0 or last > VARINT_MAX:
                    raise ValueError(f"range {first} to {last}")
                numbers.append(last if above is None else above - last - 2)
                numbers.append(last - first)
                above = first
        return b"\x02" + b"".join([ONE_BYTE[n] if 0 <= n < 0x40 else encode_varint(n) for n in numbers])

    @classmethod
    def parse(cls, reader: Reader) -> Ack:
        """Work and memory are bounded by ``MAX_RANGES``, whatever the numbers."""
        data, offset = reader.data, reader.offset
        delay_us, offset = read_varint(data, offset)
        opened, offset = _parse_ranges(data, offset)
        transmissions, offset = _parse_ranges(data, offset)
        discarded, reader.offset = _parse_ranges(data, offset)
        return _tuple(cls, (delay_us, opened, transmissions, discarded))


def _parse_ranges(data: bytes, offset: int) -> tuple[Ranges, int]:
    count, offset = read_varint(data, offset)
    if count == 0:
        return (), offset
    if count > MAX_RANGES:
        raise DecodeError(f"{count} ranges")
    last, offset = read_varint(data, offset)
    length, offset = read_varint(data, offset)
    first = last - length
    if count == 1 and first >= 0:
        return ((first, last),), offset
    ranges = [(first, last)]
    end = len(data)
    for _ in range(count - 1):
        if offset < end and (gap := data[offset]) < 0x40:  # saves most of the calls
            offset += 1
        else:
            gap, offset = read_varint(data, offset)
        if offset < end and (length := data[offset]) < 0x40:
            offset += 1
        else:
            length, offset = read_varint(data, offset)
        last = first - gap - 2
        first = last - length
        ranges.append((first, last))
    if first < 0:  # the last is the lowest: no need to look at the others
        raise DecodeError("ranges below zero")
    return tuple(ranges), offset


@dataclass(frozen=True, slots=True)
class ChannelState:
    """Where a channel stands when a session starts.

    Attributes:
        channel: which.
        first: sequence of the oldest message that the sender of this frame still holds, or of its next one.
        expected: sequence it expects next from the other side; None if it knows nothing of that instance.
    """

    channel: int
    first: int
    expected: int | None = None


@dataclass(frozen=True, slots=True)
class SessionStart:
    """Limits of the sender and the state of its channels, one byte of channel, ``first`` and ``expected`` + 1 each.

    Idempotent: the same frame again says the same.

    Attributes:
        memory: 8 random bytes, drawn when the sender began to remember this peer. Others than before mean that it
            remembers nothing: both directions start anew.
        about: the ``memory`` of the receiver that ``channels`` speaks of; zeros if the sender knows none.
        max_ack_delay_us: microseconds it may hold an acknowledgement back.
        channel_window: bytes it takes in one channel.
        connection_window: bytes it takes in all channels.
        max_message_size: largest message it takes, bytes.
        receive_buffer: bytes its system keeps of what has come and is not read yet; 0 if it does not know. It counts
            its own overhead too.
        channels: those in use, each once.
    """

    memory: bytes
    about: bytes
    max_ack_delay_us: int
    channel_window: int
    connection_window: int
    max_message_size: int
    channels: tuple[ChannelState, ...] = ()
    receive_buffer: int = 0

    def serialise(self) -> bytes:
        """Raises ``ValueError`` if a channel comes twice, or a memory is not 8 bytes or zero."""
        if len(self.memory) != 8 or len(self.about) != 8 or not any(self.memory):
            raise ValueError("a memory is 8 bytes")
        if len({state.channel for state in self.channels}) != len(self.channels):
            raise ValueError("a channel comes twice")
        limits = (
            *(self.max_ack_delay_us, self.channel_window, self.connection_window, self.max_message_size),
            self.receive_buffer,
        )
        parts = [b"\x03", self.memory, self.about, *map(encode_varint, limits), encode_varint(len(self.channels))]
        for state in self.channels:
            parts.append(_channel_byte(state.channel))
            parts.append(encode_varint(state.first))
            parts.append(encode_varint(0 if state.expected is None else state.expected + 1))
        return b"".join(parts)

    @classmethod
    def parse(cls, reader: Reader) -> SessionStart:
        """Refuses a channel that comes twice."""
        memory, about = reader.take(8), reader.take(8)
        if not any(memory):
            raise DecodeError("a memory of zeros")
        limits = (reader.varint(), reader.varint(), reader.varint(), reader.varint())
        receive_buffer, count = reader.varint(), reader.varint()
        if count > CHANNELS:
            raise DecodeError(f"{count} channels")
        channels = []
        for _ in range(count):
            channel, first, expected = _channel(reader), reader.varint(), reader.varint()
            channels.append(ChannelState(channel, first, expected - 1 if expected else None))
        if len({state.channel for state in channels}) != count:
            raise DecodeError("a channel comes twice")
        return cls(memory, about, *limits, tuple(channels), receive_buffer)


class MessagePart(NamedTuple):
    """Bytes ``offset`` to ``offset + len(data)`` of message ``sequence`` of a channel, which is ``total`` bytes long.

    Fields, then the length of the data and the data. Empty only if the whole message is. Idempotent by channel,
    sequence and offset.
    """

    channel: int
    sequence: int
    offset: int
    total: int
    data: bytes | memoryview

    def serialise(self) -> bytes:
        """Raises ``ValueError`` for a part that does not lie in its message."""
        return _serialise_part(MESSAGE_PART, *self)


class UnreliablePart(NamedTuple):
    """The same of an unreliable message, which ``identifier`` tells from all others, whatever their channel."""

    channel: int
    identifier: int
    offset: int
    total: int
    data: bytes | memoryview

    def serialise(self) -> bytes:
        """Raises ``ValueError`` for a part that does not lie in its message."""
        return _serialise_part(UNRELIABLE_PART, *self)


def message_part_header(
    channel: int, sequence: int, offset: int, total: int, length: int, kind: int = MESSAGE_PART
) -> bytes:
    """What stands before the ``length`` bytes of data of a part; the data is appended by reference.

    Its size does not depend on ``length``: at most ``PART_HEADER`` bytes while sequence and total are below 2^30, else
    at most ``MAX_PART_HEADER``. Fields of fixed width, longer than the shortest, make it cheap here and for the reader.
    The caller answers for ``channel < CHANNELS`` and ``offset + length <= total``.

    Args:
        kind: ``UNRELIABLE_PART`` for the header of an :class:`UnreliablePart`.

    Raises:
        ValueError: a number above ``VARINT_MAX``.
    """
    if sequence < 0x4000_0000:
        if total < 0x4000 and not offset:
            return _WHOLE.pack(kind, channel, sequence | 0x8000_0000, 0, total | 0x4000, length | 0x4000)
        if total < 0x4000_0000:
            return _PART.pack(
                *(kind, channel, sequence | 0x8000_0000, offset | 0x8000_0000, total | 0x8000_0000),
                length | 0x8000_0000,
            )
    numbers = (sequence, offset, total, length)
    return bytes((kind, channel)) + b"".join([number.to_bytes(8, "big") for number in map(_eight_bytes, numbers)])


def whole_message_header(channel: int, sequence: int, size: int) -> bytes:
    """:func:`message_part_header` of a message of ``size`` bytes in one part."""
    if sequence < 0x4000_0000 and size < 0x4000:
        return _pack_whole(MESSAGE_PART, channel, sequence | 0x8000_0000, 0, size | 0x4000, size | 0x4000)
    return message_part_header(channel, sequence, 0, size, size)


def _eight_bytes(number: int) -> int:
    if not 0 <= number <= VARINT_MAX:
        raise ValueError(f"no variable-length integer can hold {number}")
    return number | 0xC000_0000_0000_0000


def _serialise_part(kind: int, channel: int, sequence: int, offset: int, total: int, data: bytes | memoryview) -> bytes:
    length = len(data)
    if not 0 <= channel < CHANNELS or sequence < 0 or offset < 0 or offset + length > total or (total and not length):
        raise ValueError("a part outside its message")
    return message_part_header(channel, sequence, offset, total, length, kind) + data


class Taken(NamedTuple):
    """The application has every message of the channel before ``next_sequence``. Idempotent: the largest counts."""

    channel: int
    next_sequence: int

    def serialise(self) -> bytes:
        return b"\x06" + _channel_byte(self.channel) + encode_varint(self.next_sequence)

    @classmethod
    def parse(cls, reader: Reader) -> Taken:
        taken, reader.offset = _parse_taken(reader.data, reader.offset)
        return taken


def _parse_taken(data: bytes, offset: int) -> tuple[Taken, int]:
    channel = data[offset] if offset < len(data) else CHANNELS
    if channel >= CHANNELS:
        raise DecodeError("a channel out of range or cut short")
    sequence, offset = read_varint(data, offset + 1)
    return _tuple(Taken, (channel, sequence)), offset


class Grant(NamedTuple):
    """The first ``limit`` bytes of message ``sequence`` may be sent, whatever the windows. The largest counts."""

    channel: int
    sequence: int
    limit: int

    def serialise(self) -> bytes:
        return b"\x07" + _channel_byte(self.channel) + encode_varint(self.sequence) + encode_varint(self.limit)

    @classmethod
    def parse(cls, reader: Reader) -> Grant:
        return _tuple(cls, (_channel(reader), reader.varint(), reader.varint()))


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Message ``sequence`` will not come, or not be completed: its ``ttl`` passed. Idempotent."""

    channel: int
    sequence: int

    def serialise(self) -> bytes:
        return b"\x08" + _channel_byte(self.channel) + encode_varint(self.sequence)

    @classmethod
    def parse(cls, reader: Reader) -> Withdrawn:
        return cls(_channel(reader), reader.varint())


class CloseCode(IntEnum):
    """Why a connection is closed."""

    CLOSING = 0
    """The socket is being closed."""
    REMOVED = 1
    """The sender removed this peer."""
    REFUSED = 2
    """The sender does not accept this identity."""
    PROTOCOL_ERROR = 3
    """The other side broke the protocol."""
    LIMIT = 4
    """A key or the sender's memory reached its limit."""


@dataclass(frozen=True, slots=True)
class Close:
    """Ends the connection. Not to be acknowledged; idempotent.

    Attributes:
        code: why; unknown codes are refused.
        reason: for people: at most ``MAX_REASON`` bytes of UTF-8. What is not UTF-8 is read as U+FFFD; not cleaned of
            control characters.
    """

    code: CloseCode
    reason: str = ""

    def serialise(self) -> bytes:
        """A longer reason is cut at a character: closing must not fail for its text."""
        reason = self.reason.encode(errors="replace")[:MAX_REASON].decode(errors="ignore").encode()
        return b"\x09" + encode_varint(self.code) + encode_prefixed(reason, MAX_REASON)

    @classmethod
    def parse(cls, reader: Reader) -> Close:
        """Refuses an unknown code."""
        number = reader.varint()
        try:
            code = CloseCode(number)
        except ValueError:
            raise DecodeError(f"close code {number}") from None
        return cls(code, reader.prefixed(MAX_REASON).decode(errors="replace"))


@dataclass(frozen=True, slots=True)
class _Nonce:
    KIND: ClassVar[int] = PADDING
    nonce: bytes

    def serialise(self) -> bytes:
        if len(self.nonce) != 8:
            raise ValueError("the nonce of a path is 8 bytes")
        return bytes((self.KIND,)) + self.nonce


@dataclass(frozen=True, slots=True)
class PathChallenge(_Nonce):
    """8 random bytes that the other side is to send back on the same path."""

    KIND: ClassVar[int] = PATH_CHALLENGE

    @classmethod
    def parse(cls, reader: Reader) -> PathChallenge:
        return cls(reader.take(8))


@dataclass(frozen=True, slots=True)
class PathResponse(_Nonce):
    """The 8 bytes of a PathChallenge."""

    KIND: ClassVar[int] = PATH_RESPONSE

    @classmethod
    def parse(cls, reader: Reader) -> PathResponse:
        return cls(reader.take(8))


@dataclass(frozen=True, slots=True)
class _EpochKey:
    KIND: ClassVar[int] = PADDING
    epoch: int
    public: bytes

    def serialise(self) -> bytes:
        if len(self.public) != 32:
            raise ValueError("a public key is 32 bytes")
        return bytes((self.KIND, self.epoch)) + self.public


@dataclass(frozen=True, slots=True)
class KeyUpdate(_EpochKey):
    """A fresh X25519 public key for key epoch ``epoch`` (8 bits). Idempotent: a repeat carries the same key."""

    KIND: ClassVar[int] = KEY_UPDATE

    @classmethod
    def parse(cls, reader: Reader) -> KeyUpdate:
        return cls(reader.u8(), reader.take(32))


@dataclass(frozen=True, slots=True)
class KeyUpdateReply(_EpochKey):
    """The other side's key for the same epoch."""

    KIND: ClassVar[int] = KEY_UPDATE_REPLY

    @classmethod
    def parse(cls, reader: Reader) -> KeyUpdateReply:
        return cls(reader.u8(), reader.take(32))


@dataclass(frozen=True, slots=True)
class SingleOnly:
    """Asks for records of one datagram for this many milliseconds: longer ones did not open. The newest counts."""

    milliseconds: int

    def serialise(self) -> bytes:
        return b"\x0e" + encode_varint(self.milliseconds)

    @classmethod
    def parse(cls, reader: Reader) -> SingleOnly:
        """Not limited here: the protocol caps it."""
        return cls(reader.varint())


@dataclass(frozen=True, slots=True)
class Window:
    """The sender's congestion window in bytes, so that acknowledgements come several times in it. The newest counts."""

    size: int

    def serialise(self) -> bytes:
        return b"\x0f" + encode_varint(self.size)

    @classmethod
    def parse(cls, reader: Reader) -> Window:
        return cls(reader.varint())


@dataclass(frozen=True, slots=True)
class ObservedAddress:
    """The receiver's address as the sender sees it. A claim, not a proof. The newest counts."""

    address: Address

    def serialise(self) -> bytes:
        return b"\x10" + encode_address(self.address)

    @classmethod
    def parse(cls, reader: Reader) -> ObservedAddress:
        """Canonical text, IPv4 where it is mapped."""
        return cls(reader.address())


@dataclass(frozen=True, slots=True)
class Established:
    """Key confirmation: the fourth arrow of the handshake. Idempotent."""

    def serialise(self) -> bytes:
        return b"\x11"

    @classmethod
    def parse(cls, reader: Reader) -> Established:
        return cls()


@dataclass(frozen=True, slots=True)
class Candidates:
    """All addresses at which the sender may be reached, by its own word. Of several the one with the highest serial
    counts; it replaces what was said before."""

    serial: int
    candidates: tuple[Candidate, ...]

    def serialise(self) -> bytes:
        if len(self.candidates) > MAX_CANDIDATES:
            raise ValueError(f"more than {MAX_CANDIDATES} candidates")
        parts = [b"\x12", encode_varint(self.serial), bytes((len(self.candidates),))]
        for kind, address in self.candidates:
            parts += (bytes((CANDIDATE_KINDS.index(kind),)), encode_address(address))
        return b"".join(parts)

    @classmethod
    def parse(cls, reader: Reader) -> Candidates:
        """Any address is accepted: whether one is fit to be tried is for others to judge."""
        serial, count = reader.varint(), reader.u8()
        if count > MAX_CANDIDATES:
            raise DecodeError(f"more than {MAX_CANDIDATES} candidates")
        found = []
        for _ in range(count):
            kind = reader.u8()
            if kind >= len(CANDIDATE_KINDS):
                raise DecodeError(f"kind of candidate {kind}")
            found.append(Candidate(CANDIDATE_KINDS[kind], reader.address()))
        return cls(serial, tuple(found))


_Common = MessagePart | UnreliablePart | Ack | Taken | Grant | Padding | Ping | Established | Close | SessionStart
_Rare = Withdrawn | PathChallenge | PathResponse | KeyUpdate | KeyUpdateReply | SingleOnly | Window | ObservedAddress
Frame = _Common | _Rare | Candidates

_PARSERS: dict[int, Callable[[Reader], Frame]] = {
    PING: Ping.parse,
    ACK: Ack.parse,
    SESSION_START: SessionStart.parse,
    GRANT: Grant.parse,
    WITHDRAWN: Withdrawn.parse,
    CLOSE: Close.parse,
    PATH_CHALLENGE: PathChallenge.parse,
    PATH_RESPONSE: PathResponse.parse,
    KEY_UPDATE: KeyUpdate.parse,
    KEY_UPDATE_REPLY: KeyUpdateReply.parse,
    SINGLE_ONLY: SingleOnly.parse,
    WINDOW: Window.parse,
    OBSERVED_ADDRESS: ObservedAddress.parse,
    ESTABLISHED: Established.parse,
    CANDIDATES: Candidates.parse,
}
_SILENT = frozenset((Ack, Padding, Close))


def serialise(frame: Frame) -> bytes:
    """The bytes of one frame.

    Raises:
        ValueError: a field that no reader would accept.
    """
    return frame.serialise()


def ack_eliciting(frame: Frame) -> bool:
    """False for Ack, Padding and Close: a record of these alone is not acknowledged (RFC 9002 section 2)."""
    return type(frame) not in _SILENT


def parse_frames(plaintext: bytes) -> list[Frame]:
    """The frames of an opened record, in order.

    Raises:
        DecodeError: an unknown type, a field out of range, or more than ``MAX_FRAMES``, ``MAX_ACKS``, ``MAX_STARTS``
            or ``MAX_LISTS``. The record is then worth nothing as a whole: an honest peer never writes one.
    """
    frames: list[Frame] = []
    size = len(plaintext)
    at = acks = starts = lists = 0
    try:
        for _ in range(MAX_FRAMES):
            if at >= size:
                return frames
            kind = plaintext[at]
            if kind in _PARTS:
                start = at + _WHOLE_SIZE
                if start <= size:
                    _, channel, sequence, offset, total, length = _unpack_whole(plaintext, at)
                    sequence ^= 0x8000_0000
                    total ^= 0x4000
                    length ^= 0x4000
                    if offset or total != length or total >= 0x4000 or sequence >= 0x4000_0000:  # not of this form
                        channel, sequence, offset, total, length, start = _read_part(plaintext, at)
                else:
                    channel, sequence, offset, total, length, start = _read_part(plaintext, at)
                at = start + length
                partial = offset or length != total
                if channel >= CHANNELS or at > size or (partial and not 0 < length <= total - offset):
                    raise DecodeError("a part outside its message or its record")
                # A view keeps the whole record alive, so it must be most of it.
                data = (
                    plaintext[start:at]
                    if length <= COPY_LIMIT or 2 * length < size
                    else memoryview(plaintext)[start:at]
                )
                part = (channel, sequence, offset, total, data)
                if kind == MESSAGE_PART:
                    frames.append(_tuple(MessagePart, part))
                else:
                    frames.append(_tuple(UnreliablePart, part))
            elif kind == TAKEN:
                taken, at = _parse_taken(plaintext, at + 1)
                frames.append(taken)
            elif kind == PADDING:
                zeros = _ZEROS.match(plaintext, at)
                assert zeros is not None
                frames.append(Padding(zeros.end() - at))
                at = zeros.end()
            else:
                parse = _PARSERS.get(kind)
                if parse is None:
                    raise DecodeError(f"frame type {kind:#x}")
                if kind == ACK:
                    acks += 1
                    if acks > MAX_ACKS:
                        raise DecodeError(f"more than {MAX_ACKS} acknowledgements")
                elif kind == SESSION_START:
                    starts += 1
                    if starts > MAX_STARTS:
                        raise DecodeError(f"more than {MAX_STARTS} SESSION_STARTs")
                elif kind == CANDIDATES:
                    lists += 1
                    if lists > MAX_LISTS:
                        raise DecodeError(f"more than {MAX_LISTS} lists of candidates")
                reader = Reader(plaintext, at + 1)
                frames.append(parse(reader))
                at = reader.offset
    except IndexError:
        raise DecodeError("a frame is cut short") from None
    if at < size:
        raise DecodeError(f"more than {MAX_FRAMES} frames")
    return frames


def parse_lone_message(plaintext: bytes) -> tuple[int, int, bytes] | None:
    """Channel, sequence and content if the record is one whole message in its usual form and nothing else.

    The fast way through most records of small messages. None says nothing: :func:`parse_frames` then has the word.
    """
    length = len(plaintext) - _WHOLE_SIZE
    if not 0 <= length < 0x4000:
        return None
    kind, channel, sequence, offset, total, said = _unpack_whole(plaintext)
    if kind != MESSAGE_PART or offset or said != length | 0x4000 or total != said or channel >= CHANNELS:
        return None
    sequence ^= 0x8000_0000
    return (channel, sequence, plaintext[_WHOLE_SIZE:]) if sequence < 0x4000_0000 else None


def _read_part(data: bytes, at: int) -> tuple[int, int, int, int, int, int]:
    """Channel, sequence, offset, total, length and where the data begins, in any encoding."""
    start = at + PART_HEADER
    if start <= len(data):
        _, channel, sequence, offset, total, length = _PART.unpack_from(data, at)
        sequence ^= 0x8000_0000
        offset ^= 0x8000_0000
        total ^= 0x8000_0000
        length ^= 0x8000_0000
        if sequence | offset | total | length < 0x4000_0000:
            return channel, sequence, offset, total, length, start
    channel = data[at + 1]
    sequence, at = read_varint(data, at + 2)
    offset, at = read_varint(data, at)
    total, at = read_varint(data, at)
    length, at = read_varint(data, at)
    return channel, sequence, offset, total, length, at
