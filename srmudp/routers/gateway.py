"""The address of the default router, from the system."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

_ROUTES: Final = Path("/proc/thread-self/net/route")  # a thread may live in a network namespace of its own
NO_WINDOW: Final[int] = getattr(subprocess, "CREATE_NO_WINDOW", 0)
"""Windows: no console for what a program with windows starts."""
_UP_AND_GATEWAY: Final = 0x3
_COMMANDS: Final = {
    "darwin": (("/sbin/route", "-n", "get", "default"), re.compile(r"gateway:\s*([0-9.]+)")),
    "win32": (
        ("route", "print", "-4", "0.0.0.0"),
        re.compile(r"^\s*0\.0\.0\.0\s+0\.0\.0\.0\s+([0-9.]+)\s", re.MULTILINE),
    ),
}


def default_gateway() -> str | None:
    """The IPv4 address of the router that leads out, or None if the system does not tell. Blocks a little."""
    if sys.platform in _COMMANDS:
        command, pattern = _COMMANDS[sys.platform]
        try:
            told = subprocess.run(
                command, capture_output=True, text=True, timeout=2, check=False, creationflags=NO_WINDOW
            ).stdout
        except (OSError, subprocess.TimeoutExpired, UnicodeError):
            return None
        return gateway_in(told, pattern)
    try:
        return gateway_of_linux(_ROUTES.read_text("ascii"))
    except (OSError, UnicodeError):
        return None


def gateway_in(told: str, pattern: re.Pattern[str]) -> str | None:
    """The first address in what a command says that the pattern names."""
    match = pattern.search(told)
    try:
        return None if match is None else str(IPv4Address(match[1]))
    except ValueError:
        return None


def gateway_of_linux(table: str) -> str | None:
    """The default route of the lowest metric in Linux' table of routes."""
    found: list[tuple[int, str]] = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        try:
            target, gateway, flags, metric, mask = fields[1], fields[2], int(fields[3], 16), int(fields[6]), fields[7]
            if int(target, 16) == 0 == int(mask, 16) and flags & _UP_AND_GATEWAY == _UP_AND_GATEWAY:
                # Hexadecimal of the number in memory, so in the byte order of the machine.
                found.append((metric, str(IPv4Address(struct.pack("=I", int(gateway, 16))))))
        except (IndexError, ValueError, struct.error):
            continue
    return min(found)[1] if found else None
