"""What the fuzzers found, each as a test of its own; the inputs are in the corpus."""

from __future__ import annotations

import pytest

from srmudp.config import KIB, Config
from srmudp.exceptions import DecodeError
from srmudp.models import EventKind
from srmudp.wire.frames import (
    MAX_STARTS,
    ChannelState,
    Frame,
    MessagePart,
    PathChallenge,
    SessionStart,
    Taken,
    UnreliablePart,
    Withdrawn,
    parse_frames,
    serialise,
)
from srmudp.wire.packet import RECORD
from tests.cost import assert_cheap, cpu_seconds
from tests.endpoints import (
    add,
    alive,
    arrived,
    connect,
    drops,
    events,
    hostile,
    make_node,
    peer_of,
    send,
    settled,
    status,
)
from tests.simnet import SimNet

LARGEST_START = SessionStart(
    bytes(7) + b"\1", bytes(8), 1, 1, 1, 1, tuple(ChannelState(channel, 0) for channel in range(64))
)


def test_messages_before_a_breach_in_the_same_record_are_handed_out() -> None:
    """Attack 12: a record with a message, a challenge and then a breach: nothing of it is left for the next session.

    The message would be handed out under the numbers of another life of the peer, the challenge answered in it.
    """
    net = SimNet(1)
    a, b = make_node(net, "a", "10.0.0.1"), make_node(net, "b", "10.0.0.2")
    connect(net, a, b)
    breach = Taken(0, 9)
    before: list[Frame | bytes] = [
        MessagePart(0, 0, 0, 5, b"first"),
        UnreliablePart(0, 0, 0, 4, b"once"),
        PathChallenge(bytes(8)),
    ]
    hostile(net, a, b, [*before, breach])
    assert drops(b, "protocol_error") == 1
    connection = peer_of(b, a).connection
    assert (connection.arrived, connection.arrived_unreliable, connection.signals) == ([], [], [])
    assert sorted(arrived(b, a)) == [b"first", b"once"]
    a.detach()
    a = make_node(net, "a", "10.0.0.1")
    add(a, b)
    send(a, b, b"of another life")
    assert net.run_until(lambda: status(a, b).established and status(b, a).established, 60)
    assert net.run_until(lambda: b"of another life" in arrived(b, a), 10)
    assert arrived(b, a).count(b"first") == 1
    alive(net, a, b)


def test_session_starts_without_end_in_one_record() -> None:
    """Attack 13: 300 SESSION_STARTs of 64 channels each are refused after a few: they would take 0.1 s."""
    record = serialise(LARGEST_START) * 300
    assert len(record) < 65_507

    def refuse() -> None:
        with pytest.raises(DecodeError, match="SESSION_START"):
            parse_frames(record)

    assert_cheap(lambda: cpu_seconds(refuse), 0.02)
    assert len(parse_frames(serialise(LARGEST_START) * MAX_STARTS)) == MAX_STARTS


def test_session_starts_without_end_close_the_connection() -> None:
    """Attack 13: the same against an endpoint."""
    net = SimNet(2)
    a, b = make_node(net, "a", "10.0.0.1"), make_node(net, "b", "10.0.0.2")
    connect(net, a, b)
    hostile(net, a, b, [LARGEST_START] * (MAX_STARTS + 1))
    assert [event.kind for event in events(b)].count(EventKind.LOST) == 1
    assert not status(b, a).established
    assert drops(b, "protocol_error") == 1


@pytest.mark.parametrize("reliable", [True, False])
def test_what_came_while_a_peer_was_removed_is_not_lost_when_it_is_added_again(reliable: bool) -> None:
    """A peer that is removed lingers; added again under the same session, it is owed what was sent in between.

    Dropped but never taken, it held up every later delivery in its channel for good (and kept its room in a queue).
    """
    net = SimNet(3)
    a, b = make_node(net, "a", "10.0.0.1"), make_node(net, "b", "10.0.0.2")
    connect(net, a, b)
    net.partition("a", "b", both=False)
    send(a, b, b"keeps it lingering")
    a.do(a.node.remove_peer, "b")
    token = send(b, a, b"meanwhile", reliable=reliable)
    net.run(0.5)
    assert arrived(a, b) == []
    add(a, b)
    assert arrived(a, b) == [b"meanwhile"]
    net.heal()
    assert net.run_until(lambda: settled(b, token) is not None, 10)
    assert peer_of(a, b).connection.unreliable_in.waiting_bytes == 0
    alive(net, a, b)
    assert arrived(a, b).count(b"meanwhile") == 1
    assert b"keeps it lingering" in arrived(b, a)


def test_messages_of_another_life_are_gone_when_the_peer_restarts() -> None:
    """Attack 12: a WITHDRAWN of the old life before the SESSION_START of the new one completes a message of the old.

    It was handed out under a number of the new life: taking it counted as taking another message.
    """
    net = SimNet(4)
    a, b = make_node(net, "a", "10.0.0.1"), make_node(net, "b", "10.0.0.2")
    connect(net, a, b)
    hostile(net, a, b, [MessagePart(0, 1, 0, 4, b"late")])
    a.detach()
    a = make_node(net, "a", "10.0.0.1")
    held = net.intercept(
        lambda now, source, destination, data: [] if source == a.address and data[0] == RECORD else None
    )
    add(a, b)
    peer = peer_of(a, b)
    assert net.run_until(lambda: peer.connection.session or peer.opening.half_open, 30)
    net.run(0.1)
    session = peer.connection.session or peer.opening.half_open
    assert session is not None
    start = SessionStart(b"new life", bytes(8), 1000, 1 << 20, 1 << 20, 1 << 20)
    frames: list[Frame] = [Withdrawn(0, 0), start, MessagePart(0, 0, 0, 3, b"new")]
    _, _, wire = session.seal(b"".join(map(serialise, frames)), 1200)
    net.inject(a.address, b.address, wire)
    net.run(0.1)
    assert arrived(b, a) == [b"new"]
    held()
    net.run(5)
    assert drops(b, "protocol_error") == 0


@pytest.mark.parametrize("whole", [True, False])
def test_what_exceeds_the_window_is_not_kept(whole: bool) -> None:
    """Attack 20: the part that breaks the window leaves no trace: what stays for the next session is within it.

    Kept and charged, it made the next message that the application took raise in the application's thread.
    """
    config = Config(channel_window=64 * KIB, connection_window=64 * KIB)
    net = SimNet(5)
    a, b = make_node(net, "a", "10.0.0.1"), make_node(net, "b", "10.0.0.2", config=config)
    connect(net, a, b)
    receiving = peer_of(b, a).connection.receiving
    for sequence in range(1, 70):  # behind the first, which does not come
        hostile(net, a, b, [MessagePart(0, sequence, 0, 1000 if whole else 1001, bytes(1000))])
        assert receiving.charged <= config.connection_window
        if drops(b, "protocol_error"):
            break
    assert drops(b, "protocol_error") == 1
    kept = receiving.channels[0]
    assert sequence not in kept.charges
    assert sequence not in kept.partial
    a.detach()
    a = make_node(net, "a", "10.0.0.1")
    connect(net, a, b, timeout=30)
    assert net.run_until(lambda: receiving.charged == 0, 5)
    alive(net, a, b)
    assert drops(b, "protocol_error") == 1
