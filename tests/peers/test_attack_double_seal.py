"""Attack 69: a second seal under one record number, looked for on the wire, under loss and under interrupts."""

from __future__ import annotations

import os
import random
from functools import partial

import pytest

from srmudp.models import Address
from srmudp.peers.endpoint import Endpoint
from srmudp.wire.packet import RECORD_OVERHEAD, RESEND_OVERHEAD, RecordHeader, cut_record, resend_segment
from tests.endpoints import FaultyBackend, WireWatcher, alive, arrived, connect, make_node, send, status, transfer
from tests.simnet import Link, SimNet

STRANGER = Address("198.51.100.66", 6666)


@pytest.mark.parametrize("seed", range(3))
def test_attack_69_watch_the_wire_under_loss(seed: int) -> None:
    """Attack 69: loss of single records and of segments, a moving peer, a restart: nothing is sealed twice."""
    link = Link(latency=0.015, loss=0.08, reorder=0.05, reorder_delay=0.01, duplicate=0.03, corrupt=0.02)
    net = SimNet(690 + seed, link=link)
    a, b = make_node(net, "a", "10.0.0.1"), make_node(net, "b", "10.0.0.2")
    watcher = WireWatcher(net)
    connect(net, a, b, timeout=20)
    for number in range(30):
        net.after(0.02 * number, partial(send, a, b, b"interactive %d" % number, channel=1))
        net.after(0.03 * number, partial(send, b, a, b"answer %d" % number, channel=1))
    transfer(net, a, b, net.random.randbytes(700_000))
    net.move_host("b", "10.0.0.99")
    transfer(net, b, a, net.random.randbytes(200_000))
    net.partition("a", "b")
    net.run(2)
    net.heal()
    transfer(net, a, b, net.random.randbytes(100_000))
    net.run(2)
    assert arrived(b, a, 1) == [b"interactive %d" % n for n in range(30)]
    assert arrived(a, b, 1) == [b"answer %d" % n for n in range(30)]
    watcher.check(records=300, resends=5)
    assert status(a, b).stats.datagrams_lost > 10


def test_attack_69_the_watcher_sees_a_second_seal() -> None:
    """Attack 69: what the watcher must find, it finds."""
    net = SimNet(1)
    header = RecordHeader(0, 7, 3, 3, 1, 40)
    long = RecordHeader(0, 7, 4, 4, 2, 40)
    one, two = bytes(40), b"\x01" * 40
    body = bytes(range(80))
    first, second = (cut_record(long, body)[at : at + 70] for at in (0, 70))
    sent_again = resend_segment(long, body, 0, 9)

    def found(*datagrams: bytes) -> str:
        watcher = WireWatcher(net)
        for datagram in datagrams:
            watcher.see(0.0, STRANGER, STRANGER, datagram)
        watcher.stop()
        return "; ".join(watcher.violations)

    assert found(cut_record(header, one), first, second, sent_again) == ""
    assert "two ciphertexts" in found(cut_record(header, one), cut_record(header, two))
    assert "left twice" in found(cut_record(header, one), cut_record(header, one))
    assert "two headers" in found(cut_record(header, one), cut_record(header._replace(first=9), one))
    assert "two ciphertexts" in found(first, second, sent_again[:-1] + b"\xff")
    assert "left twice" in found(first, first)
    assert "used twice" in found(first, second, resend_segment(long, body, 0, 5))
    assert "before it was sent" in found(sent_again)
    assert len(sent_again) == RESEND_OVERHEAD + 40
    assert len(first) == RECORD_OVERHEAD + 40


class Interrupted:
    """Attack 69: an endpoint whose calls are interrupted, driven as the threads drive one.

    A ``BaseException`` that leaves a call is caught where ``send`` would show it to the application, after
    ``handle_interrupted`` was called.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.caught: list[BaseException] = []

    def __getattr__(self, name: str) -> object:
        method = getattr(self.endpoint, name)
        if not callable(method) or name.startswith("_"):
            return method

        def call(*args: object, **kwargs: object) -> object:
            try:
                return method(*args, **kwargs)
            except (KeyboardInterrupt, MemoryError) as error:
                self.caught.append(error)
                self.endpoint.handle_interrupted(self.now())
                return None

        return call

    def now(self) -> float:
        raise NotImplementedError


@pytest.mark.timeout(60)
def test_attack_69_interrupts_and_lack_of_memory_while_sealing() -> None:
    """Attack 69: random KeyboardInterrupts and MemoryErrors in seals; no number twice, nothing lost or twice.

    300 of them, and 1,000 with SRMUDP_EXHAUSTIVE=1, as tests/real/test_machine.py has of another kind in every run.
    """
    faults = 1000 if os.environ.get("SRMUDP_EXHAUSTIVE") else 300
    net = SimNet(6969, link=Link(latency=0.002, loss=0.01))
    watcher = WireWatcher(net)
    rng = random.Random(69)
    faulty = FaultyBackend()
    a = make_node(net, "a", "10.0.0.1", backend=faulty)
    wrapped = Interrupted(a.node)
    wrapped.now = lambda: net.now  # type: ignore[method-assign]
    a.node = wrapped
    b = make_node(net, "b", "10.0.0.2")
    connect(net, a, b)
    raised = 0

    def fault(when: str) -> None:
        nonlocal raised
        if raised < faults and rng.random() < 0.45:
            raised += 1
            raise rng.choice((KeyboardInterrupt, MemoryError))(f"{when} the seal")

    faulty.fault = fault
    sent = []
    for number in range(4000):
        if raised >= faults:
            break
        content = b"%d " % number + rng.randbytes(rng.choice((5, 50, 3000)))
        sent.append(content)
        send(a, b, content)
        net.run(0.08)
    assert raised == len(wrapped.caught) == faults
    assert {type(error) for error in wrapped.caught} == {KeyboardInterrupt, MemoryError}
    faulty.fault = None
    assert net.run_until(lambda: len(arrived(b, a)) >= len(sent), 60), f"{len(arrived(b, a))} of {len(sent)}"
    net.run(2)
    assert arrived(b, a) == sent
    watcher.check(records=faults)
    assert faulty.seals > faults
    alive(net, a, b)
