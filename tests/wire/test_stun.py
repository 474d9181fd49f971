"""STUN messages: the samples of RFC 5769, layouts by hand, and everything that is to be refused."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from srmudp.exceptions import DecodeError
from srmudp.models import Address
from srmudp.wire.stun import MAX_SIZE, StunClass, StunMessage, padded, parse_stun

SAMPLES = json.loads((Path(__file__).parent.parent / "vectors" / "stun_rfc5769.json").read_text("utf-8"))["vectors"]
ID = bytes(range(12))
HEAD = "2112a442" + ID.hex()


def raw(kind: int, *attributes: tuple[int, str]) -> bytes:
    """A message put together by hand; the values are hexadecimal."""
    body = b""
    for attribute, text in attributes:
        value = bytes.fromhex(text)
        body += attribute.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value + bytes(-len(value) % 4)
    return kind.to_bytes(2, "big") + len(body).to_bytes(2, "big") + bytes.fromhex(HEAD) + body


def finger(message: bytes) -> bytes:
    """The message with a FINGERPRINT (RFC 8489 section 14.7)."""
    message = message[:2] + (len(message) - 20 + 8).to_bytes(2, "big") + message[4:]
    return message + b"\x80\x28\x00\x04" + (zlib.crc32(message) ^ 0x5354554E).to_bytes(4, "big")


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: str(sample["name"]))
def test_samples_of_rfc_5769(sample: dict[str, Any]) -> None:
    data = bytes.fromhex(sample["hex"])
    message = parse_stun(data)
    request = "request" in sample["name"]
    assert message.kind is (StunClass.REQUEST if request else StunClass.SUCCESS)
    assert message.transaction_id.hex() == sample["transaction_id"]
    assert message.software == sample.get("software", "")
    assert message.fingerprint is sample["fingerprint"]
    mapped = sample.get("xor_mapped_address")
    assert message.address == message.xor_mapped == (Address(*mapped) if mapped else None)
    assert message.not_understood == ((0x0024,) if "priority" in sample else ())  # PRIORITY belongs to ICE
    if mapped:
        again = StunMessage(message.kind, message.transaction_id, message.xor_mapped).encode()
        assert again[20:] in data
        assert parse_stun(again).address == Address(*mapped)


@pytest.mark.parametrize("sample", [s for s in SAMPLES if s["fingerprint"]], ids=lambda sample: str(sample["name"]))
def test_any_bit_that_changes_breaks_the_fingerprint(sample: dict[str, Any]) -> None:
    """Unless it hides the attribute itself: then the message has none, and nobody promised that there is one."""
    data = bytes.fromhex(sample["hex"])
    hidden = 0
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit >> 3] ^= 1 << (bit & 7)
        try:
            assert not parse_stun(bytes(changed)).fingerprint
        except DecodeError:
            continue
        hidden += 1
    assert hidden <= 24  # of the two bytes of its type, and of lengths before it


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: str(sample["name"]))
def test_no_other_length_is_read(sample: dict[str, Any]) -> None:
    data = bytes.fromhex(sample["hex"])
    for size in range(len(data)):
        with pytest.raises(DecodeError):
            parse_stun(data[:size])
    for more in range(1, 65):
        with pytest.raises(DecodeError):
            parse_stun(data + bytes(more))


LAYOUTS = [
    (StunMessage(StunClass.REQUEST, ID), raw(0x0001)),
    (StunMessage(StunClass.INDICATION, ID), raw(0x0011)),
    # 192.0.2.1 is c0000201 and 32853 is 8055; the mask is 2112a442.
    (
        StunMessage(StunClass.SUCCESS, ID, xor_mapped=Address("192.0.2.1", 32853)),
        raw(0x0101, (0x20, "0001a147e112a643")),
    ),
    (StunMessage(StunClass.SUCCESS, ID, mapped=Address("192.0.2.1", 32853)), raw(0x0101, (0x01, "00018055c0000201"))),
    (
        StunMessage(StunClass.SUCCESS, ID, xor_mapped=Address("2001:db8::1", 1)),
        raw(0x0101, (0x20, "0002" + "2113" + "0113a9fa" + "000102030405060708090a0a")),
    ),
    (
        StunMessage(
            StunClass.SUCCESS,
            ID,
            mapped=Address("::1", 2),
            origin=Address("192.0.2.9", 3478),
            other=Address("192.0.2.10", 3479),
            software="me",
        ),
        raw(
            0x0101,
            (0x8022, "6d65"),
            (0x01, "00020002" + "00" * 15 + "01"),
            (0x802B, "00010d96c0000209"),
            (0x802C, "00010d97c000020a"),
        ),
    ),
    (
        StunMessage(StunClass.ERROR, ID, error=(420, "no"), unknown=(0x7F01, 0x0003, 0x0027)),
        raw(0x0111, (0x09, "000004146e6f"), (0x0A, "7f0100030027")),
    ),
    (StunMessage(StunClass.REQUEST, ID, change_ip=True), raw(0x0001, (0x03, "00000004"))),
    (StunMessage(StunClass.REQUEST, ID, change_ip=True, change_port=True), raw(0x0001, (0x03, "00000006"))),
    (StunMessage(StunClass.REQUEST, ID, change_port=True, fingerprint=True), finger(raw(0x0001, (0x03, "00000002")))),
]


@pytest.mark.parametrize(("message", "data"), LAYOUTS)
def test_layouts_both_ways(message: StunMessage, data: bytes) -> None:
    assert message.encode() == data
    assert parse_stun(data) == message


def test_mapped_ipv6_addresses_are_ipv4() -> None:
    message = StunMessage(StunClass.SUCCESS, ID, xor_mapped=Address("::ffff:192.0.2.1", 7))
    assert parse_stun(message.encode()).address == Address("192.0.2.1", 7)
    message = StunMessage(StunClass.SUCCESS, ID, xor_mapped=Address("fe80::1%3", 7))
    assert parse_stun(message.encode()).address == Address("fe80::1", 7)


def test_the_masked_address_is_believed_before_the_clear_one() -> None:
    clear, masked = (0x01, "00018055c0000202"), (0x20, "0001a147e112a643")
    for attributes in ((clear, masked), (masked, clear)):
        assert parse_stun(raw(0x0101, *attributes)).address == Address("192.0.2.1", 32853)


def test_of_two_attributes_the_first_counts() -> None:
    data = raw(0x0101, (0x8022, "6161"), (0x8022, "6262"), (0x01, "00018055c0000201"), (0x01, "00010001c0000209"))
    message = parse_stun(data)
    assert (message.software, message.address) == ("aa", Address("192.0.2.1", 32853))


def test_what_follows_an_integrity_attribute_is_skipped() -> None:
    """RFC 8489 sections 14.5 to 14.7: all but the other integrity attribute and the fingerprint."""
    for integrity in ((0x0008, "00" * 20), (0x001C, "00" * 32)):
        data = raw(0x0101, (0x8022, "6161"), integrity, (0x01, "00018055c0000201"), (0x7F00, ""))
        message = parse_stun(finger(data))
        assert (message.software, message.address, message.not_understood) == ("aa", None, ())
        assert message.fingerprint


def test_unknown_attributes() -> None:
    """Those below 0x8000 must be understood, others are skipped; of authentication nothing is asked here."""
    data = raw(0x0001, (0x7F01, "00"), (0x8FFF, "0000"), (0x0006, "61"), (0x0014, "61"), (0x0027, ""), (0x7F01, ""))
    assert parse_stun(data).not_understood == (0x7F01, 0x0027)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        raw(0x0001)[:19],
        raw(0x4001),  # a first byte of no STUN message
        raw(0x8001),
        raw(0x0003),  # Allocate
        raw(0x0002),
        raw(0x0101).replace(b"\x21\x12\xa4\x42", b"\x21\x12\xa4\x43"),
        raw(0x0001)[:2] + b"\x00\x04" + raw(0x0001)[4:],
        raw(0x0001)[:2] + b"\xff\xfc" + raw(0x0001)[4:],
        raw(0x0001)[:2] + b"\x00\x02" + raw(0x0001)[4:] + b"\x00\x00",
        raw(0x0101, (0x20, "0001a147e112a643"))[:-8] + b"\x00\x00\x00\x00" * 2,  # zero type, zero length, too short
        raw(0x0101, (0x20, "0003a147e112a643")),
        raw(0x0101, (0x20, "0000a147e112a643")),
        raw(0x0101, (0x20, "0001a147e112a6")),
        raw(0x0101, (0x20, "0001a147e112a64300")),
        raw(0x0101, (0x20, "0002a147e112a643")),
        raw(0x0101, (0x20, "00")),
        raw(0x0101, (0x01, "")),
        raw(0x0101, (0x802C, "0001")),
        raw(0x0001, (0x03, "000000")),
        raw(0x0111, (0x09, "000002")),
        raw(0x0111, (0x09, "00000200")),  # 200
        raw(0x0111, (0x09, "00000700")),
        raw(0x0111, (0x09, "00000464")),  # 4 and 100
        raw(0x0111, (0x0A, "7f0100")),
        raw(0x0001, (0x8028, "00000000")),
        finger(finger(raw(0x0001))),  # the first is not the last attribute
        raw(0x0001, (0x8FFF, "00" * MAX_SIZE)),
    ],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(DecodeError):
        parse_stun(data)


def test_text_is_read_leniently_and_in_bounds() -> None:
    assert parse_stun(raw(0x0101, (0x8022, "ff61c3"))).software == "a"
    assert len(parse_stun(raw(0x0101, (0x8022, "61" * 900))).software) == 763


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"transaction_id": bytes(11)}, "12 bytes"),
        ({"error": (200, "")}, "error code"),
        ({"error": (700, "")}, "error code"),
        ({"software": "é" * 382}, "764 bytes"),
        ({"mapped": Address("192.0.2.1", 65_536)}, "not a port"),
        ({"mapped": Address("nowhere", 1)}, "nowhere"),
        ({"unknown": tuple(range(700))}, "a message of"),
    ],
)
def test_what_no_reader_would_accept_is_not_written(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        replace(StunMessage(StunClass.ERROR, ID), **changes).encode()


@pytest.mark.parametrize(("size", "length"), [(1472, 1472), (1000, 1000), (31, 28), (24, 24), (23, 20), (0, 20)])
def test_a_message_can_be_made_longer(size: int, length: int) -> None:
    """To see what gets through. Whoever reads it reads the same."""
    request = StunMessage(StunClass.REQUEST, bytes(12)).encode()
    longer = padded(request, size)
    assert len(longer) == length
    assert parse_stun(longer) == parse_stun(request)
