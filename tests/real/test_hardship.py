"""A system that refuses: send and receive errors of every kind, no descriptors left, signals at any moment.

The errors are made where the library meets the system: on the methods of its UDP socket. Nothing may be lost, no thread
may die, what the system refused is counted where the user sees it (``sock.drops``), and when the errors end so do their
effects.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from srmudp import Config, MultiHolepunchSocket
from srmudp.sockets import surroundings, waiting
from srmudp.transports.base import Transport
from srmudp.transports.batch import BatchSocket
from srmudp.wire.packet import RECORD, RESEND, RESEND_OVERHEAD
from tests.real import programs
from tests.real.helpers import (
    DEADLINE,
    ETHERNET,
    Make,
    Wire,
    alive,
    all_told,
    connected,
    content,
    digests,
    join,
    key_agreements,
    reach,
    receive,
    state,
)
from tests.real.proxy import Flight, Proxy

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="segmentation offload is Linux's")


class Unwilling:
    """Stands between the library and its UDP socket, which fails whenever ``fault`` says so.

    For ``Config(transport=...)``; one socket each. Datagrams longer than an Ethernet frame holds get lost, so that
    there are many of them.

    Attributes:
        fault: given the name of the call (sendmsg, sendto, recvmsg, recvfrom); gives an errno, or 0.
        failed: calls that were made to fail, by name.
    """

    def __init__(self) -> None:
        self.fault: Callable[[str], int] = lambda call: 0
        self.calls: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.wire = Wire(keep=False, mtu=ETHERNET)

    def __call__(self, inner: Transport) -> Transport:
        batches: BatchSocket = inner._batches  # type: ignore[attr-defined]
        batches._sock = _Proxy(self, batches._sock)  # type: ignore[assignment]
        for name in ("sendmsg", "recvmsg"):
            if hasattr(batches._sock, name):
                setattr(batches, f"_{name}", getattr(batches._sock, name))
        return self.wire(inner)


class _Proxy:
    def __init__(self, owner: Unwilling, real: socket.socket) -> None:
        self._owner, self._real = owner, real

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._real, name)
        if name not in ("sendmsg", "sendto", "recvmsg", "recvfrom"):
            return attribute

        def call(*arguments: Any) -> Any:
            self._owner.calls[name] += 1
            number = self._owner.fault(name)
            if number:
                self._owner.failed[name] += 1
                raise OSError(number, os.strerror(number))  # the class follows from the number
            return attribute(*arguments)

        return call


def unwilling_pair(make: Make, **options: Any) -> tuple[MultiHolepunchSocket, MultiHolepunchSocket, Unwilling]:
    """ "a", whose system is unwilling at times, connected with "b"."""
    system = Unwilling()
    a = make(config=Config(transport=system, max_mtu=ETHERNET), **options)
    b = make(config=Config(max_mtu=ETHERNET), **options)
    join(a, b)
    return a, b, system


def threads() -> Counter[str]:
    return Counter(thread.name for thread in threading.enumerate() if thread.name.startswith("srmudp-"))


def nothing_internal(*sockets: MultiHolepunchSocket) -> None:
    for sock in sockets:
        assert sock.drops.get("internal_error", 0) == 0, state(sock)


def share(calls: tuple[str, ...], number: int, every: int) -> Callable[[str], int]:
    """Fails every so many calls of these names."""
    counts: Counter[str] = Counter()

    def fault(call: str) -> int:
        if call not in calls:
            return 0
        counts[call] += 1
        return number if counts[call] % every == 0 else 0

    return fault


def _all_counted(sock: MultiHolepunchSocket, name: str, system: Unwilling) -> None:
    """What failed is in the socket's drops; what an acknowledgement met a moment ago, perhaps a moment later."""
    assert sum(system.failed.values()) > 0
    reach(lambda: sock.drops[f"transport_{name}"] == sum(system.failed.values()), lambda: state(sock))


# --- sending


SENDS = ("sendmsg", "sendto")


