"""Which channel goes first: that of the highest priority waiting in it; equal ones take turns."""

from __future__ import annotations

import random

from srmudp.protocol.sending import Chunk, SendHalf
from srmudp.wire.frames import MAX_PART_HEADER
from tests.connections import Duo

WINDOW = 1 << 30


def _half() -> SendHalf:
    half = SendHalf()
    half.set_windows(WINDOW, WINDOW)
    return half


def _add(half: SendHalf, channel: int, priority: int = 0, size: int = 1000) -> None:
    half.add(0, channel, bytes(size), None, priority)


def _order(half: SendHalf, room: int = 1000 + MAX_PART_HEADER, *, one_channel: bool = False) -> list[int]:
    """The channels of what leaves, a record of ``room`` bytes at a time."""
    order: list[int] = []
    while half.has_work:
        chunks: list[Chunk] = []
        half.fill(room, [], chunks, one_channel=one_channel)
        order += [message.channel for message, _, _ in chunks]
    return order


def test_equal_channels_take_turns() -> None:
    half = _half()
    for _ in range(3):
        _add(half, 1)
        _add(half, 2)
    assert _order(half) == [1, 2, 1, 2, 1, 2]


def test_the_highest_goes_first_and_the_lowest_last() -> None:
    half = _half()
    for channel, priority in ((1, 0), (2, -5), (3, 7), (4, 0), (5, 127)):
        _add(half, channel, priority)
        _add(half, channel, priority)
    assert _order(half) == [5, 5, 3, 3, 1, 4, 1, 4, 2, 2]


def test_a_channel_has_the_rank_of_the_highest_that_waits_in_it_until_that_is_sent() -> None:
    half = _half()
    for channel, priorities in ((1, (0, 0, 0, 0)), (2, (-1, -1, 3, -1))):
        for priority in priorities:
            _add(half, channel, priority)
    # Those before it in its channel go along; what comes after waits for the others.
    assert _order(half) == [2, 2, 2, 1, 1, 1, 1, 2]


def test_records_of_several_datagrams_go_by_the_same_order() -> None:
    half = _half()
    _add(half, 1, 0, 5000)
    _add(half, 2, 1, 5000)
    assert _order(half, one_channel=True) == [2] * 5 + [1] * 5


def test_what_was_lost_keeps_its_rank() -> None:
    half = _half()
    _add(half, 2, 9)
    chunks: list[Chunk] = []
    half.fill(2000, [], chunks, one_channel=False)
    _add(half, 1, 5)
    half.on_lost(*chunks[0])
    assert _order(half) == [2, 1]


def test_few_words_get_a_turn_between_what_a_large_message_lost_unless_that_ranks_higher() -> None:
    half = _half()
    assert not half.give_turn_to_brief(500)
    _add(half, 1, 0, 100_000)
    _add(half, 2, 0, 2000)
    assert not half.give_turn_to_brief(500)
    _add(half, 3, 0, 10)
    assert half.give_turn_to_brief(500)
    chunks: list[Chunk] = []
    half.fill(1000, [], chunks, one_channel=True)
    assert [message.channel for message, _, _ in chunks] == [3]
    _add(half, 3, 0, 10)
    _add(half, 2, 1, 2000)
    assert not half.give_turn_to_brief(500)


def test_the_counts_of_ranks_stay_right_whatever_happens() -> None:
    dice = random.Random(5)
    half = _half()
    half.set_windows(40_000, 60_000)
    now = 0.0
    for _ in range(2000):
        kind = dice.randrange(8)
        now += 0.01
        if kind < 4:
            ttl = now + dice.random() if dice.random() < 0.3 else None
            half.add(0, dice.randrange(4), bytes(dice.choice((0, 10, 5000))), ttl, dice.randrange(-2, 3))
        elif kind < 6:
            half.fill(dice.choice((100, 1100, 9000)), [], [], one_channel=dice.random() < 0.5)
        elif kind == 6:
            half.expire(now)
            for number, state in half.channels.items():
                whole = state.next_sequence - (state.current is not None)
                half.on_taken(number, dice.randint(state.started[0].sequence if state.started else whole, whole))
        else:
            dice.choice((half.recount, half.restart, lambda: half.fail_larger(4000)))()
        for state in half.channels.values():
            counted = dict(state.ranks)
            state.recount_ranks()
            assert counted == state.ranks


def test_urgent_words_overtake_others_on_a_full_link() -> None:
    """Through a connection: a window of a few datagrams, many messages waiting, one of them of high priority."""
    duo = Duo().connected()
    for channel in range(1, 5):
        for _ in range(50):
            duo.a.send(bytes(1000), channel)
    duo.pump()
    duo.a.connection.send_message(999, b"now", 9, True, None, 1)
    assert duo.run_until(lambda: (9, b"now") in duo.b.got, 5)
    ahead = duo.b.got.index((9, b"now"))
    assert duo.run_until(lambda: len(duo.b.got) == 201, 20)
    assert ahead < 20  # the window that had left before it
