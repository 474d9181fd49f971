"""What the commands do to a conversation."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ..exceptions import LocalProtocolError, UnknownPeer
from ..models import NatBehaviour, PeerStatus, PublicAddress
from ..nat.invites import is_invite
from ..sockets.addresses import check_name
from . import book, inviting, transfers
from .book import Entry
from .commands import COMMANDS, Call, split_name
from .people import Person
from .questions import Question
from .safe import MAX_NICK_SHOWN, shown, width

if TYPE_CHECKING:
    from .conversation import Conversation

MAX_LISTED: Final = 200


def obey(chat: Conversation, call: Call) -> None:
    """Do what a command says."""
    _ANSWERS[call.command.name](chat, call.arguments)


def introduce(chat: Conversation) -> None:
    """Who we are, and what another one has to type to come here."""
    chat.reply(f"You are {chat.nick}, your key is {chat.net.peer_id.tag}, your port {chat.net.port}.")
    addresses = chat.addresses()
    here = f"127.0.0.1:{chat.net.port}"
    for address in [*addresses, here]:
        remark = "  (on this machine)" if address == here else ""
        chat.reply(f"  others type  /add {chat.nick} {address}{remark}")


def _help(chat: Conversation, arguments: str) -> None:
    name = arguments.lstrip("/").lower()
    if name:
        command = COMMANDS.get(name)
        if command is None:
            chat.mistake(f"there is no /{name}; /help lists what there is")
        else:
            chat.reply(f"{command.line}    {command.about}")
        return
    lines = [command.line for command in COMMANDS.values()]
    room = max(map(len, lines)) + 2
    for command in COMMANDS.values():
        chat.reply(f"{command.line:<{room}}{command.about}")
    chat.reply("Anything else you type goes to everybody who is here.")


def _list(chat: Conversation, arguments: str) -> None:
    introduce(chat)
    statuses = chat.net.connections_status
    rows = [_row(chat, person, statuses.get(person.name)) for person in chat.people]
    if not rows:
        chat.reply("Nobody is here yet.")
        return
    rows.sort(key=lambda row: (row[1] != "connected", row[0].casefold()))
    widths = [max(width(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows[:MAX_LISTED]:
        padded = (text + " " * (size - width(text)) for text, size in zip(row, widths, strict=True))
        chat.reply("  ".join(padded).rstrip())
    if len(rows) > MAX_LISTED:
        chat.reply(f"and {len(rows) - MAX_LISTED} more")


def _row(chat: Conversation, person: Person, status: PeerStatus | None) -> tuple[str, ...]:
    address = "" if status is None or status.address is None else str(status.address)
    rtt = "" if status is None or status.rtt is None or not person.is_here else f"{status.rtt * 1000:.1f} ms"
    tag = "" if person.peer_id is None else f"key {person.peer_id.tag}"
    state = "connected" if person.is_here else "away" if status is None else status.state.value
    return shown(person.label, MAX_NICK_SHOWN), state, address, rtt, tag, chat.trust_of(person, status)


def _add(chat: Conversation, arguments: str) -> None:
    name, address = split_name(arguments, ())
    if is_invite(arguments) or is_invite(address):
        chat.inviting.add(arguments)
        return
    try:
        check_name(name)
        chat.connect({name: inviting.entry_of(name, address)})
    except ValueError as error:
        chat.mistake(f"nothing was added: {error}")
        return
    chat.note(f"connecting to {shown(name, MAX_NICK_SHOWN)} at {address}; they may have to let you in")


def _find(chat: Conversation, arguments: str) -> tuple[Person | None, str]:
    """The person a command is about and the rest of the line; says so if there is none."""
    name, rest = split_name(arguments, chat.people.labels())
    return chat.find(name), rest


def _remove(chat: Conversation, arguments: str) -> None:
    if not chat.people.labels() or split_name(arguments, chat.people.labels())[0] not in chat.people.labels():
        name, _ = split_name(arguments, chat.book.names())
        if chat.forget(name):  # not here, but known from before
            chat.note(f"forgot the key of {name}")
            return
    person, _ = _find(chat, arguments)
    if person is not None:
        _part_with(chat, person)
        chat.note(f"removed {person.label}")


def _part_with(chat: Conversation, person: Person) -> None:
    for name in (person.name, chat.book_name(person)):
        if name is not None:
            chat.forget(name)
    try:
        chat.net.remove_peer(person.name)
    except UnknownPeer:
        pass
    chat.people.drop(person.name)
    chat.relabel()


def _msg(chat: Conversation, arguments: str) -> None:
    person, text = _find(chat, arguments)
    if person is None:
        return
    if not text:
        chat.mistake(f"usage: {COMMANDS['msg'].line}")
    else:
        chat.whisper(person, text)


def _whois(chat: Conversation, arguments: str) -> None:
    person, _ = _find(chat, arguments)
    if person is None:
        return
    status = chat.net.connections_status.get(person.name)
    chat.reply(f"{person.label}" + (f", calls themselves {person.nick}" if person.nick != person.label else ""))
    if person.peer_id is not None:
        chat.reply(f"  key     {person.peer_id}  (tag {person.peer_id.tag})")
    chat.reply(f"  trust   {chat.trust_of(person, status)}")
    if status is not None:
        chat.reply(f"  state   {status.state.value}" + (f": {status.failure}" if status.failure else ""))
        if status.address is not None:
            chat.reply(f"  path    direct, {status.address}")
        if status.rtt is not None:
            chat.reply(f"  rtt     {status.rtt * 1000:.1f} ms, {status.loss * 100:.1f} % lost")
        if not person.is_here:
            chat.reply(f"  why     /explain {person.label} says more")
        stats = status.stats
        chat.reply(f"  sent    {stats.messages_sent} messages, received {stats.messages_received}")
    if person.since is not None:
        minutes = int(chat.wall() - person.since) // 60
        clock = time.strftime("%H:%M:%S", time.localtime(person.since))
        chat.reply(f"  since   {clock} ({minutes} min)")
    for reason, count in sorted(person.odd.items()):
        chat.reply(f"  odd     {count} ignored: {reason}")


def _explain(chat: Conversation, arguments: str) -> None:
    person, _ = _find(chat, arguments)
    if person is None:
        return
    try:
        first, *lines = chat.net.explain(person.name).lines()
    except UnknownPeer:
        chat.mistake(f"{person.label} is not connected, and there is no address to try: /add {person.label} <addr>")
        return
    chat.reply(f"{person.label}{first.removeprefix(person.name)}")
    for line in lines:
        chat.reply(line)


def _verify(chat: Conversation, arguments: str) -> None:
    person, rest = _find(chat, arguments)
    if person is None:
        return
    try:
        groups = chat.net.verification_code(person.name).split()
    except (LocalProtocolError, UnknownPeer):
        chat.mistake(f"{person.label} has not connected yet, so there is no key to compare")
        return
    compared = person.peer_id

    def answer(yes: bool) -> None:
        if not yes:
            chat.warn(f"if the codes differ, somebody may sit between you: do not trust {person.label} with secrets")
            return
        if person.peer_id != compared or compared is None:
            chat.mistake(f"{person.label} has another key now: /verify again")
            return
        chat.net.trust(person.name)
        name = chat.book_name(person) or person.name
        entry = chat.book.get(name) or Entry()
        chat.keep(name, Entry(entry.addresses, compared, verified=True))
        chat.relabel()
        chat.note(f"{person.label} is verified: any other key will be refused")

    if rest.lower() in ("y", "yes"):
        answer(True)
        return
    chat.reply(f"Call {person.label} or meet them. Both type /verify; if both read the same, nobody is in between:")
    for start in range(0, len(groups), 6):
        chat.reply("    " + "  ".join(groups[start : start + 6]))
    chat.ask(Question("Is it the same at both ends? y or n", answer, chat.clock(), person.label))


def _public(chat: Conversation, arguments: str) -> None:
    chat.note(f"asking {shown(arguments, 60) or 'public STUN servers'} how you are seen from outside")
    chat.discover(arguments or None)


def tell_public(chat: Conversation, found: PublicAddress) -> None:
    """What the STUN servers saw."""
    for address in (found.ipv4, found.ipv6):
        if address is not None:
            chat.good(f"from outside you are seen at {address}: others type /add {chat.nick} {address}")
    tell_mapping(chat, found)


def tell_mapping(chat: Conversation, found: PublicAddress) -> None:
    """Warn if the router makes it hard."""
    if found.mapping in (NatBehaviour.ADDRESS_DEPENDENT, NatBehaviour.ADDRESS_AND_PORT_DEPENDENT):
        chat.warn(
            "your router gives every destination another port, so this one is of little use to others: "
            "it works with those who have an open port, if you /add them and they know your key"
        )


def _invite(chat: Conversation, arguments: str) -> None:
    chat.inviting.invite(arguments)


def _nick(chat: Conversation, arguments: str) -> None:
    try:
        name = check_name(arguments, "nick")
    except ValueError as error:
        chat.mistake(str(error))
        return
    chat.nick = name
    chat.tell_nick([person.name for person in chat.people if person.is_here])
    chat.relabel()
    chat.note(f"you are {shown(name, MAX_NICK_SHOWN)} until you leave; your key stays the same")


def _block(chat: Conversation, arguments: str) -> None:
    person, _ = _find(chat, arguments)
    if person is None:
        return
    peer_id, name = person.peer_id, person.name
    _part_with(chat, person)
    if peer_id is not None:
        chat.net.admit(peer_id, False)
        chat.keep(name, Entry((), peer_id, blocked=True))
    chat.note(f"blocked {person.label}; /unblock {name} undoes it")


def _unblock(chat: Conversation, arguments: str) -> None:
    blocked = chat.book.blocked_names()
    name, _ = split_name(arguments, blocked)
    if name not in blocked:
        known = ", ".join(shown(other, MAX_NICK_SHOWN) for other in blocked) or "nobody"
        chat.mistake(f"{shown(name, MAX_NICK_SHOWN)} is not blocked; blocked: {known}")
        return
    chat.forget(name)
    chat.note(f"{name} is not blocked any more; /add {name} <addr> connects")


def _decide(chat: Conversation, arguments: str, yes: bool) -> None:
    questions = chat.questions
    if not questions:
        chat.mistake("there is no question to answer")
        return
    question = questions[0]
    if arguments:
        wanted = arguments.casefold()
        found = [q for q in questions if wanted in (q.about.casefold(), q.peer_id.tag if q.peer_id else "")]
        if not found:
            chat.mistake(f"{shown(arguments, MAX_NICK_SHOWN)} asked nothing")
            return
        question = found[0]
    chat.answer(yes, question)


def _yes(chat: Conversation, arguments: str) -> None:
    _decide(chat, arguments, True)


def _no(chat: Conversation, arguments: str) -> None:
    _decide(chat, arguments, False)


def _path(arguments: str) -> str:
    quoted = len(arguments) > 1 and arguments[0] == arguments[-1] and arguments[0] in "'\""
    return os.path.expanduser(arguments[1:-1] if quoted else arguments)


def _save(chat: Conversation, arguments: str) -> None:
    entries: dict[str, Entry] = {}
    for person in chat.people:
        known = chat.book.get(chat.book_name(person) or person.name)
        status = chat.net.connections_status.get(person.name)
        addresses = (known.addresses if known is not None else ()) or person.given
        if status is not None and status.address is not None:
            addresses = (str(status.address),)
        verified = known is not None and known.verified and known.peer_id == person.peer_id
        if addresses or person.peer_id is not None:
            entries[person.label] = Entry(addresses, person.peer_id, verified)
    if not entries:
        chat.mistake("nobody to save yet; nothing was written")
        return
    path = _path(arguments)

    def write(overwrite: bool) -> None:
        try:
            book.write(path, entries, overwrite=overwrite)
        except FileExistsError:
            chat.ask(Question(f"{path} exists. Replace it? y or n", replace, chat.clock(), path))
        except (OSError, ValueError) as error:
            chat.mistake(f"nothing was written: {getattr(error, 'strerror', None) or error}")
        else:
            chat.note(f"saved {len(entries)} in {path}")

    def replace(yes: bool) -> None:
        if yes:
            write(True)
        else:
            chat.note(f"{path} is left as it is")

    write(False)


def _load(chat: Conversation, arguments: str) -> None:
    path = _path(arguments)
    try:
        entries = book.read(path)
    except (OSError, ValueError) as error:
        chat.mistake(f"{path}: {getattr(error, 'strerror', None) or error}. Nothing was changed.")
        return
    load(chat, entries, path)


def load(chat: Conversation, entries: dict[str, Entry], path: str) -> None:
    """Connect to those in a file; all or none. We ourselves may be in it: a group has one file for all."""
    wanted = {
        name: entry
        for name, entry in entries.items()
        if not entry.blocked and name != chat.nick and entry.peer_id != chat.net.peer_id
    }
    try:
        chat.connect(wanted)
    except ValueError as error:
        chat.mistake(f"{path}: {error}. Nothing was changed.")
        return
    names = ", ".join(shown(name, MAX_NICK_SHOWN) for name in list(wanted)[:10])
    others = " and others" if len(wanted) > 10 else ""
    chat.note(f"connecting to {names}{others}" if wanted else f"{path}: nobody in it")


def _say(chat: Conversation, arguments: str) -> None:
    chat.say(arguments)


def _quit(chat: Conversation, arguments: str) -> None:
    chat.over = True


_ANSWERS: Final[dict[str, Callable[[Conversation, str], None]]] = {
    "help": _help,
    "list": _list,
    "add": _add,
    "invite": _invite,
    "remove": _remove,
    "msg": _msg,
    "say": _say,
    "whois": _whois,
    "explain": _explain,
    "verify": _verify,
    "public": _public,
    "nick": _nick,
    "block": _block,
    "unblock": _unblock,
    "send": transfers.send,
    "accept": transfers.accept,
    "reject": transfers.reject,
    "cancel": transfers.cancel,
    "yes": _yes,
    "no": _no,
    "save": _save,
    "load": _load,
    "quit": _quit,
}
