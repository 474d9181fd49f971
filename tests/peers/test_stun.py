"""STUN on the socket that punches: discovery through simulated NATs, the server role, and what peers say they see."""

from __future__ import annotations

from typing import Any

import pytest

from srmudp.models import Address, MappedPort, NatBehaviour, PublicAddress
from srmudp.peers.endpoint import Discovery
from srmudp.peers.stun import ANSWERS, GRACE, MAX_NETWORKS, NETWORK_ANSWERS
from srmudp.protocol.controls import Controls
from srmudp.protocol.events import ServerAnswered
from srmudp.wire.frames import ObservedAddress
from srmudp.wire.stun import StunClass, StunMessage, parse_stun
from tests.endpoints import (
    LINK,
    Recorder,
    add,
    alive,
    connect,
    drops,
    hostile,
    make_node,
    pair,
    peer_of,
    status,
    until,
)
from tests.simnet import Nat, SimNet, SimNode

ONE, ONE_B, TWO = Address("198.51.100.1", 3478), Address("198.51.100.1", 3479), Address("198.51.100.2", 3478)
VICTIM = Address("198.51.100.66", 7)
REQUEST = StunMessage(StunClass.REQUEST, b"twelve bytes").encode()


def servers(net: SimNet, *addresses: Address) -> list[SimNode]:
    """Endpoints that serve, each host named for its address."""
    return [make_node(net, where.host, where.host, port=where.port, serve_stun=True) for where in addresses]


def ask(sim: SimNode, *addresses: Address, local: Address | None = None) -> Discovery:
    discovery = Discovery()
    sim.do(sim.node.stun.ask, discovery, [(address, local) for address in addresses])
    return discovery


def discover(sim: SimNode, *addresses: Address, local: Address | None = None, within: float = 5.0) -> PublicAddress:
    """As the socket does it: ask, wait until it is settled, finish."""
    discovery = ask(sim, *addresses, local=local)
    sim.net.run_until(lambda: discovery.is_settled(sim.net.now), within)
    found: PublicAddress = sim.do(sim.node.stun.finish, discovery)
    return found


def home(nat: Nat, seed: int = 1, **options: Any) -> tuple[SimNet, SimNode]:
    """A node behind a NAT, and servers at ONE, ONE_B and TWO."""
    net = SimNet(seed, link=LINK)
    net.add_nat("nat", "203.0.113.1", nat)
    inside = "203.0.113.77" if nat.mapping == "NONE" else "192.168.1.2"
    a = make_node(net, "a", inside, behind="nat", **options)
    servers(net, ONE, ONE_B, TWO)
    return net, a


# --- discovery


@pytest.mark.parametrize("ports", ["preserve", "sequential", "random"])
@pytest.mark.parametrize(
    ("mapping", "verdict"),
    [
        ("NONE", NatBehaviour.ENDPOINT_INDEPENDENT),
        ("EIM", NatBehaviour.ENDPOINT_INDEPENDENT),
        ("ADM", NatBehaviour.ADDRESS_DEPENDENT),
        ("APDM", NatBehaviour.ADDRESS_AND_PORT_DEPENDENT),
    ],
)
def test_discovery_through_every_kind_of_mapping(mapping: Any, ports: Any, verdict: NatBehaviour) -> None:
    net, a = home(Nat(mapping=mapping, ports=ports))
    found = discover(a, ONE, ONE_B, TWO, local=a.address)
    assert found.answers == {server: net.mapped(a, server) for server in (ONE, ONE_B, TWO)}
    assert found.mapping is verdict
    assert found.translated is (mapping != "NONE")
    assert found.ipv4 == found.address in found.answers.values()
    assert (found.ipv6, found.failures) == (None, {})
    assert drops(a) == 0


@pytest.mark.parametrize(("profile", "hard"), [("linux", False), ("linux-random", True), ("symmetric", True)])
def test_discovery_behind_routers_of_the_world(profile: str, hard: bool) -> None:
    _, a = home(Nat.profile(profile))
    assert (discover(a, ONE, TWO).mapping is not NatBehaviour.ENDPOINT_INDEPENDENT) is hard


