"""Candidates are exchanged, other ways are found, the best is taken, and another one when it falls silent."""

from __future__ import annotations

import random
from typing import Any

import pytest

from srmudp.models import Address, Candidate, CandidateKind, EventKind, PeerStatus
from srmudp.peers.endpoint import AcceptPolicy, Discovery
from srmudp.peers.jobs import TokenBucket
from srmudp.peers.ways import Ways
from srmudp.wire.packet import PUNCH
from tests.endpoints import (
    LINK,
    Recorder,
    add,
    alive,
    arrived,
    connect,
    events,
    kinds,
    make_node,
    peer_of,
    send,
    status,
    transfer,
    until,
)
from tests.simnet import Link, Nat, SimNet, SimNode


def tell(*sims: SimNode) -> None:
    """Each says what addresses its interfaces have."""
    for sim in sims:
        sim.do(sim.node.whereabouts.set_hosts, [Address(ip, sim.port) for ip in sim.host.addresses])


def dual(net: SimNet, name: str, number: int) -> SimNode:
    """A node on the public net with an IPv4 and an IPv6 address."""
    net.add_host(name, f"198.51.{number}.7", f"2001:db8:{number}::7")
    return make_node(net, name, "")


def six(sim: SimNode) -> Address:
    return next(Address(ip, sim.port) for ip in sim.host.addresses if ":" in ip)


def roamed(sim: SimNode) -> list[tuple[Address | None, str]]:
    return [(event.address, event.reason) for event in events(sim, EventKind.ROAMED)]


class Delay:
    """Datagrams between some addresses take longer, or do not arrive."""

    def __init__(self, net: SimNet) -> None:
        self.net = net
        self.seconds: dict[Address, float | None] = {}
        net.intercept(self)

    def __call__(self, now: float, source: Address, destination: Address, data: bytes) -> list[Any] | None:
        found = [self.seconds[where] for where in (source, destination) if where in self.seconds]
        if not found:
            return None
        if None not in found:
            self.net.inject(source, destination, data, 0.01 + max(found))  # type: ignore[type-var]
        return []


# --- what is told


def test_connected_peers_tell_each_other_their_addresses() -> None:
    net = SimNet(1, link=LINK)
    a, b = dual(net, "a", 1), dual(net, "b", 2)
    tell(a, b)
    connect(net, a, b)
    net.run(3)
    claimed = [way.candidate for way in peer_of(a, b).ways]
    assert Candidate(CandidateKind.HOST, six(b)) in claimed
    record = Recorder(net)
    net.run(300)
    assert {item.destination for item in record.items} <= {a.address, b.address, six(a), six(b)}


def test_without_other_addresses_nothing_is_asked() -> None:
    """One way is all there is: no round, no timer, not a datagram more."""
    net = SimNet(2, link=LINK)
    a, b = make_node(net, "a", "198.51.1.7"), make_node(net, "b", "198.51.2.7")
    tell(a, b)
    connect(net, a, b)
    net.run(200)
    for sim, other in ((a, b), (b, a)):
        ways = peer_of(sim, other).ways
        assert ways.next_at == float("inf")
        assert sum(way.sent for way in ways) == 0


def test_what_changes_is_told_to_the_connected() -> None:
    net = SimNet(3, link=LINK)
    net.add_host("b", "198.51.2.7", "2001:db8:2::7")
    a, b = dual(net, "a", 1), make_node(net, "b", "")
    tell(a)
    b.do(b.node.whereabouts.set_hosts, [b.address])
    connect(net, a, b)
    net.run(5)
    assert status(a, b).address == b.address
    tell(b)
    until(net, lambda: status(a, b).address == six(b), 5)
    until(net, lambda: status(b, a).address == six(a), 5)


