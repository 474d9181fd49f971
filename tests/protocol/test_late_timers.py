"""How large records are when timers come late: what leaves back to back anyway shares one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from srmudp.config import Config
from srmudp.protocol.allowance import BUFFER_COST, LARGEST_BUFFER, LEAST_BUFFER, LEAST_TURN, PACED_BATCH, TURN
from srmudp.protocol.connection import Connection
from srmudp.protocol.controller import AckSample
from tests.connections import Duo

MTU = 1200
RATE = 1_000_000.0
"""Bytes a second: two milliseconds of it are a datagram and a half."""


class Steady:
    """A congestion controller that has made up its mind."""

    name = "steady"
    state = "steady"
    window = 400 * MTU
    pacing_rate = RATE

    def on_sent(self, now: float, size: int, in_flight: int, app_limited: bool) -> None: ...

    def on_ack(self, now: float, sample: AckSample) -> None: ...

    def on_lost(self, now: float, lost_bytes: int, newest_lost_sent: float, in_flight: int) -> None: ...

    def on_late(self, size: int, sent_at: float) -> None: ...

    def on_persistent_congestion(self, now: float) -> None: ...

    def set_segment_size(self, segment_size: int) -> None: ...


def sending(window: int = Steady.window, **options: Any) -> tuple[Duo, Connection]:
    """A connection in the midst of a long message, that has just sent all it may."""
    duo = Duo(mtu=MTU, **options).connected()
    connection = duo.a.connection
    assert connection.path is not None
    controller = Steady()
    controller.window = window
    connection.path.controller = controller
    duo.a.send(bytes(3_000_000))
    records(connection, duo.now)
    for _ in range(5):
        duo.now = punctual(connection)
        records(connection, duo.now)
    return duo, connection


def records(connection: Connection, now: float) -> list[int]:
    """Datagrams of each record that leaves now."""
    counts = []
    while (output := connection.poll_transmit(now)) is not None:
        wire, size = output
        counts.append(-(-len(wire) // size))
    return counts


def punctual(connection: Connection) -> float:
    """When the next record may leave."""
    when = connection.next_timer()
    assert when is not None
    return when


def test_in_time_a_record_is_two_milliseconds_of_the_rate() -> None:
    _, connection = sending()
    for _ in range(20):
        assert records(connection, punctual(connection)) == [max(1, int(RATE * PACED_BATCH) // MTU)]


@pytest.mark.parametrize("late", [0.006, 0.012, 0.018])
def test_late_what_would_leave_back_to_back_shares_a_record(late: float) -> None:
    """A thread that computes makes every turn late; a record a turn must then carry what the turn is worth."""
    _, connection = sending()
    for _ in range(10):
        counts = records(connection, punctual(connection) + late)
        assert len(counts) <= 2
        assert counts[0] == pytest.approx(late * RATE / MTU, abs=2)
        assert sum(counts) * MTU <= (late + PACED_BATCH) * RATE + 2 * MTU, "no more than the rate allows"


def test_late_too_a_record_is_no_more_than_a_quarter_of_the_window() -> None:
    _, connection = sending(window=16 * MTU)
    assert records(connection, punctual(connection) + 0.018)[0] == 4


def under_way(connection: Connection, window: int) -> int:
    """Bytes under way when no more may follow, or half a window."""
    assert connection.recovery is not None
    stuck = 0
    while (when := connection.next_timer()) is not None and connection.recovery.in_flight < window // 2 and stuck < 3:
        stuck = 0 if records(connection, when + 0.02) else stuck + 1
    return connection.recovery.in_flight


@pytest.mark.parametrize("latency", [0.0002, 0.02])
def test_no_more_is_under_way_than_a_late_reader_can_bear(latency: float) -> None:
    """What comes while a thread has to wait for its turn stays in the system's buffer, which is often a small one.

    The reader tells how large its buffer is; ours does not matter.
    """
    buffer, window = 425_984, 2000 * MTU
    _, connection = sending(window, latency=latency, config=Config(), config_b=Config(socket_buffer=buffer))
    in_flight = under_way(connection, window)
    assert connection.path is not None
    turns = max(1.0, connection.path.rtt.minimum / TURN)  # with the ack delay there was
    assert in_flight <= buffer / BUFFER_COST * turns
    assert in_flight >= 0.7 * buffer / BUFFER_COST * turns, "but nearly as much"


@pytest.mark.parametrize(("scatter", "turn"), [(0.0, LEAST_TURN), (0.001, 0.004), (0.1, TURN)])
def test_a_reader_is_as_late_as_round_trips_scatter(scatter: float, turn: float) -> None:
    """Over a long path what arrives is spread out: a reader that comes in time needs little room for it."""
    buffer, window = 65_536, 2000 * MTU
    _, connection = sending(window, latency=0.02, config_b=Config(socket_buffer=buffer))
    assert connection.recovery is not None
    assert connection.path is not None
    connection.recovery._samples, connection.recovery._scatter = 16, scatter
    most = buffer / BUFFER_COST * connection.path.rtt.minimum / turn
    assert 0.7 * most <= under_way(connection, window) <= most


@pytest.mark.parametrize(("told", "believed"), [(0, 4 << 20), (1, LEAST_BUFFER), ((1 << 62) - 1, LARGEST_BUFFER)])
def test_what_is_told_of_a_buffer_is_believed_within_limits(
    told: int, believed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = Connection.session_start
    monkeypatch.setattr(
        Connection, "session_start", lambda self, *, brief=False: replace(inner(self, brief=brief), receive_buffer=told)
    )
    _, connection = sending(window=2000 * MTU, latency=0.0002)
    assert connection.recovery is not None
    assert connection._allowance.window(connection.recovery) == min(2000 * MTU, max(believed // BUFFER_COST, 2 * MTU))
