"""The processes of ``srmudp demo``: started, asked, killed, and never left behind.

Every question has a time limit, and all of them share the demo's own.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from . import demo_peer
from .demo_peer import Role

_END = 1.0
"""Seconds a process has to end by itself before it is killed."""


class Trouble(Exception):
    """Something that should have happened has not; the text says what, for people."""


class Clock:
    """The time limit of the whole demo.

    Args:
        limit: seconds from now.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._start = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._start

    def left(self, limit: float) -> float:
        """``limit`` seconds, or what is left for the whole demo if that is less; never below zero."""
        return max(0.0, min(limit, self.limit - self.elapsed))

    def until(self, happened: Callable[[], bool], limit: float, pause: float = 0.02) -> bool:
        """Look again and again until ``happened()``. False if it has not within ``limit`` seconds."""
        deadline = time.monotonic() + self.left(limit)
        while not happened():
            if time.monotonic() >= deadline:
                return False
            time.sleep(pause)
        return True


class Actor:
    """One process, as seen from outside.

    Args:
        role: what it plays.
        clock: the demo's.
    """

    def __init__(self, role: Role, clock: Clock) -> None:
        self.role = role
        self.name = role.name
        self._clock = clock
        self._number = 0
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=demo_peer.run, args=(other, role), name=role.name, daemon=True)
        try:
            with _interrupts_ignored():
                self._process.start()
        except BaseException:
            self._pipe.close()
            raise
        finally:
            other.close()  # so that its end of the pipe is the only one, and breaks when it dies

    def ask(self, command: str, *arguments: object, limit: float = 5.0) -> Any:
        """What ``command`` returns over there.

        Raises:
            Trouble: no answer in time, the process is gone, or the command failed.
        """
        return self.answer(self.begin(command, *arguments), command, limit)

    def begin(self, command: str, *arguments: object) -> int:
        """Ask without waiting; the number is for :meth:`answer`."""
        self._number += 1
        try:
            self._pipe.send((self._number, command, arguments))
        except OSError:
            pass  # answer() finds out why
        return self._number

    def answer(self, number: int, command: str, limit: float) -> Any:
        """Wait for the answer to question ``number``."""
        deadline = time.monotonic() + self._clock.left(limit)
        while True:
            try:
                if not self._pipe.poll(max(0.0, deadline - time.monotonic())):
                    raise Trouble(f"{self.name} gave no answer to '{command}' in time")
                answered, result, trouble = self._pipe.recv()
            except (EOFError, OSError):
                self._process.join(_END)
                raise Trouble(f"{self.name}'s process ended (exit status {self._process.exitcode})") from None
            if answered in (number, -1):  # others are answers to questions we gave up
                if trouble is not None:
                    raise Trouble(f"{self.name}: {trouble}")
                return result

    def kill(self) -> None:
        """End the process at once, without a chance to say goodbye."""
        self._process.kill()
        self._process.join(_END)

    def ended(self, limit: float) -> bool:
        """True if the process ended by itself, content, within ``limit`` seconds."""
        self._process.join(self._clock.left(limit))
        return self._process.exitcode == 0

    @property
    def pid(self) -> int | None:
        """The process id."""
        return self._process.pid

    def dispose(self) -> None:
        """Make sure that nothing is left of it. Idempotent."""
        self._pipe.close()
        with suppress(ValueError):  # closed before
            if self._process.is_alive():
                self._process.kill()
                self._process.join(_END)
            self._process.close()


class Cast:
    """All processes of a demo. A context manager that leaves none behind, however it is left.

    Args:
        folder: where they keep their files.
        clock: the demo's.
        loss, seed, verbose: see :class:`Role`.
    """

    def __init__(self, folder: str, clock: Clock, *, loss: float, seed: int, verbose: bool) -> None:
        self.clock = clock
        self._folder = folder
        self._loss, self._seed, self._verbose = loss, seed, verbose
        self._actors: dict[str, Actor] = {}

    def start(self, name: str) -> Actor:
        """Start a process that plays ``name``."""
        path = os.path.join(self._folder, name)
        seed = self._seed * 1000 + len(self._actors)
        role = Role(
            name=name,
            life=1,
            port=0,
            folder=self._folder,
            identity=f"{path}.key",
            known_peers=f"{path}.peers",
            record=f"{path}.record",
            loss=self._loss,
            seed=seed,
            verbose=self._verbose,
        )
        self._actors[name] = Actor(role, self.clock)
        return self._actors[name]

    def restart(self, name: str, port: int) -> Actor:
        """Start the process that plays ``name`` once more, with the same files and port. The old one must be dead."""
        old = self._actors[name].role
        role = replace(old, life=old.life + 1, port=port, seed=old.seed + 100)
        self._actors[name].dispose()
        self._actors[name] = Actor(role, self.clock)
        return self._actors[name]

    def __getitem__(self, name: str) -> Actor:
        return self._actors[name]

    def __iter__(self) -> Iterator[Actor]:
        return iter(list(self._actors.values()))

    def all(self, command: str, *arguments: object, limit: float = 5.0) -> dict[str, Any]:
        """Ask everybody at the same time. Returns the answers by name.

        Raises:
            Trouble: as for :meth:`Actor.ask`, of the first that failed.
        """
        return self.each(command, {actor.name: arguments for actor in self}, limit=limit)

    def each(self, command: str, arguments: Mapping[str, Sequence[object]], *, limit: float = 5.0) -> dict[str, Any]:
        """As :meth:`all`, with arguments for each of them."""
        numbers = {name: self[name].begin(command, *given) for name, given in arguments.items()}
        return {name: self[name].answer(number, command, limit) for name, number in numbers.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for actor in self:
            actor.dispose()


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """A process started meanwhile ignores Ctrl-C from its first instruction: only the parent is to act on it.

    For the few milliseconds this takes the parent ignores it as well.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
