"""Identities: keys, PeerIds that must be refused, and the file."""

from __future__ import annotations

import copy
import hashlib
import hmac
import os
import pickle
import random
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from srmudp.crypto import keys
from srmudp.crypto.backend import Backend, select_backend
from srmudp.crypto.keys import Identity, punch_tag, static_key_of, verification_code
from srmudp.exceptions import IdentityError
from srmudp.models import PeerId

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX file modes")

# RFC 8032 section 7.1, test 1: its public key has sign bit 0. That of the last test there has it set.
SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
NEGATIVE_SEED = bytes.fromhex("833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42")


@pytest.fixture(params=["pycryptodome", "cryptography"])
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == "cryptography":
        pytest.importorskip("cryptography")
    return select_backend(request.param)


@pytest.fixture
def no_umask() -> Iterator[None]:
    old = os.umask(0)
    yield
    os.umask(old)


# -------------------------------------------------------------------------------------------------------------- points


def add(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    """Addition on edwards25519 (RFC 8032 section 5.1.4, in affine form)."""
    product = D * a[0] * b[0] * a[1] * b[1] % P
    return (
        (a[0] * b[1] + b[0] * a[1]) * pow(1 + product, -1, P) % P,
        (a[1] * b[1] + a[0] * b[0]) * pow(1 - product, -1, P) % P,
    )


def point(y: int) -> tuple[int, int] | None:
    """A point with that y, or None (RFC 8032 section 5.1.3)."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    return (x, y) if (x * x - square) % P == 0 else None


def small_order_points() -> set[tuple[int, int]]:
    """All eight, found by multiplying points by the group order L."""
    order = 2**252 + 27742317777372353535851937790883648493
    for y in range(2, 100):
        start = point(y)
        if start is None:
            continue
        result, addend, k = (0, 1), start, order
        while k:
            if k & 1:
                result = add(result, addend)
            addend, k = add(addend, addend), k >> 1
        group, element = {(0, 1)}, result
        while element not in group:
            group.add(element)
            element = add(element, result)
        if len(group) == 8:
            return group
    raise AssertionError


def encode(x: int, y: int) -> bytes:
    return (y | (x & 1) << 255).to_bytes(32, "little")


def test_small_order_peer_ids_are_refused() -> None:
    """Attack 70: all eight points, with either sign bit, and their non-canonical spellings."""
    points = small_order_points()
    encodings = {encode(x, y) for x, y in points}
    for named in ("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", "01" + "00" * 31):
        assert bytes.fromhex(named) in encodings
    assert len(encodings) == 8
    spellings = set()
    for y in {y for _, y in points}:
        for value in (y, y + P):
            if value < 2**255:
                spellings |= {value.to_bytes(32, "little"), (value | 1 << 255).to_bytes(32, "little")}
    assert encodings <= spellings
    assert len(spellings) == 2 * (5 + 2), "0 and 1 have a second spelling, the others have no room for p"
    for key in spellings:
        with pytest.raises(IdentityError, match="not a PeerId"):
            static_key_of(PeerId(key))


def test_non_canonical_peer_ids_are_refused() -> None:
    """Attack 70: y from p upwards, whatever point it would mean."""
    for y in range(P, 2**255):
        for sign in (0, 1 << 255):
            with pytest.raises(IdentityError):
                static_key_of(PeerId((y | sign).to_bytes(32, "little")))
    assert any(point(y - P) for y in range(P + 2, 2**255)), "some of them would be points"
    with pytest.raises(IdentityError, match="canonical"):
        static_key_of(PeerId(b"\xff" * 31 + b"\x7f"))


def test_points_off_the_curve_are_refused() -> None:
    off, on = 0, 0
    for y in range(2, 200):
        peer_id = PeerId(y.to_bytes(32, "little"))
        if point(y) is None:
            off += 1
            with pytest.raises(IdentityError, match="curve"):
                static_key_of(peer_id)
        else:
            on += 1
            # RFC 7748 section 4.1: u = (1 + y) / (1 - y).
            assert static_key_of(peer_id) == ((1 + y) * pow(1 - y, -1, P) % P).to_bytes(32, "little")
    assert off > 70
    assert on > 70


def test_one_static_key_has_one_peer_id() -> None:
    """Attack 70: the negative of a point, which has the same X25519 form, is nobody's PeerId."""
    other = PUBLIC[:31] + bytes([PUBLIC[31] | 0x80])
    assert static_key_of(PeerId(PUBLIC))
    with pytest.raises(IdentityError, match="sign"):
        static_key_of(PeerId(other))


def test_base_point_maps_to_nine() -> None:
    """RFC 7748 section 4.1: the base points correspond."""
    base = (4 * pow(5, -1, P) % P).to_bytes(32, "little")
    assert static_key_of(PeerId(base)) == (9).to_bytes(32, "little")


# ---------------------------------------------------------------------------------------------------------- identities


def test_known_identity(backend: Backend) -> None:
    identity = Identity(SEED, backend=backend)
    assert identity.peer_id == PeerId(PUBLIC)
    digest = bytearray(hashlib.sha512(SEED).digest()[:32])
    digest[0] &= 248
    digest[31] = digest[31] & 127 | 64
    assert identity.static_private == bytes(digest)
    assert identity.static_public == static_key_of(identity.peer_id)
    assert identity.static_public == backend.x25519_public(identity.static_private)
    # As tests of other libraries (curve25519-dalek and those that compare with libsodium) have it for this seed.
    assert identity.static_public.hex() == "d85e07ec22b0ad881537c2f44d662d1a143cf830c57aca4305d85c7a90f6b62e"


def test_map_agrees_with_x25519(backend: Backend) -> None:
    rng = random.Random(7)
    for _ in range(12):
        identity = Identity.generate(rng.randbytes, backend=backend)
        assert identity.peer_id.key == backend.ed25519_public(identity._seed)
        assert not identity.peer_id.key[31] & 0x80
        assert static_key_of(identity.peer_id) == backend.x25519_public(identity.static_private)


def test_same_identity_on_both_back_ends() -> None:
    pytest.importorskip("cryptography")
    one, two = (
        Identity.generate(random.Random(3).randbytes, backend=select_backend(name))
        for name in ("cryptography", "pycryptodome")
    )
    assert one == two
    assert hash(one) == hash(two)
    assert one.static_private == two.static_private


def test_generate_ends_for_a_constant_source() -> None:
    identities = {Identity.generate(bytes([i]).__mul__).peer_id for i in range(8)}
    assert len(identities) == 8
    assert Identity.generate(lambda n: NEGATIVE_SEED).peer_id.key[31] < 0x80
    assert Identity.generate() != Identity.generate()


def test_seeds_that_are_refused(backend: Backend) -> None:
    with pytest.raises(IdentityError, match="32 bytes"):
        Identity(b"short", backend=backend)
    assert backend.ed25519_public(NEGATIVE_SEED)[31] & 0x80
    with pytest.raises(IdentityError, match="generate") as caught:
        Identity(NEGATIVE_SEED, backend=backend)
    assert NEGATIVE_SEED.hex() not in str(caught.value)


def test_a_library_that_computes_nonsense_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        name = "broken"

        def __getattr__(self, name: str) -> object:
            return getattr(select_backend("pycryptodome"), name)

        def x25519_public(self, private: bytes) -> bytes:
            return bytes(32)

    with pytest.raises(IdentityError, match="broken"):
        Identity(SEED, backend=Broken())  # type: ignore[arg-type]


def test_identity_hides_its_keys_and_stays_one() -> None:
    """Attack 45."""
    identity = Identity(SEED)
    for text in (repr(identity), str(identity), f"{identity}"):
        assert text == f"Identity({identity.peer_id})"
    for call in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="copied or pickled"):
            call(identity)
    for name in ("peer_id", "static_private", "static_public", "ephemeral", "other"):
        with pytest.raises(AttributeError):
            setattr(identity, name, b"")
    assert not hasattr(identity, "__dict__")
    assert identity != SEED


