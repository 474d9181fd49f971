"""Invites of a socket's own: how long they are good for, and which addresses stand in them."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from time import time
from typing import Final

from ..models import Candidate, CandidateKind, NatTraits, PeerId
from ..nat.invites import MAX_ADDRESSES, Invite

LONGEST: Final = 30 * 86_400.0
"""Seconds an invite is good for at most."""
MAX_OUTSIDE: Final = 5
"""Addresses at which we are seen from outside, in one invite."""


def check_expires(expires: float) -> float:
    """``expires`` itself, if an invite may be good for so many seconds.

    Raises:
        ValueError: not between 1 second and 30 days.
    """
    if isinstance(expires, bool) or not isfinite(expires) or not 1 <= expires <= LONGEST:
        raise ValueError(f"expires must be 1 to {LONGEST:.0f} seconds (30 days), not {expires!r}")
    return float(expires)


def text_of(
    peer_id: PeerId, name: str, token: bytes, expires: float, candidates: Iterable[Candidate], nat: NatTraits
) -> str:
    """An invite of ours.

    Args:
        expires: seconds from now.
        candidates: where we may be reached, the best first.

    Raises:
        ValueError: there is no address.
    """
    found = list(candidates)
    outside = [one.address for one in found if one.kind is not CandidateKind.HOST][:MAX_OUTSIDE]
    here = [one.address for one in found if one.kind is CandidateKind.HOST]
    addresses = tuple(dict.fromkeys((*outside, *here)))[:MAX_ADDRESSES]
    known = nat if nat != NatTraits() else None
    return Invite(peer_id, addresses, int(time() + expires) + 1, name, known, token).text()
