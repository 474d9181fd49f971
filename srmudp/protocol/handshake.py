"""The four arrows as pure computations on copies, and the rule that picks one session of two.

::

    A -> B  PUNCH        e, clear; a tag keyed by B's PeerId where A knows it; a cookie where B demanded one
    B -> A  PUBLIC_KEY   e, ee, s, es; sealed Hello of B
    A -> B  SHARED_KEY   s, se; sealed Hello of A
    B -> A  ESTABLISHED  the first record; B sends nothing else until a record of A opened; A answers at once

Everything here that agrees on keys is slow (a millisecond with pycryptodome) and therefore made to run outside the
endpoint lock: it reads what it is given, returns new objects and changes none. The endpoint commits a result only if
it still fits.

Which of two handshakes stays (both sides opening at once): :func:`outranks`. Each side follows three rules.

1. It authenticates its own attempt by the first PUBLIC_KEY that verifies, and repeats its SHARED_KEY until answered.
2. A SHARED_KEY that outranks its own *authenticated* attempt, or meets none, is accepted; its own attempt ends.
3. Any other is dropped.

Both ends know the generation and the initiator's ephemeral key of both handshakes, so they agree on the order, and an
attempt that ended was either never authenticated (its SHARED_KEY never left) or loses at the other end as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ..crypto.backend import Backend
from ..crypto.keys import Identity, punch_tag, static_key_of
from ..crypto.noise import HandshakeState, SessionSecrets
from ..exceptions import AuthenticationError, IdentityError
from ..models import Address, PeerId
from ..wire.packet import (
    NO_COOKIE,
    VERSION,
    HandshakeMessage,
    Hello,
    Punch,
    public_key_header,
    punch_header,
    punch_payload,
    shared_key_header,
)

PROLOGUE: Final = b"srmudp handshake " + bytes((VERSION,))
MAX_GENERATION: Final = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True, repr=False)
class Self:
    """What a handshake says of this side."""

    backend: Backend
    identity: Identity
    instance: bytes
    name: str

    def hello(self, generation: int, index: int, observed: Address | None, token: bytes = b"") -> Hello:
        """Our Hello for one message."""
        return Hello(
            self.identity.peer_id, self.instance, generation, self.identity.ephemeral, self.name, index, observed, token
        )

    def state(self, *, initiator: bool, ephemeral_private: bytes) -> HandshakeState:
        """A fresh Noise state."""
        return HandshakeState(
            self.backend,
            initiator=initiator,
            prologue=PROLOGUE,
            static_private=self.identity.static_private,
            static_public=self.identity.static_public,
            ephemeral_private=ephemeral_private,
        )


@dataclass(frozen=True, slots=True, repr=False)
class Opening:
    """An attempt of ours: the PUNCH that is repeated unchanged, and the state that waits for the answer.

    Once a responder demanded a cookie, an attempt has a second opening, which carries it. Both have the same index,
    which the cookie is bound to, and ephemeral keys of their own.
    """

    index: int
    state: HandshakeState
    punch: bytes


@dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """Our answer to a PUNCH: the PUBLIC_KEY that is repeated unchanged, and the state that waits for the SHARED_KEY."""

    index: int
    remote_index: int
    state: HandshakeState
    public_key: bytes


@dataclass(frozen=True, slots=True, repr=False)
class Agreed:
    """A handshake whose other side proved its key.

    Attributes:
        ephemeral: the *initiator's* ephemeral public key, the tie breaker.
        shared_key: the datagram an initiator repeats; empty for a responder.
    """

    initiator: bool
    local_index: int
    hello: Hello
    generation: int
    ephemeral: bytes
    secrets: SessionSecrets
    shared_key: bytes = b""


def open_attempt(
    us: Self, index: int, ephemeral_private: bytes, addressee: PeerId | None, cookie: bytes = NO_COOKIE
) -> Opening:
    """Make the first arrow. One key generation."""
    state = us.state(initiator=True, ephemeral_private=ephemeral_private)
    header = punch_header(index)
    tag_of: Callable[[bytes], bytes] | None = None
    if addressee is not None:
        to = addressee

        def tag_of(data: bytes) -> bytes:
            return punch_tag(to, data)

    payload = punch_payload(header, state.ephemeral_public, cookie, tag_of)
    return Opening(index, state, header + state.write_message(payload, header))


def answer_punch(
    us: Self, punch: Punch, source: Address, index: int, ephemeral_private: bytes, generation: int
) -> Answer:
    """Make the second arrow. One key generation and two key agreements.

    Raises:
        AuthenticationError: the ephemeral key is of small order.
    """
    state = us.state(initiator=False, ephemeral_private=ephemeral_private)
    state.read_message(punch.message, punch.header)
    header = public_key_header(punch.index)
    message = state.write_message(us.hello(generation, index, source).encode(), header)
    return Answer(index, punch.index, state, header + message)


def read_public_key(
    us: Self,
    openings: Sequence[Opening],
    message: HandshakeMessage,
    source: Address,
    generation_after: Callable[[bytes], int],
    invited_by: PeerId | None = None,
    token: bytes = b"",
) -> Agreed:
    """Check the second arrow and make the third. Three key agreements, and one for each opening that it is not for.

    Args:
        openings: what was punched with under this index: without a cookie and with those that were demanded.
        generation_after: the last generation used with an instance.
        invited_by, token: what an invite gave us. Nobody but its maker is shown the token.

    Raises:
        AuthenticationError: not the answer to our punch, or a PeerId that is not the proven key's.
        DecodeError: sealed nonsense.
    """
    opening, state, payload = _read_by_any(openings, message)
    hello = Hello.decode(payload)
    _check_claim(hello, state)
    generation = max(generation_after(hello.instance) + 1, hello.generation)
    if generation > MAX_GENERATION:
        raise AuthenticationError("the generations of this instance are used up")
    header = shared_key_header(hello.index)
    shown = token if hello.peer_id == invited_by else b""
    sealed = state.write_message(us.hello(generation, opening.index, source, shown).encode(), header)
    return Agreed(True, opening.index, hello, generation, state.ephemeral_public, state.split(), header + sealed)


def _read_by_any(openings: Sequence[Opening], message: HandshakeMessage) -> tuple[Opening, HandshakeState, bytes]:
    for opening in openings:
        state = opening.state.copy()
        try:
            return opening, state, state.read_message(message.message, message.header)
        except AuthenticationError:
            continue
    raise AuthenticationError("not the answer to our punch")


def read_shared_key(answer: Answer, message: HandshakeMessage) -> Agreed:
    """Check the third arrow. One key agreement.

    Raises:
        AuthenticationError: not the continuation of our answer, or a PeerId that is not the proven key's.
        DecodeError: sealed nonsense.
    """
    state = answer.state.copy()
    hello = Hello.decode(state.read_message(message.message, message.header))
    _check_claim(hello, state)
    if hello.index != answer.remote_index:
        raise AuthenticationError("the index is not the one that was punched with")
    assert state.remote_ephemeral is not None
    return Agreed(False, answer.index, hello, hello.generation, state.remote_ephemeral, state.split())


def outranks(a: Agreed, b: Agreed) -> bool:
    """True if of two authenticated handshakes of the same two instances ``a`` stays: higher generation, then the
    smaller ephemeral key of the initiator. The same at both ends."""
    if a.generation != b.generation:
        return a.generation > b.generation
    return a.ephemeral < b.ephemeral


def _check_claim(hello: Hello, state: HandshakeState) -> None:
    try:
        claimed = static_key_of(hello.peer_id)
    except IdentityError as error:
        raise AuthenticationError("a PeerId that is no key") from error
    if claimed != state.remote_static:
        raise AuthenticationError("a PeerId that belongs to another key")
