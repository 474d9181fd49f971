"""What a round trip takes at least if its ends compute before they answer: ``python -m tests.benchmarks.floor``.

Two processes throw 140 bytes to and fro over plain UDP on loopback, each computing for so many microseconds before it
sends. What a round trip takes beyond twice that is the system's: two system calls, and the other processor, which
fell asleep meanwhile and has to be woken. Nothing of srmudp is in it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import select
import socket
import statistics
import time
from multiprocessing.connection import Connection

PAYLOAD = bytes(140)


def compute(seconds: float) -> None:
    """Keep the processor busy."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def echo(port: int, seconds: float, count: int, ready: Connection) -> None:
    """The other end."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        ready.send(sock.getsockname()[1])
        sock.settimeout(10.0)
        for _ in range(count):
            sock.recv(2048)
            compute(seconds)
            sock.sendto(PAYLOAD, ("127.0.0.1", port))


def round_trip(seconds: float, count: int) -> float:
    """The median, in seconds."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        other = context.Process(target=echo, args=(sock.getsockname()[1], seconds, count, theirs), daemon=True)
        other.start()
        address = ("127.0.0.1", mine.recv())
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        took = []
        for _ in range(count):
            began = time.perf_counter()
            compute(seconds)
            sock.sendto(PAYLOAD, address)
            poll.poll(10_000)
            sock.recv(2048, socket.MSG_DONTWAIT)
            took.append(time.perf_counter() - began)
        other.join()
    return statistics.median(took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=3000, help="round trips")
    count = parser.parse_args().count
    print("us computed at each end   round trip p50   beyond computing")
    for microseconds in (0, 50, 100, 150, 300):
        took = round_trip(microseconds * 1e-6, count) * 1e6
        print(f"{microseconds:23} {took:16.0f} {took - 2 * microseconds:18.0f}")


if __name__ == "__main__":
    main()
