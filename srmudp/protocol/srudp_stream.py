"""The two halves of a conversation on the old wire: packets out until acknowledged, packets in until in order.

What an old end bears decides the numbers here. It reads one datagram after another in one thread that also decrypts
(about 0.1 ms each), from a socket buffer of the system's default size, some 90 full datagrams. It acknowledges only
where PSH asks for it and every few seconds, cumulatively. srudp (not srmudp 0.0.4) takes an acknowledgement that is
overtaken by a newer one for one of everything: so ours keep a distance in time from each other. And srudp 0.3.8 ends
when it is asked for a packet that it no longer has: so an acknowledgement keeps a distance from requests as well.

Sequences are counted without end here and cut to 32 bits on the wire.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict, deque
from itertools import islice
from math import inf
from typing import Final, NamedTuple

from ..exceptions import RemoteProtocolError
from ..wire.srudp import CONTROL_EOF, CONTROL_PSH, Packet
from .credit import OVERHEAD
from .events import Failure

FIRST_SEQUENCE: Final = 1

INITIAL_WINDOW: Final = 8
"""Packets in flight at first, once the other end was heard."""
LEAST_WINDOW: Final = 4
LARGEST_WINDOW: Final = 64
"""Packets in flight at most: what an old end's socket buffer surely holds while its thread is at something else."""
PUSH_EVERY: Final = 8
"""Every so many packets ask for an acknowledgement."""
BACK_OFF: Final = 0.7
"""What is left of the window after a loss."""
LEAST_TIMEOUT: Final = 0.06
"""Seconds without an acknowledgement before the oldest packet is repeated."""
FIRST_TIMEOUT: Final = 0.3
MOST_REPEATED: Final = 16
"""Packets repeated at once."""
LARGEST_TIMEOUT: Final = 3.0
RESEND_SPACING: Final = 0.02
"""Seconds in which a packet is not asked for twice with effect."""

WINDOW_PACKETS: Final = 4096
"""Packets ahead of the first missing one that are kept."""
WINDOW_BYTES: Final = 1 << 20
"""Their bytes. An old sender has 256 KiB unacknowledged."""
REORDERING: Final = 0.01
"""Seconds a missing packet may be late before it is asked for."""
REQUEST_AGAIN: Final = 0.3
"""Seconds until it is asked for again; doubled each time, up to LARGEST_TIMEOUT."""
REQUESTS_AT_ONCE: Final = 32
"""Requests in a row; the next follow after REORDERING."""
ACK_SPACING: Final = 0.05
"""Seconds between acknowledgements: longer than the network changes the order of two datagrams, see above."""
ACK_AFTER_REQUEST: Final = 0.025
"""Seconds from a request to an acknowledgement, likewise."""
ACK_EVERY: Final = 16
"""Every so many packets are acknowledged unasked: an old sender asks only when 256 KiB are under way."""

_MODULUS: Final = 1 << 32
_HALF: Final = 1 << 31


def unwrap(sequence: int, near: int) -> int:
    """The count nearest to ``near`` whose lowest 32 bits are ``sequence``. May be negative."""
    return near + (sequence - near + _HALF) % _MODULUS - _HALF


class _Message:
    __slots__ = ("content", "expires", "last", "offset", "token")

    def __init__(self, token: int, content: bytes, expires: float | None) -> None:
        self.token = token
        self.content = content
        self.expires = expires
        self.offset = 0  # of what was not sent yet
        self.last: int | None = None  # sequence of its last packet, once sent


class _Sent:
    __slots__ = ("control", "data", "retries", "sent_at")

    def __init__(self, control: int, data: bytes, now: float) -> None:
        self.control = control
        self.data = data
        self.retries = 0
        self.sent_at = now


class Outgoing(NamedTuple):
    """A packet to be sealed and sent."""

    control: int
    sequence: int
    retry: int
    data: bytes


