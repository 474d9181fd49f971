"""A socket run by threads, apart from its face: sending, receiving, peers, closing.

:class:`Engine` joins the household (what a socket does), the driver (threads and the lock), the inbox and the hooks
(delivery) and the resolver. The faces (``multi`` and those to come) own one and are owned by nobody here, so that a
face that is dropped without ``close()`` is noticed by the garbage collector while the threads still run.

What the core calls by way of :meth:`Driver.run` is called under the endpoint lock.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

from ..exceptions import PortMappingFailed, SocketClosed, UnknownPeer
from ..models import Address, MappedPort, Message, PeerEvent, PeerId, PublicAddress
from ..protocol.events import Failure, MessageArrived
from . import lifetime
from .addresses import Target
from .core import Core, deadline_of
from .delivery import Delivery, Inbox
from .discovery import Search, Server
from .driver import Driver
from .hooks import Hooks, ask
from .household import IDLE, PEERS, ROOM, SERVERS, Letter
from .known_peers import KnownPeers
from .mapping import took_too_long
from .resolver import Resolver
from .runner import Reentered

if TYPE_CHECKING:
    from ..config import Config
    from ..peers.endpoint import Endpoint
    from ..transports.base import Transport

Accept = Callable[[PeerId, str, Address], bool | None]
"""Decides on a stranger from its proven key, the name it claims and its address; on the hook thread. None: later."""

log = logging.getLogger("srmudp.sockets")

_AT_ONCE = 64
"""Recipients served in one hold of the lock."""
_CLOSE_FRAMES = 0.2
"""Seconds the sealed goodbyes may wait for room in the system's buffer."""
_SMALL = 1024
"""Bytes of a message that may wait for others when many are sent in a row."""
_LOOK_EVERY = 32
"""Messages sent between two looks whether a peer has too many to take."""
_HELD_BACK = 0.025
"""Seconds ``send`` is held back by that at most, and then not again before the peer takes something."""
_HOOK_JOIN = 1.0
"""Seconds ``close`` waits for a hook that does not return."""
_LOOKUP_JOIN = 0.2
"""Seconds ``close`` waits for a name look-up, which cannot be cut short."""


