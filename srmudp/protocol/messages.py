"""Messages over a lossy, reordering path: what is still to be sent, what has arrived, and how much may be on its way.

Both halves know channels and sequences, not records: records carry *parts* of messages, each part idempotent by
(channel, sequence, offset). The state belongs to the pair of program instances, not to a session, so it survives a
change of keys: only what was in flight is sent again.

Credit. A started message costs its sender the bytes sent of it plus :data:`OVERHEAD`, until the receiver says *taken*.
The sum may not pass the windows the receiver announced, but bytes below a message's *grant* cost nothing. The receiver
grants room to the oldest incomplete message of a channel as it arrives, out of one budget per socket.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from ..config import Config
from ..exceptions import RemoteProtocolError
from ..wire.frames import MAX_PART_HEADER, ChannelState, MessagePart, message_part_header
from .events import Failure
from .rangeset import RangeSet

OVERHEAD: Final = 256
"""Bytes every message costs besides its content: bounds how many empty ones can wait. Part of the protocol."""

MAX_GAPS: Final = 8192
"""Gaps in a message under reassembly; a full window of single datagrams with one in ten lost has a tenth of that."""
SMALL_PIECE: Final = 4096
"""Parts of fewer bytes are gathered."""
COMPACT_PIECES: Final = 256
"""Pieces of a message before small neighbours are joined for the first time."""

Chunk = tuple["OutgoingMessage", int, int]


class OutgoingMessage:
    """A message on its way: kept whole until the peer has taken it."""

    __slots__ = (
        "acked",
        "arrived",
        "channel",
        "charge",
        "content",
        "expires",
        "grant",
        "sent",
        "sequence",
        "size",
        "token",
        "withdrawn",
    )

    def __init__(self, token: int, channel: int, content: bytes, expires: float | None) -> None:
        self.token = token
        self.channel = channel
        self.content = content
        self.size = len(content)
        self.expires = expires
        self.reset()
        self.withdrawn = False

    def reset(self) -> None:
        """Forget that anything was sent."""
        self.sequence = -1
        self.sent = 0
        self.acked: RangeSet | None = None
        self.arrived = False  # all of it
        self.grant = 0
        self.charge = 0


class SendChannel:
    """One channel's outgoing order."""

    __slots__ = ("charged", "current", "next_sequence", "number", "resend", "started", "waiting")

    def __init__(self, number: int) -> None:
        self.number = number
        self.waiting: deque[OutgoingMessage] = deque()  # no byte sent, no sequence yet
        self.started: deque[OutgoingMessage] = deque()  # numbered, not yet taken
        self.current: OutgoingMessage | None = None  # the last of `started`, if bytes of it are still unsent
        self.resend: deque[Chunk] = deque()
        self.next_sequence = 0
        self.charged = 0


