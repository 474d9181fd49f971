"""The loop around an endpoint: reading, turns, timers, faults and key agreement, with a fake endpoint."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from srmudp.exceptions import LocalProtocolError
from srmudp.sockets import surroundings
from srmudp.sockets.aio import driver as module
from srmudp.transports.base import Batch
from tests.loops import BOB, in_loop, new_rig, reach, turns

from .fakes import contents


@in_loop
async def test_reading_goes_on_though_the_descriptor_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BURST", 4)
    async with new_rig() as rig:
        rig.transport.incoming.extend(Batch(b"M%d:x" % n, 4, BOB) for n in range(1, 11))
        rig.engine.driver._on_readable()
        got = [await rig.engine.receive(5) for _ in range(10)]
        assert len(contents(got)) == 10
        assert rig.endpoint.calls.count(("burst_end",)) == 1


@in_loop
async def test_no_turn_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each batch takes as long as a turn may: one batch a turn, and as much sending."""
    monkeypatch.setattr(module, "_HOLD", 0.0)
    async with new_rig() as rig:
        rig.transport.arrive(*[b"M%d:x" % n for n in range(1, 6)], source=BOB)
        steps: list[int] = []

        async def watch() -> None:
            while len(rig.endpoint.events) or len(steps) < 40:
                steps.append(len(rig.transport.incoming))
                await asyncio.sleep(0)

        await watch()
        assert [step for step in range(5) if step in steps] == [0, 1, 2, 3, 4]


@in_loop
async def test_timers() -> None:
    async with new_rig() as rig:
        fired: list[float] = []
        rig.endpoint.on_timer = fired.append
        late, soon = time.monotonic() + 60, time.monotonic() + 0.01

        def set_timer(now: float, at: float) -> None:
            rig.endpoint.timer = at

        rig.engine.driver.run(set_timer, late)
        await turns(2)
        rig.engine.driver.run(set_timer, soon)
        await reach(lambda: fired)
        assert fired[0] >= soon


@in_loop
async def test_what_is_due_is_not_put_off_by_other_work() -> None:
    async with new_rig() as rig:
        fired: list[float] = []
        rig.endpoint.on_timer = fired.append

        def set_timer(now: float) -> None:
            rig.endpoint.timer = now

        rig.engine.driver.run(set_timer)
        until = time.monotonic() + 5
        while not fired:
            assert time.monotonic() < until
            rig.emit()
            await asyncio.sleep(0)


@in_loop
async def test_a_machine_that_slept(monkeypatch: pytest.MonkeyPatch) -> None:
    async with new_rig(span=0.001) as rig:
        resumed: list[float] = []
        before = surroundings.time_asleep()
        monkeypatch.setattr(surroundings, "time_asleep", lambda: before)
        rig.engine.driver._surroundings._asleep = before
        rig.endpoint.handle_resumed = lambda slept, now: resumed.append(slept)  # type: ignore[attr-defined]
        monkeypatch.setattr(surroundings, "time_asleep", lambda: before + 3600.0)

        def set_timer(now: float) -> None:
            rig.endpoint.timer = now + 60

        rig.engine.driver.run(set_timer)
        await reach(lambda: resumed)
        assert resumed[0] == 3600.0


@in_loop
async def test_faults_are_counted_and_do_not_take_a_core(caplog: pytest.LogCaptureFixture) -> None:
    async with new_rig() as rig:

        def bad(*_: object) -> None:
            raise ValueError("on purpose")

        rig.endpoint.on_batch = bad
        rig.transport.arrive(b"M1:x", b"M2:x", source=BOB)
        await reach(lambda: rig.engine.drops().get("internal_error") == 2)
        rig.endpoint.poll_transmit = bad  # type: ignore[assignment,method-assign]
        began = time.monotonic()
        await rig.send()
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert rig.engine.drops()["internal_error"] < 6 + (time.monotonic() - began) / module._RETRY
        assert "on purpose" in caplog.text
        del rig.endpoint.poll_transmit  # type: ignore[method-assign]
        await reach(lambda: rig.transport.sent)


@in_loop
async def test_an_interrupt_at_work_is_told_to_the_endpoint() -> None:
    async with new_rig() as rig:

        def interrupt() -> None:
            raise KeyboardInterrupt

        rig.endpoint.on_send = interrupt
        with pytest.raises(KeyboardInterrupt):
            await rig.send()
        assert rig.endpoint.interrupted == 1
        rig.endpoint.on_send = lambda: None
        await rig.send(b"y")
        await turns()
        assert rig.transport.sent == [b"M2:y"]


@in_loop
async def test_a_call_on_top_of_the_endpoint_is_refused() -> None:
    async with new_rig() as rig:
        errors: list[object] = []

        def handler() -> None:
            with pytest.raises(LocalProtocolError, match="signal handler") as info:
                rig.engine.statuses()
            errors.append(info.value)

        rig.endpoint.on_send = handler
        await rig.send()
        assert len(errors) == 1


class Job:
    """Notes on which thread it runs, and runs until ``gate`` is open."""

    def __init__(self, running: list[Job], gate: threading.Event, fault: Exception | None = None) -> None:
        self.fault = fault
        self.running = running
        self.gate = gate
        self.thread: int | None = None
        self.finished = False

    def run(self) -> None:
        self.running.append(self)
        self.thread = threading.get_ident()
        assert self.gate.wait(5)
        if self.fault is not None:
            raise self.fault

    def finish(self, now: float) -> None:
        assert threading.get_ident() != self.thread
        self.finished = True


@in_loop
async def test_key_agreement_runs_in_the_executor_two_at_a_time(caplog: pytest.LogCaptureFixture) -> None:
    async with new_rig() as rig:
        running: list[Job] = []
        gate = threading.Event()
        jobs = [Job(running, gate) for _ in range(6)]
        bad = Job(running, gate, ValueError("on purpose"))
        rig.engine.driver.run(lambda now: rig.endpoint.jobs.extend([*jobs[:3], bad, *jobs[3:]]))
        await turns()
        assert len(rig.endpoint.jobs) == 5, "two are at work, the others wait"
        await reach(lambda: len(running) == 2)
        gate.set()
        await reach(lambda: all(job.finished for job in jobs))
        assert rig.engine.drops()["internal_error"] == 1
        assert not bad.finished
        gate.clear()
        left = Job(running, gate)
        rig.engine.driver.run(lambda now: rig.endpoint.jobs.append(left))
        await reach(lambda: left.thread)
        rig.engine.release()
        gate.set()
        await asyncio.sleep(0.005)
        assert not left.finished, "the socket is closed"


@in_loop
async def test_an_executor_that_is_shut_down_is_not_the_end() -> None:
    async with new_rig() as rig:
        await asyncio.get_running_loop().shutdown_default_executor()
        rig.engine.driver.run(lambda now: rig.endpoint.jobs.append(Job([], threading.Event())))
        await turns()
        assert rig.engine.drops()["no_executor"] == 1
        await rig.send()
        await turns()
        assert rig.transport.sent
