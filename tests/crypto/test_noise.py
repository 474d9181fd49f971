"""The XX handshake against the official vectors, and against forgers."""

from __future__ import annotations

import copy
import hmac
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from srmudp.crypto.backend import Backend, select_backend
from srmudp.crypto.noise import CipherState, HandshakeState, SymmetricState
from srmudp.exceptions import AuthenticationError, DecodeError, LocalProtocolError

FILE = Path(__file__).parent.parent / "vectors" / "noise_xx_25519_AESGCM_SHA256.json"
VECTORS = json.loads(FILE.read_text())["vectors"]


@pytest.fixture(params=["pycryptodome", "cryptography"])
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == "cryptography":
        pytest.importorskip("cryptography")
    return select_backend(request.param)


def make(backend: Backend, initiator: bool, *, prologue: bytes = b"test", tweak: int = 0) -> HandshakeState:
    static = bytes([1 + initiator]) * 32
    return HandshakeState(
        backend,
        initiator=initiator,
        prologue=prologue,
        static_private=static,
        static_public=backend.x25519_public(static),
        ephemeral_private=bytes([0x71 + initiator + tweak]) * 32,
    )


def exchange(a: HandshakeState, b: HandshakeState) -> list[bytes]:
    """A whole handshake with a header and a payload in each message; gives the messages."""
    messages = []
    for i, (writer, reader) in enumerate(((a, b), (b, a), (a, b))):
        message = writer.write_message(b"payload %d" % i, b"header %d" % i)
        assert reader.read_message(message, b"header %d" % i) == b"payload %d" % i
        messages.append(message)
    return messages


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: str(v["source"]))
def test_official_vectors(backend: Backend, vector: dict[str, Any]) -> None:
    assert vector["protocol_name"] == "Noise_XX_25519_AESGCM_SHA256"
    sides = []
    for side in ("init", "resp"):
        static = bytes.fromhex(vector[f"{side}_static"])
        sides.append(
            HandshakeState(
                backend,
                initiator=side == "init",
                prologue=bytes.fromhex(vector[f"{side}_prologue"]),
                static_private=static,
                static_public=backend.x25519_public(static),
                ephemeral_private=bytes.fromhex(vector[f"{side}_ephemeral"]),
            )
        )
    messages = [(bytes.fromhex(m["payload"]), m["ciphertext"]) for m in vector["messages"]]
    assert len(messages) > 3
    for i, (payload, ciphertext) in enumerate(messages[:3]):
        writer, reader = sides[i % 2], sides[1 - i % 2]
        assert not writer.complete
        assert not reader.complete
        message = writer.write_message(payload)
        assert message.hex() == ciphertext
        assert reader.read_message(message) == payload
    initiator, responder = sides
    assert initiator.complete
    assert responder.complete
    assert initiator.remote_static == backend.x25519_public(bytes.fromhex(vector["resp_static"]))
    assert responder.remote_static == backend.x25519_public(bytes.fromhex(vector["init_static"]))
    assert initiator.remote_ephemeral == responder.ephemeral_public
    ours, theirs = initiator.split(), responder.split()
    assert (ours.send_key, ours.receive_key) == (theirs.receive_key, theirs.send_key)
    if "handshake_hash" in vector:
        assert ours.handshake_hash.hex() == theirs.handshake_hash.hex() == vector["handshake_hash"]
    seal = [CipherState(backend, theirs.send_key), CipherState(backend, ours.send_key)]
    open_ = [CipherState(backend, ours.receive_key), CipherState(backend, theirs.receive_key)]
    # Fourth message onwards: the responder begins, then they take turns.
    for i, (payload, ciphertext) in enumerate(messages[3:]):
        assert seal[i % 2].encrypt_with_ad(b"", payload).hex() == ciphertext
        assert open_[i % 2].decrypt_with_ad(b"", bytes.fromhex(ciphertext)) == payload


def test_chain_secret_is_the_third_output(backend: Backend) -> None:
    a, b = make(backend, True), make(backend, False)
    exchange(a, b)
    ours, theirs = a.split(), b.split()
    assert ours.chain_secret == theirs.chain_secret
    # HKDF as the Noise specification writes it, section 4.3, from the final chaining key.
    temp = hmac.digest(a._symmetric._ck, b"", "sha256")
    one = hmac.digest(temp, b"\1", "sha256")
    two = hmac.digest(temp, one + b"\2", "sha256")
    three = hmac.digest(temp, two + b"\3", "sha256")
    assert (ours.send_key, ours.receive_key, ours.chain_secret) == (one, two, three)
    assert len({one, two, three, ours.handshake_hash}) == 4
    again = a.split()
    assert (again.send_key, again.chain_secret) == (ours.send_key, ours.chain_secret)


