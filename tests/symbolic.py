"""Two endpoints as state machines that can be copied, compared and put into every order: for exhaustive exploration.

::

    backend = SymbolicBackend()
    node = LocalNode(endpoint(backend, ...), "a")        # owns the endpoint, its running jobs and what it handed out
    other = node.clone()                                  # an independent node in the same state
    node.act(("deliver", datagram, source), now)          # returns the datagrams it sends
    node.fingerprint()                                    # equal for nodes that will behave alike for ever

Nothing here knows the endpoint's inner structure: :func:`clone` and :func:`fingerprint` walk whatever objects they
find, closures of waiting jobs included. A new field is thus copied and compared without being told, at worst at the
cost of states that differ in nothing that matters; ``IGNORED`` names the fields known to be of that kind.

Randomness is symbolic too. What an endpoint draws depends on what it is doing and how often it did so, not on when:
two orders of the same events then give the same keys and can be seen to meet in one state.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from enum import Enum
from functools import partial
from hashlib import sha256
from itertools import count
from types import BuiltinFunctionType, CellType, FunctionType, MethodType
from typing import Any, Final

from srmudp.config import Config
from srmudp.crypto.backend import Data
from srmudp.crypto.keys import Identity
from srmudp.crypto.noise import HandshakeState, SessionSecrets
from srmudp.exceptions import AuthenticationError
from srmudp.models import Address, PeerId
from srmudp.peers.endpoint import Endpoint, Job
from srmudp.peers.jobs import TokenBucket
from srmudp.protocol.events import MessageArrived, MessageSettled
from srmudp.protocol.handshake import Agreed, Answer, Opening, Self

Action = tuple[str, bytes, Address | None]
"""("deliver", datagram, source), ("job", label, None) or ("timer", b"", None)."""


# --- symbolic cryptography


class SymbolicBackend:
    """Cryptography in name only: commutative key agreement by hashing, sealing by a hash tag. Fast, and hides nothing.

    Identities are made by the real back end; :meth:`know` tells their key pairs.
    """

    name = "cryptography"  # what decides the rate of answers

    def __init__(self) -> None:
        self._public: dict[bytes, bytes] = {}

    def know(self, identity: Identity) -> Identity:
        """Use this identity's key pair."""
        self._public[identity.static_private] = identity.static_public
        return identity

    def x25519_public(self, private: bytes) -> bytes:
        known = self._public.get(private)
        return known if known is not None else sha256(b"public" + private).digest()

    def x25519(self, private: bytes, public: bytes) -> bytes:
        return sha256(b"shared" + b"".join(sorted((self.x25519_public(private), public)))).digest()

    def ed25519_public(self, seed: bytes) -> bytes:
        raise NotImplementedError

    def aead(self, key: bytes) -> SymbolicAead:
        return SymbolicAead(key)


