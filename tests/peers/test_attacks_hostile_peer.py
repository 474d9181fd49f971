"""Attacks 12 to 20: what an authenticated peer may try. It is closed with a code, or nothing happens; never more."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import pytest

from srmudp.config import CHANNELS, KIB, MIB, Config
from srmudp.crypto.protection import LIMIT
from srmudp.exceptions import RemoteProtocolError
from srmudp.models import EventKind
from srmudp.protocol.events import MessageArrived
from srmudp.protocol.records import Opened
from srmudp.protocol.recovery import SKIP_WITHIN
from srmudp.wire.codec import VARINT_MAX, encode_varint
from srmudp.wire.frames import (
    MAX_ACKS,
    MAX_RANGES,
    Ack,
    Frame,
    Grant,
    MessagePart,
    Ping,
    Taken,
    UnreliablePart,
    Window,
    Withdrawn,
    serialise,
)
from srmudp.wire.packet import RECORD, RecordHeader, parse_segment
from tests.cost import assert_cheap, cpu_seconds
from tests.endpoints import (
    Datagram,
    Recorder,
    alive,
    arrived,
    connect,
    drops,
    events,
    hostile,
    make_node,
    peer_of,
    send,
    session_of,
    settled,
    status,
    transfer,
)
from tests.simnet import Link, SimNet, SimNode

SMALL = Config(
    channel_window=256 * KIB,
    connection_window=1 * MIB,
    max_message_size=1 * MIB,
    receive_budget=4 * MIB,
    unreliable_queue=256 * KIB,
)


def connected(seed: int, *, config: Config | None = None, takes: bool = True) -> tuple[SimNet, SimNode, SimNode]:
    """``a``, which is going to be hostile, and ``b``, whose application takes what comes or does not."""
    net = SimNet(seed, link=Link(latency=0.005))
    a = make_node(net, "a", "10.0.0.1")
    b = make_node(net, "b", "10.0.0.2", config=config, on_event="default" if takes else None)
    connect(net, a, b)
    net.run(1)
    return net, a, b


def closed(b: SimNode, a: SimNode) -> bool:
    """True if ``b`` has closed the connection for a breach of the protocol, and said so everywhere."""
    lost = events(b, EventKind.LOST)
    if not drops(b, "protocol_error"):
        assert lost == []
        return False
    assert drops(b, "protocol_error") == len(lost) == 1
    assert "broke the protocol" in lost[0].reason
    assert not status(b, a).established
    return True


def raw_ack(*numbers: int) -> bytes:
    """An ACK frame of any numbers, sensible or not."""
    return b"\x02" + b"".join(encode_varint(number) for number in numbers)


# --- 12: acknowledgements of what was never sent ---


@pytest.mark.parametrize("kind", ["next", "far", "largest", "backwards", "below zero", "taken", "taken far"])
def test_attack_12_ack_of_what_was_never_sent(kind: str) -> None:
    """Attack 12: record numbers and messages never sent: closed with an error; nothing leaves the send buffer."""
    net, a, b = connected(12)
    net.partition("b", "a", both=False)  # what b sends does not arrive: everything stays in its buffer
    token = send(b, a, b"v" * 50_000)
    net.run(0.05)
    following = session_of(b, a).next_number
    assert following > 3
    frames: dict[str, Frame | bytes] = {
        "next": Ack(0, ((following, following),)),
        "far": Ack(0, ((0, following + 1000),)),
        "largest": Ack(0, ((VARINT_MAX, VARINT_MAX),)),
        "backwards": raw_ack(0, 1, 5, 9),  # a range of ten that ends at five
        "below zero": raw_ack(0, 2, 5, 3, 7, 0),  # the second one ends below zero
        "taken": Taken(0, 2),
        "taken far": Taken(0, 1 << 61),
    }
    hostile(net, a, b, [frames[kind]])
    assert closed(b, a)
    assert settled(b, token) is None
    assert status(b, a).queued == 50_000
    net.heal()
    assert net.run_until(lambda: arrived(a, b) == [b"v" * 50_000], 40)
    alive(net, a, b)


def test_attack_12_transmission_and_discarded_numbers_are_hints() -> None:
    """Attack 12: of numbers that a stranger can forge those never sent are ignored; the buffer is untouched."""
    net, a, b = connected(121)
    net.partition("b", "a", both=False)
    token = send(b, a, b"v" * 50_000)
    net.run(0.02)
    recovery = peer_of(b, a).connection.recovery
    assert recovery is not None
    next_one = session_of(b, a).next_transmission
    following = session_of(b, a).next_number
    before = (recovery.in_flight, len(recovery.records))
    assert before[0] > 10_000
    # A record that a stranger forged may be named as discarded by an honest receiver.
    for discarded in ((following, following + 5), (VARINT_MAX, VARINT_MAX), (following, VARINT_MAX)):
        hostile(net, a, b, [Ack(0, (), (), (discarded,))])
    for numbers in (
        ((VARINT_MAX, VARINT_MAX),),
        ((next_one, next_one + 1000),),
        tuple((VARINT_MAX - 10 * n, VARINT_MAX - 10 * n + 5) for n in range(1, MAX_RANGES + 1)),
    ):
        hostile(net, a, b, [Ack(0, (), numbers)])
    assert (recovery.in_flight, len(recovery.records)) == before
    assert not closed(b, a)
    assert settled(b, token) is None
    net.heal()
    assert net.run_until(lambda: arrived(a, b) == [b"v" * 50_000], 40)
    alive(net, a, b)


# --- 13, 14: bombs ---


def bombs() -> Iterator[tuple[str, list[Frame | bytes]]]:
    """Records that cost as much as an acknowledgement can."""
    spread = tuple((VARINT_MAX - 3 * n, VARINT_MAX - 3 * n) for n in range(MAX_RANGES))
    wide = tuple((VARINT_MAX - (n + 1) * (1 << 55), VARINT_MAX - n * (1 << 55) - 2) for n in range(MAX_RANGES))
    yield "one-packet ranges", [Ack(0, (), spread)]
    yield "ranges over all numbers", [Ack(0, (), ((0, VARINT_MAX),))]
    yield "wide ranges", [Ack(0, (), wide)]
    yield "eight of them", [Ack(0, (), wide), Ack(0, (), spread)] * (MAX_ACKS // 2)
    yield "all discarded", [Ack(0, (), (), wide), Ack(0, (), (), ((0, VARINT_MAX),))] * (MAX_ACKS // 2)
    yield "small ones among ours", [Ack(0, (), tuple((2 * n, 2 * n) for n in range(MAX_RANGES - 1, -1, -1)))] * MAX_ACKS


def test_attack_13_ack_range_bombs() -> None:
    """Attack 13: as many ranges as an ack can hold, over all of 2^62: under 10 ms each and no growth."""
    net, a, b = connected(13)
    net.partition("b", "a", both=False)
    send(b, a, b"v" * 200_000)
    net.run(0.05)
    for name, frames in bombs():
        print(name)
        assert_cheap(lambda frames=frames: cpu_seconds(lambda: hostile(net, a, b, frames)), 0.010)  # type: ignore[misc]
    recovery = peer_of(b, a).connection.recovery
    assert recovery is not None
    assert len(recovery._hinted) <= 1000
    assert not closed(b, a)
    net.heal()
    assert net.run_until(lambda: arrived(a, b) == [b"v" * 200_000], 40)
    alive(net, a, b)


@pytest.mark.parametrize("kind", ["opened", "too many ranges", "too many acks", "ranges cut short"])
def test_attack_13_bombs_that_close(kind: str) -> None:
    """Attack 13: as above in the lists that name records, or above the limits of the format: closed, and cheaply."""
    everything = ((0, VARINT_MAX),)
    frames: dict[str, list[Frame | bytes]] = {
        "opened": [Ack(0, everything)],
        "too many ranges": [raw_ack(0, MAX_RANGES + 1, 5000, *[0] * (2 * MAX_RANGES + 1))],
        "too many acks": [Ack(0, ((0, 0),))] * (MAX_ACKS + 1),
        "ranges cut short": [raw_ack(0, MAX_RANGES, 5000)],
    }

    def scene() -> float:
        net, a, b = connected(131)
        seconds = cpu_seconds(lambda: hostile(net, a, b, frames[kind]))
        assert closed(b, a)
        net.run(3)
        alive(net, a, b)
        return seconds

    assert_cheap(scene, 0.1)


@pytest.mark.parametrize("sequence", [1 << 20, 1 << 30, VARINT_MAX - 1])
@pytest.mark.parametrize("kind", ["part", "withdrawn"])
def test_attack_14_sequence_jump(kind: str, sequence: int) -> None:
    """Attack 14: one message far ahead: no loop over the gap, closed with an error, one answer."""
    frame: Frame = MessagePart(0, sequence, 0, 4, b"jump") if kind == "part" else Withdrawn(0, sequence)

    def scene() -> float:
        net, a, b = connected(14)
        record = Recorder(net)
        seconds = cpu_seconds(lambda: hostile(net, a, b, [frame]))
        assert closed(b, a)
        assert b.of(MessageArrived) == []
        assert len(record.of(RECORD, source=b)) <= 2
        net.run(3)
        alive(net, a, b)
        return seconds

    assert_cheap(scene, 0.1)


def test_attack_14_record_number_jump() -> None:
    """Attack 14: record numbers that jump by billions: bounded work, one small ack, and the next jump as well."""

    def scene() -> float:
        net, a, b = connected(141)
        session = session_of(a, b)
        record = Recorder(net)
        most = 0.0
        for number in (1 << 20, 1 << 30, 1 << 40, LIMIT - 100):
            session.next_number = number
            most = max(most, cpu_seconds(lambda: hostile(net, a, b, [Ping()])))
            assert session_of(b, a).receiver.largest == number
            net.run(0.05)
        answers = record.of(RECORD, source=b)
        assert 1 <= len(answers) <= 8
        assert all(len(item.data) < 200 for item in answers)
        assert not closed(b, a)
        return most

    assert_cheap(scene, 0.05)


def test_attack_14_replies_are_bounded() -> None:
    """Attack 14: a thousand scattered records: acks stay within one datagram of 1,000 bytes and fewer than came in."""
    net, a, b = connected(142)
    record = Recorder(net)
    session = session_of(a, b)
    for step in range(1000):
        session.next_number += 1 + step % 3
        hostile(net, a, b, [Ping()])
        if step % 50 == 0:
            net.run(0.01)
    net.run(0.1)
    answers = record.of(RECORD, source=b)
    assert 1 <= len(answers) <= 1000
    assert all(len(item.data) <= 1000 for item in answers)
    assert not closed(b, a)


# --- 16, 17: memory ---


@pytest.mark.parametrize("total", [SMALL.max_message_size + 1, (1 << 32) - 1, 1 << 61, VARINT_MAX])
def test_attack_16_huge_length_claims(total: int) -> None:
    """Attack 16: a message that claims to be huge: closed before anything is allocated, or dropped if unreliable."""
    net, a, b = connected(16, config=SMALL)
    hostile(net, a, b, [UnreliablePart(0, 1, 0, total, b"x")])
    assert drops(b, "unreliable_too_big") == 1
    assert not closed(b, a)
    alive(net, a, b)
    sequence = peer_of(b, a).connection.receiving.channels[7].expected
    tracemalloc.start()
    try:
        hostile(net, a, b, [MessagePart(7, sequence, 0, total, b"x")])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert closed(b, a)
    assert peak < 300_000
    net.run(3)
    alive(net, a, b)


def test_attack_16_the_largest_allowed_claim_costs_nothing() -> None:
    """Attack 16: the first byte of a message of 64 MiB takes no more memory than it has bytes."""
    net, a, b = connected(161)
    tracemalloc.start()
    try:
        hostile(net, a, b, [MessagePart(channel, 0, 0, 64 * MIB, b"x") for channel in range(32)])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not closed(b, a)
    assert peak < 300_000


def fragments(kind: str) -> Iterator[Frame]:
    """Parts that never become a message."""
    if kind == "first bytes":
        for sequence in range(1 << 14):
            for channel in range(CHANNELS):
                yield MessagePart(channel, sequence, 0, 1000, b"x")
    elif kind == "every other byte":
        for offset in range(0, 200_000, 2):
            yield MessagePart(0, 0, offset, 200_000, b"x")
    elif kind == "byte by byte":
        for offset in range(20_000):
            yield MessagePart(0, 0, offset, 200_000, b"x")
    elif kind == "last bytes":
        for sequence in range(1 << 14):
            yield MessagePart(sequence % CHANNELS, sequence // CHANNELS, 9_999, 10_000, b"x")
    else:
        for identifier in range(15_000):
            yield UnreliablePart(identifier % CHANNELS, identifier, 0, 1000, b"x")


@pytest.mark.parametrize("kind", ["first bytes", "every other byte", "byte by byte", "last bytes", "unreliable"])
def test_attack_17_reassembly_memory(kind: str) -> None:
    """Attack 17: fragments without end, one byte each, of messages never finished: bounded by the windows.

    A window's worth of credit may hold at most four times as much memory, with everything that goes with it.
    """
    net, a, b = connected(17, config=SMALL, takes=False)
    pending: list[Frame] = []
    tracemalloc.start()
    try:
        gc.collect()
        base = tracemalloc.get_traced_memory()[0]
        for count, frame in enumerate(fragments(kind)):
            pending.append(frame)
            if len(pending) == 512:
                plaintext = b"".join(serialise(item) for item in pending)
                pending.clear()
                # As if it had been opened: sealing is not what is measured.
                connection = peer_of(b, a).connection
                try:
                    connection.on_record(Opened(count, 1, plaintext), 1200, net.now)
                except RemoteProtocolError:
                    break
                connection.arrived.clear()
        gc.collect()
        held = tracemalloc.get_traced_memory()[0] - base
    finally:
        tracemalloc.stop()
    assert count > 500
    assert held < 4 * SMALL.connection_window, f"{held} bytes held after {count} fragments"


# --- 18: inconsistent fragments ---


def test_attack_18_overlapping_fragments() -> None:
    """Attack 18: the same offsets with other bytes: what came first stays, in every order, and once."""
    net, a, b = connected(18)
    hostile(net, a, b, [MessagePart(3, 0, 4, 12, b"BBBB"), MessagePart(3, 0, 2, 12, b"xxxxxxx")])
    hostile(net, a, b, [MessagePart(3, 0, 0, 12, b"AAyyyyyyyyyy"[:8]), MessagePart(3, 0, 4, 12, b"zzzzzzzz")])
    assert arrived(b, a, 3) == [b"AAxxBBBBxzzz"]
    hostile(net, a, b, [MessagePart(3, 0, 0, 12, b"other bytes!")])
    hostile(net, a, b, [MessagePart(3, 0, 0, 5, b"other")])  # long finished: not even its length matters
    assert arrived(b, a, 3) == [b"AAxxBBBBxzzz"]
    hostile(net, a, b, [UnreliablePart(4, 9, 0, 4, b"ab"), UnreliablePart(4, 9, 0, 5, b"abcde")])
    assert drops(b, "unreliable_inconsistent") == 1
    hostile(net, a, b, [UnreliablePart(4, 9, 0, 4, b"XY"), UnreliablePart(4, 9, 2, 4, b"cd")])
    hostile(net, a, b, [UnreliablePart(4, 9, 2, 4, b"cd")])
    assert arrived(b, a, 4) == [b"abcd"]
    assert not closed(b, a)


@pytest.mark.parametrize("kind", ["longer", "shorter", "empty", "beyond", "channel", "unknown frame", "cut"])
def test_attacks_18_and_19_impossible_fragments(kind: str) -> None:
    """Attacks 18 and 19: a total that changes, empty or overhanging parts, channel 64, unknown frames: closed."""
    net, a, b = connected(181)
    hostile(net, a, b, [MessagePart(3, 0, 0, 10, b"first")])
    part = b"\x04"
    frames: dict[str, Frame | bytes] = {
        "longer": MessagePart(3, 0, 5, 11, b"second"),
        "shorter": MessagePart(3, 0, 5, 9, b"late"),
        "empty": part + b"\x03\x00\x05\x0a\x00",
        "beyond": part + b"\x03\x00\x08\x0a\x04abcd",
        "channel": part + bytes((CHANNELS,)) + b"\x00\x00\x01\x01x",
        "unknown frame": b"\x3f" + bytes(20),
        "cut": part + b"\x03\x00\x05\x0a\x05ab",
    }
    last = frames[kind]
    size = len(last if isinstance(last, bytes) else serialise(last))
    # Nothing may follow: "cut" is an error only at the end of a record.
    hostile(net, a, b, [b"\x00" * max(0, 16 - size), last])
    assert closed(b, a)
    assert arrived(b, a, 3) == []
    net.run(3)
    alive(net, a, b)


def test_attack_19_every_channel_there_is() -> None:
    """Attack 19: all 64 channels in use at once is the most there can be, and it works."""
    net, a, b = connected(19)
    for channel in range(CHANNELS):
        send(a, b, b"on %d" % channel, channel=channel)
    net.run(1)
    assert sorted(arrived(b, a)) == sorted(b"on %d" % channel for channel in range(CHANNELS))
    assert len(peer_of(b, a).connection.receiving.channels) == CHANNELS
    alive(net, a, b)


# --- 20: flow control ---


@pytest.mark.parametrize("spread", [1, 8])
def test_attack_20_more_than_was_granted(spread: int) -> None:
    """Attack 20: a peer that ignores the window is closed within it; what was within it is still handed out."""
    net, a, b = connected(20, config=SMALL, takes=False)
    limit = SMALL.channel_window if spread == 1 else SMALL.connection_window
    sent = 0
    for number in range(3 * limit // 1000):
        hostile(net, a, b, [MessagePart(number % spread, number // spread, 0, 1000, b"f" * 1000)])
        sent += 1
        if closed(b, a):
            break
    assert closed(b, a)
    assert 0.5 * limit < sent * 1256 < limit + 2 * 1256
    assert len(arrived(b, a)) in (sent - 1, sent)


@pytest.mark.parametrize(
    "frame", [Grant(0, 5, VARINT_MAX), Window(1 << 32), Grant(63, 1 << 40, 1 << 40), Taken(63, 0), Window(0)]
)
def test_attack_20_credit_for_nothing(frame: Frame) -> None:
    """Attacks 15 and 20: credit for messages that do not exist, absurd windows: no effect, no error of ours."""
    net, a, b = connected(201)
    hostile(net, a, b, [frame])
    net.run(1)
    assert not closed(b, a)
    alive(net, a, b)


def blind(seed: int, congestion: Literal["bbr", "cubic"] = "bbr") -> tuple[SimNet, SimNode, SimNode]:
    """As ``connected``, with far more queued at ``b`` than the path carries, all of it lost, and credit for it."""
    net, a, b = connected(seed, config=Config(congestion=congestion))
    net.partition("b", "a", both=False)
    for channel in range(2):
        send(b, a, bytes(50 * MIB), channel=channel)
        hostile(net, a, b, [Grant(channel, 0, 64 * MIB)])
    return net, a, b


@pytest.mark.parametrize("congestion", ["bbr", "cubic"])
def test_attack_15_acks_of_what_never_came(congestion: Literal["bbr", "cubic"]) -> None:
    """Attack 15: a receiver that names all records unseen is found out within SKIP_WITHIN of them and closed.

    Until then it may raise the rate: not further than so many records of 64,000 bytes.
    """
    net, a, b = blind(15, congestion)
    c = make_node(net, "c", "10.0.0.3")
    connect(net, b, c)
    record = Recorder(net)
    began = session_of(b, a).next_number
    named = 0
    for _ in range(400):
        net.run(0.01)
        if closed(b, a):
            break
        named = session_of(b, a).next_number - began
        hostile(net, a, b, [Ack(0, ((0, began + named - 1),))])
    assert closed(b, a)
    assert "never sent" in events(b, EventKind.LOST)[0].reason
    assert sum(len(item.data) for item in record.of(source=b, destination=a)) < 2 * SKIP_WITHIN * 64_000
    alive(net, b, c)


def test_attack_15_who_leaves_no_number_out_is_always_found_out() -> None:
    """Attack 15: one invented number among many honest ones is enough, if it was left out; other gaps are loss."""
    net, a, b = connected(151)
    session, recovery = session_of(b, a), peer_of(b, a).connection.recovery
    assert recovery is not None
    for number in range(3 * SKIP_WITHIN):
        send(b, a, b"%d" % number)
        net.run(0.0005)  # a record each
    net.run(1)
    skipped = list(recovery.skips._numbers)
    assert 3 <= len(skipped) <= session.next_number
    assert len({later - earlier for earlier, later in pairwise(skipped)}) > 1, "regular gaps could be foreseen"
    receiver = session_of(a, b).receiver
    assert not any(first <= number <= last for first, last in receiver._opened for number in skipped)
    hostile(net, a, b, [Ack(0, ((skipped[-1], skipped[-1]),))])
    assert closed(b, a)


def test_attack_15_left_out_numbers_look_like_lost_ones() -> None:
    """Attack 15: to a receiver of a lossy path a gap in both kinds of numbers is a lost record of the usual size."""
    net, a, b = connected(152)
    record = Recorder(net)
    transfer(net, b, a, net.random.randbytes(2_500_000))
    headers = sorted({(h.number, h.first, h.count) for h in map(header_of, record.of(RECORD, source=b))})
    gaps = [
        (later[0] - earlier[0] - 1, later[1] - earlier[1] - earlier[2])
        for earlier, later in pairwise(headers)
        if later[0] != earlier[0] + 1
    ]
    assert len(gaps) > 2
    assert all(records == 1 for records, _ in gaps)
    assert {datagrams for _, datagrams in gaps} <= {count for _, _, count in headers}
    assert all(datagrams for _, datagrams in gaps)


@pytest.mark.parametrize("congestion", ["bbr", "cubic"])
def test_attack_15_hints_alone_raise_no_rate(congestion: Literal["bbr", "cubic"]) -> None:
    """Attack 15: transmission numbers, which a stranger can forge, end nothing and let no more go than a first window.

    Named as received whatever was sent, once in a round trip of 10 ms: the window never grows.
    """
    net, a, b = blind(153, congestion)
    record = Recorder(net)
    sent = []
    for _ in range(2):
        record.clear()
        for _ in range(50):
            net.run(0.01)
            hostile(net, a, b, [Ack(0, (), ((0, session_of(b, a).next_transmission - 1),))])
        sent.append(sum(len(item.data) for item in record.of(source=b, destination=a)))
    assert not closed(b, a)
    assert sent[0] < 1.1 * 50 * 14_720  # RFC 9002 section 7.2
    assert sent[1] < 1.2 * sent[0]


def header_of(item: Datagram) -> RecordHeader:
    """The clear header of a record's datagram."""
    return parse_segment(item.data).header


def test_a_closed_peer_comes_back() -> None:
    """Attacks 12 to 20: the breach is told to the other side in words, and the connection can be made anew."""
    net, a, b = connected(299)
    hostile(net, a, b, [Taken(0, 9)])
    net.run(0.5)
    lost = events(a, EventKind.LOST)
    assert len(lost) == 1
    assert "protocol" in lost[0].reason
    assert net.run_until(lambda: status(a, b).established and status(b, a).established, 10)
    assert events(a, EventKind.RECONNECTED)
    alive(net, a, b)
