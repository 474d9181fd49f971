"""Parts become a message again: one copy of each byte, made when it comes, and memory that follows what has come."""

from __future__ import annotations

from io import BytesIO
from typing import Final

from .rangeset import RangeSet

SMALL_PIECE: Final = 4096
"""Parts of fewer bytes are gathered."""
EARLY: Final = 8
"""A message gets room for all of it when so large a fraction of it is there."""
COMPACT_PIECES: Final = 256
"""Pieces of a message before small neighbours are joined for the first time."""


class IncomingMessage:
    """A message of which parts have arrived.

    Once an eighth of it is there it gets all of its room, and every part is copied to its place when it comes. The room
    is a ``BytesIO`` around zeros: the system gives memory only to pages that are written to, and the content leaves
    without another copy. Joining kept parts at the end would take two to five times as long (they are out of the
    caches by then), and nothing would be read from the network meanwhile.

    Before that parts are kept, small ones gathered in larger pieces, so that memory follows the bytes that arrived,
    however small their parts and whatever length is claimed.
    """

    __slots__ = ("_compact_at", "_last", "_room", "charge", "grant", "have", "high", "pieces", "ranges", "total")

    def __init__(self, total: int) -> None:
        self.total = total
        self._room: BytesIO | None = None
        self.pieces: dict[int, bytes | bytearray | memoryview] = {}  # by offset, until there is room
        self._last = 0  # where the newest piece begins
        self.ranges: RangeSet | None = None  # kept only while something is out of order
        self.have = 0
        self.high = 0  # one past the highest byte seen
        self.grant = 0
        self.charge = 0
        self._compact_at = COMPACT_PIECES

    def add(self, offset: int, data: bytes | memoryview) -> None:
        """Keep what is new of a part; the bytes that came first stay."""
        size = len(data)
        if offset == self.have == self.high:
            self._put(offset, data)
            self.have = self.high = offset + size
            return
        ranges = self.ranges
        if ranges is None:
            ranges = self.ranges = RangeSet(((0, self.have - 1),) if self.have else ())
        for first, last in ranges.missing(offset, offset + size - 1) if size else ():
            self._put(first, data[first - offset : last + 1 - offset])
            ranges.add(first, last)
            self.have += last + 1 - first
        self.high = max(self.high, offset + size)
        if self.have == self.high:
            self.ranges = None

    @property
    def gaps(self) -> int:
        """Ranges of bytes that stand apart, 0 while everything came in order."""
        return len(self.ranges) if self.ranges is not None else 0

    def content(self) -> bytes:
        """The whole message, once ``have == total``.

        Raises:
            MemoryError: there is no room for it at the moment; nothing is lost, ask again.
        """
        return self._make_room().getvalue()

    def drop(self) -> None:
        """Forget all that was kept."""
        self._room = None
        self.pieces = {}
        self.ranges = None

    def recount(self) -> None:
        """Derive the sums anew from what is certain, after a call was interrupted half way."""
        if self._room is not None:
            # Bytes that are in their place but in no range yet come again: their record was not acknowledged.
            self.pieces = {}
            if self.ranges is not None:
                self.have, self.high = self.ranges.count(), (self.ranges.last or -1) + 1
                if self.have == self.high:
                    self.ranges = None  # what comes in order from now on is not put in
            else:
                self.high = self.have
            return
        pieces, self.pieces = sorted(self.pieces.items()), {}
        self.ranges = None
        self.have = self.high = 0
        for offset, data in pieces:
            self.add(offset, bytes(data) if isinstance(data, bytearray) else data)

    def _put(self, offset: int, data: bytes | memoryview) -> None:
        """Keep bytes of which none was there."""
        room = self._room
        if room is None:
            if EARLY * (self.have + len(data)) < self.total:
                self._keep(offset, data)
                return
            try:
                room = self._make_room()
            except MemoryError:
                self._keep(offset, data)  # the record counts as arrived
                return
        if room.tell() != offset:
            room.seek(offset)
        room.write(data)

    def _make_room(self) -> BytesIO:
        room = self._room
        if room is None:
            room = BytesIO(bytes(self.total))
            for offset, data in sorted(self.pieces.items()):
                room.seek(offset)
                room.write(data)
            self._room = room
            self.pieces = {}
        return room

    def _keep(self, offset: int, data: bytes | memoryview) -> None:
        pieces = self.pieces
        if len(data) >= SMALL_PIECE:
            pieces[offset] = data
            return
        last = pieces.get(self._last)
        if isinstance(last, bytearray) and self._last + len(last) == offset:
            last += data
            return
        self._last = offset
        pieces[offset] = bytearray(data)
        if len(pieces) >= self._compact_at:
            self._compact()

    def _compact(self) -> None:
        """Join small pieces that have become neighbours."""
        merged: dict[int, bytes | bytearray | memoryview] = {}
        start, last = 0, None
        for offset, data in sorted(self.pieces.items()):
            if isinstance(data, bytearray):
                if last is not None and start + len(last) == offset:
                    last += data
                    continue
                start, last = offset, data
            else:
                last = None
            merged[offset] = data
        self.pieces = merged
        self._compact_at = max(COMPACT_PIECES, 2 * len(merged))
