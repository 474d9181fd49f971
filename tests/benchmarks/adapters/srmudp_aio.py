"""srmudp.aio, the same library run by asyncio's own event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.benchmarks.adapters.base import CONNECT, Adapter, Asynchronous, AsyncPipe, Job
from tests.benchmarks.adapters.srmudp import FAST, LIMIT, facts_of, no_fast


class AioPipe(AsyncPipe):
    """One socket with one peer."""

    def __init__(self, sock: Any, peer: str) -> None:
        self.sock, self.peer = sock, peer
        self._last: Any = None

    async def connected(self) -> AioPipe:
        """Wait until it is."""
        if not await self.sock.wait_connected(self.peer, CONNECT):
            raise TimeoutError(self.sock.connections_status[self.peer].failure)
        return self

    async def send(self, message: bytes) -> None:
        self._last = await self.sock.send(message, self.peer, timeout=LIMIT)

    async def receive(self, timeout: float) -> bytes | None:
        message = await self.sock.receive(timeout)
        return None if message is None else message.content

    async def flush(self, timeout: float) -> None:
        if self._last is not None:  # messages are taken in order
            await self._last.wait(timeout)

    async def close(self) -> None:
        await self.sock.close(0)

    def facts(self) -> dict[str, Any]:
        return facts_of(self.sock, self.peer)


def pipe(job: Job, at: tuple[str, int], name: str, peer: tuple[str, int]) -> AioPipe:
    """Our end, which has added the other one."""
    from srmudp import Config
    from srmudp.aio import MultiHolepunchSocket

    config = Config(backend=job.options["backend"])
    return AioPipe(MultiHolepunchSocket(at[1], {name: peer}, host=at[0], config=config), name)


async def listen(job: Job, ready: Callable[[], None]) -> AsyncPipe:
    """Both ends do the same; this one is there first."""
    end = pipe(job, job.rx, "tx", job.tx)
    ready()
    return await end.connected()


async def connect(job: Job) -> AsyncPipe:
    """Both ends do the same."""
    return await pipe(job, job.tx, "rx", job.rx).connected()


ADAPTERS: tuple[Adapter, ...] = (
    Asynchronous(
        "srmudp, fast, asyncio",
        listen,
        connect,
        why_not=no_fast,
        options=FAST,
    ),
)
