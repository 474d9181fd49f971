"""Sealing and cutting: sizes, numbers that are used once, what the other side opens."""

from __future__ import annotations

import random

import pytest

from srmudp.exceptions import LocalProtocolError
from srmudp.protocol.records import Opened
from srmudp.protocol.session import Session, segment_room, single_room
from srmudp.wire.packet import (
    MAX_SEGMENTS,
    RECORD_OVERHEAD,
    RESEND_OVERHEAD,
    TAG,
    parse_run,
    parse_segment,
    resend_segment,
)
from tests.connections import make_sessions
from tests.endpoints import FaultyBackend


def make_pair(backend: FaultyBackend | None = None) -> tuple[Session, Session]:
    return make_sessions(backend=backend, now=5.0)


def cut(wire: bytes, size: int) -> list[bytes]:
    return [wire[offset : offset + size] for offset in range(0, len(wire), size)]


def opened(session: Session, wire: bytes, size: int) -> Opened | None:
    result = None
    for datagram in cut(wire, size):
        result = session.receiver.on_segment(parse_segment(datagram), 0.0) or result
    return result


def test_what_one_seals_the_other_opens() -> None:
    a, b = make_pair()
    for content in (b"\x01", random.Random(1).randbytes(5000)):
        header, _, wire = a.seal(content, 1200)
        found = opened(b, wire, RECORD_OVERHEAD + header.size)
        assert found is not None
        assert found.plaintext == content
        assert (found.number, found.segments) == (header.number, header.count)


@pytest.mark.parametrize("mtu", [1000, 1200, 1452, 8952])
def test_every_size_fits_the_mtu(mtu: int) -> None:
    """Around every edge: one datagram may use the whole MTU, segments leave room for the header of a resend."""
    a, b = make_pair()
    edges = {single_room(mtu)} | {n * segment_room(mtu) - TAG for n in (1, 2, 3, MAX_SEGMENTS)}
    for edge in edges:
        for length in (edge - 1, edge, edge + 1):
            if length + TAG > MAX_SEGMENTS * segment_room(mtu):
                continue
            header, ciphertext, wire = a.seal(bytes(length), mtu)
            datagrams = cut(wire, RECORD_OVERHEAD + header.size)
            assert len(datagrams) == header.count
            assert max(map(len, datagrams)) <= mtu
            assert len(ciphertext) == length + TAG
            assert (header.count == 1) == (length <= single_room(mtu))
            if header.count > 1:
                for segment in range(header.count):
                    assert len(resend_segment(header, ciphertext, segment, 10_000)) <= mtu
            found = opened(b, wire, RECORD_OVERHEAD + header.size)
            assert found is not None
            assert len(found.plaintext) == length


def test_rooms() -> None:
    assert single_room(1200) == 1200 - RECORD_OVERHEAD - TAG == 1154
    assert segment_room(1200) == 1200 - RESEND_OVERHEAD == 1162


def test_more_than_a_record_holds_is_refused_before_a_number_is_used() -> None:
    a, _ = make_pair()
    with pytest.raises(AssertionError):
        a.seal(bytes(MAX_SEGMENTS * segment_room(1200) - TAG + 1), 1200)
    assert (a.next_number, a.next_transmission) == (0, 0)


def test_numbers_go_up_by_one_and_transmissions_by_datagrams() -> None:
    a, _ = make_pair()
    expected = 0
    for number, length in enumerate((10, 3000, 10, 40_000)):
        header, _, _ = a.seal(bytes(length), 1200)
        assert (header.number, header.first) == (number, expected)
        assert header.index == 2
        assert header.epoch == 0
        expected += header.count
    assert a.next_transmission == expected


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_seal_burns_its_numbers(when: str, error: type[BaseException]) -> None:
    backend = FaultyBackend()
    a, b = make_pair(backend)
    a.seal(bytes(20), 1200)

    def fault(at: str) -> None:
        if at == when:
            raise error

    backend.fault = fault
    with pytest.raises(error):
        a.seal(bytes(3000), 1200)
    backend.fault = None
    header, _, wire = a.seal(b"next", 1200)
    assert header.number == 2
    assert header.first == 4  # 1 datagram, 3 that never left
    found = opened(b, wire, RECORD_OVERHEAD + header.size)
    assert found is not None
    assert found.plaintext == b"next"


def test_a_used_number_is_not_sealed_again_even_if_the_counter_were_turned_back() -> None:
    a, _ = make_pair()
    a.seal(bytes(20), 1200)
    a.next_number = 0
    with pytest.raises(LocalProtocolError):
        a.seal(bytes(20), 1200)


def test_the_two_directions_have_their_own_keys() -> None:
    a, b = make_pair()
    header, _, wire = a.seal(b"for b alone", 1200)
    assert opened(a, wire, RECORD_OVERHEAD + header.size) is None
    assert opened(b, wire, RECORD_OVERHEAD + header.size) is not None


def test_a_first_flight_is_read_as_one_run() -> None:
    a, b = make_pair()
    content = random.Random(2).randbytes(20_000)
    header, _, wire = a.seal(content, 1200)
    run = parse_run(wire, 0, RECORD_OVERHEAD + header.size)
    assert run is not None
    found = b.receiver.on_run(run[0], run[1], run[2], 0.0)
    assert found is not None
    assert found.plaintext == content
    assert run[3] == len(wire)


def test_where_the_peer_sends_to() -> None:
    a, b = make_pair()
    assert (a.local_index, a.remote_index) == (1, 2)
    assert (b.local_index, b.remote_index) == (2, 1)
    assert a.created_at == 5.0
    assert not a.confirmed
