"""What every congestion controller is told and what it decides. All sizes bytes, times seconds.

How it is driven: ``on_sent`` after each batch, ``on_ack`` once for each acknowledgement processed, ``on_lost`` where a
timer (not an acknowledgement) declared loss, ``on_persistent_congestion`` by RFC 9002 section 7.6. ``window`` and
``pacing_rate`` may be read at any time. :mod:`.congestion` has the default and :mod:`.cubic` the other one.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol


class AckSample(NamedTuple):
    """What one acknowledgement taught.

    Attributes:
        acked_bytes: newly acknowledged.
        lost_bytes: declared lost by this acknowledgement.
        newest_lost_sent: when the latest sent of those was sent; ``-inf`` if none was lost. Losses older than the last
            reduction do not reduce again (RFC 9002 section 7.3.1).
        in_flight: under way after this acknowledgement.
        delivered: all bytes ever acknowledged on the path, these included.
        delivered_at_send: the value ``delivered`` had when the newest packet acknowledged here was sent. Rounds are
            counted by it.
        rtt: the newest RTT sample; None if this acknowledgement gave none.
        smoothed_rtt: None before the first sample.
        delivery_rate: bytes per second by the delivery rate draft; None without a valid sample.
        app_limited: the rate sample was taken while the application had too little to send.
        scatter: mean difference of successive RTTs, seconds; 0.0 if unknown.
    """

    acked_bytes: int
    lost_bytes: int
    newest_lost_sent: float
    in_flight: int
    delivered: int
    delivered_at_send: int
    rtt: float | None
    smoothed_rtt: float | None
    delivery_rate: float | None
    app_limited: bool
    scatter: float = 0.0


class Controller(Protocol):
    """Decides window and rate of one path. Calls are made under the endpoint lock; ``now`` never goes back."""

    @property
    def name(self) -> str:
        """The name :func:`make_controller` knows it by."""

    @property
    def window(self) -> int:
        """Bytes that may be under way."""

    @property
    def pacing_rate(self) -> float:
        """Bytes per second for the pacer; ``inf`` before there is an RTT sample."""

    @property
    def state(self) -> str:
        """The phase in one word, for traces."""

    def on_sent(self, now: float, size: int, in_flight: int, app_limited: bool) -> None:
        """A batch of ``size`` bytes left; ``in_flight`` counts it. ``app_limited``: nothing more waits to be sent."""

    def on_ack(self, now: float, sample: AckSample) -> None:
        """An acknowledgement was processed."""

    def on_lost(self, now: float, lost_bytes: int, newest_lost_sent: float, in_flight: int) -> None:
        """A timer declared loss; ``in_flight`` is what remains."""

    def on_late(self, size: int, sent_at: float) -> None:
        """``size`` bytes sent at ``sent_at`` and declared lost arrived after all: that loss was none."""

    def on_persistent_congestion(self, now: float) -> None:
        """Everything sent over a long time was lost (RFC 9002 section 7.6)."""

    def set_segment_size(self, segment_size: int) -> None:
        """Path MTU discovery found another datagram size."""


def initial_window(segment_size: int) -> int:
    """RFC 9002 section 7.2."""
    return min(10 * segment_size, max(2 * segment_size, 14_720))