def test_what_servers_see_is_told_and_what_one_peer_sees_is_not() -> None:
    net = SimNet(4, link=LINK)
    net.add_nat("home", "203.0.113.1", Nat())
    a, b = make_node(net, "a", "192.168.1.2", behind="home"), make_node(net, "b", "198.51.2.7")
    server = make_node(net, "server", "198.51.3.7", port=3478, serve_stun=True)
    tell(a, b)
    connect(net, a, b)
    net.run(3)
    host = Candidate(CandidateKind.HOST, a.address)
    assert a.node.whereabouts.candidates(net.now) == (host,)
    a.do(a.node.stun.ask, Discovery(), [(server.address, a.address)])
    net.run(3)
    mapped = net.mapped(a, b.address)
    assert a.node.whereabouts.candidates(net.now) == (host, Candidate(CandidateKind.SERVER_REFLEXIVE, mapped))
    forwarded = Candidate(CandidateKind.MAPPED, Address("203.0.113.1", 4444))
    a.do(a.node.whereabouts.set_mapped, [forwarded.address])
    assert forwarded in a.node.whereabouts.candidates(net.now)


def test_what_two_networks_see_is_told() -> None:
    net = SimNet(5, link=LINK)
    net.add_nat("home", "203.0.113.1", Nat())
    a = make_node(net, "a", "192.168.1.2", behind="home")
    others = [make_node(net, name, f"198.51.{n}.7") for n, name in enumerate("bcd", 2)]
    tell(a, *others)
    for other in others[:2]:
        connect(net, a, other)
    net.run(3)
    seen = Candidate(CandidateKind.PEER_REFLEXIVE, net.mapped(a, others[0].address))
    assert seen in a.node.whereabouts.candidates(net.now)
    assert seen.address in [way.address for way in peer_of(others[0], a).ways]


def test_a_stranger_that_waits_is_told_nothing() -> None:
    net = SimNet(6, link=LINK)
    a = make_node(net, "a", "198.51.1.7", accept=AcceptPolicy.ASK)
    b = make_node(net, "b", "198.51.2.7")
    a.do(a.node.whereabouts.set_hosts, [a.address, Address("2001:db8:1::7", a.port)])
    add(b, a, pin=True)
    until(net, lambda: EventKind.PENDING in kinds(a))
    net.run(5)
    assert "a" not in [name for name, one in b.node.statuses(net.now).items() if one.established]
    a.do(a.node.admit, b.node.peer_id, True)
    until(net, lambda: status(b, a).established)
    net.run(3)
    assert Address("2001:db8:1::7", a.port) in [way.address for way in peer_of(b, a).ways]


# --- the best way is taken


@pytest.mark.parametrize("loss", [0.0, 0.2])
def test_two_in_one_home_move_from_the_hairpin_to_their_network(loss: float) -> None:
    """They know their public addresses alone; the transfer under way loses nothing."""
    net = SimNet(10, link=LINK, lan=Link(latency=0.0005, loss=loss))
    net.add_nat("home", "203.0.113.1", Nat(hairpin=True))
    a = make_node(net, "a", "192.168.1.2", behind="home")
    b = make_node(net, "b", "192.168.1.3", behind="home")
    public = [net.mapped(sim, Address("198.51.100.1", 1)) for sim in (a, b)]
    tell(a, b)
    add(a, b, address=public[1])
    add(b, a, address=public[0])
    contents = [net.random.randbytes(50_000) for _ in range(10)]
    for content in contents:
        send(a, b, content)
    until(net, lambda: status(a, b).address == b.address and status(b, a).address == a.address, 20 if not loss else 140)
    until(net, lambda: a.node.pending == 0, 60)
    assert arrived(b) == contents
    assert "on our own network" in roamed(a)[0][1]
    assert EventKind.LOST not in kinds(a) + kinds(b)
    alive(net, a, b, size=20_000)


@pytest.mark.parametrize("hairpin", [True, False])
def test_two_in_one_home_that_know_all_their_addresses_race(hairpin: bool) -> None:
    net = SimNet(11, link=LINK)
    net.add_nat("home", "203.0.113.1", Nat(hairpin=hairpin))
    a = make_node(net, "a", "192.168.1.2", behind="home")
    b = make_node(net, "b", "192.168.1.3", behind="home")
    tell(a, b)
    public = {sim: net.mapped(sim, Address("198.51.100.1", 1)) for sim in (a, b)}
    for sim, other, name in ((a, b, "b"), (b, a, "a")):
        sim.do(sim.node.add_peer, name, [public[other], other.address], other.node.peer_id)
    until(net, lambda: status(a, b).established and status(b, a).established, 1)
    until(net, lambda: status(a, b).address == b.address and status(b, a).address == a.address, 2)
    transfer(net, a, b, bytes(100_000))


