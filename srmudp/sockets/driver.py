"""The threads around an endpoint: one lock, a receiver thread, a timer thread and the way out to the wire.

Flow and locks
--------------
* ``_lock`` guards the endpoint and all below it. Every thread goes through :meth:`Driver.run`: take the lock, call
  the endpoint, collect its output into plain queues, let the lock go, then transmit. Under the lock there is no
  system call, no hook and no wait for a queue; putting into a ``SimpleQueue`` and waking a baton never wait and are
  allowed.
* ``_out`` is the transmit queue. It is filled under ``_lock``, so datagrams are in the order in which they were
  sealed, and emptied under ``_send_lock``, which is only ever taken without waiting.
* ``_read_lock`` is held while datagrams are read and handled, by the receiver thread or by one of the application's
  that waits for a message (``reading.py``): what came first is handled first. It is taken before ``_lock``.
* The first two are re-entrant *and* carry a flag. A signal handler runs on top of whatever its thread was doing. It
  may find that this thread holds the lock, and the flag tells it whether the endpoint was being changed at that
  moment: the flag is raised after the lock is taken and lowered before it is let go, so there is no moment at which
  the handler would wait for the frame below it. It gets :class:`Reentered` instead and the work is deferred to the
  timer thread.

No wake-up is lost
------------------
A thread appends to ``_out`` *before* it tries ``_send_lock``. If the try fails, some holder H has the lock, and H
looks at ``_out`` again *after* letting go. The append came before the failed try, the failed try before H's letting
go, and that before H's look: H sees it. The same holds for ``_more`` (the endpoint has further output), raised
before the try. If H stops because the transport would block, ``_blocked`` is set and the receiver thread is woken
to wait for writability; it is the only one to clear ``_blocked`` and empties the queue afterwards; should it find
the lock taken, H's second look finds ``_blocked`` cleared and goes on. If H has sent its share (``_SHARE``) it
wakes the receiver thread to go on in its place.

No deadline is lost
-------------------
``_due`` is what the endpoint said last. The timer thread sleeps until ``_sleep_until``, never later than ``_due``, or
than ``_due + 2 * _BACKUP`` while ``Lease.looks_at`` says that another thread will look at the deadlines by then. Who
sets ``_due`` looks at ``looks_at`` afterwards; who raises that (the reader that goes to sleep or away, the receiver
thread that takes over) looks at ``_due`` afterwards and wakes the timer thread if need be; and this looks at both when
it goes to sleep. ``_BACKUP`` is for a reader that breaks its promise, interrupted or held up by a signal handler.

The endpoint is asked after each piece of work, but twice not at once. A small message leaves first: ``_late`` has the
same call ask once it is on its way. And who waits for a message has it first: a note has the next one to come see to
acknowledgements and ask, or the timer thread after :data:`_NOTE`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from math import inf
from os import getpid
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, Unpack

from ..exceptions import SocketClosed
from ..transports.base import spread
from .gathering import GATHER, Gathering
from .reading import LEASE, Lease
from .runner import Reentered, Runner
from .waiting import Baton, Poller, Wakeup

if TYPE_CHECKING:
    from ..models import Address
    from ..peers.endpoint import Endpoint, Transmit
    from ..protocol.events import Event, SocketsWanted
    from ..transports.base import Batch, Transport

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_BACKLOG = 16
"""Sealed batches in the transmit queue at most. More would be sealed too early and hold the lock for too long."""
_SHARE = 128
"""Batches one call sends before it leaves the rest to the receiver thread, so that ``send`` returns to its caller."""
_BURST = 64
"""Batches read before they are handled."""
_LONE = 1024
"""Bytes of a datagram at most that came alone, perhaps: a full one, of 1200 or more, is one of many."""
_SLEPT = 0.00003
"""Seconds after which a wait was a sleep: nothing had come before."""
_HOLD = 0.002
"""Seconds the receiver thread keeps the lock at most while senders may want it."""
_TICK = 0.0001
"""Shortest sleep of the timer thread in seconds; pacing keeps credit for far more."""
_NOTE = 0.005
"""Seconds that a note may wait for other work: as long as an acknowledgement may."""
_NOTES = 32
"""Notes at most: messages taken return credit, so the endpoint is to know."""
_NEAR = 0.0005
"""Seconds: what is due so soon is the timer thread's. Others may sleep a millisecond too long, or be away for a few."""
_BACKUP = 0.025
"""Seconds by which the timer thread is late, or twice that, for a deadline that another thread was to keep."""
_EMPTY_TURNS = 64
"""Turns of the receiver thread without a result before it pauses: a descriptor in error is always ready."""


