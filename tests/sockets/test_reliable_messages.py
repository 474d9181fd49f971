"""SecureReliableSocket with messages: what is received, hooks, peers that go and come back, the end."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from pathlib import Path

import pytest

from srmudp import Config, MessageTooBig, Packet, SecureReliableSocket
from tests.sockets.pairs import DEADLINE, FAMILIES, HOSTS, Maker, make, port_of

from .conftest import reach

__all__ = ["make"]


@pytest.mark.parametrize("family", FAMILIES)
def test_messages_arrive_whole_with_sender_and_key(make: Maker, family: socket.AddressFamily) -> None:
    one, two = make.messages(family)
    host = HOSTS[family]
    large = os.urandom(1_000_000)
    assert one.send(b"first") == 5
    one.sendall(large)
    assert one.send(b"") == 0  # sends nothing
    assert one.send(bytearray(b"last")) == 4
    sender = f"{host}:{port_of(one)}"
    assert two.receive() == (sender, b"first", two.peer_public_key)
    assert two.receive(0, 5.0) == (sender, large, two.peer_public_key)
    received = two.receive(timeout=5.0)
    assert received is not None
    sender, data, key = received
    assert (data, key) == (b"last", two.peer_public_key)
    assert two.receive(timeout=0.01) is None
    assert two.receive(timeout=0) is None
    if family == socket.AF_INET:
        assert sender == one.getsockname().replace("0.0.0.0", "127.0.0.1")
    assert two.getpeername() == two.get_socket_name() == sender
    assert two.address is not None
    assert two.address[:2] == (host, port_of(one))


def test_the_order_in_which_they_connect_is_free(make: Maker) -> None:
    """The first waits for as long as it takes; how long it waits for signs of life does not matter."""
    one, two = make(0, timeout=0.2, span=0.1), make(port=0)
    first = make.start(one.connect, ("127.0.0.1", str(port_of(two))))
    time.sleep(0.25)  # the case itself: longer than its timeout
    assert not first.done()
    assert not one.established
    two.connect(f"127.0.0.1:{port_of(one)}")
    first.result(DEADLINE)
    one.send(b"at last")
    received = two.receive(timeout=DEADLINE)
    assert received is not None
    assert received[1] == b"at last"
    with pytest.raises(AssertionError, match="already established"):
        one.connect("127.0.0.1:9")


def test_hooks_are_read_when_a_message_is_there(make: Maker) -> None:
    one, two = make.messages()
    seen: list[tuple[Packet, tuple[str, int], SecureReliableSocket]] = []
    large = os.urandom(100_000)
    one.send(b"waits for nobody")
    two.message_hook_fnc = lambda *call: seen.append(call)
    assert two.message_hook_fnc is not None
    one.send(large)
    reach(lambda: len(seen) == 2)
    for (packet, address, sock), data in zip(seen, (b"waits for nobody", large), strict=True):
        assert (packet.data, sock) == (data, two)
        assert address == packet.sender_address == ("127.0.0.1", port_of(one))
    assert two.receive(timeout=0) is None
    others: list[bytes] = []
    two.message_hook_fnc = lambda packet, address, sock: others.append(packet.data)
    one.send(b"to the other hook")
    reach(lambda: others)
    assert (others, len(seen)) == ([b"to the other hook"], 2)
    two.message_hook_fnc = None
    one.send(b"to receive()")
    received = two.receive(timeout=DEADLINE)
    assert received is not None
    assert received[1] == b"to receive()"


def test_a_hook_that_is_set_before_connect_and_answers(make: Maker) -> None:
    one, two = make(0), make(0)

    def echo(packet: Packet, address: tuple[str, int], sock: SecureReliableSocket) -> None:
        sock.send(b"echo " + packet.data)

    two.message_hook_fnc = echo
    connecting = make.start(one.connect, f"127.0.0.1:{port_of(two)}")
    two.connect(f"127.0.0.1:{port_of(one)}")
    connecting.result(DEADLINE)
    one.send(b"hello")
    received = one.receive(timeout=DEADLINE)
    assert received is not None
    assert received[1] == b"echo hello"


def test_broadcasts(make: Maker) -> None:
    one, two = make.messages()
    one.broadcast(b"to whoever reads")
    received = two.receive(timeout=DEADLINE)
    assert received is not None
    assert received[1] == b"to whoever reads"
    there = threading.Event()
    two.broadcast_hook_fnc = lambda packet, sock: there.set() if packet.data == b"to the hook" else None
    one.broadcast(b"to the hook")
    assert there.wait(DEADLINE)


def test_the_descriptor_is_readable_while_receive_has_something(make: Maker) -> None:
    one, two = make.messages()
    assert not select.select([two], [], [], 0)[0]
    one.send(b"x")
    assert select.select([two], [], [], DEADLINE)[0]
    assert two.receive() is not None
    reach(lambda: not select.select([two], [], [], 0)[0])  # another thread may be at it
    two.close()
    assert two.fileno() == -1


def test_what_is_too_large(make: Maker) -> None:
    one, _ = make.messages(config=Config(max_message_size=1000))
    with pytest.raises(MessageTooBig):
        one.send(bytes(1001))


def test_a_peer_that_comes_back_is_connected_again(make: Maker, tmp_path: Path) -> None:
    """At the same address; under a new key too, unless one is pinned."""
    one, two = make.messages(timeout=2.0, span=0.2)
    ports = port_of(one), port_of(two)
    two.close()
    reach(lambda: not one.established)
    assert not one.is_closed
    with pytest.raises(ConnectionAbortedError, match="disconnected"):
        one.send(b"nobody there")
    again = make(ports[1], timeout=2.0, span=0.2)
    again.connect(("127.0.0.1", ports[0]))
    reach(lambda: one.established)
    one.send(b"welcome back")
    received = again.receive(timeout=DEADLINE)
    assert received is not None
    assert received[1] == b"welcome back"
    assert one.peer_public_key != two.peer_public_key
    again.send(b"thanks")
    received = one.receive(timeout=DEADLINE)
    assert received is not None
    assert received[1:] == (b"thanks", one.peer_public_key)


def test_without_reconnecting_the_peers_end_is_ours(make: Maker) -> None:
    one, two = make.messages(auto_reconnect=False)
    two.send(b"the last word")
    waiting = make.start(lambda: [one.receive(timeout=None), one.receive(timeout=None)])
    time.sleep(0.05)
    two.close()
    last, none = waiting.result(DEADLINE)
    assert last[1] == b"the last word"
    assert none is None
    assert one.is_closed
    assert not one.established


def test_close_is_quick_and_frees_the_port(make: Maker) -> None:
    """Also with a peer that does not read and has no room left."""
    small = Config(send_queue=200_000, channel_window=100_000, connection_window=100_000)
    one, two = make.messages(timeout=0.4, span=0.2, config=small)
    sending = make.start(one.send, bytes(90_000))
    sending.result(DEADLINE)
    more = make.start(lambda: [one.send(bytes(90_000)) for _ in range(5)])
    reach(lambda: one.status is not None and one.status.queued > 150_000)
    port = port_of(one)
    waiting = make.start(two.receive, 0, None)
    assert waiting.result(DEADLINE) is not None
    began = time.monotonic()
    one.close()
    assert time.monotonic() - began < 1.6
    with pytest.raises(ConnectionAbortedError):
        more.result(DEADLINE)
    again = make(port)
    assert port_of(again) == port
    assert one.receive() is None


def test_close_wakes_who_waits(make: Maker) -> None:
    one, _ = make.messages()
    waiting = make.start(one.receive, 0, None)
    time.sleep(0.05)  # it waits; any moment would do
    one.close()
    assert waiting.result(DEADLINE) is None
    assert one.is_closed
