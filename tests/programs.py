"""Runs small programs as a user would: real processes, loopback only, their output line by line."""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import IO, Self

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 40.0
"""Seconds a program may take before the test gives up; none should need more than a few."""


class Program:
    """A Python program in a process of its own. Ended, whatever happens, by leaving the ``with`` block.

    Args:
        arguments: what follows ``python``: a file name and its arguments, or ``-c`` and text.
        cwd: folder it runs in.
    """

    def __init__(
        self, arguments: Sequence[str | Path], cwd: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        # Buffered, as with users: a line that is flushed is written whole, also where several threads print.
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "", **(environment or {})}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", *map(str, arguments)],
            cwd=cwd,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._errors: list[str] = []
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._threads = [
            threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True),
            threading.Thread(target=self._read_errors, args=(self.process.stderr,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def _read_errors(self, stream: IO[str]) -> None:
        self._errors.extend(stream)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for thread in self._threads:
            thread.join()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass

    def line(self) -> str | None:
        """The next line it prints; None at the end of its output."""
        try:
            line = self._lines.get(timeout=PATIENCE)
        except queue.Empty:
            raise AssertionError(f"{self.process.args} printed nothing for {PATIENCE:g} s\n{self.errors}") from None
        if line is None:
            self._lines.put(None)
        return line

    def next_line(self, seconds: float) -> str | None:
        """The next line it prints within so many seconds; None if there is none."""
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            return None
        if line is None:
            self._lines.put(None)
        return line

    def line_with(self, text: str) -> str:
        """The next line that has ``text`` in it; those before it are skipped."""
        skipped: list[str] = []
        while (line := self.line()) is not None:
            if text in line:
                return line
            skipped.append(line)
        raise AssertionError(f"{self.process.args} never printed {text!r}, but {skipped}\n{self.errors}")

    def type(self, text: str) -> None:
        """Give it a line on its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def end_of_input(self) -> None:
        """What Ctrl-D does."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    @property
    def errors(self) -> str:
        """What it wrote to standard error so far."""
        return "".join(self._errors)

    def finish(self) -> str:
        """Wait for its orderly end: what else it printed. It must exit with 0 and write nothing to standard error."""
        deadline = monotonic() + PATIENCE
        lines: list[str] = []
        while (line := self.line()) is not None:
            lines.append(line)
        status = self.process.wait(timeout=max(0.1, deadline - monotonic()))
        for thread in self._threads:
            thread.join()
        assert (status, self.errors) == (0, ""), f"{self.process.args}: exit {status}\n{self.errors}"
        return "\n".join(lines)


def is_free(port: int) -> bool:
    """True if no program of this machine has the UDP port."""
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.bind((address, port))
        except OSError as error:
            if error.errno in (getattr(socket, "EAFNOSUPPORT", 97), 97, 99):
                continue  # no such family here
            return False
    return True


def free_ports(count: int) -> list[int]:
    """UDP ports that nobody had a moment ago, all different."""
    probes: list[socket.socket] = []
    try:
        for _ in range(count):
            probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            probe.bind(("0.0.0.0", 0))
            probes.append(probe)
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
