"""``srmudp doctor``: what this network does to connections, and what to do about it."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from typing import TYPE_CHECKING

from ..nat.diagnosis import diagnose
from ..sockets.discovery import parse_servers
from .examination import Options, examine
from .meeting import port_number, seconds
from .text import clean

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

LONGEST = 120.0
"""Seconds of silence that ``--lifetime`` tries where no number is given."""

_EXAMPLES = """\
examples:
  srmudp doctor                          who can connect with you from here?
  srmudp doctor --server stun.example    ask this server, and no other
  srmudp doctor --no-network             ask nobody: look at this machine alone
  srmudp doctor --lifetime               two minutes more: what is forgotten?
  srmudp doctor --json | jq .verdict     for programs

It says whom it asks before it does: public STUN servers, unless you name some.
They learn your address, and no more. It takes two servers on two machines to
tell how your router behaves. A friend's socket with serve_stun=True is one.

exit status: 0 most people can connect with you, 3 some can, or it cannot be
told, 1 nobody outside can, 2 the command line was not understood.
"""


def add_to(commands: Commands) -> None:
    """Add ``doctor``."""
    parser = commands.add_parser(
        "doctor",
        help="find out what your network does to connections",
        description="Is UDP blocked? Which NAT is it, easy or hard? Who can connect with you?",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-s",
        "--server",
        action="append",
        default=[],
        metavar="HOST[:PORT]",
        help="a STUN server to ask instead of the public ones; may be given several times",
    )
    parser.add_argument("--json", action="store_true", help="print JSON; what goes on is told on standard error")
    parser.add_argument("--no-network", action="store_true", help="ask nobody")
    parser.add_argument("-p", "--port", type=port_number, default=0, help="examine this local port (default: any)")
    parser.add_argument(
        "--lifetime",
        type=seconds,
        nargs="?",
        const=LONGEST,
        metavar="S",
        help=f"also find out how long the router remembers a silent port: S seconds are tried (default: {LONGEST:g})",
    )
    parser.add_argument(
        "-w", "--wait", type=seconds, default=5.0, metavar="S", help="seconds to wait for the first answer (default: 5)"
    )
    parser.set_defaults(run=_run, fail=parser.error)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.no_network and (arguments.server or arguments.lifetime):
        arguments.fail("--no-network asks nobody, so neither --server nor --lifetime goes with it")
    options = Options(
        tuple(arguments.server), not arguments.no_network, arguments.port, arguments.wait, arguments.lifetime
    )

    def say(text: str) -> None:
        print(clean(text), file=sys.stderr if arguments.json else sys.stdout, flush=True)

    try:
        parse_servers(options.asked or None)
    except ValueError as error:
        arguments.fail(str(error))
    if options.asked:
        say(f"Asking {', '.join(options.asked)} by UDP how this machine is seen from outside.")
    diagnosis = diagnose(examine(options, say))
    if arguments.json:
        print(json.dumps(diagnosis.as_dict(), indent=2))
    else:
        width = max(60, min(100, shutil.get_terminal_size((80, 24)).columns)) - 1
        print()
        for line in diagnosis.lines(width):
            print(clean(line))
    return diagnosis.status
