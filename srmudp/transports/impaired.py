"""A bad network for tests: loses, repeats, reorders and damages what a real socket receives."""

from __future__ import annotations

import random
from collections import Counter, deque

from ..models import Address
from .base import Batch, Transport, opener_of, spread, spread_fileno

_MAX_RUN = 64
_MAX_RUN_BYTES = 65_535
_LONGEST_HOLD = 3


def impaired(
    *, loss: float = 0.0, duplicate: float = 0.0, reorder: float = 0.0, corrupt: float = 0.0, seed: int = 0
) -> Impairment:
    """What to give to ``Config(transport=...)`` so that a program can be tried on a bad network without having one.

    It acts on every single datagram that is received; give it to both sides to harm both directions. The same seed and
    the same arrivals give the same result; sockets made from one config get different, repeatable sequences.

    Args:
        loss: fraction of datagrams dropped, 0.0 to 1.0.
        duplicate: fraction delivered twice.
        reorder: fraction held back until one to three later datagrams have passed, or nothing more has come.
        corrupt: fraction delivered with one random bit inverted.
        seed: start of the random sequence.

    Returns:
        A callable that wraps a transport. Its ``counts`` say what was done to whom.

    Raises:
        ValueError: a fraction is not between 0 and 1.

    Example::

        bad = impaired(loss=0.05, reorder=0.02)
        with MultiHolepunchSocket(config=Config(transport=bad)) as sock:
            ...
        print(bad.counts)           # Counter({'received': 5000, 'lost': 251, 'reordered': 97})
    """
    fractions = {"loss": loss, "duplicate": duplicate, "reorder": reorder, "corrupt": corrupt}
    for name, value in fractions.items():
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} must be between 0 and 1, not {value!r}")
    return Impairment(fractions, seed)


class Impairment:
    """Wraps transports; made by :func:`impaired`.

    Attributes:
        transports: the wrapped transports in the order they were made.
    """

    def __init__(self, fractions: dict[str, float], seed: int) -> None:
        self._fractions = fractions
        self._seed = seed
        self.transports: list[ImpairedTransport] = []

    def __call__(self, inner: Transport) -> ImpairedTransport:
        transport = ImpairedTransport(inner, **self._fractions, seed=f"{self._seed}/{len(self.transports)}")
        self.transports.append(transport)
        return transport

    @property
    def counts(self) -> Counter[str]:
        """``received``, ``lost``, ``duplicated``, ``reordered`` and ``corrupted`` of all transports together."""
        return sum((transport.counts for transport in self.transports), Counter())


