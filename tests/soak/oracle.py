"""Knows what must have arrived: reads the journals of the programs of a storm and says what does not hold.

A journal is of one incarnation of a program (one process). Its lines are ``KIND TIME FIELDS``; times are
``time.monotonic()``, which all processes of a machine share, and each line was written before anything else happened:

====  =====================================================  ========================================================
kind  fields                                                 meaning
====  =====================================================  ========================================================
B     port                                                   the socket is open
S U   to channel number size digest ttl-ms                   about to be sent (U: unreliable)
D     to channel number                                      its Delivery says delivered
F     to channel number reason                               its Delivery says failed, or send refused it
P     to channel number                                      still pending at the end
R     from channel size digest header                        received; written in the hook, before it returned
E     kind peer reason                                       a PeerEvent
M     resident threads descriptors queued pending late       a sample of the process; how late it woke up at worst
X     json                                                   counters of dropped datagrams, so far
Z     peer state failure                                     a connection, when not all of them were back in time
Q                                                            closed in order: it lived to the end
====  =====================================================  ========================================================

The rules, per sender incarnation, receiver and channel:

- what is received was sent, by that sender, to that receiver, byte for byte;
- within one receiver incarnation each message comes at most once, in order, and none is left out that did not fail;
- to a later incarnation of the receiver only such come again as were not reported delivered yet;
- what was reported delivered was received; what ``send`` refused was not;
- a sender that lived to the end knows of each message that it was delivered, or failed for an allowed reason: its
  ``ttl`` passed, or ``send`` refused it;
- of a killed sender's messages a beginning was received, without holes;
- nothing of an earlier incarnation of a sender comes after something of a later one;
- a peer is said not to answer only while there is no connection to it.
"""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from srmudp.protocol.events import Failure
from tests.soak.citizen import HEADER, UNRELIABLE

REFUSED_BY_SEND: Final = "refused by send"
EXPECTED_EVENTS: Final = frozenset({"connected", "lost", "reconnected", "roamed", "mtu", "unreached"})
_HASTE: Final = 0.05
"""Seconds a ttl may seem to pass early: the clock is read once for the journal and once more by ``send``."""
SHOWN: Final = 12
"""Violations of one sort that are spelled out."""

Flow = tuple[int, int, int, int]
"""Sender, its incarnation, receiver, channel."""


@dataclass(slots=True)
class Journal:
    """The lines of one incarnation of program ``who``."""

    who: int
    incarnation: int
    lines: Path | Sequence[str]

    def __iter__(self) -> Iterator[list[str]]:
        """Kind, time and rest of each line. A last one that SIGKILL cut short is left out."""
        if isinstance(self.lines, Path):
            with self.lines.open(encoding="utf-8", newline="\n") as file:
                for line in file:
                    if line.endswith("\n"):
                        yield line.rstrip("\n").split(" ")
        else:
            for line in self.lines:
                yield line.split(" ")

    @property
    def name(self) -> str:
        """For people."""
        return f"p{self.who}.{self.incarnation}"


class Happening(NamedTuple):
    """An event of a program about another."""

    time: float
    who: int
    incarnation: int
    kind: str
    peer: int
    reason: str


class Usage(NamedTuple):
    """What one process used: bytes at its first, middle and last sample, and at most; threads and descriptors seen."""

    name: str
    seconds: float
    first: int
    middle: int
    last: int
    most: int
    threads: tuple[int, ...]
    descriptors: tuple[int, ...]


class _Sent:
    """All messages of one flow, by number."""

    __slots__ = ("delivered_at", "digests", "failed", "last_by", "pending", "received", "sent_at", "sizes", "ttls")

    def __init__(self) -> None:
        self.digests = array("Q")
        self.sizes = array("L")
        self.sent_at = array("d")
        self.ttls = array("L")
        self.delivered_at = array("d")  # infinite: never
        self.received = array("H")  # by how many incarnations of the receiver
        self.last_by = array("l")  # the last of them; -1 before any
        self.failed: dict[int, tuple[float, str]] = {}
        self.pending: set[int] = set()

    def __len__(self) -> int:
        return len(self.digests)

    def add(self, time: float, size: int, digest: str, ttl: int) -> None:
        self.digests.append(int(digest, 16))
        self.sizes.append(size)
        self.sent_at.append(time)
        self.ttls.append(ttl)
        self.delivered_at.append(math.inf)
        self.received.append(0)
        self.last_by.append(-1)

    def may_be_missing(self, number: int) -> bool:
        """Whether it need not have arrived: it expired (as far as its sender lived to tell), or was never queued."""
        return number in self.failed or bool(self.ttls[number] and self.delivered_at[number] == math.inf)


