"""Endpoints over the simulated network: make, connect, talk, watch the wire, play the hostile peer.

::

    net = SimNet(seed=7, link=Link(latency=0.01, loss=0.02))
    watcher = WireWatcher(net)                          # attack 69: attach it before anything is sent
    record = Recorder(net)                              # every datagram as sent
    a, b = make_node(net, "a", "10.0.0.1"), make_node(net, "b", "10.0.0.2")
    connect(net, a, b)                                  # each knows the other by its host's name
    transfer(net, a, b, random.Random(1).randbytes(100_000))
    alive(net, a, b)                                    # 100 kB each way, once
    replay(net, b, [item for item in record.items if item.destination == b.address])
    hostile(net, a, b, [Ack(0, ((0, 1 << 60),))])       # what only an authenticated peer could send
    watcher.check()

A node's name is the name of its host. All helpers run in virtual time and fail by ``AssertionError`` with what is known
of both ends.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from srmudp.config import Config
from srmudp.crypto.backend import Aead, Backend, Data, select_backend
from srmudp.crypto.keys import Identity
from srmudp.models import Address, EventKind, PeerEvent, PeerId, PeerStatus
from srmudp.peers.endpoint import AcceptPolicy, Endpoint
from srmudp.peers.peer import Peer
from srmudp.protocol.events import MessageArrived, MessageSettled
from srmudp.protocol.session import Session
from srmudp.wire.frames import Frame, serialise
from srmudp.wire.packet import (
    COOKIE_BYTES,
    HANDSHAKE_HEADER,
    KEY,
    PUBLIC_KEY,
    PUNCH,
    RECORD,
    RESEND,
    SHARED_KEY,
    Segment,
    parse_segment,
)
from tests.simnet import Link, SimNet, SimNode

__all__ = [
    "LINK",
    "Datagram",
    "FaultyBackend",
    "Recorder",
    "WireWatcher",
    "add",
    "alive",
    "arrived",
    "connect",
    "drops",
    "events",
    "hostile",
    "identity",
    "kinds",
    "make_node",
    "name_of",
    "pair",
    "peer_of",
    "replay",
    "seal_raw",
    "send",
    "session_of",
    "settled",
    "status",
    "transfer",
    "until",
]

PORT = 5000
LINK = Link(latency=0.01)
"""A quick, faultless path."""


# --- making and connecting ---


def identity(seed: object, backend: Backend | None = None) -> Identity:
    """The identity that belongs to a seed: the same in every run and on both back ends."""
    return Identity.generate(random.Random(f"identity/{seed}").randbytes, backend=backend)


class Watchable(Endpoint):
    """An endpoint whose calls a test can replace: it has a dictionary beside its slots."""


def make_node(
    net: SimNet,
    name: str,
    ip: str,
    *,
    port: int = PORT,
    config: Config | None = None,
    seed: object = None,
    accept: AcceptPolicy = AcceptPolicy.NOBODY,
    backend: Backend | None = None,
    timeout: float = 21.0,
    claimed: str = "",
    behind: str | None = None,
    on_event: Callable[[SimNode, Any], None] | Literal["default"] | None = "default",
    gro: bool | None = None,
    timer_lag: float = 0.0,
    job_delay: float = 0.0,
    max_mtu: int = 1200,
    serve_stun: bool = False,
) -> SimNode:
    """An Endpoint attached to a host of the net; the host is made if there is none of that name.

    Call it again with the same name after ``detach()`` to restart the program: same identity, new instance.

    Args:
        seed: decides the identity; the name by default.
        claimed: the name it says it has.
        max_mtu: no discovery by default, so that long messages travel in records of many segments.
        behind, on_event, gro, timer_lag, job_delay: as for :class:`SimNet`.
        serve_stun: as for the endpoint.
    """
    if name not in net.hosts:
        net.add_host(name, ip, behind=behind)
    backend = backend or select_backend()
    runs = net.counts[f"run {name}"] = net.counts[f"run {name}"] + 1
    endpoint = Watchable(
        identity(name if seed is None else seed, backend),
        replace(config or Config(), max_mtu=max_mtu),
        backend=backend,
        random=net.entropy(f"{name}/{runs}"),
        timeout=timeout,
        name=claimed,
        accept=accept,
        serve_stun=serve_stun,
    )
    return net.attach(endpoint, name, port, on_event=on_event, gro=gro, timer_lag=timer_lag, job_delay=job_delay)


def name_of(sim: SimNode) -> str:
    """The name of a node's host, which the other nodes call it by."""
    return sim.host.name


