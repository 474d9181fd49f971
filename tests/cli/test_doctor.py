"""``srmudp doctor`` against servers on loopback: whom it asks, what it finds, and how it ends."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator

import pytest

from srmudp import Address, MultiHolepunchSocket
from srmudp.cli import examination, main
from srmudp.cli.examination import Prober, lifetime
from srmudp.config import STUN_SERVERS
from srmudp.wire.stun import StunClass, StunMessage, parse_stun

HERE = "127.0.0.1"


@pytest.fixture
def servers() -> Iterator[list[str]]:
    """Two STUN servers at two addresses, where the system has several for loopback."""
    hosts = [HERE, "127.0.0.2" if sys.platform == "linux" else HERE]
    made = [MultiHolepunchSocket(host=host, serve_stun=True) for host in hosts]
    yield [f"{host}:{one.port}" for host, one in zip(hosts, made, strict=True)]
    for one in made:
        one.close(0)


@pytest.fixture
def deaf() -> Iterator[str]:
    """Somebody who takes what comes and says nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HERE, 0))
        yield f"{HERE}:{sock.getsockname()[1]}"


@pytest.mark.skipif(sys.platform != "linux", reason="loopback has one address")
def test_it_says_whom_it_asks_and_then_what_it_found(servers: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "-s", servers[0], "--server", servers[1]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"Asking {servers[0]}, {servers[1]} by UDP how this machine is seen from outside."
    text = " ".join(" ".join(lines).split())
    for part in (
        "Easy: most people connect directly with you",
        "+ this machine two sockets on it found each other and talked",
        "+ UDP gets out and back; 2 of 2 answered",
        "+ router it does not change your address (no NAT)",
        "which is a private one",
        "+ datagrams of 1472 bytes get through over IPv4",
    ):
        assert part in text
    assert not set(STUN_SERVERS) & set(text.split())


def test_json_is_for_programs(servers: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One server alone cannot tell; what goes on is told on standard error."""
    assert main(["doctor", "--json", "-s", servers[0]]) == 3
    captured = capsys.readouterr()
    assert captured.err.startswith(f"Asking {servers[0]} by UDP")
    told = json.loads(captured.out)
    assert (told["verdict"], told["status"], told["asked"]) == ("unknown", 3, [servers[0]])
    assert told["public"]["ipv4"].startswith(HERE)
    assert told["nat"]["mapping"] == "unknown"


def test_nobody_answers(deaf: str, capsys: pytest.CaptureFixture[str]) -> None:
    """That nothing listens for TCP there is an answer, too: TCP gets through."""
    assert main(["doctor", "--wait", "0.2", "-s", deaf, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    if examination.own():  # a machine without any network says that instead
        assert (told["verdict"], told["tcp"]) == ("udp-blocked", True)
    assert told["failures"] == {deaf: "it did not answer in time"}


def test_names_that_lead_nowhere(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(examination, "loopback", lambda: "")
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert main(["doctor", "-s", "stun.invalid"]) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "No network: nobody outside" in text
    assert "stun.invalid:3478: the name cannot be looked up" in text


def test_without_network_nobody_is_asked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(examination, "own", lambda: {4: "192.168.1.20"})
    monkeypatch.setattr(MultiHolepunchSocket, "discover", lambda *_: pytest.fail("asked somebody"))
    assert main(["doctor", "--no-network"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "Nobody was asked: this is what the machine itself tells."


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["-s", "no where"], "srmudp doctor: server: 'no where:3478': not a host name"),
        (["--no-network", "-s", "x"], "srmudp doctor: --no-network asks nobody"),
        (["-p", "70000"], "srmudp doctor: argument -p/--port: '70000' is not a port"),
    ],
)
def test_mistakes(words: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *words]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(hint)
    assert not captured.out


# --- what a router forgets


class Router(threading.Thread):
    """A STUN server that says what a NAT between us would make it see: other ports than ours."""

    def __init__(self) -> None:
        super().__init__(name="router")
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind((HERE, 0))
        self.address = Address(*self._sock.getsockname())
        self.shift = 1
        self.start()

    def run(self) -> None:
        while True:
            request, source = self._sock.recvfrom(2048)
            if not request:
                return
            seen = Address(source[0], (source[1] + self.shift - 1) % 65_535 + 1)
            name = parse_stun(request).transaction_id
            self._sock.sendto(StunMessage(StunClass.SUCCESS, name, xor_mapped=seen).encode(), source)

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self.address)
        self.join()
        self._sock.close()


@pytest.fixture
def router() -> Iterator[Router]:
    made = Router()
    yield made
    made.close()


def test_how_long_a_silent_port_is_remembered(router: Router) -> None:
    def wait(seconds: float) -> None:
        waited.append(round(seconds))
        if seconds > 59:
            router.shift = 7

    waited: list[int] = []
    said: list[str] = []
    assert lifetime(router.address, 120.0, said.append, wait=wait) == (30.0, 60.0, True)
    assert waited == [15, 30, 60]
    assert said[1:] == ["... still the same after 15 s", "... still the same after 30 s"]


def test_a_port_that_is_never_forgotten_and_one_that_would_come_again(router: Router) -> None:
    assert lifetime(router.address, 20.0, lambda _: None, wait=lambda _: None) == (20.0, None, True)
    router.shift = 0
    assert lifetime(router.address, 20.0, lambda _: None, wait=lambda _: None) == (20.0, None, False)


def test_what_a_prober_believes(router: Router) -> None:
    """Whom it asked, and nobody else; also a question that was made long comes back."""
    with Prober() as prober:
        assert prober.ask(router.address, 1400) == Address(HERE, prober.port + 1)
