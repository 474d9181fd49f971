"""How much may be under way, and how fast: the default controller. All sizes bytes, times seconds.

:class:`ModelBased`, the default, estimates the path as BBR does, so it fills a path without filling its queue, and
random loss does not slow it. What BBR's first version lacked it adds: a bound, learnt from loss *with* a queue, that
comes back along CUBIC's curve; where queues overflow it gives way as a CUBIC flow does. :class:`~.pacer.Pacer` spreads
what it allows over time; :mod:`.controller` says how it is driven.

Sources: RFC 9002 section 7, RFC 9438, draft-ietf-ccwg-bbr (draining until the path holds what it should), RFC 9406 (the
end of startup), RFC 3550 section 6.4.1 (scatter), draft-cardwell-iccrg-bbr-congestion-control (names and constants),
draft-cheng-iccrg-delivery-rate-estimation (the samples).
"""

from __future__ import annotations

from collections import deque
from math import inf, sqrt
from typing import Literal

from .controller import AckSample, Controller, initial_window
from .cubic import Cubic, CubicCurve

BATCH_SEGMENTS = 44
"""Datagrams in the largest batch (one record, one GSO send)."""

BATCH_BYTES = 65_536
"""Bytes in the largest batch, whatever the datagram size (one GSO send holds no more)."""


def make_controller(name: Literal["bbr", "cubic"], segment_size: int) -> Controller:
    """A controller at the beginning of its life, by its name in ``Config.congestion``.

    Raises:
        ValueError: an unknown name.
    """
    if name == "bbr":
        return ModelBased(segment_size)
    if name == "cubic":
        return Cubic(segment_size)
    raise ValueError(f"no congestion controller is called {name!r}; there are 'bbr' and 'cubic'")


class _MaxFilter:
    """The largest value of the last seconds, and never of fewer than three rounds."""

    __slots__ = ("_entries", "value")

    def __init__(self) -> None:
        self._entries: deque[tuple[int, float, float]] = deque()  # values descending
        self.value = 0.0

    def update(self, round_count: int, now: float, value: float, seconds: float) -> None:
        entries = self._entries
        while entries and entries[-1][2] <= value:
            entries.pop()
        entries.append((round_count, now, value))
        oldest_round, oldest, first = round_count - 3, now - seconds, entries[0]
        while first[0] < oldest_round and first[1] < oldest:
            entries.popleft()
            first = entries[0]
        self.value = first[2]

    def clear(self) -> None:
        self._entries.clear()
        self.value = 0.0


