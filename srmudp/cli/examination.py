"""What ``srmudp doctor`` does to find out: asks, listens, waits. What it means is :mod:`srmudp.nat.diagnosis`'s."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from time import monotonic, sleep, time
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from ..config import STUN_SERVERS, Config
from ..exceptions import DecodeError, DiscoveryFailed
from ..models import Address, PublicAddress
from ..nat.diagnosis import Findings, Lifetime
from ..routers.keeper import which_answer
from ..sockets.discovery import parse_servers, way_to
from ..sockets.multi import MultiHolepunchSocket
from ..transports.udp import UdpTransport
from ..wire.stun import StunClass, StunMessage, padded, parse_stun

FAR: Final = {4: Address("192.0.2.1", 9), 6: Address("2001:db8::1", 9)}
"""Nobody's. Nothing is sent there: the system only says from which address it would be."""
SIZES: Final = {
    4: (1472, 1464, 1452, 1432, 1412, 1392, 1372, 1252, 1200, 1000),
    6: (1452, 1444, 1432, 1412, 1392, 1372, 1232, 1200, 1000),
}
"""UDP payloads that are tried: a full Ethernet, PPPoE, and tunnels of the usual kinds, down to what srmudp needs."""
SILENCES: Final = (15.0, 30.0, 60.0, 120.0, 180.0, 300.0, 600.0)
"""Seconds after which a port is looked at again."""
FIREWALLS: Final = ("ufw", "firewall-cmd", "nft")
_ROUND = 0.3
_TCP_WAIT = 2.0
_HAIRPIN_WAIT = 1.2
_LOOPBACK_WAIT = 5.0
_SMALL = Config(max_mtu=1472)


class Options(NamedTuple):
    """What to examine.

    Attributes:
        servers: STUN servers; empty for the public ones.
        network: False asks nobody.
        port: local port; 0 for any.
        timeout: seconds to wait for the first answer.
        lifetime: seconds of silence to try at most; None does not examine it.
    """

    servers: tuple[str, ...] = ()
    network: bool = True
    port: int = 0
    timeout: float = 5.0
    lifetime: float | None = None

    @property
    def asked(self) -> tuple[str, ...]:
        """Whom we ask."""
        return (self.servers or STUN_SERVERS) if self.network else ()


def examine(options: Options, say: Callable[[str], None]) -> Findings:
    """Find out what can be found out.

    Args:
        say: takes a line for whoever waits.

    Raises:
        ValueError: a server is malformed.
        OSError: the port is taken.
    """
    wall, began = time(), monotonic()
    found: dict[str, Any] = {"asked": options.asked, "own": own(), "broken": loopback()}
    if options.network:
        _outside(options, say, found)
    jump = (time() - wall) - (monotonic() - began)
    return Findings(
        **found,
        clock_jump=jump,
        wall=wall,
        platform=sys.platform,
        firewalls=tuple(tool for tool in FIREWALLS if shutil.which(tool)) if os.name == "posix" else (),
    )


def own() -> dict[int, str]:
    """Our addresses towards the world, by IP version. Sends nothing."""
    found = {}
    for version, far in FAR.items():
        way = way_to(far, Address("::" if version == 6 else "0.0.0.0", 0))
        if way is not None and not (ip_address(way.host).is_link_local or ip_address(way.host).is_loopback):
            found[version] = way.host
    return found


def loopback() -> str:
    """Why two sockets here do not talk to each other; empty if they do."""
    try:
        with (
            MultiHolepunchSocket(host="127.0.0.1", timeout=_LOOPBACK_WAIT) as one,
            MultiHolepunchSocket(host="127.0.0.1", timeout=_LOOPBACK_WAIT) as two,
        ):
            one.add_peer("two", f"{two.peer_id}@127.0.0.1:{two.port}")
            two.add_peer("one", f"{one.peer_id}@127.0.0.1:{one.port}")
            one.send(b"?", "two")
            if two.receive(_LOOPBACK_WAIT) is not None:
                return ""
            return one.connections_status["two"].failure or "nothing arrives"
    except OSError as error:
        return str(error)


