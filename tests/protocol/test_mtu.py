"""The search for the largest datagram, and the recognition of black holes, by themselves."""

from __future__ import annotations

import pytest

from srmudp.config import MIN_MTU
from srmudp.protocol.mtu import (
    BASE,
    BLACK_HOLE_LOSSES,
    BLACK_HOLE_ROUNDS,
    LADDER,
    MAX_PROBES,
    RAISE_INTERVAL,
    MtuDiscovery,
)

LARGE, SMALL = 1472, 100


def found(size: int, limit: int = 65_507) -> MtuDiscovery:
    """A search that has come to ``size`` and whose next probes were lost."""
    discovery = MtuDiscovery(BASE, limit, 0.0)
    while (probe := discovery.probe_due(0.0)) is not None:
        discovery.on_probe_sent()
        if probe <= size:
            assert discovery.on_probe_acked(probe) is True
        else:
            discovery.on_probe_lost(0.0)
    assert discovery.mtu == size
    return discovery


def rounds(discovery: MtuDiscovery, count: int, start: float = 10.0, lost: int = 4, size: int = LARGE) -> bool:
    """``count`` times: some large ones are lost, then a small one arrives. Whether the size fell."""
    fell = False
    for number in range(count):
        left = start + number
        discovery.on_acked(SMALL, left + 0.5)
        for _ in range(lost):
            fell = discovery.on_lost(size, 1, left, left + 0.6) or fell
    return fell


@pytest.mark.parametrize("size", LADDER)
def test_climbs_to_what_the_path_carries(size: int) -> None:
    assert found(size).mtu == size


def test_never_above_the_limit() -> None:
    assert found(1472, 1472).probe_due(1e6) is None


def test_a_size_is_given_up_after_some_lost_probes_and_tried_again_later() -> None:
    discovery = MtuDiscovery(BASE, 1452, 0.0)
    for _ in range(MAX_PROBES):
        assert discovery.probe_due(1.0) == 1452
        discovery.on_probe_sent()
        assert discovery.probe_due(1.0) is None, "one at a time"
        discovery.on_probe_lost(1.0)
    assert discovery.probe_due(RAISE_INTERVAL) is None
    assert discovery.next_timer() == 1.0 + RAISE_INTERVAL
    assert discovery.probe_due(1.0 + RAISE_INTERVAL) == 1452


def test_attack_53_large_ones_lost_while_small_ones_arrive_make_a_black_hole() -> None:
    """Attack 53: first to the base, then to the floor, and no further."""
    discovery = found(LARGE)
    assert rounds(discovery, BLACK_HOLE_ROUNDS - 1) is False
    assert rounds(discovery, 1, 20.0) is True
    assert discovery.mtu == BASE
    assert rounds(discovery, 50, 30.0) is False, "what is longer than that left before"
    assert rounds(discovery, BLACK_HOLE_ROUNDS, 90.0, size=BASE) is True
    assert discovery.mtu == MIN_MTU
    assert rounds(discovery, 50, 100.0, size=MIN_MTU) is False
    assert discovery.mtu == MIN_MTU


def test_attack_53_few_losses_are_no_black_hole() -> None:
    """Attack 53: as many times as it takes, but too few."""
    assert rounds(found(LARGE), BLACK_HOLE_LOSSES - 1, lost=1) is False


def test_attack_53_an_outage_is_no_black_hole() -> None:
    """Attack 53: a thousand lost, small ones before and after; large ones have not had a chance since."""
    discovery = found(LARGE)
    discovery.on_acked(SMALL, 9.0)
    for number in range(1000):
        assert discovery.on_lost(LARGE, 1, 10.0 + number / 1000, 12.0) is False
    discovery.on_acked(SMALL, 12.0)
    for number in range(1000):
        assert discovery.on_lost(LARGE, 1, 11.0 + number / 1000, 12.1) is False
    assert discovery.mtu == LARGE


def test_attack_53_one_large_one_that_arrives_takes_it_all_back() -> None:
    """Attack 53: however many were lost before it."""
    discovery = found(LARGE)
    for turn in range(20):
        assert rounds(discovery, BLACK_HOLE_ROUNDS - 1, 10.0 + 10 * turn, lost=50) is False
        discovery.on_acked(LARGE, 15.0 + 10 * turn)
    assert discovery.mtu == LARGE


def test_after_a_black_hole_the_search_begins_again_soon() -> None:
    discovery = found(LARGE)
    rounds(discovery, BLACK_HOLE_ROUNDS)
    assert discovery.probe_due(15.0) is None
    when = discovery.next_timer()
    assert when is not None
    assert when == pytest.approx(12.6 + RAISE_INTERVAL / 10)
    assert discovery.probe_due(when) == 1452
