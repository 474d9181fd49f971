"""A network in virtual time for any number of sans-IO endpoints: nothing sleeps, one seed decides everything.

How to use it::

    net = SimNet(seed=7, link=Link(latency=0.02, loss=0.01))     # prints "simnet seed=7"; SIMNET_SEED=... overrides
    net.add_host("a", "192.0.2.1")
    net.add_nat("home", "203.0.113.1", Nat(mapping="EIM", filtering="APDF"))          # or Nat.profile("symmetric")
    net.add_host("b", "192.168.1.2", behind="home")
    a = net.attach(Endpoint(..., random=net.entropy("a")), "a", 8000)                 # a SimNode
    b = net.attach(Endpoint(..., random=net.entropy("b")), "b", 8000, on_event=None)  # None: only collect events
    a.do(a.node.add_peer, "bob", [net.mapped(b, a.address)], None)                    # adds now=net.now, then drains
    assert net.run_until(lambda: any(a.of(PeerEvent)), timeout=5)                     # checked after every event
    net.link("a", "b", Link(rate=1e6, queue_bytes=64_000, mtu=1400)); net.access("b", up=Link(rate=1e5))
    net.partition("a", "b"); net.run(30); net.heal(); net.sleep("a", 60); net.nats["home"].rebind()
    net.tap(lambda now, source, destination, datagram: ...)       # as sent, before NAT and loss
    net.intercept(lambda now, source, destination, datagram: [])  # on the wire: [] drops, None leaves it, or a list
    net.inject(Address("198.51.100.9", 1), a.address, b"forged"); net.counts  # why datagrams were dropped

A datagram leaves its host by the host's ``up`` link, climbs through the NATs in its way (each has ``up`` and ``down``
links too), crosses the link between the two outermost hosts or NATs, and comes down in the same manner. Outbound
translation happens when a datagram leaves, inbound filtering when it arrives. Not safe for use by several threads.
"""

from __future__ import annotations

import heapq
import math
import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, cast

from srmudp.models import Address
from srmudp.protocol.events import SocketsWanted
from tests.simlinks import NAT_PROFILES, Attached, Link, Nat, Pipe, Realm, Then, count_datagrams

__all__ = ["NAT_PROFILES", "Link", "Livelock", "Nat", "Node", "SimNet", "SimNode", "Transmit", "take_messages"]

MAX_DATAGRAM = 65_507
"""Largest UDP payload over IPv4."""
GRO_BYTES = 65_535
GRO_SEGMENTS = 64
"""What Linux joins at most into one batch (UDP_GRO_CNT_MAX)."""

ROUTERS = 6
"""Between any two hosts or NATs of the public net; none inside a NAT."""

WAN = Link(latency=0.01)
LAN = Link(latency=0.0005)
"""Links where nothing else is said."""

_T = TypeVar("_T")


class Job(Protocol):
    """Expensive pure computation that a node asks its driver to run."""

    def run(self) -> Any: ...


class Outgoing(Protocol):
    """What ``poll_transmit`` gives: any named tuple of this shape."""

    @property
    def payload(self) -> bytes: ...
    @property
    def segment_size(self) -> int: ...
    @property
    def destination(self) -> Address: ...


class Transmit(NamedTuple):
    """An :class:`Outgoing` for toy nodes."""

    payload: bytes
    segment_size: int
    destination: Address


class Node(Protocol):
    """The part of the endpoint contract that the simulator drives."""

    def handle_batch(self, buffer: bytes, segment_size: int, source: Address, now: float) -> None: ...
    def handle_burst_end(self, now: float) -> None: ...
    def handle_timer(self, now: float) -> None: ...
    def next_job(self) -> Job | None: ...
    def finish_job(self, job: Any, now: float) -> None: ...
    def poll_transmit(self, now: float) -> Outgoing | None: ...
    def next_timer(self) -> float | None: ...
    def next_event(self) -> object | None: ...


class Livelock(RuntimeError):
    """A node stayed busy for ever at one instant of virtual time."""


