"""Sending, receiving, peers and signal handlers, with a fake endpoint behind the real driver."""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from srmudp.config import Config
from srmudp.exceptions import LocalProtocolError, MessageTooBig, QueueFull, SocketClosed, UnknownPeer
from srmudp.models import Address, EventKind, Message, PeerEvent, PeerState, Trust
from srmudp.protocol.events import Failure, MessageSettled, ResolveWanted, RoomFreed
from srmudp.sockets import engine as engine_module
from srmudp.sockets.addresses import Target
from srmudp.sockets.delivery import Delivery
from srmudp.sockets.known_peers import KnownPeers

from .conftest import BOB, EVE, Rig, reach, send
from .fakes import arrived, contents, peer_id_of

# --- sending ---


def test_to_one_to_some_to_everyone(rig: Rig) -> None:
    rig.engine.add({"carol": Target(peer_id=peer_id_of("carol"))})
    assert send(rig, b"1").pending == {"bob"}
    assert send(rig, b"2", ["eve", "bob", "eve"]).pending == {"bob", "eve"}
    everyone = send(rig, b"3", None)
    assert everyone.pending == {"bob", "eve"}
    assert everyone.left_out == ("carol",)
    assert rig.transport.sent == [b"M1:1", b"M2:2", b"M3:2", b"M4:3", b"M5:3"]
    assert send(rig, b"4", "carol").pending == {"carol"}, "queued until it is connected"
    assert send(rig, b"5", []).wait(0)


def test_bytes_are_kept_by_reference(rig: Rig) -> None:
    content = bytes(1000)
    send(rig, content)
    assert rig.endpoint.sent[1][1] is content


def test_an_unknown_name_before_anything_is_queued(rig: Rig) -> None:
    for to in ("nobody", ["bob", "nobody"]):
        with pytest.raises(UnknownPeer):
            send(rig, to=to)
        with pytest.raises(KeyError):
            send(rig, to=to, reliable=False)
    assert rig.endpoint.sent == {}


def test_settling(rig: Rig) -> None:
    delivery = send(rig, b"x", None)
    rig.under_lock(lambda: rig.endpoint.settle(1, None))
    rig.under_lock(lambda: rig.endpoint.settle(2, Failure.EXPIRED))
    assert delivery.delivered == {"bob"}
    assert delivery.failed == {"eve": Failure.EXPIRED.value}
    assert rig.engine.house.deliveries == {}


def test_ignored_deliveries_do_not_leak(rig: Rig) -> None:
    for _ in range(1000):
        send(rig)
    gc.collect()
    for token in list(rig.endpoint.sent):
        rig.under_lock(lambda token=token: rig.endpoint.settle(token, None))  # type: ignore[misc]
    assert rig.engine.house.deliveries == {}
    assert not [o for o in gc.get_objects() if isinstance(o, Delivery)]


