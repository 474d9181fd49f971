"""Closing in all its ways: flushing, Ctrl-C, several threads, the end of the program, fork."""

from __future__ import annotations

import gc
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from srmudp.exceptions import LocalProtocolError, SocketClosed
from srmudp.protocol.events import Failure
from srmudp.sockets import lifetime
from srmudp.sockets.addresses import Target
from srmudp.sockets.household import IDLE, Letter

from .conftest import BOB, Rig, reach, send


def test_who_waits_in_receive_is_not_kept_while_close_flushes(rig: Rig) -> None:
    rig.engine.send(Letter(b"stays", 0, True, None), "bob", 0.0)
    got: list[object] = []
    waiting = threading.Thread(target=lambda: got.append(rig.engine.receive(None)))
    waiting.start()
    time.sleep(0.05)  # it waits; any moment would do
    closing = threading.Thread(target=rig.engine.close, args=(1.0,))
    closing.start()
    waiting.join(0.6)
    assert got == [None]
    assert closing.is_alive()
    rig.engine.close(0.0)  # hurries it
    closing.join()
    waiting.join()


def test_close_flushes_until_nothing_is_pending(rig: Rig) -> None:
    delivery = send(rig)
    thread = threading.Thread(target=rig.engine.close, args=(30.0,))
    thread.start()
    reach(lambda: rig.engine.driver.topics._waiting)
    with pytest.raises(SocketClosed):
        send(rig)
    rig.transport.arrive(b"T1", source=BOB)
    thread.join(5)
    assert not thread.is_alive()
    assert delivery.wait(0)
    assert rig.endpoint.closed
    assert rig.transport.closed
    with pytest.raises(SocketClosed):
        send(rig)
    with pytest.raises(SocketClosed):
        rig.engine.add({"x": Target((BOB,))})
    assert set(rig.engine.statuses()) == {"bob", "eve"}


