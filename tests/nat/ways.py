"""Which way two hosts come to use behind real routers: ``python -m tests.nat.ways [--repeats 3]``.

Needs root, ``ip`` and ``nft``. In one home, with and without hairpin, knowing each other's public address alone or all
candidates; in two homes with IPv6 as well. Prints how long it takes until both ends use the way that they should, and
whether a transfer under way is intact. In one case the LAN is then cut, and the public addresses have to do. Exits with
1 if anything does not end where it should within ``WITHIN`` seconds.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from srmudp import MultiHolepunchSocket, Peer
from tests.namespaces import why_not
from tests.nat.lab import PRIVATE, NatLab, discover

WITHIN: Final = 4.0
"""Seconds each has."""
SIZE: Final = 1 << 20
"""Bytes sent meanwhile."""


class Case(NamedTuple):
    """One situation.

    Attributes:
        kind: of the router, or of both.
        hosts: who wants to talk.
        all_known: they tell each other all their candidates, not their public IPv4 address alone.
        six: they have IPv6 behind firewalls.
        goal: how the address begins that both ends should use at last; empty if they cannot meet.
        cut: the network of the home then keeps its guests apart, and they should use addresses that begin so.
    """

    kind: str
    hosts: tuple[str, str]
    all_known: bool
    six: bool
    goal: str
    cut: str = ""


CASES: Final = {
    "home, hairpin, public known": Case("hairpin", ("a", "a2"), False, False, "192.168.1.", "203."),
    "home, hairpin, all known": Case("hairpin", ("a", "a2"), True, False, "192.168.1."),
    "home, no hairpin, all known": Case("linux", ("a", "a2"), True, False, "192.168.1."),
    "home, no hairpin, public known": Case("linux", ("a", "a2"), False, False, ""),
    "two homes, IPv6, IPv4 known": Case("linux", ("a", "b"), False, True, "2a00:"),
    "two homes, no IPv6, all known": Case("linux", ("a", "b"), True, False, "203."),
}


class Outcome(NamedTuple):
    """What became of one: seconds until connected, until both ends used the goal, and from the cut to the other way;
    None for never. Whether the data was intact, and what both ends say."""

    connected: float | None
    there: float | None
    after_cut: float | None
    intact: bool
    remark: str

    def is_as_it_should(self, case: Case) -> bool:
        if not case.goal:
            return self.connected is None
        return self.there is not None and self.intact and (not case.cut or self.after_cut is not None)


def run(lab: NatLab, case: Case, within: float = WITHIN) -> Outcome:
    """Let the two add each other and talk."""
    for side in {host[0] for host in case.hosts}:
        lab.set_kind(side, case.kind)
        if case.six:
            lab.set_ipv6(side, "firewall")
    socks: list[MultiHolepunchSocket] = []
    try:
        for host, port in zip(case.hosts, lab.ports(), strict=True):
            socks.append(lab.socket(host, port))
        known: list[list[str]] = []
        for host, sock in zip(case.hosts, socks, strict=True):
            public = discover(lab, host, sock)
            assert public is not None
            candidates = lab.inside(host, lambda sock=sock: [str(one.address) for one in sock.candidates])
            known.append([str(public), *candidates] if case.all_known else [str(public)])
        a, b = socks
        began = time.monotonic()
        a.add_peer("b", Peer(known[1], b.peer_id))
        b.add_peer("a", Peer(known[0], a.peer_id))
        content = bytes(range(256)) * (SIZE // 256)
        a.send(content, "b")
        if not (a.wait_connected("b", within) and b.wait_connected("a", within)):
            return Outcome(None, None, None, False, a.connections_status["b"].failure or "")
        connected = time.monotonic() - began
        there = _until_at(socks, case.goal, within)
        message = b.receive(within)
        after_cut = None
        if case.cut and there is not None:
            lab.isolate("a")
            a.send(b"over the other way", "b")
            after_cut = _until_at(socks, case.cut, 2 * within)
        intact = message is not None and message.content == content
        remark = "; ".join(str(status) for sock in socks for status in sock.connections_status.values())
        return Outcome(connected, None if there is None else connected + there, after_cut, intact, remark)
    finally:
        for sock in socks:
            sock.close(0)


def _until_at(socks: Sequence[MultiHolepunchSocket], goal: str, within: float) -> float | None:
    """Seconds until each has the other at an address that begins like this, or None."""
    began = time.monotonic()
    while time.monotonic() < began + within:
        where = [status.address for sock in socks for status in sock.connections_status.values()]
        if all(address is not None and address.host.startswith(goal) for address in where):
            return time.monotonic() - began
        time.sleep(0.005)
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Which way two hosts come to use behind real routers.")
    parser.add_argument("--repeats", type=int, default=3, help="trials of each case (default: %(default)d)")
    options = parser.parse_args(arguments)
    if reason := why_not():
        print(f"not possible here: {reason}", file=sys.stderr)
        return 2
    bad = 0
    with NatLab() as lab:
        lab.build()
        assert set(PRIVATE.values()) <= {"192.168.1.2", "192.168.1.3"}
        print(f"{'':31} {'right':>6} {'connected':>10} {'there':>7} {'after cut':>10}   (seconds, the longest)")
        for name, case in CASES.items():
            found = [run(lab, case, WITHIN if case.goal else 1.0) for _ in range(options.repeats)]
            good = sum(one.is_as_it_should(case) for one in found)
            bad += good < len(found)
            longest = [
                max((time for time in times if time is not None), default=None)
                for times in ([one[n] for one in found] for n in range(3))
            ]
            texts = ["-" if one is None else f"{one:.2f}" for one in longest]
            counts = f"{good}/{len(found)}"
            print(f"{name:31} {counts:>6} {texts[0]:>10} {texts[1]:>7} {texts[2]:>10}", flush=True)
            for one in found:
                if not one.is_as_it_should(case):
                    print(f"! {one}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
