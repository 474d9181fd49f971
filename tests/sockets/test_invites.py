"""Invites of real sockets, run by threads and by an event loop, over loopback."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from srmudp import Address, Invite, MultiHolepunchSocket, Peer, SocketClosed, Trust
from srmudp.exceptions import LocalProtocolError
from srmudp.models import Candidate, CandidateKind, NatTraits
from srmudp.nat.invites import is_invite
from srmudp.sockets import addresses as address_module
from srmudp.sockets.addresses import parse_target
from srmudp.sockets.invitations import text_of
from tests.endpoints import identity
from tests.shells import both_shells

Make = Callable[..., MultiHolepunchSocket]
HERE = "127.0.0.1"


@both_shells
def test_two_sockets_meet_by_one_text(make: Make, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Attack 45, too: the text, and the token in it, are in no log, repr or exception."""
    caplog.set_level(logging.DEBUG)
    alice = make(host=HERE, name="Alice", known_peers=str(tmp_path / "known.json"))
    bob = make(host=HERE, name="Bob")
    text = alice.invite()
    invite = Invite.parse(text)
    assert (invite.name, invite.peer_id) == ("Alice", alice.peer_id)
    assert invite.addresses == (Address(HERE, alice.port),)
    assert 3595 < invite.expires - time.time() <= 3602
    bob.add_peers({"alice": [text, f"{HERE}:9"]})
    assert bob.wait_connected("alice", timeout=10)
    bob.send(b"here I am", "alice")
    message = alice.receive(timeout=10)
    assert message is not None
    assert (message.peer, message.peer_id) == ("Bob", bob.peer_id)
    status = alice.connections_status["Bob"]
    assert status.trust is Trust.PINNED
    assert alice.wait_connected(timeout=5), "a guest is one of those who were added"
    alice.close()
    assert "Bob" in (tmp_path / "known.json").read_text()
    secret = text[60:90]
    assert secret not in caplog.text + repr(alice) + repr(bob) + (tmp_path / "known.json").read_text()
    assert invite.token.hex() not in caplog.text


@both_shells
def test_what_an_invite_cannot_be(make: Make) -> None:
    alice, bob = make(host=HERE), make(host=HERE)
    with pytest.raises(ValueError, match="our own invite: send it to the other one"):
        alice.add_peer("me", alice.invite())
    text = bob.invite(expires=1)
    wrong = text[:80] + ("a" if text[80] != "a" else "b") + text[81:]
    with pytest.raises(ValueError, match="'bob': the invite is damaged") as caught:
        alice.add_peers({"bob": wrong})
    assert wrong[10:40] not in str(caught.value)
    assert not alice.connections_status
    for expires in (0, -1, float("nan"), 1e9, True):
        with pytest.raises(ValueError, match="30 days"):
            alice.invite(expires)
    with pytest.raises(ValueError, match="control character"):
        alice.invite(name="a\nb")
    alice.add_peer("carol", Peer((), identity("carol").peer_id))
    with pytest.raises(ValueError, match="another PeerId"):
        alice.add_peer("carol", text)
    alice.close()
    with pytest.raises((SocketClosed, LocalProtocolError)):
        alice.invite()


@both_shells
def test_the_answer_to_an_invite_holds_no_secret(make: Make) -> None:
    """Where both have to knock, each adds the other's text, in any order; nobody gets a second name by it."""
    alice, bob = make(host=HERE, name="Alice"), make(host=HERE, name="Bob")
    bob.add_peer("alice", alice.invite())
    answer = bob.invite(name="alice")
    assert Invite.parse(answer).token == b""
    alice.add_peer("bob", answer)
    assert bob.wait_connected("alice", timeout=10)
    assert alice.wait_connected("bob", timeout=10)
    assert Invite.parse(bob.invite(name="carol")).token
    assert set(bob.connections_status) == {"alice"}


def test_an_expired_invite_says_since_when(monkeypatch: pytest.MonkeyPatch) -> None:
    invite = Invite(identity("a").peer_id, (Address("192.0.2.1", 1),), 1_000_000, "", None, bytes(16))
    for late, words in ((0, "1 second"), (59, "59 seconds"), (3600, "1 hour"), (180_000, "2 days")):
        monkeypatch.setattr(address_module, "time", lambda late=late: 1_000_000.0 + late)
        with pytest.raises(ValueError, match=f"expired {words} ago"):
            parse_target("bob", invite.text())
    monkeypatch.setattr(address_module, "time", lambda: 999_999.0)
    target = parse_target("bob", invite.text())
    assert target.token == bytes(16)
    assert "token" not in repr(target)
    assert parse_target("bob", invite.text(), wire="srudp").wire == "native", "an invite is always of our own wire"


def test_an_invite_in_every_place_of_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = (Invite(identity(who).peer_id, (Address("192.0.2.1", 1),), 4_000_000_000) for who in "ab")
    for spec in (a.text(), [a.text()], Peer(a.text()), Peer([a.text(), "192.0.2.2:2"]), a.text().upper()):
        assert parse_target("x", spec).peer_id == a.peer_id
    assert parse_target("x", Peer(a.text(), nat=NatTraits(last_port=1))).nat == NatTraits(last_port=1)
    for spec in ([a.text(), b.text()], Peer(a.text(), b.peer_id)):
        with pytest.raises(ValueError, match="another PeerId than the one given"):
            parse_target("x", spec)
    assert a.text() not in repr(Peer(a.text())) + repr(Peer([a.text(), ("h", 1)])) + repr(Peer((a.text(), "h:1")))
    assert repr(Peer(("h", 1))).startswith("Peer(addresses=('h', 1), ")
    assert not is_invite("srmudp:8000")
    assert parse_target("x", "srmudp:8000").hosts == (("srmudp", 8000),)


def test_which_addresses_stand_in_an_invite() -> None:
    """Those outside first, and not so many that none of this machine has room, or the other way round."""
    here = [Candidate(CandidateKind.HOST, Address(f"10.0.0.{n}", 7)) for n in range(1, 12)]
    seen = [Candidate(CandidateKind.SERVER_REFLEXIVE, Address(f"198.51.100.{n}", 7)) for n in range(1, 8)]
    text = text_of(identity("a").peer_id, "", bytes(16), 10, [*here, *seen], NatTraits())
    found = Invite.parse(text)
    assert [address.host for address in found.addresses] == [
        *(f"198.51.100.{n}" for n in range(1, 6)),
        *(f"10.0.0.{n}" for n in range(1, 4)),
    ]
    assert found.nat is None
    with pytest.raises(ValueError, match="no address"):
        text_of(identity("a").peer_id, "", bytes(16), 10, [], NatTraits())
