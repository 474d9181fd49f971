"""How a transfer stands: what the application is shown."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

__all__ = ["Meter", "Transfer", "TransferState"]

_WINDOW = 4.0
"""Seconds over which the rate is taken."""
_STEP = 0.2
"""Seconds between samples at least."""


class TransferState(Enum):
    """Where a transfer stands."""

    PREPARING = "preparing"
    """Sender: computing checksums. Receiver: comparing what came before a break."""
    OFFERED = "offered"
    """The receiver has not answered yet."""
    MOVING = "moving"
    """Bytes are on their way, or wait for a connection."""
    FINISHING = "finishing"
    """All bytes are there; they are made safe on disk."""
    DONE = "done"
    """The receiver has it under its name and the checksums are right."""
    REFUSED = "refused"
    """The receiver did not want it."""
    CANCELLED = "cancelled"
    """One of the two gave up."""
    FAILED = "failed"
    """It could not be done; ``reason`` says why."""


OVER = frozenset({TransferState.DONE, TransferState.REFUSED, TransferState.CANCELLED, TransferState.FAILED})


@dataclass(frozen=True, slots=True)
class Transfer:
    """A snapshot of one transfer.

    Attributes:
        number: ours for it, 1, 2, 3, ...
        peer: our name for the other end.
        outgoing: True if we send.
        name: of the file or folder, safe to show and to write.
        is_folder: a folder with all that is in it.
        files: how many files.
        size: bytes of all of them.
        done: bytes that are at the receiver, those of before a break included.
        resumed: bytes that were there from before a break.
        rate: bytes a second over the last seconds.
        state: see :class:`TransferState`.
        reason: why it was refused, cancelled or failed, in words that are safe to show.
        path: where it is: the source; received, the final path once done.
    """

    number: int
    peer: str
    outgoing: bool
    name: str
    is_folder: bool
    files: int
    size: int
    done: int
    resumed: int
    rate: float
    state: TransferState
    reason: str = ""
    path: str = ""

    @property
    def is_over(self) -> bool:
        """True once nothing more will happen."""
        return self.state in OVER

    @property
    def fraction(self) -> float:
        """0.0 to 1.0."""
        return self.done / self.size if self.size else float(self.state is TransferState.DONE)

    @property
    def remaining(self) -> float | None:
        """Seconds it will take at the present rate, or None if nothing moves."""
        return (self.size - self.done) / self.rate if self.rate > 0 else None


class Meter:
    """The rate of something that grows. One writer; readers may see the value of a moment ago."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=int(_WINDOW / _STEP) + 2)

    def note(self, total: int, now: float) -> None:
        """``total`` bytes by ``now``, in seconds of a clock that never goes back."""
        samples = self._samples
        if samples and total < samples[-1][1]:
            samples.clear()
        if not samples or now - samples[-1][0] >= _STEP:
            samples.append((now, total))

    def rate(self, total: int, now: float) -> float:
        """Bytes a second over the last seconds."""
        for then, before in list(self._samples):
            if now - then <= _WINDOW:
                return (total - before) / (now - then) if now - then >= _STEP else 0.0
        return 0.0
