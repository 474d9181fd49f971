"""A program of a storm: ``python -m tests.soak.citizen JSON``. Sends to everybody it knows and keeps a journal.

It prints ``ready`` once its socket is open. On its standard input ``stop`` ends the sending, after which it prints
``settled`` when nothing is pending any more and it is connected to everybody; ``end`` closes the socket and ends the
program. So does the end of its input, at once.

The journal has one line per event, written before anything else can happen; :mod:`tests.soak.oracle` says what each
means.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
from collections import deque
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from struct import Struct
from time import monotonic, sleep
from typing import Final, Literal

from srmudp import Config, Delivery, MultiHolepunchSocket
from srmudp.exceptions import QueueFull
from srmudp.models import Message, PeerEvent

HEADER: Final = Struct(">BHBBBI")
"""At the beginning of each message that is not empty: sender, its incarnation, receiver, channel, reliable, number."""
CHANNELS: Final = 4
UNRELIABLE: Final = 255
"""The number space of unreliable messages, in journals where a channel would stand."""
LOOK: Final = 0.05
"""Seconds between looks at what was settled."""
SAMPLE: Final = 1.0
"""Seconds between two notes of memory, threads and counters."""
SIZES: Final = ((0.55, 120), (0.25, 2_000), (0.15, 20_000), (0.044, 200_000), (0.006, 1_048_576))
"""Share of the messages, and bytes they have at most."""


@dataclass(frozen=True, slots=True)
class Part:
    """What the program is told. ``peers`` are specs for ``add_peers``, by index."""

    index: int
    incarnation: int
    port: int
    identity: str
    journal: str
    peers: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    rate: float = 30.0
    timeout: float = 10.0
    span: float = 1.0
    backend: Literal["auto", "cryptography", "pycryptodome"] = "auto"
    max_mtu: int = 65_507

    def argument(self) -> str:
        """The JSON for the command line."""
        return json.dumps(asdict(self))


class Journal:
    """An append-only file. A line is in the system's hands when :meth:`write` returns: SIGKILL cannot take it back."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, kind: str, *fields: object) -> None:
        """Append a line with the time."""
        os.write(self._file, f"{kind} {monotonic():.6f} {' '.join(map(str, fields))}\n".encode())

    def close(self) -> None:
        """Nothing more."""
        os.close(self._file)


def digest(content: bytes) -> str:
    """Eight bytes that stand for a content, as text."""
    return blake2b(content, digest_size=8).hexdigest()


