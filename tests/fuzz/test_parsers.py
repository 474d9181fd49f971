"""Any bytes give a value or DecodeError, in bounded time; what is written is read back. Fixed examples, no database."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srmudp.exceptions import DecodeError
from srmudp.models import Address, Candidate, PeerId
from srmudp.wire import packet
from srmudp.wire.codec import VARINT_MAX, Reader, encode_varint, read_varint
from srmudp.wire.frames import (
    CANDIDATE_KINDS,
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
    Ranges,
    SessionStart,
    SingleOnly,
    Taken,
    UnreliablePart,
    Window,
    Withdrawn,
    parse_frames,
    serialise,
)
from srmudp.wire.packet import Hello, RecordHeader
from srmudp.wire.stun import parse_stun
from tests.cost import assert_cheap, cpu_seconds

fuzz = settings(
    max_examples=50,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

# Numbers on both sides of every width, and anything between.
varints = st.sampled_from([0, 1, 63, 64, 16_383, 16_384, (1 << 30) - 1, 1 << 30, VARINT_MAX]) | st.integers(
    0, VARINT_MAX
)
channels = st.integers(0, 63)
addresses = st.builds(
    lambda ip, port: Address(str(ip), port),
    st.ip_addresses().filter(lambda ip: ip.version == 4 or ip.ipv4_mapped is None),
    st.integers(0, 65_535),
)


@st.composite
def range_lists(draw: st.DrawFn) -> Ranges:
    ranges: list[tuple[int, int]] = []
    below = VARINT_MAX - draw(varints)
    for gap, length in draw(st.lists(st.tuples(varints, varints), max_size=64)):
        if below < 0:
            break
        first = max(below - length, 0)
        ranges.append((first, below))
        below = first - gap - 2
    return tuple(ranges)


@st.composite
def parts(draw: st.DrawFn) -> MessagePart | UnreliablePart:
    data = draw(st.binary(max_size=1500))
    if data:
        offset = draw(st.just(0) | varints.filter(lambda value: value < VARINT_MAX - 1500))
        total = max(offset + len(data), draw(varints))
    else:
        offset = total = 0
    fields = (draw(channels), draw(varints), offset, total, data)
    return MessagePart(*fields) if draw(st.booleans()) else UnreliablePart(*fields)


session_starts = st.builds(
    SessionStart,
    *(st.binary(min_size=8, max_size=8).filter(any), st.binary(min_size=8, max_size=8)),
    *(varints, varints, varints, varints),
    st.lists(
        st.builds(ChannelState, channels, varints, st.none() | st.integers(0, VARINT_MAX - 1)),
        max_size=64,
        unique_by=lambda state: state.channel,
    ).map(tuple),
)
reasons = st.text(max_size=128).filter(lambda text: len(text.encode(errors="replace")) <= 128 and _is_utf_8(text))


def _is_utf_8(text: str) -> bool:
    return not any(0xD800 <= ord(character) <= 0xDFFF for character in text)


frames: st.SearchStrategy[Frame] = st.one_of(
    st.builds(Padding, st.integers(1, 3000)),
    st.just(Ping()),
    st.builds(Ack, varints, range_lists(), range_lists(), range_lists()),
    session_starts,
    parts(),
    st.builds(Taken, channels, varints),
    st.builds(Grant, channels, varints, varints),
    st.builds(Withdrawn, channels, varints),
    st.builds(Close, st.sampled_from(CloseCode), reasons),
    st.builds(PathChallenge, st.binary(min_size=8, max_size=8)),
    st.builds(PathResponse, st.binary(min_size=8, max_size=8)),
    st.builds(KeyUpdate, st.integers(0, 255), st.binary(min_size=32, max_size=32)),
    st.builds(KeyUpdateReply, st.integers(0, 255), st.binary(min_size=32, max_size=32)),
    st.builds(SingleOnly, varints),
    st.builds(Window, varints),
    st.builds(ObservedAddress, addresses),
    st.just(Established()),
    st.builds(
        Candidates,
        varints,
        st.lists(st.builds(Candidate, st.sampled_from(CANDIDATE_KINDS), addresses), max_size=16).map(tuple),
    ),
)
hellos = st.builds(
    Hello,
    peer_id=st.binary(min_size=32, max_size=32).map(PeerId),
    instance=st.binary(min_size=16, max_size=16),
    generation=st.integers(0, (1 << 32) - 1),
    ephemeral_identity=st.booleans(),
    name=st.text(max_size=16).filter(_is_utf_8),
    index=st.integers(1, (1 << 64) - 1),
    observed=st.none() | addresses,
    token=st.binary(max_size=64),
)

PARSERS: list[tuple[Callable[[bytes], Any], int | None]] = [
    (packet.parse_punch, packet.PUNCH),
    (packet.parse_public_key, packet.PUBLIC_KEY),
    (packet.parse_shared_key, packet.SHARED_KEY),
    (packet.parse_cookie, packet.COOKIE),
    (packet.parse_segment, packet.RECORD),
    (packet.parse_segment, packet.RESEND),
    (Hello.decode, None),
    (parse_frames, None),
    (parse_stun, None),
]


def value_or_decode_error(parse: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return parse(data)
    except DecodeError:
        return None


@pytest.mark.parametrize(("parse", "kind"), PARSERS)
def test_any_bytes(parse: Callable[[bytes], Any], kind: int | None) -> None:
    """Attack 10, with right first bytes too."""

    @fuzz
    @given(st.binary(max_size=1100))
    def check(data: bytes) -> None:
        value_or_decode_error(parse, data)
        if kind is not None:
            value_or_decode_error(parse, bytes((kind, packet.VERSION)) + data)

    check()


@fuzz
@given(st.binary(max_size=40), st.integers(0, 45))
def test_any_bytes_for_the_reader(data: bytes, offset: int) -> None:
    value_or_decode_error(lambda data: read_varint(data, offset), data)
    for method in (Reader.u8, Reader.u16, Reader.u32, Reader.u64, Reader.varint, Reader.address):
        reader = Reader(data, offset)
        try:
            method(reader)
        except DecodeError:
            continue
        assert reader.offset <= len(data)
    value_or_decode_error(lambda data: Reader(data, offset).text(20), data)


@fuzz
@given(varints)
def test_varint_round_trip(value: int) -> None:
    assert read_varint(encode_varint(value), 0) == (value, len(encode_varint(value)))


@fuzz
@given(frames)
def test_every_frame_round_trip(frame: Frame) -> None:
    data = serialise(frame)
    assert parse_frames(data) == [frame]
    assert type(parse_frames(data)[0]) is type(frame)
    assert serialise(parse_frames(data)[0]) == data


@fuzz
@given(st.lists(frames.filter(lambda frame: not isinstance(frame, Padding)), max_size=8), st.data())
def test_records_of_frames_cut_and_spoiled(several: list[Frame], draw: st.DataObject) -> None:
    """Attacks 8 and 9 from inside the seal, where only a hostile peer could do it."""
    data = b"".join(map(serialise, several))
    assert parse_frames(data) == several
    if data:
        value_or_decode_error(parse_frames, data[: draw.draw(st.integers(0, len(data)))])
        spoiled = bytearray(data)
        spoiled[draw.draw(st.integers(0, len(data) - 1))] ^= draw.draw(st.integers(1, 255))
        value_or_decode_error(parse_frames, bytes(spoiled))


@fuzz
@given(st.lists(st.integers(0, 0x12) | st.integers(0, 255), max_size=200).map(bytes))
def test_what_is_read_can_be_written(data: bytes) -> None:
    """Bytes that often are frames; whatever a reader accepts means the same when written again."""
    parsed = value_or_decode_error(parse_frames, data)
    if parsed is not None:
        assert parse_frames(b"".join(map(serialise, parsed))) == parsed


@fuzz
@given(hellos)
def test_hello_round_trip(hello: Hello) -> None:
    assert Hello.decode(hello.encode()) == hello


@fuzz
@given(hellos, st.data())
def test_spoiled_hello(hello: Hello, draw: st.DataObject) -> None:
    spoiled = bytearray(hello.encode())
    spoiled[draw.draw(st.integers(0, len(spoiled) - 1))] ^= draw.draw(st.integers(1, 255))
    value_or_decode_error(Hello.decode, bytes(spoiled))


@st.composite
def records(draw: st.DrawFn) -> tuple[RecordHeader, bytes]:
    count, size = draw(st.integers(1, 44)), draw(st.integers(17, 80))
    length = count * size if count == 1 else (count - 1) * size + draw(st.integers(1, size))
    epoch, index = draw(st.integers(0, 255)), draw(st.integers(0, (1 << 64) - 1))
    number, first = draw(st.integers(0, packet.NUMBER_LIMIT - 1)), draw(st.integers(0, packet.NUMBER_LIMIT - 44))
    header = RecordHeader(epoch, index, number, first, count, size)
    return header, draw(st.binary(min_size=1, max_size=40)).ljust(length, b"\xa5")[:length]


@fuzz
@given(records(), st.data())
def test_record_round_trip_whole_and_by_datagram(record: tuple[RecordHeader, bytes], draw: st.DataObject) -> None:
    header, ciphertext = record
    flight = packet.cut_record(header, ciphertext)
    wire = header.size + packet.RECORD_OVERHEAD
    assert packet.parse_run(flight, 0, wire) == (header, header.pack(), ciphertext, len(flight))
    segments = [packet.parse_segment(flight[start : start + wire]) for start in range(0, len(flight), wire)]
    assert b"".join(segment.payload for segment in segments) == ciphertext
    assert [segment.transmission for segment in segments] == list(range(header.first, header.first + header.count))
    if header.count > 1:
        which = draw.draw(st.integers(0, header.count - 1))
        resent = packet.parse_segment(packet.resend_segment(header, ciphertext, which, 5))
        assert resent == segments[which]._replace(transmission=5, resent=True)


@fuzz
@given(records(), st.data())
def test_run_takes_only_what_the_datagrams_say(record: tuple[RecordHeader, bytes], draw: st.DataObject) -> None:
    """A spoiled batch is either not taken, or says exactly what its datagrams say one by one."""
    header, ciphertext = record
    wire = header.size + packet.RECORD_OVERHEAD
    spoiled = bytearray(packet.cut_record(header, ciphertext))
    at = draw.draw(st.integers(0, len(spoiled) - 1) | st.integers(0, min(60, len(spoiled) - 1)))
    spoiled[at] ^= draw.draw(st.integers(1, 255))
    buffer = bytes(spoiled[: draw.draw(st.just(len(spoiled)) | st.integers(0, len(spoiled)))])
    run = packet.parse_run(buffer, 0, draw.draw(st.just(wire) | st.integers(0, 200)))
    if run is not None:
        read, aad, joined, end = run
        segments = [packet.parse_segment(buffer[start : start + wire]) for start in range(0, end, wire)]
        assert {(segment.header, segment.aad) for segment in segments} == {(read, aad)}
        assert [segment.segment for segment in segments] == list(range(read.count))
        assert b"".join(segment.payload for segment in segments) == joined


@fuzz
@given(records(), st.data())
def test_pieces_are_what_the_datagrams_say(record: tuple[RecordHeader, bytes], draw: st.DataObject) -> None:
    """Some of a record's datagrams in any order, twice or not at all, behind them some of another record."""
    header, ciphertext = record
    wire = header.size + packet.RECORD_OVERHEAD
    flight = packet.cut_record(header, ciphertext)
    datagrams = [flight[start : start + wire] for start in range(0, len(flight), wire)]
    chosen = draw.draw(st.lists(st.sampled_from(datagrams), max_size=50))
    whole = [datagram for datagram in chosen if len(datagram) == wire]
    whole += [bytes((other[0], other[1] ^ 1)) + other[2:] for other in draw.draw(st.just([]) | st.just(whole[:3]))]
    last = [datagrams[-1]] if draw.draw(st.booleans()) else []
    buffer = b"".join(whole + last)
    pieces = packet.parse_pieces(buffer, 0, wire)
    if pieces is None:
        alike = next((place for place, datagram in enumerate(whole) if datagram[:29] != whole[0][:29]), len(whole))
        assert header.count == 1 or alike < 2
        return
    alone = [packet.parse_segment(buffer[at : at + wire]) for at in range(0, pieces.following, wire)]
    assert [(one.header, one.aad) for one in alone] == [(pieces.header, pieces.aad)] * len(alone)
    assert [one.segment for one in alone] == list(pieces.segments)
    assert [one.payload for one in alone] == list(pieces.payloads)


