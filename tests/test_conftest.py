"""The check for leaks finds them, and only them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

LEAKY = """
import os, socket, threading
import pytest
kept = []
stop = threading.Event()

def test_clean():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM):
        thread = threading.Thread(target=lambda: None)
        thread.start()

def test_thread_on_its_way_out():
    done = threading.Event()
    threading.Thread(target=lambda: (done.wait(0.2), None)).start()

def test_socket():
    kept.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))

def test_pipe():
    kept.append(os.pipe())

def test_epoll():
    import select
    kept.append(select.epoll())

def test_thread():
    thread = threading.Thread(target=stop.wait, name="forgotten", daemon=True)
    thread.start()

def test_failing_with_a_socket():
    kept.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    assert False

def test_garbage():
    class Cycle: pass
    cycle = Cycle()
    cycle.self = cycle
    cycle.pipe = open(os.pipe()[0], "rb")  # the write end leaks, the read end is garbage

def test_backend(backend):
    pass
"""


def test_programs_of_tests_keep_what_they_compiled() -> None:
    """Also where the environment says not to write compiled files."""
    look = "import sys; print(sys.dont_write_bytecode, sys.pycache_prefix)"
    run = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, timeout=30, check=True)
    assert run.stdout.split() == [str(False), str(sys.pycache_prefix)]


def test_leaks_fail_the_test_that_made_them(tmp_path: Path) -> None:
    conftest = Path(__file__).with_name("conftest.py").read_text("utf-8")
    assert "LEAK_WAIT = 2.0" in conftest
    (tmp_path / "conftest.py").write_text(conftest.replace("LEAK_WAIT = 2.0", "LEAK_WAIT = 0.5"), "utf-8")
    (tmp_path / "test_leaky.py").write_text(LEAKY)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly", "-rA", "-q"]
    command += ["--rootdir", str(tmp_path), "--import-mode=importlib", "-W", "ignore", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=50)
    summary = [line.split("::")[-1] for line in run.stdout.splitlines() if line.startswith("ERROR ")]
    left = {line.split(" - ")[0]: line for line in summary}
    expected = {"test_thread"}
    if sys.platform == "linux":
        expected |= {"test_socket", "test_pipe", "test_epoll", "test_garbage"}
    assert set(left) == expected, run.stdout
    assert "left behind: threads ['forgotten']" in run.stdout
    if sys.platform == "linux":
        assert "descriptors ['socket:[" in run.stdout
        assert "descriptors ['anon_inode:[eventpoll]']" in run.stdout
    assert "test_backend[pycryptodome]" in run.stdout
