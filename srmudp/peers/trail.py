"""What was sent to and heard from addresses while no session stood: what an explanation is made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ..models import Address
from ..nat.explanation import Heard

MAX_PLACES: Final = 48
"""Addresses remembered of one peer, more than are ever knocked at by plain punching; the longest untouched goes."""


class Place:
    """An address: what went there and what came from there."""

    __slots__ = ("heard", "heard_at", "sent", "sent_at")

    def __init__(self) -> None:
        self.sent = 0
        self.sent_at: float | None = None
        self.heard: dict[Heard, int] = {}
        self.heard_at: float | None = None


class Trail:
    """Counts by address, bounded. Sources may be forged: what is heard is a hint, never a proof.

    Args:
        limit: addresses remembered.
    """

    __slots__ = ("_limit", "_places", "heard_at")

    def __init__(self, limit: int = MAX_PLACES) -> None:
        self._limit = limit
        self._places: dict[Address, Place] = {}
        self.heard_at: float | None = None
        """When anything was heard last."""

    def on_sent(self, address: Address, now: float) -> None:
        """A datagram of a handshake goes there."""
        place = self._place(address)
        place.sent += 1
        place.sent_at = now

    def on_heard(self, address: Address, what: Heard, now: float) -> None:
        """Something came from there."""
        place = self._place(address)
        place.heard[what] = place.heard.get(what, 0) + 1
        place.heard_at = self.heard_at = now

    def _place(self, address: Address) -> Place:
        places = self._places
        place = places.pop(address, None)
        if place is None:
            if len(places) >= self._limit:
                # One that only spoke to us goes first: a flood must not push out where we knock.
                least = next((one for one, known in places.items() if not known.sent), None)
                del places[next(iter(places)) if least is None else least]
            place = Place()
        places[address] = place
        return place

    def get(self, address: Address) -> Place | None:
        """What is known of an address."""
        return self._places.get(address)

    def __iter__(self) -> Iterator[tuple[Address, Place]]:
        return iter(self._places.items())

    def __len__(self) -> int:
        return len(self._places)

    def settle(self) -> None:
        """A session stands: keep what tells how it came about, not who else spoke to us."""
        self._places = {address: place for address, place in self._places.items() if place.sent}

    def clear(self) -> None:
        """Begin anew: a session stood."""
        self._places.clear()
