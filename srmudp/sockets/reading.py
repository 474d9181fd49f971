"""Who reads the socket: a thread of the application that waits for a message anyway, or else the receiver thread.

A message that the receiver thread reads for a thread in ``receive()`` costs a change of threads: two system calls, a
wake-up and a fight for the interpreter, together more than everything else a small message costs. So whoever waits for
what the socket brings reads it, by a *lease*: a promise to read, or to be back, until a moment. While it lasts the
receiver thread stands by; when it is over, it reads. Nothing is lost if two threads read for a while, or none for the
milliseconds of a grace period: the system keeps the datagrams, and the sender has no more under way than it can keep.

Who reads also keeps the time: a reader looks at the endpoint's deadlines when one is due, and the receiver thread looks
at them when it finds that no reader came back. So in a conversation, where each message brings a deadline that the next
one takes away, no other thread has to be woken for them. :attr:`Lease.looks_at` says when that will be.

The lock is only ever tried. Should an interrupt strike between taking it and noting so, it stays taken: then no thread
of the application reads any more, and the receiver thread does, once the lease is over.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from threading import Lock, get_ident
from time import monotonic
from typing import Final, TypeVar

T = TypeVar("T")

LEASE: Final = 4.0
"""Seconds a reader promises at most, and then anew. Also how long the socket goes unread should it vanish."""
GRACE: Final = 0.003
"""Seconds that a reader who has got its message may be away: to handle it, to answer, and to come back."""
STEP: Final = 0.005
"""Seconds between looks of the receiver thread while readers come and go all the time, and so the longest that the
socket goes unread when the last one has gone. As long as an acknowledgement may wait: it is not late for one."""
QUICK: Final = 0.001
"""Seconds from one coming of readers to the next, in the mean at most, in a quick exchange. There they may be away for
:data:`STEP`: each look of the receiver thread may hold up the reader."""
_STILL: Final = 4
"""Looks at a reader that stays before the receiver thread sleeps for longer. Being woken costs as much as two looks."""


class Lease:
    """Who reads. Every method by any thread, also in a signal handler; :meth:`stand_by` by the receiver thread only.

    Args:
        wake: ends the receiver thread's sleep.
        nudge: ends the reader's sleep.

    Attributes:
        looks_at: when a reader will look at the deadlines, or the receiver thread in its place; ``-inf``: it is awake,
            or back within :data:`STEP`; ``inf``: neither does. Whoever raises it to ``inf`` looks at the deadlines
            afterwards, and whoever sets one looks at this afterwards: one of the two sees the other.
    """

    def __init__(self, wake: Callable[[], None], nudge: Callable[[], None]) -> None:
        self._wake = wake
        self._nudge = nudge
        self._lock = Lock()  # the reader's
        self._holder: int | None = None  # its thread
        self._until = -inf  # the lease: the receiver thread reads from then on
        self._others: set[int] = set()  # threads that wait for what the reader, or the receiver thread, brings
        self._turns = 0  # times a reader went away
        self._seen = 0  # turns when the receiver thread looked last
        self._sleeps_until = -inf  # the receiver thread
        self._step = GRACE  # for which it sleeps while readers come and go
        self._still = _STILL  # looks since one did
        self.looks_at = inf

    @property
    def lasts(self) -> bool:
        """True while the receiver thread is to leave the socket to others."""
        return self._until > monotonic()

    @property
    def ends_soon(self) -> bool:
        """True if nobody reads and the receiver thread wakes up to do so in a moment."""
        return self._holder is None and self._sleeps_until > -inf

    def enter(self) -> bool:
        """This thread wants to read. False if another one does already, so that it need not."""
        me = get_ident()
        if not self._lock.acquire(blocking=False):
            if self._holder == me:  # a signal handler on top of a frame that reads, and cannot while the handler waits
                self.end()
            return False
        self._holder = me
        self._until = monotonic() + LEASE
        self.looks_at = -inf
        return True

    def renew(self) -> float:
        """Still reading. Returns the time."""
        now = monotonic()
        self._until = now + LEASE
        return now

    def leave(self) -> None:
        """This thread has what it waited for, and may be back soon."""
        now = monotonic()
        self._until = now + GRACE  # before anybody else can change it: who waives that, or the next reader
        self._holder = None
        self._lock.release()
        if self._others:
            self.end()
            self.looks_at = inf
            return
        self._turns += 1
        sleeps_until = self._sleeps_until
        if sleeps_until > now + STEP:
            self._wake()
        # If it is awake it may be reading for a while.
        self.looks_at = inf if sleeps_until == -inf else -inf

    def wait(self, get: Callable[[float | None], T], timeout: float | None) -> T:
        """What ``get(timeout)`` returns, which waits for what others read."""
        me = get_ident()
        try:
            self._others.add(me)
            self.waive()
            return get(timeout)
        finally:
            self._others.discard(me)

    def end(self) -> None:
        """Nobody will be back: the receiver thread is to read at once."""
        self._turns += 1
        self._until = -inf
        if self._sleeps_until > -inf:
            self._wake()

    def waive(self) -> None:
        """This thread is about to wait for something else: unless another one reads, the receiver thread is to."""
        if self._holder is None and (self.lasts or self._sleeps_until > -inf):
            self.end()

    def nudge(self) -> None:
        """What a reader may be waiting for has come from elsewhere."""
        holder = self._holder
        if holder is not None and holder != get_ident():
            self._nudge()

    def stand_by(self) -> float:
        """Seconds for which the receiver thread is to leave the socket to others; 0.0 if it is to read.

        It is then to look at the deadlines as well.
        """
        now, until, turns = monotonic(), self._until, self._turns
        if until <= now:
            return self._take_over()
        looks = now + self._step
        if turns != self._seen:
            self._step = step = GRACE if self._still >= _STILL else min(2 * self._step, STEP)
            if (turns - self._seen) * QUICK >= step:
                until += STEP - GRACE
            self._seen, self._still = turns, 0
            looks = now + step
        elif self._still < _STILL:
            self._still += 1
        else:
            looks = until
        self._sleeps_until = until = min(until, looks)
        again = self._until  # who left before that line could not know that we sleep; who leaves after it wakes us
        if again <= now:
            return self._take_over()
        return (min(until, again) if until > now + STEP else until) - now

    def _take_over(self) -> float:
        self._sleeps_until = -inf
        self._still = _STILL
        self.looks_at = inf
        return 0.0
