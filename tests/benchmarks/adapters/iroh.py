"""iroh, QUIC in Rust with hole punching, by its own Python bindings, as shipped.

Relays and discovery are off; the caller knows the address and the key of the other end. Messages follow each other on
one stream. What is sent passes through the bindings byte by byte, in Python.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from tests.benchmarks.adapters.base import CONNECT, Asynchronous, AsyncPipe, Job, missing
from tests.benchmarks.parts import PIECE, Frames, framed

ALPN = b"bench"
KEY = bytes(range(32))
"""The receiver's secret key, known to all."""
READ = 1024 * 1024


class IrohPipe(AsyncPipe):
    """One stream of a connection."""

    def __init__(self, endpoint: Any, connection: Any, stream: Any) -> None:
        self._endpoint = endpoint
        self._connection = connection
        self._sender = stream.send()
        self._receiver = stream.recv()
        self._frames = Frames()
        self._inbox: deque[bytearray] = deque()

    async def send(self, message: bytes) -> None:
        data = framed(message)
        for start in range(0, len(data), PIECE):
            await self._sender.write_all(data[start : start + PIECE])

    async def receive(self, timeout: float) -> bytearray | None:
        if not self._inbox:
            try:
                async with asyncio.timeout(timeout):
                    while not self._inbox:
                        data = await self._receiver.read(READ)
                        if not data:
                            return None
                        self._inbox.extend(self._frames.feed(data))
            except TimeoutError:
                return None
        return self._inbox.popleft()

    async def close(self) -> None:
        self._connection.close(0, b"")
        await self._endpoint.close()

    def facts(self) -> dict[str, Any]:
        return {"rtt": (self._connection.rtt() or 0) / 1000}


async def endpoint(address: tuple[str, int], key: bytes | None = None) -> Any:
    """One that knows no servers."""
    import iroh

    return await iroh.Endpoint.bind(
        iroh.EndpointOptions(
            preset=iroh.preset_minimal(),
            bind_addr=f"{address[0]}:{address[1]}",
            secret_key=key,
            alpns=[ALPN] if key else None,
            relay_mode=iroh.RelayMode.disabled(),
        )
    )


async def listen(job: Job, ready: Callable[[], None]) -> AsyncPipe:
    end = await endpoint(job.rx, KEY)
    ready()
    async with asyncio.timeout(CONNECT):
        connection = await (await (await end.accept_next()).accept()).connect()
        stream = await connection.accept_bi()
    pipe = IrohPipe(end, connection, stream)
    await pipe.receive(CONNECT)  # a stream exists for this end when something came on it
    return pipe


async def connect(job: Job) -> AsyncPipe:
    import iroh

    end = await endpoint((job.tx[0], 0))
    key = iroh.SecretKey.from_bytes(KEY).public()
    async with asyncio.timeout(CONNECT):
        connection = await end.connect(iroh.EndpointAddr(key, None, [f"{job.rx[0]}:{job.rx[1]}"]), ALPN)
        pipe = IrohPipe(end, connection, await connection.open_bi())
        await pipe.send(b"")
    return pipe


ADAPTERS = (Asynchronous(name="iroh", package="iroh", listen=listen, connect=connect, why_not=lambda: missing("iroh")),)
