"""How the NAT between us and the world behaves, in the words of RFC 4787, from what servers and peers saw of us.

A mapping is compared with others only if they were seen at about the same time: a router that restarted, or forgot a
flow that was silent, gives another port and is still no worse than it was. What agrees with the newest counts however
old it is. So a verdict may be "unknown" again, and changes with the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address, ip_network
from itertools import pairwise
from math import gcd
from typing import Final, NamedTuple

from ..models import MAX_PORT_STEP, Address, NatBehaviour

TOGETHER: Final = 10.0
"""Seconds within which two mappings are comparable: shorter than any mapping's life met in the field (NATs of 30 s)."""
LIFETIME: Final = 600.0
"""Seconds after which a sample is forgotten."""
MAX_SAMPLES: Final = 32
"""Servers remembered; the oldest sample goes first."""

_LOCAL = tuple(
    map(
        ip_network,
        (
            *("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"),
            *("::1/128", "fc00::/7", "fe80::/10"),
        ),
    )
)


class Sample(NamedTuple):
    """Somebody saw us.

    Attributes:
        local: our address on this machine, or None if it is not known.
        server: who saw us: a STUN server or a peer.
        mapped: where it saw us.
        at: when.
        order: rises with each question asked; answers may overtake each other.
    """

    local: Address | None
    server: Address
    mapped: Address
    at: float
    order: int = 0


class FilterSample(NamedTuple):
    """Whether an answer got in that came from another address than the one asked (RFC 5780 section 4.4).

    Attributes:
        other_host: it came, or was to come, from another host; False: from another port of the same host.
    """

    other_host: bool
    arrived: bool
    at: float


class NatSamples:
    """The samples at hand and what they say. ``now`` never goes back."""

    def __init__(self) -> None:
        self._samples: dict[Address, Sample] = {}
        self._filtering: dict[bool, FilterSample] = {}
        self.changes = 0
        """How often a sample was added."""

    def add(self, sample: Sample) -> None:
        """Note a mapping. The newest of each server counts."""
        self.changes += 1
        self._samples.pop(sample.server, None)
        if sample.local is not None:
            # Another interface or port is another NAT, or another socket at least.
            ours = [one for one in self._samples.values() if _version(one.server) == _version(sample.server)]
            for one in ours:
                if one.local not in (None, sample.local):
                    del self._samples[one.server]
        self._samples[sample.server] = sample
        if len(self._samples) > MAX_SAMPLES:
            del self._samples[next(iter(self._samples))]

    def add_filtering(self, sample: FilterSample) -> None:
        """Note whether an answer from elsewhere got in."""
        self.changes += 1
        self._filtering[sample.other_host] = sample

    def recent(self, now: float) -> list[Sample]:
        """The samples that are not too old, oldest first."""
        for sample in list(self._samples.values()):
            if now - sample.at > LIFETIME:
                del self._samples[sample.server]
        return list(self._samples.values())

    def mapping(self, now: float, version: int = 4, more: Iterable[Sample] = ()) -> NatBehaviour:
        """How ports are given out.

        Args:
            version: 4 or 6.
            more: what peers say they saw. Weaker: counts only where servers do not tell.
        """
        ours = self._of(version, now)
        if any(one.mapped == one.local and not is_local(one.mapped) for one in ours):
            return NatBehaviour.ENDPOINT_INDEPENDENT  # nothing is translated
        verdict = mapping_of(ours)
        if verdict is NatBehaviour.UNKNOWN:
            ours += [one for one in more if _version(one.server) == version and not is_local(one.mapped)]
            verdict = mapping_of(ours)
        return verdict

    def ports(self, now: float, version: int = 4) -> tuple[int | None, int | None]:
        """What each port given out differs by from the one before, if always the same, and the last one."""
        samples = _comparable(self._of(version, now))
        return step_of(samples), (samples[-1].mapped.port if samples else None)

    def kept_port(self, now: float) -> int | None:
        """Our port over IPv4, if a NAT translates our address and not that; None if it does, or nobody can tell."""
        ours = [one for one in self._of(4, now) if one.local is not None and not is_local(one.mapped)]
        if not ours or ours[-1].local is None or ours[-1].mapped == ours[-1].local:
            return None
        return ours[-1].mapped.port if ours[-1].mapped.port == ours[-1].local.port else None

    def _of(self, version: int, now: float) -> list[Sample]:
        return [sample for sample in self.recent(now) if _version(sample.server) == version]

    def filtering(self, now: float) -> NatBehaviour:
        """What is let in."""
        host, port = (self._filtering.get(other_host) for other_host in (True, False))
        host, port = (None if one is None or now - one.at > LIFETIME else one for one in (host, port))
        if host is not None and host.arrived:
            return NatBehaviour.ENDPOINT_INDEPENDENT
        if host is None or port is None:
            return NatBehaviour.UNKNOWN
        return NatBehaviour.ADDRESS_DEPENDENT if port.arrived else NatBehaviour.ADDRESS_AND_PORT_DEPENDENT

    def translated(self, now: float, version: int = 4) -> bool | None:
        """Whether our address changes on its way; None if nobody can tell."""
        ours = [one for one in self._of(version, now) if one.local is not None]
        ours = [one for one in ours if not is_local(one.server)] or ours
        return ours[-1].mapped != ours[-1].local if ours else None


