"""Two peers that open at once end up with exactly one session, the same at both ends: every order, not examples.

The real endpoints run on symbolic cryptography. An :class:`Explorer` visits every state they can reach when the network
may lose, delay, reorder and duplicate every datagram and every key agreement may be committed late. What a side does
depends on nothing but its own state and on what happens to it, so its answers are remembered: the product of the two
sides with the datagrams on their way is then a graph of small numbers.

Two reductions, both sound. A datagram that nobody will ever listen to again (its index was random and is gone) is
taken off the wire. And a state is not visited if the same two sides were visited with at least the same datagrams on
their way: everything that can happen in it happens there too.
"""

from __future__ import annotations

import gc
import heapq
import os
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

import pytest

from srmudp.config import Config
from srmudp.crypto.keys import Identity
from srmudp.models import Address
from srmudp.peers import opening as opening_module
from srmudp.peers.endpoint import Endpoint
from srmudp.peers.opening import SessionOpening
from srmudp.wire.packet import PUBLIC_KEY, PUNCH, RECORD, SHARED_KEY
from tests.symbolic import Action, LabelledRandom, LocalNode, SymbolicBackend

START = 1000.0
LATENCY = 0.01
SETTLED_WITHIN = 30.0
"""Seconds of a loss-free network after which the two must be one session, wherever they start from."""
NAMES = ("a", "b")
ADDRESSES = (Address("10.0.0.1", 5000), Address("10.0.0.2", 5000))
KINDS = {PUNCH: "PUNCH", PUBLIC_KEY: "PUBLIC_KEY", SHARED_KEY: "SHARED_KEY", RECORD: "record"}
IDENTITIES = tuple(Identity.generate(random.Random(f"opening/{name}").randbytes) for name in NAMES)
CONFIG = Config(congestion="cubic", max_mtu=1200)
"""As little as possible beside the handshake: the controller with the smaller state, no search for the MTU."""

Sent = list[tuple[bytes, Address]]


def greeting(side: int, run: int) -> bytes:
    """What a side has queued before it ever connected."""
    return f"hello from run {run} of {NAMES[side]}".encode()


def make_side(side: int, *, pin: bool, now: float = START, run: int = 1) -> tuple[LocalNode, Sent]:
    """One program: an endpoint that has added the other and queued a message, and what it sends at once."""
    backend = SymbolicBackend()
    for identity in IDENTITIES:
        backend.know(identity)
    source = LabelledRandom(f"{NAMES[side]}{run}")
    source.begin(b"birth")
    endpoint = Endpoint(IDENTITIES[side], CONFIG, backend=backend, random=source)
    node = LocalNode(endpoint, source)
    other = NAMES[1 - side]
    peer_id = IDENTITIES[1 - side].peer_id if pin else None
    sent = node.command("add", endpoint.add_peer, other, [ADDRESSES[1 - side]], peer_id, now=now)
    sent += node.command(
        "send", endpoint.send_message, other, greeting(side, run), channel=0, reliable=True, ttl=None, now=now
    )
    sent += node.act(("timer", b"", None), now)  # makes the first arrow
    return node, sent


class Facts(NamedTuple):
    """What invariants and reductions ask of one side's state."""

    confirmed: bytes | None
    """The handshake hash of the confirmed session."""
    candidate: bytes | None
    attempts: frozenset[int]
    """Indices at which a PUBLIC_KEY is waited for."""
    half_open: frozenset[int]
    sessions: frozenset[int]
    jobs: tuple[bytes, ...]
    arrived: tuple[bytes, ...]
    settled: tuple[tuple[int, str | None], ...]


def facts_of(node: LocalNode) -> Facts:
    endpoint = node.endpoint
    (peer,) = endpoint._registry
    session, candidate = peer.connection.session, peer.opening.half_open
    return Facts(
        session.agreed.secrets.handshake_hash if session is not None else None,
        candidate.agreed.secrets.handshake_hash if candidate is not None else None,
        frozenset(index for index, (_, attempt) in endpoint._handshakes._attempts.items() if attempt.agreed is None),
        frozenset(endpoint._admission._by_index),
        frozenset(endpoint._sessions),
        tuple(sorted(node.jobs)),
        tuple(node.arrived),
        tuple(node.settled),
    )


