"""Every reliable message is taken exactly once and in the order of its channel, or is reported as failed: whatever the
network, the application and the machine do.

:class:`Talk` is the oracle. It sends, takes, remembers both, and compares: the endpoints' own opinion counts only where
they report a message settled. Sizes, links, faults and their times come from hypothesis, derandomised; everything else
from the simulation's seed. All time is virtual.
"""

from __future__ import annotations

import os
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from srmudp.config import KIB, Config
from srmudp.protocol.events import Failure, MessageArrived, MessageSettled
from srmudp.wire.packet import PUBLIC_KEY
from tests.endpoints import WireWatcher, add, make_node, peer_of, status
from tests.simnet import Link, Nat, SimNet, SimNode

TINY = Config(channel_window=64 * KIB, connection_window=64 * KIB, max_message_size=400 * KIB, receive_budget=400 * KIB)
"""Flow control at its limits: every message of some size needs a grant, and there is room for one large one."""
NARROW = replace(TINY, connection_window=96 * KIB, receive_budget=464 * KIB)
EXHAUSTIVE = bool(os.environ.get("SRMUDP_EXHAUSTIVE"))
QUIET = 10.0
"""Seconds of silence at the end, in which hardly anything may happen."""


@dataclass
class Sent:
    """One message given to ``send_message``."""

    token: int
    channel: int
    content: bytes
    reliable: bool
    ttl: float | None
    at: float


@dataclass
class Program:
    """One run of the program at one end: what it was told to send, what it was handed and what it took."""

    sim: SimNode
    sent: list[Sent] = field(default_factory=list)
    handed: list[tuple[int, bytes]] = field(default_factory=list)
    taken: list[tuple[int, bytes]] = field(default_factory=list)
    ends: dict[int, Failure | None] = field(default_factory=dict)
    timers: int = 0


