"""Programs that tests run in processes of their own: ``python -m tests.real.programs NAME ARGUMENTS``.

Each prints one line of JSON at a time on its standard output and ends by itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent


def start(*arguments: object, within: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Start a program of this file. Its standard error goes to ours.

    Args:
        within: a command that runs another, such as ``ip netns exec NAME``.
    """
    command = [*within, sys.executable, "-X", "dev", "-m", "tests.real.programs", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], within: float) -> list[Any]:
    """The lines a program printed, decoded; fails if it does not end well in time."""
    try:
        output, _ = process.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        raise AssertionError(f"still running after {within:g} s; printed {output!r}") from None
    assert process.returncode == 0, f"ended with {process.returncode}; printed {output!r}"
    return [json.loads(line) for line in output.splitlines()]


def tell(value: object) -> None:
    """Print a line for :func:`finish`."""
    print(json.dumps(value), flush=True)


def readme_example() -> str:
    """The first Python block of the README."""
    text = (ROOT / "README.md").read_text()
    blocks: list[str] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return next(block for block in blocks if "MultiHolepunchSocket" in block)


def example(port: str, peer1: str, peer2: str) -> None:
    """The first block of the README as it stands, but for ports and addresses. Says how long it took."""
    code = readme_example()
    for there, here in (
        ("port=8000", f"port={port}"),
        ("192.168.1.100:8001", f"127.0.0.1:{peer1}"),
        ("example.com:8002", f"localhost:{peer2}"),
    ):
        assert there in code, there
        code = code.replace(there, here)
    began = time.monotonic()
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__", "print": lambda *_: None})
    tell(["ended", round(time.monotonic() - began, 3)])


def listen(port: str, us: str, count: str, begin: str, within: str) -> None:
    """Wait until ``begin`` (wall clock), then open a socket that knows "us" and print what comes, with the channel."""
    from srmudp import MultiHolepunchSocket

    time.sleep(max(0.0, float(begin) - time.time()))
    deadline = time.monotonic() + float(within)
    with MultiHolepunchSocket(int(port), {"us": f"127.0.0.1:{us}"}, timeout=5) as sock:
        for _ in range(int(count)):
            message = sock.receive(max(0.0, deadline - time.monotonic()))
            if message is None:
                tell(["nothing more", str(sock.connections_status["us"]), dict(sock.drops)])
                break
            tell([message.content.decode("latin-1"), message.peer, message.channel])


def echo(count: str) -> None:
    """Say our port, read the other's, answer so many messages on their channel, and say what they were."""
    from srmudp import MultiHolepunchSocket

    with MultiHolepunchSocket(host="127.0.0.1") as sock:
        tell(sock.port)
        sock.add_peer("parent", ("127.0.0.1", int(sys.stdin.readline())))
        for _ in range(int(count)):
            message = sock.receive(30)
            if message is None:
                tell("nothing more")
                return
            tell([message.channel, len(message.content), hashlib.sha256(message.content).hexdigest()])
            sock.send(message.content, message.peer, channel=message.channel)


