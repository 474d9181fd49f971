"""The other ways to a connected peer: which addresses might do, which do, and when one of them is to be taken.

What the peer said of itself (its candidates) and what our user gave is looked at in rounds: when a session begins, when
something new is said, and every minute. In a round each address gets a few sealed challenges, one after the other; an
answer counts for its own address and nonce alone, once. Nothing else goes to an address that did not answer.

A way that answered is a standby. It takes the place of the present path if it is clearly faster, or nearer (the same
network, then IPv6) and as fast; by a margin, so that two that are alike do not take turns. If the present path falls
silent, all are asked at once, and the first that answers is taken unless the present one answers as well.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from math import inf
from typing import Final, NamedTuple

from ..models import Address, Candidate, CandidateKind
from ..nat.candidates import MAX_CANDIDATES, SAME_NETWORK, host_of, is_one_host, nearness, preferred
from .jobs import TokenBucket

ROUND: Final = 60.0
"""Seconds between two looks for a better way."""
FIRST_ROUNDS: Final = (5.0, 20.0)
"""The first of them come sooner: what was busy when the session began may be so no longer."""
TRIES: Final = (0.0, 0.2, 0.5, 1.0)
"""Seconds after which an address is challenged (again) in a round: the other end's router must have been opened too."""
SAMPLES: Final = 3
"""Answers that are enough to know how fast a way is."""
SPACING: Final = 0.02
"""Seconds between the first challenges of a round to two addresses, and between two to one that answers."""
SEARCH_INTERVAL: Final = 2.0
"""Seconds between challenges to a way that once answered, while the present path is silent."""
LEAD_INTERVAL: Final = 0.25
LEAD_MOST: Final = 8.0
"""Seconds between two looks at the present path because the peer uses another: from one up to the other."""
FRUITLESS: Final = 10
"""Rounds after which an address that never answered is left alone, until it is named anew."""
UNPROVEN_RATE: Final = 1.0
UNPROVEN_BURST: Final = 64.0
"""Challenges a second, on average and at once, that addresses get because of what one peer says."""
ALL_UNPROVEN_RATE: Final = 50.0
ALL_UNPROVEN_BURST: Final = 256.0
"""The same because of what all peers of a socket say."""
FASTER: Final = 0.75
"""A way is clearly faster if it takes less than this part of the time."""
AS_FAST: Final = 1.25
"""It is as fast if it takes no more than this part."""
TOLERANCE: Final = 0.001
"""Seconds that a round trip may vary for no reason, in both."""
LAN_TOLERANCE: Final = 0.005
"""The same where one of two ways does not leave our own network: that one is not given up for a trifle."""


class Move(NamedTuple):
    """The path is to be another, and why, in words for people."""

    address: Address
    rtt: float
    reason: str


class Way:
    """One address that leads to the peer, or might.

    Attributes:
        candidate: the address and whence we have it.
        sent: challenges sent there. The owner of the session has sent more if it was the path.
        answers: of them answered.
        rtt: the shortest round trip of the last round with an answer, in seconds, or None.
        proven_at: when it answered last, or None.
    """

    __slots__ = ("answers", "candidate", "fruitless", "got", "next_at", "nonces", "proven_at", "rtt", "sent", "tries")

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate
        self.nonces: dict[bytes, float] = {}  # of this round, not answered -> when it was sent
        self.tries = self.got = 0  # of this round
        self.sent = self.answers = 0
        self.fruitless = 0  # rounds without an answer since the last
        self.rtt: float | None = None
        self.proven_at: float | None = None
        self.next_at = inf

    @property
    def address(self) -> Address:
        return self.candidate.address


