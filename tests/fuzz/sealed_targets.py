"""The target "sealed": "a" has real keys and seals what no honest program would, "b" must bear it, "c" not notice.

Plaintexts that were really sealed in this run are mutated, or frames made around the numbers where ``b`` stands, and
sealed under the next record number. Each record has no effect beyond what its frames may do, or closes the connection
with a protocol error. Nothing else: no exception, no long computation, no growth, no harm to the other peer.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

from srmudp.config import CHANNELS
from srmudp.crypto.backend import Aead, Backend, Data, select_backend
from srmudp.exceptions import DecodeError
from srmudp.models import Address, Candidate, EventKind
from srmudp.protocol.session import Session
from srmudp.wire import frames
from srmudp.wire.codec import VARINT_MAX, encode_varint
from srmudp.wire.frames import Frame
from srmudp.wire.packet import RECORD
from tests.endpoints import events, peer_of
from tests.fuzz.parsers import require
from tests.fuzz.worlds import QUIET, STRANGERS, Step, World
from tests.simnet import SimNode

RECORD_AAD: Final = 29
LOG: Final = 300


class ListeningBackend:
    """A crypto back end that keeps the plaintexts of the records it seals."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self.plaintexts: list[bytes] = []

    @property
    def name(self) -> str:
        return self._inner.name

    def aead(self, key: bytes) -> Aead:
        return _ListeningAead(self.plaintexts, self._inner.aead(key))

    def x25519_public(self, private: bytes) -> bytes:
        return self._inner.x25519_public(private)

    def x25519(self, private: bytes, public: bytes) -> bytes:
        return self._inner.x25519(private, public)

    def ed25519_public(self, seed: bytes) -> bytes:
        return self._inner.ed25519_public(seed)


class _ListeningAead:
    def __init__(self, log: list[bytes], inner: Aead) -> None:
        self._log, self._inner = log, inner

    def seal(self, nonce: bytes, plaintext: Data, aad: Data) -> bytes:
        if len(aad) == RECORD_AAD and len(self._log) < LOG:
            self._log.append(bytes(plaintext))
        return self._inner.seal(nonce, plaintext, aad)

    def open(self, nonce: bytes, ciphertext: Data, aad: Data) -> bytes:
        return self._inner.open(nonce, ciphertext, aad)


