"""``srmudp key``: files, PeerIds, codes; one line for each mistake and never a secret."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from srmudp import Identity, MultiHolepunchSocket
from srmudp.cli import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "me.key"
    assert main(["key", "new", str(path)]) == 0
    return path


def seed_of(path: Path) -> str:
    found = re.search("seed ([0-9a-f]{64})", path.read_text("ascii"))
    assert found is not None
    return found[1]


def test_new_makes_a_private_file_that_loads(key: Path, capsys: Capture) -> None:
    other = key.with_name("other.key")
    assert main(["key", "new", str(other)]) == 0
    identity = Identity.load(other)
    assert identity != Identity.load(key)
    assert f"PeerId  {identity.peer_id}\n" in capsys.readouterr().out
    if os.name == "posix":
        assert other.stat().st_mode & 0o777 == 0o600


def test_new_leaves_what_is_there(key: Path, capsys: Capture) -> None:
    before = key.read_bytes()
    assert main(["key", "new", str(key)]) == 1
    assert key.read_bytes() == before
    assert "exists and is left as it is" in capsys.readouterr().err


def test_new_does_not_write_through_a_dangling_link(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert main(["key", "new", str(tmp_path / "link")]) == 1
    assert not (tmp_path / "target").exists()


def test_show_tells_all_but_the_secret(key: Path, capsys: Capture) -> None:
    capsys.readouterr()
    assert main(["key", "show", str(key)]) == 0
    captured = capsys.readouterr()
    peer_id = Identity.load(key).peer_id
    fields = dict(line.split(None, 1) for line in captured.out.splitlines())
    assert fields["PeerId"] == str(peer_id)
    assert fields["tag"] == str(peer_id)[:4]
    assert fields["file"] == str(key)
    if os.name == "posix":
        assert fields["mode"] == "0600 (only you can read it)"


def test_the_seed_is_never_printed(key: Path, tmp_path: Path, capsys: Capture) -> None:
    seed = seed_of(key)
    other = Identity.generate()
    for words in (["show", str(key)], ["code", str(key), str(other.peer_id)], ["code", str(key), seed]):
        main(["key", *words])
    damaged = tmp_path / "damaged.key"
    damaged.write_text(key.read_text("ascii").replace("seed", "sead"), "ascii")
    damaged.chmod(0o600)
    assert main(["key", "show", str(damaged)]) == 1
    captured = capsys.readouterr()
    # What the user typed himself may be quoted; the file's content may not.
    quoted = [line for line in (captured.out + captured.err).splitlines() if seed in line]
    assert all(line.startswith("srmudp key: not a PeerId") for line in quoted)
    assert not [line for line in quoted if "seed" in line]


def test_both_ends_compute_the_code_that_their_sockets_show(tmp_path: Path, capsys: Capture) -> None:
    alice, bob = tmp_path / "alice.key", tmp_path / "bob.key"
    ids = [Identity.load_or_create(path).peer_id for path in (alice, bob)]
    assert main(["key", "code", str(alice), str(ids[1])]) == 0
    assert main(["key", "code", str(bob), f"{ids[0]}@192.0.2.1:8000"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == lines[2:]
    assert re.fullmatch(r"(\d{5} ){11}\d{5}", " ".join(lines[:2]))
    with (
        MultiHolepunchSocket(host="127.0.0.1", identity=alice) as one,
        MultiHolepunchSocket(host="127.0.0.1", identity=bob) as two,
    ):
        one.add_peer("bob", ("127.0.0.1", two.port))
        two.add_peer("alice", ("127.0.0.1", one.port))
        assert one.wait_connected("bob", 10.0)
        assert one.verification_code("bob") == " ".join(lines[:2])


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["show", "absent"], "there is no file 'absent'; 'srmudp key new FILE' makes an identity"),
        (["code", "absent", "x"], "there is no file 'absent'"),
        (["show", "."], "is a directory"),
        (["show", "no\x1b[2J"], "there is no file 'no\\x1b[2J'"),
        (["new", "absent/me.key"], "cannot write identity file"),
        (["code", "me.key", "junk"], "not a PeerId: 'junk'"),
        (["code", "me.key", "a" * 52], "small order"),
        (["code", "me.key", "SELF"], "that is your own PeerId"),
    ],
)
def test_mistakes_take_one_line(
    words: list[str], hint: str, key: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(key.parent)
    own = str(Identity.load(key).peer_id)
    capsys.readouterr()
    assert main(["key", *(own if word == "SELF" else word for word in words)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("srmudp key: ")
    assert hint in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_a_file_open_to_others_is_refused(key: Path, capsys: Capture) -> None:
    key.chmod(0o644)
    assert main(["key", "show", str(key)]) == 1
    assert "chmod 600" in capsys.readouterr().err
