"""The chat as a program, in pipes: what scripts meet. Real sockets on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path

import pytest

from srmudp.chat import main
from srmudp.chat.places import InUse
from srmudp.chat.session import Options, Session

from ..programs import Program, free_ports

EVERY = bool(os.environ.get("SRMUDP_CHAT_EVERY"))
"""The long forms of what is tested here."""


def start(folder: Path, nick: str, *arguments: str) -> Program:
    """A chat whose files are in ``folder``."""
    return Program(["-m", "srmudp.chat", "-n", nick, *arguments], folder, {"XDG_DATA_HOME": str(folder)})


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


def test_a_file_survives_a_killed_sender(tmp_path: Path) -> None:
    """With SRMUDP_CHAT_EVERY, 200 MB, killed after a quarter; else a small file that is sent twice."""
    size = 200_000_000 if EVERY else 1_000_000
    (port,) = free_ports(1)
    (tmp_path / "peers.json").write_text(json.dumps({"Alice": f"127.0.0.1:{port}"}))
    block = os.urandom(100_000)
    with open(tmp_path / "film.mkv", "wb") as file:
        for number in range(size // len(block)):
            file.write(number.to_bytes(8, "big") + block[8:])
    with start(tmp_path, "Alice", "-p", str(port), "--accept", "all", "--downloads", "in") as alice:
        assert alice.line_with("You are Alice")
        with start(tmp_path, "Bob", "-c", "peers.json") as bob:
            bob.type("/send Alice film.mkv")
            assert "offers you film.mkv" in alice.line_with("? Bob")
            alice.type("/accept")
            if EVERY:
                assert alice.line_with("█")  # the first quarter
                bob.process.kill()
                bob.process.wait()
            else:
                bob.end_of_input()
                bob.finish()
        if EVERY:
            with start(tmp_path, "Bob", "-c", "peers.json") as bob:
                bob.type("/send Alice film.mkv")
                bob.end_of_input()
                assert alice.line_with("goes on where it stopped")
                bob.finish()
        assert "film.mkv" in alice.line_with("from Bob is there: ")
        alice.end_of_input()
        alice.finish()
    with open(tmp_path / "film.mkv", "rb") as sent, open(tmp_path / "in" / "film.mkv", "rb") as received:
        digests = {hashlib.file_digest(file, "sha256").digest() for file in (sent, received)}
    assert len(digests) == 1
    assert os.listdir(tmp_path / "in") == ["film.mkv"]


def test_an_identity_belongs_to_one_chat_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    options = Options(nick="Alice")
    first = Session(options)
    try:
        with pytest.raises(InUse, match="Alice is chatting already, in another window"):
            Session(options)
        other = Session(Options(nick="alice"))
        assert other.sock.peer_id != first.sock.peer_id
        other.close()
    finally:
        first.close()
    again = Session(options)
    assert again.sock.peer_id == first.sock.peer_id
    again.close()
    for key in tmp_path.glob("srmudp/chat/*/identity.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    named = Session(Options(nick="Alice", identity=str(tmp_path / "my.key")))
    with pytest.raises(InUse, match="is in use by another chat"):
        Session(Options(nick="Bob", identity=str(tmp_path / "my.key")))
    named.close()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-c", "nothing.json"], "srmudp chat: nothing.json: No such file or directory"),
        (["-c", "broken.json"], "srmudp chat: broken.json: line 1, column 2: "),
        (["-p", "70000"], "srmudp chat: --port must be between 0 and 65535, not 70000"),
        (["--identity", "broken.json"], "srmudp chat: "),
        (["-n", "a\x1b[2Jb"], "srmudp chat: a nick must not have the control character"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    (tmp_path / "broken.json").write_text("{")
    assert main(["-n", "Alice", *arguments]) in (1, 2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(told)
    assert captured.err.count("\n") == 1