def test_two_homes_with_one_network_number_are_not_confused() -> None:
    """Both are 192.168.1.2: neither answers for the other, and they talk by their public addresses."""
    net = SimNet(12, link=LINK)
    sims = []
    for n, name in enumerate("ab", 1):
        net.add_nat("home " + name, f"203.0.113.{n}", Nat())
        sims.append(make_node(net, name, "192.168.1.2", behind="home " + name))
    a, b = sims
    make_node(net, "printer", "192.168.1.9", behind="home a", accept=AcceptPolicy.EVERYBODY)
    tell(a, b)
    b.do(b.node.whereabouts.set_hosts, [b.address, Address("192.168.1.9", b.port)])
    far = Address("198.51.100.1", 1)
    for sim, other in ((a, b), (b, a)):
        add(sim, other, pin=True, address=net.mapped(other, far))
    until(net, lambda: status(a, b).established and status(b, a).established)
    net.run(200)
    assert kinds(a) == kinds(b) == [EventKind.CONNECTED]
    assert status(a, b).address == net.mapped(b, far)


def test_ipv6_is_taken_when_it_is_as_good() -> None:
    net = SimNet(13, link=LINK)
    a, b = dual(net, "a", 1), dual(net, "b", 2)
    tell(a, b)
    connect(net, a, b)
    until(net, lambda: status(a, b).address == six(b) and status(b, a).address == six(a), 3)
    assert [reason for _, reason in roamed(a)] == ["a nearer way, 20.0 ms instead of 20.0 ms"]
    net.run(300)
    assert len(roamed(a)) == len(roamed(b)) == 1
    alive(net, a, b, size=20_000)


@pytest.mark.parametrize("slower", [0.01, 0.0001])
def test_ipv6_is_left_when_it_is_slower(slower: float) -> None:
    """By more than a margin: 20 ms are none, a fifth of a millisecond is."""
    net = SimNet(14, link=LINK)
    a, b = dual(net, "a", 1), dual(net, "b", 2)
    delay = Delay(net)
    delay.seconds[six(b)] = slower
    tell(a, b)
    connect(net, a, b)
    net.run(200)
    taken = slower < 0.001
    assert (status(a, b).address == six(b)) is taken
    assert (status(b, a).address == six(a)) is taken
    assert len(roamed(a)) == taken


def test_a_clearly_faster_way_is_taken_and_two_alike_do_not_take_turns() -> None:
    net = SimNet(15, link=Link(latency=0.01, jitter=0.002))
    a, b = dual(net, "a", 1), dual(net, "b", 2)
    delay = Delay(net)
    delay.seconds[six(b)] = 0.02
    tell(a, b)
    a.do(a.node.add_peer, "b", [six(b)], b.node.peer_id)
    b.do(b.node.add_peer, "a", [six(a)], a.node.peer_id)
    until(net, lambda: status(a, b).address == b.address and status(b, a).address == a.address, 5)
    assert "a faster way" in roamed(a)[0][1]
    delay.seconds.clear()
    net.run(1200)
    assert len(roamed(a)) <= 2
    assert len(roamed(b)) <= 2


def test_a_way_that_opens_later_is_found_within_a_round() -> None:
    net = SimNet(16, link=LINK)
    a, b = dual(net, "a", 1), dual(net, "b", 2)
    delay = Delay(net)
    delay.seconds[six(b)] = None
    tell(a, b)
    connect(net, a, b)
    net.run(300)
    assert status(a, b).address == b.address
    delay.seconds.clear()
    until(net, lambda: status(a, b).address == six(b) and status(b, a).address == six(a), 140)


def test_both_ends_come_to_use_the_same_way() -> None:
    """Where both are as good and the ends chose differently, one follows the other."""
    net = SimNet(17, link=LINK)
    a, b = dual(net, "a", 1), dual(net, "b", 2)
    tell(a, b)
    connect(net, a, b)
    net.run(5)
    one, other = (a, b) if session_is_ours(a, b) else (b, a)
    peer = peer_of(one, other)
    one.do(lambda now: peer._move(other.address, "for the test", now))
    send(one, other, b"x")
    until(net, lambda: is_six(status(a, b)) == is_six(status(b, a)), 90)
    net.run(200)
    assert is_six(status(a, b)) == is_six(status(b, a))


