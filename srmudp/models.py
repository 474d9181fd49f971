"""Public value types: addresses, PeerIds, messages and what is known of a peer. Immutable, free of behaviour."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum, StrEnum
from typing import Any, Final, Literal, NamedTuple

from .exceptions import IdentityError

Wire = Literal["native", "srudp", "srmudp-0.0.4"]
"""What is spoken with a peer: our own protocol, or that of the published srudp (up to 0.3.8) or srmudp 0.0.4."""

WIRES: Final[tuple[Wire, ...]] = ("native", "srudp", "srmudp-0.0.4")

MAX_PORT_STEP: Final = 16
"""Ports between two that a NAT gives out in a row, at most: with more, other flows or chance are as good a reason."""


class Address(NamedTuple):
    """An IP address (text, canonical form) and a UDP port.

    Example::

        >>> str(Address("192.0.2.1", 8000)), str(Address("2001:db8::1", 8000))
        ('192.0.2.1:8000', '[2001:db8::1]:8000')
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, order=True)
class PeerId:
    """Who a peer is: its 32-byte Ed25519 public key. Equal ids mean equal keys, whatever the names.

    ``str(peer_id)`` is the text form, 52 characters of lower-case base32, that ``PeerId.parse`` reads back.

    Raises:
        IdentityError: not 32 bytes.
    """

    key: bytes

    def __post_init__(self) -> None:
        if not isinstance(self.key, bytes) or len(self.key) != 32:
            raise IdentityError("a PeerId is exactly 32 bytes")

    def __str__(self) -> str:
        return base64.b32encode(self.key).decode().rstrip("=").lower()

    def __repr__(self) -> str:
        return f"PeerId({self})"

    @property
    def tag(self) -> str:
        """Four characters that tell two peers of one name apart on a screen. Not a proof of anything."""
        return str(self)[:4]

    @classmethod
    def parse(cls, text: str) -> PeerId:
        """Read the text form.

        Raises:
            IdentityError: not 52 base32 characters, or not the canonical spelling of a key.
        """
        try:
            key = base64.b32decode(text.strip().upper() + "====")
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != 32 or str(cls(key)) != text.strip().lower():
            raise IdentityError(f"not a PeerId: {text[:80]!r} (expected 52 characters a-z and 2-7)")
        return cls(key)


@dataclass(frozen=True, slots=True)
class Message:
    """What ``receive()`` returns and hooks are given.

    Attributes:
        content: the bytes as sent; boundaries are kept.
        peer: our name for the sender.
        timestamp: wall clock (``time.time()``) of this machine when the message was complete.
        peer_id: the sender's proven identity (None only for peers of an old wire format).
        channel: the channel it was sent on.
    """

    content: bytes
    peer: str
    timestamp: float
    peer_id: PeerId | None = None
    channel: int = 0


class NatBehaviour(Enum):
    """How a NAT treats a socket (RFC 4787): which outside address it gives it, and whom it lets in."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    """One outside address for all; whoever knows it gets in. The same as without a NAT."""
    ADDRESS_DEPENDENT = "address-dependent"
    """Another one for each host we send to; only hosts we sent to get in."""
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"
    """Another one for each port too; only addresses and ports we sent to get in."""
    UNKNOWN = "unknown"
    """Not enough was seen to tell."""


@dataclass(frozen=True, slots=True)
class NatTraits:
    """What somebody who is to reach us needs to know of our NAT; ``PublicAddress.traits`` gives ours.

    Args:
        mapping: how the NAT gives out addresses.
        filtering: whom it lets in.
        port_step: what each port it gives out differs by from the one before, where that was always the same.
        last_port: the port it gave out last, of those seen.

    Raises:
        ValueError: the step is 0 or above ``MAX_PORT_STEP`` either way, or the port is none.
    """

    mapping: NatBehaviour = NatBehaviour.UNKNOWN
    filtering: NatBehaviour = NatBehaviour.UNKNOWN
    port_step: int | None = None
    last_port: int | None = None

    def __post_init__(self) -> None:
        if self.port_step is not None and not 1 <= abs(self.port_step) <= MAX_PORT_STEP:
            raise ValueError(f"port_step must be 1 to {MAX_PORT_STEP} or the same below 0, not {self.port_step!r}")
        if self.last_port is not None and not 1 <= self.last_port <= 65_535:
            raise ValueError(f"last_port must be 1 to 65535, not {self.last_port!r}")

    @property
    def hard(self) -> bool:
        """True if everybody we send to sees another address, so that none we tell is of use as it is."""
        return self.mapping in (NatBehaviour.ADDRESS_DEPENDENT, NatBehaviour.ADDRESS_AND_PORT_DEPENDENT)

    @property
    def predictable(self) -> bool:
        """True if the next address can be guessed."""
        return self.hard and self.port_step is not None and self.last_port is not None


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer to be added, spelled out: addresses to try and the identity it must prove.

    Args:
        addresses: one or several of ``"host:port"``, ``"[v6]:port"``, ``(host, port)``, or an invite.
        peer_id: pin; any other key is refused. ``None`` trusts the first key that answers our own punch.
        wire: what its program speaks, if not what the socket was told to speak: ``"srudp"`` or ``"srmudp-0.0.4"`` for
            the published packages of these names. The old wires have no authentication.
        nat: what its side told of its NAT, as an invite does; the better it is known, the more can be tried.

    Example::

        sock.add_peer("alice", Peer(["192.168.1.5:8000", "alice.example:8000"], peer_id=PeerId.parse(text)))
    """

    addresses: tuple[str | tuple[str, int], ...] | list[str | tuple[str, int]] | str = ()
    peer_id: PeerId | None = None
    wire: Wire | None = None
    nat: NatTraits | None = None

    def __repr__(self) -> str:
        """Without invites, which are secrets."""
        given: Any = self.addresses
        shown = _discreet(given) if isinstance(given, str) else type(given)(map(_discreet, given))
        return f"Peer(addresses={shown!r}, peer_id={self.peer_id!r}, wire={self.wire!r}, nat={self.nat!r})"


