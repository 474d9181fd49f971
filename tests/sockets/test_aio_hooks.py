"""Hooks of sockets of an event loop: functions, coroutine functions and queues, in order, with a fake endpoint."""

from __future__ import annotations

import asyncio
import logging
import queue
from typing import Any

import pytest

from srmudp.models import EventKind, Message, PeerEvent
from srmudp.protocol.events import MessageArrived
from srmudp.sockets.aio import engine as engine_module
from srmudp.sockets.aio import hooks as module
from srmudp.sockets.household import Letter
from tests.loops import BOB, Rig, in_loop, new_rig, reach, turns

from .fakes import arrived, contents, peer_id_of


def numbered(first: int, last: int, peer: str = "bob") -> list[MessageArrived]:
    return [arrived(b"%d" % n, peer) for n in range(first, last)]


def event(kind: EventKind = EventKind.LOST) -> PeerEvent:
    return PeerEvent(kind, "bob", peer_id_of("bob"), BOB)


@in_loop
async def test_functions_coroutines_and_queues_get_each_message_once_in_order() -> None:
    async with new_rig() as rig:
        order: list[object] = []
        box: asyncio.Queue[Message] = asyncio.Queue()
        other: queue.SimpleQueue[Message] = queue.SimpleQueue()

        async def slowly(message: Message) -> None:
            await asyncio.sleep(0)
            order.append(("coroutine", message.content, list(rig.endpoint.taken)))

        rig.engine.hooks.add_message_hook(lambda m: order.append(("function", m.content)))
        for hook in (slowly, slowly, box, other):
            rig.engine.hooks.add_message_hook(hook)
        rig.emit(*numbered(0, 2))
        await reach(lambda: len(rig.endpoint.taken) == 2)
        assert order == [
            ("function", b"0"),
            ("coroutine", b"0", []),
            ("function", b"1"),
            ("coroutine", b"1", [b"0"]),
        ], "taken comes when the last is done"
        assert contents([box.get_nowait(), other.get()]) == [b"0", b"0"]
        assert await rig.engine.receive(0) is None
        with pytest.raises(TypeError, match="callable or a queue"):
            rig.engine.hooks.add_message_hook(5)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="not registered"):
            rig.engine.hooks.remove_message_hook(print)


@in_loop
async def test_no_task_without_a_hook() -> None:
    async with new_rig() as rig:
        rig.emit(*numbered(0, 3))
        assert [task.get_name() for task in asyncio.all_tasks() if "srmudp" in task.get_name()] == []


@in_loop
async def test_hooks_that_raise_are_logged_and_the_next_message_still_comes(caplog: pytest.LogCaptureFixture) -> None:
    async with new_rig() as rig:
        good: list[Message] = []

        async def bad(message: Message) -> None:
            if message.content == b"1":
                raise asyncio.CancelledError  # not this hook's, but of something it waited for
            raise asyncio.QueueFull if message.content == b"2" else ValueError("on purpose")

        rig.engine.hooks.add_message_hook(bad)
        rig.engine.hooks.add_message_hook(good.append)
        rig.emit(*numbered(0, 20))
        await reach(lambda: len(rig.endpoint.taken) == 20)
        assert len(good) == 20
        errors = [r for r in caplog.records if r.levelno == logging.ERROR]
        assert 1 <= len(errors) <= 2
        assert "on purpose" in caplog.text


def test_a_hook_may_end_the_program() -> None:
    """As in any task of asyncio. If the program lives on, its messages do."""
    got: list[bytes] = []

    def hook(message: Message) -> None:
        got.append(message.content)
        if len(got) == 1:
            raise SystemExit("on purpose")

    async def begin() -> Rig:
        rig = Rig().start()
        rig.engine.hooks.add_message_hook(hook)
        asyncio.get_running_loop().call_later(0.005, rig.emit, *numbered(0, 2))
        return rig

    async def go_on(rig: Rig) -> None:
        rig.emit(*numbered(2, 3))
        await reach(lambda: len(rig.endpoint.taken) == 3)
        rig.engine.release()
        await turns()

    with asyncio.Runner() as runner:
        rig = runner.run(begin())
        with pytest.raises(SystemExit, match="on purpose"):
            runner.run(asyncio.sleep(1))
        runner.run(go_on(rig))
    assert got == [b"0", b"0", b"1", b"2"]


@in_loop
async def test_what_waited_goes_to_the_first_hook_and_back_in_order() -> None:
    """The hook is in the middle of 0 when it is unregistered: 1 to 4 wait for it, 5 and 6 come later."""
    async with new_rig() as rig:
        rig.emit(*numbered(0, 2))
        entered, leave = asyncio.Event(), asyncio.Event()

        async def hook(message: Message) -> None:
            entered.set()
            await leave.wait()

        rig.engine.hooks.add_message_hook(hook)
        rig.emit(*numbered(2, 5))
        await entered.wait()
        rig.engine.hooks.remove_message_hook(hook)
        rig.emit(*numbered(5, 7))
        leave.set()
        assert contents([await rig.engine.receive(5) for _ in range(6)]) == [b"1", b"2", b"3", b"4", b"5", b"6"]
        assert rig.endpoint.taken == [b"0", b"1", b"2", b"3", b"4", b"5", b"6"]
        assert rig.engine.hooks._backlog == 0


