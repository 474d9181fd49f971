"""Invites in the chat: what is shown, what is sent back, and that what was meant for one is never said to all."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from srmudp import Address, Invite, NatBehaviour, PublicAddress, Trust
from srmudp.chat import book, qr
from srmudp.chat.book import Book, Entry
from srmudp.chat.inviting import ANSWER_AFTER, Purpose
from srmudp.chat.lines import Kind
from srmudp.chat.session import Options, Session

from .fakes import Rig, peer_id_of, texts

SECRET = b"S" * 16
HERS = Invite(peer_id_of("Carol"), (Address("192.0.2.7", 8000),), 4_000_000_000, "Carol", None, SECRET)
OLD = Invite(peer_id_of("Carol"), (Address("192.0.2.7", 8000),), 1_000_000_000, "Carol", None, SECRET)
FOUND = PublicAddress(Address("192.0.2.5", 8000), mapping=NatBehaviour.ENDPOINT_INDEPENDENT)


class InviteRig(Rig):
    """A chat that would ask one server."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.asked: list[Purpose] = []
        self.server: str | None = "stun.example"
        self.chat.inviting._ask = self._ask

    def _ask(self, purpose: Purpose) -> str | None:
        self.asked.append(purpose)
        return self.server

    def found(self, found: PublicAddress | Exception | None = FOUND) -> list[str]:
        """What is shown once the server answered."""
        return texts(self.chat.asked(found, self.asked[-1]))


def test_an_invite_says_whom_it_asks_and_what_the_other_one_types() -> None:
    rig = InviteRig()
    assert rig.type("/invite Bob") == [
        "* asking stun.example how this chat is seen from outside (--no-discover asks nobody)"
    ]
    first, second = rig.found()
    assert first.startswith("* Send this to Bob, by a way that others do not read")
    assert second.startswith("/add Alice srmudp:")
    assert Invite.parse(second.removeprefix("/add Alice ")).peer_id == rig.net.peer_id
    assert rig.net.calls == [("invite", 3600.0, "Bob")]
    rig.type("/invite")
    assert rig.found()[0].startswith("* Send this to one person")
    assert rig.net.calls[-1] == ("invite", 3600.0, None)


def test_nobody_answered_and_nobody_was_asked() -> None:
    rig = InviteRig()
    rig.type("/invite")
    warning, _, line = rig.found(OSError("no network"))
    assert warning == "! that was not found out, so the invite is of use on your own network alone: no network"
    assert "srmudp:" in line
    assert len(rig.found(None)) == 2
    rig.net.refusal = ValueError("64 invites are open")
    assert rig.found() == ["! 64 invites are open"]
    hard = PublicAddress(Address("192.0.2.5", 8000), mapping=NatBehaviour.ADDRESS_AND_PORT_DEPENDENT)
    assert "every destination another port" in rig.found(hard)[0]


def test_who_was_invited_and_is_not_here_gets_an_answer_to_send_back() -> None:
    rig = InviteRig(nick="Bob B")
    assert rig.type(f"/add Carol {HERS.text()}") == ["* connecting to Carol, who has invited you"]
    ((_, specs),) = rig.net.calls
    assert specs["Carol"].peer_id == HERS.peer_id
    assert specs["Carol"].addresses == ["192.0.2.7:8000", HERS.text()]
    assert texts(rig.chat.tick()) == []
    assert rig.asked == [], "nobody is asked where it is not needed"
    rig.now += ANSWER_AFTER
    assert "asking stun.example" in texts(rig.chat.tick())[0]
    assert rig.asked == [Purpose("Carol", is_answer=True)]
    warning, line = rig.found()
    assert warning.startswith("! Carol is not here yet: many routers")
    assert line.startswith('/add "Bob B" srmudp:')
    assert Invite.parse(line.partition("srmudp:")[1] + line.partition("srmudp:")[2]).token == b"", "no secret in it"
    rig.now += 60
    assert texts(rig.chat.tick()) == []
    assert len(rig.asked) == 1


def test_who_named_no_servers_is_told_the_command_that_asks_public_ones() -> None:
    rig = InviteRig()
    rig.server = None
    rig.type(f"/add Carol {HERS.text()}")
    rig.now += ANSWER_AFTER
    (warning,) = texts(rig.chat.tick())
    assert warning.startswith("! Carol is not here yet: many routers")
    assert "Type /invite Carol" in warning
    rig.server = "stun.example"
    rig.type("/invite Carol")
    assert rig.asked[-1] == Purpose("Carol")
    said, line = rig.found()
    assert said == "* Send this to Carol, whose key you know; it lets in nobody else:"
    assert Invite.parse(line.removeprefix("/add Alice ")).token == b"", "no secret in it"


