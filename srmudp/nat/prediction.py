"""Which ports a NAT gives out next that counts them up. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ..models import Address, NatTraits
from .behaviour import is_local

PREDICTED: Final = 12
"""Ports tried after the last one seen: the peer's own flow takes one, others behind its NAT some more."""
PREDICT_FOR: Final = 10.0
"""Seconds that they are tried for: then they are others'."""
LOWEST_PORT: Final = 1024


def predicted(targets: Iterable[Address], theirs: NatTraits | None) -> list[Address]:
    """Where a peer may be seen next whose NAT counts its ports up or down, the likeliest first.

    Args:
        targets: addresses of the peer; the first one outside says at which host.
        theirs: what its side told of its NAT.
    """
    if theirs is None or not theirs.predictable or theirs.port_step is None or theirs.last_port is None:
        return []
    outside = next((target for target in targets if not is_local(target) and ":" not in target.host), None)
    if outside is None:
        return []
    ports = (theirs.last_port + theirs.port_step * number for number in range(1, PREDICTED + 1))
    return [Address(outside.host, port) for port in ports if LOWEST_PORT <= port <= 65_535]
