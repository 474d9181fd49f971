"""The rules of credit: windows, grants and the budget behind them, kept by both halves without a network."""

from __future__ import annotations

import random
from collections import deque

import pytest

from srmudp.config import Config
from srmudp.exceptions import RemoteProtocolError
from srmudp.protocol.credit import OVERHEAD, ReceiveBudget
from srmudp.protocol.events import MessageArrived
from srmudp.protocol.receiving import ReceiveHalf
from srmudp.protocol.sending import Chunk, SendHalf
from srmudp.wire.frames import MessagePart, parse_frames
from tests.endpoints import connect, make_node, send, settled
from tests.simnet import Link, SimNet

WINDOW = 64 * 1024


class Pair:
    """A sending half back to back with a receiving half: nothing is lost, credit is what is looked at."""

    def __init__(self, *, window: int = WINDOW, connection: int | None = None, budget: ReceiveBudget | None = None):
        connection = window if connection is None else connection
        self.config = Config(channel_window=window, connection_window=connection, max_message_size=1 << 20)
        self.budget = ReceiveBudget(1 << 22, 1 << 20) if budget is None else budget
        self.sender = SendHalf()
        self.sender.set_windows(window, connection)
        self.receiver = ReceiveHalf(self.config, self.budget, self.retried)
        self.retries = 0
        self.untaken: deque[tuple[int, int, bytes]] = deque()
        self.taken: list[tuple[int, bytes]] = []
        self.tokens = 0

    def retried(self) -> None:
        self.retries += 1
        self.receiver.retry_grants()

    def send(self, content: bytes, channel: int = 0) -> None:
        self.tokens += 1
        self.sender.add(self.tokens, channel, content, None)

    def fill(self, room: int = 1200) -> list[MessagePart]:
        out: list[bytes | memoryview] = []
        chunks: list[Chunk] = []
        self.sender.fill(room, out, chunks, one_channel=False)
        parts = [frame for frame in parse_frames(b"".join(out)) if isinstance(frame, MessagePart)]
        assert len(parts) == len(chunks)
        for message, start, end in chunks:
            self.sender.on_acked(message, start, end)
        return parts

    def deliver(self, parts: list[MessagePart]) -> None:
        for part in parts:
            self.untaken += self.receiver.on_part(part)

    def control(self) -> None:
        """Tell the sender what the receiver has to say."""
        for number in self.receiver.taken_dirty:
            self.sender.on_taken(number, self.receiver.channels[number].taken)
        self.receiver.taken_dirty.clear()
        for number, sequence in self.receiver.grants_dirty:
            limit = self.receiver.grant_of(number, sequence)
            if limit is not None:
                self.sender.on_grant(number, sequence, limit)
        self.receiver.grants_dirty.clear()

    def take(self, count: int = 1 << 30) -> None:
        while self.untaken and count:
            number, sequence, content = self.untaken.popleft()
            self.receiver.on_application_took(number, sequence)
            self.taken.append((number, content))
            count -= 1

    def run(self, *, take: bool = True, room: int = 1200) -> None:
        """Until nothing moves."""
        for _ in range(10_000):
            parts = self.fill(room)
            self.deliver(parts)
            before = len(self.taken)
            if take:
                self.take()
            told = bool(self.receiver.taken_dirty or self.receiver.grants_dirty)
            self.control()
            if not parts and not told and len(self.taken) == before:
                return
        raise AssertionError("it never came to rest")

    def assert_settled(self, messages: int) -> None:
        assert len(self.taken) == messages
        assert [failure for _, failure in self.sender.settled] == [None] * messages
        assert (self.sender.charged, self.receiver.charged) == (0, 0)
        assert all(not state.charged for state in self.sender.channels.values())
        assert all(not channel.charged and not channel.charges for channel in self.receiver.channels.values())
        assert self.sender.queued_bytes == self.sender.queued_messages == 0


# --- the budget


def test_budget_leaves_a_reserve_to_all_but_one() -> None:
    budget = ReceiveBudget(100, 40)
    first, second = object(), object()
    assert budget.take(first, 60, pytest.fail)
    assert budget.free == 40
    assert budget.take(second, 30, pytest.fail)  # becomes the owner of the reserve
    assert not budget.take(first, 1, lambda: None)
    assert budget.take(second, 10, pytest.fail)
    assert budget.free == 0


def test_budget_gives_the_reserve_to_the_next() -> None:
    budget = ReceiveBudget(100, 40)
    first, second = object(), object()
    again: list[str] = []
    assert budget.take(first, 100 - 40, pytest.fail)
    assert budget.take(first, 20, pytest.fail)
    assert not budget.take(second, 30, lambda: again.append("second"))
    budget.give_back(first, 80)
    assert again == ["second"]
    assert budget.free == 100
    assert budget.take(second, 90, pytest.fail)


def test_budget_forgets_who_is_gone() -> None:
    budget = ReceiveBudget(100, 40)
    owner = object()
    assert budget.take(owner, 100, pytest.fail)
    calls: list[int] = []

    def retry() -> None:
        calls.append(1)

    assert not budget.take(object(), 10, retry)
    assert not budget.take(object(), 10, retry)
    budget.forget(retry)
    budget.give_back(owner, 100)
    assert not calls


