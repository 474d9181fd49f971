"""The generated corpus of the old wire's targets; see ``corpus.py``."""

from __future__ import annotations

import struct
from collections.abc import Callable

from srmudp.crypto.srudp import KeyPair
from srmudp.wire.srudp import (
    CONTROL_ACK,
    CONTROL_BCT,
    CONTROL_EOF,
    CONTROL_FIN,
    CONTROL_PSH,
    CONTROL_RTM,
    CycInt,
    Dialect,
    Handshake,
    Packet,
    Stage,
    packet2bin,
    probe,
    punch,
    report,
    stage_bytes,
)


def _steps(dialect: int, *datagrams: bytes, wait: int = 20) -> bytes:
    return bytes((dialect,)) + b"".join(struct.pack(">HB", len(item), wait) + item for item in datagrams)


def _packet(control: int, sequence: int, data: bytes = b"", time: float = 1.0) -> bytes:
    return packet2bin(Packet(control, CycInt(sequence), 0, time, data))


def put_old_wire(put: Callable[[str, str, bytes], None]) -> None:
    """Every file of these targets."""
    for number, dialect in enumerate(Dialect):
        public = KeyPair(lambda size: b"\5" * size, pem=bool(number)).public
        stages = {
            "punch": punch(dialect),
            "public-key": stage_bytes(dialect, Handshake(Stage.PUBLIC_KEY, public)),
            "shared-key": stage_bytes(dialect, Handshake(Stage.SHARED_KEY, public, bytes(range(64)))),
            "established": stage_bytes(dialect, Handshake(Stage.ESTABLISHED, sealed=bytes(range(50)))),
        }
        for name, data in stages.items():
            put("old_stage", f"{dialect}-{name}", data)
        put("old_public_key", str(dialect), public)
        put("old_clear", f"{dialect}-in-order", _steps(number, *stages.values(), probe(1472), report(1472)))
        put("old_clear", f"{dialect}-crossed", _steps(number, *[*stages.values()][::-1], probe(1040), wait=100))
        put("old_clear", f"{dialect}-again", _steps(number, *[*stages.values(), probe(1456)] * 3, wait=150))
        data = [_packet(CONTROL_PSH if n % 4 == 3 else 0, n, bytes(100)) for n in range(1, 12)]
        talk = {
            "in-order": data,
            "backwards": data[::-1],
            "holes": data[::2],
            "twice": data * 2,
            "far": [_packet(0, 5000), _packet(0, 4096), _packet(0, 0xFFFFFFFF), _packet(CONTROL_EOF, 1 << 31)],
            "acks": [_packet(CONTROL_ACK, n) for n in (0, 1, 5, 1 << 31, 0xFFFFFFFF)],
            "requests": [_packet(CONTROL_RTM, n) for n in (0, 1, 1, 2, 99, 0xFFFFFFFF)],
            "broadcasts": [
                _packet(CONTROL_BCT, 0, b"to all", time) for time in (1.0, float("nan"), float("inf"), -1.0)
            ],
            "goodbye": [data[0], _packet(CONTROL_FIN, 0), data[1]],
            "all-bits": [_packet(control, 1, b"x") for control in (0xFF, 0x20, 0x80, 0x06, 0)],
            "endless": [_packet(0, n, bytes(1400)) for n in range(1, 60)],
            "short": [b"", bytes(13), bytes(14)],
        }
        for name, packets in talk.items():
            put("old_sealed", f"{dialect}-{name}", _steps(number, *packets, wait=10 if name != "holes" else 120))
    put("old_packet", "whole", _packet(6, 1, b"data"))
    put("old_packet", "limits", b"\xff" * 14)
    put("old_packet", "short", bytes(13))
    put("old_probe", "largest", probe(1472))
    put("old_probe", "report", report(1472))
    put("old_probe", "lie", b"\xff" * 4)
    put("old_stage", "empty", b"")
    put("old_stage", "white-space", b"\2" + b"a " * 64 + b"+" + b"00" * 64)
    put("old_public_key", "infinity", bytes(64))
    put("old_public_key", "above", b"\xff" * 64)
