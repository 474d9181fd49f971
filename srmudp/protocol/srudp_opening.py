"""How a conversation on the old wire begins: agreeing on a key, then finding out how large datagrams may be.

::

    one that speaks first          the other               who is which is settled by whose punch arrives
      PUNCH --------------------------->
      <---------------------- PUBLIC_KEY
      SHARED_KEY ---------------------->                   has the key of the session in it
      <--------------------- ESTABLISHED
      #### ---------------------------->  <---- ####       both probe, each reports what it received
      report -------------------------->  <---- report

Punches may cross; then both hand a key over, and a hash of the two public keys says whose stays.

Old programs end their ``connect`` with an exception at whatever they do not expect, and nearly all of them say each
thing once. So everything here is repeated until the other end shows that it heard it, and nothing is said that could
come at a wrong time: no probe before the other end is sure to be past its handshake, no second public key while the
first may still be answered (each answer brings another key).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import Enum
from math import inf
from typing import Final

from ..crypto.backend import Backend
from ..crypto.srudp import SESSION_KEY, Envelope, KeyPair
from ..exceptions import AuthenticationError
from ..wire.srudp import (
    CHECK_TEXT,
    LARGEST_PROBE,
    PROBE_STEP,
    SMALLEST_PROBE,
    Dialect,
    Handshake,
    Probe,
    Stage,
    probe,
    punch,
    report,
    stage_bytes,
)

LIFETIME: Final = 20.0
"""Seconds after which an opening that was answered and came to nothing is begun anew; old programs wait for 21."""
SETTLING: Final = 0.03
"""Seconds to wait for a second SHARED_KEY before the first is answered: a datagram may come twice."""
PUBLIC_KEY_REPEATS: Final = (1.0, 2.0, 4.0, 4.0, 4.0)
"""Seconds between repetitions of a PUBLIC_KEY: longer than any round trip, see above."""
REPEATS: Final = (0.3, 0.5, 1.0, 2.0, 3.0)
"""The same of what may safely come twice."""
ANSWER_SPACING: Final = 0.5
"""Seconds between answers to punches: a copy of a punch gets none."""
MAX_AGREEMENTS: Final = 16
"""Key agreements in one opening: about a millisecond each, whoever asks for them."""
PROBES_AS_EVIDENCE: Final = 2
"""Probes that say as well as ESTABLISHED that the other end has the key."""

PROBE_SPACING: Final = 0.05
"""Seconds between probes; an old program needs as long a silence to end its own probing."""
QUIET: Final = 0.15
"""Seconds without a probe after which an old program that has our report is taken to have ended its probing."""


class Step(Enum):
    """Where our end of the handshake stands."""

    PUNCHING = "punching"
    """Nobody answered yet."""
    ANSWERED = "answered"
    """It punched; our PUBLIC_KEY is under way."""
    KEY_SENT = "key sent"
    """It answered; our SHARED_KEY is under way."""
    SETTLING = "settling"
    """Its SHARED_KEY came; ESTABLISHED follows in a moment."""
    CONFIRMING = "confirming"
    """Our ESTABLISHED is under way."""
    AGREED = "agreed"
    """Both ends have the key."""


class OldHandshake:
    """One handshake. Datagrams to send are in ``out``; the key, once both ends have it, is under ``key``.

    Args:
        random: cryptographic randomness.
        drops: counts what is discarded.
    """

    def __init__(self, dialect: Dialect, backend: Backend, random: Callable[[int], bytes], drops: Counter[str]) -> None:
        self._dialect = dialect
        self._backend = backend
        self._random = random
        self._drops = drops
        self._keys: KeyPair | None = None  # made when somebody answers
        self._their_public: bytes | None = None
        self._ours: bytes | None = None  # the session key we handed over
        self._theirs: bytes | None = None  # the one that they did
        self._agreements = 0
        self._seen: set[bytes] = set()
        self._public_keys_sent = 0
        self._public_key_at = -inf
        self._probes = 0
        self._punched = False
        self._repeat: bytes = b""
        self._repeats: tuple[float, ...] = ()
        self._due: float | None = None
        self._began: float | None = None
        self.step = Step.PUNCHING
        self.out: list[bytes] = []
        self.public: bytes | None = None
        """The other's public key in the form of the dialect; it proves nothing."""

    @property
    def key(self) -> bytes | None:
        """The key of the session. In CONFIRMING the other end may not have it yet."""
        if self.step in (Step.CONFIRMING, Step.AGREED):
            return self._theirs if self._theirs is not None else self._ours
        return None

    @property
    def is_over(self) -> bool:
        """True once both ends are known to have the key."""
        return self.step is Step.AGREED

    def punch(self) -> None:
        """Send the first datagram, again and again until something comes back."""
        self._punched = True
        self.out.append(punch(self._dialect))

    def on_stage(self, handshake: Handshake, now: float) -> None:
        """A datagram of the other's handshake."""
        if self.step is Step.AGREED:
            self._drops["old_late_handshake"] += 1
            return
        if self._began is None:
            self._began = now
        if handshake.stage is Stage.PUNCH:
            self._on_punch(now)
        elif handshake.stage is Stage.PUBLIC_KEY:
            self._on_public_key(handshake.public, now)
        elif handshake.stage is Stage.SHARED_KEY:
            self._on_shared_key(handshake, now)
        else:
            self._on_established(handshake.sealed)

    def on_evidence(self) -> None:
        """Something came that the other end only sends when its handshake is over: a probe or a report."""
        if self.step is Step.CONFIRMING:
            self._agree()
        elif self.step is Step.KEY_SENT:
            self._probes += 1
            if self._probes >= PROBES_AS_EVIDENCE:
                self._agree()

    def _agree(self) -> None:
        self.step = Step.AGREED
        self._due = None

    def _own_keys(self) -> KeyPair:
        if self._keys is None:
            self._keys = KeyPair(self._random, pem=self._dialect is Dialect.SRMUDP_0_0_4)
        return self._keys

    def _on_punch(self, now: float) -> None:
        if now < self._public_key_at + ANSWER_SPACING or self._public_keys_sent > MAX_AGREEMENTS:
            self._drops["old_duplicate_handshake"] += 1
            return
        self._send_public_key(now)
        if self.step is Step.PUNCHING:
            self.step = Step.ANSWERED
            self._due, self._repeats = now + PUBLIC_KEY_REPEATS[0], PUBLIC_KEY_REPEATS[1:]

    def _send_public_key(self, now: float) -> None:
        self._public_keys_sent += 1
        self._public_key_at = now
        self.out.append(stage_bytes(self._dialect, Handshake(Stage.PUBLIC_KEY, self._own_keys().public)))

    def _on_public_key(self, public: bytes, now: float) -> None:
        if not self._punched:
            self._drops["old_unwanted_public_key"] += 1
            return
        if self.step not in (Step.PUNCHING, Step.ANSWERED, Step.KEY_SENT):
            self._drops["old_late_handshake"] += 1
            return
        if public == self._their_public:
            self._drops["old_duplicate_handshake"] += 1
            return
        agreed = self._agreement(public)
        if agreed is None:
            return
        self._their_public = self.public = public
        if self._ours is None:
            self._ours = self._random(SESSION_KEY)
        sealed = Envelope(self._backend, agreed, self._random).seal(self._ours)
        wire = stage_bytes(self._dialect, Handshake(Stage.SHARED_KEY, self._own_keys().public, sealed))
        self.step = Step.KEY_SENT
        self._send_repeated(wire, now)
        if self._is_outranked():
            self._due = now + PUBLIC_KEY_REPEATS[0]

    def _agreement(self, public: bytes) -> bytes | None:
        self._agreements += 1
        if self._agreements > MAX_AGREEMENTS:
            self._drops["old_handshake_rate"] += 1
            return None
        try:
            return self._own_keys().agree(public)
        except AuthenticationError:
            self._drops["old_bad_public_key"] += 1
            return None

    def _on_shared_key(self, handshake: Handshake, now: float) -> None:
        if handshake.sealed in self._seen or len(self._seen) >= MAX_AGREEMENTS:
            self._drops["old_duplicate_handshake"] += 1
            return
        if not self._public_keys_sent:
            self._drops["old_unwanted_shared_key"] += 1
            return
        keys = self._own_keys()
        if self._ours is not None and self._their_public is not None and keys.outranks(self._their_public):
            self._drops["old_lost_tie"] += 1
            return
        agreed = self._agreement(handshake.public)
        if agreed is None:
            return
        try:
            key = Envelope(self._backend, agreed, self._random).open(handshake.sealed)
        except AuthenticationError:
            self._drops["old_bad_shared_key"] += 1
            return
        self._seen.add(handshake.sealed)
        self._theirs = key
        self.public = handshake.public
        self.step = Step.SETTLING
        # Each of our public keys that arrived brings another key, and the last one is what counts there.
        wait = SETTLING if self._public_keys_sent == 1 else PUBLIC_KEY_REPEATS[0]
        self._due = max(now + SETTLING, self._public_key_at + wait)

    def _is_outranked(self) -> bool:
        """True where punches crossed and the key that the other end hands over is the one that stays."""
        if not self._public_keys_sent or self._their_public is None:
            return False
        return not self._own_keys().outranks(self._their_public)

    def _on_established(self, sealed: bytes) -> None:
        if self.step is not Step.KEY_SENT or self._ours is None:
            self._drops["old_unwanted_established"] += 1
            return
        try:
            text = Envelope(self._backend, self._ours, self._random).open(sealed)
        except AuthenticationError:
            text = b""
        if text == CHECK_TEXT:
            self._agree()
        else:
            self._drops["old_bad_established"] += 1

    def _send_repeated(self, wire: bytes, now: float) -> None:
        self.out.append(wire)
        self._repeat = wire
        self._due, self._repeats = now + REPEATS[0], REPEATS[1:]

    # --- time

    def next_timer(self) -> float | None:
        """When :meth:`on_timer` must be called."""
        return self._due

    def is_stale(self, now: float) -> bool:
        """True once so much time passed since it was answered that another one should take its place."""
        return self._began is not None and now >= self._began + LIFETIME and not self.is_over

    def stale_at(self) -> float | None:
        """When :meth:`is_stale` becomes true."""
        return None if self._began is None or self.is_over else self._began + LIFETIME

    def on_timer(self, now: float) -> None:
        """Repeat what was not answered."""
        if self._due is None or now < self._due:
            return
        if self.step is Step.SETTLING:
            assert self._theirs is not None
            sealed = Envelope(self._backend, self._theirs, self._random).seal(CHECK_TEXT)
            self.step = Step.CONFIRMING
            self._send_repeated(stage_bytes(self._dialect, Handshake(Stage.ESTABLISHED, sealed=sealed)), now)
            return
        if self.step is Step.ANSWERED:
            self._send_public_key(now)
        elif self.step is Step.KEY_SENT and self._is_outranked():
            # It waits for our answer to a key that was lost, and hands out another only for our public key; unless
            # that was lost as well, and our key is what it waits for. Each datagram costs it one of its few turns.
            if len(self._repeats) % 2:
                self.out.append(self._repeat)
            else:
                self._send_public_key(now)
            self._repeats = self._repeats[1:]
            self._due = now + PUBLIC_KEY_REPEATS[0] if self._repeats else None
            return
        else:
            self.out.append(self._repeat)
        self._due = now + self._repeats[0] if self._repeats else None
        self._repeats = self._repeats[1:]


