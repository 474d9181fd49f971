"""One fuzz target for each parser: a function from bytes to None that raises nothing but a finding.

A target hands the bytes to its parser. What the parser's documentation names (``DecodeError``, ``IdentityError``) is
right; any other exception leaves the target and is a finding. What is accepted must survive being written and read
again, where there is a writer.
"""

from __future__ import annotations

import base64
import os
import struct
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from hashlib import sha256
from typing import Any, Final

from srmudp.crypto.keys import Identity, static_key_of
from srmudp.exceptions import DecodeError, IdentityError
from srmudp.models import Address, PeerId
from srmudp.nat import invites
from srmudp.nat.stun import answer_to
from srmudp.sockets.addresses import MAX_ADDRESSES, check_name, parse_peers, parse_target
from srmudp.sockets.known_peers import KnownPeers
from srmudp.wire import frames, packet
from srmudp.wire.codec import Reader, encode_address, encode_varint, read_varint
from srmudp.wire.stun import StunClass, parse_stun
from tests.fuzz.old_wire import OLD_WIRE

Target = Callable[[bytes], None]


class Finding(AssertionError):
    """What a target raises when a promise is broken without an exception of its own."""


def require(condition: object, what: str) -> None:
    """Raise a finding unless ``condition`` holds."""
    if not condition:
        raise Finding(what)


# --- datagrams


def _handshake(parse: Callable[[bytes], Any], data: bytes) -> None:
    try:
        parsed = parse(data)
    except DecodeError:
        return
    require(data.startswith(parsed.header) and parsed.index == int.from_bytes(data[2:10], "big"), "other header")
    body = parsed.cookie + parsed.tag if isinstance(parsed, packet.CookieReply) else parsed.message
    require(parsed.header + body == data, "the parts are not the whole")
    if isinstance(parsed, packet.Punch | packet.CookieReply):
        require(parsed.tagged_bytes + parsed.tag == data, "the tag does not cover everything before it")


def segment(data: bytes) -> None:
    """``parse_segment``: a RECORD or RESEND datagram."""
    try:
        parsed = packet.parse_segment(data)
    except DecodeError:
        return
    header = parsed.header
    require(header.pack() == parsed.aad, "the packed header is another one")
    require(0 <= parsed.segment < header.count <= packet.MAX_SEGMENTS, "a segment outside its record")
    require(parsed.transmission < packet.NUMBER_LIMIT > header.number, "a number beyond the limit")
    require(0 < len(parsed.payload) <= header.size, "a payload larger than stated")
    require(data.endswith(parsed.payload), "other bytes")


def run(data: bytes) -> None:
    """``parse_run`` and ``parse_pieces``: the first two bytes are the segment size, the rest is a received batch.

    Whatever is taken at once must be what its datagrams say one by one.
    """
    size, buffer = int.from_bytes(data[:2], "big"), data[2:]
    for offset in (0, 1, size):
        some = packet.parse_pieces(buffer, offset, size)
        if some is not None:
            require(offset + size < some.following <= len(buffer), "the pieces end outside their batch")
            ends = range(offset, some.following, size)
            alone = [packet.parse_segment(buffer[at : min(at + size, some.following)]) for at in ends]
            require({(piece.header, piece.aad) for piece in alone} == {(some.header, some.aad)}, "other headers")
            require([piece.segment for piece in alone] == list(some.segments), "other segments")
            require([piece.payload for piece in alone] == list(some.payloads), "other pieces")
            require(not any(piece.resent for piece in alone), "a hint taken for a first flight")
        parsed = packet.parse_run(buffer, offset, size)
        if parsed is None:
            continue
        header, aad, ciphertext, end = parsed
        require(offset < end <= len(buffer), "the run ends outside its batch")
        pieces = [packet.parse_segment(buffer[at : min(at + size, end)]) for at in range(offset, end, size)]
        require({(piece.header, piece.aad) for piece in pieces} == {(header, aad)}, "other headers")
        require([piece.segment for piece in pieces] == list(range(header.count)), "other segments")
        require(b"".join(piece.payload for piece in pieces) == ciphertext, "other bytes")
        try:
            again = packet.cut_record(header, ciphertext)
        except (ValueError, struct.error) as error:
            raise Finding(f"what was read cannot be written: {error}") from error
        require(again == buffer[offset:end], "not what was read")


