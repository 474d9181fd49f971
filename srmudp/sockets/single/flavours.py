"""The two forms of a ``SecureReliableSocket``, and what follows from the form: arguments, addresses, ports.

*Stream* is the form of srudp: a socket object with ``recv``, addresses as tuples, one port number for both ends.
*Message* is the form of srmudp 0.0.4: whole messages, addresses as text, a port of one's own. Which of them a program
means is seen from the arguments of the constructor, or else from that of ``connect``.
"""

from __future__ import annotations

import base64
import socket
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, NamedTuple

from ...models import PeerId

LOOPBACK: Final = ("127.0.0.1", "::1")
_ED25519: Final = bytes.fromhex("302a300506032b6570032100")  # RFC 8410 section 4: what stands before the key in DER
_FAMILIES: Final = (int(socket.AF_INET), int(socket.AF_INET6))


class Flavour(Enum):
    """Which form a socket has."""

    STREAM = "stream"
    MESSAGE = "message"
    UNDECIDED = "undecided"
    """As STREAM until something is done that only programs with messages do."""


class Terms(NamedTuple):
    """What the constructor was told."""

    flavour: Flavour
    port: int
    family: socket.AddressFamily
    timeout: float
    span: float
    auto_reconnect: bool | None


def read_arguments(positional: tuple[Any, ...], named: Mapping[str, Any], flavour: str | None) -> Terms:
    """Tell the two constructors apart.

    Args:
        positional: ``(family, timeout, span)`` or ``(port, family, timeout, span, auto_reconnect)``.
        named: of the same, those that were given by name.
        flavour: the word of the caller, which decides.

    Raises:
        TypeError: these arguments belong to neither form.
        ValueError: one of them is out of range.
    """
    form = _form(positional, named, flavour)
    names = ("port", "family", "timeout", "span", "auto_reconnect")
    order = names if form is Flavour.MESSAGE else names[1:4]
    if len(positional) > len(order):
        raise TypeError(f"at most {len(order)} positional arguments: ({', '.join(order)})")
    given = dict(zip(order, positional, strict=False))
    for name, value in named.items():
        if name in given:
            raise TypeError(f"{name} is given twice")
        if name not in order:
            raise TypeError(f"{name} belongs to the form with messages, not to flavour={form.value!r}")
        given[name] = value
    port = given.get("port", 0)
    if isinstance(port, bool) or not isinstance(port, int):
        raise TypeError(f"port must be int, not {type(port).__name__}")
    if not 0 <= port <= 65_535:
        raise ValueError(f"port must be between 0 and 65535, not {port}")
    family = given.get("family", socket.AF_INET)
    if family not in _FAMILIES:
        raise ValueError(f"family must be AF_INET or AF_INET6, not {family!r}")
    timeout, span = given.get("timeout", 21.0), given.get("span", 3.0)
    for what, seconds in (("timeout", timeout), ("span", span)):
        if not 0 < seconds < float("inf"):
            raise ValueError(f"{what} must be a positive number of seconds, not {seconds!r}")
    return Terms(form, port, socket.AddressFamily(family), timeout, span, given.get("auto_reconnect"))


def _form(positional: tuple[Any, ...], named: Mapping[str, Any], flavour: str | None) -> Flavour:
    if flavour is not None:
        if flavour not in ("stream", "message"):
            raise ValueError(f"flavour must be 'stream' or 'message', not {flavour!r}")
        return Flavour(flavour)
    if "port" in named or "auto_reconnect" in named:
        return Flavour.MESSAGE
    if positional:
        # AF_INET and AF_INET6 are often written as the numbers they are. Nobody binds port 2 or 10.
        return Flavour.STREAM if positional[0] in _FAMILIES and len(positional) < 4 else Flavour.MESSAGE
    return Flavour.STREAM if "family" in named else Flavour.UNDECIDED


class Meeting(NamedTuple):
    """Where to bind, and where the peer is; both as ``socket`` takes them."""

    own: tuple[Any, ...]
    peer: tuple[Any, ...]


def get_formal_address_format(
    address: tuple[Any, ...], family: int = socket.AF_INET
) -> tuple[str, int] | tuple[str, int, int, int]:
    """The address as the system writes it: ``(host, port)``, or ``(host, port, flow, scope)`` for IPv6.

    Args:
        address: host (text or an ``ipaddress`` object) and port (a number or its text); names are looked up.
        family: ``AF_INET`` or ``AF_INET6``.

    Raises:
        AssertionError: not a tuple.
        OSError: the host has no such address (``socket.gaierror``).
    """
    if not isinstance(address, tuple):
        raise AssertionError("an address is a tuple (host, port), not text")
    found = socket.getaddrinfo(str(address[0]), int(address[1]), family, socket.SOCK_STREAM)
    if not found:
        raise ConnectionError(f"no address of this family: {address!r}")
    return found[0][4]  # type: ignore[return-value]  # of the two families asked for


def get_mtu_linux(family: int, host: str) -> int:
    """Bytes of the largest IP packet on the way to ``host``, as far as Linux knows.

    Raises:
        OSError: no way leads there, or the system does not tell.
    """
    level, discover, mtu = (socket.IPPROTO_IP, 10, 14) if family == socket.AF_INET else (socket.IPPROTO_IPV6, 23, 24)
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))  # of a UDP socket: nothing is sent
        probe.setsockopt(level, discover, 2)  # PMTUDISC_DO
        return probe.getsockopt(level, mtu)


def meetings(address: tuple[Any, ...], family: int) -> list[Meeting]:
    """What to try, in this order, when both ends were told one port number: to bind it, and to reach it.

    On one machine both cannot have it: who comes second takes the port that differs in the last bit.
    """
    host, port, *rest = get_formal_address_format(address, family)
    if host in LOOPBACK:
        one, two = (host, port, *rest), (host, port ^ 1, *rest)
        return [Meeting(one, two), Meeting(two, one)]
    return [Meeting(("", port), (host, port, *rest))]


def host_and_port(address: object) -> tuple[str, int]:
    """Read ``"host:port"``, ``"[v6]:port"``, ``"v6:port"`` or ``(host, port)``.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(address, str):
        host, colon, port = address.rpartition(":")
        if not colon or not port.isdecimal():
            raise ValueError(f"expected 'host:port', not {address!r}")
        return host.removeprefix("[").removesuffix("]"), int(port)
    if isinstance(address, tuple) and len(address) >= 2:
        return str(address[0]), int(address[1])
    raise ValueError(f"expected 'host:port' or (host, port), not {address!r}")


def text_of(address: tuple[Any, ...]) -> str:
    """``"host:port"``, also of IPv6: the last colon stands before the port."""
    return f"{address[0]}:{address[1]}"


def pem_of(peer_id: PeerId) -> bytes:
    """The Ed25519 public key that a PeerId is, in PEM (RFC 8410)."""
    body = base64.b64encode(_ED25519 + peer_id.key)
    return b"-----BEGIN PUBLIC KEY-----\n" + body + b"\n-----END PUBLIC KEY-----\n"


class Curve(NamedTuple):
    """What :func:`find_ecdhe_curve` tells of a curve."""

    name: str
    baselen: int
    """Bytes of a secret key."""


def find_ecdhe_curve(curve_name: str) -> Curve:
    """The curve that old programs name in their first datagram; they use this one only.

    Raises:
        ConnectionError: another name.
    """
    if curve_name not in ("NIST256p", "P-256"):
        raise ConnectionError(f"unknown curve {curve_name!r}")
    return Curve(curve_name, 32)
