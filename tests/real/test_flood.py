"""A flood from forged sources at a real socket, in network namespaces made for it."""

from __future__ import annotations

import pytest

from tests.real.flood import scene
from tests.real.helpers import BACKENDS
from tests.real.test_netns import why_not

pytestmark = pytest.mark.netns

TRIES = 3
"""Scenes at most: what else the machine does can take the rate away, and gives none."""


@pytest.mark.parametrize("backend", BACKENDS)
def test_attack_32_a_flood_from_forged_sources(backend: str) -> None:
    """Attack 32: 5,000 tagged punches a second, each from another source. An added peer is in within 3 s, the
    connection that was there keeps at least half its rate, and memory stays flat.

    Here the connection has a rate of its own, since the machine does other work beside it, and the flood lasts two
    seconds; as fast as it can, for ten, by ``python -m tests.real.flood``.
    """
    if reason := why_not():
        pytest.skip(reason)
    pace = 15.0 if backend == "cryptography" else 5.0
    for _ in range(TRIES):
        result = scene(seconds=2.0, rate=5000, backend=backend, calm=1.0, pace=pace)
        if result["ratio"] >= 0.5:
            break
    assert result["quiet_mb_s"] > 0.5 * pace, result
    assert result["late_connected"], result
    assert result["late_seconds"] <= 3, result
    assert result["ratio"] >= 0.5, result
    assert result["growth_mib"] < 30, result
    assert result["drops"]["cookie_demanded"] > 0, result
    assert result["drops"].get("internal_error", 0) == 0, result
