"""Who gets an answer, and whose name a proven key may take.

A punch cannot be matched by its source address alone, since NATs change it. It is answered if it carries a tag keyed by
our PeerId; or comes from the exact address of an added peer without a key, or from the IP address of exactly one such
peer; or if strangers are accepted. Everyone else hears silence.

Answers cost key agreements, so they have a rate. Above half of it, or with a half-full table, a punch is answered by a
cookie alone until it brings one back from the address it claims to come from (:mod:`.cookies`).
"""

from __future__ import annotations

import hmac
import ipaddress
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Final

from ..crypto.keys import cookie_tag, punch_tag
from ..models import Address, PeerId, Trust
from ..protocol.handshake import Agreed, Answer
from ..protocol.session import Session
from ..wire.packet import NO_COOKIE, NO_TAG, Punch, build_cookie
from .attempts import ATTEMPT_LIFETIME
from .cookies import Cookies
from .invites import Invites
from .jobs import PatientBucket, TokenBucket
from .peer import Peer
from .registry import Registry

MAX_HALF_OPEN: Final = 1024
"""Answered punches remembered at a time."""
MAX_HALF_OPEN_PER_HOST: Final = 512
LEFT_FOR_PROVEN: Final = 0.5
"""Part of the burst of answers that is left to punches with a cookie."""
LEFT_FOR_REPEATS: Final = 0.25
"""Part of it that one host, or a flood of punches whose cookie was read on the way, leaves to others."""
DEMANDS: Final = 1000.0
"""Cookies sent to strangers in a second. A flood beyond that hears silence before its tags are looked at."""
MAX_PREFIXES: Final = 1024
"""Networks of strangers whose share of the answers is watched at a time."""
REMEMBERED_PUNCHES: Final = 4096
"""Punches beyond the rate that are remembered, half a kilobyte each: a repetition of one is let through."""
MAX_PENDING: Final = 16
"""Strangers waiting for a decision at a time."""
MAX_PENDING_PER_NETWORK: Final = 4
"""The same for one IPv4 address or IPv6 /64: nobody may fill the waiting room alone."""
MAX_QUESTIONS: Final = 3
"""Questions before the application at a time; the other strangers wait for their turn."""
PENDING_SECONDS: Final = 300.0
ASK_AGAIN: Final = 3600.0
"""Seconds between two questions about one PeerId."""
IP_MATCH_AFTER: Final = 2.0
"""Seconds we have punched at a peer's exact address before its IP address alone is a match: a neighbour behind the same
carrier NAT must not be faster than the peer itself."""
REMEMBERED_ANSWERS: Final = 1024


class Reply(Enum):
    """What a punch is answered by."""

    PUBLIC_KEY = "public_key"
    COOKIE = "cookie"
    SILENCE = "silence"


class AcceptPolicy(Enum):
    """What happens to a stranger that proves its key."""

    NOBODY = "nobody"
    ASK = "ask"
    EVERYBODY = "everybody"


class Verdict(Enum):
    """What to do with a proven key that asks to come in."""

    WELCOME = "welcome"
    REFUSED = "refused"
    WAIT = "wait"


@dataclass(slots=True)
class Question:
    """A stranger that waits for a decision: its key, what it claims to be called, and where it is."""

    peer_id: PeerId
    name: str
    address: Address
    since: float
    asked: bool = False


@dataclass(slots=True)
class HalfOpen:
    """A punch that was answered: waits at most ATTEMPT_LIFETIME for its SHARED_KEY.

    One for each address that the same punch came from, so that who continues it has read what was sent to ``source``.
    """

    source: Address
    created_at: float
    key: tuple[bytes, Address]
    with_cookie: bool = False
    """Its sender reads what is sent to ``source``."""
    answer: Answer | None = None
    job_running: bool = False
    proven: tuple[bytes, Agreed, Address] | None = None
    """A SHARED_KEY that verified and where it came from last, so that repeating it costs no key agreement."""
    accepted: bytes = b""
    """The SHARED_KEY that was accepted."""
    session: Session | None = None
    peer: Peer | None = None


