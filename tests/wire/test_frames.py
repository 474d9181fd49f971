"""Every frame, its bytes written out by hand, and what is refused."""

from __future__ import annotations

import pytest

from srmudp.exceptions import DecodeError
from srmudp.models import Address, Candidate, CandidateKind
from srmudp.wire import frames
from srmudp.wire.codec import VARINT_MAX, encode_varint
from srmudp.wire.frames import (
    Ack,
    Candidates,
    ChannelState,
    Close,
    CloseCode,
    Established,
    Frame,
    Grant,
    KeyUpdate,
    KeyUpdateReply,
    MessagePart,
    ObservedAddress,
    Padding,
    PathChallenge,
    PathResponse,
    Ping,
    SessionStart,
    SingleOnly,
    Taken,
    UnreliablePart,
    Window,
    Withdrawn,
    ack_eliciting,
    message_part_header,
    parse_frames,
    parse_lone_message,
    serialise,
)

MEMORY, ABOUT = b"memory!!", b"about!!!"


EXAMPLES: list[tuple[Frame, str]] = [
    (Padding(3), "00 00 00"),
    (Ping(), "01"),
    (Ack(500, ((20, 29), (7, 7), (0, 4)), ((3, 3),), ()), "02 41f4 03 1d09 0b00 0104 01 0300 00"),
    (Ack(0, (), (), ((64, 64),)), "02 00 00 00 01 404000"),
    (
        SessionStart(
            MEMORY, ABOUT, 5000, 65_536, 131_072, 64, (ChannelState(0, 7, None), ChannelState(63, 2, 0)), 425_984
        ),
        "03 6d656d6f72792121 61626f7574212121 5388 80010000 80020000 4040 80068000 02 00 07 00 3f 02 01",
    ),
    (SessionStart(ABOUT, MEMORY, 0, 0, 0, 0), "03 61626f7574212121 6d656d6f72792121 00 00 00 00 00 00"),
    (MessagePart(1, 5, 0, 3, b"abc"), "04 01 80000005 00 4003 4003 616263"),
    (MessagePart(2, 70, 2, 20_000, b"xy"), "04 02 80000046 80000002 80004e20 80000002 7879"),
    (MessagePart(0, 0, 0, 0, b""), "04 00 80000000 00 4000 4000"),
    (UnreliablePart(63, 9, 1, 2, b"z"), "05 3f 80000009 80000001 80000002 80000001 7a"),
    (Taken(3, 64), "06 03 4040"),
    (Grant(3, 1, 65_536), "07 03 01 80010000"),
    (Withdrawn(4, 5), "08 04 05"),
    (Close(CloseCode.REMOVED, "bye"), "09 01 03 627965"),
    (Close(CloseCode.CLOSING), "09 00 00"),
    (PathChallenge(b"12345678"), "0a 3132333435363738"),
    (PathResponse(b"12345678"), "0b 3132333435363738"),
    (KeyUpdate(255, b"k" * 32), "0c ff" + "6b" * 32),
    (KeyUpdateReply(0, b"k" * 32), "0d 00" + "6b" * 32),
    (SingleOnly(1000), "0e 43e8"),
    (Window(65_536), "0f 80010000"),
    (ObservedAddress(Address("192.0.2.1", 8000)), "10 04 c0000201 1f40"),
    (Established(), "11"),
    (Candidates(0, ()), "12 00 00"),
    (
        Candidates(
            64,
            (
                Candidate(CandidateKind.HOST, Address("192.0.2.1", 8000)),
                Candidate(CandidateKind.GIVEN, Address("2001:db8::1", 1)),
            ),
        ),
        "12 4040 02 00 04 c0000201 1f40 04 06 20010db8000000000000000000000001 0001",
    ),
]


@pytest.mark.parametrize(("frame", "text"), EXAMPLES)
def test_frame_both_ways(frame: Frame, text: str) -> None:
    data = bytes.fromhex(text)
    assert serialise(frame) == data
    (parsed,) = parse_frames(data)
    assert type(parsed) is type(frame)
    assert parsed == frame


