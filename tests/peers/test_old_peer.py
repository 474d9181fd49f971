"""Peers on the old wire: our endpoint against models of the old programs, and against itself, in virtual time."""

from __future__ import annotations

import ast
import inspect
from collections import Counter
from typing import Any

import pytest

from srmudp.config import Config
from srmudp.models import Address, EventKind, PeerState, Trust
from srmudp.peers import endpoint as endpoint_module
from srmudp.peers.old_peer import OldPeer
from srmudp.protocol.events import Failure
from srmudp.protocol.srudp import OldConnection
from srmudp.protocol.srudp_stream import OldReceiveHalf
from srmudp.wire.srudp import CONTROL_EOF, CycInt, Dialect, Packet, probe, punch, report
from tests.endpoints import (
    PORT,
    arrived,
    drops,
    events,
    make_node,
    peer_of,
    send,
    settled,
    status,
    until,
)
from tests.old_program import OldProgram, attach
from tests.simnet import Link, SimNet, SimNode

LINK = Link(latency=0.01)
HERE, THERE = "10.0.0.1", "10.0.0.2"
LOSSY = Link(latency=0.01, jitter=0.004, loss=0.02, reorder=0.01, reorder_delay=0.006, duplicate=0.01)

both = pytest.mark.parametrize("dialect", Dialect)


def us(net: SimNet, dialect: Dialect, **options: Any) -> SimNode:
    """Our node, which has added the old program as "old"."""
    node = make_node(net, "a", HERE, **options)
    node.do(node.node.add_peer, "old", [Address(THERE, PORT)], None, wire=dialect.value)
    return node


def start(
    dialect: Dialect, *, seed: int = 1, link: Link = LINK, first: str = "old", sequence: int = 1
) -> tuple[SimNet, SimNode, OldProgram, SimNode]:
    """A net, our node, the old program and its node, a moment after both were started."""
    net = SimNet(seed, link=link)
    if first == "old":
        old = attach(net, "old", THERE, dialect, to=Address(HERE, PORT), first=sequence)
        net.run(1.7)
    a = us(net, dialect)
    if sequence != 1:
        begin_at(a, sequence)
    if first != "old":
        net.run(0.0 if first == "together" else 1.7)
        old = attach(net, "old", THERE, dialect, to=a.address, first=sequence)
    return net, a, old.node, old


def begin_at(a: SimNode, sequence: int) -> None:
    """Our end begins with this sequence, as if it had sent so many packets before."""
    peer = a.node._registry.named("old")
    peer.connection = OldConnection(
        peer.dialect,
        a.node.config,
        a.node.backend,
        a.node.random,
        a.node.drops,
        timeout=a.node.timeout,
        span=a.node.span,
        first=sequence,
    )


def connected(dialect: Dialect, **options: Any) -> tuple[SimNet, SimNode, OldProgram, SimNode]:
    """As ``start``, once both ends say so."""
    net, a, old, node = start(dialect, **options)
    until(net, lambda: (status(a, "old").established and old.established) or old.died, 15)
    assert old.died is None
    return net, a, old, node


def write(net: SimNet, node: SimNode, data: bytes) -> None:
    node.do(node.node.write, data)


def stream(a: SimNode) -> bytes:
    return b"".join(arrived(a, "old", 0))


@both
@pytest.mark.parametrize("first", ["old", "new", "together"])
def test_either_side_may_start_first(dialect: Dialect, first: str) -> None:
    net, a, old, node = connected(dialect, first=first)
    assert old.mtu == status(a, "old").mtu == 1472
    write(net, node, b"from the old end")
    token = send(a, "old", b"from the new end")
    until(net, lambda: settled(a, token) is not None and stream(a))
    assert arrived(a, "old") == [b"from the old end"]
    assert old.messages == [b"from the new end"]
    assert settled(a, token).failure is None
    assert drops(a) == 0


