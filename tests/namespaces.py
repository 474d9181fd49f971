"""Network namespaces that a test makes and removes: links between them, nftables, and work done inside.

::

    with Namespaces("srmudp-lab") as net:
        net.add("a"), net.add("router")
        net.link("a", "eth0", "192.168.1.2/24", "router", "lan", "192.168.1.1/24")
        net.nft("router", "table ip nat { ... }")
        sock = net.inside("a", lambda: MultiHolepunchSocket(8000))

The names on the system are the given one, the number of this process and the short name. What a killed process left
behind is removed by the next one that uses the same name.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")

NAMED = Path("/run/netns")
CLONE_NEWNET = 0x4000_0000


def why_not() -> str:
    """Why network namespaces cannot be used here; empty if they can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "network namespaces need root"
    return next((f"there is no {tool}" for tool in ("ip", "nft") if shutil.which(tool) is None), "")


def run(*command: str, text: str | None = None) -> None:
    """Run a command.

    Raises:
        OSError: it failed; with what it said.
    """
    # In a group of its own, so that a Ctrl-C does not reach it half-way through.
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=10, process_group=0)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


def _set(what: str, value: int) -> None:
    """Set one of the network's switches where this thread is, if the system has it."""
    path = Path("/proc/sys/net") / what
    if path.exists():
        path.write_text(str(value))


def sweep(name: str) -> None:
    """Remove what processes that are no more left behind."""
    for path in NAMED.glob(f"{name}[0-9]*-*") if NAMED.is_dir() else ():
        match = re.fullmatch(re.escape(name) + r"(\d+)-\w+", path.name)
        if match is not None and not Path(f"/proc/{match[1]}").exists():
            subprocess.run(["ip", "netns", "del", path.name], capture_output=True, timeout=10, check=False)


class Namespaces:
    """Namespaces of this process; all of them go when it is closed.

    Args:
        name: what their names begin with.
    """

    def __init__(self, name: str) -> None:
        sweep(name)
        self._prefix = f"{name}{os.getpid()}-"
        self._made: list[str] = []

    def add(self, where: str) -> None:
        """Make a namespace, with its loopback up."""
        self._made.append(where)  # before: Ctrl-C may come at any moment
        run("ip", "netns", "add", self._prefix + where)
        self.ip(where, "link", "set", "lo", "up")
        # Nobody else is there, so no second is lost asking whether an IPv6 address is taken.
        self.inside(where, lambda: [_set(f"ipv6/conf/{which}/accept_dad", 0) for which in ("all", "default")])

    def link(self, one: str, device: str, address: str, two: str, other_device: str, other_address: str) -> None:
        """Connect two by a pair of devices, each with its address; ``""`` for none."""
        peer = ("peer", "name", other_device, "netns", self._prefix + two)
        run("ip", "link", "add", device, "netns", self._prefix + one, "type", "veth", *peer)
        for where, name, own in ((one, device, address), (two, other_device, other_address)):
            if own:
                self.ip(where, "addr", "add", own, "dev", name)
            self.ip(where, "link", "set", name, "up")

    def forward(self, where: str) -> None:
        """Make a router of it."""

        def switch() -> None:
            _set("ipv4/ip_forward", 1)
            _set("ipv6/conf/all/forwarding", 1)
            _set("bridge/bridge-nf-call-iptables", 0)  # what is routed out of a bridge and in again passes once

        self.inside(where, switch)

    def has(self, where: str) -> bool:
        """Whether this one was added."""
        return where in self._made

    def ip(self, where: str, *arguments: str, text: str | None = None) -> None:
        """Run ``ip`` there; ``text`` is what it reads."""
        run("ip", "-n", self._prefix + where, *arguments, text=text)

    def nft(self, where: str, rules: str) -> None:
        """Load nftables rules there."""
        run("ip", "netns", "exec", self._prefix + where, "nft", "-f", "-", text=rules)

    def run_in(self, where: str, *command: str) -> None:
        """Run a command there."""
        run("ip", "netns", "exec", self._prefix + where, *command)

    def inside(self, where: str, work: Callable[[], T]) -> T:
        """What ``work()`` returns, called in a namespace, on a thread that enters it for that."""
        done: list[T] = []
        failed: list[BaseException] = []

        def enter() -> None:
            try:
                with (NAMED / f"{self._prefix}{where}").open() as handle:
                    if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                done.append(work())
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join(20)
        if failed:
            raise failed[0]
        return done[0]

    def close(self) -> None:
        """Remove all of them, whatever state they are in. Idempotent."""
        while self._made:
            where = self._made[-1]
            if (NAMED / f"{self._prefix}{where}").exists():
                run("ip", "netns", "del", self._prefix + where)
            self._made.pop()  # after: an interrupt leaves it to the next close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
