"""What samples say of a NAT, and how that changes with time."""

from __future__ import annotations

import pytest

from srmudp.models import Address, NatBehaviour, NatTraits
from srmudp.nat.behaviour import LIFETIME, MAX_SAMPLES, TOGETHER, FilterSample, NatSamples, Sample, is_local

INDEPENDENT = NatBehaviour.ENDPOINT_INDEPENDENT
DEPENDENT = NatBehaviour.ADDRESS_DEPENDENT
BOTH = NatBehaviour.ADDRESS_AND_PORT_DEPENDENT
UNKNOWN = NatBehaviour.UNKNOWN

LOCAL = Address("192.168.1.2", 5000)
A1, A2 = Address("198.51.100.1", 3478), Address("198.51.100.1", 3479)
B1, C1 = Address("198.51.100.2", 3478), Address("198.51.100.3", 3478)


def outside(port: int, host: str = "203.0.113.5") -> Address:
    return Address(host, port)


def known(*seen: tuple[Address, int, float]) -> NatSamples:
    """Samples of server, port it saw, time."""
    samples = NatSamples()
    for server, port, at in seen:
        samples.add(Sample(LOCAL, server, outside(port), at))
    return samples


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        ([], UNKNOWN),
        ([(A1, 1, 0)], UNKNOWN),
        ([(A1, 1, 0), (A2, 1, 0)], UNKNOWN),  # of another host nothing is known
        ([(A1, 1, 0), (A2, 2, 0)], BOTH),
        ([(A1, 1, 0), (B1, 1, 0)], INDEPENDENT),
        ([(A1, 1, 0), (A2, 1, 0), (B1, 1, 0)], INDEPENDENT),
        ([(A1, 1, 0), (A2, 1, 0), (B1, 2, 0)], DEPENDENT),
        ([(A1, 1, 0), (B1, 2, 0)], BOTH),  # whether ports matter nobody can tell: the worse
        ([(A1, 1, 0), (A2, 2, 0), (B1, 3, 0)], BOTH),
        ([(A1, 1, 0), (B1, 1, 0), (C1, 2, 0)], BOTH),
    ],
)
def test_mapping(seen: list[tuple[Address, int, float]], verdict: NatBehaviour) -> None:
    assert known(*seen).mapping(1.0) is verdict
    assert known(*seen[::-1]).mapping(1.0) is verdict


def test_a_router_that_restarted_is_not_symmetric() -> None:
    samples = known((A1, 1, 0.0), (B1, 1, 0.1))
    later = TOGETHER + 1
    samples.add(Sample(LOCAL, A1, outside(2), later))
    assert samples.mapping(later) is UNKNOWN  # nothing seen at the same time
    samples.add(Sample(LOCAL, B1, outside(2), later + 0.1))
    assert samples.mapping(later + 0.1) is INDEPENDENT


def test_what_agrees_counts_however_old() -> None:
    assert known((A1, 1, 0.0), (B1, 1, LIFETIME - 1)).mapping(LIFETIME - 1) is INDEPENDENT


def test_verdicts_change_with_the_network() -> None:
    samples = known((A1, 1, 0.0), (B1, 1, 0.0))
    samples.add(Sample(LOCAL, A1, outside(7), 60.0))
    samples.add(Sample(LOCAL, B1, outside(8), 60.0))
    assert samples.mapping(60.0) is BOTH
    elsewhere = Address("10.1.2.3", 5000)
    samples.add(Sample(elsewhere, A1, outside(9), 61.0))  # another interface: another NAT
    assert samples.mapping(61.0) is UNKNOWN
    samples.add(Sample(elsewhere, B1, outside(9), 61.0))
    assert samples.mapping(61.0) is INDEPENDENT
    assert samples.mapping(61.0 + LIFETIME) is INDEPENDENT
    assert samples.mapping(61.1 + LIFETIME) is UNKNOWN


@pytest.mark.parametrize(
    ("ports", "step"),
    [
        ([], None),
        ([40_000], None),
        ([40_000, 40_001], 1),
        ([40_001, 40_000], -1),
        ([40_000, 40_004, 40_010], 2),  # somebody else's flows took the ports in between
        ([40_000, 40_001, 40_000], None),
        ([40_000, 40_000], None),
        ([40_000, 51_234], None),
        ([40_000, 40_001, 51_234], None),
    ],
)
def test_step_of_ports(ports: list[int], step: int | None) -> None:
    samples = NatSamples()
    # Asked in this order; the answers come the other way round.
    for order, port in reversed(list(enumerate(ports))):
        samples.add(Sample(LOCAL, Address(f"198.51.100.{order}", 3478), outside(port), 1.0 - order / 10, order))
    assert samples.ports(1.0) == (step, ports[-1] if ports else None)
    assert samples.ports(1.0, 6) == (None, None)


