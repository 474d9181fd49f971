"""The sending half: order, resending, withdrawal, beginning anew, interrupts; both halves over a hostile network."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srmudp.config import Config
from srmudp.exceptions import RemoteProtocolError
from srmudp.protocol.credit import OVERHEAD, ReceiveBudget
from srmudp.protocol.events import Failure
from srmudp.protocol.receiving import ReceiveHalf
from srmudp.protocol.sending import Chunk, OutgoingMessage, SendHalf
from srmudp.wire.codec import VARINT_MAX
from srmudp.wire.frames import MAX_FRAMES, MAX_PART_HEADER, ChannelState, MessagePart, parse_frames, serialise
from tests.connections import Duo, Side
from tests.cost import assert_cheap, cpu_seconds

WINDOW = 64 * 1024
Part = tuple[int, int, int, int, bytes]


def half(channel_window: int = WINDOW, connection_window: int = 4 * WINDOW) -> SendHalf:
    sender = SendHalf()
    sender.set_windows(channel_window, connection_window)
    return sender


def fill(sender: SendHalf, room: int = 1200, *, one_channel: bool = False) -> tuple[list[Part], list[Chunk]]:
    """One record's worth: the parts as the peer reads them, and the chunks to report on."""
    out: list[bytes | memoryview] = []
    chunks: list[Chunk] = []
    used = sender.fill(room, out, chunks, one_channel=one_channel)
    plaintext = b"".join(out)
    assert used == len(plaintext) <= room
    parts: list[Part] = []
    for frame in parse_frames(plaintext):
        assert isinstance(frame, MessagePart)
        parts.append((frame.channel, frame.sequence, frame.offset, frame.total, bytes(frame.data)))
    assert len(parts) == len(chunks)
    return parts, chunks


def drain(sender: SendHalf, room: int = 1200) -> tuple[list[Part], list[Chunk]]:
    """Everything that may be sent now."""
    parts: list[Part] = []
    chunks: list[Chunk] = []
    while sender.has_work:
        more, their = fill(sender, room)
        parts += more
        chunks += their
    return parts, chunks


def lose(sender: SendHalf, chunks: list[Chunk]) -> None:
    for chunk in chunks:
        sender.on_lost(*chunk)


def acknowledge(sender: SendHalf, chunks: list[Chunk]) -> None:
    for chunk in chunks:
        sender.on_acked(*chunk)


def consistent(sender: SendHalf) -> None:
    """The sums are the sums, sequences have no gap."""
    for state in sender.channels.values():
        assert state.charged == sum(message.charge for message in state.started)
        sequences = [message.sequence for message in state.started]
        assert sequences == list(range(state.next_sequence - len(sequences), state.next_sequence))
    assert sender.charged == sum(state.charged for state in sender.channels.values())
    live = [
        message
        for state in sender.channels.values()
        for message in (*state.started, *state.waiting)
        if not message.withdrawn
    ]
    assert sender.queued_bytes == sum(message.size for message in live)
    assert sender.queued_messages == len(live)
    assert (sender.next_expiry() is not None) == any(message.expires is not None for message in live)


# --- order


def test_messages_of_a_channel_are_numbered_in_order_and_gathered() -> None:
    sender = half()
    for token, content in enumerate([b"a", b"", b"ccc"]):
        sender.add(token, 5, content, None)
    parts, chunks = fill(sender)
    assert parts == [(5, 0, 0, 1, b"a"), (5, 1, 0, 0, b""), (5, 2, 0, 3, b"ccc")]
    assert [(message.token, start, end) for message, start, end in chunks] == [(0, 0, 1), (1, 0, 0), (2, 0, 3)]
    consistent(sender)
    assert sender.charged == 3 * OVERHEAD + 4


def test_channels_take_turns() -> None:
    sender = half()
    for number in range(3):
        sender.add(number, number, bytes(5000), None)
    order = [fill(sender, one_channel=True)[0][0][0] for _ in range(6)]
    assert order == [0, 1, 2, 0, 1, 2]


