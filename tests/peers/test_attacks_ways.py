"""Attacks by way of candidates: peers that name victims, answers that are none, standbys that are not the peer's."""

from __future__ import annotations

import pytest

from srmudp.models import Address, Candidate, CandidateKind, EventKind, PeerState
from srmudp.peers.endpoint import AcceptPolicy
from srmudp.peers.ways import ALL_UNPROVEN_BURST, ALL_UNPROVEN_RATE, FRUITLESS, ROUND, UNPROVEN_BURST, UNPROVEN_RATE
from srmudp.wire.frames import Candidates, Frame, PathChallenge, PathResponse, serialise
from srmudp.wire.packet import RECORD
from tests.endpoints import (
    LINK,
    Recorder,
    add,
    alive,
    arrived,
    drops,
    events,
    hostile,
    kinds,
    make_node,
    pair,
    peer_of,
    seal_raw,
    send,
    status,
    until,
)
from tests.peers.test_ways import Delay, dual, six, tell
from tests.simnet import SimNet, SimNode

HOST = CandidateKind.HOST
VICTIM = Address("203.0.113.66", 6666)
CHALLENGE = 62
"""Bytes of a datagram with a challenge."""
NOBODY = (
    *(Address("255.255.255.255", 5000), Address("224.0.0.1", 5000), Address("0.0.0.0", 5000), Address("::", 5000)),
    *(Address("127.0.0.1", 5000), Address("::1", 5000), Address("ff02::1", 5000), Address("fe80::1", 5000)),
    *(Address("203.0.113.66", 53), Address("203.0.113.66", 0), Address("169.254.1.1", 5000), Address("10.0.0.1", 5000)),
    *(Address("240.0.0.1", 5000), Address("2002:e000:1::1", 5000), Address("203.0.113.66", 123)),
)
"""What no peer may name: 10.0.0.1:5000 is the one that is attacked."""


def named(*addresses: Address) -> tuple[Candidate, ...]:
    return tuple(Candidate(HOST, address) for address in addresses)


def test_attack_37_addresses_of_nobody_are_not_tried() -> None:
    """Attack 37: broadcast, multicast, loopback, port 53 and our own address: counted, and not a byte goes there."""
    net, a, b = pair(371)
    tell(a)
    record = Recorder(net)
    hostile(net, b, a, [Candidates(1, named(*NOBODY, VICTIM))])
    net.run(200)
    assert drops(a, "bad_candidate") == len(NOBODY)
    tried = [item for item in record.of(source=a) if item.destination != b.address]
    assert {item.destination for item in tried} == {VICTIM}
    assert 0 < len(tried) <= 4 + 2 + 200 / (0.8 * ROUND)
    assert {len(item.data) for item in tried} == {CHALLENGE}
    alive(net, a, b, size=10_000)


def test_attack_37_an_address_that_never_answers_is_left_alone() -> None:
    """Attack 37: a few challenges, then one a minute, then none."""
    net, a, b = pair(372)
    hostile(net, b, a, [Candidates(1, named(VICTIM))])
    record = Recorder(net)
    net.run(1.2 * ROUND * FRUITLESS)
    tried = [item for item in record.items if item.destination == VICTIM]
    assert 10 <= len(tried) <= 4 + FRUITLESS
    record.clear()
    net.run(900)
    assert VICTIM not in {item.destination for item in record.items}
    assert status(a, b).established


def test_attack_37_a_thousand_candidates_of_one_peer() -> None:
    """Attack 37: a peer that names other addresses twice a second: few are looked at, and each gets next to nothing."""
    net, a, b = pair(373)
    record = Recorder(net)
    began = net.now
    for serial in range(100):
        third, fourth = divmod(serial, 50)
        claim = [Address(f"203.{third}.{fourth}.{n}", 6666) for n in range(1, 17)]
        hostile(net, b, a, [Candidates(serial, named(*claim))])
        net.run(0.5)
    tried = [item for item in record.of(source=a) if item.destination != b.address]
    assert len(tried) <= UNPROVEN_BURST + UNPROVEN_RATE * (net.now - began) + 1
    assert {len(item.data) for item in tried} == {CHALLENGE}
    assert drops(a, "candidates_rate") > 40
    told = 100 * len(seal_raw(b, a, serialise(Candidates(1, named(*claim))))[0])
    assert sum(len(item.data) for item in tried) < told
    assert len(list(peer_of(a, b).ways)) <= 17
    alive(net, a, b, size=10_000)


def test_attack_37_a_thousand_candidates_in_one_record() -> None:
    """Attack 37: more than a list holds, or more lists than an honest peer writes, break the protocol."""
    one = serialise(Candidates(1, named(VICTIM)))
    crowd = b"\x12\x01\xff" + b"\x00\x04\xcb\x00\x71\x42\x1a\x0a" * 255
    for bad in (one * 5, crowd):
        net, a, b = pair(374)
        record = Recorder(net)
        hostile(net, b, a, [bad])
        assert drops(a, "protocol_error") == 1
        net.run(1)
        assert VICTIM not in {item.destination for item in record.items}


