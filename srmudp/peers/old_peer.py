"""One peer whose program speaks the old wire: an address instead of a key, and a :class:`~..protocol.srudp` machine.

It does for an endpoint what :class:`~.peer.Peer` does, so that nobody but the demultiplexer asks which kind a peer is.
It has no key, cannot roam, and is never made by what arrives: the application says which wire a peer speaks.

On the loopback interface srudp sends from a second socket, so its datagrams come from a port that nobody knows
beforehand; the answers go to the configured one all the same. Such a datagram is given to the peer that it opens under,
or else to one that is still looking for its other end.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from math import inf
from typing import Final, TypeVar

from ..exceptions import DecodeError
from ..models import Address, EventKind, PeerState, PeerStats, PeerStatus, Trust
from ..nat.holepunch import FIRST_PHASE
from ..protocol.events import MessageArrived, MessageSettled, ResolveWanted, RoomFreed
from ..protocol.srudp import OldConnection, Signal, SignalKind
from ..wire.frames import Candidates, CloseCode
from ..wire.srudp import Dialect, dialect_of_punch, parse_probe, parse_stage
from .host import Host, Receipt, Transmit
from .peer import Peer

T = TypeVar("T")

LOOPBACK: Final = frozenset({"127.0.0.1", "::1"})
"""Where srudp has its second socket."""
LEAST_PUNCHES: Final = 0.5
"""Seconds between punches: old programs give up after seven datagrams that do not bring them further."""


class OldPeer(Peer):
    """The state of one peer on the old wire. Every method is called under the endpoint lock."""

    # Not a Connection, but it has all that an endpoint asks of one; tests/peers/test_old_peer.py compares them.
    connection: OldConnection  # type: ignore[assignment]  # see above

    def __init__(self, endpoint: Host[Peer], name: str, now: float, dialect: Dialect) -> None:
        super().__init__(endpoint, name, now)
        self.trust = Trust.UNAUTHENTICATED
        self.dialect = dialect
        self.connection = OldConnection(
            dialect,
            endpoint.config,
            endpoint.backend,
            endpoint.random,
            endpoint.drops,
            timeout=endpoint.timeout,
            span=endpoint.span,
        )
        self._partner: Address | None = None  # the configured address that it answered from
        self._loopback_source: Address | None = None

    # --- what is known

    @property
    def connected(self) -> bool:
        """True while there is a session."""
        return self.connection.established

    @property
    def address(self) -> Address | None:
        """The configured address it answered from."""
        return self._partner

    def status(self, now: float) -> PeerStatus:
        """A snapshot for the application."""
        connection = self.connection
        heard_at = connection.heard_at
        sent = connection.datagrams_sent
        return PeerStatus(
            name=self.name,
            state=self.state,
            address=self.address,
            trust=self.trust,
            rtt=connection.sending.rtt,
            loss=min(1.0, connection.sending.repeated / sent) if sent else 0.0,
            mtu=connection.mtu if self.connected else 0,
            queued=connection.queued_bytes,
            last_seen=now - heard_at if heard_at is not None else None,
            failure=self.failure,
            wire=self.dialect.value,
            stats=PeerStats(
                bytes_sent=connection.bytes_sent,
                bytes_received=connection.bytes_received,
                messages_sent=self.messages_sent,
                messages_received=self.messages_received,
                datagrams_sent=sent,
                datagrams_received=connection.datagrams_received,
                datagrams_lost=connection.datagrams_lost,
            ),
        )

    def claims(self, datagram: bytes, source: Address) -> bool:
        """Whether a datagram from a loopback address that nobody was configured with is this peer's."""
        if source == self._loopback_source:
            return True
        if not any(address.host == source.host for address in self.addresses):
            return False
        if self.connection.established:
            return self.connection.opens(datagram)
        return self.is_opening_of_ours(datagram)

    def is_opening_of_ours(self, datagram: bytes) -> bool:
        """Whether a datagram is of a handshake in this peer's dialect, or a probe."""
        if parse_probe(datagram) is not None:
            return True
        try:
            parse_stage(self.dialect, datagram)
        except DecodeError:
            return False
        return True

    # --- input

    def on_datagram(self, datagram: bytes, source: Address, now: float) -> None:
        """Something came from one of its addresses, or was claimed."""
        where: Address | None = source
        if source not in self.addresses:
            self._loopback_source = source
            where = next((address for address in self.addresses if address.host == source.host), None)
        if not self.connection.established and where is not None:
            self._partner = where
        if not self.connection.established and dialect_of_punch(datagram) not in (None, self.dialect):
            other = next(dialect for dialect in Dialect if dialect is not self.dialect)
            self.failure = f"the program there speaks {other.value}, not {self.dialect.value}; add it with that wire"
        self.connection.on_datagram(datagram, now)
        self._look(now)

    def _look(self, now: float) -> None:
        """Turn what the connection produced into events."""
        connection = self.connection
        restarts = connection.restarts
        arrived, connection.arrived = connection.arrived, []
        signals, connection.signals = connection.signals, []
        for signal in signals:
            if signal.kind is SignalKind.CONNECTED:
                self._on_signal_of_session(signal, now)
        if self.lingering:
            self._endpoint.drops["old_removed_peer"] += len(arrived)
        else:
            self.messages_received += len(arrived)
            for channel, content in arrived:
                receipt = Receipt(self, restarts, channel, 0, len(content))
                self._endpoint.emit(MessageArrived(self.name, None, channel, content, receipt))
        for signal in signals:
            if signal.kind is not SignalKind.CONNECTED:
                self._on_signal_of_session(signal, now)
        self.collect_settled(now)

    def _on_signal_of_session(self, signal: Signal, now: float) -> None:
        if signal.kind is SignalKind.CONNECTED:
            again = self.ever_connected
            self.state = PeerState.CONNECTED
            self.ever_connected = True
            self.failure = None
            reason = "the old wire: whoever answers at the address is taken for the peer"
            self.emit(EventKind.RECONNECTED if again else EventKind.CONNECTED, self._partner, reason)
        elif signal.kind is SignalKind.ENDED:
            self._note_loss(signal.reason, now)
        else:
            self.failure = signal.reason
            self.opening.next_attempt_at = now + LEAST_PUNCHES

    def _note_loss(self, reason: str, now: float) -> None:
        if self.connection.established:
            return  # another session took its place at once
        self.state = PeerState.LOST
        self.failure = reason
        self.since = now
        self.opening.next_attempt_at = now + self.opening.punch_interval(now)
        self.emit(EventKind.LOST, self._partner, reason)
        if not self.lingering:
            self._endpoint.emit(ResolveWanted(self.name))

    def on_taken(self, receipt: Receipt[Peer], now: float) -> None:
        """The application has a message."""
        if receipt.restarts == self.connection.restarts:
            self.connection.application_took(receipt.channel, receipt.size)

    def tell(self, candidates: Candidates) -> bool:
        """Never: the old wire has no word for it."""
        return False

    def look_again(self, now: float) -> None:
        """An old peer has one way."""

    def hand_out_arrived(self) -> None:
        """Nothing is kept back of what an old peer sends."""

    def collect_settled(self, now: float) -> None:
        """Report messages that were delivered or failed."""
        settled = self.connection.drain_settled()
        if not settled:
            return
        for token, failure in settled:
            self._endpoint.emit(MessageSettled(token, self.name, failure))
        if self.room_wanted and self.connection.crowding < self._endpoint.config.send_queue:
            self.room_wanted = False
            self._endpoint.emit(RoomFreed(self.name))
        if self.lingering and not self.connection.pending:
            self._endpoint.finish_removal(self, now)

    # --- time

    @property
    def keepalive_at(self) -> float:
        """Never: signs of life have their own time on the old wire."""
        return inf

    def next_timer(self) -> float | None:
        """When :meth:`on_timer` must be called."""
        times: Iterable[float | None] = (
            self.connection.next_timer(),
            self.linger_until,
            self.opening.next_attempt_at if self._wants_punch() else None,
        )
        return min((when for when in times if when is not None), default=None)

    def may_wait(self, now: float) -> bool:
        """Never: its deadlines are few and cost little."""
        return False

    def _wants_punch(self) -> bool:
        return self.connection.is_opening and bool(self.addresses) and self.state is not PeerState.PASSIVE

    def on_timer(self, now: float) -> None:
        """Time has passed."""
        if self._wants_punch() and now >= self.opening.next_attempt_at:
            self._partner = None if self.connection.punch() else self._partner
            self.opening.next_attempt_at = now + max(LEAST_PUNCHES, self.opening.punch_interval(now))
            if self.failure is None and now - self.since >= FIRST_PHASE:
                self.failure = f"no answer yet: is the other program running, and does it speak {self.dialect.value}?"
        self.connection.on_timer(now)
        self._look(now)
        if self.linger_until is not None and now >= self.linger_until:
            self._endpoint.finish_removal(self, now)

    def on_resumed(self, slept: float, now: float) -> None:
        """We stood still for ``slept`` seconds."""
        if not self.connected:
            self.since = self.opening.next_attempt_at = now
        elif slept >= self._endpoint.timeout:
            self.lose(f"slept for {slept:.0f} s", now)
            self.opening.next_attempt_at = now

    def on_network_changed(self, moved: Container[str], now: float) -> None:
        """Our own way to the peer is another one, or there is one again."""
        self.on_resumed(0.0, now)

    def lose(self, reason: str, now: float, state: PeerState = PeerState.LOST) -> None:
        """The session is over; what was queued waits for the next one."""
        if self.connected:
            self.connection.end(reason, now)
            self._look(now)

    def recover(self, now: float) -> None:
        """A call about this peer was interrupted anywhere in it: the session is given up."""
        self.outbox.clear()
        self.scheduled = None
        if self.connected:
            self.lose("interrupted; connecting anew", now)
        else:
            self.connection.stop()
        self.opening.next_attempt_at = now

    # --- output

    def poll_transmit(self, now: float) -> Transmit | None:
        """The next datagram for the transport."""
        if not self.outbox:
            self._fill(now)
        return self.outbox.popleft() if self.outbox else None

    def _fill(self, now: float) -> None:
        datagram = self.connection.poll_transmit(now)
        if datagram is not None:
            for address in [self._partner] if self._partner is not None else self.addresses:
                if not self.connected:
                    self.trail.on_sent(address, now)
                self.outbox.append(Transmit(datagram, len(datagram), address))

    def send_close(self, code: CloseCode, reason: str, now: float) -> None:
        """Tell the peer that this is the end, if there is a session to say it in."""
        self.connection.close(now)
        while (datagram := self.connection.poll_transmit(now)) is not None:
            if self._partner is not None:
                self.send_datagram(datagram, self._partner, now)


def claimant(peers: Iterable[OldPeer], datagram: bytes, source: Address) -> OldPeer | None:
    """The peer that a datagram from an unknown loopback address belongs to."""
    ours = [peer for peer in peers if any(address.host == source.host for address in peer.addresses)]
    for peer in ours:
        if peer.claims(datagram, source):
            return peer
    # Its program may have been restarted and has another port now.
    if len(ours) == 1 and ours[0].is_opening_of_ours(datagram):
        return ours[0]
    return None
