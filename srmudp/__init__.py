"""Encrypted, reliable sockets that connect people behind home routers directly to each other.

One UDP socket, many named peers: hole punching, proven identities, messages that arrive once and in order::

    from srmudp import MultiHolepunchSocket

    with MultiHolepunchSocket(port=8000, peers={"bob": "bob.example:8001"}) as sock:
        sock.send(b"Hello, Bob!", recipient="bob")
        message = sock.receive(timeout=1.0)
"""

import logging

from .config import Config
from .crypto.keys import Identity
from .exceptions import (
    AuthenticationError,
    DecodeError,
    IdentityError,
    LocalProtocolError,
    MessageTooBig,
    QueueFull,
    RemoteProtocolError,
    SocketClosed,
    SrmudpError,
    UnknownPeer,
)
from .models import Address, EventKind, Message, Peer, PeerEvent, PeerId, PeerState, PeerStats, PeerStatus, Trust
from .sockets.delivery import Delivery
from .sockets.multi import MultiHolepunchSocket
from .transports.impaired import impaired

__version__ = "0.1.0"

__all__ = [
    "Address",
    "AuthenticationError",
    "Config",
    "DecodeError",
    "Delivery",
    "EventKind",
    "Identity",
    "IdentityError",
    "LocalProtocolError",
    "Message",
    "MessageTooBig",
    "MultiHolepunchSocket",
    "Peer",
    "PeerEvent",
    "PeerId",
    "PeerState",
    "PeerStats",
    "PeerStatus",
    "QueueFull",
    "RemoteProtocolError",
    "SocketClosed",
    "SrmudpError",
    "Trust",
    "UnknownPeer",
    "__version__",
    "impaired",
]

logging.getLogger("srmudp").addHandler(logging.NullHandler())
