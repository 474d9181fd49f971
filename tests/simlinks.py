"""What :mod:`tests.simnet` is made of below its clock: links, realms of addresses, NAT boxes. Use it through simnet."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

from srmudp.models import Address


class Net(Protocol):
    """The part of SimNet that links and NATs use."""

    now: float
    random: random.Random
    counts: Counter[str]

    def push(self, when: float, then: Callable[..., None], a: Any, b: Any, c: Any, d: Any) -> None: ...
    def cross(
        self,
        realm: Realm,
        origin: Attached,
        target: Attached,
        buffer: bytes,
        segment_size: int,
        source: Address,
        destination: Address,
    ) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One direction of a link. Impairments act on single datagrams, also on those of one batch.

    Attributes:
        latency: seconds every datagram takes.
        jitter: 0 to this many seconds more, uniformly; keeps the order (only ``reorder`` changes it).
        loss, duplicate, corrupt: shares of the datagrams (0.0 to 1.0) lost, sent twice (the copy up to ``latency``
            later), and delivered with one bit flipped.
        reorder: share of the datagrams held back by ``reorder_delay`` seconds, so that others overtake them.
        rate: bytes of UDP payload per second, or None for no limit.
        queue_bytes: bytes that may wait for ``rate``; more is dropped. A datagram always fits an empty queue.
        mtu: largest UDP payload; longer ones vanish (a black hole).
        coalesce: arrivals are gathered to multiples of this many seconds, as interrupt moderation does; gives
            batches behind a ``rate``.
    """

    latency: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    reorder: float = 0.0
    reorder_delay: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    rate: float | None = None
    queue_bytes: int | None = None
    mtu: int | None = None
    coalesce: float = 0.0

    def __post_init__(self) -> None:
        if min(self.latency, self.jitter, self.reorder_delay, self.coalesce) < 0:
            raise ValueError("durations are not negative")
        if self.rate is not None and self.rate <= 0:
            raise ValueError("rate is positive, or None")
        for share in (self.loss, self.reorder, self.duplicate, self.corrupt):
            if not 0.0 <= share <= 1.0:
                raise ValueError("loss, reorder, duplicate and corrupt are shares from 0.0 to 1.0")
        if self.reorder and not self.reorder_delay:
            raise ValueError("reorder needs a reorder_delay")

    @property
    def plain(self) -> bool:
        """True if the link does nothing but delay, so that batches may pass whole."""
        return not (
            self.jitter or self.loss or self.reorder or self.duplicate or self.corrupt or self.rate or self.coalesce
        )


Then = Callable[[Any, Any, Any, Any], None]


