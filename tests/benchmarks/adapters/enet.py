"""ENet, a C library for games: reliable packets over UDP in clear text, served by its caller's loop.

It takes whatever it is given and does not say how much it still holds, so that the receiver tells on a second channel
what has come.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from tests.benchmarks.adapters.base import CONNECT, Blocking, Job, Pipe, missing
from tests.benchmarks.parts import Window

MESSAGES, COUNTS = 0, 1
BULK = 4 * 1024 * 1024
SMALL = 64 * 1024
"""Bytes of messages that are on their way at most."""
TICK = 8 * 1024
"""Bytes of messages after which the library is called, if it has something on its way."""
QUIET = 0.1
"""Seconds after which nothing is to be expected from the other end any more."""


class EnetPipe(Pipe):
    """One host with one peer."""

    def __init__(self, library: Any, address: Any, job: Job) -> None:
        self._enet = library
        self._host = library.Host(address, 1, 2, 0, 0)
        self._peer: Any = None
        self._inbox: deque[bytes] = deque()
        self._over = False
        self._unsent = 0
        self._window = Window(BULK if job.workload == "bulk" else SMALL)

    def call(self, host: str, port: int) -> None:
        """Connect, as the client."""
        self._host.connect(self._enet.Address(host.encode(), port), 2)

    def wait(self) -> None:
        """Until the connection stands."""
        deadline = time.monotonic() + CONNECT
        while self._peer is None:
            if time.monotonic() > deadline:
                raise ConnectionError("no connection")
            self._service(deadline - time.monotonic())

    def _service(self, seconds: float) -> bool:
        """Send and receive what there is; wait so long for something to come if nothing has. Whether something has."""
        if seconds < 0 or self._over:
            return False
        enet, host = self._enet, self._host
        event = host.service(int(seconds * 1000))
        came = False
        while event is not None and event.type != enet.EVENT_TYPE_NONE:
            came = True
            if event.type == enet.EVENT_TYPE_RECEIVE:
                data = event.packet.data
                if event.channelID == COUNTS:
                    self._window.taken(data)
                else:
                    self._inbox.append(data)
                    if self._window.got(len(data)):
                        self._tell()
            elif event.type == enet.EVENT_TYPE_CONNECT:
                self._peer = event.peer
            else:
                self._over = True
            event = host.check_events()
        return came

    def _tell(self) -> None:
        self._peer.send(COUNTS, self._enet.Packet(self._window.count(), self._enet.PACKET_FLAG_RELIABLE))

    def send(self, message: bytes) -> None:
        if self._over:
            raise ConnectionError("the connection has ended")
        self._peer.send(MESSAGES, self._enet.Packet(message, self._enet.PACKET_FLAG_RELIABLE))
        self._window.send(len(message))
        self._unsent += len(message)
        if self._unsent >= TICK or not self._peer.reliableDataInTransit:
            self._unsent = 0
            self._service(0.0)
        while self._window.full and not self._over:
            self._service(1.0)

    def receive(self, timeout: float) -> bytes | None:
        inbox = self._inbox
        if not inbox:
            deadline = time.monotonic() + timeout
            while not inbox and not self._over and time.monotonic() < deadline:
                self._service(deadline - time.monotonic())
        return inbox.popleft() if inbox else None

    def flush(self, timeout: float) -> None:
        if self._over:
            return
        deadline = time.monotonic() + timeout
        self._tell()
        while (
            not self._over
            and (self._peer.reliableDataInTransit or not self._window.empty)
            and time.monotonic() < deadline
        ):
            self._service(0.01)
        while self._service(QUIET) and time.monotonic() < deadline:
            pass

    def close(self) -> None:
        self._peer.disconnect_now()
        self._host.flush()

    def facts(self) -> dict[str, Any]:
        return {"mtu": self._peer.mtu, "lost": self._peer.packetsLost, "rtt": self._peer.roundTripTime / 1000}


def listen(job: Job, ready: Callable[[], None]) -> Pipe:
    import enet

    pipe = EnetPipe(enet, enet.Address(job.rx[0].encode(), job.rx[1]), job)
    ready()
    pipe.wait()
    return pipe


def connect(job: Job) -> Pipe:
    import enet

    pipe = EnetPipe(enet, None, job)
    pipe.call(*job.rx)
    pipe.wait()
    return pipe


ADAPTERS = (
    Blocking(
        name="ENet", package="pyenet", listen=listen, connect=connect, why_not=lambda: missing("enet"), encrypted=False
    ),
)
