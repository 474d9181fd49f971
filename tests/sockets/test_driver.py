"""The driver: locks, threads, the way out, signals and faults."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from math import inf
from typing import Any

import pytest

from srmudp.exceptions import LocalProtocolError, SocketClosed
from srmudp.models import Address
from srmudp.sockets import driver as module
from srmudp.sockets.driver import Driver
from srmudp.sockets.rates import RateLimit
from srmudp.sockets.runner import Reentered

from .conftest import reach
from .fakes import FakeEndpoint, FakeTransport, Transmit

SOMEWHERE = Address("192.0.2.1", 1)


class Bench:
    def __init__(self) -> None:
        self.endpoint = FakeEndpoint()
        self.transport = FakeTransport()
        self.events: list[Any] = []
        self.driver = Driver(
            self.endpoint,  # type: ignore[arg-type]
            self.transport,
            lambda event, now: self.events.append(event),
            lambda: None,
        )

    def queue(self, *payloads: bytes) -> None:
        self.endpoint.out.extend(Transmit(p, len(p), SOMEWHERE) for p in payloads)

    def send(self, *payloads: bytes) -> None:
        self.driver.run(lambda now: self.queue(*payloads))

    def send_small(self, *payloads: bytes) -> None:
        self.driver.run_gathering(lambda now: self.queue(*payloads))


@pytest.fixture
def idle() -> Iterator[Bench]:
    """A driver whose threads have not been started."""
    bench = Bench()
    yield bench
    bench.driver.stop()


@pytest.fixture
def bench(idle: Bench) -> Bench:
    idle.driver.start()
    return idle


def test_output_leaves_in_the_callers_thread_in_order(idle: Bench) -> None:
    threads: list[str] = []
    idle.transport.on_send = lambda payload: threads.append(threading.current_thread().name)
    payloads = [b"%d" % n for n in range(100)]
    idle.send(*payloads)
    assert idle.transport.sent == payloads
    assert set(threads) == {threading.current_thread().name}


def test_only_so_much_is_sealed_ahead(idle: Bench) -> None:
    left: list[int] = []
    idle.transport.on_send = lambda payload: left.append(len(idle.endpoint.out))
    idle.send(*[b"x"] * 100)
    assert left[0] == 100 - module._BACKLOG


def test_one_call_does_its_share_and_the_receiver_thread_the_rest(idle: Bench) -> None:
    payloads = [b"%d" % n for n in range(module._SHARE + 50)]
    idle.send(*payloads)
    assert len(idle.transport.sent) == module._SHARE
    idle.driver.start()
    reach(lambda: len(idle.transport.sent) == len(payloads))
    assert idle.transport.sent == payloads


def test_would_block_keeps_the_rest_until_writable(idle: Bench) -> None:
    idle.transport.accept = 3
    idle.driver.run(lambda now: idle.endpoint.out.append(Transmit(b"aabbcc", 2, SOMEWHERE)))
    assert idle.transport.sent == [b"aab"]
    idle.send(b"dd")
    assert idle.transport.sent == [b"aab"], "order is kept while blocked"
    idle.transport.accept = 1000
    idle.driver.start()
    reach(lambda: len(idle.transport.sent) == 3)
    assert idle.transport.sent == [b"aab", b"bcc", b"dd"]


def test_a_small_message_leaves_before_deadlines_and_events_are_seen_to(idle: Bench) -> None:
    at_sending: list[tuple[float, list[Any]]] = []
    idle.transport.on_send = lambda payload: at_sending.append((idle.driver._due, list(idle.events)))
    idle.endpoint.timer = time.monotonic() + 1000
    idle.endpoint.events.append("event")
    idle.send_small(b"1", b"2")
    assert at_sending == [(inf, []), (idle.endpoint.timer, ["event"])]
    assert idle.transport.sent == [b"1", b"2"]


def test_what_follows_a_small_message_is_seen_to_though_the_transport_would_block(idle: Bench) -> None:
    idle.transport.accept = 0
    idle.endpoint.timer = time.monotonic() + 1000
    idle.endpoint.events.append("event")
    idle.send_small(b"1")
    assert idle.driver._due == idle.endpoint.timer
    assert idle.events == ["event"]
    idle.transport.accept = 1000
    idle.driver.start()
    reach(lambda: idle.transport.sent[-1:] == [b"1"])


def test_what_follows_a_small_message_is_seen_to_though_sending_it_was_interrupted(bench: Bench) -> None:
    def interrupt(payload: bytes) -> None:
        raise KeyboardInterrupt

    bench.transport.on_send = interrupt
    bench.endpoint.events.append("event")
    with pytest.raises(KeyboardInterrupt):
        bench.send_small(b"1")
    reach(lambda: bench.events == ["event"])


def test_notes_are_done_with_a_small_message(idle: Bench) -> None:
    done: list[str] = []
    idle.driver.note(lambda now, what: done.append(what), "noted")
    idle.send_small(b"1")
    assert done == ["noted"]


def test_another_threads_output_is_seen_by_the_holder(idle: Bench) -> None:
    """The lost wake-up: B queues while A holds the send lock; A must look again."""
    inside, go_on = threading.Event(), threading.Event()

    def on_send(payload: bytes) -> None:
        if payload == b"a":
            inside.set()
            assert go_on.wait(5)

    idle.transport.on_send = on_send
    thread = threading.Thread(target=idle.send, args=(b"a",))
    thread.start()
    assert inside.wait(5)
    idle.send(b"b")
    assert idle.transport.sent == []
    go_on.set()
    thread.join(5)
    assert idle.transport.sent == [b"a", b"b"]


def test_many_threads_lose_nothing(bench: Bench) -> None:
    def work(number: int) -> None:
        for n in range(200):
            bench.send(b"%d:%d" % (number, n))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    reach(lambda: len(bench.transport.sent) == 800)
    for number in range(4):
        mine = [p for p in bench.transport.sent if p.startswith(b"%d:" % number)]
        assert mine == [b"%d:%d" % (number, n) for n in range(200)]


def test_a_burst_is_handled_and_then_ended(bench: Bench) -> None:
    seen: list[bytes] = []
    bench.endpoint.on_batch = seen.append
    bench.transport.arrive(*[b"%d" % n for n in range(150)])
    reach(lambda: bench.endpoint.calls)
    assert seen == [b"%d" % n for n in range(150)]
    assert bench.endpoint.calls == [("burst_end",)]


def test_the_receiver_lets_go_of_the_lock(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HOLD", 0.0005)
    holds: list[int] = []
    collect = bench.driver._collect
    count = 0

    def counting(now: float) -> None:
        nonlocal count
        holds.append(count)
        count = 0
        collect(now)

    def slow(buffer: bytes) -> None:
        nonlocal count
        count += 1
        until = time.monotonic() + 0.0003
        while time.monotonic() < until:
            pass

    monkeypatch.setattr(bench.driver, "_collect", counting)
    bench.endpoint.on_batch = slow
    bench.transport.arrive(*[b"x"] * 20)
    reach(lambda: bench.endpoint.calls)
    assert sum(holds) == 20
    assert max(holds) <= 4


def test_a_fault_is_counted_logged_once_and_survived(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def broken(buffer: bytes) -> None:
        if buffer != b"good":
            raise ZeroDivisionError("on purpose")
        bench.queue(b"answer")

    bench.endpoint.on_batch = broken
    bench.transport.arrive(b"bad", b"bad", b"bad", b"good")
    reach(lambda: bench.transport.sent and caplog.records)
    assert bench.driver.drops["internal_error"] == 3
    assert [r.name for r in caplog.records] == ["srmudp.sockets"]
    assert "on purpose" in caplog.text


def test_a_failing_event_handler_is_survived(bench: Bench) -> None:
    bench.driver._on_event = lambda event, now: 1 // 0  # type: ignore[assignment]
    bench.driver.run(lambda now: bench.endpoint.events.append("event"))
    assert bench.driver.drops["internal_error"] == 1


def test_the_timer_thread_keeps_deadlines(bench: Bench) -> None:
    fired: list[float] = []
    bench.endpoint.on_timer = fired.append
    due = time.monotonic() + 0.02
    bench.driver.run(lambda now: setattr(bench.endpoint, "timer", due))
    reach(lambda: fired)
    assert fired[0] >= due


def test_an_earlier_deadline_wakes_the_timer_thread_and_a_later_one_does_not(bench: Bench) -> None:
    driver, wakes, turns = bench.driver, 0, 0
    turn, wake = driver._turn, driver._baton.wake
    reach(lambda: driver._sleep_until == float("inf"))

    def counting_turn() -> None:
        nonlocal turns
        turns += 1
        turn()

    class Counting:
        sleep = driver._baton.sleep

        def wake(self) -> None:
            nonlocal wakes
            wakes += 1
            wake()

    driver._turn = counting_turn  # type: ignore[method-assign]
    driver._baton = Counting()  # type: ignore[assignment]
    base = time.monotonic()
    for after, expected in ((1000, 1), (2000, 1), (1000, 1), (1500, 1), (500, 2)):
        driver.run(lambda now, after=after: setattr(bench.endpoint, "timer", base + after))  # type: ignore[misc]
        assert wakes == expected
    assert driver._sleep_until == base + 500
    assert turns == 0, "woken to sleep less, not to take a turn before it is due"
    due = time.monotonic() + 0.01
    driver.run(lambda now: setattr(bench.endpoint, "timer", due))
    driver.run(lambda now: setattr(bench.endpoint, "timer", base + 1000))
    reach(lambda: driver._sleep_until == base + 1000)
    assert turns == 1, "it slept on till then, though nothing was due any more"
    assert time.monotonic() >= due


def test_a_failing_timer_does_not_take_a_core(bench: Bench) -> None:
    def fail(now: float) -> None:
        bench.endpoint.timer = now
        raise ZeroDivisionError

    bench.endpoint.on_timer = fail
    bench.driver.run(lambda now: setattr(bench.endpoint, "timer", now))
    reach(lambda: bench.driver.drops["internal_error"] >= 2)
    assert bench.driver.drops["internal_error"] < 10


class Job:
    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.thread = ""
        self.lock_free = False
        self.finished = threading.Event()

    def run(self) -> None:
        self.thread = threading.current_thread().name
        self.lock_free = not self.bench.driver._busy

    def finish(self, now: float) -> None:
        assert self.bench.driver._busy
        self.bench.queue(b"done")
        self.finished.set()


def test_jobs_run_without_the_lock_and_not_in_the_callers_thread(bench: Bench) -> None:
    job = Job(bench)
    bench.driver.run(lambda now: bench.endpoint.jobs.append(job))
    assert job.finished.wait(5)
    assert job.thread == "srmudp-timer"
    assert job.lock_free
    reach(lambda: bench.transport.sent == [b"done"])


def test_the_receiver_runs_the_jobs_of_what_it_received(bench: Bench) -> None:
    job = Job(bench)
    bench.endpoint.on_batch = lambda buffer: bench.endpoint.jobs.append(job)
    bench.transport.arrive(b"hello")
    assert job.finished.wait(5)
    assert job.thread == "srmudp-receiver"


def test_a_failing_job_is_survived(bench: Bench) -> None:
    bad, good = Job(bench), Job(bench)
    bad.run = lambda: 1 // 0  # type: ignore[method-assign,assignment]
    bench.driver.run(lambda now: bench.endpoint.jobs.extend((bad, good)))
    assert good.finished.wait(5)
    assert not bad.finished.is_set()


def test_an_exception_leaves_the_lock_free_and_collects_later(bench: Bench) -> None:
    def work(now: float) -> None:
        bench.queue(b"before")
        raise KeyError("ours")

    with pytest.raises(KeyError):
        bench.driver.run(work)
    reach(lambda: bench.transport.sent == [b"before"])
    assert bench.endpoint.interrupted == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError, RecursionError])
def test_half_done_work_makes_the_endpoint_give_up_the_session(idle: Bench, error: type[BaseException]) -> None:
    def work(now: float) -> None:
        raise error

    with pytest.raises(error):
        idle.driver.run(work)
    assert idle.endpoint.interrupted == 1
    idle.send(b"x")
    assert idle.transport.sent == [b"x"]


def test_an_interrupted_transmission_leaves_the_send_lock_free(idle: Bench) -> None:
    def on_send(payload: bytes) -> None:
        if payload == b"2":
            raise KeyboardInterrupt

    idle.transport.on_send = on_send
    with pytest.raises(KeyboardInterrupt):
        idle.send(b"1", b"2", b"3")
    idle.driver.start()
    reach(lambda: idle.transport.sent == [b"1", b"3"])


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="POSIX timers")
def test_a_thousand_keyboard_interrupts(bench: Bench, small: bool) -> None:
    """Attack 69, the shell's part: whatever instruction is hit, both locks are free again and nothing is sent twice."""
    hits = 0
    send = bench.send_small if small else bench.send
    old = signal.signal(signal.SIGALRM, signal.default_int_handler)
    sent = 0
    gc.collect()
    gc.disable()  # an interrupt in a weak reference's callback, in garbage of other tests, is ignored by Python
    try:
        for n in range(1000):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.00002 + (n % 50) * 0.000004)
                while True:
                    send(b"%d" % sent)
                    sent += 1
            except KeyboardInterrupt:
                hits += 1
                sent += 1
    finally:
        gc.enable()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert hits == 1000
    done = threading.Event()
    thread = threading.Thread(target=lambda: (bench.send(b"last"), done.set()))  # type: ignore[func-returns-value]
    thread.start()
    assert done.wait(5), "a lock was left taken"
    thread.join()
    reach(lambda: b"last" in bench.transport.sent)
    assert len(set(bench.transport.sent)) == len(bench.transport.sent)


