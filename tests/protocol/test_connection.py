"""Two connections driven back to back: when acknowledgements go, what is repeated, what is granted, what it costs."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import pytest

from srmudp.config import Config
from srmudp.exceptions import RemoteProtocolError
from srmudp.protocol.connection import Connection
from srmudp.protocol.controller import AckSample
from srmudp.protocol.events import Failure
from srmudp.protocol.records import Opened
from srmudp.wire.frames import (
    Ack,
    Frame,
    Grant,
    MessagePart,
    Padding,
    Ping,
    SessionStart,
    SingleOnly,
    Taken,
    Window,
    Withdrawn,
    serialise,
)
from tests.connections import Duo, Side

DELAY = Config().max_ack_delay


def opened(*frames: Frame | bytes) -> Opened:
    """A record as if it had come from the peer."""
    data = b"".join(frame if isinstance(frame, bytes) else serialise(frame) for frame in frames)
    return Opened(1 << 40, 1, data)


# --- acknowledgements ---


def test_a_lone_datagram_is_acknowledged_after_the_delay() -> None:
    duo = Duo().connected()
    start = duo.now
    duo.a.connection.ping()
    duo.run(0.5)
    (sent,) = duo.a.frames(Ping)
    assert sent[0] == start
    (ack,) = duo.b.frames(Ack)
    assert ack[0] == pytest.approx(start + duo.latency + DELAY)
    frame = ack[1]
    assert isinstance(frame, Ack)
    assert frame.delay_us == pytest.approx(DELAY * 1e6, abs=2)


def test_small_datagrams_share_an_acknowledgement() -> None:
    duo = Duo().connected()
    start = duo.now
    for _ in range(3):
        duo.a.connection.ping()
        duo.run(0.001)
    duo.run(0.5)
    (ack,) = duo.b.frames(Ack)
    assert ack[0] == pytest.approx(start + duo.latency + DELAY)


def test_what_was_taken_of_small_messages_is_told_with_their_acknowledgement() -> None:
    duo = Duo().connected()
    for _ in range(3):
        duo.a.send(bytes(100))
        duo.pump()
    duo.run(0.5)
    assert [taken for _, taken in duo.b.frames(Taken)] == [Taken(0, 3)]
    assert len(duo.b.sent) == 1


def test_two_large_datagrams_are_acknowledged_at_the_end_of_the_burst() -> None:
    duo = Duo().connected()
    receiver = duo.b.connection
    for number in range(2):
        receiver.on_burst_end(duo.now)
        assert receiver.poll_transmit(duo.now) is None
        record = opened(MessagePart(0, number, 0, 1000, bytes(1000)))._replace(number=receiver._newest + 1)
        receiver.on_record(record, 1050, duo.now)
    receiver.on_burst_end(duo.now)
    duo.pump()
    assert duo.b.frames(Ack)


def test_a_small_datagram_after_a_gap_is_acknowledged_with_the_next() -> None:
    """So that the sender hears soon that one is missing."""
    duo = Duo().connected()
    start = duo.now
    duo.lose = lambda side, *_: side is duo.a and len(side.sent) == 1
    for _ in range(3):
        duo.a.connection.ping()
        duo.run(0.0001)
    duo.run(0.02)
    ack = duo.b.frames(Ack)[0]
    assert ack[0] == pytest.approx(start + 0.0002 + duo.latency)


def test_a_record_of_several_datagrams_is_acknowledged_at_the_end_of_the_burst() -> None:
    duo = Duo(latency=0.0004).connected()
    duo.a.send(bytes(300_000))
    duo.run(0.5)
    acks = [at for at, _ in duo.b.frames(Ack)]
    long = [batch for batch in duo.a.sent if len(batch.datagrams) > 1]
    assert long
    for batch in long:
        assert any(at == pytest.approx(batch.time + duo.latency) for at in acks)


def test_acknowledgements_are_not_acknowledged() -> None:
    duo = Duo().connected()
    duo.a.connection.ping()
    duo.run(60)
    assert len(duo.a.sent) == len(duo.b.sent) == 1


def test_a_message_and_its_answer_need_few_datagrams() -> None:
    """Ack, taken and answer travel together when the application is quick."""
    duo = Duo().connected()
    duo.a.send(b"question")
    duo.run_until(lambda: duo.b.got, 1)
    duo.b.send(b"answer")
    duo.run(1)
    assert duo.a.got == [(0, b"answer")]
    assert len(duo.a.sent) <= 3
    assert len(duo.b.sent) <= 3
    first = duo.b.sent[0].frames
    assert any(isinstance(frame, MessagePart) for frame in first)


def test_within_a_quarter_of_the_senders_window_an_ack_goes_before_the_burst_ends() -> None:
    """While data pours in without a pause, the sender must not run dry."""
    duo = Duo().connected()
    receiver = duo.b.connection
    part = serialise(MessagePart(0, 0, 0, 1_000_000, bytes(1000)))
    receiver.on_record(opened(Window(20_000), part), 1100, duo.now)
    assert receiver.poll_transmit(duo.now) is None or not any(isinstance(f, Ack) for _, f in duo.b.frames(Ack))
    for number in range(1, 6):
        part = serialise(MessagePart(0, 0, number * 1000, 1_000_000, bytes(1000)))
        receiver.on_record(opened(part), 1100, duo.now)
    duo.pump()  # no end of burst was told
    assert duo.b.frames(Ack)


def test_an_ack_fits_a_small_datagram_however_many_gaps_there_are() -> None:
    rng = random.Random(1)
    duo = Duo(mtu=1000)
    duo.run(1)
    duo.lose = lambda side, batch, position, datagram: side is duo.a and rng.random() < 0.4
    for number in range(400):
        duo.a.send(b"%d" % number, number % 8)
        duo.run(0.003)
    duo.lose = None
    assert duo.run_until(lambda: len(duo.b.got) == 400, 30)
    assert max(len(datagram) for side in duo for batch in side.sent for datagram in batch.datagrams) <= 1000
    acks = [frame for _, frame in duo.b.frames(Ack) if isinstance(frame, Ack)]
    assert max(len(ack.opened) for ack in acks) <= 64
    duo.run(5)
    duo.a.connection.ping()
    duo.run(1)
    last = [frame for _, frame in duo.b.frames(Ack) if isinstance(frame, Ack)][-1]
    assert len(last.opened) <= 64


# --- the start of a session ---


def test_session_start_is_repeated_until_it_is_acknowledged_and_then_no_more() -> None:
    duo = Duo()
    duo.lose = lambda side, batch, position, datagram: side is duo.a and batch < 4
    token = duo.a.send(b"after that")
    duo.run(20)
    starts = [any(isinstance(frame, SessionStart) for frame in batch.frames) for batch in duo.a.sent]
    assert all(starts[:5])
    assert starts.count(True) == starts.index(False), "never again once it was acknowledged"
    assert duo.b.got == [(0, b"after that")]
    assert duo.a.settled == {token: None}


@pytest.mark.parametrize("seed", range(6))
def test_session_start_survives_heavy_loss(seed: int) -> None:
    rng = random.Random(seed)
    duo = Duo(lose=lambda side, batch, position, datagram: rng.random() < 0.5)
    duo.a.send(b"from a")
    duo.b.send(b"from b")
    assert duo.run_until(lambda: duo.a.got and duo.b.got, 60)
    duo.lose = None
    duo.run(60)
    for side in duo:
        assert any(isinstance(frame, SessionStart) for frame in side.sent[0].frames)
        assert side.connection._start_acked
        assert list(side.settled.values()) == [None]


def test_no_message_leaves_before_the_other_side_told_its_limits() -> None:
    duo = Duo()
    duo.lose = lambda side, batch, position, datagram: side is duo.b
    duo.a.send(bytes(5000))
    duo.a.send(b"unreliable", reliable=False)
    duo.run(5)
    kinds = {type(frame) for batch in duo.a.sent for frame in batch.frames}
    assert MessagePart not in kinds
    assert kinds <= {SessionStart, Ping, Ack, Padding}
    assert len(duo.a.sent) < 40, "probes back off"


def test_a_message_larger_than_the_other_side_takes_fails_at_once() -> None:
    duo = Duo(config_b=Config(max_message_size=1000))
    token = duo.a.send(bytes(1001))
    fits = duo.a.send(bytes(1000))
    duo.run(2)
    assert duo.a.settled == {token: Failure.TOO_BIG, fits: None}


@pytest.mark.parametrize("seed", range(8))
def test_new_sessions_in_the_middle_of_everything_lose_and_double_nothing(seed: int) -> None:
    rng = random.Random(seed)
    duo = Duo(lose=lambda side, batch, position, datagram: rng.random() < 0.02)
    contents = {side: [rng.randbytes(rng.choice((0, 5, 2000, 30_000))) for _ in range(60)] for side in duo}
    for step in range(60):
        for side in duo:
            side.send(contents[side][step], step % 3)
        duo.run(rng.choice((0.0, 0.003, 0.011, 0.05)))
        if rng.random() < 0.3:
            duo.start(step)
            duo.run(rng.choice((0.0, 0.005, 0.012)))
    assert duo.run_until(lambda: all(len(side.settled) == 60 for side in duo), 60)
    for side in duo:
        for channel in range(3):
            received = [content for number, content in side.other.got if number == channel]
            assert received == contents[side][channel::3]
        assert set(side.settled.values()) == {None}


def test_a_stop_keeps_messages_and_a_start_goes_on() -> None:
    duo = Duo().connected()
    content = random.Random(1).randbytes(100_000)
    duo.a.send(content)
    duo.run(0.015)
    for side in duo:
        side.connection.stop()
        assert side.connection.next_timer() is None
        assert side.connection.poll_transmit(duo.now) is None
    assert duo.a.connection.pending == 1
    duo.run(100)
    duo.start("again")
    assert duo.run_until(lambda: duo.b.got, 10)
    assert duo.b.got == [(0, content)]


def test_what_was_sealed_last_is_under_way_for_whoever_asks() -> None:
    duo = Duo().connected()
    duo.run(1)
    duo.a.send(bytes(100))
    connection = duo.a.connection
    batch = connection.poll_transmit(duo.now)
    assert batch is not None
    assert connection.recovery is not None
    assert connection.recovery.in_flight == len(batch[0])
    assert [record.chunks[0][0].size for record in connection.recovery.records.values()] == [100]
    assert connection.poll_transmit(duo.now) is None
    assert connection.recovery.in_flight == len(batch[0])


def test_a_look_at_the_figures_notes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be interrupted, and nobody mends a connection that was only looked at."""
    duo = Duo().connected()
    duo.run(1)
    duo.a.send(bytes(100))
    connection = duo.a.connection
    assert connection.poll_transmit(duo.now) is not None
    noted: list[object] = []
    monkeypatch.setattr(Connection, "_note_sealed", lambda self, sealed: noted.append(sealed))
    assert connection.datagrams_lost == connection.loss == 0
    assert not noted


