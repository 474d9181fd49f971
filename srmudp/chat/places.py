"""Where the chat keeps things, and whose they are: a folder for each nick, which one chat at a time may use."""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import socket
import sys
from types import TracebackType
from typing import Self

from ..exceptions import IdentityError


def data_folder() -> str:
    """The user's folder for srmudp's files, as the system has it."""
    home = os.path.expanduser("~")
    if sys.platform == "win32":
        return os.path.join(os.environ.get("LOCALAPPDATA") or os.path.join(home, "AppData", "Local"), "srmudp")
    if sys.platform == "darwin":
        return os.path.join(home, "Library", "Application Support", "srmudp")
    base = os.environ.get("XDG_DATA_HOME", "")
    return os.path.join(base if os.path.isabs(base) else os.path.join(home, ".local", "share"), "srmudp")


def downloads() -> str:
    """Where received files go."""
    usual = os.path.join(os.path.expanduser("~"), "Downloads")
    return usual if os.path.isdir(usual) else os.path.join(data_folder(), "downloads")


def folder_of(nick: str) -> str:
    """The folder of one nick. Different nicks have different folders, also where case does not count."""
    readable = re.sub(r"[^a-z0-9]+", "-", nick.lower()).strip("-")[:32]
    digest = hashlib.sha256(nick.encode()).hexdigest()[:8]
    return os.path.join(data_folder(), "chat", f"{readable}-{digest}" if readable else digest)


def make_folder(path: str) -> None:
    """Have a folder that its owner alone can look into.

    Raises:
        IdentityError: it cannot be made.
    """
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as error:
        raise IdentityError(f"cannot make the folder {path}: {error.strerror}") from error


def default_nick() -> str:
    """What the system calls the user, as far as it can be a nick."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError, ImportError):
        name = ""
    return re.sub(r"[^\w.-]", "", name)[:32] or "guest"


class InUse(IdentityError):
    """Another chat has the identity."""


class Lock:
    """Holds a file so that no other chat uses what it stands for. The system lets it go when the program ends.

    Raises:
        InUse: another program holds it.
        IdentityError: the file cannot be made.
    """

    def __init__(self, path: str) -> None:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        try:
            self._descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            raise IdentityError(f"cannot make the lock file {path}: {error.strerror}") from error
        try:
            _lock(self._descriptor)
        except OSError:
            self.release()
            raise InUse("in use by another program") from None

    def release(self) -> None:
        """Let go. Idempotent. The file stays: to remove it would let two hold it."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def own_addresses(port: int) -> list[str]:
    """Addresses of this machine that others may type, the likeliest first. Sends nothing."""
    found: dict[str, None] = {}
    # To connect a UDP socket sends nothing; it makes the system choose the address it would send from.
    for family, far in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((far, 9))
                found[probe.getsockname()[0]] = None
        except OSError:
            continue
    hosts = [host for host in found if not host.startswith(("0.", "127.", "fe80:")) and host not in ("::", "::1")]
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in hosts]
