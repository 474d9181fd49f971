"""More sockets beside a transport's own, each at a port of its own, for a remote that only one of them may reach.

A NAT that gives each flow a port at random is met by having many flows to one remote, of which one is found (see
``nat/birthday.py``). Which one that is shows in what the remote sends: from then on everything to it leaves by that
socket, and the others are closed. Nobody above knows that there is more than one.

All are watched by one descriptor, an ``epoll`` object's, so there are none where there is no such thing, nor over IPv6,
where no NAT needs them.
"""

from __future__ import annotations

import select
import socket
import sys
import threading
from typing import Final

from ..models import Address
from .batch import BatchSocket, SockAddr

LEAST: Final = 8
"""Sockets at least: fewer are hardly ever found."""
SPARE: Final = 16
"""Descriptors left to the rest of the program where the system allows no more."""
MAX_REMOTES: Final = 16
"""Remotes that have sockets of their own at a time."""
_LOCKED: Final = 0.2
"""Seconds that closing waits for a thread that is at work here."""
_ROOM: Final = 0.002
"""Seconds that sending waits for room: nobody watches these sockets for it."""


class _Branch:
    """The sockets towards one remote."""

    __slots__ = ("heard", "settled", "sockets")

    def __init__(self) -> None:
        self.sockets: list[tuple[socket.socket, BatchSocket]] = []
        self.heard: tuple[socket.socket, BatchSocket] | None = None
        self.settled = False


class Fan:
    """Such sockets, bound to one local address. Safe for use by a thread that sends, one that receives and others.

    Args:
        host: the local IPv4 address, ``0.0.0.0`` for any.
        gso: use offload where there is any.
        buffer: bytes of kernel buffer asked for in each direction for a socket that was found.

    Raises:
        OSError: the system has no ``epoll``, or no descriptor left.
    """

    def __init__(self, host: str, *, gso: bool, buffer: int) -> None:
        if sys.platform != "linux":
            raise OSError("nothing here watches many sockets by one descriptor")
        self._host = host
        self._gso = gso
        self._buffer = buffer
        self._lock = threading.RLock()  # re-entrant for signal handlers, which send
        self._epoll = select.epoll()
        self._branches: dict[Address, _Branch] = {}
        self._owners: dict[int, tuple[Address, _Branch, tuple[socket.socket, BatchSocket]]] = {}
        self._amid: BatchSocket | None = None  # it may hold more than its descriptor tells

    def fileno(self) -> int:
        """Readable when one of the sockets is; -1 once closed."""
        return -1 if self._epoll.closed else self._epoll.fileno()

    def spread(self, remote: Address, count: int, port: int = 0) -> int:
        """Have ``count`` sockets towards a remote; how many there are now.

        Args:
            count: 0 closes all; 1 keeps the one that the remote was heard by, if it was; more opens as many anew, or
                fewer where the system allows no more.
            port: open one anew, bound to this port.
        """
        with self._lock:
            branch = self._branches.get(remote)
            if count == 1 and not port:
                if branch is None or branch.heard is None:
                    self._drop(remote)
                    return 0
                for one in branch.sockets:
                    if one is not branch.heard:
                        self._close(one)
                branch.sockets = [branch.heard]
                branch.settled = True
                for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                    branch.heard[0].setsockopt(socket.SOL_SOCKET, option, self._buffer)
                return 1
            self._drop(remote)
            if count and not self._epoll.closed and len(self._branches) < MAX_REMOTES:
                self._open(remote, count, port)
            opened = self._branches.get(remote)
            return 0 if opened is None else len(opened.sockets)

    def _open(self, remote: Address, count: int, port: int) -> None:
        branch = self._branches[remote] = _Branch()
        keep = count
        while len(branch.sockets) < count:
            try:
                one = self._new(port)
            except OSError:
                keep = len(branch.sockets) - SPARE
                break
            branch.sockets.append(one)
            self._owners[one[0].fileno()] = remote, branch, one
        if keep < min(LEAST, count):
            self._drop(remote)
            return
        while len(branch.sockets) > keep:
            self._close(branch.sockets.pop())

    def _new(self, port: int) -> tuple[socket.socket, BatchSocket]:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.bind((self._host, port))
            self._epoll.register(sock.fileno(), select.EPOLLIN)
            return sock, BatchSocket(sock, gso=self._gso)
        except BaseException:
            sock.close()
            raise

    def _drop(self, remote: Address) -> None:
        branch = self._branches.pop(remote, None)
        if branch is not None:
            for one in branch.sockets:
                self._close(one)

    def _close(self, one: tuple[socket.socket, BatchSocket]) -> None:
        self._owners.pop(one[0].fileno(), None)
        if self._amid is one[1]:
            self._amid = None
        one[0].close()  # which takes it out of the epoll object

    def receive(self) -> tuple[bytes, int, SockAddr] | None:
        """The next batch as ``(bytes, segment size, source)``, or None when reading would block."""
        with self._lock:
            while True:
                if self._amid is None:
                    ready = [] if self._epoll.closed else self._epoll.poll(0, 1)
                    if not ready or ready[0][0] not in self._owners:
                        return None
                    self._amid = self._owners[ready[0][0]][2][1]
                    received = self._amid.receive()
                    if received is not None:
                        remote, branch, one = self._owners[ready[0][0]]
                        if received[2] == remote and not branch.settled:
                            branch.heard = one
                        return received
                else:
                    received = self._amid.receive()
                    if received is not None:
                        return received
                self._amid = None

    def on_heard_elsewhere(self, remote: Address) -> None:
        """The transport's own socket heard a remote: it is the one to answer by, as long as nothing is settled."""
        branch = self._branches.get(remote)
        if branch is not None and not branch.settled:
            branch.heard = None

    def send(self, payload: bytes, segment_size: int, destination: Address) -> int | None:
        """Send by the socket that the destination was heard by; None if that is none of these."""
        branch = self._branches.get(destination)
        if branch is None or branch.heard is None:
            return None
        with self._lock:
            heard = branch.heard
            if heard is None or heard[0].fileno() < 0:
                return None
            sent = heard[1].send(payload, segment_size, destination)
            if sent < len(payload):
                poll = select.poll()
                poll.register(heard[0], select.POLLOUT)
                poll.poll(_ROOM * 1000)
            return sent

    def send_opener(self, datagram: bytes, destination: Address, hop_limit: int) -> bool:
        """Send a datagram with a hop limit by all sockets towards its destination; whether there are any."""
        branch = self._branches.get(destination)
        if branch is None:
            return False
        with self._lock:
            for _, batches in branch.sockets if branch.heard is None else ():
                batches.send_opener(datagram, destination, hop_limit, ipv4=True)
        return True

    def close(self) -> None:
        """Close all. Idempotent."""
        # Not for ever: in a child after fork() the holder may be a thread that is not there.
        locked = self._lock.acquire(timeout=_LOCKED)
        try:
            for remote in list(self._branches):
                self._drop(remote)
            self._epoll.close()
        finally:
            if locked:
                self._lock.release()
