"""The messages of a file transfer: every one survives the way, and any bytes are a message or a DecodeError."""

from __future__ import annotations

import hashlib
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srmudp.exceptions import DecodeError
from srmudp.files.messages import (
    MAX_CHUNK,
    MAX_FILES,
    Accept,
    Chunk,
    Code,
    Done,
    Entry,
    FileMessage,
    Have,
    Offer,
    Stop,
    Unknown,
    decode,
    encode,
)
from srmudp.wire.codec import encode_varint

ID = b"12345678"
HASH = hashlib.sha256(b"x").digest()
OFFER = Offer(ID, "a.txt", False, (Entry("", 5, HASH),))
FOLDER = Offer(ID, "album", True, (Entry("a.jpg", 5, HASH), Entry("b/c.jpg", 1 << 40, HASH)))


@pytest.mark.parametrize(
    "message",
    [
        OFFER,
        FOLDER,
        Offer(ID, "empty", True, ()),
        Accept(ID, 7),
        Accept(ID, 1 << 31, (Have(0, 3, HASH), Have(9, 1 << 33, HASH))),
        Stop(ID, Code.REFUSED, "no, thank you"),
        Chunk(ID, 7, 0, 1 << 40, b"data"),
        Done(ID),
        Unknown(ID),
    ],
    ids=lambda message: type(message).__name__,
)
def test_there_and_back(message: FileMessage) -> None:
    data = encode(message)
    assert decode(data) == message
    for cut in range(len(data)):
        if not isinstance(message, Chunk) or cut < len(data) - len(message.data) + 1:
            with pytest.raises(DecodeError):
                decode(data[:cut])
    if not isinstance(message, Chunk):
        with pytest.raises(DecodeError):
            decode(data + b"\0")


def test_the_example_of_the_document() -> None:
    assert encode(Offer(ID, "a", False, (Entry("", 64, HASH),))).hex() == (
        "01" + ID.hex() + "0161" + "00" + "4040" + HASH.hex()
    )
    assert encode(Chunk(ID, 1, 0, 0, b"hi")).hex() == "04" + ID.hex() + "010000" + "6869"
    assert encode(Stop(ID, Code.REFUSED, "no")).hex() == "03" + ID.hex() + "01" + "02" + "6e6f"


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_decode_error(data: bytes) -> None:
    for kind in (data[:1], *(bytes((kind,)) for kind in range(1, 7))):
        try:
            message = decode(kind + data[1:])
        except DecodeError:
            continue
        assert decode(encode(message)) == message


@pytest.mark.parametrize(
    "offer",
    [
        Offer(ID, "../a", False, (Entry("", 5, HASH),)),
        Offer(ID, "a", True, (Entry("../b", 5, HASH),)),
        Offer(ID, "a", True, (Entry("b", 5, HASH), Entry("b", 5, HASH))),
        Offer(ID, "a", True, (Entry("b/c", 5, HASH), Entry("b", 5, HASH))),
        Offer(ID, "a", True, (Entry("b", 1 << 61, HASH), Entry("c", 1 << 61, HASH))),
    ],
)
def test_attacks_64_and_66_offers_that_cannot_be(offer: Offer) -> None:
    with pytest.raises(DecodeError):
        decode(encode(offer))


def test_attack_65_a_claim_of_many_files_costs_nothing() -> None:
    head = bytes((1,)) + ID + b"\x01a" + b"\x01"
    bombs = [head + encode_varint(count) + b"\0" * 100 for count in (MAX_FILES, MAX_FILES + 1, 1 << 61)]
    bombs += [bytes((2,)) + ID + b"\0" + encode_varint(1 << 61), head + b"\x01" + b"\0" * (2 << 20)]
    tracemalloc.start()
    try:
        for bomb in bombs:
            with pytest.raises(DecodeError):
                decode(bomb)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_chunks_are_bounded() -> None:
    assert isinstance(decode(encode(Chunk(ID, 1, 0, 0, bytes(MAX_CHUNK)))), Chunk)
    for size in (0, MAX_CHUNK + 1):
        with pytest.raises(DecodeError):
            decode(encode(Chunk(ID, 1, 0, 0, bytes(size))))


def test_an_unknown_code_is_a_fault_and_a_long_reason_is_cut() -> None:
    assert decode(bytes((3,)) + ID + b"\x3f\x00") == Stop(ID, Code.FAULT, "")
    stop = decode(encode(Stop(ID, Code.REFUSED, "ü" * 300)))
    assert stop == Stop(ID, Code.REFUSED, "ü" * 100)


def test_the_digest_is_of_the_content_and_not_of_the_offer() -> None:
    again = Offer(b"abcdefgh", OFFER.name, False, OFFER.entries)
    assert again.digest == OFFER.digest
    assert Offer(ID, "b.txt", False, OFFER.entries).digest != OFFER.digest
