"""srmudp.aio as its users meet it, beyond what it shares with threads: loops, their ends, debug mode, forks."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import os
import pickle
import queue
import socket
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest

import srmudp
from srmudp import aio
from srmudp.crypto.backend import select_backend
from srmudp.exceptions import LocalProtocolError
from tests.cost import assert_cheap, cpu_seconds
from tests.loops import in_loop, reach

from .forks import not_refused_in_child

try:
    import uvloop
except ImportError:
    uvloop = None  # type: ignore[assignment]

if uvloop is not None:
    uvloop.new_event_loop().close()  # the first one opens a pipe that belongs to the process

Loops = Callable[[], asyncio.AbstractEventLoop]

LOOPS = (
    pytest.param(asyncio.SelectorEventLoop, id="selector"),
    pytest.param(
        getattr(uvloop, "new_event_loop", None),
        id="uvloop",
        marks=pytest.mark.skipif(uvloop is None, reason="uvloop is not installed"),
    ),
)


def new(**options: Any) -> aio.MultiHolepunchSocket:
    options.setdefault("host", "127.0.0.1")
    return aio.MultiHolepunchSocket(**options)


async def join(a: aio.MultiHolepunchSocket, b: aio.MultiHolepunchSocket) -> None:
    a.add_peer("b", f"localhost:{b.port}")
    b.add_peer("a", ("127.0.0.1", a.port))
    assert await a.wait_connected("b", 10)
    assert await b.wait_connected("a", 10)


async def conversation() -> None:
    """A connection, a large message, a thousand questions and answers by many tasks at once, and a goodbye."""
    async with new() as a, new() as b:
        await join(a, b)
        large = os.urandom(1_000_000)
        delivery = await a.send(large)
        message = await b.receive(10)
        assert message is not None
        assert message.content == large
        assert await delivery.wait(10)

        async def answer() -> int:
            count = 0
            async for message in b:
                await b.send(message.content, message.peer, channel=message.channel)
                count += 1
            return count

        answering = [asyncio.create_task(answer()) for _ in range(4)]
        got: dict[int, list[bytes]] = {channel: [] for channel in range(4)}

        async def ask(channel: int) -> None:
            for number in range(50):
                await a.send(b"%d" % number, "b", channel=channel)

        async with asyncio.TaskGroup() as group:
            for channel in got:
                group.create_task(ask(channel))
            for _ in range(200):
                message = await a.receive(10)
                assert message is not None
                got[message.channel].append(message.content)
        # Several tasks answer, so each channel's answers may be in another order than its questions.
        assert {channel: sorted(answers, key=int) for channel, answers in got.items()} == {
            channel: [b"%d" % number for number in range(50)] for channel in got
        }
        await b.close(5)
        assert sum(await asyncio.gather(*answering)) == 200
        await reach(lambda: not a.connections_status["b"].established)
        assert a.drops.get("internal_error", 0) == b.drops.get("internal_error", 0) == 0


@pytest.mark.parametrize("new_loop", LOOPS)
def test_every_kind_of_loop(new_loop: Loops, caplog: pytest.LogCaptureFixture) -> None:
    with asyncio.Runner(loop_factory=new_loop, debug=True) as runner:
        runner.get_loop().slow_callback_duration = 1000.0  # how long things take depends on who else is at work
        runner.run(conversation())
    assert [r.getMessage() for r in caplog.records if r.name == "asyncio" and r.levelname != "DEBUG"] == []


def test_no_callback_computes_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured in time of the processor, which does not depend on who else is at work."""
    took: list[float] = []
    run = asyncio.Handle._run

    def measured(handle: asyncio.Handle) -> None:
        took.append(cpu_seconds(lambda: run(handle)))

    monkeypatch.setattr(asyncio.Handle, "_run", measured)
    select_backend("pycryptodome")  # what is loaded at first use only is not of interest

    async def main() -> None:
        async with new() as a, new(config=srmudp.Config(backend="pycryptodome")) as b:
            await join(a, b)
            b.register_message_hook(lambda message: None)
            await asyncio.gather(*[await a.send(bytes(8_000_000)) for _ in range(2)])
            for _ in range(1000):
                delivery = await a.send(bytes(50))
            await delivery

    def scene() -> float:
        took.clear()
        asyncio.run(main())
        return max(took)

    assert_cheap(scene, 0.1)


