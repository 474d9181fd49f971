"""What ``send``, ``recv``, ``pipe`` and ``bench`` have in common: a socket, somebody at the other end, and patience."""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import sys
import threading
from collections.abc import Iterator
from time import monotonic
from types import TracebackType
from typing import IO, Self

from .. import (
    Address,
    EventKind,
    Explanation,
    Identity,
    IdentityError,
    MultiHolepunchSocket,
    PeerEvent,
    PeerId,
    SrmudpError,
    UnknownPeer,
)
from ..chat.places import Lock, data_folder, default_nick, make_folder, own_addresses
from ..nat.explanation import Cause
from .text import clean

PEER = "peer"
"""Our name for whoever is at the address that was given."""
WAIT = 60.0
"""Seconds without a connection after which we give up, where nothing else is said."""
_LOOK = 0.2
_SAY_AFTER = 2.5
"""Seconds after which somebody who waits is told why there is no connection yet."""
_MAX_KEYS = 9


class Unmet(SrmudpError):
    """Nobody is at the other end, or not any more. The text says why.

    Attributes:
        why: all that is known of it, if we tried to connect.
    """

    def __init__(self, text: str, why: Explanation | None = None) -> None:
        super().__init__(text)
        self.why = why


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the commands have in common."""
    parser.add_argument("-p", "--port", type=port_number, default=0, help="local UDP port (default: any that is free)")
    parser.add_argument("-k", "--key", metavar="FILE", help="identity file (default: one kept for this command)")
    parser.add_argument("-n", "--name", help="what we call ourselves (default: the user's name)")
    parser.add_argument(
        "-w", "--wait", type=seconds, metavar="S", help="give up after so long without a connection, in seconds"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="tell on standard error what happens to the peer")


def add_listening(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the address, ``-l`` and ``--only``, for commands of which one end may wait for the other."""
    parser.add_argument("address", nargs="?", metavar="ADDRESS", help="of the other: [PEERID@]HOST:PORT")
    parser.add_argument("-l", "--listen", action="store_true", help=f"{what}; with ADDRESS knock there meanwhile")
    add_only(parser)


def add_only(parser: argparse.ArgumentParser) -> None:
    """Add ``--only``."""
    parser.add_argument(
        "--only",
        type=_peer_id,
        action="append",
        metavar="PEERID",
        help="let in this one alone; may be given several times",
    )


def check_listening(arguments: argparse.Namespace) -> None:
    """End with a mistake of the command line if it has neither an address nor ``-l``."""
    if not arguments.listen and not arguments.address:
        arguments.fail("whom? give ADDRESS, or --listen and have the other one give yours")


