"""Peer names and the many ways to write a peer's address, checked completely before anything is done with them.

Text is read here and nowhere else; no name is looked up here (:mod:`.resolver` does that on its own thread).
"""

from __future__ import annotations

import ipaddress
import re
import socket
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from time import time
from typing import NoReturn

from ..exceptions import IdentityError
from ..models import WIRES, Address, NatTraits, Peer, PeerId, Wire
from ..nat.invites import Invite, is_invite

MAX_NAME_BYTES = 64
"""UTF-8 bytes of a peer's or a socket's name: what the handshake has room for."""
MAX_ADDRESSES = 32
"""Addresses one peer may be given; each of them is punched."""

HostPort = str | tuple[str, int]
PeerSpec = HostPort | Peer | list[HostPort]
"""``"host:port"``, ``"[v6]:port"``, ``(host, port)``, ``"<peerid>@host:port"``, an invite (``"srmudp:..."``),
``Peer(...)`` or a list of those."""

# Labels of at most 63 letters, digits and hyphens (RFC 1123 section 2.1); underscores are seen in the wild.
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.IGNORECASE)
# Categories of characters a name may not have: controls, surrogates, line and paragraph separators.
_FORBIDDEN = {"Cc", "Cs", "Zl", "Zp"}
# Bidirectional overrides and isolates: they make one name look like another (attack 62).
_BIDI = {*"\u200e\u200f\u061c", *map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}


@dataclass(frozen=True, slots=True)
class Target:
    """A peer spec, checked and sorted.

    Attributes:
        addresses: those given as numbers.
        hosts: host names and ports still to be looked up.
        peer_id: the pin, or None.
        wire: what is spoken with it.
        nat: what its side told of its NAT.
        token: of an invite; a secret.
    """

    addresses: tuple[Address, ...] = ()
    hosts: tuple[tuple[str, int], ...] = ()
    peer_id: PeerId | None = None
    wire: Wire = "native"
    nat: NatTraits | None = None
    token: bytes = field(default=b"", repr=False)

    def merged(self, other: Target) -> Target:
        """Both together; the pin and NAT of ``other`` win if it has them. They speak the same wire."""
        return Target(
            tuple(dict.fromkeys((*self.addresses, *other.addresses))),
            tuple(dict.fromkeys((*self.hosts, *other.hosts))),
            other.peer_id or self.peer_id,
            self.wire,
            other.nat or self.nat,
            other.token or self.token,
        )


def check_name(name: object, what: str = "peer name") -> str:
    """``name`` itself, if a peer may be called so.

    Raises:
        ValueError: empty, blank, longer than ``MAX_NAME_BYTES`` in UTF-8, or with control characters.
        TypeError: not a ``str``.
    """
    if not isinstance(name, str):
        raise TypeError(f"a {what} must be str, not {type(name).__name__}")
    if not name.strip():
        raise ValueError(f"a {what} must not be empty: {name!r}")
    for character in name:
        if unicodedata.category(character) in _FORBIDDEN or character in _BIDI:
            raise ValueError(f"a {what} must not have the control character {character!a}: {name!a}")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"a {what} must be at most {MAX_NAME_BYTES} bytes of UTF-8: {name!r}")
    return name


def parse_peers(peers: object, own: PeerId | None = None, wire: Wire = "native") -> dict[str, Target]:
    """Every entry of a mapping from name to peer spec, read and checked.

    Args:
        peers: see :data:`PeerSpec`.
        own: our own identity, which is refused as a peer's.
        wire: what is spoken with those whose spec says nothing of it.

    Raises:
        ValueError: an entry cannot be used; the text names it. Nothing of the mapping may be used then.
        TypeError: not a mapping.
    """
    if not isinstance(peers, Mapping):
        raise TypeError(f"peers must be a mapping from name to address, not {type(peers).__name__}")
    targets: dict[str, Target] = {}
    seen: dict[str, str] = {}
    for name, spec in peers.items():
        try:
            check_name(name)
        except TypeError as error:
            raise ValueError(f"peer {name!a}: {error}") from None
        normal = unicodedata.normalize("NFC", name)
        if normal in seen:
            raise ValueError(f"peer {name!a}: the same name as {seen[normal]!a}, in another Unicode form")
        seen[normal] = name
        targets[name] = parse_target(name, spec, own, wire)
    return targets