class HostileWorld(World):
    """``a`` is hostile and authenticated; what is between ``b`` and ``c`` must stay as if it were not."""

    def __init__(self, script: bytes) -> None:
        self.listening = ListeningBackend(select_backend())
        super().__init__(script, self.listening)
        self.strict = {("b", "c")}
        self._holding = False
        self.net.intercept(self._hold)
        self.connect()
        self.net.run_until(lambda: all(self.nodes["b"].node._registry.named(n).connected for n in "ac"), 20)

    def honest_for(self, sim: SimNode) -> set[str]:
        return super().honest_for(sim) - {"a"}

    def _hold(self, now: float, source: Address, destination: Address, data: bytes) -> list[Any] | None:
        """While holding, no honest record of ``a`` reaches ``b``: the first one to come is a hostile one."""
        return [] if self._holding and data[:1] == bytes((RECORD,)) and source == self.nodes["a"].address else None

    @property
    def ends(self) -> tuple[SimNode, SimNode]:
        return self.nodes["a"], self.nodes["b"]

    # --- sealing

    def _session(self) -> Session | None:
        peer = peer_of(self.nodes["a"], "b")
        return peer.connection.session or peer.opening.half_open

    def _strike(self, plaintext: bytes, mtu: int = 60_000, source: Address | None = None) -> None:
        """Seal it as one record and have it arrive at ``b``."""
        session = self._session()
        a, b = self.ends
        if session is None or not plaintext:
            self.net.run(0.5)
            return
        plaintext = plaintext[: 44 * (min(mtu, 60_000) - 38) - 16][:62_000].ljust(16, b"\0")
        header, _, wire = session.seal(plaintext, mtu)
        errors = b.node.drops["protocol_error"]
        lost = self._lost()
        size = header.size + 30
        for offset in range(0, len(wire), size):
            self.deliver(b, wire[offset : offset + size], source or a.address)
        closed = b.node.drops["protocol_error"] - errors
        require(closed <= 1, "one record closed two connections")
        require(self._lost() - lost == closed, "a breach without a LOST event, or the reverse")
        self.bounded(b)

    def _lost(self) -> int:
        told = "it broke the protocol"
        return sum(event.peer == "a" and told in event.reason for event in events(self.nodes["b"], EventKind.LOST))

    # --- hostile steps

    def mutated(self, step: Step) -> None:
        """A plaintext that was sealed once, with its frames or its bytes changed."""
        log = self.listening.plaintexts
        if not log:
            return
        mutator = self.mutator(step)
        plaintext = log[step.x % len(log)] if step.y & 1 else log[-1 - step.x % len(log)]
        if step.y & 2:
            plaintext = mutator.mutate(plaintext, log[-20:])
        else:
            pieces = _pieces(plaintext) + _pieces(mutator.rng.choice(log))
            pieces = mutator.reorder(pieces[:80])
            for _ in range(mutator.rng.randrange(1, 3)):
                if pieces:
                    at = mutator.rng.randrange(len(pieces))
                    pieces[at] = pieces[at][:1] + mutator.mutate(pieces[at][1:], pieces)
            plaintext = b"".join(pieces)
        self._strike(plaintext)

    def crafted(self, step: Step) -> None:
        """Well-formed frames with numbers around those where ``b`` stands."""
        rng = self.rng(step)
        self._strike(b"".join(self._craft(rng) for _ in range(1 + step.y % 6)))

    def same_kind(self, step: Step) -> None:
        """One kind of frame, many times in one record."""
        rng = self.rng(step)
        kind = rng.randrange(len(_CRAFT))
        self._strike(b"".join(self._craft(rng, kind) for _ in range(1 + step.y * 3)))

    def storm(self, step: Step) -> None:
        """Many records of one kind of frame."""
        rng = self.rng(step)
        kind = rng.randrange(len(_CRAFT))
        for _ in range(40):
            self._strike(self._craft(rng, kind), source=rng.choice(STRANGERS) if step.y & 1 else None)

    def jump(self, step: Step) -> None:
        """Record and transmission numbers that jump."""
        session = self._session()
        if session is not None:
            session.next_number += (1, 3, 1000, 65_535, 65_537, 1 << 20)[step.x % 6]
            session.next_transmission += (0, 1, 44, 65_537)[step.y % 4]
            session.keys.next_number = max(session.keys.next_number, session.next_number)
            self._strike(b"\x01" + bytes(20))

    def fragmented(self, step: Step) -> None:
        """A record of many segments, some missing, in any order, twice; its plaintext mutated."""
        session = self._session()
        a, b = self.ends
        if session is None:
            return
        mutator = self.mutator(step)
        rng = mutator.rng
        plaintext = b"".join(self._craft(rng) for _ in range(3)) + rng.randbytes(200 + 40 * step.y)
        mtu = rng.choice((70, 200, 1000, 1200))
        header, _, wire = session.seal(plaintext[: 44 * (mtu - 38) - 16], mtu)
        size = header.size + 30
        pieces = mutator.reorder([wire[at : at + size] for at in range(0, len(wire), size)])
        for piece in pieces:
            self.deliver(b, piece, a.address)
        self.bounded(b)

    def early(self, step: Step) -> None:
        """``a`` begins anew, and its first record under the new session is a hostile one."""
        self.nodes["a"].detach()
        self.start("a")
        self._holding = True
        self.introduce("a")
        rng = self.rng(step)
        self.net.run_until(lambda: self._session() is not None, 3)
        for _ in range(1 + step.y % 4):
            self._strike(b"".join(self._craft(rng) for _ in range(1 + step.x % 3)))
        self._holding = False

    def glut(self, step: Step) -> None:
        """More than was granted: messages behind one that does not come, whole or in parts, beyond the windows."""
        b = self.nodes["b"]
        rng = self.rng(step)
        for number in range(1 + step.y % 16):
            channel = step.x % (1 + step.who % 4)
            state = peer_of(b, "a").connection.receiving.channels.get(channel)
            first = (state.expected if state is not None else 0) + 1 + 40 * number
            size = rng.choice((1, 1000, 1400))
            total = size if step.who & 0x80 else size + rng.choice((0, 1, 50_000))
            self._strike(
                b"".join(
                    frames.serialise(frames.MessagePart(channel, first + n, total - size, total, bytes(size)))
                    for n in range(40)
                )
            )

    def silent(self, step: Step) -> None:
        """``a`` stops acknowledging while ``b`` has something to send, then acknowledges anything."""
        a, b = self.ends
        self.net.partition("b", "a", both=False)
        self.say(b, a, 500 * step.x, step.y & 3)
        self.net.run(0.02)
        rng = self.rng(step)
        for _ in range(4):
            self._strike(_CRAFT[0](self, rng))
            self.net.run(0.01)
        self.net.heal()

    # --- crafting

    def _craft(self, rng: random.Random, kind: int | None = None) -> bytes:
        maker = rng.choice(_CRAFT) if kind is None else _CRAFT[kind]
        return maker(self, rng)

    def around(self, rng: random.Random) -> int:
        """A number near one that means something to ``b`` at present."""
        b = self.nodes["b"]
        peer = peer_of(b, "a")
        session = peer.connection.session
        marks = [0, 1, CHANNELS, 1 << 20, 1 << 30, 1 << 60, VARINT_MAX, b.node.config.max_message_size]
        marks += [b.node.config.channel_window // 256, b.node.config.channel_window, b.node.config.connection_window]
        if session is not None:
            marks += [session.next_number, session.next_transmission, session.receiver.largest]
        for channel in list(peer.connection.receiving.channels.values())[:4]:
            marks += [channel.expected, channel.taken, *list(channel.partial)[:2]]
        for sending in list(peer.connection.sending.channels.values())[:4]:
            marks += [sending.next_sequence] if hasattr(sending, "next_sequence") else []
        near: int = rng.choice(marks)
        return min(max(near + rng.choice((-2, -1, 0, 0, 1, 2, 100)), 0), VARINT_MAX)

    def finish(self) -> None:
        self._holding = False
        self.net.heal()
        self.settle({("b", "c")}, 60)
        self.exchange({("b", "c")})
        # An honest program in the place of the hostile one finds nothing spoiled.
        self.nodes["a"].detach()
        self.start("a")
        self.introduce("a")
        self.settle(set(self.EDGES), 180)
        self.exchange(set(self.EDGES))
        self.net.run(QUIET)
        self.kept_promises()
        for sim in self.nodes.values():
            self.at_rest(sim)
        require(peer_of(self.nodes["b"], "c").peer_id == self.nodes["c"].node.peer_id, "a name changed hands")


def _pieces(plaintext: bytes) -> list[bytes]:
    """A plaintext cut at its frames."""
    try:
        return [frames.serialise(frame) for frame in frames.parse_frames(plaintext)]
    except (DecodeError, ValueError):
        return [plaintext]


def _ranges(world: HostileWorld, rng: random.Random) -> frames.Ranges:
    result: list[tuple[int, int]] = []
    above = world.around(rng)
    for _ in range(rng.choice((0, 1, 1, 2, 8, 64))):
        first = max(0, above - rng.choice((0, 0, 1, 5, 1000, 1 << 40)))
        result.append((first, above))
        above = first - rng.choice((2, 2, 3, 100))
        if above < 0:
            break
    return tuple(result)


def _ack(world: HostileWorld, rng: random.Random) -> bytes:
    delay = rng.choice((0, 1000, VARINT_MAX))
    return frames.serialise(frames.Ack(delay, _ranges(world, rng), _ranges(world, rng), _ranges(world, rng)))


def _part(world: HostileWorld, rng: random.Random) -> bytes:
    kind = rng.choice((frames.MESSAGE_PART, frames.UNRELIABLE_PART))
    size = rng.choice((0, 1, 1, 100, 1100, 3000))
    total = rng.choice((size, size, size + 1, size + 100_000, world.around(rng)))
    offset = rng.choice((0, 0, max(0, total - size), world.around(rng)))
    numbers = (world.around(rng), offset, total, size)
    return bytes((kind, rng.randrange(5))) + b"".join(map(encode_varint, numbers)) + rng.randbytes(size)


def _numbers(world: HostileWorld, rng: random.Random) -> bytes:
    """TAKEN, GRANT, WITHDRAWN, SINGLE_ONLY or WINDOW."""
    channel, n = rng.choice((0, 1, 2, 3, 63)), world.around(rng)
    made: Frame = rng.choice(
        (
            *(frames.Taken(channel, n), frames.Grant(channel, n, world.around(rng)), frames.Withdrawn(channel, n)),
            *(frames.SingleOnly(n), frames.Window(n)),
        )
    )
    return frames.serialise(made)


def _start(world: HostileWorld, rng: random.Random) -> bytes:
    about: bytes = world.nodes["b"].node._registry.named("a").connection._memory
    states = tuple(
        frames.ChannelState(channel, world.around(rng), rng.choice((None, min(world.around(rng), VARINT_MAX - 1))))
        for channel in rng.sample(range(CHANNELS), rng.choice((0, 1, 4, 64)))
    )
    delay, channel, connection, largest, buffer = (world.around(rng) for _ in range(5))
    memory, about = rng.choice((rng.randbytes(8), b"\1" * 8)), rng.choice((about, bytes(8)))
    return frames.serialise(frames.SessionStart(memory, about, delay, channel, connection, largest, states, buffer))


def _keys(world: HostileWorld, rng: random.Random) -> bytes:
    session = peer_of(world.nodes["b"], "a").connection.session
    epoch = ((session.keys.epoch if session is not None else 0) + rng.choice((0, 1, 1, 1, 2, 255))) & 0xFF
    public = rng.choice((bytes(32), b"\1" + bytes(31), b"\xff" * 32, rng.randbytes(32)))
    return frames.serialise(rng.choice((frames.KeyUpdate, frames.KeyUpdateReply))(epoch, public))


def _path(world: HostileWorld, rng: random.Random) -> bytes:
    probe = peer_of(world.nodes["b"], "a").validator.probe
    nonces = [rng.randbytes(8)]
    if probe is not None:
        nonces += [probe.nonce_new, probe.nonce_old]
    made: Frame = rng.choice((frames.PathChallenge, frames.PathResponse))(rng.choice(nonces))
    return frames.serialise(made)


def _rare(world: HostileWorld, rng: random.Random) -> bytes:
    address = Address(rng.choice(("0.0.0.0", "127.0.0.1", "224.0.0.1", "2001:db8::1")), rng.choice((0, 1, 65_535)))
    kind = rng.choice(frames.CANDIDATE_KINDS)
    named = tuple(Candidate(kind, address._replace(port=port)) for port in (0, 53, 5000, 65_535))
    made: Frame = rng.choice(
        (
            *(frames.Ping(), frames.Established(), frames.Padding(rng.choice((1, 900)))),
            *(frames.ObservedAddress(address), frames.Candidates(rng.choice((0, 1, 2, VARINT_MAX)), named)),
        )
    )
    return frames.serialise(made)


def _close(world: HostileWorld, rng: random.Random) -> bytes:
    text = rng.choice(("", "\x1b]0;gotcha\x07", "\u202e" * 30, "x" * 128))
    code = rng.choice(
        (frames.CloseCode.CLOSING, frames.CloseCode.PROTOCOL_ERROR, frames.CloseCode.LIMIT, *frames.CloseCode)
    )
    return frames.serialise(frames.Close(code, text))


_CRAFT: Final[tuple[Callable[[HostileWorld, random.Random], bytes], ...]] = (
    *(_ack, _ack, _part, _part, _part, _numbers, _numbers, _start, _keys, _path, _rare),
    _close,
)

HostileWorld.ACTIONS = {
    action.__name__: action
    for action in (
        *(HostileWorld.mutated, HostileWorld.crafted, HostileWorld.same_kind, HostileWorld.storm, HostileWorld.jump),
        *(HostileWorld.fragmented, HostileWorld.early, HostileWorld.silent, HostileWorld.small, HostileWorld.large),
        *(HostileWorld.unreliable, HostileWorld.wait, HostileWorld.update, HostileWorld.glut),
    )
}


def sealed(script: bytes) -> set[str]:
    """Play one script; returns what it led to."""
    world = HostileWorld(script)
    world.play()
    return world.features()
