"""The old wire: bytes as the published programs make and read them, and sequence numbers at the wrap."""

from __future__ import annotations

import pickle
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srmudp.exceptions import DecodeError
from srmudp.wire.srudp import (
    CONTROL_EOF,
    CONTROL_FIN,
    CONTROL_PSH,
    CYC_INT0,
    FLAG_NAMES,
    LARGEST_PROBE,
    SMALLEST_PROBE,
    CycInt,
    Dialect,
    Handshake,
    Packet,
    Probe,
    Stage,
    bin2packet,
    dialect_of_punch,
    packet2bin,
    packet_struct,
    parse_packet,
    parse_probe,
    parse_stage,
    probe,
    punch,
    report,
    stage_bytes,
)

RAW_KEY = bytes(range(64))
PEM = b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"
SEALED_KEY = bytes(range(100, 164))
SEALED_CHECK = bytes(range(50))


def test_packet_is_what_old_programs_put_in_the_envelope() -> None:
    """The header by hand: control, sequence, retry, time; little-endian, no padding."""
    packet = Packet(CONTROL_PSH | CONTROL_EOF, CycInt(0x01020304), 5, 1.0, b"data")
    assert packet2bin(packet) == bytes.fromhex("06 04030201 05 000000000000f03f") + b"data"
    assert bin2packet(packet2bin(packet)) == packet
    assert (packet_struct.size, packet_struct.format) == (14, "<BIBd")


def test_packet_has_a_sixth_field_that_is_not_on_the_wire() -> None:
    packet = bin2packet(packet2bin(Packet(0, CYC_INT0, 0, 0.0, b"")), ("192.0.2.1", 5))
    assert packet.sender_address == ("192.0.2.1", 5)
    assert len(packet) == 6
    assert type(packet.sequence) is CycInt


def test_repr_of_a_packet_shows_no_data() -> None:
    assert repr(Packet(CONTROL_FIN, CYC_INT0, 0, 1.239, b"secret")) == "Packet(FIN seq:0 retry:0 time:1.24 6b)"
    assert "PSH+EOF" in repr(Packet(6, CYC_INT0, 0, 1.0, b"", ("192.0.2.1", 5)))
    assert "0xff" in repr(Packet(255, CYC_INT0, 0, float("nan"), b""))
    assert FLAG_NAMES[0] == "---"


def test_short_packets() -> None:
    """Old programs get the error of ``struct``; what comes from a peer is a ``DecodeError``."""
    for size in range(14):
        with pytest.raises(struct.error):
            bin2packet(bytes(size))
        with pytest.raises(DecodeError):
            parse_packet(bytes(size))
    assert parse_packet(bytes(14)) == Packet(0, CYC_INT0, 0, 0.0, b"")


def test_sequence_numbers_wrap() -> None:
    last = CycInt(0xFFFFFFFF)
    following, preceding = last + 1, CycInt(0) - 1
    assert (following, preceding) == (0, last)
    assert [type(following), type(preceding)] == [CycInt, CycInt]
    assert last < following < CycInt(1)
    assert sorted([CycInt(1), last, CYC_INT0, last - 1]) == [last - 1, last, 0, 1]


def test_sequence_numbers_are_integers_otherwise() -> None:
    assert hash(CycInt(7)) == hash(7)
    assert {CycInt(7): 1}[CycInt(7)] == 1
    assert CycInt(7) != "7"
    assert pickle.loads(pickle.dumps(CycInt(7))) == 7
    assert f"{CycInt(0xFFFFFFFF)}" == "4294967295"


@given(st.integers(0, 0xFFFFFFFF), st.integers(1, 0x7FFFFFFF))
def test_order_is_that_of_the_shorter_way_round(start: int, step: int) -> None:
    before, after = CycInt(start), CycInt(start) + step
    assert (before < after, before <= after, before == after, before >= after, before > after) == (
        True,
        True,
        False,
        False,
        False,
    )
    assert (after < before, after <= before, after >= before, after > before) == (False, False, True, True)
    assert (after - step, after - before) == (before, step)


