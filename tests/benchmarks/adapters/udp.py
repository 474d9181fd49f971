"""Raw UDP with segmentation and receive offload: the limit. Nothing is secret, nothing is repeated.

A message of several datagrams is cut by the system, and put together from what comes: the first has its length. The
receiver tells how much it has, so that the sender does not overrun it.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from collections.abc import Callable

from tests.benchmarks.adapters.base import CONNECT, Blocking, Job, Pipe

SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104
BUFFER = 4 * 1024 * 1024
HEADERS = 28
"""Bytes of IPv4 and UDP."""
LARGEST = 65_507
CALL = 64_000
"""Bytes of one call: the system cuts larger ones up by itself."""
OVERHEAD = 2048
"""Bytes that a small datagram takes of a socket's buffer, at most, in addition to its own."""
PATIENCE = 1.0
"""Seconds after which what the other end has not reported counts as lost."""
HEAD = struct.Struct(">QQ")
MAGIC = 0x9F1D_7C64_52E8_A03B
REPORT = struct.Struct(">Q")
HELLO, WELCOME = b"hello", b"welcome"


class UdpPipe(Pipe):
    """A connected UDP socket."""

    def __init__(self, job: Job, at: tuple[str, int]) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        self.sock.bind(at)
        self.segment = min(LARGEST, job.mtu - HEADERS)
        self.step = max(1, CALL // self.segment) * self.segment
        self._offload = [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", self.segment))] if self.step > self.segment else []
        if self._offload:
            self.sock.setsockopt(SOL_UDP, UDP_GRO, 1)
        self._window = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 4
        self._sent = self._known = self._received = self._told = 0
        self._echoes = job.workload in ("pingpong", "setup")

    def send(self, message: bytes) -> None:
        base, cost = self._sent, len(message) + OVERHEAD
        if not self._echoes:
            self.sock.settimeout(PATIENCE)
            self._wait(self._window)
        if len(message) <= self.segment - HEAD.size:
            self.sock.send(HEAD.pack(MAGIC, len(message)) + message)
        else:
            self.sock.send(HEAD.pack(MAGIC, len(message)))
            with memoryview(message) as view:
                for start in range(0, len(message), self.step):
                    self._sent = base + start
                    self._wait(self._window)
                    self.sock.sendmsg([view[start : start + self.step]], self._offload)
        self._sent = base + cost

    def _wait(self, window: int) -> None:
        """Until the other end has all but so many bytes."""
        while not self._echoes and self._sent - self._known > window:
            try:
                self._known = max(self._known, *REPORT.unpack(self.sock.recv(64)))
            except (TimeoutError, ConnectionError):
                self._known = self._sent  # lost: this is UDP

    def receive(self, timeout: float) -> bytes | bytearray | None:
        self.sock.settimeout(timeout)
        try:
            first = self.sock.recv(LARGEST)
            magic, length = HEAD.unpack_from(first)
            if magic != MAGIC:
                raise ConnectionError("something was lost")
            base = self._received
            if len(first) > HEAD.size:
                self._count(base + length + OVERHEAD)
                return first[HEAD.size :]
            content = bytearray(length)
            done = 0
            with memoryview(content) as view:
                while done < length:
                    done += self.sock.recv_into(view[done:])
                    self._count(base + done)
            self._count(base + length + OVERHEAD)
            return content
        except (TimeoutError, ConnectionError):
            return None

    def _count(self, received: int) -> None:
        """Tell the other end now and then how much has come."""
        self._received = received
        if not self._echoes and received - self._told >= self._window // 8:
            self._told = received
            self.sock.send(REPORT.pack(received))

    def flush(self, timeout: float) -> None:
        if not self._echoes and self._received:
            with contextlib.suppress(OSError):
                self.sock.send(REPORT.pack(1 << 62))
        elif not self._echoes:
            self.sock.settimeout(min(timeout, 2.0))
            self._wait(0)

    def close(self) -> None:
        self.sock.close()


def listen(job: Job, ready: Callable[[], None]) -> Pipe:
    pipe = UdpPipe(job, job.rx)
    pipe.sock.connect(job.tx)
    pipe.sock.settimeout(CONNECT)
    ready()
    assert pipe.sock.recv(64) == HELLO
    pipe.sock.send(WELCOME)
    return pipe


def connect(job: Job) -> Pipe:
    pipe = UdpPipe(job, job.tx)
    pipe.sock.connect(job.rx)
    pipe.sock.settimeout(CONNECT)
    pipe.sock.send(HELLO)
    assert pipe.sock.recv(64) == WELCOME
    return pipe


def why_not() -> str:
    """Only Linux has the offloads."""
    return "" if sys.platform.startswith("linux") else "Linux only"


ADAPTERS = (
    Blocking("raw UDP with GSO", listen, connect, why_not=why_not, encrypted=False, reliable=False, standard=True),
)
