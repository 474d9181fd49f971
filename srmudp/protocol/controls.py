"""What is to be told besides messages: what was taken and granted, what will not come, how a session begins, and frames
of the owner's.

*News* of messages (Taken, Grant, Withdrawn) is made when a record has room for it, so it says how things stand then,
and a lost one is not repeated but made anew. It waits for a record that leaves anyway, ``delay`` seconds at most; what
is *urgent* makes one leave.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from ..config import Config
from ..wire.frames import (
    Candidates,
    ChannelState,
    Frame,
    Grant,
    ObservedAddress,
    Ping,
    SessionStart,
    Taken,
    Window,
    Withdrawn,
    ack_eliciting,
    serialise,
)
from .receiving import ReceiveHalf
from .sending import SendHalf

_tuple = tuple.__new__
_NEWEST_COUNTS = (ObservedAddress, Candidates)

MAX_CONTROLS: Final = 200
"""Control frames put into one record; with the parts of messages still below what a reader takes."""
BRIEF_CHANNELS: Final = 4
"""Channels stated in an ESTABLISHED at most: it must not be larger than the SHARED_KEY it answers."""
NO_MEMORY: Final = bytes(8)


class Controls:
    """Control frames of one connection that wait for a record.

    Args:
        window: charge of taken messages, in bytes, that is urgent to be told.
        delay: seconds that news waits for company.
    """

    __slots__ = ("_delay", "_receiving", "_sending", "_window", "at", "frames", "newest", "urgent")

    def __init__(self, sending: SendHalf, receiving: ReceiveHalf, window: int, delay: float) -> None:
        self._sending = sending
        self._receiving = receiving
        self._window = window
        self._delay = delay
        self.frames: deque[Frame] = deque()
        """Those of the owner, in order."""
        self.urgent = False
        """True if a record must leave for them."""
        self.newest: dict[type[Frame], Frame] = {}
        """Of the kinds whose newest counts: an older one that was lost is not worth repeating."""
        self.at: float | None = None
        """When news becomes urgent."""

    def add(self, frame: Frame) -> None:
        """Have a frame sent with the next record, which leaves at once."""
        if isinstance(frame, _NEWEST_COUNTS):
            older = self.newest.get(type(frame))
            if older is not None and older in self.frames:
                self.frames.remove(older)
            self.newest[type(frame)] = frame
        self.frames.append(frame)
        self.urgent = True

    def soon(self, now: float) -> None:
        """There is news."""
        if self.at is None:
            self.at = now + self._delay

    def on_taken(self, now: float) -> None:
        """The application took a message."""
        receiving = self._receiving
        if receiving.taken_bytes >= self._window:
            self.urgent = True
        elif self.at is None and receiving.taken_dirty:
            self.at = now + self._delay

    def on_lost(self, frame: Frame) -> None:
        """A record with this frame was given up."""
        if isinstance(frame, Taken):
            self._receiving.taken_dirty[frame.channel] = None
        elif isinstance(frame, Grant):
            self._receiving.grants_dirty[(frame.channel, frame.sequence)] = None
        elif isinstance(frame, Withdrawn):
            channel = self._sending.channels.get(frame.channel)
            if channel is not None and channel.started and channel.started[0].sequence <= frame.sequence:
                self._sending.withdrawals[(frame.channel, frame.sequence)] = None
        elif not isinstance(frame, (Ping, Window)) and not (
            isinstance(frame, _NEWEST_COUNTS) and frame is not self.newest.get(type(frame))
        ):
            self.frames.append(frame)

    def on_timer(self, now: float) -> None:
        """Time has passed."""
        if self._sending.withdrawals:
            self.urgent = True
        if self.at is not None and self.at <= now:
            self.at = None
            self.urgent = True

    def fill(self, room: int, out: list[bytes | memoryview], controls: list[Frame], news: bool) -> int:
        """Append what waits, at most ``room`` bytes; what finds no room stays and is urgent.

        Args:
            controls: receives the frames that are to be acknowledged.
            news: whether what was sent and taken may be told: it may concern another life of the peer. After its
                SessionStart we know.

        Returns:
            Bytes appended.
        """
        receiving = self._receiving
        if not (receiving.taken_dirty or self.frames or receiving.grants_dirty or self._sending.withdrawals):
            if news:
                receiving.taken_bytes = 0
            self.urgent = False
            self.at = None
            return 0
        left = room

        def put(frame: Frame) -> bool:
            nonlocal left
            data = serialise(frame)
            if len(data) > left or len(out) >= MAX_CONTROLS:
                return False
            left -= len(data)
            out.append(data)
            if ack_eliciting(frame):
                controls.append(frame)
            return True

        complete = not news or self._put_news(put)
        while complete and self.frames:
            complete = put(self.frames[0])
            if complete:
                self.frames.popleft()
        self.urgent = not complete
        if complete:
            self.at = None
        return room - left

    def _put_news(self, put: Callable[[Frame], bool]) -> bool:
        """Returns False if some of it found no room."""
        receiving, sending = self._receiving, self._sending
        if receiving.taken_dirty:
            for channel in list(receiving.taken_dirty):
                if not put(_tuple(Taken, (channel, receiving.channels[channel].taken))):
                    return False
                del receiving.taken_dirty[channel]
        receiving.taken_bytes = 0
        if receiving.grants_dirty:
            for channel, sequence in list(receiving.grants_dirty):
                limit = receiving.grant_of(channel, sequence)
                if limit is not None and not put(Grant(channel, sequence, limit)):
                    return False
                del receiving.grants_dirty[(channel, sequence)]
        if sending.withdrawals:
            for channel, sequence in list(sending.withdrawals):
                if not put(Withdrawn(channel, sequence)):
                    return False
                del sending.withdrawals[(channel, sequence)]
        return True


def session_start(
    config: Config, sending: SendHalf, receiving: ReceiveHalf, memory: bytes, peer_memory: bytes, *, brief: bool
) -> SessionStart:
    """What we tell of our limits and channels when a session begins.

    Args:
        memory: where what we remember of the peer begins.
        peer_memory: where what it remembers of us begins, as it told.
        brief: leave out many channels; the peer then takes it that we remember nothing of what it sent, and sends what
            was not taken again, which harms nothing.
    """
    first, expected = dict(sending.states()), dict(receiving.states())
    channels = tuple(
        ChannelState(number, first.get(number, 0), expected.get(number)) for number in sorted({*first, *expected})
    )
    if brief and len(channels) > BRIEF_CHANNELS:
        channels = ()
    return SessionStart(
        memory,
        peer_memory if channels else NO_MEMORY,
        int(config.max_ack_delay * 1e6),
        config.channel_window,
        config.connection_window,
        config.max_message_size,
        channels,
        config.socket_buffer,
    )
