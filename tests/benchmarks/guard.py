"""Whether srmudp has become slower beside TLS over TCP: ``python -m tests.benchmarks.guard``.

Ratios of what was measured side by side, in one short run of some rows of ``python -m tests.benchmarks``, are compared
with those in guard.json; one that is worse by more than the slack there makes the command exit with 1. Rates depend on
the machine and its neighbours, ratios much less: not at all on how fast it is, somewhat on how busy it is. Root is
needed for the rows over virtual Ethernet, which are left out without.

``--update`` writes what was measured to guard.json, as the new measure of things.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks import aims
from tests.benchmarks.report import lined_up
from tests.benchmarks.rows import ROWS
from tests.benchmarks.session import measure

FILE = Path(__file__).with_name("guard.json")
MORE_IS_BETTER = {"rate": True, "cpu": False, "messages": True, "p50": False}
"""What is guarded, and which way is better."""
WATCHED = {
    aims.LARGE: ("rate", "cpu"),
    aims.SMALL: ("messages",),
    aims.PINGPONG: ("p50",),
    aims.SETUP: ("p50",),
}
"""Names of rows, and of the values in them."""
OURS = (aims.FAST, aims.PLAIN)
RUNS = 5


def ratios(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    """Name and ratio of all that is guarded.

    Args:
        rows: of the JSON report.
    """
    found = {(row["row"], row["place"], row["who"]): row["runs"] for row in rows}
    for (name, place, who), runs in found.items():
        beside = found.get((name, place, aims.TLS))
        if who in OURS and beside is not None:
            for key in WATCHED.get(name, ()):
                pairs = [
                    mine[key] / its[key]
                    for mine, its in zip(runs, beside, strict=False)
                    if key in mine and its.get(key)
                ]
                if pairs:
                    yield f"{who}; {name}; {place}; {key}", statistics.median(pairs)


def worse(name: str, ratio: float, before: float, slack: float) -> bool:
    """Whether it is worse than before by more than so large a share."""
    if MORE_IS_BETTER[name.rsplit("; ", 1)[1]]:
        return ratio < before * (1 - slack)
    return ratio > before / (1 - slack)


def main(arguments: Sequence[str] | None = None) -> int:
    first, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.guard",
        description=first,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=RUNS, metavar="N", help="of each row (default %(default)s)")
    parser.add_argument("--update", action="store_true", help="write guard.json")
    given = parser.parse_args(arguments)
    options = argparse.Namespace(runs=given.runs, only=[*OURS, aims.TLS], own=True, quick=True, once=False)
    made = measure(options, [row for row in ROWS if row.name in WATCHED])
    table: dict[str, Any] = json.loads(FILE.read_text("utf-8"))
    slack, limits = table["slack"], table["ratios"]
    now = dict(ratios(made["rows"]))
    bad = [name for name, ratio in now.items() if name in limits and worse(name, ratio, limits[name], slack)]
    failed = [
        f"{row['who']}; {row['row']}; {row['place']}: {row['failed'][0]}" for row in made["rows"] if row["failed"]
    ]
    lines = [["beside TLS over TCP", "now", "before", ""]]
    for name, ratio in now.items():
        before = limits.get(name)
        lines.append([name, f"{ratio:.2f}", "-" if before is None else f"{before:.2f}", "WORSE" * (name in bad)])
    print("\n".join(lined_up(lines, (0, 3))))
    print("\n".join(f"FAILED: {what}" for what in failed))
    if given.update:
        table["ratios"] = {**limits, **{name: round(ratio, 3) for name, ratio in now.items()}}
        FILE.write_text(json.dumps(table, indent=1) + "\n", "utf-8")
        return int(bool(failed))
    if not limits:
        print("there is nothing to compare with: --update writes it")
    return int(bool(bad or failed or not limits))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted; everything is cleaned up")
