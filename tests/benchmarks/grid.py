"""Congestion control in virtual time, over a grid of links: ``python -m tests.benchmarks.grid`` from a checkout.

Each cell is one bottleneck (rate, RTT, loss by chance each way, queue in products of rate and RTT, 10 datagrams at the
least) with srmudp alone, or with a second flow that begins after a tenth of the time: another one of ours, a CUBIC or a
Reno sender of TCP's kind. Ours is the real code without cipher and sockets; see :mod:`tests.bottleneck`. The figures
depend on nothing but the code and the seed: the machine's speed does not matter.

``--aims`` runs only the cells that have an aim and exits with 1 if one is missed; ``--quick`` a tenth of the grid. With
``--rate``, ``--rtt``, ``--loss``, ``--queue`` and ``--kind`` (lists with commas) any part of it. ``--plots FOLDER``
draws rate, RTT and queue of every cell that is run (needs matplotlib: ``pip install 'srmudp[bench]'``).

The columns: *util* what reached the receiver, start-up included, of what the link carries; *late* the same in the
second half; *start* seconds until the link carried 90 % of its rate for one RTT; *p95 RTT* in base RTTs; *queue* mean
and p95 of what a datagram waits; *drops* of what was sent, found the queue full; *again* bytes sent a second time, of
all; *other* what the second flow got of what both got after a quarter of the time (of two of ours: the weaker one).

Slow links are simulated for 30 s, fast ones for less (the column *s*), but never for fewer than 40 round trips.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Literal, get_args

from srmudp.protocol.cubic import Cubic
from tests.bottleneck import MBIT, SEGMENT, Bottleneck, Clock, Flow, Ours, Reno, Tcp, fairness, percentile, rate
from tests.bottleneck import rtts_between as rtts

Kind = Literal["alone", "two", "cubic", "reno"]
KINDS: tuple[Kind, ...] = get_args(Kind)
RATES = (1.0, 10.0, 100.0, 1000.0)
RTTS = (1.0, 20.0, 80.0, 200.0)
LOSSES = (0.0, 1.0, 5.0)
QUEUES = (0.5, 1.0, 4.0)
POINTS = 400
"""Of a plot."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One run: Mbit/s, milliseconds, per cent, products of rate and RTT."""

    kind: Kind
    rate: float
    rtt: float
    loss: float
    queue: float
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """For files and lines."""
        return f"{self.kind}-{self.rate:g}mbit-{self.rtt:g}ms-{self.loss:g}loss-{self.queue:g}bdp"


@dataclass
class Series:
    """A cell over time, in POINTS equal steps: Mbit/s and ms of each flow, ms of queue."""

    step: float
    rates: list[list[float]]
    rtts: list[list[float | None]]
    queue: list[float]


@dataclass
class Result:
    """What a cell showed; the head of this module says what the words mean. Seconds and shares."""

    cell: Cell
    utilisation: float
    late: float
    startup: float | None
    rtt_median: float
    rtt_p95: float
    base_rtt: float
    queue_mean: float
    queue_p95: float
    drops: float
    again: float
    other: float | None
    jain: float | None
    cpu: float
    series: Series | None = field(default=None, repr=False)

    @property
    def inflation(self) -> float:
        """The p95 of the RTT in base RTTs."""
        return self.rtt_p95 / self.base_rtt


@dataclass(frozen=True, slots=True)
class Aim:
    """What a cell must show: an attribute of its result, and the least (or the most) that will do."""

    words: str
    cell: Cell
    attribute: Literal["utilisation", "inflation", "other"]
    bound: float

    def reached(self, value: float) -> bool:
        """Whether that will do."""
        return value <= self.bound if self.attribute == "inflation" else value >= self.bound


AIMS = (
    Aim("1 % loss: at least 85 % of the link", Cell("alone", 50, 40, 1, 1, 30), "utilisation", 0.85),
    Aim("5 % loss: at least 70 % of the link", Cell("alone", 50, 40, 5, 1, 30), "utilisation", 0.70),
    Aim("4 BDP of queue: p95 RTT at most 1.5 x base", Cell("alone", 50, 40, 0, 4, 30), "inflation", 1.5),
    Aim("CUBIC keeps at least 25 %, 1 BDP", Cell("cubic", 50, 40, 0, 1, 30), "other", 0.25),
    Aim("CUBIC keeps at least 25 %, 4 BDP", Cell("cubic", 50, 40, 0, 4, 30), "other", 0.25),
    Aim("two of ours: the weaker has 30 %, 1 BDP", Cell("two", 50, 40, 0, 1, 30), "other", 0.30),
    Aim("two of ours: the weaker has 30 %, 4 BDP", Cell("two", 50, 40, 0, 4, 30), "other", 0.30),
)


