"""What the whole-endpoint targets share: nodes in virtual time, a script of six-byte steps, and what must always hold.

A fuzz input is a script: a header of two bytes (network and policies, seed) and steps of six bytes each::

    what who x y seed:2

so that changing a byte changes a step, and doubling, moving or cutting six bytes doubles, moves or cuts a step. The
traffic that a script mutates is recorded while it runs, with the keys and indices of that very run.
"""

from __future__ import annotations

import contextlib
import gc
import io
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, MethodType, ModuleType
from typing import Any, ClassVar, Final, NamedTuple

from srmudp.config import KIB, MIB, Config
from srmudp.models import Address, EventKind, PeerEvent
from srmudp.peers.admission import MAX_HALF_OPEN, MAX_PENDING
from srmudp.peers.endpoint import AcceptPolicy
from srmudp.peers.handshakes import MAX_KEY_AGREEMENT_JOBS
from srmudp.protocol.events import MessageArrived, MessageSettled
from srmudp.protocol.records import MAX_PARTIAL_RECORDS, MAX_REMEMBERED
from srmudp.protocol.unreliable import MAX_PARTIAL
from srmudp.wire.frames import MAX_RANGES
from tests.endpoints import Datagram, add, make_node, name_of, peer_of, status
from tests.fuzz.mutate import STEP, Mutator
from tests.fuzz.parsers import Finding, require
from tests.simnet import Link, SimNet, SimNode, take_messages

SMALL: Final = Config(
    channel_window=256 * KIB,
    connection_window=512 * KIB,
    max_message_size=1 * MIB,
    receive_budget=4 * MIB,
    unreliable_queue=256 * KIB,
)
"""Limits that a script can reach."""
LINKS: Final = (
    Link(latency=0.005),
    Link(latency=0.02, jitter=0.01, loss=0.01),
    Link(latency=0.01, loss=0.05, reorder=0.05, reorder_delay=0.02, duplicate=0.02),
    Link(latency=0.0005),
)
STRANGERS: Final = (Address("198.51.100.66", 6666), Address("10.0.0.1", 6667), Address("2001:db8::66", 6666))
MAX_STEPS: Final = 48
PER_DATAGRAM: Final = 0.05
"""Seconds of CPU that one datagram may cost, whatever is in it."""
MAX_BYTES: Final = 1_500_000
"""Bytes of messages in one script."""
MAX_SECONDS: Final = 60.0
"""Virtual seconds of waiting in one script."""
QUIET: Final = 25.0
"""Virtual seconds after which nothing half-open may be left."""
LARGEST_TABLE: Final = 4096
"""Entries of any table that strangers can fill."""
MEMORY: Final = 12 * MIB
"""Bytes that an endpoint of three peers with the limits of SMALL may hold: windows and reassembly of each."""


class Stopwatch:
    """What the cost of a datagram is measured with.

    Asking for CPU time may cost a millisecond itself: a look at the wall clock comes first, and CPU time decides when
    that says that something was slow.
    """

    read: Callable[[], float] = time.perf_counter


STOPWATCH: Final = Stopwatch()


class Slow(Finding):
    """One datagram took longer than it may. Counts only if it does so every time."""


class Step(NamedTuple):
    """One step of a script."""

    what: int
    who: int
    x: int
    y: int
    seed: int


def steps(script: bytes) -> Iterator[Step]:
    """The steps after the header; what is left over at the end is none."""
    for at in range(2, min(len(script), 2 + STEP * MAX_STEPS) - STEP + 1, STEP):
        what, who, x, y, high, low = script[at : at + STEP]
        yield Step(what, who, x, y, high << 8 | low)


class Sent(NamedTuple):
    """A message that an honest application sent."""

    sender: SimNode
    receiver: str
    token: int
    content: bytes
    reliable: bool
    channel: int