@both
def test_status_says_that_nothing_is_proven(dialect: Dialect) -> None:
    _, a, _, _ = connected(dialect)
    known = status(a, "old")
    assert (known.wire, known.trust, known.peer_id) == (dialect.value, Trust.UNAUTHENTICATED, None)
    assert known.established
    assert not known.authenticated
    assert known.address == Address(THERE, PORT)


@both
@pytest.mark.parametrize("seed", range(6))
def test_a_bad_network_costs_time_and_nothing_else(dialect: Dialect, seed: int) -> None:
    """2 % loss, some reordering and duplication from the first datagram on, both ways."""
    net, a, old, node = start(dialect, seed=seed, link=LOSSY, first=("old", "new", "together")[seed % 3])
    until(net, lambda: status(a, "old").established and old.established, 40)
    there, here = net.random.randbytes(300_000), net.random.randbytes(300_000)
    write(net, node, there)
    token = send(a, "old", here)
    until(net, lambda: (settled(a, token) is not None and len(stream(a)) == len(there)) or old.died, 120)
    assert old.died is None
    assert stream(a) == there
    assert bytes(old.received) == here
    assert old.stale_acks == 0
    assert events(a, EventKind.LOST) == []


@both
@pytest.mark.parametrize("sequence", [0xFFFFFFF0, 0xFFFFFFFF, 0x7FFFFFF8])
def test_sequences_wrap_both_ways(dialect: Dialect, sequence: int) -> None:
    """Attack 11, on the old wire: also with holes right at the wrap."""
    link = Link(latency=0.01, loss=0.05)
    net, a, old, node = start(dialect, link=link, sequence=sequence)
    until(net, lambda: status(a, "old").established and old.established, 40)
    data = net.random.randbytes(100_000)
    write(net, node, data)
    token = send(a, "old", data)
    until(net, lambda: settled(a, token) is not None and len(stream(a)) == len(data), 60)
    assert stream(a) == bytes(old.received) == data
    assert old.died is None


def test_messages_keep_their_boundaries_in_the_dialect_that_has_them() -> None:
    net, a, old, node = connected(Dialect.SRMUDP_0_0_4)
    contents = [b"", b"x", bytes(1426), bytes(1427), bytes(10_000), b"", b"end"]
    for content in contents:
        send(a, "old", content)
        write(net, node, content)
    until(net, lambda: len(arrived(a)) == len(old.messages) == len(contents))
    assert arrived(a) == old.messages == contents


def test_every_packet_of_a_stream_is_a_message() -> None:
    net, a, _, node = connected(Dialect.SRUDP)
    write(net, node, bytes(3000))
    write(net, node, b"")
    until(net, lambda: len(stream(a)) == 3000)
    net.run(1)
    assert [len(content) for content in arrived(a)] == [1426, 1426, 148]


def test_whether_more_of_a_call_is_to_come() -> None:
    half = OldReceiveHalf(Counter(), whole=False, max_message=1000, room=1000)
    assert half.call_ended
    for sequence, control, ended in ((1, 0, False), (3, CONTROL_EOF, False), (2, 0, True), (4, CONTROL_EOF, True)):
        half.on_packet(Packet(control, CycInt(sequence), 0, 0.0, b"x"), 0.0)
        assert half.call_ended is ended


def test_broadcasts_have_a_channel_of_their_own() -> None:
    net, a, old, node = connected(Dialect.SRUDP)
    token = send(a, "old", b"to all", reliable=False)
    node.do(old.broadcast, b"to us")
    too_big = send(a, "old", bytes(1427), reliable=False)
    until(net, lambda: arrived(a, "old", 1) and old.broadcasts)
    assert arrived(a, "old", 1) == [b"to us"]
    assert old.broadcasts == [b"to all"]
    assert settled(a, token).failure is None
    assert settled(a, too_big).failure is Failure.TOO_BIG
    assert stream(a) == b""


