"""A small endpoint and transport that keep the contract and can be told what to do. No cryptography, no clock."""

from __future__ import annotations

import socket
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from srmudp.exceptions import UnknownPeer
from srmudp.models import Address, EventKind, PeerEvent, PeerId, PeerState, PeerStatus, Trust
from srmudp.protocol.events import Failure, MessageArrived, MessageSettled, RoomFreed
from srmudp.transports.base import Batch


class Transmit(NamedTuple):
    payload: bytes
    segment_size: int
    destination: Address
    hop_limit: int = 0


def peer_id_of(name: str) -> PeerId:
    return PeerId(name.encode().ljust(32, b"."))


class FakeIntake:
    """Of a peer that is left with too many messages, or not."""

    def __init__(self) -> None:
        self.exceeded = False
        self.is_relieved = True
        self.stalled = 0

    def is_exceeded(self) -> bool:
        self.is_relieved = not self.exceeded
        return self.exceeded

    def on_stalled(self) -> None:
        self.stalled += 1
        self.exceeded = False


class FakeEndpoint:
    """Datagrams are ``M<token>:<content>`` and ``T<token>`` (taken). Who has an address is connected."""

    def __init__(self, own: str = "me") -> None:
        self.peer_id = peer_id_of(own)
        self.drops: Counter[str] = Counter()
        self.peers: dict[str, PeerStatus] = {}
        self.full: set[str] = set()
        self.asked: set[str] = set()
        self.sent: dict[int, tuple[str, bytes]] = {}
        self.taken: list[bytes] = []
        self.calls: list[tuple[Any, ...]] = []
        self.times: list[tuple[str, float]] = []  # of what came and of its end
        self.out: deque[Transmit] = deque()
        self.events: deque[Any] = deque()
        self.jobs: deque[Any] = deque()
        self.timer: float | None = None
        self.on_timer: Callable[[float], None] = lambda now: None
        self.on_send: Callable[[], None] = lambda: None
        self.on_batch: Callable[[bytes], None] = lambda buffer: None
        self.token = 0
        self.intake = FakeIntake()
        self.closed = False
        self.interrupted = 0

    # input
    def handle_batch(self, buffer: bytes, segment_size: int, source: Address, now: float) -> None:
        self.times.append(("batch", now))
        self.on_batch(buffer)
        name = next((n for n, s in self.peers.items() if s.address == source), None)
        if name is None:
            self.drops["stranger"] += 1
        elif buffer[:1] == b"M":
            token, _, content = buffer[1:].partition(b":")
            self.events.append(MessageArrived(name, peer_id_of(name), 0, content, (token, source)))
        else:
            self.settle(int(buffer[1:]), None)

    def handle_burst_end(self, now: float) -> None:
        self.times.append(("end", now))
        self.calls.append(("burst_end",))

    def handle_timer(self, now: float) -> None:
        self.timer = None
        self.on_timer(now)

    def far_ends(self, most: int) -> dict[str, Address]:
        return {}

    def handle_interrupted(self, now: float) -> None:
        self.interrupted += 1

    # commands
    def add_peer(
        self,
        name: str,
        addresses: Sequence[Address],
        peer_id: PeerId | None,
        now: float,
        *,
        pinned: bool = True,
        wire: object = None,
        nat: object = None,
        token: bytes = b"",
    ) -> None:
        self.calls.append(("add_peer", name, tuple(addresses), peer_id, pinned))
        if name == "impossible":
            raise ValueError("not this one")
        if addresses:
            self.connect(name, addresses[0], peer_id)
        else:
            self.peers[name] = PeerStatus(name, PeerState.CONNECTING, peer_id=peer_id)

    def connect(self, name: str, address: Address, peer_id: PeerId | None = None) -> None:
        trust = Trust.FIRST_USE if peer_id is None else Trust.PINNED
        proven = peer_id or peer_id_of(name)
        self.peers[name] = PeerStatus(name, PeerState.CONNECTED, address, proven, trust)
        self.events.append(PeerEvent(EventKind.CONNECTED, name, proven, address))

    def set_addresses(self, name: str, addresses: Sequence[Address], now: float) -> None:
        self.calls.append(("set_addresses", name, tuple(addresses)))
        self.connect(name, addresses[0], self.peers[name].peer_id)

    def note_unresolved(self, name: str, reason: str) -> None:
        self.calls.append(("note_unresolved", name, reason))

    def remove_peer(self, name: str, now: float) -> None:
        self.need(name)
        del self.peers[name]
        for token, (peer, _) in list(self.sent.items()):
            if peer == name:
                self.settle(token, Failure.REMOVED)

    def trust(self, name: str, peer_id: PeerId | None, now: float) -> None:
        self.need(name)
        self.calls.append(("trust", name, peer_id))

    def forget(self, name: str, now: float) -> None:
        self.peers[name] = replace(self.need(name), peer_id=None, trust=Trust.NONE)
        self.calls.append(("forget", name))

    def admit(self, peer_id: PeerId, allow: bool, now: float) -> None:
        self.calls.append(("admit", peer_id, allow))

    def need(self, name: str) -> PeerStatus:
        if name not in self.peers:
            raise UnknownPeer(f"unknown peer {name!r}")
        return self.peers[name]

    def has_room(self, name: str, size: int) -> bool:
        self.need(name)
        if name in self.full and size:
            self.asked.add(name)
            return False
        return True

    def free(self, *names: str) -> None:
        for name in names:
            self.full.discard(name)
            if name in self.asked:
                self.asked.discard(name)
                self.events.append(RoomFreed(name))

    def send_message(
        self,
        name: str,
        content: bytes,
        *,
        channel: int,
        reliable: bool,
        ttl: float | None,
        now: float,
        priority: int = 0,
        if_room: bool = False,
    ) -> int | None:
        address = self.need(name).address
        if if_room and not self.has_room(name, len(content)):
            return None
        self.token += 1
        self.on_send()
        self.sent[self.token] = (name, content)
        if address is not None:
            payload = b"M%d:%s" % (self.token, content)
            self.out.append(Transmit(payload, len(payload), address))
        return self.token

    def settle(self, token: int, failure: Failure | None) -> None:
        if token in self.sent:
            name, _ = self.sent.pop(token)
            self.events.append(MessageSettled(token, name, failure))

    def message_taken(self, event: MessageArrived, now: float) -> None:
        self.taken.append(event.content)
        if isinstance(event.receipt, tuple):
            token, source = event.receipt
            self.out.append(Transmit(b"T" + token, len(token) + 1, source))

    def intake_of(self, name: str) -> FakeIntake | None:
        return self.intake if name in self.peers else None

    def everyone(self, now: float) -> list[str]:
        return [name for name, status in self.peers.items() if status.established]

    def statuses(self, now: float) -> dict[str, PeerStatus]:
        return dict(self.peers)

    def close(self, now: float) -> None:
        self.closed = True
        for token in list(self.sent):
            self.settle(token, Failure.CLOSED)

    def undelivered(self) -> tuple[int, int]:
        return self.pending, 0

    @property
    def pending(self) -> int:
        return len(self.sent)

    # output
    def next_job(self) -> Any:
        return self.jobs.popleft() if self.jobs else None

    def finish_job(self, job: Any, now: float) -> None:
        job.finish(now)

    def poll_transmit(self, now: float) -> Transmit | None:
        return self.out.popleft() if self.out else None

    @property
    def has_output(self) -> bool:
        return bool(self.out or self.jobs)

    def next_timer(self) -> float | None:
        return self.timer

    def next_event(self) -> Any:
        return self.events.popleft() if self.events else None


