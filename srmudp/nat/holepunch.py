"""The schedule of punching: what is sent where, when, and how far it goes, until the peer answers. No I/O.

The first datagrams to an address outside die on their way, a little later each. They open the NATs on our side and
nothing arrives at the other's: a plain Linux router that does not drop what nobody asked for keeps such a datagram as a
flow of its own, and then gives the flow of the host behind it another port, which nobody knows.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from ..models import Address, NatBehaviour, NatTraits, PeerState
from .behaviour import is_local

OPENERS: Final = (2, 3, 4)
"""Hop limits of the first datagrams: over the router of our home, and over a carrier's."""
OPENER_SPACING: Final = 0.15
"""Seconds between them. A peer that begins within about all of them finds its way unharmed."""
GUEST_TRIES: Final = 4.0
"""Seconds after which who was invited, and is not let in, waits to be knocked at."""
GUEST_AGAIN: Final = 120.0
"""Seconds after which it tries again for as long: longer than a router remembers a flow that nobody answered."""
GUEST_HOPS: Final = OPENERS[1]
FIRST_PUNCHES: Final = 0.2
"""Seconds between the first punches to a new peer, for FIRST_PHASE seconds: two NATs open at about the same time."""
FIRST_PHASE: Final = 2.0
SECOND_PUNCHES: Final = 1.0
SECOND_PHASE: Final = 30.0
SLOWEST_PUNCHES: Final = 15.0
TIRED_AFTER: Final = 600.0
TIRED_PUNCHES: Final = 30.0
REFUSED_PUNCHES: Final = 15.0


def punch_interval(state: PeerState, waited: float) -> float:
    """Seconds to the next punch ``waited`` seconds after connecting began: eager at first, then with backoff."""
    if state is PeerState.REFUSED:
        return REFUSED_PUNCHES
    if waited < FIRST_PHASE and state is PeerState.CONNECTING:
        return FIRST_PUNCHES
    if waited < SECOND_PHASE:
        return SECOND_PUNCHES
    if waited < TIRED_AFTER:
        return min(SLOWEST_PUNCHES, waited / SECOND_PHASE)
    return TIRED_PUNCHES


def needs_opening(target: Address, mine: NatTraits, theirs: NatTraits | None) -> bool:
    """Whether a datagram that arrives at ``target`` before one of the peer's left there may do harm.

    Not on a LAN. Nor where one of both lets in everybody, who then hears the other whatever port that is given.
    """
    both = (mine, theirs)
    lets_all_in = any(one is not None and one.filtering is NatBehaviour.ENDPOINT_INDEPENDENT for one in both)
    return not lets_all_in and not is_local(target)


def guest_waits(waited: float) -> bool:
    """Whether who was invited ``waited`` seconds ago keeps its punches from arriving.

    If the NAT of the one who invites let us in, it would have. Else that one has to knock as well, once it was told,
    which takes people half a minute; and by then no flow of ours may lie in the way of its own.
    """
    return waited % GUEST_AGAIN >= GUEST_TRIES


class Openers:
    """Which addresses were opened to already."""

    def __init__(self) -> None:
        self._sent: dict[Address, int] = {}

    def next(self, target: Address) -> int:
        """The hop limit of the next datagram there, which is sent now; 0 once it may go all the way."""
        sent = self._sent.get(target, 0)
        if sent == len(OPENERS):
            return 0
        self._sent[target] = sent + 1
        return OPENERS[sent]

    def is_opening(self, targets: Collection[Address]) -> bool:
        """True if another datagram with a hop limit is to follow to one of them."""
        return any(0 < self._sent.get(target, 0) < len(OPENERS) for target in targets)

    def keep(self, targets: Collection[Address]) -> None:
        """Forget all others."""
        for target in [one for one in self._sent if one not in targets]:
            del self._sent[target]