class SymbolicAead:
    """The plaintext and a tag over everything."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def seal(self, nonce: bytes, plaintext: Data, aad: Data) -> bytes:
        data = bytes(plaintext)
        return data + self._tag(nonce, data, bytes(aad))

    def open(self, nonce: bytes, ciphertext: Data, aad: Data) -> bytes:
        data = bytes(ciphertext)
        if len(data) < 16 or self._tag(nonce, data[:-16], bytes(aad)) != data[-16:]:
            raise AuthenticationError("the tag does not match")
        return data[:-16]

    def _tag(self, nonce: bytes, data: bytes, aad: bytes) -> bytes:
        return sha256(self._key + nonce + len(aad).to_bytes(4, "big") + aad + data).digest()[:16]


# --- copying


_ATOMIC: set[type] = {
    *(bytes, int, float, str, bool, type(None), type, range, memoryview, frozenset, BuiltinFunctionType),
    *(Config, PeerId, Address, Identity, Self, SymbolicBackend, SymbolicAead),
    *(HandshakeState, SessionSecrets, Agreed, Answer, Opening),  # never changed once another object holds them
}
_FIELDS: dict[type, tuple[str, ...]] = {}


def _is_atomic(kind: type) -> bool:
    if issubclass(kind, Enum):
        _ATOMIC.add(kind)
    return kind in _ATOMIC


def _fields(kind: type) -> tuple[str, ...]:
    """Every attribute a class keeps in slots; instances with a ``__dict__`` have more."""
    fields = _FIELDS.get(kind)
    if fields is None:
        found: list[str] = []
        for base in kind.__mro__:
            slots = base.__dict__.get("__slots__", ())
            found += [slots] if isinstance(slots, str) else [*slots]
        fields = _FIELDS[kind] = tuple(sorted({name for name in found if name not in ("__dict__", "__weakref__")}))
    return fields


def clone(value: Any, memo: dict[int, Any]) -> Any:
    """An independent copy of an object and all it refers to; ``memo`` keeps shared references shared."""
    kind = type(value)
    if kind in _ATOMIC:
        return value
    known = memo.get(id(value))
    if known is not None:
        return known
    copier = _COPIERS.get(kind)
    if copier is None:
        if _is_atomic(kind):
            return value
        copier = _COPIERS[kind] = (
            _clone_tuple if issubclass(kind, tuple) else _clone_dict if issubclass(kind, dict) else _clone_object
        )
    return copier(value, memo)


def _clone_object(value: Any, memo: dict[int, Any]) -> Any:
    kind = type(value)
    result = memo[id(value)] = object.__new__(kind)
    own = getattr(value, "__dict__", None)
    if own is not None:
        target = result.__dict__
        target.update(own)
        for name, item in own.items():
            if type(item) not in _ATOMIC:
                target[name] = clone(item, memo)
    put = object.__setattr__
    for name in _FIELDS.get(kind) or _fields(kind):
        item = getattr(value, name, _ATOMIC)
        if item is not _ATOMIC:  # an unset slot stays unset
            put(result, name, item if type(item) in _ATOMIC else clone(item, memo))
    return result


def _clone_tuple(value: tuple[Any, ...], memo: dict[int, Any]) -> Any:
    items = [item if type(item) in _ATOMIC else clone(item, memo) for item in value]
    for new, old in zip(items, value, strict=True):
        if new is not old:
            result = memo[id(value)] = tuple.__new__(type(value), items)
            return result
    return value


def _clone_list(value: list[Any], memo: dict[int, Any]) -> Any:
    result: list[Any] = []
    memo[id(value)] = result
    result += [
        item if type(item) in _ATOMIC else {} if type(item) is dict and not item else clone(item, memo)
        for item in value
    ]
    return result


def _clone_deque(value: deque[Any], memo: dict[int, Any]) -> Any:
    result: deque[Any] = deque(maxlen=value.maxlen)
    memo[id(value)] = result
    result.extend([clone(item, memo) for item in value])
    return result


def _clone_dict(value: dict[Any, Any], memo: dict[int, Any]) -> Any:
    result = memo[id(value)] = type(value)()
    if not value:
        return result
    for key, item in value.items():
        new = clone(item, memo)
        result[id(new) if key == id(item) else clone(key, memo)] = new
    return result


def _clone_set(value: set[Any], memo: dict[int, Any]) -> Any:
    result = memo[id(value)] = {clone(item, memo) for item in value}
    return result


def _clone_method(value: MethodType, memo: dict[int, Any]) -> Any:
    owner = clone(value.__self__, memo)
    return value if owner is value.__self__ else MethodType(value.__func__, owner)


def _clone_partial(value: partial[Any], memo: dict[int, Any]) -> Any:
    keywords = {name: clone(item, memo) for name, item in value.keywords.items()}
    return partial(clone(value.func, memo), *[clone(item, memo) for item in value.args], **keywords)


def _clone_count(value: Any, memo: dict[int, Any]) -> Any:
    return count(int(repr(value)[6:-1]))


def _clone_function(value: FunctionType, memo: dict[int, Any]) -> Any:
    if value.__closure__ is None:
        return value
    cells = [CellType() for _ in value.__closure__]
    result = FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, tuple(cells))
    if value.__kwdefaults__:
        result.__kwdefaults__ = value.__kwdefaults__
    memo[id(value)] = result
    for cell, old in zip(cells, value.__closure__, strict=True):
        cell.cell_contents = clone(old.cell_contents, memo)
    return result


_COPIERS: dict[type, Callable[[Any, dict[int, Any]], Any]] = {
    tuple: _clone_tuple,
    list: _clone_list,
    deque: _clone_deque,
    dict: _clone_dict,
    set: _clone_set,
    MethodType: _clone_method,
    FunctionType: _clone_function,
    partial: _clone_partial,
    count: _clone_count,
}


# --- comparing


IGNORED: Final = frozenset(
    {
        *("drops", "_drops", "_order", "_compute"),
        *("bytes_sent", "bytes_received", "datagrams_sent", "datagrams_received", "messages_sent", "messages_received"),
        *("sealed_bytes", "opened", "failed"),
        *(
            "_timers",
            "_unscheduled",
            "_now",
            "scheduled",
        ),  # derived from the peers' deadlines; one too many finds nothing to do
        *("_label", "_drawn"),
        *("trail", "judged", "told"),  # what an explanation is made of
        "_by_have",  # an index over the records that are not complete
    }
)
"""Attributes that decide nothing, such as counters: left out of a fingerprint."""

_PLAIN: set[type] = {bytes, int, str, bool, float, type(None), PeerId, Address}


def _summary(value: Any) -> Any:
    """What stands for a value that is never changed."""
    kind = type(value)
    if kind is Agreed:
        return (value.initiator, value.local_index, value.generation, value.ephemeral, value.secrets.handshake_hash)
    if kind is Opening:
        return value.punch
    if kind is Answer:
        return value.public_key
    if kind is memoryview:
        return bytes(value)
    if kind is range:
        return (value.start, value.stop)
    if kind is frozenset or isinstance(value, Enum):
        return value
    return kind.__name__


def fingerprint(value: Any, seen: dict[int, int]) -> Any:
    """A nested tuple, equal for objects of equal state apart from ``IGNORED`` and the order in dicts and sets."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind in _ATOMIC or kind is count or kind is TokenBucket or (kind not in _COPIERS and _is_atomic(kind)):
        return _summary(value)
    known = seen.get(id(value))
    if known is not None:
        return ("same", known)
    seen[id(value)] = len(seen)
    if isinstance(value, tuple | list | deque):
        return tuple([item if type(item) in _PLAIN else fingerprint(item, seen) for item in value])
    if isinstance(value, dict):
        return ("dict", *[(key, fingerprint(item, seen)) for key, item in _in_order(value)]) if value else ()
    if kind is set:
        return ("set", frozenset([fingerprint(item, seen) for item in value]))
    if kind is FunctionType:
        contents = [fingerprint(cell.cell_contents, seen) for cell in value.__closure__ or ()]
        return (value.__qualname__, *contents)
    if kind is MethodType:
        return (value.__func__.__qualname__, fingerprint(value.__self__, seen))
    found: list[Any] = [kind.__name__]
    own = getattr(value, "__dict__", None)
    if own:
        for name, item in own.items():
            if name not in IGNORED:
                found.append(item if type(item) in _PLAIN else fingerprint(item, seen))
    for name in _FIELDS.get(kind) or _fields(kind):
        if name not in IGNORED:
            item = getattr(value, name, None)
            found.append(item if type(item) in _PLAIN else fingerprint(item, seen))
    return tuple(found)


