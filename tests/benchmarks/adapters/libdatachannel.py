"""libdatachannel, WebRTC in C++, by pylibdatachannel: a reliable, ordered data channel.

No servers: the ends exchange descriptions and addresses of this machine over TCP. WebRTC does not use the address of
loopback, so that on one machine the way leads from an interface to itself. The bindings do not say how much is still
to be sent, so that the receiver tells what has come, in text; messages are bytes.
"""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.benchmarks.adapters.base import CONNECT, Blocking, Job, Pipe, missing
from tests.benchmarks.parts import PIECE, Frames, Window, framed

BULK, SMALL = 4 * 1024 * 1024, 64 * 1024
"""Bytes of messages that are on their way at most."""


class RtcPipe(Pipe):
    """One data channel of a connection; its callbacks run in the library's threads."""

    def __init__(self, job: Job) -> None:
        import pylibdatachannel

        self._library: Any = pylibdatachannel
        self._connection: Any = pylibdatachannel.PeerConnection(pylibdatachannel.Configuration([]))
        self._channel: Any = None
        self._opened = threading.Event()
        self._moved = threading.Event()
        self._over = False
        self._frames = Frames()
        self._inbox: queue.SimpleQueue[bytearray | None] = queue.SimpleQueue()
        self._window = Window(BULK if job.workload == "bulk" else SMALL)

    def meet(self, signals: socket.socket, calls: bool) -> None:
        """Find the other end with what the two tell each other there."""
        lock = threading.Lock()

        def tell(**said: str) -> None:
            with lock, contextlib.suppress(OSError):
                signals.sendall(json.dumps(said).encode() + b"\n")

        connection, library = self._connection, self._library
        connection.on_local_description(lambda made: tell(sdp=str(made), type=made.type.name.lower()))
        connection.on_local_candidate(lambda found: tell(candidate=found.candidate, mid=found.mid))

        def hear() -> None:
            with contextlib.suppress(OSError), signals.makefile() as lines:
                for line in lines:
                    said = json.loads(line)
                    if "sdp" in said:
                        kind = library.DescriptionType.from_string(said["type"])
                        connection.set_remote_description(library.Description(said["sdp"], kind))
                    else:
                        connection.add_remote_candidate(library.Candidate(said["candidate"], said["mid"]))

        threading.Thread(target=hear, daemon=True).start()
        if calls:
            self._use(connection.create_data_channel("bench"))
        else:
            connection.on_data_channel(self._use)
        if not self._opened.wait(CONNECT):
            raise ConnectionError("no connection")

    def _use(self, channel: Any) -> None:
        self._channel = channel
        channel.on_message(self._came)
        channel.on_closed(self._closed)
        channel.on_open(self._opened.set)
        if channel.is_open:
            self._opened.set()

    def _came(self, data: bytes | str) -> None:
        if isinstance(data, str):
            self._window.taken(bytes.fromhex(data))
            self._moved.set()
            return
        for message in self._frames.feed(data):
            self._inbox.put(message)
        if self._window.got(len(data)):
            self._tell()

    def _closed(self) -> None:
        self._over = True
        self._inbox.put(None)
        self._moved.set()

    def _tell(self) -> None:
        self._channel.send(self._window.count().hex())

    def _wait(self, seconds: float, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + seconds
        while not done() and not self._over and time.monotonic() < deadline:
            self._moved.clear()
            if not done():
                self._moved.wait(deadline - time.monotonic())

    def send(self, message: bytes) -> None:
        data = framed(message)
        for start in range(0, len(data), PIECE):
            piece = data[start : start + PIECE]
            if self._window.full:
                self._wait(60.0, lambda: not self._window.full)
            if self._over:
                raise ConnectionError("the channel is closed")
            self._window.send(len(piece))
            self._channel.send(piece)

    def receive(self, timeout: float) -> bytearray | None:
        try:
            return self._inbox.get(timeout=timeout)
        except queue.Empty:
            return None

    def flush(self, timeout: float) -> None:
        self._tell()
        self._wait(timeout, lambda: self._window.empty)

    def close(self) -> None:
        self._connection.reset_callbacks()
        self._channel.reset_callbacks()
        self._connection.close()


def listen(job: Job, ready: Callable[[], None]) -> Pipe:
    with socket.create_server(job.rx) as server:
        pipe = RtcPipe(job)
        server.settimeout(CONNECT)
        ready()
        signals, _ = server.accept()
    with signals:
        pipe.meet(signals, calls=False)
    return pipe


def connect(job: Job) -> Pipe:
    pipe = RtcPipe(job)
    with socket.create_connection(job.rx, CONNECT, source_address=(job.tx[0], 0)) as signals:
        signals.settimeout(None)
        pipe.meet(signals, calls=True)
    return pipe


ADAPTERS = (
    Blocking(
        name="libdatachannel",
        package="pylibdatachannel",
        listen=listen,
        connect=connect,
        why_not=lambda: missing("pylibdatachannel"),
    ),
)
