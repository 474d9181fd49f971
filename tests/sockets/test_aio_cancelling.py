"""A task of an event loop may be cancelled at each step that there is: nothing is lost, doubled or left behind."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from srmudp.exceptions import UnknownPeer
from srmudp.protocol.events import Failure
from srmudp.sockets.addresses import Target
from tests.loops import EVE, Rig, in_loop, new_rig, turns

from .fakes import arrived, contents, peer_id_of

STEPS = [(event, cancel) for event in range(5) for cancel in range(6)]
"""Turns of the loop after which what a task waits for happens, and after which it is cancelled."""


async def cancelled_after(
    rig: Rig, task: asyncio.Task[Any], event: int, cancel: int, work: Callable[[], object]
) -> bool:
    """Do ``work`` and cancel ``task`` after so many turns each. True if the task ended as cancelled."""
    for turn in range(max(event, cancel) + 1):
        if turn == event:
            work()
        if turn == cancel:
            task.cancel()
        await asyncio.sleep(0)
    await asyncio.wait({task}, timeout=5)
    assert task.done()
    return task.cancelled()


@pytest.mark.parametrize("timeout", [None, 5.0])
@in_loop
async def test_a_cancelled_receive_loses_no_message(timeout: float | None) -> None:
    outcomes = set()
    for event, cancel in STEPS:
        async with new_rig() as rig:
            task = asyncio.create_task(rig.engine.receive(timeout))
            other = asyncio.create_task(rig.engine.receive(timeout))
            cancelled = await cancelled_after(
                rig, task, event, cancel, lambda rig=rig: rig.emit(arrived(b"1"), arrived(b"2"))
            )
            got = [] if cancelled else [task.result()]
            got.append(await other)
            if cancelled:
                got.append(await rig.engine.receive(0))
            assert sorted(contents(got)) == [b"1", b"2"], (event, cancel)
            assert sorted(rig.endpoint.taken) == [b"1", b"2"]
            assert not rig.engine.inbox._waiting
            outcomes.add(cancelled)
    assert outcomes == {True, False}


@in_loop
async def test_a_message_meant_for_a_cancelled_task_wakes_the_next() -> None:
    async with new_rig() as rig:
        first, second = (asyncio.create_task(rig.engine.receive(None)) for _ in range(2))
        await turns()
        rig.emit(arrived(b"1"))  # wakes the first
        first.cancel()
        message = await asyncio.wait_for(second, 5)
        assert contents([message]) == [b"1"]
        assert first.cancelled()


@in_loop
async def test_receiving_with_wait_for_loses_nothing() -> None:
    async with new_rig() as rig:
        got: list[bytes] = []
        for attempt in itertools.count():
            if attempt < 60:
                rig.emit(arrived(b"%d" % attempt))
            elif len(got) == 60:
                break
            try:
                message = await asyncio.wait_for(rig.engine.receive(None), 0.0001 * (attempt % 3))
            except TimeoutError:
                continue
            assert message is not None
            got.append(message.content)
        assert got == [b"%d" % number for number in range(60)]


@pytest.mark.parametrize("to", ["bob", ["bob"]])
@in_loop
async def test_a_cancelled_send_has_queued_nothing(to: Any) -> None:
    outcomes = set()
    for event, cancel in STEPS:
        async with new_rig() as rig:
            rig.endpoint.full = {"bob"}
            task = asyncio.create_task(rig.send(b"x", to, 5))
            cancelled = await cancelled_after(
                rig, task, event, cancel, lambda rig=rig: rig.engine.driver.run(lambda now: rig.endpoint.free("bob"))
            )
            assert len(rig.endpoint.sent) == (0 if cancelled else 1), (event, cancel)
            assert not rig.waiting
            outcomes.add(cancelled)
    assert outcomes == {True, False}


@in_loop
async def test_a_cancelled_send_to_several_says_who_has_not_got_it() -> None:
    async with new_rig() as rig:
        rig.endpoint.full = {"bob"}
        task = asyncio.create_task(rig.send(b"x", ["bob", "eve"], 5))
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as info:
            await task
        assert info.value.__notes__ == ["send() was cancelled; not queued for: 'bob'"]
        assert list(rig.endpoint.sent.values()) == [("eve", b"x")]


@in_loop
async def test_cancelled_waits_leave_nothing_behind() -> None:
    async with new_rig() as rig:
        rig.engine.add({"carol": Target(peer_id=peer_id_of("carol"))})
        delivery = await rig.send()
        for cancel in range(4):
            tasks = [
                asyncio.create_task(rig.engine.wait_connected(["carol"], 5.0)),
                asyncio.create_task(rig.engine.wait_connected(None, None)),
                asyncio.create_task(delivery.wait(5.0)),
                asyncio.create_task(delivery.wait()),
            ]
            await turns(cancel)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            assert all(task.cancelled() for task in tasks)
            assert not rig.waiting
            assert delivery._waiting == []
        task = asyncio.create_task(rig.engine.wait_connected(None, None))
        await turns()
        rig.engine.driver.run(lambda now: rig.endpoint.connect("carol", EVE))
        assert await task
        with pytest.raises(UnknownPeer):
            await rig.engine.wait_connected(["nobody"], 0)


@in_loop
async def test_a_cancelled_close_still_releases() -> None:
    for cancel in range(8):
        async with new_rig() as rig:
            delivery = await rig.send()
            entered = asyncio.Event()

            async def hook(message: object, entered: asyncio.Event = entered) -> None:
                entered.set()
                await asyncio.sleep(60)

            rig.engine.hooks.add_message_hook(hook)
            rig.emit(arrived(b"1"))
            await entered.wait()
            task = asyncio.create_task(rig.engine.close_gently(30.0 if cancel % 2 else 0.0))
            await turns(cancel)
            task.cancel()
            await asyncio.wait({task}, timeout=5)
            assert task.cancelled()
            if cancel:
                assert rig.transport.closed
                assert rig.endpoint.closed
                assert delivery.failed == {"bob": Failure.CLOSED.value}
                assert rig.endpoint.taken == []
            else:
                assert not rig.engine.closing, "it had not begun"
