"""Real Linux NATs: some pairs of the matrix, what is said of each NAT, and that nothing is left behind.

The whole matrix, with repeats: ``python -m tests.nat.matrix``; which way is taken: ``python -m tests.nat.ways``.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from srmudp.models import Address, NatBehaviour
from tests.namespaces import NAMED, why_not
from tests.nat import ways
from tests.nat.lab import NAME, STUN, NatLab, discover
from tests.nat.matrix import case, trial
from tests.nat.reasons import ask, is_right

pytestmark = [pytest.mark.netns, pytest.mark.timeout(60)]

ROOT = Path(__file__).resolve().parent.parent.parent
NOT_TESTED = "punching through real NATs is NOT tested in this run"
PAIRS = (
    *("firewall,port-restricted", "open,cgnat-sym", "restricted,symmetric-adm", "linux,linux-open"),
    *("linux,symmetric-seq", "symmetric,linux-open", "forwarded,symmetric", "double,cgnat-pr"),
    *("lan", "lan-isolated-hairpin", "carrier-hairpin", "ipv6"),
)
"""Pairs that connect, at most 20 of them: one of each letter and what has none in the table. Half a second each, and
some more where they meet by chance."""
HOPELESS = ("symmetric,symmetric-adm", "lan-isolated", "lan-isolated-symmetric-hairpin", "carrier")
HOPELESS_WITHIN = 1.0
"""Seconds for those: twice what pairs that connect take."""


@pytest.fixture(scope="module")
def lab() -> Iterator[NatLab]:
    """The networks, built once for all tests here."""
    if reason := why_not():
        pytest.skip(f"{reason}: {NOT_TESTED}")
    with NatLab() as made:
        try:
            made.build()
        except OSError as error:
            pytest.skip(f"{error}: {NOT_TESTED}")
        yield made


@pytest.mark.parametrize("name", PAIRS)
def test_what_punching_connects(lab: NatLab, name: str) -> None:
    one = case(name)
    one.prepare(lab)
    done = trial(lab, one.where, one.within, one.servers)
    assert done.seconds is not None, done


def test_attack_54_two_routers_that_take_strangers_packets_for_their_own(lab: NatLab) -> None:
    """Attack 54: neither end would let in the other's port if that was moved. The first datagrams of each die on their
    way, so that its own router knows the flow before anything of the other's gets there."""
    one = case("linux-open,linux-open")
    one.prepare(lab)
    done = trial(lab, one.where, one.within, one.servers)
    assert done.seconds is not None, done


def test_two_homes_meet_by_invites(lab: NatLab) -> None:
    """One text is not enough where both routers are strict; two are. As programs: ``python -m tests.nat.invites``."""
    lab.set_kind("a", "linux")
    lab.set_kind("b", "linux")
    one, two = lab.ports()
    with lab.socket("a", one) as alice, lab.socket("b", two) as bob:
        assert discover(lab, "a", alice)
        assert discover(lab, "b", bob)
        bob.add_peer("alice", lab.inside("a", alice.invite))
        assert not bob.wait_connected("alice", 0.7)
        alice.add_peer("bob", lab.inside("b", lambda: bob.invite(name="alice")))
        assert bob.wait_connected("alice", 3.0)
        assert alice.wait_connected("bob", 3.0)
        assert alice.connections_status["bob"].pinned
        for sock in (alice, bob):
            sock.close(0)


@pytest.mark.parametrize("name", HOPELESS)
def test_what_nothing_connects(lab: NatLab, name: str) -> None:
    """Else the lab lets through what it should not, and the pairs above prove nothing."""
    one = case(name)
    assert one.letter == "R"
    one.prepare(lab)
    done = trial(lab, one.where, HOPELESS_WITHIN, one.servers)
    assert done.seconds is None, done


@pytest.mark.parametrize(("one", "two"), [("symmetric", "symmetric-adm"), ("linux", "tcp-only")])
def test_both_ends_say_why_and_soon(lab: NatLab, one: str, two: str) -> None:
    """All pairs: ``python -m tests.nat.reasons``."""
    said = ask(lab, one, two)
    assert is_right(one, two, said), said


@pytest.mark.parametrize(
    "name", ["home, hairpin, all known", "home, no hairpin, all known", "two homes, IPv6, IPv4 known"]
)
def test_which_way_they_come_to_use(lab: NatLab, name: str) -> None:
    """The LAN that they share, with or without hairpin, and IPv6, whatever they began on."""
    one = ways.CASES[name]
    done = ways.run(lab, one)
    assert done.is_as_it_should(one), done


@pytest.mark.parametrize(
    ("kind", "host", "mapping", "translated"),
    [
        ("open", "198.51.1.2", NatBehaviour.ENDPOINT_INDEPENDENT, False),
        ("linux", "203.1.1.2", NatBehaviour.ENDPOINT_INDEPENDENT, True),
        ("cgnat-pr", "203.0.1.2", NatBehaviour.ENDPOINT_INDEPENDENT, True),
        ("symmetric", "203.1.1.2", NatBehaviour.ADDRESS_AND_PORT_DEPENDENT, True),
        ("symmetric-adm", "203.1.1.2", NatBehaviour.ADDRESS_AND_PORT_DEPENDENT, True),
        ("symmetric-seq", "203.1.1.2", NatBehaviour.ADDRESS_AND_PORT_DEPENDENT, True),
    ],
)
def test_what_discovery_says_of_each(
    lab: NatLab, kind: str, host: str, mapping: NatBehaviour, translated: bool
) -> None:
    lab.set_kind("a", kind)
    with lab.socket("a", lab.ports()[0]) as sock:
        found = discover(lab, "a", sock)
        assert found is not None
        assert (found.address.host, found.mapping, found.translated) == (host, mapping, translated)
        assert {str(server) for server in found.answers} == set(STUN)
        confirmed = [seen.address for seen in sock.addresses if seen.confirmed]
        kept = mapping is NatBehaviour.ENDPOINT_INDEPENDENT
        # Two addresses of one machine are two networks here: an IPv4 address is one.
        assert confirmed == ([Address(host, found.address.port)] if kept else [])
        sock.close(0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_matrix_leaves_nothing_behind(lab: NatLab, number: signal.Signals) -> None:
    """Not at once if it was killed: then with the next run."""
    command = [sys.executable, "-m", "tests.nat.matrix", "--pairs"]
    long = [*command, "symmetric,symmetric", "--repeats", "100"]
    with subprocess.Popen(long, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "the lab stands\n"
        theirs = list(NAMED.glob(f"{NAME}{process.pid}-*"))
        assert len(theirs) == 9
        process.send_signal(number)
        assert process.wait(20) == (-9 if number is signal.SIGKILL else 130)
    if number is signal.SIGKILL:
        done = subprocess.run([*command, "open,open", "--json"], cwd=ROOT, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        (pair,) = json.loads(done.stdout)["pairs"]
        assert (pair["pair"], pair["expected"], pair["passed"], pair["connected"]) == ("open,open", "S", True, 1)
    deadline = time.monotonic() + 5
    while [path for path in theirs if path.exists()]:
        assert time.monotonic() < deadline, theirs
        time.sleep(0.01)