def test_a_message_is_cut_to_the_room_and_never_overlaps() -> None:
    content = random.Random(1).randbytes(10_000)
    sender = half()
    sender.add(1, 0, content, None)
    parts, _ = drain(sender, 700)
    assert b"".join(part[4] for part in parts) == content
    at = 0
    for _, sequence, offset, total, data in parts:
        assert (sequence, offset, total) == (0, at, 10_000)
        at += len(data)


def test_too_little_room_sends_nothing_and_loses_nothing() -> None:
    sender = half()
    sender.add(1, 0, b"hello", None)
    for room in range(MAX_PART_HEADER + 1):
        assert fill(sender, room) == ([], [])
        assert sender.has_work
    assert fill(sender, MAX_PART_HEADER + 5)[0] == [(0, 0, 0, 5, b"hello")]


@pytest.mark.parametrize("resent", [False, True])
def test_a_record_never_has_more_frames_than_a_reader_takes(resent: bool) -> None:
    sender = half(1 << 22, 1 << 24)
    for token in range(3000):
        sender.add(token, token % 3, b"x", None)
    if resent:
        lose(sender, drain(sender)[1])
    while sender.has_work:
        parts, _ = fill(sender, 60_000)
        assert len(parts) <= MAX_FRAMES // 2 + 1


# --- acknowledged and lost


def test_only_what_did_not_arrive_goes_again() -> None:
    sender = half()
    sender.add(1, 0, bytes(10_000), None)
    _, chunks = drain(sender)
    acknowledge(sender, chunks[::2])
    lose(sender, chunks[1::2])
    again, their = drain(sender)
    assert [(part[2], part[2] + len(part[4])) for part in again] == [(start, end) for _, start, end in chunks[1::2]]
    acknowledge(sender, their)
    lose(sender, chunks)  # late news of what arrived long ago
    assert drain(sender) == ([], [])


def test_a_lost_part_that_arrived_in_another_record_stays_home() -> None:
    sender = half()
    sender.add(1, 0, bytes(1000), None)
    _, chunks = drain(sender, 400)
    sender.on_acked(chunks[0][0], 200, 800)
    sender.on_lost(chunks[0][0], 0, 1000)
    parts, _ = drain(sender)
    assert [(part[2], len(part[4])) for part in parts] == [(0, 200), (800, 200)]


def test_a_lost_empty_message_goes_again() -> None:
    sender = half()
    sender.add(1, 0, b"", None)
    parts, chunks = drain(sender)
    lose(sender, chunks)
    assert drain(sender)[0] == parts
    acknowledge(sender, chunks)
    lose(sender, chunks)
    assert drain(sender)[0] == []


def test_resending_costs_no_credit() -> None:
    sender = half(1 << 16, 1 << 16)
    sender.add(1, 0, bytes(WINDOW - OVERHEAD), None)
    _, chunks = drain(sender)
    assert sender.charged == WINDOW
    lose(sender, chunks)
    parts, _ = drain(sender)
    assert sum(len(part[4]) for part in parts) == WINDOW - OVERHEAD
    assert sender.charged == WINDOW


def test_a_large_part_is_cut_again_when_resent_into_small_records() -> None:
    content = random.Random(2).randbytes(20_000)
    sender = half()
    sender.add(1, 0, content, None)
    _, chunks = fill(sender, 30_000)
    lose(sender, chunks)
    parts, _ = drain(sender, 500)
    assert len(parts) > 40
    assert b"".join(part[4] for part in parts) == content


# --- taken


def test_taken_settles_in_order_and_only_once() -> None:
    sender = half()
    for token in range(4):
        sender.add(token, 0, b"x", None)
    _, chunks = drain(sender)
    sender.on_taken(0, 2)
    assert sender.settled == [(0, None), (1, None)]
    sender.on_taken(0, 2)
    sender.on_taken(0, 1)  # overtaken by a newer one
    assert len(sender.settled) == 2
    sender.on_taken(0, 4)
    assert [token for token, _ in sender.settled] == [0, 1, 2, 3]
    assert sender.charged == 0
    lose(sender, chunks)
    assert drain(sender) == ([], [])
    consistent(sender)