class Ways:
    """The ways to one peer, besides and including the present path.

    Args:
        random: cryptographic randomness.
        everyone: what all peers of the socket share of challenges to addresses that proved nothing.

    Attributes:
        next_at: when :meth:`due` and :meth:`decide` are to be called; infinite if never.
    """

    __slots__ = (
        *("_ask_lead_at", "_budget", "_claimed", "_everyone", "_given", "_lead", "_lead_interval", "_ours", "_present"),
        *("_random", "_round_at", "_rounds", "_searching", "_serial", "_ways", "next_at"),
    )

    def __init__(self, random: Callable[[int], bytes], everyone: TokenBucket) -> None:
        self._random = random
        self._everyone = everyone
        self._budget = TokenBucket(UNPROVEN_RATE, UNPROVEN_BURST)
        self._given: tuple[Address, ...] = ()
        self._claimed: list[Candidate] = []
        self._serial = -1
        self._ours: Collection[Address] = ()
        self._ways: dict[Address, Way] = {}
        self._present: Address | None = None  # while there is a session, or was one
        self._lead: Address | None = None  # what the peer sends from, if we follow it
        self._lead_interval = LEAD_INTERVAL / 2
        self._ask_lead_at = 0.0
        self._round_at = inf
        self._rounds = 0
        self._searching: float | None = None  # since when the present path is silent
        self.next_at = inf

    def __iter__(self) -> Iterator[Way]:
        return iter(list(self._ways.values()))

    # --- what is known

    @property
    def proven(self) -> list[Address]:
        """Where the peer answered in the last rounds, the quickest first."""
        good = [way for way in self._ways.values() if way.proven_at is not None and not way.fruitless]
        return [way.address for way in sorted(good, key=lambda way: way.rtt or inf)]

    # --- what happens

    def reset(self) -> None:
        """A session begins. What it is agreed with may still have to prove its address: :meth:`start` follows then."""
        self.stop()
        self._serial = -1
        self._claimed = []
        self._ways.clear()
        self._present = None

    def start(self, present: Address, given: Iterable[Address], ours: Collection[Address], now: float) -> None:
        """The path of the session leads to an address that the peer has.

        Args:
            present: that address.
            given: addresses that our user gave.
            ours: our own addresses on our interfaces.
        """
        self._lead = self._searching = None
        self._lead_interval, self._ask_lead_at = LEAD_INTERVAL / 2, now
        self._rounds = 0
        self._present = present
        self._ours = ours
        self._given = tuple(given)
        self._renew(now)

    def stop(self) -> None:
        """The session is over. What was proven is still remembered, to punch there."""
        self._round_at = self.next_at = inf
        self._searching = None
        for way in self._ways.values():
            way.nonces.clear()
            way.next_at = inf

    def set_given(self, given: Iterable[Address], ours: Collection[Address], now: float) -> None:
        """Our user gave other addresses, or those of our interfaces changed."""
        self._given = tuple(given)
        self._ours = ours
        if self._present is not None:
            self._renew(now)

    def claim(self, serial: int, candidates: list[Candidate], now: float) -> None:
        """The peer says where it may be reached; what must not be tried is sorted out already."""
        if serial > self._serial:
            self._serial = serial
            self._claimed = candidates
            for one in candidates:
                if one.address in self._ways:
                    self._ways[one.address].fruitless = 0
            if self._present is not None:
                self._renew(now)

    def _renew(self, now: float) -> None:
        """Make the list anew, and look at what is new in it."""
        present = self._present
        assert present is not None
        given = [Candidate(CandidateKind.GIVEN, address) for address in self._given if is_one_host(address)]
        wanted = {one.address: one for one in preferred([*given, *self._claimed], self._ours)[:MAX_CANDIDATES]}
        wanted.setdefault(present, Candidate(CandidateKind.PEER_REFLEXIVE, present))
        old = self._ways
        for way in old.values():
            if way.proven_at is not None and not way.fruitless and len(wanted) <= MAX_CANDIDATES:
                wanted.setdefault(way.address, way.candidate)
        self._ways = {}
        fresh: list[Way] = []
        for address, candidate in wanted.items():
            known = old.get(address)
            if known is None:
                known = Way(candidate)
                fresh.append(known)
            known.candidate = candidate
            self._ways[address] = known
        ip = host_of(present)
        if len(self._ways) < 2 or (ip is not None and ip.is_loopback):
            self._round_at = inf  # nothing to look for, or nothing to be found that is better
            for way in self._ways.values():
                way.next_at = inf
        elif any(way.address != present for way in fresh):
            self._begin([*fresh, self._ways[present]], now)
        self._plan()

    def _begin(self, ways: Iterable[Way], now: float) -> None:
        """A round for these."""
        at = now
        for way in dict.fromkeys(ways):
            way.nonces.clear()
            way.tries = way.got = 0
            way.next_at = at
            at += SPACING
        interval = FIRST_ROUNDS[self._rounds] if self._rounds < len(FIRST_ROUNDS) else ROUND
        self._round_at = now + interval * (0.875 + self._random(1)[0] / 1024)

    def on_moved(self, address: Address, now: float) -> None:
        """The path leads elsewhere from now on."""
        self._present = address
        self._searching = self._lead = None
        self._lead_interval, self._ask_lead_at = LEAD_INTERVAL / 2, now + LEAD_INTERVAL
        if address not in self._ways:
            self._renew(now)

    def on_silent(self, now: float) -> None:
        """Nothing comes back from the present path: ask everywhere."""
        if self._searching is None and self._round_at < inf:
            self._searching = now
            self._begin(self._in_order(), now)
            for way in self._ways.values():
                way.next_at = now  # no time for spacing: there are no more than a few
            self._plan()

    def recheck(self, now: float) -> None:
        """Something changed, our network perhaps: look at all of them now."""
        if self._round_at < inf:
            self._begin(self._in_order(), now)
            self._plan()

    def on_used(self, address: Address, follow: bool, now: float) -> None:
        """The peer sends from a standby: see whether the present path is still there.

        Args:
            follow: take that way too if there is nothing against it. Of two ends that chose differently one must.
        """
        way, present = self._ways.get(address), self._ways.get(self._present) if self._present is not None else None
        if way is None or present is None or now < self._ask_lead_at or self._round_at == inf:
            return
        self._lead = address if follow else None
        self._lead_interval = min(2 * self._lead_interval, LEAD_MOST)
        self._ask_lead_at = now + self._lead_interval
        if self._searching is None:
            self._searching = now
            self._begin((way, present), now)
            present.next_at = now
            self._plan()

    def is_standby(self, address: Address) -> bool:
        """True if the peer answered at this address, which is not the present one."""
        way = self._ways.get(address)
        return way is not None and way.proven_at is not None and not way.fruitless

    def forget(self) -> None:
        """Another key takes the peer's place: nothing that was said or proven holds any more."""
        self.reset()

    # --- challenges

    def _in_order(self) -> list[Way]:
        """The present path last: what it shows is known best."""
        return sorted(self._ways.values(), key=lambda way: way.address == self._present)

    def due(self, now: float) -> list[tuple[Address, bytes]]:
        """The challenges to be sent now: address and nonce."""
        if now >= self._round_at:
            self._rounds += 1
            self._begin(self._in_order(), now)
            for way in self._ways.values():
                if way.fruitless >= FRUITLESS and way.proven_at is None and way.address not in self._given:
                    way.next_at = inf
        found = []
        for way in self._ways.values():
            if now < way.next_at:
                continue
            if way.got >= SAMPLES or (way.tries >= self._most(way) and not self._is_wanted(way)):
                self._end_round(way)
            elif self._may_send(way, now):
                nonce = self._random(8)
                way.nonces[nonce] = now
                if len(way.nonces) > len(TRIES):
                    del way.nonces[next(iter(way.nonces))]
                way.tries += 1
                way.sent += 1
                found.append((way.address, nonce))
                way.next_at = now + self._wait(way)
            else:
                way.next_at = now + 1 / UNPROVEN_RATE
        self._plan()
        return found

    def _most(self, way: Way) -> int:
        """Challenges that an address may have in a round: one alone, once it has let a round pass."""
        return 1 if way.fruitless and way.proven_at is None else len(TRIES)

    def _is_wanted(self, way: Way) -> bool:
        """Whether to go on asking: while the present path is silent, where the peer is known to have been."""
        return self._searching is not None and (way.proven_at is not None or way.address == self._present)

    def _may_send(self, way: Way, now: float) -> bool:
        if way.proven_at is not None or way.address == self._present or way.address in self._given:
            return True
        return self._budget.take(now) and self._everyone.take(now)

    def _wait(self, way: Way) -> float:
        """Seconds to the next challenge; after the last one, for its answer."""
        if way.tries < self._most(way):
            return TRIES[way.tries] - TRIES[way.tries - 1]
        return SEARCH_INTERVAL if self._is_wanted(way) else 1.0

    def _end_round(self, way: Way) -> None:
        way.next_at = inf
        way.nonces.clear()
        if not way.got:
            way.fruitless += 1

    def on_response(self, nonce: bytes, source: Address, now: float) -> bool:
        """A challenge was answered. True if it was one of ours, from the address that it was sent to.

        What went to the present path may be answered from anywhere: whoever answers is there, and a copy that is faster
        than the answer bears the address of who copied it.
        """
        present = self._ways.get(self._present) if self._present is not None else None
        way = present if present is not None and nonce in present.nonces else self._ways.get(source)
        sent_at = way.nonces.pop(nonce, None) if way is not None else None
        if way is None or sent_at is None:
            return False
        rtt = now - sent_at
        way.rtt = rtt if not way.got or way.rtt is None else min(rtt, way.rtt)
        way.got += 1
        way.answers += 1
        way.fruitless = 0
        way.proven_at = now
        if way.got >= SAMPLES:
            way.next_at = inf
            way.nonces.clear()
        else:
            way.next_at = now + SPACING
            way.tries = min(way.tries, len(TRIES) - 1)
        self._plan()
        return True

    # --- decisions

    def decide(self, now: float, floor: float = inf) -> Move | None:
        """Where the path is to lead from now on, if elsewhere.

        Args:
            floor: the shortest round trip that the present path ever had. What is slow for the queue that we fill
                ourselves need not be left for a way that is not faster than it can be.
        """
        present = self._ways.get(self._present) if self._present is not None else None
        if present is None:
            return None
        if self._searching is not None:
            return self._decide_search(present, now)
        if present.rtt is None or not present.got:
            return None
        best: Move | None = None
        for way in self._ways.values():
            if way is present or way.rtt is None or way.got < SAMPLES:
                continue
            why = self._advantage(way, way.rtt, present, present.rtt, floor)
            if why and (best is None or way.rtt < FASTER * best.rtt - TOLERANCE):
                best = Move(way.address, way.rtt, why)
        return best

    def _advantage(self, way: Way, rtt: float, present: Way, present_rtt: float, floor: float) -> str:
        """Why one is better than the present one, or nothing."""
        times = f"{1000 * rtt:.1f} ms instead of {1000 * present_rtt:.1f} ms"
        near, present_near = nearness(way.address, self._ours), nearness(present.address, self._ours)
        tolerance = TOLERANCE if SAME_NETWORK not in (near, present_near) else LAN_TOLERANCE
        if rtt < FASTER * min(present_rtt, floor) - tolerance:
            return f"a faster way, {times}"
        if rtt > AS_FAST * present_rtt + tolerance:
            return ""
        if near > present_near:
            return f"{'on our own network' if near == SAME_NETWORK else 'a nearer way'}, {times}"
        return f"the peer uses it too, {times}" if way.address == self._lead and near == present_near else ""

    def _decide_search(self, present: Way, now: float) -> Move | None:
        assert self._searching is not None
        if present.got:
            self._searching = None
            return None
        found = [way for way in self._ways.values() if way is not present and way.got and way.rtt is not None]
        if not found or now < self._verdict_at(present):
            return None
        best = min(found, key=lambda way: way.rtt or inf)
        return Move(best.address, best.rtt or 0.0, "the way used before fell silent")

    def _verdict_at(self, present: Way) -> float:
        """When the present path has had its time to answer."""
        assert self._searching is not None
        return self._searching + max(0.05, 1.5 * (present.rtt or 0.0))

    # --- time

    def _plan(self) -> None:
        when = self._round_at
        for way in self._ways.values():
            if way.next_at < when:
                when = way.next_at
        if self._searching is not None:
            present = self._ways.get(self._present) if self._present is not None else None
            if present is not None and any(way.got and way is not present for way in self._ways.values()):
                when = min(when, self._verdict_at(present))
        self.next_at = when
