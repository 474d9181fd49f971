"""Cookies: who sends one back reads what is sent to its address, so that a flood with forged sources costs no keys."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Final

from ..models import Address
from ..wire.packet import COOKIE_BYTES

SECRET_LIFETIME: Final = 120.0
"""Seconds after which cookies are made with a new secret, as WireGuard does; those of the last one still count."""


class Cookies:
    """Makes and checks cookies without remembering any. Called under the endpoint lock.

    A cookie is a MAC over a source address and the index of a PUNCH, under a secret that nobody else has. The same
    punch always gets the same one while the secret lasts.

    Args:
        random: cryptographic randomness.
    """

    __slots__ = ("_changed_at", "_previous", "_random", "_secret")

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._secret = b""
        self._previous = b""
        self._changed_at: float | None = None

    def make(self, source: Address, index: int, now: float) -> bytes:
        """The cookie that a punch from ``source`` must carry."""
        self._refresh(now)
        return _mac(self._secret, source, index)

    def holds(self, cookie: bytes, source: Address, index: int, now: float) -> bool:
        """True if we made this cookie for this address and index lately."""
        self._refresh(now)
        return any(
            hmac.compare_digest(_mac(secret, source, index), cookie)
            for secret in (self._secret, self._previous)
            if secret
        )

    def _refresh(self, now: float) -> None:
        age = None if self._changed_at is None else now - self._changed_at
        if age is not None and age < SECRET_LIFETIME:
            return
        # After a long silence the last secret is too old as well.
        self._previous = self._secret if age is not None and age < 2 * SECRET_LIFETIME else b""
        self._secret = self._random(32)
        self._changed_at = now


def _mac(secret: bytes, source: Address, index: int) -> bytes:
    data = index.to_bytes(8, "big") + source.port.to_bytes(2, "big") + source.host.encode()
    return hmac.digest(secret, data, "sha256")[:COOKIE_BYTES]
