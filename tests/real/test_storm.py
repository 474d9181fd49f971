"""The storm of ``tests/soak`` in short, and its oracle: hand-made journals in which something is wrong are caught.

The hour is ``python -m tests.soak.storm``.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.soak.citizen import HEADER, UNRELIABLE, digest
from tests.soak.disturbances import EVERY, SPARED, Disturbance, Kind, Weather, plan
from tests.soak.oracle import Journal, Verdict, judge
from tests.soak.storm import Obstacle, Settings, Storm, report, returns


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this system cannot suspend a process")
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="the programs look at themselves in /proc")
@pytest.mark.timeout(120)
def test_a_short_storm(tmp_path: Path) -> None:
    """Three programs; one is killed, one suspended, a partition, a rebinding, bad weather, a flood: nothing is lost."""
    disturbances = [
        Disturbance(0.3, Kind.WEATHER, 1.5, (0,), (1, 2), weather=Weather(0.2, 0.2, 0.2, 0.05)),
        Disturbance(0.5, Kind.KILL, 0.3, (1,)),
        Disturbance(1.6, Kind.REBIND, 1.0, (2,)),
        Disturbance(1.8, Kind.FLOOD, 1.2, (0,), rate=1500),
        Disturbance(2.2, Kind.PARTITION, 1.3, (0, 1), (2,)),
        Disturbance(2.6, Kind.SUSPEND, 0.4, (1,)),
    ]
    settings = Settings(4.0, peers=3, seed=7, rate=40, timeout=1.0, span=0.25, disturbances=disturbances)
    storm = Storm(settings, tmp_path)
    verdict = storm.run()
    text = report(storm, verdict, "")
    assert verdict.holds, text
    # It was a storm, and something went through it.
    assert len(verdict.begins) == 4, text
    assert verdict.counts["arrived"] > 100, text
    assert verdict.events["lost"] > 0, text
    assert storm.relayed["blocked"] > 0, text
    assert storm.relayed["lost"] > 0, text
    assert storm.relayed["junk"] > 300, text
    assert sum(verdict.drops.values()) > 100, text
    assert {item.after for item in returns(verdict, storm.obstacles)} >= {Kind.KILL}, text


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="the programs look at themselves in /proc")
def test_a_program_that_ends_by_itself_is_a_fault(tmp_path: Path) -> None:
    """It is told, with what the program wrote to standard error, and the storm ends at once."""
    settings = Settings(600.0, peers=2, backend="nonsense")  # type: ignore[arg-type]  # so that none can start
    storm = Storm(settings, tmp_path)
    verdict = storm.run()
    assert set(verdict.fault_counts) == {"the run itself", "something on standard error"}
    assert "ended by itself with 1" in report(storm, verdict, "")


def test_a_plan_depends_on_its_seed_alone() -> None:
    """The same seed makes the same storm; every kind comes, within the time, and nobody is killed while suspended."""
    first = plan(1, 600, 10)
    assert first == plan(1, 600, 10)
    assert first != plan(2, 600, 10)
    assert {d.kind for d in first} == set(Kind) == set(EVERY)
    assert all(d.end <= 600 + 1e-9 for d in first)
    assert [d.at for d in first] == sorted(d.at for d in first)
    assert all(SPARED not in d.who for d in first if d.kind is Kind.KILL)
    busy: dict[int, float] = {}
    for disturbance in first:
        if disturbance.kind in (Kind.KILL, Kind.SUSPEND):
            assert busy.get(disturbance.who[0], 0.0) <= disturbance.at
            busy[disturbance.who[0]] = disturbance.end


# --- the oracle ---


class World:
    """Journals written by hand: p0 sends to p1, at one message a second in every channel."""

    def __init__(self) -> None:
        self.lines: dict[tuple[int, int], list[str]] = {}
        self.time = 100.0

    def note(self, who: tuple[int, int], kind: str, *fields: object) -> None:
        self.time += 1.0
        self.lines.setdefault(who, []).append(f"{kind} {self.time} {' '.join(map(str, fields))}")

    def content(self, number: int, channel: int = 0, sender: int = 0) -> bytes:
        reliable = channel != UNRELIABLE
        return HEADER.pack(0, sender, 1, channel if reliable else 0, reliable, number) + b"text"

    def send(self, number: int, *, channel: int = 0, sender: int = 0, ttl: int = 0, empty: bool = False) -> None:
        content = b"" if empty else self.content(number, channel, sender)
        kind = "U" if channel == UNRELIABLE else "S"
        self.note((0, sender), kind, "p1", channel, number, len(content), digest(content), ttl)

    def receive(
        self, number: int, *, channel: int = 0, sender: int = 0, receiver: int = 0, empty: bool = False
    ) -> None:
        content = b"" if empty else self.content(number, channel, sender)
        shown = 0 if channel == UNRELIABLE else channel
        header = content[: HEADER.size].hex() or "-"
        self.note((1, receiver), "R", "p0", shown, len(content), digest(content), header)

    def delivered(self, number: int, *, channel: int = 0, sender: int = 0) -> None:
        self.note((0, sender), "D", "p1", channel, number)

    def failed(self, number: int, reason: str, *, sender: int = 0) -> None:
        self.note((0, sender), "F", "p1", 0, number, reason)

    def end(self, who: int, incarnation: int = 0) -> None:
        self.note((who, incarnation), "Q")

    def judge(self) -> Verdict:
        return judge(Journal(who, incarnation, lines) for (who, incarnation), lines in self.lines.items())

    def faults(self) -> set[str]:
        """What the oracle finds wrong once everybody still there has ended in order."""
        for who in (0, 1):
            newest = max((incarnation for name, incarnation in self.lines if name == who), default=0)
            self.end(who, newest)
        return set(self.judge().fault_counts)


EXPIRED = "its ttl passed before the peer took it"


def told(world: World, *numbers: int) -> None:
    """Messages that were sent, received and reported."""
    for number in numbers:
        world.send(number)
        world.receive(number)
        world.delivered(number)


def test_the_oracle_is_content_with_what_is_right() -> None:
    """In order, an expired one missing, an empty one, unreliable ones lost: nothing to blame."""
    world = World()
    told(world, 0, 1)
    world.send(2, ttl=500)
    world.failed(2, EXPIRED)
    told(world, 3)
    world.send(4, empty=True)
    world.receive(4, empty=True)
    world.delivered(4)
    told(world, 5)
    world.send(0, channel=3)
    world.receive(0, channel=3)
    world.delivered(0, channel=3)
    assert world.faults() == set()
    assert world.judge().counts["arrived"] == 6


def test_the_oracle_finds_a_lost_message() -> None:
    """Never received, though reported; never received and never reported; left out between two that came."""
    world = World()
    told(world, 0)
    world.send(1)
    world.delivered(1)
    assert world.faults() == {"reported delivered but never received"}

    world = World()
    told(world, 0)
    world.send(1)
    assert world.faults() == {"neither delivered nor failed"}

    world = World()
    world.send(0)
    world.send(1)
    world.receive(1)
    world.delivered(1)
    assert world.faults() == {"left out", "lost", "neither delivered nor failed"}


def test_the_oracle_finds_a_doubled_message() -> None:
    """Twice in one life of the receiver, reliable or not; or in a later life, though it was reported."""
    world = World()
    told(world, 0, 1)
    world.receive(0)
    assert world.faults() == {"received twice"}

    world = World()
    world.send(0, channel=UNRELIABLE)
    world.receive(0, channel=UNRELIABLE)
    assert world.judge().holds
    world.receive(0, channel=UNRELIABLE)
    assert world.faults() == {"received twice"}

    world = World()
    told(world, 0)
    world.receive(0, receiver=1)
    assert world.faults() == {"came again after it was reported delivered"}


def test_the_oracle_allows_what_was_not_reported_to_come_again_to_a_restarted_program() -> None:
    """The receiver was killed before its word that it had the message got home."""
    world = World()
    told(world, 0)
    world.send(1)
    world.send(2)
    world.receive(1)
    world.receive(1, receiver=1)
    world.delivered(1)
    world.receive(2, receiver=1)
    world.delivered(2)
    assert world.faults() == set()
    assert world.judge().counts["came again to a restarted program"] == 1


def test_the_oracle_finds_a_hole_at_the_beginning_of_a_restarted_programs_life() -> None:
    """What nobody received before the restart must not be left out after it."""
    world = World()
    told(world, 0)
    world.send(1)
    world.send(2)
    world.receive(2, receiver=1)
    world.delivered(2)
    assert "left out" in world.faults()


def test_the_oracle_finds_messages_out_of_order() -> None:
    """An earlier number after a later one, both for the first time."""
    world = World()
    world.send(0)
    world.send(1)
    world.receive(1)
    world.receive(0)
    world.delivered(0)
    world.delivered(1)
    assert "out of order" in world.faults()


@pytest.mark.parametrize("place", ["digest", "number", "receiver", "channel", "sender"])
def test_the_oracle_finds_a_corrupt_or_misled_message(place: str) -> None:
    """Other bytes than were sent, a number nobody sent, or a message for somebody else or another channel."""
    world = World()
    told(world, 0)
    world.send(1)
    content = world.content(1)
    header = {
        "digest": content,
        "number": HEADER.pack(0, 0, 1, 0, True, 9),
        "receiver": HEADER.pack(0, 0, 2, 0, True, 1),
        "channel": HEADER.pack(0, 0, 1, 5, True, 1),
        "sender": HEADER.pack(3, 0, 1, 0, True, 1),
    }[place][: HEADER.size]
    what = digest(content + b"!") if place == "digest" else digest(content)
    world.note((1, 0), "R", "p0", 0, len(content), what, header.hex())
    assert "corrupt" in world.faults()


def test_the_oracle_wants_a_beginning_without_holes_from_a_killed_sender() -> None:
    """The end of what it sent may be missing, nothing in the middle."""
    world = World()
    told(world, 0)
    for number in (1, 2, 3):
        world.send(number)
    world.receive(1)
    told_again = World()
    told_again.lines = {who: list(lines) for who, lines in world.lines.items()}
    told_again.time = world.time
    world.send(0, sender=1)
    world.receive(0, sender=1)
    world.delivered(0, sender=1)
    assert world.faults() == set()
    told_again.receive(3)
    told_again.send(0, sender=1)
    assert "lost" in told_again.faults()


def test_the_oracle_finds_an_earlier_life_of_a_sender_after_a_later_one() -> None:
    """As if what was recorded could be played again."""
    world = World()
    world.send(0)
    world.send(0, sender=1)
    world.receive(0, sender=1)
    world.delivered(0, sender=1)
    world.receive(0)
    assert world.faults() == {"an old incarnation's message came after a new one's"}


@pytest.mark.parametrize(
    ("ttl", "reason", "sort"),
    [
        (0, "the peer refused us", "failed for a reason that is not allowed"),
        (0, EXPIRED, "failed for a reason that is not allowed"),
        (60_000, EXPIRED, "expired before its ttl"),
    ],
)
def test_the_oracle_finds_a_failure_that_should_not_be(ttl: int, reason: str, sort: str) -> None:
    """Pinned peers with saved identities fail for no reason but a ttl that has passed."""
    world = World()
    world.send(0, ttl=ttl)
    world.failed(0, reason)
    assert world.faults() == {sort}


def test_the_oracle_finds_a_refused_message_that_came_nevertheless() -> None:
    """``send`` raised QueueFull, so that the caller may send it again."""
    world = World()
    world.send(0)
    world.failed(0, "refused by send: the queue is full")
    world.receive(0)
    assert world.faults() == {"refused by send but received"}


def test_the_oracle_finds_events_and_threads_that_should_not_be() -> None:
    """A peer that was refused, and a thread more than before."""
    world = World()
    told(world, 0)
    world.note((1, 0), "E", "refused", "p0", "some reason")
    for threads in (5, 5, 6):
        world.note((1, 0), "M", 1000, threads, 9, 0, 0, 0.01)
    assert world.faults() == {"unexpected event", "the number of threads changed"}


def test_the_oracle_allows_word_of_a_silent_peer_only_while_there_is_no_connection() -> None:
    """Through a partition ``unreached`` is the truth; of a peer that is connected it is not."""
    world = World()
    told(world, 0)
    for event in ("unreached", "connected", "lost", "unreached", "reconnected"):
        world.note((1, 0), "E", event, "p0", "some reason")
    assert world.faults() == set()
    world.note((1, 0), "E", "unreached", "p0", "some reason")
    assert world.faults() == {"unexpected event"}


def test_the_oracle_finds_what_did_not_settle() -> None:
    """A message still pending and a connection that did not come back, though all was healed."""
    world = World()
    told(world, 0)
    world.send(1)
    world.note((0, 0), "P", "p1", 0, 1)
    world.note((0, 0), "Z", "p1", "lost", "nothing heard for 10 s")
    assert world.faults() == {"neither delivered nor failed", "not connected at the end"}


def test_the_last_line_of_a_killed_program_may_be_cut_short(tmp_path: Path) -> None:
    """What SIGKILL left of a line is not read."""
    path = tmp_path / "p0.0.journal"
    path.write_text("B 1.0 7000\nS 2.0 p1 0 0 4 00000000000000ff 0\nS 3.0 p1 0")
    verdict = judge([Journal(0, 0, path)])
    assert verdict.holds
    assert verdict.counts["sent"] == 1


def test_returns_are_counted_from_the_end_of_the_last_obstacle() -> None:
    """Lost in a partition and back two seconds after it; a restarted program from its first moment."""
    world = World()
    world.lines[0, 0] = ["B 100.0 1", "E 101.0 connected p1 -", "E 110.0 lost p1 -", "E 122.0 reconnected p1 -"]
    world.lines[1, 0] = ["B 100.0 1"]
    world.lines[1, 1] = ["B 130.0 1", "E 130.5 connected p0 -"]
    both = frozenset({(0, 1), (1, 0)})
    obstacles = [
        Obstacle(Kind.PARTITION, 105.0, 120.0, both),
        Obstacle(Kind.WEATHER, 105.0, 121.5, both),
        Obstacle(Kind.KILL, 125.0, 129.8, both),
    ]
    found = returns(world.judge(), obstacles)
    assert [(item.after, round(item.seconds, 3)) for item in found] == [(Kind.PARTITION, 2.0), (Kind.KILL, 0.5)]