class PathProbing:
    """Finds the largest datagram each way. Datagrams to send are in ``out``.

    Args:
        waits: True to stay silent until the other end is heard: it may still be in its handshake.
    """

    def __init__(self, now: float, *, waits: bool) -> None:
        self.out: list[bytes] = []
        self.mtu: int | None = None
        """Bytes of UDP payload that arrive at the other end, once it told."""
        self._largest_received = 0
        self._next_size = LARGEST_PROBE
        self._due: float | None = None if waits else now
        self._quiet_at: float | None = None

    def on_probe(self, probe: Probe, now: float) -> None:
        """A probe or a report came."""
        if self._due is None and self.mtu is None:
            self._due = now
        if probe.is_report:
            # Of several the largest holds: they tell of what came until then. No report is larger than what was sent.
            self.mtu = max(self.mtu or 0, min(probe.size, LARGEST_PROBE))
            self._due = None
            if self._quiet_at is None and self._largest_received:
                self._quiet_at = now + QUIET
            return
        self._largest_received = max(self._largest_received, probe.size)
        self.out.append(report(self._largest_received))
        self._quiet_at = now + QUIET

    def is_over(self, now: float) -> bool:
        """True once both ends know, and the other has had the silence it waits for."""
        return self.mtu is not None and self._quiet_at is not None and now >= self._quiet_at

    def next_timer(self) -> float | None:
        """When :meth:`on_timer` must be called or :meth:`is_over` asked."""
        if self._due is not None:
            return self._due
        return self._quiet_at if self.mtu is not None else None

    def on_timer(self, now: float) -> None:
        """Send the next probe."""
        if self._due is None or now < self._due or self.mtu is not None:
            return
        sizes = [self._next_size]
        if self._next_size == LARGEST_PROBE:
            sizes.append(LARGEST_PROBE - PROBE_STEP)  # the report comes with the first probe that is smaller
        for size in sizes:
            self.out.append(probe(size))
        following = sizes[-1] - PROBE_STEP
        self._next_size = following if following >= SMALLEST_PROBE else LARGEST_PROBE
        self._due = now + PROBE_SPACING
