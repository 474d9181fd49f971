"""The demo as a person runs it, and its honesty when things go wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from srmudp.cli.demo import Story
from srmudp.cli.demo_cast import Cast, Clock
from srmudp.cli.text import Screen

COMMAND = [sys.executable, "-m", "srmudp", "demo"]


def environment(folder: Path) -> dict[str, str]:
    """Ours, with temporary files in ``folder``."""
    return os.environ | {"TMPDIR": str(folder), "TEMP": str(folder), "TMP": str(folder), "PYTHONIOENCODING": "utf-8"}


def test_all_holds_in_under_20_seconds(tmp_path: Path) -> None:
    start = time.monotonic()
    done = subprocess.run(COMMAND, capture_output=True, timeout=40, env=environment(tmp_path))
    seconds = time.monotonic() - start
    story = done.stdout.decode()
    assert done.returncode == 0, story
    assert done.stderr.decode() == ""
    assert seconds < 20
    assert "✗" not in story
    assert "\x1b" not in story
    assert "\r" not in story
    for line in (
        r"✓ alice on UDP port \d+, PeerId [a-z2-7]{12}…",
        r"✓ carol is connected to alice and bob after \d+ m?s",
        r"✓ alice and bob   (\d{5} ){5}\d{5}\n +(\d{5} ){5}\d{5}\n",
        r"✓ compared, so pinned",
        r"✓ one  alice says 'for bob alone': bob heard it, nobody else",
        r"✓ some alice says 'for bob and carol': bob and carol heard it, nobody else",
        r"✓ all  carol says 'hello from carol': alice and bob heard it, nobody else",
        r"100 %  33\.6 of 33\.6 MB +[\d.]+ MB/s",
        r"✓ every bit as sent: SHA-256 [0-9a-f]{16}… at both ends",
        r"✓ [\d.]+ MB/s; of [\d,]+ datagrams [\d,]+ were lost and made good",
        r"✓ carol's process \d+ is killed after \d+ numbers",
        r"✓ she is back after .* same key, same codes, still pinned",
        r"✓ alice counted to \d+: none missing, none twice, all in order",
        r"✓ bob   counted to \d+: none missing, none twice, all in order",
        r"✓ nothing",
        r"✓ the network swallowed [\d,]+ of [\d,]+ datagrams \([345678]\.\d %\)",
        r"✓ all three said goodbye and ended",
        r"All 25 checks held, in \d+\.\d s\.",
        r"TUTORIAL\.md",
    ):
        assert re.search(line, story), f"{line} not in:\n{story}"
    assert max(map(len, story.splitlines())) < 80
    assert list(tmp_path.iterdir()) == []


def test_an_impossible_time_limit_is_a_cross_and_not_a_hang(tmp_path: Path) -> None:
    start = time.monotonic()
    done = subprocess.run(
        [*COMMAND, "--limit", "0.1"], capture_output=True, timeout=30, text=True, env=environment(tmp_path)
    )
    assert done.returncode == 1
    assert "✗ alice gave no answer to 'hello' in time" in done.stdout
    assert "1 of 1 check did not hold" in done.stdout
    assert done.stderr == ""
    assert time.monotonic() - start < 10
    assert list(tmp_path.iterdir()) == []


class TestTheJudge:
    """The checks of the crash are only worth something if they fail when they should."""

    @pytest.mark.parametrize(
        ("record", "verdict"),
        [
            ("1 alice 1 0;1 alice 2 0;2 alice 3 0", []),
            ("1 alice 1 0;1 alice 2 0;2 alice 2 1;2 alice 3 0", []),  # 2 was noted, not confirmed
            ("1 alice 1 0;1 alice 2 0;2 alice 1 1;2 alice 2 1;2 alice 3 0", ["came again"]),  # 1 was confirmed
            ("1 alice 1 0;1 alice 1 1;1 alice 2 0;2 alice 3 0", ["came again"]),  # twice in one life
            ("1 alice 1 0;2 alice 3 0", ["missing or unknown: 2"]),
            ("1 alice 1 0;2 alice 3 0;2 alice 2 0", ["out of order"]),
            ("1 alice 1 0;2 alice 2 0;2 alice 3 0;2 alice 4 0", ["missing or unknown: 4"]),
        ],
    )
    def test_it(self, record: str, verdict: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "carol.record").write_text(record.replace(";", "\n") + "\n", "ascii")
        with Cast(str(tmp_path), Clock(1.0), loss=0.0, seed=1, verbose=False) as cast:
            story = Story(Screen(color=False, width=200), cast, str(tmp_path))
            story._judge({"alice": (3, 1)}, {"alice": (3, 3)})
        out = capsys.readouterr().out
        crosses = [line for line in out.splitlines() if "✗" in line or "[NO]" in line]
        assert len(crosses) == len(verdict), out
        assert all(text in line for text, line in zip(verdict, crosses, strict=True)), out

    def test_what_is_not_confirmed_does_not_hold(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "carol.record").write_text("1 alice 1 0\n", "ascii")
        with Cast(str(tmp_path), Clock(1.0), loss=0.0, seed=1, verbose=False) as cast:
            story = Story(Screen(color=False, width=200), cast, str(tmp_path))
            story._judge({"alice": (1, 0)}, {"alice": (1, 0)})
            assert story._verdict() == 1
        assert "0 confirmed" in capsys.readouterr().out
