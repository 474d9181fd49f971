"""The open invites of one socket: who comes with one of their tokens is let in and pinned, whatever ``accept`` says.

A token is looked at only after its bearer has proven a key in a whole handshake, so that a guess costs as much as any
stranger's handshake and is limited with those. An unknown, spent or expired one is as if there were none. Once it was
presented it belongs to that key alone, which may present it again: the answer may have been lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from ..models import PeerId
from ..nat.invites import TOKEN

MAX_OPEN: Final = 64
"""Invites open at a time."""


@dataclass(slots=True)
class Ticket:
    """An invite that was given out.

    Attributes:
        name: what its bearer is called here; empty: as it calls itself.
        until: when it expires.
        bearer: who presented it; None while it is open.
    """

    name: str
    until: float
    bearer: PeerId | None = None


class Invites:
    """What was given out and not expired. Called under the endpoint lock."""

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        # By hash: how long a look-up takes tells nothing of the tokens, and none is kept.
        self._tickets: dict[bytes, Ticket] = {}

    def open(self, name: str, until: float, now: float) -> bytes:
        """A new token.

        Raises:
            ValueError: too many are open.
        """
        self._expire(now)
        if sum(ticket.bearer is None for ticket in self._tickets.values()) >= MAX_OPEN:
            raise ValueError(f"{MAX_OPEN} invites are open: wait until some are used, or let them expire sooner")
        while len(self._tickets) >= 2 * MAX_OPEN:
            del self._tickets[next(digest for digest, ticket in self._tickets.items() if ticket.bearer is not None)]
        token = self._random(TOKEN)
        self._tickets[_digest(token)] = Ticket(name, until)
        return token

    def is_any_open(self, now: float) -> bool:
        """True while somebody may come with a token."""
        self._expire(now)
        return bool(self._tickets)

    def redeem(self, token: bytes, bearer: PeerId, now: float) -> Ticket | None:
        """The invite that ``bearer`` has come with; nobody else can from now on. None if it is worth nothing."""
        self._expire(now)
        ticket = self._tickets.get(_digest(token))
        if ticket is None or ticket.bearer not in (None, bearer):
            return None
        ticket.bearer = bearer
        return ticket

    def forget(self, bearer: PeerId) -> None:
        """Who was removed does not come back with the same token."""
        self._tickets = {digest: ticket for digest, ticket in self._tickets.items() if ticket.bearer != bearer}

    def _expire(self, now: float) -> None:
        if any(now >= ticket.until for ticket in self._tickets.values()):
            self._tickets = {digest: ticket for digest, ticket in self._tickets.items() if now < ticket.until}


def _digest(token: bytes) -> bytes:
    return sha256(token).digest()
