"""STUN transactions over UDP (RFC 8489 section 6.2.1), and what a server answers.

A request is repeated after 0.5, 1, 2, 4, 8 and 16 seconds and given up 8 seconds after the last one. Its answer counts
only if it comes from the server asked, repeats the transaction id (96 random bits) and names an address of the family
that was used; everything else is a counted drop and the transaction goes on.

A server with several addresses can be asked to answer from another one (RFC 5780 section 4.4): whether that gets in
tells what the NAT filters. Nothing is ever sent to that other address.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from ipaddress import ip_address
from typing import Final, NamedTuple

from ..models import Address
from ..wire.stun import OBSOLETE, TRANSACTION_ID, StunClass, StunMessage

RTO: Final = 0.5
"""Seconds to the first repetition (RFC 8489 section 6.2.1); then twice as long each time."""
SENDS: Final = 7
"""Times a request is sent (Rc)."""
LAST_WAIT: Final = 16 * RTO
"""Seconds an answer to the last one is waited for (Rm)."""
PROBE_SENDS: Final = 2
PROBE_WAIT: Final = 1.0
"""The same for a request that is to be answered from elsewhere, of which silence is an answer too."""
MAX_TRANSACTIONS: Final = 64
"""Questions open at a time."""
UNKNOWN_ATTRIBUTE: Final = 420
UNANSWERED: Final = "it did not answer"
"""What a failure begins with if the question left and nothing came back."""


class Outcome(NamedTuple):
    """The end of one question.

    Attributes:
        server: whom we asked.
        mapped: our address as it sees it, or None if it failed.
        failure: why, in words; empty if it did not.
        rtt: seconds, or None if the question was repeated.
        other: another address it says it answers from (RFC 5780).
        source: where the answer came from, or None.
        at: when it ended.
    """

    server: Address
    mapped: Address | None
    failure: str
    rtt: float | None
    other: Address | None
    source: Address | None
    at: float


def failed(server: Address, why: str, now: float) -> Outcome:
    """The end of a question that was not answered."""
    return Outcome(server, None, why, None, None, None, now)


class _Transaction:
    __slots__ = ("elsewhere", "last_wait", "limit", "on_end", "request", "sends", "sent_at", "server", "wait", "when")

    def __init__(
        self,
        server: Address,
        request: bytes,
        elsewhere: Address | None,
        on_end: Callable[[Outcome], None],
        now: float,
    ) -> None:
        self.server = server
        self.request = request
        self.elsewhere = elsewhere
        self.on_end = on_end
        self.limit, self.last_wait = (SENDS, LAST_WAIT) if elsewhere is None else (PROBE_SENDS, PROBE_WAIT)
        self.sends = 0
        self.sent_at = self.when = now
        self.wait = RTO


class StunClient:
    """Questions to STUN servers, any number at a time up to ``MAX_TRANSACTIONS``.

    Args:
        random: cryptographic randomness.
        drops: discarded input is counted here.
        send: takes a datagram and where it goes.
    """

    def __init__(
        self, random: Callable[[int], bytes], drops: Counter[str], send: Callable[[bytes, Address], None]
    ) -> None:
        self._random = random
        self._drops = drops
        self._send = send
        self._open: dict[bytes, _Transaction] = {}

    def ask(
        self, server: Address, on_end: Callable[[Outcome], None], now: float, elsewhere: Address | None = None
    ) -> bytes:
        """Ask a server for our address; ``on_end`` is called once, during a later call.

        Args:
            elsewhere: where the server is to answer from; it may answer from its own address nevertheless.

        Returns:
            The transaction id, for :meth:`cancel`.

        Raises:
            ValueError: too many questions are open.
        """
        if len(self._open) >= MAX_TRANSACTIONS:
            raise ValueError(f"more than {MAX_TRANSACTIONS} questions to STUN servers at a time")
        transaction_id = self._random(TRANSACTION_ID)
        request = StunMessage(
            StunClass.REQUEST,
            transaction_id,
            change_ip=elsewhere is not None and elsewhere.host != server.host,
            change_port=elsewhere is not None and elsewhere.port != server.port,
        ).encode()
        transaction = self._open[transaction_id] = _Transaction(server, request, elsewhere, on_end, now)
        self._transmit(transaction, now)
        return transaction_id

    def cancel(self, transaction_id: bytes) -> None:
        """The answer is no longer wanted. Ended ones are ignored."""
        self._open.pop(transaction_id, None)

    def on_response(self, message: StunMessage, source: Address, now: float) -> None:
        """A success or error response came."""
        transaction = self._open.get(message.transaction_id)
        if transaction is None:
            self._drops["stun_unasked"] += 1
            return
        if source not in (transaction.server, transaction.elsewhere):
            self._drops["stun_wrong_source"] += 1
            return
        mapped, failure = message.address, ""
        if message.kind is StunClass.ERROR:
            if message.error is None:
                self._drops["stun_bad_answer"] += 1
                return
            mapped, failure = None, f"it answered with error {message.error[0]}"
        elif mapped is None or not is_sound(mapped, source) or not OBSOLETE.issuperset(message.not_understood):
            self._drops["stun_bad_answer"] += 1
            return
        del self._open[message.transaction_id]
        rtt = now - transaction.sent_at if transaction.sends == 1 else None
        transaction.on_end(Outcome(transaction.server, mapped, failure, rtt, message.other, source, now))

    def next_timer(self) -> float | None:
        """When :meth:`on_timer` must be called."""
        return min((transaction.when for transaction in self._open.values()), default=None)

    def on_timer(self, now: float) -> None:
        """Repeat what was not answered; give up what was repeated often enough."""
        due = [(key, transaction) for key, transaction in self._open.items() if transaction.when <= now]
        for key, transaction in due:
            if transaction.sends < transaction.limit:
                self._transmit(transaction, now)
            else:
                del self._open[key]
                transaction.on_end(failed(transaction.server, UNANSWERED, now))

    def _transmit(self, transaction: _Transaction, now: float) -> None:
        self._send(transaction.request, transaction.server)
        transaction.sends += 1
        transaction.sent_at = now
        transaction.when = now + (transaction.wait if transaction.sends < transaction.limit else transaction.last_wait)
        transaction.wait *= 2


def is_sound(mapped: Address, server: Address) -> bool:
    """Whether somebody at ``server`` can have seen us there: an address of one host, of the family we used."""
    ip, asked = ip_address(mapped.host), ip_address(server.host)
    nobody = ip.is_unspecified or ip.is_multicast or (ip.is_loopback and not asked.is_loopback)
    return ip.version == asked.version and mapped.port != 0 and not nobody


def answer_to(request: StunMessage, source: Address) -> bytes:
    """What a server says to a request: no byte more than RFC 8489 demands, at most 2.2 times the request.

    It has one address, so a request to be answered from another one is refused, as are unknown required attributes.
    """
    refused = request.not_understood
    if request.change_ip or request.change_port:
        refused = (*refused, 0x0003)  # CHANGE-REQUEST (RFC 5780 section 6.1)
    if refused:
        answer = StunMessage(
            StunClass.ERROR,
            request.transaction_id,
            error=(UNKNOWN_ATTRIBUTE, ""),
            unknown=refused,
            fingerprint=request.fingerprint,
        )
    else:
        answer = StunMessage(
            StunClass.SUCCESS, request.transaction_id, xor_mapped=source, fingerprint=request.fingerprint
        )
    return answer.encode()
