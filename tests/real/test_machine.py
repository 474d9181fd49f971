"""What the machine does to a conversation: clocks that jump, logs that are read, Ctrl-C at any moment."""

from __future__ import annotations

import base64
import copy
import gc
import hashlib
import logging
import pickle
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import srmudp
from srmudp import Config, Identity, Message, SrmudpError, impaired
from srmudp.crypto import keys
from srmudp.crypto.backend import Backend, select_backend
from srmudp.models import Address
from srmudp.sockets import arguments
from tests.endpoints import WireWatcher
from tests.real.helpers import (
    DEADLINE,
    Make,
    Wire,
    alive,
    all_told,
    content,
    digests,
    join,
    key_agreements,
    receive,
    state,
)

PACKAGE = str(Path(srmudp.__file__).parent)

# --- 42: the wall clock ---


@pytest.fixture
def wall_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[float], float]], None]:
    """Replaces ``time.time`` in the module and wherever srmudp has imported it by name."""
    real = time.time

    def change(jump: Callable[[float], float]) -> None:
        def wrong() -> float:
            return jump(real())

        monkeypatch.setattr(time, "time", wrong)
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] == "srmudp":
                for attribute, value in list(vars(module).items()):
                    if value is real or getattr(value, "__name__", "") == "wrong":
                        monkeypatch.setattr(module, attribute, wrong)

    return change


def test_attack_42_the_wall_clock_jumps(make: Make, wall_clock: Callable[[Callable[[float], float]], None]) -> None:
    """Attack 42: +1 h, -1 day and 1970 during a transfer: all arrives, nobody is lost, only the timestamps show it."""
    a, b = make(timeout=5), make(timeout=5)
    events: list[str] = []
    for sock in (a, b):
        sock.on_event(lambda event: events.append(event.kind))
    join(a, b)
    a.send(b"before", "b")
    began = b.receive(DEADLINE)
    assert began is not None
    jumps: list[Callable[[float], float]] = [
        lambda now: now + 3600,
        lambda now: now - 86_400,
        lambda now: now - began.timestamp,  # 1970
        lambda now: now,
    ]
    expected = [began.timestamp + 3600, began.timestamp - 86_400, 0.0, began.timestamp]
    for number, jump in enumerate(jumps):
        data = content(2_000_000, number)
        delivery = a.send(data, "b")
        answer = b.send(b"%d" % number, "a")
        wall_clock(jump)
        message = b.receive(DEADLINE)
        assert message is not None, state(b)
        assert digests([message.content]) == digests([data])
        later = a.send(b"after the jump", "b", ttl=DEADLINE)
        assert receive(b, 1) == [b"after the jump"]
        assert receive(a, 1) == [b"%d" % number]
        assert all(one.wait(DEADLINE) for one in (delivery, answer, later))
        b.send(b"stamped", "a")
        stamped = a.receive(DEADLINE)
        assert stamped is not None
        assert abs(stamped.timestamp - expected[number]) < 60
    alive(a, b)
    all_told(a, b)
    assert set(events) <= {"connected", "mtu"}


# --- 45: logs ---


class Spy:
    """A crypto back end that remembers every secret it is given or gives."""

    def __init__(self, inner: Backend, secrets: set[bytes]) -> None:
        self._inner = inner
        self._secrets = secrets

    @property
    def name(self) -> str:
        return self._inner.name

    def aead(self, key: bytes) -> Any:
        self._secrets.add(bytes(key))
        return self._inner.aead(key)

    def x25519_public(self, private: bytes) -> bytes:
        self._secrets.add(bytes(private))
        return self._inner.x25519_public(private)

    def x25519(self, private: bytes, public: bytes) -> bytes:
        shared = self._inner.x25519(private, public)
        self._secrets.update((bytes(private), bytes(shared)))
        return shared

    def ed25519_public(self, seed: bytes) -> bytes:
        self._secrets.add(bytes(seed))
        return self._inner.ed25519_public(seed)


def forms(secret: bytes) -> Iterator[str]:
    """How a secret, a good part of it or a hash of it would look in a text."""
    start, end = secret[:9], secret[-9:]
    for part in (start, end):
        yield part.hex()
        yield part.hex(" ")
        yield repr(part)[2:-1]
        yield repr(list(part))[1:-1]
        yield base64.b64encode(part).decode()
        yield base64.urlsafe_b64encode(part).decode()
    yield base64.b32encode(secret[:10]).decode()
    yield str(int.from_bytes(secret, "big"))
    yield str(int.from_bytes(secret, "little"))
    for name in ("md5", "sha1", "sha256", "sha512", "blake2b"):
        yield hashlib.new(name, secret).hexdigest()[:16]


def reachable(*roots: object) -> dict[int, object]:
    """Every object that belongs to srmudp and can be reached from the roots."""
    seen: dict[int, object] = {}
    found: dict[int, object] = {}
    queue = list(roots)
    while queue:
        thing = queue.pop()
        if id(thing) in seen or isinstance(thing, type | type(sys) | type(forms)):
            continue
        seen[id(thing)] = thing
        if type(thing).__module__.partition(".")[0] == "srmudp":
            found[id(thing)] = thing
        queue += gc.get_referents(thing)
    return found


