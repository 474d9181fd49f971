"""Fixtures for every test: crypto back ends, and a check that a test leaves no thread, socket or pipe behind."""

from __future__ import annotations

import gc
import importlib.util
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from srmudp.crypto.backend import Backend

LEAK_WAIT = 2.0
"""Seconds that threads on their way out are waited for, all together."""

COMPUTING = {
    *("crypto", "fuzz", "nat", "peers", "protocol", "wire"),
    *("test_architecture.py", "test_attack_table.py", "test_protocol_document.py"),
    *("test_simlinks.py", "test_simnet.py"),
}
"""Folders and files whose tests use no socket and no thread."""
PROGRAMS = {"chat", "cli", "interop", "test_documents.py", "test_examples.py", "test_old_programs.py"}
"""Folders and files whose tests run programs and read what they print, and take their time over it."""
NO_KEYS = {
    *("benchmarks/test_link.py", "benchmarks/test_report.py"),
    *("chat/test_commands.py", "chat/test_letters.py", "chat/test_safe.py"),
    *("cli/test_completion.py", "cli/test_text.py"),
    *("files/test_incoming.py", "files/test_messages.py", "files/test_names.py", "fuzz/test_parsers.py"),
    *("protocol/test_arrival.py", "protocol/test_budget.py", "protocol/test_congestion.py", "protocol/test_mtu.py"),
    *("protocol/test_rangeset.py", "protocol/test_receiving.py", "protocol/test_recovery.py"),
    *("protocol/test_skips.py", "protocol/test_unreliable.py"),
    *("routers/test_keeper.py", "routers/test_pcp.py", "routers/test_upnp.py"),
    *("sockets/test_addresses.py", "sockets/test_aio_cancelling.py", "sockets/test_aio_driver.py"),
    *("sockets/test_aio_engine.py", "sockets/test_aio_hooks.py", "sockets/test_delivery.py", "sockets/test_driver.py"),
    *("sockets/test_engine.py", "sockets/test_hooks.py", "sockets/test_known_peers.py", "sockets/test_reading.py"),
    *("sockets/test_resolver.py", "sockets/test_waiting.py"),
    *("test_architecture.py", "test_attack_table.py", "test_simlinks.py", "test_simnet.py"),
    *("transports/test_batch.py", "transports/test_impaired.py", "transports/test_udp.py"),
    *("wire/test_codec.py", "wire/test_frames.py", "wire/test_packet.py", "wire/test_portmap.py"),
    *("wire/test_srudp.py", "wire/test_stun.py"),
}
"""Files whose tests compute with no key; that they do not is checked."""

_FDS = "/proc/self/fd"
_CAN_LIST = os.path.isdir(_FDS)
_WATCHED = ("socket:", "pipe:", "anon_inode:")
# Examples are the same each time, and a busy machine may take its time over one.
settings.register_profile("srmudp", deadline=None, derandomize=True, database=None)
settings.load_profile("srmudp")

if sys.dont_write_bytecode:
    # The programs that tests start would compile everything anew, a quarter of all the computing. Where compiled files
    # are not wanted beside the sources, they go where pytest keeps its own.
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(Path(__file__).resolve().parents[1] / ".pytest_cache" / "bytecode")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell without job control has programs in the background ignore Ctrl-C, and those that they start inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

_failed = pytest.StashKey[bool]()


@pytest.fixture(params=["cryptography", "pycryptodome"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each crypto back end in turn; ``cryptography`` is skipped where it is not installed."""
    name: Literal["cryptography", "pycryptodome"] = request.param
    if name == "cryptography" and importlib.util.find_spec("cryptography") is None:
        pytest.skip("cryptography is not installed")
    from srmudp.crypto.backend import select_backend

    return select_backend(name)


def open_descriptors() -> Counter[str]:
    """Sockets, pipes and the like that this process has open (Linux; empty elsewhere)."""
    found: Counter[str] = Counter()
    if not _CAN_LIST:
        return found
    tracker = _resource_tracker_descriptor()
    for number in os.listdir(_FDS):
        try:
            target = os.readlink(f"{_FDS}/{number}")
        except OSError:
            continue  # the descriptor of the listing itself
        if target.startswith(_WATCHED) and number != tracker:
            found[target] += 1
    return found


def _resource_tracker_descriptor() -> str | None:
    """multiprocessing starts one helper process per program, at first use, and keeps a pipe to it for good."""
    module: Any = sys.modules.get("multiprocessing.resource_tracker")
    return None if module is None else str(module._resource_tracker._fd)


def leaked_threads(before: set[threading.Thread], wait: float) -> list[threading.Thread]:
    """Threads that are not in ``before`` and do not end within ``wait`` seconds."""
    deadline = time.monotonic() + wait
    left = [thread for thread in threading.enumerate() if thread not in before]
    for thread in left:
        if thread is not threading.current_thread():
            thread.join(max(0.0, deadline - time.monotonic()))
    return [thread for thread in left if thread.is_alive()]


def leaked_descriptors(before: Counter[str]) -> list[str]:
    """Descriptors that were not open before, after giving cycles with unclosed ones a chance to go."""
    new = open_descriptors() - before
    if new:
        gc.collect()
        new = open_descriptors() - before
    return sorted(new.elements())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what may run beside what, and what the choice of a back end makes no difference to.

    Tests with real sockets and threads keep time, so they run one after the other, in one of the two workers, and
    beside them never more than one worker with something else. So do those that run programs, in the other one.
    """
    for item in items:
        place = item.path.relative_to(item.config.rootpath).parts[1:]
        if place and place[0] not in COMPUTING:
            item.add_marker(pytest.mark.xdist_group("programs" if place[0] in PROGRAMS else "real"))
        if "/".join(place) in NO_KEYS or _names_its_backend(item):
            item.add_marker(pytest.mark.any_backend)


def _names_its_backend(item: pytest.Item) -> bool:
    """Whether there is one such test for each back end."""
    callspec = getattr(item, "callspec", None)
    return callspec is not None and any(
        isinstance(value, str) and value in ("cryptography", "pycryptodome") for value in callspec.params.values()
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[_failed] = True
    return report


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    threads = set(threading.enumerate())
    descriptors = open_descriptors()
    yield
    if request.node.stash.get(_failed, False):
        return  # its traceback keeps everything alive: one failure is enough
    stuck = [thread.name for thread in leaked_threads(threads, LEAK_WAIT)]
    left_open = leaked_descriptors(descriptors)
    if stuck or left_open:
        pytest.fail(f"left behind: threads {stuck}, descriptors {left_open}", pytrace=False)


@pytest.fixture(autouse=True)
def _no_keys(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is said to compute with no key does not."""
    path = request.node.path.relative_to(request.config.rootpath)
    if "/".join(path.parts[1:]) not in NO_KEYS:
        return
    from srmudp.crypto import backend

    def refuse(*arguments: Any) -> NoReturn:
        raise AssertionError("this test computes with keys: take it off NO_KEYS in tests/conftest.py")

    for library in (backend._Cryptography, backend._Pycryptodome):
        for name in ("aead", "x25519", "x25519_public", "ed25519_public"):
            monkeypatch.setattr(library, name, refuse)
    for aead in (backend._CryptographyAead, backend._PycryptodomeAead):
        for name in ("seal", "open"):
            monkeypatch.setattr(aead, name, refuse)
