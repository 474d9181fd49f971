"""Flows over one bottleneck in virtual time: what a congestion controller does to a link, to its queue, to others.

::

    clock = Clock()
    link = Bottleneck(clock, rate=50 * MBIT, rtt=0.04, queue=1.0, loss=0.01)
    ours, other = Ours(clock, link), Tcp(clock, link, Cubic(SEGMENT), start=2.0)
    clock.run(30.0)
    rate(ours, 2.0, 30.0), percentile(rtts_between(ours, 2.0, 30.0), 0.95), link.dropped[ours]

:class:`Ours` is the real thing: two :class:`~srmudp.protocol.connection.Connection` with their recovery, controller and
pacer, and real datagrams; only the cipher is left out (:class:`NoCipher`) and the handshake. The link works in batches:
one event carries what left together, so that 1 Gbit/s can be simulated. :class:`Tcp` is a model of what it shares the
link with: an endless sender, an acknowledgement for two packets, recovery as with SACK.

All sizes bytes of UDP payload, times seconds, rates bytes per second.
"""

from __future__ import annotations

import heapq
import random
from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Callable
from math import inf
from typing import Any, Literal, Protocol

from srmudp.config import Config
from srmudp.crypto.backend import Data
from srmudp.models import Address
from srmudp.protocol.congestion import make_controller
from srmudp.protocol.connection import Connection
from srmudp.protocol.controller import AckSample, Controller
from srmudp.protocol.credit import ReceiveBudget
from srmudp.protocol.mtu import MtuDiscovery
from srmudp.protocol.pacer import Pacer
from srmudp.protocol.recovery import Path
from srmudp.protocol.sending import SendHalf
from srmudp.protocol.session import Session
from srmudp.wire.packet import RESEND, parse_run, parse_segment
from tests.connections import make_sessions

__all__ = [
    "MBIT",
    "SEGMENT",
    "Bottleneck",
    "Clock",
    "Flow",
    "NoCipher",
    "Ours",
    "Reno",
    "Tcp",
    "fairness",
    "percentile",
    "rate",
    "rtts_between",
]

MBIT = 1e6 / 8
SEGMENT = 1452
"""Bytes of a full datagram of every flow: what Ethernet carries under IPv6."""
LEAST_QUEUE = 10
"""Datagrams that every queue holds, however small the product of rate and RTT: what a sender begins with."""
TURN = 0.004
"""Seconds from one look of an end at its socket to the next: acknowledgements come in bursts of that length where real
threads take turns. On short paths a 20th of the RTT, but no less than WAKE."""
WAKE = 0.0002


