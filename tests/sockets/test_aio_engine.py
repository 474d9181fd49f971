"""Sockets of an event loop with a fake endpoint behind the real driver: sending, receiving, cancelling, closing."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from srmudp.config import Config
from srmudp.exceptions import LocalProtocolError, MessageTooBig, QueueFull, SocketClosed, UnknownPeer
from srmudp.models import Address, EventKind, PeerEvent
from srmudp.protocol.events import Failure, ResolveWanted
from srmudp.sockets.addresses import Target
from srmudp.sockets.aio.delivery import Delivery
from srmudp.sockets.known_peers import KnownPeers
from tests.loops import BOB, EVE, Rig, in_loop, new_rig, reach, turns

from .fakes import arrived, contents, peer_id_of

# --- sending ---


@in_loop
async def test_to_one_to_some_to_everyone() -> None:
    async with new_rig() as rig:
        rig.engine.add({"carol": Target(peer_id=peer_id_of("carol"))})
        assert (await rig.send(b"1")).pending == {"bob"}
        assert (await rig.send(b"2", ["eve", "bob", "eve"])).pending == {"bob", "eve"}
        everyone = await rig.send(b"3", None)
        assert everyone.pending == {"bob", "eve"}
        assert everyone.left_out == ("carol",)
        assert rig.transport.sent == [], "nothing leaves before the loop turns"
        await turns(1)
        assert rig.transport.sent == [b"M1:1", b"M2:2", b"M3:2", b"M4:3", b"M5:3"]
        assert await (await rig.send(b"5", [])).wait(0)
        with pytest.raises(UnknownPeer):
            await rig.send(to=["bob", "nobody"])


@in_loop
async def test_a_task_that_sends_without_end_lets_others_have_their_turn() -> None:
    async with new_rig() as rig:
        others = 0

        async def other() -> None:
            nonlocal others
            while True:
                others += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        for _ in range(1000):
            await rig.send()
        assert others > 10
        assert len(rig.transport.sent) > 900
        rig.emit(*[arrived(b"%d" % n) for n in range(1000)])
        before = others
        for _ in range(1000):
            await rig.engine.receive(None)
        assert others - before > 10
        task.cancel()


@in_loop
async def test_deliveries() -> None:
    async with new_rig() as rig:
        delivery = await rig.send(b"x", None)
        waiting = [asyncio.create_task(delivery.wait()) for _ in range(3)]
        assert not await delivery.wait(0)
        assert not await delivery.wait(0.001)
        await turns()
        waiting.pop().cancel()
        rig.engine.driver.run(lambda now: rig.endpoint.settle(1, None))
        assert delivery.pending == {"eve"}
        rig.engine.driver.run(lambda now: rig.endpoint.settle(2, Failure.EXPIRED))
        assert await asyncio.gather(*waiting) == [False, False]
        assert delivery.failed == {"eve": Failure.EXPIRED.value}
        assert not await delivery
        assert delivery._waiting == []
        assert rig.engine.house.deliveries == {}


@in_loop
async def test_a_full_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    async with new_rig(timeout=0.01, config=Config(max_message_size=10)) as rig:
        rig.endpoint.full = {"bob"}
        for to, timeout in (("bob", 0), ("bob", 0.005), (["bob"], 0), ("bob", None)):
            with pytest.raises(QueueFull, match="'bob'"):
                await rig.send(to=to, timeout=timeout)
        some = await rig.send(to=None, timeout=0.005)
        assert some.pending == {"eve"}
        assert some.failed == {"bob": Failure.QUEUE_FULL.value}
        assert (await rig.send(reliable=False)).pending == {"bob"}
        with pytest.raises(MessageTooBig):
            await rig.send(bytes(11))
        tasks = [asyncio.create_task(rig.send(b"later", to, 5)) for to in ("bob", ["bob", "eve"])]
        await turns()
        rig.engine.driver.run(lambda now: rig.endpoint.free("bob"))
        assert [sorted(delivery.pending) for delivery in await asyncio.gather(*tasks)] == [["bob"], ["bob", "eve"]]
        rig.endpoint.full = {"bob"}
        task = asyncio.create_task(rig.send(timeout=5))
        await turns()
        rig.engine.remove(["bob"])
        with pytest.raises(UnknownPeer):
            await task
        assert not rig.waiting


@in_loop
async def test_what_the_system_does_not_take_waits_for_the_writer() -> None:
    async with new_rig() as rig:
        rig.transport.accept = 7
        await rig.send(b"abcdef")
        await rig.send(b"second")
        assert not rig.transport.sent
        await turns(1)
        assert rig.transport.sent == [b"M1:abcd"]
        rig.transport.accept = 1000
        await reach(lambda: len(rig.transport.sent) == 3)
        assert rig.transport.sent == [b"M1:abcd", b"ef", b"M2:second"]
        assert not asyncio.get_running_loop().remove_writer(rig.transport.fileno()), "it is not watched any more"


# --- receiving ---


@in_loop
async def test_receive_takes() -> None:
    async with new_rig() as rig:
        rig.emit(arrived(b"1"), arrived(b""))
        first = await rig.engine.receive(None)
        assert first is not None
        assert (first.content, first.peer, first.channel, first.peer_id) == (b"1", "bob", 0, peer_id_of("bob"))
        assert contents([await rig.engine.receive(0)]) == [b""]
        assert rig.endpoint.taken == [b"1", b""]
        assert await rig.engine.receive(0) is None
        assert await rig.engine.receive(0.001) is None
        assert not rig.engine.inbox._waiting
        task = asyncio.create_task(rig.engine.receive(60.0))
        await turns()
        rig.emit(arrived(b"2"))
        await task
        timers = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
        assert not [timer for timer in timers if not timer.cancelled() and "Waiter" in repr(timer)]


@in_loop
async def test_an_answer_and_what_it_answers_leave_in_one_turn() -> None:
    async with new_rig() as rig:

        async def answer() -> None:
            message = await rig.engine.receive(None)
            assert message is not None
            await rig.send(b"answer")

        task = asyncio.create_task(answer())
        await turns()
        rig.transport.arrive(b"M7:question", source=BOB)
        seen: list[int] = []
        rig.transport.on_send = lambda payload: seen.append(len(rig.endpoint.out))
        await task
        await turns()
        assert rig.transport.sent == [b"T7", b"M1:answer"]
        assert seen == [1, 0], "the acknowledgement waited for the answer"


@in_loop
async def test_many_tasks_receive_and_each_message_goes_to_the_one_that_waited_longest() -> None:
    async with new_rig() as rig:
        got: list[tuple[int, bytes]] = []

        async def receive(number: int) -> None:
            message = await rig.engine.receive(None)
            if message is not None:
                got.append((number, message.content))

        tasks = [asyncio.create_task(receive(number)) for number in range(5)]
        await turns()
        rig.emit(*[arrived(b"%d" % number) for number in range(3)])
        await turns()
        assert got == [(0, b"0"), (1, b"1"), (2, b"2")]
        await rig.engine.close_gently(0)
        await asyncio.gather(*tasks)
        assert len(got) == 3
        assert await rig.engine.receive(None) is None


# --- closing ---


@in_loop
async def test_close_flushes_until_nothing_is_pending() -> None:
    async with new_rig() as rig:
        delivery = await rig.send()
        task = asyncio.create_task(rig.engine.close_gently(30.0))
        await turns()
        for call in (rig.send(), rig.send(to=["bob"])):
            with pytest.raises(SocketClosed):
                await call
        rig.transport.arrive(b"T1", source=BOB)
        await asyncio.wait_for(task, 5)
        assert delivery.delivered == {"bob"}
        assert rig.endpoint.closed
        assert rig.transport.closed
        with pytest.raises(SocketClosed):
            rig.engine.add({"x": Target((BOB,))})
        assert set(rig.engine.statuses()) == {"bob", "eve"}
        assert not await rig.engine.wait_connected(None, None)
        await rig.engine.close_gently()


@in_loop
async def test_closing_from_several_tasks_one_in_a_hurry_and_one_cancelled() -> None:
    async with new_rig() as rig:
        await rig.send()
        tasks = [asyncio.create_task(rig.engine.close_gently(30.0)) for _ in range(3)]
        await turns()
        tasks[0].cancel()
        await turns()
        assert not rig.transport.closed, "the others take their time"
        await rig.engine.close_gently(0.0)
        assert rig.transport.closed
        done, _ = await asyncio.wait(tasks, timeout=5)
        assert [task.cancelled() for task in tasks] == [True, False, False]
        assert [task.exception() for task in tasks[1:]] == [None, None]
        assert len(done) == 3


@in_loop
async def test_what_is_not_delivered_fails_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async with new_rig() as rig:
        deliveries = [await rig.send() for _ in range(3)]
        await rig.engine.close_gently(0.01)
        await rig.engine.close_gently(0.01)
        assert {d.failed["bob"] for d in deliveries} == {Failure.CLOSED.value}
        assert [r.getMessage() for r in caplog.records] == ["! closed with 3 undelivered messages"]


@in_loop
async def test_the_goodbyes_are_sent_even_if_the_system_has_no_room_at_first() -> None:
    async with new_rig() as rig:
        end = rig.endpoint.close

        def close(now: float) -> None:
            end(now)
            rig.endpoint.send_message("bob", b"goodbye", channel=0, reliable=True, ttl=None, now=now)

        rig.endpoint.close = close  # type: ignore[method-assign]
        rig.transport.accept = 4
        task = asyncio.create_task(rig.engine.close_gently(0.0))
        await reach(lambda: rig.transport.sent)
        rig.transport.accept = 100
        await task
        assert b"".join(rig.transport.sent) == b"M1:goodbye"


@in_loop
async def test_every_goodbye_is_sent_even_if_that_takes_several_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srmudp.sockets.aio.driver._HOLD", 0.0)
    async with new_rig() as rig:
        goodbyes = [b"M%d:goodbye" % number for number in range(1, 11)]

        def close(now: float) -> None:
            for _ in goodbyes:
                rig.endpoint.send_message("bob", b"goodbye", channel=0, reliable=False, ttl=None, now=now)

        rig.endpoint.close = close  # type: ignore[method-assign]
        await rig.engine.close_gently(0.0)
        assert rig.transport.sent == goodbyes


@in_loop
async def test_a_waiting_send_ends_with_the_socket() -> None:
    async with new_rig() as rig:
        rig.endpoint.full = {"bob"}
        tasks = [asyncio.create_task(rig.send(to=to, timeout=30)) for to in ("bob", ["eve", "bob"])]
        await turns()
        await rig.engine.close_gently(0.0)
        with pytest.raises(SocketClosed):
            await tasks[0]
        assert (await tasks[1]).failed["bob"] == Failure.CLOSED.value


@in_loop
async def test_what_waits_ends_when_closing_begins_and_not_when_all_is_delivered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with new_rig() as rig:
        rig.engine.add({"carol": Target(peer_id=peer_id_of("carol"))})
        rig.engine.hooks.add_event_hook(lambda event: None)
        rig.endpoint.full = {"bob"}
        await rig.send(to="eve")
        sending = asyncio.create_task(rig.send(timeout=30))
        connecting = asyncio.create_task(rig.engine.wait_connected(None, None))
        await turns()
        closing = asyncio.create_task(rig.engine.close_gently(30.0))
        with pytest.raises(SocketClosed):
            await asyncio.wait_for(sending, 5)
        assert await asyncio.wait_for(connecting, 5) is False
        assert not closing.done()
        rig.transport.arrive(b"T1", source=EVE)
        await asyncio.wait_for(closing, 5)
        assert "is cancelled" not in caplog.text, "no hook was at work"


@in_loop
async def test_dropped_without_close() -> None:
    async with new_rig() as rig:
        thread = threading.Thread(target=rig.engine.abandon)  # the garbage collector runs anywhere
        thread.start()
        thread.join()
        assert rig.engine.closing
        await reach(lambda: rig.transport.closed)


def test_the_loop_ends_first() -> None:
    """No callback can be called any more: what is left is released there and then, on whatever thread."""

    async def main() -> Rig:
        return Rig().start()

    for end in ("abandon", "close"):
        rig = asyncio.run(main())
        thread = threading.Thread(target=getattr(rig.engine, end))
        thread.start()
        thread.join()
        assert rig.transport.closed
        assert rig.endpoint.closed


def test_the_end_of_the_program_flushes_a_loop_that_still_runs() -> None:
    rigs: list[Rig] = []
    made = threading.Event()

    async def main() -> None:
        rig = Rig().start()
        rigs.append(rig)
        await rig.send()
        asyncio.get_running_loop().call_later(0.02, lambda: rig.transport.arrive(b"T1", source=BOB))
        made.set()
        while not rig.transport.closed:
            await asyncio.sleep(0.001)

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    assert made.wait(5)
    rigs[0].engine.close(timeout=5.0)
    thread.join(5)
    assert rigs[0].endpoint.sent == {}
    assert rigs[0].transport.closed


# --- peers ---


@in_loop
async def test_host_names_are_looked_up_by_the_loop() -> None:
    asked: list[str] = []

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        asked.append(host)
        await asyncio.sleep(0)
        if host == "dave.example":
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, 0, 0, "", ("192.0.2.7", port))]

    async with new_rig(getaddrinfo=getaddrinfo) as rig:
        rig.engine.add({"carol": Target((EVE,), (("carol.example", 9),)), "dave": Target((), (("dave.example", 9),))})
        expected = ("set_addresses", "carol", (EVE, Address("192.0.2.7", 9)))
        await reach(lambda: expected in rig.endpoint.calls)
        await reach(lambda: [call for call in rig.endpoint.calls if call[:2] == ("note_unresolved", "dave")])
        rig.emit(ResolveWanted("carol"), ResolveWanted("bob"), ResolveWanted("nobody"))
        await turns()
        assert asked == ["carol.example", "dave.example"], "not again so soon"


@in_loop
async def test_a_look_up_that_takes_long_does_not_hold_up_close() -> None:
    async def getaddrinfo(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        await asyncio.sleep(60)
        return []

    async with new_rig(getaddrinfo=getaddrinfo) as rig:
        rig.engine.add({"carol": Target((), (("carol.example", 9),))})
        await turns()
        async with asyncio.timeout(5):
            await rig.engine.close_gently(0)
        task = rig.engine.resolver._task
        assert task is not None
        assert task.done()


@in_loop
async def test_known_peers_are_written_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "known"
    known = KnownPeers(path)
    threads: list[int] = []
    save = known.save

    def slow_save() -> None:
        threads.append(threading.get_ident())
        time.sleep(0.002)
        save()

    monkeypatch.setattr(known, "save", slow_save)
    async with new_rig(known=known) as rig:
        await reach(path.exists)
        rig.engine.trust("bob", None)
        rig.engine.trust("eve", None)
        assert threading.get_ident() not in threads
        await rig.engine.close_gently(0)
    again = KnownPeers(path)
    assert [again.get(name).pinned for name in ("bob", "eve")] == [True, True]  # type: ignore[union-attr]


@in_loop
async def test_forgetting(tmp_path: Path) -> None:
    known = KnownPeers(tmp_path / "known")
    known.record("old", peer_id_of("old"), pinned=True)
    async with new_rig(known=known) as rig:
        rig.engine.forget("old")
        assert known.get("old") is None
        with pytest.raises(UnknownPeer):
            rig.engine.forget("old")
        await rig.engine.close_gently(0)


@in_loop
async def test_a_file_that_cannot_be_written_is_said_and_not_insisted_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known = KnownPeers(tmp_path / "gone" / "known")
    async with new_rig(known=known) as rig:
        await reach(lambda: "cannot write" in caplog.text)
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert 1 <= caplog.text.count("cannot write") <= 3
        await rig.engine.close_gently(0)


@in_loop
async def test_accept_may_be_a_function_or_a_coroutine() -> None:
    def event(name: str) -> PeerEvent:
        return PeerEvent(EventKind.PENDING, name, peer_id_of(name), BOB)

    def decide(name: str) -> bool | None:
        if name == "bad":
            raise ValueError("on purpose")
        if name == "ended":
            raise asyncio.CancelledError  # not the question's, but of something it waited for
        return None if name == "later" else name == "good"

    async def slowly(peer_id: object, name: str, address: Address) -> bool | None:
        await asyncio.sleep(0)
        return decide(name)

    for accept in (slowly, lambda peer_id, name, address: decide(name)):
        async with new_rig(accept=accept) as rig:
            rig.emit(*[event(name) for name in ("good", "other", "bad", "later", "ended", "end")])

            def admits(rig: Rig = rig) -> list[Any]:
                return [call for call in rig.endpoint.calls if call[0] == "admit"]

            await reach(lambda admits=admits: len(admits()) == 5)
            assert admits() == [
                ("admit", peer_id_of("good"), True),
                ("admit", peer_id_of("other"), False),
                ("admit", peer_id_of("bad"), False),
                ("admit", peer_id_of("ended"), False),
                ("admit", peer_id_of("end"), False),
            ]


# --- where it may be used ---


@in_loop
async def test_another_thread_and_another_loop_are_refused() -> None:
    async with new_rig() as rig:

        def elsewhere(call: Callable[[], object]) -> str:
            with pytest.raises(LocalProtocolError) as info:
                call()
            return str(info.value)

        delivery: list[Delivery] = []
        for call in (
            rig.engine.statuses,
            lambda: rig.engine.remove(["bob"]),
            lambda: asyncio.run(rig.send()),
            lambda: asyncio.run(rig.engine.receive(0)),
            lambda: asyncio.run(rig.engine.close_gently(0)),
        ):
            assert "run_coroutine_threadsafe" in await asyncio.to_thread(elsewhere, call)
        assert not rig.engine.closing
        loop = asyncio.get_running_loop()
        sending = await asyncio.to_thread(
            lambda: delivery.append(asyncio.run_coroutine_threadsafe(rig.send(), loop).result(5))
        )
        assert sending is None
        assert delivery[0].pending == {"bob"}


def test_a_loop_that_has_ended_is_said_and_close_still_releases() -> None:
    rigs: list[Rig] = []

    async def begin() -> None:
        rigs.append(Rig().start())

    async def go_on() -> None:
        for call in (rigs[0].send(), rigs[0].engine.receive(0), rigs[0].engine.wait_connected(None, 0)):
            with pytest.raises(LocalProtocolError, match="another event loop"):
                await call
        await rigs[0].engine.close_gently(5.0)

    asyncio.run(begin())
    asyncio.run(go_on())
    assert rigs[0].transport.closed


@in_loop
async def test_news_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "srmudp.sockets"):
        async with new_rig() as rig:
            await reach(lambda: "connected" in caplog.text)
            assert "'bob'" in caplog.text
            assert " open " in repr(rig.engine)
    assert " closed " in repr(rig.engine)
