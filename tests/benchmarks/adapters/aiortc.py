"""aiortc, WebRTC in Python on asyncio: a reliable, ordered data channel.

No servers: the ends exchange one offer and one answer, which name the addresses of this machine, over TCP. WebRTC does
not use the address of loopback, so that on one machine the way leads from an interface to itself.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from tests.benchmarks.adapters.base import CONNECT, Asynchronous, AsyncPipe, Job, missing
from tests.benchmarks.parts import PIECE, Frames, Inbox, framed

HIGH, LOW = 256 * 1024, 64 * 1024
"""Bytes that the library may hold, and at how few it gets more."""


class RtcPipe(AsyncPipe):
    """One data channel of a connection."""

    def __init__(self) -> None:
        import aiortc

        self.connection: Any = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
        self.opened = asyncio.Event()
        self._low = asyncio.Event()
        self._frames = Frames()
        self._inbox = Inbox()
        self._channel: Any = None

    def use(self, channel: Any) -> None:
        """Take the channel, which may be open already."""
        self._channel = channel
        channel.bufferedAmountLowThreshold = LOW
        channel.on("message", lambda data: self._inbox.put(*self._frames.feed(data)))
        channel.on("bufferedamountlow", self._low.set)
        channel.on("open", self.opened.set)
        channel.on("close", self._over)
        if channel.readyState == "open":
            self.opened.set()

    def _over(self) -> None:
        self._inbox.close()
        self._low.set()

    async def send(self, message: bytes) -> None:
        data = framed(message)
        channel = self._channel
        for start in range(0, len(data), PIECE):
            while channel.bufferedAmount >= HIGH:
                self._low.clear()
                await self._low.wait()
            if channel.readyState != "open":
                raise ConnectionError("the channel is closed")
            channel.send(data[start : start + PIECE])

    async def receive(self, timeout: float) -> bytes | bytearray | None:
        return await self._inbox.get(timeout)

    async def flush(self, timeout: float) -> None:
        deadline = asyncio.get_running_loop().time() + timeout
        while self._channel.bufferedAmount and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        await self.connection.close()


async def tell(pipe: RtcPipe, writer: asyncio.StreamWriter) -> None:
    """Send this end's description, which has all its addresses."""
    local = pipe.connection.localDescription
    writer.write(json.dumps({"sdp": local.sdp, "type": local.type}).encode() + b"\n")
    await writer.drain()


async def hear(pipe: RtcPipe, reader: asyncio.StreamReader) -> None:
    """Take the other end's."""
    import aiortc

    await pipe.connection.setRemoteDescription(aiortc.RTCSessionDescription(**json.loads(await reader.readline())))


async def listen(job: Job, ready: Callable[[], None]) -> AsyncPipe:
    pipe = RtcPipe()
    pipe.connection.on("datachannel", pipe.use)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await hear(pipe, reader)
        await pipe.connection.setLocalDescription(await pipe.connection.createAnswer())
        await tell(pipe, writer)
        writer.close()

    server = await asyncio.start_server(answer, *job.rx)
    ready()
    async with asyncio.timeout(CONNECT):
        await pipe.opened.wait()
    server.close()
    return pipe


async def connect(job: Job) -> AsyncPipe:
    pipe = RtcPipe()
    async with asyncio.timeout(CONNECT):
        pipe.use(pipe.connection.createDataChannel("bench"))
        await pipe.connection.setLocalDescription(await pipe.connection.createOffer())
        reader, writer = await asyncio.open_connection(*job.rx)
        await tell(pipe, writer)
        await hear(pipe, reader)
        writer.close()
        await pipe.opened.wait()
    return pipe


ADAPTERS = (
    Asynchronous(name="aiortc", package="aiortc", listen=listen, connect=connect, why_not=lambda: missing("aiortc")),
)
