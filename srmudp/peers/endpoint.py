"""All peers of one socket: whose datagram it is, who is let in, what is sent next. No I/O, no clock, no lock.

One datagram's way in: ``handle_batch`` looks at the first byte; records go by their index to a session and its peer,
handshake messages through cheap checks into a :class:`Job` that agrees on keys outside the lock. One message's way out:
``send_message`` queues it at its peer, ``poll_transmit`` asks the peers that have something, in turn.

After every call the caller drains ``next_job`` (run, then ``finish_job``), ``poll_transmit``, ``next_event`` and reads
``next_timer``, in this order.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any, Final

from ..config import CHANNELS, Config
from ..crypto.backend import Backend
from ..crypto.keys import Identity
from ..exceptions import DecodeError, MessageTooBig
from ..models import Address, EventKind, PeerEvent, PeerId, PeerState, PeerStatus, Trust
from ..protocol.events import Event, Failure, MessageArrived, MessageSettled, RoomFreed
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
from ..protocol.messages import ReceiveBudget
from ..protocol.records import Opened
from ..protocol.session import Session
from ..wire.frames import Close, CloseCode, serialise
from ..wire.packet import (
    PUBLIC_KEY,
    PUNCH,
    RECORD,
    RECORD_OVERHEAD,
    RESEND,
    SHARED_KEY,
    UnknownVersion,
    parse_public_key,
    parse_punch,
    parse_run,
    parse_segment,
    parse_shared_key,
)
from .admission import AcceptPolicy, Admission, HalfOpen, Verdict
from .jobs import Job
from .peer import MAX_JOBS, Attempt, Peer, Receipt, Transmit
from .registry import Registry

__all__ = ["AcceptPolicy", "Endpoint", "Job", "Transmit"]

KEEPALIVE: Final = 15.0
"""Seconds of silence at most: half of what the shortest-lived common NAT mappings bear."""
MAX_KEY_AGREEMENT_JOBS: Final = 256
HANDSHAKE_RATE: Final = {"cryptography": 200.0, "pycryptodome": 20.0}
"""Answers to punches per second, by what key agreement costs."""
GENERATION_TRUST: Final = 1 << 31
"""A generation beyond it is some peer's nonsense and is not carried over to others."""


