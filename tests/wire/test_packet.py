"""Datagrams, laid out by hand from the description at the head of the module."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from srmudp.exceptions import DecodeError
from srmudp.models import Address, PeerId
from srmudp.wire import packet
from srmudp.wire.packet import Hello, Kind, RecordHeader, UnknownVersion

INDEX = 0x0102030405060708
EPHEMERAL = bytes(range(32))
COOKIE = bytes(range(100, 116))


def ciphertext_of(size: int) -> bytes:
    return bytes(i * 7 % 251 for i in range(size))


def test_constants() -> None:
    assert packet.VERSION == 1
    kinds = (packet.PUNCH, packet.PUBLIC_KEY, packet.SHARED_KEY, packet.COOKIE, packet.RECORD, packet.RESEND)
    assert kinds == (0xC1, 0xC2, 0xC3, 0xC4, 0xC5, 0xC6)
    assert (packet.RECORD_HEADER, packet.RECORD_OVERHEAD, packet.RESEND_OVERHEAD) == (29, 30, 38)
    assert (packet.TAG, packet.MAX_SEGMENTS, packet.PUNCH_SIZE) == (16, 44, 512)


def test_kind_of_every_first_byte() -> None:
    expected = {0xC1: Kind.PUNCH, 0xC2: Kind.PUBLIC_KEY, 0xC3: Kind.SHARED_KEY, 0xC4: Kind.COOKIE}
    expected |= {0xC5: Kind.RECORD, 0xC6: Kind.RESEND} | dict.fromkeys((0, 1, 2, 3), Kind.STUN)
    for byte in range(256):
        assert packet.kind_of(byte) is expected.get(byte, Kind.UNKNOWN)


# --- handshake ---


def build_punch(cookie: bytes = packet.NO_COOKIE, tag_of: Callable[[bytes], bytes] | None = None) -> bytes:
    header = packet.punch_header(INDEX)
    return header + EPHEMERAL + packet.punch_payload(header, EPHEMERAL, cookie, tag_of)


def test_punch_layout() -> None:
    seen = []

    def tag_of(data: bytes) -> bytes:
        seen.append(data)
        return b"T" * 16

    datagram = build_punch(COOKIE, tag_of)
    assert datagram == b"\xc1\x01" + INDEX.to_bytes(8, "big") + EPHEMERAL + COOKIE + bytes(438) + b"T" * 16
    assert seen == [datagram[:496]]
    punch = packet.parse_punch(datagram)
    assert punch == (datagram[:10], INDEX, EPHEMERAL, COOKIE, b"T" * 16, datagram[10:])
    assert punch.tagged_bytes == datagram[:496]


def test_punch_without_cookie_and_tag() -> None:
    datagram = build_punch()
    assert datagram[42:] == bytes(470)
    punch = packet.parse_punch(datagram)
    assert (punch.cookie, punch.tag) == (bytes(16), bytes(16))


@pytest.mark.parametrize("offset", [58, 200, 495])
def test_punch_padding_must_be_zero(offset: int) -> None:
    datagram = bytearray(build_punch(COOKIE))
    datagram[offset] = 1
    with pytest.raises(DecodeError, match="padding"):
        packet.parse_punch(bytes(datagram))


def test_punch_arguments() -> None:
    header = packet.punch_header(1)
    bad: list[Callable[[], bytes]] = [
        lambda: packet.punch_header(0),
        lambda: packet.punch_header(1 << 64),
        lambda: packet.punch_payload(header[1:], EPHEMERAL),
        lambda: packet.punch_payload(header, EPHEMERAL[1:]),
        lambda: packet.punch_payload(header, EPHEMERAL, b"short"),
        lambda: packet.punch_payload(header, EPHEMERAL, COOKIE, lambda data: b"short"),
    ]
    for build in bad:
        with pytest.raises(ValueError):
            build()


def public_key() -> bytes:
    return packet.public_key_header(INDEX) + bytes(160)


def shared_key() -> bytes:
    return packet.shared_key_header(INDEX) + bytes(128)


def cookie() -> bytes:
    return packet.build_cookie(INDEX, COOKIE, lambda data: b"T" * 16)


HANDSHAKES: list[tuple[bytes, Callable[[bytes], Any]]] = [
    (build_punch(), packet.parse_punch),
    (public_key(), packet.parse_public_key),
    (shared_key(), packet.parse_shared_key),
    (cookie(), packet.parse_cookie),
]


@pytest.mark.parametrize(("datagram", "parse"), HANDSHAKES)
def test_handshake_headers(datagram: bytes, parse: Callable[[bytes], Any]) -> None:
    assert parse(datagram).index == INDEX
    assert parse(datagram).header == datagram[:10]
    for version in (0, 2, 255):
        with pytest.raises(UnknownVersion):
            parse(datagram[:1] + bytes((version,)) + datagram[2:])
        with pytest.raises(UnknownVersion):  # also if the other version has another length
            parse(datagram[:1] + bytes((version,)) + datagram[2:12])
    with pytest.raises(DecodeError, match="index"):
        parse(datagram[:2] + bytes(8) + datagram[10:])
    for other in set(range(0xC0, 0xC8)) - {datagram[0]}:
        with pytest.raises(DecodeError, match="type"):
            parse(bytes((other,)) + datagram[1:])


@pytest.mark.parametrize(("datagram", "parse"), HANDSHAKES)
def test_cut_handshakes_are_refused(datagram: bytes, parse: Callable[[bytes], Any]) -> None:
    """Attack 9; the datagrams are the shortest of their kind."""
    for size in range(len(datagram)):
        with pytest.raises(DecodeError):
            parse(datagram[:size])


@pytest.mark.parametrize(
    ("datagram", "parse", "longest"),
    [
        (build_punch(), packet.parse_punch, 512),
        (public_key(), packet.parse_public_key, 512),
        (shared_key(), packet.parse_shared_key, 1000),
        (cookie(), packet.parse_cookie, 42),
    ],
)
def test_longest_handshakes(datagram: bytes, parse: Callable[[bytes], Any], longest: int) -> None:
    parse(datagram.ljust(longest, b"\0"))
    with pytest.raises(DecodeError):
        parse(datagram.ljust(longest + 1, b"\0"))


def test_handshake_layouts() -> None:
    index = INDEX.to_bytes(8, "big")
    assert packet.public_key_header(INDEX) == b"\xc2\x01" + index
    assert packet.shared_key_header(INDEX) == b"\xc3\x01" + index
    assert cookie() == b"\xc4\x01" + index + COOKIE + b"T" * 16
    assert packet.parse_cookie(cookie()) == (b"\xc4\x01" + index, INDEX, COOKIE, b"T" * 16)
    assert packet.parse_cookie(cookie()).tagged_bytes == cookie()[:-16]
    with pytest.raises(DecodeError):
        packet.parse_cookie(packet.build_cookie(INDEX, packet.NO_COOKIE, lambda data: b"T" * 16))
    assert packet.parse_public_key(public_key()).message == bytes(160)
    with pytest.raises(ValueError):
        packet.build_cookie(INDEX, b"n", lambda data: b"T" * 16)
    with pytest.raises(ValueError):
        packet.build_cookie(INDEX, COOKIE, lambda data: b"s")


# --- Hello ---

HELLO = Hello(
    peer_id=PeerId(bytes(range(32))),
    instance=b"I" * 16,
    generation=0x01020304,
    ephemeral_identity=True,
    name="Zoë",
    index=INDEX,
    observed=Address("192.0.2.1", 8000),
    token=b"tok",
)


def test_hello_layout() -> None:
    data = HELLO.encode()
    assert data == (
        bytes(range(32)) + b"I" * 16 + b"\x01\x02\x03\x04" + b"\x01" + INDEX.to_bytes(8, "big")
        + b"\x04Zo\xc3\xab" + b"\x04\xc0\x00\x02\x01\x1f\x40" + b"\x03tok"
    )  # fmt: skip
    assert Hello.decode(data) == HELLO


def test_shortest_and_longest_hello() -> None:
    shortest = replace(HELLO, name="", observed=None, token=b"", ephemeral_identity=False)
    assert len(shortest.encode()) == packet.MIN_HELLO == 64
    assert Hello.decode(shortest.encode()) == shortest
    longest = replace(HELLO, name="é" * 32, observed=Address("2001:db8::1", 1), token=b"t" * 64)
    assert Hello.decode(longest.encode()) == longest
    message_2 = 10 + 32 + 48 + len(longest.encode()) + 16
    assert message_2 <= packet.MAX_PUBLIC_KEY


@pytest.mark.parametrize(
    "change",
    [
        {"instance": b"short"},
        {"generation": 1 << 32},
        {"generation": -1},
        {"index": 0},
        {"index": 1 << 64},
        {"name": "é" * 33},
        {"name": "\ud800"},
        {"token": b"t" * 65},
        {"observed": Address("nowhere", 1)},
    ],
)
def test_hello_that_cannot_be_written(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        replace(HELLO, **change).encode()


def test_bad_hellos() -> None:
    data = HELLO.encode()
    for size in range(len(data)):
        with pytest.raises(DecodeError):
            Hello.decode(data[:size])
    with pytest.raises(DecodeError):
        Hello.decode(data + b"\0")
    with pytest.raises(DecodeError, match="index"):
        Hello.decode(data[:53] + bytes(8) + data[61:])
    for flags in (2, 3, 0x80):
        with pytest.raises(DecodeError, match="flags"):
            Hello.decode(data[:52] + bytes((flags,)) + data[53:])
    with pytest.raises(DecodeError, match="UTF-8"):
        Hello.decode(data.replace(b"\xc3\xab", b"\xc3\x28"))
    with pytest.raises(DecodeError):
        Hello.decode(data[:61] + b"\x40\x41" + b"n" * 65 + data[66:])


# --- records ---

THREE = RecordHeader(epoch=7, index=INDEX, number=1 << 40, first=(1 << 41) + 5, count=3, size=100)
THREE_CIPHERTEXT = ciphertext_of(230)
ONE = RecordHeader(epoch=255, index=(1 << 64) - 1, number=0, first=0, count=1, size=17)
ONE_CIPHERTEXT = ciphertext_of(17)


def test_record_layout() -> None:
    head = b"\xc5\x07" + INDEX.to_bytes(8, "big") + (1 << 40).to_bytes(8, "big") + ((1 << 41) + 5).to_bytes(8, "big")
    head += b"\x03" + b"\x00\x64"
    assert THREE.pack() == head
    assert len(head) == 29
    pieces = [THREE_CIPHERTEXT[i : i + 100] for i in (0, 100, 200)]
    datagrams = [head + bytes((i,)) + piece for i, piece in enumerate(pieces)]
    assert packet.cut_record(THREE, THREE_CIPHERTEXT) == b"".join(datagrams)
    assert packet.cut_record(THREE, THREE_CIPHERTEXT, head) == b"".join(datagrams)
    for i, datagram in enumerate(datagrams):
        assert packet.parse_segment(datagram) == (THREE, head, i, (1 << 41) + 5 + i, False, pieces[i])


def test_record_of_one_datagram() -> None:
    datagram = packet.cut_record(ONE, ONE_CIPHERTEXT)
    assert datagram == ONE.pack() + b"\0" + ONE_CIPHERTEXT
    assert packet.parse_segment(datagram) == (ONE, ONE.pack(), 0, 0, False, ONE_CIPHERTEXT)


@pytest.mark.parametrize("segment", [0, 1, 2])
def test_resend_layout(segment: int) -> None:
    datagram = packet.resend_segment(THREE, THREE_CIPHERTEXT, segment, 0x0A0B0C0D0E0F)
    piece = THREE_CIPHERTEXT[100 * segment : 100 * segment + 100]
    aad = THREE.pack()
    assert datagram == b"\xc6" + aad[1:] + bytes((segment,)) + (0x0A0B0C0D0E0F).to_bytes(8, "big") + piece
    assert packet.parse_segment(datagram) == (THREE, aad, segment, 0x0A0B0C0D0E0F, True, piece)


def test_what_is_never_sent_again() -> None:
    for header, ciphertext, segment, transmission in (
        (ONE, ONE_CIPHERTEXT, 0, 5),
        (THREE, THREE_CIPHERTEXT, 3, 5),
        (THREE, THREE_CIPHERTEXT, -1, 5),
        (THREE, THREE_CIPHERTEXT, 0, 1 << 62),
        (THREE, THREE_CIPHERTEXT, 0, -1),
        (THREE, THREE_CIPHERTEXT[:200], 0, 5),
    ):
        with pytest.raises(ValueError):
            packet.resend_segment(header, ciphertext, segment, transmission)


@pytest.mark.parametrize(
    ("count", "size", "length"),
    [(3, 100, 200), (3, 100, 301), (0, 100, 0), (45, 100, 4500), (1, 100, 99), (1, 16, 16), (2, 8, 16), (2, 0, 20)],
)
def test_ciphertexts_that_do_not_fit_the_header(count: int, size: int, length: int) -> None:
    with pytest.raises(ValueError):
        packet.cut_record(THREE._replace(count=count, size=size), bytes(length))


def test_header_out_of_range() -> None:
    with pytest.raises(struct.error):
        THREE._replace(epoch=256).pack()


def datagram_of(
    *, kind: int = 0xC5, number: int = 5, first: int = 9, count: int = 3, size: int = 100, segment: int = 0, length: int
) -> bytes:
    return struct.pack(">BBQQQBHB", kind, 0, INDEX, number, first, count, size, segment) + bytes(length)


@pytest.mark.parametrize(
    "datagram",
    [
        datagram_of(length=100),
        datagram_of(segment=2, length=1),
        datagram_of(segment=2, length=100),
        datagram_of(count=44, segment=43, length=7),
        datagram_of(count=1, size=17, length=17),
        datagram_of(count=2, size=1, length=1),
        datagram_of(number=(1 << 62) - 1, first=(1 << 62) - 3, length=100),
        datagram_of(kind=0xC6, length=108),
        datagram_of(kind=0xC6, segment=2, length=9),
        datagram_of(size=65_477, length=65_477),
    ],
)
def test_segments_at_the_edge_are_read(datagram: bytes) -> None:
    packet.parse_segment(datagram)


@pytest.mark.parametrize(
    "datagram",
    [
        datagram_of(length=0),
        datagram_of(length=99),
        datagram_of(length=101),
        datagram_of(segment=2, length=0),
        datagram_of(segment=2, length=101),
        datagram_of(segment=3, length=100),
        datagram_of(count=0, length=100),
        datagram_of(count=45, length=100),
        datagram_of(count=255, segment=254, length=100),
        datagram_of(count=2, size=0, length=1),
        datagram_of(count=1, size=100, length=99),
        datagram_of(count=1, size=16, length=16),
        datagram_of(number=1 << 62, length=100),
        datagram_of(number=(1 << 64) - 1, length=100),
        datagram_of(first=(1 << 62) - 2, length=100),
        datagram_of(first=(1 << 64) - 1, length=100),
        datagram_of(kind=0xC6, length=7),
        datagram_of(kind=0xC6, segment=2, length=8),
        datagram_of(kind=0xC6, length=107),
        datagram_of(kind=0xC6, segment=2, length=109),
        datagram_of(kind=0xC6, count=1, length=108),
        datagram_of(kind=0xC6, length=0)[:30] + b"\x40" + bytes(107),  # transmission 2^62
        datagram_of(kind=0xC4, length=100),
        datagram_of(kind=0xC7, length=100),
    ],
)
def test_segments_beyond_the_edge_are_refused(datagram: bytes) -> None:
    with pytest.raises(DecodeError):
        packet.parse_segment(datagram)
    assert packet.parse_run(datagram, 0, len(datagram)) is None


def test_cut_segments_are_refused() -> None:
    """Attack 9, where the header states the length."""
    for datagram in (
        packet.cut_record(ONE, ONE_CIPHERTEXT),
        packet.cut_record(THREE, THREE_CIPHERTEXT)[:130],
        packet.resend_segment(THREE, THREE_CIPHERTEXT, 1, 5),
    ):
        for size in range(len(datagram)):
            with pytest.raises(DecodeError):
                packet.parse_segment(datagram[:size])


@pytest.mark.parametrize(("count", "length"), [(1, 100), (2, 101), (3, 230), (3, 300), (44, 4400), (44, 4301)])
def test_run_gives_back_what_was_cut(count: int, length: int) -> None:
    header = THREE._replace(count=count)
    ciphertext = ciphertext_of(length)
    flight = packet.cut_record(header, ciphertext)
    assert packet.parse_run(flight, 0, 130) == (header, header.pack(), ciphertext, len(flight))


def test_run_of_several_records() -> None:
    """Two full records and a short one in one batch, an offset at a time."""
    full = THREE._replace(number=1), ciphertext_of(300)
    single = THREE._replace(number=2, count=1), ciphertext_of(100)
    short = THREE._replace(number=3, count=2), ciphertext_of(150)
    buffer = b"".join(packet.cut_record(*record) for record in (full, single, short))
    offset = 0
    for header, ciphertext in (full, single, short):
        run = packet.parse_run(buffer, offset, 130)
        assert run is not None
        assert run[:3] == (header, header.pack(), ciphertext)
        offset = run[3]
    assert offset == len(buffer)
    assert packet.parse_run(buffer, offset, 130) is None


def test_run_refuses_everything_but_a_whole_first_flight_in_order() -> None:
    flight = packet.cut_record(THREE, THREE_CIPHERTEXT)
    a, b, c = flight[:130], flight[130:260], flight[260:]
    full = packet.cut_record(THREE, ciphertext_of(300))
    other = packet.cut_record(THREE._replace(number=9), ciphertext_of(300))
    for buffer in (
        b"",
        flight[:30],
        a,
        a + b,
        a + b + c[:30],
        b + a + c,
        b + c,
        a + a + c,
        other[:130] + full[130:],
        full[:130] + other[130:260] + full[260:],
        full[:260] + other[260:],
        packet.resend_segment(THREE, THREE_CIPHERTEXT, 0, 5) + b + c,
    ):
        assert packet.parse_run(buffer, 0, 130) is None
    assert packet.parse_run(flight, 0, 129) is None
    assert packet.parse_run(flight, 0, 131) is None
    assert packet.parse_run(flight, 0, len(flight)) is None


def test_run_sees_every_changed_header_byte() -> None:
    """Attack 8: one bit in the header or index of any segment and the run is not taken as one record."""
    flight = packet.cut_record(THREE, THREE_CIPHERTEXT)
    for segment in (1, 2):
        for column in range(30):
            changed = bytearray(flight)
            changed[130 * segment + column] ^= 1 << column % 8
            assert packet.parse_run(bytes(changed), 0, 130) is None
