"""Attack 37 at the edge: which addresses are punched at all, given by the user or by a name server."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import pytest

from srmudp import MultiHolepunchSocket
from srmudp.models import Address
from srmudp.sockets.addresses import MAX_ADDRESSES, is_nobody, parse_target
from srmudp.sockets.resolver import Question
from tests.real.helpers import alive, join, reach

NOBODY = (
    "0.0.0.0",
    "255.255.255.255",
    "224.0.0.1",
    "239.255.255.250",
    "::",
    "ff02::1",
    "ff0e::1234",
    "::ffff:0.0.0.0",
    "::ffff:224.0.0.251",
    "::ffff:255.255.255.255",
)
"""Addresses that no single host has."""


@pytest.mark.parametrize("host", NOBODY)
def test_attack_37_addresses_of_nobody_are_refused(host: str) -> None:
    """Attack 37: unspecified, broadcast and multicast addresses cannot be added, in any spelling."""
    assert is_nobody(ipaddress.ip_address(host))
    text = f"[{host}]:53" if ":" in host else f"{host}:53"
    for spec in (text, (host, 53), [("192.0.2.1", 5), (host, 53)]):
        with pytest.raises(ValueError, match="no single host"):
            parse_target("victim", spec)


def test_attack_37_somebodys_addresses_are_not_refused() -> None:
    """Attack 37: what a user may well mean is left alone: private, link-local and loopback addresses, any port."""
    for host in ("127.0.0.1", "10.0.0.255", "169.254.3.4", "::1", "fe80::1", "fd00::1", "::ffff:192.0.2.1"):
        assert not is_nobody(ipaddress.ip_address(host))
        assert parse_target("friend", (host, 53)).addresses


def test_attack_37_at_most_so_many_addresses() -> None:
    """Attack 37: a peer has MAX_ADDRESSES at most; a thousand are refused as a whole."""
    many = [(f"198.51.{n >> 8}.{n & 255}", 5000) for n in range(1000)]
    with pytest.raises(ValueError, match="more than"):
        parse_target("peer", many)
    assert len(parse_target("peer", many[:MAX_ADDRESSES]).addresses) == MAX_ADDRESSES


def resolved(answers: list[tuple[Any, ...]]) -> list[Address]:
    """What a resolver makes of the answer to one name."""
    question = Question("p", (("example.com", 53),))
    question.answer(answers)
    return question.addresses


def answer(host: str) -> tuple[Any, ...]:
    """An entry as getaddrinfo gives it."""
    if ":" in host:
        return socket.AF_INET6, socket.SOCK_DGRAM, 17, "", (host, 53, 0, 0)
    return socket.AF_INET, socket.SOCK_DGRAM, 17, "", (host, 53)


def test_attack_37_a_name_with_a_thousand_addresses() -> None:
    """Attack 37: few of them are used."""
    found = resolved([answer(f"198.51.{n >> 8}.{n & 255}") for n in range(1000)])
    assert 1 <= len(found) <= 8


def test_attack_37_a_name_with_addresses_of_nobody() -> None:
    """Attack 37: a name server cannot have us punch what the user may not add."""
    assert resolved([answer(host) for host in NOBODY[:8]]) == []
    assert resolved([answer("224.0.0.1"), answer("192.0.2.7"), answer("::")]) == [Address("192.0.2.7", 53)]


def test_attack_37_a_broadcast_address_of_a_network_is_harmless() -> None:
    """Attack 37: that an address is some network's broadcast is not to be seen; the system refuses to send there."""
    with MultiHolepunchSocket(host="127.0.0.1") as a, MultiHolepunchSocket(host="127.0.0.1") as b:
        a.add_peer("everyone", ("127.255.255.255", b.port))
        join(a, b)
        reach(lambda: any(reason.startswith("transport_") for reason in a.drops), lambda: dict(a.drops))
        alive(a, b)
        assert not a.connections_status["everyone"].established
        assert a.drops.get("internal_error", 0) == 0
