"""Questions to STUN servers: timers of RFC 8489, forged answers, and what a server says."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from srmudp.models import Address
from srmudp.nat.stun import MAX_TRANSACTIONS, Outcome, StunClient, answer_to, failed
from srmudp.wire.stun import StunClass, StunMessage, parse_stun

SERVER = Address("192.0.2.1", 3478)
SERVER6 = Address("2001:db8::1", 3478)
OURS = Address("203.0.113.5", 40_000)
OURS6 = Address("2001:db8:1::5", 40_000)


class Asker:
    """A client, what it sent and what came of its questions."""

    def __init__(self) -> None:
        self.drops: Counter[str] = Counter()
        self.out: list[tuple[bytes, Address]] = []
        self.client = StunClient(random.Random(1).randbytes, self.drops, lambda *sent: self.out.append(sent))
        self.ended: list[Outcome] = []

    def ask(self, server: Address = SERVER, now: float = 0.0) -> bytes:
        return self.client.ask(server, self.ended.append, now)

    def sent(self) -> list[tuple[StunMessage, Address]]:
        taken = [(parse_stun(data), where) for data, where in self.out]
        self.out.clear()
        return taken


def answer(transaction_id: bytes, seen: Address | None = OURS, **more: Any) -> StunMessage:
    return StunMessage(StunClass.SUCCESS, transaction_id, seen, **more)


def test_an_answer_ends_the_question() -> None:
    asker = Asker()
    asked = asker.ask(now=5.0)
    ((request, where),) = asker.sent()
    assert (request, where) == (StunMessage(StunClass.REQUEST, asked), SERVER)
    other = Address("192.0.2.2", 3479)
    asker.client.on_response(answer(asked, other=other), SERVER, 5.03)
    assert asker.ended == [Outcome(SERVER, OURS, "", pytest.approx(0.03), other, SERVER, 5.03)]
    assert asker.client.next_timer() is None
    asker.client.on_response(answer(asked), SERVER, 5.04)
    assert asker.drops == {"stun_unasked": 1}
    assert len(asker.ended) == 1


def test_the_timers_of_rfc_8489() -> None:
    """Section 6.2.1, with an RTO of 500 ms: sent at 0, 500, 1500, 3500, 7500, 15500 and 31500, given up at 39500."""
    asker = Asker()
    asked = asker.ask(now=100.0)
    times = []
    now: float | None = 100.0
    while now is not None:
        asker.client.on_timer(now)
        times += [(now - 100.0, request.transaction_id == asked) for request, _ in asker.sent()]
        last, now = now, asker.client.next_timer()
    assert times == [(at, True) for at in (0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5)]
    assert last == 139.5
    assert asker.ended == [failed(SERVER, "it did not answer", 139.5)]


def test_a_repeated_question_says_nothing_of_the_round_trip() -> None:
    """Karn's rule: nobody knows which of the two was answered."""
    asker = Asker()
    asked = asker.ask()
    asker.client.on_timer(0.5)
    assert len(asker.sent()) == 2
    asker.client.on_response(answer(asked), SERVER, 0.6)
    assert asker.ended[0].rtt is None


@pytest.mark.parametrize(
    ("changes", "source", "reason"),
    [
        ({"transaction_id": bytes(12)}, SERVER, "stun_unasked"),
        ({}, SERVER._replace(port=3479), "stun_wrong_source"),
        ({}, SERVER._replace(host="192.0.2.2"), "stun_wrong_source"),
        ({"xor_mapped": None}, SERVER, "stun_bad_answer"),
        ({"xor_mapped": OURS6}, SERVER, "stun_bad_answer"),
        ({"xor_mapped": OURS._replace(port=0)}, SERVER, "stun_bad_answer"),
        ({"xor_mapped": Address("0.0.0.0", 9)}, SERVER, "stun_bad_answer"),
        ({"xor_mapped": Address("224.0.0.1", 9)}, SERVER, "stun_bad_answer"),
        ({"xor_mapped": Address("127.0.0.1", 9)}, SERVER, "stun_bad_answer"),
        ({"not_understood": (0x7F00,)}, SERVER, "stun_bad_answer"),
        ({"kind": StunClass.ERROR}, SERVER, "stun_bad_answer"),
    ],
)
def test_attack_38_forged_answers(changes: dict[str, Any], source: Address, reason: str) -> None:
    """Attack 38: wrong transaction id, another source, wrong family, no address: dropped; the right one counts."""
    asker = Asker()
    asked = asker.ask()
    asker.client.on_response(replace(answer(asked), **changes), source, 0.01)
    assert asker.drops == {reason: 1}
    assert not asker.ended
    asker.client.on_response(answer(asked), SERVER, 0.02)
    assert asker.ended[0].mapped == OURS


def test_answers_of_old_servers_are_understood() -> None:
    """RFC 3489 had SOURCE-ADDRESS and CHANGED-ADDRESS, which some still add, and only MAPPED-ADDRESS."""
    asker = Asker()
    asked = asker.ask()
    asker.client.on_response(answer(asked, None, mapped=OURS, not_understood=(0x0004, 0x0005)), SERVER, 0.01)
    assert asker.ended[0].mapped == OURS


