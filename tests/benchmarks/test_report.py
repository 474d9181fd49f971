"""What the benchmark command makes of its runs: ratios, tables, aims, the guard; nothing is measured here."""

from __future__ import annotations

import importlib
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import aims, guard, report
from tests.benchmarks.__main__ import main
from tests.benchmarks.adapters.base import Asynchronous, Blocking
from tests.benchmarks.report import BULK, LINK, PINGPONG, SETUP, SHARE, SMALL, Kind, summary
from tests.benchmarks.rows import KINDS, PLACES, ROWS
from tests.benchmarks.runs import ATTEMPTS, HERE, Quiet, Run, adapters, judge
from tests.benchmarks.workloads import END, Bulk, PingPong, Small, Task, percentile

ADAPTERS = Path(__file__).parent / "adapters"
ROOT = Path(__file__).parents[2]


def row(name: str, place: str, who: str, kind: Kind, tls: float = 0.0, **values: float) -> dict[str, Any]:
    """A line of the report, of five equal runs, with ``tls`` as the first value of TLS beside them."""
    runs = [Run(values, slow=1.0) for _ in range(5)]
    beside = [Run({kind.columns[0].key: tls}) for _ in runs] if tls else []
    peer = not who.startswith("srmudp") and who != aims.TLS
    return summary(name, place, kind, who, runs, beside, udp=who != aims.TLS, encrypted=not peer or who == "aioquic")


def everything(**changed: float) -> list[dict[str, Any]]:
    """A report in which every aim and every stretch aim is reached, except for what is changed."""
    value = {
        "veth": 250e6,
        "plain": 90e6,
        "loopback": 400e6,
        "messages": 210_000,
        "age": 0.004,
        "p50": 60e-6,
        "loss 1": 200e6,
        "loss 5": 100e6,
        "link 1": 0.93,
        "link 5": 0.86,
        "p95": 1.2,
        "share 1": 0.45,
        "share 4": 0.41,
        "setup": 0.0029,
        "aioquic": 7e6,
        "KCP": 225e6,
        "stream": 0.85,
        "stream p50": 250e-6,
    } | changed
    rows = [
        row(aims.LARGE, "veth", aims.FAST, BULK, 300e6, rate=value["veth"]),
        row(aims.LARGE, "veth", aims.PLAIN, BULK, 300e6, rate=value["plain"]),
        row(aims.MEDIUM, "veth", aims.FAST, BULK, rate=value["veth"]),
        row(aims.MEDIUM, "veth", aims.PLAIN, BULK, rate=value["plain"]),
        row(aims.MEDIUM, "veth", "aioquic", BULK, rate=value["aioquic"]),
        row(aims.MEDIUM, "veth", "KCP", BULK, rate=value["KCP"]),
        row(aims.MEDIUM, "veth", "ENet", BULK, rate=208e6),
        row(aims.LARGE, "loopback", aims.FAST, BULK, 300e6, rate=value["loopback"]),
        row(aims.SETUP, "loopback", aims.FAST, SETUP, p50=value["setup"]),
        row(aims.LINK_QUEUE, "50 Mbit/s, 40 ms", aims.FAST, LINK, utilisation=0.9, rtt_p95=value["p95"]),
    ]
    for place in ("loopback", "veth"):
        rows.append(row(aims.LARGE, place, aims.STREAM, BULK, rate=value[place] * value["stream"]))
        small = {"messages": value["messages"], "age_p99": value["age"]}
        rows.append(row(aims.SMALL, place, aims.FAST, SMALL, 60_000, **small))
        rows.append(row(aims.PINGPONG, place, aims.FAST, PINGPONG, 50e-6, p50=value["p50"]))
        rows.append(row(aims.PINGPONG, place, "aioquic", PINGPONG, p50=1.1e-3))
    rows.append(row(aims.PINGPONG, "loopback", aims.STREAM, PINGPONG, p50=value["stream p50"]))
    for loss in (1, 5):
        rows.append(row(aims.LOSS, f"veth, {loss} % loss", aims.FAST, BULK, 50e6, rate=value[f"loss {loss}"]))
        used = value[f"link {loss}"]
        rows.append(row(aims.LINK_LOSS, f"50 Mbit/s, 40 ms, {loss} %", aims.FAST, LINK, utilisation=used))
    for bdps in (1, 4):
        share = value[f"share {bdps}"]
        rows.append(row(aims.BESIDE, f"50 Mbit/s, 40 ms, {bdps} BDP", aims.FAST, SHARE, share=share))
    return rows