def test_it_returns_as_soon_as_all_have_answered() -> None:
    net, a = home(Nat())
    before = net.now
    discover(a, ONE, TWO)
    assert net.now - before == pytest.approx(2 * LINK.latency, abs=0.005)
    record = Recorder(net)
    net.run(60)
    assert record.items == []


def test_a_dead_server_holds_nobody_up_for_long() -> None:
    net, a = home(Nat())
    before = net.now
    dead = Address("198.51.100.99", 3478)
    found = discover(a, dead, ONE, TWO)
    assert net.now - before == pytest.approx(GRACE + 2 * LINK.latency, abs=0.005)
    assert found.mapping is NatBehaviour.ENDPOINT_INDEPENDENT
    assert found.failures == {str(dead): "it did not answer in time"}
    record = Recorder(net)
    net.run(60)
    assert record.items == []  # nothing is asked for whom nobody waits


def test_questions_are_repeated_under_loss() -> None:
    net, a = home(Nat())
    record = Recorder(net)
    net.intercept(lambda *_: [] if len(record.items) < 5 else None)  # two rounds, all of them
    before = net.now
    found = discover(a, ONE, TWO, within=30)
    assert found.mapping is NatBehaviour.ENDPOINT_INDEPENDENT
    assert net.now - before == pytest.approx(1.5 + 2 * LINK.latency, abs=0.005)
    assert len(record.of(source=a)) == 6


def test_nobody_answers() -> None:
    net, a = home(Nat.profile("tcp-only"))
    discovery = ask(a, ONE, TWO)
    net.run(39)
    assert not discovery.is_settled(net.now)
    net.run(1)
    assert discovery.is_settled(net.now)
    found = a.node.stun.finish(discovery, net.now)
    assert found == PublicAddress(failures={str(ONE): "it did not answer", str(TWO): "it did not answer"})
    assert len(a.of(ServerAnswered)) == 2
    with pytest.raises(ValueError, match="no address"):
        _ = found.address


def test_both_families() -> None:
    net = SimNet(3, link=LINK)
    net.add_nat("nat", "203.0.113.1", Nat())
    net.add_host("a", "192.168.1.2", "2001:db8:1::5", behind="nat")
    a = make_node(net, "a", "")
    six = Address("2001:db8::7", 3478)
    servers(net, ONE, six)
    found = discover(a, ONE, six)
    assert (found.ipv4, found.ipv6) == (net.mapped(a, ONE), Address("2001:db8:1::5", a.port))
    assert str(found) == f"203.0.113.1:{a.port}"


def test_many_questions_at_a_time() -> None:
    net = SimNet(4, link=LINK)
    a = make_node(net, "a", "10.0.0.1")
    many = [Address("198.51.100.9", 1 + number) for number in range(70)]
    discovery = ask(a, *many)
    refused = [outcome.failure for outcome in discovery.outcomes.values()]
    assert len(refused) == 6
    assert "at a time" in refused[0]
    a.do(a.node.stun.finish, discovery)
    assert len(discovery.outcomes) == 70
    servers(net, ONE)
    assert discover(a, ONE).ipv4 == a.address


def test_a_socket_that_closes_asks_no_more() -> None:
    net, a = home(Nat.profile("tcp-only"))
    discovery = ask(a, ONE)
    a.do(a.node.close)
    assert discovery.is_settled(net.now)
    record = Recorder(net)
    net.run(60)
    assert record.items == []


# --- filtering


class Classic:
    """A server of RFC 5780 with two hosts and two ports on each: sans-IO, one object at all four addresses."""

    def __init__(self, net: SimNet, *, changes: bool = True) -> None:
        self.net, self.changes = net, changes
        self.asked: list[tuple[Address, Address]] = []
        net.add_host("classic 1", ONE.host)
        net.add_host("classic 2", TWO.host)
        for host in ("classic 1", "classic 2"):
            net.hosts[host].arrive = net.hosts[host].enter = self._arrive  # in the place of a socket

    def _arrive(self, buffer: bytes, segment_size: int, source: Address, destination: Address) -> None:
        request = parse_stun(buffer)
        self.asked.append((source, destination))
        other = Address(TWO.host if destination.host == ONE.host else ONE.host, 6951 - destination.port)
        host = other.host if request.change_ip and self.changes else destination.host
        port = other.port if request.change_port and self.changes else destination.port
        answer = StunMessage(StunClass.SUCCESS, request.transaction_id, source, other=other).encode()
        machine = self.net.hosts["classic 1" if host == ONE.host else "classic 2"]
        machine.leave(answer, len(answer), Address(host, port), source)


