"""Files of peers."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from srmudp.chat.book import Book, Entry, parse, read, serialise, write

from .fakes import peer_id_of

BOB = peer_id_of("Bob")


def test_what_is_written_by_hand() -> None:
    text = '{"Alice": "192.168.1.100:8000", "Bob": {"address": "[2001:db8::1]:8001"}, "C": "KEY@c.example:1"}'
    assert parse(text.replace("KEY", str(BOB)).encode()) == {
        "Alice": Entry(("192.168.1.100:8000",)),
        "Bob": Entry(("[2001:db8::1]:8001",)),
        "C": Entry(("c.example:1",), BOB),
    }
    assert parse(b"\xef\xbb\xbf{}") == {}


def test_round_trip() -> None:
    entries = {
        "Bob": Entry(("192.0.2.1:1", "b.example:2"), BOB, verified=True),
        "Eve": Entry((), peer_id_of("Eve"), blocked=True),
        "Zoë": Entry(("192.0.2.1:1",)),
    }
    assert parse(serialise(entries)) == entries


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"", "line 1, column 1"),
        (b'{"Alice": "192.0.2.1:1",\n "Bob" "x"}', "line 2, column 8"),
        (b"[]", "expected an object"),
        (b'"Alice"', "expected an object"),
        (b'{"Alice": 5}', "a number"),
        (b'{"Alice": NaN}', "a number"),
        (b'{"Alice": ' + b"9" * 500_000 + b"}", "a number"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"A": {"address": ["x"]}}', "must be a text"),
        (b'{"\\ud800": "192.0.2.1:1"}', "control character"),
        (b'{"A": "\\ud800:1"}', "host name"),
        (b'{"A\\u001b[2J": "192.0.2.1:1"}', "control character"),
        (b'{"\xff": "192.0.2.1:1"}', "line 1: not UTF-8"),
        (b'{"A": "192.0.2.1:1", "A": "192.0.2.1:2"}', "twice"),
        (b'{"A": "192.0.2.1"}', "no port"),
        (b'{"A": "192.0.2.1:99999"}', "port"),
        (b'{"A": null}', "expected an address"),
        (b'{"A": {}}', "neither an address nor"),
        (b'{"A": {"adress": "192.0.2.1:1"}}', "there is no 'adress'"),
        (b'{"A": {"address": "192.0.2.1:1", "peer_id": "abc"}}', "not a PeerId"),
        (b'{"A": {"address": "192.0.2.1:1", "verified": true}}', "needs a peer_id"),
        (b'{"A": {"address": "192.0.2.1:1", "verified": "yes"}}', "true or false"),
        (b'{"' + b"A" * 65 + b'": "192.0.2.1:1"}', "at most 64 bytes"),
        (json.dumps({f"p{n}": "192.0.2.1:1" for n in range(1001)}).encode(), "more than 1000 peers"),
        (b"{" + b" " * 1024 * 1024 + b"}", "larger than 1024 KiB"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_attack_65_broken_files_are_refused_in_one_line(content: bytes, hint: str) -> None:
    """Attack 65."""
    with pytest.raises(ValueError) as error:
        parse(content)
    assert hint in str(error.value)
    assert len(str(error.value)) < 500
    assert "\n" not in str(error.value)


def test_never_over_an_existing_file_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    path.write_text("precious")
    with pytest.raises(FileExistsError):
        write(str(path), {}, overwrite=False)
    assert path.read_text() == "precious"
    write(str(path), {}, overwrite=True)
    assert read(str(path)) == {}
    assert os.listdir(tmp_path) == ["peers.json"]


@pytest.mark.skipif(os.name != "posix", reason="modes and links as on POSIX systems")
def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "peers.json"
    target.write_text("precious")
    link.symlink_to(target)
    with pytest.raises(FileExistsError):
        write(str(link), {}, overwrite=False)
    write(str(link), {"A": Entry(("192.0.2.1:1",))}, overwrite=True)
    assert target.read_text() == "precious"
    assert not link.is_symlink()
    assert stat.S_IMODE(link.stat().st_mode) == 0o600


def test_only_files_are_read(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        read(str(tmp_path))
    with pytest.raises(ValueError, match="regular file"):
        read(os.devnull)


def test_a_book_keeps_what_it_is_told(tmp_path: Path) -> None:
    path = str(tmp_path / "peers.json")
    book = Book(path)
    book.put("Bob", Entry(("192.0.2.1:1",), BOB))
    book.put("Eve", Entry((), peer_id_of("Eve"), blocked=True))
    again = Book(path)
    assert again.get("Bob") == Entry(("192.0.2.1:1",), BOB)
    assert (again.known, again.blocked) == ({BOB}, {peer_id_of("Eve")})
    assert again.named(BOB) == "Bob"
    assert (again.names(), again.blocked_names()) == (["Bob"], ["Eve"])
    assert again.drop("Bob")
    assert not again.drop("Bob")
    assert Book(path).known == frozenset()


def test_a_broken_book_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"peers\.json: line 1"):
        Book(str(path))
    assert path.read_text() == "{"


def test_a_full_book_forgets_those_it_knows_least() -> None:
    book = Book()
    book.put("friend", Entry((), BOB, verified=True))
    for number in range(1100):
        book.put(f"p{number}", Entry((f"192.0.2.1:{number + 1}",)))
    assert len(book.names()) == 1000
    assert "friend" in book.names()
    assert "p1099" in book.names()
