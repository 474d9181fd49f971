"""Seeking one peer through hard NATs: openers, guessed ports and, where nothing else is left, meeting by chance.

What is done when says ``nat/holepunch.py``, ``nat/prediction.py`` and ``nat/birthday.py``; here it is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ..models import Address, PeerState
from ..nat.behaviour import is_local
from ..nat.birthday import (
    AFTER,
    AFTER_IN_VAIN,
    AFTER_PREDICTION,
    BETWEEN,
    MAX_ROUNDS,
    OPENERS,
    OPENING,
    SOCKETS,
    TRYING,
    Opened,
    Part,
    Tries,
    part_of,
    second_of,
    where_outside,
)
from ..nat.holepunch import GUEST_HOPS, OPENER_SPACING, Openers, guest_waits, needs_opening, punch_interval
from ..nat.prediction import PREDICT_FOR, predicted
from ..protocol.events import SocketsWanted
from .attempts import Attempt
from .host import Host

if TYPE_CHECKING:
    from .peer import Peer

NO_SOCKETS: Final = (
    "our NAT gives each connection another port, and finding the other takes more open files than this program may have"
)
_SOON: Final = 2.0
"""Seconds until we ask again for our turn."""


class Puncher:
    """Where one peer is sought, and how."""

    __slots__ = (
        *("_endpoint", "_fan", "_next_round_at", "_opened", "_openers", "_part", "_peer", "_round_began"),
        *("_rounds", "_second", "_since", "_tries", "__weakref__"),
    )

    def __init__(self, endpoint: Host[Peer], peer: Peer) -> None:
        self._endpoint = endpoint
        self._peer = peer
        self._openers = Openers()
        self._tries: Tries | None = None
        self._opened: Opened | None = None
        self._fan: Address | None = None  # where more sockets of ours send to
        self._part = Part.NONE
        self._second: Address | None = None  # where the peer may be seen besides, and nothing but openers goes
        self._since = peer.since
        self._rounds = 0
        self._round_began = self._next_round_at = 0.0

    # --- plain punching

    def interval(self, targets: Sequence[Address], now: float) -> float:
        """Seconds to the next punch: the schedule, with jitter."""
        base = punch_interval(self._peer.state, now - self._peer.since)
        if self._openers.is_opening(targets):
            base = min(base, OPENER_SPACING)
        return base * (0.875 + self._endpoint.random(1)[0] / 1024)

    def targets(self, known: Sequence[Address], now: float) -> list[Address]:
        """Where to punch now: the addresses that are known, and those that the peer's NAT will give next."""
        mine, theirs = self._endpoint.nat_traits(now), self._peer.nat
        targets = list(known)
        if mine.predictable:
            targets.sort(key=is_local)  # each takes a port of our NAT, and the other end counts from the last one
        elif self._part is Part.SECOND_PORT and (where := where_outside(known)) and second_of(where.port):
            self._second = Address(where.host, second_of(where.port))
            targets.append(self._second)
        elif not mine.hard and now - self._peer.since < PREDICT_FOR:
            targets = list(dict.fromkeys((*targets, *predicted(known, theirs))))
        self._openers.keep(targets)
        return targets

    def send(self, punch: bytes, target: Address, now: float) -> None:
        """Send a punch, as far as it may go."""
        mine, peer, hops = self._endpoint.nat_traits(now), self._peer, 0
        if needs_opening(target, mine, peer.nat):
            hops = self._openers.next(target)
            if not hops and peer.token and not mine.hard and guest_waits(now - peer.since):
                hops = GUEST_HOPS
        if target == self._second and target not in peer.opening.targets():
            hops = hops or OPENERS[-1]
        peer.send_datagram(punch, target, now, hops)

    # --- meeting by chance

    def advance(self, attempt: Attempt, known: Sequence[Address], now: float) -> None:
        """Begin a round, go on with it or end it, whatever it is time for."""
        peer = self._peer
        if self._since != peer.since:
            self._since, self._rounds, self._next_round_at = peer.since, 0, 0.0
        part = part_of(self._endpoint.nat_traits(now), peer.nat, self._endpoint.kept_port(now))
        if part is not self._part:
            self._end_round()
            self._part = part
        if part not in (Part.HOPELESS, Part.NONE):
            self._go_on(attempt, now)
            if self._tries is None and self._fan is None:
                self._begin(known, now)

    def _begin(self, known: Sequence[Address], now: float) -> None:
        peer, where = self._peer, where_outside(known)
        theirs, mine = peer.nat, self._endpoint.nat_traits(now)
        guessed = mine.predictable or (theirs is not None and theirs.predictable)
        if where is None or peer.state is PeerState.REFUSED:
            return
        if not self._endpoint.config.birthday and self._part is not Part.SECOND_PORT:
            return
        after = AFTER_IN_VAIN if self._part is Part.SECOND_PORT else AFTER_PREDICTION if guessed else AFTER
        if now < max(self._next_round_at, peer.since + after):
            return
        if self._rounds >= MAX_ROUNDS:
            return
        if self._part is Part.SECOND_PORT:
            self._begin_second(where, now)
            return
        if not (TRYING if self._part is Part.TRIES_PORTS else OPENING).take(self):
            self._next_round_at = now + _SOON
            return
        self._rounds += 1
        self._next_round_at = now + BETWEEN
        if self._part is Part.TRIES_PORTS:
            self._tries = Tries(self._endpoint.random, where.host, now)
        else:
            self._fan = where
            self._endpoint.emit(SocketsWanted(peer.name, where, SOCKETS))

    def _begin_second(self, where: Address, now: float) -> None:
        """Have one more socket seek the peer, at the port that the peer expects."""
        kept = self._endpoint.kept_port(now)
        self._rounds += 1
        self._next_round_at = now + BETWEEN
        if kept is not None:
            self._fan = where
            self._endpoint.emit(SocketsWanted(self._peer.name, where, 1, second_of(kept)))

    def _go_on(self, attempt: Attempt, now: float) -> None:
        if attempt.opening is None:
            return
        punch = attempt.opening.punch
        if self._tries is not None and now >= self._tries.when:
            for address in self._tries.take(now):
                self._peer.send_datagram(punch, address, now)
            if self._tries.is_over:
                self._end_round()
        if self._opened is not None and self._fan is not None and now >= self._opened.when:
            if self._opened.is_over(now):
                self._end_round()
            else:
                self._peer.send_datagram(punch, self._fan, now, self._opened.take(now))

    def on_sockets(self, count: int, now: float) -> None:
        """So many sockets were opened for us."""
        if self._fan is None or self._opened is not None:
            return
        if count:
            self._opened = Opened(now, all_the_way=self._part is Part.SECOND_PORT)
        elif self._part is Part.SECOND_PORT:
            self._end_round()  # the port is taken: perhaps not for long
        else:
            self._end_round()
            self._rounds = MAX_ROUNDS
            if not self._peer.connected:
                self._peer.failure = NO_SOCKETS

    def _end_round(self, keep: int = 0) -> None:
        TRYING.give_back(self)
        OPENING.give_back(self)
        self._tries = self._opened = None
        if self._fan is not None:
            self._endpoint.emit(SocketsWanted(self._peer.name, self._fan, keep))
            if not keep:
                self._fan = None

    def on_confirmed(self) -> None:
        """The peer was found: the socket it was found by is kept."""
        self._end_round(keep=1)

    def stop(self) -> None:
        """The peer is gone."""
        self._end_round()

    def next_timer(self) -> float | None:
        """When :meth:`advance` must be called."""
        if self._tries is not None:
            return self._tries.when
        return None if self._opened is None else self._opened.when
