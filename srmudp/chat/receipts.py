"""What became of our messages: the ticks beside them, which are true."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from .lines import Line, Piece, Style


class Sent(Protocol):
    """What the conversation asks of a :class:`srmudp.Delivery`."""

    @property
    def pending(self) -> frozenset[str]: ...
    @property
    def delivered(self) -> frozenset[str]: ...
    @property
    def failed(self) -> dict[str, str]: ...


@dataclass(slots=True, eq=False)
class Receipt:
    """What becomes of a message of ours."""

    delivery: Sent
    line: Line
    since: float
    text: str
    names: Callable[[Iterable[str]], str]
    waits: Callable[[Iterable[str]], bool]
    overdue_told: bool = False

    def mark(self) -> Piece:
        """A tick: two when all have it, one while it is on its way, dots while somebody is away."""
        delivery = self.delivery
        done, pending, failed = len(delivery.delivered), len(delivery.pending), len(delivery.failed)
        if failed and not pending:
            return Style.BAD, "✗" if not done else f"✗ {done}/{done + failed}"
        if not pending:
            return Style.GOOD, "✓✓"
        mark = "…" if self.waits(delivery.pending) else "✓"
        return Style.NOTE, f"{mark} {done}/{done + pending + failed}" if done else mark
