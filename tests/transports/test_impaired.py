"""The bad network does exactly what it says, and nothing that a real one could not do."""

from __future__ import annotations

import select
from collections import Counter, deque
from collections.abc import Iterable

import pytest

from srmudp.config import Config
from srmudp.models import Address
from srmudp.transports.base import Batch, Transport
from srmudp.transports.impaired import ImpairedTransport, impaired
from srmudp.transports.udp import UdpTransport

A, B = Address("192.0.2.1", 1), Address("192.0.2.2", 2)


class Script:
    """A transport that delivers given batches; None in the script is a read that would block."""

    max_segments = 44

    def __init__(self, batches: Iterable[Batch | None]) -> None:
        self.batches = deque(batches)
        self.sent: list[tuple[bytes, int, Address]] = []
        self.closed = 0

    def fileno(self) -> int:
        return 7

    def receive_batch(self) -> Batch | None:
        return self.batches.popleft() if self.batches else None

    def send_batch(self, payload: bytes, segment_size: int, destination: Address) -> int:
        self.sent.append((payload, segment_size, destination))
        return len(payload)

    def local_address(self) -> Address:
        return B

    @property
    def errors(self) -> dict[str, int]:
        return {"EPERM": 7}

    def close(self) -> None:
        self.closed += 1


def numbered(first: int, count: int, size: int = 100) -> bytes:
    return b"".join(number.to_bytes(size, "big") for number in range(first, first + count))


def script(count: int, per_batch: int = 20) -> Script:
    return Script(Batch(numbered(first, per_batch), 100, A) for first in range(0, count, per_batch))


def drain(transport: Transport) -> list[Batch]:
    batches = []
    while (batch := transport.receive_batch()) is not None:
        assert batch.buffer
        assert 0 < batch.segment_size <= 65_535
        assert len(batch.buffer) <= max(65_535, batch.segment_size)
        batches.append(batch)
    return batches


def datagrams(batches: Iterable[Batch]) -> list[bytes]:
    return [
        batch.buffer[start : start + batch.segment_size]
        for batch in batches
        for start in range(0, len(batch.buffer), batch.segment_size)
    ]


def numbers(transport: Transport) -> list[int]:
    return [int.from_bytes(one, "big") for one in datagrams(drain(transport))]


def test_harmless_passes_batches_untouched() -> None:
    inner = script(100)
    expected = list(inner.batches)
    wrapped = impaired()(inner)
    got = drain(wrapped)
    assert all(one is two for one, two in zip(got, expected, strict=True))
    assert wrapped.counts == {"received": 100}


def test_loss() -> None:
    wrapped = impaired(loss=0.1, seed=7)(script(10_000))
    got = numbers(wrapped)
    assert got == sorted(set(got))
    assert len(got) == 10_000 - wrapped.lost
    assert wrapped.received == 10_000
    assert 850 < wrapped.lost < 1150  # five standard deviations
    assert wrapped.duplicated == wrapped.reordered == wrapped.corrupted == 0


def test_total_loss() -> None:
    wrapped = impaired(loss=1.0)(script(100))
    assert drain(wrapped) == []
    assert wrapped.lost == 100


def test_duplicate() -> None:
    wrapped = impaired(duplicate=0.1, seed=7)(script(10_000))
    copies = Counter(numbers(wrapped))
    assert set(copies) == set(range(10_000))
    assert Counter(copies.values())[2] == wrapped.duplicated
    assert max(copies.values()) == 2
    assert 850 < wrapped.duplicated < 1150


def test_reorder_loses_nothing_and_delays_a_little() -> None:
    wrapped = impaired(reorder=0.1, seed=7)(script(10_000))
    got = numbers(wrapped)
    assert sorted(got) == list(range(10_000))
    late = [number for place, number in enumerate(got) if max(got[: place + 1][-20:]) > number]
    assert len(late) == wrapped.reordered
    assert 800 < wrapped.reordered < 1200
    # Three overtake it on their own account, and few of those held back after it were to wait for less.
    assert max(abs(place - number) for place, number in enumerate(got)) <= 8


def test_everything_held_back_still_comes() -> None:
    """Nothing may wait for traffic that never comes."""
    wrapped = impaired(reorder=1.0)(Script([Batch(numbered(0, 5), 100, A), None, Batch(numbered(5, 2), 100, A)]))
    assert wrapped.receive_batch() == Batch(numbered(0, 5), 100, A)  # at the read that would block
    assert wrapped.receive_batch() == Batch(numbered(5, 2), 100, A)
    assert wrapped.receive_batch() is None
    assert wrapped.reordered == 0  # nothing overtook them


