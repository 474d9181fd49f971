"""Who reads the socket: leases, notes and output that is gathered."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from math import inf

import pytest

from srmudp.models import Address
from srmudp.sockets import driver as module
from srmudp.sockets import gathering, reading
from srmudp.sockets.driver import Driver
from srmudp.sockets.reading import GRACE, LEASE, STEP, Lease
from srmudp.transports.base import Batch

from .conftest import Rig, reach
from .fakes import FakeEndpoint, FakeTransport, Transmit, arrived

SOMEWHERE = Address("192.0.2.1", 1)


def elsewhere(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(5)


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.woken = self.nudged = 0
        monkeypatch.setattr(reading, "monotonic", lambda: self.now)
        self.lease = Lease(self.wake, self.nudge)

    def wake(self) -> None:
        self.woken += 1

    def nudge(self) -> None:
        self.nudged += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


# --- the lease ---


def test_the_receiver_thread_stands_by_while_somebody_reads(clock: Clock) -> None:
    lease = clock.lease
    assert lease.stand_by() == 0.0
    assert lease.enter()
    assert lease.stand_by() == LEASE
    clock.now += LEASE
    assert lease.stand_by() == 0.0, "a reader that vanished is not waited for"
    lease.renew()
    assert lease.stand_by() == LEASE


def test_one_reads_at_a_time(clock: Clock) -> None:
    assert clock.lease.enter()
    answers: list[bool] = []
    elsewhere(lambda: answers.append(clock.lease.enter()))
    clock.lease.leave()
    elsewhere(lambda: answers.append(clock.lease.enter()))
    assert answers == [False, True]


def test_a_reader_that_comes_and_goes_wakes_nobody(clock: Clock) -> None:
    lease = clock.lease
    lease.enter()
    lease.stand_by()
    lease.leave()
    assert clock.woken == 1, "the receiver thread was going to sleep for longer"
    for _ in range(5):
        assert 0 < lease.stand_by() <= STEP + 1e-9
        lease.enter()
        clock.now += GRACE / 10
        lease.leave()
    assert clock.woken == 1
    clock.now += GRACE
    assert lease.stand_by() == 0.0


def test_the_receiver_thread_looks_seldom_at_one_who_stays_and_often_at_one_who_comes_and_goes(clock: Clock) -> None:
    lease = clock.lease

    lease.enter()
    lease.leave()
    sleeps = []
    for _ in range(4):
        lease.enter()
        sleeps.append(lease.stand_by())
        clock.now += sleeps[-1]
        lease.leave()
    assert sleeps == pytest.approx([GRACE, STEP, STEP, STEP])
    assert 0 < lease.stand_by() <= GRACE + 1e-9, "nobody reads just now"
    lease.enter()
    sleeps = [lease.stand_by() for _ in range(8)]
    assert sleeps[0] == pytest.approx(STEP)
    assert sleeps[-1] == LEASE
    lease.leave()
    assert clock.woken == 1, "it was going to sleep for longer than a reader may be away"


@pytest.mark.parametrize("away", [0.0, 0.2, 0.9])
def test_the_socket_is_unread_for_a_step_at_most(clock: Clock, away: float) -> None:
    """Whenever the reader goes for good, the receiver thread looks within a step and then reads."""
    lease = clock.lease
    lease.enter()
    lease.leave()
    for _ in range(5):
        lease.enter()
        until = clock.now + lease.stand_by()
        clock.now += (until - clock.now) * away
        lease.leave()
        left, clock.now = clock.now, until
    while wait := lease.stand_by():
        clock.now += wait
    assert clock.now - left <= STEP + 1e-9
    assert clock.woken == 0


def test_who_leaves_while_the_receiver_thread_goes_to_sleep_is_noticed(clock: Clock) -> None:
    """It does not know yet that it would have to be woken."""

    class Racing(Lease):
        leaves = False

        def __setattr__(self, name: str, value: object) -> None:
            if name == "_sleeps_until" and self.leaves:
                object.__setattr__(self, "leaves", False)
                self.leave()
            super().__setattr__(name, value)

    lease = Racing(clock.wake, clock.nudge)
    lease.enter()
    assert lease.stand_by() == LEASE
    clock.now += 1.0
    assert lease.stand_by() == LEASE - 1.0
    lease._sleeps_until = -inf  # awake
    lease.leaves = True
    assert 0 < lease.stand_by() <= GRACE
    assert clock.woken == 0


def test_who_waives_while_the_reader_leaves_is_heard(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = clock.lease
    lease.enter()
    assert lease.stand_by() == LEASE

    class Lock:
        def release(self) -> None:
            lease.waive()  # another thread's, in the middle of leave()

    monkeypatch.setattr(lease, "_lock", Lock())
    lease.leave()
    assert clock.woken
    assert lease.stand_by() == 0.0


def exchange(clock: Clock, trip: float, seconds: float) -> list[float]:
    """A reader that is away for half of each ``trip``; for how long the receiver thread slept between its looks."""
    lease, end, looks_at, slept = clock.lease, clock.now + seconds, clock.now, []
    lease.enter()
    while clock.now < end:
        for here in (True, False):
            until = clock.now + trip / 2
            while looks_at < until:
                clock.now = looks_at
                slept.append(lease.stand_by())
                assert slept[-1] > 0, "it is back in time"
                looks_at += slept[-1]
            clock.now = until
            if here:
                woken = clock.woken
                lease.leave()
                if clock.woken > woken:
                    looks_at = clock.now
            else:
                lease.enter()
    lease.leave()
    left, clock.now = clock.now, looks_at
    while wait := lease.stand_by():
        clock.now += wait
    slept.append(clock.now - left)
    return slept


def test_in_a_quick_exchange_the_receiver_thread_looks_once_a_step(clock: Clock) -> None:
    """Also if it finds the reader away: it will be back."""
    *looks, unread = exchange(clock, 0.0003, 1.0)
    assert len(looks) < 210, "instead of 270"
    assert max(looks[1:]) <= STEP + 1e-9
    assert unread <= STEP + 1e-9
    assert clock.woken == 1


def test_who_waits_for_something_else_after_a_quick_exchange_need_not_wait_for_the_step(clock: Clock) -> None:
    lease = clock.lease
    for _ in range(10):
        for _ in range(10):
            lease.enter()
            lease.leave()
        step = lease.stand_by()
        clock.now += GRACE * 0.99
    assert step == pytest.approx(STEP)
    clock.now += GRACE * 0.02
    assert not lease.lasts
    woken = clock.woken
    lease.waive()
    assert clock.woken == woken + 1
    assert lease.stand_by() == 0.0


def test_who_looks_at_the_deadlines(clock: Clock) -> None:
    lease = clock.lease
    assert lease.looks_at == inf
    lease.enter()
    assert lease.looks_at == -inf
    lease.leave()
    assert lease.looks_at == inf, "the receiver thread is awake, perhaps reading"
    lease.enter()
    lease.stand_by()
    lease.leave()
    assert lease.looks_at == -inf, "it will look soon"
    clock.now += GRACE
    lease.stand_by()
    assert lease.looks_at == inf


def test_a_signal_handler_on_top_of_the_reader_has_others_read(clock: Clock) -> None:
    lease = clock.lease
    lease.enter()
    lease.stand_by()
    assert not lease.enter()
    assert clock.woken == 1
    assert lease.stand_by() == 0.0
    lease.leave()


def test_only_a_reader_is_nudged_and_not_by_itself(clock: Clock) -> None:
    clock.lease.nudge()
    clock.lease.enter()
    clock.lease.nudge()
    assert clock.nudged == 0
    elsewhere(clock.lease.nudge)
    assert clock.nudged == 1


def test_who_waits_for_something_else_lets_the_receiver_thread_read(clock: Clock) -> None:
    lease = clock.lease
    lease.enter()
    elsewhere(lease.waive)
    assert lease.lasts, "somebody reads"
    lease.leave()
    assert lease.lasts
    lease.waive()
    assert not lease.lasts


def test_while_others_wait_the_receiver_thread_takes_over_at_once(clock: Clock) -> None:
    lease = clock.lease
    inside, go_on = threading.Event(), threading.Event()

    def get(timeout: float | None) -> bool:
        inside.set()
        return go_on.wait(timeout)

    lease.enter()
    thread = threading.Thread(target=lambda: lease.wait(get, 5.0))
    thread.start()
    assert inside.wait(5)
    assert lease.lasts, "the other one does read"
    lease.leave()
    assert not lease.lasts
    go_on.set()
    thread.join(5)
    lease.enter()
    lease.leave()
    assert lease.lasts


# --- with a driver ---


class Bench:
    def __init__(self, transport: FakeTransport | None = None) -> None:
        self.endpoint, self.transport = FakeEndpoint(), transport or FakeTransport()
        self.handled: list[tuple[str, bytes]] = []
        self.endpoint.on_batch = lambda buffer: self.handled.append((threading.current_thread().name, buffer))
        self.driver = Driver(
            self.endpoint,  # type: ignore[arg-type]
            self.transport,
            lambda event, now: None,
            lambda: None,
        )
        self.driver.start()

    def has(self, count: int) -> Callable[[], bool | None]:
        return lambda: True if len(self.handled) >= count else None


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.driver.stop()


def test_who_waits_reads_and_the_receiver_thread_reads_on(bench: Bench) -> None:
    timer = threading.Timer(0.05, bench.transport.arrive, (b"1",))
    timer.start()
    assert bench.driver.read_until(bench.has(1), None)
    bench.transport.arrive(b"2")
    assert bench.driver.read_until(bench.has(2), time.monotonic() + 5)
    bench.transport.arrive(b"3")
    reach(lambda: len(bench.handled) == 3)
    assert [buffer for _, buffer in bench.handled] == [b"1", b"2", b"3"]
    assert bench.handled[1][0] == threading.current_thread().name
    assert bench.handled[2][0] == "srmudp-receiver"
    timer.join()


@pytest.mark.parametrize("reader", ["application", "receiver thread"])
def test_what_the_transport_has_read_already_is_not_waited_for(bench: Bench, reader: str) -> None:
    """More than one burst has come by one wake-up; then the descriptor is silent."""
    count, transport = module._BURST + 1, bench.transport

    def receive_batch() -> Batch | None:
        with contextlib.suppress(BlockingIOError):
            transport.reader.recv(100)
        return transport.incoming.popleft() if transport.incoming else None

    transport.receive_batch = receive_batch  # type: ignore[method-assign]
    transport.arrive(*[b"%d" % n for n in range(count)])
    if reader == "application":
        assert bench.driver.read_until(bench.has(1), time.monotonic() + 5)
    reach(lambda: len(bench.handled) == count)


class Lone(FakeTransport):
    """Its descriptor is readable while a datagram is there, as a socket's is."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def arrive(self, *datagrams: bytes, source: Address = SOMEWHERE) -> None:
        for datagram in datagrams:
            super().arrive(datagram, source=source)

    def receive_lone(self) -> Batch | None:
        self.calls.append("lone")
        return self._take()

    def receive_batch(self) -> Batch | None:
        self.calls.append("batch")
        return self._take()

    def _take(self) -> Batch | None:
        with contextlib.suppress(BlockingIOError):
            self.reader.recv(1)
        return self.incoming.popleft() if self.incoming else None


