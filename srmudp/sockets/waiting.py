"""Waiting and waking with raw locks: cheaper than ``threading.Condition`` and safe to use beside signal handlers.

A *baton* is a plain lock that is born taken: waiting is taking it with a time limit, waking is letting it go.
Letting go of a free one means that the wake-up is pending already, so that error is swallowed.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterable
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Protocol, TypeVar

T = TypeVar("T")

_ALL_TIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)
"""A clock that also goes on while the machine sleeps, where ``monotonic()`` does not."""
if sys.platform == "darwin":
    _ALL_TIME = time.CLOCK_MONOTONIC
_SLICE = 0.2 if sys.platform == "win32" else threading.TIMEOUT_MAX
"""Longest single wait in seconds. On Windows a thread that waits for a lock does not notice Ctrl-C."""

_HELD_UP = 0.0001
"""Seconds that asking about two descriptors takes if something else ran meanwhile; otherwise 0.000001."""


def time_asleep() -> float:
    """Seconds this machine has slept so far, from any beginning: only differences mean something.

    ``monotonic()`` stands still in sleep on Linux and macOS, and goes on elsewhere; there the answer is always 0.
    """
    if _ALL_TIME is None:
        return 0.0
    return time.clock_gettime(_ALL_TIME) - time.monotonic()


class Baton:
    """One sleeper, any number of wakers. A wake-up that comes before the sleep is not lost; several count as one."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wake(self) -> None:
        """Let the sleeper go on. Any thread, also a signal handler; never blocks."""
        with contextlib.suppress(RuntimeError):
            self._lock.release()

    def sleep(self, timeout: float | None) -> bool:
        """Wait to be woken.

        Args:
            timeout: seconds, or None for ever.

        Returns:
            True if woken, False when the time was over.
        """
        if timeout is not None and timeout <= _SLICE:
            return self._lock.acquire(timeout=max(0.0, timeout))
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            remaining = _SLICE if deadline is None else min(_SLICE, deadline - monotonic())
            if self._lock.acquire(timeout=max(0.0, remaining)):
                return True
            if deadline is not None and monotonic() >= deadline:
                return False


def take(queue: SimpleQueue[T], timeout: float | None) -> T:
    """The next item of ``queue``; Ctrl-C ends the wait on every system.

    Raises:
        Empty: nothing came within ``timeout`` seconds (None: wait for ever).
    """
    if timeout is not None and timeout <= 0:
        return queue.get_nowait()
    if _SLICE == threading.TIMEOUT_MAX:
        return queue.get(timeout=None if timeout is None else min(timeout, threading.TIMEOUT_MAX))
    deadline = None if timeout is None else monotonic() + timeout
    while True:
        remaining = _SLICE if deadline is None else min(_SLICE, deadline - monotonic())
        try:
            return queue.get(timeout=max(0.0, remaining))
        except Empty:
            if deadline is not None and monotonic() >= deadline:
                raise


class Waker(Protocol):
    """Something that sleeps and can be woken: a :class:`Baton`, or a task's."""

    def wake(self) -> None: ...


class Topics:
    """Batons waiting for something to change, by topic. Methods are called one at a time: under the endpoint lock."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[Hashable, list[Waker]] = {}

    def add(self, topics: Iterable[Hashable], baton: Waker) -> None:
        """Have ``baton`` woken, once, by whichever topic comes first."""
        for topic in topics:
            self._waiting.setdefault(topic, []).append(baton)

    def discard(self, topics: Iterable[Hashable], baton: Waker) -> None:
        """Forget a baton that no longer waits; unknown ones are ignored."""
        for topic in topics:
            batons = self._waiting.get(topic)
            if batons is not None and baton in batons:
                batons.remove(baton)
                if not batons:
                    del self._waiting[topic]

    def wake(self, topic: Hashable) -> None:
        """Wake all who wait for ``topic``. They look under the lock for what they need and wait again if it is gone."""
        if self._waiting:
            for baton in self._waiting.pop(topic, ()):
                baton.wake()

    def wake_all(self) -> None:
        """Wake everybody: the socket is closing."""
        waiting, self._waiting = self._waiting, {}
        for batons in waiting.values():
            for baton in batons:
                baton.wake()


class Wakeup:
    """A pair of connected sockets: a descriptor that can be made readable and quiet again.

    A socket pair and not a pipe or eventfd, for Windows can wait for nothing else beside a UDP socket.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        """The descriptor to wait on; -1 after :meth:`close`."""
        return self._reader.fileno()

    def set(self) -> None:
        """Make it readable. Any thread; never blocks and never raises."""
        with contextlib.suppress(OSError):  # full: it is readable already; closed: nobody waits
            self._writer.send(b"\0")

    def clear(self) -> None:
        """Make it quiet. One thread at a time."""
        with contextlib.suppress(OSError):
            while len(self._reader.recv(4096)) == 4096:
                pass

    def close(self) -> None:
        """Release both descriptors. Idempotent."""
        self._reader.close()
        self._writer.close()