def mapping_of(samples: Sequence[Sample]) -> NatBehaviour:
    """What samples of one address family say of the mapping.

    Two hosts that see two addresses do not tell whether their ports matter as well: then the worse is said, unless one
    of them was asked at two ports and saw one address.
    """
    if not samples:
        return NatBehaviour.UNKNOWN
    seen_by: dict[str, list[Address]] = {}
    for sample in _comparable(samples):
        seen_by.setdefault(sample.server.host, []).append(sample.mapped)
    if any(len(set(mapped)) > 1 for mapped in seen_by.values()):
        return NatBehaviour.ADDRESS_AND_PORT_DEPENDENT
    if len(seen_by) < 2:
        return NatBehaviour.UNKNOWN
    if len({mapped[0] for mapped in seen_by.values()}) == 1:
        return NatBehaviour.ENDPOINT_INDEPENDENT
    if any(len(mapped) > 1 for mapped in seen_by.values()):
        return NatBehaviour.ADDRESS_DEPENDENT
    return NatBehaviour.ADDRESS_AND_PORT_DEPENDENT


def step_of(samples: Sequence[Sample]) -> int | None:
    """What the ports differ by, in the order in which they were given out; None unless they rise or fall by little.

    Flows of others use up ports in between, so it is the greatest that divides all differences. Two ports that were
    drawn at random are as near to each other once in 2,000 times.
    """
    differences = [after.mapped.port - before.mapped.port for before, after in pairwise(samples)]
    if len({sample.mapped.host for sample in samples}) != 1 or not differences:
        return None
    if not any(all(0 < sign * one <= MAX_PORT_STEP for one in differences) for sign in (1, -1)):
        return None
    return gcd(*differences) * (1 if differences[0] > 0 else -1)


def _comparable(samples: Sequence[Sample]) -> list[Sample]:
    """Those that were seen at about the same time as the newest, in the order in which was asked."""
    newest = max(samples, key=lambda sample: sample.at, default=None)
    if newest is None:
        return []
    found = [one for one in samples if newest.at - one.at <= TOGETHER or one.mapped == newest.mapped]
    return sorted(found, key=lambda sample: sample.order)


def is_local(address: Address) -> bool:
    """True for an address that means something only on this machine, LAN or carrier's network."""
    ip = ip_address(address.host.partition("%")[0])
    return any(ip in network for network in _LOCAL if network.version == ip.version)


def _version(address: Address) -> int:
    return 6 if ":" in address.host else 4
