"""Attacks 42 and 45: the wall clock decides nothing, and no key or message is found in logs, reprs or exceptions."""

from __future__ import annotations

import ast
import base64
import contextlib
import copy
import gc
import hashlib
import logging
import os
import pickle
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

import srmudp
from srmudp.config import Config
from srmudp.crypto.backend import Backend
from srmudp.crypto.keys import Identity
from srmudp.exceptions import SrmudpError
from srmudp.models import Address, PeerId
from srmudp.peers.endpoint import AcceptPolicy, Endpoint
from srmudp.wire.frames import Taken
from srmudp.wire.packet import parse_public_key, parse_punch, parse_segment
from tests.endpoints import (
    alive,
    arrived,
    connect,
    events,
    hostile,
    identity,
    make_node,
    peer_of,
    send,
    session_of,
    status,
    transfer,
)
from tests.simnet import Link, SimNet, SimNode

PACKAGE = Path(srmudp.__file__).parent
CORE = ("wire", "crypto", "protocol", "peers", "nat")
CLOCKS = ("time", "datetime", "sched", "calendar")
PLAINTEXT = b"my secret: attack at dawn; \x8f\x1e\xd2\x07\xb3\x5c\x90\xe4\x31"


def modules(*rooms: str) -> Iterator[tuple[str, ast.Module]]:
    """Every module of some rooms, parsed."""
    for room in rooms:
        for path in sorted((PACKAGE / room).rglob("*.py")):
            yield str(path.relative_to(PACKAGE)), ast.parse(path.read_text())


def imported(tree: ast.Module) -> set[str]:
    """The first parts of all absolute imports, wherever they stand."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


# --- 42 ---


def test_attack_42_no_core_module_reads_a_clock() -> None:
    """Attack 42: nothing of wire, crypto, protocol, peers or nat imports a clock or calls something named like one."""
    seen = 0
    for name, tree in modules(*CORE):
        seen += 1
        assert not imported(tree) & {*CLOCKS, "asyncio", "threading", "select", "signal"}, name
        for node in ast.walk(tree):
            called = node.func if isinstance(node, ast.Call) else None
            word = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            assert word not in {"time", "time_ns", "monotonic", "perf_counter", "sleep", "utcnow", "__import__"}, name
    assert seen > 25
    # The test itself finds what it looks for.
    assert imported(ast.parse("def f():\n    from time import time as t\n")) == {"time"}


def test_attack_42_the_wall_clock_is_read_for_timestamps_alone() -> None:
    """Attack 42: in the whole library ``time.time`` is read in one place, where a message gets its timestamp.

    The programs, ``cli`` and ``chat``, show the time to people.
    """
    readers = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        wall = [
            node.lineno
            for node in ast.walk(tree)
            if (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("time", "time_ns"))
            or (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and (node.value.id, node.attr) in {("time", "time"), ("time", "time_ns"), ("datetime", "now")}
            )
        ]
        if wall:
            readers[str(path.relative_to(PACKAGE))] = len(wall)
    room_of_readers = {name.split(os.sep)[0] for name in readers}
    # A leased port is renewed early when that clock jumps ahead, as it does in a sleep; a jump back changes nothing.
    assert room_of_readers <= {"sockets", "cli", "chat", "routers"}, readers
    assert readers.get(os.path.join("sockets", "household.py")) == 1, readers


def test_attack_42_clock_jumps_during_a_transfer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack 42: +1 h, -1 day and 1970 in the middle of a transfer, of a handshake and of an idle minute."""
    wall = time.time()
    asked = 0

    def clock() -> float:
        nonlocal asked
        asked += 1
        return wall

    monkeypatch.setattr(time, "time", clock)
    monkeypatch.setattr(time, "time_ns", lambda: int(clock() * 1e9))
    net = SimNet(42, link=Link(latency=0.02, rate=2e6, queue_bytes=100_000, loss=0.01))
    a, b = make_node(net, "a", "10.0.0.1"), make_node(net, "b", "10.0.0.2")

    def jump(to: float) -> None:
        nonlocal wall
        wall = to

    now = wall
    net.after(0.03, lambda: jump(now - 86_400))
    connect(net, a, b)
    for delay, to in ((0.1, now + 3600), (0.3, now - 86_400), (0.5, 0.0), (0.7, now)):
        net.after(delay, partial(jump, to))
    transfer(net, a, b, net.random.randbytes(1 << 20))
    jump(0.0)
    net.run(60)
    jump(now + 10 * 365 * 86_400)
    net.run(5)
    alive(net, a, b)
    assert [event.kind for event in events(a) if event.kind != "mtu"] == ["connected"]
    assert [event.kind for event in events(b) if event.kind != "mtu"] == ["connected"]
    assert asked == 0, "the core asked for the time"


