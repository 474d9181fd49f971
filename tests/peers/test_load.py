"""Load in virtual time: a reader that stops for a minute beside two that go on, many large messages that share a small
budget, and a large one whose sender is gone half way."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from srmudp.config import Config
from srmudp.models import EventKind
from srmudp.protocol.credit import PATIENCE
from srmudp.protocol.events import MessageArrived, MessageSettled, RoomFreed
from tests.endpoints import arrived, connect, events, make_node, name_of, peer_of, send, settled, status, until
from tests.simnet import Link, SimNet, SimNode, take_messages

KIB = 1024
LARGE = 400 * KIB


def held(node: SimNode) -> int:
    """Bytes of reliable messages, whole or in part, that a node has for its application or from its network."""
    total = 0
    for name in node.node.statuses(node.net.now):
        receiving = peer_of(node, name).connection.receiving
        for channel in receiving.channels.values():
            total += sum(message.have for message in channel.partial.values())
            total += sum(len(content) for content in channel.done.values() if isinstance(content, bytes))
    return total


class Reader:
    """An application that can stop taking. Give it to ``attach`` as ``on_event``."""

    def __init__(self) -> None:
        self.stopped = False
        self.waiting: deque[MessageArrived] = deque()
        self.taken = 0
        self.most = 0
        """Bytes that it, and the library on its behalf, had at most."""

    def __call__(self, sim: SimNode, event: Any) -> None:
        if isinstance(event, MessageArrived):
            self.waiting.append(event)
            self.most = max(self.most, held(sim) + sum(len(message.content) for message in self.waiting))
            self.work(sim)

    def work(self, sim: SimNode) -> None:
        while self.waiting and not self.stopped:
            message = self.waiting.popleft()
            sim.node.message_taken(message, sim.net.now)
            self.taken += len(message.content)

    def go_on(self, sim: SimNode) -> None:
        self.stopped = False
        while self.waiting:
            message = self.waiting.popleft()
            sim.do(sim.node.message_taken, message)
            self.taken += len(message.content)


class Feeder:
    """An application that always has something to send to everybody, as ``send()`` does: whenever there is room."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.sent: dict[str, list[bytes]] = {}
        self.on = False

    def __call__(self, sim: SimNode, event: Any) -> None:
        take_messages(sim, event)
        if isinstance(event, MessageSettled | RoomFreed) and self.on:
            self.feed(sim, event.peer)

    def feed(self, sim: SimNode, name: str) -> None:
        sent = self.sent.setdefault(name, [])
        while sim.node.has_room(name, self.size):
            content = (b"%s %d " % (name.encode(), len(sent))).ljust(self.size, b".")
            sim.node.send_message(name, content, channel=0, reliable=True, ttl=None, now=sim.net.now)
            sent.append(content)

    def begin(self, sim: SimNode) -> None:
        self.on = True
        for name in sim.node.statuses(sim.net.now):
            sim.do(lambda now, name=name: self.feed(sim, name))


def test_a_reader_that_stops_for_a_minute_loses_nothing_and_slows_nobody() -> None:
    """Attack 47: one of three stops reading while all are sent to: the others are as fast as before and as after."""
    net = SimNet(seed=47, link=Link(latency=0.02, rate=12_000))
    config = Config(channel_window=64 * KIB, connection_window=64 * KIB, send_queue=32 * KIB)
    feeder = Feeder(2000)
    sender = make_node(net, "sender", "10.0.0.1", config=config, on_event=feeder)
    readers = [Reader() for _ in range(3)]
    nodes = [
        make_node(net, f"reader{number}", f"10.0.1.{number}", config=config, on_event=reader)
        for number, reader in enumerate(readers)
    ]
    for node in nodes:
        connect(net, sender, node)
    feeder.begin(sender)

    def rates(seconds: float) -> list[float]:
        before = [reader.taken for reader in readers]
        net.run(seconds)
        return [(reader.taken - taken) / seconds for reader, taken in zip(readers, before, strict=True)]

    net.run(3)
    usual = rates(10)
    assert min(usual) > 6_000
    readers[0].stopped = True
    during = rates(65)
    assert during[0] == 0
    for rate, before in zip(during[1:], usual[1:], strict=True):
        assert rate > 0.9 * before
    # What is kept for it is bounded at both ends, and it is still connected.
    assert readers[0].most <= config.connection_window
    assert status(sender, nodes[0]).queued <= config.send_queue + config.connection_window + feeder.size
    assert status(sender, nodes[0]).established
    readers[0].go_on(nodes[0])
    after = rates(10)
    assert after[0] > 0.9 * usual[0]
    feeder.on = False
    until(net, lambda: all(not status(sender, node).queued for node in nodes), 30)
    for node in nodes:
        assert arrived(node, sender) == feeder.sent[name_of(node)]
    for sim in (sender, *nodes):
        assert not events(sim, EventKind.LOST)
        assert not events(sim, EventKind.RECONNECTED)


