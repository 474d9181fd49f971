"""Identities: an Ed25519 key pair, its PeerId, its X25519 form, and the file it is kept in.

**One key, one PeerId.** A PeerId is an Ed25519 public key *whose sign bit is 0*. The X25519 form of a key is computed
from its y coordinate alone (the birational map of RFC 7748 section 4.1), so a point and its negative, that is, two
public keys that differ in the sign bit only, share one X25519 form, and the handshake, which proves an X25519 key,
could not tell them apart: whoever owns a key could appear under two PeerIds. That would steal nobody's name, but it
would count one key as two peers and slip past a list of refused PeerIds. Hence: an identity's seed is drawn until its
public key has sign bit 0 (two draws on average), and a PeerId with sign bit 1 is refused like a malformed one. PeerId
and X25519 form then determine each other, and the PeerId *is* the RFC 8032 public key of the seed, so that any Ed25519
library can sign with it or verify.

A PeerId must also be canonical (y below p), lie on the curve and not be one of the eight points of small order. Points
that have a small-order part beside a large one are not looked for: only the owner of the key could make such a PeerId,
and all he gains is one more identity of his own. All of this is done in Python integers, so no back end has a say in
it.

The static private key of the handshake is the clamped first half of SHA-512 of the seed, the very scalar that Ed25519
uses (RFC 8032 section 5.1.5). Using one key pair for signatures and for key agreement is studied in Thormarker, "On
using the same key pair for Ed25519 and an X25519 based KEM" (2021).
"""

from __future__ import annotations

import errno
import hmac
import os
import re
import stat
from collections.abc import Callable
from functools import lru_cache
from hashlib import sha256, sha512
from typing import Self

from ..exceptions import IdentityError
from ..models import PeerId
from .backend import KEY_SIZE, Backend, Secret, select_backend

_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P
"""The constant of edwards25519 (RFC 8032 section 5.1)."""

_Y8 = int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little")
_SMALL_ORDER = frozenset({1, _P - 1, 0, _Y8, _P - _Y8})
"""The y coordinates of the eight points whose order divides 8: orders 1, 2, 4, 8 and 8."""

_ITERATIONS = 5200
"""Rounds of SHA-512 in a verification code, as in Signal's numeric fingerprints."""

_HEADER = b"srmudp identity "
_FILE = re.compile(rb"srmudp identity 1\npeer_id ([a-z2-7]{52})\nseed ([0-9a-f]{64})\n?")
_FILE_MAX = 4096
_POSIX_MODES = os.name == "posix"

Path = str | os.PathLike[str]


