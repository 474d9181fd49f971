"""Questions to the user that wait for a yes or a no."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..models import PeerId


@dataclass(slots=True, eq=False)
class Question:
    """Something the user is to answer by yes or no.

    Attributes:
        about: whose name an answer may be given to.
        asked: when; seconds of the same clock as everything here.
        risky: True if it came up by itself, so that a ``y`` may have been meant for something else.
    """

    text: str
    answer: Callable[[bool], None]
    asked: float
    about: str = ""
    peer_id: PeerId | None = None
    risky: bool = False