def test_budget_asks_each_waiting_once() -> None:
    budget = ReceiveBudget(100, 40)
    owner = object()
    assert budget.take(owner, 100, pytest.fail)
    calls: list[int] = []

    def retry() -> None:
        calls.append(1)
        budget.take(object(), 1000, retry)  # refused again, and waiting again

    budget.take(object(), 50, retry)
    budget.give_back(owner, 50)
    assert calls == [1]
    budget.give_back(owner, 50)
    assert calls == [1, 1]


# --- messages around the size of a window


@pytest.mark.parametrize("size", [WINDOW - OVERHEAD + difference for difference in (-1, 0, 1, OVERHEAD, OVERHEAD + 1)])
def test_messages_about_as_large_as_the_window(size: int) -> None:
    pair = Pair()
    for _ in range(3):
        pair.send(bytes(size))
    pair.run()
    pair.assert_settled(3)
    assert pair.budget.free == 1 << 22


def test_a_message_that_fits_the_window_exactly_needs_no_grant() -> None:
    pair = Pair(connection=4 * WINDOW, budget=ReceiveBudget(1 << 20, 1 << 20))
    pair.budget.free = 0
    pair.budget._owner = object()
    pair.send(bytes(WINDOW - OVERHEAD))
    pair.run()
    pair.assert_settled(1)


def test_the_largest_message_passes_a_small_window() -> None:
    pair = Pair()
    pair.send(bytes(range(256)) * 4096)
    pair.run()
    pair.assert_settled(1)
    assert pair.taken[0][1] == bytes(range(256)) * 4096
    assert pair.budget.free == 1 << 22


