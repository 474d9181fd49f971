"""Every block of Python in README.md and TUTORIAL.md is run as it stands and prints what it says it prints.

A block after ``<!-- program: NAME -->`` is a program of its own and runs in a process of its own; the other blocks of
the tutorial are one session at a prompt, in order, with the output that stands below each. Only addresses are
substituted: those of machines that are not there by 127.0.0.1, and ports by ones that are free here.
"""

from __future__ import annotations

import contextlib
import doctest
import inspect
import io
import json
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import srmudp
from srmudp import MultiHolepunchSocket, SecureReliableSocket

from .programs import ROOT, Program, free_ports
from .sockets.pairs import free_port

README = ROOT / "README.md"
TUTORIAL = ROOT / "TUTORIAL.md"
DOCUMENTS = (README, TUTORIAL)


class Block(NamedTuple):
    """A block of Python, what it is said to print (None: nothing is said), and where it stands."""

    document: Path
    line: int
    program: str | None
    code: str
    printed: str | None


def fences(document: Path) -> list[tuple[int, str, str, str]]:
    """(line of the first code line, language, code, the HTML comment just before or '')."""
    found: list[tuple[int, str, str, str]] = []
    lines = document.read_text("utf-8").splitlines()
    number = 0
    while number < len(lines):
        opening = re.fullmatch(r"```(\w*)", lines[number])
        if opening is None:
            number += 1
            continue
        end = lines.index("```", number + 1)
        before = lines[number - 1]
        comment = before if before.startswith("<!--") else ""
        found.append((number + 2, opening[1], "\n".join(lines[number + 1 : end]) + "\n", comment))
        number = end + 1
    return found


def blocks(document: Path) -> list[Block]:
    """All blocks of Python with their outputs."""
    found: list[Block] = []
    all_fences = fences(document)
    printed_by = {
        match[1]: code
        for _, language, code, comment in all_fences
        if language == "text" and (match := re.fullmatch(r"<!-- prints: (\w+) -->", comment))
    }
    for index, (line, language, code, comment) in enumerate(all_fences):
        if language != "python":
            continue
        match = re.fullmatch(r"<!-- program: (\w+) -->", comment)
        name = match[1] if match else None
        printed = printed_by.get(name) if name else None
        following = all_fences[index + 1] if index + 1 < len(all_fences) else None
        after = line + code.count("\n") + 2
        if following is not None and following[1] == "text" and following[0] == after:
            printed = following[2]
        found.append(Block(document, line, name, code, printed))
    return found


BLOCKS = {document: blocks(document) for document in DOCUMENTS}
PROGRAMS = {block.program: block for document in DOCUMENTS for block in BLOCKS[document] if block.program is not None}


def substituted(code: str, addresses: dict[str, str]) -> str:
    """``code`` with each of the texts, which must all be there, replaced."""
    for old, new in addresses.items():
        assert old in code, old
        code = code.replace(old, new)
    return code


def write(folder: Path, name: str, addresses: dict[str, str]) -> Path:
    """A program of the documents as a file."""
    path = folder / f"{name}.py"
    path.write_text(substituted(PROGRAMS[name].code, addresses), "utf-8")
    return path


# --- the first program ---

PEER = """
import json, sys
from srmudp import MultiHolepunchSocket

port, address, greeting, count = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
with MultiHolepunchSocket(port=port, peers={"sock": address}) as sock:
    if greeting:
        sock.send(greeting.encode(), recipient="sock")
    print("ready", flush=True)
    got = []
    while len(got) < count and (message := sock.receive(timeout=30)) is not None:
        got.append(message.content.decode())
    more = sock.receive(timeout=0.3)
    print(json.dumps([got, more is None]), flush=True)
"""
TO_PEER1 = ["Hello, everyone!", "Hello, peer1", "Hello, both"]
TO_PEER2 = ["Hello, everyone!", "Hello, both"]


def first_program() -> Block:
    (block,) = (block for block in BLOCKS[README] if block.program is None and "peer1" in block.code)
    return block