class OldSendHalf:
    """Messages on their way to an old end. Outlives sessions: what was not acknowledged is sent again in the next.

    Args:
        probes: True if a repeated packet is never acknowledged there, so that an empty new one must ask instead.
    """

    def __init__(self, drops: Counter[str], *, probes: bool, first: int = FIRST_SEQUENCE) -> None:
        self._drops = drops
        self._probes = probes
        self._first = first
        self._waiting: deque[_Message] = deque()
        self._sent: deque[_Message] = deque()  # all of them, to the last byte
        self._expiries: list[tuple[float, int, _Message]] = []
        self.queued_bytes = 0
        """Bytes of messages not settled."""
        self.settled: list[tuple[int, Failure | None]] = []
        self.repeated = 0
        """Packets sent more than once."""
        self._begin()

    def _begin(self) -> None:
        self._flight: OrderedDict[int, _Sent] = OrderedDict()
        self._next = self._first
        self._asked: OrderedDict[int, None] = OrderedDict()
        self._since_push = 0
        self._timeouts = 0
        self._progress_at = -inf
        self._recovering_until = -1  # sequence; one loss in a flight counts
        self._window = 1.0
        self._threshold = float(LARGEST_WINDOW)
        self.rtt: float | None = None
        self._deviation = 0.0

    # --- commands

    def add(self, token: int, content: bytes, expires: float | None) -> None:
        """Queue a message."""
        message = _Message(token, content, expires)
        self._waiting.append(message)
        self.queued_bytes += len(content)
        if expires is not None:
            heapq.heappush(self._expiries, (expires, token, message))

    def restart(self) -> None:
        """Another session: sequences begin again and what is not settled is sent anew."""
        for message in self._sent:
            message.last = None
        self._waiting.extendleft(reversed(self._sent))
        self._sent.clear()
        for message in self._waiting:
            message.offset = 0
        self._begin()

    def fail_all(self, reason: Failure) -> None:
        """Give up every message."""
        self.settled += [(message.token, reason) for message in (*self._sent, *self._waiting)]
        self._sent.clear()
        self._waiting.clear()
        self._expiries.clear()
        self.queued_bytes = 0
        self._begin()

    def heard(self) -> None:
        """The other end is past its opening: it takes as much as it bears."""
        self._window = max(self._window, float(INITIAL_WINDOW))

    # --- what is known

    @property
    def pending(self) -> int:
        """Messages not settled."""
        return len(self._waiting) + len(self._sent)

    @property
    def in_flight(self) -> int:
        """Packets not acknowledged."""
        return len(self._flight)

    @property
    def timeout(self) -> float:
        """Seconds without an acknowledgement after which the oldest packet is repeated."""
        base = FIRST_TIMEOUT if self.rtt is None else max(LEAST_TIMEOUT, 2 * self.rtt + 4 * self._deviation)
        return min(LARGEST_TIMEOUT, base * 2.0 ** min(self._timeouts, 10))

    # --- input

    def on_ack(self, sequence: int, now: float) -> None:
        """Everything up to ``sequence`` (32 bits) has arrived."""
        newest = unwrap(sequence, self._next - 1)
        if newest >= self._next:
            self._drops["old_bad_ack"] += 1
            return
        acked = 0
        while self._flight:
            first = next(iter(self._flight))
            if first > newest:
                break
            packet = self._flight.pop(first)
            self._asked.pop(first, None)
            acked += 1
            if first == newest and not packet.retries:
                self._sample(now - packet.sent_at)
        if not acked:
            return
        self._timeouts = 0
        self._progress_at = now
        if self._window < self._threshold:
            self._window += acked
        else:
            self._window += acked / self._window
        self._window = min(self._window, float(LARGEST_WINDOW))
        while self._sent:
            last = self._sent[0].last
            if last is None or last > newest:
                break
            self._settle(self._sent.popleft(), None)

    def _settle(self, message: _Message, failure: Failure | None) -> None:
        message.expires = None
        self.queued_bytes -= len(message.content)
        self.settled.append((message.token, failure))

    def _sample(self, rtt: float) -> None:
        rtt = max(rtt, 1e-5)
        if self.rtt is None:
            self.rtt, self._deviation = rtt, rtt / 2
        else:  # RFC 6298 section 2.3
            self._deviation += (abs(self.rtt - rtt) - self._deviation) / 4
            self.rtt += (rtt - self.rtt) / 8

    def on_request(self, sequence: int, now: float) -> None:
        """The packet of ``sequence`` (32 bits) is missing there."""
        wanted = unwrap(sequence, self._next - 1)
        packet = self._flight.get(wanted)
        if packet is None:
            self._drops["old_stale_request"] += 1
        elif packet.retries and now < packet.sent_at + max(RESEND_SPACING, self.rtt or 0.0):
            self._drops["old_repeated_request"] += 1
        else:
            self._asked[wanted] = None
            self._on_loss()

    def _on_loss(self) -> None:
        first = next(iter(self._flight), self._next)
        if first > self._recovering_until:
            self._recovering_until = self._next - 1
            self._threshold = max(float(LEAST_WINDOW), self._window * BACK_OFF)
            self._window = self._threshold

    # --- output

    def poll(self, size: int, now: float) -> Outgoing | None:
        """The next packet with at most ``size`` bytes of data."""
        while self._asked:
            sequence, _ = self._asked.popitem(last=False)
            packet = self._flight.get(sequence)
            if packet is not None:
                return self._repeat(sequence, packet, now)
        if not self._waiting or len(self._flight) >= int(self._window):
            return None
        message = self._waiting[0]
        data = message.content[message.offset : message.offset + size]
        message.offset += len(data)
        control = 0
        if message.offset >= len(message.content):
            control = CONTROL_EOF
            self._waiting.popleft()
            self._sent.append(message)
            message.last = self._next
        self._since_push += 1
        full = len(self._flight) + 1 >= int(self._window)
        if full or not self._waiting or self._since_push >= PUSH_EVERY:
            control |= CONTROL_PSH
            self._since_push = 0
        return self._append(control, data, now)

    def _append(self, control: int, data: bytes, now: float) -> Outgoing:
        if not self._flight:
            self._progress_at = now
        sequence = self._next
        self._next += 1
        self._flight[sequence] = _Sent(control, data, now)
        return Outgoing(control, sequence % _MODULUS, 0, data)

    def _repeat(self, sequence: int, packet: _Sent, now: float) -> Outgoing:
        packet.retries += 1
        packet.sent_at = now
        self.repeated += 1
        # Whatever closes a gap should be acknowledged at once; old ends look at nothing else of PSH.
        return Outgoing(packet.control | CONTROL_PSH, sequence % _MODULUS, min(packet.retries, 255), packet.data)

    # --- time

    def next_timer(self) -> float | None:
        """When :meth:`on_timer` must be called."""
        when = self._repeat_at()
        expiry = self.next_expiry()
        if expiry is not None and (when is None or expiry < when):
            return expiry
        return when

    def next_expiry(self) -> float | None:
        """When the next message that nothing was sent of is too old."""
        while self._expiries and self._expiries[0][2].expires is None:
            heapq.heappop(self._expiries)
        return self._expiries[0][0] if self._expiries else None

    def _repeat_at(self) -> float | None:
        if not self._flight:
            return None
        oldest = next(iter(self._flight.values()))
        return max(self._progress_at, oldest.sent_at) + self.timeout

    def on_timer(self, now: float) -> Outgoing | None:
        """Repeat the oldest packet if it is time. Returns a packet to send besides."""
        self._expire(now)
        when = self._repeat_at()
        if when is None or now < when:
            return None
        self._timeouts += 1
        self._on_loss()
        # Where duplicates are not acknowledged, the oldest may long be there, and another one be what is missing.
        count = min(MOST_REPEATED, 4 ** (self._timeouts - 1)) if self._probes else 1
        for sequence in islice(self._flight, count):
            self._asked[sequence] = None
        if self._probes:
            newest = next(reversed(self._flight.values()))
            if newest.data or newest.control != CONTROL_PSH:  # one of these is enough
                return self._append(CONTROL_PSH, b"", now)
        return None

    def _expire(self, now: float) -> None:
        late: set[int] = set()
        while self._expiries and (self._expiries[0][0] <= now or self._expiries[0][2].expires is None):
            _, _, message = heapq.heappop(self._expiries)
            if message.expires is not None and message.offset == 0 and message.last is None:
                late.add(id(message))
            message.expires = None
        if late:
            # A message that has begun is finished: the other end could not tell its rest from the next one.
            kept = [message for message in self._waiting if id(message) not in late]
            gone = [message for message in self._waiting if id(message) in late]
            self._waiting = deque(kept)
            for message in gone:
                self._settle(message, Failure.EXPIRED)


