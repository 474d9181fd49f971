"""A model of the old programs for the simulated network, with the faults that our end must not provoke.

It behaves as srudp 0.3.8 and srmudp 0.0.4 were seen to, one datagram or one time-out a turn. ``died`` says what ended
it: an exception in ``connect`` for anything unexpected, a request for a packet that it no longer has. It takes an
acknowledgement that was overtaken for one of everything, acknowledges only where PSH asks for it, and says nearly
everything once.

::

    net = SimNet(1, link=Link(latency=0.01, loss=0.02))
    old = attach(net, "old", "10.0.0.2", Dialect.SRUDP, to=a.address)
    old.node.write(b"bytes", net.now)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from srmudp.crypto.backend import select_backend
from srmudp.crypto.srudp import Envelope, KeyPair
from srmudp.exceptions import AuthenticationError
from srmudp.models import Address
from srmudp.wire.srudp import (
    CHECK_TEXT,
    CONTROL_ACK,
    CONTROL_BCT,
    CONTROL_EOF,
    CONTROL_FIN,
    CONTROL_PSH,
    CONTROL_RTM,
    CYC_INT0,
    OVERHEAD,
    SEND_BUFFER_SIZE,
    CycInt,
    Dialect,
    Handshake,
    Packet,
    Stage,
    bin2packet,
    packet2bin,
    parse_stage,
    probe,
    punch,
    report,
    stage_bytes,
)
from tests.simnet import SimNet, SimNode, Transmit

SPAN: Final = 3.0
TIMEOUT: Final = 21.0


def attach(
    net: SimNet, name: str, ip: str, dialect: Dialect, *, to: Address, port: int = 5000, first: int = 1
) -> SimNode:
    """An old program that calls ``connect`` now, on a host of its own.

    Args:
        first: the first sequence; 1 in a real one.
    """
    if name not in net.hosts:
        net.add_host(name, ip)
    return net.attach(OldProgram(dialect, to, net.entropy(f"{name}/{net.now}"), net.now, first), name, port)


class OldProgram:
    """One socket of an old program, from the call of ``connect`` on. A node of :class:`~tests.simnet.SimNet`."""

    def __init__(
        self, dialect: Dialect, to: Address, random: Callable[[int], bytes], now: float, first: int = 1
    ) -> None:
        self.dialect = dialect
        self.to = to
        self.whole = dialect is Dialect.SRMUDP_0_0_4
        self.died: str | None = None
        self.closed = False
        self.received = bytearray()
        self.messages: list[bytes] = []
        self.broadcasts: list[bytes] = []
        self.stale_acks = 0
        self.mtu = 0
        self._random = random
        self._backend = select_backend()
        self._keys = KeyPair(random, pem=self.whole)
        self._their_public: bytes | None = None
        self._key: bytes | None = None
        self._out: deque[bytes] = deque([punch(dialect)])
        self._turn = self._handshake
        self._turns = int(TIMEOUT / SPAN)
        self._wait = SPAN
        self._wake = now + self._wait
        # path MTU
        self._probe = 1472
        self._largest = 0
        self._told = False
        # stream
        self._next_out = self._next_in = CycInt(first)
        self._buffer: deque[Packet] = deque()
        self._unsent: deque[tuple[bytes, int]] = deque()
        self._send_at: float | None = None
        self._held: dict[int, Packet] = {}
        self._requested: list[Packet] = []
        self._heard_at = self._acked_at = now
        self._message = bytearray()

    @property
    def established(self) -> bool:
        """True once ``connect`` has returned, until it is closed."""
        return self._turn == self._stream and not self.closed and self.died is None

    # --- what the application does

    def write(self, data: bytes, now: float) -> None:
        """``sendall(data)``: everything, a packet each millisecond."""
        size = self.mtu - OVERHEAD
        for start in range(0, len(data) + 1, size):
            last = start + size > len(data)
            self._unsent.append((data[start : start + size], CONTROL_PSH | CONTROL_EOF if last else 0))
        self._send_at = self._send_at or now

    def broadcast(self, data: bytes, now: float) -> None:
        self._seal(CONTROL_BCT, CYC_INT0, 0, data, now)

    def close(self, now: float) -> None:
        self._seal(CONTROL_FIN, CYC_INT0, 0, b"closed", now)
        self.closed = True

    # --- what the network does

    def handle_batch(self, buffer: bytes, segment_size: int, source: Address, now: float) -> None:
        for offset in range(0, len(buffer), segment_size):
            if self.died is None and not self.closed:
                self._take_turn(buffer[offset : offset + segment_size], now)

    def handle_burst_end(self, now: float) -> None:
        """It knows no bursts."""

    def handle_timer(self, now: float) -> None:
        if self.died is not None or self.closed:
            return
        if now >= self._wake:
            self._take_turn(None, now)
        if self._send_at is not None and now >= self._send_at:
            self._send_one(now)

    def next_timer(self) -> float | None:
        if self.died is not None or self.closed:
            return None
        return self._wake if self._send_at is None else min(self._wake, self._send_at)

    def next_job(self) -> None:
        return None

    def finish_job(self, job: object, now: float) -> None:
        """It has none."""

    def poll_transmit(self, now: float) -> Transmit | None:
        if not self._out:
            return None
        datagram = self._out.popleft()
        return Transmit(datagram, len(datagram), self.to)

    def next_event(self) -> None:
        return None

    # --- turns

    def _take_turn(self, datagram: bytes | None, now: float) -> None:
        if self._turns == 0:
            self.died = "timeout"
            return
        self._turns -= 1
        self._turn(datagram, now)
        self._wake = now + self._wait

    def _go_on(self, turn: Callable[[bytes | None, float], None], turns: int, wait: float) -> None:
        self._turn, self._turns, self._wait = turn, turns, wait

    def _say(self, stage: Stage, public: bytes = b"", sealed: bytes = b"") -> None:
        self._out.append(stage_bytes(self.dialect, Handshake(stage, public, sealed)))

    def _handshake(self, datagram: bytes | None, now: float) -> None:
        if datagram is None:
            if self.whole:
                self._turns = 99  # it never gives up
                self._out.append(punch(self.dialect))
            return
        try:
            self._on_stage(parse_stage(self.dialect, datagram))
        except Exception as error:  # whatever it is, it leaves connect()
            self.died = f"{type(error).__name__}: {error}"

    def _on_stage(self, handshake: Handshake) -> None:
        if handshake.stage is Stage.PUNCH:
            self._say(Stage.PUBLIC_KEY, self._keys.public)
        elif handshake.stage is Stage.PUBLIC_KEY:
            self._their_public = handshake.public
            agreed = self._keys.agree(handshake.public)
            self._key = self._random(32)  # another one each time
            sealed = Envelope(self._backend, agreed, self._random).seal(self._key)
            self._say(Stage.SHARED_KEY, self._keys.public, sealed)
        elif handshake.stage is Stage.SHARED_KEY:
            if self._their_public is not None and self._keys.outranks(self._their_public):
                return
            agreed = self._keys.agree(self._their_public or handshake.public)
            self._key = Envelope(self._backend, agreed, self._random).open(handshake.sealed)
            self._say(Stage.ESTABLISHED, sealed=Envelope(self._backend, self._key, self._random).seal(CHECK_TEXT))
            self._go_on(self._find_mtu, 420, 0.05)
        else:
            assert self._key is not None, "no key yet"
            assert Envelope(self._backend, self._key, self._random).open(handshake.sealed) == CHECK_TEXT
            self._go_on(self._find_mtu, 420, 0.05)

    def _find_mtu(self, datagram: bytes | None, now: float) -> None:
        if datagram is not None and datagram.startswith(b"#####"):
            if len(datagram) < self._largest:
                self._out.append(report(self._largest))
                self._told = True
            self._largest = max(self._largest, len(datagram))
        elif datagram is not None:
            if len(datagram) == 4:
                self.mtu = int.from_bytes(datagram, "little")
        elif self._told and self.mtu:
            self._heard_at = self._acked_at = now
            assert self._key is not None
            self._envelope = Envelope(self._backend, self._key, self._random)
            self._go_on(self._stream, -1, SPAN)
        elif self._probe > 1024:
            if not self.mtu:
                self._out.append(probe(self._probe))
            self._probe -= 16

    # --- the stream

    def _seal(self, control: int, sequence: CycInt, retry: int, data: bytes, now: float) -> Packet:
        packet = Packet(control, sequence, retry, now, data)
        self._out.append(self._envelope.seal(packet2bin(packet)))
        return packet

    def _send_one(self, now: float) -> None:
        if sum(len(packet.data) for packet in self._buffer) > SEND_BUFFER_SIZE:
            self._send_at = None  # until it is acknowledged
            return
        data, control = self._unsent.popleft()
        full = sum(len(packet.data) for packet in self._buffer) + len(data) > SEND_BUFFER_SIZE
        self._buffer.append(self._seal(control | CONTROL_PSH * full, self._next_out, 0, data, now))
        self._next_out += 1
        self._send_at = now + 0.001 if self._unsent else None

    def _stream(self, datagram: bytes | None, now: float) -> None:
        late = [i for i, packet in enumerate(self._buffer) if packet.time < now - 2 * SPAN][:4]
        for i in late:
            packet = self._buffer[i]
            self._buffer[i] = self._seal(packet.control, packet.sequence, packet.retry + 1, packet.data, now)
        if now - self._acked_at > SPAN:
            self._ack(b"as ping", now)
        if now - self._heard_at > TIMEOUT:
            self.died = "stream may be broken"
        if datagram is None:
            return
        try:
            packet = bin2packet(self._envelope.open(datagram))
        except AuthenticationError:
            return
        self._heard_at = now
        if packet.control & CONTROL_ACK:
            self._on_ack(packet.sequence, now)
        elif packet.control & CONTROL_FIN:
            self._seal(CONTROL_FIN, CYC_INT0, 0, b"be notified fin or reset", now)
            self.closed = True
        elif packet.control & CONTROL_RTM:
            for i, held in enumerate(self._buffer):
                if held.sequence == packet.sequence:
                    self._buffer[i] = self._seal(held.control, held.sequence, held.retry + 1, held.data, now)
                    return
            self.died = f"asked for packet {int(packet.sequence)}, which it no longer has"
        elif packet.control & CONTROL_BCT:
            self.broadcasts.append(packet.data)
        else:
            self._on_data(packet, now)

    def _ack(self, text: bytes, now: float) -> None:
        self._seal(CONTROL_ACK, self._next_in - 1, 0, text, now)
        self._acked_at = now

    def _on_ack(self, sequence: CycInt, now: float) -> None:
        if not self._buffer:
            return
        count = int(sequence - self._buffer[0].sequence + 1)
        if count > len(self._buffer):
            self.stale_acks += 1
            if self.whole:
                return
        for _ in range(min(count, len(self._buffer))):
            self._buffer.popleft()
        if self._unsent and self._send_at is None:
            self._send_at = now

    def _on_data(self, packet: Packet, now: float) -> None:
        if packet.retry:
            self._requested = [asked for asked in self._requested if asked.sequence > packet.sequence]
        duplicate = packet.sequence < self._next_in
        if not duplicate:
            self._held[int(packet.sequence)] = packet
            lost = packet.sequence - 1
            known = lost < self._next_in or int(lost) in self._held
            if not known and not any(asked.sequence == lost for asked in self._requested):
                self._requested.append(self._seal(CONTROL_RTM, lost, 0, b"", now))
        while int(self._next_in) in self._held:
            packet = self._held.pop(int(self._next_in))  # and so the last one decides about the acknowledgement
            self._next_in += 1
            self._deliver(packet)
            if self.whole and packet.control & CONTROL_PSH:
                self._ack(b"put buffer", now)
        if packet.control & CONTROL_PSH and not self.whole:
            self._ack(b"put buffer", now)

    def _deliver(self, packet: Packet) -> None:
        self.received += packet.data
        self._message += packet.data
        if packet.control & CONTROL_EOF:
            self.messages.append(bytes(self._message))
            self._message.clear()