def add(a: SimNode, b: SimNode, *, pin: bool | PeerId = False, address: Address | None = None) -> None:
    """``a`` adds ``b`` under its host's name.

    Args:
        pin: True pins b's key; a PeerId pins that one.
        address: where ``a`` believes ``b`` to be; by default where it is seen from (NATs included).
    """
    peer_id = (b.node.peer_id if pin else None) if isinstance(pin, bool) else pin
    address = address or a.net.mapped(b, a.address)
    a.do(a.node.add_peer, name_of(b), [address], peer_id)


def connect(net: SimNet, a: SimNode, b: SimNode, *, pin: bool = False, timeout: float = 5.0) -> None:
    """Let the two add each other and run until both are established and neither's handshake has work left."""
    add(a, b, pin=pin)
    add(b, a, pin=pin)
    done = net.run_until(lambda: status(a, b).established and status(b, a).established, timeout)
    assert done, _describe("not connected", a, b)


def pair(seed: int = 1, link: Link = LINK, **options: Any) -> tuple[SimNet, SimNode, SimNode]:
    """A net with two connected nodes, "a" at 10.0.0.1 and "b" at 10.0.0.2.

    Args:
        options: for :func:`make_node`, the same for both.
    """
    net = SimNet(seed, link=link)
    a, b = make_node(net, "a", "10.0.0.1", **options), make_node(net, "b", "10.0.0.2", **options)
    connect(net, a, b)
    return net, a, b


def until(net: SimNet, condition: Callable[[], object], timeout: float = 10.0) -> None:
    """Run until the condition holds; fails if it does not within ``timeout`` virtual seconds."""
    assert net.run_until(condition, timeout), f"not within {timeout} s (seed {net.seed}, now {net.now:.3f})"


def status(a: SimNode, b: SimNode | str) -> PeerStatus:
    """What ``a`` knows of ``b``."""
    result: PeerStatus = a.node.statuses(a.net.now)[b if isinstance(b, str) else name_of(b)]
    return result


def drops(sim: SimNode, reason: str | None = None) -> int:
    """How much input a node has discarded: for one reason, or in all."""
    counter: dict[str, int] = sim.node.drops
    return sum(counter.values()) if reason is None else counter.get(reason, 0)


def events(sim: SimNode, kind: EventKind | None = None) -> list[PeerEvent]:
    """The PeerEvents a node reported, of one kind or all."""
    return [event for event in sim.of(PeerEvent) if kind is None or event.kind is kind]


def kinds(sim: SimNode) -> list[EventKind]:
    """What happened to a node's peers, in order; path MTUs apart, which come at any time."""
    return [event.kind for event in sim.of(PeerEvent) if event.kind is not EventKind.MTU]


# --- messages ---


def send(
    a: SimNode, b: SimNode | str, content: bytes, *, channel: int = 0, reliable: bool = True, ttl: float | None = None
) -> int:
    """Queue a message from ``a`` to ``b``; returns its token."""
    name = b if isinstance(b, str) else name_of(b)
    token: int = a.do(a.node.send_message, name, content, channel=channel, reliable=reliable, ttl=ttl)
    return token


def arrived(sim: SimNode, peer: SimNode | str | None = None, channel: int | None = None) -> list[bytes]:
    """Contents of the messages a node handed out, oldest first."""
    name = peer if isinstance(peer, str | None) else name_of(peer)
    return [
        event.content
        for event in sim.of(MessageArrived)
        if (name is None or event.peer == name) and (channel is None or event.channel == channel)
    ]


def settled(sim: SimNode, token: int) -> MessageSettled | None:
    """The end of a message that was sent, or None while it has none. Fails if it was reported twice."""
    found = [event for event in sim.of(MessageSettled) if event.token == token]
    assert len(found) <= 1, f"settled twice: {found}"
    return found[0] if found else None


def transfer(net: SimNet, a: SimNode, b: SimNode, content: bytes, *, channel: int = 0, timeout: float = 60.0) -> None:
    """One reliable message from ``a`` to ``b``: taken within ``timeout`` virtual seconds, intact and exactly once."""
    before = len(arrived(b, a, channel))
    token = send(a, b, content, channel=channel)
    done = net.run_until(lambda: settled(a, token) is not None, timeout)
    assert done, _describe(f"{len(content)} bytes not delivered in {timeout} s", a, b)
    end = settled(a, token)
    assert end is not None
    assert end.failure is None, _describe(f"failed: {end.failure}", a, b)
    assert arrived(b, a, channel)[before:].count(content) == 1, _describe("not handed out exactly once", a, b)


