"""The simulator keeps its promises: arithmetic of links, batches, seeds, timers, faults, the attacker's tools."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from srmudp.models import Address
from tests.simnet import Link, Livelock, Nat, SimNet, SimNode, Transmit, take_messages


class Arrived(NamedTuple):
    """An event with a receipt, as the endpoint's MessageArrived has."""

    content: bytes
    receipt: int


class ToyJob:
    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.ran = False

    def run(self) -> None:
        self.ran = True


class Toy:
    """Records what it is given and sends what it is told to; ``echo`` sends every datagram back."""

    def __init__(self, *, echo: bool = False) -> None:
        self.echo = echo
        self.got: list[tuple[float, bytes, Address]] = []
        self.batches: list[tuple[float, int, int]] = []
        self.bursts: list[tuple[float, int]] = []
        self.fired: list[float] = []
        self.taken: list[bytes] = []
        self.finished: list[tuple[float, bytes]] = []
        self.timer: float | None = None
        self.period: float | None = None
        self.asked = 0
        self.out: deque[Transmit] = deque()
        self.events: deque[Arrived] = deque()
        self.jobs: deque[ToyJob] = deque()

    def send(self, destination: Address, payload: bytes, segment_size: int = 0, *, now: float = 0.0) -> None:
        self.out.append(Transmit(payload, segment_size or len(payload), destination))

    def handle_batch(self, buffer: bytes, segment_size: int, source: Address, now: float) -> None:
        assert type(buffer) is bytes
        self.batches.append((now, segment_size, len(buffer)))
        for offset in range(0, len(buffer) or 1, segment_size or 1):
            datagram = buffer[offset : offset + segment_size]
            self.got.append((now, datagram, source))
            self.events.append(Arrived(datagram, len(self.got)))
        if self.echo:
            self.send(source, buffer, segment_size)

    def handle_burst_end(self, now: float) -> None:
        self.bursts.append((now, len(self.got)))

    def handle_timer(self, now: float) -> None:
        assert self.timer is not None
        assert now >= self.timer
        self.fired.append(now)
        self.timer = self.timer + self.period if self.period else None

    def message_taken(self, event: Arrived, now: float) -> None:
        self.taken.append(event.content)

    def next_job(self) -> ToyJob | None:
        return self.jobs.popleft() if self.jobs else None

    def finish_job(self, job: ToyJob, now: float) -> None:
        assert job.ran
        self.finished.append((now, job.answer))

    def poll_transmit(self, now: float) -> Transmit | None:
        return self.out.popleft() if self.out else None

    def next_timer(self) -> float | None:
        self.asked += 1
        return self.timer

    def next_event(self) -> Arrived | None:
        return self.events.popleft() if self.events else None

    @property
    def data(self) -> list[bytes]:
        return [datagram for _, datagram, _ in self.got]


A, B = Address("192.0.2.1", 8000), Address("192.0.2.2", 9000)


def pair(link: Link = Link(latency=0.01), **options: Any) -> tuple[SimNet, SimNode, SimNode, Toy, Toy]:  # noqa: B008
    """Two public hosts with a toy each."""
    net = SimNet(link=link, **options)
    net.add_host("a", A.host)
    net.add_host("b", B.host)
    a, b = Toy(), Toy()
    return net, net.attach(a, "a", A.port), net.attach(b, "b", B.port), a, b


