"""Making room for the segments of unfinished records: cheap however many there are, and fair to the nearly complete."""

from __future__ import annotations

from collections import Counter

from srmudp.crypto.backend import Backend
from srmudp.crypto.protection import RecordKeys
from srmudp.protocol.records import MAX_PARTIAL_RECORDS, RecordReceiver
from srmudp.wire.packet import RecordHeader, Segment
from tests.cost import assert_cheap, cpu_seconds

SIZE = 100
COUNT = 7


def segment(number: int, place: int = 0, body: bytes = bytes(SIZE)) -> Segment:
    header = RecordHeader(0, 1, number, number * COUNT, COUNT, SIZE)
    return Segment(header, header.pack(), place, number * COUNT + place, False, body)


def test_attack_17_and_73_first_segments_of_endless_records(backend: Backend) -> None:
    """Attacks 17 and 73: an entry each for 6,000 records beyond the limit costs no search through the others."""

    def scene() -> float:
        drops: Counter[str] = Counter()
        receiver = RecordReceiver(RecordKeys(backend, bytes(32), bytes(32)), drops, 1 << 24)
        for number in range(MAX_PARTIAL_RECORDS):
            assert receiver.on_segment(segment(number), 0.0) is None
        further = range(MAX_PARTIAL_RECORDS, MAX_PARTIAL_RECORDS + 6000)
        seconds = cpu_seconds(lambda: [receiver.on_segment(segment(number), 0.0) for number in further])
        assert drops["reassembly_full"] == 6000
        return seconds

    assert_cheap(scene, 3)  # 30 s and more by looking at each


def test_junk_never_evicts_what_is_nearly_complete(backend: Backend) -> None:
    """A record of which all but one segment are there is completed after any amount of junk."""
    drops: Counter[str] = Counter()
    sealing = RecordKeys(backend, b"\x01" * 32, b"\x02" * 32)
    receiver = RecordReceiver(RecordKeys(backend, b"\x02" * 32, b"\x01" * 32), drops, 1 << 24)
    header = RecordHeader(0, 1, 3, 3 * COUNT, COUNT, SIZE)
    plaintext = bytes(range(COUNT)) * 100
    plaintext = plaintext[: COUNT * SIZE - 16]
    whole = sealing.seal(3, header.pack(), plaintext)
    pieces = [whole[place * SIZE : (place + 1) * SIZE] for place in range(COUNT)]
    for place in range(COUNT - 1):
        assert receiver.on_segment(segment(3, place, pieces[place]), 0.0) is None
    for number in range(4, MAX_PARTIAL_RECORDS + 1000):
        receiver.on_segment(segment(number), 0.0)
    opened = receiver.on_segment(segment(3, COUNT - 1, pieces[COUNT - 1]), 0.0)
    assert opened is not None
    assert opened.plaintext == plaintext
