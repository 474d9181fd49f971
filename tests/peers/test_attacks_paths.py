"""Attacks 36 to 38, 51 and 52: what goes to addresses that proved nothing, and what moves a path."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal

import pytest

from srmudp.crypto.protection import RecordKeys
from srmudp.models import Address, EventKind, PeerState
from srmudp.peers.endpoint import AcceptPolicy
from srmudp.wire.frames import (
    Ack,
    Established,
    Frame,
    Grant,
    PathChallenge,
    PathResponse,
    Ping,
    SessionStart,
    serialise,
)
from srmudp.wire.packet import (
    COOKIE,
    PUBLIC_KEY,
    PUNCH,
    RECORD,
    RESEND,
    SHARED_KEY,
    RecordHeader,
    cut_record,
)
from tests.endpoints import (
    LINK,
    Recorder,
    add,
    alive,
    arrived,
    connect,
    drops,
    events,
    make_node,
    pair,
    peer_of,
    replay,
    seal_raw,
    send,
    session_of,
    status,
    transfer,
    until,
)
from tests.simnet import Link, SimNet, SimNode

VICTIM = Address("198.51.100.9", 999)
"""Has nothing to do with us. Somebody writes its address on what he sends."""

NAMES = {PUNCH: "punch", PUBLIC_KEY: "public key", SHARED_KEY: "shared key", RECORD: "record"}
Role = Literal["it punches us", "we punch it", "both"]
ROLES: tuple[Role, ...] = ("it punches us", "we punch it", "both")


class Spoofer:
    """Puts VICTIM's address on some kinds of what one node sends, and keeps account of what goes back there.

    Attributes:
        sent: bytes that left with the false address. got: bytes that went to the victim.
    """

    def __init__(self, net: SimNet, liar: SimNode, kinds: Sequence[int]) -> None:
        self.sent = self.got = 0
        self._liar, self._kinds = liar, kinds
        net.add_host("victim", VICTIM.host)
        net.intercept(self._forge)

    def _forge(self, now: float, source: Address, destination: Address, data: bytes) -> list[Any] | None:
        if destination == VICTIM:
            self.got += len(data)
            return []
        if source == self._liar.address and data[0] in self._kinds:
            self.sent += len(data)
            return [(VICTIM, destination, data)]
        return None


# --- 36: amplification ---


@cache
def collected(seed: int) -> dict[str, list[bytes]]:
    """One datagram or more of every kind that two honest nodes exchange, junk, and other protocols."""
    net = SimNet(seed, link=LINK)
    x = make_node(net, "x", "10.9.0.1", seed="x")
    y = make_node(net, "y", "10.9.0.2", seed="y")
    record = Recorder(net)
    connect(net, x, y)
    transfer(net, x, y, net.random.randbytes(30_000))
    rng = random.Random(seed)
    sizes = (1, 2, 17, 29, 30, 62, 200, 512, 1200)
    return {
        **{f"kind {kind:#x}": [item.data for item in record.of(kind)][:5] for kind in (PUNCH, PUBLIC_KEY, SHARED_KEY)},
        "records": [item.data for item in record.of(RECORD)][:30],
        "resends": [bytes((RESEND,)) + rng.randbytes(size) for size in sizes],
        "cookies": [bytes((COOKIE, 1)) + rng.randbytes(size) for size in sizes],
        "other versions": [
            bytes((kind, version)) + bytes(510) for kind in (PUNCH, PUBLIC_KEY) for version in (0, 2, 255)
        ],
        "first bytes": [bytes((first,)) + rng.randbytes(40) for first in range(256)],
        "tiny": [bytes((first,)) for first in range(256)],
        "stun": stun(),
    }


@pytest.mark.parametrize("accept", AcceptPolicy)
@pytest.mark.parametrize("state", ["alone", "waiting", "connected"])
def test_attack_36_no_packet_of_any_kind_is_amplified(state: str, accept: AcceptPolicy) -> None:
    """Attack 36: each kind of datagram from an address that proved nothing: no more bytes go there than came.

    Punches that deserve an answer are among them: tagged ones, and any where strangers are let in.
    """
    net = SimNet(36, link=LINK)
    t, b = make_node(net, "t", "10.0.0.1", accept=accept), make_node(net, "b", "10.0.0.2")
    e = make_node(net, "e", "10.0.0.3")
    if state == "waiting":
        t.do(t.node.add_peer, "b", [Address("10.0.0.77", 1)], None)
    elif state == "connected":
        connect(net, t, b)
    record = Recorder(net)
    e.do(e.node.add_peer, "t", [t.address], t.node.peer_id)  # a punch with a right tag
    net.run(0.5)
    tagged = [item.data for item in record.of(PUNCH, source=e)][:1]
    e.detach()
    net.add_host("victim", VICTIM.host)
    answered = 0
    for name, datagrams in {**collected(36), "tagged": tagged, "tagged again": tagged * 20}.items():
        record.clear()
        replay(net, t, datagrams, source=VICTIM)
        net.run(0.5)
        got = sum(len(item.data) for item in record.items if item.destination == VICTIM)
        assert got <= sum(map(len, datagrams)), name
        answered += got > 0
    record.clear()
    net.run(30)
    assert [item for item in record.items if item.destination == VICTIM] == [], "something is repeated by itself"
    silent = accept is AcceptPolicy.NOBODY and state == "alone"  # with no peer to expect it answers nothing
    assert answered >= (0 if silent else 2 if accept is AcceptPolicy.NOBODY else 3)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "kinds",
    [(PUNCH,), (PUBLIC_KEY,), (SHARED_KEY,), (RECORD,), (PUBLIC_KEY, RECORD), (PUNCH, PUBLIC_KEY, SHARED_KEY, RECORD)],
    ids=lambda kinds: "+".join(
        {PUNCH: "punch", PUBLIC_KEY: "public key", SHARED_KEY: "shared key"}.get(k, "record") for k in kinds
    ),
)
def test_attack_36_a_real_handshake_with_a_false_address(role: Role, kinds: tuple[int, ...]) -> None:
    """Attack 36: who can finish a handshake writes somebody else's address on parts of it: at most three times as much
    goes there, and not more than came where only an answer of ours is repeated."""
    net = SimNet(360, link=LINK)
    t = make_node(net, "t", "10.0.0.1")
    e = make_node(net, "e", "10.0.0.2", accept=AcceptPolicy.EVERYBODY)
    spoofer = Spoofer(net, e, kinds)
    we, it = role != "it punches us", role != "we punch it"
    t.do(t.node.add_peer, "e", [e.address] if we else [], e.node.peer_id)
    e.do(e.node.add_peer, "t", [t.address] if it else [], t.node.peer_id)
    send(t, "e", bytes(200_000))
    net.run(30)
    assert spoofer.got <= (3 if PUBLIC_KEY in kinds else 1) * spoofer.sent, (spoofer.got, spoofer.sent)


def blind_sealer(t: SimNode, e: SimNode) -> Callable[[Sequence[Frame]], bytes]:
    """What a peer can seal that has read nothing of ours but the punch: the keys need no more (Noise XX)."""
    half_open = peer_of(t, "e").opening.half_open
    assert half_open is not None
    secrets = half_open.agreed.secrets
    keys = RecordKeys(e.node.backend, secrets.receive_key, secrets.send_key)

    def seal(frames: Sequence[Frame]) -> bytes:
        plaintext = b"".join(map(serialise, frames)).ljust(16, b"\0")
        number = keys.next_number
        header = RecordHeader(0, half_open.local_index, number, number, 1, len(plaintext) + 16)
        return cut_record(header, keys.seal(number, header.pack(), plaintext))

    return seal


@pytest.mark.parametrize("acks", [False, True])
@pytest.mark.parametrize("role", ["it punches us", "we punch it"])
def test_attack_36_a_session_with_an_address_that_read_nothing(role: Role, acks: bool) -> None:
    """Attack 36: a peer makes a session as if from a victim's address and acknowledges what it never saw.

    Hostile friends are the ones that can: they have the keys, and need to receive nothing. What we had for them must
    not pour over the victim.
    """
    net = SimNet(361, link=LINK)
    t = make_node(net, "t", "10.0.0.1")
    e = make_node(net, "e", "10.0.0.2", accept=AcceptPolicy.EVERYBODY)
    spoofer = Spoofer(net, e, (PUBLIC_KEY, SHARED_KEY, RECORD))
    if role == "we punch it":
        t.do(t.node.add_peer, "e", [e.address], None)
    else:
        t.do(t.node.add_peer, "e", [], e.node.peer_id)
        e.do(e.node.add_peer, "t", [t.address], t.node.peer_id)
    send(t, "e", bytes(10_000_000))
    until(net, lambda: peer_of(t, "e").opening.half_open is not None, 2)
    seal = blind_sealer(t, e)
    e.detach()

    def inject(frames: Sequence[Frame]) -> None:
        datagram = seal(frames)
        spoofer.sent += len(datagram)
        net.inject(VICTIM, t.address, datagram)

    inject([Established(), SessionStart(b"m" * 8, bytes(8), 25_000, 1 << 30, 1 << 30, 1 << 26)])
    for _ in range(100):
        net.run(0.01)
        session = peer_of(t, "e").connection.session
        if session is None:
            break
        if acks:
            everything = ((0, session.next_number - 1),), ((0, session.next_transmission - 1),)
            inject([Ack(0, *everything), Grant(0, 0, 1 << 26)])
    net.run(30)
    assert spoofer.got <= 3 * spoofer.sent, (spoofer.got, spoofer.sent)


@pytest.mark.parametrize("loss", [0.0, 0.2])
def test_an_answer_from_another_address_than_the_punched_one_is_enough(loss: float) -> None:
    """Attack 36 must not be survived by refusing the honest: a machine with two addresses answers from the other."""
    net = SimNet(362, link=Link(latency=0.01, loss=loss))
    t = make_node(net, "t", "10.0.0.1")
    e = make_node(net, "e", "10.0.0.2", accept=AcceptPolicy.EVERYBODY)
    net.add_host("other", "10.0.0.3")
    other = Address("10.0.0.3", e.port)

    def two_addresses(now: float, source: Address, destination: Address, data: bytes) -> list[Any] | None:
        if source == e.address:
            return [(other, destination, data)]
        if destination == other:
            return [(source, e.address, data)]
        return None

    net.intercept(two_addresses)
    add(t, e)
    content = random.Random(362).randbytes(100_000)
    send(t, e, content)
    until(net, lambda: arrived(e) == [content], 20)
    assert status(t, e).address == other
    if not loss:
        assert only_connected(t)


def only_connected(t: SimNode) -> bool:
    """True if a node's peers were connected, and neither lost nor moved."""
    return {event.kind for event in events(t)} <= {EventKind.CONNECTED, EventKind.MTU}