@pytest.mark.parametrize(("frame", "text"), EXAMPLES)
def test_cut_frames_are_refused(frame: Frame, text: str) -> None:
    """Attack 9. An empty record has no frames, and less padding is padding."""
    data = bytes.fromhex(text)
    for size in range(1, len(data)):
        if isinstance(frame, Padding):
            assert parse_frames(data[:size]) == [Padding(size)]
        else:
            with pytest.raises(DecodeError):
                parse_frames(data[:size])
    assert parse_frames(b"") == []


def test_type_numbers() -> None:
    numbers = {int(text.split()[0], 16): type(frame) for frame, text in EXAMPLES}
    assert sorted(numbers) == list(range(0x13))
    assert numbers[frames.MESSAGE_PART] is MessagePart
    assert numbers[frames.ESTABLISHED] is Established


@pytest.mark.parametrize("kind", [0x13, 0x3F, 0x40, 0xFF])
def test_unknown_types_are_refused(kind: int) -> None:
    with pytest.raises(DecodeError, match="type"):
        parse_frames(b"\x01" + bytes((kind,)) + bytes(20))


def test_candidates_are_few_and_of_known_kinds() -> None:
    """Attack 37: no record names a thousand."""
    one = Candidate(CandidateKind.HOST, Address("192.0.2.1", 8000))
    assert parse_frames(serialise(Candidates(1, (one,) * 16))) == [Candidates(1, (one,) * 16)]
    with pytest.raises(ValueError):
        serialise(Candidates(1, (one,) * 17))
    with pytest.raises(DecodeError, match="more than"):
        parse_frames(bytes.fromhex("12 01 11") + bytes.fromhex("00 04 c0000201 1f40") * 17)
    with pytest.raises(DecodeError, match="kind"):
        parse_frames(bytes.fromhex("12 01 01 05 04 c0000201 1f40"))
    assert len(parse_frames(serialise(Candidates(1, (one,))) * 4)) == 4
    with pytest.raises(DecodeError, match="lists"):
        parse_frames(serialise(Candidates(1, ())) * 5)


def test_several_frames_keep_their_order() -> None:
    everything = b"".join(bytes.fromhex(text) for _, text in EXAMPLES)
    parsed = parse_frames(everything)
    assert parsed == [frame for frame, _ in EXAMPLES]


def test_padding_is_collapsed() -> None:
    assert parse_frames(b"\x01" + bytes(60_000) + b"\x11") == [Ping(), Padding(60_000), Established()]
    with pytest.raises(ValueError):
        serialise(Padding(0))


def test_number_of_frames_is_bounded() -> None:
    assert len(parse_frames(b"\x01" * 1024)) == 1024
    with pytest.raises(DecodeError, match="more than"):
        parse_frames(b"\x01" * 1025)


def test_what_elicits_an_acknowledgement() -> None:
    """RFC 9002 section 2: all but ACK, PADDING and CONNECTION_CLOSE."""
    assert {type(frame) for frame, _ in EXAMPLES if not ack_eliciting(frame)} == {Ack, Padding, Close}


# --- Ack ---


def test_ranges_as_in_rfc_9000() -> None:
    """RFC 9000 section 19.3.1: largest 90, then a gap field of 1 means that two numbers are missing."""
    (ack,) = parse_frames(bytes.fromhex("02 00 02 405a 05 01 03 00 00"))
    assert ack == Ack(0, ((85, 90), (79, 82)), (), ())


def test_ranges_down_to_zero_and_below() -> None:
    (ack,) = parse_frames(bytes.fromhex("02 00 02 05 01 00 02 00 00"))  # 4-5, then 3 missing, then 0-2
    assert ack == Ack(0, ((4, 5), (0, 2)))
    for text in ("02 00 02 05 01 00 03 00 00", "02 00 01 05 06 00 00", "02 00 02 00 00 00 00 00 00"):
        with pytest.raises(DecodeError, match="below zero"):
            parse_frames(bytes.fromhex(text))


