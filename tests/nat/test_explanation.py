"""What an explanation says to people and to programs, and the reasons that only the system knows."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from srmudp.models import Address, PeerState
from srmudp.nat.diagnosis import NatKind
from srmudp.nat.explanation import Cause, Evidence, Explanation, Heard, Tried, judge

HOME, ROUTER = Address("192.0.2.7", 8000), Address("192.0.2.7", 40_123)
SILENT = Evidence(
    state=PeerState.CONNECTING,
    waited=12.34,
    tried=[
        Tried(HOME, "given", 20, 0.4),
        Tried(ROUTER, "knocked from there", heard={Heard.UNKNOWN_PUNCH.value: 3}, last_heard=1.25),
    ],
    knocks=[Tried(Address("198.51.100.9", 1), "nobody was added there", heard={Heard.UNKNOWN_PUNCH.value: 1})],
    ours=NatKind.EXACT,
    theirs=NatKind.HARD,
    pinned=True,
    send_errors={"ENOBUFS": 2},
)
TEXT = """\
bob: connecting for 12.3 s: no answer yet: the NAT at the other end is hard, and that at this end lets in exact \
addresses only, so a port has to be guessed
  do: IPv6 at both ends, a forwarded port at either, or another network for one of you helps.
  at 192.0.2.7:8000 (given): knocked 20x, last 0.4 s ago; heard nothing
  at 192.0.2.7:40123 (knocked from there): not knocked; heard 3x knocks that told us nothing we know, last 1.2 s ago
  unknown: 198.51.100.9:1 (nobody was added there): not knocked; heard 1x knocks that told us nothing we know
  NAT: ours easy, the other's hard
  refused by this machine: ENOBUFS 2x"""


def test_the_text_is_for_people() -> None:
    assert str(Explanation.of("bob", SILENT)) == TEXT


def test_the_mapping_is_for_programs() -> None:
    explanation = Explanation.of("bob", SILENT)
    told = json.loads(json.dumps(dict(explanation)))
    assert told == explanation.as_dict()
    assert len(explanation) == len(told)
    assert (told["cause"], told["our_nat"], told["peer_nat"]) == ("hard with exact", "easy", "hard")
    assert told["tried"][0] == {
        "address": "192.0.2.7:8000",
        "origin": "given",
        "sent": 20,
        "last_sent": 0.4,
        "heard": {},
        "last_heard": None,
        "obstacle": "",
    }


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"tried": [Tried(HOME, "given", obstacle="no route")]}, Cause.NO_WAY),
        ({"tried": [Tried(HOME, "given", obstacle="no route"), Tried(ROUTER, "given")]}, Cause.SILENCE),
        ({"send_errors": {"EPERM": 9}}, Cause.SEND_REFUSED),
        ({"theirs": NatKind.BLOCKED}, Cause.PEER_BLOCKED),
        ({"blocked": True}, Cause.UDP_BLOCKED),
        ({"failure": "it broke the protocol: x"}, Cause.BROKE),
        ({"failure": "the keys of the session are worn out"}, Cause.BROKE),
        ({"failure": "no answer yet: is it running, and does it speak srudp?"}, Cause.SILENCE),
        ({"failure": "nothing heard for 21 s", "ours": NatKind.HARD, "theirs": NatKind.HARD}, Cause.BOTH_HARD),
        ({"failure": "the keys of the session are worn out", "blocked": True}, Cause.UDP_BLOCKED),
        ({"failure": "the program there speaks srudp, not srmudp-0.0.4"}, Cause.VERSION),
        ({"failure": "slept for 99 s", "others_lost": 2}, Cause.NETWORK_HERE),
        ({"waited": 0.1}, Cause.JUST_BEGUN),
    ],
)
def test_reasons_that_others_bring(changes: dict[str, object], cause: Cause) -> None:
    evidence = replace(SILENT, **{"tried": SILENT.tried[:1], "knocks": (), "theirs": NatKind.UNKNOWN} | changes)
    judgement = judge(evidence)
    assert judgement.cause is cause
    assert str(changes.get("failure", "")) in judgement.text
    assert len(judgement.text) < 200
