"""Attacks 9, 17, 22, 28, 31, 34, 46, 72 to 74, 76 and 79 through real sockets on loopback."""

from __future__ import annotations

import random
import socket
import threading
from collections import Counter
from collections.abc import Iterable
from functools import partial

import pytest

from srmudp import Config, Delivery, EventKind, Identity, MultiHolepunchSocket, Peer, PeerEvent, PeerState
from srmudp.peers.admission import MAX_HALF_OPEN, MAX_HALF_OPEN_PER_HOST
from srmudp.wire.frames import MessagePart
from srmudp.wire.packet import (
    COOKIE,
    HANDSHAKE_HEADER,
    NUMBER_LIMIT,
    PUBLIC_KEY,
    PUNCH,
    PUNCH_SIZE,
    RECORD,
    RECORD_OVERHEAD,
    RESEND,
    SHARED_KEY,
)
from tests.real.helpers import (
    DEADLINE,
    ETHERNET,
    Make,
    Wire,
    alive,
    at,
    connected,
    content,
    digests,
    drops,
    join,
    messages_received,
    reach,
    receive,
    resident,
    state,
)
from tests.real.proxy import Flight, Proxy
from tests.real.test_attacks import Table
from tests.real.test_attacks_handshake import forged_punch

SECRET = b"my secret: attack at dawn, bring the ladders"


@pytest.fixture
def table(make: Make, proxy: Proxy) -> Table:
    return Table(make, proxy)


def between(make: Make, proxy: Proxy, **options: object) -> tuple[MultiHolepunchSocket, MultiHolepunchSocket]:
    """Two sockets with somebody in between; neither knows the other yet."""
    a, b = make(config=Config(transport=Wire(keep=False, mtu=ETHERNET)), **options), make(**options)
    proxy.attach(a=a.port, b=b.port)
    return a, b


# --- 9 ---


def test_attack_9_truncated_at_every_length_and_lengthened(table: Table) -> None:
    """Attack 9: a record withheld, its datagram at every shorter length and with 1 to 64 bytes more: all refused.

    Then the record itself comes, and is taken. Handshake messages of the session likewise.
    """
    table.a.send(b"first", "b")
    assert receive(table.b, 1) == [b"first"]
    held: list[bytes] = []

    def hold(flight: Flight) -> Iterable[bytes]:
        if flight.sender == "a" and flight.datagram[0] == RECORD and len(flight.datagram) > 300 and not held:
            held.append(flight.datagram)
        return () if flight.sender == "a" else (flight.datagram,)

    table.proxy.rule = hold
    delivery = table.a.send(content(300), "b")
    reach(lambda: held)
    handshake = [f.datagram for f in table.proxy.seen if f.datagram[0] in (PUNCH, PUBLIC_KEY, SHARED_KEY)][:3]
    forged = []
    for whole in (held[0], *handshake):
        forged += [whole[:size] for size in range(1, len(whole))]
        forged += [whole + bytes(more) for more in range(1, 65)]
    before = drops(table.b)
    table.throw("b", forged)
    table.await_drops("b", before + len(forged) - len(handshake) * 2)
    assert table.b.receive(0) is None
    assert not delivery.wait(0)
    table.proxy.rule = None
    table.proxy.inject("b", held)
    assert digests(receive(table.b, 1)) == digests([content(300)])
    assert delivery.wait(DEADLINE)
    alive(table.a, table.b)
    table.quiet()


# --- 17: fragments without end ---