@pytest.mark.parametrize(
    "name", ["ENOBUFS", "ENETUNREACH", "EHOSTUNREACH", "EPERM", "ENETDOWN", "EMSGSIZE", "EINVAL", "EIO", "ECONNREFUSED"]
)
def test_sending_that_fails_now_and_then(make: Make, name: str) -> None:
    """Every fourth send fails, for single datagrams and for batches: all arrives once, and the user sees the count."""
    a, b, system = unwilling_pair(make)
    before = threads()
    system.fault = share(SENDS, getattr(errno, name), 4)
    data = [content(100_000, number) for number in range(2)]
    deliveries = [a.send(one, "b") for one in data] + [a.send(b"%d" % number, "b", channel=1) for number in range(20)]
    got = receive(b, len(deliveries))
    assert all(delivery.wait(DEADLINE) for delivery in deliveries), state(a)
    assert digests(one for one in got if len(one) > 10) == digests(data)
    assert [one for one in got if len(one) < 10] == [b"%d" % number for number in range(20)]
    system.fault = lambda call: 0
    _all_counted(a, name, system)
    alive(a, b)
    assert threads() == before
    nothing_internal(a, b)


@pytest.mark.parametrize("name", ["ENETUNREACH", "ENOBUFS", "EPERM", "ENETDOWN"])
def test_sending_that_fails_for_a_while(make: Make, name: str) -> None:
    """Nothing leaves for as long as three counts of lost datagrams; then all of it does, without a new connection."""
    a, b, system = unwilling_pair(make)
    heard: list[str] = []
    a.on_event(lambda event: heard.append(event.kind))
    system.fault = lambda call: getattr(errno, name) if call in SENDS else 0
    deliveries = [a.send(content(50_000, number), "b") for number in range(3)]
    answer = b.send(b"can you hear me", "a")
    assert receive(a, 1) == [b"can you hear me"], "receiving goes on"
    reach(lambda: sum(system.failed.values()) >= 12, lambda: system.failed)
    assert not any(delivery.delivered for delivery in deliveries)
    assert sum(system.failed.values()) < 400, "a refusing system is not asked in a loop"
    system.fault = lambda call: 0
    assert digests(receive(b, 3)) == digests(content(50_000, number) for number in range(3))
    assert all(delivery.wait(DEADLINE) for delivery in (*deliveries, answer))
    assert a.drops[f"transport_{name}"] == sum(system.failed.values())
    all_told(a)
    assert not {"lost", "reconnected"} & set(heard)
    nothing_internal(a, b)


@linux_only
@pytest.mark.parametrize("name", ["EIO", "EINVAL", "EMSGSIZE"])
def test_segmentation_offload_that_fails_from_one_moment_on(make: Make, name: str) -> None:
    """A card or route that cannot: the batch at hand goes datagram by datagram, and so do the next ones."""
    a, b, system = unwilling_pair(make)
    alive(a, b)
    assert system.calls["sendmsg"], "this system has no segmentation offload"
    system.calls.clear()
    system.fault = lambda call: getattr(errno, name) if call == "sendmsg" else 0
    lost = a.connections_status["b"].stats.datagrams_lost
    data = content(400_000)
    delivery = a.send(data, "b")
    assert digests(receive(b, 1)) == digests([data])
    assert delivery.wait(DEADLINE)
    assert system.failed["sendmsg"] == 1, "it is remembered for the path"
    assert system.calls["sendto"] > 400_000 // ETHERNET
    assert a.drops[f"transport_{name}"] == 1
    assert a.connections_status["b"].stats.datagrams_lost - lost <= 5, "none of the batch"
    nothing_internal(a, b)


def test_a_buffer_that_is_full_for_a_while(make: Make) -> None:
    """EAGAIN, in the middle of batches too: the rest waits for room. Nothing is counted, for nothing was refused."""
    a, b, system = unwilling_pair(make)
    lost = a.connections_status["b"].stats.datagrams_lost
    until = time.monotonic() + 0.15
    system.fault = lambda call: errno.EAGAIN if call in SENDS and time.monotonic() < until else 0
    began = time.process_time()
    deliveries = [a.send(content(100_000, number), "b") for number in range(3)]
    assert digests(receive(b, 3)) == digests(content(100_000, number) for number in range(3))
    assert all(delivery.wait(DEADLINE) for delivery in deliveries)
    assert "transport_EAGAIN" not in a.drops
    system.fault = share(SENDS, errno.EAGAIN, 3)
    alive(a, b)
    assert a.connections_status["b"].stats.datagrams_lost - lost < 100
    assert time.process_time() - began < 5
    nothing_internal(a, b)


