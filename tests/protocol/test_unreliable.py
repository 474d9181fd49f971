"""Unreliable messages: sent once, put together within a bound, dropped and counted where there is no room."""

from __future__ import annotations

import random
import tracemalloc
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srmudp.protocol.events import Failure
from srmudp.protocol.receiving import MAX_GAPS
from srmudp.protocol.unreliable import (
    MAX_PARTIAL,
    OutgoingUnreliable,
    UnreliableReceiveHalf,
    UnreliableSendHalf,
)
from srmudp.wire.frames import MAX_FRAMES, MAX_PART_HEADER, UnreliablePart, parse_frames

LIMIT = 64 * 1024


Filled = tuple[list[UnreliablePart], list[OutgoingUnreliable]]


def fill(half: UnreliableSendHalf, room: int = 1200, now: float = 0.0) -> Filled:
    out: list[bytes | memoryview] = []
    carried: list[OutgoingUnreliable] = []
    used = half.fill(room, out, carried, now)
    plaintext = b"".join(out)
    assert used == len(plaintext) <= room
    parts = [frame for frame in parse_frames(plaintext) if isinstance(frame, UnreliablePart)]
    assert len(parts) == len(carried) == len(out)
    return parts, carried


def receiver(limit: int = LIMIT, largest: int = 1 << 20) -> tuple[UnreliableReceiveHalf, Counter[str]]:
    drops: Counter[str] = Counter()
    return UnreliableReceiveHalf(limit, largest, drops), drops


# --- sending


def test_small_messages_share_a_record_and_settle_when_it_is_opened() -> None:
    half = UnreliableSendHalf(LIMIT)
    for token in range(3):
        half.add(token, token, b"x" * token, None)
    assert half.queued_bytes == 3
    assert half.pending == 3
    parts, carried = fill(half)
    assert [(part.channel, part.identifier, part.data) for part in parts] == [(0, 0, b""), (1, 1, b"x"), (2, 2, b"xx")]
    assert half.queued_bytes == 0
    assert not half.has_work
    assert not half.settled
    for message in carried:
        half.on_acked(message)
    assert half.settled == [(0, None), (1, None), (2, None)]
    assert half.pending == 0


def test_a_large_message_is_delivered_when_every_part_is() -> None:
    half = UnreliableSendHalf(LIMIT)
    content = random.Random(1).randbytes(5000)
    half.add(7, 0, content, None)
    parts: list[UnreliablePart] = []
    carried: list[OutgoingUnreliable] = []
    while half.has_work:
        more, their = fill(half)
        parts += more
        carried += their
        if len(carried) > 1:
            half.on_acked(carried.pop(0))
        assert not half.settled
    assert b"".join(bytes(part.data) for part in parts) == content
    for message in carried:
        assert not half.settled
        half.on_acked(message)
    assert half.settled == [(7, None)]


def test_one_lost_part_is_enough() -> None:
    half = UnreliableSendHalf(LIMIT)
    half.add(7, 0, bytes(3000), None)
    carried: list[OutgoingUnreliable] = []
    while half.has_work:
        carried += fill(half)[1]
    half.on_lost(carried[1])
    assert half.settled == [(7, Failure.LOST)]
    half.on_acked(carried[0])
    half.on_lost(carried[2])
    assert half.settled == [(7, Failure.LOST)]
    assert half.pending == 0


def test_a_full_queue_drops_the_newcomer() -> None:
    half = UnreliableSendHalf(LIMIT)
    half.add(1, 0, bytes(LIMIT), None)
    half.add(2, 0, b"x", None)
    assert half.settled == [(2, Failure.DROPPED)]
    assert half.queued_bytes == LIMIT


def test_one_message_always_fits_an_empty_queue() -> None:
    half = UnreliableSendHalf(LIMIT)
    half.add(1, 0, bytes(2 * LIMIT), None)
    assert not half.settled
    assert half.pending == 1