class Engine(Core[Delivery]):
    """One open socket. Thread-safe; :meth:`start` first."""

    flush_look = 0.25
    """Seconds between looks at what is pending while closing: peers fall out of the count by passing of time, too."""

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
        getaddrinfo: Callable[..., Sequence[tuple[Any, ...]]] | None = None,
    ) -> None:
        super().__init__(
            *(endpoint, transport, config),
            timeout=timeout,
            accept=accept,
            known=known,
            new_delivery=self._new_delivery,
        )
        self.driver: Driver = Driver(endpoint, transport, self.house.on_event, self._after_round, span)
        self.inbox = Inbox(self.driver.lease.nudge)
        self.hooks: Hooks = Hooks(self.driver, self.inbox)
        self.resolver: Resolver = Resolver(self.house.hosts_of, self._resolved, getaddrinfo, self._unresolved)
        self._join()
        self._getaddrinfo = getaddrinfo or socket.getaddrinfo
        self._closer: tuple[int, object] | None = None
        self.is_being_closed = False
        """True from when the application asks for it until it is done."""
        self.after_round: Callable[[], None] | None = None
        """Called without the lock whenever there may be something to read, room to send, or the end may have come."""
        self._sent = 0  # to one recipient
        self._finished = threading.Event()

    def _new_delivery(self, left_out: Iterable[str] = ()) -> Delivery:
        return Delivery(left_out, self.driver.lease.waive)

    def start(self) -> None:
        """Start the threads. Called once."""
        lifetime.opened(self)
        if self._accept is not None or self.house.known is not None:
            self.hooks.start()
        self.driver.start()

    # --- events ---

    def _after_round(self) -> None:
        """Without the lock, after the endpoint was worked with."""
        if self.inbox.has_descriptor:
            self.inbox.refresh()
        if self.house.news:
            self.house.tell_news()
        if self.after_round is not None:
            self.after_round()

    def _decide(self, event: PeerEvent) -> None:
        """On the hook thread."""
        accept, peer_id, address = self._accept, event.peer_id, event.address
        if accept is None or peer_id is None or address is None:
            return
        allow = ask(lambda: accept(peer_id, event.peer, address))
        if allow is not None:
            self.admit(peer_id, allow)

    def _save(self) -> None:
        self.house.save_known()

    # --- peers ---

    def add(self, targets: Mapping[str, Target]) -> None:
        """Add peers, all of them or, with an exception, none; see :meth:`Core.add`."""
        if any(target.hosts for target in targets.values()):
            self.resolver.start()
        super().add(targets)

    def wait_connected(self, names: Sequence[str] | None, timeout: float | None) -> bool:
        """True once all ``names`` (None: all added) are connected, False if the time is over or the socket closes."""
        try:
            look = functools.partial(self.house.are_connected, names=names)
            return bool(self.driver.wait_until(look, (PEERS,), deadline_of(timeout)))
        except SocketClosed:
            return False

    # --- our own address ---

    def discover(
        self, servers: Server | Iterable[Server] | None, timeout: float | None, filtering: bool
    ) -> PublicAddress:
        """Where STUN servers see us; see ``MultiHolepunchSocket.discover``."""
        driver = self.driver
        driver.check_process()
        search = Search(self.house, self.local_address, servers, filtering)
        deadline = deadline_of(timeout)
        driver.run(search.ask, search.known())
        for host in search.hosts:  # each on a thread of its own, for that may take long
            threading.Thread(target=self._look_up, args=(search, host), name="srmudp-lookup", daemon=True).start()
        try:
            driver.wait_until(search.settled, (SERVERS,), deadline)
        except BaseException:
            with contextlib.suppress(SocketClosed):
                driver.run(search.finish)
            raise
        return search.conclude(driver.run(search.finish), timeout)

    def call(self, work: Callable[..., Any], /, *args: Any) -> Any:
        """See :meth:`Core.call`."""
        return self.driver.run(work, *args)

    def map_port(self, timeout: float | None) -> MappedPort:
        """Have the router let in what comes for our port; see ``MultiHolepunchSocket.map_port``."""
        self.driver.check_process()
        keeper = self.mapping.begin()
        try:
            return keeper.first.result(timeout)
        except TimeoutError:
            keeper.stop(0.0)
            raise took_too_long(timeout) from None
        except PortMappingFailed:
            raise
        except BaseException:  # Ctrl-C
            keeper.stop(0.0)
            raise

    def _look_up(self, search: Search, host: tuple[str, int]) -> None:
        answers: Sequence[tuple[Any, ...]] | Exception
        try:
            answers = self._getaddrinfo(*host, type=socket.SOCK_DGRAM, proto=socket.IPPROTO_UDP)
        except (OSError, UnicodeError) as error:
            answers = error
        with contextlib.suppress(SocketClosed):
            self.driver.run(search.ask, search.looked_up(host, answers), 1)

    # --- sending ---

    def send(self, letter: Letter, recipient: str | Sequence[str] | None, timeout: float | None) -> Delivery:
        """Queue a message and transmit what the window allows; see ``MultiHolepunchSocket.send``."""
        if len(letter.content) > self.house.config.max_message_size:
            self.house.check_size(letter)
        try:
            if isinstance(recipient, str):
                run = self.driver.run_gathering if len(letter.content) <= _SMALL else self.driver.run
                delivery = run(self.house.send_one, recipient, letter)
                if delivery is not None:
                    self._sent += 1
                    if not self._sent % _LOOK_EVERY and timeout != 0 and letter.reliable:
                        self._hold_back(recipient, letter, self.timeout if timeout is None else timeout)
                    return delivery
                names, delivery = [recipient], self._new_delivery()
            else:
                names, left_out = self.driver.run(self.house.address, recipient)
                delivery = self._new_delivery(left_out)
            return self._send_some(delivery, names, letter, self.timeout if timeout is None else timeout)
        except Reentered:
            delivery = self._new_delivery()
            delivery.hold(True)
            self.driver.defer(functools.partial(self._send_deferred, delivery, recipient, letter))
            return delivery

    def _hold_back(self, name: str, letter: Letter, timeout: float) -> None:
        """Wait a moment if a peer has too many small messages to take already: they would be old when it takes them."""
        driver, house = self.driver, self.house
        try:
            if len(letter.content) > _SMALL:
                return
            # A hook that waited would itself not take what comes, and the other end may do the same.
            if self.hooks.is_current_thread() or driver.is_own_thread() or not driver.peek(house.is_crowded, name):
                return
            look = functools.partial(house.is_relieved, name=name)
            if not driver.wait_until(look, (ROOM,), monotonic() + min(timeout, _HELD_BACK)) and timeout >= _HELD_BACK:
                driver.peek(house.note_stalled, name)
        except (Reentered, UnknownPeer, SocketClosed):
            pass  # the message was queued

    def _send_some(self, delivery: Delivery, names: list[str], letter: Letter, timeout: float) -> Delivery:
        """Queue for all who have room, wait for the others, fail the rest."""
        deadline = monotonic() + timeout
        waiting: list[str] = []
        try:
            for start in range(0, len(names), _AT_ONCE):
                self.driver.run(self.house.queue_some, delivery, names[start : start + _AT_ONCE], waiting, letter)
            if waiting and timeout > 0 and not self.driver.interrupted_here():
                attempt = functools.partial(self.house.queue_waiting, delivery=delivery, waiting=waiting, letter=letter)
                self.driver.wait_until(attempt, (ROOM,), deadline)
            failure = Failure.QUEUE_FULL
        except SocketClosed:
            known = delivery.pending | delivery.delivered | delivery.failed.keys()
            if not known:
                raise
            waiting, failure = [name for name in names if name not in known], Failure.CLOSED
        if waiting:
            self.driver.peek(self.house.fail, delivery, waiting, failure)
        self.house.check_sent(delivery, names, letter, timeout)
        return delivery

    def _send_deferred(self, delivery: Delivery, recipient: str | Sequence[str] | None, letter: Letter) -> None:
        """On the timer thread: a send from a signal handler that could not be made there. Never waits for room."""
        names = [] if recipient is None else [recipient] if isinstance(recipient, str) else list(recipient)
        waiting: list[str] = []
        failure = Failure.QUEUE_FULL
        try:
            if recipient is None:
                names, delivery.left_out = self.driver.run(self.house.address, None)
            self.driver.run(self.house.queue_some, delivery, dict.fromkeys(names), waiting, letter)
        except SocketClosed:
            waiting, failure = names, Failure.CLOSED
        self.driver.peek(self.house.fail, delivery, waiting, failure)
        delivery.hold(False)

    # --- receiving ---

    def receive(self, timeout: float | None) -> Message | None:
        """The oldest message not taken, or None when the time is over or the socket closed."""
        letter = self.fetch(timeout)
        return letter[0] if letter is not None and self.note_taken(letter) else None

    def fetch(self, timeout: float | None) -> tuple[Message, MessageArrived] | None:
        """As :meth:`receive`, but it is not taken until :meth:`note_taken`."""
        driver, inbox = self.driver, self.inbox
        driver.check_process()
        letter = inbox.get_now()
        if letter is None and timeout != 0 and not self.house.closing:
            deadline = None if timeout is None else monotonic() + timeout
            try:
                found: tuple[Message, MessageArrived] | Literal[False] | None
                found = driver.read_until(self._look, deadline)
                if found is False:
                    return None
                letter = found
            except Reentered:  # a signal handler: others read
                pass
            except SocketClosed:
                return None
            if letter is None:
                remaining = None if deadline is None else max(0.0, deadline - monotonic())
                letter = driver.lease.wait(inbox.get, remaining)
        return letter

    def _look(self) -> tuple[Message, MessageArrived] | Literal[False] | None:
        """The oldest message if there is one; False when closing begins, so that nobody is kept while it flushes."""
        letter = self.inbox.get_now()
        return False if letter is None and self.house.closing else letter

    def note_taken(self, letter: tuple[Message, MessageArrived]) -> bool:
        """The application has this message. False if the socket is closed."""
        driver, inbox = self.driver, self.inbox
        try:
            driver.note(self.house.taken, letter[1], inbox.has_none)
        except Reentered:
            inbox.refresh()
        except SocketClosed:
            return False
        except BaseException:
            # Ctrl-C: the program never saw it. To tell the sender twice that it was taken does no harm.
            inbox.put_back(letter)
            raise
        return True

    # --- the end ---

    def close(self, timeout: float | None = None) -> None:
        """Flush, say goodbye, end the threads; see ``MultiHolepunchSocket.close``."""
        if self.is_foreign or self._finished.is_set():
            return
        self.is_being_closed = True
        if self.driver.interrupted_here():
            self.driver.defer(functools.partial(self._close_elsewhere, timeout))
            return
        until = monotonic() + (self.timeout if timeout is None else timeout)
        me, token = threading.get_ident(), object()
        try:
            while not self.driver.peek(self._claim, (me, token), until):
                closer = self._closer
                if closer is None:
                    continue
                # The frame below this signal handler, or the thread that waits for this hook to return, is at it.
                if closer[0] == me or self.hooks.is_current_thread() or self.driver.is_own_thread():
                    return
                if self._finished.wait(0.05):
                    return
            self._close()
        finally:
            closer = self._closer
            if closer is not None and closer[1] is token:
                self._closer = None  # interrupted half-way: the next close() goes on from there
                self.is_being_closed = False

    def _close_elsewhere(self, timeout: float | None) -> None:
        threading.Thread(target=self.close, args=(timeout,), name="srmudp-closer", daemon=True).start()

    def _claim(self, now: float, claim: tuple[int, object], until: float) -> bool:
        """One thread closes; the others may only make it hurry."""
        self._flush_until = min(self._flush_until, until)
        self.house.closing = True
        self.driver.topics.wake_all()
        if self._closer is not None:
            return False
        self._closer = claim
        return True

    def _close(self) -> None:
        self.inbox.close()
        try:
            while monotonic() < self._flush_until:
                limit = min(self._flush_until, monotonic() + self.flush_look)
                if self.driver.wait_until(self._is_flushed, (IDLE,), limit):
                    break
        except SocketClosed:
            pass  # an earlier, interrupted close came far already
        finally:  # Ctrl-C ends the flushing, not the closing
            self._shut_down()

    def _shut_down(self) -> None:
        hooks_ended = False
        try:
            # First of all: what a hook is at now counts as taken when it returns, and the goodbye tells what was taken.
            hooks_ended = self.hooks.stop(_HOOK_JOIN)
            self.house.tell_undelivered(self.driver.run(self.house.end))
            self.driver.flush_output(_CLOSE_FRAMES)
            self.driver.peek(self.house.fail_rest)
        except SocketClosed:
            pass  # an interrupted close came this far
        finally:
            if not hooks_ended and not self.hooks.is_current_thread():
                log.warning("! a hook has not returned for %g s; its thread is left behind", _HOOK_JOIN)
            self.resolver.stop(_LOOKUP_JOIN)
            self.mapping.end()
            self.driver.stop()
            self.inbox.release()
            self.house.save_known()
            lifetime.closed(self)
            self._finished.set()

    def discard(self) -> None:
        self.close(0.0)

    def undelivered(self) -> object:
        """What is still to be brought home; another value than before if that got on."""
        return self.driver.peek(lambda now: self.house.endpoint.undelivered())

    def abandon(self) -> None:
        """Close without flushing, on the timer thread; takes no lock: for finalizers, which run anywhere."""
        self.house.closing = True
        self._flush_until = -inf
        self.driver.defer(functools.partial(self.close, 0.0))

    def forget_after_fork(self) -> None:
        super().forget_after_fork()
        self.inbox.release()
