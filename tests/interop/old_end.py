"""The other end of an interoperation run: a program that uses a published package of old, unchanged.

Run with ``python -P`` and the package on ``PYTHONPATH``; knows nothing of this repository. Arguments as one JSON
object; commands come as lines on standard input, what happens goes as JSON lines to standard output.
"""

from __future__ import annotations

import hashlib
import json
import random
import socket
import sys
import threading
import time
from typing import Any


def say(what: str, **facts: Any) -> None:
    # Several threads speak, and an unbuffered print() writes the end of the line by itself.
    sys.stdout.write(json.dumps({"what": what, **facts}) + "\n")
    sys.stdout.flush()


def main() -> None:
    given = json.loads(sys.argv[1])
    family = socket.AF_INET6 if ":" in given["host"] else socket.AF_INET
    stream = given["dialect"] == "srudp"
    sock: Any
    if stream:
        from srudp import SecureReliableSocket

        sock = SecureReliableSocket(family)
        sock.broadcast_hook_fnc = lambda packet, _: say("broadcast", text=packet.data.decode())
        sock.connect((given["host"], given["port"]))
        sock.settimeout(1.0)
    else:
        from srmudp import SecureReliableSocket

        sock = SecureReliableSocket(given["port"], family)
        sock.connect((given["host"], given["remote"]))
    say("connected", mtu=sock.mtu_size)
    threading.Thread(target=listen, args=(sock, stream), daemon=True).start()
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        if command == "send":
            seed, size = map(int, argument.split())
            data = random.Random(seed).randbytes(size)
            threading.Thread(target=lambda: (sock.sendall(data), say("sent")), daemon=True).start()  # noqa: B023
        elif command == "broadcast":
            sock.broadcast(argument.encode())
        elif command == "close":
            break
        elif command == "wait":
            deadline = time.monotonic() + 5
            while not sock.is_closed and time.monotonic() < deadline:
                time.sleep(0.05)
            say("closed", by_peer=sock.is_closed)
            break
    loss = sock.loss
    sock.close()
    say("ended", loss=loss)


def listen(sock: Any, stream: bool) -> None:
    total, digest = 0, hashlib.sha256()
    while not sock.is_closed:
        try:
            if stream:
                data = sock.recv(65536)
            else:
                received = sock.receive(timeout=1.0)
                data = received[1] if received is not None else None
        except TimeoutError:
            continue
        if data is None:
            continue
        if stream and not data:
            break
        total += len(data)
        digest.update(data)
        say("received", total=total, sha256=digest.hexdigest())


main()