class SendHalf:
    """Everything this side still owes the peer."""

    def __init__(self) -> None:
        self.channels: dict[int, SendChannel] = {}
        self.queued_bytes = 0  # content of reliable messages not settled
        self.queued_messages = 0
        self.charged = 0
        self.channel_window = 0
        self.connection_window = 0
        self.settled: list[tuple[int, Failure | None]] = []
        self.withdrawals: dict[tuple[int, int], None] = {}  # (channel, sequence) still to be told, in order
        self._rotation: deque[SendChannel] = deque()  # channels that may have something to send
        self._in_rotation: set[int] = set()
        self._expiring = 0

    # --- commands

    def add(self, token: int, channel: int, content: bytes, expires: float | None) -> None:
        """Queue a message behind those of its channel."""
        state = self.channels.get(channel)
        if state is None:
            state = self.channels[channel] = SendChannel(channel)
        state.waiting.append(OutgoingMessage(token, channel, content, expires))
        self.queued_bytes += len(content)
        self.queued_messages += 1
        if expires is not None:
            self._expiring += 1
        self._rotate_in(state)

    def fail_all(self, reason: Failure) -> None:
        """Give up everything queued."""
        for state in self.channels.values():
            for message in (*state.started, *state.waiting):
                if not message.withdrawn:
                    self._settle(message, reason)
        self.channels.clear()
        self._rotation.clear()
        self._in_rotation.clear()
        self.withdrawals.clear()
        self.charged = 0

    def fail_larger(self, limit: int) -> None:
        """Give up unsent messages that the peer would refuse for their size."""
        for state in self.channels.values():
            for message in [m for m in state.waiting if m.size > limit]:
                state.waiting.remove(message)
                self._settle(message, Failure.TOO_BIG)

    def expire(self, now: float) -> None:
        """Withdraw messages whose time has passed."""
        if not self._expiring:
            return
        for state in self.channels.values():
            for message in [m for m in state.waiting if m.expires is not None and m.expires <= now]:
                state.waiting.remove(message)
                self._settle(message, Failure.EXPIRED)
            for message in state.started:
                if message.expires is not None and message.expires <= now and not message.withdrawn:
                    self._settle(message, Failure.EXPIRED)
                    message.withdrawn = True
                    message.content = b""
                    if state.current is message:
                        state.current = None
                    # Its charge stays until the peer says taken: it may have counted all of it.
                    self.withdrawals[(state.number, message.sequence)] = None
                    self._rotate_in(state)

    def next_expiry(self) -> float | None:
        """When the next message with a ttl must be looked at."""
        if not self._expiring:
            return None
        times = (
            m.expires
            for state in self.channels.values()
            for m in (*state.started, *state.waiting)
            if m.expires is not None and not m.withdrawn
        )
        return min(times, default=None)

    # --- session start

    def set_windows(self, channel_window: int, connection_window: int) -> None:
        """Take over what the peer allows."""
        self.channel_window = channel_window
        self.connection_window = connection_window
        for state in self.channels.values():
            self._rotate_in(state)

    def restart(self) -> None:
        """The peer is a new instance: everything it did not take goes again, oldest first, numbered from 0."""
        for state in self.channels.values():
            kept = [m for m in state.started if not m.withdrawn]
            for message in kept:
                message.reset()
            state.waiting.extendleft(reversed(kept))
            state.started.clear()
            state.current = None
            state.resend.clear()
            state.next_sequence = 0
            state.charged = 0
            self._rotate_in(state)
        self.withdrawals.clear()
        self.charged = 0

    def recount(self) -> None:
        """Derive every sum and queue anew from the messages themselves, after a call was interrupted half way."""
        self._rotation.clear()
        self._in_rotation.clear()
        self.charged = self.queued_bytes = self.queued_messages = self._expiring = 0
        for state in self.channels.values():
            state.charged = sum(message.charge for message in state.started)
            self.charged += state.charged
            last = state.started[-1] if state.started else None
            unsent = last is not None and not last.withdrawn and (last.sent < last.size or state.current is last)
            state.current = last if unsent else None
            state.next_sequence = max(state.next_sequence, last.sequence + 1 if last is not None else 0)
            # Parts may have been taken for a record that was never sealed: what is not known to be there goes again.
            state.resend.clear()
            for message in state.started:
                self._send_missing(state, message)
            for message in (*state.started, *state.waiting):
                if not message.withdrawn:
                    self.queued_bytes += message.size
                    self.queued_messages += 1
                    self._expiring += message.expires is not None
            self._rotate_in(state)

    def synchronise(self, channel: int, expected: int | None) -> None:
        """The same instance says which sequence it expects next in a channel (None: it remembers nothing of it).

        Below it everything arrived. Above our own next sequence it remembers more than we do (we forgot it and began
        anew), so we go on from its number.
        """
        state = self.channels.get(channel)
        if state is None:
            state = self.channels[channel] = SendChannel(channel)
        if expected is None:
            state.resend.clear()
            for message in state.started:
                message.acked = None
                message.arrived = False
                self._send_missing(state, message)
        elif expected > state.next_sequence:
            kept = [m for m in state.started if not m.withdrawn]
            for message in state.started:
                self._recharge(state, message, 0)
                self.withdrawals.pop((channel, message.sequence), None)
                message.reset()
            state.waiting.extendleft(reversed(kept))
            state.started.clear()
            state.current = None
            state.resend.clear()
            state.next_sequence = expected
        else:
            for message in state.started:
                if message.sequence < expected:
                    message.arrived = True
        self._rotate_in(state)

    def states(self) -> Iterator[tuple[int, int]]:
        """(channel, oldest sequence not known to be taken) of every channel in use."""
        for number, state in self.channels.items():
            yield number, state.started[0].sequence if state.started else state.next_sequence

    # --- acknowledgements

    def on_acked(self, message: OutgoingMessage, start: int, end: int) -> None:
        """The peer opened a record with this part: it never needs to go again."""
        if start == 0 and end == message.size:
            message.arrived = True
            return
        if message.acked is None:
            message.acked = RangeSet()
        message.acked.add(start, end - 1)

    def on_lost(self, message: OutgoingMessage, start: int, end: int) -> None:
        """A record with this part was lost: queue again what is not known to have arrived."""
        if message.sequence < 0 or message.withdrawn or message.arrived:
            return
        state = self.channels.get(message.channel)
        if state is None:
            return
        if message.acked is None or start == end:
            state.resend.append((message, start, end))
        else:
            state.resend.extend((message, first, last + 1) for first, last in message.acked.missing(start, end - 1))
        self._rotate_in(state)

    def _send_missing(self, state: SendChannel, message: OutgoingMessage) -> None:
        """Queue again everything sent of a message that is not acknowledged."""
        if message.arrived or message.withdrawn:
            return
        if message.acked is None or not message.sent:
            state.resend.append((message, 0, message.sent))
        else:
            state.resend.extend(
                (message, first, last + 1) for first, last in message.acked.missing(0, message.sent - 1)
            )

    def on_taken(self, channel: int, next_sequence: int) -> None:
        """The application at the other end has every message of the channel below ``next_sequence``."""
        state = self.channels.get(channel)
        if state is None:
            if next_sequence:
                raise RemoteProtocolError(
                    f"took message {next_sequence - 1} of channel {channel}, which was never sent"
                )
            return
        if next_sequence > state.next_sequence:
            raise RemoteProtocolError(f"took message {next_sequence - 1} of channel {channel}, which was never sent")
        while state.started and state.started[0].sequence < next_sequence:
            message = state.started.popleft()
            if message is state.current:
                raise RemoteProtocolError("took a message before its end was sent")
            self._recharge(state, message, 0)
            self.withdrawals.pop((channel, message.sequence), None)
            message.sequence = -1
            if not message.withdrawn:
                self._settle(message, None)
        self._rotate_in(state)
        if self.charged + OVERHEAD < self.connection_window:
            for other in self.channels.values():
                if other.waiting or other.current is not None:
                    self._rotate_in(other)

    def on_grant(self, channel: int, sequence: int, limit: int) -> None:
        """The peer reserved room for the first ``limit`` bytes of a message."""
        state = self.channels.get(channel)
        if state is None or not state.started:
            return
        position = sequence - state.started[0].sequence
        if 0 <= position < len(state.started):
            message = state.started[position]
            message.grant = max(message.grant, limit)
            if not message.withdrawn:
                self._recharge(state, message, OVERHEAD + max(0, message.sent - message.grant))
            self._rotate_in(state)

    # --- output

    @property
    def has_work(self) -> bool:
        """True if a channel may have something to send (credit is looked at when filling)."""
        return bool(self._rotation)

    def next_size(self) -> int:
        """At least how many bytes the channel whose turn it is has to send; credit apart."""
        if not self._rotation:
            return 0
        state = self._rotation[0]
        size = 0
        if state.resend:
            size = sum(end - start for _, start, end in islice(state.resend, 8))
        if state.current is not None:
            size += state.current.size - state.current.sent
        if state.waiting:
            size += sum(message.size + MAX_PART_HEADER for message in islice(state.waiting, 64))
        return size

    def fill(self, room: int, out: list[bytes | memoryview], chunks: list[Chunk], *, one_channel: bool) -> int:
        """Append message parts of at most ``room`` bytes together.

        Args:
            out: receives headers and contents, by reference.
            chunks: receives what to report as acked or lost later.
            one_channel: stop after the first channel that had something (records of several datagrams).

        Returns:
            Bytes appended.
        """
        used = 0
        for _ in range(len(self._rotation)):
            state = self._rotation[0]
            took, more = self._fill_channel(state, room - used, out, chunks)
            used += took
            self._rotation.popleft()
            if more:
                self._rotation.append(state)
            else:
                self._in_rotation.discard(state.number)
            if (took and one_channel) or room - used < MAX_PART_HEADER + 1:
                break
        return used

    def _fill_channel(
        self, state: SendChannel, room: int, out: list[bytes | memoryview], chunks: list[Chunk]
    ) -> tuple[int, bool]:
        used = 0
        number = state.number
        resend = state.resend
        while resend:
            message, start, end = resend[0]
            if message.withdrawn or message.arrived or message.sequence < 0:
                resend.popleft()
                continue
            if room - used < MAX_PART_HEADER + 1:
                return used, True
            resend.popleft()
            stop = min(end, start + room - used - MAX_PART_HEADER)
            if stop < end:
                resend.appendleft((message, stop, end))
            used += self._emit(number, message, start, stop, out, chunks)
        while True:
            current = state.current
            if room - used < MAX_PART_HEADER + 1 or len(chunks) >= 512:
                return used, True
            spare = min(self.channel_window - state.charged, self.connection_window - self.charged)
            if current is None:
                if not state.waiting or spare < OVERHEAD:
                    return used, False
                current = state.waiting.popleft()
                current.sequence = state.next_sequence
                state.next_sequence += 1
                state.started.append(current)
                self._recharge(state, current, OVERHEAD)
                spare -= OVERHEAD
                if current.size and spare <= 0:
                    state.current = current
                    return used, False
            left = current.size - current.sent
            allowed = max(0, current.grant - current.sent) + max(0, spare)
            size = min(left, allowed, room - used - MAX_PART_HEADER)
            if left and size <= 0:
                state.current = current
                return used, False
            start, stop = current.sent, current.sent + size
            used += self._emit(number, current, start, stop, out, chunks)
            current.sent = stop
            if size:
                self._recharge(state, current, OVERHEAD + max(0, stop - current.grant))
            state.current = current if stop < current.size else None

    @staticmethod
    def _emit(
        channel: int,
        message: OutgoingMessage,
        start: int,
        stop: int,
        out: list[bytes | memoryview],
        chunks: list[Chunk],
    ) -> int:
        header = message_part_header(channel, message.sequence, start, message.size, stop - start)
        out.append(header)
        if stop - start == message.size:
            out.append(message.content)
        else:
            out.append(memoryview(message.content)[start:stop])
        chunks.append((message, start, stop))
        return len(header) + stop - start

    # --- inner workings

    def _rotate_in(self, state: SendChannel) -> None:
        if state.number not in self._in_rotation:
            self._in_rotation.add(state.number)
            self._rotation.append(state)

    def _recharge(self, state: SendChannel, message: OutgoingMessage, charge: int) -> None:
        change = charge - message.charge
        message.charge = charge
        state.charged += change
        self.charged += change

    def _settle(self, message: OutgoingMessage, failure: Failure | None) -> None:
        self.queued_bytes -= message.size
        self.queued_messages -= 1
        if message.expires is not None:
            self._expiring -= 1
        self.settled.append((message.token, failure))