def test_too_big(rig: Rig, make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    small = make_rig(config=Config(max_message_size=10)).start()
    send(small, bytes(10))
    with pytest.raises(MessageTooBig):
        send(small, bytes(11), None)
    whole = rig.endpoint.send_message

    def picky(name: str, content: bytes, **options: Any) -> int:
        if name == "bob":
            raise MessageTooBig("bob's limit")
        return whole(name, content, **options)

    monkeypatch.setattr(rig.endpoint, "send_message", picky)
    assert send(rig, b"x", None).failed == {"bob": Failure.TOO_BIG.value}
    for to in ("bob", ["bob"]):
        with pytest.raises(MessageTooBig):
            send(rig, b"x", to)


def test_a_full_queue_and_no_time(rig: Rig) -> None:
    rig.endpoint.full = {"bob"}
    for to, timeout in (("bob", 0), ("bob", 0.005), (["bob"], 0)):
        with pytest.raises(QueueFull, match="'bob'"):
            send(rig, to=to, timeout=timeout)
    with pytest.raises(TimeoutError):
        send(rig)
    some = send(rig, to=None, timeout=0.005)
    assert some.pending == {"eve"}
    assert some.failed == {"bob": Failure.QUEUE_FULL.value}
    assert send(rig, reliable=False).pending == {"bob"}, "unreliable messages never wait"
    assert not rig.engine.driver.topics._waiting


def test_none_means_the_sockets_timeout(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(timeout=0.01).start()
    rig.endpoint.full = {"bob"}
    with pytest.raises(QueueFull, match=r"0\.01 s"):
        send(rig, timeout=None)


def test_waiting_for_room(rig: Rig) -> None:
    rig.endpoint.full = {"bob", "eve"}
    deliveries: list[Delivery] = []
    threads = [
        threading.Thread(target=lambda to=to: deliveries.append(send(rig, b"x", to, 5)))
        for to in ("bob", ["bob", "eve"])
    ]
    for thread in threads:
        thread.start()
    reach(lambda: len(rig.engine.driver.topics._waiting.get("room", ())) == 2)
    rig.under_lock(lambda: rig.endpoint.free("bob"))
    reach(lambda: len(rig.endpoint.sent) == 2)
    rig.under_lock(lambda: rig.endpoint.free("eve"))
    for thread in threads:
        thread.join(5)
    assert sorted(sorted(d.pending) for d in deliveries) == [["bob"], ["bob", "eve"]]


def send_many(rig: Rig, *, timeout: float | None = None, **options: Any) -> None:
    for _ in range(engine_module._LOOK_EVERY):
        send(rig, timeout=timeout, **options)


def test_who_sends_more_than_is_taken_is_held_back(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "_HELD_BACK", 5.0)
    intake = rig.endpoint.intake
    send_many(rig)
    intake.exceeded = True
    send_many(rig, timeout=0)
    send_many(rig, content=bytes(engine_module._SMALL + 1))
    send_many(rig, reliable=False)
    assert intake.is_relieved, "nobody waited"
    thread = threading.Thread(target=send_many, args=(rig,))
    thread.start()
    reach(lambda: rig.engine.driver.topics._waiting.get("room"))
    assert not intake.is_relieved
    assert len(rig.endpoint.sent) == 5 * engine_module._LOOK_EVERY, "queued before it waits"

    def relieve() -> None:
        intake.is_relieved = True
        rig.endpoint.events.append(RoomFreed("bob"))

    rig.under_lock(relieve)
    thread.join(5)
    assert not thread.is_alive()
    assert intake.stalled == 0


def test_who_takes_nothing_is_not_waited_for_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "_HELD_BACK", 0.01)
    rig.endpoint.intake.exceeded = True
    send_many(rig)
    assert rig.endpoint.intake.stalled == 1
    send_many(rig)
    assert rig.endpoint.intake.stalled == 1


def test_a_hook_is_never_held_back(rig: Rig) -> None:
    rig.endpoint.intake.exceeded = True
    done = threading.Event()

    def hook(message: Message) -> None:
        send_many(rig)
        done.set()

    rig.engine.hooks.add_message_hook(hook)
    rig.emit(arrived(b"1"))
    assert done.wait(5)
    assert rig.endpoint.intake.is_relieved, "it would not take what comes meanwhile"


def test_a_peer_removed_while_a_message_waits(rig: Rig) -> None:
    rig.endpoint.full = {"bob", "eve"}
    errors: list[object] = []

    def wait() -> None:
        with pytest.raises(UnknownPeer) as info:
            send(rig, timeout=5)
        errors.append(info.value)

    thread = threading.Thread(target=wait)
    thread.start()
    reach(lambda: rig.engine.driver.topics._waiting)
    rig.engine.remove(["bob"])
    thread.join(5)
    assert len(errors) == 1


def test_many_recipients_in_several_holds(rig: Rig) -> None:
    names = [f"p{n}" for n in range(150)]
    rig.engine.add({name: Target((Address("192.0.2.9", n + 1),)) for n, name in enumerate(names)})
    assert send(rig, b"x", names).pending == set(names)


# --- signal handlers ---


def test_send_on_top_of_the_lock_is_deferred(rig: Rig) -> None:
    inner: list[Delivery] = []
    rig.endpoint.full = {"eve"}

    def handler() -> None:
        rig.endpoint.on_send = lambda: None
        for to in ("bob", None, ["bob", "nobody"]):
            inner.append(send(rig, b"inner", to, None))
        assert not any(d.wait(0) for d in inner)

    rig.endpoint.on_send = handler
    send(rig, b"outer")
    reach(lambda: not any(d._open for d in inner))
    assert [d.pending for d in inner] == [{"bob"}] * 3
    assert [d.failed for d in inner] == [
        {},
        {"eve": Failure.QUEUE_FULL.value},
        {"nobody": Failure.REMOVED.value},
    ]
    assert rig.transport.sent[0] == b"M1:outer"


def test_other_calls_on_top_of_the_lock_are_refused(rig: Rig) -> None:
    errors: list[object] = []

    def handler() -> None:
        rig.endpoint.on_send = lambda: None
        for call in (rig.engine.statuses, lambda: rig.engine.remove(["bob"])):
            with pytest.raises(LocalProtocolError, match="signal handler") as info:
                call()
            errors.append(info.value)

    rig.endpoint.on_send = handler
    send(rig)
    assert len(errors) == 2


def test_receive_on_top_of_the_lock(rig: Rig) -> None:
    got: list[Any] = []

    def handler() -> None:
        rig.endpoint.on_send = lambda: None
        got.append(rig.engine.receive(0))

    rig.emit(arrived(b"1"))
    rig.endpoint.on_send = handler
    send(rig)
    assert contents(got) == [b"1"]
    reach(lambda: rig.endpoint.taken == [b"1"])


def test_close_on_top_of_the_lock_is_deferred(rig: Rig) -> None:
    def handler() -> None:
        rig.endpoint.on_send = lambda: None
        rig.engine.close(0.0)
        assert not rig.endpoint.closed

    rig.endpoint.on_send = handler
    delivery = send(rig)
    assert rig.engine._finished.wait(5)
    assert rig.endpoint.closed
    assert delivery.failed == {"bob": Failure.CLOSED.value}


def test_close_on_top_of_the_transport_is_deferred(rig: Rig) -> None:
    def handler(payload: bytes) -> None:
        rig.transport.on_send = lambda payload: None
        rig.engine.close(0.0)
        assert not rig.transport.closed

    rig.transport.on_send = handler
    send(rig)
    assert rig.engine._finished.wait(5)
    assert b"M1:x" in rig.transport.sent


def test_close_on_top_of_close_returns(rig: Rig) -> None:
    send(rig)
    flushed: list[bool] = []

    def on_signal(*_: object) -> None:
        rig.engine.close(0.0)
        flushed.append(rig.engine._finished.is_set())

    old = signal.signal(signal.SIGINT, on_signal)
    try:
        threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT)).start()
        rig.engine.close(30.0)
    finally:
        signal.signal(signal.SIGINT, old)
    assert flushed == [False], "the frame below finishes it"
    assert rig.engine._finished.is_set()


