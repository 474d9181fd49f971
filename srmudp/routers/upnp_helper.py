"""The process that speaks UPnP: started as a file of its own, never imported by the program.

Every device of the local network may answer a search for routers, and the library reads what it says in C, of any
length and for as long as it lasts. So it does that here, with little memory, until the program loses patience. When
its standard input ends, because the program closed it or died in whatever way, the mapping is taken back.

One JSON object a line, in and out: ``{"port", "outside", "lifetime", "gateway"}`` (0 for ``port`` only looks) is
answered by ``{"host", "port", "lifetime", "router"}`` or ``{"error"}``.
"""

from __future__ import annotations

import json
import random
import signal
import sys
from typing import Any
from urllib.parse import urlsplit

SEARCH = 1000
"""Milliseconds routers have to answer each of the four searches; the first that is answered is the last."""
MEMORY = 256 << 20
"""Bytes of address space this process may have."""
LAST_SECONDS = 10
"""Seconds for taking the mapping back."""
TRIES = 4
"""Outside ports that are tried."""


class Failed(Exception):
    """It does not work; why."""


class Mapper:
    """The router and the mapping it made for us."""

    def __init__(self) -> None:
        self.upnp: Any = None
        self.router = ""
        self.outside = 0

    def find(self, gateway: str) -> None:
        """Look for the router, which must be the default one if that is known."""
        import miniupnpc

        upnp = miniupnpc.UPnP()
        upnp.discoverdelay = SEARCH
        try:
            upnp.discover()
        except Exception as error:
            why = "" if str(error) == "Success" else f" ({_said(error)})"  # so it calls hearing nothing
            raise Failed(f"no UPnP router answers{why}") from error
        try:
            url = upnp.selectigd()
        except Exception as error:
            raise Failed(f"no UPnP device here is a router ({_said(error)})") from error
        self.router = urlsplit(url).hostname or ""
        if gateway and self.router != gateway:
            raise Failed(f"a device that is not our router ({self.router}) says that it is one")
        self.upnp = upnp

    def map(self, order: dict[str, Any]) -> dict[str, Any]:
        """Do what we are told."""
        if self.upnp is None:
            self.find(order["gateway"])
        try:
            host = self.upnp.externalipaddress()
            if not order["port"]:
                return {"host": host, "port": 0, "lifetime": 0, "router": self.router}
            port = self.add(order["port"], order["outside"], order["lifetime"])
        except Failed:
            raise
        except Exception as error:
            self.upnp = None  # perhaps there is another router now
            raise Failed(f"the router refuses ({_said(error)})") from error
        return {"host": host, "port": port, "lifetime": order["lifetime"], "router": self.router}

    def add(self, port: int, outside: int, lifetime: int) -> int:
        """Make or renew the mapping; never one that is somebody else's."""
        ours = self.upnp.lanaddr
        for _ in range(TRIES):
            there = self.upnp.getspecificportmapping(outside, "UDP")
            if there is None or (there[0], there[1]) == (ours, port):
                try:
                    self.upnp.addportmapping(outside, "UDP", ours, port, "srmudp", "", lifetime)
                except Exception as error:
                    if "OnlyPermanentLeases" in str(error):
                        text = "the router makes only mappings that last for ever, which would outlive this program"
                        raise Failed(text) from error
                    if "Conflict" not in str(error):
                        raise
                else:
                    if self.outside not in (0, outside):
                        self.remove()
                    self.outside = outside
                    return outside
            outside = random.randrange(20_000, 60_000)
        raise Failed("the router has given the ports we want to others")

    def remove(self) -> None:
        """Take it back."""
        outside, self.outside = self.outside, 0
        if outside and self.upnp is not None:
            try:
                self.upnp.deleteportmapping(outside, "UDP")
            except Exception:
                pass  # it is gone already, or it ends by itself


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # meant for the program
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except (ImportError, ValueError, OSError):
        pass
    sys.path[:0] = sys.argv[1:]  # where the library is: this one, whatever else is installed
    mapper = Mapper()
    for line in sys.stdin:
        try:
            answer = mapper.map(json.loads(line))
        except Failed as error:
            answer = {"error": str(error)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
    if hasattr(signal, "alarm"):
        signal.alarm(LAST_SECONDS)
    mapper.remove()


if __name__ == "__main__":
    main()