# --------------------------------------------------------------------------------------------------------------- codes


def test_verification_code() -> None:
    a, b = Identity.generate(lambda n: b"a" * n).peer_id, Identity.generate(lambda n: b"b" * n).peer_id
    code = verification_code(a, b)
    groups = code.split(" ")
    assert len(groups) == 12
    assert all(len(group) == 5 and group.isdecimal() for group in groups)
    assert code == verification_code(b, a)

    def half(key: bytes) -> str:
        digest = b"\0\0" + key + b"srmudp"
        for _ in range(5200):
            digest = hashlib.sha512(digest + key).digest()
        return "".join(f"{int.from_bytes(digest[i : i + 5], 'big') % 100000:05d}" for i in (0, 5, 10, 15, 20, 25))

    assert code.replace(" ", "") == half(min(a.key, b.key)) + half(max(a.key, b.key))
    assert code != verification_code(a, PeerId(PUBLIC))
    before = keys._fingerprint.cache_info().misses
    verification_code(a, b)
    assert keys._fingerprint.cache_info().misses == before, "the slow part is done once per PeerId"


def test_punch_tag() -> None:
    tag = punch_tag(PeerId(PUBLIC), b"data")
    key = hashlib.sha256(b"srmudp punch tag 1" + PUBLIC).digest()
    assert tag == hmac.new(key, b"data", "sha256").digest()[:16]
    assert tag != punch_tag(PeerId(PUBLIC), b"Data")
    assert tag != punch_tag(PeerId(b"x" * 32), b"data")


# --------------------------------------------------------------------------------------------------------------- files


