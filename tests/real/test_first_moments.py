"""The first moments of a socket: what is already waiting in its port when it opens."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest

from srmudp.crypto.keys import Identity
from srmudp.models import EventKind, PeerEvent
from srmudp.sockets.engine import Engine
from tests.real.helpers import Make, all_told, connected, reach

SLOW = 0.5
"""Seconds between the opening of the socket and the moment its peers are known, on a machine that is busy."""


def test_a_restarted_program_never_refuses_a_peer_it_was_started_with(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that goes on punching while the other program starts again is not taken for a stranger.

    Being refused would fail all it had queued, and keep it away for a quarter of a minute.
    """
    add = Engine.add

    def slowly(self: Engine, targets: Mapping[str, Any]) -> None:
        if targets and self.peer_id == there.peer_id:
            time.sleep(SLOW)
        add(self, targets)

    here, there = Identity.generate(), Identity.generate()
    first = make(identity=there)
    port = first.port
    first.close(0)
    events: list[PeerEvent] = []
    a = make(identity=here)
    a.on_event(events.append)
    a.add_peer("b", f"{there.peer_id}@127.0.0.1:{port}")
    delivery = a.send(b"waits for you", "b")
    monkeypatch.setattr(Engine, "add", slowly)
    specs = {"a": f"{here.peer_id}@127.0.0.1:{a.port}"}
    b = make(port, specs, identity=there)
    connected(a, b)
    message = b.receive(10)
    assert message is not None
    assert message.content == b"waits for you"
    assert delivery.wait(10), delivery
    all_told(a)
    assert [event.kind for event in events if event.kind is EventKind.REFUSED] == []
    assert "refused_stranger" not in b.drops


def test_a_socket_without_peers_refuses_nobody(make: Make) -> None:
    """``sock = MultiHolepunchSocket(port, identity=file); sock.add_peers(...)``: who punches in between is not refused.

    Being refused fails everything it had queued, and keeps it away for a quarter of a minute.
    """
    here, there = Identity.generate(), Identity.generate()
    first = make(identity=there)
    port = first.port
    first.close(0)
    events: list[PeerEvent] = []
    a = make(identity=here)
    a.on_event(events.append)
    a.add_peer("b", f"{there.peer_id}@127.0.0.1:{port}")
    delivery = a.send(b"waits for you", "b")
    b = make(port, identity=there)
    reach(lambda: sum(b.drops.values()) > 0, lambda: b.drops)
    b.add_peer("a", f"{here.peer_id}@127.0.0.1:{a.port}")
    connected(a, b)
    assert delivery.failed == {}
    all_told(a)
    assert [event.reason for event in events if event.kind is EventKind.REFUSED] == []
