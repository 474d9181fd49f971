"""Whether what a small call gives the wire leaves at once, or together with that of the calls that follow it."""

from __future__ import annotations

from math import inf

GATHERED = 128
"""Calls at most whose output is gathered."""
GATHER = 0.001
"""Seconds it is gathered at most, as long as calls come."""
AT_ONCE = 8
"""Calls in a row whose output leaves at once: a game's messages of one frame, for instance."""
AT_ONCE_RATE = 1000.0
"""Calls a second that do so for ever."""


class Gathering:
    """A few calls in a row, and those that answer what came, are not made to wait; many gather. Under the lock.

    Attributes:
        calls: whose output was put off, and is to be collected.
        until: when it is to be, in ``monotonic()`` seconds.
    """

    __slots__ = ("_left", "_left_at", "calls", "until")

    def __init__(self) -> None:
        self.calls = 0
        self.until = -inf
        self._left: float = AT_ONCE  # calls whose output need not be put off
        self._left_at = 0.0

    def puts_off(self, now: float) -> bool:
        """Count a call, and say whether its output waits for that of the next ones, until :attr:`until`."""
        if not self.calls:
            left = self._left + (now - self._left_at) * AT_ONCE_RATE
            self._left_at = now
            if left >= 1:
                self._left = (left if left < AT_ONCE else AT_ONCE) - 1
                return False
            self._left = left
            self.until = now + GATHER
        self.calls += 1
        return self.calls < GATHERED and now < self.until

    def on_arrival(self) -> None:
        """Something came: who answers it does so at once."""
        if self._left < AT_ONCE:
            self._left += 2
