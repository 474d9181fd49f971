"""PROTOCOL.md against the code: its tables, its limits, its worked example and every byte of its test vector.

``python -m tests.test_protocol_document`` prints the annex as the code computes it, for pasting after a wanted change.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import re
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from srmudp import config
from srmudp.config import Config
from srmudp.crypto import keys, protection
from srmudp.crypto.backend import Backend, select_backend
from srmudp.models import Address
from srmudp.nat.invites import Invite
from srmudp.protocol import handshake
from srmudp.protocol.credit import OVERHEAD, ReceiveBudget
from srmudp.protocol.receiving import ReceiveHalf
from srmudp.protocol.sending import SendHalf
from srmudp.protocol.session import Session
from srmudp.wire import frames, packet
from srmudp.wire.frames import Ack, ChannelState, CloseCode, Established, Grant, MessagePart, SessionStart, serialise

DOCUMENT = Path(__file__).resolve().parent.parent / "PROTOCOL.md"
WRAP = 64
"""Hexadecimal digits on a line of the annex."""


@pytest.fixture(scope="module")
def text() -> str:
    return DOCUMENT.read_text(encoding="utf-8")


# --- the annex ---


def run(start: int) -> bytes:
    """32 bytes that count up from ``start``: the fixed secrets of the annex."""
    return bytes(range(start, start + 32))


def annex(backend: Backend) -> dict[str, bytes | str]:
    """Every value of the annex by its name there, computed by the code from the fixed inputs."""
    alice = keys.Identity(run(0x08), backend=backend)
    bob = keys.Identity(run(0x18), backend=backend)
    a = handshake.Self(backend, alice, bytes([0xA0]) * 16, "alice")
    b = handshake.Self(backend, bob, bytes([0xB0]) * 16, "bob")
    a_address, b_address = Address("192.0.2.1", 1001), Address("2001:db8::2", 2002)
    a_index, b_index = 0x0102030405060708, 0x1112131415161718
    a_ephemeral, b_ephemeral = run(0x40), run(0x60)

    opening = handshake.open_attempt(a, a_index, a_ephemeral, bob.peer_id)
    punch = packet.parse_punch(opening.punch)
    answer = handshake.answer_punch(b, punch, a_address, b_index, b_ephemeral, 1)
    agreed_a = handshake.read_public_key(
        a, [opening], packet.parse_public_key(answer.public_key), b_address, lambda instance: 0
    )
    agreed_b = handshake.read_shared_key(answer, packet.parse_shared_key(agreed_a.shared_key))
    assert agreed_a.secrets.handshake_hash == agreed_b.secrets.handshake_hash
    assert agreed_a.secrets.send_key == agreed_b.secrets.receive_key
    assert agreed_a.secrets.receive_key == agreed_b.secrets.send_key

    session_a = Session(backend, agreed_a, Counter(), 1 << 20, 0.0)
    session_b = Session(backend, agreed_b, Counter(), 1 << 20, 0.0)
    limits = (5000, 4_194_304, 16_777_216, 67_108_864)
    buffer = 8_388_608
    a_memory, b_memory, nothing = bytes([0xA1]) * 8, bytes([0xB1]) * 8, bytes(8)
    established = serialise(Established()) + serialise(SessionStart(b_memory, nothing, *limits, (), buffer))
    record_b0 = session_b.seal(established, 1200)
    first = b"".join(
        (
            serialise(SessionStart(a_memory, b_memory, *limits, (ChannelState(0, 0, None),), buffer)),
            serialise(Ack(250, ((0, 0),), ((0, 0),))),
            serialise(MessagePart(0, 0, 0, 10, b"Hello, Bob")),
        )
    )
    record_a0 = session_a.seal(first, 1200)
    long = serialise(MessagePart(0, 1, 0, 120, bytes(range(120))))
    record_a1 = session_a.seal(long, 100)
    segments = _datagrams(record_a1)
    again = packet.resend_segment(record_a1[0], record_a1[1], 1, 4)

    # The receiver agrees with all of it.
    for session, datagrams, plaintext in (
        (session_a, _datagrams(record_b0), established),
        (session_b, _datagrams(record_a0), first),
        (session_b, [segments[0], again, segments[2]], long),
    ):
        opened = [session.receiver.on_segment(packet.parse_segment(datagram), 0.0) for datagram in datagrams]
        last = opened[-1]
        assert last is not None
        assert last.plaintext == plaintext

    fresh_a, fresh_b = run(0x80), run(0xA0)
    public_a, public_b = backend.x25519_public(fresh_a), backend.x25519_public(fresh_b)
    shared = backend.x25519(fresh_a, public_b)
    update = protection.next_epoch(
        agreed_a.secrets.chain_secret, shared, epoch=1, initiator_public=public_a, responder_public=public_b
    )
    return {
        "A seed": run(0x08),
        "A PeerId": alice.peer_id.key,
        "A PeerId text": str(alice.peer_id),
        "A static private": alice.static_private,
        "A static public": alice.static_public,
        "B seed": run(0x18),
        "B PeerId": bob.peer_id.key,
        "B PeerId text": str(bob.peer_id),
        "B static private": bob.static_private,
        "B static public": bob.static_public,
        "verification code": keys.verification_code(alice.peer_id, bob.peer_id),
        "A ephemeral private": a_ephemeral,
        "A ephemeral public": opening.state.ephemeral_public,
        "B ephemeral private": b_ephemeral,
        "B ephemeral public": answer.public_key[10:42],
        "prologue": handshake.PROLOGUE,
        "PUNCH": opening.punch,
        "Hello of B": b.hello(1, b_index, a_address).encode(),
        "PUBLIC_KEY": answer.public_key,
        "Hello of A": a.hello(1, a_index, b_address).encode(),
        "SHARED_KEY": agreed_a.shared_key,
        "handshake hash": agreed_a.secrets.handshake_hash,
        "key A to B": agreed_a.secrets.send_key,
        "key B to A": agreed_a.secrets.receive_key,
        "chain secret": agreed_a.secrets.chain_secret,
        "B record 0 frames": established,
        "B record 0 additional data": record_b0[0].pack(),
        "B record 0 datagram": record_b0[2],
        "A record 0 frames": first,
        "A record 0 datagram": record_a0[2],
        "A record 1 frames": long,
        "A record 1 additional data": record_a1[0].pack(),
        "A record 1 segment 0": segments[0],
        "A record 1 segment 1": segments[1],
        "A record 1 segment 2": segments[2],
        "A record 1 segment 1 again": again,
        "fresh private A": fresh_a,
        "fresh private B": fresh_b,
        "fresh public A": public_a,
        "fresh public B": public_b,
        "fresh shared secret": shared,
        "epoch 1 chain secret": update.chain_secret,
        "epoch 1 key A to B": update.initiator_key,
        "epoch 1 key B to A": update.responder_key,
    }


def _datagrams(record: tuple[packet.RecordHeader, bytes, bytes]) -> list[bytes]:
    header, _, wire = record
    size = packet.RECORD_OVERHEAD + header.size
    return [wire[offset : offset + size] for offset in range(0, len(wire), size)]


def render(values: dict[str, bytes | str]) -> str:
    """The annex's code block."""
    lines = []
    for name, value in values.items():
        if isinstance(value, str):
            lines += [f"{name} =", f"    {value}"]
            continue
        digits = value.hex()
        lines.append(f"{name} ({len(value)} bytes) =")
        lines += [f"    {digits[start : start + WRAP]}" for start in range(0, len(digits), WRAP)]
    return "\n".join(lines)


