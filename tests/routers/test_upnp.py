"""UPnP by a process of its own: what it orders, and what becomes of a library or router that misbehaves.

The library is made up here, in Python; the real one meets a router in ``tests/real/test_routers.py``.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from srmudp.models import Address
from srmudp.routers import upnp as module
from srmudp.routers.asking import LIFETIME, RouterError
from srmudp.routers.upnp import UpnpRouter, find_upnp
from tests.routers.fakes import until

LIBRARY = """
import json, os, pathlib
FILE = pathlib.Path(__file__).with_name("table.json")
class UPnP:
    lanaddr = "192.168.1.2"
    def discover(self): return 1
    def selectigd(self): return "http://192.168.1.1:80/control"
    def externalipaddress(self): return "198.51.100.7"
    def table(self): return json.loads(FILE.read_text()) if FILE.exists() else {}
    def getspecificportmapping(self, port, protocol):
        there = self.table().get(str(port))
        return None if there is None else (*there[:2], "x", True, 9)
    def addportmapping(self, port, protocol, host, inside, name, remote, lease):
        FILE.write_text(json.dumps(self.table() | {str(port): [host, inside, protocol, name, lease]}))
        return True
    def deleteportmapping(self, port, protocol):
        table = self.table()
        del table[str(port)]
        FILE.write_text(json.dumps(table))
"""

Start = Callable[..., UpnpRouter]


@pytest.fixture(autouse=True)
def _gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "default_gateway", lambda: "192.168.1.1")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Find a router by a library with changes to its class."""
    found = []

    def begin(changes: str = "") -> UpnpRouter:
        indented = "".join(f"    {line}\n" for line in changes.splitlines())
        (tmp_path / "miniupnpc.py").write_text(LIBRARY + indented)
        found.append(find_upnp(library=tmp_path))
        return found[-1]

    yield begin
    for router in found:
        router.close(10.0)
        assert router._helper.poll() is not None


def table(folder: Path) -> dict[str, list[object]]:
    path = folder / "table.json"
    with contextlib.suppress(ValueError):  # it is just being written
        return json.loads(path.read_text()) if path.exists() else {}
    return {"?": []}


def test_a_mapping_is_made_renewed_and_taken_back(start: Start, tmp_path: Path) -> None:
    router = start()
    assert (router.host, table(tmp_path)) == ("192.168.1.1", {}), "finding out changes nothing"
    grant = router.map(5000, None)
    assert grant == (Address("198.51.100.7", 5000), LIFETIME)
    assert table(tmp_path) == {"5000": ["192.168.1.2", 5000, "UDP", "srmudp", LIFETIME]}
    assert router.map(5000, grant.address) == grant
    router.close(10.0)
    assert table(tmp_path) == {}


def test_the_mapping_of_somebody_else_is_left_alone(start: Start, tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text('{"5000": ["192.168.1.9", 5000, "UDP", "game", 0]}')
    router = start()
    grant = router.map(5000, None)
    assert 20_000 <= grant.address.port < 60_000
    assert router.map(5000, grant.address) == grant, "it stays where it is"
    router.close(10.0)
    assert list(table(tmp_path)) == ["5000"]


def test_a_mapping_for_ever_is_not_wanted(start: Start) -> None:
    router = start("def addportmapping(self, *_): raise Exception('OnlyPermanentLeasesSupported')")
    with pytest.raises(RouterError, match="last for ever"):
        router.map(5000, None)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ("def discover(self): raise Exception('Success')", "no UPnP router answers"),
        ("def selectigd(self): raise Exception('No UPnP device discovered')", "no UPnP device here is a router"),
        ("def selectigd(self): return 'http://192.168.1.66:80/x'", r"not our router \(192.168.1.66\)"),
        ("def selectigd(self): return 'http://evil.example/x'", "not our router"),
        (r"def selectigd(self): return 'http://\x1bcevil\u202e/x'", r"not our router \(\?cevil\?\)"),
        ("def externalipaddress(self): raise Exception('Invalid Args')", "refuses"),
        ("def discover(self): import os; os.kill(os.getpid(), 9)", "died"),
        ("def discover(self): self.x = bytearray(1 << 30)", "MemoryError"),
        ("def discover(self): print('what the library says')", "died|no sense"),
    ],
)
def test_what_goes_wrong_is_told(start: Start, changes: str, text: str) -> None:
    with pytest.raises(RouterError, match=text):
        start(changes)


@pytest.mark.parametrize("said", ["'10.0.0.1' * 1000", "7", "None", "''", "'300.1.1.1'", "'224.0.0.1'", "b'1.2.3.4'"])
def test_an_address_that_is_none_is_not_believed(start: Start, said: str) -> None:
    with pytest.raises(RouterError):
        start(f"def externalipaddress(self): return {said}").map(5000, None)


def test_one_that_hangs_is_given_up_in_time(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.5)
    began = time.monotonic()
    with pytest.raises(RouterError, match="too long"):
        start("def discover(self): import time; time.sleep(60)")
    assert time.monotonic() - began < 10


def test_who_gives_up_does_not_wait(tmp_path: Path) -> None:
    (tmp_path / "miniupnpc.py").write_text(LIBRARY + "    def discover(self): import time; time.sleep(60)\n")
    began = time.monotonic()
    with pytest.raises(RouterError):
        find_upnp(lambda: True, tmp_path)
    assert time.monotonic() - began < 5


def test_without_the_extra_it_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RouterError, match=r"pip install 'srmudp\[upnp\]'"):
        find_upnp()
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(RouterError, match="interpreter"):
        find_upnp(library=Path())


def test_a_program_that_is_killed_leaves_no_mapping(tmp_path: Path) -> None:
    (tmp_path / "miniupnpc.py").write_text(LIBRARY)
    program = (
        "import pathlib, sys, time\n"
        "from srmudp.routers import upnp\n"
        "upnp.default_gateway = lambda: ''\n"
        "upnp.find_upnp(library=pathlib.Path(sys.argv[1])).map(5000, None)\n"
        "print('mapped', flush=True)\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mapped\n"
        assert list(table(tmp_path)) == ["5000"]
        process.kill()
    until(lambda: table(tmp_path) == {})