@pytest.mark.parametrize("knowing", ["strangers", "strangers let in", "connected"])
def test_attack_36_nothing_goes_back_and_forth_for_ever(knowing: str) -> None:
    """Attack 36: every kind of datagram, as if each of two nodes had sent it to the other: no reply to a reply."""
    net = SimNet(363, link=LINK)
    accept = AcceptPolicy.EVERYBODY if knowing == "strangers let in" else AcceptPolicy.NOBODY
    a, b = (make_node(net, name, f"10.0.0.{n}", accept=accept) for n, name in enumerate("ab", 1))
    if knowing == "connected":
        connect(net, a, b)
        net.run(1)
    record = Recorder(net)
    count = 0
    for datagrams in collected(363).values():
        for node, other in ((a, b), (b, a)):
            replay(net, node, datagrams, source=other.address)
            count += len(datagrams)
    net.run(1)
    assert len(record.items) < count / 10
    record.clear()
    net.run(14)
    assert len(record.items) <= (8 if knowing == "connected" else 0), [item.kind for item in record.items]


# --- 37, as far as there are candidates: what the user gave ---


def test_attack_37_what_a_given_address_gets_is_bounded_and_ends() -> None:
    """Attack 37: an address that never answers gets few punches, fewer with time, and none once it is removed."""
    net = SimNet(37, link=LINK)
    t = make_node(net, "t", "10.0.0.1")
    addresses = [Address(f"198.51.100.{n}", port) for n in range(1, 5) for port in (53, 4444)]
    t.do(t.node.add_peer, "many", addresses, None)
    record = Recorder(net)
    seen = []
    for seconds in (60, 540, 3600):
        record.clear()
        net.run(seconds)
        per_address = [sum(item.destination == address for item in record.items) for address in addresses]
        seen.append((min(per_address), max(per_address)))
        assert len(record.items) == sum(per_address)
        assert all(item.kind == PUNCH for item in record.items)
    assert seen[0][1] <= 60
    assert seen[1][1] <= 120
    assert 1 <= seen[2][0] <= seen[2][1] <= 150, "one in half a minute, after ten minutes"
    t.do(t.node.remove_peer, "many")
    net.run(1)
    record.clear()
    net.run(300)
    assert record.items == []


