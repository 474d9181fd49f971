"""Segments in, records out: order, forgeries, what is kept of both, and what the next acknowledgement says."""

from __future__ import annotations

import random
from collections import Counter
from typing import NamedTuple

import pytest

from srmudp.crypto.backend import select_backend
from srmudp.crypto.protection import WINDOW, RecordKeys
from srmudp.protocol.records import (
    FAR_AHEAD,
    FORGERIES_TOLERATED,
    FORGERY_SPAN,
    MAX_PARTIAL_RECORDS,
    SINGLE_ONLY_FIRST,
    SINGLE_ONLY_LAST,
    Opened,
    RecordReceiver,
)
from srmudp.wire.frames import MAX_RANGES, parse_frames, serialise
from srmudp.wire.packet import (
    RECORD_OVERHEAD,
    TAG,
    RecordHeader,
    Segment,
    cut_record,
    parse_pieces,
    parse_run,
    parse_segment,
    resend_segment,
)
from tests.cost import assert_cheap, cpu_seconds

SIZE = 50
"""Bytes of ciphertext in a full segment."""


class Record(NamedTuple):
    header: RecordHeader
    ciphertext: bytes
    plaintext: bytes

    @property
    def datagrams(self) -> list[bytes]:
        wire = cut_record(self.header, self.ciphertext)
        step = RECORD_OVERHEAD + self.header.size
        return [wire[at : at + step] for at in range(0, len(wire), step)]

    @property
    def segments(self) -> list[Segment]:
        return [parse_segment(datagram) for datagram in self.datagrams]