class Talk:
    """Two programs, the network between them, and everything they said.

    Args:
        slow: seconds the applications take for each message before they have it.
        nat: b sits behind a home router.
    """

    def __init__(
        self,
        seed: int,
        link: Link,
        *,
        config: Config | None = None,
        slow: float = 0.0,
        nat: bool = False,
        job_delay: float = 0.0,
        timer_lag: float = 0.0,
        gro: bool = True,
        mtu: int = 1200,
    ) -> None:
        self.net = SimNet(seed, link=link)
        self.link = link
        self.watcher = WireWatcher(self.net)
        self.chance = random.Random(f"talk {seed}")
        self.slow = slow
        if nat:
            self.net.add_nat("home", "203.0.113.1", Nat(mapping="EIM", filtering="APDF"))
            self.net.add_host("b", "192.168.1.2", behind="home")
        self._options: dict[str, Any] = {
            "config": config,
            "job_delay": job_delay,
            "timer_lag": timer_lag,
            "gro": gro,
            "max_mtu": mtu,
            "on_event": self._on_event,
        }
        self.programs: tuple[list[Program], list[Program]] = ([], [])
        self._by_sim: dict[SimNode, Program] = {}
        self._serial = 0
        for side in (0, 1):
            self._start(side)
        self._add(0)
        self._add(1)

    # --- the world

    def _start(self, side: int) -> None:
        sim = make_node(self.net, "ab"[side], ("198.51.100.1", "198.51.100.2")[side], **self._options)
        program = Program(sim)
        original = sim.node.handle_timer

        def counted(now: float) -> None:
            program.timers += 1
            original(now)

        sim.node.handle_timer = counted
        self.programs[side].append(program)
        self._by_sim[sim] = program

    def _add(self, side: int) -> None:
        add(self[side].sim, self[1 - side].sim, pin=True)

    def __getitem__(self, side: int) -> Program:
        """The living program of a side."""
        return self.programs[side][-1]

    def restart(self, side: int) -> None:
        """Kill the program of a side without a word and start it again."""
        self[side].sim.detach()
        self._start(side)
        self._add(side)

    def _on_event(self, sim: SimNode, event: Any) -> None:
        program = self._by_sim[sim]
        if isinstance(event, MessageSettled):
            assert event.token not in program.ends, f"settled twice: {event}"
            program.ends[event.token] = event.failure
        elif isinstance(event, MessageArrived):
            program.handed.append((event.channel, event.content))
            if self.slow:
                self.net.after(self.chance.random() * self.slow, lambda: self._take(program, event))
            else:
                self._take(program, event)

    def _take(self, program: Program, event: MessageArrived) -> None:
        if program.sim.attached:
            program.taken.append((event.channel, event.content))
            program.sim.node.message_taken(event, self.net.now)

    # --- talking

    def content(self, size: int, *, reliable: bool) -> bytes:
        """Bytes of about this size that no other message of this talk has; below 12 bytes they may be the same."""
        self._serial += 1
        mark = (b"reliable" if reliable else b"unreliab") + self._serial.to_bytes(4, "big")
        return (mark + self.chance.randbytes(max(0, size - 12)))[: max(size, 0 if reliable else 12)]

    def send(self, side: int, size: int, *, channel: int = 0, reliable: bool = True, ttl: float | None = None) -> Sent:
        """One message from this side to the other."""
        program = self[side]
        content = self.content(size, reliable=reliable)
        token = program.sim.do(
            program.sim.node.send_message, "ba"[side], content, channel=channel, reliable=reliable, ttl=ttl
        )
        sent = Sent(token, channel, content, reliable, ttl, self.net.now)
        program.sent.append(sent)
        return sent

    @property
    def done(self) -> bool:
        """True once everything the living programs were told to send is settled."""
        return all(len(self[side].ends) == len(self[side].sent) for side in (0, 1))

    def finish(self, limit: float = 120.0) -> None:
        """Run until everything is settled and taken; fail with what is known if that takes longer than ``limit``."""
        assert self.net.run_until(lambda: self.done, limit), f"not settled after {limit} s: {self}"

    # --- what must be true

    def check(self, *, may_fail: frozenset[Failure] = frozenset({Failure.EXPIRED}), one_answer: bool = False) -> None:
        """The promise, message by message, for every run of both programs.

        Args:
            one_answer: every PUNCH got the same PUBLIC_KEY all its life. Not so, and rightly, if it lived longer than
                the half-open session, if that was refused, or if the program that answered was restarted.
        """
        for side in (0, 1):
            for sender in self.programs[side]:
                self._check_order(sender, self.programs[1 - side])
            for end_of in self[side].sent:
                self._check_end(self[side], end_of, self.programs[1 - side], may_fail)
            for receiver in self.programs[1 - side]:
                known = Counter((s.channel, s.content) for program in self.programs[side] for s in program.sent)
                assert not Counter(receiver.handed) - known, f"more than was ever sent: {self}"
        if not one_answer:
            self.watcher.violations = [text for text in self.watcher.violations if f"{PUBLIC_KEY:#x}" not in text]
        self.watcher.check(records=0)

    @staticmethod
    def _check_order(sender: Program, receivers: list[Program]) -> None:
        """No run of the receiver is handed anything twice or out of its channel's order."""
        for receiver in receivers:
            for channel in {s.channel for s in sender.sent}:
                order = {s.content: n for n, s in enumerate(sender.sent) if s.channel == channel and s.reliable}
                got = [order[c] for ch, c in receiver.handed if ch == channel and len(c) >= 12 and c in order]
                assert got == sorted(set(got)), f"channel {channel}: handed out in the order {got}"
                unreliable = Counter(c for ch, c in receiver.handed if ch == channel and c.startswith(b"unreliab"))
                assert not unreliable or max(unreliable.values()) == 1, "an unreliable message came twice"

    def _check_end(self, sender: Program, sent: Sent, receivers: list[Program], may_fail: frozenset[Failure]) -> None:
        failure = sender.ends[sent.token]
        if not sent.reliable:
            assert failure in (None, Failure.LOST, Failure.EXPIRED, Failure.DROPPED, *may_fail), failure
            return
        times = [receiver.taken.count((sent.channel, sent.content)) for receiver in receivers]
        if failure is None:
            if len(sent.content) >= 12:
                assert sum(times) >= 1, f"delivered, yet nobody took it: {sent.token} of {len(sent.content)} bytes"
                assert max(times) == 1, f"taken {times} times"
        else:
            assert failure in may_fail, f"{failure}: {self}"
            if failure is Failure.EXPIRED:
                assert sent.ttl is not None

    def check_small(self) -> None:
        """Messages too small to be told apart: as many of each as were sent, at each end that was never restarted."""
        for side in (0, 1):
            if len(self.programs[0]) == len(self.programs[1]) == 1:
                sent = Counter((s.channel, s.content) for s in self[side].sent if s.reliable and s.ttl is None)
                got = Counter(self[1 - side].taken)
                assert not sent - got, f"missing {[(c, len(x)) for c, x in (sent - got).elements()]}"

    def check_idle(self) -> None:
        """Nothing is held or owed any more, and nobody is busy with nothing."""
        net = self.net
        assert net.run_until(lambda: all(status(self[s].sim, "ba"[s]).established for s in (0, 1)), 60.0), str(self)
        assert net.run_until(lambda: self._nothing_owed(), 20.0), f"still held: {self._owed()}"
        timers = [self[side].timers for side in (0, 1)]
        sent = net.counts["sent"]
        net.run(QUIET)
        assert net.run_until(lambda: self._nothing_owed(), 20.0), f"owed again: {self._owed()}"  # but for a keepalive
        # A keepalive or two; where they are lost, probes until one comes through, and the search for the largest MTU.
        most = 60 if self.link.loss + self.link.corrupt < 0.1 else 300
        assert max(self[side].timers - timers[side] for side in (0, 1)) <= most, "timers go round in circles"
        assert net.counts["sent"] - sent <= most, f"{net.counts['sent'] - sent} datagrams about nothing"

    def _nothing_owed(self) -> bool:
        return not any(any(owed.values()) for owed in self._owed())

    def _owed(self) -> list[dict[str, int]]:
        found = []
        for side in (0, 1):
            sim = self[side].sim
            if "ba"[side] not in sim.node.statuses(self.net.now):
                continue
            connection = peer_of(sim, "ba"[side]).connection
            config = sim.node.config
            found.append(
                {
                    "pending": sim.node.pending,
                    "budget": config.receive_budget - sim.node.budget.free,
                    "send credit": connection.sending.charged,
                    "channel credit": sum(channel.charged for channel in connection.sending.channels.values()),
                    "queued": connection.queued_bytes,
                    "receive credit": connection.receiving.charged,
                    "unreliable waiting": connection.unreliable_in.waiting_bytes,
                    "in flight": connection.recovery.in_flight if connection.recovery is not None else 0,
                }
            )
        return found

    def __repr__(self) -> str:
        lines = [f"seed {self.net.seed}, now {self.net.now:.3f}, net {dict(self.net.counts)}"]
        for side in (0, 1):
            program = self[side]
            lines.append(
                f"{'ab'[side]}: {len(program.sent)} sent, {len(program.ends)} settled, {len(program.taken)} taken, "
                f"drops {dict(program.sim.node.drops)}"
            )
            open_ = [s for s in program.sent if s.token not in program.ends][:8]
            lines.append(f"  open: {[(s.token, s.channel, len(s.content), s.reliable) for s in open_]}")
            if "ba"[side] in program.sim.node.statuses(self.net.now):
                lines.append(f"  {status(program.sim, 'ba'[side])}")
        lines.append(f"owed {self._owed()}")
        return "\n".join(lines)


