"""The UDP socket on loopback, both families, with and without offload."""

from __future__ import annotations

import errno
import gc
import os
import select
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from srmudp.models import Address
from srmudp.transports import batch as batch_module
from srmudp.transports import fan as fan_module
from srmudp.transports import udp as udp_module
from srmudp.transports.base import Transport, opener_of
from srmudp.transports.batch import BatchSocket
from srmudp.transports.udp import UdpTransport

Make = Callable[..., UdpTransport]


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on loopback")
linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks for Linux options by number")


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[UdpTransport] = []

    def build(host: str = "127.0.0.1", port: int = 0, **options: Any) -> UdpTransport:
        made.append(UdpTransport(host, port, **options))
        return made[-1]

    yield build
    for transport in made:
        transport.close()


def at(transport: UdpTransport, host: str = "127.0.0.1") -> Address:
    return Address(host, transport.local_address().port)


def collect(transport: Transport, size: int) -> tuple[list[bytes], set[Address]]:
    """Datagrams of ``size`` bytes together, and their sources."""
    datagrams: list[bytes] = []
    sources: set[Address] = set()
    while sum(map(len, datagrams)) < size:
        assert select.select([transport], [], [], 5.0)[0], f"only {sum(map(len, datagrams))} of {size} bytes came"
        while (batch := transport.receive_batch()) is not None:
            sources.add(batch.source)
            for start in range(0, len(batch.buffer), batch.segment_size):
                datagrams.append(batch.buffer[start : start + batch.segment_size])
    return datagrams, sources


def exchange(one: UdpTransport, two: UdpTransport, host: str) -> None:
    """20 datagrams there, one back to where they came from."""
    payload = os.urandom(20 * 1200 - 7)
    assert one.send_batch(payload, 1200, at(two, host)) == len(payload)
    datagrams, sources = collect(two, len(payload))
    assert datagrams == [payload[start : start + 1200] for start in range(0, len(payload), 1200)]
    assert sources == {at(one, host)}
    assert two.send_batch(b"back", 1200, sources.pop()) == 4
    assert collect(one, 4) == ([b"back"], {at(two, host)})
    assert one.errors == two.errors == {}


def test_a_socket_that_is_bound_already_is_taken_over(make: Make) -> None:
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound.bind(("127.0.0.1", 0))
    transport, other = make(sock=bound), make()
    assert transport.fileno() == bound.fileno()
    assert transport.local_address() == Address(*bound.getsockname())
    other.send_batch(b"hello", 5, at(transport))
    assert collect(transport, 5) == ([b"hello"], {at(other)})
    transport.close()
    assert bound.fileno() == -1


@pytest.mark.parametrize("gso", [True, False])
@pytest.mark.parametrize(
    ("first", "second", "host"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1", "127.0.0.1"),
        ("", "127.0.0.1", "127.0.0.1"),
        ("", "", "127.0.0.1"),
        pytest.param("::1", "::1", "::1", marks=needs_ipv6),
        pytest.param("::", "::1", "::1", marks=needs_ipv6),
        pytest.param("", "::1", "::1", marks=needs_ipv6),
        pytest.param("", "", "::1", marks=needs_ipv6),
    ],
)
def test_there_and_back(make: Make, first: str, second: str, host: str, gso: bool) -> None:
    one, two = make(first, gso=gso), make(second, gso=gso)
    exchange(one, two, host)
    exchange(two, one, host)


@linux_only
def test_offload_is_used(make: Make) -> None:
    one, two = make(""), make("")
    if one.max_segments == 1:
        pytest.skip("this kernel has no UDP_SEGMENT")
    payload = bytes(44 * 1200)
    assert one.send_batch(payload, 1200, at(two)) == len(payload)
    assert select.select([two], [], [], 5.0)[0]
    assert two.receive_batch() == (payload, 1200, at(one))
    assert two.receive_batch() is None


def test_plain_and_offload_understand_each_other(make: Make) -> None:
    exchange(make(gso=False), make(), "127.0.0.1")


def test_plain_joins_what_it_reads_one_by_one(make: Make) -> None:
    transport = make(gso=False)
    assert transport.max_segments == 1
    other = make()
    other.send_batch(bytes(2400), 1200, at(transport))
    assert select.select([transport], [], [], 5.0)[0]
    first = transport.receive_batch()
    assert first is not None
    assert (len(first.buffer), first.segment_size) == (2400, 1200)


