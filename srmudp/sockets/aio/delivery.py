"""What became of a message (:class:`Delivery`) and where messages wait for ``receive()`` (:class:`Inbox`)."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Generator
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..delivery import Outcome
from .waiting import Waiter

if TYPE_CHECKING:
    from ..delivery import Letter


class Delivery(Outcome):
    """What became of one ``send()``: who took the message, who did not and why. Ignoring it is fine.

    *Delivered* means taken by the application at the other end: ``receive()`` returned it, or its hooks did.
    An unreliable message counts as delivered when the other machine has it, and as failed when it was lost. ``await
    delivery`` is ``await delivery.wait()``. Any number of tasks may wait, and be cancelled.

    Attributes:
        left_out: added peers that ``send()`` to everyone did not address because they have been away too long.

    Example::

        delivery = await sock.send(b"move e2e4", recipient="alice")
        if not await delivery.wait(5.0):
            print("still waiting for", delivery.pending, "failed:", delivery.failed)
    """

    __slots__ = ()

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until nobody is pending.

        Args:
            timeout: seconds; None waits for as long as it takes, 0 only looks.

        Returns:
            True if every recipient has taken the message; False if one failed or the time was over.
        """
        if self._pending and timeout != 0:
            waiter = Waiter(asyncio.get_running_loop())
            self._waiting.append(waiter)
            try:
                await waiter.sleep(timeout)
            finally:
                with contextlib.suppress(ValueError):
                    self._waiting.remove(waiter)
        return not self._pending and not self._failed

    def __await__(self) -> Generator[Any, None, bool]:
        return self.wait().__await__()


class Inbox:
    """Messages waiting for ``receive()``, oldest first. Bounded by flow control: the sender has credit for no more.

    A task that is cancelled takes nothing: :meth:`get` has the message only in the step in which it returns.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._letters: deque[Letter] = deque()
        self._waiting: deque[Waiter] = deque()
        self._closed = False

    def put(self, letter: Letter) -> None:
        """Append."""
        self._letters.append(letter)
        self._wake_one()

    def get_now(self) -> Letter | None:
        """The oldest if there is one and the inbox is not closed."""
        return None if self._closed or not self._letters else self._letters.popleft()

    async def get(self, timeout: float | None) -> Letter | None:
        """The oldest, or None when the time is over or the inbox closed (then at once).

        Args:
            timeout: seconds, or None to wait for as long as it takes.
        """
        deadline = None if timeout is None else monotonic() + timeout
        while not self._letters and not self._closed:
            remaining = None if deadline is None else deadline - monotonic()
            if remaining is not None and remaining <= 0:
                return None
            waiter = Waiter(self._loop)
            self._waiting.append(waiter)
            try:
                await waiter.sleep(remaining)
            except BaseException:
                if self._letters:  # it may have been the one that was woken for them
                    self._wake_one()
                raise
            finally:
                with contextlib.suppress(ValueError):
                    self._waiting.remove(waiter)
        return self.get_now()

    def put_back(self, letter: Letter) -> None:
        """The next to be got: whoever got it was interrupted."""
        self._letters.appendleft(letter)
        self._wake_one()

    def drain(self) -> list[Letter]:
        """All that is there, at once."""
        letters = list(self._letters)
        self._letters.clear()
        return letters

    def close(self) -> None:
        """Wake everybody who waits. Idempotent."""
        self._closed = True
        while self._waiting:
            self._wake_one()

    def _wake_one(self) -> None:
        if self._waiting:
            self._waiting.popleft().wake()
