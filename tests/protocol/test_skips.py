"""Record numbers left out on purpose, and who is found out by them."""

from __future__ import annotations

import random

import pytest

from srmudp.exceptions import RemoteProtocolError
from srmudp.protocol.recovery import REMEMBERED_SKIPS, SKIP_WITHIN, Recovery, Skips
from srmudp.wire.frames import Ack
from tests.protocol.test_recovery import Sender


def test_without_randomness_nothing_is_left_out() -> None:
    skips = Skips(None)
    assert not any(skips.due() for _ in range(10_000))
    assert not skips.among(0, 1 << 61)


def test_every_distance_occurs_and_none_is_longer_than_said() -> None:
    skips = Skips(random.Random(1).randbytes)
    distances, last = set(), 0
    for number in range(1, 40_000):
        if skips.due():
            distances.add(number - last)
            last = number
    assert distances == set(range(1, SKIP_WITHIN + 1))


def test_what_is_remembered_is_bounded_and_longer_than_records_live() -> None:
    skips = Skips(random.Random(2).randbytes)
    for number in range(5 * REMEMBERED_SKIPS):
        skips.add(10 * number)
    assert len(skips._numbers) <= REMEMBERED_SKIPS
    newest = 10 * (5 * REMEMBERED_SKIPS - 1)
    assert skips.among(newest, newest)
    assert skips.among(newest - 5, newest + 5)
    assert not skips.among(newest - 9, newest - 1)
    assert not skips.among(newest + 1, newest + 1000)
    assert skips.among(newest - 10 * (REMEMBERED_SKIPS // 2 - 1), newest - 10 * (REMEMBERED_SKIPS // 2 - 1))


@pytest.mark.parametrize("ranges", [((3, 3),), ((0, 5),), ((5, 5), (2, 3)), ((3, 5), (0, 1))])
def test_attack_15_naming_a_number_left_out(ranges: tuple[tuple[int, int], ...]) -> None:
    """Attack 15: alone, within a range or at the end of one: an error, before anything of it counts as delivered."""
    sender = Sender()
    records = [sender.send(0.0) for _ in range(6)]
    sender.recovery.skips.add(3)
    with pytest.raises(RemoteProtocolError, match="never sent"):
        sender.recovery.on_ack(Ack(0, ranges), sender.number, sender.transmission, 0.1)
    honest = Sender()
    for _ in records:
        honest.send(0.0)
    honest.recovery.skips.add(3)
    honest.recovery.on_ack(Ack(0, ((4, 5), (0, 2)), ((0, 5),)), honest.number, honest.transmission, 0.1)
    assert list(honest.recovery.records) == [3]
    assert type(honest.recovery) is Recovery
