"""The two ends of a transfer, each in a process of its own: ``python -m tests.benchmarks.ends KIND ROLE JSON``.

KIND is ``srmudp``, ``udp`` or ``tls``; ROLE ``tx`` or ``rx``. The JSON says where the ends are and what to send. Each
end prints lines of JSON: ``{"ready": true}`` and at last its result. Times are ``time.monotonic()``, which all
processes of a Linux machine share.

A receiver notes the time when it has the last byte and computes SHA-256 only then, so that checking costs nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import socket
import ssl
import struct
import sys
import time
from typing import Any, Literal, NamedTuple

SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104
BUFFER = 4 * 1024 * 1024
SEGMENT = 1472
"""Bytes of UDP payload in an Ethernet frame of 1,500."""
SEGMENTS = 43
"""Datagrams of one call: as many as fit 64,000 bytes."""
TLS_CHUNK = 256 * 1024
CONNECT = 20.0


class Job(NamedTuple):
    """What the parent asks of an end."""

    tx: tuple[str, int]
    rx: tuple[str, int]
    size: int
    """Bytes of a message."""
    messages: int
    backend: Literal["auto", "cryptography", "pycryptodome"] = "auto"
    limit: float = 60.0
    """Seconds after which a transfer is given up; TLS then counts what came."""
    certificate: str = ""
    seed: int = 0

    @property
    def total(self) -> int:
        """Bytes of all messages."""
        return self.size * self.messages

    def content(self) -> list[bytes]:
        """The messages: different from each other, made from one block that is not worth compressing."""
        block = random.Random(self.seed).randbytes(self.size - 8)
        return [struct.pack(">Q", number) + block for number in range(self.messages)]


def tell(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


def digest(pieces: list[bytes]) -> str:
    """SHA-256 over the SHA-256 of each message, in order."""
    outer = hashlib.sha256()
    for piece in pieces:
        outer.update(hashlib.sha256(piece).digest())
    return outer.hexdigest()


# --- srmudp ---


def srmudp_rx(job: Job) -> None:
    from srmudp import Config, MultiHolepunchSocket

    with MultiHolepunchSocket(job.rx[1], {"tx": job.tx}, host=job.rx[0], config=Config(backend=job.backend)) as sock:
        tell({"ready": True})
        assert sock.wait_connected("tx", CONNECT)
        got: list[bytes] = []
        deadline = time.monotonic() + job.limit
        cpu = time.process_time()
        while len(got) < job.messages:
            message = sock.receive(max(0.0, deadline - time.monotonic()))
            if message is None:
                break
            got.append(message.content)
        end, cpu = time.monotonic(), time.process_time() - cpu
        status = sock.connections_status["tx"]
        received = {"end": end, "cpu": cpu, "bytes": sum(map(len, got)), "mtu": status.mtu}
        drops = dict(sock.drops)
        tell({**received, "sha256": digest(got), "drops": drops})
        # The sender closes when it knows that all was taken.
        while sock.connections_status["tx"].established and time.monotonic() < end + 5:
            time.sleep(0.01)


def srmudp_tx(job: Job) -> None:
    from srmudp import Config, MultiHolepunchSocket

    contents = job.content()
    sha256 = digest(contents)
    with MultiHolepunchSocket(job.tx[1], {"rx": job.rx}, host=job.tx[0], config=Config(backend=job.backend)) as sock:
        assert sock.wait_connected("rx", CONNECT)
        begin, cpu = time.monotonic(), time.process_time()
        deliveries = [sock.send(content, "rx", timeout=job.limit) for content in contents]
        taken = all(delivery.wait(max(0.0, begin + job.limit - time.monotonic())) for delivery in deliveries)
        cpu = time.process_time() - cpu
        status = sock.connections_status["rx"]
        stats = status.stats
        tell(
            {
                "begin": begin,
                "cpu": cpu,
                "sha256": sha256,
                "taken": taken,
                "rtt": status.rtt,
                "mtu": status.mtu,
                "datagrams": stats.datagrams_sent,
                "lost": stats.datagrams_lost,
                "wire_bytes": stats.bytes_sent,
            }
        )
        sock.close(0)


# --- raw UDP with segmentation offload: no reliability, no secrecy, a window so that nothing overflows ---


def udp_socket(address: tuple[str, int], peer: tuple[str, int]) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
    sock.bind(address)
    sock.connect(peer)
    return sock


def udp_rx(job: Job) -> None:
    with udp_socket(job.rx, job.tx) as sock:
        sock.setsockopt(SOL_UDP, UDP_GRO, 1)
        window = max(2, sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // (4 * SEGMENT * SEGMENTS))
        tell({"ready": True})
        assert sock.recv(64) == b"hello"
        sock.send(struct.pack(">I", window))
        sock.settimeout(2.0)
        got: list[bytes] = []
        count = due = 0
        cpu, end = time.process_time(), time.monotonic()
        while count < job.total:
            try:
                data, _, _, _ = sock.recvmsg(65_535, 64)
            except TimeoutError:
                break
            got.append(data)
            count += len(data)
            if count - due >= SEGMENT * SEGMENTS:
                sock.send(struct.pack(">Q", count))
                due = count
            end = time.monotonic()
        sock.send(struct.pack(">Q", 1 << 60))
        cpu = time.process_time() - cpu
        tell({"end": end, "cpu": cpu, "bytes": count, "sha256": hashlib.sha256(b"".join(got)).hexdigest()})


def udp_tx(job: Job) -> None:
    stream = b"".join(job.content())
    sha256 = hashlib.sha256(stream).hexdigest()
    view = memoryview(stream)
    step = SEGMENT * SEGMENTS
    ancillary = [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", SEGMENT))]
    with udp_socket(job.tx, job.rx) as sock:
        sock.settimeout(5.0)
        sock.send(b"hello")
        window = struct.unpack(">I", sock.recv(64))[0] * step
        sock.settimeout(0.2)
        begin, cpu = time.monotonic(), time.process_time()
        acknowledged = sent = 0
        while sent < len(stream):
            while sent - acknowledged >= window:
                try:
                    acknowledged = max(acknowledged, *struct.unpack(">Q", sock.recv(64)))
                except TimeoutError:
                    acknowledged = sent  # lost: this is UDP
            sock.sendmsg([view[sent : sent + step]], ancillary)
            sent += step
        cpu = time.process_time() - cpu
        with contextlib.suppress(TimeoutError):
            while acknowledged < len(stream):  # closing earlier would tell the receiver that nobody is here
                acknowledged = max(acknowledged, *struct.unpack(">Q", sock.recv(64)))
        tell({"begin": begin, "cpu": cpu, "sha256": sha256, "taken": True})


# --- TLS 1.3 over TCP ---


def tls_rx(job: Job) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(job.certificate)
    with socket.create_server(job.rx) as server:
        server.settimeout(CONNECT)
        tell({"ready": True})
        plain, _ = server.accept()
    with plain:
        plain.settimeout(CONNECT)
        with context.wrap_socket(plain, server_side=True) as sock:
            got: list[bytes] = []
            count = 0
            cpu, end = time.process_time(), time.monotonic()
            deadline = end + job.limit
            while count < job.total and time.monotonic() < deadline:
                sock.settimeout(max(0.01, deadline - time.monotonic()))
                try:
                    data = sock.recv(TLS_CHUNK)
                except TimeoutError:
                    break
                if not data:
                    break
                got.append(data)
                count += len(data)
                end = time.monotonic()
            cpu = time.process_time() - cpu
            cipher = sock.cipher()
            sha256 = hashlib.sha256(b"".join(got)).hexdigest()
            tell({"end": end, "cpu": cpu, "bytes": count, "sha256": sha256, "cipher": cipher and cipher[0]})
            os._exit(0)  # whatever is still on its way is not waited for


def tls_tx(job: Job) -> None:
    context = ssl.create_default_context(cafile=job.certificate)
    context.check_hostname = False
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    stream = b"".join(job.content())
    sha256 = hashlib.sha256(stream).hexdigest()
    view = memoryview(stream)
    with (
        socket.create_connection(job.rx, CONNECT, source_address=(job.tx[0], 0)) as plain,
        context.wrap_socket(plain) as sock,
    ):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(job.limit)
        begin, cpu = time.monotonic(), time.process_time()
        taken = True
        try:
            for start in range(0, len(stream), TLS_CHUNK):
                sock.sendall(view[start : start + TLS_CHUNK])
        except OSError:  # the receiver's time was over
            taken = False
        cpu = time.process_time() - cpu
        with contextlib.suppress(OSError):  # closing with something unread would cut off what is on its way
            sock.recv(1)
        tell({"begin": begin, "cpu": cpu, "sha256": sha256, "taken": taken})
        os._exit(0)


ENDS = {
    ("srmudp", "rx"): srmudp_rx,
    ("srmudp", "tx"): srmudp_tx,
    ("udp", "rx"): udp_rx,
    ("udp", "tx"): udp_tx,
    ("tls", "rx"): tls_rx,
    ("tls", "tx"): tls_tx,
}


def main() -> None:
    kind, role, text = sys.argv[1:]
    fields = json.loads(text)
    fields["tx"], fields["rx"] = tuple(fields["tx"]), tuple(fields["rx"])
    ENDS[kind, role](Job(**fields))


if __name__ == "__main__":
    main()