class _Missing:
    __slots__ = ("asked", "due", "noticed")

    def __init__(self, now: float) -> None:
        self.noticed = now
        self.due = now + REORDERING
        self.asked = 0


class OldReceiveHalf:
    """What comes from an old end: put in order, cut into messages. One for each session.

    Args:
        whole: True where EOF ends a message; else every packet's data is one.
        max_message: bytes of the largest message.
        room: bytes of messages that may wait for the application before acknowledgements are withheld.
    """

    def __init__(
        self, drops: Counter[str], *, whole: bool, max_message: int, room: int, first: int = FIRST_SEQUENCE
    ) -> None:
        self._drops = drops
        self._whole = whole
        self._max_message = max_message
        self._room = room
        self._next = first
        self._highest = first - 1
        self._held: dict[int, Packet] = {}
        self._held_bytes = 0
        self._missing: OrderedDict[int, _Missing] = OrderedDict()
        self._request_at = inf  # not later than the first of them is due
        self._parts = bytearray()
        self._untaken = 0
        self._told = first - 1
        self._told_at = -inf
        self._asked_at = -inf
        self._unacked = 0
        self._wants_ack = False
        self.arrived: list[bytes] = []
        """Messages in order, to be taken away."""
        self.call_ended = True
        """True if the last packet handed out was the last of one call to ``send``."""
        self.requests = 0
        """Requests for packets that were sent."""

    # --- input

    def on_packet(self, packet: Packet, now: float) -> None:
        """A packet with data, or an empty one in their sequence.

        Raises:
            RemoteProtocolError: a message grew beyond ``max_message``.
        """
        sequence = unwrap(packet.sequence, self._next)
        if packet.control & CONTROL_PSH:
            self._wants_ack = True
        if sequence < self._next or sequence in self._held:
            self._drops["old_duplicate"] += 1
            return
        size = len(packet.data)
        if (
            sequence >= self._next + WINDOW_PACKETS
            or self._untaken > self._room + WINDOW_BYTES
            or (sequence != self._next and self._held_bytes + size > WINDOW_BYTES)
        ):
            self._drops["old_beyond_window"] += 1
            return
        for lost in range(max(self._highest + 1, self._next), sequence):
            self._missing[lost] = _Missing(now)
            self._request_at = min(self._request_at, now + REORDERING)
        self._highest = max(self._highest, sequence)
        self._missing.pop(sequence, None)
        self._held[sequence] = packet
        self._held_bytes += size
        while (following := self._held.pop(self._next, None)) is not None:
            self._held_bytes -= len(following.data)
            self._next += 1
            self._unacked += 1
            self._deliver(following)

    def _deliver(self, packet: Packet) -> None:
        data = packet.data
        self.call_ended = bool(packet.control & CONTROL_EOF)
        if not self._whole:
            if data:
                self._hand_out(data)
            return
        self._parts += data
        if len(self._parts) > self._max_message:
            raise RemoteProtocolError(f"a message above {self._max_message} bytes (max_message_size)")
        if packet.control & CONTROL_EOF:
            message = bytes(self._parts)
            self._parts = bytearray()
            self._hand_out(message)

    def _hand_out(self, message: bytes) -> None:
        self._untaken += len(message) + OVERHEAD
        self.arrived.append(message)

    @property
    def is_whole(self) -> bool:
        """True if nothing is missing, of what is known, nor more to come of one call to ``send``."""
        return self.call_ended and not self._held and not self._missing

    def on_taken(self, size: int) -> None:
        """The application has a message of this size."""
        was_full = self._untaken > self._room
        self._untaken -= size + OVERHEAD
        if was_full and self._untaken <= self._room:
            self._wants_ack = True

    # --- output

    @property
    def acknowledged(self) -> int:
        """The sequence (32 bits) that an acknowledgement says now."""
        if self._untaken <= self._room:
            return (self._next - 1) % _MODULUS
        return self._told % _MODULUS

    def _ack_at(self) -> float | None:
        if self._untaken > self._room or not (self._wants_ack or self._unacked >= ACK_EVERY):
            return None
        return max(self._told_at + ACK_SPACING, self._asked_at + ACK_AFTER_REQUEST)

    def take_ack(self, now: float, *, ping: bool) -> int | None:
        """The sequence (32 bits) to acknowledge, if it is time or for a ``ping``."""
        if not ping:
            when = self._ack_at()
            if when is None or now < when:
                return None
        if self._untaken <= self._room:
            self._told = self._next - 1
        self._told_at = now
        self._wants_ack = False
        self._unacked = 0
        return self._told % _MODULUS

    def take_requests(self, now: float) -> list[tuple[int, int]]:
        """(sequence of 32 bits, how often it was asked for before) of packets to ask for now."""
        if now < self._request_at:
            return []
        due: list[tuple[int, int]] = []
        for sequence, missing in self._missing.items():
            if len(due) >= REQUESTS_AT_ONCE:
                break
            if now >= missing.due:
                due.append((sequence % _MODULUS, min(missing.asked, 255)))
                missing.due = now + min(LARGEST_TIMEOUT, REQUEST_AGAIN * 2.0 ** min(missing.asked, 10))
                missing.asked += 1
        self._request_at = min((missing.due for missing in self._missing.values()), default=inf)
        if len(due) >= REQUESTS_AT_ONCE:
            self._request_at = max(self._request_at, now + REORDERING)
        if due:
            self._asked_at = now
            self.requests += len(due)
        return due

    def next_timer(self) -> float | None:
        """When :meth:`take_ack` or :meth:`take_requests` has something."""
        when = self._ack_at()
        if self._request_at < inf and (when is None or self._request_at < when):
            return self._request_at
        return when

    def stuck_since(self) -> float | None:
        """Since when the oldest missing packet is missing."""
        return next(iter(self._missing.values())).noticed if self._missing else None