def test_every_aim_can_be_reached() -> None:
    found = aims.judge(everything())
    assert len(found) == 11
    assert {each["reached"] for each in found} == {"yes"}
    assert {each["stretch reached"] for each in found} == {"yes"}
    assert not any(each["measured"] == "-" for each in found)


@pytest.mark.parametrize(
    ("changed", "measure", "reached", "stretch"),
    [
        ({"veth": 170e6}, 0, "no", "no"),
        ({"veth": 220e6}, 0, "yes", "no"),
        ({"aioquic": 90e6}, 0, "no", "yes"),
        ({"KCP": 251e6}, 0, "yes", "no"),
        ({"plain": 65e6}, 1, "yes", "no"),
        ({"plain": 50e6}, 1, "no", "no"),
        ({"aioquic": 91e6}, 1, "no", "yes"),
        ({"loopback": 250e6}, 2, "yes", "no"),
        ({"messages": 110_000}, 3, "yes", "no"),
        ({"messages": 89_000}, 3, "no", "no"),
        ({"age": 0.006}, 3, "no", "yes"),
        ({"p50": 80e-6}, 4, "yes", "no"),
        ({"p50": 120e-6}, 4, "no", "no"),
        ({"loss 5": 60e6}, 5, "yes", "no"),
        ({"loss 1": 40e6}, 5, "no", "yes"),
        ({"link 1": 0.86}, 6, "yes", "no"),
        ({"link 5": 0.6}, 6, "no", "no"),
        ({"p95": 1.4}, 7, "yes", "no"),
        ({"share 4": 0.2}, 8, "no", "no"),
        ({"setup": 0.004}, 9, "yes", "no"),
        ({"stream": 0.7}, 10, "yes", "no"),
        ({"stream": 0.4}, 10, "no", "no"),
        ({"stream p50": 400e-6}, 10, "no", "yes"),
    ],
)
def test_an_aim_is_missed_by_what_it_names(changed: dict[str, float], measure: int, reached: str, stretch: str) -> None:
    before, found = aims.judge(everything()), aims.judge(everything(**changed))
    assert (found[measure]["reached"], found[measure]["stretch reached"]) == (reached, stretch)
    others = [(was, now) for number, (was, now) in enumerate(zip(before, found, strict=True)) if number != measure]
    if "aioquic" not in changed:
        assert all(was == now for was, now in others), "no other line is touched"


def test_what_was_not_measured_is_not_reached() -> None:
    assert {each["reached"] for each in aims.judge([])} == {"not measured"}
    alone = [each for each in everything() if each["who"] != "aioquic"]
    assert aims.judge(alone)[0]["reached"] == "yes, as far as measured"
    failed = [{**each, "median": {}} for each in everything()]
    assert {each["reached"] for each in aims.judge(failed)} == {"not measured"}


def test_a_summary_has_medians_and_ratios_of_neighbours() -> None:
    mine = [Run({"rate": rate}, slow=1.0) for rate in (10.0, 30.0, 20.0)]
    its = [Run({"rate": 20.0}, slow=1.0), Run(error="broken", slow=1.0), Run({"rate": 10.0}, slow=1.0)]
    made = summary("bulk", "here", BULK, "we", mine, its, udp=True, encrypted=True)
    assert (made["median"]["rate"], made["lowest"]["rate"], made["highest"]["rate"]) == (20.0, 10.0, 30.0)
    assert made["of_tls"] == 1.25, "the median of 10/20 and 20/10; nothing stood beside 30"
    mine[0].error, mine[1].slow = "SHA-256 differs", 2.0
    made = summary("bulk", "here", BULK, "we", mine, its, udp=True, encrypted=True)
    assert (made["median"]["rate"], made["noisy"], made["failed"]) == (25.0, 1, ["SHA-256 differs"])
    text = report.table([made], KINDS)
    assert "1 of 3 runs NOT QUIET; FAILED 1 x: SHA-256 differs" in text
    json.dumps(made)


