"""Load on real sockets: hooks that echo through tiny queues, that block, raise and send in a ring, full queues, readers
that stop, and large messages that have to share a small budget. What needs more time is ``python -m tests.soak.load``.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest

from srmudp import Config, Delivery, EventKind, Message, MultiHolepunchSocket, PeerEvent
from tests.real.helpers import DEADLINE, Make, all_told, at, content, digests, join, reach, receive, resident, state

KIB = 1024
MIB = 1024 * KIB
TINY = Config(send_queue=4 * KIB, channel_window=64 * KIB, connection_window=64 * KIB, unreliable_queue=64 * KIB)
"""A send queue of a few messages and the smallest windows there may be."""


class Ledger:
    """Every message that was sent, by its number, and what became of it.

    A message is its number, a space and padding. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = 0
        self.sent: dict[int, tuple[bytes, Delivery | None]] = {}
        """Number to content and Delivery; None if ``send`` raised TimeoutError, which reports it as failed."""
        self.arrived: Counter[bytes] = Counter()
        self.raised = 0
        self.others: list[BaseException] = []

    def send(self, sock: MultiHolepunchSocket, name: str, size: int, timeout: float) -> bool:
        """Send the next message; False if there was no room for it in time."""
        with self._lock:
            number, self._next = self._next, self._next + 1
        data = (b"%d " % number).ljust(size, b".")
        try:
            delivery = sock.send(data, name, timeout=timeout)
        except TimeoutError:
            self.sent[number] = data, None
            with self._lock:
                self.raised += 1
            return False
        except BaseException as error:
            self.others.append(error)
            raise
        self.sent[number] = data, delivery
        return True

    @property
    def under_way(self) -> int:
        return len(self.sent) - self.raised - len(self.arrived)

    def take(self, message: Message) -> None:
        with self._lock:
            self.arrived[message.content] += 1

    def check(self) -> None:
        """Each message arrived once, or was reported failed and did not arrive; once nothing is on its way any more."""
        assert not self.others
        for number, (data, delivery) in self.sent.items():
            if delivery is None:
                assert data not in self.arrived, f"message {number} was reported failed and arrived"
            else:
                assert delivery.wait(DEADLINE), f"message {number} of {len(self.sent)}: {delivery}"
                assert self.arrived[data] == 1, f"message {number} arrived {self.arrived[data]} times"
        assert len(self.arrived) == len(self.sent) - self.raised


