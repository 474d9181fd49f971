"""Lines of the conversation as front ends show them: pieces of text with a style, cleaned here and nowhere else."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from .safe import MAX_NICK_SHOWN, MAX_SHOWN, shown, width

Piece = tuple[str, str]
"""A style (a :class:`Style`) and clean text."""


class Style(StrEnum):
    """How a piece is meant; front ends choose colours."""

    PLAIN = "plain"
    TIME = "time"
    ME = "me"
    PEER = "peer"
    PRIVATE = "private"
    NOTE = "note"
    GOOD = "good"
    WARN = "warn"
    BAD = "bad"
    QUESTION = "question"
    CODE = "code"
    QR = "qr"


class Kind(StrEnum):
    """What a line is."""

    SAID = "said"
    """A peer's, to all."""
    WHISPERED = "whispered"
    """A peer's, to us alone."""
    MINE = "mine"
    MY_WHISPER = "my whisper"
    NOTE = "note"
    GOOD = "good"
    WARNING = "warning"
    MISTAKE = "mistake"
    QUESTION = "question"
    ANSWER = "answer"
    """What a command printed: no time before it."""
    COPY = "copy"
    """The same, to be copied: not broken where that can be helped."""
    QR = "qr"
    """A row of a QR code."""


class Marked(Protocol):
    """What became of a line of ours."""

    def mark(self) -> Piece:
        """A tick for it, as it is now."""


@dataclass(slots=True, eq=False)
class Line:
    """One entry. ``who`` and ``text`` are as they came; :meth:`pieces` cleans them.

    Attributes:
        when: wall clock, seconds.
        who: whose it is; for private lines of ours, whom it is for.
        receipt: of our own lines.
    """

    kind: Kind
    text: str
    who: str = ""
    when: float = 0.0
    receipt: Marked | None = None
    _pieces: list[Piece] = field(default_factory=list)

    def pieces(self) -> list[Piece]:
        """What may be shown of it, without the tick. One line: nothing in it breaks it."""
        if not self._pieces:
            self._pieces = [piece for piece in self._make() if piece[1]]
        return self._pieces

    def _make(self) -> list[Piece]:
        who, text = shown(self.who, MAX_NICK_SHOWN), shown(self.text, MAX_SHOWN)
        clock = (Style.TIME, time.strftime("%H:%M ", time.localtime(self.when)))
        kind = self.kind
        if kind is Kind.SAID:
            return [clock, (Style.PEER, who), (Style.PLAIN, f": {text}")]
        if kind is Kind.WHISPERED:
            return [clock, (Style.PEER, who), (Style.PRIVATE, " to you alone"), (Style.PLAIN, f": {text}")]
        if kind is Kind.MINE:
            return [clock, (Style.ME, "you"), (Style.PLAIN, f": {text}")]
        if kind is Kind.MY_WHISPER:
            return [clock, (Style.ME, "you"), (Style.PRIVATE, f" to {who} alone"), (Style.PLAIN, f": {text}")]
        if kind is Kind.COPY:
            return [(Style.CODE, text)]
        if kind is Kind.QR:
            return [(Style.QR, text)]
        if kind is Kind.ANSWER:
            return [(Style.PLAIN, f"  {text}")]
        style, mark = _MARKS[kind]
        return [clock, (style, f"{mark} {text}")]


_MARKS = {
    Kind.NOTE: (Style.NOTE, "*"),
    Kind.GOOD: (Style.GOOD, "*"),
    Kind.WARNING: (Style.WARN, "!"),
    Kind.MISTAKE: (Style.BAD, "!"),
    Kind.QUESTION: (Style.QUESTION, "?"),
}

_INDENT = 6
"""Columns before the second and later rows of a line: where no time and no name stand, nobody can fake one."""


def wrapped(pieces: Iterable[Piece], columns: int) -> list[list[Piece]]:
    """``pieces`` in rows of at most ``columns``, broken at spaces where there are some, later rows indented."""
    columns = max(columns, 4 * _INDENT)
    rows: list[list[Piece]] = [[]]
    used = 0
    for style, text in pieces:
        for word in _words(text):
            size = width(word)
            if used + size > columns and used > _INDENT:
                if word == " ":
                    continue
                rows.append([(Style.PLAIN, " " * _INDENT)])
                used = _INDENT
            while used + size > columns:
                part = _fitting(word, columns - used)
                _append(rows[-1], style, part)
                word = word[len(part) :]
                size = width(word)
                rows.append([(Style.PLAIN, " " * _INDENT)])
                used = _INDENT
            _append(rows[-1], style, word)
            used += size
    return rows


def _append(row: list[Piece], style: str, text: str) -> None:
    if row and row[-1][0] == style:
        row[-1] = style, row[-1][1] + text
    elif text:
        row.append((style, text))


def _words(text: str) -> Sequence[str]:
    """Words and the single spaces between them."""
    words: list[str] = []
    for number, word in enumerate(text.split(" ")):
        if number:
            words.append(" ")
        if word:
            words.append(word)
    return words


def _fitting(word: str, columns: int) -> str:
    """The longest beginning of ``word`` that fits; at least one character."""
    used = 0
    for position, character in enumerate(word):
        used += width(character)
        if used > columns:
            return word[: max(position, 1)]
    return word
