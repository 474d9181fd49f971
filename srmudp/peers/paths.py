"""Where a peer is: proposals of a new address and their validation.

Only an opened single-datagram record with the highest number proposes an address: a copied or late one proves nothing.
Sealed challenges then go to the new address *and* to the old one. If the old one still answers, an attacker merely
copied a packet to us faster than the peer sent it, and nothing moves. Otherwise the new address is taken once it
answered its own challenge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..models import Address
from ..wire.packet import RECORD_OVERHEAD, TAG

PROPOSAL_INTERVAL: Final = 0.5
"""Seconds between two proposals of one peer: bounds what goes to addresses that prove nothing."""
MIN_WAIT: Final = 0.05
"""Seconds the old address has at least to answer."""
PROOF_FACTOR: Final = 3
"""Bytes that may go to an address that proved nothing, for each byte that came from there (RFC 9000 section 8.1)."""
PROOF_INTERVAL: Final = 0.25
"""Seconds between two challenges to one."""
UNPROVEN_SENDS: Final = 3
"""Times SHARED_KEY is sent to an address that answered though we did not punch it: it may be somebody else's."""
CHALLENGE_SIZE: Final = RECORD_OVERHEAD + 16 + TAG
"""Bytes of a datagram with a challenge."""


@dataclass(slots=True)
class PathProbe:
    """One proposed address under validation."""

    address: Address
    nonce_new: bytes
    nonce_old: bytes
    started_at: float
    decide_at: float
    new_answered: bool = False
    old_answered: bool = False


class AddressProof:
    """A session was agreed with an address that we never punched. It may be anybody's: the peer wrote it on its answer.

    A peer needs to read none of our messages to get so far. Until it answered a challenge, nothing else goes there.
    """

    def __init__(self, address: Address, nonce: bytes, now: float) -> None:
        self.address = address
        self.nonce = nonce
        self._credit = 0
        self._next_at = now

    def on_received(self, size: int) -> None:
        """An authenticated record came from there."""
        self._credit += PROOF_FACTOR * size

    def next_timer(self) -> float | None:
        """When the challenge is to be sent (again)."""
        return self._next_at if self._credit >= CHALLENGE_SIZE else None

    def take(self, now: float) -> bool:
        """True if the challenge is to be sent now, which is then counted."""
        if self._credit < CHALLENGE_SIZE or now < self._next_at:
            return False
        self._credit -= CHALLENGE_SIZE
        self._next_at = now + PROOF_INTERVAL
        return True

    def is_answer(self, nonce: bytes, source: Address) -> bool:
        """Whether a response proves the address."""
        return nonce == self.nonce and source == self.address


class PathValidator:
    """The proposals of one peer."""

    def __init__(self) -> None:
        self.probe: PathProbe | None = None
        self._next_proposal = 0.0

    def propose(self, address: Address, nonces: bytes, rtt: float, now: float) -> PathProbe | None:
        """A record came from an address that is not the path's.

        Args:
            nonces: 16 random bytes.
            rtt: probe timeout of the present path, seconds.

        Returns:
            The probe whose two challenges must now be sent, or None if it is too early for another.
        """
        if now < self._next_proposal or (self.probe is not None and self.probe.address == address):
            return None
        self._next_proposal = now + PROPOSAL_INTERVAL
        self.probe = PathProbe(address, nonces[:8], nonces[8:16], now, now + max(2 * rtt, MIN_WAIT))
        return self.probe

    def on_response(self, nonce: bytes, source: Address, silent: bool, now: float) -> None:
        """A challenge was answered. An answer counts for its own nonce only, that of the new address from there alone.

        The old address's challenge went there only, so whoever answers it is there, whatever way the answer takes: a
        copy that is faster than the answer itself bears the address of who copied it.

        Args:
            silent: the old address has left several probes unanswered by now, so it need not be waited for again.
        """
        probe = self.probe
        if probe is None:
            return
        if nonce == probe.nonce_new and source == probe.address:
            probe.new_answered = True
            if silent:
                probe.decide_at = now
        elif nonce == probe.nonce_old:
            probe.old_answered = True

    def next_timer(self) -> float | None:
        """When :meth:`decide` must be called."""
        return self.probe.decide_at if self.probe is not None else None

    def decide(self, now: float) -> Address | None:
        """The address to move to, if it is time and it was proven."""
        probe = self.probe
        if probe is None or now < probe.decide_at:
            return None
        self.probe = None
        return probe.address if probe.new_answered and not probe.old_answered else None
