"""What the two ends of a benchmark do, each in a process of its own, with any library that has an adapter.

``python -m tests.benchmarks.workloads MODULE NAME ROLE JSON`` is started by :mod:`tests.benchmarks.runs`. An end prints
lines of JSON. One with ``"next"`` is handed to the other end, which waits for it: this is how ``tx`` learns that ``rx``
listens. One with ``"result"`` is the last; then the end waits for a line, or the end of its input, and closes.

Times are ``time.monotonic()``, which all processes of a Linux machine share. A receiver notes the time when it has a
message and computes SHA-256 only after the last, so that checking costs nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
import os
import random
import struct
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests.benchmarks.adapters.base import CONNECT, Adapter, Asynchronous, Blocking, Job

MIB = 1024 * 1024
RING = 64 * MIB
"""Bytes of different messages at most; then they come again."""
END = b"this is all"
ACKNOWLEDGE = 1.0
"""Seconds that a receiver goes on for, at most, so that the sender hears that all has come."""


@dataclass(frozen=True)
class Task:
    """What is to be done.

    Attributes:
        workload: a name in ``WORKLOADS``, or ``"setup"``.
        size: bytes of a message.
        seconds: for how long messages are handed over.
        limit: seconds after which a receiver gives up; it then counts what came.
        most: bytes after which it is enough, too.
        ports: of ``tx`` and ``rx``, for each connection that is set up after another.
        seed: of what is in the messages.
    """

    workload: str
    size: int
    seconds: float = 1.0
    limit: float = 20.0
    most: int = 192 * MIB
    ports: Sequence[Sequence[int]] = ()
    seed: int = 0


def tell(**values: Any) -> None:
    """Print a line for the parent."""
    print(json.dumps(values), flush=True)


def told() -> dict[str, Any]:
    """A line of the parent's; empty if it has no more to say."""
    return json.loads(sys.stdin.readline() or "{}")  # type: ignore[no-any-return]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-len(ordered) * share // 1).__int__() - 1))]