def filtering_of(nat: Nat, *, changes: bool = True, filtering: bool = True) -> tuple[NatBehaviour, float, Classic]:
    """What a discovery says of a NAT, the seconds it takes, and the server."""
    net = SimNet(5, link=LINK)
    net.add_nat("nat", "203.0.113.1", nat)
    a = make_node(net, "a", "203.0.113.77" if nat.mapping == "NONE" else "192.168.1.2", behind="nat")
    classic = Classic(net, changes=changes)
    discovery = Discovery(filtering=filtering)
    before = net.now
    a.do(a.node.stun.ask, discovery, [(ONE, None)])
    assert net.run_until(lambda: discovery.is_settled(net.now), 5)
    took = net.now - before
    found = a.do(a.node.stun.finish, discovery)
    assert found.ipv4 is not None
    record = Recorder(net)
    net.run(60)
    assert record.items == []
    assert {destination for _, destination in classic.asked} == {ONE}  # never an address that only the server named
    return found.filtering, took, classic


@pytest.mark.parametrize("mapping", ["EIM", "ADM", "APDM"])
@pytest.mark.parametrize(
    ("filtering", "verdict"),
    [
        ("EIF", NatBehaviour.ENDPOINT_INDEPENDENT),
        ("ADF", NatBehaviour.ADDRESS_DEPENDENT),
        ("APDF", NatBehaviour.ADDRESS_AND_PORT_DEPENDENT),
    ],
)
def test_filtering_of_every_kind(mapping: Any, filtering: Any, verdict: NatBehaviour) -> None:
    found, took, _ = filtering_of(Nat(mapping=mapping, filtering=filtering, ports="random"))
    assert found is verdict
    assert took < (0.1 if verdict is NatBehaviour.ENDPOINT_INDEPENDENT else 1.6)


def test_a_firewall_filters_though_it_translates_nothing() -> None:
    assert filtering_of(Nat.profile("firewall"))[0] is NatBehaviour.ADDRESS_AND_PORT_DEPENDENT
    assert filtering_of(Nat.profile("open"))[0] is NatBehaviour.ENDPOINT_INDEPENDENT


def test_filtering_is_found_out_only_where_it_is_asked_for_and_can_be() -> None:
    verdict, took, classic = filtering_of(Nat(), filtering=False)
    assert (verdict, len(classic.asked)) == (NatBehaviour.UNKNOWN, 1)
    assert took < 0.1
    verdict, took, _ = filtering_of(Nat(), changes=False)  # it answers from where it was asked: that says nothing
    assert verdict is NatBehaviour.UNKNOWN
    assert took < 0.1
    _, a = home(Nat())
    discovery = Discovery(filtering=True)
    a.do(a.node.stun.ask, discovery, [(ONE, None)])  # has no other address
    a.net.run(0.1)
    assert a.do(a.node.stun.finish, discovery).filtering is NatBehaviour.UNKNOWN


def test_no_verdict_where_the_other_host_was_asked_as_well() -> None:
    """Its answers would get in through a NAT that lets in whom we sent to."""
    net = SimNet(5, link=LINK)
    net.add_nat("nat", "203.0.113.1", Nat(filtering="ADF"))
    a = make_node(net, "a", "192.168.1.2", behind="nat")
    classic = Classic(net)
    discovery = Discovery(filtering=True)
    a.do(a.node.stun.ask, discovery, [(ONE, None), (TWO, None)])
    net.run_until(lambda: discovery.is_settled(net.now), 5)
    found = a.do(a.node.stun.finish, discovery)
    assert (found.filtering, found.mapping) == (NatBehaviour.UNKNOWN, NatBehaviour.ENDPOINT_INDEPENDENT)
    assert len(classic.asked) == 2


# --- attack 38