# --- what may happen


links = st.builds(
    Link,
    latency=st.sampled_from((0.0, 0.0005, 0.01, 0.03, 0.08)),
    jitter=st.sampled_from((0.0, 0.001, 0.02)),
    loss=st.sampled_from((0.0, 0.0, 0.01, 0.05, 0.15, 0.3)),
    reorder=st.sampled_from((0.0, 0.02, 0.2)),
    reorder_delay=st.sampled_from((0.002, 0.03)),
    duplicate=st.sampled_from((0.0, 0.02, 0.3)),
    corrupt=st.sampled_from((0.0, 0.0, 0.01, 0.05)),
    rate=st.sampled_from((None, None, 60e3, 1e6, 20e6)),
    queue_bytes=st.sampled_from((20_000, 100_000, None)),
    mtu=st.sampled_from((None, 1200, 1252, 1472)),
    coalesce=st.sampled_from((0.0, 0.0, 0.001)),
)
sizes = st.one_of(
    st.sampled_from((0, 1, 11, 12, 100, 1100, 1154, 1155, 1200, 5000)),
    st.integers(12, 3000),
    st.integers(12, 300_000),
)


@dataclass(frozen=True)
class Plan:
    """One message of a mix: who, how large, in which channel, how, and how long after the one before."""

    side: int
    size: int
    channel: int
    reliable: bool
    ttl: float | None
    pause: float


