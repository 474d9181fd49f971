"""Two connections back to back: sessions from thin air, virtual time, no endpoint and no handshake.

::

    duo = Duo(latency=0.01)
    duo.a.send(b"hello")
    duo.run(1.0)
    assert duo.b.got == [(0, b"hello")]

What each side sent is in ``Side.sent``, frames in clear.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from srmudp.config import Config
from srmudp.crypto.backend import Backend, select_backend
from srmudp.crypto.noise import SessionSecrets
from srmudp.models import Address
from srmudp.protocol.congestion import make_controller
from srmudp.protocol.connection import Connection
from srmudp.protocol.credit import ReceiveBudget
from srmudp.protocol.events import Failure
from srmudp.protocol.handshake import Agreed
from srmudp.protocol.mtu import MtuDiscovery
from srmudp.protocol.pacer import Pacer
from srmudp.protocol.records import Opened
from srmudp.protocol.recovery import Path
from srmudp.protocol.session import Session
from srmudp.wire.frames import Frame, parse_frames
from srmudp.wire.packet import RESEND, Hello, parse_pieces, parse_run, parse_segment
from tests.endpoints import identity

__all__ = ["Batch", "Duo", "Side", "make_sessions"]


def make_sessions(
    seed: object = 0,
    *,
    backend: Backend | None = None,
    drops: Counter[str] | None = None,
    memory: int = 1 << 24,
    now: float = 0.0,
) -> tuple[Session, Session]:
    """Two sessions with each other's keys, as a handshake would leave them; receive indices 1 and 2."""
    rng = random.Random(f"session/{seed}")
    one, two, who = rng.randbytes(32), rng.randbytes(32), identity("somebody").peer_id
    sessions = []
    for initiator, send_key, receive_key, local, remote in ((True, one, two, 1, 2), (False, two, one, 2, 1)):
        hello = Hello(who, bytes(16), 1, False, "", remote)
        secrets = SessionSecrets(send_key, receive_key, bytes(32), bytes(32))
        agreed = Agreed(initiator, local, hello, 1, bytes(32), secrets)
        counter: Counter[str] = Counter() if drops is None else drops
        sessions.append(Session(backend or select_backend(), agreed, counter, memory, now))
    return sessions[0], sessions[1]


class Batch(NamedTuple):
    """What one ``poll_transmit`` gave."""

    time: float
    datagrams: tuple[bytes, ...]
    frames: list[Frame]
    """Of its record; empty for resent segments."""

    @property
    def resent(self) -> bool:
        return self.datagrams[0][0] == RESEND


class Side:
    """One connection, what it sent and what came of it."""

    def __init__(self, duo: Duo, config: Config, name: str) -> None:
        self.duo = duo
        self.drops: Counter[str] = Counter()
        self.budget = ReceiveBudget(config.receive_budget, config.max_message_size)
        self.connection = Connection(config, self.drops, self.budget, name.encode().ljust(8, b"."))
        self.config = config
        self.sent: list[Batch] = []
        self.got: list[tuple[int, bytes]] = []
        """(channel, content) as handed out, reliable ones."""
        self.unreliable: list[bytes] = []
        self.settled: dict[int, Failure | None] = {}
        self.taking = True
        self._untaken: list[tuple[int, int]] = []
        self._tokens = 0
        self._burst = False
        self.other: Side = self

    def send(self, content: bytes, channel: int = 0, *, reliable: bool = True, expires: float | None = None) -> int:
        """Queue a message; it leaves when the duo runs. Returns its token."""
        self._tokens += 1
        self.connection.send_message(self._tokens, content, channel, reliable, expires)
        return self._tokens

    def take(self) -> None:
        """The application takes everything handed out."""
        for channel, sequence in self._untaken:
            self.connection.application_took(channel, sequence, self.duo.now)
        self._untaken.clear()

    def frames(self, *kinds: type) -> list[tuple[float, Frame]]:
        """(when sent, frame) of these classes."""
        return [(batch.time, frame) for batch in self.sent for frame in batch.frames if isinstance(frame, kinds)]

    def start(self, session: Session, now: float, mtu: int) -> None:
        """Go on under new keys, on a new path."""
        discovery = MtuDiscovery(mtu, mtu, now)
        path = Path(Address("192.0.2.1", 1), discovery, make_controller(self.config.congestion, mtu), Pacer(now))
        self.connection.start(session, path, now)

    def deliver(self, datagrams: tuple[bytes, ...], now: float) -> None:
        """Datagrams arrive together."""
        connection, session = self.connection, self.connection.session
        if session is None:
            return
        buffer, size, offset = b"".join(datagrams), len(datagrams[0]), 0
        while offset < len(buffer):
            run = parse_run(buffer, offset, size)
            opened: Opened | None
            if run is not None:
                header, aad, ciphertext, following = run
                opened = session.receiver.on_run(header, aad, ciphertext, now)
            else:
                pieces = parse_pieces(buffer, offset, size)
                if pieces is not None:
                    following, count = pieces.following, len(pieces.segments)
                    opened = session.receiver.on_pieces(pieces, now)
                else:
                    following, count = offset + size, 1
                    opened = session.receiver.on_segment(parse_segment(buffer[offset:following]), now)
                if opened is None:
                    connection.on_incomplete(count)
            if opened is not None:
                connection.on_record(opened, following - offset, now)
            offset = following
        self._burst = True
        self.collect()

    def end_burst(self, now: float) -> None:
        if self._burst:
            self._burst = False
            self.connection.on_burst_end(now)

    def collect(self) -> None:
        connection = self.connection
        for channel, sequence, content in connection.arrived:
            self.got.append((channel, content))
            self._untaken.append((channel, sequence))
        connection.arrived = []
        for _, content in connection.arrived_unreliable:
            self.unreliable.append(content)
            connection.unreliable_in.on_taken(len(content))
        connection.arrived_unreliable = []
        if self.taking:
            self.take()
        for token, failure in connection.drain_settled():
            assert token not in self.settled, "settled twice"
            self.settled[token] = failure


