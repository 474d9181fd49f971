"""How fast srmudp is, beside other libraries on the same machine in the same run: ``python -m tests.benchmarks``.

Measured are bulk data, small messages and their age, round trips, setting up, one message to 50 peers, memory and CPU
time of idle peers: on loopback and, as root, over a pair of virtual Ethernet devices of MTU 1500 between two network
namespaces (made for the run and removed at its end, also when it is interrupted), with and without loss of single
datagrams, and over links with a rate, a delay and a queue.

Each end is a process of its own. What is received is checked by SHA-256. The runs of all rows and libraries are
interleaved; medians are reported, and ratios of runs that stood side by side. Beside each run a fixed piece of work is
timed on two cores: a run on a machine that was not quiet is made again, a few times at most, and flagged if that does
not help. At the end stands what srmudp is to reach, and what was reached.

Exits with 1 if a run of srmudp fails; not if an aim is missed (tests/benchmarks/guard.py watches over ratios).

Libraries that are not installed are left out, with the reason. tests/benchmarks/adapters has a file for each.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks import aims, report
from tests.benchmarks.rows import KINDS, ROWS
from tests.benchmarks.session import measure, wanted

RUNS = 5


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    first, _, rest = (__doc__ or "").partition("\n\n")
    groups = list(dict.fromkeys(row.group for row in ROWS))
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=first,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--rows", nargs="+", default=groups, choices=groups, metavar="ROW", help=f"of {', '.join(groups)}"
    )
    parser.add_argument("--places", nargs="+", default=[], metavar="TEXT", help="with such a text in the name")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="TEXT", help="libraries whose names contain such a text"
    )
    parser.add_argument("--own", action="store_true", help="no libraries from PyPI")
    parser.add_argument("--runs", type=int, metavar="N", help=f"of each row (default {RUNS}, with --quick 1)")
    parser.add_argument("--quick", action="store_true", help="shorter runs, and fewer: a look, not a measurement")
    parser.add_argument("--once", action="store_true", help="make no run again because the machine was not quiet")
    parser.add_argument("--json", metavar="FILE", help="write everything there too; - is standard output")
    parser.add_argument(
        "--together", nargs="+", metavar="FILE", help="measure nothing: show what --json wrote before as one report"
    )
    options = parser.parse_args(arguments)
    options.runs = options.runs or (1 if options.quick else RUNS)
    if options.runs < 1:
        parser.error("--runs is positive")
    return options


def show(made: Mapping[str, Any]) -> None:
    """The report on the screen."""
    print(report.table(made["rows"], KINDS))
    print(report.aims_table(aims.judge(made["rows"])))
    print()
    print(report.footer(made["machine"], made["runs"]))
    for what, why in made["skipped"].items():
        print(f"left out: {what}: {why}")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if options.together:
        show(report.together([json.loads(Path(name).read_text()) for name in options.together]))
        return 0
    rows = [row for row in ROWS if row.group in options.rows and wanted(row.place, options.places)]
    if not rows:
        print("nothing to do", file=sys.stderr)
        return 1
    made = measure(options, rows)
    show(made)
    if options.json == "-":
        print(json.dumps(made))
    elif options.json:
        Path(options.json).write_text(json.dumps(made, indent=1) + "\n")
    return int(any(row["failed"] for row in made["rows"] if row["who"].startswith("srmudp")))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted; everything is cleaned up")
