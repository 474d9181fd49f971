"""Batons, topics, descriptors to wake with."""

from __future__ import annotations

import select
import threading
from queue import Empty, SimpleQueue

import pytest

from srmudp.sockets import waiting
from srmudp.sockets.waiting import Baton, Poller, Topics, Wakeup, take


def test_a_wake_up_before_the_sleep_counts_once() -> None:
    baton = Baton()
    baton.wake()
    baton.wake()
    assert baton.sleep(0)
    assert not baton.sleep(0)
    assert not baton.sleep(-1)


@pytest.mark.parametrize("piece", [waiting._SLICE, 0.001])
def test_sleeping_until_woken(piece: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_SLICE", piece)
    for timeout in (None, 30.0):
        baton = Baton()
        threading.Timer(0.01, baton.wake).start()
        assert baton.sleep(timeout)
    assert not Baton().sleep(0.003)


@pytest.mark.parametrize("piece", [waiting._SLICE, 0.001])
def test_taking_from_a_queue(piece: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_SLICE", piece)
    queue: SimpleQueue[int] = SimpleQueue()
    for timeout in (0, 0.003):
        with pytest.raises(Empty):
            take(queue, timeout)
    for limit in (0, 5, None, float("inf")):
        queue.put(7)
        assert take(queue, limit) == 7
    threading.Timer(0.01, queue.put, (8,)).start()
    assert take(queue, None) == 8


def test_topics_wake_their_own_once() -> None:
    topics, a, b = Topics(), Baton(), Baton()
    topics.add(("x", "y"), a)
    topics.add(("y",), b)
    topics.wake("z")
    topics.wake("x")
    assert (a.sleep(0), b.sleep(0)) == (True, False)
    topics.wake("x")
    assert not a.sleep(0)
    topics.discard(("x", "y"), a)
    topics.wake("y")
    assert (a.sleep(0), b.sleep(0)) == (False, True)
    topics.add(("x",), a)
    topics.wake_all()
    assert a.sleep(0)
    assert not topics._waiting


def test_a_wakeup_is_a_descriptor() -> None:
    wakeup = Wakeup()

    def ready() -> bool:
        return bool(select.select([wakeup.fileno()], [], [], 0)[0])

    assert not ready()
    for _ in range(10_000):  # more than its buffer holds
        wakeup.set()
    assert ready()
    wakeup.clear()
    assert not ready()
    wakeup.clear()
    wakeup.close()
    wakeup.close()
    wakeup.set()
    assert wakeup.fileno() == -1


@pytest.mark.parametrize("portable", [False, True])
def test_polling(portable: bool) -> None:
    transport, wakeup = Wakeup(), Wakeup()
    poller = Poller(transport.fileno(), wakeup.fileno())
    if portable:
        poller._poll = None
    assert poller.wait(writing=False, timeout=0) == (False, False)
    assert poller.wait(writing=True, timeout=0) == (False, True)
    assert poller.wait(writing=False, timeout=0) == (False, False)
    transport.set()
    assert poller.wait(writing=False, timeout=None) == (False, False)
    wakeup.set()
    assert poller.wait(writing=True, timeout=None) == (True, True)
    transport.close()
    wakeup.close()


class Asked:
    """A ``select.poll`` that has nothing until it was asked so often; each time takes so long."""

    def __init__(self, takes: float, empty: int) -> None:
        self.now = 0.0
        self.takes, self.empty = takes, empty
        self.timeouts: list[float | None] = []

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        self.timeouts.append(timeout)
        self.now += self.takes
        self.empty -= 1
        return [] if self.empty >= 0 else [(7, select.POLLIN)]


@pytest.mark.parametrize(
    ("takes", "empty", "asked", "seen", "held_up"),
    [
        (2e-6, 1_000_000, 250, False, 0),  # until the time is over
        (2e-6, 9, 10, True, 0),
        (2e-6, 0, 1, True, 0),
        (0.0002, 1_000_000, 1, False, 1),  # somebody else had the processor
        (0.0002, 0, 1, True, 0),
    ],
)
def test_waiting_awake(
    monkeypatch: pytest.MonkeyPatch, takes: float, empty: int, asked: int, seen: bool, held_up: int
) -> None:
    poll = Asked(takes, empty)
    poller = Poller(7, 8)
    poller._poll, poller._watched = poll, select.POLLIN  # type: ignore[assignment]
    monkeypatch.setattr(waiting, "monotonic", lambda: poll.now)
    in_the_way: list[float] = []
    assert poller.stay_awake(0.0005, lambda: in_the_way.append(poll.now)) is seen
    assert len(in_the_way) == held_up
    assert abs(len(poll.timeouts) - asked) <= 1
    assert set(poll.timeouts) == {0}


def test_waiting_awake_ends_when_something_comes() -> None:
    transport, wakeup = Wakeup(), Wakeup()
    poller = Poller(transport.fileno(), wakeup.fileno())
    assert poller.until_readable(0) is False
    transport.set()
    assert poller.stay_awake(1000, pytest.fail)
    assert poller.until_readable(1000) is False
    transport.clear()
    wakeup.set()
    assert poller.stay_awake(1000, pytest.fail)
    assert poller.until_readable(1000) is True
    transport.close()
    wakeup.close()
