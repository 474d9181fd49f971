"""Whether what was sent has reached the other machine, which is less than that it was taken there."""

from __future__ import annotations

from srmudp.protocol.sending import Chunk, SendHalf


def sent(sender: SendHalf, room: int = 1200) -> list[Chunk]:
    chunks: list[Chunk] = []
    while sender.has_work:
        sender.fill(room, [], chunks, one_channel=False)
    return chunks


def test_all_has_arrived_once_every_part_is_acknowledged() -> None:
    sender = SendHalf()
    sender.set_windows(65_536, 65_536)
    assert sender.all_arrived
    sender.add(1, 0, b"", None)
    sender.add(2, 0, bytes(5000), None)
    assert not sender.all_arrived
    chunks = sent(sender)
    assert len(chunks) > 3
    for chunk in reversed(chunks):
        assert not sender.all_arrived
        sender.on_acked(*chunk)
    assert sender.all_arrived
    assert sender.queued_messages == 2  # but nothing is taken


def test_what_waits_for_credit_has_not_arrived() -> None:
    sender = SendHalf()
    sender.set_windows(1000, 1000)
    sender.add(1, 3, bytes(500), None)
    sender.add(2, 3, bytes(500), None)
    for chunk in sent(sender):
        sender.on_acked(*chunk)
    assert not sender.all_arrived