def peer(port: int, sock_port: int, greeting: str, expected: list[str], cwd: Path) -> Program:
    return Program(["-c", PEER, str(port), f"127.0.0.1:{sock_port}", greeting, str(len(expected))], cwd)


def first_program_here(folder: Path) -> tuple[Path, int, int, int]:
    """The block as a file, and the ports of sock, peer1 and peer2."""
    mine, one, two = free_ports(3)
    path = folder / "first.py"
    # "localhost" goes through the resolver, as example.com would. Port 8000 may be free only until another test has it.
    addresses = {
        "port=8000": f"port={mine}",
        "192.168.1.100:8001": f"127.0.0.1:{one}",
        "example.com:8002": f"localhost:{two}",
    }
    path.write_text(substituted(first_program().code, addresses), "utf-8")
    return path, mine, one, two


def test_the_first_program_with_peers_that_are_there_already(tmp_path: Path) -> None:
    path, mine, one, two = first_program_here(tmp_path)
    with peer(one, mine, "Welcome", TO_PEER1, tmp_path) as peer1, peer(two, mine, "", TO_PEER2, tmp_path) as peer2:
        assert (peer1.line(), peer2.line()) == ("ready", "ready")
        before = time.time()
        with Program([path], tmp_path) as program:
            printed = program.finish()
        assert json.loads(peer1.finish()) == [TO_PEER1, True]
        assert json.loads(peer2.finish()) == [TO_PEER2, True]
    content, name, timestamp = printed.split()
    assert (content, name) == ("b'Welcome'", "peer1")
    assert before - 1 <= float(timestamp) <= time.time() + 1


def test_the_first_program_with_peers_that_come_three_seconds_later(tmp_path: Path) -> None:
    path, mine, one, two = first_program_here(tmp_path)
    with Program([path], tmp_path) as program:
        time.sleep(3.0)  # the case itself: nobody is there when the messages are sent, nor when peer1 is removed
        with peer(one, mine, "", TO_PEER1, tmp_path) as peer1, peer(two, mine, "", TO_PEER2, tmp_path) as peer2:
            assert (peer1.line(), peer2.line()) == ("ready", "ready")
            assert json.loads(peer1.finish()) == [TO_PEER1, True]
            assert json.loads(peer2.finish()) == [TO_PEER2, True]
            assert program.finish() == ""


# --- two people ---


@pytest.mark.parametrize(("prefix", "first"), [("readme_", "alice"), ("", "bob")])
def test_two_people_on_two_machines(prefix: str, first: str, tmp_path: Path) -> None:
    to_alice, to_bob = free_ports(2)
    changes = {
        "alice": {"port=8000": f"port={to_alice}", "192.168.1.30:8001": f"127.0.0.1:{to_bob}"},
        "bob": {"port=8001": f"port={to_bob}", "192.168.1.20:8000": f"127.0.0.1:{to_alice}"},
    }
    files = {who: write(tmp_path, prefix + who, changes[who]) for who in changes}
    second = "bob" if first == "alice" else "alice"
    with Program([files[first]], tmp_path) as one, Program([files[second]], tmp_path) as two:
        printed = {first: one.finish(), second: two.finish()}
    if prefix:
        assert printed == {"alice": "bob: With pleasure. You have white.", "bob": "alice: Shall we play chess?"}
    else:
        assert printed == {who: str(PROGRAMS[who].printed).rstrip("\n") for who in printed}


