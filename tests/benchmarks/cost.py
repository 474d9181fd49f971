"""What messages cost below the threads: ``python -m tests.benchmarks.cost [--backend NAME] [--profile WORKLOAD]``.

Two endpoints with real crypto in one thread and in virtual time, no sockets: CPU microseconds for each message, split
by sender and receiver. What a socket adds (system calls, threads, locks) is not in it. Every figure is the smallest of
several rounds of ``process_time``, which repeats to a few per cent on a busy machine too.

Workloads:

* ``ping-pong``: 100 bytes there and 100 bytes back, one in flight; the cost is that of one message, half an echo.
* ``burst-N``: N messages of 100 bytes queued at once, a hundred thousand a second in all; each is taken, and its
  sender told so.
* ``bulk-M``: messages of 16 MiB in datagrams of M bytes at most; microseconds for each MB, which is 10^6 bytes.
"""

from __future__ import annotations

import argparse
import cProfile
import heapq
import json
import pstats
import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from srmudp.config import Config
from srmudp.crypto.backend import Backend, BackendName, select_backend
from srmudp.crypto.keys import Identity
from srmudp.models import Address
from srmudp.peers.endpoint import Endpoint
from srmudp.protocol.events import MessageArrived, MessageSettled

SMALL = bytes(100)
LATENCY = 50e-6
"""Seconds one way: a loopback."""
RATE = 100_000
"""Small messages a second."""
ROUNDS = 7


class End:
    """An endpoint and the little that drives it, as a socket does. Its own CPU time is summed up in ``spent``."""

    def __init__(self, name: str, host: str, backend: Backend, max_mtu: int) -> None:
        self.address = Address(host, 5000)
        seeded = random.Random(name)
        identity = Identity.generate(seeded.randbytes, backend=backend)
        self.endpoint = Endpoint(identity, Config(max_mtu=max_mtu), backend=backend, random=seeded.randbytes)
        self.spent = 0
        self.records = self.wire_bytes = 0
        self.settled = self.taken = 0
        self.timer: float | None = None
        self.answer: Callable[[MessageArrived, float], None] | None = None
        self._out: list[tuple[bytes, int]] = []

    def work(
        self, now: float, call: Callable[..., object] | None, *args: Any, **options: Any
    ) -> list[tuple[bytes, int]]:
        """Call the endpoint and collect what it has to send, with everything else that follows from it."""
        begin = time.process_time_ns()
        if call is not None:
            call(*args, **options)
        out = self._collect(now)
        self.spent += time.process_time_ns() - begin
        return out

    def receive(self, batches: list[tuple[bytes, int, Address]], now: float) -> list[tuple[bytes, int]]:
        """Take in what came at one moment."""
        begin = time.process_time_ns()
        endpoint = self.endpoint
        for payload, size, source in batches:
            endpoint.handle_batch(payload, size, source, now)
        endpoint.handle_burst_end(now)
        out = self._collect(now)
        self.spent += time.process_time_ns() - begin
        return out

    def send(self, peer: str, contents: list[bytes], now: float) -> list[tuple[bytes, int]]:
        """Queue messages and collect what leaves."""
        begin = time.process_time_ns()
        send = self.endpoint.send_message
        for content in contents:
            send(peer, content, channel=0, reliable=True, ttl=None, now=now)
        out = self._collect(now)
        self.spent += time.process_time_ns() - begin
        return out

    def _collect(self, now: float) -> list[tuple[bytes, int]]:
        endpoint = self.endpoint
        out: list[tuple[bytes, int]] = []
        answers: list[MessageArrived] = []
        while True:
            took = False
            while (job := endpoint.next_job()) is not None:
                job.run()
                endpoint.finish_job(job, now)
            while (transmit := endpoint.poll_transmit(now)) is not None:
                out.append((transmit.payload, transmit.segment_size))
                self.records += 1
                self.wire_bytes += len(transmit.payload)
            while answers and self.answer is not None:  # after what taking them had to send
                self.answer(answers.pop(), now)
                took = True
            while (event := endpoint.next_event()) is not None:
                if type(event) is MessageArrived:
                    endpoint.message_taken(event, now)
                    self.taken += 1
                    took = True
                    if self.answer is not None:
                        answers.append(event)
                elif type(event) is MessageSettled:
                    self.settled += 1
            if not took:
                break
        self.timer = endpoint.next_timer()
        return out