@pytest.mark.parametrize("size", [100, 5000])
def test_what_was_sealed_last_goes_again_under_the_next_keys(size: int) -> None:
    duo = Duo().connected()
    duo.run(1)
    content = random.Random(1).randbytes(size)
    duo.a.send(content)
    assert duo.a.connection.poll_transmit(duo.now) is not None
    for side in duo:
        side.connection.stop()
    duo.start("again")
    assert duo.run_until(lambda: duo.b.got, 10)
    assert duo.b.got == [(0, content)]


# --- loss, probes ---


def test_a_lost_last_datagram_is_probed_for() -> None:
    """RFC 9002 section 6.2: nothing follows it that could show the loss."""
    duo = Duo().connected()
    duo.lose = lambda side, batch, position, datagram: side is duo.a and batch == 0
    start = duo.now
    token = duo.a.send(b"tail")
    duo.run(2)
    assert duo.a.settled == {token: None}
    parts = duo.a.frames(MessagePart)
    assert len(parts) >= 2
    path = duo.a.connection.path
    assert path is not None
    assert start + duo.latency < parts[1][0] <= start + 0.3


def test_probes_double_their_interval() -> None:
    duo = Duo().connected()
    duo.lose = lambda side, batch, position, datagram: side is duo.a
    duo.a.send(b"into the void")
    duo.run(30)
    times = sorted({batch.time for batch in duo.a.sent})
    gaps = [after - before for before, after in pairwise(times)]
    assert len(gaps) >= 5
    for before, after in list(pairwise(gaps))[:4]:
        assert 1.6 <= after / before <= 2.4
    assert all(len([b for b in duo.a.sent if b.time == when]) <= 2 for when in times)
    for when in times:
        frames = [frame for batch in duo.a.sent if batch.time == when for frame in batch.frames]
        assert any(isinstance(frame, MessagePart) for frame in frames), "a probe may as well be the data"


