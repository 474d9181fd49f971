"""A socket run by an event loop, apart from its face: sending, receiving, peers, closing.

:class:`Engine` joins the household (what a socket does), the driver (the loop), the inbox and the hooks (delivery) and
the resolver. Callbacks of the loop lead to it and not to its face, so that a face that is dropped without ``close()``
is noticed by the garbage collector.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Future
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any

from ...exceptions import SocketClosed
from ...models import Address, MappedPort, Message, PeerEvent, PeerId, PublicAddress
from ...protocol.events import Failure
from .. import lifetime
from ..core import Core, deadline_of
from ..discovery import Search, Server
from ..household import IDLE, PEERS, ROOM, SERVERS, Letter
from ..known_peers import KnownPeers
from ..mapping import JOIN, took_too_long
from .delivery import Delivery, Inbox
from .driver import Driver
from .hooks import Hooks, ask
from .resolver import Resolver

if TYPE_CHECKING:
    from ...config import Config
    from ...peers.endpoint import Endpoint
    from ...transports.base import Transport

Accept = Callable[[PeerId, str, Address], bool | Awaitable[bool | None] | None]
"""Decides on a stranger from its proven key, the name it claims and its address; may be awaited. None: later."""

log = logging.getLogger("srmudp.sockets")

_FLUSH_LOOK = 0.25
"""Seconds between looks at what is pending while closing: peers also fall out of the count by mere passing of time."""
_CLOSE_FRAMES = 0.2
"""Seconds the sealed goodbyes may wait for room in the system's buffer."""
_CLOSE_LOOK = 0.002
"""Seconds between looks whether they have gone."""
_CALL = 2.0
"""Seconds a thread of ours waits for the loop to turn."""
_HOOK_JOIN = 1.0
"""Seconds ``close`` waits for a hook that does not return."""


