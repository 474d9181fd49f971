"""A flood of handshakes from forged sources at a real socket, in two network namespaces made for it.

``python -m tests.real.flood [--seconds 10] [--rate 5000] [--backend NAME]`` (root, ip) prints a report. The hub is in
one namespace; its friend, whose connection was there before, a late peer and the flooder are in the other.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HUB, WORLD = "10.213.0.1", "10.213.0.2"
PORT = 4000
MESSAGE = 256 * 1024
ROOT = Path(__file__).resolve().parent.parent.parent


def tell(value: object) -> None:
    print(json.dumps(value), flush=True)


# --- the programs ---


def hub(backend: str) -> None:
    """Takes messages; for each line on its input it says when, how many bytes it took, and its memory."""
    from srmudp import Config, MultiHolepunchSocket
    from tests.real.helpers import resident

    taken = 0

    def count(message: Any) -> None:
        nonlocal taken
        taken += len(message.content)

    config = Config(backend=backend)  # type: ignore[arg-type]
    with MultiHolepunchSocket(PORT, host=HUB, config=config) as sock:
        sock.register_message_hook(count)
        sock.add_peers({"friend": (WORLD, PORT + 1), "late": (WORLD, PORT + 2)})
        tell(str(sock.peer_id))
        for _ in sys.stdin:
            peers = sorted(name for name, status in sock.connections_status.items() if status.established)
            tell([time.monotonic(), taken, resident(), peers, dict(sock.drops), time.process_time()])


def friend(backend: str, pace: str) -> None:
    """Sends until its input ends: as fast as it can, or ``pace`` MB a second."""
    import threading

    from srmudp import Config, MultiHolepunchSocket

    config = Config(backend=backend)  # type: ignore[arg-type]
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    with MultiHolepunchSocket(PORT + 1, {"hub": (HUB, PORT)}, host=WORLD, config=config) as sock:
        assert sock.wait_connected("hub", 10)
        tell("connected")
        block = random.Random(1).randbytes(MESSAGE)
        due = time.monotonic()
        while not ended.is_set():
            sock.send(block, "hub", timeout=30)
            if float(pace):
                due = max(due, time.monotonic() - 0.05) + MESSAGE / 1e6 / float(pace)
                time.sleep(max(0.0, due - time.monotonic()))
        sock.close(0)


def late(backend: str) -> None:
    """Says how many seconds it took to connect."""
    from srmudp import Config, MultiHolepunchSocket

    config = Config(backend=backend)  # type: ignore[arg-type]
    began = time.monotonic()
    with MultiHolepunchSocket(PORT + 2, {"hub": (HUB, PORT)}, host=WORLD, config=config) as sock:
        connected = sock.wait_connected("hub", 20)
        tell([connected, time.monotonic() - began])


def flooder(peer_id: str, rate: str, seconds: str) -> None:
    """Tagged punches, each with a key, an index and a source of its own."""
    from srmudp import PeerId
    from srmudp.crypto.keys import punch_tag
    from srmudp.wire.packet import punch_header, punch_payload

    rng, to = random.Random(32), PeerId.parse(peer_id)
    per_second, count = int(rate), int(int(rate) * float(seconds))
    packets = []
    for number in range(count):
        header, ephemeral = punch_header(number + 1), rng.randbytes(32)
        punch = header + ephemeral + punch_payload(header, ephemeral, tag_of=lambda data: punch_tag(to, data))
        source = struct.pack(">4B", rng.choice((20, 45, 80, 150, 203)), *rng.randbytes(2), rng.randrange(1, 255))
        packets.append(packet(source, rng.randrange(1024, 65536), punch))
    tell("ready")
    sys.stdin.readline()
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        began, sent = time.monotonic(), 0
        while sent < count:
            due = min(count, int((time.monotonic() - began) * per_second))
            for one in packets[sent:due]:
                raw.sendto(one, (HUB, 0))
            sent = due
            time.sleep(0.002)
        tell([sent, time.monotonic() - began])


def packet(source: bytes, port: int, payload: bytes) -> bytes:
    """An IPv4 packet with a UDP datagram for the hub; the system fills in the header's checksum."""
    udp = struct.pack(">HHHH", port, PORT, 8 + len(payload), 0) + payload  # no checksum: allowed over IPv4
    header = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, socket.IPPROTO_UDP, 0, source, socket.inet_aton(HUB)
    )
    return header + udp


