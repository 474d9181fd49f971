"""The only place that touches third-party cryptography: AES-256-GCM, X25519 and Ed25519 public keys, on two libraries.

``pycryptodome`` is always there; ``cryptography`` (the ``fast`` extra) is preferred where it is installed. Both give
the same answers and refuse the same inputs, so two programs never notice which one the other uses.

Cost of one call, Python 3.11 on a 2.5 GHz Xeon, for 1,400 bytes: AES-GCM 2 µs with ``cryptography``, about 90 µs with
pycryptodome (nearly all of it building the cipher object); key agreement 0.1 ms against 0.2 to 1 ms. Everything here
may be called from several threads at once.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, NoReturn, Protocol, SupportsIndex, TypeAlias, cast

from ..exceptions import AuthenticationError

Data: TypeAlias = bytes | bytearray | memoryview
"""What may be sealed, opened or authenticated without copying it first."""

BackendName: TypeAlias = Literal["auto", "cryptography", "pycryptodome"]

KEY_SIZE = 32
"""Bytes of an AES-256 key, of an X25519 key and of an Ed25519 seed."""
NONCE_SIZE = 12
"""Bytes of a GCM nonce; any other size would be hashed, which costs time and collides earlier."""
TAG_SIZE = 16
"""Bytes that sealing adds."""

ENVIRONMENT = "SRMUDP_BACKEND"
"""Environment variable that decides in place of ``auto``."""

_P = 2**255 - 19


class Aead(Protocol):
    """AES-256-GCM under one key. Remembers nothing between calls: that nonces never repeat is the caller's duty."""

    def seal(self, nonce: bytes, plaintext: Data, aad: Data) -> bytes:
        """Ciphertext followed by the 16-byte tag.

        Raises:
            ValueError: the nonce is not 12 bytes.
        """
        ...

    def open(self, nonce: bytes, ciphertext: Data, aad: Data) -> bytes:
        """The plaintext of what ``seal`` gave.

        Raises:
            AuthenticationError: the tag does not match, or there are fewer bytes than a tag has.
            ValueError: the nonce is not 12 bytes.
        """
        ...


class Backend(Protocol):
    """One cryptographic library. Stateless and thread-safe."""

    @property
    def name(self) -> str:
        """``"cryptography"`` or ``"pycryptodome"``."""
        ...

    def aead(self, key: bytes) -> Aead:
        """AES-256-GCM under ``key`` (32 bytes, else ``ValueError``). Keep it: building costs more than a short seal."""
        ...

    def x25519_public(self, private: bytes) -> bytes:
        """The public key of a 32-byte private key, which is clamped first (RFC 7748 section 5)."""
        ...

    def x25519(self, private: bytes, public: bytes) -> bytes:
        """The 32 bytes that both ends of a key agreement compute (RFC 7748 section 5).

        ``public`` is taken as RFC 7748 says: the top bit is ignored and values from p upwards are reduced.

        Raises:
            AuthenticationError: the result is all zero, that is, ``public`` is a point of small order (RFC 7748 section
            6.1). ValueError: a key is not 32 bytes.
        """
        ...

    def ed25519_public(self, seed: bytes) -> bytes:
        """The Ed25519 public key of a 32-byte seed (RFC 8032 section 5.1.5)."""
        ...