def test_no_public_server_is_asked_by_a_chat_of_its_own_accord(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    looked: list[object] = []
    monkeypatch.setattr(Session, "_look", lambda self, then, servers: looked.append(servers))
    answer = Purpose("Carol", is_answer=True)
    for number, (options, named) in enumerate(
        [({}, None), ({"servers": ("stun.example",)}, ["stun.example"]), ({"discover": False}, ())]
    ):
        with contextlib.closing(Session(Options(nick=f"Alice{number}", **options))) as session:
            asked = session._ask(answer)
            if named is None:
                assert asked is None
                assert looked == []
                session._ask(Purpose("Carol"))  # /invite is a command
                assert looked == [None]
                assert session._ask(answer)  # from now on the user knows
                assert looked == [None, None]
            elif named:
                assert asked == "stun.example"
                assert looked.pop() == named
            else:
                assert asked == ""
                assert looked == []
            looked.clear()


def test_nothing_is_sent_back_when_they_are_here_in_time() -> None:
    rig = InviteRig()
    rig.type(f"/add {HERS.text()}")
    assert rig.meet("Carol", trust=Trust.PINNED) == [
        f"* Carol is here at 192.0.2.9:8001 (by an invite, key {HERS.peer_id.tag})"
    ]
    rig.now += ANSWER_AFTER
    assert texts(rig.chat.tick()) == []
    assert rig.type(f"/add Carol {HERS.text()}") == ["* Carol is here already"]
    assert rig.type(f"/add Karla {HERS.text()}") == ["* that is Carol, who is here already"]
    rig.type(f"/add Carol {HERS.text()}")


def test_who_comes_by_our_invite_is_said_to() -> None:
    rig = InviteRig()
    assert "(by an invite, key" in rig.meet("Bob", trust=Trust.PINNED)[0]
    assert "by an invite" in rig.type("/list")[-1]
    entry = rig.book.get("Bob")
    assert entry is not None
    assert entry.peer_id == peer_id_of("Bob")


def test_a_blocked_one_does_not_come_back_by_somebody_elses_invite() -> None:
    rig = InviteRig(book=Book())
    rig.book.put("Eve", Entry((), peer_id_of("Eve"), blocked=True))
    assert rig.meet("Eve", trust=Trust.PINNED) == []
    assert rig.net.calls == [("remove", "Eve")]


@pytest.mark.parametrize("line", ["/add Carol {}", "/add {}", "/add  Carol   {}  "])
def test_a_torn_invite_is_put_together_and_never_said(line: str) -> None:
    """What is pasted in several lines comes as several lines."""
    rig = InviteRig()
    rig.meet("Bob")
    text = line.format(HERS.text()).rstrip()
    assert rig.type(text[:60])[0].startswith("! nothing was added: ")
    assert rig.type(text[60:120])[0].startswith("! nothing was added: ")
    assert rig.type("   " + text[120:]) == ["* connecting to Carol, who has invited you"]
    assert rig.said() == []
    assert rig.type("yesterday") == ["you: yesterday"], "a word is a word again"


def test_an_invite_without_its_command_is_not_said() -> None:
    rig = InviteRig()
    rig.meet("Bob")
    assert rig.type(HERS.text())[0].startswith("! not sent: that is an invite")
    assert rig.said() == []
    rig.type(f"/say {HERS.text()}")
    assert rig.said() == [(HERS.text(), ("Bob",))]


@pytest.mark.parametrize(
    ("text", "why"),
    [(HERS.text()[:-1], "cut"), (OLD.text(), "expired"), ("srmudp:!", "cannot contain"), ("srmudp:", "damaged")],
)
def test_an_invite_that_is_of_no_use(text: str, why: str) -> None:
    rig = InviteRig()
    (line,) = rig.type(f"/add Carol {text}")
    assert line.startswith("! nothing was added: ")
    assert why in line
    assert rig.net.calls == []
    rig.meet("Bob")
    rig.now += 5
    assert rig.type("hm") == ["you: hm"]


def test_saved_files_hold_no_token(tmp_path: Path) -> None:
    """Attack 45: neither what /save writes nor the chat's own list."""
    own = tmp_path / "own.json"
    rig = InviteRig(book=Book(str(own)))
    rig.type(f"/add Carol {HERS.text()}")
    rig.meet("Carol", trust=Trust.PINNED)
    rig.type(f"/save {tmp_path}/peers.json")
    saved = (tmp_path / "peers.json").read_text() + own.read_text()
    assert str(HERS.peer_id) in saved
    assert "srmudp:" not in saved
    assert HERS.text()[50:80] not in saved
    assert HERS.text()[50:80] not in repr(book.parse(json.dumps({"Carol": HERS.text()}).encode()))


def test_an_invite_in_a_file() -> None:
    """By hand, for a start; once it has expired it still says who and where."""
    entries = book.parse(json.dumps({"Carol": HERS.text(), "Dave": {"address": OLD.text()}}).encode())
    for name, invite in (("Carol", HERS), ("Dave", OLD)):
        assert entries[name] == Entry(("192.0.2.7:8000",), invite.peer_id)
    assert entries["Carol"].invite == HERS.text()
    assert entries["Dave"].invite == ""
    with pytest.raises(ValueError, match="'Carol': the invite is cut"):
        book.parse(json.dumps({"Carol": HERS.text()[:-1]}).encode())
    with pytest.raises(ValueError, match="another PeerId"):
        book.parse(json.dumps({"Carol": {"address": HERS.text(), "peer_id": str(peer_id_of("Dave"))}}).encode())


def test_a_qr_code_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("segno")
    rig = InviteRig()
    rig.type("/invite")
    assert not any(line.kind is Kind.QR for line in rig.chat.asked(None, Purpose()))
    rig.chat.inviting.room = lambda: (80, 100)
    rows = [line for line in rig.chat.asked(None, Purpose()) if line.kind is Kind.QR]
    assert 15 < len(rows) < 32
    assert len({len(line.pieces()[0][1]) for line in rows}) == 1, "a rectangle"
    rig.chat.inviting.room = lambda: (40, 100)
    assert not any(line.kind is Kind.QR for line in rig.chat.asked(None, Purpose()))
    monkeypatch.setitem(__import__("sys").modules, "segno", None)
    assert qr.rows("srmudp:abc") == []