class World:
    """Two connected ends, the wire between them and the time."""

    def __init__(self, backend: Backend, max_mtu: int = 1472) -> None:
        self.now = 1000.0
        self.a = End("a", "192.0.2.1", backend, max_mtu)
        self.b = End("b", "192.0.2.2", backend, max_mtu)
        self._wire: list[tuple[float, int, End, bytes, int, Address]] = []
        self._sent = 0
        for end, other, name in ((self.a, self.b, "b"), (self.b, self.a, "a")):
            self.leave(end, end.work(self.now, end.endpoint.add_peer, name, [other.address], None, self.now))
        self.run(2.0)
        assert all(
            status.established for end in (self.a, self.b) for status in end.endpoint.statuses(self.now).values()
        )

    def leave(self, end: End, batches: list[tuple[bytes, int]]) -> None:
        """Put batches of ``end`` on the wire."""
        other = self.b if end is self.a else self.a
        for payload, size in batches:
            self._sent += 1
            heapq.heappush(self._wire, (self.now + LATENCY, self._sent, other, payload, size, end.address))

    def run(self, seconds: float, done: Callable[[], bool] = lambda: False) -> None:
        """Let time pass, or less if ``done`` says so."""
        until = self.now + seconds
        while not done():
            times = [end.timer for end in (self.a, self.b) if end.timer is not None]
            when = min([*times, self._wire[0][0]] if self._wire else times)
            if when > until:
                self.now = until
                return
            self.now = max(self.now, when)
            came: dict[End, list[tuple[bytes, int, Address]]] = {}
            while self._wire and self._wire[0][0] <= self.now:
                _, _, end, payload, size, source = heapq.heappop(self._wire)
                came.setdefault(end, []).append((payload, size, source))
            for end, batches in came.items():
                self.leave(end, end.receive(batches, self.now))
            for end in (self.a, self.b):
                if end.timer is not None and end.timer <= self.now:
                    self.leave(end, end.work(self.now, end.endpoint.handle_timer, self.now))


class Cost(NamedTuple):
    """What a workload cost for each message (or for each MB)."""

    sender: float
    """CPU microseconds."""
    receiver: float
    records: float
    """Records of the sender."""
    returned: float
    """Records of the receiver."""

    @property
    def both(self) -> float:
        """CPU microseconds of both ends."""
        return self.sender + self.receiver


def _measured(world: World, units: float, work: Callable[[], None]) -> Cost:
    ends = (world.a, world.b)
    before = [(end.spent, end.records) for end in ends]
    work()
    spent = [end.spent - was[0] for end, was in zip(ends, before, strict=True)]
    records = [end.records - was[1] for end, was in zip(ends, before, strict=True)]
    return Cost(spent[0] / 1000 / units, spent[1] / 1000 / units, records[0] / units, records[1] / units)


