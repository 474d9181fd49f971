"""Real Linux NATs: some pairs of the matrix, what is said of each NAT, hairpin, and that nothing is left behind.

The whole matrix, with repeats: ``python -m tests.nat.matrix``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from srmudp.models import Address, NatBehaviour
from tests.namespaces import NAMED, sweep, why_not
from tests.nat.lab import NAME, STUN, NatLab, discover
from tests.nat.matrix import trial
from tests.peers.test_nat_matrix import expected

pytestmark = [pytest.mark.netns, pytest.mark.timeout(60)]

ROOT = Path(__file__).resolve().parent.parent.parent
NOT_TESTED = "punching through real NATs is NOT tested in this run"
PAIRS = [
    *(("firewall", "port-restricted"), ("linux", "cgnat-pr"), ("full-cone", "symmetric"), ("open", "cgnat-sym")),
    *(("restricted", "symmetric-seq"), ("linux", "symmetric"), ("linux", "tcp-only")),
]
HOPELESS = 0.7
"""Seconds for pairs that are not expected to connect: those that do take a tenth of it."""


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


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_what_punching_can_do(lab: NatLab, first: str, second: str) -> None:
    """As in the simulator: see the table there."""
    lab.set_kind("a", first)
    lab.set_kind("b", second)
    connects = expected()[first, second] == "y"
    done = trial(lab, within=3.0 if connects else HOPELESS)
    assert (done.seconds is not None) is connects, done


@pytest.mark.parametrize("hairpin", [True, False])
def test_two_in_one_home_by_their_public_addresses(lab: NatLab, hairpin: bool) -> None:
    lab.set_kind("a", "hairpin" if hairpin else "linux")
    done = trial(lab, ("a", "a2"), within=3.0 if hairpin else HOPELESS)
    assert (done.seconds is not None) is hairpin, done


@pytest.mark.parametrize(
    ("kind", "host", "mapping", "translated"),
    [
        ("open", "198.51.1.2", NatBehaviour.ENDPOINT_INDEPENDENT, False),
        ("linux", "198.18.1.2", NatBehaviour.ENDPOINT_INDEPENDENT, True),
        ("cgnat-pr", "203.0.1.2", NatBehaviour.ENDPOINT_INDEPENDENT, True),
        ("symmetric", "198.18.1.2", NatBehaviour.ADDRESS_AND_PORT_DEPENDENT, True),
        ("symmetric-seq", "198.18.1.2", NatBehaviour.ADDRESS_AND_PORT_DEPENDENT, True),
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_matrix_leaves_nothing_behind(lab: NatLab, number: signal.Signals) -> None:
    """Not at once if it was killed: then with the next one."""
    command = [sys.executable, "-m", "tests.nat.matrix", "--kinds", "symmetric", "--repeats", "100"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=dict(os.environ)
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "the lab stands\n"
        theirs = list(NAMED.glob(f"{NAME}{process.pid}-*"))
        assert len(theirs) == 9
        process.send_signal(number)
        assert process.wait(20) == (-9 if number is signal.SIGKILL else 130)
    if number is signal.SIGKILL:
        sweep(NAME)
    deadline = time.monotonic() + 5
    while [path for path in theirs if path.exists()]:
        assert time.monotonic() < deadline, theirs
        time.sleep(0.01)
