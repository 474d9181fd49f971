"""What is sent: a file, or a folder with all that is in it, read from disk."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from .folder import hash_file
from .messages import CHUNK, ID, MAX_FILES, MAX_OFFER, Entry, Offer, encode
from .names import sendable

__all__ = ["Changed", "Source"]


class Changed(OSError):
    """A file is not any more what it was when it was offered."""


class _File(NamedTuple):
    path: str
    size: int
    modified: int


class Source:
    """A file or folder. Made quickly; :meth:`offer` reads all of it.

    Symbolic links and special files inside a folder are left out, and so are empty folders.

    Raises:
        OSError: it cannot be read.
        ValueError: neither a file nor a folder.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        mode = os.stat(self.path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise ValueError(f"neither a file nor a folder: {path!r}")
        self.is_folder = stat.S_ISDIR(mode)
        self.name = sendable(os.path.basename(self.path)) or "files"
        self.files = 1
        self.size = os.stat(self.path).st_size if not self.is_folder else 0
        self._files: list[_File] = []

    def offer(self, id_: bytes, go_on: Callable[[], bool]) -> Offer:
        """What is offered, checksums included.

        Raises:
            OSError: something cannot be read; InterruptedError if ``go_on`` said no.
            ValueError: too many files for one offer.
        """
        assert len(id_) == ID
        relative = list(self._walk()) if self.is_folder else [""]
        if len(relative) > MAX_FILES:
            raise ValueError(f"more than {MAX_FILES:,} files: pack them first, or use tar with 'srmudp pipe'")
        self.files = len(relative)
        self._files = []
        sizes = [os.stat(os.path.join(self.path, name) if name else self.path) for name in relative]
        self.size = sum(status.st_size for status in sizes)
        entries: list[Entry] = []
        for name in relative:
            path = os.path.join(self.path, name) if name else self.path
            with open(path, "rb") as file:
                status = os.fstat(file.fileno())
                digest = hash_file(file, status.st_size, go_on)
            self._files.append(_File(path, status.st_size, status.st_mtime_ns))
            sent = "/".join(map(sendable, name.split(os.sep)))
            entries.append(Entry(sent, status.st_size, digest.digest()))
        self.size = sum(entry.size for entry in entries)
        offer = Offer(id_, self.name, self.is_folder, tuple(entries))
        if len(encode(offer)) > MAX_OFFER:
            raise ValueError("the names are too long for one offer: pack the folder, or use tar with 'srmudp pipe'")
        return offer

    def begins_with(self, index: int, size: int, sha256: bytes, go_on: Callable[[], bool]) -> bool:
        """True if the first ``size`` bytes of file ``index`` have that hash."""
        with open(self._files[index].path, "rb") as file:
            return bool(hash_file(file, size, go_on).digest() == sha256)

    def blocks(self, index: int, offset: int) -> Iterator[tuple[int, bytes]]:
        """File ``index`` from ``offset`` on, in pieces: (offset, bytes).

        Raises:
            Changed: it is not what it was.
        """
        known = self._files[index]
        with open(known.path, "rb", buffering=0) as file:
            file.seek(offset)
            while offset < known.size:
                block = file.read(min(CHUNK, known.size - offset))
                status = os.fstat(file.fileno())
                if not block or (status.st_size, status.st_mtime_ns) != (known.size, known.modified):
                    raise Changed(f"{os.path.basename(known.path)} was changed while it was sent")
                yield offset, block
                offset += len(block)

    def _walk(self) -> Iterator[str]:
        """Paths of the files relative to the folder, in a fixed order."""

        def fail(error: OSError) -> None:
            raise error

        for folder, folders, names in os.walk(self.path, onerror=fail):
            folders.sort()
            for name in sorted(names):
                path = os.path.join(folder, name)
                if stat.S_ISREG(os.lstat(path).st_mode):
                    yield os.path.relpath(path, self.path)
