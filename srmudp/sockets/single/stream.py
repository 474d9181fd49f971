"""The stream end of a ``SecureReliableSocket``: bytes in, bytes out, whatever messages they travel in.

A thread in ``recv`` takes messages straight from the line, and reads the UDP port itself while it waits. Only when the
application asks for a descriptor the stream goes through a :class:`~.bridge.Bridge`, from then on for good.
"""

from __future__ import annotations

import errno
import threading
from collections import deque
from collections.abc import Callable, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Final

from ..runner import Reentered
from .line import LOOK_AGAIN, PIECE
from .surface import whole_of

if TYPE_CHECKING:
    from .bridge import Bridge
    from .line import Letter, Line

_TOGETHER: Final = 16
"""Pieces handed to the line at once."""


class StreamEnd:
    """One end of a stream. Thread-safe."""

    def __init__(self, line: Line, bridge: Bridge) -> None:
        self._line = line
        self._bridge = bridge
        self._reading = threading.RLock()
        self._rest: memoryview | None = None  # of a message that was read in part
        self._letter: Letter | None = None
        self._read_ended = False  # the peer writes no more
        self._bridged = False
        self._writing = threading.Lock()
        self._writer: int | None = None  # the thread that has it
        self._write_ended = False
        self._closed = False
        line.before_close = self._finish

    # --- reading ---

    def recv(self, size: int, timeout: float | None) -> bytes | memoryview | None:
        """At most ``size`` bytes, empty at the end. None if the stream goes through the pair.

        Args:
            timeout: seconds; None waits for as long as it takes, 0 only looks.

        Raises:
            BlockingIOError: nothing is there and ``timeout`` is 0.
            TimeoutError: nothing came in time.
            ConnectionResetError: the connection broke off before the end of the stream.
        """
        deadline = None if timeout is None else monotonic() + timeout
        if not self._reading.acquire(timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX)):
            raise _late(timeout)
        try:
            while not self._bridged:
                rest = self._rest
                if rest is not None:
                    return self._take(rest, size)
                if self._read_ended:
                    return b""
                letter = self._line.fetch(None if deadline is None else max(0.0, deadline - monotonic()))
                if letter is LOOK_AGAIN:
                    continue
                if letter is None:
                    if self._line.is_over:
                        self._line.check_whole()
                        return b""
                    raise _late(timeout)
                content = letter[0].content
                if not content:
                    self._read_ended = True  # the peer writes no more
                elif size < len(content):
                    self._rest, self._letter = memoryview(content), letter
                    continue
                self._line.note_taken(letter)
                if content:
                    return content
            return None
        finally:
            self._reading.release()

    def _take(self, rest: memoryview, size: int) -> memoryview:
        """The next bytes of a message; it is taken with the last."""
        if size < len(rest):
            self._rest = rest[size:]
            return rest[:size]
        letter, self._rest, self._letter = self._letter, None, None
        if letter is not None:
            self._line.note_taken(letter)
        return rest

    def stop_reading(self) -> None:
        """What comes from now on is of no interest."""
        self._read_ended = True
        self._line.inbox.put(LOOK_AGAIN)

    def check_whole(self) -> None:
        """As of the line, when the pair has nothing more to read."""
        if self._bridge.is_torn and not self._read_ended:
            self._line.check_whole()

    # --- the descriptor ---

    def use_bridge(self) -> None:
        """From now on the stream goes through the pair. Any number of times."""
        if self._bridged:
            return
        self._bridged = True
        self._line.inbox.put(LOOK_AGAIN)  # who waits there now leaves and lets go of the lock
        with self._reading:
            if not self._bridge.is_serving:
                rest, letter, self._rest, self._letter = self._rest, self._letter, None, None
                self._bridge.start(self._line, rest, letter)

    # --- writing ---

    def send_all(self, data: bytes | memoryview) -> None:
        """Send ``data``, waiting for room as long as it takes; nothing of other calls gets in between.

        Raises:
            ConnectionAbortedError: not connected any more.
            BrokenPipeError: after :meth:`stop_writing`.
        """
        me = threading.get_ident()
        if self._writer == me:
            raise Reentered  # a signal handler: what it sends would get into the midst of what it interrupted
        with self._writing:
            try:
                self._writer = me
                if self._bridged or self._write_ended or self._closed:
                    self._check_writable()
                    self._bridge.wait_drained()
                if len(data) < PIECE:
                    self._line.push(data if type(data) is bytes else whole_of(data))
                    return
                for pieces in _pieces(data):
                    self._line.push_all(pieces)
            finally:
                self._writer = None

    def send_some(self, data: bytes | memoryview, through_pair: Callable[[bytes | memoryview], int]) -> int:
        """Send of ``data`` what there is room for at once.

        Args:
            through_pair: writes into the outer end of the pair without waiting; used when there is no room, so that
                the descriptor is not writable either while that lasts.

        Raises:
            BlockingIOError: there is no room at all.
            ConnectionAbortedError, BrokenPipeError: as :meth:`send_all`.
        """
        self._check_writable()
        if self._writing.acquire(blocking=False):
            try:
                sent = 0
                if not self._bridged or self._bridge.is_drained:
                    for pieces in _pieces(data):
                        sent += sum(map(len, pieces))
                        if not self._line.try_push_all(pieces):
                            sent -= sum(map(len, pieces))
                            break
                if sent:
                    return sent
            finally:
                self._writing.release()
        self.use_bridge()
        return self._bridge.write(through_pair, data)

    def stop_writing(self) -> None:
        """Tell the peer that nothing more comes; it can go on sending."""
        if not self._write_ended:
            with self._writing:
                if self._bridged:
                    self._bridge.wait_drained()
                self._write_ended = True
                self._line.say_end()

    def _finish(self, limit: float) -> bool:
        """The line is to be closed; see there."""
        if self._bridged and not self._bridge.finish(limit):
            return False
        if not self._writing.acquire(blocking=False):
            return False  # in the midst of a call, which fails now
        self._closed = True
        self._writing.release()
        return True

    def _check_writable(self) -> None:
        if self._write_ended:
            raise BrokenPipeError("shut down for writing")
        if self._closed or not self._line.can_send:
            raise ConnectionAbortedError("disconnected")


def _pieces(data: bytes | memoryview) -> Iterator[deque[bytes | memoryview]]:
    """``data`` in messages, several together. All but the last message have the length that says so."""
    size = len(data)
    if size < PIECE:
        yield deque((whole_of(data),))
        return
    view = memoryview(data)
    fixed = type(view.obj) is bytes  # nobody can change it while it waits: large data need not be copied
    start = 0
    while start < size:
        pieces: deque[bytes | memoryview] = deque()
        while start < size and len(pieces) < _TOGETHER:
            # A last piece of that length would say that more follows.
            end = size - 1 if size - start == PIECE else start + PIECE
            pieces.append(view[start:end] if fixed else view[start:end].tobytes())
            start = end
        yield pieces


def _late(timeout: float | None) -> OSError:
    return BlockingIOError(errno.EAGAIN, "nothing has come yet") if timeout == 0 else TimeoutError("timed out")
