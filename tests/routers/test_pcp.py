"""PCP and NAT-PMP with a router made up, on the loopback interface."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from srmudp.models import Address
from srmudp.routers.asking import LIFETIME, RouterError
from srmudp.routers.gateway import _COMMANDS, gateway_in, gateway_of_linux
from srmudp.routers.pcp import PcpRouter, find_pcp
from tests.routers.fakes import FakeRouter

HERE = "127.0.0.1"


@contextlib.contextmanager
def found(**how: Any) -> Iterator[tuple[FakeRouter, PcpRouter]]:
    fake = FakeRouter(**how)
    try:
        router = find_pcp(gateway=fake.address)
        try:
            yield fake, router
        finally:
            router.close(1.0)
    finally:
        fake.close()


@pytest.mark.parametrize(("speaks", "protocol"), [("pcp", "PCP"), ("both", "PCP"), ("natpmp", "NAT-PMP")])
def test_a_mapping_is_made_renewed_and_taken_back(speaks: str, protocol: str) -> None:
    with found(speaks=speaks) as (fake, router):
        assert router.protocol == protocol
        assert fake.mappings == {}, "finding out changes nothing"
        fake.taken = {5000}
        grant = router.map(5000, None)
        assert grant == (Address("198.51.100.7", 5001), LIFETIME)
        assert fake.mappings == {5001: (HERE, 5000, LIFETIME)}
        assert router.map(5000, grant.address).address == grant.address
        router.unmap()
        assert fake.mappings == {}
        router.map(5000, None)
    assert fake.mappings == {}, "closing takes it back"


def test_the_lifetime_is_never_longer_than_asked_for() -> None:
    def forever(answer: bytes) -> bytes:
        return answer[:4] + b"\xff" * 4 + answer[8:] if len(answer) == 60 else answer

    with found(speaks="pcp", spoil=forever) as (_, router):
        assert router.map(5000, None).lifetime == LIFETIME
    fake = FakeRouter()
    fake.lifetime = 60
    router = find_pcp(gateway=fake.address)
    assert router.map(5000, None).lifetime == 60
    router.abandon()
    fake.close()


@pytest.mark.parametrize("speaks", ["pcp", "natpmp"])
def test_a_refusal_says_why(speaks: str) -> None:
    with found(speaks=speaks) as (fake, router):
        fake.refuse = 2
        with pytest.raises(RouterError, match="the router refuses: not authorised"):
            router.map(5000, None)


@pytest.mark.parametrize("outside", ["0.0.0.0", "224.0.0.1", "127.0.0.1", "169.254.1.1", "255.255.255.255"])
def test_an_address_that_cannot_be_is_not_believed(outside: str) -> None:
    with found(outside=outside) as (_, router), pytest.raises(RouterError, match="outside address"):
        router.map(5000, None)


def test_answers_of_others_and_to_other_questions_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PcpRouter, "patience", 0.3)
    for position, byte in ((0, 1), (1, 1), (24, 0), (36, 6)):  # version, a request, nonce, TCP

        def spoilt(answer: bytes, position: int = position, byte: int = byte) -> bytes:
            return answer[:position] + bytes([byte ^ 0xFF]) + answer[position + 1 :] if len(answer) == 60 else answer

        fake = FakeRouter(speaks="pcp", spoil=spoilt)
        router = find_pcp(gateway=fake.address)
        with pytest.raises(RouterError, match="did not answer"):
            router.map(5000, None)
        router.abandon()
        fake.close()


def test_one_that_is_silent_or_floods_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PcpRouter, "patience", 0.3)
    for speaks, spoil in (("none", bytes), ("both", lambda answer: b"\xff" * 2000)):
        fake = FakeRouter(speaks=speaks, spoil=spoil)
        began = time.monotonic()
        with pytest.raises(RouterError, match="speaks neither"):
            find_pcp(gateway=fake.address)
        assert time.monotonic() - began < 2
        assert len(fake.requests) >= 2
        fake.close()


def test_where_nobody_listens_that_is_said_at_once() -> None:
    fake = FakeRouter()
    fake.close()
    with pytest.raises(RouterError, match="speaks neither PCP nor NAT-PMP"):
        find_pcp(gateway=fake.address)


def test_who_gives_up_does_not_wait() -> None:
    fake = FakeRouter(speaks="none")
    began = time.monotonic()
    with pytest.raises(RouterError):
        find_pcp(lambda: True, fake.address)
    assert time.monotonic() - began < 1
    fake.close()


def test_the_default_router_of_each_system() -> None:
    linux = """Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth1	00000000	0201A8C0	0003	0	0	600	00000000	0	0	0
eth0	00000000	0101A8C0	0003	0	0	100	00000000	0	0	0
eth0	0001A8C0	00000000	0001	0	0	100	00FFFFFF	0	0	0
tun0	00000000	00000000	0001	0	0	50	00000000	0	0	0
nonsense
"""
    assert gateway_of_linux(linux) == "192.168.1.1"
    assert gateway_of_linux("") is None
    mac = "   route to: default\n    gateway: 192.168.1.1\n  interface: en0\n"
    assert gateway_in(mac, _COMMANDS["darwin"][1]) == "192.168.1.1"
    windows = "  Ziel  Maske\n          0.0.0.0          0.0.0.0      192.168.1.1     192.168.1.7     25\n"
    assert gateway_in(windows, _COMMANDS["win32"][1]) == "192.168.1.1"
    for _, pattern in _COMMANDS.values():
        assert gateway_in("gateway: 1.2.3\n0.0.0.0 0.0.0.0 9.9.9.999 x", pattern) is None
    assert gateway_in("x", re.compile("y(.)")) is None