def test_two_people_in_two_homes(tmp_path: Path) -> None:
    ports = dict(zip(("alice", "bob"), free_ports(2), strict=True))
    with MultiHolepunchSocket(serve_stun=True) as server:
        files = {
            who: write(
                tmp_path,
                f"home_{who}",
                {old: f"port={ports[who]}", "sock.discover()": f'sock.discover(("127.0.0.1", {server.port}))'},
            )
            for who, old in (("alice", "port=8000"), ("bob", "port=8001"))
        }
        with Program([files["alice"]], tmp_path) as alice, Program([files["bob"]], tmp_path) as bob:
            printed: dict[str, list[str]] = {"alice": [], "bob": []}

            def lines(program: Program, who: str, until: str) -> str:
                while True:
                    line = program.line()
                    assert line is not None, (printed, program.errors)
                    printed[who].append(line)
                    if line.startswith(until):
                        return line

            bob.type(lines(alice, "alice", "srmudp:"))
            alice.type(lines(bob, "bob", "srmudp:"))
            printed["alice"].append(alice.finish())
            printed["bob"].append(bob.finish())
    for who, got in printed.items():
        said = str(PROGRAMS[f"home_{who}"].printed)
        assert doctest.OutputChecker().check_output(said, "\n".join(got) + "\n", doctest.ELLIPSIS), got


def test_the_same_with_asyncio(tmp_path: Path) -> None:
    to_alice, to_bob = free_ports(2)
    alice = write(
        tmp_path, "readme_asyncio", {"port=8000": f"port={to_alice}", "192.168.1.30:8001": f"127.0.0.1:{to_bob}"}
    )
    bob = write(tmp_path, "readme_bob", {"port=8001": f"port={to_bob}", "192.168.1.20:8000": f"127.0.0.1:{to_alice}"})
    with Program([alice], tmp_path) as one, Program([bob], tmp_path) as two:
        assert one.finish() == "bob: With pleasure. You have white."
        assert two.finish() == "alice: Shall we play chess?"


def test_the_chat_for_two(tmp_path: Path) -> None:
    path = write(tmp_path, "talk", {})
    a, b = free_ports(2)
    command = [path, str(a), f"127.0.0.1:{b}"]
    with Program(command, tmp_path) as alice, Program([path, str(b), f"127.0.0.1:{a}"], tmp_path) as bob:
        alice.type("Hello, Bob! Grüße")
        assert bob.line() == "> Hello, Bob! Grüße"
        bob.type("Hello, Alice!")
        bob.type("How are you?")
        assert [alice.line(), alice.line()] == ["> Hello, Alice!", "> How are you?"]
        for program in (alice, bob):
            program.end_of_input()
            assert program.finish() == ""


def test_the_invites_of_two_people() -> None:
    (block,) = (block for block in BLOCKS[README] if block.program is None and "invite(" in block.code)
    with MultiHolepunchSocket(name="Alice") as alice, MultiHolepunchSocket(name="Bob") as bob:
        exec(compile(block.code, str(README), "exec"), {"alice": alice, "bob": bob})
        assert alice.wait_connected("bob", timeout=10)
        assert bob.wait_connected("alice", timeout=10)
        assert alice.connections_status["bob"].pinned
        assert bob.connections_status["alice"].pinned


def test_what_to_ask_when_it_does_not_connect(tmp_path: Path) -> None:
    (block,) = (block for block in BLOCKS[README] if block.program is None and "wait_connected" in block.code)
    path = tmp_path / "trouble.py"
    (nobody,) = free_ports(1)
    path.write_text(substituted(block.code, {"192.168.1.30:8001": f"127.0.0.1:{nobody}"}), "utf-8")
    with Program([path], tmp_path) as program:
        lines = program.finish().splitlines()
    assert re.fullmatch(r"bob: connecting for \d\.\d s: no answer yet: is the other program running, .*", lines[0])
    assert [line for line in lines if line.startswith(f"  at 127.0.0.1:{nobody} (given): knocked ")]