class Meeting:
    """An open socket and what is known of the others. Leave the ``with`` block to close it.

    Args:
        arguments: as parsed, with what :func:`add_options` adds.
        command: names the key that is kept.
        address: of the other; None waits for whoever comes.
        many: let in everybody who comes, not the first alone.

    Raises:
        IdentityError, OSError, ValueError: the socket cannot be opened.
    """

    def __init__(self, arguments: argparse.Namespace, command: str, *, address: str | None, many: bool = False) -> None:
        self._wait: float | None = arguments.wait
        self._verbose: bool = arguments.verbose
        self._only: list[PeerId] = arguments.only or [] if hasattr(arguments, "only") else []
        self._many = many
        self._patient = many or address is None or getattr(arguments, "listen", False)
        self._chosen: PeerId | None = None
        self._lock = threading.Lock()
        self._lost_since: dict[str, tuple[float, str]] = {}
        self._final: dict[str, str] = {}
        self._met: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._key_lock: Lock | None = None
        identity: str | Identity = arguments.key or self._kept_key(command)
        self.sock = MultiHolepunchSocket(
            arguments.port,
            name=default_nick() if arguments.name is None else arguments.name,
            identity=identity,
            accept=self._admit if many or address is None else False,
        )
        try:
            self.sock.on_event(self._heard)
            if address is not None:
                self.sock.add_peer(PEER, address)
        except BaseException:
            self.sock.close(timeout=0)
            raise

    def introduce(self, how: str, stream: IO[str]) -> None:
        """Say how the other reaches us: ``how`` with ADDRESS in it."""
        addresses = own_addresses(self.sock.port) or [f"127.0.0.1:{self.sock.port}"]
        print("the other one types, with the address that leads here:", file=stream)
        for address in addresses:
            print("  " + how.replace("ADDRESS", f"{self.sock.peer_id}@{address}"), file=stream)
        stream.flush()

    def meet(self) -> str:
        """Wait until somebody is connected: our name for them.

        Raises:
            Unmet: nobody came in time.
        """
        wait = WAIT if self._wait is None and not self._patient else self._wait
        began = monotonic()
        deadline = None if wait is None else began + wait
        told: Cause | None = None
        while True:
            with contextlib.suppress(queue.Empty):
                return self._met.get(timeout=_LOOK)
            if self._final.get(PEER):
                raise Unmet(f"cannot connect: {self._final[PEER]}")
            why = self._explain()
            if deadline is not None and monotonic() >= deadline:
                if why is None:
                    raise Unmet("nobody came")
                raise Unmet(". ".join((f"cannot connect: {why.summary}", *why.advice[:1])), why)
            if why is not None and why.cause is not told and monotonic() >= began + _SAY_AFTER:
                told = why.cause
                print(clean(f"not connected yet: {why.summary}"), file=sys.stderr, flush=True)

    def _explain(self) -> Explanation | None:
        """Why whom we were told to connect to is not connected; None if we only wait."""
        try:
            return self.sock.explain(PEER)
        except UnknownPeer:
            return None

    def check(self, name: str, *, ended_is_over: bool) -> None:
        """Return while there is hope for ``name``.

        Args:
            ended_is_over: if its program ended, that is that.

        Raises:
            Unmet: there is none.
        """
        with self._lock:
            final, lost = self._final.get(name), self._lost_since.get(name)
        if final is not None:
            raise Unmet(f"the connection is over: {final}")
        if lost is not None:
            since, reason = lost
            wait = WAIT if self._wait is None else self._wait
            if (ended_is_over and "ended" in reason) or monotonic() - since > wait:
                raise Unmet(f"the connection is lost: {reason}")

    def close(self, timeout: float | None = None) -> None:
        """Deliver what is pending and close."""
        self.sock.close(timeout)
        if self._key_lock is not None:
            self._key_lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(None if kind is None else 0.0)

    # --- on the hook thread ---

    def _admit(self, peer_id: PeerId, name: str, address: Address) -> bool:
        if self._only and peer_id not in self._only:
            return False
        if self._many:
            return True
        if self._chosen is None:
            self._chosen = peer_id
        return self._chosen == peer_id

    def _heard(self, event: PeerEvent) -> None:
        name = event.peer
        with self._lock:
            if event.kind in (EventKind.CONNECTED, EventKind.RECONNECTED):
                self._lost_since.pop(name, None)
            elif event.kind is EventKind.LOST:
                self._lost_since[name] = (monotonic(), event.reason)
            elif event.kind in (EventKind.REFUSED, EventKind.REMOVED, EventKind.PEER_CHANGED):
                self._final[name] = event.reason or event.kind.value
        if event.kind is EventKind.CONNECTED:
            self._met.put(name)
        if self._verbose and event.kind is not EventKind.MTU:
            where = f" at {event.address}" if event.address else ""
            sys.stderr.write(clean(f"* {name} {event.kind.value}{where} {event.reason}".rstrip()) + "\n")
            sys.stderr.flush()

    # --- keys ---

    def _kept_key(self, command: str) -> str | Identity:
        """A key file of this command that no other program uses at the moment, or a new key if that cannot be had."""
        folder = os.path.join(data_folder(), "keys")
        for path in _numbered(os.path.join(folder, command)):
            lock = None
            try:
                make_folder(folder)
                lock = Lock(path + ".lock")
                Identity.load_or_create(path)
            except (OSError, IdentityError):
                if lock is not None:
                    lock.release()
                continue
            self._key_lock = lock
            return path
        return Identity.generate()


def _numbered(path: str) -> Iterator[str]:
    yield f"{path}.key"
    for number in range(2, _MAX_KEYS + 1):
        yield f"{path}-{number}.key"


def port_number(text: str) -> int:
    """A port in a command line."""
    if text.isascii() and text.isdecimal() and int(text) <= 65_535:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port, 0 to 65535")


def _peer_id(text: str) -> PeerId:
    try:
        return PeerId.parse(text)
    except IdentityError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def seconds(text: str) -> float:
    """A number of seconds in a command line."""
    with contextlib.suppress(ValueError):
        if 0 < (number := float(text)) < 1e9:
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
