"""In a network namespace made for the test: ICMP that says nobody is there, while somebody is."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.real import programs

pytestmark = pytest.mark.netns

Run = Callable[..., None]


def why_not() -> str:
    """Why network namespaces cannot be used here; empty if they can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "network namespaces need root: attack 7 is NOT tested in this run"
    for tool in ("ip", "nft"):
        if shutil.which(tool) is None:
            return f"there is no {tool}: attack 7 is NOT tested in this run"
    return ""


@pytest.fixture
def namespace() -> Iterator[str]:
    """The name of a new network namespace with nothing in it but its loopback."""
    if reason := why_not():
        pytest.skip(reason)
    name = f"srmudp-test-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, timeout=10)
    if made.returncode:
        pytest.skip(f"no network namespace ({made.stderr.strip()}): attack 7 is NOT tested in this run")
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True, timeout=10)
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True, timeout=10)


@pytest.mark.parametrize("rejecting", [False, True], ids=["spoofed", "spoofed and rejected"])
def test_attack_7_unreachable(namespace: str, rejecting: bool) -> None:
    """Attack 7 (and 53): port, host and fragmentation-needed messages while data flows: it goes on, nobody is lost.

    In the second case the system itself refuses every 20th call of a sender and every 33rd arrival. Counted, not by
    chance: a batch is one packet here, and of so few none might be refused.
    """
    within = ["ip", "netns", "exec", namespace]
    if rejecting:
        rules = """
            table inet t {
                chain i { type filter hook input priority 0; meta l4proto udp numgen inc mod 33 == 10 reject; }
                chain o { type filter hook output priority 0; meta l4proto udp numgen inc mod 20 == 10 reject; }
            }
        """
        subprocess.run([*within, "nft", "-f", "-"], input=rules, text=True, check=True, timeout=10)
    *rounds, result, drops = programs.finish(programs.start("icmp", int(rejecting), within=within), 45)
    assert rounds == [True] * 5
    assert result["spoofed"] > 300
    assert result["events"] == ["connected"]
    assert result["mtu"] >= 1200
    for counted in drops["drops"]:
        assert "internal_error" not in counted
    if rejecting:
        assert any(key.startswith("transport_") for counted in drops["drops"] for key in counted), drops