def test_save_and_load(tmp_path: Path, backend: Backend) -> None:
    path = tmp_path / "me.key"
    identity = Identity(SEED, backend=backend)
    ephemeral = [identity.ephemeral]
    identity.save(path)
    ephemeral.append(identity.ephemeral)
    assert ephemeral == [True, False]
    for spelling in (path, str(path)):
        loaded = Identity.load(spelling, backend=backend)
        assert loaded == identity
        assert loaded.static_private == identity.static_private
        assert not loaded.ephemeral
    assert path.read_bytes() == b"srmudp identity 1\npeer_id %s\nseed %s\n" % (
        str(identity.peer_id).encode(),
        SEED.hex().encode(),
    )
    assert os.listdir(tmp_path) == ["me.key"], "no temporary file is left"


def test_file_edited_on_windows_still_loads(tmp_path: Path) -> None:
    path = tmp_path / "key"
    Identity(SEED).save(path)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert Identity.load(path).peer_id.key == PUBLIC


@POSIX
@pytest.mark.usefixtures("no_umask")
def test_mode_is_0600_with_umask_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack 44: at no moment has the file, or the one it is written to first, more rights."""
    modes = []
    real = os.fsync

    def note(descriptor: int) -> None:
        modes.append(os.fstat(descriptor).st_mode)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    Identity.load_or_create(tmp_path / "key")
    assert stat.S_IMODE(os.stat(tmp_path / "key").st_mode) == 0o600
    assert stat.S_IMODE(modes[0]) == 0o600
    assert len(modes) == 2, "the file and its directory reach the disk"


@POSIX
def test_mode_is_0600_with_a_tight_umask(tmp_path: Path) -> None:
    old = os.umask(0o777)
    try:
        Identity(SEED).save(tmp_path / "key")
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(tmp_path / "key").st_mode) == 0o600


@POSIX
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o604, 0o602, 0o610])
def test_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    """Attack 44."""
    path = tmp_path / "key"
    Identity(SEED).save(path)
    path.chmod(mode)
    for call in (Identity.load, Identity.load_or_create):
        with pytest.raises(IdentityError, match="chmod 600"):
            call(path)
    path.chmod(0o400)
    assert Identity.load(path).peer_id.key == PUBLIC


def test_modes_are_not_looked_at_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    Identity(SEED).save(path)
    path.chmod(0o644)
    monkeypatch.setattr(keys, "_POSIX_MODES", False)
    assert Identity.load(path).peer_id.key == PUBLIC


@POSIX
@pytest.mark.parametrize("with_flag", [True, False])
def test_symbolic_links_are_not_followed(tmp_path: Path, with_flag: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack 44: neither to read nor to write, to something or to nothing; also where there is no O_NOFOLLOW."""
    if not with_flag:
        monkeypatch.delattr(os, "O_NOFOLLOW")
    target, link, dangling = tmp_path / "target", tmp_path / "link", tmp_path / "dangling"
    Identity(SEED).save(target)
    content = target.read_bytes()
    link.symlink_to(target)
    dangling.symlink_to(tmp_path / "nothing")
    for path in (link, dangling):
        for call in (Identity.load, Identity.load_or_create):
            with pytest.raises(IdentityError, match="symbolic link"):
                call(path)
        with pytest.raises(IdentityError, match="exists"):
            Identity.generate().save(path)
    assert not (tmp_path / "nothing").exists()
    Identity.generate().save(link, overwrite=True)
    assert not link.is_symlink(), "the link itself was replaced"
    assert target.read_bytes() == content


def test_never_overwritten_by_accident(tmp_path: Path) -> None:
    """Attack 44."""
    path = tmp_path / "key"
    path.write_bytes(b"my diary")
    other = Identity.generate()
    with pytest.raises(IdentityError, match="overwrite=True"):
        other.save(path)
    assert other.ephemeral
    path.chmod(0o600)
    with pytest.raises(IdentityError, match="not an identity file"):
        Identity.load_or_create(path)
    assert path.read_bytes() == b"my diary"
    assert os.listdir(tmp_path) == ["key"]
    other.save(path, overwrite=True)
    assert Identity.load(path) == other
    assert os.listdir(tmp_path) == ["key"]