def test_two_sockets_echo_thousands_of_messages_through_tiny_queues(make: Make) -> None:
    """Both hooks answer each message by another. With both queues full they wait for each other until one gives up and
    TimeoutError says so. Nothing hangs, and no message is lost that was not reported failed.

    With ``SRMUDP_EXHAUSTIVE=1`` ten thousand of them.
    """
    wanted = 10_000 if os.environ.get("SRMUDP_EXHAUSTIVE") else 3_000
    ledger = Ledger()
    a, b = make(config=TINY), make(config=TINY)
    join(a, b)

    def echo(sock: MultiHolepunchSocket) -> Callable[[Message], None]:
        def hook(message: Message) -> None:
            ledger.take(message)
            if len(ledger.sent) < wanted:
                ledger.send(sock, message.peer, 20 + len(ledger.sent) * 37 % 300, 0.02)

        return hook

    a.register_message_hook(echo(a))
    b.register_message_hook(echo(b))
    deadline = time.monotonic() + 60

    def fill(sock: MultiHolepunchSocket, name: str) -> None:
        """More than fits, now and then, so that the hooks find both queues full; and anew if all of it failed."""
        for part in range(5):
            for _ in range(5 if part else 15):
                ledger.send(sock, name, 200, 0.5)
            while len(ledger.sent) < (part + 1) * wanted // 5 and time.monotonic() < deadline:
                time.sleep(0.005)
                if not ledger.under_way:
                    ledger.send(sock, name, 200, 0.5)

    threads = [threading.Thread(target=fill, args=(a, "b")), threading.Thread(target=fill, args=(b, "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ledger.sent) >= wanted, f"{len(ledger.sent)}; {state(a)}; {state(b)}"
    reach(lambda: not _queued(a, b), lambda: f"{state(a)}; {state(b)}")
    ledger.check()
    assert 0 < ledger.raised < wanted // 2, "no queue was ever full, or hardly anything got through"


def _queued(*socks: MultiHolepunchSocket) -> int:
    return sum(status.queued for sock in socks for status in sock.connections_status.values())


def test_three_sockets_pass_messages_round_a_ring_with_full_queues(make: Make) -> None:
    """Every hook passes on what it gets. With three full queues nobody could go on but for TimeoutError."""
    ledger = Ledger()
    socks = [make(config=TINY) for _ in range(3)]
    for number, sock in enumerate(socks):
        sock.add_peers({"next": at(socks[number - 2]), "last": at(socks[number - 1])})
    for sock in socks:
        assert sock.wait_connected(timeout=DEADLINE), state(sock)
    wanted = 600

    def pass_on(sock: MultiHolepunchSocket) -> Callable[[Message], None]:
        def hook(message: Message) -> None:
            assert message.peer == "last"
            ledger.take(message)
            if len(ledger.sent) < wanted:
                ledger.send(sock, "next", 500, 0.02)

        return hook

    blocked = threading.Event()
    for sock in socks:
        sock.register_message_hook(lambda message: blocked.wait(DEADLINE) and None)
        sock.register_message_hook(pass_on(sock))
    for sock in socks:
        while ledger.send(sock, "next", 500, 0.01):
            pass
    assert ledger.raised == 3
    blocked.set()  # with all queues full
    deadline = time.monotonic() + 30
    while len(ledger.sent) < wanted and time.monotonic() < deadline:
        time.sleep(0.005)
        if not ledger.under_way:
            ledger.send(socks[0], "next", 500, 0.5)
    assert len(ledger.sent) >= wanted
    reach(lambda: not _queued(*socks), lambda: "; ".join(map(state, socks)))
    assert ledger.raised > 3
    ledger.check()


def fill_up(sock: MultiHolepunchSocket, size: int) -> list[bytes]:
    """Send to "b" until there has been no room for a while: what was taken by ``send``."""
    sent: list[bytes] = []
    while len(sent) < 1000:
        data = content(size, len(sent))
        try:
            sock.send(data, "b", timeout=0.2)
        except TimeoutError:
            break
        sent.append(data)
    return sent


def test_a_hook_that_blocks_holds_up_its_own_messages_alone(make: Make) -> None:
    """While it does, its socket sends, is connected and keeps a bounded amount; afterwards everything comes, once."""
    a, b, c = (make(config=TINY, timeout=1.5, span=0.3) for _ in range(3))
    join(a, b)
    a.add_peer("c", at(c))
    c.add_peer("a", at(a))
    assert a.wait_connected("c", DEADLINE)
    events: list[PeerEvent] = []
    for sock in (a, b):
        sock.on_event(events.append)
    go_on, got = threading.Event(), []

    def hook(message: Message) -> None:
        assert go_on.wait(DEADLINE)
        got.append(message.content)

    b.register_message_hook(hook)
    sent = fill_up(a, 700)
    assert len(sent) < 20
    began = time.monotonic()
    while time.monotonic() - began < 1.7:  # longer than it takes for a silent peer to count as lost
        b.send(b"from b", "a")
        assert receive(a, 1) == [b"from b"]
        a.send(b"to c", "c")
        assert receive(c, 1) == [b"to c"]
        time.sleep(0.05)
    assert b.connections_status["a"].established
    go_on.set()
    reach(lambda: len(got) >= len(sent), lambda: f"{len(got)} of {len(sent)}; {state(a)}; {state(b)}")
    assert digests(got) == digests(sent)
    all_told(a, b)
    assert {event.kind for event in events} <= {EventKind.MTU, EventKind.CONNECTED}


def test_hooks_that_raise_lose_no_message(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever they raise, SystemExit and KeyboardInterrupt too: each message is taken once and the next one comes."""
    a, b = make(), make()
    join(a, b)
    got: list[int] = []
    reasons = (ValueError, SystemExit, KeyboardInterrupt, TimeoutError, queue.Full, GeneratorExit, MemoryError)

    def hook(message: Message) -> None:
        got.append(int(message.content))
        raise reasons[got[-1] % len(reasons)]

    b.register_message_hook(hook)
    deliveries = [a.send(b"%d" % number, "b") for number in range(300)]
    assert all(delivery.wait(DEADLINE) for delivery in deliveries)
    assert got == list(range(300))
    assert 1 <= sum("next message still comes" in record.message for record in caplog.records) <= 20


def test_a_full_queue_parks_the_messages_of_its_peer_alone(make: Make) -> None:
    """Two peers, two queues; one is not emptied. The other peer's messages go on, and nothing is lost."""
    b = make(config=TINY)
    senders = {name: make(config=TINY) for name in ("slow", "quick")}
    for name, sock in senders.items():
        b.add_peer(name, at(sock))
        sock.add_peer("b", at(b))
    assert b.wait_connected(timeout=DEADLINE)
    queues: dict[str, queue.Queue[bytes]] = {"slow": queue.Queue(3), "quick": queue.Queue(3)}

    class Sorted:
        """A queue hook that is full for one peer and not for the other."""

        def put_nowait(self, message: Message) -> None:
            queues[message.peer].put_nowait(message.content)

    b.register_message_hook(Sorted())
    slow = fill_up(senders["slow"], 600)
    assert 3 < len(slow) < 20, "neither parked nor unbounded"
    for number in range(100):
        delivery = senders["quick"].send(b"%d" % number, "b")
        assert queues["quick"].get(timeout=DEADLINE) == b"%d" % number
        assert delivery.wait(DEADLINE)
    assert queues["slow"].qsize() == 3
    assert digests(queues["slow"].get(timeout=DEADLINE) for _ in slow) == digests(slow)


def test_a_reader_that_stops_for_a_while_loses_nothing_and_slows_nobody(make: Make) -> None:
    """Two seconds of heavy sending to three, one of which does not read: the other two get more than before."""
    config = Config(channel_window=256 * KIB, connection_window=256 * KIB, send_queue=256 * KIB)
    a = make(config=config)
    readers = {name: make(config=config) for name in ("stops", "one", "two")}
    for name, sock in readers.items():
        a.add_peer(name, at(sock))
        sock.add_peer("a", at(a))
    assert a.wait_connected(timeout=DEADLINE)
    events: list[PeerEvent] = []
    a.on_event(events.append)
    paused, over = threading.Event(), threading.Event()
    sent: dict[str, int] = dict.fromkeys(readers, 0)
    got: dict[str, list[int]] = {name: [] for name in readers}
    padding = content(30_000)

    def feed(name: str) -> None:
        while not over.is_set():
            try:
                a.send(b"%d " % sent[name] + padding, name, timeout=0.1)
            except TimeoutError:
                continue
            sent[name] += 1

    def read(name: str) -> None:
        while feeders[name].is_alive() or len(got[name]) < sent[name]:
            if name == "stops" and paused.is_set():
                time.sleep(0.01)
                continue
            message = readers[name].receive(0.2)
            if message is not None:
                number, _, rest = message.content.partition(b" ")
                assert rest == padding
                got[name].append(int(number))

    feeders = {name: threading.Thread(target=feed, args=(name,)) for name in readers}
    threads = [*feeders.values(), *(threading.Thread(target=read, args=(name,)) for name in readers)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.5)
        before = {name: len(numbers) for name, numbers in got.items()}
        paused.set()
        time.sleep(0.1)
        during = {name: len(numbers) for name, numbers in got.items()}
        time.sleep(2)
        after = {name: len(numbers) for name, numbers in got.items()}
        kept = sent["stops"] - after["stops"]
    finally:
        paused.clear()
        over.set()
        for thread in threads:
            thread.join(3 * DEADLINE)
    assert after["stops"] == during["stops"]
    assert kept * 30_000 <= config.connection_window + config.send_queue + 100_000
    for name in ("one", "two"):
        rate = (after[name] - during[name]) / 2
        assert rate > 0.3 * before[name] / 0.5, f"{name}: {before} {during} {after}"
    assert got == {name: list(range(count)) for name, count in sent.items()}
    all_told(a)
    assert {event.kind for event in events} <= {EventKind.MTU, EventKind.CONNECTED}


def test_a_message_that_was_taken_is_kept_by_nobody(make: Make) -> None:
    """Neither by the sender, nor by the thread that ran the hooks, until the next one comes: it may be 64 MiB."""
    a, b = make(), make()
    join(a, b)
    got: list[bytes] = []
    b.register_message_hook(lambda message: got.append(message.content))
    data = content(300_000)
    ours = sys.getrefcount(data)
    assert a.send(data, "b").wait(DEADLINE)
    reach(lambda: sys.getrefcount(data) == ours, lambda: f"{sys.getrefcount(data) - ours} references at the sender")
    reach(lambda: sys.getrefcount(got[0]) == 2, lambda: f"{sys.getrefcount(got[0]) - 2} references at the receiver")


@pytest.mark.skipif(not resident(), reason="this system does not tell how much memory a process has")
def test_a_reader_that_never_reads_costs_a_bounded_amount_of_memory(make: Make) -> None:
    """Attack 47: 100 MB of every kind are offered to who never calls ``receive()``; a few windows of it are kept."""
    a, b = make(config=TINY), make(config=TINY)
    join(a, b)
    first = a.send(bytes(60_000), "b")  # what a first batch costs is not in question
    assert b.receive(DEADLINE) is not None
    assert first.wait(DEADLINE)  # until then there is no room for another
    before = resident()
    some = [content(50_000, number) for number in range(10)]
    accepted: dict[int, list[bytes]] = {channel: [] for channel in range(8)}
    for number in range(2000):
        data, channel = some[number % 10], number % 8
        try:
            a.send(data, "b", channel=channel, timeout=0)
            accepted[channel].append(data)
        except TimeoutError:  # there may be room at no other time than the first: the next line fills it
            pass
        a.send(data, "b", reliable=False, channel=63)
    reach(lambda: b.drops.get("unreliable_queue_full"), lambda: state(b))
    grown = resident() - before
    assert grown < 8 * MIB, f"{grown / MIB:.1f} MiB more"
    assert a.connections_status["b"].established
    # What was accepted comes once it reads; of the unreliable ones no more than their queue bears.
    expected = {channel: digests(data) for channel, data in accepted.items() if data}
    assert expected
    arrived: dict[int, list[str]] = {}
    unreliable = 0
    while arrived != expected:
        message = b.receive(DEADLINE)
        assert message is not None, state(b)
        if message.channel == 63:
            unreliable += 1
        else:
            arrived.setdefault(message.channel, []).extend(digests([message.content]))
    assert unreliable <= 3


@pytest.mark.parametrize("gather", [False, True], ids=["one to many", "many to one"])
def test_large_messages_on_four_channels_at_once_within_small_budgets(make: Make, gather: bool) -> None:
    """A message of 1 MiB on each of four channels to (and from) each of six peers; each socket's budget bears one."""
    config = Config(
        max_message_size=MIB,
        receive_budget=MIB,
        channel_window=128 * KIB,
        connection_window=256 * KIB,
        send_queue=8 * MIB,
    )
    centre = make(config=config)
    others = {f"peer{number}": make(config=config) for number in range(6)}
    for name, sock in others.items():
        centre.add_peer(name, at(sock))
        sock.add_peer("centre", at(centre))
    assert centre.wait_connected(timeout=DEADLINE)
    contents = [content(MIB, channel) for channel in range(4)]
    expected = digests(contents)
    good: Counter[tuple[str, int]] = Counter()
    wrong: list[str] = []

    def check(us: str, message: Message) -> None:
        if digests([message.content])[0] == expected[message.channel]:
            good[message.peer if us == "centre" else us, message.channel] += 1
        else:
            wrong.append(f"{us} from {message.peer}")

    centre.register_message_hook(lambda message: check("centre", message))
    for name, sock in others.items():
        sock.register_message_hook(lambda message, name=name: check(name, message))
    if gather:
        deliveries = [sock.send(contents[ch], "centre", channel=ch) for sock in others.values() for ch in range(4)]
    else:
        deliveries = [centre.send(contents[ch], list(others), channel=ch) for ch in range(4)]
    for delivery in deliveries:
        assert delivery.wait(3 * DEADLINE), (delivery, state(centre))
    assert not wrong
    assert good == {(name, channel): 1 for name in others for channel in range(4)}
