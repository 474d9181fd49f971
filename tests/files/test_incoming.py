"""The order of chunks, without disk or network: nothing but the next byte is ever written."""

from __future__ import annotations

import hashlib

import pytest

from srmudp.exceptions import DecodeError
from srmudp.files.incoming import Incoming, Write
from srmudp.files.messages import Accept, Chunk, Entry, Have, Offer
from srmudp.files.outgoing import Outgoing, Part

ID = b"12345678"
HASH = hashlib.sha256(b"").digest()
OFFER = Offer(ID, "album", True, tuple(Entry(name, size, HASH) for name, size in (("a", 5), ("b", 0), ("c", 7))))


def chunk(index: int, offset: int, data: bytes, attempt: int = 3) -> Chunk:
    return Chunk(ID, attempt, index, offset, data)


@pytest.fixture
def incoming() -> Incoming:
    core = Incoming(OFFER)
    assert core.begin(OFFER, (), 3) == Accept(ID, 3)
    return core


def test_files_come_one_after_the_other(incoming: Incoming) -> None:
    assert incoming.handle(chunk(0, 0, b"abc")) == Write(0, 0, b"abc", False)
    assert incoming.handle(chunk(0, 3, b"de")) == Write(0, 3, b"de", True)
    assert (incoming.received, incoming.is_complete) == (5, False)
    assert incoming.handle(chunk(2, 0, b"1234567")) == Write(2, 0, b"1234567", True)
    assert (incoming.received, incoming.is_complete) == (12, True)


def test_chunks_of_another_attempt_are_ignored(incoming: Incoming) -> None:
    assert incoming.handle(chunk(0, 0, b"abc", attempt=2)) is None
    assert incoming.received == 0


@pytest.mark.parametrize(
    "bad",
    [
        chunk(0, 4, b"x"),
        chunk(0, 1 << 61, b"x"),
        chunk(2, 0, b"x"),
        chunk(9, 0, b"x"),
        chunk(0, 0, b"abc"),
        chunk(0, 3, b"345"),
    ],
    ids=["gap", "sparse bomb", "next file", "no file", "begins again", "too much"],
)
def test_attack_66_anything_but_the_next_byte_is_a_fault(incoming: Incoming, bad: Chunk) -> None:
    incoming.handle(chunk(0, 0, b"abc"))
    with pytest.raises(DecodeError):
        incoming.handle(bad)


def test_after_the_last_byte_there_is_nothing(incoming: Incoming) -> None:
    incoming.handle(chunk(0, 0, b"abcde"))
    incoming.handle(chunk(2, 0, b"1234567"))
    with pytest.raises(DecodeError):
        incoming.handle(chunk(2, 7, b"8"))


def test_it_goes_on_where_it_broke_off() -> None:
    core, have = Incoming(OFFER), [Have(0, 5, HASH), Have(2, 3, HASH)]
    sender = Outgoing(OFFER)
    assert sender.accept(core.begin(OFFER, have, 9))
    assert list(sender.parts()) == [Part(2, have[1])]
    assert (core.received, core.resumed) == (8, 8)
    assert core.handle(chunk(2, 3, b"4567", 9)) == Write(2, 3, b"4567", True)
    assert core.is_complete


def test_a_sender_whose_file_begins_otherwise_sends_all_of_it() -> None:
    core = Incoming(OFFER)
    core.begin(OFFER, [Have(0, 5, HASH), Have(2, 3, HASH)], 9)
    assert core.handle(chunk(2, 0, b"12", 9)) == Write(2, 0, b"12", False)
    assert (core.received, core.resumed) == (7, 5)
    with pytest.raises(DecodeError):
        core.handle(chunk(2, 0, b"12", 9))


def test_a_sender_believes_no_more_than_it_offered() -> None:
    sender = Outgoing(OFFER)
    for have in (Have(3, 0, HASH), Have(0, 6, HASH)):
        with pytest.raises(DecodeError):
            sender.accept(Accept(ID, 1, (have,)))
    assert sender.accept(Accept(ID, 1))
    assert not sender.accept(Accept(ID, 1))
    assert [part.index for part in sender.parts()] == [0, 2]
