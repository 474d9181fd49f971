"""Who gets an answer and whose name a key may take: the rules one by one, without a network."""

from __future__ import annotations

import random
from collections import Counter
from functools import cache

import pytest

from srmudp.config import Config
from srmudp.crypto.backend import select_backend
from srmudp.crypto.noise import SessionSecrets
from srmudp.models import Address, PeerId, Trust
from srmudp.peers.admission import (
    ASK_AGAIN,
    DEMANDS,
    IP_MATCH_AFTER,
    MAX_HALF_OPEN,
    MAX_HALF_OPEN_PER_HOST,
    MAX_PENDING,
    MAX_PREFIXES,
    MAX_QUESTIONS,
    PENDING_SECONDS,
    REMEMBERED_ANSWERS,
    AcceptPolicy,
    Admission,
    Reply,
    Verdict,
    prefix_of,
)
from srmudp.peers.attempts import ATTEMPT_LIFETIME
from srmudp.peers.cookies import SECRET_LIFETIME, Cookies
from srmudp.peers.endpoint import Endpoint
from srmudp.peers.peer import Peer
from srmudp.peers.registry import Registry
from srmudp.protocol.handshake import Agreed, Self, open_attempt
from srmudp.wire.packet import Hello, Punch, parse_cookie, parse_punch
from tests.endpoints import identity

OWN = identity("own").peer_id
HERE = Address("192.0.2.1", 1000)
ELSEWHERE = Address("203.0.113.9", 9)
ASKED = "asked"


@cache
def punch(number: int = 0, to: PeerId | None = None) -> Punch:
    us = Self(select_backend(), identity("stranger"), bytes(16), "")
    return parse_punch(open_attempt(us, number + 1, random.Random(number).randbytes(32), to).punch)


def claim(number: int, name: str = "x") -> Agreed:
    peer_id = PeerId(number.to_bytes(32, "big"))
    hello = Hello(peer_id, bytes(16), 1, False, name, 5)
    return Agreed(False, 6, hello, 1, bytes(32), SessionSecrets(bytes(32), bytes(32), bytes(32), bytes(32)))


class Door:
    """An Admission with all that belongs to it."""

    def __init__(self, policy: AcceptPolicy = AcceptPolicy.NOBODY, rate: float = 1000.0) -> None:
        self.drops: Counter[str] = Counter()
        self.registry = Registry()
        self.admission = Admission(OWN, policy, self.registry, self.drops, rate, random.Random(2).randbytes)
        self._host = Endpoint(identity("own"), Config(), backend=select_backend(), random=random.Random(1).randbytes)

    def add(self, name: str, *addresses: Address) -> Peer:
        peer = Peer(self._host, name, 0.0)
        peer.addresses = list(addresses)
        self.registry.add(peer)
        return peer

    def answers(self, punch: Punch, source: Address, now: float) -> bool:
        """Whether a punch is answered by keys."""
        return self.admission.reply_to(punch, source, now) is Reply.PUBLIC_KEY

    def judge(self, agreed: Agreed, now: float, source: Address = ELSEWHERE) -> Verdict | str:
        """The verdict about a stranger; ``ASKED`` if it is before the application from now on."""
        verdict = self.admission.judge(agreed.hello.peer_id, agreed.hello.name, source, now)
        return verdict if self.admission.next_question() is None else ASKED

    def with_cookie(self, punch: Punch, source: Address, now: float) -> Punch:
        """The same punch with the cookie that is demanded of its sender."""
        return punch._replace(cookie=parse_cookie(self.admission.cookie_for(punch, source, now)).cookie)


# --- who gets an answer ---


def test_silence_for_those_nobody_expects() -> None:
    door = Door()
    assert not door.answers(punch(), ELSEWHERE, 0.0)
    assert door.drops == {"unsolicited_punch": 1}


def test_a_right_tag_is_answered_wherever_it_comes_from() -> None:
    door = Door()
    door.add("alice", HERE)
    assert door.answers(punch(to=OWN), ELSEWHERE, 0.0)


