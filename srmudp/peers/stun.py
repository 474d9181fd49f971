"""STUN on the socket that punches: what our address is by the word of servers, and the same service for others.

Only addresses that the program itself named are asked. What comes in is read here once its first byte says STUN: a
response goes to the question it answers, a request is answered if this socket serves, at a rate for each network and
in all, for its source may be forged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from math import inf
from typing import Final

from ..models import Address, MappedPort, NatTraits, PublicAddress, SeenAddress
from ..nat.behaviour import FilterSample, NatSamples, Sample
from ..nat.stun import UNANSWERED, Outcome, StunClient, answer_to, failed, is_sound
from ..wire.stun import StunClass, StunMessage, parse_stun
from .admission import prefix_of
from .jobs import TokenBucket

GRACE: Final = 1.0
"""Seconds that the other servers have once the first one answered: one of them may be dead, or a datagram lost."""
ANSWERS: Final = 500.0
"""Answers to STUN requests in a second, at most 44 bytes each to an address that may be forged."""
NETWORK_ANSWERS: Final = 5.0
"""The same to one IPv4 address or one IPv6 /64; four times as many at once."""
TRAITS_FOR: Final = 0.25
"""Seconds for which hundreds of peers are not asked again what they see: each punch wants to know."""
MAX_NETWORKS: Final = 1024
"""Networks whose share is watched at a time."""

Sightings = Sequence[tuple[str, Address, Address]]
"""Name of each connected peer, its address, and ours as it sees it; nothing that cannot be."""


class Discovery:
    """The servers asked in one call, and what came of it.

    Attributes:
        outcomes: server to how its question ended.
        looked_up: how many host names are still being looked up. The owner's.
        stopped: it is over; nothing more is asked for it.

    Args:
        filtering: also find out whom the NAT lets in, by the first server that can answer from elsewhere.
    """

    def __init__(self, *, filtering: bool = False) -> None:
        self.filtering = filtering
        self.outcomes: dict[Address, Outcome] = {}
        self.looked_up = 0
        self.stopped = False
        self.settle_at: float | None = None
        self.open: dict[Address, bytes] = {}
        self.probes: dict[bool, bytes] = {}  # other host or not -> its question

    def is_settled(self, now: float) -> bool:
        """True once nothing better is to be expected."""
        if self.stopped:
            return True
        if self.probes:
            return False  # they end by themselves
        if self.settle_at is not None and now >= self.settle_at:
            return True
        return not self.open and not self.looked_up


class Stun:
    """The STUN side of one endpoint. Called under the endpoint lock.

    Args:
        random: cryptographic randomness.
        drops: discarded input is counted here.
        send: takes a datagram and where it goes.
        on_progress: told when a discovery may be settled. Then, or when the caller is tired of waiting, :meth:`finish`.
        sightings: what connected peers see.
        serve: answer requests of others.
    """

    def __init__(
        self,
        random: Callable[[int], bytes],
        drops: Counter[str],
        send: Callable[[bytes, Address], None],
        on_progress: Callable[[Discovery], None],
        sightings: Callable[[], Sightings],
        *,
        serve: bool = False,
    ) -> None:
        self._drops = drops
        self._send = send
        self._on_progress = on_progress
        self._sightings = sightings
        self._serve = serve
        self._client = StunClient(random, drops, send)
        self._running: list[Discovery] = []
        self._answers = TokenBucket(ANSWERS, ANSWERS)
        self._networks: dict[str, TokenBucket] = {}
        self._asked = 0
        self._probe_id: bytes | None = None
        self._probe_arrived = False
        self.samples = NatSamples()
        self._traits: dict[int, tuple[NatTraits, int, float]] = {}  # by version: with the samples' changes, and when
        self.answered_at: float | None = None
        self.silent_at: float | None = None
        """When a server answered last, and when all that were asked last had not."""
        self.mapped: MappedPort | None = None

    # --- what comes in

    def on_datagram(self, datagram: bytes, source: Address, now: float) -> None:
        """A datagram whose first byte is STUN's.

        Raises:
            DecodeError: it is none.
        """
        message = parse_stun(datagram)
        if message.kind in (StunClass.SUCCESS, StunClass.ERROR):
            self._client.on_response(message, source, now)
        elif message.kind is StunClass.REQUEST and message.transaction_id == self._probe_id:
            self._probe_arrived = True
        elif message.kind is StunClass.REQUEST and self._serve:
            self._answer(message, source, now)
        else:
            self._drops["stun_request" if message.kind is StunClass.REQUEST else "stun_indication"] += 1

    def _answer(self, request: StunMessage, source: Address, now: float) -> None:
        network = prefix_of(source.host)
        bucket = self._networks.pop(network, None) or TokenBucket(NETWORK_ANSWERS, 4 * NETWORK_ANSWERS)
        self._networks[network] = bucket  # the least recently used goes first
        if len(self._networks) > MAX_NETWORKS:
            del self._networks[next(iter(self._networks))]
        if not (bucket.take(now) and self._answers.take(now)):
            self._drops["stun_rate"] += 1
            return
        self._send(answer_to(request, source), source)

    # --- a port that our router maps

    def expect_probe(self, transaction_id: bytes) -> None:
        """We are about to send ourselves a request with this id, by way of our router. It is not answered."""
        self._probe_id, self._probe_arrived = transaction_id, False

    def probe_arrived(self, transaction_id: bytes) -> bool:
        """Whether it came."""
        return self._probe_id == transaction_id and self._probe_arrived

    # --- discovery

    def ask(self, discovery: Discovery, servers: Iterable[tuple[Address, Address | None]], now: float) -> None:
        """Ask servers, each with our own address towards it where that is known. One asked already is left out."""
        if discovery.stopped:
            return
        if discovery not in self._running:
            self._running.append(discovery)
        for server, local in servers:
            if server in discovery.open or server in discovery.outcomes:
                continue
            try:
                discovery.open[server] = self._client.ask(server, self._ended(discovery, local), now)
            except ValueError as error:
                discovery.outcomes[server] = failed(server, str(error), now)
        if discovery.is_settled(now):
            self._on_progress(discovery)

    def _ended(self, discovery: Discovery, local: Address | None) -> Callable[[Outcome], None]:
        self._asked += 1
        order = self._asked

        def ended(outcome: Outcome) -> None:
            discovery.open.pop(outcome.server, None)
            discovery.outcomes[outcome.server] = outcome
            if outcome.source is not None:
                self.answered_at = outcome.at
            if outcome.mapped is not None:
                self.samples.add(Sample(local, outcome.server, outcome.mapped, outcome.at, order))
                if discovery.settle_at is None:
                    discovery.settle_at = outcome.at + GRACE
                if discovery.filtering and outcome.other is not None:
                    self._probe(discovery, outcome.server, outcome.other, outcome.at)
            self._on_progress(discovery)

        return ended

    def _probe(self, discovery: Discovery, server: Address, other: Address, now: float) -> None:
        """Have a server answer from another host, and from another port of its own, if that can tell anything.

        It cannot where we have sent to that host: its answers get in through all but the strictest NAT.
        """
        known = {address.host for address in (*discovery.open, *discovery.outcomes)}
        known |= {sample.server.host for sample in self.samples.recent(now)}
        if other.host in known or other.port == server.port or not is_sound(other, server):
            return
        discovery.filtering = False  # one server is enough
        for other_host in (True, False):
            elsewhere = other if other_host else Address(server.host, other.port)

            def ended(outcome: Outcome, other_host: bool = other_host, elsewhere: Address = elsewhere) -> None:
                discovery.probes.pop(other_host, None)
                # An answer from where we asked says that the server does not do it.
                if outcome.source in (None, elsewhere):
                    arrived = outcome.source is not None
                    self.samples.add_filtering(FilterSample(other_host, arrived, outcome.at))
                self._on_progress(discovery)

            with suppress(ValueError):  # too many questions at a time
                discovery.probes[other_host] = self._client.ask(server, ended, now, elsewhere)

    def _stop(self, discovery: Discovery, now: float) -> None:
        for server, transaction_id in discovery.open.items():
            self._client.cancel(transaction_id)
            discovery.outcomes[server] = failed(server, f"{UNANSWERED} in time", now)
        for transaction_id in discovery.probes.values():
            self._client.cancel(transaction_id)
        discovery.open.clear()
        discovery.probes.clear()
        discovery.stopped = True
        if discovery in self._running:
            self._running.remove(discovery)

    def stop_all(self, now: float) -> None:
        """The socket closes."""
        for discovery in list(self._running):
            self._stop(discovery, now)

    def finish(self, discovery: Discovery, now: float) -> PublicAddress:
        """What the servers said; nothing more is asked.

        What peers see may confirm that the mapping is the same for all, and no more.
        """
        self._stop(discovery, now)
        answers = {one.server: one.mapped for one in discovery.outcomes.values() if one.mapped is not None}
        failures = {str(one.server): one.failure for one in discovery.outcomes.values() if one.failure}
        if failures and all(reason.startswith(UNANSWERED) for reason in failures.values()) and not answers:
            self.silent_at = now
        ipv4, ipv6 = (_most_common(answers, family) for family in (4, 6))
        version = 6 if ipv4 is None and ipv6 is not None else 4
        traits = self.traits(now, version)
        return PublicAddress(
            ipv4,
            ipv6,
            traits.mapping,
            traits.filtering,
            self.samples.translated(now, version),
            answers,
            failures,
            traits.port_step,
            traits.last_port,
        )

    def traits(self, now: float, version: int = 4) -> NatTraits:
        """What those who are to reach us had better know of our NAT, as far as servers and peers tell."""
        known = self._traits.get(version)
        if known is not None and known[1] == self.samples.changes and now - known[2] < TRAITS_FOR:
            return known[0]
        peers = [Sample(None, where, seen, -inf) for _, where, seen in self._sightings()]
        mapping = self.samples.mapping(now, version, peers)
        traits = NatTraits(mapping, self.samples.filtering(now), *self.samples.ports(now, version))
        self._traits[version] = traits, self.samples.changes, now
        return traits

    # --- time

    def next_timer(self) -> float | None:
        """When :meth:`on_timer` must be called."""
        if not self._running:
            return None
        when = self._client.next_timer()
        for discovery in self._running:
            settle_at = None if discovery.probes else discovery.settle_at
            if settle_at is not None and (when is None or settle_at < when):
                when = settle_at
        return when

    def on_timer(self, now: float) -> None:
        """Repeat questions, and tell who has waited long enough."""
        self._client.on_timer(now)
        for discovery in list(self._running):
            if discovery.settle_at is not None and discovery.settle_at <= now and not discovery.probes:
                self._stop(discovery, now)
                self._on_progress(discovery)

    # --- what is known

    def seen(self, now: float) -> tuple[SeenAddress, ...]:
        """Where others see us, the best known first."""
        witnesses: dict[Address, dict[str, str]] = {}
        for sample in self.samples.recent(now):
            witnesses.setdefault(sample.mapped, {})[f"stun {sample.server}"] = prefix_of(sample.server.host)
        for name, address, observed in self._sightings():
            witnesses.setdefault(observed, {})[f"peer {name}"] = prefix_of(address.host)
        mapped, proven = self.mapped, None
        if mapped is not None:
            says = f"router {mapped.router} ({mapped.protocol})"
            witnesses.setdefault(mapped.address, {})[says] = prefix_of(mapped.router)
            proven = mapped.address if mapped.verified else None
        seen = [
            SeenAddress(where, tuple(who), len(set(who.values())) > 1 or where == proven)
            for where, who in witnesses.items()
        ]
        return tuple(sorted(seen, key=lambda one: (not one.confirmed, -len(one.witnesses))))


def _most_common(answers: dict[Address, Address], version: int) -> Address | None:
    """The address that most servers saw; of several the one that was seen first."""
    counts = Counter(mapped for mapped in answers.values() if (6 if ":" in mapped.host else 4) == version)
    return counts.most_common(1)[0][0] if counts else None
