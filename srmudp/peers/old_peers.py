"""Peers on the old wire at the door of an endpoint: how they are added, and whose a datagram is."""

from __future__ import annotations

from collections.abc import Sequence

from ..models import Address, PeerId, Wire
from ..wire.srudp import Dialect
from .host import Host
from .old_peer import LOOPBACK, OldPeer, claimant
from .peer import Peer
from .registry import Registry


def find_old_peer(registry: Registry, datagram: bytes, source: Address) -> OldPeer | None:
    """Whose datagram this is, by the address it came from; on loopback, where srudp has two, by what it is."""
    peer = registry.old.get(source)
    if peer is None and source.host in LOOPBACK:
        peer = claimant({id(other): other for other in registry.old.values()}.values(), datagram, source)
    return peer


def add_old_peer(
    host: Host[Peer],
    registry: Registry,
    name: str,
    addresses: Sequence[Address],
    peer_id: PeerId | None,
    wire: Wire,
    now: float,
) -> None:
    """Add a peer on the old wire, or addresses to one of that name.

    Raises:
        ValueError: it is to have a PeerId, the name stands for a peer on another wire, an address is another peer's,
            or there are too many peers.
    """
    peer = registry.named(name) if name in registry else None
    if peer_id is not None:
        raise ValueError(f"{name!r} speaks {wire}, which cannot prove a PeerId")
    if peer is None:
        if len(registry) >= host.config.max_peers:
            raise ValueError(f"a socket holds at most {host.config.max_peers} peers (Config.max_peers)")
        for address in addresses:
            other = registry.old.get(address)
            if other is not None and not other.lingering:
                raise ValueError(
                    f"{name!r} and {other.name!r} have one address, and {wire} tells peers by nothing else"
                )
            if other is not None:
                host.finish_removal(other, now)  # a program at an address has one session
        peer = OldPeer(host, name, now, Dialect(wire))
        registry.add(peer)
    elif not (isinstance(peer, OldPeer) and peer.dialect == wire):
        raise ValueError(f"{name!r} already stands for a peer on another wire; remove_peer({name!r}) first")
    registry.set_addresses(peer, (*peer.addresses, *addresses))
    host.touch(peer)
