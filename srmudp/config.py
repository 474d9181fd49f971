"""Every tunable of srmudp in one frozen dataclass, with unit, default and validation.

The defaults suit chats, games, file transfers and robots; most programs never build a :class:`Config`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .transports.base import Transport

KIB = 1024
MIB = 1024 * KIB

CHANNELS = 64
"""Channels of a connection, numbered from 0. A constant of the protocol: a SESSION_START fits one datagram with it."""

PRIORITIES = range(-128, 128)
"""Priorities of messages. Only the sender knows them."""

MIN_MTU = 1000
"""Bytes of UDP payload every path must bear (the floor of path MTU discovery)."""

MAX_MTU = 65_507
"""The largest UDP payload over IPv4."""


STUN_PORT = 3478
"""Where STUN servers listen (RFC 8489 section 18.6)."""

STUN_SERVERS = (
    "stun.l.google.com:19302",
    "stun.cloudflare.com:3478",
    "stun.nextcloud.com:3478",
    "stun.sipgate.net:3478",
)
"""Public servers of four operators that ``discover()`` asks when it is given none. Nothing else ever asks them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Limits and choices of one socket. Immutable, so it may be shared by sockets and threads.

    Sizes are bytes, durations seconds.

    Example::

        sock = MultiHolepunchSocket(config=Config(max_message_size=256 * 1024 * 1024))

    Raises:
        ValueError: a value is out of its range; the text names the field.
    """

    max_message_size: int = 64 * MIB
    """Largest message sent or accepted. A larger one is ``MessageTooBig`` at ``send``."""
    receive_budget: int = 256 * MIB
    """Memory all peers of the socket together may fill with parts of messages larger than a window."""
    channel_window: int = 4 * MIB
    """Bytes one peer may have on their way or waiting to be taken in one channel."""
    connection_window: int = 16 * MIB
    """The same for all channels of one peer together."""
    send_queue: int = 16 * MIB
    """Bytes that may wait for one peer before ``send`` blocks. The largest message under way is not counted, so that
    others can be queued beside it; one message always fits an empty queue."""
    unreliable_queue: int = 4 * MIB
    """Bytes of unreliable messages held for one peer in each direction; more are dropped and counted."""
    max_ack_delay: float = 0.005
    """Longest time an acknowledgement is held back to travel with others."""
    initial_mtu: int = 1200
    """UDP payload bytes assumed of a new path (RFC 8899 BASE_PLPMTU)."""
    max_mtu: int = MAX_MTU
    """Largest UDP payload that path MTU discovery tries, in bytes."""
    congestion: Literal["bbr", "cubic"] = "bbr"
    """Congestion controller."""
    backend: Literal["auto", "cryptography", "pycryptodome"] = "auto"
    """Cryptographic library. ``auto`` takes ``cryptography`` where it is installed."""
    gso: bool = True
    """Use UDP segmentation and receive offload where the system has them."""
    socket_buffer: int = 4 * MIB
    """Kernel buffer asked for in each direction; the system may grant less."""
    max_strangers: int = 256
    """Peers admitted by ``accept`` at one time."""
    max_strangers_per_network: int = 64
    """The same from one IPv4 address or one IPv6 /64."""
    max_peers: int = 4096
    """Peers of one socket at one time, added and admitted."""
    birthday: bool = True
    """Where our NAT or a peer's gives each connection a random port, and the user's own data (``Peer.nat``) says it,
    it is met by chance: we try random ports of its address (4,000 in a minute, 200 a second at most) or open 256
    sockets. Others may take it for a scan of ports."""
    transport: Callable[[Transport], Transport] | None = None
    """Wraps the socket's transport: the place for a test transport such as ``srmudp.transports.impaired``."""

    def __post_init__(self) -> None:
        for field, low, high in (
            ("max_message_size", 1, 1 << 40),
            ("receive_budget", self.max_message_size, 1 << 50),
            ("channel_window", 64 * KIB, 1 << 40),
            ("connection_window", self.channel_window, 1 << 40),
            ("send_queue", 1, 1 << 50),
            ("unreliable_queue", 64 * KIB, 1 << 40),
            ("max_ack_delay", 0.0, 1.0),
            ("initial_mtu", MIN_MTU, MAX_MTU),
            ("max_mtu", self.initial_mtu, MAX_MTU),
            ("socket_buffer", 4 * KIB, 1 << 31),
            ("max_strangers", 0, 1 << 20),
            ("max_strangers_per_network", 0, 1 << 20),
            ("max_peers", 1, 1 << 20),
        ):
            value = getattr(self, field)
            if not low <= value <= high:
                raise ValueError(f"Config.{field} must be between {low} and {high}, not {value!r}")
        if self.congestion not in ("bbr", "cubic"):
            raise ValueError(f"Config.congestion must be 'bbr' or 'cubic', not {self.congestion!r}")
        if self.backend not in ("auto", "cryptography", "pycryptodome"):
            raise ValueError(f"Config.backend must be 'auto', 'cryptography' or 'pycryptodome', not {self.backend!r}")
