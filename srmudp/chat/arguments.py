"""``srmudp chat``: its command line."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from .. import IdentityError
from ..nat.invites import Invite, is_invite
from ..sockets.addresses import check_name
from ..sockets.discovery import parse_servers
from . import inviting, places
from .book import Entry
from .conversation import Accept
from .lines import Kind
from .safe import shown
from .session import LogLines, Options, Session

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_EXAMPLES = """\
examples:
  srmudp chat -p 8000 -n Alice            you are Alice, others find you at port 8000
  srmudp chat -p 8001 -n Bob              then type: /add Alice 192.168.1.20:8000
  srmudp chat -n Alice --invite           behind a router: make a text that lets one in
  srmudp chat -n Bob -c my_peers.json     connect to everybody you saved with /save
  echo "Dinner!" | srmudp chat -n Bot -c family.json      from a script

Two on one machine? Two windows, two nicks, two ports, and 127.0.0.1 as the address.
In the chat, /help lists the commands; what is no command goes to everybody.
"""
_READ_RATE = 25.0
"""Messages a second of one peer that a person can at least see pass."""


def add_to(commands: Commands) -> None:
    """Add ``chat``."""
    parser = commands.add_parser(
        "chat",
        help="talk with friends: encrypted, without a server",
        description="Talk with one or many: encrypted, directly from machine to machine.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-p", "--port", type=int, default=0, help="your UDP port; 0, the default, takes any free one")
    parser.add_argument("-n", "--nick", help="what you are called; by default as the system calls you")
    parser.add_argument("-c", "--config", metavar="FILE", help='peers to connect to: {"Alice": "192.168.1.20:8000"}')
    parser.add_argument(
        "-a",
        "--add",
        action="append",
        default=[],
        metavar="NICK=ADDR",
        help="connect to somebody, as /add does; an invite needs no NICK=. May be given several times. Other users of "
        "this machine can read command lines: an invite is better typed in the chat there",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="tell more, also what the library logs")
    parser.add_argument("--identity", metavar="FILE", help="your key; by default one for each nick, kept for you")
    parser.add_argument(
        "--accept",
        choices=[str(choice) for choice in Accept],
        help="who may connect that you did not add: only people met before, after asking you "
        "(the default on a terminal), or all",
    )
    parser.add_argument("--downloads", metavar="FOLDER", help="where files you accept go; by default ~/Downloads")
    parser.add_argument("--plain", action="store_true", help="line by line, even on a terminal that can do more")
    parser.add_argument(
        "--invite",
        nargs="?",
        const="",
        metavar="NICK",
        help="begin with an invite, as /invite; see 'srmudp invite'",
    )
    add_discovery(parser)
    parser.set_defaults(run=run)


def add_discovery(parser: argparse.ArgumentParser) -> None:
    """Add who is asked for our public address."""
    parser.add_argument(
        "-s",
        "--server",
        action="append",
        default=[],
        metavar="HOST[:PORT]",
        help="a STUN server to ask for an invite, instead of the public ones; may be given several times",
    )
    parser.add_argument("--no-discover", action="store_true", help="ask no server when an invite is made")


def run(arguments: argparse.Namespace) -> int:
    """Chat. Returns the exit status."""
    try:
        added = dict(_entry(text) for text in arguments.add)
        parse_servers(arguments.server or None)
    except ValueError as error:
        return _fail(str(error), 2)
    if not 0 <= arguments.port <= 65_535:
        return _fail(f"--port must be between 0 and 65535, not {arguments.port}", 2)
    accept = Accept(arguments.accept) if arguments.accept else Accept.ASK if sys.stdin.isatty() else Accept.KNOWN
    options: dict[str, Any] = {
        "port": arguments.port,
        "config": arguments.config,
        "identity": arguments.identity,
        "downloads": arguments.downloads,
        "accept": accept,
        "verbose": arguments.verbose,
        "rate": _READ_RATE if sys.stdout.isatty() else None,
        "guard": 1.0 if sys.stdin.isatty() else 0.0,
        "add": added,
        "invite": arguments.invite,
        "servers": tuple(arguments.server),
        "discover": not arguments.no_discover,
    }
    try:
        session = _open(arguments.nick, options)
    except (IdentityError, ValueError) as error:
        return _fail(str(error), 1)
    except OSError as error:
        return _fail(f"port {arguments.port}: {error.strerror or error}. Another one: -p, or -p 0 for any", 1)
    logger, handler = logging.getLogger("srmudp"), LogLines(session)
    if arguments.verbose:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        return _chat(session, arguments.plain)
    finally:
        logger.removeHandler(handler)


def _entry(text: str) -> tuple[str, Entry]:
    """What ``--add`` is given.

    Raises:
        ValueError: it is neither an address nor an invite, or has no name.
    """
    name, equals, address = text.partition("=")
    if not equals:
        name, address = "", text
        if not is_invite(text):
            raise ValueError(f"--add: whom? NICK=ADDR, for instance Alice={shown(text, 60)}")
        invite = Invite.parse(text)
        name = invite.name or invite.peer_id.tag
    return check_name(name, "nick"), inviting.entry_of(name, address)


def _chat(session: Session, is_plain: bool) -> int:
    # A window that is closed is a goodbye, too; and a shell may have us start with Ctrl-C switched off.
    for name in ("SIGTERM", "SIGHUP", *(("SIGINT",) if sys.stdin.isatty() else ())):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    from . import plain

    if is_plain or not _is_comfortable():
        return plain.run(session)
    try:
        from . import terminal
    except ImportError:
        session.say(Kind.NOTE, "for a comfortable screen: pip install prompt_toolkit")
        return plain.run(session)
    return terminal.run(session)


def _is_comfortable() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def _open(nick: str | None, options: dict[str, Any]) -> Session:
    """A session; who named no nick gets the next free one."""
    if nick is not None:
        return Session(Options(nick=nick, **options))
    name = places.default_nick()
    for number in range(2, 10):
        try:
            return Session(Options(nick=name, **options))
        except places.InUse:
            if options["identity"] is not None:
                raise
            name = f"{places.default_nick()}{number}"
    return Session(Options(nick=name, **options))


def _fail(text: str, status: int) -> int:
    print(f"srmudp chat: {shown(text)}", file=sys.stderr)
    return status
