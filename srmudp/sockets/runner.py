"""What a driver does in the same way whether threads or an event loop drive it."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple, Unpack

from ..exceptions import LocalProtocolError
from ..transports.base import opener_of
from .busy_poll import BusyPoll, processors
from .faults import Faults
from .surroundings import Surroundings
from .waiting import Topics

if TYPE_CHECKING:
    from ..peers.endpoint import Endpoint
    from ..protocol.events import Event, SocketsWanted
    from ..transports.base import Transport

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Reentered(LocalProtocolError):
    """A signal handler interrupted this socket at work in the same thread, so the call cannot be made now."""

    def __init__(self) -> None:
        super().__init__("called from a signal handler that interrupted this socket; only send() and close() may be")


class Runner(ABC):
    """Runs one endpoint over one transport.

    Args:
        endpoint: the peers of the socket.
        transport: non-blocking; closed with the driver.
        on_event: given each event and ``now`` while the endpoint is worked with; must not wait for anything.
        on_output: called after each round, however short.
        span: seconds between looks at what became of the machine and its network, while there are deadlines.
    """

    # So those of its subclass are no more than 30: more are kept in a dictionary and searched for, by CPython 3.11.
    __slots__ = (
        "_busy", "_busy_poll", "_faults", "_on_event", "_on_output", "_open", "_pid", "_surroundings", "drops",
        "endpoint", "stopped", "topics", "transport",
    )  # fmt: skip

    def __init__(
        self,
        endpoint: Endpoint,
        transport: Transport,
        on_event: Callable[[Event, float], None],
        on_output: Callable[[], None],
        span: float = inf,
    ) -> None:
        self.endpoint = endpoint
        self.transport = transport
        self._open = opener_of(transport)
        self.topics = Topics()
        self._busy_poll = BusyPoll(processors())
        self.drops: Counter[str] = Counter()
        self.stopped = False
        self._on_event = on_event
        self._on_output = on_output
        self._surroundings = Surroundings(endpoint, transport.local_address(), span, transport.fileno())
        self._pid = os.getpid()
        self._busy = False
        self._faults = Faults(self.drops)

    def check_process(self) -> None:
        """Return quietly where the socket may be used. Takes no lock.

        Raises:
            LocalProtocolError: this is a child made by ``fork``; its copy of the keys must never seal anything.
        """
        if self._pid != os.getpid():
            raise LocalProtocolError("this socket belongs to the parent process; make a new one after fork()")

    @abstractmethod
    def run(self, work: Callable[[float, Unpack[Ts]], T], *args: *Ts) -> T:
        """What ``work(now, ...)`` returns; what comes of it goes its ways."""

    @abstractmethod
    def peek(self, look: Callable[[float, Unpack[Ts]], T], *args: *Ts) -> T:
        """What ``look(now, ...)`` returns. Of the endpoint it only reads; works after the end too."""

    @abstractmethod
    def spread(self, told: Callable[[float, str, int], None], wanted: SocketsWanted) -> None:
        """Have the transport open more sockets or close them, soon and not here; ``told`` is run with what was opened.

        Called while the endpoint is worked with.
        """

    @abstractmethod
    def abandon(self) -> None:
        """In a child after ``fork``: give up keys and descriptors."""

    def _tell(self, now: float) -> None:
        """Hand on what the endpoint has to tell."""
        while (event := self.endpoint.next_event()) is not None:
            try:
                self._on_event(event, now)
            except Exception as error:
                self._faults.add("event", error)

    def _give_up_half_done(self, error: BaseException) -> None:
        """``error`` left a call to the endpoint half done: whatever session was touched must not be gone on with."""
        if not isinstance(error, Exception) or isinstance(error, MemoryError | RecursionError):
            self.endpoint.handle_interrupted(monotonic())