def count_datagrams(buffer: bytes, segment_size: int) -> int:
    """Datagrams in a batch; an empty datagram is one."""
    return -(-len(buffer) // segment_size) if segment_size else 1


class Pipe:
    """One direction of a link with its state: when the sender is free again, and the newest arrival."""

    __slots__ = ("_busy_until", "_last_arrival", "_link", "_net", "_plain", "cut")

    def __init__(self, net: Net, link: Link) -> None:
        self._net = net
        self._busy_until = self._last_arrival = -math.inf
        self.cut = False
        self.set(link)

    def set(self, link: Link) -> None:
        self._link = link
        self._plain = link.plain

    def carry(self, then: Then, buffer: bytes, segment_size: int, source: Address, destination: Address) -> None:
        """Call ``then(buffer, segment_size, source, destination)`` for what comes through, when it does."""
        net, link = self._net, self._link
        if self.cut:
            net.counts["partition"] += count_datagrams(buffer, segment_size)
        elif self._plain and (link.mtu is None or segment_size <= link.mtu):
            net.push(net.now + link.latency, then, buffer, segment_size, source, destination)
        else:
            self._carry_each(then, buffer, segment_size, source, destination)

    def _carry_each(self, then: Then, buffer: bytes, segment_size: int, source: Address, destination: Address) -> None:
        net, link, chance = self._net, self._link, self._net.random.random
        now, counts = net.now, net.counts
        # Survivors that arrive at one instant stay together, as one event on the heap.
        run: list[bytes] = []
        run_arrival = 0.0
        for offset in range(0, len(buffer) or 1, segment_size or 1):
            datagram = buffer[offset : offset + segment_size]
            size = len(datagram)
            if link.mtu is not None and size > link.mtu:
                counts["mtu"] += 1
                continue
            leaves = now
            if link.rate:
                if self._busy_until > now:
                    backlog = (self._busy_until - now) * link.rate
                    if link.queue_bytes is not None and backlog + size > link.queue_bytes + 1e-6:
                        counts["queue"] += 1
                        continue
                    leaves = self._busy_until
                leaves += size / link.rate
                self._busy_until = leaves
            if link.loss and chance() < link.loss:
                counts["loss"] += 1
                continue
            if link.corrupt and size and chance() < link.corrupt:
                counts["corrupt"] += 1
                datagram = _flip(datagram, net.random.randrange(size * 8))
            arrival = leaves + link.latency
            if link.jitter:
                self._last_arrival = arrival = max(arrival + chance() * link.jitter, self._last_arrival)
            if link.reorder and chance() < link.reorder:
                counts["reorder"] += 1
                arrival += link.reorder_delay
            if link.duplicate and chance() < link.duplicate:
                counts["duplicate"] += 1
                net.push(arrival + chance() * link.latency, then, datagram, size, source, destination)
            if link.coalesce:
                arrival = max(now, math.ceil(arrival / link.coalesce - 1e-9) * link.coalesce)
            if run and arrival != run_arrival:
                net.push(run_arrival, then, b"".join(run), len(run[0]), source, destination)
                run = []
            run.append(datagram)
            run_arrival = arrival
        if run:
            net.push(run_arrival, then, b"".join(run), len(run[0]), source, destination)


def _flip(datagram: bytes, bit: int) -> bytes:
    changed = bytearray(datagram)
    changed[bit >> 3] ^= 1 << (bit & 7)
    return bytes(changed)


class Realm:
    """Where addresses are unique: the public net, or the inside of one NAT."""

    def __init__(self, link: Link, gateway: Nat | None) -> None:
        self.link = link
        self.gateway = gateway
        self.attached: dict[str, Attached] = {}
        self.pipes: dict[tuple[str, str], Pipe] = {}

    def pipe(self, net: Net, origin: Attached, target: Attached) -> Pipe:
        key = (origin.name, target.name)
        pipe = self.pipes.get(key)
        if pipe is None:
            pipe = self.pipes[key] = Pipe(net, self.link)
        return pipe


class Attached:
    """What has addresses in a realm: a host, or the outer side of a NAT."""

    net: Net
    name: str
    realm: Realm

    def __init__(self) -> None:
        self.addresses: tuple[str, ...] = ()
        self.cut = False
        # Bound once: the heap compares these by identity to find runs of datagrams for one host.
        self.arrive: Then = self._arrive
        self.enter: Then = self.arrive
        self.leave: Then = self.climb

    def _arrive(self, buffer: bytes, segment_size: int, source: Address, destination: Address) -> None:
        raise NotImplementedError

    def climb(self, buffer: bytes, segment_size: int, source: Address, destination: Address) -> None:
        """Go from here into the realm: across it if the destination is in it, else out by its gateway."""
        net, realm = self.net, self.realm
        target = realm.attached.get(destination[0])
        if target is not None:
            net.cross(realm, self, target, buffer, segment_size, source, destination)
        elif realm.gateway is not None:
            realm.gateway.outward(self, buffer, segment_size, source, destination)
        else:
            net.counts["no_route"] += count_datagrams(buffer, segment_size)

    def register(self, net: Net, name: str, addresses: tuple[str, ...], realm: Realm) -> None:
        self.net, self.name, self.realm = net, name, realm
        self.addresses = addresses
        for address in addresses:
            if address in realm.attached:
                raise ValueError(f"{address} is taken by {realm.attached[address].name}")
            realm.attached[address] = self
            inner = realm
            while inner.gateway is not None and inner.gateway.untranslated(address):
                gateway = inner.gateway
                gateway.realm.attached[address] = gateway
                inner = gateway.realm

    def unregister(self) -> None:
        for address in self.addresses:
            realm: Realm | None = self.realm
            while realm is not None and realm.attached.pop(address, None) is not None:
                realm = realm.gateway.realm if realm.gateway is not None else None

    def chain(self) -> list[tuple[Realm, Attached]]:
        chain: list[tuple[Realm, Attached]] = [(self.realm, self)]
        while (gateway := chain[-1][0].gateway) is not None:
            chain.append((gateway.realm, gateway))
        return chain


@dataclass(slots=True)
class _Mapping:
    internal: Address
    external: Address
    made: float
    used: float
    """When it was last refreshed."""
    permits: dict[object, float]
    """Whom it lets in, and when each was last refreshed."""


class Nat(Attached):
    """A NAT box with the behaviours of RFC 4787, or a stateful firewall. IPv6 addresses are filtered, not translated.

    Args:
        mapping: endpoint-independent, address-dependent or address-and-port-dependent (RFC 4787 section 4.1); NONE
            translates nothing, so hosts behind it have addresses valid outside.
        filtering: the same for who may answer (section 5).
        ports: external port: the internal one if free, else the next free one; random; or the last one plus one.
        lifetime: seconds after which an unused mapping or permission is gone.
        expiry: seconds after which a mapping is gone however much it is used, as in carriers' NATs.
        pool: ports there are to give; with ``block`` for each host inside. When all are taken a new flow is dropped.
        block: each host inside has a pool of its own, as carriers give their subscribers (RFC 7422).
        hairpin: hosts behind it reach each other by external addresses (section 6).
        refresh_inbound: inbound datagrams keep a mapping alive too (section 4.3 demands it of outbound ones only).
        overload: flows to different remotes share one external port, as in Linux; needs APDM.
        unsolicited: dropped inbound datagrams occupy their port, so that a later outbound flow to their sender is
            given another one, as in a Linux router without an inbound drop rule; needs ``overload``.
        udp: False drops everything.
    """

    def __init__(
        self,
        *,
        mapping: Literal["NONE", "EIM", "ADM", "APDM"] = "EIM",
        filtering: Literal["EIF", "ADF", "APDF"] = "APDF",
        ports: Literal["preserve", "random", "sequential"] = "preserve",
        lifetime: float = 120.0,
        expiry: float = math.inf,
        pool: int | None = None,
        block: bool = False,
        hairpin: bool = False,
        refresh_inbound: bool = False,
        overload: bool = False,
        unsolicited: bool = False,
        udp: bool = True,
    ) -> None:
        super().__init__()
        if mapping not in ("NONE", "EIM", "ADM", "APDM") or filtering not in ("EIF", "ADF", "APDF"):
            raise ValueError("mapping is NONE, EIM, ADM or APDM; filtering is EIF, ADF or APDF")
        if ports not in ("preserve", "random", "sequential"):
            raise ValueError("ports is preserve, random or sequential")
        if (overload and mapping != "APDM") or (unsolicited and not overload):
            raise ValueError("overload needs mapping APDM, unsolicited needs overload")
        if block and pool is None:
            raise ValueError("block needs a pool")
        self.mapping, self.filtering, self.ports = mapping, filtering, ports
        self.lifetime, self.hairpin, self.refresh_inbound = lifetime, hairpin, refresh_inbound
        self.expiry, self.pool, self.block = expiry, pool, block
        self.overload, self.unsolicited, self.udp = overload, unsolicited, udp
        self.inside: Realm
        self._mappings: dict[object, _Mapping] = {}
        self._by_external: dict[object, _Mapping] = {}
        self._forwards: dict[Address, Address] = {}
        self._occupied: dict[object, float] = {}
        self._burnt: set[Address] = set()
        self._next_port: dict[str, int] = {}
        self._blocks: dict[str, int] = {}

    @classmethod
    def profile(cls, name: str, **changes: Any) -> Self:
        """A NAT by the name people give its kind; see ``NAT_PROFILES``. ``changes`` override single arguments."""
        return cls(**(NAT_PROFILES[name] | changes))

    @property
    def address(self) -> str:
        """The address it has outside."""
        return self.addresses[0]

    def rebind(self, address: str | None = None) -> None:
        """Forget every mapping, as a reboot does: old flows get other ports, or ports at another ``address``."""
        self._burnt.update(mapping.external for mapping in self._mappings.values())
        self.forget()
        if address is not None:
            self.unregister()
            self.register(self.net, self.name, (address, *self.addresses[1:]), self.realm)

    def forget(self) -> None:
        """Forget every mapping, but not which ports are whose: a flow that goes on gets its port again, if it can."""
        self._mappings.clear()
        self._by_external.clear()
        self._occupied.clear()

    def forward(self, port: int, internal: Address) -> None:
        """A static port forward: anyone reaches ``internal`` by the external ``port``."""
        self._forwards[Address(self.address, port)] = internal

    # --- the four ways through ---

    def outward(
        self, origin: Attached, buffer: bytes, segment_size: int, source: Address, destination: Address
    ) -> None:
        """From the inside (its last hop there was ``origin``) towards an address that is not inside."""
        counts = self.net.counts
        if not self.udp:
            counts["nat_blocked"] += count_datagrams(buffer, segment_size)
            return
        hairpin = destination[0] in self.addresses
        if hairpin and not self.hairpin:
            counts["nat_hairpin"] += count_datagrams(buffer, segment_size)
            return
        external = self.translate(source, destination)
        if external is None:
            counts["nat_exhausted"] += count_datagrams(buffer, segment_size)
            return
        if not hairpin:
            self.leave(buffer, segment_size, external, destination)
            return
        source = external  # RFC 4787 REQ-9
        internal = self._admit(source, destination, count_datagrams(buffer, segment_size))
        target = self.inside.attached.get(internal[0]) if internal is not None else None
        if internal is not None and target is not None:
            self.net.cross(self.inside, origin, target, buffer, segment_size, source, internal)

    def _arrive(self, buffer: bytes, segment_size: int, source: Address, destination: Address) -> None:
        internal = self._admit(source, destination, count_datagrams(buffer, segment_size))
        if internal is None:
            return
        target = self.inside.attached.get(internal[0])
        if target is None:
            self.net.counts["no_route"] += count_datagrams(buffer, segment_size)
        else:
            target.enter(buffer, segment_size, source, internal)

    def translate(self, source: Address, destination: Address) -> Address | None:
        """The external source of an outbound datagram; makes or refreshes its mapping and permission.

        None if there is no port left.
        """
        now, how = self.net.now, "NONE" if self.untranslated(source[0]) else self.mapping
        key: object = source
        if how == "ADM":
            key = (source, destination[0])
        elif how == "APDM":
            key = (source, destination)
        mapping = self._mappings.get(key)
        if mapping is None or not self._live(mapping):
            external = source if how == "NONE" else self._allocate(source, destination)
            if external is None:
                return None
            mapping = self._mappings[key] = _Mapping(source, external, now, now, {})
            self._by_external[self._external_key(external, destination)] = mapping
        mapping.used = mapping.permits[self._permit_key(destination)] = now
        return mapping.external

    def _admit(self, source: Address, destination: Address, count: int) -> Address | None:
        """Whom an inbound datagram is for, or None (counted)."""
        now, counts = self.net.now, self.net.counts
        if not self.udp:
            counts["nat_blocked"] += count
            return None
        if (forwarded := self._forwards.get(destination)) is not None:
            return forwarded
        mapping = self._by_external.get(self._external_key(destination, source))
        if mapping is None or not self._live(mapping):
            if self.filtering == "EIF" and self.mapping == "NONE":
                return destination  # an open host: nothing is asked of anyone
            if self.unsolicited:
                self._occupied[(destination, source)] = now
            counts["nat_unmapped"] += count
            return None
        permit = self._permit_key(source)
        allowed = mapping.permits.get(permit)
        if allowed is None or now - allowed >= self.lifetime:
            counts["nat_filtered"] += count
            return None
        if self.refresh_inbound:
            mapping.used = mapping.permits[permit] = now
        return mapping.internal

    def untranslated(self, address: str) -> bool:
        return self.mapping == "NONE" or ":" in address

    def _live(self, mapping: _Mapping) -> bool:
        now = self.net.now
        return now - mapping.used < self.lifetime and now - mapping.made < self.expiry

    def _permit_key(self, remote: Address) -> object:
        if self.filtering == "APDF" or (":" in remote[0] and self.mapping != "NONE"):
            return remote  # home routers are firewalls for IPv6, whatever they do to IPv4
        return remote[0] if self.filtering == "ADF" else None

    def _external_key(self, external: Address, remote: Address) -> object:
        return (external, remote) if self.overload and not self.untranslated(external[0]) else external

    def _allocate(self, source: Address, remote: Address) -> Address | None:
        ports = self._ports_for(source[0])
        owner = source[0] if self.block else ""
        chance = self.net.random
        if not ports:
            return None
        if self.ports == "preserve":
            port = source[1]
        elif self.ports == "sequential":
            if owner not in self._next_port:
                self._next_port[owner] = ports[0] if self.pool else chance.randrange(20_000, 40_000)
            port = self._next_port[owner] = self._next_port[owner] + 1
        else:
            port = chance.choice(ports)
        for attempt in range(len(ports)):
            if port not in ports and (attempt or self.pool is not None):  # any port may be preserved
                port = ports[0]
            external = Address(self.address, port)
            if self._is_free(external, source, remote):
                if self.ports == "sequential":
                    self._next_port[owner] = port
                return external
            port = chance.choice(ports) if self.ports == "random" and attempt < _DRAWS else port + 1
        return None

    def _ports_for(self, inside: str) -> range:
        """The ports that may be given to a host inside."""
        if self.pool is None:
            return range(1024, 65_536)
        number = self._blocks.setdefault(inside, len(self._blocks)) if self.block else 0
        first = 1024 + number * self.pool
        return range(first, first + self.pool) if first + self.pool <= 65_536 else range(0)

    def _is_free(self, external: Address, source: Address, remote: Address) -> bool:
        key = self._external_key(external, remote)
        holder, occupied = self._by_external.get(key), self._occupied.get(key)
        return (
            external not in self._burnt
            and self._forwards.get(external, source) == source
            and (holder is None or not self._live(holder))
            and (occupied is None or self.net.now - occupied >= self.lifetime)
        )


_DRAWS = 64
"""Ports drawn before a random allocator looks at one after the other."""

NAT_PROFILES: dict[str, dict[str, Any]] = {
    "open": {"mapping": "NONE", "filtering": "EIF"},
    "firewall": {"mapping": "NONE", "filtering": "APDF"},
    "full-cone": {"mapping": "EIM", "filtering": "EIF"},
    "restricted": {"mapping": "EIM", "filtering": "ADF"},
    "port-restricted": {"mapping": "EIM", "filtering": "APDF"},
    "symmetric-adm": {"mapping": "ADM", "filtering": "ADF", "ports": "random"},
    "symmetric-seq": {"mapping": "APDM", "filtering": "APDF", "ports": "sequential"},
    "symmetric": {"mapping": "APDM", "filtering": "APDF", "ports": "random"},
    "tcp-only": {"udp": False},
    "linux": {"mapping": "APDM", "filtering": "APDF", "overload": True, "refresh_inbound": True},
    "linux-open": {
        "mapping": "APDM",
        "filtering": "APDF",
        "overload": True,
        "refresh_inbound": True,
        "unsolicited": True,
    },
    "linux-random": {"mapping": "APDM", "filtering": "APDF", "ports": "random", "refresh_inbound": True},
    "carrier": {
        "mapping": "EIM",
        "filtering": "APDF",
        "ports": "random",
        "lifetime": 60.0,
        "expiry": 300.0,
        "pool": 512,
        "block": True,
        "hairpin": True,
    },
}
"""Arguments of :class:`Nat` for the kinds of NAT met in homes, firms and mobile networks."""
