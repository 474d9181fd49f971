"""A link with a rate, a queue, a delay and loss between two network namespaces, for kernels without ``netem``.

One process reads IP packets from a TUN device in each namespace and writes them to the other one. Each direction is a
:class:`Pipe`: a drop-tail queue of so many bytes, a line of so many bits a second, random loss behind it (a lost packet
has used the line), and propagation. The pipes compute with the time a packet came in, so a late wake-up delays what is
due but never changes the rate or the queue. TCP, UDP and ping pass, so all are measured over the very same link.

``with link(Shape(...)) as place:`` gives a :class:`LinkPlace`; ``python -m tests.benchmarks.link`` runs the rows of
:mod:`tests.benchmarks.link_rows` over such links, and ``--check`` measures the emulator itself. Root is needed. All
that was made is removed at the end, also when it is interrupted.

The rate is counted in bytes of IP packets; the line has no framing of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import gc
import json
import os
import random
import select
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

from tests.benchmarks.places import Place, run

ROOT = Path(__file__).resolve().parent.parent.parent
MTU = 1500
ADDRESSES = ("10.78.0.1", "10.78.0.2")

SAMPLE = 0.002
"""Seconds between two looks at a queue."""
BIN = 0.1
"""Seconds over which forwarded bytes are summed for the series."""
EARLY = 0.00005
"""Packets due in so many seconds go with those due now: a wake-up costs as much as they would be late otherwise."""
READ_BATCH = 64
"""Packets read from one side before looking at the clock again."""
DEVICE_QUEUE = 10_000
"""Packets the device may hold for us while we are not running."""
MOST_FLOWS = 1000
TCP, UDP = 6, 17

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000


@dataclass(frozen=True)
class Shape:
    """One direction of a link.

    Attributes:
        rate: bits a second.
        delay: seconds from the end of the line to the other side.
        queue: bytes that may wait, the packet on the line included; a packet that does not fit is dropped.
        loss: share of the packets lost behind the queue, 0.0 to 1.0.
    """

    rate: float
    delay: float
    queue: float = inf
    loss: float = 0.0

    @classmethod
    def of(cls, mbit: float, rtt_ms: float, bdps: float, loss_percent: float = 0.0) -> Shape:
        """A direction of a symmetric path of this round-trip time, with a queue of so many of its BDP."""
        rate, rtt = mbit * 1e6, rtt_ms / 1e3
        return cls(rate, rtt / 2, max(bdps * rate * rtt / 8, 2 * MTU), loss_percent / 100)


# --- one direction: no clock and no device in it ---


@dataclass
class Flow:
    """What became of the packets of one protocol and pair of ports."""

    packets: int = 0
    bytes: int = 0
    dropped_queue: int = 0
    dropped_loss: int = 0
    bins: Counter[int] = field(default_factory=Counter)
    """Bytes that left the line in each ``BIN`` since the last reset."""


class Pipe:
    """Takes packets, tells when which of them come out, and keeps account. Seconds of any one clock.

    Args:
        shape: rate, delay, queue, loss.
        seed: of the loss; the same packets offered are lost again.
    """

    def __init__(self, shape: Shape, seed: int = 0, now: float = 0.0) -> None:
        self._chance = random.Random(seed).random
        self.waiting: deque[tuple[float, bytes]] = deque()
        """When each packet is due, and the packet; the earliest first."""
        self._busy_until = -inf
        self.set(shape)
        self.reset(now)

    def set(self, shape: Shape) -> None:
        """From now on; what waits already comes as it was to come."""
        self._seconds_per_byte = 8 / shape.rate
        self._longest = shape.queue * self._seconds_per_byte + 1e-9
        self._delay, self._loss = shape.delay, shape.loss

    def reset(self, now: float) -> None:
        """Begin the account anew; packets under way stay."""
        self.begin = self._next_sample = now
        self.flows: dict[bytes, Flow] = {}
        self._samples: list[float] = []

    def offer(self, now: float, packet: bytes) -> None:
        """A packet came at ``now``, which never goes back."""
        if now >= self._next_sample:
            self._sample(now)
        key = packet[9:10] + packet[20:24] if packet[9] in (TCP, UDP) else packet[9:10]
        flow = self.flows.get(key) or self._new_flow(key)
        leaves = self._busy_until if self._busy_until > now else now
        takes = len(packet) * self._seconds_per_byte
        if leaves - now + takes > self._longest:
            flow.dropped_queue += 1
            return
        self._busy_until = leaves = leaves + takes
        if self._loss and self._chance() < self._loss:
            flow.dropped_loss += 1
            return
        flow.packets += 1
        flow.bytes += len(packet)
        flow.bins[int((leaves - self.begin) / BIN)] += len(packet)
        self.waiting.append((leaves + self._delay, packet))

    def _new_flow(self, key: bytes) -> Flow:
        if len(self.flows) >= MOST_FLOWS:
            key = b""
        return self.flows.setdefault(key, Flow())

    def _sample(self, now: float) -> None:
        """The queue at every grid point up to ``now``: between packets it only gets shorter."""
        while self._next_sample <= now:
            self._samples.append(max(0.0, self._busy_until - self._next_sample))
            self._next_sample += SAMPLE

    def report(self, now: float) -> dict[str, Any]:
        """All since the last reset, ready for JSON."""
        self._sample(now)
        flows = {
            flow_name(key): {**asdict(flow), "bins": sorted(flow.bins.items())} for key, flow in self.flows.items()
        }
        return {
            "begin": self.begin,
            "seconds": now - self.begin,
            "queue_s": [round(value, 6) for value in self._samples],
            "flows": flows,
        }


def flow_name(key: bytes) -> str:
    """``udp 9100 9101``: protocol, source port, destination port."""
    if len(key) < 5:
        return "other" if not key else "icmp" if key[0] == 1 else f"protocol {key[0]}"
    source, destination = struct.unpack(">HH", key[1:5])
    return f"{'tcp' if key[0] == TCP else 'udp'} {source} {destination}"


# --- the process that carries packets ---


class Lateness:
    """How late packets were written."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.count = self.over = 0
        self.total = self.worst = 0.0
        self.cpu, self.since = time.process_time(), time.monotonic()

    def note(self, late: float) -> None:
        self.count += 1
        self.total += late
        if late > 0.001:
            self.over += 1
        if late > self.worst:
            self.worst = late

    def report(self) -> dict[str, float]:
        count = max(self.count, 1)
        return {
            "late_mean_ms": self.total / count * 1e3,
            "late_over_1_ms": self.over / count,
            "late_worst_ms": self.worst * 1e3,
            "cpu": (time.process_time() - self.cpu) / max(time.monotonic() - self.since, 1e-9),
        }


