"""What chats say to each other: the small format of their messages, version 1. CHAT.md describes it.

A message of the socket is one letter: a byte with the version, a byte with the kind, and UTF-8 text. Who wrote it is
not in it: that is the key of the connection it came by. Receipts are not in it either: that is what a Delivery tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from ..exceptions import DecodeError

VERSION: Final = 1
MAX_TEXT: Final = 4000
"""Characters of one message at most."""
MAX_NICK_BYTES: Final = 64
_MAX_BYTES: Final = 2 + 4 * MAX_TEXT


class Kind(IntEnum):
    """What a letter is."""

    NICK = 1
    """What its writer would like to be called."""
    ALL = 2
    """Said to everybody."""
    PRIVATE = 3
    """Said to the receiver alone."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One message between chats. ``text`` is as its writer made it: not fit for a screen."""

    kind: Kind
    text: str


def write(letter: Letter) -> bytes:
    """The bytes of a letter."""
    return bytes((VERSION, letter.kind)) + letter.text.encode()


def read(data: bytes) -> Letter:
    """The letter in a message.

    Raises:
        DecodeError: it is none, or one of a version or kind we do not know; the text is the reason to count it under.
    """
    if len(data) > _MAX_BYTES:
        raise DecodeError("too long")
    if len(data) < 2 or data[0] != VERSION:
        raise DecodeError("another version" if data[:1] and 1 < data[0] < 32 else "not a chat message")
    try:
        kind = Kind(data[1])
    except ValueError:
        raise DecodeError("unknown kind") from None
    try:
        text = data[2:].decode()
    except UnicodeDecodeError:
        raise DecodeError("not UTF-8") from None
    if len(text) > MAX_TEXT or (kind is Kind.NICK and len(data) - 2 > MAX_NICK_BYTES):
        raise DecodeError("too long")
    return Letter(kind, text)
