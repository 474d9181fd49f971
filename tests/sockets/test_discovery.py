"""Asking STUN servers: who is asked, on which way, for how long, and what is said when nobody answers. On loopback."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from srmudp.config import STUN_SERVERS
from srmudp.exceptions import DiscoveryFailed, SocketClosed
from srmudp.models import Address, NatBehaviour
from srmudp.sockets.discovery import MAX_SERVERS, parse_servers, way_to
from srmudp.sockets.multi import MultiHolepunchSocket
from srmudp.wire.stun import StunClass, StunMessage, parse_stun
from tests.shells import both_shells

Make = Callable[..., MultiHolepunchSocket]

HERE = "127.0.0.1"
LIE, NOBODY = Address("192.0.2.66", 6), Address("0.0.0.0", 6)


@pytest.fixture
def silence() -> Iterator[int]:
    """A port where nobody answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind((HERE, 0))
        yield deaf.getsockname()[1]


class Names:
    """A name server: what ``getaddrinfo`` says, and what it was asked."""

    def __init__(self) -> None:
        self._real = socket.getaddrinfo
        self.known: dict[str, list[str]] = {}
        self.asked: list[tuple[str, int]] = []
        self.hold: threading.Event | None = None

    def __call__(self, host: str, port: int, *args: Any, **options: Any) -> list[tuple[Any, ...]]:
        if host == HERE:
            return list(self._real(host, port, *args, **options))
        self.asked.append((host, port))
        if host not in self.known:
            raise socket.gaierror(-2, "Name or service not known")
        if self.hold is not None:
            self.hold.wait(10)
        answers = []
        for text in self.known[host]:
            family = socket.AF_INET6 if ":" in text else socket.AF_INET
            answers.append((family, socket.SOCK_DGRAM, 17, "", (text, port, 0, 0) if ":" in text else (text, port)))
        return answers


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    made = Names()
    monkeypatch.setattr(socket, "getaddrinfo", made)
    return made


@both_shells
def test_two_servers_tell_the_same(make: Make) -> None:
    one, two, sock = make(serve_stun=True), make(serve_stun=True), make()
    before = time.monotonic()
    found = sock.discover([(HERE, one.port), f"{HERE}:{two.port}"])
    assert time.monotonic() - before < 0.9
    assert found.ipv4 == found.address == Address(HERE, sock.port)
    assert found.answers == {Address(HERE, server.port): found.address for server in (one, two)}
    assert (found.ipv6, found.failures, found.translated) == (None, {}, False)
    assert found.mapping is NatBehaviour.UNKNOWN  # both are one host
    (seen,) = sock.addresses
    assert seen.address == found.address
    assert not seen.confirmed
    assert not any(other.drops for other in (one, two, sock))


def test_one_server_given_alone(make: Make) -> None:
    one, sock = make(serve_stun=True), make()
    for server in ((HERE, one.port), Address(HERE, one.port), f"{HERE}:{one.port}"):
        assert sock.discover(server).address.port == sock.port


@both_shells
def test_names_are_looked_up(make: Make, names: Names) -> None:
    one, sock = make(serve_stun=True), make()
    names.known = {"one.example": ["2001:db8::1", HERE], "nobody.example": ["0.0.0.0", "ff02::1"]}
    found = sock.discover([f"One.example.:{one.port}", "nobody.example", f"missing.example:{one.port}"])
    assert found.answers == {Address(HERE, one.port): Address(HERE, sock.port)}
    assert sorted(names.asked) == sorted(
        [("one.example", one.port), ("nobody.example", 3478), ("missing.example", one.port)]
    )
    reasons = dict(found.failures)
    assert "no address of a single host" in reasons.pop("nobody.example:3478")
    assert "cannot be looked up" in reasons.pop(f"missing.example:{one.port}")
    assert "no way to it" in reasons.pop(f"one.example:{one.port} (2001:db8::1)")  # this socket is bound to IPv4
    assert not reasons


@both_shells
def test_a_look_up_that_hangs_does_not_hold_up_the_caller(make: Make, names: Names) -> None:
    sock = make()
    names.known = {"slow.example": [HERE]}
    names.hold = threading.Event()
    try:
        before = time.monotonic()
        with pytest.raises(DiscoveryFailed, match="no name was looked up in time"):
            sock.discover("slow.example", timeout=0.1)
        assert 0.1 <= time.monotonic() - before < 1
    finally:
        names.hold.set()


