"""Whether pairs that cannot connect say why, rightly and soon, on real Linux NATs: ``python -m tests.nat.reasons``.

::

    python -m tests.nat.reasons                       # every pair of kinds that nothing connects
    python -m tests.nat.reasons --pairs symmetric,symmetric linux,tcp-only
    python -m tests.nat.reasons --doctor              # what srmudp doctor says behind each kind

Needs root, ``ip`` and ``nft``, as ``tests.nat.matrix`` does. Both ends ask two STUN servers and tell each other their
address, their PeerId and what is known of their NAT, as an invite does. Prints what each end says and when, and exits
with 1 if one says the wrong thing or takes longer than 3 s.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from srmudp import MultiHolepunchSocket, Peer
from srmudp.cli.examination import Options, examine
from srmudp.nat.diagnosis import Diagnosis, Verdict, diagnose
from srmudp.nat.explanation import Cause
from tests.namespaces import why_not
from tests.nat.facts import FAIL_WITHIN, KINDS, LETTERS
from tests.nat.lab import STUN, NatLab, discover

BLOCKED: Final = "tcp-only"
HARD: Final = frozenset({"symmetric-adm", "symmetric-seq", "symmetric", "linux-random", "cgnat-sym"})
HARD_ROUTER: Final = HARD | {"forwarded"}
"""A forwarded port does not change what the router does with all others."""
HOPELESS: Final = [two for two in itertools.combinations_with_replacement(KINDS, 2) if LETTERS[two] == "R"]


class Said(NamedTuple):
    """What one end says of why it is not connected.

    Attributes:
        seconds: until it did; None if it did not in time.
    """

    cause: Cause
    seconds: float | None
    text: str


def expected(mine: str, theirs: str) -> Cause:
    """What the end behind ``mine`` has to say. Who hears nothing knows nothing of a network without UDP there."""
    if mine == BLOCKED:
        return Cause.UDP_BLOCKED
    if theirs == BLOCKED:
        return Cause.HARD_HERE if mine in HARD_ROUTER else Cause.SILENCE
    assert mine in HARD
    assert theirs in HARD
    return Cause.BOTH_HARD


def ask(lab: NatLab, one: str, two: str, within: float = FAIL_WITHIN) -> tuple[Said, Said]:
    """Have two ends try, and hear what both say."""
    lab.set_kind("a", one)
    lab.set_kind("b", two)
    socks: list[MultiHolepunchSocket] = []
    try:
        for host, port in zip("ab", lab.ports(), strict=True):
            socks.append(lab.socket(host, port))
        found = [discover(lab, host, sock) for host, sock in zip("ab", socks, strict=True)]
        told = [
            Peer(lab.told(host, sock.port, seen), sock.peer_id, nat=None if seen is None else seen.traits)
            for host, sock, seen in zip("ab", socks, found, strict=True)
        ]
        a, b = socks
        began = time.monotonic()
        a.add_peer("other", told[1])
        b.add_peer("other", told[0])
        first = _listen(socks, began, within)
        causes = [sock.explain("other") for sock in socks]
        said = [Said(why.cause, seconds, why.summary) for why, seconds in zip(causes, first, strict=True)]
        return said[0], said[1]
    finally:
        for sock in socks:
            sock.close(0)


def _listen(socks: Sequence[MultiHolepunchSocket], began: float, within: float) -> list[float | None]:
    """When each had something to say first."""
    first: list[float | None] = [None] * len(socks)
    while None in first and (now := time.monotonic() - began) < within:
        for number, sock in enumerate(socks):
            if first[number] is None and sock.connections_status["other"].failure:
                first[number] = now
        time.sleep(0.02)
    return first


def is_right(one: str, two: str, said: tuple[Said, Said]) -> bool:
    """Whether both ends said the right thing in time."""
    wanted = expected(one, two), expected(two, one)
    return all(end.cause is cause and end.seconds is not None for end, cause in zip(said, wanted, strict=True))


def verdict(kind: str) -> Verdict:
    """What the doctor has to say behind such a router."""
    return Verdict.BLOCKED if kind == BLOCKED else Verdict.HARD if kind in HARD_ROUTER else Verdict.EASY


def visit(lab: NatLab, kind: str) -> Diagnosis:
    """Have the doctor come to host a."""
    lab.set_kind("a", kind)
    return lab.inside("a", lambda: diagnose(examine(Options(STUN, timeout=1.0), lambda text: None)))


def _doctor(lab: NatLab) -> int:
    wrong = 0
    for kind in KINDS:
        diagnosis = visit(lab, kind)
        right = diagnosis.verdict is verdict(kind)
        wrong += not right
        found = diagnosis.findings
        more = f"mtu {dict(found.mtu)}, hairpin {found.hairpin}, seen at {', '.join(map(str, found.public.values()))}"
        print(f"{'PASS' if right else 'FAIL'} {kind:16} {diagnosis.verdict.value}, {more}", flush=True)
    return wrong


def _pair(text: str) -> tuple[str, str]:
    one, _, two = text.partition(",")
    if LETTERS.get((one, two)) != "R":
        raise argparse.ArgumentTypeError(f"{text!r} is no pair of kinds that nothing connects")
    return one, two


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Whether pairs of NATs that cannot connect say why, and when.")
    parser.add_argument("--pairs", nargs="+", type=_pair, default=HOPELESS, metavar="A,B", help="these only")
    parser.add_argument("--doctor", action="store_true", help="see what srmudp doctor says behind each kind instead")
    options = parser.parse_args(arguments)
    if reason := why_not():
        print(f"not possible here: {reason}", file=sys.stderr)
        return 2
    wrong, times = 0, []
    with NatLab() as lab:
        lab.build()
        if options.doctor:
            return int(_doctor(lab) > 0)
        for one, two in options.pairs:
            said = ask(lab, one, two)
            right = is_right(one, two, said)
            wrong += not right
            times += [end.seconds for end in said if end.seconds is not None]
            ends = "; ".join(
                f"{end.cause.value} after {'-' if end.seconds is None else f'{end.seconds:.2f} s'}" for end in said
            )
            print(f"{'PASS' if right else 'FAIL'} {one + ',' + two:34} {ends}", flush=True)
            if not right:
                print("".join(f"     {end.text}\n" for end in said), end="")
    print(f"{len(options.pairs) - wrong} of {len(options.pairs)} say the right thing; longest {max(times):.2f} s")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