def test_attack_37_addresses_do_not_add_up() -> None:
    """Attack 37: a name that resolves to other addresses every time: only the last ones are punched."""
    net = SimNet(371, link=LINK)
    t = make_node(net, "t", "10.0.0.1")
    t.do(t.node.add_peer, "fickle", [], None)
    for number in range(100):
        t.do(t.node.set_addresses, "fickle", [Address(f"198.51.100.{number}", 4000 + n) for n in range(8)])
        net.run(0.1)
    record = Recorder(net)
    net.run(60)
    assert {item.destination.host for item in record.items} == {"198.51.100.99"}
    assert len(peer_of(t, "fickle").opening.targets()) == 8


# --- 38: the rest is in test_stun.py ---


STUN_DROPS = ("stun_request", "stun_indication", "stun_unasked", "malformed", "unknown_type")


def stun() -> list[bytes]:
    """What looks like STUN: requests, replies and indications, right and wrong lengths, mapped addresses."""
    rng = random.Random(38)
    mapped = b"\x00\x20\x00\x08\x00\x01" + rng.randbytes(6)
    bodies = (b"", mapped, mapped[:7], b"\x00\x20\xff\xff\x00\x01" + bytes(6), b"\x00\x01\x00\x08\x00\x09" + bytes(6))
    made = []
    for kind in (0x0001, 0x0101, 0x0111, 0x0011, 0x3FFF):
        for body in bodies:
            for length in {len(body), 0, 0xFFFC}:
                head = kind.to_bytes(2, "big") + length.to_bytes(2, "big") + b"\x21\x12\xa4\x42"
                made.append(head + rng.randbytes(12) + body)
    return made


