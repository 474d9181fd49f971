"""Words, ticks, tables and a progress bar on a terminal or in a file, in whatever the other side can show."""

from __future__ import annotations

import io
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_FANCY = "✓✗█▏▎▍▌▋▊▉░─…·"
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_ERASE = "\r\x1b[K"
_NARROWEST, _WIDEST, _UNKNOWN = 40, 100, 80


def clean(text: str) -> str:
    """``text`` with everything that could steer a terminal (control, bidirectional, surrogate) made visible."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def soften(stream: Any) -> None:
    """Have ``stream`` write a ``?`` for what its encoding lacks instead of raising. Other streams are left alone."""
    if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
        stream.reconfigure(errors="replace")


def duration(seconds: float) -> str:
    """Seconds in words: ``840 us``, ``12 ms``, ``3.4 s``."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds * 1e3:.0f} ms" if seconds < 0.9995 else f"{seconds:.1f} s"


def period(seconds: float) -> str:
    """Seconds to be waited, in words: ``8 s``, ``2:05``, ``1:02:05``."""
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def amount(size: float) -> str:
    """Bytes in words: ``840 B``, ``12.3 MB``."""
    if size < 1000:
        return f"{size:.0f} B"
    units = ["kB", "MB", "GB", "TB", "PB"]
    while (size := size / 1000) >= 999.95 and len(units) > 1:
        del units[0]
    return f"{size:.1f} {units[0]}"


class Screen:
    """Where a command writes for people.

    Args:
        stream: where to; standard output if None.
        color: False never colours; True and None do if the stream is a terminal that can and ``NO_COLOR`` is not set.
        live: False never redraws a line; None does on a terminal.
        width: columns; None asks the terminal.

    Attributes:
        color, live, width: as decided.
        fancy: True if the stream's encoding has ticks and bars.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        color: bool | None = None,
        live: bool | None = None,
        width: int | None = None,
    ) -> None:
        self._stream = sys.stdout if stream is None else stream
        able = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        if os.name == "nt":  # consoles from before Windows Terminal print the codes themselves
            able = able and bool(os.environ.get("WT_SESSION") or os.environ.get("TERM"))
        self.live = able and live is not False
        # https://no-color.org: any value but the empty one
        self.color = able and color is not False and not os.environ.get("NO_COLOR")
        columns = width or (shutil.get_terminal_size((_UNKNOWN, 24)).columns if able else _UNKNOWN)
        self.width = max(_NARROWEST, min(_WIDEST, columns))
        self.fancy = _encodes(self._stream, _FANCY)
        self._drawn = False

    # --- words ---

    def style(self, text: str, *names: str) -> str:
        """``text`` in bold, dim or a colour, where colours are wanted."""
        if not self.color or not names:
            return text
        return f"\x1b[{';'.join(_STYLES[name] for name in names)}m{text}\x1b[0m"

    def line(self, text: str = "", *styles: str) -> None:
        """One line as it is."""
        self._write(self.style(text, *styles) if text else "")

    def paragraph(self, text: str, *styles: str, indent: str = "", first: str | None = None) -> None:
        """Text wrapped to the width.

        Args:
            indent: before each line.
            first: before the first line instead.
        """
        lines = textwrap.wrap(
            text,
            self.width - 1,
            initial_indent=indent if first is None else first,
            subsequent_indent=indent,
            break_on_hyphens=False,
        )
        for line in lines or [""]:
            self.line(line, *styles)

    def heading(self, number: int, text: str) -> None:
        """The title of a chapter."""
        self.line()
        self._write(self.style(f"{number}", "cyan", "bold") + "  " + self.style(text, "bold"))

    def check(self, held: bool, text: str, indent: str = "   ") -> None:
        """A line with a tick or a cross."""
        mark = ("✓" if held else "✗") if self.fancy else ("[ok]" if held else "[NO]")
        lead = f"{indent}{mark} "
        lines = textwrap.wrap(text, self.width - 1 - len(lead), break_on_hyphens=False) or [""]
        color = "green" if held else "red"
        self._write(f"{indent}{self.style(mark, color, 'bold')} " + (lines[0] if held else self.style(lines[0], "red")))
        for line in lines[1:]:
            self._write(" " * len(lead) + (line if held else self.style(line, "red")))

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[str]], indent: str = "   ") -> None:
        """Columns under their heads; those whose head begins with a space are set right."""
        right = [head.startswith(" ") for head in heads]
        cells = [[head.strip() for head in heads], *rows]
        widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]

        def text(row: Sequence[str]) -> str:
            parts = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True))
            return (indent + "  ".join(parts)).rstrip()

        self.line(text(cells[0]), "dim")
        for row in rows:
            self.line(text(row))

    # --- progress ---

    @contextmanager
    def progress(self, indent: str = "   ") -> Iterator[Bar]:
        """A bar that is redrawn in place on a terminal and is a line per quarter elsewhere."""
        bar = Bar(self, indent)
        try:
            yield bar
        finally:
            if self._drawn:
                self._stream.write("\n")
                self._stream.flush()
                self._drawn = False

    def draw(self, text: str) -> None:
        """Redraw the current line (live screens only)."""
        self._stream.write(_ERASE + text)
        self._stream.flush()
        self._drawn = True

    def _write(self, text: str) -> None:
        if self._drawn:
            text, self._drawn = "\n" + text, False
        self._stream.write(text + "\n")
        self._stream.flush()


class Bar:
    """A progress bar; made by :meth:`Screen.progress`."""

    def __init__(self, screen: Screen, indent: str) -> None:
        self._screen = screen
        self._indent = indent
        self._quarter = 0

    def show(self, fraction: float, note: str) -> None:
        """Set it.

        Args:
            fraction: 0.0 to 1.0.
            note: what stands beside it, of about constant length.
        """
        fraction = max(0.0, min(1.0, fraction))
        screen, percent = self._screen, f"{int(fraction * 100):3} %  {note}"
        if not screen.live:
            if int(fraction * 4) > self._quarter:
                self._quarter = int(fraction * 4)
                screen.line(f"{self._indent}{percent}")
            return
        room = max(8, min(40, screen.width - 1 - len(self._indent) - 2 - len(percent)))
        if screen.fancy:
            eighths = int(fraction * room * 8)
            full, rest = divmod(eighths, 8)
            done = "█" * full + (_EIGHTHS[rest] if rest else "")
            drawn = screen.style(done, "green") + screen.style("░" * (room - len(done)), "dim")
        else:
            done = "#" * int(fraction * room)
            drawn = screen.style(done, "green") + "." * (room - len(done))
        screen.draw(f"{self._indent}{drawn}  {percent}")


def _encodes(stream: TextIO, text: str) -> bool:
    try:
        text.encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