def parse_target(name: str, spec: object, own: PeerId | None = None, wire: Wire = "native") -> Target:
    """One peer spec, read and checked.

    Raises:
        ValueError: it cannot be used; the text names the peer and the part.
    """
    what = f"peer {name!r}"
    entries: Iterable[object]
    peer_id: PeerId | None = None
    nat: NatTraits | None = None
    token = b""
    if isinstance(spec, Peer):
        peer_id, given = spec.peer_id, spec.addresses
        if peer_id is not None and not isinstance(peer_id, PeerId):
            _refuse(what, peer_id, "peer_id must be a PeerId; PeerId.parse(text) makes one")
        entries = [given] if _is_single(given) else list(given)
        wire = wire if spec.wire is None else check_wire(spec.wire)
        nat = spec.nat
        if nat is not None and not isinstance(nat, NatTraits):
            _refuse(what, nat, "nat must be NatTraits")
    elif isinstance(spec, list):
        entries = spec
    else:
        entries = [spec]
    addresses: dict[Address, None] = {}
    hosts: dict[tuple[str, int], None] = {}
    for entry in entries:
        if is_invite(entry):
            invite = read_invite(what, entry, own)
            if peer_id not in (None, invite.peer_id):
                raise ValueError(f"{what}: the invite is of another PeerId than the one given")
            peer_id, nat, token, wire = invite.peer_id, nat or invite.nat, invite.token, "native"
            addresses.update(dict.fromkeys(invite.addresses))
            continue
        pin, host, port = _split(what, entry)
        if pin is not None:
            if peer_id is not None and pin != peer_id:
                _refuse(what, entry, "two different PeerIds for one peer")
            peer_id = pin
        literal = _literal(what, entry, host)
        if literal is None:
            hosts[host.rstrip(".").lower(), port] = None
        else:
            addresses[Address(literal, port)] = None
    if not addresses and not hosts and not isinstance(spec, Peer):
        _refuse(what, spec, "no address given")
    if len(addresses) + len(hosts) > MAX_ADDRESSES:
        raise ValueError(f"{what}: more than {MAX_ADDRESSES} addresses")
    if own is not None and peer_id == own:
        raise ValueError(f"{what}: this is the PeerId of this socket itself")
    if wire != "native" and peer_id is not None:
        raise ValueError(f"{what}: a program that speaks {wire} cannot prove a PeerId")
    return Target(tuple(addresses), tuple(hosts), peer_id, wire, nat, token)


def read_invite(what: str, text: object, own: PeerId | None = None) -> Invite:
    """An invite that may be used.

    Args:
        what: what it is given for, for the texts of errors, which never show any of it.
        own: our own PeerId.

    Raises:
        ValueError: it is damaged, has expired, or is our own.
    """
    try:
        invite = Invite.parse(str(text))
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
    if own is not None and invite.peer_id == own:
        raise ValueError(f"{what}: this is our own invite: send it to the other one, and add the one they send")
    late = time() - invite.expires
    if late >= 0:
        raise ValueError(
            f"{what}: the invite expired {_ago(late)} ago (is this machine's clock right?): ask for a new one"
        )
    return invite