def is_six(known: PeerStatus) -> bool:
    return known.address is not None and ":" in known.address.host


def session_is_ours(a: SimNode, b: SimNode) -> bool:
    session = peer_of(a, b).connection.session
    assert session is not None
    return session.agreed.initiator


# --- when the present way falls silent


@pytest.mark.parametrize("busy", [True, False])
def test_a_standby_takes_over_when_the_path_falls_silent(busy: bool) -> None:
    net = SimNet(20, link=LINK)
    a, b = dual(net, "a", 1), dual(net, "b", 2)
    delay = Delay(net)
    tell(a, b)
    connect(net, a, b)
    until(net, lambda: status(a, b).address == six(b) and status(b, a).address == six(a), 3)
    net.run(10)
    delay.seconds[six(a)] = delay.seconds[six(b)] = None
    cut = net.now
    if busy:
        transfer(net, a, b, net.random.randbytes(200_000), timeout=2)
        assert net.now - cut < 1.0
    until(net, lambda: status(a, b).address == b.address, 9)
    until(net, lambda: status(b, a).address == a.address, 12)
    assert roamed(a)[-1][1] in ("the way used before fell silent", "it is heard from there now")
    assert EventKind.LOST not in kinds(a) + kinds(b)
    alive(net, a, b, size=20_000)
    delay.seconds.clear()
    until(net, lambda: status(a, b).address == six(b) and status(b, a).address == six(a), 140)


def test_after_a_silence_of_all_ways_the_standbys_are_punched_as_well() -> None:
    """The user gave an address that is dead by now; what answered during the session brings them together again."""
    net = SimNet(21, link=LINK)
    a, b = dual(net, "a", 1), dual(net, "b", 2)
    tell(a, b)
    connect(net, a, b)
    until(net, lambda: status(a, b).address == six(b), 3)
    net.run(70)
    delay = Delay(net)
    for address in (a.address, b.address, six(a), six(b)):
        delay.seconds[address] = None
    until(net, lambda: EventKind.LOST in kinds(a), 40)
    record = Recorder(net)
    net.run(5)
    punched = {item.destination for item in record.of(PUNCH) if item.source in (a.address, six(a))}
    assert punched == {b.address, six(b)}
    delay.seconds = {b.address: None, a.address: None}
    until(net, lambda: status(a, b).established and status(b, a).established, 30)


def test_a_short_outage_of_everything_moves_nothing_needlessly() -> None:
    net = SimNet(22, link=LINK)
    a, b = dual(net, "a", 1), dual(net, "b", 2)
    tell(a, b)
    connect(net, a, b)
    until(net, lambda: status(a, b).address == six(b) and status(b, a).address == six(a), 3)
    net.partition("a", "b")
    send(a, b, bytes(10_000))
    net.run(8)
    net.heal()
    until(net, lambda: a.node.pending == 0, 5)
    net.run(140)
    assert status(a, b).address == six(b)
    assert len(roamed(a)) + len(roamed(b)) <= 6
    assert EventKind.LOST not in kinds(a) + kinds(b)


# --- the race at the beginning


def test_many_addresses_are_punched_one_after_the_other() -> None:
    """Sixteen given addresses: never more than four in one moment, all of them within a tick, the nearest first."""
    net = SimNet(30, link=LINK)
    net.add_host("a", "192.168.1.2", "2001:db8:1::7")
    a = make_node(net, "a", "")
    tell(a)
    given = [Address(f"203.0.113.{n}", 5000) for n in range(1, 15)]
    given += [Address("2001:db8:2::7", 5000), Address("192.168.1.7", 5000)]
    times: dict[float, list[Address]] = {}

    def note(now: float, source: Address, destination: Address, *rest: object) -> None:
        times.setdefault(now, []).append(destination)

    net.tap(note)
    net.tap_openers(note)
    a.do(a.node.add_peer, "b", given, None)
    net.run(0.1)
    assert sorted(given) == sorted(address for some in times.values() for address in some)
    assert max(map(len, times.values())) <= 4
    assert next(iter(times.values()))[:2] == [given[-1], given[-2]]


