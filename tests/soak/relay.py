"""What lies between the programs of a storm: each talks to the others through ports of ours.

Program ``i`` is told that ``j`` is at ``relay.address(i, j)``, and sees what ``j`` sends come from there, or from
another port once ``j`` was rebound. One thread forwards; whatever else is asked of it is done on that thread, between
two datagrams.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import random
import selectors
import socket
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from time import monotonic
from types import TracebackType
from typing import Final, NamedTuple, Self

from srmudp.crypto.keys import punch_tag
from srmudp.models import PeerId
from srmudp.wire.packet import KEY, PUBLIC_KEY, PUNCH, RECORD, RESEND, SHARED_KEY, punch_header, punch_payload
from tests.soak.disturbances import Weather

HOST: Final = "127.0.0.1"
_BUFFER: Final = 1024 * 1024
_BURST: Final = 16
_RECORDED: Final = 4000
_RECORDED_SIZE: Final = 1500
_STRANGERS: Final = 32
_TICK: Final = 0.01

Pair = tuple[int, int]


class _Flood(NamedTuple):
    victim: int
    rate: float
    key: PeerId


class _Face:
    """What program ``owner`` takes for program ``other``: a port that stays, and the one that is spoken from."""

    def __init__(self, owner: int, other: int) -> None:
        self.owner, self.other = owner, other
        self.home = self.current = _socket()
        self.deaf = 0  # rebindings during which the home port hears nothing


class Relay:
    """Forwards between the programs at ``ports``. To be used in a ``with`` block.

    Attributes:
        counts: datagrams by what became of them.
    """

    def __init__(self, ports: Sequence[int], keys: Sequence[PeerId], seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self._ports = [(HOST, port) for port in ports]
        self._keys = list(keys)
        self._random = random.Random(f"relay/{seed}")
        self._faces = {(i, j): _Face(i, j) for i in range(len(ports)) for j in range(len(ports)) if i != j}
        self._strangers = [_socket(64 * 1024) for _ in range(_STRANGERS)]
        self._blocked: Counter[Pair] = Counter()
        self._weather: dict[Pair, list[Weather]] = {}
        self._floods: list[_Flood] = []
        self._recorded: deque[tuple[Pair, bytes]] = deque(maxlen=_RECORDED)
        self._later: list[tuple[float, int, Pair, bytes]] = []
        self._order = count()
        self._work: deque[Callable[[], None]] = deque()
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        for face in self._faces.values():
            self._selector.register(face.home, selectors.EVENT_READ, face)
        self._stop = False
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop = True
        self._nudge()
        self._thread.join(10)
        faces = self._faces.values()
        for sock in {*(f.home for f in faces), *(f.current for f in faces), *self._strangers, self._wake, self._woken}:
            sock.close()
        self._selector.close()
        if self._fault is not None and kind is None:
            raise self._fault

    def address(self, owner: int, other: int) -> str:
        """Where ``owner`` finds ``other``."""
        return f"{HOST}:{self._faces[owner, other].home.getsockname()[1]}"

    # --- disturbances; each returns when it is done

    def block(self, pairs: Iterable[Pair]) -> None:
        """Nothing gets through from the first to the second of these pairs, until :meth:`unblock`."""
        self._do(lambda: self._blocked.update(pairs))

    def unblock(self, pairs: Iterable[Pair]) -> None:
        """Undo one :meth:`block`."""
        self._do(lambda: self._blocked.subtract(pairs))

    def worsen(self, pairs: Iterable[Pair], weather: Weather) -> None:
        """Bad weather from the first to the second of these pairs, until :meth:`clear`."""

        def do() -> None:
            for pair in pairs:
                self._weather.setdefault(pair, []).append(weather)

        self._do(do)

    def clear(self, pairs: Iterable[Pair], weather: Weather) -> None:
        """Undo one :meth:`worsen`."""

        def undo() -> None:
            for pair in pairs:
                self._weather[pair].remove(weather)
                if not self._weather[pair]:
                    del self._weather[pair]

        self._do(undo)

    def rebind(self, who: int) -> None:
        """Everybody sees ``who`` at new ports. The ports before are deaf, the first ones until :meth:`restore`."""

        def swap() -> None:
            for (_, other), face in self._faces.items():
                if other != who:
                    continue
                face.deaf += 1
                if face.current is not face.home:
                    self._selector.unregister(face.current)
                    face.current.close()
                face.current = _socket()
                self._selector.register(face.current, selectors.EVENT_READ, face)

        self._do(swap)

    def restore(self, who: int) -> None:
        """The addresses everybody was told lead to ``who`` again, beside the newest; undoes one :meth:`rebind`."""

        def hear() -> None:
            for (_, other), face in self._faces.items():
                if other == who:
                    face.deaf -= 1

        self._do(hear)

    def flood(self, victim: int, rate: float) -> None:
        """Send ``rate`` datagrams a second nobody asked for, until :meth:`dry`."""
        self._do(lambda: self._floods.append(_Flood(victim, rate, self._keys[victim])))

    def dry(self, victim: int, rate: float) -> None:
        """Undo one :meth:`flood`."""
        self._do(lambda: self._floods.remove(_Flood(victim, rate, self._keys[victim])))

    # --- the thread

    def _do(self, work: Callable[[], object]) -> None:
        done = threading.Event()

        def run() -> None:
            work()
            done.set()

        self._work.append(run)
        self._nudge()
        if not done.wait(30):
            raise RuntimeError("the relay does not answer") from self._fault

    def _nudge(self) -> None:
        with contextlib.suppress(OSError):
            self._wake.send(b"\0")

    def _run(self) -> None:
        next_tick = monotonic()
        try:
            while not self._stop:
                now = monotonic()
                wait = 5.0
                if self._later:
                    wait = max(0.0, self._later[0][0] - now)
                if self._floods:
                    wait = min(wait, max(0.0, next_tick - now))
                for key, _ in self._selector.select(wait):
                    if key.data is None:
                        self._woken.recv(4096)
                        while self._work:
                            self._work.popleft()()
                    else:
                        self._read(key.fileobj, key.data)  # type: ignore[arg-type]  # only sockets are registered
                now = monotonic()
                while self._later and self._later[0][0] <= now:
                    _, _, pair, datagram = heapq.heappop(self._later)
                    self._pass(pair, datagram)
                if self._floods and now >= next_tick:
                    next_tick = now + _TICK
                    for flood in self._floods:
                        for _ in range(int(flood.rate * _TICK)):
                            self._junk(flood)
        except BaseException as error:
            self._fault = error

    def _read(self, sock: socket.socket, face: _Face) -> None:
        pair = (face.owner, face.other)
        source = self._ports[face.owner]
        for _ in range(_BURST):
            try:
                datagram, sender = sock.recvfrom(65_535)
            except OSError:  # nothing more, or closed by a rebinding since it became readable
                return
            if sender != source:
                continue
            if face.deaf and sock is face.home:
                self.counts["deaf"] += 1
                continue
            if len(datagram) <= _RECORDED_SIZE:
                self._recorded.append((pair, datagram))
            if self._blocked[pair] > 0:
                self.counts["blocked"] += 1
                continue
            weathers = self._weather.get(pair)
            if weathers is None:
                self._pass(pair, datagram)
                continue
            self._expose(pair, datagram, weathers)

    def _expose(self, pair: Pair, datagram: bytes, weathers: list[Weather]) -> None:
        rng = self._random
        copies, delay = 1, 0.0
        for weather in weathers:
            if rng.random() < weather.loss:
                self.counts["lost"] += 1
                return
            copies += rng.random() < weather.twice
            if rng.random() < weather.late:
                delay = max(delay, rng.uniform(0, weather.delay))
        self.counts["repeated"] += copies - 1
        for _ in range(copies):
            if delay:
                self.counts["late"] += 1
                heapq.heappush(self._later, (monotonic() + delay, next(self._order), pair, datagram))
            else:
                self._pass(pair, datagram)

    def _pass(self, pair: Pair, datagram: bytes) -> None:
        sender, receiver = pair
        self._send(self._faces[receiver, sender].current, datagram, receiver)
        self.counts["forwarded"] += 1

    def _send(self, sock: socket.socket, datagram: bytes, receiver: int) -> None:
        try:
            sock.sendto(datagram, self._ports[receiver])
        except OSError:  # its buffer is full, or nobody is there
            self.counts["unsent"] += 1

    def _junk(self, flood: _Flood) -> None:
        """One datagram that nobody asked for: from a stranger, or as if from a peer."""
        rng, victim = self._random, flood.victim
        if rng.random() < 0.5:
            sock = rng.choice(self._strangers)
        else:
            sock = self._faces[victim, rng.choice([i for i in range(len(self._ports)) if i != victim])].current
        kind = rng.randrange(8)
        if kind == 0:
            first = rng.choice((PUNCH, PUBLIC_KEY, SHARED_KEY, RECORD, RESEND, 0, 0xC4, rng.randrange(256)))
            datagram = bytes((first,)) + rng.randbytes(rng.choice((0, 9, 30, rng.randrange(1400))))
        elif kind == 1 and rng.random() < 0.2:
            datagram = _punch(flood.key if rng.random() < 0.5 else None)
        elif not self._recorded:
            datagram = b""
        else:
            (_, receiver), datagram = self._recorded[rng.randrange(len(self._recorded))]
            if kind <= 4 and receiver != victim:  # more often one that was meant for the victim
                receivers = (self._recorded[rng.randrange(len(self._recorded))] for _ in range(20))
                datagram = next((d for (_, r), d in receivers if r == victim), datagram)
            if kind in (3, 5):
                place = rng.randrange(len(datagram)) if datagram else 0
                datagram = datagram[:place] + bytes((datagram[place] ^ 1 << rng.randrange(8),)) + datagram[place + 1 :]
            elif kind == 6:
                datagram = datagram[: rng.randrange(len(datagram) + 1)]
        self.counts["junk"] += 1
        self._send(sock, datagram, victim)


def _punch(key: PeerId | None) -> bytes:
    """A punch nobody will go on with; with a key, one that is answered wherever it comes from."""
    header, ephemeral = punch_header(int.from_bytes(os.urandom(8), "big") | 1), os.urandom(KEY)
    tag_of = (lambda data: punch_tag(key, data)) if key is not None else (lambda data: os.urandom(16))
    return header + ephemeral + punch_payload(header, ephemeral, tag_of=tag_of)


def _socket(buffer: int = _BUFFER) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    sock.setblocking(False)
    sock.bind((HOST, 0))
    return sock