class Clock:
    """Events in virtual time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._count = 0

    def at(self, when: float, action: Callable[[Any], None], argument: Any = None) -> None:
        """Call ``action(argument)`` at that time, or now if it has passed."""
        self._count += 1
        heapq.heappush(self._events, (when if when > self.now else self.now, self._count, action, argument))

    def run(self, until: float) -> None:
        """Let everything happen that is due until then."""
        events, pop = self._events, heapq.heappop
        while events and events[0][0] <= until:
            self.now, _, action, argument = pop(events)
            action(argument)
        self.now = until


class Bottleneck:
    """The narrow place: a rate, a drop-tail queue before it, a delay, and loss of single datagrams by chance behind it.

    The way back has the same delay and loss and no limit.

    Args:
        rtt: of a datagram of no length; half of it each way.
        queue: room for waiting datagrams, in products of rate and RTT, but LEAST_QUEUE datagrams at the least.
        loss: share of the datagrams lost by chance, each way.

    Attributes:
        sent, dropped: datagrams of each flow that came to the queue, and that found it full.
        waits: (time, seconds a datagram of that moment's last batch waits, its datagrams).
        left: bytes that went through up to the end of each batch, and when that was.
    """

    def __init__(
        self, clock: Clock, *, rate: float, rtt: float, queue: float, loss: float = 0.0, seed: object = 1
    ) -> None:
        self.clock, self.rate, self.rtt, self.loss = clock, rate, rtt, loss
        self.room = max(queue * rate * rtt, LEAST_QUEUE * SEGMENT)
        self.chance = random.Random(f"bottleneck/{seed}").random
        self.sent: Counter[object] = Counter()
        self.dropped: Counter[object] = Counter()
        self.waits: list[tuple[float, float, int]] = []
        self.left: list[tuple[float, int]] = []
        self._total = 0
        self._free_at = 0.0

    @property
    def base_rtt(self) -> float:
        """RTT of a full datagram that waits for nothing."""
        return self.rtt + SEGMENT / self.rate

    def carry(self, flow: object, count: int, size: int, last: int) -> tuple[list[int], float, float]:
        """``count`` datagrams of ``size`` bytes, the last one of ``last``, come at once.

        Returns:
            The positions of those that will arrive, when the first one of all would, and the time between two.
        """
        now, rate = self.clock.now, self.rate
        start = self._free_at if self._free_at > now else now
        room = self.room - (start - now) * rate + 1e-6
        self.sent[flow] += count
        passed, total = count, (count - 1) * size + last
        if total > room:
            passed = min(count, int(room // size))
            if not passed and start == now:
                passed = 1  # one always fits an empty queue
            total = passed * size
            self.dropped[flow] += count - passed
        if not passed:
            self.waits.append((now, start - now, count))
            return [], 0.0, 0.0
        self._free_at = end = start + total / rate
        self._total += total
        self.waits.append((now, (start + end) / 2 - now, passed))
        self.left.append((end, self._total))
        survivors = self.survivors(passed)
        return survivors, start + (last if count == 1 else size) / rate + self.rtt / 2, size / rate

    def survivors(self, count: int) -> list[int]:
        """Which of so many datagrams chance spares."""
        if not self.loss:
            return list(range(count))
        chance, loss = self.chance, self.loss
        return [position for position in range(count) if chance() >= loss]

    def queue_between(self, begin: float, end: float) -> list[float]:
        """Seconds that datagrams which came in that time waited, one value for each."""
        return [wait for when, wait, count in self.waits if begin <= when < end for _ in range(count)]

    def busy_since(self, share: float, width: float) -> float | None:
        """When it had first carried that share of what it can for ``width`` seconds; None if it never did."""
        first = 0
        for position, (when, total) in enumerate(self.left):
            while self.left[first][0] < when - width:
                first += 1
            if first and total - self.left[first - 1][1] >= share * self.rate * width and position > first:
                return when
        return None


class Flow(Protocol):
    """What is known of any flow.

    Attributes:
        log: (time, bytes that had reached the receiver until then).
        rtts: (time, RTT sample).
    """

    log: list[tuple[float, int]]
    rtts: list[tuple[float, float]]


def rate(flow: Flow, begin: float, end: float) -> float:
    """Bytes per second that reached its receiver in that time."""
    times = [when for when, _ in flow.log]
    first, last = bisect_right(times, begin), bisect_right(times, end)
    before = flow.log[first - 1][1] if first else 0
    return (flow.log[last - 1][1] - before if last else 0) / (end - begin)


def rtts_between(flow: Flow, begin: float, end: float) -> list[float]:
    """Its RTT samples of that time."""
    times = [when for when, _ in flow.rtts]
    return [rtt for _, rtt in flow.rtts[bisect_left(times, begin) : bisect_left(times, end)]]


def percentile(values: list[float], share: float) -> float:
    """The value that ``share`` of them do not exceed; 0.0 of none."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)] if values else 0.0


# --- ours


class NoCipher:
    """A back end that seals nothing: a record travels in clear, with a tag of zeros."""

    name = "none"

    def aead(self, key: bytes) -> NoCipher:
        return self

    def seal(self, nonce: bytes, plaintext: Data, aad: Data) -> bytes:
        return bytes(plaintext) + bytes(16)

    def open(self, nonce: bytes, ciphertext: Data, aad: Data) -> bytes:
        return bytes(ciphertext[:-16])


class Watched:
    """A controller, and somebody who sees what acknowledgements it is told of."""

    def __init__(self, inner: Controller, see: Callable[[float, AckSample], None]) -> None:
        self._inner, self._see = inner, see

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def on_ack(self, now: float, sample: AckSample) -> None:
        self._inner.on_ack(now, sample)
        self._see(now, sample)


class CountingSendHalf(SendHalf):
    """Counts the bytes that lost records make it send again."""

    again = 0

    def on_lost(self, message: Any, start: int, end: int) -> None:
        self.again += end - start
        super().on_lost(message, start, end)


class _End:
    """One end of ours: a connection, what waits in its socket, its timer."""

    def __init__(self, clock: Clock, turn: float, connection: Connection, send: Callable[[bytes, int], None]) -> None:
        self.clock, self.turn, self.connection, self.send = clock, turn, connection, send
        self.before: Callable[[], None] = lambda: None
        self.opened = 0  # bytes of records
        self._inbox: list[tuple[bytes, int]] = []
        self._looked = -inf
        self._looking = False
        self._wake = inf

    def arrive(self, batch: tuple[bytes, int]) -> None:
        """Datagrams came: looked at once, or a turn after the last look."""
        self._inbox.append(batch)
        if not self._looking:
            self._looking = True
            when = self._looked + self.turn
            if when <= self.clock.now:
                self._look(None)
            else:
                self.clock.at(when, self._look)

    def _look(self, _: None) -> None:
        now = self.clock.now
        self._looked, self._looking = now, False
        inbox, self._inbox = self._inbox, []
        for buffer, size in inbox:
            self._take(buffer, size, now)
        self.connection.on_burst_end(now)
        self.work()

    def _take(self, buffer: bytes, size: int, now: float) -> None:
        connection, session = self.connection, self.connection.session
        assert session is not None
        offset, end = 0, len(buffer)
        while offset < end:
            run = parse_run(buffer, offset, size)
            if run is not None:
                header, aad, ciphertext, following = run
                opened = session.receiver.on_run(header, aad, ciphertext, now)
            else:
                following = offset + size
                opened = session.receiver.on_segment(parse_segment(buffer[offset:following]), now)
                if opened is None:
                    connection.on_incomplete(1)
            if opened is not None:
                connection.on_record(opened, following - offset, now)
                self.opened += len(opened.plaintext)
            offset = following

    def work(self) -> None:
        """Do what is due and send what may be sent."""
        now, connection = self.clock.now, self.connection
        due = connection.next_timer()
        if due is not None and due <= now:
            connection.on_timer(now)
        self.before()
        for _ in range(10_000):
            output = connection.poll_transmit(now)
            if output is None:
                break
            self.send(*output)
        else:
            raise AssertionError("it never stops sending")
        due = connection.next_timer()
        if due is not None and due < self._wake:
            self._wake = due
            self.clock.at(due, self._fire, due)

    def _fire(self, when: float) -> None:
        if when != self._wake:
            return  # an earlier one was set since
        self._wake = inf
        self.work()


class Ours:
    """A transfer of srmudp: endless messages from one connection to the other, taken as they come.

    Args:
        congestion: the controller's name, as in ``Config``.
        start: when it begins.
        connected: when its ends are connected, if before that.
        turn: see TURN.

    Attributes:
        states: (time, state) of the controller, when it changed.
        rates: (time, bytes per second) that the pacer was allowed, after each acknowledgement.
    """

    def __init__(
        self,
        clock: Clock,
        link: Bottleneck,
        *,
        congestion: Literal["bbr", "cubic"] = "bbr",
        start: float = 0.0,
        connected: float | None = None,
        seed: object = "ours",
        turn: float = TURN,
    ) -> None:
        self.clock, self.link, self.start = clock, link, start
        self.log: list[tuple[float, int]] = []
        self.rtts: list[tuple[float, float]] = []
        self.states: list[tuple[float, str]] = []
        self.rates: list[tuple[float, float]] = []
        self.resent = 0
        # Flow control must not be what is measured: room for everything that can be under way, four times.
        window = max(16 << 20, int(4 * (link.rate * link.rtt + link.room)))
        self.config = Config(congestion=congestion, channel_window=window, connection_window=window)
        # Messages of a hundredth of a second: small enough not to come in lumps.
        self._message = bytes(min(1 << 20, max(1400, int(link.rate / 100))))
        self._token = 0
        turn = min(turn, max(WAKE, link.rtt / 20))
        rng = random.Random(f"{seed}/skips")
        self.sending = CountingSendHalf()
        self._near = _End(clock, turn, self._connection(b"near....", rng.randbytes), self._forth)
        self._far = _End(clock, turn, self._connection(b"far.....", rng.randbytes), self._back)
        self._near.connection.sending = self.sending
        self._near.before = self._feed
        self._far.before = self._taken
        begin = start if connected is None else connected
        sessions = make_sessions(seed, backend=NoCipher(), now=begin)  # type: ignore[arg-type]
        clock.at(begin, self._begin, sessions)
        if begin < start:
            clock.at(start, lambda _: self._near.work())

    @property
    def retransmitted(self) -> int:
        """Bytes sent again."""
        return self.resent + self.sending.again

    @property
    def controller(self) -> Controller:
        path = self._near.connection.path
        assert path is not None
        return path.controller

    def _connection(self, memory: bytes, random: Callable[[int], bytes]) -> Connection:
        budget = ReceiveBudget(self.config.receive_budget, self.config.max_message_size)
        return Connection(self.config, Counter(), budget, memory, random=random)

    def _begin(self, sessions: tuple[Session, Session]) -> None:
        now = self.clock.now
        for end, session in zip((self._near, self._far), sessions, strict=True):
            controller = make_controller(self.config.congestion, SEGMENT)
            if end is self._near:
                controller = Watched(controller, self._see)  # type: ignore[assignment]
            discovery = MtuDiscovery(SEGMENT, SEGMENT, now)
            end.connection.start(session, Path(Address("192.0.2.1", 1), discovery, controller, Pacer(now)), now)
        self._near.work()
        self._far.work()

    def _see(self, now: float, sample: AckSample) -> None:
        if sample.rtt is not None:
            self.rtts.append((now, sample.rtt))
        self.rates.append((now, self.controller.pacing_rate))
        state = self.controller.state
        if not self.states or self.states[-1][1] != state:
            self.states.append((now, state))

    def _feed(self) -> None:
        """There is always more to send, from the start on."""
        if self.clock.now < self.start:
            return
        connection = self._near.connection
        channel = self.sending.channels.get(0)
        for _ in range(8 - (len(channel.waiting) if channel is not None else 0)):
            self._token += 1
            connection.send_message(self._token, self._message, 0, True, None)
        connection.drain_settled()

    def _taken(self) -> None:
        connection = self._far.connection
        for channel, sequence, _ in connection.arrived:
            connection.application_took(channel, sequence, self.clock.now)
        connection.arrived = []
        self.log.append((self.clock.now, self._far.opened))

    def _forth(self, wire: bytes, size: int) -> None:
        if wire[0] == RESEND:
            self.resent += len(wire)
        count = -(-len(wire) // size)
        positions, first, gap = self.link.carry(self, count, size, len(wire) - (count - 1) * size)
        turn = self._far.turn
        each = max(1, int(turn / gap)) if gap else 1
        if len(positions) == count and count <= each:
            self.clock.at(first + gap * (count - 1), self._far.arrive, (wire, size))
            return
        # A look of the receiver finds what came in one turn.
        for begin in range(0, len(positions), each):
            found = positions[begin : begin + each]
            datagrams = b"".join([wire[position * size : (position + 1) * size] for position in found])
            self.clock.at(first + gap * found[-1], self._far.arrive, (datagrams, size))

    def _back(self, wire: bytes, size: int) -> None:
        count = -(-len(wire) // size)
        positions = self.link.survivors(count)
        if positions:
            datagrams = b"".join([wire[position * size : (position + 1) * size] for position in positions])
            self.clock.at(self.clock.now + self.link.rtt / 2, self._near.arrive, (datagrams, size))


# --- the others


class Reno:
    """RFC 5681 in bytes, in the frame of RFC 9002 section 7: slow start, a segment more each RTT, half upon loss."""

    name = "reno"

    def __init__(self, segment: int) -> None:
        self._segment = segment
        self._cwnd = 10.0 * segment
        self._threshold = inf
        self._recovery_start = -inf
        self.pacing_rate = inf

    @property
    def window(self) -> int:
        return int(self._cwnd)

    @property
    def state(self) -> str:
        return "slow_start" if self._cwnd < self._threshold else "avoidance"

    def on_sent(self, now: float, size: int, in_flight: int, app_limited: bool) -> None:
        pass

    def on_ack(self, now: float, sample: AckSample) -> None:
        if sample.lost_bytes:
            self.on_lost(now, sample.lost_bytes, sample.newest_lost_sent, sample.in_flight)
        elif self._cwnd < self._threshold:
            self._cwnd += sample.acked_bytes
        else:
            self._cwnd += self._segment * sample.acked_bytes / self._cwnd

    def on_lost(self, now: float, lost_bytes: int, newest_lost_sent: float, in_flight: int) -> None:
        if newest_lost_sent > self._recovery_start:
            self._recovery_start = now
            self._cwnd = self._threshold = max(self._cwnd / 2, 2.0 * self._segment)

    def on_persistent_congestion(self, now: float) -> None:
        self._threshold = max(self._cwnd / 2, 2.0 * self._segment)
        self._cwnd = 1.0 * self._segment
        self._recovery_start = now

    def set_segment_size(self, segment_size: int) -> None:
        self._segment = segment_size


class Tcp:
    """A model of a TCP sender with endless data, not paced: the window is sent as acknowledgements open it.

    The receiver acknowledges every second packet, each one while one is missing, and at latest after ``DELAY``. A
    packet is lost when three later ones were acknowledged (RFC 6675) or nothing came for a retransmission timeout
    (RFC 6298 with Linux's least of 0.2 s).

    Args:
        end: when it stops sending.
    """

    DELAY = 0.040

    def __init__(
        self, clock: Clock, link: Bottleneck, controller: Controller, *, start: float = 0.0, end: float = inf
    ) -> None:
        self.clock, self.link, self.controller, self.start, self.end = clock, link, controller, start, end
        self.log: list[tuple[float, int]] = []
        self.rtts: list[tuple[float, float]] = []
        self.resent = 0
        self._number = self._data = 0
        self._out: dict[int, tuple[int, float]] = {}  # transmission -> (data, when it left)
        self._again: deque[int] = deque()  # data
        self._missing: set[int] = set()  # data that the receiver misses
        self._unacked: list[int] = []  # transmissions that arrived
        self._held = 0  # counts up whenever a held acknowledgement leaves
        self._arrived = self._delivered = 0
        self._srtt: float | None = None
        self._variation = 0.0
        self._last_ack = start
        self._backoff = 1
        clock.at(start, self._send)
        clock.at(start + 1.0, self._expire)

    @property
    def retransmitted(self) -> int:
        """Bytes sent again."""
        return self.resent

    def _send(self, _: None = None) -> None:
        out, link, clock = self._out, self.link, self.clock
        if clock.now >= self.end:
            return
        for _packet in range((self.controller.window - len(out) * SEGMENT) // SEGMENT):
            if self._again:
                data = self._again.popleft()
                self.resent += SEGMENT
            else:
                self._data += 1
                data = self._data
            self._number += 1
            out[self._number] = (data, clock.now)
            survivors, arrival, _gap = link.carry(self, 1, SEGMENT, SEGMENT)
            if survivors:
                self._receive(self._number, data, arrival)
            else:
                self._missing.add(data)

    def _receive(self, number: int, data: int, when: float) -> None:
        """What the receiver will do then; the link keeps the order, so it can be foreseen."""
        self._missing.discard(data)
        self._arrived += SEGMENT
        self.log.append((when, self._arrived))
        self._unacked.append(number)
        if len(self._unacked) >= 2 or self._missing:
            self._acknowledge(when)
        else:
            self.clock.at(when + self.DELAY, self._hold, self._held)

    def _hold(self, held: int) -> None:
        if held == self._held and self._unacked:
            self._acknowledge(self.clock.now)

    def _acknowledge(self, when: float) -> None:
        self._held += 1
        if self.link.survivors(1):
            numbers, self._unacked = self._unacked, []  # else the next one tells of them
            self.clock.at(when + self.link.rtt / 2, self._on_ack, numbers)

    def _on_ack(self, numbers: list[int]) -> None:
        now, out = self.clock.now, self._out
        acked = 0
        sent_at = None
        for number in numbers:
            flight = out.pop(number, None)
            if flight is not None:
                acked += SEGMENT
                sent_at = flight[1]
        lost, newest_lost = 0, -inf
        horizon = numbers[-1] - 3
        while out:
            number = next(iter(out))
            if number > horizon:
                break
            data, left = out.pop(number)
            lost += SEGMENT
            newest_lost = left
            self._again.append(data)
        rtt = None
        if sent_at is not None:
            rtt = now - sent_at
            self.rtts.append((now, rtt))
            if self._srtt is None:
                self._srtt, self._variation = rtt, rtt / 2
            else:
                self._variation += (abs(self._srtt - rtt) - self._variation) / 4
                self._srtt += (rtt - self._srtt) / 8
        self._last_ack = now
        self._backoff = 1
        self._delivered += acked
        sample = AckSample(
            acked_bytes=acked,
            lost_bytes=lost,
            newest_lost_sent=newest_lost,
            in_flight=len(out) * SEGMENT,
            delivered=self._delivered,
            delivered_at_send=0,
            rtt=rtt,
            smoothed_rtt=self._srtt,
            delivery_rate=None,
            app_limited=False,
        )
        self.controller.on_ack(now, sample)
        self._send()

    def _expire(self, _: None) -> None:
        """The retransmission timer, looked at when it may be due."""
        now = self.clock.now
        timeout = 1.0 if self._srtt is None else max(0.2, self._srtt + 4 * self._variation)
        due = self._last_ack + timeout * self._backoff
        if due > now:
            self.clock.at(due, self._expire)
            return
        self._again.extendleft(data for data, _ in reversed(self._out.values()))
        self._out.clear()
        self._backoff = min(2 * self._backoff, 64)
        self.controller.on_persistent_congestion(now)
        self._last_ack = now
        self._send()
        self.clock.at(now + timeout * self._backoff, self._expire)


def fairness(rates: list[float]) -> float:
    """Jain's index: 1.0 if all have the same, 1/n if one has all."""
    return sum(rates) ** 2 / (len(rates) * sum(value * value for value in rates) or 1.0)
