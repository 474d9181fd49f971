"""Whether who waits for a message stays awake meanwhile: adaptive busy polling, as a mutex spins before it sleeps.

To wake a processor that fell asleep can take as long as all else in a round trip on one machine or over a good wire
(``python -m tests.benchmarks.floor``). So in a quick conversation one asks the system again and again, for a moment,
whether something has come, before one sleeps.
"""

from __future__ import annotations

import os
from typing import Final

AWAKE: Final = 0.00075
"""Seconds that one stays awake at most. A robot's messages, a thousand a second, are farther from each other."""
EARNED: Final = 8
"""Messages in a row, each within :data:`AWAKE`, until the next one is awaited awake."""
NEAR: Final = 2 * AWAKE
"""Seconds within which messages come where to wake two sleepers for each round trip may be all that makes them late."""
_TRIAL: Final = 16
"""Messages awaited awake to see whether they come in time then."""
_RARELY: Final = 1024
"""Messages that were only near from one such trial to the next, at most; every one that fails doubles them."""
_MOST: Final = 64
"""Such messages that count."""
_COST_OF_LATE: Final = 4
"""How many of them one undoes that took longer, or came from elsewhere; the next in a row twice as many, and so on."""
_COST_OF_HELD_UP: Final = 4
"""How many it costs to have been in somebody's way. So it seldom is, where the processors are busy."""


def processors() -> int:
    """How many this process may run on."""
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable else os.cpu_count() or 1


class BusyPoll:
    """For how long to stay awake, as the last messages came.

    One stays awake for a peer whose last messages came within :data:`AWAKE` each. Nobody does at the pace of a person,
    of a game or of the Internet; nor for many peers who speak now and then, though it may be as often in sum; nor for
    datagrams that no message comes of: no stranger can keep a processor busy. A peer can, by messages without end,
    as it could anyhow.

    Where to wake both ends takes so long that no message comes in time, none would ever be awaited awake. So if they
    come within :data:`NEAR`, it is tried now and then whether they come sooner so; both ends try it at about once.

    Not thread-safe.

    Args:
        processors: that this process may run on. On a single one it would keep the peer from answering.
    """

    __slots__ = ("_cost", "_credit", "_near", "_pause", "_processors", "_source", "_trial")

    def __init__(self, processors: int) -> None:
        self._processors = processors
        self._credit = 0
        self._cost = _COST_OF_LATE  # of the next
        self._near = 0  # near messages since the last trial
        self._pause = EARNED  # how many they are to be
        self._trial = 0  # messages that it still lasts
        self._source: object = None

    def time_left(self, waited: float) -> float:
        """Seconds to stay awake from now on; 0.0 or less for none.

        Args:
            waited: seconds for which this message has been waited for already.
        """
        return AWAKE - waited if (self._credit >= EARNED or self._trial) and self._processors > 1 else 0.0

    def on_held_up(self) -> None:
        """Something else wanted the processor, or the interpreter, meanwhile."""
        self._credit -= _COST_OF_HELD_UP
        self._trial = 0

    def on_waited(self, source: object, waited: float) -> None:
        """The wait for a message is over.

        Args:
            source: where it came from; None if none came.
            waited: seconds.
        """
        if self._trial:
            self._trial -= 1
        if source == self._source and waited < AWAKE:
            self._cost = _COST_OF_LATE
            if self._credit < _MOST:
                self._credit += 1
            return
        if self._credit >= EARNED:
            self._pause = EARNED
        self._credit = max(0, self._credit - self._cost)
        self._cost = min(2 * self._cost, _MOST)
        if source != self._source:
            self._source, self._near, self._trial = source, 0, 0
        elif waited < NEAR and not self._trial:
            self._near += 1
            if self._near >= self._pause:
                self._near, self._trial, self._pause = 0, _TRIAL, min(2 * self._pause, _RARELY)
