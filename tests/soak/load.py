"""Large messages to many peers at once, and what memory that takes: ``python -m tests.soak.load`` from a checkout.

One socket in a process of its own sends a message of ``--size`` bytes on each of ``--channels`` channels to each of
``--peers`` peers, all at once; these have a socket each, in ``--processes`` other processes. Then two messages of
``--huge-size`` bytes go at once to a single peer: with the default ``Config``, and with a receive budget that bears one
of them, so that they must take turns. Everything received is checked by SHA-256. The report says how long it took, how
fast it was, and beside the most memory each process had more than before the first ``send`` what it may have had; the
command fails if that is less.

What a socket may have in memory, as its ``Config`` states it:

To receive, P peers together::

    receive_budget                      parts of messages larger than a window, of all peers together
    + P * connection_window             parts within the windows, and whole messages that nobody has taken yet
    + P * connection_window             datagrams of records that are not complete yet
    + P * 2 * unreliable_queue          unreliable messages, in parts and whole (none here)
    + max_message_size                  the one message that is being put together from its parts
    + READING                           what was read from the system and not looked at yet

(A hostile peer can double the first two: a part may keep the record it came in alive, of which it is at least half.)

To send, to P peers together::

    P * (send_queue + max_message_size) messages not taken; a ``bytes`` object once, to however many peers it goes
    + P * (connection_window + channels * channel_window)
                                        sealed datagrams, kept until it is known that they arrived: nothing beyond
                                        windows and grants is sent, and a grant is a window beyond what arrived (the
                                        congestion window is nearly always far less)
    + P * unreliable_queue              unreliable messages (none here)
    + WRITING                           what waits for the system to take it

Of all this no more than was sent can be there, which is what the command compares with, together with an allowance
for the interpreter and what the allocator has not given back. The messages themselves are made before the memory is
looked at, as a program that sends a file has it in memory anyway.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import hashlib
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from srmudp import Config, Message, MultiHolepunchSocket

ROOT = Path(__file__).resolve().parent.parent.parent
KIB = 1024
MIB = 1024 * KIB
READING = 64 * 64 * KIB
"""Bytes that one socket reads before it looks at them: 64 batches."""
WRITING = 2 * MIB
"""Bytes sealed by one socket before the system took any of them: 16 batches, and as many at a second thread."""
SHARE = 1.25
ALLOWANCE = 48 * MIB
"""The interpreter's own: the bound is multiplied by the one and the other added. What it measured on an idle process
after such work, which a bound can know nothing of: arenas of the allocator, one for each thread, and their waste."""
EACH = 1 * MIB
"""For each connection: two threads' stacks, tables of records, ranges and acknowledgements."""


@dataclass(frozen=True)
class Load:
    """What is sent: a message of ``size`` bytes on each channel to each peer, with so many processes to receive."""

    name: str
    peers: int
    size: int
    channels: int
    processes: int
    limit: float
    config: dict[str, Any] = field(default_factory=dict)

    def options(self) -> Config:
        return Config(**self.config)

    def share(self, process: int) -> int:
        """How many of the peers are in a process."""
        return self.peers // self.processes + (process < self.peers % self.processes)

    def to_receive(self, process: int) -> int:
        """Bytes that all sockets of a receiving process may have by their Config, each with one peer."""
        config = self.options()
        sent = self.channels * self.size
        parts = min(config.receive_budget + config.connection_window, sent)
        records = min(config.connection_window, sent)
        copy = min(config.max_message_size, self.size)
        return self.share(process) * (parts + records + copy + min(READING, sent))

    def to_send(self) -> int:
        """Bytes that the sending socket may have by its Config, beside the messages themselves."""
        config = self.options()
        sent = self.channels * self.size
        return self.peers * min(config.connection_window + self.channels * config.channel_window, sent) + WRITING

    def with_allowance(self, bound: int, peers: int) -> int:
        return int(bound * SHARE) + ALLOWANCE + EACH * peers


def content(channel: int, size: int) -> bytes:
    return random.Random(f"load/{channel}").randbytes(size)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- memory of this process ---

_LIBC: Any = ctypes.CDLL(None) if sys.platform != "win32" else None


def memory(what: str) -> int:
    """``VmRSS`` or ``VmHWM`` of this process in bytes; 0 where the system does not tell."""
    try:
        with open("/proc/self/status") as file:
            for line in file:
                if line.startswith(what + ":"):
                    return int(line.split()[1]) * KIB
    except OSError:
        pass
    return 0


