"""What is measured over rate-limited links, one function a row; ``python -m tests.benchmarks.link`` runs them.

Every row makes a link and both ends anew, begins when all ends are connected, and returns a plain dict. Utilisation is
payload a second by the rate of the link (bytes of IP packets a second); "wire" counts the headers, acknowledgements
excepted, and what was sent again. RTTs are those of small datagrams every 20 ms beside the flow; the queue is what the
emulator saw. TCP is the kernel's, with CUBIC unless told otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

from tests.benchmarks.link import (
    ROOT,
    LinkPlace,
    Shape,
    bytes_of,
    link,
    quantile,
    queue_of,
    unwind_on_signals,
    why_no_link,
)
from tests.benchmarks.places import make_certificate
from tests.benchmarks.quiet import LIMIT, Spinner

Row = dict[str, Any]
CONNECT = 0.2
"""Seconds from when all ends stand to when they begin."""


class End:
    """A process at one end of a link."""

    def __init__(self, place: LinkPlace, kind: str, role: str, job: dict[str, Any]) -> None:
        enter = place.enter_tx if role == "tx" else place.enter_rx
        command = [*enter, sys.executable, "-m", "tests.benchmarks.link_ends", kind, role, json.dumps(job)]
        self._what = f"{kind} {role}"
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def hear(self) -> dict[str, Any]:
        """Its next line."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._what} has failed")
        value: dict[str, Any] = json.loads(line)
        return value

    def begin(self, begin: float, end: float) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"begin": begin, "end": end}) + "\n")
        self.process.stdin.flush()

    def stop(self) -> dict[str, Any]:
        """Its result; ``rx`` only ends by this."""
        result = self.hear() if self._what.endswith("tx") else {}
        assert self.process.stdin is not None
        self.process.stdin.close()
        if not result:
            result = self.hear()
        self.process.wait(20)
        return result

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class Flow:
    """Both ends of a flow; ``begin`` and ``end`` are absolute."""

    def __init__(self, stack: contextlib.ExitStack, place: LinkPlace, kind: str, number: int, **fields: Any) -> None:
        ports = 9200 + 2 * number, 9201 + 2 * number
        self.kind = kind
        self._names = {"udp": f"udp {ports[0]} {ports[1]}", "tcp": f"tcp {ports[0]} {ports[1]}"}
        job = {"tx": (place.tx, ports[0]), "rx": (place.rx, ports[1]), "seed": number, **fields}
        self.rx = End(place, kind, "rx", job)
        stack.callback(self.rx.kill)
        self.rx.hear()
        self.tx = End(place, kind, "tx", job)
        stack.callback(self.tx.kill)
        self.tx.hear()

    def stop(self) -> dict[str, Any]:
        """What both ends and the link saw of it, and an error if content was wrong."""
        tx = self.tx.stop()
        rx = self.rx.stop()
        if rx.get("wrong"):
            raise RuntimeError(f"{self.kind}: {rx['wrong']} chunks differ from what was sent")
        return {"tx": tx, "rx": rx}

    def on(self, way: dict[str, Any]) -> dict[str, Any]:
        """Of the link's account, this flow's part."""
        name = self._names["tcp" if self.kind in ("tls", "tcp") else "udp"]
        empty = {"packets": 0, "bytes": 0, "dropped_queue": 0, "dropped_loss": 0, "bins": []}
        flow: dict[str, Any] = way["flows"].get(name, empty)
        return flow


def received(result: dict[str, Any], begin: float, end: float) -> int:
    """Bytes of payload in a span."""
    return sum(count for when, count in result["rx"]["series"] if begin <= when < end)


def rates(flow: dict[str, Any], way: dict[str, Any], begin: float, end: float) -> list[float]:
    """Mbit/s on the wire in each second."""
    whole = int(end - begin + 0.5)
    return [round(bytes_of(flow, way, begin + s, begin + s + 1) * 8e-6, 2) for s in range(whole)]


def trips_of(trips: Sequence[float], base: float) -> dict[str, float]:
    """Round-trip times in ms, and the median and p95 in multiples of ``base`` seconds."""
    median, p95 = quantile(trips, 0.5), quantile(trips, 0.95)
    return {
        "median_ms": median * 1e3,
        "p95_ms": p95 * 1e3,
        "p99_ms": quantile(trips, 0.99) * 1e3,
        "max_ms": max(trips, default=0.0) * 1e3,
        "median_of_base": median / base,
        "p95_of_base": p95 / base,
    }


