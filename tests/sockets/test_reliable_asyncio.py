"""SecureReliableSocket in an event loop: asyncio.open_connection(sock=sock) and the loop's own calls for sockets."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from srmudp import Config
from tests.programs import Program
from tests.sockets.pairs import DEADLINE, FAMILIES, Maker, Pair, free_port, make, read

__all__ = ["make"]

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def run(scene: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(DEADLINE):
            await scene()

    asyncio.run(limited())


async def opened(pair: Pair) -> tuple[Ends, Ends]:
    return await asyncio.open_connection(sock=pair.one), await asyncio.open_connection(sock=pair.two)


async def closed(*writers: asyncio.StreamWriter) -> None:
    for writer in writers:
        writer.close()
    for writer in writers:
        await writer.wait_closed()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_conversation(make: Maker, family: int) -> None:
    async def scene() -> None:
        pair = await asyncio.to_thread(make.streams, family)
        (reader1, writer1), (reader2, writer2) = await opened(pair)
        assert writer1.get_extra_info("peername") == writer2.get_extra_info("sockname")
        writer1.write(b"nice world\n")
        await writer1.drain()
        assert await reader2.readline() == b"nice world\n"
        writer2.writelines([b"and ", b"back"])
        await writer2.drain()
        assert await reader1.readexactly(8) == b"and back"
        await closed(writer1, writer2)
        deadline = time.monotonic() + 1.0
        while not (pair.one.is_closed and pair.two.is_closed):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.001)

    run(scene)


def test_much_in_both_directions_at_once(make: Maker) -> None:
    async def scene() -> None:
        (reader1, writer1), (reader2, writer2) = await opened(await asyncio.to_thread(make.streams))
        there, back = os.urandom(2_000_000), os.urandom(2_000_000)

        async def send(writer: asyncio.StreamWriter, data: bytes) -> None:
            for at in range(0, len(data), 150_000):
                writer.write(data[at : at + 150_000])
                await writer.drain()
            writer.write_eof()

        received = await asyncio.gather(reader2.read(), reader1.read(), send(writer1, there), send(writer2, back))
        assert received[0] == there
        assert received[1] == back
        await closed(writer1, writer2)

    run(scene)


def test_the_readers_wake_when_the_other_end_closes(make: Maker) -> None:
    async def scene() -> None:
        pair = await asyncio.to_thread(make.streams)
        (_, writer1), (reader2, writer2) = await opened(pair)
        waiting = asyncio.create_task(reader2.read())
        await asyncio.sleep(0.01)
        writer1.write(b"the last word")
        await closed(writer1)
        assert await waiting == b"the last word"
        assert reader2.at_eof()
        await closed(writer2)

    run(scene)


def test_a_reader_is_told_that_the_stream_is_torn(make: Maker) -> None:
    async def scene() -> None:
        pair = await asyncio.to_thread(make.streams)
        reader, writer = await asyncio.open_connection(sock=pair.two)
        await asyncio.to_thread(pair.one.sendall, b"not all")
        assert await reader.readexactly(7) == b"not all"
        assert pair.one._line is not None
        pair.one._line.before_close = lambda limit: False  # something is left that it cannot send
        await asyncio.to_thread(pair.one.close)
        with pytest.raises(ConnectionResetError, match="before its end: its program ended"):
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionResetError):
            await writer.wait_closed()

    run(scene)


def test_drain_waits_for_a_peer_that_does_not_read_and_the_loop_goes_on(make: Maker) -> None:
    async def scene() -> None:
        config = Config(send_queue=300_000, channel_window=300_000, connection_window=300_000)
        pair = await asyncio.to_thread(make.streams, socket.AF_INET, config=config)
        _, writer = await asyncio.open_connection(sock=pair.one)
        data = os.urandom(4_000_000)
        writer.write(data)
        draining = asyncio.create_task(writer.drain())
        await asyncio.sleep(0.1)
        assert not draining.done()
        got = bytearray()

        def read() -> None:
            while len(got) < len(data):
                got.extend(pair.two.recv(100_000))

        await asyncio.gather(asyncio.to_thread(read), draining)
        assert got == data
        await closed(writer)

    run(scene)


def test_the_calls_of_the_loop_for_sockets(make: Maker) -> None:
    async def scene() -> None:
        loop = asyncio.get_running_loop()
        one, two = make(), make()
        address = "127.0.0.1", free_port()
        await asyncio.gather(*(loop.run_in_executor(None, sock.connect, address) for sock in (one, two)))
        one.setblocking(False)
        two.setblocking(False)
        receiving = asyncio.create_task(loop.sock_recv(two, 100))
        await asyncio.sleep(0.01)
        await loop.sock_sendall(one, b"hello")
        assert await receiving == b"hello"
        buffer = bytearray(10)
        await loop.sock_sendall(two, b"there")
        assert await loop.sock_recv_into(one, buffer) == 5
        assert buffer.startswith(b"there")

    run(scene)


WRITER = """
import asyncio, sys
from srmudp import Config, SecureReliableSocket

async def main():
    sock = SecureReliableSocket(config=Config(send_queue=200_000))
    await asyncio.to_thread(sock.connect, ("127.0.0.1", int(sys.argv[1])))
    _, writer = await asyncio.open_connection(sock=sock)
    writer.write(bytes(1_000_000))
    writer.close()
    await writer.wait_closed()

asyncio.run(main())
"""


UVLOOP = """
import asyncio, os, uvloop
from srmudp import SecureReliableSocket

async def opened(port):
    sock = SecureReliableSocket()
    await asyncio.to_thread(sock.connect, ("127.0.0.1", port))
    return sock, *await asyncio.open_connection(sock=sock)

async def main(port):
    (one, reader1, writer1), (two, reader2, writer2) = await asyncio.gather(opened(port), opened(port))
    data = os.urandom(2_000_000)
    writer1.write(data)
    writer1.write_eof()
    assert await reader2.read() == data
    writer2.write(data)
    writer2.close()
    await writer2.wait_closed()
    assert two.is_closed
    assert await reader1.read() == data
    writer1.close()
    await writer1.wait_closed()
    assert one.is_closed

with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main(PORT))
"""


@pytest.mark.skipif(importlib.util.find_spec("uvloop") is None, reason="uvloop is not installed")
def test_under_uvloop(tmp_path: Path) -> None:
    with Program(["-c", UVLOOP.replace("PORT", str(free_port()))], tmp_path) as program:
        assert program.finish() == ""


def test_what_was_written_arrives_though_the_program_ends_at_once(make: Maker, tmp_path: Path) -> None:
    sock, port = make(), free_port()
    with Program(["-c", WRITER, str(port)], tmp_path) as program:
        sock.connect(("127.0.0.1", port))
        assert read(sock, 1_000_000) == bytes(1_000_000)
        assert sock.recv(1) == b""
        assert program.finish() == ""