def alive(net: SimNet, a: SimNode, b: SimNode, *, size: int = 100_000, timeout: float = 10.0) -> None:
    """The honest connection still moves a fresh message of 100 kB each way, once, without having been replaced."""
    lost = len(events(a, EventKind.LOST)) + len(events(b, EventKind.LOST))
    for sender, receiver in ((a, b), (b, a)):
        assert status(sender, receiver).established, _describe("not connected", a, b)
        transfer(net, sender, receiver, net.random.randbytes(size), channel=7, timeout=timeout)
    assert len(events(a, EventKind.LOST)) + len(events(b, EventKind.LOST)) == lost, "the connection was lost meanwhile"


def _describe(what: str, a: SimNode, b: SimNode) -> str:
    lines = [f"{what} (seed {a.net.seed}, now {a.net.now:.3f})"]
    for sim in (a, b):
        lines.append(f"{name_of(sim)}: drops {dict(sim.node.drops)}")
        for name, peer in sim.node.statuses(a.net.now).items():
            lines.append(f"  {name}: {peer.state.value}, failure {peer.failure!r}, queued {peer.queued}, {peer.stats}")
    return "\n".join([*lines, f"net {dict(a.net.counts)}"])


# --- inside knowledge: what an authenticated but hostile peer has ---


def peer_of(a: SimNode, b: SimNode | str) -> Peer:
    """``a``'s record of ``b``."""
    peer: Peer = a.node._registry.named(b if isinstance(b, str) else name_of(b))
    return peer


def session_of(a: SimNode, b: SimNode | str) -> Session:
    """The live session ``a`` has with ``b``."""
    session = peer_of(a, b).connection.session
    assert session is not None, "not connected"
    return session


def seal_raw(a: SimNode, b: SimNode | str, plaintext: bytes, mtu: int = 1200) -> list[bytes]:
    """Datagrams of one record with any plaintext, under the next record number of ``a``'s session with ``b``."""
    header, _, wire = session_of(a, b).seal(plaintext, mtu)
    size = header.size + 30
    return [wire[offset : offset + size] for offset in range(0, len(wire), size)]


def hostile(net: SimNet, a: SimNode, b: SimNode, frames: Iterable[Frame | bytes]) -> None:
    """Seal frames (or raw bytes) that ``a``'s own code would not send, and have them arrive at ``b`` now."""
    plaintext = b"".join(frame if isinstance(frame, bytes) else serialise(frame) for frame in frames)
    for datagram in seal_raw(a, b, plaintext.ljust(16, b"\x00"), 60_000):
        net.inject(net.mapped(a, b.address), b.address, datagram)
    net.run(0)


# --- on the wire ---


class Datagram(NamedTuple):
    """One datagram as it was sent."""

    time: float
    source: Address
    destination: Address
    data: bytes

    @property
    def kind(self) -> int:
        """Its first byte."""
        return self.data[0]


class Recorder:
    """Keeps every datagram that any node sends."""

    def __init__(self, net: SimNet) -> None:
        self.items: list[Datagram] = []
        self.stop = net.tap(lambda *item: self.items.append(Datagram(*item)))

    def clear(self) -> None:
        """Forget what was recorded."""
        self.items.clear()

    def of(self, *kinds: int, source: SimNode | None = None, destination: SimNode | None = None) -> list[Datagram]:
        """The datagrams with these first bytes, from and to these nodes (no NAT between)."""
        return [
            item
            for item in self.items
            if (not kinds or item.kind in kinds)
            and (source is None or item.source == source.address)
            and (destination is None or item.destination == destination.address)
        ]


def replay(
    net: SimNet, target: SimNode, items: Sequence[Datagram | bytes], *, source: Address | None = None, gap: float = 0.0
) -> None:
    """Have datagrams arrive at ``target`` (again), ``gap`` seconds apart, and run until they have.

    Args:
        source: where they seem to come from; by default where each was recorded.
    """
    for position, item in enumerate(items):
        data = item if isinstance(item, bytes) else item.data
        origin = source or (item.source if isinstance(item, Datagram) else None)
        assert origin is not None, "bytes need a source"
        net.inject(origin, target.address, data, position * gap)
    net.run(gap * len(items))


