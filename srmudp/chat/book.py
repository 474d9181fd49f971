"""Files of peers: the one each identity keeps by itself, and those that ``/save`` writes and ``/load`` reads.

JSON, one object. By hand ``{"Alice": "192.168.1.100:8000"}`` is enough; what is written has the PeerId, too, and
whether it was verified. A file may come from anybody: limits are checked before the parser sees it, and all of it is
checked before any of it is used.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import time
from typing import Any, Final, NoReturn

from ..exceptions import IdentityError
from ..models import Peer, PeerId
from ..nat.invites import Invite, is_invite
from ..sockets.addresses import check_name, parse_target

MAX_FILE: Final = 1024 * 1024
MAX_PEERS: Final = 1000
_MAX_DEPTH: Final = 3


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one peer.

    Attributes:
        addresses: where to find it, best first; text as the socket takes it.
        peer_id: its key, if it is known; any other is refused then.
        verified: True if the two compared their code.
        blocked: True if it is never to be let in.
        invite: by which it is added; a secret, which is never written.
    """

    addresses: tuple[str, ...] = ()
    peer_id: PeerId | None = None
    verified: bool = False
    blocked: bool = False
    invite: str = field(default="", repr=False, compare=False)


def read(path: str) -> dict[str, Entry]:
    """The peers in a file.

    Raises:
        ValueError: what is wrong with it, in one line.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("not a regular file")
        raw = file.read(MAX_FILE + 1)
    return parse(raw)


def parse(raw: bytes) -> dict[str, Entry]:
    """As :func:`read`, from bytes."""
    if len(raw) > MAX_FILE:
        raise ValueError(f"larger than {MAX_FILE // 1024} KiB")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"line {raw.count(10, 0, error.start) + 1}: not UTF-8") from None
    if _depth(text) > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    try:
        content = json.loads(
            text, object_pairs_hook=_once, parse_int=_no_number, parse_float=_no_number, parse_constant=_no_number
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    if not isinstance(content, dict):
        raise ValueError('expected an object such as {"Alice": "192.168.1.100:8000"}')
    if len(content) > MAX_PEERS:
        raise ValueError(f"more than {MAX_PEERS} peers")
    return {check_name(name): _entry(name, value) for name, value in content.items()}


def _depth(text: str) -> int:
    """How deep brackets are nested, those in strings left aside."""
    deepest = depth = 0
    in_string = escaped = False
    for character in text:
        if in_string:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                in_string = False
        elif character == '"':
            in_string = True
        elif character in "{[":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "}]":
            depth -= 1
    return deepest


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"{twice[:80]!a} stands there twice")
    return result


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"a number where none belongs: {text[:20]}")


def _entry(name: str, value: Any) -> Entry:
    if isinstance(value, str):
        value = {"address": value}
    if not isinstance(value, dict):
        raise ValueError(f"{name!a}: expected an address in quotation marks, or an object with one")
    unknown = value.keys() - {"address", "addresses", "peer_id", "verified", "blocked"}
    if unknown:
        raise ValueError(f"{name!a}: there is no {min(unknown)[:80]!a}")
    given = value.get("addresses", [])
    if not isinstance(given, list) or not all(isinstance(address, str) for address in given):
        raise ValueError(f"{name!a}: addresses must be a list of texts")
    if "address" in value:
        if not isinstance(value["address"], str):
            raise ValueError(f"{name!a}: the address must be a text")
        given = [value["address"], *given]
    peer_id = None
    if value.get("peer_id") is not None:
        if not isinstance(value["peer_id"], str):
            raise ValueError(f"{name!a}: the peer_id must be a text")
        try:
            peer_id = PeerId.parse(value["peer_id"])
        except IdentityError as error:
            raise ValueError(f"{name!a}: {error}") from None
    given, invite = _without_invites(name, given)
    if invite is not None:
        if peer_id not in (None, invite.peer_id):
            raise ValueError(f"{name!a}: the invite is of another PeerId than the one given")
        peer_id = invite.peer_id
    if given:
        target = parse_target(name, Peer(tuple(given), peer_id))  # refuses what is no address
        peer_id = target.peer_id
    flags = {flag: value.get(flag, False) for flag in ("verified", "blocked")}
    for flag, is_set in flags.items():
        if not isinstance(is_set, bool):
            raise ValueError(f"{name!a}: {flag} must be true or false")
        if is_set and peer_id is None:
            raise ValueError(f"{name!a}: {flag} needs a peer_id")
    if not given and peer_id is None:
        raise ValueError(f"{name!a}: neither an address nor a peer_id")
    # An old invite still says who and where.
    usable = invite is not None and invite.expires > time()
    addresses = tuple(address.rpartition("@")[2] for address in given)
    return Entry(addresses, peer_id, **flags, invite=invite.text() if invite is not None and usable else "")


def _without_invites(name: str, given: list[str]) -> tuple[list[str], Invite | None]:
    """Addresses alone, and the last invite among them."""
    addresses: list[str] = []
    invite = None
    for address in given:
        if is_invite(address):
            try:
                invite = Invite.parse(address)
            except ValueError as error:
                raise ValueError(f"{name!a}: {error}") from None
            addresses += map(str, invite.addresses)
        else:
            addresses.append(address)
    return addresses, invite


def serialise(entries: Mapping[str, Entry]) -> bytes:
    """The content of a file of these peers."""
    content: dict[str, dict[str, Any]] = {}
    for name, entry in entries.items():
        value: dict[str, Any] = {}
        if len(entry.addresses) == 1:
            value["address"] = entry.addresses[0]
        elif entry.addresses:
            value["addresses"] = list(entry.addresses)
        if entry.peer_id is not None:
            value["peer_id"] = str(entry.peer_id)
            value["verified"] = entry.verified
        if entry.blocked:
            value["blocked"] = True
        content[name] = value
    return (json.dumps(content, ensure_ascii=False, indent=2) + "\n").encode()


def write(path: str, entries: Mapping[str, Entry], *, overwrite: bool) -> None:
    """Write a file of peers, whole or not at all. A symbolic link in the way is replaced, never followed.

    Raises:
        FileExistsError: there is something of that name, and ``overwrite`` is False.
        OSError: it cannot be written.
    """
    folder, base = os.path.split(os.path.abspath(path))
    descriptor, temporary = tempfile.mkstemp(prefix=f".{base[:100]}.", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(serialise(entries))
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            os.replace(temporary, path)
        else:
            if os.path.lexists(path):
                raise FileExistsError(path)
            try:
                os.link(temporary, path)  # fails if somebody was faster
            except FileExistsError:
                raise
            except (AttributeError, OSError):  # no hard links here
                os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


class Book:
    """The peers one identity has met: which key a name stands for, who is verified, who is blocked. Kept in a file.

    Args:
        path: the file; it need not exist. None keeps everything in memory.

    Raises:
        ValueError: the file is broken; the text says how.
        OSError: it cannot be read.
    """

    def __init__(self, path: str | None = None) -> None:
        self._path = path
        self._entries: dict[str, Entry] = {}
        if path is not None and os.path.lexists(path):
            try:
                self._entries = read(path)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
        self._index()

    def _index(self) -> None:
        # Replaced, never changed: other threads look at them.
        self.known = frozenset(e.peer_id for e in self._entries.values() if e.peer_id is not None and not e.blocked)
        self.blocked = frozenset(e.peer_id for e in self._entries.values() if e.peer_id is not None and e.blocked)

    def get(self, name: str) -> Entry | None:
        """The entry of ``name``, or None."""
        return self._entries.get(name)

    def named(self, peer_id: PeerId) -> str | None:
        """The name of a key, or None."""
        return next((name for name, entry in self._entries.items() if entry.peer_id == peer_id), None)

    def names(self) -> list[str]:
        """All names, blocked ones not among them."""
        return [name for name, entry in self._entries.items() if not entry.blocked]

    def blocked_names(self) -> list[str]:
        """Names of those who are blocked."""
        return [name for name, entry in self._entries.items() if entry.blocked]

    def put(self, name: str, entry: Entry) -> None:
        """Have ``name`` stand for this. Oldest entries make room beyond what a file holds."""
        if self._entries.get(name) == entry:
            return
        self._entries.pop(name, None)
        self._entries[name] = entry
        while len(self._entries) > MAX_PEERS:
            free = (n for n, e in self._entries.items() if not e.verified and not e.blocked and n != name)
            del self._entries[next(free, next(iter(self._entries)))]
        self._save()

    def drop(self, name: str) -> bool:
        """Forget ``name``; whether it was there."""
        if self._entries.pop(name, None) is None:
            return False
        self._save()
        return True

    def _save(self) -> None:
        self._index()
        if self._path is not None:
            write(self._path, self._entries, overwrite=True)
