"""MultiHolepunchSocket as its users meet it: real endpoints, real cryptography, real sockets on loopback."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import queue
import socket
import stat
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from srmudp.config import Config
from srmudp.crypto.keys import Identity
from srmudp.exceptions import IdentityError, LocalProtocolError, MessageTooBig, SocketClosed, UnknownPeer
from srmudp.models import Address, Message, Peer, PeerEvent, PeerId, PeerState, Trust
from srmudp.sockets.multi import MultiHolepunchSocket
from srmudp.transports.impaired import impaired
from tests.shells import both_shells

from .conftest import reach
from .forks import not_refused_in_child

Make = Callable[..., MultiHolepunchSocket]


def at(sock: MultiHolepunchSocket) -> tuple[str, int]:
    return "127.0.0.1", sock.port


def join(a: MultiHolepunchSocket, b: MultiHolepunchSocket) -> None:
    """Connect them as "a" and "b"."""
    a.add_peer("b", at(b))
    b.add_peer("a", at(a))
    assert a.wait_connected("b", 10)
    assert b.wait_connected("a", 10)


@pytest.fixture
def pair(make: Make) -> tuple[MultiHolepunchSocket, MultiHolepunchSocket]:
    a, b = make(name="A"), make(name="B")
    join(a, b)
    return a, b


@both_shells
def test_the_first_example(make: Make) -> None:
    """Nothing is waited for: what is sent before the connections stand is delivered all the same."""
    peer1, peer2 = make(), make()
    sock = make()
    peer1.add_peers({"us": f"127.0.0.1:{sock.port}"})
    peer2.add_peers({"us": f"127.0.0.1:{sock.port}"})
    sock.add_peers({"peer1": f"127.0.0.1:{peer1.port}", "peer2": f"localhost:{peer2.port}"})
    sock.send(b"Hello, everyone!")
    sock.send(b"Hello, peer1", recipient="peer1")
    sock.send(b"Hello, both", recipient=["peer1", "peer2"])
    got = [peer1.receive(10) for _ in range(3)] + [peer2.receive(10) for _ in range(2)]
    assert [m and m.content for m in got] == [
        b"Hello, everyone!",
        b"Hello, peer1",
        b"Hello, both",
        b"Hello, everyone!",
        b"Hello, both",
    ]
    message = got[0]
    assert message is not None
    assert (message.peer, message.peer_id) == ("us", sock.peer_id)
    assert abs(message.timestamp - time.time()) < 60
    peer1.send(b"back")
    answer = sock.receive(timeout=10)
    assert answer is not None
    assert answer.peer == "peer1"
    sock.remove_peer("peer1")
    sock.remove_peers(["peer2"])
    assert sock.connections_status == {}


@both_shells
def test_delivered_means_taken(pair: tuple[MultiHolepunchSocket, MultiHolepunchSocket]) -> None:
    a, b = pair
    delivery = a.send(b"x")
    assert not delivery.wait(0.02)
    assert b.receive(10) is not None
    assert delivery.wait(10)
    assert delivery.delivered == {"b"}


@both_shells
def test_empty_and_large_messages_in_order(pair: tuple[MultiHolepunchSocket, MultiHolepunchSocket]) -> None:
    a, b = pair
    contents = [b"", os.urandom(3_000_000), b"1", bytearray(b"mutable"), memoryview(b"a.b.c.")[::2]]
    last = [a.send(content) for content in contents][-1]  # type: ignore[arg-type]
    received = [b.receive(10) for _ in contents]
    assert [m and m.content for m in received] == [bytes(content) for content in contents]
    assert last.wait(10)


@both_shells
def test_a_bad_network(make: Make) -> None:
    config = Config(transport=impaired(loss=0.05, duplicate=0.05, reorder=0.05, corrupt=0.02, seed=7))
    a, b = make(config=config), make(config=config)
    join(a, b)
    contents = [os.urandom(size) for size in (10, 100_000, 1, 5000, 300_000)]
    deliveries = [a.send(content) for content in contents]
    received = [b.receive(10) for _ in contents]
    assert [m and m.content for m in received] == contents
    assert all(delivery.wait(10) for delivery in deliveries)
    assert b.receive(0) is None


@both_shells
def test_what_send_refuses(pair: tuple[MultiHolepunchSocket, MultiHolepunchSocket]) -> None:
    a, _ = pair
    for data in ("text", 5, None, [1]):
        with pytest.raises(TypeError, match=r"\.encode\(\)|bytes-like"):
            a.send(data)  # type: ignore[arg-type]
    with pytest.raises(UnknownPeer, match="nobody"):
        a.send(b"x", ["b", "nobody"])
    for options in (
        {"channel": 64},
        {"channel": -1},
        {"channel": "0"},
        {"ttl": 0},
        {"timeout": -1},
        {"priority": 128},
        {"priority": 1.5},
    ):
        with pytest.raises(ValueError):
            a.send(b"x", **options)
    with pytest.raises(TypeError):
        a.send(b"x", [b"b"])  # type: ignore[list-item]
    with pytest.raises(MessageTooBig):
        a.send(bytes(64 * 1024 * 1024 + 1))


@both_shells
def test_channels_ttl_and_unreliable_messages(pair: tuple[MultiHolepunchSocket, MultiHolepunchSocket]) -> None:
    a, b = pair
    a.send(b"seven", channel=7)
    message = b.receive(10)
    assert message is not None
    assert message.channel == 7
    a.send(b"once", reliable=False)
    message = b.receive(10)
    assert message is not None
    assert message.content == b"once"
    a.add_peer("away", ("127.0.0.1", 9))
    expired = a.send(b"x", "away", ttl=0.01)
    assert not expired.wait(10)
    assert "ttl" in expired.failed["away"]


@both_shells
def test_hooks_and_iteration(pair: tuple[MultiHolepunchSocket, MultiHolepunchSocket]) -> None:
    a, b = pair

    @b.register_message_hook
    def echo(message: Message) -> None:
        b.send(message.content.upper(), message.peer)

    for content in (b"x", b"y"):
        a.send(content)
    got = []
    for message in a:
        got.append(message.content)
        if len(got) == 2:
            threading.Thread(target=a.close, args=(0,)).start()
    assert got == [b"X", b"Y"]
    b.unregister_message_hook(echo)


@both_shells
def test_events(make: Make) -> None:
    a, b = make(), make()
    events: queue.Queue[PeerEvent] = queue.Queue()
    assert a.on_event(events) is events
    join(a, b)
    event = events.get(timeout=10)
    assert (event.kind, event.peer, event.peer_id) == ("connected", "b", b.peer_id)
    a.off_event(events)


def test_a_reader_of_an_event_loop(pair: tuple[MultiHolepunchSocket, MultiHolepunchSocket]) -> None:
    a, b = pair

    async def main() -> list[bytes]:
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        got: list[bytes] = []

        def readable() -> None:
            while (message := b.receive(0)) is not None:
                got.append(message.content)
            if len(got) == 20:
                done.set()

        loop.add_reader(b.fileno(), readable)
        for n in range(20):
            a.send(b"%d" % n)
        await asyncio.wait_for(done.wait(), 10)
        loop.remove_reader(b.fileno())
        return got

    assert asyncio.run(main()) == [b"%d" % n for n in range(20)]


@both_shells
def test_trust_and_verification(make: Make) -> None:
    a, b = make(), make()
    a.add_peer("b", at(b))
    if a.connections_status["b"].peer_id is None:
        with pytest.raises(LocalProtocolError, match="not proven"):
            a.verification_code("b")
        with pytest.raises(LocalProtocolError, match="not proven"):
            a.trust("b")
    for call in (a.verification_code, a.trust, a.forget, a.remove_peer):
        with pytest.raises(UnknownPeer):
            call("nobody")
    b.add_peer("a", at(a))
    assert a.wait_connected(timeout=10)
    assert b.wait_connected(timeout=10)
    code = a.verification_code("b")
    assert code == b.verification_code("a")
    assert sum(c.isdigit() for c in code) == 60
    assert a.connections_status["b"].trust is Trust.FIRST_USE
    a.trust("b")
    assert a.connections_status["b"].pinned


@both_shells
def test_a_pin_is_kept(make: Make) -> None:
    a, b, mallory = make(), make(), make()
    a.add_peer("b", f"{b.peer_id}@127.0.0.1:{b.port}")
    b.add_peer("a", Peer([at(a)], a.peer_id))
    assert a.wait_connected("b", 10)
    assert a.connections_status["b"].pinned
    a.remove_peer("b")
    a.add_peer("b", f"{b.peer_id}@127.0.0.1:{mallory.port}")
    mallory.add_peer("a", at(a))
    assert not a.wait_connected("b", 0.3)
    assert a.connections_status["b"].state is not PeerState.CONNECTED


@both_shells
def test_known_peers_pin_the_name(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "known"
    a, b = make(identity=tmp_path / "a", known_peers=path), make()
    join(a, b)
    reach(path.exists)
    a.close(1)
    again = make(identity=str(tmp_path / "a"), known_peers=path, peers={"b": at(b)})
    assert again.peer_id == a.peer_id
    assert again.connections_status["b"].pinned
    assert again.connections_status["b"].peer_id == b.peer_id
    with pytest.raises(ValueError, match="'b'"):
        again.add_peer("b", f"{make().peer_id}@127.0.0.1:5")


@both_shells
def test_strangers(make: Make) -> None:
    asked: list[tuple[PeerId, str, Address]] = []

    def accept(peer_id: PeerId, name: str, address: Address) -> bool:
        asked.append((peer_id, name, address))
        return True

    hall, guest = make(accept=accept), make(name="Guest")
    guest.add_peer("hall", f"{hall.peer_id}@127.0.0.1:{hall.port}")
    guest.send(b"knock")
    message = hall.receive(10)
    assert message is not None
    assert (message.content, message.peer_id) == (b"knock", guest.peer_id)
    assert asked == [(guest.peer_id, "Guest", Address("127.0.0.1", guest.port))]
    assert hall.connections_status[message.peer].trust is Trust.ADMITTED
    hall.send(b"come in", message.peer)
    answer = guest.receive(10)
    assert answer is not None


@both_shells
def test_a_stranger_that_waits_hears_the_answer_at_once(make: Make) -> None:
    asked: queue.SimpleQueue[PeerId] = queue.SimpleQueue()
    hall, guest = make(accept=lambda peer_id, name, address: asked.put(peer_id)), make(name="Guest")
    guest.add_peer("hall", f"{hall.peer_id}@127.0.0.1:{hall.port}")
    assert asked.get(timeout=10) == guest.peer_id
    assert not guest.wait_connected("hall", 0.1)
    hall.admit(guest.peer_id)
    assert guest.wait_connected("hall", 10)
    assert asked.empty()


@both_shells
def test_nobody_else_gets_in(make: Make) -> None:
    closed, stranger = make(), make()
    stranger.add_peer("x", at(closed))
    assert not stranger.wait_connected("x", 0.2)
    assert closed.connections_status == {}


@both_shells
@pytest.mark.parametrize(
    "options",
    [
        {"port": -1},
        {"port": 65536},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"span": -1},
        {"name": "a\nb"},
        {"name": "x" * 65},
        {"peers": {"a": "nonsense"}},
        {"peers": {"": "127.0.0.1:1"}},
        {"peers": {"impossible": Peer()}},
    ],
)
def test_bad_arguments_leave_nothing_open(make: Make, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        make(**options)


@both_shells
@pytest.mark.parametrize("options", [{"port": "8000"}, {"port": True}, {"accept": 5}, {"peers": ["a"]}])
def test_arguments_of_the_wrong_type(make: Make, options: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        make(**options)


@both_shells
def test_a_taken_port(make: Make) -> None:
    with pytest.raises(OSError):
        make(make().port)


@both_shells
def test_a_bad_known_peers_file(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "known"
    path.write_text("{")
    path.chmod(0o600)
    with pytest.raises(IdentityError, match="line 1"):
        make(known_peers=path)


@both_shells
def test_our_own_id_is_refused(make: Make) -> None:
    identity = Identity.generate()
    with pytest.raises(ValueError, match="'me'"):
        make(identity=identity, peers={"me": f"{identity.peer_id}@127.0.0.1:1"})


@both_shells
def test_the_identity_file_is_private(make: Make, tmp_path: Path) -> None:
    make(identity=tmp_path / "key")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


@both_shells
def test_the_face(make: Make) -> None:
    sock = make(name="Me")
    assert sock.getsockname() == ("127.0.0.1", sock.port)
    assert sock.name == "Me"
    assert f"MultiHolepunchSocket open 127.0.0.1:{sock.port} peers=0" in repr(sock)
    assert not sock.is_closed
    assert sock.drops == {}
    sock.close()
    sock.close()
    assert sock.is_closed
    assert sock.receive() is None  # type: ignore[unreachable]
    assert list(sock) == []
    assert sock.port
    for call in (
        lambda: sock.send(b"x"),
        sock.getsockname,
        lambda: sock.add_peer("a", "127.0.0.1:1"),
        lambda: sock.register_message_hook(print),
    ):
        with pytest.raises(SocketClosed):
            call()
    assert issubclass(SocketClosed, OSError)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", sock.port))


def test_what_only_threads_have(make: Make) -> None:
    sock = make()
    assert sock.fileno() == sock.fileno() > 0
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be copied"):
            attempt(sock)
    sock.close()
    assert sock.fileno() == -1


@both_shells
def test_with_flushes_and_an_exception_does_not(make: Make) -> None:
    with make() as a, make() as b:
        join(a, b)
        b.register_message_hook(lambda message: None)
        delivery = a.send(os.urandom(200_000))
        a.close()
        assert delivery.wait(0)
    before = time.monotonic()
    try:
        with make() as sock:
            sock.add_peer("away", ("127.0.0.1", 9))
            delivery = sock.send(b"x")
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert delivery.failed
    assert time.monotonic() - before < 2


def test_dropping_it_warns_and_closes() -> None:
    sock = MultiHolepunchSocket(host="127.0.0.1")
    port = sock.port
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del sock
        gc.collect()
    assert [w.category for w in caught] == [ResourceWarning]
    assert f":{port} " in str(caught[0].message)
    reach(lambda: not [t for t in threading.enumerate() if t.name.startswith("srmudp-")])


def test_a_constructor_that_fails_early_is_dropped_quietly() -> None:
    sock = MultiHolepunchSocket.__new__(MultiHolepunchSocket)
    assert repr(sock) == "<MultiHolepunchSocket not open>"
    del sock


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_after_fork(pair: tuple[MultiHolepunchSocket, MultiHolepunchSocket]) -> None:
    """Attack 41: every call is refused in the child, its ends are quiet, and the parent's connection lives."""
    a, b = pair
    assert not_refused_in_child(a, lambda: next(iter(a)), a.fileno, a.__enter__) == []
    delivery = a.send(b"parent")
    message = b.receive(10)
    assert message is not None
    assert message.content == b"parent"
    assert delivery.wait(10)


