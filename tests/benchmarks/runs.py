"""One run of a benchmark: two processes, what they say, whether it holds, and how quiet the machine was."""

from __future__ import annotations

import contextlib
import importlib
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from tests.benchmarks.adapters.base import CONNECT, Adapter, Job
from tests.benchmarks.places import Place, free_ports
from tests.benchmarks.quiet import LIMIT, Spinner
from tests.benchmarks.workloads import Task

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = "tests.benchmarks.adapters"
FIRST_PORT = 9100
"""In a namespace of our own."""
ATTEMPTS = 3
"""Runs at most for one that is to be quiet."""
GRACE = 5.0
"""Seconds for which a sender may go on after the receiver has finished."""


@dataclass
class Run:
    """What one run was like.

    Attributes:
        values: the figures, by name; seconds, bytes, or per second.
        spin: seconds that a piece of work took beside it.
        slow: the same by what it takes at the quietest.
        error: why it does not count.
        note: what is to be known about it, though it counts.
        details: what the ends said.
    """

    values: dict[str, float] = field(default_factory=dict)
    spin: float = 0.0
    slow: float = 0.0
    error: str = ""
    note: str = ""
    details: dict[str, Any] = field(default_factory=dict)


def adapters() -> dict[str, tuple[str, Adapter]]:
    """All that there are, ours first: name to module and adapter."""
    stems = sorted(path.stem for path in (Path(__file__).parent / "adapters").glob("*.py") if path.stem != "base")
    found = [(f"{HERE}.{stem}", each) for stem in stems for each in importlib.import_module(f"{HERE}.{stem}").ADAPTERS]
    found.sort(key=lambda pair: (not pair[0].endswith(".srmudp"), not pair[1].standard))
    return {adapter.name: (module, adapter) for module, adapter in found}


class Ends:
    """Processes that print lines of JSON; killed by leaving the ``with`` block."""

    def __init__(self) -> None:
        self._said: queue.SimpleQueue[tuple[str, dict[str, Any] | None]] = queue.SimpleQueue()
        self._processes: dict[str, tuple[subprocess.Popen[str], IO[str]]] = {}

    def start(self, who: str, command: Sequence[str]) -> None:
        """Start one."""
        errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        self._processes[who] = process, errors
        threading.Thread(target=self._listen, args=(who, process), daemon=True).start()

    def _listen(self, who: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with contextlib.suppress(ValueError):
            for line in process.stdout:
                with contextlib.suppress(json.JSONDecodeError):  # a library may print what it likes
                    said = json.loads(line)
                    if isinstance(said, dict):
                        self._said.put((who, said))
        self._said.put((who, None))

    def hear(self, timeout: float) -> tuple[str, dict[str, Any] | None]:
        """Who says what; None if it has ended.

        Raises:
            TimeoutError: nobody says anything.
        """
        try:
            return self._said.get(timeout=max(0.0, timeout))
        except queue.Empty:
            raise TimeoutError from None

    def tell(self, who: str, said: dict[str, Any]) -> None:
        """Print a line to one."""
        stdin = self._processes[who][0].stdin
        assert stdin is not None
        with contextlib.suppress(OSError):
            stdin.write(json.dumps(said) + "\n")
            stdin.flush()

    def last_words(self, who: str) -> str:
        """The last line of what it wrote about errors."""
        errors = self._processes[who][1]
        errors.seek(0)
        lines = errors.read().split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it ended")[:200]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            for who in self._processes:
                self.tell(who, {})
            with contextlib.suppress(subprocess.TimeoutExpired):
                for process, _ in self._processes.values():
                    process.wait(2.0)
        for process, errors in self._processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, errors):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()