class State(NamedTuple):
    """Numbers of the two sides' states, the copies on their way (two bits each), the clock, what may still happen."""

    sides: tuple[int, int]
    wire: int
    now: float
    jumps: int
    restarts: int


@dataclass
class Explorer:
    """The graph of what can happen.

    Attributes:
        pins: whether a knows b's key in advance, and b a's.
        copies: how often each datagram can arrive.
        jumps: seconds by which the clock may leap while no key agreement runs; what is on its way stays on its way.
        most_jumps, most_restarts: how often that may happen.
        all_records: False keeps, of the records on their way to one session, only the oldest, and none once the session
            is confirmed at both ends: as far as the handshake goes, one record opens a session as well as another.
    """

    pins: tuple[bool, bool] = (True, True)
    copies: int = 2
    jumps: tuple[float, ...] = ()
    most_jumps: int = 0
    most_restarts: int = 0
    all_records: bool = True
    nodes: tuple[list[LocalNode], list[LocalNode]] = field(default_factory=lambda: ([], []))
    facts: tuple[list[Facts], list[Facts]] = field(default_factory=lambda: ([], []))
    datagrams: list[tuple[int, bytes]] = field(default_factory=list)
    states = transitions = steps = 0
    slowest = 0.0

    def __post_init__(self) -> None:
        self._ids: tuple[dict[object, int], dict[object, int]] = ({}, {})
        self._known: tuple[dict[object, tuple[int, tuple[int, ...]]], ...] = ({}, {})
        self._numbers: dict[tuple[int, bytes], int] = {}
        self._visited: dict[tuple[Any, ...], list[int]] = {}
        self._settles: set[tuple[int, int, float]] = set()

    # --- the sides

    def _number(self, side: int, node: LocalNode) -> int:
        key = node.fingerprint()
        number = self._ids[side].get(key)
        if number is None:
            number = self._ids[side][key] = len(self.nodes[side])
            self.nodes[side].append(node)
            self.facts[side].append(facts_of(node))
        return number

    def _datagrams(self, sent: Sent) -> tuple[int, ...]:
        found = []
        for data, destination in sent:
            key = (ADDRESSES.index(destination), data)
            number = self._numbers.get(key)
            if number is None:
                number = self._numbers[key] = len(self.datagrams)
                self.datagrams.append(key)
            found.append(number)
        return tuple(found)

    def step(self, side: int, number: int, action: Action, now: float) -> tuple[int, tuple[int, ...]]:
        """The state a side goes to, and the datagrams it sends."""
        key = (number, action, now)
        result = self._known[side].get(key)
        if result is None:
            self.steps += 1
            node = self.nodes[side][number].clone()
            sent = node.act(action, now)
            result = self._known[side][key] = (self._number(side, node), self._datagrams(sent))
            if result[0] == number:
                self.nodes[side][number] = node  # equal, but rid of a superfluous entry among its timers
        return result

    def deliver(self, number: int, sides: Sequence[int], now: float) -> tuple[int, tuple[int, tuple[int, ...]]]:
        to, data = self.datagrams[number]
        return to, self.step(to, sides[to], ("deliver", data, ADDRESSES[1 - to]), now)

    # --- the graph

    def explore(self) -> None:
        """Visit every state, check what must hold in each, and that the two find together from each."""
        wire = 0
        numbers = []
        for side in (0, 1):
            node, sent = make_side(side, pin=self.pins[side])
            for datagram in self._datagrams(sent):
                wire |= self._full << 2 * datagram
            numbers.append(self._number(side, node))
        queue: deque[State] = deque()
        gc.disable()  # a hundred thousand objects that all stay
        try:
            self._explore(State((numbers[0], numbers[1]), wire, START, self.most_jumps, self.most_restarts), queue)
        finally:
            gc.enable()

    def _explore(self, first: State, queue: deque[State]) -> None:
        self._visit(first, queue)
        while queue:
            state = queue.popleft()
            if state.wire not in self._visited[(state.sides, *state[2:])]:
                continue  # one with more on its way was found since
            self.states += 1
            self.check(state)
            for following in self._following(state):
                self.transitions += 1
                self._visit(following, queue)

    @property
    def _full(self) -> int:
        return (1 << self.copies) - 1

    def _visit(self, state: State, queue: deque[State]) -> None:
        state = state._replace(wire=self._heard(state))
        key = (state.sides, *state[2:])
        rivals = self._visited.setdefault(key, [])
        if any(state.wire & ~rival == 0 for rival in rivals):
            return
        rivals[:] = [rival for rival in rivals if rival & ~state.wire]
        rivals.append(state.wire)
        queue.append(state)

    def _heard(self, state: State) -> int:
        """What is on its way without the datagrams that nobody listens to any more."""
        facts = (self.facts[0][state.sides[0]], self.facts[1][state.sides[1]])
        wire = state.wire
        together = self._one_session(state.sides)
        heard: set[int] = set()
        for number in self._on_the_way(wire):
            to, data = self.datagrams[number]
            kind, index = data[0], int.from_bytes(data[2:10], "big")
            if (
                (kind == PUBLIC_KEY and index not in facts[to].attempts)
                or (kind == SHARED_KEY and index not in facts[to].half_open)
                or (kind == RECORD and index not in facts[to].sessions)
                or (kind == RECORD and not self.all_records and (together or index in heard))
            ):
                wire &= ~(3 << 2 * number)
            elif kind == RECORD:
                heard.add(index)
        return wire

    @staticmethod
    def _on_the_way(wire: int) -> Iterator[int]:
        number = 0
        while wire:
            if wire & 3:
                yield number
            wire >>= 2
            number += 1

    def _following(self, state: State) -> Iterator[State]:
        sides, wire, now, jumps, restarts = state
        for side in (0, 1):
            for job in self.facts[side][sides[side]].jobs:
                yield from self._after(state, side, self.step(side, sides[side], ("job", job, None), now))
        for number in self._on_the_way(wire):
            left = state._replace(wire=wire & ~(3 << 2 * number) | (wire >> 2 * number & 3) >> 1 << 2 * number)
            to, result = self.deliver(number, sides, now)
            yield from self._after(left, to, result, unchanged=sides[to])
        if jumps and not any(self.facts[side][sides[side]].jobs for side in (0, 1)):
            for seconds in self.jumps:
                yield self._jump(state, seconds)
        if restarts:
            for side in (0, 1):
                yield self._restart(state, side)

    def _after(
        self, state: State, side: int, result: tuple[int, tuple[int, ...]], unchanged: int = -1
    ) -> Iterator[State]:
        number, sent = result
        if number == unchanged and not sent:
            return  # nothing happened but that a copy is gone
        wire = state.wire
        for datagram in sent:
            wire |= self._full << 2 * datagram
        yield state._replace(sides=(number, state.sides[1]) if side == 0 else (state.sides[0], number), wire=wire)

    def _jump(self, state: State, seconds: float) -> State:
        """Time passes while nothing runs, as when both computers sleep: what came due meanwhile happens late."""
        now = state.now + seconds
        for side in (0, 1):
            while True:
                number = state.sides[side]
                due = self.nodes[side][number].endpoint.next_timer()
                if due is None or due > now:
                    break
                (state,) = self._after(state, side, self.step(side, number, ("timer", b"", None), now))
        return state._replace(now=now, jumps=state.jumps - 1)

    def _restart(self, state: State, side: int) -> State:
        """The program of one side is killed and started again at once."""
        key = ("restart", state.now)
        result = self._known[side].get(key)
        if result is None:
            node, sent = make_side(side, pin=self.pins[side], now=state.now, run=2)
            result = self._known[side][key] = (self._number(side, node), self._datagrams(sent))
        (state,) = self._after(state, side, result)
        return state._replace(restarts=state.restarts - 1)

    # --- what must hold

    def check(self, state: State) -> None:
        """In every state: nothing comes twice; and while no clock ran and nobody died, sessions belong together."""
        facts = [self.facts[side][state.sides[side]] for side in (0, 1)]
        for mine, other in (facts, facts[::-1]):
            assert len(set(mine.arrived)) == len(mine.arrived), self.describe(state)
            if state.restarts == self.most_restarts:
                for _, failure in mine.settled:
                    assert failure is None, self.describe(state)
                    assert other.arrived, self.describe(state)
            if state.jumps == self.most_jumps and state.restarts == self.most_restarts and mine.confirmed is not None:
                # What is confirmed here can be opened there.
                assert mine.confirmed in (other.confirmed, other.candidate), self.describe(state)
                assert other.confirmed in (None, mine.confirmed), self.describe(state)
        self.settle(state)

    def settle(self, state: State) -> None:
        """From here on nothing is lost: the two must become one session and have each other's message.

        Of the states that are one session already, one in ten is followed: what remains is the recovery of lost data.
        """
        if self._one_session(state.sides) and self.states % 10:
            return
        sides, now = list(state.sides), state.now
        end = now + SETTLED_WITHIN
        flying: list[tuple[float, int, int]] = []
        order = count()
        passed: list[tuple[int, int, float]] = []

        def run(side: int, result: tuple[int, tuple[int, ...]]) -> None:
            sides[side] = result[0]
            for datagram in result[1]:
                heapq.heappush(flying, (now + LATENCY, next(order), datagram))
            for job in self.facts[side][sides[side]].jobs:
                run(side, self.step(side, sides[side], ("job", job, None), now))
                return

        for side in (0, 1):
            run(side, (sides[side], ()))
        while True:
            if not flying:
                here = (sides[0], sides[1], now)
                if here in self._settles:
                    break
                passed.append(here)
                if self._one_session(sides) and all(self.facts[side][sides[side]].arrived for side in (0, 1)):
                    break
            timers = [self.nodes[side][sides[side]].endpoint.next_timer() for side in (0, 1)]
            due = min((max(timer, now), side) for side, timer in enumerate(timers) if timer is not None)
            now = min(flying[0][0] if flying else due[0], due[0])
            assert now <= end, self.describe(state)
            if flying and flying[0][0] <= now:
                run(*self.deliver(heapq.heappop(flying)[2], sides, now))
            else:
                run(due[1], self.step(due[1], sides[due[1]], ("timer", b"", None), now))
        self.slowest = max(self.slowest, now - state.now)
        self._settles.update(passed)

    def _one_session(self, sides: Sequence[int]) -> bool:
        a, b = self.facts[0][sides[0]], self.facts[1][sides[1]]
        return a.confirmed is not None and a.confirmed == b.confirmed and not (a.candidate or b.candidate)

    # --- words

    def describe(self, state: State) -> str:
        lines = [f"{state}"]
        for side in (0, 1):
            facts = self.facts[side][state.sides[side]]
            peer = next(iter(self.nodes[side][state.sides[side]].endpoint._registry))
            lines.append(f"{NAMES[side]}: {peer.state} {peer.failure} {facts}")
        lines += [
            f"on its way to {NAMES[self.datagrams[n][0]]}: {KINDS[self.datagrams[n][1][0]]}"
            for n in self._on_the_way(state.wire)
        ]
        return "\n".join(lines)

    def report(self) -> str:
        """What was covered."""
        kinds = Counter(KINDS[data[0]] for _, data in self.datagrams)
        ends: Counter[str] = Counter()
        for key in self._visited:
            confirmed = [self.facts[side][key[0][side]].confirmed for side in (0, 1)]
            both = "one session" if confirmed[0] == confirmed[1] else "two sessions"
            ends[("neither", "one side", both)[sum(c is not None for c in confirmed)]] += 1
        sides = f"{len(self.nodes[0])} and {len(self.nodes[1])} states of the sides"
        return (
            f"{self.states} states, {self.transitions} transitions, {sides}, {self.steps} steps; "
            f"datagrams {dict(kinds)}; connected {dict(ends)}; slowest recovery {self.slowest:.2f} s"
        )