def test_ports_of_two_addresses_have_no_step() -> None:
    samples = NatSamples()
    samples.add(Sample(LOCAL, A1, outside(40_000), 0.0, 1))
    samples.add(Sample(LOCAL, B1, outside(40_001, "203.0.113.6"), 0.0, 2))
    assert samples.ports(0.0) == (None, 40_001)


@pytest.mark.parametrize("traits", [{"port_step": 0}, {"port_step": 17}, {"last_port": 0}, {"last_port": 65_536}])
def test_traits_are_checked(traits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        NatTraits(BOTH, BOTH, **traits)


def test_traits_that_can_be_predicted() -> None:
    assert NatTraits(BOTH, BOTH, 1, 40_000).predictable
    assert not NatTraits(BOTH, BOTH, None, 40_000).predictable
    easy = NatTraits(INDEPENDENT, BOTH, None, 40_000)
    assert not easy.predictable
    assert not easy.hard


def test_families_are_judged_apart() -> None:
    samples = known((A1, 1, 0), (B1, 2, 0))
    six = Address("2001:db8:1::5", 5000)
    for server in ("2001:db8::1", "2001:db8::2"):
        samples.add(Sample(six, Address(server, 3478), six, 0))
    assert samples.mapping(0) is BOTH
    assert samples.mapping(0, 6) is INDEPENDENT
    assert samples.translated(0) is True
    assert samples.translated(0, 6) is False


def test_without_a_nat_one_server_is_enough() -> None:
    samples = NatSamples()
    samples.add(Sample(outside(5), A1, outside(5), 0))
    assert samples.mapping(0) is INDEPENDENT
    assert samples.translated(0) is False


def test_a_server_on_the_lan_says_little() -> None:
    samples = NatSamples()
    samples.add(Sample(LOCAL, Address("192.168.1.9", 3478), LOCAL, 0))
    assert samples.mapping(0) is UNKNOWN
    assert samples.translated(0) is False
    samples.add(Sample(LOCAL, A1, outside(1), 0))
    samples.add(Sample(LOCAL, Address("192.168.1.9", 3478), LOCAL, 1))
    assert samples.translated(1) is True
    assert NatSamples().translated(0) is None


def test_peers_count_where_servers_do_not_tell() -> None:
    peers = [Sample(None, Address("198.51.100.77", 9), outside(1), 0.0), Sample(None, LOCAL, LOCAL, 0.0)]
    assert known((A1, 1, 0.0)).mapping(0.0, more=peers) is INDEPENDENT
    assert known((A1, 2, 0.0), (B1, 2, 0.0)).mapping(0.0, more=peers) is INDEPENDENT  # whatever the peer says
    assert NatSamples().mapping(0.0, more=peers) is UNKNOWN


@pytest.mark.parametrize(
    ("tests", "verdict"),
    [
        ([], UNKNOWN),
        ([(True, True)], INDEPENDENT),
        ([(True, True), (False, False)], INDEPENDENT),  # an answer got in: what was lost counts less
        ([(True, False)], UNKNOWN),
        ([(False, True)], UNKNOWN),
        ([(True, False), (False, True)], DEPENDENT),
        ([(True, False), (False, False)], BOTH),
        ([(True, True), (True, False), (False, False)], BOTH),  # the newest counts
    ],
)
def test_filtering(tests: list[tuple[bool, bool]], verdict: NatBehaviour) -> None:
    samples = NatSamples()
    for other_host, arrived in tests:
        samples.add_filtering(FilterSample(other_host, arrived, 5.0))
    assert samples.filtering(5.0) is verdict
    assert samples.filtering(5.1 + LIFETIME) is UNKNOWN


def test_samples_are_bounded() -> None:
    samples = NatSamples()
    for number in range(10 * MAX_SAMPLES):
        samples.add(Sample(LOCAL, Address("198.51.100.1", 1 + number), outside(1), float(number) / 100))
    assert len(samples.recent(4.0)) == MAX_SAMPLES


@pytest.mark.parametrize(
    ("host", "local"),
    [
        *(("10.9.9.9", True), ("172.31.0.1", True), ("192.168.0.1", True), ("100.64.0.1", True), ("127.0.0.1", True)),
        *(("169.254.1.1", True), ("fe80::1%3", True), ("fd00::1", True), ("::1", True)),
        *(("172.32.0.1", False), ("100.128.0.1", False), ("203.0.113.1", False), ("2001:db8::1", False)),
    ],
)
def test_local_addresses(host: str, local: bool) -> None:
    assert is_local(Address(host, 1)) is local
