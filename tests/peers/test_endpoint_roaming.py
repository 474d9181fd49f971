"""Peers whose address changes, and attackers who wish it did."""

from __future__ import annotations

import random

from srmudp.models import Address, EventKind
from srmudp.wire.packet import RECORD
from tests.endpoints import (
    LINK,
    alive,
    arrived,
    connect,
    events,
    kinds,
    make_node,
    pair,
    send,
    settled,
    status,
    transfer,
    until,
)
from tests.simnet import Nat, SimNet, SimNode


def nat_pair(seed: int) -> tuple[SimNet, SimNode, SimNode, Nat]:
    """a on the public net; b behind a NAT."""
    net = SimNet(seed, link=LINK)
    nat = net.add_nat("home", "203.0.113.1", Nat(mapping="EIM", filtering="APDF"))
    a = make_node(net, "a", "10.0.0.1")
    b = make_node(net, "b", "192.168.1.2", behind="home")
    connect(net, a, b)
    net.run(1)
    return net, a, b, nat


def test_a_nat_that_rebinds_is_followed() -> None:
    net, a, b, nat = nat_pair(90)
    before = status(a, b).address
    nat.rebind()
    token = send(b, a, b"from elsewhere")
    until(net, lambda: EventKind.ROAMED in kinds(a), 10)
    after = status(a, b).address
    assert after == net.mapped(b, a.address) != before
    assert events(a, EventKind.ROAMED)[0].address == after
    until(net, lambda: settled(b, token))
    alive(net, a, b, size=20_000)
    net.run(30)
    assert kinds(a) == [EventKind.CONNECTED, EventKind.ROAMED]
    assert kinds(b) == [EventKind.CONNECTED]


def test_a_silent_peer_that_was_rebound_is_followed_at_its_next_sign_of_life() -> None:
    net, a, b, nat = nat_pair(91)
    nat.rebind()
    net.run(25)
    assert kinds(a) == [EventKind.CONNECTED, EventKind.ROAMED]
    alive(net, a, b, size=20_000)


def test_rebinding_in_the_middle_of_transfers_loses_nothing() -> None:
    net, a, b, nat = nat_pair(92)
    contents = [random.Random(number).randbytes(100_000) for number in range(10)]
    for content in contents:
        send(a, b, content)
        send(b, a, content)
    for _ in range(3):
        net.run(0.04)
        nat.rebind()
        net.run(0.3)
    until(net, lambda: a.node.pending == b.node.pending == 0, 60)
    assert arrived(a) == arrived(b) == contents


def test_moving_to_another_network_is_followed() -> None:
    net, a, b = pair(93)
    net.move_host("b", "198.51.100.7")
    until(net, lambda: EventKind.ROAMED in kinds(a), 30)
    assert status(a, b).address == Address("198.51.100.7", b.port)
    assert status(a, b).established
    alive(net, a, b, size=20_000)


def test_copies_of_packets_from_another_address_do_not_move_the_path() -> None:
    """Each of b's packets reaches a first from the attacker's address; it even passes on what a sends there."""
    net, a, b = pair(94)
    thief = Address("198.51.100.66", 666)
    copied = 0

    def race(
        now: float, source: Address, destination: Address, datagram: bytes
    ) -> list[tuple[Address, Address, bytes]] | None:
        nonlocal copied
        if source == b.address:
            copied += 1
            net.inject(thief, a.address, datagram, 0.005)  # half of the link's latency
        elif destination == thief:
            return [(source, b.address, datagram)]
        return None

    net.add_host("thief", thief.host)
    net.intercept(race)
    for number in range(40):
        transfer(net, b, a, b"%d" % number)
        net.run(0.3)
    assert copied > 40
    assert EventKind.ROAMED not in kinds(a)
    assert status(a, b).address == b.address
    alive(net, a, b, size=20_000)


def test_no_more_goes_to_an_unproven_address_than_came_from_it() -> None:
    net, a, b = pair(95)
    thief = Address("198.51.100.66", 666)
    received = sent = 0

    def race(
        now: float, source: Address, destination: Address, datagram: bytes
    ) -> list[tuple[Address, Address, bytes]] | None:
        nonlocal received, sent
        if source == b.address and datagram[0] == RECORD:
            net.inject(thief, a.address, datagram, 0.001)
            sent += len(datagram)
        return None

    def watch(now: float, source: Address, destination: Address, datagram: bytes) -> None:
        nonlocal received
        if destination == thief:
            received += len(datagram)
            assert received <= sent

    net.intercept(race)
    net.tap(watch)
    for number in range(30):
        send(a, b, random.Random(number).randbytes(20_000))
        send(b, a, b"x")
        net.run(0.25)
    assert 0 < received < sent / 2