def test_a_signal_handler_on_top_of_the_lock_is_told(idle: Bench) -> None:
    found: list[object] = []

    def work(now: float) -> None:
        found.append(idle.driver.interrupted_here())
        for call in (idle.driver.run, idle.driver.peek):
            with pytest.raises(Reentered):
                call(lambda now: None)

    idle.driver.run(work)
    assert found == [True]
    assert not idle.driver.interrupted_here()
    assert issubclass(Reentered, LocalProtocolError)


def test_a_signal_handler_on_top_of_the_transport_only_queues(idle: Bench) -> None:
    found: list[object] = []

    def on_send(payload: bytes) -> None:
        if payload == b"outer":
            found.append(idle.driver.interrupted_here())
            idle.send(b"inner")
            found.append(list(idle.transport.sent))

    idle.transport.on_send = on_send
    idle.send(b"outer")
    assert found == [True, []]
    assert idle.transport.sent == [b"outer", b"inner"]


def test_interrupted_here_is_false_for_another_thread(idle: Bench) -> None:
    answers: list[bool] = []

    def on_send(payload: bytes) -> None:
        thread = threading.Thread(target=lambda: answers.append(idle.driver.interrupted_here()))
        thread.start()
        thread.join(5)

    idle.transport.on_send = on_send
    idle.send(b"x")
    assert answers == [False]


