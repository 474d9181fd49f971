"""Where this socket may be reached, gathered from what is known of it, and telling the peers when that changes.

Connected peers alone are told, never a stranger that waits to be admitted; and nobody before the owner of the endpoint
said what addresses our interfaces have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from ..models import Address, Candidate, CandidateKind, SeenAddress
from ..nat.behaviour import is_local
from ..nat.candidates import is_one_host, preferred
from ..wire.frames import Candidates
from .peer import Peer

SETTLING: Final = 1.0
"""Seconds between something new about us and the peers being told: more of the same may follow, and some of it lies."""
MAX_SEEN: Final = 4
"""Addresses that servers and peers see, told at most: behind a NAT that gives each another one they are of no use."""


class Whereabouts:
    """Our own candidates.

    Args:
        peers: all of the socket's.
        seen: where others see us now, the best known first.
        touch: told of a peer that there is something to send to it.

    Attributes:
        hosts: our addresses on our interfaces, as far as they are known.
    """

    def __init__(
        self,
        peers: Iterable[Peer],
        seen: Callable[[float], Sequence[SeenAddress]],
        touch: Callable[[Peer], None],
    ) -> None:
        self._peers = peers
        self._seen = seen
        self._touch = touch
        self.hosts: tuple[Address, ...] = ()
        self._mapped: tuple[Address, ...] = ()
        self._told = Candidates(0, ())
        self._look_at: float | None = None
        self._begun = False

    def candidates(self, now: float) -> tuple[Candidate, ...]:
        """Where we may be reached, as far as we know, the best first.

        What servers see counts by the word of one, for the user chose it; what peers see, once two networks agree.
        """
        found = [Candidate(CandidateKind.HOST, address) for address in self.hosts]
        found += [Candidate(CandidateKind.MAPPED, address) for address in self._mapped]
        seen = []
        for one in self._seen(now):
            by_server = any(witness.startswith("stun ") for witness in one.witnesses)
            if (by_server or one.confirmed) and is_one_host(one.address) and not is_local(one.address):
                kind = CandidateKind.SERVER_REFLEXIVE if by_server else CandidateKind.PEER_REFLEXIVE
                seen.append(Candidate(kind, one.address))
        return tuple(preferred([*found, *seen[:MAX_SEEN]], self.hosts))

    def set_hosts(self, hosts: Iterable[Address], now: float) -> None:
        """Our addresses on our interfaces, from now on."""
        hosts = tuple(dict.fromkeys(hosts))
        if not self._begun:
            self._begun = True
            self.hosts = hosts
            self._renew(now)
        elif hosts != self.hosts:
            self.hosts = hosts
            for peer in self._peers:
                peer.look_again(now)
                self._touch(peer)
            self.stir(now)

    def set_mapped(self, mapped: Iterable[Address], now: float) -> None:
        """Ports that our router forwards to us, from now on."""
        mapped = tuple(dict.fromkeys(mapped))
        if mapped != self._mapped:
            self._mapped = mapped
            self.stir(now)

    def stir(self, now: float) -> None:
        """There may be something new."""
        if self._look_at is None and self._begun:
            self._look_at = now + SETTLING

    def greeting(self) -> Candidates | None:
        """What a peer is told when its session begins; None if there is nothing to say."""
        return self._told if self._told.candidates else None

    def _renew(self, now: float) -> bool:
        candidates = self.candidates(now)
        if candidates == self._told.candidates:
            return False
        self._told = Candidates(self._told.serial + 1, candidates)
        return True

    def next_timer(self) -> float | None:
        """When :meth:`on_timer` has something to do."""
        return self._look_at

    def on_timer(self, now: float) -> None:
        """Tell the connected peers what has changed."""
        if self._look_at is None or now < self._look_at:
            return
        self._look_at = None
        if self._renew(now):
            for peer in self._peers:
                if peer.tell(self._told):
                    self._touch(peer)
