"""Pictures of what :mod:`tests.benchmarks.grid` measured: rate, RTT and queue over time, and the grid at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt

if TYPE_CHECKING:
    from tests.benchmarks.grid import Result

NAMES = {
    "alone": ("srmudp",),
    "two": ("srmudp", "srmudp, second"),
    "cubic": ("srmudp", "CUBIC"),
    "reno": ("srmudp", "Reno"),
}
COLOURS = ("#1f77b4", "#d9730d")
"""Ours is blue; the second flow orange. They differ in brightness too."""


def draw(result: Result, folder: Path) -> Path:
    """One cell over time, as PNG; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    cell, series = result.cell, result.series
    assert series is not None
    times = [(number + 0.5) * series.step for number in range(len(series.queue))]
    figure, (top, middle, bottom) = plt.subplots(3, 1, figsize=(10, 7.5), sharex=True, constrained_layout=True)
    figure.suptitle(
        f"{cell.rate:g} Mbit/s, {cell.rtt:g} ms, {cell.loss:g} % loss by chance, queue of {cell.queue:g} BDP"
        f" (one point: {series.step * 1000:.3g} ms)"
    )
    room = max(cell.queue * cell.rtt, 1000 * 10 * 1452 * 8 / (cell.rate * 1e6))
    for name, colour, rates, rtts in zip(NAMES[cell.kind], COLOURS, series.rates, series.rtts, strict=False):
        top.plot(times, rates, color=colour, linewidth=1.1, label=name)
        found = [(when, value) for when, value in zip(times, rtts, strict=True) if value is not None]
        middle.plot([when for when, _ in found], [value for _, value in found], color=colour, linewidth=1.1, label=name)
    top.axhline(cell.rate, color="0.4", linewidth=0.8, linestyle="--", label="the link")
    top.set_ylabel("arrived, Mbit/s")
    # A record that waits for one lost datagram arrives as a lump: the picture is not scaled by such peaks.
    top.set_ylim(0, 1.5 * cell.rate)
    middle.axhline(result.base_rtt * 1000, color="0.4", linewidth=0.8, linestyle="--", label="base")
    middle.set_ylabel("RTT, ms")
    middle.set_ylim(0, None)
    bottom.fill_between(times, series.queue, color="#7f7f7f", alpha=0.6, linewidth=0, label="longest wait")
    bottom.axhline(room, color="0.4", linewidth=0.8, linestyle="--", label="full")
    bottom.set_ylabel("queue, ms")
    bottom.set_ylim(0, 1.15 * room)
    bottom.set_xlabel(
        f"seconds    (util {result.utilisation:.1%}, p95 RTT {result.inflation:.2f} x base, drops {result.drops:.2%}"
        + (f", the other's share {result.other:.1%})" if result.other is not None else ")")
    )
    bottom.set_xlim(0, cell.seconds)
    for axes in (top, middle, bottom):
        axes.grid(visible=True, color="0.9", linewidth=0.6)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return _save(figure, folder / f"{cell.name}.png")


def overview(results: Sequence[Result], folder: Path) -> list[Path]:
    """One table in colours for each kind of cell: utilisation and RTT, or what the other flow got; PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for kind in dict.fromkeys(result.cell.kind for result in results):
        group = [result for result in results if result.cell.kind == kind]
        tables: list[tuple[str, str, list[tuple[Result, float]], float, float, str]] = [
            ("of the link used, %", "util", [(r, 100 * r.utilisation) for r in group], 0, 100, "RdYlGn"),
            ("p95 RTT, in base RTTs", "rtt", [(r, r.inflation) for r in group], 1, 4, "RdYlGn_r"),
            ("dropped in the queue, % of all sent", "drops", [(r, 100 * r.drops) for r in group], 0, 10, "RdYlGn_r"),
        ]
        if kind != "alone":
            values = [(r, 100 * (r.other or 0.0)) for r in group]
            if kind == "two":
                tables.append(("what the weaker one got, %", "share", values, 0, 50, "RdYlGn"))
            else:  # neither shall starve
                tables.append((f"what {NAMES[kind][1]} got, %", "share", values, 0, 100, "coolwarm"))
        for words, name, found, low, high, colours in tables:
            files.append(_table(f"{kind}: {words}", found, low, high, colours, folder / f"overview-{kind}-{name}.png"))
    return files


def _table(
    title: str, values: Sequence[tuple[Result, float]], low: float, high: float, colours: str, file: Path
) -> Path:
    rows = sorted({(r.cell.rate, r.cell.rtt) for r, _ in values})
    columns = sorted({(r.cell.loss, r.cell.queue) for r, _ in values})
    known = {((r.cell.rate, r.cell.rtt), (r.cell.loss, r.cell.queue)): value for r, value in values}
    numbers = [[known.get((row, column), float("nan")) for column in columns] for row in rows]
    size = (2.6 + 0.75 * len(columns), 1.6 + 0.36 * len(rows))
    figure, axes = plt.subplots(figsize=size, constrained_layout=True)
    picture = axes.imshow(numbers, cmap=colours, vmin=low, vmax=high, aspect="auto")
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xticks(range(len(columns)), [f"{loss:g} %\n{queue:g} BDP" for loss, queue in columns], fontsize=8)
    axes.set_yticks(range(len(rows)), [f"{rate:g} Mbit/s, {rtt:g} ms" for rate, rtt in rows], fontsize=8)
    for row, line in enumerate(numbers):
        for column, value in enumerate(line):
            if value == value:
                # Dark colours at both ends of the scale, light ones between.
                red, green, blue, _ = picture.cmap(picture.norm(value))
                colour = "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.45 else "black"
                text = f"{value:.2f}" if high < 10 else f"{value:.1f}"
                axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    return _save(figure, file)


def _save(figure: Any, file: Path) -> Path:
    figure.savefig(file, dpi=100)
    plt.close(figure)
    return file
