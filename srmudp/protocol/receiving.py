"""The receiving half of a connection: parts become messages, messages come out in order, and credit goes back.

Like the sending half it outlives sessions. Everything a peer can make it keep is bounded: by the windows, by the grants
out of the socket's budget, and by the number of gaps in one message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import Final

from ..config import Config
from ..exceptions import RemoteProtocolError
from ..wire.frames import ChannelState, MessagePart
from .assembly import IncomingMessage
from .credit import MAX_SEQUENCE, OVERHEAD, ReceiveBudget

MAX_GAPS: Final = 8192
"""Gaps in all messages of a peer under reassembly together, or one for each GAP_BYTES of its window if that is more: a
part beside a gap costs hundreds of bytes, however short it is. A full window of single datagrams with one in ten lost
has a tenth of it."""
GAP_BYTES: Final = 1024

_SKIPPED: Final = object()


class ReceiveChannel:
    """One channel's incoming order."""

    __slots__ = (
        "_order",
        "charged",
        "charges",
        "done",
        "expected",
        "number",
        "partial",
        "pieced",
        "taken",
        "taken_ahead",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.expected = 0  # the next sequence to hand out
        self.taken = 0  # everything below was taken by the application
        self.taken_ahead: set[int] = set()
        self.partial: dict[int, IncomingMessage] = {}
        self._order: list[int] = []  # a heap of the keys of `partial`, with some that have left it
        self.done: dict[int, object] = {}  # complete (bytes) or withdrawn, waiting for an earlier one
        self.charges: dict[int, int] = {}  # by sequence, until taken
        self.pieced: dict[int, IncomingMessage] = {}  # those of them that came in pieces and may have a grant
        self.charged = 0

    def begin(self, sequence: int, message: IncomingMessage) -> None:
        """The first part of a message came, but not all of it."""
        self.partial[sequence] = message
        heappush(self._order, sequence)

    def oldest(self) -> int:
        """The first sequence in ``partial``, which must not be empty."""
        while self._order[0] not in self.partial:
            heappop(self._order)
        return self._order[0]


class ReceiveHalf:
    """Everything the peer sent that the application has not taken."""

    def __init__(self, config: Config, budget: ReceiveBudget, retry: Callable[[], None]) -> None:
        self._config = config
        self._budget = budget
        self.retry = retry
        self.channels: dict[int, ReceiveChannel] = {}
        self.charged = 0
        self._gaps = 0
        self._max_gaps = max(MAX_GAPS, config.connection_window // GAP_BYTES)
        self._handed_out = 0  # messages the application has been given and not taken
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
        held = [message for channel in self.channels.values() for message in channel.pieced.values()]
        self.channels.clear()
        self.taken_dirty.clear()
        self.grants_dirty.clear()
        self.charged = self._gaps = self._handed_out = 0
        # Last, because it calls retry_grants(): nothing that is dropped may take any of it.
        for message in held:
            self._budget.give_back(message, message.grant)

    def synchronise(self, state: ChannelState) -> None:
        """The peer says where it goes on in a channel. We know better if we remember the channel.

        Raises:
            RemoteProtocolError: nobody can have sent so many messages.
        """
        if state.channel not in self.channels:
            if state.first > MAX_SEQUENCE:
                raise RemoteProtocolError(f"channel {state.channel} begins at message {state.first}")
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
        number, sequence, offset, total, data = part
        channel = self.channels.get(number)
        if channel is None:
            channel = self._channel(number)
        if len(data) == total and sequence == channel.expected and not channel.partial and not channel.done:
            return self._take_next(channel, sequence, data if type(data) is bytes else bytes(data))
        if sequence < channel.expected or (channel.done and sequence in channel.done):
            return []
        message = channel.partial.get(sequence) if channel.partial else None
        if message is None:
            if total > self._config.max_message_size:
                raise RemoteProtocolError(f"a message of {total} bytes is above the limit")
            if sequence - channel.taken > self._config.channel_window // OVERHEAD:
                raise RemoteProtocolError("a message too far ahead of what was taken")
            if len(data) == total:
                self._charge(channel, sequence, 0, OVERHEAD + total)
                return self._hand_out(channel, sequence, bytes(data))
            message = IncomingMessage(total)
        elif message.total != total:
            raise RemoteProtocolError("the length of a message changed")
        # Before anything is kept: what a breach leaves behind stays with the peer for its next session.
        high = max(message.high, offset + len(data))
        self._charge_pieced(channel, sequence, message, OVERHEAD + max(0, high - message.grant))
        if sequence not in channel.partial:
            channel.begin(sequence, message)
        before, had = message.gaps, message.have
        message.add(offset, data)
        self._budget.on_progress(message, message.have - had)
        self._gaps += message.gaps - before
        if self._gaps > self._max_gaps:
            raise RemoteProtocolError("messages in too many fragments")
        if message.have == total:
            content = message.content()  # before it leaves its place: there may be no memory for it at the moment
            del channel.partial[sequence]
            message.drop()
            return self._hand_out(channel, sequence, content)
        self._extend_grant(channel, sequence, message)
        return []

    def on_whole(self, number: int, sequence: int, content: bytes) -> list[tuple[int, int, bytes]]:
        """:meth:`on_part` for a message of one part."""
        channel = self.channels.get(number)
        if channel is None or sequence != channel.expected or channel.partial or channel.done:
            return self.on_part(MessagePart(number, sequence, 0, len(content), content))
        return self._take_next(channel, sequence, content)

    def _take_next(self, channel: ReceiveChannel, sequence: int, content: bytes) -> list[tuple[int, int, bytes]]:
        """Hand out the message that is expected next, while nothing else waits: nearly all small ones come so."""
        config = self._config
        size, charge, charged = len(content), OVERHEAD + len(content), channel.charged
        window = config.channel_window
        if size > config.max_message_size:
            raise RemoteProtocolError(f"a message of {size} bytes is above the limit")
        if channel.taken_ahead and (sequence - channel.taken) * OVERHEAD > window:  # else they are all charged
            raise RemoteProtocolError("a message too far ahead of what was taken")
        if charged + charge > window or self.charged + charge > config.connection_window:
            raise RemoteProtocolError("more data than was granted")
        ready = [(channel.number, sequence, content)]
        channel.charges[sequence] = charge
        channel.charged = charged + charge
        self.charged += charge
        channel.expected = sequence + 1
        self._handed_out += 1
        return ready

    def on_withdrawn(self, number: int, sequence: int) -> list[tuple[int, int, bytes]]:
        """The peer gave a message up: the order goes on without it."""
        channel = self._channel(number)
        if sequence < channel.expected or sequence in channel.done:
            return []
        if sequence - channel.taken > self._config.channel_window // OVERHEAD:
            raise RemoteProtocolError("a message too far ahead of what was taken")
        message = channel.partial.pop(sequence, None)
        if message is None:
            self._charge(channel, sequence, 0, OVERHEAD)
        else:
            self._gaps -= message.gaps
            message.drop()
            self._charge_pieced(channel, sequence, message, OVERHEAD)
        return self._hand_out(channel, sequence, _SKIPPED)

    def on_application_took(self, number: int, sequence: int) -> None:
        """The application has a message that ``on_part`` handed out."""
        channel = self.channels.get(number)
        if channel is None or not channel.taken <= sequence < channel.expected or sequence in channel.taken_ahead:
            return
        # That it was taken is noted first: what an interrupt leaves of the rest, recount() makes up for.
        if sequence == channel.taken:
            channel.taken = sequence + 1
            if channel.taken_ahead:
                while channel.taken in channel.taken_ahead:
                    channel.taken += 1
                    channel.taken_ahead.discard(channel.taken - 1)
            self.taken_dirty[number] = None
        else:
            channel.taken_ahead.add(sequence)
        self._handed_out -= 1
        if channel.pieced:
            self._release(channel, sequence)
        else:  # as there, with a call less for each small message
            charge = channel.charges.pop(sequence)
            channel.charged -= charge
            self.charged -= charge
            self.taken_bytes += charge
        if self.charged and not self._handed_out:
            self.retry_grants()

    def _release(self, channel: ReceiveChannel, sequence: int) -> None:
        """A message was taken: return its charge and its part of the budget."""
        granted = 0
        if (message := channel.pieced.get(sequence)) is not None:
            self.grants_dirty.pop((channel.number, sequence), None)
            granted, message.grant = message.grant, 0  # whatever interrupts this, it is not returned twice
            self._budget.give_back(message, granted)
            del channel.pieced[sequence]
        charge = channel.charges.pop(sequence)
        channel.charged -= charge
        self.charged -= charge
        self.taken_bytes += charge + granted

    def recount(self) -> None:
        """Derive the sums anew from the messages themselves, after a call was interrupted half way."""
        self._handed_out = self._gaps = 0
        for channel in self.channels.values():
            while channel.taken in channel.taken_ahead:
                channel.taken += 1
            channel.taken_ahead = {sequence for sequence in channel.taken_ahead if sequence > channel.taken}
            self._handed_out += channel.expected - channel.taken - len(channel.taken_ahead)
            self.taken_dirty[channel.number] = None
            for sequence in list(channel.charges):
                if sequence < channel.taken or sequence in channel.taken_ahead:
                    self._release(channel, sequence)
            channel.charged = sum(channel.charges.values())
            for sequence, message in channel.partial.items():
                message.charge = channel.charges.get(sequence, 0)
                channel.pieced[sequence] = message
                message.recount()
                self._gaps += message.gaps
        self.charged = sum(channel.charged for channel in self.channels.values())

    def retry_grants(self) -> None:
        """Ask the budget again for every message that was refused."""
        for channel in self.channels.values():
            if channel.partial:
                oldest = channel.oldest()
                self._extend_grant(channel, oldest, channel.partial[oldest])

    def grant_of(self, channel: int, sequence: int) -> int | None:
        """The present grant of an unfinished message."""
        state = self.channels.get(channel)
        message = state.partial.get(sequence) if state is not None else None
        return message.grant if message is not None else None

    def _hand_out(self, channel: ReceiveChannel, sequence: int, content: object) -> list[tuple[int, int, bytes]]:
        ready: list[tuple[int, int, bytes]] = []
        done = channel.done
        done[sequence] = content
        while channel.expected in done:
            sequence = channel.expected
            content = done.pop(sequence)
            channel.expected = sequence + 1
            self._handed_out += 1
            if isinstance(content, bytes):
                ready.append((channel.number, sequence, content))
            else:
                self.on_application_took(channel.number, sequence)
        if channel.partial and channel.number in self.channels:
            oldest = channel.oldest()
            self._extend_grant(channel, oldest, channel.partial[oldest])
        return ready

    def _extend_grant(self, channel: ReceiveChannel, sequence: int, message: IncomingMessage) -> None:
        """Give the oldest incomplete message of the channel room for a window beyond what has arrived.

        Only where it is needed: the message alone exceeds a window, or the windows fill up and there is nothing to take
        that would empty them. Without the latter, parts of messages in many channels could fill the window of the
        connection and none ever be complete.
        """
        window = self._config.channel_window
        if message.total + OVERHEAD <= window and (
            self._handed_out or (channel.charged <= window // 2 and self.charged <= self._config.connection_window // 2)
        ):
            return
        if sequence != channel.oldest():
            return
        limit = min(message.total, message.have + window)
        wanted = limit - message.grant
        if wanted <= 0 or (wanted < window // 4 and limit < message.total):
            return
        if self._budget.take(message, wanted, self.retry, message.total - limit):
            message.grant = limit
            self.grants_dirty[(channel.number, sequence)] = None
            self._charge_pieced(channel, sequence, message, OVERHEAD + max(0, message.high - limit))

    def _charge_pieced(self, channel: ReceiveChannel, sequence: int, message: IncomingMessage, charge: int) -> None:
        """:meth:`_charge` for a message that comes in pieces: it may have a grant to be returned."""
        self._charge(channel, sequence, message.charge, charge)
        channel.pieced[sequence] = message
        message.charge = charge

    def _charge(self, channel: ReceiveChannel, sequence: int, before: int, charge: int) -> None:
        """Count what a message costs now. Raises before it changes anything; a smaller charge never raises."""
        change = charge - before
        if change > 0 and (
            channel.charged + change > self._config.channel_window
            or self.charged + change > self._config.connection_window
        ):
            raise RemoteProtocolError("more data than was granted")
        channel.charges[sequence] = charge
        channel.charged += change
        self.charged += change