class FakeTransport:
    """Datagrams go into lists. The descriptor is readable when ``arrive`` was called; writable always."""

    def __init__(self) -> None:
        self.max_segments = 1
        self.reader, self.writer = socket.socketpair()
        self.reader.setblocking(False)
        self.incoming: deque[Batch] = deque()
        self.sent: list[bytes] = []
        self.accept = 1 << 30
        self.on_send: Callable[[bytes], None] = lambda payload: None
        self.closed = False
        self.errors: dict[str, int] = {}

    def fileno(self) -> int:
        return self.reader.fileno()

    def arrive(self, *datagrams: bytes, source: Address = Address("192.0.2.1", 1)) -> None:  # noqa: B008
        self.incoming.extend(Batch(d, max(1, len(d)), source) for d in datagrams)
        self.writer.send(b"x")

    def receive_batch(self) -> Batch | None:
        if self.incoming:
            return self.incoming.popleft()
        try:
            self.reader.recv(100)
        except OSError:
            pass
        return None

    def send_batch(self, payload: bytes, segment_size: int, destination: Address) -> int:
        self.on_send(payload)
        room = min(len(payload), self.accept)
        self.accept -= room
        if room:
            self.sent.append(payload[:room])
        return room

    def local_address(self) -> Address:
        return Address("0.0.0.0", 7)

    def close(self) -> None:
        self.closed = True
        self.reader.close()
        self.writer.close()


def arrived(content: bytes, peer: str = "bob") -> MessageArrived:
    return MessageArrived(peer, peer_id_of(peer), 0, content, None)


def contents(messages: Iterable[Any]) -> list[bytes]:
    return [message.content for message in messages]
