"""TLS 1.3 over TCP by the standard library: messages with their length before them, ``TCP_NODELAY``, buffered reads."""

from __future__ import annotations

import functools
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any

from tests.benchmarks.adapters.base import CONNECT, Blocking, Job, Pipe

CHUNK = 256 * 1024
WHOLE = 16 * 1024
"""Bytes of the longest message that is sent by one call together with its length."""
LENGTH = struct.Struct(">I")


class TlsPipe(Pipe):
    """A TLS connection."""

    def __init__(self, sock: ssl.SSLSocket, timeout: float = 60.0) -> None:
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

    def facts(self) -> dict[str, Any]:
        cipher = self.sock.cipher()
        return {"cipher": cipher[0] if cipher else None}


@functools.cache
def context(certificate: str, server: bool) -> ssl.SSLContext:
    """Made once, as programs do."""
    if server:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(certificate)
    else:
        made = ssl.create_default_context(cafile=certificate)
        made.check_hostname = False
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    return made


def listen(job: Job, ready: Callable[[], None]) -> Pipe:
    tls = context(job.certificate, True)
    with socket.create_server(job.rx) as server:
        server.settimeout(CONNECT)
        ready()
        plain, _ = server.accept()
    plain.settimeout(CONNECT)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return TlsPipe(tls.wrap_socket(plain, server_side=True))


def connect(job: Job) -> Pipe:
    tls = context(job.certificate, False)
    plain = socket.create_connection(job.rx, CONNECT, source_address=(job.tx[0], 0))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return TlsPipe(tls.wrap_socket(plain))


ADAPTERS = (Blocking("TLS 1.3 over TCP", listen, connect, udp=False, standard=True),)