def test_the_dialect_without_broadcasts_sends_reliably() -> None:
    net, a, old, _ = connected(Dialect.SRMUDP_0_0_4)
    send(a, "old", b"unreliable", reliable=False)
    until(net, lambda: old.messages == [b"unreliable"])


@both
@pytest.mark.parametrize("first", ["old", "new"])
@pytest.mark.parametrize("lost", range(1, 4))
def test_any_datagram_of_the_handshake_may_be_lost(dialect: Dialect, first: str, lost: int) -> None:
    """Each but the old program's first punch, which it says once; then we must speak first anyway."""
    net = SimNet(lost, link=LINK)
    stages: list[bytes] = []

    def lose(now: float, source: Address, destination: Address, data: bytes) -> list[Any] | None:
        if data[0] < 4 and len(data) > 4 and data not in stages:
            stages.append(data)
            return [] if len(stages) == lost + 1 else None
        return None

    if first == "old":
        node = attach(net, "old", THERE, dialect, to=Address(HERE, PORT))
        net.run(0.1)
        stages.append(b"its punch, into the void")
    net.intercept(lose)
    a = us(net, dialect)
    if first == "new":
        node = attach(net, "old", THERE, dialect, to=Address(HERE, PORT))
    until(net, lambda: (status(a, "old").established and node.node.established) or node.node.died, 15)
    assert node.node.died is None
    assert len(stages) > lost


@both
def test_a_stale_request_is_counted(dialect: Dialect) -> None:
    """Attack 3, on the old wire."""
    net, a, old, node = connected(dialect)
    token = send(a, "old", b"content")
    until(net, lambda: settled(a, token) is not None)
    for sequence in (1, 2, 0, 0xFFFFFFFF):
        node.do(lambda now, s=sequence: old._seal(0x10, s, 0, b"", now))
    net.run(1)
    assert drops(a, "old_stale_request") == 4
    assert status(a, "old").established


@both
def test_acknowledgements_of_what_was_never_sent_are_counted(dialect: Dialect) -> None:
    """Attack 12, on the old wire."""
    net, a, old, node = connected(dialect)
    for sequence in (1, 50, 0x7FFFFFFF):
        node.do(lambda now, s=sequence: old._seal(0x01, s, 0, b"", now))
    net.run(1)
    assert drops(a, "old_bad_ack") == 3
    token = send(a, "old", b"content")
    until(net, lambda: settled(a, token) is not None)


@both
def test_a_close_ends_the_session_and_a_restart_makes_another(dialect: Dialect) -> None:
    net, a, old, node = connected(dialect)
    node.do(old.close)
    until(net, lambda: status(a, "old").state is PeerState.LOST, 1)
    assert "closed" in (status(a, "old").failure or "")
    token = send(a, "old", b"kept for the next one")
    node.detach()
    again = attach(net, "old", THERE, dialect, to=a.address)
    until(net, lambda: settled(a, token) is not None, 30)
    assert again.node.messages == [b"kept for the next one"]
    assert [event.kind for event in events(a)] == [EventKind.CONNECTED, EventKind.LOST, EventKind.RECONNECTED]


@both
def test_what_a_fin_overtook_is_still_taken(dialect: Dialect) -> None:
    net, a, old, node = connected(dialect)
    old.write(b"last words", net.now)
    old._send_one(net.now)
    held = [old._out.popleft()]
    node.do(old.close)
    net.run(0.05)
    for datagram in held:
        net.inject(Address(THERE, PORT), a.address, datagram)
    net.run(1)
    assert stream(a) == b"last words"
    assert a.node.ended_whole("old")


@both
def test_a_goodbye_before_all_has_come_ends_nothing_whole(dialect: Dialect) -> None:
    net, a, old, _ = connected(dialect)
    assert not a.node.ended_whole("old")
    net.partition("a", "old")
    old.write(bytes(3000), net.now)
    for _ in range(3):
        old._send_one(net.now)
    old.close(net.now)
    _, *arriving = old._out
    old._out.clear()
    for datagram in arriving:
        net.inject(Address(THERE, PORT), a.address, datagram)
    until(net, lambda: status(a, "old").state is PeerState.LOST, 1)
    assert stream(a) == b""
    assert not a.node.ended_whole("old")