class Citizen:
    """One program with its socket."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.journal = Journal(part.journal)
        self.random = random.Random(f"{part.seed}/{part.index}/{part.incarnation}")
        self.block = self.random.randbytes(SIZES[-1][1] + 4096)
        self.stop = threading.Event()
        self.end = threading.Event()
        self.numbers: dict[tuple[int, int], int] = {}
        self.empty: dict[tuple[int, int], bool] = {}
        self.open: dict[tuple[int, int], deque[tuple[int, Delivery]]] = {}
        self.late = 0.0
        config = Config(backend=part.backend, max_mtu=part.max_mtu)
        self.sock = MultiHolepunchSocket(
            part.port,
            part.peers,
            host="127.0.0.1",
            name=f"p{part.index}",
            identity=part.identity,
            timeout=part.timeout,
            span=part.span,
            config=config,
        )
        self.sock.on_event(self.on_event)
        self.sock.register_message_hook(self.on_message)

    def on_event(self, event: PeerEvent) -> None:
        self.journal.write("E", event.kind, event.peer or "-", event.reason)

    def on_message(self, message: Message) -> None:
        content = message.content
        header = content[: HEADER.size].hex() if content else "-"
        self.journal.write("R", message.peer, message.channel, len(content), digest(content), header)

    def send(self, to: int) -> None:
        """Send the next message of some channel to a peer: noted before it is sent."""
        rng = self.random
        reliable = rng.random() < 0.9
        channel = rng.randrange(CHANNELS)
        space = (to, channel if reliable else UNRELIABLE)
        number = self.numbers.get(space, 0)
        ttl = rng.uniform(0.3, 6.0) if reliable and rng.random() < 0.03 else None
        # An empty message cannot say which one it is; the oracle tells by the one before it, so that has to be there.
        empty = reliable and number > 0 and not self.empty[space] and ttl is None and rng.random() < 0.05
        content = b"" if empty else self.content(to, channel, reliable, number)
        self.numbers[space] = number + 1
        # Nor may one that can expire stand before it.
        self.empty[space] = empty or ttl is not None
        self.journal.write(
            "S" if reliable else "U",
            *(f"p{to}", space[1], number, len(content), digest(content)),
            0 if ttl is None else int(ttl * 1000),
        )
        try:
            delivery = self.sock.send(content, f"p{to}", channel=channel, reliable=reliable, ttl=ttl, timeout=0)
        except QueueFull:
            self.journal.write("F", f"p{to}", space[1], number, "refused by send: the queue is full")
            self.empty[space] = True
            return
        if reliable:
            self.open.setdefault(space, deque()).append((number, delivery))

    def content(self, to: int, channel: int, reliable: bool, number: int) -> bytes:
        part, rng = self.part, self.random
        (most,) = rng.choices([most for _, most in SIZES], [share for share, _ in SIZES])
        if not reliable:
            most = min(most, 20_000)
        size = rng.randrange(most + 1)
        start = rng.randrange(4096)
        header = HEADER.pack(part.index, part.incarnation, to, channel, reliable, number)
        return (header + self.block[start : start + size])[: max(HEADER.size, size)]

    def settle(self) -> int:
        """Note what was settled; how many are pending."""
        pending = 0
        for (to, channel), waiting in self.open.items():
            name = f"p{to}"
            while waiting:
                number, delivery = waiting[0]
                failed = delivery.failed
                if name in failed:
                    self.journal.write("F", name, channel, number, failed[name])
                elif name in delivery.delivered:
                    self.journal.write("D", name, channel, number)
                else:
                    break
                waiting.popleft()
            pending += len(waiting)
        return pending

    def sample(self, pending: int) -> None:
        """Note what the process uses."""
        with open("/proc/self/statm") as file:
            resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        statuses = self.sock.connections_status.values()
        self.journal.write(
            "M",
            resident,
            threading.active_count(),
            len(os.listdir("/proc/self/fd")),
            sum(status.queued for status in statuses),
            pending,
            f"{self.late:.3f}",
        )
        self.late = 0.0
        self.count()

    def count(self) -> None:
        """Note the counters."""
        self.journal.write("X", json.dumps(dict(self.sock.drops), separators=(",", ":")))

    def run(self) -> None:
        """Everything from the beginning to the end."""
        part, rng = self.part, self.random
        threading.Thread(target=self.listen, name="orders", daemon=True).start()
        self.journal.write("B", part.port)
        print("ready", flush=True)
        peers = [int(name[1:]) for name in part.peers]
        now = monotonic()
        next_send, next_look, next_sample = now, now, now
        pending = 0
        said = False
        while not self.end.is_set():
            now = monotonic()
            if now >= next_send and not self.stop.is_set():
                to = rng.choice(peers)
                burst = rng.randrange(5, 25) if rng.random() < 0.02 else 1
                for _ in range(burst):
                    self.send(to)
                # Not after the clock: what a suspended program did not send is not made up for.
                next_send = max(next_send, now - 0.5) + burst * rng.expovariate(part.rate)
            if now >= next_look:
                next_look = now + LOOK
                # What was said of sending is looked at first, so that nothing is sent after "settled".
                stopped = self.stop.is_set()
                pending = self.settle()
                if stopped and not pending and not said and self.sock.wait_connected(timeout=0):
                    said = True
                    print("settled", flush=True)
            if now >= next_sample:
                next_sample = now + SAMPLE
                self.sample(pending)
            upcoming = min(next_look, next_sample) if self.stop.is_set() else min(next_look, next_sample, next_send)
            sleep(max(0.0, upcoming - monotonic()))
            self.late = max(self.late, monotonic() - upcoming)
        pending = self.settle()
        for (to, channel), waiting in self.open.items():
            for number, _ in waiting:
                self.journal.write("P", f"p{to}", channel, number)
        self.count()
        if not said:
            for name, status in self.sock.connections_status.items():
                self.journal.write("Z", name, status.state.value, status.failure or "")
        self.sock.close(0.0 if pending else None)
        self.journal.write("Q")
        self.journal.close()

    def listen(self) -> None:
        for line in sys.stdin:
            if line.strip() == "stop":
                self.stop.set()
            elif line.strip() == "end":
                self.end.set()
                return
        os._exit(3)  # nobody is there any more who would end us


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the storm, which ends us
    Citizen(Part(**json.loads(sys.argv[1]))).run()


if __name__ == "__main__":
    main()
