"""Controllers and pacer in virtual time, over a small model of a link: rate, delay, FIFO queue, random loss, lateness.

The sender of the model is ideal: it always has data, knows its losses as RFC 9002's packet threshold would, and
measures delivery rates by the delivery rate draft. One event is one batch. What the whole sender makes of
a link, and of others on it, is in ``test_congestion_grid``.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from functools import partial
from math import inf

import pytest

from srmudp.protocol.congestion import BATCH_SEGMENTS, ModelBased, make_controller
from srmudp.protocol.controller import AckSample, Controller
from srmudp.protocol.cubic import Cubic
from srmudp.protocol.pacer import UNLIMITED, Pacer

SEGMENT = 1400
MBIT = 1e6 / 8  # bytes per second


class Clock:
    """Events in virtual time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, when: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (max(when, self.now), self._count, action))

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, action = heapq.heappop(self._events)
            action()
        self.now = until


class Link:
    """A bottleneck: ``rate`` bytes/s, drop-tail queue of ``limit`` bytes, ``delay`` seconds both ways, random loss."""

    def __init__(self, clock: Clock, rate: float, delay: float, limit: float, loss: float = 0.0, seed: int = 7) -> None:
        self.clock, self.rate, self.delay, self.limit, self.loss = clock, rate, delay, limit, loss
        self.random = random.Random(seed)
        self.free_at = 0.0
        self.down = False

    def send(self, segments: int) -> tuple[int, float]:
        """How many of a batch's segments pass, and when the last of them has passed."""
        now, passed = self.clock.now, 0
        for _ in range(segments):
            backlog = max(0.0, self.free_at - now) * self.rate
            if self.down or backlog + SEGMENT > max(self.limit, SEGMENT):
                continue
            self.free_at = max(self.free_at, now) + SEGMENT / self.rate
            if not self.loss or self.random.random() >= self.loss:
                passed += 1
        return passed, self.free_at


class Flight:
    """One batch under way, with what the delivery rate draft stores in it."""

    __slots__ = ("acked", "app_limited", "delivered", "delivered_time", "first_sent", "segments", "sent")

    def __init__(self, flow: Flow, segments: int) -> None:
        self.segments, self.acked, self.sent = segments, 0, flow.clock.now
        self.delivered, self.delivered_time = flow.delivered, flow.delivered_time
        self.first_sent, self.app_limited = flow.first_sent, False


