"""An endpoint run by an event loop: one reader callback, one timer, one flush for each turn of the loop.

Everything happens on the loop's thread. A call into the endpoint (:meth:`Driver.run`) returns what it has to, and its
output leaves when the loop turns: what tasks that are ready do in one turn shares datagrams, an answer and the
acknowledgement of what it answers among them. No callback works for longer than about :data:`_HOLD` seconds; it goes on
in the next turn then. Key agreement runs in the loop's executor, :data:`_JOBS` at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable, Hashable, Sequence
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, Unpack

from ...exceptions import LocalProtocolError, SocketClosed
from ...transports.base import spread, spread_fileno
from ..runner import Reentered, Runner
from .waiting import Waiter

if TYPE_CHECKING:
    from ...peers.endpoint import Endpoint, Transmit
    from ...protocol.events import Event, SocketsWanted
    from ...transports.base import Transport

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

running = asyncio._get_running_loop
"""The loop that runs on this thread, or None."""

_HOLD = 0.005
"""Seconds one callback works at most, but for the batch it is at."""
_BURST = 64
"""Batches read in one turn."""
_TICK = 0.001
"""Shortest wait for the timer in seconds: the resolution of event loops. Pacing keeps credit for far more."""
_JOBS = 2
"""Key agreements in the executor at a time. It is the program's; the others wait here."""
_CALLS = 32
"""Calls in one turn after which a task lets others have theirs."""
_RETRY = 0.05
"""Seconds after a fault of our own until the next attempt."""
_HELD_UP = 0.0005
"""Seconds that a turn takes if something else had the processor; one that finds nothing to do takes 0.000005."""


