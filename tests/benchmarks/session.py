"""All runs of a command: which libraries and places there are, the interleaving, the report."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from tests.benchmarks import aims, report
from tests.benchmarks.adapters.base import Adapter
from tests.benchmarks.places import Place, make_certificate
from tests.benchmarks.quiet import Spinner
from tests.benchmarks.rows import PLACES, Context, Make, Row
from tests.benchmarks.runs import Quiet, Run, adapters

SPARE = 60.0
"""Seconds for each round of runs that may go into making some again on a quieter machine."""

HOPELESS = 2
"""Failures, and nothing else, after which another library is not tried again in a row."""


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
    return Context(chosen, certificate, options.quick, bool(options.only)), skipped


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
                if self.hopeless(row, who):
                    continue
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

    def hopeless(self, row: Row, who: str) -> bool:
        """Whether another library has failed so often that its next failure tells nothing new."""
        failures = [made.error for made in self.runs[row, who]]
        return len(failures) >= HOPELESS and all(failures) and not who.startswith("srmudp")

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


def measure(options: argparse.Namespace, rows: Sequence[Row]) -> dict[str, Any]:
    """Measure these rows; all that is to be known about them.

    Args:
        options: ``runs``, ``only``, ``own``, ``quick`` and ``once`` of the command.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C does: by way of every "finally"
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    with contextlib.ExitStack() as stack:
        certificate = make_certificate(stack.enter_context(tempfile.TemporaryDirectory()))
        context, skipped = choose(options, certificate)
        places: dict[str, Place] = {}
        for name in dict.fromkeys(row.place for row in rows):
            somewhere = PLACES[name]
            reason = somewhere.why_not()
            if reason:
                skipped[name] = reason
                rows = [row for row in rows if row.place != name]
            elif somewhere.enter is not None:
                places[name] = stack.enter_context(somewhere.enter())
        for what, why in skipped.items():
            print(f"left out: {what}: {why}", file=sys.stderr)
        spinner = stack.enter_context(Spinner())
        session = Session(options, context, Quiet(spinner, 0.0 if options.once else SPARE * options.runs))
        session.enter(rows, places)
        session.measure()
        measured = session.rows()
        return {
            "machine": report.machine(spinner.quiet),
            "runs": options.runs,
            "quick": options.quick,
            "skipped": skipped,
            "rows": measured,
            "aims": aims.judge(measured),
        }
