"""Replay window, record keys and key updates."""

from __future__ import annotations

import copy
import pickle
import random
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srmudp.crypto import protection
from srmudp.crypto.backend import Aead, Backend, Data, hkdf_sha256, select_backend
from srmudp.crypto.protection import LIMIT, WINDOW, EpochSecrets, RecordKeys, ReplayWindow, next_epoch
from srmudp.exceptions import AuthenticationError, LocalProtocolError

A, B = b"a" * 32, b"b" * 32


@pytest.fixture(params=["pycryptodome", "cryptography"])
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == "cryptography":
        pytest.importorskip("cryptography")
    return select_backend(request.param)


# ------------------------------------------------------------------------------------------------------- replay window


class Model:
    """The definition of the window, by a set."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.highest = -1

    def check(self, number: int) -> bool:
        return 0 <= number < 2**64 and number > self.highest - 65_536 and number not in self.seen

    def commit(self, number: int) -> None:
        self.seen.add(number)
        self.highest = max(self.highest, number)


def test_in_order_and_replayed() -> None:
    """Attack 1, the part of the window: each number once."""
    window = ReplayWindow()
    for number in range(2000):
        assert window.check(number)
        window.commit(number)
        assert not window.check(number)
    assert not any(window.check(number) for number in range(2000))
    assert window.highest == 1999


def test_edges_of_the_window() -> None:
    """Attack 2: counters n-W, n-W-1, n-W+1, n+2^20, 0 and 2^64-1."""
    window = ReplayWindow()
    n = 1_000_003
    window.commit(n)
    assert WINDOW == 65_536
    assert not window.check(n)
    assert not window.check(n - WINDOW)
    assert not window.check(n - WINDOW - 1)
    assert window.check(n - WINDOW + 1)
    assert window.check(n + 2**20)
    assert not window.check(0)
    assert window.check(2**64 - 1)
    assert not window.check(2**64)
    assert not window.check(-1)
    window.commit(n - WINDOW + 1)
    assert not window.check(n - WINDOW + 1)
    window.commit(n + 1)
    assert not window.check(n - WINDOW + 1)
    assert window.check(n - WINDOW + 2)


def test_check_moves_nothing() -> None:
    """Attack 2: a forged high number (whose record does not open, so that nothing is committed) leaves the window."""
    window = ReplayWindow()
    for number in range(0, 300, 2):
        window.commit(number)
    for _ in range(3):
        assert window.check(2**63)
        assert window.check(299)
    assert window.highest == 298
    assert all(window.check(number) is bool(number % 2) for number in range(299))


def test_start_and_end_of_the_numbers() -> None:
    window = ReplayWindow()
    assert window.check(0)
    assert not window.check(-1)
    window.commit(0)
    assert not window.check(0)
    window.commit(2**64 - 1)
    assert not window.check(2**64 - 1)
    assert window.check(2**64 - 2)
    assert not window.check(0)
    for number in (2**64, 2**70):
        with pytest.raises(ValueError):
            window.commit(number)
    assert window.highest == 2**64 - 1


def test_past_32_bits() -> None:
    """Attack 11: data goes on past 2^32."""
    window = ReplayWindow()
    for number in range(2**32 - 10, 2**32 + 10):
        assert window.check(number)
        window.commit(number)
        assert not window.check(number)
    assert window.check(2**32 - 11)


def test_committing_what_check_refuses_changes_nothing() -> None:
    window = ReplayWindow()
    window.commit(200_000)
    window.commit(3)
    window.commit(-70_000)
    window.commit(200_000)
    assert window.highest == 200_000
    assert not window.check(3)
    assert window.check(200_001)
    fresh = ReplayWindow()
    fresh.commit(-1)
    assert fresh.check(0)


@pytest.mark.parametrize("seed", range(6))
def test_against_the_definition(seed: int) -> None:
    """Random walks with loss, reordering, replays and jumps up to a few windows."""
    rng = random.Random(seed)
    window, model = ReplayWindow(), Model()
    head = rng.choice((0, 2**32 - 500, 2**63))
    for _ in range(4000):
        head += rng.choice((1, 1, 1, 1, 2, 5, 700, 30_000, 65_535, 65_536, 65_537, 200_000)[: rng.choice((4, 6, 12))])
        number = head - rng.choice((0, 0, 0, 1, 2, 3, 511, 512, 513, 40_000, 65_534, 65_535, 65_536, 65_537))
        assert window.check(number) is model.check(number)
        if number >= 0 and model.check(number):
            window.commit(number)
            model.commit(number)
        assert window.highest == model.highest
    for number in rng.sample(range(window.highest - 66_000, window.highest + 10), 2000):
        assert window.check(number) is model.check(number)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.lists(st.one_of(st.integers(0, 1200), st.integers(65_000, 67_000), st.integers(2**64 - 70_000, 2**64 - 1))))
def test_every_number_once(numbers: list[int]) -> None:
    window, model = ReplayWindow(), Model()
    for number in numbers:
        assert window.check(number) is model.check(number)
        if model.check(number):
            window.commit(number)
            model.commit(number)


def test_memory_grows_on_demand_and_is_bounded() -> None:
    window = ReplayWindow()
    for number in range(5000):
        window.commit(number)
    assert not window._blocks, "nothing is kept as long as nothing is missing"
    for number in range(5000, 400_000, 3):
        window.commit(number)
    assert len(window._blocks) <= WINDOW // 512 + 1
    assert sum(sys.getsizeof(marks) for marks in window._blocks.values()) < 16_000
    window.commit(2**63)
    assert len(window._blocks) <= 1


# --------------------------------------------------------------------------------------------------------- record keys


def pair(backend: Backend, **kwargs: int) -> tuple[RecordKeys, RecordKeys]:
    return RecordKeys(backend, A, B, 3, **kwargs), RecordKeys(backend, B, A, 3, **kwargs)


def test_seal_and_open(backend: Backend) -> None:
    one, two = pair(backend)
    sealed = one.seal(7, b"head", b"plaintext")
    assert two.open(7, b"head", sealed) == b"plaintext"
    # The nonce is 32 zero bits and the record number in big-endian order.
    assert sealed == backend.aead(A).seal(bytes(11) + b"\7", b"plaintext", b"head")
    big = one.seal(0x0102030405060708, b"", memoryview(b"x"))
    assert big == backend.aead(A).seal(bytes(4) + bytes(range(1, 9)), b"x", b"")
    assert (one.sealed, one.sealed_bytes, one.next_number) == (2, 10, 0x0102030405060709)
    assert (two.opened, two.failed, two.sealed) == (1, 0, 0)
    assert one.epoch == 3


def test_directions_are_apart(backend: Backend) -> None:
    """Attack 4: what we sealed does not open here."""
    one, two = pair(backend)
    with pytest.raises(AuthenticationError):
        one.open(0, b"", one.seal(0, b"", b"pay 100 to B"))
    assert one.failed == 1
    assert two.failed == 0


def test_number_and_header_are_authenticated(backend: Backend) -> None:
    one, two = pair(backend)
    sealed = one.seal(5, b"head", b"data")
    for number, header, data in (
        (4, b"head", sealed),
        (5 + 2**32, b"head", sealed),
        (5, b"heaD", sealed),
        (5, b"", sealed),
        (5, b"head", sealed[:-1]),
        (5, b"head", b""),
    ):
        with pytest.raises(AuthenticationError):
            two.open(number, header, data)
    assert two.failed == 6
    assert two.open(5, b"head", sealed) == b"data"


def test_a_used_number_is_never_sealed_again(backend: Backend) -> None:
    """Attack 69: neither the same number nor a smaller one."""
    keys, _ = pair(backend)
    keys.seal(10, b"", b"first")
    for number in (10, 9, 0, -1):
        with pytest.raises(LocalProtocolError):
            keys.seal(number, b"", b"first")
    assert keys.sealed == 1
    keys.seal(11, b"", b"next")
    keys.seal(20, b"", b"gaps are allowed")
    assert keys.next_number == 21


def due(keys: RecordKeys) -> bool:
    return keys.update_due


def exhausted(keys: RecordKeys) -> bool:
    return keys.exhausted


class Watched:
    """A back end whose ``seal`` can be interrupted before or after it computed; notes every nonce it was given."""

    def __init__(self, inner: Backend) -> None:
        self.name = "watched"
        self.inner = inner
        self.nonces: list[bytes] = []
        self.rng = random.Random(69)

    def aead(self, key: bytes) -> Aead:
        cipher, watched = self.inner.aead(key), self

        class Cipher:
            def seal(self, nonce: bytes, plaintext: Data, aad: Data) -> bytes:
                what = watched.rng.randrange(4)
                if what == 0:
                    raise MemoryError
                watched.nonces.append(nonce)
                sealed = cipher.seal(nonce, plaintext, aad)
                if what == 1:
                    raise KeyboardInterrupt
                return sealed

            def open(self, nonce: bytes, ciphertext: Data, aad: Data) -> bytes:
                return cipher.open(nonce, ciphertext, aad)

        return Cipher()

    def x25519_public(self, private: bytes) -> bytes:
        raise NotImplementedError

    def x25519(self, private: bytes, public: bytes) -> bytes:
        raise NotImplementedError

    def ed25519_public(self, seed: bytes) -> bytes:
        raise NotImplementedError


def test_a_failed_or_interrupted_seal_burns_its_number(backend: Backend) -> None:
    """Attack 69: 1,000 seals, half of them interrupted; no nonce comes twice, and no number can be tried again."""
    watched = Watched(backend)
    keys = RecordKeys(watched, A, B)
    failed = 0
    for number in range(1000):
        try:
            keys.seal(number, b"", b"data")
        except (KeyboardInterrupt, MemoryError):
            failed += 1
        with pytest.raises(LocalProtocolError):
            keys.seal(number, b"", b"data")
    assert 400 < failed < 600
    assert len(set(watched.nonces)) == len(watched.nonces)
    assert keys.sealed == 1000


def test_counter_goes_on_past_32_bits(backend: Backend) -> None:
    """Attack 11."""
    one, two = pair(backend, first_number=2**32 - 10)
    with pytest.raises(LocalProtocolError):
        one.seal(2**32 - 11, b"", b"")
    for number in range(2**32 - 10, 2**32 + 10):
        assert two.open(number, b"h", one.seal(number, b"h", b"data")) == b"data"


def test_hard_limit(backend: Backend) -> None:
    """Attack 11: at the limit nothing is sealed, opened or wrapped round."""
    assert LIMIT == 2**62 - 2**13
    one, two = pair(backend, first_number=LIMIT - 2)
    assert not exhausted(one)
    assert two.open(LIMIT - 2, b"", one.seal(LIMIT - 2, b"", b"x")) == b"x"
    one.seal(LIMIT - 1, b"", b"x")
    assert exhausted(one)
    for number in (LIMIT, LIMIT + 1, 2**64 - 1, 2**64, 2**80, 0):
        with pytest.raises(LocalProtocolError):
            one.seal(number, b"", b"x")
    genuine = backend.aead(A).seal(bytes(4) + LIMIT.to_bytes(8, "big"), b"x", b"")
    for number in (LIMIT, 2**64 - 1, 2**64, -1):
        with pytest.raises(AuthenticationError):
            two.open(number, b"", genuine)
    assert two.failed == 4


def test_update_is_due_before_the_limits_of_the_cipher(backend: Backend) -> None:
    """Attack 40, the part of the counters."""
    keys, _ = pair(backend)
    keys.seal(0, b"", b"12345")
    assert not due(keys)
    keys.sealed = 2**20 - 2
    keys.seal(1, b"", b"")
    assert not due(keys)
    keys.seal(2, b"", b"")
    assert due(keys)
    keys.sealed = 0
    keys.sealed_bytes = 64 * 1024**3 - 5
    assert not due(keys)
    keys.seal(3, b"", b"12345")
    assert due(keys)
    assert protection.UPDATE_SECONDS == 120


def test_forgeries_wear_the_keys_out(backend: Backend) -> None:
    """Attack 40: at 2^36 failures nothing opens any more."""
    one, two = pair(backend)
    first, second = one.seal(0, b"", b"x"), one.seal(1, b"", b"y")
    two.failed = 2**36 - 1
    assert not exhausted(two)
    assert two.open(0, b"", first) == b"x"
    with pytest.raises(AuthenticationError):
        two.open(1, b"", first)
    assert exhausted(two)
    with pytest.raises(AuthenticationError):
        two.open(1, b"", second)


# ---------------------------------------------------------------------------------------------------------- key update


def update(
    *, chain: bytes = A, shared: bytes = B, epoch: int = 1, initiator: bytes = b"i" * 32, responder: bytes = b"r" * 32
) -> EpochSecrets:
    return next_epoch(chain, shared, epoch=epoch, initiator_public=initiator, responder_public=responder)


def test_next_epoch_is_hkdf() -> None:
    chain, initiator, responder = update(epoch=0x102)
    info = b"srmudp key update 1" + bytes(6) + b"\1\2" + b"i" * 32 + b"r" * 32
    assert chain + initiator + responder == hkdf_sha256(A, B, info, 96)
    assert len({chain, initiator, responder}) == 3


def test_next_epoch_depends_on_everything() -> None:
    variants = [
        update(),
        update(chain=B),
        update(shared=A),
        update(epoch=2),
        update(epoch=257),
        update(initiator=b"r" * 32, responder=b"i" * 32),
        update(responder=b"R" * 32),
    ]
    assert len({value for secrets in variants for value in secrets}) == 3 * len(variants)
    assert list(update()) == list(update())


def test_next_epoch_checks_sizes() -> None:
    for name in ("chain", "shared", "initiator", "responder"):
        with pytest.raises(ValueError):
            update(**{name: bytes(31)})  # type: ignore[arg-type]


def test_roles_meet(backend: Backend) -> None:
    secrets = update()
    one = RecordKeys(backend, *secrets.by_role(True), 1, first_number=500)
    two = RecordKeys(backend, *secrets.by_role(False), 1)
    assert two.open(500, b"", one.seal(500, b"", b"hello")) == b"hello"
    assert one.open(0, b"", two.seal(0, b"", b"hello")) == b"hello"


def test_nothing_secret_is_shown_or_copied(backend: Backend) -> None:
    """Attack 45."""
    keys, _ = pair(backend)
    secrets = update()
    for thing in (keys, secrets):
        for text in (repr(thing), str(thing), f"{thing}"):
            for value in (A, B, *secrets):
                assert value.hex() not in text
                assert repr(value)[2:-1] not in text
        for call in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError):
                call(thing)
    with pytest.raises(AuthenticationError) as caught:
        keys.open(0, b"", b"secret-looking plaintext")
    assert "secret" not in str(caught.value)
