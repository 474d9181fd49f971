"""The folder that files are received into, and nothing outside it: partial files, their notes, the final names.

``photo.jpg`` is kept as ``photo.jpg.part`` until it is whole, beside ``photo.jpg.part.state``, a note that says whose
it is. A folder is received as ``album.part/``. Nothing that exists is ever written over or followed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, NamedTuple

from .messages import Have, Offer
from .names import PART, STATE, check_path, key_of, numbered, safe_name

try:
    import fcntl
except ImportError:  # Windows: two programs that resume the same file there are not told apart
    fcntl = None  # type: ignore[assignment]  # a module elsewhere

__all__ = ["Folder", "Partial", "hash_file"]

MARGIN = 16 * 1024 * 1024
"""Bytes of disk that stay free."""
_BLOCK = 1024 * 1024
_MAX_NOTE = 4096
_MAX_NOTES = 10_000
_MAX_NUMBER = 10_000
_FLAGS = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class Note(NamedTuple):
    """What stands beside a partial file."""

    peer: str
    digest: str


def hash_file(file: IO[bytes], size: int, go_on: Callable[[], bool] = lambda: True) -> Any:
    """The SHA-256 (a hash object) of the next ``size`` bytes of ``file``, or of what there is.

    Raises:
        InterruptedError: ``go_on`` said no.
    """
    digest = hashlib.sha256()
    while size > 0 and (block := file.read(min(size, _BLOCK))):
        if not go_on():
            raise InterruptedError("stopped")
        digest.update(block)
        size -= len(block)
    return digest


class Folder:
    """A download folder. Made, with its parents, when the first file is accepted."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)

    def note_of(self, offer: Offer) -> Note | None:
        """The note beside what came of the same content before, if there is one."""
        for _, note in self._notes(offer):
            return note
        return None

    def open(self, offer: Offer, peer: str) -> Partial:
        """The partial file or folder of ``offer``: the one of before if nobody uses it, or a new one.

        Raises:
            OSError: the disk does not play along.
        """
        os.makedirs(self.path, exist_ok=True)
        for base, _ in self._notes(offer):
            with contextlib.suppress(OSError):
                note = self._locked(base)
                with contextlib.suppress(BaseException):
                    _write_note(note, offer, peer)  # perhaps a new key of the same sender
                return Partial(self.path, base, offer, note)
        wanted = safe_name(offer.name)
        for number in range(1, _MAX_NUMBER):
            base = numbered(wanted, number)
            if any(os.path.lexists(os.path.join(self.path, base + ending)) for ending in ("", PART, STATE)):
                continue
            try:
                descriptor = os.open(os.path.join(self.path, base + STATE), _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                continue
            note = os.fdopen(descriptor, "r+b", buffering=0)
            _lock(note)
            _write_note(note, offer, peer)
            return Partial(self.path, base, offer, note)
        raise OSError("no name is free in the download folder")

    def check_room(self, size: int) -> None:
        """Return if ``size`` more bytes fit.

        Raises:
            OSError: they do not.
        """
        free = shutil.disk_usage(self.path).free
        if size + MARGIN > free:
            text = f"not enough room on the disk: {size:,} bytes are needed, {max(0, free - MARGIN):,} are free"
            raise OSError(errno.ENOSPC, text)

    def _notes(self, offer: Offer) -> Iterator[tuple[str, Note]]:
        """Base name and note of what was begun of the same content."""
        digest = offer.digest.hex()
        try:
            with os.scandir(self.path) as entries:
                names = [entry.name for entry in entries if entry.name.endswith(STATE)]
        except OSError:
            return
        for name in sorted(names)[:_MAX_NOTES]:
            note = _read_note(os.path.join(self.path, name))
            if note is not None and note.digest == digest:
                yield name.removesuffix(STATE), note

    def _locked(self, base: str) -> IO[bytes]:
        """The note of ``base``, ours alone.

        Raises:
            OSError: another transfer has it.
        """
        note = os.fdopen(os.open(os.path.join(self.path, base + STATE), _FLAGS), "r+b", buffering=0)
        try:
            _lock(note)
        except BaseException:
            note.close()
            raise
        return note


class Partial:
    """What has come of one offer. Not thread-safe. Close it."""

    def __init__(self, folder: str, base: str, offer: Offer, note: IO[bytes]) -> None:
        self._folder = folder
        self._base = base
        self._offer = offer
        self._note = note
        self._part = os.path.join(folder, base + PART)
        self._state = os.path.join(folder, base + STATE)
        self._paths = _safe_tree(offer) if offer.is_folder else [()]
        self._hashes: dict[int, Any] = {}
        self._file: IO[bytes] | None = None
        self._index = -1

    def have(self, go_on: Callable[[], bool]) -> list[Have]:
        """What is there already, each with its hash.

        Raises:
            OSError: something is in the way; InterruptedError if ``go_on`` said no.
        """
        found: list[Have] = []
        for index, entry in enumerate(self._offer.entries):
            path = self._path(index)
            try:
                status = os.lstat(path)
            except FileNotFoundError:
                continue
            if not stat.S_ISREG(status.st_mode):
                raise OSError(f"{os.path.basename(path)} is in the way")
            if not 0 < status.st_size <= entry.size:
                continue
            with os.fdopen(os.open(path, _FLAGS), "rb") as file:
                digest = hash_file(file, status.st_size, go_on)
            if status.st_size < entry.size:
                self._hashes[index] = digest
            elif digest.digest() != entry.sha256:
                continue
            found.append(Have(index, status.st_size, digest.digest()))
        return found

    def write(self, index: int, offset: int, data: bytes) -> None:
        """Append to file ``index``, which has ``offset`` bytes; 0 begins it anew.

        Raises:
            OSError: the disk does not play along.
        """
        if self._index != index:
            self._close_file()
            self._file, self._index = self._open(index, offset), index
        file = self._file
        assert file is not None
        if offset == 0:
            file.seek(0)
            file.truncate()
            self._hashes[index] = hashlib.sha256()
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
        self._hashes[index].update(data)

    def verify(self, index: int) -> bool:
        """True if file ``index``, just completed, is what was offered. If not, it is removed."""
        right = bool(self._hashes.pop(index).digest() == self._offer.entries[index].sha256)
        self._close_file()
        if not right:
            os.unlink(self._path(index))
        return right

    def finish(self, go_on: Callable[[], bool]) -> str:
        """Make all of it safe on disk and give it its final name, one that was free.

        Returns:
            The path.

        Raises:
            OSError: the disk does not play along; InterruptedError if ``go_on`` said no.
        """
        self._close_file()
        if self._offer.is_folder and not os.path.isdir(self._part):
            os.mkdir(self._part)
        for index, entry in enumerate(self._offer.entries):
            if not go_on():
                raise InterruptedError("stopped")
            file = self._open(index, entry.size)
            with file:
                os.fsync(file.fileno())
        for number in range(1, _MAX_NUMBER):
            final = os.path.join(self._folder, numbered(self._base, number))
            try:
                (_move_folder if self._offer.is_folder else _move_file)(self._part, final)
            except FileExistsError:
                continue
            self._forget()
            return final
        raise OSError("no name is free in the download folder")

    def discard(self) -> None:
        """Remove it all."""
        self._close_file()
        with contextlib.suppress(OSError):
            if self._offer.is_folder:
                shutil.rmtree(self._part)
            else:
                os.unlink(self._part)
        self._forget()

    def close(self) -> None:
        """Leave it for another time."""
        self._close_file()
        self._note.close()

    def _forget(self) -> None:
        if os.name == "nt":  # an open file cannot be removed there
            self._note.close()
        with contextlib.suppress(OSError):
            os.unlink(self._state)
        self._note.close()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._index = None, -1

    def _path(self, index: int) -> str:
        return os.path.join(self._part, *self._paths[index])

    def _open(self, index: int, offset: int) -> IO[bytes]:
        folder = self._part
        for name in self._paths[index]:
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder)
            if not stat.S_ISDIR(os.lstat(folder).st_mode):
                raise OSError(f"{os.path.basename(folder)} is in the way")
            folder = os.path.join(folder, name)
        file = os.fdopen(os.open(folder, _FLAGS | os.O_CREAT, 0o666), "r+b", buffering=0)
        try:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1 or (offset and status.st_size != offset):
                raise OSError(f"{os.path.basename(folder)} was changed by somebody else")
            file.seek(offset)
        except BaseException:
            file.close()
            raise
        return file