def test_largest_datagram(make: Make) -> None:
    one, two = make(), make()
    payload = os.urandom(65_507)
    one.send_batch(payload, 65_507, at(two))
    assert collect(two, 65_507) == ([payload], {at(one)})


def test_satisfies_the_protocol(make: Make) -> None:
    transport: Transport = make()
    assert transport.receive_batch() is None
    assert transport.errors == {}


@linux_only
@pytest.mark.parametrize("number", [errno.EIO, errno.EINVAL, errno.EMSGSIZE])
def test_fallback_at_run_time(make: Make, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    calls: list[int] = []

    def refuse(*arguments: object) -> int:
        calls.append(1)
        raise OSError(number, "")

    one, two = make(), make()
    if one.max_segments == 1:
        pytest.skip("this kernel has no UDP_SEGMENT")
    monkeypatch.setattr(one._batches, "_sendmsg", refuse)
    for _ in range(3):
        payload = os.urandom(20 * 1200)
        assert one.send_batch(payload, 1200, at(two)) == len(payload)
        datagrams, _ = collect(two, len(payload))
        assert b"".join(datagrams) == payload
        assert {len(one) for one in datagrams} == {1200}
    assert len(calls) == 1
    assert one.errors == {errno.errorcode[number]: 1}


# -- refusals and hostile input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("gso", [True, False])
@pytest.mark.parametrize("host", ["127.0.0.1", ""])
def test_closed_port_hurts_nobody(make: Make, host: str, gso: bool) -> None:
    """Attack 7: port-unreachable answers while data flows."""
    one, two, gone = make(host, gso=gso), make(host, gso=gso), make()
    nowhere = at(gone)
    gone.close()
    for _ in range(5):
        assert one.send_batch(bytes(2400), 1200, nowhere) == 2400
        assert one.receive_batch() is None
    exchange(one, two, "127.0.0.1")


@pytest.mark.parametrize("gso", [True, False])
def test_empty_datagrams_do_not_end_the_burst(make: Make, gso: bool) -> None:
    transport = make(gso=gso)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
        for data in (b"", b"seven", b"", b"", b"of 20"):
            plain.sendto(data, at(transport))
    assert collect(transport, 10)[0] == [b"seven", b"of 20"]
    assert transport.errors == {"empty": 3}


@pytest.mark.parametrize(
    ("host", "port", "name"),
    [
        ("::1", 8000, "EAFNOSUPPORT"),
        ("fe80::1%1", 8000, "EAFNOSUPPORT"),
        ("example.com", 8000, "EINVAL"),
        ("", 8000, "EINVAL"),
        ("127.1", 8000, "EINVAL"),
        ("127.0.0.1\0", 8000, "EINVAL"),
        ("127.0.0.1", 0, "EINVAL"),
        ("127.0.0.1", 65_536, "EINVAL"),
        ("127.0.0.1", -1, "EINVAL"),
    ],
)
def test_unreachable_destination_is_counted(make: Make, host: str, port: int, name: str) -> None:
    transport = make()
    for _ in range(2):
        assert transport.send_batch(bytes(2400), 1200, Address(host, port)) == 2400
    assert transport.errors == {name: 2}


@needs_ipv6
def test_other_unreachable_destinations_from_ipv6(make: Make) -> None:
    transport = make("::1")
    transport.send_batch(b"x", 1, Address("127.0.0.1", 8000))
    transport.send_batch(b"x", 1, Address("::ffff:127.0.0.1", 8000))
    transport.send_batch(b"x", 1, Address("fe80::1%no-such-interface", 8000))
    transport.send_batch(b"x", 1, Address(f"fe80::1%{1 << 32}", 8000))
    transport.send_batch(b"x", 1, Address("fe80::1%" + "9" * 5000, 8000))
    assert transport.errors == {"EAFNOSUPPORT": 2, "ENXIO": 3}


def test_partial_count_when_the_system_blocks(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = make(gso=False), make()
    real = one._sock
    room = [3]

    class Narrow:
        def sendto(self, data: Any, destination: Any) -> int:
            if not room[0]:
                raise BlockingIOError(errno.EAGAIN, "")
            room[0] -= 1
            return real.sendto(data, destination)

    monkeypatch.setattr(one._batches, "_sock", Narrow())
    payload = os.urandom(8 * 1200)
    sent = one.send_batch(payload, 1200, at(two))
    assert sent == 3 * 1200
    room[0] = 10
    assert one.send_batch(payload[sent:], 1200, at(two)) == 5 * 1200
    assert b"".join(collect(two, len(payload))[0]) == payload


# -- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sockaddr", "address"),
    [
        (("192.0.2.1", 8000), ("192.0.2.1", 8000)),
        (("::ffff:192.0.2.1", 8000, 0, 0), ("192.0.2.1", 8000)),
        (("2001:db8::1", 8000, 0, 0), ("2001:db8::1", 8000)),
        (("2001:db8::1", 8000, 7, 0), ("2001:db8::1", 8000)),
        (("fe80::1", 8000, 0, 2), ("fe80::1%2", 8000)),
        (("fe80::1%eth0", 8000, 0, 2), ("fe80::1%2", 8000)),
        (("::ffff:0:c000:201", 8000, 0, 0), ("::ffff:0:c000:201", 8000)),  # RFC 6052's kin, not a mapped address
    ],
)
def test_normal_form(sockaddr: tuple[Any, ...], address: tuple[str, int]) -> None:
    assert udp_module._address(sockaddr) == address


@needs_ipv6
def test_sockaddr_of_each_family(make: Make) -> None:
    both, six, four = make(""), make("::1"), make("127.0.0.1")
    v4, v6, local = Address("192.0.2.1", 8), Address("2001:db8::1", 8), Address("fe80::1%2", 8)
    assert both._sockaddr(v4) == both._sockaddr(Address("::ffff:192.0.2.1", 8)) == ("::ffff:192.0.2.1", 8, 0, 0)
    assert both._sockaddr(v6) == six._sockaddr(v6) == ("2001:db8::1", 8, 0, 0)
    assert both._sockaddr(local) == six._sockaddr(local) == ("fe80::1", 8, 0, 2)
    assert four._sockaddr(v4) == four._sockaddr(Address("::ffff:192.0.2.1", 8)) == ("192.0.2.1", 8)
    name, number = socket.if_nameindex()[0][1], socket.if_nameindex()[0][0]
    assert six._sockaddr(Address(f"fe80::1%{name}", 8)) == ("fe80::1", 8, 0, number)


def test_caches_are_bounded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp_module, "_CACHE_LIMIT", 3)
    transport = make()
    for _ in range(7):
        other = make()
        other.send_batch(b"x", 1, at(transport))
        assert collect(transport, 1) == ([b"x"], {at(other)})
        transport.send_batch(b"y", 1, at(other))
        assert collect(other, 1)[0] == [b"y"]
        assert len(transport._addresses) <= 3
        assert len(transport._sockaddrs) <= 3