def static_key_of(peer_id: PeerId) -> bytes:
    """The X25519 public key that the owner of ``peer_id`` proves in a handshake: u = (1 + y) / (1 - y).

    Raises:
        IdentityError: not a PeerId that an identity can have: sign bit set, not canonical, not on the curve, or of
            small order.
    """
    y = int.from_bytes(peer_id.key, "little")
    if y >> 255:
        raise IdentityError("not a PeerId: the sign bit of the key is set")
    if y >= _P:
        raise IdentityError("not a PeerId: the key is not in canonical form")
    if y in _SMALL_ORDER:
        raise IdentityError("not a PeerId: the key is a point of small order")
    # x^2 = (y^2 - 1) / (d y^2 + 1) must be a square. A quotient is one exactly if the product is; zero cannot come up:
    # y^2 = 1 was refused above and -1/d is no square. Euler's criterion.
    square = y * y % _P
    if pow((square - 1) * (_D * square + 1), (_P - 1) // 2, _P) != 1:
        raise IdentityError("not a PeerId: the key is not a point of the curve")
    return ((1 + y) * pow(1 - y, -1, _P) % _P).to_bytes(KEY_SIZE, "little")


def verification_code(a: PeerId, b: PeerId) -> str:
    """60 digits in 12 groups of 5 that two people compare to rule out anybody in the middle; the same whoever is ``a``.

    30 digits stand for each PeerId, the smaller PeerId first; they never change. Made as Signal's numeric fingerprints:
    5,200 rounds of SHA-512, so that looking for a key with a similar code is slow. The first call for a PeerId takes
    some milliseconds.
    """
    return " ".join(_fingerprint(peer_id.key) for peer_id in sorted((a, b)))


@lru_cache(maxsize=4096)
def _fingerprint(key: bytes) -> str:
    """Six groups of five digits: each 5 bytes of the hash, as a big-endian number, modulo 100,000."""
    digest = b"\0\0" + key + b"srmudp"
    for _ in range(_ITERATIONS):
        digest = sha512(digest + key).digest()
    return " ".join(f"{int.from_bytes(digest[i : i + 5], 'big') % 100_000:05}" for i in range(0, 30, 5))


def punch_tag(peer_id: PeerId, data: bytes) -> bytes:
    """16 bytes that show the addressee that the sender of ``data`` knows its PeerId (as WireGuard's mac1 does).

    Proves nothing else: whoever knows the PeerId can make it. Compare with ``hmac.compare_digest``.
    """
    return hmac.digest(_tag_key(b"srmudp punch tag 1", peer_id), data, "sha256")[:16]


def cookie_tag(peer_id: PeerId, data: bytes) -> bytes:
    """The same the other way round: who sends a COOKIE shows that it knows its own PeerId, as a forger may not."""
    return hmac.digest(_tag_key(b"srmudp cookie tag 1", peer_id), data, "sha256")[:16]


@lru_cache(256)
def _tag_key(label: bytes, peer_id: PeerId) -> bytes:
    """Nothing secret: whoever knows the PeerId can compute it."""
    return sha256(label + peer_id.key).digest()


class Identity(Secret):
    """Who we are: a secret seed and the PeerId that others know us by.

    Immutable and safe to share between sockets and threads. Refuses ``copy`` and ``pickle`` (a second program with the
    same keys should load the file); ``repr`` shows the PeerId only.

    Most programs call :meth:`load_or_create`::

        me = Identity.load_or_create("chat.key")
        print("my PeerId:", me.peer_id)

    Args:
        seed: 32 secret random bytes. Half of all seeds are refused (see the head of this module): take
            :meth:`generate`.
        backend: library to compute with; the default one if None.

    Raises:
        IdentityError: the seed is not 32 bytes, or its public key has the sign bit set.
    """

    __slots__ = ("_ephemeral", "_peer_id", "_seed", "_static_private", "_static_public")

    def __init__(self, seed: bytes, *, backend: Backend | None = None) -> None:
        backend = backend or select_backend()
        if len(seed) != KEY_SIZE:
            raise IdentityError(f"a seed is {KEY_SIZE} bytes, not {len(seed)}")
        public = backend.ed25519_public(seed)
        if public[31] & 0x80:
            raise IdentityError("this seed has no PeerId (the sign bit of its public key is set): use generate()")
        self._seed = bytes(seed)
        self._peer_id = PeerId(public)
        self._static_private = _clamp(sha512(self._seed).digest()[:KEY_SIZE])
        self._static_public = static_key_of(self._peer_id)
        self._ephemeral = True
        # Two independent ways to one point. If a library errs here, no handshake could ever succeed.
        if backend.x25519_public(self._static_private) != self._static_public:
            raise IdentityError(f"{backend.name} computed a wrong key: reinstall it or set SRMUDP_BACKEND to another")

    @property
    def peer_id(self) -> PeerId:
        """What others know us by; public."""
        return self._peer_id

    @property
    def static_private(self) -> bytes:
        """The X25519 private key of the handshake, 32 bytes, clamped. Secret."""
        return self._static_private

    @property
    def static_public(self) -> bytes:
        """The X25519 public key of the handshake, equal to ``static_key_of(peer_id)``."""
        return self._static_public

    @property
    def ephemeral(self) -> bool:
        """True as long as the identity is in no file, so that it dies with the program."""
        return self._ephemeral

    def __repr__(self) -> str:
        return f"Identity({self._peer_id})"

    def __eq__(self, other: object) -> bool:
        return self._peer_id == other._peer_id if isinstance(other, Identity) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._peer_id)

    @classmethod
    def generate(cls, random: Callable[[int], bytes] = os.urandom, *, backend: Backend | None = None) -> Self:
        """A new identity, in no file yet.

        Args:
            random: source of secret bytes, called once for 32. Tests may pass a seeded one.
            backend: library to compute with; the default one if None.
        """
        backend = backend or select_backend()
        seed = random(KEY_SIZE)
        while backend.ed25519_public(seed)[31] & 0x80:
            # Hashing on instead of asking again ends for every source, a constant one in a test too.
            seed = sha256(b"srmudp next seed" + seed).digest()
        return cls(seed, backend=backend)

    @classmethod
    def load(cls, path: Path, *, backend: Backend | None = None) -> Self:
        """The identity kept in a file that :meth:`save` or :meth:`load_or_create` wrote.

        Raises:
            IdentityError: there is no such file; it is a symbolic link, a directory or no identity; or (not on Windows)
                others than its owner may access it. The text says what to do.
        """
        try:
            return cls._load(path, backend)
        except FileNotFoundError:
            raise IdentityError(f"no identity file {_text(path)}: create one with load_or_create") from None

    @classmethod
    def _load(cls, path: Path, backend: Backend | None) -> Self:
        """As ``load``, but a missing file is a ``FileNotFoundError``."""
        seed, stated = _parse(path, _read(path))
        try:
            identity = cls(seed, backend=backend)
        except IdentityError as error:
            raise IdentityError(f"{_text(path)} is damaged: {error}") from None
        if str(identity.peer_id) != stated:
            raise IdentityError(f"{_text(path)} is damaged: seed and PeerId do not belong together; restore a backup")
        identity._ephemeral = False
        return identity

    def save(self, path: Path, *, overwrite: bool = False) -> None:
        """Write the identity to a file that only its owner can read (mode 0600), whole or not at all.

        From then on it is not :attr:`ephemeral`.

        Args:
            overwrite: replace what is there. A symbolic link is replaced itself, never followed.

        Raises:
            IdentityError: something of that name exists and ``overwrite`` is False, or the file cannot be written.
        """
        try:
            self._save(path, overwrite)
        except FileExistsError:
            raise IdentityError(
                f"{_text(path)} exists: load it, choose another name, or pass overwrite=True to lose what is in it"
            ) from None

    def _save(self, path: Path, overwrite: bool) -> None:
        """As ``save``, but an existing file is a ``FileExistsError``."""
        text = f"{_HEADER.decode()}1\npeer_id {self._peer_id}\nseed {self._seed.hex()}\n"
        try:
            _write(os.fspath(path), text.encode(), overwrite)
        except FileExistsError:
            raise
        except OSError as error:
            raise IdentityError(
                f"cannot write identity file {_text(path)}: {error.strerror}; its directory must exist and be writable"
            ) from error
        self._ephemeral = False

    @classmethod
    def load_or_create(cls, path: Path, *, backend: Backend | None = None) -> Self:
        """The identity in the file; a new one is generated and saved there if there is no such file.

        Programs that do so at the same time all get the same identity.

        Raises:
            IdentityError: as for :meth:`load` and :meth:`save`. A file that is there but unusable is never replaced.
        """
        # Each round that ends without a result saw the file appear or vanish in between; a few are enough.
        for _ in range(10):
            try:
                return cls._load(path, backend)
            except FileNotFoundError:
                pass
            identity = cls.generate(backend=backend)
            try:
                identity._save(path, overwrite=False)
            except FileExistsError:
                continue
            return identity
        raise IdentityError(f"identity file {_text(path)} is created and deleted by somebody else all the time")


