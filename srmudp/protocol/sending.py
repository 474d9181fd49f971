"""The sending half of a connection: messages on their way, kept whole until the peer has taken them.

It knows channels and sequences, not records: records carry *parts* of messages, each part idempotent by (channel,
sequence, offset). The state belongs to the pair of program instances, not to a session, so it survives a change of
keys: only what was in flight is sent again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from ..config import PRIORITIES
from ..exceptions import RemoteProtocolError
from ..wire.frames import MAX_PART_HEADER, message_part_header, whole_message_header
from .credit import MAX_SEQUENCE, OVERHEAD
from .events import Failure
from .rangeset import RangeSet

MAX_CHUNKS: Final = 512
"""Parts put into one record; well below what a reader takes."""
LOOK: Final = 1e-6
"""Seconds for each message queued between two looks for those whose ttl has passed: a tenth of the time it takes."""

Chunk = tuple["OutgoingMessage", int, int]
"""A part of a message: bytes from the first number up to the second."""


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
        "priority",
        "sent",
        "sequence",
        "size",
        "token",
        "withdrawn",
    )

    def __init__(
        self, token: int, channel: int, content: bytes | memoryview, expires: float | None, priority: int = 0
    ) -> None:
        self.token = token
        self.priority = priority
        self.channel = channel
        self.content = content
        self.size = len(content)
        self.expires = expires
        self.withdrawn = False
        # As reset() does it; a call for each message would cost as much as the rest.
        self.sequence = -1
        self.sent = 0
        self.acked: RangeSet | None = None
        self.arrived = False  # all of it
        self.grant = 0
        self.charge = 0

    @property
    def has_arrived(self) -> bool:
        """True if nothing of it needs to go any more."""
        if self.arrived or self.withdrawn:
            return True
        return self.acked is not None and not self.acked.missing(0, self.size - 1)

    @property
    def bytes_to_arrive(self) -> int:
        """Bytes of it that still need to go, as far as is known."""
        if self.arrived or self.withdrawn:
            return 0
        if self.acked is None:
            return self.size
        return sum(last + 1 - first for first, last in self.acked.missing(0, self.size - 1))

    def reset(self) -> None:
        """Forget that anything was sent."""
        self.sequence = -1
        self.sent = 0
        self.acked = None
        self.arrived = False
        self.grant = 0
        self.charge = 0


class SendChannel:
    """One channel's outgoing order."""

    __slots__ = ("charged", "current", "next_sequence", "number", "ranks", "resend", "started", "waiting")

    def __init__(self, number: int) -> None:
        self.number = number
        self.waiting: deque[OutgoingMessage] = deque()  # no byte sent, no sequence yet
        self.started: deque[OutgoingMessage] = deque()  # numbered, not yet taken
        self.current: OutgoingMessage | None = None  # the last of `started`, if bytes of it are still unsent
        self.resend: deque[Chunk] = deque()
        self.next_sequence = 0
        self.charged = 0
        self.ranks: dict[int, int] = {}  # priority other than 0: how many in `waiting` and `current` have it

    def rank(self) -> int:
        """The highest priority of what waits here: those behind it wait for it, so it goes as they do."""
        rank = self.resend[0][0].priority if self.resend else PRIORITIES[0]  # the first is the next to go
        if self.waiting or self.current is not None:
            rank = max(rank, *self.ranks) if self.ranks else max(rank, 0)
            if rank < 0 and sum(self.ranks.values()) < len(self.waiting) + (self.current is not None):
                rank = 0
        return rank

    def unrank(self, priority: int) -> None:
        """A message of this priority, not 0, has been sent whole."""
        left = self.ranks.get(priority, 0) - 1
        if left > 0:
            self.ranks[priority] = left
        else:
            self.ranks.pop(priority, None)

    def recount_ranks(self) -> None:
        """Count anew what waits, after more than its head changed."""
        self.ranks.clear()
        for message in self.waiting if self.current is None else (self.current, *self.waiting):
            if message.priority:
                self.ranks[message.priority] = self.ranks.get(message.priority, 0) + 1


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
        self.rotation: deque[SendChannel] = deque()  # channels that may have something to send
        self._in_rotation: set[int] = set()
        self._expiring = 0
        self._look_at = 0.0  # no earlier can a message with a ttl be due
        self._looked_at = 0.0

    # --- commands

    def add(
        self, token: int, channel: int, content: bytes | memoryview, expires: float | None, priority: int = 0
    ) -> None:
        """Queue a message behind those of its channel."""
        state = self.channels.get(channel)
        if state is None:
            state = self.channels[channel] = SendChannel(channel)
        state.waiting.append(OutgoingMessage(token, channel, content, expires, priority))
        if priority:
            state.ranks[priority] = state.ranks.get(priority, 0) + 1
        self.queued_bytes += len(content)
        self.queued_messages += 1
        if expires is not None:
            when = max(expires, self._looked_at + LOOK * self.queued_messages)
            self._look_at = min(self._look_at, when) if self._expiring else when
            self._expiring += 1
        if channel not in self._in_rotation:
            self._in_rotation.add(channel)  # as _rotate_in does, which would ask again
            self.rotation.append(state)

    @property
    def all_arrived(self) -> bool:
        """True if the peer has received, though perhaps not taken, all of what was queued."""
        return not any(
            state.waiting or any(not message.has_arrived for message in state.started)
            for state in self.channels.values()
        )

    @property
    def bytes_to_arrive(self) -> int:
        """Bytes that the peer has not received, as far as is known."""
        return sum(
            message.bytes_to_arrive for state in self.channels.values() for message in (*state.waiting, *state.started)
        )

    def largest_head(self) -> int:
        """Bytes of the largest of the messages that are the oldest of their channel."""
        queues = (state.started or state.waiting for state in self.channels.values())
        return max((queue[0].size for queue in queues if queue and not queue[0].withdrawn), default=0)

    def fail_all(self, reason: Failure) -> None:
        """Give up everything queued."""
        for state in self.channels.values():
            for message in (*state.started, *state.waiting):
                if not message.withdrawn:
                    self._settle(message, reason)
                message.sequence = -1
        self.channels.clear()
        self.rotation.clear()
        self._in_rotation.clear()
        self.withdrawals.clear()
        self.charged = 0

    def fail_larger(self, limit: int) -> None:
        """Give up unsent messages that the peer would refuse for their size."""
        for state in self.channels.values():
            self._fail_waiting(state, lambda message: message.size > limit, Failure.TOO_BIG)

    def expire(self, now: float) -> None:
        """Withdraw messages whose time has passed."""
        if not self._expiring or now < self._look_at:
            return
        for state in self.channels.values():
            self._fail_waiting(state, lambda m: m.expires is not None and m.expires <= now, Failure.EXPIRED)
            for message in state.started:
                if message.expires is not None and message.expires <= now and not message.withdrawn:
                    self._settle(message, Failure.EXPIRED)
                    self._withdraw(state, message)
        times = (
            m.expires
            for state in self.channels.values()
            for m in (*state.started, *state.waiting)
            if m.expires is not None and not m.withdrawn
        )
        self._looked_at = now
        self._look_at = max(min(times, default=now), now + LOOK * self.queued_messages)

    def next_expiry(self) -> float | None:
        """When to look next for messages whose ttl has passed."""
        return self._look_at if self._expiring else None

    def _withdraw(self, state: SendChannel, message: OutgoingMessage) -> None:
        # Its charge stays until the peer says taken: it may have counted all of it.
        self.withdrawals[(state.number, message.sequence)] = None
        message.withdrawn = True  # after that: recount() believes it
        message.content = b""
        if state.current is message:
            state.current = None
            state.recount_ranks()
        self._rotate_in(state)

    def _fail_waiting(self, state: SendChannel, doomed: Callable[[OutgoingMessage], bool], reason: Failure) -> None:
        if any(map(doomed, state.waiting)):
            kept: deque[OutgoingMessage] = deque()
            for message in state.waiting:
                if doomed(message):
                    self._settle(message, reason)
                else:
                    kept.append(message)
            state.waiting = kept
            state.recount_ranks()

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
            state.recount_ranks()
            self._rotate_in(state)
        self.withdrawals.clear()
        self.charged = 0

    def recount(self) -> None:
        """Derive every sum and queue anew from the messages themselves, after a call was interrupted half way."""
        self.rotation.clear()
        self._in_rotation.clear()
        self.charged = self.queued_bytes = self.queued_messages = self._expiring = 0
        self._look_at = 0.0
        settled = {token for token, _ in self.settled}
        for state in self.channels.values():
            last = state.started[-1] if state.started else None
            if last is not None:
                state.next_sequence = last.sequence + 1
                if state.waiting and state.waiting[0] is last:
                    state.waiting.popleft()
            state.waiting = deque([message for message in state.waiting if message.token not in settled])
            state.charged = 0
            for message in state.started:
                if message.token in settled and not message.withdrawn:
                    self._withdraw(state, message)
                message.charge = OVERHEAD + max(0, message.sent - message.grant)
                state.charged += message.charge
            self.charged += state.charged
            # An empty message needs no other part after this: _send_missing sends its only one.
            unsent = last is not None and not last.withdrawn and last.sent < last.size
            state.current = last if unsent else None
            state.recount_ranks()
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

        Raises:
            RemoteProtocolError: nobody can have sent so many messages.
        """
        if expected is not None and expected > MAX_SEQUENCE:
            raise RemoteProtocolError(f"expects message {expected} of channel {channel}")
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
            state.recount_ranks()
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
        if message.arrived or message.withdrawn or (message.size and not message.sent):
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
        started = state.started
        freed = 0
        try:
            while started and started[0].sequence < next_sequence:
                message = started[0]
                if message is state.current:
                    raise RemoteProtocolError("took a message before its end was sent")
                if not message.withdrawn:
                    self._settle(message, None)
                started.popleft()  # settled first: an interrupt between must not lose the news
                freed += message.charge
                message.charge = 0
                if self.withdrawals:
                    self.withdrawals.pop((channel, message.sequence), None)
                message.sequence = -1
        finally:
            state.charged -= freed
            self.charged -= freed
        self._rotate_in(state)
        self._connection_freed()

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
            self._connection_freed()

    # --- output

    @property
    def has_work(self) -> bool:
        """True if a channel may have something to send (credit is looked at when filling)."""
        return bool(self.rotation)

    def brief(self, limit: int) -> OutgoingMessage | None:
        """The message that is all that waits, credit apart, if no more than ``limit`` bytes are needed for it."""
        if len(self.rotation) != 1:
            return None
        state = self.rotation[0]
        if len(state.waiting) != 1 or state.resend or state.current is not None:
            return None
        message = state.waiting[0]
        return message if message.size + MAX_PART_HEADER <= limit else None

    def take_brief(self, message: OutgoingMessage) -> tuple[bytes, Chunk] | None:
        """The frame of the one message that :meth:`brief` found, and what to report as acked or lost later.

        None without credit for it. As :meth:`fill`, in half the steps: so go most messages of a conversation.
        """
        state, size = self.rotation[0], message.size
        charge = OVERHEAD + size
        if state.charged + charge > self.channel_window or self.charged + charge > self.connection_window:
            return None
        # In this order recount() can tell how far it came.
        message.sequence = sequence = state.next_sequence
        state.started.append(message)
        state.next_sequence = sequence + 1
        state.waiting.popleft()
        message.charge = charge
        message.sent = size
        state.charged += charge
        self.charged += charge
        if message.priority:
            state.unrank(message.priority)
        self.rotation.popleft()
        self._in_rotation.discard(state.number)
        return whole_message_header(state.number, sequence, size) + message.content, (message, 0, size)

    def next_size(self) -> int:
        """At least how many bytes the channel whose turn it is has to send; credit apart."""
        if not self.rotation:
            return 0
        return _size_waiting(self._whose_turn())

    def give_turn_to_brief(self, limit: int) -> bool:
        """Have the turn be that of a channel with at most so many bytes to send, if none of higher rank waits."""
        if not self.rotation:
            return False
        rank = self._whose_turn().rank()
        for state in self.rotation:
            if state.rank() == rank and _size_waiting(state) <= limit:
                self.rotation.remove(state)
                self.rotation.appendleft(state)
                return True
        return False

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
        rotation = self.rotation
        if len(rotation) == 1:
            state = rotation[0]
            if state.current is None and not state.resend and state.waiting:
                used = self._fill_whole(state, room, out, chunks)
                if not state.waiting:  # mostly that was all
                    self._in_rotation.discard(state.number)
                    rotation.popleft()
                    return used
            took, more = self._fill_channel(state, room - used, out, chunks)
            if not more:
                self._in_rotation.discard(state.number)
                rotation.popleft()
            return used + took
        for _ in range(len(rotation)):
            state = self._whose_turn()
            took, more = self._fill_channel(state, room - used, out, chunks)
            used += took
            rotation.popleft()
            if more:
                rotation.append(state)
            else:
                self._in_rotation.discard(state.number)
            if (took and one_channel) or room - used < MAX_PART_HEADER + 1:
                break
        return used

    def _whose_turn(self) -> SendChannel:
        """The channel of the highest rank; of equal ones that which waited longest. It is then first in rotation."""
        rotation = self.rotation
        first = rotation[0]
        if len(rotation) > 1:
            first = max(rotation, key=SendChannel.rank)  # the first of equal ones
            if first is not rotation[0]:
                rotation.remove(first)
                rotation.appendleft(first)
        return first

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
            if room - used < MAX_PART_HEADER + 1 or len(chunks) >= MAX_CHUNKS:
                return used, True
            resend.popleft()
            stop = min(end, start + room - used - MAX_PART_HEADER)
            if stop < end:
                resend.appendleft((message, stop, end))
            used += self._emit(number, message, start, stop, out, chunks)
        while True:
            current = state.current
            if current is None:
                if state.waiting:
                    used += self._fill_whole(state, room - used, out, chunks)
                if not state.waiting:
                    return used, False
            if room - used < MAX_PART_HEADER + 1 or len(chunks) >= MAX_CHUNKS:
                return used, True
            spare = min(self.channel_window - state.charged, self.connection_window - self.charged)
            if current is None:
                if spare < OVERHEAD:
                    return used, False
                # In this order recount() can tell how far it came.
                current = state.waiting[0]
                current.sequence = state.next_sequence
                state.started.append(current)
                state.next_sequence += 1
                state.waiting.popleft()
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
            if state.current is None and current.priority:
                state.unrank(current.priority)

    def _fill_whole(self, state: SendChannel, room: int, out: list[bytes | memoryview], chunks: list[Chunk]) -> int:
        """The waiting messages that fit as they are. Says and does the same as the general way, in a fraction of it."""
        waiting, started, number = state.waiting, state.started, state.number
        charged = self.charged
        spare = self.connection_window - charged
        if self.channel_window - state.charged < spare:
            spare = self.channel_window - state.charged
        before, free = spare, room
        sequence = state.next_sequence
        count = len(waiting)
        if count > MAX_CHUNKS - len(chunks):
            count = MAX_CHUNKS - len(chunks)
        for _ in range(count):
            message = waiting[0]
            size = message.size
            charge = OVERHEAD + size
            if charge > spare or size + MAX_PART_HEADER > free:
                break
            # In this order recount() can tell how far it came, and sets the sums right.
            message.sequence = sequence
            started.append(message)
            state.next_sequence = sequence + 1
            waiting.popleft()
            message.charge = charge
            message.sent = size
            spare -= charge
            header = whole_message_header(number, sequence, size)
            out += (header, message.content)
            chunks.append((message, 0, size))
            if message.priority:
                state.unrank(message.priority)
            free -= len(header) + size
            sequence += 1
        state.charged += before - spare
        self.charged = charged + before - spare
        return room - free

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
        """Have the channel's turn come if it has something to send."""
        if state.number not in self._in_rotation and (state.waiting or state.resend or state.current is not None):
            self._in_rotation.add(state.number)
            self.rotation.append(state)

    def _connection_freed(self) -> None:
        """Channels that found the window of the connection full may go on."""
        if self.charged < self.connection_window:
            for state in self.channels.values():
                self._rotate_in(state)

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


def _size_waiting(state: SendChannel) -> int:
    """At least how many bytes a channel has to send; credit apart."""
    size = 0
    if state.resend:
        size = sum(end - start for _, start, end in islice(state.resend, 8))
    if state.current is not None:
        size += state.current.size - state.current.sent
    if state.waiting:
        size += sum(message.size + MAX_PART_HEADER for message in islice(state.waiting, 64))
    return size
