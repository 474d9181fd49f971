"""``sock.explain(name)`` on real sockets of both kinds."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from srmudp import Explanation, UnknownPeer
from srmudp.nat.explanation import Cause
from tests.shells import both_shells

Make = Callable[..., Any]
HERE = "127.0.0.1"


@both_shells
def test_why_a_peer_is_not_connected(make: Make) -> None:
    alice, bob = make(), make()
    alice.add_peers({"bob": f"{HERE}:{bob.port}", "six": "[2001:db8::5]:99", "me": f"{HERE}:{alice.port}"})
    with pytest.raises(UnknownPeer):
        alice.explain("nobody")
    six = alice.explain("six")
    assert isinstance(six, Explanation)
    assert (six.cause, six.tried[0].obstacle[:12]) == (Cause.NO_WAY, "there is no ")
    assert json.loads(json.dumps(dict(six)))["cause"] == "no way"
    assert not alice.wait_connected("me", 0.3)
    assert alice.explain("bob").cause is Cause.JUST_BEGUN
    own = alice.explain("me")
    assert own.cause is Cause.OWN_ADDRESS
    assert alice.connections_status["me"].failure == own.summary
    assert str(own).startswith("me: connecting for 0.")
    bob.add_peer("alice", f"{HERE}:{alice.port}")
    assert alice.wait_connected("bob", 20)
    assert alice.explain("bob").cause is Cause.CONNECTED


@both_shells
def test_names_that_were_looked_up(make: Make) -> None:
    alice = make()
    alice.add_peer("bob", [f"localhost:{alice.port}", f"{HERE}:9"])
    deadline = 50
    while len(alice.explain("bob").tried) < 2 and deadline:
        alice.wait_connected("bob", 0.1)
        deadline -= 1
    origins = {one.origin for one in alice.explain("bob").tried}
    assert origins == {"given", "looked up"}
