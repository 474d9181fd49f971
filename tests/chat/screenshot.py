"""Draws the picture of the chat in the README: ``python -m tests.chat.screenshot docs/chat.svg``.

Three real chats in pseudo-terminals; the picture is the screen of one of them, cell by cell.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from xml.sax.saxutils import escape

from ..programs import free_ports
from .terminals import Terminal

ROWS, COLUMNS = 24, 92
CELL, LINE, EDGE = 8.4, 18, 14
BACKGROUND, TEXT = "#1d1f28", "#d8dae3"
COLOURS = {
    "black": "#3b3f51",
    "red": "#ef6b73",
    "green": "#7fd88f",
    "brown": "#e6c76a",
    "blue": "#7aa8f7",
    "magenta": "#d08ef0",
    "cyan": "#6fd3e0",
    "white": "#d8dae3",
    "brightblack": "#7d8296",
    "brightgreen": "#a5ecb1",
    "brightblue": "#a3c3ff",
    "brightbrown": "#f3dc93",
    "brightyellow": "#f3dc93",
}


def runs(row: dict[int, object]) -> Iterator[tuple[int, str, str, str | None, bool]]:
    """Column, text, colour, background and boldness of the pieces of a row."""

    def look(column: int) -> tuple[str, str | None, bool]:
        cell = row[column]
        colour = COLOURS.get(cell.fg, TEXT)  # type: ignore[attr-defined]
        if cell.reverse:  # type: ignore[attr-defined]
            return BACKGROUND, TEXT, False
        behind = cell.bg  # type: ignore[attr-defined]
        return colour, COLOURS.get(behind), bool(cell.bold)  # type: ignore[attr-defined]

    for (colour, behind, bold), columns in groupby(range(COLUMNS), look):
        places = list(columns)
        yield places[0], "".join(row[c].data for c in places), colour, behind, bold  # type: ignore[attr-defined]


def draw(terminal: Terminal, title: str) -> str:
    """The screen as SVG."""
    width, height = COLUMNS * CELL + 2 * EDGE, ROWS * LINE + 2 * EDGE + 26
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}">',
        f'<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>',
        f'<text x="{width / 2:.0f}" y="22" fill="#7d8296" font-family="sans-serif" font-size="13" '
        f'text-anchor="middle">{escape(title)}</text>',
        '<g font-family="ui-monospace,Menlo,Consolas,DejaVu Sans Mono,monospace" font-size="14" xml:space="preserve">',
    ]
    for number in range(ROWS):
        y = EDGE + 26 + number * LINE
        for column, text, colour, behind, bold in runs(terminal.screen.buffer[number]):
            x, size = EDGE + column * CELL, len(text) * CELL
            if behind is not None:
                parts.append(f'<rect x="{x:.1f}" y="{y}" width="{size:.1f}" height="{LINE}" fill="{behind}"/>')
            for position, word in words(text):
                left, length = x + position * CELL, len(word) * CELL
                weight = ' font-weight="bold"' if bold else ""
                parts.append(
                    f'<text x="{left:.1f}" y="{y + 13}" fill="{colour}"{weight} textLength="{length:.1f}" '
                    f'lengthAdjust="spacingAndGlyphs">{escape(word)}</text>'
                )
    return "\n".join([*parts, "</g>", "</svg>", ""])


def words(text: str) -> Iterator[tuple[int, str]]:
    """The words of a piece and where they begin."""
    position = 0
    for is_space, characters in groupby(text, str.isspace):
        word = "".join(characters)
        if not is_space:
            yield position, word
        position += len(word)


def play(folder: Path) -> str:
    """A conversation among three; what Alice sees of it."""
    ports = dict(zip(("Alice", "Bob", "Carol"), free_ports(3), strict=True))
    with open(folder / "ferry.mp4", "wb") as film:
        film.truncate(400_000_000)

    def start(nick: str) -> Terminal:
        arguments = ["srmudp.chat", "-n", nick, "-p", str(ports[nick]), "--downloads", str(folder / "in")]
        return Terminal(arguments, folder, {"XDG_DATA_HOME": str(folder)}, rows=ROWS, columns=COLUMNS)

    with start("Alice") as alice, start("Bob") as bob, start("Carol") as carol:
        for terminal in (alice, bob, carol):
            terminal.wait_for("/help lists")
        bob.type(f"/add Alice 127.0.0.1:{ports['Alice']}")
        alice.wait_for("Bob (key ")
        time.sleep(1.2)
        alice.type("y")
        bob.wait_for("Alice is here")
        bob.type("Good morning! Has anybody seen the weather?")
        alice.wait_for("seen the weather?")
        carol.type(f"/add Alice 127.0.0.1:{ports['Alice']}")
        alice.wait_for("Carol (key ")
        time.sleep(1.2)
        alice.type("/yes Carol")
        carol.wait_for("Alice is here")
        alice.type("Morning, both. Wind from the west, the ferry goes at nine.")
        alice.wait_for("at nine. ✓✓")
        carol.type("I bring the sandwiches.")
        alice.wait_for("sandwiches.")
        alice.type("/msg Bob Do you have the cake for Carol?")
        alice.wait_for("for Carol? ✓✓")
        bob.type("/msg Alice Under my bed. Not a word!")
        alice.wait_for("Not a word!")
        bob.type("/send Alice ferry.mp4")
        alice.wait_for("offers you ferry.mp4")
        alice.type("/accept")
        alice.wait_for("left")
        alice.press(b"See you at the pi")
        alice.wait_for("█████", "See you at the pi")
        return draw(alice, "srmudp chat -p 8000 -n Alice").replace(str(ports["Alice"]), "8000")


def main() -> int:
    """Write the picture to the file named on the command line."""
    with tempfile.TemporaryDirectory() as folder:
        Path(sys.argv[1]).write_text(play(Path(folder)), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
