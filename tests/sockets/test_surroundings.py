"""The look-out for sleep and for other networks, with a system that says what the test likes."""

from __future__ import annotations

import socket
from collections.abc import Container
from typing import Any

import pytest

from srmudp.models import Address
from srmudp.sockets import surroundings
from srmudp.sockets.surroundings import ASLEEP, NO_WAY, Surroundings

ALICE, BOB = Address("192.0.2.1", 1), Address("2001:db8::2", 2)
BOUND = Address("0.0.0.0", 9000)
HOME, AWAY = Address("192.168.1.2", 9000), Address("10.9.9.9", 9000)


class World:
    """An endpoint that notes what it is told, and the system under it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, span: float = 3.0) -> None:
        self.now = 100.0
        self.slept = 0.0
        self.ways: dict[str, Address | None] = {ALICE.host: HOME, BOB.host: None}
        self.asked: list[str] = []
        self.told: list[tuple[Any, ...]] = []
        self.peers = [ALICE]
        self.interfaces = [HOME]
        self.whereabouts = self
        monkeypatch.setattr(surroundings, "monotonic", lambda: self.now)
        monkeypatch.setattr(surroundings, "time_asleep", lambda: self.slept)
        monkeypatch.setattr(surroundings, "way_to", self._way_to)
        monkeypatch.setattr(surroundings, "host_addresses", lambda *args, **options: tuple(self.interfaces))
        self.looker = Surroundings(self, BOUND, span)  # type: ignore[arg-type]

    def _way_to(self, address: Address, bound: Address) -> Address | None:
        assert bound == BOUND
        self.asked.append(address.host)
        return self.ways[address.host]

    def far_ends(self, most: int) -> dict[str, Address]:
        return {peer.host: peer for peer in self.peers[:most]}

    def handle_resumed(self, slept: float, now: float) -> None:
        self.told.append(("resumed", slept))

    def handle_network_changed(self, moved: Container[str], now: float) -> None:
        self.told.append(("network", moved))

    def set_hosts(self, hosts: tuple[Address, ...], now: float) -> None:
        self.told.append(("hosts", hosts))

    def turn(self, seconds: float = 0.0) -> None:
        """Time passes, then the thread of the timers has its turn."""
        self.now += seconds
        self.looker.look()
        self.looker.tell(self.now)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(monkeypatch)
    for _ in range(2):
        world.turn(3)
    return world


def test_another_address_of_ours_is_told_once(world: World) -> None:
    assert world.told == []
    world.ways[ALICE.host] = AWAY
    for _ in range(3):
        world.turn(3)
    assert world.told == [("network", {ALICE.host})]


def test_no_way_is_looked_at_often_and_its_return_is_told(world: World) -> None:
    world.ways[ALICE.host] = None
    world.turn(3)
    assert world.told == []
    assert world.looker.pause == pytest.approx(NO_WAY)
    world.ways[ALICE.host] = HOME
    world.turn(NO_WAY)
    assert world.told == [("network", set())]
    assert world.looker.pause == pytest.approx(3.0)
    world.turn(2.0)  # it was woken for something else, which does not put the next look off
    assert world.looker.pause == pytest.approx(1.0)


def test_a_way_from_another_address_after_a_gap(world: World) -> None:
    world.ways[ALICE.host] = None
    for _ in range(40):
        world.turn(NO_WAY)
    world.ways[ALICE.host] = AWAY
    world.turn(NO_WAY)
    assert world.told == [("network", {ALICE.host})]


def test_the_system_is_asked_once_in_a_while(world: World) -> None:
    world.asked.clear()
    for _ in range(1000):
        world.turn(0.003)
    assert len(world.asked) <= 2


def test_new_peers_are_no_change(world: World) -> None:
    world.ways[BOB.host] = Address("2001:db8::9", 9000)
    world.peers.append(BOB)
    for _ in range(3):
        world.turn(3)
    assert world.told == []
    world.peers.remove(ALICE)
    for _ in range(3):
        world.turn(3)
    world.ways[ALICE.host] = AWAY
    world.turn(3)
    assert world.told == []


def test_another_interface_is_told_once_and_soon(world: World) -> None:
    world.interfaces.append(AWAY)
    for _ in range(20):
        world.turn(3)
    assert world.told == [("hosts", (HOME, AWAY))]
    world.told.clear()
    world.interfaces.remove(HOME)
    world.ways[ALICE.host] = AWAY
    world.turn(3)
    assert world.told == [("hosts", (AWAY,)), ("network", {ALICE.host})]


def test_sleep(world: World) -> None:
    world.slept += ASLEEP - 0.1
    world.turn()
    world.slept += 3600.0
    world.turn()
    world.turn()
    assert world.told == [("resumed", 3600.0)]


def test_without_a_span_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, float("inf"))
    world.turn(1e6)
    assert world.asked == []


def test_the_real_system_knows_the_way_to_itself() -> None:
    assert surroundings.way_to(Address("127.0.0.1", 9), BOUND) == Address("127.0.0.1", 9000)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        bound = Address("127.0.0.1", sock.getsockname()[1])
        assert surroundings.way_to(ALICE, bound) == bound
        assert surroundings.way_to(BOB, bound) is None
