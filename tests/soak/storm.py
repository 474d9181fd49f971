"""Ten programs in a storm: ``python -m tests.soak.storm`` from a checkout; an hour unless ``--minutes`` says otherwise.

The programs (:mod:`tests.soak.citizen`) are real processes with saved identities, pinned to each other, that send each
other numbered messages without end over real sockets on 127.0.0.1. What lies between them (:mod:`tests.soak.relay`)
partitions, rebinds, loses, repeats, delays and floods; the storm kills, restarts and suspends programs. What happens
when is made from a seed (:mod:`tests.soak.disturbances`) and shown by ``--plan``.

At the end everything is healed, what is pending must settle, the programs close in order, and the oracle
(:mod:`tests.soak.oracle`) compares their journals: nothing lost, doubled, reordered or corrupt, and nothing reported
that was not so. A report is printed. The exit status is 0 if everything held and 1 if not; then the journals are kept.
"""

from __future__ import annotations

import argparse
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from time import monotonic
from typing import Final, Literal, NamedTuple

from srmudp.crypto.keys import Identity
from tests.programs import is_free
from tests.soak.citizen import Part
from tests.soak.disturbances import Disturbance, Kind, plan
from tests.soak.oracle import Happening, Journal, Verdict, judge
from tests.soak.relay import Pair, Relay

ROOT: Final = Path(__file__).resolve().parent.parent.parent
SETTLING: Final = 90.0
"""Seconds that everything may take to settle once all is healed."""
STARTING: Final = 60.0
"""Seconds a program may take to start or to end: they share two cores."""
RETURNING: Final = 60.0
"""Seconds a connection may take to come back once nothing is in its way but floods, loss and a busy machine."""
ETHERNET: Final = 1472
MEMORY: Final = 220 * 1024 * 1024
"""Bytes a program may have at most."""
GROWTH: Final = 24 * 1024 * 1024
"""Bytes by which the second half of a long life may exceed its middle."""
LONG: Final = 120.0
"""Seconds from which a life is a long one."""


class Obstacle(NamedTuple):
    """A disturbance as it really was: between which programs nothing, or not everything, got through."""

    kind: Kind
    begin: float
    end: float
    pairs: frozenset[Pair]


class Return(NamedTuple):
    """A connection that came back, seconds after the last obstacle to it had gone."""

    after: Kind
    seconds: float
    what: str


@dataclass
class Settings:
    """What a storm is made of."""

    seconds: float
    peers: int = 10
    seed: int = 0
    backend: Literal["auto", "cryptography", "pycryptodome"] = "auto"
    rate: float = 25.0
    timeout: float = 10.0
    span: float = 1.0
    disturbances: list[Disturbance] = field(default_factory=list)
    told: Callable[[str], None] = lambda line: None


class _Ended(Exception):
    """A program is gone that nobody killed: the storm is over."""