class Flow:
    """A sender with endless data. ``late`` gives the lateness of each timer and of each acknowledgement, in seconds."""

    def __init__(
        self,
        clock: Clock,
        link: Link,
        controller: Controller,
        *,
        start: float = 0.0,
        late: Callable[[], float] = lambda: 0.0,
        merge: float = 0.0,
    ) -> None:
        self.clock, self.link, self.controller, self.late, self.merge = clock, link, controller, late, merge
        self.pacer = Pacer(0.0)
        self.flights: deque[Flight] = deque()
        self.in_flight = self.delivered = 0
        self.delivered_time = self.first_sent = start
        self.srtt: float | None = None
        self.min_rtt = inf
        self.rtts: list[tuple[float, float]] = []
        self.log: list[tuple[float, int]] = []  # (time, delivered)
        self.states: list[str] = []
        self.timer = inf
        self.last_ack = start
        self.merged: list[Flight] = []
        clock.at(start, self.pump)

    def batch(self) -> int:
        rate, controller = self.controller.pacing_rate, self.controller
        size = BATCH_SEGMENTS * SEGMENT
        if rate < inf:
            size = min(size, int(rate * 0.002))
        if self.min_rtt > 0.002:
            size = min(size, controller.window // 8)
        return max(1, size // SEGMENT)

    def pump(self) -> None:
        now, controller = self.clock.now, self.controller
        while True:
            segments = min(self.batch(), (controller.window - self.in_flight) // SEGMENT)
            if segments <= 0:
                return
            size = segments * SEGMENT
            if self.pacer.budget(now, controller.pacing_rate, self.batch() * SEGMENT) < size:
                when = self.pacer.next_time(now, controller.pacing_rate, size)
                assert when > now
                if not now < self.timer <= when:  # none, or a later one, is set
                    self.timer = when
                    self.clock.at(when + self.late(), partial(self.fire, when))
                return
            if not self.in_flight:
                self.first_sent = self.delivered_time = now
            flight = Flight(self, segments)
            self.flights.append(flight)
            self.in_flight += size
            passed, done = self.link.send(segments)
            if passed:
                flight.acked = passed
                self.clock.at(done + self.link.delay + self.late(), partial(self.arrive, flight))
            self.pacer.on_sent(now, size)
            controller.on_sent(now, size, self.in_flight, False)
            if len(self.flights) == 1:
                self.clock.at(now + 1.0, self.probe)

    def fire(self, when: float) -> None:
        if self.timer == when:  # else an earlier one was set since
            self.timer = inf
            self.pump()

    def arrive(self, flight: Flight) -> None:
        if not self.merge:
            self.ack([flight])
            return
        self.merged.append(flight)
        if len(self.merged) == 1:  # acknowledgements that arrive together are processed together
            self.clock.at(self.clock.now + self.merge, self.flush)

    def flush(self) -> None:
        merged, self.merged = self.merged, []
        self.ack(sorted(merged, key=lambda flight: flight.sent))

    def ack(self, flights: list[Flight]) -> None:
        now = self.clock.now
        flights = [flight for flight in flights if flight.acked > 0 and flight in self.flights]
        if not flights:
            return
        newest, lost, newest_lost = flights[-1], 0, -inf
        acked = sum(flight.acked for flight in flights) * SEGMENT
        lost = sum(flight.segments - flight.acked for flight in flights) * SEGMENT
        if lost:
            newest_lost = max(flight.sent for flight in flights if flight.segments > flight.acked)
        for flight in flights:
            self.flights.remove(flight)
        # Whole batches that the acknowledged ones overtook: the link keeps order, but acknowledgements may be late.
        horizon = newest.sent - 0.3 * (self.srtt or 1.0)
        while self.flights and not self.flights[0].acked and self.flights[0].sent < horizon:
            gone = self.flights.popleft()
            lost += gone.segments * SEGMENT
            newest_lost = max(newest_lost, gone.sent)
        self.in_flight -= acked + lost
        self.delivered += acked
        rtt = now - newest.sent
        self.rtts.append((now, rtt))
        self.min_rtt = min(self.min_rtt, rtt)
        self.srtt = rtt if self.srtt is None else self.srtt + (rtt - self.srtt) / 8
        interval = max(newest.sent - newest.first_sent, now - newest.delivered_time)
        rate = (self.delivered - newest.delivered) / interval if interval >= self.min_rtt else None
        self.delivered_time, self.first_sent, self.last_ack = now, newest.sent, now
        self.log.append((now, self.delivered))
        sample = AckSample(
            acked_bytes=acked,
            lost_bytes=lost,
            newest_lost_sent=newest_lost,
            in_flight=self.in_flight,
            delivered=self.delivered,
            delivered_at_send=newest.delivered,
            rtt=rtt,
            smoothed_rtt=self.srtt,
            delivery_rate=rate,
            app_limited=False,
        )
        self.controller.on_ack(now, sample)
        self.states.append(self.controller.state)
        self.pump()

    def probe(self) -> None:
        """A crude probe timeout: a second without any acknowledgement is persistent congestion."""
        now = self.clock.now
        if not self.flights:
            return
        if now - max(self.last_ack, self.flights[0].sent) < 0.99:
            self.clock.at(max(self.last_ack, self.flights[0].sent) + 1.0, self.probe)
            return
        lost, newest = self.in_flight, self.flights[-1].sent
        self.flights.clear()
        self.in_flight = 0
        self.controller.on_lost(now, lost, newest, 0)
        self.controller.on_persistent_congestion(now)
        self.pump()

    def rate(self, begin: float, end: float) -> float:
        """Bytes delivered per second in that time."""
        before = max((total for when, total in self.log if when <= begin), default=0)
        return (max((total for when, total in self.log if when <= end), default=0) - before) / (end - begin)

    def rtt_percentile(self, begin: float, share: float) -> float:
        values = sorted(rtt for when, rtt in self.rtts if when >= begin)
        return values[int(share * (len(values) - 1))]


def run(
    controller: Controller,
    megabits: float,
    delay: float,
    queue: float,
    *,
    loss: float = 0.0,
    until: float = 3.0,
    late: Callable[[], float] = lambda: 0.0,
    merge: float = 0.0,
    script: Callable[[Clock, Link], None] | None = None,
) -> Flow:
    """One flow over a link with a queue of ``queue`` bandwidth-delay products."""
    clock, rate = Clock(), megabits * MBIT
    link = Link(clock, rate, delay, queue * rate * delay, loss)
    flow = Flow(clock, link, controller, late=late, merge=merge)
    if script is not None:
        script(clock, link)
    clock.run(until)
    return flow


# --- ModelBased on links


@pytest.mark.parametrize("queue", [0.25, 1.0])
def test_shallow_queues_are_filled_without_lasting_loss(queue: float) -> None:
    flow = run(ModelBased(SEGMENT), 10, 0.04, queue)
    assert flow.rate(1.0, 3.0) >= 0.9 * 10 * MBIT


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_fast_lan_with_late_threads(loss: float) -> None:
    """1 Gbit/s, 0.2 ms, 512 KiB of queue; every timer and acknowledgement 1 to 5 ms late."""
    noise = random.Random(3)
    flow = run(
        ModelBased(SEGMENT),
        1000,
        0.0002,
        524_288 / (1000 * MBIT * 0.0002),
        loss=loss,
        until=0.6,
        late=lambda: noise.uniform(0.001, 0.005),
        merge=0.0001,
    )
    assert flow.rate(0.1, 0.6) >= 0.6 * 1000 * MBIT
    assert flow.controller.window >= 4 * BATCH_SEGMENTS * SEGMENT


def test_loopback_with_rare_long_pauses_of_a_thread() -> None:
    noise = random.Random(5)
    late = lambda: 0.012 if noise.random() < 0.03 else 0.00002  # noqa: E731
    flow = run(ModelBased(SEGMENT), 2000, 0.00005, 40, until=0.3, late=late)
    assert flow.rate(0.1, 0.3) >= 0.6 * 2000 * MBIT


@pytest.mark.parametrize(("megabits", "round_trips"), [(10, 6), (100, 10)])
def test_startup_reaches_the_link_rate_in_a_few_round_trips(megabits: float, round_trips: int) -> None:
    """From 10 segments; BDP 36 and 357 segments."""
    controller = ModelBased(SEGMENT)
    run(controller, megabits, 0.04, 1, until=round_trips * 0.04)
    assert controller.bandwidth >= 0.9 * megabits * MBIT


def test_finds_more_bandwidth_within_two_seconds() -> None:
    def more(clock: Clock, link: Link) -> None:
        clock.at(1.5, lambda: setattr(link, "rate", 20 * MBIT))

    flow = run(ModelBased(SEGMENT), 2, 0.04, 4, until=4.0, script=more)
    assert flow.rate(3.5, 4.0) >= 0.9 * 20 * MBIT


def test_a_slower_link_is_followed_and_its_queue_drained() -> None:
    def less(clock: Clock, link: Link) -> None:
        clock.at(1.5, lambda: setattr(link, "rate", 2 * MBIT))

    flow = run(ModelBased(SEGMENT), 10, 0.04, 2, until=5.0, script=less)
    assert flow.rate(4.0, 5.0) >= 0.9 * 2 * MBIT
    assert flow.rtt_percentile(4.5, 0.95) < 0.2  # the full queue would be 0.44 s


def test_recovers_from_an_outage() -> None:
    def outage(clock: Clock, link: Link) -> None:
        clock.at(1.0, lambda: setattr(link, "down", True))
        clock.at(2.5, lambda: setattr(link, "down", False))

    flow = run(ModelBased(SEGMENT), 10, 0.04, 2, until=4.5, script=outage)
    assert flow.rate(4.0, 4.5) >= 0.85 * 10 * MBIT


def test_persistent_congestion_starts_over_from_the_smallest_window() -> None:
    flow = run(ModelBased(SEGMENT), 10, 0.04, 1, until=1.0)
    controller = flow.controller
    assert controller.state == "probe_bw"
    controller.on_lost(1.0, flow.in_flight, 1.0, 0)
    controller.on_persistent_congestion(1.0)
    assert (controller.state, controller.window) == ("startup", 4 * SEGMENT)
    assert controller.pacing_rate < 10 * MBIT


def test_no_pause_to_measure_what_is_known() -> None:
    """probe_rtt is left out where the base RTT shows by itself."""
    assert "probe_rtt" not in run(ModelBased(SEGMENT), 5, 0.04, 4, until=7.0).states


def test_slow_lan_neither_paused_nor_flooded() -> None:
    """20 Mbit/s, 0.3 ms, a queue of 0.27 s: the large window is cut to 25 ms of it, and measuring costs nothing."""
    noise = random.Random(2)
    flow = run(ModelBased(SEGMENT), 20, 0.0003, 900, until=6.0, late=lambda: noise.uniform(0.0, 0.0008))
    assert flow.rate(4.9, 5.9) >= 0.97 * 20 * MBIT
    assert flow.rtt_percentile(1.0, 0.95) <= 0.030
    assert flow.controller.window >= BATCH_SEGMENTS * SEGMENT


def test_a_longer_way_is_learnt() -> None:
    def longer(clock: Clock, link: Link) -> None:
        clock.at(0.5, lambda: setattr(link, "delay", 0.08))

    controller = ModelBased(SEGMENT)
    flow = run(controller, 5, 0.04, 4, until=6.5, script=longer)
    assert "probe_rtt" in flow.states
    assert controller.state == "probe_bw"
    assert controller.base_rtt == pytest.approx(0.08, rel=0.1)


# --- ModelBased, call by call


def sample(acked: int, delivered: int, **other: float | bool | None) -> AckSample:
    values: dict[str, float | bool | None] = {
        "lost_bytes": 0,
        "newest_lost_sent": -inf,
        "in_flight": 0,
        "delivered_at_send": delivered - acked,
        "rtt": 0.04,
        "smoothed_rtt": 0.04,
        "delivery_rate": 1e6,
        "app_limited": False,
    }
    return AckSample(acked_bytes=acked, delivered=delivered, **(values | other))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["bbr", "cubic"])
def test_begins_as_rfc_9002_says(name: str) -> None:
    controller = make_controller(name, 1200)  # type: ignore[arg-type]
    assert controller.name == name
    assert controller.window == 12_000
    assert controller.pacing_rate == inf
    assert make_controller(name, 1472).window == 14_720  # type: ignore[arg-type]
    assert make_controller(name, 9000).window == 18_000  # type: ignore[arg-type]


def test_unknown_controller() -> None:
    with pytest.raises(ValueError, match="'bbr' and 'cubic'"):
        make_controller("reno", 1200)  # type: ignore[arg-type]


def test_tiny_rtt_opens_the_window_at_once() -> None:
    controller = ModelBased(1400)
    controller.on_sent(1.0, 14_000, 14_000, False)
    controller.on_ack(1.00005, sample(14_000, 14_000, rtt=0.00005, smoothed_rtt=0.00005, delivery_rate=2.8e8))
    assert controller.window >= 4 * 44 * 1400
    assert controller.base_rtt == 0.00005
    controller.set_segment_size(8952)  # a batch never exceeds 64 KiB
    assert controller.window <= 4 * 65_536 + 14_000


def test_application_limited_samples_do_not_lower_or_end_anything() -> None:
    controller = ModelBased(1400)
    delivered, now = 0, 1.0
    for rate, limited in [(2e6, False)] + [(1e4, True)] * 40:
        now += 0.04
        delivered += 1400
        controller.on_sent(now - 0.04, 1400, 1400, limited)
        controller.on_ack(now, sample(1400, delivered, delivery_rate=rate, app_limited=limited))
    assert controller.bandwidth == 2e6
    assert controller.state == "startup"


def test_a_loss_in_a_chat_does_not_shut_the_path() -> None:
    """One datagram of few, lost while RTTs are high: the window stays usable and startup goes on."""
    controller = ModelBased(1400)
    before = controller.window
    for n in range(1, 30):
        now = 1.0 + n * 0.2
        controller.on_sent(now - 0.1, 1400, 1400, True)
        lost = {"lost_bytes": 1400, "newest_lost_sent": now - 0.1} if n == 20 else {}
        rtt = 0.04 if n < 10 else 0.08
        controller.on_ack(now, sample(1400, 1400 * n, rtt=rtt, smoothed_rtt=rtt, app_limited=True, **lost))
    assert controller.window >= before // 3
    assert controller.state == "startup"


def test_samples_without_measurements_are_harmless() -> None:
    controller = ModelBased(1400)
    controller.on_ack(1.0, sample(0, 0, rtt=None, smoothed_rtt=None, delivery_rate=None))
    controller.on_lost(2.0, 1400, 1.9, 0)
    assert controller.pacing_rate == inf
    assert controller.window >= 4 * 1400


def test_heavy_loss_is_congestion_even_without_a_queue() -> None:
    flow = run(ModelBased(SEGMENT), 10, 0.04, 1, until=1.0)
    controller, before = flow.controller, flow.controller.window
    controller.on_lost(1.0, before // 2, 0.99, before // 2)
    assert controller.window <= 0.7 * before
    cut = controller.window
    controller.on_lost(1.01, before // 2, 0.995, 0)  # sent before the reduction: counted once
    assert controller.window == cut


# --- Cubic


def test_cubic_fills_a_link_and_its_queue() -> None:
    flow = run(Cubic(SEGMENT), 10, 0.04, 1, until=3.0)
    assert flow.rate(0.5, 3.0) >= 0.9 * 10 * MBIT
    assert flow.states[0] == "slow_start"
    assert flow.states[-1] == "avoidance"


def test_cubic_reduces_once_a_round_trip() -> None:
    controller = Cubic(1000)
    controller.on_ack(1.0, sample(90_000, 90_000))  # slow start: by what was acknowledged
    assert controller.window == 100_000
    assert controller.pacing_rate == pytest.approx(2 * 100_000 / 0.04)
    controller.on_lost(1.1, 1000, 1.05, 0)
    assert controller.window == 70_000
    assert controller.pacing_rate == pytest.approx(1.25 * 70_000 / 0.04)
    controller.on_ack(1.12, sample(1000, 91_000, lost_bytes=1000, newest_lost_sent=1.08))
    assert controller.window == 70_000
    controller.on_ack(1.2, sample(1000, 92_000, lost_bytes=1000, newest_lost_sent=1.15))
    assert controller.window == 49_000


def test_cubic_returns_to_its_maximum_in_k_seconds() -> None:
    """RFC 9438 section 4.2: K is the cube root of (W_max - cwnd_epoch) / C; RTT 100 ms, W_max 1000 segments."""
    controller = Cubic(1000)
    controller.on_ack(0.0, sample(990_000, 990_000, rtt=0.1, smoothed_rtt=0.1))
    controller.on_lost(0.0, 1000, -0.01, 0)
    k = (300 / 0.4) ** (1 / 3)
    delivered, now = 990_000, 0.0
    windows = {}
    while now < k:
        now += 0.1
        delivered += controller.window
        controller.on_sent(now, controller.window, 2 * controller.window, False)
        controller.on_ack(now, sample(controller.window, delivered, rtt=0.1, smoothed_rtt=0.1))
        windows[round(now, 1)] = controller.window
    assert windows[4.5] == pytest.approx(1_000_000 + 400 * (4.5 - k) ** 3, rel=0.01)
    assert controller.window == pytest.approx(1_000_000, rel=0.005)


def test_cubic_is_no_slower_than_reno() -> None:
    """RFC 9438 section 4.3: with a small window the estimate grows 3 (1-b) / (1+b) segments a round trip."""
    controller = Cubic(1000)
    controller.on_ack(0.0, sample(10_000, 10_000))
    controller.on_lost(0.0, 1000, -0.01, 0)
    assert controller.window == 14_000
    for n in range(1, 9):
        controller.on_ack(n * 0.01, sample(controller.window, 20_000, rtt=0.01, smoothed_rtt=0.01))
    assert controller.window == pytest.approx(14_000 + 8 * 3000 * 0.3 / 1.7, rel=0.01)


def test_cubic_does_not_grow_unused_or_idle() -> None:
    controller = Cubic(1000)
    controller.on_ack(0.0, sample(90_000, 90_000))
    controller.on_sent(0.1, 1000, 1000, True)
    controller.on_ack(0.14, sample(1000, 91_000))
    assert controller.window == 100_000
    controller.on_lost(0.2, 1000, 0.19, 0)
    controller.on_ack(0.3, sample(1000, 92_000))
    controller.on_sent(0.3, 70_000, 70_000, False)
    before = controller.window
    controller.on_sent(100.0, 70_000, 70_000, False)  # after a long silence
    controller.on_ack(100.04, sample(70_000, 162_000))
    assert controller.window < before + 2000


def test_cubic_persistent_congestion() -> None:
    controller = Cubic(1000)
    controller.on_ack(0.0, sample(90_000, 90_000))
    for now in (1.0, 1.5, 2.0):  # an outage is told of again and again: it is one
        controller.on_persistent_congestion(now)
        assert (controller.window, controller.state) == (2000, "slow_start")
    controller.set_segment_size(1400)
    assert controller.window == 2800
    controller.on_ack(2.1, sample(80_000, 170_000))
    assert controller.state == "avoidance"


# --- Pacer


def test_pacer_without_a_rate_is_open() -> None:
    pacer = Pacer(0.0)
    assert pacer.budget(0.0, inf, 60_000) == UNLIMITED
    pacer.on_sent(0.0, 60_000)
    assert pacer.next_time(0.0, inf, 60_000) == 0.0


def test_pacer_keeps_the_rate() -> None:
    pacer, now, sent = Pacer(0.0), 0.0, 0
    while now < 1.0:
        assert pacer.budget(now, 1e6, 2000) >= 2000
        pacer.on_sent(now, 2000)
        sent += 2000
        now = max(pacer.next_time(now, 1e6, 2000), now)
    assert sent == pytest.approx(1e6, rel=0.01)


@pytest.mark.parametrize(("late", "share"), [(0.012, 1.0), (0.018, 1.0), (0.040, 0.5)])
def test_pacer_forgives_timers_up_to_20_ms_late(late: float, share: float) -> None:
    pacer, now, sent = Pacer(0.0), 0.0, 0
    while now < 5.0:
        allowed = pacer.budget(now, 1e6, 2000)
        assert allowed <= 20_000  # 20 ms, no more, however late
        pacer.on_sent(now, allowed)
        sent += allowed
        now = pacer.next_time(now, 1e6, 1) + late
    assert sent == pytest.approx(share * 5e6, rel=0.02)


def test_pacer_does_not_save_up_while_idle() -> None:
    pacer = Pacer(0.0)
    pacer.budget(0.0, 1e7, 2000)
    pacer.on_idle()
    assert pacer.budget(9.0, 1e7, 2000) == 20_000  # 2 ms
    pacer.on_idle()
    assert pacer.budget(19.0, 1e5, 1400) == 1400  # at least one batch
    assert pacer.budget(29.0, 1e5, 1400) == 2800  # waiting, not idle: two batches


def test_pacer_first_rate_and_debt() -> None:
    pacer = Pacer(0.0)
    pacer.budget(0.0, inf, 1400)
    pacer.on_sent(0.0, 14_000)
    assert pacer.budget(1.0, 1e6, 1400) == 2000  # the open start is not held against it, nor rewarded
    pacer.on_sent(1.0, 2000)
    for _ in range(100):
        pacer.on_sent(1.0, 1400)  # unpaced probes
    assert pacer.budget(1.0, 1e6, 1400) == 0
    assert pacer.next_time(1.0, 1e6, 1400) == pytest.approx(1.0214, abs=1e-5)  # 20 ms of debt at most