plans = st.builds(
    Plan,
    side=st.integers(0, 1),
    size=sizes,
    channel=st.sampled_from((0, 0, 1, 2, 63)),
    reliable=st.sampled_from((True, True, True, False)),
    ttl=st.sampled_from((None, None, None, None, 0.02, 0.5, 5.0)),
    pause=st.sampled_from((0.0, 0.0, 0.0, 0.01, 0.3)),
)


def bounded(mix: list[Plan], most: int) -> list[Plan]:
    """The mix with its large messages cut down so that all together have at most ``most`` bytes."""
    total, found = 0, []
    for plan in mix:
        size = min(plan.size, max(0, most - total))
        total += size
        found.append(replace(plan, size=size))
    return found


def play(talk: Talk, mix: list[Plan]) -> None:
    """Send a mix as planned."""
    for plan in mix:
        if plan.pause:
            talk.net.run(plan.pause)
        talk.send(plan.side, plan.size, channel=plan.channel, reliable=plan.reliable, ttl=plan.ttl)


def bytes_for(link: Link) -> int:
    """How much may be sent over a link in an example: bad ones take long."""
    if link.loss + link.corrupt > 0.1 or (link.rate or 1e9) < 1e5:
        return 150_000
    return 600_000


def examples(number: int) -> settings:
    """The same examples in every run; with SRMUDP_EXHAUSTIVE=1 in the environment 25 times as many, and new ones."""
    return settings(
        max_examples=25 * number if EXHAUSTIVE else number,
        derandomize=not EXHAUSTIVE,
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate),  # shrinking takes minutes; the seed is enough
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


# --- the properties


@examples(40)
@given(
    seed=st.integers(0, 1 << 16),
    link=links,
    mix=st.lists(plans, min_size=1, max_size=25),
    slow=st.sampled_from((0.0, 0.0, 0.05, 1.0)),
    config=st.sampled_from((Config(), Config(congestion="cubic"), TINY, NARROW)),
    lag=st.sampled_from((0.0, 0.0, 0.012)),
    job_delay=st.sampled_from((0.0, 0.05)),
    gro=st.booleans(),
    mtu=st.sampled_from((1200, 1472)),
)
def test_any_mix_over_any_link(
    seed: int,
    link: Link,
    mix: list[Plan],
    slow: float,
    config: Config,
    lag: float,
    job_delay: float,
    gro: bool,
    mtu: int,
) -> None:
    talk = Talk(seed, link, config=config, slow=slow, timer_lag=lag, job_delay=job_delay, gro=gro, mtu=mtu)
    play(talk, bounded(mix, bytes_for(link)))
    talk.finish(300.0)
    talk.check(one_answer=not link.loss)
    talk.check_small()
    talk.check_idle()
    event("lossy" if link.loss else "clean")


@examples(20)
@given(
    seed=st.integers(0, 1 << 16),
    link=links,
    mix=st.lists(plans, min_size=4, max_size=20),
    outages=st.lists(
        st.tuples(
            st.sampled_from((0.01, 0.2, 2.0)),
            st.sampled_from(("both", "there", "back", "rebind", "asleep")),
            st.sampled_from((0.1, 1.0, 6.0, 25.0)),
        ),
        min_size=1,
        max_size=3,
    ),
    slow=st.sampled_from((0.0, 0.3)),
)
def test_outages_and_rebinding(
    seed: int, link: Link, mix: list[Plan], outages: list[tuple[float, str, float]], slow: float
) -> None:
    """The path is cut (in one direction or both), the NAT forgets its mapping, a machine sleeps: in mid-transfer."""
    talk = Talk(seed, link, slow=slow, nat=True)
    net = talk.net
    mix = bounded(mix, bytes_for(link))
    part = len(mix) // (len(outages) + 1) + 1
    play(talk, mix[:part])
    for number, (wait, what, seconds) in enumerate(outages, 1):
        net.run(wait)
        if what == "rebind":
            net.nats["home"].rebind()
        elif what == "asleep":
            net.sleep("b", seconds)
        elif what == "both":
            net.partition("a", "b")
        else:
            net.partition(*("ab" if what == "there" else "ba"), both=False)
        play(talk, mix[number * part : (number + 1) * part])
        net.run(seconds)
        net.heal()
    talk.finish(300.0)
    talk.check()
    talk.check_small()
    talk.check_idle()


