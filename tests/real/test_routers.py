"""A port mapped on a real Linux router by the real protocols: who could not meet meets, and nothing stays open."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from srmudp import MultiHolepunchSocket, Peer, PortMappingFailed
from srmudp.cli.examination import Options, examine
from srmudp.models import Address
from srmudp.nat.diagnosis import diagnose
from srmudp.routers import keeper, upnp
from srmudp.routers.keeper import which_answer
from tests.namespaces import why_not
from tests.nat.lab import STUN, NatLab
from tests.routers.fakes import FakeIgd, FakeRouter, until

pytestmark = [pytest.mark.netns, pytest.mark.timeout(60)]

NOT_TESTED = "mapping a port on a real router is NOT tested in this run"
ROOT = Path(__file__).resolve().parent.parent.parent
INSIDE, OUTSIDE = "192.168.1.1", "203.1.1.2"
needs_library = pytest.mark.skipif(
    importlib.util.find_spec("miniupnpc") is None,
    reason="there is no miniupnpc (the extra upnp): UPnP by the real library is NOT tested in this run",
)

Start = Callable[..., Any]


@pytest.fixture(scope="module")
def lab() -> Iterator[NatLab]:
    if reason := why_not():
        pytest.skip(f"{reason}: {NOT_TESTED}")
    with NatLab() as made:
        try:
            made.build()
        except OSError as error:
            pytest.skip(f"{error}: {NOT_TESTED}")
        yield made


@pytest.fixture
def start(lab: NatLab) -> Iterator[Start]:
    """Have the router of a map ports, by a kind of made-up daemon that really changes its rules."""
    daemons: list[FakeRouter | FakeIgd] = []

    def begin(kind: type[FakeRouter] | type[FakeIgd], *address: Any, nat: str = "symmetric", **how: Any) -> Any:
        lab.set_kind("a", nat)
        lab.set_kind("b", "symmetric")
        how = {"outside": OUTSIDE, "on_map": lambda outside, inside: lab.map_port("a", outside, inside)} | how
        daemons.append(lab.inside("na", lambda: kind(INSIDE, *address, **how)))
        return daemons[-1]

    yield begin
    for daemon in daemons:
        daemon.close()


def meet(lab: NatLab, a: MultiHolepunchSocket, told: str) -> bool:
    """Whether one behind a symmetric NAT, who is told our address, connects to us behind ours."""
    b = lab.socket("b", lab.ports()[1])
    try:
        b.add_peer("a", Peer(told, a.peer_id))
        a.add_peer("b", Peer("203.1.2.2:9", b.peer_id))
        return b.wait_connected("a", 3.0) and a.wait_connected("b", 3.0)
    finally:
        b.close(0)


@pytest.mark.parametrize("speaks", ["pcp", "natpmp"])
def test_a_mapped_port_lets_in_whom_punching_does_not(lab: NatLab, start: Start, speaks: str) -> None:
    router = start(FakeRouter, 5351, speaks=speaks)
    with lab.socket("a", lab.ports()[0]) as a:
        mapped = lab.inside("a", a.map_port)
        assert (mapped.address, mapped.verified) == (Address(OUTSIDE, a.port), False)
        assert meet(lab, a, str(mapped))
        a.close(0)
    assert router.mappings == {}


def test_a_router_with_hairpin_proves_it(lab: NatLab, start: Start) -> None:
    start(FakeRouter, 5351, nat="hairpin")
    with lab.socket("a", lab.ports()[0]) as a:
        mapped = lab.inside("a", a.map_port)
        assert mapped.verified
        assert [seen.confirmed for seen in a.addresses] == [True]
        a.close(0)


def test_a_program_that_ends_without_closing_gives_it_back(lab: NatLab, start: Start) -> None:
    router = start(FakeRouter, 5351)
    program = "import srmudp\nsock = srmudp.MultiHolepunchSocket()\nprint(sock.map_port())\n"
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = lab.inside("a", lambda: subprocess.run(command, capture_output=True, text=True, timeout=20, cwd=ROOT))
    assert done.stdout.startswith(OUTSIDE), done.stderr
    assert len(router.requests) >= 4, "asked twice, mapped, given back"
    assert router.mappings == {}


def test_the_doctor_finds_it(lab: NatLab, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "WAYS", keeper.WAYS[:1])  # UPnP takes seconds where nobody speaks it
    router = start(FakeRouter, 5351)
    diagnosis = lab.inside("a", lambda: diagnose(examine(Options(STUN, timeout=1.0), lambda text: None)))
    assert diagnosis.findings.mappers == {"PCP": ""}
    assert router.mappings == {}
    assert any("sock.map_port()" in text for text in diagnosis.advice)


@needs_library
def test_upnp(lab: NatLab, start: Start) -> None:
    igd = start(FakeIgd)
    with lab.socket("a", lab.ports()[0]) as a:
        mapped = lab.inside("a", a.map_port)
        assert (mapped.address, mapped.protocol, mapped.router) == (Address(OUTSIDE, a.port), "UPnP", INSIDE)
        assert igd.mappings == {a.port: ("192.168.1.2", a.port, 1200)}
        assert meet(lab, a, str(mapped))
        found = lab.inside("a", which_answer)
        assert found.pop("UPnP") == ""
        assert "neither PCP nor NAT-PMP" in found.pop("PCP or NAT-PMP")
        a.close(0)
    until(lambda: igd.mappings == {})


@needs_library
def test_a_upnp_device_that_talks_without_end(lab: NatLab, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upnp, "_PATIENCE", 3.0)
    igd = start(FakeIgd, endless=True)
    with lab.socket("a", lab.ports()[0]) as a:
        with pytest.raises(PortMappingFailed, match="UPnP"):
            lab.inside("a", a.map_port)
        a.close(0)
    assert igd.mappings == {}
