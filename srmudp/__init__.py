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
    DiscoveryFailed,
    IdentityError,
    LocalProtocolError,
    MessageTooBig,
    PortMappingFailed,
    QueueFull,
    RemoteProtocolError,
    SocketClosed,
    SrmudpError,
    UnknownPeer,
)
from .models import (
    Address,
    Candidate,
    CandidateKind,
    EventKind,
    MappedPort,
    Message,
    NatBehaviour,
    NatTraits,
    Peer,
    PeerEvent,
    PeerId,
    PeerState,
    PeerStats,
    PeerStatus,
    PublicAddress,
    SeenAddress,
    Trust,
)
from .nat.explanation import Explanation
from .nat.invites import Invite
from .sockets.delivery import Delivery
from .sockets.multi import MultiHolepunchSocket
from .sockets.single.flavours import find_ecdhe_curve as find_ecdhe_curve
from .sockets.single.flavours import get_formal_address_format, get_mtu_linux
from .sockets.single.reliable import SecureReliableSocket
from .transports.impaired import impaired
from .wire.srudp import CONTROL_ACK as CONTROL_ACK
from .wire.srudp import CONTROL_BCT as CONTROL_BCT
from .wire.srudp import CONTROL_EOF as CONTROL_EOF
from .wire.srudp import CONTROL_FIN as CONTROL_FIN
from .wire.srudp import CONTROL_PSH as CONTROL_PSH
from .wire.srudp import CONTROL_RTM as CONTROL_RTM
from .wire.srudp import CYC_INT0 as CYC_INT0
from .wire.srudp import FLAG_NAMES as FLAG_NAMES
from .wire.srudp import MAX_RETRANSMIT_LIMIT as MAX_RETRANSMIT_LIMIT
from .wire.srudp import SEND_BUFFER_SIZE as SEND_BUFFER_SIZE
from .wire.srudp import WINDOW_MAX_SIZE as WINDOW_MAX_SIZE
from .wire.srudp import CycInt as CycInt
from .wire.srudp import Packet, bin2packet, packet2bin
from .wire.srudp import packet_struct as packet_struct

__version__ = "0.1.0"

__all__ = [
    "Address",
    "AuthenticationError",
    "Candidate",
    "CandidateKind",
    "Config",
    "DecodeError",
    "Delivery",
    "DiscoveryFailed",
    "EventKind",
    "Explanation",
    "Identity",
    "IdentityError",
    "Invite",
    "LocalProtocolError",
    "MappedPort",
    "Message",
    "MessageTooBig",
    "MultiHolepunchSocket",
    "NatBehaviour",
    "NatTraits",
    "Packet",
    "Peer",
    "PeerEvent",
    "PeerId",
    "PeerState",
    "PeerStats",
    "PeerStatus",
    "PortMappingFailed",
    "PublicAddress",
    "QueueFull",
    "RemoteProtocolError",
    "SecureReliableSocket",
    "SeenAddress",
    "SocketClosed",
    "SrmudpError",
    "Trust",
    "UnknownPeer",
    "__version__",
    "bin2packet",
    "get_formal_address_format",
    "get_mtu_linux",
    "impaired",
    "packet2bin",
]

logging.getLogger("srmudp").addHandler(logging.NullHandler())
