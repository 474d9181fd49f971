"""Staying connected while networks change, in virtual time: how long nothing arrives, and what is learned of NATs.

The same on real Linux NATs, with 64 MiB: ``python -m tests.nat.staying``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest

from srmudp.models import Address, EventKind
from srmudp.peers.liveness import LEARN_WITHIN, LEAST_KEEPALIVE, LONG_SILENCE, QUIET, STREAM, Liveness
from tests.endpoints import (
    Recorder,
    arrived,
    connect,
    events,
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
from tests.simnet import Link, Nat, SimNet, SimNode

LINK = Link(latency=0.025, rate=5e4, queue_bytes=5_000)
KEEPALIVE = 7.0
"""A third of the default timeout."""
MAPPINGS, FILTERINGS = ("EIM", "ADM", "APDM"), ("EIF", "ADF", "APDF")


def home_and_public(seed: int, link: Link = LINK, **nat: Any) -> tuple[SimNet, SimNode, SimNode, Nat]:
    """a behind a NAT, by default one that lets in nobody else's packets; b on the public net."""
    net = SimNet(seed, link=link)
    box = net.add_nat("home", "203.0.113.1", Nat(**({"mapping": "EIM", "filtering": "APDF"} | nat)))
    a, b = make_node(net, "a", "192.168.1.2", behind="home"), make_node(net, "b", "10.0.0.2")
    connect(net, a, b, pin=True)
    net.run(2)
    return net, a, b, box


def pause(net: SimNet, sender: SimNode, receiver: SimNode, seconds: float) -> float:
    """The longest time without data at the receiver from now on, while a transfer goes on."""
    began = mark = net.now
    last, longest = status(receiver, sender).stats.bytes_received, 0.0
    while net.now < began + seconds:
        net.run(0.02)
        here = status(receiver, sender).stats.bytes_received
        if here > last + STREAM:
            longest, mark, last = max(longest, net.now - mark), net.now, here
    return max(longest, net.now - mark)


# --- how long nothing arrives


@pytest.mark.parametrize("sends", ["who moves", "the other one"])
@pytest.mark.parametrize("happens", ["another port", "another public address", "another network"])
def test_attack_50_data_goes_on_within_a_second(happens: str, sends: str) -> None:
    """Attack 50: also where the one that moves only listens, and so does not speak by itself for seconds."""
    net, a, b, nat = home_and_public(600)
    sender, receiver = (a, b) if sends == "who moves" else (b, a)
    contents = [net.random.randbytes(10_000) for _ in range(24)]
    for content in contents:
        send(sender, receiver, content)
    net.run(0.5)
    changes: dict[str, Callable[[int], object]] = {
        "another port": lambda number: nat.rebind(),
        "another public address": lambda number: nat.rebind(f"203.0.113.{10 + number}"),
        "another network": lambda number: net.move_host("a", f"10.0.1.{1 + number}"),
    }
    longest = 0.0
    for number in range(2):
        changes[happens](number)
        longest = max(longest, pause(net, sender, receiver, 1.6))
    assert longest <= 1.0
    until(net, lambda: sender.node.pending == 0, 60)
    assert arrived(receiver, sender) == contents
    assert kinds(a) == [EventKind.CONNECTED]
    assert set(kinds(b)) == {EventKind.CONNECTED, EventKind.ROAMED}


@pytest.mark.parametrize("both", [True, False], ids=["both ways", "one way"])
@pytest.mark.parametrize("seconds", [3, 12, 30, 90])
def test_attack_43_data_goes_on_within_a_second_after_an_outage(seconds: float, both: bool) -> None:
    """Attack 43: no pause between two probes or punches is much longer than that."""
    net, a, b = pair(601, LINK)
    for _ in range(40):
        send(a, b, net.random.randbytes(10_000))
    net.run(0.5)
    net.partition("a", "b", both=both)
    net.run(seconds)
    net.heal()
    began, before = net.now, status(b, a).stats.bytes_received
    until(net, lambda: status(b, a).stats.bytes_received > before + STREAM, 20)
    assert net.now - began <= (1.2 if seconds < 60 else 3.5), "by the schedule of punches"


