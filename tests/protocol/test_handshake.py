"""The four arrows as pure computations: agreement, what is bound to what, forgeries, and the rule that picks one."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import permutations

import pytest

from srmudp.crypto.backend import Backend, select_backend
from srmudp.crypto.keys import Identity, punch_tag
from srmudp.exceptions import AuthenticationError, DecodeError
from srmudp.models import Address
from srmudp.protocol.handshake import (
    MAX_GENERATION,
    PROLOGUE,
    Agreed,
    Answer,
    Opening,
    Self,
    answer_punch,
    open_attempt,
    outranks,
    read_public_key,
    read_shared_key,
)
from srmudp.wire.packet import (
    MAX_SHARED_KEY,
    NO_TAG,
    PUNCH_SIZE,
    VERSION,
    HandshakeMessage,
    parse_public_key,
    parse_punch,
    parse_shared_key,
    punch_header,
    punch_payload,
    shared_key_header,
)
from tests.endpoints import identity

A_ADDRESS = Address("192.0.2.1", 4001)
B_ADDRESS = Address("198.51.100.2", 4002)
GUEST = select_backend()


def never(instance: bytes) -> int:
    """No session with any instance yet."""
    return 0


def party(name: str, backend: Backend = GUEST, *, instance: bytes | None = None, who: Identity | None = None) -> Self:
    return Self(backend, who or identity(name, backend), instance or (name * 16).encode()[:16], name)


def secret(seed: object) -> bytes:
    return random.Random(f"ephemeral/{seed}").randbytes(32)


class Talk:
    """One complete handshake from A to B."""

    def __init__(self, backend: Backend = GUEST, *, tagged: bool = True, generation: int = 1, after: int = 0) -> None:
        self.a, self.b = party("a", backend), party("b", backend)
        self.opening: Opening = open_attempt(self.a, 11, secret("a"), self.b.identity.peer_id if tagged else None)
        self.punch = parse_punch(self.opening.punch)
        self.answer: Answer = answer_punch(self.b, self.punch, A_ADDRESS, 22, secret("b"), generation)
        self.agreed_a: Agreed = read_public_key(
            self.a, [self.opening], parse_public_key(self.answer.public_key), B_ADDRESS, lambda instance: after
        )
        self.agreed_b: Agreed = read_shared_key(self.answer, parse_shared_key(self.agreed_a.shared_key))


def flipped(message: HandshakeMessage, position: int) -> HandshakeMessage:
    data = bytearray(message.message)
    data[position] ^= 1
    return HandshakeMessage(message.header, message.index, bytes(data))


def test_the_prologue_names_protocol_and_version() -> None:
    assert b"srmudp handshake " + bytes([VERSION]) == PROLOGUE


@pytest.mark.parametrize("tagged", [True, False])
def test_both_ends_agree(backend: Backend, tagged: bool) -> None:
    talk = Talk(backend, tagged=tagged)
    a, b = talk.agreed_a, talk.agreed_b
    assert a.secrets.send_key == b.secrets.receive_key
    assert a.secrets.receive_key == b.secrets.send_key
    assert a.secrets.send_key != a.secrets.receive_key
    assert a.secrets.chain_secret == b.secrets.chain_secret
    assert a.secrets.handshake_hash == b.secrets.handshake_hash
    assert (a.initiator, b.initiator) == (True, False)
    assert a.generation == b.generation == 1
    assert a.ephemeral == b.ephemeral == talk.punch.message[:32]
    assert a.hello.peer_id == talk.b.identity.peer_id
    assert b.hello.peer_id == talk.a.identity.peer_id
    assert (a.hello.instance, b.hello.instance) == (talk.b.instance, talk.a.instance)
    assert (a.hello.name, b.hello.name) == ("b", "a")


def test_each_side_learns_its_own_index_the_others_and_how_it_is_seen() -> None:
    talk = Talk()
    assert (talk.agreed_a.local_index, talk.agreed_a.hello.index) == (11, 22)
    assert (talk.agreed_b.local_index, talk.agreed_b.hello.index) == (22, 11)
    assert talk.agreed_a.hello.observed == A_ADDRESS
    assert talk.agreed_b.hello.observed == B_ADDRESS


def test_sizes_do_not_amplify() -> None:
    talk = Talk()
    assert len(talk.opening.punch) == PUNCH_SIZE == 512
    assert len(talk.answer.public_key) <= PUNCH_SIZE
    assert len(talk.agreed_a.shared_key) <= MAX_SHARED_KEY


def test_a_punch_is_tagged_only_for_a_known_addressee() -> None:
    tagged, plain = Talk(tagged=True), Talk(tagged=False)
    assert tagged.punch.tag == punch_tag(tagged.b.identity.peer_id, tagged.punch.tagged_bytes)
    assert plain.punch.tag == NO_TAG


def test_a_wrong_tag_is_still_a_good_punch() -> None:
    """Whether it deserves an answer is not for the computation to say; the tag is under the transcript all the same."""
    a, b = party("a"), party("b")
    opening = open_attempt(a, 11, secret("a"), a.identity.peer_id)
    answer = answer_punch(b, parse_punch(opening.punch), A_ADDRESS, 22, secret("b"), 1)
    assert read_public_key(a, [opening], parse_public_key(answer.public_key), B_ADDRESS, never).hello.name == "b"


def test_the_same_inputs_give_the_same_bytes() -> None:
    first, second = Talk(), Talk()
    assert first.opening.punch == second.opening.punch
    assert first.answer.public_key == second.answer.public_key
    assert first.agreed_a.shared_key == second.agreed_a.shared_key


@pytest.mark.parametrize(
    ("offered", "after", "expected"),
    [(1, 0, 1), (1, 1, 2), (7, 3, 7), (3, 7, 8), (1, MAX_GENERATION - 1, MAX_GENERATION)],
)
def test_the_generation_is_above_both_sides_last(offered: int, after: int, expected: int) -> None:
    talk = Talk(generation=offered, after=after)
    assert talk.agreed_a.generation == talk.agreed_b.generation == expected


def test_generations_that_are_used_up_are_refused_not_wrapped() -> None:
    with pytest.raises(AuthenticationError):
        Talk(after=MAX_GENERATION)


def test_the_generation_asked_for_is_that_of_the_instance_that_answered() -> None:
    talk = Talk()
    asked: list[bytes] = []

    def after(instance: bytes) -> int:
        asked.append(instance)
        return 4

    read_public_key(talk.a, [talk.opening], parse_public_key(talk.answer.public_key), B_ADDRESS, after)
    assert asked == [talk.b.instance]


def test_computations_change_nothing_they_are_given() -> None:
    """Repeated with the same arguments they give the same, also after a failure in between."""
    talk = Talk()
    message = parse_public_key(talk.answer.public_key)
    with pytest.raises((AuthenticationError, DecodeError)):
        read_public_key(talk.a, [talk.opening], flipped(message, 40), B_ADDRESS, never)
    again = read_public_key(talk.a, [talk.opening], message, B_ADDRESS, never)
    assert again.shared_key == talk.agreed_a.shared_key
    third = parse_shared_key(talk.agreed_a.shared_key)
    with pytest.raises((AuthenticationError, DecodeError)):
        read_shared_key(talk.answer, flipped(third, 3))
    assert read_shared_key(talk.answer, third).secrets.send_key == talk.agreed_b.secrets.send_key


@pytest.mark.parametrize("position", [0, 31, 32, 63, 79, 80, -17, -16, -1])
def test_a_changed_public_key_is_refused(position: int) -> None:
    talk = Talk()
    message = parse_public_key(talk.answer.public_key)
    with pytest.raises(AuthenticationError):
        read_public_key(talk.a, [talk.opening], flipped(message, position), B_ADDRESS, never)


@pytest.mark.parametrize("position", [0, 31, 47, 48, -17, -16, -1])
def test_a_changed_shared_key_is_refused(position: int) -> None:
    talk = Talk()
    with pytest.raises(AuthenticationError):
        read_shared_key(talk.answer, flipped(parse_shared_key(talk.agreed_a.shared_key), position))


@pytest.mark.parametrize("arrow", [2, 3])
def test_the_clear_header_is_under_the_transcript(arrow: int) -> None:
    talk = Talk()
    if arrow == 2:
        message = parse_public_key(talk.answer.public_key)
        changed = HandshakeMessage(
            message.header[:-1] + bytes([message.header[-1] ^ 1]), message.index, message.message
        )
        with pytest.raises(AuthenticationError):
            read_public_key(talk.a, [talk.opening], changed, B_ADDRESS, never)
    else:
        message = parse_shared_key(talk.agreed_a.shared_key)
        changed = HandshakeMessage(
            message.header[:-1] + bytes([message.header[-1] ^ 1]), message.index, message.message
        )
        with pytest.raises(AuthenticationError):
            read_shared_key(talk.answer, changed)


@pytest.mark.parametrize("position", [2, 9, 42, 200, -40, -20, -1])
def test_a_punch_changed_on_the_way_leads_to_no_session(position: int) -> None:
    """It is clear, so the responder cannot tell; but every byte of it is under the transcript: the initiator can."""
    talk = Talk()
    data = bytearray(talk.opening.punch)
    data[position] ^= 1
    try:
        answer = answer_punch(talk.b, parse_punch(bytes(data)), A_ADDRESS, 22, secret("b"), 1)
    except (DecodeError, AuthenticationError):
        return
    with pytest.raises(AuthenticationError):
        read_public_key(talk.a, [talk.opening], parse_public_key(answer.public_key), B_ADDRESS, never)


def test_a_small_order_ephemeral_is_refused(backend: Backend) -> None:
    """RFC 7748 section 6.1: the result must not be all zero. Zero is a point of small order."""
    header = punch_header(11)
    punch = parse_punch(header + bytes(32) + punch_payload(header, bytes(32), tag_of=None))
    with pytest.raises(AuthenticationError):
        answer_punch(party("b", backend), punch, A_ADDRESS, 22, secret("b"), 1)


def test_a_claimed_peer_id_must_be_the_proven_key() -> None:
    """Each side alone: a liar holds its own key and claims another's PeerId."""
    a, b = party("a"), party("b")

    class Liar(Self):
        __slots__ = ()

        def hello(self, *arguments: object) -> object:  # type: ignore[override]
            return replace(super().hello(*arguments), peer_id=identity("victim").peer_id)  # type: ignore[arg-type]

    liar = Liar(GUEST, identity("liar"), bytes(16), "liar")
    opening = open_attempt(a, 11, secret("a"), None)
    answer = answer_punch(liar, parse_punch(opening.punch), A_ADDRESS, 22, secret("b"), 1)
    with pytest.raises(AuthenticationError):
        read_public_key(a, [opening], parse_public_key(answer.public_key), B_ADDRESS, never)
    opening = open_attempt(liar, 11, secret("a"), None)
    answer = answer_punch(b, parse_punch(opening.punch), A_ADDRESS, 22, secret("b"), 1)
    agreed = read_public_key(liar, [opening], parse_public_key(answer.public_key), B_ADDRESS, never)
    with pytest.raises(AuthenticationError):
        read_shared_key(answer, parse_shared_key(agreed.shared_key))


