"""Proposals of a new address: what proves one, what does not, how often one is listened to."""

from __future__ import annotations

import pytest

from srmudp.models import Address
from srmudp.peers.paths import MIN_WAIT, PROPOSAL_INTERVAL, PathProbe, PathValidator

OLD = Address("192.0.2.1", 1000)
NEW = Address("192.0.2.1", 2000)
OTHER = Address("203.0.113.9", 3000)
NONCES = bytes(range(16))


def proposed(validator: PathValidator, *, address: Address = NEW, rtt: float = 0.1, now: float = 10.0) -> PathProbe:
    probe = validator.propose(address, NONCES, rtt, now)
    assert probe is not None
    return probe


def test_nothing_to_do_at_first() -> None:
    validator = PathValidator()
    assert validator.next_timer() is None
    assert validator.decide(1e9) is None
    validator.on_response(bytes(8), NEW, False, 0.0)


def test_the_two_challenges_differ() -> None:
    probe = proposed(PathValidator())
    assert probe.nonce_new == NONCES[:8]
    assert probe.nonce_old == NONCES[8:]


def test_a_silent_old_address_and_an_answering_new_one_move() -> None:
    validator = PathValidator()
    probe = proposed(validator)
    validator.on_response(probe.nonce_new, NEW, False, 0.0)
    when = validator.next_timer()
    assert when is not None
    assert when == pytest.approx(10.2)
    assert validator.decide(when - 1e-6) is None
    assert validator.decide(when) == NEW
    assert validator.next_timer() is None
    assert validator.decide(when + 1) is None


@pytest.mark.parametrize("order", ["new first", "old first"])
def test_an_old_address_that_answers_is_kept(order: str) -> None:
    """The copy of a packet came faster than the packet."""
    validator = PathValidator()
    probe = proposed(validator)
    answers = [(probe.nonce_new, NEW), (probe.nonce_old, OLD)]
    for nonce, source in answers if order == "new first" else reversed(answers):
        validator.on_response(nonce, source, False, 0.0)
    assert validator.decide(11.0) is None
    assert validator.probe is None


def test_no_answer_at_all_keeps_the_old_address() -> None:
    validator = PathValidator()
    proposed(validator)
    assert validator.decide(11.0) is None


@pytest.mark.parametrize(
    ("nonce", "source"),
    [
        (NONCES[:8], OLD),  # the new challenge answered from elsewhere
        (NONCES[:8], OTHER),
        (NONCES[8:], NEW),  # the old challenge answered from the new address: proves nothing about the new one
        (b"wrongnon", NEW),
        (NONCES[:7], NEW),
        (b"", NEW),
    ],
)
def test_an_answer_counts_for_its_own_address_and_nonce_only(nonce: bytes, source: Address) -> None:
    validator = PathValidator()
    proposed(validator)
    validator.on_response(nonce, source, False, 0.0)
    assert validator.decide(11.0) is None


def test_answers_to_an_earlier_probe_count_for_nothing() -> None:
    validator = PathValidator()
    first = proposed(validator)
    assert validator.decide(10.2) is None
    second = validator.propose(NEW, bytes(range(16, 32)), 0.1, 11.0)
    assert second is not None
    validator.on_response(first.nonce_new, NEW, False, 0.0)
    validator.on_response(first.nonce_old, OLD, False, 0.0)
    assert not second.new_answered
    assert not second.old_answered


def test_the_old_address_has_a_least_time_to_answer() -> None:
    validator = PathValidator()
    probe = proposed(validator, rtt=0.0001)
    assert probe.decide_at == pytest.approx(10.0 + MIN_WAIT)


def test_proposals_are_rare_whoever_makes_them() -> None:
    validator = PathValidator()
    proposed(validator, rtt=0.01)
    assert validator.propose(OTHER, NONCES, 0.01, 10.0 + PROPOSAL_INTERVAL - 0.001) is None
    assert validator.decide(10.1) is None
    assert validator.propose(NEW, NONCES, 0.01, 10.2) is None
    assert validator.propose(NEW, NONCES, 0.01, 10.0 + PROPOSAL_INTERVAL) is not None


def test_ten_minutes_of_copies_make_a_bounded_number_of_challenges() -> None:
    validator = PathValidator()
    made = 0
    for step in range(60_000):
        now = 10.0 + step / 100
        made += validator.propose(Address("203.0.113.9", 1 + step % 60_000), NONCES, 0.02, now) is not None
        validator.decide(now)
    assert made <= 600 / PROPOSAL_INTERVAL + 1


def test_the_same_address_is_not_proposed_again_while_it_is_probed() -> None:
    validator = PathValidator()
    probe = proposed(validator, rtt=10.0)
    assert validator.propose(NEW, NONCES, 10.0, 12.0) is None
    assert validator.probe is probe