class Program:
    """One of the programs, in its present incarnation."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.process: subprocess.Popen[bytes] | None = None
        self.incarnation = -1
        self.said: list[str] = []
        self.rest = b""
        self.stopped = False

    def start(self, folder: Path) -> None:
        """Run the next incarnation."""
        self.incarnation += 1
        self.said, self.rest = [], b""
        name = f"p{self.part.index}.{self.incarnation}"
        fields = {name: getattr(self.part, name) for name in Part.__dataclass_fields__}
        part = Part(**{**fields, "incarnation": self.incarnation, "journal": str(folder / f"{name}.journal")})
        with (folder / f"{name}.errors").open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-X", "faulthandler", "-m", "tests.soak.citizen", part.argument()],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )

    def order(self, word: str) -> None:
        """Tell it something; one that is gone does not hear it."""
        assert self.process is not None
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(word.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def hear(self) -> None:
        """Read what it says; its end is ``"gone"``."""
        assert self.process is not None
        assert self.process.stdout is not None
        data = os.read(self.process.stdout.fileno(), 4096)
        self.said += (self.rest + data).decode().split("\n")[:-1]
        self.rest = (self.rest + data).rpartition(b"\n")[2]
        if not data:
            self.said.append("gone")

    def bury(self) -> int | None:
        """After its end: its exit status."""
        process, self.process = self.process, None
        if process is None:
            return None
        if process.poll() is None:
            process.kill()
            process.send_signal(signal.SIGCONT)
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass
        return process.returncode


class Storm:
    """A run: programs, relay, and what happens to them. See :meth:`run`."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder
        self.faults: list[str] = []
        self.obstacles: list[Obstacle] = []
        self.settled_in = 0.0
        self.relayed: Counter[str] = Counter()

    def run(self) -> Verdict:
        """All of it: storm, calm, and the judgement of the oracle."""
        settings = self.settings
        ports = lasting_ports(settings.peers)
        paths = [self.folder / f"p{index}.key" for index in range(settings.peers)]
        ids = [Identity.load_or_create(path).peer_id for path in paths]
        with Relay(ports, ids, settings.seed) as relay:
            self.relay = relay
            self.programs = [
                Program(
                    Part(
                        index=index,
                        incarnation=0,
                        port=ports[index],
                        identity=str(paths[index]),
                        journal="",
                        peers={
                            f"p{other}": f"{ids[other]}@{relay.address(index, other)}"
                            for other in range(settings.peers)
                            if other != index
                        },
                        seed=settings.seed,
                        rate=settings.rate,
                        timeout=settings.timeout,
                        span=settings.span,
                        backend=settings.backend,
                        max_mtu=ETHERNET if index % 2 else 65_507,
                    )
                )
                for index in range(settings.peers)
            ]
            try:
                self._weather_the_storm()
            except _Ended as error:
                self.faults.append(str(error))
            finally:
                for program in self.programs:
                    program.bury()
                self.relayed = relay.counts.copy()
        verdict = judge(journals(self.folder))
        for fault in self.faults:
            verdict.blame("the run itself", fault)
        for path in sorted(self.folder.glob("*.errors")):
            if path.stat().st_size:
                verdict.blame("something on standard error", f"{path.stem}: {path.read_text(errors='replace')[:2000]}")
        for item in returns(verdict, self.obstacles):
            if item.seconds > RETURNING:
                verdict.blame(
                    "connected again too late", f"{item.what}, {item.seconds:.1f} s after the last {item.after}"
                )
        for usage in verdict.usages:
            grown = usage.last - usage.middle
            if usage.most > MEMORY or (usage.seconds >= LONG and grown > GROWTH):
                verdict.blame("memory", f"{usage.name}: {usage.most >> 20} MiB at most, {grown >> 20} MiB more lately")
        return verdict

    def _weather_the_storm(self) -> None:
        settings = self.settings
        for program in self.programs:
            program.start(self.folder)
        self._await("ready", self.programs, STARTING)
        self._listen(0.0)
        began = monotonic()
        ends: list[tuple[float, int, Callable[[], None]]] = []
        upcoming = sorted(settings.disturbances, key=lambda d: d.at)
        while upcoming or ends:
            ends.sort(key=lambda entry: entry[:2])
            if ends and (not upcoming or ends[0][0] <= upcoming[0].at):
                when, _, act = ends.pop(0)
                self._listen(began + when)
                act()
                continue
            disturbance = upcoming.pop(0)
            self._listen(began + disturbance.at)
            settings.told(str(disturbance))
            ends.append((disturbance.end, len(upcoming), self._begin(disturbance)))
        self._listen(began + settings.seconds)
        settings.told("healed; waiting until everything is settled")
        healed = monotonic()
        for program in self.programs:
            program.order("stop")
        self._await("settled", self.programs, SETTLING)
        self.settled_in = monotonic() - healed
        for program in self.programs:
            program.order("end")
        self._await("gone", self.programs, STARTING)
        for program in self.programs:
            status = program.bury()
            if status != 0:
                self.faults.append(f"p{program.part.index} ended with {status}")

    def _begin(self, disturbance: Disturbance) -> Callable[[], None]:
        """Do it; returns what undoes it."""
        relay, who, begin = self.relay, disturbance.who[0], monotonic()
        peers = range(self.settings.peers)
        all_of_one = frozenset((i, j) for i in peers for j in peers if i != j and who in (i, j))
        across = {(i, j) for i in disturbance.who for j in disturbance.others}
        back = {(j, i) for i, j in across}

        def over(pairs: Iterable[Pair], end: float | None = None) -> None:
            self.obstacles.append(Obstacle(disturbance.kind, begin, end or monotonic(), frozenset(pairs)))

        if disturbance.kind is Kind.KILL:
            program = self.programs[who]
            program.signal(signal.SIGKILL)
            program.bury()

            def restart() -> None:
                program.start(self.folder)
                over(all_of_one)

            return restart
        if disturbance.kind is Kind.SUSPEND:
            self.programs[who].signal(signal.SIGSTOP)

            def resume() -> None:
                self.programs[who].signal(signal.SIGCONT)
                over(all_of_one)

            return resume
        if disturbance.kind is Kind.PARTITION:
            pairs = across if disturbance.one_way else across | back
            relay.block(pairs)

            def mend() -> None:
                relay.unblock(pairs)
                over(across | back)

            return mend
        if disturbance.kind is Kind.REBIND:
            relay.rebind(who)

            def restore() -> None:
                relay.restore(who)
                over(all_of_one)

            return restore
        if disturbance.kind is Kind.WEATHER:
            relay.worsen(across | back, disturbance.weather)

            def calm() -> None:
                relay.clear(across | back, disturbance.weather)
                over(across | back)

            return calm
        relay.flood(who, disturbance.rate)

        def dry() -> None:
            relay.dry(who, disturbance.rate)
            over(all_of_one)

        return dry

    def _listen(self, until: float) -> None:
        """Let time pass, and notice programs that end by themselves."""
        while True:
            for program in self.programs:
                if "gone" in program.said:
                    status = program.bury()
                    raise _Ended(f"p{program.part.index} ended by itself with {status}")
            if (left := until - monotonic()) <= 0:
                return
            self._hear(left)

    def _hear(self, left: float) -> None:
        streams = {
            program.process.stdout: program
            for program in self.programs
            if program.process is not None and program.process.stdout is not None and "gone" not in program.said
        }
        for stream in select.select(list(streams), [], [], left)[0]:
            streams[stream].hear()

    def _await(self, word: str, programs: Sequence[Program], within: float) -> None:
        deadline = monotonic() + within
        while missing := [program for program in programs if word not in program.said]:
            left = deadline - monotonic()
            if left <= 0 or (word != "gone" and any("gone" in program.said for program in missing)):
                names = ", ".join(f"p{program.part.index}" for program in missing)
                self.faults.append(f"not {word!r} (waited {within:g} s at most): {names}")
                return
            self._hear(left)


