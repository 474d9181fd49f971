""":class:`MultiHolepunchSocket`: one UDP socket, many named peers, messages in both directions."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from math import isfinite
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

from ..config import CHANNELS, PRIORITIES, Config
from ..crypto.backend import select_backend
from ..crypto.keys import Identity, verification_code
from ..exceptions import LocalProtocolError, SocketClosed, UnknownPeer
from ..models import Message, PeerId, PeerStatus
from ..peers.endpoint import AcceptPolicy, Endpoint
from ..transports.udp import UdpTransport
from .addresses import PeerSpec, check_name, parse_peers
from .delivery import Delivery
from .engine import Accept, Engine
from .hooks import EventHook, MessageHook
from .household import Letter
from .known_peers import KnownPeers

if TYPE_CHECKING:
    from ..transports.base import Transport

M = TypeVar("M", bound=MessageHook)
E = TypeVar("E", bound=EventHook)


class MultiHolepunchSocket:
    """Authenticated, encrypted, reliable messages between this program and many named peers, over one UDP port.

    Every method may be called from any thread, and from hooks. ``send`` and ``close`` may be called from signal
    handlers. After ``os.fork()`` the child's copy is dead: ``close`` does nothing there and all else raises
    :class:`LocalProtocolError`. It cannot be copied or pickled.

    Args:
        port: local UDP port; 0 lets the system choose (see :attr:`port`).
        peers: as for :meth:`add_peers`.
        host: local address to bind; ``""`` means all, IPv6 and IPv4 where the system has both.
        name: what we call ourselves to peers, at most 64 bytes of UTF-8. Not a proof of anything.
        identity: who we are: None for a new key that lasts as long as this socket, a path to a key file that is
            loaded or made, or an ``Identity``.
        known_peers: path of a file in which the keys of added peers are kept, so that a name means the same key
            tomorrow.
        accept: whether peers that were not added may connect: False, True, or a callable that is asked on the hook
            thread with ``(peer_id, claimed name, address)``.
        timeout: seconds. How long ``send`` waits for room, ``close`` for deliveries, and after how long a silent
            peer is taken for lost.
        span: seconds between checks of the connections.
        config: limits and choices; see :class:`Config`.

    Raises:
        ValueError: an argument is out of range or a peer spec malformed; nothing is left open.
        IdentityError: the identity or known-peers file cannot be used.
        OSError: the port is taken, or the address is not ours.

    Example::

        with MultiHolepunchSocket(port=8000, peers={"bob": "bob.example:8001"}) as sock:
            sock.send(b"Hello, everyone!")
            for message in sock:
                print(message.peer, message.content)
    """

    def __init__(
        self,
        port: int = 0,
        peers: Mapping[str, PeerSpec] | None = None,
        *,
        host: str = "",
        name: str | None = None,
        identity: Identity | str | os.PathLike[str] | None = None,
        known_peers: str | os.PathLike[str] | None = None,
        accept: bool | Accept = False,
        timeout: float = 21.0,
        span: float = 3.0,
        config: Config | None = None,
    ) -> None:
        if isinstance(port, bool) or not isinstance(port, int):
            raise TypeError(f"port must be int, not {type(port).__name__}")
        if not 0 <= port <= 65_535:
            raise ValueError(f"port must be between 0 and 65535, not {port}")
        for what, seconds in (("timeout", timeout), ("span", span)):
            if not (isfinite(seconds) and seconds > 0):
                raise ValueError(f"{what} must be a positive number of seconds, not {seconds!r}")
        if not isinstance(accept, bool) and not callable(accept):
            raise TypeError(f"accept must be True, False or callable, not {type(accept).__name__}")
        self._name = check_name(name, "socket name") if name else ""
        config = Config() if config is None else config
        backend = select_backend(config.backend)
        if identity is None:
            identity = Identity.generate(backend=backend)
        elif not isinstance(identity, Identity):
            identity = Identity.load_or_create(identity, backend=backend)
        targets = parse_peers({} if peers is None else peers, identity.peer_id)
        known = None if known_peers is None else KnownPeers(known_peers)
        policy = {False: AcceptPolicy.NOBODY, True: AcceptPolicy.EVERYBODY}
        udp = UdpTransport(host, port, gso=config.gso, socket_buffer=config.socket_buffer)
        transport: Transport = udp
        try:
            config = replace(config, socket_buffer=max(udp.receive_buffer, 4096))
            endpoint = Endpoint(
                identity,
                config,
                backend=backend,
                random=os.urandom,
                timeout=timeout,
                span=span,
                name=self._name,
                accept=policy[accept] if isinstance(accept, bool) else AcceptPolicy.ASK,
            )
            if config.transport is not None:
                transport = config.transport(transport)
            engine = Engine(
                endpoint,
                transport,
                config,
                timeout=timeout,
                span=span,
                accept=None if isinstance(accept, bool) else accept,
                known=known,
            )
        except BaseException:
            transport.close()
            raise
        try:
            engine.add(targets)  # before anything is read: a peer that punches already is no stranger
            engine.start()
        except BaseException:
            engine.close(0.0)
            raise
        self._engine = engine

    # --- peers ---

    def add_peers(self, peers: Mapping[str, PeerSpec]) -> None:
        """Add several peers, or with an exception none. Connecting begins at once and goes on in the background.

        Args:
            peers: name to ``"host:port"``, ``"[v6]:port"``, ``(host, port)``, ``"<peerid>@host:port"``,
                ``Peer(...)`` or a list of such addresses. Host names are looked up in the background, again
                whenever connecting starts anew. A name that was added before gets the addresses in addition.

        Raises:
            ValueError: an entry is malformed, pins another PeerId than before, or is our own PeerId; the text names
                it.
            SocketClosed: the socket is closed.

        Example::

            sock.add_peers({"alice": "192.0.2.7:8000", "bob": ["bob.example:8000", "[2001:db8::7]:8000"]})
        """
        self._engine.driver.check_process()
        self._engine.add(parse_peers(peers, self.peer_id))

    def add_peer(self, name: str, spec: PeerSpec) -> None:
        """Add one peer; see :meth:`add_peers`."""
        self.add_peers({name: spec})

    def remove_peer(self, name: str) -> None:
        """Remove a peer; the name is free at once, and nothing more is received from it.

        Messages already queued are still brought to it in the background, for at most ``timeout`` seconds; their
        :class:`Delivery` tells. Then it is told that it was removed. Its key is refused until it is added again.

        Raises:
            UnknownPeer: nobody has that name.
        """
        self._engine.remove((name,))

    def remove_peers(self, names: Iterable[str]) -> None:
        """Remove several peers or, if one of the names is unknown, none.

        Raises:
            UnknownPeer: nobody has one of the names.
        """
        self._engine.remove((names,) if isinstance(names, str) else tuple(names))

    def trust(self, name: str, peer_id: PeerId | None = None) -> None:
        """Pin ``name``: from now on any other key is refused.

        Args:
            name: a peer.
            peer_id: the key; None for the one it has now, after comparing :meth:`verification_code`.

        Raises:
            UnknownPeer: nobody has that name.
            LocalProtocolError: ``peer_id`` is None and no key is known yet.
            ValueError: the key is our own, or another peer's.
            IdentityError: no key can have this PeerId; perhaps it is mistyped.
        """
        self._engine.trust(name, peer_id)

    def forget(self, name: str) -> None:
        """Forget which key ``name`` stood for, here and in the known-peers file; the next that answers takes it.

        Raises:
            UnknownPeer: nobody has that name.
        """
        self._engine.forget(name)

    def verification_code(self, name: str) -> str:
        """60 digits to compare with the peer by another way (reading aloud); the same at both ends.

        Raises:
            UnknownPeer: nobody has that name.
            LocalProtocolError: the peer has not proven a key yet.
        """
        statuses = self._engine.statuses()
        if name not in statuses:
            raise UnknownPeer(f"unknown peer {name!r}; there are: {', '.join(map(repr, statuses)) or 'none'}")
        peer_id = statuses[name].peer_id
        if peer_id is None:
            raise LocalProtocolError(f"{name!r} has not proven a key yet; wait_connected({name!r}) first")
        return verification_code(self.peer_id, peer_id)

    def wait_connected(self, names: str | Iterable[str] | None = None, timeout: float | None = None) -> bool:
        """Wait until peers are connected.

        Args:
            names: whom to wait for; None means all added peers.
            timeout: seconds; None waits for as long as it takes, 0 only looks.

        Returns:
            True once all are; False if the time was over or the socket was closed.

        Raises:
            UnknownPeer: one of them was not added, or was removed meanwhile.
        """
        timeout = _check_timeout(timeout)
        wanted = None if names is None else (names,) if isinstance(names, str) else tuple(names)
        return self._engine.wait_connected(wanted, timeout)

    @property
    def connections_status(self) -> Mapping[str, PeerStatus]:
        """A snapshot: name to :class:`PeerStatus`. Kept after ``close()`` as it was at the end."""
        return self._engine.statuses()

    # --- messages ---

    def send(
        self,
        data: bytes | bytearray | memoryview,
        recipient: str | Iterable[str] | None = None,
        *,
        channel: int = 0,
        reliable: bool = True,
        ttl: float | None = None,
        timeout: float | None = None,
        priority: int = 0,
    ) -> Delivery:
        """Send one message. Returns once it is queued; this very call encrypts and transmits what the window allows.

        Messages of one channel arrive in order, each once; a peer that is not connected yet gets them when it is.

        Args:
            data: any bytes-like object; ``bytes`` are kept by reference, anything that can change is copied.
                ``b""`` is a message.
            recipient: a name, several, or None for everyone: every connected peer, and every added one whose
                connecting began less than the socket's ``timeout`` ago.
            channel: 0 to 63; a large message in one channel does not hold up another channel.
            reliable: False sends once and never again; such messages may be lost or overtake each other.
            ttl: seconds after which a peer that has not taken it need not any more; the delivery then fails.
            timeout: seconds to wait for room in a full queue; None means the socket's ``timeout``, 0 never waits.
            priority: -128 to 127; while the network is slower than the program, the channel with the highest priority
                waiting in it goes first, and others have to wait. Within a channel the order stays as it is. Unreliable
                messages go before all others anyway.

        Returns:
            A :class:`Delivery`, which tells who took it; ignoring it is fine.

        Raises:
            UnknownPeer: a recipient was never added (a ``KeyError``); nothing was queued for anybody.
            MessageTooBig: longer than ``Config.max_message_size`` (a ``ValueError``).
            QueueFull: nobody had room in time (a ``TimeoutError``). If some had, the others are in
                ``Delivery.failed``.
            SocketClosed: the socket is closed (a ``ConnectionError``).
            TypeError: ``data`` is not bytes-like.

        Example::

            sock.send(b"to all")
            sock.send(b"to one", recipient="alice").wait(5.0)
            sock.send(b"position", ["alice", "bob"], reliable=False)
        """
        content = _content(data)
        if isinstance(channel, bool) or not isinstance(channel, int) or not 0 <= channel < CHANNELS:
            raise ValueError(f"channel must be between 0 and {CHANNELS - 1}, not {channel!r}")
        if isinstance(priority, bool) or not isinstance(priority, int) or priority not in PRIORITIES:
            raise ValueError(f"priority must be between {PRIORITIES[0]} and {PRIORITIES[-1]}, not {priority!r}")
        if ttl is not None and not ttl > 0:
            raise ValueError(f"ttl must be a positive number of seconds or None, not {ttl!r}")
        timeout = _check_timeout(timeout)
        if recipient is not None and not isinstance(recipient, str):
            recipient = tuple(recipient)
            for name in recipient:
                if not isinstance(name, str):
                    raise TypeError(f"recipients are names (str), not {type(name).__name__}")
        return self._engine.send(Letter(content, channel, bool(reliable), ttl, priority), recipient, timeout)

    def receive(self, timeout: float | None = None) -> Message | None:
        """The next message, from whomever it came. What it returns counts as taken: the sender is told.

        Args:
            timeout: seconds to wait; None waits for as long as it takes, 0 only looks.

        Returns:
            A :class:`Message`, or None when the time is over or the socket was closed (then at once).
        """
        return self._engine.receive(_check_timeout(timeout))

    def __iter__(self) -> Iterator[Message]:
        """Every message from now on, until the socket is closed."""
        while (message := self.receive()) is not None:
            yield message

    def register_message_hook(self, hook: M) -> M:
        """Have ``hook`` given every message instead of ``receive()``. Returns it, so it can be used as a decorator.

        Hooks run one after the other on one thread of the socket's; they may send, close and register. Several
        hooks all get each message, which counts as taken when the last has returned. An exception is logged and the
        next message still comes. A ``queue.Queue`` that is full holds up that peer's messages and nobody else's.

        Args:
            hook: called with a :class:`Message`, or a ``queue.Queue`` the messages are put into. Registering it again
                changes nothing.

        Raises:
            TypeError: neither.
        """
        self._engine.driver.check_process()
        self._engine.hooks.add_message_hook(hook)
        return hook

    def unregister_message_hook(self, hook: MessageHook) -> None:
        """Undo :meth:`register_message_hook`. Without hooks, messages go to ``receive()`` again.

        Raises:
            ValueError: it is not registered.
        """
        self._engine.hooks.remove_message_hook(hook)

    def on_event(self, hook: E) -> E:
        """Have ``hook`` given every :class:`PeerEvent` from now on; on the same thread as message hooks.

        Args:
            hook: called with the event, or a ``queue.Queue`` it is put into (dropped and counted while that is full).

        Returns:
            ``hook``, so that this can be used as a decorator.

        Raises:
            TypeError: it is neither.
        """
        self._engine.driver.check_process()
        self._engine.hooks.add_event_hook(hook)
        return hook

    def off_event(self, hook: EventHook) -> None:
        """Undo :meth:`on_event`.

        Raises:
            ValueError: it is not registered.
        """
        self._engine.hooks.remove_event_hook(hook)

    def fileno(self) -> int:
        """A descriptor for event loops, readable while ``receive()`` would return at once; -1 when closed.

        Only for waiting: it carries no data. Made when first asked for.

        Example::

            loop.add_reader(sock.fileno(), lambda: print(sock.receive(timeout=0)))
        """
        self._engine.driver.check_process()
        return -1 if self._engine.closing else self._engine.inbox.fileno()

    # --- the socket itself ---

    @property
    def peer_id(self) -> PeerId:
        """Our own identity, for others to pin."""
        return self._engine.peer_id

    @property
    def name(self) -> str:
        """What we call ourselves; ``""`` if nothing."""
        return self._name

    @property
    def port(self) -> int:
        """The local UDP port."""
        return self._engine.local_address.port

    def getsockname(self) -> tuple[str, int]:
        """Local address and port.

        Raises:
            SocketClosed: the socket is closed (an ``OSError``).
        """
        self._engine.driver.check_process()
        if self._engine.closing:
            raise SocketClosed("the socket is closed")
        return self._engine.local_address.host, self._engine.local_address.port

    @property
    def is_closed(self) -> bool:
        """True from the beginning of ``close()`` on."""
        return self._engine.closing

    @property
    def drops(self) -> Mapping[str, int]:
        """Why datagrams were discarded, with a count of each reason since the socket was made. A copy."""
        return self._engine.drops()

    def close(self, timeout: float | None = None) -> None:
        """Deliver what is pending, say goodbye, end the threads and free the port.

        Idempotent; may be called from several threads and from a hook. From its beginning ``receive()`` returns
        None and ``send()`` raises. What was not delivered fails in its :class:`Delivery` and is logged as a count.
        Ctrl-C ends the waiting and closes at once.

        Args:
            timeout: seconds to wait for deliveries at most; None means the socket's ``timeout``, 0 does not wait.
                It ends as soon as everything is delivered.
        """
        self._engine.close(_check_timeout(timeout))

    def __enter__(self) -> Self:
        self._engine.driver.check_process()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(None if kind is None else 0.0)

    def __del__(
        self, _warn: Callable[..., None] = warnings.warn, _is_finalizing: Callable[[], bool] = sys.is_finalizing
    ) -> None:
        engine: Engine | None = getattr(self, "_engine", None)
        if engine is None or engine.closing or engine.is_foreign or _is_finalizing():
            return
        engine.abandon()
        _warn(f"unclosed {self!r}", ResourceWarning, source=self)

    def __repr__(self) -> str:
        return repr(self._engine) if hasattr(self, "_engine") else "<MultiHolepunchSocket not open>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a MultiHolepunchSocket holds keys and threads and cannot be copied or pickled")


def _content(data: Any) -> bytes:
    """``data`` as bytes that nobody else can change."""
    if type(data) is bytes:
        return data
    if isinstance(data, str):
        raise TypeError("send() takes bytes, not str: use text.encode()")
    try:
        with memoryview(data) as view:
            return view.tobytes()
    except TypeError:
        raise TypeError(f"send() takes a bytes-like object, not {type(data).__name__}") from None


def _check_timeout(timeout: float | None) -> float | None:
    if timeout is not None and not timeout >= 0:  # not a number is refused too
        raise ValueError(f"timeout must be None or a number of seconds from 0, not {timeout!r}")
    return timeout
