"""Whether a transfer goes on while networks change: ``python -m tests.nat.staying [SCENARIO ...] [--size MIB]``.

Needs root, ``ip``, ``nft`` and ``tc``; makes its own network namespaces and removes them, also when it is interrupted.
In each scenario a sends 64 MiB to b (or b to a, where the one that moves listens) over a link of 32 Mbit/s, and real
Linux routers and interfaces change under way, mostly those of a. The application only sends and receives: it calls
nothing else once both are connected. Printed is whether all came, once and intact (SHA-256), and how long nothing came:
from each change, or from the end of an outage, until data arrived again. Exits with 1 if a transfer does not survive.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import random
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

from srmudp import Config, EventKind, MultiHolepunchSocket
from tests.namespaces import Namespaces, why_not
from tests.nat.lab import RULES, SIDES

RATE: Final = "32mbit"
EVERY: Final = 2.0
"""Seconds between two rebindings."""
LOOK: Final = 0.005
"""Seconds between two looks at what has arrived."""
DATA: Final = 5_000
"""Bytes that count as data arriving: more than the handful of a ping or a handshake."""
PATIENCE: Final = 180.0
"""Seconds after which a transfer counts as lost."""
OUTAGE: Final = 30.0
PORT: Final = 8000
SECOND_ROUTE: Final = "198.51.21"

NETLINK_NETFILTER: Final = 12
FLUSH: Final = struct.pack("=IHHII", 20, (1 << 8) | 2, 1 | 4, 1, 0) + struct.pack("=BBH", 0, 0, 0)
"""A netlink message with an answer asked for: delete all of connection tracking (IPCTNL_MSG_CT_DELETE)."""


_INSIDE_IS_HIDDEN: Final = """
    chain hidden {
        type filter hook forward priority 10;
        iifname wan ct state new ct status & dnat != dnat drop;
    }
"""
"""Nobody outside reaches the addresses behind a NAT by themselves, though the middle knows the way there."""


class ChangingLab(Namespaces):
    """Two homes and what happens to their networks.

    ::

        a 198.51.1.2 -- 198.51.1.1 na 203.1.1.2 -- 203.1.1.1 x 203.1.2.1 -- 203.1.2.2 nb 198.51.2.1 -- 198.51.2.2 b
        (and .21.2 -- 198.51.21.1, unused at first)
    """

    def build(self) -> None:
        """Make it. Close it whatever happens."""
        self.add("x")
        self.forward("x")
        for side, n in SIDES.items():
            home = "n" + side
            self.add(home)
            self.add(side)
            self.forward(home)
            self.link("x", "to_" + side, f"203.1.{n}.1/24", home, "wan", f"203.1.{n}.2/24")
            self.link(home, "lan", f"198.51.{n}.1/24", side, "eth0", f"198.51.{n}.2/24")
            self.ip(home, "route", "add", "default", "via", f"203.1.{n}.1")
            self.ip(side, "route", "add", "default", "via", f"198.51.{n}.1")
            self.ip("x", "route", "add", f"198.51.{n}.0/24", "via", f"203.1.{n}.2")
            shape = ("root", "tbf", "rate", RATE, "burst", "64k", "latency", "50ms")
            self.run_in("x", "tc", "qdisc", "add", "dev", "to_" + side, *shape)
        self.link("na", "lan2", f"{SECOND_ROUTE}.1/24", "a", "eth1", f"{SECOND_ROUTE}.2/24")
        self.ip("x", "route", "add", f"{SECOND_ROUTE}.0/24", "via", "203.1.1.2")

    def set_kind(self, side: str, kind: str, port: int | None = None) -> None:
        """Have a side live behind another kind of NAT, with flows on the ports from ``port`` on; old flows stay."""
        rules = RULES[kind][0].replace("INSIDE", f"198.51.{SIDES[side]}.2")
        if port is not None:
            assert "masquerade" in rules
            rules = rules.replace("masquerade", f"masquerade to :{port}-{port + 20}")
        if kind != "open":
            rules += _INSIDE_IS_HIDDEN
        self.nft("n" + side, f"flush ruleset\ntable ip lab {{\n{rules}\n}}\n")

    def socket(self, where: str) -> MultiHolepunchSocket:
        """A socket on a host."""
        return self.inside(where, lambda: MultiHolepunchSocket(PORT, config=Config(max_mtu=1472)))

    def forget_flows(self, side: str) -> None:
        """Have the home router of a side forget every mapping: a flow that goes on gets its port again, if it can."""

        def flush() -> None:
            with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as netlink:
                netlink.settimeout(5)
                netlink.send(FLUSH)
                code = struct.unpack_from("=i", netlink.recv(4096), 16)[0]
                if code:
                    raise OSError(-code, "the flows cannot be forgotten")

        self.inside("n" + side, flush)

    def forget_after(self, seconds: int) -> None:
        """Have a's router forget flows that were silent for so long."""

        def write() -> None:
            for which in ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"):
                Path("/proc/sys/net/netfilter", which).write_text(str(seconds))

        self.inside("na", write)

    def rebind(self, side: str, kind: str, port: int) -> None:
        """Have it give its flows other ports, from ``port`` on."""
        self.set_kind(side, kind, port)
        self.forget_flows(side)

    def renumber(self, side: str, last: int) -> None:
        """Give the home router of a side another public address. Linux forgets the flows of the old one."""
        net = f"203.1.{SIDES[side]}"
        commands = f"addr flush dev wan\naddr add {net}.{last}/24 dev wan\nroute replace default via {net}.1\n"
        self.ip("n" + side, "-batch", "-", text=commands)

    def move(self, side: str, last: int) -> None:
        """Give a host another address, and no time to get used to it."""
        net = f"198.51.{SIDES[side]}"
        commands = f"addr flush dev eth0\naddr add {net}.{last}/24 dev eth0\nroute replace default via {net}.1\n"
        self.ip(side, "-batch", "-", text=commands)

    def route_by(self, device: str) -> None:
        """Have a reach the world by one of its two interfaces; the other one stays up, as Wi-Fi beside a cable does."""
        net = "198.51.1" if device == "eth0" else SECOND_ROUTE
        self.ip("a", "route", "replace", "default", "via", f"{net}.1", "dev", device)

    def unplug(self, side: str) -> None:
        """Take a host off its network."""
        self.ip(side, "link", "set", "eth0", "down")

    def plug(self, side: str) -> None:
        """Undo :meth:`unplug`."""
        self.ip(side, "link", "set", "eth0", "up")
        self.ip(side, "route", "replace", "default", "via", f"198.51.{SIDES[side]}.1")

    def silence(self, silent: bool) -> None:
        """Have the middle of the network swallow everything, or carry it again. Nobody is told."""
        chain = "chain through { type filter hook forward priority 0; drop; }" if silent else ""
        self.nft("x", f"flush ruleset\ntable ip lab {{\n{chain}\n}}\n")


