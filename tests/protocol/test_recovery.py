"""Loss, round-trip times and probes: numbers worked out by hand from RFC 9002, and what a hostile ack cannot do."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from srmudp.exceptions import RemoteProtocolError
from srmudp.models import Address
from srmudp.protocol.controller import AckSample
from srmudp.protocol.mtu import MtuDiscovery
from srmudp.protocol.pacer import Pacer
from srmudp.protocol.recovery import (
    INITIAL_RTT,
    MAX_BACKOFF,
    MAX_PACKET_THRESHOLD,
    MAX_PROBE_INTERVAL,
    MIN_PROBE_TIMEOUT,
    PACKET_THRESHOLD,
    STALE_RECORDS,
    AckOutcome,
    Path,
    Recovery,
    RttEstimator,
    SentRecord,
)
from srmudp.wire.frames import MAX_RANGES, Ack
from srmudp.wire.packet import RecordHeader
from tests.cost import assert_cheap, cpu_seconds

SIZE = 1000
"""Bytes of every datagram here."""


class Watched:
    """A congestion controller that only writes down what it is told."""

    name = "watched"
    window = 1 << 30
    pacing_rate = float("inf")
    state = ""

    def __init__(self) -> None:
        self.samples: list[AckSample] = []
        self.losses: list[tuple[int, float]] = []
        self.late: list[tuple[int, float]] = []
        self.persistent = 0

    def on_sent(self, now: float, size: int, in_flight: int, app_limited: bool) -> None:
        pass

    def on_ack(self, now: float, sample: AckSample) -> None:
        self.samples.append(sample)

    def on_lost(self, now: float, lost_bytes: int, newest_lost_sent: float, in_flight: int) -> None:
        self.losses.append((lost_bytes, newest_lost_sent))

    def on_late(self, size: int, sent_at: float) -> None:
        self.late.append((size, sent_at))

    def on_persistent_congestion(self, now: float) -> None:
        self.persistent += 1

    def set_segment_size(self, segment_size: int) -> None:
        pass


class Sender:
    """Numbers records and datagrams as a session does."""

    def __init__(self) -> None:
        self.controller: Any = Watched()
        self.path = Path(Address("192.0.2.1", 5000), MtuDiscovery(1200, 1200, 0.0), self.controller, Pacer(0.0))
        self.recovery = Recovery(self.path, 0.0)
        self.number = 0
        self.transmission = 0

    def send(self, now: float, segments: int = 1) -> SentRecord:
        header = RecordHeader(0, 1, self.number, self.transmission, segments, SIZE)
        ciphertext = bytes(SIZE * segments) if segments > 1 else None
        record = SentRecord(header, ciphertext, [], [], [], None, now)
        self.recovery.records[self.number] = record
        self.recovery.on_sent(record, self.transmission, range(segments), SIZE, SIZE * segments, now)
        self.number += 1
        self.transmission += segments
        return record

    def resend(self, record: SentRecord, segments: Sequence[int], now: float) -> int:
        first = self.transmission
        record.resent = True
        self.recovery.on_sent(record, first, tuple(segments), SIZE, SIZE * len(segments), now)
        self.transmission += len(segments)
        return first

    def ack(
        self,
        now: float,
        opened: Sequence[int] = (),
        transmissions: Sequence[int] | None = None,
        discarded: Sequence[int] = (),
        delay: float = 0.0,
    ) -> AckOutcome:
        """Acknowledge numbers; the transmission numbers of records of one datagram follow from ``opened``."""
        hints = opened if transmissions is None else transmissions
        ack = Ack(round(delay * 1e6), ranges(opened), ranges(hints), ranges(discarded))
        outcome = self.recovery.on_ack(ack, self.number, self.transmission, now)
        self.check()
        return outcome

    def check(self) -> None:
        """What is in flight is what is neither acknowledged nor lost."""
        recovery = self.recovery
        pending = sum(flight.pending.bit_count() * flight.size for flight in recovery._flights)
        assert recovery.in_flight == pending >= 0


def ranges(numbers: Sequence[int]) -> tuple[tuple[int, int], ...]:
    found: list[tuple[int, int]] = []
    for number in sorted(set(numbers), reverse=True):
        if found and found[-1][0] == number + 1:
            found[-1] = (number, found[-1][1])
        else:
            found.append((number, number))
    return tuple(found)


def numbers_of(records: Sequence[SentRecord]) -> list[int]:
    return [record.header.number for record in records]


# --- round-trip time (RFC 9002 section 5)


def test_the_first_sample_is_taken_as_it_is() -> None:
    rtt = RttEstimator()
    assert rtt.probe_timeout(0.025) == pytest.approx(INITIAL_RTT + 4 * INITIAL_RTT / 2 + 0.025)
    rtt.update(0.1, 0.05, 1.0)  # the delay is not taken off: min_rtt is the sample itself
    assert (rtt.smoothed, rtt.variation, rtt.minimum, rtt.latest) == pytest.approx((0.1, 0.05, 0.1, 0.1))
    assert rtt.probe_timeout(0.025) == pytest.approx(0.1 + 4 * 0.05 + 0.025)


def test_later_samples_are_smoothed() -> None:
    """Worked out by hand: adjusted = 0.2 - 0.02 = 0.18; variation 3/4 * 0.05 + 1/4 * 0.08; smoothed 7/8, 1/8."""
    rtt = RttEstimator()
    rtt.update(0.1, 0.0, 1.0)
    rtt.update(0.2, 0.02, 1.1)
    assert rtt.variation == pytest.approx(0.0575)
    assert rtt.smoothed == pytest.approx(0.11)
    assert rtt.minimum == pytest.approx(0.1)
    assert rtt.probe_timeout(0.025) == pytest.approx(0.11 + 0.23 + 0.025)


def test_a_delay_that_would_make_the_sample_less_than_the_minimum_is_ignored() -> None:
    """RFC 9002 section 5.3: 0.105 - 0.02 is below min_rtt, so the sample counts in full."""
    rtt = RttEstimator()
    rtt.update(0.1, 0.0, 1.0)
    rtt.update(0.105, 0.02, 1.1)
    assert rtt.smoothed == pytest.approx(0.1 + 0.005 / 8)
    assert rtt.variation == pytest.approx(0.05 * 3 / 4 + 0.005 / 4)


def test_a_path_that_became_longer_is_believed_after_half_a_minute() -> None:
    rtt = RttEstimator()
    rtt.update(0.1, 0.0, 1.0)
    for step in range(30):
        rtt.update(0.3, 0.0, 2.0 + step)
        assert rtt.minimum == 0.1 if 2.0 + step <= 31.0 else 0.3
    rtt.update(0.3, 0.0, 40.0)
    assert rtt.minimum == 0.3
    rtt.update(0.2, 0.0, 41.0)
    assert rtt.minimum == 0.2


def test_the_probe_timeout_has_a_floor() -> None:
    rtt = RttEstimator()
    for _ in range(50):
        rtt.update(0.0001, 0.0, 1.0)
    assert rtt.probe_timeout(0.0) == MIN_PROBE_TIMEOUT


def test_samples_come_from_the_newest_record_newly_opened() -> None:
    sender = Sender()
    sender.send(0.0)
    sender.send(0.01)
    sender.ack(0.1, [1])
    assert sender.path.rtt.latest == pytest.approx(0.09)
    sender.ack(0.5, [0, 1])  # record 0 is news, but not the largest: its delay is not told
    assert sender.path.rtt.latest == pytest.approx(0.09)
    sender.ack(9.0, [0, 1])
    assert sender.path.rtt.latest == pytest.approx(0.09)


def test_a_record_sent_in_parts_twice_gives_no_sample() -> None:
    sender = Sender()
    record = sender.send(0.0, 3)
    sender.resend(record, [1], 0.3)
    sender.ack(0.35, [0], [0, 2, 3])
    assert sender.path.rtt.latest is None


def test_the_peer_cannot_claim_more_delay_than_it_announced() -> None:
    """RFC 9002 section 5.3."""
    sender = Sender()
    sender.recovery.peer_ack_delay = 0.02
    sender.send(0.0)
    sender.ack(0.1, [0])
    sender.send(1.0)
    sender.ack(1.2, [1], delay=0.09)
    assert sender.path.rtt.smoothed == pytest.approx(0.11)


@pytest.mark.parametrize(("delay", "believed"), [(0.0, 0.0), (0.005, 0.005), (0.09, 0.02)])
def test_rates_are_measured_by_when_the_peer_read_the_data(delay: float, believed: float) -> None:
    """How long it holds an acknowledgement back is no property of the path."""
    sender = Sender()
    sender.recovery.peer_ack_delay = 0.02
    sender.send(0.0)
    sender.send(0.0)
    sender.ack(0.105, [0], delay=delay)
    sender.send(0.106)
    sender.ack(0.256, [0, 1, 2])
    assert sender.controller.samples[-1].delivery_rate == pytest.approx(2 * SIZE / (0.151 + believed))


# --- loss (RFC 9002 section 6.1)


def test_three_later_ones_make_a_datagram_lost() -> None:
    sender = Sender()
    for _ in range(5):
        sender.send(0.0)
    outcome = sender.ack(0.1, [3])
    assert numbers_of(outcome.again) == [0]
    outcome = sender.ack(0.1, [3, 4])
    assert numbers_of(outcome.again) == [1]
    assert numbers_of(outcome.opened) == [4]
    assert sender.recovery.datagrams_lost == 2
    assert set(sender.recovery.records) == {2}
    assert sender.recovery.in_flight == SIZE
    assert PACKET_THRESHOLD == 3


def test_a_datagram_is_lost_nine_eighths_of_a_round_trip_after_it_left() -> None:
    sender = Sender()
    sender.send(0.0)
    sender.send(0.001)
    assert not sender.ack(0.101, [1]).again  # a round trip of 0.1
    when = sender.recovery.next_timer()
    assert when == pytest.approx(0.1 * 9 / 8)
    assert when is not None
    assert not sender.recovery.on_timer(0.1124)[0].again
    outcome, probe = sender.recovery.on_timer(when)
    assert numbers_of(outcome.again) == [0]
    assert not probe
    assert sender.controller.losses == [(SIZE, 0.0)]
    assert sender.recovery.in_flight == 0
    assert sender.recovery.next_timer() is None


def test_one_sent_long_before_is_lost_at_once() -> None:
    sender = Sender()
    sender.send(0.0)
    sender.send(0.05)
    assert numbers_of(sender.ack(0.1, [1]).again) == [0]  # 0.05 * 9/8 < 0.1


def test_what_was_sent_later_is_not_lost() -> None:
    sender = Sender()
    for number in range(10):
        sender.send(number * 0.001)
    assert not sender.ack(5.0, [0]).again
    assert len(sender.recovery.records) == 9


def test_reordering_raises_the_threshold_to_what_was_seen() -> None:
    """RFC 9002 section 6.1.1 lets it adapt: number 0 came after number 9, so ten apart is no loss any more."""
    sender = Sender()
    for _ in range(10):
        sender.send(0.0)
    assert 0 in numbers_of(sender.ack(0.1, range(1, 10)).again)
    sender.ack(0.101, range(10))
    base = 10
    for _ in range(12):
        sender.send(0.2)
    outcome = sender.ack(0.3, [*range(10), *range(base + 1, base + 10)])
    assert not outcome.again
    outcome = sender.ack(0.3, [*range(10), *range(base + 1, base + 11)])
    assert numbers_of(outcome.again) == [base]


def test_where_overtaking_is_common_time_alone_decides() -> None:
    """RFC 8985 (RACK): past MAX_PACKET_THRESHOLD the count is not asked, until there was no reordering for a while."""
    sender = Sender()
    for _ in range(500):
        sender.send(0.0)
    sender.ack(0.1, range(1, 500))
    sender.ack(0.101, range(500))
    for _ in range(500):
        sender.send(1.0)
    assert not sender.ack(1.1, [*range(500), *range(501, 1000)]).again
    assert numbers_of(sender.recovery.on_timer(1.0 + 9 / 8 * 0.101)[0].again) == [500]
    for number in range(3 * MAX_PACKET_THRESHOLD):
        sender.send(2.0 + number)
        sender.ack(2.1 + number, range(501, 1001 + number))
    for _ in range(5):
        sender.send(500.0)
    first = sender.number - 5
    assert numbers_of(sender.ack(500.1, [first + 3]).again) == [first]


def test_patience_follows_what_was_overtaken() -> None:
    """Half a round trip late, two times: the second time it is not taken for lost. What really is is, 50 ms later."""
    sender = Sender()
    sender.send(0.0)
    sender.send(0.0)
    sender.ack(0.1, [1])
    assert numbers_of(sender.recovery.on_timer(0.1125)[0].again) == [0]
    sender.ack(0.15, [0, 1])
    assert sender.controller.late == [(SIZE, 0.0)]
    for _ in range(2):
        sender.send(1.0)
    sender.ack(1.1, [0, 1, 3])
    assert sender.recovery.next_timer() == pytest.approx(1.15)
    assert not sender.recovery.on_timer(1.149)[0].again
    assert numbers_of(sender.recovery.on_timer(1.151)[0].again) == [2]


def test_scatter_of_round_trips_is_the_mean_difference_of_neighbours() -> None:
    """RFC 3550 section 6.4.1. What was overtaken counts here, though it is no sample of the RTT."""
    sender = Sender()
    for _ in range(4):
        sender.send(0.0)
    sender.ack(0.10, [0])
    sender.ack(0.11, [0, 1])
    assert sender.controller.samples[-1].scatter == pytest.approx(0.01)
    sender.ack(0.13, [0, 1, 3])
    assert sender.controller.samples[-1].scatter == pytest.approx((0.01 + 0.02) / 2)
    sender.ack(0.14, [0, 1, 2, 3])
    assert sender.path.rtt.latest == pytest.approx(0.13)
    assert sender.controller.samples[-1].scatter == pytest.approx((0.01 + 0.02 + 0.01) / 3)


def test_lost_segments_of_a_long_record_go_again_as_they_are() -> None:
    sender = Sender()
    record = sender.send(0.0, 8)
    outcome = sender.ack(0.1, [], [0, 1, 5, 6, 7])
    assert outcome.lost_segments == [(record, 2), (record, 3), (record, 4)]
    assert not outcome.again
    assert sender.recovery.in_flight == 0
    first = sender.resend(record, [2, 3, 4], 0.1)
    assert sender.recovery.in_flight == 3 * SIZE
    outcome = sender.ack(0.2, [], [0, 1, *range(5, 8), first, first + 2])
    assert not outcome.lost_segments
    when = sender.recovery.next_timer()
    assert when is not None
    outcome, _ = sender.recovery.on_timer(when)
    assert outcome.lost_segments == [(record, 3)]
    last = sender.resend(record, [3], when)
    outcome = sender.ack(when + 0.1, [0], range(last + 1))
    assert outcome.opened == [record]
    assert sender.recovery.in_flight == 0
    assert not sender.recovery.records


def test_a_long_record_that_opened_needs_no_hints() -> None:
    sender = Sender()
    record = sender.send(0.0, 5)
    outcome = sender.ack(0.1, [0], [])
    assert outcome.opened == [record]
    assert sender.recovery.in_flight == 0
    assert sender.path.rtt.latest == pytest.approx(0.1)


def test_the_share_of_loss_follows_bytes() -> None:
    sender = Sender()
    for _ in range(200):
        sender.send(0.0)
    sender.ack(0.1, range(0, 200, 2))
    assert 0.2 < sender.recovery.loss <= 0.5


# --- hints


def test_hints_deliver_nothing() -> None:
    """A stranger can forge them: they free the window for a while, and count as nothing."""
    sender = Sender()
    record = sender.send(0.0, 4)
    outcome = sender.ack(0.05, [], range(4))
    assert [*outcome.opened, *outcome.again] == []
    assert sender.recovery.in_flight == 0
    assert sender.recovery.records == {0: record}
    assert all(sample.acked_bytes == 0 for sample in sender.controller.samples)
    when = sender.recovery.next_timer()
    assert when == pytest.approx(0.05 + sender.path.rtt.probe_timeout(sender.recovery.peer_ack_delay))
    assert when is not None
    outcome, probe = sender.recovery.on_timer(when)
    assert outcome.again == [record]  # all of it came, and it did not open: a segment was forged
    assert not probe
    assert not sender.recovery.records
    assert sender.recovery.next_timer() is None


def test_a_segment_that_came_twice_is_no_other_segment() -> None:
    """A probe repeats a segment that is still on its way; hints of both do not stand for one that was lost."""
    sender = Sender()
    record = sender.send(0.0, 3)
    first = sender.resend(record, [0], 0.001)
    sender.ack(0.1, [], [0, 1, first])
    assert record.hinted_at is None
    when = sender.recovery.next_timer()
    assert when is not None
    assert sender.recovery.on_timer(when)[0].lost_segments == [(record, 2)]
    last = sender.resend(record, [2], when)
    sender.ack(when + 0.1, [], [0, 1, first, last])
    assert record.hinted_at == when + 0.1


def test_a_segment_given_up_that_came_after_all_counts() -> None:
    sender = Sender()
    record = sender.send(0.0, 8)
    assert sender.ack(0.1, [], range(1, 8)).lost_segments == [(record, 0)]
    assert record.hinted_at is None
    sender.ack(0.101, [], range(8))
    assert record.hinted_at == 0.101


def test_records_hinted_in_any_order_come_due_in_order() -> None:
    sender = Sender()
    first, second = sender.send(0.0, 2), sender.send(0.0, 2)
    again = sender.resend(first, [0], 0.0)
    sender.ack(0.1, [], [0, 1])
    sender.ack(0.11, [], range(4))
    sender.ack(0.2, [], [*range(4), again])  # a repeated segment of the first is no news
    timeout = sender.path.rtt.probe_timeout(sender.recovery.peer_ack_delay)
    assert sender.recovery.next_timer() == pytest.approx(0.1 + timeout)
    assert sender.recovery.on_timer(0.11 + timeout)[0].again == [first, second]


def test_hints_that_cannot_be_true_are_ignored() -> None:
    """Attacks 12 and 74."""
    sender = Sender()
    sender.send(0.0)
    huge = 1 << 61
    outcome = sender.ack(0.1, [], [huge, huge - 5, 1, 2, 3])
    assert [*outcome.opened, *outcome.again, *outcome.lost_segments] == []
    assert sender.recovery.in_flight == SIZE
    assert not sender.recovery._hinted


# --- hostile acks


@pytest.mark.parametrize("number", [1, 2, 1 << 62])
def test_acknowledging_a_record_that_was_never_sent(number: int) -> None:
    """Attack 12."""
    sender = Sender()
    record = sender.send(0.0)
    with pytest.raises(RemoteProtocolError):
        sender.recovery.on_ack(Ack(0, ((0, number),)), 1, 1, 0.1)
    with pytest.raises(RemoteProtocolError):
        sender.recovery.on_ack(Ack(0, ((number, number), (0, 0)), ((0, 0),)), 1, 1, 0.1)
    assert sender.recovery.records == {0: record}
    assert sender.recovery.in_flight == SIZE


@pytest.mark.parametrize("number", [1, 2, 65_536, (1 << 62) - 1])
def test_discarding_a_record_that_was_never_sent_is_no_violation(number: int) -> None:
    """A stranger can make an honest peer say so, by segments of a record that never was."""
    sender = Sender()
    record = sender.send(0.0)
    outcome = sender.recovery.on_ack(Ack(0, (), (), ((number, number),)), 1, 1, 0.1)
    assert not outcome.again
    outcome = sender.recovery.on_ack(Ack(0, (), (), ((0, number),)), 1, 1, 0.1)
    assert outcome.again in ([], [record])


def test_discarded_records_go_again_at_once() -> None:
    sender = Sender()
    records = [sender.send(0.0, 2) for _ in range(4)]
    outcome = sender.ack(0.1, [0], [], [1, 2])
    assert sorted(numbers_of(outcome.again)) == [1, 2]
    assert sender.recovery.in_flight == 2 * SIZE
    assert not sender.ack(0.1, [0], [], [1, 2]).again
    assert records[3].header.number in sender.recovery.records


def test_a_bomb_of_ranges_costs_little() -> None:
    """Attack 13: as many ranges of one number as an ack holds, and all of a large number space, again and again."""
    huge = (1 << 62) - 1

    def scene() -> float:
        sender = Sender()
        for _ in range(5000):
            sender.send(0.0)
        top = sender.number - 1
        comb = tuple((top - 2 * index, top - 2 * index) for index in range(MAX_RANGES))
        wide = tuple((huge - 1000 * index - 998, huge - 1000 * index) for index in range(MAX_RANGES))
        everything = ((0, top),)

        def hear(ack: Ack) -> None:
            sender.recovery.on_ack(ack, sender.number, sender.transmission, 0.1)

        seconds = [
            cpu_seconds(lambda: [hear(Ack(0, comb, ((0, huge),), comb)) for _ in range(20)]),
            cpu_seconds(lambda: [hear(Ack(0, (), wide, wide)) for _ in range(20)]),
            cpu_seconds(lambda: hear(Ack(0, everything, everything, everything))),
        ]
        assert not sender.recovery.records
        assert sender.recovery.in_flight == 0
        return max(seconds)

    assert_cheap(scene, 0.2)


def test_scattered_numbers_grow_nothing() -> None:
    """Attacks 13 and 74: what is remembered of acknowledged numbers is bounded."""
    sender = Sender()
    for _ in range(4000):
        sender.send(0.0)
    for start in range(0, 4000 - 2 * MAX_RANGES, 2 * MAX_RANGES):
        odd = range(start, start + 2 * MAX_RANGES, 2)
        sender.ack(0.1, odd)
    assert len(sender.recovery._opened) <= 512
    assert len(sender.recovery._hinted) <= 512


# --- probes (RFC 9002 section 6.2)


def test_probe_timeouts_double_up_to_a_bound_and_begin_anew_with_progress() -> None:
    sender = Sender()
    sender.recovery.peer_ack_delay = 0.025
    sender.send(0.0)
    sender.ack(0.1, [0])
    timeout = 0.1 + 4 * 0.05 + 0.025
    sender.send(1.0)
    now = 1.0
    for attempt in range(9):
        when = sender.recovery.next_timer()
        most = MAX_PROBE_INTERVAL * (1 - attempt % 4 / 16)  # out of step with what happens at regular times
        assert when == pytest.approx(now + min(timeout * 2 ** min(attempt, MAX_BACKOFF), most))
        assert when is not None
        assert sender.recovery.on_timer(when - 1e-6)[1] is False
        outcome, probe = sender.recovery.on_timer(when)
        assert probe
        assert not outcome.again  # a probe timeout proves nothing lost
        now = when
    assert sender.controller.persistent == 9 - 3, "from the fourth on each time"
    assert sender.recovery.probes == 9
    assert sender.recovery.in_flight == SIZE
    sender.send(now)
    sender.ack(now + 0.1, [0, 2])
    assert sender.recovery.probes == 0


def test_nothing_in_flight_needs_no_timer() -> None:
    sender = Sender()
    assert sender.recovery.next_timer() is None
    sender.send(0.0)
    assert sender.recovery.next_timer() is not None
    sender.ack(0.1, [0])
    assert sender.recovery.next_timer() is None
    assert sender.recovery.on_timer(100.0)[1] is False


def test_sending_postpones_the_probe() -> None:
    sender = Sender()
    sender.send(0.0)
    timeout = sender.path.rtt.probe_timeout(sender.recovery.peer_ack_delay)
    sender.send(0.5)
    assert sender.recovery.next_timer() == pytest.approx(0.5 + timeout)


def test_the_oldest_records_come_first() -> None:
    sender = Sender()
    for _ in range(5):
        sender.send(0.0)
    sender.ack(0.1, [0])
    assert numbers_of(sender.recovery.oldest(2)) == [1, 2]
    assert numbers_of(sender.recovery.oldest(10)) == [1, 2, 3, 4]


# --- giving up


def test_records_far_behind_the_newest_are_given_up() -> None:
    """Half the replay window: beyond it the peer may refuse them."""
    sender = Sender()
    old, new = sender.send(0.0, 2), sender.send(0.0)
    assert sender.recovery.stale(STALE_RECORDS) == []
    assert sender.recovery.stale(STALE_RECORDS + 1) == [old]
    assert sender.recovery.in_flight == SIZE
    assert sender.recovery.stale(STALE_RECORDS + 1) == []
    assert sender.recovery.stale(STALE_RECORDS + 2) == [new]
    assert sender.recovery.in_flight == 0
    assert sender.recovery.stale(1 << 60) == []


def test_the_end_of_a_session_returns_everything_not_opened() -> None:
    sender = Sender()
    records = [sender.send(0.0, 1 + number) for number in range(4)]
    sender.ack(0.1, [1], [1, 2])
    assert sender.recovery.abandon() == [records[0], *records[2:]]
    assert sender.recovery.in_flight == 0
    assert not sender.recovery.records
    assert sender.recovery.abandon() == []


def test_a_probe_of_the_mtu_that_ends_with_its_session_is_not_waited_for() -> None:
    """The path may outlive the session: the next one must be able to search on."""
    sender = Sender()
    discovery = sender.path.discovery = MtuDiscovery(1200, 1452, 0.0)
    assert discovery.probe_due(0.0) == 1452
    sender.send(0.0).probe = 1452
    discovery.on_probe_sent()
    assert discovery.probe_due(0.0) is None
    sender.recovery.abandon()
    assert discovery.probe_due(0.0) == 1452


def test_a_lost_probe_of_the_mtu_is_no_congestion() -> None:
    """RFC 8899 section 3."""
    sender = Sender()
    discovery = sender.path.discovery = MtuDiscovery(1200, 1452, 0.0)
    for _ in range(3):
        size = discovery.probe_due(0.0)
        assert size == 1452
        sender.send(0.0).probe = size
        discovery.on_probe_sent()
        for _ in range(4):
            sender.send(0.0)
        assert not sender.ack(0.1, range(sender.number - 4, sender.number)).again
        assert sender.recovery.in_flight == 0
    assert discovery.probe_due(0.1) is None
    assert sender.recovery.datagrams_lost == 0
    assert all(sample.lost_bytes == 0 for sample in sender.controller.samples)


def test_late_news_of_what_was_given_up_changes_nothing() -> None:
    sender = Sender()
    for _ in range(5):
        sender.send(0.0)
    assert numbers_of(sender.ack(0.1, [4]).again) == [0, 1]
    outcome = sender.ack(0.1, range(5))
    assert sorted(numbers_of(outcome.opened)) == [2, 3, 4][:2]
    assert sender.recovery.in_flight == 0


# --- everything together


@pytest.mark.parametrize("seed", range(6))
def test_in_flight_never_drifts(seed: int) -> None:
    """Random records, losses, resends, probes and acks; at the end everything is acknowledged and nothing in flight."""
    rng = random.Random(seed)
    sender = Sender()
    recovery = sender.recovery
    arrived: dict[int, set[int]] = {}  # record number -> segments
    opened: set[int] = set()
    hints: set[int] = set()
    records: dict[int, SentRecord] = {}
    now = 0.0

    def cross(record: SentRecord, segment: int, transmission: int) -> None:
        if rng.random() < 0.85:
            hints.add(transmission)
            arrived.setdefault(record.header.number, set()).add(segment)
            if len(arrived[record.header.number]) == record.header.count:
                opened.add(record.header.number)

    def act(outcome: AckOutcome) -> None:
        for record, segment in outcome.lost_segments:
            if record.header.number in recovery.records:
                cross(record, segment, sender.resend(record, [segment], now))
        for _ in outcome.again:
            new = sender.send(now)
            cross(new, 0, new.header.first)

    for step in range(600):
        now += rng.random() * 0.01
        if step < 400 and rng.random() < 0.6:
            record = sender.send(now, rng.choice((1, 1, 3, 12, 44)))
            records[record.header.number] = record
            for segment in range(record.header.count):
                cross(record, segment, record.header.first + segment)
        if rng.random() < 0.4:
            act(sender.ack(now, sorted(opened)[-200:], sorted(hints)[-400:]))
        when = recovery.next_timer()
        if when is not None and (when <= now or step >= 400):
            now = max(now, when)
            outcome, probe = recovery.on_timer(now)
            act(outcome)
            if probe:
                for record in recovery.oldest(1):
                    segment = rng.randrange(record.header.count)
                    if record.header.count > 1:
                        cross(record, segment, sender.resend(record, [segment], now))
                    else:
                        new = sender.send(now)
                        cross(new, 0, new.header.first)
        sender.check()
    for _ in range(500):
        now += 0.05
        act(sender.ack(now, sorted(opened), sorted(hints)))
        when = recovery.next_timer()
        if when is None and not recovery.records:
            break
        if when is not None:
            now = max(now, when)
            outcome, probe = recovery.on_timer(now)
            act(outcome)
            if probe:
                new = sender.send(now)
                cross(new, 0, new.header.first)
    else:
        raise AssertionError(f"{len(recovery.records)} records were never settled")
    assert recovery.in_flight == 0
    assert not recovery._hinted_records