# --- the scene ---


@contextlib.contextmanager
def namespaces() -> Iterator[tuple[str, str]]:
    """Two namespaces with a wire between them; whatever is not local to the first is routed to the second."""
    names = (f"srmudp-hub-{os.getpid()}", f"srmudp-world-{os.getpid()}")

    def ip(*command: str) -> None:
        subprocess.run(["ip", *command], check=True, capture_output=True, timeout=10)

    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "wire0", "netns", names[0], "type", "veth", "peer", "name", "wire1", "netns", names[1])
        for name, wire, address in zip(names, ("wire0", "wire1"), (HUB, WORLD), strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", wire)
            ip("-n", name, "link", "set", wire, "up")
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", names[0], "route", "add", "default", "via", WORLD)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=10)


def start(stack: contextlib.ExitStack, namespace: str, *arguments: object) -> subprocess.Popen[str]:
    """A program of this file inside a namespace, killed at the end whatever happens."""
    command = ["ip", "netns", "exec", namespace, sys.executable, "-m", "tests.real.flood", *map(str, arguments)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    stack.callback(_finish, process)
    return process


def _finish(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def line(process: subprocess.Popen[str]) -> Any:
    """The next line a program says, decoded."""
    assert process.stdout is not None
    text = process.stdout.readline()
    assert text, f"{process.args} ended with {process.poll()}"
    return json.loads(text)


def ask(process: subprocess.Popen[str]) -> Any:
    """What the hub says of itself now."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return line(process)


def scene(seconds: float, rate: int, backend: str, calm: float = 2.0, pace: float = 0.0) -> dict[str, Any]:
    """Connection first, then the flood, and the late peer in its midst. What it did to both.

    Args:
        pace: MB that the friend sends in a second; 0 for as many as it can.
    """
    with namespaces() as (at_hub, at_world), contextlib.ExitStack() as stack:
        the_hub = start(stack, at_hub, "hub", backend)
        peer_id = line(the_hub)
        the_flood = start(stack, at_world, "flooder", peer_id, rate, seconds)
        assert line(the_flood) == "ready"
        the_friend = start(stack, at_world, "friend", backend, pace)
        assert line(the_friend) == "connected"
        time.sleep(1.0)  # until its rate has settled
        before = ask(the_hub)
        time.sleep(calm)
        between = ask(the_hub)
        assert the_flood.stdin is not None
        the_flood.stdin.write("\n")
        the_flood.stdin.flush()
        time.sleep(min(0.5, seconds / 4))
        connected, took = line(start(stack, at_world, "late", backend))
        sent, lasted = line(the_flood)
        after = ask(the_hub)
        quiet, flooded = ((b[1] - a[1]) / (b[0] - a[0]) / 1e6 for a, b in ((before, between), (between, after)))
        return {
            "backend": backend,
            "punches": sent,
            "seconds": round(lasted, 2),
            "quiet_mb_s": round(quiet, 1),
            "flooded_mb_s": round(flooded, 1),
            "ratio": round(flooded / quiet, 3),
            "late_connected": connected,
            "late_seconds": round(took, 2),
            "growth_mib": round((after[2] - between[2]) / 2**20, 1),
            "cpu": round((after[5] - between[5]) / (after[0] - between[0]), 2),
            "peers": after[3],
            "drops": after[4],
        }


def main(arguments: list[str]) -> int:
    programs = {"hub": hub, "friend": friend, "late": late, "flooder": flooder}
    if arguments and arguments[0] in programs:
        programs[arguments[0]](*arguments[1:])
        return 0
    parser = argparse.ArgumentParser(prog="python -m tests.real.flood", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=int, default=5000, help="punches a second")
    parser.add_argument("--calm", type=float, default=2.0, help="seconds measured before the flood")
    parser.add_argument("--pace", type=float, default=0.0, help="MB/s that the friend sends; 0: as many as it can")
    parser.add_argument("--backend", default="auto")
    options = parser.parse_args(arguments)
    result = scene(options.seconds, options.rate, options.backend, options.calm, options.pace)
    print(json.dumps(result, indent=2))
    held = result["ratio"] >= 0.5 and result["late_connected"] and result["late_seconds"] <= 3
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
