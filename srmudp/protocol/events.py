"""What the machine reports to the shell, besides the public :class:`~srmudp.models.PeerEvent`.

What comes with every message is a named tuple, which costs a fifth of a frozen dataclass.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from ..models import Address, PeerEvent, PeerId


class Failure(StrEnum):
    """Why a message was not delivered."""

    EXPIRED = "its ttl passed before the peer took it"
    REMOVED = "the peer was removed"
    CLOSED = "the socket was closed"
    PEER_CHANGED = "another key took the name"
    REFUSED = "the peer refused us"
    REMOVED_US = "the peer removed us"
    QUEUE_FULL = "the queue had no room in time"
    DROPPED = "the unreliable queue was full"
    TOO_BIG = "larger than the receiver accepts"
    LOST = "lost on the way (it was sent as unreliable)"


class MessageArrived(NamedTuple):
    """A message is complete and in order. The shell calls ``Endpoint.message_taken`` once the application has it.

    ``receipt`` is opaque to the shell. Peers on the old wire have no ``peer_id``.
    """

    peer: str
    peer_id: PeerId | None
    channel: int
    content: bytes
    receipt: object

    def __repr__(self) -> str:
        """Without the content, so that no log shows it."""
        return f"MessageArrived(peer={self.peer!r}, channel={self.channel}, {len(self.content)} bytes)"


class MessageSettled(NamedTuple):
    """A message that ``send_message`` numbered ``token`` is delivered (``failure`` is None) or failed for good."""

    token: int
    peer: str
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class RoomFreed:
    """The peer's send queue has room again after ``has_room`` said no."""

    peer: str


@dataclass(frozen=True, slots=True)
class ResolveWanted:
    """Connecting begins anew: host names given for this peer should be resolved again."""

    peer: str


@dataclass(frozen=True, slots=True)
class GuestCame:
    """Somebody came with an invite of ours and is pinned under this name from now on."""

    peer: str
    peer_id: PeerId


@dataclass(frozen=True, slots=True)
class ServerAnswered:
    """A question to a STUN server ended, or what was asked in one call may be taken for settled."""


@dataclass(frozen=True, slots=True)
class SocketsWanted:
    """So many more sockets should send to ``remote``, and no other; 1 means the one that it was heard by, if any, or
    a new one at ``port`` if that is not 0.

    The shell tells ``Endpoint.note_sockets`` how many there are, and sends what has a hop limit from all of them.
    """

    peer: str
    remote: Address
    count: int
    port: int = 0


Event = (
    PeerEvent | MessageArrived | MessageSettled | RoomFreed | ResolveWanted | ServerAnswered | GuestCame | SocketsWanted
)
