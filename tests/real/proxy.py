"""Somebody in the path: a UDP proxy between two sockets that sees, changes, drops, repeats and rebinds.

::

    with Proxy() as proxy:
        a.add_peer("b", proxy.face("a"))        # a is shown the proxy where b should be
        b.add_peer("a", proxy.face("b"))
        proxy.attach(a=a.port, b=b.port)
        proxy.rule = lambda flight: () if flight.sender == "a" else (flight.datagram,)
        proxy.inject("b", [flight.datagram for flight in proxy.seen])

It has one thread and its own sockets and is deterministic: what a rule returns leaves in that order at once. A rule is
called on the proxy's thread; an exception in it fails the ``with`` block.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Literal, NamedTuple, Self

Side = Literal["a", "b"]

_BUFFER = 4 * 1024 * 1024
_BURST = 32


class Flight(NamedTuple):
    """One datagram on its way: ``number`` counts all that came, from 0."""

    number: int
    sender: Side
    datagram: bytes


Rule = Callable[[Flight], Iterable[bytes]]


SIDES: tuple[Side, Side] = ("a", "b")


def other(side: Side) -> Side:
    """The far end."""
    return "b" if side == "a" else "a"


class Proxy:
    """Forwards between a and b; see the head of this file.

    Attributes:
        rule: gives what is to be forwarded for a datagram; None forwards it as it is.
        seen: every datagram that came, while ``recording``.
        passed: datagrams that came, by sender.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.rule: Rule | None = None
        self.recording = True
        self.seen: list[Flight] = []
        self.passed: dict[Side, int] = {"a": 0, "b": 0}
        self._host = host
        self._faces: dict[Side, socket.socket] = {"a": _socket(host), "b": _socket(host)}
        self._retired: list[socket.socket] = []
        self._targets: dict[Side, tuple[str, int]] = {}
        self._queue: deque[Callable[[], None]] = deque()
        self._wake, self._woken = socket.socketpair()
        self._fault: BaseException | None = None
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop = True
        self._nudge()
        self._thread.join(10)
        for sock in (*self._faces.values(), *self._retired, self._wake, self._woken):
            sock.close()
        assert not self._thread.is_alive()
        if self._fault is not None and kind is None:
            raise self._fault

    def attach(self, *, a: int, b: int) -> None:
        """Say at which ports the two sockets are."""
        self._targets = {"a": (self._host, a), "b": (self._host, b)}

    def face(self, side: Side) -> tuple[str, int]:
        """The address that ``side`` is to talk to."""
        address: tuple[str, int] = self._faces[side].getsockname()
        return address

    def inject(self, to: Side, datagrams: Sequence[bytes], *, within: float = 10.0) -> None:
        """Send datagrams to one side from the address it knows, no faster than it reads. Returns when all have left."""
        done = threading.Event()
        rest = deque(datagrams)

        def some() -> None:
            for _ in range(min(_BURST, len(rest))):
                self.deliver(to, rest.popleft())
            if rest:
                self._queue.append(some)
                self._nudge()
            else:
                done.set()

        self.call(some)
        assert done.wait(within)

    def rebind(self, side: Side) -> None:
        """What comes from ``other(side)`` reaches ``side`` from a new port from now on, as when a NAT forgets a
        mapping: the old port is deaf."""
        done = threading.Event()

        def swap() -> None:
            self._retired.append(self._faces[side])
            self._faces[side] = _socket(self._host)
            done.set()

        self.call(swap)
        assert done.wait(10)

    def call(self, work: Callable[[], None]) -> None:
        """Have ``work`` done on the proxy's thread, between two datagrams."""
        self._queue.append(work)
        self._nudge()

    def flights(self, sender: Side, *kinds: int) -> list[bytes]:
        """What was seen of one sender, of all kinds (first bytes) or some."""
        return [f.datagram for f in list(self.seen) if f.sender == sender and (not kinds or f.datagram[0] in kinds)]

    def _nudge(self) -> None:
        with contextlib.suppress(OSError):
            self._wake.send(b"\0")

    def deliver(self, to: Side, datagram: bytes) -> None:
        """Send one datagram to one side from the address it knows, now. For rules and ``call``."""
        if len(self._targets) < 2:
            return
        for _ in range(1000):
            try:
                self._faces[to].sendto(datagram, self._targets[to])
                return
            except BlockingIOError:  # our own buffer is full: the kernel hands over at once, so this cannot last
                time.sleep(0.001)
            except OSError:  # closed meanwhile: ICMP told us
                pass

    def _run(self) -> None:
        try:
            while not self._stop:
                sides: dict[socket.socket, Side] = {sock: side for side, sock in self._faces.items()}
                ready, _, _ = select.select([*sides, self._woken], [], [], 5.0)
                for sock in ready:
                    if sock is self._woken:
                        self._woken.recv(4096)
                        for _ in range(len(self._queue)):
                            self._queue.popleft()()
                    elif sock in sides:
                        self._forward(sock, sides[sock])
        except BaseException as error:
            self._fault = error

    def _forward(self, sock: socket.socket, sender: Side) -> None:
        for _ in range(_BURST):
            try:
                datagram, source = sock.recvfrom(65_535)
            except BlockingIOError:
                return
            except OSError:  # ICMP about something sent before
                continue
            if source != self._targets.get(sender):
                continue
            flight = Flight(self.passed["a"] + self.passed["b"], sender, datagram)
            self.passed[sender] += 1
            if self.recording:
                self.seen.append(flight)
            rule = self.rule
            for out in (datagram,) if rule is None else rule(flight):
                self.deliver(other(sender), out)


def _socket(host: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    sock.setblocking(False)
    sock.bind((host, 0))
    return sock