def test_longer_encodings_inside_ranges_are_read() -> None:
    (ack,) = parse_frames(bytes.fromhex("02 00 02 05 01 4000 80000002 00 00"))
    assert ack == Ack(0, ((4, 5), (0, 2)))


def test_largest_numbers() -> None:
    ack = Ack(VARINT_MAX, ((0, VARINT_MAX),), ((VARINT_MAX, VARINT_MAX), (0, VARINT_MAX - 2)))
    assert parse_frames(serialise(ack)) == [ack]


def test_number_of_ranges_is_bounded() -> None:
    """Attack 13: one-packet ranges, maximal count, covering everything."""
    ranges = tuple((number * 2, number * 2) for number in range(63, -1, -1))
    most = Ack(0, ranges, ranges, ranges)
    assert parse_frames(serialise(most)) == [most]
    with pytest.raises(ValueError):
        serialise(Ack(0, ((200, 200), *ranges)))
    for lists in (b"\x40\x41" + bytes(200), b"\x00\x40\x41" + bytes(200), b"\xff" * 8 + bytes(200)):
        with pytest.raises(DecodeError, match="ranges"):
            parse_frames(b"\x02\x00" + lists)


def test_number_of_acks_is_bounded() -> None:
    """Attack 13 once more: the ranges of a record are bounded, not only those of a frame."""
    assert len(parse_frames(serialise(Ack(0, ((0, 7),))) * 8)) == 8
    with pytest.raises(DecodeError, match="acknowledgements"):
        parse_frames(serialise(Ack(0, ((0, 7),))) * 9)


@pytest.mark.parametrize(
    "ranges",
    [
        ((4, 5), (2, 3)),  # adjacent
        ((4, 5), (4, 5)),
        ((1, 2), (4, 5)),  # ascending
        ((5, 4),),
        ((-1, 4),),
        ((0, VARINT_MAX + 1),),
    ],
)
def test_ranges_that_cannot_be_written(ranges: frames.Ranges) -> None:
    with pytest.raises(ValueError):
        serialise(Ack(0, ranges))


# --- SessionStart ---


def test_session_start_with_every_channel() -> None:
    every = SessionStart(
        MEMORY, ABOUT, 1, 2, 3, 4, tuple(ChannelState(channel, channel, channel) for channel in range(64))
    )
    assert parse_frames(serialise(every)) == [every]
    with pytest.raises(ValueError):
        serialise(SessionStart(MEMORY, ABOUT, 1, 2, 3, 4, (ChannelState(64, 0),)))
    with pytest.raises(ValueError):
        serialise(SessionStart(MEMORY, ABOUT, 1, 2, 3, 4, (ChannelState(7, 0), ChannelState(7, 1))))
    for memory, about in ((b"", ABOUT), (MEMORY, b"seven b")):
        with pytest.raises(ValueError):
            serialise(SessionStart(memory, about, 1, 2, 3, 4))


@pytest.mark.parametrize(
    "text",
    [
        "03" + "11" * 16 + "00 00 00 00 00 4041" + "00" * 200,
        "03" + "11" * 16 + "00 00 00 00 00 01 40 00 00",
        "03" + "11" * 16 + "00 00 00 00 00 02 07 00 00 07 00 00",
        "03" + "11" * 15,
    ],
)
def test_bad_session_starts(text: str) -> None:
    with pytest.raises(DecodeError):
        parse_frames(bytes.fromhex(text))


# --- parts of messages ---

PARTS = [
    (4, MessagePart),
    (5, UnreliablePart),
]