def test_the_first_that_is_proven_carries_and_the_better_takes_over() -> None:
    net = SimNet(31, link=LINK)
    a, b = dual(net, "a", 1), dual(net, "b", 2)
    delay = Delay(net)
    delay.seconds[b.address] = 0.05
    everywhere = {sim: [sim.address, six(sim), Address("203.0.113.9", 9)] for sim in (a, b)}
    a.do(a.node.add_peer, "b", everywhere[b], None)
    b.do(b.node.add_peer, "a", everywhere[a], None)
    until(net, lambda: status(a, b).established and status(b, a).established, 1)
    until(net, lambda: status(a, b).address == six(b) and status(b, a).address == six(a), 5)
    alive(net, a, b, size=20_000)


# --- the rule itself


def test_a_path_is_not_left_because_of_the_queue_that_we_fill() -> None:
    """Its round trips were 20 ms before the transfer began and are 200 ms now; the other way takes 30 ms."""
    four, six = Address("203.0.113.7", 5000), Address("2001:db8::7", 5000)
    for floor, taken in ((0.020, False), (0.200, True)):
        ways = Ways(random.Random(1).randbytes, TokenBucket(1, 100))
        ways.start(six, [four], [], 0.0)
        sent: dict[Address, list[tuple[bytes, float]]] = {six: [], four: []}
        for step in range(3000):
            now = step / 1000
            for where, nonce in ways.due(now) if now >= ways.next_at else ():
                sent[where].append((nonce, now))
            for where, delay in ((six, 0.2), (four, 0.03)):
                while sent[where] and sent[where][0][1] + delay <= now:
                    ways.on_response(sent[where].pop(0)[0], where, now)
        move = ways.decide(3.0, floor)
        assert (move is not None and move.address == four) is taken


@pytest.mark.parametrize(
    ("address", "rtt", "present", "present_rtt", "taken"),
    [
        ("192.168.1.7", 0.004, "203.0.113.7", 0.001, True),  # on our own network, and busy for a moment
        ("192.168.1.7", 0.008, "203.0.113.7", 0.001, False),
        ("203.0.113.7", 0.001, "192.168.1.7", 0.008, False),  # not given up for a trifle
        ("203.0.113.7", 0.001, "192.168.1.7", 0.050, True),
        ("2001:db8::7", 0.024, "203.0.113.7", 0.020, True),
        ("2001:db8::7", 0.027, "203.0.113.7", 0.020, False),
        ("203.0.113.7", 0.017, "2001:db8::7", 0.020, False),
        ("203.0.113.7", 0.010, "2001:db8::7", 0.020, True),
        ("203.0.113.8", 0.010, "203.0.113.7", 0.011, False),
        ("10.9.9.9", 0.020, "203.0.113.7", 0.020, False),  # somebody's private network, over a VPN perhaps
        ("10.9.9.9", 0.010, "203.0.113.7", 0.020, True),
    ],
)
def test_which_way_is_better(address: str, rtt: float, present: str, present_rtt: float, taken: bool) -> None:
    """And whichever was taken is not left again for the other while nothing changes."""
    for first, second, expected in ((present, address, taken), (address, present, False)):
        if first == address and not taken:
            continue
        times = {Address(address, 5000): rtt, Address(present, 5000): present_rtt}
        ways = Ways(random.Random(1).randbytes, TokenBucket(1, 100))
        ways.start(Address(first, 5000), [Address(second, 5000)], [Address("192.168.1.2", 5000)], 0.0)
        answers: list[tuple[float, bytes, Address]] = []
        move = None
        for step in range(4000):
            now = step / 1000
            if now >= ways.next_at:
                answers += [(now + times[where], nonce, where) for where, nonce in ways.due(now)]
            for answer in [one for one in answers if one[0] <= now]:
                answers.remove(answer)
                assert ways.on_response(answer[1], answer[2], now)
                move = move or ways.decide(now)
        assert (move is not None) is expected, move
