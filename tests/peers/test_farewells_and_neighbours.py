"""What a goodbye carries, and whose messages are whose among peers that share an IP address."""

from __future__ import annotations

import pytest

from srmudp.models import Trust
from srmudp.protocol.events import MessageArrived
from tests.endpoints import add, arrived, connect, make_node, name_of, send, settled, status
from tests.simnet import Link, SimNet


def test_what_was_taken_just_before_the_goodbye_counts_as_delivered() -> None:
    """The usual end of a short program: receive an answer, leave the ``with`` block."""
    net = SimNet(seed=1, link=Link(latency=0.01))
    a = make_node(net, "a", "10.0.0.1")
    b = make_node(net, "b", "10.0.0.2", on_event=None)
    connect(net, a, b)
    tokens = [send(a, b, b"one"), send(a, b, b"two", channel=63), send(a, b, b"three", channel=63)]
    assert net.run_until(lambda: len(arrived(b)) == 3, 5)
    for event in b.of(MessageArrived)[:2]:
        b.do(b.node.message_taken, event)
    b.do(b.node.close)
    net.run(1.0)
    assert [(end := settled(a, token)) is not None and end.failure is None for token in tokens] == [True, True, False]
    assert status(a, b).failure == "its program ended"


def test_a_neighbour_that_was_just_removed_still_gets_its_own_messages() -> None:
    """Two peers at one IP address; one was removed before it ever came, with a message still on its way to it."""
    net = SimNet(seed=2, link=Link(latency=0.01))
    a = make_node(net, "a", "10.0.0.1")
    b = make_node(net, "b", "10.0.0.2", port=5001)
    c = make_node(net, "b", "10.0.0.2", port=5002, seed="c")
    a.do(a.node.add_peer, "b", [b.address], None)
    a.do(a.node.add_peer, "c", [c.address], None)
    for name in ("b", "c"):
        send(a, name, f"for {name}".encode())
    a.do(a.node.remove_peer, "b")
    for sim in (b, c):
        net.run(0.5)
        add(sim, a)
    assert net.run_until(lambda: bool(arrived(b) and arrived(c)), 20)
    assert (arrived(b), arrived(c)) == ([b"for b"], [b"for c"])
    assert status(a, "c").peer_id == c.node.peer_id
    assert name_of(a) in b.node.statuses(net.now)


def test_a_key_from_the_exact_address_of_one_peer_is_not_taken_for_its_neighbour() -> None:
    """b's program comes back with a new key; c, behind the same router, has not come yet."""
    net = SimNet(seed=3, link=Link(latency=0.01))
    a = make_node(net, "a", "10.0.0.1")
    b = make_node(net, "b", "10.0.0.2", port=5001)
    connect(net, a, b)
    a.do(a.node.add_peer, "c", [b.address._replace(port=5002)], None)
    send(a, "c", b"for c only")
    b.do(b.node.close)
    net.run(0.1)
    b.detach()
    again = make_node(net, "b", "10.0.0.2", port=5001, seed="new key")
    add(again, a)
    assert net.run_until(lambda: status(a, "b").peer_id == again.node.peer_id, 30)
    assert status(a, "c").peer_id is None
    assert arrived(again) == []


def test_a_knock_that_may_come_from_either_of_two_neighbours_is_nobodys() -> None:
    """One of them is known and away, the other has not come yet: by the IP address alone both could be meant."""
    net = SimNet(seed=4, link=Link(latency=0.01))
    a = make_node(net, "a", "10.0.0.1")
    b = make_node(net, "b", "10.0.0.2", port=5001)
    connect(net, a, b)
    a.do(a.node.add_peer, "c", [b.address._replace(port=5002)], None)
    b.do(b.node.close)
    net.run(0.1)
    b.detach()
    elsewhere = make_node(net, "b", "10.0.0.2", port=5003, seed="new key")
    add(elsewhere, a)
    net.run(10)
    assert status(a, "c").trust is Trust.NONE
    assert status(a, "c").peer_id is None


@pytest.mark.parametrize("seed", range(6))
def test_a_goodbye_before_the_handshake_is_quite_over_is_heard(seed: int) -> None:
    """b says goodbye at the very moment at which a takes the connection for established."""
    net = SimNet(seed=seed, link=Link(latency=0.01))
    a = make_node(net, "a", "10.0.0.1")
    b = make_node(net, "b", "10.0.0.2")
    first, second = (a, b) if seed % 2 else (b, a)
    add(first, second)
    net.run(0.001 * seed)
    add(second, first)
    assert net.run_until(lambda: status(a, b).established, 5)
    b.do(b.node.close)
    net.run(1.0)
    assert status(a, b).failure == "its program ended"