def test_what_is_not_delivered_fails_and_is_logged_once(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    deliveries = [send(rig) for _ in range(3)]
    rig.engine.close(0.01)
    rig.engine.close(0.01)
    assert {d.failed["bob"] for d in deliveries} == {Failure.CLOSED.value}
    assert [r.getMessage() for r in caplog.records] == ["! closed with 3 undelivered messages"]


def test_the_goodbyes_are_sent(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    end = rig.endpoint.close

    def close(now: float) -> None:
        end(now)
        rig.endpoint.send_message("bob", b"goodbye", channel=0, reliable=True, ttl=None, now=now)

    monkeypatch.setattr(rig.endpoint, "close", close)
    rig.engine.close(0.0)
    assert rig.transport.sent == [b"M1:goodbye"]


def test_ctrl_c_ends_the_flushing_not_the_closing(rig: Rig) -> None:
    send(rig)

    def press() -> None:
        reach(lambda: IDLE in rig.engine.driver.topics._waiting)  # it flushes
        os.kill(os.getpid(), signal.SIGINT)

    pressing = threading.Thread(target=press)
    pressing.start()
    with pytest.raises(KeyboardInterrupt):
        rig.engine.close(30.0)
    pressing.join()
    assert rig.transport.closed
    assert rig.engine._finished.is_set()


def test_an_interrupted_end_is_finished_by_the_next_close(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = rig.engine.driver.stop

    def interrupted() -> bool:
        monkeypatch.setattr(rig.engine.driver, "stop", stop)
        raise KeyboardInterrupt

    monkeypatch.setattr(rig.engine.driver, "stop", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rig.engine.close(0.0)
    assert not rig.transport.closed
    rig.engine.close()
    assert rig.transport.closed


def test_closing_from_several_threads_and_one_in_a_hurry(rig: Rig) -> None:
    send(rig)
    threads = [threading.Thread(target=rig.engine.close, args=(30.0,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    reach(lambda: rig.engine.closing)
    rig.engine.close(0.0)
    assert rig.transport.closed
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


def test_a_blocked_send_ends_with_the_socket(rig: Rig) -> None:
    rig.endpoint.full = {"bob"}
    results: list[object] = []

    def blocked(to: Any) -> None:
        try:
            results.append(send(rig, to=to, timeout=30).failed)
        except SocketClosed:
            results.append("closed")

    threads = [threading.Thread(target=blocked, args=(to,)) for to in ("bob", ["eve", "bob"])]
    for thread in threads:
        thread.start()
    reach(lambda: len(rig.engine.driver.topics._waiting.get("room", ())) == 2)
    rig.engine.close(0.0)
    for thread in threads:
        thread.join(5)
    assert "closed" in results, "nobody had it"
    partly = next(result for result in results if isinstance(result, dict))
    assert partly["bob"] == Failure.CLOSED.value, "eve had it"


def test_dropped_without_close(rig: Rig) -> None:
    rig.engine.abandon()
    assert rig.engine._finished.wait(5)
    assert rig.transport.closed
    reach(lambda: not [t for t in threading.enumerate() if t.name.startswith("srmudp-")])


def test_no_reference_is_left(make_rig: Callable[..., Rig]) -> None:
    rig = Rig().start()
    rig.engine.hooks.add_message_hook(lambda m: None)
    rig.engine.close(0.0)
    gone = weakref.ref(rig.engine)
    del rig
    gc.collect()
    assert gone() is None


def test_repr_tells_state_without_secrets(rig: Rig) -> None:
    assert repr(rig.engine) == f"<MultiHolepunchSocket open 0.0.0.0:7 peers=2 peer_id={rig.engine.peer_id}>"
    rig.engine.close(0.0)
    assert " closed " in repr(rig.engine)


def test_at_exit_sockets_are_flushed_and_a_warning_is_logged(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        lifetime._at_exit()
    assert rig.transport.closed
    assert "was not closed before the program ended" in caplog.text
    lifetime._at_exit()


def test_at_exit_who_was_closed_is_waited_for_as_long_as_it_gets_on(
    rig: Rig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifetime, "EXIT_FLUSH", 0.05)
    delivery = send(rig)
    closing = threading.Thread(target=rig.engine.close, args=(30.0,))
    closing.start()
    reach(lambda: rig.engine.is_being_closed)
    looks = iter(range(20))  # of 10 ms each

    def undelivered() -> tuple[int, int]:
        look = next(looks, None)
        if look is None:
            rig.transport.arrive(b"T1", source=BOB)
        return 1, look or 0

    monkeypatch.setattr(rig.endpoint, "undelivered", undelivered)
    lifetime._at_exit()
    closing.join(5)
    assert delivery.wait(0)
    assert rig.transport.closed
    assert not caplog.records, "it was closed"


def test_at_exit_who_was_closed_and_stands_still_is_not_waited_for(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifetime, "EXIT_FLUSH", 0.05)
    delivery = send(rig)
    closing = threading.Thread(target=rig.engine.close, args=(30.0,))
    closing.start()
    reach(lambda: rig.engine.is_being_closed)
    lifetime._at_exit()
    assert rig.transport.closed
    assert delivery.failed == {"bob": Failure.CLOSED.value}
    closing.join(5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_after_fork_the_child_sends_nothing_and_takes_no_lock(rig: Rig) -> None:
    """Attack 41. The child is forked while another thread holds both locks."""
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with rig.engine.driver._lock, rig.engine.driver._send_lock:
            held.set()
            go_on.wait(5)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(5)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        answers = []
        try:
            signal.alarm(5)
            for call in (
                lambda: send(rig),
                lambda: rig.engine.receive(0),
                lambda: rig.engine.add({"x": Target((BOB,))}),
                rig.engine.statuses,
                lambda: rig.engine.wait_connected(None, 0),
            ):
                try:
                    call()
                    answers.append("returned")
                except LocalProtocolError:
                    answers.append("refused")
            rig.engine.close()
            lifetime._at_exit()
            answers.append(str(rig.transport.closed))
            answers.append(str(hasattr(rig.engine.driver, "endpoint")))
            answers.append("parent" if "parent" in repr(rig.engine) else "own")
            answers.append(str(len(rig.transport.sent)))
        finally:
            os.write(writer, ",".join(answers).encode())
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    go_on.set()
    thread.join(5)
    assert os.read(reader, 1000).decode() == ",".join(["refused"] * 5 + ["True", "False", "parent", "0"])
    os.close(reader)
    send(rig)
    assert rig.transport.sent == [b"M1:x"], "the parent goes on"


def test_a_script_that_ends_without_close_is_flushed() -> None:
    script = textwrap.dedent("""
        import logging, threading
        logging.basicConfig(format="%(message)s")
        from tests.sockets.conftest import Rig, BOB
        from srmudp.sockets.household import Letter
        rig = Rig().start()
        rig.engine.send(Letter(b"x", 0, True, None), "bob", 0)
        threading.Timer(0.1, rig.transport.arrive, (b"T1",), {"source": BOB}).start()
        rig.endpoint.close = lambda now: print("closed, pending", rig.endpoint.pending, flush=True)
    """)
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        timeout=20,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert result.stdout == "closed, pending 0\n"
    assert "was not closed before the program ended" in result.stderr
    assert "Traceback" not in result.stderr
    assert "ResourceWarning" not in result.stderr
    assert result.returncode == 0


def test_what_another_thread_is_just_starting_is_not_waited_for(rig: Rig) -> None:
    """It looks whether it is to end before anything else."""
    for part in (rig.engine.hooks, rig.engine.resolver):
        part._thread = threading.Thread()
        assert part.stop(1.0)
