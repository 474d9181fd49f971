"""The programs in examples/ run and do what their first lines say."""

from __future__ import annotations

import ast
import json
import re
import runpy
import signal
import socket
import sys
import urllib.request
from pathlib import Path

import pytest

from srmudp import Identity, MultiHolepunchSocket

from .programs import ROOT, Program, free_ports

EXAMPLES = ROOT / "examples"


def address_of(line: str | None) -> str:
    """What a server that prints its PeerId and its port can be reached at."""
    match = re.fullmatch(r"PeerId (\w{52}) port (\d+)", line or "")
    assert match, line
    return f"{match[1]}@127.0.0.1:{match[2]}"


def test_there_are_a_few_short_programs() -> None:
    programs = sorted(EXAMPLES.glob("*.py"))
    names = "bot.py chat_app.py echo.py filedrop.py notes.py sensors.py websocket_bridge.py"
    assert [path.name for path in programs] == names.split()
    for path in programs:
        text = path.read_text("utf-8")
        assert ast.get_docstring(ast.parse(text))
        assert len(text.splitlines()) < 110


@pytest.mark.parametrize("name", ["bot.py", "echo.py", "filedrop.py", "notes.py", "sensors.py", "websocket_bridge.py"])
def test_every_program_explains_itself(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "websocket_bridge.py":
        pytest.importorskip("websockets")
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert end.value.code == 0
    assert f"usage: {name}" in capsys.readouterr().out


def test_the_chat_is_the_one_of_the_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["chat_app.py", "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(EXAMPLES / "chat_app.py"), run_name="__main__")
    assert end.value.code == 0
    assert "usage: srmudp chat" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to a single process")
def test_echo(tmp_path: Path) -> None:
    with Program([EXAMPLES / "echo.py", "serve", "--key", "echo.key"], tmp_path) as server:
        address = address_of(server.line())
        with Program([EXAMPLES / "echo.py", "ask", address, "hello", "is anybody there?"], tmp_path) as client:
            answers = client.finish().splitlines()
        assert [re.sub(r"  \(\d+\.\d ms\)", "", answer) for answer in answers] == ["hello", "is anybody there?"]
        assert server.line_with("connected")
        assert server.line_with("its program ended")
        server.process.send_signal(signal.SIGINT)
        assert server.finish().endswith("stopped")
    assert (tmp_path / "echo.key").exists()


def test_echo_says_why_it_cannot_connect(tmp_path: Path) -> None:
    (nobody,) = free_ports(1)
    arguments = ["ask", f"127.0.0.1:{nobody}", "hello", "--patience", "2.5"]
    with Program([EXAMPLES / "echo.py", *arguments], tmp_path) as client:
        assert client.line() is None
        assert client.process.wait(20) == 1
    assert client.errors.startswith("cannot connect: no answer yet")


def test_notes_of_three_people(tmp_path: Path) -> None:
    ports = dict(zip(("alice", "bob", "carol"), free_ports(3), strict=True))

    def start(name: str) -> Program:
        others = [f"{other}=127.0.0.1:{port}" for other, port in ports.items() if other != name]
        arguments = ["--name", name, "--port", str(ports[name]), *others]
        return Program([EXAMPLES / "notes.py", *arguments], tmp_path)

    with start("alice") as alice, start("bob") as bob:
        alice.type("milk")
        assert bob.line_with("alice: milk")
        bob.type("bread \x1b[2J")
        assert alice.line_with("bob: bread ?[2J")
        with start("carol") as carol:  # who comes later gets what was written for her
            assert {carol.line_with(": ")[8:], carol.line_with(": ")[8:]} == {"alice: milk", "bob: bread ?[2J"}
            carol.type("honey")
            assert alice.line_with("carol: honey")
            assert bob.line_with("carol: honey")
            for program in (alice, bob, carol):
                program.end_of_input()
            for program in (alice, bob, carol):
                program.finish()
    for name in ports:
        lines = (tmp_path / f"{name}.notes").read_text("utf-8").splitlines()
        notes = {(note["author"], note["text"]) for note in map(json.loads, lines)}
        assert notes == {("alice", "milk"), ("bob", "bread \x1b[2J"), ("carol", "honey")}
        assert len(lines) == 3
        assert json.loads((tmp_path / f"{name}.peers.json").read_text("utf-8")).keys() == ports.keys() - {name}


def test_sensors_report_to_one_collector(tmp_path: Path) -> None:
    with Program([EXAMPLES / "sensors.py", "collect", "--count", "10"], tmp_path) as collector:
        address = address_of(collector.line())
        with MultiHolepunchSocket(name="joker", peers={"collector": address}) as joker:
            for nonsense in (b"\xff\xff", b"{}", b"[]", b'{"celsius": null}'):
                assert joker.send(nonsense, recipient="collector").wait(20)
        sense = [EXAMPLES / "sensors.py", "sense"]
        options = [address, "--count", "5", "--interval", "0.02"]
        with (
            Program([*sense, "kitchen", *options], tmp_path) as kitchen,
            Program([*sense, "cellar", *options], tmp_path) as cellar,
        ):
            printed = collector.finish().splitlines()
            assert kitchen.finish() == ""
            assert cellar.finish() == ""
    assert printed[:4] == ["joker sent nonsense"] * 4
    for name in ("kitchen", "cellar"):
        readings = [line.split() for line in printed if line.startswith(name)]
        assert [words[-1] for words in readings] == ["1", "2", "3", "4", "5"]
        assert all(abs(float(words[1]) - 20) < 3 for words in readings)


def test_the_drop_box_takes_from_members_alone(tmp_path: Path) -> None:
    member = Identity.load_or_create(tmp_path / "me.key")
    (tmp_path / "letter.txt").write_text("Dear box", "ascii")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"jpeg")
    with Program([EXAMPLES / "filedrop.py", "box", member.peer_id, "--folder", "inbox"], tmp_path) as owner:
        address = address_of(owner.line())
        drop = [EXAMPLES / "filedrop.py", "drop", address, "letter.txt", "photos"]
        with Program([*drop, "--key", "me.key"], tmp_path) as dropping:
            assert dropping.finish().split() == ["letter.txt", "done", "photos", "done"]
        assert owner.line_with("/inbox/letter.txt")
        assert owner.line_with("/inbox/photos")
        with Program([*drop, "--key", "other.key", "--patience", "1"], tmp_path) as stranger:
            assert stranger.process.wait(20) == 1
    assert (tmp_path / "inbox" / "letter.txt").read_text("ascii") == "Dear box"
    assert (tmp_path / "inbox" / "photos" / "a.jpg").read_bytes() == b"jpeg"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to a single process")
def test_the_bot_answers_many_at_once(tmp_path: Path) -> None:
    with Program([EXAMPLES / "bot.py"], tmp_path) as bot:
        address = address_of(bot.line())
        with MultiHolepunchSocket(peers={"bot": address}) as one, MultiHolepunchSocket(peers={"bot": address}) as two:
            for text in ("remind 0.5 tea is ready", "roll", "roll 3 20", "roll 0", "make tea", "\xff", "remind"):
                one.send(text.encode("latin-1"))
            two.send(b"time")
            message = two.receive(timeout=20)
            assert message is not None
            assert re.fullmatch(rb"\d\d:\d\d:\d\d", message.content)
            answers = [message.content.decode() for _ in range(7) if (message := one.receive(timeout=20)) is not None]
        understood = "I understand: roll [dice [sides]], time, remind SECONDS TEXT"
        assert re.fullmatch("[1-6]", answers[0])
        assert re.fullmatch(r"\d+ \d+ \d+", answers[1])
        assert answers[2:] == ["1 to 100 dice of 2 to 1000 sides", *[understood] * 3, "tea is ready"]
        bot.process.send_signal(signal.SIGINT)
        assert bot.finish() == "stopped"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to a single process")
def test_a_browser_and_a_peer_talk_over_the_bridge(tmp_path: Path) -> None:
    client = pytest.importorskip("websockets.sync.client")
    with socket.socket() as probe:  # for a moment of this machine
        probe.bind(("127.0.0.1", 0))
        web = probe.getsockname()[1]
    with MultiHolepunchSocket(name="bob") as bob:
        words = ["--name", "alice", "--web", web, f"bob={bob.peer_id}@127.0.0.1:{bob.port}"]
        with Program([EXAMPLES / "websocket_bridge.py", *words], tmp_path) as program:
            line = program.line() or ""
            bob.add_peer("alice", address_of(line.partition(";")[0]))
            with urllib.request.urlopen(f"http://localhost:{web}", timeout=20) as response:
                assert b"<script>" in response.read()
            url = f"ws://localhost:{web}"
            with pytest.raises(client.InvalidStatus):
                client.connect(url, origin="http://evil.example", proxy=None)
            with client.connect(url, origin=f"http://localhost:{web}", proxy=None) as browser:
                assert bob.send(b"good <b>morning</b>").wait(20)
                assert json.loads(browser.recv(timeout=20)) == {"who": "bob", "text": "good <b>morning</b>"}
                browser.send("Grüße")
                assert json.loads(browser.recv(timeout=20)) == {"who": "alice", "text": "Grüße"}
                message = bob.receive(timeout=20)
                assert message is not None
                assert (message.peer, message.content.decode()) == ("alice", "Grüße")
            program.process.send_signal(signal.SIGINT)
            assert program.finish() == "stopped"