def numbered(count: int, size: int = 100) -> bytes:
    return b"".join(number.to_bytes(4, "big") * (size // 4) for number in range(count))


# --- clock, links ---


def test_latency_is_exact_and_addresses_are_those_of_the_hosts() -> None:
    net, sim, _, a, b = pair(Link(latency=0.125))
    assert net.now == 1000.0
    sim.do(a.send, B, b"hello")
    net.run(1.0)
    assert b.got == [(1000.125, b"hello", A)]
    assert b.bursts == [(1000.125, 1)]
    assert net.now == 1001.0
    assert net.counts == {"sent": 1, "delivered": 1}


def test_run_drains_commands_given_without_do() -> None:
    net, _, _, a, b = pair()
    a.send(B, b"x")
    net.run(0.5)
    assert b.data == [b"x"]


def test_rate_serialises_datagrams_of_one_batch() -> None:
    # 3 datagrams of 1000, 1000 and 500 bytes at 10,000 bytes/s take 0.1, 0.1 and 0.05 s.
    net, sim, _, a, b = pair(Link(latency=0.5, rate=10_000))
    sim.do(a.send, B, bytes(2500), 1000)
    net.run(2)
    assert [now for now, _, _ in b.got] == pytest.approx([1000.6, 1000.7, 1000.75], abs=1e-9)
    assert [len(d) for d in b.data] == [1000, 1000, 500]
    assert len(b.bursts) == 3


def test_queue_drops_the_tail_and_always_takes_one() -> None:
    # The queue holds 3000 bytes with the datagram in service: of 7 sent at once the first 3 pass.
    net, sim, _, a, b = pair(Link(rate=10_000, queue_bytes=3000))
    sim.do(a.send, B, numbered(7, 1000), 1000)
    net.run(0.1)  # one has left
    sim.do(a.send, B, b"z" * 1000)
    net.run(2)
    assert [d[:4] for d in b.data] == [b"\0\0\0\0", b"\0\0\0\1", b"\0\0\0\2", b"zzzz"]
    assert net.counts["queue"] == 4
    net.link("a", "b", Link(rate=10_000, queue_bytes=10))
    sim.do(a.send, B, b"w" * 1000)
    net.run(2)
    assert len(b.got) == 5


def test_mtu_is_a_black_hole_for_longer_datagrams_only() -> None:
    net, sim, _, a, b = pair(Link(mtu=1200))
    for size in (1200, 1201):
        sim.do(a.send, B, bytes(size))
    sim.do(a.send, B, bytes(1300 + 700), 1300)
    net.run(1)
    assert [len(d) for d in b.data] == [1200, 700]
    assert net.counts["mtu"] == 2


def test_jitter_keeps_the_order_within_its_bounds() -> None:
    net, _sim, _, a, b = pair(Link(latency=0.1, jitter=0.05))
    for number in range(50):
        net.after(number * 0.02, lambda number=number: a.send(B, bytes([number])))  # type: ignore[misc]
    net.run(5)
    assert b.data == [bytes([number]) for number in range(50)]
    delays = [now - 1000.0 - number * 0.02 for number, (now, _, _) in enumerate(b.got)]
    assert min(delays) >= 0.1 - 1e-9
    assert max(delays) <= 0.15 + 1e-9
    assert max(delays) - min(delays) > 0.03


def test_reorder_holds_some_back() -> None:
    net, sim, _, a, b = pair(Link(latency=0.01, reorder=0.3, reorder_delay=0.005))
    sim.do(a.send, B, numbered(200), 100)
    net.run(1)
    assert sorted(b.data) != b.data
    assert len(b.data) == 200
    late = [now for now, _, _ in b.got if now > 1000.012]
    assert len(late) == net.counts["reorder"]
    assert 30 < len(late) < 90
    assert late == pytest.approx([1000.015] * len(late))


def test_loss_duplicates_and_corruption_act_on_single_datagrams() -> None:
    net, sim, _, a, b = pair(Link(latency=0.01, loss=0.2, duplicate=0.1, corrupt=0.05))
    sent = numbered(2000)
    sim.do(a.send, B, sent, 100)
    net.run(1)
    honest = {sent[offset : offset + 100] for offset in range(0, len(sent), 100)}
    counts = net.counts
    assert counts["loss"] == pytest.approx(400, abs=80)
    assert counts["duplicate"] == pytest.approx(160, abs=50)
    assert counts["corrupt"] == pytest.approx(80, abs=35)
    assert len(b.got) == 2000 - counts["loss"] + counts["duplicate"] == counts["delivered"]
    changed = [d for d in b.data if d not in honest]
    assert counts["corrupt"] <= len(changed) <= counts["corrupt"] * 1.3
    for datagram in changed:
        distances = [(int.from_bytes(datagram) ^ int.from_bytes(one)).bit_count() for one in honest]
        assert min(distances) == 1


def test_bad_links_are_refused() -> None:
    for bad in ({"loss": 1.5}, {"latency": -1.0}, {"rate": 0.0}, {"reorder": 0.1}):
        with pytest.raises(ValueError):
            Link(**bad)  # type: ignore[arg-type]


def test_access_links_are_shared_by_all_peers() -> None:
    net, sim, _, a, b = pair(Link(latency=0.1))
    net.add_host("c", "192.0.2.3")
    c = Toy()
    net.attach(c, "c", 1)
    net.access("a", up=Link(rate=10_000), down=Link(latency=1.0))
    sim.do(a.send, B, bytes(1000))
    sim.do(a.send, Address("192.0.2.3", 1), bytes(1000))
    b.send(A, b"back")
    net.run(2)
    assert b.got[0][0] == pytest.approx(1000.2)
    assert c.got[0][0] == pytest.approx(1000.3)
    assert a.got[0][0] == pytest.approx(1001.1)
    net.access("a")
    sim.do(a.send, B, bytes(1000))
    net.run(2)
    assert b.got[1][0] == pytest.approx(1002.1)


def test_one_way_links() -> None:
    net, sim, other, a, b = pair(Link(latency=0.1))
    net.link("a", "b", Link(latency=0.3), both=False)
    sim.do(a.send, B, b"x")
    other.do(b.send, A, b"y")
    net.run(1)
    assert (b.got[0][0], a.got[0][0]) == (1000.3, 1000.1)


# --- batches ---


def test_a_clean_link_delivers_a_batch_whole_with_one_burst_end() -> None:
    net, sim, _, a, b = pair()
    sim.do(a.send, B, numbered(10) + b"tail", 100)
    net.run(1)
    assert b.batches == [(1000.01, 100, 1004)]
    assert b.bursts == [(1000.01, 11)]


def test_survivors_of_loss_and_separate_sends_are_joined_as_gro_does() -> None:
    net, _sim, _, a, b = pair(Link(latency=0.01, loss=0.3))
    for _ in range(10):
        a.send(B, numbered(4), 100)
    net.run(1)
    assert 20 <= len(b.got) <= 36
    assert b.batches == [(1000.01, 100, 100 * len(b.got))]
    net.link("a", "b", Link(latency=0.01))
    for _ in range(70):
        a.send(B, bytes(100))
    a.send(B, bytes(40))  # ends a batch
    a.send(B, bytes(100))
    net.run(1)
    assert [(size, length) for _, size, length in b.batches[1:]] == [(100, 6400), (100, 640), (100, 100)]
    assert [seen for _, seen in b.bursts[1:]] == [len(b.got)]


def test_gro_limits_and_flows_keep_apart() -> None:
    net, _sim, _, a, b = pair()
    for _ in range(50):
        a.send(B, bytes(1400))  # 46 of them fit 65,535 bytes
    other = Toy()
    net.attach(other, "a", 8001)
    other.send(B, bytes(1400))
    net.run(1)
    assert [length // 1400 for _, _, length in b.batches] == [46, 4, 1]


def test_gro_off_gives_single_datagrams() -> None:
    net, sim, _, a, b = pair(gro=False)
    sim.do(a.send, B, numbered(5), 100)
    net.run(1)
    assert [length for _, _, length in b.batches] == [100] * 5
    assert len(b.bursts) == 1


def test_coalescing_makes_batches_behind_a_rate() -> None:
    # 1000 bytes take 1 ms; gathered to multiples of 4 ms.
    net, sim, _, a, b = pair(Link(rate=1e6, coalesce=0.004))
    sim.do(a.send, B, numbered(8, 1000), 1000)
    net.run(1)
    assert [(round(now - 1000, 6), length) for now, _, length in b.batches] == [(0.004, 4000), (0.008, 4000)]


def test_empty_datagrams_and_reused_buffers() -> None:
    net, sim, _, a, b = pair()
    buffer = bytearray(b"abc")
    a.send(B, b"")
    a.send(B, buffer)  # type: ignore[arg-type]
    a.send(B, b"")
    sim.do(lambda now: None)
    buffer[:] = b"xyz"
    net.run(1)
    assert b.data == [b"", b"abc", b""]


# --- seeds ---


def trace(seed: int) -> list[tuple[float, bytes, Address]]:
    net = SimNet(seed, link=Link(latency=0.01, jitter=0.01, loss=0.1, duplicate=0.1, reorder=0.1, reorder_delay=0.02))
    net.add_nat("n", "203.0.113.1", Nat.profile("symmetric"))
    net.add_host("a", "192.168.1.2", behind="n")
    net.add_host("b", B.host)
    a, b = Toy(), Toy()
    net.attach(a, "a", 1)
    net.attach(b, "b", B.port)
    a.send(B, net.entropy("a")(3000), 100)
    net.run(1)
    return b.got


def test_one_seed_one_trace(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIMNET_SEED", raising=False)
    assert trace(1) == trace(1) != trace(2)
    assert "simnet seed=1" in capsys.readouterr().out
    monkeypatch.setenv("SIMNET_SEED", "77")
    net = SimNet(3)
    assert net.seed == 77
    assert "simnet seed=77" in repr(net)
    assert trace(1) == trace(2)
    monkeypatch.setenv("SIMNET_SEED", "random")
    assert SimNet().seed != SimNet().seed


# --- nodes ---


def test_timers_fire_on_time_and_are_asked_for_once_an_instant() -> None:
    net, _, _, a, b = pair()
    a.timer, a.period = 1001.0, 10.0
    net.run(60)
    assert a.fired == [1001.0, 1011.0, 1021.0, 1031.0, 1041.0, 1051.0]
    assert a.asked == 1 + 6
    assert b.asked == 1


def test_moved_and_cancelled_timers() -> None:
    net, sim, _, a, _ = pair()
    a.timer = 1005.0
    net.run(1)
    sim.do(lambda now: setattr(a, "timer", 1008.0))  # later
    net.run(6)
    assert a.fired == []
    sim.do(lambda now: setattr(a, "timer", 1007.5))  # earlier
    net.run(0.6)
    assert a.fired == [1007.5]
    a.timer = 1009.0
    net.run(0.1)
    sim.do(lambda now: setattr(a, "timer", None))
    assert net.run_until_idle(100)
    assert a.fired == [1007.5]


def test_timer_lag_and_delayed_jobs() -> None:
    net, _, _, a, _ = pair()
    late = Toy()
    sim = net.attach(late, "a", 1, timer_lag=0.012, job_delay=0.25)
    late.timer = 1001.0
    for node in (late, a):
        node.jobs.append(ToyJob(b"dh"))
    net.run(2)
    assert late.fired == [1001.012]
    assert late.finished == [(1000.25, b"dh")]
    assert a.finished == [(1000.0, b"dh")]
    assert sim.name == "a:1"


def test_events_are_collected_and_messages_taken() -> None:
    net, sim, other, a, b = pair()
    c = Toy()
    quiet = net.attach(c, "b", 1, on_event=None)
    sim.do(a.send, B, b"one")
    sim.do(a.send, Address(B.host, 1), b"two")
    net.run(1)
    assert other.of(Arrived) == other.events == [Arrived(b"one", 1)]
    assert b.taken == [b"one"]
    assert quiet.of(Arrived) == [Arrived(b"two", 1)]
    assert c.taken == []
    assert other.of(int) == []


def test_on_event_may_command_any_node() -> None:
    net = SimNet(on_event=None)
    net.add_host("a", A.host)
    net.add_host("b", B.host)
    a, b = Toy(), Toy()

    def forward(sim: SimNode, event: Arrived) -> None:
        take_messages(sim, event)
        if event.content == b"first":
            a.send(B, b"again")  # the other node: it is drained before the clock moves

    net.attach(a, "a", A.port)
    net.attach(b, "b", B.port, on_event=forward)
    a.send(B, b"first")
    assert net.run_until(lambda: len(b.got) == 2, 1)
    assert b.got[1][0] == pytest.approx(1000.02)


def test_run_until_and_idle() -> None:
    net, sim, _, a, b = pair(Link(latency=0.25))
    sim.do(a.send, B, b"x")
    assert net.run_until(lambda: b.got, 10)
    assert net.now == 1000.25
    assert not net.run_until(lambda: len(b.got) == 2, 3)
    assert net.now == 1003.25
    sim.do(a.send, B, b"y")
    assert net.run_until_idle(10)
    assert net.now == 1003.5
    a.timer, a.period = 1004.0, 1.0
    assert not net.run_until_idle(10)
    assert net.now == 1013.5
    assert net.run_until_idle(10, quiet=0.4)
    assert not net.run_until_idle(3, quiet=1.5)


def test_predicates_see_every_event_of_one_instant() -> None:
    net, sim, _, a, b = pair(Link())
    b.echo = True
    seen: list[tuple[int, int]] = []
    sim.do(a.send, B, b"x")
    net.run_until(lambda: seen.append((len(b.got), len(a.got))), 0)
    assert (1, 0) in seen
    assert seen[-1] == (1, 1)


def test_detached_nodes_are_gone_and_their_port_is_free() -> None:
    net, sim, other, a, b = pair()
    b.timer = 1000.5
    sim.do(a.send, B, b"x")
    other.detach()
    other.detach()
    net.run(1)
    assert (b.got, b.fired, net.counts["closed"]) == ([], [], 1)
    again = Toy()
    net.attach(again, "b", B.port)
    sim.do(a.send, B, b"y")
    net.run(1)
    assert again.data == [b"y"]


def test_a_node_busy_for_ever_is_named() -> None:
    net = SimNet(livelock=1000)
    net.add_host("a", A.host)
    a = Toy()
    net.attach(a, "a", A.port)
    a.timer, a.period = 1001.0, 1e-20
    with pytest.raises(Livelock, match="a:8000") as caught:
        net.run(2)
    assert any("simnet seed=" in note for note in caught.value.__notes__)

    net, sim, _, a, b = pair(Link(), livelock=1000)  # a ping-pong that takes no time
    a.echo = b.echo = True
    sim.do(a.send, B, b"x")
    with pytest.raises(Livelock, match=r"8000|9000"):
        net.run(1)

    net, sim, _, a, b = pair(livelock=1000)
    a.poll_transmit = lambda now: Transmit(b"x", 1, B)  # type: ignore[method-assign]
    with pytest.raises(Livelock, match="a:8000"):
        net.run(1)


def test_what_a_node_raises_carries_the_seed() -> None:
    net, sim, _, a, b = pair()
    b.handle_burst_end = lambda now: 1 / 0  # type: ignore[method-assign, assignment]
    sim.do(a.send, B, b"x")
    with pytest.raises(ZeroDivisionError) as caught:
        net.run(1)
    assert f"seed={net.seed} now=1000.010000 node=b:9000" in caught.value.__notes__[0]


def test_mistakes_of_test_authors() -> None:
    net, _sim, _, a, _ = pair()
    for mistake in (
        lambda: net.add_host("a", "192.0.2.9"),
        lambda: net.add_host("c", A.host),
        lambda: net.add_host("c"),
        lambda: net.attach(Toy(), "a", A.port),
        lambda: Nat(mapping="XXX"),  # type: ignore[arg-type]
        lambda: Nat(ports="XXX"),  # type: ignore[arg-type]
        lambda: Nat(overload=True),
    ):
        with pytest.raises(ValueError):
            mistake()
    a.out.append(Transmit(b"xx", 0, B))
    with pytest.raises(ValueError, match="a:8000"):
        net.run(1)
    a.send(Address("198.51.100.1", 1), b"nobody there")
    a.send(Address("2001:db8::1", 1), b"no such family here")
    a.send(B, bytes(65_508))
    net.run(1)
    assert (net.counts["no_route"], net.counts["too_big"]) == (2, 1)


# --- faults ---


def test_partition_and_heal() -> None:
    net, sim, other, a, b = pair()

    def both() -> tuple[int, int]:
        before = len(b.got), len(a.got)
        sim.do(a.send, B, b"x")
        other.do(b.send, A, b"y")
        net.run(1)
        return len(b.got) - before[0], len(a.got) - before[1]

    assert both() == (1, 1)
    net.partition("a", "b")
    assert both() == (0, 0)
    net.heal("b", "a")
    assert both() == (1, 1)
    net.partition("a", "b", both=False)
    assert both() == (0, 1)
    net.heal()
    net.partition("b")
    assert both() == (0, 0)
    net.heal("b")
    assert both() == (1, 1)
    assert net.counts["partition"] == 5


def test_a_sleeping_host_hears_nothing_and_its_timers_fire_late() -> None:
    net, sim, _, a, b = pair()
    b.timer = 1005.0
    net.run(1)
    net.sleep("b", 60)
    sim.do(a.send, B, b"lost")
    b.send(A, b"held back")
    net.run(59)
    assert (b.got, b.fired, a.got, net.counts["asleep"]) == ([], [], [], 1)
    net.run(2)
    assert b.fired == [1061.0]
    assert a.got == [(1061.01, b"held back", B)]
    net.sleep("b")
    net.run(100)
    net.resume("b")
    sim.do(a.send, B, b"heard")
    net.run(1)
    assert b.data == [b"heard"]


def test_roaming_to_another_address() -> None:
    net, sim, _, a, b = pair()
    net.add_nat("n", "203.0.113.1", Nat())
    sim.do(a.send, B, b"1")
    net.move_host("a", "192.168.7.7", behind="n")
    b.send(A, b"to the old address")
    sim.do(a.send, B, b"2")
    net.run(1)
    assert [source for _, _, source in b.got] == [A, Address("203.0.113.1", 8000)]
    assert net.counts["no_route"] == 1


# --- the attacker's tools ---


def test_a_tap_sees_datagrams_as_sent_before_loss() -> None:
    net, sim, _, a, b = pair(Link(loss=1.0))
    seen: list[tuple[float, Address, Address, bytes]] = []
    remove = net.tap(lambda *what: seen.append(what))
    sim.do(a.send, B, numbered(3), 100)
    remove()
    sim.do(a.send, B, b"unseen")
    net.run(1)
    assert [d[:4] for *_, d in seen] == [bytes([0, 0, 0, n]) for n in range(3)]
    assert seen[0][:3] == (1000.0, A, B)
    assert b.got == []


def test_interceptors_drop_change_redirect_and_replay() -> None:
    net, sim, _, a, b = pair()
    mallory = Address("198.51.100.6", 666)
    answers: dict[bytes, Callable[[Address, Address], list[tuple[Address, Address, bytes]] | None]] = {
        b"drop": lambda s, d: [],
        b"change": lambda s, d: [(s, d, b"CHANGED")],
        b"replay": lambda s, d: [(s, d, b"replay"), (mallory, d, b"replay")],
        b"reflect": lambda s, d: [(d, s, b"reflect")],
        b"lost": lambda s, d: [(s, mallory, b"lost")],
        b"pass": lambda s, d: None,
    }
    remove = net.intercept(lambda now, s, d, datagram: answers[datagram](s, d))
    for word in answers:
        sim.do(a.send, B, word)
    net.run(1)
    assert [(d, s) for _, d, s in b.got] == [(b"CHANGED", A), (b"replay", A), (b"replay", mallory), (b"pass", A)]
    assert a.data == [b"reflect"]
    assert (net.counts["intercepted"], net.counts["no_route"]) == (1, 1)
    second = net.intercept(lambda now, s, d, datagram: [(s, d, datagram + b"2")])
    sim.do(a.send, B, b"pass")
    net.run(1)
    second()
    remove()
    sim.do(a.send, B, b"drop")
    net.run(1)
    assert b.data[-2:] == [b"pass2", b"drop"]


def test_injected_datagrams_come_from_anywhere_past_the_links() -> None:
    net, _sim, _, _, b = pair(Link(loss=1.0))
    mallory = Address("198.51.100.6", 666)
    net.inject(A, B, b"spoofed")
    net.inject(mallory, B, b"later", delay=0.5)
    net.inject(mallory, Address("198.51.100.7", 1), b"nobody")
    net.run(1)
    assert b.got == [(1000.0, b"spoofed", A), (1000.5, b"later", mallory)]
    net.add_nat("n", "203.0.113.1", Nat())
    net.add_host("c", "192.168.1.2", behind="n")
    c = Toy()
    net.attach(c, "c", 5)
    net.inject(mallory, Address("203.0.113.1", 5), b"filtered")
    net.inject(Address("192.168.1.66", 1), Address("192.168.1.2", 5), b"neighbour", beside="c")
    net.run(1)
    assert c.data == [b"neighbour"]


# --- cost ---


class Bulk(Toy):
    """Sends ``left`` datagrams with a window; the other end acknowledges every second one."""

    def __init__(self, left: int, window: int) -> None:
        super().__init__()
        self.left, self.window, self.flying, self.received, self.unacked = left, window, 0, 0, 0

    def handle_batch(self, buffer: bytes, segment_size: int, source: Address, now: float) -> None:
        count = -(-len(buffer) // segment_size)
        if segment_size < 100:
            self.flying -= 2 * count
            return
        self.received += count
        self.unacked += count
        while self.unacked >= 2:
            self.unacked -= 2
            self.out.append(Transmit(b"ack", 3, source))

    def poll_transmit(self, now: float) -> Transmit | None:
        if self.out:
            return self.out.popleft()
        if self.left and self.flying < self.window:
            self.left -= 1
            self.flying += 1
            return Transmit(PAYLOAD, len(PAYLOAD), B)
        return None


PAYLOAD = bytes(1400)


def test_sixteen_mebibytes_over_a_slow_link() -> None:
    net = SimNet(link=Link(latency=0.01, rate=12.5e6, queue_bytes=1 << 20))
    net.add_host("a", A.host)
    net.add_host("b", B.host)
    a, b = Bulk(12_000, 300), Bulk(0, 0)
    net.attach(a, "a", A.port)
    net.attach(b, "b", B.port)
    assert net.run_until(lambda: b.received == 12_000, 60)
    # 12,000 * 1400 bytes at 12.5 MB/s, the window of 420 kB being above the product of rate and delay (250 kB)
    assert net.now - 1000 == pytest.approx(12_000 * 1400 / 12.5e6 + 0.01, rel=0.01)
    assert b.asked <= 12_100


def test_an_hour_of_two_idle_peers_is_cheap() -> None:
    net, _, _, a, b = pair()
    a.timer, a.period, b.echo = 1000.0, 10.0, True
    net.run(3600)
    assert len(a.fired) == 361
    assert a.asked <= 2 * 361 + 1
