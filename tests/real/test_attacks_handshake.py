"""Attacks on connecting and closing: somebody with keys of his own in the middle, forged arrows, fire at the end."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack

import pytest

from srmudp import Config, EventKind, Identity, MultiHolepunchSocket, Peer, PeerEvent, PeerState
from srmudp.crypto.keys import punch_tag
from srmudp.wire.packet import (
    HANDSHAKE_HEADER,
    KEY,
    NO_COOKIE,
    PUBLIC_KEY,
    PUNCH,
    RECORD,
    RESEND,
    SHARED_KEY,
    public_key_header,
    punch_header,
    punch_payload,
    shared_key_header,
)
from tests.real.helpers import DEADLINE, Make, Wire, alive, at, connected, join, reach, state
from tests.real.proxy import Flight, Proxy, Side, other

RATE = 1000
"""Forged datagrams a second."""


class Fire:
    """Throws datagrams at about RATE a second, on a thread of its own, until it is told to stop.

    Args:
        shoot: sends one datagram; given its number.
    """

    def __init__(self, shoot: Callable[[int], None]) -> None:
        self.shots = 0
        self._shoot = shoot
        self._end = threading.Event()
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="fire")

    def __enter__(self) -> Fire:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join(10)
        if self._fault is not None and error[0] is None:
            raise self._fault

    def _run(self) -> None:
        try:
            began = time.monotonic()
            while not self._end.wait(0.005):
                while self.shots < (time.monotonic() - began) * RATE:
                    self._shoot(self.shots)
                    self.shots += 1
        except BaseException as error:
            self._fault = error


def forged_punch(rng: random.Random, number: int, addressee: MultiHolepunchSocket | None) -> bytes:
    """A well-formed PUNCH: ephemeral keys that win and lose every comparison, some tagged as by one who knows the
    addressee's PeerId."""
    header = punch_header(rng.randrange(1, 1 << 64))
    ephemeral = (bytes(31) + b"\x09", b"\xff" * 31 + b"\x7f", rng.randbytes(KEY))[number % 3]
    peer_id = None if addressee is None else addressee.peer_id
    tag = None if peer_id is None else lambda data: punch_tag(peer_id, data)
    return header + ephemeral + punch_payload(header, ephemeral, NO_COOKIE, tag)


@pytest.mark.parametrize("pinned", [False, True], ids=["unpinned", "pinned"])
def test_attack_71_forged_arrows_while_connecting(make: Make, proxy: Proxy, pinned: bool) -> None:
    """Attack 71: forged PUNCH and PUBLIC_KEY, 1,000 a second each way, from the address of the real peer.

    The honest second and third arrows are held up for a second, so that the attempt lasts well under fire. It
    completes while the fire goes on. With a pin on the other side the forger does not know the PeerIds.
    """
    rng = random.Random(71)
    a, b = make(), make()
    proxy.attach(a=a.port, b=b.port)
    began = time.monotonic()
    indices: dict[Side, bytes] = {}

    def rule(flight: Flight) -> Iterable[bytes]:
        if flight.datagram[0] == PUNCH:
            indices[flight.sender] = flight.datagram[2:HANDSHAKE_HEADER]
        if time.monotonic() < began + 1.0:
            return ()
        return (flight.datagram,)

    def shoot(number: int) -> None:
        for side in ("a", "b"):
            victim: Side = "a" if side == "a" else "b"
            index = indices.get(victim)
            if number % 2 and index is not None:
                forged = public_key_header(int.from_bytes(index, "big")) + rng.randbytes(250)
            elif number % 8 == 2:
                forged = shared_key_header(rng.randrange(1, 1 << 64)) + rng.randbytes(250)
            else:
                forged = forged_punch(rng, number, None if pinned else (a if victim == "a" else b))
            proxy.call(lambda victim=victim, forged=forged: proxy.deliver(victim, forged))  # type: ignore[misc]

    proxy.rule = rule
    proxy.recording = False
    with Fire(shoot) as fire:
        a.add_peer("b", Peer([proxy.face("a")], b.peer_id if pinned else None))
        b.add_peer("a", Peer([proxy.face("b")], a.peer_id if pinned else None))
        connected(a, b)
        lasted = time.monotonic() - began
        alive(a, b)
        reach(lambda: fire.shots >= 2 * RATE)
        alive(a, b)
    assert lasted < 8, lasted
    for sock, name, peer in ((a, "b", b), (b, "a", a)):
        assert sock.connections_status[name].peer_id == peer.peer_id
        assert sock.drops.get("internal_error", 0) == 0, state(sock)
        assert sock.drops["bad_public_key"] > 0


class MiddleMan:
    """Two sockets with keys of their own that pass on every message between two others."""

    def __init__(self, make: Make, a: MultiHolepunchSocket, b: MultiHolepunchSocket, port_a: int, port_b: int) -> None:
        self.read: list[bytes] = []
        self.toward = {"a": make(port_a, accept=True), "b": make(port_b, accept=True)}
        for name, far, victim in (("a", "b", a), ("b", "a", b)):
            near = self.toward[name]
            near.register_message_hook(lambda message, far=far: self._pass_on(far, message.content))
            near.add_peer(name, Peer([at(victim)], victim.peer_id))

    def _pass_on(self, far: str, content: bytes) -> None:
        self.read.append(content)
        if self.toward[far].connections_status[far].established:
            self.toward[far].send(content, far)


