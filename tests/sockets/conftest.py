"""A fake endpoint behind the real driver and engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from srmudp.config import Config
from srmudp.models import Address
from srmudp.sockets.addresses import Target
from srmudp.sockets.delivery import Delivery
from srmudp.sockets.engine import Engine
from srmudp.sockets.household import Letter
from tests.shells import make, shell

from .fakes import FakeEndpoint, FakeTransport

__all__ = ["make", "shell"]

BOB = Address("192.0.2.1", 1)
EVE = Address("192.0.2.2", 2)


def reach(condition: Callable[[], object], within: float = 20.0) -> None:
    """Return as soon as ``condition`` holds, which another thread is about to bring about."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.0005)


class Rig:
    """An engine whose endpoint and transport can be told what to do."""

    def __init__(self, **options: Any) -> None:
        self.endpoint = FakeEndpoint()
        self.transport = FakeTransport()
        options.setdefault("timeout", 5.0)
        config = options.pop("config", Config())
        self.engine = Engine(self.endpoint, self.transport, config, **options)  # type: ignore[arg-type]

    def start(self) -> Rig:
        self.engine.start()
        self.engine.add({"bob": Target((BOB,)), "eve": Target((EVE,))})
        return self

    def emit(self, *events: Any) -> None:
        """Have the endpoint report ``events``."""
        self.engine.driver.run(lambda now: self.endpoint.events.extend(events))

    def under_lock(self, work: Callable[[], Any]) -> Any:
        return self.engine.driver.run(lambda now: work())


def send(
    rig: Rig, content: bytes = b"x", to: Any = "bob", timeout: float | None = 0, *, reliable: bool = True
) -> Delivery:
    """Send one message."""
    return rig.engine.send(Letter(content, 0, reliable, None), to, timeout)


@pytest.fixture
def make_rig() -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def make(**options: Any) -> Rig:
        rigs.append(Rig(**options))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.engine.close(0.0)


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    return make_rig().start()
