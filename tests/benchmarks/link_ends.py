"""The two ends of a flow over a link, a process each: ``python -m tests.benchmarks.link_ends KIND ROLE JSON``.

KIND is ``srmudp``, ``tls`` or ``tcp`` (a bulk flow from ``tx`` to ``rx``) or ``ping`` (small datagrams, echoed). Each
end prints a line of JSON when it stands, ``tx`` then waits for a line ``{"begin": ..., "end": ...}`` on its input
(``time.monotonic()``, which all processes of a Linux machine share) and works from one to the other. ``rx`` works until
its input ends. The last line an end prints is its result.

Every chunk is numbered and made from one random block, so a receiver checks each byte by comparing.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import select
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

CONNECT = 20.0
NUMBER = struct.Struct(">Q")
STAMP = struct.Struct(">Qd")
SMALL = 100
"""Bytes of a small message."""
BULK, SMALLS = 0, 1
"""Channels."""


class Job(NamedTuple):
    """What the parent asks of an end."""

    tx: tuple[str, int]
    rx: tuple[str, int]
    chunk: int = 64 * 1024
    """Bytes of a message, or of what is written at once."""
    interval: float = 0.02
    """Seconds between small messages, or pings."""
    small: bool = False
    """srmudp: small messages beside the bulk, whose chunks go one at a time."""
    certificate: str = ""
    congestion: str = "cubic"
    """Of TCP."""
    config: dict[str, Any] = {}
    """Fields of ``Config`` other than the default."""
    seed: int = 0

    def chunks(self) -> Iterator[bytes]:
        """All chunks of the flow: different from each other, and not worth compressing."""
        block = random.Random(self.seed).randbytes(self.chunk - NUMBER.size)  # now, not when the first is asked for
        return (NUMBER.pack(number) + block for number in itertools.count())


class Span(NamedTuple):
    begin: float
    end: float

    def wait(self) -> None:
        """Until it begins."""
        time.sleep(max(0.0, self.begin - time.monotonic()))


def tell(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


def told() -> Span:
    """What the parent says when all ends stand."""
    tell({"ready": True})
    span = Span(**json.loads(sys.stdin.readline()))
    span.wait()
    return span


def stopped() -> threading.Event:
    """Set at the end of our input."""
    event = threading.Event()

    def wait() -> None:
        while sys.stdin.readline():
            pass
        event.set()

    threading.Thread(target=wait, daemon=True).start()
    return event


class Series:
    """When how much was received: ``[[seconds, bytes], ...]``, summed over short spans."""

    STEP = 0.02

    def __init__(self) -> None:
        self._sums: dict[int, int] = {}

    def add(self, count: int) -> None:
        index = int(time.monotonic() / self.STEP)
        self._sums[index] = self._sums.get(index, 0) + count

    def lists(self) -> list[tuple[float, int]]:
        return [(index * self.STEP, count) for index, count in sorted(self._sums.items())]


# --- srmudp ---


def srmudp_rx(job: Job) -> None:
    from srmudp import Config, MultiHolepunchSocket

    chunks = job.chunks()
    with MultiHolepunchSocket(job.rx[1], {"tx": job.tx}, host=job.rx[0], config=Config(**job.config)) as sock:
        tell({"listening": True})
        stop, series, wrong = stopped(), Series(), 0
        ages: list[float] = []
        large: list[bytes] = []  # compared later: that takes longer than a small message may
        while not stop.is_set():
            message = sock.receive(0.1)
            if message is None:
                continue
            if message.channel == SMALLS:
                ages.append(time.monotonic() - STAMP.unpack_from(message.content)[1])
                sock.send(message.content, "tx", channel=SMALLS)
                continue
            series.add(len(message.content))
            if job.small:
                large.append(message.content)
            else:
                wrong += message.content != next(chunks)
        cpu = time.process_time()
        wrong += sum(content != next(chunks) for content in large)
        result = {"series": series.lists(), "wrong": wrong, "cpu": cpu, "drops": dict(sock.drops)}
        tell({**result, "ages": ages})
        sock.close(0)


def srmudp_tx(job: Job) -> None:
    from srmudp import Config, MultiHolepunchSocket

    chunks = job.chunks()
    if job.small:
        chunks = itertools.chain(list(itertools.islice(chunks, 6)), chunks)  # made now, not beside the small ones
    with MultiHolepunchSocket(job.tx[1], {"rx": job.rx}, host=job.tx[0], config=Config(**job.config)) as sock:
        assert sock.wait_connected("rx", CONNECT)
        span = told()
        cpu = time.process_time()
        threads = [threading.Thread(target=send_smalls, args=(sock, job, span))] if job.small else []
        trips: list[float] = []
        if job.small:
            threads.append(threading.Thread(target=hear_smalls, args=(sock, span, trips)))
        for thread in threads:
            thread.start()
        for chunk in chunks:
            left = span.end - time.monotonic()
            if left <= 0:
                break
            with contextlib.suppress(TimeoutError):
                delivery = sock.send(chunk, "rx", channel=BULK, timeout=left)
                if job.small:  # others behind it would fill the queue that the small ones need, too
                    delivery.wait(left)
        time.sleep(max(0.0, span.end - time.monotonic()))
        cpu = time.process_time() - cpu
        status = sock.connections_status["rx"]
        for thread in threads:
            thread.join()
        tell(
            {
                "cpu": cpu,
                "rtt": status.rtt,
                "mtu": status.mtu,
                "datagrams": status.stats.datagrams_sent,
                "lost": status.stats.datagrams_lost,
                "trips": trips,
            }
        )
        sock.close(0)


def send_smalls(sock: Any, job: Job, span: Span) -> None:
    """One every ``interval``."""
    due, number = time.monotonic(), 0
    while due < span.end:
        time.sleep(max(0.0, due - time.monotonic()))
        sock.send(STAMP.pack(number, time.monotonic()).ljust(SMALL, b"."), "rx", channel=SMALLS)
        due, number = due + job.interval, number + 1


def hear_smalls(sock: Any, span: Span, trips: list[float]) -> None:
    """How long each took there and back."""
    while (left := span.end + 0.5 - time.monotonic()) > 0:
        message = sock.receive(left)
        if message is not None:
            trips.append(time.monotonic() - STAMP.unpack_from(message.content)[1])


# --- TCP, with and without TLS ---


def choose_congestion(sock: socket.socket, job: Job) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, job.congestion.encode())


def tcp_rx(job: Job) -> None:
    with socket.create_server(job.rx) as server:
        choose_congestion(server, job)
        server.settimeout(CONNECT)
        tell({"listening": True})
        plain, _ = server.accept()
    plain.settimeout(CONNECT)
    sock = plain
    if job.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(job.certificate)
        sock = context.wrap_socket(plain, server_side=True)
    chunks, stop, series, wrong = job.chunks(), stopped(), Series(), 0
    buffer = memoryview(bytearray(job.chunk))
    sock.settimeout(0.1)
    for chunk in chunks:
        filled = 0
        while filled < len(chunk) and not stop.is_set():
            try:
                count = sock.recv_into(buffer[filled:])
            except TimeoutError:
                continue
            except OSError:
                count = 0
            if not count:
                stop.wait()
            series.add(count)
            filled += count
        wrong += buffer[:filled] != chunk[:filled]
        if stop.is_set():
            break
    tell({"series": series.lists(), "wrong": wrong, "cpu": time.process_time()})


def tcp_tx(job: Job) -> None:
    plain = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    choose_congestion(plain, job)
    plain.settimeout(CONNECT)
    plain.bind((job.tx[0], job.tx[1]))
    plain.connect(job.rx)
    sock = plain
    if job.certificate:
        context = ssl.create_default_context(cafile=job.certificate)
        context.check_hostname = False
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        sock = context.wrap_socket(plain)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # what is left dies with us
    chunks = job.chunks()
    span = told()
    cpu = time.process_time()
    with contextlib.suppress(TimeoutError):
        for chunk in chunks:
            left = span.end - time.monotonic()
            if left <= 0:
                break
            sock.settimeout(left)
            sock.sendall(chunk)
    time.sleep(max(0.0, span.end - time.monotonic()))
    tell({"cpu": time.process_time() - cpu})


# --- small datagrams, echoed ---


def ping_rx(job: Job) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(job.rx)
        sock.settimeout(0.1)
        tell({"listening": True})
        stop = stopped()
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                data, source = sock.recvfrom(2048)
                sock.sendto(data, source)
    tell({})


def ping_tx(job: Job) -> None:
    trips: list[tuple[float, float]] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(job.tx)
        sock.connect(job.rx)
        sock.setblocking(False)
        span = told()
        due, number = time.monotonic(), 0
        while (now := time.monotonic()) < span.end:
            if now >= due:
                sock.send(STAMP.pack(number, now).ljust(SMALL, b"."))
                due, number = due + job.interval, number + 1
            if select.select([sock], [], [], max(0.0, due - time.monotonic()))[0]:
                sent = STAMP.unpack_from(sock.recv(2048))[1]
                trips.append((sent, time.monotonic() - sent))
    tell({"trips": trips, "sent": number})


ENDS: dict[tuple[str, str], Callable[[Job], None]] = {
    ("srmudp", "rx"): srmudp_rx,
    ("srmudp", "tx"): srmudp_tx,
    ("tcp", "rx"): tcp_rx,
    ("tcp", "tx"): tcp_tx,
    ("tls", "rx"): tcp_rx,
    ("tls", "tx"): tcp_tx,
    ("ping", "rx"): ping_rx,
    ("ping", "tx"): ping_tx,
}


def main() -> None:
    kind, role, text = sys.argv[1:]
    fields = json.loads(text)
    fields["tx"], fields["rx"] = tuple(fields["tx"]), tuple(fields["rx"])
    with contextlib.suppress(OSError):
        os.nice(-10)  # a link is to be the bottleneck, not what else this machine does; the kernel's TCP needs none
    ENDS[kind, role](Job(**fields))


if __name__ == "__main__":
    main()
