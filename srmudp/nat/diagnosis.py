"""What an examination of the network means: findings in; a verdict, what was checked in words, and advice out.

The NAT of one end is of one of a few kinds here, each with what it means for connecting (RFC 4787 in brackets):

    OPEN     whoever sends gets in                            (no NAT, or endpoint-independent filtering)
    KNOWN    one outside address; hosts we sent to get in     (address-dependent filtering)
    EXACT    one outside address; exact addresses get in      (address-and-port-dependent filtering, or not known)
    HARD     another outside address for every destination    (address- or address-and-port-dependent mapping)
    BLOCKED  no UDP
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any, Final, NamedTuple

from ..models import Address, NatBehaviour
from .behaviour import is_local
from .stun import UNANSWERED

FULL_ETHERNET: Final = {4: 1472, 6: 1452}
"""UDP payload that fills the usual packet of 1,500 bytes, by IP version."""
SAFE_LIFE: Final = 30.0
"""Seconds that a mapping should live: srmudp is never silent for longer than half of it."""
JUMP: Final = 1.0
"""Seconds by which the wall clock may differ from the monotonic one during an examination."""
SENSIBLE_WALL: Final = 1_700_000_000.0
"""No clock that is right says less."""


class NatKind(Enum):
    """See the head of this module. The value is said to people."""

    OPEN = "open"
    KNOWN = "easy, lets in known hosts"
    EXACT = "easy"
    HARD = "hard"
    BLOCKED = "UDP blocked"
    UNKNOWN = "not known"


class Chance(Enum):
    """Whether two ends connect without anybody in between."""

    YES = "yes"
    SOMETIMES = "sometimes"
    NO = "no"
    UNKNOWN = "not known"


def kind_of(mapping: NatBehaviour, filtering: NatBehaviour = NatBehaviour.UNKNOWN) -> NatKind:
    """The kind of a NAT. Of unknown filtering the worse, which is the usual, is assumed."""
    if mapping is NatBehaviour.UNKNOWN:
        return NatKind.UNKNOWN
    if mapping is not NatBehaviour.ENDPOINT_INDEPENDENT:
        return NatKind.HARD
    if filtering is NatBehaviour.ENDPOINT_INDEPENDENT:
        return NatKind.OPEN
    return NatKind.KNOWN if filtering is NatBehaviour.ADDRESS_DEPENDENT else NatKind.EXACT


def chance(one: NatKind, other: NatKind) -> Chance:
    """What knocking from both sides comes to."""
    pair = {one, other}
    if NatKind.BLOCKED in pair:
        return Chance.NO
    if NatKind.OPEN in pair:
        return Chance.YES
    if NatKind.UNKNOWN in pair:
        return Chance.UNKNOWN
    if NatKind.HARD not in pair:
        return Chance.YES
    if NatKind.KNOWN in pair:
        return Chance.YES
    return Chance.NO if one is other else Chance.SOMETIMES


class Verdict(StrEnum):
    """The examination in a word."""

    OPEN = "open"
    EASY = "easy"
    HARD = "hard"
    IPV6_ONLY = "ipv6-only"
    UNKNOWN = "unknown"
    BLOCKED = "udp-blocked"
    NO_NETWORK = "no-network"
    LOCAL = "local"
    """Nobody was asked."""


class Lifetime(NamedTuple):
    """What is known of how long a mapping lives without a packet, in seconds.

    Attributes:
        at_least: it was still there after so long.
        at_most: it was not there any more after so long; None if it always was.
        certain: False if a new mapping would look like the old one.
    """

    at_least: float
    at_most: float | None
    certain: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What was found. By IP version: 4 and 6.

    Attributes:
        asked: whom we asked; empty if nobody.
        own: our own addresses towards the world, by version.
        broken: why two sockets on this machine do not talk to each other; empty if they do.
        public: where the world sees us.
        mapping, filtering, translated: as in ``PublicAddress``.
        answered: servers that answered.
        failures: server to why it did not.
        send_errors: what the system said to our sending: errno name to count.
        tcp: whether a server could be reached by TCP; None if that was not tried.
        mtu: bytes of UDP payload that got through to a server, by version.
        mtu_refused: the least that did not.
        hairpin: whether two sockets here reach each other by their outside addresses; None if not tried.
        lifetime: of a mapping; None if not examined.
        mappers: protocol for mapping ports to what came of asking for it; None if not examined.
        clock_jump: seconds that the wall clock went wrong meanwhile.
        wall: what it says.
        platform: as ``sys.platform``.
        firewalls: tools that rule over a firewall here and are installed.
    """

    asked: tuple[str, ...] = ()
    own: Mapping[int, str] = field(default_factory=dict)
    broken: str = ""
    public: Mapping[int, Address] = field(default_factory=dict)
    mapping: NatBehaviour = NatBehaviour.UNKNOWN
    filtering: NatBehaviour = NatBehaviour.UNKNOWN
    translated: bool | None = None
    answered: tuple[str, ...] = ()
    failures: Mapping[str, str] = field(default_factory=dict)
    send_errors: Mapping[str, int] = field(default_factory=dict)
    tcp: bool | None = None
    mtu: Mapping[int, int] = field(default_factory=dict)
    mtu_refused: Mapping[int, int] = field(default_factory=dict)
    hairpin: bool | None = None
    lifetime: Lifetime | None = None
    mappers: Mapping[str, str] | None = None
    clock_jump: float = 0.0
    wall: float = SENSIBLE_WALL
    platform: str = "linux"
    firewalls: tuple[str, ...] = ()


