"""More sockets beside a socket's own, as they are read and answered by threads and by an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import Iterator

import pytest

from srmudp import MultiHolepunchSocket
from srmudp.aio import MultiHolepunchSocket as AsyncSocket
from srmudp.models import Address
from srmudp.protocol.events import SocketsWanted
from srmudp.wire.stun import StunClass, StunMessage, parse_stun

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there are more sockets on Linux alone")

COUNT = 20


class Remote:
    """Somebody who asks by STUN what address it has, at one of the many ports it was sent to from."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(5)
        self.address = Address(*self.socket.getsockname())

    def ports(self) -> list[int]:
        """Where openers came from."""
        found = {self.socket.recvfrom(100)[1][1] for _ in range(COUNT)}
        assert len(found) == COUNT
        return sorted(found)

    def ask(self, port: int) -> None:
        self.socket.sendto(StunMessage(StunClass.REQUEST, bytes(12)).encode(), ("127.0.0.1", port))

    def answer(self) -> tuple[Address | None, int]:
        """What it was told, and from which port."""
        datagram, source = self.socket.recvfrom(2000)
        return parse_stun(datagram).address, source[1]


@pytest.fixture
def remote() -> Iterator[Remote]:
    made = Remote()
    with contextlib.closing(made.socket):
        yield made


def look_again(deadline: float) -> None:
    assert time.monotonic() < deadline
    time.sleep(0.001)


def test_with_threads(remote: Remote) -> None:
    told: list[int] = []
    with MultiHolepunchSocket(host="127.0.0.1", serve_stun=True) as sock:
        driver = sock._engine.driver
        for count in (COUNT, 1):
            driver.run(
                lambda now, count=count: driver.spread(
                    lambda now, name, opened: told.append(opened), SocketsWanted("bob", remote.address, count)
                )
            )
            if count > 1:
                deadline = time.monotonic() + 5
                while not told:
                    look_again(deadline)
                driver.transport.send_opener(b"open", remote.address, 2)
                port = remote.ports()[7]
            else:
                deadline = time.monotonic() + 5
                while not driver.transport._fan._branches[remote.address].settled:  # a thread of the socket sees to it
                    look_again(deadline)
            remote.ask(port)
            assert remote.answer() == (remote.address, port)
        remote.ask(sock.port)  # the socket's own is still there; what is settled stays as it is
        assert remote.answer() == (remote.address, port)
    assert told == [COUNT]


def test_with_an_event_loop(remote: Remote) -> None:
    told: list[int] = []

    async def work() -> None:
        loop = asyncio.get_running_loop()
        async with AsyncSocket(host="127.0.0.1", serve_stun=True) as sock:
            driver = sock._engine.driver
            for count in (COUNT, 1):
                driver.spread(
                    lambda now, name, opened: told.append(opened), SocketsWanted("bob", remote.address, count)
                )
                await asyncio.sleep(0)
                if count > 1:
                    driver.transport.send_opener(b"open", remote.address, 2)
                    port = remote.ports()[7]
                remote.ask(port)
                assert await loop.run_in_executor(None, remote.answer) == (remote.address, port)
            remote.ask(sock.port)
            assert await loop.run_in_executor(None, remote.answer) == (remote.address, port)

    asyncio.run(work())
    assert told == [COUNT]
