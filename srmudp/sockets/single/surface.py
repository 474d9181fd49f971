"""The methods that every ``socket.socket`` has, over ``send`` and ``recv`` of a connection; what cannot be, raises.

Without this they would act on the descriptor behind it, past the connection.
"""

from __future__ import annotations

import errno
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, NoReturn


class StreamSurface(socket.socket, ABC):
    """A socket object whose subclass has ``connect``, ``send``, ``sendall`` and ``recv`` of its own."""

    @abstractmethod
    def _whence(self) -> Any:
        """The peer's address."""

    @abstractmethod
    def _recv(self, bufsize: int, flags: int) -> bytes | memoryview:
        """As ``recv``, but perhaps without a copy."""

    def bind(self, address: object, /) -> NoReturn:
        """Never: ``connect`` or the constructor binds. What it raises is what srudp raises there."""
        raise NotImplementedError("connect() or the constructor binds the port")

    def connect_ex(self, address: Any, /) -> int:
        """As :meth:`connect`, but an error of the system is returned: its number, or 0."""
        try:
            self.connect(address)
        except OSError as error:
            return error.errno or errno.ECONNREFUSED
        return 0

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """As :meth:`recv`, into ``buffer``; how many bytes."""
        view = memoryview(buffer).cast("B")
        data = self._recv(nbytes or len(view), flags)
        view[: len(data)] = data
        return len(data)

    def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, Any]:
        """As :meth:`recv`, and the peer's address."""
        return self.recv(bufsize, flags), self._whence()

    def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
        """As :meth:`recv_into`, and the peer's address."""
        return self.recv_into(buffer, nbytes, flags), self._whence()

    def recvmsg(self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /) -> tuple[bytes, list[Any], int, Any]:
        """As :meth:`recvfrom`; there is never ancillary data."""
        return self.recv(bufsize, flags), [], 0, self._whence()

    def recvmsg_into(
        self, buffers: Iterable[Any], ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[int, list[Any], int, Any]:
        """As :meth:`recvmsg`, into the first of ``buffers`` that has room."""
        for buffer in buffers:
            if len(memoryview(buffer).cast("B")):
                return self.recv_into(buffer, 0, flags), [], 0, self._whence()
        return 0, [], 0, self._whence()

    def sendmsg(
        self, buffers: Iterable[Any], ancdata: Iterable[Any] = (), flags: int = 0, address: Any = None, /
    ) -> int:
        """As :meth:`send` of all ``buffers`` together.

        Raises:
            OSError: ancillary data or an address is given.
        """
        if list(ancdata) or address is not None:
            not_here("sendmsg() takes buffers only")
        return self.send(b"".join(map(bytes_of, buffers)), flags)

    def sendto(self, *args: Any) -> NoReturn:
        """Never: there is one peer. The UDP port itself is ``receiver_socket``."""
        not_here("sendto() is not for a connection; send() is")

    def sendmsg_afalg(self, *args: Any, **options: Any) -> NoReturn:
        """Never."""
        not_here("not a socket of the kernel's cryptography")

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """Send what is in a binary file; how many bytes."""
        if offset:
            file.seek(offset)
        sent = 0
        while count is None or sent < count:
            data = file.read(1 << 18 if count is None else min(1 << 18, count - sent))
            if not data:
                break
            self.sendall(data)
            sent += len(data)
        return sent

    def setsockopt(self, level: int, optname: int, *value: Any) -> None:
        """As of any socket; options of TCP are taken and ignored, for data always leaves at once."""
        if level != socket.IPPROTO_TCP:
            super().setsockopt(level, optname, *value)

    def listen(self, *args: Any) -> NoReturn:
        """Never: both ends connect."""
        not_here("there is nothing to listen for: both ends connect()")

    def accept(self) -> NoReturn:
        """Never: both ends connect."""
        not_here("there is nothing to accept: both ends connect()")

    def dup(self) -> NoReturn:
        """Never."""
        not_here("a connection cannot be duplicated")

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a SecureReliableSocket holds keys and an open port and cannot be copied or pickled")


def bytes_of(data: Any) -> bytes | memoryview:
    """``data`` byte by byte."""
    if type(data) is bytes:
        return data
    if isinstance(data, str):
        raise TypeError("send() takes bytes, not str: use text.encode()")
    try:
        view = memoryview(data)
    except TypeError:
        raise TypeError(f"send() takes a bytes-like object, not {type(data).__name__}") from None
    return view.cast("B") if view.c_contiguous else memoryview(view.tobytes())


def whole_of(data: bytes | memoryview) -> bytes:
    """What :func:`bytes_of` gave as bytes that nobody can change, copied if they are not."""
    if isinstance(data, bytes):
        return data
    whole = data.obj
    return whole if type(whole) is bytes and len(whole) == len(data) else data.tobytes()


def no_flags() -> NoReturn:
    not_here("no flags are known here")


def not_here(why: str) -> NoReturn:
    raise OSError(errno.EOPNOTSUPP, why)