@POSIX
def test_directories_and_pipes_are_refused(tmp_path: Path) -> None:
    for call in (Identity.load, Identity.load_or_create):
        with pytest.raises(IdentityError, match="directory"):
            call(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(IdentityError, match="not a regular file"):
        Identity.load(tmp_path / "pipe")
    with pytest.raises(IdentityError, match="exists"):
        Identity(SEED).save(tmp_path)
    with pytest.raises(IdentityError, match="cannot write"):
        Identity(SEED).save(tmp_path, overwrite=True)
    assert os.listdir(tmp_path) == ["pipe"]


def test_missing_files_and_directories(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="load_or_create"):
        Identity.load(tmp_path / "key")
    with pytest.raises(IdentityError, match="directory must exist"):
        Identity(SEED).save(tmp_path / "no" / "key")
    with pytest.raises(IdentityError, match="directory must exist"):
        Identity.load_or_create(tmp_path / "no" / "key")


GOOD = b"srmudp identity 1\npeer_id " + str(PeerId(PUBLIC)).encode() + b"\nseed " + SEED.hex().encode() + b"\n"


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "empty"),
        (b"\0" * 100, "not an identity file"),
        (bytes(range(256)) * 40, "not an identity file"),
        (GOOD[:-2], "not an identity file"),
        (GOOD + b"more\n", "not an identity file"),
        (GOOD + b"\n" * 5000, "not an identity file"),
        (GOOD.replace(b"identity 1", b"identity 2"), "newer"),
        (GOOD.replace(b"9d61", b"9D61"), "not an identity file"),
        (GOOD.replace(b"9d61", b"9d62"), "damaged"),
        (GOOD.replace(SEED.hex().encode(), NEGATIVE_SEED.hex().encode()), "damaged"),
        (GOOD.replace(str(PeerId(PUBLIC)).encode(), b"a" * 52), "damaged"),
    ],
)
def test_garbage_is_refused_and_not_quoted(tmp_path: Path, content: bytes, match: str) -> None:
    """Attacks 44 and 45: the text names the file and says what to do, but shows nothing of what may be a key."""
    assert content != GOOD
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(IdentityError, match=match) as caught:
        Identity.load(path)
    assert str(path) in str(caught.value)
    assert SEED.hex()[8:] not in str(caught.value)
    assert NEGATIVE_SEED.hex() not in str(caught.value)


def test_good_file_is_good(tmp_path: Path) -> None:
    for content in (GOOD, GOOD[:-1]):
        (tmp_path / "key").write_bytes(content)
        (tmp_path / "key").chmod(0o600)
        assert Identity.load(tmp_path / "key").peer_id.key == PUBLIC


def without_link(*args: object, **kwargs: object) -> None:
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_file_systems_without_hard_links(tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not links:
        monkeypatch.setattr(os, "link", without_link)
    path = tmp_path / "key"
    first = Identity.load_or_create(path)
    assert not first.ephemeral
    assert Identity.load_or_create(path) == first
    with pytest.raises(IdentityError, match="exists"):
        Identity(SEED).save(path)
    assert os.listdir(tmp_path) == ["key"]
    assert Identity.load(path) == first


@pytest.mark.parametrize("step", ["fsync", "link"])
def test_failed_save_leaves_nothing(tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, step, full)
    identity = Identity(SEED)
    with pytest.raises(KeyboardInterrupt):
        identity.save(tmp_path / "key")
    assert os.listdir(tmp_path) == []
    assert identity.ephemeral


def test_full_disk_is_an_identity_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(IdentityError, match="No space left"):
        Identity.load_or_create(tmp_path / "key")
    assert os.listdir(tmp_path) == []


def test_race_lost_at_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program creates the file after we saw that there was none: both use that program's identity."""
    path, real = tmp_path / "key", os.link
    winner = Identity(SEED)

    def late(source: str, target: str) -> None:
        monkeypatch.setattr(os, "link", real)
        winner.save(path)
        real(source, target)

    monkeypatch.setattr(os, "link", late)
    assert Identity.load_or_create(path) == winner
    assert Identity.load(path) == winner
    assert os.listdir(tmp_path) == ["key"]


def test_file_that_comes_and_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exists(*args: object) -> None:
        raise FileExistsError

    monkeypatch.setattr(os, "link", exists)
    with pytest.raises(IdentityError, match="all the time"):
        Identity.load_or_create(tmp_path / "key")


def test_programs_that_start_together_agree(tmp_path: Path) -> None:
    code = (
        "import sys; from srmudp.crypto.keys import Identity; sys.stdin.read(1);"
        "print(Identity.load_or_create(sys.argv[1]).peer_id)"
    )
    root = Path(__file__).parent.parent.parent
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "key")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
        )
        for _ in range(4)
    ]
    # All have imported and wait for their byte when the first gets it, or nearly so.
    for program in programs:
        assert program.stdin is not None
        program.stdin.write("g")
        program.stdin.flush()
    answers = {program.communicate(timeout=30)[0].strip() for program in programs}
    assert answers == {str(Identity.load(tmp_path / "key").peer_id)}
    assert os.listdir(tmp_path) == ["key"]


def test_default_arguments_need_no_back_end(tmp_path: Path) -> None:
    calls: list[Callable[[Path], Identity]] = [Identity.load_or_create, Identity.load]
    assert len({call(tmp_path / "key") for call in calls}) == 1
