"""What a connection survives, in virtual time: outages, sleep, rebinding, black holes, worn keys.

Each of these must hold: nothing is lost, nothing comes twice, the connection is back within a stated time, and no timer
runs wild, neither during the trouble nor right after it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from srmudp.config import MIN_MTU
from srmudp.crypto import protection
from srmudp.models import Address, EventKind, PeerState
from srmudp.protocol import rekeying
from srmudp.protocol.mtu import BASE
from srmudp.protocol.rekeying import Rekeying
from srmudp.wire.packet import PUNCH, RECORD, RECORD_OVERHEAD
from tests.endpoints import (
    LINK,
    PORT,
    Recorder,
    WireWatcher,
    add,
    alive,
    arrived,
    connect,
    drops,
    events,
    kinds,
    make_node,
    pair,
    peer_of,
    send,
    session_of,
    status,
    transfer,
    until,
)
from tests.simnet import Link, Nat, SimNet, SimNode

TIMEOUT = 21.0


def load(net: SimNet, a: SimNode, b: SimNode, count: int = 10, size: int = 12_000) -> list[bytes]:
    """Queue the same messages both ways, on three channels."""
    contents = [net.random.randbytes(size) for _ in range(count)]
    for number, content in enumerate(contents):
        send(a, b, content, channel=number % 3)
        send(b, a, content, channel=number % 3)
    return contents


def both_connected(a: SimNode, b: SimNode) -> bool:
    return status(a, b).established and status(b, a).established


def home(net: SimNet, a: SimNode, b: SimNode, contents: Sequence[bytes], within: float) -> float:
    """Run until all of a load was taken, each message once and in the order of its channel; seconds it took."""
    began = net.now
    until(net, lambda: both_connected(a, b) and a.node.pending == b.node.pending == 0, within)
    took = net.now - began
    net.run(3)  # whatever might come twice would come now
    for channel in range(3):
        assert arrived(a, b, channel) == arrived(b, a, channel) == list(contents[channel::3])
    return took


# --- 43: blackouts


@pytest.mark.parametrize("ways", ["both ways", "one way"])
@pytest.mark.parametrize(
    ("seconds", "during", "back"),
    [(1, 60, 4), (10, 80, 6), (60, 200, 6), (600, 400, 20)],
    ids=["1 s", "10 s", "60 s", "600 s"],
)
def test_attack_43_a_blackout(seconds: float, during: int, back: float, ways: str) -> None:
    """Attack 43: the link is cut in the middle of transfers and comes back.

    ``during``: datagrams that each side sends meanwhile at most. ``back``: seconds until everything is home, which is
    the longest pause between two probes or punches after so much silence, and the transfer.
    """
    net, a, b = pair(43, Link(latency=0.02, rate=2e6, queue_bytes=100_000), max_mtu=1472)
    net.run(1)
    contents = load(net, a, b)
    net.run(0.05)
    record = Recorder(net)
    net.partition("a", "b", both=ways == "both ways")
    net.run(seconds)
    assert all(len(record.of(source=sim)) <= during for sim in (a, b))
    record.clear()
    net.heal()
    home(net, a, b, contents, back)
    assert len(record.items) <= 2 * 120_000 / 1200 + 300, "no burst of what piled up"
    lost = [kinds(sim).count(EventKind.LOST) for sim in (a, b)]
    assert lost == ([0, 0] if seconds < TIMEOUT - 10 else [1, 1])
    assert status(a, b).mtu == status(b, a).mtu == 1472, "an outage is no black hole"
    record.clear()
    net.run(30)
    assert len(record.items) < 40, "then there is quiet"


def test_attack_43_blackouts_again_and_again() -> None:
    """Attack 43: a link that is there for a second in every five."""
    net, a, b = pair(431, Link(latency=0.02, rate=2e6, queue_bytes=100_000))
    contents = load(net, a, b, 40)
    record = Recorder(net)
    for _ in range(30):
        net.partition("a", "b")
        net.run(4)
        net.heal()
        net.run(1)
    home(net, a, b, contents, 1)
    assert kinds(a).count(EventKind.LOST) == kinds(b).count(EventKind.LOST) == 0
    assert len(record.items) <= 2 * 2 * 800_000 / 1200


# --- 43: sleep


class Standing:
    """An endpoint on a machine whose clock stands still in its sleep, as ``time.monotonic()`` does on Linux."""

    def __init__(self, endpoint: Any) -> None:
        self._endpoint = endpoint
        self.behind = 0.0

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._endpoint, name)
        if name == "next_timer":
            # A little later, so that rounding does not make it too early.
            return lambda: None if (when := attribute()) is None else when + self.behind + 1e-9 * (self.behind > 0)
        if not callable(attribute) or name in ("next_job", "next_event"):
            return attribute

        def call(*arguments: Any, **options: Any) -> Any:
            if "now" in options:
                return attribute(*arguments, **{**options, "now": options["now"] - self.behind})
            return attribute(*arguments[:-1], arguments[-1] - self.behind)

        return call


def sleeping_pair(seed: int, clock: str) -> tuple[SimNet, SimNode, SimNode]:
    net, a, b = pair(seed, Link(latency=0.02))
    if clock == "stands":
        a.node = Standing(a.node)
    net.run(1)
    return net, a, b


def sleep(net: SimNet, a: SimNode, seconds: float) -> None:
    """Let the host of ``a`` sleep. When it wakes, a clock that stood still shows nothing: the driver tells."""
    net.sleep("a")
    net.run(seconds)
    if isinstance(a.node, Standing):
        a.node.behind += seconds
        net.resume("a")
        a.do(a.node.handle_resumed, seconds)
    else:
        net.resume("a")


@pytest.mark.parametrize("clock", ["goes on", "stands"])
@pytest.mark.parametrize("seconds", [4, 60, 3600])
def test_attack_43_sleep_and_resume(seconds: float, clock: str) -> None:
    """Attack 43: one machine sleeps in the middle of transfers. Awake again it is back in a moment, not in a while."""
    net, a, b = sleeping_pair(432, clock)
    contents = load(net, a, b)
    net.run(0.05)
    sleep(net, a, seconds)
    record = Recorder(net)
    net.run(0.5)
    assert both_connected(a, b), "half a second after waking up"
    home(net, a, b, contents, 4)
    assert len(record.items) <= 2 * 120_000 / 1000 + 200
    assert kinds(a).count(EventKind.LOST) <= 1


@pytest.mark.parametrize("clock", ["goes on", "stands"])
@pytest.mark.parametrize("before", ["connected", "lost for a quarter of an hour"])
def test_attack_43_a_network_that_comes_back_after_the_machine(before: str, clock: str) -> None:
    """Attack 43: Wi-Fi needs some seconds after waking up. What was sent too early must not cost half a minute."""
    net, a, b = sleeping_pair(433, clock)
    if before != "connected":
        net.partition("a")
        net.run(900)
        assert status(a, b).state is PeerState.LOST
    sleep(net, a, 600)
    net.partition("a")
    record = Recorder(net)
    net.run(5)
    assert len(record.of(source=a)) <= 20, "eager, not wild"
    net.heal()
    until(net, lambda: both_connected(a, b), 3.5)
    net.run(1)
    alive(net, a, b, size=20_000)


def test_attack_43_a_short_stop_of_the_program_changes_nothing() -> None:
    """Stopped for some seconds (a debugger, a busy machine): the session goes on."""
    net, a, b = sleeping_pair(434, "goes on")
    for _ in range(5):
        sleep(net, a, 6)
        net.run(1)
    assert kinds(a) == kinds(b) == [EventKind.CONNECTED]
    alive(net, a, b, size=20_000)


def test_a_timer_that_is_on_time_is_no_sleep() -> None:
    """Long waits are normal: nothing but a late timer counts."""
    net = SimNet(435, link=LINK)
    a = make_node(net, "a", "10.0.0.1")
    resumed: list[float] = []
    a.node.handle_resumed = lambda slept, now: resumed.append(slept)
    a.do(a.node.add_peer, "far", [Address("10.9.9.9", 1)], None)
    net.run(2000)
    a.do(a.node.add_peer, "later", [], make_node(net, "c", "10.0.0.3").node.peer_id)
    net.run(100)
    a.do(a.node.set_addresses, "later", [Address("10.9.9.8", 1)])
    net.run(100)
    net.inject(Address("10.9.9.9", 1), a.address, bytes(50))
    net.run(100)
    assert resumed == []


# --- 50: rebinding and other paths


def nat_pair(seed: int, link: Link) -> tuple[SimNet, SimNode, SimNode, Nat]:
    """a on the public net; b behind a NAT that other people's packets do not enter."""
    net = SimNet(seed, link=link)
    nat = net.add_nat("home", "203.0.113.1", Nat(mapping="EIM", filtering="APDF"))
    a, b = make_node(net, "a", "10.0.0.1"), make_node(net, "b", "192.168.1.2", behind="home")
    connect(net, a, b)
    net.run(1)
    return net, a, b, nat


