"""``srmudp demo``: three peers in three processes meet, talk, lose datagrams and survive a crash, told as a story.

The parent directs and judges; it has no socket. What the peers do is in :mod:`.demo_peer`, how they are started and
stopped in :mod:`.demo_cast`. Every line with a tick or a cross is a check; the exit status is 0 if all held.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .. import PeerStatus, Trust
from .demo_cast import Cast, Clock, Trouble
from .demo_peer import Entry, Hello, Large, Outcome, read_record
from .text import Screen, clean, duration

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

NAMES = ("alice", "bob", "carol")
LOSS = 0.05
LARGE = 32 * 1024 * 1024
"""Bytes of the large message."""
LIMIT = 20.0
"""Seconds the demo may take."""

_START, _MEET, _TALK, _SHIP, _RETURN, _END = 10.0, 8.0, 5.0, 15.0, 10.0, 4.0
"""Seconds each chapter may take, all within the limit of the demo: some ten times what they need."""
_PAUSE = 0.004
"""Seconds between numbers that are counted aloud."""
_SOME = 60
"""Numbers that are to come before, during and after the crash, of each who counts."""

_EXAMPLES = """\
examples:
  srmudp demo                 about six seconds
  srmudp demo --seed 7        other datagrams are lost
  srmudp demo --verbose       with events and what the library logs
  srmudp demo > story.txt     plain text; the exit status says whether all held
"""


def add_to(commands: Commands) -> None:
    """Add ``demo``."""
    parser = commands.add_parser(
        "demo",
        help="watch three peers meet, talk, lose datagrams and survive a crash",
        description="Three peers in three processes here; 5 % of all datagrams are lost on purpose.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="which datagrams are lost (default: 1)")
    parser.add_argument("--no-color", action="store_true", help="plain text; so does the variable NO_COLOR")
    parser.add_argument("--verbose", action="store_true", help="events and the library's log, on standard error")
    parser.add_argument(
        "--limit", type=_seconds, default=LIMIT, metavar="S", help=f"seconds it may take in all (default: {LIMIT:g})"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Play it. Returns 0 if every check held, 1 if not."""
    screen = Screen(color=False if arguments.no_color else None, live=False if arguments.verbose else None)
    clock = Clock(arguments.limit)
    with (
        _ends_as_by_ctrl_c(),
        tempfile.TemporaryDirectory(prefix="srmudp-demo-", ignore_cleanup_errors=True) as folder,
        Cast(folder, clock, loss=LOSS, seed=arguments.seed, verbose=arguments.verbose) as cast,
    ):
        return Story(screen, cast, folder).tell()


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


@contextmanager
def _ends_as_by_ctrl_c() -> Iterator[None]:
    """A polite kill or a closed terminal cleans up as well: files removed, processes ended."""
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    old = {name: signal.signal(getattr(signal, name), leave) for name in names}
    try:
        yield
    finally:
        for name, handler in old.items():
            signal.signal(getattr(signal, name), handler)