def carry(devices: tuple[int, int], pipes: tuple[Pipe, Pipe], control: int) -> None:
    """Carry packets until the end of file of ``control``, on which commands come as lines of JSON."""
    read, write, monotonic = os.read, os.write, time.monotonic
    lateness = Lateness()
    ways = [(devices[0], devices[1], pipes[0]), (devices[1], devices[0], pipes[1])]
    watched = [*devices, control]
    unread = b""
    while True:
        now = monotonic()
        due = inf
        for _, out, pipe in ways:
            waiting = pipe.waiting
            while waiting and waiting[0][0] <= now + EARLY:
                when, packet = waiting.popleft()
                with contextlib.suppress(OSError):  # the device is down: the packet is lost, as on any cut line
                    write(out, packet)
                lateness.note(now - when)
                now = monotonic()
            if waiting and waiting[0][0] < due:
                due = waiting[0][0]
        ready = select.select(watched, (), (), max(0.0, due - now) if due < inf else None)[0]
        now = monotonic()
        for source, _, pipe in ways:
            if source in ready:
                for _ in range(READ_BATCH):
                    try:
                        packet = read(source, 65_535)
                    except OSError:  # nothing more, or the device is down
                        break
                    pipe.offer(now, packet)
        if control in ready:
            piece = read(control, 65_536)
            if not piece:
                return
            *lines, unread = (unread + piece).split(b"\n")
            for line in lines:
                print(json.dumps(obey(json.loads(line), pipes, lateness)), flush=True)