def kind(data: bytes) -> None:
    """``kind_of``: every first byte is something."""
    for byte in data:
        packet.kind_of(byte)


def hello(data: bytes) -> None:
    """``Hello.decode``: what a handshake seals."""
    try:
        parsed = packet.Hello.decode(data)
    except DecodeError:
        return
    require(packet.Hello.decode(parsed.encode()) == parsed, "not what was read")
    try:
        static_key_of(parsed.peer_id)
    except IdentityError:
        pass


def stun(data: bytes) -> None:
    """``parse_stun``: a STUN message of whoever sends one."""
    try:
        parsed = parse_stun(data)
    except DecodeError:
        return
    require(data[8:20] == parsed.transaction_id, "another transaction")
    try:
        again = parsed.encode()
    except ValueError as error:
        raise Finding(f"what was read cannot be written: {error}") from error
    require(parse_stun(again) == replace(parsed, not_understood=()), "not what was read")
    require(len(again) <= len(data), "longer than what was read")
    if parsed.kind is StunClass.REQUEST:
        for source in (Address("192.0.2.1", 1), Address("2001:db8::1", 65_535)):
            answer = answer_to(parsed, source)
            require(5 * len(answer) <= 11 * len(data), "an answer that amplifies")
            require(parse_stun(answer).transaction_id == parsed.transaction_id, "an answer to something else")


# --- frames


def record(data: bytes) -> None:
    """``parse_frames``: the plaintext of a record."""
    try:
        parsed = frames.parse_frames(data)
    except DecodeError:
        return
    require(len(parsed) <= frames.MAX_FRAMES, "too many frames")
    again = frames.parse_frames(b"".join(map(frames.serialise, parsed)))
    require(list(map(type, again)) == list(map(type, parsed)) and again == parsed, "not what was read")


def _frame(parse: Callable[[Reader], frames.Frame], data: bytes) -> None:
    reader = Reader(data)
    try:
        parsed = parse(reader)
    except DecodeError:
        return
    require(0 <= reader.offset <= len(data), "read beyond the end")
    require(frames.parse_frames(frames.serialise(parsed)) == [parsed], "not what was read")


def _part(kind: int, data: bytes) -> None:
    try:
        parsed = frames.parse_frames(bytes((kind,)) + data)
    except DecodeError:
        return
    first = parsed[0]
    assert isinstance(first, frames.MessagePart | frames.UnreliablePart)
    require(first[2] + len(first.data) <= first.total, "a part outside its message")
    require(frames.parse_frames(frames.serialise(first)) == [first], "not what was read")


# --- codec


def reader(data: bytes) -> None:
    """Each method of ``Reader`` and ``read_varint``; the first byte says which, and where to begin."""
    if not data:
        return
    choice, body = data[0], data[1:]
    offset = choice >> 4
    methods: tuple[Callable[[Reader], Any], ...] = (
        *(Reader.u8, Reader.u16, Reader.u32, Reader.u64, Reader.varint, Reader.address, Reader.optional_address),
        *(lambda r: r.take(choice), lambda r: r.prefixed(20), lambda r: r.text(64), Reader.finish),
    )
    try:
        value, end = read_varint(body, offset)
    except DecodeError:
        pass
    else:
        require(offset < end <= len(body), "read beyond the end")
        require(read_varint(encode_varint(value), 0)[0] == value, "another number")
    method = methods[(choice & 15) % len(methods)]
    taker = Reader(body, offset)
    try:
        result = method(taker)
    except DecodeError:
        return
    require(taker.offset <= max(len(body), offset) and taker.remaining >= 0, "read beyond the end")
    if method in (Reader.address, Reader.optional_address):
        require(Reader(encode_address(result)).optional_address() == result, "another address")


# --- text and files


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def address(data: bytes) -> None:
    """``parse_target``: an address as a user writes it; a line feed separates several."""
    text = _text(data)
    for spec in (text, text.split("\n"), [tuple(line.rsplit(":", 1)) for line in text.split("\n")]):
        try:
            target = parse_target("name", spec)
        except ValueError:
            continue
        require(len(target.addresses) + len(target.hosts) <= MAX_ADDRESSES, "too many addresses")
        for found in target.addresses:
            again = parse_target("name", str(found))
            require(again.addresses == (found,), f"{found} is read as {again}")


