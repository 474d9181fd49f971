"""Our end of the old wire against the published packages themselves, which run in other processes, unchanged.

::

    python -m tests.interop.srudp                       # 20 runs with each package, 8 MiB each way
    python -m tests.interop.srudp --runs 4 --size 1 --package srudp --loss 0.02

The packages are installed from PyPI, each into a directory of its own (one of them has our name); that happens once.
Runs take turns in who speaks first, in IPv4 and IPv6 and in who closes; ``--loss`` is that of both directions, and
without it each fifth run loses 2 %. Everything stays on the loopback interface.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import queue
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srmudp import Config, MultiHolepunchSocket
from srmudp.models import EventKind, Wire
from srmudp.transports.base import Transport
from srmudp.transports.impaired import ImpairedTransport

PACKAGES: dict[Wire, tuple[str, ...]] = {
    "srudp": ("srudp==0.3.7", "ecdsa", "pycryptodomex"),  # it needs the other two without saying so
    "srmudp-0.0.4": ("srmudp==0.0.4",),
}
INSTALL_TIMEOUT = 120.0
MIB = 1 << 20


class Unavailable(RuntimeError):
    """The package cannot be installed here."""


def package_directory(wire: Wire, timeout: float = INSTALL_TIMEOUT) -> Path:
    """Where the package of this wire is, installed now if need be, in at most ``timeout`` seconds.

    Raises:
        Unavailable: it cannot be; the text says why.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "srmudp-interop"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    directory = cache / f"{wire}-python{version}"
    if directory.is_dir():
        return directory
    cache.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"]
    with tempfile.TemporaryDirectory(dir=cache) as made:
        target = Path(made) / "packages"
        try:
            subprocess.run([*command, str(target), *PACKAGES[wire]], check=True, capture_output=True, timeout=timeout)
        except (OSError, subprocess.SubprocessError) as error:
            told = getattr(error, "stderr", None) or b""
            raise Unavailable(f"{PACKAGES[wire][0]} cannot be installed: {error} {told[-300:]!r}") from error
        with contextlib.suppress(OSError):  # another process was faster
            target.rename(directory)
    return directory