@examples(20)
@given(
    seed=st.integers(0, 1 << 16),
    link=links,
    mix=st.lists(plans, min_size=4, max_size=20),
    restarts=st.lists(st.tuples(st.integers(0, 1), st.sampled_from((0.005, 0.1, 1.0, 8.0))), min_size=1, max_size=3),
    slow=st.sampled_from((0.0, 0.3, 3.0)),
    config=st.sampled_from((Config(), TINY)),
)
def test_restarted_programs(
    seed: int,
    link: Link,
    mix: list[Plan],
    restarts: list[tuple[int, float]],
    slow: float,
    config: Config,
) -> None:
    """A program is killed and started again with its identity: what it had not taken comes again, and nothing twice."""
    talk = Talk(seed, link, slow=slow, config=config)
    net = talk.net
    mix = bounded(mix, bytes_for(link))
    part = len(mix) // (len(restarts) + 1) + 1
    play(talk, mix[:part])
    for number, (side, wait) in enumerate(restarts, 1):
        net.run(wait)
        talk.restart(side)
        play(talk, mix[number * part : (number + 1) * part])
    talk.finish(300.0)
    talk.check()
    talk.check_idle()


def test_what_was_settled_before_a_restart_never_comes_again() -> None:
    """The receiver restarts after the sender was told that messages were taken: only the others come to the new run."""
    talk = Talk(5, Link(latency=0.02, loss=0.05), slow=0.5)
    for number in range(40):
        talk.send(0, 2000, channel=number % 3)
    assert talk.net.run_until(lambda: len(talk[0].ends) >= 17, 60)
    settled = {s.content for s in talk[0].sent if s.token in talk[0].ends}
    talk.restart(1)
    talk.finish()
    talk.check()
    second = [content for _, content in talk[1].handed]
    assert not settled & set(second)
    assert 0 < len(second) <= 40 - len(settled)
    talk.check_idle()


def test_a_slow_reader_stops_its_senders_and_nothing_else() -> None:
    """With both windows full of what one application does not take, the other direction and the acks go on."""
    talk = Talk(6, Link(latency=0.01), config=TINY)
    held: list[MessageArrived] = []
    program = talk[1]
    program.sim.on_event = lambda sim, e: held.append(e) if isinstance(e, MessageArrived) else talk._on_event(sim, e)
    for _ in range(100):
        talk.send(0, 3000)
    talk.send(1, 200_000)
    talk.net.run(20.0)
    assert len(talk[0].taken) == 1
    assert 15 <= len(held) < 25, "64 KiB of 3,256 bytes each"
    assert not talk[0].ends
    program.sim.on_event = talk._on_event
    for event_ in held:
        talk._on_event(program.sim, event_)
    talk.net.run(0)
    talk.finish()
    talk.check()
    talk.check_idle()


@pytest.mark.parametrize("config", [TINY, NARROW], ids=["tiny", "narrow"])
@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_many_large_messages_at_once_never_lock_each_other(config: Config, loss: float) -> None:
    """Eight channels each way, each with two messages larger than the window, and room for one: all get through."""
    talk = Talk(7, Link(latency=0.005, loss=loss, rate=20e6, queue_bytes=200_000), config=config)
    for channel in range(8):
        for side in (0, 1):
            talk.send(side, 70_000 + 1000 * channel, channel=channel)
            talk.send(side, 10, channel=channel)
            talk.send(side, 90_000, channel=channel)
    talk.finish(200.0)
    talk.check()
    talk.check_small()
    talk.check_idle()


def test_grants_of_several_peers_share_one_small_budget() -> None:
    """Three senders at once with the largest messages allowed, one receiver with memory for one of them."""
    net = SimNet(8, link=Link(latency=0.005, loss=0.02))
    hub = make_node(net, "hub", "198.51.100.9", config=TINY)
    spokes = [make_node(net, f"spoke{n}", f"198.51.100.{n}", config=TINY) for n in (1, 2, 3)]
    contents = []
    for spoke in spokes:
        add(spoke, hub, pin=True)
        add(hub, spoke, pin=True)
        for channel in (0, 1):
            content = net.random.randbytes(400 * KIB)
            contents.append(content)
            spoke.do(spoke.node.send_message, "hub", content, channel=channel, reliable=True, ttl=None)
    assert net.run_until(lambda: all(len(spoke.of(MessageSettled)) == 2 for spoke in spokes), 120)
    assert Counter(event.content for event in hub.of(MessageArrived)) == Counter(contents)
    assert all(event.failure is None for spoke in spokes for event in spoke.of(MessageSettled))
    net.run(1.0)
    assert hub.node.budget.free == TINY.receive_budget


