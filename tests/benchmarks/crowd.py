"""Many peers on one socket: ``python -m tests.benchmarks.crowd`` from a checkout.

One socket here, the *hub*, is given 200 peers at once; their sockets, the *guests*, live in another process and each
has added the hub. Measured: seconds until every guest is connected, has got one message from the hub and has been
answered; memory the hub's process has grown by for each of them, after a collection (a few other guests were connected
and removed before, so that what is made once is not counted); and the CPU time the hub's process takes while nothing
is said. Exits with 1 if a figure is above its bound.

With ``--together`` all sockets are in this process: the time is bounded alike, memory and idle CPU are those of all
of them and only shown.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from srmudp import Config, Message, MultiHolepunchSocket, PeerEvent
from tests.benchmarks.quiet import spin

ROOT = Path(__file__).resolve().parent.parent.parent
HOST = "127.0.0.1"
WARM_UP = 4
"""Guests that are connected and removed before anything is measured."""
CONNECT_BOUND = 20.0
"""Seconds until everybody has been connected, written to and answered."""
MEMORY_BOUND = 50.0
"""KiB for each idle peer."""
IDLE_BOUND = 0.02
"""Share of a core that all idle peers together may take."""
TIMEOUT = 21.0
"""Seconds of silence after which a peer is lost, as by default."""
QUIET_WORK = 0.012
"""CPU seconds that :func:`work` takes on a quiet 2.5 GHz core, to which the bound of silence refers: the CPU clock of
a virtual machine counts what its neighbours take, and a shared core does less in a second."""
KEEPALIVE = TIMEOUT / 3
"""Seconds between two signs of life of a silent peer."""
SETTLE = 1.5
"""Seconds after the last answer until the socket counts as idle: path MTU discovery and last acknowledgements."""

BAD = ("lost", "refused", "peer_changed", "identity_in_use_elsewhere")
"""Events that must not happen."""

Backend = Literal["auto", "cryptography", "pycryptodome"]


@dataclass
class Figures:
    """What was measured.

    Attributes:
        guests: how many.
        connect: seconds until all were connected, written to and answered.
        half: the same for the faster half of them.
        memory: KiB the process grew by for each of them.
        idle: share of a core while nothing was said; None if not measured. The lowest of several intervals between
            keepalives: what else the machine does only adds to it.
        datagrams: datagrams a second in and out meanwhile.
        work: CPU seconds that a fixed piece of work took beside it.
        drops: what the hub discarded.
        lost: guests that were lost or refused at any time.
    """

    guests: int
    connect: float
    half: float = 0.0
    memory: float = 0.0
    idle: float | None = None
    datagrams: float = 0.0
    work: float = 0.0
    drops: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)

    @property
    def idle_when_quiet(self) -> float:
        """The share that a quiet core would have needed."""
        return (self.idle or 0.0) / max(1.0, self.work / QUIET_WORK)


class Guests:
    """Sockets that answer every message of the hub. Closed by leaving the ``with`` block."""

    def __init__(self, count: int, backend: Backend, timeout: float = TIMEOUT) -> None:
        allow_descriptors(8 * count + 100)
        config = Config(backend=backend)
        self._sockets = [
            MultiHolepunchSocket(host=HOST, name=f"guest {number}", timeout=timeout, config=config)
            for number in range(count)
        ]
        self.ports = [sock.port for sock in self._sockets]

    def meet(self, hub: int) -> None:
        """Add the hub, which has that port."""
        for sock in self._sockets:

            def answer(message: Message, sock: MultiHolepunchSocket = sock) -> None:
                sock.send(b"answer to " + message.content, message.peer)

            sock.register_message_hook(answer)
            sock.add_peer("hub", (HOST, hub))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for sock in self._sockets:
            sock.close(0)


class FarGuests:
    """:class:`Guests` in a process of their own."""

    def __init__(self, count: int, backend: Backend, timeout: float = TIMEOUT) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.crowd", "--backend", backend]
        command += ["--guests", str(count), "--timeout", str(timeout)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.__exit__(None, None, None)
            raise RuntimeError("the guests did not start")
        self.ports: list[int] = json.loads(line)

    def meet(self, hub: int) -> None:
        """Have them add the hub, which has that port."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{hub}\n")
        self._process.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.communicate(timeout=20)  # the end of its input is what it waits for
        self._process.kill()
        self._process.communicate()