def test_attack_42_clock_jumps_under_real_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack 42: real threads and timers run on, and only the timestamp of a message follows the wall clock."""
    from srmudp.sockets import household

    wall = 1_000_000.0
    monkeypatch.setattr(time, "time", lambda: wall)
    monkeypatch.setattr(household, "time", lambda: wall)
    with srmudp.MultiHolepunchSocket(host="127.0.0.1") as one, srmudp.MultiHolepunchSocket(host="127.0.0.1") as two:
        one.add_peers({"two": f"127.0.0.1:{two.port}"})
        two.add_peers({"one": f"127.0.0.1:{one.port}"})
        assert one.wait_connected(timeout=10)
        for wall in (1_000_000.0, 1_003_600.0, 0.0, 5e9):
            one.send(b"at %d" % wall, recipient="two", timeout=5)
            message = two.receive(timeout=5)
            assert message is not None
            assert message.content == b"at %d" % wall
            assert message.timestamp == wall
        assert one.connections_status["two"].established


# --- 45 ---


class Secrets:
    """Bytes that must not be seen, and where they are looked for."""

    def __init__(self) -> None:
        self.known: dict[str, bytes] = {}

    def add(self, name: str, secret: bytes) -> None:
        """Remember one."""
        assert len(secret) >= 8
        assert len(set(secret)) > 4, f"{name} is too plain to be searched for"
        self.known[f"{name}/{len(self.known)}"] = bytes(secret)

    def random(self, name: str, source: Callable[[int], bytes]) -> Callable[[int], bytes]:
        """The source, whose private keys (32 bytes and more at once) are remembered."""

        def draw(size: int) -> bytes:
            drawn = source(size)
            if size >= 32:
                self.add(name, drawn)
            return drawn

        return draw

    def session(self, sim: SimNode, other: SimNode) -> None:
        """Remember the keys of a live session."""
        agreed = session_of(sim, other).agreed
        for field in ("send_key", "receive_key", "chain_secret"):
            self.add(field, getattr(agreed.secrets, field))

    @staticmethod
    def spellings(secret: bytes) -> Iterator[str]:
        """How bytes, or eight of them, or a hash of them, could be written in a text."""
        for whole in (
            secret,
            hashlib.sha256(secret).digest(),
            hashlib.sha512(secret).digest(),
            hashlib.md5(secret).digest(),
        ):
            yield base64.b64encode(whole).decode().rstrip("=")[: len(whole)]
            yield base64.urlsafe_b64encode(whole).decode().rstrip("=")[: len(whole)]
            yield base64.b32encode(whole).decode().rstrip("=")[: len(whole)]
            yield base64.b85encode(whole).decode()
            yield str(int.from_bytes(whole, "big"))
            yield str(int.from_bytes(whole, "little"))
            for at in range(0, len(whole) - 7, 4):
                part = whole[at : at + 8]
                yield part.hex()
                yield part.hex(":")
                yield part.hex(" ")
                yield repr(part)[2:-1]
                yield part.decode("latin-1")
                yield str(list(part))[1:-1]

    def assert_not_in(self, text: str) -> None:
        """Fails if any spelling of any secret is in the text, in upper or lower case."""
        folded = text.lower()
        for name, secret in self.known.items():
            for spelling in self.spellings(secret):
                if spelling.lower() in folded:
                    at = folded.index(spelling.lower())
                    pytest.fail(f"{name} leaked: ..{text[max(0, at - 60) : at + 100]!r}..")


def reachable(*roots: object) -> list[object]:
    """Everything that hangs on these objects, as the garbage collector sees it."""
    seen: dict[int, object] = {}
    queue: list[object] = list(roots)
    while queue:
        thing = queue.pop()
        if id(thing) in seen or isinstance(thing, ModuleType | type | FunctionType):
            continue
        seen[id(thing)] = thing
        queue.extend(gc.get_referents(thing))
    return list(seen.values())


def ours(things: list[object]) -> list[object]:
    """The instances of our own classes among them."""
    return [thing for thing in things if type(thing).__module__.startswith("srmudp")]


def test_attack_45_the_search_finds_leaks() -> None:
    """Attack 45: each spelling of a secret, or of a piece of it, is found."""
    secrets = Secrets()
    key = bytes(range(7, 39))
    secrets.add("key", key)
    secrets.assert_not_in("nothing here 0123456789abcdef")
    for leak in (
        key.hex(),
        key.hex().upper(),
        key[4:12].hex(),
        repr(key),
        str(list(key)),
        base64.b64encode(key).decode(),
        hashlib.sha256(key).hexdigest(),
        str(int.from_bytes(key, "big")),
        f"<Keys {key[:16]!r}>",
        key.decode("latin-1"),
    ):
        with pytest.raises(pytest.fail.Exception):
            secrets.assert_not_in(f"some text {leak} and more")


def exceptions_of(*actions: Callable[[], object]) -> str:
    """What the errors say: text, repr and traceback of each, causes included."""
    parts = []
    for action in actions:
        try:
            action()
        except Exception as error:
            parts += [str(error), repr(error), "".join(traceback.format_exception(error))]
        else:
            pytest.fail("no exception to look at")
    return "\n".join(parts)


def test_attack_45_logs_reprs_and_exceptions(
    backend: Backend, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Attack 45: connect, talk, refuse, forge, break the protocol, lose: no secret in any text on the way."""
    caplog.set_level(logging.DEBUG)
    secrets = Secrets()
    secrets.add("plaintext", PLAINTEXT)
    net = SimNet(45, link=Link(latency=0.01, loss=0.02))
    nodes = []
    for number, name in enumerate(("a", "b", "m"), 1):
        node = make_node(net, name, f"10.0.0.{number}", backend=backend, claimed=name)
        me = identity(name, backend)
        secrets.add(f"seed of {name}", me._seed)
        secrets.add(f"private key of {name}", me.static_private)
        node.node.random = secrets.random(f"random of {name}", node.node.random)
        nodes.append(node)
    a, b, m = nodes
    texts: list[str] = []

    def look() -> None:
        for thing in ours(reachable(*(node.node for node in nodes), *(node.events for node in nodes))):
            if type(thing).__name__ != "Message":  # the application's own
                texts.append(repr(thing))
                texts.append(str(thing))

    connect(net, a, b, pin=True)
    secrets.session(a, b)
    for channel in range(3):
        send(a, b, PLAINTEXT * 40, channel=channel)
        send(a, b, PLAINTEXT, channel=channel, reliable=False)
        net.run(0.011)
        look()  # in flight, half reassembled, waiting to be taken
    net.run(1)
    assert PLAINTEXT in arrived(b, a)
    m.do(m.node.add_peer, "a", [a.address], a.node.peer_id)
    net.run(0.015)
    look()
    net.run(2)
    for junk in (b"", b"\xc1" * 512, b"\xc2" * 300, b"\xc5" + PLAINTEXT * 3, PLAINTEXT):
        a.do(lambda now, junk=junk: a.node.handle_batch(junk, len(junk), Address("198.51.100.1", 1), now))
    look()
    hostile(net, a, b, [Taken(5, 999)])
    net.run(5)
    if status(a, b).established:
        secrets.session(a, b)
    send(a, b, PLAINTEXT)
    look()
    a.do(a.node.close)
    look()
    assert len(texts) > 500
    assert len(secrets.known) > 12

    mine = identity("a", backend)
    damaged = tmp_path / "damaged.key"
    mine.save(damaged)
    content = damaged.read_bytes()
    damaged.write_bytes(content[: len(content) - 5])
    errors = exceptions_of(
        lambda: Identity(mine._seed + b"x", backend=backend),
        lambda: Identity.load(damaged, backend=backend),
        lambda: backend.aead(mine._seed[:31]),
        lambda: backend.x25519(mine.static_private, bytes(32)),
        lambda: backend.x25519(mine.static_private + b"1", bytes(32)),
        lambda: backend.aead(mine._seed).open(bytes(12), PLAINTEXT, b""),
        lambda: backend.aead(mine._seed).seal(b"", PLAINTEXT, b""),
        lambda: session_of(b, a) and pickle.dumps(peer_of(b, a)),
        lambda: b.node.send_message("a", PLAINTEXT, channel=99, reliable=True, ttl=None, now=net.now),
        lambda: b.node.send_message("nobody", PLAINTEXT, channel=0, reliable=True, ttl=None, now=net.now),
        lambda: Config(max_message_size=-1),
        lambda: b.node.add_peer("b", [], b.node.peer_id, net.now),
        lambda: PeerId(PLAINTEXT),
        lambda: parse_punch(b"\xc1\x01" + PLAINTEXT),
        lambda: parse_public_key(b"\xc2\x01" + PLAINTEXT),
        lambda: parse_segment(b"\xc5\x01" + PLAINTEXT),
    )
    secrets.assert_not_in("\n".join(texts))
    secrets.assert_not_in(errors)
    secrets.assert_not_in(caplog.text)


