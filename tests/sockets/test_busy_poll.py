"""Waiting awake or asleep: when it pays, in a thread and in an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from math import inf

import pytest

from srmudp.models import Address
from srmudp.sockets import busy_poll, reading
from srmudp.sockets.aio import driver as aio_driver
from srmudp.sockets.busy_poll import AWAKE, EARNED, NEAR, BusyPoll, processors
from srmudp.sockets.waiting import Poller
from tests.loops import BOB, in_loop, new_rig, turns

from .conftest import Rig

STRANGER = Address("192.0.2.66", 6)


# --- when ---


def quickly(busy: BusyPoll, count: int, source: object = "bob") -> int:
    """``count`` messages are waited for, and each comes soon. Returns how many of them were awaited awake."""
    awake = 0
    for _ in range(count):
        awake += busy.time_left(0.0) > 0
        busy.on_waited(source, AWAKE / 2)
    return awake


@pytest.fixture
def busy() -> BusyPoll:
    return BusyPoll(2)


def test_in_a_quick_conversation_one_stays_awake(busy: BusyPoll) -> None:
    assert quickly(busy, 1 + EARNED) == 0, "the first comes from elsewhere than the one before"
    assert quickly(busy, 100) == 100


def test_one_does_so_once_for_each_message(busy: BusyPoll) -> None:
    """Though something else may come, of which no message comes."""
    quickly(busy, 2 * EARNED)
    assert busy.time_left(0.0) == AWAKE
    assert busy.time_left(AWAKE / 4) == AWAKE * 3 / 4
    assert busy.time_left(AWAKE) <= 0
    assert busy.time_left(1.0) <= 0


@pytest.mark.parametrize("waited", [NEAR, 1.0, inf])
def test_who_waits_in_vain_goes_to_sleep(busy: BusyPoll, waited: float) -> None:
    quickly(busy, 1000)
    awake = 0
    for _ in range(1000):
        awake += busy.time_left(0.0) > 0
        busy.on_waited(None if waited == inf else "bob", waited)
    assert awake <= 4
    assert quickly(busy, EARNED) == 0, "it is to be earned anew"
    assert quickly(busy, 10) >= 9


@pytest.mark.parametrize("off", [0, 1, 5])
def test_two_who_are_late_because_both_sleep_find_out(off: int) -> None:
    """To wake two processors takes 1 ms here: nobody would ever come in time."""
    ends = BusyPoll(2), BusyPoll(2)
    for _ in range(off):  # one of them has waited for more messages before
        ends[0].on_waited("the other", 0.0011)
    awake = 0
    for number in range(300):
        both = sum(end.time_left(0.0) > 0 for end in ends)
        awake += both == 2 and number >= 200
        for end in ends:
            end.on_waited("the other", 0.0013 - both * 0.0005)
    assert awake == 100


def test_a_robots_messages_are_awaited_asleep(busy: BusyPoll) -> None:
    """A thousand a second: now and then it is tried whether they come sooner if awaited awake, more and more seldom."""
    counts = []
    for _ in range(5):
        awake = 0
        for number in range(2000):
            awake += busy.time_left(0.0) > 0
            busy.on_waited("bob", 0.0017 if number % 20 == 0 else 0.0009)
        counts.append(awake)
    assert counts[0] < 200
    assert max(counts[1:]) <= 2000 * 0.03


@pytest.mark.parametrize("other", ["carol", None])
def test_a_trial_is_of_one_peer(busy: BusyPoll, other: str | None) -> None:
    busy.on_waited("bob", NEAR)
    for _ in range(EARNED):
        busy.on_waited("bob", AWAKE)
    assert busy.time_left(0.0) == AWAKE
    busy.on_waited(other, AWAKE)
    assert busy.time_left(0.0) <= 0


def test_one_message_in_ten_may_be_late(busy: BusyPoll) -> None:
    quickly(busy, 100)
    for _ in range(100):
        assert quickly(busy, 9) == 9
        busy.on_waited("bob", 1.0)


def test_of_many_peers_none_is_waited_for_awake(busy: BusyPoll) -> None:
    """Each speaks now and then, however often they do together."""
    assert sum(quickly(busy, 1, number % 5) for number in range(1000)) == 0


def test_on_one_processor_one_sleeps() -> None:
    assert quickly(BusyPoll(1), 100) == 0


def test_where_others_want_the_processor_one_seldom_is_in_their_way(busy: BusyPoll) -> None:
    quickly(busy, 1000)
    awake = 0
    for _ in range(1000):
        if busy.time_left(0.0) > 0:
            awake += 1
            busy.on_held_up()
        busy.on_waited("bob", AWAKE / 2)
    assert awake < 270, "one of four, and what was earned before"
    assert quickly(busy, 100) > 90


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cannot be told which processors to use")
def test_processors_are_those_this_process_may_use() -> None:
    usable = os.sched_getaffinity(0)
    assert processors() == len(usable)
    try:
        os.sched_setaffinity(0, {min(usable)})
        assert processors() == 1
    finally:
        os.sched_setaffinity(0, usable)


# --- a thread ---


def read(rig: Rig, timeout: float) -> object:
    """The next message. As ``receive()`` does it, but when the time is over it does not have others read."""
    return rig.engine.driver.read_until(rig.engine._look, time.monotonic() + timeout)


@pytest.fixture
def reader(make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A rig whose receiver thread leaves all reading to this one."""
    monkeypatch.setattr(reading, "GRACE", 1000.0)
    rig = make_rig().start()
    assert read(rig, 0.001) is None
    return rig


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, float]]:
    """Whom each wait ended with, and how long it was."""
    noted: list[tuple[object, float]] = []
    monkeypatch.setattr(BusyPoll, "on_waited", lambda busy, source, waited: noted.append((source, waited)))
    return noted