def duration(cell: Cell) -> float:
    """Virtual seconds a cell is given unless ``--seconds`` says otherwise: what the fast ones cost is bounded."""
    if cell.rate >= 1000:
        return max(3.0 if cell.kind == "alone" else 8.0, 0.04 * cell.rtt)
    if cell.rate >= 100:
        return 10.0 if cell.rtt < 10 else 20.0
    return 30.0


def run(cell: Cell, *, series: bool = False, seed: int = 1) -> Result:
    """Simulate one cell."""
    began, seconds = time.process_time(), cell.seconds
    clock = Clock()
    link = Bottleneck(
        clock, rate=cell.rate * MBIT, rtt=cell.rtt / 1000, queue=cell.queue, loss=cell.loss / 100, seed=seed
    )
    ours = Ours(clock, link)
    flows: list[Ours | Tcp] = [ours]
    if cell.kind == "two":
        flows.append(Ours(clock, link, start=seconds / 10, seed="the second"))
    elif cell.kind != "alone":
        controller = Cubic(SEGMENT) if cell.kind == "cubic" else Reno(SEGMENT)
        flows.append(Tcp(clock, link, controller, start=seconds / 10))
    clock.run(seconds)

    other = jain = None
    if len(flows) == 2:
        got = [rate(flow, seconds / 4, seconds) for flow in flows]
        weaker = min(got) if cell.kind == "two" else got[1]
        other, jain = weaker / (sum(got) or 1.0), fairness(got)
    waits = link.queue_between(0.0, seconds)
    samples = rtts(ours, 0.0, seconds)
    sent = sum(link.sent.values())
    return Result(
        cell,
        utilisation=sum(rate(flow, 0.0, seconds) for flow in flows) / link.rate,
        late=sum(rate(flow, seconds / 2, seconds) for flow in flows) / link.rate,
        startup=link.busy_since(0.9, max(link.rtt, 20 * SEGMENT / link.rate)),
        rtt_median=percentile(samples, 0.5),
        rtt_p95=percentile(samples, 0.95),
        base_rtt=link.base_rtt,
        queue_mean=sum(waits) / len(waits),
        queue_p95=percentile(waits, 0.95),
        drops=sum(link.dropped.values()) / sent,
        again=sum(flow.retransmitted for flow in flows) / (sent * SEGMENT),
        other=other,
        jain=jain,
        cpu=time.process_time() - began,
        series=over_time(flows, link, seconds) if series else None,
    )


def over_time(flows: Sequence[Flow], link: Bottleneck, seconds: float) -> Series:
    """The run in equal steps of time."""
    step = seconds / POINTS
    rates, delays = [], []
    for flow in flows:
        reached = [0] * POINTS
        before = 0
        for when, total in flow.log:
            if when < seconds:
                reached[int(when / step)] += total - before
                before = total
        rates.append([value / step / MBIT for value in reached])
        found: list[list[float]] = [[] for _ in range(POINTS)]
        for when, rtt in flow.rtts:
            if when < seconds:
                found[int(when / step)].append(rtt * 1000)
        delays.append([sum(values) / len(values) if values else None for values in found])
    waits = [0.0] * POINTS
    for when, wait, _ in link.waits:
        if when < seconds:
            waits[int(when / step)] = max(waits[int(when / step)], wait * 1000)
    return Series(step, rates, delays, waits)


# --- the command


def numbers(text: str) -> tuple[float, ...]:
    """A list with commas."""
    return tuple(float(part) for part in text.split(","))


def chosen(options: argparse.Namespace) -> list[Cell]:
    """The cells asked for, the longest first."""
    if options.aims:
        cells = [aim.cell for aim in AIMS]
    else:
        cells = []
        rates, trips, queues = options.rate or RATES, options.rtt or RTTS, options.queue or QUEUES
        for kind in options.kind or KINDS:
            # Beside another flow it is the queue that matters; loss by chance would hide it.
            losses = options.loss or (LOSSES if kind == "alone" else (0.0,))
            cells += [Cell(kind, *values) for values in product(rates, trips, losses, queues)]
        if options.quick:
            cells = [cell for number, cell in enumerate(cells) if number % 10 == 3 and cell.rate < 1000]
        elif not (options.rate or options.rtt or options.loss or options.queue or options.kind):
            cells += [aim.cell for aim in AIMS]
    timed = [
        Cell(cell.kind, cell.rate, cell.rtt, cell.loss, cell.queue, options.seconds or cell.seconds or duration(cell))
        for cell in cells
    ]
    return sorted(timed, key=lambda cell: -cell.rate * cell.seconds)


HEAD = (
    "            Mbit/s    ms  loss   BDP |   s |  util  late  start | p95 RTT  queue mean    p95 |"
    "  drops   again | other"
)


