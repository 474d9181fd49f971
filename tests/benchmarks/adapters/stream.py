"""srmudp as a stream of bytes: :class:`SecureReliableSocket` in the form of srudp, with ``sendall`` and ``recv``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tests.benchmarks.adapters.base import Blocking, Job, Pipe
from tests.benchmarks.adapters.srmudp import FAST, no_fast
from tests.benchmarks.aims import STREAM
from tests.benchmarks.framing import FramedPipe


class StreamPipe(FramedPipe):
    """A connection; messages are cut out of the stream as any program has to do it."""

    def flush(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while self.sock.status.queued and time.monotonic() < deadline:
            time.sleep(0.01)

    def facts(self) -> dict[str, Any]:
        stats = self.sock.status.stats
        return {"mtu": self.sock.mtu_size, "datagrams": stats.datagrams_sent, "lost": stats.datagrams_lost}


def meet(job: Job, address: tuple[str, int]) -> Pipe:
    """Both ends name one port; on one machine the second takes the one beside it."""
    from srmudp import Config, SecureReliableSocket

    sock = SecureReliableSocket(flavour="stream", config=Config(backend=job.options["backend"]))
    sock.connect(address)
    return StreamPipe(sock)


def listen(job: Job, ready: Callable[[], None]) -> Pipe:
    ready()
    return meet(job, job.rx if job.rx[0] == job.tx[0] else (job.tx[0], job.rx[1]))


def connect(job: Job) -> Pipe:
    return meet(job, job.rx)


ADAPTERS = (
    Blocking(
        STREAM,
        listen,
        connect,
        why_not=no_fast,
        standard=True,
        workloads=("bulk", "pingpong"),
        options=FAST,
    ),
)
