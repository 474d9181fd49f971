"""When a command still hopes for its peer, whom it lets in, and which key it uses."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from srmudp import Address, EventKind, Identity, PeerEvent
from srmudp.chat.places import data_folder
from srmudp.cli import meeting as module
from srmudp.cli.meeting import PEER, Meeting, Unmet, add_only, add_options

Open = Callable[..., Meeting]


@pytest.fixture
def arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Open:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))

    def arrive(*words: str, address: str | None = None, many: bool = False) -> Meeting:
        parser = argparse.ArgumentParser()
        add_options(parser)
        add_only(parser)
        opened = Meeting(parser.parse_args(words), "test", address=address, many=many)
        request.addfinalizer(lambda: opened.close(0))
        return opened

    return arrive


def test_a_lost_peer_is_waited_for_but_not_for_ever(arrive: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module, "monotonic", lambda: now)
    meeting = arrive("--wait", "10")
    meeting.check("bob", ended_is_over=True)
    meeting._heard(PeerEvent(EventKind.LOST, "bob", reason="nothing heard for 21 s"))
    now += 9.9
    meeting.check("bob", ended_is_over=True)
    now += 0.2
    with pytest.raises(Unmet, match="the connection is lost: nothing heard for 21 s"):
        meeting.check("bob", ended_is_over=True)
    meeting._heard(PeerEvent(EventKind.RECONNECTED, "bob"))
    meeting.check("bob", ended_is_over=True)


def test_an_end_is_final_where_nothing_can_go_on(arrive: Open) -> None:
    meeting = arrive()
    meeting._heard(PeerEvent(EventKind.LOST, "bob", reason="its program ended"))
    meeting.check("bob", ended_is_over=False)
    with pytest.raises(Unmet, match="its program ended"):
        meeting.check("bob", ended_is_over=True)


@pytest.mark.parametrize("kind", [EventKind.REFUSED, EventKind.REMOVED, EventKind.PEER_CHANGED])
def test_what_is_over_at_once(arrive: Open, kind: EventKind) -> None:
    meeting = arrive(address="127.0.0.1:9")
    meeting._heard(PeerEvent(kind, PEER, reason="because"))
    with pytest.raises(Unmet, match="because"):
        meeting.meet()
    with pytest.raises(Unmet, match="because"):
        meeting.check(PEER, ended_is_over=False)


def test_who_is_let_in(arrive: Open) -> None:
    one, two = Identity.generate().peer_id, Identity.generate().peer_id
    where = Address("127.0.0.1", 9)
    first = arrive()
    assert [first._admit(who, "x", where) for who in (one, two, one)] == [True, False, True]
    only = arrive("--only", str(two))
    assert [only._admit(who, "x", where) for who in (one, two)] == [False, True]
    many = arrive(many=True)
    assert [many._admit(who, "x", where) for who in (one, two)] == [True, True]


def test_the_key_is_kept_and_not_shared_by_two(arrive: Open) -> None:
    one, two = arrive(), arrive()
    keys = [one.sock.peer_id, two.sock.peer_id]
    assert keys[0] != keys[1]
    one.close(0)
    two.close(0)
    again = arrive()
    assert again.sock.peer_id in (keys if os.name == "posix" else [again.sock.peer_id])
    folder = os.path.join(data_folder(), "keys")
    if os.name == "posix":
        assert os.stat(folder).st_mode & 0o777 == 0o700


def test_without_a_folder_for_keys_there_is_a_new_one(
    arrive: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    assert arrive().sock.peer_id


def test_why_there_is_no_connection_is_said_while_waiting_and_at_the_end(
    arrive: Open, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SAY_AFTER", 0.1)
    meeting = arrive("--wait", "0.5")
    meeting.sock.add_peer(PEER, f"127.0.0.1:{meeting.sock.port}")
    with pytest.raises(
        Unmet, match=r"cannot connect: our own punch came back: .*Give the other one's address"
    ) as caught:
        meeting.meet()
    assert caught.value.why is not None
    assert caught.value.why["cause"] == "own address"
    told = capsys.readouterr().err.splitlines()
    assert told[-1] == "not connected yet: our own punch came back: is the address our own?"
    assert len(told) == len(set(told))
    with pytest.raises(Unmet, match="nobody came"):
        arrive("--wait", "0.1").meet()