def lasting_ports(count: int) -> list[int]:
    """Free ports that the system gives to nobody who asks for any port: a killed program finds its own again."""
    found: list[int] = []
    for port in random.SystemRandom().sample(range(12_000, 30_000), 2000):
        if len(found) == count:
            break
        if is_free(port):
            found.append(port)
    assert len(found) == count
    return found


def journals(folder: Path) -> list[Journal]:
    """All that the programs of a storm wrote."""
    found = []
    for path in folder.glob("p*.journal"):
        who, incarnation = path.stem[1:].split(".")
        found.append(Journal(int(who), int(incarnation), path))
    return found


def returns(verdict: Verdict, obstacles: Sequence[Obstacle]) -> list[Return]:
    """How long it took until connections were back after the obstacle between them was gone.

    A program that was started anew counts from its first moment; a connection that was lost after the last obstacle to
    it had gone, from the moment it was noticed.
    """
    found: list[Return] = []
    per_pair: dict[Pair, list[Obstacle]] = defaultdict(list)
    for obstacle in obstacles:
        if obstacle.kind in (Kind.WEATHER, Kind.FLOOD):
            continue
        for pair in obstacle.pairs:
            per_pair[pair].append(obstacle)
    lost: dict[tuple[int, int, int], Happening] = {}
    for event in sorted(verdict.happenings):
        key = (event.who, event.incarnation, event.peer)
        if event.kind == "lost":
            lost[key] = event
        if event.kind not in ("connected", "reconnected"):
            continue
        before = lost.pop(key, None)
        begun = verdict.begins.get((event.who, event.incarnation), 0.0)
        over = [o for o in per_pair[event.who, event.peer] if begun <= o.end <= event.time]
        latest = max(over, key=lambda o: o.end, default=None)
        what = f"p{event.who} {event.kind} to p{event.peer} at {event.time:.1f}"
        if event.kind == "connected":
            if event.incarnation:
                since = max(begun, latest.end if latest is not None else 0.0)
                found.append(Return(latest.kind if latest is not None else Kind.KILL, event.time - since, what))
        elif latest is not None:
            since = max(latest.end, before.time if before is not None else 0.0)
            found.append(Return(latest.kind, event.time - since, what))
    return found