@pytest.mark.parametrize("slow", [0.0, 0.05], ids=["quick reader", "slow reader"])
def test_large_messages_of_many_peers_share_a_small_budget(slow: float) -> None:
    """Six peers send one on each of four channels at once; the budget bears a single one. All of them come."""
    net = SimNet(seed=6, link=Link(latency=0.001))
    size = 256 * KIB
    config = Config(max_message_size=size, receive_budget=size, channel_window=64 * KIB, connection_window=64 * KIB)
    reader = Reader()
    receiver = make_node(net, "receiver", "10.0.0.9", config=config, on_event=reader, max_mtu=9000)
    senders = [
        make_node(net, f"sender{number}", f"10.0.0.{number + 1}", config=config, max_mtu=9000) for number in range(6)
    ]
    for sender in senders:
        connect(net, sender, receiver)
    if slow:
        reader.stopped = True

        def take_one() -> None:
            if reader.waiting:
                message = reader.waiting.popleft()
                receiver.do(receiver.node.message_taken, message)
                reader.taken += len(message.content)
            net.after(slow, take_one)

        take_one()
    most = 0

    def look(*_: object) -> None:
        nonlocal most
        most = max(most, held(receiver) + sum(len(message.content) for message in reader.waiting))

    net.tap(look)
    contents = {(s, channel): random.Random(f"{s}/{channel}").randbytes(size) for s in range(6) for channel in range(4)}
    tokens = [(senders[s], send(senders[s], receiver, data, channel=ch)) for (s, ch), data in contents.items()]
    until(net, lambda: all(settled(sender, token) is not None for sender, token in tokens), 60)
    assert not any(end.failure for sender, token in tokens if (end := settled(sender, token)) is not None)
    for (s, channel), data in contents.items():
        assert arrived(receiver, senders[s], channel) == [data]
    assert most <= config.receive_budget + len(senders) * config.connection_window
    assert most > config.receive_budget, "the budget was never needed"
    assert receiver.node.budget.free == config.receive_budget
    assert held(receiver) == 0


def stranded(net: SimNet, second: int) -> tuple[SimNode, SimNode, SimNode, int, int]:
    """A receiver whose budget bears one message, and two senders of large ones; the first one's path is cut half way.

    Args:
        second: bytes of the second message; the first is as large as one may be.
    """
    config = Config(max_message_size=LARGE, receive_budget=LARGE, channel_window=1 << 16, connection_window=1 << 17)
    receiver = make_node(net, "receiver", "10.0.0.9", config=config, max_mtu=4000)
    senders = [
        make_node(net, name, f"10.0.0.{place}", config=config, max_mtu=4000) for place, name in enumerate(("a", "b"), 1)
    ]
    for sender in senders:
        connect(net, sender, receiver)
    one = send(senders[0], receiver, random.Random("first").randbytes(LARGE))
    until(net, lambda: held(receiver) >= LARGE // 4)
    net.partition("a")
    net.run(0.5)
    two = send(senders[1], receiver, random.Random("second").randbytes(second))
    return receiver, senders[0], senders[1], one, two


def test_a_large_message_whose_sender_is_gone_does_not_hold_up_the_others() -> None:
    """The reserve passes on to what can be completed; the first goes on from where it was when its peer is back."""
    net = SimNet(seed=8, link=Link(latency=0.01, rate=2_000_000))
    receiver, a, b, one, two = stranded(net, LARGE // 3)
    began = net.now
    until(net, lambda: settled(b, two) is not None, PATIENCE + 5)
    assert net.now - began > 0.9 * PATIENCE, "the first was never in the way: this test shows nothing"
    assert settled(a, one) is None
    net.run(40)
    assert events(receiver, EventKind.LOST)
    net.heal()
    until(net, lambda: settled(a, one) is not None, 40)
    assert arrived(receiver, a) == [random.Random("first").randbytes(LARGE)]
    assert arrived(receiver, b) == [random.Random("second").randbytes(LARGE // 3)]
    assert receiver.node.budget.free == LARGE


def test_what_does_not_fit_beside_a_message_whose_sender_is_gone_waits_for_its_peer_or_its_removal() -> None:
    """Two halves that fill the memory could wait for each other for ever, so the second does not even begin."""
    then: list[Callable[[SimNet, SimNode], object]] = [
        lambda net, receiver: net.heal(),
        lambda net, receiver: receiver.do(receiver.node.remove_peer, "a"),
    ]
    for end in then:
        net = SimNet(seed=8, link=Link(latency=0.01, rate=2_000_000))
        receiver, _, b, _, two = stranded(net, LARGE)
        net.run(40)
        assert settled(b, two) is None
        assert held(receiver) <= LARGE
        end(net, receiver)
        until(net, partial(settled, b, two), 60)
        assert arrived(receiver, b) == [random.Random("second").randbytes(LARGE)]
        assert receiver.node.budget.free == LARGE
