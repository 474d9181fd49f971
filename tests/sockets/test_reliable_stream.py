"""SecureReliableSocket as a stream: reading, descriptors, writing, broadcasts, the end; with and without the pair."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import select
import selectors
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from srmudp import CONTROL_BCT, Config, MultiHolepunchSocket, Packet, SecureReliableSocket
from srmudp.sockets import lifetime
from srmudp.sockets.single.line import PIECE
from tests.sockets.pairs import DEADLINE, FAMILIES, Maker, Pair, free_port, make, read

__all__ = ["make"]


@pytest.fixture(params=["straight", "through the pair"])
def way(request: pytest.FixtureRequest) -> Callable[[Pair], Pair]:
    """How the streams go: to whoever calls ``recv``, or by way of a descriptor."""

    def go(pair: Pair) -> Pair:
        if request.param != "straight":
            assert pair.one.fileno() > 0
            assert pair.two.fileno() > 0
        return pair

    return go


Way = Callable[[Pair], Pair]
SMALL = Config(send_queue=1_000_000, channel_window=100_000, connection_window=100_000)
"""Room for more at the sender than at a receiver that does not read, what the system keeps in a pair included."""


@pytest.mark.parametrize("family", FAMILIES)
def test_bytes_arrive_in_order_whatever_the_calls(make: Maker, way: Way, family: int) -> None:
    one, two = way(make.streams(family))
    chance = random.Random(7)
    sizes = [0, 1, 2, 100, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, *(chance.randrange(5000) for _ in range(50))]
    data = chance.randbytes(sum(sizes))

    def send() -> None:
        at = 0
        for size in sizes:
            assert one.send(data[at : at + size]) == size
            at += size

    sending = make.start(send)
    got = bytearray()
    while len(got) < len(data):
        part = two.recv(chance.randrange(1, 40_000))
        assert part
        got += part
    sending.result(DEADLINE)
    assert got == data


def test_what_can_be_sent(make: Maker, way: Way) -> None:
    one, two = way(make.streams())
    changing = bytearray(b"bytearray")
    one.sendall(changing)
    changing[:] = b"xxxxxxxxx"
    for data in (b"bytes", memoryview(b"a view")[2:], memoryview(b"drawkcab")[::-1], memoryview(b"abcd").cast("H")):
        one.sendall(data)
    assert read(two, 30) == b"bytearraybytesviewbackwardabcd"[:30]
    large = bytearray(b"l" * 3 * PIECE)
    one.sendall(large)
    large[:] = bytes(len(large))
    with memoryview(b"m" * 3 * PIECE) as view:
        one.sendall(view[1:])
    assert read(two, 6 * PIECE - 1) == b"l" * 3 * PIECE + b"m" * (3 * PIECE - 1)


def test_time_limits_of_recv(make: Maker, way: Way) -> None:
    one, two = way(make.streams())
    two.settimeout(0.02)
    assert two.gettimeout() == 0.02
    with pytest.raises(socket.timeout, match="timed out"):
        two.recv(10)
    two.settimeout(0.0)
    assert two.gettimeout() == 0.0
    with pytest.raises(BlockingIOError):
        two.recv(10)
    two.setblocking(False)
    with pytest.raises(BlockingIOError):
        two.recv(10)
    one.sendall(b"late")
    two.settimeout(DEADLINE)
    assert two.recv(10) == b"late"
    two.settimeout(None)
    one.sendall(b"later")
    assert two.recv(10) == b"later"
    assert two.recv(0) == b""
    with pytest.raises(ValueError, match="negative"):
        two.recv(-1)


def test_not_blocking_before_a_connect_in_a_thread(make: Maker) -> None:
    one, two = make(socket.AF_INET), make(socket.AF_INET)
    one.setblocking(False)
    address = "127.0.0.1", free_port()
    connecting = make.start(one.connect, address)
    two.connect(address)
    connecting.result(DEADLINE)
    assert one.established
    with pytest.raises(BlockingIOError):
        one.recv(1)


# --- the descriptor ---


def readable(sock: SecureReliableSocket, within: float = 0.0) -> bool:
    return bool(select.select([sock], [], [], within)[0])


def test_the_descriptor_is_readable_exactly_when_recv_has_something(make: Maker) -> None:
    one, two = make.streams()
    one.sendall(b"before it was asked for")
    assert two.recv(7) == b"before "  # the rest lies half read
    assert readable(two, DEADLINE)
    assert read(two, 16) == b"it was asked for"
    assert not readable(two)
    one.sendall(b"hello")
    assert readable(two, DEADLINE)
    assert two.recv(2) == b"he"
    assert readable(two)
    assert two.recv(10) == b"llo"
    assert not readable(two)
    number = two.fileno()
    assert select.select([], [number], [], 0)[1]
    two.close()
    assert two.fileno() == -1
    with pytest.raises(ValueError, match="file descriptor"):
        readable(two)


def test_a_descriptor_that_is_watched_before_connect(make: Maker) -> None:
    with selectors.DefaultSelector() as selector:
        one, two = make(), make()
        selector.register(two, selectors.EVENT_READ)
        assert not selector.select(0)
        address = "127.0.0.1", free_port()
        connecting = make.start(one.connect, address)
        two.connect(address)
        connecting.result(DEADLINE)
        one.sendall(b"hello")
        assert selector.select(DEADLINE)
        assert two.recv(10) == b"hello"
        assert not selector.select(0)
        one.close()
        assert selector.select(DEADLINE)
        assert two.recv(10) == b""
        selector.unregister(two)


def test_who_waits_in_recv_goes_on_when_the_descriptor_is_asked_for(make: Maker) -> None:
    one, two = make.streams()
    waiting = make.start(two.recv, 100)
    time.sleep(0.05)  # it waits; any moment would do
    assert not readable(two)
    one.sendall(b"hello")
    assert waiting.result(DEADLINE) == b"hello"


def test_programs_that_know_nothing_but_the_descriptor(make: Maker) -> None:
    """os.read and os.write, as event loops in C do it."""
    one, two = make.streams()
    number = one.fileno()
    data = os.urandom(2_000_000)

    def write() -> None:
        at = 0
        while at < len(data):
            at += os.write(number, data[at : at + 100_000])

    writing = make.start(write)
    assert read(two, len(data)) == data
    writing.result(DEADLINE)
    sending = make.start(two.sendall, data)
    got = bytearray()
    while len(got) < len(data):
        got += os.read(number, 70_000)
    sending.result(DEADLINE)
    assert got == data


@pytest.mark.parametrize("pair", ["of the system", "that uvloop needs"])
def test_a_descriptor_that_is_handed_over(make: Maker, pair: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if pair == "that uvloop needs":
        monkeypatch.setitem(sys.modules, "uvloop", sys)
    one, two = make.streams()
    number = one.detach()
    assert one.is_closed
    assert one.fileno() == -1
    with pytest.raises(OSError, match="descriptor"):
        one.detach()
    one.close()
    make.forget(one)
    del one
    gc.collect()
    two.sendall(b"question")
    assert os.read(number, 100) == b"question"
    data = os.urandom(1_000_000)

    def write() -> None:
        at = 0
        while at < len(data):
            at += os.write(number, data[at : at + 100_000])
        os.close(number)

    writing = make.start(write)
    assert read(two, len(data)) == data
    writing.result(DEADLINE)
    assert two.recv(1) == b""
    assert two.is_closed


# --- writing ---


def test_calls_of_several_threads_do_not_mix(make: Maker, way: Way) -> None:
    one, two = way(make.streams())
    blocks = [bytes([65 + number]) * 200_000 for number in range(4)]
    sending = [make.start(one.sendall, block) for block in blocks]
    got = read(two, 800_000)
    for call in sending:
        call.result(DEADLINE)
    assert sorted(got[at : at + 200_000] for at in range(0, 800_000, 200_000)) == blocks


def test_who_does_not_read_stops_the_sender(make: Maker, way: Way) -> None:
    config = Config(send_queue=300_000, channel_window=300_000, connection_window=300_000)
    one, two = way(make.streams(config=config))
    data = os.urandom(3_000_000)
    sending = make.start(one.sendall, data)
    time.sleep(0.2)  # long enough for all of it, if nothing stopped it
    assert not sending.done()
    assert one.status is not None
    assert one.status.stats.bytes_sent < 1_500_000  # the rest was not even sent
    two.close()
    with pytest.raises(ConnectionAbortedError):
        sending.result(DEADLINE)


def test_a_writer_that_does_not_block_is_told_when_there_is_room(make: Maker) -> None:
    config = Config(send_queue=300_000, channel_window=300_000, connection_window=300_000)
    one, two = make.streams(config=config)
    one.setblocking(False)
    data = os.urandom(5_000_000)

    def fill(sent: int) -> int:
        with contextlib.suppress(BlockingIOError):
            while sent < len(data):
                sent += one.send(data[sent : sent + 200_000])
        return sent

    sent = fill(0)
    while select.select([], [one], [], 0)[1] and sent < len(data):  # the thread of the pair may yet take a piece of it
        sent = fill(sent)
    assert 300_000 <= sent < 3_000_000

    def write(sent: int) -> None:
        while sent < len(data):
            assert select.select([], [one], [], DEADLINE)[1]
            try:
                sent += one.send(data[sent : sent + 200_000])
            except BlockingIOError:
                pass

    writing = make.start(write, sent)
    assert read(two, len(data)) == data
    writing.result(DEADLINE)
    one.sendall(b"blocks all the same")
    assert read(two, 19) == b"blocks all the same"


def test_inherited_methods_go_through_the_stream(make: Maker, way: Way, tmp_path: Path) -> None:
    one, two = way(make.streams())
    assert one.sendmsg([b"one ", bytearray(b"two ")]) == 8
    buffer = bytearray(20)
    assert two.recv_into(buffer) == 8
    one.sendall(b"three four five six ")
    assert two.recv_into(buffer, 6) == 6
    assert two.recvfrom(5) == (b"four ", two.getpeername())
    assert two.recvfrom_into(buffer, 5) == (5, two.getpeername())
    assert buffer.startswith(b"five ")
    assert two.recvmsg(2) == (b"si", [], 0, two.getpeername())
    assert two.recvmsg_into([bytearray(), buffer]) == (2, [], 0, two.getpeername())
    assert buffer.startswith(b"x ")
    path = tmp_path / "file"
    path.write_bytes(b"0123456789" * 40_000)
    with path.open("rb") as file:
        sending = make.start(one.sendfile, file, 10, 300_000)
        assert read(two, 300_000) == path.read_bytes()[10:300_010]
        assert sending.result(DEADLINE) == 300_000
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def test_files_of_the_socket(make: Maker, way: Way) -> None:
    one, two = way(make.streams())
    with one.makefile("w", encoding="utf-8") as out, two.makefile("r", encoding="utf-8") as lines:
        one.close()
        two.close()
        assert not one.is_closed  # until its files are closed
        print("first line", file=out)
        print("zweite Zeile: Grüße", file=out, flush=True)
        assert [next(lines), next(lines)] == ["first line\n", "zweite Zeile: Grüße\n"]
    assert one.is_closed
    assert two.is_closed


def test_the_context_manager_closes(make: Maker) -> None:
    one, two = make.streams()
    with one as same:
        assert same is one
        one.sendall(b"x")
    assert one.is_closed
    assert two.recv(10) == b"x"


# --- broadcasts ---


def test_broadcasts_go_to_the_hook_or_else_into_the_stream(make: Maker, way: Way) -> None:
    one, two = way(make.streams())
    one.broadcast(b"good man")
    assert two.recv(1024) == b"good man"
    seen: list[tuple[Packet, SecureReliableSocket]] = []
    there = threading.Event()

    def hook(packet: Packet, sock: SecureReliableSocket) -> None:
        seen.append((packet, sock))
        there.set()
        raise RuntimeError("is logged, and harms nothing")

    two.broadcast_hook_fnc = hook
    assert two.broadcast_hook_fnc is hook
    one.broadcast(b"broadcasting now")
    assert there.wait(DEADLINE)
    ((packet, sock),) = seen
    assert (packet.data, packet.control, sock) == (b"broadcasting now", CONTROL_BCT, two)
    assert packet.sender_address == two.getpeername()
    two.broadcast_hook_fnc = None
    one.broadcast(b"again")
    assert two.recv(1024) == b"again"


def test_a_hook_that_is_set_before_connect(make: Maker) -> None:
    one, two = make(), make()
    there = threading.Event()
    two.broadcast_hook_fnc = lambda packet, sock: there.set()
    address = "127.0.0.1", free_port()
    connecting = make.start(one.connect, address)
    two.connect(address)
    connecting.result(DEADLINE)
    one.broadcast(b"x")
    assert there.wait(DEADLINE)


def test_a_broadcast_does_not_tear_what_one_call_sends(make: Maker) -> None:
    one, two = make.streams()
    assert one._line is not None
    assert two._line is not None
    one._line.push(bytes(PIECE))  # more follows, it says
    assert read(two, PIECE) == bytes(PIECE)
    one.broadcast(b"lost")
    deadline = time.monotonic() + DEADLINE
    while not two._line.drops().get("broadcast_amid_stream"):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    one._line.push(b"the end of it")
    assert two.recv(100) == b"the end of it"
    one.broadcast(b"heard")
    assert two.recv(100) == b"heard"


# --- the end ---


def test_what_was_sent_arrives_though_the_sender_closes(make: Maker, way: Way) -> None:
    one, two = way(make.streams())
    data = os.urandom(1_500_000)
    one.sendall(data)
    began = time.monotonic()
    one.close()
    assert time.monotonic() - began < 1.5
    assert one.is_closed
    assert read(two, len(data)) == data
    assert two.recv(10) == b""
    assert two.is_closed
    assert two.recv(10) == b""
    with pytest.raises(ConnectionAbortedError, match="disconnected"):
        two.send(b"x")


def test_the_other_end_knows_within_a_second(make: Maker, way: Way) -> None:
    one, two = way(make.streams())
    one.sendall(b"never read")
    one.close()
    deadline = time.monotonic() + 1.0
    while not two.is_closed:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert repr(two).startswith("<SecureReliableSocket CLOSED ")
    assert not two.established
    assert two.recv(100) == b"never read"


@pytest.mark.parametrize("who", ["peer", "self"])
def test_who_waits_in_recv_wakes_when_either_end_closes(make: Maker, way: Way, who: str) -> None:
    one, two = way(make.streams())
    waiting = [make.start(two.recv, 100) for _ in range(2)]
    time.sleep(0.05)  # they wait; any moment would do
    (one if who == "peer" else two).close()
    assert [call.result(DEADLINE) for call in waiting] == [b"", b""]


@pytest.mark.parametrize("who", ["peer", "self"])
def test_who_waits_in_sendall_wakes_when_either_end_closes(make: Maker, way: Way, who: str) -> None:
    one, two = with_a_closer_in_a_hurry(way(make.streams(config=SMALL)))
    sending = make.start(one.sendall, bytes(2_000_000))
    while one.status is None or not one.status.queued:
        time.sleep(0.001)
    (two if who == "peer" else one).close()
    with pytest.raises(ConnectionAbortedError):
        sending.result(DEADLINE)


def test_a_silent_peer_is_lost_after_the_timeout(make: Maker, way: Way) -> None:
    one, two = way(make.streams(timeout=0.8, span=0.1))
    line = one._line
    assert line is not None
    line.driver.transport.send_batch = lambda payload, size, address: len(payload)  # type: ignore[method-assign]
    began = time.monotonic()
    for _ in range(2):
        with pytest.raises(ConnectionResetError, match="nothing heard for 0"):
            two.recv(10)
    assert time.monotonic() - began < 5.0
    assert two.is_closed
    two.close()
    assert two.recv(10) == b""


def read_until_torn(read: Callable[[int], bytes]) -> int:
    """How many bytes come before the stream turns out to be torn off."""
    count = 0
    try:
        while data := read(50_000):
            count += len(data)
    except ConnectionResetError:
        return count
    raise AssertionError(f"it ended after {count} bytes as if that were all")


def send_what_goes(sock: SecureReliableSocket) -> int:
    """How many bytes it takes while nobody reads at the other end."""
    sock.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < 5_000_000:
            sent += sock.send(bytes(100_000))
    assert sent < 5_000_000
    return sent


def with_a_closer_in_a_hurry(pair: Pair) -> Pair:
    """The first closes in 0.3 s; to connect it had more, for slow machines."""
    pair.one._terms = pair.one._terms._replace(timeout=0.3)
    return pair


def test_a_stream_that_its_writer_could_not_finish_has_no_end(make: Maker, way: Way) -> None:
    one, two = with_a_closer_in_a_hurry(way(make.streams(config=SMALL)))
    sending = make.start(one.sendall, bytes(2_000_000))
    while one.status is None or not one.status.queued:
        time.sleep(0.001)
    one.close()
    with pytest.raises(ConnectionAbortedError):
        sending.result(DEADLINE)
    assert read_until_torn(two.recv) < 2_000_000


def test_a_stream_whose_rest_did_not_arrive_in_time_has_no_end(make: Maker, way: Way) -> None:
    one, two = with_a_closer_in_a_hurry(way(make.streams(config=SMALL)))
    sent = send_what_goes(one)
    one.close()
    while two.established:
        time.sleep(0.001)
    assert read_until_torn(two.recv) < sent


def test_what_was_written_arrives_though_nobody_holds_the_closed_socket(make: Maker, way: Way) -> None:
    one, two = way(make.streams(config=SMALL))
    sent = send_what_goes(one)
    one.close()
    make.forget(one)
    gone = weakref.ref(one)
    del one
    gc.collect()
    assert gone() is None
    assert read(two, sent) == bytes(sent)
    assert two.recv(1) == b""


def test_a_descriptor_tells_that_the_stream_is_torn(make: Maker) -> None:
    one, two = with_a_closer_in_a_hurry(make.streams(config=SMALL))
    number = two.fileno()
    send_what_goes(one)
    one.close()
    while two.established:
        time.sleep(0.001)
    if sys.platform == "linux":
        assert read_until_torn(lambda size: os.read(number, size))
    with pytest.raises(ConnectionResetError, match="before its end: its program ended"):
        two.recv(1)


def test_what_is_dropped_without_close_ends_as_well(make: Maker) -> None:
    one, two = make.streams()
    one.sendall(b"the last word")
    assert two.recv(100) == b"the last word"
    while one.status is None or one.status.queued:
        time.sleep(0.001)
    make.forget(one)
    holder = [one]
    del one
    with pytest.warns(ResourceWarning, match="unclosed <SecureReliableSocket"):
        holder.clear()
    assert two.recv(10) == b""


@pytest.mark.parametrize("reads", [True, False])
def test_a_program_that_ends_waits_for_a_closed_stream_as_long_as_it_gets_on(
    make: Maker, way: Way, reads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = way(make.streams(config=SMALL))
    sent = send_what_goes(one)
    began = time.monotonic()
    one.close()
    assert time.monotonic() - began < 0.5
    if not reads:
        monkeypatch.setattr(lifetime, "EXIT_FLUSH", 0.05)
    ending = make.start(lifetime._see_to_closing)
    if reads:
        assert read(two, sent) == bytes(sent)
        assert two.recv(1) == b""
    ending.result(DEADLINE)
    if not reads:
        assert read_until_torn(two.recv) < sent


def test_one_direction_can_be_ended(make: Maker, way: Way) -> None:
    one, two = way(make.streams())
    one.sendall(b"question")
    one.shutdown(socket.SHUT_WR)
    with pytest.raises(BrokenPipeError):
        one.sendall(b"x")
    assert read(two, 8) == b"question"
    assert two.recv(10) == b""
    assert two.established
    two.sendall(b"answer")
    assert one.recv(10) == b"answer"
    two.shutdown(socket.SHUT_RDWR)
    assert one.recv(10) == b""
    assert two.recv(10) == b""
    with pytest.raises(OSError, match="direction"):
        one.shutdown(99)


def test_close_in_a_hook(make: Maker) -> None:
    one, two = make.streams()
    done = threading.Event()

    def hook(packet: Packet, sock: SecureReliableSocket) -> None:
        sock.close()
        done.set()

    two.broadcast_hook_fnc = hook
    one.broadcast(b"go")
    assert done.wait(DEADLINE)
    assert two.is_closed
    assert one.recv(1) == b""


def test_close_by_several_threads_at_once(make: Maker, way: Way) -> None:
    one, _ = way(make.streams())
    for call in [make.start(one.close) for _ in range(4)]:
        call.result(DEADLINE)
    assert one.is_closed


def test_a_stream_to_a_socket_with_many_peers(make: Maker) -> None:
    """Pieces of the stream are its messages; an empty one, and what kind of end it is, end its direction."""
    port = free_port()
    stream: Any = make(socket.AF_INET)
    with MultiHolepunchSocket(port=port ^ 1, host="127.0.0.1") as many:
        many.add_peer("stream", ("127.0.0.1", port))
        stream.connect(("127.0.0.1", port))
        stream.sendall(b"hello")
        message = many.receive(DEADLINE)
        assert message is not None
        assert message.content == b"hello"
        for content in (b"to ", b"the ", b"stream", b"", b"\0"):
            many.send(content, "stream")
        assert read(stream, 13) == b"to the stream"
        assert stream.recv(1) == b""
