"""Fuzz targets of the old wire: its parsers, and a connection that is given anything, in the clear and sealed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Final

from srmudp.config import Config
from srmudp.crypto.backend import select_backend
from srmudp.crypto.srudp import KeyPair
from srmudp.exceptions import AuthenticationError, DecodeError
from srmudp.protocol.srudp import OldConnection
from srmudp.wire.srudp import Dialect, packet2bin, parse_packet, parse_probe, parse_stage, probe, report, stage_bytes

LIMIT: Final = 60_000
"""Bytes of the largest message of the connections here."""


class Broken(AssertionError):
    """A promise that was not kept."""


def require(condition: object, what: str) -> None:
    if not condition:
        raise Broken(what)


def old_stage(data: bytes) -> None:
    """``parse_stage`` of both dialects: what is read is written the same, but for the case of hexadecimal digits."""
    for dialect in Dialect:
        try:
            handshake = parse_stage(dialect, data)
        except DecodeError:
            continue
        require(stage_bytes(dialect, handshake).lower() == data.lower(), "written otherwise than read")


def old_packet(data: bytes) -> None:
    """``parse_packet``: every packet of 14 bytes or more is one, and is written as it was read."""
    try:
        packet = parse_packet(data)
    except DecodeError:
        require(len(data) < 14, "a whole packet was refused")
        return
    require(packet.time != packet.time or packet2bin(packet) == data, "written otherwise than read")
    require(len(repr(packet)) < 400, "a long repr")


def old_probe(data: bytes) -> None:
    """``parse_probe``."""
    found = parse_probe(data)
    if found is not None:
        require((report if found.is_report else probe)(found.size) == data, "written otherwise than read")


@cache
def _pair(pem: bool) -> KeyPair:
    return KeyPair(lambda size: bytes(size), pem=pem)


def old_public_key(data: bytes) -> None:
    """Public keys of both dialects, as they come from the network."""
    for pem in (False, True):
        try:
            _pair(pem).agree(data)
        except AuthenticationError:
            continue


class _Open:
    """An envelope that hides nothing, so that mutations reach what is inside."""

    def seal(self, plaintext: bytes) -> bytes:
        return bytes(32) + plaintext

    def open(self, envelope: bytes) -> bytes:
        if envelope[:32] != bytes(32):
            raise AuthenticationError("not one of ours")
        return envelope[32:]


def _connection(dialect: Dialect, count: list[int]) -> OldConnection:
    def random(size: int) -> bytes:
        count[0] += 1
        return count[0].to_bytes(size, "big")

    config = Config(max_message_size=LIMIT, receive_budget=LIMIT, channel_window=65_536, connection_window=65_536)
    return OldConnection(dialect, config, select_backend(), random, Counter(), timeout=21.0, span=3.0)


def _steps(data: bytes) -> list[tuple[float, bytes]]:
    """(seconds to wait, datagram): two bytes of length, one of time, the datagram."""
    steps, offset = [], 0
    while offset + 3 <= len(data) and len(steps) < 60:
        size = int.from_bytes(data[offset : offset + 2], "big") % 1600
        wait = (data[offset + 2] / 100) ** 3
        steps.append((wait, data[offset + 3 : offset + 3 + size]))
        offset += 3 + size
    return steps


def _play(data: bytes, seal: Callable[[bytes], bytes] | None) -> None:
    dialect = tuple(Dialect)[data[0] & 1] if data else Dialect.SRUDP
    count = [0]
    connection = _connection(dialect, count)
    now = 100.0
    connection.punch()
    connection.send_message(1, bytes(20_000), 0, True, None)
    connection.send_message(2, b"broadcast", 0, False, None)
    for wait, datagram in _steps(data[1:]):
        if seal is not None and not connection.established:
            connection._envelope = _Open()  # type: ignore[assignment]
            connection._heard_at = connection._pinged_at = now
            connection._establish()
        now += wait
        connection.on_datagram(datagram if seal is None else seal(datagram), now)
        _drain(connection, now)
    for _ in range(3):
        _drain(connection, now)
        when = connection.next_timer()
        now = max(now, when) if when is not None else now + 1.0


def _drain(connection: OldConnection, now: float) -> None:
    sent = spins = 0
    while (when := connection.next_timer()) is not None and when <= now:
        connection.on_timer(now)
        while connection.poll_transmit(now) is not None:
            sent += 1
        spins += 1
        require(spins < 20, "a timer that is never served")
    while connection.poll_transmit(now) is not None:
        sent += 1
    require(sent < 200, "one datagram had hundreds sent")
    receiving = connection.receiving
    require(len(receiving._held) <= 4096 >= len(receiving._missing), "too many packets kept")
    require(receiving._held_bytes <= 1 << 20, "too many bytes kept")
    require(all(len(content) <= LIMIT for _, content in connection.arrived), "a message above the limit")
    require(len(connection._seen) <= 1025, "too many broadcasts remembered")
    for channel, content in connection.arrived:
        connection.application_took(channel, len(content))
    connection.arrived = []
    connection.drain_settled()
    connection.signals.clear()


def old_clear(data: bytes) -> None:
    """Datagrams from the address of a peer that has not been heard yet. The first byte chooses the dialect."""
    _play(data, None)


def old_sealed(data: bytes) -> None:
    """Packets in a session with a hostile old peer. The first byte chooses the dialect."""
    _play(data, _Open().seal)


OLD_WIRE: Final[dict[str, Callable[[bytes], None]]] = {
    "old_stage": old_stage,
    "old_packet": old_packet,
    "old_probe": old_probe,
    "old_public_key": old_public_key,
    "old_clear": old_clear,
    "old_sealed": old_sealed,
}
"""The targets of this module, by name."""
