"""The chat application: ``srmudp chat``, ``srmudp-chat`` and ``python -m srmudp.chat``.

:mod:`.conversation` is the chat without a terminal: typed lines, messages and events in, lines to show out.
:mod:`.session` joins it with a socket, :mod:`.plain` shows it. What peers write reaches the screen
through :mod:`.safe` alone. CHAT.md describes what chats send to each other.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """As ``srmudp chat`` with these arguments; None means those of ``sys.argv``. Returns the exit status."""
    from ..cli import main as srmudp

    return srmudp(["chat", *(sys.argv[1:] if argv is None else argv)])
