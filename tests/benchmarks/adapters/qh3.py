"""qh3, which came from aioquic: its transport is in Rust, with segmentation offload and a search for the MTU."""

from __future__ import annotations

from typing import Any

from tests.benchmarks.adapters.aioquic import adapter, datagram
from tests.benchmarks.adapters.base import Job

LARGEST = 60_000


def settings(job: Job) -> dict[str, Any]:
    """It searches for an MTU like Ethernet's only: it is told of a larger one."""
    return {"max_datagram_size": datagram(job, LARGEST)}


ADAPTERS = (adapter("qh3", settings),)
