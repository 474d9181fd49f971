"""File names from elsewhere, made into names that are safe on every system. Pure functions.

What no honest program sends (a path where a name should be, ``..``, nothing at all) is refused; what is merely awkward
somewhere (a colon, a trailing dot, ``NUL``, an override of the writing direction) is replaced.
"""

from __future__ import annotations

import unicodedata

from ..exceptions import DecodeError

__all__ = [
    "MAX_DEPTH",
    "MAX_NAME",
    "MAX_PATH",
    "PART",
    "STATE",
    "check_path",
    "key_of",
    "numbered",
    "safe_name",
    "sendable",
]

MAX_NAME = 180
"""Bytes of UTF-8 of a name on disk: with ``.part.state`` and a number it stays below the usual 255."""
MAX_SENT = 255
"""Bytes of UTF-8 of one name as it is sent."""
MAX_PATH = 1024
"""Bytes of UTF-8 of a path inside a folder, as it is sent."""
MAX_DEPTH = 24
"""Names in such a path."""

PART = ".part"
"""Ending of what has not come as a whole yet."""
STATE = ".part.state"
"""Ending of the note beside it."""

_FORBIDDEN = frozenset('<>:"/\\|?*')  # Windows; "/" everywhere
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$", "clock$"]
    + [f"{word}{digit}" for word in ("com", "lpt") for digit in "0123456789¹²³"]
)


def safe_name(text: str, *, inner: bool = False) -> str:
    """A base name made of ``text`` that means the same harmless file on every system.

    Args:
        text: a name as a peer gave it.
        inner: a name inside a folder that is received as a whole: there a dot may come first (``.gitignore``).

    Raises:
        DecodeError: it is no name but a path, a number, or nothing (``../x``, ``C:\\x``, ``.``, an empty text).
    """
    _check_one(text)
    name = "".join(
        "_" if c in _FORBIDDEN or not c.isprintable() else c for c in unicodedata.normalize("NFC", text)
    ).strip(" ")
    name = name.rstrip(". ") or "_"
    if name[0] in "-~" or (name[0] == "." and not inner):
        name = "_" + name[1:]
    name = _shorten(name, MAX_NAME)
    if name.partition(".")[0].rstrip(" ").casefold() in _DEVICES:
        name = "_" + name
    if name.casefold().endswith((PART, STATE)):  # ours: a peer could forge a note
        name += "_"
    return name


def sendable(name: str) -> str:
    """``name`` as it is on our disk, made into one that :func:`check_path` lets pass."""
    text = "".join("_" if c in "/\\\0" or "\ud800" <= c <= "\udfff" else c for c in name)
    if len(text) >= 2 and text[1] == ":" and text[0].isascii() and text[0].isalpha():
        text = f"{text[0]}_{text[2:]}"
    return text


def check_path(text: str) -> tuple[str, ...]:
    """The names in a path inside a folder, as sent: joined by ``/``, neither ``.`` nor ``..``.

    Raises:
        DecodeError: it is not such a path, or too deep.
    """
    names = tuple(text.split("/"))
    if len(names) > MAX_DEPTH:
        raise DecodeError(f"a path of {len(names)} names, at most {MAX_DEPTH} are allowed")
    for name in names:
        _check_one(name)
    return names


def key_of(name: str) -> str:
    """What names have in common that some file system takes for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def numbered(name: str, number: int) -> str:
    """``name`` itself for 1, then ``name (2)``, before the ending that tells its kind: ``photo (2).jpg``."""
    if number == 1:
        return name
    stem, dot, ending = name.rpartition(".")
    if not stem or len(ending) > 10:
        stem, dot, ending = name, "", ""
    return f"{stem} ({number}){dot}{ending}"


def _check_one(text: str) -> None:
    if len(text.encode("utf-8", "surrogatepass")) > MAX_SENT:
        raise DecodeError(f"a name of more than {MAX_SENT} bytes")
    if not text or text in (".", "..") or "/" in text or "\\" in text or "\0" in text:
        raise DecodeError("a path, or nothing, where the name of a file belongs")
    if len(text) >= 2 and text[1] == ":" and text[0].isascii() and text[0].isalpha():
        raise DecodeError("a path of Windows where the name of a file belongs")
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise DecodeError("a name that is not Unicode")


def _shorten(name: str, limit: int) -> str:
    """``name`` within ``limit`` bytes of UTF-8, its ending kept if that is short."""
    if len(name.encode()) <= limit:
        return name
    stem, dot, ending = name.rpartition(".")
    if not stem or len(ending.encode()) > 10:
        stem, dot, ending = name, "", ""
    room = limit - len(ending.encode()) - len(dot)
    return stem.encode()[:room].decode("utf-8", "ignore").rstrip(". ") + dot + ending
