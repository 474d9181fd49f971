"""srmudp, as its users use it: the public interface and the default configuration, save for the back end."""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from tests.benchmarks.adapters.base import CONNECT, Adapter, Blocking, Job, Pipe, missing

LIMIT = 60.0
"""Seconds for which ``send`` may wait for room."""
HANDED_OVER = 0.05
"""Seconds after which the hook surely has seen that it is to answer."""


def facts_of(sock: Any, peer: str) -> dict[str, Any]:
    """What either kind of socket knows of the connection."""
    status = sock.connections_status[peer]
    stats = status.stats
    return {
        "mtu": status.mtu,
        "rtt": status.rtt,
        "datagrams": stats.datagrams_sent,
        "lost": stats.datagrams_lost,
        "wire_bytes": stats.bytes_sent,
        "drops": dict(sock.drops),
    }


class SocketPipe(Pipe):
    """One socket with one peer."""

    def __init__(self, sock: Any, peer: str) -> None:
        self.sock, self.peer = sock, peer
        self._last: Any = None

    def connected(self) -> SocketPipe:
        """Wait until it is."""
        if not self.sock.wait_connected(self.peer, CONNECT):
            raise TimeoutError(self.sock.connections_status[self.peer].failure)
        return self

    def send(self, message: bytes) -> None:
        self._last = self.sock.send(message, self.peer, timeout=LIMIT)

    def receive(self, timeout: float) -> bytes | None:
        message = self.sock.receive(timeout)
        return None if message is None else message.content

    def serve(self, answer: Callable[[Any], bytes | None], timeout: float) -> None:
        sock, peer = self.sock, self.peer
        while (message := sock.receive(timeout)) is not None:
            if (reply := answer(message.content)) is None:
                return
            sock.send(reply, peer)

    def flush(self, timeout: float) -> None:
        if self._last is not None:  # messages are taken in order
            self._last.wait(timeout)

    def close(self) -> None:
        self.sock.close(0)

    def facts(self) -> dict[str, Any]:
        return facts_of(self.sock, self.peer)


class HookPipe(SocketPipe):
    """The same with a message hook, which answers on the socket's thread of hooks."""

    def __init__(self, sock: Any, peer: str) -> None:
        super().__init__(sock, peer)
        self._messages: SimpleQueue[bytes] = SimpleQueue()
        self._answer: Callable[[Any], bytes | None] | None = None
        self._over: SimpleQueue[None] = SimpleQueue()
        sock.register_message_hook(self._on_message)

    def _on_message(self, message: Any) -> None:
        if self._answer is None:
            self._messages.put(message.content)
        elif (reply := self._answer(message.content)) is None:
            self._answer = None
            self._over.put(None)
        else:
            self.sock.send(reply, self.peer)

    def receive(self, timeout: float) -> bytes | None:
        try:
            return self._messages.get(timeout=timeout)
        except Empty:
            return None

    def serve(self, answer: Callable[[Any], bytes | None], timeout: float) -> None:
        self._answer = answer
        try:
            while (message := self._messages.get(timeout=HANDED_OVER)) is not None:  # what came before this
                if (reply := answer(message)) is not None:
                    self.sock.send(reply, self.peer)
        except Empty:
            pass
        try:
            self._over.get(timeout=timeout)
        except Empty:
            self._answer = None


PIPES = {"receive": SocketPipe, "hook": HookPipe}


def pipe(job: Job, at: tuple[str, int], name: str, peer: tuple[str, int]) -> SocketPipe:
    """Our end, which has added the other one."""
    from srmudp import Config, MultiHolepunchSocket

    config = Config(backend=job.options["backend"])
    sock = MultiHolepunchSocket(at[1], {name: peer}, host=at[0], config=config)
    return PIPES[job.options.get("by", "receive")](sock, name)


def listen(job: Job, ready: Callable[[], None]) -> Pipe:
    """Both ends do the same; this one is there first."""
    end = pipe(job, job.rx, "tx", job.tx)
    ready()
    return end.connected()


def connect(job: Job) -> Pipe:
    """Both ends do the same."""
    return pipe(job, job.tx, "rx", job.rx).connected()


def no_fast() -> str:
    """Why there is no ``fast``."""
    return missing("cryptography")


FAST = {"backend": "cryptography"}
ADAPTERS: tuple[Adapter, ...] = (
    Blocking("srmudp, fast", listen, connect, why_not=no_fast, standard=True, options=FAST),
    Blocking("srmudp, pycryptodome", listen, connect, standard=True, options={"backend": "pycryptodome"}),
    Blocking(
        "srmudp, fast, by a hook",
        listen,
        connect,
        why_not=no_fast,
        standard=True,
        workloads=("pingpong",),
        options={**FAST, "by": "hook"},
    ),
)
