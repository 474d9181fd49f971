"""Connected pairs of ``SecureReliableSocket``, in both forms and both families of addresses."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from typing import Any, NamedTuple

import pytest

from srmudp import SecureReliableSocket

DEADLINE = 20.0
HOSTS = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
FAMILIES = (socket.AF_INET, socket.AF_INET6)
_bases = count(21_000 + 2 * (hash(object()) % 2000), 2)


class Pair(NamedTuple):
    """Two sockets that are connected to each other."""

    one: SecureReliableSocket
    two: SecureReliableSocket


def free_port(family: int = socket.AF_INET) -> int:
    """A UDP port that is free, as is the one that differs in the last bit."""
    for port in _bases:
        try:
            for number in (port, port ^ 1):
                with socket.socket(family, socket.SOCK_DGRAM) as probe:
                    probe.bind((HOSTS[socket.AddressFamily(family)], number))
        except OSError:
            continue
        return port
    raise AssertionError("no free ports")


class Maker:
    """Makes sockets, which are closed when the test is over, and calls their methods in other threads."""

    def __init__(self) -> None:
        self._made: list[SecureReliableSocket] = []
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="test")

    def __call__(self, *args: Any, **options: Any) -> SecureReliableSocket:
        sock = SecureReliableSocket(*args, **options)
        self._made.append(sock)
        return sock

    def start(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """``function(*args)`` in a thread."""
        return self._threads.submit(function, *args)

    def streams(self, family: int = socket.AF_INET, **options: Any) -> Pair:
        """Two streams."""
        one, two = self(family, **options), self(family, **options)
        address = HOSTS[socket.AddressFamily(family)], free_port(family)
        other = self.start(one.connect, address)
        two.connect(address)
        other.result(DEADLINE)
        return Pair(one, two)

    def messages(self, family: int = socket.AF_INET, **options: Any) -> Pair:
        """Two sockets with messages."""
        one, two = self(0, family, **options), self(0, family, **options)
        host = HOSTS[socket.AddressFamily(family)]
        other = self.start(one.connect, f"{host}:{port_of(two)}")
        two.connect((host, port_of(one)))
        other.result(DEADLINE)
        return Pair(one, two)

    def forget(self, sock: SecureReliableSocket) -> None:
        """Nobody closes it."""
        self._made = [other for other in self._made if other is not sock]

    def end(self) -> None:
        for sock in self._made:
            sock.close()
        self._threads.shutdown()


def port_of(sock: SecureReliableSocket) -> int:
    """The local UDP port."""
    return int(sock.receiver_socket.getsockname()[1])


def read(sock: SecureReliableSocket, size: int, step: int = 65_536) -> bytes:
    """So many bytes of a stream."""
    parts, left = [], size
    while left:
        data = sock.recv(min(step, left))
        assert data, f"{left} of {size} bytes are missing"
        parts.append(data)
        left -= len(data)
    return b"".join(parts)


@pytest.fixture
def make() -> Iterator[Maker]:
    maker = Maker()
    yield maker
    maker.end()