class Duo:
    """Two sides and the wire between them.

    Args:
        latency: seconds one way.
        lose: called with (sender, batch number, datagram number, datagram) for every datagram; True loses it.
        mtu: bytes of UDP payload.
    """

    def __init__(
        self,
        *,
        latency: float = 0.01,
        config: Config | None = None,
        config_b: Config | None = None,
        mtu: int = 1200,
        lose: Callable[[Side, int, int, bytes], bool] | None = None,
        start: bool = True,
    ) -> None:
        self.now = 100.0
        self.latency = latency
        self.mtu = mtu
        self.lose = lose
        self.a = Side(self, config or Config(), "a")
        self.b = Side(self, config_b or config or Config(), "b")
        self.a.other, self.b.other = self.b, self.a
        self._wire: list[tuple[float, int, Side, tuple[bytes, ...]]] = []
        self._count = 0
        self.calls = 0
        if start:
            self.start()

    def __iter__(self) -> Iterator[Side]:
        return iter((self.a, self.b))

    def start(self, seed: object = 0) -> None:
        """Both go on under new keys; what is on the wire is lost."""
        self._wire.clear()
        sessions = make_sessions(seed, now=self.now)
        self._openers = {self.a: make_sessions(seed)[1], self.b: make_sessions(seed)[0]}
        for side, session in zip(self, sessions, strict=True):
            side.start(session, self.now, self.mtu)

    def connected(self) -> Duo:
        """Run until both have heard the other's limits, then forget what was sent."""
        self.run(1.0)
        for side in self:
            side.sent.clear()
        return self

    def pump(self) -> None:
        """Let both send what they may now."""
        for side in self:
            side.collect()
            while (output := side.connection.poll_transmit(self.now)) is not None:
                self.calls += 1
                self._leave(side, *output)
            side.collect()

    def _leave(self, side: Side, wire: bytes, size: int) -> None:
        datagrams = tuple(wire[offset : offset + size] for offset in range(0, len(wire), size))
        opener = self._openers[side].receiver
        plaintext = b""
        for datagram in datagrams:
            segment = parse_segment(datagram)
            if not segment.resent:
                opened = opener.on_segment(segment, self.now)
                plaintext = opened.plaintext if opened is not None else b""
        side.sent.append(Batch(self.now, datagrams, parse_frames(plaintext) if plaintext else []))
        kept = datagrams
        if self.lose is not None:
            number = len(side.sent) - 1
            kept = tuple(d for position, d in enumerate(datagrams) if not self.lose(side, number, position, d))
        if kept:
            self._count += 1
            heapq.heappush(self._wire, (self.now + self.latency, self._count, side.other, kept))

    def run(self, seconds: float) -> None:
        """Let this much virtual time pass."""
        self.run_until(lambda: False, seconds)

    def run_until(self, condition: Callable[[], object], seconds: float) -> bool:
        """Run until the condition holds; False if the time passed first."""
        end = self.now + seconds
        self.pump()
        spins, at = 0, self.now
        while not condition():
            when = self._wire[0][0] if self._wire else float("inf")
            timers = [side.connection.next_timer() for side in self]
            when = min(when, *(timer for timer in timers if timer is not None), float("inf"))
            if when > end:
                self.now = end
                return bool(condition())
            self.now = max(self.now, when)
            spins, at = (spins + 1, at) if at == self.now else (0, self.now)
            assert spins < 10_000, "a timer that is never served"
            while self._wire and self._wire[0][0] <= self.now:
                _, _, side, datagrams = heapq.heappop(self._wire)
                side.deliver(datagrams, self.now)
            for side in self:
                side.end_burst(self.now)
                timer = side.connection.next_timer()
                if timer is not None and timer <= self.now:
                    side.connection.on_timer(self.now)
            self.pump()
        return True
