"""One mapping, kept: found, checked, renewed at half its life, taken back at the end. On a thread of its own."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from time import monotonic, time
from typing import Final, Protocol

from ..exceptions import PortMappingFailed
from ..models import Address, MappedPort
from ..nat.behaviour import is_local
from ..wire.stun import TRANSACTION_ID, StunClass, StunMessage
from .asking import Find, Grant, Router, RouterError
from .pcp import find_pcp
from .upnp import find_upnp

log = logging.getLogger("srmudp.routers")

WAYS: Final[tuple[tuple[str, Find], ...]] = (("PCP or NAT-PMP", find_pcp), ("UPnP", find_upnp))
"""The protocols by name, in the order in which they are tried."""
RETRY: Final = 60.0
"""Seconds between attempts while a router that once mapped our port does not any more."""
_LOOK: Final = 15.0
"""Seconds between looks whether this machine has moved to another network, or slept."""
_HASTE: Final = 8.0
"""Seconds at least that the time left of a mapping is taken for when it could not be renewed."""
_PROBES: Final = (0.0, 0.2, 0.4)
"""Seconds at which probes are sent."""
_FAR: Final = ("192.0.2.1", 9)
_PROBE_WAIT: Final = 0.8
_PROBE_LOOK: Final = 0.04
_LAST_LIMIT: Final = 10.0


def which_answer(ways: Sequence[tuple[str, Find]] | None = None) -> dict[str, str]:
    """Which protocols for port mapping the router speaks: each with "" if it does, else why not. Changes nothing there.

    Blocks for up to ten seconds.
    """
    found: dict[str, str] = {}
    for name, find in WAYS if ways is None else ways:
        try:
            router = find(lambda: False)
        except RouterError as error:
            found[name] = str(error)
        else:
            found[router.protocol] = ""
            router.close(1.0)
    return found


def own_address() -> str:
    """Our IPv4 address towards the world, or "" if there is no way there. Sends nothing."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(_FAR)
            return str(probe.getsockname()[0])
    except OSError:
        return ""


class Owner(Protocol):
    """What a keeper asks of the socket whose port it has mapped. Called on the keeper's thread."""

    def on_mapped(self, mapped: MappedPort | None, /) -> None:
        """There is a mapping, another one, or none any more."""

    def expect_probe(self, transaction_id: bytes, /) -> None:
        """A STUN request with this id is ours: watch for it."""

    def probe_arrived(self, transaction_id: bytes, /) -> bool:
        """Whether it came."""


class Keeper:
    """Keeps one port mapped until :meth:`stop`.

    Args:
        port: our UDP port.
        owner: told of everything.
        ways: how routers are found; None for :data:`WAYS`.

    Attributes:
        first: the first mapping, or :class:`PortMappingFailed`; then the keeper has ended.
    """

    def __init__(self, port: int, owner: Owner, ways: Sequence[tuple[str, Find]] | None = None) -> None:
        self.first: Future[MappedPort] = Future()
        self._port = port
        self._owner = owner
        self._ways = WAYS if ways is None else ways
        self._stop = threading.Event()
        self._router: Router | None = None
        self._thread = threading.Thread(target=self._run, name="srmudp-portmap", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def is_working(self) -> bool:
        """False once it has ended, and taken its mapping back."""
        return self._thread.is_alive()

    @property
    def is_alive(self) -> bool:
        """False once it has ended, by failure or by :meth:`stop`."""
        return self._thread.is_alive() and not self._stop.is_set()

    def stop(self, limit: float) -> None:
        """Have the mapping taken back. Waits for it ``limit`` seconds at most; the rest happens in the background."""
        self._stop.set()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(max(0.0, limit))

    def abandon(self) -> None:
        """In a child after ``fork``: the thread is not here; release what it had."""
        self._stop.set()
        if self._router is not None:
            self._router.abandon()

    # --- on the thread

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:
            log.exception("! port mapping")
            self._settle(PortMappingFailed(f"port mapping failed: {error}"))
        finally:
            if self._router is not None:
                self._router.close(_LAST_LIMIT)
            self._settle(PortMappingFailed("port mapping was given up, or the socket closed"))

    def _settle(self, outcome: MappedPort | PortMappingFailed) -> None:
        if self.first.done():
            return
        if isinstance(outcome, MappedPort):
            self.first.set_result(outcome)
        else:
            self.first.set_exception(outcome)

    def _work(self) -> None:
        told: MappedPort | None = None
        outside: Address | None = None
        ends = 0.0
        while not self._stop.is_set():
            try:
                grant = self._map(outside)
            except RouterError as error:
                if told is None and not self.first.done():
                    self._settle(PortMappingFailed(str(error)))
                    return
                if told is not None and monotonic() >= ends:
                    log.info("= port %d is not mapped any more: %s", self._port, error)
                    told, outside = None, None
                    self._owner.on_mapped(None)
                self._rest(RETRY if told is None else max(ends - monotonic(), _HASTE) / 2)
                continue
            outside, ends = grant.address, monotonic() + grant.lifetime
            mapped = self._mapped(grant)
            if mapped != told:
                told = mapped
                log.info("= port %d is mapped to %s", self._port, mapped)
                self._owner.on_mapped(mapped)
            self._settle(mapped)
            self._rest(grant.lifetime / 2)

    def _rest(self, seconds: float) -> None:
        """Wait so long, by the wall clock as well: a machine that slept has less time left. Or until we have moved."""
        until, wall, here = monotonic() + seconds, time() + seconds, own_address()
        while not self._stop.wait(max(0.0, min(until - monotonic(), _LOOK))):
            if own_address() != here:
                router, self._router = self._router, None  # that was another network's
                if router is not None:
                    router.close(1.0)
                return
            if monotonic() >= until or time() >= wall:
                return

    def _map(self, outside: Address | None) -> Grant:
        """By the router we have, or by any.

        Raises:
            RouterError: none does it; with what each says.
        """
        if self._router is not None:
            try:
                return self._checked(self._router.map(self._port, outside))
            except RouterError:
                router, self._router = self._router, None
                router.close(1.0)
        failures: list[str] = []
        for name, find in self._ways:
            if self._stop.is_set():
                break
            try:
                self._router = find(self._stop.is_set)
                return self._checked(self._router.map(self._port, outside))
            except RouterError as error:
                failures.append(f"{name}: {error}")
                if self._router is not None:
                    self._router.close(1.0)
                    self._router = None
        raise RouterError("no router maps our port. " + "; ".join(failures))

    def _checked(self, grant: Grant) -> Grant:
        if is_local(grant.address):
            raise RouterError(
                f"the router's own outside address, {grant.address.host}, is a private one: there is another NAT "
                "outside it, which lets nobody in"
            )
        return grant

    def _mapped(self, grant: Grant) -> MappedPort:
        """The mapping, tried from inside: a router that sends back in what is sent to its outside proves it."""
        assert self._router is not None
        verified = self._probe(grant.address)
        return MappedPort(grant.address, self._router.protocol, self._router.host, verified)

    def _probe(self, address: Address) -> bool:
        transaction_id = os.urandom(TRANSACTION_ID)
        self._owner.expect_probe(transaction_id)
        request = StunMessage(StunClass.REQUEST, transaction_id).encode()
        began = monotonic()
        sends = list(_PROBES)
        try:
            with socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
                while (since := monotonic() - began) < _PROBE_WAIT:
                    if sends and since >= sends[0]:
                        sends.pop(0)
                        probe.sendto(request, address)
                    if self._owner.probe_arrived(transaction_id):
                        return True
                    if self._stop.wait(_PROBE_LOOK):
                        break
        except OSError:
            pass
        return False
