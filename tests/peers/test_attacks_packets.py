"""Attacks 1 to 6, 10, 73, 74 and 75: replayed, reflected, old and forged datagrams of a session."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from srmudp.config import Config
from srmudp.crypto.backend import Backend
from srmudp.crypto.protection import WINDOW
from srmudp.exceptions import AuthenticationError
from srmudp.models import Address, EventKind
from srmudp.peers.endpoint import Endpoint
from srmudp.protocol.events import MessageArrived
from srmudp.wire.frames import Ping, serialise
from srmudp.wire.packet import (
    NUMBER_LIMIT,
    PUBLIC_KEY,
    PUNCH,
    RECORD,
    RECORD_OVERHEAD,
    RESEND,
    SHARED_KEY,
    RecordHeader,
    cut_record,
)
from tests.cost import cpu_seconds
from tests.endpoints import (
    Recorder,
    add,
    alive,
    arrived,
    connect,
    drops,
    events,
    make_node,
    peer_of,
    replay,
    seal_raw,
    send,
    session_of,
    status,
    transfer,
)
from tests.simnet import Link, SimNet, SimNode

STRANGER = Address("198.51.100.66", 6666)
LOSSY = Link(latency=0.01, loss=0.05, reorder=0.05, reorder_delay=0.005, duplicate=0.02)


def pair(seed: int, link: Link | None = None, backend: Backend | None = None) -> tuple[SimNet, SimNode, SimNode]:
    """Two nodes, not connected."""
    net = SimNet(seed, link=link or Link(latency=0.01))
    return net, make_node(net, "a", "10.0.0.1", backend=backend), make_node(net, "b", "10.0.0.2", backend=backend)


def number_of(datagram: bytes) -> int:
    """The record number in a RECORD or RESEND."""
    return int.from_bytes(datagram[10:18], "big")


def with_index(datagram: bytes, index: int) -> bytes:
    """The datagram with another receiver index."""
    return datagram[:2] + index.to_bytes(8, "big") + datagram[10:]


# --- 1, 2: replay ---


@pytest.mark.parametrize("gro", [True, False])
def test_attack_1_replayed_records_are_delivered_once(backend: Backend, gro: bool) -> None:
    """Attack 1: every recorded packet at once, later, and in another order."""
    net, a, b = pair(1, LOSSY, backend)
    b.gro = gro
    record = Recorder(net)
    connect(net, a, b)
    transfer(net, a, b, net.random.randbytes(60_000))
    for number in range(20):
        send(a, b, b"small %d" % number, channel=1)
    net.run(1)
    assert arrived(b, a, 1) == [b"small %d" % number for number in range(20)]
    taken = record.of(RECORD, RESEND, destination=b)
    assert len(taken) > 30
    assert any(item.data[26] > 1 for item in taken), "no record of several datagrams among them"
    before = b.of(MessageArrived)

    for wave, wait in ((taken, 0.0), (taken[::-1], 5.0), (random.Random(1).sample(taken, len(taken)), 60.0)):
        net.run(wait)
        was = drops(b, "replayed")
        replay(net, b, wave)
        assert drops(b, "replayed") - was >= len({number_of(item.data) for item in wave}) - 3
        replay(net, b, wave, source=STRANGER)
    assert b.of(MessageArrived) == before
    alive(net, a, b)


def test_attack_1_every_replayed_datagram_is_counted() -> None:
    """Attack 1: without loss nothing is ambiguous: as many drops as replayed datagrams, each of them ``replayed``."""
    net, a, b = pair(2)
    record = Recorder(net)
    connect(net, a, b)
    transfer(net, a, b, net.random.randbytes(50_000))
    net.run(1)
    taken = record.of(RECORD, destination=b)
    b.gro = False
    before = drops(b), drops(b, "replayed")
    replay(net, b, taken)
    assert drops(b, "replayed") == before[1] + len(taken)
    assert drops(b) == before[0] + len(taken)
    alive(net, a, b)


def test_attack_2_edges_of_the_replay_window() -> None:
    """Attack 2: n-W, n-W-1, n-W+1, n+2^20, 0 and 2^64-1; a forged high number does not move the window."""
    net, a, b = pair(3)
    connect(net, a, b)
    alive(net, a, b)
    session, ping = session_of(a, b), serialise(Ping()).ljust(16, b"\x00")
    opened = session_of(b, a).receiver
    base = session.next_number
    early = {}
    for number in range(base, base + 4):
        (early[number],) = seal_raw(a, b, ping)
    highest = base + 1 + WINDOW  # n - W is base + 1
    session.next_number = highest
    (top,) = seal_raw(a, b, ping)

    def accepted(datagram: bytes) -> bool:
        before = drops(b, "replayed"), session_of(b, a).keys.opened
        b.do(lambda now: b.node.handle_batch(datagram, len(datagram), a.address, now))
        replayed, new = drops(b, "replayed") - before[0], session_of(b, a).keys.opened - before[1]
        assert replayed + new == 1
        return new == 1

    # A forgery with the same high number first: it must not close the window for the honest.
    forged = top[:-1] + bytes((top[-1] ^ 1,))
    b.do(lambda now: b.node.handle_batch(forged, len(forged), STRANGER, now))
    assert drops(b, "bad_tag") == 1
    assert opened.largest < base
    assert accepted(top)
    assert not accepted(top)
    assert not accepted(early[base])  # n-W-1
    assert not accepted(early[base + 1])  # n-W
    assert accepted(early[base + 2])  # n-W+1
    assert not accepted(early[base + 2])

    zero = RecordHeader(0, session.remote_index, 0, 0, 1, 32)
    assert not accepted(cut_record(zero, bytes(32)))
    session.next_number = highest + (1 << 20)
    (far,) = seal_raw(a, b, ping)
    assert accepted(far)
    assert not accepted(early[base + 3])
    for number in ((1 << 64) - 1, NUMBER_LIMIT):
        malformed = drops(b, "malformed")
        datagram = top[:10] + number.to_bytes(8, "big") + top[18:]
        b.do(lambda now, datagram=datagram: b.node.handle_batch(datagram, len(datagram), a.address, now))
        assert drops(b, "malformed") == malformed + 1
    assert opened.largest == highest + (1 << 20)
    alive(net, a, b)


# --- 3: control ---


def test_attack_3_replayed_acks_and_path_challenges() -> None:
    """Attack 3: recorded acknowledgements, challenges and answers of this session have no effect after use."""
    net, a, b = pair(4)
    connect(net, a, b)
    record = Recorder(net)
    transfer(net, a, b, net.random.randbytes(200_000))
    net.move_host("a", "10.0.0.77")
    send(a, b, b"moved", channel=2)
    assert net.run_until(lambda: status(b, a).address == a.address, 5)
    b.do(b.node.set_addresses, "a", [a.address])  # else it would look for a at the old one now and then
    net.run(1)
    to_a, to_b = record.of(RECORD, RESEND, source=b), record.of(RECORD, RESEND, destination=b)
    assert len(to_a) > 10
    assert len(to_b) > 50
    for node in (a, b):
        node.gro = False
    replay(net, a, to_a)  # what went to the old address comes late, which is no attack
    net.run(2)  # and b asks after a, which was sending and has stopped

    recovery = [peer_of(*ends).connection.recovery for ends in ((a, b), (b, a))]

    def state() -> list[tuple[int, int, int, float]]:
        return [(r.in_flight, len(r.records), r.datagrams_lost, r.path.controller.window) for r in recovery if r]

    before, seals = state(), session_of(a, b).keys.sealed
    assert len(before) == 2
    replayed = drops(a, "replayed"), drops(b, "replayed")
    record.clear()
    replay(net, a, to_a)
    assert drops(a, "replayed") == replayed[0] + len(to_a)
    assert record.items == [], "something was answered to a replayed acknowledgement or challenge"
    assert session_of(a, b).keys.sealed == seals
    replay(net, b, to_b)
    net.run(0.5)
    assert drops(b, "replayed") == replayed[1] + len(to_b)
    # The segments among them may have been resent because an ack was lost: they are acked again, along the path only.
    assert len(record.of(source=b)) <= 2
    assert all(item.destination == a.address for item in record.items)
    assert state() == before
    assert status(b, a).address == a.address
    assert len(events(b, EventKind.ROAMED)) == 1
    alive(net, a, b)


def test_attack_3_and_5_replayed_close_of_an_ended_session() -> None:
    """Attacks 3, 5 and 6: the recorded CLOSE of one session does not end the next one."""
    net, a, b = pair(5)
    connect(net, a, b)
    record = Recorder(net)
    b.do(b.node.close)
    closing = record.of(RECORD, source=b)
    assert len(closing) == 1
    assert net.run_until(lambda: not status(a, b).established, 1)
    b.detach()
    b = make_node(net, "b", "10.0.0.2")
    add(b, a)
    assert net.run_until(lambda: status(a, b).established and status(b, a).established, 20)
    unknown, tags = drops(a, "unknown_index"), drops(a, "bad_tag")
    replay(net, a, closing * 3)
    assert drops(a, "unknown_index") == unknown + 3
    session = session_of(a, b)
    replay(net, a, [with_index(closing[0].data, session.local_index)], source=b.address)
    number = session.receiver.largest + 1
    moved = with_index(closing[0].data, session.local_index)
    replay(net, a, [moved[:10] + number.to_bytes(8, "big") + moved[18:]], source=b.address)
    assert drops(a, "bad_tag") + drops(a, "replayed") >= tags + 1
    assert drops(a, "bad_tag") >= tags + 1
    alive(net, a, b)


# --- 4: reflection ---


def test_attack_4_reflected_packets(backend: Backend) -> None:
    """Attack 4: each side's own packets sent back to it, as they are and with the index that it listens to."""
    net, a, b = pair(6, backend=backend)
    record = Recorder(net)
    connect(net, a, b)
    transfer(net, a, b, b"pay 100 to B")
    transfer(net, b, a, net.random.randbytes(30_000))
    for node, other in ((a, b), (b, a)):
        own = record.of(RECORD, RESEND, source=node)
        assert len(own) >= 5
        before = len(node.of(MessageArrived)), drops(node, "unknown_index"), drops(node, "bad_tag")
        records = session_of(node, other).keys.opened
        node.gro = False
        replay(net, node, own, source=other.address)
        assert drops(node, "unknown_index") == before[1] + len(own)
        local = session_of(node, other).local_index
        turned = [with_index(item.data, local) for item in own if item.data[26] == 1]
        # Numbers that the other side has not used yet, so that only the key can tell.
        ahead = [
            datagram[:10] + (session_of(other, node).next_number + 50 + n).to_bytes(8, "big") + datagram[18:]
            for n, datagram in enumerate(turned)
        ]
        replay(net, node, [*turned, *ahead], source=other.address)
        assert drops(node, "bad_tag") >= before[2] + len(ahead)
        assert session_of(node, other).keys.opened == records
        assert len(node.of(MessageArrived)) == before[0]
    alive(net, a, b)