class World:
    """Three nodes, "a", "b" and "c"; a and b talk, and b and c. Subclasses name their steps in ``ACTIONS``.

    Attributes:
        strict: pairs of names between which nothing may go wrong at all: no connection lost, nothing failed.
    """

    ACTIONS: ClassVar[dict[str, Callable[[Any, Step], None]]] = {}
    EDGES: ClassVar[tuple[tuple[str, str], ...]] = (("a", "b"), ("b", "c"))
    NODES: ClassVar[dict[str, str]] = {"a": "10.0.0.1", "b": "10.0.0.2", "c": "10.0.0.3"}

    def __init__(self, script: bytes, backend: Any = None) -> None:
        header = script[:2].ljust(2, b"\0")
        self.script = script
        self.pin = bool(header[0] & 4)
        self.accept = tuple(AcceptPolicy)[(header[0] >> 3) % 3]
        self.backend = backend
        with contextlib.redirect_stdout(io.StringIO()):  # which says the seed each time
            self.net = SimNet(header[1], link=LINKS[header[0] & 3])
        self.wire: list[Datagram] = []
        self.net.tap(self._record)
        self.nodes: dict[str, SimNode] = {}
        self.instances: list[SimNode] = []
        self.sent: list[Sent] = []
        self.bytes_left = MAX_BYTES
        self.seconds_left = MAX_SECONDS
        self.strict = set(self.EDGES)
        self.connected = False
        for name in self.NODES:
            self.start(name)

    def _record(self, now: float, source: Address, destination: Address, data: bytes) -> None:
        if len(self.wire) < 500:
            self.wire.append(Datagram(now, source, destination, data))
        else:
            # The beginning, which has the handshakes, and the newest.
            self.wire[100 + self.net.counts["sent"] % 400] = Datagram(now, source, destination, data)

    # --- the script

    def play(self) -> None:
        """Every step, then the end: all that was promised must have come true."""
        actions = list(self.ACTIONS.values())
        for step in steps(self.script):
            actions[step.what % len(actions)](self, step)
        self.finish()

    def features(self) -> set[str]:
        """What this script led to, roughly: a script that adds to it is worth keeping."""
        found = set()
        for name, sim in self.nodes.items():
            found |= {f"{name} {reason} {count.bit_length()}" for reason, count in sim.node.drops.items()}
        for sim in self.instances:
            for event in sim.of(PeerEvent):
                reason = "".join(c for c in event.reason if not c.isdigit())[:60]
                found.add(f"{name_of(sim)} {event.kind.value} {reason if '(' not in reason else ''}")
        return found

    def finish(self) -> None:
        """Let everything come to rest, then look at it."""
        raise NotImplementedError

    def rng(self, step: Step) -> random.Random:
        """What one step draws from."""
        return random.Random(step.seed << 16 | step.who << 8 | step.x)

    def mutator(self, step: Step) -> Mutator:
        """What one step changes bytes with."""
        return Mutator(self.rng(step), longest=65_507)

    # --- honest life

    def start(self, name: str) -> SimNode:
        """Run a program: for the first time, or again."""
        node = make_node(
            *(self.net, name, self.NODES[name]),
            config=SMALL,
            backend=self.backend,
            accept=self.accept,
            claimed=name,
            on_event=self._on_event,
        )
        self.nodes[name] = node
        self.instances.append(node)
        return node

    def _on_event(self, sim: SimNode, event: Any) -> None:
        take_messages(sim, event)
        if isinstance(event, PeerEvent) and event.kind is EventKind.PENDING and event.peer_id is not None:
            sim.node.admit(event.peer_id, event.peer_id.key[0] & 1 == 0, self.net.now)

    def introduce(self, name: str) -> None:
        """The node adds its neighbours, and they add it, where they are now."""
        for x, y in self.EDGES:
            if name in (x, y):
                for one, other in ((x, y), (y, x)):
                    add(self.nodes[one], self.nodes[other], pin=self.pin)

    def connect(self, step: Step | None = None) -> None:
        """Everybody adds everybody they talk with; the handshakes are still to come."""
        if not self.connected:
            self.connected = True
            for x, y in self.EDGES:
                add(self.nodes[x], self.nodes[y], pin=self.pin)
                add(self.nodes[y], self.nodes[x], pin=self.pin)

    def edge(self, step: Step) -> tuple[SimNode, SimNode]:
        """The two ends a step chose, in either direction."""
        x, y = self.EDGES[step.who % len(self.EDGES)]
        if step.who & 0x80:
            x, y = y, x
        return self.nodes[x], self.nodes[y]

    def say(self, sender: SimNode, receiver: SimNode, size: int, channel: int, reliable: bool = True) -> None:
        """An honest message, remembered."""
        size = min(size, self.bytes_left)
        if not self.connected or name_of(receiver) not in sender.node.statuses(self.net.now):
            return
        self.bytes_left -= size
        serial = len(self.sent)
        body = random.Random(serial).randbytes(size)
        content = f"{serial} {name_of(sender)}>{name_of(receiver)}|".encode() + body
        token = sender.do(
            sender.node.send_message, name_of(receiver), content, channel=channel, reliable=reliable, ttl=None
        )
        self.sent.append(Sent(sender, name_of(receiver), token, content, reliable, channel))

    def small(self, step: Step) -> None:
        """A short message on any channel."""
        self.say(*self.edge(step), step.x, step.y & 63)

    def large(self, step: Step) -> None:
        """One of many segments, perhaps (8 in ``y``) larger than a window."""
        self.say(*self.edge(step), (2_000 + 400 * step.x) << (step.y >> 2 & 2), step.y & 3)

    def unreliable(self, step: Step) -> None:
        """One that may be lost, perhaps of many parts."""
        self.say(*self.edge(step), step.x * (step.y & 31), step.y & 3, reliable=False)

    def wait(self, step: Step) -> None:
        """Let time pass: up to 25 s."""
        seconds = min((step.x + 1) * (0.0005, 0.004, 0.02, 0.1)[step.y & 3], self.seconds_left)
        self.seconds_left -= seconds
        self.net.run(seconds)

    def update(self, step: Step) -> None:
        """A key update is due."""
        one, other = self.edge(step)
        if name_of(other) in one.node.statuses(self.net.now):
            session = peer_of(one, other).connection.session
            if session is not None:
                session.keys.sealed = max(session.keys.sealed, 1 << 20)
                peer = peer_of(one, other)
                one.do(peer.on_timer)
                one.do(lambda now: one.node.touch(peer))

    # --- the attacker

    def deliver(self, target: SimNode, data: bytes, source: Address, segment_size: int = 0, count: int = 1) -> None:
        """One hostile datagram (or a batch) arrives now. Whatever it does must be seen somewhere, and soon over.

        Args:
            count: datagrams in the batch, as far as the cost is concerned.
        """
        node = target.node
        single = not segment_size
        before = self.footprint(target)
        started = STOPWATCH.read()
        target.do(lambda now: node.handle_batch(data, segment_size or max(1, len(data)), source, now))
        target.do(lambda now: node.handle_burst_end(now))
        spent = STOPWATCH.read() - started
        if spent > PER_DATAGRAM * count:
            raise Slow(f"{spent * 1000:.0f} ms for {count} datagrams, {len(data)} bytes: {data[:80].hex()}")
        if single and self.footprint(target) == before:
            raise Finding(f"a datagram vanished without being counted: {len(data)} bytes, {data[:80].hex()}")

    def footprint(self, sim: SimNode) -> tuple[int, ...]:
        """Numbers of which at least one changes whatever a datagram leads to."""
        node = sim.node
        receivers = [session.receiver for _, session in node._sessions.values()]
        return (
            sum(node.drops.values()),
            sum(receiver._partial_bytes for receiver in receivers),
            sum(keys.opened for receiver in receivers for keys in receiver._keys.values()),
            len(node._sessions),
            len(node._admission._by_punch),
            len(node._handshakes._attempts),
            len(sim.events),
            self.net.counts["sent"],
        )

    # --- what must hold

    def bounded(self, sim: SimNode) -> None:
        """No table is larger than its limit."""
        node = sim.node
        admission = node._admission
        for table, limit in (
            (admission._by_punch, MAX_HALF_OPEN),
            (admission._by_index, MAX_HALF_OPEN),
            (admission._pending, MAX_PENDING),
            (node._handshakes.jobs, MAX_KEY_AGREEMENT_JOBS),
            (node._sessions, 2 * len(node._registry)),
            (node._handshakes._attempts, len(node._registry)),
            *((table, LARGEST_TABLE) for table in tables(admission)),
            *((table, LARGEST_TABLE) for table in tables(node._handshakes)),
        ):
            require(len(table) <= limit, f"{len(table)} entries where {limit} are allowed at {sim.name}")
        for _, session in node._sessions.values():
            receiver = session.receiver
            require(len(receiver._partials) <= MAX_PARTIAL_RECORDS, "incomplete records without bound")
            require(0 <= receiver._partial_bytes <= receiver._memory, "reassembly beyond its memory")
            counted = sum(partial.size for partial in receiver._partials.values())
            require(counted == receiver._partial_bytes, "reassembly counts its bytes wrongly")
            require(len(receiver._discarded) <= MAX_RANGES, "discarded records without bound")
            require(len(receiver._opened) <= MAX_REMEMBERED, "ranges without bound")
            require(len(receiver._transmissions) <= MAX_REMEMBERED, "hints without bound")
        for peer in node._registry:
            connection = peer.connection
            config = node.config
            require(0 <= connection.receiving.charged <= config.connection_window, "more held than the window")
            require(len(connection.unreliable_in._partial) <= MAX_PARTIAL, "unreliable parts without bound")
            require(0 <= connection.unreliable_in._partial_bytes <= config.unreliable_queue, "unreliable bytes")
            require(len(connection.receiving.channels) <= 64, "channels without bound")
            lying = connection.arrived or connection.arrived_unreliable or connection.signals
            require(peer.lingering or not lying, f"left lying: {lying}")
        require(0 <= node.budget.free <= node.config.receive_budget, "the budget is not what it was")

    def at_rest(self, sim: SimNode) -> None:
        """Nothing half-open, half-sent or half-received is left once all is quiet."""
        node = sim.node
        self.bounded(sim)
        admission, handshakes = node._admission, node._handshakes
        left: dict[str, Any] = {
            "half-open": admission._by_punch,
            "half-open by index": admission._by_index,
            "half-open by host": admission._per_host,
            "jobs": handshakes.jobs,
            "answers": handshakes.answers,
            "bursts": node._receiving,
        }
        unconnected = sum(not peer.connected for peer in node._registry)
        require(len(handshakes._attempts) <= unconnected, f"attempts are left: {handshakes._attempts}")
        sessions = sum(peer.connected + (peer.opening.half_open is not None) for peer in node._registry)
        require(len(node._sessions) == sessions, f"{len(node._sessions)} sessions for {sessions} in use")
        for peer in node._registry:
            connection = peer.connection
            left[f"output for {peer.name}"] = peer.outbox
            left[f"controls for {peer.name}"] = connection._controls.frames
            left[f"resends for {peer.name}"] = connection._resends
            if connection.recovery is not None and (peer.name, name_of(sim)) in self.both_ways():
                left[f"records to {peer.name}"] = connection.recovery.records
                require(
                    connection.recovery.in_flight == 0, f"in flight to {peer.name}: {connection.recovery.in_flight}"
                )
        for what, table in left.items():
            require(not table, f"{what} left at {sim.name}: {len(table)}")
        require(node.budget.free == node.config.receive_budget, f"{sim.name} lost budget: {node.budget.free}")
        held = reachable_bytes(node)
        require(held <= MEMORY, f"{held} bytes are held at {sim.name}")

    def both_ways(self) -> set[tuple[str, str]]:
        """The strict pairs in either order."""
        return self.strict | {(y, x) for x, y in self.strict}

    def kept_promises(self) -> None:
        """Honest messages: once, whole, in order; all of them between strict pairs."""
        known = {message.content: number for number, message in enumerate(self.sent)}
        for sim in self.instances:
            seen: set[int] = set()
            last: dict[tuple[int, int], int] = {}
            for event in sim.of(MessageArrived):
                if event.peer not in self.honest_for(sim):
                    continue
                serial = known.get(event.content)
                if serial is None:
                    raise Finding(f"{sim.name} was given what {event.peer} never sent: {event.content[:60]!r}")
                message = self.sent[serial]
                require(message.receiver == name_of(sim), "a message went to somebody else")
                require(name_of(message.sender) == event.peer, f"{event.content[:20]!r} under the name {event.peer}")
                require(event.channel == message.channel, "a message on another channel")
                require(serial not in seen, f"message {serial} came twice to one run of {sim.name}")
                seen.add(serial)
                if message.reliable:
                    key = (id(message.sender), message.channel)
                    require(last.get(key, -1) < serial, f"message {serial} came too late at {sim.name}")
                    last[key] = serial
        everything = {event.content for sim in self.instances for event in sim.of(MessageArrived)}
        for message in self.sent:
            pair = (name_of(message.sender), message.receiver)
            ends = [event for event in message.sender.of(MessageSettled) if event.token == message.token]
            require(len(ends) <= 1, f"settled twice: {ends}")
            if message.reliable and pair in self.both_ways():
                arrived = message.content in everything
                require(arrived and len(ends) == 1, f"{message.content[:20]!r} settled {ends}, arrived: {arrived}")
                require(ends[0].failure is None, f"{message.content[:20]!r} failed: {ends}")
        for sim in self.instances:
            for told in sim.of(PeerEvent):
                if (name_of(sim), told.peer) in self.both_ways():
                    good = (EventKind.CONNECTED, EventKind.MTU, EventKind.ROAMED)
                    require(told.kind in good, f"{sim.name}: {told.kind.value} {told.peer}: {told.reason}")

    def honest_for(self, sim: SimNode) -> set[str]:
        """Names under which only honest messages may reach a node."""
        return {name for name in self.NODES if name != name_of(sim)}

    def settle(self, pairs: set[tuple[str, str]], seconds: float = 120.0) -> None:
        """Run until these pairs are connected and everything between them is delivered."""

        def done() -> bool:
            now = self.net.now
            for x, y in pairs:
                for one, other in ((x, y), (y, x)):
                    statuses = self.nodes[one].node.statuses(now)
                    if other not in statuses or not statuses[other].established or statuses[other].queued:
                        return False
            return True

        if not self.net.run_until(done, seconds):
            told = [
                f"{name}: {status(node, other)}"
                for name, node in self.nodes.items()
                for other in node.node.statuses(self.net.now)
            ]
            raise Finding("no agreement any more: " + "; ".join(told))

    def exchange(self, pairs: set[tuple[str, str]]) -> None:
        """A fresh message each way between these pairs, after all that."""
        for x, y in sorted(pairs):
            for one, other in ((x, y), (y, x)):
                self.say(self.nodes[one], self.nodes[other], 3_000, 9)
                mine = self.sent[-1]
                came = self.nodes[other]
                done = self.net.run_until(lambda: settled(mine) and mine.content in contents(came), 60)  # noqa: B023
                require(done, f"no message any more from {one} to {other}")


