"""One endpoint and its peers over a simulated network: who is added and removed, what is queued, how it ends."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from srmudp.config import Config
from srmudp.exceptions import IdentityError, MessageTooBig, UnknownPeer
from srmudp.models import Address, EventKind, PeerEvent, PeerId, PeerState, Trust
from srmudp.peers.endpoint import AcceptPolicy
from srmudp.protocol.events import Failure, MessageArrived, MessageSettled, RoomFreed
from srmudp.wire.packet import PUNCH
from tests.endpoints import (
    LINK,
    Recorder,
    add,
    alive,
    arrived,
    connect,
    events,
    identity,
    kinds,
    make_node,
    pair,
    peer_of,
    send,
    settled,
    status,
    transfer,
    until,
)
from tests.simnet import Link, SimNet

# --- adding and removing ---


def test_connecting_is_told_once_at_each_end() -> None:
    net, a, b = pair()
    net.run(30)
    assert kinds(a) == kinds(b) == [EventKind.CONNECTED]
    event = events(a)[0]
    assert (event.peer, event.peer_id, event.address) == ("b", b.node.peer_id, b.address)
    assert status(a, b).trust is Trust.FIRST_USE
    assert status(a, b).failure is None


def test_a_peer_may_be_added_before_its_address_is_known() -> None:
    net = SimNet(2, link=LINK)
    a, b = make_node(net, "a", "10.0.0.1"), make_node(net, "b", "10.0.0.2")
    a.do(a.node.add_peer, "b", [], None)
    add(b, a)
    net.run(1)
    assert status(a, b).state is PeerState.CONNECTING
    a.do(a.node.set_addresses, "b", [b.address])
    until(net, lambda: status(a, b).established, 2)


def test_resolving_names_of_a_peer_that_is_gone_is_ignored() -> None:
    net = SimNet(2, link=LINK)
    a = make_node(net, "a", "10.0.0.1")
    a.do(a.node.set_addresses, "b", [Address("10.0.0.2", 5000)])
    assert a.node.statuses(net.now) == {}


def test_messages_queued_before_connecting_arrive_in_order() -> None:
    net = SimNet(3, link=LINK)
    a, b = make_node(net, "a", "10.0.0.1"), make_node(net, "b", "10.0.0.2")
    add(a, b)
    contents = [b"%d" % number for number in range(50)]
    tokens = [send(a, b, content) for content in contents]
    net.run(3)
    add(b, a)
    until(net, lambda: all(settled(a, token) for token in tokens))
    assert arrived(b) == contents


def test_adding_a_peer_again_adds_addresses() -> None:
    net = SimNet(4, link=LINK)
    a, b = make_node(net, "a", "10.0.0.1"), make_node(net, "b", "10.0.0.2")
    a.do(a.node.add_peer, "b", [Address("10.0.0.99", 1)], None)
    add(b, a)
    net.run(0.5)
    add(a, b)
    until(net, lambda: status(a, b).established, 5)
    assert peer_of(a, b).addresses == [Address("10.0.0.99", 1), b.address]
    assert list(a.node.statuses(net.now)) == ["b"]


def test_a_name_stands_for_one_key() -> None:
    net, a, b = pair(5)
    other = identity("other").peer_id
    with pytest.raises(ValueError, match="remove_peer"):
        a.node.add_peer("b", [], other, net.now)
    a.node.add_peer("b", [], b.node.peer_id, net.now)
    assert status(a, b).trust is Trust.PINNED


def test_our_own_key_and_impossible_keys_are_refused() -> None:
    net = SimNet(6, link=LINK)
    a = make_node(net, "a", "10.0.0.1")
    with pytest.raises(ValueError, match="own"):
        a.node.add_peer("me", [], a.node.peer_id, net.now)
    with pytest.raises(IdentityError):
        a.node.add_peer("zero", [], PeerId(bytes(32)), net.now)
    assert a.node.statuses(net.now) == {}


def test_a_failed_add_changes_nothing() -> None:
    net, a, b = pair(7)
    net.add_host("c", "10.0.0.3")
    a.do(a.node.add_peer, "c", [Address("10.0.0.3", 1)], identity("c").peer_id)
    before = {name: (peer.peer_id, peer.trust, peer.state) for name, peer in a.node.statuses(net.now).items()}
    addresses = list(peer_of(a, "c").addresses)
    with pytest.raises(ValueError, match="remove"):
        a.node.add_peer("c", [Address("10.0.0.4", 1)], b.node.peer_id, net.now)
    after = {name: (peer.peer_id, peer.trust, peer.state) for name, peer in a.node.statuses(net.now).items()}
    assert before == after
    assert peer_of(a, "c").addresses == addresses


def test_too_many_peers() -> None:
    net = SimNet(8, link=LINK)
    a = make_node(net, "a", "10.0.0.1", config=Config(max_peers=3))
    for number in range(3):
        a.node.add_peer(f"peer {number}", [], None, net.now)
    with pytest.raises(ValueError, match="max_peers"):
        a.node.add_peer("one more", [], None, net.now)
    a.node.remove_peer("peer 1", net.now)
    a.node.add_peer("one more", [], None, net.now)


def test_unknown_names() -> None:
    net = SimNet(9, link=LINK)
    a = make_node(net, "a", "10.0.0.1")
    now = net.now
    calls: tuple[Callable[[], object], ...] = (
        lambda: a.node.remove_peer("x", now),
        lambda: a.node.trust("x", None, now),
        lambda: a.node.forget("x", now),
        lambda: a.node.has_room("x", 1),
        lambda: a.node.send_message("x", b"", channel=0, reliable=True, ttl=None, now=now),
    )
    for call in calls:
        with pytest.raises(UnknownPeer):
            call()


def test_remove_tells_the_other_side_which_goes_passive_and_fails_its_queue() -> None:
    net, a, b = pair(10)
    net.partition("b", "a", both=False)  # b's messages do not get through, a's goodbye does
    tokens = [send(b, a, b"never read"), send(b, a, b"nor this", channel=9)]
    a.do(a.node.remove_peer, "b")
    net.run(1)
    assert a.node.statuses(net.now) == {}
    assert kinds(a)[-1] is EventKind.REMOVED
    assert status(b, a).state is PeerState.PASSIVE
    assert kinds(b) == [EventKind.CONNECTED, EventKind.LOST]
    for token in tokens:
        end = settled(b, token)
        assert end is not None
        assert end.failure is Failure.REMOVED_US
    late = settled(b, send(b, a, b"into the void"))
    assert late is not None
    assert late.failure is Failure.REMOVED_US
    assert b.node.pending == 0
    assert b.node.everyone(net.now) == []
    record = Recorder(net)
    net.run(120)
    assert record.of(PUNCH) == [], "neither punches any more"


def test_what_was_queued_is_delivered_after_the_removal() -> None:
    """remove_peer frees the name at once; 500 kB at 1 MB/s are still brought home, then comes the goodbye."""
    net, a, b = pair(11, Link(latency=0.02, rate=1e6, queue_bytes=100_000))
    content = random.Random(1).randbytes(500_000)
    token = send(a, b, content)
    last = send(a, b, b"last words", channel=1)
    a.do(a.node.remove_peer, "b")
    assert "b" not in a.node.statuses(net.now)
    assert a.node.pending == 2
    until(net, lambda: settled(a, token) is not None and settled(a, last) is not None)
    for each in (token, last):
        end = settled(a, each)
        assert end is not None
        assert end.failure is None
    assert arrived(b, channel=0) == [content]
    net.run(0.5)
    assert status(b, a).state is PeerState.PASSIVE
    assert a.node.pending == 0
    assert len(a.node._registry) == 0


def test_a_removed_peer_that_cannot_be_reached_is_given_up_after_the_timeout() -> None:
    net = SimNet(12, link=LINK)
    a = make_node(net, "a", "10.0.0.1")
    a.do(a.node.add_peer, "b", [Address("10.0.0.2", 5000)], None)
    token = send(a, "b", b"nobody there")
    a.do(a.node.remove_peer, "b")
    net.run(20.9)
    assert settled(a, token) is None
    net.run(0.2)
    end = settled(a, token)
    assert end is not None
    assert end.failure is Failure.REMOVED
    assert a.node.next_timer() is None


def test_what_comes_for_a_removed_peer_is_not_handed_out() -> None:
    net, a, b = pair(13, Link(latency=0.02, rate=1e6, queue_bytes=100_000))
    send(a, b, bytes(500_000))
    a.do(a.node.remove_peer, "b")
    send(b, a, b"are you there?")
    net.run(0.3)
    assert arrived(a) == []


def test_adding_again_while_it_lingers_goes_on_with_the_connection() -> None:
    net, a, b = pair(14, Link(latency=0.02, rate=1e6, queue_bytes=100_000))
    content = random.Random(2).randbytes(300_000)
    first = send(a, b, content)
    net.run(0.1)
    a.do(a.node.remove_peer, "b")
    net.run(0.1)
    add(a, b)
    second = send(a, b, b"after all")
    until(net, lambda: settled(a, second) is not None)
    for token in (first, second):
        end = settled(a, token)
        assert end is not None
        assert end.failure is None
    assert arrived(b) == [content, b"after all"]
    net.run(30)
    assert status(a, b).established
    assert status(b, a).established
    transfer(net, b, a, b"and back")


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("same_address", [True, False])
def test_adding_again_while_it_lingers_by_key_or_by_address(pinned: bool, same_address: bool) -> None:
    """Whatever finds it, there is one peer in the end and nothing is lost or doubled."""
    net, a, b = pair(15, Link(latency=0.02, rate=1e6, queue_bytes=100_000))
    first = send(a, b, bytes(300_000))
    net.run(0.1)
    a.do(a.node.remove_peer, "b")
    net.run(0.05)
    addresses = [b.address] if same_address else [Address("10.0.0.77", 7), b.address]
    a.do(a.node.add_peer, "bob", addresses, b.node.peer_id if pinned else None)
    second = send(a, "bob", b"after all")
    until(net, lambda: settled(a, second) is not None and settled(a, first) is not None, 30)
    for token in (first, second):
        end = settled(a, token)
        assert end is not None
        assert end.failure is None
    assert arrived(b) == [bytes(300_000), b"after all"]
    until(net, lambda: status(a, "bob").established, 30)
    assert len(a.node._registry) == 1


def test_adding_again_after_the_goodbye_connects_anew() -> None:
    net, a, b = pair(16)
    a.do(a.node.remove_peer, "b")
    net.run(1)
    assert status(b, a).state is PeerState.PASSIVE
    add(a, b)
    until(net, lambda: status(a, b).established and status(b, a).established, 5)
    assert kinds(b)[-1] is EventKind.RECONNECTED
    alive(net, a, b, size=10_000)


def test_a_passive_peer_connects_when_it_is_added_again() -> None:
    net, a, b = pair(17)
    a.do(a.node.remove_peer, "b")
    net.run(1)
    b.do(b.node.add_peer, "a", [a.address], None)
    assert status(b, a).state is PeerState.CONNECTING
    net.run(5)
    assert not status(b, a).established, "it is removed at the other end"
    assert status(b, a).state is PeerState.REFUSED
    add(a, b)
    until(net, lambda: status(b, a).established and status(a, b).established, 40)


def test_removing_both_at_once() -> None:
    net, a, b = pair(18)
    a.do(a.node.remove_peer, "b")
    b.do(b.node.remove_peer, "a")
    net.run(60)
    assert a.node.next_timer() is None
    assert b.node.next_timer() is None
    assert not a.node._sessions
    assert not b.node._sessions


def test_a_removed_key_is_refused_until_it_is_added_again() -> None:
    net = SimNet(19, link=LINK)
    a = make_node(net, "a", "10.0.0.1", accept=AcceptPolicy.EVERYBODY)
    b = make_node(net, "b", "10.0.0.2")
    connect(net, a, b)
    a.do(a.node.remove_peer, "b")
    net.run(1)
    b.do(b.node.add_peer, "a", [a.address], None)  # it insists
    net.run(5)
    assert status(b, a).state is PeerState.REFUSED
    assert a.node.statuses(net.now) == {}


def test_a_removed_stranger_is_refused_as_well() -> None:
    net = SimNet(20, link=LINK)
    a = make_node(net, "a", "10.0.0.1", accept=AcceptPolicy.EVERYBODY)
    b = make_node(net, "b", "10.0.0.2", claimed="bob")
    add(b, a)
    until(net, lambda: "bob" in a.node.statuses(net.now) and status(a, "bob").established)
    a.do(a.node.remove_peer, "bob")
    net.run(1)
    b.do(b.node.add_peer, "a", [a.address], None)  # it insists
    net.run(5)
    assert a.node.statuses(net.now) == {}
    assert status(b, a).state is PeerState.REFUSED


# --- everyone, pending, room, sizes ---


def test_everyone_is_the_connected_and_those_whose_connecting_began_lately() -> None:
    net, a, b = pair(60)
    a.do(a.node.add_peer, "c", [Address("10.0.0.3", 5000)], None)
    assert sorted(a.node.everyone(net.now)) == ["b", "c"]
    net.run(20.9)
    assert sorted(a.node.everyone(net.now)) == ["b", "c"]
    net.run(0.2)
    assert a.node.everyone(net.now) == ["b"]
    b.detach()
    until(net, lambda: status(a, b).state is PeerState.LOST, 30)
    assert a.node.everyone(net.now) == ["b"], "reconnecting began just now"
    net.run(21.1)
    assert a.node.everyone(net.now) == []


def test_pending_counts_what_close_waits_for() -> None:
    net = SimNet(61, link=LINK)
    a, b = make_node(net, "a", "10.0.0.1"), make_node(net, "b", "10.0.0.2")
    add(a, b)
    send(a, b, b"1")
    send(a, b, b"2", channel=3)
    send(a, b, b"3", reliable=False)
    assert a.node.pending == 3
    add(b, a)
    until(net, lambda: a.node.pending == 0)
    assert len(a.of(MessageSettled)) == 3


def test_taken_not_arrived_is_what_settles() -> None:
    net = SimNet(62, link=LINK)
    a = make_node(net, "a", "10.0.0.1")
    b = make_node(net, "b", "10.0.0.2", on_event=None)
    connect(net, a, b)
    token = send(a, b, b"look at me")
    net.run(5)
    assert settled(a, token) is None
    assert a.node.pending == 1
    assert status(a, b).queued == 10
    b.do(b.node.message_taken, b.of(MessageArrived)[0])
    net.run(0.1)
    end = settled(a, token)
    assert end is not None
    assert end.failure is None
    assert status(a, b).queued == 0


@pytest.mark.parametrize("asked", ["first", "with the message"])
def test_room_and_the_news_of_it(asked: str) -> None:
    net = SimNet(63, link=LINK)
    config = Config(send_queue=10_000)
    a, b = make_node(net, "a", "10.0.0.1", config=config), make_node(net, "b", "10.0.0.2")
    add(a, b)
    assert a.node.has_room("b", 1_000_000), "one message always fits an empty queue"
    send(a, b, bytes(4000), channel=0)
    send(a, b, bytes(6000), channel=0)
    if asked == "first":
        assert not a.node.has_room("b", 9000)
    else:
        message = {"channel": 0, "reliable": True, "ttl": None, "if_room": True}
        assert a.do(a.node.send_message, "b", bytes(9000), **message) is None
    assert a.node.pending == 2
    assert a.of(RoomFreed) == []
    add(b, a)
    until(net, lambda: a.of(RoomFreed))
    assert [event.peer for event in a.of(RoomFreed)] == ["b"]
    until(net, lambda: a.node.pending == 0)
    net.run(1)
    assert len(a.of(RoomFreed)) == 1, "once for each no"


@pytest.mark.parametrize("how", ["remove", "forget"])
def test_who_waits_for_room_is_woken_when_there_is_nothing_to_wait_for(how: str) -> None:
    net = SimNet(64, link=LINK)
    a = make_node(net, "a", "10.0.0.1", config=Config(send_queue=1000))
    a.do(a.node.add_peer, "b", [Address("10.0.0.2", 5000)], identity("b").peer_id)
    send(a, "b", bytes(1000))
    send(a, "b", bytes(1000))
    assert not a.node.has_room("b", 1)
    a.do(a.node.remove_peer if how == "remove" else a.node.forget, "b")
    net.run(22)
    assert [event.peer for event in a.of(RoomFreed)] == ["b"]
    assert len(a.of(MessageSettled)) == 2


def test_messages_that_are_too_big() -> None:
    net = SimNet(65, link=LINK)
    a = make_node(net, "a", "10.0.0.1")
    b = make_node(net, "b", "10.0.0.2", config=Config(max_message_size=1000))
    add(a, b)
    early = send(a, b, bytes(1001))
    fits = send(a, b, bytes(1000))
    with pytest.raises(MessageTooBig):
        send(a, b, bytes(Config().max_message_size + 1))
    with pytest.raises(MessageTooBig):
        send(a, b, bytes(Config().unreliable_queue + 1), reliable=False)
    add(b, a)
    until(net, lambda: settled(a, early) and settled(a, fits))
    end = settled(a, early)
    assert end is not None
    assert end.failure is Failure.TOO_BIG
    assert arrived(b) == [bytes(1000)]
    with pytest.raises(MessageTooBig, match="1000"):
        send(a, b, bytes(1001))
    with pytest.raises(ValueError, match="channel"):
        send(a, b, b"", channel=64)
    transfer(net, a, b, b"")


# --- the end ---


def test_close_says_goodbye_and_fails_what_is_queued() -> None:
    net = SimNet(100, link=LINK)
    a = make_node(net, "a", "10.0.0.1")
    b = make_node(net, "b", "10.0.0.2", on_event=None)
    connect(net, a, b)
    a.do(a.node.add_peer, "c", [Address("10.0.0.3", 5000)], None)
    tokens = [send(a, b, b"not taken"), send(a, "c", b"not sent")]
    net.run(1)
    a.do(a.node.close)
    a.do(a.node.close)
    for token in tokens:
        end = settled(a, token)
        assert end is not None
        assert end.failure is Failure.CLOSED
    assert a.node.pending == 0
    assert a.node.next_timer() is None
    record = Recorder(net)
    net.run(0.1)
    assert status(b, a).state is PeerState.LOST
    assert status(b, a).failure == "its program ended"
    net.run(60)
    assert record.of(source=a) == [], "a closed endpoint is silent"
    assert record.of(PUNCH, source=b), "closing is not removing: the other keeps looking for it"


def test_input_after_the_end_is_ignored() -> None:
    net, a, b = pair(101)
    a.do(a.node.close)
    seen = len(a.events)
    a.node.handle_batch(random.Random(1).randbytes(200), 200, b.address, net.now)
    a.node.handle_batch(b"", 0, b.address, net.now)
    a.node.handle_burst_end(net.now)
    a.node.handle_timer(net.now + 100)
    a.node.handle_interrupted(net.now + 100)
    assert a.node.next_job() is None
    assert a.node.poll_transmit(net.now + 100) is None
    assert len(a.events) == seen


def test_jobs_that_end_after_the_end_change_nothing() -> None:
    net = SimNet(102, link=LINK)
    a, b = make_node(net, "a", "10.0.0.1", job_delay=0.5), make_node(net, "b", "10.0.0.2")
    add(a, b)
    add(b, a)
    net.run(0.7)
    a.do(a.node.close)
    net.run(30)
    assert not a.node._sessions
    assert a.of(PeerEvent) == []


def test_a_closed_program_that_comes_back_reconnects() -> None:
    net, a, b = pair(103)
    b.do(b.node.close)
    net.run(1)
    b.detach()
    net.run(5)
    token = send(a, b, b"wait for me")
    b = make_node(net, "b", "10.0.0.2")
    add(b, a)
    until(net, lambda: settled(a, token) is not None)
    assert kinds(a) == [EventKind.CONNECTED, EventKind.LOST, EventKind.RECONNECTED]
