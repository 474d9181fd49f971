"""Calls that an exception left half done, at random points: everything stays deliverable."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from srmudp.models import EventKind
from srmudp.protocol.events import MessageSettled
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
    send,
    until,
)
from tests.simnet import Link, SimNet, SimNode


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
