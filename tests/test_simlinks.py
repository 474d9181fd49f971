"""Simulated NATs behave as RFC 4787 names it, and punching through them succeeds where it does in the world."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from srmudp.models import Address
from tests.simnet import NAT_PROFILES, Link, Nat, SimNet, SimNode
from tests.test_simnet import B, Toy

S1, S1B, S2 = Address("198.51.100.1", 1000), Address("198.51.100.1", 2000), Address("198.51.100.2", 1000)
INSIDE = "192.168.1.2"


class Home:
    """A toy behind a NAT, and three servers on two addresses outside."""

    def __init__(self, nat: Nat, **options: Any) -> None:
        self.net = SimNet(**options)
        self.nat = self.net.add_nat("home", "203.0.113.1", nat)
        inside = INSIDE if nat.mapping != "NONE" else "203.0.113.77"
        self.net.add_host("a", inside, behind="home")
        self.a = Toy()
        self.sim = self.net.attach(self.a, "a", 5000)
        self.net.add_host("s1", S1.host)
        self.net.add_host("s2", S2.host)
        self.servers = {S1: Toy(), S1B: Toy(), S2: Toy()}
        self.sims = {
            address: self.net.attach(toy, "s1" if address.host == S1.host else "s2", address.port)
            for address, toy in self.servers.items()
        }

    def seen_by(self, server: Address, sim: SimNode | None = None) -> Address:
        """The source address that the server sees when the toy writes to it."""
        toy = self.servers[server]
        count = len(toy.got)
        who = sim or self.sim
        who.do(who.node.send, server, b"stun")
        assert self.net.run_until(lambda: len(toy.got) > count, 1)
        return toy.got[-1][2]

    def reaches(self, server: Address, mapped: Address) -> bool:
        """Whether a datagram of the server to the mapped address arrives inside."""
        count = len(self.a.got)
        self.sims[server].do(self.servers[server].send, mapped, b"in")
        self.net.run(0.1)
        return len(self.a.got) > count


@pytest.mark.parametrize(
    ("mapping", "same_for_port", "same_for_host"),
    [("EIM", True, True), ("ADM", True, False), ("APDM", False, False), ("NONE", True, True)],
)
def test_mapping(mapping: Any, same_for_port: bool, same_for_host: bool) -> None:
    home = Home(Nat(mapping=mapping, ports="random"))
    first = home.seen_by(S1)
    assert first == home.seen_by(S1) == home.net.mapped(home.sim, S1)
    assert (home.seen_by(S1B) == first) is same_for_port
    assert (home.seen_by(S2) == first) is same_for_host
    assert (first == home.sim.address) is (mapping == "NONE")
    assert (first.host == "203.0.113.1") is (mapping != "NONE")


@pytest.mark.parametrize(
    ("filtering", "other_port", "other_host"), [("EIF", True, True), ("ADF", True, False), ("APDF", False, False)]
)
def test_filtering(filtering: Any, other_port: bool, other_host: bool) -> None:
    home = Home(Nat(mapping="EIM", filtering=filtering))
    mapped = home.seen_by(S1)
    assert home.reaches(S1, mapped)
    assert home.reaches(S1B, mapped) is other_port
    assert home.reaches(S2, mapped) is other_host
    assert home.net.counts["nat_filtered"] == (not other_port) + (not other_host)
    home.seen_by(S2)  # an outbound datagram opens it
    assert home.reaches(S2, mapped)
    assert not home.reaches(S1, Address(mapped.host, mapped.port + 1))
    assert home.net.counts["nat_unmapped"] == 1


def test_a_firewall_and_an_open_router_translate_nothing() -> None:
    home = Home(Nat.profile("firewall"))
    assert not home.reaches(S1, home.sim.address)
    assert home.seen_by(S1) == home.sim.address
    assert home.reaches(S1, home.sim.address)
    assert not home.reaches(S2, home.sim.address)
    home = Home(Nat.profile("open"))
    assert home.reaches(S1, home.sim.address)


def test_port_preservation_and_clash() -> None:
    home = Home(Nat())
    home.net.add_host("b", "192.168.1.3", behind="home")
    other = home.net.attach(Toy(), "b", 5000)
    assert home.seen_by(S1).port == 5000
    assert home.seen_by(S1, other).port == 5001


def test_sequential_and_random_ports() -> None:
    home = Home(Nat.profile("symmetric-seq"))
    first = home.seen_by(S1).port
    assert [home.seen_by(server).port for server in (S1B, S2)] == [first + 1, first + 2]
    home = Home(Nat.profile("symmetric"))
    ports = [home.seen_by(server).port for server in (S1, S1B, S2)]
    assert len({5000, *ports}) == 4
    assert len({b - a for a, b in itertools.pairwise(ports)}) == 2


@pytest.mark.parametrize("refresh_inbound", [False, True])
def test_lifetime_is_refreshed_by_outbound_datagrams(refresh_inbound: bool) -> None:
    home = Home(Nat(lifetime=2.0, ports="random", refresh_inbound=refresh_inbound))
    mapped = home.seen_by(S1)
    home.net.run(1.0)
    assert home.reaches(S1, mapped)
    home.net.run(1.5)
    assert home.reaches(S1, mapped) is refresh_inbound
    home.seen_by(S1)
    home.net.run(1.5)
    again = home.seen_by(S1)
    home.net.run(1.5)
    assert home.reaches(S1, again)
    home.net.run(4.0)
    assert not home.reaches(S1, again)
    assert home.seen_by(S1) != again


def test_permissions_age_one_by_one() -> None:
    home = Home(Nat(lifetime=2.0))
    mapped = home.seen_by(S1)
    home.net.run(1.5)
    home.seen_by(S2)
    home.net.run(1.0)
    assert home.reaches(S2, mapped)
    assert not home.reaches(S1, mapped)


def test_rebinding_gives_another_port_or_another_address() -> None:
    home = Home(Nat())
    before = home.seen_by(S1)
    home.nat.rebind()
    assert not home.reaches(S1, before)
    after = home.seen_by(S1)
    assert after.host == before.host
    assert after.port != before.port
    assert home.reaches(S1, after)
    home.nat.rebind("203.0.113.9")
    moved = home.seen_by(S1)
    assert moved.host == "203.0.113.9"
    assert home.reaches(S1, moved)
    assert not home.reaches(S1, after)
    assert home.net.counts["no_route"] == 1


@pytest.mark.parametrize("hairpin", [False, True])
def test_hairpin(hairpin: bool) -> None:
    home = Home(Nat(filtering="EIF", hairpin=hairpin))
    home.net.add_host("b", "192.168.1.3", behind="home")
    b = Toy()
    other = home.net.attach(b, "b", 6000)
    external = home.seen_by(S1)
    other.do(b.send, external, b"by the outside")
    other.do(b.send, home.sim.address, b"by the inside")
    home.net.run(1)
    sources = [source for _, _, source in home.a.got]
    outside = [Address("203.0.113.1", 6000)] if hairpin else []
    assert sorted(sources) == sorted([*outside, Address("192.168.1.3", 6000)])
    assert home.net.counts["nat_hairpin"] == (not hairpin)


def test_port_forward_and_blocked_udp() -> None:
    home = Home(Nat())
    home.nat.forward(7000, home.sim.address)
    assert home.reaches(S2, Address("203.0.113.1", 7000))
    home = Home(Nat.profile("tcp-only"))
    home.sim.do(home.a.send, S1, b"x")
    assert not home.reaches(S1, Address("203.0.113.1", 5000))
    assert home.net.counts["nat_blocked"] == 2


def test_linux_shares_a_port_until_a_stranger_takes_it() -> None:
    home = Home(Nat.profile("linux"))
    assert {home.seen_by(server).port for server in (S1, S1B, S2)} == {5000}
    for profile, port in (("linux", 5000), ("linux-open", 5001)):
        home = Home(Nat.profile(profile))
        assert not home.reaches(S1, Address("203.0.113.1", 5000))  # unsolicited, before our own first datagram
        assert home.seen_by(S1).port == port
        assert home.seen_by(S2).port == 5000


def test_a_carrier_forgets_a_mapping_however_much_it_is_used() -> None:
    home = Home(Nat(ports="random", lifetime=60, expiry=300))
    first = home.seen_by(S1)
    for _ in range(14):
        home.net.run(20)
        assert home.seen_by(S1) == first
    home.net.run(21)
    assert not home.reaches(S1, first)
    second = home.seen_by(S1)
    assert second != first
    assert home.reaches(S1, second)


@pytest.mark.parametrize("ports", ["preserve", "sequential", "random"])
def test_when_all_ports_are_taken_new_flows_are_dropped_and_old_ones_go_on(ports: Any) -> None:
    home = Home(Nat(mapping="APDM", ports=ports, pool=2, lifetime=100))
    seen = {home.seen_by(S1), home.seen_by(S2)}
    assert {address.port for address in seen} == {1024, 1025}
    home.sim.do(home.a.send, S1B, b"one too many")
    home.net.run(1)
    assert home.servers[S1B].got == []
    assert home.net.counts["nat_exhausted"] == 1
    assert home.seen_by(S1) in seen
    home.net.run(99.5)
    assert home.seen_by(S1B) in seen  # the one of S2 was free again


def test_subscribers_have_blocks_of_ports() -> None:
    home = Home(Nat(mapping="APDM", ports="random", pool=8, block=True))
    home.net.add_host("c", "192.168.1.3", behind="home")
    other = home.net.attach(Toy(), "c", 5000)
    mine = {home.seen_by(server).port for server in (S1, S1B, S2)}
    others = {home.seen_by(server, other).port for server in (S1, S1B, S2)}
    assert mine <= set(range(1024, 1032))
    assert others <= set(range(1032, 1040))
    assert len(mine) == len(others) == 3
    with pytest.raises(ValueError, match="block needs a pool"):
        Nat(block=True)


def test_carrier_nat_in_front_of_homes() -> None:
    net = SimNet()
    net.add_nat("carrier", "203.0.113.1", Nat(hairpin=True))
    toys = {}
    for number in (1, 2):
        net.add_nat(f"home{number}", f"100.64.0.{number}", Nat(), behind="carrier")
        net.add_host(f"h{number}", "192.168.1.2", behind=f"home{number}")  # the same private address twice
        toys[number] = net.attach(Toy(), f"h{number}", 5000)
    net.add_host("s", S1.host)
    server = Toy()
    net.attach(server, "s", S1.port)
    mapped = {number: net.mapped(toys[number], S1) for number in toys}
    assert mapped == {1: Address("203.0.113.1", 5000), 2: Address("203.0.113.1", 5001)}
    for number, other in ((1, 2), (2, 1)) * 2:  # punch through the carrier's hairpin
        toys[number].do(toys[number].node.send, mapped[other], b"punch")
        net.run(0.1)
    assert [source for _, _, source in toys[1].node.got][-1] == mapped[2]
    assert [source for _, _, source in toys[2].node.got][-1] == mapped[1]
    toys[1].do(toys[1].node.send, S1, b"out")
    net.run(0.1)
    assert server.got[-1][2] == mapped[1]
    net.link("h1", "h2", Link(latency=3.0))  # both are behind the carrier: between the two homes
    net.partition("h1", "s")
    toys[1].do(toys[1].node.send, mapped[2], b"slow")
    toys[1].do(toys[1].node.send, S1, b"cut")
    net.run(2.9)
    assert b"slow" not in toys[2].node.data
    net.run(0.2)
    assert b"slow" in toys[2].node.data
    assert b"cut" not in server.data


def test_ipv6_behind_a_nat_is_firewalled_not_translated() -> None:
    net = SimNet()
    net.add_nat("home", "203.0.113.1", Nat.profile("full-cone"))
    net.add_host("a", INSIDE, "2001:db8:1::2", behind="home")
    net.add_host("b", B.host, "2001:db8:2::2")
    a, b = Toy(), Toy()
    sim, other = net.attach(a, "a", 1), net.attach(b, "b", 2)
    a6, b6 = Address("2001:db8:1::2", 1), Address("2001:db8:2::2", 2)
    other.do(b.send, a6, b"unsolicited")
    net.run(0.1)
    assert a.got == []
    sim.do(a.send, b6, b"out")
    sim.do(a.send, Address(B.host, 2), b"out4")
    net.run(0.1)
    assert [source for _, _, source in b.got] == [a6, Address("203.0.113.1", 1)]
    other.do(b.send, a6, b"in")
    net.run(0.1)
    assert a.data == [b"in"]


def punches(first: str, second: str) -> bool:
    """Two hosts behind NATs punch every 200 ms for 3 s at the address that a server saw of the other."""
    net = SimNet()
    sims = []
    for number, profile in enumerate((first, second), 1):
        net.add_nat(f"n{number}", f"203.0.113.{number}", Nat.profile(profile))
        private = f"192.168.{number}.2" if NAT_PROFILES[profile].get("mapping") != "NONE" else f"203.0.113.{number}7"
        net.add_host(f"h{number}", private, behind=f"n{number}")
        sims.append(net.attach(Toy(), f"h{number}", 5000 + number))
    net.add_host("s", S1.host)
    targets = [net.mapped(sim, S1) for sim in sims]
    for tick in range(15):
        for sim, target in zip(sims, reversed(targets), strict=True):
            sim.do(sim.node.send, sim.node.got[-1][2] if sim.node.got else target, b"%d" % tick)
        net.run(0.2)
    return all(sim.node.got for sim in sims)


@pytest.mark.parametrize(
    ("first", "second", "success"),
    [
        ("open", "symmetric", True),
        ("firewall", "firewall", True),
        ("full-cone", "symmetric", True),
        ("restricted", "symmetric", True),
        ("port-restricted", "port-restricted", True),
        ("port-restricted", "symmetric", False),
        ("port-restricted", "symmetric-seq", False),
        ("restricted", "symmetric-adm", True),
        ("symmetric-adm", "symmetric-adm", False),
        ("symmetric", "symmetric", False),
        ("linux", "port-restricted", True),
        ("linux", "linux", True),
        ("linux-random", "firewall", False),
        ("linux-random", "restricted", True),
        ("linux-open", "full-cone", True),
        ("open", "tcp-only", False),
    ],
)
def test_plain_punching_succeeds_where_it_does_in_the_world(first: str, second: str, success: bool) -> None:
    """Punching that answers the observed address; measured with real and exact NATs."""
    assert punches(first, second) is punches(second, first) is success