def _outside(options: Options, say: Callable[[str], None], found: dict[str, Any]) -> None:
    with (
        MultiHolepunchSocket(options.port, serve_stun=True, config=_SMALL) as sock,
        MultiHolepunchSocket(serve_stun=True, config=_SMALL) as other,
    ):
        servers = list(options.asked)
        try:
            seen = sock.discover(servers, options.timeout, filtering=True)
        except DiscoveryFailed as failed:
            found["failures"] = failed.failures
            found["send_errors"] = {
                name.removeprefix("transport_"): count for name, count in sock.drops.items() if "transport_E" in name
            }
            say("Nobody answered: trying whether TCP gets through to the same servers ...")
            found["tcp"] = _tcp(servers)
            return
        public = {version: one for version, one in ((4, seen.ipv4), (6, seen.ipv6)) if one is not None}
        for server in seen.answers:
            way = way_to(server, Address("::" if ":" in server.host else "0.0.0.0", 0))
            if way is not None:
                found["own"].setdefault(6 if ":" in server.host else 4, way.host)
        found |= {
            "public": public,
            "mapping": seen.mapping,
            "filtering": seen.filtering,
            "translated": seen.translated,
            "answered": tuple(str(server) for server in seen.answers),
            "failures": dict(seen.failures),
        }
        with ThreadPoolExecutor(1, "srmudp-router") as pool:
            routed = seen.ipv4 is not None and bool(seen.translated)
            mappers = pool.submit(which_answer) if routed else None  # beside the others: silence takes its time
            say("Trying what sizes get through ...")
            found["mtu"], found["mtu_refused"] = datagrams(list(seen.answers))
            if mappers is not None:
                say("Trying whether your router leads back in whoever knocks from within ...")
                found["hairpin"] = _hairpin(sock, other, seen)
                say("Asking your router whether it forwards ports (it changes nothing) ...")
                found["mappers"] = mappers.result()
    if options.lifetime is not None:
        found["lifetime"] = lifetime(next(iter(seen.answers)), options.lifetime, say)


# --- each of it


class Prober:
    """A UDP socket that asks STUN servers by itself, so that what is sent can be of any size. Don't-fragment is set."""

    def __init__(self) -> None:
        self._transport = UdpTransport("", 0, gso=False)

    @property
    def port(self) -> int:
        """Our own."""
        return self._transport.local_address().port

    @property
    def errors(self) -> dict[str, int]:
        """What the system said."""
        return self._transport.errors

    def ask(self, server: Address, size: int = 0, rounds: int = 3) -> Address | None:
        """Our address as a server sees it, or None if nothing came back."""
        for answer, seen in self.ask_all([(server, size)], rounds):
            return seen if answer else None
        return None

    def ask_all(
        self, questions: Sequence[tuple[Address, int]], rounds: int = 3
    ) -> Iterator[tuple[tuple[Address, int], Address | None]]:
        """Ask so many questions at once, again what was not answered; yields what was, as it comes."""
        waiting: dict[bytes, tuple[Address, int]] = {os.urandom(12): question for question in questions}
        for _ in range(rounds):
            for name, (server, size) in waiting.items():
                request = padded(StunMessage(StunClass.REQUEST, name).encode(), size)
                self._transport.send_batch(request, len(request), server)
            until = monotonic() + _ROUND
            while waiting and (left := until - monotonic()) > 0:
                if not select.select([self._transport.fileno()], [], [], left)[0]:
                    break
                while (batch := self._transport.receive_batch()) is not None:
                    with contextlib.suppress(DecodeError):
                        message = parse_stun(batch.buffer)
                        question = waiting.get(message.transaction_id)
                        answers = message.kind in (StunClass.SUCCESS, StunClass.ERROR)
                        if question is not None and answers and batch.source == question[0]:
                            del waiting[message.transaction_id]
                            yield question, message.address
            if not waiting:
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._transport.close()