def test_attack_38_forged_and_reflected_answers() -> None:
    """Attack 38: who does not see the question cannot answer it; who does must come from the server's address."""
    net = SimNet(38, link=LINK)
    a, b = make_node(net, "a", "10.0.0.1"), make_node(net, "b", "10.0.0.2")
    connect(net, a, b)
    servers(net, TWO)
    record = Recorder(net)
    discovery = ask(a, ONE, TWO)  # ONE does not answer
    sent = {item.destination: parse_stun(item.data) for item in record.of(source=a)}
    lie = Address("192.0.2.66", 6)
    blind = StunMessage(StunClass.SUCCESS, bytes(12), lie).encode()
    seen = StunMessage(StunClass.SUCCESS, sent[ONE].transaction_id, lie).encode()
    swapped = StunMessage(StunClass.SUCCESS, sent[TWO].transaction_id, lie).encode()
    for data, source in (
        *((blind, ONE), (seen, b.address), (seen, ONE._replace(port=3479)), (swapped, ONE)),
        *((sent_back, ONE) for sent_back in [item.data for item in record.of(source=a)]),
    ):
        net.inject(source, a.address, data)
    until(net, lambda: discovery.is_settled(net.now))
    found = a.do(a.node.stun.finish, discovery)
    assert found.answers == {TWO: a.address}
    assert {reason: drops(a, reason) for reason in ("stun_unasked", "stun_wrong_source", "stun_request")} == {
        "stun_unasked": 1,
        "stun_wrong_source": 3,
        "stun_request": 2,
    }
    alive(net, a, b, size=10_000)


def test_attack_38_servers_that_disagree_are_noticed() -> None:
    """Attack 38: one of three lies about the host: the majority counts, and the mapping is not called easy."""
    net = SimNet(38, link=LINK)
    a = make_node(net, "a", "10.0.0.1")
    three = Address("198.51.100.3", 3478)
    servers(net, ONE, TWO)
    liar = Address("192.0.2.66", 6)

    def lie(
        now: float, source: Address, destination: Address, data: bytes
    ) -> list[tuple[Address, Address, bytes]] | None:
        if destination != three:
            return None
        answer = StunMessage(StunClass.SUCCESS, parse_stun(data).transaction_id, liar)
        return [(three, source, answer.encode())]

    net.intercept(lie)
    net.add_host("three", three.host)
    found = discover(a, three, ONE, TWO, local=None)
    assert found.ipv4 == a.address
    assert found.answers[three] == liar
    assert found.mapping is NatBehaviour.ADDRESS_AND_PORT_DEPENDENT
    seen = a.node.stun.seen(net.now)
    assert [(one.address, one.confirmed) for one in seen] == [(a.address, True), (liar, False)]


# --- the server role


def flood(net: SimNet, target: SimNode, sources: list[Address], each: int, gap: float) -> Recorder:
    record = Recorder(net)
    for number in range(each):
        for source in sources:
            net.inject(source, target.address, REQUEST, number * gap)
    net.run(each * gap + 0.01)
    return record


def test_attack_36_answers_to_one_network_are_few() -> None:
    """Attack 36: whoever is named as the source of a thousand requests gets a few answers, each at most 2.2 times."""
    net = SimNet(36, link=LINK)
    (server,) = servers(net, ONE)
    victims = [Address("203.0.113.9", port) for port in (1, 2, 3)]
    record = flood(net, server, victims, 1000, 0.001)
    sent = record.of(source=server)
    assert 4 * NETWORK_ANSWERS <= len(sent) <= 5 * NETWORK_ANSWERS + 1
    assert sum(len(item.data) for item in sent) <= 2.2 * len(REQUEST) * len(sent)
    assert drops(server, "stun_rate") == 3000 - len(sent)
    (server,) = servers(net, Address("2001:db8::7", 3478))
    six = [Address(f"2001:db8:0:1::{number:x}", 7) for number in range(1, 50)]  # one /64
    sent = flood(net, server, six, 10, 0.01).of(source=server)
    assert 4 * NETWORK_ANSWERS <= len(sent) <= 5 * NETWORK_ANSWERS
    assert max(len(item.data) for item in sent) == 44