def stated(text: str) -> dict[str, bytes | str]:
    """What the annex of the document says."""
    block = text[text.index("## Annex") :].split("```")[1]
    values: dict[str, bytes | str] = {}
    for name, size, body in re.findall(r"^(\w[^=\n(]*?)(?: \((\d+) bytes\))? =\n((?:    .+\n?)+)", block, re.MULTILINE):
        lines = [line.strip() for line in body.splitlines()]
        if size:
            value = bytes.fromhex("".join(lines))
            assert len(value) == int(size), name
            values[name] = value
        else:
            values[name] = " ".join(lines)
    return values


def test_the_annex_is_what_the_code_computes(text: str, backend: Backend) -> None:
    document, computed = stated(text), annex(backend)
    assert list(document) == list(computed)
    for name, value in computed.items():
        assert document[name] == value, name


# --- the same, by somebody who has only the document ---


class Reading:
    """One side of the handshake as sections 5 and 6 describe it. Uses the back end for AES-GCM and X25519 alone."""

    def __init__(self, backend: Backend, prologue: bytes) -> None:
        self.backend = backend
        self.ck = self.h = b"Noise_XX_25519_AESGCM_SHA256" + bytes(4)
        self.k: bytes | None = None
        self.n = 0
        self.mix(prologue)

    def mix(self, data: bytes) -> None:
        self.h = hashlib.sha256(self.h + data).digest()

    def hkdf(self, material: bytes, count: int) -> list[bytes]:
        key = hmac.digest(self.ck, material, "sha256")
        output = [hmac.digest(key, b"\x01", "sha256")]
        while len(output) < count:
            output.append(hmac.digest(key, output[-1] + bytes([len(output) + 1]), "sha256"))
        return output

    def dh(self, private: bytes, public: bytes) -> None:
        self.ck, self.k = self.hkdf(self.backend.x25519(private, public), 2)
        self.n = 0

    def open(self, sealed: bytes) -> bytes:
        assert self.k is not None
        plaintext = self.backend.aead(self.k).open(bytes(4) + self.n.to_bytes(8, "big"), sealed, self.h)
        self.n += 1
        self.mix(sealed)
        return plaintext


