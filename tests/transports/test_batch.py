"""Batched system calls: what is sent arrives whole, whatever the system refuses."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from srmudp.models import Address
from srmudp.transports import batch as batch_module
from srmudp.transports.batch import MAX_BYTES, MAX_SEGMENTS, SOL_UDP, UDP_GRO, UDP_SEGMENT, BatchSocket
from srmudp.transports.udp import UdpTransport

DESTINATION = ("192.0.2.1", 8000)
linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="UDP_SEGMENT and UDP_GRO are Linux's")


class FakeSocket:
    """Stands for a Linux UDP socket: runs a script of errors, remembers what was sent, delivers a script of reads."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, int]] = []  # (bytes, segment size; 0 for sendto)
        self.on_sendmsg: Callable[[bytes], None] = lambda data: None
        self.on_sendto: Callable[[bytes], None] = lambda data: None
        self.reads: list[tuple[bytes, list[tuple[int, int, bytes]]] | OSError] = []
        self.sources: list[Any] = []  # of the reads; DESTINATION without
        self.closed = False

    def getsockopt(self, level: int, option: int) -> int:
        assert (level, option) == (SOL_UDP, UDP_SEGMENT)
        return 0

    def setsockopt(self, level: int, option: int, value: int) -> None:
        assert (level, option, value) == (SOL_UDP, UDP_GRO, 1)

    def fileno(self) -> int:
        return -1 if self.closed else 99

    def sendmsg(self, buffers: Any, ancillary: Any, flags: int, destination: Any) -> int:
        data = b"".join(buffers)
        self.on_sendmsg(data)
        ((level, kind, value),) = ancillary
        assert (level, kind, flags) == (SOL_UDP, UDP_SEGMENT, 0)
        (segment_size,) = struct.unpack("=H", value)
        assert len(data) > segment_size
        assert len(data) <= MAX_BYTES
        assert -(-len(data) // segment_size) <= MAX_SEGMENTS
        self.sent.append((data, segment_size))
        return len(data)

    def sendto(self, data: Any, destination: Any) -> int:
        self.on_sendto(bytes(data))
        self.sent.append((bytes(data), 0))
        return len(data)

    def recvmsg(self, size: int, ancillary_size: int) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
        if not self.reads:
            raise BlockingIOError(errno.EAGAIN, "")
        read = self.reads.pop(0)
        if isinstance(read, OSError):
            raise read
        return *read, 0, self.sources.pop(0) if self.sources else DESTINATION

    def recvfrom(self, size: int) -> tuple[bytes, Any]:
        data, _, _, source = self.recvmsg(size, 0)
        return data, source

    @property
    def wire(self) -> list[bytes]:
        """The datagrams that left."""
        return [
            data[start : start + (size or len(data))]
            for data, size in self.sent
            for start in range(0, len(data), size or len(data))
        ]


def fail(number: int) -> Callable[[bytes], None]:
    def raise_it(data: bytes) -> None:
        raise OSError(number, os.strerror(number))

    return raise_it


def make(fake: FakeSocket, *, gso: bool = True) -> BatchSocket:
    return BatchSocket(fake, gso=gso)  # type: ignore[arg-type]


def pattern(size: int) -> bytes:
    """Bytes in which a swapped, lost or doubled segment shows."""
    return b"".join(struct.pack(">I", n) for n in range(-(-size // 4)))[:size]


def cut(payload: bytes, size: int) -> list[bytes]:
    return [payload[start : start + size] for start in range(0, len(payload), size)]


@pytest.fixture
def fake() -> FakeSocket:
    return FakeSocket()


# -- sending ----------------------------------------------------------------------------------------------------------


@linux_only
@pytest.mark.parametrize(
    ("size", "segment_size", "calls"),
    [
        (44 * 1200, 1200, 1),
        (44 * 1200 - 7, 1200, 1),
        (1200, 1200, 1),
        (5, 1200, 1),
        (130 * 100, 100, 3),  # 64 + 64 + 2: at most 64 segments a call
        (129 * 100, 100, 3),  # 64 + 64 + 1
        (44 * 1472, 1472, 2),  # 64,768 bytes: at most 64,000 a call
        (3 * 60_000, 60_000, 3),  # no two fit a call
        (2 * 65_507, 65_507, 2),
    ],
)
def test_cuts_at_limits(fake: FakeSocket, size: int, segment_size: int, calls: int) -> None:
    payload = pattern(size)
    assert make(fake).send(payload, segment_size, DESTINATION) == size
    assert fake.wire == cut(payload, segment_size)
    assert len(fake.sent) == calls


def test_plain_path_sends_one_by_one(fake: FakeSocket) -> None:
    payload = pattern(7 * 1200 + 20)
    batch = make(fake, gso=False)
    assert (batch.sends_batches, batch.receives_batches, batch.max_segments) == (False, False, 1)
    assert batch.send(payload, 1200, DESTINATION) == len(payload)
    assert fake.sent == [(piece, 0) for piece in cut(payload, 1200)]


def test_nothing_to_send(fake: FakeSocket) -> None:
    assert make(fake).send(b"", 1200, DESTINATION) == 0
    assert fake.sent == []
    with pytest.raises(ValueError, match="segment_size"):
        make(fake).send(b"x", 0, DESTINATION)


@linux_only
@pytest.mark.parametrize("number", [errno.EIO, errno.EINVAL, errno.EMSGSIZE])
def test_refused_batch_goes_datagram_by_datagram(fake: FakeSocket, number: int) -> None:
    payload = pattern(20 * 1200 + 7)
    batch = make(fake)
    fake.on_sendmsg = fail(number)
    assert batch.send(payload, 1200, DESTINATION) == len(payload)
    assert fake.wire == cut(payload, 1200)
    assert batch.errors == {errno.errorcode[number]: 1}


@linux_only
def test_refusal_in_the_second_call_loses_and_repeats_nothing(fake: FakeSocket) -> None:
    payload = pattern(100 * 1000)

    def second_call(data: bytes) -> None:
        if fake.sent:
            raise OSError(errno.EIO, "")

    fake.on_sendmsg = second_call
    assert make(fake).send(payload, 1000, DESTINATION) == len(payload)
    assert fake.sent[0] == (payload[:64_000], 1000)
    assert fake.wire == cut(payload, 1000)


@linux_only
def test_refusal_is_remembered_for_that_destination_only(fake: FakeSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_module, "_RETRY_AFTER", 3)
    batch = make(fake)
    fake.on_sendmsg = fail(errno.EIO)
    batch.send(pattern(2400), 1200, DESTINATION)
    fake.on_sendmsg = lambda data: None
    fake.sent.clear()
    batch.send(pattern(2400), 1200, ("192.0.2.2", 8000))
    assert [size for _, size in fake.sent] == [1200]
    fake.sent.clear()
    for _ in range(4):
        batch.send(pattern(2400), 1200, DESTINATION)
    assert [size for _, size in fake.sent] == [0, 0] * 3 + [1200]  # routes change, so it is tried again in the end


@linux_only
def test_memory_of_refusals_is_bounded(fake: FakeSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_module, "_REFUSING_LIMIT", 5)
    batch = make(fake)
    fake.on_sendmsg = fail(errno.EINVAL)
    for port in range(1, 21):
        batch.send(pattern(2400), 1200, ("192.0.2.1", port))
    assert [port for _, port in batch._refusing] == [16, 17, 18, 19, 20]


@linux_only
def test_segments_longer_than_the_mtu_do_not_disable_gso(fake: FakeSocket) -> None:
    batch = make(fake)
    fake.on_sendmsg = fail(errno.EINVAL)
    fake.on_sendto = fail(errno.EMSGSIZE)
    assert batch.send(pattern(3 * 1472), 1472, DESTINATION) == 3 * 1472  # to the protocol it is loss
    assert batch.errors == {"EINVAL": 1, "EMSGSIZE": 3}
    fake.on_sendmsg = fake.on_sendto = lambda data: None
    batch.send(pattern(3 * 1200), 1200, DESTINATION)
    assert [size for _, size in fake.sent] == [1200]


@linux_only
@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.EPERM, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES])
@pytest.mark.parametrize("gso", [True, False])
def test_refused_for_good_is_counted_and_handed_over(fake: FakeSocket, number: int, gso: bool) -> None:
    batch = make(fake, gso=gso)
    fake.on_sendmsg = fake.on_sendto = fail(number)
    assert batch.send(pattern(2400), 1200, DESTINATION) == 2400
    assert batch.send(b"x", 1200, DESTINATION) == 1
    assert batch.errors == {errno.errorcode[number]: 2 if gso else 3}
    fake.on_sendmsg = lambda data: None
    batch.send(pattern(2400), 1200, DESTINATION)
    assert bool(fake.sent) is gso


@linux_only
@pytest.mark.parametrize("gso", [True, False])
def test_would_block_returns_a_whole_number_of_segments(fake: FakeSocket, gso: bool) -> None:
    payload = pattern(100 * 1000 + 1)
    batch = make(fake, gso=gso)
    room = 1 if gso else 37

    def block(data: bytes) -> None:
        if len(fake.sent) >= room:
            raise BlockingIOError(errno.EAGAIN, "")

    fake.on_sendmsg = fake.on_sendto = block
    sent = batch.send(payload, 1000, DESTINATION)
    assert sent == (64_000 if gso else 37_000)
    assert batch.send(b"x", 1000, DESTINATION) == 0
    room = 1000
    assert batch.send(payload[sent:], 1000, DESTINATION) == len(payload) - sent
    assert fake.wire == cut(payload, 1000)
    assert batch.errors == {}


@linux_only
def test_would_block_within_a_fallback(fake: FakeSocket) -> None:
    payload = pattern(10 * 1000)
    batch = make(fake)
    fake.on_sendmsg = fail(errno.EIO)
    fake.on_sendto = fail(errno.EAGAIN)
    assert batch.send(payload, 1000, DESTINATION) == 0

    def block(data: bytes) -> None:
        if len(fake.sent) == 4:
            raise BlockingIOError(errno.EAGAIN, "")

    fake.on_sendto = block
    assert batch.send(payload, 1000, DESTINATION) == 4000


@linux_only
@pytest.mark.parametrize("error", [ConnectionRefusedError, ConnectionResetError])
@pytest.mark.parametrize("gso", [True, False])
def test_answers_to_earlier_datagrams_cost_none(fake: FakeSocket, error: type[OSError], gso: bool) -> None:
    """Attack 7: an ICMP error pending on the socket is reported by the next send, which then sends nothing."""
    batch = make(fake, gso=gso)
    name = "ECONNREFUSED" if error is ConnectionRefusedError else "ECONNRESET"
    pending = [error(getattr(errno, name), "")]

    def report(data: bytes) -> None:
        if pending:
            raise pending.pop()

    fake.on_sendmsg = fake.on_sendto = report
    assert batch.send(pattern(2400), 1200, DESTINATION) == 2400
    assert fake.wire == cut(pattern(2400), 1200)
    assert batch.errors == {name: 1}
    fake.on_sendmsg = fake.on_sendto = fail(getattr(errno, name))
    assert batch.send(pattern(2400), 1200, DESTINATION) == 2400  # never for ever


# -- receiving --------------------------------------------------------------------------------------------------------


@linux_only
def test_segment_size_comes_from_the_kernel(fake: FakeSocket) -> None:
    def size(value: int) -> list[tuple[int, int, bytes]]:
        return [(socket.SOL_SOCKET, 29, bytes(16)), (SOL_UDP, UDP_GRO, struct.pack("=i", value))]

    fake.reads = [(bytes(5000), size(1200)), (bytes(600), []), (bytes(700), size(0)), (bytes(800), size(-4))]
    fake.reads += [(bytes(900), size(1000))]
    batch = make(fake)
    got = [batch.receive() for _ in range(6)]
    assert [(len(one[0]), one[1], one[2]) if one else None for one in got] == [
        (5000, 1200, DESTINATION),
        *[(size, size, DESTINATION) for size in (600, 700, 800, 900)],  # a nonsensical size cannot divide by zero
        None,
    ]


@pytest.mark.parametrize("gso", [True, False])
def test_single_datagrams_are_joined(fake: FakeSocket, gso: bool) -> None:
    """As a system with receive offload does, and nothing is read twice, late or in another order."""
    other = ("192.0.2.2", 8000)
    sizes = [(1200, DESTINATION)] * 3 + [(800, DESTINATION), (800, DESTINATION), (1200, DESTINATION), (1200, other)]
    sizes += [(1200, other)] * 60 + [(40_000, other), (40_000, other), (1, DESTINATION)]
    datagrams = [(pattern(size + number)[number:], source) for number, (size, source) in enumerate(sizes)]
    fake.sources = [source for _, source in datagrams]
    fake.reads = [(data, []) for data, _ in datagrams]
    batch = make(fake, gso=gso)
    got = []
    while (one := batch.receive()) is not None:
        got.append(one)
    assert [(len(data), size, source) for data, size, source in got] == [
        (3 * 1200 + 800, 1200, DESTINATION),
        (800, 800, DESTINATION),
        (1200, 1200, DESTINATION),
        (53 * 1200, 1200, other),  # as many as fit MAX_BYTES
        (8 * 1200, 1200, other),
        (40_000, 40_000, other),
        (40_000, 40_000, other),
        (1, 1, DESTINATION),
    ]
    pieces = [(piece, source) for data, size, source in got for piece in cut(data, size)]
    assert pieces == datagrams


def test_what_the_system_joined_is_given_out_as_it_is(fake: FakeSocket) -> None:
    joined = [(SOL_UDP, UDP_GRO, struct.pack("=i", 700))]
    fake.reads = [(bytes(700), []), (bytes(2100), joined), (bytes(700), [])]
    batch = make(fake)
    got = [batch.receive() for _ in range(4)]
    assert [len(one[0]) if one else None for one in got] == [700, 2100, 700, None]


def test_a_lone_datagram_is_read_by_one_call_and_nothing_is_held_back(fake: FakeSocket) -> None:
    fake.reads = [(bytes(700), []), (bytes(700), []), (bytes(800), []), (bytes(900), [])]
    batch = make(fake)
    assert len((batch.receive_lone() or (b"",))[0]) == 700
    assert len(fake.reads) == 3
    assert len((batch.receive() or (b"",))[0]) == 700
    assert len(fake.reads) == 1, "the next one was looked at and is longer"
    got = [batch.receive_lone() for _ in range(3)]
    assert [len(one[0]) if one else None for one in got] == [800, 900, None]


def test_nothing_more_is_said_once_and_what_comes_then_is_read(fake: FakeSocket) -> None:
    batch = make(fake)
    for size in (5, 6, 7):
        fake.reads = [(bytes(size), [])]
        assert batch.receive() == (bytes(size), size, DESTINATION)
        fake.reads = [(bytes(9), [])]
        assert batch.receive() is None  # reading would have blocked when it was tried last
        assert batch.receive() == (bytes(9), 9, DESTINATION)
        assert batch.receive() is None


@pytest.mark.parametrize("gso", [True, False])
def test_empty_datagrams_and_errors_are_read_past(fake: FakeSocket, gso: bool) -> None:
    fake.reads = [(b"", []), ConnectionRefusedError(errno.ECONNREFUSED, ""), (b"", []), (b"7", [])]
    fake.reads += [ConnectionResetError(errno.ECONNRESET, ""), OSError(errno.ENETDOWN, ""), OSError("no errno")]
    batch = make(fake, gso=gso)
    assert batch.receive() == (b"7", 1, DESTINATION)
    assert batch.receive() is None
    assert batch.errors == {"empty": 2, "ECONNREFUSED": 1, "ECONNRESET": 1, "ENETDOWN": 1, "unknown": 1}


def test_lasting_error_does_not_hold_the_caller(fake: FakeSocket) -> None:
    fake.reads = [OSError(errno.ENETDOWN, "") for _ in range(100)]
    batch = make(fake)
    assert batch.receive() is None
    assert batch.errors == {"ENETDOWN": 16}
    fake.closed = True
    assert batch.receive() is None
    assert batch.errors == {"ENETDOWN": 16}


# -- what the system has ----------------------------------------------------------------------------------------------


@linux_only
def test_old_kernel(fake: FakeSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_option(*arguments: object) -> int:
        raise OSError(errno.ENOPROTOOPT, "")

    monkeypatch.setattr(fake, "setsockopt", no_option)  # Linux 4.18 to 4.20
    batch = make(fake)
    assert (batch.sends_batches, batch.receives_batches, batch.max_segments) == (True, False, 64)
    monkeypatch.setattr(fake, "getsockopt", no_option)
    batch = make(fake)
    assert (batch.sends_batches, batch.receives_batches, batch.max_segments) == (False, False, 1)
    fake.reads = [(b"abc", [])]
    assert batch.receive() == (b"abc", 3, DESTINATION)


def test_system_without_sendmsg(fake: FakeSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(FakeSocket, "sendmsg")
    batch = make(fake)
    assert (batch.sends_batches, batch.receives_batches) == (False, False)
    assert batch.send(pattern(300), 100, DESTINATION) == 300
    assert fake.sent == [(piece, 0) for piece in cut(pattern(300), 100)]


def test_other_platform(fake: FakeSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert make(fake).max_segments == 1


# -- a real link between two network namespaces -----------------------------------------------------------------------


def run(*command: str) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20)
    return done.stdout


@pytest.fixture
def link() -> Iterator[tuple[str, str]]:
    """Two namespaces joined by a veth pair, 10.77.0.1 and 10.77.0.2, that passes no super-packets."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("NETWORK NAMESPACES NOT TESTED: needs root on Linux")
    for tool in ("ip", "ethtool"):
        if shutil.which(tool) is None:
            pytest.skip(f"NETWORK NAMESPACES NOT TESTED: no {tool}")
    names = f"srmudp-a{os.getpid()}", f"srmudp-b{os.getpid()}"
    made: list[str] = []
    try:
        for name in names:
            try:
                run("ip", "netns", "add", name)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"NETWORK NAMESPACES NOT TESTED: {error.stderr.strip()}")
            made.append(name)
        one, two = names
        run("ip", "-n", one, "link", "add", "veth0", "type", "veth", "peer", "name", "veth0", "netns", two)
        for name, address in ((one, "10.77.0.1/24"), (two, "10.77.0.2/24")):
            run("ip", "-n", name, "address", "add", address, "dev", "veth0")
            run("ip", "-n", name, "link", "set", "veth0", "up")
            run("ip", "netns", "exec", name, "ethtool", "-K", "veth0", "tx-udp-segmentation", "off")
        yield names
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True, timeout=20)


def transport_in(namespace: str, host: str) -> UdpTransport:
    """A transport opened inside a namespace: the thread enters it, the socket stays there when the thread is gone."""
    made: list[UdpTransport | BaseException] = []

    def enter() -> None:
        try:
            with Path(f"/run/netns/{namespace}").open() as handle:
                if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), 0x4000_0000):  # CLONE_NEWNET
                    raise OSError(ctypes.get_errno(), "setns")
            made.append(UdpTransport(host, 0))
        except BaseException as error:
            made.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    (result,) = made
    if isinstance(result, BaseException):
        raise result
    return result


@pytest.mark.netns
def test_gso_over_a_link_without_super_packets(link: tuple[str, str]) -> None:
    one, two = link
    sender = transport_in(one, "")
    receiver = transport_in(two, "")
    try:
        target = Address("10.77.0.2", receiver.local_address().port)
        statistics = ("ip", "netns", "exec", two, "cat", "/sys/class/net/veth0/statistics/rx_packets")
        before = int(run(*statistics))
        payload = pattern(44 * 1200 - 5)
        assert sender.send_batch(payload, 1200, target) == len(payload)
        got: list[bytes] = []
        while sum(map(len, got)) < len(payload):
            assert select.select([receiver], [], [], 5.0)[0], f"{len(got)} datagrams of 44 came"
            while (batch := receiver.receive_batch()) is not None:
                assert batch.source == ("10.77.0.1", sender.local_address().port)
                got += cut(batch.buffer, batch.segment_size)
        assert got == cut(payload, 1200)
        assert int(run(*statistics)) - before >= 44  # the link carried them singly
        # Longer than the link's MTU: don't-fragment is set, so the system says so and nothing leaves in pieces.
        assert sender.send_batch(bytes(3 * 1473), 1473, target) == 3 * 1473
        assert sender.errors["EMSGSIZE"] >= 3
        assert not select.select([receiver], [], [], 0.05)[0]
    finally:
        sender.close()
        receiver.close()


BATCHES_AGAIN = """
import resource, socket, sys
from srmudp.transports.batch import BatchSocket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    if sys.argv[1] == "socket":
        BatchSocket(sock)
    batches = [b"x" * 65_000 for _ in range(16)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(200):
        del batches
        batches = [b"x" * 65_000 for _ in range(16)]
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@linux_only
def test_the_memory_of_a_batch_is_kept_for_the_next() -> None:
    """Without it each took sixteen page faults."""

    def faults(how: str) -> int:
        command = [sys.executable, "-c", BATCHES_AGAIN, how]
        return int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout)

    if faults("none") < 6400:
        pytest.skip("this C library keeps it anyway")
    assert faults("socket") < 640
