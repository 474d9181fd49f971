"""What a socket does, whichever way it is driven: its peers, its messages and what became of them.

:class:`Household` works on the endpoint and knows neither threads nor event loops. The shell around it (``engine`` with
threads) decides when its methods are called, one at a time, and waits where something has to be waited for. Methods
whose first argument is ``now`` work with the endpoint: the shell collects its output afterwards.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from time import time
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, Protocol, TypeVar

from ..exceptions import LocalProtocolError, MessageTooBig, QueueFull, SocketClosed, UnknownPeer
from ..models import (
    Address,
    Candidate,
    EventKind,
    MappedPort,
    Message,
    PeerEvent,
    PeerId,
    PeerStatus,
    SeenAddress,
    Trust,
)
from ..protocol.events import (
    Event,
    Failure,
    GuestCame,
    MessageArrived,
    MessageSettled,
    ResolveWanted,
    RoomFreed,
    ServerAnswered,
    SocketsWanted,
)
from .addresses import Target
from .delivery import Outcome
from .invitations import text_of
from .rates import RateLimit

if TYPE_CHECKING:
    from ..config import Config
    from ..nat.explanation import Evidence
    from ..peers.endpoint import Endpoint
    from .known_peers import KnownPeers

D = TypeVar("D", bound=Outcome)

log = logging.getLogger("srmudp.sockets")

# What is waited for.
PEERS: Final = "peers"
IDLE: Final = "idle"
ROOM: Final = "room"  # of any peer, as one peer may have several names; few ever wait
SERVERS: Final = "servers"  # of any discovery
_KEEP = {EventKind.CONNECTED, EventKind.RECONNECTED, EventKind.PEER_CHANGED, EventKind.ROAMED}


class Letter(NamedTuple):
    """A message to be sent and its options."""

    content: bytes
    channel: int
    reliable: bool
    ttl: float | None
    priority: int = 0


class Shell(Protocol):
    """What a household asks of what drives it. Called while the endpoint is worked with, so nothing here may wait."""

    def wake(self, topic: str, /) -> None:
        """Have those look again who wait for ``topic``."""

    def deliver(self, message: Message, arrived: MessageArrived, /) -> None:
        """A message for the application."""

    def announce(self, event: PeerEvent, /) -> None:
        """An event for the application."""

    def decide(self, event: PeerEvent, /) -> None:
        """A stranger waits for the application to decide, and then for :meth:`Household.admit`."""

    def remember(self, name: str, /) -> None:
        """A peer may have proven a key that :meth:`Household.note_key` should be told of."""

    def resolve(self, name: str, /) -> None:
        """The host names of a peer should be looked up."""

    def spread(self, wanted: SocketsWanted, /) -> None:
        """The transport should have more sockets, or fewer; more are told to :meth:`Household.note_sockets`."""


class Household(Generic[D]):
    """The peers and messages of one socket.

    Args:
        endpoint: what the socket speaks through.
        config: limits.
        shell: what drives all this.
        new_delivery: makes the delivery of one message from the names left out.
        known: the known-peers file.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        config: Config,
        shell: Shell,
        new_delivery: Callable[[Iterable[str]], D],
        known: KnownPeers | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.config = config
        self.known = known
        self.closing = False
        self.targets: dict[str, Target] = {}  # added peers, by name
        # Token to delivery and the name it was sent to (an alias, perhaps). Each is settled one day.
        self.deliveries: dict[int, tuple[D, str]] = {}
        self._shell = shell
        self._new_delivery = new_delivery
        self.news: deque[PeerEvent] = deque(maxlen=64)  # to be logged by tell_news()
        self._news_rate = {kind: RateLimit() for kind in EventKind}

    def check_open(self) -> None:
        """Return quietly unless the socket is closing.

        Raises:
            SocketClosed: it is.
        """
        if self.closing:
            raise SocketClosed("the socket is closed")

    # --- events ---

    def on_event(self, event: Event, now: float) -> None:
        """What the endpoint reports."""
        if isinstance(event, MessageArrived):
            message = Message(event.content, event.peer, time(), event.peer_id, event.channel)
            self._shell.deliver(message, event)
        elif isinstance(event, MessageSettled):
            sent = self.deliveries.pop(event.token, None)
            if sent is not None:
                delivery, name = sent
                delivery.settle(name, None if event.failure is None else event.failure.value)
            self._shell.wake(IDLE)
        elif isinstance(event, RoomFreed):
            self._shell.wake(ROOM)
        elif isinstance(event, ResolveWanted):
            target = self.targets.get(event.peer)
            if target is not None and target.hosts:
                self._shell.resolve(event.peer)
        elif isinstance(event, ServerAnswered):
            self._shell.wake(SERVERS)
        elif isinstance(event, GuestCame):
            self.targets[event.peer] = self.targets.get(event.peer, Target()).merged(Target(peer_id=event.peer_id))
        elif isinstance(event, SocketsWanted):
            self._shell.spread(event)
        else:
            self._on_peer_event(event)

    def _on_peer_event(self, event: PeerEvent) -> None:
        if log.isEnabledFor(logging.INFO):
            self.news.append(event)
        self._shell.wake(PEERS)
        self._shell.wake(ROOM)  # a removed or changed peer has no queue to wait for
        if event.kind is EventKind.PENDING:
            self._shell.decide(event)
        if self.known is not None and event.kind in _KEEP and event.peer in self.targets:
            self._shell.remember(event.peer)
        self._shell.announce(event)

    def tell_news(self) -> None:
        """Log what happened to peers. Any thread, not while the endpoint is worked with."""
        while self.news:
            event = self.news.popleft()
            if self._news_rate[event.kind]():
                who = event.peer_id.tag if event.peer_id is not None else "no key yet"
                log.info("= %s (%s) at %s: %s %s", repr(event.peer), who, event.address, event.kind, event.reason)

    def note_sockets(self, now: float, name: str, count: int) -> None:
        """So many more sockets were opened to find a peer."""
        self.endpoint.note_sockets(name, count, now)

    def admit(self, now: float, peer_id: PeerId, allow: bool) -> None:
        """The application has decided on a stranger."""
        self.endpoint.admit(peer_id, allow, now)

    # --- known peers ---

    def note_key(self, now: float, name: str) -> None:
        """Note which key an added peer has proven; :meth:`save_known` writes it down."""
        if self.known is None or name not in self.targets:
            return
        status = self.endpoint.statuses(now).get(name)
        if status is None or status.peer_id is None:
            return
        # A key matched by its IP address alone is too weak a reason to refuse all others tomorrow.
        if status.trust in (Trust.FIRST_USE, Trust.PINNED):
            pinned = status.trust is Trust.PINNED
            self.known.record(name, status.peer_id, pinned=pinned, address=status.address)

    def save_known(self) -> None:
        """Write the known-peers file, if there is one and it changed. Takes its time; any thread."""
        if self.known is not None:
            try:
                self.known.save()
            except OSError as error:
                log.error("! cannot write the known peers: %s", error)

    def forget_known(self, now: float, name: str) -> bool:
        """Drop ``name`` from the known peers; whether it was among them, so that they are to be written down."""
        return self.known is not None and self.known.forget(name)

    # --- peers ---

    def with_known(self, name: str, target: Target) -> Target:
        """``target`` and what the known-peers file has of ``name``.

        Raises:
            ValueError: they contradict each other, or there is nothing in them.
        """
        known = None if self.known is None else self.known.get(name)
        if known is not None:
            if target.wire != "native":
                raise ValueError(
                    f"peer {name!r}: the known-peers file has a PeerId for it, and a program that speaks {target.wire} "
                    f"cannot prove one; forget({name!r}) first if that is meant"
                )
            if target.peer_id not in (None, known.peer_id):
                raise ValueError(
                    f"peer {name!r}: the known-peers file has another PeerId for it, {known.peer_id}; "
                    f"forget({name!r}) first if the new one is right"
                )
            target = target.merged(Target(known.addresses, (), known.peer_id))
        if not target.addresses and not target.hosts and target.peer_id is None:
            raise ValueError(f"peer {name!r}: neither an address nor a PeerId given")
        return target

    def add(self, now: float, targets: Mapping[str, Target]) -> None:
        """Add peers, all of them or, with an exception, none.

        Raises:
            ValueError: a name is taken by another PeerId, or there would be too many peers.
            SocketClosed: too late.
        """
        self.check_open()
        endpoint, book = self.endpoint, self.targets
        if len(book.keys() | targets.keys()) > self.config.max_peers:
            raise ValueError(f"more than Config.max_peers ({self.config.max_peers}) peers")
        for name, target in targets.items():
            old = book.get(name)
            pins = {None, target.peer_id, None if old is None else old.peer_id}
            if len(pins) > 2:
                raise ValueError(f"peer {name!r}: already added with another PeerId")
            if old is not None and old.wire != target.wire:
                raise ValueError(f"peer {name!r}: already added with the wire {old.wire!r}")
        added: list[str] = []
        try:
            for name, target in targets.items():
                try:
                    known: dict[str, Any] = {"wire": target.wire, "nat": target.nat, "token": target.token}
                    endpoint.add_peer(name, target.addresses, target.peer_id, now, **known)
                except ValueError as error:
                    raise ValueError(f"peer {name!r}: {error}") from error
                if name not in book:
                    added.append(name)
        except ValueError:
            for name in added:
                endpoint.remove_peer(name, now)
            raise
        for name, target in targets.items():
            target = replace(target, token=b"")  # the peer has it, for as long as it is of use
            book[name] = book[name].merged(target) if name in book else target

    def invite(self, now: float, name: str, expires: float, own_name: str) -> str:
        """An invite, with whose token one may come in and be pinned as ``name``, or as it calls itself.

        Without a token if ``name`` is pinned already: who it is may come in.

        Raises:
            ValueError: too many are open.
        """
        self.check_open()
        endpoint = self.endpoint
        known = endpoint.statuses(now).get(name) if name else None
        token = b"" if known is not None and known.pinned else endpoint.invites.open(name, now + expires, now)
        candidates = endpoint.whereabouts.candidates(now)
        return text_of(endpoint.peer_id, own_name, token, expires, candidates, endpoint.stun.traits(now))

    def remove(self, now: float, names: Sequence[str]) -> None:
        """Remove peers, all of them or, if one is unknown, none.

        Raises:
            UnknownPeer: nobody has that name.
        """
        if len(names) > 1:
            check_known(names, self.endpoint.statuses(now))
        for name in dict.fromkeys(names):
            self.endpoint.remove_peer(name, now)
            self.targets.pop(name, None)
        self._shell.wake(ROOM)
        self._shell.wake(PEERS)

    def trust(self, now: float, name: str, peer_id: PeerId | None) -> None:
        """Pin ``name`` to ``peer_id`` or to the key it has; :meth:`save_known` writes it down."""
        if peer_id is None:
            statuses = self.endpoint.statuses(now)
            if name in statuses and statuses[name].wire != "native":
                raise LocalProtocolError(f"{name!r} speaks {statuses[name].wire}, in which nobody proves a key")
            if name in statuses and statuses[name].peer_id is None:
                raise LocalProtocolError(f"{name!r} has not proven a key yet; wait_connected({name!r}) first")
        self.endpoint.trust(name, peer_id, now)
        target = self.targets.get(name)
        if target is not None and peer_id is not None:
            self.targets[name] = target.merged(Target(peer_id=peer_id))
        if self.known is not None and target is not None:
            status = self.endpoint.statuses(now)[name]
            if (pin := peer_id or status.peer_id) is not None:
                self.known.record(name, pin, pinned=True, address=status.address)

    def forget(self, now: float, name: str) -> bool:
        """Undo a first use, as :meth:`forget_known` does, and here."""
        was_known = self.forget_known(now, name)
        if was_known and name not in self.endpoint.statuses(now):
            return True  # only the file knew it
        self.endpoint.forget(name, now)
        target = self.targets.get(name)
        if target is not None:
            self.targets[name] = Target(target.addresses, target.hosts, None, target.wire)
        return was_known

    def statuses(self, now: float) -> dict[str, PeerStatus]:
        """A snapshot of all peers."""
        return self.endpoint.statuses(now)

    def evidence(self, now: float, name: str) -> Evidence:
        """What is known of why a peer is not connected.

        Raises:
            UnknownPeer: there is no such peer.
        """
        found = self.endpoint.reasons.evidence_of(name, now)
        target = self.targets.get(name)
        if target is None or not target.hosts:
            return found
        tried = [
            one._replace(
                origin="looked up" if one.origin == "given" and one.address not in target.addresses else one.origin
            )
            for one in found.tried
        ]
        return replace(found, tried=tried)

    def seen_addresses(self, now: float) -> tuple[SeenAddress, ...]:
        """Where others see us."""
        return self.endpoint.stun.seen(now)

    def are_connected(self, now: float, names: Sequence[str] | None) -> bool | None:
        """True if all ``names`` (None: all added) are connected, False if the socket closes, None if not yet.

        Raises:
            UnknownPeer: nobody has one of the names.
        """
        if self.closing:
            return False
        statuses = self.endpoint.statuses(now)
        wanted = tuple(self.targets) if names is None else names
        check_known(wanted, statuses)
        return True if all(statuses[name].established for name in wanted) else None

    # --- our own address ---

    def note_mapped(self, now: float, mapped: MappedPort | None) -> None:
        """Our router maps our port, or no longer."""
        self.endpoint.stun.mapped = mapped
        self.endpoint.whereabouts.set_mapped([] if mapped is None else [mapped.address], now)

    def expect_probe(self, now: float, transaction_id: bytes) -> None:
        """We are about to send ourselves a STUN request by way of our router."""
        self.endpoint.stun.expect_probe(transaction_id)

    def probe_arrived(self, now: float, transaction_id: bytes) -> bool:
        """Whether it came."""
        return self.endpoint.stun.probe_arrived(transaction_id)

    # --- names of hosts ---

    def hosts_of(self, name: str) -> Sequence[tuple[str, int]]:
        """The host names and ports of a peer, to be looked up. Any thread."""
        target = self.targets.get(name)
        return () if target is None else target.hosts

    def note_unresolved(self, now: float, name: str, hosts: Sequence[tuple[str, int]], reason: str) -> None:
        """No address was found for ``hosts``."""
        target = self.targets.get(name)
        if target is not None and target.hosts == hosts:
            self.endpoint.note_unresolved(name, reason)

    def set_addresses(self, now: float, name: str, hosts: Sequence[tuple[str, int]], addresses: list[Address]) -> None:
        """These addresses were found for ``hosts``."""
        target = self.targets.get(name)
        if target is not None and target.hosts == hosts:  # not removed or changed meanwhile
            self.endpoint.set_addresses(name, tuple(dict.fromkeys((*target.addresses, *addresses))), now)

    # --- our own addresses ---

    def set_hosts(self, now: float, addresses: Sequence[Address]) -> None:
        """The addresses of our interfaces, with our port."""
        self.endpoint.whereabouts.set_hosts(addresses, now)

    def candidates(self, now: float) -> tuple[Candidate, ...]:
        """Where we may be reached."""
        return self.endpoint.whereabouts.candidates(now)

    # --- sending ---

    def check_size(self, letter: Letter) -> None:
        """Return quietly if we may send as much.

        Raises:
            MessageTooBig: it is more than ``Config.max_message_size``.
        """
        if len(letter.content) > self.config.max_message_size:
            raise MessageTooBig(
                f"{len(letter.content)} bytes are more than Config.max_message_size ({self.config.max_message_size})"
            )

    def send_one(self, now: float, name: str, letter: Letter) -> D | None:
        """The common case: to one peer. None if its queue has no room."""
        if self.closing:
            self.check_open()
        delivery = self._new_delivery(())
        return delivery if self._queue(now, delivery, name, letter) else None

    def is_crowded(self, now: float, name: str) -> bool:
        """Whether a peer has so many small messages to take that more had better wait for :meth:`is_relieved`."""
        intake = self.endpoint.intake_of(name)
        return intake is not None and intake.is_exceeded()

    def is_relieved(self, now: float, name: str) -> bool | None:
        """True if a peer that was crowded is so no longer, else None; :data:`ROOM` says when to look again."""
        intake = self.endpoint.intake_of(name)
        return True if intake is None or intake.is_relieved else None

    def note_stalled(self, now: float, name: str) -> None:
        """It was waited for in vain."""
        intake = self.endpoint.intake_of(name)
        if intake is not None:
            intake.on_stalled()

    def _queue(self, now: float, delivery: D, name: str, letter: Letter) -> bool:
        """Whether there was room for it."""
        content, channel, reliable, ttl, priority = letter
        token = self.endpoint.send_message(
            name, content, channel=channel, reliable=reliable, ttl=ttl, now=now, priority=priority, if_room=reliable
        )
        if token is None:
            return False
        self.deliveries[token] = delivery, name
        delivery.expect(name)
        return True

    def address(self, now: float, recipient: Sequence[str] | None) -> tuple[list[str], tuple[str, ...]]:
        """Whom a message is for and which added peers are left out. Raises UnknownPeer before anything is queued."""
        self.check_open()
        endpoint = self.endpoint
        if recipient is None:
            names = endpoint.everyone(now)
            present = set(names)
            absent = [name for name in self.targets if name not in present]
            if absent:  # an alias is not left out if its peer is not
                statuses = endpoint.statuses(now)
                absent = [name for name in absent if name not in statuses or statuses[name].name not in present]
            return names, tuple(absent)
        names = list(dict.fromkeys(recipient))
        for name in names:
            endpoint.has_room(name, 0)
        return names, ()

    def queue_some(self, now: float, delivery: D, names: Iterable[str], waiting: list[str], letter: Letter) -> None:
        """Queue for those of ``names`` that have room; the others are appended to ``waiting``."""
        self.check_open()
        for name in names:
            try:
                if not self._queue(now, delivery, name, letter):
                    waiting.append(name)
            except UnknownPeer:
                delivery.settle(name, Failure.REMOVED.value)
            except MessageTooBig:
                delivery.settle(name, Failure.TOO_BIG.value)

    def queue_waiting(self, now: float, delivery: D, waiting: list[str], letter: Letter) -> bool | None:
        """Queue for those of ``waiting`` that have room and take them off it. True if none is left, else None."""
        names, waiting[:] = list(waiting), []
        try:
            self.queue_some(now, delivery, names, waiting, letter)
        except SocketClosed:
            waiting[:] = names
            raise
        return None if waiting else True

    @staticmethod
    def fail(now: float, delivery: D, names: Iterable[str], failure: Failure) -> None:
        """``names`` will never get it."""
        for name in names:
            delivery.settle(name, failure.value)

    @staticmethod
    def check_sent(delivery: D, names: Sequence[str], letter: Letter, timeout: float) -> None:
        """Return quietly if the message was queued for somebody, or failed in a way its delivery tells.

        Raises:
            QueueFull, MessageTooBig, UnknownPeer: it was queued for nobody, for this reason.
        """
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

    # --- receiving ---

    def taken(self, now: float, arrived: MessageArrived) -> None:
        """The application has this message."""
        self.endpoint.message_taken(arrived, now)

    # --- the end ---

    def is_flushed(self, now: float) -> bool:
        """True if nothing is on its way any more."""
        return self.endpoint.pending == 0

    def end(self, now: float) -> int:
        """Say goodbye to everyone. Returns how many messages are not delivered, for :meth:`tell_undelivered`."""
        undelivered = len(self.deliveries)
        self.endpoint.close(now)
        return undelivered

    @staticmethod
    def tell_undelivered(count: int) -> None:
        """Log it. Not while the endpoint is worked with."""
        if count:
            log.warning("! closed with %d undelivered message%s", count, "" if count == 1 else "s")

    def fail_rest(self, now: float) -> None:
        """What was not delivered until now never will be."""
        while self.deliveries:
            _, (delivery, name) = self.deliveries.popitem()
            delivery.settle(name, Failure.CLOSED.value)

    def abandon(self) -> None:
        """In a child after ``fork``: give up the keys."""
        self.closing = True
        del self.endpoint


def check_known(names: Iterable[str], statuses: Mapping[str, PeerStatus]) -> None:
    """Return quietly if all ``names`` are peers.

    Raises:
        UnknownPeer: one is not.
    """
    for name in names:
        if name not in statuses:
            raise UnknownPeer(f"unknown peer {name!r}; there are: {', '.join(map(repr, statuses)) or 'none'}")
