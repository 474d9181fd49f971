"""The command line itself: help that teaches, mistakes in one line, exit statuses."""

from __future__ import annotations

import subprocess
import sys

import pytest

from srmudp import SrmudpError, __version__, cli
from srmudp.cli import demo, main


def test_help_teaches_by_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for line in ("srmudp demo ", "srmudp send ", "srmudp key new me.key", "srmudp key code me.key PEERID"):
        assert line in out
    assert max(map(len, out.splitlines())) <= 79


@pytest.mark.parametrize(
    "command", ["demo", "chat", "invite", "send", "recv", "pipe", "bench", "doctor", "key", "completion"]
)
def test_each_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"usage: srmudp {command}" in out
    assert "examples:" in out


@pytest.mark.parametrize("command", ["demo", "invite", "send", "recv", "pipe", "bench", "doctor", "completion"])
def test_help_fits_a_terminal(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([command, "--help"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"srmudp {__version__}\n"


def test_no_command_shows_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    captured = capsys.readouterr()
    assert not captured.out
    assert "examples:" in captured.err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["dmeo"], "srmudp: there is no 'dmeo'; did you mean 'demo'?"),
        (["frobnicate"], "srmudp: there is no 'frobnicate'; there are: demo, "),
        (["key", "sow", "x"], "srmudp key: there is no 'sow'; did you mean 'show'?"),
        (["key"], "srmudp key: the following arguments are required: ACTION"),
        (["demo", "--limit", "0"], "srmudp demo: argument --limit: '0' is not a number of seconds above 0"),
        (["demo", "--limit", "soon"], "srmudp demo: argument --limit: 'soon' is not a number of seconds above 0"),
        (["bench"], "srmudp bench: whom? give ADDRESS, or --listen and have the other one give yours"),
        (["pipe", "-p", "70000", "x"], "srmudp pipe: argument -p/--port: '70000' is not a port, 0 to 65535"),
        (["recv"], "srmudp recv: there is no terminal to ask at: say --yes to take everything"),
        (["recv", "--only", "me"], "srmudp recv: argument --only: not a PeerId: 'me'"),
        (["recv", "--max-size", "2X"], "srmudp recv: argument --max-size: '2X' is not a size"),
        (["bench", "-s", "0", "x"], "srmudp bench: argument -s/--seconds: '0' is not a number of seconds from 0.1"),
        (["\x1b[2J"], "srmudp: there is no '\\x1b[2J'"),
    ],
)
def test_mistakes_are_told_in_one_line(words: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err.splitlines()
    assert error[0].startswith(hint)
    assert error[1].startswith("try: srmudp")
    assert len(error) == 2


@pytest.mark.parametrize(
    ("raised", "status", "told"),
    [
        (KeyboardInterrupt(), 130, "\nstopped\n"),
        (SrmudpError("no\x1bgood"), 1, "srmudp: no\\x1bgood\n"),
        (OSError(98, "Address already in use"), 1, "srmudp: [Errno 98] Address already in use\n"),
        (SystemExit(143), 143, ""),
    ],
)
def test_what_ends_a_command_early(
    raised: BaseException,
    status: int,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(demo, "Cast", fail)
    assert main(["demo"]) == status
    assert capsys.readouterr().err == told


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "srmudp", "--version"], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout) == (0, f"srmudp {__version__}\n")


def test_a_reader_that_goes_away_is_no_drama() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "srmudp", "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process, process.stdout, process.stderr:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(20) == 1


def test_commands_are_a_list_to_be_added_to() -> None:
    assert all(callable(module.add_to) for module in cli._COMMANDS)
