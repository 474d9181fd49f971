"""One outgoing transfer: a thread that computes checksums and later one that sends, with a bounded number under way."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic, sleep
from typing import TYPE_CHECKING

from ..exceptions import DecodeError, QueueFull, SocketClosed, UnknownPeer
from .messages import CHANNEL, ID, Accept, Chunk, Code, Done, FileMessage, Stop, Unknown, encode
from .names import safe_name
from .outgoing import Outgoing
from .progress import OVER, Meter, Transfer, TransferState
from .source import Changed, Source
from .words import shown

if TYPE_CHECKING:
    from ..sockets.delivery import Delivery
    from .hub import Sock

PRIORITY = -10
"""Of the bytes of files: whatever else the program has to say goes first."""
WINDOW = 24
"""Chunks that are under way, not yet taken by the receiver, at most."""
MAX_TURNS = 1000
"""Times a receiver may have us begin anew."""
_PATIENCE = 0.5
"""Seconds between looks at whether anybody told us to stop."""


class Sending:
    """Offers ``path`` to ``peer`` and brings it over. Thread-safe.

    Args:
        changed: called when the state changed, with no lock held.
        max_rate: bytes a second, at most.
    """

    def __init__(
        self,
        number: int,
        peer: str,
        path: str,
        sock: Sock,
        changed: Callable[[Sending], None],
        max_rate: float | None = None,
    ) -> None:
        self.number = number
        self.peer = peer
        self.id = os.urandom(ID)
        self._source = Source(path)
        self._sock = sock
        self._changed = changed
        self._max_rate = max_rate
        self._lock = threading.Lock()
        self._state = TransferState.PREPARING
        self._reason = ""
        self._core: Outgoing | None = None
        self._run = 0  # a thread of an earlier run ends when it sees another number
        self._turns = 0
        self._done = 0
        self._resumed = 0
        self._meter = Meter()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Compute the checksums and make the offer, in the background."""
        self._spawn(self._prepare)

    @property
    def is_over(self) -> bool:
        """True once nothing more will happen."""
        return self._state in OVER

    def snapshot(self) -> Transfer:
        """How it stands."""
        source, done = self._source, self._done
        rate = self._meter.rate(done, monotonic()) if self._state is TransferState.MOVING else 0.0
        return Transfer(
            *(self.number, self.peer, True, safe_name(source.name), source.is_folder, source.files, source.size),
            *(done, self._resumed, rate, self._state, self._reason, source.path),
        )

    # --- what the receiver says ---

    def handle(self, message: FileMessage) -> None:
        """An answer of the receiver's.

        Raises:
            DecodeError: it makes no sense.
        """
        if isinstance(message, Accept | Unknown):
            self._turns += 1
            if self._turns > MAX_TURNS:
                self.stop(TransferState.FAILED, "the receiver begins anew without end", Code.FAULT)
        if isinstance(message, Accept):
            with self._lock:
                if self._core is None or self.is_over or not self._core.accept(message):
                    return
                self._resumed = self._done = sum(have.offset for have in message.have)
            self._set(TransferState.MOVING)
            self._spawn(self._send)
        elif isinstance(message, Done):
            self._done = self._source.size
            self._set(TransferState.DONE)
        elif isinstance(message, Stop):
            refused = message.code in (Code.REFUSED, Code.NO_ROOM, Code.TOO_MANY)
            states = {True: TransferState.REFUSED, False: TransferState.FAILED}
            state = TransferState.CANCELLED if message.code is Code.CANCELLED else states[refused]
            self._set(state, f"{self.peer}: {shown(message.reason) or message.code.name.lower()}")
        else:
            self.offer_again(forgotten=True)

    def offer_again(self, *, forgotten: bool = False) -> None:
        """The receiver came back, or says that it knows nothing of this (``forgotten``)."""
        with self._lock:
            core = self._core
            if core is None or self.is_over:
                return
        if not forgotten:
            self._post(encode(core.offer), 0)
        elif self._set(TransferState.OFFERED):
            self._spawn(lambda run: self._post(encode(core.offer)))

    def stop(self, state: TransferState, reason: str, code: Code | None) -> None:
        """End it, and tell the receiver ``code`` if there is one."""
        if self._set(state, reason) and code is not None:
            self._post(encode(Stop(self.id, code, reason)), 0)

    def join(self) -> None:
        """Wait for the threads, which must have been told to stop."""
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    # --- the threads ---

    def _spawn(self, work: Callable[[int], None]) -> None:
        with self._lock:
            self._run += 1
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            thread = threading.Thread(target=self._guard, args=(work, self._run), name="srmudp-files", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _guard(self, work: Callable[[int], None], run: int) -> None:
        try:
            work(run)
        except InterruptedError:
            pass
        except (UnknownPeer, SocketClosed):
            self._set(TransferState.FAILED, "the peer was removed, or the socket closed")
        except (Changed, DecodeError, ValueError) as error:
            self.stop(TransferState.FAILED, shown(str(error)), Code.CHANGED)
        except OSError as error:
            self.stop(TransferState.FAILED, shown(error.strerror or str(error)), Code.FAULT)

    def _goes_on(self, run: int) -> bool:
        return run == self._run and not self.is_over

    def _prepare(self, run: int) -> None:
        offer = self._source.offer(self.id, lambda: self._goes_on(run))
        with self._lock:
            self._core = Outgoing(offer)
        self._set(TransferState.OFFERED)
        self._post(encode(offer))

    def _send(self, run: int) -> None:
        core, under_way = self._core, deque[tuple["Delivery", int]]()
        assert core is not None
        begun, queued = monotonic(), 0

        def go_on() -> bool:
            return self._goes_on(run)

        def settle() -> None:
            delivery, size = under_way.popleft()
            while not delivery.wait(_PATIENCE):
                if not go_on():
                    raise InterruptedError("stopped")
                if delivery.failed:
                    raise OSError(f"not delivered: {next(iter(delivery.failed.values()))}")
            if go_on():
                self._done += size
                self._meter.note(self._done, monotonic())

        for part in core.parts():
            index, have, start = part.index, part.have, 0
            if have is not None:
                start = have.offset
                if not self._source.begins_with(index, start, have.sha256, go_on):
                    self._done -= start
                    self._resumed -= start
                    start = 0
            for offset, block in self._source.blocks(index, start):
                if not go_on():
                    return
                chunk = encode(Chunk(self.id, core.attempt, index, offset, block))
                under_way.append((self._queue(chunk, go_on), len(block)))
                while under_way and (len(under_way) >= WINDOW or not under_way[0][0].pending):
                    settle()
                queued += len(block)
                while self._max_rate and (early := begun + queued / self._max_rate - monotonic()) > 0 and go_on():
                    sleep(min(early, _PATIENCE))
        while under_way:
            settle()

    def _queue(self, data: bytes, go_on: Callable[[], bool]) -> Delivery:
        while go_on():
            try:
                return self._sock.send(data, self.peer, channel=CHANNEL, priority=PRIORITY, timeout=_PATIENCE)
            except QueueFull:
                pass
        raise InterruptedError("stopped")

    def _post(self, data: bytes, timeout: float | None = None) -> None:
        """Send ``data``; ``timeout`` 0 leaves it if there is no room."""
        try:
            self._sock.send(data, self.peer, channel=CHANNEL, timeout=timeout)
        except (UnknownPeer, SocketClosed) as error:
            self._set(TransferState.FAILED, shown(str(error)))
        except QueueFull:
            if timeout is None:
                self._set(TransferState.FAILED, "too much waits to be sent already")

    def _set(self, state: TransferState, reason: str = "") -> bool:
        with self._lock:
            if self.is_over:
                return False
            self._state, self._reason = state, reason
        self._changed(self)
        return True