def settled(message: Sent) -> bool:
    """True if a message is delivered."""
    return any(e.token == message.token and e.failure is None for e in message.sender.of(MessageSettled))


def contents(sim: SimNode) -> list[bytes]:
    """What a node was given."""
    return [event.content for event in sim.of(MessageArrived)]


def tables(owner: object, depth: int = 2) -> Iterator[Any]:
    """Every dict, deque and set among the attributes of an object, and of those of its parts that hold nothing else."""
    slots = [name for kind in type(owner).__mro__ for name in getattr(kind, "__slots__", ())]
    for name in (*getattr(owner, "__dict__", ()), *slots):
        value = getattr(owner, name, None)
        if isinstance(value, dict | deque | set):
            yield value
        elif depth and type(value).__name__ in ("Cookies", "TokenBucket", "PatientBucket"):
            yield from tables(value, depth - 1)


_NOT_OURS: Final = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType, CodeType, FrameType, random.Random)


def reachable_bytes(root: object) -> int:
    """Bytes of everything that an object keeps alive, functions and modules apart."""
    seen: set[int] = set()
    total = 0
    waiting = [root]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, _NOT_OURS):
            continue
        seen.add(id(thing))
        total += sys.getsizeof(thing)
        waiting.extend(gc.get_referents(thing))
    return total
