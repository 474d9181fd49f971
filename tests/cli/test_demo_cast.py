"""Processes of the demo: asked with limits, and none left behind however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from srmudp.cli.demo_cast import Cast, Clock, Trouble

COMMAND = [sys.executable, "-m", "srmudp", "demo"]


def environment(folder: Path) -> dict[str, str]:
    """Ours, with temporary files in ``folder``."""
    return os.environ | {"TMPDIR": str(folder), "TEMP": str(folder), "TMP": str(folder), "PYTHONIOENCODING": "utf-8"}


def children_of(folder: Path) -> list[int]:
    """Processes whose environment has ``folder``: the demo's and no others' (Linux)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if str(folder).encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                pass
    return found


def wait_until_gone(folder: Path, limit: float = 5.0) -> list[int]:
    deadline = time.monotonic() + limit
    while (left := children_of(folder)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks into /proc")
@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_nothing_outlives_the_demo(tmp_path: Path, how: str) -> None:
    process = subprocess.Popen(
        COMMAND,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(tmp_path),
        start_new_session=True,
    )
    assert process.stdout is not None
    with process:
        for line in process.stdout:
            if "carol is connected" in line:
                break
        assert len(children_of(tmp_path)) >= 4
        if how == "SIGINT":
            os.killpg(process.pid, signal.SIGINT)  # Ctrl-C reaches all processes of a terminal
        else:
            process.send_signal(getattr(signal, how))
        _, error = process.communicate(timeout=10)
    assert process.returncode == {"SIGINT": 130, "SIGTERM": 143, "SIGKILL": -9}[how]
    assert error == ("\nstopped\n" if how == "SIGINT" else "")
    assert wait_until_gone(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_dies_is_told_and_does_not_hang(tmp_path: Path) -> None:
    with Cast(str(tmp_path), Clock(20.0), loss=0.0, seed=1, verbose=False) as cast:
        actor = cast.start("alice")
        hello = actor.ask("hello", limit=10.0)
        assert hello.port > 0
        with pytest.raises(Trouble, match="alice: UnknownPeer"):
            actor.ask("say", "hello", "nobody")
        actor.kill()
        with pytest.raises(Trouble, match="alice's process ended"):
            actor.ask("hello")


def test_a_process_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "alice.key").mkdir()
    with Cast(str(tmp_path), Clock(20.0), loss=0.0, seed=1, verbose=False) as cast:
        actor = cast.start("alice")
        with pytest.raises(Trouble, match=r"alice: .*is a directory"):
            actor.ask("hello", limit=10.0)