class Secret:
    """Base of whatever holds key bytes: its ``repr`` shows none, and copying or pickling it is a ``TypeError``."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    # copy.copy, copy.deepcopy and pickle all come here when a class has no method of its own for them.
    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds secret keys: it cannot be copied or pickled")


@cache
def _load(name: Literal["cryptography", "pycryptodome"]) -> Backend:
    return _Cryptography() if name == "cryptography" else _Pycryptodome()


def select_backend(name: BackendName = "auto") -> Backend:
    """The library to compute with; the same object at every call.

    ``auto`` is what the environment variable ``SRMUDP_BACKEND`` names, else ``cryptography`` where it is installed,
    else ``pycryptodome``.

    Raises:
        ImportError: ``cryptography`` was asked for by name and is not installed.
        ValueError: there is no back end of that name; the text says where the name came from.
    """
    wanted: str = name
    origin = "the back end"
    if wanted == "auto":
        wanted = os.environ.get(ENVIRONMENT) or "auto"
        origin = f"the environment variable {ENVIRONMENT}"
    if wanted not in ("auto", "cryptography", "pycryptodome"):
        raise ValueError(f"{origin} must be 'auto', 'cryptography' or 'pycryptodome', not {wanted!r}")
    if wanted != "pycryptodome":
        try:
            return _load("cryptography")
        except ImportError as error:
            if wanted == "cryptography":
                raise ImportError("cryptography is not installed: pip install 'srmudp[fast]'") from error
    return _load("pycryptodome")


def hkdf_sha256(salt: bytes, material: bytes, info: bytes, length: int) -> bytes:
    """``length`` bytes of key derived from ``material`` (RFC 5869 with SHA-256), at most 8,160.

    With an empty ``info`` this is the HKDF function of the Noise specification (section 4.3).
    """
    key = hmac.digest(salt, material, "sha256")
    output = block = b""
    for counter in range(1, -(-length // 32) + 1):
        block = hmac.digest(key, block + info + bytes((counter,)), "sha256")
        output += block
    return output[:length]


def _check_size(what: str, value: Data, size: int) -> None:
    if len(value) != size:
        raise ValueError(f"{what} must be {size} bytes, not {len(value)}")


def _nonzero(shared: bytes) -> bytes:
    """``shared``, looked at in constant time, unless it is all zero."""
    if hmac.compare_digest(shared, bytes(KEY_SIZE)):
        raise AuthenticationError("key agreement gave no secret")
    return shared


# ------------------------------------------------------------------- cryptography


class _Cryptography:
    """``cryptography``: OpenSSL behind Rust."""

    def __init__(self) -> None:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._invalid_tag = InvalidTag
        self._aesgcm = AESGCM
        self._private = X25519PrivateKey.from_private_bytes
        self._public = X25519PublicKey.from_public_bytes
        self._signing = Ed25519PrivateKey.from_private_bytes

    @property
    def name(self) -> str:
        return "cryptography"

    def __repr__(self) -> str:
        return "<backend cryptography>"

    def aead(self, key: bytes) -> Aead:
        _check_size("an AES-256 key", key, KEY_SIZE)
        return _CryptographyAead(self._aesgcm(key), self._invalid_tag)

    def x25519_public(self, private: bytes) -> bytes:
        _check_size("an X25519 private key", private, KEY_SIZE)
        return self._private(private).public_key().public_bytes_raw()

    def x25519(self, private: bytes, public: bytes) -> bytes:
        _check_size("an X25519 private key", private, KEY_SIZE)
        _check_size("an X25519 public key", public, KEY_SIZE)
        try:
            shared = self._private(private).exchange(self._public(public))
        except ValueError:
            # OpenSSL refuses an all-zero result itself.
            raise AuthenticationError("key agreement gave no secret") from None
        return _nonzero(shared)

    def ed25519_public(self, seed: bytes) -> bytes:
        _check_size("an Ed25519 seed", seed, KEY_SIZE)
        return self._signing(seed).public_key().public_bytes_raw()


class _CryptographyAead(Secret):
    __slots__ = ("_decrypt", "_encrypt", "_invalid_tag")

    def __init__(self, cipher: Any, invalid_tag: type[Exception]) -> None:
        # The key schedule lives in ``cipher``; bound methods spare two look-ups on the hottest path of the library.
        self._encrypt: Callable[[bytes, Data, Data], bytes] = cipher.encrypt
        self._decrypt: Callable[[bytes, Data, Data], bytes] = cipher.decrypt
        self._invalid_tag = invalid_tag

    def seal(self, nonce: bytes, plaintext: Data, aad: Data) -> bytes:
        if len(nonce) != NONCE_SIZE:
            _check_size("a nonce", nonce, NONCE_SIZE)
        return self._encrypt(nonce, plaintext, aad)

    def open(self, nonce: bytes, ciphertext: Data, aad: Data) -> bytes:
        if len(nonce) != NONCE_SIZE:
            _check_size("a nonce", nonce, NONCE_SIZE)
        try:
            return self._decrypt(nonce, ciphertext, aad)
        except self._invalid_tag:
            raise AuthenticationError("the tag does not match") from None


# ------------------------------------------------------------------- pycryptodome


class _Pycryptodome:
    """``pycryptodome``: C behind cffi or ctypes."""

    def __init__(self) -> None:
        from Crypto.Cipher import AES
        from Crypto.Protocol import DH
        from Crypto.PublicKey import ECC

        self._aes = AES
        self._construct = ECC.construct
        self._dh: Any = DH

    @property
    def name(self) -> str:
        return "pycryptodome"

    def __repr__(self) -> str:
        return "<backend pycryptodome>"

    def aead(self, key: bytes) -> Aead:
        _check_size("an AES-256 key", key, KEY_SIZE)
        return _PycryptodomeAead(self._aes, key)

    def x25519_public(self, private: bytes) -> bytes:
        _check_size("an X25519 private key", private, KEY_SIZE)
        key = self._dh.import_x25519_private_key(private).public_key()
        return cast(bytes, key.export_key(format="raw"))

    def x25519(self, private: bytes, public: bytes) -> bytes:
        _check_size("an X25519 private key", private, KEY_SIZE)
        _check_size("an X25519 public key", public, KEY_SIZE)
        # Masked and reduced here, so that no release of the library can have its own opinion of odd encodings.
        u = (int.from_bytes(public, "little") & (2**255 - 1)) % _P
        try:
            shared: bytes = self._dh.key_agreement(
                static_priv=self._dh.import_x25519_private_key(private),
                static_pub=self._dh.import_x25519_public_key(u.to_bytes(KEY_SIZE, "little")),
                kdf=bytes,
            )
        except ValueError:
            # The library refuses points of small order before it multiplies.
            raise AuthenticationError("key agreement gave no secret") from None
        return _nonzero(shared)

    def ed25519_public(self, seed: bytes) -> bytes:
        _check_size("an Ed25519 seed", seed, KEY_SIZE)
        key = self._construct(curve="Ed25519", seed=seed).public_key()
        return bytes(key.export_key(format="raw"))


class _PycryptodomeAead(Secret):
    __slots__ = ("_key", "_mode", "_new")

    _NONCE = NONCE_SIZE

    def __init__(self, aes: Any, key: bytes) -> None:
        self._new = aes.new
        self._mode = aes.MODE_GCM
        self._key = key

    def seal(self, nonce: bytes, plaintext: Data, aad: Data) -> bytes:
        if len(nonce) != self._NONCE:
            _check_size("a nonce", nonce, self._NONCE)
        # A cipher object serves one message. Writing into a buffer of ours was measured: not faster than this join.
        cipher = self._new(self._key, self._mode, nonce=nonce, mac_len=TAG_SIZE)
        cipher.update(aad)
        return b"".join(cipher.encrypt_and_digest(plaintext))

    def open(self, nonce: bytes, ciphertext: Data, aad: Data) -> bytes:
        if len(nonce) != self._NONCE:
            _check_size("a nonce", nonce, self._NONCE)
        if len(ciphertext) < TAG_SIZE:
            raise AuthenticationError("the tag does not match")
        cipher = self._new(self._key, self._mode, nonce=nonce, mac_len=TAG_SIZE)
        cipher.update(aad)
        try:
            return cast(bytes, cipher.decrypt_and_verify(ciphertext[:-TAG_SIZE], ciphertext[-TAG_SIZE:]))
        except ValueError:
            raise AuthenticationError("the tag does not match") from None


# -------------------------------------------------------------------- the old wire

WIDE_NONCE_SIZE = 16
"""Bytes of the nonces of the old wire, which GCM hashes (NIST SP 800-38D section 7.1)."""
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Points of the curve NIST P-256 (SP 800-186 section 3.2.1.3); private keys are below."""


