"""The house has rooms and the doors open one way: who may import whom, read from the source of every module.

Imports under ``if TYPE_CHECKING:`` cost nothing at run time and are exempt; ``pytest -rP`` prints their list.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "srmudp"
MAX_LINES = 800

GROUND = frozenset({"exceptions", "config", "models", "trace"})
ROOT = frozenset({"__init__", "__main__", "aio"})
APPLICATIONS = frozenset({"gossip", "chat", "cli", "files"})
BELOW_SOCKETS = frozenset({"wire", "crypto", "protocol", "nat", "peers", "transports", "routers", "rendezvous", "gate"})

MAY_IMPORT: dict[str, frozenset[str]] = {
    "ground": frozenset(),
    "wire": frozenset(),
    "crypto": frozenset(),
    "protocol": frozenset({"wire", "crypto"}),
    "nat": frozenset({"wire"}),
    "peers": frozenset({"wire", "crypto", "protocol", "nat"}),
    "routers": frozenset({"wire", "nat"}),
    "transports": frozenset(),
    "rendezvous": frozenset({"wire", "crypto", "nat"}),
    "gate": frozenset({"wire", "crypto", "transports"}),
    "sockets": BELOW_SOCKETS,
    **{room: BELOW_SOCKETS | {"sockets", "root"} | APPLICATIONS for room in APPLICATIONS},
    "root": BELOW_SOCKETS | {"sockets", "root"} | APPLICATIONS,
}
"""Rooms each room may import besides itself and the ground floor."""

NO_IO = frozenset({"socket", "threading", "time", "asyncio"})
FORBIDDEN_STDLIB: dict[str, frozenset[str]] = {
    "wire": NO_IO,
    "crypto": NO_IO,
    "protocol": NO_IO | {"os", "random"},
    "nat": NO_IO | {"os", "random"},
    "peers": NO_IO | {"os", "random"},
}

CRYPTO_LIBRARIES = frozenset({"Crypto", "Cryptodome", "cryptography", "nacl"})
CRYPTO_DOOR = "srmudp.crypto.backend"
MAY_USE_EXTRAS = APPLICATIONS | {"routers", "rendezvous", "gate"}
"""Rooms whose modules may import what the package's extras install."""


class Import(NamedTuple):
    """One imported module, absolute, and whether only a type checker sees it."""

    target: str
    line: int
    type_checking: bool


def room_of(module: str) -> str:
    """The room of a dotted module name that begins with srmudp."""
    parts = module.split(".")
    if len(parts) == 1 or parts[1] in ROOT:
        return "root"
    return "ground" if parts[1] in GROUND else parts[1]


def imports_of(source: str, module: str, *, is_package: bool, known: frozenset[str]) -> list[Import]:
    """Everything a module imports, wherever in the file, dynamic imports of constant names included.

    ``from x import y`` is an import of ``x.y`` if that is a module in ``known``, else of ``x``.
    """
    found: list[Import] = []
    package = module.split(".") if is_package else module.split(".")[:-1]

    def visit(node: ast.AST, type_checking: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, type_checking) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *(node.module.split(".") if node.module else [])])
            for alias in node.names:
                name = f"{origin}.{alias.name}"
                found.append(Import(name if name in known else origin, node.lineno, type_checking))
        elif isinstance(node, ast.Call) and (dynamic := dynamic_target(node)):
            level = len(dynamic) - len(dynamic.lstrip("."))
            base = package[: len(package) - level + 1] if level else []
            found.append(Import(".".join([*base, dynamic.lstrip(".")]), node.lineno, type_checking))
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for statement in node.body:
                visit(statement, True)
            for statement in node.orelse:
                visit(statement, type_checking)
            return
        for child in ast.iter_child_nodes(node):
            visit(child, type_checking)

    visit(ast.parse(source), False)
    return found


def dynamic_target(call: ast.Call) -> str:
    """The constant name given to ``import_module`` or ``__import__``, or an empty string."""
    function = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if function in ("import_module", "__import__") and call.args and isinstance(call.args[0], ast.Constant):
        return str(call.args[0].value)
    return ""