# --- programs of the tutorial ---


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM that a handler sees")
def test_the_service_that_ends_by_a_signal(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    path = write(tmp_path, "service", {"port=8000": f"port={port}"})
    with Program([path], tmp_path) as service:
        peer_id = service.line()
        with MultiHolepunchSocket(name="guest", peers={"service": f"{peer_id}@127.0.0.1:{port}"}) as guest:
            assert guest.send(b"good evening", recipient="service").wait(20)
            assert service.line() == "guest good evening"
            service.process.send_signal(signal.SIGTERM)
            assert service.finish() == "closed in order"


def test_the_worker_process(tmp_path: Path) -> None:
    with Program([write(tmp_path, "spawn", {})], tmp_path) as program:
        assert program.finish() == str(PROGRAMS["spawn"].printed).rstrip("\n")


@pytest.mark.parametrize("first", ["one", "two"])
def test_the_two_ends_of_a_stream(first: str, tmp_path: Path) -> None:
    port = free_port()
    far = {"one": "192.168.1.30", "two": "192.168.1.20"}
    files = {
        who: write(tmp_path, f"stream_{who}", {far[who]: "127.0.0.1", "12345": str(port)}) for who in ("one", "two")
    }
    second = "two" if first == "one" else "one"
    with Program([files[first]], tmp_path) as early, Program([files[second]], tmp_path) as late:
        printed = {first: early.finish(), second: late.finish()}
    assert printed == {who: str(PROGRAMS[f"stream_{who}"].printed).rstrip("\n") for who in printed}


def test_a_stream_in_an_event_loop(tmp_path: Path) -> None:
    with Program([write(tmp_path, "stream_asyncio", {"12345": str(free_port())})], tmp_path) as program:
        assert program.finish() == str(PROGRAMS["stream_asyncio"].printed).rstrip("\n")


# --- the session at the prompt ---


def test_the_session_of_the_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    session = [block for block in BLOCKS[TUTORIAL] if block.program is None]
    assert len(session) > 25
    names: dict[str, Any] = {"__name__": "__console__"}
    check = doctest.OutputChecker().check_output
    try:
        for block in session:
            code = compile("\n" * (block.line - 1) + block.code, str(block.document), "exec")
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(code, names)
            expected, got = block.printed or "", output.getvalue()
            where = f"{block.document.name}, line {block.line}"
            assert check(expected, got, doctest.ELLIPSIS), f"{where}: printed\n{got}instead of\n{expected}"
        left_open = [name for name, value in names.items() if is_open(value)]
        assert not left_open, f"the tutorial should close what it opens: {left_open}"
    finally:
        for value in list(names.values()):
            if is_open(value):
                value.close(timeout=0) if isinstance(value, MultiHolepunchSocket) else value.close()
        names.clear()


def is_open(value: object) -> bool:
    return isinstance(value, MultiHolepunchSocket | SecureReliableSocket) and not value.is_closed


# --- nothing is left out, nothing is out of date ---


def test_every_block_is_run_by_one_of_the_tests_above() -> None:
    known = {"readme_alice", "readme_bob", "readme_asyncio", "alice", "bob", "talk", "service", "spawn"}
    known |= {"stream_one", "stream_two", "stream_asyncio", "home_alice", "home_bob"}
    assert set(PROGRAMS) == known
    free_standing = [block for block in BLOCKS[README] if block.program is None]
    assert len(free_standing) == 3  # the first program, invites, and what to ask when it does not connect
    for document in DOCUMENTS:
        text = document.read_text("utf-8")
        assert text.count("```python") == len(BLOCKS[document])
        assert text.count("<!-- program:") == sum(block.program is not None for block in BLOCKS[document])
        outputs = sum(language == "text" for _, language, _, _ in fences(document))
        assert outputs == sum(block.printed is not None for block in BLOCKS[document])


DEMO = (
    "python3 -m venv .venv && .venv/bin/python -m pip install --quiet --disable-pip-version-check '.[fast]' "
    "&& .venv/bin/srmudp demo"
)
TESTS = (
    "python3 -m venv .venv && .venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' "
    "&& .venv/bin/python -m pytest"
)


def test_the_two_commands_come_first_and_each_is_one_line() -> None:
    first, second, *_ = fences(README)
    assert [fence[1:] for fence in (first, second)] == [
        ("bash", DEMO + "\n", "<!-- demo -->"),
        ("bash", TESTS + "\n", "<!-- tests -->"),
    ]


def test_the_first_program_is_the_one_that_was_promised() -> None:
    assert first_program().code == (
        """\
from srmudp import MultiHolepunchSocket

sock = MultiHolepunchSocket(port=8000)
sock.add_peers({"peer1": "192.168.1.100:8001", "peer2": "example.com:8002"})
sock.send(b"Hello, everyone!")                          # every connected peer
sock.send(b"Hello, peer1", recipient="peer1")           # one
sock.send(b"Hello, both", recipient=["peer1", "peer2"]) # some
msg = sock.receive(timeout=1.0)                         # Message or None
if msg:
    print(msg.content, msg.peer, msg.timestamp)
sock.remove_peer("peer1")                               # remove_peers([...]) too
sock.close()                                            # or: with MultiHolepunchSocket(...) as sock
"""
    )


def slug(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text("utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = document.parent / name if name else document
        assert file.exists(), f"{document.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), f"{document.name} links to {target}"


def test_the_interface_table_has_every_public_method_and_the_true_signatures() -> None:
    text = README.read_text("utf-8")
    table = text[text.index("## The whole interface") : text.index("## Who is who")]
    for name in dir(MultiHolepunchSocket):
        member = getattr(MultiHolepunchSocket, name)
        if not name.startswith("_"):
            assert re.search(rf"\b{name}\b", table), name
        if name in ("__init__", "send"):
            parameters = list(inspect.signature(member).parameters.values())[1:]
            plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
            written = re.sub(r"'", '"', str(inspect.Signature(plain)))
            assert ("MultiHolepunchSocket" if name == "__init__" else name) + written in table


def table_rows(document: Path, heading: str) -> dict[str, str]:
    """First cell, without back quotes, to the rest, of the tables of a section."""
    text = document.read_text("utf-8")
    start = text.index(f"\n## {heading}")
    end = text.find("\n## ", start + 4)
    rows = re.findall(r"^\| `([^|]+)` \|(.*)\|$", text[start : end if end > 0 else len(text)], re.MULTILINE)
    return dict(rows)


def test_the_tutorial_explains_every_exception_and_every_reason_of_failure() -> None:
    from srmudp.protocol.events import Failure

    rows = table_rows(TUTORIAL, "Errors, and what to try")
    errors = {
        name: value
        for name in srmudp.__all__
        if isinstance(value := getattr(srmudp, name), type) and issubclass(value, Exception) and name != "SrmudpError"
    }
    assert len(errors) == 11
    for name, error in errors.items():
        is_also = rows[name].split("|")[0].strip().strip("`")
        builtin = next(base.__name__ for base in error.__mro__[1:] if base.__module__ == "builtins")
        assert is_also == ("" if builtin == "Exception" else builtin), name
    for failure in Failure:
        assert failure.value in rows


def test_the_tutorial_explains_every_event_that_occurs() -> None:
    rows = table_rows(TUTORIAL, "Events: what happens to your peers")
    source = "".join(path.read_text("utf-8") for path in (ROOT / "srmudp" / "peers").glob("*.py"))
    for kind in srmudp.EventKind:
        assert (kind.value in rows) is (f"EventKind.{kind.name}" in source), kind


def test_reasons_quoted_in_the_documents_are_those_the_library_gives() -> None:
    rooms = [ROOT / "srmudp" / room for room in ("peers", "nat")]
    source = "".join(path.read_text("utf-8") for room in rooms for path in room.glob("*.py"))
    for text in (
        "no answer yet: is the other program running, and has it added us?",
        "another key than the pinned one answered",
        "our own punch came back",
        "it refused our identity",
        "it removed us",
        "its program ended",
        "nothing heard for ",
        "UDP is blocked here",
        "both ends are behind hard NATs",
        "it knocks here, but takes no answer of ours",
        "somebody knocks from ",
        "it speaks another version ",
        "something answers there, but ",
    ):
        assert text in source
        assert text.split(":")[0] in README.read_text("utf-8")