class Engine(Core[Delivery]):
    """One open socket of the running loop; :meth:`start` first."""

    kind = "aio.MultiHolepunchSocket"

    is_being_closed = False
    """Never by another thread; see :class:`~..lifetime.Lived`."""

    def __init__(
        self,
        endpoint: Endpoint,
        transport: Transport,
        config: Config,
        *,
        timeout: float,
        span: float = inf,
        accept: Accept | None = None,
        known: KnownPeers | None = None,
        getaddrinfo: Callable[..., Awaitable[Sequence[tuple[Any, ...]]]] | None = None,
    ) -> None:
        super().__init__(
            *(endpoint, transport, config), timeout=timeout, accept=accept, known=known, new_delivery=Delivery
        )
        self.driver: Driver = Driver(endpoint, transport, self.house.on_event, self.house.tell_news, span)
        self.inbox = Inbox(self.driver.loop)
        self.hooks: Hooks = Hooks(self.driver, self.inbox)
        self.resolver: Resolver = Resolver(
            self.driver.loop, self.house.hosts_of, self._resolved, self._unresolved, getaddrinfo
        )
        self._join()
        self._getaddrinfo = getaddrinfo or self.driver.loop.getaddrinfo
        self._saving: asyncio.Future[None] | None = None
        self._save_again = False
        self._closers = 0
        self._ended = False
        self._finished = False

    def start(self) -> None:
        """Begin to read. Called once.

        Raises:
            LocalProtocolError: this kind of event loop cannot watch a UDP socket.
        """
        self.driver.start()
        lifetime.opened(self)
        if self._accept is not None or self.house.known is not None:
            self.hooks.start()

    # --- events ---

    async def _decide(self, event: PeerEvent) -> None:
        accept, peer_id, address = self._accept, event.peer_id, event.address
        if accept is None or peer_id is None or address is None:
            return
        allow = await ask(lambda: accept(peer_id, event.peer, address))
        if allow is not None:
            self.admit(peer_id, allow)

    def _save(self) -> None:
        """Have the known peers written by the executor; one writing at a time, and then what came meanwhile."""
        known = self.house.known
        self._save_again = self._saving is not None
        if known is None or not known.is_dirty or self._save_again or self._finished:
            return
        try:
            self._saving = self.driver.loop.run_in_executor(None, self.house.save_known)
        except RuntimeError:  # it was shut down; close() writes
            return
        self._saving.add_done_callback(self._on_saved)

    def _on_saved(self, saving: asyncio.Future[None]) -> None:
        self._saving = None
        if not saving.cancelled() and self._save_again:
            self._save()

    # --- peers ---

    async def wait_connected(self, names: Sequence[str] | None, timeout: float | None) -> bool:
        """True once all ``names`` (None: all added) are connected, False if the time is over or the socket closes."""
        self.driver.check_loop()
        try:
            look = functools.partial(self.house.are_connected, names=names)
            return bool(await self.driver.wait_until(look, (PEERS,), deadline_of(timeout)))
        except SocketClosed:
            return False

    # --- our own address ---

    async def discover(
        self, servers: Server | Iterable[Server] | None, timeout: float | None, filtering: bool
    ) -> PublicAddress:
        """Where STUN servers see us; see ``MultiHolepunchSocket.discover``."""
        driver = self.driver
        driver.check_loop()
        search = Search(self.house, self.local_address, servers, filtering)
        deadline = deadline_of(timeout)
        driver.run(search.ask, search.known())
        tasks = [driver.loop.create_task(self._look_up(search, host), name="srmudp-lookup") for host in search.hosts]
        try:
            await driver.wait_until(search.settled, (SERVERS,), deadline)
        except BaseException:
            with contextlib.suppress(SocketClosed):
                driver.run(search.finish)
            raise
        finally:
            for task in tasks:
                task.cancel()
        return search.conclude(driver.run(search.finish), timeout)

    def call(self, work: Callable[..., Any], /, *args: Any) -> Any:
        """See :meth:`Core.call`. The loop does it when it turns."""
        done: Future[Any] = Future()

        def do() -> None:
            try:
                done.set_result(self.driver.run(work, *args))
            except BaseException as error:
                done.set_exception(error)

        try:
            self.driver.loop.call_soon_threadsafe(do)
            return done.result(_CALL)
        except (RuntimeError, TimeoutError):
            raise SocketClosed("the event loop is closed, or does not turn") from None

    async def map_port(self, timeout: float | None) -> MappedPort:
        """Have the router let in what comes for our port; see ``MultiHolepunchSocket.map_port``."""
        self.driver.check_loop()
        keeper, loop = self.mapping.begin(), self.driver.loop
        done = asyncio.Event()

        def tell(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(done.set)

        keeper.first.add_done_callback(tell)
        try:
            await asyncio.wait_for(done.wait(), timeout)
        except TimeoutError:
            keeper.stop(0.0)
            raise took_too_long(timeout) from None
        except asyncio.CancelledError:
            keeper.stop(0.0)
            raise
        return keeper.first.result()

    async def _look_up(self, search: Search, host: tuple[str, int]) -> None:
        answers: Sequence[tuple[Any, ...]] | Exception
        try:
            answers = await self._getaddrinfo(*host, type=socket.SOCK_DGRAM, proto=socket.IPPROTO_UDP)
        except (OSError, UnicodeError) as error:
            answers = error
        with contextlib.suppress(SocketClosed):
            self.driver.run(search.ask, search.looked_up(host, answers), 1)

    # --- sending ---

    async def send(self, letter: Letter, recipient: str | Sequence[str] | None, timeout: float | None) -> Delivery:
        """Queue a message; see ``MultiHolepunchSocket.send``."""
        driver, house = self.driver, self.house
        driver.check_loop()
        house.check_size(letter)
        if driver.is_crowded:
            await asyncio.sleep(0)
        if isinstance(recipient, str):
            delivery = driver.run_checked(house.send_one, recipient, letter)
            if delivery is not None:
                return delivery
            names, delivery = [recipient], Delivery()
        else:
            names, left_out = driver.run_checked(house.address, recipient)
            delivery = Delivery(left_out)
        timeout = self.timeout if timeout is None else timeout
        waiting: list[str] = []
        failure = Failure.QUEUE_FULL
        try:
            driver.run_checked(house.queue_some, delivery, names, waiting, letter)
            if waiting and timeout > 0:
                attempt = functools.partial(house.queue_waiting, delivery=delivery, waiting=waiting, letter=letter)
                await driver.wait_until(attempt, (ROOM,), deadline_of(timeout))
        except SocketClosed:
            known = delivery.pending | delivery.delivered | delivery.failed.keys()
            if not known:
                raise
            waiting, failure = [name for name in names if name not in known], Failure.CLOSED
        except asyncio.CancelledError as error:
            error.add_note(f"send() was cancelled; not queued for: {', '.join(map(repr, waiting))}")
            raise
        driver.peek(house.fail, delivery, waiting, failure)
        house.check_sent(delivery, names, letter, timeout)
        return delivery

    # --- receiving ---

    async def receive(self, timeout: float | None) -> Message | None:
        """The oldest message not taken, or None when the time is over or the socket closed."""
        driver, inbox = self.driver, self.inbox
        driver.check_loop()
        if driver.is_crowded:
            await asyncio.sleep(0)
        letter = inbox.get_now()
        if letter is None and timeout != 0:
            began = driver.begin_wait()
            try:
                letter = await inbox.get(timeout)
            finally:
                driver.end_wait(None if letter is None else letter[0].peer, began)
        if letter is None:
            return None
        # Nothing is waited for from here on: a task that is cancelled has not taken it.
        message, arrived = letter
        try:
            driver.run_checked(self.house.taken, arrived)
        except SocketClosed:
            return None
        except BaseException:  # Ctrl-C: the program never saw it
            inbox.put_back(letter)
            raise
        return message

    # --- the end ---

    async def close_gently(self, timeout: float | None = None) -> None:
        """Flush, say goodbye, leave the loop; see ``MultiHolepunchSocket.close``."""
        if self.is_foreign or self._finished:
            return
        if self.driver.loop.is_closed():
            self.driver.adopt()
            self.release()
            return
        self.driver.check_loop()
        self._flush_until = min(self._flush_until, monotonic() + (self.timeout if timeout is None else timeout))
        self.house.closing = True
        self.inbox.close()
        self.driver.topics.wake_all()  # also other tasks that close: they may have to hurry now
        if self._closers and self.hooks.is_current_task():
            return  # the one that closes waits for this hook to return
        self._closers += 1
        hurry = False
        try:
            while monotonic() < self._flush_until:
                limit = min(self._flush_until, monotonic() + _FLUSH_LOOK)
                if await self.driver.wait_until(self._is_flushed, (IDLE,), limit):
                    break
            # First of all: what a hook is at now counts as taken when it returns, and the goodbye tells what was taken.
            await self.hooks.stop(_HOOK_JOIN)
            await self.resolver.stop()
            self.mapping.end(0.0)
            self._say_goodbye()
            limit = monotonic() + _CLOSE_FRAMES
            while not self.driver.transmit_now() and monotonic() < limit:
                await asyncio.sleep(_CLOSE_LOOK)
            limit = monotonic() + JOIN
            while self.mapping.is_ending and monotonic() < limit:
                await asyncio.sleep(_CLOSE_LOOK)
            self._save()
            if self._saving is not None:
                await asyncio.wait({self._saving})
        except SocketClosed:
            pass  # another task, that closes as well, was faster
        except BaseException:
            hurry = True
            raise
        finally:
            self._closers -= 1
            if not (hurry and self._closers):  # else: the others take their time
                self.release()

    def _say_goodbye(self) -> None:
        if not self._ended:
            self._ended = True
            self.house.tell_undelivered(self.driver.run(self.house.end))
            self.driver.transmit_now()

    def close(self, timeout: float | None = None) -> None:
        """For the end of the program, on another thread or outside the loop: flush if the loop still runs."""
        if self.driver.loop.is_running():
            closing = asyncio.run_coroutine_threadsafe(self.close_gently(timeout), self.driver.loop)
            with contextlib.suppress(TimeoutError):
                closing.result(timeout)
        else:
            self.driver.adopt()
            self.release()
            self.mapping.end()

    def discard(self) -> None:
        self.release()

    def release(self) -> None:
        """Say goodbye and release everything at once, whatever is still to be delivered. Needs no running loop."""
        if self._finished or self.is_foreign:
            return
        self.house.closing = True
        self._finished = True
        self.inbox.close()
        try:
            self._say_goodbye()
        finally:
            self.driver.peek(self.house.fail_rest)
            self.hooks.cancel()
            self.resolver.cancel()
            self.mapping.end(0.0)
            self.driver.stop()
            self.house.save_known()
            lifetime.closed(self)

    def undelivered(self) -> object:
        """See :class:`~..lifetime.Lived`."""
        return None

    def abandon(self) -> None:
        """Close without flushing, when the loop turns; for finalizers, which run anywhere."""
        self.house.closing = True
        if self.driver.loop.is_closed():
            self.driver.adopt()
            self.release()
        else:
            self.driver.loop.call_soon_threadsafe(self.release)
