"""Who is in the conversation, what they are called on the screen, and that nobody is taken for somebody else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ..models import PeerId
from .safe import is_mixed, skeleton


class Patience:
    """How many lines of one sort are worth showing: ``burst`` at once, then one each ``seconds``."""

    def __init__(self, burst: int, seconds: float) -> None:
        self._burst, self._seconds = burst, seconds
        self._left, self._at = float(burst), 0.0
        self.suppressed = 0

    def __call__(self, now: float) -> bool:
        """True if one more is; counts those that are not."""
        self._left = min(self._burst, self._left + max(0.0, now - self._at) / self._seconds)
        self._at = now
        if self._left >= 1:
            self._left -= 1
            return True
        self.suppressed += 1
        return False


@dataclass(slots=True, eq=False)
class Person:
    """One peer, as the conversation sees it.

    Attributes:
        name: what the socket calls it.
        ours: True if we gave the name, by ``/add`` or a file; False if it is what a stranger claimed.
        nick: what it calls itself, if it said so.
        since: wall clock when it came; None while it is away.
        given: addresses the user gave, and ``added`` when that was.
        is_guest: one of us invited the other today.
        told: what was said about its not being reached, so as to say it once.
        odd: messages of it that were none of a chat, by reason.
    """

    name: str
    ours: bool
    nick: str = ""
    peer_id: PeerId | None = None
    since: float | None = None
    gone_at: float | None = None
    is_guest: bool = False
    told: str | None = None
    label: str = ""
    given: tuple[str, ...] = ()
    added: float = 0.0
    patience: Patience = field(default_factory=lambda: Patience(6, 10.0))
    odd: Counter[str] = field(default_factory=Counter)

    @property
    def is_here(self) -> bool:
        """True while connected."""
        return self.since is not None


class People:
    """All persons by the socket's names, and their labels."""

    def __init__(self) -> None:
        self._by_name: dict[str, Person] = {}

    def __iter__(self) -> Iterator[Person]:
        return iter(list(self._by_name.values()))

    def get(self, name: str) -> Person | None:
        """The person the socket calls ``name``."""
        return self._by_name.get(name)

    def add(self, name: str, *, ours: bool) -> Person:
        """The person of that name, a new one if there is none."""
        person = self._by_name.get(name)
        if person is None:
            person = self._by_name[name] = Person(name, ours, label=name)
        person.ours = person.ours or ours
        return person

    def drop(self, name: str) -> None:
        """Gone for good."""
        self._by_name.pop(name, None)

    def relabel(self, own: str, others: Iterable[tuple[str, PeerId | None]], verified: Iterable[PeerId]) -> None:
        """Decide anew what everybody is called on the screen: a key tag goes behind what could be somebody else.

        Args:
            own: our own nick: nobody else may look like us.
            others: names from other days and their keys.
            verified: keys that were compared: they keep their plain name.
        """
        base = {p: p.name if p.ours or not p.nick else p.nick for p in self._by_name.values()}
        owners: dict[str, set[object]] = {}
        for person, name in base.items():
            owners.setdefault(skeleton(name), set()).add(person.peer_id or person)
        for name, peer_id in others:
            owners.setdefault(skeleton(name), set()).add(peer_id or name)
        owners.setdefault(skeleton(own), set()).add("us")
        sure = set(verified)
        for person, name in base.items():
            doubtful = len(owners[skeleton(name)]) > 1 or is_mixed(name)
            # A claimed name may itself look like a tagged one: the tag of its own key goes behind it then.
            doubtful = doubtful or ("#" in name and not person.ours)
            if person.peer_id is not None and doubtful and person.peer_id not in sure:
                tag = f"#{person.peer_id.tag}"
                person.label = name if name.endswith(tag) else name + tag
            else:
                person.label = name

    def labels(self) -> dict[str, Person]:
        """Everybody by what a user may type: the label, and the socket's name where that is no other's label."""
        found = {person.name: person for person in self._by_name.values()}
        found.update({person.label: person for person in self._by_name.values()})
        return found
