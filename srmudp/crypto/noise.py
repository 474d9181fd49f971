"""The handshake Noise_XX_25519_AESGCM_SHA256: objects and steps are named as in the Noise specification, revision 34.

::

    -> e
    <- e, ee, s, es
    -> s, se

Two things are added; the messages are those of the specification as long as the first is not used. The clear header
bytes of a handshake packet may be mixed into ``h`` before its message, as the prologue is (section 6). And a third
output of the final HKDF is kept as the chain secret of later key updates; the two that ``Split()`` takes do not change
by that.

Nothing here is thread-safe and nothing draws random numbers: the ephemeral private key is an argument. A call to
``write_message`` or ``read_message`` may take several key agreements (1 ms each without ``cryptography``).
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from struct import Struct

from ..exceptions import DecodeError, LocalProtocolError
from .backend import KEY_SIZE, TAG_SIZE, Aead, Backend, Data, Secret, hkdf_sha256

PROTOCOL_NAME = b"Noise_XX_25519_AESGCM_SHA256"
"""What both ends hash first (section 8)."""

MAX_MESSAGE = 65_535
"""Bytes of the longest Noise message (section 3)."""

_DHLEN = KEY_SIZE
_NONCE = Struct(">4xQ")
"""AESGCM takes 32 zero bits and the counter in big-endian order (section 12.4)."""
_LAST_NONCE = 2**64 - 1
"""Reserved (section 5.1); no message is sealed under it."""

_XX = (("e",), ("e", "ee", "s", "es"), ("s", "se"))
_SHORTEST = (_DHLEN, _DHLEN + _DHLEN + 2 * TAG_SIZE, _DHLEN + 2 * TAG_SIZE)


class CipherState(Secret):
    """A key and a nonce counter (section 5.1). Without a key, bytes pass unchanged."""

    __slots__ = ("_aead", "_backend", "n")

    def __init__(self, backend: Backend, key: bytes | None = None) -> None:
        self._backend = backend
        self.initialize_key(key)

    def initialize_key(self, key: bytes | None) -> None:
        self._aead: Aead | None = None if key is None else self._backend.aead(key)
        self.n = 0

    def has_key(self) -> bool:
        return self._aead is not None

    def encrypt_with_ad(self, ad: bytes, plaintext: Data) -> bytes:
        """The sealed plaintext; the nonce is used up even if the call is interrupted.

        Raises:
            LocalProtocolError: all nonces are used up.
        """
        if self._aead is None:
            return bytes(plaintext)
        if self.n >= _LAST_NONCE:
            raise LocalProtocolError("this CipherState has no nonces left")
        nonce = _NONCE.pack(self.n)
        self.n += 1
        return self._aead.seal(nonce, plaintext, ad)

    def decrypt_with_ad(self, ad: bytes, ciphertext: Data) -> bytes:
        """The opened ciphertext. On failure the nonce is not used up (section 5.1).

        Raises:
            AuthenticationError: the tag does not match.
            LocalProtocolError: all nonces are used up.
        """
        if self._aead is None:
            return bytes(ciphertext)
        if self.n >= _LAST_NONCE:
            raise LocalProtocolError("this CipherState has no nonces left")
        plaintext = self._aead.open(_NONCE.pack(self.n), ciphertext, ad)
        self.n += 1
        return plaintext

    def copy(self) -> CipherState:
        other = CipherState.__new__(CipherState)
        other._backend, other._aead, other.n = self._backend, self._aead, self.n
        return other


class SymmetricState(Secret):
    """A chaining key, a transcript hash and a CipherState (section 5.2)."""

    __slots__ = ("_backend", "_cipher", "_ck", "_h")

    def __init__(self, backend: Backend, protocol_name: bytes) -> None:
        self._backend = backend
        # A name of up to HASHLEN bytes is padded with zeros, a longer one hashed.
        self._h = protocol_name.ljust(32, b"\0") if len(protocol_name) <= 32 else sha256(protocol_name).digest()
        self._ck = self._h
        self._cipher = CipherState(backend)

    def mix_key(self, input_key_material: bytes) -> None:
        output = hkdf_sha256(self._ck, input_key_material, b"", 64)
        self._ck = output[:32]
        self._cipher.initialize_key(output[32:])

    def mix_hash(self, data: Data) -> None:
        digest = sha256(self._h)
        digest.update(data)
        self._h = digest.digest()

    def get_handshake_hash(self) -> bytes:
        return self._h

    def encrypt_and_hash(self, plaintext: Data) -> bytes:
        ciphertext = self._cipher.encrypt_with_ad(self._h, plaintext)
        self.mix_hash(ciphertext)
        return ciphertext

    def decrypt_and_hash(self, ciphertext: Data) -> bytes:
        plaintext = self._cipher.decrypt_with_ad(self._h, ciphertext)
        self.mix_hash(ciphertext)
        return plaintext

    def has_key(self) -> bool:
        return self._cipher.has_key()

    def split(self) -> tuple[bytes, bytes, bytes]:
        """The initiator's sending key, the responder's sending key and the chain secret, 32 bytes each.

        The first two are those of ``Split()``: HKDF outputs do not depend on how many are taken.
        """
        output = hkdf_sha256(self._ck, b"", b"", 96)
        return output[:32], output[32:64], output[64:]

    def copy(self) -> SymmetricState:
        other = SymmetricState.__new__(SymmetricState)
        other._backend, other._ck, other._h = self._backend, self._ck, self._h
        other._cipher = self._cipher.copy()
        return other


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class SessionSecrets(Secret):
    """What a completed handshake leaves: 32 bytes each, the keys already by role. Not shown by ``repr``, not picklable.

    Attributes:
        send_key: seals what we send.
        receive_key: opens what the peer sends.
        chain_secret: equal at both ends; feeds the next key update.
        handshake_hash: equal at both ends and different for every session (section 11.2). Known to both peers only.
    """

    send_key: bytes
    receive_key: bytes
    chain_secret: bytes
    handshake_hash: bytes


class HandshakeState(Secret):
    """One side of an XX handshake (section 5.3).

    A call of ``write_message`` or ``read_message`` that is cut short (by a forged message, by an interrupt) leaves the
    state half-changed; every later call then raises ``LocalProtocolError``. Who wants to survive forgeries reads on a
    copy and keeps the copy only if the read returned::

        attempt = state.copy()
        payload = attempt.read_message(message, header)   # raises: ``state`` is as it was
        state = attempt

    A copy must not *write* where the original wrote too: two different payloads would be sealed under one key and
    nonce.

    Args:
        initiator: True for the side that sends the first message.
        prologue: bytes that both sides must agree on; the handshake fails if they differ.
        static_private, static_public: our long-term X25519 key pair, 32 bytes each; they must belong together.
        ephemeral_private: 32 fresh random bytes, used for this handshake and never again.

    Attributes:
        ephemeral_public: our ephemeral public key, in clear in our first message.
        remote_ephemeral: the peer's, once its first message was read.
        remote_static: the peer's static public key, as it was sent, once it was read. *Proven* only when the message
        that
            carried it was read whole. A caller compares it byte for byte with the key it expects.
    """

    __slots__ = (
        *("_backend", "_e", "_index", "_s", "_s_public", "_symmetric", "_usable"),
        *("ephemeral_public", "initiator", "remote_ephemeral", "remote_static"),
    )

    def __init__(
        self,
        backend: Backend,
        *,
        initiator: bool,
        prologue: bytes,
        static_private: bytes,
        static_public: bytes,
        ephemeral_private: bytes,
    ) -> None:
        self._backend = backend
        self.initiator = initiator
        self._s = static_private
        self._s_public = static_public
        self._e = ephemeral_private
        self.ephemeral_public = backend.x25519_public(ephemeral_private)
        self.remote_ephemeral: bytes | None = None
        self.remote_static: bytes | None = None
        self._index = 0
        self._usable = True
        self._symmetric = SymmetricState(backend, PROTOCOL_NAME)
        self._symmetric.mix_hash(prologue)

    @property
    def complete(self) -> bool:
        """True once all three messages went through."""
        return self._index == len(_XX) and self._usable

    def write_message(self, payload: bytes, header: bytes = b"") -> bytes:
        """The next handshake message, with ``payload`` in it: in clear in the first message, sealed in the others.

        Args:
            header: clear bytes sent before the message; mixed into the transcript if not empty.

        Raises:
            LocalProtocolError: it is not our turn, or an earlier call failed.
            ValueError: the message would be longer than Noise allows.
        """
        self._begin(writing=True)
        symmetric = self._symmetric
        if header:
            symmetric.mix_hash(header)
        message = b""
        for token in _XX[self._index]:
            if token == "e":
                message += self.ephemeral_public
                symmetric.mix_hash(self.ephemeral_public)
            elif token == "s":
                message += symmetric.encrypt_and_hash(self._s_public)
            else:
                symmetric.mix_key(self._dh(token))
        if len(message) + len(payload) + TAG_SIZE > MAX_MESSAGE:
            raise ValueError(f"a handshake payload of {len(payload)} bytes is too long")
        message += symmetric.encrypt_and_hash(payload)
        self._finish()
        return message

    def read_message(self, message: Data, header: bytes = b"") -> bytes:
        """The payload of the peer's next handshake message.

        Args:
            header: clear bytes that came before the message; mixed into the transcript if not empty.

        Raises:
            AuthenticationError: a tag does not match, or a key of the peer is a point of small order.
            DecodeError: shorter or longer than such a message can be. The state is not touched by that.
            LocalProtocolError: it is not the peer's turn, or an earlier call failed.
        """
        self._begin(writing=False)
        if not _SHORTEST[self._index] <= len(message) <= MAX_MESSAGE:
            self._usable = True
            raise DecodeError(f"a handshake message of {len(message)} bytes")
        symmetric = self._symmetric
        if header:
            symmetric.mix_hash(header)
        offset = 0
        for token in _XX[self._index]:
            if token == "e":
                self.remote_ephemeral = bytes(message[:_DHLEN])
                offset = _DHLEN
                symmetric.mix_hash(self.remote_ephemeral)
            elif token == "s":
                end = offset + _DHLEN + TAG_SIZE
                self.remote_static = symmetric.decrypt_and_hash(message[offset:end])
                offset = end
            else:
                symmetric.mix_key(self._dh(token))
        payload = symmetric.decrypt_and_hash(message[offset:])
        self._finish()
        return payload

    def split(self) -> SessionSecrets:
        """The session's keys, ours first. May be called again and gives the same.

        Raises:
            LocalProtocolError: the handshake is not complete.
        """
        if not self.complete:
            raise LocalProtocolError("the handshake is not complete")
        first, second, chain_secret = self._symmetric.split()
        if not self.initiator:
            first, second = second, first
        return SessionSecrets(first, second, chain_secret, self._symmetric.get_handshake_hash())

    def copy(self) -> HandshakeState:
        """An independent state that stands where this one does. Cheap: no key agreement."""
        other = HandshakeState.__new__(HandshakeState)
        for name in HandshakeState.__slots__:
            setattr(other, name, getattr(self, name))
        other._symmetric = self._symmetric.copy()
        return other

    def _begin(self, *, writing: bool) -> None:
        if not self._usable:
            raise LocalProtocolError("an earlier handshake message failed; this state cannot go on")
        if self._index == len(_XX):
            raise LocalProtocolError("the handshake is complete")
        if writing is not (self.initiator is (self._index % 2 == 0)):
            raise LocalProtocolError("it is not our turn" if writing else "it is not the peer's turn")
        self._usable = False

    def _finish(self) -> None:
        self._index += 1
        self._usable = True

    def _dh(self, token: str) -> bytes:
        """``ee``, ``es`` or ``se``: the initiator's key is named first, the responder's second (section 7.1)."""
        ours, theirs = (token[0], token[1]) if self.initiator else (token[1], token[0])
        remote = self.remote_ephemeral if theirs == "e" else self.remote_static
        assert remote is not None
        return self._backend.x25519(self._e if ours == "e" else self._s, remote)
