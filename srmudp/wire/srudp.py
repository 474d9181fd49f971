"""The old wire of srudp and of srmudp 0.0.4: packets, wrapping sequence numbers, stages of the handshake. Pure.

A conversation has three parts, each with datagrams of its own:

1. handshake, in the clear: one stage byte and a body (:func:`parse_stage`);
2. path MTU: runs of ``#``, and answers of four bytes (:func:`parse_probe`);
3. packets: sealed (see ``crypto/srudp.py``), inside a header of 14 bytes and data (:class:`Packet`).

All integers of packets are little-endian. The names in capitals, :class:`Packet`, :class:`CycInt`,
:func:`bin2packet` and :func:`packet2bin` are those that programs written for the old packages import.
"""

from __future__ import annotations

import struct
from enum import StrEnum
from typing import Final, NamedTuple

from ..exceptions import DecodeError

CONTROL_ACK: Final = 0b0000_0001
"""Everything up to and with the sequence is received."""
CONTROL_PSH: Final = 0b0000_0010
"""Answer with an ACK."""
CONTROL_EOF: Final = 0b0000_0100
"""The last packet of what was given to one ``send``; of a message, where there are messages."""
CONTROL_BCT: Final = 0b0000_1000
"""Unreliable and outside the sequence; srudp alone has it."""
CONTROL_RTM: Final = 0b0001_0000
"""Send the packet of this sequence again."""
CONTROL_FIN: Final = 0b0100_0000
"""The sender has closed."""

FLAG_NAMES: Final = {
    0: "---",
    CONTROL_ACK: "ACK",
    CONTROL_PSH: "PSH",
    CONTROL_EOF: "EOF",
    CONTROL_PSH | CONTROL_EOF: "PSH+EOF",
    CONTROL_BCT: "BCT",
    CONTROL_RTM: "RTM",
    CONTROL_FIN: "FIN",
}

WINDOW_MAX_SIZE: Final = 32_768
SEND_BUFFER_SIZE: Final = 8 * WINDOW_MAX_SIZE
"""Bytes an old sender has unacknowledged before it waits."""
MAX_RETRANSMIT_LIMIT: Final = 4
"""Packets an old sender repeats of its own accord at once."""

packet_struct: Final = struct.Struct("<BIBd")
"""Control, sequence, retry, time: what stands before the data of a packet."""

ENVELOPE: Final = 32
"""Bytes that sealing adds: a nonce and a tag of 16 each."""
OVERHEAD: Final = ENVELOPE + packet_struct.size
"""Bytes of a datagram that are not data."""

LARGEST_PROBE: Final = 1472
"""UDP payload of the first MTU probe: an Ethernet frame over IPv4."""
SMALLEST_PROBE: Final = 1040
"""UDP payload of the last one."""
PROBE_STEP: Final = 16
LARGEST_MTU: Final = 1500
"""Bytes old programs read of a datagram while they probe; larger reports are lies."""

_MODULUS: Final = 1 << 32
_HALF: Final = 1 << 31