def ping_pong(world: World, messages: int) -> Cost:
    """One in flight, answered at once."""
    a, b = world.a, world.b

    def echo(event: MessageArrived, now: float) -> None:
        b.endpoint.send_message("a", event.content, channel=0, reliable=True, ttl=None, now=now)

    def work() -> None:
        b.answer = echo
        for _ in range(messages // 2):
            got = a.taken + 1
            world.leave(a, a.send("b", [SMALL], world.now))
            world.run(1.0, lambda got=got: a.taken == got)  # type: ignore[misc]
        b.answer = None

    return _measured(world, messages, work)


def bursts(world: World, size: int, messages: int) -> Cost:
    """A stream one way."""
    a = world.a
    contents = [SMALL] * size

    def work() -> None:
        settled = a.settled + messages
        for _ in range(messages // size):
            world.leave(a, a.send("b", contents, world.now))
            world.run(size / RATE)
        world.run(5.0, lambda: a.settled == settled)
        assert a.settled == settled

    return _measured(world, messages, work)


def bulk(world: World, messages: int) -> Cost:
    """Large messages, one after the other."""
    a = world.a
    content = random.Random(1).randbytes(16 * 1024 * 1024)

    def work() -> None:
        for _ in range(messages):
            settled = a.settled + 1
            world.leave(a, a.send("b", [content], world.now))
            world.run(60.0, lambda settled=settled: a.settled == settled)  # type: ignore[misc]
            assert a.settled == settled

    return _measured(world, messages * len(content) / 1e6, work)


def _workloads(scale: float) -> dict[str, tuple[int, Callable[[World], Cost]]]:
    """Name: largest datagram, and what runs a round."""
    few, many = max(200, int(2000 * scale)), max(1000, int(10_000 * scale) // 100 * 100)
    return {
        "ping-pong": (1472, lambda world: ping_pong(world, few)),
        "burst-1": (1472, lambda world: bursts(world, 1, few)),
        "burst-10": (1472, lambda world: bursts(world, 10, many)),
        "burst-100": (1472, lambda world: bursts(world, 100, many)),
        "bulk-1472": (1472, lambda world: bulk(world, 1)),
        "bulk-65507": (65_507, lambda world: bulk(world, 1)),
    }


def measure(backend: Backend, names: list[str], *, rounds: int = ROUNDS, scale: float = 1.0) -> dict[str, Cost]:
    """The cheapest of several rounds of each workload, interleaved."""
    workloads = {name: item for name, item in _workloads(scale).items() if not names or name in names}
    worlds = {name: World(backend, mtu) for name, (mtu, _) in workloads.items()}
    costs: dict[str, list[Cost]] = {name: [] for name in workloads}
    for _ in range(rounds):
        for name, (_, run) in workloads.items():
            costs[name].append(run(worlds[name]))
    return {
        name: found[-1]._replace(
            sender=min(cost.sender for cost in found), receiver=min(cost.receiver for cost in found)
        )
        for name, found in costs.items()
    }


def _profile(backend: Backend, name: str, lines: int) -> None:
    mtu, run = _workloads(3.0)[name]
    world = World(backend, mtu)
    run(world)
    profiler = cProfile.Profile()
    profiler.runcall(run, world)
    pstats.Stats(profiler).strip_dirs().sort_stats("tottime").print_stats(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(_workloads(1.0))
    parser.add_argument("workloads", nargs="*", help=f"some of {', '.join(names)}; all by default")
    parser.add_argument("--backend", choices=["cryptography", "pycryptodome"], help="both by default")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--scale", type=float, default=1.0, help="length of a round")
    parser.add_argument("--profile", metavar="WORKLOAD", choices=names)
    parser.add_argument("--lines", type=int, default=45, help="of the profile")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if unknown := set(options.workloads) - set(names):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    backends: list[BackendName] = [options.backend] if options.backend else ["cryptography", "pycryptodome"]
    if options.profile:
        _profile(select_backend(backends[0]), options.profile, options.lines)
        return
    found = {
        name: measure(select_backend(name), options.workloads, rounds=options.rounds, scale=options.scale)
        for name in backends
    }
    if options.json:
        print(json.dumps({name: {key: cost._asdict() for key, cost in costs.items()} for name, costs in found.items()}))
        return
    print(f"{'':26}{'sender':>9}{'receiver':>10}{'both':>9}  us a message or MB; records there and back")
    for name, costs in found.items():
        for key, cost in costs.items():
            print(
                f"{name:14}{key:12}{cost.sender:9.1f}{cost.receiver:10.1f}{cost.both:9.1f}"
                f"  {cost.records:.3f} {cost.returned:.3f}"
            )


if __name__ == "__main__":
    main()
