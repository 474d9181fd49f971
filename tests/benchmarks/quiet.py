"""Whether the machine was quiet: the same piece of work, on as many cores as a transfer uses, timed again and again."""

from __future__ import annotations

import subprocess
import sys
import time
from types import TracebackType
from typing import Self

LIMIT = 1.3
"""A run is quiet if the work took at most so many times as long as at its fastest."""

_ROUNDS = 300_000
_CALIBRATIONS = 15


def spin() -> float:
    """Seconds that a fixed piece of work takes: 10 to 20 ms of pure Python."""
    began = time.perf_counter()
    total = 0
    for number in range(_ROUNDS):
        total += number & 7
    return time.perf_counter() - began


class Spinner:
    """Two processes that work at the same time, so that a single busy core is noticed too.

    Attributes:
        quiet: seconds of the fastest measurement so far.
    """

    def __init__(self) -> None:
        self._other = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.quiet"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.quiet = float("inf")

    def __enter__(self) -> Self:
        for _ in range(_CALIBRATIONS):
            self.measure()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._other.kill()
        self._other.communicate()

    def measure(self) -> float:
        """Seconds of the slower of the two."""
        assert self._other.stdin is not None
        assert self._other.stdout is not None
        self._other.stdin.write("go\n")
        self._other.stdin.flush()
        mine = spin()
        slower = max(mine, float(self._other.stdout.readline()))
        self.quiet = min(self.quiet, slower)
        return slower


if __name__ == "__main__":
    for _line in sys.stdin:
        print(spin(), flush=True)