def _safe_tree(offer: Offer) -> list[tuple[str, ...]]:
    """The paths of a folder as they are written: each name safe, and none twice where capitals do not count."""
    safe: dict[tuple[str, ...], tuple[str, ...]] = {(): ()}
    used: dict[tuple[str, ...], int] = {}

    def of(names: Sequence[str]) -> tuple[str, ...]:
        names = tuple(names)
        if names not in safe:
            parent = of(names[:-1])
            wanted = safe_name(names[-1], inner=True)
            first = (*parent, key_of(wanted))
            number = used.get(first, 0) + 1
            while (key := (*parent, key_of(numbered(wanted, number)))) in used and number > 1:
                number += 1
            used[key] = 1
            used[first] = number
            safe[names] = (*parent, numbered(wanted, number))
        return safe[names]

    return [of(check_path(entry.path)) for entry in offer.entries]


def _move_file(source: str, target: str) -> None:
    """Rename, but never over anything: ``FileExistsError``."""
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        raise
    except (OSError, NotImplementedError):  # a file system without links
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        os.replace(source, target)
    else:
        os.unlink(source)


def _move_folder(source: str, target: str) -> None:
    if os.name != "nt":  # there rename() refuses by itself
        os.mkdir(target)  # which only succeeds if there is nothing; an empty folder may be renamed over
    os.rename(source, target)


def _lock(file: IO[bytes]) -> None:
    if fcntl is not None:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


def _write_note(file: IO[bytes], offer: Offer, peer: str) -> None:
    text = json.dumps({"srmudp": 1, "peer": peer, "digest": offer.digest.hex(), "size": offer.size})
    file.seek(0)
    file.truncate()
    file.write(text.encode())


def _read_note(path: str) -> Note | None:
    try:
        with os.fdopen(os.open(path, _FLAGS), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            text = file.read(_MAX_NOTE + 1)
        if len(text) > _MAX_NOTE:
            return None
        note = json.loads(text)
        return Note(str(note["peer"]), str(note["digest"])) if note["srmudp"] == 1 else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
