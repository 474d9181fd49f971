"""One peer: its names and key, the attempt to reach it, its session and path, and when it counts as lost.

::

    CONNECTING --session confirmed--> CONNECTED --silence or close--> LOST --session confirmed--> CONNECTED
         |                                |
         +--refused--> REFUSED            +--it removed us--> PASSIVE (answers, does not punch)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from math import inf
from typing import Final, TypeVar

from ..exceptions import DecodeError, RemoteProtocolError
from ..models import Address, EventKind, NatTraits, PeerEvent, PeerId, PeerState, PeerStats, PeerStatus, Trust
from ..nat.candidates import believable
from ..nat.explanation import Cause, Judgement
from ..nat.holepunch import REFUSED_PUNCHES
from ..protocol.congestion import make_controller
from ..protocol.connection import Connection
from ..protocol.events import Failure, MessageArrived, MessageSettled, ResolveWanted, RoomFreed
from ..protocol.mtu import MtuDiscovery
from ..protocol.pacer import Pacer
from ..protocol.records import Opened
from ..protocol.recovery import Path
from ..protocol.rekeying import Rekeying
from ..protocol.session import Session
from ..wire.frames import (
    PATH_CHALLENGE,
    PATH_RESPONSE,
    Candidates,
    Close,
    CloseCode,
    Frame,
    KeyUpdate,
    KeyUpdateReply,
    ObservedAddress,
    PathChallenge,
    PathResponse,
    parse_frames,
    serialise,
)
from .attempts import ATTEMPT_LIFETIME
from .host import Host, Receipt, Transmit
from .intake import Intake
from .jobs import TokenBucket
from .key_updates import KeyUpdates
from .liveness import LONG_SILENCE, Liveness
from .opening import SessionOpening
from .paths import AddressProof, PathValidator
from .trail import Trail
from .ways import Move, Ways

T = TypeVar("T")
_tuple = tuple.__new__  # half the cost of calling a NamedTuple's class

STRANGER_SILENCE: Final = 600.0
CLAIM_RATE: Final = 0.5
CLAIM_BURST: Final = 8.0
"""Lists of its candidates a second that are looked at, on average and at once."""
SILENT_PROBES: Final = 2
"""Probe timeouts in a row after which the path is taken to have fallen silent, and its standbys are asked."""
SEARCH_AGAIN: Final = 5.0
"""Seconds between two such occasions."""


class Peer:
    """The state of one peer. Every method is called under the endpoint lock."""

    # More than 30 attributes: without slots CPython 3.11 keeps them in a dictionary and searches it for each use.
    __slots__ = (
        "_claims", "_endpoint", "_search_after", "_updates", "addresses", "aliases", "connection", "ever_connected",
        "failure", "generation", "instance", "intake", "judged", "last_address", "last_heard", "last_sent",
        "linger_until", "liveness", "messages_received", "messages_sent", "name", "nat", "observed", "opening",
        "outbox", "past_instances", "peer_id", "proof", "ready", "rekeying", "room_wanted", "scheduled", "since",
        "state", "stranger", "token", "told", "trail", "trust", "validator", "ways",
    )  # fmt: skip

    def __init__(self, endpoint: Host[Peer], name: str, now: float, *, stranger: bool = False) -> None:
        self._endpoint = endpoint
        self.name = name
        self.aliases: set[str] = set()
        self.peer_id: PeerId | None = None
        self.trust = Trust.NONE
        self.stranger = stranger
        self.addresses: list[Address] = []
        self.nat: NatTraits | None = None  # what the user was told of the peer's
        self.state = PeerState.CONNECTING
        self.since = now  # when connecting or reconnecting began
        self.failure: str | None = None  # why it ended or was refused
        self.judged: tuple[str | None, Judgement] | None = None  # why it is not reached, as judged for that failure
        self.told: tuple[Cause | None, float] = (None, now)  # which cause an event told of, and when the next may
        self.trail = Trail()
        self.connection = Connection(
            endpoint.config,
            endpoint.drops,
            endpoint.budget,
            endpoint.random(8),
            lambda: endpoint.touch(self),
            endpoint.random,
        )
        self.opening = SessionOpening(endpoint, self, now)
        self.instance: bytes | None = None
        self.past_instances: deque[bytes] = deque(maxlen=8)
        self.generation = 0
        self.token = b""  # of an invite, until the peer has let us in
        self.last_heard: float | None = None
        self.last_sent = now
        self.liveness = Liveness(endpoint.keepalive)
        self.last_address: Address | None = None
        self.observed: Address | None = None  # ours, as the peer sees it; a claim
        self.validator = PathValidator()
        self.proof: AddressProof | None = None  # until it is answered nothing but challenges goes to the path
        self.ways = Ways(endpoint.random, endpoint.unproven)
        self._claims = TokenBucket(CLAIM_RATE, CLAIM_BURST)
        self._search_after = now
        self.rekeying: Rekeying | None = None
        self._updates = KeyUpdates(endpoint, self)
        self.outbox: deque[Transmit] = deque()
        self.linger_until: float | None = None
        self.room_wanted = False
        self.intake = Intake(self.connection)
        self.ready = False  # in the endpoint's queue of peers with something to send
        self.scheduled: float | None = None  # earliest entry in the endpoint's timer heap
        self.ever_connected = False
        self.messages_sent = self.messages_received = 0

    # --- what is known

    @property
    def pinned(self) -> bool:
        """True if only one key may use the name."""
        return self.trust is Trust.PINNED

    @property
    def connected(self) -> bool:
        """True while there is a confirmed session."""
        return self.connection.session is not None

    @property
    def lingering(self) -> bool:
        """True once removed, while queued messages are still brought home."""
        return self.linger_until is not None

    @property
    def address(self) -> Address | None:
        """The newest authenticated address."""
        return self.connection.path.address if self.connection.path is not None else self.last_address

    @property
    def why(self) -> str | None:
        """Why it is not connected, in words, as far as that is known."""
        judged = self.judged
        return (
            judged[1].text if judged is not None and judged[0] == self.failure and not self.connected else self.failure
        )

    def status(self, now: float) -> PeerStatus:
        """A snapshot for the application."""
        connection, path = self.connection, self.connection.path
        return PeerStatus(
            name=self.name,
            state=self.state,
            address=self.address,
            peer_id=self.peer_id,
            trust=self.trust,
            rtt=path.rtt.smoothed if path is not None and path.rtt.latest is not None else None,
            loss=connection.loss,
            mtu=path.mtu if path is not None else 0,
            queued=connection.queued_bytes,
            last_seen=now - self.last_heard if self.last_heard is not None else None,
            failure=self.why,
            observed=self.observed,
            stats=PeerStats(
                bytes_sent=connection.bytes_sent,
                bytes_received=connection.bytes_received,
                messages_sent=self.messages_sent,
                messages_received=self.messages_received,
                datagrams_sent=connection.datagrams_sent,
                datagrams_received=connection.datagrams_received,
                datagrams_lost=connection.datagrams_lost,
            ),
        )

    # --- a session is there

    def on_opened(self, session: Session, opened: Opened, size: int, source: Address, now: float) -> bool:
        """A record of this peer was authenticated. Returns whether something may have to leave now."""
        connection = self.connection
        if session is not connection.session:
            if session is not self.opening.half_open:
                self._endpoint.drops["old_session"] += 1
                return True
            if self._refused_in(opened, now):
                return True
            # The address that the handshake was held with: a copy of the first record may come from anywhere.
            self._confirm(session, self.opening.source or source, now)
        self.last_heard = now
        path = connection.path
        assert path is not None
        connection.bytes_received += size
        connection.datagrams_received += opened.segments
        if self.proof is not None and source == self.proof.address:
            self.proof.on_received(size)
            self._challenge(now)
        if source != path.address and opened.segments == 1 and opened.number == session.receiver.largest:
            self._on_elsewhere(opened, source, now)
        try:
            stirred = connection.on_record(opened, size, now)
        except RemoteProtocolError as error:
            self._endpoint.drops["protocol_error"] += 1
            # What came before the breach counts, but nothing may be left lying for the next session.
            self.hand_out_arrived()
            connection.signals.clear()
            self.send_close(CloseCode.PROTOCOL_ERROR, str(error), now)
            self.lose(f"it broke the protocol: {error}", now)
            return True
        if self.rekeying is not None:
            self.rekeying.on_opened(now)
        if stirred:
            self._collect(source, now)
        elif connection.arrived:
            self.hand_out_arrived()
        return stirred or len(self.outbox) > 0

    def _refused_in(self, opened: Opened, now: float) -> bool:
        try:
            frames = parse_frames(opened.plaintext)
        except DecodeError:
            return False
        for frame in frames:
            if isinstance(frame, Close):
                self.opening.cancel_attempt()
                self.opening.drop_half_open()
                self._on_close(frame, now)
                return True
        return False

    def _confirm(self, session: Session, source: Address, now: float) -> None:
        """A record opened under the half-open session: it carries everything from now on."""
        endpoint = self._endpoint
        connection = self.connection
        old = connection.session
        rtt = self.opening.on_confirmed(session, now)
        agreed = session.agreed
        new_instance = agreed.hello.instance != self.instance
        path = connection.path
        # Who answers an initiator needs to read neither the third arrow nor our records.
        proven = not agreed.initiator or source in self.opening.targets()
        if path is None or path.address != source:
            path = self._new_path(source, now)
            if rtt is not None:
                path.rtt.update(max(rtt, 1e-5), 0.0, now)
        elif self.proof is None:
            proven = True
        self.proof = None if proven else AddressProof(source, endpoint.random(8), now)
        session.confirmed = True
        if new_instance:
            if agreed.hello.instance in self.past_instances:
                # A restarted program never comes back as an earlier one: two run with one identity and take turns.
                self.emit(
                    EventKind.IDENTITY_IN_USE_ELSEWHERE, source, "two programs use this identity; give each its own"
                )
            else:
                self.past_instances.append(agreed.hello.instance)
        self.instance = agreed.hello.instance
        self.generation = agreed.generation
        self.observed = agreed.hello.observed
        connection.start(session, path, now)
        if old is not None:
            endpoint.forget_session(old)
        self.validator = PathValidator()
        self.rekeying = Rekeying(session, endpoint.backend, now)
        if self.proof is None:
            self.last_address = source
        self.last_heard = now
        self.failure = None
        self.trail.settle()
        self.token = b""
        endpoint.forget_half_open(session)
        self.ways.reset()
        if self.proof is None:
            self._look_for_ways(source, now)
        greeting = endpoint.whereabouts.greeting()
        if greeting is not None:
            connection.signal(greeting)
        endpoint.whereabouts.stir(now)
        if self.state is not PeerState.CONNECTED:
            again = self.ever_connected
            self.state = PeerState.CONNECTED
            self.ever_connected = True
            weak = self.trust is Trust.MATCHED_BY_IP and not again
            reason = f"matched by its IP address alone: compare verification codes, then trust({self.name!r})"
            self.emit(EventKind.RECONNECTED if again else EventKind.CONNECTED, source, reason if weak else "")
        elif new_instance:
            self.emit(EventKind.RECONNECTED, source, "its program was restarted")

    def _collect(self, source: Address, now: float) -> None:
        """Turn what the connection produced into events."""
        connection = self.connection
        if connection.arrived or connection.arrived_unreliable:
            self.hand_out_arrived()
        if connection.signals:
            signals, connection.signals = connection.signals, []
            answered = False
            claim: Candidates | None = None
            for frame in signals:
                if isinstance(frame, Candidates):
                    claim = frame if claim is None or frame.serial > claim.serial else claim
                    continue
                if isinstance(frame, PathChallenge):
                    # One answer a record: the address may be somebody else's.
                    if answered:
                        continue
                    answered = True
                self._on_signal(frame, source, now)
            if claim is not None and connection.session is not None:
                self._on_claim(claim, now)
        self.collect_settled(now)

    def hand_out_arrived(self) -> None:
        """Give the application what arrived. While the peer lingers it waits: it may be added again."""
        connection, name, peer_id = self.connection, self.name, self.peer_id
        if self.linger_until is not None:
            return
        arrived, connection.arrived = connection.arrived, []
        if connection.arrived_unreliable:
            unreliable, connection.arrived_unreliable = connection.arrived_unreliable, []
            arrived += [(channel, -1, content) for channel, content in unreliable]
        if peer_id is None:
            return
        restarts, emit = connection.restarts, self._endpoint.emit
        self.messages_received += len(arrived)
        for channel, sequence, content in arrived:
            receipt = _tuple(Receipt, (self, restarts, channel, sequence, len(content)))
            emit(_tuple(MessageArrived, (name, peer_id, channel, content, receipt)))

    def on_taken(self, receipt: Receipt[Peer], now: float) -> None:
        """The application has a message."""
        if receipt.sequence < 0:
            self.connection.unreliable_in.on_taken(receipt.size)
        elif receipt.restarts == self.connection.restarts:
            self.connection.application_took(receipt.channel, receipt.sequence, now)

    def collect_settled(self, now: float) -> None:
        """Report messages that were delivered or failed, and a new path MTU."""
        connection = self.connection
        recovery = connection.recovery
        if recovery is not None and recovery.mtu_changed:
            recovery.mtu_changed = False
            recovery.path.controller.set_segment_size(recovery.path.mtu)
            self.emit(EventKind.MTU, recovery.path.address, f"datagrams of {recovery.path.mtu} bytes")
        if not (connection.sending.settled or connection.unreliable_out.settled):
            return
        settled = connection.drain_settled()
        emit = self._endpoint.emit
        name = self.name
        for token, failure in settled:
            emit(_tuple(MessageSettled, (token, name, failure)))
        if self.intake.on_settled(len(settled), now):
            emit(RoomFreed(self.name))
        if self.room_wanted and self.connection.crowding < self._endpoint.config.send_queue:
            self.room_wanted = False
            emit(RoomFreed(self.name))
        if self.lingering and not self.connection.pending:
            self._endpoint.finish_removal(self, now)

    def _on_signal(self, frame: Frame, source: Address, now: float) -> None:
        session = self.connection.session
        if session is None:
            return
        if isinstance(frame, PathChallenge):
            self.send_sealed(session, [PathResponse(frame.nonce)], source, now)
        elif isinstance(frame, PathResponse):
            recovery = self.connection.recovery
            silent = recovery is not None and recovery.probes >= SILENT_PROBES
            self.validator.on_response(frame.nonce, source, silent, now)
            if (moved := self.validator.decide(now)) is not None:
                self._move(moved, "it is heard from there now", now)
            if self.ways.on_response(frame.nonce, source, now):
                self._take_better(now)
                self._endpoint.touch(self)
            if self.proof is not None and self.proof.is_answer(frame.nonce, source):
                self.proof = None
                self.last_address = source
                self._look_for_ways(source, now)
                self._endpoint.touch(self)
        elif isinstance(frame, KeyUpdate):
            self._updates.answer(frame, now)
        elif isinstance(frame, KeyUpdateReply):
            self._updates.complete(frame)
        elif isinstance(frame, ObservedAddress):
            hosts = self._endpoint.whereabouts.hosts
            if self.observed not in hosts and frame.address not in hosts:  # else it changed its way to us
                self.liveness.on_observed(self.observed, frame.address, now)
            self.observed = frame.address
            self._endpoint.whereabouts.stir(now)
        elif isinstance(frame, Close):
            self._on_close(frame, now)

    def _on_close(self, frame: Close, now: float) -> None:
        if frame.code == CloseCode.REMOVED:
            self.lose("it removed us", now, PeerState.PASSIVE)
            self.connection.fail_all(Failure.REMOVED_US)
        elif frame.code == CloseCode.REFUSED:
            reason = f"it refused our identity: its user has to add or accept our PeerId, {self._endpoint.peer_id}"
            if self.token:
                reason = "it refused us: the invite was used by another, has expired, or the program that made it ended"
            self.lose(reason, now, PeerState.REFUSED)
            self.connection.fail_all(Failure.REFUSED)
        elif frame.code == CloseCode.PROTOCOL_ERROR:
            self.lose("it says that we broke the protocol", now)
        else:
            self.lose("its program ended", now)
        self.collect_settled(now)

    # --- paths

    def _on_elsewhere(self, opened: Opened, source: Address, now: float) -> None:
        """The newest record came from another address than the path's."""
        if opened.plaintext[0] in (PATH_CHALLENGE, PATH_RESPONSE):
            return  # it asks or tells of that way; what is sent on it comes in other records
        session = self.connection.session
        assert session is not None
        if self.proof is None and self.ways.is_standby(source):
            self.ways.on_used(source, not session.agreed.initiator, now)
            self._endpoint.touch(self)
            return
        self._propose(source, now)

    def _on_claim(self, claim: Candidates, now: float) -> None:
        """The peer says where it may be reached."""
        path = self.connection.path
        assert path is not None
        if not self._claims.take(now):
            self._endpoint.drops["candidates_rate"] += 1
            return
        hosts = self._endpoint.whereabouts.hosts
        believed = believable(claim.candidates, (path.address, *self.addresses), hosts)
        if len(believed) < len(claim.candidates):
            self._endpoint.drops["bad_candidate"] += len(claim.candidates) - len(believed)
        self.ways.claim(claim.serial, believed, now)
        self._endpoint.touch(self)

    def tell(self, candidates: Candidates) -> bool:
        """Tell the peer where we may be reached, if it is connected. Whether it is."""
        if self.connected:
            self.connection.signal(candidates)
        return self.connected

    def look_again(self, now: float) -> None:
        """What was given of the peer, or our own interfaces, changed."""
        if self.connected:
            self.ways.set_given(self.addresses, self._endpoint.whereabouts.hosts, now)

    def _look_for_ways(self, present: Address, now: float) -> None:
        """The path leads to an address of the peer's, beyond doubt: are there better ones?"""
        self.ways.start(present, self.addresses, self._endpoint.whereabouts.hosts, now)

    def _look_around(self, now: float) -> None:
        """Ask on the other ways if it is time, or if the present one fell silent."""
        session, recovery = self.connection.session, self.connection.recovery
        if session is None or recovery is None or self.proof is not None:
            return
        if recovery.probes >= SILENT_PROBES and now >= self._search_after:
            self._search_after = now + SEARCH_AGAIN
            self.ways.on_silent(now)
        if now >= self.ways.next_at:
            for address, nonce in self.ways.due(now):
                self.send_sealed(session, [PathChallenge(nonce)], address, now)
            self._take_better(now)

    def _take_better(self, now: float) -> None:
        path = self.connection.path
        if path is None or self.proof is not None:
            return
        move = self.ways.decide(now, path.rtt.minimum if path.rtt.latest is not None else inf)
        if move is not None:
            self._take(move, now)

    def _take(self, move: Move, now: float) -> None:
        self.validator = PathValidator()
        self._move(move.address, move.reason, now)
        path, recovery = self.connection.path, self.connection.recovery
        assert path is not None
        assert recovery is not None
        if path.rtt.latest is None:
            path.rtt.update(max(move.rtt, 1e-5), 0.0, now)
        recovery.probes = 0

    def _propose(self, source: Address, now: float) -> None:
        session, path = self.connection.session, self.connection.path
        assert session is not None
        assert path is not None
        timeout = path.rtt.probe_timeout(self._endpoint.config.max_ack_delay)
        probe = self.validator.propose(source, self._endpoint.random(16), timeout, now)
        if probe is not None:
            self.send_sealed(session, [PathChallenge(probe.nonce_new)], source, now)
            self.send_sealed(session, [PathChallenge(probe.nonce_old)], path.address, now)

    def _challenge(self, now: float) -> None:
        """Ask the address that the session was agreed with to prove itself, if it is time."""
        session, proof = self.connection.session, self.proof
        if session is not None and proof is not None and proof.take(now):
            self.send_sealed(session, [PathChallenge(proof.nonce)], proof.address, now)

    def _move(self, address: Address, reason: str, now: float) -> None:
        path = self.connection.path
        assert path is not None
        unproven, self.proof = self.proof is not None, None
        if address.host == path.address.host:
            path.address = address  # a new port alone is a NAT
            self.connection.revive()
        else:
            # Another network: nothing measured on the old one holds (RFC 9000 section 9.4).
            self.connection.move(self._new_path(address, now))
        self.last_address = address
        if unproven:
            self._look_for_ways(address, now)
        else:
            self.ways.on_moved(address, now)
        self.connection.signal(ObservedAddress(address))
        self.emit(EventKind.ROAMED, address, reason)

    def _new_path(self, address: Address, now: float) -> Path:
        config = self._endpoint.config
        mtu = config.initial_mtu
        discovery = MtuDiscovery(mtu, config.max_mtu, now)
        return Path(address, discovery, make_controller(config.congestion, mtu), Pacer(now))

    # --- time

    @property
    def keepalive_at(self) -> float:
        """When a connected peer must hear of us."""
        return self.last_sent + self.liveness.interval

    def keep_alive(self, now: float) -> None:
        """Let the peer hear of us and ask for a sign of life."""
        self.liveness.on_silence_ends(self.last_sent, now)
        self.liveness.on_asked(self.connection.bytes_received)
        self.last_sent = now
        if self.connection.owes_ack:
            return  # it was faster, and hears of us in a moment: a ping of ours would only cost it an ack
        self.connection.ping()
        self._endpoint.touch(self)

    def _wonders(self, now: float) -> bool:
        """Whether a peer that was sending a moment ago should be asked after. Not if an answer is waited for anyway."""
        connection, heard = self.connection, self.last_heard
        asks_at = None if heard is None else self.liveness.asks_at(connection.bytes_received, heard)
        if asks_at is None or now < asks_at:
            return False
        self.liveness.on_asked(connection.bytes_received)
        return connection.recovery is not None and not connection.recovery.in_flight

    def next_timer(self) -> float | None:
        """When :meth:`on_timer` must be called."""
        connection, proof = self.connection, self.proof
        if proof is None:
            when = connection.next_timer()
        else:
            when = _earlier(proof.next_timer(), connection.sending.next_expiry())
        if connection.session is None:
            return self._opening_timer(_earlier(when, self._stranger_until()))
        # One comparison after the other: it is asked for with every message.
        assert self.last_heard is not None
        endpoint, probe, rekeying = self._endpoint, self.validator.probe, self.rekeying
        due = self.last_heard + endpoint.timeout
        if (other := self.last_sent + self.liveness.interval) < due:
            due = other
        if (ask := self.liveness.asks_at(connection.bytes_received, self.last_heard)) is not None and ask < due:
            due = ask
        if probe is not None and probe.decide_at < due:
            due = probe.decide_at
        if self.ways.next_at < due and proof is None:
            due = self.ways.next_at
        if rekeying is not None and (look := rekeying.next_timer()) is not None and look < due:
            due = look
        if when is None or due < when:
            when = due
        opening = self.opening
        if opening.attempt is None and opening.half_open is None and self.linger_until is None:
            return when
        return self._opening_timer(when)

    def may_wait(self, now: float) -> bool:
        """Whether the look at this peer that is noted already comes before all deadlines. Quicker than to ask them."""
        return (
            self.scheduled is not None
            and self.connection.may_wait(self.scheduled, now)
            and self.opening.attempt is None
            and self.opening.half_open is None
            and self.linger_until is None
            and self.proof is None
            and self.validator.probe is None
            and self.ways.next_at >= self.scheduled
        )

    def _opening_timer(self, when: float | None) -> float | None:
        """``when``, or earlier for the sake of a handshake or because the peer was removed."""
        return _earlier(_earlier(when, self.linger_until), self.opening.next_timer())

    def on_timer(self, now: float) -> None:
        """Time has passed."""
        connection = self.connection
        if self.connected:
            assert self.last_heard is not None
            moved = self.validator.decide(now)
            if moved is not None:
                self._move(moved, "it is heard from there now", now)
            self._challenge(now)
            if self.rekeying is not None:
                self.rekeying.on_timer(now)
                if self.rekeying.due(now):
                    self._updates.begin()
            if connection.session is not None and connection.session.worn_out:
                self.lose("the keys of the session are worn out", now)
            elif now >= self.last_heard + self._endpoint.timeout:
                self.lose(f"nothing heard for {self._endpoint.timeout:g} s", now)
            elif now >= self.keepalive_at or self._wonders(now):
                self.keep_alive(now)
        self.opening.on_timer(now)
        connection.on_timer(now)
        self._look_around(now)
        self.collect_settled(now)
        limits = (self.linger_until, self._stranger_until())
        if any(limit is not None and now >= limit for limit in limits):
            self._endpoint.finish_removal(self, now)

    def _stranger_until(self) -> float | None:
        """When a stranger that is not connected is dropped with its state."""
        if not self.stranger or self.connected:
            return None
        if self.last_heard is None:
            return self.since + ATTEMPT_LIFETIME  # it proved its key and never said a word
        return self.last_heard + STRANGER_SILENCE

    def on_resumed(self, slept: float, now: float) -> None:
        """We stood still for ``slept`` seconds: ask for a sign of life, or connect anew at once and without backoff."""
        if self.connected:
            if slept >= self._endpoint.timeout:
                self.lose(f"slept for {slept:.0f} s", now)  # it has long given us up
                self.opening.next_attempt_at = now
            else:
                self.last_sent = now
                self.connection.revive()
        elif self.state in (PeerState.CONNECTING, PeerState.LOST):
            self.since = self.opening.next_attempt_at = now
            self.opening.hasten(now)

    def on_network_changed(self, moved: Container[str], now: float) -> None:
        """Our own way to the hosts in ``moved`` is another one, or there is one again: let the peer know at once."""
        path = self.connection.path
        if path is not None and path.address.host in moved:
            self.connection.move(self._new_path(path.address, now))  # nothing measured on the old one holds
        self.on_resumed(0.0, now)
        self.ways.recheck(now)
        self.liveness.on_network_changed()

    def lose(self, reason: str, now: float, state: PeerState = PeerState.LOST) -> None:
        """The session is over; what was queued waits for the next one."""
        was_connected = self.connected
        if self.connection.session is not None:
            self._endpoint.forget_session(self.connection.session)
            self.connection.stop()
            self.rekeying = self.proof = None
            self.ways.stop()
        self.state = state
        self.trail.clear()
        self.told = (None, now)
        self.failure = reason
        self.since = now
        wait = REFUSED_PUNCHES if state is PeerState.REFUSED else self.opening.punch_interval(now)
        self.opening.next_attempt_at = now + wait
        if was_connected or state is PeerState.REFUSED:
            self.emit(EventKind.REFUSED if state is PeerState.REFUSED else EventKind.LOST, self.last_address, reason)
        if state is PeerState.LOST and not self.lingering:
            self._endpoint.emit(ResolveWanted(self.name))

    def recover(self, now: float) -> None:
        """A call about this peer was interrupted anywhere in it: start from what is certain, the queued messages."""
        self.opening.cancel_attempt()
        self.opening.drop_half_open()
        self.outbox.clear()
        self.scheduled = None
        if self.connected:
            self.lose("interrupted; connecting anew", now)
            self.opening.next_attempt_at = now
        self.connection.sending.recount()
        self.connection.receiving.recount()
        self.connection.unreliable_out.fail_all(Failure.LOST)

    def give_up(self, reason: Failure) -> None:
        """Nothing is sent to it any more, and nothing kept of what it sent."""
        self.opening.cancel_attempt()
        self.opening.drop_half_open()
        self.opening.puncher.stop()
        self.connection.forget()
        self.connection.fail_all(reason)
        for token, failure in self.connection.drain_settled():
            self._endpoint.emit(MessageSettled(token, self.name, failure))

    # --- output

    def poll_transmit(self, now: float) -> Transmit | None:
        """The next batch for the transport."""
        if self.outbox:
            return self.outbox.popleft()
        connection = self.connection
        session, path = connection.session, connection.path
        if session is None or path is None or self.proof is not None:
            return None
        if session.worn_out and not connection.is_idle(now):
            self.lose("the keys of the session are worn out", now)
            return None
        batch = connection.poll_transmit(now)
        if batch is None:
            return None
        if now - self.last_sent > LONG_SILENCE:
            self.liveness.on_silence_ends(self.last_sent, now)
        self.last_sent = now
        return _tuple(Transmit, (batch[0], batch[1], path.address, 0))

    def send_datagram(self, datagram: bytes, destination: Address, now: float, hop_limit: int = 0) -> None:
        """Queue one datagram outside the connection's own output; with a hop limit it dies on its way."""
        if not self.connected:
            self.trail.on_sent(destination, now)
        self.outbox.append(Transmit(datagram, len(datagram), destination, hop_limit))
        self._endpoint.touch(self)

    def send_close(self, code: CloseCode, reason: str, now: float) -> None:
        """Tell the peer that this is the end, if there is a session to say it in, and what was taken up to it."""
        session, path = self.connection.session, self.connection.path
        address = path.address if path is not None else None
        if session is None:
            # The other end may have taken the half-open session for established already.
            session, address = self.opening.half_open, self.opening.source
        if session is not None and address is not None:
            close = Close(code, reason.encode()[:120].decode(errors="ignore"))
            self.send_sealed(session, [*self.connection.all_taken(), close], address, now)

    def send_sealed(self, session: Session, frames: list[Frame], destination: Address, now: float) -> None:
        """Queue frames as a record of their own, outside the connection's own output: nothing sends them again."""
        plaintext = b"".join(serialise(frame) for frame in frames).ljust(16, b"\x00")
        _, _, wire = session.seal(plaintext, self._endpoint.config.initial_mtu)
        self.send_datagram(wire, destination, now)

    def emit(self, kind: EventKind, address: Address | None, reason: str) -> None:
        """Report something that happened to this peer."""
        if not self.lingering:
            self._endpoint.emit(PeerEvent(kind, self.name, self.peer_id, address, reason))


def _earlier(one: float | None, other: float | None) -> float | None:
    """The smaller of two times, where None is never."""
    if one is None or (other is not None and other < one):
        return other
    return one
