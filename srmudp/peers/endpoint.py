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
from collections.abc import Callable, Container, Sequence
from itertools import count
from typing import Any, Final, TypeVar

from ..config import CHANNELS, PRIORITIES, Config
from ..crypto.backend import Backend
from ..crypto.keys import Identity, static_key_of
from ..exceptions import DecodeError, MessageTooBig
from ..models import Address, EventKind, NatTraits, PeerId, PeerState, PeerStatus, Trust, Wire
from ..nat.explanation import Heard
from ..protocol.credit import ReceiveBudget
from ..protocol.events import Event, Failure, MessageArrived, MessageSettled, RoomFreed, ServerAnswered
from ..protocol.handshake import Agreed, Self
from ..protocol.records import Opened
from ..protocol.session import Session
from ..wire.frames import CloseCode
from ..wire.packet import (
    COOKIE,
    PUBLIC_KEY,
    PUNCH,
    RECORD_KINDS,
    RECORD_OVERHEAD,
    SHARED_KEY,
    STUN_END,
    UnknownVersion,
    parse_pieces,
    parse_run,
    parse_segment,
)
from .admission import AcceptPolicy, Admission
from .handshakes import Handshakes
from .host import Receipt, Transmit
from .intake import Intake
from .jobs import Job, TokenBucket
from .liveness import KEEPALIVE, KEEPALIVE_ROUNDS
from .old_peer import OldPeer
from .old_peers import add_old_peer, find_old_peer
from .peer import Peer
from .reasons import Reasons
from .registry import Registry
from .stun import Discovery, Stun
from .ways import ALL_UNPROVEN_BURST, ALL_UNPROVEN_RATE
from .whereabouts import Whereabouts

__all__ = ["AcceptPolicy", "Discovery", "Endpoint", "Job", "Transmit"]

T = TypeVar("T")

ASLEEP: Final = 5.0
"""Seconds by which a timer is late when the machine slept or the program was stopped; no busy machine is so late."""
HANDSHAKE_RATE: Final = {"cryptography": 200.0, "pycryptodome": 20.0}
"""Answers to strangers' punches per second, by what key agreement costs; as many go to addresses of added peers. A
whole handshake takes its responder 0.8 ms and 3.3 ms: together less than a third of a core and a seventh."""


