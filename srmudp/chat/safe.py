"""The only way to the screen: what peers wrote, made safe to show.

Everything a peer sends is hostile text: escape sequences, overprinting, overrides of the writing direction, characters
without width, and simply too much. :func:`shown` leaves what a terminal prints and nothing that steers it. Front ends
write nothing that did not come out of :mod:`.lines`, and that calls it for every piece.
"""

from __future__ import annotations

import unicodedata
from typing import Final

MAX_SHOWN: Final = 4000
"""Columns of one text at most."""
MAX_NICK_SHOWN: Final = 24
_MARKS: Final = 2
"""Combining marks on one character at most: more of them paint over the lines above and below."""

# Printable by their category and yet invisible: fillers, blanks, a joiner.
_BLANK: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
# They choose between two forms of one character, and terminals disagree about its width then: left out.
_SELECTORS: Final = frozenset(map(chr, range(0xFE00, 0xFE10)))
# Needed for some scripts and for composed emoji, where leaving them out does little harm.
_JOINERS: Final = frozenset("\u200c\u200d")


def shown(text: str, limit: int = MAX_SHOWN) -> str:
    """``text`` as it may be shown: one line without anything that steers a terminal, at most ``limit`` columns wide.

    What is not printable becomes visible (``\\x1b``, ``\\u202e``); what is too long ends with an ellipsis.
    """
    if text.isascii() and text.isprintable() and len(text) <= limit:
        return text
    pieces: list[str] = []
    columns = marks = 0
    for position, character in enumerate(text):
        if character in _SELECTORS or (character in _JOINERS and _joins(text, position)):
            continue
        marks = marks + 1 if unicodedata.combining(character) else 0
        if not character.isprintable() or character in _BLANK or marks > _MARKS:
            character = _escaped(character)
        columns += width(character)
        if columns >= limit and (columns > limit or position + 1 < len(text)):
            return "".join(pieces) + "…"
        pieces.append(character)
    return "".join(pieces)


def width(text: str) -> int:
    """Columns that ``text`` takes on a terminal, for what :func:`shown` returns."""
    if text.isascii():
        return len(text)
    return sum(map(_width, text))


def _width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _joins(text: str, position: int) -> bool:
    """True for a joiner where scripts and emoji need it: between two characters that are not ASCII."""
    before, after = text[position - 1 : position], text[position + 1 : position + 2]
    return bool(before and after) and ord(before) > 127 and ord(after) > 127


def _escaped(character: str) -> str:
    code = ord(character)
    if character in "\n\r\t":
        return {"\n": "\\n", "\r": "\\r", "\t": " "}[character]
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


# --- names that look alike ---

# Letters of other scripts that look like Latin ones, as far as they are likely in names (of Unicode's confusables).
_LOOKS_LIKE: Final = str.maketrans(
    {
        **dict(zip("аеорсухіјѕһԁԛԝвкмнтьгпз", "aeopcyxijshdqwbkmhtbrn3", strict=True)),
        **dict(zip("αβγδεικνορτυχω", "abydeiknoptuxw", strict=True)),
        **dict(zip("ıłøđħŧƅɑɡɩʀʏ", "ilodhtbagiry", strict=True)),
        **dict(zip("01|!$5", "oliiss", strict=True)),
    }
)


def skeleton(name: str) -> str:
    """What two names have in common if they are easily mistaken for each other: compare skeletons, not names."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", name.casefold()) if c.isprintable() and c not in _BLANK)
    plain = "".join(c for c in plain if not unicodedata.combining(c) and not c.isspace() and c not in "_-.'`\"")
    plain = plain.translate(_LOOKS_LIKE).translate(str.maketrans("lj", "ii"))
    return plain.replace("rn", "m").replace("vv", "w")


def is_mixed(name: str) -> bool:
    """True if ``name`` has letters of several scripts, as names made to be mistaken for others often have."""
    scripts = {unicodedata.name(c, "?").partition(" ")[0] for c in name if c.isalpha()}
    return len(scripts) > 1 and bool(scripts & {"LATIN", "CYRILLIC", "GREEK"})
