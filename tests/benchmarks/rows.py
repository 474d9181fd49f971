"""What is measured: a list of rows. One more is one more entry."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial

from tests.benchmarks import aims
from tests.benchmarks.adapters.base import Adapter
from tests.benchmarks.cast import cast
from tests.benchmarks.crowd import measure as crowd
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
    """

    adapters: Mapping[str, tuple[str, Adapter]]
    certificate: str
    quick: bool


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
    """

    enter: Callable[[], AbstractContextManager[Place]]
    why_not: Callable[[], str] = field(default=lambda: "")


PLACES: dict[str, Somewhere] = {
    "veth": Somewhere(ethernet, why_no_ethernet),
    "loopback": Somewhere(lambda: contextlib.nullcontext(LOOPBACK)),
    "veth, 1 % loss": Somewhere(lambda: ethernet(1.0), lambda: why_no_ethernet(1.0)),
    "veth, 5 % loss": Somewhere(lambda: ethernet(5.0), lambda: why_no_ethernet(5.0)),
}


# --- the workloads of workloads.py ---


def with_each(task: Task, context: Context, place: Place | None) -> dict[str, Make]:
    """Every library that can do this, there."""
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
        and (context.certificate or name != aims.TLS)
    }


def workload(group: str, name: str, place: str, kind: Kind, task: Task) -> Row:
    return Row(group, name, place, kind, partial(with_each, task))


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
    guests = 50 if context.quick else 200

    def make(adapter: Adapter, seed: int) -> Run:
        try:
            figures = crowd(guests, adapter.options["backend"], 0.1, False, 60.0)
        except (TimeoutError, RuntimeError) as error:
            return Run(error=str(error))
        values = {key: getattr(figures, key) for key in ("memory", "idle", "idle_when_quiet", "connect")}
        return Run(values, error="; ".join(figures.lost), details={"guests": guests, "work": figures.work})

    names = [name for name in (aims.FAST, aims.PLAIN) if name in context.adapters]
    return {name: partial(make, context.adapters[name][1]) for name in names[: 1 if context.quick else 2]}


TRANSFERS = [
    workload("bulk", aims.LARGE, "veth", BULK, Task("bulk", 16 * MIB, 0.7)),
    workload("bulk", aims.LARGE, "loopback", BULK, Task("bulk", 16 * MIB, 0.7)),
    workload("bulk", aims.LARGE, "veth, 1 % loss", BULK, Task("bulk", 16 * MIB, 1.0)),
    workload("bulk", aims.LARGE, "veth, 5 % loss", BULK, Task("bulk", 16 * MIB, 1.5)),
    workload("bulk", aims.MEDIUM, "veth", BULK, Task("bulk", 64 * 1024, 0.7)),
    workload("bulk", aims.MEDIUM, "loopback", BULK, Task("bulk", 64 * 1024, 0.7)),
    workload("small", aims.SMALL, "veth", SMALL, Task("small", 100, 0.7)),
    workload("small", aims.SMALL, "loopback", SMALL, Task("small", 100, 0.7)),
    workload("ping-pong", aims.PINGPONG, "veth", PINGPONG, Task("pingpong", 100, 0.6)),
    workload("ping-pong", aims.PINGPONG, "loopback", PINGPONG, Task("pingpong", 100, 0.6)),
    workload("set-up", aims.SETUP, "loopback", SETUP, Task("setup", 100, 1.0)),
]
OTHERS = [
    Row("cast", "one message to 50 peers", "loopback", CAST, casts),
    Row("idle", "idle peers", "loopback", IDLE, crowds),
]
ROWS: list[Row] = [*TRANSFERS, *OTHERS]
KINDS = {kind.name: kind for kind in (BULK, SMALL, PINGPONG, SETUP, CAST, IDLE, LINK, SHARE, AGE)}
