"""Key agreement runs outside the endpoint lock: compute on copies, commit under the lock if it still fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from ..exceptions import SrmudpError

Result = TypeVar("Result")


class Job(Generic[Result]):
    """An expensive pure computation and what to do with its result."""

    __slots__ = ("_commit", "_compute", "_result")

    def __init__(self, compute: Callable[[], Result], commit: Callable[[Result | None, float], None]) -> None:
        self._compute = compute
        self._commit = commit
        self._result: Result | None = None

    def run(self) -> None:
        """Compute. Touches nothing shared; call it without the lock, on any thread."""
        try:
            self._result = self._compute()
        except SrmudpError:
            self._result = None

    def finish(self, now: float) -> None:
        """Commit, under the lock. The commit is told None if the computation found a forgery."""
        self._commit(self._result, now)


class TokenBucket:
    """At most ``rate`` events a second on average, ``burst`` at once."""

    __slots__ = ("_burst", "_rate", "_tokens", "_updated")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = self._tokens = burst
        self._updated: float | None = None

    def take(self, now: float) -> bool:
        """True if one more event is allowed now."""
        if self._updated is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._updated) * self._rate)
        self._updated = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
