"""What an adapter is: one library behind a pipe of whole messages, so that all are measured by the same workloads.

A file of this folder is one library. It offers ``ADAPTERS``, a sequence of :class:`Blocking` or :class:`Asynchronous`
(usually one; more if the library is measured in several ways), and imports the library only inside its functions: the
file itself can be imported everywhere.

::

    def why_not() -> str:
        return missing("lib")

    def listen(job: Job, ready: Callable[[], None]) -> Pipe:
        server = lib.Server(*job.rx)
        ready()                                   # from now on the other end may call
        return LibPipe(server.accept())

    def connect(job: Job) -> Pipe:
        return LibPipe(lib.connect(*job.rx))

    ADAPTERS = (Blocking("lib", listen, connect, why_not=why_not),)

An asynchronous library (``async def``, :class:`AsyncPipe`, :class:`Asynchronous`) is measured natively on its own
event loop, without a bridge between threads.

An adapter uses its library as a good user of it would: batches, flow control and buffers as documented, encryption and
checks as it ships them, and no settings that a network would punish. It waits (in ``send``) while the library has a few
MiB to send, so that queues stay bounded; it does not drop or merge messages.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

CONNECT = 20.0
"""Seconds within which a connection has to stand."""


@dataclass(frozen=True)
class Job:
    """What an end is told. The end ``tx`` connects and sends, the end ``rx`` listens and receives, or echoes.

    Attributes:
        tx, rx: IP address and port of each end. Both are free for TCP and UDP; ``rx`` binds its own. ``tx`` may bind
            its own or any other port, but has to use its own IP address.
        mtu: bytes of an IP packet on the way between them.
        workload: ``"bulk"``, ``"small"``, ``"pingpong"`` or ``"setup"``, for adapters that choose by it
            (``TCP_NODELAY`` and the like).
        size: bytes of the largest message.
        certificate: path of a PEM file with a key and its self-signed certificate (P-256, for ``bench`` and all
            addresses); the same file is what to trust. Empty if none could be made.
        options: what :attr:`Adapter.options` says.
    """

    tx: tuple[str, int]
    rx: tuple[str, int]
    mtu: int = 1500
    workload: str = "bulk"
    size: int = 0
    certificate: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


class Pipe(ABC):
    """A connection that carries whole messages, both ways. Used by one thread, except that ``close`` ends all."""

    @abstractmethod
    def send(self, message: bytes) -> None:
        """Send a message, or have the library send it; waits while it has too much to send already.

        Raises:
            OSError: the connection has failed.
        """

    @abstractmethod
    def receive(self, timeout: float) -> bytes | bytearray | memoryview | None:
        """The next message, or None if none came in so many seconds or the other end closed. It is the caller's."""

    def serve(self, answer: Callable[[Any], bytes | None], timeout: float) -> None:
        """Answer every message that comes, until ``answer`` returns None or none comes for so many seconds.

        A library that calls back may do better here than by way of :meth:`receive`.
        """
        while (message := self.receive(timeout)) is not None:
            if (reply := answer(message)) is None:
                return
            self.send(reply)

    def flush(self, timeout: float) -> None:  # noqa: B027
        """Wait, at most so many seconds, until what was sent needs this process no more. Called at both ends when all
        was sent or received: what sends or acknowledges only while it is called has to go on meanwhile."""

    @abstractmethod
    def close(self) -> None:
        """Close it and whatever belongs to it; soon, without waiting for the other end."""

    def facts(self) -> dict[str, Any]:
        """What the library tells about the connection: ``mtu``, ``datagrams``, ``lost``, ``rtt``, ``cipher``, ..."""
        return {}


class AsyncPipe(ABC):
    """The same for a library of asyncio. All but ``facts`` are called on its event loop, by one task at a time."""

    @abstractmethod
    async def send(self, message: bytes) -> None:
        """As :meth:`Pipe.send`."""

    @abstractmethod
    async def receive(self, timeout: float) -> bytes | bytearray | memoryview | None:
        """As :meth:`Pipe.receive`. ``asyncio.wait_for`` for each message costs much: wait only if nothing is here."""

    async def serve(self, answer: Callable[[Any], bytes | None], timeout: float) -> None:
        """As :meth:`Pipe.serve`."""
        while (message := await self.receive(timeout)) is not None:
            if (reply := answer(message)) is None:
                return
            await self.send(reply)

    async def flush(self, timeout: float) -> None:  # noqa: B027
        """As :meth:`Pipe.flush`."""

    @abstractmethod
    async def close(self) -> None:
        """As :meth:`Pipe.close`."""

    def facts(self) -> dict[str, Any]:
        """As :meth:`Pipe.facts`."""
        return {}


def usable() -> str:
    """For :attr:`Adapter.why_not`: it always can be used."""
    return ""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A library, in one of the ways in which it can be used.

    Attributes:
        name: the row's name.
        why_not: why it cannot be used here, in a few words; empty if it can. Called in the parent; must be quick.
        encrypted: whether what it carries is encrypted and authenticated.
        udp: whether it goes over UDP.
        reliable: whether nothing is lost; if not, it is not measured where the network loses something.
        standard: whether it is measured in every run of the command; if not, only where peers are asked for.
        workloads: what it is measured with; None for all.
        options: passed on as :attr:`Job.options`; plain JSON.
        package: its name on PyPI, whose version the report states.
    """

    name: str = field(kw_only=False)
    why_not: Callable[[], str] = usable
    encrypted: bool = True
    udp: bool = True
    reliable: bool = True
    standard: bool = False
    workloads: tuple[str, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    package: str = ""

    @property
    def version(self) -> str:
        """Of the package; empty if it has none."""
        try:
            return importlib.metadata.version(self.package) if self.package else ""
        except importlib.metadata.PackageNotFoundError:
            return ""


@dataclass(frozen=True)
class Blocking(Adapter):
    """A library with blocking calls (or with threads and callbacks of its own).

    Attributes:
        listen: binds ``job.rx``, calls ``ready`` once the other end may connect, returns when connected.
        connect: returns when connected: when a message may be sent.
    """

    listen: Callable[[Job, Callable[[], None]], Pipe]
    connect: Callable[[Job], Pipe]


@dataclass(frozen=True)
class Asynchronous(Adapter):
    """A library of asyncio; the attributes are coroutine functions that do the same as in :class:`Blocking`."""

    listen: Callable[[Job, Callable[[], None]], Awaitable[AsyncPipe]]
    connect: Callable[[Job], Awaitable[AsyncPipe]]


def missing(*modules: str) -> str:
    """For :attr:`Adapter.why_not`: which of the modules is not installed, without importing it."""
    absent = [name for name in modules if importlib.util.find_spec(name) is None]
    return f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed" if absent else ""
