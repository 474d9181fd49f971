"""CUBIC (RFC 9438): a controller of its own, and the curve along which a bound learnt from loss comes back."""

from __future__ import annotations

from math import inf

from .controller import AckSample, initial_window


class CubicCurve:
    """The growth of a window after a reduction (RFC 9438 sections 4.2 to 4.7), in bytes."""

    C = 0.4  # segments per second cubed, section 4.1
    BETA = 0.7  # section 4.6
    ALPHA = 3 * (1 - BETA) / (1 + BETA)  # section 4.3: as fast as Reno on average

    __slots__ = ("_epoch", "_estimate", "_k", "_maximum", "_prior")

    def __init__(self) -> None:
        self._epoch: float | None = None
        self._maximum = 0.0  # W_max
        self._prior = 0.0  # cwnd_prior
        self._estimate = 0.0  # W_est
        self._k = 0.0

    def cut(self, window: float) -> float:
        """The window after a congestion event at ``window``."""
        # Fast convergence, section 4.7: below the last maximum we give room to a newcomer.
        self._maximum = window * (1 + self.BETA) / 2 if window < self._maximum else window
        self._prior = window
        self._epoch = None
        return window * self.BETA

    def forget(self) -> None:
        """No epoch and no maximum: the next growth starts from where the window is."""
        self._epoch = None
        self._maximum = self._prior = 0.0

    def shift(self, pause: float) -> None:
        """The clock of growth stood still for ``pause`` seconds (section 4.2: nothing grows while idle)."""
        if self._epoch is not None:
            self._epoch += pause

    def grow(self, now: float, window: float, acked: int, rtt: float, segment: int) -> float:
        """The window after ``acked`` more bytes without congestion."""
        if self._epoch is None:
            self._epoch = now
            self._estimate = window
            self._maximum = max(self._maximum, window)
            self._k = ((self._maximum - window) / segment / self.C) ** (1 / 3)
        elapsed = now - self._epoch
        alpha = self.ALPHA if self._estimate < self._prior else 1.0
        self._estimate += alpha * segment * acked / window
        if self._maximum + self.C * segment * (elapsed - self._k) ** 3 < self._estimate:
            return max(window, self._estimate)  # the Reno-friendly region, section 4.3
        target = self._maximum + self.C * segment * (elapsed + rtt - self._k) ** 3
        target = min(max(target, window), 1.5 * window)
        return window + (target - window) * min(1.0, acked / window)


class Cubic:
    """RFC 9438 over RFC 9002 section 7's frame: slow start, one reduction a round trip, paced."""

    name = "cubic"

    def __init__(self, segment_size: int) -> None:
        self._segment = segment_size
        self._cwnd = float(initial_window(segment_size))
        self._ssthresh = inf
        self._curve = CubicCurve()
        self._recovery_start = -inf  # packets sent before this belong to a reduction already made
        self._srtt: float | None = None
        self._underused = False
        self._last_activity: float | None = None
        self.window = int(self._cwnd)
        self.pacing_rate = inf

    @property
    def state(self) -> str:
        """``slow_start`` or ``avoidance``."""
        return "slow_start" if self._cwnd < self._ssthresh else "avoidance"

    def on_sent(self, now: float, size: int, in_flight: int, app_limited: bool) -> None:
        if in_flight <= size and self._last_activity is not None:
            self._curve.shift(max(0.0, now - self._last_activity))
        self._last_activity = now
        # RFC 9002 section 7.8: a window the application does not fill must not grow. Half is "filled" so that one
        # late acknowledgement does not count against it; being held by the pacer is no under-use.
        self._underused = app_limited and 2 * in_flight < self._cwnd

    def on_ack(self, now: float, sample: AckSample) -> None:
        self._last_activity = now
        if sample.smoothed_rtt is not None:
            self._srtt = sample.smoothed_rtt
        if sample.lost_bytes:
            self._congestion(now, sample.newest_lost_sent)
        elif sample.acked_bytes and not self._underused:
            if self._cwnd < self._ssthresh:
                self._cwnd += sample.acked_bytes
            else:
                self._cwnd = self._curve.grow(now, self._cwnd, sample.acked_bytes, self._srtt or 0.0, self._segment)
        self._publish()

    def on_lost(self, now: float, lost_bytes: int, newest_lost_sent: float, in_flight: int) -> None:
        self._congestion(now, newest_lost_sent)
        self._publish()

    def on_late(self, size: int, sent_at: float) -> None:
        """Nothing: RFC 9438 section 4.9 allows to undo a reduction, and does not ask for it."""

    def on_persistent_congestion(self, now: float) -> None:
        """The window is the smallest one and slow start begins again."""
        if self._cwnd > 2.0 * self._segment:  # else it was told before, and nothing has got better since
            self._ssthresh = max(self._cwnd * CubicCurve.BETA, 2.0 * self._segment)
        self._cwnd = 2.0 * self._segment
        self._curve.forget()
        self._recovery_start = now
        self._publish()

    def set_segment_size(self, segment_size: int) -> None:
        self._segment = segment_size
        self._publish()

    def _congestion(self, now: float, newest_lost_sent: float) -> None:
        if newest_lost_sent <= self._recovery_start:
            return
        self._recovery_start = now
        self._cwnd = max(self._curve.cut(self._cwnd), 2.0 * self._segment)
        self._ssthresh = self._cwnd

    def _publish(self) -> None:
        self._cwnd = max(self._cwnd, 2.0 * self._segment)
        self.window = int(self._cwnd)
        if self._srtt:
            # RFC 9002 section 7.7: 1.25; twice in slow start, so that pacing does not hold doubling back.
            self.pacing_rate = (2.0 if self._cwnd < self._ssthresh else 1.25) * self._cwnd / self._srtt
