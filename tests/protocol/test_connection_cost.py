"""What messages cost grows with their number and not with its square: sent, waiting, expiring, refused."""

from __future__ import annotations

from collections.abc import Callable

from srmudp.config import Config
from tests.connections import Duo
from tests.cost import cpu_seconds


def _assert_not_quadratic(run: Callable[[int], None], count: int) -> None:
    """Doubling the number takes less than three times as long; asked again before it counts, for a noisy machine."""
    ratios = []
    for _ in range(3):
        half, whole = cpu_seconds(lambda: run(count // 2)), cpu_seconds(lambda: run(count))
        ratios.append(whole / half)
        if ratios[-1] < 3.0:
            return
    raise AssertionError(f"doubling {count // 2} costs {ratios} times as much")


def _deliver(count: int) -> None:
    duo = Duo()
    for number in range(count):
        duo.a.send(b"%0100d" % number)
    assert duo.run_until(lambda: len(duo.a.settled) == count, 120)
    assert len(duo.b.got) == count
    assert duo.b.got[-1] == (0, b"%0100d" % (count - 1))


def test_twenty_thousand_small_messages_cost_no_more_than_their_number() -> None:
    _assert_not_quadratic(_deliver, 20_000)  # the whole and the half, each once if the machine is quiet


def _deliver_untaken(count: int) -> None:
    """The application takes them all at the end, newest first."""
    duo = Duo()
    duo.b.taking = False
    for number in range(count):
        duo.a.send(b"%0100d" % number)
    duo.run_until(lambda: len(duo.b.got) == count, 60)
    duo.b._untaken.reverse()
    duo.b.take()
    assert duo.run_until(lambda: len(duo.a.settled) == count, 60)


def test_messages_that_wait_to_be_taken_cost_no_more_than_their_number() -> None:
    _assert_not_quadratic(_deliver_untaken, 8000)


def _queue_with_ttl(count: int) -> None:
    """As an endpoint does it: after every message the timer is asked for."""
    duo = Duo(start=False)
    for number in range(count):
        duo.a.send(b"x", expires=duo.now + 10 + number / count)
        duo.a.connection.next_timer()
    for step in range(50):
        duo.a.connection.on_timer(duo.now + 10 + step / 50)
        duo.a.connection.next_timer()
    duo.a.connection.on_timer(duo.now + 11)
    assert duo.a.connection.pending == 0
    assert duo.a.connection.next_timer() is None


def test_messages_with_a_ttl_cost_no_more_than_their_number() -> None:
    _assert_not_quadratic(_queue_with_ttl, 4000)


def _too_big_for_the_peer(count: int) -> None:
    duo = Duo(config_b=Config(max_message_size=50), start=False)
    for number in range(count):
        duo.a.send(bytes(100 if number % 2 else 10))
    duo.start()
    assert duo.run_until(lambda: len(duo.a.settled) == count, 60)


def test_failing_many_messages_costs_no_more_than_their_number() -> None:
    _assert_not_quadratic(_too_big_for_the_peer, 8000)