class ModelBased:
    """The default: bandwidth and base RTT are measured; the rate follows the one, the window their product (the BDP).

    Phases are BBR's. ``startup`` doubles each round until the delivery rate stops growing; ``drain`` empties the queue
    that made; ``probe_bw`` then sends at the bandwidth, a little more for one base RTT of eight to find more, and a
    little less for the next one to drain that; ``probe_rtt`` halves what is under way for :attr:`PROBE_RTT_SECONDS`
    when no RTT near the base was seen for :attr:`MIN_RTT_SECONDS` and RTTs vary enough to matter.

    **Queues.** Startup ends at the first RTTs that show one. A phase that sends less lasts until what is under way fits
    the path, so that neither probing nor an estimate that is a little high leaves a standing queue. After startup
    rate samples are smoothed over half a round, since the filter would keep the luckiest of them.

    **Rivals.** A queue that stands though we drained what we queued is another's. It is measured at once (a
    ``probe_rtt`` after startup, not only after seconds); if it is so long that only a flow that fills queues can have
    made it, it counts as the path from then on, and startup begins again: with the base of the empty path our window
    would leave us a small part of the link. Once that flow ends, shorter RTTs are the base at once.

    **Scatter.** Radios and busy hosts scatter RTTs; a queue moves them slowly. So the mean difference of neighbours
    tells how far they lie above the base without any queue: the window has room for it, and nothing smaller is a queue.

    **More to be had.** Where probing found much more and no queue, startup begins again, more gently, and a bound from
    when the path was slower is forgotten.

    **Loss.** Losses and acknowledgements are counted over *episodes* of at least one round. Loss with a queue (see
    ``_judge_loss``) and loss surely above :attr:`MAX_LOSS` are congestion: a bound of 0.7 x what was under way is set
    and grows back along CUBIC's curve; it is taken back if most of the lost came after all. Other loss is ignored. A
    queue is judged by the smallest RTT of :attr:`QUEUE_MEMORY` seconds too: beside a CUBIC flow it may not drain
    while we look for the base, and who takes that queue for the path leaves all giving way to the other.

    **Very small RTTs.** Where the base RTT is below :attr:`LAN_RTT` (loopback, a switch), acknowledgements come when a
    thread gets its turn, 1 to 12 ms late, in bursts; the BDP, a few kilobytes, says nothing about what must be under
    way to bridge that. There the window is never below :attr:`LAN_BATCHES` full batches (0.25 MB: 60 to 80 MB/s with
    acknowledgements 3 to 4 ms late) or, on a slow link once its bandwidth is known, below :attr:`LAN_LATENESS` seconds
    of it (four batches are 0.1 s of queue at 20 Mbit/s). That is twice the usual lateness, so it cannot shrink by
    itself: were it too little, the bandwidth measured with it would allow more. Congestion goes lower, to one batch.

    Args:
        segment_size: bytes of a datagram.
        batch_segments: datagrams in the largest batch the sender makes.
    """

    name = "bbr"

    STARTUP_GAIN = 2.77  # 4 ln 2: the least pacing gain that doubles delivery each round
    RESTART_GAIN = 2.0
    WINDOW_GAIN = 2.0  # one BDP for the pipe, one for delayed and merged acknowledgements
    CYCLE = (1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    PACING_MARGIN = 0.99  # a standing queue drains slowly even if the estimate is a little high
    FILTER_RTTS = 12  # a cycle and a half; base RTTs, not rounds, so that a queue does not lengthen the memory
    FILTER_SECONDS = 0.1  # twelve round trips of a loopback are over before a late thread has run once
    MIN_RTT_SECONDS = 5.0  # with BBR's 10 a CUBIC flow in a queue of 4 BDP left us a twentieth of the link for as long
    PROBE_RTT_SECONDS = 0.2  # long enough for flows that see the queue drain to probe together
    PROBE_RTT_LAN = 0.01  # a few turns of a late thread; a LAN transfer must not notice
    QUEUE_RTT = 1.25
    QUEUE_MEMORY = 30.0  # seconds
    RIVAL_RTT = 2.5  # times the base; flows like ours that share a queue hardly fill it so far
    QUEUE_SAMPLES = 8  # in a row, until startup believes in a queue (as many as HyStart++, RFC 9406 section 4.2)
    JITTER = 0.001  # RTT differences below this are noise of two operating systems, not a queue
    MAX_LOSS = 0.10
    BOUND_SECONDS = 10.0  # without congestion, until the bound is forgotten: longer than a CUBIC flow's sawtooth
    LAN_RTT = 0.002
    LAN_BATCHES = 4
    LAN_LATENESS = 0.025

    def __init__(self, segment_size: int, batch_segments: int = BATCH_SEGMENTS) -> None:
        self._segment = segment_size
        self._batch_segments = batch_segments
        self._full_batch = max(min(batch_segments * segment_size, BATCH_BYTES), segment_size)
        self._phase: Literal["startup", "drain", "probe_bw", "probe_rtt"] = "startup"
        self._target = float(initial_window(segment_size))  # the model's window, before bounds
        self.window = int(self._target)
        self.pacing_rate = inf
        self._gain = self.STARTUP_GAIN

        self._round = 0
        self._round_rtt = self._last_rtt = (inf, 0.0)  # smallest and largest of this round and of the one before
        self._look_round = 0  # from then on it is to be seen whether draining has emptied the queue
        self._queued = 0  # successive RTTs in startup that show a queue
        self._next_round_delivered = 0
        self._memory = 10.0
        self._bandwidth = _MaxFilter()
        self._rate = 0.0  # samples, smoothed over half a round
        self._rate_before = 0.0  # the same before the burst of acknowledgements that began at _burst_at
        self._burst_at = -inf
        self._burst_acked = 0
        self._bandwidth_round = 0  # stands still while samples say nothing, so that the filter does not forget
        self._full_bandwidth = 0.0
        self._full_rounds = 0
        self._full_since = 0.0
        self._full = False  # startup is over for good

        self._base_rtt = inf
        self._base_seen = 0.0  # when an RTT near the base was last seen
        self._recent_rtt = (inf, inf, 0.0)  # smallest of the previous and of the current half window, begin of that
        self._old_rtt = (inf, inf, 0.0)  # the same over QUEUE_MEMORY
        self._srtt: float | None = None
        self._probe_rtt_end: float | None = None
        self._probe_rtt_round = 0
        self._probe_rtt_best = inf

        self._cycle = 0
        self._cycle_start = 0.0
        self._drained = True  # the last time that we sent less
        self._cycle_bandwidth = inf  # before the last attempt to find more

        self._extra = _MaxFilter()
        self._extra_start: float | None = None
        self._extra_acked = 0

        self._bound = inf  # learnt from loss
        self._curve = CubicCurve()
        self._cut_at = -inf
        self._cut_lost = self._cut_late = 0  # bytes sent before: declared lost, and those that came after all
        self._cut_bandwidth = 0.0
        self._before_cut: tuple[float, bool] | None = None
        self._episode_start = 0.0
        self._episode_round = 0
        self._episode_acked = 0
        self._episode_lost = 0
        self._episode_rtt = (inf, 0.0)  # smallest, largest
        self._scatter = 0.0  # mean difference of successive RTTs
        self._episode_peak = 0
        self._in_flight = 0
        self._app_limited = False

    @property
    def state(self) -> str:
        """``startup``, ``drain``, ``probe_bw`` or ``probe_rtt``."""
        return self._phase

    @property
    def bandwidth(self) -> float:
        """Estimated bytes per second; 0.0 before a sample."""
        return self._bandwidth.value

    @property
    def base_rtt(self) -> float:
        """RTT of the empty path as far as known; ``inf`` before a sample."""
        return self._base_rtt

    # -- input ---------------------------------------------------------------------------------------------------

    def on_sent(self, now: float, size: int, in_flight: int, app_limited: bool) -> None:
        self._in_flight, self._app_limited = in_flight, app_limited
        if in_flight > self._episode_peak:
            self._episode_peak = in_flight
        if in_flight <= size:  # restart after silence: cruise, whatever the cycle said when it fell silent
            self._extra_start = None
            if self._phase == "probe_bw" and self._cycle < 2:
                self._enter_cycle(now, 2)
                self._publish()

    def on_ack(self, now: float, sample: AckSample) -> None:
        acked, lost, newest_lost_sent, in_flight, delivered, at_send, rtt, smoothed, rate, app_limited, scatter = sample
        round_start = at_send >= self._next_round_delivered
        if round_start:
            self._next_round_delivered = delivered
            self._round += 1
            self._last_rtt, self._round_rtt = self._round_rtt, (inf, 0.0)
            self._remember()
        if smoothed is not None:
            self._srtt = smoothed
            self._scatter = scatter
        # A sample limited by the application or by probe_rtt says "at least this much" only.
        limited = app_limited or self._phase == "probe_rtt"
        if rate is not None and rate > 0.0 and (rate >= self._bandwidth.value or not limited):
            self._update_bandwidth(now, rate, acked, in_flight, round_start)
        if rtt is not None and rtt > 0.0:
            self._update_rtt(now, rtt)
        if acked:
            self._update_extra(now, acked)
        before = in_flight + acked + lost
        self._in_flight = in_flight
        if before > self._episode_peak:
            self._episode_peak = before
        self._episode_acked += acked
        if lost:
            self._count_loss(lost, newest_lost_sent)
        if round_start or self._episode_lost:
            self._judge_loss(now, round_start)
        if not self._full and not app_limited:
            self._check_queue(rtt)
            if round_start:
                self._check_full(now)
        self._advance(now, in_flight, before, lost > 0)
        self._update_target(acked, delivered)
        if acked and self._bound < inf:
            self._bound = self._curve.grow(now, self._bound, acked, self._srtt or 0.0, self._segment)
            if self._bound > 1.25 * self._target and self._full and now - self._cut_at > self.BOUND_SECONDS:
                self._bound = inf  # binds no more; the next loss sets it anew
        self._publish()

    def on_lost(self, now: float, lost_bytes: int, newest_lost_sent: float, in_flight: int) -> None:
        self._in_flight = in_flight
        self._count_loss(lost_bytes, newest_lost_sent)
        self._judge_loss(now, False)
        self._publish()

    def on_late(self, size: int, sent_at: float) -> None:
        """A reduction made for what was mostly no loss is undone, as RFC 9438 section 4.9 does it."""
        if sent_at > self._cut_at:
            self._episode_lost = max(0, self._episode_lost - size)
            return
        self._cut_late += size
        if self._before_cut is not None and 2 * self._cut_late > self._cut_lost:
            self._bound, full = self._before_cut
            self._before_cut = None
            self._curve.forget()
            if not full and self._full:
                self._start_up()
            self._publish()

    def on_persistent_congestion(self, now: float) -> None:
        """Forgets the bandwidth and starts up again from the smallest window."""
        self._cut_at, self._before_cut = now, None  # losses that led here count no more; a bound they set stays
        self._new_episode(now)
        self._bandwidth.clear()
        self._extra.clear()
        self._extra_start = None
        self._phase, self._gain = "startup", self.STARTUP_GAIN
        self._full, self._full_bandwidth, self._full_rounds = False, 0.0, 0
        # The way may be another one now: let the next RTT samples speak for themselves.
        self._base_rtt, self._probe_rtt_end = inf, None
        self._recent_rtt = self._old_rtt = (inf, inf, now)
        self._target = self._floor()
        self._publish()

    def set_segment_size(self, segment_size: int) -> None:
        self._segment = segment_size
        self._full_batch = max(min(self._batch_segments * segment_size, BATCH_BYTES), segment_size)
        self._publish()

    # -- the model -----------------------------------------------------------------------------------------------

    def _update_bandwidth(self, now: float, rate: float, acked: int, in_flight: int, round_start: bool) -> None:
        if round_start:
            self._bandwidth_round += 1
        if self._full:
            # Records open in lumps, so samples scatter; the filter would keep the luckiest of them.
            # Acknowledgements that come in one burst are one: only the last of them has seen all of it.
            if now > self._burst_at + self.JITTER:
                self._burst_at, self._burst_acked, self._rate_before = now, 0, self._rate
            self._burst_acked += acked
            share = 2 * self._burst_acked / (in_flight + self._burst_acked)
            if share < 1.0:
                rate = self._rate_before + (rate - self._rate_before) * share
        self._rate = rate
        self._bandwidth.update(self._bandwidth_round, now, rate, self._memory)

    def _update_rtt(self, now: float, rtt: float) -> None:
        low, high = self._round_rtt
        if not low <= rtt <= high:
            self._round_rtt = (rtt if rtt < low else low, rtt if rtt > high else high)
        low, high = self._episode_rtt
        if not low <= rtt <= high:
            self._episode_rtt = (rtt if rtt < low else low, rtt if rtt > high else high)
        if self._phase == "probe_rtt" and rtt < self._probe_rtt_best:
            self._probe_rtt_best = rtt
        previous, current, since = self._recent_rtt
        if now - since > self.MIN_RTT_SECONDS / 2:
            self._recent_rtt = (current, rtt, now)
        elif rtt < current:
            self._recent_rtt = (previous, rtt, since)
        previous, current, since = self._old_rtt
        if now - since > self.QUEUE_MEMORY / 2:
            self._old_rtt = (current, rtt, now)
        elif rtt < current:
            self._old_rtt = (previous, rtt, since)
        base = self._base_rtt
        if rtt <= base:
            self._base_rtt, self._base_seen = rtt, now
        elif rtt <= 1.1 * base or rtt <= base + self.JITTER / 2:
            self._base_seen = now  # the path was (nearly) empty a moment ago: nothing to probe for

    def _update_extra(self, now: float, acked: int) -> None:
        """Ack aggregation: how far acknowledged bytes run ahead of the bandwidth (BBR draft, "extra_acked")."""
        bandwidth, start = self._bandwidth.value, self._extra_start
        expected = 0.0 if start is None else bandwidth * (now - start)
        if start is None or self._extra_acked <= expected:
            self._extra_start, self._extra_acked, expected = now, 0, 0.0
        self._extra_acked += acked
        extra = self._extra_acked - expected
        if self._target < extra:
            extra = self._target
        if 0.1 * bandwidth < extra:
            extra = 0.1 * bandwidth
        self._extra.update(self._round, now, extra, self._memory)

    def _remember(self) -> None:
        """How many seconds the filters look back; settled once a round."""
        self._memory = max(self.FILTER_SECONDS, min(self.FILTER_RTTS * (self._base_rtt + 4 * self._scatter), 10.0))

    def _bdp(self, gain: float = 1.0) -> float:
        if self._base_rtt == inf:
            return float(initial_window(self._segment))
        return gain * self._bandwidth.value * self._base_rtt

    def _pipe(self) -> float:
        """Bytes that fill the path and no queue, where RTTs scatter too."""
        return self._bandwidth.value * (self._base_rtt + 2 * self._scatter)

    @property
    def _lan(self) -> bool:
        return self._base_rtt < self.LAN_RTT

    def _batch(self) -> float:
        """Bytes of the batches sent at this rate: 2 ms of it, at least 2 and at most all segments of a batch."""
        size, least = self._bandwidth.value * 0.002, 2.0 * self._segment
        if size < least:
            size = least
        return size if size < self._full_batch else float(self._full_batch)

    def _least(self) -> int:
        """The smallest window that congestion leaves: four segments; on a LAN a batch, and what it carries in LAN_RTT.

        With less its two ends wait for each other's turns, and no switch is so small for its rate.
        """
        least = 4 * self._segment
        if self._base_rtt >= self.LAN_RTT:
            return least
        if self._full_batch > least:
            least = self._full_batch
        carried = self._bandwidth.value * self.LAN_RTT
        if carried <= least:
            return least
        return int(min(carried, float(self.LAN_BATCHES * self._full_batch)))

    def _floor(self) -> float:
        """The smallest window the model gives; see "very small RTTs" above."""
        if self._base_rtt >= self.LAN_RTT:
            return 4.0 * self._segment
        most = float(self.LAN_BATCHES * self._full_batch)
        if not self._full:
            return most
        late = self._bandwidth.value * self.LAN_LATENESS
        return most if late >= most else max(late, float(self._least()))

    def _update_target(self, acked: int, delivered: int) -> None:
        # Scatter: the mean RTT of a path lies about twice that above its base, the longest about four times.
        goal = self._bdp(self.WINDOW_GAIN) + 3 * self._batch() + self._extra.value
        goal += 4 * self._bandwidth.value * self._scatter
        target = self._target
        if self._full:
            target += acked
            if goal < target:
                target = goal
        elif target < goal or delivered < initial_window(self._segment):
            target += acked
        floor = self._floor()
        self._target = target if target > floor else floor

    def _publish(self) -> None:
        target, bound, segment = self._target, self._bound, self._segment
        window = target if target < bound else bound
        if self._phase == "probe_rtt":
            # On a LAN four segments may be the queue that is to be looked past.
            self.window = int(max(min(window, self._bdp(0.5)), (2.0 if self._lan else 4.0) * segment))
        else:
            least = self._least()
            self.window = int(window) if window > least else least
        bandwidth, srtt = self._bandwidth.value, self._srtt
        if bandwidth > 0.0:
            rate = self._gain * bandwidth * self.PACING_MARGIN
            if not self._full and self.pacing_rate < inf:
                before = self.pacing_rate if bound == inf else 0.0
                if before > rate:
                    rate = before
                # Samples limited by the application, of a handshake say, are no reason to begin slower than at first.
                if srtt and bound == inf and (first := self._gain * initial_window(segment) / srtt) > rate:
                    rate = first
            if srtt and (slowest := 4 * segment / srtt) > rate:
                rate = slowest
            self.pacing_rate = rate
        elif srtt:
            self.pacing_rate = self.STARTUP_GAIN * self.window / srtt

    # -- phases --------------------------------------------------------------------------------------------------

    def _check_queue(self, rtt: float | None) -> None:
        """Startup is over where a queue stands, too: rounds grow with it, and three of them are long."""
        if rtt is None or self._lan:
            return
        self._queued = self._queued + 1 if rtt > self._queue_rtt() else 0
        self._full = self._queued >= self.QUEUE_SAMPLES

    def _queue_rtt(self) -> float:
        """What is longer shows a queue."""
        return self.QUEUE_RTT * self._base_rtt + self.JITTER + 4 * self._scatter

    def _check_full(self, now: float) -> None:
        """Startup is over when three rounds brought less than a quarter more bandwidth."""
        if self._bandwidth.value >= 1.25 * self._full_bandwidth:
            self._full_bandwidth, self._full_rounds, self._full_since = self._bandwidth.value, 0, now
            return
        self._full_rounds += 1
        # Three rounds of a LAN may all fall into one pause of a thread.
        if self._full_rounds >= 3 and (not self._lan or now - self._full_since > 0.015):
            self._full = True

    def _start_up(self) -> None:
        """There is much more to be had: double again."""
        self._phase, self._gain, self._full = "startup", self.RESTART_GAIN, False
        self._full_bandwidth, self._full_rounds, self._queued = self._bandwidth.value, 0, 0

    def _advance(self, now: float, in_flight: int, before: int, lost: bool) -> None:
        phase = self._phase
        if phase == "probe_bw":
            self._advance_cycle(now, before, lost)
        elif phase == "startup" and self._full:
            self._phase = phase = "drain"
            self._gain, self._cycle_start = 1 / self.STARTUP_GAIN, now
        # What lies in no queue cannot be drained: where the path just became longer, or RTTs scatter.
        if phase == "drain" and (
            in_flight <= self._pipe() + self._batch() or now - self._cycle_start > 2 * (self._srtt or 0.0)
        ):
            # The protocol rooms have no randomness; the clock spreads flows over the cycle well enough. Not in 1.25
            # (there is nothing to find yet), nor in 0.75 (just drained).
            self._enter_cycle(now, 2 + int(now * 1e5) % 6)
            self._look_round = self._round + 2
        if phase == "probe_rtt":
            self._advance_probe_rtt(now, in_flight)
        elif phase == "probe_bw" and 0 < self._look_round <= self._round:
            self._look_for_queue()
        elif self._full and self._base_rtt < inf and now - self._base_seen > self.MIN_RTT_SECONDS:
            recent = min(self._recent_rtt[0], self._recent_rtt[1])
            if recent < max(self.QUEUE_RTT * self._base_rtt, self.LAN_RTT):
                # It hardly varies, or is too small to matter: what was seen is the base; no pause is worth it.
                self._base_rtt, self._base_seen = recent, now
            else:
                self._begin_probe_rtt()

    def _look_for_queue(self) -> None:
        """We have drained what we queued: if a queue stands all the same, measure the path with it now, not in seconds.

        A queue lifts all RTTs of a round by much more than they scatter. Where that is not clear, no pause is worth it.
        """
        low, high = self._last_rtt
        if inf > low > max(self._queue_rtt(), self._base_rtt + 2 * (high - low)) and not self._lan:
            self._look_round = 0
            self._begin_probe_rtt()
        elif low <= self._queue_rtt() or self._round > self._look_round + 3:
            self._look_round = 0

    def _begin_probe_rtt(self) -> None:
        self._phase, self._gain = "probe_rtt", 1.0
        self._probe_rtt_end, self._probe_rtt_best = None, inf

    def _enter_cycle(self, now: float, index: int) -> None:
        self._phase = "probe_bw"
        self._cycle, self._cycle_start = index, now
        self._gain = self.CYCLE[index]
        if index != 1 and index != 2:
            self._cycle_bandwidth = self._bandwidth.value

    def _advance_cycle(self, now: float, before: int, lost: bool) -> None:
        elapsed = now - self._cycle_start
        length = self._base_rtt + 2 * self._scatter
        if length < self.LAN_RTT:
            length = self.LAN_RTT
        done = elapsed > length
        if self._gain > 1.0:
            # Long enough for the extra to show: under way, or lost. A bound window never shows it, hence the limit.
            reached = before >= self._gain * self._pipe() or before + self._batch() >= self.window
            done = done and (lost or reached or elapsed > 2 * length)
        elif self._gain < 1.0:
            # Twice as long if need be; no longer than the rise where that did not help: the queue is not ours then.
            drained = before <= self._pipe()
            done = drained or elapsed > (2 if self._drained else 1) * length
            if done:
                self._drained = drained or not self._drained  # every other time we do try
        if done:
            # If the last attempt found more, try again at once: ten times the bandwidth takes 1 s at 40 ms, not 4 s.
            found = self._cycle == 2 and self._bandwidth.value > 1.15 * self._cycle_bandwidth
            if found and self._round_rtt[0] < 1.1 * self._base_rtt + 2 * self._scatter and not self._lan:
                self._start_up()
            else:
                self._enter_cycle(now, 0 if found else (self._cycle + 1) % len(self.CYCLE))

    def _advance_probe_rtt(self, now: float, in_flight: int) -> None:
        if self._probe_rtt_end is None:
            if in_flight <= self.window:
                self._probe_rtt_end = now + (self.PROBE_RTT_LAN if self._lan else self.PROBE_RTT_SECONDS)
                self._probe_rtt_round = self._round
        elif now >= self._probe_rtt_end and self._round > self._probe_rtt_round:
            best, rivals = self._probe_rtt_best, False
            if best < inf:
                was_empty = self._base_rtt < 1.1 * min(self._old_rtt[0], self._old_rtt[1])
                long = best > max(self.RIVAL_RTT * self._base_rtt, self._queue_rtt())
                rivals = was_empty and long and not self._lan
                self._base_rtt = best
                self._recent_rtt = (inf, best, now)
            self._base_seen = now
            if rivals:
                self._bound = inf
                self._start_up()
            else:
                self._enter_cycle(now, 2 + int(now * 1e5) % 6)

    # -- loss ----------------------------------------------------------------------------------------------------

    def _count_loss(self, lost: int, newest_sent: float) -> None:
        if newest_sent > self._cut_at:
            self._episode_lost += lost
        else:  # they belong to the reduction already made
            self._cut_lost += lost

    def _judge_loss(self, now: float, round_start: bool) -> None:
        if self._episode_lost:
            count = (self._episode_acked + self._episode_lost) / self._segment
            lost = self._episode_lost / self._segment
            # Surely above: few packets prove little, so two and a half standard deviations are granted to chance.
            limit = self.MAX_LOSS * count + 2.5 * sqrt(self.MAX_LOSS * (1 - self.MAX_LOSS) * count)
            # At the end of a round, or at once where it is much of what is under way: records open in lumps, so that
            # the share over a part of a round says little.
            done = round_start and self._round != self._episode_round
            if lost > limit and lost >= 4 and (done or 4 * self._episode_lost >= self._episode_peak):
                self._cut(now)
                return
        # A round, but not so short that all its RTTs may be late ones.
        if not round_start or self._round == self._episode_round or now - self._episode_start < 5 * self.LAN_RTT:
            return
        low, high = self._episode_rtt
        # A queue lifts all RTTs of a round; late threads scatter them. Hence the smallest one counts, and it must be
        # lifted by more than they scatter.
        queue = max((self.QUEUE_RTT - 1.0) * self._base_rtt, self.JITTER, high - low, 4 * self._scatter)
        # Others may not let the queue drain while we look for the base: a loss is judged by what was seen long before.
        base = min(self._base_rtt, self._old_rtt[0], self._old_rtt[1])
        if self._episode_lost and inf > low > base + queue:
            self._cut(now)
            return
        if not self._episode_lost and low <= self._base_rtt + queue and self._cut_outgrown():
            self._bound = inf
        self._new_episode(now)

    def _cut_outgrown(self) -> bool:
        """The path, its queue empty, carries much more than when it was cut: it is another path now."""
        return self._bound < inf and self._bandwidth.value > 1.25 * self._cut_bandwidth

    def _cut(self, now: float) -> None:
        # Half the window at least: a sender with little to send proved little, and must not find the path shut later.
        window = int(min(self._target, self._bound)) if self._phase == "probe_rtt" else self.window
        under_way = min(window, max(self._episode_peak, window // 2))
        self._before_cut = self._bound, self._full
        self._cut_lost, self._cut_late = self._episode_lost, 0
        self._bound = max(self._curve.cut(float(under_way)), float(self._least()))
        self._cut_at, self._cut_bandwidth = now, self._bandwidth.value
        if not self._app_limited:
            self._full = True
        self._new_episode(now)

    def _new_episode(self, now: float) -> None:
        self._episode_start, self._episode_round = now, self._round
        self._episode_acked = self._episode_lost = 0
        self._episode_peak = self._in_flight
        self._episode_rtt = (inf, 0.0)