@fuzz
@given(st.binary(max_size=300), st.integers(0, 310), st.integers(0, 310))
def test_any_bytes_for_a_run(data: bytes, offset: int, segment_size: int) -> None:
    packet.parse_run(data, offset, segment_size)
    packet.parse_run(data[:offset] + b"\xc5" + data[offset:], offset, segment_size)
    packet.parse_pieces(data, offset, segment_size)
    packet.parse_pieces(data[:offset] + b"\xc5" + data[offset:], offset, segment_size)


@fuzz
@given(addresses)
def test_addresses_are_canonical(address: Address) -> None:
    (frame,) = parse_frames(serialise(ObservedAddress(address)))
    assert isinstance(frame, ObservedAddress)
    assert frame.address.host == str(ipaddress.ip_address(address.host))


RANGES_64 = encode_varint(64) + bytes.fromhex("bfffffff 3f") + bytes.fromhex("7fff 7fff") * 63


@pytest.mark.parametrize(
    "record",
    [
        b"\x01" * 65_000,
        bytes(65_000),
        b"\x01\x00" * 32_500,
        (b"\x02\x00" + RANGES_64 * 3) * 8,
        (b"\x02\x00" + RANGES_64 * 3) * 84,
        b"\x03" + b"\xff" * 65_000,
        bytes.fromhex("04 00 00 00 c0ffffffffffffff c0ffffffffffffff") + bytes(65_000),
        b"\x04\x00\x00\x00\x00\x00" * 10_000,
        b"\x09\x00\x40\x80" + b"\xff" * 128,
        (b"\x09\x00\x40\x80" + b"\xff" * 128) * 490,
    ],
)
def test_the_worst_records_take_bounded_time(record: bytes) -> None:
    """Attacks 13 and 16. The limit is generous for busy machines; the real figures are below 10 ms."""
    assert_cheap(lambda: cpu_seconds(lambda: value_or_decode_error(parse_frames, record)), 0.25)