def _discreet(address: object) -> object:
    return "srmudp:..." if isinstance(address, str) and address.strip().lower().startswith("srmudp:") else address


class PeerState(Enum):
    """Where a connection stands."""

    CONNECTING = "connecting"
    """Punching for the first time."""
    CONNECTED = "connected"
    """Both ends proved their keys."""
    LOST = "lost"
    """Nothing heard for ``timeout`` seconds; punching again with backoff."""
    PENDING = "pending"
    """A stranger that proved its key and waits to be admitted."""
    PASSIVE = "passive"
    """The peer removed us; we answer if it comes back but do not punch."""
    REFUSED = "refused"
    """It, or we, refused the other's identity; retried slowly."""


class Trust(Enum):
    """Why we believe that a name stands for a key."""

    NONE = "none"
    """No key is bound to the name yet."""
    FIRST_USE = "first use"
    """The first key that answered our punch took the name."""
    MATCHED_BY_IP = "matched by ip"
    """Bound because it came from the IP address of exactly one unpinned peer. The weakest binding."""
    ADMITTED = "admitted"
    """A stranger let in by ``accept``."""
    PINNED = "pinned"
    """The key was given in advance or compared; any other is refused."""
    UNAUTHENTICATED = "unauthenticated"
    """The peer speaks an old wire, which proves nothing: whoever answers at its address is taken for it, and somebody
    in between can read and change everything."""


@dataclass(frozen=True, slots=True)
class PeerStats:
    """Counters of one peer since it was added."""

    bytes_sent: int = 0
    bytes_received: int = 0
    messages_sent: int = 0
    messages_received: int = 0
    datagrams_sent: int = 0
    datagrams_received: int = 0
    datagrams_lost: int = 0


@dataclass(frozen=True, slots=True)
class PeerStatus(Mapping[str, Any]):
    """A snapshot of one peer; readable as attributes and as a mapping (``status["established"]``).

    Attributes:
        state: see :class:`PeerState`.
        address: the newest authenticated address, or None.
        trust: see :class:`Trust`.
        rtt: smoothed round-trip time in seconds, or None before a sample.
        loss: share of the datagrams sent lately that were lost, 0.0 to 1.0.
        mtu: bytes of UDP payload used on the path.
        queued: bytes of messages not yet taken by the peer.
        last_seen: seconds since the last authentic packet, or None.
        failure: why it is not connected, in words, or None.
        observed: our own address as the peer sees it, or None; its word alone, so no proof.
        wire: what is spoken with it. Anything but ``"native"`` has no authentication; ``trust`` says so as well.
    """

    name: str
    state: PeerState
    address: Address | None = None
    peer_id: PeerId | None = None
    trust: Trust = Trust.NONE
    rtt: float | None = None
    loss: float = 0.0
    mtu: int = 0
    queued: int = 0
    last_seen: float | None = None
    failure: str | None = None
    observed: Address | None = None
    wire: Wire = "native"
    stats: PeerStats = field(default_factory=PeerStats)

    @property
    def established(self) -> bool:
        """True while connected."""
        return self.state is PeerState.CONNECTED

    @property
    def authenticated(self) -> bool:
        """True while connected to a proven key."""
        return self.established and self.peer_id is not None

    @property
    def pinned(self) -> bool:
        """True if any other key would be refused."""
        return self.trust is Trust.PINNED

    @property
    def first_use(self) -> bool:
        """True if the key was trusted because it came first."""
        return self.trust is Trust.FIRST_USE

    @property
    def matched_by_ip(self) -> bool:
        """True if the name was matched by the sender's IP address alone."""
        return self.trust is Trust.MATCHED_BY_IP

    def __getitem__(self, key: str) -> Any:
        if key in _STATUS_KEYS:
            return getattr(self, key)
        if key in _STATS_KEYS:
            return getattr(self.stats, key)
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter((*_STATUS_KEYS, *_STATS_KEYS))

    def __len__(self) -> int:
        return len(_STATUS_KEYS) + len(_STATS_KEYS)