@dataclass
class Journey:
    """One transfer and what happened on the way.

    Attributes:
        back: b sends to a, and not a to b.
        changes: what was done and when it was done, ``time.monotonic()``.
        pauses: for each change, seconds until data arrived again.
        seconds: what the whole transfer took; None if it did not come whole.
        events: what either end reported, by kind.
    """

    lab: ChangingLab
    a: MultiHolepunchSocket
    b: MultiHolepunchSocket
    size: int
    back: bool = False
    changes: list[tuple[str, float]] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    seconds: float | None = None
    events: list[str] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)
    _progress: list[float] = field(default_factory=list)

    def change(self, what: str, work: Callable[[], None]) -> None:
        """Do something to the network."""
        work()
        self.changes.append((what, time.monotonic()))

    def wait(self, seconds: float) -> bool:
        """Let it go on for a while. True if it ended meanwhile."""
        return self.done.wait(seconds)

    def run(self, happen: Callable[[Journey], None]) -> None:
        """Send ``size`` bytes while ``happen`` happens."""
        _, receiver, _ = self._ends()
        part = 1 << 20
        contents = [random.Random(number).randbytes(part) for number in range(self.size // part)]
        wanted, got = hashlib.sha256(b"".join(contents)), hashlib.sha256()
        for sock in (self.a, self.b):
            sock.on_event(lambda event: self.events.append(event.kind.value))
        began = time.monotonic()
        threads = [threading.Thread(target=self._watch), threading.Thread(target=self._send, args=(contents,))]
        for thread in threads:
            thread.start()
        acting = threading.Thread(target=happen, args=(self,))
        acting.start()
        try:
            for _ in contents:
                message = receiver.receive(max(0.0, began + PATIENCE - time.monotonic()))
                if message is None:
                    break
                got.update(message.content)
            took = time.monotonic() - began
            if got.digest() == wanted.digest() and receiver.receive(0) is None:
                self.seconds = took
        finally:
            self.done.set()
            for thread in (*threads, acting):
                thread.join()
        self._reckon(began + took)

    def _ends(self) -> tuple[MultiHolepunchSocket, MultiHolepunchSocket, str]:
        """Who sends, who receives, and what the sender calls the receiver."""
        return (self.b, self.a, "a") if self.back else (self.a, self.b, "b")

    def _send(self, contents: Sequence[bytes]) -> None:
        sender, _, name = self._ends()
        for content in contents:
            try:
                sender.send(content, name, timeout=PATIENCE)
            except OSError:
                return

    def _watch(self) -> None:
        """Note when data arrives."""
        last = 0
        _, receiver, name = self._ends()
        other = "a" if name == "b" else "b"
        while not self.done.wait(LOOK):
            arrived = receiver.connections_status[other].stats.bytes_received
            if arrived >= last + DATA:
                last = arrived
                self._progress.append(time.monotonic())

    def _reckon(self, end: float) -> None:
        """The longest pause that began, or was going on, after each change and before the next one."""
        self.changes = [change for change in self.changes if change[1] < end]
        for number, (_, at) in enumerate(self.changes):
            until = self.changes[number + 1][1] if number + 1 < len(self.changes) else end
            marks = [at, *(mark for mark in self._progress if at < mark < until)]
            later = next((mark for mark in self._progress if mark >= until), until)
            marks.append(later)
            self.pauses.append(max(after - before for before, after in itertools.pairwise(marks)))


# --- scenarios


def _again(work: Callable[[Journey, int], None], what: str) -> Callable[[Journey], None]:
    def happen(journey: Journey) -> None:
        number = 0
        while not journey.wait(EVERY):
            number += 1
            journey.change(what, lambda number=number: work(journey, number))  # type: ignore[misc]

    return happen


def _rebind(journey: Journey, number: int) -> None:
    journey.lab.rebind("a", "linux", 30_000 + 50 * number)


def _rebind_both(journey: Journey, number: int) -> None:
    journey.lab.rebind("a", "restricted", 30_000 + 50 * number)
    journey.lab.rebind("b", "full-cone", 30_000 + 50 * number)


def _forget_both(journey: Journey, number: int) -> None:
    journey.lab.forget_flows("a")
    journey.lab.forget_flows("b")


def _renumber(journey: Journey, number: int) -> None:
    journey.lab.renumber("a", 3 + number % 200)


def _move(journey: Journey) -> None:
    for number in range(3):
        if journey.wait(4):
            return
        journey.change("another address", lambda number=number: journey.lab.move("a", 77 + number))  # type: ignore[misc]


def _route(journey: Journey) -> None:
    for device in ("eth1", "eth0", "eth1"):
        if journey.wait(4):
            return
        journey.change("another route", lambda device=device: journey.lab.route_by(device))  # type: ignore[misc]


def _outage(down: Callable[[ChangingLab], None], up: Callable[[ChangingLab], None]) -> Callable[[Journey], None]:
    def happen(journey: Journey) -> None:
        if journey.wait(4):
            return
        down(journey.lab)
        time.sleep(OUTAGE)
        journey.change(f"back after {OUTAGE:g} s", lambda: up(journey.lab))

    return happen


class Scenario(NamedTuple):
    """The kinds of both ends' networks, what happens, and whether data goes from b to a instead of from a to b."""

    one: str
    two: str
    happen: Callable[[Journey], None]
    back: bool = False


SCENARIOS: Final[dict[str, Scenario]] = {
    "rebind-port": Scenario("linux", "open", _again(_rebind, "another port")),
    "rebind-listener": Scenario("linux", "open", _again(_rebind, "another port"), back=True),
    "rebind-restricted": Scenario("linux", "restricted", _again(_rebind, "another port")),
    "rebind-address": Scenario("linux", "open", _again(_renumber, "another public address")),
    "rebind-both": Scenario("restricted", "full-cone", _again(_rebind_both, "both routers: other ports")),
    "forget-both": Scenario("linux", "linux", _again(_forget_both, "both routers forget")),
    "move": Scenario("open", "open", _move),
    "move-home": Scenario("linux", "open", _move),
    "move-listener": Scenario("open", "open", _move, back=True),
    "route": Scenario("open", "open", _route),
    "outage-unplugged": Scenario("linux", "linux", _outage(lambda lab: lab.unplug("a"), lambda lab: lab.plug("a"))),
    "outage-unplugged-far": Scenario("linux", "linux", _outage(lambda lab: lab.unplug("b"), lambda lab: lab.plug("b"))),
    "outage-silent": Scenario("linux", "linux", _outage(lambda lab: lab.silence(True), lambda lab: lab.silence(False))),
}


class Silence(NamedTuple):
    """The kinds of both ends' networks, what happens again and again, and seconds of calm before each time;
    seconds after which a's router forgets."""

    one: str
    two: str
    change: Callable[[ChangingLab, int], None]
    calm: float
    lifetime: int = 30


SILENT: Final[dict[str, Silence]] = {
    "silent-move": Silence("open", "open", lambda lab, n: lab.move("a", 77 + n), 8),
    "silent-route": Silence("open", "open", lambda lab, n: lab.route_by(("eth1", "eth0")[n % 2]), 8),
    "silent-rebind": Silence("linux", "open", lambda lab, n: lab.rebind("a", "linux", 30_000 + 50 * n), 8),
    "short-mappings": Silence("linux-random", "open", lambda lab, n: None, 22, lifetime=3),
}


def travel(lab: ChangingLab, scenario: str, size: int) -> Journey:
    """One scenario in networks as they were in the beginning.

    Raises:
        AssertionError: the two did not even connect.
    """
    one, two, happen, back = SCENARIOS[scenario]
    with _together(lab, one, two, "route" in scenario) as (a, b):
        journey = Journey(lab, a, b, size, back)
        journey.run(happen)
        return journey


@contextlib.contextmanager
def _together(
    lab: ChangingLab, one: str, two: str, second: bool
) -> Iterator[tuple[MultiHolepunchSocket, MultiHolepunchSocket]]:
    """Connected sockets at both ends of the lab, which is as it was in the beginning."""
    lab.silence(False)
    lab.ip("a", "link", "set", "eth1", "up" if second else "down")
    lab.route_by("eth0")
    lab.renumber("a", 2)
    for side, kind in (("a", one), ("b", two)):
        lab.move(side, 2)
        lab.set_kind(side, kind)
        lab.forget_flows(side)
    with lab.socket("a") as a, lab.socket("b") as b:
        hosts = [f"198.51.{n}.2" if kind == "open" else f"203.1.{n}.2" for n, kind in enumerate((one, two), 1)]
        a.add_peer("b", f"{b.peer_id}@{hosts[1]}:{PORT}")
        b.add_peer("a", f"{a.peer_id}@{hosts[0]}:{PORT}")
        assert a.wait_connected("b", 10), a.connections_status
        assert b.wait_connected("a", 10), b.connections_status
        yield a, b
        a.close(0)
        b.close(0)


class Words(NamedTuple):
    """A silent conversation: seconds until each word was taken that was sent after a change, and what was heard."""

    seconds: list[float]
    events: list[str]


def whisper(lab: ChangingLab, scenario: str) -> Words:
    """One scenario with nothing to transfer: a changes, and b, who does not know, says a word at once.

    Raises:
        AssertionError: they did not connect, or a word never came.
    """
    one, two, change, calm, lifetime = SILENT[scenario]
    lab.forget_after(lifetime)
    with _together(lab, one, two, "route" in scenario) as (a, b):
        heard: list[str] = []
        b.on_event(lambda event: heard.append(event.kind.value))
        seconds = []
        for number in range(4):
            time.sleep(calm)
            change(lab, number)
            began = time.monotonic()
            b.send(b"word", "a")
            assert a.receive(PATIENCE) is not None, b.connections_status
            seconds.append(time.monotonic() - began)
        return Words(seconds, heard)


def describe(scenario: str, journey: Journey) -> str:
    """One line."""
    if journey.seconds is None:
        return f"{scenario:22} LOST: {journey.a.connections_status} {journey.b.connections_status}"
    pauses = sorted(journey.pauses)
    middle = pauses[len(pauses) // 2] if pauses else 0.0
    longest = pauses[-1] if pauses else 0.0
    again = journey.events.count(EventKind.RECONNECTED.value)
    return (
        f"{scenario:22} {journey.size >> 20} MiB intact in {journey.seconds:5.1f} s, {len(pauses):2} changes, pause: "
        f"median {middle:.3f} s, longest {longest:.3f} s, {again} new sessions"
    )


def _end(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    every = (*SCENARIOS, *SILENT)
    parser = argparse.ArgumentParser(description="Whether a transfer goes on while networks change.")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"default: all of {', '.join(every)}")
    parser.add_argument("--size", type=int, default=64, help="MiB to be sent (default: %(default)s)")
    parser.add_argument("--verbose", action="store_true", help="show each pause and event")
    options = parser.parse_args(arguments)
    if unknown := set(options.scenarios) - set(every):
        parser.error(f"unknown: {', '.join(unknown)}")
    if reason := why_not():
        print(f"not possible here: {reason}", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    bad = 0
    try:
        with ChangingLab("srmudpstay") as lab:
            lab.build()
            for scenario in options.scenarios or every:
                if scenario in SILENT:
                    words = whisper(lab, scenario)
                    found = " ".join(f"{one:.3f}" for one in words.seconds)
                    print(f"{scenario:22} words taken after {found} s; {', '.join(words.events)}", flush=True)
                    continue
                journey = travel(lab, scenario, options.size << 20)
                bad += journey.seconds is None
                print(describe(scenario, journey), flush=True)
                if options.verbose:
                    print("   ", " ".join(f"{pause:.3f}" for pause in journey.pauses), journey.events, flush=True)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
