"""Which addresses may be tried because a peer says so (attack 37), and which first."""

from __future__ import annotations

import pytest

from srmudp.models import Address, Candidate, CandidateKind
from srmudp.nat.candidates import (
    MAX_CANDIDATES,
    believable,
    is_one_host,
    may_try_claimed,
    nearness,
    preferred,
    priority,
    same_network,
)

HOST, GIVEN = CandidateKind.HOST, CandidateKind.GIVEN
SERVER, PEER, MAPPED = CandidateKind.SERVER_REFLEXIVE, CandidateKind.PEER_REFLEXIVE, CandidateKind.MAPPED
MET = [Address("203.0.113.9", 5000)]
OURS = [Address("192.168.1.2", 4000), Address("2001:db8:1::2", 4000)]


def at(host: str, port: int = 5000) -> Address:
    return Address(host, port)


@pytest.mark.parametrize(
    "address",
    [
        *(at("0.0.0.0"), at("0.1.2.3"), at("255.255.255.255"), at("224.0.0.1"), at("239.255.255.250"), at("240.0.0.1")),
        *(at("::"), at("ff02::1"), at("::ffff:10.0.0.1"), at("::ffff:224.0.0.1"), at("2002:e000:1::")),
        *(at("192.0.2.1", 0), at("192.0.2.1", 65536), at("192.0.2.1", -1), at("example.org"), at(""), at("1.2.3")),
    ],
)
def test_attack_37_what_is_no_single_host_is_never_tried(address: Address) -> None:
    """Attack 37: whoever names it."""
    assert not is_one_host(address)
    assert not may_try_claimed(address, [address], [])


@pytest.mark.parametrize(
    ("address", "met", "ours"),
    [
        (at("192.0.2.1", 53), MET, OURS),  # a name server
        (at("192.0.2.1", 1023), MET, OURS),
        (at("127.0.0.1"), MET, OURS),
        (at("127.8.8.8"), [at("10.0.0.1")], OURS),
        (at("::1"), MET, OURS),
        (at("169.254.1.1"), MET, OURS),
        (at("fe80::1"), MET, [at("fe80::2")]),
        (at("fe80::1%eth0"), MET, [at("fe80::2%eth0")]),
        (at("2001:db8::1%1"), MET, OURS),
        (OURS[0], MET, OURS),
    ],
)
def test_attack_37_what_a_peer_may_not_claim(address: Address, met: list[Address], ours: list[Address]) -> None:
    """Attack 37: addresses of one host that a peer has no business to name."""
    assert is_one_host(address)
    assert not may_try_claimed(address, met, ours)


@pytest.mark.parametrize(
    ("address", "met", "ours"),
    [
        (at("192.0.2.1", 1024), MET, OURS),
        (at("10.1.2.3"), MET, OURS),
        (at("192.168.1.2", 4001), MET, OURS),  # another program on our machine, or another home's machine
        (at("2001:db8::1"), MET, OURS),
        (at("fd00::1"), MET, OURS),
        (at("127.0.0.1"), [at("127.0.0.1", 9)], OURS),
        (at("::1"), [at("127.0.0.1", 9)], OURS),
        (at("169.254.1.1"), MET, [at("169.254.1.2")]),
        (at("169.254.1.1"), [at("169.254.1.7")], OURS),
    ],
)
def test_what_a_peer_may_claim(address: Address, met: list[Address], ours: list[Address]) -> None:
    assert may_try_claimed(address, met, ours)


def test_near_is_what_shares_a_link_with_us() -> None:
    assert same_network(at("192.168.1.2"), at("192.168.1.200", 1))
    assert not same_network(at("192.168.1.2"), at("192.168.2.2"))
    assert same_network(at("2001:db8:1::2"), at("2001:db8:1::ffff"))
    assert not same_network(at("2001:db8:1::2"), at("2001:db8:1:1::2"))
    assert not same_network(at("::1"), at("0.0.0.1"))
    assert not same_network(at("nonsense"), at("nonsense"))
    order = [at("192.168.1.77"), at("2001:db8:7::1"), at("198.51.100.1"), at("192.168.0.5")]
    assert sorted(order, key=lambda one: -nearness(one, OURS)) == order
    assert nearness(at("192.168.0.5")) > nearness(at("2001:db8:7::1"))  # of our own links nothing is known


def test_the_order_in_which_candidates_are_tried() -> None:
    right = [
        *(
            Candidate(HOST, at("192.168.1.77")),
            Candidate(HOST, at("2001:db8:7::1")),
            Candidate(GIVEN, at("2001:db8::")),
        ),
        *(Candidate(HOST, at("203.0.113.1")), Candidate(PEER, at("203.0.113.2")), Candidate(MAPPED, at("203.0.113.3"))),
        *(Candidate(SERVER, at("203.0.113.4")), Candidate(GIVEN, at("203.0.113.5")), Candidate(HOST, at("10.0.0.1"))),
    ]
    assert preferred(reversed(right), OURS) == right
    assert len({priority(one, OURS) for one in right}) == len(right)


def test_an_address_is_tried_once_under_its_best_kind() -> None:
    twice = [Candidate(kind, at("203.0.113.1")) for kind in (GIVEN, SERVER, PEER, MAPPED)]
    assert preferred(twice) == [Candidate(PEER, at("203.0.113.1"))]


def test_attack_37_a_thousand_candidates() -> None:
    """Attack 37: of what a peer claims the first few are looked at, and of these the sensible ones believed."""
    claimed = [Candidate(HOST, at(f"198.51.{n // 250}.{n % 250 + 1}")) for n in range(1000)]
    assert believable(claimed, MET, OURS) == claimed[:MAX_CANDIDATES]
    bad = [one._replace(address=replace_port(one.address, 53)) for one in claimed[:15]]
    assert believable([*bad, *claimed], MET, OURS) == [claimed[0]]


def replace_port(address: Address, port: int) -> Address:
    return address._replace(port=port)


def test_the_text_of_a_candidate() -> None:
    assert str(Candidate(SERVER, at("2001:db8::1"))) == "server-reflexive [2001:db8::1]:5000"