def test_attack_37_many_strangers_that_name_one_victim() -> None:
    """Attack 37: what all peers of a socket together can make it send is bounded as well."""
    net = SimNet(375, link=LINK)
    a = make_node(net, "a", "10.0.0.1", accept=AcceptPolicy.EVERYBODY)
    crowd: list[SimNode] = []
    for n in range(8):
        stranger = make_node(net, f"s{n}", f"10.1.{n}.2")
        stranger.do(stranger.node.add_peer, "a", [a.address], a.node.peer_id)
        crowd.append(stranger)
    until(net, lambda: all(status(stranger, "a").established for stranger in crowd), 60)
    net.run(2)
    record = Recorder(net)
    began = net.now
    names = {address: name for name, known in a.node.statuses(net.now).items() if (address := known.address)}
    for serial in range(4):
        for stranger in crowd:
            claim = Candidates(serial, named(*(Address(VICTIM.host, 2000 + 16 * serial + n) for n in range(16))))
            (datagram,) = seal_raw(stranger, "a", serialise(claim))
            assert stranger.address in names
            net.inject(stranger.address, a.address, datagram)
        net.run(2)
    tried = [item for item in record.items if item.destination.host == VICTIM.host]
    assert 0 < len(tried) <= ALL_UNPROVEN_BURST + ALL_UNPROVEN_RATE * (net.now - began) + 1
    assert {len(item.data) for item in tried} == {CHALLENGE}


@pytest.mark.parametrize("kind", ["wrong", "reflected", "from elsewhere", "of the other way", "twice", "right"])
def test_attack_52_answers_of_ways(kind: str) -> None:
    """Attack 52: sealed answers prove a way only by its own nonce, from its own address, once."""
    net, a, b = pair(523)
    other = Address("10.0.0.77", 5000)
    net.intercept(lambda now, source, destination, data: [])  # nothing a node itself sends arrives from now on
    hostile(net, b, a, [Candidates(1, named(other))])
    ways = {way.address: way for way in peer_of(a, b).ways}
    net.run(0.1)
    (nonce,) = ways[other].nonces
    of_present = next(iter(ways[b.address].nonces))
    answers: dict[str, tuple[Frame, Address]] = {
        "wrong": (PathResponse(bytes(8)), other),
        "reflected": (PathChallenge(nonce), other),
        "from elsewhere": (PathResponse(nonce), VICTIM),
        "of the other way": (PathResponse(of_present), other),
        "twice": (PathResponse(nonce), other),
        "right": (PathResponse(nonce), other),
    }
    frame, source = answers[kind]
    for _ in range(2 if kind == "twice" else 1):
        (datagram,) = seal_raw(b, a, serialise(frame).ljust(16, b"\0"))
        net.inject(source, a.address, datagram)
    net.run(0)
    good = kind in ("twice", "right")
    assert ways[other].answers == good
    assert peer_of(a, b).ways.is_standby(other) is good
    assert status(a, b).address == b.address


def test_attack_52_recorded_answers_prove_nothing_later() -> None:
    """Attack 52: the answers of a round, sent again in the next one, from the right address."""
    net = SimNet(524, link=LINK)
    a, b = dual(net, "a", 1), dual(net, "b", 2)
    delay = Delay(net)
    delay.seconds[six(b)] = 0.05  # a standby that is worse
    tell(a, b)
    record = Recorder(net)
    add(a, b)
    add(b, a)
    until(net, lambda: peer_of(a, b).ways.is_standby(six(b)), 5)
    recorded = [item.data for item in record.of(RECORD) if item.source == six(b)]
    delay.seconds[six(b)] = None
    for _ in range(4):
        for datagram in recorded:
            net.inject(six(b), a.address, datagram)
        net.run(ROUND / 2)
    assert drops(a, "replayed") >= 4 * len(recorded)
    assert not peer_of(a, b).ways.is_standby(six(b))
    assert status(a, b).state is PeerState.CONNECTED


def test_attack_75_copies_that_seem_to_come_from_a_standby() -> None:
    """Attacks 51 and 75: an attacker races every packet of the peer to us under the address of its standby.

    The present path still answers, so nothing moves, however long it goes on, and little is sent for it.
    """
    net = SimNet(75, link=LINK)
    a, b = dual(net, "a", 1), dual(net, "b", 2)
    delay = Delay(net)
    delay.seconds[six(b)] = 0.03
    tell(a, b)
    add(a, b)
    add(b, a)
    until(net, lambda: peer_of(a, b).ways.is_standby(six(b)), 5)
    net.run(5)
    copied = 0

    def race(now: float, source: Address, destination: Address, data: bytes) -> None:
        nonlocal copied
        if source == b.address:
            copied += 1
            net.inject(six(b), a.address, data, 0.005)

    net.tap(race)
    record = Recorder(net)
    for number in range(60):
        send(b, a, b"%d" % number)
        net.run(1)
    assert copied > 60
    assert EventKind.ROAMED not in kinds(a)
    assert arrived(a) == [b"%d" % number for number in range(60)]
    assert len([item for item in record.items if item.destination == six(b)]) < 60
    alive(net, a, b, size=10_000)


def test_attack_75_copies_from_an_attackers_own_address_make_no_standby() -> None:
    """Attack 75: who passes on what both say is not remembered as a way to the peer, whatever it answers."""
    net, a, b = pair(751)
    net.add_host("m", VICTIM.host)

    def race(
        now: float, source: Address, destination: Address, data: bytes
    ) -> list[tuple[Address, Address, bytes]] | None:
        if source == b.address:
            net.inject(VICTIM, a.address, data, 0.005)
        elif destination == VICTIM:
            return [(source, b.address, data)]
        return None

    net.intercept(race)
    for number in range(20):
        send(b, a, b"%d" % number)
        net.run(0.5)
    assert events(a, EventKind.ROAMED) == []
    assert [way.address for way in peer_of(a, b).ways] == [b.address]
