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