class CycInt(int):
    """A sequence number of 32 bits that begins again at 0: sums wrap, and order is that of the shorter way round.

    ``a < b`` if ``b`` is less than half the circle ahead of ``a`` (RFC 1982 section 3.2).

    Example::

        >>> CycInt(0xFFFFFFFF) + 1, CycInt(0xFFFFFFFF) < CycInt(3), CycInt(2) - 3
        (0, True, 4294967295)
    """

    __slots__ = ()

    def __add__(self, other: int) -> CycInt:
        return CycInt((int(self) + int(other)) % _MODULUS)

    def __sub__(self, other: int) -> CycInt:
        return CycInt((int(self) - int(other)) % _MODULUS)

    def __hash__(self) -> int:
        return hash(int(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int) and int(self) == int(other)

    def __lt__(self, other: int) -> bool:
        return 0 < (int(other) - int(self)) % _MODULUS < _HALF

    def __le__(self, other: int) -> bool:
        return (int(other) - int(self)) % _MODULUS < _HALF

    def __gt__(self, other: int) -> bool:
        return not self <= other

    def __ge__(self, other: int) -> bool:
        return not self < other


CYC_INT0: Final = CycInt(0)


class Packet(NamedTuple):
    """What an old program sends inside the envelope, and what its hooks are given.

    Attributes:
        control: an or of ``CONTROL_*``.
        sequence: of the packet; of what is acknowledged or asked for in an ACK or RTM; 0 in a FIN or BCT.
        retry: how often it was sent before.
        time: wall clock of the sender, seconds.
        data: at most what the path MTU leaves.
        sender_address: where it came from; not on the wire.
    """

    control: int
    sequence: CycInt
    retry: int
    time: float
    data: bytes
    sender_address: tuple[str, int] | None = None

    def __repr__(self) -> str:
        """Without the data, so that no log shows it."""
        name = FLAG_NAMES.get(self.control, hex(self.control))
        source = f" from={self.sender_address[0]}:{self.sender_address[1]}" if self.sender_address else ""
        return (
            f"Packet({name} seq:{int(self.sequence)} retry:{self.retry} time:{self.time:.2f} {len(self.data)}b{source})"
        )


def bin2packet(b: bytes, sender_address: tuple[str, int] | None = None) -> Packet:
    """Read a packet.

    Raises:
        struct.error: fewer than 14 bytes, as old programs expect it.
    """
    control, sequence, retry, time = packet_struct.unpack_from(b)
    return Packet(control, CycInt(sequence), retry, time, bytes(b[packet_struct.size :]), sender_address)


def packet2bin(p: Packet) -> bytes:
    """The bytes of a packet.

    Raises:
        struct.error: a field does not fit: ``retry`` and ``control`` are a byte each, the sequence 32 bits.
    """
    return packet_struct.pack(p.control, int(p.sequence), p.retry, p.time) + p.data


def parse_packet(data: bytes) -> Packet:
    """Read a packet that a peer sent.

    Raises:
        DecodeError: fewer than 14 bytes.
    """
    if len(data) < packet_struct.size:
        raise DecodeError("a packet of the old wire is cut short")
    return bin2packet(data)


class Dialect(StrEnum):
    """Which of the two old programs is spoken to. Their handshakes differ, their packets hardly."""

    SRUDP = "srudp"
    """srudp up to 0.3.8: raw keys, a byte stream, broadcasts."""
    SRMUDP_0_0_4 = "srmudp-0.0.4"
    """The published srmudp: keys in PEM, whole messages."""

    @property
    def curve(self) -> bytes:
        """What its punch calls the curve NIST P-256."""
        return b"NIST256p" if self is Dialect.SRUDP else b"P-256"


class Stage(StrEnum):
    """Stages of the handshake."""

    PUNCH = "\0"
    """I am here, and this is my curve."""
    PUBLIC_KEY = "\1"
    """I heard you; my public key."""
    SHARED_KEY = "\2"
    """My public key, and the key of the session sealed for you."""
    ESTABLISHED = "\3"
    """I have the key: a known text, sealed under it."""


class Handshake(NamedTuple):
    """One datagram of the handshake.

    Attributes:
        public: a public key in the dialect's form, in PUBLIC_KEY and SHARED_KEY.
        sealed: an envelope, in SHARED_KEY and ESTABLISHED.
    """

    stage: Stage
    public: bytes = b""
    sealed: bytes = b""


PUNCH_TEXT: Final = b"udp hole punching"
CHECK_TEXT: Final = b"success hand shake"
"""What ESTABLISHED has in its envelope."""
KEY_ENVELOPE: Final = ENVELOPE + 32
"""Bytes of an envelope that has a session key in it."""
LARGEST_HANDSHAKE: Final = 1024
"""Bytes old programs read of a datagram of the handshake."""
_RAW_KEY: Final = 64
_PEM_HEAD: Final = b"-----BEGIN PUBLIC KEY-----"
_PEM_SEPARATOR: Final = b"|KEY|"
_STAGES: Final = {ord(stage): stage for stage in Stage}


def punch(dialect: Dialect) -> bytes:
    """The datagram that opens the way and the conversation."""
    return Stage.PUNCH.encode() + PUNCH_TEXT + dialect.curve


def stage_bytes(dialect: Dialect, handshake: Handshake) -> bytes:
    """The datagram of a stage.

    Args:
        handshake: ``public`` in the form of the dialect (64 raw bytes, or PEM).
    """
    stage, public, sealed = handshake
    if stage is Stage.PUNCH:
        return punch(dialect)
    if stage is Stage.PUBLIC_KEY:
        body = public
    elif stage is Stage.ESTABLISHED:
        body = sealed
    elif dialect is Dialect.SRUDP:
        body = f"{public.hex()}+{sealed.hex()}".encode()
    else:
        body = public + _PEM_SEPARATOR + sealed.hex().encode()
    return stage.encode() + body


def parse_stage(dialect: Dialect, datagram: bytes) -> Handshake:
    """Read a datagram of the handshake.

    Raises:
        DecodeError: it is none of this dialect: an unknown stage, another curve, fields of another size.
    """
    stage = _STAGES.get(datagram[0]) if datagram else None
    if stage is None or len(datagram) > LARGEST_HANDSHAKE:
        raise DecodeError("not a stage of the old handshake")
    body = datagram[1:]
    if stage is Stage.PUNCH:
        if body != PUNCH_TEXT + dialect.curve:
            raise DecodeError("a punch of another dialect")
        return Handshake(stage)
    if stage is Stage.PUBLIC_KEY:
        return Handshake(stage, _public(dialect, body))
    if stage is Stage.ESTABLISHED:
        if len(body) != ENVELOPE + len(CHECK_TEXT):
            raise DecodeError("an old ESTABLISHED of another size")
        return Handshake(stage, sealed=body)
    public, _, sealed = body.partition(b"+" if dialect is Dialect.SRUDP else _PEM_SEPARATOR)
    key = _unhex(public) if dialect is Dialect.SRUDP else public
    return Handshake(stage, _public(dialect, key), _unhex(sealed, KEY_ENVELOPE))


def _public(dialect: Dialect, body: bytes) -> bytes:
    if len(body) != _RAW_KEY if dialect is Dialect.SRUDP else not body.startswith(_PEM_HEAD):
        raise DecodeError("an old public key in another form")
    return body


def _unhex(text: bytes, size: int | None = None) -> bytes:
    # bytes.fromhex skips white space, which nobody sends.
    if size is not None and len(text) != 2 * size:
        raise DecodeError("hexadecimal text of another length")
    try:
        value = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        raise DecodeError("not hexadecimal text") from None
    if 2 * len(value) != len(text):
        raise DecodeError("white space in hexadecimal text")
    return value


def dialect_of_punch(datagram: bytes) -> Dialect | None:
    """Which old program sent this first punch; None if none did."""
    return next((dialect for dialect in Dialect if datagram == punch(dialect)), None)


class Probe(NamedTuple):
    """A datagram of path MTU discovery.

    Attributes:
        size: bytes of the probe itself, or what the other end reports to have received.
        is_report: True for a report.
    """

    size: int
    is_report: bool


def probe(size: int) -> bytes:
    """A datagram of ``size`` bytes to see whether it arrives."""
    return b"#" * size


def report(size: int) -> bytes:
    """The answer to probes: the size of the largest that came."""
    return size.to_bytes(4, "little")


def parse_probe(datagram: bytes) -> Probe | None:
    """Read a probe or a report. None if it is neither; a size no path has makes it neither."""
    size = len(datagram)
    if size == 4:
        size = int.from_bytes(datagram, "little")
        return Probe(size, True) if SMALLEST_PROBE <= size <= LARGEST_MTU else None
    if SMALLEST_PROBE <= size <= LARGEST_MTU and datagram.count(b"#") == size:
        return Probe(size, False)
    return None