def line(result: Result) -> str:
    """A row of the table."""
    cell = result.cell
    start = "   never" if result.startup is None else f"{result.startup:6.2f} s"
    other = "" if result.other is None else f"{result.other:6.1%}"
    waits = f"{result.queue_mean * 1000:8.1f} ms {result.queue_p95 * 1000:6.1f}"
    return (
        f"{cell.kind:>8} {cell.rate:>9g} {cell.rtt:>5g} {cell.loss:>4g}% {cell.queue:>5g} | {cell.seconds:3.0f} |"
        f" {result.utilisation:5.1%} {result.late:5.1%} {start} | {result.inflation:5.2f} x {waits} |"
        f" {result.drops:6.2%} {result.again:7.2%} | {other}"
    )


def summary(results: Sequence[Result]) -> list[str]:
    """Worst and median of each kind, loss and queue."""
    lines = []
    groups: dict[tuple[Kind, float, float], list[Result]] = {}
    for result in results:
        groups.setdefault((result.cell.kind, result.cell.loss, result.cell.queue), []).append(result)
    for (kind, loss, queue), group in sorted(groups.items(), key=lambda item: (KINDS.index(item[0][0]), *item[0][1:])):
        util, late = [r.utilisation for r in group], [r.late for r in group]
        text = (
            f"{kind:>6} {loss:g} % loss {queue:>3g} BDP, {len(group):2} cells: util worst {min(util):.1%} median"
            f" {statistics.median(util):.1%}, late {min(late):.1%} {statistics.median(late):.1%}, p95 RTT worst"
            f" {max(r.inflation for r in group):.2f} median {statistics.median(r.inflation for r in group):.2f},"
            f" drops worst {max(r.drops for r in group):.1%} median {statistics.median(r.drops for r in group):.2%}"
        )
        others = [r.other for r in group if r.other is not None]
        if others:
            text += f", other worst {min(others):.1%} median {statistics.median(others):.1%}"
        lines.append(text)
    return lines


def judge(results: Iterable[Result]) -> tuple[list[str], bool]:
    """What became of the aims whose cells were run, and whether all were reached."""
    lines, good = [], True
    found = {r.cell: r for r in results}
    for aim in AIMS:
        result = found.get(aim.cell)
        if result is not None:
            value = getattr(result, aim.attribute)
            reached = aim.reached(value)
            good = good and reached
            lines.append(f"{'reached' if reached else 'MISSED '}  {value:6.3f}  {aim.words} (50 Mbit/s, 40 ms)")
    return lines, good


def work(task: tuple[Cell, bool, int]) -> Result:
    """In a process of its own."""
    cell, series, seed = task
    return run(cell, series=series, seed=seed)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.grid", description=__doc__.split("\n\n")[0])
    for option, text in (("rate", "Mbit/s"), ("rtt", "ms"), ("loss", "per cent"), ("queue", "BDP")):
        parser.add_argument(f"--{option}", type=numbers, help=f"{text}, a list with commas")
    parser.add_argument("--kind", type=lambda text: tuple(text.split(",")), help="of alone,two,cubic,reno")
    parser.add_argument("--seconds", type=float, help="virtual seconds of each cell")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="processes; 1 is this one")
    parser.add_argument("--aims", action="store_true", help="only the cells with an aim")
    parser.add_argument("--quick", action="store_true", help="a tenth of the cells, up to 100 Mbit/s")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plots", type=Path, metavar="FOLDER")
    options = parser.parse_args(arguments)
    if not set(options.kind or ()) <= set(KINDS):
        parser.error(f"--kind is of {', '.join(KINDS)}")
    if options.plots and importlib.util.find_spec("matplotlib") is None:
        print("--plots needs matplotlib: pip install 'srmudp[bench]'", file=sys.stderr)
        return 2
    cells = chosen(options)
    began = time.monotonic()
    print(HEAD, flush=True)
    results: list[Result] = []
    tasks = [(cell, options.plots is not None, options.seed) for cell in cells]
    with contextlib.ExitStack() as stack:
        found: Iterable[Result] = map(work, tasks)
        if options.jobs > 1:
            pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(options.jobs, maxtasksperchild=8))
            found = pool.imap_unordered(work, tasks)
        for result in found:
            results.append(result)
            print(line(result), flush=True)
            if options.plots:
                from tests.benchmarks import plots

                plots.draw(result, options.plots)
                result.series = None
    results.sort(key=lambda r: (KINDS.index(r.cell.kind), r.cell.rate, r.cell.rtt, r.cell.loss, r.cell.queue))
    print()
    print("\n".join(summary(results)))
    lines, good = judge(results)
    if lines:
        print("\n" + "\n".join(lines))
    print(f"\n{len(results)} cells, {sum(r.cpu for r in results):.0f} s of CPU, {time.monotonic() - began:.0f} s")
    if options.plots and len(results) > 1:
        from tests.benchmarks import plots

        plots.overview(results, options.plots)
    if options.json:
        rows = [asdict(result) | {"inflation": result.inflation} for result in results]
        options.json.write_text(json.dumps({"seed": options.seed, "results": rows}, indent=1) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
