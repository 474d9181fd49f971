"""How fast bulk data goes, beside what bounds it: ``python -m tests.benchmarks.bulk`` from a checkout.

Rows: srmudp with ``cryptography`` (the extra ``fast``), srmudp with pycryptodome alone, raw UDP with segmentation
offload (no reliability, no secrecy: the roof), and TLS 1.3 over TCP by the standard library. Each end is a process of
its own. Places: loopback, and, as root, a pair of virtual Ethernet devices of MTU 1500 between two network namespaces
that are made for the run and removed at its end, also when it is interrupted.

Everything received is checked by SHA-256. The runs of all rows are interleaved; medians are reported, and ratios of
runs that stood side by side. Beside each run a fixed piece of work is timed on two cores: a run on a machine that was
not quiet is made again, a few times at most, and flagged if that does not help.

``--loss PERCENT`` drops single datagrams at random in both directions (virtual Ethernet only, TCP too): nftables on
input, with segmentation offload switched off on the sending side, since a rule would otherwise drop 44 datagrams at
once.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.places import LOOPBACK, Place, ethernet, free_ports, run, why_no_ethernet
from tests.benchmarks.quiet import LIMIT, Spinner

ROOT = Path(__file__).resolve().parent.parent.parent
MIB = 1024 * 1024
ATTEMPTS = 3
"""Runs at most for one that is to be quiet."""
PORTS = (9100, 9101)


@dataclass(frozen=True)
class Row:
    """What is measured."""

    name: str
    kind: str
    backend: str = "auto"
    why_not: str = ""


@dataclass
class Run:
    """One transfer.

    Attributes:
        rate: bytes a second, from the first ``send`` to the last byte read.
        spin: seconds that the piece of work took beside it.
        slow: the same by what it takes at the quietest.
    """

    rate: float = 0.0
    spin: float = 0.0
    slow: float = 0.0
    error: str = ""
    details: dict[str, Any] = field(default_factory=dict)


# --- TLS ---


def make_certificate(folder: str) -> str:
    """Path of a file with a fresh key and its certificate; empty if nothing here can make one."""
    path = os.path.join(folder, "bench.pem")
    if shutil.which("openssl"):
        key = os.path.join(folder, "key.pem")
        command = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        run(*command, "-keyout", key, "-out", path, "-days", "2", "-subj", "/CN=bench")
        with open(path, "a") as file:
            file.write(Path(key).read_text())
        return path
    if importlib.util.find_spec("cryptography") is None:
        return ""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bench")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .sign(private, hashes.SHA256())
    )
    pem, pkcs8, plain = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    Path(path).write_bytes(private.private_bytes(pem, pkcs8, plain) + certificate.public_bytes(pem))
    return path


# --- one run ---


def transfer(row: Row, place: Place, options: argparse.Namespace, certificate: str, seed: int) -> Run:
    """Move the data once."""
    ports = PORTS if place.enter_tx else free_ports()
    job = {
        "tx": (place.tx, ports[0]),
        "rx": (place.rx, ports[1]),
        "size": round(options.size * MIB),
        "messages": options.messages,
        "backend": row.backend,
        "limit": options.limit,
        "certificate": certificate,
        "seed": seed,
    }
    with contextlib.ExitStack() as stack:

        def start(role: str, enter: tuple[str, ...]) -> subprocess.Popen[str]:
            command = [*enter, sys.executable, "-m", "tests.benchmarks.ends", row.kind, role, json.dumps(job)]
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
            stack.callback(end, process)
            return process

        rx = start("rx", place.enter_rx)
        assert rx.stdout is not None
        if not rx.stdout.readline():
            return Run(error="the receiver did not start")
        tx = start("tx", place.enter_tx)
        try:
            sent, received = (
                json.loads(process.communicate(timeout=options.limit + 60)[0].splitlines()[-1]) for process in (tx, rx)
            )
        except (subprocess.TimeoutExpired, IndexError) as error:
            return Run(error=f"an end failed: {error!r}")
    seconds = received["end"] - sent["begin"]
    total = job["size"] * options.messages
    result = Run(received["bytes"] / seconds, details={"seconds": seconds, "tx": sent, "rx": received})
    if received["bytes"] != total:
        result.details["incomplete"] = True
        if row.kind == "srmudp":
            result.error = f"{received['bytes']} of {total} bytes"
    elif received["sha256"] != sent["sha256"]:
        result.error = "SHA-256 differs"
    return result


def end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()
        process.communicate()


def quiet_transfer(spinner: Spinner, make: Callable[[], Run]) -> Run:
    """The quietest of up to ``ATTEMPTS`` runs; the first quiet one if there is one."""
    best: Run | None = None
    for _ in range(ATTEMPTS):
        before = spinner.measure()
        result = make()
        result.spin = max(before, spinner.measure())
        result.slow = result.spin / spinner.quiet
        if best is None or (result.slow < best.slow and not result.error) or best.error:
            best = result
        if best.slow <= LIMIT and not best.error:
            break
    assert best is not None
    return best


# --- the whole ---


def rows_of(certificate: str, loss: float) -> list[Row]:
    no_fast = "" if importlib.util.find_spec("cryptography") else "cryptography is not installed"
    no_udp = "it repeats nothing" if loss else "" if sys.platform.startswith("linux") else "Linux only"
    no_tls = "" if certificate else "neither openssl nor cryptography is here to make a certificate"
    return [
        Row("srmudp, fast", "srmudp", "cryptography", no_fast),
        Row("srmudp, pycryptodome", "srmudp", "pycryptodome"),
        Row("raw UDP with GSO", "udp", why_not=no_udp),
        Row("TLS 1.3 over TCP", "tls", why_not=no_tls),
    ]


def measure(options: argparse.Namespace, places: Sequence[Place], certificate: str) -> dict[str, Any]:
    """All runs, interleaved: of every row and place one, then the next of each."""
    rows = rows_of(certificate, options.loss)
    runs: dict[tuple[str, str], list[Run]] = {}
    with Spinner() as spinner:
        for number in range(options.runs):
            for place in places:
                for row in (row for row in rows if not row.why_not):
                    result = quiet_transfer(spinner, partial(transfer, row, place, options, certificate, number))
                    runs.setdefault((place.name, row.name), []).append(result)
                    rate = result.error or f"{result.rate / 1e6:.1f} MB/s"
                    print(
                        f"  run {number + 1}/{options.runs}  {place.name:<26} {row.name:<22} {rate:>14}"
                        f"  machine {result.slow:.2f}",
                        file=sys.stderr,
                    )
        for results in runs.values():  # the quietest moment may have come last
            for result in results:
                result.slow = result.spin / spinner.quiet
        return {
            "machine": {
                "cpus": os.cpu_count(),
                "kernel": platform.release(),
                "python": platform.python_version(),
                "load": os.getloadavg() if hasattr(os, "getloadavg") else None,
                "spin_ms": spinner.quiet * 1e3,
            },
            "size_mib": options.size,
            "messages": options.messages,
            "loss": options.loss,
            "skipped": {row.name: row.why_not for row in rows if row.why_not},
            "rows": [summary(place, row, runs) for place in places for row in rows if not row.why_not],
        }


def summary(place: Place, row: Row, runs: dict[tuple[str, str], list[Run]]) -> dict[str, Any]:
    results = runs[place.name, row.name]
    good = [result for result in results if not result.error]
    rates = [result.rate for result in good]

    def against(name: str) -> float | None:
        others = runs.get((place.name, name), [])
        pairs = [mine.rate / its.rate for mine, its in zip(results, others, strict=False) if mine.rate and its.rate]
        return statistics.median(pairs) if pairs else None

    def cpu(end: str) -> float | None:
        each = [result.details[end]["cpu"] / result.details["rx"]["bytes"] * 1e9 for result in good]
        return statistics.median(each) if each else None

    lost = [result.details["tx"] for result in good if result.details["tx"].get("datagrams")]
    return {
        "place": place.name,
        "row": row.name,
        "median": statistics.median(rates) if rates else None,
        "lowest": min(rates, default=None),
        "highest": max(rates, default=None),
        "of_udp": against("raw UDP with GSO"),
        "of_tls": against("TLS 1.3 over TCP"),
        "cpu_tx_s_per_gb": cpu("tx"),
        "cpu_rx_s_per_gb": cpu("rx"),
        "lost": statistics.median(tx["lost"] / tx["datagrams"] for tx in lost) if lost else None,
        "mtu": good[-1].details["tx"].get("mtu") if good else None,
        "noisy": sum(result.slow > LIMIT for result in results),
        "failed": [result.error for result in results if result.error],
        "runs": [{"rate": result.rate, "machine": result.slow, **result.details} for result in results],
    }


def table(report: dict[str, Any]) -> str:
    """For the screen."""

    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    head = ("place", "row", "MB/s", "lowest", "highest", "x UDP", "x TLS", "CPU s/GB tx", "rx", "lost", "notes")
    lines = [head]
    for row in report["rows"]:
        notes = [f"{row['noisy']} of {len(row['runs'])} runs not quiet"] if row["noisy"] else []
        notes += [f"FAILED: {error}" for error in row["failed"]]
        if any(one.get("incomplete") for one in row["runs"]):
            notes.append("stopped at the time limit")
        rates = [number(row[key] and row[key] / 1e6, ".1f") for key in ("median", "lowest", "highest")]
        ratios = [number(row[key], ".2f") for key in ("of_udp", "of_tls", "cpu_tx_s_per_gb", "cpu_rx_s_per_gb")]
        lines.append((row["place"], row["row"], *rates, *ratios, number(row["lost"], ".2%"), "; ".join(notes)))
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = [
        "  ".join(
            cell.ljust(width) if column in (0, 1, len(head) - 1) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    machine = report["machine"]
    runs = max((len(row["runs"]) for row in report["rows"]), default=0)
    text.append(
        f"medians of {runs} interleaved runs of {report['messages']} messages of {report['size_mib']:g} MiB; "
        f"{machine['cpus']} CPUs, Linux {machine['kernel']}, Python {machine['python']}; "
        f"quiet: {machine['spin_ms']:.1f} ms, a run is quiet up to {LIMIT} times that"
    )
    text += [f"skipped: {name}: {why}" for name, why in report["skipped"].items()]
    return "\n".join(text)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    first, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.bulk",
        description=first,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", type=float, default=16.0, metavar="MIB", help="of one message (default %(default)s)")
    parser.add_argument("--messages", type=int, default=12, metavar="N", help="in a run (default %(default)s)")
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="of each row (default %(default)s)")
    parser.add_argument("--loss", type=float, default=0.0, metavar="PERCENT", help="of single datagrams each way")
    parser.add_argument(
        "--limit", type=float, default=30.0, metavar="SECONDS", help="for one run (default %(default)s)"
    )
    parser.add_argument("--json", metavar="FILE", help="write everything there too; - is standard output")
    options = parser.parse_args(arguments)
    if not 0 <= options.loss < 100 or options.size < 0.01 or options.messages < 1 or options.runs < 1:
        parser.error("--loss is a percentage below 100, the others are positive")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C does: by way of every "finally"
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    with contextlib.ExitStack() as stack:
        places: list[Place] = []
        reason = why_no_ethernet(options.loss)
        if reason:
            print(f"no rows over virtual Ethernet: {reason}", file=sys.stderr)
        else:
            places.append(stack.enter_context(ethernet(options.loss)))
        if not options.loss:
            places.append(LOOPBACK)
        if not places:
            print("--loss needs virtual Ethernet: nothing to do", file=sys.stderr)
            return 1
        certificate = make_certificate(stack.enter_context(tempfile.TemporaryDirectory()))
        report = measure(options, places, certificate)
    print(table(report))
    if options.json == "-":
        print(json.dumps(report))
    elif options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    return int(any(row["failed"] for row in report["rows"]))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted; everything is cleaned up")