def name(data: bytes) -> None:
    """``check_name`` and a mapping of names."""
    text = _text(data)
    try:
        require(check_name(text) == text, "another name")
    except ValueError:
        pass
    try:
        parse_peers(dict.fromkeys(text.split("\n"), "192.0.2.1:5000"))
    except ValueError:
        pass


def peer_id(data: bytes) -> None:
    """``PeerId.parse`` and ``static_key_of``: text, and 32 bytes of a key."""
    text = _text(data)
    try:
        parsed = PeerId.parse(text)
    except IdentityError:
        pass
    else:
        require(str(parsed) == text.strip().lower() and PeerId.parse(str(parsed)) == parsed, "another spelling")
    try:
        require(len(static_key_of(PeerId(data[:32]))) == 32, "a key of another length")
    except IdentityError:
        pass


def invite(data: bytes) -> None:
    """``Invite.parse``: a text, and any bytes behind a right version and checksum. A refusal never quotes it."""
    body = b"\x01" + data
    text = base64.b32encode(body + sha256(b"srmudp invite" + body).digest()[:4]).decode().rstrip("=").lower()
    for tried in (_text(data), invites.PREFIX + text):
        try:
            parsed = invites.Invite.parse(tried)
        except ValueError as error:
            require(len(tried) < 60 or tried[20:50] not in str(error), "the error quotes the invite")
            continue
        require(invites.Invite.parse(parsed.text()) == parsed, "not what was written")
        require(parsed.name.isprintable() and 0 < len(parsed.addresses) <= invites.MAX_ADDRESSES, "beyond the limits")
        require(not parsed.token or repr(parsed.token) not in repr(parsed), "the token is shown")


@lru_cache(1)
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="srmudp-fuzz-")


def _file(data: bytes) -> str:
    path = os.path.join(_folder().name, f"input-{os.getpid()}")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    return path


def known_peers(data: bytes) -> None:
    """A known-peers file."""
    path = _file(data)
    try:
        loaded = KnownPeers(path)
    except IdentityError as error:
        require(str(error), "a refusal without a reason")
        return
    loaded.record("new one", PeerId(bytes(31) + b"\x01"), pinned=True)
    loaded.save()
    require(len(KnownPeers(path)) == len(loaded), "not what was written")


def key_file(data: bytes) -> None:
    """An identity file. A refusal never quotes it."""
    path = _file(data)
    try:
        loaded = Identity.load(path)
    except IdentityError as error:
        secret = data.partition(b"seed ")[2][:64]
        require(len(secret) < 16 or secret.decode("latin-1") not in str(error), "the error quotes the seed")
        return
    require(str(loaded.peer_id).encode() in data, "another identity than the file states")


def named_frames() -> dict[str, Callable[[Reader], frames.Frame]]:
    """Every frame class that reads itself, by name."""
    kinds = (frames.Ping, frames.Ack, frames.SessionStart, frames.Taken, frames.Grant, frames.Withdrawn, frames.Close)
    more = (frames.PathChallenge, frames.PathResponse, frames.KeyUpdate, frames.KeyUpdateReply, frames.SingleOnly)
    rest = (frames.Window, frames.ObservedAddress, frames.Established, frames.Candidates)
    return {kind.__name__: kind.parse for kind in (*kinds, *more, *rest)}


PARSERS: Final[dict[str, Target]] = {
    "punch": partial(_handshake, packet.parse_punch),
    "public_key": partial(_handshake, packet.parse_public_key),
    "shared_key": partial(_handshake, packet.parse_shared_key),
    "cookie": partial(_handshake, packet.parse_cookie),
    "segment": segment,
    "run": run,
    "kind": kind,
    "hello": hello,
    "stun": stun,
    "record": record,
    **{f"frame_{name}": partial(_frame, parse) for name, parse in named_frames().items()},
    "frame_MessagePart": partial(_part, frames.MESSAGE_PART),
    "frame_UnreliablePart": partial(_part, frames.UNRELIABLE_PART),
    "reader": reader,
    **OLD_WIRE,
    "address": address,
    "name": name,
    "peer_id": peer_id,
    "invite": invite,
    "known_peers": known_peers,
    "key_file": key_file,
}
"""The targets that are one parser each, by name. None takes a hundredth of a second."""