def test_what_comes_alone_costs_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(Lone())
    assert isinstance(bench.transport, Lone)
    try:
        bench.driver.read_until(lambda: None, time.monotonic() + 0.001)  # the receiver thread stands by
        monkeypatch.setattr(module, "_SLEPT", -1.0)
        bench.transport.calls.clear()
        bench.transport.arrive(b"1", b"2", bytes(module._LONE + 1), b"3")
        assert bench.driver.read_until(bench.has(2), time.monotonic() + 5)
        assert bench.transport.calls == ["lone", "lone"]
        assert bench.driver.read_until(bench.has(4), time.monotonic() + 5)
        assert bench.transport.calls[2:] == ["lone", "batch", "batch"], "a large one is not alone"
        monkeypatch.setattr(module, "_SLEPT", 1000.0)
        bench.transport.arrive(b"4", b"5")
        assert bench.driver.read_until(bench.has(5), time.monotonic() + 5)
        assert bench.transport.calls[5:] == ["batch", "batch", "batch"], "it was there before anybody waited"
        assert [buffer[:1] for _, buffer in bench.handled] == [b"1", b"2", b"\0", b"3", b"4", b"5"]
    finally:
        bench.driver.stop()


def test_waiting_ends_in_time_and_when_the_driver_stops(bench: Bench) -> None:
    began = time.monotonic()
    assert bench.driver.read_until(bench.has(1), began + 0.01) is None
    assert 0.01 <= time.monotonic() - began < 1
    timer = threading.Timer(0.05, bench.driver.stop)
    timer.start()
    assert bench.driver.read_until(bench.has(1), None) is None
    timer.join()