def _ago(seconds: float) -> str:
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)):
        if seconds >= size or size == 1:
            count = max(1, int(seconds // size))
            return f"{count} {unit}{'' if count == 1 else 's'}"
    raise AssertionError


def check_wire(wire: object) -> Wire:
    """``wire`` itself, if there is such a wire.

    Raises:
        ValueError: there is not.
    """
    for known in WIRES:
        if wire == known:
            return known
    raise ValueError(f"wire must be one of {', '.join(map(repr, WIRES))}, not {wire!r}")


def parse_server(spec: object, port: int) -> Address | tuple[str, int]:
    """A server: its address, or host name and port.

    Args:
        spec: ``"host:port"``, ``"host"``, ``"[v6]:port"``, ``"[v6]"`` or ``(host, port)``.
        port: where none is given.

    Raises:
        ValueError: it cannot be used; the text says why.
    """
    what = "server"
    if isinstance(spec, str) and (":" not in spec or spec.strip().endswith("]")):
        spec = f"{spec.strip()}:{port}"
    pin, host, port = _split(what, spec)
    if pin is not None:
        _refuse(what, spec, "servers have no PeerId")
    literal = _literal(what, spec, host)
    return (host.rstrip(".").lower(), port) if literal is None else Address(literal, port)


def _is_single(given: object) -> bool:
    """True for one address, which is a tuple as well: ``("host", 8000)`` is one, ``("a:1", "b:2")`` are two."""
    return not isinstance(given, list | tuple) or (
        isinstance(given, tuple) and len(given) == 2 and not isinstance(given[1], str | tuple)
    )


def _split(what: str, entry: object) -> tuple[PeerId | None, str, int]:
    """Pin, host text without brackets, and port."""
    if isinstance(entry, tuple):
        if len(entry) != 2:
            _refuse(what, entry, "an address is (host, port)")
        host, port = entry
        if isinstance(host, ipaddress.IPv4Address | ipaddress.IPv6Address):
            host = str(host)
        if not isinstance(host, str):
            _refuse(what, entry, "the host must be str")
        if isinstance(port, bool) or not isinstance(port, int):
            _refuse(what, entry, "the port must be int")
        host = host.strip()
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        return None, host, _port(what, entry, port)
    if not isinstance(entry, str):
        _refuse(what, entry, "not an address: expected 'host:port', '[v6]:port' or (host, port)")
    pin, text = None, entry.strip()
    if "@" in text:
        before, _, text = text.rpartition("@")
        try:
            pin = PeerId.parse(before)
        except IdentityError as error:
            _refuse(what, entry, f"before '@': {error}")
    if text.startswith("["):
        host, bracket, port_text = text[1:].rpartition("]:")
        if not bracket or ":" not in host:
            _refuse(what, entry, "expected '[IPv6 address]:port'")
    else:
        host, colon, port_text = text.rpartition(":")
        if not colon:
            _refuse(what, entry, "no port; expected 'host:port'")
        if ":" in host:
            _refuse(what, entry, "an IPv6 address needs brackets: '[address]:port'")
    if not (port_text.isascii() and port_text.isdigit() and len(port_text) <= 5):
        _refuse(what, entry, "the port must be a number")
    return pin, host, _port(what, entry, int(port_text))


def _port(what: str, entry: object, port: int) -> int:
    if not 1 <= port <= 65_535:
        _refuse(what, entry, "the port must be between 1 and 65535")
    return port


def _literal(what: str, entry: object, host: str) -> str | None:
    """The canonical text of an IP address, or None for a well-formed host name."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        _check_host(what, entry, host)
        return None
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if is_nobody(ip):
        _refuse(what, entry, "no single host has this address")
    if isinstance(ip, ipaddress.IPv6Address) and ip.scope_id is not None and not ip.scope_id.isdigit():
        try:
            return f"{str(ip).partition('%')[0]}%{socket.if_nametoindex(ip.scope_id)}"
        except OSError:
            _refuse(what, entry, f"there is no network interface {ip.scope_id!r}")
    return str(ip)


def is_nobody(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """True for an address that no single host has: it must not be punched, whoever gave it."""
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return ip.is_unspecified or ip.is_multicast or ip == ipaddress.IPv4Address("255.255.255.255")


def _check_host(what: str, entry: object, host: str) -> None:
    try:
        ascii_host = host.rstrip(".").encode("idna").decode() if not host.isascii() else host.rstrip(".")
    except UnicodeError:
        _refuse(what, entry, "not a host name")
    labels = ascii_host.split(".")
    if len(ascii_host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        _refuse(what, entry, "not a host name")
    if labels[-1].isdigit():
        _refuse(what, entry, "not an IPv4 address")  # RFC 1123 section 2.1: a host name never looks like one


def _refuse(what: str, entry: object, why: str) -> NoReturn:
    shown = ascii(entry)
    raise ValueError(f"{what}: {shown if len(shown) <= 200 else shown[:200] + '...'}: {why}")
