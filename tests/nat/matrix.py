"""Which pairs of real Linux NATs punching connects, and how fast: ``python -m tests.nat.matrix``.

::

    python -m tests.nat.matrix --repeats 20                       # everything, for an hour or two
    python -m tests.nat.matrix --kinds linux symmetric --repeats 5
    python -m tests.nat.matrix --letters S O T P --repeats 20     # what has to connect within 3 s
    python -m tests.nat.matrix --pairs linux,linux-open lan-isolated ipv6 --json

Needs root, ``ip`` and ``nft``; makes its own network namespaces and removes them, also when it is interrupted (the
next run removes those of one that was killed). Both ends ask two STUN servers from the socket that punches, tell each
other the address with their PeerId and what they know of their NAT, and begin at once. Beside pairs of homes there are
situations with a name: two hosts in one home, two homes of one carrier, IPv6. Prints a table with the letter that
``tests/nat/facts.py`` expects and what came out, a line for every pair, and exits with 1 if one of them falls short: S,
O, T and P have to connect within 3 s (95th percentile), RB within 30 s, and R has to say within 3 s that it cannot.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, NoReturn

from srmudp import MultiHolepunchSocket, Peer
from tests.namespaces import why_not
from tests.nat.facts import BIRTHDAY_WITHIN, EASY, FAIL_WITHIN, KINDS, LETTERS, WITHIN
from tests.nat.lab import STUN, STUN6, NatLab, discover

HOUSEMATES: Final = ("a", "a2")


class Trial(NamedTuple):
    """One try.

    Attributes:
        seconds: until both ends are connected, or None.
        mappings: what both ends know of their NATs.
        reason: what the first end says of why it is not connected, or None.
    """

    seconds: float | None
    mappings: str
    reason: str | None


def trial(
    lab: NatLab, where: Sequence[str] = ("a", "b"), within: float = WITHIN, servers: Sequence[str] = STUN
) -> Trial:
    """Let two hosts meet as two people would who told each other their addresses."""
    socks: list[MultiHolepunchSocket] = []
    try:
        for host, port in zip(where, lab.ports(), strict=True):
            socks.append(lab.socket(host, port))
        found = [discover(lab, host, sock, servers) for host, sock in zip(where, socks, strict=True)]
        a, b = socks
        to_a, to_b = (
            lab.told(host, sock.port, seen, inside=where == HOUSEMATES)
            for host, sock, seen in zip(where, socks, found, strict=True)
        )
        began = time.monotonic()
        nat_a, nat_b = (None if seen is None else seen.traits for seen in found)
        a.add_peer("b", Peer(to_b, b.peer_id, nat=nat_b))
        b.add_peer("a", Peer(to_a, a.peer_id, nat=nat_a))
        done = a.wait_connected("b", within) and b.wait_connected("a", max(0.0, began + within - time.monotonic()))
        took = time.monotonic() - began
        mappings = " and ".join("no answer" if seen is None else seen.mapping.value for seen in found)
        return Trial(took if done else None, mappings, a.connections_status["b"].failure)
    finally:
        for sock in socks:
            sock.close(0)


# --- what is tried


class Case(NamedTuple):
    """A pair, or a situation with a name."""

    name: str
    letter: str
    prepare: Callable[[NatLab], None]
    where: tuple[str, str] = ("a", "b")
    servers: Sequence[str] = STUN

    @property
    def within(self) -> float:
        """Seconds one trial has."""
        return BIRTHDAY_WITHIN if self.letter == "RB" else WITHIN if self.letter in EASY else FAIL_WITHIN


def pair(one: str, two: str) -> Case:
    """Two homes behind routers of these kinds."""

    def prepare(lab: NatLab) -> None:
        lab.set_kind("a", one)
        lab.set_kind("b", two)

    return Case(f"{one},{two}", LETTERS[one, two], prepare)


def _home(kind: str, *, isolated: bool) -> Callable[[NatLab], None]:
    def prepare(lab: NatLab) -> None:
        lab.set_kind("a", kind)
        lab.isolate("a", isolated)

    return prepare


def _carrier(kind: str) -> Callable[[NatLab], None]:
    def prepare(lab: NatLab) -> None:
        lab.set_kind("a", kind)
        lab.add_neighbour()

    return prepare


def _ipv6(one: str, two: str) -> Callable[[NatLab], None]:
    def prepare(lab: NatLab) -> None:
        for side, kind in (("a", one), ("b", two)):
            lab.set_kind(side, "symmetric")
            lab.set_ipv6(side, kind)

    return prepare


SITUATIONS: Final = {
    case.name: case
    for case in (
        Case("lan", "S", _home("linux", isolated=False), HOUSEMATES),
        Case("lan-isolated", "R", _home("linux", isolated=True), HOUSEMATES),
        Case("lan-isolated-hairpin", "S", _home("hairpin", isolated=True), HOUSEMATES),
        Case("lan-isolated-symmetric-hairpin", "R", _home("symmetric-hairpin", isolated=True), HOUSEMATES),
        Case("carrier", "R", _carrier("cgnat-pr"), ("a", "a3")),
        Case("carrier-hairpin", "S", _carrier("cgnat-hairpin"), ("a", "a3")),
        Case("ipv6", "S", _ipv6("firewall", "firewall"), servers=STUN6),
        Case("ipv6-open", "S", _ipv6("open", "firewall"), servers=STUN6),
    )
}
"""Two hosts of one home, on a network where all see each other or that keeps its guests apart, with a router that
sends back in what is sent to its outside, or does not; two homes of one carrier, likewise; IPv6 beside two NATs that
are hopeless."""


def case(name: str) -> Case:
    """``"linux,symmetric"`` or the name of a situation.

    Raises:
        argparse.ArgumentTypeError: there is no such thing.
    """
    one, comma, two = name.partition(",")
    if comma and (one, two) in LETTERS:
        return pair(one, two)
    if name in SITUATIONS:
        return SITUATIONS[name]
    raise argparse.ArgumentTypeError(
        f"{name!r}: give two of {', '.join(KINDS)} with a comma in between, or one of {', '.join(SITUATIONS)}"
    )


def chosen(pairs: Sequence[Case], kinds: Sequence[str], letters: Sequence[str]) -> list[Case]:
    """What is tried: these, and all pairs of these kinds; of everything, if none are given. With these letters only."""
    everything = not (pairs or kinds)
    cases = list(pairs)
    if kinds or everything:
        cases += [pair(*two) for two in itertools.combinations_with_replacement(kinds or KINDS, 2)]
    if everything:
        cases += SITUATIONS.values()
    return [one for one in cases if not letters or one.letter in letters]


# --- what comes out


class Result(NamedTuple):
    """All trials of one case."""

    case: Case
    trials: list[Trial]

    @property
    def connected(self) -> int:
        return sum(one.seconds is not None for one in self.trials)

    def quantile(self, share: float) -> float | None:
        """Seconds within which that share of all trials connected (nearest rank), or None if not so many did."""
        times = sorted(math.inf if one.seconds is None else one.seconds for one in self.trials)
        found = times[math.ceil(share * len(times)) - 1]
        return None if found == math.inf else found

    @property
    def passed(self) -> bool:
        """Whether it is as good as expected, or better."""
        late = self.quantile(0.95)
        if self.case.letter == "R":
            return all(one.seconds is not None or one.reason is not None for one in self.trials)
        return late is not None and late <= self.case.within

    def as_json(self) -> dict[str, Any]:
        return {
            "pair": self.case.name,
            "expected": self.case.letter,
            "passed": self.passed,
            "trials": len(self.trials),
            "connected": self.connected,
            "median": self.quantile(0.5),
            "p95": self.quantile(0.95),
            "mappings": self.trials[-1].mappings,
            "reason": self.trials[-1].reason,
        }

    def __str__(self) -> str:
        times = " ".join(
            f"{what} {'-' if seconds is None else f'{seconds:.3f} s'}"
            for what, seconds in (("median", self.quantile(0.5)), ("p95", self.quantile(0.95)))
        )
        verdict = "PASS" if self.passed else "FAIL"
        line = f"{verdict} {self.case.name:34} {self.case.letter:2} {self.connected}/{len(self.trials)} {times}"
        return line if self.connected == len(self.trials) else f"{line}  {self._why()}"

    def _why(self) -> str:
        return next(f"{one.mappings}; {one.reason}" for one in self.trials if one.seconds is None)


def table(results: Sequence[Result]) -> str:
    """Kind by kind: the letter expected, and + if it is fulfilled, - if not."""
    cells = {result.case.name: result.case.letter + ("+" if result.passed else "-") for result in results}
    kinds = [kind for kind in KINDS if any(kind in name.split(",") for name in cells)]
    lines = [" " * 16 + " ".join(f"{_short(kind):5}" for kind in kinds)]
    for one in kinds:
        row = (cells.get(f"{one},{two}") or cells.get(f"{two},{one}", "") for two in kinds)
        lines.append(f"{one:16}" + " ".join(f"{cell:5}" for cell in row))
    return "\n".join(line.rstrip() for line in lines)


def _short(kind: str) -> str:
    word, dash, rest = kind.partition("-")
    return f"{word[:2]}-{rest[:2]}" if dash else word[:5]


def summary(results: Sequence[Result]) -> str:
    """How long those took that connected, and how many are as they should be."""
    times = sorted(one.seconds for result in results for one in result.trials if one.seconds is not None)
    good = sum(result.passed for result in results)
    line = f"{good} of {len(results)} pairs as expected"
    if times:
        middle, late = (times[math.ceil(share * len(times)) - 1] for share in (0.5, 0.95))
        line += f"; connected after: median {middle:.3f} s, 95 % within {late:.3f} s, longest {times[-1]:.3f} s"
    return line


def _end(number: int, frame: object) -> NoReturn:
    for other in _SIGNALS:  # nothing disturbs the cleaning
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Which pairs of real Linux NATs punching connects, and how fast.")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, metavar="KIND", help="all pairs of " + ", ".join(KINDS))
    parser.add_argument(
        "--pairs", nargs="+", type=case, metavar="A,B", help=f"these pairs only, or of {', '.join(SITUATIONS)}"
    )
    parser.add_argument(
        "--letters", nargs="+", choices=sorted(set(LETTERS.values())), metavar="LETTER", help="only pairs expected so"
    )
    parser.add_argument("--repeats", type=int, default=1, help="trials of each pair (default: 1)")
    parser.add_argument("--within", type=float, help="seconds one trial has at most, whatever is expected")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args(arguments)
    if reason := why_not():
        print(f"not possible here: {reason}", file=sys.stderr)
        return 2
    cases = chosen(options.pairs or [], options.kinds or [], options.letters or [])
    for number in _SIGNALS:
        signal.signal(number, _end)
    results: list[Result] = []
    interrupted = False
    try:
        with NatLab() as lab:
            lab.build()
            print("the lab stands", file=sys.stderr, flush=True)
            for one in cases:
                one.prepare(lab)
                within = one.within if options.within is None else min(one.within, options.within)
                trials = [trial(lab, one.where, within, one.servers) for _ in range(max(1, options.repeats))]
                results.append(Result(one, trials))
                print(results[-1], file=sys.stderr if options.json else sys.stdout, flush=True)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        interrupted = True
    if options.json:
        print(json.dumps({"interrupted": interrupted, "pairs": [result.as_json() for result in results]}, indent=1))
    elif results:
        print(f"\n{table(results)}\n\n{summary(results)}")
    return 130 if interrupted else int(not all(result.passed for result in results))


if __name__ == "__main__":
    sys.exit(main())
