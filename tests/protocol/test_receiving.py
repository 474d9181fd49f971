"""The receiving half: reassembly, order, what a hostile authenticated peer may make it keep, and what it gives back."""

from __future__ import annotations

import random
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import count, pairwise, permutations
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srmudp.config import CHANNELS, Config
from srmudp.exceptions import RemoteProtocolError
from srmudp.protocol import assembly
from srmudp.protocol.assembly import SMALL_PIECE, IncomingMessage
from srmudp.protocol.credit import OVERHEAD, ReceiveBudget
from srmudp.protocol.rangeset import RangeSet
from srmudp.protocol.receiving import MAX_GAPS, ReceiveHalf
from srmudp.wire.codec import VARINT_MAX
from srmudp.wire.frames import ChannelState, MessagePart, SessionStart, Taken, serialise
from tests.cost import assert_cheap, cpu_seconds

KIB = 1024
SMALL = Config(channel_window=64 * KIB, connection_window=256 * KIB, max_message_size=KIB * KIB, receive_budget=4 << 20)


def half(config: Config = SMALL, budget: ReceiveBudget | None = None) -> ReceiveHalf:
    budget = ReceiveBudget(config.receive_budget, config.max_message_size) if budget is None else budget
    made: list[ReceiveHalf] = []
    made.append(ReceiveHalf(config, budget, lambda: made[0].retry_grants()))
    return made[0]


def consistent(receiver: ReceiveHalf) -> None:
    """The sums are the sums."""
    for channel in receiver.channels.values():
        assert channel.charged == sum(channel.charges.values())
        assert all(message.charge == channel.charges[sequence] for sequence, message in channel.pieced.items())
        assert set(channel.partial) <= set(channel.pieced) <= set(channel.charges)
    assert receiver.charged == sum(channel.charged for channel in receiver.channels.values())


def until_refused(receiver: ReceiveHalf, parts: Iterator[MessagePart]) -> int:
    """How many parts are taken in before one is refused."""
    for taken, part in enumerate(parts):
        try:
            receiver.on_part(part)
        except RemoteProtocolError:
            return taken
    raise AssertionError("none was refused")


# --- one message


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.data())
def test_parts_in_any_order_make_the_message(data: st.DataObject) -> None:
    content = data.draw(st.binary(min_size=1, max_size=300))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(content)), max_size=20)) | {0, len(content)})
    spans = [*pairwise(cuts)]
    extra = data.draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(1, 50)), max_size=10))
    spans += [(start, min(len(content), start + size)) for start, size in extra]
    order = data.draw(st.permutations(spans))
    message = IncomingMessage(len(content))
    seen: set[int] = set()
    for start, end in order:
        message.add(start, content[start:end])
        seen |= set(range(start, end))
        assert message.have == len(seen)
        assert message.high == max(seen) + 1
    assert message.have == message.total
    assert message.content() == content


def test_the_bytes_that_came_first_stay() -> None:
    """Attack 18: overlapping parts with other bytes give a result that does not depend on chance."""
    message = IncomingMessage(8)
    message.add(2, b"BBBB")
    message.add(0, b"aaaaaaaa")
    assert message.content() == b"aaBBBBaa"
    message = IncomingMessage(4)
    message.add(0, b"ab")
    message.add(0, b"XY")
    message.add(1, b"ZZZ")
    assert message.content() == b"abZZ"


def test_an_interrupt_between_a_message_and_its_ranges_forgets_nothing_later() -> None:
    """The list of ranges was made and nothing put into it: what comes in order afterwards is not in it either."""
    message = IncomingMessage(8)
    message.add(0, b"abcd")
    message.ranges = RangeSet(((0, 3),))  # the next part was out of order, and its call ended here
    message.recount()
    message.add(4, b"ef")
    message.recount()
    assert (message.have, message.high) == (6, 6)
    message.add(6, b"gh")
    assert (message.have, message.content()) == (8, b"abcdefgh")


def test_at_first_large_parts_are_kept_as_they_are_and_small_ones_gathered() -> None:
    message = IncomingMessage(17 * SMALL_PIECE)
    large = memoryview(bytes(SMALL_PIECE))
    message.add(0, large)
    assert message.pieces[0] is large
    for offset in range(SMALL_PIECE, 2 * SMALL_PIECE):
        message.add(offset, b"x")
    assert len(message.pieces) == 2
    assert message.have == 2 * SMALL_PIECE


