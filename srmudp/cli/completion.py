"""``srmudp completion``: what makes a shell complete the words of ``srmudp``, made from the parser itself.

The scripts are text that does not change: no program is started for a key press.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_EXAMPLES = """\
examples:
  eval "$(srmudp completion bash)"     in ~/.bashrc
  eval "$(srmudp completion zsh)"      in ~/.zshrc, after compinit
  srmudp completion fish > ~/.config/fish/completions/srmudp.fish
"""


def add_to(commands: Commands) -> None:
    """Add ``completion``."""
    parser = commands.add_parser(
        "completion",
        help="print what makes a shell complete srmudp's commands",
        description="A script for your shell, which then completes commands, options and files.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=sorted(_SHELLS), help="which shell")
    parser.set_defaults(run=_run)


class Option(NamedTuple):
    """One option of a command."""

    names: tuple[str, ...]
    takes: bool
    choices: tuple[str, ...]
    help: str


class Node(NamedTuple):
    """A command: its words (``("key", "new")``), its options, and the words that may follow."""

    path: tuple[str, ...]
    options: tuple[Option, ...]
    words: tuple[tuple[str, str], ...]

    @property
    def flags(self) -> list[str]:
        """Long names, and short ones where there is no long one."""
        return [next((n for n in option.names if n.startswith("--")), option.names[0]) for option in self.options]


def tree(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[Node]:
    """All commands below ``parser``, itself first."""
    options: list[Option] = []
    words: list[tuple[str, str]] = []
    below: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        choices: Any = action.choices
        if isinstance(action, argparse._SubParsersAction):
            below = choices
            words += [(choice.dest, choice.help or "") for choice in action._choices_actions]
        elif action.option_strings:
            names = tuple(action.option_strings)
            options.append(Option(names, action.nargs != 0, tuple(map(str, choices or ())), _help_of(action)))
        elif choices:
            words += [(str(choice), "") for choice in choices]
    yield Node(path, tuple(options), tuple(words))
    for name, child in below.items():
        yield from tree(child, (*path, name))


def _help_of(action: argparse.Action) -> str:
    text = (action.help or "") % {"default": action.default, "prog": "srmudp"}
    return " ".join(text.split())


def _run(arguments: argparse.Namespace) -> int:
    from . import build_parser

    sys.stdout.write(_SHELLS[arguments.shell](list(tree(build_parser()))))
    return 0


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _walk(nodes: list[Node]) -> list[str]:
    """The lines of a ``case`` that finds the command, for bash and zsh."""
    return [
        f"{_quoted('/'.join(node.path[:-1]) + ' ' + node.path[-1])}) at={_quoted('/'.join(node.path))} ;;"
        for node in nodes
        if node.path
    ]


def _choices(nodes: list[Node]) -> Iterator[tuple[str, str]]:
    """Patterns of ``path option``, and what may follow those; nothing for a file or any text."""
    free: list[str] = []
    for node in nodes:
        for option in node.options:
            patterns = [_quoted(f"{'/'.join(node.path)} {name}") for name in option.names]
            if option.choices:
                yield "|".join(patterns), " ".join(option.choices)
            elif option.takes:
                free += patterns
    yield "|".join(free), ""


def _bash(nodes: list[Node]) -> str:
    lines = [
        "_srmudp() {",
        '    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} at="" words="" i',
        "    for ((i = 1; i < COMP_CWORD; i++)); do",
        '        case "$at ${COMP_WORDS[i]}" in',
        *(f"            {line}" for line in _walk(nodes)),
        "        esac",
        "    done",
        "    COMPREPLY=()",
        '    case "$at $prev" in',
    ]
    for pattern, choices in _choices(nodes):
        lines.append(f'        {pattern}) COMPREPLY=($(compgen -W "{choices}" -- "$cur")); return ;;')
    lines += ["    esac", '    case "$at" in']
    for node in nodes:
        words = " ".join(word for word, _ in node.words)
        flags = " ".join(node.flags)
        lines.append(f"        {_quoted('/'.join(node.path))}) words='{words}'; [[ $cur == -* ]] && words='{flags}' ;;")
    lines += [
        "    esac",
        '    COMPREPLY=($(compgen -W "$words" -- "$cur"))',
        "}",
        "complete -o default -F _srmudp srmudp",
        "",
    ]
    return "\n".join(lines)


def _zsh(nodes: list[Node]) -> str:
    lines = [
        "#compdef srmudp",
        "_srmudp() {",
        '    local cur=$words[CURRENT] prev=$words[CURRENT-1] at="" i',
        "    local -a found",
        "    for ((i = 2; i < CURRENT; i++)); do",
        '        case "$at $words[i]" in',
        *(f"            {line}" for line in _walk(nodes)),
        "        esac",
        "    done",
        '    case "$at $prev" in',
    ]
    for pattern, choices in _choices(nodes):
        action = f"compadd -- {choices}" if choices else "_files"
        lines.append(f"        {pattern}) {action}; return ;;")
    lines += ["    esac", '    case "$at" in']
    for node in nodes:
        words = [_quoted(f"{word}:{help_}" if help_ else word) for word, help_ in node.words]
        flags = [
            _quoted(f"{name}:{option.help}" if option.help else name)
            for name, option in zip(node.flags, node.options, strict=True)
        ]
        lines.append(f"        {_quoted('/'.join(node.path))}) found=({' '.join(words)})")
        lines.append(f"            [[ $cur == -* ]] && found=({' '.join(flags)}) ;;")
    lines += [
        "    esac",
        "    if (( $#found )); then _describe command found; else _files; fi",
        "}",
        'if [[ $zsh_eval_context[-1] == loadautofunc ]]; then _srmudp "$@"; else compdef _srmudp srmudp; fi',
        "",
    ]
    return "\n".join(lines)


def _fish(nodes: list[Node]) -> str:
    lines = ["complete -c srmudp -e"]
    for node in nodes:
        seen = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in node.path) or "__fish_use_subcommand"
        names = " ".join(word for word, _ in node.words)
        fresh = f"; and not __fish_seen_subcommand_from {names}" if node.path and names else ""
        for word, help_ in node.words:
            lines.append(f"complete -c srmudp -f -n {_fished(seen + fresh)} -a {word} -d {_fished(help_)}")
        for option in node.options:
            parts = [f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in option.names]
            if option.choices:
                parts.append(f"-x -a {_fished(' '.join(option.choices))}")
            elif option.takes:
                parts.append("-r")
            lines.append(f"complete -c srmudp -n {_fished(seen)} {' '.join(parts)} -d {_fished(option.help)}")
    return "\n".join(lines) + "\n"


def _fished(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_SHELLS: dict[str, Callable[[list[Node]], str]] = {"bash": _bash, "fish": _fish, "zsh": _zsh}
