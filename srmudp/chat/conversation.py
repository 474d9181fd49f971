"""The conversation: what typed lines, messages and events do, without terminal, thread or clock of its own.

Front ends feed it and show the :class:`~.lines.Line` objects that its methods return. All methods are called from one
thread, except :meth:`Conversation.verdict`.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Any, Final, Protocol

from ..exceptions import DecodeError, MessageTooBig, QueueFull, SocketClosed, UnknownPeer
from ..files import Transfer
from ..models import Address, EventKind, Message, Peer, PeerEvent, PeerId, PeerStatus, PublicAddress, Trust
from ..nat.explanation import Explanation
from ..sockets.addresses import check_name
from . import answers, letters, transfers
from .book import Book, Entry
from .commands import Call, Mistake, Say, near_names, understand
from .inviting import Ask, Inviting, Purpose
from .letters import Letter
from .lines import Kind, Line
from .people import Patience, People, Person
from .questions import Question
from .receipts import Receipt, Sent
from .safe import MAX_NICK_SHOWN, shown, skeleton
from .transfers import Files

AWAY: Final = 21.0
"""Seconds for which who was lost still gets what is said to all: he may be back in a moment."""
OVERDUE: Final = 10.0
"""Seconds after which a message that is not delivered is worth a word."""
MAX_QUESTIONS: Final = 16
MAX_WATCHED: Final = 5000
"""Messages of ours whose delivery is watched at a time."""
_WATCHED_AT_ONCE: Final = 500
_LATE: Final = 30.0
"""Seconds after an answer for which another ``y`` is meant for the question, not for everybody."""


class Accept(StrEnum):
    """Who may come in without being added."""

    KNOWN = "known"
    """Those met before."""
    ASK = "ask"
    """These too, and others after a question."""
    ALL = "all"


class Net(Protocol):
    """What the conversation asks of a :class:`srmudp.MultiHolepunchSocket`."""

    @property
    def peer_id(self) -> PeerId: ...
    @property
    def port(self) -> int: ...
    @property
    def connections_status(self) -> Mapping[str, PeerStatus]: ...
    def add_peers(self, peers: Mapping[str, Any], /) -> None: ...
    def invite(self, expires: float, name: str | None, /) -> str: ...
    def remove_peer(self, name: str, /) -> None: ...
    def send(self, data: bytes, recipient: Iterable[str], *, timeout: float | None = None) -> Sent: ...
    def trust(self, name: str, /) -> None: ...
    def admit(self, peer_id: PeerId, allow: bool, /) -> None: ...
    def verification_code(self, name: str, /) -> str: ...
    def explain(self, name: str, /) -> Explanation: ...


class Conversation:
    """One chat.

    Args:
        net: the socket.
        nick: what we are called.
        book: whom we met before.
        files: file transfers of the socket.
        accept: who may come in.
        addresses: our own, for others to type.
        discover: begins to ask a server, or the usual ones, for our public address; :meth:`seen_at` hears of it.
        ask: the same for an invite, see :data:`.inviting.Ask`; :meth:`asked` hears of it.
        wall: seconds since the epoch, for the screen.
        clock: seconds that never jump.
        guard: seconds for which an answer to a question that came up by itself is not believed.
        verbose: tell more.
    """

    def __init__(
        self,
        net: Net,
        nick: str,
        book: Book,
        files: Files,
        *,
        accept: Accept = Accept.ASK,
        addresses: Callable[[], list[str]] = list,
        discover: Callable[[str | None], None] = lambda server: None,
        ask: Ask = lambda purpose: "",
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        guard: float = 1.0,
        verbose: bool = False,
    ) -> None:
        self.net = net
        self.nick = nick
        self.book = book
        self.files = files
        self.accept = accept
        self.addresses = addresses
        self.discover = discover
        self.wall = wall
        self.clock = clock
        self.verbose = verbose
        self.people = People()
        self.inviting = Inviting(self, ask)
        self.questions: list[Question] = []
        self.statuses: Mapping[str, PeerStatus] = {}
        self.odd: Counter[str] = Counter()
        """Messages that were none of a chat, by reason."""
        self.over = False
        self.bars = False
        """True if the front end draws :meth:`moving` itself."""
        self.quarters: dict[int, int] = {}
        """How far transfers were when it was last told, by number."""
        self.undelivered = 0
        """Messages of ours that failed."""
        self._guard = guard
        self._answered = -_LATE
        self._lines: list[Line] = []
        self._watched: deque[Receipt] = deque()
        self._odd_patience = Patience(3, 60.0)

    # --- what front ends call ---

    def greeting(self) -> list[Line]:
        """The first lines: who we are, and what another one has to type."""
        answers.introduce(self)
        self.reply("Type to talk to everybody who is here; /help lists what else there is.")
        return self._taken()

    def typed(self, text: str) -> list[Line]:
        """The user typed a line."""
        if not self._is_answer(text):
            meant = understand(text)
            try:
                if isinstance(meant, Mistake):
                    self.mistake(meant.text)
                elif isinstance(meant, Say):
                    if not self.inviting.is_rest(text):
                        self.say(meant.text)
                elif isinstance(meant, Call):
                    answers.obey(self, meant)
            except SocketClosed:
                self.over = True
        return self._taken()

    def received(self, message: Message) -> list[Line]:
        """A message came."""
        if message.peer_id is not None and message.peer_id in self.book.blocked:
            return []
        person = self.people.get(message.peer)
        if person is None:
            if message.peer not in self.net.connections_status:
                return []  # removed, with this one still on its way
            person = self.people.add(message.peer, ours=False)
        if person.peer_id is None:
            person.peer_id = message.peer_id
            self.relabel()
        try:
            letter = letters.read(message.content)
        except DecodeError as error:
            self._note_odd(person, str(error))
        else:
            if letter.kind is letters.Kind.NICK:
                self._on_nick(person, letter.text)
            else:
                kind = Kind.SAID if letter.kind is letters.Kind.ALL else Kind.WHISPERED
                self.show(Line(kind, letter.text, person.label, message.timestamp))
        return self._taken()

    def happened(self, event: PeerEvent) -> list[Line]:
        """The socket reports something."""
        handler = {
            EventKind.CONNECTED: self._on_connected,
            EventKind.RECONNECTED: self._on_connected,
            EventKind.LOST: self._on_lost,
            EventKind.REMOVED: self._on_lost,
            EventKind.REFUSED: self._on_refused,
            EventKind.PEER_CHANGED: self._on_changed,
            EventKind.ROAMED: self._on_roamed,
            EventKind.IDENTITY_IN_USE_ELSEWHERE: self._on_double,
        }.get(event.kind)
        if handler is not None:
            handler(event)
        return self._taken()

    def verdict(self, peer_id: PeerId, claimed: str, address: Address) -> bool | None:
        """Whether a stranger may come in; None: the user has to be asked, by :meth:`ask_about`. Any thread."""
        if peer_id in self.book.blocked:
            return False
        if self.accept is Accept.ALL or peer_id in self.book.known:
            return True
        return None if self.accept is Accept.ASK else False

    def ask_about(self, peer_id: PeerId, claimed: str, address: Address) -> list[Line]:
        """A stranger waits for the user's decision."""
        if len(self.questions) < MAX_QUESTIONS and not any(q.peer_id == peer_id for q in self.questions):
            name = claimed or peer_id.tag
            text = f"{shown(name, MAX_NICK_SHOWN)} (key {peer_id.tag}, at {address}) would like to come in."
            alike = self._looks_like(name)
            if alike:
                text += f" Mind the name: this is not the {alike} you know, the key is another."
            text += " Type y to let them in, n to refuse."

            def answer(yes: bool) -> None:
                self.net.admit(peer_id, yes)
                if yes:
                    self._remember_admitted(name, peer_id, address)
                self.note(f"{shown(name, MAX_NICK_SHOWN)} {'may come in' if yes else 'was refused'}")

            self.ask(Question(text, answer, self.clock(), name, peer_id, risky=True))
        return self._taken()

    def seen_at(self, found: PublicAddress | Exception) -> list[Line]:
        """Our public address was found, or not."""
        if isinstance(found, Exception):
            self.mistake(f"your public address was not found: {found}")
        else:
            answers.tell_public(self, found)
        return self._taken()

    def asked(self, found: PublicAddress | Exception | None, purpose: Purpose) -> list[Line]:
        """The same for an invite; None if nobody was asked."""
        self.inviting.asked(found, purpose)
        return self._taken()

    def tick(self) -> list[Line]:
        """Look at what nobody reports: to be called a few times a second."""
        self.statuses = self.net.connections_status
        for person in self.people:
            status = self.statuses.get(person.name)
            if status is not None and not person.is_here and status.failure not in (None, person.told):
                person.told = status.failure
                if person.patience(self.clock()):
                    self.warn(f"{person.label} is not connected: {status.failure}")
        self._look_at_deliveries()
        self.inviting.tick()
        if not self.bars:
            transfers.tell_quarters(self)
        return self._taken()

    def names(self) -> list[str]:
        """What may be typed as a nick."""
        return [person.label for person in self.people]

    def summary(self) -> str:
        """The status line: clean, without styles."""
        here = [person for person in self.people if person.is_here]
        parts = []
        for person in here[:6]:
            status = self.statuses.get(person.name)
            rtt = f" {status.rtt * 1000:.0f} ms" if status is not None and status.rtt is not None else ""
            parts.append(f"{shown(person.label, MAX_NICK_SHOWN)}{rtt}")
        if len(here) > 6:
            parts.append(f"and {len(here) - 6} more")
        away = sum(not person.is_here for person in self.people)
        text = f"{len(here)} here" + (f" (direct): {', '.join(parts)}" if here else "")
        return text + (f", {away} not connected" if away else "")

    def moving(self) -> list[str]:
        """Files on their way, a line for each: clean."""
        return transfers.bars(self)

    def transferred(self, transfer: Transfer) -> list[Line]:
        """Something happened to a file on its way."""
        transfers.changed(self, transfer)
        return self._taken()

    # --- speaking ---

    def say(self, text: str) -> None:
        """Say something to everybody."""
        now = self.clock()
        people = [p for p in self.people if p.is_here or (p.gone_at is not None and now - p.gone_at < AWAY)]
        if not people:
            self.mistake("nobody is connected: nothing was sent. /add <nick> <addr> connects to somebody.")
            return
        self._send(Letter(letters.Kind.ALL, text), people, Line(Kind.MINE, text))

    def whisper(self, person: Person, text: str) -> None:
        """Say something to one alone."""
        self._send(Letter(letters.Kind.PRIVATE, text), [person], Line(Kind.MY_WHISPER, text, person.label))

    def _send(self, letter: Letter, people: list[Person], line: Line) -> None:
        if len(letter.text) > letters.MAX_TEXT:
            self.mistake(f"not sent: {len(letter.text)} characters are more than {letters.MAX_TEXT}. Send it in parts.")
            return
        try:
            data = letters.write(letter)
        except UnicodeEncodeError:
            self.mistake("not sent: that is not text (the terminal's encoding and the program's differ)")
            return
        try:
            delivery = self.net.send(data, [person.name for person in people], timeout=0)
        except QueueFull:
            self.mistake("not sent: too much is waiting to be delivered already")
            return
        except (UnknownPeer, MessageTooBig) as error:
            self.mistake(f"not sent: {error}")
            return
        line.receipt = receipt = Receipt(delivery, line, self.clock(), letter.text, self.labels_of, self._any_away)
        self._watched.append(receipt)
        if len(self._watched) > MAX_WATCHED:
            self._watched.popleft()
        self.show(line)

    def tell_nick(self, names: list[str]) -> None:
        """Tell peers what we are called."""
        if names:
            try:
                self.net.send(letters.write(Letter(letters.Kind.NICK, self.nick)), names, timeout=0)
            except (QueueFull, UnknownPeer):
                pass  # it is a courtesy

    def _look_at_deliveries(self) -> None:
        now = self.clock()
        for _ in range(min(len(self._watched), _WATCHED_AT_ONCE)):
            receipt = self._watched.popleft()
            failed, pending = receipt.delivery.failed, receipt.delivery.pending
            if not pending:
                if failed:
                    self.undelivered += 1
                    reasons = "; ".join(f"{self.label_of(name)}: {reason}" for name, reason in failed.items())
                    self.warn(f"not delivered: {_beginning(receipt.text)} ({reasons})")
                elif receipt.overdue_told or self.verbose:
                    names = self.labels_of(receipt.delivery.delivered)
                    self.note(f"delivered to {names}: {_beginning(receipt.text)}")
                continue
            if not receipt.overdue_told and now - receipt.since >= OVERDUE:
                receipt.overdue_told = True
                self.note(f"still waiting for {self.labels_of(pending)}: {_beginning(receipt.text)}")
            self._watched.append(receipt)

    def is_settled(self) -> bool:
        """False while somebody we added is still awaited for the first time, or a file of ours is on its way."""
        now = self.clock()
        if transfers.is_busy(self):
            return False
        return not any(p.ours and not p.is_here and p.gone_at is None and now - p.added < AWAY for p in self.people)

    def outstanding(self) -> int:
        """Messages of ours that were not delivered yet when :meth:`tick` last looked."""
        return len(self._watched)

    # --- questions ---

    def ask(self, question: Question) -> None:
        """Put a question before the user."""
        self.questions.append(question)
        self.show(Line(Kind.QUESTION, question.text))

    def answer(self, yes: bool, question: Question) -> None:
        """The user decided."""
        self.questions.remove(question)
        self._answered = self.clock()
        question.answer(yes)

    def _is_answer(self, text: str) -> bool:
        word = text.strip().lower()
        if word not in ("y", "yes", "n", "no"):
            return False
        if not self.questions:
            if len(word) > 1 or self.clock() - self._answered > _LATE:
                return False
            self.mistake(f"not sent: there is no question any more. To say it all the same: /say {word}")
            return True
        question = self.questions[0]
        if question.risky and self.clock() - question.asked < self._guard:
            about = shown(question.about, MAX_NICK_SHOWN)
            self.mistake(f"a question has just come up, about {about}: type {word} once more if you mean it")
        else:
            self.answer(word.startswith("y"), question)
        return True

    # --- events ---

    def _on_connected(self, event: PeerEvent) -> None:
        status = self.net.connections_status.get(event.peer)
        if status is None or status.name != event.peer:
            return
        if event.peer_id in self.book.blocked:  # by an invite that another one gave away
            self.net.remove_peer(event.peer)
            return
        person = self.people.add(event.peer, ours=False)
        was_here, person.since, person.told, person.gone_at = person.is_here, self.wall(), None, None
        person.peer_id = event.peer_id or status.peer_id
        if status.trust is Trust.PINNED and not person.ours and self.book_name(person) is None:
            person.is_guest = True
        self._remember(person, status)
        self.relabel()
        self.tell_nick([person.name])
        if not was_here and person.patience(self.clock()):
            where = f" at {status.address}" if status.address is not None else ""
            tag = f", key {person.peer_id.tag}" if person.peer_id is not None else ""
            back = "is back" if event.kind is EventKind.RECONNECTED else "is here"
            self.show(Line(Kind.GOOD, f"{person.label} {back}{where} ({self.trust_of(person, status)}{tag})"))

    def _on_lost(self, event: PeerEvent) -> None:
        person = self.people.get(event.peer)
        if person is None:
            return
        was_here, person.since, person.gone_at = person.is_here, None, self.clock()
        if was_here and person.patience(self.clock()):
            why = f" ({event.reason})" if event.reason else ""
            self.note(f"{person.label} has left{why}")
        person.told = event.reason
        if event.peer not in self.net.connections_status:
            self.people.drop(event.peer)
            self.relabel()

    def _on_refused(self, event: PeerEvent) -> None:
        person = self.people.get(event.peer)
        label = event.peer if person is None else person.label
        if person is not None:
            person.told = event.reason
            if not person.patience(self.clock()):
                return
        hint = ""
        if self.book.get(event.peer) is not None and "another key" in event.reason:
            hint = f" If they lost their key and it is really them: /remove {label}, then /add them again."
        self.warn(f"{label}: {event.reason}.{hint}")

    def _on_changed(self, event: PeerEvent) -> None:
        person = self.people.get(event.peer)
        if person is None:
            return
        person.peer_id = event.peer_id
        self.forget(person.name)
        self.relabel()
        self.warn(
            f"{person.label} has ANOTHER KEY than before: somebody else, or somebody who lost the key. "
            f"/verify {person.label} to be sure, /remove {person.label} if in doubt."
        )

    def _on_roamed(self, event: PeerEvent) -> None:
        if self.verbose:
            self.note(f"{self.label_of(event.peer)} is at {event.address} now")

    def _on_double(self, event: PeerEvent) -> None:
        self.warn(f"{self.label_of(event.peer)}: the same key is used by two programs at once")

    def _on_nick(self, person: Person, nick: str) -> None:
        try:
            nick = check_name(nick.strip(), "nick")
        except ValueError:
            self._note_odd(person, "bad nick")
            return
        if nick == person.nick:
            return
        if not person.patience(self.clock()):
            self._note_odd(person, "nick changed too often")
            return
        before, was = person.label, person.nick or person.name
        person.nick = nick
        self.relabel()
        if nick == was:
            return
        if person.label != before:
            self.note(f"{before} is called {person.label} now")
        elif person.ours:
            self.note(f"{before} calls themselves {shown(nick, MAX_NICK_SHOWN)}")

    def _note_odd(self, person: Person, reason: str) -> None:
        self.odd[reason] += 1
        person.odd[reason] += 1
        if person.odd[reason] == 1 and self._odd_patience(self.clock()):
            self.note(f"{person.label} sent what this chat does not understand ({reason}); it is ignored")

    # --- names and keys ---

    def find(self, name: str) -> Person | None:
        """The person who is called so on the screen; says so if there is none."""
        people = self.people.labels()
        person = people.get(name)
        if person is None:
            near = near_names(name, people)
            known = ", ".join(shown(p, MAX_NICK_SHOWN) for p in near or sorted(self.names())[:8])
            hint = f"did you mean {known}?" if near else f"there are: {known}" if known else "nobody is here yet"
            self.mistake(f"there is nobody called {shown(name, MAX_NICK_SHOWN)}: {hint}. Nothing was done.")
        return person

    def relabel(self) -> None:
        """Decide anew what everybody is called."""
        book = self.book
        entries = [(name, entry) for name in book.names() if (entry := book.get(name)) is not None]
        others = [(name, entry.peer_id) for name, entry in entries]
        verified = [entry.peer_id for _, entry in entries if entry.verified and entry.peer_id is not None]
        self.people.relabel(self.nick, others, verified)

    def label_of(self, name: str) -> str:
        """What the peer the socket calls ``name`` is called on the screen."""
        person = self.people.get(name)
        return name if person is None else person.label

    def labels_of(self, names: Iterable[str]) -> str:
        """Several of them."""
        return ", ".join(sorted(shown(self.label_of(name), MAX_NICK_SHOWN) for name in names))

    def _any_away(self, names: Iterable[str]) -> bool:
        people = [self.people.get(name) for name in names]
        return any(person is None or not person.is_here for person in people)

    def _looks_like(self, name: str) -> str | None:
        wanted = skeleton(name)
        known = [p.label for p in self.people] + self.book.names()
        if skeleton(self.nick) == wanted:
            return f"{self.nick} (you)"
        return next((other for other in known if skeleton(other.partition("#")[0]) == wanted), None)

    def trust_of(self, person: Person, status: PeerStatus | None) -> str:
        """Why we believe it is them, in words."""
        entry = self.book.get(self.book_name(person) or "")
        if entry is not None and entry.verified and entry.peer_id == person.peer_id:
            return "verified"
        if status is None or status.peer_id is None:
            return "no key yet"
        return {
            Trust.PINNED: "by an invite" if person.is_guest else "same key as before",
            Trust.FIRST_USE: "first use",
            Trust.MATCHED_BY_IP: "matched by address only",
            Trust.ADMITTED: "let in",
        }.get(status.trust, status.trust.value)

    def book_name(self, person: Person) -> str | None:
        """Under which name the book has a person's key."""
        return None if person.peer_id is None else self.book.named(person.peer_id)

    def _remember(self, person: Person, status: PeerStatus) -> None:
        """Write down whom we met, so that a name means the same key tomorrow."""
        if person.peer_id is None or status.trust in (Trust.NONE, Trust.MATCHED_BY_IP):
            return  # matched by its address alone: too weak a reason to refuse all others tomorrow
        if status.trust is Trust.ADMITTED and self.accept is Accept.ALL:
            return  # nobody decided on this one
        name = self.book_name(person)
        entry = None if name is None else self.book.get(name)
        addresses = () if status.address is None else (str(status.address),)
        if name is not None and entry is not None:
            kept = tuple(dict.fromkeys((*addresses, *entry.addresses)))[:4]
            self.keep(name, replace(entry, addresses=kept))
        else:
            self.keep(self._free(person.name, person.peer_id), Entry(addresses, person.peer_id))

    def _remember_admitted(self, name: str, peer_id: PeerId, address: Address) -> None:
        if self.book.named(peer_id) is None:
            self.keep(self._free(name, peer_id), Entry((str(address),), peer_id))

    def _free(self, name: str, peer_id: PeerId) -> str:
        """A name that the book has for nobody else."""
        taken = self.book.get(name)
        return name if taken is None or taken.peer_id in (None, peer_id) else f"{name[:40]}#{peer_id.tag}"

    def keep(self, name: str, entry: Entry) -> None:
        """Have the book say this of ``name``: at least as long as we run, if the disk does not play along."""
        try:
            check_name(name)
            self.book.put(name, entry)
        except (OSError, ValueError) as error:
            self.warn(f"the list of people you met cannot be written: {error}")

    def forget(self, name: str) -> bool:
        """Have the book say nothing of ``name``; whether it did."""
        known = self.book.get(name) is not None
        try:
            self.book.drop(name)
        except OSError as error:
            self.warn(f"the list of people you met cannot be written: {error}")
        return known

    def connect(self, entries: Mapping[str, Entry]) -> None:
        """Add peers; all or, with an exception, none.

        Raises:
            ValueError: why not.
        """
        specs: dict[str, Peer] = {}
        known_keys: dict[str, PeerId | None] = {}
        for name, entry in entries.items():
            known = self.book.get(name)
            known_keys[name] = None if known is None else known.peer_id
            peer_id = entry.peer_id
            if known is not None and known.peer_id is not None:
                if known.blocked:
                    raise ValueError(f"{name} is blocked: /unblock {name} first")
                if peer_id not in (None, known.peer_id):
                    raise ValueError(f"{name} had another key before: if the new one is right, /remove {name} first")
                peer_id = known.peer_id
            specs[name] = Peer([*entry.addresses, *filter(None, [entry.invite])], peer_id)
        self.net.add_peers(specs)
        for name, entry in entries.items():
            person = self.people.add(name, ours=True)
            person.told = None
            person.given = entry.addresses
            person.is_guest = person.is_guest or (bool(entry.invite) and known_keys.get(name) is None)
            person.added = self.clock()
            if entry.verified and entry.peer_id is not None:
                self.keep(name, replace(entry, invite=""))
        self.relabel()

    # --- lines ---

    def show(self, line: Line) -> None:
        """Add a line to what is shown."""
        line.when = line.when or self.wall()
        self._lines.append(line)

    def _taken(self) -> list[Line]:
        lines, self._lines = self._lines, []
        return lines

    def note(self, text: str) -> None:
        """Say something that is good to know."""
        self.show(Line(Kind.NOTE, text))

    def warn(self, text: str) -> None:
        """Say something that should be known."""
        self.show(Line(Kind.WARNING, text))

    def good(self, text: str) -> None:
        """Say something that was hoped for."""
        self.show(Line(Kind.GOOD, text))

    def question(self, text: str) -> None:
        """Say what a command should answer."""
        self.show(Line(Kind.QUESTION, text))

    def mistake(self, text: str) -> None:
        """Say what was wrong with what was typed."""
        self.show(Line(Kind.MISTAKE, text))

    def reply(self, text: str = "") -> None:
        """A line that a command prints."""
        self.show(Line(Kind.ANSWER, text))


def _beginning(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:39] + "…")
