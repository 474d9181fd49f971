"""The names srmudp exports, their signatures, and that their documentation says what callers must know."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import srmudp
from srmudp import Delivery, MultiHolepunchSocket

EXPORTED = [
    "Address",
    "AuthenticationError",
    "Candidate",
    "CandidateKind",
    "Config",
    "DecodeError",
    "Delivery",
    "DiscoveryFailed",
    "EventKind",
    "Explanation",
    "Identity",
    "IdentityError",
    "Invite",
    "LocalProtocolError",
    "MappedPort",
    "Message",
    "MessageTooBig",
    "MultiHolepunchSocket",
    "NatBehaviour",
    "NatTraits",
    "Packet",
    "Peer",
    "PeerEvent",
    "PeerId",
    "PeerState",
    "PeerStats",
    "PeerStatus",
    "PortMappingFailed",
    "PublicAddress",
    "QueueFull",
    "RemoteProtocolError",
    "SecureReliableSocket",
    "SeenAddress",
    "SocketClosed",
    "SrmudpError",
    "Trust",
    "UnknownPeer",
    "__version__",
    "bin2packet",
    "get_formal_address_format",
    "get_mtu_linux",
    "impaired",
    "packet2bin",
]

SIGNATURES = {
    "__init__": "(port=0, peers=None, *, host='', name=None, identity=None, known_peers=None, accept=False, "
    "serve_stun=False, timeout=21.0, span=3.0, config=None, wire='native')",
    "send": "(data, recipient=None, *, channel=0, reliable=True, ttl=None, timeout=None, priority=0)",
    "receive": "(timeout=None)",
    "add_peers": "(peers, *, wire=None)",
    "add_peer": "(name, spec, *, wire=None)",
    "invite": "(expires=3600.0, name=None)",
    "remove_peer": "(name)",
    "remove_peers": "(names)",
    "trust": "(name, peer_id=None)",
    "explain": "(name)",
    "forget": "(name)",
    "admit": "(peer_id, allow=True)",
    "verification_code": "(name)",
    "register_message_hook": "(hook)",
    "unregister_message_hook": "(hook)",
    "on_event": "(hook)",
    "off_event": "(hook)",
    "wait_connected": "(names=None, timeout=None)",
    "discover": "(servers=None, timeout=5.0, *, filtering=False)",
    "map_port": "(timeout=12.0)",
    "getsockname": "()",
    "fileno": "()",
    "close": "(timeout=None)",
}
PROPERTIES = {"addresses", "candidates", "connections_status", "drops", "is_closed", "name", "peer_id", "port"}

MUST_SAY = {
    "add_peers": ("ValueError", "SocketClosed", "background"),
    "remove_peer": ("UnknownPeer",),
    "remove_peers": ("UnknownPeer",),
    "trust": ("UnknownPeer", "LocalProtocolError", "ValueError", "IdentityError"),
    "explain": ("UnknownPeer",),
    "forget": ("UnknownPeer",),
    "admit": ("SocketClosed",),
    "verification_code": ("UnknownPeer", "LocalProtocolError"),
    "wait_connected": ("seconds", "UnknownPeer"),
    "discover": ("seconds", "DiscoveryFailed", "ValueError", "SocketClosed", "STUN_SERVERS"),
    "map_port": ("seconds", "PortMappingFailed", "LocalProtocolError", "SocketClosed", "upnp"),
    "send": (
        *("UnknownPeer", "MessageTooBig", "QueueFull", "SocketClosed", "TypeError", "ValueError", "seconds"),
        *("0 to 63", "bytes"),
    ),
    "receive": ("seconds", "None"),
    "register_message_hook": ("thread", "TypeError"),
    "unregister_message_hook": ("ValueError",),
    "on_event": ("thread", "TypeError"),
    "off_event": ("ValueError",),
    "getsockname": ("SocketClosed",),
    "fileno": ("-1",),
    "close": ("seconds", "Idempotent"),
}
"""Words without which a method's documentation would leave a caller guessing: errors, threads, units."""


def test_star_import_brings_exactly_the_public_names() -> None:
    names: dict[str, Any] = {}
    exec("from srmudp import *", names)
    del names["__builtins__"]
    assert sorted(names) == sorted(EXPORTED) == sorted(srmudp.__all__)
    assert re.fullmatch(r"\d+\.\d+\.\d+", srmudp.__version__)


def without_annotations(function: Callable[..., Any]) -> str:
    """The signature as a caller writes it: names, kinds and defaults, without ``self``."""
    signature = inspect.signature(function)
    empty = inspect.Parameter.empty
    parameters = [parameter.replace(annotation=empty) for parameter in signature.parameters.values()]
    return str(inspect.Signature(parameters[1:]))


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_of_the_socket(name: str) -> None:
    assert without_annotations(getattr(MultiHolepunchSocket, name)) == SIGNATURES[name]


def test_the_socket_has_no_other_public_members() -> None:
    public = {name for name in dir(MultiHolepunchSocket) if not name.startswith("_")}
    assert public == {*SIGNATURES, *PROPERTIES} - {"__init__"}
    for name in PROPERTIES:
        assert isinstance(inspect.getattr_static(MultiHolepunchSocket, name), property), name
    for name in ("__enter__", "__exit__", "__iter__", "__repr__"):
        assert name in members(MultiHolepunchSocket)


def test_public_functions_are_annotated() -> None:
    for _, function in documented():
        if inspect.isfunction(function):
            signature = inspect.signature(function)
            for parameter in list(signature.parameters.values())[1:]:
                assert parameter.annotation is not inspect.Parameter.empty, (function, parameter)
            assert signature.return_annotation is not inspect.Parameter.empty, function


