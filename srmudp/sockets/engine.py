"""What a socket does, apart from its face: sending, receiving, peers, closing.

:class:`Engine` joins the driver (threads and the lock), the inbox and the hooks (delivery) and the resolver. The
faces (``multi`` and those to come) own one and are owned by nobody here, so that a face that is dropped without
``close()`` is noticed by the garbage collector while the threads still run.

Methods whose first argument is ``now`` are called under the endpoint lock, by way of :meth:`Driver.run`.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from time import monotonic, time
from typing import TYPE_CHECKING, Any, NamedTuple

from ..exceptions import LocalProtocolError, MessageTooBig, QueueFull, SocketClosed, UnknownPeer
from ..models import Address, EventKind, Message, PeerEvent, PeerId, PeerStatus, Trust
from ..protocol.events import Event, Failure, MessageArrived, MessageSettled, ResolveWanted, RoomFreed
from . import lifetime
from .addresses import Target
from .delivery import Delivery, Inbox
from .driver import Driver, RateLimit, Reentered
from .hooks import Hooks, ask
from .known_peers import KnownPeers
from .resolver import Resolver

if TYPE_CHECKING:
    from ..config import Config
    from ..peers.endpoint import Endpoint
    from ..transports.base import Transport

Accept = Callable[[PeerId, str, Address], bool]
"""Decides on a stranger from its proven key, the name it claims and its address; on the hook thread."""

log = logging.getLogger("srmudp.sockets")

_AT_ONCE = 64
"""Recipients served in one hold of the lock."""
_FLUSH_LOOK = 0.25
"""Seconds between looks at what is pending while closing: peers also fall out of the count by mere passing of time."""
_CLOSE_FRAMES = 0.2
"""Seconds the sealed goodbyes may wait for room in the system's buffer."""
_SMALL = 1024
"""Bytes of a message that may wait for others when many are sent in a row."""
_HOOK_JOIN = 1.0
"""Seconds ``close`` waits for a hook that does not return."""
_LOOKUP_JOIN = 0.2
"""Seconds ``close`` waits for a name look-up, which cannot be cut short."""

# What threads wait for.
_PEERS = "peers"
_IDLE = "idle"
_ROOM = "room"  # of any peer, as one peer may have several names; few threads ever wait
_KEEP = {EventKind.CONNECTED, EventKind.RECONNECTED, EventKind.PEER_CHANGED, EventKind.ROAMED}


class Letter(NamedTuple):
    """A message to be sent and its options."""

    content: bytes
    channel: int
    reliable: bool
    ttl: float | None
    priority: int = 0


