"""Messages sent once: cut into parts if need be, never sent again, dropped and counted where there is no room."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from typing import Final

from ..wire.frames import MAX_PART_HEADER, UnreliablePart, serialise
from .assembly import IncomingMessage
from .credit import OVERHEAD
from .events import Failure
from .receiving import MAX_GAPS

MAX_PARTIAL: Final = 64
"""Unfinished messages kept; the oldest goes first."""
MAX_PARTS: Final = 256
"""Parts put into one record; with those of reliable messages well below what a reader takes."""


class OutgoingUnreliable:
    """An unreliable message: settled when every record with a part of it is acknowledged, or one is lost."""

    __slots__ = ("channel", "content", "expires", "identifier", "parts", "sent", "token")

    def __init__(self, token: int, channel: int, content: bytes, expires: float | None, identifier: int) -> None:
        self.token = token
        self.channel = channel
        self.content = content
        self.expires = expires
        self.identifier = identifier
        self.sent = 0
        self.parts = 0  # records carrying a part, not yet acknowledged


class UnreliableSendHalf:
    """Unreliable messages waiting for the window to open."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.queue: deque[OutgoingUnreliable] = deque()
        self._unsettled: dict[int, OutgoingUnreliable] = {}
        self._next = 0
        self.queued_bytes = 0
        self.settled: list[tuple[int, Failure | None]] = []

    def add(self, token: int, channel: int, content: bytes, expires: float | None) -> None:
        """Queue a message, or settle it as dropped where the queue is full."""
        message = self._unsettled[self._next] = OutgoingUnreliable(token, channel, content, expires, self._next)
        self._next += 1
        # A message costs more memory than its content.
        if self.queue and self.queued_bytes + len(content) + OVERHEAD * len(self.queue) > self._limit:
            self._settle(message, Failure.DROPPED)
            return
        self.queued_bytes += len(content)
        self.queue.append(message)

    @property
    def pending(self) -> int:
        """Messages not settled."""
        return len(self._unsettled)

    @property
    def has_work(self) -> bool:
        """True if something waits to be sent."""
        return bool(self.queue)

    def fill(self, room: int, out: list[bytes | memoryview], carried: list[OutgoingUnreliable], now: float) -> int:
        """Append parts of at most ``room`` bytes together; returns the bytes appended."""
        used = 0
        while self.queue and room - used > MAX_PART_HEADER and len(carried) < MAX_PARTS:
            message = self.queue[0]
            if message.expires is not None and message.expires <= now and not message.sent:
                self.queue.popleft()
                self.queued_bytes -= len(message.content)
                self._settle(message, Failure.EXPIRED)
                continue
            total = len(message.content)
            size = min(total - message.sent, room - used - MAX_PART_HEADER)
            data = message.content[message.sent : message.sent + size]
            part = serialise(UnreliablePart(message.channel, message.identifier, message.sent, total, data))
            out.append(part)
            used += len(part)
            message.sent += size
            message.parts += 1
            carried.append(message)
            if message.sent >= total:
                self.queue.popleft()
                self.queued_bytes -= total
        return used

    def on_acked(self, message: OutgoingUnreliable) -> None:
        """A record with a part of it was opened."""
        message.parts -= 1
        if not message.parts and message.sent >= len(message.content):
            self._settle(message, None)

    def on_lost(self, message: OutgoingUnreliable) -> None:
        """A record with a part of it was lost."""
        self._settle(message, Failure.LOST)

    def fail_all(self, reason: Failure) -> None:
        """Give up everything not settled."""
        for message in list(self._unsettled.values()):
            self._settle(message, reason)
        self.queue.clear()
        self.queued_bytes = 0

    def _settle(self, message: OutgoingUnreliable, failure: Failure | None) -> None:
        if self._unsettled.pop(message.identifier, None) is not None:
            self.settled.append((message.token, failure))


class UnreliableReceiveHalf:
    """Puts the parts of unreliable messages together, within a bound, and bounds what waits to be taken."""

    def __init__(self, limit: int, max_message_size: int, drops: Counter[str]) -> None:
        self._limit = limit
        self._max_message_size = max_message_size
        self._drops = drops
        self._partial: OrderedDict[int, IncomingMessage] = OrderedDict()
        self._partial_bytes = 0
        self._gaps = 0
        self._finished: OrderedDict[int, None] = OrderedDict()
        self.waiting_bytes = 0  # of messages handed out and not taken, OVERHEAD included

    def on_part(self, part: UnreliablePart) -> bytes | None:
        """Take in a part; returns the message if that was the last one missing."""
        if part.identifier in self._finished:
            return None
        if part.total > min(self._limit, self._max_message_size):
            self._drops["unreliable_too_big"] += 1
            return None
        message = self._partial.get(part.identifier)
        if message is None:
            message = self._partial[part.identifier] = IncomingMessage(part.total)
        if message.total != part.total:
            self._drops["unreliable_inconsistent"] += 1
            return None
        before, gaps = message.have, message.gaps
        message.add(part.offset, part.data)
        self._partial_bytes += message.have - before
        self._gaps += message.gaps - gaps
        if message.have == message.total:
            del self._partial[part.identifier]
            self._partial_bytes -= message.have
            self._finished[part.identifier] = None
            if len(self._finished) > 1024:
                self._finished.popitem(last=False)
            content = message.content()
            if self.waiting_bytes and self.waiting_bytes + OVERHEAD + len(content) > self._limit:
                self._drops["unreliable_queue_full"] += 1
                return None
            self.waiting_bytes += OVERHEAD + len(content)
            return content
        while len(self._partial) > MAX_PARTIAL or self._partial_bytes > self._limit or self._gaps > MAX_GAPS:
            _, dropped = self._partial.popitem(last=False)
            self._partial_bytes -= dropped.have
            self._gaps -= dropped.gaps
            self._drops["unreliable_incomplete"] += 1
        return None

    def on_taken(self, size: int) -> None:
        """The application has a message of ``size`` bytes that ``on_part`` returned."""
        self.waiting_bytes -= OVERHEAD + size

    def restart(self) -> None:
        """A new instance numbers its messages anew."""
        self._partial.clear()
        self._partial_bytes = self._gaps = 0
        self._finished.clear()