def test_corrupt_flips_one_bit() -> None:
    inner = Script([Batch(bytes(20 * 100), 100, A) for _ in range(100)])
    wrapped = impaired(corrupt=0.1, seed=7)(inner)
    ones = [int.from_bytes(one, "big").bit_count() for one in datagrams(drain(wrapped))]
    assert set(ones) == {0, 1}
    assert sum(ones) == wrapped.corrupted
    assert 140 < wrapped.corrupted < 260


def test_a_duplicate_may_be_damaged_alone() -> None:
    """An honest copy and a damaged one of the same datagram: attack 8 by accident."""
    wrapped = impaired(duplicate=1.0, corrupt=0.5, seed=7)(Script([Batch(bytes(100), 100, A)] * 50))
    got = datagrams(drain(wrapped))
    pairs = Counter(frozenset({any(first), any(second)}) for first, second in zip(got[::2], got[1::2], strict=True))
    assert pairs[frozenset({True, False})] > 10


def test_survivors_travel_in_batches() -> None:
    """The receiver's fast path must be exercised: no loss, no splitting."""
    wrapped = impaired(loss=0.05, seed=7)(script(1000))
    assert len(drain(wrapped)) == 50
    untouched = Batch(numbered(0, 20) + b"tail", 100, A)
    wrapped = impaired(loss=1e-12)(Script([untouched]))
    assert drain(wrapped) == [untouched]


def test_batches_hold_one_source_and_one_size() -> None:
    inner = Script(
        [
            Batch(numbered(0, 3, 100), 100, A),
            Batch(numbered(3, 3, 200) + b"short", 200, A),
            Batch(numbered(6, 3, 100), 100, B),
            Batch(numbered(9, 70, 50), 50, B),
        ]
    )
    wrapped = impaired(reorder=1.0)(inner)  # all of it is released together at the end
    assert [(len(one.buffer), one.segment_size, one.source) for one in drain(wrapped)] == [
        (300, 100, A),
        (605, 200, A),
        (350, 100, B),  # three of 100 and a shorter one, as receive offload would join them
        (64 * 50, 50, B),
        (5 * 50, 50, B),
    ]


def test_joined_batches_fit_a_receive_buffer() -> None:
    wrapped = impaired(reorder=1.0)(Script([Batch(bytes(40_000), 40_000, A)] * 3))
    assert [len(one.buffer) for one in drain(wrapped)] == [40_000] * 3


def everything(seed: int, transport: Transport) -> ImpairedTransport:
    return impaired(loss=0.1, duplicate=0.1, reorder=0.1, corrupt=0.1, seed=seed)(transport)


def test_seed_decides() -> None:
    first, again, other = (drain(everything(seed, script(400))) for seed in (7, 7, 20))
    assert first == again
    assert first != other


def test_two_sockets_of_one_config_differ_and_are_counted_together() -> None:
    bad = impaired(loss=0.5, seed=7)
    config = Config(transport=bad)
    assert config.transport is not None
    one, two = numbers(config.transport(script(100))), numbers(config.transport(script(100)))
    assert one != two
    assert bad.counts == {"received": 200, "lost": 200 - len(one) - len(two)}
    assert [len(t.counts) for t in bad.transports] == [2, 2]


@pytest.mark.parametrize("name", ["loss", "duplicate", "reorder", "corrupt"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf")])
def test_fractions_are_checked(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        impaired(**{name: value})  # type: ignore[arg-type]


def test_the_rest_is_the_inner_transport() -> None:
    inner = script(20)
    wrapped = impaired(reorder=1.0)(inner)
    assert wrapped.max_segments == 44
    assert wrapped.fileno() == 7
    assert wrapped.local_address() == B
    assert wrapped.errors == {"EPERM": 7}
    assert wrapped.send_batch(b"abc", 2, A) == 3
    assert inner.sent == [(b"abc", 2, A)]
    wrapped.close()
    wrapped.close()
    assert inner.closed == 2
    assert wrapped.receive_batch() is None


def test_on_real_sockets() -> None:
    sender = UdpTransport("127.0.0.1", 0)
    bad = impaired(loss=0.2, duplicate=0.1, reorder=0.1, seed=7)
    receiver = bad(UdpTransport("127.0.0.1", 0))
    try:
        got: list[int] = []
        for first in range(0, 400, 20):
            sender.send_batch(numbered(first, 20), 100, receiver.local_address())
            while receiver.received < first + 20:
                assert select.select([receiver], [], [], 5.0)[0]
                got += numbers(receiver)
        assert len(got) == 400 - receiver.lost + receiver.duplicated
        assert len(set(got)) == 400 - receiver.lost
        assert receiver.lost
        assert receiver.duplicated
        assert receiver.reordered
    finally:
        sender.close()
        receiver.close()
