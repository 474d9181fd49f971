"""The target "endpoint": who has no keys mutates, repeats, forges and floods clear datagrams, at any time.

Whatever is injected, at the right address or another, before, during or after a handshake, a restart, a roaming or a
key update: no exception leaves an endpoint, every datagram is accounted for, honest messages arrive once and in order,
and afterwards nothing is left of it. Only what the honest side did to itself (restart, removal) excuses a lost
connection.
"""

from __future__ import annotations

from collections.abc import Sequence

from srmudp.models import Address
from srmudp.wire.packet import RECORD, RESEND
from tests.endpoints import Datagram, name_of
from tests.fuzz.mutate import FIELDS
from tests.fuzz.worlds import QUIET, STRANGERS, Step, World
from tests.simnet import SimNode

FLOOD = 150
"""Datagrams of one flood."""


class ClearWorld(World):
    """An attacker who sees everything on the wire, sends anything from any address, and has no key."""

    def __init__(self, script: bytes) -> None:
        super().__init__(script)
        self._overtaking: list[Step] = []
        self._roamed = 0
        self.net.intercept(self._intercept)

    # --- choosing

    def _recorded(self, step: Step) -> Datagram | None:
        """The datagram a step chose: one of the first, or counted back from the newest."""
        if not self.wire:
            return None
        return self.wire[step.x % len(self.wire)] if step.y & 1 else self.wire[-1 - step.x % len(self.wire)]

    def _target(self, step: Step, item: Datagram | None) -> SimNode:
        if item is not None and not step.who & 3:
            for node in self.nodes.values():
                if node.address == item.destination:
                    return node
        return list(self.nodes.values())[step.who % len(self.nodes)]

    def _source(self, step: Step, item: Datagram | None, target: SimNode) -> Address:
        choice = step.who >> 2 & 7
        if choice < 3 and item is not None:
            return item.source
        if choice == 3 and item is not None:
            return Address(item.source.host, item.source.port + 1 + step.y % 3)
        if choice == 4:
            return target.address
        if choice == 5:
            return list(self.nodes.values())[step.y % len(self.nodes)].address
        return STRANGERS[step.y % len(STRANGERS)]

    def _others(self) -> Sequence[bytes]:
        return [item.data for item in self.wire[-40:]]

    # --- steps of the attacker

    def mutated(self, step: Step) -> None:
        """A changed datagram."""
        item = self._recorded(step)
        if item is not None:
            target = self._target(step, item)
            data = self.mutator(step).datagram(item.data, self._others())
            self.deliver(target, data, self._source(step, item, target))

    def replayed(self, step: Step) -> None:
        """The same datagram, from anywhere, to anybody."""
        item = self._recorded(step)
        if item is not None:
            target = self._target(step, item)
            self.deliver(target, item.data, self._source(step, item, target))

    def overtaking(self, step: Step) -> None:
        """The next datagrams on the wire are preceded or followed by changed or foreign copies of themselves."""
        self._overtaking += [step] * (1 + step.x % 4)

    def _intercept(
        self, now: float, source: Address, destination: Address, data: bytes
    ) -> list[tuple[Address, Address, bytes]] | None:
        if not self._overtaking:
            return None
        step = self._overtaking.pop()
        copy = data if step.who & 1 else self.mutator(step).datagram(data, self._others())
        origin = source if step.who & 2 else STRANGERS[step.y % 2]
        forged, honest = (origin, destination, copy), (source, destination, data)
        return [honest, forged] if step.who & 4 else [forged, honest]

    def raw(self, step: Step) -> None:
        """Noise behind any first byte."""
        rng = self.rng(step)
        target = self._target(step, None)
        data = bytes((rng.choice((*FIELDS, step.x)), rng.choice((0, 1, 1, 2)))) + rng.randbytes(step.y * 6)
        self.deliver(target, data[: rng.choice((0, 1, 5, 9, 2000))], self._source(step, None, target))

    def batch(self, step: Step) -> None:
        """Several datagrams in one receive call, with a segment size that fits or does not."""
        if not self.wire:
            return
        mutator = self.mutator(step)
        items = mutator.reorder([item.data for item in self.wire[-1 - step.x % 60 :][:24]])
        items = [mutator.datagram(data, items) if mutator.rng.random() < 0.3 else data for data in items]
        size = mutator.rng.choice((1, 7, 30, 512, 1200, max(map(len, items), default=1)))
        buffer = b"".join(items)[: size * 64]
        if buffer:
            target = self._target(step, None)
            count = -(-len(buffer) // size)
            self.deliver(target, buffer, self._source(step, self._recorded(step), target), size, count)

    def flood(self, step: Step) -> None:
        """Many variants of one datagram."""
        item = self._recorded(step)
        if item is not None:
            target, mutator = self._target(step, item), self.mutator(step)
            source = self._source(step, item, target)
            for _ in range(FLOOD):
                self.deliver(target, mutator.field(item.data, self._others()), source)
            self.bounded(target)

    def segments(self, step: Step) -> None:
        """Forged segments of records of many, which no check but the last can tell from honest ones."""
        items = [item for item in self.wire if item.kind in (RECORD, RESEND)]
        if items:
            item = items[-1 - step.x % len(items)]
            target, rng = self._target(step, item), self.rng(step)
            if len(item.data) < 60:
                return
            forged = []
            for _ in range(1 + 3 * step.y):
                data = bytearray(item.data)
                data[0] = RECORD
                number = int.from_bytes(data[10:18], "big") + rng.randrange(2000)
                data[10:18] = (number % (1 << 62)).to_bytes(8, "big")
                data[26] = rng.choice((2, 3, 44))
                data[27:29] = (len(data) - 30).to_bytes(2, "big")
                data[29] = rng.randrange(data[26])
                forged.append(bytes(data))
            for at in range(0, len(forged), 40):
                some = forged[at : at + 40]
                self.deliver(target, b"".join(some), item.source, len(item.data), len(some))
            self.bounded(target)

    # --- steps of the honest

    def restart(self, step: Step) -> None:
        """A program is killed and started again."""
        if not self.connected:
            return
        name = list(self.nodes)[step.who % len(self.nodes)]
        self.nodes[name].detach()
        self._excuse(name)
        self.start(name)
        self.introduce(name)

    def roam(self, step: Step) -> None:
        """A host gets another address, and keeps its program."""
        if self.connected and self._roamed < 4:
            self._roamed += 1
            self._excuse("b")
            self.net.move_host("b", f"10.0.1.{self._roamed}")

    def remove(self, step: Step) -> None:
        """One removes the other and adds it again a moment later."""
        one, other = self.edge(step)
        name = name_of(other)
        if name in one.node.statuses(self.net.now):
            self._excuse(name_of(one), name)
            one.do(one.node.remove_peer, name)
            self.net.run(0.001 * step.x)
            self.introduce(name_of(one))

    def _excuse(self, *names: str) -> None:
        self.strict = {pair for pair in self.strict if not set(names) & set(pair)}

    # --- the end

    def finish(self) -> None:
        self._overtaking.clear()
        self.connect()
        if self.strict != set(self.EDGES):
            # Whoever restarted somewhere else is told to the others, as a user would.
            self.net.run(30)
            for name in self.NODES:
                self.introduce(name)
        self.settle(set(self.EDGES), 180)
        self.exchange(set(self.EDGES))
        self.net.run(QUIET)
        self.kept_promises()
        for sim in self.nodes.values():
            self.at_rest(sim)


ClearWorld.ACTIONS = {
    action.__name__: action
    for action in (
        *(ClearWorld.mutated, ClearWorld.replayed, ClearWorld.overtaking, ClearWorld.raw, ClearWorld.batch),
        *(ClearWorld.flood, ClearWorld.segments, ClearWorld.connect, ClearWorld.small, ClearWorld.large),
        *(ClearWorld.unreliable, ClearWorld.wait, ClearWorld.update, ClearWorld.restart, ClearWorld.roam),
        ClearWorld.remove,
    )
}


def endpoint(script: bytes) -> set[str]:
    """Play one script; returns what it led to."""
    world = ClearWorld(script)
    world.play()
    return world.features()
