"""Real sockets on loopback: make and connect them, look at their wire, wait with a deadline."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, TypeVar

import pytest

from srmudp import MultiHolepunchSocket
from srmudp.crypto.backend import select_backend
from srmudp.models import Address
from srmudp.transports.base import Batch, Transport

DEADLINE = 10.0
"""Seconds after which whatever a test waits for counts as never happening."""

ETHERNET = 1472
"""Bytes of UDP payload in an Ethernet frame. Loopback carries datagrams of 65,507, so that few would be seen."""

FAST = find_spec("cryptography") is not None
"""Whether key agreement is cheap here. Without it tests that need many handshakes make fewer."""

Make = Callable[..., MultiHolepunchSocket]
T = TypeVar("T")

BACKENDS: tuple[Any, ...] = (
    pytest.param("cryptography", marks=pytest.mark.skipif(not FAST, reason="cryptography is not installed")),
    "pycryptodome",
)
"""Names for ``Config(backend=...)``, as parameters of a test."""


def reach(condition: Callable[[], T], what: object = "", within: float = DEADLINE) -> T:
    """The first true value of ``condition``, looked at again and again; fails when the time is over.

    For what the library offers no way to wait for: counters, queues of the system.
    """
    deadline = time.monotonic() + within
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not reached within {within:g} s: {what() if callable(what) else what}"
        time.sleep(0.001)
    return value


def all_told(*socks: MultiHolepunchSocket) -> None:
    """Until event hooks were given all that happened: they run on a thread of their own, which may come later than a
    message."""
    for sock in socks:
        told = threading.Event()
        sock._engine.hooks.call(told.set)
        assert told.wait(DEADLINE), state(sock)


def at(sock: MultiHolepunchSocket, host: str = "127.0.0.1") -> tuple[str, int]:
    """Where a socket can be reached."""
    return host, sock.port


def join(a: MultiHolepunchSocket, b: MultiHolepunchSocket, host: str = "127.0.0.1") -> None:
    """Connect two sockets that know each other as "a" and "b"."""
    a.add_peer("b", at(b, host))
    b.add_peer("a", at(a, host))
    connected(a, b)


def messages_received(sock: MultiHolepunchSocket, name: str) -> int:
    """How many messages of a peer were ever accepted."""
    return sock.connections_status[name].stats.messages_received


def drops(sock: MultiHolepunchSocket) -> int:
    """Datagrams discarded so far, for whatever reason."""
    return sum(sock.drops.values())


def connected(a: MultiHolepunchSocket, b: MultiHolepunchSocket, within: float = DEADLINE) -> None:
    """Wait until "a" and "b" are connected."""
    deadline = time.monotonic() + within
    for sock, other in ((a, "b"), (b, "a")):
        status = sock.connections_status
        assert sock.wait_connected(other, max(0.0, deadline - time.monotonic())), (status, sock.drops)


def content(size: int, seed: object = 0) -> bytes:
    """Bytes that depend on ``seed`` alone."""
    return random.Random(f"{seed}/{size}").randbytes(size)


def receive(sock: MultiHolepunchSocket, count: int, within: float = DEADLINE) -> list[bytes]:
    """The contents of the next ``count`` messages; fails if they do not come in time."""
    deadline = time.monotonic() + within
    got: list[bytes] = []
    while len(got) < count:
        message = sock.receive(max(0.0, deadline - time.monotonic()))
        assert message is not None, f"{len(got)} of {count} messages within {within:g} s; {state(sock)}"
        got.append(message.content)
    return got


def digests(contents: Iterable[bytes]) -> list[str]:
    """For comparing what is too long to be shown."""
    return [f"{len(data)}:{hashlib.sha256(data).hexdigest()[:16]}" for data in contents]


def alive(a: MultiHolepunchSocket, b: MultiHolepunchSocket, within: float = DEADLINE) -> None:
    """Both directions still carry a 100 kB message, once; fails otherwise."""
    for sender, receiver, name in ((a, b, "b"), (b, a, "a")):
        data = content(100_000, name)
        delivery = sender.send(data, name)
        assert digests(receive(receiver, 1, within)) == digests([data])
        assert delivery.wait(within), (delivery, state(sender))
        assert receiver.receive(0) is None


def state(sock: MultiHolepunchSocket) -> str:
    """What there is to know of a socket when a test fails."""
    return f"{dict(sock.connections_status)} drops {dict(sock.drops)}"


class Wire:
    """What a socket's system call layer is given and gives: for ``Config(transport=wire)``. One socket each.

    Attributes:
        keep: whether what is sent is written down.
        datagrams: how many were received.
        mtu: longer datagrams are lost on their way out, as on a path of that MTU; 0 is none.
    """

    def __init__(self, *, keep: bool = True, mtu: int = 0) -> None:
        self.keep = keep
        self.mtu = mtu
        self.datagrams = 0
        self.max_segments = 1
        self._inner: Transport | None = None
        self._log: list[_Sent] = []

    def __call__(self, inner: Transport) -> Wire:
        assert self._inner is None, "a Wire serves one socket"
        self._inner = inner
        self.max_segments = inner.max_segments
        return self

    @property
    def inner(self) -> Transport:
        """The real transport."""
        assert self._inner is not None
        return self._inner

    def sent(self) -> Iterator[tuple[Address, bytes]]:
        """Destination and content of each datagram sent so far, in order."""
        for sent in list(self._log):
            for start in range(0, len(sent.payload) if sent.size is None else sent.size, sent.segment_size):
                yield sent.destination, sent.payload[start : start + sent.segment_size]

    def wait(self, datagrams: int, within: float = DEADLINE) -> None:
        """Until so many datagrams in all were received."""
        reach(lambda: self.datagrams >= datagrams, lambda: f"{self.datagrams} of {datagrams} datagrams read", within)

    def fileno(self) -> int:
        return self.inner.fileno()

    def receive_batch(self) -> Batch | None:
        batch = self.inner.receive_batch()
        if batch is not None:
            self.datagrams += -(-len(batch.buffer) // batch.segment_size)
        return batch

    def send_batch(self, payload: bytes, segment_size: int, destination: Address) -> int:
        if self.mtu and min(segment_size, len(payload)) > self.mtu:
            return len(payload)
        if not self.keep:
            return self.inner.send_batch(payload, segment_size, destination)
        # Written down first and corrected afterwards: Ctrl-C in between may make us believe that something left which
        # did not, but never miss anything. What is not handed over is given to us again only if we return.
        sent = _Sent(bytes(payload), segment_size, destination)
        self._log.append(sent)
        sent.size = self.inner.send_batch(payload, segment_size, destination)
        return sent.size

    def local_address(self) -> Address:
        return self.inner.local_address()

    @property
    def errors(self) -> dict[str, int]:
        return self.inner.errors

    def close(self) -> None:
        self.inner.close()


@dataclass(slots=True)
class _Sent:
    payload: bytes
    segment_size: int
    destination: Address
    size: int | None = None


def throw(datagrams: Sequence[bytes], sock: MultiHolepunchSocket, wire: Wire, burst: int = 64) -> None:
    """Send datagrams from a stranger's socket, no faster than they are read (an empty one counts as read at once).

    Args:
        wire: what ``sock`` was made with.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.connect(at(sock))
        for start in range(0, len(datagrams), burst):
            some = datagrams[start : start + burst]
            wanted = wire.datagrams + sum(map(bool, some))
            for datagram in some:
                stranger.send(datagram)
            wire.wait(wanted)


def resident() -> int:
    """Bytes of memory this process has; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def key_agreements(fast: int, slow: int) -> int:
    """``fast`` where key agreement is cheap, else ``slow``."""
    return fast if select_backend().name == "cryptography" else slow


Backend = Literal["cryptography", "pycryptodome"]
