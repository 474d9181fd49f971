"""How much may be on its way: the rules both ends keep, and the memory behind them.

A started message costs its sender the bytes sent of it plus :data:`OVERHEAD`, until the receiver says *taken*. The sum
may not pass the windows the receiver announced, but bytes below a message's *grant* cost nothing. The receiver grants
room to the oldest incomplete message of a channel as it arrives, out of one :class:`ReceiveBudget` per socket.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final

OVERHEAD: Final = 256
"""Bytes every message costs besides its content: bounds how many empty ones can wait. Part of the protocol."""
PATIENCE: Final = 5.0
"""Seconds between looks at the message that has the reserve while others wait for it."""
PROGRESS: Final = 64 * 1024
"""Bytes that must have come of it in between; else the reserve passes on."""
MAX_SEQUENCE: Final = 1 << 60
"""A channel that claims to have come further would run out of numbers. Nobody sends so many messages."""


class ReceiveBudget:
    """Memory for parts of messages larger than a window, shared by all peers of a socket.

    Anybody may take from it down to a reserve of one largest message; the reserve belongs to one message at a time,
    so that of many large messages at least one always gets through. If that one stops (its peer is away, or means no
    good), the reserve passes on. What stopped keeps what it has, so only a message that can be completed with what is
    free gets the reserve: there is always an order in which all can be completed, and never more than the total is
    taken.
    """

    def __init__(self, total: int, reserve: int) -> None:
        self.free = total
        self.reserve = reserve
        self._owner: object | None = None
        self._waiting: dict[Callable[[], object], None] = {}
        self._progress = 0  # bytes of the owner since the last look
        self._look_at = -inf

    def take(self, holder: object, amount: int, retry: Callable[[], object], rest: int = 0) -> bool:
        """Reserve ``amount`` bytes for ``holder``, or have ``retry`` called when asking again makes sense.

        Args:
            rest: bytes that the holder will ask for afterwards, in all.
        """
        left = self.free - amount
        if self._owner is None and rest <= left < self.reserve:
            self._owner = holder
            self._look_at = -inf
        if left >= (0 if self._owner is holder else self.reserve):
            self.free = left
            return True
        self._waiting[retry] = None
        return False

    def give_back(self, holder: object, amount: int) -> None:
        """Return what ``holder`` had, and with it the reserve."""
        self.free += amount
        if self._owner is holder:
            self._owner = None
        if amount:
            self._ask_again()

    def on_progress(self, holder: object, size: int) -> None:
        """``size`` more bytes of ``holder`` have come."""
        if self._owner is holder:
            self._progress += size

    def next_timer(self) -> float | None:
        """When to call :meth:`on_timer`; -inf for at once, None while nobody waits."""
        return self._look_at if self._owner is not None and self._waiting else None

    def on_timer(self, now: float) -> None:
        """Have the reserve pass on if its owner does not get ahead."""
        if self._owner is None or not self._waiting or now < self._look_at:
            return
        stopped = self._look_at > -inf and self._progress < PROGRESS
        self._progress = 0
        self._look_at = now + PATIENCE
        if stopped:
            self._owner = None
            self._ask_again()

    def _ask_again(self) -> None:
        for retry in list(self._waiting):  # one by one: an interrupt forgets nobody
            del self._waiting[retry]
            retry()

    def forget(self, retry: Callable[[], object]) -> None:
        """Stop telling somebody who is gone."""
        self._waiting.pop(retry, None)