PINNED, MIXED, OPEN = (True, True), (True, False), (False, False)
LEAP = {"copies": 1, "jumps": (10.5,), "most_jumps": 1, "all_records": False}
SHORT_LEAP = {**LEAP, "jumps": (0.3,)}
RESTART = {"copies": 1, "most_restarts": 1, "all_records": False}


@pytest.mark.parametrize("pins", [PINNED, MIXED])
def test_every_interleaving_ends_in_one_session(pins: tuple[bool, bool], capsys: pytest.CaptureFixture[str]) -> None:
    """Every datagram lost, late, out of order or twice, every key agreement late: state by state."""
    explorer = Explorer(pins)
    explorer.explore()
    with capsys.disabled():
        print(f"\nsimultaneous opening, {pins.count(True)} of 2 pinned: {explorer.report()}")
    assert explorer.states > 100


@pytest.mark.parametrize("options", [LEAP, RESTART], ids=["leap", "restart"])
def test_late_datagrams_of_dead_attempts_and_programs(options: dict[str, Any]) -> None:
    """What was on its way arrives after attempts and half-open sessions expired, or after one program was restarted."""
    explorer = Explorer(MIXED, **options)
    explorer.explore()
    print(explorer.report())


@pytest.mark.skipif(not os.environ.get("SRMUDP_EXHAUSTIVE"), reason="minutes: set SRMUDP_EXHAUSTIVE=1")
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("pins", "options"),
    [(OPEN, {}), (PINNED, SHORT_LEAP), (PINNED, LEAP), (OPEN, LEAP), (PINNED, RESTART), (OPEN, RESTART)],
    ids=["open", "short leap", "leap", "leap open", "restart", "restart open"],
)
def test_more_of_the_same(pins: tuple[bool, bool], options: dict[str, Any]) -> None:
    """The larger graphs, up to a minute each."""
    explorer = Explorer(pins, **options)
    explorer.explore()
    print(explorer.report())