class OldEnd:
    """The old program."""

    def __init__(self, wire: Wire, directory: Path, host: str, port: int, remote: int) -> None:
        given = {"dialect": wire, "host": host, "port": port, "remote": remote}
        self.said: queue.Queue[dict[str, Any]] = queue.Queue()
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the program runs
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("old_end.py")), json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env={**os.environ, "PYTHONPATH": str(directory)},
            cwd=directory,
            text=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with contextlib.suppress(json.JSONDecodeError):
                self.said.put(json.loads(line))
        self.said.put({"what": "over"})

    def tell(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()

    def wait(self, what: str, timeout: float) -> dict[str, Any]:
        """The next thing of this kind that it says.

        Raises:
            AssertionError: it ended, or the time is over.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                said = self.said.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"the old end has not said {what!r} in {timeout:g} s") from None
            if said["what"] == what:
                return said
            if said["what"] == "over":
                raise AssertionError(f"the old end is over; {what!r} was waited for. {self.complaints()}")

    def complaints(self) -> str:
        self.errors.seek(0)
        return self.errors.read().decode(errors="replace")[-2000:]

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self.errors):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class _LosesBothWays:
    """A transport that loses what it sends as well as what it receives."""

    def __init__(self, inner: Transport, loss: float, seed: int) -> None:
        self._inner = ImpairedTransport(inner, loss=loss, seed=seed)
        self._loss = loss
        self._random = random.Random(seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def send_batch(self, payload: bytes, segment_size: int, destination: Any) -> int:
        for offset in range(0, len(payload), segment_size):
            if self._random.random() >= self._loss:
                datagram = payload[offset : offset + segment_size]
                self._inner.send_batch(datagram, len(datagram), destination)
        return len(payload)


@dataclass(frozen=True)
class Run:
    """One conversation.

    Attributes:
        first: who is started first, "old" or "new".
        closes: who closes.
        size: bytes each way.
    """

    wire: Wire
    host: str
    first: str
    closes: str
    size: int
    loss: float = 0.0
    seed: int = 0


def free_ports() -> int:
    """An even port that is free, as is the one above it, in both families."""
    for _ in range(1000):
        port = random.randrange(20_000, 60_000, 2)
        with contextlib.ExitStack() as stack:
            try:
                for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
                    for number in (port, port + 1):
                        sock = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
                        sock.bind((host, number))
            except OSError:
                continue
        return port
    raise AssertionError("no two free ports")


def converse(run: Run, directory: Path, timeout: float) -> dict[str, float]:
    """Hold one conversation; seconds of its parts.

    Raises:
        AssertionError: something did not come, or came otherwise than it was sent.
    """
    port = free_ports()
    # srudp has one number for both ends: the first to bind has it, the other the number beside it.
    mine, theirs = (port, port + 1) if run.first == "new" or run.wire != "srudp" else (port + 1, port)
    given = port if run.wire == "srudp" else theirs
    config = Config()
    if run.loss:
        config = Config(transport=lambda inner: _LosesBothWays(inner, run.loss, run.seed))  # type: ignore[arg-type]
    ends: list[OldEnd] = []
    with contextlib.ExitStack() as stack:

        def start_old() -> OldEnd:
            ends.append(OldEnd(run.wire, directory, run.host, given, mine))
            stack.callback(ends[0].end)
            return ends[0]

        if run.first == "old":
            start_old()
            time.sleep(1.0)  # its first and only punch finds nobody
        sock = stack.enter_context(MultiHolepunchSocket(mine, host=run.host, wire=run.wire, config=config))
        lost = threading.Event()
        sock.on_event(lambda event: lost.set() if event.kind == EventKind.LOST else None)
        began = time.monotonic()
        sock.add_peer("old", (run.host, theirs))
        old = ends[0] if ends else start_old()
        return _talk(run, sock, old, lost, began, timeout)


def _talk(
    run: Run, sock: MultiHolepunchSocket, old: OldEnd, lost: threading.Event, began: float, timeout: float
) -> dict[str, float]:
    assert sock.wait_connected(timeout=30), f"not connected: {sock.connections_status['old'].failure}"
    old.wait("connected", 30)
    connected = time.monotonic()
    here, there = random.Random(run.seed + 1).randbytes(run.size), random.Random(run.seed + 2).randbytes(run.size)
    delivery = sock.send(here, "old")
    delivered: list[float] = []

    def wait() -> None:
        if delivery.wait(timeout):
            delivered.append(time.monotonic())

    waiter = threading.Thread(target=wait, daemon=True)
    waiter.start()
    old.tell(f"send {run.seed + 2} {run.size}")
    digest, total = hashlib.sha256(), 0
    while total < run.size:
        message = sock.receive(timeout=max(0.0, connected + timeout - time.monotonic()))
        assert message is not None, f"{total} of {run.size} bytes received; {sock.connections_status['old']}"
        assert message.channel == 0, "a broadcast came among the stream"
        digest.update(message.content)
        total += len(message.content)
    assert (total, digest.digest()) == (run.size, hashlib.sha256(there).digest()), "received something else"
    received = time.monotonic()
    waiter.join()
    assert delivered, "not delivered"
    while (said := old.wait("received", timeout))["total"] < run.size:
        pass
    assert said == {"what": "received", "total": run.size, "sha256": hashlib.sha256(here).hexdigest()}
    if run.wire == "srudp" and not run.loss:
        sock.send(b"to everyone", "old", reliable=False)
        assert old.wait("broadcast", 5)["text"] == "to everyone"
        old.tell("broadcast to us")
        message = sock.receive(5)
        assert message is not None, "no broadcast"
        assert (message.content, message.channel) == (b"to us", 1)
    assert not lost.is_set(), "the connection was lost meanwhile"
    if run.closes == "old":
        old.tell("close")
        old.wait("ended", 10)
        # Over a bad network the one FIN of an old program may be lost; silence tells in the end.
        assert run.loss or lost.wait(2), "its close was not noticed"
    else:
        old.tell("wait")
        sock.close()
        closed = old.wait("closed", 10)
        # srmudp 0.0.4 ends its thread at a FIN and goes on saying that it is open.
        assert closed["by_peer"] or run.wire != "srudp", "our close was not noticed"
    return {"connect": connected - began, "receive": received - connected, "deliver": delivered[0] - connected}


def runs_of(wire: Wire, count: int, size: int, loss: float | None, seed: int) -> Iterator[Run]:
    """That many conversations, as different from each other as may be."""
    for number in range(count):
        lossy = 0.02 if loss is None and number % 5 == 4 else loss or 0.0
        yield Run(
            wire,
            host=("127.0.0.1", "::1")[number % 2],
            first=("old", "new")[number // 2 % 2],
            closes=("old", "new")[number // 4 % 2],
            size=size,
            loss=lossy,
            seed=seed + number,
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.interop.srudp", description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=20, help="conversations with each package")
    parser.add_argument("--size", type=float, default=8.0, help="MiB each way")
    parser.add_argument("--package", choices=list(PACKAGES), help="one of them; both by default")
    parser.add_argument("--loss", type=float, help="share of the datagrams lost, both ways")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=180.0, help="seconds for one transfer")
    given = parser.parse_args()
    failed = passed = 0
    for wire in [given.package] if given.package else list(PACKAGES):
        try:
            directory = package_directory(wire)
        except Unavailable as error:
            print(f"{wire}: {error}", flush=True)
            return 2
        for run in runs_of(wire, given.runs, int(given.size * MIB), given.loss, given.seed):
            what = f"{wire:13} {run.host:9} {run.first} first, {run.closes} closes, loss {run.loss:.0%}"
            try:
                took = converse(run, directory, given.timeout)
            except AssertionError as error:
                failed += 1
                print(f"{what}: FAILED: {error}", flush=True)
            else:
                passed += 1
                there, here = (run.size / MIB / took[part] for part in ("deliver", "receive"))
                print(
                    f"{what}: connected in {took['connect']:.1f} s, {there:.2f} MiB/s there, {here:.2f} back",
                    flush=True,
                )
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
