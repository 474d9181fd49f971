"""What is measured: a list of rows. One more is one more entry."""

from __future__ import annotations

import argparse
import contextlib
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial

from tests.benchmarks import aims, link_rows
from tests.benchmarks.adapters.base import Adapter
from tests.benchmarks.cast import cast
from tests.benchmarks.crowd import measure as crowd
from tests.benchmarks.link import Shape, why_no_link
from tests.benchmarks.places import LOOPBACK, Place, ethernet, why_no_ethernet
from tests.benchmarks.report import AGE, BULK, CAST, IDLE, LINK, PINGPONG, SETUP, SHARE, SMALL, Kind
from tests.benchmarks.runs import Run, conduct
from tests.benchmarks.workloads import MIB, Task

Make = Callable[[int], Run]
"""One run, of this seed."""


@dataclass(frozen=True)
class Context:
    """What rows need.

    Attributes:
        adapters: those that are asked for and can be used: name to module and adapter.
        certificate: path of a file.
        quick: whether everything is to be shorter.
        named: whether the libraries were asked for by name.
    """

    adapters: Mapping[str, tuple[str, Adapter]]
    certificate: str
    quick: bool
    named: bool = False


@dataclass(frozen=True)
class Row:
    """Something to measure.

    Attributes:
        group: how it is chosen on the command line.
        name: as in the tables.
        place: a name in ``PLACES``, or of a place that the row makes for itself.
        entrants: who is measured, and how.
    """

    group: str
    name: str
    place: str
    kind: Kind
    entrants: Callable[[Context, Place | None], dict[str, Make]]


@dataclass(frozen=True)
class Somewhere:
    """A place that can be gone to.

    Attributes:
        why_not: why there is none; empty if there is.
        enter: makes it, for as long as it is needed; None if rows make it anew for each run.
    """

    why_not: Callable[[], str]
    enter: Callable[[], AbstractContextManager[Place]] | None = None


PLACES: dict[str, Somewhere] = {
    "veth": Somewhere(why_no_ethernet, ethernet),
    "loopback": Somewhere(lambda: "", lambda: contextlib.nullcontext(LOOPBACK)),
    "veth, 1 % loss": Somewhere(lambda: why_no_ethernet(1.0), lambda: ethernet(1.0)),
    "veth, 5 % loss": Somewhere(lambda: why_no_ethernet(5.0), lambda: ethernet(5.0)),
}


# --- the workloads of workloads.py ---


def with_each(task: Task, peers: str, context: Context, place: Place | None) -> dict[str, Make]:
    """Every library that can do this, there.

    Args:
        peers: when those from PyPI are measured too: ``"always"``; ``"long"`` unless all is to be quick; ``"asked"`` if
            they are asked for by name.
    """
    assert place is not None
    if context.quick:
        task = replace(task, seconds=task.seconds / 2)

    def make(adapter: tuple[str, Adapter], seed: int) -> Run:
        return conduct(adapter, replace(task, seed=seed), place, context.certificate)

    return {
        name: partial(make, (module, adapter))
        for name, (module, adapter) in context.adapters.items()
        if (adapter.workloads is None or task.workload in adapter.workloads)
        and (adapter.reliable or not place.loss)
        and (adapter.standard or peers == "always" or context.named or (peers == "long" and not context.quick))
    }


def workload(group: str, name: str, place: str, kind: Kind, task: Task, peers: str = "long") -> Row:
    """A row that every library can be in."""
    return Row(group, name, place, kind, partial(with_each, task, peers))


# --- one message to many peers ---


def casts(context: Context, place: Place | None) -> dict[str, Make]:
    assert place is not None
    return {
        name: partial(cast, context.adapters[name], place, context.certificate)
        for name in (aims.FAST, aims.PLAIN, aims.TLS)
        if name in context.adapters
    }


# --- silence ---


def crowds(context: Context, place: Place | None) -> dict[str, Make]:
    """Many peers that say nothing."""
    guests = 50 if context.quick else 100

    def make(adapter: Adapter, seed: int) -> Run:
        try:
            figures = crowd(guests, adapter.options["backend"], 0.1, False, 60.0)
        except (TimeoutError, RuntimeError) as error:
            return Run(error=str(error))
        values = {key: getattr(figures, key) for key in ("memory", "idle", "idle_when_quiet", "connect")}
        return Run(values, error="; ".join(figures.lost), details={"guests": guests, "work": figures.work})

    names = [name for name in (aims.FAST, aims.PLAIN) if name in context.adapters]
    return {name: partial(make, context.adapters[name][1]) for name in names[: 1 if context.quick else 2]}


# --- links with a rate, a delay and a queue: link_rows.py makes one anew for each run ---

MBIT, RTT = 50, 40
Take = Callable[[str, argparse.Namespace, str, bool, int], Run]
"""One run of link_rows.py: for a name that it knows, its options, the certificate, whether to be quick, the seed."""
LINK_NAMES = {aims.FAST: "srmudp", aims.PLAIN: "srmudp", aims.TLS: "tls"}


