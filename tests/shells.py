"""One test body for both kinds of socket: ``shell`` says whether threads or an event loop run what ``make`` makes.

An asynchronous socket lives in a loop on a thread of its own here, and :class:`FromThreads` is the way to it: the same
names as ``srmudp.MultiHolepunchSocket``, which wait. Hooks run on threads, so that they may use it as well.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest

import srmudp
from srmudp import aio

T = TypeVar("T")

SHELLS = ("threads", "asyncio")

both_shells = pytest.mark.parametrize("shell", SHELLS, indirect=True)
"""Runs a test once with sockets run by threads and once with sockets run by an event loop."""


class LoopThread:
    """An event loop on a thread.

    Args:
        new_loop: makes it.
    """

    def __init__(self, new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop) -> None:
        self.loop = new_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="loop")
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T], within: float = 30.0) -> T:
        """What a coroutine returns."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(within)

    def call(self, function: Callable[..., T], *args: Any, **options: Any) -> T:
        """What a function returns that is called on the loop's thread."""

        async def main() -> T:
            return function(*args, **options)

        return self.run(main())

    def close(self) -> None:
        """End everything as ``asyncio.run`` does."""
        self.run(_cancel_others())
        self.run(self.loop.shutdown_default_executor())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class FromThreads:
    """An object of ``srmudp.aio`` as code without a loop uses it: what it awaits is waited for.

    Args:
        loop: where the object lives.
        wrapped: the object.
    """

    def __init__(self, loop: LoopThread, wrapped: Any) -> None:
        self._loop = loop
        self._wrapped = wrapped
        self._hooks: dict[Any, Any] = {}

    @classmethod
    def make(cls, loop: LoopThread, *args: Any, **options: Any) -> FromThreads:
        """A socket."""
        accept = options.get("accept")
        if callable(accept):
            options["accept"] = _on_thread(accept)
        return cls(loop, loop.call(aio.MultiHolepunchSocket, *args, **options))

    def __getattr__(self, name: str) -> Any:
        value = self._loop.call(getattr, self._wrapped, name)
        if inspect.iscoroutinefunction(value):
            return lambda *args, **options: self._plain(self._loop.run(value(*args, **options)))
        if inspect.ismethod(value):
            return lambda *args, **options: self._plain(self._loop.call(value, *args, **options))
        return value

    def _plain(self, value: Any) -> Any:
        return FromThreads(self._loop, value) if isinstance(value, aio.Delivery) else value

    def __iter__(self) -> Iterator[srmudp.Message]:
        async def following() -> srmudp.Message | None:
            return await anext(self._wrapped, None)

        while (message := self._loop.run(following())) is not None:
            yield message

    def __enter__(self) -> FromThreads:
        self._loop.run(self._wrapped.__aenter__())
        return self

    def __exit__(self, *error: Any) -> None:
        self._loop.run(self._wrapped.__aexit__(*error))

    def __repr__(self) -> str:
        return repr(self._wrapped)

    def _hook(self, hook: Any) -> Any:
        if callable(hook) and not inspect.iscoroutinefunction(hook):
            return self._hooks.setdefault(hook, _on_thread(hook))
        return hook

    def register_message_hook(self, hook: Any) -> Any:
        self._loop.call(self._wrapped.register_message_hook, self._hook(hook))
        return hook

    def unregister_message_hook(self, hook: Any) -> None:
        self._loop.call(self._wrapped.unregister_message_hook, self._hook(hook))

    def on_event(self, hook: Any) -> Any:
        self._loop.call(self._wrapped.on_event, self._hook(hook))
        return hook

    def off_event(self, hook: Any) -> None:
        self._loop.call(self._wrapped.off_event, self._hook(hook))


def _on_thread(function: Callable[..., T]) -> Callable[..., Coroutine[Any, Any, T]]:
    """A coroutine function that has ``function`` called on another thread."""

    @functools.wraps(function)
    async def detour(*args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(None, function, *args)

    return detour


class Maker:
    """Makes sockets of one kind; closes them and their loops.

    Args:
        shell: one of :data:`SHELLS`.
    """

    def __init__(self, shell: str) -> None:
        self._shell = shell
        self._made: list[Any] = []
        self._loops: list[LoopThread] = []

    def __call__(self, *args: Any, **options: Any) -> Any:
        options.setdefault("host", "127.0.0.1")
        if self._shell == "threads":
            self._made.append(srmudp.MultiHolepunchSocket(*args, **options))
        else:
            if not self._loops:
                self._loops.append(LoopThread())
            self._made.append(FromThreads.make(self._loops[0], *args, **options))
        return self._made[-1]

    def close(self) -> None:
        for sock in self._made:
            sock.close(0)
        for loop in self._loops:
            loop.close()


@pytest.fixture
def shell(request: pytest.FixtureRequest) -> str:
    """What runs the sockets of this test: threads, unless it is marked with :data:`both_shells`."""
    return str(getattr(request, "param", "threads"))


@pytest.fixture
def make(shell: str) -> Iterator[Callable[..., Any]]:
    """Makes sockets on 127.0.0.1 (or where told) with the arguments of MultiHolepunchSocket."""
    maker = Maker(shell)
    yield maker
    maker.close()