@both
def test_our_close_is_heard(dialect: Dialect) -> None:
    net, a, old, _ = connected(dialect)
    a.do(a.node.remove_peer, "old")
    net.run(0.5)
    assert old.closed
    net, a, old, _ = connected(dialect, seed=2)
    a.do(a.node.close)
    net.run(0.5)
    assert old.closed


@both
def test_silence_is_noticed_and_an_idle_session_lives(dialect: Dialect) -> None:
    net, a, old, _ = connected(dialect)
    net.run(120)
    assert status(a, "old").established
    assert old.established
    net.partition("a", "old")
    until(net, lambda: status(a, "old").state is PeerState.LOST, 25)
    assert old.died in (None, "stream may be broken")
    assert not a.node.ended_whole("old")


@both
def test_a_restart_of_the_old_program_is_noticed(dialect: Dialect) -> None:
    """Its new punch begins another handshake while the old session still stands; messages under way go again."""
    net, a, _, node = connected(dialect)
    node.detach()
    token = send(a, "old", b"to whichever life")
    net.run(1)
    again = attach(net, "old", THERE, dialect, to=a.address)
    until(net, lambda: settled(a, token) is not None, 20)
    assert again.node.messages == [b"to whichever life"]
    assert [event.kind for event in events(a)][-1] is EventKind.RECONNECTED


@both
def test_what_is_sent_again_does_not_meet_a_restarted_program(dialect: Dialect) -> None:
    """Anything but a handshake would end its ``connect``; so while a punch was heard the old session is silent."""
    net, a, _, node = connected(dialect)
    node.detach()
    send(a, "old", bytes(20_000))
    net.run(1.5)
    repetition = peer_of(a, "old").connection.sending.next_timer()
    assert repetition is not None
    net.run(repetition - net.now - 0.03)
    again = attach(net, "old", THERE, dialect, to=a.address).node
    until(net, lambda: again.messages or again.died, 20)
    assert again.died is None
    assert again.messages == [bytes(20_000)]


@both
def test_forged_datagrams_do_nothing(dialect: Dialect) -> None:
    """Attacks 6, 10 and 53, on the old wire: from the peer's own address, in every stage."""
    junk = [b"\0", b"\4", b"#" * 1472, report(1472), report(1040), bytes(100), b"\xff" * 100, b"\3" + bytes(50), b"\2+"]
    junk += [punch(other) for other in Dialect] + [probe(1040), b"\1" + bytes(64)]
    net, a, _, node = connected(dialect)
    sent = net.random.randbytes(200_000)
    write(net, node, sent)
    for step in range(40):
        net.inject(Address(THERE, PORT), a.address, junk[step % len(junk)])
        net.run(0.05)
    until(net, lambda: len(stream(a)) == len(sent))
    assert stream(a) == sent
    assert events(a, EventKind.LOST) == []
    assert drops(a) > 20


@both
def test_replayed_packets_do_nothing(dialect: Dialect) -> None:
    """Attacks 1 and 3, on the old wire."""
    net, a, old, node = connected(dialect)
    recorded: list[bytes] = []
    net.tap(lambda now, source, destination, data: recorded.append(data) if source.host == THERE else None)
    write(net, node, bytes(range(256)) * 40)
    if dialect is Dialect.SRUDP:
        node.do(old.broadcast, b"once")
    token = send(a, "old", bytes(20_000))
    until(net, lambda: settled(a, token) is not None)
    net.run(1)
    before = arrived(a)
    for datagram in recorded * 2:
        net.inject(Address(THERE, PORT), a.address, datagram)
    net.run(5)
    assert arrived(a) == before
    assert old.died is None
    assert status(a, "old").established
    assert drops(a, "old_duplicate") >= 16


