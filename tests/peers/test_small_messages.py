"""What small messages cost on the wire: no acknowledgement travels alone where something else is about to leave."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from srmudp.peers.peer import Peer
from srmudp.protocol.events import MessageArrived
from srmudp.wire.packet import RECORD, parse_segment
from tests.endpoints import Recorder, arrived, pair, send, settled
from tests.simnet import Link, SimNet, SimNode, take_messages

LAN = Link(latency=50e-6)


def _echo(net: SimNet, a: SimNode, b: SimNode, rounds: int, size: int = 100) -> None:
    """One message there and back at a time; both take it first and answer then, as two calls of a program."""
    left = rounds

    def answer(sim: SimNode, event: Any) -> None:
        nonlocal left
        if isinstance(event, MessageArrived):
            sim.do(sim.node.message_taken, event)
            left -= sim is a
            if left:
                net.after(0.0, lambda: send(sim, b if sim is a else a, event.content))

    a.on_event = b.on_event = answer
    send(a, b, b"x" * size)
    assert net.run_until(lambda: not left, rounds * 0.05)


@pytest.mark.parametrize("latency", [50e-6, 0.0003, 0.0007, 0.0012, 0.002, 0.0024, 0.02])
@pytest.mark.parametrize("size", [100, 600, 1000, 1050])
def test_an_echo_takes_one_datagram_each_way(latency: float, size: int) -> None:
    """And now and then one more: an acknowledgement of its own, where a number was left out on purpose."""
    net, a, b = pair(link=Link(latency=latency))
    _echo(net, a, b, 20)
    record = Recorder(net)
    _echo(net, a, b, 200, size)
    for end in (a, b):
        assert 200 <= len(record.of(RECORD, source=end)) <= 206


def test_in_a_fast_exchange_not_every_message_carries_an_acknowledgement() -> None:
    """One in two thousand bytes, or in the delay of acknowledgements: it costs as much as all the rest."""
    net, a, b = pair(link=LAN)
    _echo(net, a, b, 20)
    record = Recorder(net)
    _echo(net, a, b, 200)
    for end in (a, b):
        lengths = Counter(len(datagram.data) for datagram in record.of(RECORD, source=end))
        assert lengths.most_common(1)[0][1] > 175, "with nothing but the message"
    net.run(0.02)
    assert not a.node.pending
    assert not b.node.pending, "each is told soon of the last ones"


def test_a_small_message_overtakes_a_large_one_in_flight() -> None:
    """Within twice the base RTT and 10 ms, on a link that the large one fills: 100 Mbit/s, a queue of half a BDP.

    Start-up apart, in which the queue runs over.
    """
    latency, rate = 0.01, 12_500_000
    link = Link(latency=latency, rate=rate, queue_bytes=int(rate * latency))
    net, a, b = pair(link=link, max_mtu=1472)
    came: dict[bytes, float] = {}

    def note(sim: SimNode, event: Any) -> None:
        if isinstance(event, MessageArrived):
            came[event.content[:8]] = net.now
            sim.do(sim.node.message_taken, event)

    b.on_event = note
    large = send(a, b, bytes(16 << 20))
    waits: list[float] = []
    net.run(0.6)  # what start-up lost is repaired by 0.55 s, wherever its end falls
    for number in range(8):
        net.run(0.05)
        began, word = net.now, b"word %3d" % number
        send(a, b, word, channel=1)
        assert settled(a, large) is None, "the large message was over too soon"
        assert net.run_until(lambda word=word: word in came, 1.0)  # type: ignore[misc]
        waits.append(came[word] - began)
    assert max(waits) < 2 * 2 * latency + 0.010, waits


def test_small_messages_queued_together_share_records_and_their_acknowledgement() -> None:
    net, a, b = pair(link=LAN)
    _echo(net, a, b, 20)
    b.on_event = a.on_event = take_messages
    record = Recorder(net)

    def queue(now: float) -> None:
        for number in range(100):
            a.node.send_message("b", b"%0100d" % number, channel=0, reliable=True, ttl=None, now=now)

    a.do(queue)
    net.run(0.5)
    assert arrived(b, a)[-100:] == [b"%0100d" % number for number in range(100)]
    assert len(record.of(RECORD, source=a)) <= 12  # as many as the bytes need, and an acknowledgement at last
    assert len({parse_segment(item.data).header.number for item in record.of(RECORD, source=a)}) <= 5
    assert len(record.of(RECORD, source=b)) <= 3


@pytest.mark.parametrize(("link", "least"), [(LAN, 300), (Link(latency=0.02, loss=0.05), 50)])
def test_a_deadline_that_is_not_worked_out_is_no_earlier_than_the_noted_one(
    link: Link, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But a probe timeout that an RTT sample made shorter, which comes with the delay of an acknowledgement at most."""
    net, a, b = pair(link=link)
    passed_over: list[float] = []

    def checked(peer: Peer, now: float) -> bool:
        waits = may_wait(peer, now)
        if waits:
            when = peer.next_timer()
            assert when is not None
            assert peer.scheduled is not None
            passed_over.append(when - peer.scheduled)
        return waits

    may_wait = Peer.may_wait
    monkeypatch.setattr(Peer, "may_wait", checked)
    _echo(net, a, b, 300)
    assert len(passed_over) > least, "else nothing was looked at"
    assert sum(late < 0 for late in passed_over) <= len(passed_over) // 50
    assert min(passed_over) >= -0.025
