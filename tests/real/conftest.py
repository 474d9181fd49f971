"""Sockets that are closed at the end of their test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from srmudp import MultiHolepunchSocket
from tests.real.helpers import Make
from tests.real.proxy import Proxy


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes sockets on 127.0.0.1 (or where told) with the arguments of MultiHolepunchSocket."""
    made: list[MultiHolepunchSocket] = []

    def new(*args: Any, **options: Any) -> MultiHolepunchSocket:
        options.setdefault("host", "127.0.0.1")
        made.append(MultiHolepunchSocket(*args, **options))
        return made[-1]

    yield new
    for sock in made:
        sock.close(0)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """Somebody in the path of two sockets, who lets everything through at first."""
    with ExitStack() as stack:
        yield stack.enter_context(Proxy())
