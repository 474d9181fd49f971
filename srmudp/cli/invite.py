"""``srmudp invite``: a text, and a QR code, by which somebody comes in; then the chat with them."""

from __future__ import annotations

import argparse
import json
import queue
import sys
from time import monotonic
from typing import TYPE_CHECKING, Any

from .. import EventKind, Invite, MultiHolepunchSocket, PeerEvent, SrmudpError
from ..chat import arguments as chat
from ..chat.places import default_nick
from ..sockets.discovery import parse_servers
from ..sockets.invitations import check_expires
from .meeting import port_number, seconds
from .text import clean

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_EXAMPLES = """\
examples:
  srmudp invite -n Alice            shows an invite, waits, and is a chat
  srmudp invite Bob                 the same; whoever comes is called Bob here
  srmudp invite -s stun.example     ask this server, and no other
  srmudp invite --json              for programs; ends when somebody came

Send what it shows to one person, by a way that others do not read: whoever
comes with it first is let in. They type it in 'srmudp chat -n Bob'. If they
are not connected in a few seconds, their chat shows a line that they send
back to you: type it here.

It is good for an hour, as long as this program runs. To find out how you are
seen from outside, it asks public STUN servers unless you name some or say
--no-discover; they learn your address, and no more. The QR code needs the
package segno (pip install 'srmudp[qr]').
"""


def add_to(commands: Commands) -> None:
    """Add ``invite``."""
    parser = commands.add_parser(
        "invite",
        help="let somebody in by a text or QR code, and talk",
        description="Make a text by which one person comes in, wait for them, and talk.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("who", nargs="?", default="", metavar="NICK", help="what the other one is called here")
    parser.add_argument("-p", "--port", type=port_number, default=0, help="local UDP port (default: any that is free)")
    parser.add_argument("-n", "--nick", help="what you are called (default: as the system calls you)")
    parser.add_argument("--identity", metavar="FILE", help="your key (default: one for each nick, kept for you)")
    parser.add_argument("--json", action="store_true", help="print JSON and end when somebody came; with a fresh key")
    parser.add_argument(
        "-w", "--wait", type=seconds, metavar="S", help="with --json: give up after so many seconds (default: 3600)"
    )
    chat.add_discovery(parser)
    parser.set_defaults(run=_run, fail=parser.error)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.wait is not None and not arguments.json:
        arguments.fail("--wait goes with --json")
    try:
        parse_servers(arguments.server or None)
        wait = check_expires(3600.0 if arguments.wait is None else arguments.wait)
    except ValueError as error:
        arguments.fail(str(error))
    if arguments.json:
        return _wait(arguments, wait)
    arguments.invite = arguments.who
    # Line by line: a full screen has no room for the code, and what was sent last stays to be seen.
    arguments.plain = True
    arguments.add, arguments.config, arguments.accept, arguments.downloads = [], None, None, None
    arguments.verbose = False
    return chat.run(arguments)


def _wait(arguments: argparse.Namespace, wait: float) -> int:
    """For programs: one line with the invite, one when somebody came."""
    came: queue.SimpleQueue[PeerEvent] = queue.SimpleQueue()

    def heard(event: PeerEvent) -> None:
        if event.kind is EventKind.CONNECTED:
            came.put(event)

    nick = arguments.nick or default_nick()
    with MultiHolepunchSocket(arguments.port, name=nick, identity=arguments.identity) as sock:
        sock.on_event(heard)
        if not arguments.no_discover:
            try:
                sock.discover(arguments.server or None)
            except SrmudpError as error:
                print(f"srmudp invite: {clean(str(error))}", file=sys.stderr)
        text = sock.invite(wait, arguments.who or None)
        invite = Invite.parse(text)
        _print(
            {
                "invite": text,
                "name": invite.name,
                "peer_id": str(invite.peer_id),
                "addresses": [str(address) for address in invite.addresses],
                "expires": invite.expires,
            }
        )
        deadline = monotonic() + wait
        while (left := deadline - monotonic()) > 0:
            try:
                event = came.get(timeout=min(left, 0.2))  # Ctrl-C is heard in between
            except queue.Empty:
                continue
            _print({"came": event.peer, "peer_id": str(event.peer_id), "address": str(event.address)})
            return 0
    print("srmudp invite: nobody came", file=sys.stderr)
    return 1


def _print(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)
