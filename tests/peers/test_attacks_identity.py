"""Attacks 24 to 27, 70 and 76: who is who, against proxies, liars, squatters and neighbours."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any, cast

import pytest

from srmudp.config import Config
from srmudp.crypto.backend import Backend
from srmudp.crypto.keys import Identity, verification_code
from srmudp.exceptions import AuthenticationError, IdentityError
from srmudp.models import Address, EventKind, PeerId, PeerState, Trust
from srmudp.peers.endpoint import AcceptPolicy, Endpoint
from srmudp.protocol.events import Failure, MessageArrived
from srmudp.protocol.handshake import Self, answer_punch, open_attempt, read_public_key, read_shared_key
from srmudp.wire.packet import PUBLIC_KEY, PUNCH, RECORD, SHARED_KEY, parse_public_key, parse_punch, parse_shared_key
from tests.endpoints import (
    Recorder,
    add,
    alive,
    arrived,
    connect,
    drops,
    events,
    identity,
    kinds,
    make_node,
    send,
    settled,
    status,
    transfer,
)
from tests.simnet import Link, Nat, SimNet, SimNode

SECRET = b"my secret: attack at dawn, bring the ladders"


class Mitm:
    """A proxy on the path between two nodes that runs its own handshake with each of them.

    ``to_a`` plays b towards a, ``to_b`` plays a towards b. Neither a nor b sees another address than the right one.
    """

    def __init__(self, net: SimNet, a: SimNode, b: SimNode, backend: Backend | None = None) -> None:
        self.to_a = make_node(net, "m", "198.51.100.7", port=1, accept=AcceptPolicy.EVERYBODY, backend=backend)
        self.to_b = make_node(net, "m", "198.51.100.7", port=2, accept=AcceptPolicy.EVERYBODY, backend=backend)
        routes = {
            (a.address, b.address): (a.address, self.to_a.address),
            (self.to_a.address, a.address): (b.address, a.address),
            (b.address, a.address): (b.address, self.to_b.address),
            (self.to_b.address, b.address): (a.address, b.address),
        }
        self.carried = 0

        def swap(now: float, source: Address, destination: Address, data: bytes) -> list[Any]:
            self.carried += 1
            return [(*routes[source, destination], data)]

        self.leave = net.intercept(swap)
        self.to_a.do(self.to_a.node.add_peer, "a", [a.address], None)
        self.to_b.do(self.to_b.node.add_peer, "b", [b.address], None)

    @property
    def peer_id(self) -> PeerId:
        """The proxy's identity."""
        return cast(PeerId, self.to_a.node.peer_id)

    def learned(self) -> list[bytes]:
        """Application data that came to it."""
        return [event.content for node in (self.to_a, self.to_b) for event in node.of(MessageArrived)]


def pair(seed: int, backend: Backend | None = None, **options: Any) -> tuple[SimNet, SimNode, SimNode]:
    """Two nodes, not connected."""
    net = SimNet(seed, link=Link(latency=0.01))
    nodes = [make_node(net, name, f"10.0.0.{n}", backend=backend, **options) for n, name in enumerate("ab", 1)]
    return net, nodes[0], nodes[1]


def tells_what_to_do(text: str | None) -> bool:
    """True if a reason names something that its reader can do about it."""
    wanted = r"trust\(|forget\(|add or accept|own key file|is the address our own"
    return text is not None and re.search(wanted, text) is not None


# --- 24 ---


def test_attack_24_an_address_that_is_our_own() -> None:
    """Attack 24: our own punch comes back. No session, and the reason says so."""
    net, a, _ = pair(240)
    record = Recorder(net)
    a.do(a.node.add_peer, "me", [a.address], None)
    net.run(12)
    assert drops(a, "reflected_punch") > 3
    assert not status(a, "me").established
    assert record.of(PUBLIC_KEY, SHARED_KEY, RECORD) == []
    failure = status(a, "me").failure
    assert failure is not None
    assert "our own" in failure
    assert tells_what_to_do(failure)


