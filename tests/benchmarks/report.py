"""The figures of many runs, as JSON and for the screen."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tests.benchmarks.quiet import LIMIT
from tests.benchmarks.runs import Run

T = TypeVar("T")
ENOUGH = 3
"""Quiet runs, beside which the others are void."""


@dataclass(frozen=True)
class Column:
    """Of a table: the value named ``key``, times ``scale``, in ``form``."""

    title: str
    key: str
    scale: float = 1.0
    form: str = ".1f"


@dataclass(frozen=True)
class Kind:
    """A sort of measurement, whose rows share their columns. The first column is what is compared."""

    name: str
    columns: tuple[Column, ...]


CPU = (Column("CPU s/GB tx", "cpu_tx", form=".2f"), Column("rx", "cpu_rx", form=".2f"))
BULK = Kind("bulk", (Column("MB/s", "rate", 1e-6), *CPU, Column("lost", "lost", form=".2%")))
SMALL = Kind(
    "small messages",
    (
        Column("messages/s", "messages", form=",.0f"),
        Column("age p50 ms", "age_p50", 1e3, ".2f"),
        Column("p99 ms", "age_p99", 1e3, ".2f"),
        Column("CPU us each tx", "each_tx", 1e6),
        Column("rx", "each_rx", 1e6),
    ),
)
PINGPONG = Kind("ping-pong", (Column("p50 us", "p50", 1e6, ".0f"), Column("p99 us", "p99", 1e6, ".0f")))
SETUP = Kind(
    "set-up",
    (
        Column("p50 ms", "p50", 1e3, ".2f"),
        Column("p99 ms", "p99", 1e3, ".2f"),
        Column("answered p50 ms", "answered_p50", 1e3, ".2f"),
    ),
)
CAST = Kind(
    "one message to 50",
    (
        Column("100 B: all have it p50 ms", "p50", 1e3, ".2f"),
        Column("1 MiB: MB/s in all", "rate", 1e-6),
    ),
)
IDLE = Kind(
    "idle peers",
    (
        Column("KiB a peer", "memory"),
        Column("idle, of a core", "idle", form=".2%"),
        Column("of a quiet core", "idle_when_quiet", form=".2%"),
        Column("all connected s", "connect", form=".2f"),
    ),
)
LINK = Kind(
    "link",
    (
        Column("of the link", "utilisation", form=".1%"),
        Column("p95 RTT/base", "rtt_p95", form=".2f"),
        Column("median", "rtt_median", form=".2f"),
        Column("dropped by the queue", "dropped_queue", form=".2%"),
    ),
)
SHARE = Kind(
    "beside another flow",
    (Column("CUBIC keeps", "share", form=".0%"), Column("link used", "wire", form=".1%")),
)
AGE = Kind(
    "100 B beside 16 MiB",
    (Column("age p99 ms", "age_p99", 1e3), Column("max ms", "age_max", 1e3), Column("late", "late", form=".1%")),
)


def summary(
    row: str, place: str, kind: Kind, who: str, runs: Sequence[Run], tls: Sequence[Run], **facts: Any
) -> dict[str, Any]:
    """One line of the report.

    Args:
        runs: its own.
        tls: those of TLS over TCP, one beside each.
        facts: what else is to stand in it.
    """
    good = enough_of([run for run in runs if not run.error], lambda run: run.slow <= LIMIT)
    keys = [column.key for column in kind.columns]
    values = {key: [run.values[key] for run in good if key in run.values] for key in keys}
    main = keys[0]
    both = [
        (mine, its)
        for mine, its in zip(runs, tls, strict=False)
        if not mine.error and not its.error and its.values.get(main) and main in mine.values
    ]
    counted = enough_of(both, lambda pair: max(pair[0].slow, pair[1].slow) <= LIMIT)
    pairs = [mine.values[main] / its.values[main] for mine, its in counted]
    return {
        "row": row,
        "place": place,
        "kind": kind.name,
        "who": who,
        **facts,
        "median": {key: statistics.median(each) for key, each in values.items() if each},
        "lowest": {key: min(each) for key, each in values.items() if each},
        "highest": {key: max(each) for key, each in values.items() if each},
        "of_tls": statistics.median(pairs) if pairs else None,
        "noisy": sum(run.slow > LIMIT for run in runs),
        "void": len([run for run in runs if not run.error]) - len(good),
        "failed": [run.error for run in runs if run.error],
        "notes": sorted({run.note for run in good if run.note}),
        "runs": [{**run.values, "machine": run.slow, "error": run.error, "details": run.details} for run in runs],
    }


def enough_of(all_of_them: Sequence[T], quiet: Callable[[T], bool]) -> Sequence[T]:
    """Those that count: the quiet ones, if they are enough for a median; else all, which the report then says."""
    good = [one for one in all_of_them if quiet(one)]
    return good if len(good) >= ENOUGH else all_of_them


def together(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One report of several, each of other rows: a measurement in parts. Of a row measured twice the later counts."""
    measured: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in reports:
        for name in dict.fromkeys((row["row"], row["place"]) for row in one["rows"]):
            measured[name] = [row for row in one["rows"] if (row["row"], row["place"]) == name]
    return {
        "machine": reports[-1]["machine"],
        "runs": min(one["runs"] for one in reports),
        "quick": any(one["quick"] for one in reports),
        "skipped": {what: why for one in reports for what, why in one["skipped"].items()},
        "rows": [row for rows in measured.values() for row in rows],
    }