def test_attack_36_answers_in_all_are_bounded() -> None:
    """Attack 36: requests from forged addresses all over the world: bounded answers, bounded memory."""
    net = SimNet(36, link=LINK)
    (server,) = servers(net, ONE)
    sources = [Address(f"10.{number >> 8}.{number & 255}.1", 9) for number in range(3 * MAX_NETWORKS)]
    sent = flood(net, server, sources, 1, 0.0).of(source=server)
    assert len(sent) == ANSWERS
    assert len(server.node.stun._networks) == MAX_NETWORKS
    assert drops(server, "stun_rate") == len(sources) - len(sent)
    net.run(1)
    assert discover(make_node(net, "a", "192.0.2.5"), ONE).ipv4 == Address("192.0.2.5", 5000)


def test_attack_36_servers_do_not_answer_each_other() -> None:
    """Attack 36: a request in the name of another server: its answer is dropped there, and that is the end."""
    net = SimNet(36, link=LINK)
    one, two = servers(net, ONE, TWO)
    record = Recorder(net)
    net.inject(two.address, one.address, REQUEST)
    net.run(5)
    assert [(item.source, item.destination) for item in record.items] == [(ONE, TWO)]
    assert drops(two, "stun_unasked") == 1


def test_only_who_serves_answers() -> None:
    net = SimNet(1, link=LINK)
    silent, (server,) = make_node(net, "a", "10.0.0.1"), servers(net, ONE)
    record = Recorder(net)
    for target in (silent, server):
        net.inject(TWO, target.address, REQUEST)
        net.inject(TWO, target.address, StunMessage(StunClass.INDICATION, bytes(12)).encode())
        net.inject(TWO, target.address, REQUEST[:-1])
    net.run(1)
    assert [item.source for item in record.items] == [ONE]
    assert parse_stun(record.items[0].data).address == TWO
    assert drops(silent) == 3
    assert (drops(silent, "stun_request"), drops(silent, "stun_indication"), drops(silent, "malformed")) == (1, 1, 1)
    assert (drops(server), drops(server, "stun_indication"), drops(server, "malformed")) == (2, 1, 1)


# --- what peers see


def behind_nats(seed: int = 9) -> tuple[SimNet, SimNode, SimNode]:
    net = SimNet(seed, link=LINK)
    for side, outer in (("a", "203.0.113.1"), ("b", "203.0.113.2")):
        net.add_nat("nat " + side, outer, Nat(mapping="EIM", filtering="EIF", ports="random"))
    a = make_node(net, "a", "192.168.1.2", behind="nat a")
    b = make_node(net, "b", "192.168.2.2", behind="nat b")
    return net, a, b


def test_peers_tell_each_other_the_address_they_see() -> None:
    net, a, b = behind_nats()
    add(a, b)
    assert status(a, b).observed is None
    connect(net, a, b)
    assert status(a, b).observed == net.mapped(a, b.address)
    assert status(b, a).observed == net.mapped(b, a.address)
    assert status(a, b)["observed"] == status(a, b).observed
    (seen,) = a.node.stun.seen(net.now)
    assert (seen.address, seen.witnesses, seen.confirmed) == (net.mapped(a, b.address), ("peer b",), False)


def test_a_new_address_is_told_when_the_path_has_moved() -> None:
    net, a, b = behind_nats()
    connect(net, a, b)
    old = status(a, b).observed
    net.nats["nat a"].rebind("203.0.113.200")
    alive_at = net.now
    a.do(a.node.send_message, "b", b"hello", channel=0, reliable=True, ttl=None)
    until(net, lambda: status(a, b).observed not in (None, old))
    new = status(a, b).observed
    assert new == net.mapped(a, b.address)
    assert new is not None
    assert new.host == "203.0.113.200"
    assert net.now - alive_at < 2
    assert status(b, a).address == new


def test_two_witnesses_in_two_networks_confirm_an_address() -> None:
    net, a, b = behind_nats()
    connect(net, a, b)
    servers(net, ONE, ONE_B)
    discover(a, ONE)
    where = net.mapped(a, b.address)
    (seen,) = a.node.stun.seen(net.now)
    assert (seen.address, seen.confirmed) == (where, True)
    assert seen.witnesses == (f"stun {ONE}", "peer b")
    c = make_node(net, "c", "10.0.0.3")
    servers(net, TWO)
    discover(c, ONE, ONE_B)
    assert [one.confirmed for one in c.node.stun.seen(net.now)] == [False]  # twice the same machine
    discover(c, TWO)
    assert [one.confirmed for one in c.node.stun.seen(net.now)] == [True]