def test_runs_on_a_busy_machine_are_void_where_there_are_quiet_ones() -> None:
    mine = [
        Run({"rate": rate}, slow=slow) for rate, slow in ((9.0, 1.0), (4.0, 1.0), (1.0, 1.4), (2.0, 3.0), (6.0, 1.3))
    ]
    its = [Run({"rate": 2.0}, slow=slow) for slow in (1.0, 1.0, 1.0, 1.0, 1.1)]
    made = summary("bulk", "here", BULK, "we", mine, its, udp=True, encrypted=False)
    assert (made["median"]["rate"], made["lowest"]["rate"], made["of_tls"]) == (6.0, 4.0, 3.0)
    assert "in clear text; 2 of 5 runs void" in report.table([made], KINDS)
    its[0].slow = 2.0
    assert summary("bulk", "here", BULK, "we", mine, its)["of_tls"] == 2.0, "two pairs are not enough: all count"
    mine[0].slow = 2.0
    made = summary("bulk", "here", BULK, "we", mine, its, udp=True, encrypted=True)
    assert (made["median"]["rate"], made["void"]) == (4.0, 0)
    assert "3 of 5 runs NOT QUIET" in report.table([made], KINDS)


def test_the_tables_have_every_row() -> None:
    rows = everything()
    text = report.table(rows, KINDS)
    assert all(each["who"] in text and f"{each['row']}: {each['place']}" in text for each in rows)
    shown = report.aims_table(aims.judge(rows)).splitlines()
    assert len(shown) == 12
    assert all(aim.measure in line for aim, line in zip(aims.AIMS, shown[1:], strict=True))


