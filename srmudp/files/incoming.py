"""What a receiver may be sent next: the order of chunks within one transfer. No input, no output, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..exceptions import DecodeError
from .messages import Accept, Chunk, Have, Offer

__all__ = ["Incoming", "Write"]


@dataclass(frozen=True, slots=True)
class Write:
    """To be done with a chunk. ``offset`` 0 begins the file anew; ``completes`` it with the last byte."""

    index: int
    offset: int
    data: bytes
    completes: bool


class Incoming:
    """One accepted offer. Files come one after the other, each from its first byte or from where it broke off.

    So the disk never holds more than came over the network: no gaps, nothing beyond the size that was offered.

    Attributes:
        received: bytes of the offer that are there.
        resumed: of these, bytes that were there before this attempt.
    """

    def __init__(self, offer: Offer) -> None:
        self.offer = offer
        self.attempt = -1
        self.received = 0
        self.resumed = 0
        self._index = 0
        self._offset = 0
        self._fresh = True  # nothing of the present file came in this attempt
        self._have: dict[int, int] = {}

    @property
    def is_complete(self) -> bool:
        """True once every byte is there."""
        return self._index == len(self.offer.entries)

    def begin(self, offer: Offer, have: Sequence[Have], attempt: int) -> Accept:
        """A new attempt, of the same content: the answer to ``offer``.

        Args:
            have: what is there already.
            attempt: a number that no earlier attempt had, nor one before a restart: a random one.
        """
        self.offer = offer
        self.attempt = attempt
        self._have = {part.index: part.offset for part in have}
        self.received = self.resumed = sum(self._have.values())
        self._index = -1
        self._next_file()
        return Accept(offer.id, self.attempt, tuple(have))

    def handle(self, chunk: Chunk) -> Write | None:
        """What to do with a chunk; None if it belongs to an earlier attempt.

        Raises:
            DecodeError: it is not what may come next.
        """
        if chunk.attempt != self.attempt:
            return None
        if self.is_complete or chunk.index != self._index:
            raise DecodeError("bytes of another file than the one that is due")
        if chunk.offset != self._offset:
            if chunk.offset or not self._fresh:
                raise DecodeError("bytes out of order")
            self.received -= self._offset  # the sender's file begins otherwise: all of it comes
            self.resumed -= self._offset
            self._offset = 0
        size = self.offer.entries[self._index].size
        if self._offset + len(chunk.data) > size:
            raise DecodeError("more bytes than were offered")
        self._fresh = False
        self._offset += len(chunk.data)
        self.received += len(chunk.data)
        completes = self._offset == size
        if completes:
            self._next_file()
        return Write(chunk.index, chunk.offset, chunk.data, completes)

    def _next_file(self) -> None:
        entries = self.offer.entries
        self._index += 1
        while self._index < len(entries):
            self._offset = self._have.get(self._index, 0)
            if self._offset < entries[self._index].size:
                break
            self._index += 1
        self._fresh = True
