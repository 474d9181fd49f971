"""What the matrix makes of its trials. The trials themselves: ``tests/real/test_nats.py``."""

from __future__ import annotations

import pytest

from tests.nat.facts import KINDS, LETTERS
from tests.nat.lab import RULES
from tests.nat.matrix import SITUATIONS, Result, Trial, case, chosen, main, summary, table


def result(name: str, *seconds: float | None, reason: str | None = None) -> Result:
    return Result(case(name), [Trial(one, "x and y", reason) for one in seconds])


def test_the_facts_say_the_same_of_both_ends_and_the_lab_has_all_kinds() -> None:
    assert all(LETTERS[one, two] == LETTERS[two, one] for one in KINDS for two in KINDS)
    assert set(KINDS) <= set(RULES)
    assert set(LETTERS.values()) == {"S", "O", "T", "P", "RB", "R"}
    assert LETTERS["forwarded", "symmetric"] == "S"
    assert LETTERS["forwarded", "tcp-only"] == "R"


@pytest.mark.parametrize(
    ("name", "seconds", "reason", "passed"),
    [
        ("linux,linux", [0.1] * 20, None, True),
        ("linux,linux", [0.1] * 19 + [None], None, True),  # the 95th of a hundred connects
        ("linux,linux", [0.1] * 18 + [None] * 2, None, False),
        ("linux,linux", [0.1] * 18 + [3.1] * 2, None, False),
        ("linux,symmetric", [29.0] * 20, None, True),
        ("linux,symmetric", [None], "both are hard", False),
        ("symmetric,symmetric", [None, None], "both are hard", True),
        ("symmetric,symmetric", [None, 0.1], None, False),
        ("symmetric,symmetric", [0.1, 0.1], None, True),  # better than expected
        ("lan-isolated", [None], "no way", True),
    ],
)
def test_a_pair_passes_by_its_letter(name: str, seconds: list[float | None], reason: str | None, passed: bool) -> None:
    assert result(name, *seconds, reason=reason).passed is passed


def test_quantiles_are_those_of_all_trials() -> None:
    found = result("linux,linux", 0.4, 0.1, None, 0.2, 0.3)
    assert (found.quantile(0.5), found.quantile(0.8), found.quantile(0.95)) == (0.3, 0.4, None)
    assert found.as_json()["connected"] == 4
    assert "FAIL linux,linux" in str(found)
    assert "4/5 median 0.300 s p95 -  x and y; None" in str(found)


def test_the_table_shows_each_pair_both_ways() -> None:
    results = [result("linux,linux", 0.1), result("symmetric,linux", None), result("lan", 0.2)]
    rows = [line.split() for line in table(results).splitlines()]
    assert rows == [["symme", "linux"], ["symmetric", "RB-"], ["linux", "RB-", "S+"]]
    assert summary(results).startswith("2 of 3 pairs as expected; connected after: median 0.100 s")


def test_what_is_tried() -> None:
    everything = chosen([], [], [])
    assert len(everything) == len(KINDS) * (len(KINDS) + 1) // 2 + len(SITUATIONS)
    assert [one.name for one in chosen([], ["open", "symmetric"], [])] == [
        *("open,open", "open,symmetric", "symmetric,symmetric")
    ]
    assert [one.name for one in chosen([case("lan")], ["open", "symmetric"], ["S", "O"])] == [
        *("lan", "open,open", "open,symmetric")
    ]
    hopeless = chosen([], [], ["R"])
    assert {one.letter for one in hopeless} == {"R"}
    assert SITUATIONS["carrier"] in hopeless


def test_what_is_no_pair_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ("linux,nothing", "linux", "", "nothing", "linux,linux,linux"):
        with pytest.raises(SystemExit):
            main(["--pairs", wrong])
    assert "linux,nothing" in capsys.readouterr().err
    assert [case(name).name for name in SITUATIONS] == list(SITUATIONS)