def obey(command: dict[str, Any], pipes: tuple[Pipe, Pipe], lateness: Lateness) -> dict[str, Any]:
    """``{"shapes": [...]}`` sets, ``{"reset": true}`` begins the account anew, ``{"report": true}`` tells it."""
    now = time.monotonic()
    if "shapes" in command:
        for pipe, shape in zip(pipes, command["shapes"], strict=True):
            pipe.set(Shape(**shape))
    if "reset" in command:
        lateness.reset()
        for pipe in pipes:
            pipe.reset(now)
    if "report" in command:
        return {"forth": pipes[0].report(now), "back": pipes[1].report(now), "emulator": lateness.report()}
    return {"now": now}


def hurry() -> None:
    """Before all others, where the system lets us: what is measured must not delay what measures."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    except OSError:
        with contextlib.suppress(OSError):
            os.nice(-20)


def emulate(job: dict[str, Any]) -> None:
    """The main function of the process."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # whoever started us ends us by closing our input
    gc.disable()
    hurry()
    now = time.monotonic()
    first, second = (Pipe(Shape(**shape), job["seed"] + way, now) for way, shape in enumerate(job["shapes"]))
    print(json.dumps({"ready": True}), flush=True)
    carry((job["devices"][0], job["devices"][1]), (first, second), sys.stdin.fileno())


# --- the place ---


@dataclass(frozen=True)
class LinkPlace(Place):
    """Two ends with such a link between them, and the link's own controls."""

    process: subprocess.Popen[str] | None = field(default=None, repr=False, compare=False)

    def _ask(self, **command: Any) -> dict[str, Any]:
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError("the emulator is gone")
        value: dict[str, Any] = json.loads(answer)
        return value

    def reset(self, forth: Shape | None = None, back: Shape | None = None) -> float:
        """Begin the account anew, with other shapes if they are given; ``back`` None is as ``forth``. The time."""
        shapes = {} if forth is None else {"shapes": [asdict(forth), asdict(back or forth)]}
        now: float = self._ask(reset=True, **shapes)["now"]
        return now

    def report(self) -> dict[str, Any]:
        """``forth`` (tx to rx), ``back``, ``emulator``: all since the last reset, and what the devices dropped."""
        report = self._ask(report=True)
        report["emulator"]["device_drops"] = sum(map(device_drops, (self.enter_tx, self.enter_rx)))
        return report


def device_drops(enter: Sequence[str]) -> int:
    """Packets that the TUN device there could not hold for the emulator, since it was made."""
    command = (*enter, "ip", "-s", "-j", "link", "show", "type", "tun")
    links = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=20).stdout)
    return sum(one["stats64"]["tx"]["dropped"] for one in links)


def why_no_link() -> str:
    """Why there can be no such link here; empty if there can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "network namespaces need root"
    for tool in ("ip", "sysctl"):
        if shutil.which(tool) is None:
            return f"there is no {tool}"
    return "" if os.path.exists("/dev/net/tun") else "there is no /dev/net/tun"


def open_tun(name: str) -> int:
    """A TUN device in the namespace we are in; it is gone when the descriptor is closed."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return descriptor


