"""Which pairs of real Linux NATs punching connects: ``python -m tests.nat.matrix [--kinds KIND ...] [--repeats 20]``.

Needs root, ``ip`` and ``nft``; makes its own network namespaces and removes them, also when it is interrupted. Both
ends ask two STUN servers from the socket that punches, tell each other the address with their PeerId, and begin at
once. Prints a table: y connects, - does not, 3/5 in so many trials. Exits with 1 if a pair differs from what
``tests/peers/test_nat_matrix.py`` writes down; pairs that are a race there may be anything.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from srmudp import MultiHolepunchSocket
from tests.namespaces import why_not
from tests.nat.lab import RULES, NatLab, discover
from tests.peers.test_nat_matrix import expected

KINDS = tuple(kind for kind in RULES if kind != "hairpin")
WITHIN = 3.0
"""Seconds a pair has."""


class Trial(NamedTuple):
    """One try: seconds until both ends are connected, or None, and what both ends say about it."""

    seconds: float | None
    remark: str


def trial(lab: NatLab, where: Sequence[str] = ("a", "b"), within: float = WITHIN) -> Trial:
    """Let two hosts meet as two people would who told each other their addresses."""
    socks: list[MultiHolepunchSocket] = []
    try:
        for host, port in zip(where, lab.ports(), strict=True):
            socks.append(lab.socket(host, port))
        found = [discover(lab, host, sock) for host, sock in zip(where, socks, strict=True)]
        a, b = socks
        # Who hears nothing of any server has at least an address to be tried.
        to_a, to_b = (
            f"203.0.{n}.2:{sock.port}" if seen is None else str(seen) for n, sock, seen in _each(socks, found)
        )
        began = time.monotonic()
        a.add_peer("b", f"{b.peer_id}@{to_b}")
        b.add_peer("a", f"{a.peer_id}@{to_a}")
        done = a.wait_connected("b", within) and b.wait_connected("a", max(0.0, began + within - time.monotonic()))
        took = time.monotonic() - began
        mappings = " and ".join("no answer" if seen is None else seen.mapping.value for seen in found)
        return Trial(took if done else None, f"{mappings}; {a.connections_status['b'].failure}")
    finally:
        for sock in socks:
            sock.close(0)


def _each(socks: Sequence[MultiHolepunchSocket], found: Sequence[Any]) -> list[tuple[int, MultiHolepunchSocket, Any]]:
    return [(n, sock, seen) for n, (sock, seen) in enumerate(zip(socks, found, strict=True), 1)]


def letter(trials: Sequence[Trial]) -> str:
    """What stands in the table."""
    good = sum(one.seconds is not None for one in trials)
    return "y" if good == len(trials) else "-" if not good else f"{good}/{len(trials)}"


def _end(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Which pairs of real Linux NATs punching connects.")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--repeats", type=int, default=1, help="trials of each pair (default: 1)")
    parser.add_argument("--within", type=float, default=WITHIN, help="seconds each has (default: %(default)g)")
    options = parser.parse_args(arguments)
    if reason := why_not():
        print(f"not possible here: {reason}", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    table, found = expected(), {}
    try:
        with NatLab() as lab:
            lab.build()
            print("the lab stands", flush=True)
            for one, two in itertools.combinations_with_replacement(options.kinds, 2):
                lab.set_kind("a", one)
                lab.set_kind("b", two)
                found[one, two] = [trial(lab, within=options.within) for _ in range(options.repeats)]
                print(f"{one}, {two}: {letter(found[one, two])}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print(" " * 16, *(f"{kind[:7]:7}" for kind in options.kinds))
    for one in options.kinds:
        cells = (letter(found.get((one, two)) or found[two, one]) for two in options.kinds)
        print(f"{one:16}", *(f"{cell:7}" for cell in cells))
    times = sorted(one.seconds for trials in found.values() for one in trials if one.seconds is not None)
    if times:
        middle, late = times[len(times) // 2], times[min(len(times) - 1, len(times) * 95 // 100)]
        print(f"connected after: median {middle:.3f} s, 95 % within {late:.3f} s, longest {times[-1]:.3f} s")
    odd = {pair: t for pair, t in found.items() if table[pair] != "r" and letter(t) != table[pair]}
    for (one, two), trials in odd.items():
        print(f"! {one}, {two}: {letter(trials)} where {table[one, two]} is written down: {trials[0].remark}")
    return 1 if odd else 0


if __name__ == "__main__":
    sys.exit(main())
