"""The promise about bad networks, kept in the simulator: 16 MiB arrive intact, and small messages do not wait."""

from __future__ import annotations

import random

from srmudp.protocol.events import MessageArrived
from tests.endpoints import arrived, drops, pair, send, settled, status
from tests.simnet import Link

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
    large = random.Random(47).randbytes(16 << 20)
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
    assert lasted > 16.7 / 6
    assert waits[len(waits) // 2] < 0.1, waits
    assert waits[-1] < 0.5, waits
    lost = status(a, b).stats.datagrams_lost / status(a, b).stats.datagrams_sent
    assert 0.05 < lost < 0.1, "loss and corruption were really there"
    assert drops(b, "bad_tag") > 50
    assert drops(b, "replayed") > 50