@pytest.mark.parametrize(("channel", "sequence"), [(0, 2), (0, VARINT_MAX), (1, 1), (63, VARINT_MAX)])
def test_taking_what_was_never_sent(channel: int, sequence: int) -> None:
    """Attack 12, of messages."""
    sender = half()
    sender.add(1, 0, b"x", None)
    sender.add(2, 1, b"x", None)
    fill(sender, one_channel=True)
    with pytest.raises(RemoteProtocolError):
        sender.on_taken(channel, sequence)
    assert not sender.settled
    assert sender.queued_messages == 2


def test_taking_a_message_before_its_end_was_sent() -> None:
    """Attack 12, of messages."""
    sender = half()
    sender.add(1, 0, bytes(5000), None)
    fill(sender)
    with pytest.raises(RemoteProtocolError):
        sender.on_taken(0, 1)
    assert not sender.settled


def test_a_grant_for_what_was_never_sent_is_nothing() -> None:
    sender = half()
    for channel, sequence, limit in ((0, 0, 5), (0, VARINT_MAX, VARINT_MAX), (63, 0, 0)):
        sender.on_grant(channel, sequence, limit)
    sender.add(1, 0, bytes(100_000), None)
    drain(sender)
    sender.on_grant(0, 1, VARINT_MAX)
    assert drain(sender) == ([], [])
    sender.on_grant(0, 0, VARINT_MAX)  # more than the message is as good as all of it
    parts, _ = drain(sender)
    assert parts[-1][2] + len(parts[-1][4]) == 100_000
    assert sender.charged == OVERHEAD
    sender.on_grant(0, 0, 0)  # the largest counts
    assert sender.charged == OVERHEAD


# --- too large, too late


def test_messages_the_peer_would_refuse_fail_unless_they_began() -> None:
    sender = half()
    sender.add(1, 0, bytes(100_000), None)
    drain(sender)
    for token, size in ((2, 10), (3, 11), (4, 10), (5, 11)):
        sender.add(token, 0, bytes(size), None)
    sender.fail_larger(10)
    assert sender.settled == [(3, Failure.TOO_BIG), (5, Failure.TOO_BIG)]
    consistent(sender)


def test_a_waiting_message_expires_without_trace() -> None:
    sender = half()
    sender.add(1, 0, b"a", 10.0)
    sender.add(2, 0, b"b", None)
    sender.add(3, 1, b"c", 20.0)
    assert sender.next_expiry() == 10.0
    sender.expire(9.999)
    assert not sender.settled
    sender.expire(10.0)
    assert sender.settled == [(1, Failure.EXPIRED)]
    assert sender.next_expiry() == 20.0
    consistent(sender)
    assert fill(sender)[0] == [(0, 0, 0, 1, b"b"), (1, 0, 0, 1, b"c")]
    assert not sender.withdrawals


def test_a_started_message_is_withdrawn_and_keeps_its_charge_until_taken() -> None:
    sender = half()
    sender.add(1, 0, bytes(5000), 10.0)
    sender.add(2, 0, b"next", None)
    parts, chunks = fill(sender)
    charged = sender.charged
    sender.expire(10.0)
    assert sender.settled == [(1, Failure.EXPIRED)]
    assert list(sender.withdrawals) == [(0, 0)]
    assert sender.charged == charged
    assert sender.next_expiry() is None
    consistent(sender)
    lose(sender, chunks)
    parts, _ = drain(sender)
    assert parts == [(0, 1, 0, 4, b"next")]
    sender.on_taken(0, 2)
    assert sender.settled == [(1, Failure.EXPIRED), (2, None)]
    assert sender.charged == 0
    assert not sender.withdrawals


def test_thousands_of_messages_with_a_ttl_cost_no_quadratic_work() -> None:
    count = 20_000

    def live(sender: SendHalf) -> None:
        for token in range(count):
            sender.add(token, 0, b"x", None if token % 2 else 1000.0 + token * 1e-4)
            sender.next_expiry()
        for step in range(200):
            when = sender.next_expiry()
            assert when is not None
            sender.expire(1000.0 + step * 1e-3)
        sender.expire(2000.0)

    def scene() -> float:
        sender = half()
        seconds = cpu_seconds(lambda: live(sender))
        assert len(sender.settled) == count // 2
        assert sender.next_expiry() is None
        consistent(sender)
        return seconds

    assert_cheap(scene, 1.5)


