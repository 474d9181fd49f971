"""The programs in examples/ run and do what their first lines say."""

from __future__ import annotations

import ast
import json
import re
import runpy
import signal
import sys
from pathlib import Path

import pytest

from srmudp import MultiHolepunchSocket

from .programs import ROOT, Program, free_ports

EXAMPLES = ROOT / "examples"


def address_of(line: str | None) -> str:
    """What a server that prints its PeerId and its port can be reached at."""
    match = re.fullmatch(r"PeerId (\w{52}) port (\d+)", line or "")
    assert match, line
    return f"{match[1]}@127.0.0.1:{match[2]}"


def test_there_are_a_few_short_programs() -> None:
    programs = sorted(EXAMPLES.glob("*.py"))
    assert [path.name for path in programs] == ["chat_app.py", "echo.py", "notes.py", "sensors.py"]
    for path in programs:
        text = path.read_text("utf-8")
        assert ast.get_docstring(ast.parse(text))
        assert len(text.splitlines()) < 110


@pytest.mark.parametrize("name", ["echo.py", "notes.py", "sensors.py"])
def test_every_program_explains_itself(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
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
