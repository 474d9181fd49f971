"""Invites of a socket's own: how long they are good for, and which addresses stand in them."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from time import time
from typing import Final

from ..models import Address, NatTraits, PeerId, SeenAddress
from ..nat.candidates import is_one_host
from ..nat.invites import MAX_ADDRESSES, Invite

LONGEST: Final = 30 * 86_400.0
"""Seconds an invite is good for at most."""

_SEEN: Final = 3
"""Addresses of each family that others see us at, in one invite."""


def check_expires(expires: float) -> float:
    """``expires`` itself, if an invite may be good for so many seconds.

    Raises:
        ValueError: not between 1 second and 30 days.
    """
    if isinstance(expires, bool) or not isfinite(expires) or not 1 <= expires <= LONGEST:
        raise ValueError(f"expires must be 1 to {LONGEST:.0f} seconds (30 days), not {expires!r}")
    return float(expires)


def text_of(
    peer_id: PeerId,
    name: str,
    token: bytes,
    expires: float,
    here: Iterable[Address],
    seen: Iterable[SeenAddress],
    nat: NatTraits,
) -> str:
    """An invite of ours.

    Args:
        expires: seconds from now.
        here: our own addresses.
        seen: where others see us. What peers say is published if two of them agree, in networks of their own.
    """
    outside: list[Address] = []
    for one in seen:
        same = [address for address in outside if (":" in address.host) == (":" in one.address.host)]
        is_known = one.confirmed or any(witness.startswith("stun ") for witness in one.witnesses)
        if is_known and len(same) < _SEEN and is_one_host(one.address):
            outside.append(one.address)
    addresses = tuple(dict.fromkeys((*outside, *here)))[:MAX_ADDRESSES]
    known = nat if nat != NatTraits() else None
    return Invite(peer_id, addresses, int(time() + expires) + 1, name, known, token).text()
