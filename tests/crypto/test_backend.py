"""Both cryptographic libraries against published vectors, and against each other."""

from __future__ import annotations

import copy
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest

from srmudp.crypto import backend as module
from srmudp.crypto.backend import Backend, hkdf_sha256, select_backend
from srmudp.exceptions import AuthenticationError

VECTORS = Path(__file__).parent.parent / "vectors"
GCM = json.loads((VECTORS / "aes256gcm_wycheproof.json").read_text())["tests"]
X25519 = json.loads((VECTORS / "x25519.json").read_text())
RFC7748 = X25519["rfc7748"]
WYCHEPROOF = X25519["wycheproof"]


BACKENDS = ["pycryptodome", "cryptography"]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == "cryptography":
        pytest.importorskip("cryptography")
    return select_backend(request.param)


# ------------------------------------------------------------------------------------------------------------- AES-GCM


@pytest.mark.parametrize("vector", GCM, ids=lambda v: f"tc{v['tcId']}")
def test_aes_gcm_vectors(backend: Backend, vector: dict[str, Any]) -> None:
    key, nonce, aad, message, ciphertext, tag = (
        bytes.fromhex(vector[k]) for k in ("key", "iv", "aad", "msg", "ct", "tag")
    )
    aead = backend.aead(key)
    if vector["result"] == "valid":
        assert aead.seal(nonce, message, aad) == ciphertext + tag
        assert aead.open(nonce, ciphertext + tag, aad) == message
    else:
        with pytest.raises(AuthenticationError):
            aead.open(nonce, ciphertext + tag, aad)


@pytest.mark.parametrize(
    "kind", [bytes, bytearray, memoryview, lambda b: memoryview(bytearray(b"xx" + b + b"x"))[2:-1]]
)
def test_seals_and_opens_every_kind_of_buffer(backend: Backend, kind: Any) -> None:
    aead = backend.aead(bytes(range(32)))
    plaintext, aad, nonce = b"seven of twenty" * 100, b"header", b"n" * 12
    sealed = aead.seal(nonce, kind(plaintext), kind(aad))
    assert type(sealed) is bytes
    assert sealed == aead.seal(nonce, plaintext, aad)
    assert len(sealed) == len(plaintext) + 16
    opened = aead.open(nonce, kind(sealed), kind(aad))
    assert type(opened) is bytes
    assert opened == plaintext


def test_refuses_every_flipped_byte_and_every_truncation(backend: Backend) -> None:
    """Attacks 8 and 9, at the lowest level."""
    aead = backend.aead(bytes(32))
    sealed = aead.seal(bytes(12), b"attack at dawn", b"head")
    for i in range(len(sealed)):
        forged = bytearray(sealed)
        forged[i] ^= 1 << (i % 8)
        with pytest.raises(AuthenticationError):
            aead.open(bytes(12), forged, b"head")
        with pytest.raises(AuthenticationError):
            aead.open(bytes(12), sealed[:i], b"head")
    for nonce, data, aad in (
        (bytes(12), sealed + b"\0", b"head"),
        (bytes(12), sealed, b"heat"),
        (bytes(12), sealed, b""),
        (b"\1" + bytes(11), sealed, b"head"),
    ):
        with pytest.raises(AuthenticationError):
            aead.open(nonce, data, aad)


def test_empty_message_and_empty_header(backend: Backend) -> None:
    aead = backend.aead(bytes(32))
    # AES-256-GCM test case 13 of the GCM specification (McGrew and Viega).
    assert aead.seal(bytes(12), b"", b"").hex() == "530f8afbc74536b9a963b4f1c4cb738b"
    assert aead.open(bytes(12), bytes.fromhex("530f8afbc74536b9a963b4f1c4cb738b"), b"") == b""


def test_sizes_of_keys_and_nonces_are_checked(backend: Backend) -> None:
    for size in (0, 16, 24, 31, 33):
        with pytest.raises(ValueError, match="32 bytes"):
            backend.aead(bytes(size))
        for call in (backend.x25519_public, backend.ed25519_public):
            with pytest.raises(ValueError, match="32 bytes"):
                call(bytes(size))
        with pytest.raises(ValueError, match="32 bytes"):
            backend.x25519(bytes(32), bytes(size))
        with pytest.raises(ValueError, match="32 bytes"):
            backend.x25519(bytes(size), b"\x09" + bytes(31))
    aead = backend.aead(bytes(32))
    for size in (0, 8, 11, 13, 16):
        with pytest.raises(ValueError, match="12 bytes"):
            aead.seal(bytes(size), b"", b"")
        with pytest.raises(ValueError, match="12 bytes"):
            aead.open(bytes(size), bytes(16), b"")


def test_back_ends_open_each_other() -> None:
    pytest.importorskip("cryptography")
    one, two = (select_backend(name).aead(b"k" * 32) for name in ("cryptography", "pycryptodome"))
    for size in (0, 1, 15, 16, 17, 1400, 60_000):
        message = bytes(i % 251 for i in range(size))
        assert one.seal(b"n" * 12, message, b"a" * 29) == two.seal(b"n" * 12, message, b"a" * 29)
        assert two.open(b"n" * 12, one.seal(b"n" * 12, message, b""), b"") == message


# -------------------------------------------------------------------------------------------------------------- X25519