def test_a_socket_without_peers_is_silent_until_they_are_added() -> None:
    """Whoever it would have to refuse now may be added in a moment; being refused keeps it away for long."""
    door = Door()
    assert door.admission.reply_to(punch(to=OWN), HERE, 0.0) is Reply.SILENCE
    door.add("alice", HERE)
    assert door.answers(punch(to=OWN), HERE, 0.0)
    assert Door(AcceptPolicy.ASK).answers(punch(to=OWN), HERE, 0.0)


def test_a_wrong_tag_counts_as_none() -> None:
    door = Door()
    wrong = punch(to=identity("another").peer_id)
    assert not door.admission.is_tagged_for_us(wrong)
    assert not door.answers(wrong, ELSEWHERE, 0.0)
    door.add("alice", HERE)
    assert door.answers(wrong, HERE, 0.0)


def test_the_exact_address_of_an_unpinned_peer() -> None:
    door = Door()
    alice = door.add("alice", HERE)
    assert door.answers(punch(), HERE, 0.0)
    door.registry.bind(alice, identity("alice").peer_id)
    assert door.answers(punch(), HERE, 0.0), "its program may have come back and not know us any more"
    alice.trust = Trust.PINNED
    assert not door.answers(punch(), HERE, 0.0)


def test_the_ip_of_exactly_one() -> None:
    door = Door()
    door.add("alice", HERE)
    near = Address(HERE.host, 4242)
    late = IP_MATCH_AFTER
    assert not door.answers(punch(), near, late - 0.1), "the peer itself may still answer"
    assert door.answers(punch(), near, late)
    door.add("bob", Address(HERE.host, 2000))
    assert not door.answers(punch(), near, late)
    assert door.answers(punch(), HERE, late)


def test_neighbours_that_proved_a_key_are_neighbours_while_they_are_away() -> None:
    """Its program may have come back with a new key: who knocks from the IP may be either."""
    door = Door()
    door.add("alice", HERE)
    bob = door.add("bob", Address(HERE.host, 2000))
    door.registry.bind(bob, identity("bob").peer_id)
    bob.trust = Trust.FIRST_USE
    near = Address(HERE.host, 4242)
    assert door.admission.match(near, 10.0) is None
    assert door.admission.match(Address(HERE.host, 2000), 10.0) is None, "that address is bob's"
    bob.trust = Trust.PINNED
    found = door.admission.match(near, 10.0)
    assert found is not None
    assert found[1] is Trust.MATCHED_BY_IP


@pytest.mark.parametrize("policy", [AcceptPolicy.ASK, AcceptPolicy.EVERYBODY])
def test_open_doors_answer_anybody(policy: AcceptPolicy) -> None:
    assert Door(policy).answers(punch(), ELSEWHERE, 0.0)


def test_strangers_cannot_use_up_what_added_peers_need() -> None:
    door = Door(AcceptPolicy.EVERYBODY, rate=10.0)
    door.add("alice", HERE)
    answered = sum(door.answers(punch(), ELSEWHERE, 0.0) for _ in range(1000))
    assert answered <= 20
    assert door.drops["cookie_demanded"] == 1000 - answered
    assert door.answers(punch(), HERE, 0.0)


# --- cookies ---


def test_above_half_the_rate_a_cookie_is_demanded_and_brings_an_answer() -> None:
    door = Door(AcceptPolicy.EVERYBODY, rate=10.0)
    while door.answers(punch(), ELSEWHERE, 0.0):
        pass
    assert door.admission.reply_to(punch(), ELSEWHERE, 0.0) is Reply.COOKIE
    assert door.answers(door.with_cookie(punch(), ELSEWHERE, 0.0), ELSEWHERE, 0.0)


def test_attack_33_a_cookie_is_good_for_one_address_one_index_and_some_minutes() -> None:
    """Attack 33: a cookie of another address, of another punch, of an old secret, or made up counts as none."""
    door = Door(AcceptPolicy.EVERYBODY, rate=10.0)
    while door.answers(punch(1), ELSEWHERE, 0.0):
        pass
    good = door.with_cookie(punch(1), ELSEWHERE, 0.0)
    thefts = (
        (good, Address(ELSEWHERE.host, ELSEWHERE.port + 1)),
        (good, Address("203.0.113.10", ELSEWHERE.port)),
        (good._replace(index=3), ELSEWHERE),
        (good._replace(cookie=bytes(15) + b"x"), ELSEWHERE),
    )
    for stolen, where in thefts:
        assert door.admission.reply_to(stolen, where, 0.0) is Reply.COOKIE
    assert door.answers(good, ELSEWHERE, 0.0)