class Story:
    """The demo from beginning to end.

    Args:
        screen: where it is told.
        cast: who plays.
        folder: where the players keep their files.
    """

    def __init__(self, screen: Screen, cast: Cast, folder: str) -> None:
        self._screen = screen
        self._cast = cast
        self._clock = cast.clock
        self._folder = folder
        self._checks = self._crosses = 0
        self._chapters = itertools.count(1)
        self._hello: dict[str, Hello] = {}
        self._codes: dict[str, dict[str, str]] = {}

    def tell(self) -> int:
        """The whole story. Returns the exit status."""
        screen = self._screen
        screen.line(screen.style("srmudp demo", "bold", "cyan"))
        screen.paragraph(
            "Three programs on this computer find each other over UDP, prove who they are, and talk. The network is "
            f"bad on purpose: each of them loses {LOSS * 100:g} % of the datagrams that reach it."
        )
        try:
            self._start()
            self._meet()
            self._compare()
            self._talk()
            self._ship()
            self._crash()
            self._leave()
        except Trouble as trouble:
            self._check(False, clean(str(trouble)))
            if self._clock.left(1.0) == 0:
                screen.paragraph(f"The time is over: {self._clock.limit:g} s (--limit).", indent="     ")
            screen.paragraph("What would have followed was not tried.", "dim", indent="     ")
        return self._verdict()

    def _check(self, held: bool, text: str) -> bool:
        self._checks += 1
        self._crosses += not held
        self._screen.check(held, text)
        return held

    def _require(self, held: bool, text: str) -> None:
        if not held:
            raise Trouble(text)

    def _chapter(self, title: str, why: str) -> None:
        self._screen.heading(next(self._chapters), title)
        self._screen.paragraph(why, "dim", indent="   ")

    # --- the chapters ---

    def _start(self) -> None:
        self._chapter(
            "Three programs start",
            "Each makes a key and keeps it in a file: the key is who it is, today and after a restart.",
        )
        for name in NAMES:
            self._cast.start(name)
        self._hello = self._cast.all("hello", limit=_START)
        for name, hello in self._hello.items():
            text = f"{name:5} on UDP port {hello.port}, PeerId {hello.peer_id[:12]}{self._dots}, key file "
            if os.name == "posix":
                private = not hello.key_mode & 0o077
                self._check(private, text + ("private" if private else "OPEN TO OTHERS") + f" ({hello.key_mode:04o})")
            else:
                self._check(True, text + "saved")

    def _meet(self) -> None:
        self._chapter(
            "They punch and shake hands",
            "All they know is where the others are. Everybody sends first, which opens the way through routers; "
            "then both ends prove their keys. No server takes part.",
        )
        arguments = {name: (self._addresses(name), _MEET) for name in NAMES}
        for name, seconds in self._cast.each("meet", arguments, limit=_MEET + 1).items():
            others = " and ".join(other for other in NAMES if other != name)
            self._require(seconds is not None, f"{name} did not reach {others} within {_MEET:g} s")
            self._check(True, f"{name:5} is connected to {others} after {duration(seconds)}")

    def _compare(self) -> None:
        self._chapter(
            "Is there somebody in the middle?",
            "Each took the first key that answered. So two people read these digits to each other, on the telephone "
            "say: if they are the same at both ends, nobody sits between.",
        )
        self._codes = self._cast.all("codes")
        for one, other in itertools.combinations(NAMES, 2):
            code = self._codes[one][other].split()
            same = self._codes[one][other] == self._codes[other][one]
            pair = f"{one} and {other}"
            self._check(same, f"{pair:15} {' '.join(code[:6])}" + ("" if same else " NOT THE SAME"))
            self._screen.line(f"     {'':15} {' '.join(code[6:])}")
        before = self._trusts()
        self._cast.all("trust")
        self._check(
            before == {Trust.FIRST_USE} and self._trusts() == {Trust.PINNED},
            "compared, so pinned: from now on any other key is refused",
        )

    def _talk(self) -> None:
        self._chapter("To one, to some, to all", "One socket, many peers; every message whole, once and in order.")
        letters = (
            ("alice", "bob", "for bob alone"),
            ("alice", ["bob", "carol"], "for bob and carol"),
            ("alice", None, "for everyone"),
            ("carol", None, "hello from carol"),
        )
        numbers = [(sender, self._cast[sender].ask("say", text, to)) for sender, to, text in letters]
        for (sender, number), (_, to, text) in zip(numbers, letters, strict=True):
            wanted = {to} if isinstance(to, str) else set(to or NAMES) - {sender}
            outcome = self._settled(sender, number, _TALK)
            self._require(
                outcome.delivered == wanted and not outcome.failed,
                f"{sender}'s message {text!r} should be taken by {_list(wanted)}, not {_list(outcome.delivered)}",
            )
        # A channel keeps its order: who has a later message of alice's has all that alice ever sent before.
        heard: dict[str, list[tuple[str, str]]] = self._cast.all("heard")
        for sender, to, text in letters:
            wanted = {to} if isinstance(to, str) else set(to or NAMES) - {sender}
            got = {name for name, lines in heard.items() if lines.count((sender, text)) == 1}
            said = "one " if isinstance(to, str) else "some" if to else "all "
            self._check(got == wanted, f"{said} {sender} says {text!r}: {_list(got)} heard it, nobody else")
        ordered = all(
            [line for who, line in heard[name] if who == "alice"]
            == [text for sender, to, text in letters if sender == "alice" and (to is None or name in to)]
            for name in ("bob", "carol")
        )
        self._check(ordered, "each message once, and alice's in the order in which she spoke")

    def _ship(self) -> None:
        self._chapter(
            f"One message of {LARGE >> 20} MiB",
            "It is cut into some thirty thousand datagrams. Those that are lost are noticed and sent again.",
        )
        digest: str = self._cast["alice"].ask("prepare", LARGE, limit=_TALK)
        before = self._status("alice", "bob").stats
        base = self._status("bob", "alice").stats.bytes_received
        number: int = self._cast["alice"].ask("ship", "bob", _SHIP, limit=_TALK)
        began = self._clock.elapsed
        outcome: Outcome | None = None

        def look() -> bool:
            nonlocal outcome
            outcome = self._outcome("alice", number)
            came = min(LARGE, self._status("bob", "alice").stats.bytes_received - base)
            done = LARGE if outcome.delivered else min(came, int(LARGE * 0.99))
            seconds = outcome.seconds or self._clock.elapsed - began
            rate = done / seconds / 1e6 if seconds else 0.0
            bar.show(done / LARGE, f"{done / 1e6:4.1f} of {LARGE / 1e6:.1f} MB  {rate:5.1f} MB/s")
            return not outcome.pending and (outcome.seconds is not None or bool(outcome.failed))

        with self._screen.progress() as bar:
            in_time = self._clock.until(look, _SHIP, pause=0.04)
        self._require(in_time and outcome is not None, f"the message was not taken within {_SHIP:g} s")
        assert outcome is not None
        self._require(not outcome.failed, f"the message failed: {outcome.failed}")
        came: list[Large] = self._cast["bob"].ask("unpack", limit=_TALK)
        stats = self._status("alice", "bob").stats
        seconds = outcome.seconds or 1.0
        lost, sent = stats.datagrams_lost - before.datagrams_lost, stats.datagrams_sent - before.datagrams_sent
        self._check(
            came == [Large("alice", LARGE, digest)],
            f"every bit as sent: SHA-256 {digest[:16]}{self._dots} at both ends",
        )
        self._check(
            lost > 0,
            f"{LARGE / seconds / 1e6:.1f} MB/s; of {sent:,} datagrams {lost:,} were lost and made good",
        )

    def _crash(self) -> None:
        self._chapter(
            "A crash in mid-sentence",
            "alice and bob count aloud to carol, who writes every number down before she confirms it. Then her "
            "process is killed, and started again with the same key file and port.",
        )
        counting = ("alice", "bob")
        self._cast.each("count", dict.fromkeys(counting, ("carol", _PAUSE)))
        self._require(
            self._clock.until(lambda: min(self._recorded().values()) >= _SOME, _RETURN),
            f"carol did not write down {_SOME} numbers of each within {_RETURN:g} s",
        )
        carol = self._cast["carol"]
        killed, old_pid = self._clock.elapsed, carol.pid
        carol.kill()
        first = self._recorded()
        self._check(
            True, f"carol's process {old_pid} is killed after {sum(first.values())} numbers: no goodbye, no flush"
        )
        self._require(
            self._clock.until(lambda: all(self._counted(name)[0] >= first[name] + _SOME for name in counting), _RETURN),
            "alice and bob stopped counting",
        )
        before = {name: self._counted(name) for name in counting}
        waiting = sum(sent - taken for sent, taken in before.values())
        self._check(waiting >= _SOME, f"alice and bob count on; {waiting} numbers wait for her")

        carol = self._cast.restart("carol", self._hello["carol"].port)
        hello: Hello = carol.ask("hello", limit=_START)
        self._require(
            hello == self._hello["carol"], "carol came back with another key or port, or her key file changed"
        )
        back = carol.ask("meet", self._addresses("carol"), _RETURN, limit=_RETURN + 1)
        self._require(back is not None, f"carol did not find alice and bob again within {_RETURN:g} s")
        away = self._clock.elapsed - killed
        self._check(
            self._trusts() == {Trust.PINNED} and self._cast.all("codes") == self._codes,
            f"she is back after {duration(away)}: same key, same codes, still pinned",
        )

        at_return = {name: self._counted(name)[0] for name in counting}
        alive = self._clock.until(
            lambda: all(self._recorded()[name] >= at_return[name] + _SOME for name in counting), _RETURN
        )
        self._cast.each("stop_counting", dict.fromkeys(counting, ()))
        self._require(alive, "numbers said after her return did not reach carol")
        self._clock.until(lambda: all(len(set(self._counted(name))) == 1 for name in counting), _RETURN)
        self._judge(before, {name: self._counted(name) for name in counting})

    def _judge(self, before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> None:
        """Compare carol's record with what was sent, and with what was known to be taken when she came back."""
        record = self._record()
        for name, (sent, taken) in after.items():
            kept = [entry.number for entry in record if entry.peer == name and not entry.again]
            whole = kept == list(range(1, sent + 1))
            wrong = set(range(1, sent + 1)).symmetric_difference(kept)
            self._check(
                whole and taken == sent,
                f"{name:5} counted to {sent}: none missing, none twice, all in order"
                if whole and taken == sent
                else f"{name:5} counted to {sent}: carol has {len(kept)}, {taken} confirmed, missing or unknown: "
                f"{', '.join(map(str, sorted(wrong)[:8])) or 'none, but out of order'}",
            )
        again = [entry for entry in record if entry.again]
        # What carol wrote down and died before confirming must come again; what she confirmed must not.
        unjust = [entry for entry in again if entry.life == 1 or entry.number <= before[entry.peer][1]]
        if unjust:
            text = f"{len(unjust)} numbers came again although they were confirmed"
        elif again:
            text = f"nothing confirmed came again; {len(again)} noted but not yet confirmed did"
        else:
            text = "nothing that she had came again"
        self._check(not unjust, text)

    def _leave(self) -> None:
        self._chapter("Curtain", "What the sockets say of each other (carol's since she came back):")
        rows = []
        for name, peers in self._cast.all("status").items():
            for other, status in peers.items():
                stats = status.stats
                rtt = "-" if status.rtt is None else duration(status.rtt)
                messages = f"{stats.messages_sent:,}", f"{stats.messages_received:,}"
                datagrams = f"{stats.datagrams_sent:,}", f"{stats.datagrams_lost:,}"
                rows.append((f"{name} to {other}", *messages, *datagrams, rtt, f"{status.mtu:,}"))
        self._screen.table(("peer", " msgs out", " in", " datagrams out", " lost", " RTT", " MTU"), rows)
        counts = list(self._cast.all("network").values())
        received = sum(count.get("received", 0) for count in counts)
        lost = sum(count.get("lost", 0) for count in counts)
        share = lost / received if received else 0.0
        self._check(
            LOSS * 0.6 < share < LOSS * 1.4,
            f"the network swallowed {lost:,} of {received:,} datagrams ({share * 100:.1f} %); nobody noticed",
        )
        for actor in self._cast:
            actor.begin("leave", _END / 2)
        ended = [actor.name for actor in self._cast if actor.ended(_END)]
        self._check(
            len(ended) == len(NAMES),
            "all three said goodbye and ended"
            if len(ended) == len(NAMES)
            else f"did not end by themselves: {_list(set(NAMES) - set(ended))}",
        )

    def _verdict(self) -> int:
        screen, seconds = self._screen, self._clock.elapsed
        screen.line()
        if self._crosses:
            plural = "" if self._checks == 1 else "s"
            screen.line(
                f"{self._crosses} of {self._checks} check{plural} did not hold ({seconds:.1f} s).", "bold", "red"
            )
            screen.paragraph("Once more with --verbose shows what the library says. If it stays, please report it.")
            return 1
        screen.line(f"All {self._checks} checks held, in {seconds:.1f} s.", "bold", "green")
        screen.line()
        screen.paragraph("Now you:")
        screen.line("   srmudp key new me.key      an identity of your own")
        screen.line("   README.md                  a socket to a friend in ten lines")
        screen.line("   TUTORIAL.md                the same step by step, across two homes")
        return 0

    # --- looking ---

    @property
    def _dots(self) -> str:
        return "…" if self._screen.fancy else "..."

    def _addresses(self, name: str) -> dict[str, str]:
        return {other: f"127.0.0.1:{hello.port}" for other, hello in self._hello.items() if other != name}

    def _status(self, name: str, other: str) -> PeerStatus:
        statuses: dict[str, PeerStatus] = self._cast[name].ask("status")
        return statuses[other]

    def _trusts(self) -> set[Trust]:
        statuses: dict[str, dict[str, PeerStatus]] = self._cast.all("status")
        return {status.trust for peers in statuses.values() for status in peers.values()}

    def _outcome(self, name: str, number: int) -> Outcome:
        outcome: Outcome = self._cast[name].ask("outcome", number)
        return outcome

    def _settled(self, name: str, number: int, limit: float) -> Outcome:
        self._clock.until(lambda: not self._outcome(name, number).pending, limit)
        return self._outcome(name, number)

    def _counted(self, name: str) -> tuple[int, int]:
        counted: tuple[int, int] = self._cast[name].ask("counted", "carol")
        return counted

    def _record(self) -> list[Entry]:
        return read_record(os.path.join(self._folder, "carol.record"))

    def _recorded(self) -> dict[str, int]:
        record = self._record()
        return {name: sum(entry.peer == name and not entry.again for entry in record) for name in ("alice", "bob")}


def _list(names: Iterable[str]) -> str:
    *others, last = sorted(names) or ["nobody"]
    return f"{', '.join(others)} and {last}" if others else last
