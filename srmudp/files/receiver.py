"""One incoming transfer: the question, what was there before, chunks to disk, the final name."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING

from ..exceptions import DecodeError, QueueFull, SocketClosed, UnknownPeer
from ..models import PeerId
from .folder import Folder, Partial
from .incoming import Incoming
from .messages import CHANNEL, Chunk, Code, Done, FileMessage, Offer, Stop, encode
from .names import safe_name
from .progress import OVER, Meter, Transfer, TransferState
from .words import shown

if TYPE_CHECKING:
    from .hub import Sock


class Receiving:
    """What ``peer`` offered. Thread-safe; chunks are written in the thread that hands them over.

    Args:
        changed: called when the state changed, with no lock held.
    """

    def __init__(
        self,
        number: int,
        peer: str,
        peer_id: PeerId,
        offer: Offer,
        folder: Folder,
        sock: Sock,
        changed: Callable[[Receiving], None],
    ) -> None:
        self.number = number
        self.peer = peer
        self.peer_id = peer_id
        self.offer = offer
        self.digest = offer.digest  # of a large offer it takes long to compute
        self._folder = folder
        self._sock = sock
        self._changed = changed
        self._what = (safe_name(offer.name), offer.is_folder, len(offer.entries), offer.size)
        self._core = Incoming(offer)
        self._lock = threading.RLock()  # also for what is on disk
        self._state = TransferState.OFFERED
        self._reason = ""
        self._path = ""
        self._partial: Partial | None = None
        self._meter = Meter()
        self._threads: list[threading.Thread] = []
        self._again = False
        self._keep = True

    @property
    def state(self) -> TransferState:
        """Where it stands."""
        return self._state

    @property
    def is_over(self) -> bool:
        """True once nothing more will happen."""
        return self._state in OVER

    def snapshot(self) -> Transfer:
        """How it stands."""
        core = self._core
        rate = self._meter.rate(core.received, monotonic()) if self._state is TransferState.MOVING else 0.0
        return Transfer(
            *(self.number, self.peer, False, *self._what),
            *(core.received, core.resumed, rate, self._state, self._reason, self._path),
        )

    # --- the application ---

    def accept(self) -> bool:
        """Say yes; what follows happens in the background. False if there is no open question."""
        with self._lock:
            if self._state is not TransferState.OFFERED:
                return False
            self._state = TransferState.PREPARING
        self._changed(self)
        self._spawn(self._prepare)
        return True

    def stop(self, state: TransferState, reason: str, code: Code | None, *, keep: bool) -> bool:
        """End it.

        Args:
            code: what to tell the sender, if anything.
            keep: leave what has come for another time.
        """
        with self._lock:
            if self.is_over:
                return False
            busy = self._state in (TransferState.PREPARING, TransferState.FINISHING)
            self._state, self._reason, self._keep = state, shown(reason), keep
            if not busy:  # else the thread that works on the disk does it
                self._release()
        if code is not None:
            self._post(Stop(self.offer.id, code, reason), 0)
        self._changed(self)
        return True

    def join(self) -> None:
        """Wait for the threads, which must have been told to stop."""
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    # --- the sender ---

    def offered_again(self, peer: str, offer: Offer) -> None:
        """The same content is offered by the same key, by a program that was restarted or is connected again."""
        with self._lock:
            self.peer = peer
            if offer.id == self.offer.id or self.is_over:
                return
            self._post(Stop(self.offer.id, Code.CANCELLED, "the same was offered again"), 0)
            self.offer = offer
            if self._state is not TransferState.MOVING:
                self._again = True  # whoever is at work answers this one
                return
            self._state = TransferState.PREPARING
        self._changed(self)
        self._spawn(self._prepare)

    def handle(self, message: FileMessage) -> None:
        """A chunk, or the sender's word that it gives up.

        Raises:
            DecodeError: it makes no sense.
        """
        if isinstance(message, Stop):
            code_words = message.reason or message.code.name.lower()
            state = TransferState.CANCELLED if message.code is Code.CANCELLED else TransferState.FAILED
            self.stop(state, f"{self.peer}: {code_words}", None, keep=False)
        elif isinstance(message, Chunk):
            self._take(message)
        else:
            raise DecodeError("that is not a sender's to say")

    def _take(self, chunk: Chunk) -> None:
        try:
            with self._lock:
                if self._state is not TransferState.MOVING:
                    return
                partial = self._partial
                assert partial is not None
                write = self._core.handle(chunk)
                if write is None:
                    return
                partial.write(write.index, write.offset, write.data)
                self._meter.note(self._core.received, monotonic())
                if write.completes and not partial.verify(write.index):
                    self._fail("what came is not what was offered: the checksum is wrong", Code.DAMAGED, keep=False)
                    return
                if not self._core.is_complete:
                    return
                self._state = TransferState.FINISHING
        except DecodeError as error:
            self._fail(str(error), Code.FAULT, keep=False)
            return
        except OSError as error:
            self._fail(error.strerror or str(error), _code_of(error), keep=True)
            return
        self._changed(self)
        self._spawn(self._finish)

    # --- the threads ---

    def _spawn(self, work: Callable[[], None]) -> None:
        with self._lock:
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            thread = threading.Thread(target=self._guard, args=(work,), name="srmudp-files", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except InterruptedError:
            pass
        except OSError as error:
            self._fail(error.strerror or str(error), _code_of(error), keep=True)
        with self._lock:
            if self.is_over:
                self._release()

    def _prepare(self) -> None:
        """Look at what is there and ask for the rest. Only this thread touches the disk meanwhile."""
        while True:
            with self._lock:
                self._again, offer = False, self.offer
                if self._partial is not None:
                    self._partial.close()
                    self._partial = None
            self._partial = partial = self._folder.open(offer, str(self.peer_id))
            have = partial.have(lambda: self._state is TransferState.PREPARING)
            self._folder.check_room(offer.size - sum(part.offset for part in have))
            with self._lock:
                if self._state is not TransferState.PREPARING:
                    return
                if self._again:
                    continue
                answer = self._core.begin(offer, have, int.from_bytes(os.urandom(4), "big"))
                self._meter = Meter()
                complete = self._core.is_complete
                self._state = TransferState.FINISHING if complete else TransferState.MOVING
            self._changed(self)
            if complete:
                self._finish()
            else:
                self._post(answer)
            return

    def _finish(self) -> None:
        partial = self._partial
        assert partial is not None
        path = partial.finish(lambda: self._state is TransferState.FINISHING)
        with self._lock:
            self._path, self._partial = path, None  # whatever was said meanwhile: it is there
            self._state, self._reason = TransferState.DONE, ""
            self._release()
        self._post(Done(self.offer.id))
        self._changed(self)

    def _fail(self, reason: str, code: Code, *, keep: bool) -> None:
        self.stop(TransferState.FAILED, reason, code, keep=keep)

    def _release(self) -> None:
        """Leave the disk alone from now on, and forget what takes memory. It is over, under the lock."""
        self.offer = self._core.offer = replace(self.offer, entries=())
        partial, self._partial = self._partial, None
        if partial is None:
            return
        if self._keep:
            partial.close()
        else:
            partial.discard()

    def _post(self, message: FileMessage, timeout: float | None = None) -> None:
        try:
            self._sock.send(encode(message), self.peer, channel=CHANNEL, timeout=timeout)
        except (UnknownPeer, SocketClosed, QueueFull):
            pass  # it will ask again, or is gone


def _code_of(error: OSError) -> Code:
    return Code.NO_ROOM if error.errno in (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", -1)) else Code.FAULT