def _in_order(value: dict[Any, Any]) -> list[tuple[Any, Any]]:
    """The items of a dict by key. Keys that are objects (or ids of objects) keep the order they came in."""
    if len(value) == 1:
        ((key, item),) = value.items()
        return [(None if key == id(item) else key if type(key) in _PLAIN else fingerprint(key, {}), item)]
    if all(key == id(item) for key, item in value.items()):
        return [(None, item) for item in value.values()]
    try:
        return sorted(value.items())
    except TypeError:
        return [(fingerprint(key, {}), item) for key, item in value.items()]


# --- a node


class LabelledRandom:
    """Random bytes that depend on a label, on how often something was drawn under it, and on nothing else."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._label = b""
        self._drawn = 0
        self.uses: Counter[bytes] = Counter()

    def begin(self, label: bytes) -> None:
        """What is drawn from now on belongs to this label."""
        self._label = label
        self._drawn = 0

    def __call__(self, size: int) -> bytes:
        if size == 1:  # jitter: must differ, need not be fresh
            return sha256(b"jitter" + self._name.encode()).digest()[:1]
        if not self._drawn:
            self.uses[self._label] += 1
        self._drawn += 1
        text = f"{self._name}/{self.uses[self._label]}/{self._drawn}/{size}/".encode() + self._label
        return sha256(text).digest()[:size]


def _done() -> None:
    raise AssertionError("a job is run once")


class LocalNode:
    """One endpoint, the key agreements that run beside it, and its application, which takes every message at once.

    Attributes:
        arrived: contents handed out, in order. settled: (token, failure) of what was sent.
        jobs: running key agreements by label.
    """

    def __init__(self, endpoint: Endpoint, random: LabelledRandom) -> None:
        self.endpoint = endpoint
        self.random = random
        self.jobs: dict[bytes, Job[Any]] = {}
        self.arrived: list[bytes] = []
        self.settled: list[tuple[int, str | None]] = []

    def clone(self) -> LocalNode:
        """A copy that goes its own way."""
        other: LocalNode = clone(self, {})
        return other

    def fingerprint(self) -> Any:
        """Equal for nodes that behave alike from now on."""
        return fingerprint(self, {})

    def act(self, action: Action, now: float) -> list[tuple[bytes, Address]]:
        """Let one thing happen. Returns the datagrams that leave, with their destinations."""
        kind, data, source = action
        endpoint = self.endpoint
        label = kind.encode() + b"/" + data if kind != "timer" else f"timer/{now!r}".encode()
        self.random.begin(label)
        if kind == "deliver":
            assert source is not None
            endpoint.handle_batch(data, len(data), source, now)
            endpoint.handle_burst_end(now)
        elif kind == "job":
            endpoint.finish_job(self.jobs.pop(data), now)
        elif kind == "timer":
            endpoint.handle_timer(now)
        return self.drain(label, now)

    def command(
        self, label: str, call: Callable[..., Any], *args: Any, now: float, **more: Any
    ) -> list[tuple[bytes, Address]]:
        """Call a method of the endpoint and drain what came of it."""
        self.random.begin(label.encode())
        call(*args, now=now, **more)
        return self.drain(label.encode(), now)

    def drain(self, label: bytes, now: float) -> list[tuple[bytes, Address]]:
        endpoint = self.endpoint
        sent: list[tuple[bytes, Address]] = []
        again = True
        while again:
            again = False
            while (job := endpoint.next_job()) is not None:
                job.run()
                job._compute = _done  # what it was computed from need not be copied with it
                name = sha256(label).digest()[:8]
                while name in self.jobs:
                    name += b"+"
                self.jobs[name] = job
            while (transmit := endpoint.poll_transmit(now)) is not None:
                payload, size = transmit.payload, transmit.segment_size
                sent += [(payload[at : at + size], transmit.destination) for at in range(0, len(payload), size)]
            while (event := endpoint.next_event()) is not None:
                if isinstance(event, MessageArrived):
                    self.arrived.append(event.content)
                    endpoint.message_taken(event, now)
                    again = True
                elif isinstance(event, MessageSettled):
                    self.settled.append((event.token, event.failure))
        return sent