def test_attack_17_a_peer_that_finishes_nothing(make: Make) -> None:
    """Attack 17: an authenticated peer begins 20,000 messages and ends none: closed or kept within the window.

    Its sealed frames are real ones. Memory stays bounded for all connections together; others go on.
    """
    config = Config(channel_window=256 * 1024, connection_window=1 << 20)
    a, b, c = make(), make(config=config), make()
    b.add_peers({"a": at(a), "c": at(c)})
    a.add_peer("b", at(b))
    c.add_peer("b", at(b))
    assert b.wait_connected(["a", "c"], DEADLINE)
    assert a.wait_connected("b", DEADLINE)
    endpoint = a._engine.driver.endpoint
    before = resident()

    def hostile(now: float, start: int) -> None:
        peer = endpoint._registry.named("b")
        for number in range(start, start + 500):
            peer.connection.signal(MessagePart(number % 64, number // 64, 999, 1000, b"x"))
        endpoint.touch(peer)

    for start in range(0, 20_000, 500):
        if not a.connections_status["b"].established:
            break
        a._engine.driver.run(hostile, start)
    reach(lambda: b.drops.get("protocol_error", 0), lambda: state(b))
    assert resident() - before < 32 << 20
    assert "broke the protocol" in (b.connections_status["a"].failure or "")
    data = content(100_000)
    delivery = c.send(data, "b")
    assert digests(receive(b, 1)) == digests([data])
    assert delivery.wait(DEADLINE)
    assert b.drops.get("internal_error", 0) == 0


# --- 34, 36: strangers with well-formed first arrows ---


def test_attacks_34_and_36_thousands_of_half_open_handshakes(make: Make) -> None:
    """Attacks 34 and 36: 2,500 first arrows that are never followed, from ten ports: bounded, and nothing is amplified.

    The connection that is there goes on, and one that begins meanwhile is made.
    """
    rng = random.Random(34)
    wire = Wire(keep=False)
    a, b, c = make(), make(config=Config(transport=wire), accept=True), make()
    join(a, b)
    sent = got = 0
    strangers = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(10)]
    try:
        for stranger in strangers:
            stranger.setblocking(False)
        c.add_peer("b", Peer([at(b)], b.peer_id))
        for number in range(0, 2500, 50):
            wanted = wire.datagrams + 50
            for shot in range(50):
                punch = forged_punch(rng, number + shot, b if shot % 2 else None)
                strangers[shot % 10].sendto(punch, at(b))
                sent += len(punch)
            wire.wait(wanted)
        admission = b._engine.driver.endpoint._admission
        assert len(admission._by_punch) <= MAX_HALF_OPEN
        assert max(admission._per_host.values(), default=0) <= MAX_HALF_OPEN_PER_HOST
        assert c.wait_connected("b", 3 * DEADLINE), (state(b), state(c))
        alive(a, b)
        for stranger in strangers:
            while answer := _read(stranger):
                assert answer[0] in (PUBLIC_KEY, COOKIE)
                assert len(answer) <= PUNCH_SIZE
                got += len(answer)
    finally:
        for stranger in strangers:
            stranger.close()
    assert 0 < got <= sent
    assert b.drops.get("internal_error", 0) == 0


def _read(sock: socket.socket) -> bytes:
    try:
        return sock.recv(65_535)
    except BlockingIOError:
        return b""


# --- 22, 72: handshakes replayed and withheld ---


def test_attack_22_a_recorded_handshake_a_thousand_times(make: Make, proxy: Proxy) -> None:
    """Attack 22: first and third arrow 10^3 times each at the live responder, and at the same one restarted."""
    who = Identity.generate()
    wires = Wire(keep=False), Wire(keep=False)
    a, b = make(), make(identity=who, config=Config(transport=wires[0]))
    proxy.attach(a=a.port, b=b.port)
    # Only a's attempt is answered.
    proxy.rule = lambda flight: () if flight.sender == "b" and flight.datagram[0] == PUNCH else (flight.datagram,)
    a.add_peer("b", Peer([proxy.face("a")], b.peer_id))
    b.add_peer("a", Peer([proxy.face("b")], a.peer_id))
    connected(a, b)
    a.send(b"once", "b")
    assert receive(b, 1) == [b"once"]
    everything = proxy.flights("a")
    recorded = proxy.flights("a", PUNCH)[:1] + proxy.flights("a", SHARED_KEY)[:1]
    assert len(recorded) == 2
    proxy.recording = False

    def repeat(wire: Wire) -> None:
        for _ in range(25):
            wanted = wire.datagrams + 80
            proxy.inject("b", recorded * 40)
            wire.wait(wanted)

    repeat(wires[0])
    alive(a, b)
    assert b.connections_status["a"].stats.messages_received == 2
    port = b.port
    b.close(0)
    b = make(port, identity=who, config=Config(transport=wires[1]))
    proxy.rule = lambda flight: ()  # a itself is not heard any more
    b.add_peer("a", Peer([proxy.face("b")], a.peer_id))
    proxy.inject("b", everything)
    repeat(wires[1])
    assert not b.connections_status["a"].established
    assert b.receive(0) is None
    endpoint = b._engine.driver.endpoint
    assert len(endpoint._sessions) <= 2
    assert len(endpoint._admission._by_punch) <= 2
    assert b.drops.get("internal_error", 0) == 0


def test_attack_72_a_withheld_third_arrow(make: Make, proxy: Proxy) -> None:
    """Attack 72: the third arrow is held back, the initiator comes again as a new program, then the old one goes on."""
    who = Identity.generate()
    held: list[bytes] = []

    def hold(flight: Flight) -> Iterable[bytes]:
        if flight.sender == "a" and flight.datagram[0] == SHARED_KEY:
            held.append(flight.datagram)
            return ()
        if flight.sender == "b" and flight.datagram[0] == PUNCH:
            return ()  # so that a is the one whose attempt is answered
        return (flight.datagram,)

    a = make(identity=who)
    b = make()
    proxy.attach(a=a.port, b=b.port)
    proxy.rule = hold
    b.add_peer("a", Peer([proxy.face("b")], a.peer_id))
    a.add_peer("b", Peer([proxy.face("a")], b.peer_id))
    early = b.send(b"for a", "a")
    reach(lambda: held, lambda: (state(a), state(b)))
    a.close(0)
    again = make(identity=who)
    proxy.attach(a=again.port, b=b.port)
    proxy.rule = None
    again.add_peer("b", Peer([proxy.face("a")], b.peer_id))
    connected(again, b)
    assert receive(again, 1) == [b"for a"]
    assert early.wait(DEADLINE)
    before = b.connections_status["a"]
    proxy.inject("b", held * 20)
    alive(again, b)
    after = b.connections_status["a"]
    assert after.state is before.state is PeerState.CONNECTED
    assert after.address == before.address
    assert b.drops.get("internal_error", 0) == 0


# --- 31: downgrade ---


@pytest.mark.parametrize("version", [0, 2])
def test_attack_31_another_version_in_flight(make: Make, proxy: Proxy, version: int) -> None:
    """Attack 31: the version byte of every handshake message changed: silence, no session, no plaintext."""
    a, b = between(make, proxy)

    def change(flight: Flight) -> Iterable[bytes]:
        datagram = flight.datagram
        return (datagram[:1] + bytes((version,)) + datagram[2:],)

    proxy.rule = change
    a.add_peer("b", proxy.face("a"))
    b.add_peer("a", proxy.face("b"))
    delivery = a.send(SECRET, "b")
    reach(lambda: a.drops.get("unknown_version", 0) >= 2 and b.drops.get("unknown_version", 0) >= 2)
    assert {flight.datagram[0] for flight in proxy.seen} == {PUNCH}, "an unknown version was answered"
    assert all(flight.datagram[1] == 1 for flight in proxy.seen), "somebody offered another version"
    assert not a.connections_status["b"].established
    assert not delivery.wait(0)
    proxy.rule = None
    connected(a, b)
    assert receive(b, 1) == [SECRET]
    assert not any(SECRET in flight.datagram for flight in proxy.seen)
    alive(a, b)


def test_attack_31_types_and_flags_in_flight(make: Make, proxy: Proxy) -> None:
    """Attack 31: the first byte of later messages and every byte that is no index changed in turn: the same security.

    Nothing may end in a session that one of them did not agree to, or in bytes that can be read on the way.
    """
    a, b = between(make, proxy)
    rng = random.Random(31)
    changed: Counter[int] = Counter()

    def change(flight: Flight) -> Iterable[bytes]:
        datagram = flight.datagram
        kind = datagram[0]
        if kind == PUNCH or changed[kind] >= (3 if kind == PUBLIC_KEY else 1):
            return (datagram,)
        changed[kind] += 1
        if changed[kind] == 1:
            return (bytes((rng.choice((PUNCH, PUBLIC_KEY, SHARED_KEY, RESEND, 0)),)) + datagram[1:],)
        if changed[kind] == 2:
            return (datagram[:1] + bytes((datagram[1] ^ 1,)) + datagram[2:],)  # the version, or a record's epoch
        position = rng.randrange(HANDSHAKE_HEADER, len(datagram))
        return (datagram[:position] + bytes((datagram[position] ^ 1,)) + datagram[position + 1 :],)

    proxy.rule = change
    a.add_peer("b", Peer([proxy.face("a")], b.peer_id))
    b.add_peer("a", Peer([proxy.face("b")], a.peer_id))
    a.send(SECRET, "b")
    connected(a, b, 3 * DEADLINE)
    assert receive(b, 1) == [SECRET]
    assert changed[PUBLIC_KEY] == 3
    assert changed[SHARED_KEY] == changed[RECORD] == 1
    assert a.connections_status["b"].peer_id == b.peer_id
    assert not any(SECRET in flight.datagram for flight in proxy.seen)
    alive(a, b)


def test_attack_31_blocked_udp_forces_nothing(make: Make, proxy: Proxy) -> None:
    """Attack 31: with UDP blocked there are punches and nothing else, and what was sent waits until it is not."""
    a, b = between(make, proxy)
    proxy.rule = lambda flight: ()
    a.add_peer("b", proxy.face("a"))
    b.add_peer("a", proxy.face("b"))
    delivery = a.send(SECRET, "b")
    reach(lambda: len(proxy.flights("a")) >= 4)
    assert {flight.datagram[0] for flight in proxy.seen} == {PUNCH}
    assert list(delivery.pending) == ["b"]
    proxy.rule = None
    assert receive(b, 1) == [SECRET]
    assert delivery.wait(DEADLINE)


# --- 28, 76: addresses that lie, and neighbours ---


def test_attack_28_an_address_that_lies(make: Make) -> None:
    """Attack 28: the address given for b is another peer's, or nobody's: no connection, never to another peer.

    As long as there is no gate, whoever passes an address on may lie. With a pin the worst is that nothing happens.
    """
    a, b, d = make(), make(), make(accept=True)
    a.add_peer("b", Peer([at(d)], b.peer_id))
    delivery = a.send(SECRET, "b")
    # d answers nothing (the punch is tagged for b), and what it sends itself proves another key.
    d.add_peer("a", Peer([at(a)], a.peer_id))
    reach(lambda: a.drops.get("refused_stranger", 0) and d.connections_status["a"].state is PeerState.REFUSED)
    assert d.receive(0) is None
    assert not a.connections_status["b"].established
    a.add_peer("b", Peer([at(b)]))
    b.add_peer("a", Peer([at(a)], a.peer_id))
    assert receive(b, 1) == [SECRET]
    assert delivery.wait(DEADLINE)
    assert a.connections_status["b"].peer_id == b.peer_id
    assert d.receive(0) is None
    assert messages_received(d, "a") == 0


def test_attack_76_a_neighbour_that_punches_first(make: Make) -> None:
    """Attack 76: y, at the same IP address as x, punches while x is not there yet: it gets nothing of what is x's."""
    a, x, y = make(), make(), make()
    port, who = x.port, x.peer_id
    x.close(0)
    a.add_peer("x", ("127.0.0.1", port))
    delivery = a.send(SECRET, "x")
    y.add_peer("a", at(a))
    reach(lambda: a.drops.get("unsolicited_punch", 0) + a.drops.get("refused_stranger", 0) >= 3, lambda: state(a))
    x = make(port)
    x.add_peer("a", at(a))
    assert receive(x, 1) == [SECRET]
    assert delivery.wait(DEADLINE)
    assert y.receive(0) is None
    assert a.connections_status["x"].peer_id == x.peer_id
    assert a.connections_status["x"].peer_id not in (y.peer_id, who)


def test_attack_76_two_unpinned_peers_behind_one_address(make: Make) -> None:
    """Attack 76: both are added, one is late: each gets its own message and no other's."""
    a, x, y = make(), make(), make()
    for name, sock in (("x", x), ("y", y)):
        a.add_peer(name, at(sock))
        a.send(SECRET + name.encode(), name)
    y.add_peer("a", at(a))
    assert receive(y, 1) == [SECRET + b"y"]
    x.add_peer("a", at(a))
    assert receive(x, 1) == [SECRET + b"x"]
    assert x.receive(0) is y.receive(0) is None
    assert {name: status.peer_id for name, status in a.connections_status.items()} == {"x": x.peer_id, "y": y.peer_id}


# --- 46: a peer that holds on ---


def test_attack_46_a_peer_that_only_holds_on(make: Make) -> None:
    """Attack 46: it takes nothing, sends a byte now and then, and stays: the application can time out, others go on."""
    config = Config(channel_window=64 * 1024, connection_window=128 * 1024, send_queue=128 * 1024)
    a, b, c = make(config=config, timeout=1.5), make(config=config), make()
    b.add_peers({"a": at(a), "c": at(c)})
    a.add_peer("b", at(b))
    c.add_peer("b", at(b))
    assert b.wait_connected(["a", "c"], DEADLINE)
    hook = threading.Event()
    c.register_message_hook(lambda message: hook.set())
    chunk = content(32 * 1024)
    queued: list[Delivery] = []

    def fill() -> None:
        while len(queued) < 100:
            queued.append(b.send(chunk, "a", timeout=0.1))

    with pytest.raises(TimeoutError):
        fill()
    assert len(queued) <= (128 + 64) // 32 + 2
    before = resident()
    for number in range(20):
        a.send(b"%d" % (number % 10), "b", reliable=False)  # a sign of life
        assert not queued[-1].wait(0.02)
        hook.clear()
        b.send(content(50_000, number), "c")
        assert hook.wait(DEADLINE)
    assert resident() - before < 16 << 20
    assert b.connections_status["a"].established
    assert b.connections_status["a"].queued <= 128 * 1024 + len(chunk)
    got = [message.content for message in iter(partial(b.receive, 0), None)]
    assert all(len(word) == 1 for word in got)


# --- 73, 74: an observer that injects ---


def test_attacks_73_and_74_an_observer_of_long_records(table: Table) -> None:
    """Attacks 73 and 74: for each long record a forged segment before it, and copies with forged transmission numbers.

    Nothing is lost, nobody is closed, what is remembered does not grow.
    """
    rng = random.Random(73)
    forged = 0

    def observe(flight: Flight) -> Iterable[bytes]:
        nonlocal forged
        datagram = flight.datagram
        if flight.sender != "a" or datagram[0] != RECORD or datagram[26] < 2:
            return (datagram,)
        out = []
        if datagram[29] == 0:  # the first segment: one of other bytes with the same header
            forged += 1
            out.append(datagram[:RECORD_OVERHEAD] + rng.randbytes(len(datagram) - RECORD_OVERHEAD))
        if forged % 4 == 0:
            for number in (NUMBER_LIMIT - 1, rng.randrange(1 << 40), rng.randrange(5000)):
                out.append(
                    bytes((RESEND,))
                    + datagram[1:RECORD_OVERHEAD]
                    + number.to_bytes(8, "big")
                    + datagram[RECORD_OVERHEAD:]
                )
        return (*out, datagram)

    table.proxy.recording = False
    alive(table.a, table.b)
    table.proxy.rule = observe
    for number in range(4):
        data = content(300_000, number)
        delivery = table.a.send(data, "b")
        assert digests(receive(table.b, 1, 20)) == digests([data])
        assert delivery.wait(DEADLINE)
    assert forged >= 3
    table.proxy.rule = None
    endpoint = table.b._engine.driver.endpoint
    ((_, session),) = endpoint._sessions.values()
    assert len(session.receiver._partials) <= 4096
    assert len(session.receiver._transmissions) <= 1024
    alive(table.a, table.b)
    table.quiet()


# --- 79: one identity, two programs ---


def test_attack_79_one_identity_in_two_programs(make: Make) -> None:
    """Attack 79: they take turns in being the peer; that is told, no message of either is lost, nor any of ours."""
    who = Identity.generate()
    b = make(timeout=0.6)
    events: list[PeerEvent] = []
    alarm = threading.Event()

    def note(event: PeerEvent) -> None:
        events.append(event)
        if event.kind is EventKind.IDENTITY_IN_USE_ELSEWHERE:
            alarm.set()

    b.on_event(note)
    twins = [make(identity=who, timeout=0.6) for _ in range(2)]
    b.add_peer("c", Peer([], who.peer_id))  # they come by themselves
    for number, twin in enumerate(twins):
        twin.add_peer("b", Peer([at(b)], b.peer_id))
        for word in range(3):
            twin.send(b"%d from %d" % (word, number), "b")
    assert alarm.wait(3 * DEADLINE), (events, state(b))
    sent = [b.send(b"to c %d" % number, "c") for number in range(5)]
    wanted = {b"%d from %d" % (word, number) for word in range(3) for number in range(2)}
    got: set[bytes] = set()
    while not wanted <= got:
        got.update(receive(b, 1, 3 * DEADLINE))
    assert got == wanted
    heard: set[bytes] = set()
    ours = {b"to c %d" % number for number in range(5)}

    def collect() -> bool:
        for twin in twins:
            heard.update(message.content for message in iter(partial(twin.receive, 0), None))
        return heard >= ours

    reach(collect, lambda: (heard, state(b)), 3 * DEADLINE)
    for delivery in sent:
        assert delivery.wait(3 * DEADLINE)
    alarms = [event for event in events if event.kind is EventKind.IDENTITY_IN_USE_ELSEWHERE]
    turns = [event for event in events if event.kind is EventKind.RECONNECTED and "restarted" in event.reason]
    assert all(event.peer == "c" for event in alarms)
    assert len(turns) <= len(alarms) + 1, "they take turns without a word"
    assert b.connections_status["c"].peer_id == who.peer_id
