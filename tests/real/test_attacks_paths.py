"""Attacks 38, 51 and 75: packets from addresses that are not the peer's. Real sockets on loopback."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from functools import partial

import pytest

from srmudp import EventKind
from srmudp.wire.packet import RECORD, RESEND, parse_segment
from tests.real.helpers import (
    DEADLINE,
    Make,
    alive,
    all_told,
    at,
    content,
    digests,
    drops,
    reach,
    receive,
    state,
    throw,
)
from tests.real.proxy import Flight, Proxy
from tests.real.test_attacks import Table


class Thief:
    """An attacker with an address of his own beside the path from a to b.

    Attributes:
        sent, got: bytes he sent to b, and had from it.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self.sent = self.got = self.copies = 0
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.setblocking(False)

    def shoot(self, datagram: bytes) -> None:
        """Send a datagram to b."""
        self.sock.sendto(datagram, at(self.table.b))
        self.sent += len(datagram)
        self.copies += 1

    def read(self) -> list[bytes]:
        """What b sent him meanwhile. Fails if it was more than three times what he had sent."""
        datagrams: list[bytes] = []
        try:
            while True:
                datagrams.append(self.sock.recv(65_535))
                self.got += len(datagrams[-1])
        except BlockingIOError:
            pass
        assert self.got <= 3 * self.sent, (self.got, self.sent)
        return datagrams

    def stayed_where_it_was(self) -> None:
        """b still has a at the proxy's face, and says that it never was anywhere else."""
        table = self.table
        assert table.b.connections_status["a"].address == table.proxy.face("b")
        all_told(table.b)
        assert [event.kind for event in table.events if event.kind is EventKind.ROAMED] == []


@pytest.fixture
def thief(make: Make, proxy: Proxy) -> Iterator[Thief]:
    thief = Thief(Table(make, proxy))
    yield thief
    thief.sock.close()


@pytest.mark.parametrize("relays", [False, True], ids=["deaf", "passing answers on"])
def test_attack_51_an_attacker_that_is_faster(thief: Thief, relays: bool) -> None:
    """Attack 51: each datagram of a reaches b from the attacker first. The path stays honest, little goes to him.

    He may pass on what b sends him, so that his address even answers. Afterwards he has nothing: late copies, older
    counters included, move nothing and get nothing.
    """
    table = thief.table

    def race(flight: Flight) -> Iterable[bytes]:
        if flight.sender == "a":
            thief.shoot(flight.datagram)
            for datagram in thief.read():
                if relays:
                    table.proxy.deliver("a", datagram)
        return (flight.datagram,)

    table.proxy.rule = race
    for number in range(2 if relays else 1):
        before = thief.got
        data = content(60_000, number)
        deliveries = [table.a.send(data, "b"), table.b.send(data, "a")]
        assert digests(receive(table.b, 1)) == digests(receive(table.a, 1)) == digests([data])
        assert all(delivery.wait(DEADLINE) for delivery in deliveries)
        # Proposals are half a second apart: let there be several.
        reach(partial(_asked_again, thief, before), lambda: (thief.got, thief.sent, state(table.b)))
    table.proxy.rule = None
    assert thief.copies > 10
    assert thief.got > 60, "his address was never asked: the race was not won"
    alive(table.a, table.b)
    thief.stayed_where_it_was()
    thief.read()
    had = thief.got
    late = table.proxy.flights("a", RECORD, RESEND)
    before = drops(table.b)
    for start in range(0, len(late), 32):
        some = late[start : start + 32]
        wanted = table.wires["b"].datagrams + len(some)
        for datagram in some:
            thief.shoot(datagram)
        table.wires["b"].wait(wanted)
    table.await_drops("b", before + len(late) - 8)
    alive(table.a, table.b)
    thief.read()
    assert thief.got == had, "an old packet was enough for a challenge"
    thief.stayed_where_it_was()
    table.quiet()


def _asked_again(thief: Thief, before: int) -> bool:
    """Have a say something until b, half a second after its last question, asks the thief's address once more."""
    thief.table.a.send(b"word", "b")
    assert receive(thief.table.b, 1) == [b"word"]
    thief.read()
    return thief.got > before


def test_attack_75_copied_segments(thief: Thief) -> None:
    """Attack 75: copies of the segments of long records, early ones and resent ones, propose nothing at all."""
    table = thief.table
    copied: list[bool] = []

    def copy(flight: Flight) -> Iterable[bytes]:
        datagram = flight.datagram
        if flight.sender == "a" and datagram[0] in (RECORD, RESEND) and datagram[26] > 1:
            thief.shoot(datagram)
            copied.append(parse_segment(datagram).resent)
            if len(copied) % 25 == 0:
                return ()  # lost, so that segments are sent again
        return (datagram,)

    alive(table.a, table.b)
    table.proxy.rule = copy
    for number in range(20):
        data = content(300_000, number)
        delivery = table.a.send(data, "b")
        assert digests(receive(table.b, 1)) == digests([data])
        assert delivery.wait(DEADLINE)
        if len(copied) > 200 and any(copied):
            break
    table.proxy.rule = None
    assert len(copied) > 100
    alive(table.a, table.b)
    assert thief.read() == []
    thief.stayed_where_it_was()
    table.quiet()


def test_attack_38_stun_that_nobody_asked_for(thief: Thief) -> None:
    """Attack 38: STUN messages, right and wrong, from a stranger and from the peer's address: dropped, unanswered."""
    table = thief.table
    mapped = b"\x00\x20\x00\x08\x00\x01\xa1\x47\xe1\x12\xa6\x43"
    forged = []
    for kind in (0x0001, 0x0101, 0x0111, 0x0011):
        for body in (b"", mapped, mapped[:5], b"\x00\x20\xff\xff", b"\x00\x01\x00\x08\x00\x07" + bytes(6)):
            for length in (len(body), 0xFFFC):
                forged.append(
                    kind.to_bytes(2, "big") + length.to_bytes(2, "big") + b"\x21\x12\xa4\x42" + bytes(12) + body
                )

    def dropped() -> int:
        drops = table.b.drops
        return sum(drops.get(reason, 0) for reason in ("stun_request", "stun_indication", "stun_unasked", "malformed"))

    before = dropped()
    throw(forged, table.b, table.wires["b"])
    table.throw("b", forged)
    for datagram in forged:
        thief.shoot(datagram)
    reach(lambda: dropped() >= before + 3 * len(forged), lambda: state(table.b))
    alive(table.a, table.b)
    assert thief.read() == []
    thief.stayed_where_it_was()
    table.quiet()