class Endpoint:
    """Everything one socket knows. Every method but ``Job.run`` is called under one lock by one thread at a time.

    Args:
        identity: who we are.
        random: cryptographic randomness; ``os.urandom`` outside tests.
        timeout: seconds of silence after which a peer is lost; also how long *everyone* waits for one.
        span: seconds between looks at the state of the peers.
        name: what we claim to be called, at most 64 bytes of UTF-8.
        accept: what happens to strangers.
    """

    def __init__(
        self,
        identity: Identity,
        config: Config,
        *,
        backend: Backend,
        random: Callable[[int], bytes],
        timeout: float = 21.0,
        span: float = 3.0,
        name: str = "",
        accept: AcceptPolicy = AcceptPolicy.NOBODY,
    ) -> None:
        self.config = config
        self.random = random
        self.timeout = timeout
        self.span = span
        self.keepalive = min(KEEPALIVE, timeout / 3)
        self.peer_id = identity.peer_id
        self.drops: Counter[str] = Counter()
        """Discarded input: reason -> count."""
        self.budget = ReceiveBudget(config.receive_budget, config.max_message_size)
        self._backend = backend
        self._us = Self(backend, identity, random(16), name)
        self._registry = Registry()
        self._admission = Admission(
            identity.peer_id, accept, self._registry, self.drops, HANDSHAKE_RATE.get(backend.name, 20.0)
        )
        self._sessions: dict[int, tuple[Peer, Session]] = {}
        self._attempts: dict[int, tuple[Peer, Attempt]] = {}
        self._events: deque[Event] = deque()
        self._jobs: deque[Job[Any]] = deque()
        self._direct: deque[Transmit] = deque()  # handshake answers that belong to no peer yet
        self._ready: deque[Peer] = deque()
        self._timers: list[tuple[float, int, Peer]] = []
        self._order = count()
        self._tokens = count(1)
        self._generation = 0
        self._receiving: dict[int, Peer] = {}  # peers with records since the last burst end
        self._closed = False
        self._at_work: Peer | None = None  # whose state is being changed, for handle_interrupted

    # --- input

    def handle_batch(self, buffer: bytes, segment_size: int, source: Address, now: float) -> None:
        """Datagrams of one sender, back to back; each ``segment_size`` bytes, the last may be shorter."""
        offset, end = 0, len(buffer)
        while offset < end:
            kind = buffer[offset]
            if kind in (RECORD, RESEND):
                offset = self._on_record(buffer, offset, segment_size, source, now)
                continue
            datagram = buffer[offset : offset + segment_size]
            offset += segment_size
            try:
                if kind == PUNCH:
                    self._on_punch(datagram, source, now)
                elif kind == PUBLIC_KEY:
                    self._on_public_key(datagram, source)
                elif kind == SHARED_KEY:
                    self._on_shared_key(datagram, source, now)
                else:
                    self.drops["unknown_type"] += 1
            except UnknownVersion:
                self.drops["unknown_version"] += 1
            except DecodeError:
                self.drops["malformed"] += 1

    def handle_burst_end(self, now: float) -> None:
        """Nothing more is waiting to be read: acknowledgements may go."""
        for peer in self._receiving.values():
            peer.connection.on_burst_end(now)
            self.touch(peer)
        self._receiving.clear()

    def handle_timer(self, now: float) -> None:
        """Call it when ``now >= next_timer()``."""
        self._admission.expire(now)
        timers = self._timers
        due: list[Peer] = []
        while timers and timers[0][0] <= now:
            when, _, peer = heapq.heappop(timers)
            if peer.scheduled == when:
                peer.scheduled = None
                due.append(peer)
        for peer in due:
            self._at_work = peer
            wanted = peer.next_timer()
            if wanted is not None and wanted <= now:
                peer.on_timer(now)
            self.touch(peer)

    def handle_interrupted(self, now: float) -> None:
        """An exception that nobody expects (Ctrl-C, lack of memory) left a call half done.

        The session it may have touched is given up rather than gone on with; a new handshake follows, and what was
        queued is sent again under its keys.
        """
        peer, self._at_work = self._at_work, None
        if peer is not None and not self._closed:
            peer.recover(now)
            self.touch(peer)

    # --- commands

    def add_peer(
        self, name: str, addresses: Sequence[Address], peer_id: PeerId | None, now: float, *, pinned: bool = True
    ) -> None:
        """Add a peer, or addresses to one of that name.

        Args:
            peer_id: the key it must prove; None takes the first one that answers our punch.
            pinned: False for a key that was trusted on first use in an earlier run.

        Raises:
            ValueError: the name stands for another key, the key is our own, or there are too many peers.
        """
        if peer_id == self.peer_id:
            raise ValueError(f"{name!r} has our own PeerId; a socket cannot connect to itself")
        registry = self._registry
        peer = registry.named(name) if name in registry else None
        owner = registry.by_id(peer_id) if peer_id is not None else None
        if peer is not None and peer_id is not None and peer.peer_id not in (None, peer_id):
            raise ValueError(f"{name!r} already stands for another key; remove_peer({name!r}) first")
        if peer is None and owner is None:
            owner = next((p for p in registry if p.lingering and addresses and p.addresses == list(addresses)), None)
        if peer is None and owner is not None:
            peer = owner
            if owner.lingering or owner.stranger:
                owner.linger_until = None
                owner.stranger = False
                registry.rename(owner, name)
                self._admission.revoke(owner.peer_id) if owner.peer_id is not None else None
            else:
                registry.alias(name, owner)
        elif peer is None:
            if len(registry) >= self.config.max_peers:
                raise ValueError(f"a socket holds at most {self.config.max_peers} peers (Config.max_peers)")
            peer = Peer(self, name, now)
            registry.add(peer)
        if peer_id is not None:
            if owner is not None and owner is not peer:
                raise ValueError(f"{name!r} and {owner.name!r} cannot have the same key; remove one first")
            if peer.peer_id is None:
                registry.bind(peer, peer_id)
            peer.trust = Trust.PINNED if pinned else (peer.trust if peer.trust is not Trust.NONE else Trust.FIRST_USE)
        for address in addresses:
            if address not in peer.addresses:
                peer.addresses.append(address)
        if peer.state is PeerState.PASSIVE:
            peer.state = PeerState.CONNECTING
            peer.since = peer.next_attempt_at = now
        self.touch(peer)

    def set_addresses(self, name: str, addresses: Sequence[Address], now: float) -> None:
        """Replace a peer's addresses: its names were resolved. Ignored if the peer is gone."""
        if name in self._registry:
            peer = self._registry.named(name)
            peer.addresses = list(addresses)
            if not peer.connected and peer.attempt is not None:
                peer.attempt.next_send = min(peer.attempt.next_send, now)
            self.touch(peer)

    def remove_peer(self, name: str, now: float) -> None:
        """Free the name at once; what is queued is still brought home for at most ``timeout`` seconds.

        Raises:
            UnknownPeer: there is no such peer.
        """
        peer = self._registry.named(name)
        if name in peer.aliases:
            self._registry.drop_alias(name)
            return
        peer.emit(EventKind.REMOVED, peer.address, "")
        self._registry.free_names(peer)
        if peer.peer_id is not None:
            self._admission.revoke(peer.peer_id)
        peer.linger_until = now + self.timeout
        if not peer.connection.pending:
            self.finish_removal(peer, now)
        self.touch(peer)

    def trust(self, name: str, peer_id: PeerId | None, now: float) -> None:
        """Pin a peer to the key it has, or to the one given.

        Raises:
            UnknownPeer: there is no such peer.
            ValueError: it has no key yet and none was given, or another peer has the one given.
        """
        peer = self._registry.named(name)
        wanted = peer_id if peer_id is not None else peer.peer_id
        if wanted is None:
            raise ValueError(f"{name!r} has not proven any key yet; wait until it is connected or give a PeerId")
        if wanted == self.peer_id or self._registry.by_id(wanted) not in (None, peer):
            raise ValueError("that key belongs to somebody else")
        if peer.peer_id not in (None, wanted):
            self._change_key(peer, wanted, now)
        elif peer.peer_id is None:
            self._registry.bind(peer, wanted)
        peer.trust = Trust.PINNED
        peer.stranger = False
        self.touch(peer)

    def forget(self, name: str, now: float) -> None:
        """Clear a key trusted on first use: the next key that answers our punch takes the name.

        Raises:
            UnknownPeer: there is no such peer.
        """
        peer = self._registry.named(name)
        if peer.peer_id is not None:
            peer.send_close(CloseCode.CLOSING, "", now)
            peer.cancel_attempt()
            peer.drop_candidate()
            peer.connection.fail_all(Failure.PEER_CHANGED)
            peer.collect_settled(now)
            if peer.connected:
                peer.lose("its key was forgotten", now)
            self._registry.unbind(peer)
            peer.instance = None
            peer.trust = Trust.NONE
        self.touch(peer)

    def admit(self, peer_id: PeerId, allow: bool, now: float) -> None:
        """Answer a PENDING event. The stranger's next handshake message finds the decision."""
        self._admission.decide(peer_id, allow, now)

    def has_room(self, name: str, size: int) -> bool:
        """Whether a peer's queue takes ``size`` more bytes. If not, RoomFreed follows when it does.

        Raises:
            UnknownPeer: there is no such peer.
        """
        peer = self._registry.named(name)
        queued = peer.connection.queued_bytes
        if not queued or queued + size <= self.config.send_queue:
            return True
        peer.room_wanted = True
        return False

    def send_message(
        self, name: str, content: bytes, *, channel: int, reliable: bool, ttl: float | None, now: float
    ) -> int:
        """Queue a message; MessageSettled with the returned token tells its end.

        Raises:
            UnknownPeer: there is no such peer.
            MessageTooBig: larger than we or the peer take.
            ValueError: no such channel.
        """
        peer = self._registry.named(name)
        if not 0 <= channel < CHANNELS:
            raise ValueError(f"channel must be between 0 and {CHANNELS - 1}, not {channel}")
        limit = min(self.config.max_message_size, peer.connection.peer_max_message or self.config.max_message_size)
        if not reliable:
            limit = min(limit, self.config.unreliable_queue)
        if len(content) > limit:
            raise MessageTooBig(f"a message of {len(content)} bytes is above the limit of {limit} (max_message_size)")
        token = next(self._tokens)
        self._at_work = peer
        peer.messages_sent += 1
        if peer.state is PeerState.PASSIVE:
            self._events.append(MessageSettled(token, name, Failure.REMOVED_US))
            return token
        peer.connection.send_message(token, content, channel, reliable, now + ttl if ttl is not None else None)
        peer.collect_settled(now)
        self.touch(peer)
        return token

    def message_taken(self, event: MessageArrived, now: float) -> None:
        """The application has the message."""
        receipt = event.receipt
        assert isinstance(receipt, Receipt)
        self._at_work = receipt.peer
        receipt.peer.on_taken(receipt, now)
        self.touch(receipt.peer)

    def everyone(self, now: float) -> list[str]:
        """Names that ``recipient=None`` means: the connected, and the added whose connecting began lately."""
        return [
            peer.name
            for peer in self._registry
            if not peer.lingering
            and (
                peer.connected
                or (
                    not peer.stranger
                    and peer.state in (PeerState.CONNECTING, PeerState.LOST, PeerState.REFUSED)
                    and now - peer.since < self.timeout
                )
            )
        ]

    def statuses(self, now: float) -> dict[str, PeerStatus]:
        """A snapshot of every peer by name; an alias shows its peer."""
        return {name: peer.status(now) for name, peer in self._registry.names().items()}

    def close(self, now: float) -> None:
        """Say goodbye to every peer and fail what is queued. Drain the output once more afterwards."""
        if self._closed:
            return
        self._closed = True
        for peer in self._registry:
            peer.send_close(CloseCode.REMOVED if peer.lingering else CloseCode.CLOSING, "", now)
            peer.cancel_attempt()
            peer.drop_candidate()
            peer.connection.stop()
            peer.connection.fail_all(Failure.CLOSED)
            for token, failure in peer.connection.drain_settled():
                self._events.append(MessageSettled(token, peer.name, failure))
            peer.connection.forget()
        self._sessions.clear()
        self._jobs.clear()
        self._timers.clear()

    @property
    def pending(self) -> int:
        """Messages not settled of peers that ``close`` should wait for: everyone, and the removed that linger."""
        return sum(
            peer.connection.pending
            for peer in self._registry
            if peer.lingering or peer.connected or (not peer.stranger and peer.state is not PeerState.PASSIVE)
        )

    # --- output

    def next_job(self) -> Job[Any] | None:
        """A key agreement to be run outside the lock and given back to :meth:`finish_job`."""
        return self._jobs.popleft() if self._jobs else None

    def finish_job(self, job: Job[Any], now: float) -> None:
        """Commit a job that has run."""
        if not self._closed:
            job.finish(now)

    def poll_transmit(self, now: float) -> Transmit | None:
        """The next batch for the transport; peers take turns."""
        if self._direct:
            return self._direct.popleft()
        ready = self._ready
        while ready:
            peer = self._at_work = ready[0]
            transmit = peer.poll_transmit(now)
            if transmit is not None:
                ready.rotate(-1)
                return transmit
            ready.popleft()
            peer.ready = False
            if not self._closed:
                self._schedule(peer)
        return None

    def next_timer(self) -> float | None:
        """When :meth:`handle_timer` must be called, or None."""
        timers = self._timers
        while timers and timers[0][2].scheduled != timers[0][0]:
            heapq.heappop(timers)
        first = timers[0][0] if timers else None
        other = self._admission.next_timer()
        if first is None or (other is not None and other < first):
            return other
        return first

    def next_event(self) -> Event | None:
        """The next thing to tell the application."""
        return self._events.popleft() if self._events else None

    # --- what peers ask of the endpoint

    def emit(self, event: Event) -> None:
        """Queue an event."""
        self._events.append(event)

    def touch(self, peer: Peer) -> None:
        """The peer may have something to send or another deadline."""
        if not peer.ready:
            peer.ready = True
            self._ready.append(peer)

    def note_generation(self, generation: int) -> None:
        """A session of this generation is being made with some peer."""
        if self._generation < generation < GENERATION_TRUST:
            self._generation = generation

    def open_attempt(self, peer: Peer, now: float) -> Attempt:
        """Begin an attempt; its first arrow is made by a job."""
        attempt = Attempt(self._new_index(), now, peer.peer_id)
        self._attempts[attempt.index] = (peer, attempt)
        compute = partial(open_attempt, self._us, attempt.index, self.random(32), peer.peer_id)

        def commit(opening: Opening | None, now: float) -> None:
            peer.on_opening(attempt, opening, now)
            self.touch(peer)

        self._jobs.append(Job(compute, commit))
        return attempt

    def forget_attempt(self, attempt: Attempt) -> None:
        """Its answers are no longer wanted."""
        self._attempts.pop(attempt.index, None)

    def new_session(self, peer: Peer, agreed: Agreed, now: float) -> Session:
        """Keys for a peer, findable by their index."""
        session = Session(self._backend, agreed, self.drops, self.config.connection_window, now)
        self._sessions[session.local_index] = (peer, session)
        return session

    def forget_session(self, session: Session) -> None:
        """Nothing opens under these keys any more."""
        self._sessions.pop(session.local_index, None)
        self._admission.forget_session(session)

    def forget_half_open(self, session: Session) -> None:
        """The session is confirmed."""
        self._admission.forget_session(session)

    def finish_removal(self, peer: Peer, now: float) -> None:
        """The peer's last message is home, or its time is over."""
        if peer.lingering:
            peer.send_close(CloseCode.REMOVED, "", now)
        peer.cancel_attempt()
        peer.drop_candidate()
        if peer.connection.session is not None:
            self.forget_session(peer.connection.session)
        peer.connection.forget()
        peer.connection.fail_all(Failure.REMOVED)
        for token, failure in peer.connection.drain_settled():
            self._events.append(MessageSettled(token, peer.name, failure))
        if peer.room_wanted:
            self._events.append(RoomFreed(peer.name))
        peer.state = PeerState.PASSIVE
        peer.addresses = []
        peer.linger_until = None
        self._registry.drop(peer)
        if peer.peer_id is not None and not peer.stranger:
            self._registry.remember_removed(peer.peer_id)

    # --- records

    def _on_record(self, buffer: bytes, offset: int, segment_size: int, source: Address, now: float) -> int:
        """One datagram, or a run of them that is one record. Returns the offset of what follows."""
        entry = self._sessions.get(int.from_bytes(buffer[offset + 2 : offset + 10], "big"))
        if entry is None:
            self.drops["unknown_index" if len(buffer) - offset > RECORD_OVERHEAD else "malformed"] += 1
            return offset + segment_size
        peer, session = entry
        self._at_work = peer
        opened: Opened | None
        run = parse_run(buffer, offset, segment_size)
        if run is not None:
            header, aad, ciphertext, following = run
            size = following - offset
            opened = session.receiver.on_run(header, aad, ciphertext, now)
        else:
            following = offset + segment_size
            datagram = buffer[offset:following]
            size = len(datagram)
            try:
                segment = parse_segment(datagram)
            except DecodeError:
                self.drops["malformed"] += 1
                return following
            opened = session.receiver.on_segment(segment, now)
            if opened is not None:
                size = len(opened.plaintext)
            elif session is peer.connection.session:
                peer.connection.on_incomplete()
                self._receiving[id(peer)] = peer
        if opened is not None:
            self._receiving[id(peer)] = peer
            peer.on_opened(session, opened, size, source, now)
            self.touch(peer)
        return following

    # --- the first arrow

    def _on_punch(self, datagram: bytes, source: Address, now: float) -> None:
        punch = parse_punch(datagram)
        own = self._attempts.get(punch.index)
        if own is not None and own[1].opening is not None and own[1].opening.punch == datagram:
            self.drops["reflected_punch"] += 1
            own[0].failure = "our own punch came back: is the address our own?"
            return
        known = self._admission.known(punch)
        if known is not None:
            if known.answer is not None:
                self._direct.append(Transmit(known.answer.public_key, len(known.answer.public_key), source))
            return
        if self._closed or not self._admission.may_answer(punch, source, now):
            return
        if len(self._jobs) >= MAX_KEY_AGREEMENT_JOBS:
            self.drops["handshake_busy"] += 1
            return
        half_open = self._admission.remember(punch, source, now)
        generation = self._generation + 1
        compute = partial(answer_punch, self._us, punch, source, self._new_index(), self.random(32), generation)

        def commit(answer: Answer | None, now: float) -> None:
            if answer is None:
                self.drops["bad_punch"] += 1
                self._admission.forget(half_open)
                return
            self._admission.answered(half_open, answer)
            self._direct.append(Transmit(answer.public_key, len(answer.public_key), source))

        self._jobs.append(Job(compute, commit))

    # --- the second arrow

    def _on_public_key(self, datagram: bytes, source: Address) -> None:
        message = parse_public_key(datagram)
        entry = self._attempts.get(message.index)
        if entry is None:
            self.drops["unknown_index"] += 1
            return
        peer, attempt = entry
        if attempt.opening is None or attempt.agreed is not None or datagram in attempt.jobs:
            self.drops["duplicate_handshake"] += 1
            return
        if len(attempt.jobs) >= MAX_JOBS:
            self.drops["handshake_busy"] += 1
            return
        attempt.jobs.add(datagram)
        instance, generation, tried = peer.instance, peer.generation, peer.tried

        def generation_after(other: bytes) -> int:
            known = generation if other == instance else 0
            return max(known, tried[1] if tried[0] == other else 0)

        compute = partial(read_public_key, self._us, attempt.opening, message, source, generation_after)

        def commit(agreed: Agreed | None, now: float) -> None:
            attempt.jobs.discard(datagram)
            if agreed is None:
                self.drops["bad_public_key"] += 1
            elif peer.attempt is not attempt or attempt.agreed is not None:
                self.drops["duplicate_handshake"] += 1
            elif self._may_answer_name(peer, agreed, source, now):
                peer.on_agreed(attempt, agreed, source, now)
            self.touch(peer)

        self._jobs.append(Job(compute, commit))

    def _may_answer_name(self, peer: Peer, agreed: Agreed, source: Address, now: float) -> bool:
        """Whether the key that answered our punch may have the peer's name. Binds it if so."""
        peer_id = agreed.hello.peer_id
        if peer.peer_id == peer_id:
            return True
        if peer_id == self.peer_id:
            self._refuse(peer, peer_id, source, "the address answers with our own identity", now)
            return False
        if peer.pinned:
            self._refuse(peer, peer_id, source, f"another key than the pinned one answered ({peer_id})", now)
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
            self._refuse(peer, peer_id, source, "another key answered from an address that was not configured", now)
            return False
        self._change_key(peer, peer_id, now)
        return True

    def _refuse(self, peer: Peer, peer_id: PeerId, source: Address, reason: str, now: float) -> None:
        self.drops["refused_identity"] += 1
        peer.cancel_attempt()
        peer.state = PeerState.REFUSED
        peer.failure = reason
        peer.next_attempt_at = now + peer.punch_interval(now)
        self._events.append(PeerEvent(EventKind.REFUSED, peer.name, peer_id, source, reason))

    def _change_key(self, peer: Peer, peer_id: PeerId, now: float) -> None:
        """Another key takes the name: what was meant for the old one must not reach the new one."""
        old = peer.peer_id
        if peer.connected:
            peer.send_close(CloseCode.REFUSED, "", now)
            peer.lose("another key took the name", now)
        peer.connection.fail_all(Failure.PEER_CHANGED)
        peer.collect_settled(now)
        self._registry.bind(peer, peer_id)
        peer.instance = None
        peer.generation = 0
        peer.trust = Trust.FIRST_USE
        peer.emit(EventKind.PEER_CHANGED, peer.address, f"the key changed; it was {old}")

    def _make_alias(self, peer: Peer, owner: Peer, now: float) -> None:
        """``peer`` turned out to be ``owner`` under another name: one peer, two names."""
        name = peer.name
        peer.cancel_attempt()
        peer.drop_candidate()
        waiting = [message for channel in peer.connection.sending.channels.values() for message in channel.waiting]
        self._registry.drop(peer)
        peer.state = PeerState.PASSIVE
        peer.addresses = []
        if owner.lingering:
            owner.linger_until = None
            self._registry.rename(owner, name)
        else:
            self._registry.alias(name, owner)
        for message in waiting:
            owner.connection.send_message(message.token, message.content, message.channel, True, message.expires)
        peer.connection.unreliable_out.fail_all(Failure.REMOVED)
        peer.collect_settled(now)
        self.touch(owner)

    # --- the third arrow

    def _on_shared_key(self, datagram: bytes, source: Address, now: float) -> None:
        message = parse_shared_key(datagram)
        half_open = self._admission.waiting_at(message.index)
        if half_open is None or half_open.answer is None:
            self.drops["unknown_index"] += 1
            return
        if half_open.accepted:
            if half_open.accepted == datagram and half_open.peer is not None and half_open.session is not None:
                half_open.peer.send_established(half_open.session, source, now)
            else:
                self.drops["duplicate_handshake"] += 1
            return
        if half_open.job_running:
            self.drops["handshake_busy"] += 1
            return
        half_open.job_running = True

        def commit(agreed: Agreed | None, now: float) -> None:
            half_open.job_running = False
            if agreed is None:
                self.drops["bad_shared_key"] += 1
            elif not half_open.accepted:
                self._on_proven(half_open, agreed, datagram, source, now)

        self._jobs.append(Job(partial(read_shared_key, half_open.answer, message), commit))

    def _on_proven(self, half_open: HalfOpen, agreed: Agreed, datagram: bytes, source: Address, now: float) -> None:
        """Somebody proved a key. Whose name may it have?"""
        peer_id = agreed.hello.peer_id
        peer = self._registry.by_id(peer_id)
        if peer_id == self.peer_id:
            self.drops["own_identity"] += 1
            self._admission.forget(half_open)
            return
        if peer is None:
            peer = self._let_in(half_open, agreed, source, now)
            if peer is None:
                return
        dropped = peer.may_accept(agreed)
        if dropped is not None:
            self.drops[dropped] += 1
            return
        half_open.accepted = datagram
        half_open.peer = peer
        half_open.session = peer.accept(agreed, source, now)
        self.touch(peer)

    def _let_in(self, half_open: HalfOpen, agreed: Agreed, source: Address, now: float) -> Peer | None:
        peer_id = agreed.hello.peer_id
        matched = self._admission.match(source) if not self._registry.was_removed(peer_id) else None
        if matched is not None:
            peer, trust = matched
            self._registry.bind(peer, peer_id)
            peer.trust = trust
            return peer
        verdict, ask = self._admission.judge(agreed, now)
        strangers = sum(peer.stranger for peer in self._registry)
        if verdict is Verdict.WELCOME and strangers >= self.config.max_strangers:
            self.drops["too_many_strangers"] += 1
            verdict = Verdict.REFUSED
        if verdict is Verdict.WELCOME:
            claimed = "".join(c for c in agreed.hello.name if c.isprintable()).strip()
            peer = Peer(self, self._registry.free_name(claimed, peer_id), now, stranger=True)
            self._registry.add(peer)
            self._registry.bind(peer, peer_id)
            peer.trust = Trust.ADMITTED
            return peer
        if verdict is Verdict.REFUSED:
            self.drops["refused_stranger"] += 1
            session = Session(self._backend, agreed, self.drops, 0, now)
            _, _, wire = session.seal(
                serialise(Close(CloseCode.REFUSED, "")).ljust(16, b"\x00"), self.config.initial_mtu
            )
            self._direct.append(Transmit(wire, len(wire), source))
            self._admission.forget(half_open)
        elif ask:
            self._events.append(PeerEvent(EventKind.PENDING, agreed.hello.name, peer_id, source, "asks to be admitted"))
        return None

    # --- small helpers

    def _new_index(self) -> int:
        while True:
            index = int.from_bytes(self.random(8), "big")
            if index and index not in self._sessions and index not in self._attempts:
                return index

    def _schedule(self, peer: Peer) -> None:
        when = peer.next_timer()
        if when is not None and (peer.scheduled is None or when < peer.scheduled):
            peer.scheduled = when
            heapq.heappush(self._timers, (when, next(self._order), peer))
