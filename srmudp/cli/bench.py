"""``srmudp bench``: how fast, how quick and how lossy the way between two machines is, through srmudp itself.

Messages; the first byte says what each is. Bulk goes reliably, pings do not and overtake it::

    BULK    bytes without meaning
    PING    8 bytes, which come back in a PONG
    DOWN    milliseconds (2 bytes): the listening end is to send BULK for so long
    REPORT  datagrams sent and lost while it did, 8 bytes each
    BUSY    it sends to somebody else at the moment
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic, sleep
from typing import TYPE_CHECKING, NamedTuple

from .. import Delivery, Message, MultiHolepunchSocket, PeerStats, QueueFull, SrmudpError
from .meeting import Meeting, Unmet, add_listening, add_options, check_listening
from .text import Bar, Screen, amount, clean, duration

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

CHANNEL, PINGS = 42, 43
BULK, PING, PONG, DOWN, REPORT, BUSY = (bytes((kind,)) for kind in range(1, 7))
CHUNK = 64 * 1024
MAX_SECONDS = 60
_LEAST, _MOST = 4 * CHUNK, 12 * 1024 * 1024
"""Bytes that are under way: at least, at most; in between what goes through in half a second."""
_PING_EVERY = 0.05
_TICK = 0.2
_PATIENCE = 10.0

_EXAMPLES = """\
examples:
  srmudp bench --listen                   at the one end; prints what to type
  srmudp bench ADDRESS                    about eleven seconds
  srmudp bench ADDRESS -s 30              30 seconds in each direction
  srmudp bench -l -p 8000 192.0.2.7:8000  two home routers: both knock

