"""``srmudp invite``: the text for people and for programs, and that it asks nobody who was not named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from srmudp import Invite, MultiHolepunchSocket, Trust
from srmudp.cli import main

from ..programs import Program


def test_for_programs_it_is_two_lines_of_json(tmp_path: Path) -> None:
    command = ["-m", "srmudp", "invite", "Bobby", "--json", "--no-discover", "-n", "Alice"]
    with Program(command, tmp_path) as program, MultiHolepunchSocket(name="Bob") as bob:
        shown = json.loads(program.line() or "")
        invite = Invite.parse(shown["invite"])
        assert (shown["name"], shown["peer_id"]) == ("Alice", str(invite.peer_id))
        assert shown["addresses"] == [str(address) for address in invite.addresses]
        bob.add_peer("alice", shown["invite"])
        came = json.loads(program.line() or "")
        assert (came["came"], came["peer_id"]) == ("Bobby", str(bob.peer_id))
        assert bob.connections_status["alice"].trust is Trust.PINNED
        program.finish()


def test_nobody_comes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["invite", "--json", "--no-discover", "--wait", "1"]) == 1
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 1
    assert captured.err == "srmudp invite: nobody came\n"


def test_an_invite_and_the_chat_that_begins_with_it(tmp_path: Path) -> None:
    """What the first shows, the second is given; then they talk. Nobody is asked about the guest."""
    data = {"XDG_DATA_HOME": str(tmp_path)}
    with Program(["-m", "srmudp", "invite", "--no-discover", "-n", "Alice"], tmp_path, data) as alice:
        alice.line_with("Send this to one person")
        text = alice.line_with("/add Alice srmudp:").rpartition(" ")[2]
        with Program(["-m", "srmudp", "chat", "-n", "Bob", "--no-discover", "--add", text], tmp_path, data) as bob:
            assert "by an invite" in alice.line_with("Bob is here")
            assert "by an invite" in bob.line_with("Alice is here")
            bob.type("It works.")
            alice.line_with("Bob: It works.")
            bob.end_of_input()
            bob.finish()
        alice.end_of_input()
        alice.finish()
    written = "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert "Alice" in written
    assert "srmudp:" not in written


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["invite", "--wait", "5"], "--wait goes with --json"),
        (["invite", "--json", "--wait", "99999999"], "30 days"),
        (["invite", "-s", "a:b:c"], "IPv6 address needs brackets"),
        (["chat", "--add", "192.0.2.1:8000"], "--add: whom? NICK=ADDR"),
        (["chat", "--add", "srmudp:abcdefghijklmnop"], "the invite is"),
        (["chat", "--add", "Bob=nowhere"], "no port"),
    ],
)
def test_mistakes_are_told_before_anything_is_opened(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert not captured.out
    assert hint in captured.err
