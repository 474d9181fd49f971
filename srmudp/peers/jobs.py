"""Key agreement runs outside the endpoint lock: compute on copies, commit under the lock if it still fits."""

from __future__ import annotations

from collections.abc import Callable, Hashable
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

    def has(self, now: float, keep: float = 0.0) -> bool:
        """True if one more event is allowed now.

        Args:
            keep: the part of the burst that must be left for events that matter more.
        """
        if self._updated is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._updated) * self._rate)
        self._updated = now
        return self._tokens >= 1 + keep * self._burst

    def take(self, now: float, keep: float = 0.0) -> bool:
        """The same, and counts the event."""
        if not self.has(now, keep):
            return False
        self._tokens -= 1
        return True


class PatientBucket:
    """A token bucket that lets a repetition of what it held back through, by a rate of its own.

    Honest attempts repeat the same bytes; a flood of garbage needs new ones.

    Args:
        remembered: events held back that are remembered at a time; the oldest is forgotten first.
    """

    __slots__ = ("_bucket", "_held_back", "_remembered", "_repeats")

    def __init__(self, rate: float, burst: float, remembered: int) -> None:
        self._bucket = TokenBucket(rate, burst)
        self._repeats = TokenBucket(rate / 2, rate / 2)
        self._remembered = remembered
        self._held_back: dict[Hashable, None] = {}

    def take(self, event: Hashable, now: float, keep: float = 0.0) -> bool:
        """True if this event is allowed now; ``keep`` as in :meth:`TokenBucket.take`."""
        return self._bucket.take(now, keep) or self._repeats_itself(event, now)

    def _repeats_itself(self, event: Hashable, now: float) -> bool:
        if event in self._held_back:
            return self._repeats.take(now)
        self._held_back[event] = None
        if len(self._held_back) > self._remembered:
            del self._held_back[next(iter(self._held_back))]
        return False
