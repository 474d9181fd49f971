"""What a screen writes, on a terminal and off it, in colour and without, in Unicode and in ASCII."""

from __future__ import annotations

import io

import pytest

from srmudp.cli.text import Screen, clean, duration, soften


class Terminal(io.TextIOWrapper):
    """A stream in memory that says it is a terminal."""

    def __init__(self, encoding: str = "utf-8", tty: bool = True) -> None:
        self._tty = tty
        super().__init__(io.BytesIO(), encoding=encoding, newline="\n", write_through=True)

    def isatty(self) -> bool:
        return self._tty

    def text(self) -> str:
        buffer = self.buffer
        assert isinstance(buffer, io.BytesIO)
        return buffer.getvalue().decode(self.encoding)


@pytest.fixture(autouse=True)
def _able_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def test_a_terminal_gets_colour_and_ticks() -> None:
    terminal = Terminal()
    Screen(terminal, width=80).check(True, "held")
    assert terminal.text() == "   \x1b[32;1m✓\x1b[0m held\n"


def test_a_file_gets_plain_text_and_no_cursor_tricks() -> None:
    file = Terminal(tty=False)
    screen = Screen(file)
    screen.check(False, "did not")
    with screen.progress() as bar:
        for percent in range(101):
            bar.show(percent / 100, "so far")
    assert file.text().splitlines() == [
        "   ✗ did not",
        "    25 %  so far",
        "    50 %  so far",
        "    75 %  so far",
        "   100 %  so far",
    ]


@pytest.mark.parametrize(
    ("no_color", "term", "wish", "coloured"),
    [
        ("", "xterm", None, True),  # https://no-color.org: an empty value does not count
        ("1", "xterm", None, False),
        ("", "dumb", None, False),
        ("", "xterm", False, False),
    ],
)
def test_who_decides_on_colour(
    monkeypatch: pytest.MonkeyPatch, no_color: str, term: str, wish: bool | None, coloured: bool
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", term)
    terminal = Terminal()
    screen = Screen(terminal, color=wish)
    screen.heading(1, "title")
    assert screen.color is coloured
    assert ("\x1b[" in terminal.text()) is coloured


def test_ascii_where_nothing_else_can_be_written() -> None:
    terminal = Terminal("ascii")
    screen = Screen(terminal, color=False, width=60)
    screen.check(True, "yes")
    screen.check(False, "no")
    with screen.progress() as bar:
        bar.show(0.5, "half")
    assert not screen.fancy
    assert "   [ok] yes\n   [NO] no\n" in terminal.text()
    assert "####" in terminal.text()
    soften(terminal)
    screen.line("naïve …")  # what was not meant for ASCII does not raise
    assert "na?ve ?" in terminal.text()


@pytest.mark.parametrize("width", [40, 80, 100])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_nothing_is_wider_than_the_terminal(width: int, encoding: str) -> None:
    terminal = Terminal(encoding)
    screen = Screen(terminal, color=False, width=width)
    screen.paragraph("many words " * 30, indent="   ")
    screen.check(True, "many words " * 30)
    with screen.progress() as bar:
        for percent in range(0, 101, 7):
            bar.show(percent / 100, "33.6 of 33.6 MB")
    lines = terminal.text().replace("\r\x1b[K", "\n").split("\n")
    assert max(map(len, lines)) < width
    assert any(len(line) > width * 0.7 for line in lines)


def test_a_bar_is_redrawn_in_place_and_ends_with_its_line() -> None:
    terminal = Terminal()
    screen = Screen(terminal, color=False, width=80)
    with screen.progress() as bar:
        bar.show(-1.0, "below")
        bar.show(2.0, "above")
    screen.line("next")
    drawn = terminal.text().split("\r\x1b[K")
    assert drawn[1] == "   " + "░" * 40 + "    0 %  below"
    assert drawn[2] == "   " + "█" * 40 + "  100 %  above\nnext\n"


def test_a_table_is_aligned() -> None:
    file = Terminal(tty=False)
    Screen(file).table(("peer", " sent"), [("alice", "7"), ("bob", "12,345")], indent="")
    assert file.text().splitlines() == ["peer     sent", "alice       7", "bob    12,345"]


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("plain, Zoë, 你好", "plain, Zoë, 你好"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("a\r\nb", "a\\x0d\\x0ab"),
        ("\u202egnp.exe", "\\x202egnp.exe"),
        ("\x9b", "\\x9b"),
    ],
)
def test_text_from_elsewhere_cannot_steer_the_terminal(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.00084, "840 us"), (0.0123, "12 ms"), (0.9996, "1.0 s"), (3.44, "3.4 s")]
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words