@pytest.mark.parametrize("both", [True, False])
def test_attack_24_a_peer_with_our_own_identity(backend: Backend, both: bool) -> None:
    """Attack 24: a program with a copy of our key file is never connected to, whoever punches."""
    net, a, _ = pair(241, backend)
    twin = make_node(net, "twin", "10.0.0.9", seed="a", backend=backend)
    assert twin.node.peer_id == a.node.peer_id
    add(a, twin)
    if both:
        add(twin, a)
    else:
        twin.do(twin.node.add_peer, "a", [], None)
    send(a, twin, SECRET)
    net.run(20)
    for node, name in ((a, "twin"), (twin, "a")):
        assert not status(node, name).established
        assert status(node, name).peer_id is None
    assert arrived(twin) == []
    if both:
        assert drops(a, "refused_identity") + drops(twin, "refused_identity") >= 1
        refused = events(a, EventKind.REFUSED) + events(twin, EventKind.REFUSED)
        assert refused
        assert all("own identity" in event.reason and tells_what_to_do(event.reason) for event in refused)
    with pytest.raises(ValueError, match="our own PeerId"):
        a.node.add_peer("self", [twin.address], a.node.peer_id, net.now)


# --- 25, 26 ---


@pytest.mark.parametrize("pinned", ["a", "b", "both"])
def test_attack_25_mitm_with_a_pin(backend: Backend, pinned: str) -> None:
    """Attack 25: key swap on the path. Refused by whoever pinned; not one byte of application data went out there."""
    net, a, b = pair(250, backend)
    record = Recorder(net)
    proxy = Mitm(net, a, b, backend)
    add(a, b, pin=pinned != "b")
    add(b, a, pin=pinned != "a")
    tokens = [send(a, b, SECRET + b" from a"), send(b, a, SECRET + b" from b")]
    net.run(20)
    assert proxy.carried > 20
    for node, other, token in ((a, b, tokens[0]), (b, a, tokens[1])):
        if pinned not in (node.host.name, "both"):
            continue
        state = status(node, other)
        assert not state.established
        assert state.pinned
        assert state.peer_id == other.node.peer_id
        assert record.of(SHARED_KEY, source=node) == [], "our identity went to a party that we refuse"
        # A refused initiator hears one sealed CLOSE; nothing longer, and no message, is ever sealed for it.
        assert all(len(item.data) < 80 for item in record.of(RECORD, source=node))
        assert settled(node, token) is None
        assert state.queued == len(SECRET) + 7
        refused = events(node, EventKind.REFUSED)
        assert refused
        assert refused[0].peer_id == proxy.peer_id
        assert drops(node, "refused_identity") + drops(node, "refused_stranger") >= 1
        assert state.state is PeerState.REFUSED
        assert state.failure is not None
        assert "pinned" in state.failure
        assert "trust(" in state.failure, state.failure
        assert refused[0].reason == state.failure
        assert events(node, EventKind.CONNECTED) == []
    assert all(SECRET not in item.data for item in record.items)
    learned = {"a": [SECRET + b" from b"], "b": [SECRET + b" from a"], "both": []}[pinned]
    assert proxy.learned() == learned
    if pinned == "both":
        proxy.leave()
        for node in (proxy.to_a, proxy.to_b):
            node.detach()
        assert net.run_until(lambda: status(a, b).established and status(b, a).established, 40)
        net.run(1)
        assert arrived(b, a) == [SECRET + b" from a"]
        assert arrived(a, b) == [SECRET + b" from b"]
        alive(net, a, b)


def test_attack_25_refusals_are_not_a_flood() -> None:
    """Attack 25: an hour of refusals: few events, few packets, and no state that grows."""
    net, a, b = pair(251)
    Mitm(net, a, b)
    record = Recorder(net)
    add(a, b, pin=True)
    net.run(3600)
    count = len(events(a, EventKind.REFUSED))
    assert 10 < count < 400
    assert len(record.of(source=a)) < 4000
    assert len(a.node._sessions) == 0


def codes(a: SimNode, b: SimNode) -> tuple[str, str]:
    """What the two applications show for each other."""
    seen_by_a, seen_by_b = status(a, b).peer_id, status(b, a).peer_id
    assert seen_by_a is not None
    assert seen_by_b is not None
    return verification_code(a.node.peer_id, seen_by_a), verification_code(b.node.peer_id, seen_by_b)


