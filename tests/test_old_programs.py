"""Programs written for srudp, as its documents show them: they run when the import is changed and nothing else.

Each is text that imports ``srudp``; the tests put ``srmudp`` there.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.programs import Program, free_ports
from tests.sockets.pairs import free_port

SENDER = """
from srudp import SecureReliableSocket
from time import sleep, time
import sys

sock = SecureReliableSocket()
sock.connect(("127.0.0.1", int(sys.argv[1])))

while not sock.is_closed:
    try:
        sock.sendall(b'hello ' + str(time()).encode() + b';')
    except ConnectionAbortedError:
        break
    sleep(0.02)
print("closed", sock)
"""

READER = """
from srudp import SecureReliableSocket
from time import time
import sys

sock = SecureReliableSocket()
sock.connect(("127.0.0.1", int(sys.argv[1])))

words = b''
while not sock.is_closed:
    data = sock.recv(1024)
    if not data:
        break
    words += data
    if words.count(b';') >= 5:
        sock.close()
print([word[:5] for word in words.split(b';')[:5]])
print("closed", sock)
"""

PROMPT = """
from srudp import *
import sys, os, threading
from hashlib import sha256

port, mine = int(sys.argv[1]), sys.argv[2]
sock = SecureReliableSocket()
sock.connect(("127.0.0.1", port))
if mine == "one":
    sock.sendall(b"hello world?")
    data = os.urandom(1024 * 1024 * 4)
    print(sha256(data).hexdigest())
    sock.sendall(data)
    assert sock.recv(1024) == b"all there"
    sock.broadcast(b"why?")
    assert sock.recv(1024) == b"heard"
    sock.broadcast(b"hooked")
    assert sock.recv(1024) == b"heard by the hook"
    sock.close()
else:
    assert sock.recv(1024) == b'hello world?'
    sock.settimeout(30.0)
    data = b''
    while len(data) < 4194304:
        try:
            data += sock.recv(8192)
        except Exception as e:
            print("timeout", e)
            break
    print(sha256(data).hexdigest())
    assert 0 <= sock.loss / sock.receiver_seq * 100 < 5
    sock.settimeout(None)
    sock.sendall(b"all there")
    assert sock.recv(1024) == b"why?"
    seen = threading.Event()
    def hook(p, s):
        assert isinstance(p, Packet) and p.data == b"hooked" and s is sock
        seen.set()
    sock.broadcast_hook_fnc = hook
    sock.sendall(b"heard")
    assert seen.wait(10)
    sock.sendall(b"heard by the hook")
    assert sock.recv(1024) == b''
    assert sock.is_closed
"""

BASICS = """
from srudp import SecureReliableSocket, Packet, get_formal_address_format
from concurrent.futures import ThreadPoolExecutor
from time import sleep
import socket as s
import os, select, sys

executor = ThreadPoolExecutor(4, thread_name_prefix="Thread")
for family, host, port in ((s.AF_INET, "127.0.0.1", int(sys.argv[1])), (s.AF_INET6, "::1", int(sys.argv[2]))):
    sock1 = SecureReliableSocket(family)
    sock2 = SecureReliableSocket(family)
    sock1.settimeout(5.0)
    sock2.settimeout(5.0)
    fut1 = executor.submit(sock1.connect, (host, port))
    fut2 = executor.submit(sock2.connect, (host, port))
    fut1.result(10.0)
    fut2.result(10.0)
    assert sock1.established and sock2.established, (sock1, sock2)
    assert sock1.getpeername() == sock2.getsockname(), (sock1.getpeername(), sock2.getsockname())

    sock1.sendall(b"hello world")
    assert sock2.recv(1024) == b"hello world"
    sock2.broadcast(b"good man")
    assert sock1.recv(1024) == b"good man"
    def hook_fnc(packet: Packet, _sock: SecureReliableSocket):
        assert packet.data == b"broadcasting now"
    sock1.broadcast_hook_fnc = hook_fnc
    sock2.broadcast(b"broadcasting now")

    data = os.urandom(1000000)
    executor.submit(sock2.sendall, data).add_done_callback(lambda fut: fut.result())
    received = b""
    while True:
        try:
            received += sock1.recv(4096)
            if 1000000 <= len(received):
                break
        except s.timeout:
            break
    assert received == data, (len(received), len(data))
    r, _w, _x = select.select([sock1.fileno()], [], [], 0.0)
    assert not r
    sock1.close()
    sock2.close()
    assert sock1.is_closed and sock2.is_closed