def on_link(
    who: Sequence[str],
    take: Take,
    context: Context,
    _: Place | None,
) -> dict[str, Make]:
    """``take`` for each of them; srmudp with pycryptodome alone only where there is nothing else."""

    def make(name: str, seed: int) -> Run:
        config = context.adapters[name][1].options if LINK_NAMES[name] == "srmudp" else {}
        options = argparse.Namespace(config=dict(config), series=False)
        try:
            run = take(LINK_NAMES[name], options, context.certificate, context.quick, seed + 1)
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            return Run(error=str(error) or repr(error))
        return run

    there = [name for name in who if name in context.adapters]
    return {name: partial(make, name) for name in there if name != aims.PLAIN or aims.FAST not in there}


def alone(shape: Shape, seconds: float, always: bool = False) -> Take:
    """One flow; for so long even if all is to be quick if that is part of what is asked: ``always``."""

    def take(kind: str, options: argparse.Namespace, certificate: str, quick: bool, seed: int) -> Run:
        row = link_rows.alone(kind, shape, seconds / 2 if quick and not always else seconds, certificate, options, seed)
        values = {key: row[key] for key in ("utilisation", "dropped_queue")}
        values |= {"rtt_p95": row["rtt"]["p95_of_base"], "rtt_median": row["rtt"]["median_of_base"]}
        return Run(values, details=row)

    return take


def beside_cubic(shape: Shape, seconds: float) -> Take:
    """Which of the two is first alternates from run to run."""

    def take(kind: str, options: argparse.Namespace, certificate: str, quick: bool, seed: int) -> Run:
        kinds = ("tcp", kind) if seed % 2 else (kind, "tcp")
        for_so_long = seconds / 2 if quick else seconds
        row = link_rows.beside(kinds, shape, certificate, options, seconds=for_so_long, seed=seed)
        share = row["shares"][kinds.index("tcp")] * row["wire"]
        return Run({"share": share, "wire": row["wire"]}, details=row)

    return take


def beside_large(shape: Shape, seconds: float) -> Take:
    def take(kind: str, options: argparse.Namespace, certificate: str, quick: bool, seed: int) -> Run:
        row = link_rows.small(shape, seconds / 2 if quick else seconds, options, seed)
        ages = row["age_ms"]
        late = row["over_limit"] / max(1, row["came"])
        values = {"age_p99": ages["p99"] / 1e3, "age_max": ages["max"] / 1e3, "late": late}
        return Run(values, details=row)

    return take


def link_row(name: str, place: str, kind: Kind, take: Take, tls: bool = False) -> Row:
    who = (aims.FAST, aims.PLAIN, *((aims.TLS,) if tls else ()))
    PLACES[place] = Somewhere(why_no_link)
    return Row("link", name, place, kind, partial(on_link, who, take))


TRANSFERS = [
    workload("bulk", aims.LARGE, "veth", BULK, Task("bulk", 16 * MIB, 0.7), "asked"),
    workload("bulk", aims.LARGE, "loopback", BULK, Task("bulk", 16 * MIB, 0.7), "asked"),
    workload("bulk", aims.MEDIUM, "veth", BULK, Task("bulk", 64 * 1024, 0.7), "always"),
    workload("bulk", aims.MEDIUM, "loopback", BULK, Task("bulk", 64 * 1024, 0.5)),
    workload("loss", aims.LOSS, "veth, 1 % loss", BULK, Task("bulk", MIB, 1.2, 10.0)),
    workload("loss", aims.LOSS, "veth, 5 % loss", BULK, Task("bulk", MIB, 1.2, 10.0)),
    workload("small", aims.SMALL, "veth", SMALL, Task("small", 100, 0.7), "asked"),
    workload("small", aims.SMALL, "loopback", SMALL, Task("small", 100, 0.7)),
    workload("ping-pong", aims.PINGPONG, "veth", PINGPONG, Task("pingpong", 100, 0.5), "asked"),
    workload("ping-pong", aims.PINGPONG, "loopback", PINGPONG, Task("pingpong", 100, 0.5), "always"),
    workload("set-up", aims.SETUP, "loopback", SETUP, Task("setup", 100, 1.0)),
]
OTHERS = [
    Row("cast", "one message to 50 peers", "loopback", CAST, casts),
    Row("idle", "idle peers", "loopback", IDLE, crowds),
]
of = partial(Shape.of, MBIT, RTT)
LINKS = [
    link_row(aims.LINK_LOSS, "50 Mbit/s, 40 ms", LINK, alone(of(1), 8)),
    link_row(aims.LINK_LOSS, "50 Mbit/s, 40 ms, 1 %", LINK, alone(of(1, 1), 8), tls=True),
    link_row(aims.LINK_LOSS, "50 Mbit/s, 40 ms, 5 %", LINK, alone(of(1, 5), 8)),
    link_row(aims.LINK_QUEUE, "50 Mbit/s, 40 ms", LINK, alone(of(4), 30, always=True)),
    link_row(aims.BESIDE, "50 Mbit/s, 40 ms, 1 BDP", SHARE, beside_cubic(of(1), 12)),
    link_row(aims.BESIDE, "50 Mbit/s, 40 ms, 4 BDP", SHARE, beside_cubic(of(4), 12)),
    link_row("100 B beside 16 MiB", "50 Mbit/s, 40 ms", AGE, beside_large(of(1), 8)),
]
ROWS: list[Row] = [*TRANSFERS, *OTHERS, *LINKS]
KINDS = {kind.name: kind for kind in (BULK, SMALL, PINGPONG, SETUP, CAST, IDLE, LINK, SHARE, AGE)}
