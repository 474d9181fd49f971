"""The chat as a program, in pipes: what scripts meet. Real sockets on loopback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ..programs import Program, free_ports


def start(folder: Path, nick: str, *arguments: str) -> Program:
    """A chat whose files are in ``folder``."""
    return Program(["-m", "srmudp.chat", "-n", nick, *arguments], folder, {"XDG_DATA_HOME": str(folder)})


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_the_walk_of_the_documents(tmp_path: Path, host: str) -> None:
    here, there = free_ports(2)
    with start(tmp_path, "Alice", "-p", str(here), "--accept", "ask") as alice:
        assert alice.line_with(f"/add Alice 127.0.0.1:{here}")
        with start(tmp_path, "Bob", "-p", str(there)) as bob:
            bob.type(f"/add Alice {host}:{here}")
            assert f"at {host}:{there}) would like to come in." in alice.line_with("? Bob (key ")
            alice.type("y")
            assert alice.line_with("* Bob is here")
            assert bob.line_with("* Alice is here")
            for chat, other in ((alice, "Bob"), (bob, "Alice")):
                chat.type("/list")
                assert " connected " in chat.line_with(f"  {other}  ")
            alice.type("Hello, everyone!")
            assert bob.line_with("Alice: Hello, everyone!")
            alice.type("/msg Bob Hello, Bob!")
            assert bob.line_with("Alice to you alone: Hello, Bob!")
            bob.type("/save my_peers.json")
            assert bob.line_with("saved 1 in my_peers.json")
            bob.type("/quit")
            bob.finish()
        assert alice.line_with("* Bob has left")
        saved = json.loads((tmp_path / "my_peers.json").read_text("utf-8"))
        assert saved["Alice"]["address"] == f"{host}:{here}"
        with start(tmp_path, "Bob", "-p", str(there)) as bob:
            bob.type("/load my_peers.json")
            assert "(same key as before" in bob.line_with("* Alice is here")
            assert alice.line_with("* Bob is back")  # and nobody was asked again
            bob.type("Here I am again")
            bob.end_of_input()
            bob.finish()
        assert alice.line_with("Bob: Here I am again")
        alice.end_of_input()
        alice.finish()


def test_a_script_says_something_and_leaves(tmp_path: Path) -> None:
    """Its first line waits until those of the file are there; it ends when all is delivered."""
    (port,) = free_ports(1)
    (tmp_path / "peers.json").write_text(json.dumps({"Alice": f"127.0.0.1:{port}"}))
    with start(tmp_path, "Alice", "-p", str(port), "--accept", "all") as alice:
        assert alice.line_with("You are Alice")
        with start(tmp_path, "Bot", "-c", "peers.json") as bot:
            for number in range(700):
                bot.type(f"line {number}")
            bot.end_of_input()
            for number in range(700):
                assert alice.line_with("Bot: ").endswith(f"Bot: line {number}")
            bot.finish()
        alice.end_of_input()
        alice.finish()


def test_an_identity_belongs_to_one_chat_at_a_time(tmp_path: Path) -> None:
    with start(tmp_path, "Alice") as first:
        assert first.line_with("You are Alice")
        with start(tmp_path, "Alice") as second:
            assert second.process.wait(30) == 1
            second.line()
            assert (
                second.errors
                == "srmudp chat: Alice is chatting already, in another window: take another nick with -n\n"
            )
        with start(tmp_path, "alice") as third:
            assert third.line_with("You are alice")
            third.end_of_input()
            third.finish()
        first.end_of_input()
        first.finish()
    key = next(tmp_path.glob("srmudp/chat/alice-*/identity.key"))
    assert key.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-c", "nothing.json"], "srmudp chat: nothing.json: No such file or directory"),
        (["-c", "broken.json"], "srmudp chat: broken.json: line 1, column 2: "),
        (["-p", "70000"], "srmudp chat: --port must be between 0 and 65535, not 70000"),
        (["--identity", "broken.json"], "srmudp chat: "),
    ],
)
def test_what_cannot_be_is_told_in_one_line(tmp_path: Path, arguments: list[str], told: str) -> None:
    (tmp_path / "broken.json").write_text("{")
    with start(tmp_path, "Alice", *arguments) as chat:
        assert chat.process.wait(30) in (1, 2)
        assert chat.line() is None
    assert chat.errors.startswith(told)
    assert chat.errors.count("\n") == 1
