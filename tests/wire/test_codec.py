"""Integers, byte strings and addresses, against RFC 9000 appendix A.1 and by hand."""

from __future__ import annotations

import pytest

from srmudp.exceptions import DecodeError
from srmudp.models import Address
from srmudp.wire.codec import VARINT_MAX, Reader, encode_address, encode_prefixed, encode_varint, read_varint

RFC_9000_A_1 = [
    ("c2197c5eff14e88c", 151_288_809_941_952_652),
    ("9d7f3e7d", 494_878_333),
    ("7bbd", 15_293),
    ("25", 37),
]
EDGES = [
    (0, "00"),
    (63, "3f"),
    (64, "4040"),
    (16_383, "7fff"),
    (16_384, "80004000"),
    (1_073_741_823, "bfffffff"),
    (1_073_741_824, "c000000040000000"),
    (VARINT_MAX, "ffffffffffffffff"),
]


@pytest.mark.parametrize(("text", "value"), [*RFC_9000_A_1, *((text, value) for value, text in EDGES)])
def test_varint_both_ways(text: str, value: int) -> None:
    data = bytes.fromhex(text)
    assert encode_varint(value) == data
    assert read_varint(b"\xff" + data + b"\xff", 1) == (value, 1 + len(data))


@pytest.mark.parametrize("text", ["4025", "80000025", "c000000000000025"])
def test_longer_varints_are_read(text: str) -> None:
    assert read_varint(bytes.fromhex(text), 0) == (37, len(text) // 2)  # the first is in RFC 9000 A.1


@pytest.mark.parametrize("text", [text for text, _ in RFC_9000_A_1])
def test_cut_varints_are_refused(text: str) -> None:
    data = bytes.fromhex(text)
    for size in range(len(data)):
        with pytest.raises(DecodeError):
            read_varint(data[:size], 0)


@pytest.mark.parametrize("value", [-1, VARINT_MAX + 1])
def test_varint_out_of_range(value: int) -> None:
    with pytest.raises(ValueError, match="hold"):
        encode_varint(value)


def test_fixed_integers_and_bytes() -> None:
    reader = Reader(memoryview(bytes(range(1, 20))))
    assert (reader.u8(), reader.u16(), reader.u32(), reader.u64()) == (1, 0x0203, 0x04050607, 0x08090A0B0C0D0E0F)
    assert (reader.remaining, reader.take(3)) == (4, b"\x10\x11\x12")
    with pytest.raises(DecodeError):
        reader.finish()
    assert (reader.varint(), reader.remaining) == (0x13, 0)
    reader.finish()


@pytest.mark.parametrize("method", ["u8", "u16", "u32", "u64", "varint", "address", "optional_address"])
def test_reading_beyond_the_end(method: str) -> None:
    with pytest.raises(DecodeError):
        getattr(Reader(b"\x01\x02", 2), method)()


def test_prefixed() -> None:
    assert encode_prefixed(b"abc", 3) == b"\x03abc"
    assert Reader(b"\x03abc").prefixed(3) == b"abc"
    assert Reader(b"\x00").prefixed(0) == b""
    with pytest.raises(ValueError, match="at most 2"):
        encode_prefixed(b"abc", 2)
    for data in (b"", b"\x03ab", b"\x04abcd", b"\xff\xff\xff\xff\xff\xff\xff\xff"):
        with pytest.raises(DecodeError):
            Reader(data).prefixed(3)


def test_text() -> None:
    assert Reader(b"\x03\xe2\x82\xac").text(3) == "€"
    with pytest.raises(DecodeError):
        Reader(b"\x02\xe2\x82").text(3)


@pytest.mark.parametrize(
    ("host", "port", "data"),
    [
        ("192.0.2.1", 8000, "04 c0000201 1f40"),
        ("0.0.0.0", 0, "04 00000000 0000"),
        ("2001:db8::1", 65_535, "06 20010db8000000000000000000000001 ffff"),
    ],
)
def test_address_both_ways(host: str, port: int, data: str) -> None:
    assert encode_address(Address(host, port)) == bytes.fromhex(data)
    assert Reader(bytes.fromhex(data)).address() == Address(host, port)


def test_address_becomes_canonical() -> None:
    mapped = bytes.fromhex("06 00000000000000000000ffffc0000207 0007")
    assert Reader(mapped).address() == Address("192.0.2.7", 7)
    assert encode_address(Address("::ffff:192.0.2.7", 7)) == bytes.fromhex("04 c0000207 0007")
    assert encode_address(Address("2001:DB8:0::1", 7)) == encode_address(Address("2001:db8::1", 7))
    assert encode_address(Address("fe80::1%eth0", 7)) == encode_address(Address("fe80::1", 7))


def test_absent_address() -> None:
    assert encode_address(None) == b"\x00"
    assert Reader(b"\x00").optional_address() is None
    with pytest.raises(DecodeError):
        Reader(b"\x00").address()


@pytest.mark.parametrize("data", ["04c0000201", "04c00002011f", "0520010db8", "06" + "00" * 17, "ff"])
def test_bad_addresses(data: str) -> None:
    with pytest.raises(DecodeError):
        Reader(bytes.fromhex(data)).address()


@pytest.mark.parametrize("address", [Address("example.com", 1), Address("192.0.2.1", 65_536), Address("192.0.2.1", -1)])
def test_addresses_that_cannot_be_written(address: Address) -> None:
    with pytest.raises(ValueError):
        encode_address(address)
