"""The three arrows that lead to a session: cheap checks first, key agreement in jobs, then whose name the key may have.

``on_punch``, ``on_public_key`` and ``on_shared_key`` look at one datagram each and queue a :class:`Job` where that is
worth the cost; the job's commit decides under the lock, on the state as it is then.
"""

from __future__ import annotations

import hmac
from collections import deque
from functools import partial
from hashlib import sha256
from typing import Any, Final

from ..crypto.backend import Backend
from ..crypto.keys import cookie_tag
from ..models import Address, EventKind, PeerEvent, PeerId, PeerState, Trust
from ..nat.explanation import REFLECTED, Heard
from ..protocol.events import Failure, GuestCame, RoomFreed
from ..protocol.handshake import (
    Agreed,
    Answer,
    Opening,
    Self,
    answer_punch,
    open_attempt,
    read_public_key,
    read_shared_key,
)
from ..protocol.session import Session
from ..wire.frames import Close, CloseCode, serialise
from ..wire.packet import parse_cookie, parse_public_key, parse_punch, parse_shared_key
from .admission import Admission, HalfOpen, Reply, Verdict, prefix_of
from .attempts import MAX_JOBS, Attempt
from .host import Host, Transmit
from .invites import Ticket
from .jobs import Job, PatientBucket
from .old_peer import OldPeer
from .peer import Peer
from .registry import Registry
from .trail import Trail

MAX_KEY_AGREEMENT_JOBS: Final = 256
MAX_COOKIES: Final = 4
"""Cookies that one attempt takes from one address: an honest responder changes its own once in two minutes."""
REMEMBERED_ANSWERS: Final = 1024
"""Answers beyond the rate that are remembered by their hash."""
MAX_KNOCKS: Final = 8
"""Addresses remembered that somebody unknown knocked from."""
GENERATION_TRUST: Final = 1 << 31
"""A generation beyond it is some peer's nonsense and is not carried over to others."""