@pytest.mark.parametrize("size", [0, 1, 1000, 5000, WINDOW // 2, WINDOW - OVERHEAD, WINDOW, 3 * WINDOW])
def test_many_channels_share_one_window_without_deadlock(size: int) -> None:
    pair = Pair()
    for number in range(64):
        pair.send(bytes(size), number)
        pair.send(b"second", number)
    pair.run(room=8000)
    pair.assert_settled(128)
    assert pair.budget.free == 1 << 22


def test_many_channels_and_a_budget_for_one_message() -> None:
    """A budget that bears a single largest message is handed from one to the next."""
    pair = Pair(budget=ReceiveBudget(1 << 20, 1 << 20))
    for number in range(8):
        pair.send(bytes(1 << 18), number)
    pair.run()
    pair.assert_settled(8)
    assert pair.budget.free == 1 << 20
    assert pair.retries


def test_two_peers_of_large_messages_and_a_budget_for_one() -> None:
    budget = ReceiveBudget(1 << 20, 1 << 20)
    pairs = [Pair(budget=budget) for _ in range(2)]
    for pair in pairs:
        pair.send(bytes(1 << 20))
    for _ in range(2000):
        for pair in pairs:
            pair.deliver(pair.fill())
            pair.take()
            pair.control()
    for pair in pairs:
        pair.assert_settled(1)
    assert budget.free == 1 << 20


def test_a_reader_that_stops_stops_its_sender() -> None:
    """Attack 47's rule in small: what is not taken keeps its charge."""
    pair = Pair()
    for _ in range(1000):
        pair.send(bytes(1000))
    pair.run(take=False)
    assert pair.receiver.charged == pair.sender.charged <= WINDOW
    assert len(pair.untaken) == WINDOW // (1000 + OVERHEAD)
    pair.run()
    pair.assert_settled(1000)


def test_a_reader_that_stops_takes_nothing_from_the_budget() -> None:
    """The budget is for messages larger than a window; small ones not taken must fit the windows."""
    pair = Pair()
    for _ in range(1000):
        pair.send(bytes(1000))
    pair.run(take=False)
    assert pair.budget.free == 1 << 22


@pytest.mark.parametrize("seed", range(4))
def test_slow_readers_and_mixed_sizes_never_deadlock(seed: int) -> None:
    rng = random.Random(seed)
    pair = Pair(connection=2 * WINDOW, budget=ReceiveBudget(1 << 20, 1 << 20))
    count = 150
    for _ in range(count):
        size = rng.choice((0, 1, 300, 5000, WINDOW // 2, WINDOW - OVERHEAD, WINDOW, 3 * WINDOW))
        pair.send(bytes(size), rng.randrange(5))
    idle = 0
    while idle < 50:
        parts = pair.fill(rng.choice((100, 1200, 9000)))
        pair.deliver(parts)
        pair.take(rng.choice((0, 0, 1, 2)))
        if rng.random() < 0.5:
            pair.control()
        idle = 0 if parts or pair.untaken else idle + 1
    pair.assert_settled(count)
    assert pair.budget.free == 1 << 20


def test_empty_messages_cost_overhead() -> None:
    pair = Pair()
    for _ in range(1000):
        pair.send(b"")
    pair.run(take=False)
    assert len(pair.untaken) == WINDOW // OVERHEAD
    pair.run()
    pair.assert_settled(1000)


def test_room_of_the_connection_reaches_a_channel_that_had_none() -> None:
    """Channel 1 stands still on the window of the connection; one message of channel 0 being taken is enough."""
    sender = SendHalf()
    sender.set_windows(WINDOW, 2 * OVERHEAD + 100)
    sender.add(1, 0, b"", None)
    sender.add(2, 1, bytes(1000), None)
    out: list[bytes | memoryview] = []
    chunks: list[Chunk] = []
    sender.fill(10_000, out, chunks, one_channel=False)
    assert [(message.token, start, end) for message, start, end in chunks] == [(1, 0, 0), (2, 0, 100)]
    chunks.clear()
    sender.on_taken(0, 1)
    sender.fill(10_000, out, chunks, one_channel=False)
    assert [(message.token, start, end) for message, start, end in chunks] == [(2, 100, 100 + OVERHEAD)]


def test_a_grant_frees_the_connection_for_other_channels() -> None:
    sender = SendHalf()
    sender.set_windows(WINDOW, WINDOW)
    sender.add(1, 0, bytes(WINDOW), None)
    sender.add(2, 1, bytes(100), None)
    out: list[bytes | memoryview] = []
    chunks: list[Chunk] = []
    while sender.has_work:
        sender.fill(10_000, out, chunks, one_channel=False)
    # Channel 1 began when channel 0 had left it room, so look at a third one that finds none.
    sender.add(3, 2, bytes(100), None)
    chunks.clear()
    sender.fill(10_000, out, chunks, one_channel=False)
    assert not chunks
    assert not sender.has_work
    sender.on_grant(0, 0, WINDOW)
    for _ in range(20):
        sender.fill(10_000, out, chunks, one_channel=False)
    assert 3 in {message.token for message, _, _ in chunks}


# --- violations (attack 20)


def receiving(connection_window: int) -> ReceiveHalf:
    config = Config(channel_window=WINDOW, connection_window=connection_window)
    return ReceiveHalf(config, ReceiveBudget(1 << 20, 0), lambda: None)


def test_more_than_a_channel_window_is_refused() -> None:
    """Attack 20."""
    receiver = receiving(4 * WINDOW)
    receiver.on_part(MessagePart(0, 0, 0, WINDOW - OVERHEAD, bytes(WINDOW - OVERHEAD)))
    with pytest.raises(RemoteProtocolError):
        receiver.on_part(MessagePart(0, 1, 0, 0, b""))


def test_more_than_the_window_of_the_connection_is_refused() -> None:
    """Attack 20."""
    receiver = receiving(2 * WINDOW)
    for number in range(2):
        receiver.on_part(MessagePart(number, 0, 0, WINDOW - OVERHEAD, bytes(WINDOW - OVERHEAD)))
    with pytest.raises(RemoteProtocolError):
        receiver.on_part(MessagePart(2, 0, 0, 0, b""))


def test_more_than_was_granted_is_refused() -> None:
    """Attack 20: a byte beyond grant and window."""
    config = Config(channel_window=WINDOW, connection_window=WINDOW)
    receiver = ReceiveHalf(config, ReceiveBudget(1 << 30, 0), lambda: None)
    receiver.on_part(MessagePart(0, 0, 0, 1 << 20, bytes(1000)))
    grant = receiver.grant_of(0, 0)
    assert grant is not None
    assert grant == 1000 + WINDOW
    highest = grant + WINDOW - OVERHEAD
    receiver.on_part(MessagePart(0, 0, highest - 1, 1 << 20, b"x"))
    assert receiver.charged == WINDOW
    budget = ReceiveBudget(1 << 30, 0)
    strict = ReceiveHalf(config, budget, lambda: None)
    strict.on_part(MessagePart(0, 0, 0, 1 << 20, bytes(1000)))
    with pytest.raises(RemoteProtocolError):
        strict.on_part(MessagePart(0, 0, highest, 1 << 20, b"x"))


# --- between peers


def test_what_one_peer_gives_back_reaches_another_at_once() -> None:
    """The budget bears one message; the second peer waits for a grant and nothing but the first's being taken helps."""
    net = SimNet(seed=3, link=Link(latency=0.01))
    config = Config(max_message_size=1 << 20, receive_budget=1 << 20, channel_window=1 << 16, connection_window=1 << 17)
    held: list[MessageArrived] = []

    def hold(sim: object, event: object) -> None:
        if isinstance(event, MessageArrived):
            held.append(event)

    receiver = make_node(net, "receiver", "10.0.0.9", config=config, on_event=hold)
    senders = [make_node(net, f"sender{number}", f"10.0.0.{number + 1}", config=config) for number in range(2)]
    for sender in senders:
        connect(net, sender, receiver)
    tokens = [send(sender, receiver, bytes(1 << 20)) for sender in senders]
    assert net.run_until(lambda: held, 5.0)
    net.run_until(lambda: False, 3.0)
    assert len(held) == 1
    receiver.do(receiver.node.message_taken, held.pop())
    began = net.now
    assert net.run_until(lambda: held, 15.0)
    assert net.now - began < 1.0
    receiver.do(receiver.node.message_taken, held.pop())
    assert net.run_until(lambda: all(map(settled, senders, tokens)), 1.0)