Up is from here to there. A round trip under load says how long the queue on
the way is; loss is that of datagrams, which srmudp makes good. --listen serves
until Ctrl-C.
"""


def add_to(commands: Commands) -> None:
    """Add ``bench``."""
    parser = commands.add_parser(
        "bench",
        help="measure rate, round trips and loss between two machines",
        description="Rate, round trips and loss between two machines, through srmudp itself.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_listening(parser, "answer those who measure")
    parser.add_argument(
        "-s",
        "--seconds",
        type=_duration,
        default=5.0,
        metavar="N",
        help="seconds in each direction, at most 60 (default: 5)",
    )
    parser.add_argument("-1", "--once", action="store_true", help="with --listen: end when the first one has left")
    add_options(parser)
    parser.set_defaults(run=_run, fail=parser.error)


class _Row(NamedTuple):
    """What one part of the measurement gave."""

    what: str
    bytes: int
    seconds: float
    trips: list[float]
    stats: tuple[int, int]

    @property
    def rate(self) -> float:
        return self.bytes / self.seconds if self.seconds > 0 else 0.0


def pump(
    sock: MultiHolepunchSocket, name: str, seconds: float, tick: Callable[[int, float], None]
) -> tuple[int, float]:
    """Send to ``name`` for so long, never more than half a second's worth ahead.

    Args:
        tick: called now and then with the bytes that were taken and the seconds that went by.

    Returns:
        The bytes that were taken, and in what time.

    Raises:
        SrmudpError: the peer or the socket is gone.
    """
    block = BULK + os.urandom(CHUNK)
    under_way: deque[Delivery] = deque()
    begun = monotonic()
    taken, spent, told = 0, 0.0, 0.0
    while spent < seconds:
        limit = min(_MOST, max(_LEAST, taken / spent / 2 if spent else 0))
        if len(under_way) * CHUNK < limit:
            try:
                under_way.append(sock.send(block, name, channel=CHANNEL, timeout=_TICK))
            except QueueFull:
                pass
        else:
            under_way[0].wait(_TICK)
        spent = monotonic() - begun
        while under_way and not under_way[0].pending:
            if under_way.popleft().failed:
                raise Unmet("the connection is over")
            taken += CHUNK
        if spent - told >= _TICK:
            told = spent
            tick(taken, spent)
    return taken, spent


# --- the end that answers ---


class _Server:
    def __init__(self, meeting: Meeting) -> None:
        self._meeting = meeting
        self._sock = meeting.sock
        self._sending: threading.Thread | None = None

    def run(self, *, once: bool) -> None:
        """Answer; with ``once`` until the first who came has left."""
        name = self._meeting.meet()
        while True:
            message = self._sock.receive(timeout=_TICK)
            if message is not None:
                self._answer(message.content[:1], message)
            elif once:
                try:
                    self._meeting.check(name, ended_is_over=True)
                except Unmet:
                    return

    def _answer(self, kind: bytes, message: Message) -> None:
        if kind == PING and len(message.content) == 9:
            self._send(PONG + message.content[1:], message.peer, reliable=False)
        elif kind == DOWN and len(message.content) == 3:
            if self._sending is not None and self._sending.is_alive():
                self._send(BUSY, message.peer)
                return
            seconds = min(MAX_SECONDS, int.from_bytes(message.content[1:], "big") / 1000)
            self._sending = threading.Thread(target=self._pump, args=(message.peer, seconds), daemon=True)
            self._sending.start()

    def _pump(self, name: str, seconds: float) -> None:
        try:
            before = _stats(self._sock, name)
            pump(self._sock, name, seconds, lambda taken, spent: None)
            sent, lost = _since(before, _stats(self._sock, name))
            self._send(REPORT + sent.to_bytes(8, "big") + lost.to_bytes(8, "big"), name)
        except SrmudpError:
            pass  # whoever asked is gone

    def _send(self, data: bytes, name: str, *, reliable: bool = True) -> None:
        try:
            channel = CHANNEL if reliable else PINGS
            self._sock.send(data, name, channel=channel, reliable=reliable, timeout=0)
        except (QueueFull, KeyError):
            pass


# --- the end that measures ---


class _Client:
    def __init__(self, meeting: Meeting, name: str, seconds: float, screen: Screen) -> None:
        self._meeting = meeting
        self._sock = meeting.sock
        self._name = name
        self._seconds = seconds
        self._screen = screen
        self._lock = threading.Lock()
        self._received = 0
        self._last = 0.0  # when the last of it came
        self._report: tuple[int, int] | None = None
        self._busy = False
        self._pings: dict[bytes, float] = {}
        self._trips: list[float] = []
        self._next_ping = 0
        self._over = threading.Event()

    def run(self) -> list[_Row]:
        """The three parts.

        Raises:
            SrmudpError: the other end is gone.
        """
        self._sock.register_message_hook(self._handle)
        pinger = threading.Thread(target=self._ping, name="srmudp-bench", daemon=True)
        pinger.start()
        try:
            return [self._idle(), self._up(), self._down()]
        finally:
            self._over.set()
            pinger.join()

    def _idle(self) -> _Row:
        deadline = monotonic() + _PATIENCE
        while len(self._trips) < 20:
            self._check(deadline)
            sleep(_PING_EVERY)
        return _Row("idle", 0, 0.0, self._take_trips(), (0, 0))

    def _up(self) -> _Row:
        before = _stats(self._sock, self._name)
        with self._screen.progress() as bar:
            last = (0, 0.0)

            def tick(taken: int, spent: float) -> None:
                nonlocal last
                self._check()
                self._show(bar, "up", spent, (taken - last[0]) / (spent - last[1]))
                last = taken, spent

            taken, spent = pump(self._sock, self._name, self._seconds, tick)
        return _Row("up", taken, spent, self._take_trips(), _since(before, _stats(self._sock, self._name)))

    def _down(self) -> _Row:
        self._sock.send(DOWN + int(self._seconds * 1000).to_bytes(2, "big"), self._name, channel=CHANNEL)
        begun = monotonic()
        deadline = begun + self._seconds + _PATIENCE
        counted, then = 0, begun
        with self._screen.progress() as bar:
            while self._report is None:
                self._check(deadline)
                if self._busy:
                    raise Unmet("the other end measures with somebody else; try again later")
                sleep(_TICK)
                now, received = monotonic(), self._received
                self._show(bar, "down", now - begun, (received - counted) / (now - then))
                counted, then = received, now
        return _Row("down", self._received, self._last - begun, self._take_trips(), self._report)

    def _check(self, deadline: float | None = None) -> None:
        self._meeting.check(self._name, ended_is_over=True)
        if deadline is not None and monotonic() > deadline:
            raise Unmet("the other end does not answer; is it 'srmudp bench --listen'?")

    def _show(self, bar: Bar, what: str, spent: float, rate: float) -> None:
        status = self._sock.connections_status[self._name]
        rtt = duration(status.rtt) if status.rtt is not None else "-"
        bar.show(spent / self._seconds, f"{what:4} {amount(rate):>8}/s  RTT {rtt:>6}  loss {status.loss:.1%}")

    def _take_trips(self) -> list[float]:
        with self._lock:
            trips, self._trips = self._trips, []
        return sorted(trips)

    def _ping(self) -> None:
        while not self._over.wait(_PING_EVERY):
            number = self._next_ping.to_bytes(8, "big")
            self._next_ping += 1
            with self._lock:
                self._pings[number] = monotonic()
                while len(self._pings) > 1000:
                    del self._pings[next(iter(self._pings))]
            try:
                self._sock.send(PING + number, self._name, channel=PINGS, reliable=False, timeout=0)
            except QueueFull:
                continue
            except (SrmudpError, KeyError):
                return

    def _handle(self, message: Message) -> None:
        now, kind = monotonic(), message.content[:1]
        if message.peer != self._name:
            return
        if kind == BULK:
            self._received += len(message.content) - 1
            self._last = now
        elif kind == PONG:
            with self._lock:
                sent = self._pings.pop(message.content[1:], None)
                if sent is not None:
                    self._trips.append(now - sent)
        elif kind == REPORT and len(message.content) == 17:
            self._report = int.from_bytes(message.content[1:9], "big"), int.from_bytes(message.content[9:], "big")
        elif kind == BUSY:
            self._busy = True


def _stats(sock: MultiHolepunchSocket, name: str) -> PeerStats:
    status = sock.connections_status.get(name)
    return PeerStats() if status is None else status.stats


def _since(before: PeerStats, after: PeerStats) -> tuple[int, int]:
    """Datagrams sent and lost."""
    return (
        max(0, after.datagrams_sent - before.datagrams_sent),
        max(0, after.datagrams_lost - before.datagrams_lost),
    )


def _table(rows: list[_Row], screen: Screen) -> None:
    def trip(trips: list[float], share: float) -> str:
        return duration(trips[min(len(trips) - 1, int(len(trips) * share))]) if trips else "-"

    cells = []
    for row in rows:
        sent, lost = row.stats
        moved = (
            (f"{amount(row.rate)}/s", f"{row.rate * 8 / 1e6:.1f}", amount(row.bytes)) if row.seconds > 0 else ("",) * 3
        )
        loss = f"{min(1.0, lost / sent):.2%}" if sent else ""
        cells.append((row.what, *moved, trip(row.trips, 0.5), trip(row.trips, 0.95), loss))
    heads = ("", " rate", " Mbit/s", " moved", " RTT median", " RTT 95 %", " loss")
    screen.table(heads, cells, indent="")


def _run(arguments: argparse.Namespace) -> int:
    check_listening(arguments)
    screen = Screen()
    try:
        with Meeting(arguments, "bench", address=arguments.address, many=arguments.listen) as meeting:
            if arguments.listen:
                meeting.introduce("srmudp bench ADDRESS", sys.stdout)
                _Server(meeting).run(once=arguments.once)
                return 0
            name = meeting.meet()
            status = meeting.sock.connections_status[name]
            screen.line(clean(f"connected to {status.address}, PeerId {status.peer_id}"))
            rows = _Client(meeting, name, arguments.seconds, screen).run()
            mtu = meeting.sock.connections_status[name].mtu
            meeting.sock.close(timeout=1.0)
    except (SrmudpError, ValueError) as error:
        print(f"srmudp bench: {clean(str(error))}", file=sys.stderr)
        return 1
    screen.line()
    _table(rows, screen)
    screen.line(f"\ndatagrams of up to {mtu:,} bytes")
    return 0


def _duration(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if 0.1 <= seconds <= MAX_SECONDS:
        return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.1 to {MAX_SECONDS}")