def test_a_look_up_that_hangs_does_not_hold_up_an_answer(make: Make, names: Names) -> None:
    one, sock = make(serve_stun=True), make()
    names.known = {"slow.example": [HERE]}
    names.hold = threading.Event()
    try:
        before = time.monotonic()
        assert sock.discover(["slow.example", (HERE, one.port)]).address.port == sock.port
        assert 1.0 <= time.monotonic() - before < 2
    finally:
        names.hold.set()


@both_shells
def test_nobody_answers(make: Make, names: Names, silence: int) -> None:
    sock = make()
    before = time.monotonic()
    with pytest.raises(DiscoveryFailed) as failure:
        sock.discover([(HERE, silence), "missing.example:7"], timeout=0.2)
    assert 0.2 <= time.monotonic() - before < 1
    text = str(failure.value)
    for part in (f"{HERE}:{silence}: it did not answer in time", "missing.example:7: the name cannot be looked up"):
        assert part in text
    for part in ("within 0.2 s", "network", "UDP", "discover(["):
        assert part in text
    assert isinstance(failure.value, OSError)


@both_shells
def test_it_does_not_wait_where_nothing_can_come(make: Make, names: Names) -> None:
    sock = make()
    before = time.monotonic()
    with pytest.raises(DiscoveryFailed, match="no way to it"):
        sock.discover(["[2001:db8::1]", "missing.example"])
    assert time.monotonic() - before < 1


@both_shells
def test_a_socket_that_closes_wakes_who_waits(make: Make, silence: int) -> None:
    sock = make()
    timer = threading.Timer(0.05, sock.close, (0,))
    timer.start()
    before = time.monotonic()
    with pytest.raises(SocketClosed):
        sock.discover((HERE, silence), timeout=10)
    assert time.monotonic() - before < 2
    timer.join()
    with pytest.raises(SocketClosed):
        sock.discover((HERE, silence))
    assert sock.addresses == ()


@both_shells
def test_public_servers_are_asked_only_by_who_asks_for_it(make: Make, names: Names) -> None:
    """The default is for ``discover()`` without servers; opening, connecting and serving look up nothing."""
    a, b = make(serve_stun=True), make()
    a.add_peer("b", (HERE, b.port))
    b.add_peer("a", (HERE, a.port))
    assert a.wait_connected("b", 10)
    assert b.wait_connected("a", 10)
    assert names.asked == []
    with pytest.raises(DiscoveryFailed):
        a.discover(timeout=5)
    assert sorted(f"{host}:{port}" for host, port in names.asked) == sorted(STUN_SERVERS)


@both_shells
def test_peers_tell_what_they_see(make: Make) -> None:
    a, b = make(), make()
    a.add_peer("b", (HERE, b.port))
    b.add_peer("a", (HERE, a.port))
    assert a.wait_connected("b", 10)
    assert a.connections_status["b"].observed == Address(HERE, a.port)
    (seen,) = a.addresses
    assert (seen.address, seen.witnesses) == (Address(HERE, a.port), ("peer b",))


class Liar(threading.Thread):
    """A server that answers each question with lies, and then (if it is honest in the end) as it should."""

    def __init__(self, honest: bool) -> None:
        super().__init__(name="liar")
        self._honest = honest
        self._sock, self._other = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        for one in (self._sock, self._other):
            one.bind((HERE, 0))
        self.port: int = self._sock.getsockname()[1]
        self.start()

    def run(self) -> None:
        while data := self._sock.recvfrom(2048):
            request, source = data
            if not request:
                return
            name = parse_stun(request).transaction_id
            lie = StunMessage(StunClass.SUCCESS, name, LIE)
            self._other.sendto(lie.encode(), source)  # from another port
            six, bare, refused = replace(lie, xor_mapped=Address("::1", 6)), replace(lie, xor_mapped=None), request
            for forged in (replace(lie, transaction_id=bytes(12)), six, bare, replace(lie, xor_mapped=NOBODY)):
                self._sock.sendto(forged.encode(), source)
            right = replace(lie, xor_mapped=Address(*source), fingerprint=True).encode()
            for junk in (refused, right[:-1], right[:-1] + bytes((right[-1] ^ 1,)), right + bytes(4)):
                self._sock.sendto(junk, source)
            if self._honest:
                self._sock.sendto(right, source)

    def close(self) -> None:
        self._other.sendto(b"", (HERE, self.port))
        self.join()
        self._sock.close()
        self._other.close()