def test_header_is_mixed_in_before_the_message(backend: Backend) -> None:
    """Attack 31: a changed clear header byte of any of the three messages makes the handshake fail."""
    for changed in range(3):
        a, b = make(backend, True), make(backend, False)
        failed = False
        for i, (writer, reader) in enumerate(((a, b), (b, a), (a, b))):
            message = writer.write_message(b"payload", b"header")
            try:
                reader.read_message(message, b"headeR" if i == changed else b"header")
            except AuthenticationError:
                failed = True
                break
        # The first message is in clear; that its header was changed shows in the second.
        assert failed
        assert i == max(changed, 1)


def test_empty_header_is_no_header(backend: Backend) -> None:
    one, two = make(backend, True), make(backend, True)
    one.write_message(b"x")
    two.write_message(b"x", b"")
    assert one._symmetric.get_handshake_hash() == two._symmetric.get_handshake_hash()


def test_other_prologue_fails(backend: Backend) -> None:
    """Attack 29."""
    a, b = make(backend, True), make(backend, False, prologue=b"other")
    b.read_message(a.write_message(b""))
    with pytest.raises(AuthenticationError):
        a.read_message(b.write_message(b""))


@pytest.mark.parametrize("index", [1, 2])
def test_every_flipped_byte_is_refused_and_a_copy_protects(backend: Backend, index: int) -> None:
    """Attacks 8 and 71: a forged message, read on a copy, changes nothing."""
    a, b = make(backend, True), make(backend, False)
    b.read_message(a.write_message(b""))
    reader, message = a, b.write_message(b"who I am")
    if index == 2:
        a.read_message(message)
        reader, message = b, a.write_message(b"who I am")
    step = 1 if backend.name == "cryptography" else 13
    for i in range(0, len(message), step):
        forged = bytearray(message)
        forged[i] ^= 0x10
        if index == 1 and i == 31:
            forged[i] = message[i] ^ 0x80  # the bit that X25519 ignores: only the transcript notices
        attempt = reader.copy()
        with pytest.raises(AuthenticationError):
            attempt.read_message(forged)
    assert reader.copy().read_message(message) == b"who I am"
    assert reader.read_message(message) == b"who I am"


def test_every_truncation_is_refused(backend: Backend) -> None:
    """Attack 9."""
    a, b = make(backend, True), make(backend, False)
    first = a.write_message(b"")
    assert len(first) == 32
    for size in range(32):
        with pytest.raises(DecodeError):
            b.read_message(first[:size])
    b.read_message(first)
    second = b.write_message(b"")
    assert len(second) == 32 + 48 + 16
    for size in range(96):
        with pytest.raises(DecodeError):
            a.read_message(second[:size])
    with pytest.raises(AuthenticationError):
        a.copy().read_message(second + b"\0")
    a.read_message(second)
    third = a.write_message(b"")
    assert len(third) == 64
    for size in range(64):
        with pytest.raises(DecodeError):
            b.read_message(third[:size])
    with pytest.raises(DecodeError):
        b.read_message(bytes(65_536))
    b.read_message(third)
    assert b.complete


def test_failed_read_makes_the_state_unusable(backend: Backend) -> None:
    a, b = make(backend, True), make(backend, False)
    b.read_message(a.write_message(b""))
    message = b.write_message(b"")
    with pytest.raises(AuthenticationError):
        a.read_message(message[:-1] + bytes([message[-1] ^ 1]))
    assert not a.complete
    with pytest.raises(LocalProtocolError, match="failed"):
        a.read_message(message)
    with pytest.raises(LocalProtocolError):
        a.copy().read_message(message)
    with pytest.raises(LocalProtocolError):
        a.split()