# --- receiving


@pytest.mark.parametrize("name", ["ECONNREFUSED", "EHOSTUNREACH", "ENETDOWN", "ENOMEM", "EINTR", "EIO"])
def test_receiving_that_fails_now_and_then(make: Make, name: str) -> None:
    """What ICMP leaves on a socket, and worse, in every third read: read past, counted, nothing lost."""
    a, b, system = unwilling_pair(make)
    before = threads()
    system.fault = share(("recvmsg", "recvfrom"), getattr(errno, name), 3)
    data = [content(100_000, number) for number in range(2)]
    deliveries = [b.send(one, "a") for one in data]
    assert digests(receive(a, 2)) == digests(data)
    assert all(delivery.wait(DEADLINE) for delivery in deliveries)
    system.fault = lambda call: 0
    _all_counted(a, name, system)
    alive(a, b)
    assert threads() == before
    nothing_internal(a, b)


def test_receiving_that_fails_for_a_while(make: Make) -> None:
    """Every read fails, datagrams wait: the receiver thread neither dies nor takes a core, and then catches up."""
    a, b, system = unwilling_pair(make)
    system.fault = lambda call: errno.EIO if call.startswith("recv") else 0
    delivery = b.send(content(100_000), "a")
    reach(lambda: a.drops.get("transport_EIO", 0) > 2000)
    began, computed, failed = time.monotonic(), time.process_time(), system.failed.copy()
    assert not threading.Event().wait(0.2)
    spent, lasted = time.process_time() - computed, time.monotonic() - began
    assert sum((system.failed - failed).values()) < 16 * lasted * 2000, "it pauses between two tries"
    assert spent < lasted * 0.95, "and sleeps meanwhile"
    system.fault = lambda call: 0
    assert digests(receive(a, 1)) == digests([content(100_000)])
    assert delivery.wait(DEADLINE)
    alive(a, b)
    nothing_internal(a, b)


# --- 21: a relay that damages


@pytest.mark.timeout(60)
def test_attack_21_a_relay_that_damages_what_it_passes_on(make: Make, proxy: Proxy) -> None:
    """Attack 21: 5 % of the datagrams come with another byte and a checksum that fits, as broken relays send them.

    10 MB (3 where encryption is dear) arrive intact, and damaged datagrams are accounted for by tags that were wrong.
    """
    config = Config(max_mtu=ETHERNET)
    a, b = make(config=config), make(config=config)
    a.add_peer("b", proxy.face("a"))
    b.add_peer("a", proxy.face("b"))
    proxy.attach(a=a.port, b=b.port)
    connected(a, b)
    proxy.recording = False
    rng = random.Random(21)
    damaged: Counter[str] = Counter()

    def damage(flight: Flight) -> tuple[bytes]:
        if flight.datagram[0] not in (RECORD, RESEND) or rng.random() >= 0.05:
            return (flight.datagram,)
        damaged[flight.sender] += 1
        changed = bytearray(flight.datagram)
        changed[rng.randrange(RESEND_OVERHEAD, len(changed))] ^= 1 << rng.randrange(8)
        return (bytes(changed),)

    before = proxy.passed["a"]
    proxy.rule = damage
    data = [content(1_000_000, number) for number in range(key_agreements(10, 3))]
    deliveries = [a.send(one, "b") for one in data]
    assert digests(receive(b, len(data), 30)) == digests(data)
    assert all(delivery.wait(DEADLINE) for delivery in deliveries), state(a)
    passed = proxy.passed["a"] - before
    assert damaged["a"] == pytest.approx(passed * 0.05, rel=0.3)
    # One wrong tag may stand for several datagrams of one long record; a resent piece may meet a record that is gone.
    assert 0.5 * damaged["a"] < b.drops["bad_tag"] <= damaged["a"], (damaged, state(b))
    proxy.rule = None
    alive(a, b)
    nothing_internal(a, b)


