"""How many small messages a peer is left with, and when their sender is held back."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from srmudp.models import Address
from srmudp.peers.intake import AHEAD, FAST, LEAST, SPAN, Intake
from srmudp.protocol.events import MessageArrived, RoomFreed
from srmudp.protocol.recovery import RttEstimator
from tests.endpoints import pair, send
from tests.simnet import Link, SimNode


class Path:
    def __init__(self, rtt: float) -> None:
        self.rtt = RttEstimator()
        self.rtt.update(rtt, 0.0, 0.0)
        self.address = Address("192.0.2.1", 1)


class Connection:
    def __init__(self, rtt: float = 0.001) -> None:
        self.path: Path | None = Path(rtt)
        self.pending = 1


def intake_of(connection: Connection) -> Intake:
    return Intake(connection)  # type: ignore[arg-type]


def take(intake: Intake, rate: float, since: float, until: float, step: float = 0.001) -> None:
    """Settle ``rate`` messages a second, every ``step`` seconds."""
    for n in range(round((until - since) / step)):
        intake.on_settled(round(rate * step), since + (n + 1) * step)


def test_of_whom_nothing_is_known_takes_anything() -> None:
    intake = intake_of(Connection())
    assert intake.allowance == inf
    intake.on_settled(1_000_000, 0.0)
    assert intake.allowance == inf, "taken since nobody knows when"


@pytest.mark.parametrize("rate", [20_000, 100_000])
def test_as_many_as_it_takes_in_some_milliseconds(rate: int) -> None:
    connection = Connection(rtt=0.004)
    intake = intake_of(connection)
    take(intake, rate, 0.0, 5 * SPAN)
    allowance = 2 * rate * (0.004 + AHEAD)
    assert intake.allowance == pytest.approx(max(LEAST, allowance), rel=0.01)
    connection.pending = int(allowance) - 10
    assert not intake.is_exceeded()
    connection.pending = int(allowance) + 10
    assert intake.is_exceeded()
    assert not intake.is_relieved
    connection.pending = int(allowance * 0.6)
    assert not intake.on_settled(1, 0.06)
    connection.pending = int(allowance * 0.4)
    assert intake.on_settled(1, 0.06)
    assert intake.is_relieved
    assert not intake.on_settled(1, 0.06), "told once"


def test_some_may_always_be_left() -> None:
    intake = intake_of(Connection(rtt=1e-4))
    take(intake, 10_000, 0.0, 5 * SPAN)
    assert intake.allowance == LEAST


def test_the_slow_are_not_waited_for() -> None:
    intake = intake_of(Connection())
    take(intake, FAST / 2, 0.0, 1.0, step=0.01)
    assert intake.allowance == inf


def test_who_had_nothing_to_take_is_not_slow() -> None:
    connection = Connection()
    intake = intake_of(connection)
    for second in range(5):
        connection.pending = 1
        take(intake, 30_000, second, second + 5 * SPAN)
        connection.pending = 0
        intake.on_settled(1, second + 5 * SPAN)
    assert intake.allowance == pytest.approx(2 * 30_000 * (0.001 + AHEAD), rel=0.1)


def test_who_stalls_is_not_waited_for_until_it_takes_something() -> None:
    connection = Connection()
    intake = intake_of(connection)
    take(intake, 30_000, 0.0, 5 * SPAN)
    connection.pending = 10_000
    assert intake.is_exceeded()
    intake.on_stalled()
    assert intake.is_relieved
    assert not intake.is_exceeded()
    intake.on_settled(1, 0.06)
    assert intake.is_exceeded()


def test_over_a_long_path_the_rate_can_grow() -> None:
    """What the peer may be left with is all that is taken in a round trip: the rate doubles in each."""
    connection = Connection(rtt=0.2)
    intake = intake_of(connection)
    left = 2 * FAST * 0.2
    now = 0.0
    for _ in range(8):
        intake.on_settled(round(left), now)
        now += 0.2
        if intake.allowance != inf:
            assert intake.allowance >= left * 2
            left = intake.allowance
    assert left > 100_000


def test_before_a_connection_nobody_is_held_back() -> None:
    connection = Connection()
    intake = intake_of(connection)
    take(intake, 30_000, 0.0, 5 * SPAN)
    connection.path = None
    connection.pending = 1_000_000
    assert not intake.is_exceeded()


def test_messages_are_young_when_they_are_taken() -> None:
    """A sends without end, and B takes 20,000 a second."""
    net, a, b = pair(link=Link(latency=0.0005))
    intake = a.node.intake_of("b")
    assert intake is not None
    waiting: list[MessageArrived] = []
    ages: list[float] = []
    held_back = 0

    def on_b(sim: SimNode, event: Any) -> None:
        if isinstance(event, MessageArrived):
            waiting.append(event)

    def on_a(sim: SimNode, event: Any) -> None:
        if isinstance(event, RoomFreed):
            net.after(0.0, produce)

    def consume() -> None:
        for event in waiting[:20]:
            ages.append(net.now - float(event.content))
            b.do(b.node.message_taken, event)
        del waiting[:20]
        net.after(0.001, consume)

    def produce() -> None:
        nonlocal held_back
        for _ in range(32):
            send(a, b, b"%.6f" % net.now)
        if intake.is_exceeded():
            held_back += 1
        else:
            net.after(0.0005, produce)

    a.on_event, b.on_event = on_a, on_b
    net.after(0.0, produce)
    net.after(0.0, consume)
    net.run(0.5)
    assert held_back > 5
    assert len(ages) > 0.9 * 0.5 * 20_000, "it never has to wait for work"
    assert max(ages[len(ages) // 2 :]) < 0.025
    assert a.node.intake_of("nobody") is None
