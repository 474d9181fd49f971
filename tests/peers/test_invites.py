"""Invites between endpoints in virtual time: who has a token is let in and pinned, and nobody else."""

from __future__ import annotations

import pytest

from srmudp.config import Config
from srmudp.models import Address, EventKind, PeerState, Trust
from srmudp.peers.endpoint import AcceptPolicy
from srmudp.peers.invites import MAX_OPEN
from srmudp.protocol.events import GuestCame
from srmudp.wire.packet import PUBLIC_KEY, RECORD, SHARED_KEY
from tests.endpoints import (
    LINK,
    Recorder,
    add,
    arrived,
    drops,
    events,
    make_node,
    peer_of,
    send,
    settled,
    status,
    until,
)
from tests.simlinks import Nat
from tests.simnet import SimNet, SimNode


def invite(a: SimNode, name: str = "", seconds: float = 3600.0) -> bytes:
    """A token of ``a``."""
    token: bytes = a.node.invites.open(name, a.net.now + seconds, a.net.now)
    return token


def come(b: SimNode, a: SimNode, token: bytes) -> None:
    """``b`` adds ``a`` with an invite."""
    b.do(b.node.add_peer, "alice", [a.address], a.node.peer_id, token=token)


def house(accept: AcceptPolicy = AcceptPolicy.NOBODY, **options: object) -> tuple[SimNet, SimNode, SimNode]:
    """Two programs that know nothing of each other; b claims to be called Bob."""
    net = SimNet(3, link=LINK)
    a = make_node(net, "a", "10.0.0.1", accept=accept, claimed="Alice", **options)  # type: ignore[arg-type]
    return net, a, make_node(net, "b", "10.0.0.2", claimed="Bob")


@pytest.mark.parametrize("accept", list(AcceptPolicy))
def test_who_has_an_invite_is_let_in_and_pinned_whatever_accept_says(accept: AcceptPolicy) -> None:
    """Attack 80, too: nobody is asked about a guest."""
    net, a, b = house(accept)
    come(b, a, invite(a))
    until(net, lambda: status(b, "alice").established, 1.0)
    guest = status(a, "Bob")
    assert (guest.trust, guest.peer_id) == (Trust.PINNED, b.node.peer_id)
    assert a.of(GuestCame) == [GuestCame("Bob", b.node.peer_id)]
    assert not events(a, EventKind.PENDING), "nobody is asked about somebody who was invited"
    token = send(a, "Bob", b"welcome")
    until(net, lambda: settled(a, token))
    assert arrived(b) == [b"welcome"]
    net.run(700)  # longer than any stranger is kept
    b.detach()
    net.run(700)
    assert status(a, "Bob").state is PeerState.LOST, "a guest is no stranger who is forgotten"


def test_the_name_given_to_an_invite_counts_and_a_clash_gets_a_key_tag() -> None:
    """Attack 27: an invite takes no name that another key has."""
    net, a, b = house()
    a.do(a.node.add_peer, "Bobby", [Address("10.0.0.9", 5000)], None)
    come(b, a, invite(a, "Robert"))
    until(net, lambda: status(b, "alice").established, 1.0)
    assert status(a, "Robert").pinned
    c = make_node(net, "c", "10.0.0.3", claimed="Robert")
    come(c, a, invite(a))
    until(net, lambda: status(c, "alice").established, 1.0)
    tag = c.node.peer_id.tag
    assert status(a, f"Robert#{tag}").peer_id == c.node.peer_id
    d = make_node(net, "d", "10.0.0.4")
    come(d, a, invite(a, "Bobby"))
    until(net, lambda: status(d, "alice").established, 1.0)
    assert status(a, "Bobby").peer_id == d.node.peer_id, "added by its address and invited: one and the same"