def wide_aead(backend: Backend, key: bytes) -> Aead:
    """AES-256-GCM with nonces of 16 bytes, on the library of ``backend``. For the old wire alone."""
    _check_size("an AES-256 key", key, KEY_SIZE)
    if backend.name == "cryptography":
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        return _WideCryptographyAead(AESGCM(key), InvalidTag)
    from Crypto.Cipher import AES

    return _WidePycryptodomeAead(AES, key)


class _WideCryptographyAead(_CryptographyAead):
    __slots__ = ()

    def seal(self, nonce: bytes, plaintext: Data, aad: Data) -> bytes:
        _check_size("a nonce", nonce, WIDE_NONCE_SIZE)
        return self._encrypt(nonce, plaintext, aad)

    def open(self, nonce: bytes, ciphertext: Data, aad: Data) -> bytes:
        _check_size("a nonce", nonce, WIDE_NONCE_SIZE)
        try:
            return self._decrypt(nonce, ciphertext, aad)
        except self._invalid_tag:
            raise AuthenticationError("the tag does not match") from None


class _WidePycryptodomeAead(_PycryptodomeAead):
    __slots__ = ()

    _NONCE = WIDE_NONCE_SIZE


class P256Key(Secret):
    """A key pair on NIST P-256, computed by pycryptodome. For the old wire alone.

    Args:
        private: 1 to ``P256_ORDER`` - 1.

    Raises:
        ValueError: any other number.
    """

    __slots__ = ("_construct", "_private", "public")

    def __init__(self, private: int) -> None:
        from Crypto.PublicKey import ECC

        if not 0 < private < P256_ORDER:
            raise ValueError("a private key of P-256 is out of its range")
        self._private = private
        self._construct: Any = ECC.construct
        point = self._construct(curve="P-256", d=private).pointQ
        self.public = int(point.x), int(point.y)
        """The coordinates of the public point."""

    def agree(self, x: int, y: int) -> tuple[int, int]:
        """The point that both ends compute from the other's public one. About a millisecond.

        Raises:
            AuthenticationError: there is no such point on the curve, or it is the one at infinity.
        """
        if (x, y) == (0, 0):  # how the library writes the point at infinity
            raise AuthenticationError("the point at infinity is no public key")
        try:
            point = self._construct(curve="P-256", point_x=x, point_y=y).pointQ * self._private
        except ValueError:
            raise AuthenticationError("not a point of P-256") from None
        return int(point.x), int(point.y)
