""":class:`SecureReliableSocket`: one peer, in the form of srudp's socket or of srmudp 0.0.4's."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final, Literal, Self, overload

from ...config import Config
from ...crypto.keys import Identity
from ...exceptions import SocketClosed
from ...models import Message, Peer, PeerId, PeerStats, PeerStatus, Wire
from ...wire.packet import RECORD_OVERHEAD
from ...wire.srudp import CONTROL_BCT, CONTROL_EOF, CONTROL_PSH, CYC_INT0, CycInt, Packet
from ...wire.srudp import OVERHEAD as OLD_OVERHEAD
from ..addresses import check_wire
from ..arguments import prepare
from ..core import opened
from .bridge import Bridge
from .flavours import Flavour, Meeting, host_and_port, meetings, pem_of, read_arguments, text_of
from .handle import UdpHandle
from .line import BROADCASTS, Line
from .stream import StreamEnd
from .surface import StreamSurface, bytes_of, no_flags, not_here, whole_of

BroadcastHook = Callable[[Packet, "SecureReliableSocket"], object]
MessageHook = Callable[[Packet, tuple[str, int], "SecureReliableSocket"], object]

_UNSET: Final[Any] = object()
_CLOSE: Final = 1.0
"""Seconds ``close()`` takes at most of its caller's time. What a stream has not brought home then goes on behind."""