class Endpoint:
    """Everything one socket knows. Every method but ``Job.run`` is called under one lock by one thread at a time.

    Args:
        identity: who we are.
        random: cryptographic randomness; ``os.urandom`` outside tests.
        timeout: seconds of silence after which a peer is lost; also how long *everyone* waits for one.
        span: seconds between looks at the state of the peers.
        name: what we claim to be called, at most 64 bytes of UTF-8.
        accept: what happens to strangers.
        serve_stun: tell whoever asks by STUN what address it has.
    """

    # More than 30 attributes: without slots CPython 3.11 keeps them in a dictionary and searches it for each use.
    __slots__ = (
        "_admission", "_at_work", "_closed", "_due", "_events", "_handshakes", "_looked_at", "_now", "_order",
        "_ready", "_receiving", "_registry", "_sessions", "_taking", "_timers", "_tokens", "_unscheduled", "backend",
        "budget", "config", "drops", "forget_attempt", "invites", "keepalive", "kept_port", "nat_traits",
        "note_generation", "note_unreached", "open_attempt", "peer_id", "random", "reasons", "span", "stun",
        "timeout", "unproven", "whereabouts",
    )  # fmt: skip

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
        serve_stun: bool = False,
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
        self.backend = backend
        us = Self(backend, identity, random(16), name)
        self._registry = Registry()
        rate = HANDSHAKE_RATE.get(backend.name, 20.0)
        self._admission = Admission(identity.peer_id, accept, self._registry, self.drops, rate, random)
        self.invites = self._admission.invites
        """Lets in who has one; for the owner to open some."""
        self._sessions: dict[int, tuple[Peer, Session]] = {}
        self._events: deque[Event] = deque()
        self._handshakes = handshakes = Handshakes(self, us, backend, self._registry, self._admission, rate)
        self.note_generation = handshakes.note_generation
        self.open_attempt, self.forget_attempt = handshakes.open_attempt, handshakes.forget_attempt
        self.stun = Stun(
            *(random, self.drops, self._send_clear, self._on_server_answered, self._registry.sightings),
            serve=serve_stun,
        )
        """Asks servers for our address, and answers as one; for the owner to call."""
        self.unproven = TokenBucket(ALL_UNPROVEN_RATE, ALL_UNPROVEN_BURST)
        self.whereabouts = Whereabouts(self._registry, self.stun.seen, self.touch)
        """Our own candidates; for the owner to ask, and to tell of its interfaces."""
        self.reasons = Reasons(self._registry, self.stun, self._handshakes.knocks, self.whereabouts, self.emit)
        self.note_unreached = self.reasons.note
        self.nat_traits, self.kept_port = self.stun.traits, self.stun.samples.kept_port
        self._ready: deque[Peer] = deque()
        self._timers: list[tuple[float, int, Peer]] = []
        self._unscheduled: dict[int, Peer] = {}  # peers whose deadline may have come nearer
        self._order = count()
        self._tokens = count(1)
        self._receiving: dict[int, Peer] = {}  # peers with records since the last burst end
        self._closed = False
        self._due: float | None = None  # what next_timer() said last
        self._looked_at = 0.0  # when the clock was last looked at
        self._now = 0.0  # when output was last asked for
        self._at_work: Peer | None = None  # whose state is being changed, for handle_interrupted
        self._taking: Receipt[Peer] | None = None  # a message that is being taken, likewise

    # --- input

    def handle_batch(self, buffer: bytes, segment_size: int, source: Address, now: float) -> None:
        """Datagrams of one sender, back to back; each ``segment_size`` bytes, the last may be shorter."""
        if self._closed:
            return
        offset, end = 0, len(buffer)
        if not end:
            self.drops["empty"] += 1
        if self._registry.old and self._on_old_wire(buffer, segment_size, source, now):
            return
        while offset < end:
            kind = buffer[offset]
            if kind in RECORD_KINDS:
                offset = self._on_record(buffer, offset, segment_size, source, now)
                continue
            datagram = buffer[offset : offset + segment_size]
            offset += segment_size
            try:
                if kind == PUNCH:
                    self._handshakes.on_punch(datagram, source, now)
                elif kind == PUBLIC_KEY:
                    self._handshakes.on_public_key(datagram, source, now)
                elif kind == SHARED_KEY:
                    self._handshakes.on_shared_key(datagram, source, now)
                elif kind == COOKIE:
                    self._handshakes.on_cookie(datagram, source)
                elif kind < STUN_END:
                    self.stun.on_datagram(datagram, source, now)
                else:
                    self.drops["unknown_type"] += 1
                    self._handshakes.note_heard(source, Heard.GIBBERISH, now)
            except DecodeError as error:
                other = isinstance(error, UnknownVersion)
                self.drops["unknown_version" if other else "malformed"] += 1
                self._handshakes.note_heard(source, Heard.VERSION if other else Heard.GIBBERISH, now)

    def _on_old_wire(self, buffer: bytes, segment_size: int, source: Address, now: float) -> bool:
        """Give a batch to the peer on the old wire that it belongs to, if there is one: known by its address alone."""
        if source not in self._registry.old and int.from_bytes(buffer[2:10], "big") in self._sessions:
            return False
        peer = find_old_peer(self._registry, buffer[:segment_size], source)
        if peer is None:
            return False
        self._at_work = peer
        for offset in range(0, len(buffer), segment_size):
            peer.on_datagram(buffer[offset : offset + segment_size], source, now)
        self.touch(peer)
        return True

    def handle_burst_end(self, now: float) -> None:
        """Nothing more is waiting to be read: acknowledgements may go."""
        self._notice_sleep(now)
        if self._receiving:
            for peer in self._receiving.values():
                self._at_work = peer
                urgent = peer.connection.on_burst_end(now)
                if not peer.ready:
                    if urgent:
                        self.touch(peer)
                    else:
                        self._unscheduled[id(peer)] = peer
            self._receiving.clear()

    def handle_resumed(self, slept: float, now: float) -> None:
        """The machine slept for ``slept`` seconds. Found out by itself where ``now`` went on meanwhile."""
        self._see_to_each(lambda peer: peer.on_resumed(slept, now))

    def handle_network_changed(self, moved: Container[str], now: float) -> None:
        """There is a way out again, or hosts (``moved``) are now reached from another address of ours."""
        self._see_to_each(lambda peer: peer.on_network_changed(moved, now))

    def _see_to_each(self, work: Callable[[Peer], None]) -> None:
        for peer in () if self._closed else list(self._registry):
            self._at_work = peer
            work(peer)
            self.touch(peer)

    def far_ends(self, most: int) -> dict[str, Address]:
        """Where peers are or are looked for, by host: at most so many."""
        return {} if self._closed else self._registry.far_ends(most)

    def _notice_sleep(self, now: float) -> None:
        """A timer that is called far too late was slept through. Also for calls that make one due long ago."""
        due, looked_at = self._due, self._looked_at
        self._due = None
        self._looked_at = now
        if due is not None and now - due > ASLEEP and now - looked_at > ASLEEP:
            self.handle_resumed(now - max(due, looked_at), now)

    def handle_timer(self, now: float) -> None:
        """Call it when ``now >= next_timer()``."""
        self._notice_sleep(now)
        self._admission.expire(now)
        self._handshakes.ask()
        self.stun.on_timer(now)
        self.whereabouts.on_timer(now)
        self.budget.on_timer(now)
        self._schedule()
        timers = self._timers
        due: list[Peer] = []
        while timers and timers[0][0] <= now:
            when, _, peer = heapq.heappop(timers)
            if peer.scheduled == when:
                peer.scheduled = None
                due.append(peer)
        if any(peer.connected and peer.keepalive_at <= now for peer in due):
            # Waking up costs more than the ping: who is to hear of us soon does so now, and all of them again together.
            soon = now + self.keepalive / KEEPALIVE_ROUNDS
            for peer in self._registry:
                if peer.connected and peer.keepalive_at <= soon:
                    self._at_work = peer
                    peer.keep_alive(now)
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
        taking, self._taking = self._taking, None
        if self._closed:
            return
        # The queues may have been interrupted between two steps as well: every peer is looked at anew.
        self._ready.clear()
        self._timers.clear()
        for other in self._registry:
            other.ready = False
            other.scheduled = None
            if other.opening.attempt is not None and other.opening.attempt.opening is None:
                other.opening.cancel_attempt()  # the job that makes its first arrow may be the one that was interrupted
            self.touch(other)
        if peer is not None:
            peer.recover(now)
        if taking is not None and taking.sequence >= 0:
            # Nobody would say so again, and none after it in its channel could ever be delivered.
            taking.peer.on_taken(taking, now)

    # --- commands

    def add_peer(
        self,
        name: str,
        addresses: Sequence[Address],
        peer_id: PeerId | None,
        now: float,
        *,
        pinned: bool = True,
        wire: Wire = "native",
        nat: NatTraits | None = None,
        token: bytes = b"",
    ) -> None:
        """Add a peer, or addresses to one of that name.

        Args:
            peer_id: the key it must prove; None takes the first one that answers our punch.
            pinned: False for a key that was trusted on first use in an earlier run.
            wire: what is spoken with it. Never found out from what it sends.
            nat: what its side told of its NAT.
            token: from an invite of the one whose key is pinned: shown to nobody else, until it has let us in.

        Raises:
            ValueError: the name stands for another key or wire, the key is our own, or there are too many peers.
            IdentityError: a PeerId that no key has, perhaps mistyped.
        """
        if peer_id == self.peer_id:
            raise ValueError(f"{name!r} has our own PeerId; a socket cannot connect to itself")
        if peer_id is not None:
            static_key_of(peer_id)
        registry = self._registry
        peer = registry.named(name) if name in registry else None
        if wire != "native" or isinstance(peer, OldPeer):
            add_old_peer(self, self._registry, name, addresses, peer_id, wire, now)
            return
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
                owner.hand_out_arrived()
            else:
                registry.alias(name, owner)
        elif peer is None:
            if len(registry) >= self.config.max_peers:
                raise ValueError(f"a socket holds at most {self.config.max_peers} peers (Config.max_peers)")
            peer = Peer(self, name, now)
            registry.add(peer)
        else:
            peer.stranger = False
        if peer_id is not None:
            if owner is not None and owner is not peer:
                raise ValueError(f"{name!r} and {owner.name!r} cannot have the same key; remove one first")
            if peer.peer_id is None:
                registry.bind(peer, peer_id)
            peer.trust = Trust.PINNED if pinned else (peer.trust if peer.trust is not Trust.NONE else Trust.FIRST_USE)
        registry.set_addresses(peer, (*peer.addresses, *addresses))
        peer.nat = nat or peer.nat
        peer.look_again(now)
        if token and not peer.connected:
            peer.token = token
        if peer.state is PeerState.PASSIVE or (token and peer.state is PeerState.REFUSED):
            peer.state = PeerState.CONNECTING
            peer.since = peer.opening.next_attempt_at = now
        self.touch(peer)

    def set_addresses(self, name: str, addresses: Sequence[Address], now: float) -> None:
        """Replace a peer's addresses: its names were resolved. Ignored if the peer is gone.

        Under several names a peer has the addresses of all of them; then they are only added.
        """
        self._notice_sleep(now)
        if name in self._registry:
            peer = self._registry.named(name)
            kept = peer.addresses if peer.aliases else []
            if addresses and not peer.opening.targets():
                peer.failure = None  # no look-up of its names fails any more
            self._registry.set_addresses(peer, (*kept, *addresses))
            peer.look_again(now)
            if not peer.connected:
                peer.opening.hasten(now)
            self.touch(peer)

    def note_unresolved(self, name: str, reason: str) -> None:
        """The names of a peer's hosts led nowhere: what its status says while there is no address to punch at."""
        if name in self._registry:
            peer = self._registry.named(name)
            if not peer.connected and not peer.opening.targets():
                peer.failure = reason

    def note_sockets(self, name: str, count: int, now: float) -> None:
        """So many more sockets were opened, as SocketsWanted asked. Ignored if the peer is gone."""
        if name in self._registry:
            peer = self._registry.named(name)
            peer.opening.puncher.on_sockets(count, now)
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
            self.invites.forget(peer.peer_id)
        peer.linger_until = now + self.timeout
        if not peer.connection.pending:
            self.finish_removal(peer, now)
        self.touch(peer)

    def trust(self, name: str, peer_id: PeerId | None, now: float) -> None:
        """Pin a peer to the key it has, or to the one given.

        Raises:
            UnknownPeer: there is no such peer.
            ValueError: it has no key yet and none was given, or another peer has the one given.
            IdentityError: a PeerId that no key has, perhaps mistyped.
        """
        self._notice_sleep(now)
        peer = self._registry.named(name)
        wanted = peer_id if peer_id is not None else peer.peer_id
        if wanted is None:
            raise ValueError(f"{name!r} has not proven any key yet; wait until it is connected or give a PeerId")
        static_key_of(wanted)
        if isinstance(peer, OldPeer):
            raise ValueError(f"{name!r} speaks {peer.dialect.value}, which cannot prove a PeerId")
        if wanted == self.peer_id or self._registry.by_id(wanted) not in (None, peer):
            raise ValueError("that key belongs to somebody else")
        if peer.peer_id not in (None, wanted):
            peer.opening.cancel_attempt()
            self._handshakes.change_key(peer, wanted, now)
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
        self._notice_sleep(now)
        peer = self._registry.named(name)
        if peer.peer_id is not None:
            peer.send_close(CloseCode.CLOSING, "", now)
            peer.opening.cancel_attempt()
            peer.opening.drop_half_open()
            peer.connection.fail_all(Failure.PEER_CHANGED)
            peer.collect_settled(now)
            if peer.connected:
                peer.lose("its key was forgotten", now)
            self._registry.unbind(peer)
            peer.instance = None
            peer.past_instances.clear()
            peer.connection.forget_peer(self.random(8))
            peer.ways.forget()
            peer.trust = Trust.NONE
        self.touch(peer)

    def admit(self, peer_id: PeerId, allow: bool, now: float) -> None:
        """Answer a PENDING event. A stranger that still waits hears it at once, else when it comes again."""
        self._handshakes.on_decided(peer_id, allow, now)

    def has_room(self, name: str, size: int) -> bool:
        """Whether a peer's queue takes ``size`` more bytes. If not, RoomFreed follows when it does.

        Raises:
            UnknownPeer: there is no such peer.
        """
        peer = self._registry.named(name)
        if not (has_room := peer.connection.has_room(size)):
            peer.room_wanted = True
        return has_room

    def intake_of(self, name: str) -> Intake | None:
        """How a peer takes messages; None if it is gone."""
        return self._registry.named(name).intake if name in self._registry else None

    def send_message(
        self,
        name: str,
        content: bytes | memoryview,
        *,
        channel: int,
        reliable: bool,
        ttl: float | None,
        now: float,
        priority: int = 0,
        if_room: bool = False,
    ) -> int | None:
        """Queue a message; MessageSettled with the returned token tells its end.

        Args:
            content: kept by reference; nobody may change it.
            priority: the channel of the highest that waits goes first. Unreliable messages go before all others.
            if_room: return None where :meth:`has_room` is False.

        Raises:
            UnknownPeer: there is no such peer.
            MessageTooBig: larger than we or the peer take.
            ValueError: no such channel or priority.
        """
        peer = self._registry.named(name)
        connection = peer.connection
        if if_room and not connection.has_room(len(content)):
            peer.room_wanted = True
            return None
        if not 0 <= channel < CHANNELS:
            raise ValueError(f"channel must be between 0 and {CHANNELS - 1}, not {channel}")
        if priority and priority not in PRIORITIES:
            raise ValueError(f"priority must be between {PRIORITIES[0]} and {PRIORITIES[-1]}, not {priority}")
        limit, told = self.config.max_message_size, connection.peer_max_message
        if told is not None and told < limit:
            limit = told
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
        connection.send_message(token, content, channel, reliable, now + ttl if ttl is not None else None, priority)
        if not reliable:
            peer.collect_settled(now)  # it may have found no room
        if not peer.ready:
            self.touch(peer)
        return token

    def message_taken(self, event: MessageArrived, now: float) -> None:
        """The application has the message."""
        receipt: Receipt[Peer] = event.receipt  # type: ignore[assignment]  # made by Peer, opaque to others
        peer = receipt.peer
        self._at_work = peer
        self._taking = receipt
        peer.on_taken(receipt, now)
        self._taking = None
        if not peer.ready:
            if peer.connection.urgent:
                self.touch(peer)
            else:
                self._unscheduled[id(peer)] = peer

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
        self.stun.stop_all(now)
        for peer in self._registry:
            peer.send_close(CloseCode.REMOVED if peer.lingering else CloseCode.CLOSING, "", now)
            peer.give_up(Failure.CLOSED)
        self._sessions.clear()
        self._handshakes.jobs.clear()
        self._timers.clear()

    @property
    def pending(self) -> int:
        """Messages not settled of peers that ``close`` should wait for: everyone, and the removed that linger."""
        return sum(
            peer.connection.pending
            for peer in self._registry
            if peer.lingering or peer.connected or (not peer.stranger and peer.state is not PeerState.PASSIVE)
        )

    def has_arrived(self, name: str) -> bool:
        """True if a peer has received, though perhaps not taken, all that was queued for it.

        Raises:
            UnknownPeer: there is no such peer.
        """
        return self._registry.named(name).connection.all_arrived

    def undelivered(self) -> tuple[int, int]:
        """Messages not settled of all peers, and how many of their bytes have not arrived. Counts them one by one."""
        return self.pending, sum(peer.connection.bytes_to_arrive for peer in self._registry)

    def is_amid_call(self, name: str) -> bool:
        """True if more is to come of what one call to ``send`` sent: known of peers on the old wire alone."""
        peer = self._registry.named(name)
        return isinstance(peer, OldPeer) and peer.connection.amid_call

    def ended_whole(self, name: str) -> bool:
        """True if a peer on the old wire has said goodbye, and all that came before it is here."""
        peer = self._registry.named(name) if name in self._registry else None
        return isinstance(peer, OldPeer) and peer.connection.ended_whole

    # --- output

    def next_job(self) -> Job[Any] | None:
        """A key agreement to be run outside the lock and given back to :meth:`finish_job`."""
        return self._handshakes.jobs.popleft() if self._handshakes.jobs else None

    def finish_job(self, job: Job[Any], now: float) -> None:
        """Commit a job that has run."""
        if not self._closed:
            job.finish(now)

    def poll_transmit(self, now: float) -> Transmit | None:
        """The next batch for the transport; peers take turns."""
        self._now = now
        if self._handshakes.answers:
            return self._handshakes.answers.popleft()
        ready = self._ready
        while ready:
            peer = self._at_work = ready[0]
            transmit = peer.poll_transmit(now)
            if transmit is not None:
                if len(ready) > 1:
                    ready.rotate(-1)
                return transmit
            ready.popleft()
            peer.ready = False
            # Its deadline is looked at when somebody asks, which is not after each batch.
            self._unscheduled[id(peer)] = peer
        return None

    @property
    def has_output(self) -> bool:
        """Whether :meth:`poll_transmit` or :meth:`next_job` may have something."""
        return bool(self._ready or self._handshakes.answers or self._handshakes.jobs)

    def next_timer(self) -> float | None:
        """When :meth:`handle_timer` must be called, or None."""
        if self._closed:
            return None
        timers = self._timers
        if self._unscheduled:
            self._schedule()
        while timers and timers[0][2].scheduled != timers[0][0]:
            heapq.heappop(timers)
        first = timers[0][0] if timers else None
        if (other := self._admission.next_timer()) is not None and (first is None or other < first):
            first = other
        if (other := self.budget.next_timer()) is not None and (first is None or other < first):
            first = other
        if (other := self.stun.next_timer()) is not None and (first is None or other < first):
            first = other
        if (other := self.whereabouts.next_timer()) is not None and (first is None or other < first):
            first = other
        self._due = first
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

    def _send_clear(self, datagram: bytes, destination: Address) -> None:
        self._handshakes.answers.append(Transmit(datagram, len(datagram), destination))

    def _on_server_answered(self, discovery: Discovery) -> None:
        self.whereabouts.stir(self._now)
        self._events.append(ServerAnswered())

    def add_job(self, compute: Callable[[], T], commit: Callable[[T | None, float], None]) -> None:
        """Have something computed outside the lock and committed under it."""
        self._handshakes.jobs.append(Job(compute, commit))

    def new_session(self, peer: Peer, agreed: Agreed, now: float) -> Session:
        """Keys for a peer, findable by their index."""
        session = Session(self.backend, agreed, self.drops, self.config.connection_window, now)
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
        removed = peer.lingering
        if removed:
            peer.send_close(CloseCode.REMOVED, "", now)
        peer.proof = None
        if peer.connection.session is not None:
            self.forget_session(peer.connection.session)
        peer.give_up(Failure.REMOVED)
        if peer.room_wanted:
            self._events.append(RoomFreed(peer.name))
        peer.state = PeerState.PASSIVE
        peer.linger_until = None
        self._registry.drop(peer)
        if peer.peer_id is not None and (removed or not peer.stranger):
            self._registry.remember_removed(peer.peer_id)
        peer.stranger = False  # has no more silence to be watched

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
            pieces = parse_pieces(buffer, offset, segment_size)
            if pieces is not None:
                following, datagrams = pieces.following, len(pieces.segments)
                opened = session.receiver.on_pieces(pieces, now)
            else:
                following, datagrams = offset + segment_size, 1
                try:
                    segment = parse_segment(buffer[offset:following])
                except DecodeError:
                    self.drops["malformed"] += 1
                    return following
                opened = session.receiver.on_segment(segment, now)
            if opened is not None:
                size = len(opened.plaintext)
            elif session is peer.connection.session:
                peer.connection.on_incomplete(datagrams)
                self._receiving[id(peer)] = peer
        if opened is not None:
            self._receiving[id(peer)] = peer
            if peer.on_opened(session, opened, size, source, now) and not peer.ready:
                self.touch(peer)
        return following

    # --- small helpers

    def _schedule(self) -> None:
        """Note the deadlines that have come nearer. What is noted too early finds nothing to do."""
        now = self._now
        for peer in self._unscheduled.values():
            self._at_work = peer
            if peer.may_wait(now):
                continue
            when = peer.next_timer()
            if when is not None and (peer.scheduled is None or when < peer.scheduled):
                peer.scheduled = when
                heapq.heappush(self._timers, (when, next(self._order), peer))
        self._unscheduled.clear()

    def new_index(self) -> int:
        """A random receive index that is free."""
        while True:
            index = int.from_bytes(self.random(8), "big")
            if index and index not in self._sessions and not self._handshakes.is_waiting_at(index):
                return index