def test_memory_of_broadcasts_is_bounded() -> None:
    """Attack 1, on the old wire: more broadcasts than are remembered; a copy of the first is too old, then."""
    net, a, old, node = connected(Dialect.SRUDP)
    recorded: list[bytes] = []
    net.tap(lambda now, source, destination, data: recorded.append(data) if source.host == THERE else None)
    for number in range(1100):
        node.do(old.broadcast, b"%d" % number)
        net.run(0.001)
    net.run(1)
    net.inject(Address(THERE, PORT), a.address, recorded[0])
    net.run(1)
    assert len(arrived(a, "old", 1)) == 1100
    assert drops(a, "old_replayed") == 1
    assert len(peer_of(a, "old").connection._seen) <= 1025


@both
def test_an_application_that_takes_nothing_is_not_filled_up(dialect: Dialect) -> None:
    """Attack 47, on the old wire."""
    net = SimNet(1, link=LINK)
    config = Config(channel_window=65_536, connection_window=65_536, max_message_size=65_536, receive_budget=65_536)
    a = us(net, dialect, config=config, on_event=None)
    node = attach(net, "old", THERE, dialect, to=a.address)
    old = node.node
    until(net, lambda: status(a, "old").established and old.established)
    for _ in range(100):
        write(net, node, bytes(10_000))
    net.run(19)
    assert len(stream(a)) < 65_536 + (1 << 20) + 20_000
    assert status(a, "old").established
    for event in a.events:
        if hasattr(event, "receipt"):
            a.do(a.node.message_taken, event)
    # From now on everything is taken as it comes.
    assert len(old._buffer) + len(old._unsent) > 0
    net.run(5)
    assert len(stream(a)) > 65_536


def test_a_message_without_end_closes_the_session() -> None:
    """Attack 17, on the old wire."""
    net = SimNet(1, link=LINK)
    config = Config(max_message_size=50_000, receive_budget=50_000)
    a = us(net, Dialect.SRMUDP_0_0_4, config=config)
    node = attach(net, "old", THERE, Dialect.SRMUDP_0_0_4, to=a.address)
    until(net, lambda: status(a, "old").established and node.node.established)
    write(net, node, bytes(60_000))
    until(net, lambda: events(a, EventKind.LOST))
    assert "max_message_size" in events(a, EventKind.LOST)[0].reason
    assert drops(a, "protocol_error") == 1
    assert arrived(a) == []


@both
def test_packets_far_ahead_are_not_kept(dialect: Dialect) -> None:
    """Attacks 14 and 17, on the old wire."""
    net, a, old, node = connected(dialect)
    for sequence in (*range(4090, 4110), *range(2, 900)):
        node.do(lambda now, s=sequence: old._seal(0, s, 0, bytes(1400), now))
    net.run(0.5)
    receiving = peer_of(a, "old").connection.receiving
    assert len(receiving._held) <= 4096
    assert receiving._held_bytes <= 1 << 20
    assert receiving._held_bytes > 1_000_000
    assert 13 + 100 < drops(a, "old_beyond_window") < 300


@both
def test_a_far_gap_is_not_asked_for_all_at_once(dialect: Dialect) -> None:
    """Attack 14, on the old wire: nor does one datagram provoke thousands."""
    net, _, old, node = connected(dialect)
    asked: list[float] = []
    net.tap(lambda now, source, destination, data: asked.append(now) if source.host == HERE else None)
    node.do(lambda now: old._seal(0, 4000, 0, b"far", now))
    net.run(0.2)
    assert 100 < len(asked) < 700
    assert max(asked.count(when) for when in asked) <= 33
    assert old.died is not None  # a program that never sent them ends there, as the real one does