def test_attack_26_mitm_without_a_pin_shows_in_the_verification_code(backend: Backend) -> None:
    """Attack 26: the code is the same at both ends, after every reconnect, and differs under a man in the middle."""
    net, a, b = pair(260, backend)
    connect(net, a, b)
    honest, same = codes(a, b)
    assert honest == same
    assert re.fullmatch(r"(\d{5} ){11}\d{5}", honest)
    b.do(b.node.close)
    b.detach()
    b = make_node(net, "b", "10.0.0.2", backend=backend)
    add(b, a)
    assert net.run_until(lambda: status(a, b).established and status(b, a).established, 40)
    assert codes(a, b) == (honest, honest)

    net, a, b = pair(261, backend)
    proxy = Mitm(net, a, b, backend)
    connect(net, a, b)
    for node, other in ((a, b), (b, a)):
        assert status(node, other).peer_id == proxy.peer_id
        assert status(node, other).first_use
        assert not status(node, other).pinned
    first, second = codes(a, b)
    assert first != second
    assert honest not in (first, second)
    halves = [set(text.split()) for text in (honest, first, second)]
    assert len(halves[0] & halves[1]) <= 7  # a's own half at most


def test_attack_26_a_known_name_with_a_new_key() -> None:
    """Attack 26: after ``trust`` a proxy that cuts the known peer off is refused for ever."""
    net, a, b = pair(262)
    connect(net, a, b)
    known = b.node.peer_id
    a.do(a.node.trust, "b", None)
    proxy = Mitm(net, a, b)
    send(a, b, SECRET)
    net.run(60)  # the proxy does not forward: both ends lose each other and punch
    assert proxy.carried > 20
    assert not status(a, b).established
    assert status(a, b).peer_id == known
    assert events(a, EventKind.REFUSED)
    assert events(a, EventKind.PEER_CHANGED) == []
    assert SECRET not in proxy.learned()
    assert status(a, b).queued == len(SECRET)


def test_attack_26_an_unpinned_name_changes_hands_only_when_dead_and_never_silently() -> None:
    """Attack 26: first use, silence, then another key at the configured address: an event, queued messages fail."""
    net, a, b = pair(263)
    connect(net, a, b)
    old = b.node.peer_id
    # Alive: whatever punches from elsewhere or as somebody else does not take the name.
    net.run(30)
    assert events(a, EventKind.PEER_CHANGED) == []
    proxy = Mitm(net, a, b)
    token = send(a, b, SECRET)
    assert net.run_until(lambda: status(a, b).peer_id == proxy.peer_id, 90)
    net.run(2)
    changed = events(a, EventKind.PEER_CHANGED)
    assert len(changed) == 1
    assert str(old) in changed[0].reason
    assert changed[0].peer_id == proxy.peer_id
    assert tells_what_to_do(changed[0].reason), changed[0].reason
    end = settled(a, token)
    assert end is not None
    assert end.failure is Failure.PEER_CHANGED
    assert SECRET not in proxy.learned()


# --- 27 ---


