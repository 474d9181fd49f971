"""Invites in the chat: making one, adding somebody by one, and what to send back where both routers are strict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..models import PublicAddress
from ..nat.invites import Invite, is_invite
from ..sockets.addresses import check_name, parse_target
from . import answers, qr
from .book import Entry
from .commands import split_name
from .lines import Kind, Line
from .safe import MAX_NICK_SHOWN, shown

if TYPE_CHECKING:
    from .conversation import Conversation

EXPIRES: Final = 3600.0
"""Seconds an invite of the chat is good for."""
ANSWER_AFTER: Final = 4.0
"""Seconds after which somebody added by an invite who is not here needs one of ours."""
_TORN: Final = 3.0
"""Seconds within which the rest of a torn invite follows, when it was pasted into a line by line terminal."""
_ALPHABET: Final = frozenset("abcdefghijklmnopqrstuvwxyz234567")


@dataclass(frozen=True, slots=True)
class Purpose:
    """What our address is asked for.

    Attributes:
        nick: whom the invite is for; empty: for whoever comes.
        is_answer: it goes back to somebody who has invited us.
    """

    nick: str = ""
    is_answer: bool = False


Ask = Callable[[Purpose], str | None]
"""Begins to ask for our public address, of which :meth:`Inviting.asked` will hear; says who is asked, if anybody. None:
nothing was begun, because those who would be asked are asked by a command alone."""


class Inviting:
    """The invites of one chat.

    Args:
        ask: see :data:`Ask`.
    """

    def __init__(self, chat: Conversation, ask: Ask) -> None:
        self._chat = chat
        self._ask = ask
        self._awaited: dict[str, float] = {}
        self._torn: tuple[str, float] | None = None
        self.room: Callable[[], tuple[int, int]] = lambda: (0, 0)
        """Columns and rows that the front end has for a QR code."""

    def invite(self, arguments: str) -> None:
        """``/invite [nick]``."""
        if arguments:
            try:
                arguments = check_name(split_name(arguments, ())[0], "nick")
            except ValueError as error:
                self._chat.mistake(str(error))
                return
        self._begin(Purpose(arguments))

    def _begin(self, purpose: Purpose) -> None:
        asked = self._ask(purpose)
        if asked is None:
            who = shown(purpose.nick, MAX_NICK_SHOWN)
            self._chat.warn(
                f"{who} is not here yet: many routers let in only whom one knocks at oneself. Type /invite {who} and "
                "send the line it shows back. (It asks public STUN servers how this chat is seen from outside.)"
            )
        elif asked:
            self._chat.note(f"asking {asked} how this chat is seen from outside (--no-discover asks nobody)")

    def asked(self, found: PublicAddress | Exception | None, purpose: Purpose) -> None:
        """Our public address was found, or not, or nobody was asked."""
        chat = self._chat
        if isinstance(found, Exception):
            chat.warn(f"that was not found out, so the invite is of use on your own network alone: {found}")
        elif found is not None:
            answers.tell_mapping(chat, found)
        person = chat.people.get(purpose.nick)
        if purpose.is_answer and (person is None or person.is_here):
            return
        try:
            text = chat.net.invite(EXPIRES, purpose.nick or None)
        except ValueError as error:
            chat.mistake(str(error))
            return
        who = shown(purpose.nick, MAX_NICK_SHOWN)
        self._draw(text)  # first: what is to be copied stays in sight
        if purpose.is_answer:
            chat.warn(f"{who} is not here yet: many routers let in only whom one knocks at oneself. Send this back:")
        elif Invite.parse(text).token:
            chat.good(
                f"Send this to {who or 'one person'}, by a way that others do not read: whoever comes first is let in. "
                "It is good for an hour, as long as this chat runs:"
            )
        else:
            chat.good(f"Send this to {who}, whose key you know; it lets in nobody else:")
        nick = f'"{chat.nick}"' if " " in chat.nick else chat.nick
        chat.show(Line(Kind.COPY, f"/add {nick} {text}"))

    def _draw(self, text: str) -> None:
        columns, rows = self.room()
        code = qr.rows(text) if columns and rows else []
        if code and len(code) < rows and max(map(len, code)) < columns:
            for row in code:
                self._chat.show(Line(Kind.QR, row))

    def add(self, arguments: str) -> None:
        """``/add`` with an invite; the nick may be left out."""
        chat = self._chat
        alone = is_invite(arguments)
        name, text = ("", arguments) if alone else split_name(arguments, ())
        try:
            invite = Invite.parse(text)
        except ValueError as error:
            self._torn = (arguments, chat.clock())
            chat.mistake(f"nothing was added: {error}")
            return
        try:
            name = check_name(name or invite.name or invite.peer_id.tag)
            entry = entry_of(name, text)
            known = next((person for person in chat.people if person.peer_id == invite.peer_id), None)
            if known is not None and known.name != name and known.is_here:
                chat.note(f"that is {known.label}, who is here already")
                return
            chat.connect({name: entry})
        except ValueError as error:
            chat.mistake(f"nothing was added: {error}")
            return
        person = chat.people.get(name)
        if person is not None and person.is_here:
            chat.note(f"{person.label} is here already")
            return
        self._awaited[name] = chat.clock() + ANSWER_AFTER
        chat.note(f"connecting to {shown(name, MAX_NICK_SHOWN)}, who has invited you")

    def is_rest(self, text: str) -> bool:
        """Whether a line is the rest of an invite that was torn apart when it was pasted, or an invite alone.

        Then it was seen to: what was meant for one must not be said to all.
        """
        chat, word = self._chat, text.strip()
        torn, self._torn = self._torn, None
        if torn is not None and chat.clock() - torn[1] < _TORN and word and set(word.lower()) <= _ALPHABET:
            self.add(f"{torn[0]}{word}")
            return True
        if is_invite(word):
            chat.mistake("not sent: that is an invite. To connect: /add and the invite. To say it: /say and the invite")
            return True
        return False

    def tick(self) -> None:
        """Look who was added by an invite and is not here."""
        chat, now = self._chat, self._chat.clock()
        for name, when in list(self._awaited.items()):
            person = chat.people.get(name)
            if person is None or person.is_here:
                del self._awaited[name]
            elif now >= when:
                del self._awaited[name]
                self._begin(Purpose(name, is_answer=True))


def entry_of(name: str, text: str) -> Entry:
    """What is typed behind a nick: an address or an invite.

    Raises:
        ValueError: it is neither.
    """
    target = parse_target(name, text)
    if is_invite(text):
        return Entry(tuple(map(str, target.addresses)), target.peer_id, invite="".join(text.split()))
    return Entry((text.rpartition("@")[2],), target.peer_id)
