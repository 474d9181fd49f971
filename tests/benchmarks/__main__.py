"""How fast srmudp is, beside other libraries on the same machine in the same run: ``python -m tests.benchmarks``.

Measured are bulk data, small messages and their age, round trips, setting up, one message to 50 peers, memory and CPU
time of idle peers: on loopback and, as root, over a pair of virtual Ethernet devices of MTU 1500 between two network
namespaces (made for the run and removed at its end, also when it is interrupted), with and without loss of single
datagrams, and over links with a rate, a delay and a queue.

Each end is a process of its own. What is received is checked by SHA-256. The runs of all rows and libraries are
interleaved; medians are reported, and ratios of runs that stood side by side. Beside each run a fixed piece of work is
timed on two cores: a run on a machine that was not quiet is made again, a few times at most, and flagged if that does
not help. At the end stands what srmudp is to reach, and what was reached.

Libraries that are not installed are left out, with the reason. tests/benchmarks/adapters has a file for each.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks import aims, report
from tests.benchmarks.adapters.base import Adapter
from tests.benchmarks.places import Place, make_certificate
from tests.benchmarks.quiet import Spinner
from tests.benchmarks.rows import KINDS, PLACES, ROWS, Context, Make, Row
from tests.benchmarks.runs import Quiet, Run, adapters

RUNS = 5


def choose(options: argparse.Namespace, certificate: str) -> tuple[Context, dict[str, str]]:
    """The libraries to be measured, and why the others are not."""
    chosen: dict[str, tuple[str, Adapter]] = {}
    skipped: dict[str, str] = {}
    for name, (module, adapter) in adapters().items():
        if not wanted(name, options.only) or (options.own and not adapter.standard):
            continue
        why_not = adapter.why_not()
        if not why_not and name == aims.TLS and not certificate:
            why_not = "neither openssl nor cryptography is here to make a certificate"
        if why_not:
            skipped[name] = why_not
        else:
            chosen[name] = (module, adapter)
    return Context(chosen, certificate, options.quick), skipped


def wanted(name: str, texts: Sequence[str]) -> bool:
    """Whether one of the texts is in the name, or none is given."""
    return not texts or any(text.lower() in name.lower() for text in texts)


class Session:
    """All runs of a command."""

    def __init__(self, options: argparse.Namespace, context: Context, quiet: Quiet) -> None:
        self.options, self.context, self.quiet = options, context, quiet
        self.entrants: dict[tuple[Row, str], Make] = {}
        self.runs: dict[tuple[Row, str], list[Run]] = {}

    def enter(self, rows: Sequence[Row], places: dict[str, Place]) -> None:
        """Find out who is measured where."""
        for row in rows:
            for who, make in row.entrants(self.context, places.get(row.place)).items():
                self.entrants[row, who] = make
                self.runs[row, who] = []

    def measure(self) -> None:
        """Of every row and library one run, then the next of each."""
        began = time.monotonic()
        for number in range(self.options.runs):
            for (row, who), make in self.entrants.items():
                made = self.quiet(partial(make, number))
                self.runs[row, who].append(made)
                first = row.kind.columns[0]
                value = made.values.get(first.key)
                shown = made.error or ("-" if value is None else f"{value * first.scale:{first.form}} {first.title}")
                when = f"{time.monotonic() - began:6.0f} s  run {number + 1}/{self.options.runs}"
                what = f"{row.name}: {row.place}"
                print(f"{when}  {what:<28} {who:<24} {shown:>20}  machine {made.slow:.2f}", file=sys.stderr, flush=True)
        for runs in self.runs.values():  # the quietest moment may have come last
            for made in runs:
                made.slow = made.spin / self.quiet.spinner.quiet

    def rows(self) -> list[dict[str, Any]]:
        """For the report."""
        return [
            report.summary(
                row.name, row.place, row.kind, who, runs, self.runs.get((row, aims.TLS), []), **self.facts(who)
            )
            for (row, who), runs in self.runs.items()
        ]

    def facts(self, who: str) -> dict[str, Any]:
        """Of a library."""
        adapter = self.context.adapters[who][1]
        return {"udp": adapter.udp, "encrypted": adapter.encrypted, "version": adapter.version}


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
    options = parser.parse_args(arguments)
    options.runs = options.runs or (1 if options.quick else RUNS)
    if options.runs < 1:
        parser.error("--runs is positive")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C does: by way of every "finally"
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    with contextlib.ExitStack() as stack:
        certificate = make_certificate(stack.enter_context(tempfile.TemporaryDirectory()))
        rows = [row for row in ROWS if row.group in options.rows and wanted(row.place, options.places)]
        context, skipped = choose(options, certificate)
        places: dict[str, Place] = {}
        for name in dict.fromkeys(row.place for row in rows if row.place in PLACES):
            reason = PLACES[name].why_not()
            if reason:
                skipped[name] = reason
                rows = [row for row in rows if row.place != name]
            else:
                places[name] = stack.enter_context(PLACES[name].enter())
        spinner = stack.enter_context(Spinner())
        session = Session(options, context, Quiet(spinner, 0))
        session.enter(rows, places)
        session.quiet.spares = 0 if options.once else options.runs * len(session.entrants) // 2
        for what, why in skipped.items():
            print(f"left out: {what}: {why}", file=sys.stderr)
        session.measure()
    measured = session.rows()
    made = {
        "machine": report.machine(spinner.quiet),
        "runs": options.runs,
        "quick": options.quick,
        "skipped": skipped,
        "rows": measured,
        "aims": aims.judge(measured),
    }
    print(report.table(measured, KINDS))
    print(report.aims_table(made["aims"]))
    print()
    print(report.footer(made["machine"], options.runs))
    for what, why in skipped.items():
        print(f"left out: {what}: {why}")
    if options.json == "-":
        print(json.dumps(made))
    elif options.json:
        Path(options.json).write_text(json.dumps(made, indent=1) + "\n")
    return int(any(row["failed"] for row in measured))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted; everything is cleaned up")
