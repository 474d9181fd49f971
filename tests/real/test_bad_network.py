"""The promise about bad networks, kept over real sockets."""

from __future__ import annotations

import threading
import time

import pytest

from srmudp import Config, impaired
from srmudp.crypto.backend import select_backend
from tests.real.helpers import ETHERNET, Make, Wire, content, digests, join, state

MIB = 1024 * 1024


@pytest.mark.timeout(60)
def test_a_large_message_and_small_ones_beside_it(make: Make) -> None:
    """16 MiB at 5 % loss, 2 % reordering, 1 % duplication and 1 % corruption each way; small ones do not wait for it.

    Every small message is sent while the large one is on its way, and nearly all of them arrive long before its end.
    """
    bad = impaired(loss=0.05, reorder=0.02, duplicate=0.01, corrupt=0.01, seed=7)
    # Behind it a path with the MTU of Ethernet: on loopback the message would be a few hundred huge datagrams.
    a, b = (make(config=Config(transport=lambda inner: bad(Wire(keep=False, mtu=ETHERNET)(inner)))) for _ in "ab")
    join(a, b)
    large = content(16 * MIB)
    taken: dict[bytes, float] = {}
    order: list[bytes] = []
    big: list[bytes] = []
    end = threading.Event()

    def read() -> None:
        while not end.is_set():
            message = b.receive(0.1)
            if message is None:
                continue
            if message.channel == 1:
                big.append(message.content)
                end_of_large.append(time.monotonic())
            else:
                taken[message.content] = time.monotonic()
                order.append(message.content)

    end_of_large: list[float] = []
    reader = threading.Thread(target=read)
    reader.start()
    try:
        began = time.monotonic()
        delivery = a.send(large, "b", channel=1)
        sent: dict[bytes, float] = {}
        small = []
        while not delivery.wait(0.01):  # also paces the small ones
            assert time.monotonic() < began + 30, (state(a), state(b))
            text = b"small %d" % len(sent)
            sent[text] = time.monotonic()
            small.append(a.send(text, "b", channel=2))
        assert all(one.wait(10) for one in small), (state(a), state(b))
    finally:
        end.set()
        reader.join(10)
    lasted = end_of_large[0] - began
    # On a path that corrupts, records become single datagrams, each an AEAD call: slow with pycryptodome alone.
    assert lasted < (15 if select_backend().name == "cryptography" else 30)
    assert digests(big) == digests([large])
    assert order == list(sent), "each once and in order"
    early = [text for text, when in sent.items() if when < began + 0.75 * lasted]
    assert len(early) >= 5
    waits = sorted(taken[text] - sent[text] for text in early)
    assert waits[len(waits) // 2] < 0.1 * lasted, (waits, lasted)
    assert waits[int(len(waits) * 0.9)] < 0.25 * lasted, (waits, lasted)
    assert sum(taken[text] < end_of_large[0] for text in early) >= 0.9 * len(early)
    counts = bad.counts
    for what, share in (("lost", 0.05), ("reordered", 0.02), ("duplicated", 0.01), ("corrupted", 0.01)):
        assert 0.7 * share < counts[what] / counts["received"] < 1.4 * share, counts
    for sock in (a, b):
        assert sock.drops.get("internal_error", 0) == 0, state(sock)
