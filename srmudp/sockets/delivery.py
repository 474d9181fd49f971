"""What became of a message (:class:`Delivery`) and where messages wait for ``receive()`` (:class:`Inbox`)."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, NoReturn

from .waiting import Baton, Waker, Wakeup, take

if TYPE_CHECKING:
    from ..models import Message
    from ..protocol.events import MessageArrived

    Letter = tuple[Message, MessageArrived]


class Outcome:
    """Who took a message, who did not and why: what every kind of delivery knows. Those who wait are a subclass's."""

    # Changed only while the endpoint is worked with (by threads: under its lock). Readers take no lock: they copy a
    # dict in one step, or look at one.
    __slots__ = ("_delivered", "_failed", "_on_wait", "_open", "_pending", "_waiting", "left_out")

    left_out: tuple[str, ...]

    def __init__(self, left_out: Iterable[str] = (), on_wait: Callable[[], None] = lambda: None) -> None:
        self.left_out = tuple(left_out)
        self._on_wait = on_wait
        self._pending: dict[str, None] = {}
        self._delivered: dict[str, None] = {}
        self._failed: dict[str, str] | None = None
        self._waiting: list[Waker] = []
        self._open = False  # recipients may still be added

    @property
    def pending(self) -> frozenset[str]:
        """Names that have not taken the message yet."""
        return frozenset(self._pending)

    @property
    def delivered(self) -> frozenset[str]:
        """Names that have taken it."""
        return frozenset(self._delivered)

    @property
    def failed(self) -> dict[str, str]:
        """Names that never will, each with the reason in words. A copy."""
        failed = self._failed
        return {} if failed is None else dict(failed)

    def __repr__(self) -> str:
        parts = [f"{word}={sorted(names)}" for word, names in self._groups() if names]
        if self._failed:
            parts.append(f"failed={self.failed}")
        return f"<{' '.join(['Delivery', *parts])}>"

    def _groups(self) -> tuple[tuple[str, Iterable[str]], ...]:
        return ("pending", self.pending), ("delivered", self.delivered), ("left_out", self.left_out)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Delivery belongs to its socket and cannot be copied or pickled")

    # --- for the household, while the endpoint is worked with ---

    def expect(self, name: str) -> None:
        """``name`` has the message queued."""
        self._pending[name] = None

    def hold(self, is_open: bool) -> None:
        """While held, recipients may be added and nobody is told that it is over."""
        self._open = is_open
        if not is_open:
            self._wake_if_over()

    def settle(self, name: str, failure: str | None) -> None:
        """``name`` took it (None), or never will (the reason). Later word on the same name is ignored."""
        if name in self._delivered or (self._failed is not None and name in self._failed):
            return
        if failure is None:
            self._delivered[name] = None
        elif self._failed is None:
            self._failed = {name: failure}
        else:
            self._failed[name] = failure
        self._pending.pop(name, None)
        if self._waiting:
            self._wake_if_over()

    def _wake_if_over(self) -> None:
        if self._waiting and not self._pending and not self._open:
            for baton in list(self._waiting):
                baton.wake()


