"""Port mapping over PCP, or NAT-PMP where the router is older: two or four short datagrams to the default router."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

from ..exceptions import DecodeError
from ..models import Address
from ..wire.portmap import (
    MAX_ANSWER,
    NONCE,
    PORT,
    RouterAnswer,
    natpmp_address_request,
    natpmp_map_request,
    parse_router_answer,
    pcp_announce_request,
    pcp_map_request,
)
from .asking import LIFETIME, Grant, RouterError, checked
from .gateway import default_gateway

_FIRST_WAIT: Final = 0.25
"""Seconds to the first repetition, then twice as long each time (RFC 6886 section 3.1)."""
_LAST_PATIENCE: Final = 0.5
"""The same for that of taking a mapping back: it ends by itself anyway."""
_LOOK: Final = 0.25
"""Seconds between looks whether anybody still waits."""


def find_pcp(given_up: Callable[[], bool] = lambda: False, gateway: tuple[str, int] | None = None) -> PcpRouter:
    """The default router, if it speaks PCP or NAT-PMP.

    Raises:
        RouterError: it does not.
    """
    if gateway is None:
        host = default_gateway()
        if host is None:
            raise RouterError("there is no default router, or the system does not tell its address")
        gateway = host, PORT
    router = PcpRouter(gateway, given_up)
    try:
        router.greet()
    except BaseException:
        router.abandon()
        raise
    return router


class PcpRouter:
    """A router that speaks PCP or NAT-PMP; :meth:`greet` it first."""

    patience = 1.75
    """Seconds one answer is waited for: three datagrams."""

    def __init__(self, gateway: tuple[str, int], given_up: Callable[[], bool]) -> None:
        self.protocol = "PCP"
        self.host = gateway[0]
        self._given_up = given_up
        self._nonce = os.urandom(NONCE)
        self._mapped: tuple[int, Address] | None = None
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.connect(gateway)  # hears nobody else then
            self._client = str(self._socket.getsockname()[0])
        except OSError as error:
            self._socket.close()
            raise RouterError(f"no way to the router {self.host}: {error}") from error

    def greet(self) -> None:
        """Find out which of the two it speaks. Changes nothing there."""
        requests = pcp_announce_request(self._client), natpmp_address_request()
        self.protocol = self._ask(requests, lambda answer: answer.result == 0).protocol

    def map(self, port: int, outside: Address | None) -> Grant:
        """See :class:`~.asking.Router`."""
        if self.protocol == "PCP":
            answer = self._ask_pcp(port, outside, LIFETIME)
            grant = checked(answer.host, answer.port, answer.lifetime)
        else:
            host = self._ask([natpmp_address_request()], lambda answer: not answer.is_map)
            self._check(host)
            wish = port if outside is None else outside.port
            answer = self._ask([natpmp_map_request(port, wish, LIFETIME)], lambda one: _is_about(one, port))
            self._check(answer)
            grant = checked(host.host, answer.port, answer.lifetime)
        self._mapped = port, grant.address
        return grant

    def unmap(self) -> None:
        """See :class:`~.asking.Router`."""
        mapped, self._mapped = self._mapped, None
        if mapped is None:
            return
        port = mapped[0]
        if self.protocol == "PCP":
            self._ask_pcp(port, None, 0, _LAST_PATIENCE)
        else:
            self._ask([natpmp_map_request(port, 0, 0)], lambda one: _is_about(one, port), _LAST_PATIENCE)

    def close(self, limit: float) -> None:
        """See :class:`~.asking.Router`."""
        self._given_up = _never
        try:
            self.unmap()
        except RouterError:
            pass
        self._socket.close()

    def abandon(self) -> None:
        """See :class:`~.asking.Router`."""
        self._socket.close()

    def _ask_pcp(
        self, port: int, outside: Address | None, lifetime: int, patience: float | None = None
    ) -> RouterAnswer:
        def is_ours(answer: RouterAnswer) -> bool:
            return answer.protocol == "PCP" and answer.is_map and (not answer.nonce or answer.nonce == self._nonce)

        answer = self._ask([pcp_map_request(self._nonce, self._client, port, outside, lifetime)], is_ours, patience)
        self._check(answer)
        if answer.internal_port != port:
            raise RouterError(f"the router answered for port {answer.internal_port}")
        return answer

    def _check(self, answer: RouterAnswer) -> None:
        if answer.result:
            raise RouterError(f"the router refuses: {answer.reason}")

    def _ask(
        self, requests: Sequence[bytes], wanted: Callable[[RouterAnswer], bool], patience: float | None = None
    ) -> RouterAnswer:
        """Send, again and again, until the answer comes."""
        now = monotonic()
        deadline, again, wait = now + (self.patience if patience is None else patience), now, _FIRST_WAIT
        try:
            while now < deadline and not self._given_up():
                if now >= again:
                    for request in requests:
                        self._socket.send(request)
                    again, wait = again + wait, 2 * wait
                self._socket.settimeout(max(0.001, min(again, deadline, now + _LOOK) - now))
                try:
                    answer = parse_router_answer(self._socket.recv(MAX_ANSWER + 1))
                except (TimeoutError, DecodeError):
                    pass
                else:
                    if wanted(answer):
                        return answer
                now = monotonic()
        except OSError as error:
            raise RouterError(f"the router {self.host} speaks neither PCP nor NAT-PMP ({error.strerror})") from error
        raise RouterError(f"the router {self.host} did not answer, so it speaks neither PCP nor NAT-PMP")


def _never() -> bool:
    return False


def _is_about(answer: RouterAnswer, port: int) -> bool:
    return answer.protocol == "NAT-PMP" and answer.is_map and (answer.result != 0 or answer.internal_port == port)
