"""What a round trip takes at least if its ends compute before they answer: ``python -m tests.benchmarks.floor``.

Two processes throw 140 bytes to and fro over plain UDP on loopback, each computing for so many microseconds before it
sends. What a round trip takes beyond twice that is the system's: system calls, and the other processor, which fell
asleep meanwhile and has to be woken; or which stayed awake, asking again and again whether something has come (as
srmudp/sockets/busy_poll.py has it, if it pays). Nothing of srmudp is in it.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import select
import socket
import statistics
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

PAYLOAD = bytes(140)


def compute(seconds: float) -> None:
    """Keep the processor busy."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def throw(sock: socket.socket, port: int) -> None:
    """To the other end."""
    sock.sendto(PAYLOAD, ("127.0.0.1", port))


def catch(sock: socket.socket, poll: select.poll, awake: bool) -> None:
    """Wait for what the other end throws, 10 s at most."""
    if awake:
        until = time.perf_counter() + 10
        while not poll.poll(0) and time.perf_counter() < until:
            pass
    else:
        poll.poll(10_000)
    sock.recv(2048, socket.MSG_DONTWAIT)


def echo(port: int, seconds: float, count: int, awake: bool, ready: Connection) -> None:
    """The other end."""
    with opened() as (sock, poll):
        ready.send(sock.getsockname()[1])
        for _ in range(count):
            catch(sock, poll, awake)
            compute(seconds)
            throw(sock, port)


@contextlib.contextmanager
def opened() -> Iterator[tuple[socket.socket, select.poll]]:
    """A socket, and what waits for it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        yield sock, poll


def round_trip(seconds: float, count: int, awake: bool) -> float:
    """The median, in seconds."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    with opened() as (sock, poll):
        job = (sock.getsockname()[1], seconds, count, awake, theirs)
        other = context.Process(target=echo, args=job, daemon=True)
        other.start()
        port = mine.recv()
        took = []
        for _ in range(count):
            began = time.perf_counter()
            compute(seconds)
            throw(sock, port)
            catch(sock, poll, awake)
            took.append(time.perf_counter() - began)
        other.join()
    return statistics.median(took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=3000, help="round trips")
    count = parser.parse_args().count
    print("us computed at each end   round trip p50   beyond computing   round trip awake   beyond computing")
    for microseconds in (0, 50, 100, 150, 300):
        asleep, awake = (round_trip(microseconds * 1e-6, count, awake) * 1e6 for awake in (False, True))
        beyond, beyond_awake = (took - 2 * microseconds for took in (asleep, awake))
        print(f"{microseconds:23} {asleep:16.0f} {beyond:18.0f} {awake:18.0f} {beyond_awake:18.0f}")


if __name__ == "__main__":
    main()
