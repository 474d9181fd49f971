"""When a batch may leave: the congestion controller's rate, spread over time. All sizes bytes, times seconds."""

from __future__ import annotations

from math import inf

UNLIMITED = 1 << 62
"""What :meth:`Pacer.budget` allows while the rate is infinite."""


class Pacer:
    """Spreads batches over time, and forgives timers that come late. A token bucket in bytes.

    Credit grows at the pacing rate. While the sender has data and waits (for a timer, for the window) it is kept for
    :attr:`LATE` seconds of rate: a timer 12 ms late then sends 12 ms of data at once instead of losing them. What
    a router's queue says to that: nothing of ours arrived during those 12 ms, so it drained by as much as now comes,
    and the burst never exceeds what the rate allowed in that time. After :meth:`on_idle` there is nothing to catch up
    with, so at most :attr:`BURST` seconds of rate (or one batch) leave at once: a queue of a few milliseconds bears it.

    How to use: ``allowed = budget(...)``; send at most that, ``on_sent`` for each batch; if more waits and the window
    has room, wake at ``next_time(...)``; when nothing more waits, ``on_idle()``. What must not wait (acknowledgements,
    probes, closes) may be sent without asking; passed to ``on_sent`` it is paid back later.
    """

    LATE = 0.020  # a Windows tick is 15.6 ms, a thread's turn under the GIL comes 5 to 12 ms late
    BURST = 0.002

    __slots__ = ("_batch", "_credit", "_idle", "_rate", "_updated")

    def __init__(self, now: float) -> None:
        self._updated = now
        self._credit = inf  # cut to a burst at the first finite rate
        self._batch = 0
        self._rate = inf
        self._idle = True

    def budget(self, now: float, rate: float, batch_bytes: int) -> int:
        """Bytes that may leave now. Ask only when something waits; send no batch larger than the answer.

        Args:
            rate: bytes per second, above 0; ``inf`` allows :data:`UNLIMITED`.
            batch_bytes: size of the batches made at present; the bucket holds two of them at the least.
        """
        self._batch = batch_bytes
        self._refill(now, rate)
        self._idle = False
        return UNLIMITED if rate == inf else max(0, int(self._credit))

    def has_credit(self, size: int) -> bool:
        """Whether what was left when :meth:`budget` was asked last is enough for ``size`` bytes.

        Then there is no need to ask: what came in since is counted when it is asked again, and the cap holds then too.
        """
        return self._credit >= size and self._rate != inf

    def next_time(self, now: float, rate: float, wanted: int) -> float:
        """When ``wanted`` bytes (a batch, or less if less waits) may leave; ``now`` if they may at once."""
        self._refill(now, rate)
        short = 0.0 if rate == inf else min(float(wanted), self._capacity) - self._credit
        # A byte more than is short: rounding must not wake us just before the credit suffices.
        return now if short <= 0.0 else now + (short + 1.0) / rate

    def on_sent(self, now: float, size: int) -> None:
        """``size`` bytes left."""
        if self._rate != inf:
            self._credit -= size
            if self._credit < 0.0:
                # Debt is bounded as credit is: unpaced probes must not silence the path for long.
                self._credit = max(self._credit, -self._capacity)

    def on_idle(self) -> None:
        """Nothing waits to be sent: time that passes from now on until the next batch is not owed to us."""
        self._idle = True

    @property
    def _capacity(self) -> float:
        least, late = 2.0 * self._batch, self._rate * self.LATE
        return late if late > least else least

    def _refill(self, now: float, rate: float) -> None:
        elapsed = now - self._updated
        self._updated = now
        self._idle = self._idle or self._rate == inf  # the first finite rate begins as after silence
        self._rate = rate
        if rate == inf:
            self._credit = inf
            return
        credit = self._credit + rate * elapsed if elapsed > 0.0 else self._credit
        most = self._capacity
        if self._idle:
            burst = rate * self.BURST
            if burst < self._batch:
                burst = float(self._batch)
            if burst < most:
                most = burst
        self._credit = credit if credit < most else most
