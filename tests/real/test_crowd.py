"""Many peers on one socket: how long they take to come together, what each takes of memory, and what silence costs.

The whole of it, with figures, is ``python -m tests.benchmarks.crowd``.
"""

from __future__ import annotations

import contextlib

import pytest

from srmudp import MultiHolepunchSocket
from tests.benchmarks.crowd import (
    CONNECT_BOUND,
    HOST,
    IDLE_BOUND,
    KEEPALIVE,
    MEMORY_BOUND,
    QUIET_WORK,
    WARM_UP,
    FarGuests,
    Hub,
    resident,
    work,
)
from tests.real.helpers import key_agreements, reach

PEERS = 200
TIMEOUT = 6.0
"""Seconds of silence after which a peer is lost here: keepalives come 3.5 times as often, so a look may be shorter."""


@pytest.mark.timeout(90)
def test_two_hundred_peers_on_one_socket() -> None:
    """They are added at once, each gets a message and answers it; then all are silent.

    Without the fast back end 80 of them: a handshake costs both ends ten times as much there.
    """
    count = key_agreements(PEERS, 80)
    sock = MultiHolepunchSocket(host=HOST, timeout=TIMEOUT)
    with contextlib.closing(sock), FarGuests(count, "auto", TIMEOUT) as crowd:
        hub = Hub(sock)
        with FarGuests(WARM_UP, "auto", TIMEOUT) as early:
            early.meet(sock.port)
            hub.welcome(early.ports, CONNECT_BOUND, "early guest")
            sock.remove_peers(list(sock.connections_status))
        before = resident()
        crowd.meet(sock.port)
        hub.welcome(crowd.ports, CONNECT_BOUND)
        # Path MTU discovery has come to its end: nothing but keepalives from here on.
        reach(lambda: min(status.mtu for status in sock.connections_status.values()) > 60_000)
        if before:
            each = (resident() - before) / 1024 / count
            assert each <= MEMORY_BOUND, f"{each:.1f} KiB for each idle peer"

        # The CPU clock of a busy or virtual machine runs fast: a piece of work beside the silence tells how fast. Where
        # threads come late besides, acknowledgements do, and are asked for again: of several looks the best one counts.
        interval = TIMEOUT / 3
        bound = IDLE_BOUND * (KEEPALIVE / interval) * (count / PEERS)
        for last in (False, False, False, True):
            slow = work()
            share, datagrams = hub.idle(interval)
            share /= max(1.0, max(slow, work()) / QUIET_WORK)
            if share <= bound and datagrams * interval <= 3 * count:
                break
            assert not last, f"{share:.2%} of a core, bound {bound:.2%}; {datagrams:.0f} datagrams/s for {count} peers"
        assert not hub.lost
