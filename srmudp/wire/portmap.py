"""NAT-PMP (RFC 6886) and PCP (RFC 6887) as bytes: asking a router to let in what comes for one of our UDP ports.

Only what that takes: the router's outside address and one mapping over NAT-PMP, ``ANNOUNCE`` and ``MAP`` over PCP.
Both speak over UDP port 5351 of the router; the first byte of an answer tells which of the two it is.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

from ..exceptions import DecodeError
from ..models import Address

PORT: Final = 5351
"""Where routers listen (RFC 6886 section 1.1, RFC 6887 section 19)."""
MAX_ANSWER: Final = 1100
"""Bytes of the longest PCP message (RFC 6887 section 7)."""
NONCE: Final = 12
"""Bytes of a mapping's nonce (RFC 6887 section 11.1)."""
UNSUPPORTED_VERSION: Final = 1
"""The result by which a router says that it speaks the other of the two, or neither."""

_NATPMP, _PCP = 0, 2
_ADDRESS, _MAP_UDP = 0, 1  # opcodes of NAT-PMP
_ANNOUNCE, _MAP = 0, 1  # of PCP
_ANSWER = 0x80
_UDP = 17
_PCP_HEADER = 24
_PCP_MAP = struct.Struct("!12sB3xHH16s")
_RESULTS: Final = {
    _NATPMP: ("", "unsupported version", "not authorised", "network failure", "out of resources", "unsupported opcode"),
    _PCP: (
        *("", "unsupported version", "not authorised", "malformed request", "unsupported opcode", "unsupported option"),
        *("malformed option", "network failure", "no resources", "unsupported protocol", "user exceeded quota"),
        *("cannot provide external address", "address mismatch", "excessive remote peers"),
    ),
}


class RouterAnswer(NamedTuple):
    """What a router said.

    Attributes:
        protocol: ``"PCP"`` or ``"NAT-PMP"``.
        is_map: it is about a mapping.
        result: 0 for success.
        epoch: seconds since the router's tables were last empty.
        lifetime: seconds the mapping lives; of a PCP error, for which it stays one.
        nonce: that of the PCP mapping.
        internal_port: our port.
        host: the outside address; empty where none is told.
        port: the outside port, or 0.
    """

    protocol: str
    is_map: bool
    result: int
    epoch: int
    lifetime: int = 0
    nonce: bytes = b""
    internal_port: int = 0
    host: str = ""
    port: int = 0

    @property
    def reason(self) -> str:
        """The result in words; empty for success."""
        words = _RESULTS[_PCP if self.protocol == "PCP" else _NATPMP]
        return words[self.result] if self.result < len(words) else f"error {self.result}"


def natpmp_address_request() -> bytes:
    """Ask for the outside address (RFC 6886 section 3.2)."""
    return bytes((_NATPMP, _ADDRESS))


def natpmp_map_request(port: int, outside: int, lifetime: int) -> bytes:
    """Ask for a mapping, renew it, or remove it with a lifetime and an outside port of 0 (sections 3.3 and 3.4)."""
    return struct.pack("!BBxxHHI", _NATPMP, _MAP_UDP, port, outside, lifetime)


def pcp_announce_request(client: str) -> bytes:
    """Ask whether somebody speaks PCP (RFC 6887 section 14.1).

    Args:
        client: the address this is sent from.
    """
    return struct.pack("!BBxxI16s", _PCP, _ANNOUNCE, 0, _ip(client))


def pcp_map_request(nonce: bytes, client: str, port: int, outside: Address | None, lifetime: int) -> bytes:
    """Ask for a mapping, renew it with the same nonce, or remove it with a lifetime of 0 (RFC 6887 section 11.1).

    Args:
        client: the address this is sent from.
        outside: what is wished for or was given; None for no wish.
    """
    host, outside_port = ("0.0.0.0", port if lifetime else 0) if outside is None else outside
    header = struct.pack("!BBxxI16s", _PCP, _MAP, lifetime, _ip(client))
    return header + _PCP_MAP.pack(nonce, _UDP, port, outside_port, _ip(host))


def parse_router_answer(data: bytes) -> RouterAnswer:
    """Read an answer of either protocol.

    Raises:
        DecodeError: it is none.
    """
    if len(data) > MAX_ANSWER or len(data) < 8:
        raise DecodeError(f"{len(data)} bytes are no answer of a router")
    version, opcode = data[0], data[1]
    if not opcode & _ANSWER:
        raise DecodeError("a request, not an answer")
    if version == _PCP:
        return _parse_pcp(data, opcode & 0x7F)
    if version == _NATPMP:
        return _parse_natpmp(data, opcode & 0x7F)
    raise DecodeError(f"unknown version {version}")


def _parse_natpmp(data: bytes, opcode: int) -> RouterAnswer:
    result, epoch = struct.unpack_from("!HI", data, 2)
    is_map = opcode == _MAP_UDP
    if result:
        return RouterAnswer("NAT-PMP", is_map, result, epoch)
    if opcode == _ADDRESS and len(data) == 12:
        return RouterAnswer("NAT-PMP", False, 0, epoch, host=str(IPv4Address(data[8:12])))
    if is_map and len(data) == 16:
        internal, port, lifetime = struct.unpack_from("!HHI", data, 8)
        return RouterAnswer("NAT-PMP", True, 0, epoch, lifetime, internal_port=internal, port=port)
    raise DecodeError("not an answer of NAT-PMP that we asked for")


def _parse_pcp(data: bytes, opcode: int) -> RouterAnswer:
    if len(data) < _PCP_HEADER or len(data) % 4:
        raise DecodeError("a PCP answer of an impossible length")
    result, lifetime, epoch = data[3], *struct.unpack_from("!II", data, 4)
    if opcode == _ANNOUNCE or (result and len(data) < _PCP_HEADER + _PCP_MAP.size):
        return RouterAnswer("PCP", opcode == _MAP, result, epoch, lifetime)
    if opcode != _MAP or len(data) < _PCP_HEADER + _PCP_MAP.size:
        raise DecodeError("not an answer of PCP that we asked for")
    nonce, protocol, internal, port, outside = _PCP_MAP.unpack_from(data, _PCP_HEADER)
    if protocol != _UDP:
        raise DecodeError("a mapping of another protocol")
    ip = IPv6Address(outside)
    host = str(ip.ipv4_mapped or ip)
    return RouterAnswer("PCP", True, result, epoch, lifetime, nonce, internal, host, port)


def _ip(host: str) -> bytes:
    """16 bytes; IPv4 as RFC 6887 section 5 has it."""
    return (IPv6Address(host) if ":" in host else IPv6Address(f"::ffff:{host}")).packed
