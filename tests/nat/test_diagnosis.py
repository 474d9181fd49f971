"""What an examination means, situation by situation: the whole report is in ``golden/doctor-*.txt``.

``python -m tests.nat.test_diagnosis`` writes those files anew; read what changed before it is committed.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from srmudp.models import Address, NatBehaviour
from srmudp.nat.diagnosis import Chance, Findings, Lifetime, NatKind, Verdict, chance, diagnose, kind_of
from tests.peers.test_nat_matrix import expected

GOLDEN = Path(__file__).parent / "golden"
ONE, TWO = "stun.example:3478", "stun.example.net:3478"
EIM, ADM, APDM, UNKNOWN = (
    *(NatBehaviour.ENDPOINT_INDEPENDENT, NatBehaviour.ADDRESS_DEPENDENT),
    *(NatBehaviour.ADDRESS_AND_PORT_DEPENDENT, NatBehaviour.UNKNOWN),
)
HOME = {4: "192.168.1.20"}
OUTSIDE = {4: Address("203.0.113.5", 54321)}
SILENCE = "it did not answer in time"
UNLOOKED = "the name cannot be looked up ([Errno -3] Temporary failure in name resolution)"
SEEN = {"asked": (ONE, TWO), "answered": ("198.51.100.1:3478", "198.51.100.2:3478"), "own": HOME, "public": OUTSIDE}

SITUATIONS: dict[str, tuple[Verdict, int, Findings]] = {
    "udp-blocked": (
        *(Verdict.BLOCKED, 1),
        Findings(asked=(ONE, TWO), own=HOME, failures={ONE: SILENCE, TWO: SILENCE}, tcp=True),
    ),
    "nothing-gets-out": (Verdict.BLOCKED, 1, Findings(asked=(ONE,), own=HOME, failures={ONE: SILENCE}, tcp=False)),
    "own-firewall": (
        *(Verdict.BLOCKED, 1),
        Findings(asked=(ONE,), own=HOME, failures={ONE: SILENCE}, tcp=True, send_errors={"EPERM": 5}),
    ),
    "full-cone": (
        *(Verdict.OPEN, 0),
        Findings(**SEEN, mapping=EIM, filtering=EIM, translated=True, mtu={4: 1472}, hairpin=True),
    ),
    "restricted": (Verdict.EASY, 0, Findings(**SEEN, mapping=EIM, filtering=ADM, translated=True, mtu={4: 1472})),
    "port-restricted": (
        *(Verdict.EASY, 0),
        Findings(
            **SEEN,
            mapping=EIM,
            filtering=APDM,
            translated=True,
            mtu={4: 1464},
            mtu_refused={4: 1472},
            hairpin=False,
            lifetime=Lifetime(60.0, 120.0, True),
            firewalls=("ufw", "nft"),
        ),
    ),
    "firewall": (Verdict.EASY, 0, Findings(**SEEN, mapping=EIM, translated=False, mtu={4: 1472})),
    "symmetric": (
        *(Verdict.HARD, 3),
        Findings(
            **{**SEEN, "failures": {TWO: SILENCE}},
            mapping=APDM,
            translated=True,
            mtu={4: 1412},
            mtu_refused={4: 1432},
            lifetime=Lifetime(0.0, 15.0, True),
            mappers={"NAT-PMP": "no answer", "PCP": "no answer", "UPnP": "no answer"},
        ),
    ),
    "no-network": (Verdict.NO_NETWORK, 1, Findings(asked=(ONE, TWO), failures={ONE: UNLOOKED, TWO: UNLOOKED})),
    "ipv6-only": (
        *(Verdict.IPV6_ONLY, 3),
        Findings(
            asked=(ONE, TWO),
            answered=("[2001:db8::1]:3478",),
            failures={TWO: "there is no way to it from here (no route, or none of its address family)"},
            own={6: "2001:db8:5::20"},
            public={6: Address("2001:db8:5::20", 54321)},
            mapping=EIM,
            translated=False,
            mtu={6: 1452},
        ),
    ),
    "one-server": (Verdict.UNKNOWN, 3, Findings(**{**SEEN, "asked": (ONE,)}, translated=True, mtu={4: 1472})),
    "nobody-asked": (
        *(Verdict.LOCAL, 0),
        Findings(own={4: "192.168.1.20", 6: "2001:db8:5::20"}, platform="win32", clock_jump=-3600.0),
    ),
    "broken-machine": (Verdict.LOCAL, 1, Findings(own=HOME, broken="nothing arrives", wall=86_400.0)),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_what_is_said(situation: str) -> None:
    verdict, status, findings = SITUATIONS[situation]
    diagnosis = diagnose(findings)
    assert (diagnosis.verdict, diagnosis.status) == (verdict, status)
    assert [line.rstrip() for line in diagnosis.lines()] == golden(situation).read_text("utf-8").splitlines()
    assert max(map(len, diagnosis.lines())) <= 79
    told = json.loads(json.dumps(diagnosis.as_dict()))
    assert (told["verdict"], told["status"]) == (verdict.value, status)


def test_every_verdict_has_a_situation() -> None:
    assert {verdict for verdict, _, _ in SITUATIONS.values()} == set(Verdict)
    assert {path.name for path in GOLDEN.glob("doctor-*.txt")} == {golden(name).name for name in SITUATIONS}


KINDS = {
    "restricted": NatKind.KNOWN,
    "tcp-only": NatKind.BLOCKED,
    **dict.fromkeys(("open", "full-cone"), NatKind.OPEN),
    **dict.fromkeys(("firewall", "port-restricted", "linux", "cgnat-pr"), NatKind.EXACT),
    **dict.fromkeys(("symmetric-seq", "symmetric", "linux-random", "cgnat-sym"), NatKind.HARD),
}


def test_the_chances_are_those_of_the_matrix() -> None:
    """What the doctor promises is what punching does between those NATs."""
    table = expected()
    for one, two in itertools.product(KINDS, KINDS):
        said = chance(KINDS[one], KINDS[two])
        if table[one, two] == "y":
            assert said in (Chance.YES, Chance.SOMETIMES), (one, two)
        else:
            assert said in (Chance.NO, Chance.SOMETIMES), (one, two)


@pytest.mark.parametrize(
    ("mapping", "filtering", "kind"),
    [
        (EIM, EIM, NatKind.OPEN),
        (EIM, ADM, NatKind.KNOWN),
        (EIM, APDM, NatKind.EXACT),
        (EIM, UNKNOWN, NatKind.EXACT),
        (ADM, EIM, NatKind.HARD),
        (APDM, APDM, NatKind.HARD),
        (UNKNOWN, EIM, NatKind.UNKNOWN),
    ],
)
def test_kinds(mapping: NatBehaviour, filtering: NatBehaviour, kind: NatKind) -> None:
    assert kind_of(mapping, filtering) is kind


def golden(situation: str) -> Path:
    return GOLDEN / f"doctor-{situation}.txt"


def main() -> None:
    for situation, (_, _, findings) in SITUATIONS.items():
        golden(situation).write_text("\n".join(line.rstrip() for line in diagnose(findings).lines()) + "\n", "utf-8")


if __name__ == "__main__":
    main()