# --- receiving ---


def test_receive_takes(rig: Rig) -> None:
    rig.emit(arrived(b"1"), arrived(b""))
    first = rig.engine.receive(None)
    assert first is not None
    assert (first.content, first.peer, first.channel, first.peer_id) == (b"1", "bob", 0, peer_id_of("bob"))
    assert contents([rig.engine.receive(0)]) == [b""]
    assert rig.endpoint.taken == [b"1", b""]
    assert rig.engine.receive(0) is None
    assert rig.engine.receive(0.001) is None


def test_close_wakes_receivers_at_once(rig: Rig) -> None:
    results: list[object] = []
    threads = [threading.Thread(target=lambda: results.append(rig.engine.receive(None))) for _ in range(3)]
    for thread in threads:
        thread.start()
    rig.engine.close(0.0)
    for thread in threads:
        thread.join(5)
    assert results == [None] * 3
    assert rig.engine.receive(None) is None


def test_the_descriptor_follows_the_queue(rig: Rig) -> None:
    descriptor = rig.engine.inbox.fileno()

    def ready() -> bool:
        return bool(select.select([descriptor], [], [], 0)[0])

    assert not ready()
    rig.emit(arrived(b"1"))
    assert ready()
    rig.engine.receive(0)
    assert not ready()


def test_a_message_through_real_threads(rig: Rig) -> None:
    rig.transport.arrive(b"M7:hello", source=BOB)
    assert contents([rig.engine.receive(5)]) == [b"hello"]
    reach(lambda: rig.transport.sent == [b"T7"])
    rig.transport.arrive(b"M7:hello", source=Address("192.0.2.99", 1))
    reach(lambda: rig.engine.drops() == {"stranger": 1})
    rig.transport.errors["EMSGSIZE"] = 3
    assert rig.engine.drops()["transport_EMSGSIZE"] == 3


# --- peers ---


def test_adding_is_all_or_nothing(rig: Rig) -> None:
    with pytest.raises(ValueError, match="'impossible'"):
        rig.engine.add({"carol": Target((BOB,)), "impossible": Target((BOB,))})
    assert set(rig.engine.statuses()) == {"bob", "eve"} == set(rig.engine.house.targets)


def test_adding_again_adds_addresses_but_never_another_key(rig: Rig) -> None:
    carol, other = peer_id_of("carol"), peer_id_of("other")
    rig.engine.add({"carol": Target((BOB,), (), carol)})
    rig.engine.add({"carol": Target((EVE,))})
    assert rig.engine.house.targets["carol"] == Target((BOB, EVE), (), carol)
    with pytest.raises(ValueError, match="'carol'"):
        rig.engine.add({"new": Target((BOB,)), "carol": Target((BOB,), (), other)})
    assert "new" not in rig.engine.statuses()
    rig.engine.forget("carol")
    rig.engine.add({"carol": Target((BOB,), (), other)})


