"""Delivery and Inbox."""

from __future__ import annotations

import copy
import gc
import pickle
import select
import threading
import weakref
from collections.abc import Callable

import pytest

from srmudp.models import Message
from srmudp.sockets.delivery import Delivery, Inbox

from .fakes import arrived


def letter(content: bytes) -> tuple[Message, object]:
    return Message(content, "bob", 0.0), arrived(content)


def started(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_a_delivery_without_recipients_is_over() -> None:
    delivery = Delivery(["carol"])
    assert delivery.wait(0)
    assert delivery.left_out == ("carol",)
    assert repr(delivery) == "<Delivery left_out=['carol']>"


def test_who_took_it_and_who_did_not() -> None:
    delivery = Delivery()
    for name in ("a", "b", "c"):
        delivery.expect(name)
    assert delivery.pending == {"a", "b", "c"}
    assert not delivery.wait(0)
    delivery.settle("a", None)
    delivery.settle("b", "no")
    assert delivery.pending == {"c"}
    assert delivery.delivered == {"a"}
    assert delivery.failed == {"b": "no"}
    assert repr(delivery) == "<Delivery pending=['c'] delivered=['a'] failed={'b': 'no'}>"
    delivery.settle("c", None)
    assert not delivery.wait(), "one failed"


def test_later_word_on_a_name_is_ignored() -> None:
    delivery = Delivery()
    delivery.expect("a")
    delivery.settle("a", None)
    delivery.settle("a", "no")
    assert delivery.wait(0)
    assert delivery.failed == {}


def test_failed_is_a_copy() -> None:
    delivery = Delivery()
    delivery.settle("a", "no")
    delivery.failed.clear()
    assert delivery.failed == {"a": "no"}


def test_several_threads_wait_and_are_woken() -> None:
    delivery = Delivery()
    delivery.expect("a")
    results: list[bool] = []
    threads = [started(lambda: results.append(delivery.wait(10))) for _ in range(5)]
    delivery.settle("a", None)
    for thread in threads:
        thread.join(5)
    assert results == [True] * 5
    assert delivery._waiting == []


def test_a_held_delivery_is_not_over() -> None:
    delivery = Delivery()
    delivery.hold(True)
    assert not delivery.wait(0)
    thread = started(delivery.wait)
    delivery.hold(False)
    thread.join(5)
    assert not thread.is_alive()
    assert delivery.wait(0)


def test_a_delivery_is_not_copied() -> None:
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be copied"):
            attempt(Delivery())


def test_an_inbox_keeps_order_and_polls() -> None:
    inbox = Inbox()
    assert inbox.get(0) is None
    for content in (b"1", b"2"):
        inbox.put(letter(content))  # type: ignore[arg-type]
    assert [inbox.get(0)[0].content for _ in "ab"] == [b"1", b"2"]  # type: ignore[index]


def test_closing_wakes_every_reader_at_once() -> None:
    inbox = Inbox()
    results: list[object] = []
    threads = [started(lambda: results.append(inbox.get(None))) for _ in range(3)]
    inbox.close()
    for thread in threads:
        thread.join(5)
    assert results == [None] * 3
    inbox.put(letter(b"late"))  # type: ignore[arg-type]
    assert inbox.get(None) is None


def test_drain_leaves_the_end_mark() -> None:
    inbox = Inbox()
    inbox.put(letter(b"1"))  # type: ignore[arg-type]
    assert [m.content for m, _ in inbox.drain()] == [b"1"]
    inbox.close()
    assert inbox.drain() == []
    assert inbox.get(None) is None


def readable(inbox: Inbox) -> bool:
    return bool(select.select([inbox.fileno()], [], [], 0)[0])


def test_the_descriptor_is_readable_exactly_while_get_returns_at_once() -> None:
    inbox = Inbox()
    inbox.put(letter(b"before it was asked for"))  # type: ignore[arg-type]
    assert readable(inbox)
    inbox.put(letter(b"2"))  # type: ignore[arg-type]
    inbox.get(0)
    inbox.refresh()
    assert readable(inbox)
    inbox.get(0)
    inbox.refresh()
    assert not readable(inbox)
    inbox.close()
    assert readable(inbox)
    inbox.release()


def test_an_ignored_delivery_is_freed() -> None:
    class Watched(Delivery):
        __slots__ = ("__weakref__",)

    delivery = Watched()
    delivery.expect("a")
    gone = weakref.ref(delivery)
    del delivery
    gc.collect()
    assert gone() is None


def test_a_letter_put_back_is_the_next_to_be_got() -> None:
    inbox = Inbox()
    first, second = letter(b"first"), letter(b"second")
    inbox.put(first)
    inbox.put(second)
    got = inbox.get(0)
    assert got is first
    inbox.put_back(first)
    assert inbox.get(0) is first
    assert inbox.get(0) is second
    assert inbox.get(0) is None
    inbox.put_back(second)
    assert inbox.drain() == [second]