def faults_of(source: str, module: str, *, is_package: bool = False, known: frozenset[str]) -> list[str]:
    """What a module imports against the rules, one line of text each."""
    room = room_of(module)
    if room not in MAY_IMPORT:
        return [f"{module}: there is no room {room!r} in the table of this test"]
    faults: list[str] = []
    for target, line, type_checking in imports_of(source, module, is_package=is_package, known=known):
        if type_checking:
            continue
        top = target.split(".")[0]
        where = f"{module}:{line} imports {target}"
        if top == "srmudp":
            other = room_of(target)
            if other not in {room, "ground"} | MAY_IMPORT[room]:
                faults.append(f"{where}: {room} may not import {other}")
        elif top in CRYPTO_LIBRARIES:
            if module != CRYPTO_DOOR:
                faults.append(f"{where}: cryptographic libraries are touched in {CRYPTO_DOOR} only")
        elif top in FORBIDDEN_STDLIB.get(room, frozenset()):
            faults.append(f"{where}: {room} does no input or output and has no clock")
        elif top not in sys.stdlib_module_names and room not in MAY_USE_EXTRAS:
            faults.append(f"{where}: {room} uses the standard library only")
    return faults


def modules() -> dict[str, Path]:
    """Every module of the package by dotted name; packages by their own name."""
    found: dict[str, Path] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
KNOWN = frozenset(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_imports_respect_the_rooms(module: str) -> None:
    path = MODULES[module]
    faults = faults_of(path.read_text("utf-8"), module, is_package=path.name == "__init__.py", known=KNOWN)
    assert not faults, "\n".join(faults)


def test_type_checking_imports_are_listed() -> None:
    for module, path in MODULES.items():
        for target, line, type_checking in imports_of(
            path.read_text("utf-8"), module, is_package=path.name == "__init__.py", known=KNOWN
        ):
            if type_checking and target.startswith("srmudp") and room_of(target) != room_of(module):
                print(f"for the type checker only: {module}:{line} -> {target}")


@pytest.mark.parametrize("module", MODULES)
def test_modules_are_short_enough_to_read(module: str) -> None:
    assert len(MODULES[module].read_text("utf-8").splitlines()) <= MAX_LINES


def test_every_module_and_package_says_what_it_is() -> None:
    silent = [module for module, path in MODULES.items() if not ast.get_docstring(ast.parse(path.read_text("utf-8")))]
    assert not silent
    folders = {path.parent for path in MODULES.values()}
    assert not [folder for folder in folders if not (folder / "__init__.py").exists()]


def test_the_front_door_has_no_logic() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text("utf-8"))
    assert not list(logic_in(tree))


def logic_in(tree: ast.Module) -> Iterator[str]:
    """Statements other than a docstring, imports, and literals assigned to dunder names."""
    for number, node in enumerate(tree.body):
        if isinstance(node, ast.Import | ast.ImportFrom):
            continue
        if number == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        if targets and all(isinstance(t, ast.Name) and t.id.startswith("__") and t.id.endswith("__") for t in targets):
            try:
                ast.literal_eval(node.value)  # type: ignore[attr-defined]
                continue
            except ValueError:
                pass
        # logging.getLogger("srmudp").addHandler(logging.NullHandler()) is what a library owes its users
        if isinstance(node, ast.Expr) and ast.unparse(node).endswith(".addHandler(logging.NullHandler())"):
            continue
        yield f"line {node.lineno}: {ast.unparse(node)[:60]}"


# --- the checker itself ---

SOME = frozenset(
    ["srmudp", "srmudp.models", "srmudp.wire", "srmudp.wire.codec", "srmudp.crypto", "srmudp.crypto.noise"]
)
CHECKED = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    "


