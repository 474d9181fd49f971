"""Programs in pseudo-terminals, and what a person would see on their screens."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Self

import pyte

from ..programs import PATIENCE, ROOT

_RUN = """
import fcntl, runpy, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # or Ctrl-C would be a character like any other
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


class Terminal:
    """A Python module with a terminal of its own. Ended, whatever happens, by leaving the ``with`` block.

    Args:
        arguments: the module and what follows it.

    Attributes:
        raw: every byte it wrote.
    """

    def __init__(
        self,
        arguments: Sequence[str | Path],
        cwd: Path,
        environment: Mapping[str, str] | None = None,
        *,
        rows: int = 40,
        columns: int = 100,
    ) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=2000)
        self._stream = pyte.ByteStream(self.screen)
        self._changed = threading.Condition()
        self.raw = bytearray()
        self._shown: dict[str, None] = {}  # every line that has been on the screen
        self._ended = False
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **(environment or {})}
        variables.pop("NO_COLOR", None)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-c", _RUN, *map(str, arguments)],
                cwd=cwd,
                env={**variables, **(environment or {})},
                stdin=slave,
                stdout=slave,
                stderr=slave,
                start_new_session=True,
            )
        finally:
            os.close(slave)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while True:
            try:
                # With a limit: closing the other end does not wake a reader on every system.
                ready, _, _ = select.select([self._master], [], [], 0.2)
                data = os.read(self._master, 65536) if ready else b""
            except OSError:
                break
            if ready and not data:
                break
            if not ready and self.process.poll() is not None:
                break
            with self._changed:
                self.raw += data
                with contextlib.suppress(Exception):  # what the emulator does not know
                    self._stream.feed(data)
                self._shown.update(dict.fromkeys(self.screen.display))
                if b"\x1b[6n" in data:  # "where is the cursor?" is a question to the terminal
                    os.write(self._master, b"\x1b[1;1R")
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._thread.join()
        os.close(self._master)

    @property
    def text(self) -> str:
        """What is on the screen, and on a terminal without windows what has scrolled off it."""
        above = ("".join(row[column].data for column in sorted(row)) for row in self.screen.history.top)
        return "\n".join(line.rstrip() for line in (*above, *self.screen.display))

    def wait_for(self, *texts: str) -> str:
        """Wait until all of these are on the screen; the whole screen."""
        deadline = monotonic() + PATIENCE
        with self._changed:
            while not all(text in self.text for text in texts):
                left = deadline - monotonic()
                if left <= 0 or self._ended:
                    raise AssertionError(f"no {texts} on the screen:\n{self.text}")
                self._changed.wait(left)
            return self.text

    def wait_until_shown(self, text: str) -> None:
        """Wait until this has been on the screen, if only for a moment."""

        def was_shown() -> bool:
            return any(text in line for line in self._shown)

        with self._changed:
            self._changed.wait_for(lambda: was_shown() or self._ended, PATIENCE)
            if not was_shown():
                raise AssertionError(f"{text} was never on the screen:\n{self.text}")

    def type(self, line: str) -> None:
        """Type a line and press Enter."""
        self.press(line.encode() + b"\r")

    def press(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._master, keys)

    def finish(self) -> int:
        """Wait for its end: its exit status."""
        status = self.process.wait(PATIENCE)
        self._thread.join()
        return status

    def is_sane(self) -> bool:
        """True if the terminal is as it was: lines, echo, and the main screen."""
        mode = termios.tcgetattr(self._master)[3]
        alternate = self.raw.count(b"\x1b[?1049h") - self.raw.count(b"\x1b[?1049l")
        return bool(mode & termios.ICANON and mode & termios.ECHO and alternate == 0)