class Engine:
    """One open socket. Thread-safe; :meth:`start` first."""

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
        self.config = config
        self.timeout = timeout
        self.peer_id = endpoint.peer_id
        self.local_address = transport.local_address()
        self.known = known
        self.closing = False
        self.driver = Driver(endpoint, transport, self._on_event, self._after_round, span)
        self.inbox = Inbox(self.driver.lease.nudge)
        self._news: deque[PeerEvent] = deque(maxlen=64)  # to be logged once the lock is let go
        self._news_rate = {kind: RateLimit() for kind in EventKind}
        self.hooks = Hooks(self.driver, self.inbox)
        self.resolver = Resolver(self._hosts_of, self._resolved, getaddrinfo, self._unresolved)
        self._accept = accept
        self._pid = os.getpid()
        self._targets: dict[str, Target] = {}  # added peers, by name; changed under the lock
        # Token to delivery and the name it was sent to (an alias, perhaps); under the lock. Each is settled one day.
        self._deliveries: dict[int, tuple[Delivery, str]] = {}
        self._closer: tuple[int, object] | None = None
        self._flush_until = inf
        self._finished = threading.Event()

    def start(self) -> None:
        """Start the threads. Called once."""
        lifetime.opened(self)
        if self._accept is not None or self.known is not None:
            self.hooks.start()
        self.driver.start()

    @property
    def is_foreign(self) -> bool:
        """True in a child made by ``fork``."""
        return self._pid != os.getpid()

    def __repr__(self) -> str:
        if self.is_foreign:
            state = "of the parent process"
        else:
            state = "closed" if self._finished.is_set() else "closing" if self.closing else "open"
        return f"<MultiHolepunchSocket {state} {self.local_address} peers={len(self._targets)} peer_id={self.peer_id}>"

    # --- events, under the lock ---

    def _on_event(self, event: Event, now: float) -> None:
        if isinstance(event, MessageArrived):
            message = Message(event.content, event.peer, time(), event.peer_id, event.channel)
            self.hooks.deliver(message, event)
        elif isinstance(event, MessageSettled):
            sent = self._deliveries.pop(event.token, None)
            if sent is not None:
                delivery, name = sent
                delivery.settle(name, None if event.failure is None else event.failure.value)
            self.driver.topics.wake(_IDLE)
        elif isinstance(event, RoomFreed):
            self.driver.topics.wake(_ROOM)
        elif isinstance(event, ResolveWanted):
            target = self._targets.get(event.peer)
            if target is not None and target.hosts:
                self.resolver.want(event.peer)
        else:
            self._on_peer_event(event)

    def _after_round(self) -> None:
        """Without the lock, after the endpoint was worked with."""
        self.inbox.refresh()
        while self._news:
            event = self._news.popleft()
            if self._news_rate[event.kind]():
                who = event.peer_id.tag if event.peer_id is not None else "no key yet"
                log.info("= %s (%s) at %s: %s %s", repr(event.peer), who, event.address, event.kind, event.reason)

    def _on_peer_event(self, event: PeerEvent) -> None:
        if log.isEnabledFor(logging.INFO):
            self._news.append(event)
        self.driver.topics.wake(_PEERS)
        self.driver.topics.wake(_ROOM)  # a removed or changed peer has no queue to wait for
        if event.kind is EventKind.PENDING and self._accept is not None:
            self.hooks.call(functools.partial(self._decide, event))
        if self.known is not None and event.kind in _KEEP and event.peer in self._targets:
            self.hooks.call(functools.partial(self._remember, event.peer))
        self.hooks.announce(event)

    def _decide(self, event: PeerEvent) -> None:
        """On the hook thread: ask the application about a stranger."""
        accept, peer_id, address = self._accept, event.peer_id, event.address
        if accept is None or peer_id is None or address is None:
            return
        allow = ask(lambda: accept(peer_id, event.peer, address))
        self.driver.run(self._admit, peer_id, allow)

    def _admit(self, now: float, peer_id: PeerId, allow: bool) -> None:
        self.driver.endpoint.admit(peer_id, allow, now)

    # --- known peers ---

    def _remember(self, name: str) -> None:
        """Write down which key an added peer has proven. On the hook thread."""
        status = self.statuses().get(name)
        if self.known is None or status is None or status.peer_id is None or name not in self._targets:
            return
        # A key matched by its IP address alone is too weak a reason to refuse all others tomorrow.
        if status.trust in (Trust.FIRST_USE, Trust.PINNED):
            pinned = status.trust is Trust.PINNED
            self.known.record(name, status.peer_id, pinned=pinned, address=status.address)
            self._save_known()

    def _save_known(self) -> None:
        if self.known is not None:
            try:
                self.known.save()
            except OSError as error:
                log.error("! cannot write the known peers: %s", error)

    # --- peers ---

    def add(self, targets: Mapping[str, Target]) -> None:
        """Add peers, all of them or, with an exception, none.

        Raises:
            ValueError: a name is taken by another PeerId, or there would be too many peers.
            SocketClosed: too late.
        """
        merged = {name: self._with_known(name, target) for name, target in targets.items()}
        if any(target.hosts for target in merged.values()):
            self.resolver.start()
        self.driver.run(self._add, merged)
        for name, target in merged.items():
            if target.hosts:
                self.resolver.want(name)

    def _with_known(self, name: str, target: Target) -> Target:
        known = None if self.known is None else self.known.get(name)
        if known is not None:
            if target.peer_id not in (None, known.peer_id):
                raise ValueError(
                    f"peer {name!r}: the known-peers file has another PeerId for it, {known.peer_id}; "
                    f"forget({name!r}) first if the new one is right"
                )
            target = target.merged(Target(known.addresses, (), known.peer_id))
        if not target.addresses and not target.hosts and target.peer_id is None:
            raise ValueError(f"peer {name!r}: neither an address nor a PeerId given")
        return target

    def _add(self, now: float, targets: Mapping[str, Target]) -> None:
        self._check_open()
        endpoint, book = self.driver.endpoint, self._targets
        if len(book.keys() | targets.keys()) > self.config.max_peers:
            raise ValueError(f"more than Config.max_peers ({self.config.max_peers}) peers")
        for name, target in targets.items():
            old = book.get(name)
            pins = {None, target.peer_id, None if old is None else old.peer_id}
            if len(pins) > 2:
                raise ValueError(f"peer {name!r}: already added with another PeerId")
        added: list[str] = []
        try:
            for name, target in targets.items():
                try:
                    endpoint.add_peer(name, target.addresses, target.peer_id, now)
                except ValueError as error:
                    raise ValueError(f"peer {name!r}: {error}") from error
                if name not in book:
                    added.append(name)
        except ValueError:
            for name in added:
                endpoint.remove_peer(name, now)
            raise
        for name, target in targets.items():
            book[name] = book[name].merged(target) if name in book else target

    def remove(self, names: Sequence[str]) -> None:
        """Remove peers, all of them or, if one is unknown, none.

        Raises:
            UnknownPeer: nobody has that name.
        """
        self.driver.run(self._remove, names)

    def _remove(self, now: float, names: Sequence[str]) -> None:
        endpoint = self.driver.endpoint
        if len(names) > 1:
            self._check_known(names, endpoint.statuses(now))
        for name in dict.fromkeys(names):
            endpoint.remove_peer(name, now)
            self._targets.pop(name, None)
        self.driver.topics.wake(_ROOM)
        self.driver.topics.wake(_PEERS)

    @staticmethod
    def _check_known(names: Iterable[str], statuses: Mapping[str, PeerStatus]) -> None:
        for name in names:
            if name not in statuses:
                raise UnknownPeer(f"unknown peer {name!r}; there are: {', '.join(map(repr, statuses)) or 'none'}")

    def trust(self, name: str, peer_id: PeerId | None) -> None:
        """Pin ``name`` to ``peer_id`` or to the key it has."""
        self.driver.run(self._trust, name, peer_id)
        status = self.statuses().get(name)
        if self.known is not None and name in self._targets and status is not None:
            pin = peer_id or status.peer_id
            if pin is not None:
                self.known.record(name, pin, pinned=True, address=status.address)
                self._save_known()

    def _trust(self, now: float, name: str, peer_id: PeerId | None) -> None:
        if peer_id is None:
            statuses = self.driver.endpoint.statuses(now)
            if name in statuses and statuses[name].peer_id is None:
                raise LocalProtocolError(f"{name!r} has not proven a key yet; wait_connected({name!r}) first")
        self.driver.endpoint.trust(name, peer_id, now)
        target = self._targets.get(name)
        if target is not None and peer_id is not None:
            self._targets[name] = target.merged(Target(peer_id=peer_id))

    def forget(self, name: str) -> None:
        """Undo a first use, here and in the known-peers file."""
        self.driver.check_process()
        if self.known is not None:
            known = self.known.get(name) is not None
            self.known.forget(name)
            self._save_known()
            if known and name not in self.statuses():
                return  # only the file knew it
        self.driver.run(self._forget, name)

    def _forget(self, now: float, name: str) -> None:
        self.driver.endpoint.forget(name, now)
        target = self._targets.get(name)
        if target is not None:
            self._targets[name] = Target(target.addresses, target.hosts)

    def statuses(self) -> dict[str, PeerStatus]:
        """A snapshot of all peers."""
        return self.driver.peek(lambda now: self.driver.endpoint.statuses(now))

    def wait_connected(self, names: Sequence[str] | None, timeout: float | None) -> bool:
        """True once all ``names`` (None: all added) are connected, False if the time is over or the socket closes."""

        def connected(now: float) -> bool | None:
            if self.closing:
                return False
            statuses = self.driver.endpoint.statuses(now)
            wanted = tuple(self._targets) if names is None else names
            self._check_known(wanted, statuses)
            return True if all(statuses[name].established for name in wanted) else None

        try:
            return bool(self.driver.wait_until(connected, (_PEERS,), _deadline(timeout)))
        except SocketClosed:
            return False

    # --- names of hosts, on the resolver thread ---

    def _hosts_of(self, name: str) -> Sequence[tuple[str, int]]:
        target = self._targets.get(name)
        return () if target is None else target.hosts

    def _resolved(self, name: str, hosts: Sequence[tuple[str, int]], addresses: list[Address]) -> None:
        try:
            self.driver.run(self._set_addresses, name, hosts, addresses)
        except SocketClosed:
            pass

    def _unresolved(self, name: str, hosts: Sequence[tuple[str, int]], reason: str) -> None:
        try:
            self.driver.run(self._note_unresolved, name, hosts, reason)
        except SocketClosed:
            pass

    def _note_unresolved(self, now: float, name: str, hosts: Sequence[tuple[str, int]], reason: str) -> None:
        target = self._targets.get(name)
        if target is not None and target.hosts == hosts:
            self.driver.endpoint.note_unresolved(name, reason)

    def _set_addresses(self, now: float, name: str, hosts: Sequence[tuple[str, int]], addresses: list[Address]) -> None:
        target = self._targets.get(name)
        if target is not None and target.hosts == hosts:  # not removed or changed meanwhile
            self.driver.endpoint.set_addresses(name, tuple(dict.fromkeys((*target.addresses, *addresses))), now)

    # --- sending ---

    def send(self, letter: Letter, recipient: str | Sequence[str] | None, timeout: float | None) -> Delivery:
        """Queue a message and transmit what the window allows; see ``MultiHolepunchSocket.send``."""
        if len(letter.content) > self.config.max_message_size:
            raise MessageTooBig(
                f"{len(letter.content)} bytes are more than Config.max_message_size ({self.config.max_message_size})"
            )
        try:
            if isinstance(recipient, str):
                run = self.driver.run_gathering if len(letter.content) <= _SMALL else self.driver.run
                delivery = run(self._send_one, recipient, letter)
                if delivery is not None:
                    return delivery
                names, delivery = [recipient], Delivery((), self.driver.lease.waive)
            else:
                names, left_out = self.driver.run(self._address, recipient, letter)
                delivery = Delivery(left_out, self.driver.lease.waive)
            return self._send_some(delivery, names, letter, self.timeout if timeout is None else timeout)
        except Reentered:
            delivery = Delivery((), self.driver.lease.waive)
            delivery.hold(True)
            self.driver.defer(functools.partial(self._send_deferred, delivery, recipient, letter))
            return delivery

    def _send_one(self, now: float, name: str, letter: Letter) -> Delivery | None:
        """The common case in one hold of the lock. None if the queue has no room."""
        self._check_open()
        if letter.reliable and not self.driver.endpoint.has_room(name, len(letter.content)):
            return None
        delivery = Delivery((), self.driver.lease.waive)
        self._queue(now, delivery, name, letter)
        return delivery

    def _queue(self, now: float, delivery: Delivery, name: str, letter: Letter) -> None:
        content, channel, reliable, ttl, priority = letter
        token = self.driver.endpoint.send_message(
            name, content, channel=channel, reliable=reliable, ttl=ttl, now=now, priority=priority
        )
        self._deliveries[token] = delivery, name
        delivery.expect(name)

    def _address(
        self, now: float, recipient: Sequence[str] | None, letter: Letter
    ) -> tuple[list[str], tuple[str, ...]]:
        """Whom a message is for and which added peers are left out. Raises UnknownPeer before anything is queued."""
        self._check_open()
        endpoint = self.driver.endpoint
        if recipient is None:
            names = endpoint.everyone(now)
            present = set(names)
            absent = [name for name in self._targets if name not in present]
            if absent:  # an alias is not left out if its peer is not
                statuses = endpoint.statuses(now)
                absent = [name for name in absent if name not in statuses or statuses[name].name not in present]
            return names, tuple(absent)
        names = list(dict.fromkeys(recipient))
        for name in names:
            endpoint.has_room(name, 0)
        return names, ()

    def _send_some(self, delivery: Delivery, names: list[str], letter: Letter, timeout: float) -> Delivery:
        """Queue for all who have room, wait for the others, fail the rest."""
        deadline = monotonic() + timeout
        waiting: list[str] = []
        try:
            for start in range(0, len(names), _AT_ONCE):
                self.driver.run(self._queue_some, delivery, names[start : start + _AT_ONCE], waiting, letter)
            if waiting and timeout > 0 and not self.driver.interrupted_here():
                attempt = functools.partial(self._queue_waiting, delivery, waiting, letter)
                self.driver.wait_until(attempt, (_ROOM,), deadline)
            failure = Failure.QUEUE_FULL
        except SocketClosed:
            known = delivery.pending | delivery.delivered | delivery.failed.keys()
            if not known:
                raise
            waiting, failure = [name for name in names if name not in known], Failure.CLOSED
        if waiting:
            self.driver.peek(self._fail, delivery, waiting, failure)
        failed = delivery.failed
        if failed and len(failed) == len(names):
            reasons = set(failed.values())
            who = ", ".join(map(repr, names[:8])) + (", ..." if len(names) > 8 else "")
            if Failure.QUEUE_FULL.value in reasons:
                raise QueueFull(f"no room in the queue of {who} within {timeout:g} s")
            if reasons == {Failure.TOO_BIG.value}:
                raise MessageTooBig(f"{len(letter.content)} bytes are more than {who} accept")
            if reasons == {Failure.REMOVED.value}:
                raise UnknownPeer(f"removed while the message waited for room: {who}")
        return delivery

    def _queue_some(
        self, now: float, delivery: Delivery, names: Iterable[str], waiting: list[str], letter: Letter
    ) -> None:
        """Queue for those of ``names`` that have room; the others are appended to ``waiting``."""
        self._check_open()
        for name in names:
            try:
                if not letter.reliable or self.driver.endpoint.has_room(name, len(letter.content)):
                    self._queue(now, delivery, name, letter)
                else:
                    waiting.append(name)
            except UnknownPeer:
                delivery.settle(name, Failure.REMOVED.value)
            except MessageTooBig:
                delivery.settle(name, Failure.TOO_BIG.value)

    def _queue_waiting(self, delivery: Delivery, waiting: list[str], letter: Letter, now: float) -> bool | None:
        names, waiting[:] = list(waiting), []
        try:
            self._queue_some(now, delivery, names, waiting, letter)
        except SocketClosed:
            waiting[:] = names
            raise
        return None if waiting else True

    @staticmethod
    def _fail(now: float, delivery: Delivery, names: Iterable[str], failure: Failure) -> None:
        for name in names:
            delivery.settle(name, failure.value)

    def _send_deferred(self, delivery: Delivery, recipient: str | Sequence[str] | None, letter: Letter) -> None:
        """On the timer thread: a send from a signal handler that could not be made there. Never waits for room."""
        names = [] if recipient is None else [recipient] if isinstance(recipient, str) else list(recipient)
        waiting: list[str] = []
        failure = Failure.QUEUE_FULL
        try:
            if recipient is None:
                names, delivery.left_out = self.driver.run(self._address, None, letter)
            self.driver.run(self._queue_some, delivery, dict.fromkeys(names), waiting, letter)
        except SocketClosed:
            waiting, failure = names, Failure.CLOSED
        self.driver.peek(self._fail, delivery, waiting, failure)
        delivery.hold(False)

    def _check_open(self) -> None:
        if self.closing:
            raise SocketClosed("the socket is closed")

    # --- receiving ---

    def receive(self, timeout: float | None) -> Message | None:
        """The oldest message not taken, or None when the time is over or the socket closed."""
        driver, inbox = self.driver, self.inbox
        driver.check_process()
        letter = inbox.get(0)
        if letter is None and timeout != 0 and not self.closing:
            deadline = _deadline(timeout)
            try:
                letter = driver.read_until(inbox.get_now, deadline)
            except Reentered:  # a signal handler: others read
                pass
            except SocketClosed:
                return None
            if letter is None:
                remaining = None if deadline is None else max(0.0, deadline - monotonic())
                letter = driver.lease.wait(inbox.get, remaining)
        if letter is None:
            return None
        message, arrived = letter
        try:
            driver.note(self._taken, arrived)
            if inbox.is_empty and not driver.lease.ends_soon:
                driver.work_off_notes()
        except Reentered:
            inbox.refresh()
        except SocketClosed:
            return None
        except BaseException:
            # Ctrl-C: the program never saw it. To tell the sender twice that it was taken does no harm.
            inbox.put_back(letter)
            raise
        return message

    def _taken(self, now: float, arrived: MessageArrived) -> None:
        self.driver.endpoint.message_taken(arrived, now)

    def drops(self) -> dict[str, int]:
        """Why input was discarded and output refused, counted since the socket was made."""
        drops = self.driver.peek(lambda now: self.driver.endpoint.drops + self.driver.drops)
        for name, count in list(self.driver.transport.errors.items()):
            drops[f"transport_{name}"] += count
        return dict(drops)

    # --- the end ---

    def close(self, timeout: float | None = None) -> None:
        """Flush, say goodbye, end the threads; see ``MultiHolepunchSocket.close``."""
        if self.is_foreign or self._finished.is_set():
            return
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

    def _close_elsewhere(self, timeout: float | None) -> None:
        threading.Thread(target=self.close, args=(timeout,), name="srmudp-closer", daemon=True).start()

    def _claim(self, now: float, claim: tuple[int, object], until: float) -> bool:
        """One thread closes; the others may only make it hurry."""
        self._flush_until = min(self._flush_until, until)
        self.closing = True
        self.driver.topics.wake_all()
        if self._closer is not None:
            return False
        self._closer = claim
        return True

    def _close(self) -> None:
        self.inbox.close()
        try:
            while monotonic() < self._flush_until:
                limit = min(self._flush_until, monotonic() + _FLUSH_LOOK)
                if self.driver.wait_until(self._is_flushed, (_IDLE,), limit):
                    break
        except SocketClosed:
            pass  # an earlier, interrupted close came far already
        finally:  # Ctrl-C ends the flushing, not the closing
            self._shut_down()

    def _is_flushed(self, now: float) -> bool | None:
        return True if self.driver.endpoint.pending == 0 or now >= self._flush_until else None

    def _shut_down(self) -> None:
        hooks_ended = False
        try:
            # First of all: what a hook is at now counts as taken when it returns, and the goodbye tells what was taken.
            hooks_ended = self.hooks.stop(_HOOK_JOIN)
            undelivered = self.driver.run(self._end)
            if undelivered:
                log.warning("! closed with %d undelivered message%s", undelivered, "" if undelivered == 1 else "s")
            self.driver.flush_output(_CLOSE_FRAMES)
            self.driver.peek(self._fail_rest)
        except SocketClosed:
            pass  # an interrupted close came this far
        finally:
            if not hooks_ended and not self.hooks.is_current_thread():
                log.warning("! a hook has not returned for %g s; its thread is left behind", _HOOK_JOIN)
            self.resolver.stop(_LOOKUP_JOIN)
            self.driver.stop()
            self.inbox.release()
            self._save_known()
            lifetime.closed(self)
            self._finished.set()

    def _end(self, now: float) -> int:
        undelivered = len(self._deliveries)
        self.driver.endpoint.close(now)
        return undelivered

    def _fail_rest(self, now: float) -> None:
        while self._deliveries:
            _, (delivery, name) = self._deliveries.popitem()
            delivery.settle(name, Failure.CLOSED.value)

    def abandon(self) -> None:
        """Close without flushing, on the timer thread; takes no lock: for finalizers, which run anywhere."""
        self.closing = True
        self._flush_until = -inf
        self.driver.defer(functools.partial(self.close, 0.0))

    def forget_after_fork(self) -> None:
        """In the child: drop keys and descriptors; takes no lock, seals and sends nothing."""
        self.closing = True
        self.driver.abandon()
        self.inbox.release()


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else monotonic() + timeout
