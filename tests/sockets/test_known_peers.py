"""The known-peers file."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from srmudp.exceptions import IdentityError
from srmudp.models import Address, PeerId
from srmudp.sockets.known_peers import MAX_FILE, KnownPeer, KnownPeers

ALICE = PeerId(bytes(range(32)))
OTHER = PeerId(bytes(range(1, 33)))
HERE = Address("192.0.2.1", 8000)
V6 = Address("2001:db8::1", 8000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "known"


def test_a_missing_file_is_empty_and_not_made_unasked(path: Path) -> None:
    known = KnownPeers(path)
    known.save()
    assert len(known) == 0
    assert not path.exists()


def test_what_is_written_is_read_back(path: Path) -> None:
    known = KnownPeers(path)
    known.record("alice", ALICE, pinned=False, address=HERE)
    known.record("名", OTHER, pinned=True, address=V6)
    known.save()
    assert json.loads(path.read_text()) == {
        "alice": {"peer_id": str(ALICE), "pinned": False, "addresses": ["192.0.2.1:8000"]},
        "名": {"peer_id": str(OTHER), "pinned": True, "addresses": ["[2001:db8::1]:8000"]},
    }
    again = KnownPeers(path)
    assert again.get("alice") == KnownPeer(ALICE, False, (HERE,))
    assert again.get("名") == KnownPeer(OTHER, True, (V6,))
    assert again.get("bob") is None


def test_a_pin_stays_and_a_new_key_starts_afresh(path: Path) -> None:
    known = KnownPeers(path)
    known.record("a", ALICE, pinned=True, address=HERE)
    known.record("a", ALICE, pinned=False, address=V6)
    assert known.get("a") == KnownPeer(ALICE, True, (V6, HERE))
    known.record("a", OTHER, pinned=False)
    assert known.get("a") == KnownPeer(OTHER, False, ())


def test_addresses_are_bounded(path: Path) -> None:
    known = KnownPeers(path)
    for port in range(1, 10):
        known.record("a", ALICE, pinned=False, address=Address("192.0.2.1", port))
    entry = known.get("a")
    assert entry is not None
    assert [a.port for a in entry.addresses] == [9, 8, 7, 6]


def test_forget(path: Path) -> None:
    known = KnownPeers(path)
    known.record("a", ALICE, pinned=True)
    assert known.forget("a")
    assert not known.forget("never there")
    known.save()
    assert json.loads(path.read_text()) == {}


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_the_file_is_private_whatever_the_umask(path: Path) -> None:
    """Attack 44."""
    old = os.umask(0)
    try:
        known = KnownPeers(path)
        known.record("a", ALICE, pinned=True)
        known.save()
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["known"]


@pytest.mark.skipif(os.name != "posix", reason="symbolic links")
def test_a_symbolic_link_is_replaced_not_followed(path: Path) -> None:
    """Attack 44."""
    target = path.parent / "victim"
    target.write_text("{}")
    target.chmod(0o600)
    path.symlink_to(target)
    known = KnownPeers(path)
    known.record("a", ALICE, pinned=True)
    known.save()
    assert target.read_text() == "{}"
    assert not path.is_symlink()


def test_a_failed_write_keeps_the_old_file_and_the_change(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = KnownPeers(path)
    known.record("a", ALICE, pinned=True)
    known.save()
    before = path.read_text()
    known.record("b", OTHER, pinned=True)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            known.save()
    assert path.read_text() == before
    assert os.listdir(path.parent) == ["known"]
    known.save()
    assert set(json.loads(path.read_text())) == {"a", "b"}


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("[]", 1),
        ("{", 1),
        ('{\n\n "a": }', 3),
        ('{\n "a": 5}', 2),
        ('{\n "a": {"peer_id": "short"}}', 2),
        ('{\n "a": {"pinned": true}}', 2),
        (f'{{\n "a": {{"peer_id": "{ALICE}"}},\n "b": {{"peer_id": "{OTHER}", "pinned": 1}}}}', 3),
        (f'{{\n "a": {{"peer_id": "{ALICE}", "addresses": "192.0.2.1:1"}}}}', 2),
        (f'{{\n "a": {{"peer_id": "{ALICE}", "addresses": ["nonsense"]}}}}', 2),
        (f'{{\n "a": {{"peer_id": "{ALICE}"}},\n\n "a": {{"peer_id": "{OTHER}"}}}}', 4),
        (f'{{\n\n "a\\nb": {{"peer_id": "{ALICE}"}}}}', 3),
        ("[" * 100_000, 1),
    ],
)
def test_a_bad_file_is_refused_with_the_line(path: Path, content: str, line: int) -> None:
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(IdentityError, match=rf"known, line {line}\b"):
        KnownPeers(path)


def test_bytes_that_are_no_text(path: Path) -> None:
    path.write_bytes(b'{\n"\xff": 1}')
    path.chmod(0o600)
    with pytest.raises(IdentityError, match="line 2"):
        KnownPeers(path)


def test_too_large_a_file(path: Path) -> None:
    path.write_bytes(b" " * (MAX_FILE + 1))
    path.chmod(0o600)
    with pytest.raises(IdentityError, match="larger"):
        KnownPeers(path)


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_a_file_others_may_write_is_refused(path: Path) -> None:
    path.write_text("{}")
    path.chmod(0o620)
    with pytest.raises(IdentityError, match="chmod 600"):
        KnownPeers(path)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IdentityError):
        KnownPeers(tmp_path)
