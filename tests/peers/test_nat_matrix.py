"""Every pair of NATs: what the punching of this version can do, in virtual time, and how long it takes.

Both ends ask a server for their address from the socket that punches, tell each other what it said, with their PeerId,
and begin at the same moment, or one of them a little later. ``python -m tests.peers.test_nat_matrix`` prints the table.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from srmudp.models import Address, EventKind
from srmudp.peers.endpoint import Discovery
from tests.endpoints import kinds, make_node, status, transfer
from tests.simnet import Link, Nat, SimNet, SimNode

KINDS = (
    *("open", "firewall", "full-cone", "restricted", "port-restricted", "symmetric-adm", "symmetric-seq", "symmetric"),
    *("tcp-only", "linux", "linux-open", "linux-random", "cgnat-pr", "cgnat-sym"),
)
LINK = Link(latency=0.02)
SERVER = Address("198.51.100.1", 3478)
WITHIN = 3.0
"""Seconds a pair has."""
LATER = (0.0, 0.3, -0.3)
"""Seconds after the first that the second begins; the pairs of RACING alone take all of them."""
RACING = "linux-open"

# y: connects. -: does not.
TABLE = """
                 open firew full- restr port- s-adm s-seq symm  tcp   linux l-ope l-ran cg-pr cg-sy
open             y    y     y     y     y     y     y     y     -     y     y     y     y     y
firewall         y    y     y     y     y     -     -     -     -     y     y     -     y     -
full-cone        y    y     y     y     y     y     y     y     -     y     y     y     y     y
restricted       y    y     y     y     y     y     y     y     -     y     y     y     y     y
port-restricted  y    y     y     y     y     -     -     -     -     y     y     -     y     -
symmetric-adm    y    -     y     y     -     -     -     -     -     -     -     -     -     -
symmetric-seq    y    -     y     y     -     -     -     -     -     -     -     -     -     -
symmetric        y    -     y     y     -     -     -     -     -     -     -     -     -     -
tcp-only         -    -     -     -     -     -     -     -     -     -     -     -     -     -
linux            y    y     y     y     y     -     -     -     -     y     y     -     y     -
linux-open       y    y     y     y     y     -     -     -     -     y     y     -     y     -
linux-random     y    -     y     y     -     -     -     -     -     -     -     -     -     -
cgnat-pr         y    y     y     y     y     -     -     -     -     y     y     -     y     -
cgnat-sym        y    -     y     y     -     -     -     -     -     -     -     -     -     -
"""


class Trial(NamedTuple):
    """One try: seconds until both ends are connected, or None; and what a stays behind."""

    seconds: float | None
    failure: str | None


def build(net: SimNet, side: str, kind: str, number: int) -> SimNode:
    """A node behind a NAT of its own kind; carriers' are two."""
    outer, behind = f"203.0.113.{number}", "nat " + side
    if kind.startswith("cgnat"):
        net.add_nat("carrier " + side, outer, Nat.profile("port-restricted" if kind == "cgnat-pr" else "symmetric"))
        net.add_nat(behind, "100.64.0.2", Nat.profile("port-restricted"), behind="carrier " + side)
    else:
        net.add_nat(behind, outer, Nat.profile(kind))
    inside = f"203.0.113.{number}7" if net.nats[behind].mapping == "NONE" else f"192.168.{number}.2"
    return make_node(net, side, inside, port=5000 + number, behind=behind)


def punch(first: str, second: str, later: float = 0.0, seed: int = 1) -> Trial:
    """Let two meet as two people would."""
    net = SimNet(seed, link=LINK)
    make_node(net, "server", SERVER.host, port=SERVER.port, serve_stun=True)
    ends = build(net, "a", first, 1), build(net, "b", second, 2)
    asked = [Discovery(), Discovery()]
    for end, discovery in zip(ends, asked, strict=True):
        end.do(end.node.stun.ask, discovery, [(SERVER, None)])
    net.run(0.1)
    found = [end.node.stun.finish(discovery, net.now).ipv4 for end, discovery in zip(ends, asked, strict=True)]
    (a, b), (seen_a, seen_b) = ends, found
    began = net.now + abs(later)
    commands = [
        lambda: a.do(a.node.add_peer, "b", [seen_b or Address("203.0.113.2", 5002)], b.node.peer_id),
        lambda: b.do(b.node.add_peer, "a", [seen_a or Address("203.0.113.1", 5001)], a.node.peer_id),
    ]
    if later < 0:
        commands.reverse()
    commands[0]()
    net.run(abs(later))
    commands[1]()
    done = net.run_until(lambda: status(a, "b").established and status(b, "a").established, WITHIN)
    return Trial(net.now - began if done else None, status(a, "b").failure)


