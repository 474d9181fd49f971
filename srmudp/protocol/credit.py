"""How much may be on its way: the rules both ends keep, and the memory behind them.

A started message costs its sender the bytes sent of it plus :data:`OVERHEAD`, until the receiver says *taken*. The sum
may not pass the windows the receiver announced, but bytes below a message's *grant* cost nothing. The receiver grants
room to the oldest incomplete message of a channel as it arrives, out of one :class:`ReceiveBudget` per socket.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

OVERHEAD: Final = 256
"""Bytes every message costs besides its content: bounds how many empty ones can wait. Part of the protocol."""
MAX_SEQUENCE: Final = 1 << 60
"""A channel that claims to have come further would run out of numbers. Nobody sends so many messages."""


class ReceiveBudget:
    """Memory for parts of messages larger than a window, shared by all peers of a socket.

    Anybody may take from it down to a reserve of one largest message; the reserve belongs to one message at a time,
    so that of many large messages at least one always gets through.
    """

    def __init__(self, total: int, reserve: int) -> None:
        self.free = total
        self.reserve = reserve
        self._owner: object | None = None
        self._waiting: dict[Callable[[], None], None] = {}

    def take(self, holder: object, amount: int, retry: Callable[[], None]) -> bool:
        """Reserve ``amount`` bytes for ``holder``, or have ``retry`` called when asking again makes sense."""
        if self._owner is None and self.free - amount < self.reserve:
            self._owner = holder
        if self.free - amount >= (0 if self._owner is holder else self.reserve):
            self.free -= amount
            return True
        self._waiting[retry] = None
        return False

    def give_back(self, holder: object, amount: int) -> None:
        """Return what ``holder`` had, and with it the reserve."""
        self.free += amount
        if self._owner is holder:
            self._owner = None
        if amount:
            for retry in list(self._waiting):  # one by one: an interrupt forgets nobody
                del self._waiting[retry]
                retry()

    def forget(self, retry: Callable[[], None]) -> None:
        """Stop telling somebody who is gone."""
        self._waiting.pop(retry, None)
