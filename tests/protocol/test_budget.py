"""The reserve of the receive budget when the message that has it stops: it passes on, and all are completed."""

from __future__ import annotations

import random

import pytest

from srmudp.protocol.credit import PATIENCE, PROGRESS, ReceiveBudget


class Large:
    """A message that asks for a piece at a time and keeps what it gets until it is whole."""

    def __init__(self, budget: ReceiveBudget, total: int, piece: int) -> None:
        self.budget, self.total, self.piece = budget, total, piece
        self.grant = 0
        self.asleep = False
        self.done = False

    def ask(self) -> bool:
        """One step; False if there was nothing to be had."""
        if self.done or self.asleep:
            return False
        got = self.retry()
        if self.grant == self.total:
            self.done = True
            granted, self.grant = self.grant, 0
            self.budget.give_back(self, granted)
        return got

    def retry(self) -> bool:
        amount = min(self.piece, self.total - self.grant)
        if self.asleep or not amount:
            return not self.asleep
        if not self.budget.take(self, amount, self.retry, self.total - self.grant - amount):
            return False
        self.grant += amount
        self.budget.on_progress(self, amount)
        return True


def finish(message: Large) -> None:
    while message.ask():
        pass
    assert message.done


def pass_time(budget: ReceiveBudget, now: float) -> float:
    """As an endpoint does: only when the budget wants to be looked at."""
    due = budget.next_timer()
    now = now if due is None else max(now, due)
    budget.on_timer(now)
    return now


def test_the_reserve_of_a_message_that_stopped_goes_to_one_that_fits() -> None:
    budget = ReceiveBudget(4 * PROGRESS, 4 * PROGRESS)
    first, second = Large(budget, 4 * PROGRESS, PROGRESS), Large(budget, 3 * PROGRESS, PROGRESS)
    assert first.ask()
    assert budget.next_timer() is None, "nobody waits"
    assert not second.ask()
    now = pass_time(budget, 10.0)
    assert not second.done
    assert budget.next_timer() == 10.0 + PATIENCE
    budget.on_timer(now + PATIENCE - 0.001)
    assert second.grant == 0, "too early"
    now = pass_time(budget, now)
    assert second.grant == PROGRESS, "it was asked again"
    assert not first.ask(), "the reserve is somebody else's now"
    finish(second)
    finish(first)
    assert budget.free == budget.reserve


def test_a_message_that_gets_ahead_keeps_the_reserve() -> None:
    budget = ReceiveBudget(100 * PROGRESS, 100 * PROGRESS)
    first, second = Large(budget, 100 * PROGRESS, PROGRESS), Large(budget, 1, 1)
    first.ask()
    assert not second.ask()
    now = pass_time(budget, 0.0)
    for _ in range(50):
        first.ask()
        now = pass_time(budget, now)
        assert second.grant == 0
    first.asleep = True
    now = pass_time(budget, now)
    assert second.grant


def test_the_reserve_does_not_go_to_one_that_could_not_be_completed() -> None:
    """Two that are half there and fill the memory together would wait for each other for ever."""
    budget = ReceiveBudget(4 * PROGRESS, 4 * PROGRESS)
    first, second = Large(budget, 4 * PROGRESS, 2 * PROGRESS), Large(budget, 4 * PROGRESS, 2 * PROGRESS)
    first.ask()
    assert not second.ask()
    now = 0.0
    for _ in range(5):
        now = pass_time(budget, now)
    assert second.grant == 0
    assert not second.ask()
    finish(first)
    finish(second)


def test_one_that_trickles_does_not_keep_the_reserve() -> None:
    budget = ReceiveBudget(4 * PROGRESS, 4 * PROGRESS)
    first, second = Large(budget, 4 * PROGRESS, 1), Large(budget, PROGRESS, PROGRESS)
    first.ask()
    assert not second.ask()
    now = 0.0
    for _ in range(3):
        first.ask()
        now = pass_time(budget, now)
    assert second.grant


@pytest.mark.parametrize("seed", range(20))
def test_messages_that_stop_and_go_on_are_all_completed(seed: int) -> None:
    """Any number of messages, stopped at random times for random times, and the total is never passed."""
    rng = random.Random(seed)
    reserve = 64 * PROGRESS
    total = reserve * rng.choice((1, 1, 2, 3))
    budget = ReceiveBudget(total, reserve)
    messages = [
        Large(budget, rng.randint(1, 64) * PROGRESS, rng.choice((1, 4, 16)) * PROGRESS)
        for _ in range(rng.randint(2, 12))
    ]
    now = 0.0
    for _ in range(400):
        message = rng.choice(messages)
        message.asleep = rng.random() < 0.4
        message.ask()
        if rng.random() < 0.3:
            now = pass_time(budget, now)
        held = sum(message.grant for message in messages)
        assert held + budget.free == total
        assert 0 <= held <= total
    for message in messages:
        message.asleep = False
    for _ in range(64 * len(messages) + 10):
        for message in messages:
            message.ask()
        now = pass_time(budget, now)
    assert all(message.done for message in messages), f"seed {seed}"
    assert budget.free == total