def test_thousands_of_messages_too_large_cost_no_quadratic_work() -> None:

    def scene() -> float:
        sender = half()
        for token in range(20_000):
            sender.add(token, 0, bytes(1 + token // 10_000), None)
        seconds = cpu_seconds(lambda: sender.fail_larger(1))
        assert len(sender.settled) == 10_000
        return seconds

    assert_cheap(scene, 0.3)


def test_fail_all_leaves_nothing_behind() -> None:
    sender = half()
    sender.add(1, 0, bytes(5000), 10.0)
    sender.add(2, 1, b"b", None)
    sender.add(3, 1, b"c", 5.0)
    _, chunks = fill(sender, one_channel=True)
    sender.expire(5.0)
    sender.fail_all(Failure.CLOSED)
    assert sorted(sender.settled) == [(1, Failure.CLOSED), (2, Failure.CLOSED), (3, Failure.EXPIRED)]
    assert sender.charged == sender.queued_bytes == sender.queued_messages == 0
    assert not sender.has_work
    assert sender.next_expiry() is None
    sender.add(4, 0, b"new", None)
    lose(sender, chunks)  # of the message that failed: nothing of it may be sent in the new one's name
    assert drain(sender)[0] == [(0, 0, 0, 3, b"new")]


# --- sessions and instances


def test_a_new_instance_gets_everything_not_taken_again_oldest_first() -> None:
    sender = half()
    for token in range(6):
        sender.add(token, 0, bytes([token]) * 700, 50.0 if token == 2 else None)
    _, chunks = fill(sender, 3000)
    acknowledge(sender, chunks)
    sender.on_taken(0, 1)
    sender.expire(50.0)
    lose(sender, chunks)
    sender.restart()
    consistent(sender)
    assert sender.charged == 0
    assert not sender.withdrawals
    parts, _ = drain(sender, 8000)
    assert [(part[1], part[4][:1]) for part in parts] == [
        (0, b"\x01"), (1, b"\x03"), (2, b"\x04"), (3, b"\x05")
    ]  # fmt: skip
    sender.on_taken(0, 4)
    assert sender.queued_messages == 0


def test_the_same_instance_that_remembers_as_much() -> None:
    sender = half()
    for token in range(3):
        sender.add(token, 0, b"x", None)
    _, chunks = drain(sender)
    lose(sender, chunks)  # the session ended
    sender.synchronise(0, 2)  # 0 and 1 arrived, though their acknowledgements did not
    assert [part[1] for part in drain(sender)[0]] == [2]
    sender.on_taken(0, 3)
    assert not sender.queued_messages


def test_the_same_instance_that_remembers_more() -> None:
    """We forgot the peer and began anew; it goes on where it was."""
    sender = half()
    sender.add(1, 0, b"x", None)
    sender.add(2, 0, bytes(90_000), 10.0)
    sender.add(3, 0, b"y", None)
    drain(sender)
    sender.expire(10.0)
    sender.synchronise(0, 7)
    consistent(sender)
    assert sender.charged == 0
    assert not sender.withdrawals
    assert [(part[1], part[4]) for part in drain(sender)[0]] == [(7, b"x"), (8, b"y")]
    assert [(message.token, message.sequence) for message in sender.channels[0].started] == [(1, 7), (3, 8)]
    sender.on_taken(0, 9)
    assert not sender.queued_messages


def test_the_same_instance_that_remembers_more_than_nothing() -> None:
    sender = half()
    sender.synchronise(9, 5)
    sender.add(1, 9, b"x", None)
    assert fill(sender)[0] == [(9, 5, 0, 1, b"x")]


def test_the_same_instance_that_remembers_nothing() -> None:
    sender = half()
    sender.add(1, 0, bytes(3000), None)
    _, chunks = fill(sender)
    acknowledge(sender, chunks)
    sender.synchronise(0, None)
    parts, _ = drain(sender)
    assert sorted((part[2], part[2] + len(part[4])) for part in parts)[0][0] == 0
    assert sum(len(part[4]) for part in parts) == 3000


@pytest.mark.parametrize("size", [0, 1, 100, 1000, 20_000])
@pytest.mark.parametrize("priority", [0, 2])
def test_a_brief_message_goes_as_fill_would_send_it(size: int, priority: int) -> None:
    senders = half(), half()
    for sender in senders:
        sender.add(0, 3, b"before", None)
        drain(sender)
        sender.add(1, 3, b"x" * size, None, priority)
        assert sender.brief(size + MAX_PART_HEADER - 1) is None
    out: list[bytes | memoryview] = []
    chunks: list[Chunk] = []
    senders[0].fill(30_000, out, chunks, one_channel=False)
    brief = senders[1].brief(size + MAX_PART_HEADER)
    assert brief is not None
    taken = senders[1].take_brief(brief)
    assert taken is not None
    frame, (message, start, stop) = taken
    assert frame == b"".join(out)
    assert [(chunk[1:], chunk[0].sequence) for chunk in chunks] == [((start, stop), message.sequence)]
    for sender in senders:
        consistent(sender)
        assert not sender.has_work
        assert not sender.channels[3].ranks
    assert senders[0].charged == senders[1].charged
    for sender in senders:
        sender.on_taken(3, 2)
        assert sender.settled == [(0, None), (1, None)]
        assert not sender.charged


@pytest.mark.parametrize("windows", [(OVERHEAD + 150, WINDOW), (WINDOW, OVERHEAD + 150)])
def test_a_brief_message_waits_for_credit(windows: tuple[int, int]) -> None:
    sender = half(*windows)
    for token, content in enumerate((b"x" * 100, b"y" * 100)):
        sender.add(token, 0, content, None)
        brief = sender.brief(1000)
        assert brief is not None
        assert (sender.take_brief(brief) is None) is (token == 1)
    consistent(sender)
    sender.on_taken(0, 1)
    assert drain(sender)[0] == [(0, 1, 0, 100, b"y" * 100)]


@pytest.mark.parametrize("again", ["synchronise", "recount"])
def test_a_message_that_began_without_a_byte_is_not_sent_as_empty(again: str) -> None:
    """The window had room for its overhead alone. A part without data of a message with data is a broken record."""
    sender = half(1 << 16, 2 * OVERHEAD)
    sender.add(1, 0, b"", None)
    sender.add(2, 1, b"content", None)
    drain(sender)
    assert sender.channels[1].started
    if again == "synchronise":
        sender.synchronise(1, None)
    else:
        sender.recount()
    drain(sender)  # parse_frames refuses what no reader would take
    sender.on_taken(0, 1)
    parts, _ = drain(sender)
    assert parts[-1] == (1, 0, 0, 7, b"content")


@pytest.mark.parametrize("expected", [VARINT_MAX - 1, (1 << 61) + 1])
def test_a_peer_that_expects_the_last_number(expected: int) -> None:
    """A hostile peer: nothing but RemoteProtocolError may come of it, now or when messages are numbered."""
    sender = half()
    for token in range(4):
        sender.add(token, 0, b"x", None)
    try:
        sender.synchronise(0, expected)
    except RemoteProtocolError:
        return
    drain(sender)


# --- interrupts


class _Interrupt(BaseException):
    """Stands for KeyboardInterrupt."""


def interrupted_at(step: int, call: Callable[[], object]) -> bool:
    """Run ``call`` and interrupt it before its ``step``-th line in sending.py. False if it was over before."""
    left = step

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.endswith("protocol/sending.py"):
            return None
        if event == "line":
            left -= 1
            if left == 0:
                raise _Interrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except _Interrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def _scene() -> tuple[SendHalf, list[Chunk]]:
    sender = half(8000, 16_000)
    scene = [(0, 0), (0, 10), (0, 3000), (1, 900), (0, 40), (0, 50), (1, 6000), (0, 1)]
    for token, (channel, size) in enumerate(scene):
        sender.add(token, channel, bytes([token]) * size, 10.0 if token in (2, 5, 7) else None)
    _, chunks = fill(sender, 1000)
    chunks += fill(sender, 1000)[1]
    return sender, chunks


@pytest.mark.parametrize("what", ["fill", "taken", "expire", "lost", "larger", "synchronise", "grant"])
def test_recount_mends_whatever_an_interrupt_left_undone(what: str) -> None:
    step = 0
    while True:
        step += 1
        sender, chunks = _scene()
        calls: dict[str, Callable[[], object]] = {
            "fill": lambda s=sender: fill(s, 2000),  # type: ignore[misc]
            "taken": lambda s=sender: s.on_taken(0, 2),  # type: ignore[misc]
            "expire": lambda s=sender: s.expire(10.0),  # type: ignore[misc]
            "lost": lambda s=sender, c=chunks: lose(s, c),  # type: ignore[misc]
            "larger": lambda s=sender: s.fail_larger(20),  # type: ignore[misc]
            "synchronise": lambda s=sender: s.synchronise(0, 2),  # type: ignore[misc]
            "grant": lambda s=sender: s.on_grant(0, 2, 2000),  # type: ignore[misc]
        }
        if not interrupted_at(step, calls[what]):
            break
        for chunk in chunks:
            sender.on_lost(*chunk)  # the session ends: what was in flight
        sender.recount()
        consistent(sender)
        _finish(sender, 2 if what in ("taken", "synchronise") else 0)
    assert step > 3


def test_an_interrupt_while_a_brief_message_is_taken_loses_nothing() -> None:
    step = 0
    while True:
        step += 1
        sender = half()
        sender.add(0, 0, b"before", None)
        _, chunks = drain(sender)
        sender.add(1, 0, b"brief", None, 2)
        brief = sender.brief(1000)
        assert brief is not None
        if not interrupted_at(step, partial(sender.take_brief, brief)):
            break
        lose(sender, chunks)
        sender.recount()
        consistent(sender)
        parts, _ = drain(sender)
        assert sorted(parts) == [(0, 0, 0, 6, b"before"), (0, 1, 0, 5, b"brief")]
        sender.on_taken(0, 2)
        assert sender.settled == [(0, None), (1, None)]
        assert not sender.charged
    assert step > 10


@pytest.mark.parametrize("size", [0, 3000])
def test_recount_sends_no_empty_part_of_what_was_sent_whole(size: int) -> None:
    """The interrupt strikes after the last part was made and before the message is noted as over."""
    sender = half(8000, 16_000)
    sender.add(0, 0, b"x" * size, None)
    _, chunks = fill(sender, 8000)
    state = sender.channels[0]
    state.current = state.started[0]
    for chunk in chunks:
        sender.on_lost(*chunk)
    sender.recount()
    parts, chunks = drain(sender)
    lengths = [len(MessagePart(*part).data) for part in parts]
    assert sum(lengths) == size
    assert all(lengths) if size else lengths == [0]
    acknowledge(sender, chunks)
    sender.on_taken(0, 1)
    assert sender.settled == [(0, None)]


def _finish(sender: SendHalf, taken: int) -> None:
    """Play an honest peer, who took the first of channel 0, until everything is settled: every token exactly once."""
    receiver = ReceiveHalf(
        Config(channel_window=64 * 1024, connection_window=64 * 1024), ReceiveBudget(1 << 22, 0), lambda: None
    )
    receiver.synchronise(ChannelState(0, taken))
    for _ in range(50):
        parts, chunks = drain(sender)
        acknowledge(sender, chunks)
        for part in parts:
            (frame,) = parse_frames(serialise(MessagePart(*part)))  # as strict as a peer is
            assert isinstance(frame, MessagePart)
            for number, sequence, content in receiver.on_part(frame):
                assert len(set(content)) <= 1
                receiver.on_application_took(number, sequence)
        for number, sequence in sender.withdrawals:
            for _, other, _ in receiver.on_withdrawn(number, sequence):
                receiver.on_application_took(number, other)
        sender.withdrawals.clear()
        for number in receiver.taken_dirty:
            sender.on_taken(number, receiver.channels[number].taken)
        receiver.taken_dirty.clear()
        sender.expire(100.0)
        if not sender.queued_messages and not sender.charged:
            break
    assert sorted(token for token, _ in sender.settled) == list(range(8))
    assert sender.charged == sender.queued_bytes == 0


# --- both halves over a network that loses, repeats and reorders


class Network:
    """Delivers records of parts, and what the receiver says, in a random order, some never, some twice."""

    def __init__(self, rng: random.Random, config: Config, budget: ReceiveBudget) -> None:
        self.rng = rng
        self.sender = half(config.channel_window, config.connection_window)
        self.receiver = ReceiveHalf(config, budget, lambda: self.receiver.retry_grants())
        self.flying: list[tuple[list[Part], list[Chunk]]] = []
        self.untaken: list[tuple[int, int, bytes]] = []
        self.got: dict[int, list[bytes]] = {}

    def step(self) -> None:
        rng, sender, receiver = self.rng, self.sender, self.receiver
        if sender.has_work:
            parts, chunks = fill(sender, rng.choice((60, 300, 1200, 9000)), one_channel=rng.random() < 0.5)
            if parts:
                self.flying.append((parts, chunks))
        if self.flying:
            parts, chunks = self.flying.pop(rng.randrange(len(self.flying)))
            fate = rng.random()
            if fate < 0.8:
                self.deliver(parts)
                if fate < 0.15:
                    self.deliver(parts)
            if 0.05 < fate < 0.8:
                acknowledge(sender, chunks)
            else:
                lose(sender, chunks)  # also what arrived: a spurious loss
        if self.untaken and rng.random() < 0.5:
            number, sequence, content = self.untaken.pop(0 if rng.random() < 0.9 else rng.randrange(len(self.untaken)))
            receiver.on_application_took(number, sequence)
            self.got.setdefault(number, []).append(content)
        if rng.random() < 0.5:
            self.control()

    def deliver(self, parts: list[Part]) -> None:
        for part in parts:
            self.untaken += self.receiver.on_part(MessagePart(*part))

    def control(self) -> None:
        sender, receiver = self.sender, self.receiver
        for number, sequence in list(sender.withdrawals):
            del sender.withdrawals[(number, sequence)]
            self.untaken += receiver.on_withdrawn(number, sequence)
        for number, sequence in receiver.grants_dirty:
            limit = receiver.grant_of(number, sequence)
            if limit is not None:
                sender.on_grant(number, sequence, limit)
        receiver.grants_dirty.clear()
        for number in receiver.taken_dirty:
            sender.on_taken(number, receiver.channels[number].taken)
        receiver.taken_dirty.clear()

    def new_session(self, *, brief: bool) -> None:
        """Everything in flight is gone; both say where they are."""
        for _, chunks in self.flying:
            lose(self.sender, chunks)
        self.flying.clear()
        expected = {} if brief else dict(self.receiver.states())
        first = dict(self.sender.states())
        for number in {*expected, *first}:
            self.receiver.synchronise(ChannelState(number, first.get(number, 0)))
            self.sender.synchronise(number, expected.get(number))

    def finish(self) -> None:
        for _ in range(40_000):
            self.step()
            if not (self.sender.queued_messages or self.sender.charged or self.untaken):
                break
        else:
            raise AssertionError("it never completes")
        self.control()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.integers(0, 1 << 32),
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([0, 1, 2, 40, 900, 5000, 30_000, 65_280, 65_536, 150_000])),
        min_size=1,
        max_size=12,
    ),
    st.booleans(),
)
def test_everything_arrives_once_in_order_and_every_charge_returns(
    seed: int, messages: list[tuple[int, int]], expiring: bool
) -> None:
    rng = random.Random(seed)
    budget = ReceiveBudget(1 << 19, 1 << 18)
    config = Config(
        channel_window=WINDOW, connection_window=2 * WINDOW, max_message_size=1 << 18, receive_budget=1 << 19
    )
    network = Network(rng, config, budget)
    sent: dict[int, list[bytes]] = {}
    for token, (number, size) in enumerate(messages):
        content = rng.randbytes(size)
        network.sender.add(token, number, content, 1.0 if expiring and token % 3 == 1 else None)
        sent.setdefault(number, []).append(content)
    for step in range(rng.randrange(100)):
        network.step()
        if step % 40 == 39:
            network.new_session(brief=rng.random() < 0.5)
    if expiring:
        network.sender.expire(1.0)
    network.finish()
    assert sorted(token for token, _ in network.sender.settled) == list(range(len(messages)))
    if not expiring:
        assert {number: sorted(contents) for number, contents in network.got.items()} == {
            number: sorted(contents) for number, contents in sent.items()
        }
    assert network.receiver.charged == network.sender.charged == 0
    assert all(not channel.charges for channel in network.receiver.channels.values())
    assert budget.free == 1 << 19
    assert network.sender.queued_bytes == 0
    consistent(network.sender)


