"""Faults of our own: counted where they happen, told once no lock is held."""

from __future__ import annotations

import logging
from collections import Counter, deque
from typing import TYPE_CHECKING

from .rates import RateLimit

if TYPE_CHECKING:
    from types import TracebackType

    Fault = tuple[type[BaseException], BaseException, TracebackType | None]

log = logging.getLogger("srmudp.sockets")


class Faults:
    """What must not happen and was survived. False in a condition if nothing waits to be logged.

    Args:
        drops: where ``internal_error`` is counted.
    """

    def __init__(self, drops: Counter[str]) -> None:
        self._drops = drops
        self._rate = RateLimit()
        self._waiting: deque[tuple[str, Fault]] = deque(maxlen=4)

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, where: str, error: Exception) -> None:
        """Count it. Under any lock; never waits."""
        self._drops["internal_error"] += 1
        if self._rate():
            self._waiting.append((where, (type(error), error, error.__traceback__)))

    def log(self) -> None:
        """Log what was counted since, not under a lock: handlers of the log may take their time."""
        while self._waiting:
            try:
                where, info = self._waiting.popleft()
            except IndexError:  # another thread was faster
                return
            log.error("! internal error (%s): this is a bug in srmudp, please report it", where, exc_info=info)