def report(storm: Storm, verdict: Verdict, quiet: str) -> str:
    """Everything there is to tell, for people."""
    settings, counts = storm.settings, verdict.counts
    kinds = Counter(disturbance.kind for disturbance in settings.disturbances)
    lines = [
        f"storm: {settings.peers} programs, {settings.seconds / 60:.1f} minutes, seed {settings.seed}, "
        f"back end {settings.backend}, timeout {settings.timeout:g} s",
        quiet,
        "",
        "disturbances: " + ", ".join(f"{kinds[kind]} x {kind}" for kind in Kind),
        f"incarnations: {len(verdict.begins)}",
        "in between:   " + ", ".join(f"{number} {what}" for what, number in sorted(storm.relayed.items())),
        "",
        f"reliable messages sent      {counts['sent']}",
        f"  that arrived              {counts['arrived']}",
        f"  of killed senders         {counts['of killed senders']}, of which arrived "
        f"{counts['of killed senders, arrived']}",
        *(f"  failed: {reason}: {number}" for reason, number in sorted(verdict.failures.items())),
        f"unreliable messages sent    {counts['sent unreliably']}",
        f"  that arrived              {counts['unreliable that arrived']}",
        f"messages received           {counts['received']}",
        f"  again, after a restart    {counts['came again to a restarted program']}",
        f"bytes sent                  {counts['bytes sent']}",
        f"bytes received              {counts['bytes received']}",
        f"everything settled          {storm.settled_in:.1f} s after the end of the storm",
    ]
    if len(verdict.lateness) > 1:
        cuts = quantiles(verdict.lateness, n=100)
        lines.append(
            f"how busy the machine was    programs woke up late by (worst of each second): "
            f"median {median(verdict.lateness):.3f} s, 90% {cuts[89]:.2f} s, 99% {cuts[98]:.2f} s"
        )
    if len(verdict.latencies) > 1:
        cuts = quantiles(verdict.latencies, n=1000)
        lines.append(
            f"from sending to delivery    median {median(verdict.latencies):.3f} s, 90% {cuts[899]:.2f} s, "
            f"99% {cuts[989]:.2f} s, at most {max(verdict.latencies):.1f} s"
        )
    lines += ["", "events: " + ", ".join(f"{number} {kind}" for kind, number in sorted(verdict.events.items()))]
    by_kind: dict[Kind, list[Return]] = defaultdict(list)
    for item in returns(verdict, storm.obstacles):
        by_kind[item.after].append(item)
    lines.append("connected again, seconds after the last obstacle was gone:")
    for kind, items in sorted(by_kind.items()):
        seconds = sorted(item.seconds for item in items)
        worst = max(items, key=lambda item: item.seconds)
        lines.append(
            f"  {kind:9}  {len(items):5} times, median {median(seconds):6.2f}, "
            f"90% {seconds[int(0.9 * (len(seconds) - 1))]:6.2f}, at most {worst.seconds:6.2f} ({worst.what})"
        )
    lines += ["", "memory, MiB (first, middle, last, most), threads and descriptors:"]
    long = [usage for usage in verdict.usages if usage.seconds >= min(LONG, settings.seconds / 3)]
    for usage in long:
        lines.append(
            f"  {usage.name:6} {usage.seconds:6.0f} s  {usage.first >> 20:4} {usage.middle >> 20:4} "
            f"{usage.last >> 20:4} {usage.most >> 20:4}   {usage.threads} {usage.descriptors}"
        )
    if len(long) < len(verdict.usages):
        most = max(usage.most for usage in verdict.usages)
        lines.append(f"  all {len(verdict.usages)} lives, the short ones too: {most >> 20} at most")
    lines += ["", "datagrams dropped by the programs (as far as they lived to count):"]
    lines += [f"  {reason:28} {number}" for reason, number in sorted(verdict.drops.items())]
    lines.append("")
    if verdict.holds:
        lines.append("Everything held.")
    for sort, number in sorted(verdict.fault_counts.items()):
        lines.append(f"DOES NOT HOLD: {sort}: {number} times")
        lines += [f"    {detail}" for detail in verdict.faults[sort]]
    return "\n".join(lines) + "\n"