def datagrams(servers: Sequence[Address]) -> tuple[dict[int, int], dict[int, int]]:
    """The largest UDP payloads that servers answered, and the smallest beyond them that none did, by IP version."""
    largest: dict[int, int] = {}
    refused: dict[int, int] = {}
    with Prober() as prober:
        for sizes in (slice(1), slice(1, None)):  # the largest alone at first: servers limit their answers
            asked = [(one, 6 if ":" in one.host else 4) for one in servers[:3]]
            questions = [
                (one, size) for one, version in asked if version not in largest for size in SIZES[version][sizes]
            ]
            for (server, size), _ in prober.ask_all(questions):
                version = 6 if ":" in server.host else 4
                largest[version] = max(size, largest.get(version, 0))
    for version, size in largest.items():
        beyond = [other for other in SIZES[version] if other > size]
        if beyond:
            refused[version] = min(beyond)
    return largest, refused


def _tcp(servers: Sequence[str]) -> bool:
    """Whether anything comes back over TCP from the same servers; a refusal is an answer."""

    def reaches(server: Address | tuple[str, int]) -> bool:
        try:
            socket.create_connection((server[0], server[1]), timeout=_TCP_WAIT).close()
        except ConnectionRefusedError:
            return True
        except (OSError, UnicodeError):
            return False
        return True

    addresses, hosts = parse_servers(servers)
    pool = ThreadPoolExecutor(len(addresses) + len(hosts))
    try:
        return any(pool.map(reaches, [*addresses, *hosts]))
    finally:
        pool.shutdown(wait=False)


def _hairpin(sock: MultiHolepunchSocket, other: MultiHolepunchSocket, seen: PublicAddress) -> bool | None:
    """Whether two sockets behind our router reach each other by their outside addresses: each asks the other."""
    assert seen.ipv4 is not None
    try:
        there = other.discover([str(server) for server in seen.answers if ":" not in server.host][:1], 2.0).ipv4
    except DiscoveryFailed:
        return None
    if there is None:
        return None
    reached = threading.Event()

    def ask(one: MultiHolepunchSocket, where: Address) -> None:
        with contextlib.suppress(OSError):  # DiscoveryFailed
            one.discover(str(where), _HAIRPIN_WAIT)
            reached.set()

    threads = [threading.Thread(target=ask, args=args) for args in ((sock, there), (other, seen.ipv4))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return reached.is_set()


def lifetime(
    server: Address,
    longest: float,
    say: Callable[[str], None],
    silences: Sequence[float] = SILENCES,
    wait: Callable[[float], None] = sleep,
) -> Lifetime | None:
    """How long a mapping lives: several ports are silent for different times, then each is looked at again.

    Args:
        wait: sleeps.

    Returns:
        None if the server did not answer.
    """
    tried = [silence for silence in silences if silence < longest] + [longest]
    say(f"Being silent for {longest:g} seconds, to see what the router forgets (Ctrl-C ends it) ...")
    with contextlib.ExitStack() as stack:
        probers = [stack.enter_context(Prober()) for _ in tried]
        before = [prober.ask(server) for prober in probers]
        began = monotonic()
        at_least, at_most, certain = 0.0, None, False
        for silence, prober, mapped in zip(tried, probers, before, strict=True):
            if mapped is None:
                continue
            wait(max(0.0, began + silence - monotonic()))
            after = prober.ask(server)
            # A router that gives the port inside also outside gives the same again: nothing could be seen.
            certain = certain or mapped.port != prober.port
            if after is None:
                continue
            if after != mapped:
                at_most, certain = silence, True
                break
            at_least = silence
            say(f"... still the same after {silence:g} s")
        if not any(before):
            return None
        return Lifetime(at_least, at_most, certain)
