"""Conversations over real sockets on loopback: families, ways of sending, sizes, channels and options of a message."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from srmudp import Config, Delivery, EventKind, Identity, MultiHolepunchSocket, PeerEvent, PeerState
from tests.real.helpers import (
    BACKENDS,
    DEADLINE,
    Backend,
    Make,
    Wire,
    alive,
    at,
    connected,
    content,
    digests,
    join,
    reach,
    receive,
    state,
)
from tests.shells import both_shells

Pair = tuple[MultiHolepunchSocket, MultiHolepunchSocket]


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="no IPv6 on this machine")

FAMILIES = (
    # how a binds, how b binds, how each reaches the other
    pytest.param("127.0.0.1", "127.0.0.1", "127.0.0.1", id="IPv4"),
    pytest.param("::1", "::1", "::1", id="IPv6", marks=needs_ipv6),
    pytest.param("", "", "127.0.0.1", id="dual stack by IPv4", marks=needs_ipv6),
    pytest.param("", "", "::1", id="dual stack by IPv6", marks=needs_ipv6),
    pytest.param("", "127.0.0.1", "127.0.0.1", id="dual stack with IPv4", marks=needs_ipv6),
    pytest.param("", "::1", "::1", id="dual stack with IPv6", marks=needs_ipv6),
)


@pytest.mark.parametrize("gso", [True, False], ids=["GSO", "plain"])
@pytest.mark.parametrize(("host_a", "host_b", "address"), FAMILIES)
def test_every_family_both_ways(make: Make, host_a: str, host_b: str, address: str, gso: bool) -> None:
    """Messages longer than a batch, both ways at once, by IPv4, IPv6 and both on one socket."""
    a, b = (make(host=host, config=Config(gso=gso)) for host in (host_a, host_b))
    join(a, b, address)
    there, back = content(300_000, "there"), content(300_000, "back")
    deliveries = a.send(there, "b"), b.send(back, "a")
    assert digests(receive(b, 1)) == digests([there])
    assert digests(receive(a, 1)) == digests([back])
    assert all(delivery.wait(DEADLINE) for delivery in deliveries)
    assert a.connections_status["b"].address == (address, b.port)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("gso", [True, False], ids=["GSO", "plain"])
def test_every_size_both_ways(make: Make, gso: bool, backend: Backend) -> None:
    """Empty, one byte, about a datagram, 100 kB and, on a fast machine, 5 MB: whole, in order, each once."""
    sizes = [0, 1, 2, 1100, 1200, 1201, 1400, 9000, 65_536, 100_000, 0, 5_000_000, 1]
    if not gso and backend == "pycryptodome":
        sizes.remove(5_000_000)  # the other three ways carry it
    config = Config(gso=gso, backend=backend)
    a, b = make(config=config), make(config=config)
    join(a, b)
    for sender, receiver in ((a, b), (b, a)):
        contents = [content(size, sender.port) for size in sizes]
        deliveries = [sender.send(data) for data in contents]
        assert digests(receive(receiver, len(contents), 20)) == digests(contents)
        assert all(delivery.wait(DEADLINE) for delivery in deliveries)
        assert receiver.receive(0) is None


def test_what_is_sent_in_batches_where_the_system_can(make: Make) -> None:
    """Both paths are what they claim to be: one system call for many datagrams, and one for each."""
    for gso in (True, False):
        wire = Wire()
        a, b = make(config=Config(gso=gso, transport=wire)), make()
        join(a, b)
        a.send(content(500_000))
        receive(b, 1)
        if not gso:
            assert wire.max_segments == 1
        elif wire.max_segments == 1:
            pytest.skip("this system has no segmentation offload")
        a.close()
        b.close()


def test_channels_keep_their_own_order(make: Make) -> None:
    """Seven channels interleaved, both ways at once: order within each, no message lost or twice."""
    a, b = make(), make()
    join(a, b)
    channels = (0, 1, 2, 7, 31, 62, 63)

    def talk(sock: MultiHolepunchSocket) -> None:
        for number in range(140):
            sock.send(b"%d " % number + content(number * 37, number), channel=channels[number % 7])

    threads = [threading.Thread(target=talk, args=(sock,)) for sock in (a, b)]
    for thread in threads:
        thread.start()
    for sock in (a, b):
        got: dict[int, list[int]] = {}
        for _ in range(140):
            message = sock.receive(DEADLINE)
            assert message is not None, state(sock)
            number = int(message.content.partition(b" ")[0])
            assert message.content == b"%d " % number + content(number * 37, number)
            got.setdefault(message.channel, []).append(number)
        assert got == {channel: list(range(place, 140, 7)) for place, channel in enumerate(channels)}
        assert sock.receive(0) is None
    for thread in threads:
        thread.join(DEADLINE)


@both_shells
@pytest.mark.parametrize("gso", [True, False], ids=["GSO", "plain"])
def test_a_small_message_does_not_wait_for_a_large_one(make: Make, gso: bool) -> None:
    """5 MB in one channel, a word in another: the word is there first."""
    config = Config(gso=gso)
    a, b = make(config=config), make(config=config)
    join(a, b)
    large = content(5_000_000)
    a.send(large, channel=1)
    a.send(b"word", channel=2)
    first, second = receive(b, 2, 20)
    assert first == b"word"
    assert digests([second]) == digests([large])


@both_shells
def test_unreliable_messages_arrive_whole_or_not_at_all(make: Make) -> None:
    """Loopback with a window open loses nothing: small, fragmented and empty ones come, each once."""
    a, b = make(), make()
    join(a, b)
    alive(a, b)
    sent = [content(size, "unreliable") for size in (0, 1, 500, 5000, 50_000)]
    for data in sent:
        delivery = a.send(data, "b", reliable=False)
        message = b.receive(DEADLINE)
        assert message is not None
        assert digests([message.content]) == digests([data])
        assert delivery.wait(DEADLINE)
        assert not delivery.failed
    for number in range(50):
        b.send(b"%d" % number, "a", reliable=False)
    assert set(receive(a, 50)) == {b"%d" % number for number in range(50)}
    alive(a, b)


@both_shells
def test_a_message_past_its_time_is_withdrawn(make: Make) -> None:
    """The peer comes too late for one of three messages: its delivery fails, the others arrive."""
    a, b = make(), make()
    a.add_peer("b", at(b))  # b does not know a yet
    first = a.send(b"first", "b")
    late = a.send(content(60_000), "b", ttl=0.05)
    after = a.send(b"after", "b", ttl=60)
    assert not late.wait(DEADLINE)
    assert set(late.failed) == {"b"}
    b.add_peer("a", at(a))
    assert receive(b, 2) == [b"first", b"after"]
    assert first.wait(DEADLINE)
    assert after.wait(DEADLINE)


@both_shells
def test_three_sockets_to_one_some_and_all(make: Make) -> None:
    """A mesh of three in one process: each recipient gets what is meant for it, in order, from the right name."""
    socks = {name: make(name=name) for name in ("a", "b", "c")}
    for name, sock in socks.items():
        sock.add_peers({other: at(peer) for other, peer in socks.items() if other != name})
    for sock in socks.values():
        assert sock.wait_connected(timeout=DEADLINE), state(sock)
    for name, sock in socks.items():
        others = [other for other in socks if other != name]
        one = sock.send(f"{name} to one".encode(), others[1])
        some = sock.send(f"{name} to some".encode(), others)
        everyone = sock.send(f"{name} to all".encode())
        seen: dict[str, list[str]] = {}
        for other in others:
            for _ in range(3 if other == others[1] else 2):
                message = socks[other].receive(DEADLINE)
                assert message is not None, state(socks[other])
                assert (message.peer, message.peer_id) == (name, sock.peer_id)
                seen.setdefault(other, []).append(message.content.decode())
        expected = [f"{name} to some", f"{name} to all"]
        assert seen == {others[0]: expected, others[1]: [f"{name} to one", *expected]}
        assert all(delivery.wait(DEADLINE) for delivery in (one, some, everyone))
        assert everyone.delivered == set(others)
    assert all(sock.receive(0) is None for sock in socks.values())


@both_shells
def test_the_end_of_one_is_the_end_of_nobody_else(make: Make) -> None:
    """One of three closes: the others learn it at once, go on, and find it again when it comes back at its port."""
    who = Identity.generate()
    a, b, c = make(), make(), make(identity=who)
    for sock, others in ((a, {"b": b, "c": c}), (b, {"a": a, "c": c}), (c, {"a": a, "b": b})):
        sock.add_peers({name: at(other) for name, other in others.items()})
    assert all(sock.wait_connected(timeout=DEADLINE) for sock in (a, b, c))
    seen: list[PeerEvent] = []
    a.on_event(seen.append)
    port = c.port
    began = time.monotonic()
    c.close()
    assert time.monotonic() - began < 2
    reach(lambda: a.connections_status["c"].state is PeerState.LOST, lambda: state(a))
    alive(a, b)
    waiting = a.send(b"for when you are back", "c")
    back = make(port, peers={"a": at(a), "b": at(b)}, identity=who)
    assert receive(back, 1) == [b"for when you are back"]
    assert waiting.wait(DEADLINE)

    def told() -> list[EventKind]:
        return [event.kind for event in seen if event.peer == "c" and event.kind is not EventKind.MTU]

    reach(lambda: told() == [EventKind.LOST, EventKind.RECONNECTED], seen)


@both_shells
def test_somebody_else_at_the_same_address_gets_nothing_meant_for_the_first(make: Make) -> None:
    """A program with a new key comes back at the port: it takes the name, with an event, but no waiting message."""
    a, b = make(), make()
    join(a, b)
    changed = threading.Event()
    a.on_event(lambda event: changed.set() if event.kind is EventKind.PEER_CHANGED else None)
    port = b.port
    b.close()
    reach(lambda: a.connections_status["b"].state is PeerState.LOST, lambda: state(a))
    waiting = a.send(b"for the first", "b")
    other = make(port, peers={"a": at(a)})
    assert changed.wait(DEADLINE)
    assert not waiting.wait(DEADLINE)
    assert set(waiting.failed) == {"b"}
    assert other.wait_connected("a", DEADLINE)
    a.send(b"for the second", "b")
    assert receive(other, 1) == [b"for the second"]
    assert a.connections_status["b"].peer_id == other.peer_id


@both_shells
def test_a_goodbye_right_after_connecting_arrives(make: Make) -> None:
    """Its sealed datagram leaves also while another thread of the socket is sending."""
    for _ in range(25):
        a, b = make(), make()
        join(a, b)
        b.close()
        reach(lambda a=a: a.connections_status["b"].state is PeerState.LOST, lambda a=a: state(a))  # type: ignore[misc]
        a.close()


def test_many_messages_from_many_threads(make: Make) -> None:
    """Four threads send through one socket while the other side answers from a hook: all arrive once."""
    a, b = make(), make()
    b.register_message_hook(lambda message: b.send(message.content, message.peer, channel=message.channel))
    join(a, b)

    def talk(channel: int) -> None:
        for number in range(250):
            a.send(b"%d" % number, "b", channel=channel)

    threads = [threading.Thread(target=talk, args=(channel,)) for channel in range(4)]
    for thread in threads:
        thread.start()
    got: dict[int, list[int]] = {channel: [] for channel in range(4)}
    for _ in range(1000):
        message = a.receive(DEADLINE)
        assert message is not None, (state(a), state(b))
        got[message.channel].append(int(message.content))
    for thread in threads:
        thread.join(DEADLINE)
    assert got == {channel: list(range(250)) for channel in range(4)}


@both_shells
def test_a_reader_that_stops_stops_its_sender_alone(make: Make) -> None:
    """Attack 47: who does not read is not sent to without end; its own sending and others go on."""
    config = Config(channel_window=64 * 1024, connection_window=128 * 1024, send_queue=256 * 1024)
    a, b, c = make(config=config), make(config=config), make(config=config)
    join(a, b)
    a.add_peer("c", at(c))
    c.add_peer("a", at(a))
    assert a.wait_connected(["b", "c"], DEADLINE)
    chunk = content(32 * 1024)
    queued: list[Delivery] = []

    def fill() -> None:
        while len(queued) < 1000:
            queued.append(a.send(chunk, "b", timeout=0.1))

    with pytest.raises(TimeoutError):
        fill()
    assert len(queued) <= 2 + (256 + 64) // 32, "more than the queue was taken"
    assert a.connections_status["b"].queued <= 256 * 1024 + len(chunk)
    delivery = a.send(b"to c", "c")
    assert receive(c, 1) == [b"to c"]
    assert delivery.wait(DEADLINE)
    b.send(b"from b", "a")
    assert receive(a, 1) == [b"from b"]
    assert digests(receive(b, len(queued))) == digests([chunk] * len(queued))
    connected(a, b)