class Admission:
    """Decides; holds no sessions. Called under the endpoint lock."""

    def __init__(
        self,
        own: PeerId,
        policy: AcceptPolicy,
        registry: Registry,
        drops: Counter[str],
        rate: float,
        random: Callable[[int], bytes],
    ) -> None:
        self._own = own
        self.policy = policy
        self._registry = registry
        self._drops = drops
        self._strangers = TokenBucket(rate, 2 * rate)
        self._added = PatientBucket(rate, 4 * rate, REMEMBERED_PUNCHES)
        self._rate = rate
        self._demands = TokenBucket(DEMANDS, DEMANDS)
        self._prefixes: dict[str, TokenBucket] = {}
        self._cookies = Cookies(random)
        self.invites = Invites(random)
        self._by_punch: dict[tuple[bytes, Address], HalfOpen] = {}
        self._by_index: dict[int, HalfOpen] = {}
        self._per_host: Counter[str] = Counter()
        self._asked: dict[PeerId, float] = {}
        self._pending: dict[PeerId, Question] = {}
        self._decided: dict[PeerId, tuple[bool, float]] = {}

    # --- punches

    def is_tagged_for_us(self, punch: Punch) -> bool:
        """True if the sender knows our PeerId. A wrong tag counts as none."""
        return punch.tag != NO_TAG and hmac.compare_digest(punch_tag(self._own, punch.tagged_bytes), punch.tag)

    @property
    def is_early(self) -> bool:
        """True while nobody was added: who is none of ours yet may be so in a moment."""
        return self.policy is AcceptPolicy.NOBODY and self._registry.untouched

    def reply_to(self, punch: Punch, source: Address, now: float) -> Reply:
        """Whether a punch deserves the cost of an answer; counts why not."""
        registry = self._registry
        added = registry.is_configured(source.host)
        plain = punch.cookie == NO_COOKIE
        from_host = self._per_host[source.host]
        crowded = len(self._by_punch) >= MAX_HALF_OPEN // 2 or from_host >= MAX_HALF_OPEN_PER_HOST // 2
        no_answer = crowded or not self._strangers.has(now, LEFT_FOR_PROVEN)
        if plain and not added and no_answer and not self._demands.has(now):
            self._drops["handshake_rate"] += 1
            return Reply.SILENCE
        if self.is_early and not self.invites.is_any_open(now):
            # Its peers are still to be added: whoever is early must not be refused, which would keep it away for long.
            self._drops["unsolicited_punch"] += 1
            return Reply.SILENCE
        expected = registry.expects(source) or self._match_by_ip(source, now) is not None
        if not (expected or self.policy is not AcceptPolicy.NOBODY or self.is_tagged_for_us(punch)):
            self._drops["unsolicited_punch"] += 1
            return Reply.SILENCE
        proven = not plain and self._cookies.holds(punch.cookie, source, punch.index, now)
        may = self._added_may if added else self._stranger_may
        if (crowded and not proven) or not may(punch, source, proven, now):
            demand = not proven and (added or self._demands.take(now))
            self._drops["cookie_demanded" if demand else "handshake_rate"] += 1
            return Reply.COOKIE if demand else Reply.SILENCE
        full = len(self._by_punch) >= MAX_HALF_OPEN
        if (full or from_host >= MAX_HALF_OPEN_PER_HOST) and not self._evict(None if full else source.host):
            self._drops["half_open_full"] += 1
            return Reply.SILENCE
        return Reply.PUBLIC_KEY

    def _added_may(self, punch: Punch, source: Address, proven: bool, now: float) -> bool:
        event = (punch.header + punch.message, source)
        return self._added.take(event, now, LEFT_FOR_REPEATS if proven else LEFT_FOR_PROVEN)

    def _stranger_may(self, punch: Punch, source: Address, proven: bool, now: float) -> bool:
        if not proven:
            return self._strangers.take(now, LEFT_FOR_PROVEN)
        # A network that can read its own mail may have many addresses: no more than a share for each.
        prefix = prefix_of(source.host)
        bucket = self._prefixes.pop(prefix, None) or TokenBucket(self._rate / 4, self._rate / 2)
        self._prefixes[prefix] = bucket
        if len(self._prefixes) > MAX_PREFIXES:
            del self._prefixes[next(iter(self._prefixes))]
        return bucket.take(now) and self._strangers.take(now)

    def cookie_for(self, punch: Punch, source: Address, now: float) -> bytes:
        """The COOKIE datagram that demands a proof of the source address. Smaller than the punch."""
        cookie = self._cookies.make(source, punch.index, now)
        return build_cookie(punch.index, cookie, lambda data: cookie_tag(self._own, data))

    def _evict(self, host: str | None) -> bool:
        """Make room by the oldest entry (of a host) that came to nothing, one without a cookie if there is any.

        Only a punch with a cookie gets here: those without push nobody out, so the honest ones among them keep their
        place for as long as their handshake needs.
        """
        for with_cookie in (False, True):
            for half_open in self._by_punch.values():
                if half_open.with_cookie is not with_cookie or half_open.accepted or half_open.job_running:
                    continue
                if host in (None, half_open.source.host):
                    self._drops["half_open_evicted"] += 1
                    self.forget(half_open)
                    return True
        return False

    def known(self, punch: Punch, source: Address) -> HalfOpen | None:
        """The half-open entry of a punch that came before from the same address."""
        return self._by_punch.get((punch.header + punch.message, source))

    def remember(self, punch: Punch, source: Address, now: float) -> HalfOpen:
        """A punch is going to be answered."""
        proven = punch.cookie != NO_COOKIE and self._cookies.holds(punch.cookie, source, punch.index, now)
        half_open = HalfOpen(source, now, (punch.header + punch.message, source), proven)
        self._by_punch[half_open.key] = half_open
        self._per_host[source.host] += 1
        return half_open

    def answered(self, half_open: HalfOpen, answer: Answer) -> None:
        """The answer is ready; its SHARED_KEY will name this index."""
        half_open.answer = answer
        self._by_index[answer.index] = half_open

    def waiting_at(self, index: int) -> HalfOpen | None:
        """The half-open entry a SHARED_KEY belongs to."""
        return self._by_index.get(index)

    def forget(self, half_open: HalfOpen) -> None:
        """Its handshake is over."""
        if self._by_punch.pop(half_open.key, None) is None:
            return
        self._per_host[half_open.source.host] -= 1
        if not self._per_host[half_open.source.host]:
            del self._per_host[half_open.source.host]
        if half_open.answer is not None:
            self._by_index.pop(half_open.answer.index, None)

    def forget_session(self, session: Session) -> None:
        """The session is confirmed: its SHARED_KEY need not be answered again."""
        half_open = self._by_index.get(session.local_index)
        if half_open is not None:
            self.forget(half_open)

    def expire(self, now: float) -> None:
        """Drop half-open entries and questions whose time is over."""
        for half_open in list(self._by_punch.values()):
            if now < half_open.created_at + ATTEMPT_LIFETIME:
                break
            self.forget(half_open)
        for question in list(self._pending.values()):
            if now >= question.since + PENDING_SECONDS:
                del self._pending[question.peer_id]

    def next_timer(self) -> float | None:
        """When :meth:`expire` has something to do."""
        if not self._by_punch and not self._pending:
            return None
        # Both are in the order of their times; called with every datagram, so nothing may be walked through.
        times = [half_open.created_at + ATTEMPT_LIFETIME for half_open in islice(self._by_punch.values(), 1)]
        times += [question.since + PENDING_SECONDS for question in islice(self._pending.values(), 1)]
        return min(times, default=None)

    # --- proven keys

    def match(self, source: Address, now: float) -> tuple[Peer, Trust] | None:
        """The added peer without a key that a proven key at ``source`` may take, by the address rules."""
        exact = self._registry.at(source)
        if len(exact) == 1:
            return exact[0], Trust.FIRST_USE
        if not exact:
            near = self._match_by_ip(source, now)
            if near is not None:
                return near, Trust.MATCHED_BY_IP
        return None

    def _match_by_ip(self, source: Address, now: float) -> Peer | None:
        near = self._registry.only_one_at(source.host)
        if near is None or near.peer_id is not None or self._registry.is_somebodys(source):
            return None
        return near if now >= near.since + IP_MATCH_AFTER else None

    def judge(self, peer_id: PeerId, name: str, source: Address, now: float) -> Verdict:
        """What to do with a stranger. See to :meth:`next_question` afterwards."""
        decided = self._decided.get(peer_id)
        if decided is not None and (decided[0] or now - decided[1] < ASK_AGAIN):
            return Verdict.WELCOME if decided[0] else Verdict.REFUSED
        if self.policy is AcceptPolicy.NOBODY or (
            self.policy is AcceptPolicy.EVERYBODY and self._registry.was_removed(peer_id)
        ):
            return Verdict.REFUSED
        if self.policy is AcceptPolicy.EVERYBODY:
            return Verdict.WELCOME
        if peer_id not in self._pending and self._may_ask(peer_id, source, now):
            self._pending[peer_id] = Question(peer_id, name, source, now)
            self._asked[peer_id] = now
            if len(self._asked) > REMEMBERED_ANSWERS:
                del self._asked[next(iter(self._asked))]
        return Verdict.WAIT

    def _may_ask(self, peer_id: PeerId, source: Address, now: float) -> bool:
        if len(self._pending) >= MAX_PENDING or now - self._asked.get(peer_id, -ASK_AGAIN) < ASK_AGAIN:
            return False
        network = prefix_of(source.host)
        neighbours = sum(prefix_of(question.address.host) == network for question in self._pending.values())
        return neighbours < MAX_PENDING_PER_NETWORK

    def next_question(self) -> Question | None:
        """Somebody whom the application should be asked about now; None while enough questions are open."""
        if sum(question.asked for question in self._pending.values()) < MAX_QUESTIONS:
            for question in self._pending.values():
                if not question.asked:
                    question.asked = True
                    return question
        return None

    def waiting(self, peer_id: PeerId) -> HalfOpen | None:
        """The newest handshake in which this stranger proved its key and was neither let in nor refused."""
        for half_open in reversed(self._by_punch.values()):
            proven = half_open.proven
            if proven is not None and not half_open.accepted and proven[1].hello.peer_id == peer_id:
                return half_open
        return None

    def decide(self, peer_id: PeerId, allow: bool, now: float) -> None:
        """The application answered."""
        self._pending.pop(peer_id, None)
        self._decided[peer_id] = (allow, now)
        if len(self._decided) > REMEMBERED_ANSWERS:
            del self._decided[next(iter(self._decided))]

    def revoke(self, peer_id: PeerId) -> None:
        """A decision no longer holds: the peer was removed."""
        self._decided.pop(peer_id, None)


def prefix_of(host: str) -> str:
    """The network that one subscriber has: an IPv4 address itself, the /64 of an IPv6 address."""
    if ":" not in host:
        return host
    return str(ipaddress.IPv6Address(int(ipaddress.IPv6Address(host.partition("%")[0])) >> 64 << 64))