class Ends:
    """One side seals, the other receives."""

    def __init__(self, memory: int = 1 << 20) -> None:
        backend = select_backend()
        one, other = bytes(32), bytes(31) + b"\x01"
        self.keys = RecordKeys(backend, one, other)
        self.drops: Counter[str] = Counter()
        self.receiver = RecordReceiver(RecordKeys(backend, other, one), self.drops, memory)
        self.number = self.transmission = 0

    def seal(self, length: int = 20, number: int | None = None, transmission: int | None = None) -> Record:
        number = self.number if number is None else number
        first = self.transmission if transmission is None else transmission
        total = length + TAG
        count = -(-total // SIZE)
        header = RecordHeader(0, 1, number, first, count, total if count == 1 else SIZE)
        plaintext = random.Random(number).randbytes(length)
        ciphertext = self.keys.seal(number, header.pack(), plaintext)
        self.number, self.transmission = number + 1, first + count
        return Record(header, ciphertext, plaintext)

    def receive(self, record: Record, now: float = 0.0) -> Opened | None:
        opened = None
        for segment in record.segments:
            opened = self.receiver.on_segment(segment, now) or opened
        return opened

    def open(self, record: Record, now: float = 0.0) -> None:
        opened = self.receive(record, now)
        assert opened is not None
        assert opened.plaintext == record.plaintext

    def forged(self, number: int, count: int = 2, transmission: int = 0) -> list[Segment]:
        """Segments of a record that nobody sealed."""
        header = RecordHeader(0, 1, number, transmission, count, SIZE)
        return Record(header, bytes(SIZE * count), b"").segments


# --- reassembly


@pytest.mark.parametrize("length", [1, SIZE - TAG, SIZE - TAG + 1, 3 * SIZE - TAG, 3 * SIZE - TAG - 1, 44 * SIZE - TAG])
def test_segments_in_any_order_make_the_record(length: int) -> None:
    ends = Ends()
    for seed in range(5):
        record = ends.seal(length)
        segments = record.segments
        segments += segments[: len(segments) // 2] if len(segments) > 1 else []
        random.Random(seed).shuffle(segments)
        opened = [item for item in (ends.receiver.on_segment(segment, 1.0) for segment in segments) if item is not None]
        assert opened == [Opened(record.header.number, record.header.count, record.plaintext)]
    assert ends.receiver._partial_bytes == 0
    assert not ends.receiver._partials


def test_a_run_opens_at_once() -> None:
    ends = Ends()
    record = ends.seal(4 * SIZE)
    wire = b"".join(record.datagrams)
    found = parse_run(wire, 0, RECORD_OVERHEAD + SIZE)
    assert found is not None
    header, aad, ciphertext, _ = found
    opened = ends.receiver.on_run(header, aad, ciphertext, 1.0)
    assert opened == Opened(0, record.header.count, record.plaintext)
    ack = ends.receiver.build_ack(1.0)
    assert ack is not None
    assert ack.opened == ((0, 0),)
    assert ack.transmissions == ((0, record.header.count - 1),)


def test_a_run_after_some_of_its_segments_leaves_nothing_behind() -> None:
    ends = Ends()
    record = ends.seal(4 * SIZE)
    ends.receiver.on_segment(record.segments[1], 1.0)
    assert ends.receiver._partial_bytes == SIZE
    assert ends.receiver.on_run(record.header, record.segments[0].aad, record.ciphertext, 1.0) is not None
    assert ends.receiver._partial_bytes == 0
    assert not ends.receiver._partials


@pytest.mark.parametrize("missing", [(), (0,), (3,), (1, 2), (0, 4)])
def test_several_datagrams_at_once_are_as_good_as_one_by_one(missing: tuple[int, ...]) -> None:
    """Records, acknowledgements, what was dropped and what is kept are the same; the missing ones follow."""
    together, alone = Ends(), Ends()
    record = together.seal(5 * SIZE - 7 - TAG)
    assert alone.seal(5 * SIZE - 7 - TAG) == record
    came = [datagram for place, datagram in enumerate(record.datagrams) if place not in missing]
    came.insert(0, record.datagrams[1])  # and one of them twice
    pieces = parse_pieces(b"".join(came), 0, RECORD_OVERHEAD + SIZE)
    assert pieces is not None
    assert pieces.following == len(b"".join(came))
    opened = [together.receiver.on_pieces(pieces, 1.0)]
    expected = [alone.receiver.on_segment(parse_segment(datagram), 1.0) for datagram in came]
    for ends, results in ((together, opened), (alone, expected)):
        late = resend_segment(record.header, record.ciphertext, missing[0] if missing else 0, 9)
        if missing:
            assert results[-1] is None
            assert (ends.receiver._partial_bytes > 0) == (len(missing) < 5)
        results.append(ends.receiver.on_segment(parse_segment(late), 1.0))
        for segment in missing[1:]:
            results.append(ends.receiver.on_segment(record.segments[segment], 1.0))
        assert [one for one in results if one] == [Opened(0, 5, record.plaintext)]
        assert ends.receiver._partial_bytes == 0
    assert together.drops == alone.drops
    assert together.receiver.build_ack(1.0) == alone.receiver.build_ack(1.0)


def test_several_datagrams_at_once_of_a_record_that_cannot_be() -> None:
    for number, reason in ((0, "replayed"), (1 << 40, "implausible_record")):
        ends = Ends()
        for datagram in ends.seal(2 * SIZE).datagrams:
            ends.receiver.on_segment(parse_segment(datagram), 1.0)
        record = ends.seal(4 * SIZE)
        record = record._replace(header=record.header._replace(number=number))
        pieces = parse_pieces(b"".join(record.datagrams[1:]), 0, RECORD_OVERHEAD + SIZE)
        assert pieces is not None
        assert ends.receiver.on_pieces(pieces, 1.0) is None
        assert ends.drops == Counter({reason: 4})
        assert not ends.receiver._partials


def test_segments_sent_again_complete_the_record_the_short_last_one_too() -> None:
    ends = Ends()
    record = ends.seal(2 * SIZE + 3 - TAG)
    first, second, last = record.datagrams
    assert len(last) == RECORD_OVERHEAD + 3
    assert ends.receiver.on_segment(parse_segment(first), 1.0) is None
    again = [resend_segment(record.header, record.ciphertext, segment, 7 + segment) for segment in (1, 2)]
    assert len(again[1]) < len(again[0])
    assert ends.receiver.on_segment(parse_segment(again[1]), 1.0) is None
    opened = ends.receiver.on_segment(parse_segment(again[0]), 1.0)
    assert opened == Opened(0, 3, record.plaintext)
    assert ends.receiver.on_segment(parse_segment(second), 1.0) is None
    assert ends.drops == Counter(replayed=1)
    ack = ends.receiver.build_ack(1.0)
    assert ack is not None
    assert ack.transmissions == ((8, 9), (0, 1))  # what never came is not named, though the record was opened


def test_a_segment_that_came_twice_counts_once() -> None:
    ends = Ends()
    record = ends.seal(2 * SIZE)
    segment = record.segments[0]
    for _ in range(3):
        assert ends.receiver.on_segment(segment, 1.0) is None
    assert ends.drops == Counter(duplicate_segment=2)
    assert ends.receiver._partial_bytes == SIZE


# --- replay and numbers far away


@pytest.mark.parametrize("length", [10, 3 * SIZE])
def test_no_record_opens_twice(length: int) -> None:
    ends = Ends()
    record = ends.seal(length)
    ends.open(record)
    for _ in range(2):
        assert ends.receive(record) is None
    assert ends.drops["replayed"] == 2 * record.header.count
    assert not ends.receiver._partials


def test_records_older_than_the_window_are_refused() -> None:
    ends = Ends()
    old = [ends.seal() for _ in range(3)]
    newest = ends.seal(number=WINDOW)
    ends.open(newest)
    assert ends.receive(old[0]) is None
    ends.open(old[1])
    ends.open(old[2])


def test_a_jump_of_the_record_number_costs_nothing() -> None:
    """Attack 14: no loop over the gap, a bounded answer."""

    def scene() -> float:
        ends = Ends()
        ends.open(ends.seal())
        seconds = cpu_seconds(lambda: ends.open(ends.seal(number=1 << 61, transmission=1 << 61)))
        ack = ends.receiver.build_ack(0.0)
        assert ack is not None
        assert ack.opened == ((1 << 61, 1 << 61), (0, 0))
        assert len(serialise(ack)) < 100
        return seconds

    assert_cheap(scene, 0.1)


def test_forged_numbers_are_believed_within_reason_only() -> None:
    """Attack 74: hints far from what is proven are dropped; nothing grows."""
    ends = Ends()
    ends.open(ends.seal())
    for number in (FAR_AHEAD + 1, 1 << 61):
        for segment in ends.forged(number):
            assert ends.receiver.on_segment(segment, 1.0) is None
    assert ends.drops["implausible_record"] == 4
    ends.receiver.on_segment(ends.forged(1, transmission=FAR_AHEAD + 1)[0], 1.0)
    assert ends.drops["implausible_transmission"] == 1
    rng = random.Random(1)
    for _ in range(5000):
        ends.receiver.on_segment(ends.forged(1, transmission=rng.randrange(FAR_AHEAD))[0], 1.0)
    assert ends.receiver.ranges <= 512
    assert ends.receiver.largest == 0
    ack = ends.receiver.build_ack(1.0)
    assert ack is not None
    assert len(ack.transmissions) <= MAX_RANGES


def test_an_unknown_epoch_opens_nothing() -> None:
    ends = Ends()
    record = ends.seal(2 * SIZE)
    header = record.header._replace(epoch=1)
    for segment in Record(header, record.ciphertext, b"").segments:
        assert ends.receiver.on_segment(segment, 1.0) is None
    single = ends.seal()
    other = Record(single.header._replace(epoch=1), single.ciphertext, b"")
    assert ends.receiver.on_segment(other.segments[0], 1.0) is None
    assert ends.drops == Counter(implausible_record=record.header.count, unknown_epoch=1)
    ends.open(single)


# --- forgeries


def test_a_forged_variant_does_not_spoil_the_honest_record() -> None:
    """Attack 73: another count or size is another place."""
    ends = Ends()
    record = ends.seal(3 * SIZE)
    header = record.header
    for changed in (header._replace(count=2), header._replace(size=SIZE - 1), header._replace(first=header.first + 9)):
        for segment in Record(changed, bytes(changed.count * changed.size), b"").segments:
            assert ends.receiver.on_segment(segment, 1.0) is None
    ends.open(record)


def test_a_forged_segment_has_the_record_discarded_and_named_so_three_times() -> None:
    """Attack 73: its information is wanted anew."""
    ends = Ends()
    ends.open(ends.seal())
    record = ends.seal(2 * SIZE - TAG)
    true, other = record.segments
    assert ends.receiver.on_segment(true._replace(payload=bytes(SIZE)), 1.0) is None
    assert ends.receiver.on_segment(true, 1.0) is None
    assert ends.receiver.on_segment(other, 1.0) is None
    assert ends.drops == Counter(duplicate_segment=1, bad_tag=1)
    named = []
    for _ in range(5):
        ack = ends.receiver.build_ack(1.0)
        assert ack is not None
        named.append(ack.discarded)
    assert named == [((1, 1),)] * 3 + [()] * 2
    ends.open(record)  # sent again after all, it opens: the number was never used up
    ack = ends.receiver.build_ack(1.0)
    assert ack is not None
    assert ack.opened == ((0, 1),)


def test_a_record_that_opens_after_all_is_not_called_discarded() -> None:
    ends = Ends()
    record = ends.seal(2 * SIZE - TAG)
    header, ciphertext = record.header, record.ciphertext
    assert ends.receiver.on_run(header, header.pack(), bytes(len(ciphertext)), 1.0) is None
    ends.open(record)
    ack = ends.receiver.build_ack(1.0)
    assert ack is not None
    assert ack.discarded == ()


def test_forged_single_datagrams_leave_no_trace() -> None:
    ends = Ends()
    ends.open(ends.seal())
    single = ends.seal()
    forged = Record(single.header, bytes(len(single.ciphertext)), b"").segments[0]
    for _ in range(10):
        assert ends.receiver.on_segment(forged, 1.0) is None
    assert ends.drops == Counter(bad_tag=10)
    ack = ends.receiver.build_ack(1.0)
    assert ack is not None
    assert ack.discarded == ()
    assert ends.receiver.wants_single(1.0) is None


def test_first_segments_of_endlessly_many_records() -> None:
    """Attack 17: the number of incomplete records is bounded, and making room costs little."""

    def scene() -> float:
        ends = Ends()
        ends.open(ends.seal())
        segments = [ends.forged(number)[0] for number in range(1, MAX_PARTIAL_RECORDS + 6000)]
        seconds = cpu_seconds(lambda: [ends.receiver.on_segment(segment, 1.0) for segment in segments])
        assert len(ends.receiver._partials) == MAX_PARTIAL_RECORDS
        assert ends.receiver._partial_bytes == MAX_PARTIAL_RECORDS * SIZE
        assert ends.drops["reassembly_full"] == len(segments) - MAX_PARTIAL_RECORDS
        assert len(ends.receiver._discarded) <= MAX_RANGES
        ack = ends.receiver.build_ack(1.0)
        assert ack is not None
        assert len(serialise(ack)) < 900
        return seconds

    assert_cheap(scene, 0.5)


def test_incomplete_records_are_bounded_in_bytes() -> None:
    """Attack 17."""
    ends = Ends(memory=10 * SIZE)
    for number in range(40):
        ends.receiver.on_segment(ends.forged(number)[0], 1.0)
        assert ends.receiver._partial_bytes <= 10 * SIZE
    assert len(ends.receiver._partials) == 10
    assert ends.receiver._partial_bytes == sum(partial.size for partial in ends.receiver._partials.values())


def test_junk_never_evicts_what_is_nearly_complete() -> None:
    ends = Ends(memory=40 * SIZE)
    record = ends.seal(30 * SIZE - TAG)
    for segment in record.segments[:-1]:
        ends.receiver.on_segment(segment, 1.0)
    for number in range(1000, 3000):
        ends.receiver.on_segment(ends.forged(number)[0], 1.0)
    opened = ends.receiver.on_segment(record.segments[-1], 1.0)
    assert opened is not None
    assert opened.plaintext == record.plaintext


def test_a_record_larger_than_the_memory_is_given_up_in_peace() -> None:
    ends = Ends(memory=2 * SIZE)
    for segment in ends.seal(5 * SIZE).segments:
        assert ends.receiver.on_segment(segment, 1.0) is None
    assert ends.receiver._partial_bytes <= 2 * SIZE
    ends.open(ends.seal())


# --- asking for single datagrams


def spoil(ends: Ends, now: float, times: int = 1) -> None:
    for _ in range(times):
        for segment in ends.forged(ends.number, transmission=ends.transmission):
            ends.receiver.on_segment(segment, now)
        ends.number += 1


def test_a_few_forgeries_ask_for_single_datagrams() -> None:
    """Attack 73: 1 s at first, doubling up to 60 s while it goes on."""
    ends = Ends()
    now = 1000.0
    spoil(ends, now, FORGERIES_TOLERATED - 1)
    assert ends.receiver.wants_single(now) is None
    wanted = SINGLE_ONLY_FIRST
    for _ in range(8):
        spoil(ends, now, FORGERIES_TOLERATED)
        assert ends.receiver.wants_single(now) == int(wanted * 1000)
        assert ends.receiver.wants_single(now) is None
        now += wanted + 0.01
        wanted = min(SINGLE_ONLY_LAST, 2 * wanted)
    assert wanted == SINGLE_ONLY_LAST


@pytest.mark.parametrize("start", [0.0, 1.5, 10.0])
def test_the_first_time_is_the_shortest_whenever_the_clock_began(start: float) -> None:
    ends = Ends()
    spoil(ends, start, FORGERIES_TOLERATED)
    assert ends.receiver.wants_single(start) == int(SINGLE_ONLY_FIRST * 1000)


def test_rare_forgeries_ask_for_nothing() -> None:
    ends = Ends()
    for step in range(20):
        now = 1000.0 + step * FORGERY_SPAN
        spoil(ends, now, FORGERIES_TOLERATED - 2)
        assert ends.receiver.wants_single(now) is None
    assert len(ends.receiver._failures) <= FORGERIES_TOLERATED + 1


def test_after_a_quiet_time_it_begins_small_again() -> None:
    ends = Ends()
    now = 1000.0
    for _ in range(4):
        spoil(ends, now, FORGERIES_TOLERATED)
        assert ends.receiver.wants_single(now) is not None
        now += 10.0
    now += 100.0
    spoil(ends, now, FORGERIES_TOLERATED)
    assert ends.receiver.wants_single(now) == int(SINGLE_ONLY_FIRST * 1000)


# --- acknowledgements


def test_no_ack_before_anything_came() -> None:
    assert Ends().receiver.build_ack(1.0) is None


def test_an_ack_names_the_newest_first_and_how_long_ago_it_came() -> None:
    ends = Ends()
    records = [ends.seal() for _ in range(10)]
    for number in (0, 1, 4, 5, 9, 7):
        ends.open(records[number], now=float(number))
    ack = ends.receiver.build_ack(9.25)
    assert ack is not None
    assert ack.opened == ack.transmissions == ((9, 9), (7, 7), (4, 5), (0, 1))
    assert ack.delay_us == 250_000  # since record 9, not since the late record 7


def test_an_acknowledged_ack_trims_the_next() -> None:
    ends = Ends()
    records = [ends.seal() for _ in range(9)]
    for number in (0, 2, 4):
        ends.open(records[number])
    mark = ends.receiver.mark()
    assert mark == (4, 4)
    ends.open(records[6])
    ends.receiver.on_ack_acked(mark)
    ack = ends.receiver.build_ack(0.0)
    assert ack is not None
    assert ack.opened == ack.transmissions == ((6, 6), (4, 4))
    ends.open(records[1])  # late, but it has never been named
    ends.receiver.on_ack_acked(mark)  # the same news once more, too late for it
    ack = ends.receiver.build_ack(0.0)
    assert ack is not None
    assert ack.opened[0] == (6, 6)
    assert ends.receive(records[0]) is None  # trimmed is not forgotten


def test_a_record_repaired_late_is_named_although_many_gaps_came_since() -> None:
    """Else all of it is sent again: on a long fast path with loss an RTT has more gaps than an ack names."""
    ends = Ends()
    late = [ends.seal(number=number) for number in (3, 4, 7)]
    for number in range(10, 10 + 4 * MAX_RANGES, 2):
        ends.open(ends.seal(number=number, transmission=number))
    ends.receiver.build_ack(0.0)
    for record in late:
        ends.open(record)
    for _ in range(3):  # acks are lost too
        ack = ends.receiver.build_ack(0.0)
        assert ack is not None
        assert ack.opened[0][1] == 8 + 4 * MAX_RANGES
        assert ack.opened[-2:] == ((7, 7), (3, 4))
        assert len(ack.opened) == MAX_RANGES
        assert parse_frames(serialise(ack)) == [ack]
    ack = ends.receiver.build_ack(0.0)
    assert ack is not None
    assert ack.opened[-1][0] > 7


def test_more_records_repaired_late_than_an_ack_names_leave_room_for_the_newest() -> None:
    ends = Ends()
    late = [ends.seal(number=number) for number in range(1, 4 * MAX_RANGES, 2)]
    newest = [ends.seal(number=number) for number in range(8 * MAX_RANGES, 12 * MAX_RANGES, 2)]
    for record in (*newest, *late):
        ends.open(record)
    named: set[tuple[int, int]] = set()
    for _ in range(20):
        ack = ends.receiver.build_ack(0.0)
        assert ack is not None
        assert len(ack.opened) == MAX_RANGES
        assert ack.opened[0] == (12 * MAX_RANGES - 2, 12 * MAX_RANGES - 2)
        named.update(ack.opened)
    assert {(record.header.number, record.header.number) for record in late} <= named


def test_a_peer_that_leaves_gaps_and_acknowledges_nothing_is_remembered_within_bounds() -> None:
    """Attack 13, from the other side: every second record number, for ever."""
    ends = Ends()
    for number in range(0, 4000, 2):
        ends.open(ends.seal(number=number, transmission=number))
    assert ends.receiver.ranges <= 1024
    ack = ends.receiver.build_ack(0.0)
    assert ack is not None
    assert len(ack.opened) == len(ack.transmissions) == MAX_RANGES
    assert ack.opened[0] == (3998, 3998)
    assert len(serialise(ack)) < 900