def _clamp(scalar: bytes) -> bytes:
    """RFC 7748 section 5: a multiple of the cofactor, of fixed length."""
    return bytes((scalar[0] & 248, *scalar[1:31], scalar[31] & 127 | 64))


# ------------------------------------------------------------------------------------------------------- identity files


def _text(path: Path) -> str:
    return repr(os.fspath(path))


def _parse(path: Path, data: bytes) -> tuple[bytes, str]:
    """Seed and stated PeerId. Errors never quote the file: what is in it may be secret."""
    match = _FILE.fullmatch(data.replace(b"\r\n", b"\n"))
    if match:
        return bytes.fromhex(match[2].decode()), match[1].decode()
    if not data:
        raise IdentityError(f"{_text(path)} is empty: another program is writing it, or delete it")
    if data.startswith(_HEADER) and not data.startswith(_HEADER + b"1"):
        raise IdentityError(f"{_text(path)} is of a newer srmudp: upgrade, or choose another file")
    raise IdentityError(f"{_text(path)} is not an identity file: choose another name, or restore a backup")


def _read(path: Path) -> bytes:
    """The file's bytes, after all doubts about the file were settled on the open descriptor, not on its name."""
    flags = os.O_RDONLY
    # NONBLOCK: opening a named pipe would wait for a writer.
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY", "O_NOCTTY"):
        flags |= getattr(os, name, 0)
    link = IdentityError(f"{_text(path)} is a symbolic link: name the file itself")
    if not hasattr(os, "O_NOFOLLOW") and os.path.islink(path):
        raise link
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK) and os.path.islink(path):  # EMLINK: FreeBSD
            raise link from None
        raise IdentityError(
            f"cannot read identity file {_text(path)}: {error.strerror}; it must be a file of yours"
        ) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            what = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
            raise IdentityError(f"{_text(path)} is {what}: name the identity file itself")
        if _POSIX_MODES and mode & 0o077:
            raise IdentityError(
                f"identity file {_text(path)} is open to other users (mode {stat.S_IMODE(mode):04o}): chmod 600 it; "
                "if others could have read it, make a new identity"
            )
        return os.read(descriptor, _FILE_MAX)
    finally:
        os.close(descriptor)


def _write(path: str, data: bytes, overwrite: bool) -> None:
    """Put ``data`` into a file of mode 0600 that appears under its name only when it is complete and on disk.

    Raises:
        FileExistsError: the name is taken and ``overwrite`` is False.
        OSError: anything else the system refuses.
    """
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.{os.urandom(8).hex()}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    for optional in ("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, optional, 0)
    descriptor = os.open(temporary, flags, 0o600)
    try:
        try:
            if hasattr(os, "fchmod"):
                os.fchmod(descriptor, 0o600)  # an odd umask may have taken away the owner's rights
            with open(descriptor, "wb", closefd=False) as file:
                file.write(data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if overwrite:
            os.replace(temporary, path)
        else:
            _claim(temporary, path)
        _sync_directory(directory or ".")
    finally:
        try:
            os.unlink(temporary)
        except OSError:
            pass


def _claim(temporary: str, path: str) -> None:
    """Give a complete file its name, unless somebody has it."""
    try:
        os.link(temporary, path)
        return
    except FileExistsError:
        raise
    except (AttributeError, OSError):  # AttributeError: Python on some phones has no os.link
        pass
    # No hard links here (FAT, some network and phone file systems): an empty file claims the name, the complete one
    # then replaces it. Who reads in between finds an empty file and is told so.
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        os.replace(temporary, path)
    except BaseException:
        os.unlink(path)
        raise


def _sync_directory(directory: str) -> None:
    """Make the name last over a power cut, where the system lets us."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
