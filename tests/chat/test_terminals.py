"""The walk of the documents in real pseudo-terminals, and what a hostile peer can do to one."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("no pseudo-terminals on Windows", allow_module_level=True)
pytest.importorskip("prompt_toolkit")
pytest.importorskip("pyte")

from srmudp import Delivery, MultiHolepunchSocket, QueueFull
from srmudp.chat import letters

from ..programs import free_ports
from .terminals import Terminal

EVERY = bool(os.environ.get("SRMUDP_CHAT_EVERY"))
"""All combinations of the walk, not just two of them."""
FLOOD = 100_000 if EVERY else 4000
WALKS = [("[::1]", ()), ("127.0.0.1", ("--plain",))] + [("127.0.0.1", ()), ("[::1]", ("--plain",))] * EVERY


def start(folder: Path, nick: str, *arguments: str, **options: int) -> Terminal:
    """A chat in a terminal, whose files are in ``folder``."""
    return Terminal(["srmudp.chat", "-n", nick, *arguments], folder, {"XDG_DATA_HOME": str(folder)}, **options)


@pytest.mark.parametrize(("host", "how"), WALKS)
def test_the_walk_of_the_documents(tmp_path: Path, host: str, how: tuple[str, ...]) -> None:
    here, there = free_ports(2)
    alices, bobs = ("Alice", "-p", str(here), *how), ("Bob", "-p", str(there), *how)
    with start(tmp_path, *alices) as alice, start(tmp_path, *bobs) as bob:
        alice.wait_for(f"/add Alice 127.0.0.1:{here}")
        bob.wait_for(f"/add Bob 127.0.0.1:{there}")
        bob.type(f"/add Alice {host}:{here}")
        alice.wait_for("? Bob (key ", f"at {host}:{there}) would like to come in.")
        alice.type("/yes Bob")
        alice.wait_for("* Bob is here")
        bob.wait_for("* Alice is here")
        alice.type("/list")
        bob.type("/list")
        alice.wait_for("  Bob  connected  ")
        bob.wait_for("  Alice  connected  ")
        alice.type("Hello, everyone!")
        bob.wait_for("Alice: Hello, everyone!")
        if not how:
            alice.wait_for("you: Hello, everyone! ✓✓", "1 here (direct): Bob")
        alice.type("/msg Bob Hello, Bob!")
        bob.wait_for("Alice to you alone: Hello, Bob!")
        bob.type("/save my_peers.json")
        bob.wait_for("saved 1 in my_peers.json")
        bob.press(b"\x04")
        assert bob.finish() == 0
        assert bob.is_sane()
        alice.wait_for("* Bob has left")
        with start(tmp_path, *bobs) as again:
            again.wait_for("/add Bob")
            again.type("/load my_peers.json")
            again.wait_for("* Alice is here", "same key as before")
            alice.wait_for("* Bob is back")
            again.type("/quit")
            assert again.finish() == 0
        alice.press(b"\x03")
        assert alice.finish() == 0
        assert alice.is_sane()


@pytest.mark.parametrize("how", [(), ("--plain",)][: 1 + EVERY])
def test_attack_62_a_hostile_peer_breaks_no_terminal(tmp_path: Path, how: tuple[str, ...]) -> None:
    """Attack 62: escape sequences, nicks of a megabyte and a flood; nobody else is held up."""
    (port,) = free_ports(1)

    def letter(kind: letters.Kind, text: str) -> bytes:
        return letters.write(letters.Letter(kind, text))

    with start(tmp_path, "Alice", "-p", str(port), "--accept", "all", *how) as alice:
        alice.wait_for("/add Alice")
        peers = {"alice": f"127.0.0.1:{port}"}
        with MultiHolepunchSocket(name="Bob", peers=peers) as bob, MultiHolepunchSocket(name="Mal", peers=peers) as mal:
            assert bob.wait_connected(timeout=20)
            for text in ("\x1b[2J\x1b]0;owned\x07\x9b5mred", "a\r\nAlice: faked", "\u202egnp.exe", "\x1bc\x1b[?1049l"):
                mal.send(letter(letters.Kind.ALL, text), "alice")
            mal.send(b"\x01\x01" + b"N" * 2**20, "alice")
            mal.send(os.urandom(5000), "alice")
            alice.wait_for(r"Mal: \x1b[2J\x1b]0;owned\x07\x9b5mred", r"Mal: a\r\nAlice: faked", r"Mal: \u202egnp.exe")
            flood: list[Delivery] = []
            with contextlib.suppress(QueueFull):  # as many as the socket takes at once
                for number in range(FLOOD):
                    flood.append(mal.send(letter(letters.Kind.ALL, f"{number} spam"), "alice", timeout=0))
            assert bob.send(letter(letters.Kind.ALL, "Can you read me?"), "alice").wait(10)
            alice.wait_until_shown("Bob: Can you read me?")  # others' lines go on, 40 in less than two seconds
            assert sum(delivery.delivered != frozenset() for delivery in flood) < len(flood) / 2
            alice.type("/block Mal")
            alice.wait_for("blocked Mal")
            alice.type("/msg Bob Yes.")
            message = bob.receive(20)
            while message is not None and b"Yes." not in message.content:
                message = bob.receive(20)
            assert message is not None
            mal.close(timeout=0)
        for hostile in (b"\x1b]0;", b"\x9b", b"\x07", b"\x1bc"):
            assert hostile not in bytes(alice.raw).replace("✓".encode(), b"").replace("…".encode(), b"")
        alice.type("/quit")
        assert alice.finish() == 0
        assert alice.is_sane()
