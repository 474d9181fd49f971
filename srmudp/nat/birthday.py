"""Meeting by chance: one end has many sockets behind a NAT that gives each a random port, the other tries random ports.

With 256 of the 64,512 ports open every 252nd try meets one on average, so two seconds of tries are mostly enough. None
but the peer can tell it from a scan of ports, so it is done only for a peer of whose NAT the user was told, bounded in
count, time and rate, and one peer at a time in a program.

The many sockets' datagrams die on their way until one of them is answered: see :mod:`.holepunch`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Final
from weakref import ref

from ..models import Address, NatBehaviour, NatTraits
from .behaviour import is_local
from .prediction import LOWEST_PORT

SOCKETS: Final = 256
"""What the hard end opens; fewer where the system allows no more."""
AT_ONCE: Final = 40
"""Ports tried in one go."""
SPACING: Final = 0.2
"""Seconds between two goes."""
MAX_TRIES: Final = 4000
"""Ports tried in one round."""
ROUND: Final = 45.0
"""Seconds that the sockets of the hard end stay open in one round. The tries of the other take 20, so whenever the two
begin, a part of both rounds is at one time."""
AFTER: Final = 1.2
"""Seconds of plain punching before: it does where the other end lets in all of a host."""
AFTER_IN_VAIN: Final = 2.0
"""The same before a second port is tried."""
AFTER_PREDICTION: Final = 4.0
"""The same where the next port can be guessed."""
BETWEEN: Final = 60.0
"""Seconds from one round to the next of one peer."""
MAX_ROUNDS: Final = 5
"""Rounds until the peer was connected or is sought anew."""
OPENERS: Final = (2, 3, 4)
FAR: Final = 64
"""Hop limit that is none: what most systems begin with."""
REFRESH: Final = 5.0
"""Seconds after which the sockets send again: a mapping lives for 30."""


class Part(Enum):
    """What this end does."""

    NONE = "none"
    TRIES_PORTS = "tries ports"
    OPENS_SOCKETS = "opens sockets"
    SECOND_PORT = "second port"
    """Neither NAT is hard. If datagrams of the peer came to our router before we sent to it, and the router took them
    for its own, the flow from our port has another one outside; what helps is a second port, see ``second_of``."""
    HOPELESS = "hopeless"
    """Both NATs are hard: no port of either can be found."""


def part_of(mine: NatTraits, theirs: NatTraits | None, kept: int | None = None) -> Part:
    """What this end does of it, by what is known of both NATs.

    Args:
        kept: our port, if our NAT shows it to others as it is.
    """
    if theirs is None or NatBehaviour.ENDPOINT_INDEPENDENT in (mine.filtering, theirs.filtering):
        return Part.NONE
    if mine.hard and theirs.hard:
        return Part.HOPELESS
    if theirs.hard:
        return Part.TRIES_PORTS
    if theirs.mapping is not NatBehaviour.ENDPOINT_INDEPENDENT:
        return Part.NONE
    if mine.hard:
        return Part.OPENS_SOCKETS
    return Part.NONE if kept is None or not second_of(kept) else Part.SECOND_PORT


def second_of(port: int) -> int:
    """The port that an end seeks its peer from besides, if nothing came of the first; 0 if there is none.

    The peer knows it, and sends nothing there but openers, so no router on our side takes it for its own.
    """
    return port + 1 if LOWEST_PORT <= port < 65_535 else 0


def where_outside(targets: Iterable[Address]) -> Address | None:
    """The address that is sought: the first over IPv4 outside."""
    return next((target for target in targets if not is_local(target) and ":" not in target.host), None)


class Turn:
    """One at a time in a program. Whoever is gone without a word has given it back."""

    def __init__(self) -> None:
        self._held: dict[str, ref[object]] = {}

    def take(self, owner: object) -> bool:
        """Whether it is the owner's turn now, or still."""
        mine = ref(owner)
        holder = self._held.setdefault("by", mine)  # one step, for several threads may come
        if holder() is None:
            self._held.pop("by", None)
            holder = self._held.setdefault("by", mine)
        return holder() is owner

    def give_back(self, owner: object) -> None:
        """It is over. Nothing happens if it was not the owner's turn."""
        holder = self._held.get("by")
        if holder is not None and holder() is owner:
            self._held.pop("by", None)


TRYING: Final = Turn()
OPENING: Final = Turn()


class Tries:
    """One round at the end whose address is known: random ports of the other's host.

    Args:
        random: randomness.
        host: the other's.
    """

    def __init__(self, random: Callable[[int], bytes], host: str, now: float) -> None:
        self._random = random
        self._host = host
        self._tried: set[int] = set()
        self.when = now

    @property
    def is_over(self) -> bool:
        """True once it has tried enough."""
        return len(self._tried) >= MAX_TRIES

    def take(self, now: float) -> list[Address]:
        """Where to punch now."""
        self.when = now + SPACING
        ports: list[int] = []
        while len(ports) < min(AT_ONCE, MAX_TRIES - len(self._tried)):
            port = int.from_bytes(self._random(2), "big")
            if port >= LOWEST_PORT and port not in self._tried:
                self._tried.add(port)
                ports.append(port)
        return [Address(self._host, port) for port in ports]


class Opened:
    """One round at the end with more sockets: when they send, and how far.

    Args:
        all_the_way: after the openers they do; without it they never do until they are answered.
    """

    def __init__(self, now: float, *, all_the_way: bool = False) -> None:
        self._all_the_way = all_the_way
        self._until = now + ROUND
        self._sent = 0
        self.when = now

    def is_over(self, now: float) -> bool:
        """True once its time is up."""
        return now >= self._until

    def take(self, now: float) -> int:
        """The hop limit of what all sockets send now."""
        self._sent += 1
        if self._all_the_way and self._sent > len(OPENERS):
            self.when = now + (SPACING if self._sent < 2 * len(OPENERS) else 1.0)
            return FAR
        self.when = now + (SPACING if self._all_the_way or self._sent % len(OPENERS) else REFRESH)
        return OPENERS[(self._sent - 1) % len(OPENERS)]