def test_attack_33_a_cookie_grows_old() -> None:
    """Attack 33: the secret changes every two minutes; the last one counts once more, older ones never."""
    cookies = Cookies(random.Random(3).randbytes)
    first = cookies.make(HERE, 7, 0.0)
    assert cookies.make(HERE, 7, SECRET_LIFETIME - 1) == first
    assert cookies.make(HERE, 7, SECRET_LIFETIME) != first
    assert cookies.holds(first, HERE, 7, 2 * SECRET_LIFETIME - 1)
    assert not cookies.holds(first, HERE, 7, 2 * SECRET_LIFETIME)
    silent = Cookies(random.Random(3).randbytes)
    first = silent.make(HERE, 7, 0.0)
    assert not silent.holds(first, HERE, 7, 100 * SECRET_LIFETIME), "nobody asked for a long time"


def test_one_network_of_strangers_leaves_answers_to_others() -> None:
    """With cookies of its own a /64 (or an IPv4 address) gets its share and no more."""
    door = Door(AcceptPolicy.EVERYBODY, rate=100.0)
    answered = 0
    for number in range(1000):
        source = Address(f"2001:db8::{number:x}", 1)
        answered += door.answers(door.with_cookie(punch(), source, 0.0), source, 0.0)
    assert 0 < answered <= 50
    source = Address("2001:db8:0:1::1", 1)
    assert door.answers(door.with_cookie(punch(), source, 0.0), source, 0.0)


def test_the_networks_that_are_watched_are_bounded() -> None:
    door = Door(AcceptPolicy.EVERYBODY, rate=1000.0)
    for number in range(2 * MAX_PREFIXES):
        source = Address(f"10.0.{number >> 8}.{number & 255}", 1)
        door.answers(door.with_cookie(punch(), source, 0.0), source, 0.0)
    assert len(door.admission._prefixes) == MAX_PREFIXES


