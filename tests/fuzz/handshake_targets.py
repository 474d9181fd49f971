"""The target "handshake": right tags and real Noise states, and nonsense in them.

Somebody with keys of its own (a stranger, a second one, or "a", which ``b`` was told of) punches ``b`` with a right tag
over mutated bytes, answers what it gets with a SHARED_KEY whose sealed Hello is mutated *before* it is sealed, and
answers the punches of ``b`` with such PUBLIC_KEYs. A session may come only of a Hello that is right in every point;
honest peers keep their names, keys and messages, and nothing is left of all this but sessions in use.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from srmudp.crypto.backend import select_backend
from srmudp.crypto.keys import punch_tag
from srmudp.crypto.noise import HandshakeState
from srmudp.crypto.protection import RecordKeys
from srmudp.exceptions import AuthenticationError, DecodeError
from srmudp.models import Address, PeerId
from srmudp.protocol.handshake import Self
from srmudp.wire import packet
from srmudp.wire.packet import Hello, RecordHeader, cut_record
from tests.endpoints import identity, peer_of
from tests.fuzz.parsers import Finding, require
from tests.fuzz.worlds import QUIET, Step, World
from tests.simnet import SimNode

EVIL: Final = (Address("198.51.100.66", 6666), Address("198.51.100.67", 6666))
LOW_ORDER: Final = (bytes(32), b"\1" + bytes(31), b"\xff" * 32, bytes.fromhex("ecff" + "ff" * 29 + "7f"))
KEPT: Final = 40


@dataclass(frozen=True, slots=True)
class Open:
    """A handshake of the attacker that waits for the other side."""

    us: Self
    index: int
    state: HandshakeState
    source: Address


@dataclass(frozen=True, slots=True)
class Established:
    """Keys that the attacker agreed on, and where to use them."""

    keys: RecordKeys
    index: int
    source: Address


class HandshakeWorld(World):
    """``b`` and ``c`` are honest; everybody else is the attacker."""

    EDGES: ClassVar = (("b", "c"),)
    NODES: ClassVar = {"b": "10.0.0.2", "c": "10.0.0.3"}

    def __init__(self, script: bytes) -> None:
        super().__init__(script)
        backend = select_backend()
        self._entropy = random.Random(f"attacker/{script[:2].hex()}")
        self._selves = [Self(backend, identity(who, backend), bytes((n,)) * 16, who) for n, who in enumerate(WHO)]
        self._opens: deque[Open] = deque(maxlen=KEPT)
        self._keys: deque[Established] = deque(maxlen=KEPT)
        self._inbox: deque[tuple[Address, bytes]] = deque(maxlen=4 * KEPT)
        self._seen: deque[bytes] = deque(maxlen=KEPT)
        self.net.tap(self._receive)
        b = self.nodes["b"]
        b.do(b.node.add_peer, "a", [EVIL[0]], None)
        b.do(b.node.add_peer, "pinned", [EVIL[1]], self._selves[0].identity.peer_id)
        self.connect()
        self.net.run_until(lambda: peer_of(b, "c").connected, 10)

    def _receive(self, now: float, source: Address, destination: Address, data: bytes) -> None:
        self._seen.append(data)
        if destination in EVIL and source == self.nodes["b"].address:
            self._inbox.append((destination, data))

    def honest_for(self, sim: SimNode) -> set[str]:
        return {"c"} if sim is self.nodes["b"] else {"b"}

    # --- the first arrow

    def punch(self, step: Step) -> None:
        """A PUNCH with a right tag, over a body that is right or not."""
        mutator, rng = self.mutator(step), self.rng(step)
        us = self._selves[step.who % len(self._selves)]
        source = EVIL[step.who >> 2 & 1]
        state = us.state(initiator=True, ephemeral_private=self._entropy.randbytes(32))
        index = rng.choice((1, (1 << 64) - 1, rng.randrange(1, 1 << 64), *(o.index for o in self._opens)))
        header = packet.punch_header(index)
        cookie = rng.choice((packet.NO_COOKIE, rng.randbytes(16), b"\xff" * 16))
        body = packet.punch_payload(header, state.ephemeral_public, cookie)[: -packet.TAG]
        message = state.ephemeral_public + body
        if step.y % 4 == 1:
            message = rng.choice(LOW_ORDER) + body
        elif step.y % 4 == 2:
            message = mutator.mutate(message)
        tagged = header + message
        if step.y % 8 == 3:
            tagged = mutator.field(tagged.ljust(30, b"\0"))
        data = tagged + (packet.NO_TAG if step.y & 0x40 else punch_tag(self.nodes["b"].node.peer_id, tagged))
        payload = data[packet.HANDSHAKE_HEADER + packet.KEY :]
        state.write_message(payload, data[: packet.HANDSHAKE_HEADER])
        self._opens.append(Open(us, index, state, source))
        for _ in range(1 + 30 * (step.y & 0x80 == 0x80)):
            self.deliver(self.nodes["b"], data, source)

    def punches(self, step: Step) -> None:
        """Many PUNCHes with right tags at once, each of another attempt."""
        for number in range(20):
            self.punch(step._replace(seed=step.seed ^ number, y=step.y & 0x40))
        self.bounded(self.nodes["b"])

    # --- the third arrow

    def shared_key(self, step: Step) -> None:
        """Answer a PUBLIC_KEY that came, with a Hello that is right or not."""
        for to, data in list(self._inbox):
            if data[0] != packet.PUBLIC_KEY:
                continue
            try:
                message = packet.parse_public_key(data)
            except DecodeError as error:
                raise Finding(f"b sends what nobody reads: {error}") from error
            for opened in [opened for opened in self._opens if opened.index == message.index]:
                state = opened.state.copy()
                try:
                    theirs = Hello.decode(state.read_message(message.message, message.header))
                except AuthenticationError:
                    continue
                self._inbox.remove((to, data))
                self._answer(step, opened, state, theirs)
                return

    def _answer(self, step: Step, opened: Open, state: HandshakeState, theirs: Hello) -> None:
        right = opened.us.hello(theirs.generation, opened.index, self.nodes["b"].address)
        payload = self._payload(step, right)
        header = packet.shared_key_header(theirs.index)
        data = header + state.write_message(payload, header)
        sessions, node = set(self.nodes["b"].node._sessions), self.nodes["b"].node
        source = EVIL[step.y & 1] if step.x & 1 else opened.source
        for _ in range(1 + (step.y >> 6)):
            self.deliver(self.nodes["b"], data, source)
        fresh = set(node._sessions) - sessions
        require(len(fresh) <= 1, "one handshake made two sessions")
        require(not fresh or _is_right(payload, right), f"a session of a wrong Hello: {payload.hex()}")
        secrets = state.split()
        keys = RecordKeys(select_backend(), secrets.send_key, secrets.receive_key)
        self._keys.append(Established(keys, theirs.index, source))
        self.bounded(self.nodes["b"])

    def _payload(self, step: Step, right: Hello) -> bytes:
        """The bytes to seal in the place of a right Hello."""
        mutator, rng = self.mutator(step), self.rng(step)
        choice = step.y % 4
        if choice == 0:
            return right.encode()
        if choice == 1:
            return mutator.mutate(right.encode(), [other.hello(1, 1, None).encode() for other in self._selves])
        fields = {name: getattr(right, name) for name in Hello.__dataclass_fields__}
        if choice == 3:
            others = [*(us.identity.peer_id for us in self._selves), *(sim.node.peer_id for sim in self.nodes.values())]
            return Hello(**{**fields, "peer_id": rng.choice(others)}).encode()
        changes: list[dict[str, Any]] = [
            {"peer_id": rng.choice((self.nodes["b"].node.peer_id, self.nodes["c"].node.peer_id))},
            {"peer_id": PeerId(rng.choice((*LOW_ORDER, rng.randbytes(32))))},
            {"generation": rng.choice((0, 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1))},
            {"instance": rng.choice((bytes(16), rng.randbytes(16)))},
            {"index": rng.choice((1, right.index ^ 2 or 4, (1 << 64) - 1))},
            {"name": rng.choice(("c", "b", "\x1b[2J", "\u202egnp.exe", " ", "\0" * 64, "\U0001f600" * 16, "a#b"))},
            {"observed": rng.choice((None, Address("0.0.0.0", 0), Address("2001:db8::1", 65_535)))},
            {"token": rng.randbytes(64)},
            {"ephemeral_identity": not right.ephemeral_identity},
        ]
        for change in rng.sample(changes, rng.choice((1, 1, 2, 3))):
            fields.update(change)
        return Hello(**fields).encode() + rng.randbytes(rng.choice((0, 0, 0, 1)))

    # --- the second arrow

    def public_key(self, step: Step) -> None:
        """Answer a PUNCH of ``b`` that came, as whoever the step chose, with a Hello that is right or not."""
        punches = [item for item in self._inbox if item[1][0] == packet.PUNCH]
        if not punches:
            self.net.run(0.3)
            return
        to, data = punches[step.x % len(punches)]
        punch = packet.parse_punch(data)
        us = self._selves[step.who % len(self._selves)]
        index = self._entropy.randrange(1, 1 << 64)
        state = us.state(initiator=False, ephemeral_private=self._entropy.randbytes(32))
        state.read_message(punch.message, punch.header)
        right = us.hello(1, index, self.nodes["b"].address)
        header = packet.public_key_header(punch.index)
        answer = header + state.write_message(self._payload(step, right), header)
        if step.y & 0x10:
            answer = self.mutator(step).datagram(answer, list(self._seen))
        self.deliver(self.nodes["b"], answer, EVIL[0] if step.y & 0x20 else to)
        self._opens.append(Open(us, index, state, to))
        self.bounded(self.nodes["b"])

    def finish_ours(self, step: Step) -> None:
        """Read the SHARED_KEYs of ``b``, so that records can be sealed under what was agreed."""
        for to, data in list(self._inbox):
            if data[0] != packet.SHARED_KEY:
                continue
            message = packet.parse_shared_key(data)
            for opened in [opened for opened in self._opens if opened.index == message.index]:
                state = opened.state.copy()
                try:
                    theirs = Hello.decode(state.read_message(message.message, message.header))
                except AuthenticationError:
                    continue
                self._inbox.remove((to, data))
                secrets = state.split()
                keys = RecordKeys(select_backend(), secrets.send_key, secrets.receive_key)
                self._keys.append(Established(keys, theirs.index, to))
                return

    # --- beyond

    def record(self, step: Step) -> None:
        """A record under keys that were agreed on: nonsense, or what makes a session stand."""
        if not self._keys:
            return
        established = self._keys[-1 - step.x % len(self._keys)]
        rng = self.rng(step)
        start = bytes.fromhex("03 0000000000000001 0000000000000000 01 80100000 80400000 80100000 00".replace(" ", ""))
        plaintext = (b"\x11" + start, b"\x01" * 20, rng.randbytes(40), b"\x09\x00\x00", b"\x04\x00\x00\x00\x01\x01x")[
            step.y % 5
        ]
        plaintext = plaintext.ljust(16, b"\0")
        number = established.keys.next_number
        size = len(plaintext) + packet.TAG
        header = RecordHeader(0, established.index, number, number, 1, size)
        sealed = established.keys.seal(number, header.pack(), plaintext)
        source = EVIL[step.who & 1] if step.y & 0x40 else established.source
        self.deliver(self.nodes["b"], cut_record(header, sealed), source)

    def mutated(self, step: Step) -> None:
        """Something that went by, changed on the wire."""
        if self._seen:
            data = self._seen[-1 - step.x % len(self._seen)]
            self.deliver(self.nodes["b"], self.mutator(step).datagram(data, list(self._seen)), EVIL[step.who & 1])

    def command(self, step: Step) -> None:
        """What a user may do about it all meanwhile."""
        b = self.nodes["b"]
        name = ("a", "pinned")[step.who & 1]
        known = b.node.statuses(self.net.now)
        if name not in known:
            b.do(b.node.add_peer, name, [EVIL[step.who & 1]], None)
        elif step.y % 4 == 0:
            b.do(b.node.remove_peer, name)
        elif step.y % 4 == 1:
            b.do(b.node.forget, name)
        elif step.y % 4 == 2 and known[name].peer_id is not None:
            b.do(b.node.trust, name, None)
        else:
            self.net.run(3)

    def finish(self) -> None:
        b, c = self.nodes["b"], self.nodes["c"]
        self.settle({("b", "c")}, 60)
        self.exchange({("b", "c")})
        self.net.run(2 * QUIET)
        self.kept_promises()
        require(
            peer_of(b, "c").peer_id == c.node.peer_id and peer_of(c, "b").peer_id == b.node.peer_id, "names changed"
        )
        for sim in (b, c):
            self.at_rest(sim)
        own = b.node.peer_id
        require(all(peer.peer_id != own for peer in b.node._registry), "b took itself for a peer")
        pinned = b.node._registry
        if "pinned" in pinned and pinned.named("pinned").pinned:
            allowed = {us.identity.peer_id for us in self._selves}
            require(pinned.named("pinned").peer_id in allowed, "a pinned name has a key of nobody")


WHO: Final = ("evil", "evil too", "third")


def _is_right(payload: bytes, right: Hello) -> bool:
    """True if a session may come of these bytes: the claimed key is the proven one and the index the punched one."""
    try:
        hello = Hello.decode(payload)
    except DecodeError:
        return False
    return hello.peer_id == right.peer_id and hello.index == right.index


HandshakeWorld.ACTIONS = {
    action.__name__: action
    for action in (
        *(HandshakeWorld.punch, HandshakeWorld.shared_key, HandshakeWorld.public_key, HandshakeWorld.finish_ours),
        *(HandshakeWorld.record, HandshakeWorld.mutated, HandshakeWorld.punches, HandshakeWorld.command),
        *(HandshakeWorld.small, HandshakeWorld.wait, HandshakeWorld.large, HandshakeWorld.unreliable),
    )
}


def handshake(script: bytes) -> set[str]:
    """Play one script; returns what it led to."""
    world = HandshakeWorld(script)
    world.play()
    return world.features()
