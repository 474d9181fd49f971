"""What tests of commands between two processes share."""

from __future__ import annotations

import re
from pathlib import Path

from ..programs import Program

WORDS = re.compile(r"([a-z2-7]{52})@(\S+):(\d+)$")


def command(folder: Path, *words: object) -> Program:
    """``srmudp`` in a process of its own, with ``folder`` for its files and its user's."""
    return Program(["-m", "srmudp", *map(str, words)], folder, {"XDG_DATA_HOME": str(folder / "data")})


def address_in(line: str | None) -> str:
    """The address that a listening end prints, by way of loopback."""
    match = WORDS.search(line or "")
    assert match, line
    return f"{match[1]}@127.0.0.1:{match[3]}"
