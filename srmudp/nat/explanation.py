"""Why a peer is not connected: from what was sent and heard, what both NATs are and what the peer said, to a reason.

:func:`judge` is asked while a socket knocks, and by ``sock.explain(name)``, so that the short reason in a peer's status
and events and the long one are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

from ..models import Address, PeerState
from .diagnosis import Chance, NatKind, chance


class Cause(StrEnum):
    """What it comes down to."""

    CONNECTED = "connected"
    JUST_BEGUN = "just begun"
    SILENCE = "silence"
    """Knocked, and nothing came back at all."""
    UDP_BLOCKED = "udp blocked"
    """Nobody's datagrams get in here, or ours do not get out."""
    PEER_BLOCKED = "udp blocked there"
    """It told so."""
    BOTH_HARD = "both hard"
    """Both NATs give every destination another port."""
    HARD_PAIR = "hard with exact"
    """One does, and the other lets in exact addresses only."""
    HARD_HERE = "hard here"
    """Ours does; of the other one nothing is known."""
    NO_ADDRESS = "no address"
    NAME = "name"
    """The host name leads nowhere."""
    NO_WAY = "no way"
    """The system knows no way there."""
    SEND_REFUSED = "send refused"
    """The system does not let us send."""
    OWN_ADDRESS = "own address"
    OWN_IDENTITY = "own identity"
    OTHER_KEY = "other key"
    """Another key than the pinned or known one answers."""
    REFUSED = "refused"
    """It does not want us."""
    REMOVED = "removed"
    """It removed us."""
    STRANGER = "stranger"
    """It knocks, and we do not know that it is it."""
    ONE_WAY = "one way"
    """It knocks, and does not hear our answers, or does not want them."""
    UNFINISHED = "unfinished"
    """It answered, and then no more."""
    VERSION = "version"
    """It speaks another version."""
    NOT_SRMUDP = "not srmudp"
    """Something else answers there."""
    BAD_ANSWER = "bad answer"
    """What answers proves no key."""
    ENDED = "ended"
    """Its program ended."""
    FELL_SILENT = "fell silent"
    """It was connected, and then nothing came any more."""
    NETWORK_HERE = "network here"
    """Everybody fell silent."""
    BROKE = "broke"
    """The connection was ended for another reason, which is told."""


class Heard(StrEnum):
    """What came from an address while no session stood."""

    PUNCH = "knocks"
    UNKNOWN_PUNCH = "knocks that told us nothing we know"
    """Not answered: neither our PeerId in it, nor an address it was expected at."""
    BAD_PUNCH = "knocks with an impossible key"
    ANSWER = "answers"
    BAD_ANSWER = "answers that prove no key"
    REFUSED_ANSWER = "answers with a key we refuse"
    COOKIE = "demands to prove our address"
    SHARED_KEY = "last steps of a handshake"
    BAD_SHARED_KEY = "last steps that prove no key"
    VERSION = "datagrams of another version"
    GIBBERISH = "datagrams that are not srmudp's"
    ECHO = "our own knocks"
    WAY = "answers that prove the way"
    """Of a connected peer: to the challenges that are sent to all its addresses, whichever is used."""


