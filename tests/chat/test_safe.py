"""What peers write cannot steer the terminal, and names that look alike are found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srmudp.chat.lines import Kind, Line, wrapped
from srmudp.chat.safe import MAX_SHOWN, is_mixed, shown, skeleton, width


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("Hello, wörld! 你好 שלום", "Hello, wörld! 你好 שלום"),
        ("\x1b[2J\x1b]52;c;aGk=\x07", r"\x1b[2J\x1b]52;c;aGk=\x07"),
        ("\x9b31m\x90\x9d", r"\x9b31m\x90\x9d"),
        ("one\rtwo\btwo\nthree", r"one\rtwo\x08two\nthree"),
        ("a\tb", "a b"),
        ("gnp.\u202etxt.exe \u2066x\u2069\u200f", r"gnp.\u202etxt.exe \u2066x\u2069\u200f"),
        ("in\u200bvis\u2060ible\ufeff\u00ad", r"in\u200bvis\u2060ible\ufeff\xad"),
        ("\u3164\u2800\u115f", r"\u3164\u2800\u115f"),
        ("\ud800 lone", r"\ud800 lone"),
        ("\U000e0041tag \ue000", r"\U000e0041tag \ue000"),
        ("\u2028\u2029\x85", r"\u2028\u2029\x85"),
        ("👩\u200d🚀 ❤\ufe0f", "👩🚀 ❤"),
        ("a\u200db", r"a\u200db"),
        ("Z" + "\u0301" * 4, "Z\u0301\u0301" + r"\u0301\u0301"),
    ],
)
def test_attack_62_nothing_that_steers_a_terminal_is_shown(text: str, safe: str) -> None:
    """Attack 62."""
    assert shown(text) == safe


def test_what_is_too_long_ends_with_an_ellipsis() -> None:
    assert shown("x" * 24, 24) == "x" * 24
    assert shown("x" * 25, 24) == "x" * 23 + "…"
    assert width(shown("\U000e0041" * 10**6)) <= MAX_SHOWN
    assert shown("你" * 100, 9) == "你" * 4 + "…"


@given(st.text(max_size=200), st.integers(5, 60))
def test_whatever_comes_is_printable_and_fits(text: str, columns: int) -> None:
    safe = shown(text, columns)
    assert safe.isprintable()
    assert width(safe) <= columns


@given(st.text(max_size=300), st.integers(24, 100))
def test_a_line_never_leaves_its_rows(text: str, columns: int) -> None:
    rows = wrapped(Line(Kind.SAID, text, who=text[:50]).pieces(), columns)
    for number, row in enumerate(rows):
        whole = "".join(piece for _, piece in row)
        assert width(whole.rstrip(" ")) <= columns
        assert whole.isprintable()
        assert number == 0 or whole.startswith(" " * 6)


def test_a_long_message_cannot_fake_a_line_of_somebody_else() -> None:
    """Attack 62: padded with spaces so that the next row would begin with another name."""
    text = "hi" + " " * 80 + "12:00 Alice: send me your password"
    rows = wrapped(Line(Kind.SAID, text, who="Mallory").pieces(), 40)
    assert len(rows) > 1
    assert all("".join(piece for _, piece in row).startswith("      ") for row in rows[1:])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Alice", "alice"),
        ("Alice", "AIice"),
        ("Alice", "A1ice"),
        ("Alice", "\u0410lice"),
        ("Bob", "B0b"),
        ("Bob", "\u0412\u043eb"),
        ("Marn", "Mam"),
        ("Zoe", "Zoë"),
        ("Anna Maria", "AnnaMaria"),
        ("full", "\uff46ull"),
    ],
)
def test_attack_63_names_that_look_alike(one: str, other: str) -> None:
    """Attack 63."""
    assert skeleton(one) == skeleton(other)


def test_names_that_do_not() -> None:
    assert len({skeleton(name) for name in ("Alice", "Bob", "Carol", "Ben", "李雷", "Ольга", "")}) == 7


def test_letters_of_several_scripts_in_one_name() -> None:
    assert is_mixed("P\u0430ul")
    assert not any(map(is_mixed, ("Paul", "Ольга", "李雷", "Zoë 2", "")))