@pytest.mark.parametrize("state", ["punching", "connected"])
def test_attack_38_stun_is_a_counted_drop(state: str) -> None:
    """Attack 38: nobody was asked, so no STUN message is taken or answered, whoever sends it and whatever it says."""
    net = SimNet(38, link=LINK)
    a, b = make_node(net, "a", "10.0.0.1"), make_node(net, "b", "10.0.0.2")
    if state == "connected":
        connect(net, a, b)
        net.run(1)
    else:
        add(a, b)
    forged = stun()
    assert len(forged) > 40
    record = Recorder(net)
    for source in (b.address, VICTIM):
        before = {reason: drops(a, reason) for reason in (None, *STUN_DROPS)}
        a.gro = False
        replay(net, a, forged, source=source)
        assert drops(a) == before[None] + len(forged)
        assert sum(drops(a, reason) - before[reason] for reason in STUN_DROPS) == len(forged)
        assert all(drops(a, reason) > before[reason] for reason in STUN_DROPS)
    assert [item for item in record.of(source=a) if item.kind != PUNCH] == []
    if state == "connected":
        assert status(a, b).address == b.address
        alive(net, a, b, size=10_000)
    else:
        add(b, a)
        until(net, lambda: status(a, b).established)


# --- 51: an attacker that is faster, or later ---


def test_attack_51_a_race_that_passes_everything_on_and_stops() -> None:
    """Attack 51: the attacker delivers each packet first and passes on the answers: the path stays, or comes back.

    What goes to it before an address is proven is less than three times what came from it.
    """
    net, a, b = pair(51)
    net.add_host("m", VICTIM.host)
    came = got = 0
    moved: list[Address] = []

    def race(now: float, source: Address, destination: Address, data: bytes) -> list[Any] | None:
        nonlocal came, got
        if source == b.address:
            came += len(data)
            net.inject(VICTIM, a.address, data, 0.001)
        elif destination == VICTIM:
            got += len(data)
            if status(a, b).address != VICTIM:
                assert got <= 3 * came
            else:
                moved.append(VICTIM)
            return [(source, b.address, data)]
        return None

    stop = net.intercept(race)
    for number in range(10):
        transfer(net, b, a, b"%d" % number)
        transfer(net, a, b, bytes(20_000))
        net.run(0.2)
    stop()
    assert moved == [], "the old address answered its challenge all the time"
    assert got > 0
    net.run(5)
    record = Recorder(net)
    alive(net, a, b, size=10_000)
    assert status(a, b).address == b.address
    assert not [item for item in record.items if item.destination == VICTIM]