def fork() -> None:
    """A child of a process with an open socket: what it may call and what leaves it. The parent goes on."""
    import gc
    import warnings

    from srmudp import Config, LocalProtocolError, MultiHolepunchSocket
    from tests.real.helpers import Wire, alive, join

    warnings.simplefilter("ignore", DeprecationWarning)  # of os.fork() beside threads, from 3.12 on
    wire = Wire()
    a, b = MultiHolepunchSocket(host="127.0.0.1", config=Config(transport=wire)), MultiHolepunchSocket(host="127.0.0.1")
    join(a, b)
    pending = a.send(b"x" * 100_000, "b")  # nobody takes it before the fork: something is pending in both
    before = len(list(wire.sent()))
    child = os.fork()
    if child == 0:
        calls: dict[str, Callable[[], object]] = {
            "send": lambda: a.send(b"from the child", "b"),
            "receive": lambda: a.receive(0),
            "add_peer": lambda: a.add_peer("c", "127.0.0.1:9"),
            "remove_peer": lambda: a.remove_peer("b"),
            "wait_connected": lambda: a.wait_connected("b", 0),
            "fileno": a.fileno,
            "getsockname": a.getsockname,
            "with": a.__enter__,
            "verification_code": lambda: a.verification_code("b"),
            "connections_status": lambda: a.connections_status,
            "drops": lambda: a.drops,
        }
        raised = {}
        for name, call in calls.items():
            try:
                call()
                raised[name] = "nothing"
            except LocalProtocolError:
                raised[name] = "LocalProtocolError"
            except BaseException as error:
                raised[name] = repr(error)
        a.close()
        b.close(5)
        a.__exit__(None, None, None)
        text = repr(a)
        descriptors = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)]
        tell(
            {
                "raised": raised,
                "repr": text,
                "sockets": sum(target.startswith("socket:") for target in descriptors),
                "left": len(list(wire.sent())) - before,
            }
        )
        del a, b
        gc.collect()
        sys.exit(0)  # by atexit and the rest of the interpreter's end
    _, status = os.waitpid(child, 0)
    message = b.receive(10)
    ok = message is not None and pending.wait(10)
    alive(a, b)
    tell({"child": os.waitstatus_to_exitcode(status), "parent goes on": ok, "drops": [dict(a.drops), dict(b.drops)]})
    a.close()
    b.close()


def icmp(rejecting: str) -> None:
    """In a network namespace of our own: a transfer while ICMP says that nobody listens. Root only.

    Spoofed port-unreachable messages quote the packets of either side, a thousand a second. With ``rejecting`` the
    caller has made the system itself answer a part of the packets so.
    """
    import socket
    import struct
    import threading

    from srmudp import MultiHolepunchSocket
    from tests.real.helpers import alive, content, digests, join, receive

    def sum16(data: bytes) -> int:
        total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
        total = (total >> 16) + (total & 0xFFFF)
        return ~(total + (total >> 16)) & 0xFFFF

    def unreachable(code: int, source: int, destination: int) -> bytes:
        """ICMP type 3 about a datagram that one socket sent to the other (RFC 792)."""
        ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 528, 7, 0, 64, 17, 0, bytes((127, 0, 0, 1)), bytes((127, 0, 0, 1)))
        ip = ip[:10] + struct.pack(">H", sum16(ip)) + ip[12:]
        quoted = ip + struct.pack(">HHHH", source, destination, 508, 0)
        body = struct.pack(">BBHHH", 3, code, 0, 0, 68 if code == 4 else 0) + quoted
        return body[:2] + struct.pack(">H", sum16(body)) + body[4:]

    end = threading.Event()
    sent = 0

    with MultiHolepunchSocket(host="127.0.0.1") as a, MultiHolepunchSocket(host="127.0.0.1") as b:

        def spoof() -> None:
            nonlocal sent
            with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
                while not end.wait(0.002):
                    for code in (3, 4, 1):  # port unreachable, fragmentation needed (MTU 68), host unreachable
                        for ports in ((a.port, b.port), (b.port, a.port)):
                            raw.sendto(unreachable(code, *ports), ("127.0.0.1", 0))
                            sent += 1

        thread = threading.Thread(target=spoof)
        thread.start()
        try:
            events: list[str] = []
            for sock in (a, b):
                sock.on_event(lambda event: events.append(event.kind))
            join(a, b)
            for number in range(5):
                data = content(1_000_000, number)
                delivery = a.send(data, "b")
                ok = digests(receive(b, 1, 20)) == digests([data]) and delivery.wait(20)
                alive(a, b)
                tell(ok)
        finally:
            end.set()
            thread.join(10)
        mtus = [sock.connections_status[name].mtu for sock, name in ((a, "b"), (b, "a"))]
        tell({"spoofed": sent, "events": sorted(set(events) - {"mtu"}), "mtu": min(mtus), "rejecting": rejecting})
        tell({"drops": [dict(a.drops), dict(b.drops)]})


