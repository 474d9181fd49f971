"""Cells of the grid of :mod:`tests.benchmarks.grid`, small enough for every run.

The whole sender, not the controller alone: real connections, recovery, pacing, acknowledgements, over a modelled link.
"""

from __future__ import annotations

import pytest

from srmudp.protocol.cubic import Cubic
from tests.bottleneck import MBIT, SEGMENT, Bottleneck, Clock, Ours, Reno, Tcp, percentile, rate, rtts_between


def alone(megabits: float, rtt: float, loss: float, queue: float, seconds: float) -> tuple[Ours, Bottleneck]:
    """One transfer from its beginning; loss by chance each way, queue in products of rate and RTT."""
    clock = Clock()
    link = Bottleneck(clock, rate=megabits * MBIT, rtt=rtt, queue=queue, loss=loss)
    ours = Ours(clock, link)
    clock.run(seconds)
    return ours, link


def used(ours: Ours, link: Bottleneck, begin: float, end: float) -> float:
    """The share of the link that was used."""
    return rate(ours, begin, end) / link.rate


@pytest.mark.parametrize(("loss", "seconds", "least"), [(0.01, 4.0, 0.85), (0.05, 4.0, 0.70)])
def test_loss_by_chance_is_not_congestion(loss: float, seconds: float, least: float) -> None:
    """50 Mbit/s, 40 ms, 1 BDP, start-up included."""
    ours, link = alone(50, 0.04, loss, 1, seconds)
    assert used(ours, link, 0.0, seconds) >= least
    assert link.dropped[ours] <= 0.01 * link.sent[ours]


@pytest.mark.parametrize(("megabits", "rtt", "seconds"), [(50, 0.04, 4.0), (3, 0.08, 8.0)])
def test_a_deep_queue_stays_nearly_empty(megabits: float, rtt: float, seconds: float) -> None:
    """4 BDP, start-up included."""
    ours, link = alone(megabits, rtt, 0.0, 4, seconds)
    assert percentile(rtts_between(ours, 0.0, seconds), 0.95) <= 1.5 * link.base_rtt
    assert used(ours, link, 1.0, seconds) >= 0.9


def test_a_long_way_is_filled_soon() -> None:
    """100 Mbit/s, 80 ms, half a BDP of queue: 690 datagrams under way, from 10."""
    ours, link = alone(100, 0.08, 0.0, 0.5, 2.4)
    begun = link.busy_since(0.9, link.rtt)
    assert begun is not None
    assert begun <= 1.0
    assert used(ours, link, 1.6, 2.4) >= 0.85


@pytest.mark.parametrize(("megabits", "rtt", "loss"), [(10, 0.02, 0.0), (1, 0.2, 0.01)])
def test_a_shallow_queue_is_not_flooded(megabits: float, rtt: float, loss: float) -> None:
    """Half a BDP of queue, 10 datagrams at the least: what is dropped there is our doing. Doubling overshoots once."""
    ours, link = alone(megabits, rtt, loss, 0.5, 4.0)
    overshoot = link.rate * link.rtt / SEGMENT
    assert link.dropped[ours] <= 0.02 * link.sent[ours] + overshoot
    assert used(ours, link, 1.0, 4.0) >= 0.85


def beside(other: str, megabits: float, rtt: float, queue: float, seconds: float) -> tuple[float, float]:
    """What each got of the link in the last three quarters; the other one begins after a tenth of the time."""
    clock = Clock()
    link = Bottleneck(clock, rate=megabits * MBIT, rtt=rtt, queue=queue)
    ours = Ours(clock, link)
    start = seconds / 10
    second: Ours | Tcp
    if other == "ours":
        second = Ours(clock, link, start=start, seed="the second")
    else:
        second = Tcp(clock, link, Cubic(SEGMENT) if other == "cubic" else Reno(SEGMENT), start=start)
    clock.run(seconds)
    return used(ours, link, seconds / 4, seconds), rate(second, seconds / 4, seconds) / link.rate


@pytest.mark.parametrize(("other", "queue"), [("cubic", 1.0), ("cubic", 4.0), ("reno", 4.0)])
def test_others_keep_a_quarter_and_leave_something(other: str, queue: float) -> None:
    ours, theirs = beside(other, 3, 0.08, queue, 14.0)
    assert theirs >= 0.25
    assert ours >= 0.1
    assert ours + theirs >= 0.9


@pytest.mark.parametrize(("megabits", "rtt", "queue"), [(3, 0.08, 1.0), (3, 0.08, 4.0), (10, 0.04, 4.0)])
def test_who_begins_beside_a_full_queue_gets_a_share(megabits: float, rtt: float, queue: float) -> None:
    """Connected while the path was empty, so that the queue is known for one. The other keeps its quarter, too."""
    clock = Clock()
    link = Bottleneck(clock, rate=megabits * MBIT, rtt=rtt, queue=queue)
    theirs = Tcp(clock, link, Cubic(SEGMENT), start=0.5)
    ours = Ours(clock, link, start=4.0, connected=0.0)
    clock.run(20.0)
    assert used(ours, link, 4.0, 20.0) >= 0.25
    assert rate(theirs, 4.0, 20.0) >= 0.25 * link.rate


def test_the_queue_is_empty_again_once_the_other_ends() -> None:
    clock = Clock()
    link = Bottleneck(clock, rate=3 * MBIT, rtt=0.08, queue=4.0)
    Tcp(clock, link, Cubic(SEGMENT), start=0.5, end=12.0)
    ours = Ours(clock, link, start=4.0, connected=0.0)
    clock.run(18.0)
    assert percentile(rtts_between(ours, 10.0, 12.0), 0.5) >= 3 * link.base_rtt
    assert percentile(rtts_between(ours, 15.0, 18.0), 0.95) <= 1.5 * link.base_rtt
    assert used(ours, link, 15.0, 18.0) >= 0.9


@pytest.mark.parametrize("queue", [1.0, 4.0])
def test_two_of_ours_share(queue: float) -> None:
    """The weaker one gets three tenths at least, soon after it began."""
    first, second = beside("ours", 3, 0.08, queue, 10.0)
    assert min(first, second) >= 0.3 * (first + second)
    assert first + second >= 0.9
