"""Port mapping over UPnP, by ``miniupnpc`` in a process of its own: see :mod:`.upnp_helper` for the reasons."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any, Final

from ..models import Address
from .asking import LIFETIME, Grant, RouterError, checked
from .gateway import NO_WINDOW, default_gateway

_PATIENCE: Final = 8.0
"""Seconds one order to the process may take: the search and five short conversations over HTTP."""
_LOOK: Final = 0.1
"""Seconds between looks whether anybody still waits."""
_MAX_LINE: Final = 4096
_HELPER: Final = Path(__file__).with_name("upnp_helper.py")


def find_upnp(given_up: Callable[[], bool] = lambda: False, library: Path | None = None) -> UpnpRouter:
    """The router, if it speaks UPnP.

    Args:
        library: the folder of ``miniupnpc``; None to look for it.

    Raises:
        RouterError: it does not, or the library is not installed.
    """
    if library is None:
        spec = importlib.util.find_spec("miniupnpc")
        if spec is None or not spec.origin:
            raise RouterError("UPnP needs the extra: pip install 'srmudp[upnp]'")
        library = Path(spec.origin).parent
    if getattr(sys, "frozen", False) or not sys.executable:
        raise RouterError("UPnP needs a Python interpreter to start, and there is none here")
    router = UpnpRouter(library)
    try:
        router.look(given_up)
    except BaseException:
        router.abandon()
        raise
    return router


class UpnpRouter:
    """A router that speaks UPnP; :meth:`look` for it first."""

    protocol = "UPnP"

    def __init__(self, library: Path) -> None:
        self.host = ""
        self._gateway = default_gateway() or ""
        self._pid = os.getpid()
        try:
            self._helper = subprocess.Popen(
                [sys.executable, "-I", str(_HELPER), str(library)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the program
                creationflags=NO_WINDOW,
            )
        except OSError as error:
            raise RouterError(f"the process for UPnP does not start: {error}") from error

    def look(self, given_up: Callable[[], bool]) -> None:
        """Find it. Changes nothing there."""
        self._order(0, 0, given_up)

    def map(self, port: int, outside: Address | None) -> Grant:
        """See :class:`~.asking.Router`."""
        answer = self._order(port, port if outside is None else outside.port)
        host, granted, lifetime = answer.get("host"), answer.get("port"), answer.get("lifetime")
        if not isinstance(host, str) or not isinstance(granted, int) or not isinstance(lifetime, int):
            raise RouterError("the process for UPnP says nothing sensible")
        return checked(host, granted, lifetime)

    def _order(self, port: int, outside: int, given_up: Callable[[], bool] = lambda: False) -> dict[str, Any]:
        order = {"port": port, "outside": outside, "lifetime": LIFETIME, "gateway": self._gateway}
        assert self._helper.stdin is not None
        assert self._helper.stdout is not None
        answered = threading.Event()
        threading.Thread(
            target=self._watch, args=(answered, given_up), name="srmudp-portmap-patience", daemon=True
        ).start()
        try:
            self._helper.stdin.write(json.dumps(order).encode() + b"\n")
            self._helper.stdin.flush()
            line = self._helper.stdout.readline(_MAX_LINE)
            answer = json.loads(line)
        except (OSError, ValueError) as error:
            raise RouterError("UPnP takes too long, or its process died") from error
        finally:
            answered.set()
        if not isinstance(answer, dict) or "error" in answer:
            raise RouterError(_clean(answer["error"], 300) if isinstance(answer, dict) else "no sense in the answer")
        self.host = _clean(answer.get("router", ""), 60)
        return answer

    def _watch(self, answered: threading.Event, given_up: Callable[[], bool]) -> None:
        """End the process if it takes too long, for then nobody else does."""
        deadline = monotonic() + _PATIENCE
        while not answered.wait(_LOOK):
            if monotonic() >= deadline or given_up():
                self._helper.kill()
                return

    def unmap(self) -> None:
        """See :class:`~.asking.Router`: done by the end of the process."""
        self.close(_PATIENCE)

    def close(self, limit: float) -> None:
        """See :class:`~.asking.Router`."""
        self._close_pipes()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._helper.wait(max(0.0, limit))

    def abandon(self) -> None:
        """See :class:`~.asking.Router`. The process ends with the last one that has its standard input open."""
        self._close_pipes()
        if os.getpid() == self._pid:
            self._helper.kill()
            self._helper.wait()

    def _close_pipes(self) -> None:
        for pipe in (self._helper.stdin, self._helper.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _clean(said: object, length: int) -> str:
    """What may be shown to people of what some device said."""
    return "".join(char if char.isprintable() else "?" for char in str(said)[:length])