def test_attack_50_rebinding_every_two_seconds_under_load() -> None:
    """Attack 50: fifteen new ports in half a minute, some of them at a new address, with transfers both ways."""
    net, a, b, nat = nat_pair(50, Link(latency=0.02, rate=1e5, queue_bytes=20_000, loss=0.01))
    contents = load(net, a, b, 30, 40_000)
    record = Recorder(net)
    for number in range(15):
        net.run(2)
        nat.rebind(f"203.0.113.{2 + number}" if number % 2 else None)
    home(net, a, b, contents, 20)
    assert kinds(a).count(EventKind.ROAMED) >= 7
    assert kinds(a).count(EventKind.LOST) == kinds(b).count(EventKind.LOST) == 0
    assert len(record.items) <= 3 * 2 * 30 * 40_000 / 1200


def test_attack_50_another_address_after_an_outage() -> None:
    """Attack 50: Wi-Fi is left, a minute later there is a mobile network: other address, everything else unknown."""
    net, a, b = pair(501, Link(latency=0.02))
    contents = load(net, a, b)
    net.run(0.02)
    net.partition("b")
    net.run(60)
    net.move_host("b", "198.51.100.7")
    net.heal()
    home(net, a, b, contents, 5)
    assert status(a, b).address == Address("198.51.100.7", PORT)


