"""The commands of the chat: what there is, and what a typed line means. A typo never becomes a message."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from ..nat.invites import is_invite


@dataclass(frozen=True, slots=True)
class Command:
    """What ``/help`` says of a command.

    Attributes:
        usage: its arguments.
        fields: kinds of arguments, for completion: ``nick``, ``file``, ``command`` or ``text``.
        least: arguments it cannot do without.
    """

    name: str
    usage: str
    about: str
    fields: tuple[str, ...] = ()
    least: int = 0

    @property
    def line(self) -> str:
        """How it is written."""
        return f"/{self.name} {self.usage}".rstrip()


COMMANDS: Final = {
    command.name: command
    for command in (
        Command("help", "[command]", "show this, or how one command is used", ("command",)),
        Command("list", "", "who is there, and your own addresses"),
        Command(
            "add",
            "<nick> <addr>",
            "connect to host:port or [IPv6]:port, or by an invite",
            ("text", "text"),
            2,
        ),
        Command("invite", "[nick]", "make a text by which one person can come in", ("text",)),
        Command("remove", "<nick>", "end a connection, and forget the key of that nick", ("nick",), 1),
        Command("msg", "<nick> <message>", "say something to one alone", ("nick", "text"), 2),
        Command("say", "<message>", "say something to all, whatever it begins with", ("text",), 1),
        Command("whois", "<nick>", "key, address, round trip, since when", ("nick",), 1),
        Command("explain", "<nick>", "why somebody is not connected, and what to do", ("nick",), 1),
        Command("verify", "<nick>", "compare a code with somebody, then pin the key", ("nick",), 1),
        Command("public", "[server]", "ask STUN servers for your address as seen from outside", ("text",)),
        Command("nick", "<name>", "call yourself something else", ("text",), 1),
        Command("block", "<nick>", "disconnect somebody and never let them in again", ("nick",), 1),
        Command("unblock", "<nick>", "undo it", ("text",), 1),
        Command("send", "<nick|*> <file>", "offer a file or folder to one, or to all", ("nick", "file"), 2),
        Command("accept", "[number]", "take the file that is offered", ("text",)),
        Command("reject", "[number]", "refuse it", ("text",)),
        Command("cancel", "[number]", "give up a file that is on its way", ("text",)),
        Command("yes", "[nick]", "let somebody in who asks, or answer a question", ("nick",)),
        Command("no", "[nick]", "do not", ("nick",)),
        Command("save", "<file>", "write your peers to a file", ("file",), 1),
        Command("load", "<file>", "connect to the peers in a file", ("file",), 1),
        Command("quit", "", "leave (Ctrl-D, too)"),
    )
}

_ALIASES: Final = {"exit": "quit", "q": "quit", "?": "help", "h": "help", "w": "msg", "peers": "list", "who": "list"}
# What is typed when the key beside the slash was hit, or Shift forgotten ("7" is the slash of many keyboards).
_SLIP: Final = re.compile(r"[\\7.:;?|!&-](\w+)(\s|$)")
_ALONE: Final = frozenset({"quit", "exit", "help"})
"""Words that alone on a line are more likely a command without its slash."""


@dataclass(frozen=True, slots=True)
class Call:
    """A command and what stands behind it."""

    command: Command
    arguments: str


@dataclass(frozen=True, slots=True)
class Say:
    """Plain text: for everybody."""

    text: str


@dataclass(frozen=True, slots=True)
class Mistake:
    """Neither: what to tell the user. Nothing is sent."""

    text: str


def understand(line: str) -> Call | Say | Mistake | None:
    """What a typed line means; None for an empty one."""
    line = line.strip()
    if not line:
        return None
    if line.startswith("//"):
        return Say(line[1:])
    if not line.startswith("/"):
        slip = _SLIP.match(line)
        word = slip[1].lower() if slip else line.lower() if line.lower() in _ALONE else ""
        if word in COMMANDS or word in _ALIASES:
            return Mistake(f"not sent: did you mean /{word}? To say it all the same: /say {line}")
        return Say(line)
    word, _, rest = line[1:].partition(" ")
    name = _ALIASES.get(word.lower(), word.lower())
    command = COMMANDS.get(name)
    if command is None:
        near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
        hint = f"did you mean /{near[0]}?" if near else "/help lists what there is."
        return Mistake(f"there is no /{word}: {hint} Nothing was sent.")
    rest = rest.strip()
    if len(rest.split()) < command.least and not (name == "add" and is_invite(rest)):
        return Mistake(f"usage: {command.line}")
    if rest and not command.usage:
        return Mistake(f"/{name} takes nothing behind it")
    return Call(command, rest)


def split_name(arguments: str, names: Iterable[str]) -> tuple[str, str]:
    """The name at the beginning of ``arguments`` and the rest.

    A name may be in quotes. One of ``names`` is found even if it has spaces and whatever its case; else the name is the
    first word.
    """
    if arguments[:1] in ("'", '"') and arguments.find(arguments[0], 1) > 0:
        name, _, rest = arguments[1:].partition(arguments[0])
        return _as_known(name, names), rest.strip()
    known = sorted(names, key=len, reverse=True)
    for fold in (str, str.casefold):
        for name in known:
            if fold(arguments[: len(name)]) == fold(name) and arguments[len(name) : len(name) + 1] in ("", " "):
                return name, arguments[len(name) :].strip()
    name, _, rest = arguments.partition(" ")
    return name, rest.strip()


def _as_known(name: str, names: Iterable[str]) -> str:
    names = list(names)
    if name in names:
        return name
    return next((known for known in names if known.casefold() == name.casefold()), name)


def near_names(name: str, names: Iterable[str]) -> Sequence[str]:
    """Names that may have been meant."""
    folded = {known.casefold(): known for known in names}
    return [folded[near] for near in difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.6)]


def completions(line: str, names: Iterable[str]) -> tuple[int, list[str], bool]:
    """How ``line`` may go on: where what is completed begins, what may stand there, and whether it is a file name.

    File names are for the front end to look up.
    """
    if not line.startswith("/") or line.startswith("//"):
        return 0, [], False
    word, space, rest = line[1:].partition(" ")
    if not space:
        return 0, [f"/{name}" for name in COMMANDS if name.startswith(word.lower())], False
    command = COMMANDS.get(_ALIASES.get(word.lower(), word.lower()))
    if command is None or not command.fields:
        return 0, [], False
    start = len(line) - len(rest)
    field = command.fields[0]
    if field == "file":
        return start, [], True
    if field == "command":
        return start, [name for name in COMMANDS if name.startswith(rest.lower())], False
    if field == "nick" and command.fields[1:] == ("file",):
        name, _ = split_name(rest, [*names, "*"])
        if rest.startswith(f"{name} "):
            return start + len(name) + 1, [], True
    if field == "nick":
        found = [name for name in names if name.casefold().startswith(rest.casefold())]
        return start, [f"{name} " if len(command.fields) > 1 else name for name in found], False
    return 0, [], False
