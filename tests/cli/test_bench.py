"""``srmudp bench``: a table that is true, from two processes."""

from __future__ import annotations

import re
from pathlib import Path

from srmudp.cli.bench import _Row

from .helpers import address_in, command


def measured(folder: Path, seconds: str) -> str:
    """What is printed after so long a measurement each way."""
    with command(folder, "bench", "--listen", "--once") as server:
        address = address_in(server.line_with("@"))
        with command(folder, "bench", address, "--seconds", seconds) as client:
            said = client.finish()
        server.finish()
    return said


def test_two_ends_measure(tmp_path: Path) -> None:
    said = measured(tmp_path, "0.4")
    if " 0 B/s " in said:  # true, where the machine stood still for so long
        said = measured(tmp_path, "4")
    rows = {line.split()[0]: line for line in said.splitlines() if line.strip()}
    assert re.search(r"idle +\d+ [mu]s +\d+ [mu]s$", rows["idle"])
    for way in ("up", "down"):
        match = re.search(way + r" +[\d.]+ [kMG]B/s +([\d.]+) +[\d.]+ [kMG]B +.*[\d.]+%$", rows[way])
        assert match, said
        assert float(match[1]) > 1
    assert "datagrams of up to" in said


def test_the_rate_of_a_row() -> None:
    assert _Row("up", 1000, 0.5, [], (0, 0)).rate == 2000
    assert _Row("idle", 0, 0.0, [], (0, 0)).rate == 0