class WireWatcher:
    """Attack 69, as a tap: no record number is ever sealed twice, and nothing is sent twice that must not be.

    For each (receiver index, epoch, record number): one clear header (with the number of its first transmission), one
    ciphertext (tag included), each segment's first flight once, a record of one datagram once in all, resent pieces
    identical to those of the first flight. For each receiver index: no transmission number twice. For each index of a
    handshake: one PUNCH and one SHARED_KEY, byte for byte; for each PUNCH at one responder's: one PUBLIC_KEY.

    Attributes:
        violations: what was found, in words.
        records: records seen. resends: RESEND datagrams seen.
    """

    def __init__(self, net: SimNet | None = None) -> None:
        self.violations: list[str] = []
        self.records = self.resends = 0
        self._headers: dict[bytes, bytes] = {}
        self._pieces: dict[tuple[bytes, int], bytes] = {}
        self._transmissions: set[tuple[int, int]] = set()
        self._handshakes: dict[bytes, bytes] = {}
        self.stop: Callable[[], None] = (lambda: None) if net is None else net.tap(self.see)

    def see(self, now: float, source: Address, destination: Address, datagram: bytes) -> None:
        """Look at one datagram as it leaves its node."""
        kind = datagram[0] if datagram else -1
        if kind in (RECORD, RESEND):
            self._record(now, parse_segment(datagram))
        elif kind in (PUNCH, PUBLIC_KEY, SHARED_KEY):
            # A PUNCH without a cookie and those with one have one index, and so have their answers, each of which has
            # an ephemeral key of its own. Everything else is said once and then repeated.
            key = datagram[:HANDSHAKE_HEADER]
            if kind == PUNCH:
                key += datagram[HANDSHAKE_HEADER + KEY :][:COOKIE_BYTES]
            elif kind == PUBLIC_KEY:
                key += datagram[HANDSHAKE_HEADER:][:KEY]
            if self._handshakes.setdefault(key, datagram) != datagram:
                self.violations.append(f"{now:.6f} handshake message {kind:#x} of one index has two forms")

    def _record(self, now: float, segment: Segment) -> None:
        header = segment.header
        key = segment.aad[1:18]  # epoch, index, record number
        name = f"{now:.6f} record {header.number} epoch {header.epoch} to {header.index:016x} segment {segment.segment}"
        known = self._headers.get(key)
        if known is None:
            self.records += 1
            self._headers[key] = segment.aad
            if segment.resent:
                self.violations.append(f"{name}: resent before it was sent")
        elif known != segment.aad:
            self.violations.append(f"{name}: two headers")
        piece = self._pieces.get((key, segment.segment))
        if piece is None:
            self._pieces[key, segment.segment] = segment.payload
            if segment.resent and known is not None:
                self.violations.append(f"{name}: resent before it was sent")
        elif piece != segment.payload:
            self.violations.append(f"{name}: two ciphertexts")
        elif not segment.resent:
            self.violations.append(f"{name}: its first flight left twice")
        self.resends += segment.resent
        mark = (header.index, segment.transmission)
        if mark in self._transmissions:
            self.violations.append(f"{name}: transmission number {segment.transmission} used twice")
        self._transmissions.add(mark)

    def check(self, *, records: int = 1, resends: int = 0) -> None:
        """Fails unless all was well and at least so many records and resends went by."""
        assert not self.violations, "\n".join(self.violations[:10])
        assert self.records >= records, f"only {self.records} records seen"
        assert self.resends >= resends, f"only {self.resends} resends seen"


class FaultyBackend:
    """A crypto back end that calls ``fault(when)`` before ("before") and after ("after") each seal of a record.

    Whatever ``fault`` raises leaves ``seal``, as an interrupt or a lack of memory would. It is None at first.
    """

    def __init__(self, inner: Backend | None = None) -> None:
        self._inner = inner or select_backend()
        self.fault: Callable[[str], None] | None = None
        self.seals = 0

    @property
    def name(self) -> str:
        return self._inner.name

    def aead(self, key: bytes) -> Aead:
        return _FaultyAead(self, self._inner.aead(key))

    def x25519_public(self, private: bytes) -> bytes:
        return self._inner.x25519_public(private)

    def x25519(self, private: bytes, public: bytes) -> bytes:
        return self._inner.x25519(private, public)

    def ed25519_public(self, seed: bytes) -> bytes:
        return self._inner.ed25519_public(seed)


class _FaultyAead:
    def __init__(self, owner: FaultyBackend, inner: Aead) -> None:
        self._owner, self._inner = owner, inner

    def seal(self, nonce: bytes, plaintext: Data, aad: Data) -> bytes:
        owner = self._owner
        record = len(aad) == 29  # a record header; handshake hashes are 32 bytes
        if record:
            owner.seals += 1
            if owner.fault is not None:
                owner.fault("before")
        sealed = self._inner.seal(nonce, plaintext, aad)
        if record and owner.fault is not None:
            owner.fault("after")
        return sealed

    def open(self, nonce: bytes, ciphertext: Data, aad: Data) -> bytes:
        return self._inner.open(nonce, ciphertext, aad)