def test_loopback_sees_loopback() -> None:
    asker = Asker()
    here = Address("127.0.0.1", 3478)
    asked = asker.ask(here)
    asker.client.on_response(answer(asked, Address("127.0.0.1", 9)), here, 0.01)
    assert asker.ended[0].mapped == Address("127.0.0.1", 9)


def test_errors_end_the_question() -> None:
    asker = Asker()
    asked = asker.ask(SERVER6)
    refusal = StunMessage(StunClass.ERROR, asked, error=(500, "\x1b[2J"))
    asker.client.on_response(refusal, SERVER6, 0.01)
    assert (asker.ended[0].mapped, asker.ended[0].failure) == (None, "it answered with error 500")


def test_questions_side_by_side_and_cancelled() -> None:
    asker = Asker()
    first, second = asker.ask(SERVER), asker.ask(SERVER6)
    assert first != second
    asker.client.on_response(answer(second, OURS6), SERVER6, 0.01)
    asker.client.on_response(answer(first, OURS6), SERVER6, 0.01)  # one server cannot answer for another
    assert [outcome.server for outcome in asker.ended] == [SERVER6]
    asker.client.cancel(first)
    asker.client.cancel(first)
    assert asker.client.next_timer() is None
    assert asker.drops == {"stun_wrong_source": 1}


ELSEWHERE = Address("192.0.2.2", 3479)


@pytest.mark.parametrize(
    ("elsewhere", "change"),
    [
        (ELSEWHERE, {"change_ip": True, "change_port": True}),
        (SERVER._replace(port=3479), {"change_port": True}),
        (SERVER._replace(host="192.0.2.2"), {"change_ip": True}),
    ],
)
def test_a_server_is_asked_to_answer_from_elsewhere(elsewhere: Address, change: dict[str, bool]) -> None:
    asker = Asker()
    asked = asker.client.ask(SERVER, asker.ended.append, 0.0, elsewhere)
    assert asker.sent() == [(StunMessage(StunClass.REQUEST, asked, **change), SERVER)]  # type: ignore[arg-type]
    for source in (ELSEWHERE._replace(port=9), Address("192.0.2.3", 3479)):
        asker.client.on_response(answer(asked), source, 0.1)
    assert asker.drops == {"stun_wrong_source": 2}
    asker.client.on_response(answer(asked), elsewhere, 0.2)
    assert [(outcome.server, outcome.source, outcome.mapped) for outcome in asker.ended] == [(SERVER, elsewhere, OURS)]


def test_silence_from_elsewhere_is_an_answer_soon() -> None:
    asker = Asker()
    asker.client.ask(SERVER, asker.ended.append, 0.0, ELSEWHERE)
    times = []
    while (now := asker.client.next_timer()) is not None:
        asker.client.on_timer(now)
        times.append(now)
    assert times == [0.5, 1.5]
    assert {where for _, where in asker.sent()} == {SERVER}
    assert asker.ended == [failed(SERVER, "it did not answer", 1.5)]


def test_open_questions_are_bounded() -> None:
    asker = Asker()
    for _ in range(MAX_TRANSACTIONS):
        asker.ask()
    with pytest.raises(ValueError, match="at a time"):
        asker.ask()


# --- the server


@pytest.mark.parametrize("source", [OURS, OURS6])
@pytest.mark.parametrize("fingerprint", [False, True])
def test_a_server_says_what_it_saw_and_nothing_more(source: Address, fingerprint: bool) -> None:
    request = StunMessage(StunClass.REQUEST, bytes(12), software="something long" * 9, fingerprint=fingerprint)
    reply = answer_to(request, source)
    assert parse_stun(reply) == StunMessage(StunClass.SUCCESS, bytes(12), xor_mapped=source, fingerprint=fingerprint)


def test_attack_36_the_longest_answer_to_the_shortest_question() -> None:
    """Attack 36: 2.2 times, for IPv6; less with a fingerprint or with anything that must be refused."""
    bare = StunMessage(StunClass.REQUEST, bytes(12))
    assert (len(bare.encode()), len(answer_to(bare, OURS)), len(answer_to(bare, OURS6))) == (20, 32, 44)
    for changed in ({"fingerprint": True}, {"change_port": True}, {"change_ip": True, "fingerprint": True}):
        request = replace(bare, **changed)
        assert len(answer_to(request, OURS6)) <= 2.2 * len(request.encode())


def test_what_a_server_refuses() -> None:
    """RFC 8489 section 6.3.1 and RFC 5780 section 6.1: there is no second address to answer from."""
    request = StunMessage(StunClass.REQUEST, bytes(12), change_port=True, not_understood=(0x0027, 0x7F01))
    refusal = parse_stun(answer_to(request, OURS))
    assert (refusal.kind, refusal.error) == (StunClass.ERROR, (420, ""))
    assert refusal.unknown == (0x0027, 0x7F01, 0x0003)
    assert refusal.address is None
