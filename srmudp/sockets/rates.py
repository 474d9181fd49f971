"""How often something may happen."""

from __future__ import annotations

from math import inf
from time import monotonic


class RateLimit:
    """Says yes at most once per ``interval`` seconds. Thread-safe enough: two yeses at one instant do no harm."""

    def __init__(self, interval: float = 1.0) -> None:
        self._interval = interval
        self._next = -inf
        self.suppressed = 0

    def __call__(self) -> bool:
        now = monotonic()
        if now < self._next:
            self.suppressed += 1
            return False
        self._next = now + self._interval
        return True
