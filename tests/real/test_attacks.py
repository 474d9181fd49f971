"""Attacks of somebody in the path, or of a stranger who throws datagrams at a port. Real sockets on loopback."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import pytest

from srmudp import Config, EventKind, MultiHolepunchSocket, PeerEvent, PeerState
from srmudp.wire.packet import (
    COOKIE,
    COOKIE_SIZE,
    MIN_SHARED_KEY,
    PUBLIC_KEY,
    PUNCH,
    PUNCH_SIZE,
    RECORD,
    RECORD_OVERHEAD,
    RESEND,
    SHARED_KEY,
    TAG,
    parse_segment,
)
from tests.real.helpers import (
    DEADLINE,
    ETHERNET,
    Make,
    Wire,
    alive,
    all_told,
    connected,
    content,
    digests,
    drops,
    messages_received,
    reach,
    receive,
    resident,
    state,
    throw,
)
from tests.real.proxy import SIDES, Flight, Proxy, Side, other

KINDS = (PUNCH, PUBLIC_KEY, SHARED_KEY, COOKIE, RECORD, RESEND)


class Table:
    """Two sockets that know each other as "a" and "b", with somebody between them."""

    def __init__(self, make: Make, proxy: Proxy, config: Config | None = None) -> None:
        self.proxy = proxy
        self.wires: dict[Side, Wire] = {side: Wire(keep=False, mtu=ETHERNET) for side in SIDES}
        self.socks: dict[Side, MultiHolepunchSocket] = {
            side: make(config=replace(config or Config(), transport=self.wires[side])) for side in SIDES
        }
        self.events: list[PeerEvent] = []
        self.a, self.b = self.socks["a"], self.socks["b"]
        proxy.attach(a=self.a.port, b=self.b.port)
        for side in SIDES:
            self.socks[side].on_event(self.events.append)
            self.socks[side].add_peer(other(side), proxy.face(side))
        connected(self.a, self.b)

    def throw(self, to: Side, datagrams: list[bytes], burst: int = 64) -> None:
        """From the address that side trusts, no faster than it reads; returns when all were read and handled."""
        wire = self.wires[to]
        for start in range(0, len(datagrams), burst):
            some = datagrams[start : start + burst]
            wanted = wire.datagrams + len(some)
            self.proxy.inject(to, some)
            wire.wait(wanted)

    def await_drops(self, side: Side, count: int) -> None:
        """Until so many datagrams in all were discarded."""
        reach(lambda: drops(self.socks[side]) >= count, lambda: f"{count} drops at {side}; {state(self.socks[side])}")

    def talk(self, rounds: int = 12) -> None:
        """Something of every kind, both ways: small, long, unreliable, on two channels."""
        for number in range(rounds):
            for side in SIDES:
                data, word = content((0, 10, 700, 20_000)[number % 4], number), b"unreliable %d" % number
                self.socks[side].send(data, other(side), channel=number % 2)
                self.socks[side].send(word, other(side), reliable=False)
                got = receive(self.socks[other(side)], 2)
                assert sorted(digests(got)) == sorted(digests([data, word]))

    def quiet(self) -> None:
        """Nobody has a message to read, nothing went wrong inside, nobody ever lost the other."""
        for sock in (self.a, self.b):
            assert sock.receive(0) is None
            assert sock.drops.get("internal_error", 0) == 0, state(sock)
        all_told(self.a, self.b)
        told = [event.kind for event in self.events if event.kind is not EventKind.MTU]
        assert told == [EventKind.CONNECTED] * 2, self.events


@pytest.fixture
def table(make: Make, proxy: Proxy) -> Table:
    return Table(make, proxy)


def test_attack_1_and_3_replay_at_once_later_and_in_another_order(table: Table) -> None:
    """Attacks 1 and 3: everything recorded is sent again, in four orders. Each message once, counted as replayed."""
    table.talk()
    rng = random.Random(1)
    for order in ("as it was", "again", "shuffled", "backwards"):
        for side in SIDES:
            recorded = table.proxy.flights(other(side))
            if order == "shuffled":
                rng.shuffle(recorded)
            elif order == "backwards":
                recorded.reverse()
            records = sum(datagram[0] == RECORD for datagram in recorded)
            assert records > 20
            before = drops(table.socks[side])
            table.throw(side, recorded)
            table.await_drops(side, before + records)
            assert table.socks[side].drops["replayed"] >= 20
        table.quiet()
        alive(table.a, table.b)
    table.quiet()


def test_attack_1_every_datagram_twice_and_old_ones_mixed_in(table: Table) -> None:
    """Attack 1: the replays come in the middle of the transfer: whole, once."""
    rng = random.Random(11)
    kept: dict[Side, list[bytes]] = {side: [] for side in SIDES}

    def rule(flight: Flight) -> Iterable[bytes]:
        old = kept[flight.sender]
        old.append(flight.datagram)
        return flight.datagram, rng.choice(old), flight.datagram

    table.proxy.rule = rule
    large = content(1_000_000)
    words = [b"%d" % number for number in range(50)]
    deliveries = [table.a.send(large, "b"), *(table.a.send(word, "b", channel=1) for word in words)]
    assert sorted(digests(receive(table.b, 51))) == sorted(digests([large, *words]))
    assert all(delivery.wait(DEADLINE) for delivery in deliveries)
    table.proxy.rule = None
    alive(table.a, table.b)
    table.quiet()
    assert table.b.drops["replayed"] > 20


def test_attack_4_reflected_packets(table: Table) -> None:
    """Attack 4: each side is sent its own packets: none accepted."""
    table.talk()
    for side in SIDES:
        own = table.proxy.flights(side)
        records = sum(datagram[0] in (RECORD, RESEND) for datagram in own)
        assert records > 20
        before = drops(table.socks[side])
        accepted = messages_received(table.socks[side], other(side))
        table.throw(side, own)
        table.await_drops(side, before + records)
        assert messages_received(table.socks[side], other(side)) == accepted
    table.quiet()
    alive(table.a, table.b)


def test_attack_4_own_acknowledgements_instead_of_the_data(table: Table) -> None:
    """Attack 4: what a sends comes back to a and never reaches b: it must not count as delivered, nor as received."""

    def reflect(flight: Flight) -> Iterable[bytes]:
        if flight.sender == "b":
            return (flight.datagram,)
        table.proxy.deliver("a", flight.datagram)
        return ()

    table.talk(2)
    table.proxy.rule = reflect
    delivery = table.a.send(b"pay 100 to b", "b")
    assert not delivery.wait(0.3)
    assert table.a.receive(0) is None
    table.proxy.rule = None
    assert receive(table.b, 1) == [b"pay 100 to b"]
    assert delivery.wait(DEADLINE)
    alive(table.a, table.b)
    table.quiet()


def test_attack_5_and_6_closes_forged_and_of_an_earlier_session(make: Make, proxy: Proxy) -> None:
    """Attacks 5 and 6: closes of every shape without the key, and all of an earlier session with its sealed close."""
    table = Table(make, proxy)
    table.talk(4)
    port = table.b.port
    table.b.close()  # its sealed goodbye passes the proxy
    reach(lambda: table.a.connections_status["b"].state is PeerState.LOST)
    earlier = proxy.flights("b")
    b = make(port)
    b.add_peer("a", proxy.face("b"))
    connected(table.a, b)
    alive(table.a, b)

    live = proxy.flights("b", RECORD)[-1]
    header = parse_segment(live).header
    forged = list(earlier)
    for number in (0, header.number, header.number + 1, header.number + 1000, (1 << 62) - 1):
        for body in (b"\x00" * 17, b"\x08" + b"\x00" * 30, content(40, number)):
            head = header._replace(number=number, first=min(number, (1 << 62) - 2), count=1, size=len(body))
            forged.append(head.pack() + b"\x00" + body)
    for epoch in (1, 2, 255):
        forged.append(header._replace(epoch=epoch, count=1, size=40).pack() + b"\x00" + bytes(40))
    for kind in range(256):
        forged += [bytes([kind]) + live[1:], bytes([kind])]
    before = drops(table.a)
    table.throw("a", forged)
    table.await_drops("a", before + 500)
    assert table.a.connections_status["b"].state is PeerState.CONNECTED
    all_told(table.a)
    told = [event.kind for event in table.events if event.peer == "b" and event.kind is not EventKind.MTU]
    assert told[-1] is EventKind.RECONNECTED
    alive(table.a, b)
    assert table.a.receive(0) is None
    assert table.a.drops.get("internal_error", 0) == 0


def test_attack_8_bit_flips(make: Make, proxy: Proxy) -> None:
    """Attack 8: a bit of every fifth datagram flipped in flight, handshakes included: all arrives, once and whole."""
    rng = random.Random(8)
    flipped = dict.fromkeys(KINDS, 0)

    def rule(flight: Flight) -> Iterable[bytes]:
        if rng.random() < 0.8:
            return (flight.datagram,)
        flipped[flight.datagram[0]] += 1
        return (flip(flight.datagram, rng.randrange(len(flight.datagram) * 8)),)

    proxy.rule = rule
    table = Table(make, proxy)
    for number in range(8):
        data = content(60_000, number)
        delivery = table.a.send(data, "b")
        assert digests(receive(table.b, 1)) == digests([data])
        assert delivery.wait(DEADLINE)
        table.b.send(b"%d" % number, "a")
        assert receive(table.a, 1) == [b"%d" % number]
    proxy.rule = None
    assert flipped[RECORD] > 8
    alive(table.a, table.b)
    table.quiet()


def test_attack_8_each_bit_of_header_and_tag(table: Table) -> None:
    """Attack 8: copies of a new record with one bit of header or tag flipped arrive before the record: all refused."""
    held: list[bytes] = []

    def hold(flight: Flight) -> Iterable[bytes]:
        if flight.sender == "b":
            return (flight.datagram,)
        held.append(flight.datagram)
        return ()

    table.talk(1)
    table.proxy.rule = hold
    delivery = table.a.send(content(100), "b")
    honest = reach(lambda: next((datagram for datagram in held if len(datagram) > 100), b""))
    assert parse_segment(honest).header.count == 1
    bits = len(honest) * 8
    forged = [flip(honest, bit) for bit in (*range(RECORD_OVERHEAD * 8), *range(bits - TAG * 8, bits))]
    before = drops(table.b)
    table.throw("b", forged)
    table.await_drops("b", before + len(forged) - 8)  # with another count it waits for the other segments
    assert table.b.receive(0) is None
    assert not delivery.wait(0)
    table.proxy.rule = None
    table.proxy.inject("b", [honest])
    assert digests(receive(table.b, 1)) == digests([content(100)])
    assert delivery.wait(DEADLINE)
    alive(table.a, table.b)
    table.quiet()


def test_attack_50_a_nat_gives_a_new_port(table: Table) -> None:
    """Attack 50: what a sends comes from a new port, twice in the middle of a transfer: it goes on as it was."""
    table.proxy.recording = False
    for number in range(2):
        large = content(3_000_000, number)
        delivery = table.a.send(large, "b")
        table.proxy.rebind("b")
        assert digests(receive(table.b, 1)) == digests([large])
        assert delivery.wait(DEADLINE)
        table.b.send(b"answer", "a")
        assert receive(table.a, 1) == [b"answer"]
        reach(partial(_is_at, table.b, "a", table.proxy.face("b")), lambda: state(table.b))
        alive(table.a, table.b)
    all_told(table.a, table.b)
    kinds = [event.kind for event in table.events]
    assert set(kinds) <= {EventKind.CONNECTED, EventKind.ROAMED, EventKind.MTU}
    assert kinds.count(EventKind.ROAMED) >= 2


def _is_at(sock: MultiHolepunchSocket, name: str, address: tuple[str, int]) -> bool:
    return sock.connections_status[name].address == address


def flip(datagram: bytes, bit: int) -> bytes:
    """The datagram with one bit inverted."""
    damaged = bytearray(datagram)
    damaged[bit >> 3] ^= 1 << (bit & 7)
    return bytes(damaged)


def junk(count: int, live: bytes, rng: random.Random) -> list[bytes]:
    """Random datagrams of 0 to 1,500 bytes: noise, valid first bytes, plausible handshakes, the live session's index.

    Args:
        live: a datagram of the session.
    """
    pool = rng.randbytes(100_000)
    shape_sizes = {PUNCH: PUNCH_SIZE, PUBLIC_KEY: 300, SHARED_KEY: MIN_SHARED_KEY + 30, COOKIE: COOKIE_SIZE}
    newest, transmission = struct.unpack_from(">QQ", live, 10)
    made: list[bytes] = []
    for number in range(count):
        start = rng.randrange(len(pool) - 1500)
        body = pool[start : start + rng.randrange(1501)]
        shape = number % 5
        if shape == 1:
            body = bytes((rng.choice(KINDS),)) + body[1:]
        elif shape == 2:
            kind = rng.choice(tuple(shape_sizes))
            body = bytes((kind, 1)) + pool[start : start + shape_sizes[kind] - 2]
        elif shape == 3:
            body = live[:10] + body
        elif shape == 4:  # a segment of a long record that will never be complete
            numbers = newest + rng.randrange(1000), transmission + rng.randrange(4000)
            body = live[:10] + struct.pack(">QQBHB", *numbers, 44, 1000, rng.randrange(43)) + pool[start:][:1000]
        made.append(body)
    return made


def test_attack_10_a_hundred_thousand_random_datagrams(make: Make, proxy: Proxy) -> None:
    """Attack 10: 10^5 datagrams of 0 to 1,500 bytes, most of them plausible, one of 65,507: alive, memory flat."""
    table = Table(make, proxy, Config(connection_window=1 << 20, channel_window=1 << 20))
    alive(table.a, table.b)
    rng = random.Random(10)
    datagrams = junk(5000, proxy.flights("b", RECORD)[-1], rng)
    throw(datagrams, table.a, table.wires["a"])  # caches and tables reach their size
    proxy.recording = False
    before, began = resident(), time.monotonic()
    for _ in range(19):
        rng.shuffle(datagrams)
        throw(datagrams, table.a, table.wires["a"])
    throw([rng.randbytes(65_507)], table.a, table.wires["a"])
    lasted = time.monotonic() - began
    assert resident() - before < 16 << 20
    assert lasted < 20, f"{lasted:.1f} s for {19 * len(datagrams)} datagrams"
    assert table.wires["a"].datagrams > 99_000
    alive(table.a, table.b)
    table.quiet()
