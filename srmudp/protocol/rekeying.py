"""Key updates within a session: fresh X25519 keys mixed with the old chain secret, one epoch after the other.

::

    A -> B  KEY_UPDATE(epoch + 1, a)          under the old keys
    B -> A  KEY_UPDATE_REPLY(epoch + 1, b)    B can open the new epoch from now on
    A -> B  any record of the new epoch       A seals under it from now on
    B -> A  any record of the new epoch       B does too, since one opened; A has the update confirmed

Both sides may begin at once: the smaller public key stays, as with handshakes. Keys of the previous epoch open late
records for :data:`GRACE` seconds. Record numbers, the replay window and everything else go on as if nothing happened.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from ..crypto.backend import Backend
from ..crypto.protection import UPDATE_SECONDS, EpochSecrets, RecordKeys, next_epoch
from ..wire.frames import KeyUpdate, KeyUpdateReply
from .session import Session

GRACE: Final = 10.0
"""Seconds the keys of the previous epoch are kept for records that come late."""

HEAD_START: Final = 5.0
"""Seconds the initiator of the handshake begins earlier."""
MIN_INTERVAL: Final = 1.0
"""Seconds between two updates that a peer may make us work for."""


class Stage(Enum):
    """How far an update is."""

    IDLE = "idle"
    OFFERED = "offered"
    """Our KEY_UPDATE is on its way."""
    AGREED = "agreed"
    """Both have the next keys, as far as we know; no record opened under them yet."""


class Rekeying:
    """The key updates of one session. Key agreement is done by jobs; this holds the state between them."""

    def __init__(self, session: Session, backend: Backend, now: float) -> None:
        self._session = session
        self._backend = backend
        self._epoch = 0
        self._chain = session.agreed.secrets.chain_secret
        self._secret = self._public = b""
        self._next: RecordKeys | None = None
        self._next_chain = b""
        self._since = now
        # The responder leaves the first move to the initiator, so that offers seldom cross.
        self._seconds = UPDATE_SECONDS if session.agreed.initiator else UPDATE_SECONDS + HEAD_START
        self._drop_at: float | None = None
        self._previous: RecordKeys | None = None
        self.stage = Stage.IDLE
        self.job_running = False
        self.held: KeyUpdate | None = None
        """An offer of the peer that came while a job of ours ran."""
        self.updates = 0
        """Updates confirmed."""

    def next_timer(self) -> float | None:
        """When :meth:`on_timer` or a look at :meth:`due` is wanted."""
        if self._drop_at is not None:
            return self._drop_at
        keys = self._session.keys
        if self.stage is not Stage.IDLE or self.job_running or not keys.sealed:
            return None
        return self._since if keys.update_due else self._since + self._seconds

    def on_timer(self, now: float) -> None:
        """Forget keys whose grace is over."""
        if self._drop_at is not None and now >= self._drop_at:
            self._drop_at = None
            if self._previous is not None:
                self._session.receiver.forget_keys(self._previous)
                self._previous = None

    def due(self, now: float) -> bool:
        """True if an update should begin: the keys are worn, or have been in use for ``UPDATE_SECONDS``."""
        keys = self._session.keys
        if self.stage is not Stage.IDLE or self.job_running or self._drop_at is not None or not keys.sealed:
            return False
        return keys.update_due or now >= self._since + self._seconds

    def offer(self, secret: bytes, public: bytes) -> KeyUpdate | None:
        """Begin an update with a fresh key pair. None if the peer was faster."""
        if self.stage is not Stage.IDLE:
            return None
        self._secret, self._public = secret, public
        self.stage = Stage.OFFERED
        return KeyUpdate(self._next_epoch, public)

    def wants_reply(self, frame: KeyUpdate, now: float) -> bool:
        """Whether the peer's offer is to be answered: the next epoch, and not beaten by our own offer.

        While a job runs the frame is held; look at it again when the job is done.
        """
        if self.job_running:
            self.held = frame
            return False
        if frame.epoch != self._next_epoch or self.stage is Stage.AGREED:
            return False
        if self.updates and now < self._since + MIN_INTERVAL:
            return False
        return self.stage is Stage.IDLE or frame.public < self._public

    def agree(self, ours: bytes, theirs: bytes, shared: bytes) -> EpochSecrets:
        """The secrets of the next epoch from a finished key agreement. Pure."""
        first, second = (ours, theirs) if self._session.agreed.initiator else (theirs, ours)
        return next_epoch(self._chain, shared, epoch=self._epoch + 1, initiator_public=first, responder_public=second)

    def reply(self, frame: KeyUpdate, public: bytes, secrets: EpochSecrets) -> KeyUpdateReply | None:
        """Our key pair for the peer's offer is ready: from now on the new epoch opens here."""
        if frame.epoch != self._next_epoch or self.stage is Stage.AGREED:
            return None
        self._install(secrets)
        return KeyUpdateReply(frame.epoch, public)

    def expects_reply(self, frame: KeyUpdateReply) -> bytes | None:
        """The secret to agree with, if this answers our offer."""
        if self.stage is Stage.OFFERED and frame.epoch == self._next_epoch and not self.job_running:
            return self._secret
        return None

    @property
    def public(self) -> bytes:
        """The public key of our offer."""
        return self._public

    def complete(self, frame: KeyUpdateReply, secrets: EpochSecrets) -> bool:
        """The peer's answer was agreed with: seal under the new epoch from now on. True if that was done."""
        if self.stage is not Stage.OFFERED or frame.epoch != self._next_epoch:
            return False
        self._install(secrets)
        assert self._next is not None
        self._seal_under(self._next)
        return True

    def on_opened(self, now: float) -> None:
        """A record opened. If it was of the next epoch, the update is confirmed."""
        keys = self._next
        if keys is None or self.stage is not Stage.AGREED or not keys.opened:
            return
        session = self._session
        if session.keys is not keys:
            self._seal_under(keys)
        self._epoch += 1
        self._chain = self._next_chain
        self._next = None
        self._secret = self._public = self._next_chain = b""
        self._since = now
        self._drop_at = now + GRACE
        self.stage = Stage.IDLE
        self.updates += 1

    @property
    def _next_epoch(self) -> int:
        return (self._epoch + 1) & 0xFF

    def _install(self, secrets: EpochSecrets) -> None:
        send, receive = secrets.by_role(self._session.agreed.initiator)
        number = self._session.next_number
        self._next = RecordKeys(self._backend, send, receive, self._next_epoch, first_number=number)
        self._next_chain = secrets.chain_secret
        self._session.receiver.add_keys(self._next)
        self.stage = Stage.AGREED

    def _seal_under(self, keys: RecordKeys) -> None:
        if self._previous is not None:
            self._session.receiver.forget_keys(self._previous)
        self._previous = self._session.keys
        self._session.keys = keys