@pytest.mark.parametrize("honest", [True, False])
def test_attack_38_lies_about_a_question(make: Make, honest: bool) -> None:
    """Attack 38: wrong transaction id, port, family, length or fingerprint, an address of nobody: counted drops."""
    liar, sock = Liar(honest), make()
    try:
        if honest:
            assert sock.discover((HERE, liar.port)).address == Address(HERE, sock.port)
        else:
            with pytest.raises(DiscoveryFailed, match="did not answer in time"):
                sock.discover((HERE, liar.port), timeout=0.2)
        assert dict(sock.drops) == {
            "stun_wrong_source": 1,
            "stun_unasked": 1,
            "stun_bad_answer": 3,
            "stun_request": 1,
            "malformed": 3,
        }
    finally:
        liar.close()


# --- who is asked


@pytest.mark.parametrize(
    ("given", "addresses", "hosts"),
    [
        ("192.0.2.1", [Address("192.0.2.1", 3478)], []),
        ("192.0.2.1:5", [Address("192.0.2.1", 5)], []),
        ("[2001:DB8::1]", [Address("2001:db8::1", 3478)], []),
        ("[2001:db8::1]:5", [Address("2001:db8::1", 5)], []),
        ("stun.example", [], [("stun.example", 3478)]),
        ((" stun.example", 5), [], [("stun.example", 5)]),
        (["a.example", "A.example.:3478", ("b.example", 1), "192.0.2.1:5", Address("192.0.2.1", 5)], None, None),
    ],
)
def test_servers_are_read(given: Any, addresses: list[Address] | None, hosts: list[tuple[str, int]] | None) -> None:
    if addresses is None or hosts is None:
        addresses, hosts = [Address("192.0.2.1", 5)], [("a.example", 3478), ("b.example", 1)]
    assert parse_servers(given) == (addresses, hosts)


def test_the_default_servers_are_well_formed() -> None:
    addresses, hosts = parse_servers(None)
    assert addresses == []
    assert [f"{host}:{port}" for host, port in hosts] == list(STUN_SERVERS)
    assert len({host.split(".", 1)[1] for host, _ in hosts}) >= 3, "of several operators"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ([], "is empty"),
        ("", "server"),
        ("a b", "not a host name"),
        ("0.0.0.0:1", "no single host"),
        ("224.0.0.1:1", "no single host"),
        ("host:0", "port"),
        ("host:99999", "port"),
        ("2001:db8::1", "brackets"),
        (7 * "a" + "@b:1", "PeerId"),
        ([("a", "1")], "port must be int"),
        ([3], "not an address"),
        ([f"192.0.2.{n}" for n in range(MAX_SERVERS + 1)], "more than 16"),
    ],
)
def test_malformed_servers(given: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        parse_servers(given)


@pytest.mark.parametrize(
    ("server", "bound", "way"),
    [
        ("127.0.0.1", "0.0.0.0", "127.0.0.1"),
        ("127.0.0.1", "192.168.9.9", "192.168.9.9"),
        ("::1", "192.168.9.9", None),
        ("127.0.0.1", "::", None),
        ("127.0.0.1", "::1", None),
        ("255.255.255.255", "0.0.0.0", None),
    ],
)
def test_the_way_to_a_server(server: str, bound: str, way: str | None) -> None:
    assert way_to(Address(server, 3478), Address(bound, 5000)) == (None if way is None else Address(way, 5000))


@both_shells
def test_arguments_are_checked_before_anything_is_done(make: Make) -> None:
    sock = make()
    bad: Sequence[Any] = (-1, float("nan"))
    for timeout in bad:
        with pytest.raises(ValueError, match="timeout"):
            sock.discover(HERE, timeout)
