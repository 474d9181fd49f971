"""Either program killed in the middle of a conversation and started again; the long run is ``tests.soak.kills``.

And the judge of these runs itself: it must find what it is there to find.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.soak.kills import Journal, Kind, Report, kill_receivers, kill_senders, receiver_faults, sender_faults

TIMES = 5
MESSAGES = 4000

Run = tuple[int, ...]

needs_sigkill = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")


@pytest.fixture
def seed() -> int:
    return random.randrange(1_000_000)


def held(report: Report) -> None:
    assert not report.faults, str(report)
    assert report.kills.total() == TIMES, str(report)
    assert report.events["connected"] == 1, str(report)


@needs_sigkill
@pytest.mark.timeout(120)
def test_a_killed_receiver_gets_again_only_what_was_not_taken(tmp_path: Path, seed: int) -> None:
    """Every message is recorded, and no message again that the sender had been told was taken."""
    report = kill_receivers(tmp_path, TIMES, MESSAGES, seed, "auto")
    held(report)
    # A run that is killed before it has caught up leaves the rest of its repetitions to the next one.
    assert MESSAGES <= report.recorded <= MESSAGES + sum(report.again), str(report)
    assert report.told > 0, str(report)


@needs_sigkill
@pytest.mark.timeout(120)
def test_a_killed_sender_repeats_and_reorders_nothing(tmp_path: Path, seed: int) -> None:
    """Each of its runs arrives from its first message on without a gap, and no longer once a newer one has begun."""
    report = kill_senders(tmp_path, TIMES, MESSAGES, seed, "auto")
    held(report)
    assert 0 < report.recorded <= MESSAGES, str(report)


# --- the judge


@pytest.mark.parametrize(
    ("runs", "told", "interrupted", "fault"),
    [
        (((1, 2, 3, 4, 5, 6),), (0,), (), None),
        (((1, 2, 3), (4, 5, 6)), (0, 3), (), None),
        (((1, 2, 3), (2, 3, 4, 5, 6)), (0, 1), (), None),
        (((1, 2, 3), (), (2, 3, 4, 5, 6)), (0, 1, 1), (), None),
        (((1, 2, 3), (), (3, 4, 5, 6)), (0, 2, 2), (1,), None),
        (((1, 2, 3), (3, 4, 5, 6)), (0, 3), (), "begins again with 3"),
        (((1, 2, 3), (4, 5, 6)), (0, 2), (1,), "3 did not come again"),
        (((1, 2, 3), (), (4, 5, 6)), (0, 2, 2), (1,), "3 did not come again"),
        (((1, 2), (4, 5, 6)), (0, 2), (), "3 to 3 are missing"),
        (((1, 2), (3, 4, 5)), (0, 2), (), "1 of 6 missing"),
        (((1, 2, 4, 5, 6), (3, 4, 5, 6)), (0, 2), (), "4 comes right after 2"),
        (((1, 2, 2, 3, 4, 5, 6),), (0,), (), "2 comes right after 2"),
        (((1, 2, 4, 3, 5, 6),), (0,), (), "3 comes right after 4"),
        (((1, 2), (2, 3, 4, 5, 6)), (0, 3), (), "told that 3 was taken; the last recorded is 2"),
        (((1, 2, 3, 4, 5, 6, 7),), (0,), (), "7 was never sent"),
    ],
)
def test_what_counts_as_a_fault_when_the_receiver_is_killed(
    runs: Sequence[Run], told: Run, interrupted: Run, fault: str | None
) -> None:
    found = receiver_faults(runs, told, 6, interrupted)
    assert found == [] if fault is None else any(fault in one for one in found), found


@pytest.mark.parametrize(
    ("recorded", "told", "fault"),
    [
        (((1, 1), (1, 2), (3, 1), (3, 2)), {1: 1}, None),
        (((1, 1), (1, 3), (3, 1), (3, 2)), {}, "3 comes right after 1"),
        (((1, 2), (3, 1), (3, 2)), {}, "2 comes right after 0"),
        (((1, 1), (1, 1), (3, 1), (3, 2)), {}, "1 comes right after 1"),
        (((1, 1), (2, 1), (1, 2), (3, 1), (3, 2)), {}, "2 of run 1 comes after run 2 has begun"),
        (((1, 1), (3, 1), (3, 2)), {1: 2}, "told that 2 was taken; the last recorded is 1"),
        (((3, 1), (3, 2)), {2: 1}, "told that 1 was taken; the last recorded is 0"),
        (((1, 1), (3, 1)), {}, "ends with 1 of 2"),
        (((1, 1),), {}, "ends with 0 of 2"),
        (((1, 1), (1, 2), (1, 3), (1, 4), (3, 1), (3, 2)), {}, "4 was never sent"),
        (((3, 1), (3, 2), (4, 1)), {}, "there was no run 4"),
    ],
)
def test_what_counts_as_a_fault_when_the_sender_is_killed(
    recorded: Sequence[tuple[int, int]], told: dict[int, int], fault: str | None
) -> None:
    found = sender_faults(recorded, told, {1: 3, 2: 2, 3: 2}, 3)
    assert found == [] if fault is None else any(fault in one for one in found), found


def test_a_journal_holds_whole_notes_in_order(tmp_path: Path) -> None:
    """Two writers, as two programs are; no note lies across a page, where a kill could cut it."""
    path = tmp_path / "journal"
    one, two = Journal(path, 1), Journal(path, 2)
    one.write(Kind.MESSAGE, 3, 4)
    two.write(Kind.TOLD, 5, 6)
    one.close()
    two.close()
    notes = Journal.read(path)
    assert [note[:4] for note in notes] == [(Kind.MESSAGE, 1, 3, 4), (Kind.TOLD, 2, 5, 6)]
    assert 0 < notes[0].at <= notes[1].at
    assert 4096 % Journal.FORM.size == 0