def guests(count: int, backend: Backend, timeout: float) -> None:
    """The process of :class:`FarGuests`."""
    with Guests(count, backend, timeout) as all_of_them:
        print(json.dumps(all_of_them.ports), flush=True)
        for line in sys.stdin:
            all_of_them.meet(int(line))


class Hub:
    """The socket with many peers.

    Args:
        sock: a fresh one; its messages and events are ours from now on.
    """

    def __init__(self, sock: MultiHolepunchSocket) -> None:
        self.sock = sock
        self.lost: list[str] = []
        self.times: list[float] = []
        """Seconds after which each guest had answered, in order, of the last :meth:`welcome`."""
        sock.on_event(self._on_event)

    def _on_event(self, event: PeerEvent) -> None:
        if event.kind in BAD:
            self.lost.append(f"{event.peer} {event.kind.value}: {event.reason}")

    def welcome(self, ports: Sequence[int], within: float, prefix: str = "guest") -> float:
        """Add peers at these ports and send each a message; seconds until all have answered.

        Raises:
            TimeoutError: they did not within ``within`` seconds; the text tells how far they got.
        """
        names = {f"{prefix} {number}": port for number, port in enumerate(ports)}
        began = time.monotonic()
        self.sock.add_peers({name: (HOST, port) for name, port in names.items()})
        delivery = self.sock.send(b"hello", list(names), timeout=within)
        self.times = []
        waiting = set(names)
        while waiting:
            message = self.sock.receive(max(0.0, began + within - time.monotonic()))
            if message is None:
                states = Counter(status.state.value for status in self.sock.connections_status.values())
                raise TimeoutError(
                    f"{len(waiting)} of {len(names)} have not answered after {within:g} s; "
                    f"{dict(states)}, drops {dict(self.sock.drops)}"
                )
            if message.content != b"answer to hello" or message.peer not in waiting:
                raise AssertionError(f"{message.peer} said {message.content!r}")
            waiting.discard(message.peer)
            self.times.append(time.monotonic() - began)
        if not delivery.wait(max(0.0, began + within - time.monotonic())):
            raise TimeoutError(f"not all deliveries were confirmed: {delivery}")
        return time.monotonic() - began

    def idle(self, seconds: float) -> tuple[float, float]:
        """Say nothing for so long: share of a core that this process took, and datagrams a second in and out."""
        before, cpu, began = self._datagrams(), time.process_time(), time.monotonic()
        time.sleep(seconds)
        cpu, lasted = time.process_time() - cpu, time.monotonic() - began
        return cpu / lasted, (self._datagrams() - before) / lasted

    def _datagrams(self) -> int:
        stats = [status.stats for status in self.sock.connections_status.values()]
        return sum(each.datagrams_sent + each.datagrams_received for each in stats)