@both_shells
def test_close_under_fire(pair: tuple[MultiHolepunchSocket, MultiHolepunchSocket]) -> None:
    """Attack 49."""
    a, _ = pair
    stop = threading.Event()

    def fire() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gun:
            while not stop.is_set():
                for kind in (0xC1, 0xC2, 0xC3, 0xC5, 0x00, 0x16):
                    try:
                        gun.sendto(bytes([kind]) + os.urandom(600), at(a))
                    except OSError:
                        pass

    thread = threading.Thread(target=fire)
    thread.start()
    try:
        reach(lambda: sum(a.drops.values()) > 100)
        before = time.monotonic()
        closers = [threading.Thread(target=a.close) for _ in range(2)]
        for closer in closers:
            closer.start()
        for closer in closers:
            closer.join(5)
        assert time.monotonic() - before < 1
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(at(a))
    finally:
        stop.set()
        thread.join()


def test_the_wire_of_a_peer() -> None:
    with MultiHolepunchSocket(host="127.0.0.1", wire="srudp") as sock:
        sock.add_peer("old", "127.0.0.1:9")
        sock.add_peer("older", Peer("127.0.0.1:10", wire="srmudp-0.0.4"))
        sock.add_peers({"new": "127.0.0.1:11"}, wire="native")
        wires = {name: status.wire for name, status in sock.connections_status.items()}
        assert wires == {"old": "srudp", "older": "srmudp-0.0.4", "new": "native"}
        for call in (sock.trust, sock.verification_code):
            with pytest.raises(LocalProtocolError, match="nobody proves a key"):
                call("old")
        with pytest.raises(ValueError, match="already added with the wire"):
            sock.add_peer("old", "127.0.0.1:12", wire="native")
        with pytest.raises(ValueError, match="wire must be one of"):
            sock.add_peer("x", "127.0.0.1:12", wire="tcp")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="wire must be one of"):
        MultiHolepunchSocket(host="127.0.0.1", wire="quic")  # type: ignore[arg-type]
