"""Asking STUN servers for our public address: their names, the ways to them, what to say when none answers."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

from ..config import STUN_PORT, STUN_SERVERS
from ..exceptions import DiscoveryFailed
from ..models import Address, PublicAddress
from ..peers.endpoint import Discovery
from .addresses import is_nobody, parse_server

if TYPE_CHECKING:
    from .household import Household

NO_WAY: Final = "there is no way to it from here (no route, or none of its address family)"
MAX_SERVERS: Final = 16
"""Servers asked in one call."""

Server = str | tuple[str, int]
Host = tuple[str, int]
Ways = list[tuple[Address, Address | None]]
"""Servers that can be reached, each with our own address towards it."""


def parse_servers(servers: Server | Iterable[Server] | None) -> tuple[list[Address], list[Host]]:
    """Addresses, and host names to be looked up.

    Args:
        servers: None for the public ones of ``STUN_SERVERS``.

    Raises:
        ValueError: none, too many, or one that is malformed; the text says which.
    """
    if servers is None:
        servers = STUN_SERVERS
    elif isinstance(servers, str | Address) or (isinstance(servers, tuple) and _is_address(servers)):
        servers = [servers]
    addresses: dict[Address, None] = {}
    hosts: dict[Host, None] = {}
    for server in servers:
        parsed = parse_server(server, STUN_PORT)
        if isinstance(parsed, Address):
            addresses[parsed] = None
        else:
            hosts[parsed] = None
    if not addresses and not hosts:
        raise ValueError("servers is empty; leave it out to ask public ones")
    if len(addresses) + len(hosts) > MAX_SERVERS:
        raise ValueError(f"more than {MAX_SERVERS} servers")
    return list(addresses), list(hosts)


def _is_address(given: tuple[object, ...]) -> bool:
    return len(given) == 2 and isinstance(given[1], int)


def way_to(server: Address, bound: Address) -> Address | None:
    """Our own address on the way to a server, or None if there is no way. Sends nothing.

    Args:
        bound: where our socket is bound; ``0.0.0.0`` stands for everywhere.
    """
    six = ":" in server.host
    if bound.host not in ("0.0.0.0", "::"):
        return bound if six == (":" in bound.host) else None
    if bound.host == "::" and not six:
        return None
    host, _, zone = server.host.partition("%")
    try:
        with socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, server.port, 0, int(zone or 0)) if six else (host, server.port))
            return Address(str(ip_address(probe.getsockname()[0])), bound.port)
    except (OSError, ValueError):
        return None


class Search:
    """One call of ``discover``, without the waiting and the look-ups, which the shell sees to.

    Call :meth:`ask` with :meth:`known`; for each of ``hosts`` call :meth:`looked_up` with what ``getaddrinfo`` says,
    and :meth:`ask` with what that returns. When :meth:`settled` says so or the time is over, call :meth:`finish`, then
    :meth:`conclude`. Methods whose first argument is ``now`` work with the endpoint.

    Args:
        bound: where our socket is bound.
        servers: as for :func:`parse_servers`.
        filtering: also find out whom the NAT lets in.

    Attributes:
        hosts: names and ports to be looked up.

    Raises:
        ValueError: a server is malformed.
    """

    def __init__(
        self, house: Household[Any], bound: Address, servers: Server | Iterable[Server] | None, filtering: bool = False
    ) -> None:
        self._house = house
        self._bound = bound
        self._addresses, self.hosts = parse_servers(servers)
        self._discovery = Discovery(filtering=filtering)
        self._discovery.looked_up = len(self.hosts)
        self._names: dict[str, str] = {}
        self._failures: dict[str, str] = {}

    def known(self) -> Ways:
        """The servers whose address was given."""
        return self._ways({address: str(address) for address in self._addresses})

    def looked_up(self, host: Host, answers: Sequence[tuple[Any, ...]] | Exception) -> Ways:
        """The servers that a name stands for. Any thread."""
        name = f"{host[0]}:{host[1]}"
        if isinstance(answers, Exception):
            self._failures[name] = f"the name cannot be looked up ({answers})"
            return []
        families: dict[object, Address] = {}
        for answer in answers:
            if answer[0] in (socket.AF_INET, socket.AF_INET6) and not is_nobody(ip_address(answer[4][0])):
                # One address of each family: the others are the same server's.
                families.setdefault(answer[0], Address(str(ip_address(answer[4][0])), host[1]))
        if not families:
            self._failures[name] = "the name stands for no address of a single host"
        return self._ways({address: f"{name} ({address.host})" for address in families.values()})

    def _ways(self, names: dict[Address, str]) -> Ways:
        found: Ways = []
        for address, name in names.items():
            self._names[str(address)] = name
            local = way_to(address, self._bound)
            if local is None:
                self._failures[name] = NO_WAY
            else:
                found.append((address, local))
        return found

    def ask(self, now: float, servers: Ways, looked_up: int = 0) -> None:
        """Ask servers.

        Args:
            looked_up: names that need not be waited for any more.

        Raises:
            SocketClosed: the socket is closed.
        """
        self._house.check_open()
        self._discovery.looked_up -= looked_up
        self._house.endpoint.stun.ask(self._discovery, servers, now)

    def settled(self, now: float) -> bool | None:
        """True once nothing better is to be expected, None till then; woken by the topic ``SERVERS``.

        Raises:
            SocketClosed: the socket is closed.
        """
        self._house.check_open()
        return True if self._discovery.is_settled(now) else None

    def finish(self, now: float) -> PublicAddress:
        """What the servers said; nothing more is asked."""
        return self._house.endpoint.stun.finish(self._discovery, now)

    def conclude(self, found: PublicAddress, timeout: float | None) -> PublicAddress:
        """The answer, with all that went wrong.

        Raises:
            DiscoveryFailed: no server answered.
        """
        failures = {self._names.get(server, server): reason for server, reason in found.failures.items()}
        failures = self._failures | failures
        if not found.answers:
            raise DiscoveryFailed(_explain(failures, timeout), failures)
        return replace(found, failures=failures)


def _explain(failures: dict[str, str], timeout: float | None) -> str:
    """What to tell the user when nobody answered."""
    each = "; ".join(f"{server}: {reason}" for server, reason in failures.items()) or "no name was looked up in time"
    within = "" if timeout is None else f" within {timeout:g} s"
    advice = "Is there a network, and does it let UDP out? Other servers: discover(['host:port', ...])"
    return f"no STUN server told us our public address{within}. {each}. {advice}"
