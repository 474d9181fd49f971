"""Bulk data beside a thread that computes: ``python -m tests.benchmarks.busy`` from a checkout.

Python lets a thread that computes go on for 5 ms before another one has its turn, so that every wake-up and every timer
of srmudp is 5 to 12 ms late. Two processes, one sends to the other for some seconds; such a thread runs in neither, in
the sender, in the receiver, in both. Shown: the rate, the datagrams that the sender took for lost (of those it sent),
those that the receiver's system threw away since its buffer was full, and what became of the connection. Exits with 1
if a connection died, something was not delivered, or a thread caused a loss of more than 1 %.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from srmudp import Config, Delivery, MultiHolepunchSocket
from srmudp.config import MAX_MTU
from tests.benchmarks.places import LOOPBACK, Place, ethernet, free_ports, why_no_ethernet

ROOT = Path(__file__).resolve().parent.parent.parent
MIB = 1024 * 1024
PORTS = (9102, 9103)
CONNECT = 30.0
OUTSTANDING = 16
"""Messages that are on their way at a time."""
LOSS_BOUND = 0.01
"""Of the datagrams sent, what a thread that computes may cause to be sent again."""
USUAL_BUFFER = 212_992
"""What net.core.rmem_max usually allows of the 4 MiB that srmudp asks for."""
CASES = ("neither", "sender", "receiver", "both")
"""Where the thread that computes is."""
BAD = ("lost", "reconnected", "refused", "peer_changed")
"""Events that must not happen."""

Backend = Literal["cryptography", "pycryptodome"]


@dataclass(frozen=True)
class Job:
    """What an end is asked to do; sent to it as JSON."""

    role: str
    ours: tuple[str, int]
    theirs: tuple[str, int]
    backend: Backend
    busy: bool
    seconds: float
    size: int
    """Bytes of a message."""
    mtu: int
    """The largest datagram tried."""
    buffer: int
    """Bytes that the system is asked to keep for the socket, in each direction."""


@dataclass
class Result:
    """What one transfer was like.

    Attributes:
        rate: bytes a second, from the first ``send`` to the last delivery.
        sent, lost: datagrams, as the sender counted them.
        repeated: datagrams that the receiver had already.
        overflow: datagrams that found the receiver's buffer full; None if the system does not tell.
        bad: what went wrong.
    """

    rate: float
    sent: int
    lost: int
    repeated: int
    overflow: int | None
    rtt: float
    bad: list[str]

    @property
    def loss(self) -> float:
        """The share of datagrams that was taken for lost, or sent again for nothing."""
        return max(self.lost, self.repeated) / max(1, self.sent)


@contextlib.contextmanager
def compute(busy: bool) -> Iterator[None]:
    """Have a thread compute, and never wait for anything, meanwhile."""
    end = threading.Event()

    def work() -> None:
        total = 0
        while not end.is_set():
            for number in range(10_000):
                total += number & 7

    thread = threading.Thread(target=work, daemon=True)
    if busy:
        thread.start()
    try:
        yield
    finally:
        end.set()
        if busy:
            thread.join()


def tell(value: object) -> None:
    print(json.dumps(value), flush=True)


def send(job: Job) -> None:
    """The end that sends: for so many seconds, then until all is delivered."""
    content = random.Random(1).randbytes(job.size)
    events: list[str] = []
    config = Config(backend=job.backend, max_mtu=job.mtu, socket_buffer=job.buffer)
    with (
        MultiHolepunchSocket(job.ours[1], {"peer": job.theirs}, host=job.ours[0], config=config) as sock,
        compute(job.busy),
    ):
        sock.on_event(lambda event: events.append(event.kind.value))
        assert sock.wait_connected("peer", CONNECT), sock.connections_status
        begin = time.monotonic()
        deliveries: list[Delivery] = []
        digest = hashlib.sha256()
        while time.monotonic() < begin + job.seconds:
            if len(deliveries) >= OUTSTANDING:
                deliveries[-OUTSTANDING].wait(CONNECT)
            message = len(deliveries).to_bytes(8, "big") + content[8:]
            deliveries.append(sock.send(message, "peer", timeout=CONNECT))
            digest.update(message)
        end = time.monotonic() + CONNECT
        delivered = sum(delivery.wait(max(0.0, end - time.monotonic())) for delivery in deliveries)
        seconds = time.monotonic() - begin
        status = sock.connections_status["peer"]
        tell(
            {
                "seconds": seconds,
                "messages": len(deliveries),
                "delivered": delivered,
                "sha256": digest.hexdigest(),
                "sent": status.stats.datagrams_sent,
                "lost": status.stats.datagrams_lost,
                "rtt": status.rtt or 0.0,
                "events": events,
            }
        )
        sys.stdin.readline()
        sock.close(0)


def receive(job: Job) -> None:
    """The end that receives, until it is told that this was all."""
    events: list[str] = []
    config = Config(backend=job.backend, max_mtu=job.mtu, socket_buffer=job.buffer)
    with (
        MultiHolepunchSocket(job.ours[1], {"peer": job.theirs}, host=job.ours[0], config=config) as sock,
        compute(job.busy),
    ):
        sock.on_event(lambda event: events.append(event.kind.value))
        tell({"ready": True})
        over = threading.Event()

        def wait_for_the_end() -> None:
            sys.stdin.readline()
            over.set()

        threading.Thread(target=wait_for_the_end, daemon=True).start()
        digest, count = hashlib.sha256(), 0
        while not over.is_set():
            message = sock.receive(0.05)
            if message is not None:
                digest.update(message.content)
                count += 1
        repeated = sock.drops.get("replayed", 0) + sock.drops.get("duplicate_segment", 0)
        tell(
            {
                "messages": count,
                "sha256": digest.hexdigest(),
                "repeated": repeated,
                "overflow": overflow(sock.port),
                "events": events,
            }
        )
        sock.close(0)


def overflow(port: int) -> int | None:
    """Datagrams that found the buffer of the socket of this port full (Linux)."""
    total = None
    for name in ("udp", "udp6"):
        with contextlib.suppress(OSError):
            for line in Path("/proc/net", name).read_text().splitlines()[1:]:
                fields = line.split()
                if int(fields[1].rsplit(":", 1)[1], 16) == port:
                    total = (total or 0) + int(fields[-1])
    return total


def transfer(
    backend: Backend,
    case: str,
    place: Place,
    seconds: float,
    size: int,
    mtu: int = MAX_MTU,
    buffer: int = 4 * MIB,
) -> Result:
    """One run between two processes.

    Args:
        case: one of ``CASES``.
        seconds: for how long messages are handed to the sender.
        size: of a message in bytes.
        mtu: the largest datagram tried.
        buffer: bytes that the system is asked to keep for each socket; it may grant less.
    """
    ports = PORTS if place.enter_tx else free_ports()
    ends = (place.tx, ports[0]), (place.rx, ports[1])
    tx_busy, rx_busy = case in ("sender", "both"), case in ("receiver", "both")
    with contextlib.ExitStack() as stack:

        def start(enter: Sequence[str], job: Job) -> subprocess.Popen[str]:
            command = [*enter, sys.executable, "-m", "tests.benchmarks.busy", "--end", json.dumps(asdict(job))]
            process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            stack.callback(stop, process)
            return process

        rx = start(place.enter_rx, Job("rx", ends[1], ends[0], backend, rx_busy, seconds, size, mtu, buffer))
        line(rx)
        tx = start(place.enter_tx, Job("tx", ends[0], ends[1], backend, tx_busy, seconds, size, mtu, buffer))
        sent = line(tx)
        assert rx.stdin is not None
        rx.stdin.write("\n")
        rx.stdin.flush()
        got = line(rx)
        tx.communicate("\n", timeout=CONNECT)
        rx.communicate(timeout=CONNECT)
    events = [f"{who} {kind}" for who, end in (("tx", sent), ("rx", got)) for kind in end["events"]]
    bad = [event for event in events if event.split()[1] in BAD]
    if not sent["messages"] == sent["delivered"] == got["messages"]:
        bad.append(f"{sent['messages']} sent, {sent['delivered']} delivered, {got['messages']} received")
    elif sent["sha256"] != got["sha256"]:
        bad.append("SHA-256 differs")
    rate = sent["delivered"] * size / sent["seconds"]
    return Result(rate, sent["sent"], sent["lost"], got["repeated"], got["overflow"], sent["rtt"], bad)


def line(process: subprocess.Popen[str]) -> Any:
    """The next line of JSON that an end prints."""
    assert process.stdout is not None
    text = process.stdout.readline()
    if not text:
        raise RuntimeError(f"an end of the transfer failed with {process.wait(10)}")
    return json.loads(text)


def stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()
        process.communicate()


def facts() -> str:
    """What the figures depend on."""
    limit = "?"
    with contextlib.suppress(OSError):
        limit = Path("/proc/sys/net/core/rmem_max").read_text().strip()
    load = f", load {os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{os.cpu_count()} CPUs, {platform.system()} {platform.release()}, Python {platform.python_version()}, "
        f"switch interval {sys.getswitchinterval() * 1e3:g} ms, rmem_max {limit}{load}"
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    first, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.busy",
        description=first,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=4.0, metavar="N", help="of each run (default %(default)s)")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="of each case (default %(default)s)")
    parser.add_argument("--size", type=float, default=0.25, metavar="MIB", help="of a message (default %(default)s)")
    parser.add_argument("--backend", choices=("cryptography", "pycryptodome"), help="only this one (default: both)")
    parser.add_argument("--case", choices=CASES, help="only this one (default: all)")
    parser.add_argument("--place", choices=("loopback", "veth"), help="only this one (default: both)")
    parser.add_argument(
        "--buffer",
        type=int,
        default=USUAL_BUFFER,
        metavar="BYTES",
        help="that each socket may fill in the system (default %(default)s, what most Linux systems grant)",
    )
    parser.add_argument("--end", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.seconds <= 0 or options.runs < 1 or options.size < 0.001:
        parser.error("--seconds, --runs and --size are positive")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if options.end is not None:
        fields = json.loads(options.end)
        job = Job(**{**fields, "ours": tuple(fields["ours"]), "theirs": tuple(fields["theirs"])})
        ends: dict[str, Callable[[Job], None]] = {"tx": send, "rx": receive}
        ends[job.role](job)
        return 0
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C does: by way of every "finally"
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    backends: Sequence[Backend]
    backends = ("cryptography", "pycryptodome") if importlib.util.find_spec("cryptography") else ("pycryptodome",)
    failed = False
    with contextlib.ExitStack() as stack:
        places = []
        if options.place != "veth":
            places.append(LOOPBACK)
        if options.place != "loopback":
            reason = why_no_ethernet(0)
            if reason:
                print(f"no rows over virtual Ethernet: {reason}", file=sys.stderr)
            else:
                places.append(stack.enter_context(ethernet(0)))
        print(f"{'place':<16} {'back end':<13} {'busy':<9} {'MB/s':>7} {'lowest':>7} {'highest':>7}", end="")
        print(f" {'loss':>8} {'highest':>8} {'overflow':>8} {'RTT ms':>7}  notes")
        for place in places:
            for backend in backends:
                for case in CASES:
                    if options.backend in (None, backend) and options.case in (None, case):
                        runs = [
                            transfer(
                                backend,
                                case,
                                place,
                                options.seconds,
                                round(options.size * MIB),
                                MAX_MTU,
                                options.buffer,
                            )
                            for _ in range(options.runs)
                        ]
                        failed = show(place.name, backend, case, runs) or failed
    print(facts())
    return int(failed)


def show(place: str, backend: str, case: str, runs: Sequence[Result]) -> bool:
    """Print a row; whether something in it is above its bound."""
    rates = sorted(run.rate / 1e6 for run in runs)
    losses = sorted(run.loss for run in runs)
    bad = [what for run in runs for what in run.bad]
    if case != "neither" and statistics.median(losses) > LOSS_BOUND:
        bad.append(f"more than {LOSS_BOUND:.0%} lost")
    dropped = [run.overflow for run in runs if run.overflow is not None]
    print(
        f"{place:<16} {backend:<13} {case:<9} {statistics.median(rates):7.1f} {rates[0]:7.1f} {rates[-1]:7.1f} "
        f"{statistics.median(losses):8.3%} {losses[-1]:8.3%} {max(dropped) if dropped else '-':>8} "
        f"{statistics.median(run.rtt for run in runs) * 1e3:7.2f}  {'; '.join(f'FAILED: {what}' for what in bad)}",
        flush=True,
    )
    return bool(bad)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted; everything is cleaned up")