@pytest.mark.parametrize(
    ("host", "network"),
    [("192.0.2.7", "192.0.2.7"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"), ("fe80::1%4", "fe80::")],
)
def test_the_network_of_one_subscriber(host: str, network: str) -> None:
    assert prefix_of(host) == network


def test_a_half_full_table_demands_cookies() -> None:
    door = Door(AcceptPolicy.EVERYBODY, rate=1e9)
    assert _flood(door, MAX_HALF_OPEN, cookies=False) == MAX_HALF_OPEN // 2
    assert door.drops["cookie_demanded"] == MAX_HALF_OPEN // 2
    assert door.answers(door.with_cookie(punch(), HERE, 0.0), HERE, 0.0)


def test_cookies_for_strangers_have_a_rate_those_for_added_peers_do_not() -> None:
    door = Door(AcceptPolicy.EVERYBODY, rate=1.0)
    door.add("alice", HERE)
    replies = [door.admission.reply_to(punch(), ELSEWHERE, 0.0) for _ in range(3000)]
    assert replies.count(Reply.COOKIE) == DEMANDS
    assert replies[-1] is Reply.SILENCE
    assert {door.admission.reply_to(punch(n), HERE, 0.0) for n in range(2000)} == {Reply.PUBLIC_KEY, Reply.COOKIE}


# --- half-open handshakes ---


def test_a_punch_that_came_before_is_known_by_its_message() -> None:
    door = Door(AcceptPolicy.EVERYBODY)
    first = door.admission.remember(punch(1), HERE, 0.0)
    assert door.admission.known(punch(1), HERE) is first
    assert door.admission.known(punch(2), HERE) is None
    assert door.admission.known(punch(1), ELSEWHERE) is None, "a copy from elsewhere proves nothing about this address"


def _flood(door: Door, count: int, host: str | None = None, *, cookies: bool = True) -> int:
    """So many different punches, each from a host of its own unless one is given; how many were answered."""
    one, answered = punch(), 0
    for number in range(count):
        source = Address(host or f"10.0.{number >> 8}.{number & 255}", 1 + number)
        if door.answers(door.with_cookie(one, source, 0.0) if cookies else one, source, 0.0):
            answered += 1
            door.admission.remember(one._replace(message=number.to_bytes(32, "big")), source, 0.0)
    return answered


@pytest.mark.parametrize(("host", "limit"), [(ELSEWHERE.host, MAX_HALF_OPEN_PER_HOST), (None, MAX_HALF_OPEN)])
def test_half_open_entries_are_bounded_and_the_oldest_make_room(host: str | None, limit: int) -> None:
    """A flood pushes out its own entries; it does not keep anybody out."""
    door = Door(AcceptPolicy.EVERYBODY, rate=1e9)
    assert _flood(door, 2 * limit, host) == 2 * limit
    assert len(door.admission._by_punch) == limit
    assert door.drops["half_open_evicted"] == limit
    assert sum(door.admission._per_host.values()) == limit
    door.admission.expire(ATTEMPT_LIFETIME)
    assert door.admission.next_timer() is None
    assert not door.admission._per_host


def test_a_flood_pushes_out_no_handshake_that_led_somewhere() -> None:
    door = Door(AcceptPolicy.EVERYBODY, rate=1e9)
    good = door.admission.remember(punch(1), HERE, 0.0)
    good.accepted = b"a SHARED_KEY"
    busy = door.admission.remember(punch(2), HERE, 0.0)
    busy.job_running = True
    _flood(door, 2 * MAX_HALF_OPEN)
    assert door.admission.known(punch(1), HERE) is good
    assert door.admission.known(punch(2), HERE) is busy
    for entry in list(door.admission._by_punch.values()):
        entry.job_running = True
    assert not door.answers(door.with_cookie(punch(3), HERE, 0.0), HERE, 0.0)
    assert door.drops["half_open_full"] == 1


def test_half_open_entries_expire_in_time() -> None:
    door = Door(AcceptPolicy.EVERYBODY)
    door.admission.remember(punch(1), HERE, 5.0)
    door.admission.remember(punch(2), HERE, 6.0)
    assert door.admission.next_timer() == 5.0 + ATTEMPT_LIFETIME
    door.admission.expire(5.0 + ATTEMPT_LIFETIME)
    assert door.admission.known(punch(1), HERE) is None
    assert door.admission.known(punch(2), HERE) is not None
    assert door.admission.next_timer() == 6.0 + ATTEMPT_LIFETIME


def test_forgetting_twice_counts_once() -> None:
    door = Door(AcceptPolicy.EVERYBODY)
    first = door.admission.remember(punch(1), HERE, 0.0)
    door.admission.remember(punch(2), HERE, 0.0)
    door.admission.forget(first)
    door.admission.forget(first)
    assert door.admission._per_host[HERE.host] == 1


# --- whose name ---


def test_match_by_exact_address_then_by_ip() -> None:
    door = Door()
    alice = door.add("alice", HERE)
    assert door.admission.match(HERE, 10.0) == (alice, Trust.FIRST_USE)
    assert door.admission.match(Address(HERE.host, 7), 10.0) == (alice, Trust.MATCHED_BY_IP)
    assert door.admission.match(ELSEWHERE, 10.0) is None
    bob = door.add("bob", Address(HERE.host, 2000))
    assert door.admission.match(Address(HERE.host, 7), 10.0) is None
    assert door.admission.match(HERE, 10.0) == (alice, Trust.FIRST_USE)
    door.registry.set_addresses(bob, (*bob.addresses, HERE))
    assert door.admission.match(HERE, 10.0) is None, "two peers at one address: neither's name is given away"


# --- strangers ---


def test_nobody_is_welcome_at_a_closed_door() -> None:
    assert Door().judge(claim(1), 0.0) == Verdict.REFUSED


def test_everybody_but_the_removed() -> None:
    door = Door(AcceptPolicy.EVERYBODY)
    assert door.judge(claim(1), 0.0) == Verdict.WELCOME
    door.registry.remember_removed(claim(1).hello.peer_id)
    assert door.judge(claim(1), 0.0) == Verdict.REFUSED


def test_one_question_per_key_and_hour() -> None:
    door = Door(AcceptPolicy.ASK)
    assert door.judge(claim(1), 0.0) == ASKED
    for now in (0.0, 1.0, PENDING_SECONDS - 1):
        assert door.judge(claim(1), now) == Verdict.WAIT
    door.admission.expire(PENDING_SECONDS)
    assert door.judge(claim(1), PENDING_SECONDS) == Verdict.WAIT
    assert door.judge(claim(1), ASK_AGAIN - 1) == Verdict.WAIT
    assert door.judge(claim(1), ASK_AGAIN) == ASKED


def test_attack_80_few_questions_at_a_time_and_few_from_one_network() -> None:
    """Attack 80: three questions are open, sixteen strangers wait, four of one network; the next is asked in turn."""
    door = Door(AcceptPolicy.ASK)
    asked = [door.judge(claim(number), 0.0, Address(f"192.0.2.{number // 5}", 1)) for number in range(40)]
    assert asked == [ASKED] * MAX_QUESTIONS + [Verdict.WAIT] * 37
    assert len(door.admission._pending) == MAX_PENDING
    assert claim(4).hello.peer_id not in door.admission._pending, "the fifth of its network"
    door.admission.decide(claim(0).hello.peer_id, False, 1.0)
    following = door.admission.next_question()
    assert following is not None
    assert following.peer_id == claim(3).hello.peer_id
    assert door.admission.next_question() is None
    door.judge(claim(100), 1.0, Address("198.51.100.1", 1))
    assert len(door.admission._pending) == MAX_PENDING, "there is room for one again"


def test_attack_80_a_thousand_knocks_are_one_question_an_hour() -> None:
    """Attack 80: whatever the answer was, and if there was none."""
    door = Door(AcceptPolicy.ASK)
    questions = 0
    for second in range(0, 3 * 3600, 10):
        door.admission.expire(float(second))
        questions += door.judge(claim(1), float(second)) is ASKED
    assert questions == 3


def test_decisions() -> None:
    door = Door(AcceptPolicy.ASK)
    yes, no = claim(1).hello.peer_id, claim(2).hello.peer_id
    door.admission.decide(yes, True, 0.0)
    door.admission.decide(no, False, 0.0)
    assert door.judge(claim(1), 1.0) == Verdict.WELCOME
    assert door.judge(claim(1), 10 * ASK_AGAIN) == Verdict.WELCOME
    assert door.judge(claim(2), 1.0) == Verdict.REFUSED
    assert door.judge(claim(2), ASK_AGAIN) == ASKED
    door.admission.revoke(yes)
    assert door.judge(claim(1), 2.0) is not Verdict.WELCOME


def test_admitting_a_removed_key_lets_it_in_again() -> None:
    door = Door(AcceptPolicy.ASK)
    door.registry.remember_removed(claim(1).hello.peer_id)
    door.admission.decide(claim(1).hello.peer_id, True, 0.0)
    assert door.judge(claim(1), 1.0) == Verdict.WELCOME


def test_memory_of_questions_and_decisions_is_bounded() -> None:
    door = Door(AcceptPolicy.ASK)
    for number in range(3 * REMEMBERED_ANSWERS):
        agreed = claim(number)
        door.judge(agreed, float(number))
        door.admission.decide(agreed.hello.peer_id, False, float(number))
    assert len(door.admission._asked) <= REMEMBERED_ANSWERS
    assert len(door.admission._decided) <= REMEMBERED_ANSWERS
    assert not door.admission._pending


def test_pending_questions_expire() -> None:
    door = Door(AcceptPolicy.ASK)
    door.judge(claim(1), 5.0)
    assert door.admission.next_timer() == 5.0 + PENDING_SECONDS
    door.admission.expire(5.0 + PENDING_SECONDS)
    assert door.admission.next_timer() is None
