"""The hook task: message hooks, event hooks, the ``accept`` question and whatever else may take its time.

One task of the loop gives everything in order, and waits for hooks that are coroutine functions. It exists only once
something needs it. The order is kept when hooks come and go as it is with threads; see :mod:`..hooks`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from queue import Full
from time import monotonic
from typing import TYPE_CHECKING, Any

from ...exceptions import LocalProtocolError, SocketClosed
from ...models import PeerEvent
from ..hooks import EventHook, MessageHook, Parcel, Registry, check_kind
from ..rates import RateLimit
from .waiting import Waiter

if TYPE_CHECKING:
    from .delivery import Inbox
    from .driver import Driver

log = logging.getLogger("srmudp.hooks")

_RETRY = 0.005
"""Seconds between looks at a full queue: not every kind of queue can tell when there is room."""
_SHIFT = 0.005
"""Seconds of hooks that do not wait for anything, after which other tasks have their turn."""
_CANCELLING = 0.1
"""Seconds a cancelled hook is waited for."""

_Item = Parcel | PeerEvent | Callable[[], Any]


class Hooks(Registry):
    """Registered hooks of one socket and the task that runs them."""

    def __init__(self, driver: Driver, inbox: Inbox) -> None:
        super().__init__(driver, inbox)
        self._driver = driver
        self._queue: deque[_Item] = deque()
        self._parked: dict[str, deque[Parcel]] = {}  # by peer, oldest first
        self._next_retry = 0.0
        self._stopping = False
        self._idle: Waiter | None = None
        self._task: asyncio.Task[None] | None = None
        self._complaint = RateLimit()

    def start(self) -> None:
        """Start the task unless it runs."""
        if (self._task is None or self._task.done()) and not self._stopping:
            self._task = self._driver.loop.create_task(self._loop(), name="srmudp-hooks")

    @staticmethod
    def _check(hook: object, what: str) -> None:
        check_kind(hook, what)

    def _add(self, item: _Item) -> None:
        self._queue.append(item)
        if self._idle is not None:
            self._idle.wake()
        elif self._task is not None and self._task.done():
            self.start()  # a hook ended it by SystemExit or the like, and the program lives on

    def _added(self) -> int:
        return len(self._queue)

    def is_current_task(self) -> bool:
        """True if called from a hook."""
        return self._task is not None and self._task is asyncio.current_task()

    async def stop(self, limit: float) -> bool:
        """End the task once the hook it is in returns. Idempotent.

        Args:
            limit: seconds to wait for that; then the hook is cancelled.

        Returns:
            False if it still runs.
        """
        self._stopping = True
        task = self._task
        if task is None or task.done() or self.is_current_task():
            return True
        if self._idle is not None:
            self._idle.wake()
        await asyncio.wait({task}, timeout=limit)
        if not task.done():
            log.warning("! a hook has not returned for %g s and is cancelled", limit)
            task.cancel()
            await asyncio.wait({task}, timeout=_CANCELLING)
        return task.done()

    def cancel(self) -> None:
        """End the task at once, unless it is the one that calls."""
        self._stopping = True
        self._queue.clear()
        task = self._task
        # Not twice: a hook that has been cancelled may be cleaning up.
        if task is None or task.cancelling() or self._driver.loop.is_closed() or self.is_current_task():
            return
        task.cancel()

    async def _loop(self) -> None:
        busy_since = monotonic()
        try:
            while not self._stopping:
                if self._queue:
                    await self._handle(self._queue.popleft())
                elif not self._parked or (wait := self._next_retry - monotonic()) > 0:
                    self._idle = Waiter(self._driver.loop)
                    try:
                        await self._idle.sleep(wait if self._parked else None)
                    finally:
                        self._idle = None
                    busy_since = monotonic()
                if self._parked and monotonic() >= self._next_retry:
                    await self._retry()
                if monotonic() - busy_since > _SHIFT:
                    await asyncio.sleep(0)
                    busy_since = monotonic()
        except SocketClosed:
            pass

    async def _handle(self, item: _Item) -> None:
        try:
            if isinstance(item, Parcel):
                await self._accept(item)
            elif isinstance(item, PeerEvent):
                await self._announce(item)
            else:
                result = item()
                if inspect.isawaitable(result):
                    await result
        except SocketClosed:
            raise
        except Exception:
            self._complain("a hook")
        except BaseException:
            self._queue.appendleft(item)  # it ends the task, and perhaps the program
            raise

    async def _accept(self, parcel: Parcel) -> None:
        """Give a message to the hooks, unless one of the same peer is parked before it."""
        parked = self._parked.get(parcel.message.peer)
        if parked is not None:
            parked.append(parcel)
        elif not await self._offer(parcel):
            self._parked[parcel.message.peer] = deque([parcel])
            self._next_retry = monotonic() + _RETRY

    async def _retry(self) -> None:
        for peer, parcels in list(self._parked.items()):
            while parcels and await self._offer(parcels[0]):
                parcels.popleft()
            if not parcels:
                del self._parked[peer]
        self._next_retry = monotonic() + _RETRY

    async def _offer(self, parcel: Parcel) -> bool:
        """Give a message to all hooks that have not got it. False if a queue among them is full."""
        hooks, done, full = self._message_hooks, parcel.done, False
        if not hooks and not done:
            self._driver.run(self._pass_on, parcel)
            return True
        for hook in hooks:
            if hook in done:
                continue
            if await self._give(hook, parcel.message):
                done.append(hook)
            else:
                full = True
        if full:
            return False
        self._driver.run(self._taken, parcel)
        return True

    def _taken(self, now: float, parcel: Parcel) -> None:
        self._backlog -= 1
        self._driver.endpoint.message_taken(parcel.arrived, now)

    async def _announce(self, event: PeerEvent) -> None:
        for hook in self._event_hooks:
            if not await self._give(hook, event):
                self._driver.drops["event_queue_full"] += 1

    async def _give(self, hook: MessageHook | EventHook, item: Any) -> bool:
        """Give ``item`` to ``hook`` and wait for it to be done with it. False if it is a queue that is full."""
        try:
            if callable(hook):
                result = hook(item)
                if result is not None and inspect.isawaitable(result):
                    await result
            else:
                hook.put_nowait(item)
        except (Full, asyncio.QueueFull):
            if not callable(hook):
                return False
            self._complain(repr(hook))
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            self._complain(repr(hook))  # something it waited for was cancelled, not the hook
        except Exception:
            self._complain(repr(hook))
        return True

    def _complain(self, hook: str) -> None:
        if self._complaint():
            log.exception("! %s raised; the next message still comes", hook)


async def ask(question: Callable[[], bool | Awaitable[bool | None] | None]) -> bool | None:
    """The truth of ``question()`` or of what it resolves to, or None; an exception means no and is logged."""
    try:
        answer = question()
        if inspect.isawaitable(answer):
            answer = await answer
        return None if answer is None else bool(answer)
    except (SocketClosed, LocalProtocolError):
        return False
    except (asyncio.CancelledError, Exception) as error:
        if isinstance(error, asyncio.CancelledError) and _is_cancelled():
            raise
        log.exception("! accept raised: the stranger is refused")
        return False


def _is_cancelled() -> bool:
    """Whether it is this task that is cancelled, and not just something that it waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
