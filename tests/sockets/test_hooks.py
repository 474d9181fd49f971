"""Message hooks, event hooks and the accept question, through an engine with a fake endpoint."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from srmudp.models import EventKind, Message, PeerEvent, PeerId
from srmudp.protocol.events import MessageArrived
from srmudp.sockets import hooks as module
from srmudp.sockets.hooks import check_hook

from .conftest import BOB, Rig, reach
from .fakes import arrived, contents, peer_id_of


def numbered(first: int, last: int, peer: str = "bob") -> list[MessageArrived]:
    return [arrived(b"%d" % n, peer) for n in range(first, last)]


def test_a_hook_gets_every_message_once_on_its_own_thread(rig: Rig) -> None:
    got: list[Message] = []
    threads: set[str] = set()
    rig.engine.hooks.add_message_hook(lambda m: (got.append(m), threads.add(threading.current_thread().name)))  # type: ignore[func-returns-value]
    before = time.time()
    rig.emit(*numbered(0, 50))
    reach(lambda: len(rig.endpoint.taken) == 50)
    assert contents(got) == rig.endpoint.taken == [b"%d" % n for n in range(50)]
    assert threads == {"srmudp-hooks"}
    assert got[0].peer == "bob"
    assert got[0].peer_id == peer_id_of("bob")
    assert before <= got[0].timestamp <= time.time()
    assert rig.engine.receive(0) is None


def test_no_thread_without_a_hook(rig: Rig) -> None:
    rig.emit(*numbered(0, 3))
    assert not [t for t in threading.enumerate() if t.name == "srmudp-hooks"]


def test_several_hooks_all_get_each_and_taken_comes_last(rig: Rig) -> None:
    order: list[object] = []
    box: queue.Queue[Message] = queue.Queue()
    done = threading.Event()
    rig.engine.hooks.add_message_hook(lambda m: order.append(("a", list(rig.endpoint.taken))))
    rig.engine.hooks.add_message_hook(box)
    rig.engine.hooks.add_message_hook(lambda m: (order.append(("b", list(rig.endpoint.taken))), done.set()))  # type: ignore[func-returns-value]
    rig.emit(arrived(b"1"))
    assert done.wait(5)
    reach(lambda: rig.endpoint.taken == [b"1"])
    assert order == [("a", []), ("b", [])]
    assert box.get_nowait().content == b"1"


def test_a_failing_hook_is_logged_with_its_traceback_and_not_too_often(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    good: list[Message] = []

    def bad(message: Message) -> None:
        raise SystemExit("on purpose") if message.content == b"1" else ValueError("on purpose")

    rig.engine.hooks.add_message_hook(bad)
    rig.engine.hooks.add_message_hook(good.append)
    rig.emit(*numbered(0, 20))
    reach(lambda: len(rig.endpoint.taken) == 20)
    assert len(good) == 20
    errors = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert 1 <= len(errors) <= 2
    assert "on purpose" in caplog.text


def test_what_waited_for_receive_goes_to_the_first_hook(rig: Rig) -> None:
    rig.emit(*numbered(0, 3))
    got: list[Message] = []
    rig.engine.hooks.add_message_hook(got.append)
    rig.emit(*numbered(3, 5))
    reach(lambda: len(rig.endpoint.taken) == 5)
    assert contents(got) == [b"0", b"1", b"2", b"3", b"4"]


def test_without_hooks_messages_go_to_receive_again_in_order(rig: Rig) -> None:
    """The hook is in the middle of 0 when it is unregistered: 1 to 4 wait on the hook thread, 5 and 6 come later."""
    entered, leave = threading.Event(), threading.Event()

    def hook(message: Message) -> None:
        entered.set()
        assert leave.wait(5)

    rig.engine.hooks.add_message_hook(hook)
    rig.emit(*numbered(0, 5))
    assert entered.wait(5)
    rig.engine.hooks.remove_message_hook(hook)
    rig.emit(*numbered(5, 7))
    leave.set()
    received = [rig.engine.receive(5) for _ in range(6)]
    assert contents(received) == [b"1", b"2", b"3", b"4", b"5", b"6"]
    reach(lambda: rig.endpoint.taken == [b"0", b"1", b"2", b"3", b"4", b"5", b"6"])
    assert rig.engine.hooks._backlog == 0
    rig.emit(arrived(b"7"))
    assert rig.engine.receive(0) is not None, "directly again"


def test_a_full_queue_parks_one_peer_only(rig: Rig) -> None:
    box: queue.Queue[Message] = queue.Queue(maxsize=1)
    seen: list[Message] = []
    gate: queue.Queue[Message] = queue.Queue()

    class Bobs:
        """Full for bob's messages, roomy for others'."""

        def put_nowait(self, message: Message) -> None:
            (box if message.peer == "bob" else gate).put_nowait(message)

    rig.engine.hooks.add_message_hook(seen.append)
    rig.engine.hooks.add_message_hook(Bobs())
    rig.emit(*numbered(0, 3), *numbered(10, 13, "eve"))
    assert [gate.get(timeout=5).content for _ in range(3)] == [b"10", b"11", b"12"]
    reach(lambda: b"12" in rig.endpoint.taken)
    assert b"1" not in rig.endpoint.taken, "not taken before it is in the queue"
    assert [box.get(timeout=5).content for _ in range(3)] == [b"0", b"1", b"2"]
    reach(lambda: len(rig.endpoint.taken) == 6)
    assert contents(seen) == [b"0", b"1", b"10", b"11", b"12", b"2"], "the other hook got each once"


def test_a_parked_message_goes_to_receive_when_its_queue_is_unregistered(rig: Rig) -> None:
    box: queue.Queue[Message] = queue.Queue(maxsize=1)
    rig.engine.hooks.add_message_hook(box)
    rig.emit(*numbered(0, 3))
    reach(lambda: rig.endpoint.taken == [b"0"])
    rig.engine.hooks.remove_message_hook(box)
    assert contents([rig.engine.receive(5), rig.engine.receive(5)]) == [b"1", b"2"]


def test_hooks_may_send_register_and_close(rig: Rig) -> None:
    from srmudp.sockets.household import Letter

    done = threading.Event()

    def hook(message: Message) -> None:
        rig.engine.send(Letter(b"answer", 0, True, None), message.peer, 0)
        rig.engine.hooks.add_event_hook(lambda event: None)
        rig.engine.hooks.remove_message_hook(hook)
        rig.engine.close(0.0)
        done.set()

    rig.engine.hooks.add_message_hook(hook)
    rig.emit(arrived(b"1"))
    assert done.wait(5)
    assert rig.transport.sent == [b"M1:answer"]
    assert rig.engine._finished.is_set()
    reach(lambda: not [t for t in threading.enumerate() if t.name.startswith("srmudp-")])


def test_registering_twice_changes_nothing_and_removing_needs_registering(rig: Rig) -> None:
    got: list[Message] = []
    rig.engine.hooks.add_message_hook(got.append)
    rig.engine.hooks.add_message_hook(got.append)
    rig.emit(arrived(b"1"))
    reach(lambda: rig.endpoint.taken)
    assert len(got) == 1
    rig.engine.hooks.remove_message_hook(got.append)
    with pytest.raises(ValueError, match="not registered"):
        rig.engine.hooks.remove_message_hook(got.append)
    with pytest.raises(ValueError, match="not registered"):
        rig.engine.hooks.remove_event_hook(got.append)  # type: ignore[arg-type]


@pytest.mark.parametrize("hook", [None, 5, "x", object()])
def test_what_is_no_hook(hook: Any) -> None:
    with pytest.raises(TypeError, match="callable or a queue"):
        check_hook(hook, what="a message hook")


def test_asyncio_needs_a_detour() -> None:
    async def coroutine(message: Message) -> None: ...

    with pytest.raises(TypeError, match="call_soon_threadsafe"):
        check_hook(asyncio.Queue(), what="a message hook")
    with pytest.raises(TypeError, match="coroutine"):
        check_hook(coroutine, what="a message hook")
    check_hook(queue.SimpleQueue(), what="a message hook")


def event(kind: EventKind = EventKind.LOST, peer: str = "bob") -> PeerEvent:
    return PeerEvent(kind, peer, peer_id_of(peer), BOB)


def test_event_hooks(rig: Rig) -> None:
    got: list[PeerEvent] = []
    box: queue.Queue[PeerEvent] = queue.Queue(maxsize=1)

    def bad(event: PeerEvent) -> None:
        raise ValueError

    for hook in (bad, got.append, box):
        rig.engine.hooks.add_event_hook(hook)
    rig.emit(event(), event(EventKind.RECONNECTED))
    reach(lambda: len(got) == 2)
    reach(lambda: rig.engine.drops()["event_queue_full"] == 1)
    assert [e.kind for e in got] == ["lost", "reconnected"]
    assert box.get_nowait().kind == "lost"
    rig.engine.hooks.remove_event_hook(got.append)
    rig.emit(event())
    assert len(got) == 2


def test_the_event_backlog_is_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_EVENT_BACKLOG", 10)
    entered, leave = threading.Event(), threading.Event()
    rig.engine.hooks.add_event_hook(lambda e: (entered.set(), leave.wait(5)))  # type: ignore[func-returns-value]
    rig.emit(event())
    assert entered.wait(5)
    rig.emit(*[event()] * 30)
    leave.set()
    assert rig.engine.drops()["event_queue_full"] == 30 - 11


def test_accept_is_asked_on_the_hook_thread(make_rig: Callable[..., Rig]) -> None:
    asked: list[object] = []

    def accept(peer_id: PeerId, name: str, address: object) -> bool:
        asked.append((peer_id, name, address, threading.current_thread().name))
        if name == "bad":
            raise ValueError("on purpose")
        return name == "good"

    rig = make_rig(accept=accept).start()
    rig.emit(*[event(EventKind.PENDING, name) for name in ("good", "other", "bad")])

    def admits() -> list[Any]:
        return [call for call in rig.endpoint.calls if call[0] == "admit"]

    reach(lambda: len(admits()) == 3)
    assert admits() == [
        ("admit", peer_id_of("good"), True),
        ("admit", peer_id_of("other"), False),
        ("admit", peer_id_of("bad"), False),
    ]
    assert asked[0] == (peer_id_of("good"), "good", BOB, "srmudp-hooks")


def test_an_undecided_question_is_answered_later(make_rig: Callable[..., Rig]) -> None:
    asked = threading.Event()
    rig = make_rig(accept=lambda peer_id, name, address: asked.set()).start()
    rig.emit(event(EventKind.PENDING, "stranger"))
    assert asked.wait(5)
    rig.engine.admit(peer_id_of("stranger"), True)
    calls = [call for call in rig.endpoint.calls if call[0] == "admit"]
    assert calls == [("admit", peer_id_of("stranger"), True)]


def test_a_hook_that_does_not_return_is_left_behind(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("srmudp.sockets.engine._HOOK_JOIN", 0.01)
    entered, leave = threading.Event(), threading.Event()
    rig.engine.hooks.add_message_hook(lambda m: (entered.set(), leave.wait(5)))  # type: ignore[func-returns-value]
    rig.emit(*numbered(0, 2))
    assert entered.wait(5)
    rig.engine.close(0.0)
    assert "left behind" in caplog.text
    leave.set()
    assert rig.endpoint.taken == []