def verdict(first: str, second: str) -> tuple[str, list[Trial]]:
    """The letter of a pair, and its trials."""
    racing = RACING in (first, second)
    trials = [punch(first, second, later) for later in (LATER if racing else LATER[:1])]
    count = sum(trial.seconds is not None for trial in trials)
    return "-" if not count else "y" if count == len(trials) else "r", trials


def expected() -> dict[tuple[str, str], str]:
    """The table, read."""
    rows = [line.split() for line in TABLE.strip().splitlines()[1:]]
    assert [row[0] for row in rows] == list(KINDS)
    return {(row[0], kind): letter for row in rows for kind, letter in zip(KINDS, row[1:], strict=True)}


def pairs() -> Iterator[tuple[str, str]]:
    yield from itertools.combinations_with_replacement(KINDS, 2)


def test_the_table_says_the_same_of_both_ends() -> None:
    table = expected()
    assert all(table[first, second] == table[second, first] for first, second in pairs())


@pytest.mark.parametrize("first", KINDS)
def test_what_punching_can_do(first: str) -> None:
    """Exactly what the table says: what gets better has to be written down there."""
    table = expected()
    for one, second in pairs():
        if one != first:
            continue
        letter, trials = verdict(first, second)
        assert letter == table[first, second], (first, second, trials)


# --- all combinations of RFC 4787

MAPPINGS, FILTERINGS, PORTS = ("EIM", "ADM", "APDM"), ("EIF", "ADF", "APDF"), ("preserve", "sequential", "random")


def gets_through(mine: tuple[str, str], other: tuple[str, str]) -> bool:
    """Whether my first datagram, to the address a server saw of the other, gets in, and its answer gets back.

    A dependent mapping lets in at the address the server saw only whom anybody's may be; at the one that the peer is
    sent to from, nobody knows the port before the first datagram came.
    """
    (my_mapping, my_filtering), (mapping, filtering) = mine, other
    there = filtering == "EIF" or (mapping == "EIM" and (filtering == "ADF" or my_mapping == "EIM"))
    back = my_filtering in ("EIF", "ADF") or mapping == "EIM"
    return there and back


def test_all_combinations_of_mapping_and_filtering() -> None:
    """The rule above says what must come out, whichever way ports are given."""
    behaviours = list(itertools.product(MAPPINGS, FILTERINGS))
    for number, (one, two) in enumerate(itertools.combinations_with_replacement(behaviours, 2)):
        net = SimNet(number, link=LINK)
        for side, (mapping, filtering), outer in (("a", one, "203.0.113.1"), ("b", two, "203.0.113.2")):
            nat = Nat(mapping=mapping, filtering=filtering, ports=PORTS[number % 3])  # type: ignore[arg-type]
            net.add_nat("nat " + side, outer, nat)
        a = make_node(net, "a", "192.168.1.2", behind="nat a")
        b = make_node(net, "b", "192.168.2.2", behind="nat b")
        assert meet(net, a, b) is (gets_through(one, two) or gets_through(two, one)), (one, two, PORTS[number % 3])


def meet(net: SimNet, a: SimNode, b: SimNode, within: float = WITHIN) -> bool:
    """Both punch at the address that a server saw, at once; whether they connect."""
    if "server" not in net.hosts:
        net.add_host("server", SERVER.host)
    seen_a, seen_b = net.mapped(a, SERVER), net.mapped(b, SERVER)
    a.do(a.node.add_peer, "b", [seen_b], b.node.peer_id)
    b.do(b.node.add_peer, "a", [seen_a], a.node.peer_id)
    return net.run_until(lambda: status(a, "b").established and status(b, "a").established, within)


