"""``srmudp send`` and ``srmudp recv`` as two people run them, through crashes."""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import re
import sys
from pathlib import Path
from time import monotonic, sleep

import pytest

from srmudp.cli import main
from srmudp.cli.text import Screen
from srmudp.cli.transfer import _show, _size
from srmudp.files import Transfer, TransferState

from .helpers import address_in, command

SIZE = int(os.environ.get("SRMUDP_TEST_MB", "5")) * 1_000_000
"""Bytes of the file that survives a crash; the full test is ``SRMUDP_TEST_MB=200``."""


def wait_until(path: Path, size: int) -> None:
    deadline = monotonic() + 40
    while not path.exists() or path.stat().st_size < size:
        assert monotonic() < deadline, path
        sleep(0.01)


def test_a_killed_sender_that_is_started_again_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "film.bin"
    file.write_bytes(hashlib.shake_128(b"film").digest(SIZE))
    with command(tmp_path, "recv", "--folder", "downloads", "--yes", "--once") as receiver:
        address = address_in(receiver.line_with("@"))
        with command(tmp_path, "send", file, address, "--rate", SIZE // 2) as sender:
            wait_until(tmp_path / "downloads" / "film.bin.part", SIZE // 4)
            sender.process.kill()
            sender.process.wait()
        with command(tmp_path, "send", file, address) as sender:
            said = sender.finish()
        heard = receiver.finish()
    assert "✓ film.bin" in said or "[ok] film.bin" in said
    assert " of it from before" in " ".join(said.split())
    assert "film.bin: " in heard
    assert "are here already, it goes on" in heard
    assert [path.name for path in (tmp_path / "downloads").iterdir()] == ["film.bin"]
    assert (tmp_path / "downloads" / "film.bin").read_bytes() == file.read_bytes()


def test_files_and_folders_one_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "photos" / "2024").mkdir(parents=True)
    (tmp_path / "photos" / "2024" / "a.jpg").write_bytes(b"jpeg")
    (tmp_path / "photos" / "empty").touch()
    (tmp_path / "letter.txt").write_bytes(b"Dear \x00 all")
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "letter.txt").write_bytes(b"mine")
    (tmp_path / "big").write_bytes(bytes(1_000_001))
    with command(tmp_path, "recv", "-f", "downloads", "-y", "--max-size", "1M") as receiver:
        address = address_in(receiver.line_with("@"))
        with command(tmp_path, "send", "photos/", "letter.txt", "big", address) as sender:
            said = sender.line_with(" photos, ")
            assert sender.line_with(" letter.txt, ")
            assert sender.line_with("refused: peer: at most 1,000,000 bytes are taken here")
            assert sender.process.wait(20) == 1
        receiver.process.kill()
    assert "photos, 4 B, a folder with 2 files" in said
    assert (tmp_path / "downloads" / "photos" / "2024" / "a.jpg").read_bytes() == b"jpeg"
    assert (tmp_path / "downloads" / "photos" / "empty").read_bytes() == b""
    assert (tmp_path / "downloads" / "letter (2).txt").read_bytes() == b"Dear \x00 all"
    assert (tmp_path / "downloads" / "letter.txt").read_bytes() == b"mine"


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_the_receiver_is_asked(tmp_path: Path) -> None:
    import pty
    import subprocess

    from ..programs import ROOT

    (tmp_path / "a\x1b[2J.txt").write_text("a", "ascii")
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_DATA_HOME": str(tmp_path / "data")}
    with subprocess.Popen(
        [sys.executable, "-m", "srmudp", "recv"],
        cwd=tmp_path, env=environment, stdin=theirs, stdout=subprocess.PIPE, text=True, encoding="utf-8",
    ) as receiver:  # fmt: skip
        os.close(theirs)
        assert receiver.stdout is not None
        receiver.stdout.readline()
        address = address_in(receiver.stdout.readline())
        with command(tmp_path, "send", "a\x1b[2J.txt", address) as sender:
            while "offers a_[2J.txt, 1 B." not in (line := receiver.stdout.readline()):
                assert line, "no question"
            os.write(ours, b"n\n")
            assert "refused: peer: no, thank you" in (sender.line_with("refused") or "")
            assert sender.process.wait(20) == 1
        receiver.kill()
    os.close(ours)


@pytest.mark.parametrize("words", [["send", "a"], ["pipe"], ["bench"]], ids=lambda words: words[0])
def test_nobody_there(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    (tmp_path / "a").touch()
    assert main([*words, "127.0.0.1:9", "--wait", "0.1"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"srmudp {words[0]}: cannot connect: ")
    assert captured.out == ""


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["send", "missing", "127.0.0.1:9"], "srmudp send: there is no 'missing'\n"),
        (["send", "127.0.0.1:9", "file"], "srmudp send: there is no '127.0.0.1:9'; files come first, ADDRESS last\n"),
        (["recv", "--yes", "--folder", __file__], "srmudp recv: cannot write into "),
        (["send", "/", "nowhere"], "srmudp send: "),
    ],
)
def test_mistakes(words: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 1
    assert capsys.readouterr().err.startswith(error)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [40, 60, 80, 100])
@pytest.mark.parametrize("state", [TransferState.PREPARING, TransferState.OFFERED, TransferState.MOVING])
def test_a_line_of_progress_fits_the_terminal(
    width: int, state: TransferState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    transfer = Transfer(1, "bob", True, "x" * 100, False, 1, 999_900_000, 99_990_000, 0, 1e5, state)
    with Screen(stream, color=False, width=width).progress(indent="") as bar:
        _show(bar, transfer, width)
    drawn = re.sub(r"\x1b\[K|[\r\n]", "", stream.getvalue())
    assert "x~  " in drawn
    assert len(drawn) < width
    assert state is not TransferState.MOVING or "100.0 kB/s" in drawn


@pytest.mark.parametrize(("text", "size"), [("500000", 500_000), ("500k", 500_000), ("2G", 2_000_000_000)])
def test_sizes(text: str, size: int) -> None:
    assert _size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "k", "1.5M", "2m", "٣"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        _size(text)