def test_attack_4_two_keys_for_two_directions(backend: Backend) -> None:
    """Attack 4: even with the same header and number a side cannot open what it sealed; the other side can."""
    net, a, b = pair(61, backend=backend)
    connect(net, a, b)
    alive(net, a, b)
    header, plaintext = bytes(29), b"pay 100 to B"
    sealed = {}
    for node, other in ((a, b), (b, a)):
        session = session_of(node, other)
        session.next_number = 5001
        sealed[node] = session.keys.seal(5000, header, plaintext)
        with pytest.raises(AuthenticationError):
            session.keys.open(5000, header, sealed[node])
        assert session_of(other, node).keys.open(5000, header, sealed[node]) == plaintext
    assert sealed[a] != sealed[b]
    alive(net, a, b)


# --- 5, 6 ---


def test_attack_5_packets_of_an_older_session() -> None:
    """Attack 5: everything of the first session, handshake and records, after a new one. None accepted, no state."""
    net, a, b = pair(7)
    record = Recorder(net)
    connect(net, a, b)
    transfer(net, a, b, net.random.randbytes(30_000))
    first = list(record.items)
    a.detach()
    a = make_node(net, "a", "10.0.0.1")
    add(a, b)
    assert net.run_until(lambda: len(events(b, EventKind.RECONNECTED)) == 1 and status(a, b).established, 30)
    net.run(15)
    for node, other in ((a, b), (b, a)):
        mine = [item for item in first if item.destination == node.address]
        opened, sessions = session_of(node, other).keys.opened, len(node.node._sessions)
        count, handed = drops(node), len(node.of(MessageArrived))
        node.gro = False
        record.clear()
        replay(net, node, mine)
        # A punch from the peer's own address is answered, for the peer may have been restarted; nothing comes of it.
        punches = len({item.data for item in mine if item.kind == PUNCH})
        assert count + len(mine) - punches <= drops(node) <= count + len(mine), dict(node.node.drops)
        assert drops(node, "unknown_index") >= len([item for item in mine if item.kind == RECORD])
        assert session_of(node, other).keys.opened == opened
        assert len(node.node._sessions) == sessions == 1
        assert len(node.of(MessageArrived)) == handed
        assert record.of(PUNCH, SHARED_KEY, source=node) == []
        assert len(record.of(PUBLIC_KEY, source=node)) <= punches
    alive(net, a, b)


