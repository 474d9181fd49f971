"""Waiting and waking in an event loop. Everything here belongs to the loop's thread."""

from __future__ import annotations

import asyncio


class Waiter:
    """One sleeping task. A wake-up that comes before the sleep is not lost; several count as one.

    Args:
        loop: the running loop.
    """

    __slots__ = ("_future",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._future: asyncio.Future[bool] = loop.create_future()

    def wake(self) -> None:
        """Let the sleeper go on. Nothing happens if its time is over or its task cancelled."""
        if not self._future.done():
            self._future.set_result(True)

    async def sleep(self, timeout: float | None) -> bool:
        """Wait to be woken. Called once.

        Args:
            timeout: seconds, or None for ever.

        Returns:
            True if woken, False when the time was over.
        """
        if timeout is None:
            return await self._future
        timer = self._future.get_loop().call_later(max(0.0, timeout), self._end)
        try:
            return await self._future
        finally:
            timer.cancel()

    def _end(self) -> None:
        if not self._future.done():
            self._future.set_result(False)