@pytest.mark.parametrize(
    ("module", "line", "allowed"),
    [
        ("srmudp.models", "from .exceptions import IdentityError", True),
        ("srmudp.models", "from .wire import codec", False),
        ("srmudp.wire.codec", "from ..models import Address", True),
        ("srmudp.wire.codec", "from . import packet", True),
        ("srmudp.wire.codec", "from ..crypto.noise import HandshakeState", False),
        ("srmudp.wire.codec", "from srmudp.crypto import noise", False),
        ("srmudp.wire.codec", "import srmudp.crypto.noise", False),
        ("srmudp.wire.codec", "from .. import models", True),
        ("srmudp.wire.codec", "from .. import MultiHolepunchSocket", False),
        ("srmudp.wire.codec", "def late():\n    import time", False),
        ("srmudp.wire.codec", "import os", True),
        ("srmudp.wire.codec", "import importlib\nimportlib.import_module('socket')", False),
        ("srmudp.wire.codec", "import importlib\nimportlib.import_module('..crypto.noise', __package__)", False),
        ("srmudp.wire.codec", CHECKED + "from ..peers import x", True),
        (
            "srmudp.wire.codec",
            CHECKED + "pass\nelse:\n    import time",
            False,
        ),
        ("srmudp.crypto.noise", "from ..wire import codec", False),
        ("srmudp.crypto.keys", "import os", True),
        ("srmudp.crypto.keys", "from Crypto.Cipher import AES", False),
        ("srmudp.crypto.backend", "from Crypto.Cipher import AES", True),
        ("srmudp.crypto.backend", "from cryptography.hazmat.primitives.ciphers.aead import AESGCM", True),
        ("srmudp.protocol.connection", "from ..wire import codec\nfrom ..crypto import noise", True),
        ("srmudp.protocol.connection", "from os import urandom", False),
        ("srmudp.protocol.connection", "import asyncio.events", False),
        ("srmudp.protocol.connection", "from ..nat import stun", False),
        ("srmudp.nat.stun", "from ..wire import stun", True),
        ("srmudp.nat.stun", "import random", False),
        ("srmudp.nat.stun", "from ..crypto import noise", False),
        ("srmudp.peers.endpoint", "from ..nat import stun\nfrom ..protocol import connection", True),
        ("srmudp.peers.endpoint", "import threading", False),
        ("srmudp.transports.udp", "import socket\nfrom ..config import Config", True),
        ("srmudp.transports.udp", "from ..wire import packet", False),
        ("srmudp.transports.udp", "import numpy", False),
        ("srmudp.rendezvous.file", "from ..peers import endpoint", False),
        ("srmudp.rendezvous.file", "from ..nat import candidates\nimport autonomi_client", True),
        ("srmudp.gate.client", "from ..transports import base", True),
        ("srmudp.gate.client", "from ..protocol import connection", False),
        ("srmudp.sockets.multi", "from ..peers import endpoint\nfrom ..gate import client\nimport threading", True),
        ("srmudp.sockets.multi", "from ..chat import session", False),
        ("srmudp.chat.session", "from .. import MultiHolepunchSocket\nimport rich", True),
        ("srmudp.cli.demo", "from Crypto.Cipher import AES", False),
        ("srmudp.__main__", "from .cli import main", True),
        ("srmudp.attic.junk", "", False),
    ],
)
def test_the_rules_bite(module: str, line: str, allowed: bool) -> None:
    assert (faults_of(line, module, known=SOME) == []) is allowed


def test_a_package_resolves_relative_imports_from_itself() -> None:
    assert imports_of("from .codec import Reader", "srmudp.wire", is_package=True, known=SOME) == [
        Import("srmudp.wire.codec", 1, False)
    ]
    assert faults_of("from ..crypto import noise", "srmudp.wire", is_package=True, known=SOME)


@pytest.mark.parametrize(
    ("source", "clean"),
    [
        ('"""Doc."""\nfrom .models import Address\n__all__ = ["Address"]\n__version__ = "1.0"', True),
        ('import logging\nlogging.getLogger("srmudp").addHandler(logging.NullHandler())', True),
        ("__all__: list[str] = []", True),
        ("DEBUG = True", False),
        ("__all__ = sorted(globals())", False),
        ("def __getattr__(name): ...", False),
        ("if 1:\n    import os", False),
    ],
)
def test_logic_is_noticed(source: str, clean: bool) -> None:
    assert (not list(logic_in(ast.parse(source)))) is clean
