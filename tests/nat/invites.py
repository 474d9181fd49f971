"""Two people with the README's section on invites alone, behind two routers, by what they type and read.

``python -m tests.nat.invites`` (as root) runs two chats in the lab's homes for several pairs of routers: Alice's begins
with an invite, Bob pastes the line that it shows, and where his chat shows a line to send back, Alice pastes that.
Counted is what is typed, commands that start the chats included, and how long it takes from the last paste on.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Final, NamedTuple

from tests.namespaces import why_not
from tests.nat.lab import STUN, NatLab
from tests.programs import Program

PAIRS: Final = (
    ("open", "linux"),
    ("full-cone", "linux"),
    ("linux", "full-cone"),
    ("linux", "linux"),
    ("port-restricted", "restricted"),
    ("firewall", "linux"),
    ("linux-open", "linux"),
    ("linux-open", "linux-open"),
    ("symmetric-seq", "port-restricted"),
    ("cgnat-pr", "linux"),
    ("open", "symmetric"),
)
"""Alice's router and Bob's."""
SLOW: Final = frozenset({"linux-open"})
"""Routers that keep what came uninvited for half a minute: the answer comes after that, as people pass it on."""
PAUSE: Final = 36.0
MOST: Final = 5
"""What may be typed."""
PATIENCE: Final = 30.0


class Trial(NamedTuple):
    """How it went: lines typed, seconds from the last one to both being here; None if they are not."""

    typed: int
    seconds: float | None


class Chat:
    """A chat in a home, and what it has shown."""

    def __init__(self, lab: NatLab, where: str, nick: str, folder: Path, *more: str) -> None:
        servers = [word for server in STUN for word in ("-s", server)]
        command = ["-m", "srmudp", "chat", "-n", nick, "--accept", "ask", *servers, *more]
        data = {"XDG_DATA_HOME": str(folder / nick)}
        self.program = lab.inside(where, lambda: Program(command, folder, data))
        self.shown: list[str] = []

    def read(self, seconds: float, *wanted: str) -> str:
        """The next line with one of these in it, or an empty one."""
        deadline = monotonic() + seconds
        while (left := deadline - monotonic()) > 0:
            line = self.program.next_line(left)
            if line is None:
                break
            self.shown.append(line)
            if any(text in line for text in wanted):
                return line
        return ""


def try_it(lab: NatLab, one: str, two: str, folder: Path, *, second: str = "b") -> Trial:
    """Two chats, as two people would do it."""
    lab.set_kind("a", one)
    if second == "b":
        lab.set_kind("b", two)
    alice = Chat(lab, "a", "Alice", folder, "--invite")
    bob = Chat(lab, second, "Bob", folder)
    with alice.program, bob.program:
        typed = 2
        invite = alice.read(PATIENCE, "/add Alice srmudp:")
        bob.read(PATIENCE, "/help")
        bob.program.type(invite)
        typed, since = typed + 1, monotonic()
        answer = bob.read(PATIENCE, "Alice is here", "/add Bob srmudp:")
        if "/add Bob" in answer:
            if {one, two} & SLOW:
                time.sleep(PAUSE)
            alice.program.type(answer)
            typed, since = typed + 1, monotonic()
            answer = bob.read(PATIENCE, "Alice is here")
        if not (answer and alice.read(PATIENCE, "Bob is here")):
            print("\n".join(["alice:", *alice.shown, "bob:", *bob.shown]), file=sys.stderr)
            return Trial(typed, None)
        seconds = monotonic() - since
        bob.program.type("It works.")
        return Trial(typed, seconds if alice.read(PATIENCE, "Bob: It works.") else None)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.nat.invites", description=__doc__)
    parser.add_argument("pair", nargs="*", metavar="KIND,KIND", help="pairs of routers (default: a dozen)")
    arguments = parser.parse_args(argv)
    if why_not():
        print(why_not(), file=sys.stderr)
        return 2
    pairs = [tuple(pair.split(",")) for pair in arguments.pair] or list(PAIRS)
    failed = 0
    print(f"{'Alice':16} {'Bob':16} typed  seconds")
    with NatLab() as lab:
        lab.build()
        for one, two in [*pairs, *([] if arguments.pair else [("linux", "same home")])]:
            with tempfile.TemporaryDirectory() as folder:
                trial = try_it(lab, one, two, Path(folder), second="a2" if two == "same home" else "b")
            failed += trial.seconds is None or trial.typed > MOST
            took = "-" if trial.seconds is None else f"{trial.seconds:.2f}"
            print(f"{one:16} {two:16} {trial.typed:5}  {took}", flush=True)
    print(f"{failed} of these failed" if failed else f"all connected, with at most {MOST} lines typed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
