"""How fast a peer's application takes messages, and with how many it may be left.

Nothing on the way holds up a sender of small messages: windows are counted in bytes, and a megabyte of them is half a
second of work for the receiver. What is sent then is old when it is taken. So ``send`` waits a little as soon as more
is not yet taken than the peer will take in some milliseconds, going by the rate at which it took so far.
"""

from __future__ import annotations

from math import inf
from typing import Final

from ..protocol.connection import Connection

LEAST: Final = 256
"""Messages a peer may always be left with."""
AHEAD: Final = 0.005
"""Seconds of its work that it may be left with, besides a round trip: what it says of messages taken comes late."""
SPAN: Final = 0.01
"""Seconds over which the rate is measured at least."""
FAST: Final = 5000.0
"""Messages a second: one who takes fewer is not worth waiting for, as it would not catch up in a moment."""


class Intake:
    """The rate at which the peer at the other end of a connection takes messages."""

    __slots__ = ("_connection", "_count", "_rate", "_since", "_stalled", "_waited_for")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._count = 0
        self._since: float | None = None
        self._rate = 0.0
        self._stalled = False
        self._waited_for = False

    def on_settled(self, count: int, now: float) -> bool:
        """So many messages more were taken, or failed. True if those who wait for that need not any more."""
        self._stalled = False
        pending = self._connection.pending
        since = self._since
        if since is None:
            self._since = now  # those were taken in a time that nobody knows
        else:
            self._count += count
            elapsed = now - since
            if elapsed >= SPAN:
                rate = self._count / elapsed
                self._rate = rate if rate > self._rate else 0.75 * self._rate + 0.25 * rate
                self._count, self._since = 0, now
        if not pending:
            self._count, self._since = 0, None  # with nothing to take it is not slow
        if not self._waited_for or 2 * pending > self.allowance:
            return False
        self._waited_for = False
        return True

    @property
    def allowance(self) -> float:
        """Messages that the peer may be left with: twice what it takes in the time, so that the rate can grow."""
        path = self._connection.path
        if path is None or self._stalled or self._rate < FAST:
            return inf
        return max(LEAST, 2 * self._rate * (path.rtt.minimum + AHEAD))

    def is_exceeded(self) -> bool:
        """Whether the peer has so many to take that more had better wait. RoomFreed follows when it has half of it."""
        if self._connection.pending <= self.allowance:
            return False
        self._waited_for = True
        return True

    @property
    def is_relieved(self) -> bool:
        """True if who found it exceeded need no longer wait."""
        return not self._waited_for

    def on_stalled(self) -> None:
        """It was waited for in vain: it is not exceeded again before the peer takes something."""
        self._waited_for = False
        self._stalled = True