# --- 48: descriptors


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit on Windows")
def test_attack_48_no_descriptors_left() -> None:
    """Attack 48: sockets are opened under ``ulimit -n 64`` until there are none: an OSError, nothing left open.

    Wherever in the making of a socket the descriptors run out. The sockets that exist go on; closing some makes room.
    """
    first, many, after = programs.finish(programs.start("descriptors"), 40)
    assert first["ways to fail"] >= 2, "it failed at more than one place"
    assert first["errors"] == ["OSError EMFILE"]
    assert first["left open"] == first["left running"] == 0
    assert 5 <= many["opened"] <= 30
    assert many["error"] == "EMFILE"
    assert many["others go on"]
    assert after == {"again": True, "left open": 0, "left running": 0}


# --- signals


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no alarm clock")
@pytest.mark.timeout(60, method="thread")  # the test has the alarm clock for itself
def test_a_handler_that_sends_while_the_program_sends(make: Make) -> None:
    """A signal handler calls send() at random moments of send(): no deadlock, everything arrives once.

    What a handler sends on top of the library is put off for a moment, so a later one may overtake it.
    """
    a, b = make(), make()
    join(a, b)
    from_handler: list[Any] = []
    numbers = itertools.count()
    limit = 150

    def handler(signum: int, frame: FrameType | None) -> None:
        if len(from_handler) < limit:  # may itself be interrupted by the next one
            from_handler.append(a.send(b"handler %d" % next(numbers), "b", channel=1))

    before = signal.signal(signal.SIGALRM, handler)
    number = 0
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0007, 0.0007)
        while len(from_handler) < limit:
            a.send(b"program %d " % number + content(3000, number), "b", timeout=DEADLINE)
            number += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    sent = next(numbers)
    assert sent == len(from_handler)
    got = receive(b, number + sent)
    assert sorted(text for text in got if text.startswith(b"h")) == sorted(b"handler %d" % n for n in range(sent))
    assert [int(text.split()[1]) for text in got if text.startswith(b"program")] == list(range(number))
    assert all(delivery.wait(DEADLINE) for delivery in from_handler)
    nothing_internal(a, b)


def test_a_handler_that_says_goodbye_and_closes() -> None:
    """What a service does on SIGTERM, while its main thread is in the middle of send(): the last word arrives."""
    process = programs.start("goodbye", "SIGTERM")
    told, got = programs.finish(process, 40)
    assert told == {"ended by": "SocketClosed", "closed": True, "left running": 0}
    assert got == {"goodbyes": 1, "in order": True, "lost event": "lost"}


# --- sleep


def test_attack_43_the_driver_tells_of_sleep(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack 43: on Linux and macOS the clock of timers stands still in sleep, so another one must tell.

    A machine that slept for an hour, as far as that clock says: it connects anew at once, and its peer follows.
    """
    slept = 0.0
    monkeypatch.setattr(surroundings, "time_asleep", lambda: slept)
    a, b = make(timeout=60, span=0.05), make(timeout=60, span=3600)
    heard: list[str] = []
    a.on_event(lambda event: heard.append(f"{event.kind} {event.reason}"))
    join(a, b)
    slept = 4.0
    alive(a, b)
    assert not [text for text in heard if text.startswith("lost")], "a nap is no sleep"
    slept = 3604.0
    reach(lambda: [text for text in heard if text.startswith("reconnected")], lambda: heard)
    assert [text for text in heard if text.startswith("lost")] == ["lost slept for 3600 s"]
    connected(a, b)
    alive(a, b)


@linux_only
def test_the_machine_has_a_clock_that_goes_on_in_its_sleep() -> None:
    first = waiting.time_asleep()
    assert first >= -0.001
    assert waiting.time_asleep() == pytest.approx(first, abs=1.0)
