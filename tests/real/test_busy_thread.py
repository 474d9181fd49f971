"""A thread that computes beside srmudp, at either end: the GIL makes every wake-up and timer 5 to 12 ms late.

Lateness is not loss: nothing is repeated for it, and no connection dies of it. The rates are for
``python -m tests.benchmarks.busy``.
"""

from __future__ import annotations

import sys
import threading

import pytest

from srmudp import MultiHolepunchSocket
from srmudp.crypto.backend import select_backend
from tests.benchmarks.busy import LOSS_BOUND, USUAL_BUFFER, Backend, transfer
from tests.benchmarks.places import LOOPBACK
from tests.real.helpers import ETHERNET


@pytest.mark.timeout(120)
@pytest.mark.parametrize("case", ["sender", "receiver"])
def test_a_thread_that_computes_causes_no_loss_and_no_death(case: str) -> None:
    """Two processes, datagrams as on Ethernet, messages handed over for a second; all of them are delivered.

    The system's buffers are as small as Linux makes them by default: they must not overflow while a thread waits.
    """
    backend: Backend = "cryptography" if select_backend().name == "cryptography" else "pycryptodome"
    result = transfer(backend, case, LOOPBACK, 1.0, 64 * 1024, ETHERNET, USUAL_BUFFER)
    assert not result.bad
    assert result.sent > 400, "a few messages at least"
    assert result.loss < LOSS_BOUND, result


def test_the_switch_interval_is_the_programs() -> None:
    before = sys.getswitchinterval()
    with MultiHolepunchSocket(host="127.0.0.1") as sock:
        assert threading.active_count() > 1
        sock.send(b"")
        assert sys.getswitchinterval() == before
    assert sys.getswitchinterval() == before