@pytest.mark.parametrize("content", [b"", b"x"])
def test_the_queue_is_bounded_for_tiny_messages_too(content: bytes) -> None:
    """A message costs more memory than its content; while nothing can be sent they must not pile up."""
    half = UnreliableSendHalf(LIMIT)
    for token in range(10_000):
        half.add(token, 0, content, None)
    assert half.pending <= LIMIT // 64
    assert len(half.settled) + half.pending == 10_000


def test_a_message_too_late_is_not_begun() -> None:
    half = UnreliableSendHalf(LIMIT)
    half.add(1, 0, b"late", 10.0)
    half.add(2, 0, bytes(2000), 11.0)
    half.add(3, 0, b"x", None)
    assert [part.identifier for part in fill(half, now=10.0)[0]] == [1]
    assert half.settled == [(1, Failure.EXPIRED)]
    # What was begun is finished: the rest is worth as much as the beginning.
    assert [part.identifier for part in fill(half, now=12.0)[0]] == [1, 2]
    assert half.queued_bytes == 0


def test_a_record_never_has_more_frames_than_a_reader_takes() -> None:
    """On a loopback path a record of one datagram has room for thousands of tiny messages."""
    half = UnreliableSendHalf(1 << 22)
    for token in range(5000):
        half.add(token, 0, b"x", None)
    while half.has_work:
        assert len(fill(half, 65_000)[0]) <= MAX_FRAMES // 2


def test_too_little_room_sends_nothing() -> None:
    half = UnreliableSendHalf(LIMIT)
    half.add(1, 0, b"hello", None)
    for room in range(MAX_PART_HEADER + 1):
        assert fill(half, room) == ([], [])
    assert fill(half, MAX_PART_HEADER + 5)[0][0].data == b"hello"


def test_fail_all_leaves_nothing_behind() -> None:
    half = UnreliableSendHalf(LIMIT)
    half.add(1, 0, bytes(3000), None)
    half.add(2, 0, b"x", None)
    _, carried = fill(half)
    half.fail_all(Failure.CLOSED)
    assert half.settled == [(1, Failure.CLOSED), (2, Failure.CLOSED)]
    assert not half.has_work
    assert half.queued_bytes == half.pending == 0
    half.on_acked(carried[0])
    half.on_lost(carried[0])
    assert len(half.settled) == 2


# --- receiving


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 4000), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_whatever_arrives_in_any_order_is_put_together_once(sizes: list[int], rng: random.Random) -> None:
    sender = UnreliableSendHalf(LIMIT)
    contents = [rng.randbytes(size) for size in sizes]
    for token, content in enumerate(contents):
        sender.add(token, 0, content, None)
    parts: list[UnreliablePart] = []
    while sender.has_work:
        parts += fill(sender, 700)[0]
    parts += [part for part in parts if rng.random() < 0.3]
    rng.shuffle(parts)
    half, drops = receiver()
    got = [content for content in map(half.on_part, parts) if content is not None]
    assert sorted(got) == sorted(contents)
    assert not drops
    assert half._partial_bytes == 0
    assert not half._partial


def test_a_length_above_the_limits_is_dropped_and_counted() -> None:
    """Attack 16."""
    half, drops = receiver(LIMIT, 1000)
    assert half.on_part(UnreliablePart(0, 0, 0, 1001, b"x")) is None
    half2, drops2 = receiver(LIMIT)
    assert half2.on_part(UnreliablePart(0, 0, 0, LIMIT + 1, b"x")) is None
    assert drops == drops2 == Counter(unreliable_too_big=1)
    assert not half._partial
    assert not half2._partial


def test_a_length_that_changes_is_dropped_and_counted() -> None:
    """Attack 18."""
    half, drops = receiver()
    half.on_part(UnreliablePart(0, 0, 0, 2, b"a"))
    assert half.on_part(UnreliablePart(0, 0, 1, 3, b"b")) is None
    assert drops == Counter(unreliable_inconsistent=1)
    assert half.on_part(UnreliablePart(0, 0, 1, 2, b"b")) == b"ab"


