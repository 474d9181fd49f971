"""Every fuzz target by name, and how one input is run.

A target is a function from bytes. It may raise what this module calls a finding: anything at all. What the code under
test documents (``DecodeError``, ``ValueError``, ``IdentityError``) is caught where it is expected and goes no further.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

from tests.fuzz.endpoint_targets import ClearWorld, endpoint
from tests.fuzz.handshake_targets import HandshakeWorld, handshake
from tests.fuzz.mutate import STEP, Mutator
from tests.fuzz.parsers import PARSERS, Finding, Target
from tests.fuzz.sealed_targets import HostileWorld, sealed
from tests.fuzz.worlds import STOPWATCH, Slow, World

__all__ = ["ENDPOINTS", "PARSERS", "TARGETS", "TEXTS", "Finding", "fresh", "mutated", "run"]

ENDPOINTS: Final[dict[str, Callable[[bytes], set[str]]]] = {
    "endpoint": endpoint,
    "sealed": sealed,
    "handshake": handshake,
}
WORLDS: Final[dict[str, type[World]]] = {"endpoint": ClearWorld, "sealed": HostileWorld, "handshake": HandshakeWorld}
TARGETS: Final[dict[str, Target | Callable[[bytes], set[str]]]] = {**PARSERS, **ENDPOINTS}
TEXTS: Final = frozenset({"address", "name", "peer_id", "invite", "known_peers", "key_file"})
PARSE_SECONDS: Final = 0.1
"""Seconds of CPU one parser may take for one input of at most 70,000 bytes."""
TRIES: Final = 3
"""An input is too slow if it is so every time."""


def run(name: str, data: bytes) -> set[str]:
    """Run one input.

    Returns:
        What it led to, where the target can say so.

    Raises:
        Exception: a finding.
    """
    for attempt in range(1, TRIES + 1):
        clock = time.perf_counter if attempt == 1 else time.process_time
        STOPWATCH.read = clock
        try:
            started = clock()
            result = TARGETS[name](data)
            spent = clock() - started
            if name in PARSERS and spent > PARSE_SECONDS:
                raise Slow(f"{name}: {spent:.3f} s for {len(data)} bytes")
            return result or set()
        except Slow:
            if attempt == TRIES:
                raise
    raise AssertionError("unreachable")


def mutated(name: str, rng: random.Random, pool: list[bytes]) -> bytes:
    """Another input for a target, made of those in ``pool``."""
    if (name in ENDPOINTS and rng.random() < 0.2) or not pool:
        return fresh(name, rng)
    mutator, data = Mutator(rng), rng.choice(pool)
    if name in ENDPOINTS:
        return mutator.script(data, pool)
    if name in TEXTS:
        return mutator.text(data, pool)
    if name == "run":
        return data[:2] + mutator.datagram(data[2:], pool) if rng.random() < 0.8 else mutator.mutate(data, pool)
    return mutator.datagram(data, pool)


def fresh(name: str, rng: random.Random) -> bytes:
    """An input of chance alone: bytes, or a script in which every action comes up."""
    if name not in ENDPOINTS:
        return rng.randbytes(rng.choice((0, 1, 10, 40, 600)))
    actions = list(WORLDS[name].ACTIONS)
    calm = [actions.index(action) for action in actions if action in ("connect", "small", "large", "wait")]
    script = rng.randbytes(2)
    for _ in range(rng.choice((4, 10, 20, 40))):
        what = rng.choice(calm) if rng.random() < 0.4 else rng.randrange(len(actions))
        script += bytes((what,)) + rng.randbytes(STEP - 1)
    return script