class Driver(Runner):
    """Runs one endpoint over one transport in the running loop."""

    def __init__(
        self,
        endpoint: Endpoint,
        transport: Transport,
        on_event: Callable[[Event, float], None],
        on_output: Callable[[], None],
        span: float = inf,
    ) -> None:
        super().__init__(endpoint, transport, on_event, on_output, span)
        self.loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._calls = 0  # since the loop turned
        self._flushing: asyncio.Handle | None = None
        self._reading: asyncio.Handle | None = None
        self._in_burst = False  # read something, and not to the end yet
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._rest: Transmit | None = None  # what the system did not take
        self._blocked = False
        self._jobs = 0
        self._turning: asyncio.Handle | None = None
        self._turned_at = 0.0
        self._awake_until = -inf

    def start(self) -> None:
        """Begin to read.

        Raises:
            LocalProtocolError: this kind of event loop cannot watch a UDP socket.
        """
        try:
            self.loop.add_reader(self.transport.fileno(), self._on_readable)
        except NotImplementedError:
            raise LocalProtocolError(
                f"{type(self.loop).__name__} cannot watch a UDP socket (no add_reader). On Windows choose the selector "
                "loop: with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner: runner.run(main())"
            ) from None
        self._flush_soon()

    # --- calls into the endpoint ---

    def check_process(self) -> None:
        """Return quietly on the thread and in the process that made the socket.

        Raises:
            LocalProtocolError: this is another thread, or a child made by ``fork``.
        """
        super().check_process()
        if self._thread != threading.get_ident():
            raise LocalProtocolError(
                "this socket belongs to the event loop of another thread: use asyncio.run_coroutine_threadsafe() or "
                "loop.call_soon_threadsafe()"
            )

    def check_loop(self) -> None:
        """Return quietly in a task of the loop that made the socket.

        Raises:
            LocalProtocolError: this is another loop, thread or process.
        """
        if running() is not self.loop:  # it is nobody's in a child after fork()
            self.check_process()
            raise LocalProtocolError("this socket belongs to another event loop, which runs no more; make a new one")

    def run(self, work: Callable[[float, Unpack[Ts]], T], *args: *Ts) -> T:
        """What ``work(now, ...)`` returns; its events are told at once, and its output leaves when the loop turns.

        Raises:
            Reentered: a signal handler interrupted this socket at work.
            SocketClosed: the driver has been stopped.
            LocalProtocolError: in a child process, or on another thread.
        """
        self.check_process()
        return self.run_checked(work, *args)

    def run_checked(self, work: Callable[[float, Unpack[Ts]], T], *args: *Ts) -> T:
        """As :meth:`run`, right after :meth:`check_loop`."""
        if self._busy:
            raise Reentered
        try:
            self._busy = True
            if self.stopped:
                raise SocketClosed("the socket is closed")
            now = monotonic()
            result = work(now, *args)
            self._tell(now)
        except BaseException as error:
            self._interrupted(error)
            raise
        finally:
            self._busy = False
        self._calls += 1
        if self._flushing is None:
            self._flush_soon()
        return result

    def peek(self, look: Callable[[float, Unpack[Ts]], T], *args: *Ts) -> T:
        """What ``look(now, ...)`` returns. Of the endpoint it only reads; works after :meth:`stop` too.

        Raises:
            Reentered, LocalProtocolError: as :meth:`run`.
        """
        self.check_process()
        if self._busy:
            raise Reentered
        return look(monotonic(), *args)

    @property
    def is_crowded(self) -> bool:
        """True if there were many calls in this turn of the loop: others, and this driver, should have theirs."""
        return self._calls >= _CALLS

    def adopt(self) -> None:
        """Belong to the calling thread from now on: the loop runs no more."""
        self._thread = threading.get_ident()

    async def wait_until(
        self, check: Callable[[float], T | None], topics: Sequence[Hashable], deadline: float | None
    ) -> T | None:
        """What ``check(now)`` returns as soon as that is not None, or None when ``deadline`` has passed.

        ``check`` is called at once and whenever one of ``topics`` was woken. What it does is done in the step in which
        this returns: a task that is cancelled while it waits has done nothing.

        Args:
            deadline: ``time.monotonic()`` seconds, or None to wait for ever.
        """
        while True:
            result = self.run(check)
            remaining = None if deadline is None else deadline - monotonic()
            if result is not None or (remaining is not None and remaining <= 0):
                return result
            waiter = Waiter(self.loop)
            self.topics.add(topics, waiter)
            try:
                await waiter.sleep(remaining)
            finally:
                self.topics.discard(topics, waiter)

    # --- staying awake ---

    def begin_wait(self) -> float:
        """A task is about to wait for a message. Returns the time.

        In a quick conversation the loop then turns again and again, for a moment, before it sleeps: see
        :mod:`..busy_poll`. Whatever else there is to do in the loop is done in each of these turns.
        """
        now = monotonic()
        awake = self._busy_poll.time_left(0.0)
        if awake > 0:
            self._awake_until = now + awake
            self._turned_at = now
            if self._turning is None:
                self._turning = self.loop.call_soon(self._turn)
        return now

    def end_wait(self, source: object, began: float) -> None:
        """The wait that began then is over; ``source`` is None if no message came."""
        self._awake_until = -inf
        self._busy_poll.on_waited(source, monotonic() - began)

    def _turn(self) -> None:
        self._turning = None
        now = monotonic()
        if now < self._awake_until and not self.stopped:
            if now - self._turned_at > _HELD_UP:
                self._busy_poll.on_held_up()
            else:
                self._turned_at = now
                self._turning = self.loop.call_soon(self._turn)

    def _interrupted(self, error: BaseException) -> None:
        """``error`` left a call to the endpoint half done."""
        self._give_up_half_done(error)
        if self._flushing is None and not self.stopped:
            self._flush_soon()

    # --- callbacks of the loop ---

    def _flush_soon(self) -> None:
        if not self.loop.is_closed():
            self._flushing = self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        """What came of all calls of this turn: seal and send, start jobs, set the timer."""
        self._flushing = None
        self._calls = 0
        self._work(self._nothing)

    def _nothing(self, now: float) -> None:
        pass

    def _work(self, work: Callable[[float], None]) -> None:
        """Do ``work(now)`` and all that follows it."""
        if not self.stopped and not self._busy:
            self._guard(work, monotonic())
            if not self.stopped:
                self._guard(self._follow_up, monotonic())
            self._on_output()

    def _follow_up(self, now: float) -> None:
        self._transmit(now)
        self._start_jobs()
        self._set_timer()

    def _guard(self, work: Callable[[float], None], now: float) -> None:
        """Do ``work(now)``, whatever it raises."""
        try:
            self._busy = True
            work(now)
        except Exception as error:
            self._fault("loop", error)
            if self._flushing is None:  # an endpoint that fails at each turn must not take a core
                self._flushing = self.loop.call_later(_RETRY, self._flush)
        except BaseException as error:
            self._interrupted(error)
            raise
        finally:
            self._busy = False

    def _on_readable(self) -> None:
        if self._reading is None:  # else that is the next turn
            self._read()

    def _read_on(self) -> None:
        self._reading = None
        self._read()

    def _read(self) -> None:
        """Read and handle what has come; then tasks that it wakes have their turn, and what they send leaves with what
        is due for it."""
        if not self.stopped and not self._busy:
            self._guard(self._read_some, monotonic())
            if self._flushing is None and not self.stopped:
                self._flush_soon()

    def _read_some(self, now: float) -> None:
        """As much as one turn takes."""
        limit = now + _HOLD
        endpoint, receive_batch = self.endpoint, self.transport.receive_batch
        for _ in range(_BURST):
            batch = receive_batch()
            if batch is None:
                if self._in_burst:
                    self._in_burst = False
                    endpoint.handle_burst_end(now)
                break
            buffer, segment_size, source = batch
            self._in_burst = True
            try:
                endpoint.handle_batch(buffer, segment_size, source, now)
            except Exception as error:
                self._fault("batch", error)
            now = monotonic()
            if now >= limit:
                self._reading = self.loop.call_soon(self._read_on)
                break
        else:
            # The transport may hold more than its descriptor tells.
            self._reading = self.loop.call_soon(self._read_on)
        self._tell(now)

    def _transmit(self, now: float) -> bool:
        """Seal and send what the window allows, as much as one turn takes. True if nothing is left."""
        limit = now + _HOLD
        is_done = False
        poll_transmit, send_batch = self.endpoint.poll_transmit, self.transport.send_batch
        while not self._blocked:
            transmit, self._rest = self._rest, None
            if transmit is None:
                transmit = poll_transmit(now)
                if transmit is None:
                    is_done = True
                    break
            payload, segment_size, destination, hops = transmit
            sent = self._open(payload, destination, hops) if hops else send_batch(payload, segment_size, destination)
            if sent < len(payload):
                self._rest = transmit._replace(payload=payload[sent:])
                self._blocked = True
                self.loop.add_writer(self.transport.fileno(), self._on_writable)
                break
            now = monotonic()
            if now >= limit:
                if self._flushing is None:
                    self._flush_soon()
                break
        self._tell(now)
        return is_done

    def _on_writable(self) -> None:
        self.loop.remove_writer(self.transport.fileno())
        self._blocked = False
        self._work(self._nothing)

    def _set_timer(self) -> None:
        """Be called again when the endpoint wants it; a timer that comes too early costs less than setting another."""
        deadline = self.endpoint.next_timer()
        if deadline is None or deadline >= self._timer_at:
            return
        now = monotonic()
        at = max(now + _TICK, min(now + self._surroundings.pause, deadline))
        if at >= self._timer_at:  # what is due already is waited for: work must not put it off again and again
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self.loop.call_later(at - now, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_at = inf
        self._work(self._handle_timer)

    def _handle_timer(self, now: float) -> None:
        endpoint = self.endpoint
        self._surroundings.look()
        self._surroundings.tell(now)
        deadline = endpoint.next_timer()
        if deadline is not None and deadline <= now:
            endpoint.handle_timer(now)
        self._tell(now)

    # --- key agreement, in the executor ---

    def _start_jobs(self) -> None:
        while self._jobs < _JOBS and (job := self.endpoint.next_job()) is not None:
            try:
                future = self.loop.run_in_executor(None, job.run)
            except RuntimeError:  # it was shut down, as it is when a loop ends; the handshake is tried again
                self.drops["no_executor"] += 1
                return
            self._jobs += 1
            future.add_done_callback(functools.partial(self._on_job_done, job))

    def _on_job_done(self, job: Any, future: asyncio.Future[None]) -> None:
        self._jobs -= 1
        if not future.cancelled():
            error = future.exception()
            if error is None:
                self._work(functools.partial(self._finish_job, job))
                return
            if isinstance(error, Exception):
                self._fault("job", error)
        self._work(self._nothing)

    def _finish_job(self, job: Any, now: float) -> None:
        self.endpoint.finish_job(job, now)
        self._tell(now)

    # --- faults and the end ---

    def _tell(self, now: float) -> None:
        super()._tell(now)
        if self._faults:
            self._faults.log()

    def _fault(self, where: str, error: Exception) -> None:
        self._faults.add(where, error)
        self._faults.log()

    def transmit_now(self) -> bool:
        """Send as much as one turn takes, without waiting for it. True if nothing is left that may be sent."""
        if self.stopped or self._busy:
            return True
        try:
            self._busy = True
            return self._transmit(monotonic())
        finally:
            self._busy = False

    def spread(self, told: Callable[[float, str, int], None], wanted: SocketsWanted) -> None:
        """See :meth:`Runner.spread`."""
        self.loop.call_soon(self._spread, told, wanted)

    def _spread(self, told: Callable[[float, str, int], None], wanted: SocketsWanted) -> None:
        if self.stopped:
            return
        count, descriptor = spread(self.transport, wanted.remote, wanted.count, wanted.port)
        if descriptor >= 0:
            self.loop.add_reader(descriptor, self._on_readable)
        if wanted.count > 1 or wanted.port:
            self.run(told, wanted.peer, count)

    def stop(self) -> None:
        """Leave the loop, close the transport and refuse further calls. Idempotent, never waits."""
        if self.stopped:
            return
        self.stopped = True
        self.topics.wake_all()
        if not self.loop.is_closed():
            with contextlib.suppress(NotImplementedError):  # by such a loop as start() refuses
                for descriptor in {self.transport.fileno(), spread_fileno(self.transport)} - {-1}:
                    self.loop.remove_reader(descriptor)
                self.loop.remove_writer(self.transport.fileno())
        for handle in (self._flushing, self._reading, self._timer, self._turning):
            if handle is not None:
                handle.cancel()
        self._rest = None
        self.transport.close()

    def abandon(self) -> None:
        """In a child after ``fork``: give up keys and descriptor. The loop's own state is the parent's as well."""
        self.stopped = True
        self.transport.close()
        del self.endpoint, self._surroundings