@dataclass(slots=True)
class Verdict:
    """What the oracle found.

    Attributes:
        faults: each sort of violation with its examples and how many there were.
        latencies: seconds from sending to the report of delivery, of all reliable messages.
        lateness: seconds by which programs woke up late, the worst of each second.
    """

    faults: dict[str, list[str]] = field(default_factory=dict)
    fault_counts: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    drops: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    happenings: list[Happening] = field(default_factory=list)
    begins: dict[tuple[int, int], float] = field(default_factory=dict)
    usages: list[Usage] = field(default_factory=list)
    latencies: array[float] = field(default_factory=lambda: array("d"))
    lateness: array[float] = field(default_factory=lambda: array("d"))

    @property
    def holds(self) -> bool:
        """True if nothing was violated."""
        return not self.fault_counts

    def blame(self, sort: str, detail: str) -> None:
        """Note a violation."""
        self.fault_counts[sort] += 1
        examples = self.faults.setdefault(sort, [])
        if len(examples) < SHOWN:
            examples.append(detail)


def judge(journals: Iterable[Journal]) -> Verdict:
    """Compare what was sent with what was received."""
    journals = sorted(journals, key=lambda journal: (journal.who, journal.incarnation))
    verdict = Verdict()
    sent: dict[Flow, _Sent] = {}
    lived: set[tuple[int, int]] = set()
    for journal in journals:
        _read_sender(journal, sent, lived, verdict)
    for journal in journals:
        _Receiver(journal, sent, verdict).read()
    for flow, messages in sorted(sent.items()):
        _account(flow, messages, flow[:2] in lived, verdict)
    return verdict


def _index(name: str) -> int:
    return int(name[1:]) if name[:1] == "p" and name[1:].isdigit() else -1