@both
def test_two_of_ours_may_speak_it_with_each_other(dialect: Dialect) -> None:
    net = SimNet(3, link=LOSSY)
    a, b = make_node(net, "a", HERE), make_node(net, "b", THERE)
    a.do(a.node.add_peer, "b", [b.address], None, wire=dialect.value)
    b.do(b.node.add_peer, "a", [a.address], None, wire=dialect.value)
    until(net, lambda: status(a, b).established and status(b, a).established, 40)
    for sender, receiver in ((a, b), (b, a)):
        content = net.random.randbytes(200_000)
        token = send(sender, receiver, content)
        until(net, lambda s=sender, t=token: settled(s, t) is not None, 60)
        assert b"".join(arrived(receiver)) == content


def test_a_socket_has_peers_on_all_wires() -> None:
    net = SimNet(1, link=LINK)
    a = us(net, Dialect.SRUDP)
    old = attach(net, "old", THERE, Dialect.SRUDP, to=a.address)
    other = attach(net, "other", "10.0.0.3", Dialect.SRMUDP_0_0_4, to=a.address)
    native = make_node(net, "native", "10.0.0.4")
    a.do(a.node.add_peer, "other", [other.address], None, wire="srmudp-0.0.4")
    a.do(a.node.add_peer, "native", [native.address], None)
    native.do(native.node.add_peer, "a", [a.address], None)
    until(net, lambda: all(status(a, name).established for name in ("old", "other", "native")))
    for name in ("old", "other", "native"):
        send(a, name, name.encode())
    net.run(1)
    assert old.node.messages == [b"old"]
    assert other.node.messages == [b"other"]
    assert arrived(native) == [b"native"]
    assert set(a.node.drops) <= {"old_lost_tie"}


def test_the_wire_is_never_chosen_by_what_comes() -> None:
    """An old program that was added without a word about the wire gets no answer but ours."""
    net = SimNet(1, link=LINK)
    a = make_node(net, "a", HERE)
    a.do(a.node.add_peer, "old", [Address(THERE, PORT)], None)
    attach(net, "old", THERE, Dialect.SRUDP, to=a.address)
    net.run(5)
    assert status(a, "old").state is PeerState.CONNECTING
    assert drops(a) > 0


@both
def test_a_punch_of_the_other_dialect_is_said_and_not_followed(dialect: Dialect) -> None:
    """What comes would be a stream in one and messages in the other, and our own punch has named a curve already."""
    net = SimNet(1, link=LINK)
    a = us(net, dialect)
    (other,) = set(Dialect) - {dialect}
    net.inject(Address(THERE, PORT), a.address, punch(other))
    net.run(5)
    assert (
        status(a, "old").failure
        == f"the program there speaks {other.value}, not {dialect.value}; add it with that wire"
    )
    assert status(a, "old").state is PeerState.CONNECTING
    assert a.node.drops == {"old_unreadable": 1}


def test_adding_says_what_does_not_go_together() -> None:
    net = SimNet(1, link=LINK)
    a = us(net, Dialect.SRUDP)
    peer_id = make_node(net, "b", "10.0.0.9").node.peer_id
    with pytest.raises(ValueError, match="cannot prove"):
        a.do(a.node.add_peer, "x", [Address(THERE, 1)], peer_id, wire="srudp")
    with pytest.raises(ValueError, match="another wire"):
        a.do(a.node.add_peer, "old", [Address(THERE, 1)], None, wire="srmudp-0.0.4")
    with pytest.raises(ValueError, match="another wire"):
        a.do(a.node.add_peer, "old", [Address(THERE, 1)], None)
    with pytest.raises(ValueError, match="cannot prove"):
        a.do(a.node.trust, "old", peer_id)
    a.do(a.node.add_peer, "native", [Address(THERE, 2)], None)
    with pytest.raises(ValueError, match="another wire"):
        a.do(a.node.add_peer, "native", [Address(THERE, 2)], None, wire="srudp")


