"""Attacks of somebody in the path, or of a stranger who throws datagrams at a port. Real sockets on loopback."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable

import pytest

from srmudp import Config, EventKind, MultiHolepunchSocket, PeerEvent, PeerState
from srmudp.wire.packet import (
    COOKIE,
    COOKIE_SIZE,
    HANDSHAKE_HEADER,
    MIN_SHARED_KEY,
    PUBLIC_KEY,
    PUNCH,
    PUNCH_SIZE,
    RECORD,
    RECORD_HEADER,
    RECORD_OVERHEAD,
    RESEND,
    SHARED_KEY,
    parse_segment,
    punch_header,
)
from tests.real.helpers import (
    DEADLINE,
    Make,
    Wire,
    alive,
    at,
    connected,
    content,
    digests,
    join,
    reach,
    receive,
    state,
    throw,
)
from tests.real.proxy import Flight, Proxy, Side

HANDSHAKE = frozenset({PUNCH, PUBLIC_KEY, SHARED_KEY, COOKIE})
KINDS = (PUNCH, PUBLIC_KEY, SHARED_KEY, COOKIE, RECORD, RESEND)


class Table:
    """Two connected sockets with somebody between them."""

    def __init__(self, make: Make, proxy: Proxy, *, connect: bool = True) -> None:
        self.proxy = proxy
        self.wires: dict[Side, Wire] = {"a": Wire(keep=False), "b": Wire(keep=False)}
        self.events: list[PeerEvent] = []
        self.a = make(config=Config(transport=self.wires["a"]))
        self.b = make(config=Config(transport=self.wires["b"]))
        for sock in (self.a, self.b):
            sock.on_event(self.events.append)
        proxy.attach(a=self.a.port, b=self.b.port)
        if connect:
            self.connect()
            connected(self.a, self.b)

    def connect(self) -> None:
        self.a.add_peer("b", self.proxy.face("a"))
        self.b.add_peer("a", self.proxy.face("b"))

    def sock(self, side: Side) -> MultiHolepunchSocket:
        return self.a if side == "a" else self.b

    def throw(self, to: Side, datagrams: list[bytes], burst: int = 64) -> None:
        """From the address that side trusts, no faster than it reads; returns when all were read."""
        wire = self.wires[to]
        for start in range(0, len(datagrams), burst):
            some = datagrams[start : start + burst]
            wanted = wire.datagrams + len(some)
            self.proxy.inject(to, some)
            reach(lambda wanted=wanted: wire.datagrams >= wanted, lambda: state(self.sock(to)))  # type: ignore[misc]

    def talk(self, rounds: int = 12) -> None:
        """Something of every kind, both ways: small, long, unreliable, on two channels."""
        for number in range(rounds):
            for sender, receiver, name in ((self.a, self.b, "b"), (self.b, self.a, "a")):
                size = (0, 10, 700, 20_000)[number % 4]
                sender.send(content(size, number), name, channel=number % 2)
                sender.send(b"unreliable %d" % number, name, reliable=False)
                got = receive(receiver, 2)
                assert set(digests(got)) == set(digests([content(size, number), b"unreliable %d" % number]))

    def quiet(self) -> None:
        """Nobody has a message to read, nothing went wrong inside, nobody lost the other."""
        for sock in (self.a, self.b):
            assert sock.receive(0) is None
            assert sock.drops.get("internal_error", 0) == 0, state(sock)
        assert [event.kind for event in self.events] == [EventKind.CONNECTED] * 2, self.events


def dropped(sock: MultiHolepunchSocket) -> int:
    """Datagrams discarded so far, for whatever reason."""
    return sum(sock.drops.values())


@pytest.fixture
def table(make: Make, proxy: Proxy) -> Table:
    return Table(make, proxy)


def test_attack_1_and_3_replay_at_once_later_and_in_another_order(table: Table) -> None:
    """Attacks 1 and 3: everything recorded is sent again, in three orders. Each message once, counted as replayed."""
    table.talk()
    rng = random.Random(1)
    for order in ("at once", "again", "shuffled", "backwards"):
        for sender, victim in (("a", "b"), ("b", "a")):
            recorded = table.proxy.flights(sender)  # type: ignore[arg-type]
            if order == "shuffled":
                rng.shuffle(recorded)
            elif order == "backwards":
                recorded.reverse()
            assert {datagram[0] for datagram in recorded} >= {RECORD}
            before = dropped(table.sock(victim))  # type: ignore[arg-type]
            table.throw(victim, recorded)  # type: ignore[arg-type]
            records = sum(datagram[0] == RECORD for datagram in recorded)
            after = reach(lambda v=victim: dropped(table.sock(v)))  # type: ignore[misc]
            assert after - before >= records
        assert table.a.drops["replayed"] >= 10
        assert table.b.drops["replayed"] >= 10
        table.quiet()
        alive(table.a, table.b)
    table.quiet()


def test_attack_1_every_datagram_twice_and_old_ones_mixed_in(table: Table) -> None:
    """Attack 1: the replays come in the middle of the transfer: whole, once."""
    rng = random.Random(11)
    kept: dict[Side, list[bytes]] = {"a": [], "b": []}

    def rule(flight: Flight) -> Iterable[bytes]:
        old = kept[flight.sender]
        old.append(flight.datagram)
        return flight.datagram, rng.choice(old), flight.datagram

    table.proxy.rule = rule
    large = content(1_000_000)
    deliveries = [table.a.send(large, "b"), *(table.a.send(b"%d" % n, "b", channel=1) for n in range(50))]
    got = receive(table.b, 51)
    assert sorted(digests(got)) == sorted(digests([large, *(b"%d" % n for n in range(50))]))
    assert all(delivery.wait(DEADLINE) for delivery in deliveries)
    table.proxy.rule = None
    alive(table.a, table.b)
    table.quiet()
    assert table.b.drops["replayed"] > 100


def test_attack_4_reflected_packets(table: Table) -> None:
    """Attack 4: each side is sent its own packets: none accepted, also while the honest ones are withheld."""
    table.talk()
    for side in ("a", "b"):
        own = table.proxy.flights(side)  # type: ignore[arg-type]
        before = dropped(table.sock(side))  # type: ignore[arg-type]
        opened = table.sock(side).connections_status["b" if side == "a" else "a"].stats.messages_received  # type: ignore[arg-type]
        table.throw(side, own)  # type: ignore[arg-type]
        records = sum(datagram[0] in (RECORD, RESEND) for datagram in own)
        assert records > 20
        reach(lambda s=side, n=before + records: dropped(table.sock(s)) >= n)  # type: ignore[misc]
        status = table.sock(side).connections_status["b" if side == "a" else "a"]  # type: ignore[arg-type]
        assert status.stats.messages_received == opened
    table.quiet()
    # F3: own acknowledgements come back instead of the data: the message must not count as delivered.
    table.proxy.rule = lambda flight: (
        table.proxy.inject_now(flight.sender, flight.datagram) or () if flight.sender == "a" else (flight.datagram,)
    )
    delivery = table.a.send(b"pay 100 to b", "b")
    assert not delivery.wait(0.3)
    assert table.a.receive(0) is None
    table.proxy.rule = None
    assert receive(table.b, 1) == [b"pay 100 to b"]
    assert delivery.wait(DEADLINE)
    alive(table.a, table.b)
    table.quiet()


def test_attack_6_spoofed_and_recorded_closes(make: Make, proxy: Proxy) -> None:
    """Attack 6: closes of every shape without the key, and the sealed close of an earlier session. Nothing happens."""
    table = Table(make, proxy)
    alive(table.a, table.b)
    port = table.b.port
    table.b.close()  # its sealed goodbye passes the proxy
    reach(lambda: table.a.connections_status["b"].state is PeerState.LOST)
    old = table.proxy.flights("b", RECORD)[-8:]
    table.wires["b"] = Wire(keep=False)
    table.b = make(port, config=Config(transport=table.wires["b"]))
    table.b.add_peer("a", table.proxy.face("b"))
    connected(table.a, table.b)
    table.events.clear()
    table.events += [PeerEvent(EventKind.CONNECTED, name) for name in "ab"]
    alive(table.a, table.b)

    live = table.proxy.flights("b", RECORD)[-1]
    header = parse_segment(live).header
    forged = [b"", b"\x00", b"CLOSE", *old]
    for number in (0, header.number, header.number + 1, header.number + 1000, (1 << 62) - 1):
        for body in (b"\x00" * 17, b"\x08" + b"\x00" * 30, random.Random(number).randbytes(40)):
            head = header._replace(number=number, first=min(number, (1 << 62) - 2), count=1, size=len(body))
            forged += [head.pack() + b"\x00" + body]
    for epoch in (1, 2, 255):
        forged.append(header._replace(epoch=epoch, count=1, size=40).pack() + b"\x00" + bytes(40))
    for kind in range(256):
        forged.append(bytes([kind]) + live[1:])
        forged.append(bytes([kind]))
    table.throw("a", [datagram for datagram in forged if datagram])
    assert table.a.connections_status["b"].state is PeerState.CONNECTED
    alive(table.a, table.b)
    table.quiet()


def test_attack_8_bit_flips(make: Make, proxy: Proxy) -> None:
    """Attack 8: a bit of every tenth datagram flipped in flight, handshakes included: all arrives, once and whole."""
    rng = random.Random(8)
    flipped: dict[int, int] = dict.fromkeys(KINDS, 0)

    def rule(flight: Flight) -> Iterable[bytes]:
        if rng.random() < 0.9:
            return (flight.datagram,)
        flipped[flight.datagram[0]] += 1
        return (flip(flight.datagram, rng.randrange(len(flight.datagram) * 8)),)

    proxy.rule = rule
    table = Table(make, proxy)
    for number in range(10):
        data = content(60_000, number)
        delivery = table.a.send(data, "b")
        assert digests(receive(table.b, 1)) == digests([data])
        assert delivery.wait(DEADLINE)
        table.b.send(b"%d" % number, "a")
        assert receive(table.a, 1) == [b"%d" % number]
    proxy.rule = None
    assert flipped[RECORD] > 20
    alive(table.a, table.b)
    table.quiet()


def test_attack_8_each_bit_of_the_clear_headers(table: Table) -> None:
    """Attack 8: copies of a new record with one bit of header and tag flipped, ahead of the record: all refused."""
    held: list[bytes] = []
    table.proxy.rule = lambda flight: held.append(flight.datagram) or () if flight.sender == "a" else (flight.datagram,)
    delivery = table.a.send(b"one datagram", "b")
    honest = reach(lambda: next((datagram for datagram in held if len(datagram) > RECORD_OVERHEAD + 16 + 12), None))
    assert honest is not None
    assert parse_segment(honest).header.count == 1
    places = [*range(RECORD_OVERHEAD * 8), *range((len(honest) - 16) * 8, len(honest) * 8)]
    before = dropped(table.b)
    table.throw("b", [flip(honest, place) for place in places])
    reach(lambda: dropped(table.b) >= before + len(places), lambda: state(table.b))
    assert table.b.receive(0) is None
    assert not delivery.wait(0)
    table.proxy.rule = None
    table.proxy.inject("b", [honest])
    assert receive(table.b, 1) == [b"one datagram"]
    assert delivery.wait(DEADLINE)
    alive(table.a, table.b)
    table.quiet()


def flip(datagram: bytes, bit: int) -> bytes:
    """The datagram with one bit inverted."""
    damaged = bytearray(datagram)
    damaged[bit >> 3] ^= 1 << (bit & 7)
    return bytes(damaged)


def junk(count: int, live: bytes, rng: random.Random) -> list[bytes]:
    """Random datagrams of 0 to 1,500 bytes: noise, valid first bytes, valid headers, the live index."""
    pool = rng.randbytes(200_000)
    made: list[bytes] = []
    for number in range(count):
        size = rng.randrange(1501)
        start = rng.randrange(len(pool) - 1500)
        body = pool[start : start + size]
        shape = number % 5
        if shape == 1 and body:
            body = bytes((rng.choice(KINDS),)) + body[1:]
        elif shape == 2:  # a handshake message of the right version and length
            kind = rng.choice((PUNCH, PUBLIC_KEY, SHARED_KEY, COOKIE))
            length = {PUNCH: PUNCH_SIZE, PUBLIC_KEY: 300, SHARED_KEY: MIN_SHARED_KEY + 30, COOKIE: COOKIE_SIZE}[kind]
            body = bytes((kind, 1)) + pool[start : start + length - 2]
        elif shape == 3:  # a record that names the live session
            body = live[:10] + body
        elif shape == 4:  # a segment of a long record of the live session that will never be complete
            number_, first = struct.unpack_from(">QQ", live, 10)
            number_ += rng.randrange(100)
            body = live[:10] + struct.pack(">QQBHB", number_, first + rng.randrange(4000), 44, 1000, rng.randrange(43))
            body += pool[start : start + 1000]
        made.append(body)
    return made


def test_attack_10_a_hundred_thousand_random_datagrams(make: Make) -> None:
    """Attack 10: 10^5 datagrams of 0 to 1,500 bytes, some with valid headers, and one of 65,507: alive, memory flat."""
    wire = Wire()
    a, b = make(config=Config(transport=wire)), make()
    join(a, b)
    alive(a, b)
    wire.keep = False
    receiver = Wire(keep=False)
    victim = make(config=Config(transport=receiver, receive_budget=64 << 20))
    victim.add_peer("b", at(b))
    b.add_peer("v", at(victim))
    assert victim.wait_connected("b", DEADLINE)
    assert b.wait_connected("v", DEADLINE)
    rng = random.Random(10)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as spy:
        spy.bind(("127.0.0.1", 0))
        # Whatever b sends to the victim names the victim's index; the test reads it out of b's own datagram.
        live = next(datagram for _, datagram in reversed(list(wire.sent())) if datagram[0] == RECORD)
    index = victim_index(victim)
    live = live[:2] + index + live[10:]
    datagrams = junk(5000, live, rng)
    throw(datagrams, at(victim), receiver)  # warm: caches and tables reach their size
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        began = time.monotonic()
        for _ in range(19):
            rng.shuffle(datagrams)
            throw(datagrams, at(victim), receiver, burst=128)
        throw([rng.randbytes(65_507)], at(victim), receiver)
        lasted = time.monotonic() - began
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert receiver.datagrams > 99_000 - 5000
    assert grown < 8 << 20, f"grown by {grown} bytes"
    assert lasted < 30
    assert victim.drops.get("internal_error", 0) == 0, state(victim)
    assert victim.receive(0) is None
    data = content(100_000)
    delivery = b.send(data, "v")
    assert digests(receive(victim, 1)) == digests([data])
    assert delivery.wait(DEADLINE)
    alive(a, b)