def test_the_annex_follows_from_the_document_alone(text: str, backend: Backend) -> None:
    known = {name: value if isinstance(value, bytes) else b"" for name, value in stated(text).items()}

    for side in "AB":
        digest = bytearray(hashlib.sha512(known[f"{side} seed"]).digest()[:32])
        digest[0] &= 248
        digest[31] = digest[31] & 127 | 64
        assert bytes(digest) == known[f"{side} static private"]
        assert backend.x25519_public(bytes(digest)) == known[f"{side} static public"]
        assert (
            base64.b32encode(known[f"{side} PeerId"]).decode().rstrip("=").lower()
            == stated(text)[f"{side} PeerId text"]
        )
    groups = []
    for peer_id in sorted((known["A PeerId"], known["B PeerId"])):
        digest2 = b"\0\0" + peer_id + b"srmudp"
        for _ in range(5200):
            digest2 = hashlib.sha512(digest2 + peer_id).digest()
        groups += [f"{int.from_bytes(digest2[i : i + 5], 'big') % 100_000:05}" for i in (0, 5, 10, 15, 20, 25)]
    assert " ".join(groups) == stated(text)["verification code"]

    punch, public_key, shared_key = known["PUNCH"], known["PUBLIC_KEY"], known["SHARED_KEY"]
    tag_key = hashlib.sha256(b"srmudp punch tag 1" + known["B PeerId"]).digest()
    assert punch[496:] == hmac.digest(tag_key, punch[:496], "sha256")[:16]
    assert punch[42:496] == bytes(454)

    noise = Reading(backend, b"srmudp handshake \x01")
    e_a, s_a = known["A ephemeral private"], known["A static private"]
    e_b, s_b = known["B ephemeral private"], known["B static private"]
    for part in (punch[:10], punch[10:42], punch[42:]):
        noise.mix(part)
    noise.mix(public_key[:10])
    noise.mix(public_key[10:42])
    noise.dh(e_a, public_key[10:42])
    assert noise.open(public_key[42:90]) == known["B static public"]
    noise.dh(e_a, known["B static public"])
    assert noise.open(public_key[90:]) == known["Hello of B"]
    noise.mix(shared_key[:10])
    assert noise.open(shared_key[10:58]) == known["A static public"]
    noise.dh(e_b, known["A static public"])
    assert noise.open(shared_key[58:]) == known["Hello of A"]
    assert noise.h == known["handshake hash"]
    assert noise.hkdf(b"", 3) == [known["key A to B"], known["key B to A"], known["chain secret"]]
    assert backend.x25519_public(e_a) == known["A ephemeral public"] == punch[10:42]
    assert backend.x25519_public(e_b) == known["B ephemeral public"] == public_key[10:42]
    assert s_a != s_b

    a_seal, b_seal = backend.aead(known["key A to B"]), backend.aead(known["key B to A"])
    first_b, first_a = known["B record 0 datagram"], known["A record 0 datagram"]
    assert b_seal.open(bytes(12), first_b[30:], first_b[:29]) == known["B record 0 frames"]
    assert a_seal.open(bytes(12), first_a[30:], first_a[:29]) == known["A record 0 frames"]
    again = known["A record 1 segment 1 again"]
    assert again[1:29] == known["A record 1 segment 1"][1:29]
    assert again[38:] == known["A record 1 segment 1"][30:]
    long = known["A record 1 segment 0"][30:] + again[38:] + known["A record 1 segment 2"][30:]
    assert a_seal.open(bytes(11) + b"\x01", long, b"\xc5" + again[1:29]) == known["A record 1 frames"]

    shared = backend.x25519(known["fresh private B"], known["fresh public A"])
    key = hmac.digest(known["chain secret"], shared, "sha256")
    info = b"srmudp key update 1" + (1).to_bytes(8, "big") + known["fresh public A"] + known["fresh public B"]
    output = [b""]
    for counter in (1, 2, 3):
        output.append(hmac.digest(key, output[-1] + info + bytes([counter]), "sha256"))
    assert output[1:] == [known["epoch 1 chain secret"], known["epoch 1 key A to B"], known["epoch 1 key B to A"]]


