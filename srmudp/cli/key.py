"""``srmudp key``: make and look at identities. Never prints a secret."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from typing import TYPE_CHECKING

from .. import Identity, IdentityError, PeerId
from ..crypto.keys import static_key_of, verification_code
from .text import clean

if TYPE_CHECKING:
    from collections.abc import Callable

    _Action = Callable[[argparse.Namespace], int]
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_EXAMPLES = """\
examples:
  srmudp key new me.key
  srmudp key show me.key
  srmudp key code me.key bxk4...n3q     the PeerId your friend gave you

An identity file is what makes you you: keep it secret, keep a backup. The PeerId
in it is public. Two people who read the same 60 digits to each other know that
nobody sits between them.
"""


def add_to(commands: Commands) -> None:
    """Add ``key`` and its own subcommands."""
    parser = commands.add_parser(
        "key",
        help="make an identity, show its PeerId, compute a verification code",
        description="Identities: who you are to your peers.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    new = actions.add_parser("new", help="make an identity and save it to a new file")
    show = actions.add_parser("show", help="show the PeerId of an identity file")
    code = actions.add_parser("code", help="show the verification code of you and a peer")
    for action in (new, show, code):
        action.add_argument("file", metavar="FILE", help="the identity file")
    code.add_argument("peer_id", metavar="PEERID", help="the peer's PeerId: 52 characters a-z and 2-7")
    new.set_defaults(run=_guarded(_new))
    show.set_defaults(run=_guarded(_show))
    code.set_defaults(run=_guarded(_code))


def _guarded(action: _Action) -> _Action:
    def run(arguments: argparse.Namespace) -> int:
        try:
            return action(arguments)
        except IdentityError as error:
            print(f"srmudp key: {clean(str(error))}", file=sys.stderr)
            return 1

    return run


def _new(arguments: argparse.Namespace) -> int:
    path: str = arguments.file
    if os.path.lexists(path):
        raise IdentityError(f"{path!r} exists and is left as it is: choose another name, or move it away first")
    identity = Identity.generate()
    identity.save(path)
    _describe(path, identity)
    print("Give the PeerId to your peers. Keep the file to yourself, and keep a backup of it.")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    _describe(arguments.file, _load(arguments.file))
    return 0


def _code(arguments: argparse.Namespace) -> int:
    identity = _load(arguments.file)
    # "<peerid>@host:port" is how a pinned peer is written: take that too.
    peer_id = PeerId.parse(arguments.peer_id.partition("@")[0])
    static_key_of(peer_id)  # refuses what cannot be anybody's key
    if peer_id == identity.peer_id:
        raise IdentityError("that is your own PeerId: a code is made of yours and your peer's")
    groups = verification_code(identity.peer_id, peer_id).split()
    for start in range(0, len(groups), 6):
        print(" ".join(groups[start : start + 6]))
    return 0


def _load(path: str) -> Identity:
    if not os.path.lexists(path):
        raise IdentityError(f"there is no file {path!r}; 'srmudp key new FILE' makes an identity")
    return Identity.load(path)


def _describe(path: str, identity: Identity) -> None:
    mode = stat.S_IMODE(os.stat(path).st_mode)
    print(f"PeerId  {identity.peer_id}")
    print(f"tag     {identity.peer_id.tag}")
    print(f"file    {clean(os.path.abspath(path))}")
    print(f"mode    {mode:04o}" + (" (only you can read it)" if os.name == "posix" and not mode & 0o077 else ""))
