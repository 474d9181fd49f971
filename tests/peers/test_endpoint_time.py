"""A peer over time: punches, keepalives, death, outages, restarts."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest

from srmudp.models import Address, EventKind, PeerState
from srmudp.protocol.events import MessageArrived, MessageSettled, ResolveWanted
from srmudp.wire.packet import PUNCH, RECORD, SHARED_KEY
from tests.endpoints import (
    LINK,
    Recorder,
    add,
    alive,
    arrived,
    connect,
    events,
    kinds,
    make_node,
    pair,
    send,
    settled,
    status,
    transfer,
    until,
)
from tests.simnet import Link, SimNet

# --- the schedule of punches, keepalives, death ---


def punch_times(seed: int, seconds: float, name: str = "a") -> list[float]:
    net = SimNet(seed, link=LINK)
    a = make_node(net, name, "10.0.0.1")
    record = Recorder(net)
    start = net.now
    a.do(a.node.add_peer, "b", [Address("10.0.0.2", 5000)], None)
    net.run(seconds)
    return [item.time - start for item in record.of(PUNCH, source=a)]


def test_schedule_of_punches_over_fifteen_minutes() -> None:
    """0.2 s for 2 s, 1 s up to half a minute, then slower up to 15 s; 30 s after ten minutes; jitter of an eighth."""
    times = punch_times(70, 900)
    assert times[0] == 0.0
    gaps = [(at, after - at) for at, after in pairwise(times)]

    def between(first: float, last: float) -> list[float]:
        return [gap for at, gap in gaps if first <= at < last]

    slack = 1.126
    assert 8 <= len(between(0, 2)) <= 13
    assert all(0.2 * 0.874 <= gap <= 0.2 * slack for gap in between(0, 1.7))
    assert all(1.0 * 0.874 <= gap <= 1.0 * slack for gap in between(2.3, 28))
    growing = between(32, 590)
    assert all(0.874 <= gap <= 15 * slack for gap in growing)
    assert max(between(32, 120)) <= 4 * slack
    assert min(between(470, 580)) >= 12
    assert all(30 * 0.874 <= gap <= 30 * slack for gap in between(601, 900))
    assert len(between(601, 900)) >= 8
    assert len(times) < 200, "a dead peer costs little"
    assert len({round(gap, 4) for gap in between(2.3, 28)}) > 10, "jitter"


def test_two_sockets_do_not_punch_in_step() -> None:
    assert punch_times(71, 20, "one")[10:] != punch_times(71, 20, "two")[10:]


def test_punches_are_repeated_unchanged_for_a_while_then_renewed() -> None:
    net = SimNet(73, link=LINK)
    a = make_node(net, "a", "10.0.0.1")
    record = Recorder(net)
    a.do(a.node.add_peer, "b", [Address("10.0.0.2", 5000)], None)
    net.run(60)
    punches = record.of(PUNCH, source=a)
    spans: dict[bytes, list[float]] = {}
    for item in punches:
        spans.setdefault(item.data, []).append(item.time)
    assert len(spans) >= 3
    assert all(times[-1] - times[0] >= 5 for times in list(spans.values())[:-1])
    assert len(a.of(ResolveWanted)) >= 2, "host names are resolved again now and then"


def test_who_falls_silent_after_answering_is_tried_anew_soon() -> None:
    """It may have been restarted between its answer and our third arrow, which then means nothing to it."""
    net = SimNet(76, link=LINK)
    a, b = make_node(net, "a", "10.0.0.1"), make_node(net, "b", "10.0.0.2")
    b.do(b.node.add_peer, "a", [], a.node.peer_id)  # it does not punch: the attempts are all ours
    doomed: set[bytes] = set()

    def forgotten(now: float, source: Address, destination: Address, data: bytes) -> list[bytes] | None:
        if data[0] == SHARED_KEY and not doomed:
            doomed.add(data)
        return [] if data in doomed else None

    net.intercept(forgotten)
    a.do(a.node.add_peer, "b", [b.address], b.node.peer_id)
    assert net.run_until(lambda: status(a, b).established and status(b, a).established, 4.5)
    assert doomed


def test_every_address_is_punched() -> None:
    net = SimNet(74, link=LINK)
    a = make_node(net, "a", "10.0.0.1")
    record = Recorder(net)
    addresses = [Address("10.0.0.2", 1), Address("10.0.0.3", 2), Address("10.0.0.4", 3)]
    a.do(a.node.add_peer, "b", addresses, None)
    net.run(1)
    assert Counter(item.destination for item in record.of(PUNCH)).keys() == set(addresses)


def test_a_silent_connection_says_something_every_third_of_the_timeout() -> None:
    net, a, b = pair(75)
    net.run(2)
    record = Recorder(net)
    net.run(120)
    for sim in (a, b):
        times = [item.time for item in record.of(RECORD, source=sim)]
        assert max(after - at for at, after in pairwise(times)) <= 7.1
        assert len(times) <= 4 * 120 / 7, "not more than is needed"
    assert kinds(a) == [EventKind.CONNECTED]
    last_seen = status(a, b).last_seen
    assert last_seen is not None
    assert last_seen <= 7.1


def test_keepalives_with_a_short_timeout() -> None:
    net, a, b = pair(76, timeout=3.0)
    record = Recorder(net)
    net.run(30)
    times = [item.time for item in record.of(RECORD, source=a)]
    assert max(after - at for at, after in pairwise(times)) <= 1.1
    assert kinds(a) == kinds(b) == [EventKind.CONNECTED]


@pytest.mark.parametrize("timeout", [21.0, 4.0])
def test_dead_after_the_timeout_without_any_authentic_packet(timeout: float) -> None:
    net, a, b = pair(77, timeout=timeout)
    net.run(1)
    seen = status(a, b).last_seen
    assert seen is not None
    b.detach()
    net.run(timeout - seen - 0.1)
    assert status(a, b).established
    for _ in range(20):  # junk is no sign of life
        net.inject(b.address, a.address, random.Random(1).randbytes(100))
    net.run(0.3)
    assert status(a, b).state is PeerState.LOST
    assert events(a)[-1].kind is EventKind.LOST
    assert f"{timeout:g} s" in events(a)[-1].reason
    assert status(a, b).failure
    assert [event.peer for event in a.of(ResolveWanted)] == ["b"]


def test_refused_is_told_and_retried_slowly() -> None:
    """b was removed at a, which answers its key with a sealed refusal."""
    net, a, b = pair(78)
    a.do(a.node.remove_peer, "b")
    net.run(1)
    b.do(b.node.add_peer, "a", [a.address], None)
    net.run(3)
    assert status(b, a).state is PeerState.REFUSED
    assert status(b, a).failure
    record = Recorder(net)
    seen = len(events(b, EventKind.REFUSED))
    net.run(150)
    attempts = len(events(b, EventKind.REFUSED)) - seen
    assert 5 <= attempts <= 12, "every 15 s or so"
    assert len(record.of(source=b)) <= 4 * attempts + 4
    add(a, b)
    until(net, lambda: status(b, a).established, 20)


# --- partitions, restarts, two programs with one identity ---


def test_an_outage_shorter_than_the_timeout_loses_nothing_and_nobody() -> None:
    net, a, b = pair(80)
    for sender, receiver in ((a, b), (b, a)):
        for number in range(20):
            send(sender, receiver, b"%d" % number)
    net.run(0.005)
    net.partition("a")
    for number in range(20, 40):
        send(a, b, b"%d" % number)
        send(b, a, b"%d" % number)
    net.run(15)
    net.heal()
    net.run(10)
    expected = [b"%d" % number for number in range(40)]
    assert arrived(a) == arrived(b) == expected
    assert kinds(a) == kinds(b) == [EventKind.CONNECTED]


@pytest.mark.parametrize("seed", range(81, 85))
def test_a_long_partition_loses_nothing_and_doubles_nothing(seed: int) -> None:
    """Cut in the middle of transfers in both directions, at different moments, both ways or one way only."""
    net, a, b = pair(seed, Link(latency=0.02, rate=2e6, queue_bytes=100_000, loss=0.01))
    rng = random.Random(seed)
    contents = {name: [rng.randbytes(rng.choice((10, 3000, 60_000))) for _ in range(24)] for name in "ab"}
    for name, sender, receiver in (("a", a, b), ("b", b, a)):
        for number, content in enumerate(contents[name]):
            send(sender, receiver, content, channel=number % 3)
    net.run(rng.uniform(0.0, 0.4))
    net.partition("a", "b", both=rng.random() < 0.5)
    net.run(rng.choice((22.0, 30.0, 60.0)))
    net.heal()
    until(net, lambda: a.node.pending == b.node.pending == 0, 90)
    for channel in range(3):
        assert arrived(b, channel=channel) == contents["a"][channel::3]
        assert arrived(a, channel=channel) == contents["b"][channel::3]
    assert all(event.failure is None for sim in (a, b) for event in sim.of(MessageSettled))
    assert kinds(a).count(EventKind.LOST) == kinds(a).count(EventKind.RECONNECTED)


def test_a_restarted_program_gets_what_its_former_self_had_not_taken() -> None:
    net = SimNet(86, link=LINK)
    a = make_node(net, "a", "10.0.0.1")
    b = make_node(net, "b", "10.0.0.2", on_event=None)
    connect(net, a, b)
    tokens = [send(a, b, b"%d" % number) for number in range(6)]
    net.run(0.2)
    for event in b.of(MessageArrived)[:3]:
        b.do(b.node.message_taken, event)
    net.run(0.5)
    assert [settled(a, token) is not None for token in tokens] == [True] * 3 + [False] * 3
    b.detach()
    net.run(1)
    b = make_node(net, "b", "10.0.0.2")
    add(b, a)
    until(net, lambda: all(settled(a, token) for token in tokens), 10)
    assert arrived(b) == [b"3", b"4", b"5"]
    assert kinds(a) == [EventKind.CONNECTED, EventKind.RECONNECTED]
    assert EventKind.IDENTITY_IN_USE_ELSEWHERE not in kinds(a)
    alive(net, a, b, size=10_000)


def test_receipts_of_a_former_self_do_not_count_for_the_new_one() -> None:
    """a's application takes a message of the old program after the new one numbered its own from 0."""
    net = SimNet(87, link=LINK)
    a = make_node(net, "a", "10.0.0.1", on_event=None)
    b = make_node(net, "b", "10.0.0.2")
    connect(net, a, b)
    send(b, a, b"old")
    until(net, lambda: a.of(MessageArrived))
    b.detach()
    b = make_node(net, "b", "10.0.0.2")
    add(b, a)
    until(net, lambda: status(b, a).established and status(a, b).established)
    token = send(b, a, b"new")
    net.run(1)
    old, new = a.of(MessageArrived)
    a.do(a.node.message_taken, old)
    net.run(1)
    assert settled(b, token) is None
    a.do(a.node.message_taken, new)
    net.run(1)
    assert settled(b, token) is not None


def test_many_restarts_raise_no_alarm() -> None:
    net, a, b = pair(88)
    for number in range(12):
        b.detach()
        net.run(0.5)
        b = make_node(net, "b", "10.0.0.2")
        add(b, a)
        net.run(2)
        transfer(net, a, b, b"%d" % number)
    assert EventKind.IDENTITY_IN_USE_ELSEWHERE not in kinds(a)


def test_two_programs_with_one_identity_that_take_turns_are_told() -> None:
    net = SimNet(89, link=LINK)
    a = make_node(net, "a", "10.0.0.1")
    one = make_node(net, "one", "10.0.0.2", seed="shared")
    two = make_node(net, "two", "10.0.0.3", seed="shared")
    a.do(a.node.add_peer, "shared", [one.address, two.address], one.node.peer_id)
    add(one, a, pin=True)
    add(two, a, pin=True)
    net.run(120)
    alarms = events(a, EventKind.IDENTITY_IN_USE_ELSEWHERE)
    assert alarms
    assert alarms[0].peer == "shared"
    assert len(alarms) <= 120, "no flood"
