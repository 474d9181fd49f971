"""tests/ATTACKS.md says which test covers which attack: it must be whole, and say what is so."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest

TESTS = Path(__file__).parent
TABLE = TESTS / "ATTACKS.md"
NUMBERS = range(1, 81)
WAITING = re.compile(r"room not built yet: (gate|relay|chat)\b")
_ROW = re.compile(r"\|\s*(\d+)\s*\|(.*)\|\s*$")
_TEST = re.compile(r"`([\w/]+\.py)::(\w+)`")
_NAMED = re.compile(r"\b[Aa]ttacks?\s+((?:\d+\b(?:\s*(?:,|and|to|\(and|or)\s*)*)+)")


class Row(NamedTuple):
    """One line of the table."""

    number: int
    attack: str
    tests: frozenset[tuple[str, str]]
    remark: str


def read_table(text: str) -> list[Row]:
    """The rows of the table, in their order.

    Raises:
        ValueError: a row has not four columns, or names something that is no test.
    """
    rows = []
    for line in text.splitlines():
        match = _ROW.fullmatch(line)
        if match is None:
            continue
        columns = [column.strip() for column in match[2].split("|")]
        if len(columns) != 3:
            raise ValueError(f"not four columns: {line}")
        attack, tests, remark = columns
        if _TEST.sub("", tests).strip(" ,"):
            raise ValueError(f"more than tests in the third column: {line}")
        rows.append(Row(int(match[1]), attack, frozenset(_TEST.findall(tests)), remark))
    return rows


def numbers_in(text: str) -> set[int]:
    """The attacks that a docstring names: "Attack 5", "Attacks 3, 5 and 6", "Attacks 24 to 27", "Attack 7 (and 53)"."""
    found: set[int] = set()
    for match in _NAMED.finditer(text):
        words = re.findall(r"\d+|to", match[1])
        for position, word in enumerate(words):
            if word == "to" and 0 < position < len(words) - 1:
                found.update(range(int(words[position - 1]), int(words[position + 1]) + 1))
            elif word != "to":
                found.add(int(word))
    return found


def functions_of(path: Path) -> dict[str, str]:
    """Every test function of a file, methods included, with its docstring."""
    return {
        node.name: ast.get_docstring(node) or ""
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test")
    }


def all_tests() -> dict[tuple[str, str], str]:
    """(file, function) of every test there is, with its docstring."""
    return {
        (path.relative_to(TESTS).as_posix(), name): docstring
        for path in sorted(TESTS.rglob("test_*.py"))
        for name, docstring in functions_of(path).items()
    }


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return read_table(TABLE.read_text(encoding="utf-8"))


def test_every_attack_has_one_row(rows: list[Row]) -> None:
    assert [row.number for row in rows] == list(NUMBERS)
    assert all(len(row.attack) > 10 for row in rows), [row.number for row in rows if len(row.attack) <= 10]


def test_every_named_test_exists(rows: list[Row]) -> None:
    known = all_tests()
    missing = [(row.number, *test) for row in rows for test in sorted(row.tests) if test not in known]
    assert not missing, "named in tests/ATTACKS.md, but not there: " + ", ".join(map(str, missing))


def test_every_test_that_names_an_attack_is_in_its_row(rows: list[Row]) -> None:
    listed = {row.number: row.tests for row in rows}
    absent = [
        (number, *test)
        for test, docstring in all_tests().items()
        for number in sorted(numbers_in(docstring))
        if test not in listed.get(number, frozenset())
    ]
    assert not absent, "not in tests/ATTACKS.md: " + ", ".join(map(str, absent))


def test_a_row_without_a_test_says_what_it_waits_for(rows: list[Row]) -> None:
    silent = [row.number for row in rows if not row.tests and not WAITING.search(row.remark)]
    assert not silent, f"no test and no reason: {silent}"


# --- that the checks above can fail ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Attack 5: replayed.", {5}),
        ("Attacks 3, 5 and 6: close.", {3, 5, 6}),
        ("Attacks 24 to 27: who.", {24, 25, 26, 27}),
        ("Attack 7 (and 53): port.", {7, 53}),
        ("attack 17 and, later, attack 36", {17, 36}),
        ("Attacks 12 to 14 and 18.\n\nAttack 20 too.", {12, 13, 14, 18, 20}),
        ("Attack 47's rule in small", {47}),
        ("An attack of 5 datagrams, attackers 6.", set()),
    ],
)
def test_docstrings_are_read(text: str, expected: set[int]) -> None:
    assert numbers_in(text) == expected


def test_rows_are_read() -> None:
    text = "| # |\n|--|\n| 4 | Sent back | `a/test_b.py::test_c`, `test_d.py::test_e` | in part |\n| 5 | x | | y |"
    first, second = read_table(text)
    assert first == Row(4, "Sent back", frozenset({("a/test_b.py", "test_c"), ("test_d.py", "test_e")}), "in part")
    assert second == Row(5, "x", frozenset(), "y")
    with pytest.raises(ValueError, match="four columns"):
        read_table("| 4 | Sent back | `a/test_b.py::test_c` |")
    with pytest.raises(ValueError, match="more than tests"):
        read_table("| 4 | Sent back | see test_b | |")