def allow_descriptors(count: int) -> None:
    """Raise the soft limit of this process, as far as it may, to so many open files."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        most = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def resident() -> int:
    """Bytes of memory this process has; 0 where the system does not tell."""
    gc.collect()
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def work() -> float:
    """CPU seconds of a fixed piece of work: more where a neighbour shares the core, or the machine is virtual."""
    times = []
    for _ in range(5):
        began = time.thread_time()
        spin()
        times.append(time.thread_time() - began)
    return statistics.median(times)


def measure(count: int, backend: Backend, idle: float, together: bool, within: float) -> Figures:
    """Connect so many guests and look.

    Args:
        idle: seconds over which the CPU time of silence is taken; 0 leaves it out.
        together: all sockets in this process.
        within: seconds after which connecting is given up.

    Raises:
        TimeoutError: not all of them connected and answered.
    """
    place: type[Guests] | type[FarGuests] = Guests if together else FarGuests
    sock = MultiHolepunchSocket(host=HOST, config=Config(backend=backend))
    with contextlib.closing(sock):
        hub = Hub(sock)
        with place(WARM_UP, backend) as first:
            first.meet(sock.port)
            hub.welcome(first.ports, within, "early guest")
            sock.remove_peers(list(sock.connections_status))
        with place(count, backend) as crowd:
            before = resident()
            crowd.meet(sock.port)
            figures = Figures(count, hub.welcome(crowd.ports, within))
            time.sleep(SETTLE)
            figures.memory = (resident() - before) / 1024 / count
            if idle:
                windows = [hub.idle(KEEPALIVE) for _ in range(max(1, round(idle / KEEPALIVE)))]
                figures.idle, figures.datagrams = min(windows)
                figures.work = work()
            figures.drops, figures.lost = dict(sock.drops), hub.lost
            figures.half = hub.times[count // 2]
            sock.close(0)
    return figures


def above(figures: Figures, together: bool) -> list[str]:
    """Which bounds do not hold."""
    failed = list(figures.lost)
    if figures.connect > CONNECT_BOUND:
        failed.append(f"connecting took {figures.connect:.1f} s, more than {CONNECT_BOUND:g}")
    if not together and figures.memory > MEMORY_BOUND:
        failed.append(f"a peer takes {figures.memory:.1f} KiB, more than {MEMORY_BOUND:g}")
    if not together and figures.idle_when_quiet > IDLE_BOUND:
        failed.append(f"silence takes {figures.idle_when_quiet:.2%} of a quiet core, more than {IDLE_BOUND:.0%}")
    return failed


def report(figures: Figures, backend: Backend, together: bool) -> str:
    """For the screen."""
    lines = [
        f"{figures.guests} peers, {backend}, {'all in one process' if together else 'the others in another process'}",
        f"  connected, one message each way     {figures.connect:8.2f} s      (half of them {figures.half:.2f} s; "
        f"bound {CONNECT_BOUND:g} s)",
        f"  memory for each idle peer           {figures.memory:8.1f} KiB"
        + ("    (both ends)" if together else f"    (bound {MEMORY_BOUND:g} KiB)"),
    ]
    if figures.idle is not None:
        bound = "(all sockets)" if together else f"(bound {IDLE_BOUND:.0%})"
        lines.append(
            f"  a core's share while idle           {figures.idle:8.2%}      {bound}, "
            f"{figures.datagrams:.0f} datagrams/s in and out"
        )
        lines.append(
            f"  the same on a quiet core            {figures.idle_when_quiet:8.2%}      "
            f"(this one takes {figures.work / QUIET_WORK:.1f} times as long as a quiet one)"
        )
    lines.append(f"  drops of the hub                    {figures.drops}")
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    first, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.crowd",
        description=first,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--peers", type=int, default=200, metavar="N", help="(default %(default)s)")
    parser.add_argument(
        "--backend",
        choices=("auto", "cryptography", "pycryptodome"),
        default="auto",
        help="cryptographic library of all sockets (default: the faster one that is installed)",
    )
    parser.add_argument(
        "--idle",
        type=float,
        default=21.0,
        metavar="SECONDS",
        help="of silence (default %(default)s)",
    )
    parser.add_argument("--together", action="store_true", help="all sockets in one process")
    parser.add_argument(
        "--limit", type=float, default=90.0, metavar="SECONDS", help="to give up connecting (default %(default)s)"
    )
    parser.add_argument("--guests", type=int, metavar="N", help=argparse.SUPPRESS)
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.peers < 1 or options.idle < 0 or options.limit <= 0:
        parser.error("--peers and --limit are positive, --idle is not negative")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if options.guests is not None:
        guests(options.guests, options.backend, options.timeout)
        return 0
    try:
        figures = measure(options.peers, options.backend, options.idle, options.together, options.limit)
    except TimeoutError as error:
        print(f"FAILED: {error}")
        return 1
    print(report(figures, options.backend, options.together))
    print(
        f"{os.cpu_count()} CPUs, {platform.system()} {platform.release()}, Python {platform.python_version()}, "
        f"load {os.getloadavg()[0]:.2f}"
    )
    failed = above(figures, options.together)
    for what in failed:
        print(f"FAILED: {what}")
    return int(bool(failed))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted")