def test_only_messages_say_how_a_thread_waits_for_the_next(reader: Rig, waits: list[tuple[object, float]]) -> None:
    """Not what else comes, which anybody can send."""
    reader.transport.arrive(b"junk", source=STRANGER)
    assert read(reader, 0.01) is None
    began = time.monotonic()
    reader.transport.arrive(b"M1:x", source=BOB)
    assert read(reader, 5.0)
    assert [source for source, _ in waits] == [None, BOB]
    assert 0 <= waits[1][1] <= time.monotonic() - began


def test_a_thread_in_a_quick_conversation(reader: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(busy_poll, "AWAKE", 1000.0)  # whatever this machine takes
    monkeypatch.setattr(reader.engine.driver._busy_poll, "_processors", 2)
    awake: list[float] = []

    def stay_awake(poller: Poller, seconds: float, on_held_up: Callable[[], None]) -> bool:
        awake.append(seconds)
        return len(awake) % 2 == 0  # when it saw something, and when it did not

    monkeypatch.setattr(Poller, "stay_awake", stay_awake)
    for number in range(100):
        reader.transport.arrive(b"M%d:x" % number, source=BOB)
        assert read(reader, 5.0)
    assert len(awake) == 100 - EARNED - 1
    assert max(awake) <= 5.0, "no longer than one waits"


# --- an event loop ---


@in_loop
async def test_only_messages_say_how_a_loop_waits_for_the_next(waits: list[tuple[object, float]]) -> None:
    async with new_rig() as rig:
        rig.transport.arrive(b"junk", source=STRANGER)
        assert await rig.engine.receive(0.01) is None
        rig.transport.arrive(b"M1:x", source=BOB)
        assert await rig.engine.receive(5.0)
        task = asyncio.create_task(rig.engine.receive(5.0))
        await turns()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert [source for source, _ in waits] == [None, "bob", None], "who gives up waiting has waited in vain"


def always_awake(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Returns what tells how often the loop turned for nothing else."""
    turned: list[float] = []
    turn = aio_driver.Driver._turn

    def count(driver: aio_driver.Driver) -> None:
        turned.append(0)
        turn(driver)

    monkeypatch.setattr(BusyPoll, "time_left", lambda busy, waited: 1000.0)
    monkeypatch.setattr(aio_driver.Driver, "_turn", count)
    return lambda: len(turned)


@in_loop
async def test_a_loop_in_a_quick_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    turned = always_awake(monkeypatch)
    monkeypatch.setattr(aio_driver, "_HELD_UP", 1000.0)
    async with new_rig() as rig:
        await turns()
        assert turned() == 0, "nobody waits"
        task = asyncio.create_task(rig.engine.receive(5.0))
        await turns(50)
        assert 45 <= turned() <= 50, "once in each turn, and others have theirs"
        other = asyncio.create_task(rig.engine.receive(5.0))
        before = turned()
        await turns(50)
        assert turned() - before <= 50, "however many wait"
        rig.transport.arrive(b"M1:x", b"M2:x", source=BOB)
        assert await task
        assert await other
        before = turned()
        await turns(50)
        assert turned() - before <= 1, "nobody waits any more"


@in_loop
async def test_a_loop_that_is_held_up_goes_to_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    turned = always_awake(monkeypatch)
    monkeypatch.setattr(aio_driver, "_HELD_UP", -1.0)
    async with new_rig() as rig:
        held_up: list[float] = []
        monkeypatch.setattr(BusyPoll, "on_held_up", lambda busy: held_up.append(0))
        task = asyncio.create_task(rig.engine.receive(5.0))
        await turns(50)
        assert turned() == len(held_up) == 1
        rig.transport.arrive(b"M1:x", source=BOB)
        assert await task


@in_loop
async def test_a_socket_that_is_closed_lets_its_loop_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    turned = always_awake(monkeypatch)
    monkeypatch.setattr(aio_driver, "_HELD_UP", 1000.0)
    async with new_rig() as rig:
        task = asyncio.create_task(rig.engine.receive(5.0))
        await turns(10)
        rig.engine.release()
        assert await task is None
        before = turned()
        await turns(50)
        assert turned() - before <= 1
