"""Attack 64: names of files that would leave the download folder, or mean something else on another system."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srmudp.exceptions import DecodeError
from srmudp.files.names import MAX_NAME, PART, STATE, check_path, key_of, numbered, safe_name, sendable


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "/etc/passwd", "a/../../b", "a\\b", "..\\x", "C:\\x", "c:x", "x\0y", "\ud800", "x" * 256],
)
def test_attack_64_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(DecodeError):
        safe_name(name)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("photo.jpg", "photo.jpg"),
        ("Grüße 2024.txt", "Grüße 2024.txt"),
        ("-rf", "_rf"),
        ("~root", "_root"),
        (".bashrc", "_bashrc"),
        ("...", "_"),
        ("ab:c?.txt", "ab_c_.txt"),
        ("trailing. . ", "trailing"),
        ("  leading", "leading"),
        ("NUL", "_NUL"),
        ("nul.txt", "_nul.txt"),
        ("com1 .log", "_com1 .log"),
        ("LPT¹", "_LPT¹"),
        ("console", "console"),
        ("a\x1b[2Jb", "a_[2Jb"),
        ("a\nb", "a_b"),
        ("exe\u202egpj.scr", "exe_gpj.scr"),
        ("zero\u200bwidth", "zero_width"),
        ("e\u0301", "\u00e9"),
        ("movie.part", "movie.part_"),
        ("movie.PART.State", "movie.PART.State_"),
    ],
)
def test_attack_64_awkward_names_become_harmless(name: str, safe: str) -> None:
    assert safe_name(name) == safe


def test_inside_a_folder_a_dot_may_come_first() -> None:
    assert safe_name(".gitignore", inner=True) == ".gitignore"
    assert safe_name(".part", inner=True) == ".part_"


def test_long_names_keep_their_ending() -> None:
    safe = safe_name("ü" * 120 + ".jpeg")
    assert safe.endswith("ü.jpeg")
    assert MAX_NAME - 1 <= len(safe.encode()) <= MAX_NAME


ANY_TEXT = st.lists(st.integers(0, 0x10FFFF), max_size=40).map(lambda points: "".join(map(chr, points)))


@given(ANY_TEXT)
def test_attack_64_whatever_comes_the_result_is_one_harmless_name(name: str) -> None:
    try:
        safe = safe_name(name)
    except DecodeError:
        return
    assert safe
    assert safe == safe.strip(" ")
    assert not set(safe) & set('<>:"/\\|?*\0')
    assert safe.isprintable()
    assert safe[0] not in ".-~"
    assert safe[-1] not in ". "
    assert len(safe.encode()) <= MAX_NAME + 2
    assert not safe.casefold().endswith((PART, STATE))
    assert safe_name(safe) == safe or safe_name(safe) == unicodedata.normalize("NFC", safe)


@pytest.mark.parametrize("path", ["/a", "a/", "a//b", "a/../b", "./a", "a\\b", "a/" * 30 + "b"])
def test_attack_64_paths_inside_a_folder_stay_inside(path: str) -> None:
    with pytest.raises(DecodeError):
        check_path(path)


def test_paths_inside_a_folder() -> None:
    assert check_path("a/b/c.txt") == ("a", "b", "c.txt")


def test_names_that_some_system_takes_for_the_same() -> None:
    assert key_of("README") == key_of("ReadMe")
    assert key_of("e\u0301") == key_of("\u00c9")
    assert key_of("a") != key_of("b")


@pytest.mark.parametrize(
    ("name", "number", "expected"),
    [
        ("a.jpg", 1, "a.jpg"),
        ("a.jpg", 2, "a (2).jpg"),
        ("a", 3, "a (3)"),
        (".gitignore", 2, ".gitignore (2)"),
        ("no. that is a sentence", 2, "no. that is a sentence (2)"),
    ],
)
def test_numbered(name: str, number: int, expected: str) -> None:
    assert numbered(name, number) == expected


@given(ANY_TEXT)
def test_what_we_send_is_accepted(name: str) -> None:
    if sendable(name) not in ("", ".", ".."):
        safe_name(sendable(name))
