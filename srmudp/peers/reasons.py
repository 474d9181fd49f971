"""Why the peers of one socket are not connected: what is known of them and of us, put together for a judgement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from ..models import Address, CandidateKind, EventKind, PeerEvent, PeerState
from ..nat.behaviour import is_local
from ..nat.diagnosis import NatKind, kind_of
from ..nat.explanation import Cause, Evidence, Heard, Tried, judge
from .peer import Peer
from .registry import Registry
from .stun import Stun
from .trail import Place, Trail
from .ways import Way
from .whereabouts import Whereabouts

FRESH: Final = 0.5
"""Seconds for which what is known of ourselves is taken as it was."""
TELL_EVERY: Final = 10.0
"""Seconds between two events about one peer that is not reached."""
TOGETHER: Final = 5.0
"""Seconds within which several peers fell silent at once."""


class _Us(NamedTuple):
    """What is known of this end.

    Attributes:
        at: when this was put together.
        kind: our NAT.
        blocked: servers were asked, none answered, and nobody was heard since.
        connected: whether anybody is.
        lost: since when peers are lost.
        outside: the hosts that servers see us at.
    """

    at: float
    kind: NatKind
    blocked: bool
    connected: bool
    lost: tuple[float, ...]
    outside: frozenset[str]


class Reasons:
    """Called under the endpoint lock.

    Args:
        whereabouts: has our addresses on our interfaces, as far as they are known.
        emit: takes an event.
        knocks: of strangers who were let stand.
    """

    def __init__(
        self,
        registry: Registry,
        stun: Stun,
        knocks: Trail,
        whereabouts: Whereabouts,
        emit: Callable[[PeerEvent], None],
    ) -> None:
        self._whereabouts = whereabouts
        self._registry = registry
        self._stun = stun
        self._knocks = knocks
        self._emit = emit
        self._us: _Us | None = None

    def note(self, peer: Peer, now: float) -> None:
        """Have the peer's status say why it is not connected, as far as that is known, and tell it if it is new."""
        judgement = judge(self.evidence(peer, now))
        if judgement.cause is Cause.JUST_BEGUN:
            return
        before = peer.judged
        if before is None or (before[0], before[1].cause) != (peer.failure, judgement.cause):
            peer.judged = (peer.failure, judgement)  # else the words stay: strangers may have a part in them
        told, at = peer.told
        if judgement.text == peer.failure or peer.lingering:
            return  # the event that ended it said so
        if judgement.cause is not told and now >= at:
            peer.told = (judgement.cause, now + TELL_EVERY)
            self._emit(PeerEvent(EventKind.UNREACHED, peer.name, peer.peer_id, None, judgement.text))

    def evidence_of(self, name: str, now: float) -> Evidence:
        """All that is known of the peer of that name.

        Raises:
            UnknownPeer: there is no such peer.
        """
        return self.evidence(self._registry.named(name), now)

    def evidence(self, peer: Peer, now: float) -> Evidence:
        """All that is known of one peer."""
        us = self._look_at_us(now)
        ways = {way.address: way for way in peer.ways}
        trail, targets = peer.trail, dict.fromkeys((*peer.opening.targets(), *ways))
        tried = [self._tried(at, self._origin(peer, at, ways), trail.get(at), now) for at in targets]
        tried += [self._tried(at, "knocked from there", place, now) for at, place in trail if at not in targets]
        if peer.connected:
            tried = [_of_way(one, ways.get(one.address), now) for one in tried]
        far = self._is_far([one.address for one in tried], us)
        traits = peer.nat
        lost = [since for since in us.lost if abs(since - peer.since) <= TOGETHER]
        return Evidence(
            state=peer.state,
            failure=peer.failure or "",
            waited=now - peer.since,
            tried=tried,
            knocks=[self._tried(where, "nobody was added there", place, now) for where, place in self._knocks],
            # Between two in one network, and over IPv6, no such NAT is in the way.
            ours=us.kind if far else NatKind.UNKNOWN,
            theirs=kind_of(traits.mapping, traits.filtering) if far and traits is not None else NatKind.UNKNOWN,
            blocked=us.blocked and far,
            pinned=peer.peer_id is not None,
            path=self._path(peer, now) if peer.connected else "",
            others_lost=0 if us.connected or peer.state is not PeerState.LOST else len(lost) - 1,
        )

    @staticmethod
    def _path(peer: Peer, now: float) -> str:
        status = peer.status(now)
        rtt = "" if status.rtt is None else f", round trip {status.rtt * 1000:.1f} ms"
        heard = "" if status.last_seen is None else f", heard {status.last_seen:.1f} s ago"
        return f" with {status.address}{rtt}{heard}"

    def _is_far(self, addresses: Sequence[Address], us: _Us) -> bool:
        """Whether it takes a way through both NATs: no LAN that both may be on, no IPv6."""
        public = {one.host for one in addresses if ":" not in one.host and not is_local(one)}
        home = not public or not public.isdisjoint(us.outside)
        hosts = self._whereabouts.hosts
        six = not hosts or any(":" in host.host and not is_local(host) for host in hosts)
        return not any(home if is_local(one) else six and ":" in one.host for one in addresses)

    @staticmethod
    def _origin(peer: Peer, address: Address, ways: Mapping[Address, Way]) -> str:
        if address in peer.addresses:
            return "given"
        kind = ways[address].candidate.kind if address in ways else CandidateKind.GIVEN
        return "last seen there" if kind is CandidateKind.GIVEN else f"{kind.value}, as it told"

    @staticmethod
    def _tried(address: Address, origin: str, place: Place | None, now: float) -> Tried:
        if place is None:
            return Tried(address, origin)
        return Tried(
            address,
            origin,
            place.sent,
            None if place.sent_at is None else now - place.sent_at,
            {what.value: count for what, count in place.heard.items()},
            None if place.heard_at is None else now - place.heard_at,
        )

    def _look_at_us(self, now: float) -> _Us:
        us = self._us
        if us is None or not now - FRESH <= us.at <= now:
            samples = self._stun.samples
            kind = kind_of(samples.mapping(now), samples.filtering(now))
            us = self._us = _Us(
                now,
                kind,
                self._is_blocked(),
                any(peer.connected for peer in self._registry),
                tuple(peer.since for peer in self._registry if peer.state is PeerState.LOST),
                frozenset(sample.mapped.host for sample in samples.recent(now)),
            )
        return us

    def _is_blocked(self) -> bool:
        silent, answered = self._stun.silent_at, self._stun.answered_at
        if silent is None or (answered is not None and answered >= silent):
            return False
        heard = [at for peer in self._registry for at in (peer.last_heard, peer.trail.heard_at) if at is not None]
        return all(at < silent for at in heard) and (self._knocks.heard_at is None or self._knocks.heard_at < silent)


def _of_way(one: Tried, way: Way | None, now: float) -> Tried:
    """What was tried at an address of a connected peer, with what is known of it as a way."""
    if way is None or not way.sent:
        return one
    heard = {**one.heard, Heard.WAY.value: way.answers} if way.answers else one.heard
    proven = now - way.proven_at if way.proven_at is not None else one.last_heard
    return one._replace(sent=one.sent + way.sent, heard=heard, last_heard=proven)
