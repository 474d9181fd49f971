"""What an engine does without waiting for anything, whether threads or an event loop run it."""

from __future__ import annotations

import contextlib
import functools
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from ..exceptions import SocketClosed
from ..models import Address, Candidate, Message, PeerEvent, PeerId, PeerStatus, SeenAddress
from ..nat.explanation import Explanation
from ..protocol.events import MessageArrived, SocketsWanted
from .addresses import Target
from .delivery import Outcome
from .discovery import NO_WAY, way_to
from .household import Household
from .interfaces import host_addresses
from .mapping import PortMapping

if TYPE_CHECKING:
    from ..config import Config
    from ..peers.endpoint import Endpoint
    from ..transports.base import Transport
    from .arguments import Parts
    from .hooks import Registry
    from .known_peers import KnownPeers
    from .runner import Runner

D = TypeVar("D", bound=Outcome)


class Resolves(Protocol):
    """What an engine asks of its resolver."""

    def want(self, peer: str, /) -> None: ...


class Core(ABC, Generic[D]):
    """One open socket, apart from what waits: subclasses send, receive and close.

    The household's methods whose first argument is ``now`` are called by way of :meth:`Runner.run`, and so are those
    that make an engine a :class:`~.household.Shell`.

    Args:
        accept: decides on strangers; None to leave that to the endpoint.
        new_delivery: makes the delivery of one message from the names left out.
    """

    kind: ClassVar[str] = "MultiHolepunchSocket"

    # By subclasses, before :meth:`_join`.
    driver: Runner
    hooks: Registry
    resolver: Resolves

    # What the household asks of its shell; see :meth:`_join`.
    wake: Callable[[str], None]
    deliver: Callable[[Message, MessageArrived], None]
    announce: Callable[[PeerEvent], None]
    resolve: Callable[[str], None]
    spread: Callable[[SocketsWanted], None]

    def __init__(
        self,
        endpoint: Endpoint,
        transport: Transport,
        config: Config,
        *,
        timeout: float,
        accept: Callable[..., Any] | None,
        known: KnownPeers | None,
        new_delivery: Callable[[Iterable[str]], D],
    ) -> None:
        self.timeout = timeout
        self.peer_id = endpoint.peer_id
        self.local_address = transport.local_address()
        self.house: Household[D] = Household(endpoint, config, self, new_delivery, known)
        self.mapping = PortMapping(self.house, self.call, self.local_address)
        self._accept = accept
        self._pid = os.getpid()
        self._flush_until = inf

    def _join(self) -> None:
        """Have the household's calls go where they belong."""
        self.wake = self.driver.topics.wake
        self.deliver = self.hooks.deliver
        self.announce = self.hooks.announce
        self.resolve = self.resolver.want
        self.spread = functools.partial(self.driver.spread, self.house.note_sockets)

    @abstractmethod
    def start(self) -> None:
        """Begin to read. Called once."""

    @abstractmethod
    def discard(self) -> None:
        """Close at once, whatever is still to be delivered."""

    @abstractmethod
    def abandon(self) -> None:
        """Close without flushing; for finalizers, which run anywhere, so it waits for nothing."""

    @abstractmethod
    def _decide(self, event: PeerEvent) -> object:
        """Ask the application about a stranger, where hooks are; what is returned may have to be awaited."""

    @abstractmethod
    def _save(self) -> None:
        """Have the known peers written down, where hooks are or where the application calls."""

    @abstractmethod
    def call(self, work: Callable[..., Any], /, *args: Any) -> Any:
        """Have ``work(now, *args)`` done with the endpoint, from a thread of ours; see :class:`~.mapping.Call`."""

    @property
    def closing(self) -> bool:
        """True from the beginning of closing on."""
        return self.house.closing

    def check_process(self) -> None:
        """Return quietly where the socket may be used; see :meth:`Runner.check_process`."""
        self.driver.check_process()

    @property
    def is_foreign(self) -> bool:
        """True in a child made by ``fork``."""
        return self._pid != os.getpid()

    def __repr__(self) -> str:
        if self.is_foreign:
            state = "of the parent process"
        else:
            state = "closed" if self.driver.stopped else "closing" if self.closing else "open"
        return f"<{self.kind} {state} {self.local_address} peers={len(self.house.targets)} peer_id={self.peer_id}>"

    # --- events ---

    def decide(self, event: PeerEvent) -> None:
        """Have the application asked about a stranger, if it wants to be; see :class:`~.household.Shell`."""
        if self._accept is not None:
            self.hooks.call(functools.partial(self._decide, event))

    def admit(self, peer_id: PeerId, allow: bool) -> None:
        """The application has decided on a stranger."""
        self.driver.run(self.house.admit, peer_id, allow)

    def remember(self, name: str) -> None:
        """Have the key of a peer written down; see :class:`~.household.Shell`."""
        self.hooks.call(functools.partial(self._remember, name))

    def _remember(self, name: str) -> None:
        """Where hooks are."""
        self.driver.peek(self.house.note_key, name)
        self._save()

    # --- peers ---

    def add(self, targets: Mapping[str, Target]) -> None:
        """Add peers, all of them or, with an exception, none.

        Raises:
            ValueError: a name is taken by another PeerId, or there would be too many peers.
            SocketClosed: too late.
        """
        merged = {name: self.house.with_known(name, target) for name, target in targets.items()}
        self.driver.run(self.house.add, merged)
        for name, target in merged.items():
            if target.hosts:
                self.resolver.want(name)

    def invite(self, name: str, expires: float, own_name: str) -> str:
        """A text with which one may come in; see ``Face.invite``."""
        self.check_process()
        self.look_at_interfaces()
        return self.driver.run(self.house.invite, name, expires, own_name)

    def remove(self, names: Sequence[str]) -> None:
        """Remove peers, all of them or, if one is unknown, none.

        Raises:
            UnknownPeer: nobody has that name.
        """
        self.driver.run(self.house.remove, names)

    def trust(self, name: str, peer_id: PeerId | None) -> None:
        """Pin ``name`` to ``peer_id`` or to the key it has."""
        self.driver.run(self.house.trust, name, peer_id)
        if self.house.known is not None:
            self._save()

    def forget(self, name: str) -> None:
        """Undo a first use, here and in the known-peers file."""
        try:
            was_known = self.driver.run(self.house.forget, name)
        except SocketClosed:
            if not self.driver.peek(self.house.forget_known, name):
                raise
            was_known = True
        if was_known:
            self._save()

    def statuses(self) -> dict[str, PeerStatus]:
        """A snapshot of all peers."""
        return self.driver.peek(self.house.statuses)

    def explain(self, name: str) -> Explanation:
        """Why a peer is connected or not.

        Raises:
            UnknownPeer: there is no such peer.
        """
        evidence = self.driver.peek(self.house.evidence, name)
        # To ask the system for the way sends nothing, but it is a system call for each address.
        tried = [
            one if way_to(one.address, self.local_address) is not None else one._replace(obstacle=NO_WAY)
            for one in evidence.tried
        ]
        errors = {kind: count for kind, count in list(self.driver.transport.errors.items()) if kind.startswith("E")}
        return Explanation.of(name, replace(evidence, tried=tried, send_errors=errors))

    def seen_addresses(self) -> tuple[SeenAddress, ...]:
        """Where others see us."""
        return self.driver.peek(self.house.seen_addresses)

    def candidates(self) -> tuple[Candidate, ...]:
        """Where we may be reached."""
        self.look_at_interfaces()
        return self.driver.peek(self.house.candidates)

    def look_at_interfaces(self) -> None:
        """See what addresses our interfaces have now. What changed is told to the connected peers."""
        with contextlib.suppress(SocketClosed):
            self.driver.run(self.house.set_hosts, self._hosts())

    def _hosts(self) -> tuple[Address, ...]:
        return host_addresses(self.local_address, self.driver.transport.fileno())

    def drops(self) -> dict[str, int]:
        """Why input was discarded and output refused, counted since the socket was made."""
        drops = self.driver.peek(lambda now: self.driver.endpoint.drops + self.driver.drops)
        for name, count in list(self.driver.transport.errors.items()):
            drops[f"transport_{name}"] += count
        return dict(drops)

    # --- names of hosts, where the resolver works ---

    def _resolved(self, name: str, hosts: Sequence[tuple[str, int]], addresses: list[Address]) -> None:
        with contextlib.suppress(SocketClosed):
            self.driver.run(self.house.set_addresses, name, hosts, addresses)

    def _unresolved(self, name: str, hosts: Sequence[tuple[str, int]], reason: str) -> None:
        with contextlib.suppress(SocketClosed):
            self.driver.run(self.house.note_unresolved, name, hosts, reason)

    # --- the end ---

    def _is_flushed(self, now: float) -> bool | None:
        return True if self.house.is_flushed(now) or now >= self._flush_until else None

    def forget_after_fork(self) -> None:
        """In the child: drop keys and descriptors; takes no lock, seals and sends nothing."""
        self.mapping.abandon()
        self.house.abandon()
        self.driver.abandon()


C = TypeVar("C", bound=Core[Any])


def opened(parts: Parts, make: Callable[[], C]) -> C:
    """The engine that ``make()`` makes of ``parts``, started and with its peers; nothing is left open if that fails."""
    try:
        engine = make()
    except BaseException:
        parts.transport.close()
        raise
    try:
        engine.look_at_interfaces()
        engine.add(parts.targets)  # before anything is read: a peer that punches already is no stranger
        engine.start()
    except BaseException:
        engine.discard()
        raise
    return engine


def deadline_of(timeout: float | None) -> float | None:
    """``time.monotonic()`` seconds at which ``timeout`` seconds from now are over; None for never."""
    return None if timeout is None else monotonic() + timeout
