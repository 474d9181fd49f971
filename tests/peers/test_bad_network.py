"""The promise about bad networks, kept in the simulator: 16 MiB arrive intact, and small messages do not wait.

A third of that in every run; tests/real/test_bad_network.py has all of it, and so has this with SRMUDP_EXHAUSTIVE=1.
"""

from __future__ import annotations

import os
import random

from srmudp.protocol.events import MessageArrived
from tests.endpoints import arrived, drops, pair, send, settled, status
from tests.simnet import Link

WHOLE = 16 << 20
SIZE = WHOLE if os.environ.get("SRMUDP_EXHAUSTIVE") else WHOLE // 3
BAD = Link(
    latency=0.01,
    loss=0.05,
    reorder=0.02,
    reorder_delay=0.005,
    duplicate=0.01,
    corrupt=0.01,
    rate=6e6,
    queue_bytes=120_000,
)


def test_a_large_message_and_small_ones_beside_it() -> None:
    """5 % loss, 2 % reordering, 1 % duplication and 1 % corruption each way, at 6 MB/s."""
    net, a, b = pair(47, BAD)
    large = random.Random(47).randbytes(SIZE)
    token = send(a, b, large)
    sent: dict[bytes, float] = {}

    def small() -> None:
        if settled(a, token) is not None:
            return
        text = b"small %d" % len(sent)
        sent[text] = net.now
        send(a, b, text, channel=1)
        net.after(0.05, small)

    began = net.now
    taken: dict[bytes, float] = {}
    seen = 0

    def look() -> bool:
        nonlocal seen
        for event in b.events[seen:]:
            if isinstance(event, MessageArrived) and event.channel == 1:
                taken.setdefault(event.content, net.now)
        seen = len(b.events)
        return settled(a, token) is not None

    small()
    assert net.run_until(look, 60), (status(a, b), drops(a), drops(b))
    lasted = net.now - began
    assert net.run_until(lambda: look() and len(taken) == len(sent), 5)
    assert arrived(b, a, 0) == [large]
    assert arrived(b, a, 1) == list(sent), "each once and in order"
    waits = sorted(taken[text] - sent[text] for text in sent)
    assert len(waits) > 20
    assert lasted > SIZE / BAD.rate
    assert waits[len(waits) // 2] < 0.1, waits
    assert waits[-1] < 0.5, waits
    lost = status(a, b).stats.datagrams_lost / status(a, b).stats.datagrams_sent
    assert 0.05 < lost < 0.1, "loss and corruption were really there"
    assert drops(b, "bad_tag") > 50 * SIZE / WHOLE
    assert drops(b, "replayed") > 50 * SIZE / WHOLE
