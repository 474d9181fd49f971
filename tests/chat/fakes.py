"""A socket that does nothing but remember, and a chat around it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from srmudp import (
    Address,
    EventKind,
    Explanation,
    Invite,
    Message,
    PeerEvent,
    PeerId,
    PeerState,
    PeerStatus,
    Trust,
    UnknownPeer,
)
from srmudp.chat import letters
from srmudp.chat.book import Book
from srmudp.chat.conversation import Accept, Conversation
from srmudp.chat.lines import Line
from srmudp.crypto.keys import Identity
from srmudp.files import Transfer, TransferState
from srmudp.nat.explanation import Evidence, Tried

HERE = Address("192.0.2.9", 8001)


def peer_id_of(name: str) -> PeerId:
    """The key that is always this one's."""
    return Identity.generate(lambda size: name.encode().ljust(size, b".")[:size]).peer_id


class FakeDelivery:
    """Settled by hand."""

    def __init__(self, names: Iterable[str]) -> None:
        self.pending = frozenset(names)
        self.delivered: frozenset[str] = frozenset()
        self.failed: dict[str, str] = {}

    def deliver(self, *names: str) -> None:
        """These have it; everybody if none is named."""
        done = frozenset(names) or self.pending
        self.pending -= done
        self.delivered |= done

    def fail(self, name: str, reason: str) -> None:
        """This one never will."""
        self.pending -= {name}
        self.failed = {**self.failed, name: reason}


class FakeNet:
    """What a conversation does to its socket, written down."""

    def __init__(self) -> None:
        self.peer_id = peer_id_of("me")
        self.port = 8000
        self.connections_status: dict[str, PeerStatus] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.sent: list[tuple[letters.Letter, tuple[str, ...], FakeDelivery]] = []
        self.refusal: Exception | None = None

    def add_peers(self, peers: Mapping[str, Any], /) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.calls.append(("add", dict(peers)))
        for name, peer in peers.items():
            trust = Trust.NONE if peer.peer_id is None else Trust.PINNED
            self.connections_status[name] = PeerStatus(name, PeerState.CONNECTING, peer_id=peer.peer_id, trust=trust)

    def invite(self, expires: float, name: str | None, /) -> str:
        if self.refusal is not None:
            raise self.refusal
        self.calls.append(("invite", expires, name))
        status = self.connections_status.get(name or "")
        token = b"" if status is not None and status.pinned else b"T" * 16
        return Invite(self.peer_id, (Address("192.0.2.8", 8000),), 4_000_000_000, "Alice", None, token).text()

    def remove_peer(self, name: str, /) -> None:
        self.calls.append(("remove", name))
        self.connections_status.pop(name, None)

    def send(self, data: bytes, recipient: Iterable[str], *, timeout: float | None = None) -> FakeDelivery:
        assert timeout == 0
        if self.refusal is not None:
            raise self.refusal
        delivery = FakeDelivery(recipient)
        self.sent.append((letters.read(data), tuple(recipient), delivery))
        return delivery

    def trust(self, name: str, /) -> None:
        self.calls.append(("trust", name))

    def admit(self, peer_id: PeerId, allow: bool, /) -> None:
        self.calls.append(("admit", peer_id, allow))

    def explain(self, name: str, /) -> Explanation:
        if name not in self.connections_status:
            raise UnknownPeer(name)
        tried = [Tried(HERE, "given", sent=3, last_sent=1.0)]
        return Explanation.of(name, Evidence(state=PeerState.CONNECTING, waited=9.0, tried=tried))

    def verification_code(self, name: str, /) -> str:
        return " ".join(f"{number:05}" for number in range(12))


class FakeFiles:
    """File transfers that do nothing but remember."""

    def __init__(self) -> None:
        self.transfers: tuple[Transfer, ...] = ()
        self.calls: list[tuple[Any, ...]] = []

    def send(self, peer: str, path: str, /) -> Transfer:
        self.calls.append(("send", peer, path))
        size = os.stat(path).st_size
        number = len(self.transfers) + 1
        transfer = Transfer(
            number, peer, True, os.path.basename(path), False, 1, size, 0, 0, 0.0, TransferState.PREPARING
        )
        self.transfers += (transfer,)
        return transfer

    def accept(self, number: int, /) -> bool:
        self.calls.append(("accept", number))
        return True

    def reject(self, number: int, /) -> bool:
        self.calls.append(("reject", number))
        return True

    def cancel(self, number: int, /) -> bool:
        self.calls.append(("cancel", number))
        return True


class Rig:
    """A conversation, its net and a clock that stands still."""

    def __init__(self, *, nick: str = "Alice", accept: Accept = Accept.ASK, book: Book | None = None) -> None:
        self.net = FakeNet()
        self.now = 1000.0
        self.book = book or Book()
        self.files = FakeFiles()
        self.chat = Conversation(
            self.net, nick, self.book, self.files, accept=accept, wall=lambda: 1.6e9 + self.now, clock=lambda: self.now
        )

    def type(self, text: str) -> list[str]:
        """What is shown after a line was typed."""
        return texts(self.chat.typed(text))

    def meet(self, name: str, *, key: str | None = None, trust: Trust = Trust.ADMITTED) -> list[str]:
        """Somebody connects."""
        peer_id = peer_id_of(key or name)
        self.net.connections_status[name] = PeerStatus(name, PeerState.CONNECTED, HERE, peer_id, trust, rtt=0.012)
        return texts(self.chat.happened(PeerEvent(EventKind.CONNECTED, name, peer_id, HERE)))

    def hear(self, name: str, text: str, kind: letters.Kind = letters.Kind.ALL) -> list[str]:
        """Somebody says something."""
        return self.get(name, letters.write(letters.Letter(kind, text)))

    def get(self, name: str, data: bytes) -> list[str]:
        """Somebody sends something."""
        status = self.net.connections_status.get(name)
        peer_id = status.peer_id if status is not None else peer_id_of(name)
        return texts(self.chat.received(Message(data, name, self.now, peer_id)))

    def said(self) -> list[tuple[str, tuple[str, ...]]]:
        """What was sent and to whom, nicks left aside."""
        return [(letter.text, names) for letter, names, _ in self.net.sent if letter.kind is not letters.Kind.NICK]


def texts(lines: Iterable[Line]) -> list[str]:
    """Lines as a pipe gets them, without the time."""
    shown = ["".join(text for style, text in line.pieces() if style != "time") for line in lines]
    assert all(text.isprintable() for text in shown)
    return shown
