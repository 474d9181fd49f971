"""The resolver task: host names to addresses by the loop's own ``getaddrinfo``."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Any

from ...models import Address
from ..rates import RateLimit
from ..resolver import Agenda, Hosts, Question
from .waiting import Waiter

log = logging.getLogger("srmudp.resolver")


class Resolver:
    """Looks up the host names of peers when asked to, and again while there is no answer.

    Args:
        loop: the running loop.
        hosts_of: the names and ports wanted for a peer now; empty if it is gone.
        resolved: given the peer, the hosts as asked and all addresses found.
        unresolved: given the peer, the hosts as asked and the reason when no address was found.
        getaddrinfo: as ``loop.getaddrinfo``.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        hosts_of: Callable[[str], Hosts],
        resolved: Callable[[str, Hosts, list[Address]], None],
        unresolved: Callable[[str, Hosts, str], None],
        getaddrinfo: Callable[..., Awaitable[Sequence[tuple[Any, ...]]]] | None = None,
    ) -> None:
        self._loop = loop
        self._agenda = Agenda(hosts_of)
        self._resolved = resolved
        self._unresolved = unresolved
        self._getaddrinfo = getaddrinfo or loop.getaddrinfo
        self._idle: Waiter | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._complaint = RateLimit()

    def want(self, peer: str) -> None:
        """Have the names of ``peer`` looked up soon; never waits."""
        if self._stopping:
            return
        self._agenda.want(peer, monotonic())
        if self._task is None:
            self._task = self._loop.create_task(self._work(), name="srmudp-resolver")
        elif self._idle is not None:
            self._idle.wake()

    async def stop(self) -> None:
        """End the task. A look-up that the system is at cannot be cut short and is left to the loop's executor."""
        self.cancel()
        if self._task is not None:
            await asyncio.wait({self._task})

    def cancel(self) -> None:
        """The same without waiting for it."""
        self._stopping = True
        if self._task is not None and not self._loop.is_closed():
            self._task.cancel()

    async def _work(self) -> None:
        while True:
            question = self._agenda.next(monotonic())
            if question is None:
                self._idle = Waiter(self._loop)
                try:
                    await self._idle.sleep(self._agenda.wait(monotonic()))
                finally:
                    self._idle = None
                continue
            try:
                await self._look_up(question)
            except Exception:
                if self._complaint():
                    log.exception("! resolver")

    async def _look_up(self, question: Question) -> None:
        for host, port in question.hosts:
            try:
                question.answer(await self._getaddrinfo(host, port, type=socket.SOCK_DGRAM, proto=socket.IPPROTO_UDP))
            except (OSError, UnicodeError) as error:
                question.fail(host, error)
                if self._complaint():
                    log.info("! %s: cannot look up %s: %s", question.peer, host, error)
        self._agenda.finish(question, monotonic())
        if question.addresses:
            self._resolved(question.peer, question.hosts, question.addresses)
        else:
            self._unresolved(question.peer, question.hosts, question.reason)
