"""Hard NATs in virtual time: openers, guessed ports, meeting by chance, and that none of it gets out of hand."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator

import pytest

from srmudp import Config
from srmudp.models import Address, NatBehaviour, NatTraits, PublicAddress
from srmudp.nat.birthday import AFTER, BETWEEN, MAX_ROUNDS, MAX_TRIES, OPENING, TRYING
from srmudp.peers.endpoint import Discovery
from srmudp.peers.punching import NO_SOCKETS
from tests.endpoints import make_node, status, transfer
from tests.peers.test_nat_matrix import LINK, SERVER, build
from tests.simnet import SimNet, SimNode

OTHER_SERVER = Address("198.51.100.2", 3478)
INDEPENDENT, DEPENDENT = NatBehaviour.ENDPOINT_INDEPENDENT, NatBehaviour.ADDRESS_AND_PORT_DEPENDENT
EASY = ("firewall", "port-restricted", "linux", "linux-open", "cgnat-pr")
RANDOM = ("symmetric-adm", "symmetric", "linux-random", "cgnat-sym")


@pytest.fixture(autouse=True)
def nobody_else_has_a_turn() -> Iterator[None]:
    gc.collect()
    yield
    for turn in (TRYING, OPENING):
        turn._held.clear()


class Pair:
    """Two homes that told each other what two servers said.

    Attributes:
        shots: addresses outside the other's that each end sent to all the way, and how often.
    """

    def __init__(self, first: str, second: str, seed: int = 1) -> None:
        self.net = SimNet(seed, link=LINK)
        for server in (SERVER, OTHER_SERVER):
            make_node(self.net, f"server {server.host}", server.host, port=server.port, serve_stun=True)
        self.a, self.b = build(self.net, "a", first, 1), build(self.net, "b", second, 2)
        self.seen = {end: self._discover(end) for end in (self.a, self.b)}
        self.shots: dict[int, Counter[Address]] = {5001: Counter(), 5002: Counter()}
        self.openers: list[tuple[float, Address, Address, int]] = []
        self.net.tap(self._on_datagram)
        self.net.tap_openers(
            lambda now, source, destination, _, hops: self.openers.append((now, source, destination, hops))
        )

    def _discover(self, end: SimNode) -> PublicAddress:
        discovery = Discovery()
        end.do(end.node.stun.ask, discovery, [(SERVER, end.address), (OTHER_SERVER, end.address)])
        self.net.run(0.1)
        found: PublicAddress = end.node.stun.finish(discovery, self.net.now)
        return found

    def _on_datagram(self, now: float, source: Address, destination: Address, datagram: bytes) -> None:
        if source.port in self.shots:
            self.shots[source.port][destination] += 1

    def add(self, end: SimNode, other: SimNode, *, nat: bool = True) -> None:
        found = self.seen[other]
        end.do(
            end.node.add_peer, other.host.name, [found.address], other.node.peer_id, nat=found.traits if nat else None
        )

    def meet(self, within: float, later: float = 0.0) -> float | None:
        """Seconds until both are connected; ``later`` is by how much b begins later, or a if negative."""
        began = self.net.now
        first, second = (self.a, self.b) if later >= 0 else (self.b, self.a)
        self.add(first, second)
        self.net.run(abs(later))
        self.add(second, first)
        done = self.net.run_until(lambda: status(self.a, "b").established and status(self.b, "a").established, within)
        return self.net.now - began if done else None


@pytest.mark.parametrize("easy", EASY)
def test_ports_given_in_a_row_are_guessed(easy: str) -> None:
    pair = Pair("symmetric-seq", easy)
    took = pair.meet(3.0)
    assert took is not None
    assert took < 1.0
    transfer(pair.net, pair.a, pair.b, b"through")


def test_a_guess_is_wrong_once_others_used_up_the_ports() -> None:
    """Then it is left to chance."""
    pair = Pair("symmetric-seq", "linux")
    pair.net.nats["nat a"]._next_port[""] += 50
    assert pair.meet(3.0) is None
    assert pair.net.run_until(lambda: status(pair.a, "b").established, 27)


@pytest.mark.parametrize("hard", RANDOM)
def test_random_ports_are_met_by_chance(hard: str) -> None:
    """The socket that was found carries all that follows; the others are closed."""
    pair = Pair(EASY[RANDOM.index(hard)], hard, seed=2)
    took = pair.meet(30.0)
    assert took is not None
    assert took > AFTER
    transfer(pair.net, pair.a, pair.b, b"through" * 10_000)
    transfer(pair.net, pair.b, pair.a, b"and back" * 10_000)
    assert len(pair.b.host.ports) == 2
    pair.net.run(60)
    assert status(pair.a, "b").established
    pair.b.do(pair.b.node.remove_peer, "a")
    pair.net.run(30)
    assert len(pair.b.host.ports) == 1


def test_whoever_begins_later_is_met_as_well() -> None:
    """A round of the end with many sockets lasts longer than the other's, so each two have a part in common."""
    pair = Pair("linux", "symmetric", seed=3)
    assert pair.meet(120.0, 30.0) is not None
    for end, other in ((pair.a, "b"), (pair.b, "a")):
        end.do(end.node.remove_peer, other)
    pair.net.run(30.0)
    assert pair.meet(120.0, -45.0) is not None


