"""The known-peers file: which key each added peer had, so that a name means the same key tomorrow.

JSON, one object: ``{"alice": {"peer_id": "<52 characters>", "pinned": false, "addresses": ["192.0.2.1:8000"]}}``.
It is written whole into a new file that replaces the old one, readable by its owner alone. Strangers are never written.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..exceptions import IdentityError
from ..models import Address, PeerId
from .addresses import check_name, parse_target

MAX_FILE = 16 * 1024 * 1024
"""Bytes of the largest file read: some 100,000 peers."""
MAX_KEPT_ADDRESSES = 4
"""Newest addresses remembered of a peer."""


@dataclass(frozen=True, slots=True)
class KnownPeer:
    """One entry of the file.

    Attributes:
        peer_id: the key the name stands for.
        pinned: True if it was given in advance or compared, False if it was trusted because it came first.
        addresses: where the peer was last met, newest first.
    """

    peer_id: PeerId
    pinned: bool = False
    addresses: tuple[Address, ...] = ()


class KnownPeers:
    """The file in memory. Thread-safe; :meth:`save` does the only writing and may be called from any thread.

    Args:
        path: need not exist; its folder must.

    Raises:
        IdentityError: the file is malformed (the text has the line), not ours or open to others' writing.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._lock = threading.Lock()
        self._write_lock = threading.Lock()  # writing takes its time; only writers wait for each other
        self._written = self._entries = _load(self.path)

    @property
    def is_dirty(self) -> bool:
        """True if :meth:`save` has something to write."""
        return self._entries is not self._written

    def get(self, name: str) -> KnownPeer | None:
        """The entry of ``name``, or None."""
        return self._entries.get(name)

    def __len__(self) -> int:
        return len(self._entries)

    def record(self, name: str, peer_id: PeerId, *, pinned: bool, address: Address | None = None) -> None:
        """Remember that ``name`` stands for ``peer_id``. A pin stays a pin while the key is the same."""
        with self._lock:
            old = self._entries.get(name)
            addresses: tuple[Address, ...] = () if address is None else (address,)
            if old is not None and old.peer_id == peer_id:
                pinned = pinned or old.pinned
                addresses = tuple(dict.fromkeys((*addresses, *old.addresses)))[:MAX_KEPT_ADDRESSES]
            new = KnownPeer(peer_id, pinned, addresses)
            if new != old:
                self._entries = {**self._entries, name: new}

    def forget(self, name: str) -> bool:
        """Drop the entry of ``name``. False if there is none."""
        with self._lock:
            if name not in self._entries:
                return False
            entries = dict(self._entries)
            del entries[name]
            self._entries = entries
            return True

    def save(self) -> None:
        """Write the file if anything changed since it was last written.

        Raises:
            OSError: it cannot be written; the old file is untouched and the change is kept for the next try.
        """
        with self._write_lock:
            entries = self._entries
            if entries is not self._written:
                _write(self.path, entries)
                self._written = entries


def _write(path: str, entries: dict[str, KnownPeer]) -> None:
    content = {
        name: {
            "peer_id": str(entry.peer_id),
            "pinned": entry.pinned,
            "addresses": [str(address) for address in entry.addresses],
        }
        for name, entry in entries.items()
    }
    folder, base = os.path.split(os.path.abspath(path))
    # mkstemp makes the file 0600 whatever the umask; replacing never follows a symbolic link at ``path``.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{base}.", dir=folder)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            json.dump(content, file, ensure_ascii=False, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _load(path: str) -> dict[str, KnownPeer]:
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise IdentityError(f"{path}: not a regular file")
            if os.name == "posix" and status.st_mode & 0o022:
                raise IdentityError(f"{path}: others may write to it and so choose your peers' keys: chmod 600 it")
            raw = file.read(MAX_FILE + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise IdentityError(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > MAX_FILE:
        raise IdentityError(f"{path}: larger than {MAX_FILE} bytes")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise IdentityError(f"{path}, line {raw.count(10, 0, error.start) + 1}: not UTF-8") from None
    try:
        content = json.loads(text, object_pairs_hook=_pairs)
    except json.JSONDecodeError as error:
        raise IdentityError(f"{path}, line {error.lineno}: {error.msg}") from None
    except _Twice as error:
        raise IdentityError(f"{path}, line {_line(text, error.args[0], last=True)}: {error.args[0]!a} twice") from None
    except (RecursionError, ValueError):
        raise IdentityError(f"{path}, line 1: nested too deeply, or a number too long") from None
    if not isinstance(content, dict):
        raise IdentityError(f"{path}, line 1: expected an object of names")
    entries: dict[str, KnownPeer] = {}
    for name, entry in content.items():
        try:
            entries[check_name(name)] = _entry(name, entry)
        except ValueError as error:
            raise IdentityError(f"{path}, line {_line(text, name)}: {error}") from None
    return entries


def _entry(name: str, entry: Any) -> KnownPeer:
    if not isinstance(entry, dict) or not isinstance(entry.get("peer_id"), str):
        raise ValueError(f"{name!a}: expected an object with a peer_id")
    pinned = entry.get("pinned", False)
    if not isinstance(pinned, bool):
        raise ValueError(f"{name!a}: pinned must be true or false")
    given = entry.get("addresses", [])
    if not isinstance(given, list):
        raise ValueError(f"{name!a}: addresses must be a list")
    addresses: Sequence[Address] = parse_target(name, given).addresses if given else ()
    return KnownPeer(PeerId.parse(entry["peer_id"]), pinned, tuple(addresses))


class _Twice(Exception):
    pass


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        raise _Twice(next(key for key in keys if keys.count(key) > 1))
    return result


def _line(text: str, name: str, *, last: bool = False) -> int:
    """The line an entry starts in: where its key stands, as written by us or with escapes; 1 if neither is found."""
    for key in (json.dumps(name, ensure_ascii=False), json.dumps(name)):
        position = text.rfind(key) if last else text.find(key)
        if position >= 0:
            return text.count("\n", 0, position) + 1
    return 1
