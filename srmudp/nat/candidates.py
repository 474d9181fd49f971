"""Addresses at which a peer may be reached: which of them may be tried at all, and which first.

What a peer says of itself is filtered, for it may name anybody: no address of several hosts or of none, no loopback
or link-local one unless that is where we met, no port of a well-known service. What our own user gave is tried as it
is, if it can be an address of one host. The words are those of RFC 8445; the order is: the same network, IPv6 (as RFC
8421 has it), IPv4.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from ..models import Address, Candidate, CandidateKind
from ..wire.frames import MAX_CANDIDATES
from .behaviour import is_local

__all__ = ["MAX_CANDIDATES", "believable", "is_one_host", "may_try_claimed", "nearness", "preferred", "priority"]

FIRST_PORT: Final = 1024
"""Ports below belong to well-known services (DNS, NTP, ...): nothing goes there because a peer says so."""
TYPE_PREFERENCE: Final = {
    CandidateKind.HOST: 126,
    CandidateKind.PEER_REFLEXIVE: 110,
    CandidateKind.MAPPED: 105,
    CandidateKind.SERVER_REFLEXIVE: 100,
    CandidateKind.GIVEN: 90,
}
"""RFC 8445 section 5.1.2.2; a mapped port is as good as what a server sees, and there on purpose."""

SAME_NETWORK, GLOBAL_6, GLOBAL_4, FAR_PRIVATE = 3, 2, 1, 0
"""What :func:`nearness` says, the nearest first."""


def host_of(address: Address) -> IPv4Address | IPv6Address | None:
    """The IP address as such, or None if it is none; a zone is left out."""
    try:
        return ip_address(address.host.partition("%")[0])
    except ValueError:
        return None


def is_one_host(address: Address) -> bool:
    """Whether a datagram to it could reach one host: not unspecified, broadcast, multicast or reserved, and a port.

    The broadcast address of a network cannot be told from a host's; the system refuses to send there unasked.
    """
    ip = host_of(address)
    if ip is None or not 0 < address.port < 1 << 16:
        return False
    if isinstance(ip, IPv6Address) and (ip.ipv4_mapped is not None or ip.sixtofour is not None):
        return False  # IPv4 in disguise would pass by what is asked of IPv4
    if isinstance(ip, IPv4Address):
        return not (ip.is_multicast or ip.is_reserved or ip.packed[0] == 0)
    return not (ip.is_multicast or ip.is_unspecified)


def may_try_claimed(address: Address, met: Collection[Address], ours: Collection[Address]) -> bool:
    """Whether a few bytes may go to an address for no other reason than that a peer says it is its own.

    Args:
        met: where that peer was met: proven, or given by our user.
        ours: our own addresses.
    """
    ip = host_of(address)
    if ip is None or not is_one_host(address) or address.port < FIRST_PORT or address in ours:
        return False
    if "%" in address.host:
        return False  # the zone is of the other's machine
    if ip.is_loopback:
        return any((other := host_of(one)) is not None and other.is_loopback for one in met)
    if ip.is_link_local:
        return ip.version == 4 and any(same_network(address, one) for one in (*met, *ours))
    return True


def same_network(one: Address, other: Address) -> bool:
    """Whether two addresses are probably of one link: one /24, or one /64. Masks are not known of others."""
    a, b = host_of(one), host_of(other)
    if a is None or b is None or a.version != b.version:
        return False
    bits = 8 if a.version == 4 else 64
    return int(a) >> bits == int(b) >> bits


def nearness(address: Address, ours: Collection[Address] = ()) -> int:
    """How near an address looks, whoever says so: on a link of ours, IPv6, IPv4, on somebody's private network.

    Private ones come first where nothing is known of our own links, and last where none of them fits: two homes use
    the same ones.
    """
    if any(same_network(address, one) for one in ours):
        return SAME_NETWORK
    if is_local(address):
        return FAR_PRIVATE if ours else SAME_NETWORK
    return GLOBAL_6 if ":" in address.host else GLOBAL_4


def priority(candidate: Candidate, ours: Collection[Address] = ()) -> int:
    """A number that is larger the sooner a candidate is to be tried. Only good to compare.

    Unlike that of RFC 8445 section 5.1.2.1 it looks at :func:`nearness` first and at the kind then: a host address of
    an IPv4 network elsewhere is no better for being a host's.
    """
    return nearness(candidate.address, ours) << 8 | TYPE_PREFERENCE[candidate.kind]


def preferred(candidates: Iterable[Candidate], ours: Collection[Address] = ()) -> list[Candidate]:
    """The same by :func:`priority`, each address once under its best kind, at most ``MAX_CANDIDATES``.

    Args:
        ours: our own addresses on our interfaces, where they are known.
    """
    best: dict[Address, Candidate] = {}
    for candidate in candidates:
        known = best.get(candidate.address)
        if known is None or TYPE_PREFERENCE[candidate.kind] > TYPE_PREFERENCE[known.kind]:
            best[candidate.address] = candidate
    return sorted(best.values(), key=lambda one: priority(one, ours), reverse=True)[:MAX_CANDIDATES]


def believable(claimed: Sequence[Candidate], met: Collection[Address], ours: Collection[Address]) -> list[Candidate]:
    """Of what a peer says of itself, what may be tried: filtered, in order, capped.

    Args:
        met: where that peer was met.
        ours: our own addresses on our interfaces.
    """
    found = [one for one in claimed[:MAX_CANDIDATES] if may_try_claimed(one.address, met, ours)]
    return preferred(found, ours)
