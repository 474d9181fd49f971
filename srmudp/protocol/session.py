"""One handshake's keys with everything numbered under them: record numbers, transmission numbers, the replay window."""

from __future__ import annotations

from collections import Counter
from typing import Final

from ..crypto.backend import Backend
from ..crypto.protection import FORGERY_LIMIT, LIMIT, RecordKeys
from ..wire.packet import (
    FIRST_SEGMENT,
    MAX_SEGMENTS,
    RECORD_OVERHEAD,
    RESEND_OVERHEAD,
    TAG,
    RecordHeader,
    cut_record,
)
from .handshake import Agreed
from .records import RecordReceiver

NUMBERS_KEPT: Final = 1 << 16
"""Numbers before the hard limit at which a session is replaced: what is said outside its usual output has room."""
WORN: Final = LIMIT - NUMBERS_KEPT
_tuple = tuple.__new__  # half the cost of calling a NamedTuple's class


class Session:
    """Seals what leaves and opens what comes, from key agreement to replacement."""

    __slots__ = (
        "agreed",
        "confirmed",
        "created_at",
        "keys",
        "next_number",
        "next_transmission",
        "receiver",
        "remote_index",
    )

    def __init__(self, backend: Backend, agreed: Agreed, drops: Counter[str], memory: int, now: float) -> None:
        self.agreed = agreed
        self.keys = RecordKeys(backend, agreed.secrets.send_key, agreed.secrets.receive_key)
        self.receiver = RecordReceiver(self.keys, drops, memory)
        self.remote_index = agreed.hello.index
        self.next_number = 0
        self.next_transmission = 0
        self.created_at = now
        self.confirmed = False

    @property
    def local_index(self) -> int:
        """Where the peer sends to."""
        return self.agreed.local_index

    @property
    def worn_out(self) -> bool:
        """True when a new handshake is needed: the keys can do no more, or the numbers come to their end."""
        # The keys' own numbers run no further than those of the session.
        return self.next_transmission >= WORN or self.next_number >= WORN or self.keys.failed >= FORGERY_LIMIT

    def seal(self, plaintext: bytes, mtu: int) -> tuple[RecordHeader, bytes, bytes]:
        """Seal one record and cut it.

        Args:
            plaintext: frames; not empty.
            mtu: bytes of UDP payload a datagram may have.

        Returns:
            Header, ciphertext, and the datagrams of the first flight back to back (``RECORD_OVERHEAD + header.size``
            bytes each).
        """
        size = len(plaintext) + TAG
        count = 1
        # One datagram may use the whole of the MTU; segments leave room for the longer header of a resend.
        if size > mtu - RECORD_OVERHEAD:
            full = segment_room(mtu)
            count, size = -(-size // full), full
            assert count <= MAX_SEGMENTS
        keys = self.keys
        number = self.next_number
        first = self.next_transmission
        # Both are used up before the AEAD call: a failed or interrupted seal burns them.
        self.next_number = number + 1
        self.next_transmission = first + count
        header = _tuple(RecordHeader, (keys.epoch, self.remote_index, number, first, count, size))
        aad = header.pack()
        ciphertext = keys.seal(number, aad, plaintext)
        if count == 1:
            return header, ciphertext, aad + FIRST_SEGMENT + ciphertext
        return header, ciphertext, cut_record(header, ciphertext, aad)

    def skip(self, datagrams: int) -> int:
        """Leave out a record number and so many transmission numbers, for good. Returns the record number."""
        number = self.next_number
        self.next_number = number + 1
        self.next_transmission += datagrams
        return number


def segment_room(mtu: int) -> int:
    """Bytes of ciphertext in a full segment of a record of several datagrams."""
    return mtu - RESEND_OVERHEAD


def single_room(mtu: int) -> int:
    """Bytes of frames in a record of one datagram."""
    return mtu - RECORD_OVERHEAD - TAG