@pytest.mark.parametrize(
    ("dialect", "handshake", "wire"),
    [
        (Dialect.SRUDP, Handshake(Stage.PUNCH), b"\0udp hole punchingNIST256p"),
        (Dialect.SRMUDP_0_0_4, Handshake(Stage.PUNCH), b"\0udp hole punchingP-256"),
        (Dialect.SRUDP, Handshake(Stage.PUBLIC_KEY, RAW_KEY), b"\1" + RAW_KEY),
        (Dialect.SRMUDP_0_0_4, Handshake(Stage.PUBLIC_KEY, PEM), b"\1" + PEM),
        (
            Dialect.SRUDP,
            Handshake(Stage.SHARED_KEY, RAW_KEY, SEALED_KEY),
            b"\2" + RAW_KEY.hex().encode() + b"+" + SEALED_KEY.hex().encode(),
        ),
        (
            Dialect.SRMUDP_0_0_4,
            Handshake(Stage.SHARED_KEY, PEM, SEALED_KEY),
            b"\2" + PEM + b"|KEY|" + SEALED_KEY.hex().encode(),
        ),
        (Dialect.SRUDP, Handshake(Stage.ESTABLISHED, sealed=SEALED_CHECK), b"\3" + SEALED_CHECK),
    ],
)
def test_stages_of_the_handshake(dialect: Dialect, handshake: Handshake, wire: bytes) -> None:
    assert stage_bytes(dialect, handshake) == wire
    assert parse_stage(dialect, wire) == handshake


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"\0",
        b"\0udp hole punching",
        b"\0udp hole punchingsecp256k1",
        b"\1",
        b"\2",
        b"\2+",
        b"\2" + RAW_KEY.hex().encode() + b"+" + b"zz" * 64,
        b"\2" + RAW_KEY.hex().encode() + b"+" + b"a b " * 32,
        b"\2" + b"00" * 64 + b"+" + b"00" * 63,
        b"\2" + PEM + b"|KEY|" + b"\xff" * 128,
        b"\3" + bytes(49),
        b"\4",
        b"\1" + bytes(1024),
    ],
)
def test_what_is_no_stage_is_a_decode_error(dialect: Dialect, datagram: bytes) -> None:
    with pytest.raises(DecodeError):
        parse_stage(dialect, datagram)


def test_a_punch_tells_the_dialect() -> None:
    assert [dialect_of_punch(punch(dialect)) for dialect in Dialect] == list(Dialect)
    assert dialect_of_punch(b"\0udp hole punching") is None
    with pytest.raises(DecodeError):
        parse_stage(Dialect.SRUDP, punch(Dialect.SRMUDP_0_0_4))


def test_probes_and_reports() -> None:
    assert parse_probe(probe(LARGEST_PROBE)) == Probe(1472, False)
    assert report(1472) == b"\xc0\x05\0\0"
    assert parse_probe(report(1472)) == Probe(1472, True)
    for size in (0, 3, 5, SMALLEST_PROBE - 1, 1501):
        assert parse_probe(probe(size)) is None
    for size in (0, 35, 1039, 1501, 0xFFFFFFFF):
        assert parse_probe(report(size)) is None
    assert parse_probe(b"#" * 1471 + b"!") is None


@pytest.mark.parametrize("dialect", Dialect)
@given(datagram=st.binary(max_size=1200))
def test_any_bytes_are_a_value_or_a_decode_error(dialect: Dialect, datagram: bytes) -> None:
    for head in (b"", b"\0", b"\1", b"\2", b"\3"):
        try:
            handshake = parse_stage(dialect, head + datagram)
        except DecodeError:
            pass
        else:
            assert stage_bytes(dialect, handshake).lower() == (head + datagram).lower()
    parse_probe(datagram)