def _read_sender(journal: Journal, sent: dict[Flow, _Sent], lived: set[tuple[int, int]], verdict: Verdict) -> None:
    """Everything in a journal but what was received."""
    memory = array("Q")
    times = array("d")
    threads: set[int] = set()
    descriptors: set[int] = set()
    connected: set[str] = set()
    drops = ""
    for kind, stamp, *rest in journal:
        time = float(stamp)
        if kind in "SU":
            flow = (journal.who, journal.incarnation, _index(rest[0]), int(rest[1]))
            messages = sent.setdefault(flow, _Sent())
            assert int(rest[2]) == len(messages), (journal.name, rest)
            messages.add(time, int(rest[3]), rest[4], int(rest[5]))
            verdict.counts["sent" if kind == "S" else "sent unreliably"] += 1
            verdict.counts["bytes sent"] += int(rest[3])
        elif kind in "DFP":
            messages = sent[journal.who, journal.incarnation, _index(rest[0]), int(rest[1])]
            number = int(rest[2])
            if kind == "D":
                messages.delivered_at[number] = time
                verdict.latencies.append(time - messages.sent_at[number])
            elif kind == "F":
                messages.failed[number] = (time, " ".join(rest[3:]))
            else:
                messages.pending.add(number)
        elif kind == "E":
            verdict.events[rest[0]] += 1
            verdict.happenings.append(
                Happening(time, journal.who, journal.incarnation, rest[0], _index(rest[1]), " ".join(rest[2:]))
            )
            if rest[0] in ("connected", "reconnected"):
                connected.add(rest[1])
            elif rest[0] == "lost":
                connected.discard(rest[1])
            if rest[0] not in EXPECTED_EVENTS or (rest[0] == "unreached" and rest[1] in connected):
                verdict.blame("unexpected event", f"{journal.name} at {stamp}: {' '.join(rest)}")
        elif kind == "M":
            memory.append(int(rest[0]))
            times.append(time)
            threads.add(int(rest[1]))
            descriptors.add(int(rest[2]))
            verdict.lateness.append(float(rest[5]))
        elif kind == "X":
            drops = rest[0]
        elif kind == "B":
            verdict.begins[journal.who, journal.incarnation] = time
        elif kind == "Z":
            if rest[1] != "connected":
                verdict.blame("not connected at the end", f"{journal.name}: {' '.join(rest)}")
        elif kind == "Q":
            lived.add((journal.who, journal.incarnation))
    verdict.drops.update(json.loads(drops) if drops else {})
    if memory:
        middle = memory[len(memory) // 2]
        verdict.usages.append(
            Usage(
                *(journal.name, times[-1] - times[0], memory[0], middle, memory[-1], max(memory)),
                *(tuple(sorted(threads)), tuple(sorted(descriptors))),
            )
        )
    if len(threads) > 1:
        verdict.blame("the number of threads changed", f"{journal.name}: {sorted(threads)}")


class _Receiver:
    """Checks what one incarnation of a program received."""

    def __init__(self, journal: Journal, sent: dict[Flow, _Sent], verdict: Verdict) -> None:
        self.journal = journal
        self.sent = sent
        self.verdict = verdict
        self.at: dict[tuple[int, int], tuple[int, int]] = {}  # sender, channel -> incarnation, number of the last
        self.newest: dict[int, int] = {}  # sender -> its newest incarnation heard of
        self.waiting: dict[tuple[int, int], tuple[float, str]] = {}  # empty messages before any other of a channel

    def read(self) -> None:
        for kind, stamp, *rest in self.journal:
            if kind == "R":
                self._received(float(stamp), _index(rest[0]), int(rest[1]), int(rest[2]), rest[3], rest[4])
        # Nothing told which these were. They count as received by nobody, which the accounts must bear.
        for (sender, channel), (time, _) in self.waiting.items():
            self._place_lonely(sender, channel, time)

    def _blame(self, sort: str, sender: int, detail: str) -> None:
        self.verdict.blame(sort, f"p{sender} -> {self.journal.name}: {detail}")

    def _received(self, time: float, sender: int, channel: int, size: int, digest: str, header: str) -> None:
        counts = self.verdict.counts
        counts["received"] += 1
        counts["bytes received"] += size
        key = (sender, channel)
        if header == "-":
            # An empty message says nothing of itself. It never stands first in its channel, nor behind another such.
            if key in self.at:
                incarnation, number = self.at[key]
                self._take(time, (sender, incarnation, self.journal.who, channel), number + 1, digest)
            elif key in self.waiting:
                self._blame("received twice", sender, f"channel {channel}: two empty messages in a row at {time}")
            else:
                self.waiting[key] = (time, digest)
            return
        raw = bytes.fromhex(header)
        if len(raw) != HEADER.size:
            self._blame("corrupt", sender, f"channel {channel}, {size} bytes at {time}: too short")
            return
        origin, incarnation, to, said_channel, reliable, number = HEADER.unpack(raw)
        if (origin, to, said_channel) != (sender, self.journal.who, channel):
            self._blame("corrupt", sender, f"channel {channel} at {time}: says p{origin} to p{to}, {said_channel}")
            return
        if not reliable:
            channel = UNRELIABLE
        elif key in self.waiting:
            when, what = self.waiting.pop(key)
            flow = (sender, incarnation, self.journal.who, channel)
            self._take(when, flow, self._empty_before(flow, number), what)
        self._take(time, (sender, incarnation, self.journal.who, channel), number, digest)

    def _take(self, time: float, flow: Flow, number: int, digest: str) -> None:
        sender, incarnation, _, channel = flow
        messages = self.sent.get(flow)
        what = f"channel {channel}, incarnation {incarnation}, number {number} at {time}"
        if messages is None or not 0 <= number < len(messages) or messages.digests[number] != int(digest, 16):
            self._blame("corrupt", sender, f"{what}: no such message was sent")
            return
        ours = self.journal.incarnation
        newest = self.newest.setdefault(sender, incarnation)
        if incarnation < newest:
            self._blame("an old incarnation's message came after a new one's", sender, what)
        self.newest[sender] = max(newest, incarnation)
        if messages.last_by[number] == ours:
            self._blame("received twice", sender, what)
            return
        if messages.received[number]:
            self.verdict.counts["came again to a restarted program"] += 1
        if messages.delivered_at[number] < time:
            again = "again " if messages.received[number] else ""
            self._blame(f"came {again}after it was reported delivered", sender, what)
        messages.last_by[number] = ours
        messages.received[number] += 1
        if channel != UNRELIABLE:
            self._in_order(flow, messages, number, what)

    def _in_order(self, flow: Flow, messages: _Sent, number: int, what: str) -> None:
        sender, incarnation, _, channel = flow
        last_incarnation, last = self.at.get((sender, channel), (-1, -1))
        if last_incarnation != incarnation:
            first = True
        else:
            first = False
            if number < last:
                self._blame("out of order", sender, f"{what}, after number {last}")
                return
        self.at[sender, channel] = (incarnation, number)
        for skipped in range(0 if first else last + 1, number):
            if messages.may_be_missing(skipped):
                continue
            if first and messages.received[skipped]:
                continue  # by the program's earlier life
            self._blame("left out", sender, f"{what}, but {skipped} did not come before it")

    def _empty_before(self, flow: Flow, number: int) -> int:
        """The number of an empty message that came right before this one: those in between never came."""
        messages = self.sent.get(flow)
        number -= 1
        while messages is not None and 0 < number < len(messages) and messages.may_be_missing(number):
            number -= 1
        return number

    def _place_lonely(self, sender: int, channel: int, time: float) -> None:
        """An empty message was all that came in a channel: the first that could be it."""
        flows = [flow for flow in self.sent if flow[0] == sender and flow[2:] == (self.journal.who, channel)]
        for flow in sorted(flows, key=lambda flow: -flow[1]):
            messages = self.sent[flow]
            for number in range(len(messages)):
                if messages.sizes[number] == 0 and messages.sent_at[number] <= time <= messages.delivered_at[number]:
                    self._take(time, flow, number, f"{messages.digests[number]:x}")
                    return
        self._blame("corrupt", sender, f"channel {channel}: an empty message at {time} that nobody sent")


def _account(flow: Flow, messages: _Sent, lived: bool, verdict: Verdict) -> None:
    """What became of each message of a flow."""
    sender, incarnation, receiver, channel = flow
    who = f"p{sender}.{incarnation} -> p{receiver}, channel {channel}"
    if channel == UNRELIABLE:
        verdict.counts["unreliable that arrived"] += sum(map(bool, messages.received))
        return
    arrived = 0
    for number in range(len(messages)):
        received = messages.received[number]
        arrived += bool(received)
        failed = messages.failed.get(number)
        what = f"{who}, number {number} sent at {messages.sent_at[number]}"
        if messages.delivered_at[number] < math.inf and not received:
            verdict.blame("reported delivered but never received", what)
        if failed is not None:
            time, reason = failed
            verdict.failures[reason] += 1
            if reason.startswith(REFUSED_BY_SEND):
                if received:
                    verdict.blame("refused by send but received", what)
            elif reason != Failure.EXPIRED.value or not messages.ttls[number]:
                verdict.blame("failed for a reason that is not allowed", f"{what}: {reason}")
            elif time - messages.sent_at[number] < messages.ttls[number] / 1000 - _HASTE:
                verdict.blame("expired before its ttl", what)
        elif lived and (messages.delivered_at[number] == math.inf or number in messages.pending):
            verdict.blame("neither delivered nor failed", what)
    last = max((number for number in range(len(messages)) if messages.received[number]), default=-1)
    for number in range(last):
        if not messages.received[number] and not messages.may_be_missing(number):
            verdict.blame("lost", f"{who}, number {number}, though {last} arrived")
    verdict.counts["arrived"] += arrived
    if not lived:
        verdict.counts["of killed senders"] += len(messages)
        verdict.counts["of killed senders, arrived"] += arrived
