"""The ``srmudp`` command: what can be tried and done from a terminal.

May import everything; uses the public API of :mod:`srmudp` as any program would. Called by ``python -m srmudp`` and by
the installed ``srmudp`` script. Each subcommand is a module with a function ``add_to(commands)`` that adds its parser
and sets ``run`` on it, a function from the parsed arguments to the exit status; list the module in ``_COMMANDS``.

Exit status: 0 all went well, 1 it did not, 2 the command line was not understood, 130 stopped by Ctrl-C; ``doctor`` has
one more.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from .. import SrmudpError, __version__
from ..chat import arguments as chat
from . import bench, completion, demo, doctor, invite, key, pipe, transfer
from .text import clean, soften

_COMMANDS = (demo, chat, invite, transfer, pipe, bench, doctor, key, completion)

_DESCRIPTION = """\
Encrypted, reliable sockets that connect people behind home routers directly
to each other. This command tries things out and looks after keys.
"""

_EXAMPLES = """\
examples:
  srmudp demo                    three peers meet, talk and survive a crash
  srmudp chat -p 8000 -n Alice   talk with friends
  srmudp invite                  let a friend in by a text or QR code
  srmudp recv                    receive files; prints what the other one types
  srmudp send photos/ ADDRESS    send files and folders to who does that
  tar c . | srmudp pipe ADDRESS  to somebody's 'srmudp pipe --listen | tar x'
  srmudp bench ADDRESS           how fast is it to 'srmudp bench --listen'?
  srmudp doctor                  who can connect with you from here?
  srmudp key new me.key          make an identity: who you are to your peers
  srmudp key show me.key         your PeerId, to give to others
  srmudp key code me.key PEERID  60 digits to read aloud and compare

'srmudp COMMAND --help' explains one command.
"""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with the nearest word that would have been right."""

    def error(self, message: str) -> NoReturn:
        choice = re.match(r"argument \w+: invalid choice: '(.*)' \(choose from (.*)\)", message, re.DOTALL)
        if choice:
            words = re.findall(r"\w+", choice[2])
            near = difflib.get_close_matches(choice[1], words, n=1)
            message = f"there is no '{choice[1]}'; " + (
                f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(words)}"
            )
        self.exit(2, f"{self.prog}: {clean(message)}\ntry: {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = _Parser(
        prog="srmudp",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"srmudp {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for module in _COMMANDS:
        module.add_to(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says.

    Args:
        argv: words behind the program's name; None means those of ``sys.argv``.

    Returns:
        The exit status, see the head of this module. Raises nothing that is to be expected.
    """
    soften(sys.stdout)
    soften(sys.stderr)
    try:
        parser = build_parser()
        arguments = parser.parse_args(argv)
        if arguments.command is None:
            parser.print_help(sys.stderr)
            return 2
        status: int = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except SystemExit as end:  # argparse after --help and mistakes
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # "srmudp demo | head": nobody reads any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit fails again
        return 1
    except (SrmudpError, OSError) as error:
        print(f"srmudp: {clean(str(error))}", file=sys.stderr)
        return 1
