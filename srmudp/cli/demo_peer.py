"""One peer of ``srmudp demo``: what runs in each spawned process.

It is an ordinary program that uses srmudp, with a pipe in place of a user: the stage director (:mod:`.demo_cast`) sends
``(number, command, arguments)`` and gets ``(number, result, trouble)``. When the pipe breaks, because the director is
gone, the process ends.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import shutil
import signal
import stat
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from .. import Config, Delivery, Message, MultiHolepunchSocket, PeerEvent, PeerStatus, impaired
from .text import clean

log = logging.getLogger("srmudp.demo")

TALK, FILES, NUMBERS = 0, 1, 2
"""The channels the demo uses: a large message in one does not hold up the others."""


@dataclass(frozen=True, slots=True)
class Role:
    """All that a process is told when it starts.

    Attributes:
        name: who it plays.
        life: 1 for the first process of that name, 2 after a restart.
        port: UDP port; 0 lets the system choose.
        folder: of the demo, removed with all its files when the demo is over.
        identity, known_peers, record: paths of its files.
        loss: share of the datagrams that it loses of those that arrive, 0.0 to 1.0.
        seed: of the losses.
        verbose: log what the library says.
    """

    name: str
    life: int
    port: int
    folder: str
    identity: str
    known_peers: str
    record: str
    loss: float
    seed: int
    verbose: bool


class Hello(NamedTuple):
    """What a process says of itself."""

    port: int
    peer_id: str
    tag: str
    key_mode: int


class Outcome(NamedTuple):
    """How far a delivery is."""

    pending: frozenset[str]
    delivered: frozenset[str]
    failed: dict[str, str]
    seconds: float | None


class Large(NamedTuple):
    """A large message that has come."""

    peer: str
    size: int
    sha256: str


def run(pipe: Connection, role: Role) -> None:
    """The process's main function: play ``role`` until told to leave or until the pipe breaks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the director's, who then ends us
    if role.verbose:
        library = logging.getLogger("srmudp")
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(f"{role.name:>5} %(asctime)s.%(msecs)03d %(name)s %(message)s", "%M:%S"))
        library.addHandler(handler)
        library.setLevel(logging.DEBUG)
    try:
        player = _Player(role)
    except Exception:
        _answer(pipe, -1, None, traceback.format_exc(limit=-1).splitlines()[-1])
        sys.exit(1)
    try:
        was_told = _serve(pipe, player)
    finally:
        player.leave(0.0)
    if not was_told:
        shutil.rmtree(role.folder, ignore_errors=True)  # a director that was killed cannot tidy up


def _serve(pipe: Connection, player: _Player) -> bool:
    """Do as told. Returns False if the pipe broke before we were told to leave."""
    while not player.left:
        try:
            number, command, arguments = pipe.recv()
        except (EOFError, OSError):
            return False  # nobody left to play for
        try:
            action: Callable[..., Any] = getattr(player, command)
            result, trouble = action(*arguments), None
        except Exception as error:
            result, trouble = None, f"{type(error).__name__}: {error}"
        _answer(pipe, number, result, trouble)
    return True


def _answer(pipe: Connection, number: int, result: object, trouble: str | None) -> None:
    with suppress(OSError):  # the next recv() finds out
        pipe.send((number, result, trouble))