def test_attack_6_spoofed_close_of_every_shape() -> None:
    """Attack 6: what a close might look like, without the key, from the peer's address and others."""
    net, a, b = pair(8)
    connect(net, a, b)
    session = session_of(a, b)
    rng = random.Random(8)
    forged = []
    for size in [17, 18, 24, 32, 33, 48, 64, 150, 900]:
        for number in (session.receiver.largest + 1, session.receiver.largest + 7, session.next_number):
            header = RecordHeader(0, session.local_index, number, number, 1, size)
            forged += [cut_record(header, rng.randbytes(size)), cut_record(header, bytes(size))]
    tags = drops(a, "bad_tag")
    for source in (b.address, STRANGER):
        replay(net, a, forged, source=source)
    assert drops(a, "bad_tag") == tags + 2 * len(forged)
    # The shapes of other protocols and of the predecessor: FIN, stateless reset, one byte.
    others = [b"\x00", b"\x03" * 20, b"\xff" * 40, bytes((RECORD,)), bytes((RESEND,)) * 12, b"\x09\x00\x00"]
    count = drops(a)
    replay(net, a, others, source=b.address)
    assert drops(a) == count + len(others)
    assert events(a, EventKind.LOST) == []
    alive(net, a, b)


# --- 10 ---


def test_attack_10_random_datagrams() -> None:
    """Attack 10: 10^5 random datagrams, half with valid first bytes, and one of 65,507: all counted, memory flat."""
    net, a, b = pair(9)
    connect(net, a, b)
    alive(net, a, b)
    rng = random.Random(10)
    kinds = (PUNCH, PUBLIC_KEY, SHARED_KEY, 0xC4, RECORD, RESEND)
    live = session_of(b, a).local_index.to_bytes(8, "big")
    pool = rng.randbytes(1 << 16)
    node: Endpoint = b.node

    def datagrams(count: int) -> list[bytes]:
        made = []
        for number in range(count):
            at, size = rng.randrange(60_000), rng.randrange(1, 1500)
            body = pool[at : at + size]
            if number % 2:
                middle = live if number % 4 == 1 else body[2:10]  # half of these with the index of the live session
                body = bytes((kinds[number // 2 % 6], 1)) + middle + body[10:]
            made.append(body)
        return made

    def flood(batch: list[bytes]) -> None:
        for datagram in batch:
            node.handle_batch(datagram, len(datagram), STRANGER, net.now)
            while (job := node.next_job()) is not None:
                job.run()
                node.finish_job(job, net.now)

    def held() -> int:
        return sum(len(p.pieces) for p in session_of(b, a).receiver._partials.values())

    before = drops(b)
    waves = [datagrams(10_000) for _ in range(2)]
    flood(waves[0])
    tracemalloc.start()
    try:
        base = tracemalloc.get_traced_memory()[0]
        flood(waves[1])
        grown = tracemalloc.get_traced_memory()[0] - base
    finally:
        tracemalloc.stop()
    assert grown < 6_000_000, f"{grown} bytes kept of 15 MB of junk"
    for _ in range(8):
        flood(datagrams(10_000))
    huge = rng.randbytes(65_507)
    node.handle_batch(huge, len(huge), STRANGER, net.now)
    # Each was counted, or is a segment of a long record that waits, within bounds, for others.
    waiting = sum(p.have for p in session_of(b, a).receiver._partials.values())
    assert drops(b) - before + waiting >= 100_001
    assert held() < 4096 * 45
    for reason in ("unknown_type", "malformed", "unknown_index", "unknown_version", "bad_tag"):
        assert drops(b, reason) > 100 or reason in ("unknown_version", "bad_tag"), reason
    assert node.poll_transmit(net.now) is None or status(b, a).established
    alive(net, a, b)


# --- 73, 74, 75 ---


@pytest.mark.parametrize("gro", [True, False])
def test_attack_73_forged_segments_of_long_records(gro: bool) -> None:
    """Attack 73: an observer injects one forged segment for each long record. Slower at most; nothing is lost."""
    # On a link with a rate datagrams come one by one, so that nothing is joined.
    net, a, b = pair(73, Link(latency=0.01) if gro else Link(latency=0.01, rate=5e6, queue_bytes=300_000))
    b.gro = gro
    connect(net, a, b)
    alive(net, a, b)
    content = net.random.randbytes(1 << 20)
    started = net.now
    transfer(net, a, b, content, timeout=10)
    honest = net.now - started
    forged = 0

    def observe(now: float, source: Address, destination: Address, datagram: bytes) -> None:
        nonlocal forged
        if destination == b.address and datagram[0] == RECORD and datagram[26] > 1 and datagram[29] == 0:
            forged += 1
            junk = datagram[:RECORD_OVERHEAD] + bytes(len(datagram) - RECORD_OVERHEAD)
            net.inject(a.address, b.address, junk)  # overtakes the honest one

    stop = net.tap(observe)
    started = net.now
    transfer(net, a, b, content, timeout=60)
    under_attack = net.now - started
    stop()
    if gro:  # a record that arrives in one piece is not put together from segments
        assert forged > 5
        assert drops(b, "bad_tag") == 0
        assert under_attack < 1.2 * honest
    else:
        # After a few that did not open, a sealed frame asks for records of one datagram, which nobody can spoil.
        assert 3 <= forged < 100
        assert drops(b, "bad_tag") >= 3
        assert session_of(a, b).next_number > 1000
        assert under_attack < 4 * honest, (under_attack, honest)
    alive(net, a, b)


def test_attack_74_forged_transmission_numbers() -> None:
    """Attack 74: RESENDs with 2^62-1, scattered and future transmission numbers: no close, no growth, no lost data."""
    net, a, b = pair(74)
    connect(net, a, b)
    alive(net, a, b)
    rng = random.Random(74)
    forged = 0

    def observe(now: float, source: Address, destination: Address, datagram: bytes) -> None:
        nonlocal forged
        if destination == b.address and datagram[0] == RECORD and datagram[26] > 1:
            head = bytes((RESEND,)) + datagram[1:RECORD_OVERHEAD]
            body = datagram[RECORD_OVERHEAD:]
            for transmission in (NUMBER_LIMIT - 1, rng.randrange(1 << 40), rng.randrange(4000), rng.randrange(70_000)):
                forged += 1
                net.inject(STRANGER, b.address, head + transmission.to_bytes(8, "big") + body, 0.02)

    stop = net.tap(observe)
    transfer(net, a, b, net.random.randbytes(500_000))
    net.run(1)
    stop()
    assert forged > 500
    assert drops(b, "implausible_transmission") + drops(b, "replayed") > 100
    receiver = session_of(b, a).receiver
    assert len(receiver._transmissions) <= 512
    assert events(a, EventKind.LOST) == events(b, EventKind.LOST) == []
    alive(net, a, b)


def test_attack_75_copied_segment_from_another_address() -> None:
    """Attack 75: copies of segments and whole records from elsewhere, early and late, never move the path."""
    net, a, b = pair(75)
    connect(net, a, b)
    net.add_host("m", STRANGER.host)
    record = Recorder(net)

    def copy_early(now: float, source: Address, destination: Address, datagram: bytes) -> None:
        if destination == b.address and datagram[0] in (RECORD, RESEND):
            net.inject(STRANGER, b.address, datagram)  # wins the race against every packet

    stop = net.tap(copy_early)
    transfer(net, a, b, net.random.randbytes(300_000))
    net.run(3)
    stop()
    to_stranger = [item for item in record.items if item.destination == STRANGER]
    from_stranger = [item for item in record.items if item.destination == b.address]
    assert sum(len(i.data) for i in to_stranger) <= 3 * sum(len(i.data) for i in from_stranger)
    assert status(b, a).address == a.address
    assert events(b, EventKind.ROAMED) == []
    assert drops(b, "replayed") > 10, "the honest ones came second"
    # Late: only copies of what is long known.
    record.clear()
    segments = [item for item in from_stranger if item.data[26] > 1]
    assert len(segments) > 20
    replay(net, b, segments, source=STRANGER)
    net.run(2)
    assert [item for item in record.items if item.destination == STRANGER] == []
    assert status(b, a).address == a.address
    alive(net, a, b)


@pytest.mark.parametrize("payload", [1, 60, 1162])
def test_attack_17_forged_segments_fill_nothing(payload: int) -> None:
    """Attack 17: segments of records that never were, from an observer: bounded memory and work, honest records pass.

    Entries with more segments stay: a flood does not push out a long record that is half there.
    """
    net, a, b = pair(17)
    connect(net, a, b)
    net.run(1)
    session, node, receiver = session_of(a, b), b.node, session_of(b, a).receiver
    header, _, wire = session.seal(serialise(Ping()).ljust(3 * 1150, b"\x00"), 1200)
    size = RECORD_OVERHEAD + header.size
    honest = [wire[at : at + size] for at in range(0, len(wire), size)]
    assert len(honest) == 3
    for datagram in honest[:2]:
        node.handle_batch(datagram, len(datagram), a.address, net.now)
    local, first = session_of(b, a).local_index, receiver.largest + 2

    def flood() -> None:
        for number in range(10_000):
            count = 2 + number % 43
            segment = count - 1 if payload == 1 else number % (count - 1)
            forged = RecordHeader(0, local, first + number, number % 60_000, count, max(payload, 60)).pack()
            datagram = forged + bytes((segment,)) + bytes(payload)
            node.handle_batch(datagram, len(datagram), STRANGER, net.now)

    seconds = cpu_seconds(flood)
    assert seconds / 10_000 < 0.0005
    assert len(receiver._partials) <= 4096
    assert receiver._partial_bytes <= Config().connection_window
    assert drops(b, "reassembly_full") >= 10_000 - 4096
    opened = session_of(b, a).keys.opened
    node.handle_batch(honest[2], len(honest[2]), a.address, net.now)
    assert session_of(b, a).keys.opened == opened + 1
    alive(net, a, b)


def test_attack_36_acks_for_forged_segments_are_small() -> None:
    """Attacks 36 and 74: what an observer's forged segments provoke goes along the honest path, and is little."""
    net, a, b = pair(36)
    connect(net, a, b)
    net.run(1)
    record, rng = Recorder(net), random.Random(36)
    came = 0
    for _ in range(300):
        for _ in range(2):
            receiver = session_of(b, a).receiver
            number, first = receiver.largest + 1 + rng.randrange(50_000), rng.randrange(60_000)
            forged = RecordHeader(0, session_of(b, a).local_index, number, first, 2, 1162).pack() + b"\x01x"
            came += len(forged)
            net.inject(STRANGER, b.address, forged)
        net.run(0.001)
    answers = record.of(source=b)
    assert answers
    assert all(item.destination == a.address for item in answers)
    assert sum(len(item.data) for item in answers) <= 3 * came
    alive(net, a, b)


def test_nothing_is_answered_to_junk() -> None:
    """Attacks 6 and 10: silence to strangers: no datagram leaves for any forged record or unknown first byte."""
    net, a, b = pair(76)
    connect(net, a, b)
    net.run(1)
    record = Recorder(net)
    session = session_of(b, a)
    junk: list[bytes] = [bytes((first,)) + bytes(40) for first in range(256)]
    junk += cut_record_junk(session.local_index, session.receiver.largest)
    assert cpu_seconds(lambda: replay(net, b, junk, source=STRANGER)) < 2
    assert record.of(source=b) == []
    assert drops(b, "unknown_type") >= 240
    alive(net, a, b)


def cut_record_junk(index: int, largest: int) -> list[bytes]:
    """Records under a live index that do not open."""
    return [cut_record(RecordHeader(0, index, largest + n, 0, 1, 40), bytes(40)) for n in range(1, 50)]
