"""The hook thread: message hooks, event hooks, the ``accept`` question and whatever else may take its time.

Nothing here runs under the endpoint lock or on the receiver thread, and the thread exists only once something needs
it.

Order is kept when hooks come and go. Under the lock, an arriving message goes to the hook thread if there is a hook
*or* a message of before still waits there, and to the inbox otherwise; the hook thread passes what it finds without
a hook on to the inbox. When the first hook comes, what waits in the inbox is moved over.
"""

from __future__ import annotations

import inspect
import logging
import threading
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable
from queue import Empty, Full, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ..exceptions import LocalProtocolError, SocketClosed
from ..models import Message, PeerEvent
from .rates import RateLimit

if TYPE_CHECKING:
    from ..protocol.events import MessageArrived
    from .delivery import Inbox, Letter
    from .driver import Driver

log = logging.getLogger("srmudp.hooks")

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

_RETRY = 0.005
"""Seconds between looks at a full queue: the standard ``Queue`` has no way to tell a producer that there is room."""
_EVENT_BACKLOG = 10_000
"""Events waiting for a slow hook at most; more are dropped and counted."""


class Putting(Protocol[T_contra]):
    """A thread-safe queue, such as ``queue.Queue`` or ``queue.SimpleQueue``."""

    def put_nowait(self, item: T_contra, /) -> object: ...


MessageHook = Callable[[Message], object] | Putting[Message]
"""Called with each message, or a queue each message is put into."""
EventHook = Callable[[PeerEvent], object] | Putting[PeerEvent]
"""Called with each event, or a queue each event is put into."""


class Parcel:
    """A message on its way through the hooks; ``done`` are those that have it, ``taken`` that the sender is told."""

    __slots__ = ("arrived", "done", "message", "taken")

    def __init__(self, message: Message, arrived: MessageArrived) -> None:
        self.message = message
        self.arrived = arrived
        self.done: list[MessageHook] = []
        self.taken = False


def check_hook(hook: object, *, what: str) -> None:
    """Return quietly if ``hook`` can be called or put into from another thread.

    Raises:
        TypeError: neither, or a queue that belongs to an event loop.
    """
    if type(hook).__module__.split(".")[0] == "asyncio":
        raise TypeError("an asyncio queue is not thread-safe: use lambda m: loop.call_soon_threadsafe(q.put_nowait, m)")
    if inspect.iscoroutinefunction(hook):
        raise TypeError(
            f"{what} cannot be a coroutine function: nothing would await it (srmudp.aio has sockets that do)"
        )
    check_kind(hook, what)


def check_kind(hook: object, what: str) -> None:
    """Return quietly if ``hook`` can be called or put into.

    Raises:
        TypeError: neither.
    """
    if not callable(hook) and not callable(getattr(hook, "put_nowait", None)):
        raise TypeError(f"{what} must be callable or a queue.Queue, not {type(hook).__name__}")


class Runs(Protocol):
    """What registered hooks ask of the driver: a call into the endpoint, and where to count what is dropped."""

    drops: Counter[str]

    def run(self, work: Callable[[float, Any], T], argument: Any, /) -> T: ...


class Drained(Protocol):
    """What they ask of the inbox."""

    def put(self, letter: Letter, /) -> None: ...
    def drain(self) -> list[Letter]: ...