def test_an_interrupt_while_reading_leaves_the_socket_read(bench: Bench) -> None:
    def interrupt(buffer: bytes) -> None:
        bench.endpoint.on_batch = lambda buffer: bench.handled.append((threading.current_thread().name, buffer))
        raise KeyboardInterrupt

    assert bench.driver.read_until(bench.has(1), time.monotonic() + 0.001) is None  # the receiver thread stands by
    bench.endpoint.on_batch = interrupt
    bench.transport.arrive(b"1")
    with pytest.raises(KeyboardInterrupt):
        bench.driver.read_until(bench.has(1), None)
    assert bench.endpoint.interrupted == 1
    bench.transport.arrive(b"2")
    reach(bench.has(1))
    assert bench.driver.read_until(bench.has(1), None)


@pytest.mark.parametrize("reading", [False, True])
def test_a_note_is_done_though_nobody_comes_back(bench: Bench, reading: bool) -> None:
    done: list[str] = []
    if reading:
        bench.transport.arrive(b"1")
        bench.driver.read_until(bench.has(1), None)
    bench.driver.note(lambda now, what: done.append(what), "noted")
    reach(lambda: done == ["noted"])


def test_what_is_done_after_a_note_sees_it_done(bench: Bench) -> None:
    done: list[int] = []
    for number in range(100):
        bench.driver.note(lambda now, what: done.append(what), number)
    assert len(done) >= 100 - module._NOTES
    bench.driver.run(lambda now: done.append(-1))
    assert done == [*range(100), -1]


