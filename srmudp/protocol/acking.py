"""When an acknowledgement is due (RFC 9000 section 13.2): after a burst, after a quarter of the window, in time."""

from __future__ import annotations

from math import inf
from typing import Final

from ..config import MIN_MTU

FULL: Final = 2 * MIN_MTU
"""Bytes after which a burst is acknowledged at once: two datagrams of full size (RFC 5681 section 4.2).

Smaller ones come from a sender that has little to say, and wait for more of them, for an answer that the ack can travel
with, or for the delay."""


class AckTiming:
    """What was received since the last acknowledgement, and when the next one must go.

    Args:
        delay: seconds an acknowledgement is held back at most.
    """

    __slots__ = ("_bytes", "_datagrams", "_delay", "_gap", "_sent_at", "at", "now", "peer_window")

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._datagrams = self._bytes = 0
        self._gap = False  # something is missing: the sender should soon know
        self._sent_at = -inf
        self.now = False
        """True if one must go at once."""
        self.at: float | None = None
        """When one must go."""
        self.peer_window = 0
        """The congestion window that the peer told, bytes; 0 if none."""

    @property
    def owed(self) -> bool:
        """True if the peer waits for an acknowledgement of something."""
        return self._datagrams > 0

    def waits(self, now: float) -> bool:
        """True while even a record that leaves anyway need not carry an acknowledgement: a later one will do.

        Where questions and answers follow each other fast, acknowledging each would cost as much as the rest of it. So
        that none has to leave for it alone, there must be room and time for another one such as came since the last.
        """
        since, count = now - self._sent_at, self._datagrams or 1
        more = 1 + 1 / count
        return not self.now and more * self._bytes < FULL and more * since < self._delay

    def on_record(self, datagrams: int, size: int, in_order: bool) -> None:
        """A record that elicits an acknowledgement was opened."""
        self._datagrams += datagrams
        self._bytes += size
        if not in_order:
            self._gap = True
        if self.peer_window and self._bytes >= self.peer_window // 4 and self._datagrams > 1:
            self.now = True

    def on_incomplete(self, datagrams: int) -> None:
        """Segments came that did not complete a record: their arrival must be told for loss to be found."""
        self._datagrams += datagrams
        self._gap = True

    def on_burst_end(self, now: float) -> None:
        """Nothing more is waiting to be read."""
        if self._datagrams >= 2 and (self._bytes >= FULL or self._gap):
            self.now = True
        elif self._datagrams and self.at is None:
            self.at = now + self._delay

    def on_timer(self, now: float) -> None:
        """Time has passed."""
        if self.at is not None and self.at <= now:
            self.at = None
            self.now = True

    def again(self) -> None:
        """What was acknowledged lately may not have arrived: say it once more, at once."""
        self._datagrams = max(1, self._datagrams)
        self.now = True

    def on_sent(self, now: float) -> None:
        """All there was to acknowledge is on its way."""
        self._sent_at = now
        self.now = False
        self.at = None
        self._gap = False
        self._datagrams = self._bytes = 0
