"""Tests that are coroutines, and an engine of ``srmudp.aio`` with a fake endpoint for them."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from srmudp.config import Config
from srmudp.models import Address
from srmudp.sockets.addresses import Target
from srmudp.sockets.aio.delivery import Delivery
from srmudp.sockets.aio.engine import Engine
from srmudp.sockets.household import Letter
from tests.sockets.fakes import FakeEndpoint, FakeTransport

BOB = Address("192.0.2.1", 1)
EVE = Address("192.0.2.2", 2)


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs a test in an event loop in debug mode."""

    @functools.wraps(test)
    def run(*args: Any, **options: Any) -> None:
        asyncio.run(test(*args, **options), debug=True)

    return run


async def reach(condition: Callable[[], object]) -> None:
    """Until ``condition`` is true, with a deadline."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.0005)


async def turns(count: int = 5) -> None:
    """Let the loop turn so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


class Rig:
    """An engine in the running loop whose endpoint and transport can be told what to do."""

    def __init__(self, **options: Any) -> None:
        self.endpoint = FakeEndpoint()
        self.transport = FakeTransport()
        options.setdefault("timeout", 5.0)
        self.engine = Engine(self.endpoint, self.transport, options.pop("config", Config()), **options)  # type: ignore[arg-type]

    def start(self) -> Rig:
        self.engine.start()
        self.engine.add({"bob": Target((BOB,)), "eve": Target((EVE,))})
        return self

    def emit(self, *events: Any) -> None:
        """Have the endpoint report ``events``."""
        self.engine.driver.run(lambda now: self.endpoint.events.extend(events))

    async def send(
        self, content: bytes = b"x", to: Any = "bob", timeout: float | None = 0, *, reliable: bool = True
    ) -> Delivery:
        return await self.engine.send(Letter(content, 0, reliable, None), to, timeout)

    @property
    def waiting(self) -> dict[Any, Any]:
        """What tasks wait for, by topic."""
        return self.engine.driver.topics._waiting


@asynccontextmanager
async def new_rig(**options: Any) -> AsyncIterator[Rig]:
    """A rig that is released at the end."""
    rig = Rig(**options)
    try:
        yield rig.start()
    finally:
        rig.engine.release()
        await turns()
