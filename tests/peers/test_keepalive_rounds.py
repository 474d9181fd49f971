"""A socket with many silent peers wakes up for many of them at once."""

from __future__ import annotations

from itertools import pairwise

from srmudp.models import EventKind
from srmudp.peers.liveness import KEEPALIVE_ROUNDS
from srmudp.wire.packet import RECORD
from tests.endpoints import LINK, Recorder, kinds, make_node, name_of
from tests.simnet import SimNet

PEERS = 40
INTERVAL = 7.0
"""A third of the default timeout."""


def test_peers_that_fell_silent_one_by_one_are_kept_alive_together() -> None:
    net = SimNet(130, link=LINK)
    hub = make_node(net, "hub", "10.0.0.1")
    others = [make_node(net, f"n{number}", f"10.0.1.{number}") for number in range(PEERS)]
    for other in others:  # spread over the interval
        hub.do(hub.node.add_peer, name_of(other), [other.address], other.node.peer_id)
        other.do(other.node.add_peer, "hub", [hub.address], hub.node.peer_id)
        net.run(INTERVAL / PEERS)
    net.run(3 * INTERVAL)
    record = Recorder(net)
    intervals = 6
    net.run(intervals * INTERVAL)
    sent = record.of(RECORD, source=hub)
    instants = sorted({round(item.time, 2) for item in sent})
    assert len(instants) <= 2 * KEEPALIVE_ROUNDS * intervals, "a round is its pings, and acknowledgements of theirs"
    assert len(sent) <= 1.3 * PEERS * intervals, "and nobody is pinged much more often for it"
    for other in others:
        times = [item.time for item in record.of(RECORD, source=hub, destination=other)]
        assert max(after - at for at, after in pairwise(times)) <= INTERVAL + 0.1
    assert kinds(hub) == [EventKind.CONNECTED] * PEERS
