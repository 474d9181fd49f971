"""Path MTU discovery by our own sealed probes (RFC 8899), and the recognition of paths that swallow large datagrams.

Only a probe that the peer opened raises the size; nothing but loss lowers it. ICMP is never asked, because anyone can
forge it. Sizes are bytes of UDP payload.
"""

from __future__ import annotations

from math import inf
from typing import Final

from ..config import MIN_MTU

BASE: Final = 1200
"""Assumed of every path (RFC 8899 section 5.1.2, BASE_PLPMTU)."""
LADDER: Final = (BASE, 1452, 1472, 8952, 65_507)
"""Sizes worth trying: Ethernet under IPv6 and IPv4, jumbo frames, loopback."""
MAX_PROBES: Final = 3
"""Lost probes of one size after which it is taken for too large (RFC 8899 section 5.1.2)."""
RAISE_INTERVAL: Final = 600.0
"""Seconds after which a larger size is tried again (RFC 8899 section 5.1.1, PMTU_RAISE_TIMER)."""
BLACK_HOLE_LOSSES: Final = 8
"""Datagrams above the next smaller safe size lost in a row, while smaller ones arrive, that make a black hole.

Ordinary loss of 10 % does this once in 10^8 times."""
BLACK_HOLE_ROUNDS: Final = 3
"""Times that a smaller one, sent after such losses, must have arrived: a short outage loses many, but only once."""


class MtuDiscovery:
    """The search for the largest datagram one path carries.

    Args:
        start: the size to begin with.
        limit: never more than this.
    """

    __slots__ = (
        "_big_lost",
        "_in_flight",
        "_limit",
        "_losses",
        "_next_search",
        "_probe",
        "_round_end",
        "_rounds",
        "_safe",
        "_small_arrived",
        "due_at",
        "mtu",
    )

    def __init__(self, start: int, limit: int, now: float) -> None:
        self.mtu = start
        self._limit = limit
        self._probe: int | None = None
        self._losses = 0
        self._in_flight = False
        self._next_search = now
        self._big_lost = self._rounds = 0
        self._round_end = self._small_arrived = -inf
        self._safe = MIN_MTU  # the next smaller size that is taken for safe
        self.due_at = now
        """No earlier is :meth:`probe_due` worth asking."""
        self._choose()
        self._settle()

    def probe_due(self, now: float) -> int | None:
        """The size of a probe to be sent now, or None. The caller then calls :meth:`on_probe_sent`."""
        if self._probe is None and now >= self._next_search:
            self._choose()
            self._next_search = now + RAISE_INTERVAL
            self._settle()
        return None if self._in_flight else self._probe

    def next_timer(self) -> float | None:
        """When a search begins anew."""
        return self._next_search if self._probe is None else None

    def on_probe_sent(self) -> None:
        """A probe of the size asked for left."""
        self._in_flight = True
        self._settle()

    def on_probe_acked(self, size: int) -> bool:
        """The peer opened a probe. Returns True if the MTU grew."""
        self._in_flight = False
        self._losses = 0
        grew = size > self.mtu
        if grew:
            self.mtu = size
            self._big_lost = self._rounds = 0
        self._choose()
        self._settle()
        return grew

    def on_probe_lost(self, now: float) -> None:
        """A probe was lost: no sign of congestion (RFC 8899 section 3)."""
        self._in_flight = False
        self._losses += 1
        if self._losses >= MAX_PROBES:
            self._probe = None
            self._losses = 0
            self._next_search = now + RAISE_INTERVAL
        self._settle()

    def on_probe_gone(self) -> None:
        """A probe ended with its session: nothing was learned, the next may leave."""
        self._in_flight = False
        self._settle()

    def on_acked(self, size: int, sent_at: float) -> None:
        """A datagram arrived. Large ones prove that there is no black hole."""
        if size > self._safe:
            self._big_lost = self._rounds = 0
        elif sent_at > self._small_arrived:
            self._small_arrived = sent_at

    def on_lost(self, size: int, count: int, sent_at: float, now: float) -> bool:
        """``count`` datagrams of ``size`` bytes that left at ``sent_at`` were lost. Returns True if the MTU shrank."""
        if not self._safe < size <= self.mtu:
            return False  # larger ones left before the last fall
        self._big_lost += count
        if self._round_end < sent_at < self._small_arrived:
            self._rounds += 1
            self._round_end = self._small_arrived
        if self._big_lost < BLACK_HOLE_LOSSES or self._rounds < BLACK_HOLE_ROUNDS:
            return False
        self.mtu = self._safe
        self._big_lost = self._rounds = 0
        self._probe = None
        self._losses = 0
        self._next_search = now + RAISE_INTERVAL / 10
        self._settle()
        return True

    @property
    def in_doubt(self) -> bool:
        """True while so many large datagrams were lost in a row that there may be a black hole."""
        return self._big_lost >= BLACK_HOLE_LOSSES

    def _settle(self) -> None:
        """Work out what follows from the state; asked for with every record, it changes with a probe."""
        self._safe = BASE if self.mtu > BASE else MIN_MTU
        if self._in_flight:
            self.due_at = inf
        else:
            self.due_at = self._next_search if self._probe is None else -inf

    def _choose(self) -> None:
        self._probe = next((size for size in LADDER if self.mtu < size <= self._limit), None)