def test_a_port_that_the_router_maps_is_its_claim_until_somebody_else_sees_it_or_a_probe_comes_in() -> None:
    net, a, b = behind_nats()
    connect(net, a, b)
    where, elsewhere = net.mapped(a, b.address), Address("203.0.113.1", 7)

    def seen(mapped: MappedPort) -> dict[Address, bool]:
        a.node.stun.mapped = mapped
        return {one.address: one.confirmed for one in a.node.stun.seen(net.now)}

    assert seen(MappedPort(elsewhere, "UPnP", "192.168.1.1", False)) == {where: False, elsewhere: False}
    assert seen(MappedPort(elsewhere, "UPnP", "192.168.1.1", True)) == {where: False, elsewhere: True}
    assert seen(MappedPort(where, "UPnP", "192.168.1.1", False)) == {where: True}
    (one,) = a.node.stun.seen(net.now)
    assert one.witnesses == ("peer b", "router 192.168.1.1 (UPnP)")


def test_only_the_request_that_we_expect_is_our_own_probe() -> None:
    net, a, _ = behind_nats()
    outside = make_node(net, "c", "10.0.0.3")
    ours, other = bytes(12), bytes(11) + b"x"
    a.node.stun.expect_probe(ours)
    for transaction_id, arrived in ((other, False), (ours, True)):
        request = StunMessage(StunClass.REQUEST, transaction_id).encode()
        a.node.stun.on_datagram(request, outside.address, net.now)
        assert a.node.stun.probe_arrived(ours) is arrived
    assert not a.node.stun.probe_arrived(other)
    assert a.node.drops["stun_request"] == 1
    a.node.stun.expect_probe(other)
    assert not a.node.stun.probe_arrived(ours)


def test_a_peer_may_confirm_a_mapping_and_never_spoil_one() -> None:
    net, a, b = behind_nats()
    connect(net, a, b)
    servers(net, ONE, TWO)
    assert discover(a, ONE).mapping is NatBehaviour.ENDPOINT_INDEPENDENT  # one server and a peer elsewhere agree
    peer_of(a, b).observed = VICTIM
    assert discover(a, ONE).mapping is NatBehaviour.UNKNOWN
    assert discover(a, ONE, TWO).mapping is NatBehaviour.ENDPOINT_INDEPENDENT


def test_what_a_peer_claims_is_only_shown() -> None:
    """Nothing is sent to an address that a peer says is ours, and the honest word of others stands first."""
    net, a, b = pair(9)
    servers(net, ONE, TWO)
    discover(a, ONE, TWO)
    record = Recorder(net)
    claims = [VICTIM, Address("0.0.0.0", 7), Address("198.51.100.66", 0), Address("::1", 7)]
    for claim in claims:
        hostile(net, b, a, [ObservedAddress(VICTIM), ObservedAddress(claim)])
        assert status(a, b).observed == claim
        net.run(5)
        first, *others = a.node.stun.seen(net.now)
        assert (first.address, first.confirmed) == (a.address, True)
        assert [(one.address, one.confirmed) for one in others] == [(VICTIM, False)] * (claim == VICTIM)
    assert {item.destination for item in record.items} == {a.address, b.address}
    alive(net, a, b, size=10_000)


def test_only_the_newest_observed_address_is_repeated() -> None:
    controls = Controls(None, None, 1, 0.01)  # type: ignore[arg-type]  # of messages nothing is asked here
    old, new = ObservedAddress(ONE), ObservedAddress(TWO)
    controls.add(old)
    controls.on_lost(old)
    assert list(controls.frames) == [old, old]
    controls.add(new)
    controls.frames.clear()
    controls.on_lost(old)
    assert not controls.frames
    controls.on_lost(new)
    assert list(controls.frames) == [new]


def test_a_lost_peer_is_no_witness() -> None:
    net, a, b = behind_nats()
    connect(net, a, b)
    peer_of(a, b).lose("tried out", net.now)
    assert a.node.stun.seen(net.now) == ()
    assert status(a, b).observed is not None