class Delivery(Outcome):
    """What became of one ``send()``: who took the message, who did not and why. Thread-safe; ignoring it is fine.

    *Delivered* means taken by the application at the other end: ``receive()`` returned it, or its hooks did.
    An unreliable message counts as delivered when the other machine has it, and as failed when it was lost.

    Attributes:
        left_out: added peers that ``send()`` to everyone did not address because they have been away too long.

    Example::

        delivery = sock.send(b"move e2e4", recipient="alice")
        if not delivery.wait(5.0):
            print("still waiting for", delivery.pending, "failed:", delivery.failed)
    """

    __slots__ = ()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nobody is pending.

        Args:
            timeout: seconds; None waits for as long as it takes, 0 only looks.

        Returns:
            True if every recipient has taken the message; False if one failed or the time was over.
        """
        if self._pending or self._open:
            deadline = None if timeout is None else monotonic() + timeout
            baton = Baton()
            self._waiting.append(baton)
            self._on_wait()
            # Looked at after the baton is in the list, as it is emptied before the list is: one of the two is seen.
            while (self._pending or self._open) and baton.sleep(
                None if deadline is None else max(0.0, deadline - monotonic())
            ):
                pass
            with contextlib.suppress(ValueError):
                self._waiting.remove(baton)
        return not self._pending and not self._open and not self._failed


class Inbox:
    """Messages waiting for ``receive()``, oldest first. Bounded by flow control: the sender has credit for no more.

    A ``SimpleQueue``: handing over through a ``Condition`` was measured to take three times as long.

    Args:
        nudge: called whenever :meth:`get_now` may give something that it did not before.

    Attributes:
        has_descriptor: :meth:`refresh` has something to do.
    """

    def __init__(self, nudge: Callable[[], None] = lambda: None) -> None:
        self._nudge = nudge
        self._queue: SimpleQueue[Letter | None] = SimpleQueue()
        self._returned: deque[Letter] = deque()
        self._closed = False
        self._signal: Wakeup | None = None
        self.has_descriptor = False
        self._signalled = False
        self._signal_lock = threading.RLock()

    def put(self, letter: Letter) -> None:
        """Append. Called under the endpoint lock, which keeps the order; never waits."""
        self._queue.put(letter)
        self._nudge()

    @property
    def is_empty(self) -> bool:
        """True if :meth:`get` would wait."""
        return not self._ready()

    def has_none(self) -> bool:
        """The same, to be called."""
        return not self._ready()

    def get_now(self) -> Letter | None:
        """The oldest if there is one. Any thread."""
        if self._closed:
            return None
        if self._returned:
            with contextlib.suppress(IndexError):  # another thread was faster
                return self._returned.popleft()
        if self._queue.empty():
            return None
        try:
            letter = self._queue.get_nowait()
        except Empty:  # another thread was faster
            return None
        if letter is None:
            self._queue.put(None)  # for the next who waits
        return letter

    def get(self, timeout: float | None) -> Letter | None:
        """The oldest, or None when the time is over or the inbox closed (then at once). Any thread."""
        letter = self.get_now()
        if letter is None and timeout != 0 and not self._closed:
            with contextlib.suppress(Empty):
                letter = take(self._queue, timeout)
                if letter is None:
                    self._queue.put(None)
        return letter

    def put_back(self, letter: Letter) -> None:
        """The next to be got: whoever got it was interrupted. Any thread."""
        self._returned.append(letter)
        self._nudge()
        self.refresh()

    def drain(self) -> list[Letter]:
        """All that is there, at once; under the endpoint lock."""
        letters = list(self._returned)
        self._returned.clear()
        with contextlib.suppress(Empty):
            while True:
                letter = self._queue.get_nowait()
                if letter is None:
                    self._queue.put(None)
                    break
                letters.append(letter)
        return letters

    def close(self) -> None:
        """Wake everybody who waits. Idempotent."""
        self._closed = True
        self._queue.put(None)
        self._nudge()
        self.refresh()

    def fileno(self) -> int:
        """A descriptor that is readable while :meth:`get` would return at once; made when first asked for."""
        if self._signal is None:
            signal = Wakeup()
            with self._signal_lock:
                if self._signal is None:
                    self._signal = signal
                    self.has_descriptor = True
            if self._signal is not signal:
                signal.close()
        self.refresh()
        return self._signal.fileno()

    def refresh(self) -> None:
        """Make the descriptor agree with the queue. Called without the endpoint lock after each put and get.

        The lock is only tried: if another thread has it, that one looks again after letting go, so the last change is
        always seen. A signal handler may get in between the lines; the frame below it looks again as well.
        """
        signal = self._signal
        if signal is None:
            return
        while self._signalled is not self._ready():
            try:
                if not self._signal_lock.acquire(blocking=False):
                    return
                ready = self._ready()
                if ready:
                    signal.set()
                else:
                    signal.clear()
                self._signalled = ready
            finally:
                try:  # no Python function in between: an interrupt may strike on entering one
                    self._signal_lock.release()
                except RuntimeError:  # another thread's
                    pass

    def _ready(self) -> bool:
        return self._closed or bool(self._returned) or not self._queue.empty()

    def release(self) -> None:
        """Close the descriptor, if there is one."""
        if self._signal is not None:
            self._signal.close()