def test_deferred_work_runs_on_the_timer_thread(bench: Bench) -> None:
    names: list[str] = []
    bench.driver.run(lambda now: bench.driver.defer(lambda: names.append(threading.current_thread().name)))
    reach(lambda: names)
    assert names == ["srmudp-timer"]


def test_waiting_for_a_condition(bench: Bench) -> None:
    state: list[int] = []
    check = lambda now: state[0] if state else None  # noqa: E731
    assert bench.driver.wait_until(check, ("t",), time.monotonic() - 1) is None
    assert bench.driver.wait_until(check, ("t",), time.monotonic() + 0.01) is None

    def later() -> None:
        bench.driver.run(lambda now: (state.append(7), bench.driver.topics.wake("t")))  # type: ignore[func-returns-value]

    threading.Timer(0.01, later).start()
    assert bench.driver.wait_until(check, ("t", "u"), None) == 7
    assert not bench.driver.topics._waiting


def test_stopping(bench: Bench) -> None:
    waiter: list[object] = []

    def wait() -> None:
        try:
            bench.driver.wait_until(lambda now: None, ("t",), None)
        except SocketClosed as error:
            waiter.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    reach(lambda: bench.driver.topics._waiting)
    assert bench.driver.stop()
    assert bench.driver.stop(), "idempotent"
    thread.join(5)
    assert len(waiter) == 1
    assert bench.transport.closed
    with pytest.raises(SocketClosed):
        bench.send(b"x")
    assert bench.driver.peek(lambda now: 7) == 7
    assert bench.transport.sent == []


