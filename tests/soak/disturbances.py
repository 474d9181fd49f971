"""What a storm does and when: a list of disturbances made from a seed, before anything begins."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

QUIET_START: Final = 3.0
"""Seconds before the first disturbance: everybody has found everybody by then."""
SPARED: Final = 0
"""This program is never killed, so that its memory can be watched from the beginning to the end."""


class Kind(StrEnum):
    """Sorts of disturbance."""

    KILL = "kill"
    """SIGKILL; the program is started again afterwards."""
    SUSPEND = "suspend"
    """SIGSTOP, then SIGCONT."""
    PARTITION = "partition"
    """Nothing gets from ``who`` to ``others``, nor back unless it is one-way."""
    REBIND = "rebind"
    """``who`` is seen at new ports by everybody; the known address of it is deaf for a while."""
    WEATHER = "weather"
    """Loss, repetition, reordering and delay between ``who`` and ``others``."""
    FLOOD = "flood"
    """Junk, forgeries, replays and punches for ``who``, thousands a second."""


@dataclass(frozen=True, slots=True)
class Weather:
    """What befalls the datagrams of a pair: probabilities, and seconds of delay at most."""

    loss: float = 0.0
    twice: float = 0.0
    late: float = 0.0
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Disturbance:
    """One thing that happens, ``at`` seconds after the beginning, for ``lasting`` seconds."""

    at: float
    kind: Kind
    lasting: float
    who: tuple[int, ...]
    others: tuple[int, ...] = ()
    one_way: bool = False
    weather: Weather = Weather()
    rate: float = 0.0

    @property
    def end(self) -> float:
        """When it is over, in seconds after the beginning."""
        return self.at + self.lasting

    def __str__(self) -> str:
        text = f"{self.at:8.2f} s  {self.kind:9}  for {self.lasting:5.2f} s  {_names(self.who)}"
        if self.others:
            text += f" {'->' if self.one_way else '<->'} {_names(self.others)}"
        if self.kind is Kind.FLOOD:
            text += f" {self.rate:.0f}/s"
        if self.kind is Kind.WEATHER:
            w = self.weather
            text += f" loss {w.loss:.0%}, twice {w.twice:.0%}, late {w.late:.0%}, up to {1000 * w.delay:.0f} ms"
        return text


def _names(who: Iterable[int]) -> str:
    return "".join(f"p{index}" for index in who)


EVERY: Final[dict[Kind, float]] = {
    Kind.KILL: 14.0,
    Kind.SUSPEND: 19.0,
    Kind.PARTITION: 11.0,
    Kind.REBIND: 9.0,
    Kind.WEATHER: 10.0,
    Kind.FLOOD: 13.0,
}
"""Seconds between two disturbances of a kind on average."""
LASTING: Final[dict[Kind, tuple[float, float]]] = {
    Kind.KILL: (0.1, 14.0),
    Kind.SUSPEND: (0.3, 14.0),
    Kind.PARTITION: (0.5, 22.0),
    Kind.REBIND: (2.0, 20.0),
    Kind.WEATHER: (3.0, 20.0),
    Kind.FLOOD: (2.0, 8.0),
}
"""Seconds from and to."""


def plan(seed: int, seconds: float, peers: int) -> list[Disturbance]:
    """The disturbances of a storm of ``seconds``, in the order of their times; the same for the same arguments.

    Several go on at a time. A program is neither killed while it is suspended nor the other way round.
    """
    rng = random.Random(f"storm/{seed}/{peers}")
    found: list[Disturbance] = []
    for kind, every in EVERY.items():
        low, high = LASTING[kind]
        at = QUIET_START
        while (at := at + rng.expovariate(1.0 / every)) < seconds - low:
            lasting = min(rng.triangular(low, high, low + (high - low) / 5), seconds - at)
            found.append(make(rng, kind, at, lasting, peers))
    busy: dict[int, float] = {}
    kept: list[Disturbance] = []
    for disturbance in sorted(found, key=lambda d: d.at):
        if disturbance.kind in (Kind.KILL, Kind.SUSPEND):
            if busy.get(disturbance.who[0], 0.0) > disturbance.at:
                continue
            busy[disturbance.who[0]] = disturbance.end + 2.0  # a program needs a moment to start
        kept.append(disturbance)
    return kept


def make(rng: random.Random, kind: Kind, at: float, lasting: float, peers: int) -> Disturbance:
    """A disturbance of a kind with all the rest at random."""
    everybody = list(range(peers))
    if kind is Kind.KILL:
        return Disturbance(at, kind, lasting, (rng.choice([who for who in everybody if who != SPARED]),))
    if kind in (Kind.SUSPEND, Kind.REBIND):
        return Disturbance(at, kind, lasting, (rng.choice(everybody),))
    if kind is Kind.FLOOD:
        return Disturbance(at, kind, lasting, (rng.choice(everybody),), rate=rng.uniform(1000, 4000))
    rng.shuffle(everybody)
    cut = rng.choice((1, 1, peers // 2, rng.randrange(1, peers)))
    who, others = tuple(sorted(everybody[:cut])), tuple(sorted(everybody[cut:]))
    if rng.random() < 0.3:
        who, others = who[:1], others[:1]
    if kind is Kind.PARTITION:
        return Disturbance(at, kind, lasting, who, others, one_way=rng.random() < 0.4)
    weather = Weather(
        loss=rng.choice((0.0, rng.uniform(0, 0.1), rng.uniform(0, 0.35))),
        twice=rng.choice((0.0, rng.uniform(0, 0.3))),
        late=rng.choice((0.0, rng.uniform(0, 0.3))),
        delay=rng.choice((0.005, 0.05, 0.3)),
    )
    return Disturbance(at, kind, lasting, who, others, weather=weather)
