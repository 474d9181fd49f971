"""``srmudp pipe``: any bytes both ways, each direction with its own end, and an exit status that is true."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from srmudp import Delivery, Message, MultiHolepunchSocket
from srmudp.cli.pipe import ABORT, CHANNEL, DATA, DONE, END, HELLO, Broken, _Pipe

from ..programs import ROOT
from .helpers import address_in

PIPE = [sys.executable, "-m", "srmudp", "pipe"]


@contextmanager
def pipe(folder: Path, *words: str, stdin: Any = subprocess.PIPE, stdout: Any = subprocess.PIPE) -> Iterator[Any]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_DATA_HOME": str(folder / "data")}
    process = subprocess.Popen(
        [*PIPE, *words], cwd=folder, env=environment, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def address_of(process: Any) -> str:
    assert "types" in process.stderr.readline().decode()
    return address_in(process.stderr.readline().decode().rstrip("\n"))


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs tar")
def test_tar_both_ways_at_once(tmp_path: Path) -> None:
    folders = {}
    for name in ("here", "there"):
        folders[name] = tmp_path / name
        folders[name].mkdir()
        (folders[name] / "inner").mkdir()
        (folders[name] / "inner" / f"{name}.bin").write_bytes(hashlib.shake_128(name.encode()).digest(3_000_000))
        (folders[name] / f"{name}.sh").write_bytes(b"\x00\xff\r\n\x1a")
        (folders[name] / f"{name}.sh").chmod(0o755)
        (folders[name] / "from").mkdir()

    def pack(name: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["tar", "c", "-C", str(folders[name]), "--exclude=from", "."], stdout=subprocess.PIPE)

    def unpack(name: str, stream: IO[bytes]) -> int:
        return subprocess.run(["tar", "x", "-C", str(folders[name] / "from")], stdin=stream, timeout=40).returncode

    with pack("here") as one, pack("there") as two, ExitStack() as stack:
        here = stack.enter_context(pipe(tmp_path, "--listen", stdin=one.stdout))
        other = stack.enter_context(pipe(tmp_path, address_of(here), stdin=two.stdout))
        assert unpack("there", other.stdout) == 0
        assert unpack("here", here.stdout) == 0
        assert (here.wait(20), other.wait(20)) == (0, 0)
        assert other.stderr.read() == b""
    for name, other in (("here", "there"), ("there", "here")):
        received = folders[name] / "from"
        assert (received / "inner" / f"{other}.bin").read_bytes() == (
            folders[other] / "inner" / f"{other}.bin"
        ).read_bytes()
        assert (received / f"{other}.sh").stat().st_mode & 0o777 == 0o755


class End:
    """One end within this process: what it reads from and writes to are pipes."""

    def __init__(self, sock: MultiHolepunchSocket, name: str) -> None:
        self.sock = sock
        self.source, self.stdin = os.pipe()
        self.stdout, self.target = os.pipe()
        self.outcome = ""
        meeting: Any = self
        self._pipe = _Pipe(meeting, name, source=self.source, target=self.target)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._pipe.run()
            self.outcome = "all went well"
        except Broken as error:
            self.outcome = str(error)

    def check(self, name: str, *, ended_is_over: bool) -> None:
        """There is always hope."""

    def shut(self, *descriptors: int) -> None:
        for descriptor in descriptors:
            os.close(descriptor)

    def shut_source(self) -> None:
        """Once nobody reads it any more."""
        for thread in threading.enumerate():
            if thread.name == "srmudp-pipe":
                thread.join(20)
        os.close(self.source)

    def finish(self) -> str:
        self._thread.join(20)
        return self.outcome


@pytest.fixture
def ends() -> Iterator[tuple[End, End]]:
    with MultiHolepunchSocket() as one, MultiHolepunchSocket() as two:
        one.add_peer("two", f"{two.peer_id}@127.0.0.1:{two.port}")
        two.add_peer("one", f"{one.peer_id}@127.0.0.1:{one.port}")
        yield End(one, "two"), End(two, "one")
        for sock in (one, two):
            sock.close(0.0)  # nobody takes any more what is still under way


def test_each_direction_ends_by_itself(ends: tuple[End, End]) -> None:
    here, there = ends
    there.shut(there.stdin)
    os.write(here.stdin, b"one\n")
    assert os.read(there.stdout, 100) == b"one\n"
    assert os.read(here.stdout, 100) == b""  # its end is seen while the other direction goes on
    os.write(here.stdin, b"two")
    here.shut(here.stdin)
    assert os.read(there.stdout, 100) == b"two"
    assert os.read(there.stdout, 100) == b""
    assert (here.finish(), there.finish()) == ("all went well", "all went well")
    for end in ends:
        end.shut(end.stdout, end.target)
        end.shut_source()


def test_a_reader_that_goes_away_is_told_at_both_ends(ends: tuple[End, End]) -> None:
    here, there = ends
    here.shut(here.stdout)
    os.write(there.stdin, b"something")
    assert here.finish() == "cannot write the output: Broken pipe"
    assert there.finish() == "the other end gave up: cannot write the output: Broken pipe"
    for end in ends:
        end.shut(end.stdin, end.target)
    there.shut(there.stdout)
    for end in ends:
        end.shut_source()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to a single process")
def test_an_end_that_is_stopped_is_a_failure_at_the_other(tmp_path: Path) -> None:
    with pipe(tmp_path, "-l") as here, pipe(tmp_path, address_of(here)) as there:
        there.stdin.write(b"something")
        there.stdin.flush()
        assert here.stdout.read(9) == b"something"
        there.send_signal(signal.SIGINT)
        assert (there.wait(20), here.wait(20)) == (130, 1)
        assert b"srmudp pipe: the other end gave up: stopped" in here.stderr.read()


# --- what may come in what order ---


class FakeMeeting:
    """A meeting with somebody whose messages are given."""

    def __init__(self, *messages: bytes) -> None:
        self.sock = self
        self.sent: list[bytes] = []
        self._messages = list(messages)

    def send(self, data: bytes, name: str, **_: object) -> Delivery:
        self.sent.append(data)
        return Delivery()

    def receive(self, timeout: float) -> Message | None:
        assert self._messages, "nothing more comes, and it has not ended"
        return Message(self._messages.pop(0), "peer", 0.0, None, CHANNEL)

    def check(self, name: str, *, ended_is_over: bool) -> None:
        pass

    def close(self, timeout: float) -> None:
        pass


HI = HELLO + bytes(16)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([DATA + b"x"], "this program was started again"),
        ([HI, HELLO + b"x" * 16], "the other program was started again"),
        ([HI, ABORT + b"no\xff" + b"x" * 1000], "the other end gave up: no"),
        ([HI, END, END], "speaks another language"),
        ([HI, END, DATA + b"x"], "speaks another language"),
        ([HI, b"\x63"], "speaks another language"),
        ([b""], "started again"),
    ],
)
def test_what_breaks_a_pipe(messages: list[bytes], reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Pipe, "_close_output", lambda self: None)
    meeting: Any = FakeMeeting(*messages)
    with pytest.raises(Broken, match=reason):
        _Pipe(meeting, "peer", receive_only=True).run()
    assert meeting.sent[0][:1] == HELLO
    assert meeting.sent[1] == END
    assert (meeting.sent[-1][:1] == ABORT) is (messages[-1][:1] != ABORT)


def test_done_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Pipe, "_close_output", lambda self: None)
    meeting: Any = FakeMeeting(HI, HI, DONE, END)
    _Pipe(meeting, "peer", receive_only=True).run()
    assert meeting.sent[-1] == DONE


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
def test_what_is_typed_after_the_end_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a terminal we end when the other one does; a line that is typed just then would be bytes after our end."""
    monkeypatch.setattr(_Pipe, "_close_output", lambda self: None)
    master, terminal = os.openpty()

    class Typing(FakeMeeting):
        def receive(self, timeout: float) -> Message | None:
            if len(self._messages) == 1:
                os.write(master, b"too late\n")
                for thread in threading.enumerate():
                    if thread.name == "srmudp-pipe":
                        thread.join(10)
            return super().receive(timeout)

    meeting: Any = Typing(HI, END, DONE)
    try:
        _Pipe(meeting, "peer", source=terminal).run()
    finally:
        os.close(master)
        os.close(terminal)
    assert [message[:1] for message in meeting.sent] == [HELLO, DONE, END]
