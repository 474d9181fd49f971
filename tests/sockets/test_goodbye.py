"""What was taken just before ``close()`` counts as delivered at the other end, which therefore need not wait."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from srmudp import Message, MultiHolepunchSocket

Pair = tuple[MultiHolepunchSocket, MultiHolepunchSocket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    with MultiHolepunchSocket(host="127.0.0.1") as a, MultiHolepunchSocket(host="127.0.0.1") as b:
        a.add_peer("b", ("127.0.0.1", b.port))
        b.add_peer("a", ("127.0.0.1", a.port))
        assert a.wait_connected("b", 10)
        yield a, b
        a.close(0)


def test_received_and_closed_at_once(pair: Pair) -> None:
    a, b = pair
    delivery = a.send(b"good night", recipient="b")
    assert b.receive(timeout=10)
    b.close()
    assert delivery.wait(5)


def test_closed_while_a_hook_has_the_message(pair: Pair) -> None:
    a, b = pair
    in_hook, go_on = threading.Event(), threading.Event()

    def hook(message: Message) -> None:
        in_hook.set()
        go_on.wait(10)

    b.register_message_hook(hook)
    delivery = a.send(b"good night", recipient="b")
    assert in_hook.wait(10)
    closer = threading.Thread(target=b.close)
    closer.start()
    while not b.is_closed:
        pass
    go_on.set()
    closer.join()
    assert delivery.wait(5)