executor.shutdown(True)
print("done")
"""

ASYNCIO = """
from srudp import SecureReliableSocket
from concurrent.futures import ThreadPoolExecutor
from time import sleep
import asyncio, sys

executor = ThreadPoolExecutor(4)
loop = asyncio.new_event_loop()
sock1 = SecureReliableSocket()
sock2 = SecureReliableSocket()
sock1.settimeout(None)
sock2.settimeout(None)

async def coro():
    fut1 = loop.run_in_executor(executor, sock1.connect, ("127.0.0.1", int(sys.argv[1])))
    fut2 = loop.run_in_executor(executor, sock2.connect, ("127.0.0.1", int(sys.argv[1])))
    await fut1
    await fut2
    reader1, writer1 = await asyncio.open_connection(sock=sock1)
    reader2, writer2 = await asyncio.open_connection(sock=sock2)
    writer1.write(b"nice world")
    await writer1.drain()
    assert await reader2.read(1024) == b"nice world"
    writer1.close()
    writer2.close()

loop.run_until_complete(coro())
sleep(0.2)
assert sock1.is_closed and sock2.is_closed, (sock1, sock2)
loop.close()
executor.shutdown()
print("done")
"""


def here(program: str) -> str:
    """The program with the one change."""
    changed = program.replace("from srudp import", "from srmudp import")
    assert changed != program
    return changed


def test_the_two_programs_of_its_readme(tmp_path: Path) -> None:
    port = str(free_port())
    with (
        Program(["-c", here(SENDER), port], tmp_path) as sender,
        Program(["-c", here(READER), port], tmp_path) as reader,
    ):
        lines = reader.finish().splitlines()
        assert lines[0] == str([b"hello"] * 5)
        assert lines[1].startswith("closed <SecureReliableSocket CLOSED ")
        assert sender.finish().startswith("closed <SecureReliableSocket CLOSED ")


def test_the_session_of_its_tutorial(tmp_path: Path) -> None:
    port = str(free_port())
    with (
        Program(["-c", here(PROMPT), port, "one"], tmp_path) as one,
        Program(["-c", here(PROMPT), port, "two"], tmp_path) as two,
    ):
        assert one.finish() == two.finish() != ""


def test_how_it_is_tested(tmp_path: Path) -> None:
    with Program(["-c", here(BASICS), *(str(free_port()) for _ in range(2))], tmp_path) as program:
        assert program.finish() == "done"


def test_its_example_with_asyncio(tmp_path: Path) -> None:
    with Program(["-c", here(ASYNCIO), str(free_port())], tmp_path) as program:
        assert program.finish() == "done"


MESSAGES = """
import json, sys, threading
from srmudp import SecureReliableSocket

port, peer, words = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
sock = SecureReliableSocket(port)
assert sock.getsockname().split(":")[1] == str(port)
sock.connect(peer)
for word in words:
    sock.send(word.encode() * 50_000)
got = []
while len(got) < len(words):
    result = sock.receive(timeout=0.1)
    if result is not None:
        sender, data, key = result
        got.append([sender, len(data), data[:3].decode(), key.decode().splitlines()[0]])
print(json.dumps(got))
done = threading.Thread(target=sock.close)
done.start()
done.join(2)
assert not done.is_alive() and sock.is_closed
"""


def test_a_program_for_srmudp_0_0_4(tmp_path: Path) -> None:
    """It imports the same name already."""
    a, b = free_ports(2)
    with (
        Program(["-c", MESSAGES, str(a), f"127.0.0.1:{b}", "one", "two"], tmp_path) as one,
        Program(["-c", MESSAGES, str(b), f"127.0.0.1:{a}", "drei", "vier"], tmp_path) as two,
    ):
        for program, sender, words in ((one, b, ("dre", "vie")), (two, a, ("one", "two"))):
            size = 150_000 if sender == a else 200_000
            expected = [[f"127.0.0.1:{sender}", size, word, "-----BEGIN PUBLIC KEY-----"] for word in words]
            assert program.finish() == json.dumps(expected)
