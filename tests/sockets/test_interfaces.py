"""What addresses this machine has, by the kernel and by other means, and what sockets make of it."""

from __future__ import annotations

import asyncio
import socket
import struct
from ipaddress import ip_address
from typing import Any

import pytest

import srmudp
import srmudp.aio
from srmudp.models import Address, Candidate, CandidateKind
from srmudp.sockets import interfaces
from srmudp.sockets.interfaces import host_addresses

EVERYWHERE = Address("0.0.0.0", 7000)


def have(monkeypatch: pytest.MonkeyPatch, *texts: str) -> None:
    monkeypatch.setattr(interfaces, "_all_addresses", lambda by_name: [ip_address(text) for text in texts])


def hosts(bound: Address = EVERYWHERE, fileno: int = -1) -> list[str]:
    found = host_addresses(bound, fileno)
    assert all(address.port == bound.port for address in found)
    return [address.host for address in found]


def test_loopback_and_link_local_are_left_out_where_there_is_more(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, "127.0.0.1", "192.168.1.5", "::1", "2001:db8::5", "fe80::5", "169.254.3.4", "192.168.1.5")
    assert hosts() == ["192.168.1.5", "2001:db8::5"]
    assert hosts(Address("::", 7000)) == ["2001:db8::5"]
    have(monkeypatch, "127.0.0.1", "::1", "fe80::5")
    assert hosts() == ["127.0.0.1", "::1"]
    have(monkeypatch)
    assert hosts() == []


def test_who_is_bound_to_one_address_has_that(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, "192.168.1.5", "192.168.2.5")
    assert hosts(Address("192.168.2.5", 7000)) == ["192.168.2.5"]
    assert hosts(Address("127.0.0.1", 7000)) == ["127.0.0.1"]


def test_a_socket_of_one_family_has_addresses_of_that(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, "192.168.1.5", "2001:db8::5")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert hosts(EVERYWHERE, sock.fileno()) == ["192.168.1.5"]
        assert sock.fileno() >= 0
        sock.getsockname()  # it was looked at, not closed


def test_there_are_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, *(f"10.0.0.{n}" for n in range(1, 100)))
    assert len(hosts()) == interfaces.MAX_HOSTS


@pytest.mark.skipif(not hasattr(socket, "AF_NETLINK"), reason="no rtnetlink here")
def test_the_kernel_and_the_routes_agree() -> None:
    """Each way finds what the other one does, where there is any network."""
    by_kernel = interfaces._from_kernel()
    assert ip_address("127.0.0.1") in by_kernel
    assert set(interfaces._from_routes()) & set(by_kernel) or len(by_kernel) <= 2


def test_without_netlink_the_routes_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise PermissionError("not in this sandbox")

    monkeypatch.setattr(interfaces, "_from_kernel", refuse)
    monkeypatch.setattr(interfaces, "_from_routes", lambda by_name: [ip_address("192.168.1.5")])
    assert hosts() == ["192.168.1.5"]


def test_no_network_and_no_name_give_no_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unrouted(socket.socket):
        def connect(self, address: object) -> None:
            raise OSError("no route")

    def unknown(*arguments: Any, **options: Any) -> None:
        raise OSError("a name nobody knows")

    monkeypatch.setattr(interfaces.socket, "socket", Unrouted)
    monkeypatch.setattr(interfaces.socket, "getaddrinfo", unknown)
    assert interfaces._from_routes() == []


def address_message(family: int, flags: int, *attributes: tuple[int, bytes]) -> bytes:
    body = struct.pack("=BBBBi", family, 24, flags, 0, 2)
    for kind, value in attributes:
        body += struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
    return body


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (address_message(2, 0x80, (1, bytes((10, 0, 0, 9))), (2, bytes((10, 0, 0, 5)))), ["10.0.0.5"]),
        (address_message(2, 0x80, (1, bytes((10, 0, 0, 9)))), ["10.0.0.9"]),
        (address_message(10, 0, (1, ip_address("2001:db8::1").packed)), ["2001:db8::1"]),
        (address_message(10, 0x20, (1, ip_address("2001:db8::1").packed)), []),  # deprecated
        (address_message(10, 0x40, (1, ip_address("2001:db8::1").packed)), []),  # tentative
        (address_message(2, 0, (3, b"eth0\0")), []),
        (address_message(2, 0, (2, b"\x0a\x00\x00")), []),
        (address_message(2, 0) + b"\x00\x00\x02\x00", []),
        (address_message(2, 0) + b"\x0a", []),
    ],
)
def test_messages_of_the_kernel(message: bytes, expected: list[str]) -> None:
    if not hasattr(socket, "AF_INET6") or socket.AF_INET6 != 10:
        pytest.skip("numbers of Linux")
    assert [str(ip) for _, ip in interfaces._address_in(message)] == expected


def test_what_sockets_say_of_themselves() -> None:
    """Both kinds: the addresses of the machine with the port of the socket."""
    with srmudp.MultiHolepunchSocket() as sock:
        assert all(isinstance(one, Candidate) and one.kind is CandidateKind.HOST for one in sock.candidates)
        assert {one.address for one in sock.candidates} == set(host_addresses(Address("0.0.0.0", sock.port)))
    with srmudp.MultiHolepunchSocket(host="127.0.0.1") as sock:
        assert sock.candidates == (Candidate(CandidateKind.HOST, Address("127.0.0.1", sock.port)),)

    async def main() -> None:
        async with srmudp.aio.MultiHolepunchSocket(host="127.0.0.1") as sock:
            assert sock.candidates == (Candidate(CandidateKind.HOST, Address("127.0.0.1", sock.port)),)

    asyncio.run(main())