def test_who_waits_has_what_came_before_deadlines_are_seen_to(bench: Bench) -> None:
    """And they are seen to though it does not come back, as is the end of what came, with the time at which it came."""
    due = time.monotonic() + 1000
    handled = bench.endpoint.on_batch

    def on_batch(buffer: bytes) -> None:
        handled(buffer)
        bench.endpoint.timer = due

    bench.endpoint.on_batch = on_batch
    timer = threading.Timer(0.05, bench.transport.arrive, (b"1",))
    timer.start()
    assert bench.driver.read_until(bench.has(1), None)
    assert bench.driver._notes
    reach(lambda: bench.driver._due == due)
    (_, came), ended = bench.endpoint.times
    assert ended == ("end", came)
    timer.join()


def test_deadlines_are_seen_to_at_once_if_what_came_was_not_waited_for(bench: Bench) -> None:
    fired: list[float] = []
    bench.endpoint.on_timer = fired.append
    bench.endpoint.on_batch = lambda buffer: setattr(bench.endpoint, "timer", time.monotonic() + 0.01)
    timer = threading.Timer(0.05, bench.transport.arrive, (b"1",))
    timer.start()
    assert bench.driver.read_until(lambda: fired or None, time.monotonic() + 5)
    timer.join()


def test_an_answer_to_what_came_alone_is_not_put_off(bench: Bench) -> None:
    """What the endpoint itself has to say, an acknowledgement for instance, does not wait for the application."""
    handled = bench.endpoint.on_batch

    def on_batch(buffer: bytes) -> None:
        handled(buffer)
        bench.endpoint.out.append(Transmit(b"answer", 6, SOMEWHERE))

    bench.endpoint.on_batch = on_batch
    timer = threading.Timer(0.05, bench.transport.arrive, (b"1",))
    timer.start()
    assert bench.driver.read_until(bench.has(1), None)
    assert bench.transport.sent == [b"answer"]
    timer.join()


# --- deadlines ---


def set_timer(bench: Bench, after: float) -> float:
    due = time.monotonic() + after
    bench.driver.run(lambda now: setattr(bench.endpoint, "timer", due))
    return due


@pytest.fixture
def fired(bench: Bench) -> list[tuple[str, float]]:
    fired: list[tuple[str, float]] = []
    bench.endpoint.on_timer = lambda now: fired.append((threading.current_thread().name, now))
    return fired


def test_who_reads_keeps_the_deadlines(bench: Bench, fired: list[tuple[str, float]]) -> None:
    bench.driver.read_until(lambda: None, time.monotonic() + 0.001)  # the receiver thread stands by
    bench.endpoint.on_batch = lambda buffer: setattr(bench.endpoint, "timer", time.monotonic() + 0.02)
    bench.transport.arrive(b"1")
    assert bench.driver.read_until(lambda: fired or None, time.monotonic() + 5)
    assert fired[0][0] == threading.current_thread().name