_STATS_KEYS = tuple(f.name for f in fields(PeerStats))
_STATUS_KEYS = (
    *(f.name for f in fields(PeerStatus)),
    *("established", "authenticated", "pinned", "first_use", "matched_by_ip"),
)


@dataclass(frozen=True, slots=True)
class PublicAddress:
    """What ``discover()`` found: where this socket is seen from outside. ``str()`` gives it as ``"host:port"``.

    Attributes:
        ipv4: the address over IPv4, or None. Of several the one most servers saw.
        ipv6: the same over IPv6.
        mapping: how the NAT gives out addresses (over IPv4, where that was asked). Only an endpoint-independent one
            is of use to others as it is.
        filtering: whom the NAT lets in.
        translated: whether there is a NAT that changes our address; None if nobody can tell.
        answers: server to the address it saw.
        failures: server, as it was given, to the reason why it did not help.
        port_step: what each port the NAT gives out differs by from the one before, where that was always the same.
        last_port: the one it gave out last, to any of the servers.
    """

    ipv4: Address | None = None
    ipv6: Address | None = None
    mapping: NatBehaviour = NatBehaviour.UNKNOWN
    filtering: NatBehaviour = NatBehaviour.UNKNOWN
    translated: bool | None = None
    answers: Mapping[Address, Address] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    port_step: int | None = None
    last_port: int | None = None

    @property
    def traits(self) -> NatTraits:
        """What to tell, beside the address, to those who shall reach us: ``Peer(..., nat=traits)``."""
        return NatTraits(self.mapping, self.filtering, self.port_step, self.last_port)

    @property
    def address(self) -> Address:
        """The one to tell others first: IPv4 where there is one.

        Raises:
            ValueError: there is none.
        """
        address = self.ipv4 or self.ipv6
        if address is None:
            raise ValueError("no address was found")
        return address

    def __str__(self) -> str:
        return str(self.address)


@dataclass(frozen=True, slots=True)
class MappedPort:
    """What ``map_port()`` found: the router lets in what comes for our port. ``str()`` gives it as ``"host:port"``.

    Attributes:
        address: the router's outside address and the port there; by its word.
        protocol: ``"PCP"``, ``"NAT-PMP"`` or ``"UPnP"``.
        router: the router's address inside.
        verified: a datagram of our own that we sent there came in. Many routers that map well do not send back in what
            comes from inside, so False means little.
    """

    address: Address
    protocol: str
    router: str
    verified: bool

    def __str__(self) -> str:
        return str(self.address)


@dataclass(frozen=True, slots=True)
class SeenAddress:
    """An address at which others say they see this socket.

    Attributes:
        address: the address.
        witnesses: who says so: ``"stun 192.0.2.1:3478"``, ``"peer bob"`` or ``"router 192.168.1.1 (UPnP)"``.
        confirmed: witnesses in two networks agree, or a datagram of our own came in there. One alone may err or lie.
    """

    address: Address
    witnesses: tuple[str, ...]
    confirmed: bool


class CandidateKind(StrEnum):
    """How an address came to be thought one at which a peer may be reached (the words of RFC 8445)."""

    HOST = "host"
    """Of an interface of its machine."""
    PEER_REFLEXIVE = "peer-reflexive"
    """Where connected peers see it."""
    MAPPED = "mapped"
    """A port that its router forwards because it asked for that."""
    SERVER_REFLEXIVE = "server-reflexive"
    """Where a STUN server saw it."""
    GIVEN = "given"
    """The program named it."""


class Candidate(NamedTuple):
    """An address at which a socket may be reached, and whence it is known.

    Example::

        >>> str(Candidate(CandidateKind.HOST, Address("192.168.1.5", 8000)))
        'host 192.168.1.5:8000'
    """

    kind: CandidateKind
    address: Address

    def __str__(self) -> str:
        return f"{self.kind} {self.address}"


class EventKind(StrEnum):
    """What happened to a peer. Compares equal to its text: ``event.kind == "connected"``."""

    CONNECTED = "connected"
    LOST = "lost"
    RECONNECTED = "reconnected"
    REMOVED = "removed"
    REFUSED = "refused"
    PEER_CHANGED = "peer_changed"
    PENDING = "pending"
    ROAMED = "roamed"
    MTU = "mtu"
    IDENTITY_IN_USE_ELSEWHERE = "identity_in_use_elsewhere"
    UNREACHED = "unreached"


@dataclass(frozen=True, slots=True)
class PeerEvent:
    """Given to ``on_event`` hooks: something happened to a peer.

    Attributes:
        kind: what; see :class:`EventKind`.
        peer: our name for it.
        peer_id: its proven key, where there is one.
        address: the address it concerns.
        reason: the same in words, for people.
    """

    kind: EventKind
    peer: str
    peer_id: PeerId | None = None
    address: Address | None = None
    reason: str = ""