class Registry(ABC):
    """Which hooks there are and what they are to be given; subclasses give it to them."""

    def __init__(self, driver: Runs, inbox: Drained) -> None:
        self._runs = driver
        self._drained = inbox
        self._message_hooks: tuple[MessageHook, ...] = ()
        self._event_hooks: tuple[EventHook, ...] = ()
        self._backlog = 0  # parcels put and not yet taken or passed on; under the lock

    @abstractmethod
    def start(self) -> None:
        """Begin to give, unless that was begun already."""

    @staticmethod
    @abstractmethod
    def _check(hook: object, what: str) -> None:
        """Return quietly if ``hook`` can be given something; :class:`TypeError` if not."""

    @abstractmethod
    def _add(self, item: Parcel | PeerEvent | Callable[[], Any]) -> None:
        """Have this done after all that was added before."""

    @abstractmethod
    def _added(self) -> int:
        """How many of these wait."""

    # --- registration ---

    def add_message_hook(self, hook: MessageHook) -> None:
        """Have ``hook`` given each message from now on, and those that wait in the inbox. A second time is ignored."""
        self._check(hook, "a message hook")
        self.start()
        self._runs.run(self._add_message_hook, hook)

    def _add_message_hook(self, now: float, hook: MessageHook) -> None:
        if hook in self._message_hooks:
            return
        first = not self._message_hooks
        self._message_hooks = (*self._message_hooks, hook)
        if first:
            for message, arrived in self._drained.drain():
                self._put(Parcel(message, arrived))

    def remove_message_hook(self, hook: MessageHook) -> None:
        """Undo :meth:`add_message_hook`.

        Raises:
            ValueError: it is not registered.
        """
        self._runs.run(self._remove_message_hook, hook)

    def _remove_message_hook(self, now: float, hook: MessageHook) -> None:
        self._message_hooks = _without(self._message_hooks, hook)

    def add_event_hook(self, hook: EventHook) -> None:
        """Have ``hook`` given each event from now on. A second time is ignored."""
        self._check(hook, "an event hook")
        self.start()
        self._runs.run(self._add_event_hook, hook)

    def _add_event_hook(self, now: float, hook: EventHook) -> None:
        if hook not in self._event_hooks:
            self._event_hooks = (*self._event_hooks, hook)

    def remove_event_hook(self, hook: EventHook) -> None:
        """Undo :meth:`add_event_hook`.

        Raises:
            ValueError: it is not registered.
        """
        self._runs.run(self._remove_event_hook, hook)

    def _remove_event_hook(self, now: float, hook: EventHook) -> None:
        self._event_hooks = _without(self._event_hooks, hook)

    # --- from the engine, while the endpoint is worked with ---

    def deliver(self, message: Message, arrived: MessageArrived) -> None:
        """Hand a message to the hooks, or to the inbox if there are none."""
        if self._message_hooks or self._backlog:
            self._put(Parcel(message, arrived))
        else:
            self._drained.put((message, arrived))

    def _put(self, parcel: Parcel) -> None:
        self._backlog += 1
        self._add(parcel)

    def announce(self, event: PeerEvent) -> None:
        """Hand an event to the event hooks, if there are any."""
        if self._event_hooks:
            if self._added() - self._backlog > _EVENT_BACKLOG:
                self._runs.drops["event_queue_full"] += 1
            else:
                self._add(event)

    def call(self, work: Callable[[], Any]) -> None:
        """Have ``work()`` called where hooks are, once :meth:`start` was called."""
        self._add(work)

    def _pass_on(self, now: float, parcel: Parcel) -> None:
        self._backlog -= 1
        self._drained.put((parcel.message, parcel.arrived))