# --- carriers, hairpin, exhaustion


@pytest.mark.parametrize("hairpin", [True, False])
@pytest.mark.parametrize("carrier", [True, False])
def test_neighbours_by_their_public_addresses_need_hairpin(carrier: bool, hairpin: bool) -> None:
    """Two in one home, or two homes of one carrier: the address seen from outside leads back in, or it does not."""
    net = SimNet(1, link=LINK)
    net.add_nat("shared", "203.0.113.1", Nat(hairpin=hairpin, ports="random"))
    behind = ["shared", "shared"]
    if carrier:
        behind = ["home a", "home b"]
        for number, home in enumerate(behind, 2):
            net.add_nat(home, f"100.64.0.{number}", Nat(), behind="shared")
    a = make_node(net, "a", "192.168.1.2", behind=behind[0])
    b = make_node(net, "b", "192.168.1.3", behind=behind[1])
    assert meet(net, a, b) is hairpin


def carrier(net: SimNet, name: str, outer: str, **changes: Any) -> None:
    net.add_nat(name, outer, Nat.profile("carrier", **changes))


def test_a_carrier_that_forgets_in_the_middle_of_a_conversation() -> None:
    """The mapping ends however much it is used; who has an address of its own follows at once."""
    net = SimNet(1, link=LINK)
    carrier(net, "carrier", "203.0.113.1", expiry=40.0)
    a = make_node(net, "a", "100.64.0.9", behind="carrier")
    b = make_node(net, "b", "198.51.100.7")
    assert meet(net, a, b)
    places = set()
    for _ in range(20):
        transfer(net, a, b, net.random.randbytes(5_000))
        places.add(status(b, "a").address)
        net.run(10)
    assert len(places) >= 4
    assert EventKind.LOST not in kinds(a) + kinds(b)
    assert status(a, "b").observed == status(b, "a").address


def test_two_carriers_that_forget_part_for_good() -> None:
    """As things are: neither knows the other's next address, and nobody tells them. Not even within minutes."""
    net = SimNet(1, link=LINK)
    for side, outer in (("a", "203.0.113.1"), ("b", "203.0.113.2")):
        carrier(net, "carrier " + side, outer, expiry=40.0)
    a = make_node(net, "a", "100.64.0.9", behind="carrier a")
    b = make_node(net, "b", "100.64.0.9", behind="carrier b")
    assert meet(net, a, b)
    net.run(35)
    assert status(a, "b").established
    net.run(60)
    assert EventKind.LOST in kinds(a)
    net.run(200)
    assert not status(a, "b").established


def test_no_port_left_for_a_while() -> None:
    """A NAT whose ports are all taken: no exception, no answer, and a connection once one is free."""
    net = SimNet(1, link=LINK)
    carrier(net, "carrier", "203.0.113.1", mapping="APDM", pool=1, lifetime=60.0)
    a = make_node(net, "a", "100.64.0.9", behind="carrier")
    b = make_node(net, "b", "198.51.100.7")
    assert not meet(net, a, b, within=55)
    assert net.counts["nat_exhausted"] > 5
    assert "no answer yet" in str(status(a, "b").failure)
    assert net.run_until(lambda: status(a, "b").established, 30)
    transfer(net, a, b, b"at last")


def main() -> None:
    found = {pair: verdict(*pair) for pair in pairs()}
    found |= {(second, first): result for (first, second), result in found.items()}
    print(" " * 17 + " ".join(f"{kind[:5]:5}" for kind in KINDS))
    for first in KINDS:
        print(f"{first:16} " + " ".join(f"{found[first, second][0]:5}" for second in KINDS))
    times = sorted(t.seconds for _, trials in found.values() for t in trials if t.seconds is not None)
    print(f"connected after: median {times[len(times) // 2]:.3f} s, longest {times[-1]:.3f} s")


if __name__ == "__main__":
    main()
