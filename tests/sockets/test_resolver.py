"""The resolver thread, with a getaddrinfo of our own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from queue import Queue
from typing import Any

import pytest

from srmudp.models import Address
from srmudp.sockets import resolver as module
from srmudp.sockets.resolver import Agenda, Resolver


class Zone:
    """Names and answers; ``results`` gets what the resolver reports."""

    def __init__(self) -> None:
        self.names: dict[str, list[tuple[Any, ...]]] = {}
        self.peers: dict[str, tuple[tuple[str, int], ...]] = {}
        self.asked: Queue[str] = Queue()
        self.results: Queue[tuple[str, list[Address]]] = Queue()
        self.threads: set[str] = set()
        self.resolver = Resolver(
            lambda peer: self.peers.get(peer, ()), lambda p, h, a: self.results.put((p, a)), self.getaddrinfo
        )

    def getaddrinfo(self, host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        self.threads.add(threading.current_thread().name)
        self.asked.put(host)
        if host not in self.names:
            raise socket.gaierror("unknown")
        return [
            (socket.AF_INET6 if len(sockaddr) > 1 else socket.AF_INET, 0, 0, "", self.full(sockaddr, port))
            for sockaddr in self.names[host]
        ]

    @staticmethod
    def full(sockaddr: tuple[Any, ...], port: int) -> tuple[Any, ...]:
        return (sockaddr[0], port, *sockaddr[1:]) if len(sockaddr) == 3 else (sockaddr[0], port)


@pytest.fixture
def zone() -> Iterator[Zone]:
    zone = Zone()
    yield zone
    assert zone.resolver.stop(5.0)


def test_all_addresses_of_all_hosts_are_reported(zone: Zone) -> None:
    zone.names = {"a": [("192.0.2.1",), ("fe80::1", 0, 3)], "b": [("192.0.2.2",), ("192.0.2.1",)]}
    zone.peers["p"] = (("a", 5), ("b", 5))
    zone.resolver.start()
    zone.resolver.want("p")
    peer, addresses = zone.results.get(timeout=5)
    assert (peer, addresses) == ("p", [Address("192.0.2.1", 5), Address("fe80::1%3", 5), Address("192.0.2.2", 5)])
    assert zone.threads == {"srmudp-resolver"}


def test_the_same_hosts_are_not_asked_for_again_at_once(zone: Zone) -> None:
    zone.names = {"a": [("192.0.2.1",)], "b": [("192.0.2.2",)]}
    zone.peers = {"p": (("a", 5),), "q": (("b", 5),)}
    zone.resolver.start()
    zone.resolver.want("p")
    zone.results.get(timeout=5)
    for _ in range(50):
        zone.resolver.want("p")
    zone.resolver.want("q")
    assert zone.results.get(timeout=5)[0] == "q"
    assert list(zone.asked.queue) == ["a", "b"]


def test_other_hosts_are_asked_for_at_once(zone: Zone) -> None:
    zone.names = {"a": [("192.0.2.1",)], "b": [("192.0.2.2",)]}
    zone.peers["p"] = (("a", 5),)
    zone.resolver.start()
    zone.resolver.want("p")
    zone.results.get(timeout=5)
    zone.peers["p"] = (("a", 5), ("b", 5))
    zone.resolver.want("p")
    assert len(zone.results.get(timeout=5)[1]) == 2


def test_an_unknown_name_is_tried_again(zone: Zone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY_MAX", 0.001)
    zone.peers["p"] = (("a", 5),)
    zone.resolver.start()
    zone.resolver.want("p")
    for _ in range(3):
        assert zone.asked.get(timeout=5) == "a"
    zone.names["a"] = [("192.0.2.1",)]
    assert zone.results.get(timeout=5) == ("p", [Address("192.0.2.1", 5)])


def test_a_removed_peer_is_no_longer_asked_for() -> None:
    peers = {"p": (("a", 5),)}
    agenda = Agenda(lambda peer: peers.get(peer, ()))
    agenda.want("p", 100.0)
    question = agenda.next(100.0)
    assert question is not None
    assert agenda.next(100.0) is None
    question.fail("a", OSError("unknown"))
    agenda.finish(question, 100.0)
    assert agenda.wait(100.0) == 1.0, "to be tried again"
    del peers["p"]
    assert agenda.next(101.0) is None
    assert agenda.wait(101.0) is None
    assert not agenda._last


def test_the_same_names_are_not_asked_for_again_so_soon_and_others_at_once() -> None:
    peers = {"p": (("a", 5),)}
    agenda = Agenda(lambda peer: peers[peer])
    agenda.want("p", 0.0)
    question = agenda.next(0.0)
    assert question is not None
    question.answer([(socket.AF_INET, 0, 0, "", ("192.0.2.1", 5))])
    agenda.finish(question, 0.0)
    assert agenda.wait(0.0) is None
    agenda.want("p", 1.0)
    assert agenda.wait(1.0) == 4.0
    peers["p"] = (("b", 5),)
    agenda.want("p", 2.0)
    assert agenda.wait(2.0) == 0.0


def test_a_fault_does_not_end_the_thread(zone: Zone, caplog: pytest.LogCaptureFixture) -> None:
    zone.peers = {"p": (("a", 5),), "q": (("b", 5),)}
    zone.names = {"a": [(None, "nonsense", "", "")], "b": [("192.0.2.2",)]}
    zone.full = lambda sockaddr, port: None if sockaddr[0] is None else ("192.0.2.2", port)  # type: ignore[assignment,method-assign,return-value]
    zone.resolver.start()
    zone.resolver.want("p")
    zone.resolver.want("q")
    assert zone.results.get(timeout=5)[0] == "q"


def test_stopping_before_starting(zone: Zone) -> None:
    assert zone.resolver.stop(0)
    zone.resolver.start()
    assert zone.resolver._thread is None
