"""How a session with one peer comes about: our attempt to reach it, its attempt to reach us, the half-open session.

::

    our attempt:   punch where the peer may be -> answered: SHARED_KEY until established -> half open
    the other's:   a proven SHARED_KEY -> ESTABLISHED -> half open

Half open is a session under which no record opened yet. The peer confirms it with the first that does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..models import Address, PeerState
from ..nat.candidates import nearness
from ..nat.holepunch import FIRST_PHASE
from ..protocol.events import ResolveWanted
from ..protocol.handshake import Agreed, Opening, outranks
from ..protocol.session import Session
from ..wire.frames import Established
from .attempts import ATTEMPT_LIFETIME, PUNCH_SPACING, PUNCHED_AT_ONCE, UNANSWERED, Attempt
from .host import Host
from .paths import UNPROVEN_SENDS
from .punching import Puncher

if TYPE_CHECKING:
    from .peer import Peer

MAX_STANDBYS: Final = 4
"""Addresses punched besides, because the peer answered from there while it was connected."""
EARLY: Final = 2
"""Punches after which it is looked at for the first time why nobody answered."""


class SessionOpening:
    """The attempts at a session with one peer.

    Attributes:
        attempt: our own, if one is under way.
        half_open: the session that waits for its first record.
        source: the address that the half-open session was agreed with.
        tried: instance and generation that our last attempt agreed on.
        next_attempt_at: not before then do we begin another.
        puncher: how far and where else we punch.
    """

    __slots__ = ("_endpoint", "_peer", "attempt", "half_open", "next_attempt_at", "puncher", "source", "tried")

    def __init__(self, endpoint: Host[Peer], peer: Peer, now: float) -> None:
        self._endpoint = endpoint
        self._peer = peer
        self.attempt: Attempt | None = None
        self.half_open: Session | None = None
        self.source: Address | None = None
        self.tried: tuple[bytes, int] = (b"", 0)
        self.next_attempt_at = now
        self.puncher = Puncher(endpoint, peer)

    # --- our own attempt

    def punch_interval(self, now: float) -> float:
        """Seconds to the next punch: the schedule, with jitter."""
        return self.puncher.interval((), now)

    def targets(self) -> list[Address]:
        """Where to punch: what was configured, where the peer was last, and other addresses it answered from."""
        configured, last = self._peer.addresses, self._peer.last_address
        if last is None:
            return configured
        return list(dict.fromkeys((*configured, last, *self._peer.ways.proven[:MAX_STANDBYS])))

    def _wants_attempt(self) -> bool:
        peer = self._peer
        if peer.connected or self.half_open is not None or peer.stranger:
            return False
        return peer.state in (PeerState.CONNECTING, PeerState.LOST, PeerState.REFUSED) and bool(self.targets())

    def advance(self, now: float) -> None:
        """Begin, go on with or give up our attempt, whatever it is time for."""
        attempt = self.attempt
        if attempt is None:
            if self._wants_attempt() and now >= self.next_attempt_at:
                self.attempt = self._endpoint.open_attempt(self._peer, now)
        elif attempt.agreed is not None:
            self._repeat_shared_key(attempt, attempt.agreed, now)
        elif attempt.opening is None:
            return
        elif self._wants_attempt():
            self._punch(attempt, now)
        else:
            self.cancel_attempt()

    def _repeat_shared_key(self, attempt: Attempt, agreed: Agreed, now: float) -> None:
        if now >= attempt.agreed_at + UNANSWERED:
            self.cancel_attempt()
            self.drop_half_open()
            self.next_attempt_at = now
        elif now >= attempt.next_send and attempt.answered_from is not None:
            # Also where we punched: what answered from elsewhere may be a copy that was faster than the answer.
            where = dict.fromkeys(self.targets())
            if attempt.sends < UNPROVEN_SENDS or attempt.answered_from in where:
                where[attempt.answered_from] = None
            for address in where:
                self._peer.send_datagram(agreed.shared_key, address, now)
            attempt.sends += 1
            attempt.next_send = min(now + attempt.interval, attempt.agreed_at + UNANSWERED)
            attempt.interval = min(1.0, attempt.interval * 2)

    def _punch(self, attempt: Attempt, now: float) -> None:
        peer = self._peer
        interval = self.punch_interval(now)
        if now - attempt.started_at > max(ATTEMPT_LIFETIME, 3 * interval):
            self.cancel_attempt()
            self.next_attempt_at = now
            self._endpoint.emit(ResolveWanted(peer.name))
            self.advance(now)
            return
        self.puncher.advance(attempt, self.targets(), now)
        if now >= attempt.next_send:
            known = self._in_order(self.targets())
            targets = self.puncher.targets(known, now)
            turn = targets[attempt.done : attempt.done + PUNCHED_AT_ONCE] if len(known) > PUNCHED_AT_ONCE else targets
            for target in turn:
                # In turn: a cookie may be forged by who saw the punch, and the plain one is all it takes in peace.
                openings = attempt.openings(target)
                self.puncher.send(openings[attempt.sends % len(openings)].punch, target, now)
            attempt.done += len(turn)
            if turn and attempt.done < len(targets):
                attempt.next_send = now + PUNCH_SPACING
            else:
                attempt.done = 0
                attempt.sends += 1
                attempt.next_send = now + self.puncher.interval(targets, now)
                # What is known already is said early; what silence tells, after a while.
                if attempt.sends == EARLY or now - peer.since >= FIRST_PHASE:
                    self._endpoint.note_unreached(peer, now)

    def _in_order(self, targets: list[Address]) -> list[Address]:
        """The nearest first, where they are too many to be punched at once."""
        if len(targets) <= PUNCHED_AT_ONCE:
            return targets
        hosts = self._endpoint.whereabouts.hosts
        return sorted(targets, key=lambda address: nearness(address, hosts), reverse=True)

    def on_opening(self, attempt: Attempt, opening: Opening | None, now: float) -> None:
        """The first arrow is ready."""
        if self.attempt is attempt and opening is not None:
            attempt.opening = opening
            attempt.next_send = now
            self.advance(now)

    def on_agreed(self, attempt: Attempt, agreed: Agreed, source: Address, now: float) -> None:
        """The peer answered our punch and we accept its identity: send the third arrow."""
        attempt.agreed = agreed
        attempt.agreed_at = attempt.next_send = now
        attempt.answered_from = source
        attempt.sends = 0
        self.tried = (agreed.hello.instance, agreed.generation)
        self._endpoint.note_generation(agreed.generation)
        self._set_half_open(self._endpoint.new_session(self._peer, agreed, now), source)
        self.advance(now)

    def on_cookie(self, attempt: Attempt, target: Address, cookie: bytes, opening: Opening | None, now: float) -> None:
        """The first arrow with a cookie is ready."""
        if self.attempt is attempt and opening is not None:
            attempt.cookies[target][cookie] = opening
            if attempt.agreed is None:
                attempt.sends = len(attempt.openings(target)) - 1  # this one is next
                attempt.next_send = now
                self.advance(now)

    def cancel_attempt(self) -> None:
        """Our own attempt ends; its answers are no longer waited for."""
        if self.attempt is not None:
            self._endpoint.forget_attempt(self.attempt)
            self.attempt = None

    def hasten(self, now: float) -> None:
        """Punch at once if we punch at all: there is something new to try."""
        if self.attempt is not None:
            self.attempt.next_send = min(self.attempt.next_send, now)

    # --- the other's attempt

    def may_accept(self, agreed: Agreed) -> str | None:
        """Whether a proven SHARED_KEY of this peer leads to a session; else the reason it is dropped."""
        if agreed.hello.instance == self._peer.instance and agreed.generation <= self._peer.generation:
            return "stale_generation"
        if self.half_open is not None:
            rival = self.half_open.agreed
            if rival.hello.instance == agreed.hello.instance and outranks(rival, agreed):
                return "lost_tie"
        return None

    def accept(self, agreed: Agreed, source: Address, now: float) -> Session:
        """The other's attempt is the one that stays; a half-open session answers it."""
        self.cancel_attempt()
        self._endpoint.note_generation(agreed.generation)
        session = self._endpoint.new_session(self._peer, agreed, now)
        self._set_half_open(session, source)
        self._send_established(session, source, now)
        return session

    def repeat_established(self, session: Session, now: float) -> None:
        """The same SHARED_KEY came again. Answered to where the first one came from: a copy proves no address."""
        if session is self.half_open and self.source is not None:
            self._send_established(session, self.source, now)

    def _send_established(self, session: Session, source: Address, now: float) -> None:
        """The fourth arrow: key confirmation and our limits. Each repetition is a new record."""
        if session.next_number > 64:
            self._endpoint.drops["duplicate_handshake"] += 1
            return
        start = self._peer.connection.session_start(brief=True)
        self._peer.send_sealed(session, [Established(), start], source, now)

    # --- the half-open session

    def _set_half_open(self, session: Session, source: Address) -> None:
        self.drop_half_open()
        self.half_open = session
        self.source = source

    def drop_half_open(self) -> None:
        """The half-open session, if any, comes to nothing."""
        if self.half_open is not None:
            self._endpoint.forget_session(self.half_open)
            self.half_open = None

    def on_confirmed(self, session: Session, now: float) -> float | None:
        """A record opened under the half-open session: nothing is left to try. The round trip, if we know it."""
        self.half_open = None
        self.puncher.on_confirmed()
        rtt = None
        attempt = self.attempt
        if attempt is not None and attempt.agreed is session.agreed and attempt.sends == 1:
            rtt = now - attempt.agreed_at
        self.cancel_attempt()
        return rtt

    # --- time

    def next_timer(self) -> float | None:
        """When :meth:`on_timer` must be called."""
        when = self.half_open.created_at + ATTEMPT_LIFETIME if self.half_open is not None else None
        other = None
        if self.attempt is not None:
            if self.attempt.opening is not None:
                other = self.attempt.next_send
                sooner = self.puncher.next_timer() if self.attempt.agreed is None else None
                if sooner is not None and sooner < other:
                    other = sooner
        elif self._peer.connection.session is None and self._wants_attempt():
            other = self.next_attempt_at
        return other if when is None or (other is not None and other < when) else when

    def on_timer(self, now: float) -> None:
        """Time has passed."""
        if self.half_open is not None and now >= self.half_open.created_at + ATTEMPT_LIFETIME:
            self.drop_half_open()
            if self.attempt is not None and self.attempt.agreed is not None:
                self.cancel_attempt()
            self.next_attempt_at = now
        self.advance(now)