def test_a_token_lets_in_one_alone() -> None:
    """The second bearer is a stranger like any other, also after the first was removed."""
    net, a, b = house()
    token = invite(a)
    come(b, a, token)
    until(net, lambda: status(b, "alice").established, 1.0)
    thief = make_node(net, "c", "10.0.0.3", claimed="Bob")
    come(thief, a, token)
    until(net, lambda: status(thief, "alice").state is PeerState.REFUSED, 2.0)
    assert "the invite was used by another" in str(status(thief, "alice").failure)
    assert drops(a, "unknown_invite") >= 1
    a.do(a.node.remove_peer, "Bob")
    until(net, lambda: status(b, "alice").state is PeerState.PASSIVE, 2.0)
    come(b, a, token)
    net.run(5)
    assert not a.node.statuses(net.now), "who was removed does not come back by the same token"
    come(b, a, invite(a))
    until(net, lambda: status(b, "alice").established, 2.0)


def test_the_same_one_may_present_its_token_again() -> None:
    """The answer may have been lost, or the guest's program restarted."""
    net, a, b = house()
    token = invite(a)
    stop = net.intercept(lambda now, source, destination, data: [] if data[0] == RECORD else None)
    come(b, a, token)
    net.run(20)
    assert not status(b, "alice").established
    assert a.of(GuestCame), "the token has come, and the answer was lost"
    stop()
    until(net, lambda: status(b, "alice").established, 20.0)
    b.detach()
    net.run(1)
    b = make_node(net, "b", "10.0.0.2", claimed="Bob")
    come(b, a, token)
    until(net, lambda: status(b, "alice").established, 5.0)
    assert set(a.node.statuses(net.now)) == {"Bob"}


@pytest.mark.parametrize("what", ["expired", "guessed"])
def test_a_worthless_token_is_as_if_there_were_none(what: str) -> None:
    net, a, b = house()
    add(a, b, address=Address("10.0.0.9", 5000))  # not early: strangers are refused, not left waiting
    token = invite(a, seconds=10)
    if what == "expired":
        net.run(11)
    else:
        token = bytes(16)
    come(b, a, token)
    until(net, lambda: status(b, "alice").state is PeerState.REFUSED, 2.0)
    assert set(a.node.statuses(net.now)) == {"b"}
    assert drops(a, "unknown_invite") == 1
    assert a.of(GuestCame) == []


def test_open_invites_are_bounded() -> None:
    net, a, _ = house()
    for _ in range(MAX_OPEN):
        invite(a, seconds=60)
    with pytest.raises(ValueError, match="64 invites are open"):
        invite(a)
    net.run(61)
    for _ in range(MAX_OPEN):
        assert a.node.invites.redeem(invite(a), a.node.peer_id, net.now)
    assert invite(a), "those that were used make room"


def test_no_stranger_hears_more_because_an_invite_is_open() -> None:
    """Attack 36: an untagged punch hears nothing, a tagged one without a token no more than the second arrow."""
    net, a, b = house()
    invite(a)
    record = Recorder(net)
    b.do(b.node.add_peer, "alice", [a.address], None)
    net.run(3)
    assert record.of(source=a) == []
    b.do(b.node.remove_peer, "alice")
    b.do(b.node.add_peer, "alice", [a.address], a.node.peer_id)
    net.run(3)
    heard = record.of(source=a)
    assert {item.kind for item in heard} == {PUBLIC_KEY}, "its peers are still to be added: refused nobody"
    punched = sum(len(item.data) for item in record.of(source=b))
    assert sum(len(item.data) for item in heard) < punched
    assert not a.node.statuses(net.now)


def test_the_token_is_shown_to_nobody_but_who_invites() -> None:
    """A SHARED_KEY with a token is longer; whoever else answers at the address sees none of it."""
    net, a, b = house()
    token = invite(a)
    thief = make_node(net, "c", "10.0.0.3", accept=AcceptPolicy.EVERYBODY)
    record = Recorder(net)
    b.do(b.node.add_peer, "alice", [thief.address], a.node.peer_id, token=token)
    thief.do(thief.node.add_peer, "b", [b.address], b.node.peer_id)
    net.run(3)
    assert record.of(SHARED_KEY, source=b) == []
    assert len(events(b, EventKind.REFUSED)) == 1
    assert not any(token in item.data for item in record.items)
    b.do(b.node.add_peer, "alice", [a.address], a.node.peer_id)
    until(net, lambda: status(b, "alice").established, 20.0)
    assert not any(token in item.data for item in record.items)
    assert peer_of(b, "alice").token == b"", "once in, it is forgotten"