def test_attack_51_older_counters_never_move_the_path() -> None:
    """Attack 51: packets held back and delivered later, from elsewhere, for the first time: taken, but no proposal."""
    net, a, b = pair(511)
    net.run(1)
    held = [seal_raw(b, a, serialise(Ping()).ljust(16, b"\0"))[0] for _ in range(50)]
    transfer(net, b, a, b"newer")
    record = Recorder(net)
    opened = session_of(a, b).keys.opened
    replay(net, a, held, source=VICTIM, gap=0.6)
    assert session_of(a, b).keys.opened >= opened + 50, "they are valid"
    assert [item for item in record.items if item.destination == VICTIM] == []
    assert status(a, b).address == b.address
    assert events(a, EventKind.ROAMED) == []
    alive(net, a, b, size=10_000)


# --- 52: path validation ---


def proposal(net: SimNet, a: SimNode, b: SimNode) -> tuple[bytes, bytes]:
    """Have ``a`` see a new record of ``b`` at VICTIM. The nonces of the two challenges it makes."""
    net.run(1)
    net.inject(VICTIM, a.address, seal_raw(b, a, serialise(Ping()).ljust(16, b"\0"))[0])
    net.run(0)
    probe = peer_of(a, b).validator.probe
    assert probe is not None
    assert probe.address == VICTIM
    return probe.nonce_new, probe.nonce_old


@pytest.mark.parametrize(
    "kind", ["wrong", "earlier", "reflected", "of the old address", "from elsewhere", "none", "right"]
)
def test_attack_52_answers_to_path_challenges(kind: str) -> None:
    """Attack 52: sealed by a peer that is at neither address: a wrong, earlier or reflected answer moves nothing.

    The old address is silent, so that only the answer decides; the right one from the right address is the control.
    """
    net, a, b = pair(52)
    net.add_host("m", VICTIM.host)
    early, _ = proposal(net, a, b)
    net.run(2)
    assert status(a, b).address == b.address, "the old address answered"
    net.intercept(lambda now, source, destination, data: [])  # nothing that a node itself sends arrives from now on
    new, old = proposal(net, a, b)
    answers: dict[str, tuple[Frame, Address]] = {
        "wrong": (PathResponse(bytes(8)), VICTIM),
        "earlier": (PathResponse(early), VICTIM),
        "reflected": (PathChallenge(new), VICTIM),
        "of the old address": (PathResponse(old), VICTIM),
        "from elsewhere": (PathResponse(new), Address(VICTIM.host, VICTIM.port + 1)),
        "none": (Ping(), VICTIM),
        "right": (PathResponse(new), VICTIM),
    }
    frame, source = answers[kind]
    (datagram,) = seal_raw(b, a, serialise(frame).ljust(16, b"\0"))
    record = Recorder(net)
    net.inject(source, a.address, datagram)
    net.run(0)
    if kind == "reflected":
        to_victim = [item for item in record.items if item.destination == VICTIM]
        assert len(to_victim) == 1, "one answer to one challenge"
        assert len(to_victim[0].data) <= len(datagram)
        replay(net, a, to_victim, source=VICTIM)  # our own answer, sent back to us
    net.run(3)
    assert bool(events(a, EventKind.ROAMED)) is (kind == "right")
    assert (status(a, b).address == VICTIM) is (kind == "right")


def test_attack_52_a_replayed_answer() -> None:
    """Attack 52: the recorded answer that once proved an address does not prove it again."""
    net, a, b = pair(521)
    record = Recorder(net)
    net.move_host("b", "10.0.0.22")
    transfer(net, b, a, b"from elsewhere")
    until(net, lambda: status(a, b).address == b.address)
    there = [item.data for item in record.of(RECORD, source=b)]
    net.move_host("b", "10.0.0.2")
    transfer(net, b, a, b"back again")
    until(net, lambda: status(a, b).address == Address("10.0.0.2", b.port))
    before = drops(a, "replayed")
    replay(net, a, there, source=Address("10.0.0.22", b.port), gap=0.01)
    net.run(3)
    assert drops(a, "replayed") >= before + len(there)
    assert status(a, b).address == b.address
    assert status(a, b).state is PeerState.CONNECTED
    assert len(events(a, EventKind.ROAMED)) == 2
    alive(net, a, b, size=10_000)
