"""The key agreements of key updates: jobs outside the lock, and what follows from them for the peer.

What an update is and how far one has come is :class:`~srmudp.protocol.rekeying.Rekeying`'s; this computes for it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ..crypto.protection import EpochSecrets
from ..protocol.rekeying import Rekeying
from ..wire.frames import KeyUpdate, KeyUpdateReply
from .host import Host

if TYPE_CHECKING:
    from .peer import Peer


class KeyUpdates:
    """The updates of one peer's sessions. A job whose session is over when it is done changes nothing."""

    __slots__ = ("_endpoint", "_peer")

    def __init__(self, endpoint: Host[Peer], peer: Peer) -> None:
        self._endpoint = endpoint
        self._peer = peer

    def begin(self) -> None:
        """It is time: offer a fresh key."""
        rekeying = self._peer.rekeying
        assert rekeying is not None
        rekeying.job_running = True
        secret = self._endpoint.random(32)

        def commit(public: bytes | None, now: float) -> None:
            if public is not None and self._peer.rekeying is rekeying:
                frame = rekeying.offer(secret, public)
                if frame is not None:
                    self._peer.connection.signal(frame)
                    self._endpoint.touch(self._peer)
            self._job_done(rekeying, now)

        self._endpoint.add_job(partial(self._endpoint.backend.x25519_public, secret), commit)

    def answer(self, frame: KeyUpdate, now: float) -> None:
        """The peer offers a key: agree with it if it is to be, now or after the job that runs."""
        rekeying = self._peer.rekeying
        if rekeying is None or not rekeying.wants_reply(frame, now):
            return
        rekeying.job_running = True
        backend, secret = self._endpoint.backend, self._endpoint.random(32)

        def compute() -> tuple[bytes, EpochSecrets]:
            public = backend.x25519_public(secret)
            return public, rekeying.agree(public, frame.public, backend.x25519(secret, frame.public))

        def commit(result: tuple[bytes, EpochSecrets] | None, now: float) -> None:
            if result is not None and self._peer.rekeying is rekeying:
                reply = rekeying.reply(frame, *result)
                if reply is not None:
                    self._peer.connection.signal(reply)
                    self._endpoint.touch(self._peer)
            self._job_done(rekeying, now)

        self._endpoint.add_job(compute, commit)

    def complete(self, frame: KeyUpdateReply) -> None:
        """The peer answered our offer."""
        rekeying = self._peer.rekeying
        secret = rekeying.expects_reply(frame) if rekeying is not None else None
        if rekeying is None or secret is None:
            return
        rekeying.job_running = True
        backend, ours = self._endpoint.backend, rekeying.public

        def compute() -> EpochSecrets:
            return rekeying.agree(ours, frame.public, backend.x25519(secret, frame.public))

        def commit(secrets: EpochSecrets | None, now: float) -> None:
            if secrets is not None and self._peer.rekeying is rekeying and rekeying.complete(frame, secrets):
                self._peer.connection.ping()
                self._endpoint.touch(self._peer)
            self._job_done(rekeying, now)

        self._endpoint.add_job(compute, commit)

    def _job_done(self, rekeying: Rekeying, now: float) -> None:
        rekeying.job_running = False
        frame, rekeying.held = rekeying.held, None
        if frame is not None and self._peer.rekeying is rekeying:
            self.answer(frame, now)