def test_two_hard_nats_say_so_at_once_and_nothing_is_tried() -> None:
    pair = Pair("symmetric", "cgnat-sym")
    assert pair.meet(1.0) is None
    for end, other in ((pair.a, "b"), (pair.b, "a")):
        assert "both ends are behind hard NATs" in str(status(end, other).failure)
    pair.net.run(60)
    assert len(pair.shots[5001]) == len(pair.shots[5002]) == 1
    assert len(pair.b.host.ports) == 1


def test_tries_are_bounded_in_count_time_and_rate() -> None:
    """Nobody answers."""
    pair = Pair("linux", "symmetric")
    pair.add(pair.a, pair.b)
    shots, began = pair.shots[5001], pair.net.now
    pair.net.run(AFTER - 0.1)
    assert len(shots) == 1
    for _ in range(19):
        before = shots.total()
        pair.net.run(1.0)
        assert shots.total() - before <= 40 * 6 + 6
    pair.net.run(began + BETWEEN - pair.net.now)
    assert len(shots) == MAX_TRIES + 1
    assert max(count for where, count in shots.items() if where != pair.seen[pair.b].address) == 1
    assert all(where.host == "203.0.113.2" and where.port >= 1024 for where in shots)
    pair.net.run(10 * BETWEEN)
    assert MAX_TRIES * (MAX_ROUNDS - 1) < shots.total() < MAX_TRIES * MAX_ROUNDS + 200


def test_openers_of_many_sockets_die_before_they_are_answered() -> None:
    pair = Pair("linux", "symmetric")
    pair.add(pair.b, pair.a)
    pair.net.run(50)
    assert {hops for _, _, _, hops in pair.openers} == {2, 3, 4}
    assert len(pair.openers) < 3 * (2 + 45 / 5)
    assert set(pair.shots[5002]) == {pair.seen[pair.a].address}
    assert len(pair.b.host.ports) == 1  # after the round


def test_nothing_is_tried_without_the_users_own_word() -> None:
    """What the peer's NAT is like is believed from our user alone; and our user may forbid it."""
    pair = Pair("linux", "symmetric")
    pair.add(pair.a, pair.b, nat=False)
    pair.net.run(30)
    assert len(pair.shots[5001]) == 1
    pair = Pair("linux", "symmetric")
    pair.a.node.config = Config(max_mtu=1200, birthday=False)
    pair.add(pair.a, pair.b)
    pair.net.run(30)
    assert len(pair.shots[5001]) == 1