def test_a_record_of_one_datagram_is_never_sent_twice() -> None:
    rng = random.Random(3)
    duo = Duo(lose=lambda side, batch, position, datagram: rng.random() < 0.2)
    for number in range(200):
        duo.a.send(b"%d" % number)
        duo.run(0.01)
    duo.run(10)
    seen: set[bytes] = set()
    for batch in duo.a.sent:
        for datagram in batch.datagrams:
            assert datagram not in seen
            seen.add(datagram)
    assert not any(batch.resent for batch in duo.a.sent if len(batch.datagrams) == 1 and len(batch.datagrams[0]) < 500)
    assert duo.b.got == [(0, b"%d" % number) for number in range(200)]


def test_lost_segments_of_long_records_are_sent_again_alone() -> None:
    duo = Duo(latency=0.0004).connected()
    lost: list[bytes] = []

    def lose(side: Side, batch: int, position: int, datagram: bytes) -> bool:
        if side is duo.a and not lost and len(side.sent[-1].datagrams) >= 8 and position == 3:
            lost.append(datagram)
            return True
        return False

    duo.lose = lose
    content = random.Random(2).randbytes(200_000)
    duo.a.send(content)
    assert duo.run_until(lambda: duo.b.got, 5)
    assert duo.b.got == [(0, content)]
    assert lost
    resent = [batch for batch in duo.a.sent if batch.resent]
    assert len(resent) == 1
    assert len(resent[0].datagrams) == 1
    assert resent[0].datagrams[0].endswith(lost[0][-64:])


