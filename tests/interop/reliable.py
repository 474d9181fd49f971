"""``SecureReliableSocket`` against the published packages, as :mod:`tests.interop.srudp` does it with many peers.

::

    python -m tests.interop.reliable                       # 20 runs with each package, 8 MiB each way

A stream goes straight to ``recv`` in every other run, and through its descriptor in the others.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from srmudp import Config, SecureReliableSocket
from tests.interop.srudp import (
    MIB,
    PACKAGES,
    OldEnd,
    Run,
    Unavailable,
    _LosesBothWays,
    free_ports,
    package_directory,
    runs_of,
)


def converse(run: Run, directory: Path, timeout: float) -> float:
    """Hold one conversation; MiB/s each way.

    Raises:
        AssertionError: something did not come, or came otherwise than it was sent.
    """
    port = free_ports()
    mine, theirs = port, port if run.wire == "srudp" else port + 1
    config = Config()
    if run.loss:
        config = Config(transport=lambda inner: _LosesBothWays(inner, run.loss, run.seed))  # type: ignore[arg-type]
    family = socket.AF_INET6 if ":" in run.host else socket.AF_INET
    sock: Any
    with contextlib.ExitStack() as stack:
        if run.wire == "srudp":
            sock = stack.enter_context(SecureReliableSocket(family, wire=run.wire, config=config))
        else:
            options: dict[str, Any] = {"wire": run.wire, "config": config, "auto_reconnect": False}
            sock = stack.enter_context(SecureReliableSocket(mine, family, **options))
        pool = stack.enter_context(ThreadPoolExecutor(2))
        ends: list[OldEnd] = []

        def start_old() -> None:
            ends.append(OldEnd(run.wire, directory, run.host, theirs, mine))
            stack.callback(ends[0].end)

        if run.first == "old":
            start_old()
            time.sleep(1.0)  # its first and only punch finds nobody
        connecting = pool.submit(sock.connect, (run.host, theirs))
        if run.first == "new":
            time.sleep(0.2)
            start_old()
        connecting.result(30)
        ends[0].wait("connected", 30)
        return _talk(run, sock, ends[0], pool.submit, timeout)


def _talk(run: Run, sock: Any, old: OldEnd, start: Callable[..., Any], timeout: float) -> float:
    began = time.monotonic()
    here, there = random.Random(run.seed + 1).randbytes(run.size), random.Random(run.seed + 2).randbytes(run.size)
    old.tell(f"send {run.seed + 2} {run.size}")
    sending = start(sock.sendall, here)
    got = b"".join(_read(run, sock, began + timeout))
    assert hashlib.sha256(got).digest() == hashlib.sha256(there).digest(), f"received something else ({len(got)} bytes)"
    sending.result(timeout)
    while (said := old.wait("received", timeout))["total"] < run.size:
        pass
    assert said == {"what": "received", "total": run.size, "sha256": hashlib.sha256(here).hexdigest()}
    took = time.monotonic() - began
    if run.wire == "srudp" and not run.loss:
        sock.broadcast(b"to everyone")
        assert old.wait("broadcast", 5)["text"] == "to everyone"
        old.tell("broadcast to us")
        assert sock.recv(100) == b"to us"
    assert sock.established
    if run.closes == "old":
        old.tell("close")
        old.wait("ended", 10)
        if not run.loss:  # its only FIN may be lost
            assert (sock.recv(10) == b"") if run.wire == "srudp" else (sock.receive(timeout=5) is None)
            assert sock.is_closed, "its close was not noticed"
    else:
        old.tell("wait")
        sock.close()
        closed = old.wait("closed", 10)
        assert closed["by_peer"] or run.wire != "srudp", "our close was not noticed"
    return run.size / MIB / took


def _read(run: Run, sock: Any, deadline: float) -> Iterator[bytes]:
    left = run.size
    if run.wire == "srudp" and run.seed % 2:
        sock.fileno()
    while left:
        remaining = max(0.1, deadline - time.monotonic())
        if run.wire == "srudp":
            sock.settimeout(remaining)
            data = sock.recv(min(left, 65_536))
        else:
            received = sock.receive(timeout=remaining)
            data = b"" if received is None else received[1]
        assert data, f"{left} of {run.size} bytes are missing"
        left -= len(data)
        yield data


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.interop.reliable", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--runs", type=int, default=20, help="conversations with each package")
    parser.add_argument("--size", type=float, default=8.0, help="MiB each way")
    parser.add_argument("--first", type=int, default=0, help="begin with the run of this number")
    parser.add_argument("--package", choices=list(PACKAGES), help="one of them; both by default")
    parser.add_argument("--loss", type=float, help="share of the datagrams lost, both ways")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=180.0, help="seconds for one transfer")
    given = parser.parse_args()
    failed = passed = 0
    for wire in [given.package] if given.package else list(PACKAGES):
        runs = list(runs_of(wire, given.first + given.runs, int(given.size * MIB), given.loss, given.seed))
        for run in runs[given.first :]:
            what = f"{wire:13} {run.host:9} {run.first} first, {run.closes} closes, loss {run.loss:.0%}"
            try:
                directory = package_directory(wire)  # each time: the cache may be cleared meanwhile
                print(f"{what}: {converse(run, directory, given.timeout):.2f} MiB/s each way", flush=True)
            except Unavailable as error:
                print(f"{wire}: {error}", flush=True)
                return 2
            except (AssertionError, OSError) as error:
                failed += 1
                print(f"{what}: FAILED: {error!r}", flush=True)
            else:
                passed += 1
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
