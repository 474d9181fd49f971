"""What the copy of a socket answers in a child after ``fork``."""

from __future__ import annotations

import inspect
import os
import signal
from collections.abc import Callable
from typing import Any

from srmudp.exceptions import LocalProtocolError


def not_refused_in_child(sock: Any, *more: Callable[[], Any]) -> list[str]:
    """The calls that a forked child may make of ``sock``, which is connected with "b", and must not; ``more`` as well.

    Whether closing it, which must do nothing there, raises nothing is seen too.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        wrong = ["the child did not come to its end"]
        try:
            signal.alarm(10)
            wrong = [name for name, call in _calls(sock, more).items() if not _is_refused(call)]
            if not _closes(sock):
                wrong.append("close")
        finally:
            os.write(writer, ",".join(wrong).encode())
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as answer:
        said = answer.read()
    return said.split(",") if said else []


def _calls(sock: Any, more: tuple[Callable[[], Any], ...]) -> dict[str, Callable[[], Any]]:
    calls: dict[str, Callable[[], Any]] = {
        "send": lambda: sock.send(b"child"),
        "receive": lambda: sock.receive(0),
        "add_peers": lambda: sock.add_peers({}),
        "remove_peer": lambda: sock.remove_peer("b"),
        "remove_peers": lambda: sock.remove_peers(["b"]),
        "trust": lambda: sock.trust("b"),
        "forget": lambda: sock.forget("b"),
        "verification_code": lambda: sock.verification_code("b"),
        "wait_connected": lambda: sock.wait_connected(),
        "connections_status": lambda: sock.connections_status,
        "register_message_hook": lambda: sock.register_message_hook(print),
        "unregister_message_hook": lambda: sock.unregister_message_hook(print),
        "on_event": lambda: sock.on_event(print),
        "off_event": lambda: sock.off_event(print),
        "discover": lambda: sock.discover("127.0.0.1:9"),
        "drops": lambda: sock.drops,
        "addresses": lambda: sock.addresses,
        "getsockname": sock.getsockname,
    }
    return {**calls, **{f"more {number}": call for number, call in enumerate(more)}}


def _is_refused(call: Callable[[], Any]) -> bool:
    try:
        _finish(call())
    except LocalProtocolError:
        return True
    except BaseException:
        return False
    return False


def _closes(sock: Any) -> bool:
    try:
        _finish(sock.close())
        sock.__del__()
    except BaseException:
        return False
    return True


def _finish(result: Any) -> None:
    """A coroutine's end, which must be within its first step: the loop is the parent's."""
    if inspect.isawaitable(result):
        try:
            result.__await__().send(None)
        except StopIteration:
            return
        raise AssertionError("it waits")