class Driver(Runner):
    """Runs one endpoint over one transport, by threads. Thread-safe unless a method says otherwise.

    ``on_event`` is called under the lock and ``on_output`` without it.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        transport: Transport,
        on_event: Callable[[Event, float], None],
        on_output: Callable[[], None],
        span: float = inf,
    ) -> None:
        super().__init__(endpoint, transport, on_event, on_output, span)
        self._lock = threading.RLock()
        self._send_lock = threading.RLock()
        self._sending = False
        self._out: deque[Transmit] = deque()
        self._more = False
        self._late = False  # deadlines and events are still to be collected, too
        self._blocked = False
        self._jobs: deque[Any] = deque()
        self._deferred: deque[Callable[[], None]] = deque()
        self._stopping = False
        self._due = inf
        self._sleep_until = -inf
        self._baton = Baton()
        self._wakeup = Wakeup()
        self._poller = Poller(transport.fileno(), self._wakeup.fileno())
        self._nudge = Wakeup()
        self._read_lock = threading.Lock()  # two may read for a moment; what they read must be handled in order
        self._receive_lone: Callable[[], Batch | None] | None = getattr(transport, "receive_lone", None)
        self._unread = False  # a transport may have read more than it gave out, of which the descriptor says nothing
        self._readers_poller = Poller(transport.fileno(), self._nudge.fileno())
        self.lease = Lease(self._wakeup.set, self._nudge.set)
        self._gathering = Gathering()
        self._notes: deque[tuple[Callable[[float, Any], None], Any]] = deque()
        self._threads = [
            threading.Thread(target=self._receive_loop, name="srmudp-receiver", daemon=True),
            threading.Thread(target=self._timer_loop, name="srmudp-timer", daemon=True),
        ]

    def start(self) -> None:
        """Start both threads. Called once, by the one who made the driver."""
        for thread in self._threads:
            thread.start()

    # --- calls into the endpoint ---

    def run(self, work: Callable[[float, Unpack[Ts]], T], *args: *Ts) -> T:
        """What ``work(now, ...)`` returns, called under the lock; its output is on the wire or queued afterwards.

        Raises:
            Reentered: a signal handler interrupted this thread while it was at work here.
            SocketClosed: the driver has been shut down.
            LocalProtocolError: in a child process.
        """
        return self._run(False, work, args)

    def run_gathering(self, work: Callable[[float, Unpack[Ts]], T], *args: *Ts) -> T:
        """As :meth:`run`, for little output: if many such calls come in a row, that of several leaves together."""
        return self._run(True, work, args)

    def _run(self, gather: bool, work: Callable[[float, Unpack[Ts]], T], args: tuple[*Ts]) -> T:
        if self._pid != getpid():
            self.check_process()
        try:
            with self._lock:
                if self._busy:
                    raise Reentered
                try:
                    self._busy = True
                    if self.stopped:
                        raise SocketClosed("the socket is closed")
                    now = monotonic()
                    if self._notes and not gather:
                        self._do_notes(now)
                    result = work(now, *args)
                    if not gather:
                        self._collect(now)
                    elif self._gathering.puts_off(now):
                        if self._sleep_until > self._gathering.until + GATHER:
                            self._turn_by(self._gathering.until)
                        return result
                    else:
                        self._collect_first(now)
                except BaseException as error:
                    self._interrupted(error)
                    raise
                finally:
                    self._busy = False
            self._after_work()
        except BaseException:
            if self._late:  # an interrupt came before the rest was collected
                self._turn_by(-inf)
            raise
        return result

    def _after_work(self) -> None:
        """On the application's thread, without the lock: what the endpoint gave goes its ways."""
        if self._jobs:
            self._baton.wake()  # key agreement is slow: not in the caller's thread
        if (self._out or self._more) and self._transmit():
            self._wakeup.set()
        self._on_output()

    def note(
        self, work: Callable[[float, Any], None], argument: Any, is_last: Callable[[], bool] = lambda: False
    ) -> None:
        """Have ``work(now, argument)`` called with the next work under the lock; without any, in about :data:`_NOTE`.

        For what is worth no round of its own. Whatever :meth:`run` does after this sees it done.

        Args:
            is_last: asked where nobody is about to see to notes: no other is to be waited for, so it is done at once.

        Raises:
            Reentered, SocketClosed, LocalProtocolError: as :meth:`run`; it is noted nevertheless.
        """
        self._notes.append((work, argument))
        if len(self._notes) >= _NOTES:
            self.run(self._see_to_timers)
        elif not self.lease.ends_soon:  # the receiver thread's turn begins with the notes, as the timer thread's does
            try:
                if is_last():
                    self.run(self._see_to_timers)
            finally:
                self._await_notes()

    def _await_notes(self) -> None:
        """Have the timer thread see to the notes, should nobody else come to it before and the receiver thread not."""
        if self._notes and not self.lease.ends_soon:
            due = monotonic() + _NOTE
            if self._sleep_until > due:
                self._turn_by(due)

    def _do_notes(self, now: float) -> None:
        notes = self._notes
        while notes:
            work, argument = notes[0]
            try:
                work(now, argument)
            except Exception as error:
                self._faults.add("note", error)
            notes.popleft()  # after it: an interrupt has it done twice rather than never

    def peek(self, look: Callable[[float, Unpack[Ts]], T], *args: *Ts) -> T:
        """What ``look(now, ...)`` returns, called under the lock. It only reads the endpoint; works after :meth:`stop`.

        Raises:
            Reentered, LocalProtocolError: as :meth:`run`.
        """
        self.check_process()
        with self._lock:
            if self._busy:
                raise Reentered
            try:
                self._busy = True
                return look(monotonic(), *args)
            finally:
                self._busy = False

    def wait_until(
        self, check: Callable[[float], T | None], topics: Sequence[Hashable], deadline: float | None
    ) -> T | None:
        """What ``check(now)`` returns as soon as that is not None, or None when ``deadline`` has passed.

        ``check`` is called under the lock at once and whenever one of ``topics`` was woken; looking and lining up
        for the next wake-up are one step under the lock.

        Args:
            deadline: ``time.monotonic()`` seconds, or None to wait for ever.
        """
        self.check_process()
        baton = Baton()

        def look(now: float) -> T | None:
            result = check(now)
            if result is None:
                self.topics.add(topics, baton)
            return result

        while True:
            try:
                result = self.run(look)
                remaining = None if deadline is None else deadline - monotonic()
                if result is not None or (remaining is not None and remaining <= 0):
                    return result
                self.lease.waive()
                baton.sleep(remaining)
            finally:
                self._forget(topics, baton)

    def read_until(self, check: Callable[[], T | None], deadline: float | None) -> T | None:
        """What ``check()`` returns as soon as that is not None; meanwhile this thread reads the socket itself.

        ``check`` is called without the lock, at once and whenever something was read or :meth:`Lease.nudge` was called.

        Args:
            deadline: ``time.monotonic()`` seconds, or None to wait for ever.

        Returns:
            None when the time is over or the driver stops, and at once if another thread of the application reads.
        """
        lease = self.lease
        if not lease.enter():
            return None
        try:
            now = entered = monotonic()
            source: Address | None = None
            waited = inf
            if self._notes or self._due <= now:
                self.run(self._see_to_timers)
            while (result := check()) is None and not self._stopping:
                now = monotonic()
                if deadline is not None and now >= deadline:
                    break
                if self._notes:
                    self.run(self._see_to_timers)
                    continue
                until = now if self._unread else now + LEASE / 2
                if deadline is not None and deadline < until:
                    until = deadline
                lease.looks_at = until
                due = self._due
                if due < until:
                    if due > now:
                        lease.looks_at = until = due
                    else:  # it has looked already, or will at once
                        self._hand_over()
                try:
                    awake = min(until - now, self._busy_poll.time_left(now - entered))
                    if awake > 0 and self._readers_poller.stay_awake(awake, self._busy_poll.on_held_up):
                        woken = False  # or the next time, for a nudge stays until it is cleared
                    else:
                        woken = self._readers_poller.until_readable(until - now)
                except (OSError, ValueError):
                    if self.stopped:  # the descriptors are closed
                        return None
                    raise
                lease.looks_at = -inf
                if woken:
                    self._nudge.clear()
                began, now = now, lease.renew()
                slept = now - began > _SLEPT
                if until == due <= now:
                    self.run(self._see_to_timers)
                with self._read_lock:
                    batches = self._read_one_or_more() if slept else self._read_burst()[0]
                    if batches:
                        source, waited = batches[0].source, now - entered
                        self._handle(batches, True, self._after_work, awaited=slept)
            self._busy_poll.on_waited(None if result is None else source, waited)
            return result
        except BaseException:
            lease.end()
            raise
        finally:
            lease.leave()
            if lease.looks_at == inf:  # else the receiver thread comes by soon
                self._hand_over()
                self._await_notes()
            if self._unread:
                self._wakeup.set()

    def _see_to_timers(self, now: float) -> None:
        """Under the lock, by others than the timer thread: what that would do. Notes are done before."""
        deadline = self.endpoint.next_timer()
        if deadline is not None and deadline <= now:
            try:
                self.endpoint.handle_timer(now)
            except Exception as error:
                self._faults.add("timer", error)

    def _hand_over(self) -> None:
        """From now on the timer thread keeps the endpoint's deadlines itself."""
        due = self._due
        if due < self._sleep_until:
            self._turn_by(due)

    def _forget(self, topics: Sequence[Hashable], baton: Baton) -> None:
        with self._lock:
            if not self._busy:  # else: a signal handler; a baton too many in the list is harmless
                self.topics.discard(topics, baton)

    def defer(self, work: Callable[[], None]) -> None:
        """Have the timer thread call ``work()`` without the lock. Takes no lock: for signal handlers and finalizers."""
        self._deferred.append(work)
        self._baton.wake()

    def spread(self, told: Callable[[float, str, int], None], wanted: SocketsWanted) -> None:
        """See :meth:`Runner.spread`."""
        self.defer(partial(self._spread, told, wanted))

    def _spread(self, told: Callable[[float, str, int], None], wanted: SocketsWanted) -> None:
        count, descriptor = spread(self.transport, wanted.remote, wanted.count, wanted.port)
        for poller in (self._poller, self._readers_poller):
            poller.watch_besides(descriptor)
        self._wakeup.set()
        self._nudge.set()
        if wanted.count > 1 or wanted.port:
            self.run(told, wanted.peer, count)

    def interrupted_here(self) -> bool:
        """True if this thread is at work here further down its stack: a signal handler asks."""
        with self._lock:
            if self._busy:
                return True
        try:
            return self._send_lock.acquire(blocking=False) and self._sending
        finally:
            try:
                self._send_lock.release()
            except RuntimeError:  # another thread's
                pass

    def is_own_thread(self) -> bool:
        """True if called by the receiver or the timer thread."""
        return threading.current_thread() in self._threads

    def _interrupted(self, error: BaseException) -> None:
        """Under the lock: ``error`` left a call to the endpoint half done."""
        self._give_up_half_done(error)
        self._turn_by(-inf)  # output that was made before the error is collected by the timer thread

    def _collect_first(self, now: float) -> None:
        """Under the lock: one batch at most, so that it leaves soon. :meth:`_transmit` collects the rest after it."""
        if not self._out and not self._blocked and not self._gathering.calls:
            self._more = self._late = True
            transmit = self.endpoint.poll_transmit(now)
            if transmit is not None:
                self._out.append(transmit)
                return
        self._collect(now)

    def _collect(self, now: float) -> None:
        """Under the lock: drain the endpoint in the order it asks for."""
        endpoint = self.endpoint
        self._gathering.calls = 0
        self._late = False
        if self._notes:
            self._do_notes(now)
        while (job := endpoint.next_job()) is not None:
            self._jobs.append(job)
        out = self._out
        self._more = True
        room = _BACKLOG - len(out)
        while room > 0:
            transmit = endpoint.poll_transmit(now)
            if transmit is None:
                self._more = False
                break
            out.append(transmit)
            room -= 1
        self._tell(now)
        deadline = endpoint.next_timer()
        due = inf if deadline is None else deadline
        if due != self._due:
            self._due = due
            if due < self._sleep_until:
                if due < now + _NEAR or due < self.lease.looks_at:
                    self._turn_by(due)
                elif due + 2 * _BACKUP < self._sleep_until:
                    self._turn_by(due + _BACKUP)

    # --- the way out ---

    def _transmit(self) -> bool:
        """Send what is queued, sealing more while the endpoint has it; the proof is in the module's docstring.

        Returns:
            True if this call has done its share and something is left for the receiver thread.
        """
        share = _SHARE
        while share > 0 and not self.stopped:
            if self._out and not self._blocked:
                try:
                    if not self._send_lock.acquire(blocking=False) or self._sending:
                        return False  # the holder looks again; or it is the frame below this signal handler
                    try:
                        self._sending = True
                        share = self._send(share)
                    finally:
                        self._sending = False
                except BaseException:
                    self._wakeup.set()
                    raise
                finally:
                    # An interrupt may strike between taking the lock and the next line, so no variable can tell: the
                    # lock itself knows whose it is. No Python function may be called before: entering one is another
                    # such moment.
                    try:
                        self._send_lock.release()
                    except RuntimeError:  # another thread's
                        pass
            elif self._more and (self._late or not self._blocked):
                with self._lock:
                    if self._busy or self.stopped:
                        return False
                    try:
                        self._busy = True
                        self._collect(monotonic())
                    except BaseException as error:
                        self._interrupted(error)
                        raise
                    finally:
                        self._busy = False
            else:
                return False
        return self._more or bool(self._out)

    def _send(self, share: int) -> int:
        """Under the send lock: at most ``share`` batches to the transport. Returns what is left of the share."""
        out, send_batch = self._out, self.transport.send_batch
        while out and share > 0 and not self.stopped:
            # Taken out first: an interrupt loses the batch, as a network may, and never sends it twice.
            payload, segment_size, destination, hops = transmit = out.popleft()
            sent = self._open(payload, destination, hops) if hops else send_batch(payload, segment_size, destination)
            share -= 1
            if sent < len(payload):
                out.appendleft(transmit._replace(payload=payload[sent:]))
                self._blocked = True
                self._wakeup.set()
                break
        return share

    def _run_jobs(self) -> None:
        """Key agreement, outside the lock, by the receiver and the timer thread only."""
        while self._jobs:
            try:
                job = self._jobs.popleft()
            except IndexError:  # the other thread was faster
                return
            try:
                job.run()
                with self._lock:
                    if self.stopped:
                        return
                    try:
                        self._busy = True
                        now = monotonic()
                        self.endpoint.finish_job(job, now)
                        self._collect(now)
                    finally:
                        self._busy = False
            except Exception as error:
                self._faults.add("job", error)
            self._transmit_by_thread()

    def _transmit_by_thread(self) -> None:
        """:meth:`_transmit` and all that follows it, on one of our own threads."""
        if self._transmit():
            self._wakeup.set()
        self._on_output()
        if self._faults:
            self._faults.log()

    # --- the receiver thread ---

    def _receive_loop(self) -> None:
        empty = 0
        while not self._stopping:
            try:
                away = self.lease.stand_by()
                if not away:
                    self._hand_over()
                    if self._notes:  # who made them has not come back
                        self.run(self._see_to_timers)
                limit = away or (0.0 if self._unread else None)
                woken, writable = self._poller.wait(reading=not away, writing=self._blocked, timeout=limit)
                if woken:
                    self._wakeup.clear()
                if writable:
                    self._blocked = False
                if woken or writable:
                    self._transmit_by_thread()
                if away or self.lease.lasts:
                    continue  # a thread of the application reads, or did a moment ago
                if self._read() or woken or writable:
                    empty = 0
                else:
                    empty += 1
                    if empty > _EMPTY_TURNS:
                        time.sleep(0.001)
            except SocketClosed:
                return
            except Exception as error:
                self._faults.add("receiver", error)
                self._faults.log()
                time.sleep(0.01)  # what fails at each turn must not take a core

    def _read(self) -> bool:
        """Read and handle all that has come. Returns whether anything had."""
        any_came = False
        while not self._stopping:
            with self._read_lock:
                batches, ended = self._read_burst()
                if not batches and not any_came:
                    return False
                any_came = True
                self._handle(batches, ended or self.lease.lasts, self._finish_round)
            if ended or self.lease.lasts:
                break
        return any_came

    def _read_burst(self) -> tuple[list[Batch], bool]:
        """What has come, as much as one turn takes, and whether that was all."""
        receive_batch = self.transport.receive_batch
        batches: list[Batch] = []
        self._unread = True
        while len(batches) < _BURST:
            batch = receive_batch()
            if batch is None:
                self._unread = False
                break
            batches.append(batch)
        return batches, not self._unread

    def _read_one_or_more(self) -> list[Batch]:
        """What has come while one slept: mostly one small datagram, and then it is not asked for more at once."""
        if self._receive_lone is None or self._unread:
            return self._read_burst()[0]
        self._unread = True
        batch = self._receive_lone()
        if batch is not None and len(batch.buffer) > _LONE:
            return [batch, *self._read_burst()[0]]
        self._unread = False
        return [] if batch is None else [batch]

    def _handle(self, batches: list[Batch], ended: bool, between: Callable[[], None], awaited: bool = False) -> None:
        """Feed ``batches`` to the endpoint, letting go of the lock every now and then to do what is ``between``.

        Args:
            awaited: whoever waits for what came is to have it first; what else comes of it is noted, if it may wait.
        """
        endpoint, index, count = self.endpoint, 0, len(batches)
        while True:
            with self._lock:
                if self.stopped:
                    return
                try:
                    self._busy = True
                    now = monotonic()
                    limit = now + _HOLD
                    self._gathering.on_arrival()
                    if self._notes:
                        self._do_notes(now)
                    while index < count and now < limit:
                        buffer, segment_size, source = batches[index]
                        index += 1
                        try:
                            endpoint.handle_batch(buffer, segment_size, source, now)
                        except Exception as error:
                            self._faults.add("batch", error)
                        if index < count:
                            now = monotonic()
                    if index == count and awaited and not endpoint.has_output:
                        self._tell(now)
                        self._notes.append((self._end_burst, now))
                    else:
                        if index == count and ended:
                            self._end_burst(now, now)
                        self._collect(now)
                except BaseException as error:
                    self._interrupted(error)
                    raise
                finally:
                    self._busy = False
            between()
            if index == count:
                return

    def _end_burst(self, now: float, came: float) -> None:
        """All has been read that had come by then: to be told the endpoint at once or, by way of a note, soon."""
        try:
            self.endpoint.handle_burst_end(came)
        except Exception as error:
            self._faults.add("burst", error)

    def _finish_round(self) -> None:
        self._transmit_by_thread()
        self._run_jobs()

    # --- the timer thread ---

    def _turn_by(self, deadline: float) -> None:
        """Have the timer thread take its turn at ``deadline``, earlier than it would.

        What it was woken for may be done before; it sleeps on till then all the same. So in a conversation, where each
        message brings a deadline that the next one takes away, it is woken once for many and not for each.
        """
        self._sleep_until = deadline  # first: it looks at this when it wakes up
        self._baton.wake()

    def _timer_loop(self) -> None:
        while not self._stopping:
            try:
                self._turn()
                self._transmit_by_thread()
                self._run_jobs()
                while self._deferred:
                    self._deferred.popleft()()
            except Exception as error:
                self._faults.add("timer", error)
                self._faults.log()
                self._due = inf
                self._sleep_until = monotonic() + 0.05  # an endpoint that fails at each turn must not take a core
            while not self._stopping:
                until, due = self._sleep_until, self._due
                if due < until and due < self.lease.looks_at:
                    until = due
                pause = None if until == inf else max(_TICK, min(self._surroundings.pause, until - monotonic()))
                woken = self._baton.sleep(pause)
                if not woken or self._sleep_until <= monotonic() or self._jobs or self._deferred:
                    break

    def _turn(self) -> None:
        """Let the endpoint see to what is due, and note when to do so again."""
        endpoint = self.endpoint
        self._surroundings.look()
        with self._lock:
            if self.stopped:
                return
            try:
                self._busy = True
                self._sleep_until = -inf  # awake: nobody needs to wake this thread
                now = monotonic()
                if self._notes:
                    self._do_notes(now)
                self._surroundings.tell(now)
                gathered, until = self._gathering.calls, self._gathering.until
                deadline = endpoint.next_timer()
                if deadline is not None and deadline <= now:
                    endpoint.handle_timer(now)
                    gathered = 0
                if not gathered or until <= now:
                    self._collect(now)
                deadline = endpoint.next_timer()
                self._due = due = inf if deadline is None else deadline
                sleep_until = due if due < now + _NEAR or due < self.lease.looks_at else due + _BACKUP
                if until + GATHER > now:  # many small messages are sent: no need to be woken for each handful
                    sleep_until = min(sleep_until, max(until, now + GATHER))
                # From here on an earlier deadline wakes this thread.
                self._sleep_until = sleep_until
                if self._notes:  # made since, by a thread that took this one for awake
                    self._sleep_until = min(self._sleep_until, now + _NOTE)
            finally:
                self._busy = False

    # --- the end ---

    def flush_output(self, limit: float) -> None:
        """Send what is queued, waiting up to ``limit`` seconds for room in the system's buffer."""
        deadline = monotonic() + limit
        # Also what another thread is sending counts: it would leave the rest to a driver that has stopped meanwhile.
        while self._transmit() or self._out:
            if monotonic() >= deadline:
                return
            time.sleep(0.001)  # that thread, or the receiver thread when there is room, sees to it

    def stop(self, limit: float = 5.0) -> bool:
        """End the threads, close the descriptors and refuse further calls. Idempotent.

        Args:
            limit: seconds the threads are waited for.

        Returns:
            False if a thread is still running: the calling one (it ends on return) or one that hangs.
        """
        self._stopping = True
        with self._lock:
            self.stopped = True
            self.topics.wake_all()
        self._wakeup.set()
        self._nudge.set()
        self._baton.wake()
        deadline = monotonic() + limit
        for thread in self._threads:
            if thread is not threading.current_thread() and thread.ident is not None:
                thread.join(max(0.0, deadline - monotonic()))
        self._wakeup.close()
        self._nudge.close()
        locked = self._send_lock.acquire(timeout=1.0)  # let a thread that is sending come to its end
        try:
            self._out.clear()
            self.transport.close()
        finally:
            if locked:
                self._send_lock.release()
        self._jobs.clear()
        while self._deferred:  # they find the socket closed and say so
            with contextlib.suppress(SocketClosed):
                self._deferred.popleft()()
        return not any(thread.is_alive() for thread in self._threads)

    def abandon(self) -> None:
        """In a child after ``fork``: give up keys and descriptors; takes no lock, seals nothing and sends nothing."""
        self.stopped = self._stopping = True
        self._wakeup.close()
        self._nudge.close()
        self.transport.close()
        del self.endpoint, self._surroundings
