"""Record keys and replay window: what makes sure that a record number is sealed once and accepted once.

One :class:`RecordKeys` per key epoch, one :class:`ReplayWindow` per session (record numbers go on across key updates).
Nothing here is thread-safe: the endpoint's lock holds. Nothing reads a clock: when keys are too *old* is the
connection's business, when they are worn out is :attr:`RecordKeys.update_due`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct

from ..exceptions import AuthenticationError, LocalProtocolError
from .backend import Backend, Data, Secret, hkdf_sha256

WINDOW = 65_536
"""Record numbers, counted back from the highest accepted one, among which a late record is still accepted."""

MAX_NUMBER = 2**64 - 1
"""The largest number a record header can carry."""

LIMIT = 2**62 - 2**13
"""Record numbers from here on are neither sealed nor opened: an acknowledgement cannot name numbers from 2^62 on."""

UPDATE_RECORDS = 2**20
"""Records sealed under one key before a key update is due."""

UPDATE_BYTES = 2**36
"""Plaintext bytes sealed under one key before a key update is due (64 GiB)."""

UPDATE_SECONDS = 120.0
"""Seconds of use before a key update is due."""

FORGERY_LIMIT = 2**36
"""Failed openings after which a session must end (the integrity limit of AES-GCM, RFC 9147 section 4.5.3)."""

_NONCE = Struct(">4xQ")
_BLOCK_SHIFT = 9
_BLOCK_MASK = (1 << _BLOCK_SHIFT) - 1


class ReplayWindow:
    """Which record numbers were accepted already. ``check`` before opening, ``commit`` after the tag proved right.

    Exact for the newest ``WINDOW`` numbers; everything older is refused. The newest numbers without a gap are one
    range, so that a record in its order costs a comparison and an addition. What came before that range is marked in
    blocks of 512 numbers, which exist only where something came: an idle or lossless session needs none, a step costs
    the same at every fill, and a jump of any length costs no more than the blocks it leaves behind.

    Attributes:
        highest: the largest number committed, -1 before the first.
    """

    __slots__ = ("_blocks", "_oldest", "_run", "highest")

    def __init__(self) -> None:
        self.highest = -1
        self._run = 0
        """Everything from here to ``highest`` was committed; ``_blocks`` has marks for smaller numbers only."""
        self._blocks: dict[int, int] = {}
        self._oldest = 0
        """The first block that reaches into the window."""

    def check(self, number: int) -> bool:
        """True if a record of that number is new and not too old. Changes nothing."""
        highest = self.highest
        if number > highest:
            return number <= MAX_NUMBER
        if number >= self._run or number <= highest - WINDOW or number < 0:
            return False
        return not self._blocks.get(number >> _BLOCK_SHIFT, 0) >> (number & _BLOCK_MASK) & 1

    def commit(self, number: int) -> None:
        """Remember that a record of that number *opened*. A number that ``check`` would refuse changes nothing.

        Raises:
            ValueError: no record can have so large a number.
        """
        highest = self.highest
        if number == highest + 1 <= MAX_NUMBER:
            self.highest = number
        elif number > highest:
            self._jump(number)
        elif highest - WINDOW < number < self._run and number >= 0:
            block = number >> _BLOCK_SHIFT
            self._blocks[block] = self._blocks.get(block, 0) | 1 << (number & _BLOCK_MASK)

    def _jump(self, number: int) -> None:
        """Begin a new range at ``number``, which leaves a gap after ``highest``."""
        if number > MAX_NUMBER:
            raise ValueError(f"no record number: {number}")
        first = max(number - WINDOW + 1, 0)
        oldest = first >> _BLOCK_SHIFT
        if oldest > self._oldest:
            self._oldest = oldest
            self._blocks = {block: marks for block, marks in self._blocks.items() if block >= oldest}
        self._mark(max(self._run, first), self.highest)
        self.highest = self._run = number

    def _mark(self, first: int, last: int) -> None:
        """Mark ``first`` to ``last``, both included; nothing if ``first`` is larger."""
        while first <= last:
            block, end = first >> _BLOCK_SHIFT, min(last, first | _BLOCK_MASK)
            marks = ((1 << (end - first + 1)) - 1) << (first & _BLOCK_MASK)
            self._blocks[block] = self._blocks.get(block, 0) | marks
            first = end + 1


class RecordKeys(Secret):
    """Both directions' keys of one epoch. Seals every record number at most once.

    Args:
        send_key, receive_key: 32 bytes each.
        epoch: the number of this key pair, as record headers name it; only carried here.
        first_number: the first record number that may be sealed.

    Attributes:
        next_number: the smallest record number not used up.
        sealed: calls of ``seal`` that used up a number, failed ones included.
        sealed_bytes: plaintext bytes of these calls.
        opened: records opened.
        failed: records that did not open.
    """

    __slots__ = ("_open", "_seal", "epoch", "failed", "next_number", "opened", "sealed", "sealed_bytes")

    def __init__(
        self, backend: Backend, send_key: bytes, receive_key: bytes, epoch: int = 0, *, first_number: int = 0
    ) -> None:
        self._seal = backend.aead(send_key).seal
        self._open = backend.aead(receive_key).open
        self.epoch = epoch
        self.next_number = first_number
        self.sealed = 0
        self.sealed_bytes = 0
        self.opened = 0
        self.failed = 0

    def __repr__(self) -> str:
        return f"<RecordKeys epoch {self.epoch}>"

    def seal(self, number: int, header: bytes, plaintext: Data) -> bytes:
        """The sealed record, 16 bytes longer than ``plaintext``.

        Args:
            number: the record number; larger than every number given before, gaps allowed.
            header: the clear bytes that go with it, authenticated but not hidden.

        Raises:
            LocalProtocolError: the number was used or passed over, or is at the limit. Nothing was sealed.
        """
        if not self.next_number <= number < LIMIT:
            raise LocalProtocolError(f"record number {number} cannot be sealed: next is {self.next_number}")
        # Used up before the AEAD sees it: whatever happens from here on, an interrupt or a lack of memory too, no
        # second call can seal anything under this number. A nonce used twice would reveal the authentication key of
        # GCM.
        self.next_number = number + 1
        self.sealed += 1
        self.sealed_bytes += len(plaintext)
        return self._seal(_NONCE.pack(number), plaintext, header)

    def open(self, number: int, header: bytes, ciphertext: Data) -> bytes:
        """The plaintext of a sealed record. Says nothing of replay: ask the :class:`ReplayWindow` first.

        Raises:
            AuthenticationError: not sealed by the peer under this number and header; or the number is at the limit, or
                ``FORGERY_LIMIT`` openings failed already. Counted in ``failed``.
        """
        if not 0 <= number < LIMIT or self.failed >= FORGERY_LIMIT:
            self.failed += 1
            raise AuthenticationError("the record is beyond the limits of its key")
        try:
            plaintext = self._open(_NONCE.pack(number), ciphertext, header)
        except AuthenticationError:
            self.failed += 1
            raise
        self.opened += 1
        return plaintext

    @property
    def update_due(self) -> bool:
        """True when enough was sealed under these keys that new ones should follow."""
        return self.sealed >= UPDATE_RECORDS or self.sealed_bytes >= UPDATE_BYTES

    @property
    def exhausted(self) -> bool:
        """True when these keys can do no more: too many failed openings, or the record numbers ran out."""
        return self.failed >= FORGERY_LIMIT or self.next_number >= LIMIT


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class EpochSecrets(Secret):
    """What a key update leaves, 32 bytes each; unpacks as ``chain, initiator, responder``.

    Attributes:
        chain_secret: feeds the next update.
        initiator_key: seals what the initiator of the *handshake* sends.
        responder_key: seals what its responder sends.
    """

    chain_secret: bytes
    initiator_key: bytes
    responder_key: bytes

    def __iter__(self) -> Iterator[bytes]:
        yield self.chain_secret
        yield self.initiator_key
        yield self.responder_key

    def by_role(self, initiator: bool) -> tuple[bytes, bytes]:
        """``(send_key, receive_key)`` of the handshake's initiator, or of its responder."""
        if initiator:
            return self.initiator_key, self.responder_key
        return self.responder_key, self.initiator_key


