""":class:`MultiHolepunchSocket`: one UDP socket, many named peers, messages in both directions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Self

from ..config import Config
from ..crypto.keys import Identity
from ..models import MappedPort, Message, PublicAddress, Wire
from .addresses import PeerSpec
from .arguments import check_timeout, letter_of, names_of, prepare, recipients_of
from .core import opened
from .delivery import Delivery
from .discovery import Server
from .engine import Accept, Engine
from .face import Face


class MultiHolepunchSocket(Face):
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
            thread with ``(peer_id, claimed name, address)``. If it returns None, :meth:`admit` is to tell later.
        serve_stun: answer STUN requests (RFC 8489): whoever asks this port is told its own public address. It costs
            little, and is limited for each network and in all.
        timeout: seconds. How long ``send`` waits for room, ``close`` for deliveries, and after how long a silent
            peer is taken for lost.
        span: seconds between checks of the connections.
        config: limits and choices; see :class:`Config`.
        wire: what is spoken with peers that are added without a word about it: ``"native"``, or ``"srudp"`` or
            ``"srmudp-0.0.4"`` for programs that use the published packages of these names. The old wires have no
            authentication: whoever sits in between reads and changes everything.

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

    _engine: Engine

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
        serve_stun: bool = False,
        timeout: float = 21.0,
        span: float = 3.0,
        config: Config | None = None,
        wire: Wire = "native",
    ) -> None:
        parts = prepare(
            *(port, peers),
            host=host,
            name=name,
            identity=identity,
            known_peers=known_peers,
            accept=accept,
            timeout=timeout,
            span=span,
            config=config,
            serve_stun=serve_stun,
            wire=wire,
        )
        self._name = parts.name
        self._wire = wire
        decide = None if isinstance(accept, bool) else accept
        self._engine = opened(
            parts,
            lambda: Engine(
                *(parts.endpoint, parts.transport, parts.config),
                timeout=timeout,
                span=span,
                accept=decide,
                known=parts.known,
            ),
        )

    # --- connections ---

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
        return self._engine.wait_connected(None if names is None else names_of(names), check_timeout(timeout))

    # --- our own address ---

    def discover(
        self, servers: Server | Iterable[Server] | None = None, timeout: float | None = 5.0, *, filtering: bool = False
    ) -> PublicAddress:
        """Ask STUN servers from which public address this very socket is seen: what to tell others who shall reach it.

        All are asked at once. It returns when all have answered, and one second after the first answer in any case.
        Nothing is ever asked unless this is called. Whoever runs a server learns this address, and no more.

        Args:
            servers: ``"host:port"``, ``"host"`` (port 3478), ``"[v6]:port"`` or ``(host, port)``, one or several (16 at
                most); None for public ones, see ``srmudp.config.STUN_SERVERS``. It takes two on different machines to
                tell how the NAT behaves.
            timeout: seconds to wait for the first answer; None waits until all were given up.
            filtering: also find out whom the NAT lets in, which takes up to two seconds more and a server that can
                answer from a second address (RFC 5780); few public ones do.

        Returns:
            A :class:`PublicAddress`.

        Raises:
            DiscoveryFailed: none answered (an ``OSError``); the text says why and what to try.
            ValueError: a server is malformed.
            SocketClosed: the socket is closed.

        Example::

            public = sock.discover()
            print(f"I can be reached at {public}, if my router keeps to it: {public.mapping.value}")
        """
        return self._engine.discover(servers, check_timeout(timeout), bool(filtering))

    def map_port(self, timeout: float | None = 12.0) -> MappedPort:
        """Ask the router at home to let in everything that comes for our port, for as long as this socket is open.

        This changes the router, so nothing of it happens unless this is called. PCP and NAT-PMP are tried, then UPnP,
        which needs the extra ``upnp``. The mapping is renewed and followed in the background, and taken back by
        :meth:`close`, and within 20 minutes if the program dies. Where it leads to is only the router's word at first:
        connected peers hear of it as one more address to try, and :attr:`addresses` has it, ``confirmed`` once
        somebody else sees us there or a datagram that we sent to it came in.

        Args:
            timeout: seconds to wait; None waits for as long as it takes, a quarter of a minute at most.

        Returns:
            A :class:`MappedPort`: the address to tell others, as ``str(mapped)``, and whether it is proven. Called
            again it returns the first one; see :attr:`addresses` for the present one.

        Raises:
            PortMappingFailed: no router does it (an ``OSError``); the text says what each protocol came to.
            LocalProtocolError: the socket is bound to a loopback address.
            SocketClosed: the socket is closed.

        Example::

            mapped = sock.map_port()
            print(f"I can be reached at {mapped}" + ("" if mapped.verified else ", if the router is right"))
        """
        return self._engine.map_port(check_timeout(timeout))

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

        A program that sends small messages faster than they are taken at the other end is held back now and then, for
        25 ms at most, so that they are not old when they are taken; with ``timeout=0``, and in a hook, it never is.

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
        letter = letter_of(data, channel, reliable, ttl, priority)
        return self._engine.send(letter, recipients_of(recipient), check_timeout(timeout))

    def receive(self, timeout: float | None = None) -> Message | None:
        """The next message, from whomever it came. What it returns counts as taken: the sender is told.

        Args:
            timeout: seconds to wait; None waits for as long as it takes, 0 only looks.

        Returns:
            A :class:`Message`, or None when the time is over or the socket was closed (then at once).
        """
        return self._engine.receive(check_timeout(timeout))

    def __iter__(self) -> Iterator[Message]:
        """Every message from now on, until the socket is closed."""
        while (message := self.receive()) is not None:
            yield message

    def fileno(self) -> int:
        """A descriptor for event loops, readable while ``receive()`` would return at once; -1 when closed.

        Only for waiting: it carries no data. Made when first asked for.

        Example::

            loop.add_reader(sock.fileno(), lambda: print(sock.receive(timeout=0)))
        """
        self._engine.check_process()
        return -1 if self._engine.closing else self._engine.inbox.fileno()

    # --- the end ---

    def close(self, timeout: float | None = None) -> None:
        """Deliver what is pending, say goodbye, end the threads and free the port.

        Idempotent; may be called from several threads and from a hook. From its beginning ``receive()`` returns
        None and ``send()`` raises. What was not delivered fails in its :class:`Delivery` and is logged as a count.
        Ctrl-C ends the waiting and closes at once.

        Args:
            timeout: seconds to wait for deliveries at most; None means the socket's ``timeout``, 0 does not wait.
                It ends as soon as everything is delivered.
        """
        self._engine.close(check_timeout(timeout))

    def __enter__(self) -> Self:
        self._engine.check_process()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(None if kind is None else 0.0)