# --- tables ---


def table(text: str, heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its head."""
    match = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert match, f"no heading {heading!r}"
    rows = [line.strip().strip("|").split("|") for line in match[1].splitlines() if line.startswith("|")]
    assert len(rows) > 2, f"no table under {heading!r}"
    return [[cell.strip().strip("`") for cell in row] for row in rows[2:]]


def number(cell: str) -> int | float:
    """``65,536``, ``2^62 - 1``, ``0xc1`` or ``0.25``."""
    total: int | float = 0
    terms = re.findall(r"(-?)\s*(0x[0-9a-f]+|\d+\^\d+|[\d,]+(?:\.\d+)?)", cell)
    assert terms, cell
    for sign, digits in terms:
        base, _, exponent = digits.replace(",", "").partition("^")
        value: int | float = int(base) ** int(exponent) if exponent else float(base) if "." in base else int(base, 0)
        total += -value if sign else value
    return total


def constant(where: str, name: str) -> Any:
    """``wire.packet``, ``PUNCH_SIZE`` -> the value in the code."""
    if where == "config.Config":
        return {field.name: field.default for field in dataclasses.fields(Config)}[name]
    return getattr(import_module(f"srmudp.{where}"), name)


@pytest.mark.parametrize("heading", ["14.1 What both ends must agree on", "14.2 What this implementation chose"])
def test_limits_are_the_codes(text: str, heading: str) -> None:
    rows = table(text, heading)
    assert len({(where, name) for name, _, where, _ in rows}) == len(rows), "a limit is listed twice"
    for name, value, where, _ in rows:
        assert constant(where, name) == number(value), f"{where}.{name}"


def test_first_bytes_are_the_codes(text: str) -> None:
    rows = {name: int(number(byte)) for byte, name, *_ in table(text, "3.1 The first byte") if byte.startswith("0xc")}
    kinds = {
        kind.name: byte for byte in range(0x04, 0x100) if (kind := packet.kind_of(byte)) is not packet.Kind.UNKNOWN
    }
    assert rows == kinds
    assert rows == {name: getattr(packet, name) for name in rows}
    assert {packet.kind_of(byte) for byte in range(4)} == {packet.Kind.STUN}


def test_frame_types_are_the_codes(text: str) -> None:
    rows = {name: (int(number(kind)), eliciting) for kind, name, eliciting, *_ in table(text, "8.1 All frames")}
    codes = {name: getattr(frames, name) for name, kind in frames.__annotations__.items() if kind == "Final"}
    assert {name: kind for name, (kind, _) in rows.items()} == codes
    assert sorted(codes.values()) == list(range(len(codes)))
    silent = {re.sub("(?<!^)(?=[A-Z])", "_", kind.__name__).upper() for kind in frames._SILENT}
    assert {name for name, (_, eliciting) in rows.items() if eliciting == "no"} == silent
    assert {eliciting for _, eliciting in rows.values()} == {"yes", "no"}


def test_close_codes_are_the_codes(text: str) -> None:
    rows = {name: int(number(code)) for code, name, *_ in table(text, "12.1 Codes")}
    assert rows == {code.name: int(code) for code in CloseCode}


def test_fixed_strings_are_the_codes(text: str) -> None:
    for fixed in ("srmudp handshake ", "srmudp punch tag 1", "srmudp key update 1", "Noise_XX_25519_AESGCM_SHA256"):
        assert f'"{fixed}"' in text or f"`{fixed}`" in text
    assert handshake.PROLOGUE == b"srmudp handshake \x01"


# --- invites ---


def test_the_example_of_an_invite_follows_from_the_document_alone(text: str) -> None:
    example = next(line for line in text.splitlines() if line.startswith("srmudp:"))
    digits = example.removeprefix("srmudp:").upper()
    raw = base64.b32decode(digits.ljust(-(-len(digits) // 8) * 8, "="))
    body, checksum = raw[:-4], raw[-4:]
    assert checksum == hashlib.sha256(b"srmudp invite" + body).digest()[:4]
    peer_id = stated(text)["A PeerId"]
    assert isinstance(peer_id, bytes)
    until = (1_800_000_000).to_bytes(4, "big")
    assert body == b"\x01" + peer_id + until + bytes(2) + b"\x01\x04\xc0\x00\x02\x07\x1f\x40"
    invite = Invite.parse(example)
    assert (invite.peer_id.key, invite.addresses) == (peer_id, (Address("192.0.2.7", 8000),))
    assert invite.text() == example


# --- the worked example of flow control ---


def test_the_worked_example_of_flow_control(text: str) -> None:
    window = 65_536
    settings = Config(channel_window=window, connection_window=2 * window, max_message_size=1 << 20)
    sending = SendHalf()
    sending.set_windows(settings.channel_window, settings.connection_window)
    receiving = ReceiveHalf(settings, ReceiveBudget(settings.receive_budget, settings.max_message_size), lambda: None)
    for token in range(3):
        sending.add(token, 0, bytes(1000), None)
    sending.add(3, 0, bytes(200_000), None)

    out: list[bytes | memoryview] = []
    sent: list[tuple[Any, int, int]] = []
    sending.fill(1 << 20, out, sent, one_channel=False)
    assert [(message.sequence, start, end) for message, start, end in sent] == [
        *[(sequence, 0, 1000) for sequence in range(3)],
        (3, 0, 61_512),
    ]
    assert sending.charged == window == 3 * 1256 + OVERHEAD + 61_512

    for sequence in range(3):
        receiving.on_part(MessagePart(0, sequence, 0, 1000, bytes(1000)))
    receiving.on_part(MessagePart(0, 3, 0, 200_000, bytes(30_000)))
    assert receiving.grant_of(0, 3) == 95_536
    assert receiving.charged == 3 * 1256 + OVERHEAD == 4024

    grant = Grant(0, 3, 95_536)
    sending.on_grant(grant.channel, grant.sequence, grant.limit)
    assert sending.charged == 4024
    sent.clear()
    sending.fill(1 << 20, out, sent, one_channel=False)
    assert [(start, end) for _, start, end in sent] == [(61_512, 157_048)]
    assert sending.charged == window

    receiving.on_part(MessagePart(0, 3, 30_000, 200_000, bytes(31_512)))
    assert receiving.grant_of(0, 3) == 127_048
    for sequence in range(3):
        receiving.on_application_took(0, sequence)
    sending.on_grant(0, 3, 127_048)
    assert sending.charged == 3 * 1256 + OVERHEAD + 30_000 == 34_024
    sending.on_taken(0, 3)
    assert sending.charged == OVERHEAD + 30_000 == 30_256
    for value in (61_512, 30_000, 95_536, 4_024, 157_048, 31_512, 127_048, 34_024, 30_256):
        assert f"{value:,}" in text, f"the example does not name {value:,}"


def test_the_document_speaks_of_this_version(text: str) -> None:
    assert f"version {packet.VERSION}" in text.splitlines()[0]
    assert config.CHANNELS == 64


if __name__ == "__main__":
    print(render(annex(select_backend())))
