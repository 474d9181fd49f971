"""Key agreement and envelopes of the old wire, against what the published packages compute."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from srmudp.crypto.backend import P256_ORDER, Backend, P256Key, select_backend, wide_aead
from srmudp.crypto.srudp import Envelope, KeyPair
from srmudp.exceptions import AuthenticationError

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent.parent / "vectors" / "srudp.json").read_text())
DIALECTS = [("srudp", False), ("srmudp-0.0.4", True)]


@pytest.fixture(params=["cryptography", "pycryptodome"])
def backend(request: pytest.FixtureRequest) -> Backend:
    try:
        return select_backend(request.param)
    except ImportError as error:
        pytest.skip(str(error))


def drawing(private: str) -> Callable[[int], bytes]:
    """Randomness from which a key pair makes this private key."""
    return lambda size: (int(private, 16) - 1).to_bytes(size, "big")


def form(dialect: str, public: str) -> bytes:
    return bytes.fromhex(public) if dialect == "srudp" else public.encode()


def pair(dialect: str, who: str) -> KeyPair:
    return KeyPair(drawing(VECTORS[f"private_{who}"]), pem=dialect != "srudp")


@pytest.mark.parametrize(("dialect", "pem"), DIALECTS)
def test_both_ends_compute_what_the_old_program_computes(dialect: str, pem: bool) -> None:
    vector = VECTORS[dialect]
    a, b = pair(dialect, "a"), pair(dialect, "b")
    assert (a.public, b.public) == (form(dialect, vector["public_a"]), form(dialect, vector["public_b"]))
    assert a.agree(b.public).hex() == vector["agreed"]
    assert b.agree(a.public).hex() == vector["agreed"]
    assert a.outranks(b.public) is not b.outranks(a.public)


@pytest.mark.parametrize(("dialect", "pem"), DIALECTS)
def test_envelope_of_the_old_program(dialect: str, pem: bool, backend: Backend) -> None:
    vector = VECTORS[dialect]
    envelope = Envelope(backend, bytes.fromhex(vector["agreed"]), lambda size: bytes(range(size)))
    sealed, plaintext = bytes.fromhex(vector["envelope"]), bytes.fromhex(vector["plaintext"])
    assert envelope.seal(plaintext) == sealed
    assert envelope.open(sealed) == plaintext
    assert envelope.open(envelope.seal(b"")) == b""


def test_envelopes_that_were_touched_do_not_open(backend: Backend) -> None:
    envelope = Envelope(backend, bytes(32), lambda size: bytes(range(size)))
    sealed = envelope.seal(b"content")
    forged = [sealed[:size] for size in range(len(sealed))]
    forged += [sealed[:i] + bytes((sealed[i] ^ 1,)) + sealed[i + 1 :] for i in range(len(sealed))]
    forged.append(sealed + b"\0")
    for envelope_bytes in forged:
        with pytest.raises(AuthenticationError):
            envelope.open(envelope_bytes)


def test_nonces_have_one_size(backend: Backend) -> None:
    aead = wide_aead(backend, bytes(32))
    for size in (0, 12, 15, 17):
        with pytest.raises(ValueError, match="nonce"):
            aead.seal(bytes(size), b"", b"")
        with pytest.raises(ValueError, match="nonce"):
            aead.open(bytes(size), bytes(16), b"")


@pytest.mark.parametrize(
    "public",
    [b"", bytes(63), bytes(64), bytes(65), (1).to_bytes(32, "big") * 2, b"\xff" * 64],
    ids=["empty", "short", "infinity", "long", "off the curve", "above the field"],
)
def test_public_keys_that_are_none(public: bytes) -> None:
    with pytest.raises(AuthenticationError):
        pair("srudp", "a").agree(public)


def test_pem_that_is_no_public_key_of_the_curve() -> None:
    keys, other = pair("srmudp-0.0.4", "a"), pair("srmudp-0.0.4", "b").public
    assert keys.agree(other + b"\n") == keys.agree(other) == keys.agree(other.replace(b"\n", b"\r\n"))
    for pem in (
        b"",
        b"-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----",
        other[:-1],
        other[1:],
        other.replace(b"PUBLIC", b"PRIVATE"),
        other.replace(b"MFkw", b"MFkx"),
        other.replace(b"MFkw", b"????"),
        other.replace(b"\nMFkw", b"\n"),
        other + b" " * 300,
        b"\xff" * 100,
    ):
        with pytest.raises(AuthenticationError):
            keys.agree(pem)


def test_private_keys_out_of_range() -> None:
    for private in (0, -1, P256_ORDER):
        with pytest.raises(ValueError, match="range"):
            P256Key(private)
    assert KeyPair(bytes, pem=False).public.startswith(bytes.fromhex("6b17d1f2"))  # the generator itself


def test_secrets_are_not_shown() -> None:
    assert repr(KeyPair(bytes, pem=False)) == "<KeyPair>"
    assert repr(Envelope(select_backend(), bytes(32), bytes)) == "<Envelope>"
