"""The addresses of this machine's interfaces. Sends nothing to anybody, looks up no name on the network.

On Linux the kernel lists them (rtnetlink, RTM_GETADDR). Elsewhere the system is asked from which address it would send
to somewhere far, for each family, which finds the one that matters most, and which ones it thinks its own name has.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from ..models import Address

MAX_HOSTS: Final = 12
"""Addresses of interfaces that are of interest at most: with what is seen from outside, a peer is told of 16."""

# linux/rtnetlink.h, linux/if_addr.h
_GETADDR: Final = 22
_NEWADDR: Final = 20
_DONE: Final = 3
_ERROR: Final = 2
_REQUEST_DUMP: Final = 0x0301
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_UNFIT: Final = 0x08 | 0x20 | 0x40  # duplicate, deprecated, tentative
_TEMPORARY: Final = 0x01
_HEADER = struct.Struct("=IHHII")
_MESSAGE = struct.Struct("=BBBBi")
_ATTRIBUTE = struct.Struct("=HH")
_WAIT: Final = 0.5

_FAR: Final = ((socket.AF_INET, ("192.0.2.1", 9)), (socket.AF_INET6, ("2001:db8::1", 9)))
"""Addresses kept for documentation (RFC 5737, RFC 3849): the way to them is the default route. Nothing is sent."""

IP = IPv4Address | IPv6Address


def host_addresses(bound: Address, fileno: int = -1, *, by_name: bool = True) -> tuple[Address, ...]:
    """Our own addresses on our interfaces with the port of a socket: where neighbours could reach it.

    Loopback and link-local ones are left out unless there is nothing else. Takes less than a millisecond on Linux.

    Args:
        bound: where the socket is bound. ``0.0.0.0`` stands for everywhere, which is both families where the socket
            has both, ``::`` for everywhere over IPv6.
        fileno: its descriptor, to tell its family.
        by_name: where the system does not list them, also look up which ones our own name has. That may take long.
    """
    given = ip_address(bound.host.partition("%")[0])
    if not given.is_unspecified:
        return (bound,)
    only = 6 if given.version == 6 else 4 if _family(fileno) == socket.AF_INET else None
    found = [ip for ip in _all_addresses(by_name) if only in (None, ip.version)]
    good = [ip for ip in found if not (ip.is_loopback or ip.is_link_local)]
    # Of the rest only loopback means anything to others, and to those on this machine alone.
    good = good or [ip for ip in found if ip.is_loopback]
    return tuple(Address(str(ip), bound.port) for ip in dict.fromkeys(good))[:MAX_HOSTS]


def _family(fileno: int) -> int | None:
    try:
        borrowed = socket.socket(fileno=fileno)
    except (OSError, ValueError):
        return None
    family = int(borrowed.family)
    borrowed.detach()
    return family


def _all_addresses(by_name: bool) -> list[IP]:
    if sys.platform == "linux":
        try:
            return _from_kernel()
        except (OSError, ValueError, struct.error):
            pass  # a sandbox without netlink
    return _from_routes(by_name)


def _from_kernel() -> list[IP]:
    """What the kernel lists: temporary IPv6 addresses first, as the system prefers them to send from."""
    found: list[tuple[bool, IP]] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as kernel:
        kernel.settimeout(_WAIT)
        body = _MESSAGE.pack(0, 0, 0, 0, 0)
        kernel.sendto(_HEADER.pack(_HEADER.size + len(body), _GETADDR, _REQUEST_DUMP, 1, 0) + body, (0, 0))
        while True:
            data, sender = kernel.recvfrom(1 << 16)
            if sender[0] != 0:
                continue  # not the kernel
            for kind, message in _messages(data):
                if kind == _DONE:
                    return [ip for _, ip in sorted(found, key=lambda one: not one[0])]
                if kind == _ERROR:
                    raise OSError("the kernel refuses to list addresses")
                if kind == _NEWADDR:
                    found += _address_in(message)


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _HEADER.size <= len(data):
        size, kind, _, _, _ = _HEADER.unpack_from(data, offset)
        if size < _HEADER.size:
            return
        yield kind, data[offset + _HEADER.size : offset + size]
        offset += (size + 3) & ~3


def _address_in(message: bytes) -> Iterable[tuple[bool, IP]]:
    """The address of one RTM_NEWADDR, if it is fit to be told, and whether it is a temporary one."""
    family, _, flags, _, _ = _MESSAGE.unpack_from(message)
    values: dict[int, bytes] = {}
    offset = _MESSAGE.size
    while offset + _ATTRIBUTE.size <= len(message):
        size, kind = _ATTRIBUTE.unpack_from(message, offset)
        if size < _ATTRIBUTE.size:
            break
        values[kind] = message[offset + _ATTRIBUTE.size : offset + size]
        offset += (size + 3) & ~3
    # On a point-to-point link IFA_ADDRESS is the other end's.
    packed = values.get(_IFA_LOCAL, values.get(_IFA_ADDRESS, b""))
    six = family == socket.AF_INET6
    if len(packed) != (16 if six else 4) or (six and flags & _UNFIT):
        return ()
    return ((six and bool(flags & _TEMPORARY), ip_address(packed)),)


def _from_routes(by_name: bool = True) -> list[IP]:
    """Which addresses we would send from, and those that our own name has."""
    found: list[IP] = []
    for family, far in _FAR:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect(far)
                found.append(ip_address(probe.getsockname()[0].partition("%")[0]))
        except (OSError, ValueError):
            continue  # no route of this family
    try:
        answers = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_DGRAM) if by_name else []
    except (OSError, UnicodeError):
        answers = []
    for answer in answers:
        if answer[0] in (socket.AF_INET, socket.AF_INET6):
            found.append(ip_address(str(answer[4][0]).partition("%")[0]))
    return found