def test_one_at_a_time_in_a_program() -> None:
    pair = Pair("linux", "symmetric")
    traits = NatTraits(DEPENDENT)
    for number in range(5):
        where = Address(f"198.18.0.{number}", 9)
        pair.a.do(pair.a.node.add_peer, f"peer {number}", [where], None, nat=traits)
    pair.net.run(AFTER + 15)
    tried = Counter(where.host for where in pair.shots[5001])
    assert sorted(tried.values())[:4] == [1] * 4
    pair.net.run(15)
    tried = Counter(where.host for where in pair.shots[5001])
    assert sorted(count > 1 for count in tried.values()) == [False] * 3 + [True] * 2


def test_no_descriptors_left() -> None:
    """Attack 48, the endpoint's part: it says why, and goes on punching."""
    pair = Pair("linux", "symmetric")
    pair.b.sockets = 0
    assert pair.meet(20.0) is None
    assert status(pair.b, "a").failure == NO_SOCKETS
    assert len(pair.b.host.ports) == 1


def test_few_descriptors_left() -> None:
    pair = Pair("linux", "symmetric")
    pair.b.sockets = 64
    assert pair.meet(60.0) is not None


@pytest.mark.parametrize("later", [0.0, 0.3])
def test_openers_come_first_and_die_on_their_way(later: float) -> None:
    """Attack 54, the schedule's part: nothing arrives at the other NAT before its own host has sent."""
    pair = Pair("linux-open", "linux-open")
    assert pair.meet(3.0, later) is not None
    first = pair.seen[pair.b].address
    assert [hops for _, source, where, hops in pair.openers if (source.port, where) == (5001, first)] == [2, 3, 4]
    assert pair.net.counts["nat_unmapped"] == 0


@pytest.mark.parametrize("kinds", [("linux", "linux-open"), ("linux-open", "linux"), ("linux-open", "linux-open")])
@pytest.mark.parametrize("later", [3.0, 40.0, 300.0])
def test_whoever_begins_minutes_later_is_met_at_a_second_port(kinds: tuple[str, str], later: float) -> None:
    """Attack 54: what the first sent meanwhile has taken the port at the other's router. There is a second one at each
    end, to which only openers go, so nothing can take that."""
    pair = Pair(*kinds)
    for nat in pair.net.nats.values():
        nat.lifetime = 30.0  # as Linux has it for flows that are not answered
    took = pair.meet(later + 3.0, later)
    assert took is not None
    assert took < later + 1.0
    transfer(pair.net, pair.a, pair.b, b"through" * 1000)
    transfer(pair.net, pair.b, pair.a, b"and back" * 1000)
    pair.net.run(60)
    assert status(pair.a, "b").established
    assert status(pair.b, "a").established
    for end, other in ((pair.a, "b"), (pair.b, "a")):
        assert len(end.host.ports) <= 2
        end.do(end.node.remove_peer, other)
    pair.net.run(30)
    assert len(pair.a.host.ports) == len(pair.b.host.ports) == 1


def test_nothing_but_openers_goes_to_a_second_port() -> None:
    pair = Pair("linux", "linux-open")
    pair.add(pair.a, pair.b)
    pair.net.run(300)
    second = pair.seen[pair.b].address._replace(port=5003)
    assert second not in pair.shots[5001]
    assert sum(destination == second for _, _, destination, _ in pair.openers) > 10


def test_a_lan_needs_no_openers() -> None:
    net = SimNet(1)
    a, b = make_node(net, "a", "192.168.1.2"), make_node(net, "b", "192.168.1.3")
    for one, other in ((a, b), (b, a)):
        one.do(one.node.add_peer, other.host.name, [other.address], other.node.peer_id)
    assert net.run_until(lambda: status(a, "b").established, 0.1)


def test_who_lets_in_everybody_is_sent_to_at_once() -> None:
    net = SimNet(1)
    a, b = make_node(net, "a", "198.51.100.7"), make_node(net, "b", "198.51.100.8")
    for one, other in ((a, b), (b, a)):
        nat = NatTraits(INDEPENDENT, INDEPENDENT)
        one.do(one.node.add_peer, other.host.name, [other.address], other.node.peer_id, nat=nat)
    assert net.run_until(lambda: status(a, "b").established, 0.2)
