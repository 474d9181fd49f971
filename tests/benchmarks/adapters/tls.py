"""TLS 1.3 over TCP by the standard library: messages with their length before them, ``TCP_NODELAY``, buffered reads."""

from __future__ import annotations

import functools
import socket
import ssl
from collections.abc import Callable
from typing import Any

from tests.benchmarks.adapters.base import CONNECT, Blocking, Job, Pipe
from tests.benchmarks.framing import FramedPipe


class TlsPipe(FramedPipe):
    """A TLS connection."""

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
