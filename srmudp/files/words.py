"""Text from elsewhere, made safe to show."""

from __future__ import annotations

_LONGEST = 300


def shown(text: str) -> str:
    """``text`` with everything that could steer a terminal made visible, and not too long."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text[:_LONGEST])
