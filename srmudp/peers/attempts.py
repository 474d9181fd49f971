"""Our own try to reach a peer: what it sends, and until when."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from ..models import Address, PeerId
from ..protocol.handshake import Agreed, Opening

ATTEMPT_LIFETIME: Final = 10.0
"""Seconds one attempt repeats identical PUNCH bytes, and a half-open session lives."""
UNANSWERED: Final = 4.0
"""Seconds SHARED_KEY is repeated: who answered the punch and then falls silent may have been restarted meanwhile."""
SHARED_KEY_INTERVAL: Final = 0.25
"""Seconds between repetitions of SHARED_KEY at first; doubles up to a second."""
PUNCHED_AT_ONCE: Final = 4
"""Addresses of one peer that are punched in one moment; the next of them PUNCH_SPACING seconds later."""
PUNCH_SPACING: Final = 0.02
MAX_JOBS: Final = 16
"""Answers to one attempt that are checked at a time; an honest one comes with every punch."""


@dataclass(slots=True)
class Attempt:
    """Our own try to reach the peer: punching until answered, then SHARED_KEY until established."""

    index: int
    started_at: float
    addressee: PeerId | None
    opening: Opening | None = None
    cookies: dict[Address, dict[bytes, Opening | None]] = field(default_factory=dict)
    """By target: the cookies it demanded, with what is punched there besides ``opening`` once a job has made it."""
    next_send: float = 0.0
    sends: int = 0
    done: int = 0
    """Targets that have had their punch this time."""
    jobs: set[bytes] = field(default_factory=set)
    refused: dict[Address, bytes] = field(default_factory=dict)
    """By target: the last answer to be proven by a key that we did not want, by its hash."""
    agreed: Agreed | None = None
    agreed_at: float = 0.0
    answered_from: Address | None = None
    interval: float = SHARED_KEY_INTERVAL

    def openings(self, target: Address | None = None) -> list[Opening]:
        """What is punched with: without a cookie first, then with those that ``target`` (or anyone) demanded."""
        demands = self.cookies.values() if target is None else [self.cookies.get(target, {})]
        found = [opening for demanded in demands for opening in demanded.values() if opening is not None]
        return found if self.opening is None else [self.opening, *found]