def test_the_third_arrow_must_name_the_index_that_punched() -> None:
    talk = Talk()
    message = parse_public_key(talk.answer.public_key)
    state = talk.opening.state.copy()
    state.read_message(message.message, message.header)
    header = shared_key_header(22)
    sealed = state.write_message(talk.a.hello(1, 12, B_ADDRESS).encode(), header)  # punched with 11
    with pytest.raises(AuthenticationError):
        read_shared_key(talk.answer, parse_shared_key(header + sealed))


def test_sealed_nonsense_is_a_decode_error() -> None:
    talk = Talk()
    message = parse_public_key(talk.answer.public_key)
    state = talk.opening.state.copy()
    state.read_message(message.message, message.header)
    header = shared_key_header(22)
    with pytest.raises(DecodeError):
        read_shared_key(talk.answer, parse_shared_key(header + state.write_message(bytes(80), header)))


def test_messages_of_two_handshakes_do_not_mix() -> None:
    talk = Talk()
    other_opening = open_attempt(talk.a, 11, secret("other"), None)
    other_answer = answer_punch(talk.b, talk.punch, A_ADDRESS, 22, secret("other b"), 1)
    with pytest.raises(AuthenticationError):
        read_public_key(talk.a, [other_opening], parse_public_key(talk.answer.public_key), B_ADDRESS, never)
    with pytest.raises(AuthenticationError):
        read_shared_key(other_answer, parse_shared_key(talk.agreed_a.shared_key))