class Hooks(Registry):
    """Registered hooks of one socket and the thread that runs them."""

    def __init__(self, driver: Driver, inbox: Inbox) -> None:
        super().__init__(driver, inbox)
        self._driver = driver
        self._queue: SimpleQueue[Parcel | PeerEvent | Callable[[], Any] | None] = SimpleQueue()
        self._parked: dict[str, deque[Parcel]] = {}  # by peer, oldest first; the hook thread's own
        self._next_retry = 0.0
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._start_lock = threading.Lock()
        self._complaint = RateLimit()

    def _add(self, item: Parcel | PeerEvent | Callable[[], Any] | None) -> None:
        self._queue.put(item)
        self._driver.lease.nudge()

    def _added(self) -> int:
        return self._queue.qsize()

    @staticmethod
    def _check(hook: object, what: str) -> None:
        check_hook(hook, what=what)

    # --- the thread ---

    def start(self) -> None:
        """Start the hook thread unless it runs. Not under the endpoint lock."""
        with self._start_lock:
            if self._thread is None and not self._stopping:
                self._thread = threading.Thread(target=self._loop, name="srmudp-hooks", daemon=True)
                self._thread.start()

    def is_current_thread(self) -> bool:
        """True if called from a hook."""
        return self._thread is threading.current_thread()

    def stop(self, limit: float) -> bool:
        """End the thread once the hook it is in returns. Idempotent.

        Args:
            limit: seconds to wait for that.

        Returns:
            False if it still runs.
        """
        self._stopping = True
        self._add(None)
        thread = self._thread
        if thread is None or thread.ident is None:  # another thread is just starting it: it will end at once
            return True
        if thread is not threading.current_thread():
            thread.join(max(0.0, limit))
        return not thread.is_alive()

    def _loop(self) -> None:
        while not self._stopping:
            try:
                item = self._next()
            except Empty:
                item = None
            except SocketClosed:
                return
            try:
                if isinstance(item, Parcel):
                    self._accept(item)
                elif isinstance(item, PeerEvent):
                    self._announce(item)
                elif item is not None:
                    item()
                if self._parked and monotonic() >= self._next_retry:
                    self._retry()
            except SocketClosed:
                return
            except BaseException:  # a hook may raise anything, SystemExit included; the next message still comes
                self._complain("a hook")
            item = None  # a message that was taken must not stay in memory until the next one comes

    def _next(self) -> Parcel | PeerEvent | Callable[[], Any] | None:
        """The next thing to do. With message hooks this thread waits for messages, so it reads the socket itself.

        Raises:
            Empty: nothing came in time.
        """
        queue = self._queue
        if self._message_hooks and not self._parked and queue.empty():
            self._driver.read_until(lambda: None if queue.empty() else True, None)
        return queue.get(timeout=_RETRY if self._parked else None)

    def _accept(self, parcel: Parcel) -> None:
        """Give a message to the hooks, unless one of the same peer is parked before it."""
        parked = self._parked.get(parcel.message.peer)
        if parked is not None:
            parked.append(parcel)
        elif not self._offer(parcel):
            self._parked[parcel.message.peer] = deque([parcel])
            self._next_retry = monotonic() + _RETRY

    def _retry(self) -> None:
        for peer, parcels in list(self._parked.items()):
            while parcels and self._offer(parcels[0]):
                parcels.popleft()
            if not parcels:
                del self._parked[peer]
        self._next_retry = monotonic() + _RETRY

    def _offer(self, parcel: Parcel) -> bool:
        """Give a message to all hooks that have not got it. False if a queue among them is full."""
        hooks, done, full = self._message_hooks, parcel.done, False
        if not hooks and not done:
            self._driver.run(self._pass_on, parcel)
            return True
        for hook in hooks:
            if hook in done:
                continue
            try:
                _give(hook, parcel.message)
            except Full:
                if not callable(hook):
                    full = True
                    continue
                self._complain(repr(hook))
            except BaseException:
                self._complain(repr(hook))
            done.append(hook)
        if full:
            return False
        self._driver.note(self._taken, parcel, self._queue.empty)
        return True

    def _taken(self, now: float, parcel: Parcel) -> None:
        """By way of a note: may be called twice for one message."""
        if not parcel.taken:
            parcel.taken = True
            self._backlog -= 1
        self._driver.endpoint.message_taken(parcel.arrived, now)

    def _announce(self, event: PeerEvent) -> None:
        for hook in self._event_hooks:
            try:
                _give(hook, event)
            except Full:
                self._driver.drops["event_queue_full"] += 1
            except BaseException:
                self._complain(repr(hook))

    def _complain(self, hook: str) -> None:
        if self._complaint():
            log.exception("! %s raised; the next message still comes", hook)


def ask(question: Callable[[], object]) -> bool | None:
    """The truth of ``question()``, or None if it has none yet; an exception means no and is logged."""
    try:
        answer = question()
        return None if answer is None else bool(answer)
    except (SocketClosed, LocalProtocolError):
        return False
    except Exception:
        log.exception("! accept raised: the stranger is refused")
        return False


def _give(hook: Callable[[T], object] | Putting[T], item: T) -> None:
    if callable(hook):
        hook(item)
    else:
        hook.put_nowait(item)


def _without(hooks: tuple[Any, ...], hook: object) -> tuple[Any, ...]:
    if hook not in hooks:
        raise ValueError(f"not registered: {hook!r}")
    return tuple(h for h in hooks if h != hook)
