"""A chat in operation: the socket, the files of its identity, and the queue through which everything reaches the
conversation, one thing at a time."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from .. import (
    Address,
    Config,
    IdentityError,
    Message,
    MultiHolepunchSocket,
    PeerEvent,
    PeerId,
    PublicAddress,
    SrmudpError,
)
from ..config import STUN_SERVERS
from ..files import FileTransfers, Transfer
from ..sockets.addresses import check_name
from . import answers, book, places
from .book import Book
from .conversation import Accept, Conversation
from .inviting import Purpose
from .lines import Kind, Line

_MIB: Final = 1024 * 1024
CONFIG: Final = Config(
    max_message_size=2 * _MIB,
    channel_window=2 * _MIB,
    connection_window=4 * _MIB,
    receive_budget=16 * _MIB,
    max_strangers=64,
)
"""A hostile peer may fill a window with small messages: smaller ones than the default."""
_AHEAD: Final = 64
"""Messages of one peer that wait for the conversation at most; the others wait with their sender."""
_FLOOD_SECONDS: Final = 3.0
_GOODBYE: Final = 5.0
"""Seconds that what was not delivered may take when the user leaves."""
_SHORT_GOODBYE: Final = 0.5
"""The same when nothing of the user's is among it."""

Work = Callable[[], list[Line]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line says, with its defaults filled in.

    Attributes:
        downloads: folder that files are received into.
        rate: messages a second that are read of one peer, on average; None means as many as come.
        guard: see :class:`Conversation`.
        add: peers to be added by address or invite.
        invite: begin with an invite, for this nick; empty for anybody, None for none.
        servers: STUN servers that are asked where our address is wanted; empty for public ones.
        discover: False asks none.
    """

    nick: str
    port: int = 0
    config: str | None = None
    identity: str | None = None
    accept: Accept = Accept.ASK
    verbose: bool = False
    downloads: str | None = None
    rate: float | None = None
    guard: float = 1.0
    add: Mapping[str, book.Entry] = field(default_factory=dict, repr=False)
    invite: str | None = None
    servers: tuple[str, ...] = ()
    discover: bool = True


class Intake:
    """Takes the socket's messages, of each peer no more than can be read. The others wait where they are: flow control
    stops their sender, and nobody else. Nothing is lost. A hook of the socket: called on its hook thread."""

    def __init__(
        self,
        put: Callable[[Message], None],
        is_other: Callable[[Message], bool],
        rate: float | None,
        flooded: Callable[[str], None],
    ) -> None:
        self._put = put
        self._is_other = is_other
        self._rate = rate
        self._flooded = flooded
        self._waiting: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._credit: dict[str, tuple[float, float]] = {}  # peer to what is left of its burst, and when that was
        self._stopped: dict[str, float] = {}  # peer to since when it is stopped again and again
        self._told: dict[str, float] = {}

    def put_nowait(self, message: Message) -> None:
        """Take one.

        Raises:
            queue.Full: not now; the socket asks again.
        """
        if self._is_other(message):
            return
        peer, now = message.peer, monotonic()
        if self._waiting[peer] >= _AHEAD or not self._may(peer, now):
            since = self._stopped.setdefault(peer, now)
            if now - since > _FLOOD_SECONDS and now - self._told.get(peer, -1e9) > 60:
                self._told[peer] = now
                self._flooded(peer)
            raise queue.Full
        with self._lock:
            self._waiting[peer] += 1
        self._put(message)

    def done(self, peer: str) -> None:
        """The conversation has one of them."""
        with self._lock:
            self._waiting[peer] -= 1
            if self._waiting[peer] <= 0:
                del self._waiting[peer]

    def _may(self, peer: str, now: float) -> bool:
        if self._rate is None:
            return True
        burst = 5 * self._rate
        left, at = self._credit.get(peer, (burst, now))
        left = min(burst, left + (now - at) * self._rate)
        if left > burst / 2:
            self._stopped.pop(peer, None)
        may = left >= 1
        self._credit[peer] = (left - 1 if may else left), now
        if len(self._credit) > 1000:
            self._credit.clear()
        return may


class LogLines(logging.Handler):
    """Shows what the library logs as lines of the conversation."""

    def __init__(self, session: Session) -> None:
        super().__init__(logging.INFO)
        self._session = session

    def emit(self, record: logging.LogRecord) -> None:
        """From any thread."""
        self._session.say(Kind.NOTE, record.getMessage())


class Session:
    """One running chat. :meth:`close` it.

    Args:
        options: what the user wants.
        wake: called from any thread when :meth:`work` has something to do.

    Raises:
        IdentityError: an identity cannot be used, or another chat uses it.
        ValueError: the nick or a file of peers is malformed.
        OSError: the port is taken.
    """

    def __init__(self, options: Options, wake: Callable[[], None] = lambda: None) -> None:
        self.options = options
        self.wake = wake
        self._queue: queue.SimpleQueue[Work] = queue.SimpleQueue()
        check_name(options.nick, "nick")
        entries = {} if options.config is None else _read_config(options.config)
        self._lock, identity, book_path = _claim(options)
        try:
            self.book = _open_book(book_path)
            self.sock = MultiHolepunchSocket(
                options.port, name=options.nick, identity=identity, accept=self._accept, config=CONFIG
            )
        except BaseException:
            self._lock.release()
            raise
        self.files = FileTransfers(self.sock, options.downloads or places.downloads(), on_change=self._on_transfer)
        self.chat = Conversation(
            self.sock,
            options.nick,
            self.book,
            self.files,
            accept=options.accept,
            addresses=lambda: places.own_addresses(self.sock.port),
            discover=self._discover,
            ask=self._ask,
            guard=options.guard,
            verbose=options.verbose,
        )
        self._told_to_ask = False  # public servers, by a command
        self.sock.on_event(self._on_event)
        self._intake = Intake(self._put_message, self.files.handle, options.rate, self._flooded)
        self.sock.register_message_hook(self._intake)
        self.put(self.chat.greeting)
        if options.config is not None:
            self.put(lambda: self._load(entries, str(options.config)))
        if options.add:
            self.put(self._add)
        if options.invite is not None:
            self.put(lambda: self.chat.typed(f"/invite {options.invite}"))

    def _load(self, entries: dict[str, book.Entry], path: str) -> list[Line]:
        answers.load(self.chat, entries, path)
        return self.chat.tick()

    def _add(self) -> list[Line]:
        lines: list[Line] = []
        for name, entry in self.options.add.items():
            lines += self.chat.typed(f'/add "{name}" {entry.invite or entry.addresses[0]}')
        return lines

    # --- from any thread ---

    def put(self, work: Work) -> None:
        """Have this done in :meth:`work`."""
        self._queue.put(work)
        self.wake()

    def say(self, kind: Kind, text: str) -> None:
        """Show a line."""
        self.put(lambda: [Line(kind, text, when=self.chat.wall())])

    def _accept(self, peer_id: PeerId, claimed: str, address: Address) -> bool | None:
        verdict = self.chat.verdict(peer_id, claimed, address)
        if verdict is None:
            self.put(lambda: self.chat.ask_about(peer_id, claimed, address))
        return verdict

    def _on_event(self, event: PeerEvent) -> None:
        self.put(lambda: self.chat.happened(event))

    def _on_transfer(self, transfer: Transfer) -> None:
        self.put(lambda: self.chat.transferred(transfer))

    def _discover(self, server: str | None) -> None:
        self._told_to_ask = True
        self._look(self.chat.seen_at, [server] if server else list(self.options.servers) or None)

    def _ask(self, purpose: Purpose) -> str | None:
        servers = list(self.options.servers)
        if not self.options.discover:
            self.put(lambda: self.chat.asked(None, purpose))
            return ""
        if not purpose.is_answer:
            self._told_to_ask = True
        elif not servers and not self._told_to_ask:
            return None  # nobody is asked whom the user neither named nor told us to ask
        self._look(lambda found: self.chat.asked(found, purpose), servers or None)
        return ", ".join(servers or STUN_SERVERS)

    def _look(self, then: Callable[[PublicAddress | Exception], list[Line]], servers: list[str] | None) -> None:
        def look() -> None:
            found: PublicAddress | Exception
            try:
                found = self.sock.discover(servers)
            except (SrmudpError, OSError, ValueError) as error:
                found = error
            self.put(lambda: then(found))

        threading.Thread(target=look, name="srmudp-chat-discovery", daemon=True).start()

    def _put_message(self, message: Message) -> None:
        def work() -> list[Line]:
            self._intake.done(message.peer)
            return self.chat.received(message)

        self.put(work)

    def _flooded(self, peer: str) -> None:
        def work() -> list[Line]:
            label = self.chat.label_of(peer)
            text = f"{label} sends faster than anybody can read and is slowed down; /block {label} ends it"
            return [Line(Kind.WARNING, text, when=self.chat.wall())]

        self.put(work)

    # --- from the front end's thread ---

    def work(self, limit: int = 200) -> list[Line]:
        """Do what is waiting, at most ``limit`` things: the lines to show."""
        lines: list[Line] = []
        for _ in range(limit):
            try:
                work = self._queue.get_nowait()
            except queue.Empty:
                break
            lines += work()
        return lines

    @property
    def is_idle(self) -> bool:
        """True if :meth:`work` has nothing to do."""
        return self._queue.empty()

    def wait(self, timeout: float) -> list[Line]:
        """As :meth:`work`, but wait for something to do for up to ``timeout`` seconds."""
        try:
            work = self._queue.get(timeout=timeout)
        except queue.Empty:
            return []
        return work() + self.work()

    def close(self, timeout: float | None = None) -> int:
        """Deliver what is pending and leave.

        Args:
            timeout: seconds that may take; None means little if nothing the user said is among it.

        Returns:
            How many messages were not delivered.
        """
        try:
            self.files.close()
            if timeout is None:
                timeout = _GOODBYE if self.chat.outstanding() else _SHORT_GOODBYE
            self.sock.close(timeout)
            self.chat.tick()
            return self.chat.undelivered
        finally:
            self._lock.release()


def _read_config(path: str) -> dict[str, book.Entry]:
    try:
        return book.read(path)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _claim(options: Options) -> tuple[places.Lock, str, str]:
    """The lock, the identity file and the book of a chat."""
    if options.identity is not None:
        path = os.path.abspath(os.path.expanduser(options.identity))
        places.make_folder(os.path.dirname(path))
        try:
            return places.Lock(f"{path}.lock"), path, f"{path}.peers.json"
        except places.InUse:
            raise places.InUse(f"{options.identity} is in use by another chat: two chats need two identities") from None
    folder = places.folder_of(options.nick)
    places.make_folder(folder)
    try:
        lock = places.Lock(os.path.join(folder, "lock"))
    except places.InUse:
        raise places.InUse(
            f"{options.nick} is chatting already, in another window: take another nick with -n"
        ) from None
    return lock, os.path.join(folder, "identity.key"), os.path.join(folder, "peers.json")


def _open_book(path: str) -> Book:
    try:
        return Book(path)
    except (OSError, ValueError) as error:
        raise IdentityError(f"the list of people you met is broken; mend it or move it away: {error}") from None