def test_attack_45_the_core_neither_logs_nor_prints() -> None:
    """Attack 45: whatever the other tests of this folder do, wire, crypto, protocol and peers write no log at all."""
    for name, tree in modules(*CORE):
        assert not imported(tree) & {"logging", "warnings", "traceback", "sys", "pdb"}, name
        words = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert not words & {"print", "breakpoint", "input"}, name


def test_attack_45_pickling_and_copying_are_refused(backend: Backend) -> None:
    """Attack 45: what holds a secret cannot be pickled or copied, directly or inside something else."""
    net = SimNet(451)
    a = make_node(net, "a", "10.0.0.1", backend=backend, accept=AcceptPolicy.ASK)
    b = make_node(net, "b", "10.0.0.2", backend=backend)
    connect(net, a, b)
    session = session_of(a, b)
    holders: list[object] = [
        identity("a", backend),
        a.node,
        a.node._handshakes,
        peer_of(a, b),
        peer_of(a, b).connection,
        session,
        session.agreed,
        session.agreed.secrets,
        session.keys,
        session.receiver,
    ]
    for holder in holders:
        for refused in (pickle.dumps, copy.deepcopy):
            with pytest.raises((TypeError, AttributeError, pickle.PicklingError)) as caught:
                refused(holder)
            Secrets().assert_not_in(str(caught.value))
    for holder in (identity("a", backend), session.agreed.secrets, session.keys):
        with pytest.raises(TypeError):
            copy.copy(holder)


