"""What a typed line means; a typo never becomes a message."""

from __future__ import annotations

import pytest

from srmudp.chat.commands import COMMANDS, Call, Mistake, Say, completions, split_name, understand


@pytest.mark.parametrize("line", ["hello", "hello /list", "7 apples", "no", "yes", "4msgs", "-- well", "...", "msg me"])
def test_text_is_said(line: str) -> None:
    assert understand(line) == Say(line)


def test_two_slashes_say_one() -> None:
    assert understand("//etc/passwd is a file") == Say("/etc/passwd is a file")


@pytest.mark.parametrize("line", ["", "   ", "\t"])
def test_nothing_is_nothing(line: str) -> None:
    assert understand(line) is None


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("/lsit", "did you mean /list?"),
        ("/mgs Bob the secret", "did you mean /msg?"),
        ("/", "/help"),
        ("/xyzzy", "/help"),
        ("/msg", "usage: /msg <nick> <message>"),
        ("/msg Bob", "usage: /msg <nick> <message>"),
        ("/add Bob", "usage: /add <nick> <addr>"),
        ("/list all", "/list takes nothing"),
        ("7msg Bob the secret", "did you mean /msg?"),
        ("\\msg Bob the secret", "did you mean /msg?"),
        (".msg Bob the secret", "did you mean /msg?"),
        ("quit", "did you mean /quit?"),
        (":q", "did you mean /q?"),
    ],
)
def test_a_typo_is_not_a_message(line: str, hint: str) -> None:
    meant = understand(line)
    assert isinstance(meant, Mistake)
    assert hint in meant.text


@pytest.mark.parametrize("line", ["/msg Bob hi  there", "  /msg Bob hi  there ", "/MSG Bob hi  there"])
def test_a_command(line: str) -> None:
    assert understand(line) == Call(COMMANDS["msg"], "Bob hi  there")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("Bob hello you", ("Bob", "hello you")),
        ("bob hello", ("Bob", "hello")),
        ("Anna Maria hello", ("Anna Maria", "hello")),
        ("Anna hello", ("Anna", "hello")),
        ('"Anna Maria" hello', ("Anna Maria", "hello")),
        ("'Bob' x", ("Bob", "x")),
        ("Bobby hello", ("Bobby", "hello")),
        ("Nobody", ("Nobody", "")),
        ("", ("", "")),
    ],
)
def test_names_with_spaces_are_found(arguments: str, parts: tuple[str, str]) -> None:
    assert split_name(arguments, ["Bob", "Anna", "Anna Maria"]) == parts


def test_completion() -> None:
    names = ["Alice", "Bob", "Ben"]
    assert completions("/w", names) == (0, ["/whois"], False)
    assert completions("/msg b", names) == (5, ["Bob ", "Ben "], False)
    assert completions("/whois ", names) == (7, names, False)
    assert completions("/load my", names) == (6, [], True)
    assert completions("/send b", names) == (6, ["Bob ", "Ben "], False)
    assert completions("/send Bob pho", names) == (10, [], True)
    assert completions("/send * ", names) == (8, [], True)
    assert completions("/help q", names) == (6, ["quit"], False)
    for line in ("hello b", "//ms", "/frob x", "/list ", "/msg Bob hi"):
        assert completions(line, names)[1:] == ([], False)


def test_every_command_is_short_and_explained() -> None:
    for command in COMMANDS.values():
        assert len(command.line) <= 24
        assert len(command.about) <= 54
