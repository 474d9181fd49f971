"""Segments in, opened records out: reassembly, the replay window, and what the next acknowledgement will say.

Reassembly is keyed by the whole clear header, so a forged variant of a record cannot spoil the honest one: it only
occupies a place of its own, which is bounded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import inf
from typing import Final, NamedTuple

from ..crypto.protection import RecordKeys, ReplayWindow
from ..exceptions import AuthenticationError
from ..wire.frames import MAX_RANGES, Ack, Ranges
from ..wire.packet import MAX_SEGMENTS, Pieces, RecordHeader, Segment
from .rangeset import RangeSet

FAR_AHEAD: Final = 65_536
"""A transmission or record number further than this beyond the largest proven one is not believed."""
MAX_PARTIAL_RECORDS: Final = 4096
"""Incomplete records kept."""
LATE_RANGES: Final = MAX_RANGES // 2
"""Of those an acknowledgement names: for records repaired so late that the newest ranges would leave them out."""
NAMED: Final = 3
"""Acknowledgements that name what would not be missed: one or two of them may be lost."""
MAX_REMEMBERED: Final = 1024
"""Ranges of numbers remembered for acknowledgements, which name the newest of them."""
FORGERIES_TOLERATED: Final = 3
"""Records of several datagrams that may fail to open within FORGERY_SPAN before single ones are asked for."""
FORGERY_SPAN: Final = 1.0
_tuple = tuple.__new__  # half the cost of calling a NamedTuple's class
SINGLE_ONLY_FIRST: Final = 1.0
"""Seconds of single-datagram records asked for at first; doubles up to SINGLE_ONLY_LAST."""
SINGLE_ONLY_LAST: Final = 60.0


class Opened(NamedTuple):
    """A record whose tag verified, and the number of its datagrams."""

    number: int
    segments: int
    plaintext: bytes


class _Partial:
    """A record of which segments are missing."""

    __slots__ = ("have", "pieces", "size")

    def __init__(self, count: int) -> None:
        self.pieces: list[bytes | None] = [None] * count
        self.have = 0
        self.size = 0


class RecordReceiver:
    """The receiving side of one session's record numbers."""

    def __init__(self, keys: RecordKeys, drops: Counter[str], memory: int) -> None:
        self._keys = {keys.epoch: keys}
        self._drops = drops
        self._memory = memory
        self._replay = ReplayWindow()
        self._partials: dict[bytes, _Partial] = {}
        # The same by the number of segments they have, oldest first: making room costs the same however many there are.
        self._by_have: list[dict[bytes, None]] = [{} for _ in range(MAX_SEGMENTS + 1)]
        self._partial_bytes = 0
        self._opened = RangeSet(max_ranges=MAX_REMEMBERED)
        self._transmissions = RangeSet(max_ranges=MAX_REMEMBERED)
        self._discarded: dict[int, int] = {}  # record number -> acks that still name it
        self._late: dict[int, int] = {}  # the same of records opened after later ones
        self._largest_transmission = -1  # proven
        self.largest = -1  # record number
        self.largest_at = 0.0
        self._failures: list[float] = []
        self._single_only = SINGLE_ONLY_FIRST
        self._single_only_until = -inf

    def add_keys(self, keys: RecordKeys) -> None:
        """Records of another epoch open from now on."""
        self._keys[keys.epoch] = keys

    def forget_keys(self, keys: RecordKeys) -> None:
        """Records of that epoch open no more."""
        if self._keys.get(keys.epoch) is keys:
            del self._keys[keys.epoch]

    def on_run(self, header: RecordHeader, aad: bytes, ciphertext: bytes, now: float) -> Opened | None:
        """A whole record's first flight came at once."""
        opened = self._open(header, aad, ciphertext, now)
        if opened is not None:
            first = header.first
            self._transmissions.add(first, first + header.count - 1)
            if self._partials:
                self._forget(aad)
        return opened

    def on_segment(self, segment: Segment, now: float) -> Opened | None:
        """One datagram. Returns the record if it was the last one missing and the tag verified."""
        header, transmission = segment.header, segment.transmission
        if header.count == 1:
            return self.on_run(header, segment.aad, segment.payload, now)
        transmissions = ((transmission, transmission),)
        return self._on_pieces(header, segment.aad, (segment.segment,), (segment.payload,), transmissions, now)

    def on_pieces(self, pieces: Pieces, now: float) -> Opened | None:
        """The same for several datagrams of the first flight of a record that came one after the other."""
        header, aad, segments, payloads, _ = pieces
        transmissions: list[tuple[int, int]] = []
        start = last = segments[0]
        for segment in segments[1:]:
            if segment != last + 1:
                transmissions.append((header.first + start, header.first + last))
                start = segment
            last = segment
        transmissions.append((header.first + start, header.first + last))
        return self._on_pieces(header, aad, segments, payloads, transmissions, now)

    def build_ack(self, now: float) -> Ack | None:
        """What to acknowledge now, newest first; None before anything came."""
        if not self._opened and not self._transmissions:
            return None
        discarded: tuple[tuple[int, int], ...] = ()
        if self._discarded:
            numbers = sorted(self._discarded, reverse=True)[:MAX_RANGES]
            merged = RangeSet()
            for number in numbers:
                merged.add(number)
                self._discarded[number] -= 1
                if not self._discarded[number]:
                    del self._discarded[number]
            discarded = merged.newest(MAX_RANGES)
        delay = int((now - self.largest_at) * 1e6) if self.largest >= 0 else 0
        return Ack(delay, self._ranges_opened(), self._transmissions.newest(MAX_RANGES), discarded)

    @property
    def ranges(self) -> int:
        """How many ranges an ack has to name."""
        return max(len(self._opened), len(self._transmissions))

    def on_ack_acked(self, mark: tuple[int, int]) -> None:
        """The peer opened an ack of ours whose largest numbers were ``mark``: older ones need not be named again."""
        self._opened.remove_below(mark[0])
        self._transmissions.remove_below(mark[1])

    def mark(self) -> tuple[int, int]:
        """The largest numbers the present ack names."""
        return self._opened.last or 0, self._transmissions.last or 0

    def wants_single(self, now: float) -> int | None:
        """Milliseconds of single-datagram records to ask the peer for, after several did not open. None otherwise."""
        if len(self._failures) < FORGERIES_TOLERATED or now < self._single_only_until:
            return None
        self._failures.clear()
        if now > self._single_only_until + 2 * self._single_only:
            self._single_only = SINGLE_ONLY_FIRST
        else:
            self._single_only = min(SINGLE_ONLY_LAST, 2 * self._single_only)
        self._single_only_until = now + self._single_only
        return int(self._single_only * 1000)

    # --- inner workings

    def _open(self, header: RecordHeader, aad: bytes, ciphertext: bytes, now: float) -> Opened | None:
        epoch, _, number, first, count, _ = header
        replay = self._replay
        if number <= replay.highest and not replay.check(number):
            self._drops["replayed"] += count
            return None
        keys = self._keys.get(epoch)
        if keys is None:
            self._drops["unknown_epoch"] += 1
            return None
        try:
            plaintext = keys.open(number, aad, ciphertext)
        except AuthenticationError:
            self._drops["bad_tag"] += 1
            if count > 1:
                self._discarded[number] = NAMED
                if len(self._discarded) > MAX_RANGES:
                    del self._discarded[next(iter(self._discarded))]
                self._failures = [at for at in self._failures if at > now - FORGERY_SPAN][-FORGERIES_TOLERATED:]
                self._failures.append(now)
            return None
        replay.commit(number)
        self._opened.add(number)
        if self._discarded:
            self._discarded.pop(number, None)
        if number > self.largest:
            self.largest = number
            self.largest_at = now
        else:
            self._late[number] = NAMED
            if len(self._late) > MAX_REMEMBERED:
                del self._late[next(iter(self._late))]
        last = first + count - 1
        if last > self._largest_transmission:
            self._largest_transmission = last
        return _tuple(Opened, (number, count, plaintext))

    def _ranges_opened(self) -> Ranges:
        """The newest ranges, and what was repaired below them.

        A repair comes an RTT after the loss, and on a long fast path with loss an RTT has more gaps than an ack has
        ranges: never named, the whole record would be sent again.
        """
        opened = self._opened.newest(MAX_RANGES)
        if not self._late:
            return opened
        if len(opened) <= MAX_RANGES - LATE_RANGES:
            lowest = opened[-1][0]
        else:
            lowest = opened[MAX_RANGES - LATE_RANGES - 1][0]
        below = RangeSet()
        for number, left in list(self._late.items()):  # the first to be repaired first
            if number < lowest:
                if len(below) == LATE_RANGES:
                    break
                below.add(number)
            if left > 1:
                self._late[number] = left - 1
            else:
                del self._late[number]
        if not below:
            return opened
        merged = RangeSet(opened[: MAX_RANGES - len(below)])
        for first, last in below:
            merged.add(first, last)
        return merged.newest(MAX_RANGES)

    def _on_pieces(
        self,
        header: RecordHeader,
        aad: bytes,
        segments: Sequence[int],
        payloads: Sequence[bytes],
        transmissions: Sequence[tuple[int, int]],
        now: float,
    ) -> Opened | None:
        if not self._replay.check(header.number):
            self._drops["replayed"] += len(segments)
            self._hint(transmissions)
            return None
        if header.number > self.largest + FAR_AHEAD or header.epoch not in self._keys:
            self._drops["implausible_record"] += len(segments)
            return None
        partial = self._partials.get(aad)
        if partial is None:
            partial = self._partials[aad] = _Partial(header.count)
            self._by_have[0][aad] = None
            self._make_room(aad)
        self._hint(transmissions)
        pieces = partial.pieces
        for segment, payload in zip(segments, payloads, strict=True):
            if pieces[segment] is not None:
                self._drops["duplicate_segment"] += 1
                continue
            pieces[segment] = payload
            del self._by_have[partial.have][aad]
            partial.have += 1
            self._by_have[partial.have][aad] = None
            partial.size += len(payload)
            self._partial_bytes += len(payload)
        if partial.have < header.count:
            if self._partial_bytes > self._memory:
                self._make_room(aad)
            return None
        self._forget(aad)
        return self._open(header, aad, b"".join([piece for piece in pieces if piece is not None]), now)

    def _hint(self, transmissions: Sequence[tuple[int, int]]) -> None:
        for first, last in transmissions:
            if last <= self._largest_transmission + FAR_AHEAD:
                self._transmissions.add(first, last)
                if len(self._transmissions) > 512:
                    self._transmissions.remove_below(self._transmissions.newest(256)[-1][0])
            else:
                self._drops["implausible_transmission"] += last + 1 - first

    def _forget(self, aad: bytes) -> None:
        partial = self._partials.pop(aad, None)
        if partial is not None:
            self._partial_bytes -= partial.size
            del self._by_have[partial.have][aad]

    def _make_room(self, keep: bytes) -> None:
        """Drop the entries with the fewest segments: junk never evicts what is nearly complete."""
        while len(self._partials) > MAX_PARTIAL_RECORDS or self._partial_bytes > self._memory:
            victim = next((aad for entries in self._by_have for aad in entries if aad != keep), keep)
            self._drops["reassembly_full"] += 1
            self._discarded[int.from_bytes(victim[10:18], "big")] = NAMED
            self._forget(victim)
            if len(self._discarded) > MAX_RANGES:
                del self._discarded[next(iter(self._discarded))]


def packed(ack: Ack, room: int) -> bytes:
    """The bytes of the ack, with only as many of its newest ranges as fit."""
    data = ack.serialise()
    limit = len(ack.opened) + len(ack.transmissions) + len(ack.discarded)
    while len(data) > room and limit > 1:
        limit //= 2
        ack = Ack(ack.delay_us, ack.opened[:limit], ack.transmissions[:limit], ack.discarded[:limit])
        data = ack.serialise()
    return data
