"""What happens to the machine around a socket: it slept, or it is on another network now. Noticed by looking.

No system announces this to a program in one way, so it is looked for: the machine's sleep by two clocks of which one
stands still in it, the network by the address of ours that the system would send from to where our peers are. To ask
for that takes a few microseconds and sends nothing. Looking every few seconds is enough, since what is under way finds
out by itself; it is the silent peers that must be told where we are now, before they need us.
"""

from __future__ import annotations

from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Final

from ..models import Address
from .discovery import way_to
from .interfaces import host_addresses
from .waiting import time_asleep

if TYPE_CHECKING:
    from ..peers.endpoint import Endpoint

ASLEEP: Final = 5.0
"""Seconds of sleep of the machine that the endpoint is told of."""
MOST: Final = 32
"""Peers' hosts looked at; where there are more, a change concerns most of them at once."""
NO_WAY: Final = 0.25
"""Seconds between looks while there is no way to somebody, so that all goes on as soon as there is."""
INTERFACES: Final = 15.0
"""Seconds between looks at the addresses of our interfaces, where nothing else says that they may be others."""


class Surroundings:
    """The look-out of one socket, for the thread that keeps its deadlines.

    Args:
        bound: where our socket is bound.
        span: seconds between looks.
        fileno: the socket's descriptor.
    """

    def __init__(self, endpoint: Endpoint, bound: Address, span: float, fileno: int = -1) -> None:
        self._endpoint = endpoint
        self._bound = bound
        self._span = span
        self._fileno = fileno
        self._hosts: tuple[Address, ...] | None = None  # our own addresses; the owner told what they are at first
        self._other_hosts = False
        self._hosts_at = -inf
        self._looks = False  # it has begun
        self._asleep = time_asleep()
        self._far_ends: dict[str, Address] = {}
        self._ways: dict[str, Address] = {}  # our address towards each of them, when there was a way last
        self._cut: set[str] = set()  # those to which there is none
        self._moved: set[str] = set()
        self._changed = False
        self._looked = False
        self._look_at = -inf if span < inf else inf

    @property
    def pause(self) -> float:
        """Seconds until the next look, which is worth waking up for."""
        return self._look_at - monotonic() if self._looks else self._span

    def look(self) -> None:
        """Ask the system. Holds no lock; :meth:`tell` follows."""
        now = monotonic()
        if now < self._look_at:
            return
        ways, cut = {}, set()
        for host, address in self._far_ends.items():
            known_way, way = self._ways.get(host), way_to(address, self._bound)
            if way is None:
                cut.add(host)
            elif known_way is not None and known_way != way:
                self._moved.add(host)
            elif host in self._cut:
                self._changed = True
            if (known := way or known_way) is not None:
                ways[host] = known
        self._ways, self._cut = ways, cut
        if now >= self._hosts_at or self._moved or self._changed:
            self._hosts_at = now + INTERFACES
            before, self._hosts = self._hosts, host_addresses(self._bound, self._fileno, by_name=False)
            self._other_hosts |= before not in (None, self._hosts)
        self._looks = True
        self._look_at = now + (min(self._span, NO_WAY) if cut else self._span)
        self._looked = True

    def tell(self, now: float) -> None:
        """Let the endpoint know what was seen. Under the lock."""
        endpoint, asleep = self._endpoint, time_asleep()
        if asleep - self._asleep >= ASLEEP:
            endpoint.handle_resumed(asleep - self._asleep, now)
        self._asleep = asleep
        if self._other_hosts and self._hosts is not None:
            self._other_hosts = False
            endpoint.whereabouts.set_hosts(self._hosts, now)
        if self._changed or self._moved:
            moved, self._moved, self._changed = self._moved, set(), False
            endpoint.handle_network_changed(moved, now)
        if self._looked:
            self._looked = False
            self._far_ends = endpoint.far_ends(MOST)
