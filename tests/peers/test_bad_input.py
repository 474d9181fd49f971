"""Attacks 8 and 9: datagrams that no honest sender made.

Of every kind: truncations at every length, up to 64 bytes appended, a flip of every bit of header and tags and of one
bit in every other byte. Each is dropped with a counted reason, nothing is answered, and the honest datagram works
afterwards.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from srmudp.crypto.backend import Backend
from srmudp.models import Address
from srmudp.peers.endpoint import Endpoint
from srmudp.peers.jobs import PatientBucket
from srmudp.wire.frames import MessagePart, UnreliablePart, serialise
from srmudp.wire.packet import (
    COOKIE,
    COOKIE_SIZE,
    HANDSHAKE_HEADER,
    KEY,
    MAX_SEGMENTS,
    MIN_PUBLIC_KEY,
    MIN_SHARED_KEY,
    PUBLIC_KEY,
    PUNCH,
    PUNCH_SIZE,
    RECORD,
    RECORD_HEADER,
    RECORD_OVERHEAD,
    RESEND,
    SHARED_KEY,
    TAG,
    RecordHeader,
    cut_record,
    resend_segment,
)
from srmudp.wire.stun import StunClass, StunMessage
from tests.endpoints import (
    Datagram,
    Recorder,
    alive,
    arrived,
    connect,
    drops,
    events,
    make_node,
    send,
    session_of,
    status,
)
from tests.simnet import SimNet, SimNode

STRANGER = Address("198.51.100.66", 6666)

REASONS = frozenset(
    {
        *("empty", "unknown_type", "unknown_version", "malformed", "unknown_index"),
        *("unsolicited_punch", "bad_punch", "bad_public_key", "bad_shared_key", "duplicate_handshake"),
        *("bad_tag", "replayed", "unknown_epoch", "implausible_record", "implausible_transmission"),
        *("duplicate_segment", "reassembly_full"),
        *("stun_request", "stun_indication", "stun_unasked"),
    }
)
"""Every reason that bad input of this file may be counted under."""


Flying = list[tuple[Address, Address, bytes]]


class Stage(NamedTuple):
    """The moment before one honest datagram arrives."""

    net: SimNet
    a: SimNode
    b: SimNode
    target: SimNode
    held: Datagram
    record: Recorder

    def release(self) -> None:
        """Let the honest datagram arrive."""
        data = self.held.data
        self.net.inject(self.held.source, self.held.destination, data)
        self.net.run(0)


KINDS = ("punch", "public_key", "shared_key", "established", "first", "data", "ack", "close")


def stage(kind: str, backend: Backend) -> Stage:
    """``a`` pins ``b`` and punches; ``b`` has pinned ``a`` and only answers. The datagram is held back."""
    net = SimNet(8)
    a = make_node(net, "a", "10.0.0.1", backend=backend)
    b = make_node(net, "b", "10.0.0.2", backend=backend)
    record = Recorder(net)
    held: list[Datagram] = []
    wanted = {"punch": PUNCH, "public_key": PUBLIC_KEY, "shared_key": SHARED_KEY}.get(kind, RECORD)
    sender = b if kind in ("public_key", "established", "ack") else a

    def hold(now: float, source: Address, destination: Address, data: bytes) -> Flying | None:
        if not held and (data[0] != wanted or source != sender.address):
            return None
        held.append(Datagram(now, source, destination, data))
        return []

    late = kind in ("data", "ack", "close")
    if not late:
        stop = net.intercept(hold)
    b.do(b.node.add_peer, "a", [], a.node.peer_id)
    a.do(a.node.add_peer, "b", [b.address], b.node.peer_id)
    if late:
        assert net.run_until(lambda: status(a, b).established and status(b, a).established, 5)
        net.run(1)
        stop = net.intercept(hold)
        if kind == "close":
            a.do(a.node.close)
        else:
            send(a, b, b"m" * 100)
    assert net.run_until(lambda: bool(held), 5)
    stop()
    target = a if sender is b else b
    # Every one of the bad datagrams is to be looked at, however many come at one moment.
    target.node._handshakes._public_keys = PatientBucket(1e9, 1e9, 1)
    if kind != "close":
        # Nothing else may arrive until the honest datagram does: the wire is cut meanwhile.
        net.partition("a", "b")
    record.clear()
    return Stage(net, a, b, target, held[0], record)


def give(target: SimNode, datagram: bytes, source: Address) -> None:
    """One datagram straight into the endpoint; jobs, output and events are drained."""
    node: Endpoint = target.node
    target.do(lambda now: node.handle_batch(datagram, len(datagram), source, now))


def refused(target: SimNode, datagram: bytes, source: Address) -> str:
    """The reason the datagram was dropped for; fails if it was not counted exactly once.

    "held" for what may be a segment of a long record: it waits for the others, apart from the honest ones.
    """
    before, waiting = target.node.drops.copy(), partials(target)
    give(target, datagram, source)
    reasons = target.node.drops - before
    if not reasons and partials(target) == waiting + 1:
        assert datagram[0] in (RECORD, RESEND)
        assert 1 < datagram[26] <= MAX_SEGMENTS
        return "held"
    assert sum(reasons.values()) == 1, f"{datagram[:32].hex()}.. ({len(datagram)} bytes): {dict(reasons)}"
    (reason,) = reasons
    assert reason in REASONS
    return str(reason)


def partials(target: SimNode) -> int:
    """Records that wait for segments in any session of a node."""
    return sum(len(session.receiver._partials) for _, session in target.node._sessions.values())


def tags_of(datagram: bytes) -> list[range]:
    """Where the authentication tags of a datagram are."""
    end = len(datagram)
    tags = [range(end - TAG, end)]
    if datagram[0] == PUBLIC_KEY:
        tags.append(range(HANDSHAKE_HEADER + 2 * KEY, HANDSHAKE_HEADER + 2 * KEY + TAG))
    elif datagram[0] == SHARED_KEY:
        tags.append(range(HANDSHAKE_HEADER + KEY, HANDSHAKE_HEADER + KEY + TAG))
    return tags


def flips(datagram: bytes, *, every_bit: bool) -> Iterator[bytes]:
    """Every bit of header and tags flipped (if ``every_bit``), and one of each other byte."""
    rng = random.Random(8)
    header = RECORD_OVERHEAD if datagram[0] in (RECORD, RESEND) else HANDSHAKE_HEADER
    tags = tags_of(datagram)
    for at in range(len(datagram)):
        whole = every_bit and (at < header or any(at in tag for tag in tags))
        for bit in range(8) if whole or at < header else (rng.randrange(8),):
            yield datagram[:at] + bytes((datagram[at] ^ 1 << bit,)) + datagram[at + 1 :]


def finish(stage: Stage, kind: str) -> None:
    """Nothing came of the bad input; the honest datagram works and so does the connection."""
    net, a, b = stage.net, stage.a, stage.b
    assert stage.record.of(source=stage.target) == [], "bad input was answered"
    if kind == "close":
        assert status(b, a).established
        stage.release()
        assert not status(b, a).established
        return
    if kind in ("data", "ack"):
        assert status(a, b).established
        assert status(b, a).established
    else:
        assert not status(stage.target, a if stage.target is b else b).established
    net.heal()
    stage.release()
    assert net.run_until(lambda: status(a, b).established and status(b, a).established, 10)
    alive(net, a, b)
    if kind in ("data", "ack"):
        assert arrived(b, a, 0) == [b"m" * 100]
    assert events(a)[0].kind == events(b)[0].kind == "connected"
    assert len(events(a)) == len(events(b)) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_attack_8_bit_flips(kind: str, backend: Backend) -> None:
    """Attack 8: every bit of header and tags, and one of every other byte. All refused, the clear header included."""
    s = stage(kind, backend)
    slow = backend.name == "pycryptodome" and kind in ("public_key", "shared_key")
    reasons = Counter(refused(s.target, bad, s.held.source) for bad in flips(s.held.data, every_bit=not slow))
    expected = {
        "punch": {"unknown_type", "unknown_version", "unknown_index", "unsolicited_punch", "malformed"},
        "public_key": {"unknown_type", "unknown_version", "unknown_index", "bad_public_key"},
        "shared_key": {"unknown_type", "unknown_version", "unknown_index", "bad_shared_key"},
    }.get(kind, {"unknown_type", "malformed", "unknown_index", "bad_tag", "unknown_epoch"})
    assert expected <= set(reasons), reasons
    assert reasons["held"] == (5 if s.held.data[0] == RECORD else 0)  # a count of 3, 5, 9, 17 or 33 instead of 1
    finish(s, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_attack_9_truncated_and_extended(kind: str, backend: Backend) -> None:
    """Attack 9: cut at every length, zero included, and with 1 to 64 bytes appended."""
    s = stage(kind, backend)
    data, source = s.held.data, s.held.source
    slow = backend.name == "pycryptodome" and kind in ("public_key", "shared_key")
    assert refused(s.target, b"", source) == "empty"
    for size in range(1, len(data), 7 if slow else 1):
        reason = refused(s.target, data[:size], source)
        if kind == "punch" or size < HANDSHAKE_HEADER or data[0] == RECORD:
            assert reason in ("malformed", "unknown_index")
    for more in range(1, 65, 7 if slow else 1):
        refused(s.target, data + bytes(more), source)
        refused(s.target, data + data[-more:], source)
    finish(s, kind)


@pytest.mark.parametrize("resend", [False, True])
def test_attack_8_bit_flips_in_a_segment_of_a_long_record(resend: bool) -> None:
    """Attack 8: segments of a record of three. Refused, or kept apart from the honest ones; no effect but delay.

    A flipped body cannot be told before the record is complete; a flipped header names a record of its own that waits
    for segments that never come, or, in a RESEND, a transmission number that is only a hint.
    """
    net, a, b, rng = *connected(80), random.Random(80)
    session, receiving = session_of(a, b), session_of(b, a)
    plaintext = serialise(MessagePart(9, 1 << 10, 5, 4000, rng.randbytes(3300)))
    held = counted = late = 0
    position = 0
    while True:
        header, sealed, wire = session.seal(plaintext, 1200)
        assert header.count == 3
        size = RECORD_OVERHEAD + header.size
        segments = [wire[at : at + size] for at in range(0, len(wire), size)]
        victim = 1 + position % 2
        honest = resend_segment(header, sealed, victim, session.next_transmission) if resend else segments[victim]
        if resend:
            session.next_transmission += 1
        head = RECORD_OVERHEAD + (8 if resend else 0)
        bits = head * 8 + TAG * 8
        if position < bits:
            at = position // 8 if position < head * 8 else len(honest) - 1 - (position - head * 8) // 8
            bit = position % 8
        else:
            at, bit = head + (position - bits) * 3, rng.randrange(8)
            if at >= len(honest):
                break
        position += 1
        flipped = honest[:at] + bytes((honest[at] ^ 1 << bit,)) + honest[at + 1 :]
        order = [item for number, item in enumerate(segments) if number != victim]
        before, opened, waiting = b.node.drops.copy(), receiving.keys.opened, len(receiving.receiver._partials)
        for datagram in (order[0], flipped, order[1]):
            give(b, datagram, a.address)
        reasons = b.node.drops - before
        more = len(receiving.receiver._partials) - waiting
        assert set(reasons) <= REASONS
        if at >= head:
            assert reasons == {"bad_tag": 1}, (at, bit, reasons)
            counted += 1
        elif resend and at >= RECORD_OVERHEAD:
            # Only the hint was changed.
            assert receiving.keys.opened == opened + 1 or reasons == {"malformed": 1}
            continue
        else:
            assert reasons or more == 2, (at, bit, "neither counted nor waiting")
            assert receiving.keys.opened == opened
            counted += bool(reasons)
            held += not reasons
            # The forged variant has not spoiled the honest record.
            give(b, honest, a.address)
            assert receiving.keys.opened == opened + 1
            late += 1
    assert counted > 200
    assert held > 30
    assert late > 200
    assert status(b, a).established
    alive(net, a, b)


def test_attack_9_truncated_segments_of_a_long_record() -> None:
    """Attack 9: a segment cut at every length: refused; a shorter last one makes the record fail as a whole."""
    net, a, b = connected(90)
    session, receiving = session_of(a, b), session_of(b, a)
    plaintext = serialise(MessagePart(9, 1 << 10, 5, 4000, bytes(3300)))
    for victim in range(3):
        for cut in range(1, 1150, 11):
            header, _, wire = session.seal(plaintext, 1200)
            size = RECORD_OVERHEAD + header.size
            segments = [wire[at : at + size] for at in range(0, len(wire), size)]
            before, opened = b.node.drops.copy(), receiving.keys.opened
            if cut >= len(segments[victim]):
                continue
            bad = segments[victim][:cut]
            for number, datagram in enumerate(segments):
                give(b, bad if number == victim else datagram, a.address)
            reasons = b.node.drops - before
            assert sum(reasons.values()) == 1
            shorter_last = victim == 2 and cut > RECORD_OVERHEAD
            if shorter_last:
                assert reasons == {"bad_tag": 1}
            else:
                assert set(reasons) <= {"malformed", "unknown_index"}
                give(b, segments[victim], a.address)
                assert receiving.keys.opened == opened + 1
            assert receiving.keys.opened <= opened + 1
    alive(net, a, b)


def connected(seed: int) -> tuple[SimNet, SimNode, SimNode]:
    """Two idle nodes with a session."""
    net = SimNet(seed)
    a, b = make_node(net, "a", "10.0.0.1"), make_node(net, "b", "10.0.0.2")
    connect(net, a, b)
    net.run(1)
    return net, a, b


def test_every_reason_has_its_counter() -> None:
    """Attacks 8 to 10: what exactly is counted for what."""
    net, a, b = connected(91)
    live = session_of(b, a).local_index
    largest = session_of(b, a).receiver.largest
    handshake = bytes((0, 0)) + bytes(7) + b"\x01"

    def message(kind: int, size: int, version: int = 1, index: int = 1) -> bytes:
        return (bytes((kind, version)) + index.to_bytes(8, "big")).ljust(size, b"\x00")

    def record(number: int, *, epoch: int = 0, index: int = live, count: int = 1, size: int = 40) -> bytes:
        return cut_record(RecordHeader(epoch, index, number, 0, count, size), bytes(size * count))

    table: list[tuple[bytes, str]] = [
        (b"", "empty"),
        (b"\x00", "malformed"),
        (StunMessage(StunClass.REQUEST, bytes(12)).encode(), "stun_request"),
        (StunMessage(StunClass.INDICATION, bytes(12)).encode(), "stun_indication"),
        (StunMessage(StunClass.SUCCESS, bytes(12), a.address).encode(), "stun_unasked"),
        (handshake, "malformed"),
        (b"\xc0" * 200, "unknown_type"),
        (b"\xc7" * 1200, "unknown_type"),
        (bytes((PUNCH,)), "malformed"),
        (message(PUNCH, PUNCH_SIZE, version=2), "unknown_version"),
        (message(PUBLIC_KEY, 300, version=0), "unknown_version"),
        (message(SHARED_KEY, 300, version=255), "unknown_version"),
        (message(PUNCH, PUNCH_SIZE - 1), "malformed"),
        (message(PUNCH, PUNCH_SIZE + 1), "malformed"),
        (message(PUNCH, PUNCH_SIZE, index=0), "malformed"),
        (message(PUNCH, PUNCH_SIZE), "bad_punch"),  # an ephemeral key of zeros, from the peer's own address
        (message(PUBLIC_KEY, MIN_PUBLIC_KEY - 1), "malformed"),
        (message(PUBLIC_KEY, MIN_PUBLIC_KEY), "unknown_index"),
        (message(SHARED_KEY, MIN_SHARED_KEY - 1), "malformed"),
        (message(SHARED_KEY, MIN_SHARED_KEY), "unknown_index"),
        (message(SHARED_KEY, MIN_SHARED_KEY, index=live), "unknown_index"),
        (bytes((RECORD,)), "malformed"),
        (bytes((RESEND,)), "malformed"),
        (record(largest + 1)[:RECORD_OVERHEAD], "malformed"),
        (record(largest + 1)[:-1], "malformed"),
        (record(largest + 1) + b"\x00", "malformed"),
        (record(largest + 1, index=live ^ 1), "unknown_index"),
        (record(0), "replayed"),
        (record(largest + 1), "bad_tag"),
        (record(1 << 60), "bad_tag"),
        (record(largest + 1, epoch=1), "unknown_epoch"),
        (record(largest + 1, size=16 + 1), "bad_tag"),
        (b"\xc6" + record(largest + 1)[1:], "malformed"),  # a record of one datagram is never sent again
        (record(largest + 70_000, count=3)[:70], "implausible_record"),
        (record(largest + 1, epoch=7, count=3)[:70], "implausible_record"),
        (record(0, count=3)[:70], "replayed"),
    ]
    for datagram, reason in table:
        assert refused(b, datagram, a.address) == reason, datagram[:40].hex()
    assert refused(b, message(PUNCH, PUNCH_SIZE), STRANGER) == "unsolicited_punch"
    segment = record(largest + 3, count=3)[:70]
    give(b, segment, a.address)
    assert refused(b, segment, a.address) == "duplicate_segment"
    assert refused(b, message(COOKIE, HANDSHAKE_HEADER) + b"x" * 32, a.address) == "unknown_index"
    before = drops(b)
    give(b, message(COOKIE, COOKIE_SIZE), a.address)
    assert drops(b) == before + 1
    assert len(record(1)) == RECORD_HEADER + 1 + 40
    alive(net, a, b)


def test_bad_input_within_a_batch_spoils_nothing_else() -> None:
    """Attacks 8 and 9: good datagrams before and after bad ones of the same GRO batch are read."""
    net, a, b = connected(92)
    session = session_of(a, b)
    good = []
    for number in range(4):
        part = UnreliablePart(3, number, 0, 9, b"message %d" % number)
        good.append(session.seal(serialise(part).ljust(60, b"\x00"), 1200)[2])
    size = len(good[0])
    bad = [bytes((first,)) * size for first in (0, 0xFF, PUNCH, PUBLIC_KEY, SHARED_KEY, RECORD, RESEND)]
    bad.append(good[0][:-1] + bytes((good[0][-1] ^ 1,)))
    batch = b"".join([*bad, good[0], *bad, good[1], good[2], *bad, good[3], b"\xc5"])
    before = drops(b)
    b.do(lambda now: b.node.handle_batch(batch, size, a.address, now))
    assert arrived(b, a, 3) == [b"message %d" % number for number in range(4)]
    assert drops(b) - before == 3 * len(bad) + 1
    alive(net, a, b)