def machine() -> str:
    """What ran it and how busy it was."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, load {load}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak.storm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--peers", type=int, default=10)
    parser.add_argument("--seed", type=int, default=None, help="repeats what happens and when; printed if not given")
    parser.add_argument("--backend", choices=("auto", "cryptography", "pycryptodome"), default="auto")
    parser.add_argument("--rate", type=float, default=25.0, help="messages per second and program, about")
    parser.add_argument("--report", type=Path, help="write the report into this file too")
    parser.add_argument("--folder", type=Path, help="keep the journals here, whatever the result")
    parser.add_argument("--plan", action="store_true", help="only print what would happen when")
    parser.add_argument("--verbose", action="store_true", help="say what happens while it happens")
    options = parser.parse_args(arguments)
    if not 2 <= options.peers <= 32:
        parser.error("--peers must be from 2 to 32")
    seed = random.SystemRandom().randrange(1_000_000) if options.seed is None else options.seed
    seconds = options.minutes * 60
    disturbances = plan(seed, seconds, options.peers)
    if options.plan:
        print("\n".join(map(str, disturbances)))
        return 0
    print(f"seed {seed}, {len(disturbances)} disturbances; begun at {time.strftime('%H:%M:%S')}", flush=True)
    settings = Settings(
        seconds=seconds,
        peers=options.peers,
        seed=seed,
        backend=options.backend,
        rate=options.rate,
        disturbances=disturbances,
        told=(lambda line: print(line, flush=True)) if options.verbose else lambda line: None,
    )
    folder = options.folder or Path(tempfile.mkdtemp(prefix="srmudp-storm-"))
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("p*.journal")):
        parser.error(f"{folder} has journals of another run")
    before = machine()
    storm = Storm(settings, folder)
    verdict = storm.run()
    text = report(storm, verdict, f"before: {before}; after: {machine()}")
    print(text, end="")
    if options.report is not None:
        options.report.write_text(text)
    if verdict.holds and options.folder is None:
        shutil.rmtree(folder)
    else:
        print(f"journals: {folder}")
    return 0 if verdict.holds else 1


if __name__ == "__main__":
    sys.exit(main())
