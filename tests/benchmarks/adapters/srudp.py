"""srudp 0.3.7, the ancestor: a socket in Python with threads and AES-GCM, used as its README does.

Both ends connect to each other. On one machine both name the same port, and one takes the port next to it.
"""

from __future__ import annotations

import select
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from tests.benchmarks.adapters.base import Blocking, Job, Pipe, missing
from tests.benchmarks.parts import Frames, framed

READ = 64 * 1024


class SrudpPipe(Pipe):
    """A connection, which is a stream."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._frames = Frames()
        self._inbox: deque[bytearray] = deque()

    def send(self, message: bytes) -> None:
        self._sock.sendall(framed(message))

    def receive(self, timeout: float) -> bytearray | None:
        deadline = time.monotonic() + timeout
        while not self._inbox:
            # A timeout of the socket would be one for the library's own thread, too.
            left = deadline - time.monotonic()
            if left <= 0 or self._sock.is_closed or not select.select([self._sock], [], [], left)[0]:
                return None
            data = self._sock.recv(READ)
            if not data:
                return None
            self._inbox.extend(self._frames.feed(data))
        return self._inbox.popleft()

    def flush(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while self._sock.sender_buffer and time.monotonic() < deadline:
            time.sleep(0.01)

    def close(self) -> None:
        self._sock.close()

    def facts(self) -> dict[str, Any]:
        return {"mtu": self._sock.mtu_size + 28}


def meet(address: tuple[str, int]) -> Pipe:
    """Wait for the other end."""
    from srudp import SecureReliableSocket

    sock = SecureReliableSocket()
    sock.connect(address)
    return SrudpPipe(sock)


def listen(job: Job, ready: Callable[[], None]) -> Pipe:
    ready()
    return meet(job.rx if job.rx[0] == job.tx[0] else (job.tx[0], job.rx[1]))


def connect(job: Job) -> Pipe:
    return meet(job.rx)


ADAPTERS = (
    Blocking(
        name="srudp 0.3.7",
        package="srudp",
        listen=listen,
        connect=connect,
        # It needs the last two without saying so.
        why_not=lambda: missing("srudp", "ecdsa", "Cryptodome"),
    ),
)
