"""Why a peer is not connected: each reason, in virtual time, in its status, its event and explanation."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from srmudp.models import Address, EventKind, NatBehaviour, NatTraits, PeerState
from srmudp.nat.explanation import Cause, Explanation, Heard
from srmudp.peers.endpoint import Discovery
from srmudp.peers.trail import MAX_PLACES, Trail
from srmudp.wire.packet import PUBLIC_KEY, PUNCH
from tests.endpoints import LINK, Recorder, add, connect, drops, events, identity, make_node, peer_of, status, until
from tests.simnet import Nat, SimNet, SimNode

A, B = "198.51.100.1", "198.51.100.2"
SERVER = Address("198.51.100.99", 3478)
HARD = NatTraits(NatBehaviour.ADDRESS_AND_PORT_DEPENDENT)
EXACT = NatTraits(NatBehaviour.ENDPOINT_INDEPENDENT, NatBehaviour.ADDRESS_AND_PORT_DEPENDENT)
SOON = 2.5
"""Seconds until a reason is said that takes silence to be found."""
AT_ONCE = 0.7


def world() -> tuple[SimNet, SimNode, SimNode]:
    """Two nodes that may send to each other and have not added each other."""
    net = SimNet(1, link=LINK)
    return net, make_node(net, "a", A), make_node(net, "b", B)


def explain(sim: SimNode, name: str = "b") -> Explanation:
    return Explanation.of(name, sim.node.reasons.evidence_of(name, sim.net.now))


def ask(net: SimNet, sim: SimNode, *servers: Address) -> None:
    """Have a node ask servers for its address and wait as long as ``discover()`` does at least."""
    discovery = Discovery()
    sim.do(sim.node.stun.ask, discovery, [(server, None) for server in servers])
    net.run_until(lambda: discovery.is_settled(net.now), 2.0)
    sim.do(sim.node.stun.finish, discovery)


def told(sim: SimNode, name: str = "b") -> list[str]:
    return [event.reason for event in events(sim, EventKind.UNREACHED) if event.peer == name]


def is_said(net: SimNet, sim: SimNode, cause: Cause, within: float, name: str = "b") -> None:
    """The reason is there in time, the same in all three places."""
    net.run(within)
    explanation = explain(sim, name)
    assert explanation.cause is cause, str(explanation)
    failure = status(sim, name).failure
    assert failure == explanation.summary
    assert failure in told(sim, name) or failure in [event.reason for event in events(sim)]


def test_silence_is_said_once_and_not_at_once() -> None:
    net, a, b = world()
    add(a, b)
    net.run(1.5)
    assert explain(a).cause is Cause.JUST_BEGUN
    assert status(a, b).failure is None
    is_said(net, a, Cause.SILENCE, 1.0)
    net.run(60)
    assert told(a) == ["no answer yet: is the other program running, and has it added us?"]
    (tried,) = explain(a).tried
    assert (tried.address, tried.origin, tried.heard) == (b.address, "given", {})
    assert tried.sent > 20
    add(b, a)
    until(net, lambda: status(a, b).established, 20)
    assert status(a, b).failure is None
    assert explain(a).cause is Cause.CONNECTED


def test_udp_is_blocked_here() -> None:
    net, a, b = world()
    ask(net, a, SERVER)
    add(a, b)
    is_said(net, a, Cause.UDP_BLOCKED, AT_ONCE)


def test_a_server_that_answers_later_takes_it_back() -> None:
    net, a, b = world()
    ask(net, a, SERVER)
    add(a, b)
    is_said(net, a, Cause.UDP_BLOCKED, AT_ONCE)
    make_node(net, "server", SERVER.host, port=SERVER.port, serve_stun=True)
    ask(net, a, SERVER)
    net.run(SOON)
    assert explain(a).cause is Cause.SILENCE


def test_a_peer_on_the_same_network_does_not_depend_on_servers() -> None:
    net = SimNet(1, link=LINK)
    a, b = make_node(net, "a", "192.168.1.2"), make_node(net, "b", "192.168.1.3")
    ask(net, a, SERVER)
    a.do(a.node.add_peer, "b", [b.address], None, nat=HARD)
    is_said(net, a, Cause.SILENCE, SOON)


def nats(mine: str) -> tuple[SimNet, SimNode]:
    """A node behind a NAT that it knows."""
    net = SimNet(1, link=LINK)
    net.add_nat("nat", A, Nat.profile(mine))
    a = make_node(net, "a", "192.168.1.2", behind="nat")
    servers = SERVER, Address("198.51.100.98", 3478)
    for number, server in enumerate(servers):
        make_node(net, f"server{number}", server.host, port=server.port, serve_stun=True)
    ask(net, a, *servers)
    make_node(net, "b", B)
    return net, a


@pytest.mark.parametrize(
    ("mine", "theirs", "cause", "within"),
    [
        ("symmetric", HARD, Cause.BOTH_HARD, AT_ONCE),
        ("symmetric", EXACT, Cause.HARD_PAIR, SOON),
        ("port-restricted", HARD, Cause.HARD_PAIR, SOON),
        ("port-restricted", EXACT, Cause.SILENCE, SOON),
        ("port-restricted", None, Cause.SILENCE, SOON),
        ("symmetric", None, Cause.HARD_HERE, SOON),
    ],
)
def test_what_two_nats_make_of_it(mine: str, theirs: NatTraits | None, cause: Cause, within: float) -> None:
    net, a = nats(mine)
    a.do(a.node.add_peer, "b", [Address(B, 5000)], None, nat=theirs)
    is_said(net, a, cause, within)


@pytest.mark.parametrize(("mine", "theirs", "whose"), [("symmetric", EXACT, "this"), ("linux", HARD, "the other")])
def test_whose_the_hard_one_is(mine: str, theirs: NatTraits, whose: str) -> None:
    net, a = nats(mine)
    a.do(a.node.add_peer, "b", [Address(B, 5000)], None, nat=theirs)
    net.run(SOON)
    assert f"the NAT at {whose} end is hard" in str(status(a, "b").failure)


# --- something was heard


def test_it_knocks_and_does_not_hear_us() -> None:
    net, a, b = world()
    net.intercept(lambda now, source, destination, data: [] if destination == b.address else None)
    add(a, b)
    add(b, a)
    is_said(net, a, Cause.ONE_WAY, SOON)
    assert explain(a).tried[0].heard[Heard.PUNCH.value] > 3
    assert explain(b, "a").cause is Cause.SILENCE


def test_it_answers_and_then_falls_silent() -> None:
    net, a, b = world()
    net.intercept(lambda now, source, destination, data: [] if data[0] not in (PUNCH, PUBLIC_KEY) else None)
    add(a, b)
    b.do(b.node.add_peer, "a", [Address(A, 9)], None)
    b.do(b.node.set_addresses, "a", [a.address])
    net.run(30)
    assert explain(a).cause is Cause.UNFINISHED
    assert "answered our knock" in str(status(a, b).failure)


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (lambda data: data[:1] + bytes((data[1] ^ 0x40,)) + data[2:], Cause.VERSION),
        (lambda data: b"HTTP/1.1 400 Bad Request", Cause.NOT_SRMUDP),
        (lambda data: data[:-1] + bytes((data[-1] ^ 1,)) if data[0] == PUBLIC_KEY else b"", Cause.BAD_ANSWER),
    ],
)
def test_what_comes_is_not_what_it_should_be(spoil: Callable[[bytes], bytes], cause: Cause) -> None:
    net, a, b = world()

    def change(now: float, source: Address, destination: Address, data: bytes) -> list[tuple[Address, Address, bytes]]:
        changed = spoil(data) if source == b.address else data
        return [(source, destination, changed)] if changed else []

    net.intercept(change)
    add(a, b)
    add(b, a)
    is_said(net, a, cause, SOON)


def test_it_knocks_from_where_nobody_was_added() -> None:
    """Its router gives it another address than it told, and without a PeerId nothing tells that it is it."""
    net, a, _ = world()
    elsewhere = make_node(net, "elsewhere", "198.51.100.7")
    a.do(a.node.add_peer, "b", [Address(B, 5000)], None)
    add(elsewhere, a)
    is_said(net, a, Cause.STRANGER, SOON)
    assert str(elsewhere.address) in str(status(a, "b").failure)
    assert [one.address for one in explain(a).knocks] == [elsewhere.address]


def test_our_own_address_was_given() -> None:
    net, a, _ = world()
    a.do(a.node.add_peer, "b", [a.address], None)
    net.run(1)
    assert explain(a).cause is Cause.OWN_ADDRESS


# --- somebody said so


def test_another_key_than_the_pinned_one_answers() -> None:
    net, a, b = world()
    add(a, b, pin=identity("somebody").peer_id)
    add(b, a)
    is_said(net, a, Cause.OTHER_KEY, SOON)


def test_it_expects_another_key_of_us() -> None:
    """It does not say so to whom it refuses, so that this looks like a way that leads in one direction."""
    net, a, b = world()
    add(a, b)
    add(b, a, pin=identity("somebody").peer_id)
    is_said(net, a, Cause.ONE_WAY, SOON)
    assert explain(b, "a").cause is Cause.OTHER_KEY


def test_it_refuses_us() -> None:
    net, a, b = world()
    add(a, b, pin=True)
    b.do(b.node.add_peer, "x", [Address("198.51.100.7", 9)], None)
    is_said(net, a, Cause.REFUSED, SOON)


def test_two_programs_with_one_identity() -> None:
    net = SimNet(1, link=LINK)
    a, b = make_node(net, "a", A), make_node(net, "b", B, seed="a")
    add(a, b)
    add(b, a)
    net.run(1)
    assert explain(a).cause is Cause.OWN_IDENTITY


def test_a_name_that_cannot_be_looked_up() -> None:
    _, a, _ = world()
    a.do(a.node.add_peer, "b", [], identity("b").peer_id)
    assert explain(a).cause is Cause.NO_ADDRESS
    a.node.note_unresolved("b", "the name 'b.example' cannot be looked up (...)")
    assert explain(a).cause is Cause.NAME
    assert status(a, "b").failure == explain(a).summary


# --- it was connected


def test_its_program_ended() -> None:
    net, a, b = world()
    connect(net, a, b)
    b.do(b.node.close)
    net.run(1)
    assert explain(a).cause is Cause.ENDED
    net.run(5)
    assert explain(a).cause is Cause.ENDED
    assert not told(a)


def test_it_removed_us() -> None:
    net, a, b = world()
    connect(net, a, b)
    b.do(b.node.remove_peer, "a")
    net.run(1)
    assert (explain(a).cause, explain(a).state) == (Cause.REMOVED, PeerState.PASSIVE)


@pytest.mark.parametrize("others", [False, True])
def test_it_fell_silent_alone_or_with_everybody(others: bool) -> None:
    net, a, b = world()
    c = make_node(net, "c", "198.51.100.3")
    connect(net, a, b)
    connect(net, a, c)
    for other in (b, c) if others else (b,):
        net.partition("a", other.host.name)
    net.run(30)
    explanation = explain(a)
    assert explanation.cause is (Cause.NETWORK_HERE if others else Cause.FELL_SILENT)
    assert str(status(a, b).failure).startswith("nothing heard for 21 s")
    assert ("nobody else is heard" in str(status(a, b).failure)) is others


# --- bounds


def test_a_flood_of_addresses_is_forgotten_but_not_where_we_knock() -> None:
    trail = Trail()
    ours = Address(B, 5000)
    trail.on_sent(ours, 0.0)
    for port in range(1, 10_000):
        trail.on_heard(Address(B, port + 10_000), Heard.PUNCH, float(port))
    assert len(trail) == MAX_PLACES
    place = trail.get(ours)
    assert place is not None
    assert (place.sent, place.heard) == (1, {})


def test_strangers_that_knock_are_bounded() -> None:
    net, a, b = world()
    record = Recorder(net)
    add(b, a)
    net.run(1)
    a.do(a.node.add_peer, "x", [Address(B, 1)], None)
    knock = record.of(PUNCH, source=b)[0].data
    for number in range(1, 250):
        net.inject(Address(f"203.0.113.{number}", 5), a.address, knock)
    net.run(1)
    assert drops(a, "unsolicited_punch") >= 249
    assert len(explain(a, "x").knocks) == 8


def test_nothing_is_noted_while_connected() -> None:
    net, a, b = world()
    connect(net, a, b)
    before = len(peer_of(a, b).trail), peer_of(a, b).trail.heard_at
    a.do(a.node.send_message, "b", bytes(200_000), channel=0, reliable=True, ttl=None)
    net.inject(b.address, a.address, b"HTTP/1.1 400 Bad Request")
    net.run(30)
    assert (len(peer_of(a, b).trail), peer_of(a, b).trail.heard_at) == before


def test_a_private_address_counts_on_the_same_network_only() -> None:
    """Its own address at home is of no use to another home; behind one router it may be all that works."""
    home = Address("192.168.1.9", 5000)
    for outside, cause in ((B, Cause.BOTH_HARD), (A, Cause.SILENCE)):
        net, a = nats("symmetric")
        a.do(a.node.add_peer, "b", [home, Address(outside, 5000)], None, nat=HARD)
        is_said(net, a, cause, SOON)


def test_with_ipv6_at_this_end_no_nat_is_in_the_way() -> None:
    for hosts, cause in (([Address("2a00::7", 1)], Cause.SILENCE), ([Address("192.168.1.2", 1)], Cause.BOTH_HARD)):
        net, a = nats("symmetric")
        a.do(a.node.whereabouts.set_hosts, hosts)
        a.do(a.node.add_peer, "b", [Address("2a00::9", 5000), Address(B, 5000)], None, nat=HARD)
        is_said(net, a, cause, SOON)


def test_a_peer_on_the_old_wire_is_explained_as_well() -> None:
    net, a, b = world()
    a.do(a.node.add_peer, "b", [b.address], None, wire="srudp")
    net.run(SOON)
    explanation = explain(a)
    assert explanation.cause is Cause.SILENCE
    assert explanation.summary == status(a, "b").failure
    assert "does it speak srudp" in explanation.summary
    assert explanation.tried[0].sent > 2


def test_the_ways_to_a_connected_peer_are_told() -> None:
    net, a, b = world()
    a.do(a.node.add_peer, "b", [b.address, Address("198.51.100.77", 9)], None)
    add(b, a)
    until(net, lambda: status(a, b).established, 5)
    net.run(90)
    explanation = explain(a)
    assert explanation.cause is Cause.CONNECTED
    heard = {one.address: one.heard.get(Heard.WAY.value, 0) for one in explanation.tried}
    assert heard[b.address] > 0
    assert heard[Address("198.51.100.77", 9)] == 0


def test_what_one_of_many_behind_an_address_does_is_nobody_elses() -> None:
    """A crowd in one network: its knocking must cost neither memory nor time at each of the others."""
    net = SimNet(23)
    a = make_node(net, "a", A)
    crowd = [(f"guest {number}", Address(B, 6000 + number)) for number in range(30)]
    for name, address in crowd:
        a.node.add_peer(name, [address], None, net.now)
    junk = bytes((PUNCH,)) + bytes(100)
    a.node.handle_batch(junk, len(junk), crowd[7][1], net.now)
    assert [name for name, _ in crowd if peer_of(a, name).trail.heard_at is not None] == ["guest 7"]
    a.node.handle_batch(junk, len(junk), Address(B, 5999), net.now)  # it may be anybody's
    assert [name for name, _ in crowd if len(peer_of(a, name).trail)] == ["guest 7"]
    for name, _ in crowd[8:]:
        a.node.remove_peer(name, net.now)
    a.node.handle_batch(junk, len(junk), Address(B, 5999), net.now)
    assert [name for name, _ in crowd[:8] if len(peer_of(a, name).trail)] == [name for name, _ in crowd[:8]]


def test_who_else_spoke_is_forgotten_when_the_session_stands() -> None:
    net, a, b = world()
    connect(net, a, b)
    peer = peer_of(a, b)
    peer.lose("for the test", net.now)
    for port in range(10):
        peer.trail.on_heard(Address(B, 6000 + port), Heard.PUNCH, net.now)
    until(net, lambda: peer.connected, 60)
    assert all(place.sent for _, place in peer.trail)


def test_who_waits_for_our_answer_does_not_yet_ignore_it() -> None:
    """Hundreds at once take their time with a slow back end, and nothing is wrong with any of them."""
    net, a, b = world()
    a.node.add_peer("b", [b.address], None, net.now)
    b.node.add_peer("a", [a.address], a.node.peer_id, net.now)
    assert b.node.poll_transmit(net.now) is None
    timer = b.node.next_timer()
    assert timer is not None
    b.node.handle_timer(max(timer, net.now))
    opening = b.node.next_job()
    assert opening is not None
    opening.run()
    b.node.finish_job(opening, net.now)
    sent = b.node.poll_transmit(net.now)
    assert sent is not None
    assert sent.payload[0] == PUNCH
    while a.node.next_job() is not None:
        pass
    for _ in range(2):  # the second finds the answer in the making
        a.node.handle_batch(sent.payload, sent.segment_size, b.address, net.now)
        assert len(peer_of(a, "b").trail) == 0
    answer = a.node.next_job()
    assert answer is not None
    answer.run()
    a.node.finish_job(answer, net.now)
    assert [place.heard for _, place in peer_of(a, "b").trail] == [{Heard.PUNCH: 1}]
