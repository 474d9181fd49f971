"""Calls that an exception left half done, at random points: everything stays deliverable."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

import pytest

from srmudp.config import Config
from srmudp.models import EventKind
from srmudp.protocol.assembly import IncomingMessage
from srmudp.protocol.events import MessageArrived, MessageSettled
from srmudp.wire.packet import PUNCH
from tests.endpoints import (
    LINK,
    FaultyBackend,
    Recorder,
    WireWatcher,
    alive,
    arrived,
    connect,
    events,
    kinds,
    make_node,
    pair,
    peer_of,
    send,
    settled,
    status,
    until,
)
from tests.simnet import Link, SimNet, SimNode

T = TypeVar("T")


class Interrupter:
    """Drives endpoints whose seals raise now and then, as their driver would: report it, then go on."""

    def __init__(self, sim: SimNode, backend: FaultyBackend, share: float, seed: int) -> None:
        self.sim, self.backend = sim, backend
        self.rng = random.Random(seed)
        self.share = share
        self.raised = 0
        backend.fault = self.fault
        node = sim.node
        entries = "handle_batch", "handle_burst_end", "handle_timer", "poll_transmit", "finish_job", "message_taken"
        for name in entries:
            setattr(node, name, self.guarded(getattr(node, name)))

    def fault(self, when: str) -> None:
        if self.rng.random() < self.share:
            self.raised += 1
            raise KeyboardInterrupt if self.rng.random() < 0.5 else MemoryError

    def guarded(self, call: Callable[..., object]) -> Callable[..., object]:
        def guard(*arguments: object, **options: object) -> object:
            try:
                return call(*arguments, **options)
            except (KeyboardInterrupt, MemoryError):
                now = self.sim.net.now
                self.sim.node.handle_interrupted(now)
                return None

        return guard


@pytest.mark.parametrize("seed", range(110, 114))
def test_interrupts_at_random_points_keep_everything_deliverable(seed: int) -> None:
    net = SimNet(seed, link=Link(latency=0.01, loss=0.01, rate=5e6, queue_bytes=200_000))
    watcher = WireWatcher(net)
    faulty = FaultyBackend()
    a = make_node(net, "a", "10.0.0.1", backend=faulty)
    b = make_node(net, "b", "10.0.0.2")
    connect(net, a, b)
    storm = Interrupter(a, faulty, 0.02, seed)
    rng = random.Random(seed)
    contents = {name: [rng.randbytes(rng.choice((0, 10, 3000, 50_000))) for _ in range(30)] for name in "ab"}
    for number in range(30):
        send(a, b, contents["a"][number], channel=number % 2)
        send(b, a, contents["b"][number], channel=number % 2)
        net.run(0.05)
    until(net, lambda: storm.raised >= 5, 120)
    faulty.fault = None
    until(net, lambda: a.node.pending == b.node.pending == 0, 60)
    for channel in range(2):
        assert arrived(b, channel=channel) == contents["a"][channel::2]
        assert arrived(a, channel=channel) == contents["b"][channel::2]
    assert all(event.failure is None for sim in (a, b) for event in sim.of(MessageSettled))
    watcher.check()
    alive(net, a, b, size=10_000)


def test_a_job_that_was_lost_by_an_interrupt_does_not_strand_its_peer() -> None:
    """The key generation of a punch never comes back: the peer must be punched all the same."""
    net = SimNet(116, link=LINK)
    a, b = make_node(net, "a", "10.0.0.1"), make_node(net, "b", "10.0.0.2")
    a.node.add_peer("b", [b.address], None, net.now)
    a.node.add_peer("c", [], None, net.now)
    a.node.poll_transmit(net.now)
    timer = a.node.next_timer()
    assert timer is not None
    a.node.handle_timer(max(timer, net.now))
    assert a.node.next_job() is not None  # and it is gone
    a.node.send_message("c", b"", channel=0, reliable=True, ttl=None, now=net.now)  # another peer was at work last
    a.node.handle_interrupted(net.now)
    record = Recorder(net)
    net.run(15)
    assert record.of(PUNCH, source=a)


def test_an_interrupt_between_two_calls_costs_no_other_peer_its_session() -> None:
    net, a, b = pair(117)
    c = make_node(net, "c", "10.0.0.3")
    connect(net, a, c)
    net.run(1)
    send(a, c, b"the last one at work on is c")
    a.node.handle_interrupted(net.now)
    net.run(1)
    assert kinds(a).count(EventKind.LOST) <= 1
    assert all(event.peer == "c" for event in events(a, EventKind.LOST))
    alive(net, a, b, size=1000)
    alive(net, a, c, size=1000)


# --- at every line ---


class AtLine:
    """Raises KeyboardInterrupt before the n-th line that a call runs in the rooms of protocol and peers.

    Attributes:
        hits: where it was raised.
    """

    ROOMS = ("/srmudp/peers/", "/srmudp/protocol/")

    def __init__(self, sim: SimNode) -> None:
        self.sim = sim
        self.hits: list[str] = []
        self._left = 0

    def _enter(self, frame: FrameType, event: str, argument: object) -> Any:
        return self._line if any(room in frame.f_code.co_filename for room in self.ROOMS) else None

    def _line(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "line" and self._left:
            self._left -= 1
            if not self._left:
                self.hits.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
                raise KeyboardInterrupt
        return self._line

    def call(self, line: int, call: Callable[..., T], *arguments: object, **options: object) -> T | None:
        """Call it; if it runs so many lines, it is interrupted and the endpoint told. None then."""
        before = sys.gettrace()
        self._left = line
        try:
            sys.settrace(self._enter)
            return call(*arguments, **options)
        except KeyboardInterrupt:
            sys.settrace(before)
            self.sim.node.handle_interrupted(self.sim.net.now)
            return None
        finally:
            sys.settrace(before)
            self._left = 0


def test_sending_interrupted_at_every_line() -> None:
    """Whether the interrupted message counts is open; what was queued before and after it arrives once, in order."""
    line, done = 1, False
    while not done:
        net, a, b = pair(300)
        strike = AtLine(a)
        now = net.now
        first = send(a, b, bytes(5000))
        strike.call(line, a.node.send_message, "b", b"?", channel=0, reliable=True, ttl=5.0, now=now)
        done = not strike.hits
        last = send(a, b, b"last")
        net.run(2)
        assert settled(a, first) == MessageSettled(first, "b", None), strike.hits
        assert settled(a, last) == MessageSettled(last, "b", None), strike.hits
        assert [content for content in arrived(b) if content != b"?"] == [bytes(5000), b"last"], strike.hits
        net.run(6)
        assert a.node.pending == 0, strike.hits
        assert status(a, b).queued == 0
        line += 1
    assert line > 20


def test_taking_interrupted_at_every_line() -> None:
    """The application was not given the message, so its socket hands it out and says taken once more."""
    line, done = 1, False
    while not done:
        net = SimNet(301, link=LINK)
        a = make_node(net, "a", "10.0.0.1")
        b = make_node(net, "b", "10.0.0.2", on_event=None)
        connect(net, a, b)
        tokens = [send(a, b, b"%d" % number) for number in range(4)]
        net.run(0.1)
        zero, one, two, three = b.of(MessageArrived)
        strike = AtLine(b)
        b.do(b.node.message_taken, two)
        strike.call(line, b.node.message_taken, zero, net.now)
        done = not strike.hits
        for event in (zero, one, three):
            b.do(b.node.message_taken, event)
        net.run(2)
        assert [settled(a, token) for token in tokens] == [MessageSettled(token, "b", None) for token in tokens]
        receiving = peer_of(b, a).connection.receiving
        assert (receiving.charged, receiving.channels[0].charged, receiving.channels[0].taken) == (0, 0, 4), strike.hits
        assert b.node.budget.free == b.node.config.receive_budget
        net.run(5)
        assert len(b.of(MessageArrived)) == 4
        line += 1
    assert line > 20


def test_taking_of_a_large_message_interrupted_at_every_line() -> None:
    """Its grant never goes back to the budget twice."""
    config = Config(channel_window=64 * 1024, connection_window=64 * 1024, max_message_size=1 << 20)
    line, done = 1, False
    leaks: list[str] = []
    while not done:
        net = SimNet(302, link=LINK)
        a = make_node(net, "a", "10.0.0.1")
        b = make_node(net, "b", "10.0.0.2", on_event=None, config=config)
        connect(net, a, b)
        send(a, b, bytes(100_000))
        net.run(1)
        strike = AtLine(b)
        strike.call(line, b.node.message_taken, b.of(MessageArrived)[0], net.now)
        done = not strike.hits
        b.do(b.node.message_taken, b.of(MessageArrived)[0])
        net.run(2)
        assert a.node.pending == 0, strike.hits
        assert b.node.budget.free <= config.receive_budget, "returned twice"
        if b.node.budget.free < config.receive_budget:
            leaks += strike.hits
        assert peer_of(b, a).connection.receiving.charged == 0, strike.hits
        line += 1
    assert line > 20
    assert len(leaks) <= 3, "between the note that it is returned and its return"


@pytest.mark.parametrize("seed", range(303, 307))
def test_output_timers_and_input_interrupted_at_random_lines(seed: int) -> None:
    net = SimNet(seed, link=Link(latency=0.005, loss=0.01))
    watcher = WireWatcher(net)
    a, b = make_node(net, "a", "10.0.0.1"), make_node(net, "b", "10.0.0.2")
    connect(net, a, b)
    rng = random.Random(seed)
    strike = AtLine(a)
    active = True

    def struck(call: Callable[..., object]) -> Callable[..., object]:
        def inner(*arguments: object) -> object:
            if active and rng.random() < 0.03:
                return strike.call(1 + int(rng.expovariate(1 / 40)), call, *arguments)
            return call(*arguments)

        return inner

    for name in ("poll_transmit", "handle_timer", "handle_burst_end", "handle_batch"):
        setattr(a.node, name, struck(getattr(a.node, name)))
    contents = [rng.randbytes(rng.choice((0, 10, 2000, 20_000))) for _ in range(60)]
    for number, content in enumerate(contents):
        send(a, b, content, channel=number % 2)
        send(b, a, content, channel=number % 2)
        net.run(0.02)
    active = False
    until(net, lambda: a.node.pending == b.node.pending == 0, 60)
    assert len(strike.hits) > 10
    for channel in range(2):
        assert arrived(a, channel=channel) == arrived(b, channel=channel) == contents[channel::2], strike.hits
    assert all(event.failure is None for sim in (a, b) for event in sim.of(MessageSettled))
    watcher.check()


def test_no_memory_for_a_message_that_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parts have been acknowledged by then; it is put together once there is room."""
    net, a, b = pair(310)
    content = random.Random(310).randbytes(200_000)
    failures = 2
    inner = IncomingMessage.content

    def scarce(self: IncomingMessage) -> bytes:
        nonlocal failures
        if failures:
            failures -= 1
            raise MemoryError
        return inner(self)

    monkeypatch.setattr(IncomingMessage, "content", scarce)
    handle = b.node.handle_batch

    def guarded(*arguments: object) -> None:
        try:
            handle(*arguments)
        except MemoryError:
            b.node.handle_interrupted(net.now)

    b.node.handle_batch = guarded
    token, after = send(a, b, content), send(a, b, b"after")
    until(net, lambda: settled(a, token) and settled(a, after), 20)
    assert failures == 0
    assert arrived(b) == [content, b"after"]
    net.run(1)
    assert peer_of(b, a).connection.receiving.charged == 0