def _two_ports() -> tuple[int, int]:
    with ExitStack() as stack:
        socks = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2)]
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        return socks[0].getsockname()[1], socks[1].getsockname()[1]


def test_attack_25_keys_swapped_in_the_middle_with_a_pin(make: Make) -> None:
    """Attack 25: a middleman runs a handshake of his own with each side. Refused, and not one byte of data went out."""
    wires = Wire(), Wire()
    a, b = (make(config=Config(transport=wire)) for wire in wires)
    refused: dict[str, threading.Event] = {"a": threading.Event(), "b": threading.Event()}
    events: list[PeerEvent] = []

    def note(name: str) -> Callable[[PeerEvent], None]:
        def hook(event: PeerEvent) -> None:
            events.append(event)
            if event.kind is EventKind.REFUSED:
                refused[name].set()

        return hook

    a.on_event(note("a"))
    b.on_event(note("b"))
    ports = _two_ports()
    middle = MiddleMan(make, a, b, *ports)
    deliveries = []
    for sock, name, peer, port in ((a, "b", b, ports[0]), (b, "a", a, ports[1])):
        sock.add_peer(name, Peer([("127.0.0.1", port)], peer.peer_id))
        deliveries.append(sock.send(b"my secret", name))
    assert refused["a"].wait(DEADLINE), state(a)
    assert refused["b"].wait(DEADLINE), state(b)
    assert not a.wait_connected("b", 0.3)
    for sock, name in ((a, "b"), (b, "a")):
        status = sock.connections_status[name]
        assert status.state is PeerState.REFUSED
        assert "key" in (status.failure or "")
        assert status.stats.datagrams_sent == 0
    assert middle.read == []
    assert {event.kind for event in events} == {EventKind.REFUSED}
    for wire in wires:
        # Besides punches and answers to punches only the sealed word that the stranger is refused, one datagram each.
        records = [datagram for _, datagram in wire.sent() if datagram[0] in (RECORD, RESEND)]
        assert all(len(datagram) < 80 for datagram in records), [len(datagram) for datagram in records]
        assert SHARED_KEY not in {datagram[0] for _, datagram in wire.sent()}, "proved our key to a middleman"
    assert not any(delivery.delivered for delivery in deliveries)


def test_attack_26_without_a_pin_the_codes_differ(make: Make) -> None:
    """Attack 26: unpinned, the middleman gets through, and comparing the codes shows it; directly they are equal."""
    a, b = make(), make()
    ports = _two_ports()
    middle = MiddleMan(make, a, b, *ports)
    a.add_peer("b", ("127.0.0.1", ports[0]))
    b.add_peer("a", ("127.0.0.1", ports[1]))
    connected(a, b)
    for near, name in ((middle.toward["a"], "a"), (middle.toward["b"], "b")):
        assert near.wait_connected(name, DEADLINE)
    a.send(b"hello", "b")
    message = b.receive(DEADLINE)
    assert message is not None
    assert middle.read == [b"hello"]
    assert message.peer_id != a.peer_id
    assert a.verification_code("b") != b.verification_code("a")
    c, d = make(), make()
    c.add_peer("b", at(d))
    d.add_peer("a", at(c))
    connected(c, d)
    assert c.verification_code("b") == d.verification_code("a")
    assert len(c.verification_code("b").replace(" ", "")) == 60


def test_attack_49_close_under_fire(make: Make) -> None:
    """Attack 49: 1,000 forged datagrams a second; close() twice and from two threads ends within a second."""
    a, b = make(), make()
    join(a, b)
    rng = random.Random(49)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        target = at(a)
        first = bytes((PUNCH, PUBLIC_KEY, SHARED_KEY, RECORD, RESEND, 0, 7))

        def shoot(number: int) -> None:
            if number % 3:
                datagram = bytes((first[number % 7], 1)) + rng.randbytes(rng.randrange(1200))
            else:
                datagram = forged_punch(rng, number, a)
            stranger.sendto(datagram, target)

        with Fire(shoot) as fire:
            reach(lambda: fire.shots >= 200)
            alive(a, b)
            began = time.monotonic()
            threads = [threading.Thread(target=a.close) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(DEADLINE)
            a.close()
            lasted = time.monotonic() - began
            shots = fire.shots
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
                again.bind(target)  # the port is free, under fire
            reach(lambda: fire.shots > shots)
    assert lasted < 1.0, lasted
    reach(lambda: b.connections_status["a"].state is PeerState.LOST, lambda: state(b))
    assert a.drops.get("internal_error", 0) == 0


def test_attack_24_and_23_oneself(make: Make) -> None:
    """Attacks 23 and 24: our own address, and another program of ours with our identity. Refused, with a reason."""
    who = Identity.generate()
    a = make(identity=who)
    a.add_peer("me", at(a))
    twin = make(identity=who)
    a.add_peer("twin", at(twin))
    twin.add_peer("twin", at(a))
    assert "own" in reach(lambda: a.connections_status["me"].failure or "")
    assert "own" in reach(lambda: a.connections_status["twin"].failure or "")
    assert not any(status.established for status in a.connections_status.values())
    assert other("a") == "b"
