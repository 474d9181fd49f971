"""Bounded reading and writing of integers, byte strings and addresses. Big-endian throughout.

Reading raises :class:`~srmudp.exceptions.DecodeError` and nothing else, whatever the bytes. Writing raises
``ValueError`` for a value that has no encoding: that is our own mistake, never the network's.

Variable-length integers are those of RFC 9000 section 16: the two top bits of the first byte give the length (1, 2, 4
or 8 bytes), 0 to ``VARINT_MAX``. As there, a value may be written longer than it need be and readers accept that: a
writer in a hurry fills in fields of a fixed width. Nothing may depend on an encoding being the only one; sealed bytes
cannot be altered on the way, so there is nothing to gain by refusing the others.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

from ..exceptions import DecodeError
from ..models import Address

__all__ = ["ONE_BYTE", "VARINT_MAX", "Reader", "encode_address", "encode_prefixed", "encode_varint", "read_varint"]

VARINT_MAX = (1 << 62) - 1
"""The largest variable-length integer."""

_U16 = struct.Struct(">H").unpack_from
_U32 = struct.Struct(">I").unpack_from
_U64 = struct.Struct(">Q").unpack_from
ONE_BYTE = tuple(bytes((value,)) for value in range(64))
"""The encodings of one byte, for writers in a hurry."""
_NO_ADDRESS = b"\x00"


def read_varint(data: bytes, offset: int) -> tuple[int, int]:
    """The variable-length integer at ``offset`` (not negative) and the offset behind it.

    Raises:
        DecodeError: the data ends first.
    """
    try:
        first: int = data[offset]
        if first < 0x40:
            return first, offset + 1
        if first < 0x80:
            return (first & 0x3F) << 8 | data[offset + 1], offset + 2
        if first < 0xC0:
            return _U32(data, offset)[0] & 0x3FFF_FFFF, offset + 4
        return _U64(data, offset)[0] & VARINT_MAX, offset + 8
    except (IndexError, struct.error):
        raise DecodeError("a variable-length integer is cut short") from None


def encode_varint(value: int) -> bytes:
    """The shortest encoding of ``value``.

    Raises:
        ValueError: negative or above ``VARINT_MAX``.
    """
    if 0 <= value < 0x40:
        return ONE_BYTE[value]
    if 0 <= value < 0x4000:
        return (value | 0x4000).to_bytes(2, "big")
    if 0 <= value < 0x4000_0000:
        return (value | 0x8000_0000).to_bytes(4, "big")
    if 0 <= value <= VARINT_MAX:
        return (value | 0xC000_0000_0000_0000).to_bytes(8, "big")
    raise ValueError(f"no variable-length integer can hold {value}")


def encode_prefixed(data: bytes, maximum: int) -> bytes:
    """``data`` behind its length as a variable-length integer.

    Raises:
        ValueError: more than ``maximum`` bytes.
    """
    if len(data) > maximum:
        raise ValueError(f"{len(data)} bytes where at most {maximum} are allowed")
    return encode_varint(len(data)) + data


def encode_address(address: Address | None) -> bytes:
    """Family (4 or 6), packed IP address and port; one zero byte for None.

    An IPv4-mapped IPv6 address is written as the IPv4 address it stands for, a zone (``%eth0``) is left out: it means
    nothing to anybody else.

    Raises:
        ValueError: not an IP address, or a port outside 0 to 65,535.
    """
    if address is None:
        return _NO_ADDRESS
    ip = ip_address(address.host)
    if not 0 <= address.port <= 0xFFFF:
        raise ValueError(f"not a port: {address.port}")
    if isinstance(ip, IPv6Address):
        ip = ip.ipv4_mapped or ip
    packed: bytes = ip.packed
    return bytes((ip.version,)) + packed + address.port.to_bytes(2, "big")


class Reader:
    """Reads fields from ``data`` one after the other and never beyond its end. Not thread-safe; one per parse.

    Every method raises ``DecodeError`` when the data is too short or the value out of range, and the reader is then of
    no further use.
    """

    __slots__ = ("data", "offset")

    def __init__(self, data: bytes | memoryview, offset: int = 0) -> None:
        self.data = data if isinstance(data, bytes) else bytes(data)
        self.offset = offset

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return len(self.data) - self.offset

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        start = self.offset
        end = start + size
        if end > len(self.data):
            raise DecodeError(f"{size} bytes expected, {len(self.data) - start} left")
        self.offset = end
        return self.data[start:end]

    def u8(self) -> int:
        """One byte."""
        try:
            value = self.data[self.offset]
        except IndexError:
            raise DecodeError("one byte expected, none left") from None
        self.offset += 1
        return value

    def u16(self) -> int:
        """Two bytes."""
        return int.from_bytes(self.take(2), "big")

    def u32(self) -> int:
        """Four bytes."""
        return int.from_bytes(self.take(4), "big")

    def u64(self) -> int:
        """Eight bytes."""
        return int.from_bytes(self.take(8), "big")

    def varint(self) -> int:
        """A variable-length integer."""
        value, self.offset = read_varint(self.data, self.offset)
        return value

    def prefixed(self, maximum: int) -> bytes:
        """Bytes behind their length, at most ``maximum``. The length is checked before anything is copied."""
        size = self.varint()
        if size > maximum:
            raise DecodeError(f"{size} bytes where at most {maximum} are allowed")
        return self.take(size)

    def text(self, maximum: int) -> str:
        """UTF-8 text behind its length in bytes. May hold control characters: clean it before it meets a terminal."""
        try:
            return self.prefixed(maximum).decode()
        except UnicodeDecodeError:
            raise DecodeError("not UTF-8") from None

    def address(self) -> Address:
        """An address, its text in canonical form (RFC 5952), IPv4-mapped IPv6 turned into IPv4.

        Any port is accepted, 0 as well: whether an address is fit to be used is for others to judge.
        """
        address = self.optional_address()
        if address is None:
            raise DecodeError("an address is missing")
        return address

    def optional_address(self) -> Address | None:
        """An address as above, or None where the family is 0."""
        family = self.u8()
        if family == 0:
            return None
        if family == 4:
            return Address(str(IPv4Address(self.take(4))), self.u16())
        if family == 6:
            ip = IPv6Address(self.take(16))
            return Address(str(ip.ipv4_mapped or ip), self.u16())
        raise DecodeError(f"unknown address family {family}")

    def finish(self) -> None:
        """Nothing may be left."""
        if self.offset != len(self.data):
            raise DecodeError(f"{len(self.data) - self.offset} bytes too many")
