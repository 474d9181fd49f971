"""A flood from forged sources at a real socket, in network namespaces made for it."""

from __future__ import annotations

import pytest

from tests.real.flood import scene
from tests.real.helpers import BACKENDS
from tests.real.test_netns import why_not

pytestmark = pytest.mark.netns


@pytest.mark.parametrize("backend", BACKENDS)
def test_attack_32_a_flood_from_forged_sources(backend: str) -> None:
    """Attack 32: 5,000 tagged punches a second, each from another source. An added peer is in within 3 s, the
    connection that was there keeps at least half its rate, and memory stays flat.

    Two seconds here; ten by ``python -m tests.real.flood``. The rates are those of a machine that others use too, so
    the ratio of one run says little: one of three must hold.
    """
    if reason := why_not():
        pytest.skip(reason)
    for _ in range(3):
        result = scene(seconds=2.0, rate=5000, backend=backend, calm=1.0)
        if result["ratio"] >= 0.5:
            break
    assert result["late_connected"], result
    assert result["late_seconds"] <= 3, result
    assert result["ratio"] >= 0.5, result
    assert result["growth_mib"] < 30, result
    assert result["drops"]["cookie_demanded"] > 0, result
    assert result["drops"].get("internal_error", 0) == 0, result