@contextlib.contextmanager
def link(forth: Shape, back: Shape | None = None, *, name: str = "", seed: int = 1) -> Iterator[LinkPlace]:
    """Two namespaces with this link between them; gone afterwards.

    Args:
        forth: from tx to rx.
        back: from rx to tx; None is as ``forth``.
        name: of the place, for tables; by default what it is.
        seed: of the loss.
    """
    shapes = (forth, back or forth)
    with contextlib.ExitStack() as stack:
        enters = []
        devices = []
        for end, address in zip("ab", ADDRESSES, strict=True):
            space, device = f"srmudp-link-{os.getpid()}-{end}", f"srl{os.getpid()}{end}"
            run("ip", "netns", "add", space)
            stack.callback(subprocess.run, ("ip", "netns", "del", space), capture_output=True, timeout=20)
            enter = ("ip", "netns", "exec", space)
            run(*enter, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
            # Every TCP connection begins without what an earlier one learnt. (CUBIC is chosen per socket: a namespace
            # may not be allowed it as its default.)
            run(*enter, "sysctl", "-qw", "net.ipv4.tcp_no_metrics_save=1")
            run("ip", "-n", space, "link", "set", "lo", "up")
            devices.append(open_tun(device))
            stack.callback(os.close, devices[-1])
            run("ip", "link", "set", device, "netns", space)  # the descriptor stays with it
            run("ip", "-n", space, "link", "set", device, "mtu", str(MTU), "txqueuelen", str(DEVICE_QUEUE), "up")
            run("ip", "-n", space, "addr", "add", f"{address}/24", "dev", device)
            enters.append(enter)
        job = {"devices": devices, "shapes": [asdict(shape) for shape in shapes], "seed": seed}
        command = [sys.executable, "-m", "tests.benchmarks.link", "--emulate", json.dumps(job)]
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            pass_fds=devices,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        stack.callback(end_process, process)
        assert process.stdout is not None
        if not process.stdout.readline():
            raise RuntimeError("the emulator did not start")
        rtt = shapes[0].delay + shapes[1].delay
        yield LinkPlace(
            name or name_of(forth, rtt),
            *ADDRESSES,
            enters[0],
            enters[1],
            mtu=MTU,
            loss=forth.loss,
            rate=forth.rate,
            rtt=rtt,
            queue=forth.queue * 8 / (forth.rate * rtt) if rtt else None,
            process=process,
        )


def name_of(shape: Shape, rtt: float) -> str:
    queue = f", {shape.queue * 8 / (shape.rate * rtt):.2g} BDP" if rtt and shape.queue < inf else ""
    loss = f", {shape.loss * 100:g} % loss" if shape.loss else ""
    return f"{shape.rate / 1e6:g} Mbit/s, {rtt * 1e3:g} ms{queue}{loss}"


def end_process(process: subprocess.Popen[str]) -> None:
    """The end of file ends it; if not, we do."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(3)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


# --- reading reports ---


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of them are; 0.0 of nothing."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


def queue_of(way: dict[str, Any], begin: float = -inf, end: float = inf) -> dict[str, float]:
    """Milliseconds a packet would have waited in the queue, over a span of ``time.monotonic()``."""
    low, high = ((min(max(when - way["begin"], 0.0), way["seconds"]) / SAMPLE) for when in (begin, end))
    samples = [1e3 * value for value in way["queue_s"][int(low) : int(high) + 1]]
    return {
        "mean": statistics.fmean(samples) if samples else 0.0,
        "median": quantile(samples, 0.5),
        "p95": quantile(samples, 0.95),
        "max": max(samples, default=0.0),
    }


def bytes_of(flow: dict[str, Any], way: dict[str, Any], begin: float = -inf, end: float = inf) -> int:
    """Bytes of IP packets of a flow that left the line in the bins that lie wholly in a span."""
    return sum(
        count
        for number, count in flow["bins"]
        if way["begin"] + number * BIN >= begin and way["begin"] + (number + 1) * BIN <= end
    )


# --- the emulator itself ---


def ping(place: LinkPlace, count: int = 100, size: int = 100) -> list[float]:
    """Round-trip times in seconds of small datagrams on the link as it is, 10 ms apart."""
    with contextlib.ExitStack() as stack:
        echo = stack.enter_context(start_script(place.enter_rx, _ECHO, place.rx))
        assert echo.stdout is not None
        echo.stdout.readline()
        asker = stack.enter_context(start_script(place.enter_tx, _ASK, place.rx, str(count), str(size)))
        times: list[float] = json.loads(asker.communicate(timeout=60)[0])
        return times


@contextlib.contextmanager
def start_script(enter: Sequence[str], script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([*enter, sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


_ECHO = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((sys.argv[1], 9))
print("ready", flush=True)
while True:
    data, source = sock.recvfrom(2048)
    sock.sendto(data, source)
"""

_ASK = """
import json, socket, struct, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect((sys.argv[1], 9))
sock.settimeout(2)
times = []
for number in range(int(sys.argv[2])):
    begin = time.monotonic()
    sock.send(struct.pack("I", number) + bytes(int(sys.argv[3]) - 4))
    try:
        while struct.unpack("I", sock.recv(2048)[:4])[0] != number:
            pass
        times.append(time.monotonic() - begin)
    except TimeoutError:
        pass
    time.sleep(0.01)
print(json.dumps(times))
"""

_FLOOD = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect((sys.argv[1], 10))
size, rate, seconds = int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
begin = time.monotonic()
sent = 0
while (elapsed := time.monotonic() - begin) < seconds:
    while sent * size * 8 < elapsed * rate:
        try:
            sock.send(bytes(size - 28))
        except OSError:  # nobody listens there, as is meant
            pass
        sent += 1
    time.sleep(0.001)
print(sent)
"""


def check(mbit: float, rtt_ms: float, seconds: float = 4.0) -> dict[str, Any]:
    """What the emulator bears: RTT on the idle link, the rate under a flood of 1.2 times as much, its queue and CPU."""
    shape = Shape.of(mbit, rtt_ms, 1.0)
    with link(shape, replace(shape, queue=inf)) as place:
        ping(place, 5)
        place.reset()
        times = ping(place)
        idle = place.report()["emulator"]
        begin = place.reset()
        with start_script(place.enter_tx, _FLOOD, place.rx, "1500", str(1.2 * shape.rate), str(seconds)) as flood:
            sent = int(flood.communicate(timeout=seconds + 20)[0])
        report = place.report()
        way = report["forth"]
        flow = next(flow for name, flow in way["flows"].items() if name.startswith("udp"))
        rate = bytes_of(flow, way, begin + 1, begin + seconds - 0.5) * 8 / (round((seconds - 1.5) / BIN) * BIN)
        return {
            "mbit": mbit,
            "rtt_ms": rtt_ms,
            "ping_ms": {
                "min": min(times) * 1e3,
                "median": statistics.median(times) * 1e3,
                "p99": quantile(times, 0.99) * 1e3,
                "max": max(times) * 1e3,
                "lost": 100 - len(times),
            },
            "idle": idle,
            "flood": {
                "offered_packets": sent,
                "rate_mbit": rate / 1e6,
                "dropped_share": flow["dropped_queue"] / sent,
                "expected_share": 1 - 1 / 1.2,
                "queue_ms": queue_of(way, begin + 1, begin + seconds - 0.1),
                "expected_queue_ms": shape.queue * 8 / shape.rate * 1e3,
            },
            "emulator": report["emulator"],
        }


def unwind_on_signals() -> None:
    """Termination as Ctrl-C: by way of every ``finally``."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["--emulate"]:
        emulate(json.loads(arguments[1]))
        return 0
    if arguments[:1] == ["--check"]:
        parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.link --check")
        parser.add_argument("mbit", type=float, nargs="?", default=50.0)
        parser.add_argument("rtt_ms", type=float, nargs="?", default=40.0)
        options = parser.parse_args(arguments[1:])
        unwind_on_signals()
        print(json.dumps(check(options.mbit, options.rtt_ms), indent=1))
        return 0
    from tests.benchmarks import link_rows

    rows: Callable[[Sequence[str]], int] = link_rows.main
    return rows(arguments)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted; everything is cleaned up")