def test_stopping_in_the_middle_of_sending(bench: Bench) -> None:
    """A thread that is sending when the driver stops lets the rest go and ends."""
    inside, go_on = threading.Event(), threading.Event()

    def on_send(payload: bytes) -> None:
        inside.set()
        go_on.wait(5)

    bench.transport.on_send = on_send
    bench.endpoint.on_batch = lambda buffer: bench.queue(*[b"x"] * 10)
    bench.transport.arrive(b"hello")
    assert inside.wait(5)
    threading.Timer(0.01, go_on.set).start()
    before = time.monotonic()
    assert bench.driver.stop()
    assert time.monotonic() - before < 2
    assert len(bench.transport.sent) < 10


def test_a_descriptor_in_error_does_not_take_a_core(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    monkeypatch.setattr(module.time, "sleep", naps.append)  # type: ignore[attr-defined]
    monkeypatch.setattr(bench.transport, "receive_batch", lambda: None)
    bench.transport.writer.send(b"x")  # readable for ever
    sleep = threading.Event()
    deadline = time.monotonic() + 5
    while not naps and time.monotonic() < deadline:
        sleep.wait(0.001)
    assert set(naps) == {0.001}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
def test_another_process_is_refused(idle: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle.driver, "_pid", os.getpid() + 1)
    with pytest.raises(LocalProtocolError, match="fork"):
        idle.send(b"x")
    with pytest.raises(LocalProtocolError, match="fork"):
        idle.driver.peek(lambda now: None)


def test_rate_limit() -> None:
    limit = RateLimit(1000)
    assert [limit() for _ in range(3)] == [True, False, False]
    assert limit.suppressed == 2


def test_thread_names(bench: Bench) -> None:
    names = {t.name for t in threading.enumerate() if t.name.startswith("srmudp-")}
    assert names == {"srmudp-receiver", "srmudp-timer"}
    assert all(t.daemon for t in threading.enumerate() if t.name.startswith("srmudp-"))


def test_no_idle_wake_ups(bench: Bench) -> None:
    """Nothing to do: both threads sleep for ever (the timer's baton and the poller have no time limit)."""
    reach(lambda: bench.driver._sleep_until == float("inf"))
    frames = sys._current_frames()
    assert all(thread.ident in frames for thread in bench.driver._threads)