@pytest.mark.parametrize(("kind", "part"), PARTS)
@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_parts_in_any_encoding(kind: int, part: type[MessagePart] | type[UnreliablePart], width: int) -> None:
    """Shortest, and each wider form of the same numbers."""

    def number(value: int) -> bytes:
        return (value | {1: 0, 2: 1, 4: 2, 8: 3}[width] << 8 * width - 2).to_bytes(width, "big")

    data = bytes((kind, 9)) + number(33) + number(1) + number(12) + number(4) + b"data" + b"\x01"
    parsed = parse_frames(data)
    assert parsed == [part(9, 33, 1, 12, b"data"), Ping()]
    assert type(parsed[0]) is part


@pytest.mark.parametrize(("kind", "part"), PARTS)
@pytest.mark.parametrize(
    ("sequence", "offset", "total", "size"),
    [
        (0, 0, 1, 11),
        (0x3FFF_FFFF, 0, 0x3FFF, 11),
        (0, 0, 0x4000, 18),
        (0, 1, 2, 18),
        (0x3FFF_FFFF, 0x3FFF_FFFE, 0x3FFF_FFFF, 18),
        (0x4000_0000, 0, 1, 34),
        (0, 0x4000_0000 - 1, 0x4000_0000, 34),
        (VARINT_MAX, VARINT_MAX - 1, VARINT_MAX, 34),
    ],
)
def test_part_headers(
    kind: int, part: type[MessagePart] | type[UnreliablePart], sequence: int, offset: int, total: int, size: int
) -> None:
    header = message_part_header(63, sequence, offset, total, 1, kind)
    assert len(header) == size
    parsed = parse_frames(header + b"D" + b"\x11")
    assert parsed == [part(63, sequence, offset, total, b"D"), Established()]
    assert serialise(part(63, sequence, offset, total, b"D")) == header + b"D"


def test_part_header_numbers_out_of_range() -> None:
    for sequence, total in ((VARINT_MAX + 1, 1), (VARINT_MAX, VARINT_MAX + 1)):
        with pytest.raises(ValueError):
            message_part_header(0, sequence, 0, total, 1)


@pytest.mark.parametrize(("kind", "part"), PARTS)
def test_bad_parts(kind: int, part: type[MessagePart] | type[UnreliablePart]) -> None:
    """Attacks 16 and 18: lengths that are not so, parts beside their message, endless empty parts."""
    for channel, offset, total, length, data in (
        (64, 0, 3, 3, b"abc"),
        (255, 0, 3, 3, b"abc"),
        (0, 0, 3, 4, b"abcd"),
        (0, 1, 3, 3, b"abc"),
        (0, 4, 3, 0, b""),
        (0, 1, 3, 0, b""),
        (0, 0, 3, 0, b""),
        (0, 1, 0, 0, b""),
        (0, 0, 3, 3, b"ab"),
        (0, 0, VARINT_MAX, VARINT_MAX, b"abc"),
        (0, VARINT_MAX, VARINT_MAX, 3, b"abc"),
    ):
        shortest = [encode_varint(value) for value in (7, offset, total, length)]
        with pytest.raises(DecodeError):
            parse_frames(bytes((kind, channel)) + b"".join(shortest) + data)
        if 0 < total < VARINT_MAX:
            with pytest.raises(DecodeError):
                parse_frames(message_part_header(channel, 7, offset, total, length, kind) + data)
        if len(data) == length:
            with pytest.raises(ValueError):
                serialise(part(channel, 7, offset, total, data))
    with pytest.raises(ValueError):
        serialise(part(0, -1, 0, 1, b"a"))


@pytest.mark.parametrize(("kind", "part"), PARTS)
def test_long_parts_are_views_and_short_ones_bytes(kind: int, part: type[MessagePart] | type[UnreliablePart]) -> None:
    for size, expected in ((1024, bytes), (1025, memoryview)):
        record = b"\x01" + serialise(part(0, 7, 0, 50_000, b"d" * size)) + b"\x01"
        _, parsed, _ = parse_frames(record)
        assert isinstance(parsed, part)
        assert type(parsed.data) is expected
        assert parsed.data == b"d" * size
        if isinstance(parsed.data, memoryview):
            assert parsed.data.obj is record


