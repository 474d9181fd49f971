"""What keeps one port mapped: in which order, how long, and what it says when it cannot. Routers without a network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from srmudp.exceptions import PortMappingFailed
from srmudp.models import Address, MappedPort
from srmudp.routers import keeper as module
from srmudp.routers.asking import Find, RouterError
from srmudp.routers.keeper import Keeper, which_answer
from tests.routers.fakes import Made, silent, until

OUTSIDE = Address("198.51.100.7", 5000)


class Told:
    """The socket that owns a keeper: what it was told."""

    def __init__(self) -> None:
        self.news: list[MappedPort | None] = []
        self.probes: list[bytes] = []
        self.hairpin = False

    def on_mapped(self, mapped: MappedPort | None) -> None:
        self.news.append(mapped)

    def expect_probe(self, transaction_id: bytes) -> None:
        self.probes.append(transaction_id)

    def probe_arrived(self, transaction_id: bytes) -> bool:
        return self.hairpin


@pytest.fixture(autouse=True)
def _no_datagram(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes end at once, and go nowhere."""
    monkeypatch.setattr(module, "_PROBES", ())
    monkeypatch.setattr(module, "_PROBE_WAIT", 0.01)


@pytest.fixture
def keep() -> Iterator[Callable[..., tuple[Keeper, Told]]]:
    keepers = []

    def start(*ways: tuple[str, Find]) -> tuple[Keeper, Told]:
        told = Told()
        keepers.append(Keeper(5000, told, ways))
        keepers[-1].start()
        return keepers[-1], told

    yield start
    for keeper in keepers:
        keeper.stop(5.0)
        assert not keeper.is_working


Keep = Callable[..., tuple[Keeper, Told]]


def test_the_first_protocol_that_works_is_taken(keep: Keep) -> None:
    refusing, good, never = Made("no"), Made(OUTSIDE, protocol="UPnP"), Made(OUTSIDE)
    keeper, told = keep(("A", silent), ("B", refusing.find), ("C", good.find), ("D", never.find))
    mapped = keeper.first.result(5)
    assert mapped == MappedPort(OUTSIDE, "UPnP", "192.168.1.1", False)
    assert told.news == [mapped]
    assert (refusing.closed, never.found) == (1, 0)
    keeper.stop(5.0)
    assert good.closed == 1
    assert not keeper.is_alive


def test_a_probe_that_comes_in_proves_it(keep: Keep) -> None:
    told = Told()
    told.hairpin = True
    keeper = Keeper(5000, told, [("A", Made(OUTSIDE).find)])
    keeper.start()
    assert keeper.first.result(5).verified
    assert [len(probe) for probe in told.probes] == [12]
    keeper.stop(5.0)


def test_where_nobody_does_it_every_reason_is_told(keep: Keep) -> None:
    keeper, told = keep(("PCP or NAT-PMP", silent), ("UPnP", Made("conflict").find))
    with pytest.raises(PortMappingFailed, match="PCP or NAT-PMP: nobody answers; UPnP: conflict"):
        keeper.first.result(5)
    assert told.news == []
    until(lambda: not keeper.is_alive)


@pytest.mark.parametrize("host", ["10.1.2.3", "100.64.1.2", "192.168.0.7"])
def test_a_router_behind_another_nat_is_of_no_use(keep: Keep, host: str) -> None:
    router = Made(Address(host, 5000))
    keeper, told = keep(("A", router.find))
    with pytest.raises(PortMappingFailed, match="another NAT"):
        keeper.first.result(5)
    assert (told.news, router.closed) == ([], 1)


def test_it_is_renewed_at_half_its_life_and_its_changes_are_told(keep: Keep) -> None:
    moved = Address("198.51.100.9", 5001)
    router = Made(OUTSIDE, OUTSIDE, moved, lifetime=0.04)
    _, told = keep(("A", router.find))
    until(lambda: len(router.orders) >= 6)
    assert router.orders[:4] == [None, OUTSIDE, OUTSIDE, moved], "the same port is wished for again"
    assert [one and one.address for one in told.news] == [OUTSIDE, moved]
    assert router.found == 1


def test_a_router_that_is_replaced_is_followed(keep: Keep) -> None:
    before, after = Made(OUTSIDE, "gone", lifetime=0.04), Made(OUTSIDE, protocol="UPnP")
    _, told = keep(("A", before.find), ("B", after.find))
    until(lambda: len(told.news) == 2)
    assert [one and one.protocol for one in told.news] == ["PCP", "UPnP"]


def test_a_mapping_that_is_lost_is_told_and_looked_for_again(keep: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY", 0.01)
    router = Made(OUTSIDE, "gone", "gone", "gone", "gone", OUTSIDE, lifetime=0.001)
    router.find = lambda given_up: router  # type: ignore[method-assign]
    _, told = keep(("A", router.find))
    until(lambda: len(told.news) >= 3)
    first = [one and one.address for one in told.news[:3]]
    assert first == [OUTSIDE, None, OUTSIDE]


def test_on_another_network_another_router_is_asked(keep: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK", 0.001)
    here = ["192.168.1.2"]
    monkeypatch.setattr(module, "own_address", lambda: here[0])
    router = Made(OUTSIDE)
    keeper, _ = keep(("A", router.find))
    keeper.first.result(5)
    here[0] = "10.0.0.7"
    until(lambda: router.found == 2)
    assert router.closed == 1
    assert len(router.orders) <= 2


def test_after_a_sleep_it_is_renewed(keep: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK", 0.001)
    clock = [0.0]
    monkeypatch.setattr(module, "time", lambda: clock[0])
    router = Made(OUTSIDE)
    keeper, told = keep(("A", router.find))
    keeper.first.result(5)
    clock[0] = 501.0
    until(lambda: len(router.orders) == 2)
    assert len(told.news) == 1


def test_stopping_does_not_wait_for_a_router_that_hangs(keep: Keep) -> None:
    def hanging(given_up: Callable[[], bool]) -> Made:
        while not given_up():
            time.sleep(0.001)
        raise RouterError("given up")

    keeper, told = keep(("A", hanging))
    keeper.stop(5.0)
    with pytest.raises(PortMappingFailed):
        keeper.first.result(0)
    assert told.news == []


def test_which_protocols_answer() -> None:
    """And nothing is mapped for that."""
    router = Made(OUTSIDE, protocol="NAT-PMP")
    found = which_answer([("PCP or NAT-PMP", router.find), ("UPnP", silent)])
    assert found == {"NAT-PMP": "", "UPnP": "nobody answers"}
    assert (router.orders, router.closed) == ([], 1)