def descriptors() -> None:
    """Open sockets until the system has no descriptor left, with each possible number left at the beginning."""
    import errno
    import resource
    import threading

    from srmudp import MultiHolepunchSocket
    from tests.real.helpers import alive, join

    def descriptors_open() -> int:
        return len(os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"))

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def limit(number: int) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))

    a, b = MultiHolepunchSocket(host="127.0.0.1"), MultiHolepunchSocket(host="127.0.0.1")
    join(a, b)
    opened, running = descriptors_open(), threading.active_count()
    ways, errors = 0, set()
    for spare in range(8):
        limit(opened - 1 + spare)
        try:
            MultiHolepunchSocket(host="127.0.0.1").close(0)
        except Exception as error:
            ways += 1
            errors.add(f"{type(error).__name__} {errno.errorcode.get(getattr(error, 'errno', None) or 0, error)}")
        limit(64)
    left = descriptors_open() - opened
    tell({"ways to fail": ways, "errors": sorted(errors), "left open": left, "left running": _more(running)})
    sockets: list[MultiHolepunchSocket] = []
    failure = ""
    try:
        while len(sockets) < 100:
            sockets.append(MultiHolepunchSocket(host="127.0.0.1"))
    except OSError as error:
        failure = errno.errorcode[error.errno or 0]
    alive(a, b)
    join(sockets[0], sockets[1])
    tell({"opened": len(sockets), "error": failure, "others go on": True})
    for sock in sockets:
        sock.close(0)
    with MultiHolepunchSocket(host="127.0.0.1") as again:
        ok = not again.is_closed
    tell({"again": ok, "left open": descriptors_open() - opened, "left running": _more(running)})
    a.close()
    b.close()


def _more(running: int) -> int:
    """Threads more than there were, after those on their way out have had time."""
    import threading

    deadline = time.monotonic() + 5
    while threading.active_count() > running and time.monotonic() < deadline:
        time.sleep(0.01)
    return threading.active_count() - running


def goodbye(name: str) -> None:
    """A service that is ended by a signal while it sends: its handler sends a last word and closes."""
    import signal
    import threading

    from srmudp import MultiHolepunchSocket, SocketClosed
    from tests.real.helpers import join

    running = threading.active_count()
    a, b = MultiHolepunchSocket(host="127.0.0.1"), MultiHolepunchSocket(host="127.0.0.1")
    join(a, b)
    got: list[bytes] = []
    events: list[str] = []
    b.on_event(lambda event: events.append(event.kind))
    b.register_message_hook(lambda message: got.append(message.content))

    def handler(signum: int, frame: object) -> None:
        a.send(b"goodbye", "b")
        a.close()

    signal.signal(getattr(signal, name), handler)
    threading.Timer(0.3, lambda: os.kill(os.getpid(), getattr(signal, name))).start()
    number = 0
    ended = ""
    try:
        while True:
            a.send(b"%d " % number + bytes(2000), "b", timeout=10)
            number += 1
    except SocketClosed as error:
        ended = type(error).__name__
    a.close()  # if the handler could only ask for it
    deadline = time.monotonic() + 10
    while "lost" not in events and time.monotonic() < deadline:
        time.sleep(0.01)
    numbers = [int(text.split()[0]) for text in got if text != b"goodbye"]
    b.close()
    tell({"ended by": ended, "closed": a.is_closed, "left running": _more(running)})
    tell(
        {
            "goodbyes": got.count(b"goodbye"),
            "in order": numbers == list(range(len(numbers))) and len(numbers) >= number,
            "lost event": events[-1] if events else "",
        }
    )


def _is_open(descriptor: str) -> bool:
    try:
        os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return False
    return True


def after(begin: str, name: str, *arguments: str) -> None:
    """Another of these programs, begun at a time (wall clock) with everything imported."""
    import srmudp  # noqa: F401

    time.sleep(max(0.0, float(begin) - time.time()))
    PROGRAMS[name](*arguments)


PROGRAMS: dict[str, Callable[..., None]] = {
    function.__name__: function for function in (after, descriptors, echo, example, fork, goodbye, icmp, listen)
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](*sys.argv[2:])