def test_both_ends_rebind_at_once() -> None:
    """Attack 50: what the one says reaches the other, who is let in by the first, whatever port it has now."""
    net = SimNet(602, link=LINK)
    one = net.add_nat("home a", "203.0.113.1", Nat(mapping="EIM", filtering="ADF"))
    two = net.add_nat("home b", "203.0.113.2", Nat(mapping="EIM", filtering="EIF"))
    a, b = make_node(net, "a", "192.168.1.2", behind="home a"), make_node(net, "b", "192.168.2.2", behind="home b")
    two.forward(b.port, b.address)  # by hand; its answers leave by other ports nevertheless
    connect(net, a, b, pin=True)
    contents = [net.random.randbytes(10_000) for _ in range(30)]
    for content in contents:
        send(a, b, content)
    net.run(0.5)
    for _ in range(2):
        one.rebind()
        two.rebind()
        assert pause(net, a, b, 2.5) <= 1.0
    until(net, lambda: a.node.pending == 0, 60)
    assert arrived(b, a) == contents
    assert EventKind.LOST not in kinds(a) + kinds(b)


@pytest.mark.parametrize("seed", [5, 6])
def test_both_routers_forget_and_let_in_whom_they_must(seed: int) -> None:
    """Each keeps its port and drops the other's packets until its own end has spoken, which the one that listens does
    when it wonders; what it says makes the other one try again at once, without waiting for the end of its backoff."""
    net = SimNet(700 + seed, link=Link(latency=0.003 * (seed + 1), rate=1e5, queue_bytes=5_000))
    ends = []
    for number, name in enumerate("ab", 1):
        net.add_nat("home " + name, f"203.0.113.{number}", Nat(mapping="EIM", filtering="APDF"))
        ends.append(make_node(net, name, f"192.168.{number}.2", behind="home " + name))
    a, b = ends
    connect(net, a, b, pin=True)
    contents = [net.random.randbytes(10_000) for _ in range(40)]
    for content in contents:
        send(a, b, content)
    net.run(0.5 + 0.03 * seed)
    for _ in range(2):
        for nat in net.nats.values():
            nat.forget()
        assert pause(net, a, b, 1.7) <= QUIET + 0.2
    until(net, lambda: a.node.pending == 0, 60)
    assert arrived(b, a) == contents


# --- a change that we notice ourselves


def test_a_silent_peer_that_moved_tells_at_once() -> None:
    """Not with its next keepalive: who has a message for it finds it where it is."""
    net, a, b = pair(603, LINK)
    net.run(8)
    net.move_host("a", "10.0.1.9")
    a.do(a.node.handle_network_changed, {b.address.host})
    net.run(0.5)
    assert status(b, a).address == a.address
    assert status(a, b).observed == a.address
    token = send(b, a, b"there you are")
    until(net, lambda: settled(b, token) is not None, 0.2)


@pytest.mark.parametrize("seconds", [12, 60, 900])
def test_after_an_outage_that_one_noticed_itself_nothing_is_waited_for(seconds: float) -> None:
    net, a, b = pair(604, LINK)
    token = send(a, b, net.random.randbytes(10_000))
    net.partition("a")
    net.run(seconds)
    net.heal()
    a.do(a.node.handle_network_changed, ())
    until(net, lambda: settled(a, token) is not None, 0.6)


def test_another_network_is_measured_anew() -> None:
    """Its datagrams may be smaller; what was sent in larger ones is sent again."""
    net, a, b = pair(605, LINK, max_mtu=1472)
    net.run(1)
    assert status(a, b).mtu == 1472
    for _ in range(5):
        send(a, b, net.random.randbytes(10_000))
    net.run(0.2)
    net.move_host("a", "10.0.1.9")
    net.link("a", "b", Link(latency=0.025, rate=5e4, queue_bytes=5_000, mtu=1300))
    a.do(a.node.handle_network_changed, {b.address.host})
    until(net, lambda: a.node.pending == 0, 4)
    assert status(a, b).mtu == 1200


def test_what_is_looked_at_is_where_peers_are() -> None:
    net, a, _ = pair(606, LINK)
    a.do(a.node.add_peer, "nowhere", [Address("10.9.9.9", 1), Address("10.9.9.8", 1)], None)
    assert set(a.node.far_ends(10)) == {"10.0.0.2", "10.9.9.9", "10.9.9.8"}
    assert len(a.node.far_ends(2)) == 2
    a.do(a.node.close)
    assert a.node.far_ends(10) == {}
    a.do(a.node.handle_network_changed, {"10.0.0.2"})
    net.run(1)