class _Player:
    """The program itself. Public methods are the director's commands; none takes longer than the limit it is given."""

    def __init__(self, role: Role) -> None:
        self.left = False
        self._role = role
        self._heard: list[tuple[str, str]] = []
        self._large: list[Message] = []
        self._deliveries: list[Delivery] = []
        self._seconds: dict[int, float] = {}
        self._numbers: dict[str, list[Delivery]] = {}
        self._counting = threading.Event()
        self._threads: list[threading.Thread] = []
        self._content = b""
        self._record = Record(role.record, role.life)
        self._bad_network = impaired(loss=role.loss, seed=role.seed)
        self._socket = MultiHolepunchSocket(
            role.port,
            host="127.0.0.1",
            name=role.name,
            identity=role.identity,
            known_peers=role.known_peers,
            config=Config(transport=self._bad_network),
        )
        self._socket.on_event(self._on_event)
        self._socket.register_message_hook(self._on_message)

    def _on_event(self, event: PeerEvent) -> None:
        log.info("= %s %s %s", event.peer, event.kind, clean(event.reason))

    def _on_message(self, message: Message) -> None:
        """On the hook thread. The message counts as taken when this returns, so all that must last is done before."""
        if message.channel == NUMBERS:
            self._record.write(message.peer, int(message.content))
        elif message.channel == FILES:
            self._large.append(message)
        else:
            self._heard.append((message.peer, message.content.decode()))

    # --- meeting ---

    def hello(self) -> Hello:
        """Who and where we are."""
        peer_id = self._socket.peer_id
        mode = stat.S_IMODE(os.stat(self._role.identity).st_mode)
        return Hello(self._socket.port, str(peer_id), peer_id.tag, mode)

    def meet(self, peers: dict[str, str], limit: float) -> float | None:
        """Add peers and wait for all. Returns the seconds it took, None if they were not all there in time."""
        start = time.monotonic()
        self._socket.add_peers(peers)
        return time.monotonic() - start if self._socket.wait_connected(peers, limit) else None

    def codes(self) -> dict[str, str]:
        """The verification code with each peer."""
        return {name: self._socket.verification_code(name) for name in self._socket.connections_status}

    def trust(self) -> None:
        """Pin everybody, as a person does after comparing the codes."""
        for name in self._socket.connections_status:
            self._socket.trust(name)

    def status(self) -> dict[str, PeerStatus]:
        """What the library says of each peer."""
        return dict(self._socket.connections_status)

    def network(self) -> dict[str, int]:
        """What the bad network did to us: datagrams ``received`` from the system and ``lost`` of them on purpose."""
        return dict(self._bad_network.counts)

    # --- talking ---

    def say(self, text: str, recipient: str | list[str] | None) -> int:
        """Send a line to one, some or (None) all. Returns a number for :meth:`outcome`."""
        self._deliveries.append(self._socket.send(text.encode(), recipient, channel=TALK))
        return len(self._deliveries) - 1

    def heard(self) -> list[tuple[str, str]]:
        """Sender and text of every line that came, in order."""
        return list(self._heard)

    def outcome(self, number: int) -> Outcome:
        """How far a delivery is, without waiting."""
        delivery = self._deliveries[number]
        return Outcome(delivery.pending, delivery.delivered, delivery.failed, self._seconds.get(number))

    # --- one large message ---

    def prepare(self, size: int) -> str:
        """Make ``size`` random bytes to be sent. Returns their SHA-256."""
        self._content = random.Random(self._role.seed).randbytes(size)
        return hashlib.sha256(self._content).hexdigest()

    def ship(self, recipient: str, limit: float) -> int:
        """Send them. Returns a number for :meth:`outcome`, which will tell the seconds until they were taken."""
        number, content = len(self._deliveries), self._content
        self._content = b""
        start = time.monotonic()
        delivery = self._socket.send(content, recipient, channel=FILES)
        self._deliveries.append(delivery)

        def watch() -> None:
            if delivery.wait(limit):
                self._seconds[number] = time.monotonic() - start

        self._start(watch)
        return number

    def unpack(self) -> list[Large]:
        """What came of that kind; it is thrown away."""
        came, self._large = self._large, []
        return [Large(m.peer, len(m.content), hashlib.sha256(m.content).hexdigest()) for m in came]

    # --- numbers without end ---

    def count(self, recipient: str, pause: float) -> None:
        """Begin to send 1, 2, 3 ... to a peer, one each ``pause`` seconds."""
        sent = self._numbers.setdefault(recipient, [])
        self._counting.set()

        def loop() -> None:
            while self._counting.is_set():
                sent.append(self._socket.send(b"%d" % (len(sent) + 1), recipient, channel=NUMBERS))
                time.sleep(pause)

        self._start(loop)

    def stop_counting(self) -> None:
        """Send no more numbers."""
        self._counting.clear()
        for thread in self._threads:
            thread.join(1.0)

    def counted(self, recipient: str) -> tuple[int, int]:
        """How many numbers were sent, and up to which all are known to be taken."""
        sent = self._numbers.get(recipient, [])
        taken = next((i for i, delivery in enumerate(sent) if recipient not in delivery.delivered), len(sent))
        return len(sent), taken

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    # --- the end ---

    def leave(self, limit: float) -> None:
        """Say goodbye and end."""
        if not self.left:
            self.left = True
            self._counting.clear()
            drops = dict(self._socket.drops)
            self._socket.close(limit)
            log.info("= closed; discarded as useless: %s", drops or "nothing")
            self._record.close()


class Entry(NamedTuple):
    """A line of the record: in which life of the receiver which number of whom came, and whether it was known."""

    life: int
    peer: str
    number: int
    again: bool


class Record:
    """What a careful application keeps: a file with every number it took, written before it says that it took it.

    After a restart it knows from the file which numbers it has, so one that is sent once more is recognised. Each line
    is one write at the end of the file, which a process that is killed has done wholly or not at all.
    """

    def __init__(self, path: str, life: int) -> None:
        self._life = life
        self._last: Counter[str] = Counter()
        for entry in read_record(path):
            self._last[entry.peer] = max(self._last[entry.peer], entry.number)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
        self._file = os.open(path, flags, 0o600)

    def write(self, peer: str, number: int) -> None:
        """Note that ``number`` came from ``peer``."""
        again = number <= self._last[peer]
        self._last[peer] = max(self._last[peer], number)
        os.write(self._file, f"{self._life} {peer} {number} {int(again)}\n".encode())

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def read_record(path: str) -> list[Entry]:
    """The entries of a record, oldest first; none if there is no such file."""
    try:
        with open(path, encoding="ascii") as file:
            lines = [line.split() for line in file if line.endswith("\n")]
    except FileNotFoundError:
        return []
    return [Entry(int(life), peer, int(number), again == "1") for life, peer, number, again in lines]