class Host(Attached):
    """A machine: addresses, bound ports, awake or asleep."""

    net: SimNet

    def __init__(self) -> None:
        super().__init__()
        self.ports: dict[int, SimNode] = {}
        self.asleep = False

    def _arrive(self, buffer: bytes, segment_size: int, source: Address, destination: Address) -> None:
        node = self.ports.get(destination[1])
        if self.asleep:
            self.net.counts["asleep"] += count_datagrams(buffer, segment_size)
        elif node is None or destination[0] not in self.addresses:
            self.net.counts["closed"] += count_datagrams(buffer, segment_size)
        else:
            self.net.deliver(node, buffer, segment_size, source, destination)


class SimNode:
    """A node bound to a port of a host. Built by :meth:`SimNet.attach`.

    Attributes:
        node: the sans-IO machine.
        events: everything ``next_event()`` gave, oldest first.
        on_event: called with (this, event) for each of them; may issue commands to any node.
        timer_lag: seconds by which its timers fire late, as under a busy interpreter lock.
        job_delay: seconds of virtual time between ``next_job`` and ``finish_job``; other input may come between.
        gro: deliver runs of equal datagrams as one batch.
        sockets: how many more the system lets it open.
    """

    def __init__(self, net: SimNet, node: Any, host: Host, port: int) -> None:
        self.net, self.node, self.host, self.port = net, node, host, port
        self.name = f"{host.name}:{port}"
        self.events: list[Any] = []
        self.on_event: Callable[[SimNode, Any], None] | None = None
        self.timer_lag = self.job_delay = 0.0
        self.gro = True
        self.attached = True
        self.sockets = 256
        self._more: dict[Address, list[int]] = {}
        self._heard: dict[Address, int] = {}
        self._v4: Address | None = None
        self._v6: Address | None = None
        self._addressed()
        self._burst = False
        self._deadline = math.inf
        self._wake = math.inf  # when the one live timer entry on the heap is due
        self._instant = -math.inf
        self._spins = 0

    def __repr__(self) -> str:
        return f"<SimNode {self.name}, {len(self.events)} events, {self.net!r}>"

    @property
    def address(self) -> Address:
        """Where it is bound: the host's own address, which a NAT may hide."""
        address = self._v4 or self._v6
        assert address is not None
        return address

    def of(self, kind: type[_T]) -> list[_T]:
        """The events of one type, oldest first."""
        return [event for event in self.events if isinstance(event, kind)]

    def do(self, command: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
        """Call ``command(*args, now=net.now, **kwargs)`` and drain what came of it."""
        result = command(*args, now=self.net.now, **kwargs)
        self.net._pump(self)
        return result

    def detach(self) -> None:
        """Free the port, as when the program is killed: nothing is delivered or sent any more."""
        self.attached = False
        if self in self.net.nodes:
            self.net.nodes.remove(self)
        for remote in list(self._more):
            self.spread(remote, 0)
        if self.host.ports.get(self.port) is self:
            del self.host.ports[self.port]

    def spread(self, remote: Address, count: int, port: int = 0) -> int:
        """Have more sockets towards a remote, as ``srmudp.transports.fan`` does it; how many there are."""
        ports, heard = self._more.pop(remote, []), self._heard.get(remote)
        kept = [heard] if count == 1 and heard in ports and not port else []
        for one in ports:
            if one not in kept:
                del self.host.ports[one]
        if port and port not in self.host.ports:
            kept = [port]
            self.host.ports[port] = self
        elif count > 1:
            count = min(count, self.sockets)
            kept = [one for one in range(49_152, 65_536) if one not in self.host.ports][:count]
            self.host.ports.update(dict.fromkeys(kept, self))
        if count != 1 or port or not kept:
            self._heard.pop(remote, None)
        if kept:
            self._more[remote] = kept
        return len(kept)

    def _addressed(self) -> None:
        self._v4 = next((Address(a, self.port) for a in self.host.addresses if ":" not in a), None)
        self._v6 = next((Address(a, self.port) for a in self.host.addresses if ":" in a), None)


def take_messages(sim: SimNode, event: Any) -> None:
    """The usual ``on_event``: an application that takes every message at once."""
    if hasattr(event, "receipt"):
        sim.node.message_taken(event, sim.net.now)


_Watcher = Callable[[float, Address, Address, bytes], None]
_Interceptor = Callable[[float, Address, Address, bytes], "Sequence[tuple[Address, Address, bytes]] | None"]
_Entry = tuple[float, int, Callable[..., None], Any, Any, Any, Any]


class SimNet:
    """The network, its clock and everything attached to it.

    Args:
        seed: decides every random choice. The environment variable SIMNET_SEED overrides it (``random`` draws one).
        link: between any two hosts or NATs of the public net, unless :meth:`link` says otherwise.
        lan: the same inside a NAT.
        gro: deliver runs of equal datagrams as batches; ``attach`` may choose otherwise.
        on_event: what nodes do with their events; ``attach`` may choose otherwise.
        livelock: calls to one node at one instant after which :class:`Livelock` is raised.

    Attributes:
        now: virtual seconds, what ``time.monotonic()`` would say.
        counts: what became of datagrams: sent, delivered, and reasons for dropping or changing one.
    """

    def __init__(
        self,
        seed: int = 1,
        *,
        link: Link = WAN,
        lan: Link = LAN,
        gro: bool = True,
        on_event: Callable[[SimNode, Any], None] | None = take_messages,
        start: float = 1000.0,
        livelock: int = 100_000,
    ) -> None:
        chosen = os.environ.get("SIMNET_SEED", "")
        if chosen:
            seed = random.SystemRandom().randrange(1 << 32) if chosen == "random" else int(chosen)
        self.seed = seed
        print(f"simnet seed={seed}")
        self.random = random.Random(seed)
        self.now = start
        self.counts: Counter[str] = Counter()
        self.hosts: dict[str, Host] = {}
        self.nats: dict[str, Nat] = {}
        self.nodes: list[SimNode] = []
        self._gro, self._on_event, self._lan, self._limit = gro, on_event, lan, livelock
        self._public = Realm(link, None)
        self._heap: list[_Entry] = []
        self._serial = 0
        self._touched: dict[SimNode, None] = {}  # have something to do before this instant is over
        self._commanded = False  # a callback may have given commands to any node
        self._taps: list[_Watcher] = []
        self._openers: list[Callable[[float, Address, Address, bytes, int], None]] = []
        self._interceptors: list[_Interceptor] = []
        self._current: SimNode | None = None
        self._timer_entry = self._fire  # bound once, compared by identity

    def __repr__(self) -> str:
        return f"<SimNet simnet seed={self.seed} now={self.now:.6f}>"

    # --- building ---

    def add_host(self, name: str, *addresses: str, behind: str | None = None) -> Host:
        """A host with IPv4 or IPv6 addresses, on the public net or behind the NAT called ``behind``."""
        host = Host()
        self._add(host, name, addresses, behind)
        self.hosts[name] = host
        return host

    def add_nat(self, name: str, address: str, nat: Nat, behind: str | None = None) -> Nat:
        """A NAT with an address on the public net, or behind another NAT (a carrier's)."""
        nat.inside = Realm(self._lan, nat)
        self._add(nat, name, (address,), behind)
        self.nats[name] = nat
        return nat

    def _add(self, thing: Attached, name: str, addresses: tuple[str, ...], behind: str | None) -> None:
        if name in self.hosts or name in self.nats:
            raise ValueError(f"{name} exists")
        if not addresses:
            raise ValueError(f"{name} needs an address")
        thing.register(self, name, addresses, self.nats[behind].inside if behind else self._public)

    def move_host(self, name: str, *addresses: str, behind: str | None = None) -> None:
        """Give a host other addresses, elsewhere: roaming. What is on its way to the old ones is lost."""
        host = self.hosts[name]
        host.unregister()
        host.register(self, name, addresses, self.nats[behind].inside if behind else self._public)
        for sim in host.ports.values():
            sim._addressed()

    def attach(
        self,
        node: Node,
        host: str,
        port: int,
        *,
        on_event: Callable[[SimNode, Any], None] | Literal["default"] | None = "default",
        gro: bool | None = None,
        timer_lag: float = 0.0,
        job_delay: float = 0.0,
    ) -> SimNode:
        """Bind a node to a port of a host; see :class:`SimNode` for the options."""
        machine = self.hosts[host]
        if port in machine.ports:
            raise ValueError(f"port {port} of {host} is taken")
        sim = SimNode(self, node, machine, port)
        sim.on_event = self._on_event if on_event == "default" else on_event
        sim.gro = self._gro if gro is None else gro
        sim.timer_lag, sim.job_delay = timer_lag, job_delay
        machine.ports[port] = sim
        self.nodes.append(sim)
        return sim

    def entropy(self, name: str) -> Callable[[int], bytes]:
        """A seeded stand-in for ``os.urandom``, its own stream for each name."""
        return random.Random(f"{self.seed}/{name}").randbytes

    # --- links and faults ---

    def link(self, a: str, b: str, link: Link, *, both: bool = True) -> None:
        """Set the link from ``a`` to ``b`` (and back). For hosts behind NATs: between their outermost NATs."""
        for pipe in self._between(a, b, both):
            pipe.set(link)

    def access(self, name: str, *, up: Link | None = None, down: Link | None = None) -> None:
        """Links that everything leaving or reaching this host or NAT shares. None removes one."""
        thing: Attached = self.hosts[name] if name in self.hosts else self.nats[name]
        thing.leave = partial(Pipe(self, up).carry, thing.climb) if up else thing.climb
        thing.enter = partial(Pipe(self, down).carry, thing.arrive) if down else thing.arrive

    def partition(self, a: str, b: str | None = None, *, both: bool = True) -> None:
        """Cut the path from ``a`` to ``b`` (and back), or ``a`` from everything. What is on its way still arrives."""
        if b is None:
            (self.hosts[a] if a in self.hosts else self.nats[a]).cut = True
            return
        for pipe in self._between(a, b, both):
            pipe.cut = True

    def heal(self, a: str | None = None, b: str | None = None, *, both: bool = True) -> None:
        """Undo :meth:`partition`; without names every one."""
        if a is not None and b is not None:
            for pipe in self._between(a, b, both):
                pipe.cut = False
            return
        for thing in (*self.hosts.values(), *self.nats.values()):
            if a is None or thing.name == a:
                thing.cut = False
        if a is None:
            for realm in (self._public, *(nat.inside for nat in self.nats.values())):
                for pipe in realm.pipes.values():
                    pipe.cut = False

    def _between(self, a: str, b: str, both: bool) -> list[Pipe]:
        first, second = ((self.hosts[n] if n in self.hosts else self.nats[n]).chain() for n in (a, b))
        for realm, x in first:
            for other, y in second:
                if realm is other:
                    return [realm.pipe(self, x, y), realm.pipe(self, y, x)][: 1 + both]
        raise AssertionError("every chain ends in the public net")

    def sleep(self, name: str, seconds: float | None = None) -> None:
        """Suspend a host: it receives and does nothing until :meth:`resume` (called after ``seconds`` if given)."""
        self.hosts[name].asleep = True
        if seconds is not None:
            self.after(seconds, lambda: self.resume(name))

    def resume(self, name: str) -> None:
        """Wake a host: timers that came due meanwhile fire now, late."""
        host = self.hosts[name]
        host.asleep = False
        for sim in host.ports.values():
            self._touched[sim] = None

    # --- the attacker's tools ---

    def tap(self, watcher: _Watcher) -> Callable[[], None]:
        """Show ``watcher(now, source, destination, datagram)`` every datagram as sent, before NATs and loss.

        Returns:
            A function that removes the tap.
        """
        self._taps.append(watcher)
        return lambda: self._taps.remove(watcher)

    def tap_openers(self, watcher: Callable[[float, Address, Address, bytes, int], None]) -> None:
        """The same with datagrams that have a hop limit, which comes last; :meth:`tap` sees those that get through."""
        self._openers.append(watcher)

    def intercept(self, interceptor: _Interceptor) -> Callable[[], None]:
        """Let ``interceptor(now, source, destination, datagram)`` decide what is put on the wire for every datagram.

        It sits between the outermost NATs, before the link's impairments. It returns None to leave the datagram
        alone, or a list of (source, destination, datagram) to send instead; an empty one drops it.

        Returns:
            A function that removes the interceptor.
        """
        self._interceptors.append(interceptor)
        return lambda: self._interceptors.remove(interceptor)

    def inject(
        self,
        source: Address,
        destination: Address,
        datagram: bytes,
        delay: float = 0.0,
        *,
        beside: str | None = None,
    ) -> None:
        """Make a datagram with any source arrive at ``destination`` after ``delay``, past links, taps and interceptors.

        It comes from the public net (NATs of the destination filter it), or from the network of the host ``beside``.
        """
        realm = self._public if beside is None else self.hosts[beside].realm
        self.push(self.now + delay, partial(self._injected, realm), bytes(datagram), len(datagram), source, destination)

    def _injected(self, realm: Realm, buffer: bytes, segment_size: int, source: Address, destination: Address) -> None:
        target = realm.attached.get(destination[0])
        if target is None:
            self.counts["no_route"] += 1
        else:
            target.enter(buffer, segment_size, source, destination)

    def mapped(self, sim: SimNode, remote: Address) -> Address:
        """What a STUN server at ``remote`` would say is ``sim``'s address. Opens the mappings, sends nothing."""
        source = sim._v6 if ":" in remote[0] else sim._v4
        realm = sim.host.realm
        assert source is not None, "no address of that family"
        while remote[0] not in realm.attached and realm.gateway is not None:
            source = realm.gateway.translate(source, remote)
            assert source is not None, "no port left"
            realm = realm.gateway.realm
        return source

    # --- running ---

    def at(self, when: float, action: Callable[[], object]) -> None:
        """Call ``action()`` at a virtual time; it may command any node."""
        self.push(when, self._act, action, None, None, None)

    def after(self, delay: float, action: Callable[[], object]) -> None:
        """Call ``action()`` in ``delay`` virtual seconds."""
        self.at(self.now + delay, action)

    def run(self, seconds: float) -> None:
        """Let exactly this much virtual time pass."""
        end = self.now + seconds
        self._pump_all()
        while self._step(end):
            pass
        self.now = end

    def run_until(self, predicate: Callable[[], object], timeout: float) -> bool:
        """Run until ``predicate()`` is true, which is asked after each event; False if ``timeout`` passed first."""
        end = self.now + timeout
        self._pump_all()
        if predicate():
            return True
        while self._step(end):
            if predicate():
                return True
        self.now = end
        return bool(predicate())

    def run_until_idle(self, limit: float, *, quiet: float = math.inf) -> bool:
        """Run until nothing is going to happen within ``quiet`` seconds (default: ever).

        Returns:
            False if ``limit`` seconds passed first. The clock stays at the last event.
        """
        end = self.now + limit
        self._pump_all()
        while True:
            if not self._touched and not self._commanded and self._next_time() > self.now + quiet:
                return True
            if not self._step(end):
                idle = self._next_time() == math.inf
                if not idle:
                    self.now = end
                return idle

    def _step(self, end: float) -> bool:
        """Handle the next event not later than ``end``: a delivery, an action, a timer, the end of a burst."""
        try:
            if self._commanded:
                self._pump_all()
            when = self._next_time()
            if self._touched and when > self.now:
                sim = next(iter(self._touched))
                del self._touched[sim]
                self._settle(sim)
                return True
            if when > end:
                return False
            if when > self.now:
                self.now = when
            _, _, then, a, b, c, d = heapq.heappop(self._heap)
            then(a, b, c, d)
        except Exception as error:
            name = self._current.name if self._current else "-"
            error.add_note(f"simnet seed={self.seed} now={self.now:.6f} node={name}")
            raise
        return True

    def push(self, when: float, then: Callable[..., None], a: Any, b: Any, c: Any, d: Any) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (when, self._serial, then, a, b, c, d))

    def _next_time(self) -> float:
        """When the earliest event is due. Throws out timers that were moved or cancelled since they were pushed."""
        heap = self._heap
        while heap:
            when, _, then, sim, _, _, _ = heap[0]
            if then is not self._timer_entry or (
                sim._deadline <= when == sim._wake and sim.attached and not sim.host.asleep
            ):
                return when
            heapq.heappop(heap)
            if when == sim._wake:
                sim._wake = math.inf
                self._schedule(sim)
        return math.inf

    def _schedule(self, sim: SimNode) -> None:
        # An entry that is due too early is left where it is: _next_time replaces it when it comes up.
        if sim._deadline < sim._wake and sim.attached and not sim.host.asleep:
            sim._wake = sim._deadline
            self.push(sim._deadline, self._timer_entry, sim, None, None, None)

    def _fire(self, sim: SimNode, *_: None) -> None:
        sim._wake = sim._deadline = math.inf
        self._enter(sim)
        sim.node.handle_timer(self.now)
        self._drain(sim)

    def _act(self, action: Callable[[], object], *_: None) -> None:
        self._commanded = True
        action()

    def _finish(self, sim: SimNode, job: Job, *_: None) -> None:
        if sim.attached:
            self._enter(sim)
            sim.node.finish_job(job, self.now)
            self._drain(sim)

    def _pump(self, sim: SimNode) -> None:
        self._enter(sim)
        self._drain(sim)

    def _pump_all(self) -> None:
        self._commanded = False
        for sim in list(self.nodes):
            self._pump(sim)

    def _enter(self, sim: SimNode) -> None:
        """Count one more call to the node at this instant."""
        self._current = sim
        if sim._instant != self.now:
            sim._instant = self.now
            sim._spins = 0
        sim._spins += 1
        if sim._spins > self._limit:
            raise Livelock(f"node {sim.name} was busy more than {self._limit} times at {self.now:.6f}")

    def _settle(self, sim: SimNode) -> None:
        """The deliveries of this instant are over for the node: end its burst, then see when its timer is due."""
        if not sim.attached or sim.host.asleep:
            return
        if sim._burst:
            sim._burst = False
            self._enter(sim)
            sim.node.handle_burst_end(self.now)
            self._drain(sim)
            if self._heap and self._heap[0][0] <= self.now:
                return  # it was touched again by the drain; what arrives at this instant comes first
            self._touched.pop(sim, None)
        deadline = sim.node.next_timer()
        sim._deadline = math.inf if deadline is None else deadline + sim.timer_lag
        if sim._deadline <= self.now:
            self._fire(sim)
        else:
            self._schedule(sim)

    def _drain(self, sim: SimNode) -> None:
        """Run jobs, send output and collect events until there are none."""
        self._touched[sim] = None
        if sim.host.asleep:
            return
        node, now = sim.node, self.now
        while sim.attached:
            while (job := node.next_job()) is not None:
                self._enter(sim)
                job.run()
                if sim.job_delay:
                    self.push(now + sim.job_delay, self._finish, sim, job, None, None)
                else:
                    node.finish_job(job, now)
            while (output := node.poll_transmit(now)) is not None:
                self._enter(sim)
                hop_limit = getattr(output, "hop_limit", 0)
                if hop_limit and self._dies(sim, hop_limit, output.payload, output.destination):
                    continue
                self._send(sim, output.payload, output.segment_size, output.destination)
            reacted = False
            while (event := node.next_event()) is not None:
                self._enter(sim)
                sim.events.append(event)
                if isinstance(event, SocketsWanted):
                    count = sim.spread(event.remote, event.count, event.port)
                    if event.count > 1 or event.port:
                        sim.node.note_sockets(event.peer, count, now)
                if sim.on_event is not None:
                    reacted = True
                    if sim.on_event is not take_messages:
                        self._commanded = True
                    sim.on_event(sim, event)
            if not reacted:
                return

    def _dies(self, sim: SimNode, hop_limit: int, datagram: bytes, destination: Address) -> bool:
        """Whether a datagram dies on its way; it opens the NATs that it passes, at once."""
        source = sim._v6 if ":" in destination[0] else sim._v4
        if source is None:
            return False
        for watcher in self._openers:
            watcher(self.now, source, destination, datagram, hop_limit)
        if destination in sim._more:
            for port in sim._more[destination] if destination not in sim._heard else ():
                origin = source._replace(port=port)
                if self._open(sim.host.realm, hop_limit, origin, destination):
                    sim.host.leave(datagram, len(datagram), origin, destination)
            return True
        if self._open(sim.host.realm, hop_limit, source, destination):
            return False
        self.counts["hops"] += 1
        return True

    def _open(self, realm: Realm, hop_limit: int, source: Address, destination: Address) -> bool:
        """Open the NATs that a datagram passes before it dies; whether it does not."""
        while destination[0] not in realm.attached and realm.gateway is not None and hop_limit > 1:
            gateway, hop_limit = realm.gateway, hop_limit - 1
            outside = gateway.translate(source, destination) if gateway.udp and not gateway.cut else None
            if outside is None:
                break
            source, realm = outside, gateway.realm
        return destination[0] in realm.attached and hop_limit > (ROUTERS if realm.gateway is None else 0)

    def _send(self, sim: SimNode, payload: bytes, segment_size: int, destination: Address) -> None:
        if type(payload) is not bytes:
            payload = bytes(payload)  # the node may go on using its buffer
        size = len(payload)
        if segment_size < 1 and size:
            raise ValueError(f"node {sim.name}: segment_size {segment_size}")
        segment_size = min(segment_size, size)
        count = count_datagrams(payload, segment_size)
        self.counts["sent"] += count
        source = sim._v6 if ":" in destination[0] else sim._v4
        if source is None or segment_size > MAX_DATAGRAM:
            self.counts["no_route" if source is None else "too_big"] += count
            return
        if destination in sim._heard:
            source = source._replace(port=sim._heard[destination])
        for watcher in self._taps:
            for offset in range(0, size or 1, segment_size or 1):
                watcher(self.now, source, destination, payload[offset : offset + segment_size])
        sim.host.leave(payload, segment_size, source, destination)

    def cross(
        self,
        realm: Realm,
        origin: Attached,
        target: Attached,
        buffer: bytes,
        segment_size: int,
        source: Address,
        destination: Address,
    ) -> None:
        """Put a batch on the link between two hosts or NATs of one realm."""
        if origin.cut or target.cut:
            self.counts["partition"] += count_datagrams(buffer, segment_size)
        elif self._interceptors:
            for offset in range(0, len(buffer) or 1, segment_size or 1):
                self._cross_intercepted(realm, origin, source, destination, buffer[offset : offset + segment_size])
        else:
            realm.pipe(self, origin, target).carry(target.enter, buffer, segment_size, source, destination)

    def _cross_intercepted(
        self, realm: Realm, origin: Attached, source: Address, destination: Address, datagram: bytes
    ) -> None:
        flying: list[tuple[Address, Address, bytes]] = [(source, destination, datagram)]
        for interceptor in list(self._interceptors):
            passed: list[tuple[Address, Address, bytes]] = []
            for item in flying:
                answer = interceptor(self.now, *item)
                passed.extend((item,) if answer is None else answer)
            flying = passed
        if not flying:
            self.counts["intercepted"] += 1
        for source, destination, datagram in flying:
            target = realm.attached.get(destination[0])
            if target is None:
                self.counts["no_route"] += 1
            else:
                pipe = realm.pipe(self, origin, target)
                pipe.carry(target.enter, bytes(datagram), len(datagram), source, destination)

    def deliver(self, sim: SimNode, buffer: bytes, segment_size: int, source: Address, destination: Address) -> None:
        node, now = sim.node, self.now
        if destination[1] in sim._more.get(source, ()):
            sim._heard[source] = destination[1]
        elif len(sim._more.get(source, ())) > 1:  # nothing is settled yet
            sim._heard.pop(source, None)
        if not sim.gro and len(buffer) > segment_size:
            for offset in range(0, len(buffer), segment_size):
                datagram = buffer[offset : offset + segment_size]
                self._hand_over(sim, node, datagram, len(datagram), source, now)
            return
        if sim.gro and segment_size and not len(buffer) % segment_size:
            buffer = self._join(sim.host.arrive, buffer, segment_size, source, destination)
        self._hand_over(sim, node, buffer, segment_size, source, now)

    def _hand_over(
        self, sim: SimNode, node: Node, buffer: bytes, segment_size: int, source: Address, now: float
    ) -> None:
        self.counts["delivered"] += count_datagrams(buffer, segment_size)
        self._enter(sim)
        sim._burst = True
        node.handle_batch(buffer, segment_size, source, now)
        self._drain(sim)

    def _join(self, arrive: Then, buffer: bytes, segment_size: int, source: Address, destination: Address) -> bytes:
        """The batch with the datagrams of the same flow that arrive next at this instant, as a kernel's GRO joins."""
        heap, now, size = self._heap, self.now, len(buffer)
        parts = [buffer]
        while heap:
            when, _, then, more, more_size, from_, to = heap[0]
            if when > now or then is not arrive or from_ != source or to != destination or not more:
                break
            if more_size != segment_size and not (more_size < segment_size and len(more) == more_size):
                break
            size += len(more)
            if size > GRO_BYTES or size > GRO_SEGMENTS * segment_size:
                break
            heapq.heappop(heap)
            parts.append(cast(bytes, more))
            if size % segment_size:
                break
        return b"".join(parts) if len(parts) > 1 else buffer
