"""What happens to open sockets when the process forks or ends without closing them."""

from __future__ import annotations

import atexit
import logging
import os
import time
from time import monotonic
from typing import Protocol

log = logging.getLogger("srmudp.sockets")

EXIT_FLUSH = 2.0
"""Seconds a program that ends without ``close()`` is held back, for all its sockets together; and how long sockets that
were closed, and bring home what was sent, may stand still before the program ends all the same."""
_LOOK = 0.01
"""Seconds between looks at them."""


class Lived(Protocol):
    """What this module asks of an open socket."""

    @property
    def is_being_closed(self) -> bool:
        """True while another thread closes it, as the application has asked for."""

    def close(self, timeout: float | None = None) -> None: ...
    def undelivered(self) -> object:
        """What is still to be brought home; another value than before if that got on."""

    def forget_after_fork(self) -> None: ...


_open: set[Lived] = set()


def opened(socket: Lived) -> None:
    """Look after ``socket`` until :func:`closed`. Keeps it alive, as its threads do."""
    _open.add(socket)


def closed(socket: Lived) -> None:
    """No longer look after ``socket``. Idempotent."""
    _open.discard(socket)


def _at_exit() -> None:
    """Runs when all non-daemon threads have ended and ours still work."""
    deadline = monotonic() + EXIT_FLUSH
    for socket in [socket for socket in list(_open) if not socket.is_being_closed]:
        log.warning("! %r was not closed before the program ended; flushing for up to %g s", socket, EXIT_FLUSH)
        try:
            socket.close(timeout=max(0.0, deadline - monotonic()))
        except Exception:
            log.exception("! %r", socket)
    _see_to_closing()


def _see_to_closing() -> None:
    """Wait for those that are being closed, each for as long as its ``close`` may take, while any of them gets on."""
    before: list[object] = []
    until = monotonic() + EXIT_FLUSH
    while closing := [socket for socket in list(_open) if socket.is_being_closed]:
        left = [socket.undelivered() for socket in closing]
        if left != before:
            before, until = left, monotonic() + EXIT_FLUSH
        elif monotonic() >= until:
            for socket in closing:
                socket.close(timeout=0.0)
            return
        time.sleep(_LOOK)


def _after_fork_in_child() -> None:
    """Takes no lock: its holder may not exist here. Seals and sends nothing: the parent goes on with the keys."""
    sockets = list(_open)
    _open.clear()
    for socket in sockets:
        try:
            socket.forget_after_fork()
        except Exception:  # a child must start whatever state the parent was in
            pass


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