def test_nothing_more_is_sent_once_all_is_known() -> None:
    duo = Duo().connected()
    duo.a.send(bytes(50_000))
    duo.run(5)
    for side in duo:
        side.sent.clear()
    duo.run(500)
    assert duo.a.sent == duo.b.sent == []


# --- taken, grants, windows ---


def test_taken_is_told_once_for_many_messages() -> None:
    duo = Duo().connected()
    duo.b.taking = False
    tokens = [duo.a.send(b"%d" % number) for number in range(100)]
    duo.run(1)
    assert duo.a.settled == {}
    assert duo.b.frames(Taken) == []
    start = duo.now
    duo.b.take()
    duo.run(1)
    assert duo.a.settled == dict.fromkeys(tokens)
    taken = duo.b.frames(Taken)
    assert len(taken) == 1
    assert taken[0][0] == pytest.approx(start + DELAY)
    assert taken[0][1] == Taken(0, 100)


def test_a_lost_taken_is_told_again() -> None:
    duo = Duo().connected()
    duo.lose = lambda side, batch, position, datagram: side is duo.b and batch < 3
    token = duo.a.send(b"x")
    duo.run(5)
    assert duo.a.settled == {token: None}


def test_a_reader_that_stops_stops_its_sender_and_no_other_channel() -> None:
    window = 64 * 1024
    config = Config(channel_window=window, connection_window=4 * window, max_message_size=window // 2)
    duo = Duo(config=config).connected()
    duo.b.taking = False
    contents = [random.Random(number).randbytes(10_000) for number in range(30)]
    for content in contents:
        duo.a.send(content, 0)
    duo.run(5)
    received = len(duo.b.got)
    assert received * 10_000 <= window
    assert received >= 4
    duo.a.send(b"still here", 1)
    duo.run(1)
    assert duo.b.got[-1] == (1, b"still here")
    duo.b.taking = True
    duo.b.take()
    assert duo.run_until(lambda: len(duo.a.settled) == 31, 10)
    assert [content for channel, content in duo.b.got if channel == 0] == contents


def test_a_message_larger_than_every_window_is_granted_as_it_arrives() -> None:
    window = 64 * 1024
    config = Config(channel_window=window, connection_window=window, max_message_size=1 << 20, receive_budget=1 << 20)
    duo = Duo(config=config).connected()
    content = random.Random(4).randbytes(1 << 20)
    token = duo.a.send(content)
    assert duo.run_until(lambda: duo.a.settled, 30)
    assert duo.a.settled == {token: None}
    assert duo.b.got == [(0, content)]
    grants = [frame for _, frame in duo.b.frames(Grant) if isinstance(frame, Grant)]
    limits = [grant.limit for grant in grants]
    assert limits[-1] == 1 << 20
    assert limits == sorted(limits)
    assert all(after - before <= 2 * window for before, after in pairwise(limits))
    assert duo.b.budget.free == config.receive_budget, "what was granted came back"


def test_lost_grants_are_told_again() -> None:
    rng = random.Random(5)
    window = 64 * 1024
    config = Config(channel_window=window, connection_window=window, max_message_size=1 << 20, receive_budget=1 << 20)
    duo = Duo(config=config, lose=lambda side, batch, position, datagram: side is duo.b and rng.random() < 0.3)
    content = rng.randbytes(600_000)
    duo.a.send(content)
    assert duo.run_until(lambda: duo.b.got == [(0, content)], 60)


def test_a_withdrawn_message_frees_its_place() -> None:
    window = 64 * 1024
    config = Config(channel_window=window, connection_window=window, max_message_size=1 << 20, receive_budget=1 << 20)
    duo = Duo(config=config).connected()
    expires = duo.now + 0.5
    duo.lose = lambda side, batch, position, datagram: side is duo.a and batch >= 2 and duo.now < expires
    gone = duo.a.send(bytes(300_000), expires=expires)
    stays = duo.a.send(b"next")
    duo.run(0.4)
    assert duo.a.settled == {}
    duo.run(10)
    assert duo.a.settled == {gone: Failure.EXPIRED, stays: None}
    assert duo.b.got == [(0, b"next")]
    assert duo.a.frames(Withdrawn)
    assert duo.b.budget.free == config.receive_budget
    assert duo.b.connection.receiving.charged == 0
    assert duo.a.connection.sending.charged == 0


# --- records ---


def test_long_records_carry_parts_of_one_channel_alone() -> None:
    """Losing a segment of one delays that channel and no other."""
    rng = random.Random(6)
    duo = Duo(lose=lambda side, batch, position, datagram: rng.random() < 0.01)
    for number in range(60):
        duo.a.send(rng.randbytes(20_000), number % 3)
        duo.a.send(b"small", 5)
    assert duo.run_until(lambda: len(duo.b.got) == 120, 30)
    long = [batch for batch in duo.a.sent if len(batch.datagrams) > 1 and not batch.resent]
    assert len(long) > 10
    for batch in long:
        kinds = {type(frame) for frame in batch.frames}
        assert kinds <= {MessagePart, SessionStart, Window}
        assert len({frame.channel for frame in batch.frames if isinstance(frame, MessagePart)}) == 1


def test_small_messages_of_one_channel_share_records() -> None:
    duo = Duo().connected()
    for number in range(100):
        duo.a.send(b"%03d" % number * 10)
    duo.run(1)
    assert len(duo.b.got) == 100
    assert sum(len(batch.datagrams) for batch in duo.a.sent) <= 12


def test_single_only_is_obeyed_for_as_long_as_was_asked() -> None:
    duo = Duo(latency=0.0004).connected()
    duo.a.connection.on_record(opened(SingleOnly(1000)), 100, duo.now)
    until = duo.now + 1.0
    while duo.now < until + 1.0:
        duo.a.send(bytes(50_000))
        duo.run(0.1)
    sizes = [(batch.time, len(batch.datagrams)) for batch in duo.a.sent if not batch.resent]
    assert {size for at, size in sizes if at < until} == {1}
    assert max(size for at, size in sizes if at >= until) > 4


def test_single_only_is_bounded() -> None:
    duo = Duo(latency=0.0004).connected()
    duo.a.connection.on_record(opened(SingleOnly(1 << 40)), 100, duo.now)
    duo.run(61)
    duo.a.sent.clear()
    duo.a.send(bytes(50_000))
    duo.run(1)
    assert max(len(batch.datagrams) for batch in duo.a.sent) > 1


def test_records_are_never_larger_than_the_mtu_allows() -> None:
    for mtu in (1000, 1452, 8952):
        duo = Duo(mtu=mtu, latency=0.0004)
        duo.a.send(bytes(500_000))
        assert duo.run_until(lambda duo=duo: duo.b.got, 10)  # type: ignore[misc]
        assert max(len(datagram) for batch in duo.a.sent for datagram in batch.datagrams) <= mtu
        assert max(sum(map(len, batch.datagrams)) for batch in duo.a.sent) <= 65_507


# --- what the congestion controller is told ---


def watch_samples(side: Side) -> list[AckSample]:
    path = side.connection.path
    assert path is not None
    samples: list[AckSample] = []
    inner: Callable[[float, AckSample], None] = path.controller.on_ack

    def on_ack(now: float, sample: AckSample) -> None:
        samples.append(sample)
        inner(now, sample)

    path.controller.on_ack = on_ack  # type: ignore[method-assign]
    return samples


def test_a_trickle_is_app_limited() -> None:
    """Its rate says nothing about the path."""
    duo = Duo().connected()
    samples = watch_samples(duo.a)
    for number in range(40):
        duo.a.send(b"%d" % number)
        duo.run(0.05)
    rated = [sample for sample in samples if sample.delivery_rate is not None]
    assert rated
    assert all(sample.app_limited for sample in rated)


def test_a_full_queue_is_not_app_limited() -> None:
    duo = Duo().connected()
    samples = watch_samples(duo.a)
    duo.a.send(bytes(3_000_000))
    duo.run_until(lambda: duo.b.got, 30)
    rated = [sample for sample in samples if sample.delivery_rate is not None][5:-5]
    assert len(rated) > 10
    assert sum(sample.app_limited for sample in rated) <= len(rated) * 0.1


def test_the_rtt_is_that_of_the_path_without_the_delay_of_the_ack() -> None:
    duo = Duo(latency=0.03).connected()
    for _ in range(50):
        duo.a.connection.ping()
        duo.run(0.2)
    path = duo.a.connection.path
    assert path is not None
    assert path.rtt.minimum == pytest.approx(0.06, abs=0.006)
    assert path.rtt.smoothed == pytest.approx(0.06, abs=0.006)


# --- unreliable messages ---


def test_unreliable_messages_arrive_or_are_told_lost() -> None:
    rng = random.Random(8)
    duo = Duo().connected()
    duo.lose = lambda side, batch, position, datagram: side is duo.a and rng.random() < 0.2
    contents = [rng.randbytes(rng.choice((1, 500, 4000))) for _ in range(100)]
    tokens = []
    for content in contents:
        tokens.append(duo.a.send(content, reliable=False))
        duo.run(0.02)
    duo.run(10)
    assert set(duo.a.settled) == set(tokens)
    delivered = [contents[tokens.index(token)] for token, failure in duo.a.settled.items() if failure is None]
    assert set(duo.a.settled.values()) == {None, Failure.LOST}
    assert all(content in duo.b.unreliable for content in delivered)
    assert len(duo.b.unreliable) == len(set(duo.b.unreliable)) or len(contents[0]) <= 2
    assert duo.a.connection.pending == 0
    assert duo.a.connection.queued_bytes == 0


# --- what no honest peer does ---


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param([b"\x7f"], id="unknown frame"),
        pytest.param([Ack(0, ((0, 1 << 50),))], id="ack of a record never sent"),
        pytest.param([Taken(0, 5)], id="taken what was never sent"),
        pytest.param([MessagePart(0, 0, 0, 1 << 50, b"x")], id="message beyond the limit"),
        pytest.param([MessagePart(0, 1 << 40, 0, 1, b"x")], id="sequence far ahead"),
        pytest.param([MessagePart(0, 0, 0, 9, b"x"), MessagePart(0, 0, 1, 8, b"y")], id="length changes"),
        pytest.param([Withdrawn(0, 1 << 40)], id="withdrawn far ahead"),
    ],
)
def test_a_broken_protocol_is_an_error_of_the_remote_side(frames: list[Frame | bytes]) -> None:
    duo = Duo().connected()
    with pytest.raises(RemoteProtocolError):
        duo.b.connection.on_record(opened(*frames), 100, duo.now)


def test_a_message_before_the_session_was_started() -> None:
    duo = Duo()
    with pytest.raises(RemoteProtocolError):
        duo.b.connection.on_record(opened(MessagePart(0, 0, 0, 1, b"x")), 100, duo.now)


def test_more_than_was_granted() -> None:
    config = Config(channel_window=64 * 1024, connection_window=64 * 1024, max_message_size=1 << 20)
    duo = Duo(config=config).connected()
    duo.b.taking = False
    parts = b"".join(serialise(MessagePart(0, number, 0, 1000, bytes(1000))) for number in range(100))
    with pytest.raises(RemoteProtocolError, match="granted"):
        duo.b.connection.on_record(opened(parts), 110_000, duo.now)