class Tried(NamedTuple):
    """An address at which a peer was tried, or that knocked as if it were the peer.

    Attributes:
        address: where.
        origin: how we know it: ``"given"``, ``"looked up"``, ``"last seen there"``, ``"knocked from there"``, ...
        sent: datagrams that went there while connecting.
        last_sent: seconds ago, or None.
        heard: what came from there meanwhile and how often.
        last_heard: seconds ago, or None.
        obstacle: why nothing can be sent there from here; empty if it can.
    """

    address: Address
    origin: str
    sent: int = 0
    last_sent: float | None = None
    heard: Mapping[str, int] = {}
    last_heard: float | None = None
    obstacle: str = ""

    def __str__(self) -> str:
        sent = f"knocked {self.sent}x, last {self.last_sent:.1f} s ago" if self.last_sent is not None else "not knocked"
        heard = ", ".join(f"{count}x {what}" for what, count in self.heard.items()) or "nothing"
        when = "" if self.last_heard is None else f", last {self.last_heard:.1f} s ago"
        obstacle = f"; {self.obstacle}" if self.obstacle else ""
        return f"{self.address} ({self.origin}): {sent}; heard {heard}{when}{obstacle}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of one peer and of us.

    Attributes:
        state: of the peer.
        failure: what it or we said when it ended or was refused, in words; what :func:`judge` said does not count.
        waited: seconds since connecting or reconnecting began.
        tried: addresses.
        knocks: addresses that nobody was added at, from which somebody knocks.
        ours, theirs: the NATs, as far as known.
        blocked: servers were asked, none answered, and nobody was heard since.
        pinned: whether its key is known.
        others_lost: how many others fell silent within the same time; 0 if anybody is connected.
        send_errors: errno names to counts.
        path: of a connected peer, in words.
    """

    state: PeerState
    failure: str = ""
    waited: float = 0.0
    tried: Sequence[Tried] = ()
    knocks: Sequence[Tried] = ()
    ours: NatKind = NatKind.UNKNOWN
    theirs: NatKind = NatKind.UNKNOWN
    blocked: bool = False
    pinned: bool = False
    others_lost: int = 0
    send_errors: Mapping[str, int] = field(default_factory=dict)
    path: str = ""


class Judgement(NamedTuple):
    """A cause, the same in a sentence, and what to do about it."""

    cause: Cause
    text: str
    advice: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation(Mapping[str, Any]):
    """Why a peer is connected or not. ``str()`` is for people; as a mapping it holds what JSON has.

    Attributes:
        name: ours for it.
        state: where the connection stands.
        cause: the likely reason, in a word.
        summary: the same in a sentence; also in ``connections_status[name].failure``.
        advice: what to change, the likeliest first.
        tried: every address it was tried at, with what went there and came back.
        knocks: addresses that nobody was added at, from which somebody knocks.
        our_nat, peer_nat: of which kind, as far as known.
        waited: seconds since connecting or reconnecting began, or since the connection stands.
        send_errors: what the system said to our sending: errno name to count, for all peers together.

    Example::

        print(sock.explain("bob"))
        json.dumps(dict(sock.explain("bob")))
    """

    name: str
    state: PeerState
    cause: Cause
    summary: str
    advice: tuple[str, ...] = ()
    tried: tuple[Tried, ...] = ()
    knocks: tuple[Tried, ...] = ()
    our_nat: NatKind = NatKind.UNKNOWN
    peer_nat: NatKind = NatKind.UNKNOWN
    waited: float = 0.0
    send_errors: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, evidence: Evidence) -> Explanation:
        """What the evidence says."""
        judgement = judge(evidence)
        return cls(
            name,
            evidence.state,
            judgement.cause,
            judgement.text,
            judgement.advice,
            tuple(evidence.tried),
            tuple(evidence.knocks),
            evidence.ours,
            evidence.theirs,
            evidence.waited,
            dict(evidence.send_errors),
        )

    def lines(self) -> list[str]:
        """For people: the reason, what to do, what was tried."""
        state = "" if self.cause is Cause.CONNECTED else f"{self.state.value} for {self.waited:.1f} s: "
        found = [f"{self.name}: {state}{self.summary}"]
        found += [f"  do: {text}" for text in self.advice]
        found += [f"  at {one}" for one in self.tried]
        found += [f"  unknown: {one}" for one in self.knocks]
        if {self.our_nat, self.peer_nat} != {NatKind.UNKNOWN}:
            found.append(f"  NAT: ours {self.our_nat.value}, the other's {self.peer_nat.value}")
        if self.send_errors:
            errors = ", ".join(f"{name} {count}x" for name, count in self.send_errors.items())
            found.append(f"  refused by this machine: {errors}")
        return found

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def as_dict(self) -> dict[str, Any]:
        """All of it, only what JSON has."""
        return {
            "name": self.name,
            "state": self.state.value,
            "cause": self.cause.value,
            "summary": self.summary,
            "advice": list(self.advice),
            "tried": [_as_dict(one) for one in self.tried],
            "knocks": [_as_dict(one) for one in self.knocks],
            "our_nat": self.our_nat.value,
            "peer_nat": self.peer_nat.value,
            "waited": round(self.waited, 3),
            "send_errors": dict(self.send_errors),
        }

    def __getitem__(self, key: str) -> Any:
        return self.as_dict()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.as_dict())

    def __len__(self) -> int:
        return len(self.as_dict())


def _as_dict(one: Tried) -> dict[str, Any]:
    return one._asdict() | {"address": str(one.address), "heard": dict(one.heard)}


# --- the reason

FIRST_SECONDS: Final = 2.0
"""Seconds of silence that mean nothing yet."""

NO_ANSWER: Final = "no answer yet: is the other program running, and has it added us?"
REFLECTED: Final = "our own punch came back: is the address our own?"

_SAID: Final = (
    ("the name ", Cause.NAME, ("Check the spelling of the host name, and whether there is a network.",)),
    ("our own punch", Cause.OWN_ADDRESS, ("Give the other one's address: the one you gave is this program's own.",)),
    ("the address answers with our own", Cause.OWN_IDENTITY, ("Give every program an identity file of its own.",)),
    (
        "another key",
        Cause.OTHER_KEY,
        ("Ask the other one by another way whether their key changed; then trust() the new PeerId.",),
    ),
    ("it refused", Cause.REFUSED, ("Give them your PeerId: they have to add or accept it.",)),
    (
        "it removed us",
        Cause.REMOVED,
        ("If they add you again, the connection comes back by itself.",),
    ),
    ("its program ended", Cause.ENDED, ("Have them start it again: this socket keeps knocking.",)),
    ("nothing heard for", Cause.FELL_SILENT, ()),
    ("slept for", Cause.FELL_SILENT, ()),
    ("our NAT gives each connection", Cause.HARD_PAIR, ("Let the program open more files: ulimit -n 1024.",)),
    ("the program there speaks", Cause.VERSION, ("Add it with the wire= that it speaks.",)),
    ("no answer yet", Cause.SILENCE, ("Is the other program running, and at the address that you gave?",)),
)
"""What a failure in words begins with, the cause and what to do."""


def judge(evidence: Evidence) -> Judgement:
    """The likely cause, the surest signs first."""
    if evidence.state is PeerState.CONNECTED:
        return Judgement(Cause.CONNECTED, f"connected{evidence.path}")
    said = _said(evidence)
    if said is not None and said.cause not in (Cause.FELL_SILENT, Cause.BROKE):
        return said
    if not evidence.tried:
        text = "there is no address to knock at, only a PeerId: waiting for it to knock here"
        return Judgement(Cause.NO_ADDRESS, text, ("Give an address as well, or an invite.",))
    found = _heard(evidence) or _unheard(evidence)
    if said is None:
        return found
    if found.cause in (Cause.SILENCE, Cause.JUST_BEGUN):
        return said if said.cause is Cause.BROKE else _fell_silent(evidence, said.text)
    return found._replace(text=f"{said.text}; since then: {found.text}")


def _said(evidence: Evidence) -> Judgement | None:
    """What was said when it ended."""
    if not evidence.failure:
        return None
    for beginning, cause, advice in _SAID:
        if evidence.failure.startswith(beginning):
            return Judgement(cause, evidence.failure, advice)
    return Judgement(Cause.BROKE, evidence.failure)


def _fell_silent(evidence: Evidence, text: str) -> Judgement:
    if evidence.blocked or evidence.others_lost:
        text += "; nobody else is heard either: the network at this end"
        advice = ("Look at your own network first: cable, wireless, VPN. It connects again by itself.",)
        return Judgement(Cause.NETWORK_HERE, text, advice)
    advice = ("It connects again by itself once the network between you, or the other program, is back.",)
    return Judgement(Cause.FELL_SILENT, text, advice)


def _heard(evidence: Evidence) -> Judgement | None:
    """Something came, but no valid handshake."""
    heard: dict[str, int] = {}
    for one in evidence.tried:
        for what, count in one.heard.items():
            heard[what] = heard.get(what, 0) + count
    knocks = [one for one in (*evidence.tried, *evidence.knocks) if one.heard.get(Heard.UNKNOWN_PUNCH)]
    if evidence.waited < FIRST_SECONDS and Heard.VERSION not in heard:
        return None
    if Heard.VERSION in heard:
        advice = ("Install the same version of srmudp at both ends; for the old packages there is wire=.",)
        return Judgement(Cause.VERSION, "it speaks another version of srmudp", advice)
    if Heard.ANSWER in heard:
        text = "it answered our knock and then fell silent: it may just have ended, or not hear us"
        return Judgement(Cause.UNFINISHED, text, ("Have them look at what their program says of you.",))
    if Heard.BAD_ANSWER in heard:
        text = "what answers there proves no key: damaged on the way, or forged"
        return Judgement(Cause.BAD_ANSWER, text, ("Try another network: something in between changes datagrams.",))
    if Heard.PUNCH in heard or Heard.SHARED_KEY in heard:
        text = "it knocks here, but takes no answer of ours: they are lost, or it expects another PeerId than ours"
        compare = "Compare the PeerId that the other one added with yours."
        look = "Have the other one look at its firewall, and at the address it gave you."
        return Judgement(Cause.ONE_WAY, text, (compare, look))
    if knocks and not evidence.pinned:
        text = f"somebody knocks from {knocks[0].address}, where nobody was added: it may be the peer"
        advice = ("Pin each other's PeerId ('PEERID@HOST:PORT'): then it is recognised wherever it comes from.",)
        return Judgement(Cause.STRANGER, text, advice)
    if Heard.GIBBERISH in heard:
        text = "something answers there, but it is not srmudp of this version"
        advice = ("Is it the right port? If an old srudp or srmudp 0.0.4 runs there, say so with wire=.",)
        return Judgement(Cause.NOT_SRMUDP, text, advice)
    return None


def _unheard(evidence: Evidence) -> Judgement:
    """Nothing came, or nothing that tells anything."""
    if evidence.blocked:
        text = "UDP is blocked here: no server that was asked answered, and nobody else is heard"
        advice = ("Try another network or a VPN; 'srmudp doctor' says more.",)
        return Judgement(Cause.UDP_BLOCKED, text, advice)
    if all(one.obstacle for one in evidence.tried):
        text = f"nothing can be sent to {evidence.tried[0].address}: {evidence.tried[0].obstacle}"
        return Judgement(
            Cause.NO_WAY, text, ("Is there a network? Has the other one an address of a family you have?",)
        )
    refused = sorted(set(evidence.send_errors) & {"EPERM", "EACCES"})
    if refused:
        text = f"this machine refuses to send ({', '.join(refused)}): a firewall here"
        return Judgement(Cause.SEND_REFUSED, text, ("Allow outgoing UDP in the firewall of this machine.",))
    ours, theirs = evidence.ours, evidence.theirs
    if theirs is NatKind.BLOCKED:
        text = "UDP is blocked at the other end, as it told"
        return Judgement(Cause.PEER_BLOCKED, text, ("They need another network or a VPN.",))
    best = "IPv6 at both ends, a forwarded port at either, or another network for one of you helps."
    odds = chance(ours, theirs)
    if odds is Chance.NO:
        text = "both ends are behind hard NATs, which take another port for every destination: neither finds the other"
        return Judgement(Cause.BOTH_HARD, text, (best,))
    if evidence.waited < FIRST_SECONDS:
        return Judgement(Cause.JUST_BEGUN, "it has just begun", ())
    if odds is Chance.SOMETIMES:
        whose = ("this", "the other") if ours is NatKind.HARD else ("the other", "this")
        text = (
            f"no answer yet: the NAT at {whose[0]} end is hard, and that at {whose[1]} end lets in exact addresses "
            "only, so a port has to be guessed"
        )
        return Judgement(Cause.HARD_PAIR, text, (best,))
    if ours is NatKind.HARD and theirs is NatKind.UNKNOWN:
        text = f"{NO_ANSWER} The NAT at this end is hard: it takes an open one at the other"
        return Judgement(Cause.HARD_HERE, text, ("Have them run it too and add you with your PeerId.", best))
    return Judgement(
        Cause.SILENCE,
        NO_ANSWER,
        (
            "Have them start it, and add you at the address that you are seen at now.",
            "Is the address right, and of now? Behind a router it is what discover() says.",
            "'srmudp doctor', at both ends, says what the networks do.",
        ),
    )
