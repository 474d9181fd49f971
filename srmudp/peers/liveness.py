"""When a peer must hear of us, and when we ask after it: keepalives, and what silence teaches about mappings.

A NAT forgets a mapping that was silent for some time. Whoever sends next gets another address, and is told of it by
the peer that follows (OBSERVED_ADDRESS). So if we were silent for N seconds, spoke, and are then seen somewhere else,
mappings here seem to live less than N seconds. Once may be a router that was restarted. If it happens again, and no
silence of that length went well in between, there is a keepalive every N / 2 seconds from then on, N being the longer
of the two. They are never made rarer again but after a change of our own network: a mapping that seems to last longer
was perhaps kept alive by other traffic.

Who listens does not speak. If what was coming in stops, that may be the end of it; or the mapping is gone, so that the
peer's datagrams end at our own NAT while its sender waits for acknowledgements. A question opens a new one.
"""

from __future__ import annotations

from typing import Final

from ..models import Address

KEEPALIVE: Final = 15.0
"""Seconds of silence at most: half of what the shortest-lived common NAT mappings bear."""
KEEPALIVE_ROUNDS: Final = 8
"""Times in an interval that a socket wakes up for keepalives at most, however many peers it has."""
LEAST_KEEPALIVE: Final = 2.0
"""Seconds between keepalives at least, whatever was learned: no NAT worth its name forgets so fast."""
LONG_SILENCE: Final = 1.0
"""Seconds; no mapping is gone after less."""
LEARN_WITHIN: Final = 3.0
"""Seconds after the end of a silence within which the peer tells of another address because of it."""
STREAM: Final = 2000
"""Bytes since we asked last that make silence after them worth a question: more than chatter and keepalives."""
QUIET: Final = 0.5
"""Seconds of silence after so much."""


class Liveness:
    """The keepalives of one peer.

    Args:
        interval: seconds of silence at most.
    """

    __slots__ = ("_asked_at", "_ended_at", "_most", "_silence", "_suspect", "interval")

    def __init__(self, interval: float) -> None:
        self.interval = interval
        """Seconds of silence that the peer is left in at most."""
        self._most = interval
        self._silence = self._ended_at = 0.0
        self._suspect = 0.0  # the silence that cost a mapping before; 0.0: none
        self._asked_at = 0  # bytes that had come

    # --- mappings

    def on_silence_ends(self, since: float, now: float) -> None:
        """We send something, for the first time since ``since``."""
        if now - since >= LONG_SILENCE:
            if self._ended_at and self._silence >= self._suspect:
                self._suspect = 0.0  # the one before was as long and did no harm
            self._silence, self._ended_at = now - since, now

    def on_observed(self, before: Address | None, after: Address, now: float) -> None:
        """The peer tells what address it sees of us."""
        if before is None or before == after or now - self._ended_at > LEARN_WITHIN:
            return
        self._ended_at = 0.0  # it was this silence; another change has another reason
        if self._suspect:
            learned = max(self._silence, self._suspect) / 2
            self.interval = max(min(self.interval, learned), min(LEAST_KEEPALIVE, self._most))
        self._suspect = self._silence

    def on_network_changed(self) -> None:
        """There is another NAT in our way now, or none."""
        self.interval = self._most
        self._ended_at = self._suspect = 0.0

    # --- silence

    def asks_at(self, received: int, last_heard: float) -> float | None:
        """When to ask a peer that was sending and has stopped, if nothing more comes.

        Args:
            received: bytes that ever came from it.
        """
        return last_heard + QUIET if received - self._asked_at > STREAM else None

    def on_asked(self, received: int) -> None:
        """It was asked, or need not be."""
        self._asked_at = received