def test_a_message_gets_all_of_its_room_when_enough_of_it_has_come() -> None:
    """Attack 17: not for a claim. And from then on no part keeps alive the record that it came in."""
    total = 64 * SMALL_PIECE
    before = tracemalloc_peak_of(lambda: IncomingMessage(total).add(total - 1, b"x"))
    assert before < total // 8
    message = IncomingMessage(total)
    record = bytearray(2 * SMALL_PIECE)
    for offset in range(0, total, SMALL_PIECE):
        message.add(offset, memoryview(record)[:SMALL_PIECE])
    assert not message.pieces
    record += b"exported no more"
    assert message.content() == bytes(total)


def tracemalloc_peak_of(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("failures", range(5))
@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_parts_that_came_while_memory_was_short_are_there_when_it_is_not(
    failures: int, order: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have been acknowledged: nobody would send them again."""
    left = failures

    def scarce(content: bytes) -> BytesIO:
        nonlocal left
        if left:
            left -= 1
            raise MemoryError
        return BytesIO(content)

    monkeypatch.setattr(assembly, "BytesIO", scarce)
    content = random.Random(failures).randbytes(3 * SMALL_PIECE)
    message = IncomingMessage(len(content))
    for part in order:
        message.add(part * SMALL_PIECE, content[part * SMALL_PIECE : (part + 1) * SMALL_PIECE])
    assert message.have == message.total
    if left:
        with pytest.raises(MemoryError):
            message.content()
    assert message.content() == content


@pytest.mark.parametrize("order", ["ascending", "descending", "shuffled", "evens, then odds"])
def test_a_message_of_tiny_parts_costs_about_its_size(order: str) -> None:
    """Attack 17: one byte each; memory follows the bytes."""
    size = 12_000
    offsets = list(range(size))
    if order == "descending":
        offsets.reverse()
    elif order == "shuffled":
        random.Random(1).shuffle(offsets)
    elif order == "evens, then odds":
        offsets = offsets[::2] + offsets[1::2]
    content = random.Random(2).randbytes(size)

    def scene() -> float:
        message = IncomingMessage(size)
        seconds = cpu_seconds(lambda: [message.add(offset, content[offset : offset + 1]) for offset in offsets])
        assert len(message.pieces) < size // 4
        assert message.content() == content
        return seconds

    assert_cheap(scene, 1.0)


@pytest.mark.parametrize("messages", [1, 16])
def test_more_gaps_than_an_honest_sender_leaves(messages: int) -> None:
    """Attack 17: every second byte, of one message or of many; each such byte costs hundreds."""
    receiver = half(Config(channel_window=256 * KIB, connection_window=4096 * KIB))
    spread = (divmod(index, messages) for index in count())
    parts = (MessagePart(number, 0, 2 * offset + 1, 200_000, b"x") for offset, number in spread)
    assert until_refused(receiver, parts) == MAX_GAPS


def test_gaps_cost_less_than_a_window() -> None:
    """Attack 17: what MAX_GAPS allows, measured."""
    tracemalloc.start()
    receiver = half(Config())
    for index in range(MAX_GAPS):
        receiver.on_part(MessagePart(index % 16, 0, 2 * (index // 16) + 1, 200_000, b"x"))
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < Config().channel_window


def test_gaps_that_closed_are_forgotten() -> None:
    receiver = half()
    for _ in range(3):
        for number in range(2):
            sequence = receiver.channels[number].taken if number in receiver.channels else 0
            for offset in range(1, MAX_GAPS, 2):
                receiver.on_part(MessagePart(number, sequence, offset, MAX_GAPS, b"x"))
            if number:
                receiver.on_withdrawn(number, sequence)
            else:
                receiver.on_part(MessagePart(number, sequence, 0, MAX_GAPS, bytes(MAX_GAPS)))
                receiver.on_application_took(number, sequence)
    assert receiver.charged == 0
    assert receiver._gaps == 0


def test_a_full_window_of_single_datagrams_with_one_in_ten_lost_is_no_attack() -> None:
    receiver = half(Config())
    rng = random.Random(3)
    total = 3 * KIB * KIB
    for number in range(5):
        for offset in range(0, total, 1150):
            if rng.random() > 0.1:
                receiver.on_part(MessagePart(number, 0, offset, total, bytes(min(1150, total - offset))))
    consistent(receiver)


# --- order


def test_whole_messages_come_out_in_order_and_once() -> None:
    receiver = half()
    assert receiver.on_part(MessagePart(3, 1, 0, 1, b"b")) == []
    assert receiver.on_part(MessagePart(3, 1, 0, 1, b"b")) == []
    assert receiver.on_part(MessagePart(3, 2, 0, 0, b"")) == []
    assert receiver.on_part(MessagePart(3, 0, 0, 1, b"a")) == [(3, 0, b"a"), (3, 1, b"b"), (3, 2, b"")]
    assert receiver.on_part(MessagePart(3, 0, 0, 1, b"a")) == []
    consistent(receiver)
    for sequence in range(3):
        receiver.on_application_took(3, sequence)
    assert receiver.charged == 0
    assert receiver.channels[3].taken == 3
    assert 3 in receiver.taken_dirty


def test_channels_do_not_wait_for_each_other() -> None:
    receiver = half()
    assert receiver.on_part(MessagePart(0, 1, 0, 1, b"b")) == []
    assert receiver.on_part(MessagePart(1, 0, 0, 1, b"c")) == [(1, 0, b"c")]


def test_taking_out_of_order_counts_only_without_gap() -> None:
    receiver = half()
    for sequence in range(4):
        receiver.on_part(MessagePart(0, sequence, 0, 1, b"m"))
    receiver.on_application_took(0, 2)
    receiver.on_application_took(0, 2)  # twice changes nothing
    assert receiver.channels[0].taken == 0
    assert not receiver.taken_dirty
    receiver.on_application_took(0, 0)
    assert receiver.channels[0].taken == 1
    receiver.on_application_took(0, 1)
    assert receiver.channels[0].taken == 3
    receiver.on_application_took(0, 3)
    assert receiver.channels[0].taken == 4
    assert not receiver.channels[0].taken_ahead
    assert receiver.charged == 0
    assert receiver.taken_bytes == 4 * (OVERHEAD + 1)


def test_taking_what_was_never_handed_out_changes_nothing() -> None:
    receiver = half()
    receiver.on_application_took(0, 0)
    receiver.on_part(MessagePart(0, 1, 0, 1, b"m"))
    for sequence in (-1, 0, 1, 2):
        receiver.on_application_took(0, sequence)
    assert receiver.channels[0].taken == 0
    consistent(receiver)


def test_repeated_parts_cost_nothing_more() -> None:
    receiver = half()
    for _ in range(3):
        receiver.on_part(MessagePart(0, 0, 100, 1000, bytes(100)))
    assert receiver.charged == OVERHEAD + 200
    consistent(receiver)


# --- violations


def test_a_length_above_the_limit_is_refused_before_anything_is_kept() -> None:
    """Attack 16."""
    receiver = half()
    for total in (SMALL.max_message_size + 1, 1 << 32, VARINT_MAX):
        with pytest.raises(RemoteProtocolError):
            receiver.on_part(MessagePart(0, 0, 0, total, b"x"))
    assert receiver.charged == 0
    assert not receiver.channels[0].partial


def test_a_claimed_length_reserves_nothing() -> None:
    """Attack 16: memory follows what arrived."""
    tracemalloc.start()
    receiver = half(Config())
    receiver.on_part(MessagePart(0, 0, 0, Config().max_message_size, b"x"))
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 100_000


def test_a_length_that_changes_is_refused() -> None:
    """Attack 18."""
    receiver = half()
    receiver.on_part(MessagePart(0, 0, 0, 10, b"x"))
    with pytest.raises(RemoteProtocolError):
        receiver.on_part(MessagePart(0, 0, 1, 11, b"x"))


@pytest.mark.parametrize("sequence", [SMALL.channel_window // OVERHEAD + 1, 1 << 30, VARINT_MAX])
def test_a_sequence_far_ahead_is_refused_at_once(sequence: int) -> None:
    """Attack 14: no loop over the gap."""
    receiver = half()
    with pytest.raises(RemoteProtocolError):
        receiver.on_part(MessagePart(0, sequence, 0, 1, b"x"))
    with pytest.raises(RemoteProtocolError):
        receiver.on_withdrawn(0, sequence)


def test_first_bytes_of_endlessly_many_messages() -> None:
    """Attack 17: one byte each of messages that are never finished."""
    receiver = half()
    parts = (MessagePart(number, sequence, 0, 2, b"x") for sequence in count() for number in range(CHANNELS))
    assert until_refused(receiver, parts) <= SMALL.connection_window // OVERHEAD


def test_many_unfinished_messages_cost_no_quadratic_work() -> None:
    """A hostile peer keeps thousands of messages unfinished and repeats parts of them."""
    receiver = half(Config())
    count = Config().channel_window // (OVERHEAD + 1) - 2
    for sequence in range(1, count):
        receiver.on_part(MessagePart(0, sequence, 0, 2, b"x"))

    def repeat() -> None:
        for _ in range(3):
            for sequence in range(1, 1000):
                receiver.on_part(MessagePart(0, sequence, 0, 2, b"x"))

    assert_cheap(lambda: cpu_seconds(repeat), 0.3)
    consistent(receiver)


@pytest.mark.parametrize("first", [VARINT_MAX, VARINT_MAX - 1, 1 << 61])
def test_numbers_at_the_end_of_their_range_are_refused_or_can_be_told(first: int) -> None:
    """A hostile peer begins a channel at the largest number: nothing but RemoteProtocolError may come of it."""
    receiver = half()
    try:
        receiver.synchronise(ChannelState(0, first))
        for step in range(3):
            if first + step <= VARINT_MAX:
                for _, sequence, _ in receiver.on_part(MessagePart(0, first + step, 0, 1, b"x")):
                    receiver.on_application_took(0, sequence)
        states = tuple(ChannelState(number, 0, expected) for number, expected in receiver.states())
    except RemoteProtocolError:
        return
    serialise(SessionStart(bytes(8), bytes(8), 0, 0, 0, 0, states))
    serialise(Taken(0, receiver.channels[0].taken))


# --- withdrawn messages


def test_a_withdrawn_message_is_skipped_and_costs_nothing_afterwards() -> None:
    receiver = half()
    receiver.on_part(MessagePart(0, 0, 0, 1000, bytes(500)))
    assert receiver.on_part(MessagePart(0, 1, 0, 1, b"b")) == []
    assert receiver.on_withdrawn(0, 0) == [(0, 1, b"b")]
    assert receiver.on_withdrawn(0, 0) == []
    assert receiver.channels[0].taken == 1
    assert receiver.on_part(MessagePart(0, 0, 500, 1000, bytes(500))) == []
    receiver.on_application_took(0, 1)
    assert receiver.charged == 0
    assert receiver.channels[0].taken == 2


def test_a_message_withdrawn_before_anything_of_it_came() -> None:
    receiver = half()
    assert receiver.on_withdrawn(0, 1) == []
    assert receiver.on_withdrawn(0, 1) == []
    assert receiver.charged == OVERHEAD
    assert receiver.on_part(MessagePart(0, 1, 0, 1, b"late")) == []
    assert receiver.on_part(MessagePart(0, 0, 0, 1, b"a")) == [(0, 0, b"a")]
    receiver.on_application_took(0, 0)
    assert receiver.channels[0].taken == 2
    assert receiver.charged == 0


def test_a_withdrawn_message_returns_its_grant() -> None:
    budget = ReceiveBudget(4 << 20, 1 << 20)
    receiver = half(budget=budget)
    receiver.on_part(MessagePart(0, 0, 0, 1 << 20, bytes(1000)))
    assert budget.free == (4 << 20) - 1000 - SMALL.channel_window
    receiver.on_withdrawn(0, 0)
    assert budget.free == 4 << 20
    assert receiver.charged == 0


# --- beginning anew


def test_a_channel_that_is_not_remembered_begins_where_the_sender_says() -> None:
    receiver = half()
    receiver.synchronise(ChannelState(0, 7))
    assert dict(receiver.states()) == {0: 7}
    assert receiver.on_part(MessagePart(0, 6, 0, 3, b"old")) == []
    assert receiver.on_part(MessagePart(0, 7, 0, 3, b"new")) == [(0, 7, b"new")]


def test_a_channel_that_is_remembered_knows_better() -> None:
    receiver = half()
    receiver.on_part(MessagePart(0, 0, 0, 1, b"a"))
    receiver.on_application_took(0, 0)
    receiver.taken_dirty.clear()
    for first in (0, 1, 9):
        receiver.synchronise(ChannelState(0, first))
        assert dict(receiver.states()) == {0: 1}
    assert 0 in receiver.taken_dirty


def test_restart_returns_everything_to_the_budget() -> None:
    budget = ReceiveBudget(4 << 20, 1 << 20)
    receiver = half(budget=budget)
    for number in range(4):
        receiver.on_part(MessagePart(number, 0, 0, 1 << 20, bytes(1000)))
        receiver.on_part(MessagePart(number, 1, 0, 10, bytes(10)))
    assert budget.free < 4 << 20
    receiver.restart()
    assert budget.free == 4 << 20
    assert receiver.charged == 0
    assert not receiver.channels
    assert not receiver.taken_dirty
    assert not receiver.grants_dirty


def test_restart_leaks_nothing_to_its_own_waiting_messages() -> None:
    """Messages that wait for the budget must not take what restart() returns: nobody would give that back."""
    budget = ReceiveBudget(1 << 20, 1 << 20)
    receiver = half(budget=budget)
    other: Callable[[], None] = lambda: None  # noqa: E731
    assert budget.take("somebody else", (1 << 20) - 3 * SMALL.channel_window, other)
    for number in range(4):
        for offset in range(0, 40_000, 10_000):
            receiver.on_part(MessagePart(number, 0, offset, 1 << 20, bytes(10_000)))
    receiver.restart()
    budget.give_back("somebody else", (1 << 20) - 3 * SMALL.channel_window)
    assert budget.free == 1 << 20
    assert budget._owner is None


# --- interrupts


class _Interrupt(BaseException):
    """Stands for KeyboardInterrupt."""


def interrupted_at(step: int, call: Callable[[], object]) -> bool:
    """Run ``call`` and interrupt it before its ``step``-th line in receiving.py. False if it was over before."""
    left = step

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.endswith("protocol/receiving.py"):
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


@pytest.mark.parametrize("sequence", [0, 1, 2])
def test_taking_may_be_interrupted_anywhere_and_repeated(sequence: int) -> None:
    for step in range(1, 200):
        budget = ReceiveBudget(4 << 20, 1 << 20)
        receiver = half(budget=budget)
        for number in range(2):
            for other in range(3):
                for offset in range(0, 70_000, 35_000):
                    receiver.on_part(MessagePart(number, other, offset, 70_000, bytes(35_000)))
        receiver.on_part(MessagePart(0, 3, 0, 70_000, bytes(35_000)))
        receiver.on_application_took(0, 1 if sequence == 0 else 0)
        if not interrupted_at(step, lambda r=receiver: r.on_application_took(0, sequence)):  # type: ignore[misc]
            break
        receiver.recount()
        consistent(receiver)
        for number in range(2):
            for other in (sequence, 0, 1, 2):
                receiver.on_application_took(number, other)
        assert receiver.channels[0].taken == receiver.channels[1].taken == 3
        receiver.on_part(MessagePart(0, 3, 35_000, 70_000, bytes(35_000)))
        receiver.on_application_took(0, 3)
        assert receiver.charged == 0
        assert 0 in receiver.taken_dirty
        assert receiver._handed_out == 0
        # Between two lines the grant of that one message may be lost; nothing is ever returned twice.
        assert (4 << 20) - 70_000 <= budget.free <= 4 << 20
    assert step > 5


# --- grants


def test_the_oldest_message_gets_a_window_beyond_what_arrived() -> None:
    receiver = half()
    receiver.on_part(MessagePart(0, 0, 0, 1 << 20, bytes(1000)))
    assert receiver.grant_of(0, 0) == 1000 + SMALL.channel_window
    assert list(receiver.grants_dirty) == [(0, 0)]
    assert receiver.charged == OVERHEAD  # what is below the grant costs nothing
    receiver.grants_dirty.clear()
    receiver.on_part(MessagePart(0, 0, 1000, 1 << 20, bytes(1000)))
    assert not receiver.grants_dirty  # a quarter of a window at a time


def test_only_the_oldest_message_is_granted() -> None:
    receiver = half()
    receiver.on_part(MessagePart(0, 0, 0, 1 << 20, bytes(1000)))
    receiver.on_part(MessagePart(0, 1, 0, 1 << 20, bytes(1000)))
    assert receiver.grant_of(0, 1) == 0
    assert receiver.on_withdrawn(0, 0) == []
    assert receiver.grant_of(0, 1) == 1000 + SMALL.channel_window


def test_a_small_message_needs_no_grant() -> None:
    receiver = half()
    receiver.on_part(MessagePart(0, 0, 0, 20_000, bytes(10_000)))
    assert receiver.grant_of(0, 0) == 0
    assert not receiver.grants_dirty


def test_a_grant_is_never_more_than_the_message() -> None:
    receiver = half()
    receiver.on_part(MessagePart(0, 0, 0, 70_000, bytes(10_000)))
    assert receiver.grant_of(0, 0) == 70_000
    assert receiver.grant_of(0, 5) is None
    assert receiver.grant_of(9, 0) is None
