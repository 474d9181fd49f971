"""The peers of one socket: by name, by key, by address."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeVar

from ..exceptions import UnknownPeer
from ..models import Address, PeerId
from ..nat.stun import is_sound
from .old_peer import OldPeer
from .peer import Peer

Key = TypeVar("Key")

REMEMBERED_REMOVALS = 4096
"""Removed PeerIds that are refused; the oldest is forgotten first."""
FEW: Final = 8
"""Peers behind one IP address of which any may be meant by something from a port that none of them has."""


class Registry:
    """Who is who. A name stands for one peer; a key for at most one peer; an alias is a second name of a peer."""

    def __init__(self) -> None:
        self._names: dict[str, Peer] = {}
        self._by_id: dict[PeerId, Peer] = {}
        self._peers: dict[int, Peer] = {}
        self._removed: dict[PeerId, None] = {}
        self._at: dict[Address, list[Peer]] = {}
        self._near: dict[str, list[Peer]] = {}
        self.old: dict[Address, OldPeer] = {}
        """Peers on the old wire by their address."""
        self.untouched = True
        """True until the first peer comes."""

    def __iter__(self) -> Iterator[Peer]:
        """Every peer, lingering ones included."""
        return iter(list(self._peers.values()))

    def __len__(self) -> int:
        return len(self._peers)

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def named(self, name: str) -> Peer:
        """The peer of that name or alias.

        Raises:
            UnknownPeer: there is none; the text lists the names there are.
        """
        peer = self._names.get(name)
        if peer is None:
            known = ", ".join(sorted(self._names)[:20]) or "none"
            raise UnknownPeer(f"no peer is called {name!r} (known: {known})")
        return peer

    def names(self) -> dict[str, Peer]:
        """Every name with its peer, aliases included."""
        return dict(self._names)

    def by_id(self, peer_id: PeerId) -> Peer | None:
        """The peer that proved this key or must prove it."""
        return self._by_id.get(peer_id)

    def at(self, address: Address) -> list[Peer]:
        """Unpinned peers without a key that are configured at exactly this address."""
        # Lingering ones included: what was sent before the name was removed is theirs, not their neighbour's.
        return [peer for peer in self._at.get(address, ()) if peer.peer_id is None]

    def expects(self, address: Address) -> bool:
        """True if an unpinned peer is configured at exactly this address, whether its key is known or not."""
        return any(not peer.pinned for peer in self._at.get(address, ()))

    def only_one_at(self, host: str) -> Peer | None:
        """The unpinned, unconnected peer configured at this IP address, if there is exactly one.

        Whoever knocks from there may be any of them, also one that has proven a key: its program may have come back
        with a new one.
        """
        found = None
        for peer in self._near.get(host, ()):
            if not (peer.pinned or peer.connected):
                if found is not None:
                    return None
                found = peer
        return found

    def sightings(self) -> list[tuple[str, Address, Address]]:
        """Name of each connected peer, its address, and ours as it sees it; nothing that cannot be."""
        found = []
        for peer in self:
            where, seen = peer.address, peer.observed
            if peer.connected and where is not None and seen is not None and is_sound(seen, where):
                found.append((peer.name, where, seen))
        return found

    def near(self, host: str) -> Sequence[Peer]:
        """The peers configured at this IP address."""
        return self._near.get(host, ())

    def concerned(self, source: Address) -> Sequence[Peer]:
        """Whom something from there may be about: who is configured just there, or else the few at that IP address."""
        exact = self._at.get(source)
        if exact is not None:
            return exact
        near = self._near.get(source.host, ())
        return near if len(near) <= FEW else ()

    def far_ends(self, most: int) -> dict[str, Address]:
        """Where peers are or are looked for, by host: at most so many."""
        found: dict[str, Address] = {}
        for peer in self:
            for address in (peer.address,) if peer.connected else peer.opening.targets():
                if address is not None and len(found) < most:
                    found[address.host] = address
        return found

    def is_somebodys(self, address: Address) -> bool:
        """True if any peer is configured at exactly this address."""
        return address in self._at

    def is_configured(self, host: str) -> bool:
        """True if any peer was added with an address of this host."""
        return host in self._near

    def set_addresses(self, peer: Peer, addresses: Sequence[Address]) -> None:
        """Where the peer is configured to be, from now on; each address once."""
        self._unfile(peer)
        peer.addresses = list(dict.fromkeys(addresses))
        if id(peer) in self._peers:
            self._file(peer)

    def _file(self, peer: Peer) -> None:
        if isinstance(peer, OldPeer):
            for address in peer.addresses:
                self.old.setdefault(address, peer)
            return
        for address in peer.addresses:
            self._at.setdefault(address, []).append(peer)
        for host in dict.fromkeys(address.host for address in peer.addresses):
            self._near.setdefault(host, []).append(peer)

    def _unfile(self, peer: Peer) -> None:
        if isinstance(peer, OldPeer):
            self.old = {address: other for address, other in self.old.items() if other is not peer}
            for other in self._peers.values():
                if isinstance(other, OldPeer) and other is not peer:
                    self._file(other)  # it may have waited for one of the addresses
            return
        _take_out(self._at, peer.addresses, peer)
        _take_out(self._near, dict.fromkeys(address.host for address in peer.addresses), peer)

    def add(self, peer: Peer) -> None:
        """A new peer under its name."""
        self.untouched = False
        self._peers[id(peer)] = peer
        self._names[peer.name] = peer
        self._file(peer)

    def bind(self, peer: Peer, peer_id: PeerId) -> None:
        """The peer's key is known from now on."""
        if peer.peer_id is not None and self._by_id.get(peer.peer_id) is peer:
            del self._by_id[peer.peer_id]
        peer.peer_id = peer_id
        self._by_id[peer_id] = peer
        self._removed.pop(peer_id, None)

    def unbind(self, peer: Peer) -> None:
        """Forget the peer's key."""
        if peer.peer_id is not None and self._by_id.get(peer.peer_id) is peer:
            del self._by_id[peer.peer_id]
        peer.peer_id = None

    def rename(self, peer: Peer, name: str) -> None:
        """Give the peer another first name; the old one is free."""
        if self._names.get(peer.name) is peer:
            del self._names[peer.name]
        peer.name = name
        self._names[name] = peer

    def alias(self, name: str, peer: Peer) -> None:
        """A second name of a peer."""
        self._names[name] = peer
        peer.aliases.add(name)

    def free_names(self, peer: Peer) -> None:
        """The peer's names may be given to others."""
        for name in (peer.name, *peer.aliases):
            if self._names.get(name) is peer:
                del self._names[name]
        peer.aliases.clear()

    def drop_alias(self, name: str) -> None:
        """Forget one alias; the peer stays under its other names."""
        self._names.pop(name).aliases.discard(name)

    def drop(self, peer: Peer) -> None:
        """Forget the peer altogether."""
        self.free_names(peer)
        self.set_addresses(peer, ())
        self._peers.pop(id(peer), None)
        if peer.peer_id is not None and self._by_id.get(peer.peer_id) is peer:
            del self._by_id[peer.peer_id]

    def remember_removed(self, peer_id: PeerId) -> None:
        """Refuse this key until it is added again."""
        self._removed[peer_id] = None
        if len(self._removed) > REMEMBERED_REMOVALS:
            del self._removed[next(iter(self._removed))]

    def was_removed(self, peer_id: PeerId) -> bool:
        """True if the key belongs to a peer that was removed."""
        return peer_id in self._removed

    def free_name(self, wanted: str, peer_id: PeerId) -> str:
        """``wanted`` if nobody has it, else the same with a key tag."""
        name = wanted or peer_id.tag
        if name in self._names:
            name = f"{name}#{peer_id.tag}"
        counter = 2
        base = name
        while name in self._names:
            name = f"{base}-{counter}"
            counter += 1
        return name


def _take_out(index: dict[Key, list[Peer]], keys: Iterable[Key], peer: Peer) -> None:
    for key in keys:
        peers = index.get(key, [])
        if peer in peers:
            peers.remove(peer)
        if not peers:
            index.pop(key, None)