class ReceiveBudget:
    """Memory for parts of messages larger than a window, shared by all peers of a socket.

    Anybody may take from it down to a reserve of one largest message; the reserve belongs to one message at a time,
    so that of many large messages at least one always gets through.
    """

    def __init__(self, total: int, reserve: int) -> None:
        self.free = total
        self.reserve = reserve
        self._owner: object | None = None
        self._waiting: dict[Callable[[], None], None] = {}

    def take(self, holder: object, amount: int, retry: Callable[[], None]) -> bool:
        """Reserve ``amount`` bytes for ``holder``, or have ``retry`` called when asking again makes sense."""
        if self._owner is None and self.free - amount < self.reserve:
            self._owner = holder
        if self.free - amount >= (0 if self._owner is holder else self.reserve):
            self.free -= amount
            return True
        self._waiting[retry] = None
        return False

    def give_back(self, holder: object, amount: int) -> None:
        """Return what ``holder`` had, and with it the reserve."""
        self.free += amount
        if self._owner is holder:
            self._owner = None
        if amount:
            waiting, self._waiting = self._waiting, {}
            for retry in waiting:
                retry()

    def forget(self, retry: Callable[[], None]) -> None:
        """Stop telling somebody who is gone."""
        self._waiting.pop(retry, None)


class IncomingMessage:
    """A message of which parts have arrived.

    Memory follows the bytes that arrived, however small their parts: small ones are gathered in larger pieces.
    """

    __slots__ = ("_compact_at", "charge", "grant", "have", "high", "pieces", "ranges", "total")

    def __init__(self, total: int) -> None:
        self.total = total
        self.pieces: list[tuple[int, bytes | bytearray | memoryview]] = []
        self.ranges: RangeSet | None = None  # kept only once something came out of order
        self.have = 0
        self.high = 0  # one past the highest byte seen
        self.grant = 0
        self.charge = 0
        self._compact_at = COMPACT_PIECES

    def add(self, offset: int, data: bytes | memoryview) -> None:
        """Keep what is new of a part; the bytes that came first stay.

        Raises:
            RemoteProtocolError: more gaps than any honest sender leaves.
        """
        size = len(data)
        if offset == self.have == self.high:
            self._keep(offset, data)
            self.have = self.high = offset + size
            return
        if self.ranges is None:
            self.ranges = RangeSet()
            if self.have:
                self.ranges.add(0, self.have - 1)
        for first, last in self.ranges.missing(offset, offset + size - 1) if size else ():
            self._keep(first, data[first - offset : last + 1 - offset])
            self.have += last + 1 - first
        if size:
            self.ranges.add(offset, offset + size - 1)
            if len(self.ranges) > MAX_GAPS:
                raise RemoteProtocolError("a message in too many fragments")
        self.high = max(self.high, offset + size)
        if self.have == self.high:
            self.ranges = None

    def content(self) -> bytes:
        """The whole message, once ``have == total``."""
        if len(self.pieces) == 1:
            return bytes(self.pieces[0][1])
        self.pieces.sort(key=lambda piece: piece[0])
        return b"".join([data for _, data in self.pieces])

    def _keep(self, offset: int, data: bytes | memoryview) -> None:
        pieces = self.pieces
        if len(data) >= SMALL_PIECE:
            pieces.append((offset, data))
            return
        if pieces:
            start, last = pieces[-1]
            if isinstance(last, bytearray) and start + len(last) == offset:
                last += data
                return
        pieces.append((offset, bytearray(data)))
        if len(pieces) >= self._compact_at:
            self._compact()

    def _compact(self) -> None:
        """Join small pieces that have become neighbours."""
        merged: list[tuple[int, bytes | bytearray | memoryview]] = []
        for offset, data in sorted(self.pieces, key=lambda piece: piece[0]):
            if merged and isinstance(data, bytearray):
                start, last = merged[-1]
                if isinstance(last, bytearray) and start + len(last) == offset:
                    last += data
                    continue
            merged.append((offset, data))
        self.pieces = merged
        self._compact_at = max(COMPACT_PIECES, 2 * len(merged))


