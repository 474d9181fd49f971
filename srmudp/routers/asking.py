"""What the ways of asking a router have in common."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import NamedTuple, Protocol

from ..exceptions import SrmudpError
from ..models import Address

LIFETIME = 1200
"""Seconds asked for. A router that restarts forgets, and so does one whose client died: short is good for both."""


class RouterError(SrmudpError, OSError):
    """A router does not answer, or refuses. The text says why."""


class Grant(NamedTuple):
    """A mapping, by the word of the router.

    Attributes:
        address: its outside address and the port it lets in.
        lifetime: seconds until it ends unless it is renewed.
    """

    address: Address
    lifetime: int


class Router(Protocol):
    """A router that was found. Methods block, for two seconds or so at most each, and raise :class:`RouterError`."""

    protocol: str
    """``"PCP"``, ``"NAT-PMP"`` or ``"UPnP"``."""
    host: str
    """Its address inside; for people."""

    def map(self, port: int, outside: Address | None) -> Grant:
        """Have UDP for ``port`` let in, at ``outside`` if that can be; or renew it."""

    def unmap(self) -> None:
        """Take it back, if there is one."""

    def close(self, limit: float) -> None:
        """Take it back and release everything, within ``limit`` seconds or in the background."""

    def abandon(self) -> None:
        """In a child after ``fork``: release everything and tell nobody."""


Find = Callable[[Callable[[], bool]], Router]
"""Finds a router that speaks one protocol; given what says that nobody waits any more. Raises :class:`RouterError`."""


def checked(host: str, port: int, lifetime: int) -> Grant:
    """A grant as a router words it.

    Raises:
        RouterError: it cannot be, or is of no use.
    """
    try:
        ip = ip_address(host)
    except ValueError:
        raise RouterError(f"the router gives {host[:60]!r} as its outside address") from None
    if ip.is_unspecified:
        raise RouterError("the router has no outside address: is it connected?")
    if ip.is_multicast or ip.is_loopback or ip.is_link_local or ip.is_reserved or not 0 < port < 1 << 16:
        raise RouterError(f"the router gives {host}, port {port}, as the outside address")
    if lifetime <= 0:
        raise RouterError("the router's mapping ends at once")
    return Grant(Address(str(ip), port), min(lifetime, LIFETIME))
