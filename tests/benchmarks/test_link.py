"""The scheduling of the link emulator: its clock is the argument, there is no device."""

from __future__ import annotations

import struct
from math import inf

import pytest

from tests.benchmarks.link import SAMPLE, UDP, Pipe, Shape, bytes_of, queue_of

RATE = 8e6  # a byte a microsecond


def packet(size: int, port: int = 1) -> bytes:
    """An IPv4 packet as far as the emulator looks at it."""
    return (b"\x45" + bytes(8) + bytes([UDP]) + bytes(10) + struct.pack(">HH", port, 2)).ljust(size, b"x")


def dues(pipe: Pipe) -> list[float]:
    return [round(due, 9) for due, _ in pipe.waiting]


def test_packets_leave_one_after_the_other_at_the_rate_and_arrive_after_the_delay() -> None:
    pipe = Pipe(Shape(RATE, 0.020))
    for _ in range(3):
        pipe.offer(1.0, packet(1000))
    pipe.offer(2.0, packet(500))
    assert dues(pipe) == [1.021, 1.022, 1.023, 2.0205]


def test_only_what_does_not_fit_the_queue_is_dropped() -> None:
    pipe = Pipe(Shape(RATE, 0.0, queue=3000))
    for size in (1000, 1000, 1001, 1000, 1):
        pipe.offer(0.0, packet(size))
    assert [len(one) for _, one in pipe.waiting] == [1000, 1000, 1000]
    pipe.offer(0.0005, packet(500))  # half of the first has left
    assert dues(pipe)[-1] == 0.0035
    flow = pipe.report(0.01)["flows"]["udp 1 2"]
    assert (flow["packets"], flow["bytes"], flow["dropped_queue"], flow["dropped_loss"]) == (4, 3500, 2, 0)


def test_loss_is_seeded_and_takes_its_time_on_the_line() -> None:
    def survivors(seed: int) -> list[float]:
        pipe = Pipe(Shape(RATE, 0.0, loss=0.25), seed)
        for _ in range(1000):
            pipe.offer(0.0, packet(1000))
        assert pipe.flows[packet(100)[9:10] + packet(100)[20:24]].dropped_loss == 1000 - len(pipe.waiting)
        return dues(pipe)

    first = survivors(1)
    assert first == survivors(1) != survivors(2)
    assert 650 < len(first) < 850
    assert first[-1] > 0.99  # the lost ones were sent too


def test_the_queue_is_sampled_between_packets_too() -> None:
    pipe = Pipe(Shape(RATE, 0.0))
    for _ in range(10):
        pipe.offer(0.001, packet(1000))  # 10 ms of queue at 1 ms, gone at 11 ms
    report = pipe.report(0.0199)
    assert report["queue_s"] == pytest.approx([0.0, 0.009, 0.007, 0.005, 0.003, 0.001, 0.0, 0.0, 0.0, 0.0])
    assert queue_of(report) == {"mean": 2.5, "median": 1.0, "p95": 9.0, "max": 9.0}
    assert queue_of(report, 5 * SAMPLE, inf)["max"] == 1.0


def test_bytes_are_counted_when_they_leave_the_line() -> None:
    pipe = Pipe(Shape(RATE, 5.0))
    for number in range(400):
        pipe.offer(0.0, packet(1000, number % 2))
    report = pipe.report(1.0)
    assert [bytes_of(report["flows"][name], report) for name in ("udp 0 2", "udp 1 2")] == [200_000, 200_000]
    assert bytes_of(report["flows"]["udp 0 2"], report, 0.1, 0.2) == 50_000


def test_a_reset_forgets_the_account_and_keeps_what_is_under_way() -> None:
    pipe = Pipe(Shape(RATE, 0.0, queue=2000))
    pipe.offer(0.0, packet(1000))
    pipe.set(Shape(RATE / 2, 0.0, queue=2000))
    pipe.reset(0.0005)
    pipe.offer(0.0005, packet(1000))
    assert dues(pipe) == [0.001, 0.003]
    report = pipe.report(0.001)
    assert report["flows"]["udp 1 2"]["packets"] == 1
    assert report["begin"] == 0.0005


def test_protocols_without_ports_are_one_flow_each() -> None:
    pipe = Pipe(Shape(RATE, 0.0))
    for number in range(3):
        pipe.offer(0.0, b"\x45" + bytes(8) + b"\x01" + bytes(10) + bytes([number] * 64))
    pipe.offer(0.0, b"\x45" + bytes(8) + b"\x2f" + bytes(30))
    assert {name: flow["packets"] for name, flow in pipe.report(0.0)["flows"].items()} == {"icmp": 3, "protocol 47": 1}