@pytest.mark.parametrize("vector", RFC7748["vectors"])
def test_rfc7748_vectors(backend: Backend, vector: dict[str, str]) -> None:
    result = backend.x25519(bytes.fromhex(vector["scalar"]), bytes.fromhex(vector["u"]))
    assert result.hex() == vector["out"]


def test_rfc7748_iterated(backend: Backend) -> None:
    k = u = bytes.fromhex(RFC7748["iterated"]["start"])
    for _ in range(1000):
        k, u = backend.x25519(k, u), k
    assert k.hex() == RFC7748["iterated"]["after_1000"]


def test_rfc7748_diffie_hellman(backend: Backend) -> None:
    alice, alice_public, bob, bob_public, shared = (
        bytes.fromhex(RFC7748["dh"][k])
        for k in ("alice_private", "alice_public", "bob_private", "bob_public", "shared")
    )
    assert backend.x25519_public(alice) == alice_public
    assert backend.x25519_public(bob) == bob_public
    assert backend.x25519(alice, bob_public) == backend.x25519(bob, alice_public) == shared


@pytest.mark.parametrize("vector", WYCHEPROOF, ids=lambda v: f"tc{v['tcId']}")
def test_wycheproof_x25519(backend: Backend, vector: dict[str, Any]) -> None:
    """Attack 30: every back end gives the same answer; a result of zero is refused, whatever point it came from."""
    private, public = bytes.fromhex(vector["private"]), bytes.fromhex(vector["public"])
    if "ZeroSharedSecret" in vector["flags"]:
        with pytest.raises(AuthenticationError):
            backend.x25519(private, public)
    else:
        assert backend.x25519(private, public).hex() == vector["shared"]


LOW_ORDER = [0, 1, 2**255 - 20, 2**255 - 19, 2**255 - 18]
"""0, 1 and -1, and the spellings p and p + 1 of the first two: p - 1 + p needs more than 255 bits."""


@pytest.mark.parametrize("point", LOW_ORDER)
@pytest.mark.parametrize("top_bit", [0, 2**255])
def test_low_order_points_in_every_encoding(backend: Backend, point: int, top_bit: int) -> None:
    """Attack 30: non-canonical spellings (plus p, or with the ignored top bit set) are no way around it."""
    with pytest.raises(AuthenticationError):
        backend.x25519(b"\x5a" * 32, (point + top_bit).to_bytes(32, "little"))


@pytest.mark.parametrize("u", [9, 2**255 - 19 + 9, 2**255 + 9, 2**256 - 10])
def test_odd_spellings_mean_the_same_point(backend: Backend, u: int) -> None:
    """RFC 7748 section 5: the top bit is masked, values from p upwards are accepted and reduced."""
    same = (u % 2**255) % (2**255 - 19)
    private = b"\x5a" * 32
    assert backend.x25519(private, u.to_bytes(32, "little")) == backend.x25519(private, same.to_bytes(32, "little"))


# ------------------------------------------------------------------------------------------------------------- Ed25519

# RFC 8032 section 7.1, tests 1 to 3.
RFC8032 = {
    "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60": (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    ),
    "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb": (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    ),
    "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7": (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025"
    ),
}


@pytest.mark.parametrize(("seed", "public"), RFC8032.items())
def test_rfc8032_public_keys(backend: Backend, seed: str, public: str) -> None:
    assert backend.ed25519_public(bytes.fromhex(seed)).hex() == public


# ---------------------------------------------------------------------------------------------------------------- HKDF


def test_hkdf_rfc5869() -> None:
    # Appendix A.1 and A.3.
    assert hkdf_sha256(bytes(range(13)), b"\x0b" * 22, bytes(range(0xF0, 0xFA)), 42).hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )
    assert hkdf_sha256(b"", b"\x0b" * 22, b"", 42).hex() == (
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    )


# ----------------------------------------------------------------------------------------------------------- selection


def test_selection(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cryptography")
    monkeypatch.delenv("SRMUDP_BACKEND", raising=False)
    assert select_backend().name == "cryptography"
    assert select_backend("auto") is select_backend("cryptography")
    assert select_backend("pycryptodome").name == "pycryptodome"
    monkeypatch.setenv("SRMUDP_BACKEND", "pycryptodome")
    assert select_backend().name == "pycryptodome"
    assert select_backend("cryptography").name == "cryptography", "the variable decides for auto only"
    monkeypatch.setenv("SRMUDP_BACKEND", "")
    assert select_backend().name == "cryptography"
    monkeypatch.setenv("SRMUDP_BACKEND", "rot13")
    with pytest.raises(ValueError, match="SRMUDP_BACKEND"):
        select_backend()
    with pytest.raises(ValueError, match="rot13"):
        select_backend("rot13")  # type: ignore[arg-type]


def test_without_cryptography(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SRMUDP_BACKEND", raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == "cryptography"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    module._load.cache_clear()
    try:
        assert select_backend().name == "pycryptodome"
        with pytest.raises(ImportError, match=r"srmudp\[fast\]"):
            select_backend("cryptography")
    finally:
        module._load.cache_clear()


def test_ciphers_hide_their_keys(backend: Backend) -> None:
    """Attack 45."""
    key = b"\x4a" * 32
    aead = backend.aead(key)
    for text in (repr(aead), str(aead), f"{aead}", repr(backend)):
        assert key.hex() not in text
        assert "JJJJ" not in text
    for call in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="copied or pickled"):
            call(aead)
    with pytest.raises(AuthenticationError) as caught:
        aead.open(bytes(12), bytes(40), b"")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