def test_a_report_of_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows measured by several commands stand in one report; of a row measured twice the later one, with its peers."""
    rows = everything()
    parts = [
        [each for each in rows if each["row"] != aims.PINGPONG]
        + [row(aims.PINGPONG, "veth", aims.FAST, PINGPONG, 50e-6, p50=9.0)]
        + [row(aims.PINGPONG, "veth", "qh3", PINGPONG, p50=1.0)],
        [each for each in rows if each["row"] == aims.PINGPONG],
    ]
    files = []
    for number, part in enumerate(parts):
        made = {"machine": report.machine(0.001), "runs": 5, "quick": False, "skipped": {}, "rows": part, "aims": []}
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps(made))
    assert main(["--together", *map(str, files)]) == 0
    printed = capsys.readouterr().out
    assert "qh3" not in printed
    assert printed.count("ping-pong, 100 B: ") == 2
    together = report.together([json.loads(file.read_text()) for file in files])
    assert {finding["stretch reached"] for finding in aims.judge(together["rows"])} == {"yes"}


def test_every_row_has_a_place_and_a_kind_and_stands_alone() -> None:
    assert all(each.place in PLACES and KINDS[each.kind.name] is each.kind for each in ROWS)
    assert len({(each.name, each.place) for each in ROWS}) == len(ROWS)


def test_a_run_is_made_again_while_the_machine_is_busy() -> None:
    class Machine:
        """Is quiet from its seventh measurement on."""

        quiet, count = 0.010, 0

        def measure(self) -> float:
            self.count += 1
            return 0.010 if self.count > 6 else 0.014

    made = iter(Run({"rate": float(number)}) for number in range(10))
    quiet = Quiet(Machine(), 60.0)  # type: ignore[arg-type]
    assert ATTEMPTS == 3
    assert quiet(lambda: next(made)).values["rate"] == 0.0, "three times in vain: the first is as good as the others"
    assert quiet(lambda: next(made)).values["rate"] == 3.0, "quiet at once"
    assert quiet(lambda: Run(error="broken")).error == "broken", "and not hidden by another one"


def test_guarded_ratios() -> None:
    rows = [
        row(aims.LARGE, "veth", aims.FAST, BULK, rate=150.0, cpu=6.0),
        row(aims.LARGE, "veth", aims.TLS, BULK, rate=300.0, cpu=3.0),
        row(aims.LARGE, "veth", "aioquic", BULK, rate=7.0, cpu=99.0),
        row(aims.PINGPONG, "loopback", aims.FAST, PINGPONG, p50=90e-6),
    ]
    found = dict(guard.ratios(rows))
    rate, cpu = f"{aims.FAST}; {aims.LARGE}; veth; rate", f"{aims.FAST}; {aims.LARGE}; veth; cpu"
    assert found == {rate: 0.5, cpu: 2.0}, "of what stood beside TLS"
    assert not guard.worse(rate, 0.40, 0.5, 0.25)
    assert guard.worse(rate, 0.37, 0.5, 0.25)
    assert not guard.worse(cpu, 2.6, 2.0, 0.25)
    assert guard.worse(cpu, 2.7, 2.0, 0.25)
    table = json.loads(guard.FILE.read_text("utf-8"))
    names = {(each.name, each.place) for each in ROWS}
    for name in table["ratios"]:
        who, *where, key = name.split("; ")
        assert who in guard.OURS
        assert tuple(where) in names
        assert key in guard.WATCHED[where[0]]


# --- workloads ---


def test_bulk_is_checked_by_hash(capsys: pytest.CaptureFixture[str]) -> None:
    task = Task("bulk", 1000, seconds=30.0, most=8000, seed=5)
    tx = Bulk(task)
    sent = list(tx.messages())
    assert json.loads(capsys.readouterr().out)["begin"] > 0
    assert [len(each) for each in sent] == [1000] * 8 + [len(END) + 8]
    rx = Bulk(task)
    assert [rx.take(each) for each in sent] == [False] * 8 + [True]
    assert rx.received()["complete"]
    assert rx.received()["intact"]
    for spoilt in (sent[::-1][1:] + sent[-1:], [*sent[:3], sent[3][:-1] + b"?", *sent[4:]]):
        rx = Bulk(task)
        for each in spoilt:
            rx.take(each)
        assert not rx.received()["intact"]
        assert judge(task, 0.0, {"count": 8, "cpu": 1.0}, {**rx.received(), "cpu": 1.0}).error == "SHA-256 differs"
    rx = Bulk(task)
    for each in sent[:3]:
        rx.take(each)
    assert (rx.received()["complete"], rx.received()["intact"]) == (False, True)
    cut = judge(task, rx.end - 1.0, {}, {**rx.received(), "cpu": 1.0})
    assert (cut.error, cut.note, round(cut.values["rate"])) == ("", "stopped at the time limit", 3000)


def test_small_messages_have_an_age(capsys: pytest.CaptureFixture[str]) -> None:
    task = Task("small", 100, seconds=0.002)
    tx, rx = Small(task), Small(task)
    for message in tx.messages():
        rx.take(message)
    received, sent = rx.received(), tx.sent()
    assert received["complete"]
    assert received["intact"]
    assert received["sha256"] == sent["sha256"]
    assert 0 < received["age_p50"] <= received["age_p99"] <= received["age_max"] < 1
    rx.got[0] = struct.pack(">QQ", 7, 7) + rx.got[0][16:]
    assert not rx.received()["intact"]


def test_ping_pong_ends(capsys: pytest.CaptureFixture[str]) -> None:
    task = Task("pingpong", 100, seconds=0.002)
    tx, rx = PingPong(task), PingPong(task)
    message: bytes | None = tx.ping()
    while message is not None:
        echo = rx.echo(message)
        assert echo is not None
        message = tx.pong(echo)
    assert rx.echo(tx.farewell()) is None
    run = judge(task, 0.0, tx.sent(), rx.received())
    assert not run.error
    assert 0 < run.values["p50"] <= run.values["p99"] < 1
    rx.got[-1] = b"?" * 100
    assert judge(task, 0.0, tx.sent(), rx.received()).error == "SHA-256 differs"


def test_percentiles() -> None:
    assert [percentile([3, 1, 2, 4], share) for share in (0.25, 0.5, 0.99, 1.0)] == [1, 2, 4, 4]
    assert percentile(range(1, 101), 0.99) == 99


# --- adapters ---


def test_adapters_can_be_imported_without_their_libraries() -> None:
    """In one fresh interpreter in which nothing but the standard library can be imported, and this folder."""
    modules = [f"{HERE}.{path.stem}" for path in sorted(ADAPTERS.glob("*.py"))]
    assert len(modules) >= 4
    script = f"import importlib, sys; sys.path.insert(0, {str(ROOT)!r})\n"
    script += "".join(f"importlib.import_module({name!r})\n" for name in modules)
    script += "assert 'srmudp' not in sys.modules and 'cryptography' not in sys.modules\n"
    subprocess.run([sys.executable, "-S", "-I", "-c", script], check=True, timeout=20)


def test_every_adapter_says_what_it_is() -> None:
    found = adapters()
    assert {aims.FAST, aims.PLAIN, aims.TLS, "raw UDP with GSO"} <= set(found)
    for name, (module, adapter) in found.items():
        assert isinstance(adapter, Blocking | Asynchronous)
        assert adapter.name == name
        assert adapter in importlib.import_module(module).ADAPTERS
        assert isinstance(adapter.why_not(), str)