def test_too_many_peers(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(config=Config(max_peers=3)).start()
    with pytest.raises(ValueError, match="max_peers"):
        rig.engine.add({"c": Target((BOB,)), "d": Target((BOB,))})
    rig.engine.add({"c": Target((BOB,)), "bob": Target((BOB,))})


def test_a_spec_with_nothing_in_it(rig: Rig) -> None:
    with pytest.raises(ValueError, match="neither"):
        rig.engine.add({"carol": Target()})


def test_removing(rig: Rig) -> None:
    delivery = send(rig)
    with pytest.raises(UnknownPeer, match="'nobody'"):
        rig.engine.remove(["bob", "nobody"])
    assert set(rig.engine.statuses()) == {"bob", "eve"}
    rig.engine.remove(["bob", "eve", "bob"])
    assert rig.engine.statuses() == {}
    assert delivery.failed == {"bob": Failure.REMOVED.value}


def test_waiting_for_connections(rig: Rig) -> None:
    assert rig.engine.wait_connected(None, 0)
    rig.engine.add({"carol": Target(peer_id=peer_id_of("carol"))})
    assert rig.engine.wait_connected(["bob"], None)
    assert not rig.engine.wait_connected(None, 0)
    assert not rig.engine.wait_connected(["carol"], 0.005)
    with pytest.raises(UnknownPeer):
        rig.engine.wait_connected(["nobody"], 0)
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(rig.engine.wait_connected(None, 5)))
    thread.start()
    reach(lambda: rig.engine.driver.topics._waiting)
    rig.under_lock(lambda: rig.endpoint.connect("carol", EVE))
    thread.join(5)
    assert results == [True]


def test_waiting_for_connections_ends_with_the_socket(rig: Rig) -> None:
    rig.engine.add({"carol": Target(peer_id=peer_id_of("carol"))})
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(rig.engine.wait_connected(None, None)))
    thread.start()
    reach(lambda: rig.engine.driver.topics._waiting)
    rig.engine.close(0.0)
    thread.join(5)
    assert results == [False]
    assert not rig.engine.wait_connected(None, None)


def test_host_names_are_looked_up_elsewhere(make_rig: Callable[..., Rig]) -> None:
    asked: list[tuple[str, str]] = []

    def getaddrinfo(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        asked.append((host, threading.current_thread().name))
        return [(socket.AF_INET, 0, 0, "", ("192.0.2.7", port))]

    rig = make_rig(getaddrinfo=getaddrinfo).start()
    rig.engine.add({"carol": Target((EVE,), (("carol.example", 9),))})
    expected = ("set_addresses", "carol", (EVE, Address("192.0.2.7", 9)))
    reach(lambda: expected in rig.endpoint.calls)
    assert asked == [("carol.example", "srmudp-resolver")]
    rig.emit(ResolveWanted("carol"), ResolveWanted("bob"), ResolveWanted("nobody"))
    reach(lambda: rig.engine.resolver._wanted.empty())
    assert len(asked) == 1, "not again so soon"


def test_a_name_that_leads_nowhere_is_told(make_rig: Callable[..., Rig]) -> None:
    def getaddrinfo(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        if host == "carol.example":
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, 0, 0, "", ("224.0.0.1", port))]

    rig = make_rig(getaddrinfo=getaddrinfo).start()
    rig.engine.add({"carol": Target((), (("carol.example", 9),)), "dave": Target((), (("dave.example", 9),))})

    def told() -> dict[str, str]:
        return {call[1]: call[2] for call in rig.endpoint.calls if call[0] == "note_unresolved"}

    reach(lambda: len(told()) == 2)
    assert "carol.example" in told()["carol"]
    assert "not known" in told()["carol"]
    assert "single host" in told()["dave"]
    rig.engine._unresolved("carol", (("other", 1),), "of an older target")
    rig.engine._unresolved("gone", (), "of nobody")
    assert len(told()) == 2


