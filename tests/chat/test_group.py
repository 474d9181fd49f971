"""Ten chats in one group: nothing is lost, doubled or out of order. Real sockets on loopback, in one process."""

from __future__ import annotations

import json
import os
from pathlib import Path
from time import monotonic

import pytest

from srmudp.chat.conversation import Accept
from srmudp.chat.lines import Kind
from srmudp.chat.session import Options, Session

from ..programs import free_ports

PEOPLE = 10
EVERY = bool(os.environ.get("SRMUDP_CHAT_EVERY"))
EACH = 1000 if EVERY else 20
"""Messages that each says to all."""
PATIENCE = 600.0 if EVERY else 55.0


@pytest.mark.timeout(PATIENCE + 5)
def test_ten_people_talk_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    names = [f"P{letter}" for letter in "abcdefghik"]
    ports = dict(zip(names, free_ports(PEOPLE), strict=True))
    sessions: dict[str, Session] = {}
    heard: dict[str, dict[str, list[str]]] = {name: {other: [] for other in names if other != name} for name in names}
    deadline = monotonic() + PATIENCE

    def work(ticks: bool = True) -> None:
        for name, session in sessions.items():
            for line in session.work() + (session.chat.tick() if ticks else []):
                if line.kind is Kind.SAID:
                    heard[name][line.who].append(line.text)
        assert monotonic() < deadline

    config = tmp_path / "group.json"
    config.write_text(json.dumps({name: f"127.0.0.1:{port}" for name, port in ports.items()}))
    try:
        for name in names:
            options = Options(nick=name, port=ports[name], config=str(config), accept=Accept.KNOWN)
            sessions[name] = Session(options)
        while not all(sum(p.is_here for p in s.chat.people) == PEOPLE - 1 for s in sessions.values()):
            work()
        for number in range(EACH):
            for name, session in sessions.items():
                shown = session.chat.typed(f"{name} {number}")
                assert [line.kind for line in shown] == [Kind.MINE]
            work(ticks=number % 20 == 0)
        while any(session.chat.outstanding() or not session.is_idle for session in sessions.values()):
            work()
        for name in names:
            for other, texts in heard[name].items():
                assert texts == [f"{other} {number}" for number in range(EACH)]
            assert sessions[name].chat.undelivered == 0
    finally:
        for session in sessions.values():
            session.close(0)