def test_attack_50_both_ends_move_at_once() -> None:
    """Attack 50: neither knows where the other is now; each still knows an address where the other will knock."""
    net = SimNet(502, link=Link(latency=0.02))
    nat = net.add_nat("home", "203.0.113.1", Nat(mapping="EIM", filtering="APDF"))
    a, b = make_node(net, "a", "10.0.0.1"), make_node(net, "b", "192.168.1.2", behind="home")
    connect(net, a, b, pin=True)
    contents = load(net, a, b)
    net.run(0.02)
    net.partition("a")
    net.run(2)
    nat.rebind("203.0.113.9")
    net.run(2)
    net.heal()
    home(net, a, b, contents, 10)


@pytest.mark.parametrize("order", [("v4", "v6"), ("v6", "v4")])
def test_a_second_address_stands_by(order: tuple[str, str]) -> None:
    """A peer is reachable in two ways. When the one in use goes dark the other takes over within 2 s."""
    net = SimNet(503, link=Link(latency=0.02))
    a, b = make_node(net, "a", "10.0.0.1"), make_node(net, "b", "10.0.0.2")
    for name, address in (("a", "2001:db8::1"), ("b", "2001:db8::2")):
        net.move_host(name, *net.hosts[name].addresses, address)
    for sim, other, number in ((a, "b", 2), (b, "a", 1)):
        known = [Address(f"10.0.0.{number}", PORT), Address(f"2001:db8::{number}", PORT)]
        sim.do(sim.node.add_peer, other, known, None)
    until(net, lambda: both_connected(a, b))
    net.run(1)

    for dark in order:  # the family in use goes dark, if it is not the one that did before
        before = status(a, b).address
        assert before is not None
        contents = load(net, a, b)
        stop = net.intercept(family(dark))
        until(net, lambda: both_connected(a, b) and a.node.pending == b.node.pending == 0, 2)
        after = status(a, b).address
        assert after is not None
        assert (":" in after[0]) is (dark == "v4")
        assert sorted(arrived(a, b)[-10:]) == sorted(arrived(b, a)[-10:]) == sorted(contents)
        stop()
        net.run(1)
    assert len(arrived(a, b)) == len(set(arrived(a, b))) == 20
    assert EventKind.LOST not in kinds(a) + kinds(b)


def family(dark: str) -> Callable[[float, Address, Address, bytes], list[tuple[Address, Address, bytes]] | None]:
    """An interceptor that swallows all of IPv4 or IPv6."""
    return lambda now, source, destination, datagram: [] if (":" in source[0]) is (dark == "v6") else None


# --- 39, 40: keys


