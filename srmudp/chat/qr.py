"""An invite as a QR code made of characters, where the extra ``qr`` is installed."""

from __future__ import annotations

import io

BORDER = 2


def rows(text: str) -> list[str]:
    """The code of ``text`` in capitals, two squares a character, light on dark; empty without the library for it."""
    try:
        import segno
    except ImportError:
        return []
    drawn = io.StringIO()
    segno.make(text.upper(), error="l", micro=False, boost_error=False).terminal(drawn, border=BORDER, compact=True)
    return drawn.getvalue().splitlines()