def test_interrupted_write_makes_the_state_unusable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack 69: what was sealed half way is never sealed again with another payload."""
    b = make(select_backend("pycryptodome"), False)
    b.read_message(make(select_backend("pycryptodome"), True).write_message(b""))

    def interrupt(self: SymmetricState, plaintext: bytes) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SymmetricState, "encrypt_and_hash", interrupt)
        with pytest.raises(KeyboardInterrupt):
            b.write_message(b"")
    with pytest.raises(LocalProtocolError):
        b.write_message(b"")


@pytest.mark.parametrize("point", [0, 1, 2**255 - 20, 2**255 - 19, 2**255 - 18, 2**255])
def test_low_order_keys_are_refused(backend: Backend, point: int) -> None:
    """Attack 30: as an ephemeral key and as a static key."""
    low = point.to_bytes(32, "little")
    b = make(backend, False)
    b.read_message(low)  # nothing is computed with it yet
    with pytest.raises(AuthenticationError):
        b.write_message(b"")
    a, b = make(backend, True), make(backend, False)
    b._s_public = low
    b.read_message(a.write_message(b""))
    message = b.write_message(b"")
    with pytest.raises(AuthenticationError):
        a.read_message(message)


def test_reflected_messages_fail(backend: Backend) -> None:
    """Attack 23: the initiator gets its own first message back, as the second, at any length."""
    a = make(backend, True)
    first = a.write_message(b"p" * 100)
    with pytest.raises(AuthenticationError):
        a.copy().read_message(first)
    with pytest.raises(DecodeError):
        a.read_message(first[:40])


def test_turns(backend: Backend) -> None:
    a, b = make(backend, True), make(backend, False)
    with pytest.raises(LocalProtocolError, match="our turn"):
        b.write_message(b"")
    with pytest.raises(LocalProtocolError, match="peer's turn"):
        a.read_message(bytes(32))
    message = a.write_message(b"")
    with pytest.raises(LocalProtocolError):
        a.write_message(b"")
    with pytest.raises(LocalProtocolError):
        a.split()
    b.read_message(message)
    a.read_message(b.write_message(b""))
    b.read_message(a.write_message(b""))
    for state in (a, b):
        with pytest.raises(LocalProtocolError, match="complete"):
            state.write_message(b"")
        with pytest.raises(LocalProtocolError, match="complete"):
            state.read_message(bytes(64))
        assert state.complete


def test_too_long_payload(backend: Backend) -> None:
    a = make(backend, True)
    with pytest.raises(ValueError, match="too long"):
        a.write_message(bytes(65_535 - 32 - 15))


def test_sessions_differ(backend: Backend) -> None:
    hashes, keys = set(), set()
    for tweak in range(2):
        a, b = make(backend, True, tweak=2 * tweak), make(backend, False)
        exchange(a, b)
        hashes.add(a.split().handshake_hash)
        keys |= {a.split().send_key, a.split().receive_key}
    assert len(hashes) == 2
    assert len(keys) == 4


def test_back_ends_shake_hands() -> None:
    pytest.importorskip("cryptography")
    a, b = make(select_backend("cryptography"), True), make(select_backend("pycryptodome"), False)
    exchange(a, b)
    assert a.split().send_key == b.split().receive_key


def test_cipher_state_never_uses_the_last_nonce(backend: Backend) -> None:
    state = CipherState(backend, bytes(32))
    state.n = 2**64 - 2
    sealed = state.encrypt_with_ad(b"", b"last")
    with pytest.raises(LocalProtocolError):
        state.encrypt_with_ad(b"", b"one too many")
    state.n = 2**64 - 2
    with pytest.raises(AuthenticationError):
        state.decrypt_with_ad(b"x", sealed)
    assert state.decrypt_with_ad(b"", sealed) == b"last"
    with pytest.raises(LocalProtocolError):
        state.decrypt_with_ad(b"", sealed)


def test_nothing_secret_is_shown_or_copied(backend: Backend) -> None:
    """Attack 45."""
    a, b = make(backend, True), make(backend, False)
    exchange(a, b)
    secrets = a.split()
    hidden = [bytes([2]) * 32, bytes([0x72]) * 32, secrets.send_key, secrets.receive_key, secrets.chain_secret]
    hidden += [secrets.handshake_hash, a._symmetric._ck]
    for thing in (a, secrets, a._symmetric, a._symmetric._cipher):
        for text in (repr(thing), str(thing), f"{thing}"):
            for value in hidden:
                assert value.hex() not in text
                assert repr(value)[2:-1] not in text
        for call in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError):
                call(thing)