def test_attack_39_fifty_key_updates_under_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack 39: 20 % loss, 10 % reordered, 10 % twice, and fifty key updates: nothing is lost, old keys go.

    The updates are forced by shorter times: half a second of use instead of 120 s, a grace of 0.4 s instead of 10.
    """
    monkeypatch.setattr(rekeying, "UPDATE_SECONDS", 0.5)
    monkeypatch.setattr(rekeying, "HEAD_START", 0.1)
    monkeypatch.setattr(rekeying, "MIN_INTERVAL", 0.1)
    monkeypatch.setattr(rekeying, "GRACE", 0.4)
    net = SimNet(39, link=Link(latency=0.02, loss=0.2, reorder=0.1, reorder_delay=0.05, duplicate=0.1))
    watcher = WireWatcher(net)
    a, b = make_node(net, "a", "10.0.0.1"), make_node(net, "b", "10.0.0.2")
    connect(net, a, b, timeout=30)
    record = Recorder(net)
    sent: list[bytes] = []

    def updates() -> int:
        return min(rekeying_of(a, b).updates, rekeying_of(b, a).updates)

    while updates() < 50:
        assert net.now < 1200, f"{updates()} updates"
        sent.append(net.random.randbytes(net.random.choice((10, 1000, 3000))))
        send(a, b, sent[-1])
        send(b, a, sent[-1])
        net.run(0.4)
    until(net, lambda: a.node.pending == b.node.pending == 0, 30)
    assert arrived(a) == arrived(b) == sent
    assert kinds(a) == kinds(b) == [EventKind.CONNECTED]
    assert len({item.data[1] for item in record.of(RECORD)}) >= 50, "epochs seen on the wire"
    watcher.check(records=200)
    # Without any further update the keys of the last epoch but one are gone after the grace.
    for sim, other in ((a, b), (b, a)):
        rekeying_of(sim, other)._seconds = math.inf
    net.run(20)
    for sim, other in ((a, b), (b, a)):
        session = session_of(sim, other)
        assert list(session.receiver._keys.values()) == [session.keys]
    # What was sealed under keys that are gone opens nothing and changes nothing.
    before = (drops(b), status(b, a).stats.messages_received)
    old = [item for item in record.of(RECORD, source=a) if item.data[1] != session_of(b, a).keys.epoch]
    for item in old[:200]:
        net.inject(a.address, b.address, item.data)
    net.run(1)
    assert drops(b) - before[0] == min(200, len(old))
    assert status(b, a).stats.messages_received == before[1]
    alive(net, a, b, size=5000, timeout=60)


def rekeying_of(a: SimNode, b: SimNode) -> Rekeying:
    """The key updates of a's session with b."""
    found = peer_of(a, b).rekeying
    assert found is not None
    return found