@pytest.mark.parametrize("kind", [asyncio.Queue, queue.Queue])
@in_loop
async def test_a_full_queue_parks_one_peer_only(kind: Any) -> None:
    async with new_rig() as rig:
        box, gate = kind(maxsize=1), kind()
        seen: list[Message] = []

        class Bobs:
            """Full for bob's messages, roomy for others'."""

            def put_nowait(self, message: Message) -> None:
                (box if message.peer == "bob" else gate).put_nowait(message)

        rig.engine.hooks.add_message_hook(seen.append)
        rig.engine.hooks.add_message_hook(Bobs())
        rig.emit(*numbered(0, 3), *numbered(10, 13, "eve"))
        await reach(lambda: b"12" in rig.endpoint.taken)
        assert contents([gate.get_nowait() for _ in range(3)]) == [b"10", b"11", b"12"]
        assert b"1" not in rig.endpoint.taken, "not taken before it is in the queue"
        got: list[Message] = []
        while len(got) < 3:
            await reach(lambda: not box.empty())
            got.append(box.get_nowait())
        assert contents(got) == [b"0", b"1", b"2"]
        await reach(lambda: len(rig.endpoint.taken) == 6)
        assert contents(seen) == [b"0", b"1", b"10", b"11", b"12", b"2"], "the other hook got each once"


@in_loop
async def test_hooks_may_send_register_and_close() -> None:
    async with new_rig() as rig:
        done = asyncio.Event()

        async def hook(message: Message) -> None:
            await rig.engine.send(Letter(b"answer", 0, True, None), message.peer, 0)
            rig.engine.hooks.add_event_hook(lambda event: None)
            rig.engine.hooks.remove_message_hook(hook)
            await rig.engine.close_gently(0.0)
            done.set()

        rig.engine.hooks.add_message_hook(hook)
        rig.emit(arrived(b"1"))
        async with asyncio.timeout(5):
            await done.wait()
        assert rig.transport.sent == [b"M1:answer"]
        assert rig.transport.closed
        await reach(lambda: rig.engine.hooks._task.done())


@in_loop
async def test_a_hook_that_closes_what_another_task_closes_returns_at_once() -> None:
    async with new_rig() as rig:
        entered, leave = asyncio.Event(), asyncio.Event()

        async def hook(message: Message) -> None:
            entered.set()
            await leave.wait()
            await rig.engine.close_gently()

        rig.engine.hooks.add_message_hook(hook)
        rig.emit(arrived(b"1"))
        await entered.wait()
        task = asyncio.create_task(rig.engine.close_gently(0.0))
        await turns()
        leave.set()
        await asyncio.wait_for(task, 0.9)
        assert rig.endpoint.taken == [b"1"], "the hook was waited for"


@in_loop
async def test_a_hook_that_does_not_return_is_cancelled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine_module, "_HOOK_JOIN", 0.01)
    monkeypatch.setattr(module, "_CANCELLING", 0.01)
    for stubborn in (False, True):
        async with new_rig() as rig:
            entered, ended = asyncio.Event(), asyncio.Event()

            async def hook(
                message: Message,
                entered: asyncio.Event = entered,
                ended: asyncio.Event = ended,
                stubborn: bool = stubborn,
            ) -> None:
                entered.set()
                try:
                    await asyncio.sleep(60)
                finally:
                    if stubborn:
                        await asyncio.sleep(0.05)
                    ended.set()

            rig.engine.hooks.add_message_hook(hook)
            rig.emit(*numbered(0, 2))
            await entered.wait()
            await rig.engine.close_gently(0.0)
            assert "is cancelled" in caplog.text
            assert rig.endpoint.taken == []
            async with asyncio.timeout(5):
                await ended.wait()


@in_loop
async def test_hooks_without_end_let_others_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHIFT", 0.0)
    async with new_rig() as rig:
        rig.engine.hooks.add_message_hook(lambda message: None)
        rig.emit(*numbered(0, 100))
        others = 0
        while len(rig.endpoint.taken) < 100:
            await asyncio.sleep(0)
            others += 1
        assert others >= 100


@in_loop
async def test_event_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    async with new_rig() as rig:
        got: list[PeerEvent] = []
        box: asyncio.Queue[PeerEvent] = asyncio.Queue(maxsize=1)

        async def bad(event: PeerEvent) -> None:
            raise ValueError

        for hook in (bad, got.append, box):
            rig.engine.hooks.add_event_hook(hook)
        rig.emit(event(), event(EventKind.RECONNECTED))
        await reach(lambda: len(got) == 2)
        await reach(lambda: rig.engine.drops().get("event_queue_full") == 1)
        assert [e.kind for e in got] == ["lost", "reconnected"]
        assert box.get_nowait().kind == "lost"
        rig.engine.hooks.remove_event_hook(got.append)
        monkeypatch.setattr("srmudp.sockets.hooks._EVENT_BACKLOG", 10)
        rig.emit(*[event()] * 30)
        assert len(got) == 2
        await reach(lambda: rig.engine.drops()["event_queue_full"] >= 1 + 30 - 11)
