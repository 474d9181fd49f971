"""Names of peers: aliases, keys that are trusted and forgotten, strangers and what they call themselves."""

from __future__ import annotations

import pytest

from srmudp.config import Config
from srmudp.models import Address, EventKind, PeerState, Trust
from srmudp.peers.endpoint import AcceptPolicy
from srmudp.protocol.events import Failure, MessageSettled, RoomFreed
from srmudp.wire.packet import PUNCH
from tests.endpoints import (
    LINK,
    Recorder,
    add,
    alive,
    arrived,
    drops,
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

# --- names ---


def test_a_second_name_of_one_key_is_an_alias() -> None:
    net, a, b = pair(21)
    a.do(a.node.add_peer, "bob", [b.address], b.node.peer_id)
    assert set(a.node.statuses(net.now)) == {"b", "bob"}
    assert a.node.statuses(net.now)["bob"].established
    assert a.node.everyone(net.now) == ["b"], "one peer gets one copy"
    first, second = send(a, b, b"one"), send(a, "bob", b"two")
    until(net, lambda: settled(a, first) and settled(a, second))
    assert arrived(b) == [b"one", b"two"]
    a.do(a.node.remove_peer, "bob")
    assert set(a.node.statuses(net.now)) == {"b"}
    assert status(a, b).established
    assert EventKind.REMOVED not in kinds(a)
    alive(net, a, b, size=1000)


def test_two_unpinned_names_that_turn_out_to_be_one_key() -> None:
    """What was queued for the second name goes to the same peer, in order, and is settled once."""
    net = SimNet(22, link=LINK)
    a = make_node(net, "a", "10.0.0.1")
    net.add_host("b", "10.0.0.2", "10.0.1.2")
    b = make_node(net, "b", "10.0.0.2")
    a.do(a.node.add_peer, "b", [b.address], None)
    a.do(a.node.add_peer, "bob", [Address("10.0.1.2", b.port)], None)
    tokens = [send(a, name, content) for name, content in (("b", b"1"), ("bob", b"2"), ("b", b"3"), ("bob", b"4"))]
    unreliable = send(a, "bob", b"5", reliable=False)
    b.do(b.node.add_peer, "a", [a.address], None)
    until(net, lambda: status(a, "b").established and status(a, "bob").established)
    until(net, lambda: all(settled(a, token) for token in tokens))
    assert sorted(arrived(b)) == [b"1", b"2", b"3", b"4"]
    assert all(event.failure is None for event in a.of(MessageSettled) if event.token != unreliable)
    assert len(a.node._registry) == 1
    net.run(5)
    assert settled(a, unreliable) is not None


def test_an_alias_keeps_the_addresses_of_both_names() -> None:
    """Otherwise a name's own address would never be tried again once the other one is dead."""
    net = SimNet(23, link=LINK)
    a = make_node(net, "a", "10.0.0.1")
    net.add_host("b", "10.0.0.2", "10.0.1.2")
    b = make_node(net, "b", "10.0.0.2")
    second = Address("10.0.1.2", b.port)
    a.do(a.node.add_peer, "b", [b.address], None)
    a.do(a.node.add_peer, "bob", [second], None)
    b.do(b.node.add_peer, "a", [a.address], None)
    until(net, lambda: status(a, "b").established and status(a, "bob").established)
    assert set(peer_of(a, "b").addresses) == {b.address, second}


def test_who_waits_for_room_at_a_name_that_becomes_an_alias_is_woken() -> None:
    net = SimNet(24, link=LINK)
    a = make_node(net, "a", "10.0.0.1", config=Config(send_queue=1000))
    net.add_host("b", "10.0.0.2", "10.0.1.2")
    b = make_node(net, "b", "10.0.0.2")
    a.do(a.node.add_peer, "b", [b.address], b.node.peer_id)
    a.do(a.node.add_peer, "bob", [Address("10.0.1.2", b.port)], None)
    send(a, "bob", bytes(1000))
    send(a, "bob", bytes(1000))
    assert not a.node.has_room("bob", 1)
    b.do(b.node.add_peer, "a", [a.address], None)
    until(net, lambda: status(a, "bob").established)
    until(net, lambda: a.of(RoomFreed), 2)
    until(net, lambda: a.node.has_room("bob", 1), 2)


def test_who_waits_for_room_at_an_alias_is_woken() -> None:
    net, a, b = pair(25, config=Config(send_queue=1000))
    a.do(a.node.add_peer, "bob", [b.address], b.node.peer_id)
    send(a, "bob", bytes(1000))
    send(a, "bob", bytes(1000))
    assert not a.node.has_room("bob", 1)
    net.run(1)
    assert a.node.has_room("bob", 1)
    assert len(a.of(RoomFreed)) == 1


def test_resolving_one_of_two_names_keeps_the_addresses_of_the_other() -> None:
    _, a, b = pair(28)
    second = Address("10.0.1.2", b.port)
    a.do(a.node.add_peer, "bob", [second], b.node.peer_id)
    a.do(a.node.set_addresses, "bob", [second])
    assert set(peer_of(a, b).addresses) == {b.address, second}


def test_a_peer_that_comes_back_under_its_alias_can_be_removed_again() -> None:
    net, a, b = pair(26, Link(latency=0.02, rate=1e6, queue_bytes=100_000))
    a.do(a.node.add_peer, "bob", [b.address], b.node.peer_id)
    send(a, b, bytes(200_000))
    a.do(a.node.remove_peer, "b")
    for name in list(a.node.statuses(net.now)):
        a.do(a.node.remove_peer, name)
    a.do(a.node.add_peer, "bob", [b.address], b.node.peer_id)
    a.do(a.node.remove_peer, "bob")
    net.run(30)
    assert a.node.statuses(net.now) == {}
    assert len(a.node._registry) == 0, "a peer without a name would stay for ever"
    assert status(b, a).state is PeerState.PASSIVE


def test_a_stranger_whose_address_is_added_is_no_stranger_any_more() -> None:
    """It is punched when it is lost, like any peer that was added."""
    net = SimNet(27, link=LINK)
    a = make_node(net, "a", "10.0.0.1", accept=AcceptPolicy.EVERYBODY)
    b = make_node(net, "b", "10.0.0.2", claimed="bob")
    add(b, a)
    until(net, lambda: "bob" in a.node.statuses(net.now) and status(a, "bob").established)
    a.do(a.node.add_peer, "robert", [b.address], None)
    until(net, lambda: a.node.statuses(net.now)["robert"].established, 5)
    peer = peer_of(a, "robert")
    assert not peer.stranger
    b.detach()
    net.run(30)
    record = Recorder(net)
    net.run(30)
    assert record.of(PUNCH, source=a)


# --- trust ---


def test_trust_pins_the_key_it_has() -> None:
    _, a, b = pair(30)
    a.do(a.node.trust, "b", None)
    assert status(a, b).pinned
    assert status(a, b).established


def test_trust_without_a_key_says_what_to_do() -> None:
    net = SimNet(31, link=LINK)
    a = make_node(net, "a", "10.0.0.1")
    a.node.add_peer("b", [Address("10.0.0.2", 5000)], None, net.now)
    with pytest.raises(ValueError, match="PeerId"):
        a.node.trust("b", None, net.now)
    a.node.trust("b", identity("b").peer_id, net.now)
    assert status(a, "b").pinned


def test_trust_of_a_key_that_is_anothers() -> None:
    net, a, b = pair(32)
    a.node.add_peer("c", [], None, net.now)
    with pytest.raises(ValueError, match="somebody else"):
        a.node.trust("c", b.node.peer_id, net.now)
    with pytest.raises(ValueError, match="somebody else"):
        a.node.trust("c", a.node.peer_id, net.now)


def test_trust_of_another_key_ends_the_session_and_fails_what_was_queued() -> None:
    net, a, b = pair(33)
    net.partition("a")
    token = send(a, b, b"for the old key")
    wanted = identity("another").peer_id
    a.do(a.node.trust, "b", wanted)
    end = settled(a, token)
    assert end is not None
    assert end.failure is Failure.PEER_CHANGED
    net.heal()
    net.run(10)
    assert not status(a, b).established
    assert status(a, b).peer_id == wanted
    assert EventKind.PEER_CHANGED in kinds(a)


def test_trust_of_another_key_during_a_handshake_with_the_old_one() -> None:
    """The half-open session of the old key must not become the new key's connection."""
    net = SimNet(34, link=LINK)
    a, b = make_node(net, "a", "10.0.0.1"), make_node(net, "b", "10.0.0.2")
    add(a, b)
    add(b, a)
    until(net, lambda: peer_of(a, b).opening.half_open is not None)
    wanted = identity("another").peer_id
    token = send(a, b, b"for the new key alone")
    a.do(a.node.trust, "b", wanted)
    net.run(30)
    assert status(a, b).peer_id == wanted
    assert not status(a, b).established
    assert arrived(b) == []
    assert settled(a, token) is None or settled(a, token).failure is not None  # type: ignore[union-attr]


def test_forget_lets_the_next_key_take_the_name() -> None:
    net, a, b = pair(35)
    old = b.node.peer_id
    b.detach()
    b = make_node(net, "b", "10.0.0.2", seed="new key")
    add(b, a, pin=True)
    a.do(a.node.forget, "b")
    assert status(a, b).trust is Trust.NONE
    assert status(a, b).peer_id is None
    until(net, lambda: status(a, b).established, 20)
    assert status(a, b).peer_id == b.node.peer_id != old
    alive(net, a, b, size=10_000)


def test_forget_fails_what_was_queued_for_the_old_key() -> None:
    net, a, b = pair(36)
    net.partition("a")
    token = send(a, b, b"secret of the old one")
    a.do(a.node.forget, "b")
    end = settled(a, token)
    assert end is not None
    assert end.failure is Failure.PEER_CHANGED


def test_forget_and_the_same_key_comes_back() -> None:
    """Nothing went wrong with it: no alarm, and messages flow both ways."""
    net, a, b = pair(37)
    for number in range(5):
        transfer(net, a, b, b"%d" % number)
        transfer(net, b, a, b"%d" % number)
    a.do(a.node.forget, "b")
    until(net, lambda: status(a, b).established and status(b, a).established, 20)
    assert EventKind.IDENTITY_IN_USE_ELSEWHERE not in kinds(a)
    assert EventKind.IDENTITY_IN_USE_ELSEWHERE not in kinds(b)
    assert status(a, b).peer_id == b.node.peer_id
    alive(net, a, b, size=10_000)


# --- strangers ---


def test_nobody_hears_silence() -> None:
    net = SimNet(40, link=LINK)
    a, b = make_node(net, "a", "10.0.0.1"), make_node(net, "b", "10.0.0.2")
    add(b, a)
    record = Recorder(net)
    net.run(60)
    assert record.of(source=a) == []
    assert a.events == []
    assert drops(a, "unsolicited_punch") > 10


def test_ask_is_asked_once_and_admitting_lets_in() -> None:
    net = SimNet(41, link=LINK)
    a = make_node(net, "a", "10.0.0.1", accept=AcceptPolicy.ASK)
    b = make_node(net, "b", "10.0.0.2", claimed="Bob")
    add(b, a)
    send(b, a, b"hello")
    net.run(60)
    assert kinds(a) == [EventKind.PENDING]
    event = events(a)[0]
    assert (event.peer, event.peer_id, event.address) == ("Bob", b.node.peer_id, b.address)
    assert not any(state.established for state in a.node.statuses(net.now).values())
    assert a.node.everyone(net.now) == []
    assert not status(b, a).established
    assert arrived(a) == []
    a.do(a.node.admit, b.node.peer_id, True)
    until(net, lambda: status(b, a).established, 20)
    until(net, lambda: arrived(a) == [b"hello"], 2)
    assert status(a, "Bob").trust is Trust.ADMITTED
    assert a.node.everyone(net.now) == ["Bob"]
    assert kinds(a) == [EventKind.PENDING, EventKind.CONNECTED]


def test_ask_and_deny() -> None:
    net = SimNet(42, link=LINK)
    a = make_node(net, "a", "10.0.0.1", accept=AcceptPolicy.ASK)
    b = make_node(net, "b", "10.0.0.2", claimed="Bob")
    add(b, a)
    token = send(b, a, b"hello")
    until(net, lambda: EventKind.PENDING in kinds(a))
    a.do(a.node.admit, b.node.peer_id, False)
    until(net, lambda: status(b, a).state is PeerState.REFUSED, 20)
    end = settled(b, token)
    assert end is not None
    assert end.failure is Failure.REFUSED
    net.run(120)
    assert kinds(a) == [EventKind.PENDING]
    assert a.node.statuses(net.now) == {}


def test_admitted_while_it_was_away() -> None:
    net = SimNet(43, link=LINK)
    a = make_node(net, "a", "10.0.0.1", accept=AcceptPolicy.ASK)
    b = make_node(net, "b", "10.0.0.2", claimed="Bob")
    add(b, a)
    until(net, lambda: EventKind.PENDING in kinds(a))
    net.partition("a")
    net.run(1000)
    a.do(a.node.admit, b.node.peer_id, True)
    net.heal()
    until(net, lambda: status(b, a).established, 60)
    net.run(1)
    assert kinds(a) == [EventKind.PENDING, EventKind.CONNECTED]


def test_a_claimed_name_is_cleaned_before_it_is_shown() -> None:
    net = SimNet(44, link=LINK)
    a = make_node(net, "a", "10.0.0.1", accept=AcceptPolicy.ASK)
    b = make_node(net, "b", "10.0.0.2", claimed="Bo\x1b[31mb\n\u202e")
    add(b, a)
    until(net, lambda: EventKind.PENDING in kinds(a))
    assert events(a)[0].peer.isprintable()
    a.do(a.node.admit, b.node.peer_id, True)
    until(net, lambda: status(b, a).established, 20)
    assert all(name.isprintable() for name in a.node.statuses(net.now))


def test_everybody_and_name_clashes() -> None:
    net = SimNet(45, link=LINK)
    a = make_node(net, "a", "10.0.0.1", accept=AcceptPolicy.EVERYBODY)
    a.node.add_peer("Alice", [Address("10.9.9.9", 1)], None, net.now)
    visitors = [make_node(net, f"v{number}", f"10.0.1.{number}", claimed="Alice") for number in range(3)]
    nameless = make_node(net, "nameless", "10.0.2.1")
    for visitor in (*visitors, nameless):
        add(visitor, a)
    until(net, lambda: all(status(v, a).established for v in (*visitors, nameless)))
    net.run(1)
    names = a.node.statuses(net.now)
    assert names["Alice"].peer_id is None
    assert set(names) == {
        "Alice",
        nameless.node.peer_id.tag,
        *(f"Alice#{visitor.node.peer_id.tag}" for visitor in visitors),
    }
    for visitor in visitors:
        assert names[f"Alice#{visitor.node.peer_id.tag}"].peer_id == visitor.node.peer_id


def test_admitted_strangers_are_capped() -> None:
    net = SimNet(46, link=LINK)
    a = make_node(net, "a", "10.0.0.1", accept=AcceptPolicy.EVERYBODY, config=Config(max_strangers=2))
    visitors = [make_node(net, f"v{number}", f"10.0.1.{number}") for number in range(4)]
    for visitor in visitors:
        add(visitor, a)
    net.run(5)
    assert sorted(status(visitor, a).state.value for visitor in visitors) == ["connected"] * 2 + ["refused"] * 2
    assert len(a.node.statuses(net.now)) == 2
    assert drops(a, "too_many_strangers")


def test_strangers_count_among_the_peers_of_the_socket() -> None:
    net = SimNet(47, link=LINK)
    a = make_node(net, "a", "10.0.0.1", accept=AcceptPolicy.EVERYBODY, config=Config(max_peers=2))
    visitors = [make_node(net, f"v{number}", f"10.0.1.{number}") for number in range(4)]
    for visitor in visitors:
        add(visitor, a)
    net.run(5)
    assert len(a.node.statuses(net.now)) == 2


def test_a_stranger_that_went_away_is_forgotten_after_ten_minutes_and_never_punched() -> None:
    net = SimNet(48, link=LINK, livelock=2000)
    a = make_node(net, "a", "10.0.0.1", accept=AcceptPolicy.EVERYBODY)
    b = make_node(net, "b", "10.0.0.2", claimed="Bob")
    add(b, a)
    until(net, lambda: status(b, a).established)
    net.run(1)
    b.detach()
    record = Recorder(net)
    net.run(590)
    assert status(a, "Bob").state is PeerState.LOST
    net.run(40)
    assert a.node.statuses(net.now) == {}
    assert record.of(PUNCH, source=a) == []
    assert a.node.next_timer() is None
    net.run(3600)


def test_a_stranger_that_comes_back_in_time_keeps_its_name() -> None:
    net = SimNet(49, link=LINK)
    a = make_node(net, "a", "10.0.0.1", accept=AcceptPolicy.EVERYBODY)
    b = make_node(net, "b", "10.0.0.2", claimed="Bob")
    add(b, a)
    until(net, lambda: status(b, a).established)
    net.partition("a")
    net.run(300)
    net.heal()
    until(net, lambda: status(b, a).established and status(a, "Bob").established, 60)
    assert kinds(a) == [EventKind.CONNECTED, EventKind.LOST, EventKind.RECONNECTED]


def test_a_stranger_added_by_its_key_becomes_a_peer_of_that_name() -> None:
    net = SimNet(50, link=LINK)
    a = make_node(net, "a", "10.0.0.1", accept=AcceptPolicy.EVERYBODY)
    b = make_node(net, "b", "10.0.0.2", claimed="Bob")
    add(b, a)
    until(net, lambda: status(b, a).established)
    net.run(1)
    a.do(a.node.add_peer, "robert", [b.address], b.node.peer_id)
    assert set(a.node.statuses(net.now)) == {"robert"}
    assert status(a, "robert").established
    assert status(a, "robert").pinned


def test_names_of_hosts_that_lead_nowhere_are_the_failure_until_they_do() -> None:
    net = SimNet(90, link=LINK)
    a, b = make_node(net, "a", "10.0.0.1"), make_node(net, "b", "10.0.0.2")
    add(b, a)
    a.do(a.node.add_peer, "b", [], None)
    a.node.note_unresolved("b", "no such name")
    a.node.note_unresolved("nobody", "no such name")
    assert status(a, b).failure == "no such name"
    a.do(a.node.set_addresses, "b", [b.address])
    assert status(a, b).failure is None
    until(net, lambda: status(a, b).established)
    a.node.note_unresolved("b", "no such name")
    assert status(a, b).failure is None, "it is connected: that is all that matters"