def test_a_message_keeps_its_content_by_reference() -> None:
    content = bytes(5000)
    assert OutgoingMessage(1, 0, content, None).content is content


# --- over a connection


def restart(duo: Duo, side: Side, name: str) -> Side:
    """The program of one side starts anew: it remembers nothing."""
    fresh = Side(duo, side.config, name)
    if side is duo.a:
        duo.a = fresh
    else:
        duo.b = fresh
    duo.a.other, duo.b.other = duo.b, duo.a
    return fresh


def test_news_of_an_earlier_life_of_the_peer_harms_no_message_of_the_new_one() -> None:
    """What is withdrawn while the peer's program restarts has a number that another message gets."""
    duo = Duo().connected()
    duo.b.taking = False
    late = [duo.a.send(bytes([number]), expires=duo.now + 5.0 if number == 2 else None) for number in range(3)]
    duo.run(0.5)
    duo.a.connection.stop()
    restart(duo, duo.b, "b2")
    duo.now += 10.0
    duo.a.connection.on_timer(duo.now)
    tokens = [duo.a.send(bytes([10 + number])) for number in range(5)]
    duo.start("again")
    duo.run(2.0)
    assert [content[0] for _, content in duo.b.got] == [0, 1, 10, 11, 12, 13, 14]
    assert [duo.a.settled[token] for token in tokens] == [None] * 5
    assert [duo.a.settled[token] for token in late] == [None, None, Failure.EXPIRED]


