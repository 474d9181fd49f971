"""What the sockets room asks of anything that moves datagrams."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from ..models import Address


class Batch(NamedTuple):
    """Datagrams of one sender, back to back: each ``segment_size`` bytes, the last may be shorter."""

    buffer: bytes
    segment_size: int
    source: Address


Opening = Callable[[bytes, Address, int], int]
"""Sends one datagram to a destination with a hop limit; returns its length, whatever became of it."""


class Transport(Protocol):
    """A non-blocking mover of datagrams. Understands none of them.

    Of ``receive_batch`` and of ``send_batch`` each is called by one thread at a time (the driver's locks see to that);
    the two may run at once.

    A transport may also have ``receive_lone()``: as ``receive_batch``, but it spares what looking for more would cost,
    and after it the descriptor is readable if there is more. And ``send_opener(datagram, destination, hop_limit)``,
    called as ``send_batch`` is and to return ``len(datagram)``: one that dies after so many routers, to open the NATs
    on our side of the way. What the system will not take is dropped. And ``spread(remote, count, port)`` and
    ``spread_fileno``: more sockets, which any thread may ask for; see ``fan.py``.
    """

    max_segments: int
    """Datagrams one ``send_batch`` should carry at most: 1 without segmentation offload."""

    def fileno(self) -> int:
        """The descriptor to wait on for readability and writability."""
        ...

    def receive_batch(self) -> Batch | None:
        """The next batch, or None when reading would block. Never raises because of the network.

        Until it says None there may be more, even if the descriptor is not readable.
        """
        ...

    def send_batch(self, payload: bytes, segment_size: int, destination: Address) -> int:
        """Send ``payload`` cut into datagrams of ``segment_size``.

        Returns:
            Bytes handed over. Fewer than ``len(payload)`` (always a multiple of ``segment_size``) means that the rest
            must wait until the descriptor is writable. What the system refuses for good (no route, no buffer, too
            long) is counted in ``errors`` and reported as handed over: to the protocol it is loss.
        """
        ...

    def local_address(self) -> Address:
        """Where the transport is bound."""
        ...

    @property
    def errors(self) -> dict[str, int]:
        """Refusals by the system, counted by errno name."""
        ...

    def close(self) -> None:
        """Release the descriptor. Idempotent; ``receive_batch`` then returns None."""
        ...


def opener_of(transport: Transport) -> Opening:
    """What sends openers by a transport; they are lost if it cannot, for with a usual hop limit they would do harm."""
    send_opener: Opening | None = getattr(transport, "send_opener", None)
    return send_opener or (lambda datagram, destination, hop_limit: len(datagram))


def spread(transport: Transport, remote: Address, count: int, port: int = 0) -> tuple[int, int]:
    """Have a transport keep ``count`` more sockets towards a remote, if it can; with ``port`` a new one there.

    Returns:
        How many there are, and the descriptor to watch besides, or -1.
    """
    more: Callable[[Address, int, int], int] | None = getattr(transport, "spread", None)
    return (0 if more is None else more(remote, count, port)), spread_fileno(transport)


def spread_fileno(transport: Transport) -> int:
    """The descriptor of a transport's further sockets, or -1."""
    descriptor: int = getattr(transport, "spread_fileno", -1)
    return descriptor
