"""Messages with their length before them, over anything with ``sendall`` and ``recv_into``."""

from __future__ import annotations

import struct
from typing import Any

from tests.benchmarks.adapters.base import Pipe

CHUNK = 256 * 1024
WHOLE = 16 * 1024
"""Bytes of the longest message that is sent by one call together with its length."""
LENGTH = struct.Struct(">I")


class FramedPipe(Pipe):
    """A connected socket that is a stream. Large messages are read where they stay."""

    def __init__(self, sock: Any, timeout: float = 60.0) -> None:
        self.sock = sock
        self._timeout = timeout
        self._buffer = memoryview(bytearray(CHUNK))
        self._start = self._end = 0
        sock.settimeout(timeout)

    def send(self, message: bytes) -> None:
        if len(message) <= WHOLE:
            self.sock.sendall(LENGTH.pack(len(message)) + message)
            return
        self.sock.sendall(LENGTH.pack(len(message)) + message[: WHOLE - LENGTH.size])
        with memoryview(message) as view:
            for start in range(WHOLE - LENGTH.size, len(message), CHUNK):
                self.sock.sendall(view[start : start + CHUNK])

    def receive(self, timeout: float) -> bytes | bytearray | None:
        if timeout != self._timeout:
            self._timeout = timeout
            self.sock.settimeout(timeout)
        try:
            if self._end - self._start < LENGTH.size and not self._fill(LENGTH.size):
                return None
            (length,) = LENGTH.unpack_from(self._buffer, self._start)
            self._start += LENGTH.size
            if length <= WHOLE:
                if self._end - self._start < length and not self._fill(length):
                    return None
                content = bytes(self._buffer[self._start : self._start + length])
                self._start += length
                return content
            return self._large(length)
        except (TimeoutError, ConnectionError):
            return None

    def _fill(self, count: int) -> bool:
        """Have at least so many bytes; whether the connection still stands."""
        buffer = self._buffer
        if self._start:
            rest = bytes(buffer[self._start : self._end])
            buffer[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        while self._end < count:
            got = self.sock.recv_into(buffer[self._end :])
            if not got:
                return False
            self._end += got
        return True

    def _large(self, length: int) -> bytearray | None:
        """A message that is read where it stays."""
        content = bytearray(length)
        done = min(length, self._end - self._start)
        content[:done] = self._buffer[self._start : self._start + done]
        self._start += done
        with memoryview(content) as view:
            while done < length:
                got = self.sock.recv_into(view[done:])
                if not got:
                    return None
                done += got
        return content

    def close(self) -> None:
        self.sock.close()
