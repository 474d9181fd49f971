"""What srmudp is to reach, beside what was measured in the same run: the table at the end of the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

FAST, PLAIN, TLS = "srmudp, fast", "srmudp, pycryptodome", "TLS 1.3 over TCP"
STREAM = "srmudp, fast, a stream"
LARGE, MEDIUM, SMALL, PINGPONG, SETUP = "bulk, 16 MiB", "bulk, 64 KiB", "small, 100 B", "ping-pong, 100 B", "set-up"
LOSS = "bulk, 1 MiB"
LINK_LOSS, LINK_QUEUE, BESIDE = "link, 1 BDP", "link, 4 BDP, 30 s", "beside CUBIC"
LOOPBACK, VETH = "loopback", "veth"
IN_CLEAR = ("KCP", "ENet")
"""Libraries in C that encrypt nothing, which the stretch aim of bulk names."""


class Report:
    """What was measured, for looking things up.

    Args:
        rows: as in the JSON report.
    """

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self.rows = rows

    def row(self, name: str, place: str, who: str = FAST) -> dict[str, Any] | None:
        """What was measured of one, if it was and did not always fail."""
        for row in self.rows:
            if (row["row"], row["place"], row["who"]) == (name, place, who) and row["median"]:
                return row
        return None

    def value(self, key: str, name: str, place: str, who: str = FAST) -> float | None:
        row = self.row(name, place, who)
        return None if row is None else row["median"].get(key)

    def ratio(self, name: str, place: str, who: str = FAST) -> float | None:
        """To TLS over TCP, of runs that stood side by side."""
        row = self.row(name, place, who)
        return None if row is None else row["of_tls"]

    def best_peer(self, key: str, name: str, place: str, low: bool = False) -> tuple[str, float] | None:
        """The best of the other encrypted libraries over UDP: who, and its value."""
        found = [
            (row["who"], row["median"][key])
            for row in self.rows
            if (row["row"], row["place"]) == (name, place)
            and row["udp"]
            and row["encrypted"]
            and not row["who"].startswith("srmudp")
            and key in row["median"]
        ]
        return (min if low else max)(found, key=lambda pair: pair[1], default=None)


@dataclass
class Finding:
    """How one aim stands.

    Attributes:
        measured: in words.
        aim, stretch: whether each condition of them holds; None for one that was not measured.
    """

    measured: list[str] = field(default_factory=list)
    aim: list[bool | None] = field(default_factory=list)
    stretch: list[bool | None] = field(default_factory=list)

    def note(self, value: float | None, text: str) -> None:
        """Say what was measured; ``text`` is a format of the value."""
        if value is not None:
            self.measured.append(text.format(value))

    def least(self, value: float | None, aim: float | None, stretch: float | None) -> None:
        """A value that is to be so large; None where nothing is asked for."""
        if aim is not None:
            self.aim.append(None if value is None else value >= aim)
        if stretch is not None:
            self.stretch.append(None if value is None else value >= stretch)

    def most(self, value: float | None, aim: float | None, stretch: float | None) -> None:
        """A value that is to be so small."""
        if aim is not None:
            self.aim.append(None if value is None else value <= aim)
        if stretch is not None:
            self.stretch.append(None if value is None else value <= stretch)


@dataclass(frozen=True)
class Aim:
    """A line of the table."""

    measure: str
    aim: str
    stretch: str
    find: Callable[[Report], Finding]


def against_peers(report: Report, found: Finding, who: str, times: float) -> None:
    """Bulk over veth beside the best of the other encrypted libraries over UDP: messages of 64 KiB, of both."""
    rate, peer = report.value("rate", MEDIUM, VETH, who), report.best_peer("rate", MEDIUM, VETH)
    found.note(peer and rate and rate / peer[1], f"{{:.1f}} x {peer[0]}" if peer else "")
    found.aim.append(None if peer is None or rate is None else rate > times * peer[1])


def bulk_over_veth(report: Report) -> Finding:
    found = Finding()
    ratio, rate = report.ratio(LARGE, VETH), report.value("rate", LARGE, VETH)
    found.note(rate and rate / 1e6, "{:.0f} MB/s")
    found.note(ratio, "{:.2f} x TLS")
    found.least(ratio, 0.6, 0.8)
    against_peers(report, found, FAST, 3.0)
    mine = report.value("rate", MEDIUM, VETH)
    for name in IN_CLEAR:
        other = report.value("rate", MEDIUM, VETH, name)
        found.note(other and mine and mine / other, f"{{:.2f}} x {name}")
        found.stretch.append(None if other is None or mine is None else mine > other)
    return found


def bulk_with_pycryptodome(report: Report) -> Finding:
    found = Finding()
    ratio, rate = report.ratio(LARGE, VETH, PLAIN), report.value("rate", LARGE, VETH, PLAIN)
    found.note(rate and rate / 1e6, "{:.0f} MB/s")
    found.note(ratio, "{:.2f} x TLS")
    found.least(ratio, 0.2, 0.25)
    against_peers(report, found, PLAIN, 1.0)
    return found


def bulk_on_loopback(report: Report) -> Finding:
    found = Finding()
    ratio, rate = report.ratio(LARGE, LOOPBACK), report.value("rate", LARGE, LOOPBACK)
    found.note(rate and rate / 1e6, "{:.0f} MB/s")
    found.note(ratio, "{:.2f} x TLS")
    found.least(ratio, 0.8, 1.2)
    return found


def small_messages(report: Report) -> Finding:
    found = Finding()
    for place in (LOOPBACK, VETH):
        rate, ratio = report.value("messages", SMALL, place), report.ratio(SMALL, place)
        age = report.value("age_p99", SMALL, place)
        found.note(rate, f"{place} {{:,.0f}}/s")
        found.note(ratio, "{:.2f} x TLS")
        found.note(age and age * 1e3, "p99 age {:.1f} ms")
        found.least(rate, 100_000, 200_000)
        found.least(ratio, 1.5, None)
        found.most(age, 0.005, None)
    return found


def ping_pong(report: Report) -> Finding:
    found = Finding()
    for place in (LOOPBACK, VETH):
        p50, ratio = report.value("p50", PINGPONG, place), report.ratio(PINGPONG, place)
        found.note(p50 and p50 * 1e6, f"{place} {{:.0f}} µs")
        found.note(ratio, "{:.2f} x TLS")
        found.most(ratio, 2.0, 1.3)
    peer, p50 = report.best_peer("p50", PINGPONG, LOOPBACK, low=True), report.value("p50", PINGPONG, LOOPBACK)
    found.note(peer and p50 and p50 / peer[1], f"{{:.2f}} x {peer[0]} on loopback" if peer else "")
    found.aim.append(None if peer is None or p50 is None else p50 < peer[1])
    return found


def with_loss(report: Report) -> Finding:
    found = Finding()
    for loss, stretch in ((1, None), (5, 2.0)):
        place = f"veth, {loss} % loss"
        rate, ratio = report.value("rate", LOSS, place), report.ratio(LOSS, place)
        found.note(rate and rate / 1e6, f"{loss} %: {{:.0f}} MB/s")
        found.note(ratio, "{:.2f} x TLS")
        found.least(ratio, 1.0, stretch)
    return found


def rate_limited_with_loss(report: Report) -> Finding:
    found = Finding()
    for loss, aim, stretch in ((1, 0.85, 0.92), (5, 0.70, 0.85)):
        used = report.value("utilisation", LINK_LOSS, f"50 Mbit/s, 40 ms, {loss} %")
        found.note(used and used * 100, f"{loss} %: {{:.1f}} % of the link")
        found.least(used, aim, stretch)
    return found


def long_queue(report: Report) -> Finding:
    found = Finding()
    p95 = report.value("rtt_p95", LINK_QUEUE, "50 Mbit/s, 40 ms")
    found.note(p95, "{:.2f} x base")
    found.most(p95, 1.5, 1.25)
    return found


def beside_cubic(report: Report) -> Finding:
    found = Finding()
    for bdps in (1, 4):
        share = report.value("share", BESIDE, f"50 Mbit/s, 40 ms, {bdps} BDP")
        found.note(share and share * 100, f"{bdps} BDP: it keeps {{:.0f}} %")
        found.least(share, 0.25, 0.40)
    return found


def set_up(report: Report) -> Finding:
    found = Finding()
    p50 = report.value("p50", SETUP, LOOPBACK)
    found.note(p50 and p50 * 1e3, "{:.2f} ms")
    found.most(p50, 0.005, 0.003)
    return found


def stream(report: Report) -> Finding:
    found = Finding()
    for place in (LOOPBACK, VETH):
        rate, messages = report.value("rate", LARGE, place, STREAM), report.value("rate", LARGE, place)
        ratio = rate / messages if rate is not None and messages else None
        found.note(ratio, f"{place} {{:.2f}} x messages")
        found.least(ratio, 0.5, 0.8)
    p50 = report.value("p50", PINGPONG, LOOPBACK, STREAM)
    found.note(p50 and p50 * 1e6, "{:.0f} µs")
    found.most(p50, 300e-6, None)
    return found


AIMS = (
    Aim(
        "bulk over veth, MTU 1500, fast",
        "0.6 x TLS over TCP, above every encrypted UDP peer x 3",
        "0.8 x, above KCP and ENet",
        bulk_over_veth,
    ),
    Aim(
        "bulk, pycryptodome alone",
        "0.2 x TLS, above every encrypted UDP peer",
        "0.25 x",
        bulk_with_pycryptodome,
    ),
    Aim("bulk, discovered loopback MTU", "0.8 x TLS", "1.2 x", bulk_on_loopback),
    Aim("100-byte messages", "100,000/s and 1.5 x TLS, p99 age <= 5 ms", "200,000/s", small_messages),
    Aim("ping-pong p50, 100 bytes", "2 x TLS, below every encrypted UDP peer", "1.3 x", ping_pong),
    Aim("veth, 1 % and 5 % loss each way", "at least TLS over TCP", "2 x at 5 %", with_loss),
    Aim(
        "50 Mbit/s, 40 ms, 1 BDP queue",
        "85 % of the link at 1 % loss, 70 % at 5 %",
        "92 %, 85 %",
        rate_limited_with_loss,
    ),
    Aim("4-BDP queue, alone, 30 s with start-up", "p95 RTT <= 1.5 x base", "1.25 x", long_queue),
    Aim("beside one CUBIC flow, 1 and 4 BDP", "it keeps >= 25 %", ">= 40 %", beside_cubic),
    Aim("set-up on loopback, p50, fast", "5 ms", "3 ms", set_up),
    Aim("a stream of bytes, fast", "0.5 x messages of 16 MiB, ping-pong p50 300 µs on loopback", "0.8 x", stream),
)


def verdict(conditions: Sequence[bool | None]) -> str:
    """``"yes"`` if all hold, ``"no"`` if one does not, else what is missing."""
    if False in conditions:
        return "no"
    if not conditions or all(one is None for one in conditions):
        return "not measured"
    return "yes" if None not in conditions else "yes, as far as measured"


def judge(rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Every aim, and whether it is reached.

    Args:
        rows: of the JSON report.
    """
    report = Report(rows)
    findings = [(aim, aim.find(report)) for aim in AIMS]
    return [
        {
            "measure": aim.measure,
            "aim": aim.aim,
            "stretch": aim.stretch,
            "measured": ", ".join(found.measured) or "-",
            "reached": verdict(found.aim),
            "stretch reached": verdict(found.stretch),
        }
        for aim, found in findings
    ]