@pytest.mark.parametrize("host", ["127.0.0.1", "", pytest.param("::1", marks=needs_ipv6)])
def test_local_address(make: Make, host: str) -> None:
    transport = make(host)
    address = transport.local_address()
    assert address == Address(host or "0.0.0.0", transport._sock.getsockname()[1])
    transport.close()
    assert transport.local_address() == address


def test_names_and_mapped_literals_can_be_bound(make: Make) -> None:
    assert make("localhost").local_address().host in ("127.0.0.1", "::1")
    assert make("::ffff:127.0.0.1").local_address().host == "127.0.0.1"


# -- the socket -------------------------------------------------------------------------------------------------------


def test_dual_stack_falls_back_to_ipv4(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    class NoIpv6(real):  # type: ignore[misc,valid-type]
        def __init__(self, family: int, *arguments: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "")
            super().__init__(family, *arguments)

    monkeypatch.setattr(socket, "socket", NoIpv6)
    transport = make("")
    assert transport._sock.family == socket.AF_INET
    assert transport.local_address().host == "0.0.0.0"
    monkeypatch.setattr(socket, "has_ipv6", False)
    assert make("")._sock.family == socket.AF_INET


@pytest.mark.parametrize("host", ["", "127.0.0.1"])
def test_port_in_use_is_an_error(make: Make, host: str) -> None:
    port = make(host).local_address().port
    with pytest.raises(OSError) as caught:
        make(host, port)
    assert caught.value.errno == errno.EADDRINUSE
    gc.collect()  # an unclosed socket would warn, and warnings are errors


@pytest.mark.parametrize("port", [-1, 65_536])
def test_port_out_of_range(make: Make, port: int) -> None:
    with pytest.raises(ValueError, match="port"):
        make("", port)


def test_foreign_address_cannot_be_bound(make: Make) -> None:
    with pytest.raises(OSError):
        make("192.0.2.1")


def test_constructor_that_fails_half_way_leaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[socket.socket] = []

    def spoil(self: BatchSocket, sock: socket.socket, *, gso: bool) -> None:
        made.append(sock)
        raise KeyboardInterrupt

    monkeypatch.setattr(BatchSocket, "__init__", spoil)
    with pytest.raises(KeyboardInterrupt):
        UdpTransport("127.0.0.1", 0)
    assert made[0].fileno() == -1


@linux_only
@pytest.mark.parametrize("host", ["", "127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
def test_never_fragments_and_hears_no_icmp(make: Make, host: str) -> None:
    sock = make(host)._sock
    probe, off = 3, 0  # IP_PMTUDISC_PROBE
    if host != "::1":
        assert sock.getsockopt(socket.IPPROTO_IP, 10) == probe  # IP_MTU_DISCOVER
        assert sock.getsockopt(socket.IPPROTO_IP, 11) == off  # IP_RECVERR
    if sock.family == socket.AF_INET6:
        assert sock.getsockopt(socket.IPPROTO_IPV6, 23) == probe  # IPV6_MTU_DISCOVER
        assert sock.getsockopt(socket.IPPROTO_IPV6, 25) == off  # IPV6_RECVERR
        assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == (host == "::1")


def test_options_may_be_missing(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    nonsense = ((socket.IPPROTO_IP, 9999, 1),)
    monkeypatch.setattr(udp_module, "_DONT_FRAGMENT", {sys.platform: nonsense})
    exchange(make(), make(), "127.0.0.1")


def test_buffers_are_asked_for(make: Make) -> None:
    small = make(socket_buffer=16 * 1024)._sock
    large = make(socket_buffer=1 << 31)._sock  # more than a C int holds
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        assert 16 * 1024 <= small.getsockopt(socket.SOL_SOCKET, option) <= 32 * 1024
        assert large.getsockopt(socket.SOL_SOCKET, option) > 64 * 1024


def test_buffers_refused_altogether(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Stingy:
        def setsockopt(self, level: int, option: int, size: int) -> None:
            asked.append(size)
            raise OSError(errno.ENOBUFS, "")

    udp_module._set_buffer(Stingy(), socket.SO_RCVBUF, 300_000)  # type: ignore[arg-type]
    assert asked == [300_000, 150_000, 75_000]


def test_descriptor(make: Make) -> None:
    transport = make("")
    assert not os.get_inheritable(transport.fileno())
    assert not transport._sock.getblocking()
    transport.close()
    transport.close()
    assert transport.fileno() == -1
    assert transport.receive_batch() is None
    assert transport.errors == {}
    assert transport.send_batch(bytes(2400), 1200, Address("127.0.0.1", 9)) == 2400
    assert set(transport.errors) == {"EBADF"}


# --- openers: datagrams that die on their way


HOPS = {socket.AF_INET: (socket.IPPROTO_IP, 12, socket.IP_TTL), socket.AF_INET6: (socket.IPPROTO_IPV6, 51, 52)}
"""Level, the option that has the hop limit told, and the ancillary datum that tells it; Linux."""


@linux_only
@needs_ipv6
@pytest.mark.parametrize("by_datum", [True, False])
@pytest.mark.parametrize(("bound", "to"), [("", "127.0.0.1"), ("", "::1"), ("127.0.0.1", "127.0.0.1"), ("::1", "::1")])
def test_no_other_datagram_gets_the_hop_limit_of_an_opener(
    monkeypatch: pytest.MonkeyPatch, make: Make, bound: str, to: str, by_datum: bool
) -> None:
    """On a socket of either family, also where the system knows no ancillary datum for it."""
    monkeypatch.setattr(batch_module, "_HOPS_BY_DATUM", by_datum)
    transport = make(bound)
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as listener:
        listener.bind((to, 0))
        listener.settimeout(5)
        level, option, datum = HOPS[family]
        listener.setsockopt(level, option, 1)
        where = Address(to, listener.getsockname()[1])
        limits = []
        for hop_limit in (0, 3, 0, 2):
            if hop_limit:
                assert transport.send_opener(b"open", where, hop_limit) == 4
            else:
                transport.send_batch(b"open", 4, where)
            _, ancillary, _, _ = listener.recvmsg(100, 100)
            limits += [int.from_bytes(value[:4], sys.byteorder) for at, kind, value in ancillary if kind == datum]
    assert limits == [64, 3, 64, 2]
    assert transport.errors == {}


def test_an_opener_that_cannot_be_sent_is_counted(make: Make) -> None:
    transport = make()
    assert transport.send_opener(b"open", Address("::1", 9), 2) == 4
    assert transport.send_opener(b"open", Address("no.ip", 9), 2) == 4
    assert transport.errors == {"EAFNOSUPPORT": 1, "EINVAL": 1}


def test_a_transport_that_knows_no_hop_limit_sends_no_openers() -> None:
    assert opener_of(object())(b"open", Address("127.0.0.1", 9), 2) == 4  # type: ignore[arg-type]


# --- more sockets for one remote


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@linux_only
def test_the_socket_that_is_heard_of_is_the_one_that_answers(make: Make) -> None:
    """One remote, many sockets towards it, of which it reaches one; the others are closed then."""
    transport, other = make(), make()
    remote = at(other)
    assert transport.spread(remote, 20) == 20
    assert transport.send_opener(b"hello", remote, 2) == 5
    batches = []
    while len(batches) < 20:
        assert select.select([other], [], [], 5.0)[0]
        while (batch := other.receive_batch()) is not None:
            batches.append(batch)
    sources = {batch.source for batch in batches}
    assert len(sources) == 20
    assert at(transport) not in sources
    chosen = batches[7].source
    for spread in (20, 1, 1):
        if spread == 1:
            assert transport.spread(remote, 1) == 1
        for _ in range(2):
            other.send_batch(b"found you", 9, chosen)
            assert select.select([transport.spread_fileno], [], [], 5.0)[0]
            assert transport.receive_lone() == (b"found you", 9, remote)
            assert transport.receive_batch() is None
            transport.send_batch(b"answer", 6, remote)
            assert collect(other, 6)[1] == {chosen}
    transport.send_opener(b"hello", remote, 2)  # not by one that works already
    other.send_batch(b"x", 1, at(transport))  # nor does this unsettle what is settled
    collect(transport, 1)
    transport.send_batch(b"answer", 6, remote)
    assert collect(other, 6) == ([b"answer"], {chosen})
    assert transport.spread(remote, 0) == 0
    transport.send_batch(b"as before", 9, remote)
    assert collect(other, 9)[1] == {at(transport)}


@linux_only
def test_no_socket_is_kept_that_was_not_heard_of(make: Make) -> None:
    transport, other = make(), make()
    before = descriptors()
    assert transport.spread(at(other), 20) == 20
    assert transport.spread(at(other), 1) == 0
    assert len(descriptors() - before) == 1  # what watches them
    transport.close()
    assert descriptors() <= before
    assert transport.spread(at(other), 20) == 0


@linux_only
def test_the_transports_own_socket_may_be_heard_as_well(make: Make) -> None:
    transport, other = make(), make()
    transport.spread(at(other), 20)
    other.send_batch(b"x", 1, at(transport))
    collect(transport, 1)
    transport.send_batch(b"answer", 6, at(other))
    assert collect(other, 6)[1] == {at(transport)}
    assert transport.spread(at(other), 1) == 0


@linux_only
def test_remotes_with_sockets_of_their_own_are_bounded(make: Make) -> None:
    transport = make()
    found = [transport.spread(Address("127.0.0.1", 1000 + number), 8) for number in range(20)]
    assert found == [8] * fan_module.MAX_REMOTES + [0] * (20 - fan_module.MAX_REMOTES)
    assert transport.spread(Address("::1", 9), 8) == 0


@linux_only
@pytest.mark.parametrize(("allowed", "opened"), [(64, 64 - fan_module.SPARE), (20, 0), (0, 0)])
def test_attack_48_many_sockets_where_few_are_allowed(make: Make, allowed: int, opened: int) -> None:
    """Attack 48: as many are opened as leave the program some descriptors, or none; all of them are closed."""
    import resource

    transport = make()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = descriptors()  # and the one that this took, which pays for what watches the sockets
    free = [number for number in range(limits[0]) if str(number) not in before][:allowed]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[-1] + 1 if free else len(before), limits[1]))
    try:
        assert transport.spread(Address("127.0.0.1", 9), 256) == opened
        if opened:
            spare = [os.dup(0) for _ in range(fan_module.SPARE)]
            with pytest.raises(OSError, match="Too many open files"):
                os.dup(0)
            for descriptor in spare:
                os.close(descriptor)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        transport.close()
    assert descriptors() <= before