def test_guesses_of_many_keys_leave_nothing_behind() -> None:
    """Attack 77: each guess is a stranger's handshake, limited with those, and the invite stays good."""
    net, a, b = house()
    token = invite(a)
    for number in range(20):
        guest = make_node(net, f"g{number}", f"10.1.0.{number + 1}")
        come(guest, a, number.to_bytes(16, "big"))
    net.run(15)
    assert drops(a, "unknown_invite") >= 20
    assert not a.node.statuses(net.now)
    come(b, a, token)
    until(net, lambda: status(b, "alice").established, 10.0)


def test_a_guest_who_is_not_let_in_waits_to_be_knocked_at() -> None:
    """Its punches open its own NAT and lie in nobody's way; now and then they are tried again."""
    net = SimNet(4, link=LINK)
    net.add_nat("home", "198.51.100.7", Nat())
    a, b = make_node(net, "a", "192.0.2.1"), make_node(net, "b", "10.0.0.2", behind="home", claimed="Bob")
    token, arrivals = invite(a), []
    drop = net.intercept(lambda now, source, to, data: arrivals.append(now - begun) or [] if to == a.address else None)
    begun = net.now
    come(b, a, token)
    net.run(100)
    assert arrivals
    assert max(arrivals) < 4.2
    net.run(30)
    again = [when for when in arrivals if when > 5]
    assert again
    assert min(again) > 119
    assert max(again) < 125
    drop()
    net.run(20)
    assert not status(b, "alice").established
    a.do(a.node.add_peer, "Bobby", [net.mapped(b, a.address)], b.node.peer_id)
    until(net, lambda: status(b, "alice").established, 3.0)


def test_two_who_added_each_others_invites_are_one_peer_each() -> None:
    net, a, b = house()
    to_b, to_a = invite(a), invite(b)
    come(b, a, to_b)
    a.do(a.node.add_peer, "Bobby", [b.address], b.node.peer_id, token=to_a)
    until(net, lambda: status(b, "alice").established and status(a, "Bobby").established, 2.0)
    net.run(30)
    assert set(a.node.statuses(net.now)) == {"Bobby"}
    assert set(b.node.statuses(net.now)) == {"alice"}


def test_a_stranger_who_waits_for_a_decision_comes_in_with_an_invite() -> None:
    net, a, b = house(AcceptPolicy.ASK)
    b.do(b.node.add_peer, "alice", [a.address], a.node.peer_id)
    until(net, lambda: events(a, EventKind.PENDING), 2.0)
    come(b, a, invite(a))
    until(net, lambda: status(b, "alice").established, 15.0)
    assert status(a, "Bob").pinned


def test_a_stranger_who_is_in_is_pinned_by_an_invite() -> None:
    net, a, b = house(AcceptPolicy.EVERYBODY)
    b.do(b.node.add_peer, "alice", [a.address], a.node.peer_id)
    until(net, lambda: status(b, "alice").established, 2.0)
    assert status(a, "Bob").trust is Trust.ADMITTED
    b.detach()
    b = make_node(net, "b", "10.0.0.2", claimed="Bob")
    come(b, a, invite(a, "Robert"))
    until(net, lambda: status(b, "alice").established, 5.0)
    assert status(a, "Robert").pinned
    assert set(a.node.statuses(net.now)) == {"Robert"}


def test_no_room_for_a_guest() -> None:
    net, a, b = house(config=Config(max_peers=1))
    add(a, b, address=Address("10.0.0.9", 5000))
    come(b, a, invite(a))
    net.run(2)
    assert drops(a, "too_many_peers") >= 1
    assert set(a.node.statuses(net.now)) == {"b"}


def test_a_stranger_added_under_the_name_it_has_is_no_stranger_any_more() -> None:
    net, a, b = house(AcceptPolicy.EVERYBODY)
    b.do(b.node.add_peer, "alice", [a.address], a.node.peer_id)
    until(net, lambda: status(b, "alice").established, 2.0)
    a.do(a.node.add_peer, "Bob", [b.address], b.node.peer_id)
    b.detach()
    net.run(700)
    assert status(a, "Bob").state is PeerState.LOST
