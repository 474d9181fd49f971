"""The UDP port of a ``SecureReliableSocket`` as the application sees it: ``receiver_socket``."""

from __future__ import annotations

import errno
import socket
from typing import Any, NoReturn


class UdpHandle(socket.socket):
    """An ordinary UDP socket until ``connect()``: the place for an application's own STUN.

    From then on the library reads the port. The handle still sends and tells its address, but to receive from it, or
    to change how it waits, would take datagrams from the connection or stop its threads.
    """

    _lent = False

    def hand_over(self) -> socket.socket:
        """A second descriptor of the same port, for the library; this one reads no more."""
        copy = socket.socket(self.family, self.type, self.proto, fileno=socket.dup(self.fileno()))
        self._lent = True
        return copy

    def settimeout(self, value: float | None, /) -> None:
        """As of any socket before ``connect()``; ignored afterwards."""
        if not self._lent:
            super().settimeout(value)

    def setblocking(self, flag: bool, /) -> None:
        """As of any socket before ``connect()``; ignored afterwards."""
        if not self._lent:
            super().setblocking(flag)

    def _refuse(self) -> NoReturn:
        raise OSError(errno.EBUSY, "the connection reads this port since connect()")

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Before ``connect()`` only."""
        return self._refuse() if self._lent else super().recv(bufsize, flags)

    def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, Any]:
        """Before ``connect()`` only."""
        return self._refuse() if self._lent else super().recvfrom(bufsize, flags)

    def recv_into(self, *args: Any, **options: Any) -> int:
        """Before ``connect()`` only."""
        return self._refuse() if self._lent else super().recv_into(*args, **options)

    def recvfrom_into(self, *args: Any, **options: Any) -> tuple[int, Any]:
        """Before ``connect()`` only."""
        return self._refuse() if self._lent else super().recvfrom_into(*args, **options)

    def recvmsg(self, *args: Any) -> tuple[bytes, list[Any], int, Any]:
        """Before ``connect()`` only."""
        return self._refuse() if self._lent else super().recvmsg(*args)

    def recvmsg_into(self, *args: Any) -> tuple[int, list[Any], int, Any]:
        """Before ``connect()`` only."""
        return self._refuse() if self._lent else super().recvmsg_into(*args)