def test_attack_45_nothing_secret_in_logs_and_reprs(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Attack 45: a whole conversation at DEBUG, and what all objects inside say of themselves: no key, no payload."""
    secrets: set[bytes] = set()
    for module in (arguments, keys):
        monkeypatch.setattr(module, "select_backend", lambda name="auto": Spy(select_backend(name), secrets))
    caplog.set_level(logging.DEBUG)
    who = Identity.generate()
    bad = impaired(loss=0.02, corrupt=0.05, duplicate=0.02, seed=45)
    a, b = make(identity=who, name="Alice", config=Config(transport=bad)), make(name="Bob")
    join(a, b)
    plaintexts = [b"the plaintext number %d " % number + content(300, number) for number in range(20)]
    for number, text in enumerate(plaintexts):
        a.send(text, "b", channel=number % 3, reliable=number % 5 != 4)
        b.send(text, "a")
    large = content(200_000, "logs")
    a.send(large, "b", channel=7)
    receive(a, 20)
    texts: list[str] = []
    for wrong in (
        lambda: a.send(plaintexts[0], "nobody"),
        lambda: a.send(bytes(70_000_000), "b"),
        lambda: a.send(plaintexts[0].decode("latin-1"), "b"),  # type: ignore[arg-type]
        lambda: a.trust("nobody"),
        lambda: a.add_peer("x", plaintexts[0].decode("latin-1")),
        lambda: pickle.dumps(a),
        lambda: copy.copy(a),
        lambda: pickle.dumps(who),
        lambda: copy.deepcopy(who),
    ):
        with pytest.raises((SrmudpError, TypeError, ValueError)) as caught:
            wrong()
        texts.append(str(caught.value))
    objects = reachable(a, b, who)
    kinds = {type(thing).__name__ for thing in objects.values()}
    assert kinds >= {"MultiHolepunchSocket", "Engine", "Driver", "Endpoint", "Peer", "Session", "Identity", "Agreed"}
    shown = [repr(a), repr(b), repr(who)]
    shown += [text for thing in objects.values() for text in (repr(thing), str(thing))]
    a.close(0.1)  # some messages are not read: their number is logged
    b.close(0.1)
    logged = [record.getMessage() for record in caplog.records if record.name.partition(".")[0] == "srmudp"]
    logged += [logging.Formatter().format(record) for record in caplog.records if record.name.startswith("srmudp")]
    assert logged, "nothing was logged at all"
    assert len(secrets) > 8
    everything = "\n".join({*logged, *shown, *texts})
    for secret in secrets:
        assert len(secret) == 32
        for form in forms(secret):
            assert form not in everything
    spoken = "\n".join([*logged, *texts[1:4], *texts[5:], *shown[:3]])
    for text in (*plaintexts, large):
        for form in (text[:12].decode("latin-1"), text[30:42].hex(), repr(text[30:42])[2:-1]):
            assert form not in spoken


# --- 69: Ctrl-C ---


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no alarm clock")
@pytest.mark.timeout(60, method="thread")  # the test has the alarm clock for itself
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the swallowed ones
def test_attack_69_a_thousand_interrupts(make: Make) -> None:
    """Attack 69: KeyboardInterrupt at a thousand random moments of send(): no record number is ever sealed twice.

    What send() returned for arrives once and in order; of the interrupted ones some arrive, none twice. The
    conversation goes on afterwards. Each interrupt that strikes at a bad moment costs a handshake.
    """
    wire_a, wire_b = Wire(), Wire()
    a, b = make(config=Config(transport=wire_a)), make(config=Config(transport=wire_b))
    got: list[bytes] = []

    def hook(message: Message) -> None:
        got.append(message.content)

    b.register_message_hook(hook)
    join(a, b)
    rng = random.Random(69)
    pool = rng.randbytes(50_000)
    sizes = (0, 10, 10, 10, 10, 1000, 3000, 20_000)
    armed = False
    returned: list[int] = []
    number = inside = 0

    def alarm(signum: int, frame: FrameType | None) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise KeyboardInterrupt

    wanted = key_agreements(1000, 100)
    before = signal.signal(signal.SIGALRM, alarm)
    try:
        for strike in range(wanted):
            if strike % 8:  # now and then it strikes while connecting
                assert a.wait_connected("b", DEADLINE), state(a)
            try:
                # Again after a while, because one that strikes in a __del__ is swallowed by the interpreter.
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.0001, 0.0015), 0.02)
                while True:
                    armed = True
                    number += 1
                    a.send(b"%d " % number + pool[: rng.choice(sizes)], "b", timeout=DEADLINE)
                    returned.append(number)
            except KeyboardInterrupt as error:
                files = {frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)}
                inside += any(file.startswith(PACKAGE) for file in files)
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert inside > wanted / 2
    last = a.send(b"%d the last" % (number + 1), "b", timeout=DEADLINE)
    assert last.wait(2 * DEADLINE), state(a)
    b.unregister_message_hook(hook)
    numbers = [int(text.partition(b" ")[0]) for text in got]
    assert numbers == sorted(set(numbers)), "in order, each once"
    assert set(returned) <= set(numbers)
    for text in got[:-1]:
        assert text.partition(b" ")[2] == pool[: len(text.partition(b" ")[2])]
    alive(a, b)
    for sock in (a, b):
        assert sock.drops.get("internal_error", 0) == 0, state(sock)
        assert sock.drops.get("protocol_error", 0) == 0, state(sock)
    a.close()
    b.close()
    watcher = WireWatcher()
    for port, wire in ((1, wire_a), (2, wire_b)):
        for destination, datagram in wire.sent():
            watcher.see(0.0, Address("127.0.0.1", port), destination, datagram)
    watcher.check(records=wanted)
