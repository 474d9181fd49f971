"""Sockets that are closed at the end of their test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.real.proxy import Proxy
from tests.shells import make, shell

__all__ = ["make", "proxy", "shell"]


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """Somebody in the path of two sockets, who lets everything through at first."""
    with ExitStack() as stack:
        yield stack.enter_context(Proxy())
