"""The modelled link and the flows beside ours are what they are said to be; and what the grid makes of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from srmudp.protocol.cubic import Cubic
from tests.benchmarks.grid import AIMS, Cell, Result, judge, line, main, run, summary
from tests.bottleneck import (
    LEAST_QUEUE,
    MBIT,
    SEGMENT,
    Bottleneck,
    Clock,
    Ours,
    Reno,
    Tcp,
    fairness,
    percentile,
    rate,
    rtts_between,
)


def test_the_link_has_a_rate_and_a_queue() -> None:
    clock = Clock()
    link = Bottleneck(clock, rate=1e6, rtt=0.1, queue=0.2)  # room for 20,000 bytes
    survivors, first, gap = link.carry("a", 5, 1000, 500)
    assert (survivors, gap) == ([0, 1, 2, 3, 4], 0.001)
    assert first == pytest.approx(0.001 + 0.05)
    assert link.carry("b", 20, 1000, 1000)[0] == list(range(15))  # 4,500 bytes wait already
    assert (link.sent["b"], link.dropped["a"], link.dropped["b"]) == (20, 0, 5)
    assert link.carry("b", 1, 1000, 1000)[0] == []
    clock.run(0.004)  # four have left
    assert link.carry("a", 4, 1000, 1000) == ([0, 1, 2, 3], pytest.approx(0.0195 + 0.001 + 0.05), 0.001)
    clock.run(1.0)
    assert link.carry("a", 1, 60_000, 60_000)[0] == [0]  # one always fits an empty queue
    assert link.dropped["a"] == 0
    assert Bottleneck(clock, rate=1e6, rtt=0.001, queue=1).room == LEAST_QUEUE * SEGMENT


def test_chance_takes_its_share() -> None:
    link = Bottleneck(Clock(), rate=1e6, rtt=0.1, queue=1, loss=0.05)
    assert len(link.survivors(10_000)) == pytest.approx(9500, abs=100)


@pytest.mark.parametrize("kind", [Cubic, Reno])
def test_the_others_fill_a_link_that_is_theirs(kind: type[Cubic] | type[Reno]) -> None:
    """Else it would mean nothing that they keep their share beside ours."""
    clock = Clock()
    link = Bottleneck(clock, rate=5 * MBIT, rtt=0.04, queue=1)
    flow = Tcp(clock, link, kind(SEGMENT))
    clock.run(10.0)
    assert rate(flow, 2.0, 10.0) >= 0.97 * link.rate
    assert 0 < link.dropped[flow] * SEGMENT <= flow.retransmitted <= 1.2 * link.dropped[flow] * SEGMENT
    assert percentile(rtts_between(flow, 2.0, 10.0), 1.0) == pytest.approx(0.08, rel=0.05)


def test_two_of_the_others_share_a_link() -> None:
    clock = Clock()
    link = Bottleneck(clock, rate=5 * MBIT, rtt=0.02, queue=2)
    flows = [Tcp(clock, link, Cubic(SEGMENT)), Tcp(clock, link, Cubic(SEGMENT), start=1.0)]
    clock.run(20.0)
    assert fairness([rate(flow, 5.0, 20.0) for flow in flows]) >= 0.95


def test_an_outage_is_survived_by_the_others() -> None:
    clock = Clock()
    link = Bottleneck(clock, rate=5 * MBIT, rtt=0.04, queue=1)
    flow = Tcp(clock, link, Reno(SEGMENT))
    clock.run(1.0)
    link.loss = 1.0
    clock.run(2.0)
    link.loss = 0.0
    clock.run(6.0)
    assert rate(flow, 4.0, 6.0) >= 0.9 * link.rate


def test_ours_moves_what_it_says() -> None:
    clock = Clock()
    link = Bottleneck(clock, rate=2 * MBIT, rtt=0.04, queue=1, loss=0.02)
    ours = Ours(clock, link, start=0.5)
    clock.run(2.5)
    assert rate(ours, 0.0, 0.5) == 0.0
    assert 0.6 * link.rate <= rate(ours, 0.5, 2.5) <= link.rate
    assert percentile(rtts_between(ours, 0.5, 2.5), 0.0) >= link.rtt
    assert 0 < ours.retransmitted <= 0.1 * link.sent[ours] * SEGMENT
    assert ours.states[0][1] == "startup"


def test_a_cell_is_measured_and_told() -> None:
    result = run(Cell("cubic", 1, 20, 0, 1, 5), series=True)
    assert 0.8 <= result.utilisation <= 1.0
    assert result.other is not None
    assert result.jain is not None
    assert 0.0 < result.other < 1.0
    assert 0.5 <= result.jain <= 1.0
    assert result.series is not None
    assert [len(values) for values in (*result.series.rates, *result.series.rtts, result.series.queue)] == [400] * 5
    assert "cubic" in line(result)
    assert "other worst" in summary([result])[0]


def test_aims_are_judged() -> None:
    results = [Result(aim.cell, 0.8, 0, None, 0, 0.1, 0.05, 0, 0, 0, 0, 0.28, None, 0) for aim in AIMS]
    lines, good = judge(results)
    assert not good
    assert [text.startswith("reached") for text in lines] == [False, True, False, True, True, False, False]
    assert judge(results[1:2])[1]
    assert judge([]) == ([], True)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "grid.json"
    arguments = ["--kind", "alone", "--rate", "1", "--rtt", "20", "--loss", "0", "--queue", "1", "--seconds", "1"]
    assert main([*arguments, "--jobs", "1", "--json", str(file)]) == 0
    assert "1 cells" in capsys.readouterr().out
    (row,) = json.loads(file.read_text())["results"]
    assert row["cell"] == {"kind": "alone", "rate": 1, "rtt": 20, "loss": 0, "queue": 1, "seconds": 1}