def fields_of(kind: str, certificate: str, options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The kind of the ends' processes, and what they are told, for ``srmudp``, ``tls``, ``tls bbr``, ``tcp``."""
    name, _, congestion = kind.partition(" ")
    if name == "srmudp":
        return name, {"config": {**options.config, **({"congestion": congestion} if congestion else {})}}
    fields: dict[str, Any] = {"congestion": congestion or "cubic"}
    return name, {**fields, "certificate": certificate} if name == "tls" else fields


# --- rows ---


def alone(kind: str, shape: Shape, seconds: float, certificate: str, options: argparse.Namespace, seed: int = 1) -> Row:
    """One bulk flow by itself, start-up included."""
    base = 2 * shape.delay
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(link(shape, replace(shape, queue=inf), seed=seed))
        name, fields = fields_of(kind, certificate, options)
        flow = Flow(stack, place, name, 0, **fields)
        pings = Flow(stack, place, "ping", 9)
        begin = place.reset() + CONNECT
        end = begin + seconds
        for one in (flow, pings):
            one.tx.begin(begin, end)
        time.sleep(max(0.0, end - time.monotonic()))
        report = place.report()
        result, echo = flow.stop(), pings.stop()
    way = report["forth"]
    mine = flow.on(way)
    bits = shape.rate * seconds
    whole, half = received(result, begin, end), received(result, begin + seconds / 2, end)
    offered = mine["packets"] + mine["dropped_queue"] + mine["dropped_loss"]
    ninety = time_to(result, begin, 0.9 * half / (seconds / 2))
    row = {
        "row": "alone",
        "kind": kind,
        "shape": {"mbit": shape.rate / 1e6, "rtt_ms": base * 1e3, "queue": shape.queue, "loss": shape.loss},
        "seconds": seconds,
        "utilisation": whole * 8 / bits,
        "utilisation_late": half * 16 / bits,
        "wire": (mine["bytes"]) * 8 / bits,
        "seconds_to_90": ninety,
        "rtt": trips_of([trip for _, trip in echo["tx"]["trips"]], base),
        "pings_lost": 1 - len(echo["tx"]["trips"]) / max(1, echo["tx"]["sent"]),
        "queue_ms": queue_of(way, begin, end),
        "dropped_queue": mine["dropped_queue"] / max(1, offered),
        "dropped_loss": mine["dropped_loss"] / max(1, offered),
        "packets_back": sum(one["packets"] for one in report["back"]["flows"].values()),
        "wire_mbit": rates(mine, way, begin, end),
        "queue_by_second_ms": [queue_of(way, begin + s, begin + s + 1)["p95"] for s in range(int(seconds))],
        "cpu_tx": result["tx"]["cpu"] / seconds,
        "cpu_rx": result["rx"]["cpu"] / seconds,
        "emulator": report["emulator"],
        "stats": {key: value for key, value in result["tx"].items() if key not in ("cpu", "trips")},
    }
    if options.series:
        row["series"] = {
            "begin": begin,
            "link": report,
            "received": result["rx"]["series"],
            "pings": echo["tx"]["trips"],
        }
    return row


def time_to(result: dict[str, Any], begin: float, rate: float) -> float | None:
    """Seconds from ``begin`` until, over a fifth of a second, so many bytes a second were received."""
    window = 0.2
    series = result["rx"]["series"]
    for index, (when, _) in enumerate(series):
        got = sum(count for at, count in series[index:] if at < when + window)
        if when >= begin and got >= rate * window:
            return float(when + window - begin)
    return None


def beside(
    kinds: Sequence[str],
    shape: Shape,
    certificate: str,
    options: argparse.Namespace,
    *,
    stagger: float = 4.0,
    seconds: float = 20.0,
    seed: int = 1,
) -> Row:
    """Flows that share the link, each begun ``stagger`` seconds after the one before; ``seconds`` from the last.

    Shares are of the bytes on the wire.
    """
    base = 2 * shape.delay
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(link(shape, replace(shape, queue=inf), seed=seed))
        flows = []
        for number, kind in enumerate(kinds):
            name, fields = fields_of(kind, certificate, options)
            flows.append(Flow(stack, place, name, number, **fields))
        first = place.reset() + CONNECT
        begin = first + stagger * (len(flows) - 1)
        end = begin + seconds
        for number, flow in enumerate(flows):
            flow.tx.begin(first + number * stagger, end)
        time.sleep(max(0.0, end - time.monotonic()))
        report = place.report()
        results = [flow.stop() for flow in flows]
    way = report["forth"]
    mine = [flow.on(way) for flow in flows]
    counts = [bytes_of(one, way, begin, end) for one in mine]
    late = [bytes_of(one, way, end - seconds / 2, end) for one in mine]
    return {
        "row": "beside",
        "kinds": list(kinds),
        "shape": {"mbit": shape.rate / 1e6, "rtt_ms": base * 1e3, "queue": shape.queue, "loss": shape.loss},
        "seconds": seconds,
        "shares": [count / max(1, sum(counts)) for count in counts],
        "shares_late": [count / max(1, sum(late)) for count in late],
        "payload_mbit": [received(result, begin, end) * 8e-6 / seconds for result in results],
        "wire": sum(counts) * 8 / shape.rate / seconds,
        "queue_ms": queue_of(way, begin, end),
        "dropped_queue": [one["dropped_queue"] / max(1, one["packets"] + one["dropped_queue"]) for one in mine],
        "wire_mbit": [rates(one, way, first, end) for one in mine],
        "queue_by_second_ms": [queue_of(way, first + s, first + s + 1)["p95"] for s in range(int(end - first))],
        "emulator": report["emulator"],
    }


def small(shape: Shape, seconds: float, options: argparse.Namespace, seed: int = 1) -> Row:
    """100-byte messages every 50 ms on a channel of their own, while 16 MiB messages are in flight on another one."""
    base = 2 * shape.delay
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(link(shape, replace(shape, queue=inf), seed=seed))
        fields = {"small": True, "chunk": 16 * 1024 * 1024, "interval": 0.05, "config": options.config}
        flow = Flow(stack, place, "srmudp", 0, **fields)
        begin = place.reset() + CONNECT
        end = begin + seconds
        flow.tx.begin(begin, end)
        time.sleep(max(0.0, end - time.monotonic()))
        report = place.report()
        result = flow.stop()
    way = report["forth"]
    ages, trips = result["rx"]["ages"], result["tx"]["trips"]
    limit = 2 * base + 0.010
    return {
        "row": "small",
        "kind": "srmudp",
        "shape": {"mbit": shape.rate / 1e6, "rtt_ms": base * 1e3, "queue": shape.queue, "loss": shape.loss},
        "seconds": seconds,
        "sent": int(seconds / 0.05),
        "came": len(ages),
        "age_ms": {
            "median": quantile(ages, 0.5) * 1e3,
            "p99": quantile(ages, 0.99) * 1e3,
            "max": max(ages, default=inf) * 1e3,
        },
        "rtt": trips_of(trips, base),
        "limit_ms": limit * 1e3,
        "over_limit": sum(age > limit for age in ages),
        "wire": flow.on(way)["bytes"] * 8 / shape.rate / seconds,
        "queue_ms": queue_of(way, begin, end),
        "emulator": report["emulator"],
    }


def plan(certificate: str, options: argparse.Namespace) -> dict[str, Callable[[int], Row]]:
    """All rows by name; each takes a seed."""
    rows: dict[str, Callable[[int], Row]] = {}
    of = Shape.of

    def add_alone(name: str, kind: str, shape: Shape, seconds: float) -> None:
        rows[f"{name} {kind}"] = lambda seed: alone(kind, shape, seconds, certificate, options, seed)

    def add_beside(name: str, kinds: Sequence[str], shape: Shape) -> None:
        rows[name] = lambda seed: beside(kinds, shape, certificate, options, seconds=2 * options.seconds, seed=seed)

    kinds = ["srmudp", *(("tls",) if certificate else ())]
    for loss in (0, 1, 5):
        for kind in kinds:
            add_alone(f"loss {loss}%", kind, of(50, 40, 1, loss), options.seconds)
    for kind in kinds:
        add_alone("4 BDP 30 s", kind, of(50, 40, 4), 3 * options.seconds)
    for bdps in (1, 4):
        add_beside(f"cubic first {bdps} BDP", ("tcp", "srmudp"), of(50, 40, bdps))
        add_beside(f"cubic second {bdps} BDP", ("srmudp", "tcp"), of(50, 40, bdps))
        add_beside(f"cubic twice {bdps} BDP", ("tcp", "tcp"), of(50, 40, bdps))
        add_beside(f"two of ours {bdps} BDP", ("srmudp", "srmudp"), of(50, 40, bdps))
    rows["small beside 16 MiB"] = lambda seed: small(of(50, 40, 1), 1.5 * options.seconds, options, seed)
    for mbit, rtt in ((10, 20), (100, 80)):
        for kind in kinds:
            add_alone(f"{mbit} Mbit/s {rtt} ms", kind, of(mbit, rtt, 1), options.seconds)
    return rows


# --- the command ---


def cells(name: str, row: Row) -> list[str]:
    """Of one row, for the screen."""
    if "error" in row:
        return [name, f"FAILED: {row['error']}"]
    queue = row["queue_ms"]
    if row["row"] == "alone":
        start = row["seconds_to_90"]
        text = (
            f"{row['utilisation']:6.1%} of the link ({row['utilisation_late']:.1%} in the second half, "
            f"wire {row['wire']:.1%}), "
            f"RTT/base median {row['rtt']['median_of_base']:.2f} p95 {row['rtt']['p95_of_base']:.2f}, "
            f"dropped by the queue {row['dropped_queue']:.2%}, "
            f"90 % after {'-' if start is None else format(start, '.2f')} s"
        )
    elif row["row"] == "beside":
        shares = " : ".join(f"{kind} {share:.0%}" for kind, share in zip(row["kinds"], row["shares"], strict=True))
        late = " : ".join(f"{share:.0%}" for share in row["shares_late"])
        text = f"{shares} (second half {late}), wire {row['wire']:.1%}, queue mean {queue['mean']:.0f} ms"
    else:
        age, rtt = row["age_ms"], row["rtt"]
        text = (
            f"age median {age['median']:.1f} p99 {age['p99']:.1f} max {age['max']:.1f} ms, there and back max "
            f"{rtt['max_ms']:.1f} ms, {row['over_limit']} of {row['came']} over {row['limit_ms']:.0f} ms, "
            f"wire {row['wire']:.1%}"
        )
    noise = (
        f", machine {row['machine']:.2f}" + ("" if row["machine"] <= LIMIT else " NOT QUIET")
        if "machine" in row
        else ""
    )
    return [name, text + noise]


@contextlib.contextmanager
def certificate_file() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        yield make_certificate(folder)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    first, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.link",
        description=first,
        epilog=rest + "\n``--check [MBIT [RTT_MS]]`` measures the emulator itself instead.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="*", default=[], metavar="TEXT", help="rows whose name contains one of these")
    parser.add_argument("--runs", type=int, default=1, metavar="N", help="of each row, interleaved (default 1)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of the short rows (default %(default)s)")
    parser.add_argument("--config", type=json.loads, default={}, metavar="JSON", help="fields of srmudp's Config")
    parser.add_argument("--series", action="store_true", help="keep the series of rate, queue and RTT in the JSON")
    parser.add_argument("--json", metavar="FILE", help="write everything there too; - is standard output")
    parser.add_argument("--list", action="store_true", help="name the rows and end")
    parser.add_argument(
        "--link",
        nargs=5,
        action="append",
        default=[],
        metavar=("KIND", "MBIT", "RTT_MS", "BDP", "LOSS"),
        help="a bulk flow alone over a link of your own: KIND is srmudp, tls or tcp, or 'tls bbr' and the like",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    reason = why_no_link()
    if reason:
        print(f"no links: {reason}", file=sys.stderr)
        return 1
    unwind_on_signals()
    with certificate_file() as certificate, Spinner() as spinner:
        rows = plan(certificate, options)
        if options.link:
            rows = {}
            for kind, *numbers in options.link:
                shape = Shape.of(*map(float, numbers))
                rows[" ".join((kind, *numbers))] = lambda seed, kind=kind, shape=shape: alone(  # type: ignore[misc]
                    kind, shape, options.seconds, certificate, options, seed
                )
        rows = {name: row for name, row in rows.items() if not options.only or any(t in name for t in options.only)}
        if options.list:
            print("\n".join(rows))
            return 0
        results: dict[str, list[Row]] = {name: [] for name in rows}
        for number in range(options.runs):
            for name, make in rows.items():
                before = spinner.measure()
                try:
                    row = make(number + 1)
                except (RuntimeError, subprocess.TimeoutExpired) as error:
                    row = {"error": str(error)}
                row["machine"] = max(before, spinner.measure()) / spinner.quiet
                results[name].append(row)
                print("  ".join(cells(name.ljust(24), row)), flush=True)
    middles = {name: medians(runs) for name, runs in results.items()}
    if options.runs > 1:
        print(f"medians of {options.runs} runs:")
        for name, values in middles.items():
            print(f"{name:<24}", ", ".join(f"{key} {value:.3f}" for key, value in values.items()))
    report = {"rows": {name: {"runs": runs, "medians": middles[name]} for name, runs in results.items()}}
    if options.json == "-":
        print(json.dumps(report))
    elif options.json:
        Path(options.json).write_text(json.dumps(report) + "\n")
    return int(any("error" in row for runs in results.values() for row in runs))


def medians(runs: Sequence[Row]) -> dict[str, float]:
    """Of the figures that aims are about."""
    picks: dict[str, Callable[[Row], float]] = {
        "utilisation": lambda row: row["utilisation"],
        "utilisation_late": lambda row: row["utilisation_late"],
        "wire": lambda row: row["wire"],
        "rtt_median": lambda row: row["rtt"]["median_of_base"],
        "rtt_p95": lambda row: row["rtt"]["p95_of_base"],
        "dropped_queue": lambda row: row["dropped_queue"],
        "share_first": lambda row: row["shares"][0],
        "share_second": lambda row: row["shares"][1],
        "age_p99_ms": lambda row: row["age_ms"]["p99"],
        "age_max_ms": lambda row: row["age_ms"]["max"],
    }
    result: dict[str, float] = {}
    for name, pick in picks.items():
        with contextlib.suppress(KeyError, TypeError, statistics.StatisticsError):
            result[name] = statistics.median(pick(row) for row in runs if "error" not in row)
    return result
