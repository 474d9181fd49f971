"""The resolver thread: host names to addresses, away from every thread that has something better to do."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

from ..models import Address
from .addresses import is_nobody
from .rates import RateLimit

log = logging.getLogger("srmudp.resolver")

_AT_MOST_EVERY = 5.0
"""Seconds between two look-ups for one peer, however often they are wanted."""
_RETRY_MAX = 60.0
"""Seconds between attempts for a name that nobody knows, at most; from 1 s they double."""
_MAX_ANSWERS = 8
"""Addresses used of one name: a server's answer must not make us punch hundreds."""

Hosts = Sequence[tuple[str, int]]


class Question:
    """One look-up: the host names of a peer and what is found for them."""

    def __init__(self, peer: str, hosts: Hosts) -> None:
        self.peer = peer
        self.hosts = hosts
        self.failed = 0
        self._found: dict[Address, None] = {}
        self._reason = ""

    @property
    def addresses(self) -> list[Address]:
        """All that were found."""
        return list(self._found)

    @property
    def reason(self) -> str:
        """Why there are none."""
        return self._reason or f"the name {self.hosts[0][0]!r} stands for no address of a single host"

    def answer(self, answers: Sequence[tuple[Any, ...]]) -> None:
        """What ``getaddrinfo`` returned for one of the hosts."""
        for family, _type, _proto, _name, sockaddr in answers[:_MAX_ANSWERS]:
            if family in (socket.AF_INET, socket.AF_INET6) and not is_nobody(ip_address(sockaddr[0])):
                self._found[_address(sockaddr)] = None

    def fail(self, host: str, error: Exception) -> None:
        """What it raised."""
        self.failed += 1
        self._reason = f"the name {host!r} cannot be looked up ({error}): is it right, and is there a network?"


class Agenda:
    """Whose names are to be looked up when. Waits for nothing and knows no clock.

    Args:
        hosts_of: the names and ports wanted for a peer now; empty if it is gone.
    """

    def __init__(self, hosts_of: Callable[[str], Hosts]) -> None:
        self._hosts_of = hosts_of
        self._due: dict[str, float] = {}  # peer -> time of its next look-up
        self._last: dict[str, tuple[Hosts, float, int]] = {}  # peer -> hosts, time and failures in a row

    def want(self, peer: str, now: float) -> None:
        """The names of ``peer`` are wanted."""
        last = self._last.get(peer)
        # Other hosts than last time are looked up at once, the same ones not again so soon.
        earliest = now if last is None or last[0] != self._hosts_of(peer) else last[1] + _AT_MOST_EVERY
        self._due[peer] = min(self._due.get(peer, earliest), earliest)

    def wait(self, now: float) -> float | None:
        """Seconds until there is something to do; None if there is nothing."""
        return max(0.0, min(self._due.values()) - now) if self._due else None

    def next(self, now: float) -> Question | None:
        """What is to be looked up now, if anything is; :meth:`finish` it."""
        for peer in [peer for peer, due in self._due.items() if due <= now]:
            del self._due[peer]
            hosts = self._hosts_of(peer)
            if hosts:
                return Question(peer, hosts)
            self._last.pop(peer, None)
        return None

    def finish(self, question: Question, now: float) -> None:
        """Everything in it was answered; what failed is due again."""
        peer, failed = question.peer, question.failed
        failures = self._last[peer][2] + 1 if failed and peer in self._last else int(failed > 0)
        self._last[peer] = (question.hosts, now, failures)
        if failed:
            self._due[peer] = now + min(_RETRY_MAX, 2.0 ** (failures - 1))


class Resolver:
    """Looks up the host names of peers when asked to, and again while there is no answer.

    Args:
        hosts_of: the names and ports wanted for a peer now; empty if it is gone. Called on the resolver thread.
        resolved: given the peer, the hosts as asked and all addresses found. Called on the resolver thread.
        getaddrinfo: as ``socket.getaddrinfo``.
        unresolved: given the peer, the hosts as asked and the reason when no address was found; likewise.
    """

    def __init__(
        self,
        hosts_of: Callable[[str], Hosts],
        resolved: Callable[[str, Hosts, list[Address]], None],
        getaddrinfo: Callable[..., Sequence[tuple[Any, ...]]] | None = None,
        unresolved: Callable[[str, Hosts, str], None] | None = None,
    ) -> None:
        self._agenda = Agenda(hosts_of)  # the thread's own
        self._unresolved = unresolved
        self._resolved = resolved
        self._getaddrinfo = getaddrinfo or socket.getaddrinfo
        self._wanted: SimpleQueue[str | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._start_lock = threading.Lock()
        self._stopping = False
        self._complaint = RateLimit()

    def start(self) -> None:
        """Start the thread unless it runs. Not under the endpoint lock."""
        with self._start_lock:
            if self._thread is None and not self._stopping:
                self._thread = threading.Thread(target=self._loop, name="srmudp-resolver", daemon=True)
                self._thread.start()

    def want(self, peer: str) -> None:
        """Have the names of ``peer`` looked up soon. Any thread, also under the endpoint lock; never waits."""
        self._wanted.put(peer)

    def stop(self, limit: float) -> bool:
        """End the thread; a look-up in progress cannot be cut short, so it is left behind after ``limit`` seconds.

        Returns:
            False if it still runs.
        """
        self._stopping = True
        self._wanted.put(None)
        thread = self._thread
        if thread is None or thread.ident is None:  # another thread is just starting it: it will end at once
            return True
        if thread is not threading.current_thread():
            thread.join(max(0.0, limit))
        return not thread.is_alive()

    def _loop(self) -> None:
        while not self._stopping:
            try:
                peer = self._wanted.get(timeout=self._agenda.wait(monotonic()))
                if peer is not None:
                    self._agenda.want(peer, monotonic())
            except Empty:
                pass
            now = monotonic()
            while not self._stopping and (question := self._agenda.next(now)) is not None:
                try:
                    self._look_up(question)
                except Exception:
                    if self._complaint():
                        log.exception("! resolver")

    def _look_up(self, question: Question) -> None:
        for host, port in question.hosts:
            try:
                question.answer(self._getaddrinfo(host, port, type=socket.SOCK_DGRAM, proto=socket.IPPROTO_UDP))
            except (OSError, UnicodeError) as error:
                question.fail(host, error)
                if self._complaint():
                    log.info("! %s: cannot look up %s: %s", question.peer, host, error)
        self._agenda.finish(question, monotonic())
        if self._stopping:
            return
        if question.addresses:
            self._resolved(question.peer, question.hosts, question.addresses)
        elif self._unresolved is not None:
            self._unresolved(question.peer, question.hosts, question.reason)


def _address(sockaddr: tuple[Any, ...]) -> Address:
    host, port = str(sockaddr[0]), int(sockaddr[1])
    if len(sockaddr) == 4 and sockaddr[3] and "%" not in host:
        host = f"{host}%{sockaddr[3]}"  # the scope of a link-local address
    return Address(host, port)