@examples(12)
@given(
    seed=st.integers(0, 1 << 16),
    link=links,
    mix=st.lists(plans, min_size=1, max_size=12),
    wait=st.sampled_from((0.0, 0.05, 1.0)),
    how=st.sampled_from(("remove", "close")),
    side=st.integers(0, 1),
)
def test_removing_and_closing_settle_everything(
    seed: int, link: Link, mix: list[Plan], wait: float, how: str, side: int
) -> None:
    """A removed peer is still brought what was queued, for a while; a closed socket fails it at once."""
    talk = Talk(seed, link)
    net = talk.net
    play(talk, bounded(mix, bytes_for(link)))
    net.run(wait)
    leaver, other = talk[side], talk[1 - side]
    if how == "remove":
        leaver.sim.do(leaver.sim.node.remove_peer, "ba"[side])
        taken = len(leaver.handed)
    else:
        leaver.sim.do(leaver.sim.node.close)
        assert len(leaver.ends) == len(leaver.sent)
        taken = len(leaver.handed)
    finished = net.run_until(lambda: len(leaver.ends) == len(leaver.sent), leaver.sim.node.timeout + 1)
    assert finished, f"not settled: {talk}"
    assert len(leaver.handed) == taken, "handed out after it was removed"
    assert leaver.sim.node.pending == 0
    assert leaver.sim.node.budget.free == leaver.sim.node.config.receive_budget
    reasons = frozenset({Failure.EXPIRED, Failure.REMOVED, Failure.CLOSED, Failure.REMOVED_US, Failure.REFUSED})
    # The other side hears of it, or keeps its messages for whenever the leaver comes back.
    net.run(30.0)
    for token in [s.token for s in other.sent if s.token not in other.ends]:
        other.ends[token] = Failure.CLOSED
    talk.check(may_fail=reasons)
    for program in (leaver, other):
        for sent in program.sent:
            if program.ends[sent.token] is Failure.EXPIRED:
                assert sent.ttl is not None
    if how == "remove" and not link.loss and not link.corrupt and link.rate is None and not wait:
        event("lingered")
        gone = [leaver.ends[s.token] for s in leaver.sent if s.reliable and s.ttl is None]
        assert gone.count(None) == len(gone), f"a good network and {leaver.sim.node.timeout} s: {gone}"


@pytest.mark.parametrize("outage", [2.0, 5.0, 9.0, 14.0])
@pytest.mark.parametrize("latency", [0.001, 0.02, 0.25])
def test_a_short_outage_is_over_when_it_is_over(latency: float, outage: float) -> None:
    """What was sent into an outage shorter than the timeout arrives within seconds after it, in the same session."""
    talk = Talk(10, Link(latency=latency))
    talk.send(0, 100)
    talk.finish()
    talk.net.run(3.0)
    generation = peer_of(talk[0].sim, "b").generation
    talk.net.partition("a", "b")
    talk.send(0, 1000)
    talk.send(1, 1000)
    talk.net.run(outage)
    talk.net.heal()
    talk.finish(2.0 + 6 * latency + 0.1)
    talk.check()
    assert peer_of(talk[0].sim, "b").generation == generation


def test_messages_expire_on_time_and_free_their_place() -> None:
    """Withdrawn messages, begun or not, hold up nothing: what follows in their channel comes through."""
    talk = Talk(9, Link(latency=0.02, loss=0.1, rate=100e3, queue_bytes=20_000), config=TINY)
    for number in range(30):
        talk.send(0, 20_000, channel=number % 2, ttl=0.4 if number % 3 else None)
    talk.send(0, 20_000, channel=0)
    talk.finish()
    talk.check()
    ends: defaultdict[bool, list[Failure | None]] = defaultdict(list)
    for sent in talk[0].sent:
        ends[sent.ttl is None].append(talk[0].ends[sent.token])
    assert set(ends[True]) == {None}
    assert Failure.EXPIRED in ends[False]
    talk.check_idle()