def begin_memory() -> int:
    """Collect what is garbage, forget the peak of before, and return what there is now."""
    gc.collect()
    if hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)  # else the allocator keeps much of what is free, and a leak could not be told from that
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass  # the peak then counts what was before too, which is less
    return memory("VmRSS")


# --- the processes ---


def tell(**values: object) -> None:
    print(json.dumps(values), flush=True)


def told() -> Any:
    line = sys.stdin.readline()
    if not line:
        raise SystemExit("the parent is gone")
    return json.loads(line)


class Reader:
    """A socket that takes what comes and checks it."""

    def __init__(self, load: Load, backend: str, done: threading.Semaphore) -> None:
        self.digests: list[str] = []
        self.good = self.wrong = 0
        self._done = done
        self.sock = MultiHolepunchSocket(host="127.0.0.1", config=Config(**{**load.config, "backend": backend}))
        self.sock.register_message_hook(self.take)

    def take(self, message: Message) -> None:
        if digest(message.content) == self.digests[message.channel]:
            self.good += 1
        else:
            self.wrong += 1
        self._done.release()


def receive(load: Load, process: int, backend: str) -> None:
    done = threading.Semaphore(0)
    readers = [Reader(load, backend, done) for _ in range(load.share(process))]
    tell(ports=[reader.sock.port for reader in readers])
    start = told()
    for reader in readers:
        reader.digests = start["digests"]
        reader.sock.add_peer("sender", ("127.0.0.1", start["port"]))
    connected = all(reader.sock.wait_connected(timeout=60) for reader in readers)
    before = begin_memory()
    tell(connected=connected)
    deadline = time.monotonic() + load.limit
    for _ in range(len(readers) * load.channels):
        if not done.acquire(timeout=max(0.0, deadline - time.monotonic())):
            break
    peak = memory("VmHWM")
    told()  # the sender knows that all was delivered
    drops: dict[str, int] = {}
    for reader in readers:
        for reason, count in reader.sock.drops.items():
            drops[reason] = drops.get(reason, 0) + count
    tell(
        good=sum(reader.good for reader in readers),
        wrong=sum(reader.wrong for reader in readers),
        before=before,
        peak=peak,
        after=begin_memory(),
        drops=drops,
    )
    for reader in readers:
        reader.sock.close(1)