# --- a question after a sudden silence


def test_silence_after_a_stream_is_asked_about_once() -> None:
    net, a, b = pair(607, LINK)
    transfer(net, a, b, net.random.randbytes(100_000))
    net.run(QUIET - 0.1)
    record = Recorder(net)
    net.run(2 * QUIET)
    assert 2 <= len(record.items) <= 4, "and answered; acknowledgements may be a stream, too"
    record.clear()
    net.run(KEEPALIVE - 3 * QUIET)
    assert record.items == []


def test_chatter_is_not_asked_about() -> None:
    net, a, b = pair(608, LINK)
    net.run(1)
    record = Recorder(net)
    for _ in range(5):
        transfer(net, a, b, b"hello")
        transfer(net, b, a, b"hello")
        net.run(0.1)
    sent = len(record.items)
    net.run(KEEPALIVE - 1.5)
    assert len(record.items) == sent


# --- lifetimes of mappings


def test_a_mapping_that_lives_shorter_than_the_keepalive_is_learned_of() -> None:
    """It is found somewhere else after each silence, until it is not silent for so long any more."""
    net, a, b, _ = home_and_public(609, lifetime=3.0, ports="random")
    net.run(60)
    moved = len(events(b, EventKind.ROAMED))
    assert 1 <= moved <= 4
    net.run(600)
    assert len(events(b, EventKind.ROAMED)) == moved
    assert peer_of(a, b).liveness.interval < 3.0
    assert peer_of(b, a).liveness.interval == KEEPALIVE, "its own mapping is none"
    a.do(a.node.handle_network_changed, {b.address.host})
    assert peer_of(a, b).liveness.interval == KEEPALIVE, "another network, another NAT"


def test_a_router_that_is_restarted_under_traffic_teaches_nothing() -> None:
    net, a, b, nat = home_and_public(610)
    for _ in range(4):
        nat.rebind()
        for _ in range(6):
            send(a, b, b"word")
            net.run(0.5)
    assert len(events(b, EventKind.ROAMED)) == 4
    assert peer_of(a, b).liveness.interval == KEEPALIVE


def test_what_is_learned_has_bounds_whatever_a_peer_says() -> None:
    liveness = Liveness(KEEPALIVE)
    places = [Address("192.0.2.1", port) for port in range(1, 50)]
    now = 100.0
    for before, after in itertools.pairwise(places):
        liveness.on_silence_ends(now - 1.5, now)
        liveness.on_observed(before, after, now + 0.1)
        now += 10.0
    assert liveness.interval == LEAST_KEEPALIVE
    short = Liveness(0.5)  # the application's timeout asks for more
    short.on_silence_ends(now - LONG_SILENCE, now)
    short.on_observed(places[0], places[1], now)
    short.on_silence_ends(now, now + LONG_SILENCE)
    short.on_observed(places[0], places[1], now + LONG_SILENCE)
    assert short.interval == 0.5


def test_what_teaches_nothing_of_mappings() -> None:
    liveness, one, two = Liveness(KEEPALIVE), Address("192.0.2.1", 1), Address("192.0.2.1", 2)
    liveness.on_observed(one, two, 100.0)  # no silence before
    liveness.on_silence_ends(90.0, 90.0 + LONG_SILENCE / 2)
    liveness.on_observed(one, two, 90.6)
    liveness.on_silence_ends(93.0, 100.0)
    liveness.on_observed(None, two, 100.1)
    liveness.on_observed(two, two, 100.1)
    liveness.on_observed(one, two, 100.1 + LEARN_WITHIN)  # much later
    assert liveness.interval == KEEPALIVE


