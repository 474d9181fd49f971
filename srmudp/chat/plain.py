"""The chat line by line: for scripts and pipes, for ``--plain``, and where the comfortable screen is not installed."""

from __future__ import annotations

import codecs
import os
import queue
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import Final, TextIO

from .lines import Kind, Line, Style, wrapped
from .session import Session

_COLOURS: Final = {
    Style.TIME: "2",
    Style.ME: "36;1",
    Style.PEER: "32;1",
    Style.PRIVATE: "35",
    Style.NOTE: "2",
    Style.GOOD: "32",
    Style.WARN: "33",
    Style.BAD: "31",
    Style.QUESTION: "33;1",
    Style.CODE: "1",
    Style.QR: "97;40",
}
_LOOK: Final = 0.1
_AT_ONCE: Final = 500
"""Messages that may wait for their delivery while a pipe is read on."""


class PlainScreen:
    """Writes lines to a stream: wrapped and coloured on a terminal, one row each elsewhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream
        self.is_terminal = self._stream.isatty()
        able = self.is_terminal and os.environ.get("TERM") != "dumb" and os.name == "posix"
        self._coloured = able and not os.environ.get("NO_COLOR")

    def show(self, lines: Iterable[Line]) -> None:
        """Write them."""
        for line in lines:
            if not self.is_terminal:
                self._stream.write("".join(text for _, text in line.pieces()) + "\n")
                continue
            # What is to be copied is broken by the terminal, which knows that it is one line.
            columns = shutil.get_terminal_size().columns - 1 if line.kind is not Kind.COPY else len(line.text) + 1
            for row in wrapped(line.pieces(), columns):
                self._stream.write("".join(self._styled(style, text) for style, text in row).rstrip(" ") + "\n")
        self._stream.flush()

    def _styled(self, style: str, text: str) -> str:
        code = _COLOURS.get(Style(style))
        return f"\x1b[{code}m{text}\x1b[0m" if self._coloured and code else text


class Keyboard:
    """Reads standard input on a thread of its own, a line ahead at most; ``wake`` is called there for each."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self.is_terminal = sys.stdin.isatty()
        self._lines: queue.Queue[str | None] = queue.Queue(1)
        # A daemon: nothing can end its waiting for a key.
        threading.Thread(target=self._read, name="srmudp-keyboard", daemon=True).start()

    def _read(self) -> None:
        try:
            for line in self._input():
                self._lines.put(line.rstrip("\r\n"))
                self._wake()
        except (OSError, ValueError):
            pass  # the terminal is gone
        self._lines.put(None)
        self._wake()

    @staticmethod
    def _input() -> Iterator[str]:
        if os.name == "nt":
            yield from sys.stdin
            return
        # Not by way of sys.stdin: Python cannot end while a thread waits in there.
        decoder = codecs.getincrementaldecoder(sys.stdin.encoding or "utf-8")("replace")
        rest = ""
        while data := os.read(sys.stdin.fileno(), 65536):
            *lines, rest = (rest + decoder.decode(data)).split("\n")
            yield from lines
        if rest:
            yield rest

    def get(self) -> tuple[bool, str | None]:
        """Whether something is there, and what: None at the end of the input."""
        try:
            return True, self._lines.get_nowait()
        except queue.Empty:
            return False, None


def run(session: Session) -> int:
    """Chat until the end of the input, ``/quit`` or Ctrl-C. The exit status: 1 if something was not delivered."""
    screen, keyboard = PlainScreen(), Keyboard(lambda: session.put(list))
    chat = session.chat
    if screen.is_terminal:
        chat.inviting.room = lambda: (shutil.get_terminal_size().columns, 1000)
    looked = 0.0

    def show(lines: list[Line]) -> None:
        # What is typed at a terminal stands there already.
        own = () if not (keyboard.is_terminal and screen.is_terminal) else (Kind.MINE, Kind.MY_WHISPER)
        screen.show(line for line in lines if line.kind not in own)

    try:
        while not chat.over:
            show(session.wait(_LOOK))
            if monotonic() - looked >= _LOOK:
                looked = monotonic()
                show(chat.tick())
            # A script does not look whether somebody is there: it is read on when those it added had their time.
            while not chat.over and (keyboard.is_terminal or (chat.is_settled() and chat.outstanding() < _AT_ONCE)):
                there, line = keyboard.get()
                if not there:
                    break
                if line is None:
                    chat.over = True
                else:
                    show(chat.typed(line))
    except KeyboardInterrupt:
        if screen.is_terminal:
            print()
    show(session.work() + chat.tick())
    waiting = chat.outstanding()
    if waiting:
        text = f"delivering {waiting} more before leaving; Ctrl-C leaves at once"
        screen.show([Line(Kind.NOTE, text, when=chat.wall())])
    undelivered = session.close()
    show(chat.tick())
    return 1 if undelivered else 0
