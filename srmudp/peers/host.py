"""What a peer and the handshakes see of the endpoint they live in, and the small things they exchange with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from ..config import Config
from ..crypto.backend import Backend
from ..models import Address, NatTraits, PeerId
from ..protocol.credit import ReceiveBudget
from ..protocol.events import Event
from ..protocol.handshake import Agreed
from ..protocol.session import Session
from ..wire.frames import Candidates
from .attempts import Attempt
from .jobs import TokenBucket

T = TypeVar("T")
P = TypeVar("P")
AnyPeer = TypeVar("AnyPeer", contravariant=True)
"""What lives here is a :class:`~srmudp.peers.peer.Peer`; this module need not know more of it than that."""


class Transmit(NamedTuple):
    """Sealed bytes for the transport: datagrams of ``segment_size`` back to back.

    Attributes:
        hop_limit: routers after which it dies, a lone datagram then; 0 for as many as the system allows.
    """

    payload: bytes
    segment_size: int
    destination: Address
    hop_limit: int = 0


class Receipt(NamedTuple, Generic[P]):
    """What ``message_taken`` needs to know of a message."""

    peer: P
    restarts: int
    channel: int
    sequence: int
    size: int


class Surroundings(Protocol):
    """What a peer asks of :class:`~srmudp.peers.whereabouts.Whereabouts`."""

    @property
    def hosts(self) -> tuple[Address, ...]:
        """Our addresses on our interfaces."""
        ...

    def greeting(self) -> Candidates | None:
        """What a peer is told when its session begins."""
        ...

    def stir(self, now: float) -> None:
        """There may be something new about us."""


class Host(Protocol[AnyPeer]):
    """What a peer asks of the endpoint it lives in."""

    config: Config
    backend: Backend
    random: Callable[[int], bytes]
    timeout: float
    span: float
    keepalive: float
    drops: Counter[str]
    budget: ReceiveBudget
    peer_id: PeerId
    unproven: TokenBucket
    """Challenges to addresses of which nothing is known but what peers say."""

    @property
    def whereabouts(self) -> Surroundings:
        """What is known of our own addresses."""
        ...

    def emit(self, event: Event) -> None:
        """Queue an event."""

    def touch(self, peer: AnyPeer) -> None:
        """The peer may have something to send or another deadline."""

    def add_peer(self, name: str, addresses: Sequence[Address], peer_id: PeerId | None, now: float) -> None:
        """Add a peer, pinned to its key if one is given."""

    def note_unreached(self, peer: AnyPeer, now: float) -> None:
        """The peer was punched and did not answer: find out why."""

    def add_job(self, compute: Callable[[], T], commit: Callable[[T | None, float], None]) -> None:
        """Compute outside the lock, then commit under it; None if the computation found a forgery."""

    def kept_port(self, now: float) -> int | None:
        """Our port, if a NAT shows it to others as it is."""
        ...

    def nat_traits(self, now: float) -> NatTraits:
        """What is known of our own NAT over IPv4."""
        ...

    def new_index(self) -> int:
        """A random receive index that is free."""
        ...

    def note_generation(self, generation: int) -> None:
        """A session of this generation is being made with some peer."""

    def open_attempt(self, peer: AnyPeer, now: float) -> Attempt:
        """Begin an attempt; its first arrow is made by a job."""
        ...

    def forget_attempt(self, attempt: Attempt) -> None:
        """Its answers are no longer wanted."""

    def new_session(self, peer: AnyPeer, agreed: Agreed, now: float) -> Session:
        """Keys for a peer, findable by their index."""
        ...

    def forget_session(self, session: Session) -> None:
        """Nothing opens under these keys any more."""

    def forget_half_open(self, session: Session) -> None:
        """The session is confirmed."""

    def finish_removal(self, peer: AnyPeer, now: float) -> None:
        """The peer's last message is home, or its time is over."""