def machine(quiet: float) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cpus": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "spin_ms": quiet * 1e3,
    }


def lined_up(lines: Sequence[Sequence[str]], left: Sequence[int]) -> list[str]:
    """Cells under each other; those of the columns ``left`` begin at the left."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def cells(row: Mapping[str, Any], kind: Kind) -> list[str]:
    def shown(which: str, column: Column) -> str:
        value = row[which].get(column.key)
        return "-" if value is None else format(value * column.scale, column.form)

    first, *others = kind.columns
    notes = [] if row["encrypted"] else ["in clear text"]
    if row["noisy"]:
        notes.append(f"{row['noisy']} of {len(row['runs'])} runs {'void' if row['void'] else 'NOT QUIET'}")
    notes += [f"FAILED {row['failed'].count(error)} x: {error}" for error in sorted(set(row["failed"]))]
    return [
        f"  {row['who']}",
        *(shown(which, first) for which in ("median", "lowest", "highest")),
        "-" if row["of_tls"] is None else f"{row['of_tls']:.2f}",
        *(shown("median", column) for column in others),
        "; ".join([*notes, *row["notes"]]),
    ]


def table(rows: Sequence[Mapping[str, Any]], kinds: Mapping[str, Kind]) -> str:
    """All measurements, those of one row and place together."""
    text: list[str] = []
    for name, place in dict.fromkeys((row["row"], row["place"]) for row in rows):
        these = [row for row in rows if (row["row"], row["place"]) == (name, place)]
        kind = kinds[these[0]["kind"]]
        first, *others = kind.columns
        head = [f"{name}: {place}", first.title, "lowest", "highest", "x TLS", *(each.title for each in others), ""]
        lines = [head, *(cells(row, kind) for row in these)]
        text += [*lined_up(lines, (0, len(head) - 1)), ""]
    return "\n".join(text)


def aims_table(aims: Sequence[Mapping[str, str]]) -> str:
    """The last part of the report."""
    head = ["measure", "aim", "stretch", "measured", "reached", "stretch reached"]
    return "\n".join(lined_up([head, *([aim[key] for key in head] for aim in aims)], range(len(head))))


def footer(facts: Mapping[str, Any], runs: int) -> str:
    load = "" if facts["load"] is None else f", load {facts['load']:.2f}"
    return (
        f"medians of {runs} interleaved runs, lowest, highest; x TLS: the median of the ratios of runs side by side\n"
        f"{facts['cpus']} CPUs, {facts['system']}, Python {facts['python']}{load}; a run is quiet if a piece of work "
        f"beside it took at most {LIMIT} times as long as the fastest ({facts['spin_ms']:.1f} ms);\n"
        f"others are void where at least {ENOUGH} were quiet, elsewhere counted all the same and flagged"
    )