def test_first_parts_of_endlessly_many_messages() -> None:
    """Attack 17: the oldest go."""
    half, drops = receiver()
    for identifier in range(10_000):
        half.on_part(UnreliablePart(0, identifier, 0, 2, b"x"))
    assert len(half._partial) == MAX_PARTIAL
    assert drops["unreliable_incomplete"] == 10_000 - MAX_PARTIAL
    assert half._partial_bytes == MAX_PARTIAL


def test_unfinished_messages_are_bounded_in_bytes() -> None:
    """Attack 17."""
    half, drops = receiver()
    for identifier in range(100):
        half.on_part(UnreliablePart(0, identifier, 0, LIMIT, bytes(10_000)))
        assert half._partial_bytes <= LIMIT
    assert half._partial_bytes == sum(message.have for message in half._partial.values())
    assert drops["unreliable_incomplete"] == 100 - LIMIT // 10_000


def test_gaps_are_bounded_over_all_unfinished_messages() -> None:
    """Attack 17: every second byte of many messages; a stranger part costs hundreds of bytes."""
    half, _ = receiver(1 << 22)
    tracemalloc.start()
    for offset in range(1, 400, 2):
        for identifier in range(MAX_PARTIAL):
            half.on_part(UnreliablePart(0, identifier, offset, 4000, b"x"))
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 1 << 22
    assert sum(message.gaps for message in half._partial.values()) <= MAX_GAPS


def test_what_waits_to_be_taken_is_bounded() -> None:
    """Attack 47 without credit: more is dropped and counted."""
    half, drops = receiver()
    kept = 0
    for identifier in range(100):
        kept += half.on_part(UnreliablePart(0, identifier, 0, 1000, bytes(1000))) is not None
    assert 0 < kept <= LIMIT // 1000
    assert drops["unreliable_queue_full"] == 100 - kept
    half.on_taken(1000)
    assert half.on_part(UnreliablePart(0, 1000, 0, 1000, bytes(1000))) is not None
    for _ in range(kept):
        half.on_taken(1000)
    assert half.waiting_bytes == 0


@pytest.mark.parametrize("content", [b"", b"x"])
def test_what_waits_to_be_taken_is_bounded_for_tiny_messages_too(content: bytes) -> None:
    """Attack 17: a message costs memory however small it is."""
    half, drops = receiver()
    kept = 0
    for identifier in range(10_000):
        kept += half.on_part(UnreliablePart(0, identifier, 0, len(content), content)) is not None
    assert kept <= LIMIT // 64
    assert drops["unreliable_queue_full"] == 10_000 - kept


def test_one_message_always_fits_when_nothing_waits() -> None:
    half, _ = receiver()
    assert half.on_part(UnreliablePart(0, 0, 0, LIMIT, bytes(LIMIT))) is not None


def test_what_is_remembered_of_finished_messages_is_bounded() -> None:
    half, _ = receiver()
    for identifier in range(5000):
        if half.on_part(UnreliablePart(0, identifier, 0, 1, b"x")) is not None:
            half.on_taken(1)
    assert len(half._finished) == 1024
    assert half.on_part(UnreliablePart(0, 4999, 0, 1, b"x")) is None


def test_a_new_instance_begins_at_zero_again() -> None:
    half, _ = receiver()
    half.on_part(UnreliablePart(0, 0, 0, 1, b"a"))
    half.on_part(UnreliablePart(0, 1, 0, 2, b"a"))
    half.restart()
    assert half.on_part(UnreliablePart(0, 0, 0, 1, b"b")) == b"b"
    assert half.on_part(UnreliablePart(0, 1, 0, 3, b"abc")) == b"abc"
    assert half._partial_bytes == 0
