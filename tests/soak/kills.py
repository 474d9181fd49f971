"""Programs killed in the middle of a conversation, again and again: ``python -m tests.soak.kills`` from a checkout.

Two programs on loopback, each a process of its own with a saved identity, both pinned. One sends numbered messages, the
other records each in a hook, by one append to a file, before the hook returns. One of the two is killed (SIGKILL) at
random moments that are tied to progress, so that they are spread over the run, and started again at once.

Receiver killed: no message is missing. Each of its runs records consecutive numbers, each once. What it records again
after a restart are the last ones before the kill, and none of them is one that the sender had been told was taken.
Sender killed: each of its runs numbers its messages from 1 and loses what was not delivered, so the receiver records
1, 2, 3 ... of each run up to some number, nothing twice, nothing out of order, nothing of an older run after a newer
one has begun; and whatever a sender had been told was taken, was recorded.

Beside that it measures how long the two take to be connected again. Exits with 1 if anything does not hold. The seed
fixes the moments as far as the machine allows. 50 kills of one side take about a minute.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import queue
import random
import signal
import statistics
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

from srmudp import Config, Delivery, Message, MultiHolepunchSocket, PeerEvent
from srmudp.crypto.backend import select_backend
from srmudp.crypto.keys import Identity
from srmudp.models import EventKind
from tests.programs import PATIENCE, Program, free_ports

BackendName = Literal["auto", "cryptography", "pycryptodome"]

HOST = "127.0.0.1"
RECONNECTION = 5.0
"""Seconds a restarted program may take to be connected again: far more than it needs, and less than it would take if
the other end had to notice its silence (21 s) or were not answered before it knocks more slowly."""
BURST = 600
"""Messages that may wait for the receiver beyond the one it is killed at, at most."""
WINDOWS = (64 * 1024, 4 * 1024 * 1024)
"""Bytes a receiver lets be on their way to it, one or the other: less than what waits for it, so that a part of that
has been sent before the kill and a part has not; or more, so that all has."""
LARGE = 97
"""One message in so many is large, so that records of several datagrams are among them."""


# --- what is sent and what is written down


def content(run: int, number: int) -> bytes:
    """A message: which run of the sender's, its number there, and bytes that follow from both."""
    head = struct.pack(">II", run, number)
    size = 20_000 if number % LARGE == 0 else number * 7919 % 300
    filler = hashlib.sha256(head).digest()
    return head + (filler * (size // len(filler) + 1))[:size]


class Kind(IntEnum):
    """What a note of a :class:`Journal` says."""

    OPENED = 1
    """The program's socket is open and has its peer."""
    EVENT = 2
    """An event of the socket's; ``number`` is its place in ``EVENTS``."""
    MESSAGE = 3
    """The hook was given message ``number`` of the sender's run ``run``."""
    SPOILT = 4
    """The same, but its content is not what was sent."""
    TOLD = 5
    """The sender was told that message ``number`` was taken."""
    FAILED = 6
    """The sender was told that message ``number`` never will be."""


EVENTS = tuple(EventKind)
WRONG_EVENTS = frozenset(
    {EventKind.IDENTITY_IN_USE_ELSEWHERE, EventKind.PEER_CHANGED, EventKind.REFUSED, EventKind.REMOVED}
)
"""Events that a restart with the same identity must not look like."""


class Note(NamedTuple):
    """One line of a journal; ``at`` is the monotonic clock, the same for all processes, in nanoseconds."""

    kind: int
    writer: int
    run: int
    number: int
    at: int


class Journal:
    """Notes in a file, each written by one append: a killed program has written all of a note or nothing.

    SIGKILL may cut a write short between two pages of memory, so no note lies across such a border: 32 bytes each.
    """

    FORM = struct.Struct(">IIIIQ8x")

    def __init__(self, path: Path, writer: int) -> None:
        self._writer = writer
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, kind: Kind, run: int, number: int) -> None:
        os.write(self._file, self.FORM.pack(kind, self._writer, run, number, time.monotonic_ns()))

    def close(self) -> None:
        os.close(self._file)

    def write_event(self, event: PeerEvent) -> None:
        self.write(Kind.EVENT, 0, EVENTS.index(event.kind))

    @classmethod
    def read(cls, path: Path) -> list[Note]:
        """All notes so far."""
        return [Note(*fields) for fields in cls.FORM.iter_unpack(path.read_bytes())]


# --- the two programs


def say(*words: object) -> None:
    """One line for the program that started us; whole, whichever thread says it and however output is buffered."""
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def open_socket(me: str, port: int, backend: Any, window: int = max(WINDOWS)) -> MultiHolepunchSocket:
    config = Config(backend=backend, channel_window=window)
    return MultiHolepunchSocket(port, host=HOST, identity=f"{me}.key", config=config)


def receiver(
    run: int, port: int, other: str, backend: str, window: int, marks: Sequence[Sequence[int]], death: str
) -> None:
    """Record what comes until a line is typed.

    Args:
        window: bytes the sender may have on their way to us or waiting.
        marks: (run of the sender's, number): say so once, when this message or a later one of that run was recorded.
        death: to kill itself at the mark, in the hook: "before recording", "after recording", or neither.
    """
    journal = Journal(Path("receiver.journal"), run)
    left = {mark[0]: mark[1] for mark in marks}

    def hook(message: Message) -> None:
        sender, number = struct.unpack_from(">II", message.content)
        reached = number >= left.get(sender, number + 1)
        if reached and death == "before recording":
            os.kill(os.getpid(), signal.SIGKILL)
        whole = message.content == content(sender, number)
        journal.write(Kind.MESSAGE if whole else Kind.SPOILT, sender, number)
        if reached and death == "after recording":
            os.kill(os.getpid(), signal.SIGKILL)
        if reached:
            del left[sender]
            say("reached", sender)

    with open_socket("receiver", port, backend, window) as sock:
        sock.on_event(journal.write_event)
        sock.register_message_hook(hook)
        sock.add_peer("sender", other)
        journal.write(Kind.OPENED, 0, 0)
        say("opened")
        sys.stdin.readline()


def sender(run: int, port: int, other: str, backend: str, die_after: int) -> None:
    """Send messages up to the numbers it is given; count and close when told to.

    Args:
        die_after: to begin when connected and to kill itself when ``send()`` of this number has returned; 0 to begin at
            once and never do that.
    """
    journal = Journal(Path("sender.journal"), run)
    deliveries: list[Delivery] = []
    limits: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    made: queue.SimpleQueue[Delivery | None] = queue.SimpleQueue()
    known = 0

    def send() -> None:
        if die_after:
            sock.wait_connected("receiver", PATIENCE)
        while (limit := limits.get()) is not None:
            while len(deliveries) < limit:
                number = len(deliveries) + 1
                delivery = sock.send(content(run, number), "receiver")
                if number == die_after:
                    os.kill(os.getpid(), signal.SIGKILL)
                deliveries.append(delivery)
                made.put(delivery)
        made.put(None)

    def track() -> None:
        number = 0
        while (delivery := made.get()) is not None:
            number += 1
            journal.write(Kind.TOLD if delivery.wait() else Kind.FAILED, run, number)

    def told() -> int:
        nonlocal known
        while known < len(deliveries) and deliveries[known].delivered:
            known += 1
        return known

    with open_socket("sender", port, backend) as sock:
        sock.on_event(journal.write_event)
        sock.add_peer("receiver", other)
        journal.write(Kind.OPENED, 0, 0)
        say("opened")
        threads = [threading.Thread(target=work, daemon=True) for work in (send, track)]
        for thread in threads:
            thread.start()
        for line in sys.stdin:
            match line.split():
                case ["send", limit]:
                    limits.put(int(limit))
                case ["told"]:
                    say("told", told())
                case ["end"]:
                    limits.put(None)
                    for thread in threads:
                        thread.join()
                    break
        say("told", told())


PROGRAMS: dict[str, Callable[..., None]] = {"receiver": receiver, "sender": sender}


# --- what has to hold


def receiver_faults(
    runs: Sequence[Sequence[int]], told: Sequence[int], messages: int, interrupted: Collection[int] = ()
) -> list[str]:
    """What is wrong with the numbers that the receiver recorded.

    Args:
        runs: the numbers that each of its runs recorded, in order.
        told: for each run, how many messages the sender had been told were taken before that run began.
        messages: how many were sent.
        interrupted: runs that ended inside the hook, with their last number recorded and the hook not returned.
    """
    faults: list[str] = []
    last = 0
    untaken: int | None = None
    for run, (numbers, known) in enumerate(zip(runs, told, strict=True), 1):
        if known > last:
            faults.append(f"run {run}: the sender was told that {known} was taken; the last recorded is {last}")
        if not numbers:
            continue
        first = numbers[0]
        if first > last + 1:
            faults.append(f"run {run}: begins with {first}, so {last + 1} to {first - 1} are missing")
        if first <= known:
            faults.append(f"run {run}: begins again with {first}, though the sender was told that {known} was taken")
        if untaken is not None and first > untaken:
            faults.append(f"run {run}: {untaken} did not come again, though its hook had not returned")
        faults += [
            f"run {run}: {number} comes right after {before}"
            for before, number in pairwise(numbers)
            if number != before + 1
        ]
        last = max(last, *numbers)
        untaken = numbers[-1] if run in interrupted else None
    missing = set(range(1, messages + 1)).difference(*runs)
    if missing:
        faults.append(f"{len(missing)} of {messages} missing, the first is {min(missing)}")
    if last > messages:
        faults.append(f"{last} was never sent")
    return faults


def sender_faults(
    recorded: Iterable[tuple[int, int]], told: Mapping[int, int], sent: Mapping[int, int], lives: int
) -> list[str]:
    """What is wrong with the (run of the sender's, number) that the receiver recorded.

    Args:
        recorded: in order.
        told: how far each run had been told that its messages were taken.
        sent: how many each run meant to send.
        lives: the run that was not killed: all of it arrives.
    """
    faults: list[str] = []
    reached: dict[int, int] = {}
    newest = 0
    for run, number in recorded:
        if run < newest:
            faults.append(f"{number} of run {run} comes after run {newest} has begun")
        elif number != reached.get(run, 0) + 1:
            faults.append(f"run {run}: {number} comes right after {reached.get(run, 0)}")
        newest = max(newest, run)
        reached[run] = max(number, reached.get(run, 0))
    for run, count in sorted(sent.items()):
        have = reached.pop(run, 0)
        if have > count:
            faults.append(f"run {run}: {have} was never sent")
        if have < told.get(run, 0):
            faults.append(f"run {run}: it was told that {told[run]} was taken; the last recorded is {have}")
        if run == lives and have != count:
            faults.append(f"run {run}: ends with {have} of {count}")
    return faults + [f"there was no run {run}" for run in reached]


# --- a run


@dataclass
class Report:
    """What a run came to; ``faults`` is empty if everything held."""

    side: str
    backend: str
    seed: int
    messages: int
    kills: Counter[str] = field(default_factory=Counter)
    recorded: int = 0
    again: list[int] = field(default_factory=list)
    """For each kill of the receiver that others were recorded after, how many were recorded once more."""
    told: int = 0
    """How many messages the sender of a killed receiver had been told were taken, by the last kill."""
    age: float = 0.0
    """Seconds before the kill that the oldest of those was recorded."""
    lost: list[int] = field(default_factory=list)
    """For each kill of the sender, how many of the messages it had or would have sent were not recorded."""
    steps: dict[str, list[float]] = field(default_factory=dict)
    """Seconds of each step from a kill to the next message."""
    events: Counter[str] = field(default_factory=Counter)
    """Events at the end that was not killed."""
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def times(self, step: str) -> list[float]:
        return self.steps.setdefault(step, [])

    def __str__(self) -> str:
        kills = ", ".join(f"{count} {moment}" for moment, count in sorted(self.kills.items()))
        lines = [
            f"{self.side} killed {self.kills.total()} times, {self.backend}, seed {self.seed}, {self.seconds:.1f} s",
            f"  moments: {kills}",
            f"  messages: {self.messages} numbered, {self.recorded} recorded",
        ]
        if self.again:
            lines += [
                f"  the sender had been told of {self.told} by the last kill",
                f"  recorded once more after a kill: {sum(self.again)} in all, after {sum(map(bool, self.again))} "
                f"kills, median {statistics.median(self.again):g}, most {max(self.again)}, "
                f"the oldest {self.age:.3f} s before the kill",
            ]
        if self.lost:
            middle = statistics.median(self.lost)
            lines.append(
                f"  gone with a killed sender, or never sent by it: {sum(self.lost)} in all, median {middle:g}, "
                f"most {max(self.lost)}"
            )
        lines += [
            f"  {step}: median {statistics.median(times):.3f} s, longest {max(times):.3f} s ({len(times)})"
            for step, times in self.steps.items()
            if times
        ]
        lines.append(f"  events at the other end: {dict(sorted(self.events.items()))}")
        lines += [f"  FAULT: {fault}" for fault in self.faults[:20]] or ["  everything held"]
        return "\n".join(lines)


OUTSIDE, STARTING = "from outside at a random message", "from outside while connecting"
BEFORE, AFTER = "in the hook before recording", "in the hook after recording"
SENT = "right after a send() while connected"

STEPS = ("from the kill to the new socket", "from the socket to connected", "from the socket to the first message")


class Stage:
    """Both programs' identities and ports in a folder, and how to start them."""

    def __init__(self, folder: Path, backend: str) -> None:
        self._folder = folder
        self._backend = backend
        self._port = dict(zip(PROGRAMS, free_ports(2), strict=True))
        self._peer_id = {name: Identity.load_or_create(folder / f"{name}.key").peer_id for name in PROGRAMS}
        for name in PROGRAMS:
            (folder / f"{name}.journal").touch()

    @contextmanager
    def start(self, name: str, run: int, *arguments: object) -> Iterator[Program]:
        """A program; at the end of the block it must have written nothing to its standard error."""
        other = "sender" if name == "receiver" else "receiver"
        address = f"{self._peer_id[other]}@{HOST}:{self._port[other]}"
        everything = json.dumps([run, self._port[name], address, self._backend, *arguments])
        with Program(["-m", "tests.soak.kills", name, everything], self._folder) as program:
            yield program
        assert not program.errors, f"{name}, run {run}:\n{program.errors}"

    def journal(self, name: str) -> list[Note]:
        return Journal.read(self._folder / f"{name}.journal")


def hear(program: Program, word: str) -> list[Any]:
    """What a program says beside ``word``, which must be its next line."""
    line = program.line()
    heard: list[Any] = json.loads(line) if line is not None else [None]
    assert heard[0] == word, f"{heard}, not {word!r}\n{program.errors}"
    return heard[1:]


def kill(program: Program, delay: float | None) -> int:
    """Kill it after ``delay`` seconds, or wait until it has killed itself (None). Returns the time it was dead."""
    if delay is not None:
        time.sleep(delay)
        program.process.kill()
    status = program.process.wait(PATIENCE)
    assert status == -signal.SIGKILL, f"ended with {status}\n{program.errors}"
    return time.monotonic_ns()


def deal(chance: random.Random, times: int, moments: Sequence[str]) -> list[str]:
    """So many moments in random order, each about as often as the others."""
    dealt = [moments[number % len(moments)] for number in range(times)]
    chance.shuffle(dealt)
    return dealt


def measure(
    report: Report, dead: Mapping[int, int], notes: Sequence[Note], messages: Sequence[tuple[int, int]]
) -> None:
    """How long each run took to be where the one before it was when it was killed.

    Args:
        dead: when each run was dead.
        notes: of the program that was killed.
        messages: (its run, when) of each message recorded, in order.
    """
    connected = EVENTS.index(EventKind.CONNECTED)
    opened_at = {note.writer: note.at for note in notes if note.kind == Kind.OPENED}
    connected_at = {
        note.writer: note.at for note in reversed(notes) if note.kind == Kind.EVENT and note.number == connected
    }
    first_at: dict[int, int] = {}
    for run, at in messages:
        first_at.setdefault(run, at)
    for run, opened in sorted(opened_at.items()):
        if run - 1 in dead:
            report.times(STEPS[0]).append((opened - dead[run - 1]) / 1e9)
            for step, known in ((STEPS[1], connected_at), (STEPS[2], first_at)):
                if run in known:
                    report.times(step).append((known[run] - opened) / 1e9)
    for step in STEPS[1:]:
        if max(report.times(step), default=0.0) > RECONNECTION:
            report.faults.append(f"{step}: {max(report.times(step)):.1f} s")


def conclude(report: Report, other: Sequence[Note], stage: Stage, began: float) -> Report:
    """The rest of a report, which is the same for both sides."""
    report.events = Counter(EVENTS[note.number].value for note in other if note.kind == Kind.EVENT)
    report.faults += [f"event {kind!r} at the other end" for kind in WRONG_EVENTS if report.events[kind]]
    received, sent = stage.journal("receiver"), stage.journal("sender")
    report.recorded = sum(note.kind == Kind.MESSAGE for note in received)
    report.faults += [f"{note.number} of run {note.run} is spoilt" for note in received if note.kind == Kind.SPOILT]
    report.faults += [f"{note.number} of run {note.run} failed" for note in sent if note.kind == Kind.FAILED]
    report.seconds = time.monotonic() - began
    return report


def kill_receivers(folder: Path, times: int, messages: int, seed: int, backend: BackendName) -> Report:
    """Kill the receiver so many times while one sender sends so many messages."""
    chance = random.Random(f"receiver {seed}")
    report = Report("receiver", select_backend(backend).name, seed, messages)
    stage = Stage(folder, backend)
    marks = sorted(chance.sample(range(1, messages - times), times))
    moments = deal(chance, times, (OUTSIDE, BEFORE, AFTER, STARTING))
    told, dead, limit = [0], {}, 0
    interrupted: set[int] = set()
    began = time.monotonic()
    with stage.start("sender", 1, 0) as tx:
        hear(tx, "opened")
        for run, mark in enumerate(marks, 1):
            # Something new in every run, so that each of them has something to record.
            limit = max(limit + 1, min(messages - times + run, mark + chance.randrange(BURST)))
            tx.type(f"send {limit}")
            moment = moments[run - 1]
            report.kills[moment] += 1
            window, death = chance.choice(WINDOWS), moment.removeprefix("in the hook ")
            with stage.start("receiver", run, window, [(1, mark)], death) as rx:
                hear(rx, "opened")
                delay: float | None = chance.random() * 0.003
                if moment == OUTSIDE:
                    hear(rx, "reached")
                elif moment == STARTING:
                    delay = chance.random() * 0.06
                else:
                    delay = None
                dead[run] = kill(rx, delay)
            tx.type("told")
            told += hear(tx, "told")
            if moment == AFTER:
                interrupted.add(run)
        with stage.start("receiver", times + 1, chance.choice(WINDOWS), [], "") as rx:
            hear(rx, "opened")
            tx.type(f"send {messages}")
            tx.type("end")
            (everything,) = hear(tx, "told")
            tx.finish()
            rx.type("end")
            rx.finish()
    notes = stage.journal("receiver")
    taken = [note for note in notes if note.kind == Kind.MESSAGE]
    runs: list[list[int]] = [[] for _ in range(times + 1)]
    for note in taken:
        runs[note.writer - 1].append(note.number)
    report.told = told[-1]
    report.faults += receiver_faults(runs, told, messages, interrupted)
    if everything != messages:
        report.faults.append(f"the sender was told of {everything} of {messages}")
    last = 0
    recorded: dict[int, Note] = {}
    for run, numbers in enumerate(runs, 1):
        if numbers and last:
            report.again.append(last + 1 - numbers[0])
            if before := recorded.get(numbers[0]):
                report.age = max(report.age, (dead[before.writer] - before.at) / 1e9)
        last = max([last, *numbers])
        recorded |= {note.number: note for note in taken if note.writer == run}
    measure(report, dead, notes, [(note.writer, note.at) for note in taken])
    return conclude(report, stage.journal("sender"), stage, began)


def kill_senders(folder: Path, times: int, messages: int, seed: int, backend: BackendName) -> Report:
    """Kill the sender so many times; all its runs together number so many messages."""
    chance = random.Random(f"sender {seed}")
    report = Report("sender", select_backend(backend).name, seed, messages)
    stage = Stage(folder, backend)
    cuts = [0, *sorted(chance.sample(range(1, messages), times)), messages]
    sent = {run: cuts[run] - cuts[run - 1] for run in range(1, times + 2)}
    moments = dict(enumerate(deal(chance, times, (OUTSIDE, SENT, STARTING)), 1))
    marks = {run: 1 + chance.randrange(sent[run]) for run in moments}
    dead: dict[int, int] = {}
    began = time.monotonic()
    reached = [(run, marks[run]) for run in moments if moments[run] == OUTSIDE]
    with stage.start("receiver", 1, chance.choice(WINDOWS), reached, "") as rx:
        hear(rx, "opened")
        for run, moment in moments.items():
            report.kills[moment] += 1
            with stage.start("sender", run, marks[run] if moment == SENT else 0) as tx:
                tx.type(f"send {sent[run]}")
                hear(tx, "opened")
                delay: float | None = chance.random() * 0.003
                if moment == OUTSIDE:
                    assert hear(rx, "reached") == [run]
                elif moment == STARTING:
                    delay = chance.random() * 0.06
                else:
                    delay = None
                dead[run] = kill(tx, delay)
        run = times + 1
        with stage.start("sender", run, 0) as tx:
            hear(tx, "opened")
            tx.type(f"send {sent[run]}")
            tx.type("end")
            (everything,) = hear(tx, "told")
            tx.finish()
        rx.type("end")
        rx.finish()
    taken = [note for note in stage.journal("receiver") if note.kind == Kind.MESSAGE]
    notes = stage.journal("sender")
    told = {note.run: note.number for note in notes if note.kind == Kind.TOLD}
    report.faults += sender_faults([(note.run, note.number) for note in taken], told, sent, run)
    if everything != sent[run]:
        report.faults.append(f"the last sender was told of {everything} of {sent[run]}")
    taken_of = Counter(note.run for note in taken)
    report.lost = [(marks[run] if moments[run] == SENT else sent[run]) - taken_of[run] for run in moments]
    measure(report, dead, notes, [(note.run, note.at) for note in taken])
    return conclude(report, stage.journal("receiver"), stage, began)


SIDES: dict[str, Callable[[Path, int, int, int, BackendName], Report]] = {
    "receiver": kill_receivers,
    "sender": kill_senders,
}


def main(arguments: Sequence[str] | None = None) -> int:
    first, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak.kills",
        description=first,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--times", type=int, default=50, metavar="N", help="kills of each side (default %(default)s)")
    parser.add_argument("--messages", type=int, default=20_000, metavar="N", help="in a run (default %(default)s)")
    parser.add_argument("--side", choices=(*SIDES, "both"), default="both", help="who is killed (default %(default)s)")
    parser.add_argument("--seed", type=int, help="of the moments; printed (default: a new one)")
    parser.add_argument(
        "--backend", choices=("auto", "cryptography", "pycryptodome"), default="auto", help="(default %(default)s)"
    )
    options = parser.parse_args(arguments)
    if options.times < 1 or options.messages < 10 * options.times:
        parser.error("at least one kill, and ten messages for each")
    seed = random.randrange(1_000_000) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    faults = 0
    for side, run in SIDES.items():
        if options.side in (side, "both"):
            with tempfile.TemporaryDirectory(prefix="kills-") as folder:
                report = run(Path(folder), options.times, options.messages, seed, options.backend)
            print(report, flush=True)
            faults += len(report.faults)
    return int(faults > 0)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in PROGRAMS:
        PROGRAMS[sys.argv[1]](*json.loads(sys.argv[2]))
    else:
        try:
            sys.exit(main())
        except KeyboardInterrupt:
            sys.exit("interrupted; its programs are ended")
