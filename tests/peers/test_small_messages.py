"""What small messages cost on the wire: no acknowledgement travels alone where something else is about to leave."""

from __future__ import annotations

from typing import Any

from srmudp.protocol.events import MessageArrived
from srmudp.wire.packet import RECORD
from tests.endpoints import Recorder, pair, send
from tests.simnet import Link, SimNet, SimNode

LAN = Link(latency=50e-6)


def _echo(net: SimNet, a: SimNode, b: SimNode, rounds: int) -> None:
    """One message there and back at a time; both take it first and answer then, as two calls of a program."""
    left = rounds

    def answer(sim: SimNode, event: Any) -> None:
        nonlocal left
        if isinstance(event, MessageArrived):
            sim.do(sim.node.message_taken, event)
            left -= sim is a
            if left:
                net.after(0.0, lambda: send(sim, b if sim is a else a, event.content))

    a.on_event = b.on_event = answer
    send(a, b, b"x" * 100)
    assert net.run_until(lambda: not left, rounds * 0.01)


def test_an_echo_takes_one_datagram_each_way() -> None:
    net, a, b = pair(link=LAN)
    _echo(net, a, b, 20)
    record = Recorder(net)
    _echo(net, a, b, 200)
    assert len(record.of(RECORD, source=a)) == 200
    assert len(record.of(RECORD, source=b)) == 200
