"""``srmudp completion``: the scripts, in the shells they are for where those are installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from srmudp.cli import build_parser, main
from srmudp.cli.completion import tree

LINES = [
    ("srmudp se", ["send"]),
    ("srmudp key ", ["code", "new", "show"]),
    ("srmudp key s", ["show"]),
    ("srmudp send --ra", ["--rate"]),
    ("srmudp --vers", ["--version"]),
    ("srmudp completion ", ["bash", "fish", "zsh"]),
    ("srmudp chat --accept k", ["known"]),
]


@pytest.fixture
def script(request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The script for the shell that is the parameter; skipped if that is not installed."""
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    assert main(["completion", request.param]) == 0
    path = tmp_path / "script"
    path.write_text(capsys.readouterr().out, "utf-8")
    return path


def run(shell: str, script: str, *words: object) -> list[list[str]]:
    """What the script printed: one line for each of ``LINES``."""
    done = subprocess.run([shell, *map(str, words), "-c", script], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")
    return [sorted(line.split()) for line in done.stdout.splitlines()]


def words_of(line: str) -> str:
    """The words of a command line as shells count them: behind a space there is an empty one."""
    return line + ('""' if line.endswith(" ") else "")


@pytest.mark.parametrize("script", ["bash"], indirect=True)
def test_bash(script: Path) -> None:
    asked = [f"COMP_WORDS=({words_of(line)})" for line, _ in LINES]
    calls = [f'{words}; COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _srmudp; echo "${{COMPREPLY[*]}}"' for words in asked]
    text = "\n".join([f"set -eu; source {script}", *calls])
    assert run("bash", text, "--norc") == [found for _, found in LINES]


@pytest.mark.parametrize("script", ["zsh"], indirect=True)
def test_zsh(script: Path) -> None:
    stubs = "compdef() { }; _files() { print }; _describe() { print -- ${${(P)2}%%:*} }; compadd() { print -- ${@:2} }"
    asked = [f"words=({words_of(line)})" for line, _ in LINES]
    text = "\n".join([stubs, f"source {script}", *(f"{words}; CURRENT=$#words; _srmudp" for words in asked)])
    for (line, expected), found in zip(LINES, run("zsh", text, "-f"), strict=True):
        last = "" if line[-1] == " " else line.split()[-1]
        assert [word for word in found if word.startswith(last)] == expected  # zsh itself takes those that begin so


@pytest.mark.parametrize("script", ["fish"], indirect=True)
def test_fish(script: Path) -> None:
    calls = [f"echo (complete -C '{line}' | string split -f 1 \\t)" for line, _ in LINES]
    assert run("fish", "\n".join([f"source {script}", *calls]), "--no-config") == [found for _, found in LINES]


@pytest.mark.parametrize("shell", ["bash", "fish", "zsh"])
def test_nothing_is_left_out(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    nodes = list(tree(build_parser()))
    assert ("key", "new") in [node.path for node in nodes]
    for node in nodes:
        for word in (*node.path, *(flag.lstrip("-") for flag in node.flags)):
            assert word in text
