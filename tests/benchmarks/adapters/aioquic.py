"""aioquic, QUIC in Python on asyncio; and what is the same with qh3, which came from it.

Messages go one after the other on a stream that lives as long as the connection. Neither library says how much it
still holds of what it was given, so that the receiver tells on a second stream what has come.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import re
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.adapters.base import CONNECT, Asynchronous, AsyncPipe, Job, missing
from tests.benchmarks.parts import PIECE, Frames, Inbox, Window, framed

PEM = re.compile("(-----BEGIN ([A-Z ]+)-----.*?-----END [A-Z ]+-----\\n)", re.DOTALL)
HEADERS = 48
"""Bytes of IPv6 and UDP."""
BUFFER = 4 * 1024 * 1024
BULK, SMALL = 1024 * 1024, 256 * 1024
"""Bytes of messages that are on their way at most."""
ETHERNET = 1500 - HEADERS
LARGEST = 16_000
"""Bytes of a datagram: aioquic writes the length of a packet of the handshake in 14 bits."""
FLOW = 16 * 1024 * 1024
"""Bytes that may be on their way as far as the receiver is concerned; congestion control bounds them, too."""


class QuicPipe(AsyncPipe):
    """A connection of either library.

    The low two bits of a stream's number say who opened it and whether it has one direction; of each end's streams
    of one direction, the first carries messages and the second counts.
    """

    def __init__(self, job: Job) -> None:
        self.protocol: Any = None
        self.connected = asyncio.Event()
        self.ends = contextlib.AsyncExitStack()
        self._writers: list[asyncio.StreamWriter] = []
        self._inbox = Inbox()
        self._frames = Frames()
        self._window = Window(BULK if job.workload == "bulk" else SMALL)
        self._moved = asyncio.Event()

    async def open(self) -> None:
        """Open this end's streams, messages first."""
        for _ in range(2):
            _, writer = await self.protocol.create_stream(is_unidirectional=True)
            writer.write(b"")
            self._writers.append(writer)

    def came(self, stream: int, data: bytes) -> None:
        """The library has bytes of a stream."""
        if stream >> 2 & 1:
            self._window.taken(data[-8:])
            self._moved.set()
        else:
            self._inbox.put(*self._frames.feed(data))
            if self._window.got(len(data)):
                self._tell()

    def over(self) -> None:
        """The connection has ended."""
        self._inbox.close()
        self._moved.set()

    def _tell(self) -> None:
        self._writers[1].write(self._window.count())

    async def _wait(self) -> None:
        self._moved.clear()
        await self._moved.wait()
        if self._inbox.closed:
            raise ConnectionError("the connection has ended")

    async def send(self, message: bytes) -> None:
        data = framed(message)
        write, window = self._writers[0].write, self._window
        for start in range(0, len(data), PIECE):
            while window.full:
                await self._wait()
            piece = data[start : start + PIECE]
            window.send(len(piece))
            write(piece)

    async def receive(self, timeout: float) -> bytes | bytearray | None:
        return await self._inbox.get(timeout)

    async def flush(self, timeout: float) -> None:
        self._tell()
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(timeout):
                while not self._window.empty:
                    await self._wait()
        await asyncio.sleep(0)

    async def close(self) -> None:
        self.protocol.close()
        await asyncio.sleep(0)


def protocol(library: str, pipes: Callable[[], QuicPipe]) -> type[Any]:
    """The library's protocol of asyncio, which gives what comes to a pipe of its own."""
    base: Any = importlib.import_module(f"{library}.asyncio").QuicConnectionProtocol
    events: Any = importlib.import_module(f"{library}.quic.events")

    class Protocol(base):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.pipe = pipes()
            self.pipe.protocol = self

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            plain = transport.get_extra_info("socket")
            if plain is not None:
                for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                    plain.setsockopt(socket.SOL_SOCKET, option, BUFFER)

        def quic_event_received(self, event: Any) -> None:
            if isinstance(event, events.StreamDataReceived):
                self.pipe.came(event.stream_id, event.data)
            elif isinstance(event, events.HandshakeCompleted):
                self.pipe.connected.set()
            elif isinstance(event, events.ConnectionTerminated):
                self.pipe.over()

    return Protocol


def adapter(library: str, settings: Callable[[Job], dict[str, Any]]) -> Asynchronous:
    """Of either library; ``settings`` are for its ``QuicConfiguration``."""

    def configured(job: Job, client: bool) -> Any:
        made = importlib.import_module(f"{library}.quic.configuration").QuicConfiguration(
            is_client=client, alpn_protocols=["bench"], max_data=FLOW, max_stream_data=FLOW, **settings(job)
        )
        parts = {key: found for found, key in PEM.findall(Path(job.certificate).read_text())}
        if client:
            made.server_name = "bench"
            made.load_verify_locations(cadata=parts["CERTIFICATE"].encode())
        else:
            with tempfile.TemporaryDirectory() as folder:
                paths = Path(folder, "certificate"), Path(folder, "key")
                for path, name in zip(paths, ("CERTIFICATE", "PRIVATE KEY"), strict=True):
                    path.write_text(parts[name])
                made.load_cert_chain(*map(str, paths))
        return made

    async def listen(job: Job, ready: Callable[[], None]) -> AsyncPipe:
        pipe: asyncio.Future[QuicPipe] = asyncio.get_running_loop().create_future()

        def made() -> QuicPipe:
            new = QuicPipe(job)
            pipe.set_result(new)
            return new

        serve = importlib.import_module(f"{library}.asyncio").serve
        await serve(*job.rx, configuration=configured(job, False), create_protocol=protocol(library, made))
        ready()
        async with asyncio.timeout(CONNECT):
            await (await pipe).connected.wait()
        await (await pipe).open()
        return await pipe

    async def connect(job: Job) -> AsyncPipe:
        pipe = QuicPipe(job)
        call = importlib.import_module(f"{library}.asyncio").connect
        async with asyncio.timeout(CONNECT):
            await pipe.ends.enter_async_context(
                call(*job.rx, configuration=configured(job, True), create_protocol=protocol(library, lambda: pipe))
            )
        await pipe.open()
        return pipe

    return Asynchronous(name=library, package=library, listen=listen, connect=connect, why_not=lambda: missing(library))


def datagram(job: Job, largest: int) -> int:
    """Bytes of a datagram: what the way bears, as far as the library can; of Ethernet's size where one message goes at
    a time, which is quicker."""
    return min(job.mtu - HEADERS, largest if job.workload in ("bulk", "small") else ETHERNET)


def settings(job: Job) -> dict[str, Any]:
    """aioquic does not find out the MTU: it is told."""
    return {"max_datagram_size": datagram(job, LARGEST), "congestion_control_algorithm": "cubic"}


ADAPTERS = (adapter("aioquic", settings),)