class Handshakes:
    """Every attempt of one socket, ours and others'. Called under the endpoint lock."""

    def __init__(
        self, host: Host[Peer], us: Self, backend: Backend, registry: Registry, admission: Admission, rate: float
    ) -> None:
        self._host = host
        self._us = us
        self._backend = backend
        self._registry = registry
        self._admission = admission
        self._attempts: dict[int, tuple[Peer, Attempt]] = {}
        self._generation = 0
        self._public_keys = PatientBucket(rate, 4 * rate, REMEMBERED_ANSWERS)
        self.jobs: deque[Job[Any]] = deque()
        self.answers: deque[Transmit] = deque()
        """Datagrams for whoever punched; they belong to no peer yet."""
        self.knocks = Trail(MAX_KNOCKS)
        """Where those knocked from who were let stand and at whose IP address nobody was added."""

    def note_heard(self, source: Address, what: Heard, now: float) -> None:
        """Something came from an address while no session stood: a hint for the peers that should be there."""
        for peer in self._registry.concerned(source):
            if not peer.connected:
                peer.trail.on_heard(source, what, now)

    def note_generation(self, generation: int) -> None:
        """A session of this generation is being made with some peer."""
        if self._generation < generation < GENERATION_TRUST:
            self._generation = generation

    def open_attempt(self, peer: Peer, now: float) -> Attempt:
        """Begin an attempt; its first arrow is made by a job."""
        attempt = Attempt(self._host.new_index(), now, peer.peer_id)
        self._attempts[attempt.index] = (peer, attempt)
        compute = partial(open_attempt, self._us, attempt.index, self._host.random(32), peer.peer_id)

        def commit(opening: Opening | None, now: float) -> None:
            peer.opening.on_opening(attempt, opening, now)
            self._host.touch(peer)

        self.jobs.append(Job(compute, commit))
        return attempt

    def is_waiting_at(self, index: int) -> bool:
        """True if an attempt of ours waits for an answer at this index."""
        return index in self._attempts

    def forget_attempt(self, attempt: Attempt) -> None:
        """Its answers are no longer wanted."""
        self._attempts.pop(attempt.index, None)

    # --- the first arrow

    def on_punch(self, datagram: bytes, source: Address, now: float) -> None:
        punch = parse_punch(datagram)
        own = self._attempts.get(punch.index)
        if own is not None and any(opening.punch == datagram for opening in own[1].openings()):
            self._host.drops["reflected_punch"] += 1
            own[0].failure = REFLECTED
            own[0].trail.on_heard(source, Heard.ECHO, now)
            return
        known = self._admission.known(punch, source)
        if known is not None:
            if known.answer is not None:  # else it waits for its turn, and nothing is wrong yet
                self.note_heard(source, Heard.PUNCH, now)
                self.answers.append(Transmit(known.answer.public_key, len(known.answer.public_key), source))
            return
        reply = self._admission.reply_to(punch, source, now)
        if reply is Reply.COOKIE:
            demand = self._admission.cookie_for(punch, source, now)
            self.answers.append(Transmit(demand, len(demand), source))
        if reply is Reply.SILENCE:
            if self._registry.is_configured(source.host):
                self.note_heard(source, Heard.UNKNOWN_PUNCH, now)
            else:
                self.knocks.on_heard(source, Heard.UNKNOWN_PUNCH, now)
        if reply is not Reply.PUBLIC_KEY:
            return
        if len(self.jobs) >= MAX_KEY_AGREEMENT_JOBS:
            self._host.drops["handshake_busy"] += 1
            return
        half_open = self._admission.remember(punch, source, now)
        generation = self._generation + 1
        compute = partial(
            answer_punch, self._us, punch, source, self._host.new_index(), self._host.random(32), generation
        )

        def commit(answer: Answer | None, now: float) -> None:
            if answer is None:
                self._host.drops["bad_punch"] += 1
                self.note_heard(source, Heard.BAD_PUNCH, now)
                self._admission.forget(half_open)
                return
            self._admission.answered(half_open, answer)
            self.note_heard(source, Heard.PUNCH, now)
            self.answers.append(Transmit(answer.public_key, len(answer.public_key), source))

        self.jobs.append(Job(compute, commit))

    def on_cookie(self, datagram: bytes, source: Address) -> None:
        """A responder under load wants to see that we are where we seem to be."""
        reply = parse_cookie(datagram)
        peer, attempt = self._attempts.get(reply.index, (None, None))
        if peer is None or attempt is None:
            self._host.drops["unknown_index"] += 1
            return
        addressee = attempt.addressee
        if source not in peer.opening.targets() or attempt.opening is None or attempt.agreed is not None:
            self._host.drops["unwanted_cookie"] += 1
            return
        if addressee is not None and not hmac.compare_digest(cookie_tag(addressee, reply.tagged_bytes), reply.tag):
            self._host.drops["bad_cookie"] += 1
            return
        demanded = attempt.cookies.setdefault(source, {})
        if reply.cookie in demanded:
            self._host.drops["duplicate_handshake"] += 1
            return
        if len(demanded) >= MAX_COOKIES:
            self._host.drops["unwanted_cookie"] += 1
            return
        demanded[reply.cookie] = None
        compute = partial(open_attempt, self._us, attempt.index, self._host.random(32), addressee, cookie=reply.cookie)

        def commit(opening: Opening | None, now: float) -> None:
            peer.opening.on_cookie(attempt, source, reply.cookie, opening, now)
            self._host.touch(peer)

        self.jobs.append(Job(compute, commit))

    # --- the second arrow

    def on_public_key(self, datagram: bytes, source: Address, now: float) -> None:
        message = parse_public_key(datagram)
        entry = self._attempts.get(message.index)
        if entry is None:
            self._host.drops["unknown_index"] += 1
            return
        peer, attempt = entry
        if attempt.opening is None or attempt.agreed is not None or datagram in attempt.jobs:
            self._host.drops["duplicate_handshake"] += 1
            return
        if len(attempt.jobs) >= MAX_JOBS:
            self._host.drops["handshake_busy"] += 1
            return
        digest = sha256(datagram).digest()
        if attempt.refused.get(source) == digest:
            self._host.drops["duplicate_handshake"] += 1
            return
        if not self._public_keys.take(digest, now):
            self._host.drops["handshake_rate"] += 1
            return
        attempt.jobs.add(datagram)
        instance, generation, tried = peer.instance, peer.generation, peer.opening.tried

        def generation_after(other: bytes) -> int:
            known = generation if other == instance else 0
            return max(known, tried[1] if tried[0] == other else 0)

        invite = (attempt.addressee, peer.token) if peer.pinned else (None, b"")
        compute = partial(read_public_key, self._us, attempt.openings(), message, source, generation_after, *invite)

        def commit(agreed: Agreed | None, now: float) -> None:
            attempt.jobs.discard(datagram)
            if agreed is None:
                self._host.drops["bad_public_key"] += 1
                peer.trail.on_heard(source, Heard.BAD_ANSWER, now)
            elif peer.opening.attempt is not attempt or attempt.agreed is not None:
                self._host.drops["duplicate_handshake"] += 1
            elif self._may_answer_name(peer, agreed, source, now):
                peer.trail.on_heard(source, Heard.ANSWER, now)
                peer.opening.on_agreed(attempt, agreed, source, now)
            elif peer.opening.attempt is attempt and source in peer.opening.targets():
                attempt.refused[source] = digest
            self._host.touch(peer)

        self.jobs.append(Job(compute, commit))

    def _may_answer_name(self, peer: Peer, agreed: Agreed, source: Address, now: float) -> bool:
        """Whether the key that answered our punch may have the peer's name. Binds it if so."""
        peer_id = agreed.hello.peer_id
        if peer.peer_id == peer_id:
            return True
        if peer_id == self._us.identity.peer_id:
            reason = (
                "the address answers with our own identity: give every program its own key file, or mend the address"
            )
            self._refuse(peer, peer_id, source, reason, now)
            return False
        if peer.pinned:
            reason = (
                f"another key than the pinned one answered ({peer_id}): somebody may be in between. If its user "
                f"confirms the new key by another way, call trust({peer.name!r}, <that PeerId>)"
            )
            others = [target for target in peer.opening.targets() if target != source]
            if others and peer.opening.attempt is not None:
                # Somebody else lives at one of its addresses (they are private ones, perhaps): it may be at the others.
                self._host.drops["refused_identity"] += 1
                if not peer.opening.attempt.refused:
                    peer.failure = reason
                    self._host.emit(PeerEvent(EventKind.REFUSED, peer.name, peer_id, source, reason))
                return False
            self._refuse(peer, peer_id, source, reason, now)
            return False
        owner = self._registry.by_id(peer_id)
        if owner is not None:
            self._make_alias(peer, owner, now)
            return False
        if peer.peer_id is None:
            self._registry.bind(peer, peer_id)
            peer.trust = Trust.FIRST_USE
            return True
        if source not in peer.addresses:
            reason = (
                f"another key ({peer_id}) answered from an address that was not configured; "
                f"forget({peer.name!r}) lets a new key take the name"
            )
            self._refuse(peer, peer_id, source, reason, now)
            return False
        self.change_key(peer, peer_id, now)
        return True

    def _refuse(self, peer: Peer, peer_id: PeerId, source: Address, reason: str, now: float) -> None:
        self._host.drops["refused_identity"] += 1
        peer.trail.on_heard(source, Heard.REFUSED_ANSWER, now)
        peer.opening.cancel_attempt()
        peer.state = PeerState.REFUSED
        peer.failure = reason
        peer.opening.next_attempt_at = now + peer.opening.punch_interval(now)
        self._host.emit(PeerEvent(EventKind.REFUSED, peer.name, peer_id, source, reason))

    def change_key(self, peer: Peer, peer_id: PeerId, now: float) -> None:
        """Another key takes the name: what was meant for the old one must not reach the new one."""
        old = peer.peer_id
        peer.opening.drop_half_open()
        if peer.connected:
            peer.send_close(CloseCode.REFUSED, "", now)
            peer.lose("another key took the name", now)
        peer.connection.fail_all(Failure.PEER_CHANGED)
        peer.collect_settled(now)
        self._registry.bind(peer, peer_id)
        peer.instance = None
        peer.past_instances.clear()
        peer.connection.forget_peer(self._host.random(8))
        peer.ways.forget()
        peer.generation = 0
        peer.trust = Trust.FIRST_USE
        peer.emit(
            EventKind.PEER_CHANGED,
            peer.address,
            f"the key changed; it was {old}. Compare verification codes, then trust({peer.name!r})",
        )

    def _make_alias(self, peer: Peer, owner: Peer, now: float) -> None:
        """``peer`` turned out to be ``owner`` under another name: one peer, two names."""
        name = peer.name
        peer.opening.cancel_attempt()
        peer.opening.drop_half_open()
        peer.opening.puncher.stop()
        waiting = [message for channel in peer.connection.sending.channels.values() for message in channel.waiting]
        self._registry.set_addresses(owner, (*owner.addresses, *peer.addresses))
        self._registry.drop(peer)
        peer.state = PeerState.PASSIVE
        if owner.lingering or owner.stranger:
            if owner.stranger:
                owner.stranger = False
                owner.trust = Trust.FIRST_USE
            owner.linger_until = None
            self._registry.rename(owner, name)
            owner.hand_out_arrived()
        else:
            self._registry.alias(name, owner)
        for message in waiting:
            owner.connection.send_message(message.token, message.content, message.channel, True, message.expires)
        peer.connection.unreliable_out.fail_all(Failure.REMOVED)
        peer.collect_settled(now)
        if peer.room_wanted:
            self._host.emit(RoomFreed(name))
        self._host.touch(owner)

    # --- the third arrow

    def on_shared_key(self, datagram: bytes, source: Address, now: float) -> None:
        message = parse_shared_key(datagram)
        half_open = self._admission.waiting_at(message.index)
        if half_open is None or half_open.answer is None:
            self._host.drops["unknown_index"] += 1
            return
        if half_open.accepted:
            if half_open.accepted == datagram and half_open.peer is not None and half_open.session is not None:
                half_open.peer.opening.repeat_established(half_open.session, now)
            else:
                self._host.drops["duplicate_handshake"] += 1
            return
        if half_open.proven is not None and half_open.proven[0] == datagram:
            self._on_proven(half_open, datagram, half_open.proven[1], source, now)
            return
        if half_open.job_running:
            self._host.drops["handshake_busy"] += 1
            return
        half_open.job_running = True

        def commit(agreed: Agreed | None, now: float) -> None:
            half_open.job_running = False
            if agreed is None:
                self._host.drops["bad_shared_key"] += 1
                self.note_heard(source, Heard.BAD_SHARED_KEY, now)
            elif not half_open.accepted:
                self._on_proven(half_open, datagram, agreed, source, now)

        self.jobs.append(Job(partial(read_shared_key, half_open.answer, message), commit))

    def on_decided(self, peer_id: PeerId, allow: bool, now: float) -> None:
        """The application answered a question. The stranger need not knock again to hear it."""
        self._admission.decide(peer_id, allow, now)
        half_open = self._admission.waiting(peer_id)
        if half_open is not None and half_open.proven is not None:
            self._on_proven(half_open, *half_open.proven, now)
        self.ask()

    def ask(self) -> None:
        """Put the strangers that wait for a decision before the application, a few at a time."""
        while (question := self._admission.next_question()) is not None:
            self._host.emit(
                PeerEvent(EventKind.PENDING, question.name, question.peer_id, question.address, "asks to be admitted")
            )

    def _on_proven(self, half_open: HalfOpen, datagram: bytes, agreed: Agreed, source: Address, now: float) -> None:
        """Somebody proved a key. Whose name may it have?"""
        half_open.proven = (datagram, agreed, source)
        peer_id = agreed.hello.peer_id
        peer = self._registry.by_id(peer_id)
        if peer_id == self._us.identity.peer_id:
            self._host.drops["own_identity"] += 1
            self._admission.forget(half_open)
            return
        ticket = None
        if agreed.hello.token:
            ticket = self._admission.invites.redeem(agreed.hello.token, peer_id, now)
            if ticket is None:
                self._host.drops["unknown_invite"] += 1
        if ticket is not None:
            peer = self._welcome(ticket, peer, agreed, now)
        if peer is None:
            peer = self._let_in(half_open, agreed, source, now)
            if peer is None:
                return
        dropped = peer.opening.may_accept(agreed)
        if dropped is not None:
            self._host.drops[dropped] += 1
            return
        half_open.accepted = datagram
        half_open.peer = peer
        # Not where the SHARED_KEY seems to come from: who answers from our PUBLIC_KEY has read it at this address.
        half_open.session = peer.opening.accept(agreed, half_open.source, now)
        self._host.touch(peer)

    def _welcome(self, ticket: Ticket, peer: Peer | None, agreed: Agreed, now: float) -> Peer | None:
        """Somebody came with an invite of ours: pin the key, under the name it has, was given, or claims."""
        peer_id, registry = agreed.hello.peer_id, self._registry
        if peer is not None and not (peer.lingering or peer.stranger):
            name = peer.name
        else:
            name = ticket.name or (_claimed(agreed) if peer is None else peer.name)
            other = registry.named(name) if name in registry else None
            # Somebody of that name who was added without a key is who was invited.
            waits = other is not None and other.peer_id is None and not isinstance(other, OldPeer)
            if not (waits if peer is None else other is peer):
                name = registry.free_name(name, peer_id)
        try:
            self._host.add_peer(name, (), peer_id, now)
        except ValueError:
            self._host.drops["too_many_peers"] += 1
            return None
        self._host.emit(GuestCame(name, peer_id))
        return registry.by_id(peer_id)

    def _let_in(self, half_open: HalfOpen, agreed: Agreed, source: Address, now: float) -> Peer | None:
        peer_id = agreed.hello.peer_id
        matched = self._admission.match(source, now) if not self._registry.was_removed(peer_id) else None
        if matched is not None and source != half_open.source:
            # Anybody can write this address on the third arrow: only who read our answer there is there.
            self._host.drops["unproven_address"] += 1
            return None
        if matched is not None:
            peer, trust = matched
            self._registry.bind(peer, peer_id)
            peer.trust = trust
            return peer
        claimed = _claimed(agreed)
        verdict = self._admission.judge(peer_id, claimed, source, now)
        if verdict is Verdict.WELCOME and not self._has_room_for(source):
            self._host.drops["too_many_strangers"] += 1
            verdict = Verdict.REFUSED
        if verdict is Verdict.WELCOME:
            peer = Peer(self._host, self._registry.free_name(claimed, peer_id), now, stranger=True)
            self._registry.add(peer)
            self._registry.bind(peer, peer_id)
            peer.trust = Trust.ADMITTED
            return peer
        if verdict is Verdict.REFUSED and self._admission.is_early:
            self._admission.forget(half_open)
        elif verdict is Verdict.REFUSED:
            self._host.drops["refused_stranger"] += 1
            session = Session(self._backend, agreed, self._host.drops, 0, now)
            _, _, wire = session.seal(
                serialise(Close(CloseCode.REFUSED, "")).ljust(16, b"\x00"), self._host.config.initial_mtu
            )
            self.answers.append(Transmit(wire, len(wire), source))
            self._admission.forget(half_open)
        self.ask()
        return None

    def _has_room_for(self, source: Address) -> bool:
        """Whether one more stranger may be admitted: in all, and from its network."""
        config, network = self._host.config, prefix_of(source.host)
        if len(self._registry) >= config.max_peers:
            return False
        strangers = [peer for peer in self._registry if peer.stranger]
        where = [peer.address or peer.opening.source for peer in strangers]
        neighbours = sum(address is not None and prefix_of(address.host) == network for address in where)
        return len(strangers) < config.max_strangers and neighbours < config.max_strangers_per_network


def _claimed(agreed: Agreed) -> str:
    """What somebody calls itself, as far as it can be a name."""
    return "".join(c for c in agreed.hello.name if c.isprintable()).strip()