def test_parts_accept_views() -> None:
    assert serialise(MessagePart(0, 1, 0, 3, memoryview(b"abc"))) == serialise(MessagePart(0, 1, 0, 3, b"abc"))


# --- the rest ---


@pytest.mark.parametrize("text", ["06 40 01", "07 40 01 01", "08 40 01", "08 ff 01"])
def test_channels_out_of_range(text: str) -> None:
    with pytest.raises(DecodeError, match="channel"):
        parse_frames(bytes.fromhex(text))


@pytest.mark.parametrize("frame", [Taken(64, 0), Grant(-1, 0, 0), Withdrawn(64, 0), Taken(0, -1), Window(1 << 62)])
def test_numbers_that_cannot_be_written(frame: Frame) -> None:
    with pytest.raises(ValueError):
        serialise(frame)


def test_close_reasons() -> None:
    assert parse_frames(b"\x09\x04\x03a\xffb") == [Close(CloseCode.LIMIT, "a\ufffdb")]
    assert parse_frames(serialise(Close(CloseCode.LIMIT, "é" * 65))) == [Close(CloseCode.LIMIT, "é" * 64)]
    assert parse_frames(serialise(Close(CloseCode.LIMIT, "x" + "é" * 64))) == [Close(CloseCode.LIMIT, "x" + "é" * 63)]
    assert parse_frames(serialise(Close(CloseCode.LIMIT, "\ud800"))) == [Close(CloseCode.LIMIT, "?")]
    for data in (b"\x09\x05\x00", b"\x09\x7f\xff\x00", b"\x09\x00\x40\x81" + bytes(129)):
        with pytest.raises(DecodeError):
            parse_frames(data)


def test_close_codes() -> None:
    codes = (CloseCode.CLOSING, CloseCode.REMOVED, CloseCode.REFUSED, CloseCode.PROTOCOL_ERROR, CloseCode.LIMIT)
    assert tuple(map(int, codes)) == (0, 1, 2, 3, 4)


@pytest.mark.parametrize(
    "frame",
    [PathChallenge(b"1234567"), PathResponse(b"123456789"), KeyUpdate(256, b"k" * 32), KeyUpdateReply(0, b"k" * 31)],
)
def test_fixed_fields_of_another_length(frame: Frame) -> None:
    with pytest.raises(ValueError):
        serialise(frame)


def test_observed_address_is_canonical() -> None:
    mapped = "10 06 00000000000000000000ffffc0000207 0007"
    assert parse_frames(bytes.fromhex(mapped)) == [ObservedAddress(Address("192.0.2.7", 7))]
    with pytest.raises(DecodeError):
        parse_frames(b"\x10\x00")


@pytest.mark.parametrize("size", [0, 1, 3, 4, 100, 1024, 1025, 0x3FFF, 0x4000])
@pytest.mark.parametrize("sequence", [0, 5, 0x3FFF_FFFF, 0x4000_0000])
def test_a_lone_message_is_read_as_among_other_frames(size: int, sequence: int) -> None:
    content = bytes(range(256)) * 65
    data = frames.whole_message_header(7, sequence, size) + content[:size]
    (part,) = parse_frames(data)
    assert part == (7, sequence, 0, size, content[:size])
    lone = parse_lone_message(data)
    usual = size < 0x4000 and sequence < 0x4000_0000
    assert lone == ((7, sequence, content[:size]) if usual else None)
    for other in (data + b"\x00", data + data, b"\x01" + data, data[:-1], b"\x05" + data[1:], b"\x04\xff" + data[2:]):
        assert parse_lone_message(other) is None
    assert parse_lone_message(MessagePart(7, sequence, 0, size + 2, content[: size + 1]).serialise()) is None
