"""The conductor of one peer on the old wire: srudp up to 0.3.8, or the published srmudp 0.0.4, at the other end.

It has the interface of :class:`~.connection.Connection` as far as an endpoint uses it of any peer, and bytes instead of
records: ``on_datagram`` in, ``poll_transmit`` out, ``on_timer`` when ``next_timer`` says so; then ``arrived``,
``drain_settled`` and ``signals`` are looked at. It outlives sessions: what was not acknowledged goes into the next one.

There is no authentication: a session is with whoever answered at the address. See ``OLDWIRE.md`` for the wire.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from enum import Enum
from math import inf
from typing import Final, NamedTuple

from ..config import Config
from ..crypto.backend import Backend
from ..crypto.srudp import Envelope
from ..exceptions import AuthenticationError, DecodeError, RemoteProtocolError
from ..wire.srudp import (
    CONTROL_ACK,
    CONTROL_BCT,
    CONTROL_FIN,
    CONTROL_RTM,
    CYC_INT0,
    ENVELOPE,
    OVERHEAD,
    SMALLEST_PROBE,
    CycInt,
    Dialect,
    Packet,
    Stage,
    packet2bin,
    parse_packet,
    parse_probe,
    parse_stage,
    report,
)
from .credit import OVERHEAD as MESSAGE_OVERHEAD
from .events import Failure
from .srudp_opening import LIFETIME, OldHandshake, PathProbing, Step
from .srudp_stream import FIRST_SEQUENCE, OldReceiveHalf, OldSendHalf

BROADCAST_CHANNEL: Final = 1
"""Broadcasts of an old program arrive on this channel, everything else on 0."""
GOODBYES: Final = 3
"""FIN packets at the end: nobody would repeat a lost one."""
LATE: Final = 0.1
"""Seconds after a FIN in which what it overtook is still taken."""
DOUBTFUL: Final = 1.0
"""Seconds of silence after which a punch is believed to be that of a restarted program."""
HOLD: Final = 0.5
"""Seconds in which such a program is sent nothing but a handshake: anything else would end its ``connect``."""
REMEMBERED_BROADCASTS: Final = 1024
"""Broadcasts that are known again, should somebody send a copy of one."""


class SignalKind(Enum):
    """What the owner of a connection is told."""

    CONNECTED = "connected"
    """A session is there and path MTU discovery is over."""
    ENDED = "ended"
    """The session is over; ``reason`` says why."""
    FAILED = "failed"
    """An opening that was answered came to nothing; ``reason`` says why."""


class Signal(NamedTuple):
    kind: SignalKind
    reason: str = ""


class OldConnection:
    """Everything that concerns one old peer.

    Args:
        dialect: what the other end is.
        random: cryptographic randomness.
        timeout: seconds of silence after which the session is over.
        span: seconds between signs of life, as the old programs have it.
        first: the sequence both ends begin with; 1, but for tests.
    """

    session: None = None
    """Old peers have no native session; see ``established``."""
    recovery: None = None
    path: None = None
    peer_max_message: int | None = None
    urgent: bool = False
    """Nothing is told at once for a message taken: ``next_timer`` says when."""

    def __init__(
        self,
        dialect: Dialect,
        config: Config,
        backend: Backend,
        random: Callable[[int], bytes],
        drops: Counter[str],
        *,
        timeout: float,
        span: float,
        first: int = FIRST_SEQUENCE,
    ) -> None:
        self.dialect = dialect
        self._config = config
        self._backend = backend
        self._random = random
        self._drops = drops
        self._timeout = timeout
        self._span = span
        self._first = first
        self._has_messages = dialect is Dialect.SRMUDP_0_0_4
        self.sending = OldSendHalf(drops, probes=self._has_messages, first=first)
        self.receiving = self._new_receiving()
        self._handshake = self._new_handshake()
        self._probing: PathProbing | None = None
        self._probing_since = -inf
        self._envelope: Envelope | None = None
        self._key = b""  # of the envelope
        self._broadcasts: deque[tuple[int, bytes]] = deque()
        self._broadcast_bytes = 0
        self._settled: list[tuple[int, Failure | None]] = []
        self._seen: dict[bytes, float] = {}  # nonces of broadcasts and when they say they were sent
        self._seen_floor = -inf
        self._untaken_broadcasts = 0
        self._out: deque[bytes] = deque()
        self._heard_at = self._pinged_at = -inf
        self._hold_until = -inf
        self._ending: tuple[float, str] | None = None
        self.established = False
        """True between CONNECTED and ENDED."""
        self.ended_whole = False
        """True if the last session ended with a goodbye, and nothing of what came before it is known to be missing."""
        self.confirmed = False
        """True once a packet opened under the key of this session."""
        self.mtu = 0
        self.public: bytes | None = None
        """The other's public key of this session, raw or PEM. Whoever is in between has put in his own."""
        self.restarts = 0
        self.arrived: list[tuple[int, bytes]] = []
        """(channel, content) to hand out."""
        self.signals: list[Signal] = []
        self.bytes_sent = self.bytes_received = self.datagrams_sent = self.datagrams_received = 0
        self._lost_before = 0

    def _new_handshake(self) -> OldHandshake:
        return OldHandshake(self.dialect, self._backend, self._random, self._drops)

    def _new_receiving(self) -> OldReceiveHalf:
        config = self._config
        return OldReceiveHalf(
            self._drops,
            whole=self._has_messages,
            max_message=config.max_message_size,
            room=config.channel_window,
            first=self._first,
        )

    # --- commands

    def punch(self) -> bool:
        """Send the datagram that opens the way. False if somebody answered: then it would only disturb."""
        if self.established or self._probing is not None or self._handshake.step is not Step.PUNCHING:
            return False
        self._handshake.punch()
        self._flush_opening()
        return True

    def send_message(
        self,
        token: int,
        content: bytes | memoryview,
        channel: int,
        reliable: bool,
        expires: float | None,
        priority: int = 0,
    ) -> None:
        """Queue a message. There is one channel, and no priority; unreliable is a broadcast, where there are any."""
        content = bytes(content)
        if reliable or self._has_messages:
            self.sending.add(token, content, expires)
        elif self._broadcast_bytes + len(content) > self._config.unreliable_queue:
            self._settled.append((token, Failure.DROPPED))
        else:
            self._broadcasts.append((token, content))
            self._broadcast_bytes += len(content)

    @property
    def largest_broadcast(self) -> int:
        """Bytes of a broadcast that fit a datagram of this path."""
        return max(self.mtu, SMALLEST_PROBE) - OVERHEAD

    def application_took(self, channel: int, size: int) -> None:
        """The application has a message of this size that came in this session."""
        if channel == BROADCAST_CHANNEL:
            self._untaken_broadcasts -= size + MESSAGE_OVERHEAD
        else:
            self.receiving.on_taken(size)

    def close(self, now: float) -> None:
        """Say goodbye, if there is anybody to say it to; the datagrams are in ``poll_transmit``."""
        if self._envelope is not None:
            for _ in range(GOODBYES):
                self._seal(CONTROL_FIN, 0, 0, b"closed", now)
        self._envelope = None
        self.established = False

    def end(self, reason: str, now: float) -> None:
        """The session is over; what is queued waits for the next one."""
        kind = SignalKind.ENDED if self.established else SignalKind.FAILED
        self.ended_whole = self._ending is not None and self.receiving.is_whole
        self.stop()
        self.signals.append(Signal(kind, reason))

    def stop(self) -> None:
        """Forget the keys."""
        self._envelope = None
        self._probing = None
        self._ending = None
        self.established = self.confirmed = False
        self._handshake = self._new_handshake()
        self._restart()

    def _restart(self) -> None:
        self._lost_before += self.receiving.requests
        self.sending.restart()
        self.receiving = self._new_receiving()
        self.restarts += 1
        self._seen.clear()
        self._seen_floor = -inf
        self._untaken_broadcasts = 0

    def fail_all(self, reason: Failure) -> None:
        """Give up every queued message."""
        self.sending.fail_all(reason)
        self._settled += [(token, reason) for token, _ in self._broadcasts]
        self._broadcasts.clear()
        self._broadcast_bytes = 0

    def forget(self) -> None:
        """The peer is gone for good."""
        self.stop()

    def forget_peer(self, memory: bytes) -> None:
        """Old peers have no keys that could be forgotten."""

    # --- what is known

    @property
    def pending(self) -> int:
        """Messages not settled."""
        return self.sending.pending + len(self._broadcasts)

    @property
    def all_arrived(self) -> bool:
        """True if the peer has received all of them: nothing more is ever known of it here."""
        return not self.pending

    @property
    def bytes_to_arrive(self) -> int:
        """Bytes of them that it has not acknowledged."""
        return self.queued_bytes

    @property
    def queued_bytes(self) -> int:
        """Bytes of messages not settled."""
        return self.sending.queued_bytes + self._broadcast_bytes

    @property
    def crowding(self) -> int:
        """What the send queue counts."""
        return self.queued_bytes + MESSAGE_OVERHEAD * max(0, self.pending - 1)

    def has_room(self, size: int) -> bool:
        """Whether the send queue takes ``size`` more bytes. An empty one takes any message."""
        return not self.pending or self.crowding + MESSAGE_OVERHEAD + size <= self._config.send_queue

    @property
    def is_opening(self) -> bool:
        """True while a handshake is under way or nothing was heard yet."""
        return self._envelope is None

    @property
    def datagrams_lost(self) -> int:
        """Packets asked for or sent again, over all sessions."""
        return self._lost_before + self.receiving.requests + self.sending.repeated

    @property
    def heard_at(self) -> float | None:
        """When the last packet of the session came."""
        return self._heard_at if self._heard_at > -inf else None

    def drain_settled(self) -> list[tuple[int, Failure | None]]:
        """(token, failure or None) of messages settled since the last call."""
        settled = self._settled + self.sending.settled
        if settled:
            self._settled = []
            self.sending.settled = []
        return settled

    # --- input

    def opens(self, datagram: bytes) -> bool:
        """Whether a datagram is a packet of this session."""
        if self._envelope is None or len(datagram) < OVERHEAD:
            return False
        try:
            self._envelope.open(datagram)
        except AuthenticationError:
            return False
        return True

    def on_datagram(self, datagram: bytes, now: float) -> None:
        """Something came from the address of the peer."""
        self.bytes_received += len(datagram)
        self.datagrams_received += 1
        if self._envelope is not None and len(datagram) >= OVERHEAD and self._on_sealed(datagram, now):
            return
        probe = parse_probe(datagram)
        if probe is not None:
            self._handshake.on_evidence()
            self._on_agreed(now)
            if self._probing is not None:
                self._probing.on_probe(probe, now)
            elif self._envelope is not None and not self.confirmed and not probe.is_report:
                self._out.append(report(probe.size))  # the last report was lost
            else:
                self._drops["old_late_probe"] += 1
            self._flush_opening()
            return
        try:
            handshake = parse_stage(self.dialect, datagram)
        except DecodeError:
            self._drops["old_unreadable"] += 1
            return
        if self._handshake.is_over and handshake.stage is Stage.PUNCH:
            # Perhaps its program was restarted. Only keys agreed on anew end the session that is.
            self._handshake = self._new_handshake()
            if now >= self._heard_at + DOUBTFUL:
                self._hold_until = now + HOLD
        self._handshake.on_stage(handshake, now)
        self._on_agreed(now)
        self._flush_opening()

    def _on_agreed(self, now: float) -> None:
        """Both ends may have a key by now."""
        handshake = self._handshake
        key = handshake.key
        if key is None or self._key_in_use(key):
            return
        if self.established:
            self.end("its program was restarted", now)
        elif self._envelope is not None:
            self.stop()
        self._handshake = handshake
        self._key = key
        self._envelope = Envelope(self._backend, key, self._random)
        self._probing = PathProbing(now, waits=not handshake.is_over)
        self._probing_since = self._heard_at = self._pinged_at = now
        self.public = handshake.public
        self.confirmed = False

    def _key_in_use(self, key: bytes) -> bool:
        return self._envelope is not None and key == self._key

    def _on_sealed(self, datagram: bytes, now: float) -> bool:
        assert self._envelope is not None
        try:
            packet = parse_packet(self._envelope.open(datagram))
        except AuthenticationError:
            if parse_probe(datagram) is None and datagram[0] > 3:
                self._drops["old_forged"] += 1
                return True
            return False
        except DecodeError:
            self._drops["old_unreadable"] += 1
            return True
        self._heard_at = now
        if not self.confirmed:
            self.confirmed = True
            self._handshake.on_evidence()
            self.sending.heard()
        if not self.established:
            self._establish()
        try:
            self._on_packet(packet, datagram, now)
        except RemoteProtocolError as error:
            self._drops["protocol_error"] += 1
            self._seal(CONTROL_FIN, 0, 0, b"closed", now)
            self.end(f"it broke the protocol: {error}", now)
        return True

    def _on_packet(self, packet: Packet, datagram: bytes, now: float) -> None:
        control = packet.control
        if control & CONTROL_ACK:
            self.sending.on_ack(packet.sequence, now)
        elif control & CONTROL_FIN:
            if self._ending is None:
                self._seal(CONTROL_FIN, 0, 0, b"be notified fin or reset", now)
                self._ending = (now + LATE, "its program closed the connection")
        elif control & CONTROL_RTM:
            self.sending.on_request(packet.sequence, now)
        elif control & CONTROL_BCT:
            self._on_broadcast(packet, datagram[: ENVELOPE // 2])
        else:
            self.receiving.on_packet(packet, now)
            self._collect()

    def _collect(self) -> None:
        receiving = self.receiving
        if receiving.arrived:
            self.arrived += [(0, content) for content in receiving.arrived]
            receiving.arrived = []

    def _on_broadcast(self, packet: Packet, nonce: bytes) -> None:
        if self._has_messages:
            self._drops["old_unknown_control"] += 1
            return
        # NaN is above nothing, so it is refused as well.
        if nonce in self._seen or not packet.time > self._seen_floor:
            self._drops["old_replayed"] += 1
            return
        self._seen[nonce] = packet.time
        if len(self._seen) > REMEMBERED_BROADCASTS:
            forgotten = self._seen.pop(next(iter(self._seen)))
            self._seen_floor = max(self._seen_floor, forgotten)
        if self._untaken_broadcasts > self._config.unreliable_queue:
            self._drops["old_broadcast_queue_full"] += 1
            return
        self._untaken_broadcasts += len(packet.data) + MESSAGE_OVERHEAD
        self.arrived.append((BROADCAST_CHANNEL, packet.data))

    @property
    def amid_call(self) -> bool:
        """True if more is to come of what one call to ``send`` sent."""
        return not self.receiving.call_ended

    def _establish(self) -> None:
        """The opening is over."""
        mtu = self._probing.mtu if self._probing is not None else None
        self.mtu = mtu if mtu is not None else SMALLEST_PROBE
        self._probing = None
        self.established = True
        self.signals.append(Signal(SignalKind.CONNECTED))

    def on_burst_end(self, now: float) -> bool:
        """Nothing more is waiting to be read. False: nothing must be sent for it at once."""
        return False

    def on_incomplete(self, datagrams: int) -> None:
        """Never happens on the old wire."""

    # --- time

    def next_timer(self) -> float | None:
        """When :meth:`on_timer` must be called."""
        times = [self._handshake.next_timer(), self._handshake.stale_at()]
        if self._ending is not None:
            times.append(self._ending[0])
        elif self._envelope is None:
            times.append(self.sending.next_expiry())
        elif self._probing is not None:
            times += [self._probing.next_timer(), self._probing_since + LIFETIME, self.sending.next_expiry()]
        else:
            times.append(max(self._hold_until, self._session_timer()))
        return min((when for when in times if when is not None), default=None)

    def _session_timer(self) -> float:
        stuck = self.receiving.stuck_since()
        times = (
            *(self._heard_at + self._timeout, self._pinged_at + self._span),
            *(self.sending.next_timer(), self.receiving.next_timer()),
            None if stuck is None else stuck + self._timeout,
        )
        return min(when for when in times if when is not None)

    def on_timer(self, now: float) -> None:
        """Time has passed."""
        handshake = self._handshake
        if handshake.is_stale(now):
            if self._envelope is not None and not self.confirmed:
                self.end("the handshake was not completed", now)
            self._handshake = self._new_handshake()
        else:
            handshake.on_timer(now)
            self._on_agreed(now)
        if self._ending is not None and now >= self._ending[0]:
            self.end(self._ending[1], now)
        elif self._probing is not None:
            self._on_probing_timer(now)
        elif self._envelope is not None:
            if now >= self._hold_until:
                self._on_session_timer(now)
        else:
            self._send(self.sending.on_timer(now), now)
        self._flush_opening()

    def _on_probing_timer(self, now: float) -> None:
        assert self._probing is not None
        self.sending.on_timer(now)
        if self._probing.is_over(now):
            self._establish()
        elif now >= self._probing_since + LIFETIME:
            self.end("no datagram of the size that old programs need arrives", now)
        else:
            self._probing.on_timer(now)

    def _on_session_timer(self, now: float) -> None:
        stuck = self.receiving.stuck_since()
        if now >= self._heard_at + self._timeout:
            self._seal(CONTROL_FIN, 0, 0, b"stream may be broken", now)
            self.end(f"nothing heard for {self._timeout:g} s", now)
        elif stuck is not None and now >= stuck + self._timeout:
            self._seal(CONTROL_FIN, 0, 0, b"stream may be broken", now)
            self.end("it does not send a packet again that was lost", now)
        else:
            self._send(self.sending.on_timer(now), now)

    def _flush_opening(self) -> None:
        for part in (self._handshake, self._probing):
            if part is not None and part.out:
                self._out += part.out
                part.out = []

    # --- output

    def _may_talk(self, now: float) -> bool:
        return self.established and self._ending is None and now >= self._hold_until

    def poll_transmit(self, now: float) -> bytes | None:
        """The next datagram."""
        if not self._out and self._may_talk(now):
            self._produce(now)
        if not self._out:
            return None
        datagram = self._out.popleft()
        self.bytes_sent += len(datagram)
        self.datagrams_sent += 1
        return datagram

    def _produce(self, now: float) -> None:
        ping = now >= self._pinged_at + self._span
        sequence = self.receiving.take_ack(now, ping=ping)
        if sequence is not None:
            self._pinged_at = now
            self._seal(CONTROL_ACK, sequence, 0, b"as ping" if ping else b"put buffer", now)
            return
        for missing, asked in self.receiving.take_requests(now):
            self._seal(CONTROL_RTM, missing, asked, b"", now)
        if self._out:
            return
        if self._broadcasts:
            token, content = self._broadcasts.popleft()
            self._broadcast_bytes -= len(content)
            if len(content) > self.largest_broadcast:
                self._settled.append((token, Failure.TOO_BIG))
            else:
                self._seal(CONTROL_BCT, 0, 0, content, now)
                self._settled.append((token, None))
            return
        packet = self.sending.poll(self.mtu - OVERHEAD, now)
        if packet is not None:
            self._seal(*packet, now)

    def _send(self, packet: tuple[int, int, int, bytes] | None, now: float) -> None:
        if packet is not None and self._envelope is not None:
            self._seal(*packet, now)

    def _seal(self, control: int, sequence: int, retry: int, data: bytes, now: float) -> None:
        assert self._envelope is not None
        number = CycInt(sequence) if sequence else CYC_INT0
        self._out.append(self._envelope.seal(packet2bin(Packet(control, number, retry, now, data))))
