"""What a sender does next: the answers to an offer. No input, no output, no clock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..exceptions import DecodeError
from .messages import Accept, Have, Offer

__all__ = ["Outgoing", "Part"]


@dataclass(frozen=True, slots=True)
class Part:
    """A file to be sent, from ``have.offset`` on if our own file begins with what ``have`` says, else as a whole."""

    index: int
    have: Have | None


class Outgoing:
    """One offer and the attempts to bring it over.

    Attributes:
        attempt: the receiver's number of the present one; -1 before the first.
    """

    def __init__(self, offer: Offer) -> None:
        self.offer = offer
        self.attempt = -1
        self._have: dict[int, Have] = {}

    def accept(self, answer: Accept) -> bool:
        """Begin the attempt that the receiver asks for. False if that one runs already.

        Raises:
            DecodeError: it has what nobody offered.
        """
        entries = self.offer.entries
        for have in answer.have:
            if have.index >= len(entries) or have.offset > entries[have.index].size:
                raise DecodeError("it claims to have what was not offered")
        if answer.attempt == self.attempt:
            return False
        self.attempt = answer.attempt
        self._have = {have.index: have for have in answer.have}
        return True

    def parts(self) -> Iterator[Part]:
        """The files that are missing, wholly or in part, in the order in which they must go."""
        for index, entry in enumerate(self.offer.entries):
            have = self._have.get(index)
            if (have.offset if have else 0) < entry.size:
                yield Part(index, have if have and have.offset else None)
