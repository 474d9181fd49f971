"""All file transfers of one socket: :class:`FileTransfers`. It tells them apart, bounds them, and asks the application.

Threads: one for each transfer while it computes checksums, sends, or finishes a file; one that tells the application
what changed, so that it may call back, or take its time, without holding anything up.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from time import monotonic
from typing import Protocol

from ..exceptions import DecodeError, QueueFull, SocketClosed, UnknownPeer
from ..models import EventKind, Message, PeerEvent, PeerId
from ..sockets.delivery import Delivery
from .folder import Folder
from .messages import CHANNEL, Accept, Chunk, Code, Done, FileMessage, Offer, Stop, Unknown, decode, encode
from .progress import Transfer, TransferState
from .receiver import Receiving
from .sender import Sending

__all__ = ["FileTransfers"]

log = logging.getLogger("srmudp.files")

MAX_QUESTIONS = 3
"""Offers of one peer that wait for an answer."""
MAX_ALL_QUESTIONS = 32
"""Of all peers together."""
MAX_MOVING = 8
"""Transfers that come from one peer at the same time."""
MAX_KEPT = 100
"""Finished transfers that are remembered."""
_BURST = 20.0
_REFILL = 1 / 3
"""Offers of one peer at once, and a second; more are not even answered."""
_MAX_BUCKETS = 1024
_MAX_ASKED = 256


class Sock(Protocol):
    """What is needed of a socket."""

    def send(
        self,
        data: bytes,
        recipient: str | Iterable[str] | None = None,
        *,
        channel: int = 0,
        timeout: float | None = None,
        priority: int = 0,
    ) -> Delivery: ...
    def on_event(self, hook: Callable[[PeerEvent], object], /) -> object: ...
    def off_event(self, hook: Callable[[PeerEvent], object], /) -> None: ...


class FileTransfers:
    """Sends files and folders to peers of a socket, and receives them into one folder. Thread-safe.

    Args:
        sock: a ``MultiHolepunchSocket``. Its channel 40 is used; close it after this.
        folder: where received files go. Made when the first is accepted.
        on_change: called with a :class:`Transfer` whenever the state of one changed, in order, on a thread of its own.
            It may call everything here. Progress within ``MOVING`` is not told: look at :attr:`transfers`.
        max_size: bytes of the largest offer that is shown at all; None for what the disk can take.
        max_rate: bytes a second of each transfer that we send; None for what the network bears.

    Example::

        def changed(transfer):
            if transfer.state is TransferState.OFFERED and not transfer.outgoing:
                print(f"{transfer.peer} offers {transfer.name}, {transfer.size} bytes: /accept {transfer.number}")
            elif transfer.is_over:
                print(transfer.name, transfer.state.value, transfer.reason, transfer.path)

        files = FileTransfers(sock, "Downloads", on_change=changed)
        sock.register_message_hook(lambda message: files.handle(message) or show(message))
        files.send("bob", "holiday.mp4")                # at the prompt: /send
        files.accept(1)                                 # /accept 1
        for transfer in files.transfers:                # for a progress bar, some times a second
            print(transfer.name, transfer.fraction, transfer.rate, transfer.remaining)
        files.close()
        sock.close()
    """

    def __init__(
        self,
        sock: Sock,
        folder: str,
        *,
        on_change: Callable[[Transfer], object] | None = None,
        max_size: int | None = None,
        max_rate: float | None = None,
    ) -> None:
        self._sock = sock
        self._folder = Folder(folder)
        self._on_change = on_change
        self._max_size = max_size
        self._max_rate = max_rate
        self._lock = threading.Lock()
        self._next = 1
        self._outgoing: OrderedDict[int, Sending] = OrderedDict()
        self._incoming: OrderedDict[int, Receiving] = OrderedDict()
        self._buckets: OrderedDict[PeerId, tuple[float, float]] = OrderedDict()
        self._asked: OrderedDict[tuple[PeerId, bytes], None] = OrderedDict()
        self._drops: Counter[str] = Counter()
        self._closed = False
        self._news: SimpleQueue[Transfer | None] = SimpleQueue()
        self._order = threading.Lock()
        self._teller: threading.Thread | None = None
        if on_change is not None:
            self._teller = threading.Thread(target=self._tell, name="srmudp-files-news", daemon=True)
            self._teller.start()
        self._on_event = self._handle_event
        sock.on_event(self._on_event)

    # --- for the application ---

    def send(self, peer: str, path: str) -> Transfer:
        """Offer a file or folder. Checksums are computed and all the rest happens in the background.

        Raises:
            OSError: it cannot be read.
            ValueError: neither a file nor a folder.
            SocketClosed: this was closed.
        """
        with self._lock:
            number = self._next
            self._next += 1
        sending = Sending(number, peer, path, self._sock, self._changed, self._max_rate)
        with self._lock:
            if self._closed:
                raise SocketClosed("file transfers were closed")
            self._outgoing[number] = sending
            _forget(self._outgoing)
        snapshot = sending.snapshot()
        sending.start()
        return snapshot

    def accept(self, number: int) -> bool:
        """Take what is offered. False if that is no open question."""
        receiving = self._incoming.get(number)
        return receiving is not None and receiving.accept()

    def reject(self, number: int, reason: str = "no, thank you") -> bool:
        """Refuse what is offered. False if that is no open question."""
        receiving = self._incoming.get(number)
        if receiving is None or receiving.state is not TransferState.OFFERED:
            return False
        return receiving.stop(TransferState.REFUSED, reason, Code.REFUSED, keep=False)

    def cancel(self, number: int) -> bool:
        """Give up a transfer, in either direction; what has come of it is removed. False if it is over already."""
        if (sending := self._outgoing.get(number)) is not None:
            if sending.is_over:
                return False
            sending.stop(TransferState.CANCELLED, "cancelled here", Code.CANCELLED)
            return True
        receiving = self._incoming.get(number)
        return receiving is not None and receiving.stop(
            TransferState.CANCELLED, "cancelled by the receiver", Code.CANCELLED, keep=False
        )

    @property
    def transfers(self) -> tuple[Transfer, ...]:
        """All of them as they stand, oldest first; finished ones are forgotten after a hundred others."""
        with self._lock:
            every: dict[int, Sending | Receiving] = {**self._outgoing, **self._incoming}
        return tuple(every[number].snapshot() for number in sorted(every))

    def transfer(self, number: int) -> Transfer | None:
        """One of them, or None."""
        with self._lock:
            found = self._outgoing.get(number) or self._incoming.get(number)
        return None if found is None else found.snapshot()

    @property
    def drops(self) -> dict[str, int]:
        """Why messages were ignored, with a count of each reason."""
        return dict(self._drops)

    def handle(self, message: Message) -> bool:
        """Give it every message the socket receives. True if it was one of ours; the application then ignores it.

        Bytes of files are written to disk before this returns, so a slow disk slows its senders down.
        """
        if message.channel != CHANNEL:
            return False
        if message.peer_id is None or self._closed:
            self._drops["not authenticated" if message.peer_id is None else "closed"] += 1
            return True
        try:
            decoded = decode(message.content)
            if isinstance(decoded, Offer):
                self._offered(message.peer, message.peer_id, decoded)
            else:
                self._route(message.peer, message.peer_id, decoded)
        except DecodeError as error:
            self._drops["malformed"] += 1
            log.debug("! from %s: %s", message.peer, error)
        return True

    def close(self) -> None:
        """Stop everything, leaving what can be resumed for another time. Idempotent. Tells the peers nothing."""
        with self._lock:
            self._closed = True
            outgoing, incoming = list(self._outgoing.values()), list(self._incoming.values())
        for sending in outgoing:
            sending.stop(TransferState.FAILED, "closed", None)
        for receiving in incoming:
            receiving.stop(TransferState.FAILED, "closed", None, keep=True)
        for sending in outgoing:
            sending.join()
        for receiving in incoming:
            receiving.join()
        try:
            self._sock.off_event(self._on_event)
        except (ValueError, SocketClosed):
            pass
        self._news.put(None)
        if self._teller is not None and self._teller is not threading.current_thread():
            self._teller.join()

    # --- from the socket ---

    def _route(self, peer: str, peer_id: PeerId, message: FileMessage) -> None:
        if isinstance(message, Chunk):
            receiving = self._find(peer_id, message.id)
            if receiving is not None:
                receiving.handle(message)
            elif self._first_time(peer_id, message.id):
                self._answer(peer, Unknown(message.id))
            return
        with self._lock:
            sending = next((s for s in self._outgoing.values() if s.id == message.id and s.peer == peer), None)
        if sending is not None and isinstance(message, Accept | Done | Stop | Unknown):
            sending.handle(message)
        elif isinstance(message, Stop):
            receiving = self._find(peer_id, message.id)
            if receiving is not None:
                receiving.handle(message)
        else:
            self._drops["unknown transfer"] += 1

    def _offered(self, peer: str, peer_id: PeerId, offer: Offer) -> None:
        known = self._find(peer_id, offer.id)
        if known is not None and self._repeat(peer, known):
            return
        if not self._allowed(peer_id, monotonic()):
            self._drops["too many offers"] += 1
            return
        digest = offer.digest
        with self._lock:
            if self._closed:
                return
            theirs = [r for r in self._incoming.values() if r.peer_id == peer_id and not r.is_over]
            same = next((r for r in theirs if r.digest == digest), None)
            waiting = [r for r in self._incoming.values() if r.state is TransferState.OFFERED]
            refusal = None
            if self._max_size is not None and offer.size > self._max_size:
                refusal = Stop(offer.id, Code.NO_ROOM, f"at most {self._max_size:,} bytes are taken here")
            elif same is None and (
                sum(r.peer_id == peer_id for r in waiting) >= MAX_QUESTIONS or len(waiting) >= MAX_ALL_QUESTIONS
            ):
                refusal = Stop(offer.id, Code.TOO_MANY, "too many offers wait for an answer")
            elif same is None and len(theirs) >= MAX_MOVING:
                refusal = Stop(offer.id, Code.TOO_MANY, f"at most {MAX_MOVING} transfers at a time")
            elif same is None:
                new = Receiving(self._next, peer, peer_id, offer, self._folder, self._sock, self._changed)
                self._next += 1
                self._incoming[new.number] = new
                _forget(self._incoming)
        if refusal is not None:
            self._drops["refused"] += 1
            self._answer(peer, refusal)
        elif same is not None:
            same.offered_again(peer, offer)
        elif (note := self._folder.note_of(offer)) is not None and note.peer == str(peer_id):
            new.accept()  # the application said yes to this before
        else:
            self._changed(new)

    def _repeat(self, peer: str, known: Receiving) -> bool:
        """An offer that was made before. True if that is all there is to it."""
        if known.state is TransferState.DONE:
            self._answer(peer, Done(known.offer.id))
        elif known.state in (TransferState.REFUSED, TransferState.CANCELLED):
            self._answer(peer, Stop(known.offer.id, Code.REFUSED, known.snapshot().reason))
        elif known.is_over:
            with self._lock:
                self._incoming.pop(known.number, None)
            return False
        else:
            known.offered_again(peer, known.offer)
        return True

    def _find(self, peer_id: PeerId, id_: bytes) -> Receiving | None:
        with self._lock:
            return next((r for r in self._incoming.values() if r.peer_id == peer_id and r.offer.id == id_), None)

    def _allowed(self, peer_id: PeerId, now: float) -> bool:
        """A token bucket for each key."""
        tokens, then = self._buckets.pop(peer_id, (_BURST, now))
        tokens = min(_BURST, tokens + (now - then) * _REFILL)
        self._buckets[peer_id] = (max(0.0, tokens - 1), now)
        while len(self._buckets) > _MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return tokens >= 1

    def _first_time(self, peer_id: PeerId, id_: bytes) -> bool:
        if (peer_id, id_) in self._asked:
            return False
        self._asked[peer_id, id_] = None
        while len(self._asked) > _MAX_ASKED:
            self._asked.popitem(last=False)
        return True

    def _answer(self, peer: str, message: FileMessage) -> None:
        try:
            self._sock.send(encode(message), peer, channel=CHANNEL, timeout=0)
        except (UnknownPeer, SocketClosed, QueueFull):
            self._drops["answer not sent"] += 1

    def _handle_event(self, event: PeerEvent) -> None:
        with self._lock:
            outgoing = [s for s in self._outgoing.values() if s.peer == event.peer]
            incoming = [r for r in self._incoming.values() if r.peer == event.peer]
        if event.kind in (EventKind.CONNECTED, EventKind.RECONNECTED):
            for sending in outgoing:
                sending.offer_again()
        elif event.kind in (EventKind.REMOVED, EventKind.PEER_CHANGED):
            reason = "the peer was removed" if event.kind is EventKind.REMOVED else "the name has another key now"
            for sending in outgoing:
                sending.stop(TransferState.FAILED, reason, None)
            for receiving in incoming:
                receiving.stop(TransferState.FAILED, reason, None, keep=True)

    # --- to the application ---

    def _changed(self, record: Sending | Receiving) -> None:
        if self._on_change is not None:
            with self._order:  # what is told later is not older
                self._news.put(record.snapshot())

    def _tell(self) -> None:
        assert self._on_change is not None
        while (transfer := self._news.get()) is not None:
            try:
                self._on_change(transfer)
            except Exception:
                log.exception("! on_change raised; the next change is still told")


def _forget(records: OrderedDict[int, Sending] | OrderedDict[int, Receiving]) -> None:
    """Drop the oldest of those that are over, if there are many."""
    over = deque(number for number, record in records.items() if record.is_over)
    while len(over) > MAX_KEPT:
        del records[over.popleft()]