def documented() -> Iterator[tuple[str, Any]]:
    """Every public name and every public member of the public classes that is written in srmudp."""
    for name in srmudp.__all__:
        value = getattr(srmudp, name)
        if name == "__version__":
            continue
        yield name, value
        if inspect.isclass(value):
            for member, found in members(value).items():
                function = found.__func__ if isinstance(found, classmethod | staticmethod) else found
                if not member.startswith("_") and (inspect.isfunction(function) or isinstance(function, property)):
                    yield f"{name}.{member}", function


def members(value: type) -> dict[str, Any]:
    """What a class has by itself or from a base that is written in srmudp."""
    written = [base for base in reversed(value.__mro__) if base.__module__.split(".")[0] == "srmudp"]
    return {name: found for base in written for name, found in vars(base).items()}


DOCUMENTED = dict(documented())


@pytest.mark.parametrize("name", DOCUMENTED)
def test_everything_public_says_what_it_is(name: str) -> None:
    documentation = DOCUMENTED[name].__doc__
    assert documentation, name
    first = inspect.cleandoc(documentation).split("\n\n")[0]
    assert first.rstrip()[-1] in ".:", first
    assert not first.startswith(name.split(".")[-1] + "("), "a NamedTuple's or dataclass's own text is not enough"


@pytest.mark.parametrize("name", MUST_SAY)
def test_methods_of_the_socket_say_what_callers_must_know(name: str) -> None:
    documentation = inspect.getdoc(getattr(MultiHolepunchSocket, name)) or ""
    assert [word for word in MUST_SAY[name] if word not in documentation] == []


def test_threads_forks_and_signals_are_spoken_of() -> None:
    documentation = inspect.getdoc(MultiHolepunchSocket) or ""
    for word in ("thread", "signal", "fork", "pickled", "seconds", "IdentityError", "OSError", "ValueError"):
        assert word in documentation
    assert "Thread-safe" in (Delivery.__doc__ or "")
    assert "threads" in (srmudp.Config.__doc__ or "")


@pytest.mark.parametrize("name", DOCUMENTED)
def test_arguments_are_described_by_their_true_names(name: str) -> None:
    value = DOCUMENTED[name]
    documentation = inspect.getdoc(value) or ""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", documentation, re.MULTILINE)
    if section is None or isinstance(value, property):
        return
    indent = re.match(r" *", section[1])
    assert indent is not None
    described = re.findall(rf"^{indent[0]}(\w+): ", section[1], re.MULTILINE)
    assert described
    assert set(described) <= set(inspect.signature(value).parameters), described


def examples(documentation: str) -> Iterator[str]:
    """Indented blocks after a paragraph that ends with two colons."""
    lines = documentation.splitlines()
    for number, line in enumerate(lines):
        if not line.rstrip().endswith("::"):
            continue
        indent = len(line) - len(line.lstrip())
        block: list[str] = []
        for following in lines[number + 1 :]:
            if following.strip() and len(following) - len(following.lstrip()) <= indent:
                break
            block.append(following)
        yield textwrap.dedent("\n".join(block)).strip() + "\n"


EXAMPLES = [
    (name, example)
    for name, value in [("srmudp", srmudp), *DOCUMENTED.items()]
    for example in examples(inspect.getdoc(value) or "")
    if ">>>" not in example
]


@pytest.mark.parametrize(("name", "example"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_examples_are_valid_and_use_what_there_is(name: str, example: str) -> None:
    kind = srmudp.SecureReliableSocket if name.startswith("SecureReliableSocket") else MultiHolepunchSocket
    for node in ast.walk(ast.parse(example)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sock":
            assert hasattr(kind, node.attr), node.attr
        if isinstance(node, ast.Name) and node.id[0].isupper() and node.id != "Counter":
            assert hasattr(srmudp, node.id), node.id


def test_there_are_examples_where_a_beginner_looks() -> None:
    with_example = {name for name, _ in EXAMPLES}
    assert with_example >= {
        *("srmudp", "MultiHolepunchSocket", "MultiHolepunchSocket.add_peers", "MultiHolepunchSocket.send"),
        *("Delivery", "Peer", "Config", "Identity", "impaired"),
    }


@pytest.mark.parametrize("module", ["models", "config", "exceptions", "sockets.multi", "sockets.delivery"])
def test_prompts_in_documentation_show_what_happens(module: str) -> None:
    assert doctest.testmod(importlib.import_module(f"srmudp.{module}")).failed == 0


def test_every_exception_is_the_builtin_one_would_expect() -> None:
    expected: dict[str, type[Exception]] = {
        "DecodeError": ValueError,
        "IdentityError": ValueError,
        "LocalProtocolError": RuntimeError,
        "MessageTooBig": ValueError,
        "QueueFull": TimeoutError,
        "SocketClosed": ConnectionError,
        "UnknownPeer": KeyError,
    }
    for name in srmudp.__all__:
        value = getattr(srmudp, name)
        if inspect.isclass(value) and issubclass(value, Exception):
            assert issubclass(value, srmudp.SrmudpError)
            assert issubclass(value, expected.get(name, Exception))


def test_the_socket_as_a_context_manager_and_its_repr() -> None:
    with MultiHolepunchSocket(host="127.0.0.1") as sock:
        assert re.fullmatch(
            rf"<MultiHolepunchSocket open 127\.0\.0\.1:{sock.port} peers=0 peer_id={sock.peer_id}>", repr(sock)
        )
        assert sock.getsockname() == ("127.0.0.1", sock.port)
        assert not sock.is_closed
    assert sock.is_closed
    assert sock.fileno() == -1
    assert repr(sock).startswith("<MultiHolepunchSocket closed ")
    with pytest.raises(srmudp.SocketClosed):
        sock.getsockname()
