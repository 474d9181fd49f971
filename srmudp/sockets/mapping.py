"""The port of one socket on the router: begun when the application asks for it, ended with the socket."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Protocol

from ..exceptions import LocalProtocolError, PortMappingFailed, SocketClosed
from ..models import MappedPort

if TYPE_CHECKING:
    from ..models import Address
    from ..routers.keeper import Keeper
    from .household import Household

JOIN = 1.0
"""Seconds ``close`` waits for the router to take the mapping back; it goes on in the background."""


class Call(Protocol):
    """Has ``work(now, *args)`` done with the endpoint, from any thread, and returns what it returns.

    Raises:
        SocketClosed: too late.
    """

    def __call__(self, work: Callable[..., Any], /, *args: Any) -> Any: ...


class PortMapping:
    """What keeps the port of a socket mapped, if anything does.

    Args:
        house: the socket's.
        call: how the thread that talks to the router gets at it.
        local: where the socket is bound.
    """

    def __init__(self, house: Household[Any], call: Call, local: Address) -> None:
        self._house = house
        self._call = call
        self._local = local
        self._lock = threading.Lock()
        self._keeper: Keeper | None = None
        self._ended = False

    def begin(self) -> Keeper:
        """The keeper, started unless it runs.

        Raises:
            SocketClosed: too late.
            LocalProtocolError: nobody could get in through a router.
        """
        if ip_address(self._local.host.partition("%")[0]).is_loopback:
            raise LocalProtocolError(f"the socket is bound to {self._local.host}, where no router leads")
        from ..routers.keeper import Keeper  # few programs need all that

        with self._lock:
            if self._ended:
                raise SocketClosed("the socket is closed")
            if self._keeper is None or not self._keeper.is_alive:
                self._keeper = Keeper(self._local.port, self)
                self._keeper.start()
            return self._keeper

    def end(self, limit: float = JOIN) -> None:
        """Have the mapping taken back. Idempotent."""
        with self._lock:
            self._ended = True
        if self._keeper is not None:
            self._keeper.stop(limit)

    @property
    def is_ending(self) -> bool:
        """Whether the mapping is just being taken back."""
        return self._ended and self._keeper is not None and self._keeper.is_working

    def abandon(self) -> None:
        """In a child after ``fork``; takes no lock."""
        if self._keeper is not None:
            self._keeper.abandon()

    # --- what the keeper asks of its owner, on its thread

    def on_mapped(self, mapped: MappedPort | None) -> None:
        """See :class:`~..routers.keeper.Owner`."""
        with contextlib.suppress(SocketClosed):
            self._call(self._house.note_mapped, mapped)

    def expect_probe(self, transaction_id: bytes) -> None:
        """See :class:`~..routers.keeper.Owner`."""
        with contextlib.suppress(SocketClosed):
            self._call(self._house.expect_probe, transaction_id)

    def probe_arrived(self, transaction_id: bytes) -> bool:
        """See :class:`~..routers.keeper.Owner`."""
        try:
            return bool(self._call(self._house.probe_arrived, transaction_id))
        except SocketClosed:
            return False


def took_too_long(timeout: float | None) -> PortMappingFailed:
    """What to raise when the router did not make up its mind in time."""
    return PortMappingFailed(f"no router mapped our port within {timeout:g} s" if timeout is not None else "no router")
