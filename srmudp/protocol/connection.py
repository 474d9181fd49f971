"""The conductor of one peer: what arrives goes to its organ, what is to be sent goes into the next record.

A connection outlives sessions. ``start`` gives it new keys and a path, ``stop`` takes them away; messages, credit and
sequences stay, and what was in flight is queued again. One datagram's way in: ``on_record`` (frames to the halves),
``on_burst_end`` (decides about an ack), ``poll_transmit`` (builds it). One message's way out: ``send_message``,
``poll_transmit`` until None, ``on_ack`` of the record, ``on_taken`` of the message.

A record of one datagram may carry anything. A record of several carries parts of messages of one channel and nothing
else, so that losing one of its segments delays nothing but that channel.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from math import inf
from typing import Final

from ..config import Config
from ..exceptions import DecodeError, RemoteProtocolError
from ..wire.frames import (
    Ack,
    Frame,
    Grant,
    MessagePart,
    Padding,
    Ping,
    SessionStart,
    SingleOnly,
    Taken,
    UnreliablePart,
    Window,
    Withdrawn,
    ack_eliciting,
    message_part_header,
    parse_frames,
    parse_lone_message,
    serialise,
)
from ..wire.packet import RECORD_OVERHEAD, RESEND_OVERHEAD, TAG, resend_segment
from .acking import AckTiming
from .allowance import Allowance
from .controls import NO_MEMORY, Controls, session_start
from .credit import OVERHEAD, ReceiveBudget
from .events import Failure
from .receiving import ReceiveHalf
from .records import Opened, packed
from .recovery import ONE, STALE_RECORDS, AckOutcome, Path, Recovery, Sealed, SentRecord
from .sending import Chunk, SendHalf
from .session import Session, segment_room, single_room
from .unreliable import OutgoingUnreliable, UnreliableReceiveHalf, UnreliableSendHalf

MIN_PLAINTEXT: Final = 16
"""Shorter records are padded to it, so that a path challenge is no larger than the record that provoked it."""
SHARED: Final = RECORD_OVERHEAD + TAG + 64
"""Bytes of a datagram that a message leaves to others where it shares it. Of these, an acknowledgement and news have
64: 20, and 4 for each gap."""
PING_EVERY: Final = 8
"""Every so many acks without anything else ask for an ack themselves, so that old ranges can be forgotten."""

Arrival = tuple[int, int, bytes]


class Connection:
    """Everything that concerns the data of one peer.

    Args:
        memory: 8 fresh random bytes: what we remember of the peer begins here.
        wake: called when something became ready to be sent by what happened to another peer.
        random: decides which record numbers are left out; None leaves out none.
    """

    # More than 30 attributes: without slots CPython 3.11 keeps them in a dictionary and searches it for each use.
    __slots__ = (
        "_acks", "_acks_alone", "_allowance", "_budget", "_config", "_controls", "_datagrams_lost_before", "_drops",
        "_memory", "_newest", "_peer_memory", "_peer_started", "_probes_due", "_random", "_recovery", "_resends",
        "_resent", "_sealed", "_start_acked", "_start_due", "_told_window", "_wake", "arrived", "arrived_unreliable",
        "bytes_received", "bytes_sent", "datagrams_received", "datagrams_sent", "path", "peer_max_message",
        "receiving", "restarts", "sending", "session", "signals", "unreliable_in", "unreliable_out",
    )  # fmt: skip

    def __init__(
        self,
        config: Config,
        drops: Counter[str],
        budget: ReceiveBudget,
        memory: bytes,
        wake: Callable[[], None] = lambda: None,
        random: Callable[[int], bytes] | None = None,
    ) -> None:
        self._config = config
        self._random = random
        self._drops = drops
        self._budget = budget
        self._wake = wake
        self.sending = SendHalf()
        self.receiving = ReceiveHalf(config, budget, self._on_budget_freed)
        self.unreliable_out = UnreliableSendHalf(config.unreliable_queue)
        self.unreliable_in = UnreliableReceiveHalf(config.unreliable_queue, config.max_message_size, drops)
        self.session: Session | None = None
        self.path: Path | None = None
        self._recovery: Recovery | None = None
        self._sealed: Sealed | None = None
        self.peer_max_message: int | None = None
        self._memory = memory
        self._peer_memory = NO_MEMORY
        self.restarts = 0
        """Times the receiving half began anew: messages handed out before are no longer waited for."""
        self.arrived: list[Arrival] = []
        """Reliable messages to hand out: channel, sequence, content."""
        self.arrived_unreliable: list[tuple[int, bytes]] = []
        self.signals: list[Frame] = []
        """Frames that concern the peer's paths, keys and end of life, for the owner to act on."""
        self.bytes_sent = self.bytes_received = self.datagrams_sent = self.datagrams_received = 0
        self._datagrams_lost_before = 0
        self._reset_session_state()

    def _reset_session_state(self) -> None:
        config = self._config
        self._controls = Controls(self.sending, self.receiving, config.channel_window // 4, config.max_ack_delay)
        self._resends: deque[tuple[SentRecord, int]] = deque()
        self._resent = False  # the last batch of data was one of these
        self._start_due = False  # our SessionStart has not left yet
        self._start_acked = False
        self._peer_started = False
        self._allowance = Allowance(config.socket_buffer)
        self._acks = AckTiming(config.max_ack_delay)
        self._acks_alone = 0
        self._newest = -1  # record number opened
        self._told_window = 0
        self._probes_due = 0

    # --- commands

    def send_message(
        self,
        token: int,
        content: bytes | memoryview,
        channel: int,
        reliable: bool,
        expires: float | None,
        priority: int = 0,
    ) -> None:
        """Queue a message; ``poll_transmit`` sends it as soon as it may."""
        if reliable:
            self.sending.add(token, channel, content, expires, priority)
        else:
            self.unreliable_out.add(token, channel, bytes(content), expires)

    def application_took(self, channel: int, sequence: int, now: float) -> None:
        """The application has a message from ``arrived``."""
        self.receiving.on_application_took(channel, sequence)
        self._controls.on_taken(now)

    def all_taken(self) -> list[Frame]:
        """How far the application got in each channel, for a goodbye: nothing is sent after it, nor sent again."""
        if not self._peer_started:
            return []  # it may be another life of the peer that sent them
        return [Taken(number, channel.taken) for number, channel in self.receiving.channels.items() if channel.taken]

    def ping(self) -> None:
        """Ask for a sign of life."""
        self._controls.add(Ping())

    def revive(self) -> None:
        """Ask for a sign of life at once: what was sent lately may have gone nowhere, for a reason that is over."""
        recovery = self.recovery
        if recovery is None or not recovery.in_flight:
            self.ping()
        else:
            recovery.probes = 0
            self._probes_due = 2
        self._acks.again()

    def signal(self, frame: Frame) -> None:
        """Send a frame reliably with the next record."""
        self._controls.add(frame)

    def start(self, session: Session, path: Path, now: float) -> None:
        """Go on under the keys of ``session``."""
        self.stop()
        self.session = session
        self.path = path
        self._recovery = Recovery(path, now, self._random)
        self._start_due = True

    def move(self, path: Path) -> None:
        """Go on over another path under the same keys."""
        assert self.recovery is not None
        self.path = path
        self.recovery.move(path)
        self.revive()

    def stop(self) -> None:
        """Forget the keys; what was in flight is queued again."""
        if self.recovery is not None:
            self._datagrams_lost_before += self.recovery.datagrams_lost
            for record in self.recovery.abandon():
                self._send_again(record)
        self.session = self._recovery = self.path = None
        self._reset_session_state()

    def fail_all(self, reason: Failure) -> None:
        """Give up every queued message."""
        self.sending.fail_all(reason)
        self.unreliable_out.fail_all(reason)

    def forget_peer(self, memory: bytes) -> None:
        """Another key takes our place for this peer: nothing of what was, but ``memory``, holds any more."""
        self._memory = memory
        self._peer_memory = NO_MEMORY
        self._restart()

    def _restart(self) -> None:
        """What the peer sent and had taken belongs to another life of it: begin at sequence 0, both ways."""
        self.sending.restart()
        self.receiving.restart()
        self.unreliable_in.restart()
        self.arrived.clear()  # their numbers mean other messages now
        self.restarts += 1

    def forget(self) -> None:
        """The peer is gone for good: return what it had of the shared budget."""
        self.stop()
        self.receiving.restart()
        self._budget.forget(self.receiving.retry)

    # --- what is known

    @property
    def recovery(self) -> Recovery | None:
        """What is on its way under the present keys, and what it has shown of the path. Notes what was sealed last."""
        if self._sealed is not None:
            self._note_sealed(self._sealed)
        return self._recovery

    @property
    def urgent(self) -> bool:
        """True if something other than messages and acknowledgements must be told at once."""
        return self._controls.urgent

    @property
    def owes_ack(self) -> bool:
        """True if the peer will be acknowledged something within the ack delay."""
        return self._acks.owed

    @property
    def pending(self) -> int:
        """Messages not settled."""
        return self.sending.queued_messages + self.unreliable_out.pending

    @property
    def all_arrived(self) -> bool:
        """True if the peer has received all of them, taken or not."""
        return not self.unreliable_out.pending and self.sending.all_arrived

    @property
    def bytes_to_arrive(self) -> int:
        """Bytes of them that the peer has not received."""
        return self.unreliable_out.queued_bytes + self.sending.bytes_to_arrive

    @property
    def queued_bytes(self) -> int:
        """Bytes of messages not settled."""
        return self.sending.queued_bytes + self.unreliable_out.queued_bytes

    @property
    def crowding(self) -> int:
        """What the send queue counts: their content and OVERHEAD each, but for the largest message under way.

        That one must not keep others from being queued beside it.
        """
        return self.queued_bytes - self.sending.largest_head() + OVERHEAD * max(0, self.pending - 1)

    def has_room(self, size: int) -> bool:
        """Whether the send queue takes ``size`` more bytes."""
        limit, sending, unreliable = self._config.send_queue - size, self.sending, self.unreliable_out
        pending = sending.queued_messages + unreliable.pending
        # Mostly so, and sooner said than crowding.
        if not pending or sending.queued_bytes + unreliable.queued_bytes + OVERHEAD * pending <= limit:
            return True
        return self.crowding <= limit

    @property
    def loss(self) -> float:
        """Share of bytes lost lately, 0 to 1."""
        return self._recovery.loss if self._recovery is not None else 0.0

    @property
    def datagrams_lost(self) -> int:
        """Datagrams found lost, over all sessions."""
        return self._datagrams_lost_before + (self._recovery.datagrams_lost if self._recovery is not None else 0)

    def drain_settled(self) -> list[tuple[int, Failure | None]]:
        """(token, failure or None) of messages settled since the last call."""
        settled = self.sending.settled + self.unreliable_out.settled
        if settled:
            self.sending.settled = []
            self.unreliable_out.settled = []
        return settled

    def session_start(self, *, brief: bool = False) -> SessionStart:
        """What we tell of our limits and channels; see :func:`.controls.session_start`."""
        return session_start(self._config, self.sending, self.receiving, self._memory, self._peer_memory, brief=brief)

    # --- input

    def on_record(self, opened: Opened, size: int, now: float) -> bool:
        """Take in the frames of an opened record.

        Args:
            size: bytes of its datagrams.

        Returns:
            Whether anything but messages and the need for an acknowledgement can have come of it.

        Raises:
            RemoteProtocolError: the peer broke the protocol; the connection must be closed.
        """
        whole = parse_lone_message(opened.plaintext) if self._peer_started else None
        if whole is not None:
            eliciting = True
            channel, sequence, content = whole
            self.arrived += self.receiving.on_whole(channel, sequence, content)
        else:
            eliciting = self._on_frames(opened.plaintext, now)
        number, newest = opened.number, self._newest
        if eliciting:
            self._acks.on_record(opened.segments, size, number == newest + 1)
        if number > newest:
            self._newest = number
        return whole is None or self._acks.now

    def _on_frames(self, plaintext: bytes, now: float) -> bool:
        """Returns whether any of the frames elicits an ack."""
        try:
            frames = parse_frames(plaintext)
        except DecodeError as error:
            raise RemoteProtocolError(f"a record that is not frames: {error}") from error
        eliciting = False
        for frame in frames:
            if type(frame) is MessagePart:
                eliciting = True
                if not self._peer_started:
                    raise RemoteProtocolError("a message before the session was started")
                self.arrived += self.receiving.on_part(frame)
            elif type(frame) is Ack:
                self._on_ack(frame, now)
            elif type(frame) is Taken:
                eliciting = True
                self.sending.on_taken(frame.channel, frame.next_sequence)
            else:
                eliciting = self._on_frame(frame, now) or eliciting
        return eliciting

    def on_burst_end(self, now: float) -> bool:
        """Nothing more is waiting to be read: decide whether to acknowledge at once. True if a record must leave."""
        session, acks = self.session, self._acks
        if session is None:
            return False
        milliseconds = session.receiver.wants_single(now)
        if milliseconds is not None:
            self.signal(SingleOnly(milliseconds))
        acks.on_burst_end(now)
        recovery = self.recovery
        if recovery is not None and recovery.probes > 1 and recovery.on_heard():
            self._probes_due = 1
            return True
        return acks.now or self._controls.urgent

    def on_incomplete(self, datagrams: int) -> None:
        """Segments came that did not complete a record."""
        self._acks.on_incomplete(datagrams)

    def _on_frame(self, frame: Frame, now: float) -> bool:
        """A frame other than the three hot ones. Returns whether it elicits an ack."""
        if isinstance(frame, Grant):
            self.sending.on_grant(frame.channel, frame.sequence, frame.limit)
        elif isinstance(frame, UnreliablePart):
            content = self.unreliable_in.on_part(frame)
            if content is not None:
                self.arrived_unreliable.append((frame.channel, content))
        elif isinstance(frame, SessionStart):
            self._on_session_start(frame)
        elif isinstance(frame, Withdrawn):
            self.arrived += self.receiving.on_withdrawn(frame.channel, frame.sequence)
            self._controls.soon(now)
        elif isinstance(frame, Window):
            self._acks.peer_window = frame.size
        elif isinstance(frame, SingleOnly):
            self._allowance.single_only_until = now + min(frame.milliseconds, 60_000) / 1000
        elif not isinstance(frame, (Ping, Padding)):
            self.signals.append(frame)
        return ack_eliciting(frame)

    def _on_session_start(self, frame: SessionStart) -> None:
        if self._peer_started:
            return
        self._peer_started = True
        assert self.recovery is not None
        self.recovery.peer_ack_delay = min(frame.max_ack_delay_us / 1e6, 1.0)
        self.peer_max_message = frame.max_message_size
        self.sending.fail_larger(frame.max_message_size)
        if frame.receive_buffer:
            self._allowance.set_buffer(frame.receive_buffer)
        if frame.memory != self._peer_memory:
            if self._peer_memory != NO_MEMORY:
                self._restart()
            self._peer_memory = frame.memory
        told = set()
        # Statements about an earlier memory of ours mean nothing now.
        for state in frame.channels if frame.about == self._memory else ():
            told.add(state.channel)
            self.sending.synchronise(state.channel, state.expected)
            self.receiving.synchronise(state)
        for number in [number for number in self.sending.channels if number not in told]:
            self.sending.synchronise(number, None)
        self.sending.set_windows(frame.channel_window, frame.connection_window)

    def _on_ack(self, ack: Ack, now: float) -> None:
        recovery, session = self.recovery, self.session
        assert recovery is not None
        assert session is not None
        outcome = recovery.on_ack(ack, session.next_number, session.next_transmission, now)
        sending = self.sending
        for record in outcome.opened:
            for message, start, end in record.chunks:
                sending.on_acked(message, start, end)
            for unreliable in record.unreliable:
                self.unreliable_out.on_acked(unreliable)
            if record.ack_mark is not None:
                session.receiver.on_ack_acked(record.ack_mark)
            for control in record.controls:
                if type(control) is SessionStart:
                    self._start_acked = True
        self._apply(outcome)

    def _apply(self, outcome: AckOutcome) -> None:
        for record in outcome.again:
            self._send_again(record)
        self._resends.extend(outcome.lost_segments)
        if outcome.again or outcome.lost_segments or outcome.opened:
            self._allowance.wake_at = None

    def _send_again(self, record: SentRecord) -> None:
        """The record is given up: queue its information."""
        for message, start, end in record.chunks:
            self.sending.on_lost(message, start, end)
        for unreliable in record.unreliable:
            self.unreliable_out.on_lost(unreliable)
        for control in record.controls:
            if isinstance(control, SessionStart):
                self._start_due = not self._start_acked
            else:
                self._controls.on_lost(control)
            self._controls.urgent = True

    def _on_budget_freed(self) -> None:
        self.receiving.retry_grants()
        if self.receiving.grants_dirty:
            self._controls.urgent = True
            self._wake()

    # --- timers

    def next_timer(self) -> float | None:
        """When :meth:`on_timer` must be called."""
        expiry = self.sending.next_expiry()
        recovery = self.recovery
        if recovery is None:
            return expiry
        # One comparison after the other: it is asked for with every message.
        when = recovery.next_timer()
        if when is None:
            when = inf
        if expiry is not None and expiry < when:
            when = expiry
        if (other := self._acks.at) is not None and other < when:
            when = other
        if (other := self._controls.at) is not None and other < when:
            when = other
        if (other := self._allowance.wake_at) is not None and other < when:
            when = other
        if (other := recovery.path.discovery.next_timer()) is not None and other < when:
            when = other
        return when if when < inf else None

    def may_wait(self, when: float, now: float) -> bool:
        """Whether no deadline comes before ``when``, as far as can be told without working them out.

        What traffic sets anew is no nearer than the shorter of two delays; of everything else there must be nothing.
        """
        recovery = self.recovery
        return (
            recovery is not None
            and when <= now + self._config.max_ack_delay
            and recovery.may_wait(when, now)
            and self._allowance.wake_at is None
            and self.sending.next_expiry() is None
        )

    def on_timer(self, now: float) -> None:
        """Time has passed."""
        self.sending.expire(now)
        self._controls.on_timer(now)
        allowance = self._allowance
        if allowance.wake_at is not None and allowance.wake_at <= now:
            allowance.wake_at = None
        self._acks.on_timer(now)
        recovery = self.recovery
        if recovery is not None:
            due = recovery.next_timer()
            if due is not None and due <= now:
                outcome, probe = recovery.on_timer(now)
                self._apply(outcome)
                if probe:
                    self._probes_due = 2 if recovery.probes <= 2 else 1  # after that it is an outage, not bad luck

    # --- output

    def is_idle(self, now: float) -> bool:
        """True if nothing waits to be sent. Quicker than to have :meth:`poll_transmit` find that out."""
        path = self.path
        if path is None:
            return True
        if self._acks.now or self._controls.urgent or self._start_due or self._probes_due or self._resends:
            return False
        if self.sending.rotation or self.unreliable_out.queue:
            return False
        if now >= path.discovery.due_at and path.discovery.probe_due(now) is not None:
            return False
        self._idle()
        return True

    def poll_transmit(self, now: float) -> tuple[bytes, int] | None:
        """The next batch for the path: datagrams back to back and the size of one. None if nothing may go now."""
        if self._sealed is not None:
            self._note_sealed(self._sealed)
        session, recovery = self.session, self._recovery
        if session is None or recovery is None:
            return None
        if self._probes_due:
            self._probes_due -= 1
            return self._probe(session, recovery, now)
        if self._acks.now or self._controls.urgent or self._start_due:
            return self._single(session, recovery, now)
        discovery = recovery.path.discovery
        # Before pacing is asked: the timer that woke us for this must find it done.
        if now >= discovery.due_at and (size := discovery.probe_due(now)) is not None and self._peer_started:
            return self._probe_mtu(session, recovery, size, now)
        allowance, sending = self._allowance, self.sending
        if allowance.wake_at is not None:
            if allowance.wake_at > now:
                return None
            allowance.wake_at = None
        if recovery.records and session.next_number - next(iter(recovery.records)) > STALE_RECORDS:
            for record in recovery.stale(session.next_number):
                self._send_again(record)
        if not (self._resends or sending.rotation or self.unreliable_out.queue):
            self._idle()
            return None
        if not self._peer_started:
            return None
        mtu = discovery.mtu
        brief = sending.brief(mtu - SHARED) if not self._resends else None
        if brief is not None and allowance.one(recovery, mtu):
            alone = self._start_acked and recovery.probes < 2 and not self.unreliable_out.queue
            if alone and self._acks.waits(now) and (taken := sending.take_brief(brief)) is not None:
                return self._seal(session, recovery, taken[0], [taken[1]], [], [], None, now)
            return self._single(session, recovery, now)
        segments = allowance.datagrams(recovery, sending.next_size, now)
        if not segments:
            return None
        if self._resends:
            # Another channel's few words must not wait for all that a large message has lost.
            if self._resent and sending.give_turn_to_brief(single_room(mtu) // 2):
                self._resent = False
                return self._single(session, recovery, now)
            self._resent = True
            resent = self._resend(session, recovery, segments, now)
            if resent is not None:
                return resent
        if segments > 1 and not self.unreliable_out.queue:
            batch = self._bulk(session, recovery, segments, now)
            if batch is not None:
                return batch
        return self._single(session, recovery, now)

    def _bulk(self, session: Session, recovery: Recovery, segments: int, now: float) -> tuple[bytes, int] | None:
        """A record of several datagrams with parts of one channel, if there is enough for one."""
        if self.sending.next_size() <= recovery.path.mtu - SHARED:
            return None
        out: list[bytes | memoryview] = []
        chunks: list[Chunk] = []
        controls: list[Frame] = []
        room = segments * segment_room(recovery.path.mtu) - TAG
        if not self._start_acked:
            start = self.session_start()
            controls.append(start)
            out.append(serialise(start))
            room -= len(out[-1])
        window = self._allowance.window(recovery)
        if not 0.75 * window <= self._told_window <= 1.5 * window:
            self._told_window = window
            out.append(serialise(Window(window)))
            room -= len(out[-1])
        used = self.sending.fill(room, out, chunks, one_channel=True)
        if not used:
            self._idle()
            return None
        return self._seal(session, recovery, b"".join(out), chunks, controls, [], None, now)

    def _single(self, session: Session, recovery: Recovery, now: float) -> tuple[bytes, int] | None:
        """A record of one datagram: ack, control frames, and what data still fits and may go."""
        acks, news = self._acks, self._controls
        # Between questions and answers that follow each other fast, acknowledgements and news are worth waiting for.
        terse = not news.urgent and self._start_acked and acks.waits(now)
        acking = not terse and acks.owed
        room = single_room(recovery.size_that_arrives(acking))
        out: list[bytes | memoryview] = []
        chunks: list[Chunk] = []
        controls: list[Frame] = []
        unreliable: list[OutgoingUnreliable] = []
        ack_mark = None
        if not self._start_acked:
            start = self.session_start()
            controls.append(start)
            out.append(serialise(start))
            room -= len(out[-1])
            self._start_due = False
        if acking:
            ack = session.receiver.build_ack(now)
            if ack is None:
                acks.on_sent(now)
            else:
                out.append(packed(ack, room))
                room -= len(out[-1])
                ack_mark = session.receiver.mark()
        if not terse:
            room -= news.fill(room, out, controls, self._peer_started)
        if self._peer_started and self._allowance.has_room(recovery):
            if self.unreliable_out.queue:
                room -= self.unreliable_out.fill(room, out, unreliable, now)
            if self.sending.rotation:
                self.sending.fill(room, out, chunks, one_channel=False)
        if not (chunks or controls or unreliable):
            if not (out and acks.now):  # an ack that may still travel with something waits for it
                self._idle()
                return None
            self._acks_alone += 1
            if self._acks_alone % PING_EVERY == 0 and session.receiver.ranges > PING_EVERY and room:
                controls.append(Ping())
                out.append(serialise(controls[-1]))
        if acking:
            acks.on_sent(now)
        return self._seal(session, recovery, b"".join(out), chunks, controls, unreliable, ack_mark, now)

    def _seal(
        self,
        session: Session,
        recovery: Recovery,
        plaintext: bytes,
        chunks: list[Chunk],
        controls: list[Frame],
        unreliable: list[OutgoingUnreliable],
        ack_mark: tuple[int, int] | None,
        now: float,
    ) -> tuple[bytes, int]:
        if len(plaintext) < MIN_PLAINTEXT:
            plaintext = plaintext.ljust(MIN_PLAINTEXT, b"\x00")
        header, ciphertext, wire = session.seal(plaintext, recovery.path.discovery.mtu)
        self._sealed = header, ciphertext if header.count > 1 else None, chunks, controls, unreliable, ack_mark, now
        self.datagrams_sent += header.count
        self.bytes_sent += len(wire)
        return wire, RECORD_OVERHEAD + header.size

    def _note_sealed(self, sealed: Sealed) -> None:
        """Note the record that was sealed last: when it is on its way, but before anybody asks what is."""
        self._sealed = None
        session, recovery, record = self.session, self._recovery, SentRecord(*sealed)
        assert session is not None
        assert recovery is not None
        header, segments = record.header, ONE
        size = total = RECORD_OVERHEAD + header.size
        if record.ciphertext is not None:
            segments, total = range(header.count), RECORD_OVERHEAD * header.count + len(record.ciphertext)
        if record.chunks or record.controls or record.unreliable:
            recovery.records[header.number] = record
            recovery.on_sent(record, header.first, segments, size, total, record.sent_at)
        recovery.skips.after_record(header.count, session.skip)

    def _resend(self, session: Session, recovery: Recovery, segments: int, now: float) -> tuple[bytes, int] | None:
        """Lost segments again, as stored bytes under new transmission numbers."""
        parts: list[bytes] = []
        first = session.next_transmission
        groups: list[tuple[SentRecord, list[int], int]] = []
        while self._resends and len(parts) < segments:
            record, segment = self._resends[0]
            header = record.header
            if header.number not in recovery.records or record.ciphertext is None:
                self._resends.popleft()
                continue
            if header.epoch != session.keys.epoch or header.size + RESEND_OVERHEAD > recovery.path.mtu:
                # Sealed for keys or a path that are gone.
                self._resends.popleft()
                recovery.give_up(record)
                self._send_again(record)
                continue
            if parts and header.size != groups[0][0].header.size:
                break
            self._resends.popleft()
            datagram = resend_segment(header, record.ciphertext, segment, session.next_transmission)
            session.next_transmission += 1
            if groups and groups[-1][0] is record:
                groups[-1][1].append(segment)
            else:
                groups.append((record, [segment], session.next_transmission - 1))
            parts.append(datagram)
            record.resent = True
            if len(datagram) < RESEND_OVERHEAD + header.size:
                break  # a shorter datagram can only be the last of a batch
        if not parts:
            return None
        size = len(parts[0])
        for record, numbers, start in groups:
            length = min(size, RESEND_OVERHEAD + record.header.size)
            recovery.on_sent(record, start, tuple(numbers), length, length * len(numbers), now)
        self.datagrams_sent += session.next_transmission - first
        wire = b"".join(parts)
        self.bytes_sent += len(wire)
        return wire, size

    def _probe(self, session: Session, recovery: Recovery, now: float) -> tuple[bytes, int] | None:
        """RFC 9002 section 6.2.4: something that elicits an ack, preferably what was not acknowledged longest."""
        for record in recovery.oldest(1):
            if record.header.count > 1:
                if not self._probes_due:
                    break  # our address may have changed, which only a new record of one datagram proposes
                pending = [
                    segment
                    for flight in record.flights
                    for bit, segment in enumerate(flight.segments)
                    if flight.pending >> bit & 1
                ]
                if pending:
                    self._resends.appendleft((record, pending[self._probes_due % len(pending)]))
                    resent = self._resend(session, recovery, 1, now)
                    if resent is not None:  # else it was sealed for a path or keys that are gone
                        return resent
            else:
                chunks: list[Chunk] = []
                controls: list[Frame] = [c for c in record.controls if not isinstance(c, (Ping, Window))]
                out: list[bytes | memoryview] = [serialise(control) for control in controls]
                for message, start, end in record.chunks:
                    if message.sequence >= 0 and not message.withdrawn and not message.arrived:
                        size = end - start
                        out.append(message_part_header(message.channel, message.sequence, start, message.size, size))
                        out.append(memoryview(message.content)[start:end])
                        chunks.append((message, start, end))
                plaintext = b"".join(out)
                limit = recovery.path.mtu if self._probes_due else recovery.size_that_arrives(False)
                if plaintext and len(plaintext) <= single_room(limit):
                    return self._seal(session, recovery, plaintext, chunks, controls, [], None, now)
        return self._seal(session, recovery, serialise(Ping()), [], [Ping()], [], None, now)

    def _probe_mtu(self, session: Session, recovery: Recovery, size: int, now: float) -> tuple[bytes, int]:
        """A padded record of one datagram of ``size`` bytes, outside the congestion window (RFC 8899 section 3)."""
        plaintext = serialise(Ping()).ljust(single_room(size), b"\x00")
        header, _, wire = session.seal(plaintext, size)
        record = SentRecord(header, None, [], [], [], None, now)
        record.probe = size
        recovery.records[header.number] = record
        recovery.on_sent(record, header.first, ONE, size, size, now)
        recovery.path.discovery.on_probe_sent()
        self.datagrams_sent += 1
        self.bytes_sent += size
        return wire, size

    def _idle(self) -> None:
        recovery = self.recovery
        assert recovery is not None
        recovery.note_app_limited()
        recovery.path.pacer.on_idle()