def test_an_address_belongs_to_one_peer() -> None:
    net, a, old, node = connected(Dialect.SRUDP)
    with pytest.raises(ValueError, match="one address"):
        a.do(a.node.add_peer, "twin", [Address(THERE, PORT)], None, wire="srudp")
    send(a, "old", bytes(1_000_000))
    a.do(a.node.remove_peer, "old")  # what is queued is still brought home
    assert not old.closed
    a.do(a.node.add_peer, "successor", [Address(THERE, PORT)], None, wire="srudp")
    net.run(1)
    assert old.closed
    node.detach()
    again = attach(net, "old", THERE, Dialect.SRUDP, to=a.address)
    until(net, lambda: status(a, "successor").established and again.node.established)
    a.do(a.node.set_addresses, "successor", [Address(THERE, PORT), Address("10.0.0.77", 1)])
    send(a, "successor", b"still there")
    until(net, lambda: again.node.messages == [b"still there"])


@both
def test_an_interrupted_call_costs_the_session_and_no_message(dialect: Dialect) -> None:
    net, a, _, node = connected(dialect)
    token = send(a, "old", bytes(50_000))
    a.node._at_work = peer_of(a, "old")
    a.do(a.node.handle_interrupted)
    assert events(a, EventKind.LOST)
    node.detach()
    net.run(0.1)  # what is on its way would end the handshake of the next one
    again = attach(net, "old", THERE, dialect, to=a.address)
    until(net, lambda: settled(a, token) is not None, 30)
    assert again.node.messages == [bytes(50_000)]


@both
def test_sleep_ends_a_session_that_the_other_end_has_given_up(dialect: Dialect) -> None:
    net, a, _, node = connected(dialect)
    net.run(1)
    a.do(a.node.handle_resumed, 5.0)
    assert status(a, "old").established
    a.do(a.node.handle_resumed, 60.0)
    assert status(a, "old").state is PeerState.LOST
    node.detach()
    attach(net, "old", THERE, dialect, to=a.address)
    until(net, lambda: status(a, "old").established, 5)


def test_on_loopback_datagrams_may_come_from_another_port() -> None:
    """As srudp sends them there; also of two old peers on one host, and beside a native one."""
    net = SimNet(1, link=LINK)
    net.add_host("me", "127.0.0.1")
    a = make_node(net, "me", "127.0.0.1", port=6000)
    for name, port in (("one", 6001), ("two", 6003)):
        a.do(a.node.add_peer, name, [Address("127.0.0.1", port)], None, wire="srudp")
    ends = {}
    for name, port, source in (("one", 6001, 7001), ("two", 6003, 7003)):
        node = attach(net, "me", "127.0.0.1", Dialect.SRUDP, to=a.address, port=port)
        ends[name] = node.node
        net.intercept(_from_second_socket(node.address, Address("127.0.0.1", source)))
        until(net, lambda n=name: status(a, n).established and ends[n].established)
    for name in ends:
        token = send(a, name, name.encode())
        until(net, lambda t=token: settled(a, t) is not None)
    assert {name: end.messages for name, end in ends.items()} == {"one": [b"one"], "two": [b"two"]}


def _from_second_socket(bound: Address, seen: Address) -> Any:
    return lambda now, source, destination, data: [(seen, destination, data)] if source == bound else None


def test_an_old_connection_has_what_an_endpoint_asks_of_any() -> None:
    """Read from the source: every ``peer.connection.<name>`` of the endpoint."""
    tree = ast.parse(inspect.getsource(endpoint_module))
    asked = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and ((isinstance(node.value, ast.Attribute) and node.value.attr == "connection") or _is_connection(node.value))
    }
    assert len(asked) > 8
    net = SimNet(1, link=LINK)
    a = us(net, Dialect.SRUDP)
    peer = peer_of(a, "old")
    assert isinstance(peer, OldPeer)
    native_only = {"on_incomplete"}
    assert [name for name in sorted(asked - native_only) if not hasattr(peer.connection, name)] == []


def _is_connection(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "connection"
