"""``srmudp pipe``: standard input to a peer's standard output, and back.

Messages of one channel, reliable and in order; the first byte says what each is::

    HELLO  16 random bytes of this run: a peer that says another one later was started again, and bytes are missing
    DATA   bytes
    END    no more will come (the other direction goes on)
    DONE   all that came was written to standard output
    ABORT  why it ended early, in words
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

from .. import QueueFull, SrmudpError
from .meeting import Meeting, Unmet, add_listening, add_options, check_listening
from .text import clean

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

CHANNEL = 41
HELLO, DATA, END, DONE, ABORT = (bytes((kind,)) for kind in range(1, 6))
BLOCK = 256 * 1024
NONCE = 16
MAX_REASON = 200
_LOOK = 0.1
_GOODBYE = 3.0

_EXAMPLES = """\
examples:
  srmudp pipe --listen | tar x             at the one end; prints what to type
  tar c photos | srmudp pipe ADDRESS       at the other end
  srmudp pipe -l -p 8000 < backup.tar      the one who listens may send, too
  srmudp pipe ADDRESS                      type to each other; Ctrl-D ends it
  srmudp pipe -l -p 8000 192.0.2.7:8000    two home routers: both knock

Both directions at once. Each ends by itself, when its input does; if input is
a terminal, also when the other one has ended. The exit status is 0 only if all
of ours was written at the other end and all of theirs was written here.
--listen lets in the first who comes: say --only PEERID if it must be somebody.
"""


def add_to(commands: Commands) -> None:
    """Add ``pipe``."""
    parser = commands.add_parser(
        "pipe",
        help="connect standard input and output with those of somebody else",
        description="Standard input to a peer's standard output, and back. Any bytes.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_listening(parser, "wait for the first who comes")
    parser.add_argument("-r", "--receive-only", action="store_true", help="send nothing; do not read standard input")
    add_options(parser)
    parser.set_defaults(run=_run, fail=parser.error)


class Broken(SrmudpError):
    """The pipe ended early. The text says why."""


class Given(Broken):
    """The other end said so."""


class Stopped(Broken):
    """Ctrl-C, or the system, ended us."""


class _Halt:
    """Told by signals. The same signal once more ends the program at once."""

    def __init__(self) -> None:
        self.is_told = False

    def listen(self) -> None:
        """Take Ctrl-C and the system's wish from now on; main thread only."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._tell)

    def _tell(self, number: int, frame: object) -> None:
        signal.signal(number, signal.default_int_handler)
        self.is_told = True


class _Pipe:
    """Both directions. The main thread receives and writes; another one reads and sends.

    Args:
        source, target: descriptors that are read from and written to.
        halt: ends it early, the other end being told.
    """

    def __init__(
        self,
        meeting: Meeting,
        name: str,
        *,
        receive_only: bool = False,
        source: int = 0,
        target: int = 1,
        halt: _Halt | None = None,
    ) -> None:
        self._meeting = meeting
        self._sock = meeting.sock
        self._name = name
        self._source = source
        self._target = target
        self._peer_nonce: bytes | None = None
        self._sent_all = threading.Event()  # END is queued
        self._wrote_all = False  # END came, all is written, DONE is queued
        self._confirmed = False  # DONE came
        self._ended_early: str | None = None
        self._halt = _Halt() if halt is None else halt
        self._lock = threading.Lock()
        self._is_terminal = not receive_only and os.isatty(source)
        self._send(HELLO + os.urandom(NONCE))
        if receive_only:
            self._end()
        else:  # a daemon: a read of a terminal cannot be broken off
            threading.Thread(target=self._read, name="srmudp-pipe", daemon=True).start()

    def run(self) -> None:
        """Until both directions have ended.

        Raises:
            Broken: one of them broke.
            Unmet: the peer is gone.
        """
        try:
            while not (self._confirmed and self._wrote_all):
                if self._halt.is_told:
                    raise Stopped("stopped")
                if self._ended_early is not None:
                    raise Broken(self._ended_early)
                message = self._sock.receive(timeout=_LOOK)
                if message is None:
                    self._meeting.check(self._name, ended_is_over=True)
                elif message.channel == CHANNEL and message.peer == self._name:
                    self._handle(message.content[:1], memoryview(message.content)[1:])
        except Broken as error:
            if not isinstance(error, Given):
                self._abort(str(error))
            raise

    def _handle(self, kind: bytes, data: memoryview) -> None:
        if kind == HELLO:
            if self._peer_nonce not in (None, bytes(data)):
                raise Broken("the other program was started again in between")
            self._peer_nonce = bytes(data)
        elif kind == ABORT:
            reason = bytes(data[:MAX_REASON]).decode("utf-8", "replace")
            raise Given(f"the other end gave up: {reason}")
        elif self._peer_nonce is None:
            raise Broken("this program was started again in between")
        elif kind == DATA and not self._wrote_all:
            self._write(data)
        elif kind == END and not self._wrote_all:
            self._close_output()
            self._wrote_all = True
            self._send(DONE)
            if self._is_terminal:
                self._end()
        elif kind == DONE and self._sent_all.is_set():
            self._confirmed = True
        else:
            raise Broken("the other end speaks another language")

    def _write(self, data: memoryview) -> None:
        try:
            while data:
                data = data[os.write(self._target, data) :]
        except OSError as error:
            raise Broken(f"cannot write the output: {error.strerror}") from error

    def _close_output(self) -> None:
        """Whoever reads our output sees its end now, not when we end."""
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, self._target)
        os.close(devnull)

    def _read(self) -> None:
        try:
            while (data := os.read(self._source, BLOCK)) and not self._sent_all.is_set():
                self._send(DATA + data)
            self._end()
        except OSError as error:
            self._ended_early = f"cannot read the input: {error.strerror or error}"
        except SrmudpError as error:
            self._ended_early = str(error)

    def _end(self) -> None:
        with self._lock:
            if not self._sent_all.is_set():
                self._sent_all.set()
                self._send(END)

    def _send(self, data: bytes) -> None:
        """Queue ``data``, waiting for room for as long as there is hope.

        Raises:
            SrmudpError: there is none.
        """
        while True:
            try:
                self._sock.send(data, self._name, channel=CHANNEL, timeout=_LOOK)
                return
            except QueueFull:
                self._meeting.check(self._name, ended_is_over=True)

    def _abort(self, reason: str) -> None:
        try:
            self._sock.send(ABORT + reason.encode()[:MAX_REASON], self._name, channel=CHANNEL, timeout=0)
            self._sock.close(timeout=_GOODBYE)
        except SrmudpError:
            pass


def _run(arguments: argparse.Namespace) -> int:
    check_listening(arguments)
    if sys.platform == "win32":
        import msvcrt

        for descriptor in (0, 1):
            msvcrt.setmode(descriptor, os.O_BINARY)
    try:
        with Meeting(arguments, "pipe", address=arguments.address) as meeting:
            if arguments.listen:
                meeting.introduce("srmudp pipe ADDRESS", sys.stderr)
            name, halt = meeting.meet(), _Halt()
            halt.listen()
            _Pipe(meeting, name, receive_only=arguments.receive_only, halt=halt).run()
    except Stopped:
        print("\nstopped", file=sys.stderr)
        return 130
    except (Broken, Unmet, ValueError) as error:
        print(f"srmudp pipe: {clean(str(error))}", file=sys.stderr)
        return 1
    return 0
