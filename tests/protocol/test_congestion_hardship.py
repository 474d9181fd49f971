"""Links that do more than carry and queue: real endpoints, one direction, virtual time.

Scattered round trips, datagrams out of order, acknowledgements in lumps, a link that becomes ten times as fast, timers
that come late: none of it is loss or a queue, so none of it may slow a transfer down much.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from srmudp.config import Config
from srmudp.protocol.congestion import ModelBased
from tests.endpoints import arrived, connect, make_node, peer_of, send, status
from tests.protocol.test_congestion import sample
from tests.simnet import Link, SimNet

RATE = 1_250_000.0
"""Bytes per second, 10 Mbit/s."""
MESSAGE = random.Random(3).randbytes(20_000)


def goodput(
    there: Link,
    back: Link,
    *,
    begin: float = 1.0,
    end: float = 2.0,
    late: float = 0.0,
    script: Callable[[SimNet], None] = lambda net: None,
) -> tuple[float, int, int]:
    """Bytes of content per second from ``begin`` to ``end`` of an endless transfer; datagrams lost and sent."""
    net = SimNet(11, link=Link(latency=there.latency))
    config = Config(max_mtu=1452)
    a = make_node(net, "a", "10.0.0.1", config=config, timer_lag=late)
    b = make_node(net, "b", "10.0.0.2", config=config, timer_lag=late)
    connect(net, a, b)
    net.link("a", "b", there, both=False)
    net.link("b", "a", back, both=False)
    start, marks = net.now, [0, 0]
    script(net)
    for position, when in enumerate((begin, end)):
        while net.now < start + when - 1e-9:
            while peer_of(a, b).connection.queued_bytes < 1_500_000:
                send(a, b, MESSAGE)
            net.run(0.05)
        marks[position] = sum(map(len, arrived(b, a)))
    stats = status(a, b).stats
    return (marks[1] - marks[0]) / (end - begin), stats.datagrams_lost, stats.datagrams_sent


def link(**other: float) -> Link:
    return Link(latency=0.01, rate=RATE, queue_bytes=200_000, **other)  # type: ignore[arg-type]


@pytest.mark.parametrize(("jitter", "begin", "least"), [(0.03, 1.0, 0.75), (0.1, 1.0, 0.25), (0.1, 3.0, 0.8)])
def test_round_trips_that_scatter_in_order(jitter: float, begin: float, least: float) -> None:
    """Much scatter is first taken for a queue, and looked at."""
    got, _, _ = goodput(link(jitter=jitter), Link(latency=0.01, jitter=jitter), begin=begin, end=begin + 1)
    assert got >= least * RATE


@pytest.mark.parametrize(("delay", "least"), [(0.03, 0.7), (0.1, 0.5)])
def test_datagrams_out_of_order_are_not_taken_for_lost(delay: float, least: float) -> None:
    """Every fourth one is overtaken, by all that leave within ``delay``."""
    speed, lost, sent = goodput(link(reorder=0.25, reorder_delay=delay), Link(latency=0.01))
    assert speed >= least * RATE
    assert lost < 0.15 * sent


@pytest.mark.parametrize(("there", "back"), [(0.02, 0.02), (0.0, 0.05)])
def test_arrivals_in_lumps(there: float, back: float) -> None:
    """As of a radio that gathers what it sends."""
    assert goodput(link(coalesce=there), Link(latency=0.01, coalesce=back))[0] >= 0.8 * RATE


def test_threads_that_come_late() -> None:
    assert goodput(link(), Link(latency=0.01), late=0.015)[0] >= 0.8 * RATE


def test_a_link_ten_times_as_fast_is_found_within_two_seconds() -> None:
    def faster(net: SimNet) -> None:
        net.link("a", "b", Link(latency=0.01, rate=RATE / 10, queue_bytes=20_000), both=False)
        net.run(1.0)
        net.link("a", "b", link(), both=False)

    assert goodput(link(), Link(latency=0.01), begin=2.0, end=2.7, script=faster)[0] >= 0.8 * RATE


# --- call by call


def steady(
    controller: ModelBased, rounds: int, *, lost: int = 0, rtt: float = 0.04, at: float = 1.0, delivered: int = 0
) -> tuple[float, int]:
    """Rounds of 100 segments each, ``lost`` of them lost. Returns the time and what was ``delivered`` by then."""
    now = at
    for _ in range(rounds):
        controller.on_sent(now, 140_000, 140_000, False)
        now += rtt
        delivered += (100 - lost) * 1400
        other = {"lost_bytes": lost * 1400, "newest_lost_sent": now - rtt} if lost else {}
        controller.on_ack(
            now,
            sample((100 - lost) * 1400, delivered, rtt=rtt, smoothed_rtt=rtt, delivery_rate=140_000 / 0.04, **other),
        )
    return now, delivered


def test_a_reduction_for_what_was_only_late_is_undone() -> None:
    controller = ModelBased(1400)
    now, _ = steady(controller, 8)
    before = controller.window
    controller.on_lost(now, before // 2, now - 0.01, before // 2)
    assert controller.window <= 0.7 * before
    controller.on_late(before // 8, now - 0.02)
    assert controller.window <= 0.7 * before  # most of it is still missing
    controller.on_late(before // 4, now - 0.02)
    assert controller.window == before


@pytest.mark.parametrize(("lost", "reduced"), [(5, False), (12, False), (30, True)])
def test_the_share_of_loss_is_judged_by_the_round(lost: int, reduced: bool) -> None:
    """12 of 100 are less than two and a half standard deviations above 10 %."""
    controller = ModelBased(1400)
    steady(controller, 8)
    before = controller.window
    steady(controller, 3, lost=lost, at=2.0)
    assert (controller.window < 0.8 * before) == reduced


def test_startup_ends_where_a_queue_stands() -> None:
    controller = ModelBased(1400)
    now, delivered = steady(controller, 3)
    assert controller.state == "startup"
    for _ in range(ModelBased.QUEUE_SAMPLES):  # within one round trip
        now += 0.002
        delivered += 1400
        controller.on_sent(now, 1400, 300_000, False)
        controller.on_ack(
            now,
            sample(1400, delivered, delivered_at_send=0, rtt=0.055, in_flight=300_000, delivery_rate=140_000 / 0.04),
        )
    assert controller.state == "drain"


def test_a_reduction_while_the_base_is_measured_is_one_of_the_window_before() -> None:
    """What is lost then was mostly sent before; the small window of that moment proves nothing."""
    controller = ModelBased(1400)
    now, delivered = steady(controller, 8)
    before = controller.window
    for _ in range(200):  # a queue of another, for longer than MIN_RTT_SECONDS
        now, delivered = steady(controller, 1, rtt=0.08, at=now, delivered=delivered)
        if controller.state == "probe_rtt":
            break
    assert controller.state == "probe_rtt"
    assert controller.window < 0.5 * before
    controller.on_lost(now, 40 * 1400, now - 0.01, 0)
    assert controller.window < 0.5 * before
    while controller.state == "probe_rtt":
        now, delivered = steady(controller, 1, rtt=0.08, at=now, delivered=delivered)
    assert controller.window >= 0.3 * before
