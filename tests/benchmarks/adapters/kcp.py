"""KCP, a protocol in C without a socket, in clear text: what it wants sent goes through a socket of ours.

The settings are its documentation's fastest ("turbo mode"), which switch congestion control off. It takes messages of
at most 127 datagrams: larger ones go in pieces.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from tests.benchmarks.adapters.base import CONNECT, Blocking, Job, Pipe, missing
from tests.benchmarks.parts import PIECE, Frames, framed

LARGEST = 65_535
"""Bytes of an IP packet."""
HEADERS = 28
"""Bytes of IPv4 and UDP."""
BUFFER = 4 * 1024 * 1024
WINDOW = 512 * 1024
"""Bytes on their way: not more than a socket's buffer bears."""
BACKLOG = 2 * 1024 * 1024
"""Bytes that the library may hold."""
TICK = 8 * 1024
"""Bytes of messages after which the library is called, if it has something on its way."""
BATCH = 64
"""Datagrams read before the library acknowledges them."""
QUIET = 0.1
"""Seconds after which nothing is to be expected from the other end any more."""
HELLO = b"hello"


class KcpPipe(Pipe):
    """One conversation over one socket."""

    def __init__(self, library: Any, sock: socket.socket, job: Job) -> None:
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, BUFFER)
        sock.setblocking(False)
        self._sock = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._mtu = min(job.mtu, LARGEST) - HEADERS
        window = max(128, WINDOW // self._mtu)
        self._kcp = library.KCP(
            1,
            max_transmission=self._mtu,
            no_delay=True,
            update_interval=10,
            resend_count=2,
            no_congestion_control=True,
            send_window_size=window,
            receive_window_size=window,
        )
        self._kcp.include_outbound_handler(self._transmit)
        self._kcp.update()
        self._backlog = max(window, BACKLOG // self._mtu)
        self._frames = Frames()
        self._inbox: deque[bytearray] = deque()
        self._unsent = 0

    def _transmit(self, _: Any, data: bytes) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):  # it will be repeated
            self._sock.send(data)

    def _service(self, seconds: float) -> bool:
        """Send and receive what there is; wait so long for something to come if nothing has. Whether something has."""
        kcp, recv = self._kcp, self._sock.recv
        if seconds > 0 and not self._poll.poll(min(seconds * 1000, max(1, kcp.update_check()))):
            kcp.update()
            return False
        came = 0
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
            while came < BATCH:
                kcp.receive(recv(65_536))
                came += 1
        kcp.update()
        kcp.flush()
        self._unsent = 0
        while kcp.next_packet_available:
            self._inbox.extend(self._frames.feed(kcp.get_received()))
        return came > 0

    def send(self, message: bytes) -> None:
        kcp = self._kcp
        data = framed(message)
        for start in range(0, len(data), PIECE):
            idle = not kcp.get_outbound_packets()
            kcp.enqueue(data[start : start + PIECE])
            self._unsent += min(PIECE, len(data) - start)
            if idle or self._unsent >= TICK:
                self._service(0.0)
            while kcp.get_outbound_packets() > self._backlog:
                self._service(1.0)

    def receive(self, timeout: float) -> bytearray | None:
        inbox = self._inbox
        if not inbox:
            deadline = time.monotonic() + timeout
            self._service(0.0)
            while not inbox and (left := deadline - time.monotonic()) > 0:
                self._service(left)
        return inbox.popleft() if inbox else None

    def flush(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        quiet = time.monotonic() + QUIET
        while time.monotonic() < deadline and (self._kcp.get_outbound_packets() or time.monotonic() < quiet):
            if self._service(0.01):
                quiet = time.monotonic() + QUIET

    def close(self) -> None:
        self._sock.close()

    def facts(self) -> dict[str, Any]:
        return {"mtu": self._mtu + HEADERS}


def listen(job: Job, ready: Callable[[], None]) -> Pipe:
    import kcp

    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(job.rx)
    ready()
    sock.settimeout(CONNECT)
    _, address = sock.recvfrom(65_536, socket.MSG_PEEK)
    sock.connect(address)
    pipe = KcpPipe(kcp, sock, job)
    if pipe.receive(CONNECT) != HELLO:
        raise ConnectionError("no greeting")
    pipe.send(HELLO)
    return pipe


def connect(job: Job) -> Pipe:
    import kcp

    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((job.tx[0], 0))
    sock.connect(job.rx)
    pipe = KcpPipe(kcp, sock, job)
    pipe.send(HELLO)
    if pipe.receive(CONNECT) != HELLO:
        raise ConnectionError("no answer")
    return pipe


ADAPTERS = (
    Blocking(
        name="KCP", package="kcp", listen=listen, connect=connect, why_not=lambda: missing("kcp"), encrypted=False
    ),
)