class ImpairedTransport:
    """A transport that receives badly and sends well.

    Threads: as the Transport Protocol says. Read until ``receive_batch`` returns None: it may have more to give while
    the descriptor is not readable.

    Attributes:
        received: datagrams the inner transport delivered.
        lost: datagrams dropped.
        duplicated: datagrams delivered twice.
        reordered: copies that at least one later datagram overtook.
        corrupted: copies with an inverted bit.
    """

    def __init__(
        self,
        inner: Transport,
        *,
        loss: float = 0.0,
        duplicate: float = 0.0,
        reorder: float = 0.0,
        corrupt: float = 0.0,
        seed: int | str = 0,
    ) -> None:
        self.max_segments = inner.max_segments
        self.received = self.lost = self.duplicated = self.reordered = self.corrupted = 0
        self._inner = inner
        self.send_opener = opener_of(inner)
        self._loss, self._duplicate, self._reorder, self._corrupt = loss, duplicate, reorder, corrupt
        self._harmless = not (loss or duplicate or reorder or corrupt)
        self._random = random.Random(seed)
        self._ready: deque[Batch] = deque()
        self._held: list[_Held] = []
        self._closed = False

    def receive_batch(self) -> Batch | None:
        """The next batch of survivors; None only once nothing is held back any more and the inner one would block."""
        while not self._closed:
            if self._ready:
                return self._ready.popleft()
            batch = self._inner.receive_batch()
            if batch is not None:
                if self._harmless:
                    self.received += -(-len(batch.buffer) // batch.segment_size)
                    return batch
                self._ready.extend(_join(self._impair(batch)))
            elif self._held:
                # No later datagram may ever come to release them: delay is allowed, loss is not.
                self._ready.extend(_join([(held.datagram, held.source) for held in self._held]))
                self._held.clear()
            else:
                return None
        return None

    def _impair(self, batch: Batch) -> list[tuple[bytes, Address]]:
        """What comes out for what came in, in order."""
        chance = self._random.random
        source, size = batch.source, batch.segment_size
        out: list[tuple[bytes, Address]] = []
        for start in range(0, len(batch.buffer), size):
            datagram = batch.buffer[start : start + size]
            self.received += 1
            if chance() < self._loss:
                self.lost += 1
                continue
            copies = 1
            if chance() < self._duplicate:
                self.duplicated += 1
                copies = 2
            for _ in range(copies):
                copy = datagram
                if chance() < self._corrupt:
                    self.corrupted += 1
                    copy = self._flip(datagram)
                if chance() < self._reorder:
                    self._held.append(_Held(copy, source, self._random.randint(1, _LONGEST_HOLD)))
                else:
                    out.append((copy, source))
                    if self._held:
                        self._release(out)
        return out

    def _release(self, out: list[tuple[bytes, Address]]) -> None:
        """One more datagram overtook those held back: append the ones that waited long enough."""
        waiting: list[_Held] = []
        for held in self._held:
            self.reordered += not held.overtaken
            held.overtaken += 1
            if held.overtaken >= held.limit:
                out.append((held.datagram, held.source))
            else:
                waiting.append(held)
        self._held = waiting

    def _flip(self, datagram: bytes) -> bytes:
        bit = self._random.randrange(len(datagram) * 8)
        damaged = bytearray(datagram)
        damaged[bit >> 3] ^= 1 << (bit & 7)
        return bytes(damaged)

    @property
    def counts(self) -> Counter[str]:
        """The counters by name, those above zero."""
        names = ("received", "lost", "duplicated", "reordered", "corrupted")
        return +Counter({name: getattr(self, name) for name in names})

    def fileno(self) -> int:
        """The inner transport's descriptor."""
        return self._inner.fileno()

    def send_batch(self, payload: bytes, segment_size: int, destination: Address) -> int:
        """Send by the inner transport, unharmed."""
        return self._inner.send_batch(payload, segment_size, destination)

    def spread(self, remote: Address, count: int, port: int = 0) -> int:
        """The inner transport's, if it has one."""
        return spread(self._inner, remote, count, port)[0]

    @property
    def spread_fileno(self) -> int:
        """The inner transport's."""
        return spread_fileno(self._inner)

    def local_address(self) -> Address:
        """Where the inner transport is bound."""
        return self._inner.local_address()

    @property
    def errors(self) -> dict[str, int]:
        """The inner transport's."""
        return self._inner.errors

    def close(self) -> None:
        """Close the inner transport; what was held back is gone. Idempotent."""
        self._closed = True
        self._inner.close()


class _Held:
    """A datagram kept back until ``limit`` others overtook it."""

    __slots__ = ("datagram", "limit", "overtaken", "source")

    def __init__(self, datagram: bytes, source: Address, limit: int) -> None:
        self.datagram = datagram
        self.source = source
        self.limit = limit
        self.overtaken = 0


def _join(datagrams: list[tuple[bytes, Address]]) -> list[Batch]:
    """Batches as receive offload forms them: one source, equal sizes, the last of each maybe shorter."""
    batches: list[Batch] = []
    run: list[bytes] = []
    size = total = 0
    source: Address | None = None
    for datagram, sender in datagrams:
        length = len(datagram)
        # A run ends with a shorter datagram: len(run) * size != total then.
        fits = sender == source and length <= size and len(run) * size == total
        if run and (not fits or len(run) >= _MAX_RUN or total + length > _MAX_RUN_BYTES):
            assert source is not None
            batches.append(Batch(b"".join(run), size, source))
            run = []
            total = 0
        if not run:
            size, source = length, sender
        run.append(datagram)
        total += length
    if run and source is not None:
        batches.append(Batch(b"".join(run), size, source))
    return batches