def test_who_forgot_us_is_not_told_what_was_taken_before() -> None:
    duo = Duo().connected()
    duo.b.taking = False
    for _ in range(3):
        duo.a.send(b"old")
    duo.run(0.5)
    for side in duo:
        side.connection.stop()
    duo.b.take()
    duo.b.taking = True
    restart(duo, duo.a, "a2")
    assert duo.b.connection.all_taken() == []
    duo.a.send(b"new")
    duo.start("again")
    duo.run(2.0)
    assert duo.b.got[-1] == (0, b"new")
    assert not duo.a.connection.pending


@pytest.mark.parametrize("mtu", [1200, 8952, 65_507])
def test_thousands_withdrawn_at_once_are_told_in_records_a_reader_takes(mtu: int) -> None:
    duo = Duo(mtu=mtu).connected()
    duo.b.taking = False
    for number in range(3000):
        duo.a.send(b"x", number % 3, expires=duo.now + 5.0)
    duo.run(8.0)
    assert set(duo.a.settled.values()) == {Failure.EXPIRED}
    assert len(duo.a.settled) == 3000


def test_thousands_of_tiny_messages_of_both_kinds_on_the_loopback() -> None:
    duo = Duo(mtu=65_507).connected()
    for number in range(3000):
        duo.a.send(b"x", number % 64, reliable=bool(number & 1))
    duo.run(5.0)
    assert set(duo.a.settled.values()) == {None}
    assert len(duo.a.settled) == 3000
