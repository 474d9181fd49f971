"""What callers give, checked in one place for every kind of socket."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

from ..config import CHANNELS, PRIORITIES, Config
from ..crypto.backend import select_backend
from ..crypto.keys import Identity
from ..models import Wire
from ..peers.endpoint import AcceptPolicy, Endpoint
from ..transports.udp import UdpTransport
from .addresses import PeerSpec, Target, check_name, check_wire, parse_peers
from .household import Letter
from .known_peers import KnownPeers

if TYPE_CHECKING:
    import socket

    from ..transports.base import Transport


class Parts(NamedTuple):
    """What a socket is put together from. Close the transport if it is not to be."""

    endpoint: Endpoint
    transport: Transport
    config: Config
    targets: dict[str, Target]
    known: KnownPeers | None
    name: str


def prepare(
    port: int,
    peers: Mapping[str, PeerSpec] | None,
    *,
    host: str,
    name: str | None,
    identity: Identity | str | os.PathLike[str] | None,
    known_peers: str | os.PathLike[str] | None,
    accept: object,
    timeout: float,
    span: float,
    config: Config | None,
    sock: socket.socket | None = None,
    serve_stun: bool = False,
    wire: Wire = "native",
) -> Parts:
    """Check the arguments of a socket, as ``MultiHolepunchSocket`` has them, and bind its port.

    Args:
        sock: a bound UDP socket to take over, in place of ``host`` and ``port``.

    Raises:
        ValueError: an argument is out of range or a peer spec malformed; nothing is left open.
        TypeError: an argument has the wrong type.
        IdentityError: the identity or known-peers file cannot be used.
        OSError: the port is taken, or the address is not ours.
    """
    if isinstance(port, bool) or not isinstance(port, int):
        raise TypeError(f"port must be int, not {type(port).__name__}")
    if not 0 <= port <= 65_535:
        raise ValueError(f"port must be between 0 and 65535, not {port}")
    for what, seconds in (("timeout", timeout), ("span", span)):
        if not (isfinite(seconds) and seconds > 0):
            raise ValueError(f"{what} must be a positive number of seconds, not {seconds!r}")
    if not isinstance(accept, bool) and not callable(accept):
        raise TypeError(f"accept must be True, False or callable, not {type(accept).__name__}")
    name = check_name(name, "socket name") if name else ""
    config = Config() if config is None else config
    backend = select_backend(config.backend)
    if identity is None:
        identity = Identity.generate(backend=backend)
    elif not isinstance(identity, Identity):
        identity = Identity.load_or_create(identity, backend=backend)
    targets = parse_peers({} if peers is None else peers, identity.peer_id, check_wire(wire))
    known = None if known_peers is None else KnownPeers(known_peers)
    policy = {False: AcceptPolicy.NOBODY, True: AcceptPolicy.EVERYBODY}
    udp = UdpTransport(host, port, gso=config.gso, socket_buffer=config.socket_buffer, sock=sock)
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
            name=name,
            accept=policy[accept] if isinstance(accept, bool) else AcceptPolicy.ASK,
            serve_stun=bool(serve_stun),
        )
        if config.transport is not None:
            transport = config.transport(transport)
    except BaseException:
        transport.close()
        raise
    return Parts(endpoint, transport, config, targets, known, name)


def letter_of(
    data: bytes | bytearray | memoryview, channel: int, reliable: bool, ttl: float | None, priority: int
) -> Letter:
    """A message and its options as ``send`` is given them.

    Raises:
        TypeError: ``data`` is not bytes-like.
        ValueError: an option is out of range.
    """
    content = data if type(data) is bytes else _content(data)
    if (
        type(channel) is not int and (type(channel) is bool or not isinstance(channel, int))
    ) or not 0 <= channel < CHANNELS:
        raise ValueError(f"channel must be between 0 and {CHANNELS - 1}, not {channel!r}")
    if (
        type(priority) is not int and (type(priority) is bool or not isinstance(priority, int))
    ) or priority not in PRIORITIES:
        raise ValueError(f"priority must be between {PRIORITIES[0]} and {PRIORITIES[-1]}, not {priority!r}")
    if ttl is not None and not ttl > 0:
        raise ValueError(f"ttl must be a positive number of seconds or None, not {ttl!r}")
    return Letter(content, channel, bool(reliable), ttl, priority)


def recipients_of(recipient: str | Iterable[str] | None) -> str | tuple[str, ...] | None:
    """Whom a message is for, as ``send`` is told.

    Raises:
        TypeError: a name is not ``str``.
    """
    if recipient is None or isinstance(recipient, str):
        return recipient
    recipient = tuple(recipient)
    for name in recipient:
        if not isinstance(name, str):
            raise TypeError(f"recipients are names (str), not {type(name).__name__}")
    return recipient


def names_of(names: str | Iterable[str]) -> tuple[str, ...]:
    """One name or several."""
    return (names,) if isinstance(names, str) else tuple(names)


def check_timeout(timeout: float | None) -> float | None:
    """``timeout`` itself, if it is None or a number of seconds from 0.

    Raises:
        ValueError: it is not.
    """
    if timeout is not None and not timeout >= 0:  # not a number is refused too
        raise ValueError(f"timeout must be None or a number of seconds from 0, not {timeout!r}")
    return timeout


def _content(data: Any) -> bytes:
    """``data`` as bytes that nobody else can change."""
    if isinstance(data, str):
        raise TypeError("send() takes bytes, not str: use text.encode()")
    try:
        with memoryview(data) as view:
            return view.tobytes()
    except TypeError:
        raise TypeError(f"send() takes a bytes-like object, not {type(data).__name__}") from None