class Check(NamedTuple):
    """One thing that was looked at.

    Attributes:
        name: what.
        good: None if it is neither good nor bad, or not known.
        text: how it is.
    """

    name: str
    good: bool | None
    text: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the findings mean. ``lines()`` is for people, ``as_dict()`` for programs.

    Attributes:
        verdict: in a word.
        kind: of our NAT.
        summary: in a sentence.
        checks: one after the other.
        peers: kinds of peers to whether one connects with them from here, and how.
        advice: what to do.
        findings: what all this is concluded from.
    """

    verdict: Verdict
    kind: NatKind
    summary: str
    checks: tuple[Check, ...]
    peers: tuple[tuple[str, Chance, str], ...]
    advice: tuple[str, ...]
    findings: Findings

    @property
    def status(self) -> int:
        """The exit status: 0 most peers can be reached, 1 none, 3 some, or it cannot be told."""
        if self.findings.broken or self.verdict in (Verdict.BLOCKED, Verdict.NO_NETWORK):
            return 1
        return 0 if self.verdict in (Verdict.OPEN, Verdict.EASY, Verdict.LOCAL) else 3

    def lines(self, width: int = 79) -> list[str]:
        """The report: summary, checks, peers, advice."""
        found = [*_wrapped(self.summary, width), ""]
        room = max(len(check.name) for check in self.checks) + 4
        for check in self.checks:
            mark = {True: "+", False: "!", None: " "}[check.good]
            found += _wrapped(check.text, width, f"{mark} {check.name}".ljust(room), " " * room)
        if self.peers:
            found += ["", "You connect directly with people behind"]
            for who, answer, how in self.peers:
                text = f"{answer.value}{f', {how}' if how else ''}"
                found += _wrapped(text, width, f"  {who}".ljust(room + 14), " " * (room + 14))
        if self.advice:
            found += ["", "What to do"]
            for text in self.advice:
                found += _wrapped(text, width, "- ", "  ")
        return found

    def as_dict(self) -> dict[str, Any]:
        """The same for programs; only what JSON has."""
        findings = self.findings
        life = findings.lifetime
        return {
            "verdict": self.verdict.value,
            "status": self.status,
            "summary": self.summary,
            "asked": list(findings.asked),
            "answered": list(findings.answered),
            "failures": dict(findings.failures),
            "send_errors": dict(findings.send_errors),
            "own": _by_version(findings.own),
            "public": _by_version({version: str(address) for version, address in findings.public.items()}),
            "nat": {
                "kind": self.kind.value,
                "mapping": findings.mapping.value,
                "filtering": findings.filtering.value,
                "translated": findings.translated,
                "hairpin": findings.hairpin,
                "lifetime": None if life is None else life._asdict(),
            },
            "tcp": findings.tcp,
            "mtu": _by_version(findings.mtu),
            "port_mapping": None if findings.mappers is None else dict(findings.mappers),
            "clock_jump": round(findings.clock_jump, 3),
            "checks": [check._asdict() for check in self.checks],
            "peers": [{"behind": who, "connects": answer.value, "how": how} for who, answer, how in self.peers],
            "advice": list(self.advice),
        }


def diagnose(findings: Findings) -> Diagnosis:
    """What the findings mean."""
    verdict = _verdict(findings)
    kind = NatKind.BLOCKED if verdict is Verdict.BLOCKED else kind_of(findings.mapping, findings.filtering)
    if verdict is Verdict.OPEN:
        kind = NatKind.OPEN
    return Diagnosis(
        verdict,
        kind,
        _SUMMARIES[verdict],
        tuple(_checks(findings, verdict, kind)),
        tuple(_peers(verdict, kind)),
        tuple(_advice(findings, verdict)),
        findings,
    )


_SUMMARIES: Final = {
    Verdict.OPEN: "Open: everybody who can send UDP reaches you here directly.",
    Verdict.EASY: "Easy: most people connect directly with you, whatever home router they have.",
    Verdict.HARD: "Hard: your router takes another outside port for every destination. "
    "You connect directly with some people only.",
    Verdict.IPV6_ONLY: "IPv6 only: you connect directly with people who have IPv6, and with nobody else.",
    Verdict.UNKNOWN: "UDP gets out and back, but what your router does with ports cannot be told from these answers.",
    Verdict.BLOCKED: "UDP is blocked: nobody outside this network connects directly with you.",
    Verdict.NO_NETWORK: "No network: nobody outside this machine's own network can be reached.",
    Verdict.LOCAL: "Nobody was asked: this is what the machine itself tells.",
}


def _verdict(findings: Findings) -> Verdict:
    if not findings.asked:
        return Verdict.LOCAL if findings.own else Verdict.NO_NETWORK
    if findings.answered:
        if 4 not in findings.public and 6 in findings.public:
            return Verdict.IPV6_ONLY
        kind = kind_of(findings.mapping, findings.filtering)
        if kind is NatKind.UNKNOWN:
            return Verdict.UNKNOWN
        return {NatKind.OPEN: Verdict.OPEN, NatKind.HARD: Verdict.HARD}.get(kind, Verdict.EASY)
    refused = set(findings.send_errors) & {"EPERM", "EACCES"}
    sent = any(reason.startswith(UNANSWERED) for reason in findings.failures.values())
    if findings.own and (sent or refused):
        return Verdict.BLOCKED
    return Verdict.NO_NETWORK


def _checks(findings: Findings, verdict: Verdict, kind: NatKind) -> list[Check]:
    checks = [
        Check("this machine", False, f"two sockets on it do not talk to each other: {findings.broken}")
        if findings.broken
        else Check("this machine", True, "two sockets on it found each other and talked"),
        _network(findings),
    ]
    if findings.asked:
        checks.append(_udp(findings, verdict))
    if findings.answered:
        checks += [_nat(findings, kind), _address(findings), *_ipv6(findings), *_mtu(findings), *_hairpin(findings)]
        checks += _life(findings)
    if findings.mappers is not None:
        able = [name for name, answer in findings.mappers.items() if not answer]
        text = "; ".join(f"{name}: {answer or 'yes'}" for name, answer in findings.mappers.items())
        checks.append(Check("port mapping", True if able else None, text or "no protocol was tried"))
    checks.append(_clock(findings))
    return checks


def _network(findings: Findings) -> Check:
    parts = [f"IPv{version} {findings.own[version]}" for version in (4, 6) if version in findings.own]
    missing = [f"no IPv{version}" for version in (4, 6) if version not in findings.own]
    if not parts:
        return Check("network", False, "no way out, over IPv4 or IPv6: is there a cable, a wireless network?")
    return Check("network", True, ", ".join(parts + missing))


def _udp(findings: Findings, verdict: Verdict) -> Check:
    failures = "; ".join(f"{server}: {reason}" for server, reason in findings.failures.items())
    if findings.answered:
        count = f"{len(findings.answered)} of {len(findings.answered) + len(findings.failures)} answered"
        return Check("UDP", True, f"gets out and back; {count}{f' ({failures})' if failures else ''}")
    if refused := sorted(set(findings.send_errors) & {"EPERM", "EACCES"}):
        return Check("UDP", False, f"this machine itself refuses to send ({', '.join(refused)}): a firewall here")
    if verdict is Verdict.BLOCKED and findings.tcp:
        return Check("UDP", False, f"nothing comes back, while TCP gets through to the same servers. {failures}")
    if verdict is Verdict.BLOCKED and findings.tcp is False:
        text = "nothing comes back, nor over TCP: a firewall that lets out little, or no way into the internet at all"
        return Check("UDP", False, f"{text}. {failures}")
    if verdict is Verdict.BLOCKED:
        return Check("UDP", False, f"nothing comes back. {failures}")
    return Check("UDP", False, f"nobody could be asked. {failures}")


_FILTERING: Final = {
    NatBehaviour.ENDPOINT_INDEPENDENT: "whoever knows the address gets in (endpoint-independent filtering)",
    NatBehaviour.ADDRESS_DEPENDENT: "hosts you sent to get in (address-dependent filtering)",
    NatBehaviour.ADDRESS_AND_PORT_DEPENDENT: "only exact addresses you sent to get in "
    "(address-and-port-dependent filtering)",
    NatBehaviour.UNKNOWN: "whom it lets in, these servers cannot tell",
}


def _nat(findings: Findings, kind: NatKind) -> Check:
    filtering = _FILTERING[findings.filtering]
    if kind is NatKind.UNKNOWN:
        return Check("router", None, "it takes two servers on different machines to tell whether it is easy or hard")
    if kind is NatKind.HARD:
        text = f"hard: another outside port for every destination ({findings.mapping.value} mapping); {filtering}"
        return Check("router", False, text)
    if findings.translated is False:
        return Check("router", True, f"it does not change your address (no NAT); {filtering}")
    text = f"easy: one outside address for everybody ({findings.mapping.value} mapping); {filtering}"
    return Check("router", True, text)


def _address(findings: Findings) -> Check:
    addresses = [findings.public[version] for version in sorted(findings.public)]
    text = "you are seen at " + " and ".join(map(str, addresses))
    if addresses and is_local(addresses[0]):
        return Check("address", None, f"{text}, which is a private one: the server is in the same network as you")
    return Check("address", None, text)


def _ipv6(findings: Findings) -> list[Check]:
    if 6 in findings.public:
        same = findings.own.get(6) == findings.public[6].host
        how = "not translated" if same else "translated on its way"
        return [
            Check("IPv6", True, f"works, {how}. Routers let in whom you knock at: both ends knock, and it connects")
        ]
    if 6 in findings.own:
        return [Check("IPv6", None, "there is an address, but no server was reached over IPv6")]
    return []


def _mtu(findings: Findings) -> list[Check]:
    checks = []
    for version, size in sorted(findings.mtu.items()):
        refused = findings.mtu_refused.get(version)
        if size >= FULL_ETHERNET[version]:
            text = f"of {size} bytes get through over IPv{version}: as much as an Ethernet carries"
        elif refused is None:
            text = f"of {size} bytes get through over IPv{version}"
        else:
            text = (
                f"of {size} bytes get through over IPv{version}; {refused} did not "
                "(the way is narrow, or the server answers no larger ones)"
            )
        checks.append(Check("datagrams", True, text))
    return checks


def _hairpin(findings: Findings) -> list[Check]:
    if findings.hairpin is None:
        return []
    if findings.hairpin:
        text = "yes: two people behind this router reach each other by their outside addresses"
        return [Check("hairpin", True, text)]
    text = "no: two people behind this router need their private addresses, not those seen from outside"
    return [Check("hairpin", None, text)]


def _life(findings: Findings) -> list[Check]:
    life = findings.lifetime
    if life is None:
        return []
    if not life.certain:
        text = f"nothing changed within {life.at_least:g} s; a port forgotten and given again would look the same"
        return [Check("silence", None, text)]
    if life.at_most is None:
        return [Check("silence", True, f"a silent port is remembered for {life.at_least:g} s at least")]
    text = f"a silent port is forgotten after {life.at_least:g} to {life.at_most:g} s"
    return [Check("silence", life.at_least >= SAFE_LIFE / 2, text)]


def _clock(findings: Findings) -> Check:
    if findings.wall < SENSIBLE_WALL:
        return Check("clock", False, "this machine's clock is years behind: invites and timestamps will be wrong")
    if abs(findings.clock_jump) > JUMP:
        return Check(
            "clock", None, f"it was set, by {findings.clock_jump:+.1f} s, while this ran: no harm to connections"
        )
    return Check("clock", True, "it runs steadily (nobody else's was asked)")


_PEERS: Final = (
    ("an open or forwarded port", NatKind.OPEN),
    ("the usual home router", NatKind.EXACT),
    ("a hard (symmetric) NAT", NatKind.HARD),
    ("a network without UDP", NatKind.BLOCKED),
)


def _peers(verdict: Verdict, kind: NatKind) -> list[tuple[str, Chance, str]]:
    if verdict in (Verdict.LOCAL, Verdict.NO_NETWORK, Verdict.BLOCKED):
        return []
    found = []
    for who, theirs in _PEERS:
        answer, how = chance(kind, theirs), ""
        if theirs is not NatKind.BLOCKED:
            if verdict is Verdict.IPV6_ONLY:
                answer, how = Chance.SOMETIMES, "if they have IPv6"
            elif answer is Chance.SOMETIMES:
                how = "within half a minute: ports are guessed, if each knows the other's NAT (an invite tells)"
            elif answer is Chance.YES and NatKind.HARD in (kind, theirs):
                how = "if both added each other with PeerId"
        found.append((who, answer, how))
    return found


def _advice(findings: Findings, verdict: Verdict) -> list[str]:
    advice = []
    if findings.broken:
        advice.append("Mend this machine first: a local firewall must let UDP through on the loopback interface.")
    if verdict is Verdict.BLOCKED:
        if set(findings.send_errors) & {"EPERM", "EACCES"}:
            advice.append("Allow outgoing UDP in the firewall of this machine.")
        else:
            advice.append(
                "Try another network (a telephone's hotspot), a VPN that carries UDP, or ask whoever runs this one to "
                "let UDP out. Within this network, private addresses work."
            )
    elif verdict is Verdict.NO_NETWORK:
        advice.append("Connect to a network. Host names that cannot be looked up mean the same, or a broken DNS.")
    elif verdict is Verdict.HARD:
        advice.append(
            "Best: IPv6 at both ends, a forwarded port at either, or another network (a wired or home one instead of "
            "a company's or a mobile one). If the router has a setting for 'full cone' or 'gaming' NAT, that helps."
        )
        advice.append(
            "Add your peers with their PeerId and have them add you with yours: your port cannot be foreseen."
        )
    elif verdict is Verdict.UNKNOWN:
        advice.append("Name a second server on another machine: --server ONE --server TWO.")
    elif verdict in (Verdict.EASY, Verdict.OPEN):
        advice.append(
            "Tell your peer the address that the very program sees (sock.discover(), /public in the chat), and begin "
            "at about the same time: routers forget a port that is silent."
        )
    if any(not answer for answer in (findings.mappers or {}).values()):
        advice.append(
            "Your router forwards a port when a program asks: sock.map_port() does, and then everybody gets in who is "
            "told that address."
        )
    life = findings.lifetime
    if life is not None and life.at_most is not None and life.at_least < SAFE_LIFE / 2:
        advice.append("The router forgets quickly: give the socket a shorter timeout=, so that it speaks more often.")
    advice += _firewall(findings)
    return advice


def _firewall(findings: Findings) -> list[str]:
    """How this machine's own firewall is told to let datagrams in. Answers to what we send get in anyway."""
    hint = "If peers on your own network cannot reach you, let UDP in at this machine"
    if findings.platform == "win32":
        rule = "New-NetFirewallRule -DisplayName srmudp -Direction Inbound -Protocol UDP -LocalPort 8000 -Action Allow"
        return [f"{hint}: allow Python when Windows asks, or in an administrator's PowerShell: {rule}"]
    if findings.platform == "darwin":
        return [f"{hint}: System Settings, Network, Firewall, Options: allow incoming connections for Python."]
    commands = {
        "ufw": "sudo ufw allow 8000/udp",
        "firewall-cmd": "sudo firewall-cmd --add-port=8000/udp",
        "nft": "sudo nft insert rule inet filter input udp dport 8000 accept",
    }
    found = next((command for tool, command in commands.items() if tool in findings.firewalls), None)
    return [f"{hint}: {found} (with your port)"] if found else []


def _by_version(found: Mapping[int, Any]) -> dict[str, Any]:
    return {f"ipv{version}": found.get(version) for version in (4, 6)}


def _wrapped(text: str, width: int, first: str = "", rest: str = "") -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )
