"""How much data may leave now: the window of the path and of its reader, the pace, and how large a record is worth.

All sizes are bytes, all times seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, log
from typing import Final

from ..wire.packet import MAX_SEGMENTS
from .recovery import Recovery

MAX_BATCH: Final = 64_000
"""Bytes of one batch: above about this the kernel cuts it in software."""
BATCHING_RTT: Final = 0.002
"""Seconds: on shorter paths large records cost no latency worth saving."""
PACED_BATCH: Final = 0.002
"""A record carries at most this many seconds of the pacing rate."""
SUCCESS_SHARE: Final = 0.8
"""On longer paths records are sized so that this share of them arrives whole."""

BUFFER_COST: Final = 3
"""Bytes of a socket's buffer that a byte of a datagram takes at most: systems count their own overhead too."""
TURN: Final = 0.010
"""Seconds by which a thread's turn comes late where another one computes: two switch intervals."""
LEAST_TURN: Final = 0.002
"""The same where RTTs show no such lateness."""
LATENESS: Final = 4
"""A reader comes so many times later at worst than RTTs scatter in the mean."""
LEAST_BUFFER: Final = 16 * 1024
LARGEST_BUFFER: Final = 1 << 26
"""Between these the size of a socket buffer is believed."""


class Allowance:
    """What one session may send, besides acknowledgements and control frames.

    Args:
        buffer: bytes that the peer's system keeps of what it has not read yet, until the peer tells.
    """

    __slots__ = ("_kept", "single_only_until", "wake_at")

    def __init__(self, buffer: int) -> None:
        self._kept = buffer / BUFFER_COST
        self.single_only_until = -inf
        """Until then the peer wants records of one datagram."""
        self.wake_at: float | None = None
        """When pacing allows the next batch, if it is that what the last one waits for."""

    def set_buffer(self, size: int) -> None:
        """The peer told the size of its socket's buffer."""
        self._kept = min(max(size, LEAST_BUFFER), LARGEST_BUFFER) / BUFFER_COST

    def window(self, recovery: Recovery) -> int:
        """Bytes that may be under way: what the controller allows, and no more than the peer's system keeps for it.

        A thread's turn comes milliseconds late, and what arrives meanwhile must fit into its socket's buffer: of a
        short path that is all that is under way, of a long one, where it arrives spread out, a part.
        """
        path = recovery.path
        kept = self._kept
        if path.rtt.minimum > LEAST_TURN:
            turn = min(max(LATENESS * recovery.scatter, LEAST_TURN), TURN)
            kept *= max(1.0, path.rtt.minimum / turn)
        return min(path.controller.window, max(int(kept), 2 * path.mtu))

    def has_room(self, recovery: Recovery) -> bool:
        """Whether fewer bytes are under way than may be."""
        in_flight = recovery.in_flight
        if in_flight >= recovery.path.controller.window:
            return False
        return in_flight < self._kept or in_flight < self.window(recovery)

    def one(self, recovery: Recovery, mtu: int) -> bool:
        """Whether a full datagram may leave beyond doubt. Quicker than to work out :meth:`datagrams`."""
        path, after = recovery.path, recovery.in_flight + mtu
        return after <= self._kept and after <= path.controller.window and path.pacer.has_credit(mtu)

    def datagrams(self, recovery: Recovery, next_size: Callable[[], int], now: float) -> int:
        """How many full datagrams may leave now, as one batch.

        Args:
            next_size: says at least how many bytes there are to be sent.
        """
        path = recovery.path
        mtu = path.mtu
        window = self.window(recovery)
        room = window - recovery.in_flight
        if room <= 0:
            return 0
        most = max(1, min(MAX_SEGMENTS, MAX_BATCH // mtu))
        if now < self.single_only_until:
            most = 1
        rate = path.controller.pacing_rate
        limit = most if rate == inf else min(most, max(1, int(rate * PACED_BATCH) // mtu))
        if path.rtt.minimum >= BATCHING_RTT:
            loss = recovery.loss
            if loss > 0.004:
                most = min(most, max(1, int(log(SUCCESS_SHARE) / log(1 - min(loss, 0.5)))))
            limit = min(limit, most, max(1, window // (8 * mtu)))
        # Small change of window is saved up for a larger batch, as long as acks that will free more are on their way.
        wanted = min(limit, max(1, window // (4 * mtu)))
        if room < wanted * mtu and recovery.in_flight:
            if next_size() >= room:
                return 0
            wanted = 1
        wanted = max(1, min(limit, room // mtu))
        if rate != inf:
            budget = path.pacer.budget(now, rate, limit * mtu)
            if budget < wanted * mtu:
                self.wake_at = max(path.pacer.next_time(now, rate, min(wanted, limit) * mtu), now + 1e-6)
                return 0
            # Late by more than a record: what leaves back to back anyway shares one. A machine so busy that each record
            # has to wait for its turn would otherwise never send faster than one small record a turn.
            wanted = max(wanted, min(most, budget // mtu, room // mtu, window // (4 * mtu)))
        return wanted