_SKIPPED: Final = object()


class ReceiveChannel:
    """One channel's incoming order."""

    __slots__ = ("charged", "charges", "done", "expected", "number", "partial", "taken", "taken_ahead")

    def __init__(self, number: int) -> None:
        self.number = number
        self.expected = 0  # the next sequence to hand out
        self.taken = 0  # everything below was taken by the application
        self.taken_ahead: set[int] = set()
        self.partial: dict[int, IncomingMessage] = {}
        self.done: dict[int, object] = {}  # complete (bytes) or withdrawn, waiting for an earlier one
        self.charges: dict[int, tuple[IncomingMessage, int]] = {}  # by sequence, until taken
        self.charged = 0


class ReceiveHalf:
    """Everything the peer sent that the application has not taken."""

    def __init__(self, config: Config, budget: ReceiveBudget, retry: Callable[[], None]) -> None:
        self._config = config
        self._budget = budget
        self.retry = retry
        self.channels: dict[int, ReceiveChannel] = {}
        self.charged = 0
        self.taken_dirty: dict[int, None] = {}
        self.taken_bytes = 0  # charge freed since the peer was told last
        self.grants_dirty: dict[tuple[int, int], None] = {}

    def _channel(self, number: int) -> ReceiveChannel:
        channel = self.channels.get(number)
        if channel is None:
            channel = self.channels[number] = ReceiveChannel(number)
        return channel

    def restart(self) -> None:
        """A new instance of the peer begins at sequence 0; what the old one left unfinished is dropped."""
        for channel in self.channels.values():
            for message, _ in channel.charges.values():
                self._budget.give_back(message, message.grant)
        self.channels.clear()
        self.taken_dirty.clear()
        self.grants_dirty.clear()
        self.charged = 0

    def synchronise(self, state: ChannelState) -> None:
        """The peer says where it goes on in a channel. We know better if we remember the channel."""
        if state.channel not in self.channels:
            channel = self._channel(state.channel)
            channel.expected = channel.taken = state.first
        # Lost Taken frames are made up for: tell again where we are.
        self.taken_dirty[state.channel] = None

    def states(self) -> Iterator[tuple[int, int]]:
        """(channel, next sequence expected) of every channel in use."""
        for number, channel in self.channels.items():
            yield number, channel.expected

    def on_part(self, part: MessagePart) -> list[tuple[int, int, bytes]]:
        """Take in a part.

        Returns:
            (channel, sequence, content) of messages that can now be handed out, in order.

        Raises:
            RemoteProtocolError: more than was granted, a total that changed, or a message that is too large.
        """
        number, sequence, offset, total, data = part.channel, part.sequence, part.offset, part.total, part.data
        channel = self.channels.get(number)
        if channel is None:
            channel = self._channel(number)
        if sequence < channel.expected or sequence in channel.done:
            return []
        message = channel.partial.get(sequence)
        if message is None:
            whole = len(data) == total
            if total > self._config.max_message_size:
                raise RemoteProtocolError(f"a message of {total} bytes is above the limit")
            if sequence - channel.taken > self._config.channel_window // OVERHEAD:
                raise RemoteProtocolError("a message too far ahead of what was taken")
            message = IncomingMessage(total)
            if whole:
                self._charge(channel, sequence, message, OVERHEAD + total)
                return self._hand_out(channel, sequence, bytes(data))
            channel.partial[sequence] = message
        elif message.total != total:
            raise RemoteProtocolError("the length of a message changed")
        message.add(offset, data)
        self._charge(channel, sequence, message, OVERHEAD + max(0, message.high - message.grant))
        if message.have == total:
            del channel.partial[sequence]
            content = message.content()
            message.pieces = []
            return self._hand_out(channel, sequence, content)
        self._extend_grant(channel, sequence, message)
        return []

    def on_withdrawn(self, number: int, sequence: int) -> list[tuple[int, int, bytes]]:
        """The peer gave a message up: the order goes on without it."""
        channel = self._channel(number)
        if sequence < channel.expected or sequence in channel.done:
            return []
        if sequence - channel.taken > self._config.channel_window // OVERHEAD:
            raise RemoteProtocolError("a message too far ahead of what was taken")
        message = channel.partial.pop(sequence, None)
        if message is None:
            message = IncomingMessage(0)
        message.pieces = []
        self._charge(channel, sequence, message, OVERHEAD)
        return self._hand_out(channel, sequence, _SKIPPED)

    def on_application_took(self, number: int, sequence: int) -> None:
        """The application has a message that ``on_part`` handed out."""
        channel = self.channels.get(number)
        if channel is None or not channel.taken <= sequence < channel.expected or sequence in channel.taken_ahead:
            return
        message, charge = channel.charges.pop(sequence)
        channel.charged -= charge
        self.charged -= charge
        self.taken_bytes += charge + message.grant
        self._budget.give_back(message, message.grant)
        self.grants_dirty.pop((number, sequence), None)
        if sequence == channel.taken:
            channel.taken += 1
            while channel.taken in channel.taken_ahead:
                channel.taken_ahead.discard(channel.taken)
                channel.taken += 1
            self.taken_dirty[number] = None
        else:
            channel.taken_ahead.add(sequence)

    def retry_grants(self) -> None:
        """Ask the budget again for every message that was refused."""
        for channel in self.channels.values():
            if channel.partial:
                oldest = min(channel.partial)
                self._extend_grant(channel, oldest, channel.partial[oldest])

    def grant_of(self, channel: int, sequence: int) -> int | None:
        """The present grant of an unfinished message."""
        state = self.channels.get(channel)
        message = state.partial.get(sequence) if state is not None else None
        return message.grant if message is not None else None

    def _hand_out(self, channel: ReceiveChannel, sequence: int, content: object) -> list[tuple[int, int, bytes]]:
        channel.done[sequence] = content
        ready: list[tuple[int, int, bytes]] = []
        while channel.expected in channel.done:
            sequence = channel.expected
            content = channel.done.pop(sequence)
            channel.expected += 1
            if isinstance(content, bytes):
                ready.append((channel.number, sequence, content))
            else:
                self.on_application_took(channel.number, sequence)
        if channel.partial and channel.number in self.channels:
            oldest = min(channel.partial)
            self._extend_grant(channel, oldest, channel.partial[oldest])
        return ready

    def _extend_grant(self, channel: ReceiveChannel, sequence: int, message: IncomingMessage) -> None:
        """Give the oldest incomplete message of the channel room for a window beyond what has arrived.

        Only where it is needed: the message alone exceeds a window, or the windows fill up. Without the latter, parts
        of messages in many channels could fill the window of the connection and none ever be complete.
        """
        window = self._config.channel_window
        if (
            message.total + OVERHEAD <= window
            and channel.charged <= window // 2
            and self.charged <= self._config.connection_window // 2
        ) or sequence != min(channel.partial):
            return
        limit = min(message.total, message.have + window)
        wanted = limit - message.grant
        if wanted <= 0 or (wanted < window // 4 and limit < message.total):
            return
        if self._budget.take(message, wanted, self.retry):
            message.grant = limit
            self.grants_dirty[(channel.number, sequence)] = None
            self._charge(channel, sequence, message, OVERHEAD + max(0, message.high - limit))

    def _charge(self, channel: ReceiveChannel, sequence: int, message: IncomingMessage, charge: int) -> None:
        change = charge - message.charge
        message.charge = charge
        channel.charges[sequence] = (message, charge)
        channel.charged += change
        self.charged += change
        if channel.charged > self._config.channel_window or self.charged > self._config.connection_window:
            raise RemoteProtocolError("more data than was granted")
