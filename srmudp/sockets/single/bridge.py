"""A stream through a pair of connected system sockets, for whoever needs a real file descriptor.

The application has the outer end: it can be selected, handed to an event loop, read and written by whatever knows
nothing but descriptors. A thread of ours has the inner one and moves bytes between it and the :class:`~.line.Line`.
Nothing is lost or out of bounds: a message counts as taken when its last byte is in the pair, and what is written is
read from the pair only while the line has room.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Final

from ...exceptions import SocketClosed
from ..waiting import Poller, Wakeup
from .line import LOOK_AGAIN, PIECE

if TYPE_CHECKING:
    from .line import Letter, Line

log = logging.getLogger("srmudp.sockets")

_ROOM: Final = 131_072
"""Bytes of buffer asked for at each end of a pair of TCP; other pairs have about as much."""
CHUNK: Final = PIECE - 1
"""Bytes read from the pair at once: a piece after which nothing of the same call follows."""


class Bridge:
    """The pair, and the thread that serves it once :meth:`start` was called.

    Attributes:
        descriptor: of the outer end, for the application's socket to own.
        spoil: writes something into the outer end. If that lies unread when the inner one is closed, whoever reads the
            descriptor is told, at least by Linux, that the connection was reset.
        is_torn: the line has ended before the end of the stream, and all that had come is in the pair.
    """

    def __init__(self) -> None:
        outer, self._inner = _pair()
        self._inner.setblocking(False)
        self.descriptor = outer.detach()
        self.spoil: Callable[[], object] = lambda: None
        self.is_torn = False
        self._line: Line | None = None
        self._thread: threading.Thread | None = None
        self._wakeup: Wakeup | None = None
        # Towards the application; under the lock, which is only ever tried.
        self._feeding = threading.Lock()
        self._again = False
        self._rest: memoryview | None = None  # of the message that is in the pair in part
        self._letter: Letter | None = None
        self._full = False
        self._read_ended = False  # the application has been told that nothing more comes
        # From the application; the thread's.
        self._out = b""  # read from the pair, not sent yet
        self._write_ended = False  # nothing more comes from the application
        self._closing = False
        self._given_up = False
        self._counting = threading.Lock()
        self._written = self._pumped = 0
        self._drained = threading.Event()  # set whenever the thread has sent something, and in the end
        self._empty = threading.Event()  # set whenever it has found nothing to send
        self._all_out = False  # nothing more comes from the application, and the line has all that came

    @property
    def is_serving(self) -> bool:
        """True once the stream goes through the pair."""
        return self._line is not None

    def start(self, line: Line, rest: memoryview | None, letter: Letter | None) -> None:
        """Begin to serve; called once.

        Args:
            rest: of ``letter``, whose beginning the application has.
        """
        self._rest, self._letter = rest, letter
        self._wakeup = Wakeup()
        self._line = line
        self._thread = threading.Thread(target=self._run, name="srmudp-stream", daemon=True)
        self._thread.start()
        line.after_round = self.after_round
        self.after_round()

    # --- from the line to the application ---

    def after_round(self) -> None:
        """There may be something to read, or room to send. Any thread, without the endpoint lock."""
        line = self._line
        assert line is not None
        if not line.inbox.is_empty or line.ended:
            if line.driver.is_own_thread():
                self._feed(line)  # at once: a change of threads costs more than all the rest
            else:
                self._wake()  # an interrupt of the application's thread must not tear what is in the pair
        if self._out:
            self._wake()

    def _wake(self) -> None:
        wakeup = self._wakeup
        if wakeup is not None:
            wakeup.set()

    def _feed(self, line: Line) -> None:
        """Move what has come into the pair, as much as it takes. If another thread is at it, it looks once more."""
        self._again = True
        while self._again and self._feeding.acquire(blocking=False):
            try:
                self._again = False
                self._fill(line)
            finally:
                self._feeding.release()

    def _fill(self, line: Line) -> None:
        while not self._read_ended:
            if self._rest is None:
                try:
                    letter = line.fetch(0)
                except SocketClosed:
                    letter = None
                if letter is None:
                    if line.is_over:
                        self._end_torn(line)
                    return
                if letter is LOOK_AGAIN:
                    continue
                self._letter, self._rest = letter, memoryview(letter[0].content)
                if not self._rest:
                    self._finish_letter(line)
                    self._end_reading()  # the peer will write no more
                    return
            try:
                sent = self._inner.send(self._rest)
            except (BlockingIOError, InterruptedError):
                self._full = True
                if threading.current_thread() is not self._thread:
                    self._wake()
                return
            except OSError:  # the application has closed its end: nobody will read
                self._read_ended = True
                return
            if sent < len(self._rest):
                self._rest = self._rest[sent:]
            else:
                self._finish_letter(line)

    def _finish_letter(self, line: Line) -> None:
        letter, self._letter, self._rest = self._letter, None, None
        if letter is not None:
            line.note_taken(letter)

    def _end_torn(self, line: Line) -> None:
        """The line is over, and no end of the stream has come."""
        try:
            line.check_whole()
        except ConnectionResetError:
            self._read_ended = self.is_torn = True
            self._wake()
        else:
            self._end_reading()

    def _end_reading(self) -> None:
        self._read_ended = True
        with contextlib.suppress(OSError):
            self._inner.shutdown(socket.SHUT_WR)

    # --- from the application to the line ---

    @property
    def is_drained(self) -> bool:
        """True if nothing that the application's socket has written by :meth:`write` waits in the pair."""
        return self._written <= self._pumped

    def write(self, send: Callable[[bytes | memoryview], int], data: bytes | memoryview) -> int:
        """``send(data)``, which writes into the outer end and does not wait. Bytes it took."""
        with self._counting:
            sent = send(data)
            self._written += sent
            return sent

    def wait_drained(self) -> None:
        """Wait until all is on its way, or never will be."""
        while not self.is_drained and not self._given_up:
            self._drained.wait(1.0)
            self._drained.clear()

    def end_writing(self) -> None:
        """The outer end is about to be closed."""
        self._closing = True

    def finish(self, limit: float) -> bool:
        """Wait at most ``limit`` seconds until all of what was written is on its way. True if it is."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return False
        self._empty.clear()
        self._wake()
        if self._closing:
            thread.join(max(0.0, limit))
            return self._all_out
        deadline = monotonic() + limit
        empty = self._empty.wait(limit)
        while not self.is_drained and not self._given_up and monotonic() < deadline:
            self._drained.wait(0.01)
        return empty and self.is_drained and not self._given_up

    def _pump(self, line: Line) -> None:
        while not self._write_ended:
            if not self._out:
                try:
                    self._out = self._inner.recv(CHUNK)
                except (BlockingIOError, InterruptedError):
                    self._empty.set()
                    return
                except OSError:
                    self._out = b""
                if not self._out:
                    self._write_ended = self._all_out = True
                    if not self._closing:
                        line.say_end()
                    return
            if not line.try_push_all(deque((self._out,))):
                return
            self._pumped += len(self._out)
            self._out = b""
            self._drained.set()

    # --- the thread ---

    def _run(self) -> None:
        line, wakeup = self._line, self._wakeup
        assert line is not None
        assert wakeup is not None
        poller = Poller(self._inner.fileno(), wakeup.fileno())
        try:
            while True:
                wakeup.clear()  # before the flags are looked at: who sets one wakes us afterwards
                if self._given_up:
                    break
                try:
                    self._full = False
                    self._feed(line)
                    self._pump(line)
                except ConnectionAbortedError:
                    self._write_ended = True  # nobody to send to; what has come can still be read
                    self._out = b""
                    self._pumped = self._written
                    self._drained.set()
                if self._closing and self._write_ended:
                    break
                if self.is_torn:
                    self.spoil()
                    break
                poller.wait(reading=not self._write_ended and not self._out, writing=self._full, timeout=None)
        except Exception:
            if not self._given_up:
                log.exception("! internal error (stream): this is a bug in srmudp, please report it")
        finally:
            self._given_up = True
            self._drained.set()
            self._inner.close()
            wakeup.close()

    def join(self) -> None:
        """Wait until the thread is done: after :meth:`end_writing`, until the outer end was closed."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def release(self) -> None:
        """Close the inner end at once, if the thread does not. Takes no lock; also in a child after ``fork``."""
        self._given_up = True
        if self._thread is None or not self._thread.is_alive():
            self._inner.close()
            if self._wakeup is not None:
                self._wakeup.close()
        else:
            self._wake()


def _pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets. libuv, which uvloop stands on, connects its streams to none but those of TCP."""
    if "uvloop" not in sys.modules:
        return socket.socketpair()
    with socket.socket() as server:
        _narrow(server)  # those that it accepts are like it
        server.bind(("127.0.0.1", 0))
        server.listen()
        while True:
            outer = socket.socket()
            _narrow(outer)
            outer.connect(server.getsockname())
            inner, whose = server.accept()
            if whose == outer.getsockname():
                break
            outer.close()  # another program of this machine was faster
            inner.close()
    for end in (outer, inner):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return outer, inner


def _narrow(sock: socket.socket) -> None:
    """Left alone, TCP takes megabytes of which nobody knows whether they will be read."""
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, _ROOM)