@pytest.mark.parametrize("claimed", ["bob", "bob\n", "\x1b[31mbob", " bob ", "bob\u202e", "\x00bob"])
def test_attack_27_a_claimed_name_never_displaces_a_known_one(claimed: str) -> None:
    """Attack 27: a stranger that says it is bob is shown with a key tag; what is sent to bob reaches bob alone."""
    net = SimNet(270)
    a = make_node(net, "a", "10.0.0.1", accept=AcceptPolicy.EVERYBODY)
    bob = make_node(net, "bob", "10.0.0.2")
    squatter = make_node(net, "squatter", "10.0.0.3", claimed=claimed)
    connect(net, a, bob)
    add(squatter, a)
    assert net.run_until(lambda: status(squatter, a).established, 5)
    net.run(1)
    known = {name: state.peer_id for name, state in a.node.statuses(net.now).items()}
    assert known["bob"] == bob.node.peer_id
    (other,) = set(known) - {"bob"}
    tag = squatter.node.peer_id.tag
    assert other == ("[31mbob" if claimed.startswith("\x1b") else f"bob#{tag}")  # nothing that a terminal obeys
    assert other.isprintable()
    assert a.node.statuses(net.now)[other].trust is Trust.ADMITTED
    send(a, "bob", SECRET)
    net.run(2)
    assert arrived(bob, a) == [SECRET]
    assert arrived(squatter) == []
    send(squatter, a, b"it is me, bob")
    net.run(1)
    assert arrived(a, other) == [b"it is me, bob"]
    assert arrived(a, "bob") == []
    # A second squatter of the same name, and one that claims the first one's shown name.
    third = make_node(net, "third", "10.0.0.4", claimed=other)
    add(third, a)
    assert net.run_until(lambda: status(third, a).established, 5)
    names = a.node.statuses(net.now)
    assert len(names) == 3
    assert names[other].peer_id == squatter.node.peer_id


@pytest.mark.parametrize("claimed", ["\x1b[2Jbob", "bob\nadmin: yes", "b\u202eob", "\x9b31mbob", "bob\x00"])
def test_attack_27_the_question_shows_a_clean_name(claimed: str) -> None:
    """Attack 27: the name in the question whether to admit somebody holds nothing that a terminal obeys."""
    net = SimNet(273)
    a = make_node(net, "a", "10.0.0.1", accept=AcceptPolicy.ASK)
    stranger = make_node(net, "stranger", "10.0.0.3", claimed=claimed)
    add(stranger, a)
    net.run(3)
    (asked,) = events(a, EventKind.PENDING)
    assert asked.peer_id == stranger.node.peer_id
    assert asked.peer.isprintable()
    assert "b" in asked.peer
    assert arrived(a) == []
    a.do(a.node.admit, stranger.node.peer_id, True)
    assert net.run_until(lambda: status(stranger, a).established, 30)
    assert all(name.isprintable() for name in a.node.statuses(net.now))


def test_attack_27_a_stranger_came_first_and_then_the_name_is_added() -> None:
    """Attack 27: an admitted stranger that sits on a name does not become the peer that is added under it."""
    net = SimNet(271)
    a = make_node(net, "a", "10.0.0.1", accept=AcceptPolicy.EVERYBODY)
    squatter = make_node(net, "squatter", "10.0.0.3", claimed="bob")
    bob = make_node(net, "bob", "10.0.0.2")
    add(squatter, a)
    assert net.run_until(lambda: status(squatter, a).established, 5)
    assert status(a, "bob").peer_id == squatter.node.peer_id
    with pytest.raises(ValueError, match="bob"):
        a.node.add_peer("bob", [bob.address], bob.node.peer_id, net.now)
    a.do(a.node.add_peer, "robert", [bob.address], bob.node.peer_id)
    add(bob, a)
    assert net.run_until(lambda: status(a, "robert").established, 10)
    send(a, "robert", SECRET)
    net.run(1)
    assert arrived(bob) == [SECRET]
    assert arrived(squatter) == []


def test_attack_27_spoofed_third_arrow_does_not_take_a_name() -> None:
    """Attacks 27 and 76: who punches from its own address cannot take a name that is configured at another.

    The attacker knows our PeerId (its punch is tagged, so it is answered), then sends SHARED_KEY and its first records
    as if from the address of an unpinned peer. It holds the keys, so it needs none of our answers.
    """
    net = SimNet(272)
    a = make_node(net, "a", "10.0.0.1")
    bob = make_node(net, "bob", "10.0.0.2")
    evil = make_node(net, "evil", "10.0.0.66")
    add(a, bob)
    token = send(a, bob, SECRET)

    def spoof(now: float, source: Address, destination: Address, data: bytes) -> list[Any] | None:
        if source == evil.address and data[0] != PUNCH:
            return [(bob.address, destination, data)]
        return None

    net.intercept(spoof)
    evil.do(evil.node.add_peer, "a", [a.address], a.node.peer_id)
    net.run(8)
    assert arrived(evil) == []
    assert status(a, bob).peer_id != evil.node.peer_id
    assert settled(a, token) is None
    evil.detach()
    add(bob, a)
    assert net.run_until(lambda: arrived(bob, a) == [SECRET], 20)
    alive(net, a, bob)


