"""An engine with one peer: what a ``SecureReliableSocket`` stands on.

Methods whose first argument is ``now`` are called under the endpoint lock, and so is what :class:`~..household.Shell`
names.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import logging
from collections import deque
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Final

from ...exceptions import SocketClosed
from ...models import Address, EventKind, Message, PeerEvent, PeerId, PeerStatus
from ...protocol.events import MessageArrived
from ..engine import Engine
from ..household import ROOM

if TYPE_CHECKING:
    from ..arguments import Parts

log = logging.getLogger("srmudp.sockets")

Letter = tuple[Message, MessageArrived]
Contents = deque[bytes] | deque[bytes | memoryview]
"""Of several messages. Nobody may change what a view shows."""

DATA: Final = 0
"""The channel of streams and messages."""
BROADCASTS: Final = 1
"""The channel of broadcasts, which are unreliable."""
PIECE: Final = 65_537
"""Bytes of a stream sent as one message. After one of just this length more of the same call follows, so it is none
that programs like to send."""
END_OF_WRITING: Final = b"\0"
"""After an empty message: nothing more will come, though the sender goes on reading."""
END_OF_ALL: Final = b"\1"
"""After an empty message: the sender has closed."""
LOOK_AGAIN: Final[Letter] = (Message(b"", "", 0.0), MessageArrived("", PeerId(bytes(32)), 0, b"", None))
"""Put into the inbox to have whoever waits there leave it."""
_LAST_WORD: Final = 2.0
"""Seconds that the word of the end is waited for when all else has arrived: the peer may be gone without a goodbye."""
_SMALL: Final = 1024
"""Bytes of a message that may wait for others when many are sent in a row."""


class Line(Engine):
    """Messages to and from one peer. Thread-safe; :meth:`start` first.

    Args:
        peer: the name of the one peer in ``parts``.
        stays: whether it is waited for when it goes; otherwise the line ends then.
        is_stream: whether its messages are pieces of a stream.
    """

    # With those of its base class more than 30: without slots CPython 3.11 would search a dictionary for each use.
    __slots__ = (
        "_amid", "_at_end", "_broke", "_end_said", "_end_until", "_is_stream", "_left", "address", "announce",
        "before_close", "deliver", "ended", "established", "on_broadcast", "peer", "peer_closed",
        "stays", "tells_end", "their_id",
    )  # fmt: skip

    flush_look = 0.005

    def __init__(self, parts: Parts, peer: str, *, timeout: float, span: float, stays: bool, is_stream: bool) -> None:
        super().__init__(parts.endpoint, parts.transport, parts.config, timeout=timeout, span=span, known=parts.known)
        self.peer = peer
        self.stays = stays
        self.tells_end = is_stream and parts.targets[peer].wire == "native"
        """Whether the peer can be told that nothing more comes, and yet go on sending."""
        self.established = False
        self.ended = False
        self.address: Address | None = None
        self.their_id: PeerId | None = None
        self.on_broadcast: Callable[[Message], bool] | None = None
        """Called on the hook thread with each broadcast; False if it is for the reader after all."""
        self.before_close: Callable[[float], bool] | None = None
        """Called with the seconds left when the line is to be closed: the last moment to send what waits elsewhere.
        True if nothing is left there, nor of a call that is not over."""
        self._end_said = b""  # the last word on that
        self._end_until = inf  # that it is waited for
        self.peer_closed = False
        """Whether the peer has said that it has closed. Its goodbye follows."""
        self._at_end = False  # the next message says what kind of end that is
        self._broke: str | None = None  # why there will be no end of the stream, though the line has ended
        self._is_stream = is_stream
        self._amid = False  # more of the stream's last call follows
        self._left: deque[Letter] = deque()  # what had come and was not read when the line ended
        self.deliver = self._deliver
        self.announce = self._announce

    # --- events, under the lock ---

    def _deliver(self, message: Message, arrived: MessageArrived) -> None:
        if self.ended:
            return
        if message.channel == BROADCASTS:
            if self.on_broadcast is not None:
                self.hooks.call(functools.partial(self._hand_broadcast, message, arrived))
                return
            self._deliver_broadcast(message, arrived)
        elif self._at_end:
            self._at_end = False
            if message.content == END_OF_ALL:
                self.peer_closed = True
                self.is_being_closed = True  # by the peer's goodbye: nobody has forgotten it
                self.wake(ROOM)  # whoever waits for it waits in vain
            self.hooks.deliver(dataclasses.replace(message, content=b""), arrived)
        elif self.tells_end and not message.content:
            self._at_end = True
            self.driver.endpoint.message_taken(arrived, monotonic())
        else:
            self._amid = len(message.content) == PIECE
            self.hooks.deliver(message, arrived)

    def _deliver_broadcast(self, message: Message, arrived: MessageArrived) -> None:
        amid = self._amid or self.driver.endpoint.is_amid_call(self.peer)
        if self._is_stream and (amid or not message.content):
            # In the middle of what one call has sent it would tear that apart; and it may be lost.
            self.driver.drops["broadcast_amid_stream"] += 1
            self.driver.endpoint.message_taken(arrived, monotonic())
        else:
            self.hooks.deliver(message, arrived)

    def _hand_broadcast(self, message: Message, arrived: MessageArrived) -> None:
        """On the hook thread."""
        hook = self.on_broadcast
        try:
            if hook is not None and hook(message):
                self.driver.note(self.house.taken, arrived)
            else:
                self.driver.run(lambda now: self._deliver_broadcast(message, arrived))
        except SocketClosed:
            pass

    def _announce(self, event: PeerEvent) -> None:
        kind = event.kind
        if kind in (EventKind.CONNECTED, EventKind.RECONNECTED):
            if kind is EventKind.RECONNECTED and not self.stays:
                self._end("its program was started anew")  # what began elsewhere cannot be gone on with
                return
            self.established = True
        elif kind in (EventKind.LOST, EventKind.REFUSED, EventKind.REMOVED):
            was, self.established = self.established, False
            if was and not self.stays:
                whole = self.peer_closed or self.driver.endpoint.ended_whole(self.peer)
                self._end(None if whole else event.reason)
        if kind in (EventKind.CONNECTED, EventKind.RECONNECTED, EventKind.ROAMED):
            self.address = event.address
        if event.peer_id is not None:
            self.their_id = event.peer_id
        self.hooks.announce(event)

    def _end(self, broke: str | None) -> None:
        self.established = False
        self.ended = True
        self._broke = broke
        self._left.extend(self.inbox.drain())
        self.abandon()

    # --- reading ---

    def fetch(self, timeout: float | None) -> Letter | None:
        """As of any engine; after the end, what had come before."""
        letter = None if self.ended else super().fetch(timeout)
        if letter is None and self.ended and self._left:
            return self._left.popleft()
        return letter

    @property
    def is_over(self) -> bool:
        """True if nothing will ever come that :meth:`fetch` does not give now."""
        return (self.ended or self.closing) and not self._left

    def check_whole(self) -> None:
        """Return quietly unless the line has ended with something else than its writer's word that this is all.

        Raises:
            ConnectionResetError: it has, so more may have been sent than came.
        """
        if self._broke is not None:
            raise ConnectionResetError(errno.ECONNRESET, f"the connection broke off before its end: {self._broke}")

    # --- writing ---

    def push(self, content: bytes, channel: int = DATA, reliable: bool = True) -> None:
        """Send one message, waiting for room for as long as it takes.

        Raises:
            ConnectionAbortedError: not connected, or not any more.
            MessageTooBig: larger than we or the peer take.
        """
        run = self.driver.run_gathering if len(content) <= _SMALL else self.driver.run
        try:
            if run(self._queue, content, channel, reliable) is None:
                attempt = functools.partial(self._queue, content=content, channel=channel, reliable=reliable)
                self.driver.wait_until(attempt, (ROOM,), None)
        except SocketClosed:
            raise _disconnected() from None

    def push_all(self, contents: Contents) -> None:
        """As :meth:`push` of each, together where there is room; ``contents`` is then empty."""
        if not self.try_push_all(contents):
            try:
                self.driver.wait_until(functools.partial(self._queue_all, contents=contents), (ROOM,), None)
            except SocketClosed:
                raise _disconnected() from None

    def try_push_all(self, contents: Contents) -> bool:
        """As :meth:`push_all`, but without waiting: False if some are left in ``contents``.

        Then :attr:`after_round` is called when there is room.
        """
        small = len(contents) == 1 and len(contents[0]) <= _SMALL
        run = self.driver.run_gathering if small else self.driver.run
        try:
            return run(self._queue_all, contents) is not None
        except SocketClosed:
            raise _disconnected() from None

    def _queue_all(self, now: float, contents: Contents) -> bool | None:
        while contents:
            if self._queue(now, contents[0], DATA, True) is None:
                return None
            contents.popleft()
        return True

    def _queue(self, now: float, content: bytes | memoryview, channel: int, reliable: bool) -> bool | None:
        if not self.established or self.peer_closed or self.house.closing or (self._end_said and channel == DATA):
            raise _disconnected()
        token = self.driver.endpoint.send_message(
            self.peer, content, channel=channel, reliable=reliable, ttl=None, now=now, if_room=reliable
        )
        return None if token is None else True

    @property
    def can_send(self) -> bool:
        """True while there is somebody to send to."""
        return self.established and not self.peer_closed

    def say_end(self, kind: bytes = END_OF_WRITING) -> None:
        """Tell the peer, behind all that was sent, that nothing more comes. Any number of times."""
        with contextlib.suppress(SocketClosed):
            self.driver.run(self._say_end, kind)

    def _say_end(self, now: float, kind: bytes) -> None:
        if self.tells_end and self.can_send and self._end_said < kind:
            self._end_said = kind
            for content in (b"", kind):
                self.driver.endpoint.send_message(self.peer, content, channel=DATA, reliable=True, ttl=None, now=now)

    # --- the rest ---

    def close(self, timeout: float | None = None) -> None:
        """As of any engine; flushed is what has reached the other machine, though nobody has taken it there."""
        deadline = monotonic() + (self.timeout if timeout is None else timeout)
        if self._is_stream and not self.is_foreign and not self.driver.interrupted_here():
            whole = self.before_close is None or self.before_close(max(0.0, deadline - monotonic()))
            if whole:
                self.say_end(END_OF_ALL)
        super().close(max(0.0, deadline - monotonic()))

    @property
    def status(self) -> PeerStatus | None:
        """How things stand with the peer."""
        return self.statuses().get(self.peer)

    def _is_flushed(self, now: float) -> bool | None:
        """What has reached the other machine is read there when its program likes: nobody waits for that."""
        if not self.can_send or self.driver.endpoint.has_arrived(self.peer):
            return True
        if self._end_said and self._end_until == inf and self.driver.endpoint.undelivered()[1] <= len(self._end_said):
            self._end_until = now + _LAST_WORD
        if now < min(self._flush_until, self._end_until):
            return None
        log.warning("! closed before all that was sent had arrived")
        return True


def _disconnected() -> ConnectionAbortedError:
    return ConnectionAbortedError("disconnected")
