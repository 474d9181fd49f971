"""Which datagrams arrived, which are lost, and when to try again (RFC 9002 in spirit).

Loss is found by *transmission numbers*: every datagram sent has one, also when a segment is sent again. Success is
decided by *record numbers* alone: what the peer has opened. Acknowledged transmission numbers of records not yet
opened are hints that a stranger may have forged; they steer what is sent again, never what counts as delivered.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from itertools import islice
from math import inf
from typing import Final

from ..config import MIN_MTU
from ..exceptions import RemoteProtocolError
from ..models import Address
from ..wire.frames import Ack, Frame
from ..wire.packet import RecordHeader
from .controller import AckSample, Controller
from .mtu import MtuDiscovery
from .pacer import Pacer
from .rangeset import RangeSet
from .sending import Chunk
from .unreliable import OutgoingUnreliable

Segments = tuple[int, ...] | range
ONE: Final = range(1)
"""The segments of a record of one datagram."""

_tuple = tuple.__new__  # half the cost of calling a NamedTuple's class

GRANULARITY: Final = 0.001
"""Seconds; RFC 9002 section 6.1.2, kGranularity."""
PACKET_THRESHOLD: Final = 3
"""RFC 9002 section 6.1.1; grows when reordering is seen."""
MAX_PACKET_THRESHOLD: Final = 64
"""Where datagrams overtake more than this many others, counting them says nothing and time alone decides (RFC 8985)."""
BY_TIME: Final = 1 << 62
MAX_REORDER: Final = 0.5
"""Seconds granted to reordering at most: what is really lost is found later by so much."""
LATE_MEMORY: Final = 0.2
"""Seconds for which what was declared lost is remembered on shorter paths too: radios hold some back so long."""
REORDER_MEMORY: Final = 10.0
"""Seconds without reordering after which half of what was granted to it is taken back."""
SCATTER_SAMPLES: Final = 16
"""RTTs over which their scatter is averaged."""
INITIAL_RTT: Final = 0.25
"""Assumed before a sample. RFC 9002 says 0.333; the handshake just crossed the path."""
MIN_PROBE_TIMEOUT: Final = 0.010
"""A peer whose interpreter is busy answers some milliseconds late; that is no loss."""
MAX_BACKOFF: Final = 6
"""The probe timeout doubles at most this often."""
MAX_PROBE_INTERVAL: Final = 1.0
"""Seconds between probes at most, unless the path is longer: one that works again after an outage is noticed soon."""
STALE_RECORDS: Final = 32_768
"""A record this far behind the newest is given up and its information sent anew (half the replay window)."""
MIN_RATE_INTERVAL: Final = 1e-6
"""Seconds; a delivery rate measured over less means nothing."""
LOSS_MEMORY: Final = 131_072
"""Bytes over which the share of lost datagrams is averaged."""
SKIP_WITHIN: Final = 64
"""One of every so many record numbers is left out."""
REMEMBERED_SKIPS: Final = 1024
"""Numbers left out that are remembered: more than a replay window has."""


class RttEstimator:
    """Round-trip time of a path, in seconds (RFC 9002 section 5)."""

    __slots__ = ("latest", "minimum", "minimum_at", "smoothed", "variation")

    def __init__(self) -> None:
        self.latest: float | None = None
        self.smoothed = INITIAL_RTT
        self.variation = INITIAL_RTT / 2
        self.minimum = INITIAL_RTT
        self.minimum_at = 0.0

    def update(self, sample: float, ack_delay: float, now: float) -> None:
        """Take in a sample measured between sending a record and reading its ack."""
        if self.latest is None:
            self.latest = self.minimum = self.smoothed = sample
            self.variation = sample / 2
            self.minimum_at = now
            return
        self.latest = sample
        if sample <= self.minimum or now - self.minimum_at > 30.0:
            # A path may become longer for good: an old minimum is believed for half a minute.
            self.minimum = sample
            self.minimum_at = now
        adjusted = sample - ack_delay if sample - ack_delay >= self.minimum else sample
        self.variation += (abs(self.smoothed - adjusted) - self.variation) / 4
        self.smoothed += (adjusted - self.smoothed) / 8

    def probe_timeout(self, max_ack_delay: float) -> float:
        """RFC 9002 section 6.2.1, with a floor."""
        scatter = 4 * self.variation
        timeout = self.smoothed + (scatter if scatter > GRANULARITY else GRANULARITY) + max_ack_delay
        return timeout if timeout > MIN_PROBE_TIMEOUT else MIN_PROBE_TIMEOUT


class Path:
    """A proven way to a peer: its address, RTT, datagram size and congestion state."""

    __slots__ = ("address", "controller", "discovery", "pacer", "rtt")

    def __init__(self, address: Address, discovery: MtuDiscovery, controller: Controller, pacer: Pacer) -> None:
        self.address = address
        self.discovery = discovery
        self.controller = controller
        self.pacer = pacer
        self.rtt = RttEstimator()

    @property
    def mtu(self) -> int:
        """Bytes of UDP payload one datagram may have."""
        return self.discovery.mtu


Sealed = tuple[
    RecordHeader, bytes | None, list[Chunk], list[Frame], list[OutgoingUnreliable], tuple[int, int] | None, float
]
"""What a :class:`SentRecord` is made of."""


class SentRecord:
    """A record in flight and the information it carries.

    Its flights refer to it and it to them for as long as it is under way. Then it lets go of them: a cycle would keep
    what it carried, messages of any size, until the garbage collector comes by.
    """

    __slots__ = (
        "ack_mark",
        "chunks",
        "ciphertext",
        "controls",
        "flights",
        "header",
        "hinted_at",
        "probe",
        "resent",
        "sent_at",
        "unreliable",
        "waiting",
    )

    def __init__(
        self,
        header: RecordHeader,
        ciphertext: bytes | None,
        chunks: list[Chunk],
        controls: list[Frame],
        unreliable: list[OutgoingUnreliable],
        ack_mark: tuple[int, int] | None,
        now: float,
    ) -> None:
        self.header = header
        self.ciphertext = ciphertext  # kept for records of several datagrams only
        self.chunks = chunks
        self.controls = controls
        self.unreliable = unreliable
        self.ack_mark = ack_mark
        self.sent_at = now
        self.probe = 0  # bytes of the datagram, if it probes the path MTU
        self.resent = False
        self.flights: list[Flight] = []
        self.hinted_at: float | None = None  # when the last segment was hinted received
        self.waiting = (1 << header.count) - 1  # bit n: segment n is not hinted received


class Flight:
    """Datagrams with consecutive transmission numbers that left together."""

    __slots__ = (
        "app_limited",
        "count",
        "delivered",
        "delivered_at",
        "first",
        "lost",
        "pending",
        "record",
        "segments",
        "sent_at",
        "size",
        "started_at",
    )

    def __init__(self, first: int, record: SentRecord, segments: Segments, size: int, now: float) -> None:
        self.first = first
        self.count = count = len(segments)
        self.record = record
        self.segments = segments
        self.size = size  # bytes of one datagram
        self.sent_at = now
        self.pending = (1 << count) - 1  # bit n: datagram first+n is neither acknowledged nor lost
        self.lost = 0
        # What the estimator had seen when it left, set by who sends it.
        self.delivered: int
        self.delivered_at: float
        self.started_at: float
        self.app_limited: bool

    def segments_of(self, mask: int) -> int:
        """The segments that the datagrams in ``mask`` carry, as a mask too."""
        if type(self.segments) is range:
            return mask << self.segments.start
        return sum(1 << segment for bit, segment in enumerate(self.segments) if mask >> bit & 1)


class AckOutcome:
    """What an ack changed."""

    __slots__ = ("again", "lost_segments", "opened")

    def __init__(self) -> None:
        self.opened: list[SentRecord] = []
        self.again: list[SentRecord] = []
        """Records given up: their information goes into new ones."""
        self.lost_segments: list[tuple[SentRecord, int]] = []
        """Segments to be sent again as stored."""


class Skips:
    """Record numbers left out on purpose: who names one as opened acknowledges what it did not receive.

    Such a receiver would have us send faster than the path carries, or to where nobody listens (RFC 9000 section 21.4).
    An honest one opens no record of that number, so it cannot name it.

    Args:
        random: what nobody can foresee; None leaves out nothing.
    """

    __slots__ = ("_left", "_numbers", "_random")

    def __init__(self, random: Callable[[int], bytes] | None) -> None:
        self._random = random
        self._numbers: list[int] = []
        self._left = 0 if random is None else self._draw(random)

    def due(self) -> bool:
        """Count one record; True if the number after it is to be left out."""
        if self._random is None:
            return False
        self._left -= 1
        if self._left > 0:
            return False
        self._left = self._draw(self._random)
        return True

    def after_record(self, datagrams: int, skip: Callable[[int], int]) -> None:
        """A record was sealed: leave out the next one now and then, by ``skip``, which returns its number.

        With as many transmission numbers as this one had, so that it looks like one lost on its way.
        """
        if self._left > 1:  # saves a call for nearly every record
            self._left -= 1
        elif self.due():
            self.add(skip(datagrams))

    def add(self, number: int) -> None:
        """The number was left out; larger than every one before."""
        self._numbers.append(number)
        if len(self._numbers) > REMEMBERED_SKIPS:
            del self._numbers[: REMEMBERED_SKIPS // 2]

    def among(self, first: int, last: int) -> bool:
        """True if a number from ``first`` to ``last`` was left out."""
        position = bisect_left(self._numbers, first)
        return position < len(self._numbers) and self._numbers[position] <= last

    @staticmethod
    def _draw(random: Callable[[int], bytes]) -> int:
        return 1 + random(1)[0] % SKIP_WITHIN


class Recovery:
    """The sent records of one session."""

    # More than 30 attributes: without slots CPython 3.11 keeps them in a dictionary and searches it for each use.
    __slots__ = (
        "_ack_at", "_app_limited_until", "_delivered", "_delivered_at", "_first_sent_at", "_firsts", "_flights",
        "_heard_after", "_hinted", "_hinted_records", "_largest_hinted", "_largest_sent_at", "_last_eliciting",
        "_last_sample", "_loss_time", "_opened", "_reorder", "_reordered_at", "_samples", "_scatter", "_threshold",
        "datagrams_lost", "datagrams_sent", "in_flight", "loss", "mtu_changed", "path", "peer_ack_delay", "probes",
        "records", "skips",
    )  # fmt: skip

    def __init__(self, path: Path, now: float, random: Callable[[int], bytes] | None = None) -> None:
        self.path = path
        self.skips = Skips(random)
        self.peer_ack_delay = 0.025  # until the peer tells
        self.records: dict[int, SentRecord] = {}  # eliciting and not yet known to be opened, by number
        self.in_flight = 0
        self.probes = 0  # probe timeouts since the last progress
        self._heard_after = 0  # so many of them
        self.datagrams_sent = 0
        self.datagrams_lost = 0
        self._flights: list[Flight] = []
        self._firsts: list[int] = []
        self._opened = RangeSet(max_ranges=512)
        self._hinted = RangeSet(max_ranges=512)
        self._largest_hinted = -1
        self._largest_sent_at = 0.0
        self._threshold = PACKET_THRESHOLD
        self._reorder = 0.0  # seconds granted to reordering, learnt from what came after it was declared lost
        self._reordered_at = now
        self._samples = 0
        self._last_sample = self._scatter = 0.0
        self._last_eliciting = now
        self._loss_time: float | None = None
        self._hinted_records: dict[int, SentRecord] = {}  # wholly hinted, not opened
        # Delivery rate estimation (draft-cheng-iccrg-delivery-rate-estimation).
        self._delivered = 0
        self._delivered_at = now
        self._ack_at = now
        self._first_sent_at = now
        self._app_limited_until = 0
        self.mtu_changed = False
        """Set when the path MTU grew or shrank; the owner reports and clears it."""
        self.loss = 0.0
        """Share of bytes lost lately, 0 to 1."""

    # --- sending

    def on_sent(self, record: SentRecord, first: int, segments: Segments, size: int, total: int, now: float) -> None:
        """Datagrams of a record left: the first flight, or some of its segments again.

        Args:
            first: transmission number of the first of them.
            size: bytes of the largest datagram.
            total: bytes of all of them.
        """
        in_flight = self.in_flight
        if not in_flight:
            self._first_sent_at = self._delivered_at = now
        flight = Flight(first, record, segments, size, now)
        flight.delivered = delivered = self._delivered
        flight.delivered_at = self._delivered_at
        flight.started_at = self._first_sent_at
        flight.app_limited = app_limited = 0 < self._app_limited_until >= delivered
        record.flights.append(flight)
        self._flights.append(flight)
        self._firsts.append(first)
        count = flight.count
        self.in_flight = in_flight = in_flight + count * size
        self.datagrams_sent += count
        self._last_eliciting = now
        path = self.path
        path.controller.on_sent(now, total, in_flight, app_limited)
        path.pacer.on_sent(now, total)

    def note_app_limited(self) -> None:
        """There was window but nothing to send: rate samples until now's data is delivered tell nothing."""
        self._app_limited_until = self._delivered + self.in_flight or 1

    # --- acknowledgements

    def on_ack(self, ack: Ack, next_number: int, next_transmission: int, now: float) -> AckOutcome:
        """Process an ack.

        Raises:
            RemoteProtocolError: it names a record that was never sent.
        """
        outcome = AckOutcome()
        # What the peer held the ack back for is no property of the path: rates are measured by when it read the data.
        delay_us, opened, transmissions, discarded_ranges = ack
        delay = delay_us / 1e6
        if delay > self.peer_ack_delay:
            delay = self.peer_ack_delay
        if now - delay > self._ack_at:
            self._ack_at = now - delay
        newest: Flight | None = None
        progress = False
        delivered_before = self._delivered
        largest_new = opened[0][1] if opened else -1
        if largest_new >= next_number:
            raise RemoteProtocolError("acknowledged a record that was never sent")
        rtt_record: SentRecord | None = None
        largest_before = self._opened.last or 0
        for first, last in opened:
            for gap_first, gap_last in self._opened.missing(first, last):
                if self.skips.among(gap_first, gap_last):
                    raise RemoteProtocolError("acknowledged a record that was never sent")
                self._opened.add(gap_first, gap_last)
                for record in self._take(gap_first, gap_last):
                    outcome.opened.append(record)
                    flight = self._arrived(record)
                    if flight is not None and (newest is None or flight.sent_at >= newest.sent_at):
                        newest = flight
                    if not record.resent:
                        if record.header.number < largest_before:
                            self._on_overtaken(now - record.sent_at, now)
                        elif rtt_record is None or record.header.number > rtt_record.header.number:
                            rtt_record = record
        for first, last in transmissions:
            if first >= next_transmission:
                continue  # a hint that cannot be true is no error: a stranger may have forged it
            if last >= next_transmission:
                last = next_transmission - 1
            for gap_first, gap_last in self._hinted.missing(first, last):
                self._hinted.add(gap_first, gap_last)
                progress = self._hint(gap_first, gap_last, now) or progress
        for first, last in discarded_ranges:
            # Who forges segments decides which numbers the peer discards: those never sent mean nothing.
            last = min(last, next_number - 1)
            for number in range(max(first, last - 1024), last + 1):
                discarded = self.records.pop(number, None)
                if discarded is not None:
                    self._retire(discarded)
                    outcome.again.append(discarded)
        rtt = self.path.rtt
        sampled = None
        if rtt_record is not None and rtt_record.header.number == largest_new:
            sampled = max(now - rtt_record.sent_at, GRANULARITY / 100)
            rtt.update(sampled, delay, now)
            self._note_scatter(sampled)
        lost, newest_lost_sent = self._detect_lost(now, outcome)
        rate, app_limited = None, False
        if newest is not None or progress:
            self.probes = 0
        if newest is not None:
            elapsed = self._ack_at - newest.delivered_at
            if newest.sent_at - newest.started_at > elapsed:
                elapsed = newest.sent_at - newest.started_at
            if elapsed > MIN_RATE_INTERVAL and self._delivered > newest.delivered:
                rate = (self._delivered - newest.delivered) / elapsed
                app_limited = newest.app_limited
            self._first_sent_at = newest.sent_at
        acked = self._delivered - delivered_before
        if acked or lost:
            self._note_loss(acked, lost)
            delivered = self._delivered
            at_send = newest.delivered if newest is not None else 0
            smoothed = rtt.smoothed if rtt.latest is not None else None
            what = (acked, lost, newest_lost_sent, self.in_flight, delivered, at_send)
            how = (sampled, smoothed, rate, app_limited, self._scatter)
            self.path.controller.on_ack(now, _tuple(AckSample, what + how))
        return outcome

    @property
    def scatter(self) -> float:
        """The mean difference of successive RTTs, seconds; ``inf`` before there are enough of them."""
        return self._scatter if self._samples >= SCATTER_SAMPLES else inf

    def _note_scatter(self, sample: float) -> None:
        """The mean difference of successive RTTs (RFC 3550 section 6.4.1): scatter counts, a growing queue hardly."""
        samples = self._samples
        if samples:
            self._scatter += (abs(sample - self._last_sample) - self._scatter) / samples
        if samples < SCATTER_SAMPLES:
            self._samples = samples + 1
        self._last_sample = sample

    def _note_loss(self, acked: int, lost: int) -> None:
        if not lost and not self.loss:
            return
        share = lost / (lost + acked)
        self.loss += (share - self.loss) * min(1.0, (lost + acked) / LOSS_MEMORY)

    def _take(self, first: int, last: int) -> list[SentRecord]:
        records = self.records
        if last - first < len(records):
            return [records.pop(number) for number in range(first, last + 1) if number in records]
        return [records.pop(number) for number in [number for number in records if first <= number <= last]]

    def _arrived(self, record: SentRecord) -> Flight | None:
        """Every datagram of the record is accounted for. Returns the newest flight that was still pending."""
        newest = None
        first, size = record.flights[0], record.flights[0].size
        for flight in record.flights:
            if flight.pending:
                self.in_flight -= flight.pending.bit_count() * flight.size
                flight.pending = 0
                newest = flight
        self._delivered += first.count * size
        if record.probe:
            self.mtu_changed = self.path.discovery.on_probe_acked(record.probe) or self.mtu_changed
        else:
            self.path.discovery.on_acked(size, record.sent_at)
        if not record.resent:
            # Rate samples come from opened records alone, whatever was hinted before.
            if newest is None:
                newest = first
            last = first.first + first.count - 1
            if last > self._largest_hinted:
                self._largest_hinted = last
                self._largest_sent_at = first.sent_at
        if newest is not None:
            self._delivered_at = self._ack_at
        if self._hinted_records:
            self._hinted_records.pop(record.header.number, None)
        record.flights = []
        return newest

    def _hint(self, first: int, last: int, now: float) -> bool:
        """Transmission numbers the peer says it received, of records it may not have opened. True if that was news."""
        progress = False
        position = bisect_right(self._firsts, first) - 1
        if position < 0:
            position = 0
        while position < len(self._flights):
            flight = self._flights[position]
            position += 1
            if flight.first > last:
                break
            if not (flight.pending or flight.lost):
                continue  # nothing to learn of it: mostly its record was opened
            low, high = (
                max(first, flight.first) - flight.first,
                min(last, flight.first + flight.count - 1) - flight.first,
            )
            if high < low:
                continue
            mask = ((1 << (high - low + 1)) - 1) << low
            late = flight.lost & mask
            if late:
                self._on_late(flight, self._largest_hinted - (flight.first + low), late.bit_count() * flight.size, now)
                flight.lost &= ~late
            got = flight.pending & mask
            record = flight.record
            if (late or got) and record.waiting:
                record.waiting &= ~flight.segments_of(late | got)
                if not record.waiting and record.header.number in self.records:
                    record.hinted_at = now
                    self._hinted_records[record.header.number] = record
            if got:
                flight.pending &= ~got
                self.in_flight -= got.bit_count() * flight.size
                if flight.first + high > self._largest_hinted:
                    self._largest_hinted = flight.first + high
                    self._largest_sent_at = flight.sent_at
                progress = True
        return progress

    def _on_overtaken(self, sample: float, now: float) -> None:
        """A record was opened after later ones: be so patient that the like of it is not taken for lost.

        RFC 9002 section 6.1.2 lets the time threshold adapt; as in RFC 8985 section 6.2 (RACK) it does so by what is
        seen. Being no RTT sample (section 5.1), it shows how far RTTs scatter all the same.
        """
        rtt = self.path.rtt
        self._reorder = min(max(self._reorder, sample - max(rtt.smoothed, rtt.latest or 0.0)), MAX_REORDER)
        self._reordered_at = now
        self._note_scatter(sample)

    def _on_late(self, flight: Flight, distance: int, size: int, now: float) -> None:
        """What was declared lost was only late.

        RFC 9002 section 6.1.1 lets the packet threshold adapt. Where overtaking is common it gives way to the clock.
        """
        if distance + 1 > self._threshold:
            self._threshold = distance + 1 if distance < MAX_PACKET_THRESHOLD else BY_TIME
        self._reordered_at = now
        if flight.record.header.number in self._opened:  # else it is but said to have come
            self._on_overtaken(now - flight.sent_at, now)
            self.path.controller.on_late(size, flight.sent_at)

    def _calm(self, now: float) -> None:
        """Nothing overtook anything for a while."""
        self._reordered_at = now
        self._reorder /= 2
        if self._reorder < self.path.rtt.smoothed / 8:
            self._reorder = 0.0
            self._threshold = PACKET_THRESHOLD

    def _retire(self, record: SentRecord) -> None:
        if record.probe:
            self.path.discovery.on_probe_gone()
        for flight in record.flights:
            if flight.pending:
                self.in_flight -= flight.pending.bit_count() * flight.size
                flight.pending = 0
        record.flights = []
        self._hinted_records.pop(record.header.number, None)

    def _detect_lost(self, now: float, outcome: AckOutcome) -> tuple[int, float]:
        """RFC 9002 section 6.1 over flights. Returns the bytes newly lost and when the newest of them was sent."""
        self._loss_time = None
        largest = self._largest_hinted
        if largest < 0:
            return 0, -inf
        rtt = self.path.rtt
        if (self._reorder or self._threshold > PACKET_THRESHOLD) and now - self._reordered_at > REORDER_MEMORY:
            self._calm(now)
        seen = bisect_right(self._firsts, largest)
        doubtful = [flight for flight in self._flights[:seen] if flight.pending or flight.lost]
        if not doubtful:  # nothing is missing: mostly so
            del self._flights[:seen], self._firsts[:seen]
            return 0, -inf
        delay = max(rtt.smoothed, rtt.latest or 0.0)
        delay = max(delay + max(delay / 8, self._reorder), GRANULARITY)
        lost_bytes = 0
        newest_lost_sent = -inf
        alive: list[Flight] = []
        forgotten = now - max(3 * delay, min(10 * delay, LATE_MEMORY))
        for flight in doubtful:
            if flight.pending:
                eligible = flight.pending
                beyond = largest - flight.first + 1
                if beyond < flight.count:
                    eligible &= (1 << beyond) - 1
                lost = 0
                if flight.sent_at + delay <= now and flight.sent_at <= self._largest_sent_at:
                    lost = eligible
                else:
                    by_count = beyond - self._threshold
                    if by_count >= flight.count:
                        lost = eligible
                    elif by_count > 0:
                        lost = eligible & ((1 << by_count) - 1)
                    if eligible & ~lost:
                        when = flight.sent_at + delay
                        if self._loss_time is None or when < self._loss_time:
                            self._loss_time = when
                if lost:
                    lost_bytes += self._lose(flight, lost, outcome, now)
                    newest_lost_sent = max(newest_lost_sent, flight.sent_at)
            # Lost ones stay a while: their late arrival teaches how much reordering there is.
            if flight.pending or (flight.lost and flight.sent_at > forgotten):
                alive.append(flight)
        if len(alive) < seen:
            self._flights[:seen] = alive
            self._firsts[:seen] = [flight.first for flight in alive]
        return lost_bytes, newest_lost_sent

    def _lose(self, flight: Flight, lost: int, outcome: AckOutcome, now: float) -> int:
        count = lost.bit_count()
        flight.pending &= ~lost
        flight.lost |= lost
        size = count * flight.size
        self.in_flight -= size
        record = flight.record
        if record.probe:
            # Too large, most likely; no sign of congestion (RFC 8899 section 3).
            self.path.discovery.on_probe_lost(now)
            self.records.pop(record.header.number, None)
            record.flights = []
            return 0
        self.datagrams_lost += count
        shrank = self.path.discovery.on_lost(flight.size, count, flight.sent_at, now)
        self.mtu_changed = shrank or self.mtu_changed
        number = record.header.number
        if number not in self.records:
            return size
        if record.header.count == 1:
            del self.records[number]
            record.flights = []
            outcome.again.append(record)
        else:
            for bit in range(flight.count):
                if lost >> bit & 1:
                    outcome.lost_segments.append((record, flight.segments[bit]))
        return size

    # --- timers

    def next_timer(self) -> float | None:
        """When :meth:`on_timer` must be called."""
        when = self._loss_time
        if self.in_flight:
            probe = self._last_eliciting + self._probe_interval()
            if when is None or probe < when:
                when = probe
        if self._hinted_records:
            record = next(iter(self._hinted_records.values()))
            assert record.hinted_at is not None
            due = record.hinted_at + self.path.rtt.probe_timeout(self.peer_ack_delay)
            if when is None or due < when:
                when = due
        return when

    def may_wait(self, when: float, now: float) -> bool:
        """Whether no deadline comes before ``when``, as far as can be told without working them out.

        A probe timeout is no nearer than the peer's ack delay. Where an RTT sample made it shorter it may be late by
        that much, once.
        """
        return when <= now + self.peer_ack_delay and self._loss_time is None and not self._hinted_records

    def _probe_interval(self) -> float:
        """RFC 9002 section 6.2.1: the probe timeout with its backoff."""
        timeout = self.path.rtt.probe_timeout(self.peer_ack_delay) + self._reorder
        if not self.probes:
            return timeout
        # Not in step with outages that come regularly: one of the next few falls between them.
        most = MAX_PROBE_INTERVAL * (1 - self.probes % 4 / 16)
        return min(timeout * (1 << min(self.probes, MAX_BACKOFF)), max(timeout, most))

    def on_timer(self, now: float) -> tuple[AckOutcome, bool]:
        """Find what time has proven lost.

        Returns:
            The outcome, and True if a probe should be sent (RFC 9002 section 6.2).
        """
        outcome = AckOutcome()
        lost, newest_lost_sent = 0, -inf
        if self._loss_time is not None and self._loss_time <= now:
            lost, newest_lost_sent = self._detect_lost(now, outcome)
        timeout = self.path.rtt.probe_timeout(self.peer_ack_delay)
        for record in list(self._hinted_records.values()):
            assert record.hinted_at is not None
            if record.hinted_at + timeout > now:
                break
            # All its datagrams are said to have come, yet it was not opened: one of them was forged.
            self.records.pop(record.header.number, None)
            self._retire(record)
            outcome.again.append(record)
        if lost:
            self._note_loss(0, lost)
            self.path.controller.on_lost(now, lost, newest_lost_sent, self.in_flight)
        probe = False
        if self.in_flight and self._last_eliciting + self._probe_interval() <= now:
            self.probes += 1
            self._last_eliciting = now
            probe = True
            if self.probes >= 4:
                # Each time: what was sent during an outage must not be held against the path when it is over.
                self.path.controller.on_persistent_congestion(now)
        return outcome, probe

    def on_heard(self) -> bool:
        """Something came though nothing is acknowledged: True if a probe should leave now, sooner than by its backoff.

        Once for each probe timeout, as the way there may be the one that is broken.
        """
        if self._heard_after == self.probes:
            return False
        self._heard_after = self.probes
        return True

    def move(self, path: Path) -> None:
        """What is in flight left over the old path; acks of it say nothing of the new one's MTU."""
        self.path = path
        self.loss = 0.0
        self.mtu_changed = True
        for record in self.records.values():
            record.probe = 0

    def size_that_arrives(self, acking: bool) -> int:
        """Bytes of a datagram that must arrive: the path's MTU, but the floor where long ones may be vanishing.

        That is so when nothing was heard for two probe timeouts, and for what carries an ack after many losses.
        """
        discovery = self.path.discovery
        doubt = self.probes > 1 or (acking and discovery.in_doubt)
        return MIN_MTU if doubt else discovery.mtu

    def give_up(self, record: SentRecord) -> None:
        """The record is not sent again; its information goes into a new one."""
        self.records.pop(record.header.number, None)
        self._retire(record)

    def stale(self, newest: int) -> list[SentRecord]:
        """Records too far behind the newest number: removed, to be sent anew."""
        given_up: list[SentRecord] = []
        while self.records:
            number = next(iter(self.records))
            if newest - number <= STALE_RECORDS:
                break
            record = self.records.pop(number)
            self._retire(record)
            given_up.append(record)
        return given_up

    def oldest(self, limit: int) -> list[SentRecord]:
        """Up to ``limit`` of the oldest records not opened, for probes."""
        return list(islice(self.records.values(), limit))

    def abandon(self) -> list[SentRecord]:
        """The session ends: everything not known to be opened."""
        records = list(self.records.values())
        for record in records:
            self._retire(record)
        self.records.clear()
        self._flights.clear()
        self._firsts.clear()
        self.in_flight = 0
        return records
