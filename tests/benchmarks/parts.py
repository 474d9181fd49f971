"""What several adapters need: messages in a stream, a bound for what is on its way, a queue for asyncio."""

from __future__ import annotations

import asyncio
import struct
from collections import deque

LENGTH = struct.Struct(">I")
COUNT = struct.Struct(">Q")
PIECE = 64 * 1024
"""Bytes of a part of a large message, where the library wants it in parts."""


def framed(message: bytes) -> bytes:
    """The message after its length, for a stream."""
    return LENGTH.pack(len(message)) + message


class Frames:
    """Cuts a stream into the messages that :func:`framed` put there."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._need = LENGTH.size

    def feed(self, data: bytes | bytearray) -> list[bytearray]:
        """The messages that are complete with these bytes."""
        rest = self._rest
        rest += data
        have = len(rest)
        if have < self._need:
            return []
        messages: list[bytearray] = []
        at, need = 0, LENGTH.size
        while have - at >= need:
            start = at + LENGTH.size
            end = start + LENGTH.unpack_from(rest, at)[0]
            if end > have:
                need = end - at
                break
            messages.append(rest[start:end])
            at = end
        self._need = need
        del rest[:at]
        return messages


class Window:
    """Bounds what is on its way with a library that takes everything at once and does not say what it still holds.

    The receiver tells from time to time how many bytes it has got.

    Attributes:
        size: bytes that may be on their way.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._sent = self._taken = self._got = self._told = 0

    def send(self, count: int) -> None:
        """So many bytes are given to the library."""
        self._sent += count

    def taken(self, count: bytes) -> None:
        """The other end has told its :meth:`count`."""
        self._taken = max(self._taken, *COUNT.unpack(count))

    @property
    def full(self) -> bool:
        """Whether to wait before the next bytes."""
        return self._sent - self._taken >= self.size

    @property
    def empty(self) -> bool:
        """Whether the other end has everything."""
        return self._taken >= self._sent

    def got(self, count: int) -> bool:
        """So many bytes have come; whether to tell the other end."""
        self._got += count
        return self._got - self._told >= self.size // 8

    def count(self) -> bytes:
        """What to tell the other end."""
        self._told = self._got
        return COUNT.pack(self._got)


class Inbox:
    """Messages for one task of asyncio, put there by callbacks on the same event loop."""

    def __init__(self) -> None:
        self._messages: deque[bytes | bytearray] = deque()
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self.closed = False

    def put(self, *messages: bytes | bytearray) -> None:
        """These have come, if any."""
        if messages:
            self._messages.extend(messages)
            self._wake()

    def close(self) -> None:
        """No more will come."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def get(self, timeout: float) -> bytes | bytearray | None:
        """The next message; None if none comes in so many seconds, or ever."""
        if not self._messages and not self.closed:
            self._waiter = self._loop.create_future()
            timer = self._loop.call_later(timeout, self._wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
        return self._messages.popleft() if self._messages else None