def test_a_deadline_is_kept_though_the_reader_goes_away(bench: Bench, fired: list[tuple[str, float]]) -> None:
    for after in (0.0, 0.001, 0.004, 0.01, 0.03):
        bench.driver.read_until(lambda: None, time.monotonic() + 0.001)
        due = set_timer(bench, after)
        reach(lambda: fired)
        name, now = fired.pop()
        assert name == "srmudp-timer"
        assert now >= due


def test_a_deadline_before_the_readers_is_kept(bench: Bench, fired: list[tuple[str, float]]) -> None:
    """Another thread sets it while the reader sleeps."""
    timer = threading.Timer(0.02, set_timer, (bench, 0.01))
    timer.start()
    assert bench.driver.read_until(lambda: None, time.monotonic() + 0.1) is None
    assert fired
    assert fired[0][0] == "srmudp-timer"
    timer.join()


def test_a_reader_that_breaks_its_promise_delays_a_deadline_a_little(
    bench: Bench, fired: list[tuple[str, float]]
) -> None:
    bench.driver.lease.enter()  # as if interrupted before it could go to sleep
    due = set_timer(bench, 0.01)
    reach(lambda: fired)
    assert fired[0][0] == "srmudp-timer"
    assert due + module._BACKUP <= fired[0][1]
    bench.driver.lease.leave()


def test_timers_that_fail_do_not_keep_the_reader_busy(bench: Bench) -> None:
    def fail(now: float) -> None:
        bench.endpoint.timer = now
        raise ZeroDivisionError

    bench.endpoint.on_timer = fail
    set_timer(bench, 0.01)
    bench.driver.read_until(lambda: None, time.monotonic() + 0.1)
    assert 1 <= bench.driver.drops["internal_error"] < 10
    bench.endpoint.on_timer = lambda now: None


def test_a_note_that_is_the_last_does_not_wait(bench: Bench) -> None:
    done: list[str] = []
    bench.driver.note(lambda now, what: done.append(what), "more follow", lambda: False)
    assert done == []
    bench.driver.note(lambda now, what: done.append(what), "last", lambda: True)
    assert done == ["more follow", "last"]


# --- gathering ---


def gather(bench: Bench, count: int) -> None:
    for number in range(count):
        payload = b"%d" % number
        bench.driver.run_gathering(lambda now, p: bench.endpoint.out.append(Transmit(p, len(p), SOMEWHERE)), payload)


def test_a_few_leave_at_once_and_many_together(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "GATHER", 1000.0)
    monkeypatch.setattr(gathering, "AT_ONCE_RATE", 0.0)
    gather(bench, gathering.AT_ONCE)
    assert len(bench.transport.sent) == gathering.AT_ONCE
    gather(bench, gathering.GATHERED - 1)
    assert len(bench.transport.sent) == gathering.AT_ONCE
    gather(bench, 1)
    reach(lambda: len(bench.transport.sent) == gathering.AT_ONCE + gathering.GATHERED)
    gather(bench, 1)
    bench.driver.run(lambda now: None)
    assert len(bench.transport.sent) == gathering.AT_ONCE + gathering.GATHERED + 1, "other work takes it along"


def test_what_was_put_off_leaves_though_nobody_calls_again(bench: Bench) -> None:
    gather(bench, 1000)
    reach(lambda: len(bench.transport.sent) == 1000)
    assert bench.transport.sent == [b"%d" % n for n in range(1000)]


def test_an_answer_leaves_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "GATHER", 1000.0)
    monkeypatch.setattr(gathering, "AT_ONCE_RATE", 0.0)
    for number in range(3 * gathering.AT_ONCE):
        bench.transport.arrive(b"question")
        assert bench.driver.read_until(bench.has(number + 1), None)
        gather(bench, 1)
        assert len(bench.transport.sent) == number + 1


def test_messages_taken_are_told_of_though_receive_is_not_called_again(rig: Rig) -> None:
    rig.emit(*(arrived(b"%d" % n) for n in range(5)))
    for _ in range(4):
        assert rig.engine.receive(0) is not None
    reach(lambda: len(rig.endpoint.taken) == 4)