@pytest.mark.parametrize("limit", ["records", "bytes"])
def test_attack_40_worn_keys_are_changed_before_the_limit(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack 40: an update begins when so many records or bytes were sealed, long before the cipher's limit."""
    net, a, b = pair(40, Link(latency=0.02))
    keys = session_of(a, b).keys
    if limit == "records":
        keys.sealed = protection.UPDATE_RECORDS - 1
    else:
        keys.sealed_bytes = protection.UPDATE_BYTES - 1
    transfer(net, a, b, b"the last drop")
    until(net, lambda: rekeying_of(a, b).updates == rekeying_of(b, a).updates == 1, 12)
    assert session_of(a, b).keys is not keys
    assert session_of(a, b).keys.epoch == session_of(b, a).keys.epoch == 1
    alive(net, a, b, size=20_000)
    assert kinds(a) == [EventKind.CONNECTED]


def test_attack_40_too_many_forgeries_end_the_session_not_the_connection() -> None:
    """Attack 40: at the limit of failed openings the keys are given up; a new handshake follows and nothing is lost."""
    net, a, b = pair(41, Link(latency=0.02))
    contents = load(net, a, b, 3)
    net.run(0.03)
    session = session_of(b, a)
    session.keys.failed = protection.FORGERY_LIMIT - 3
    genuine = Recorder(net)
    net.run(0.02)
    forged = bytearray(next(item.data for item in genuine.of(RECORD, source=a)))
    forged[-1] ^= 1
    forged[10:18] = (session.receiver.largest + 100).to_bytes(8, "big")
    for _ in range(5):
        net.inject(a.address, b.address, bytes(forged[: RECORD_OVERHEAD + 40]))
        net.inject(a.address, b.address, bytes(forged))
    until(net, lambda: EventKind.RECONNECTED in kinds(b), 20)
    assert session_of(b, a) is not session
    assert session_of(b, a).keys.failed < 10
    assert "worn" in events(b, EventKind.LOST)[0].reason
    home(net, a, b, contents, 5)


# --- 53: path MTU


def ways_between(net: SimNet, mtu: int, **options: Any) -> None:
    net.link("a", "b", Link(latency=0.02, rate=4e6, queue_bytes=200_000, mtu=mtu, **options))


@pytest.mark.parametrize(
    ("first", "second", "loss"), [(1472, 1000, 0.0), (1472, 1000, 0.02), (1472, 1200, 0.02), (8952, 1400, 0.0)]
)
def test_attack_53_a_black_hole_in_the_middle_of_a_transfer(first: int, second: int, loss: float) -> None:
    """Attack 53: from one moment to the next long datagrams vanish without a word. The transfer goes on, and no
    session is lost for it; 1,000 bytes are the floor."""
    net, a, b = pair(53, max_mtu=9000)
    ways_between(net, first)
    net.run(3)
    assert status(a, b).mtu == status(b, a).mtu == first
    contents = load(net, a, b, 6, 50_000)
    net.run(0.1)
    ways_between(net, second, loss=loss)
    home(net, a, b, contents, 12)
    assert kinds(a) == kinds(b) == [EventKind.CONNECTED]
    for sim, other in ((a, b), (b, a)):
        assert status(sim, other).mtu == (MIN_MTU if second < BASE else BASE)
    # When the hole is gone the size grows again.
    ways_between(net, first)
    net.run(130)
    transfer(net, a, b, b"so that a search has a reason")
    assert status(a, b).mtu == first


def test_attack_53_a_new_session_over_a_path_that_carries_a_thousand_bytes() -> None:
    """Attack 53: the floor from the beginning: handshake, small and large messages, and ones of one datagram."""
    net = SimNet(54, link=Link(latency=0.02, mtu=MIN_MTU))
    a, b = make_node(net, "a", "10.0.0.1"), make_node(net, "b", "10.0.0.2")
    connect(net, a, b)
    for size in (0, 900, 1100, 30_000):
        transfer(net, a, b, net.random.randbytes(size), timeout=5)
        transfer(net, b, a, net.random.randbytes(size), timeout=5)
    assert status(a, b).mtu == status(b, a).mtu == MIN_MTU
    assert kinds(a) == [EventKind.CONNECTED]


@pytest.mark.parametrize("size", [1150, 60_000])
def test_attack_53_a_black_hole_one_way(size: int) -> None:
    """Attack 53: only one direction swallows; single messages are enough to find that out."""
    net, a, b = pair(55, Link(latency=0.02))
    net.link("a", "b", Link(latency=0.02, mtu=MIN_MTU), both=False)
    for number in range(3):
        transfer(net, a, b, random.Random(number).randbytes(size), timeout=6)
        transfer(net, b, a, random.Random(number).randbytes(size), timeout=6)
    assert (status(a, b).mtu, status(b, a).mtu) == (MIN_MTU, BASE)
    assert kinds(a) == [EventKind.CONNECTED]


@pytest.mark.parametrize("loss", [0.05, 0.3])
def test_attack_53_ordinary_loss_is_no_black_hole(loss: float) -> None:
    """Attack 53: who makes us lose packets does not make the packets small, nor do outages of any length."""
    net, a, b = pair(56, Link(latency=0.02, rate=1e6, queue_bytes=100_000), max_mtu=1472)
    net.run(2)
    net.link("a", "b", Link(latency=0.02, rate=1e6, queue_bytes=100_000, loss=loss))
    before = len(events(a)), len(events(b))
    contents = load(net, a, b, 15)
    for outage in (0.1, 0.3, 1.0, 3.0):
        net.run(0.3)
        net.partition("a", "b")
        net.run(outage)
        net.heal()
    home(net, a, b, contents, 60)
    assert status(a, b).mtu == status(b, a).mtu == 1472
    assert (len(events(a)), len(events(b))) == before, "it never fell"


def test_attack_53_punches_stay_below_the_floor() -> None:
    """Attack 53: nothing of a handshake is ever too long for a path of 1,000 bytes."""
    net = SimNet(57, link=Link(latency=0.02))
    record = Recorder(net)
    a, b = make_node(net, "a", "10.0.0.1", claimed="x" * 64), make_node(net, "b", "10.0.0.2", claimed="y" * 64)
    add(a, b)
    add(b, a)
    until(net, lambda: both_connected(a, b))
    assert record.of(PUNCH)
    assert max(len(item.data) for item in record.items if item.data[0] not in (RECORD,)) <= MIN_MTU