def test_an_answer_for_a_removed_peer_is_dropped(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig().start()
    rig.engine._resolved("bob", (("other", 1),), [EVE])
    rig.engine._resolved("gone", (), [EVE])
    assert not [call for call in rig.endpoint.calls if call[0] == "set_addresses"]


# --- known peers ---


def test_first_uses_are_written_and_pinned_next_time(make_rig: Callable[..., Rig], tmp_path: Path) -> None:
    path = tmp_path / "known"
    rig = make_rig(known=KnownPeers(path)).start()
    rig.under_lock(lambda: rig.endpoint.connect("stranger", EVE))
    reach(lambda: len(KnownPeers(path)) == 2)
    rig.engine.trust("eve", None)
    rig.engine.close(0.0)
    known = KnownPeers(path)
    assert known.get("stranger") is None
    bob, eve = known.get("bob"), known.get("eve")
    assert bob is not None
    assert eve is not None
    assert (bob.peer_id, bob.pinned, bob.addresses) == (peer_id_of("bob"), False, (BOB,))
    assert eve.pinned

    again = make_rig(known=known)
    again.engine.start()
    again.engine.add({"bob": Target((EVE,)), "eve": Target()})
    calls = [call for call in again.endpoint.calls if call[0] == "add_peer"]
    assert calls == [
        ("add_peer", "bob", (EVE, BOB), peer_id_of("bob"), True),
        ("add_peer", "eve", (EVE,), peer_id_of("eve"), True),
    ]
    with pytest.raises(ValueError, match=r"forget\('bob'\)"):
        again.engine.add({"bob": Target((BOB,), (), peer_id_of("mallory"))})
    again.engine.forget("bob")
    assert KnownPeers(path).get("bob") is None


def test_a_key_is_noted_and_forgotten_under_the_lock(
    make_rig: Callable[..., Rig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else who reads the status of a peer before it is forgotten would note it after.

    All of it, for a signal handler that wants that lock must not wait for the frame below it.
    """
    known = KnownPeers(tmp_path / "known")
    rig = make_rig(known=known)
    held: list[tuple[str, bool]] = []

    def watch(name: str) -> None:
        inner = getattr(known, name)

        def watched(*args: Any, **options: Any) -> Any:
            held.append((name, rig.engine.driver._lock._is_owned()))  # type: ignore[attr-defined]
            return inner(*args, **options)

        monkeypatch.setattr(known, name, watched)

    watch("record")
    watch("forget")
    rig.start()
    rig.under_lock(lambda: rig.endpoint.connect("bob", BOB))
    reach(lambda: held)
    rig.engine.trust("bob", None)
    entry = known.get("bob")
    assert entry is not None
    assert entry.pinned
    rig.engine.forget("bob")
    assert held[0] == ("record", True)
    assert set(held) == {("record", True), ("forget", True)}
    assert known.get("bob") is None


def test_what_the_file_knows_can_be_forgotten_after_the_end(make_rig: Callable[..., Rig], tmp_path: Path) -> None:
    known = KnownPeers(tmp_path / "known")
    known.record("old", peer_id_of("old"), pinned=True)
    rig = make_rig(known=known).start()
    rig.engine.close(0.0)
    rig.engine.forget("old")
    assert KnownPeers(tmp_path / "known").get("old") is None
    with pytest.raises(SocketClosed):
        rig.engine.forget("old")


def test_a_match_by_ip_alone_is_not_written(make_rig: Callable[..., Rig], tmp_path: Path) -> None:
    from dataclasses import replace

    rig = make_rig(known=KnownPeers(tmp_path / "known"))
    rig.engine.start()
    rig.engine.add({"bob": Target(peer_id=peer_id_of("bob"))})

    def match() -> None:
        rig.endpoint.connect("bob", BOB)
        rig.endpoint.peers["bob"] = replace(rig.endpoint.peers["bob"], trust=Trust.MATCHED_BY_IP)

    rig.under_lock(match)
    done = threading.Event()
    rig.engine.hooks.call(done.set)
    assert done.wait(5)
    assert not (tmp_path / "known").exists()


def test_a_file_that_cannot_be_written_is_logged(
    make_rig: Callable[..., Rig], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    rig = make_rig(known=KnownPeers(folder / "known"))
    folder.rmdir()
    rig.start()
    reach(lambda: "cannot write the known peers" in caplog.text)


def test_an_event_for_an_unknown_token_is_ignored(rig: Rig) -> None:
    rig.emit(MessageSettled(999, "bob", None), PeerEvent(EventKind.LOST, "bob"))
    assert rig.engine.drops() == {}
    assert rig.engine.statuses()["bob"].state is PeerState.CONNECTED


def test_a_delivery_has_the_name_it_was_sent_to(rig: Rig) -> None:
    """A peer with two names reports under its first."""
    delivery = send(rig, to="bob")
    rig.emit(MessageSettled(1, "robert", None))
    assert delivery.delivered == {"bob"}
    assert delivery.wait(0)