class Workload(ABC):
    """What goes from ``tx`` to ``rx``, and what is to be found out about it."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.block = random.Random(task.seed).randbytes(task.size - 16)

    @abstractmethod
    def messages(self) -> Iterator[bytes]:
        """What ``tx`` sends, the end included. Time runs from here."""

    @abstractmethod
    def take(self, message: Any) -> bool:
        """``rx`` has got a message; whether it was the last."""

    @abstractmethod
    def sent(self) -> dict[str, Any]:
        """The result of ``tx``."""

    @abstractmethod
    def received(self) -> dict[str, Any]:
        """The result of ``rx``."""


class Bulk(Workload):
    """Large messages, as fast as they are taken: how many bytes a second."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.ring: list[bytes] = []
        self.count = 0
        self.got: list[Any] = []
        self.announced = -1
        self.end = self.deadline = 0.0

    def _content(self, number: int) -> bytes:
        """Message ``number``: not worth compressing, different from its neighbours."""
        return struct.pack(">QQ", number, self.task.size) + self.block

    def prepare(self) -> None:
        """Make the messages beforehand."""
        if not self.ring:
            self.ring = [self._content(number) for number in range(max(1, min(self.task.most, RING) // self.task.size))]

    def messages(self) -> Iterator[bytes]:
        self.prepare()
        ring, most = self.ring, max(1, self.task.most // self.task.size)
        begin = time.monotonic()
        tell(begin=begin)
        until = begin + self.task.seconds
        for number in range(most):
            yield ring[number % len(ring)]
            self.count = number + 1
            if time.monotonic() > until:
                break
        yield END + struct.pack(">Q", self.count)

    def take(self, message: Any) -> bool:
        now = time.monotonic()
        if len(message) == len(END) + 8:
            (self.announced,) = struct.unpack(">Q", message[len(END) :])
            return True
        self.got.append(message)
        self.end = now
        if not self.deadline:
            self.deadline = now + self.task.seconds + self.task.limit
        return now > self.deadline

    def sent(self) -> dict[str, Any]:
        return {"count": self.count}

    def received(self) -> dict[str, Any]:
        ours, theirs = hashlib.sha256(), hashlib.sha256()
        slots = max(1, min(self.task.most, RING) // self.task.size)
        for message in self.got:
            ours.update(hashlib.sha256(message).digest())
        expected = [hashlib.sha256(self._content(number)).digest() for number in range(min(slots, len(self.got)))]
        for number in range(len(self.got)):
            theirs.update(expected[number % slots])
        return {
            "bytes": sum(map(len, self.got)),
            "count": len(self.got),
            "end": self.end,
            "complete": self.announced == len(self.got),
            "intact": ours.digest() == theirs.digest(),
        }


class Small(Workload):
    """Small messages, as fast as they are taken: how many a second, and how old each is when it is there."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.out: list[bytes] = []
        self.got: list[Any] = []
        self.times: list[int] = []
        self.announced = -1

    def messages(self) -> Iterator[bytes]:
        block, keep, clock, pack = self.block, self.out.append, time.monotonic_ns, struct.Struct(">QQ").pack
        begin = clock()
        tell(begin=begin / 1e9)
        until = begin + round(self.task.seconds * 1e9)
        number, now = 0, begin
        while now < until:
            message = pack(number, now) + block
            keep(message)
            yield message
            number += 1
            now = clock()
        yield END + struct.pack(">Q", number)

    def take(self, message: Any) -> bool:
        self.times.append(time.monotonic_ns())
        self.got.append(message)
        return len(message) == len(END) + 8

    def sent(self) -> dict[str, Any]:
        return {"count": len(self.out), "sha256": hashlib.sha256(b"".join(self.out)).hexdigest()}

    def received(self) -> dict[str, Any]:
        if self.got and len(self.got[-1]) == len(END) + 8:
            (self.announced,) = struct.unpack(">Q", self.got.pop()[len(END) :])
            self.times.pop()
        stamps = [struct.unpack_from(">QQ", message) for message in self.got]
        ages = [(at - stamp[1]) / 1e9 for at, stamp in zip(self.times, stamps, strict=True)]
        expected = hashlib.sha256()
        for number, (_, at) in enumerate(stamps):
            expected.update(struct.pack(">QQ", number, at) + self.block)
        sha256 = hashlib.sha256(b"".join(self.got)).hexdigest()
        return {
            "bytes": len(self.got) * self.task.size,
            "count": len(self.got),
            "end": self.times[-1] / 1e9 if self.times else 0.0,
            "complete": self.announced == len(self.got),
            "intact": sha256 == expected.hexdigest(),
            "sha256": sha256,
            "age_p50": percentile(ages, 0.5) if ages else None,
            "age_p99": percentile(ages, 0.99) if ages else None,
            "age_max": max(ages, default=None),
        }


class PingPong:
    """A small message and its echo, again and again: how long a round trip takes."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.block = random.Random(task.seed).randbytes(task.size - 16)
        self.out: list[bytes] = []
        self.got: list[Any] = []
        self.times: list[int] = []
        self.until = 0

    def ping(self) -> bytes:
        """The next message; time runs from here."""
        message = struct.pack(">QQ", len(self.out), 0) + self.block
        self.out.append(message)
        now = time.monotonic_ns()
        if not self.until:
            tell(begin=now / 1e9)
            now = time.monotonic_ns()
            self.until = now + round(self.task.seconds * 1e9)
        self.times.append(now)
        return message

    def pong(self, message: Any) -> bytes | None:
        """``tx`` has an echo: the next message, if there is one."""
        now = time.monotonic_ns()
        self.times[-1] = now - self.times[-1]
        self.got.append(message)
        return self.ping() if now < self.until else None

    def farewell(self) -> bytes:
        """The last of all; it is not answered."""
        return END + struct.pack(">Q", len(self.out))

    def echo(self, message: Any) -> bytes | None:
        """``rx`` has a message: the answer."""
        if len(message) == len(END) + 8:
            return None
        self.got.append(message)
        return bytes(message)

    def sent(self) -> dict[str, Any]:
        """The result of ``tx``."""
        times = [each / 1e9 for each in self.times[: len(self.got)]]
        sha256 = hashlib.sha256(b"".join(self.out)).hexdigest()
        return {
            "count": len(self.got),
            "complete": len(self.got) == len(self.out),
            "sha256": sha256,
            "intact": hashlib.sha256(b"".join(self.got)).hexdigest() == sha256,
            "p50": percentile(times, 0.5) if times else None,
            "p99": percentile(times, 0.99) if times else None,
        }

    def received(self) -> dict[str, Any]:
        """The result of ``rx``."""
        return {"count": len(self.got), "sha256": hashlib.sha256(b"".join(self.got)).hexdigest()}


class SetUps:
    """One connection after the other: how long each takes, and until a message has been answered over it."""

    def __init__(self, job: Job, task: Task) -> None:
        self.jobs = [replace(job, tx=(job.tx[0], tx), rx=(job.rx[0], rx)) for tx, rx in task.ports]
        self.task = task
        self.message = random.Random(task.seed).randbytes(task.size)
        self.connected: list[float] = []
        self.answered: list[float] = []
        self.intact = True
        self.until = 0.0

    def done(self, begin: float, connected: float, echo: Any) -> bool:
        """``tx`` has its answer; whether there is another connection to be made."""
        now = time.monotonic()
        self.connected.append(connected - begin)
        self.answered.append(now - begin)
        self.intact = self.intact and echo is not None and bytes(echo) == self.message
        self.until = self.until or now + self.task.seconds
        return now < self.until and len(self.connected) < len(self.jobs)

    def result(self) -> dict[str, Any]:
        """Of ``tx``. The first connection is not counted: it is slower in every library."""
        connected, answered = (each[1:] or each for each in (self.connected, self.answered))
        return {
            "count": len(connected),
            "complete": True,
            "intact": self.intact,
            "p50": percentile(connected, 0.5),
            "p99": percentile(connected, 0.99),
            "answered_p50": percentile(answered, 0.5),
        }


WORKLOADS: dict[str, type[Workload]] = {"bulk": Bulk, "small": Small}


# --- blocking libraries ---


def blocking_tx(adapter: Blocking, job: Job, task: Task) -> None:
    if task.workload == "setup":
        return blocking_setup_tx(adapter, SetUps(job, task))
    work = PingPong(task) if task.workload == "pingpong" else WORKLOADS[task.workload](task)
    if isinstance(work, Bulk):
        work.prepare()
    told()
    pipe = adapter.connect(job)
    cpu = time.process_time()
    if isinstance(work, PingPong):
        pipe.send(work.ping())
        pipe.serve(work.pong, task.limit)
        pipe.send(work.farewell())
    else:
        for message in work.messages():
            pipe.send(message)
    pipe.flush(task.limit)
    cpu = time.process_time() - cpu
    tell(result={**work.sent(), "cpu": cpu, "facts": pipe.facts()})
    told()
    return pipe.close()


def blocking_rx(adapter: Blocking, job: Job, task: Task) -> None:
    if task.workload == "setup":
        return blocking_setup_rx(adapter, SetUps(job, task))
    work = PingPong(task) if task.workload == "pingpong" else WORKLOADS[task.workload](task)
    pipe = adapter.listen(job, lambda: tell(next=True))
    cpu = time.process_time()
    if isinstance(work, PingPong):
        pipe.serve(work.echo, task.limit)
    else:
        take, receive, timeout = work.take, pipe.receive, task.limit
        while (message := receive(timeout)) is not None:
            if take(message):
                break
    cpu = time.process_time() - cpu
    pipe.flush(ACKNOWLEDGE)
    tell(result={**work.received(), "cpu": cpu, "facts": pipe.facts()})
    told()
    return pipe.close()


def blocking_setup_tx(adapter: Blocking, work: SetUps) -> None:
    for job in work.jobs:
        told()
        begin = time.monotonic()
        pipe = adapter.connect(job)
        connected = time.monotonic()
        pipe.send(work.message)
        more = work.done(begin, connected, pipe.receive(CONNECT))
        tell(next=True, more=more)
        pipe.close()
        if not more:
            break
    tell(result=work.result())


def blocking_setup_rx(adapter: Blocking, work: SetUps) -> None:
    for job in work.jobs:
        pipe = adapter.listen(job, lambda: tell(next=True))
        message = pipe.receive(CONNECT)
        if message is not None:
            pipe.send(bytes(message))
            pipe.flush(ACKNOWLEDGE)
        more = told().get("more")
        pipe.close()
        if not more:
            break
    tell(result={})


# --- libraries of asyncio: the same, on their event loop ---


async def hear() -> dict[str, Any]:
    """:func:`told`, while the loop goes on."""
    return await asyncio.get_running_loop().run_in_executor(None, told)


async def asynchronous_tx(adapter: Asynchronous, job: Job, task: Task) -> None:
    if task.workload == "setup":
        return await asynchronous_setup_tx(adapter, SetUps(job, task))
    work = PingPong(task) if task.workload == "pingpong" else WORKLOADS[task.workload](task)
    if isinstance(work, Bulk):
        work.prepare()
    await hear()
    pipe = await adapter.connect(job)
    cpu = time.process_time()
    if isinstance(work, PingPong):
        await pipe.send(work.ping())
        await pipe.serve(work.pong, task.limit)
        await pipe.send(work.farewell())
    else:
        for message in work.messages():
            await pipe.send(message)
    await pipe.flush(task.limit)
    cpu = time.process_time() - cpu
    tell(result={**work.sent(), "cpu": cpu, "facts": pipe.facts()})
    await hear()
    return await pipe.close()


async def asynchronous_rx(adapter: Asynchronous, job: Job, task: Task) -> None:
    if task.workload == "setup":
        return await asynchronous_setup_rx(adapter, SetUps(job, task))
    work = PingPong(task) if task.workload == "pingpong" else WORKLOADS[task.workload](task)
    pipe = await adapter.listen(job, lambda: tell(next=True))
    cpu = time.process_time()
    if isinstance(work, PingPong):
        await pipe.serve(work.echo, task.limit)
    else:
        while (message := await pipe.receive(task.limit)) is not None:
            if work.take(message):
                break
    cpu = time.process_time() - cpu
    await pipe.flush(ACKNOWLEDGE)
    tell(result={**work.received(), "cpu": cpu, "facts": pipe.facts()})
    await hear()
    return await pipe.close()


async def asynchronous_setup_tx(adapter: Asynchronous, work: SetUps) -> None:
    for job in work.jobs:
        await hear()
        begin = time.monotonic()
        pipe = await adapter.connect(job)
        connected = time.monotonic()
        await pipe.send(work.message)
        more = work.done(begin, connected, await pipe.receive(CONNECT))
        tell(next=True, more=more)
        await pipe.close()
        if not more:
            break
    tell(result=work.result())


async def asynchronous_setup_rx(adapter: Asynchronous, work: SetUps) -> None:
    for job in work.jobs:
        pipe = await adapter.listen(job, lambda: tell(next=True))
        message = await pipe.receive(CONNECT)
        if message is not None:
            await pipe.send(bytes(message))
            await pipe.flush(ACKNOWLEDGE)
        more = (await hear()).get("more")
        await pipe.close()
        if not more:
            break
    tell(result={})


def main() -> None:
    module, name, role, text = sys.argv[1:]
    adapter: Adapter
    (adapter,) = (each for each in importlib.import_module(module).ADAPTERS if each.name == name)
    given = json.loads(text)
    job = Job(**{**given["job"], "tx": tuple(given["job"]["tx"]), "rx": tuple(given["job"]["rx"])})
    task = Task(**given["task"])
    if isinstance(adapter, Blocking):
        (blocking_tx if role == "tx" else blocking_rx)(adapter, job, task)
    elif isinstance(adapter, Asynchronous):
        asyncio.run((asynchronous_tx if role == "tx" else asynchronous_rx)(adapter, job, task))
    os._exit(0)  # whatever a library still waits for is not part of anything


if __name__ == "__main__":
    main()