def test_once_may_be_a_router_that_was_restarted() -> None:
    """It takes two silences in a row, where those that are shorter say nothing."""
    liveness, one, two = Liveness(KEEPALIVE), Address("192.0.2.1", 1), Address("192.0.2.1", 2)
    now = 100.0
    for silence, lost in ((6.0, True), (7.0, False), (6.0, True), (2.0, False)):
        liveness.on_silence_ends(now - silence, now)
        if lost:
            liveness.on_observed(one, two, now + 0.1)
            liveness.on_observed(two, one, now + 0.2)  # the same silence
        now += 100.0
        assert liveness.interval == KEEPALIVE
    liveness.on_silence_ends(now - 5.0, now)
    liveness.on_observed(one, two, now + 0.1)
    assert liveness.interval == 3.0


# --- NATs of all kinds


@pytest.mark.parametrize("expiry", [math.inf, 40.0], ids=["that remember", "that forget what is in use"])
def test_staying_connected_behind_nats_of_all_kinds(expiry: float) -> None:
    """All of RFC 4787: mappings of 30 seconds, and carriers that end each after 40, with a peer anybody reaches."""
    for number, (mapping, filtering) in enumerate(itertools.product(MAPPINGS, FILTERINGS)):
        net, a, b, _ = home_and_public(
            620 + number, mapping=mapping, filtering=filtering, lifetime=30.0, expiry=expiry, ports="random"
        )
        net.run(130)
        roamed = len(events(b, EventKind.ROAMED))
        assert roamed == 0 if expiry == math.inf else 2 <= roamed <= 4
        net.run(14)
        for sender, receiver in ((a, b), (b, a)):
            token = send(sender, receiver, b"still there")
            until(net, lambda sender=sender, token=token: settled(sender, token) is not None, 2 * KEEPALIVE)  # type: ignore[misc]
        assert EventKind.LOST not in kinds(a) + kinds(b), (mapping, filtering)


def test_a_listener_whose_carrier_forgets_hardly_notices() -> None:
    """Ten datagrams a second come in, nothing goes out but what acknowledges them."""
    net, a, b, _ = home_and_public(640, expiry=20.0, ports="random")
    longest, got, mark = 0.0, 0, net.now
    for _ in range(45 * 10):
        b.do(b.node.send_message, "a", bytes(400), channel=0, reliable=False, ttl=None)
        net.run(0.1)
        if len(arrived(a, b)) > got:
            got, longest, mark = len(arrived(a, b)), max(longest, net.now - mark), net.now
    assert len(events(b, EventKind.ROAMED)) >= 2
    assert longest <= 1.5


def test_a_port_that_is_given_to_somebody_else_meanwhile() -> None:
    """No port is left when the mapping ends: nothing gets out until one is free, and then all goes on by itself."""
    net, a, b, _ = home_and_public(641, pool=1, expiry=30.0, lifetime=60.0)
    token = send(a, b, b"before")
    until(net, lambda: settled(a, token) is not None)
    other = make_node(net, "other", "192.168.1.3", behind="home")
    other.do(other.node.add_peer, "nobody", [Address("198.51.100.9", 9)], None)
    net.run(31)
    until(net, lambda: net.counts["nat_exhausted"] > 10, 100)
    token = send(a, b, b"meanwhile")
    other.detach()
    until(net, lambda: settled(a, token) is not None, 120)
    assert arrived(b, a) == [b"before", b"meanwhile"]


@pytest.mark.parametrize("hairpin", [True, False])
def test_neighbours_stay_connected_through_their_own_router(hairpin: bool) -> None:
    """By their public addresses, where the router turns packets round; short mappings are kept open from both sides."""
    net = SimNet(642, link=LINK)
    net.add_nat("home", "203.0.113.1", Nat(hairpin=True, lifetime=20.0))
    net.add_host("server", "198.51.100.1")
    ends = [make_node(net, name, f"192.168.1.{n}", port=5000 + n, behind="home") for n, name in enumerate("ab", 2)]
    a, b = ends
    seen = [net.mapped(end, Address("198.51.100.1", 1)) for end in ends]
    a.do(a.node.add_peer, "b", [seen[1]], b.node.peer_id)
    b.do(b.node.add_peer, "a", [seen[0]], a.node.peer_id)
    until(net, lambda: status(a, b).established and status(b, a).established, 3)
    net.run(100)
    net.nats["home"].hairpin = hairpin
    net.run(100)
    assert (EventKind.LOST in kinds(a)) is not hairpin
    net.nats["home"].hairpin = True
    until(net, lambda: status(a, b).established and status(b, a).established, 20)
