"""One message to 50 peers: how long until all of them have it.

One process is the *hub*, another one holds all the *guests*, each with a thread that waits for messages. srmudp has one
socket with 50 peers and sends to everyone by one call; other libraries have a connection for each guest.

``python -m tests.benchmarks.cast MODULE NAME ROLE JSON`` is an end; :func:`cast` starts both.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from tests.benchmarks.adapters.base import CONNECT, Adapter, Blocking, Job, Pipe
from tests.benchmarks.adapters.srmudp import LIMIT
from tests.benchmarks.crowd import allow_descriptors
from tests.benchmarks.places import Place, free_ports
from tests.benchmarks.runs import FIRST_PORT, Ends, Run
from tests.benchmarks.workloads import MIB, tell, told

GUESTS = 50
SIZES = (100,) * 20 + (MIB,) * 3
"""Of the messages, one after the other."""


def messages() -> list[bytes]:
    """What is sent."""
    chance = random.Random(50)
    return [chance.randbytes(size) for size in SIZES]


class Hub:
    """One socket with many peers."""

    def __init__(self, jobs: list[Job], connect: Callable[[Job], Pipe]) -> None:
        from srmudp import Config, MultiHolepunchSocket

        peers: dict[str, Any] = {f"guest {number}": job.rx for number, job in enumerate(jobs)}
        config = Config(backend=jobs[0].options["backend"])
        self.sock = MultiHolepunchSocket(jobs[0].tx[1], peers, host=jobs[0].tx[0], config=config)
        if not self.sock.wait_connected(timeout=CONNECT):
            raise TimeoutError("not all guests connected")

    def send(self, message: bytes) -> None:
        """To everyone."""
        self.sock.send(message, timeout=LIMIT)


class Lines:
    """A connection for each guest."""

    def __init__(self, jobs: list[Job], connect: Callable[[Job], Pipe]) -> None:
        self.pipes = [connect(job) for job in jobs]

    def send(self, message: bytes) -> None:
        """To everyone."""
        for pipe in self.pipes:
            pipe.send(message)


def hub(adapter: Blocking, jobs: list[Job]) -> None:
    """The process that sends."""
    told()
    centre = (Hub if adapter.name.startswith("srmudp") else Lines)(jobs, adapter.connect)
    times = []
    told()
    for message in messages():
        times.append(time.monotonic())
        centre.send(message)
        told()  # all have it
    tell(result={"times": times})
    told()


def guests(adapter: Blocking, jobs: list[Job]) -> None:
    """The process that receives."""
    expected = [hashlib.sha256(message).digest() for message in messages()]
    lock = threading.Lock()
    listening, connected, counts = [0], [0], [0] * len(expected)
    last, intact = [0.0] * len(expected), [True]

    def count(what: list[int], index: int = 0) -> None:
        with lock:
            what[index] += 1
            if what[index] == len(jobs):
                tell(next=True)

    def guest(job: Job) -> None:
        pipe = adapter.listen(job, lambda: count(listening))
        count(connected)
        for number, digest in enumerate(expected):
            message = pipe.receive(LIMIT)
            now = time.monotonic()
            with lock:
                last[number] = max(last[number], now)
            if message is None or hashlib.sha256(message).digest() != digest:
                intact[0] = False
            count(counts, number)

    threads = [threading.Thread(target=guest, args=(job,), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tell(result={"times": last, "intact": intact[0]})
    told()


def cast(adapter: tuple[str, Adapter], place: Place, certificate: str, seed: int = 0) -> Run:
    """One run."""
    module, what = adapter
    ports = list(range(FIRST_PORT, FIRST_PORT + GUESTS + 1)) if place.enter_tx else free_ports(GUESTS + 1)
    one = Job((place.tx, ports[0]), (place.rx, 0), place.mtu, "cast", MIB, certificate, what.options)
    text = json.dumps([asdict(replace(one, rx=(place.rx, port))) for port in ports[1:]])
    results: dict[str, dict[str, Any]] = {}
    with Ends() as ends:
        for who, enter in (("rx", place.enter_rx), ("tx", place.enter_tx)):
            ends.start(who, [*enter, sys.executable, "-m", "tests.benchmarks.cast", module, what.name, who, text])
        deadline = time.monotonic() + 90
        while len(results) < 2:
            try:
                who, said = ends.hear(deadline - time.monotonic())
            except TimeoutError:
                return Run(error="nothing more came")
            if said is None:
                if who not in results:
                    return Run(error=f"{who}: {ends.last_words(who)}")
            elif "next" in said:
                ends.tell("tx", said)
            elif "result" in said:
                results[who] = said["result"]
    if not results["rx"]["intact"]:
        return Run(error="SHA-256 differs")
    took = [end - begin for begin, end in zip(results["tx"]["times"], results["rx"]["times"], strict=True)]
    small = statistics.median(seconds for seconds, size in zip(took, SIZES, strict=True) if size == SIZES[0])
    large = statistics.median(seconds for seconds, size in zip(took, SIZES, strict=True) if size == SIZES[-1])
    return Run({"p50": small, "rate": GUESTS * SIZES[-1] / large}, details={"seconds": took})


def main() -> None:
    module, name, role, text = sys.argv[1:]
    (adapter,) = (each for each in importlib.import_module(module).ADAPTERS if each.name == name)
    jobs = [Job(**{**each, "tx": tuple(each["tx"]), "rx": tuple(each["rx"])}) for each in json.loads(text)]
    allow_descriptors(8 * len(jobs) + 100)
    (hub if role == "tx" else guests)(adapter, jobs)
    os._exit(0)


if __name__ == "__main__":
    main()