def test_attack_45_real_sockets_at_debug(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Attack 45: sockets with saved identities, a refused stranger and undelivered mail: nothing in the log."""
    caplog.set_level(logging.DEBUG)
    secrets = Secrets()
    secrets.add("plaintext", PLAINTEXT)
    texts: list[str] = []
    one = srmudp.MultiHolepunchSocket(host="127.0.0.1", identity=tmp_path / "one.key", name="one")
    two = srmudp.MultiHolepunchSocket(host="127.0.0.1", identity=tmp_path / "two.key", name="two")
    stranger = srmudp.MultiHolepunchSocket(host="127.0.0.1", peers={"one": f"127.0.0.1:{one.port}"})
    with contextlib.ExitStack() as stack:
        for sock in (one, two, stranger):
            stack.callback(sock.close, timeout=0.1)
        one.add_peers({"two": f"127.0.0.1:{two.port}", "nobody": "127.0.0.1:9"})
        two.add_peers({"one": f"{one.peer_id}@127.0.0.1:{one.port}"})
        assert one.wait_connected(["two"], timeout=10)
        for size in (1, 2000):
            one.send(PLAINTEXT * size, recipient="two", timeout=5)
        for _ in range(2):
            message = two.receive(timeout=5)
            assert message is not None
            assert PLAINTEXT in message.content
        one.send(PLAINTEXT, recipient="nobody", timeout=1)
        with pytest.raises(SrmudpError) as caught:
            one.send(PLAINTEXT, recipient="who")
        texts += [repr(caught.value), str(caught.value)]
        for sock in (one, two, stranger):
            texts += [repr(sock), str(sock), repr(sock.connections_status), repr(sock.peer_id)]
            found = ours(reachable(sock))
            endpoints = [thing for thing in found if isinstance(thing, Endpoint)]
            assert len(endpoints) == 1
            holders = ours(reachable(endpoints[0]))
            identities = [thing for thing in holders if isinstance(thing, Identity)]
            assert identities
            for me in identities:
                secrets.add("seed", me._seed)
                secrets.add("private key", me.static_private)
            for thing in found:
                if type(thing).__name__ != "Message":
                    texts.append(repr(thing))
    for path in (tmp_path / "one.key", tmp_path / "two.key"):
        assert any(line for line in path.read_text().splitlines())
    assert "undelivered" in caplog.text
    assert len(caplog.records) > 3
    secrets.assert_not_in("\n".join(texts))
    secrets.assert_not_in(caplog.text)
