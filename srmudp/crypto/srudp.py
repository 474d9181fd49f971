"""What the old wire has for cryptography: a Diffie-Hellman on NIST P-256 and envelopes of AES-256-GCM.

Nobody proves who he is: whoever sits between two old programs can agree on keys with both. Both directions share one
key, and neither order nor freshness of envelopes is protected; sequence numbers inside them are all there is.

The two dialects differ in the form of a public key (64 raw bytes, x before y; or SubjectPublicKeyInfo in PEM) and in
what is hashed of the point that both compute (x; or x before y).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from hashlib import sha256
from typing import Final

from ..exceptions import AuthenticationError
from .backend import P256_ORDER, WIDE_NONCE_SIZE, Backend, P256Key, Secret, wide_aead

NONCE: Final = WIDE_NONCE_SIZE
TAG: Final = 16
SESSION_KEY: Final = 32
"""Bytes of the key that one end draws and gives the other."""

_COORDINATE: Final = 32
_PEM_HEAD: Final = b"-----BEGIN PUBLIC KEY-----"
_PEM_FOOT: Final = b"-----END PUBLIC KEY-----"
_PEM_LINE: Final = 64
_LARGEST_PEM: Final = 256
# SubjectPublicKeyInfo of an uncompressed point: ecPublicKey, prime256v1 (RFC 5480 section 2), and the mark 04.
_INFO: Final = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")


class KeyPair(Secret):
    """Our keys for one handshake.

    Args:
        random: cryptographic randomness.
        pem: the form of public keys: False for srudp, True for srmudp 0.0.4.

    Attributes:
        public: our public key, as it is sent.
    """

    __slots__ = ("_key", "_pem", "public")

    def __init__(self, random: Callable[[int], bytes], *, pem: bool) -> None:
        # 16 bytes more than the order has make the bias of the remainder too small to matter (SP 800-56A 5.6.1.2.1).
        self._key = P256Key(int.from_bytes(random(48), "big") % (P256_ORDER - 1) + 1)
        self._pem = pem
        x, y = self._key.public
        raw = x.to_bytes(_COORDINATE, "big") + y.to_bytes(_COORDINATE, "big")
        self.public = _to_pem(raw) if pem else raw

    def agree(self, public: bytes) -> bytes:
        """The key that both ends compute: the one that hands the session key over. About a millisecond.

        Raises:
            AuthenticationError: ``public`` is no public key in the form of the dialect.
        """
        raw = _from_pem(public) if self._pem else public
        if len(raw) != 2 * _COORDINATE:
            raise AuthenticationError("not a public key of the old wire")
        x, y = self._key.agree(int.from_bytes(raw[:_COORDINATE], "big"), int.from_bytes(raw[_COORDINATE:], "big"))
        material = x.to_bytes(_COORDINATE, "big")
        if self._pem:
            material += y.to_bytes(_COORDINATE, "big")
        return sha256(material).digest()

    def outranks(self, public: bytes) -> bool:
        """Whether our session key is the one that stays where both ends handed one over."""
        ours, theirs = self.public, public
        return sha256(ours + theirs).digest() > sha256(theirs + ours).digest()


class Envelope(Secret):
    """Seals and opens under one key: a nonce of 16 bytes, the tag, the ciphertext.

    Args:
        random: cryptographic randomness. Nonces are drawn, because both ends seal under the same key.
    """

    __slots__ = ("_aead", "_random")

    def __init__(self, backend: Backend, key: bytes, random: Callable[[int], bytes]) -> None:
        self._aead = wide_aead(backend, key)
        self._random = random

    def seal(self, plaintext: bytes) -> bytes:
        """The envelope of ``plaintext``, 32 bytes longer."""
        nonce = self._random(NONCE)
        sealed = self._aead.seal(nonce, plaintext, b"")
        return b"".join((nonce, sealed[-TAG:], sealed[:-TAG]))

    def open(self, envelope: bytes) -> bytes:
        """What was sealed.

        Raises:
            AuthenticationError: under another key, altered, or too short to be an envelope.
        """
        if len(envelope) < NONCE + TAG:
            raise AuthenticationError("too short for an envelope")
        return self._aead.open(envelope[:NONCE], envelope[NONCE + TAG :] + envelope[NONCE : NONCE + TAG], b"")


def _to_pem(raw: bytes) -> bytes:
    """RFC 7468 section 13, without a line end behind the last line: as the old program hashes it."""
    text = base64.b64encode(_INFO + raw)
    lines = [text[start : start + _PEM_LINE] for start in range(0, len(text), _PEM_LINE)]
    return b"\n".join((_PEM_HEAD, *lines, _PEM_FOOT))


def _from_pem(pem: bytes) -> bytes:
    if len(pem) > _LARGEST_PEM:
        raise AuthenticationError("too long for a public key in PEM")
    lines = [line.strip() for line in pem.strip().split(b"\n")]
    if len(lines) < 3 or lines[0] != _PEM_HEAD or lines[-1] != _PEM_FOOT:
        raise AuthenticationError("not a public key in PEM")
    try:
        info = base64.b64decode(b"".join(lines[1:-1]), validate=True)
    except binascii.Error:
        raise AuthenticationError("not a public key in PEM") from None
    if not info.startswith(_INFO):
        raise AuthenticationError("not an uncompressed public key of P-256")
    return info[len(_INFO) :]