def conduct(adapter: tuple[str, Adapter], task: Task, place: Place, certificate: str) -> Run:
    """Have the two ends do their work once."""
    module, what = adapter
    ports = list(range(FIRST_PORT, FIRST_PORT + 2)) if place.enter_tx else free_ports(2)
    if task.workload == "setup":
        count = 2 * (len(task.ports) or 50)
        ports = list(range(FIRST_PORT, FIRST_PORT + count)) if place.enter_tx else free_ports(count)
        task = replace(task, ports=list(zip(ports[::2], ports[1::2], strict=True)))
    job = Job(
        (place.tx, ports[0]),
        (place.rx, ports[1]),
        mtu=place.mtu,
        workload=task.workload,
        size=task.size,
        certificate=certificate,
        options=what.options,
    )
    text = json.dumps({"job": asdict(job), "task": asdict(task)})
    results: dict[str, dict[str, Any]] = {}
    begin = 0.0
    with Ends() as ends:
        for who, enter in (("rx", place.enter_rx), ("tx", place.enter_tx)):
            ends.start(who, [*enter, sys.executable, "-m", "tests.benchmarks.workloads", module, what.name, who, text])
        deadline = time.monotonic() + 2 * CONNECT + task.seconds + 2 * task.limit
        while len(results) < 2:
            try:
                who, said = ends.hear(deadline - time.monotonic())
            except TimeoutError:
                if "rx" in results and begin:
                    break
                return Run(error="nothing more came")
            if said is None:
                if who not in results:
                    return Run(error=f"{who}: {ends.last_words(who)}")
            elif "next" in said:
                ends.tell("rx" if who == "tx" else "tx", said)
            elif "begin" in said:
                begin = said["begin"]
            elif "result" in said:
                results[who] = said["result"]
                if who == "rx":
                    deadline = min(deadline, time.monotonic() + GRACE)
    return judge(task, begin, results.get("tx", {}), results["rx"])


def judge(task: Task, begin: float, sent: dict[str, Any], received: dict[str, Any]) -> Run:
    """What the ends say, as figures, if it holds."""
    run = Run(details={"begin": begin, "tx": sent, "rx": received})
    if task.workload in ("bulk", "small"):
        if not received["count"]:
            run.error = "not one message came in time"
        elif not received["intact"] or (received["complete"] and sent and sent.get("sha256") != received.get("sha256")):
            run.error = "SHA-256 differs"
        elif not received["complete"]:
            run.note = "stopped at the time limit"
        if run.error:
            return run
        seconds = received["end"] - begin
        gigabytes = received["bytes"] / 1e9
        run.values = {"rate": received["bytes"] / seconds, "seconds": seconds, "cpu_rx": received["cpu"] / gigabytes}
        if sent and received["complete"]:
            run.values["cpu_tx"] = sent["cpu"] / gigabytes
            run.values["cpu"] = run.values["cpu_tx"] + run.values["cpu_rx"]
        facts = sent.get("facts", {})
        if facts.get("datagrams"):
            run.values["lost"] = facts["lost"] / facts["datagrams"]
        if task.workload == "small":
            run.values["messages"] = received["count"] / seconds
            run.values |= {key: received[key] for key in ("age_p50", "age_p99", "age_max")}
            run.values["each_rx"] = received["cpu"] / received["count"]
            if sent and sent["count"]:
                run.values["each_tx"] = sent["cpu"] / sent["count"]
        return run
    if not sent.get("count"):
        run.error = "no answer"
    elif not sent["intact"] or ("sha256" in sent and sent["sha256"] != received["sha256"]):
        run.error = "SHA-256 differs"
    elif not sent["complete"]:
        run.error = "an answer did not come"
    else:
        run.values = {key: sent[key] for key in ("p50", "p99", "answered_p50") if key in sent}
    return run


class Quiet:
    """Runs beside which the machine was quiet, as far as that can be had.

    Args:
        spare: seconds that may go into making runs again, in all.
    """

    def __init__(self, spinner: Spinner, spare: float) -> None:
        self.spinner = spinner
        self.spare = spare

    def __call__(self, make: Callable[[], Run]) -> Run:
        """The quietest of up to ``ATTEMPTS`` runs, none after a quiet one. One that fails is not hidden by another."""
        best: Run | None = None
        for _ in range(ATTEMPTS):
            began = time.monotonic()
            before = self.spinner.measure()
            made = make()
            made.spin = max(before, self.spinner.measure())
            made.slow = made.spin / self.spinner.quiet
            if made.error:
                return made
            if best is None or made.slow < best.slow:
                best = made
            if best.slow <= LIMIT or self.spare <= 0:
                break
            self.spare -= time.monotonic() - began
        assert best is not None
        return best
