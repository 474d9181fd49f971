"""Attacks 11, 40, 46 and 78: counters at their ends, a peer that only holds on, a peer that is always somebody new."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from srmudp.config import KIB, MIB, Config
from srmudp.crypto.protection import FORGERY_LIMIT, LIMIT, UPDATE_BYTES, UPDATE_RECORDS
from srmudp.models import EventKind
from srmudp.protocol.events import MessageSettled
from srmudp.protocol.session import NUMBERS_KEPT
from srmudp.wire.frames import Frame, Grant, MessagePart, PathChallenge, Ping, SingleOnly, Window, serialise
from srmudp.wire.packet import RECORD, RESEND, RecordHeader, cut_record, parse_segment
from tests.endpoints import (
    LINK,
    Recorder,
    WireWatcher,
    add,
    alive,
    arrived,
    connect,
    drops,
    events,
    hostile,
    kinds,
    make_node,
    pair,
    peer_of,
    replay,
    seal_raw,
    send,
    session_of,
    settled,
    transfer,
    until,
)
from tests.simnet import Link, SimNet, SimNode

# --- 11: counters ---


def start_at(a: SimNode, b: SimNode, number: int, transmission: int) -> None:
    """Let what a sends to b go on at these numbers."""
    session = session_of(a, b)
    session.next_number, session.next_transmission = number, transmission


def test_attack_11_data_goes_on_past_32_bits() -> None:
    """Attack 11: record and transmission numbers of both sides begin at 2^32-10; segments are lost and sent again."""
    net, a, b = pair(11, Link(latency=0.01, loss=0.03))
    watcher, record = WireWatcher(net), Recorder(net)
    net.run(1)
    for node, other in ((a, b), (b, a)):
        start_at(node, other, (1 << 32) - 10, (1 << 32) - 10)
    record.clear()
    transfer(net, a, b, net.random.randbytes(200_000))
    transfer(net, b, a, net.random.randbytes(200_000))
    for node in (a, b):
        segments = [parse_segment(item.data) for item in record.of(RECORD, RESEND, source=node)]
        numbers = {segment.header.number for segment in segments}
        assert min(numbers) < 1 << 32 < max(numbers)
        assert max(segment.transmission for segment in segments) > (1 << 32) + 100
        assert any(segment.resent for segment in segments)
    watcher.check(records=20, resends=1)
    alive(net, a, b, size=10_000)
    assert set(kinds(a)) == set(kinds(b)) == {EventKind.CONNECTED}


@pytest.mark.parametrize(("which", "before"), [("records", 0), ("records", 1), ("records", 12), ("transmissions", 5)])
def test_attack_11_at_the_hard_limit_there_are_new_keys(before: int, which: str) -> None:
    """Attack 11: near the end of the numbers a new handshake takes over; nothing is sealed at the limit, nor twice."""
    net, a, b = pair(110 + before)
    watcher, record = WireWatcher(net), Recorder(net)
    net.run(1)
    end = LIMIT - NUMBERS_KEPT - before
    for node, other in ((a, b), (b, a)):
        if which == "records":
            start_at(node, other, end, session_of(node, other).next_transmission)
        else:
            start_at(node, other, session_of(node, other).next_number, end)
    contents = net.random.randbytes(20_000), net.random.randbytes(20_000)
    tokens = send(a, b, contents[0]), send(b, a, contents[1])
    until(net, lambda: settled(a, tokens[0]) and settled(b, tokens[1]), 10)
    assert arrived(b, a) == [contents[0]]
    assert arrived(a, b) == [contents[1]]
    lost = events(a, EventKind.LOST) + events(b, EventKind.LOST)
    assert any("worn out" in event.reason for event in lost)
    for item in record.of(RECORD, RESEND):
        segment = parse_segment(item.data)
        assert max(segment.header.number, segment.transmission) < LIMIT
    watcher.check(records=5)
    assert session_of(a, b).next_number < 1000
    alive(net, a, b, size=10_000)


def test_attack_11_a_peer_cannot_use_the_numbers_up_to_where_sealing_fails() -> None:
    """Attack 11: a peer whose challenges all want an answer, at the end of our numbers: no exception, new keys."""
    net, a, b = pair(118)
    net.run(1)
    session = session_of(b, a)
    session.next_number = LIMIT - NUMBERS_KEPT - 5
    challenge = serialise(PathChallenge(b"12345678")).ljust(16, b"\0")
    batch = b"".join(seal_raw(a, b, challenge)[0] for _ in range(1000))
    size = len(batch) // 1000
    b.do(lambda now: b.node.handle_batch(batch, size, a.address, now))
    assert session.next_number < LIMIT
    net.run(5)
    assert "worn out" in events(b, EventKind.LOST)[0].reason
    alive(net, a, b, size=10_000)


# --- 2: a forged high counter of a long record ---


def test_attack_2_forged_long_records_with_high_numbers_move_nothing() -> None:
    """Attack 2: all segments of a forged record with a high number, near and far: the window stays where it was."""
    net, a, b = pair(2)
    alive(net, a, b, size=10_000)
    receiver = session_of(b, a).receiver
    largest, opened = receiver.largest, session_of(b, a).keys.opened
    early = seal_raw(a, b, serialise(Ping()).ljust(16, b"\0"))
    b.gro = False
    for number in (largest + 1000, largest + 60_000, largest + (1 << 20), LIMIT - 1):
        header = RecordHeader(0, session_of(b, a).local_index, number, 0, 3, 100)
        wire = cut_record(header, bytes(300))
        replay(net, b, [wire[at : at + 130] for at in range(0, len(wire), 130)], source=a.address)
    assert drops(b, "bad_tag") >= 2
    assert drops(b, "implausible_record") >= 2
    assert receiver.largest == largest
    replay(net, b, early, source=a.address)
    assert session_of(b, a).keys.opened == opened + 1
    alive(net, a, b, size=10_000)


# --- 40: limits of the keys ---


@pytest.mark.parametrize("worn", ["records", "bytes"])
def test_attack_40_keys_are_renewed_before_their_limit(worn: str) -> None:
    """Attack 40: with the counters of one side just below the limits a key update follows, and nothing is lost."""
    net, a, b = pair(40)
    net.run(1)
    session = session_of(a, b)
    if worn == "records":
        session.keys.sealed = UPDATE_RECORDS - 3
    else:
        session.keys.sealed_bytes = UPDATE_BYTES - 5000
    old = session.keys
    for number in range(10):
        transfer(net, a, b, b"%d" % number * 1000)
    net.run(2)
    assert session_of(a, b) is session, "the same session, no new handshake"
    assert session.keys is not old
    assert session.keys.epoch == session_of(b, a).keys.epoch == 1
    assert old.sealed < UPDATE_RECORDS + 100
    assert kinds(a) == kinds(b) == [EventKind.CONNECTED]
    alive(net, a, b, size=10_000)


def test_attack_40_forgeries_near_their_limit_end_the_session() -> None:
    """Attack 40: at 2^36 failed records the session is closed and a fresh one made; messages outlive it."""
    net, a, b = pair(401)
    net.run(1)
    keys = session_of(b, a).keys
    keys.failed = FORGERY_LIMIT - 5
    record = Recorder(net)
    transfer(net, a, b, b"still well")
    (sealed,) = (item.data for item in record.of(RECORD, source=a)[:1])
    number = session_of(b, a).receiver.largest + 1
    forged = [sealed[:10] + (number + n).to_bytes(8, "big") + sealed[18:] for n in range(5)]
    replay(net, b, forged, source=a.address)
    assert keys.exhausted
    token = send(a, b, b"in between")
    until(net, lambda: settled(a, token), 40)
    assert arrived(b, a)[-1] == b"in between"
    assert session_of(b, a).keys is not keys
    assert "worn out" in events(b, EventKind.LOST)[0].reason
    alive(net, a, b, size=10_000)


# --- 46: a peer that holds on ---

SMALL = Config(
    channel_window=64 * KIB,
    connection_window=256 * KIB,
    receive_budget=1 * MIB,
    send_queue=64 * KIB,
    max_message_size=MIB,
)


def test_attack_46_slow_loris() -> None:
    """Attack 46: five minutes of signs of life and nothing else: no growth, ``ttl`` ends the waiting, others go on.

    A byte of a message every 20 s, windows of nothing, empty records, and the wish for single datagrams for ever.
    """
    net = SimNet(46, link=LINK)
    b = make_node(net, "b", "10.0.0.2", config=SMALL)
    a, c = make_node(net, "a", "10.0.0.1"), make_node(net, "c", "10.0.0.3")
    connect(net, a, b)
    connect(net, c, b)
    a.on_event = None  # its application takes nothing
    patient = [send(b, a, bytes(10_000)) for _ in range(30)]
    hasty = [send(b, a, bytes(100), ttl=20.0, channel=1) for _ in range(10)]
    ends: list[int] = []
    net.run(2)
    began = 0
    tracemalloc.start()
    try:
        for tick in range(60):
            net.run(5)
            ways: list[list[Frame | bytes]] = [
                [MessagePart(5, 0, tick, 5000, b"x")],
                [Window(0), Grant(0, 0, 0), Ping()],
                [b"\0" * 16],
                [SingleOnly(1 << 30), Ping()],
            ]
            hostile(net, a, b, ways[tick % 4])
            if tick in (12, 59):
                net.run(0.01)
                transfer(net, c, b, bytes(50_000), timeout=1.0)
                transfer(net, b, c, bytes(50_000), timeout=1.0)
                ends += [event.token for event in b.of(MessageSettled) if event.peer == "a"]
                for node in (a, b, c):
                    node.events.clear()
                gc.collect()
                began = began or tracemalloc.get_traced_memory()[0]
        grown = tracemalloc.get_traced_memory()[0] - began
    finally:
        tracemalloc.stop()
    assert grown < 200_000, grown
    peer = peer_of(b, a)
    assert peer.connected
    assert peer.connection.receiving.charged <= SMALL.connection_window
    assert ends == hasty, "their time was over, and of the others nothing was taken"
    assert peer.connection.pending == len(patient)


# --- 78: always somebody new ---


def test_attack_78_a_new_instance_each_second() -> None:
    """Attack 78: bounded state for the peer that restarts, however often; what is known of others stays as it is."""
    net = SimNet(78, link=LINK)
    b = make_node(net, "b", "10.0.0.2")
    c = make_node(net, "c", "10.0.0.3")
    connect(net, b, c)
    transfer(net, c, b, b"first", channel=3)
    a = make_node(net, "a", "10.0.0.1")
    connect(net, a, b, pin=True)
    taken = {number: channel.taken for number, channel in peer_of(b, c).connection.receiving.channels.items()}
    sessions, sizes = [], []
    runs = 25
    for run in range(runs):
        a.detach()
        a = make_node(net, "a", "10.0.0.1")
        add(a, b, pin=True)
        send(a, b, b"run %d" % run, channel=run % 64)
        net.run(1)
        peer = peer_of(b, a)
        sessions.append(len(b.node._sessions))
        sizes.append(len(peer.connection.receiving.channels) + len(peer.past_instances))
    assert arrived(b, a) == [b"run %d" % run for run in range(runs)], "each life's first message"
    assert max(sessions) <= 4
    assert max(sizes) <= 8 + 8
    assert len(peer_of(b, a).past_instances) <= 8
    assert b.node._admission.next_timer() is None or len(b.node._admission._by_punch) <= 11
    # Nobody else is touched: the same session, and its channels where they were.
    assert {number: ch.taken for number, ch in peer_of(b, c).connection.receiving.channels.items()} == taken
    assert kinds(c) == [EventKind.CONNECTED]
    assert [event for event in events(b) if event.peer == "c" and event.kind is not EventKind.MTU][1:] == []
    alive(net, b, c)
    assert arrived(b, c).count(b"first") == 1
