"""qh3, which came from aioquic: its transport is in Rust, with segmentation offload and a search for the MTU."""

from __future__ import annotations

from typing import Any

from tests.benchmarks.adapters.aioquic import adapter
from tests.benchmarks.adapters.base import Job


def settings(job: Job) -> dict[str, Any]:
    """It finds out the MTU."""
    return {}


ADAPTERS = (adapter("qh3", settings),)