def send(load: Load, backend: str) -> None:
    contents = [content(channel, load.size) for channel in range(load.channels)]
    ports = told()
    config = Config(**{**load.config, "backend": backend})
    with MultiHolepunchSocket(host="127.0.0.1", config=config, timeout=load.limit) as sock:
        sock.add_peers({f"peer{number}": ("127.0.0.1", port) for number, port in enumerate(ports)})
        tell(port=sock.port, digests=[digest(data) for data in contents])
        connected = sock.wait_connected(timeout=60)
        told()
        before = begin_memory()
        failed: list[str] = []
        began = time.monotonic()

        def channel(number: int) -> None:
            try:
                delivery = sock.send(contents[number], list(sock.connections_status), channel=number)
                if not delivery.wait(max(0.0, began + load.limit - time.monotonic())):
                    failed.append(f"channel {number}: pending {sorted(delivery.pending)} failed {delivery.failed}")
            except Exception as error:
                failed.append(f"channel {number}: {error!r}")

        threads = [threading.Thread(target=channel, args=(number,)) for number in range(load.channels)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - began
        statuses = sock.connections_status.values()
        tell(
            connected=connected,
            seconds=seconds,
            failed=failed,
            before=before,
            peak=memory("VmHWM"),
            after=begin_memory(),
            lost=sum(status.stats.datagrams_lost for status in statuses),
            sent=sum(status.stats.datagrams_sent for status in statuses),
            drops=dict(sock.drops),
        )
        told()


# --- the parent ---


class Child:
    """One of the processes; ended whatever happens."""

    def __init__(self, load: Load, backend: str, role: str, process: int = 0) -> None:
        command = [sys.executable, "-m", "tests.soak.load", "--role", role, "--process", str(process)]
        command += ["--load", json.dumps(asdict(load)), "--backend", backend]
        self.name = f"{role} {process}"
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None, text=True
        )

    def tell(self, value: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()

    def told(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended early with {self._process.wait(10)}")
        return json.loads(line)

    def end(self, within: float = 10.0) -> None:
        try:
            self._process.communicate(timeout=within)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


def run(load: Load, backend: str) -> list[str]:
    """Run one load and print what was measured. Returns what did not hold."""
    print(f"\n{load.name}")
    total = load.peers * load.channels * load.size
    print(
        f"  {load.channels} messages of {load.size / MIB:g} MiB to each of {load.peers} peers: {total / 1e6:.0f} MB; "
        f"Config({', '.join(f'{key}={value}' for key, value in load.config.items())}), {backend}"
    )
    receivers = [Child(load, backend, "receive", process) for process in range(load.processes)]
    children = list(receivers)
    try:
        ports = [port for child in receivers for port in child.told()["ports"]]
        sender = Child(load, backend, "send")
        children.append(sender)
        sender.tell(ports)
        start = sender.told()
        for child in receivers:
            child.tell(start)
        if not all(child.told()["connected"] for child in receivers):
            return [f"{load.name}: not connected"]
        sender.tell("go")
        sent = sender.told()
        for child in receivers:
            child.tell("report")
        received = [child.told() for child in receivers]
        sender.tell("end")
    finally:
        for child in children:
            child.end()
    return report(load, total, sent, received)


def report(load: Load, total: int, sent: dict[str, Any], received: Sequence[dict[str, Any]]) -> list[str]:
    problems = list(sent["failed"])
    if not sent["connected"]:
        problems.append("the sender was not connected to all")
    print(
        f"  {sent['seconds']:.1f} s, {total / sent['seconds'] / 1e6:.0f} MB/s; "
        f"{sent['lost']} of {sent['sent']} datagrams lost; drops {sent['drops']} {[r['drops'] for r in received]}"
    )
    good, wrong = sum(r["good"] for r in received), sum(r["wrong"] for r in received)
    print(f"  {good} of {load.peers * load.channels} messages whole, {wrong} wrong")
    if (good, wrong) != (load.peers * load.channels, 0):
        problems.append(f"{good} messages whole, {wrong} wrong")
    rows = [("sending", sent, load.to_send(), load.peers)]
    rows += [
        (f"receiving, {load.share(number)} sockets", result, load.to_receive(number), load.share(number))
        for number, result in enumerate(received)
    ]
    print(f"  {'process':<24}{'before':>9}{'peak':>9}{'more':>9}{'after':>9}{'bound':>9}{'allowed':>9}   (MiB)")
    for name, result, bound, peers in rows:
        allowed = load.with_allowance(bound, peers)
        if name == "sending":  # windows are far larger than what a path needs: a copy for each peer must not hide there
            allowed = min(allowed, load.with_allowance(total // 4, peers))
        more = result["peak"] - result["before"]
        numbers = (result["before"], result["peak"], more, result["after"], bound, allowed)
        print(f"  {name:<24}" + "".join(f"{number / MIB:>9.0f}" for number in numbers))
        if more > allowed:
            problems.append(f"{name}: {more / MIB:.0f} MiB more than before, allowed are {allowed / MIB:.0f}")
    if not sent["peak"]:
        print("  (this system does not tell how much memory a process has: memory was not checked)")
    return [f"{load.name}: {problem}" for problem in problems]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.load", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--peers", type=int, default=50)
    parser.add_argument("--size", type=int, default=8 * MIB, help="bytes of each message")
    parser.add_argument("--channels", type=int, default=4)
    parser.add_argument("--processes", type=int, default=2, help="that the receiving sockets are spread over")
    parser.add_argument("--huge-size", type=int, default=64 * MIB, help="bytes of the two large messages; 0: none")
    parser.add_argument("--backend", choices=("auto", "cryptography", "pycryptodome"), default="auto")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds that each part may take")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--process", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--load", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        load = Load(**json.loads(options.load))
        if options.role == "send":
            send(load, options.backend)
        else:
            receive(load, options.process, options.backend)
        return 0
    loads = []
    if options.peers and options.size:
        # Else the third and fourth would wait at the program's for room in the queue.
        queue = {"send_queue": options.channels * options.size}
        large = {"max_message_size": max(options.size, 64 * MIB)} if options.size > 64 * MIB else {}
        loads.append(
            Load(
                f"{options.peers} peers",
                options.peers,
                options.size,
                options.channels,
                min(options.processes, options.peers),
                options.limit,
                {**queue, **large},
            )
        )
    if options.huge_size:
        size = options.huge_size
        budgets = {"two large messages at once": 4 * size, "two large messages, budget for one": size}
        loads += [
            Load(name, 1, size, 2, 1, options.limit, {"max_message_size": size, "receive_budget": budget})
            for name, budget in budgets.items()
        ]
    problems = [problem for load in loads for problem in run(load, options.backend)]
    print()
    for problem in problems:
        print(f"FAILED: {problem}")
    print("failed" if problems else "all of it held")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