# --- 70 ---

SMALL_ORDER = (
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
)
NON_CANONICAL = (
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",  # p + 1
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",  # p
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "0100000000000000000000000000000000000000000000000000000000000080",
)


def liar(real: Identity, claimed: PeerId) -> Identity:
    """An identity that claims another PeerId than its keys have."""
    made = SimpleNamespace(
        peer_id=claimed,
        static_private=real.static_private,
        static_public=real.static_public,
        ephemeral=False,
    )
    return cast(Identity, made)


def claims(backend: Backend) -> list[PeerId]:
    """PeerIds that no handshake may prove."""
    victim, own = identity("victim", backend).peer_id, identity("evil", backend).peer_id
    signed = own.key[:31] + bytes((own.key[31] | 0x80,))
    return [victim, PeerId(signed), *(PeerId(bytes.fromhex(text)) for text in (*SMALL_ORDER, *NON_CANONICAL))]


def test_attack_70_claimed_peer_id(backend: Backend) -> None:
    """Attack 70: a known PeerId with another static key, small-order and non-canonical ones: refused in both roles."""
    us = Self(backend, identity("us", backend), bytes(16), "us")
    real = identity("evil", backend)
    where = Address("10.0.0.66", 1)

    def handshake(evil: Self, *, initiator: bool) -> None:
        first, second = (evil, us) if initiator else (us, evil)
        opening = open_attempt(first, 5, b"\x11" * 32, None)
        answer = answer_punch(second, parse_punch(opening.punch), where, 6, b"\x22" * 32, 1)
        agreed = read_public_key(first, [opening], parse_public_key(answer.public_key), where, lambda instance: 0)
        read_shared_key(answer, parse_shared_key(agreed.shared_key))

    honest = Self(backend, real, bytes(16), "evil")
    handshake(honest, initiator=True)
    handshake(honest, initiator=False)
    for claimed in claims(backend):
        evil = Self(backend, liar(real, claimed), bytes(16), "evil")
        for initiator in (True, False):
            with pytest.raises(AuthenticationError):
                handshake(evil, initiator=initiator)


@pytest.mark.parametrize("evil_punches", [True, False])
def test_attack_70_a_liar_gets_no_name(backend: Backend, evil_punches: bool) -> None:
    """Attack 70: over the network: no session, no event, a counted reason; the victim itself still connects."""
    net = SimNet(700)
    a = make_node(net, "a", "10.0.0.1", backend=backend)
    victim = make_node(net, "victim", "10.0.0.2", backend=backend)
    net.add_host("evil", "10.0.0.66")
    endpoint = Endpoint(
        liar(identity("evil", backend), victim.node.peer_id),
        Config(),
        backend=backend,
        random=net.entropy("evil"),
        accept=AcceptPolicy.EVERYBODY,
    )
    evil = net.attach(endpoint, "evil", 5000)
    a.do(a.node.add_peer, "victim", [] if evil_punches else [evil.address], victim.node.peer_id)
    send(a, "victim", SECRET)
    if evil_punches:
        evil.do(evil.node.add_peer, "a", [a.address], a.node.peer_id)
    net.run(6)
    assert drops(a, "bad_shared_key" if evil_punches else "bad_public_key") >= 1
    assert not status(a, "victim").established
    assert set(kinds(a)) <= {EventKind.UNREACHED}
    assert arrived(evil) == []
    a.do(a.node.add_peer, "victim", [victim.address], victim.node.peer_id)
    add(victim, a)
    assert net.run_until(lambda: arrived(victim) == [SECRET], 20)


def test_attack_70_impossible_pins_are_refused_at_the_call() -> None:
    """Attack 70: pinning a PeerId that nobody can prove is our own mistake and is said at once."""
    net, a, b = pair(701)
    for text in (*SMALL_ORDER, *NON_CANONICAL):
        with pytest.raises((ValueError, IdentityError)):
            a.node.add_peer("b", [b.address], PeerId(bytes.fromhex(text)), net.now)
    assert a.node.statuses(net.now) == {}