BROKEN_RULES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "each side prefers its own attempt": lambda patch: patch.setattr(
        opening_module, "outranks", lambda mine, other: True
    ),
    "each side prefers the other's": lambda patch: patch.setattr(opening_module, "outranks", lambda mine, other: False),
    "a session is confirmed without a record": lambda patch: patch.setattr(
        SessionOpening,
        "_set_half_open",
        lambda self, session, source: self._peer._confirm(session, source, session.created_at),
    ),
}


@pytest.mark.parametrize("rule", BROKEN_RULES)
def test_explorer_notices_a_broken_rule(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the exploration is worth: it fails where the rules are wrong."""
    BROKEN_RULES[rule](monkeypatch)
    with pytest.raises(AssertionError):
        Explorer(PINNED, copies=1).explore()


# --- far from the beginning


class Walk:
    """A random history of two programs: losses, copies, delays, outages, restarts, messages all along."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = random.Random(f"opening walk {seed}")
        self.pins = (self.chance.random() < 0.6, self.chance.random() < 0.6)
        self.now = START
        self.runs = [0, 0]
        self.nodes: list[LocalNode] = []
        self.past: list[list[LocalNode]] = [[], []]
        self.sent: tuple[list[bytes], list[bytes]] = ([], [])
        """What the living program of each side was told to send."""
        self.wire: list[tuple[int, bytes]] = []
        self.generations = 0
        for side in (0, 1):
            self.start(side)

    def start(self, side: int) -> None:
        """Run the program of a side, for the first time or instead of the one that is killed."""
        if self.runs[side]:
            self.past[side].append(self.nodes[side])
        self.runs[side] += 1
        node, sent = make_side(side, pin=self.pins[side], now=self.now, run=self.runs[side])
        self.nodes[side : side + 1] = [node]
        self.sent[side][:] = [greeting(side, self.runs[side])]
        self.put(sent)

    def put(self, sent: Sent) -> None:
        self.wire += [(ADDRESSES.index(destination), data) for data, destination in sent]

    def say(self, side: int) -> None:
        """One more message."""
        content = f"message {len(self.sent[side])} of run {self.runs[side]} of {NAMES[side]}".encode()
        self.sent[side].append(content)
        endpoint = self.nodes[side].endpoint
        self.put(
            self.nodes[side].command(
                f"say {content!r}",
                *(endpoint.send_message, NAMES[1 - side], content),
                channel=0,
                reliable=True,
                ttl=None,
                now=self.now,
            )
        )

    def deliver(self, position: int, *, again: bool = False) -> None:
        to, data = self.wire[position] if again else self.wire.pop(position)
        self.put(self.nodes[to].act(("deliver", data, ADDRESSES[1 - to]), self.now))

    def finish_jobs(self) -> None:
        for node in self.nodes:
            while node.jobs:
                self.put(node.act(("job", next(iter(node.jobs)), None), self.now))

    def wild(self, steps: int) -> None:
        """Anything may happen."""
        chance = self.chance
        for _ in range(steps):
            what = chance.random()
            if what < 0.03:
                self.pass_time(chance.random(), carry=True)  # a good moment
            elif what < 0.45 and self.wire:
                # Half the time the oldest goes first, or little would ever be achieved.
                position = 0 if chance.random() < 0.5 else chance.randrange(len(self.wire))
                self.deliver(position, again=chance.random() < 0.2)
            elif what < 0.55 and self.wire:
                del self.wire[chance.randrange(len(self.wire))]
            elif what < 0.8:
                running = [(node, label) for node in self.nodes for label in node.jobs]
                if running:
                    node, label = chance.choice(running)
                    self.put(node.act(("job", label, None), self.now))
            elif what < 0.97:
                self.pass_time(chance.choice((0.01, 0.05, 0.3, 0.3, 1.0, 4.0, 10.5, 22.0)))
            elif what < 0.985:
                self.say(chance.randrange(2))
            elif max(self.runs) < 4:
                self.start(chance.randrange(2))
            self.look()

    def pass_time(self, seconds: float, *, carry: bool = False) -> None:
        """Timers fire when they are due; with ``carry`` everything arrives after LATENCY, else nothing does."""
        end = self.now + seconds
        flying: deque[tuple[float, int, bytes]] = deque()
        while True:
            if carry:
                self.finish_jobs()
                flying += [(self.now + LATENCY, to, data) for to, data in self.wire]
                self.wire.clear()
            timers = [node.endpoint.next_timer() for node in self.nodes]
            due = min(max(timer, self.now) for timer in (*timers, end) if timer is not None)
            if flying and flying[0][0] <= due:
                self.now, to, data = flying.popleft()
                self.wire.append((to, data))
                self.deliver(0)
                continue
            self.now = due
            if due >= end:
                break
            side = next(side for side in (0, 1) if (timer := timers[side]) is not None and timer <= due)
            self.put(self.nodes[side].act(("timer", b"", None), self.now))
        self.wire += [(to, data) for _, to, data in flying]
        if not carry and len(self.wire) > 60:
            self.wire = self.chance.sample(self.wire, 60)  # a network does not keep more

    def look(self) -> None:
        for side in (0, 1):
            assert len(set(self.nodes[side].arrived)) == len(self.nodes[side].arrived), self
            (peer,) = self.nodes[side].endpoint._registry
            self.generations = max(self.generations, peer.generation)

    def check(self) -> None:
        """The network is good from now on: one session, and everything the living were told to send is taken, once."""
        self.wire.clear()
        self.pass_time(SETTLED_WITHIN, carry=True)
        first = self.session()
        assert first is not None, self
        self.pass_time(30.0, carry=True)
        assert self.session() == first, f"the session did not stay: {self}"
        for side in (0, 1):
            me, other = self.nodes[side], self.nodes[1 - side]
            assert [failure for _, failure in me.settled] == [None] * len(self.sent[side]), self
            takers = [*self.past[1 - side], other]
            for node in takers:
                mine = [content for content in node.arrived if content in self.sent[side]]
                order = [self.sent[side].index(content) for content in mine]
                assert order == sorted(set(order)), f"twice or out of order {order}: {self}"
            taken = {content for node in takers for content in node.arrived}
            assert taken >= set(self.sent[side]), self

    def session(self) -> bytes | None:
        """The handshake hash of the one session, None if there is none or two."""
        a, b = (facts_of(node) for node in self.nodes)
        return a.confirmed if a.confirmed == b.confirmed and not (a.candidate or b.candidate) else None

    def __repr__(self) -> str:
        lines = [f"walk {self.seed}, pins {self.pins}, now {self.now:.3f}"]
        for side in (0, 1):
            (peer,) = self.nodes[side].endpoint._registry
            facts = facts_of(self.nodes[side])
            lines.append(
                f"{NAMES[side]} run {self.runs[side]}: {peer.state} {peer.failure} sent {self.sent[side]} {facts}"
            )
        return "\n".join(lines)


def test_random_histories_with_restarts_and_many_generations() -> None:
    """60 seeded walks far beyond the explored graph: each recovers within 30 s, with every message taken once."""
    generations = []
    for seed in range(60):
        walk = Walk(seed)
        walk.wild(150)
        walk.check()
        generations.append(walk.generations)
    print(f"{len(generations)} walks; generations reached: {dict(sorted(Counter(generations).items()))}")
    assert max(generations) >= 3