def next_epoch(
    chain_secret: bytes, shared_secret: bytes, *, epoch: int, initiator_public: bytes, responder_public: bytes
) -> EpochSecrets:
    """The secrets of the next epoch; the same at both ends if all arguments are.

    HKDF-SHA256 (RFC 5869): salt = old chain secret, input = fresh X25519 result, info = label, epoch (8 bytes,
    big-endian) and both fresh public keys, the handshake initiator's first; 96 bytes are taken. Who learns only the old
    chain secret or only the fresh private keys cannot compute them.

    Args:
        chain_secret: of the current epoch, or of the handshake.
        shared_secret: X25519 of the two fresh keys.
        epoch: the number of the *new* epoch, not reduced to what headers show of it.
        initiator_public, responder_public: the fresh public keys, 32 bytes each.

    Raises:
        ValueError: an argument has the wrong size.
    """
    for value in (chain_secret, shared_secret, initiator_public, responder_public):
        if len(value) != 32:
            raise ValueError("secrets and public keys of a key update are 32 bytes each")
    info = b"srmudp key update 1" + epoch.to_bytes(8, "big") + initiator_public + responder_public
    output = hkdf_sha256(chain_secret, shared_secret, info, 96)
    return EpochSecrets(output[:32], output[32:64], output[64:])