def test_our_own_answer_comes_back_as_ours() -> None:
    """A handshake with ourselves verifies; who answers is for the endpoint to judge by the PeerId."""
    a = party("a")
    opening = open_attempt(a, 11, secret("a"), None)
    answer = answer_punch(a, parse_punch(opening.punch), A_ADDRESS, 22, secret("b"), 1)
    agreed = read_public_key(a, [opening], parse_public_key(answer.public_key), B_ADDRESS, never)
    assert agreed.hello.peer_id == a.identity.peer_id


def test_outranks_is_a_strict_order_that_both_ends_share() -> None:
    talk = Talk()
    entries = [
        replace(talk.agreed_a, generation=generation, ephemeral=bytes([first]) * 32)
        for generation in (1, 2, 3)
        for first in (0, 1, 255)
    ]
    for x, y in permutations(entries, 2):
        assert outranks(x, y) != outranks(y, x)
        mirrored = replace(x, initiator=False, local_index=99)
        assert outranks(mirrored, y) == outranks(x, y)
    for x in entries:
        assert not outranks(x, x)
    best = [x for x in entries if all(x is y or outranks(x, y) for y in entries)]
    assert [(x.generation, x.ephemeral[0]) for x in best] == [(3, 0)]


def test_nothing_secret_is_shown() -> None:
    talk = Talk()
    for thing in (talk.a, talk.opening, talk.answer, talk.agreed_a):
        text = repr(thing)
        assert talk.agreed_a.secrets.send_key.hex() not in text
        assert "secrets=" not in text
        assert "identity=" not in text