class SecureReliableSocket(StreamSurface):
    """A connection to one peer through both routers, for programs written for srudp or for srmudp 0.0.4.

    A socket has one of two forms. With an ``AddressFamily`` first, or as ``family=`` without a port, it is a *stream*,
    as srudp's: ``connect((host, port))`` binds that port here and goes to the same port there, bytes are read by
    ``recv``, ``select`` or ``asyncio.open_connection(sock=sock)``, addresses are tuples. With a port first, or
    ``port=`` or ``auto_reconnect=``, it has *messages*, as srmudp's: the port is bound at once,
    ``connect("host:port")`` names the peer's, ``receive`` returns ``(sender, data, key)``, addresses are text. Without
    arguments it is a stream until ``connect("host:port")``, a message hook or traffic over ``receiver_socket`` says
    otherwise. ``flavour=`` says it outright.

    Every method may be called from any thread. After ``os.fork()`` the child's copy is dead. All times are seconds.

    Args:
        args: ``(family, timeout, span)`` for a stream, ``(port, family, timeout, span, auto_reconnect)`` for messages.
        port: local UDP port; 0 lets the system choose.
        family: ``AF_INET`` or ``AF_INET6``.
        timeout: after how long a silent peer is lost; how long ``connect`` of a stream tries, in whole spans.
        span: between looks at the connection.
        auto_reconnect: whether a peer that went is waited for, so that the connection comes back; with messages it is
            unless this is False, and a stream never is.
        flavour: ``"stream"`` or ``"message"``.
        identity: who we are: None for a new key that lasts as long as this socket, a path to a key file that is loaded
            or made, or an ``Identity``.
        peer_id: who the peer must be (a ``PeerId`` or its text); any other key is refused. None takes the first key
            that answers at its address.
        known_peers: path of a file in which the peer's key is kept, so that its address means the same key tomorrow.
        config: limits and choices; see :class:`Config`.
        wire: ``"native"``, or what an unchanged old program at the other end speaks, ``"srudp"`` or ``"srmudp-0.0.4"``.
            The old wires authenticate nobody, so they go without ``peer_id``; they are never chosen by themselves.

    Raises:
        TypeError: these arguments belong to neither form.
        ValueError: one of them is out of range.
        OSError: the port is taken.

    Example::

        sock = SecureReliableSocket()
        sock.connect(("bob.example", 12345))
        sock.sendall(b"hello")
        print(sock.recv(1024))
    """

    @overload
    def __init__(
        self,
        family: socket.AddressFamily = ...,
        timeout: float = ...,
        span: float = ...,
        *,
        flavour: Literal["stream"] | None = ...,
        identity: Identity | str | os.PathLike[str] | None = ...,
        peer_id: PeerId | str | None = ...,
        known_peers: str | os.PathLike[str] | None = ...,
        config: Config | None = ...,
        wire: Wire = ...,
    ) -> None: ...
    @overload
    def __init__(
        self,
        port: int = ...,
        family: int = ...,
        timeout: float = ...,
        span: float = ...,
        auto_reconnect: bool = ...,
        *,
        flavour: Literal["message"] | None = ...,
        identity: Identity | str | os.PathLike[str] | None = ...,
        peer_id: PeerId | str | None = ...,
        known_peers: str | os.PathLike[str] | None = ...,
        config: Config | None = ...,
        wire: Wire = ...,
    ) -> None: ...
    def __init__(
        self,
        *args: Any,
        port: Any = _UNSET,
        family: Any = _UNSET,
        timeout: Any = _UNSET,
        span: Any = _UNSET,
        auto_reconnect: Any = _UNSET,
        flavour: str | None = None,
        identity: Identity | str | os.PathLike[str] | None = None,
        peer_id: PeerId | str | None = None,
        known_peers: str | os.PathLike[str] | None = None,
        config: Config | None = None,
        wire: Wire = "native",
    ) -> None:
        given = {"port": port, "family": family, "timeout": timeout, "span": span, "auto_reconnect": auto_reconnect}
        named = {name: value for name, value in given.items() if value is not _UNSET}
        self._terms = terms = read_arguments(args, named, flavour)
        self._flavour = terms.flavour
        self._who = identity, PeerId.parse(peer_id) if isinstance(peer_id, str) else peer_id, known_peers, config
        self._wire = check_wire(wire)
        if peer_id is not None and wire != "native":
            raise ValueError(f"a program that speaks {wire} cannot prove a peer_id")
        self._bridge = Bridge()
        super().__init__(terms.family, socket.SOCK_STREAM, 0, fileno=self._bridge.descriptor)
        self._opening = threading.Lock()
        self._line: Line | None = None
        self._stream: StreamEnd | None = None
        self._shut = False
        self._brought_home = False  # by a thread that has all it needs
        self._wants_descriptor = False
        self._broadcast_hook: BroadcastHook | None = None
        self._message_hook: MessageHook | None = None
        self._peer_address: tuple[Any, ...] | None = None
        self.try_connect = False
        """True once ``connect`` was called."""
        self.receiver_socket = UdpHandle(terms.family, socket.SOCK_DGRAM)
        """The UDP port. Free for an application's own STUN until ``connect()``, which then reads it alone."""
        try:
            if terms.family == socket.AF_INET6:
                self.receiver_socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if terms.flavour is Flavour.MESSAGE:
                self.receiver_socket.bind(("", terms.port))
        except BaseException:
            self.close()
            raise

    # --- connecting ---

    def connect(self, address: Any, /) -> None:
        """Punch through to the peer, which does the same, and wait until the connection stands.

        Args:
            address: ``(host, port)``; ``"host:port"`` too, with messages. A stream binds this very port here; if both
                are on one machine (127.0.0.1 or ::1), the second takes the port that differs in the last bit.

        Raises:
            ConnectionError: a stream was not connected in time. With messages it tries on until it is closed.
            ConnectionAbortedError: closed meanwhile, by another thread.
            AssertionError: called a second time, or text given to a stream.
            OSError: the port is taken, or the host unknown (``socket.gaierror``).
        """
        self._begin()
        try:
            if self._flavour is Flavour.UNDECIDED:
                self._decide(address)
            if self._flavour is Flavour.STREAM:
                self._connect_stream(address)
            else:
                self._connect_messages(address)
        except OSError as error:
            if self._shut and error.errno == errno.EBADF:  # before the port was ours to use
                raise ConnectionAbortedError("closed while it was connecting") from None
            raise

    def _decide(self, address: Any) -> None:
        """Which of the two it is, by what the caller did until now."""
        used = self._message_hook is not None or self.receiver_socket.getsockname()[1] != 0
        self._flavour = Flavour.MESSAGE if used or isinstance(address, str) else Flavour.STREAM
        if self._flavour is Flavour.MESSAGE and not self.receiver_socket.getsockname()[1]:
            self.receiver_socket.bind(("", 0))

    def _begin(self) -> None:
        with self._opening:
            if self.established:
                raise AssertionError("already established")
            if self.is_closed:
                raise AssertionError("already closed socket")
            if self.try_connect:
                raise AssertionError("already try to connect")
            self.try_connect = True

    def _connect_stream(self, address: Any) -> None:
        meeting = self._bind_to_meet(meetings(address, self._terms.family))
        host, port = meeting.peer[:2]
        self._peer_address = meeting.peer
        line = self._open_line(f"{host}:{port}", Peer([(host, port)], self._who[1]))
        terms = self._terms
        if not line.wait_connected((line.peer,), int(terms.timeout / terms.span) * terms.span):
            status = line.status
            closed = line.closing
            line.close(0.0)
            if closed and not line.ended:
                raise ConnectionAbortedError("closed while it was connecting")
            failure = status.failure if status is not None else None
            more = "" if failure is None or failure.startswith("no answer yet") else f": {failure}"
            raise ConnectionError(f"timeout on hand shaking{more}")

    def _bind_to_meet(self, found: list[Meeting]) -> Meeting:
        *others, last = found
        for meeting in others:
            try:
                self.receiver_socket.bind(meeting.own)
                return meeting
            except OSError:
                pass
        self.receiver_socket.bind(last.own)
        return last

    def _connect_messages(self, address: Any) -> None:
        host, port = host_and_port(address)
        unknown = None
        try:
            self._peer_address = socket.getaddrinfo(host, port, self._terms.family, socket.SOCK_DGRAM)[0][4]
        except OSError as error:
            unknown = error
        line = self._open_line(f"{host}:{port}", Peer([(host, port)], self._who[1]))
        if unknown is not None:
            if not line.stays:
                line.close(0.0)
            raise unknown
        if not line.wait_connected((line.peer,), None):
            raise ConnectionAbortedError("closed while it was connecting")

    def _open_line(self, name: str, peer: Peer) -> Line:
        """From here on the library reads the UDP port."""
        terms = self._terms
        identity, _, known_peers, config = self._who
        is_stream = self._flavour is Flavour.STREAM
        stays = not is_stream if terms.auto_reconnect is None else terms.auto_reconnect
        name = name.encode()[:64].decode(errors="ignore")
        with self._opening:
            if self._shut:
                raise ConnectionAbortedError("closed while it was connecting")
            udp = self.receiver_socket.hand_over()
            try:
                parts = prepare(
                    port=0,
                    peers={name: peer},
                    host="",
                    name=None,
                    identity=identity,
                    known_peers=known_peers,
                    accept=False,
                    timeout=terms.timeout,
                    span=terms.span,
                    config=config,
                    sock=udp,
                    wire=self._wire,
                )
            except BaseException:
                udp.close()
                raise
            line = opened(
                parts,
                lambda: Line(parts, name, timeout=terms.timeout, span=terms.span, stays=stays, is_stream=is_stream),
            )
            self._line = line
        if is_stream:
            self._stream = StreamEnd(line, self._bridge)
            self._bridge.spoil = _Spoiler(self)
            if self._wants_descriptor:
                self._stream.use_bridge()
        self.broadcast_hook_fnc = self._broadcast_hook
        self.message_hook_fnc = self._message_hook
        return line

    # --- the stream ---

    def send(self, data: Any, flags: int = 0, /) -> int:
        """Send all of ``data``, waiting for room; with messages as one. Returns its length.

        A stream after ``setblocking(False)`` takes what there is room for, as other sockets do.

        Raises:
            ConnectionAbortedError: not connected, or not any more.
            BlockingIOError: a stream that does not block has no room.
            TypeError: ``data`` is not bytes-like.
        """
        data = bytes_of(data)
        if flags:
            no_flags()
        stream = self._stream
        if not data:
            return 0
        if stream is not None and self.gettimeout() == 0.0:
            return stream.send_some(data, super().send)
        self._send_all(data)
        return len(data)

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """As :meth:`send`, but always all of it. Calls of several threads do not mix."""
        if type(data) is not bytes:
            data = bytes_of(data)
        if flags:
            no_flags()
        if data:
            self._send_all(data)

    def _send_all(self, data: bytes | memoryview) -> None:
        line, stream = self._line, self._stream
        if line is None or self._shut:
            raise ConnectionAbortedError("disconnected")
        if stream is not None:
            stream.send_all(data)
        else:
            line.push(whole_of(data))

    def recv(self, bufsize: int = 1024, flags: int = 0, /) -> bytes:
        """The next bytes of a stream, at most ``bufsize``; ``b""`` at its end, when closed, or not yet connected.

        The end is where the other program has closed, or shut down writing. A connection that ends otherwise has none.

        Raises:
            ConnectionResetError: it ended otherwise, so something may be missing; raised when what came has been read.
            TimeoutError: nothing came in the time of ``settimeout`` (``socket.timeout``).
            BlockingIOError: nothing is there, after ``setblocking(False)``.
            OSError: this socket has messages: ``receive()`` returns them.
        """
        data = self._recv(bufsize, flags)
        return data if type(data) is bytes else bytes(data)

    def _recv(self, bufsize: int, flags: int) -> bytes | memoryview:
        if self._flavour is Flavour.MESSAGE:
            not_here("recv() is for streams; this socket has messages: receive()")
        if flags:
            no_flags()
        if bufsize < 0:
            raise ValueError("negative buffersize in recv")
        stream = self._stream
        if stream is None or self._shut or not bufsize:
            return b""
        part = stream.recv(bufsize, self.gettimeout())
        if part is not None:
            return part
        try:
            data = super().recv(bufsize)
        except (BlockingIOError, TimeoutError, InterruptedError):
            raise
        except OSError:  # closed meanwhile, or torn
            data = b""
        if not data and not self._shut:
            stream.check_whole()
        return data

    def _spoil(self) -> None:
        """See :class:`~.bridge.Bridge`."""
        super().send(b"\0", getattr(socket, "MSG_DONTWAIT", 0))

    def shutdown(self, how: int, /) -> None:
        """End one direction of a stream: ``SHUT_WR`` and the peer reads its end, ``SHUT_RD`` and we do.

        Raises:
            OSError: not connected, or this socket has messages.
        """
        stream = self._stream
        if stream is None or self._shut:
            raise OSError(errno.ENOTCONN, "not connected, or not a stream")
        if how not in (socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR):
            raise OSError(errno.EINVAL, f"not a direction: {how!r}")
        if how != socket.SHUT_RD:
            if self._wire != "native":
                not_here(f"{self._wire} knows no end of one direction; close()")
            stream.stop_writing()
        if how != socket.SHUT_WR:
            stream.stop_reading()
            with contextlib.suppress(OSError):
                super().shutdown(socket.SHUT_RD)

    def fileno(self) -> int:
        """A descriptor that is readable when ``recv`` would not wait, writable when ``send`` would not; -1 when closed.

        With messages, readable when ``receive`` would not wait.
        """
        number = super().fileno()
        if number < 0:
            return number
        self._wants_descriptor = True
        if self._stream is not None:
            self._stream.use_bridge()
        elif self._line is not None and self._flavour is Flavour.MESSAGE and not self.is_closed:
            return self._line.inbox.fileno()
        return number

    # --- messages ---

    def receive(self, flags: int = 0, timeout: float | None = 1.0) -> tuple[str, bytes, bytes | None] | None:
        """The next message.

        Args:
            flags: 0.
            timeout: seconds to wait; None waits for as long as it takes, 0 only looks.

        Returns:
            Sender as ``"host:port"``, content, and the sender's public key in PEM; None if the time is over, the
            socket is closed or not yet connected.

        Raises:
            OSError: this socket is a stream: ``recv()`` reads it.
        """
        if self._flavour is Flavour.STREAM:
            not_here("receive() is for messages; this socket is a stream: recv()")
        if flags:
            no_flags()
        line = self._line
        if line is None or self._shut or self._stream is not None:
            return None
        message = line.receive(timeout)
        if message is None:
            return None
        if self._wants_descriptor:
            line.inbox.refresh()  # the line does it too, but perhaps a moment later
        return self._sender(), message.content, self.peer_public_key

    def _sender(self) -> str:
        address = None if self._line is None else self._line.address
        return text_of(address if address is not None else self._peer_address or ("", 0))

    def broadcast(self, data: Any) -> None:
        """Send once and never again. The peer's ``broadcast_hook_fnc`` gets it, or else whoever reads there.

        Raises:
            ConnectionAbortedError: not connected.
            MessageTooBig: larger than ``Config.unreliable_queue``.
        """
        whole = whole_of(bytes_of(data))
        if self._line is None or self._shut:
            raise ConnectionAbortedError("disconnected")
        self._line.push(whole, BROADCASTS, False)

    # --- hooks ---

    @property
    def broadcast_hook_fnc(self) -> BroadcastHook | None:
        """Called as ``hook(packet, sock)`` with each broadcast, on a thread of the library; may be set at any time."""
        return self._broadcast_hook

    @broadcast_hook_fnc.setter
    def broadcast_hook_fnc(self, hook: BroadcastHook | None) -> None:
        self._broadcast_hook = hook
        line = self._line
        if line is not None:
            if hook is not None:
                line.hooks.start()
            line.on_broadcast = None if hook is None else _Broadcasts(self)

    @property
    def message_hook_fnc(self) -> MessageHook | None:
        """Called as ``hook(packet, (host, port), sock)`` with each whole message, on a thread of the library.

        Such messages do not reach ``receive()``. May be set at any time.
        """
        return self._message_hook

    @message_hook_fnc.setter
    def message_hook_fnc(self, hook: MessageHook | None) -> None:
        before, self._message_hook = self._message_hook, hook
        line = self._line
        if line is None or self._stream is not None or line.closing:
            return
        with contextlib.suppress(SocketClosed, ValueError):
            if hook is not None:
                line.hooks.add_message_hook(_Messages(self))
            elif before is not None:
                line.hooks.remove_message_hook(_Messages(self))

    # --- what it is like ---

    def _whence(self) -> Any:
        return self._peer_address

    @property
    def established(self) -> bool:
        """True while connected."""
        line = self._line
        return line is not None and line.can_send and not self._shut

    @property
    def is_closed(self) -> bool:
        """True once we have closed, or a peer that is not waited for has gone."""
        line = self._line
        return self._shut or (line is not None and (line.ended or line.peer_closed))

    @property
    def status(self) -> PeerStatus | None:
        """All there is to know of the connection; None before ``connect``."""
        return None if self._line is None else self._line.status

    @property
    def loss(self) -> int:
        """Datagrams of ours found lost so far."""
        return self._stats.datagrams_lost

    @property
    def sender_seq(self) -> CycInt:
        """One more than the datagrams we have sent."""
        return CycInt(1) + self._stats.datagrams_sent

    @property
    def receiver_seq(self) -> CycInt:
        """One more than the datagrams that came."""
        return CycInt(1) + self._stats.datagrams_received

    @property
    def _stats(self) -> PeerStats:
        status = self.status
        return PeerStats() if status is None else status.stats

    @property
    def mtu_size(self) -> int:
        """Bytes of UDP payload used on the path; 0 before ``connect``."""
        status = self.status
        return 0 if status is None else status.mtu

    def get_window_size(self) -> int:
        """Bytes of data that fit one datagram; 0 before ``connect``."""
        return max(0, self.mtu_size - (RECORD_OVERHEAD if self._wire == "native" else OLD_OVERHEAD))

    @property
    def address(self) -> tuple[Any, ...] | None:
        """Where the peer is, as the system writes it; None before ``connect``."""
        line = self._line
        if self._flavour is Flavour.MESSAGE and line is not None and line.address is not None:
            return (*line.address, *(self._peer_address or ())[2:])
        return self._peer_address

    @property
    def local_address(self) -> tuple[Any, ...]:
        """Where the UDP port is bound."""
        address: tuple[Any, ...] = self.receiver_socket.getsockname()
        return address

    @property
    def port(self) -> int:
        """The port as it was given; 0 for any."""
        return self._terms.port

    @property
    def timeout(self) -> float:
        """Seconds of silence after which the peer is lost. ``gettimeout()`` is what ``recv`` waits."""
        return self._terms.timeout

    @property
    def span(self) -> float:
        """Seconds between looks at the connection."""
        return self._terms.span

    @property
    def auto_reconnect(self) -> bool:
        """True if a peer that went is waited for."""
        given = self._terms.auto_reconnect
        return self._flavour is Flavour.MESSAGE if given is None else given

    @property
    def peer_id(self) -> PeerId | None:
        """The key the peer has proven; None before that."""
        return None if self._line is None else self._line.their_id

    @property
    def peer_public_key(self) -> bytes | None:
        """The same in PEM."""
        return None if self.peer_id is None else pem_of(self.peer_id)

    def get_socket_name(self) -> str:
        """The peer's address as ``"host:port"``."""
        return "Not connected" if self.address is None else text_of(self.address)

    def getsockname(self) -> Any:
        """Our address: a tuple, or text with messages.

        Raises:
            OSError: closed.
        """
        if self.is_closed:
            raise OSError(errno.EBADF, "socket is closed")
        name = self.receiver_socket.getsockname()
        return text_of(name) if self._flavour is Flavour.MESSAGE else name

    def getpeername(self) -> Any:
        """The peer's address: a tuple, or text with messages.

        Raises:
            OSError: closed, or not yet connected.
        """
        if self.is_closed:
            raise OSError(errno.EBADF, "socket is closed")
        if self.address is None:
            raise OSError(errno.ENOTCONN, "not found peer connection")
        return text_of(self.address) if self._flavour is Flavour.MESSAGE else self.address

    # --- the end ---

    def close(self) -> None:
        """Say goodbye and free the port. Idempotent; ends a ``connect``, ``recv`` or ``sendall`` in progress.

        What was sent is brought to the other machine first, for at most a second; a stream goes on with it in the
        background for ``timeout`` seconds, for which a program that ends waits, too, as long as it gets on. If all got
        there the peer reads the end of the stream, otherwise that it broke off. Files made by ``makefile`` keep the
        socket open.
        """
        super().close()

    def _real_close(self, *args: Any) -> None:
        """Called by ``close`` when no file uses the socket any more."""
        with self._opening:
            if self._shut:
                return
            self._shut = True
        line, stream, blocks = self._line, self._stream, self.gettimeout() != 0.0
        self._bridge.end_writing()
        with contextlib.suppress(OSError):
            super().shutdown(socket.SHUT_RDWR)  # wakes who waits in recv
        super()._real_close()  # type: ignore[misc]  # typeshed does not know it
        self.receiver_socket.close()
        if line is None:
            self._bridge.release()
            return
        if stream is None:
            line.close(min(_CLOSE, self._terms.timeout))
            self._bridge.release()
            return
        patience = 0.0 if line.hooks.is_current_thread() or not blocks else _CLOSE
        self._bring_home(patience, detached=False)

    def _bring_home(self, patience: float, *, detached: bool) -> None:
        """Close the line on a thread that needs this object no more, and wait for that at most ``patience`` seconds."""
        line = self._line
        assert line is not None
        line.is_being_closed = True  # already now: the program may end before the thread has begun
        self._brought_home = True
        arguments = line, self._bridge, self._terms.timeout, detached
        closer = threading.Thread(target=_bring_home, args=arguments, name="srmudp-closer", daemon=True)
        try:
            closer.start()
        except RuntimeError:  # the interpreter is on its way out
            _bring_home(*arguments)
        else:
            closer.join(patience)

    def detach(self) -> int:
        """Hand over the descriptor of a stream, as event loops do: it goes on being one until it is closed.

        This object is then closed; what is written into the descriptor is brought home as by :meth:`close`.

        Raises:
            OSError: not connected, or this socket has messages.
        """
        line, stream = self._line, self._stream
        if line is None or stream is None or self._shut:
            not_here("only a connected stream has a descriptor of use to others")
        stream.use_bridge()
        with self._opening:
            self._shut = True
        self._bridge.end_writing()
        number = super().detach()
        self.receiver_socket.close()
        self._bring_home(0.0, detached=True)
        return number

    def __del__(self, _is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        line: Line | None = getattr(self, "_line", None)
        if line is not None and (line.ended or line.peer_closed):
            super()._real_close()  # type: ignore[misc]  # the peer has closed it: nothing was forgotten
        if not getattr(self, "_brought_home", False):
            if line is not None and not (line.ended or line.closing or line.is_foreign or _is_finalizing()):
                line.abandon()
            bridge: Bridge | None = getattr(self, "_bridge", None)
            if bridge is not None:
                bridge.release()
        udp: UdpHandle | None = getattr(self, "receiver_socket", None)
        if udp is not None:
            udp.close()
        super().__del__()  # type: ignore[misc]  # typeshed does not know it

    def __enter__(self) -> Self:
        return self

    def __repr__(self) -> str:
        if not hasattr(self, "receiver_socket"):
            return "<SecureReliableSocket not open>"
        state = "UNKNOWN"
        if self.is_closed:
            state = "CLOSED"
        elif self.established:
            state = "ESTABLISHED"
        elif self.try_connect:
            state = "FAILED"
        where = self.get_socket_name() if self._flavour is Flavour.MESSAGE else self._peer_address
        return (
            f"<SecureReliableSocket {state} {where} send={self.sender_seq} recv={self.receiver_seq} loss={self.loss}>"
        )


class _Hook:
    """Calls a hook of a socket, which may be gone; equal to others of the same socket."""

    def __init__(self, sock: SecureReliableSocket) -> None:
        self._sock = weakref.ref(sock)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and other._sock() is self._sock()

    def __hash__(self) -> int:
        return hash(type(self))


class _Spoiler(_Hook):
    def __call__(self) -> None:
        sock = self._sock()
        if sock is not None:
            with contextlib.suppress(OSError):
                sock._spoil()


class _Broadcasts(_Hook):
    def __call__(self, message: Message) -> bool:
        """False if there is no hook any more."""
        sock = self._sock()
        hook = None if sock is None else sock.broadcast_hook_fnc
        if sock is None or hook is None:
            return False
        hook(Packet(CONTROL_BCT, CYC_INT0, 0, message.timestamp, message.content, _pair(sock.address)), sock)
        return True


class _Messages(_Hook):
    def __call__(self, message: Message) -> None:
        sock = self._sock()
        hook = None if sock is None else sock.message_hook_fnc
        if sock is not None and hook is not None:
            address = _pair(sock.address)
            packet = Packet(CONTROL_PSH | CONTROL_EOF, CYC_INT0, 0, message.timestamp, message.content, address)
            hook(packet, address, sock)


def _pair(address: tuple[Any, ...] | None) -> tuple[str, int]:
    return ("", 0) if address is None else (address[0], address[1])


def _bring_home(line: Line, bridge: Bridge, timeout: float, detached: bool) -> None:
    try:
        if detached:
            bridge.join()
        line.close(timeout)
    finally:
        bridge.release()