class Poller:
    """Waits for a transport or a :class:`Wakeup`. One thread at a time; a second one gets :class:`RuntimeError`."""

    def __init__(self, transport: int, wakeup: int) -> None:
        self._transport, self._wakeup = transport, wakeup
        self._watched = 0
        self._besides = -1
        self._poll: select.poll | None = None
        if hasattr(select, "poll"):
            self._poll = select.poll()
            self._poll.register(wakeup, select.POLLIN)

    def watch_besides(self, descriptor: int) -> None:
        """Sleep until that is readable, too, from the next time on; -1 for none."""
        self._besides, self._watched = descriptor, -1

    def wait(self, *, reading: bool = True, writing: bool = False, timeout: float | None) -> tuple[bool, bool]:
        """Sleep until woken, or the transport is readable (with ``reading``) or writable (with ``writing``).

        Args:
            timeout: seconds, or None for ever.

        Returns:
            Whether it was woken, and whether the transport is writable (always False without ``writing``).
        """
        if self._poll is None:
            readers = [self._transport, self._wakeup] if reading else [self._wakeup]
            ready = select.select(readers, [self._transport] if writing else [], [], timeout)
            return self._wakeup in ready[0], bool(ready[1])
        watched = select.POLLIN * reading | select.POLLOUT * writing
        if watched != self._watched:
            self._watch(self._poll, watched)
        woken = writable = False
        for descriptor, event in self._poll.poll(None if timeout is None else timeout * 1000):
            if descriptor == self._wakeup:
                woken = True
            elif event & ~select.POLLIN:
                writable = writing
        return woken, writable

    def stay_awake(self, seconds: float, on_held_up: Callable[[], None]) -> bool:
        """Ask again and again, ``seconds`` at most, until woken or the transport is readable. Returns whether it is so.

        Where the system has no ``poll`` it returns False at once.

        Args:
            on_held_up: called if asking took far longer than it does: another thread had the interpreter or another
                program this processor. They can have it now, so it returns False then.
        """
        poll = self._poll
        if poll is None or self._watched != select.POLLIN:
            return False
        now = monotonic()
        until = now + seconds
        while now < until:
            if poll.poll(0):
                return True
            asked, now = now, monotonic()
            if now - asked > _HELD_UP:
                on_held_up()
                break
        return False

    def until_readable(self, timeout: float) -> bool:
        """Sleep until woken or the transport is readable, ``timeout`` seconds at most. Returns whether it was woken."""
        poll = self._poll
        if poll is None or self._watched != select.POLLIN:
            return self.wait(timeout=timeout)[0]
        wakeup = self._wakeup
        ready = poll.poll(timeout * 1000)
        return bool(ready) and (ready[0][0] == wakeup or ready[-1][0] == wakeup)

    def _watch(self, poll: select.poll, watched: int) -> None:
        if watched:
            poll.register(self._transport, watched)  # or changes what it was registered for
        else:
            with contextlib.suppress(KeyError):
                poll.unregister(self._transport)
        if self._besides >= 0:
            poll.register(self._besides, watched & select.POLLIN)
        self._watched = watched