@pytest.mark.parametrize("new_loop", LOOPS)
def test_several_loops_in_several_threads(new_loop: Loops) -> None:
    ports: queue.SimpleQueue[int] = queue.SimpleQueue()
    results: queue.SimpleQueue[object] = queue.SimpleQueue()
    meet = threading.Barrier(3)

    async def main(number: int) -> None:
        async with new(name=f"p{number}") as sock:
            ports.put(sock.port)
            await asyncio.to_thread(meet.wait, 10)
            for port in everybody():
                if port != sock.port:
                    sock.add_peer(f"at {port}", ("127.0.0.1", port))
            assert await sock.wait_connected(timeout=10)
            await sock.send(b"hello")
            got = {(await sock.receive(10)).peer for _ in range(2)}  # type: ignore[union-attr]
            results.put(got == set(sock.connections_status))

    def everybody() -> list[int]:
        with lock:
            while not ports.empty():
                known.append(ports.get())
            return list(known)

    lock, known = threading.Lock(), list[int]()

    def work(number: int) -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(main(number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [results.get(timeout=1) for _ in threads] == [True] * 3


@in_loop
async def test_both_kinds_talk_to_each_other() -> None:
    with srmudp.MultiHolepunchSocket(host="127.0.0.1", accept=True) as there:
        there.register_message_hook(lambda message: there.send(message.content.upper(), message.peer))
        async with new(peers={"there": f"{there.peer_id}@127.0.0.1:{there.port}"}) as here:
            await here.send(b"x")
            message = await here.receive(10)
            assert message is not None
            assert (message.content, message.peer) == (b"X", "there")


class NoReaders(asyncio.SelectorEventLoop):
    """As the Proactor loop of Windows."""

    def add_reader(self, *args: Any) -> None:
        raise NotImplementedError

    remove_reader = remove_writer = add_reader  # type: ignore[assignment]


def test_a_loop_that_cannot_watch_sockets_is_refused_with_advice() -> None:
    async def main() -> int:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        with pytest.raises(LocalProtocolError, match=r"NoReaders.*asyncio\.SelectorEventLoop"):
            new(port=port)
        return port

    with asyncio.Runner(loop_factory=NoReaders) as runner:
        port = runner.run(main())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", port))


def test_without_a_running_loop_nothing_is_left_open() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        new()


@in_loop
async def test_dropping_it_warns_and_closes() -> None:
    sock = new()
    port = sock.port
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del sock
        gc.collect()
    assert [w.category for w in caught] == [ResourceWarning]
    assert f":{port} " in str(caught[0].message)

    def is_free() -> bool:
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True

    await reach(is_free)


def test_a_program_that_ends_without_close_is_warned() -> None:
    async def main() -> aio.MultiHolepunchSocket:
        a, b = new(), new()
        await join(a, b)
        await b.close(0)
        return a

    sock = asyncio.run(main())
    with pytest.warns(ResourceWarning, match="unclosed <aio"):
        del sock


@in_loop
async def test_an_exception_does_not_wait_for_deliveries_and_leaving_does() -> None:
    try:
        async with new(peers={"away": ("127.0.0.1", 9)}) as sock:
            delivery = await sock.send(b"x")
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert delivery.failed
    async with new() as a, new() as b:
        await join(a, b)
        b.register_message_hook(lambda message: None)
        delivery = await a.send(bytes(200_000))
        await a.close()
        assert await delivery.wait(0)


@in_loop
async def test_it_cannot_be_copied_and_async_with_is_asked_for() -> None:
    async with new(name="Me") as sock:
        for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="cannot be copied"):
                attempt(sock)
        assert not hasattr(sock, "__enter__")
        assert not hasattr(sock, "fileno")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@in_loop
async def test_after_fork() -> None:
    """Every call is refused in the child, its end is quiet, and the parent's connection lives."""
    async with new() as a, new() as b:
        await join(a, b)
        assert not_refused_in_child(a, lambda: anext(a), a.__aenter__) == []
        delivery = await a.send(b"parent")
        message = await b.receive(10)
        assert message is not None
        assert message.content == b"parent"
        assert await delivery.wait(10)


def public(of: type) -> set[str]:
    return {name for name in dir(of) if not name.startswith("_")}


def test_both_kinds_have_the_same_names_and_arguments() -> None:
    assert public(srmudp.MultiHolepunchSocket) - public(aio.MultiHolepunchSocket) == {"fileno"}
    assert public(aio.MultiHolepunchSocket) <= public(srmudp.MultiHolepunchSocket)
    assert public(aio.Delivery) == public(srmudp.Delivery)
    waiting = {"send", "receive", "wait_connected", "discover", "map_port", "close"}
    for name in (*public(aio.MultiHolepunchSocket), "__init__"):
        ours, theirs = (getattr(kind, name) for kind in (aio.MultiHolepunchSocket, srmudp.MultiHolepunchSocket))
        assert inspect.getdoc(ours)
        if callable(ours):
            empty = inspect.Signature.empty
            signatures = [
                [p.replace(annotation=empty) for p in inspect.signature(f).parameters.values()] for f in (ours, theirs)
            ]
            assert signatures[0] == signatures[1], name
            assert inspect.iscoroutinefunction(ours) is (name in waiting)
