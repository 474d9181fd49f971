"""Several processes: the README's first block against two others, a conversation with a child, and fork."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import threading
import time
from typing import Any

import pytest

from tests.real import programs
from tests.real.helpers import DEADLINE, Make, content, state

AHEAD = -2.0
"""Seconds: the others are ready by the time the example starts."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody has on IPv4 or IPv6 at the moment."""
    socks = []
    for _ in range(count):
        try:
            sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind(("::", 0))
        except OSError:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind(("", 0))
        socks.append(sock)
    ports = [sock.getsockname()[1] for sock in socks]
    for sock in socks:
        sock.close()
    return ports


@pytest.mark.timeout(60)
def test_the_first_example_delivers_whoever_starts_first() -> None:
    """The README's first block beside two other programs that start before it, with it, 3 s and 10 s later.

    Whatever it sends is delivered, in order, to whom it was for, though it waits for nothing but to close. The cases
    run beside each other; the first and third, which tests/test_documents.py has too, with ``SRMUDP_EXHAUSTIVE=1``.
    """
    cases = {"before": AHEAD, "with it": 0.0, "3 s later": 3.0, "10 s later": 10.0}
    if not os.environ.get("SRMUDP_EXHAUSTIVE"):
        del cases["before"], cases["3 s later"]
    begin = time.time() + 2.5
    running: dict[str, list[subprocess.Popen[str]]] = {}
    try:
        for case, delay in cases.items():
            us, one, two = free_ports(3)
            peers = [
                programs.start("listen", port, us, count, begin + delay, 25) for port, count in ((one, 3), (two, 2))
            ]
            running[case] = [*peers]
            running[case].append(programs.start("after", begin, "example", us, one, two))
        results = {case: [programs.finish(process, 45) for process in trio] for case, trio in running.items()}
    finally:
        for process in (process for trio in running.values() for process in trio):
            if process.poll() is None:
                process.kill()
                process.communicate()
    for case, (first, second, ended) in results.items():
        assert first == [[text, "us", 0] for text in ("Hello, everyone!", "Hello, peer1", "Hello, both")], case
        assert second == [[text, "us", 0] for text in ("Hello, everyone!", "Hello, both")], case
        assert ended[0][0] == "ended", case
        assert ended[0][1] < max(0.0, cases[case]) + 8, (case, ended)


@pytest.mark.timeout(60)
def test_a_conversation_with_another_process(make: Make) -> None:
    """What a child process is sent comes back as it was: empty to 5 MB, on several channels."""
    sizes = [0, 1, 100, 1200, 70_000, 5_000_000, 3, 0]
    contents = [content(size, "child") for size in sizes]
    child = programs.start("echo", len(sizes))
    try:
        assert child.stdout is not None
        assert child.stdin is not None
        watchdog = threading.Timer(20, child.kill)
        watchdog.start()
        port = int(child.stdout.readline())
        watchdog.cancel()
        watchdog.join()
        sock = make()
        child.stdin.write(f"{sock.port}\n")
        child.stdin.flush()
        sock.add_peer("child", ("127.0.0.1", port))
        began = time.monotonic()
        for number, data in enumerate(contents):
            sock.send(data, "child", channel=number % 3)
        back: dict[int, list[bytes]] = {0: [], 1: [], 2: []}
        for _ in contents:
            message = sock.receive(max(0.0, began + 20 - time.monotonic()))
            assert message is not None, state(sock)
            back[message.channel].append(message.content)
        assert back == {channel: contents[channel::3] for channel in range(3)}
        seen = programs.finish(child, DEADLINE)
    finally:
        if child.poll() is None:
            child.kill()
            child.communicate()
    expected = [[number % 3, len(data), hashlib.sha256(data).hexdigest()] for number, data in enumerate(contents)]
    assert sorted(seen) == sorted(expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no list of descriptors here")
def test_attack_41_a_child_made_by_fork() -> None:
    """Attack 41: the child's calls raise, it sends nothing, holds no socket, ends well; the parent goes on."""
    child: dict[str, Any]
    child, parent = programs.finish(programs.start("fork"), 30)
    allowed = {"LocalProtocolError"}
    assert {name: what for name, what in child["raised"].items() if what not in allowed} == {}
    assert "parent process" in child["repr"]
    assert child["sockets"] == 0
    assert child["left"] == 0
    assert parent["child"] == 0
    assert parent["parent goes on"] is True
    assert all("internal_error" not in drops and "bad_tag" not in drops for drops in parent["drops"])