# --- 76 ---


def behind_one_nat(seed: int) -> tuple[SimNet, SimNode, SimNode, SimNode]:
    """``a`` in the open; ``x`` and ``y`` behind one carrier NAT, which gives each its own port."""
    net = SimNet(seed, link=Link(latency=0.01))
    net.add_nat("carrier", "203.0.113.1", Nat(mapping="EIM", filtering="APDF"))
    a = make_node(net, "a", "192.0.2.1")
    x = make_node(net, "x", "100.64.0.2", behind="carrier")
    y = make_node(net, "y", "100.64.0.3", behind="carrier", port=5001)
    return net, a, x, y


@pytest.mark.parametrize("first", ["x", "y"])
def test_attack_76_two_unpinned_peers_behind_one_address(first: str) -> None:
    """Attack 76: whichever punches first, each gets its own messages and no other's."""
    net, a, x, y = behind_one_nat(760)
    for node in (x, y):
        add(a, node)
        send(a, node, SECRET + b" for " + node.host.name.encode())
    early, late = (x, y) if first == "x" else (y, x)
    add(early, a)
    net.run(3)
    add(late, a)
    net.run(5)
    for node in (x, y):
        assert arrived(node, a) == [SECRET + b" for " + node.host.name.encode()]
        assert status(a, node).peer_id == node.node.peer_id
        assert status(a, node).trust is Trust.FIRST_USE
        alive(net, a, node)


@pytest.mark.parametrize("head_start", [0.0, 0.05, 0.5, 1.5])
def test_attack_76_a_neighbour_that_punches_first(head_start: float) -> None:
    """Attack 76: the neighbour of the one unpinned peer, behind the same carrier NAT, is not mistaken for it."""
    net, a, x, y = behind_one_nat(761)
    add(a, x)  # y was never added
    send(a, x, SECRET)
    add(y, a)
    net.run(head_start)
    add(x, a)
    net.run(20)
    assert arrived(y) == []
    assert arrived(x, a) == [SECRET]
    assert status(a, x).peer_id == x.node.peer_id
    assert status(a, x).trust is Trust.FIRST_USE
    assert drops(a, "unsolicited_punch") + drops(a, "refused_stranger") > 0


def test_attack_76_what_was_matched_by_ip_says_so() -> None:
    """Attack 76: where nobody answered at the exact address, the IP address alone is taken, and shown as that weak."""
    net, a, x, y = behind_one_nat(762)
    add(a, x)
    add(y, a)
    assert net.run_until(lambda: status(a, x).established, 10)
    assert status(a, x).matched_by_ip
    assert not status(a, x).pinned
    (connected,) = events(a, EventKind.CONNECTED)
    assert "IP address alone" in connected.reason
    assert tells_what_to_do(connected.reason)
    pinned = make_node(net, "z", "100.64.0.4", behind="carrier", port=5002)
    a.do(a.node.remove_peer, "x")
    add(a, pinned, pin=True)  # a pin is never matched by an address
    net.run(20)
    assert not status(a, pinned).established


def test_what_identities_learn_in_silence() -> None:
    """Attacks 24 to 27: a refused stranger learns no more than that it was refused, and is told once per attempt."""
    net, a, b = pair(790)
    evil = make_node(net, "evil", "10.0.0.66")
    connect(net, a, b)
    record = Recorder(net)
    evil.do(evil.node.add_peer, "a", [a.address], a.node.peer_id)
    send(evil, "a", b"let me in")
    net.run(10)
    assert status(evil, "a").state is PeerState.REFUSED
    assert drops(a, "refused_stranger") >= 1
    told = [item for item in record.of(RECORD, source=a) if item.destination == evil.address]
    assert 1 <= len(told) <= 3
    assert arrived(a) == []
    refused = events(evil, EventKind.REFUSED)
    assert refused
    assert tells_what_to_do(refused[0].reason), refused[0].reason
    transfer(net, a, b, SECRET)
