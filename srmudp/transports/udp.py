"""The UDP socket: family, dual stack, buffers, don't-fragment, and addresses in one normal form.

On a dual-stack socket the system spells IPv4 addresses as IPv6 (``::ffff:192.0.2.1``). Nobody above sees that: an
:class:`~srmudp.models.Address` holds plain IPv4, or canonical IPv6 with ``%<interface number>`` where it is link-local.
"""

from __future__ import annotations

import errno
import socket
import sys

from ..models import Address
from .base import Batch
from .batch import BatchSocket, SockAddr
from .fan import Fan

_tuple = tuple.__new__  # half the cost of calling a NamedTuple's class

_DONT_FRAGMENT = {
    # platform prefix -> (level, option, value), numbers from the systems' headers; Python names few of them.
    # Linux: IP_MTU_DISCOVER and IPV6_MTU_DISCOVER = PMTUDISC_PROBE: never fragment, and ignore the path MTU that ICMP
    # claims. Elsewhere IP_DONTFRAG and IPV6_DONTFRAG.
    "linux": ((socket.IPPROTO_IP, 10, 3), (socket.IPPROTO_IPV6, 23, 3)),
    "android": ((socket.IPPROTO_IP, 10, 3), (socket.IPPROTO_IPV6, 23, 3)),
    "darwin": ((socket.IPPROTO_IP, 28, 1), (socket.IPPROTO_IPV6, 62, 1)),
    "freebsd": ((socket.IPPROTO_IP, 67, 1), (socket.IPPROTO_IPV6, 62, 1)),
    "win32": ((socket.IPPROTO_IP, 14, 1), (socket.IPPROTO_IPV6, 14, 1)),
}
_NO_DUAL_STACK = frozenset(
    {errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EADDRNOTAVAIL, errno.EINVAL}
)
_MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96, RFC 4291 section 2.5.5.2
_CACHE_LIMIT = 4096
"""Addresses cached in each direction. A full cache is emptied: spoofed sources cost conversions, never memory."""
_LEAST_BUFFER = 64 * 1024


class UdpTransport:
    """A bound, non-blocking UDP socket that satisfies :class:`~srmudp.transports.base.Transport`.

    Threads: as the Protocol says. Join the receiving thread before ``close``.

    Args:
        host: ``""`` for every interface, IPv4 and IPv6 on one socket where the system allows, else IPv4 alone. An IP
            literal binds its family alone; a name is resolved (blocking) and IPv4 preferred.
        port: 0 lets the system choose.
        gso: use segmentation and receive offload where there are any.
        socket_buffer: bytes of kernel buffer asked for in each direction; the system may grant less.
        sock: a bound UDP socket of one family to take over, in place of ``host`` and ``port``; it is closed with this.

    Raises:
        OSError: the address cannot be bound, or the name not resolved.
        ValueError: the port is not 0 to 65,535.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        gso: bool = True,
        socket_buffer: int = 4 * 1024 * 1024,
        sock: socket.socket | None = None,
    ) -> None:
        if not 0 <= port <= 65_535:
            raise ValueError(f"a port is 0 to 65535, not {port}")
        self._sock, self._mapping = _bind(host, port) if sock is None else (sock, False)
        try:
            self._sock.setblocking(False)
            _set_buffer(self._sock, socket.SO_RCVBUF, socket_buffer)
            _set_buffer(self._sock, socket.SO_SNDBUF, socket_buffer)
            _forbid_fragments(self._sock)
            _ignore_icmp(self._sock)
            self._batches = BatchSocket(self._sock, gso=gso)
            self._family = self._sock.family
            bound = _address(self._sock.getsockname())
        except BaseException:
            self._sock.close()
            raise
        # "0.0.0.0" is what users know for "everywhere", and the dual-stack socket does reach all of IPv4.
        self._local = Address("0.0.0.0", bound.port) if self._mapping else bound
        self.max_segments = self._batches.max_segments
        self._gso, self._buffer = gso, socket_buffer
        self._fan: Fan | None = None
        self._addresses: dict[SockAddr, Address] = {}  # the receiving thread's
        self._sockaddrs: dict[Address, SockAddr] = {}  # the sending thread's

    def fileno(self) -> int:
        """The descriptor to wait on; -1 once closed."""
        return self._sock.fileno()

    def receive_batch(self) -> Batch | None:
        """The next batch, or None when reading would block or the transport is closed."""
        received = self._batches.receive()
        return self._batch(received) if received is not None or self._fan is None else self._aside(self._fan)

    def receive_lone(self) -> Batch | None:
        """As :meth:`receive_batch`, by one system call, and nothing is held back after it."""
        received = self._batches.receive_lone()
        return self._batch(received) if received is not None or self._fan is None else self._aside(self._fan)

    def _aside(self, fan: Fan) -> Batch | None:
        """What one of the other sockets has received."""
        received = fan.receive()
        return None if received is None else Batch(received[0], received[1], Address(*received[2]))

    def _batch(self, received: tuple[bytes, int, SockAddr] | None) -> Batch | None:
        if received is None:
            return None
        data, segment_size, sockaddr = received
        source = self._addresses.get(sockaddr)
        if source is None:
            source = _address(sockaddr)
            if len(self._addresses) >= _CACHE_LIMIT:
                self._addresses.clear()
            self._addresses[sockaddr] = source
        if self._fan is not None:
            self._fan.on_heard_elsewhere(source)
        return _tuple(Batch, (data, segment_size, source))

    def send_batch(self, payload: bytes, segment_size: int, destination: Address) -> int:
        """Send ``payload`` in datagrams of ``segment_size``; the bytes handed over (fewer: it would block).

        A destination that this socket cannot reach (IPv6 from an IPv4 socket, a name instead of an IP address) is
        counted in ``errors`` and taken for handed over. Names are never resolved here.

        Raises:
            ValueError: ``segment_size`` is below 1.
        """
        if self._fan is not None and (sent := self._fan.send(payload, segment_size, destination)) is not None:
            return sent
        sockaddr = self._sockaddrs.get(destination)
        if sockaddr is None:
            sockaddr = self._new_sockaddr(destination)
            if sockaddr is None:
                return len(payload)
        return self._batches.send(payload, segment_size, sockaddr)

    def send_opener(self, datagram: bytes, destination: Address, hop_limit: int) -> int:
        """Send one datagram that dies after ``hop_limit`` routers, if the system takes it; its length in any case."""
        if self._fan is not None and self._fan.send_opener(datagram, destination, hop_limit):
            return len(datagram)
        sockaddr = self._sockaddrs.get(destination) or self._new_sockaddr(destination)
        if sockaddr is not None:
            self._batches.send_opener(datagram, sockaddr, hop_limit, ipv4=":" not in destination.host)
        return len(datagram)

    def _new_sockaddr(self, destination: Address) -> SockAddr | None:
        """An address not met lately, for this socket's family; None, counted, if it cannot be reached."""
        try:
            return self._sockaddr(destination)
        except _Unreachable as error:
            self._batches.count_unsendable(str(error))
            return None

    @property
    def receive_buffer(self) -> int:
        """Bytes the system granted for what has come and is not read yet; it counts its own overhead as well."""
        return self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)

    def local_address(self) -> Address:
        """Where the transport is bound, also after ``close``. A dual-stack socket says ``0.0.0.0``."""
        return self._local

    @property
    def errors(self) -> dict[str, int]:
        """Refusals by the system, counted by errno name; ``"empty"`` counts empty datagrams received. Any thread."""
        return self._batches.errors

    def close(self) -> None:
        """Release the descriptor. Idempotent; ``receive_batch`` then returns None."""
        if self._fan is not None:
            self._fan.close()
        self._sock.close()

    def spread(self, remote: Address, count: int, port: int = 0) -> int:
        """Have ``count`` more sockets towards a remote; see :meth:`.fan.Fan.spread`. Returns how many there are."""
        if self._fan is None:
            host = self._local.host
            if (
                (count < 2 and not port)
                or ":" in remote.host
                or (":" in host and host != "::")
                or self._sock.fileno() < 0
            ):
                return 0
            try:
                self._fan = Fan("0.0.0.0" if host == "::" else host, gso=self._gso, buffer=self._buffer)
            except OSError:
                return 0
        return self._fan.spread(remote, count, port)

    @property
    def spread_fileno(self) -> int:
        """The descriptor of those sockets, to wait on for readability besides; -1 if there never were any."""
        return -1 if self._fan is None else self._fan.fileno()

    def _sockaddr(self, destination: Address) -> SockAddr:
        """Convert and cache an address for this socket's family."""
        host, _, zone = destination.host.partition("%")
        packed = _packed(host)
        if packed is None or not 0 < destination.port <= 65_535:
            raise _Unreachable("EINVAL")
        sockaddr: SockAddr
        if packed.startswith(_MAPPED) and len(packed) == 16:
            packed = packed[12:]
        if len(packed) == 4:
            host = socket.inet_ntop(socket.AF_INET, packed)
            if self._family == socket.AF_INET:
                sockaddr = (host, destination.port)
            elif self._mapping:
                sockaddr = (f"::ffff:{host}", destination.port, 0, 0)
            else:
                raise _Unreachable("EAFNOSUPPORT")
        elif self._family == socket.AF_INET:
            raise _Unreachable("EAFNOSUPPORT")
        else:
            sockaddr = (host, destination.port, 0, _scope(zone))
        if not zone or zone.isdecimal():  # an interface may get another number under its old name
            if len(self._sockaddrs) >= _CACHE_LIMIT:
                self._sockaddrs.clear()
            self._sockaddrs[destination] = sockaddr
        return sockaddr


class _Unreachable(Exception):
    """The text is the errno name to count."""


def _bind(host: str, port: int) -> tuple[socket.socket, bool]:
    """A bound socket, and whether it carries IPv4 as mapped IPv6."""
    if host == "":
        if socket.has_ipv6:
            try:
                return _open(socket.AF_INET6, ("::", port), v6_only=False), True
            except OSError as error:
                # A port in use or a forbidden one is the caller's to know; IPv4 alone would hide it.
                if error.errno not in _NO_DUAL_STACK:
                    raise
        return _open(socket.AF_INET, ("0.0.0.0", port)), False
    found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM, proto=socket.IPPROTO_UDP)
    family, _type, _proto, _name, sockaddr = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    mapped = _address(sockaddr)
    if family == socket.AF_INET6 and ":" not in mapped.host:  # "::ffff:192.0.2.1" is IPv4, however it is spelt
        return _open(socket.AF_INET, (mapped.host, port)), False
    return _open(family, (sockaddr[0], port, *sockaddr[2:])), False


def _open(family: int, sockaddr: SockAddr, *, v6_only: bool = True) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)  # not inheritable (PEP 446)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(v6_only))
        if sys.platform == "win32":
            # Without it another program could take the port from under us by SO_REUSEADDR.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        sock.bind(sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock


def _set_buffer(sock: socket.socket, option: int, size: int) -> None:
    """Ask for ``size`` bytes; Linux grants what it allows, BSDs refuse too much, so ask again for half."""
    size = min(size, 0x7FFF_FFFF)  # the option is a C int
    while True:
        try:
            sock.setsockopt(socket.SOL_SOCKET, option, size)
            return
        except OSError:
            size //= 2
            if size < _LEAST_BUFFER:
                return


def _forbid_fragments(sock: socket.socket) -> None:
    """Set don't-fragment for both families where it can be set; path MTU discovery relies on our own probes."""
    for platform, options in _DONT_FRAGMENT.items():
        if sys.platform.startswith(platform):
            for level, option, value in options:
                try:
                    sock.setsockopt(level, option, value)
                except OSError:  # the other family's option on a single-family socket, or an old system
                    pass


def _ignore_icmp(sock: socket.socket) -> None:
    """Keep ICMP errors off the socket.

    Unix reports none on an unconnected UDP socket unless asked (``IP_RECVERR``, which we do not set). Windows does, as
    errors of the next read, until SIO_UDP_CONNRESET and SIO_UDP_NETRESET are off; ``socket.ioctl`` knows neither.
    """
    if sys.platform == "win32":
        import ctypes

        off, returned = ctypes.c_ulong(0), ctypes.c_ulong(0)
        for code in (0x9800000C, 0x9800000F):
            try:
                ctypes.windll.ws2_32.WSAIoctl(
                    ctypes.c_size_t(sock.fileno()),
                    ctypes.c_ulong(code),
                    ctypes.byref(off),
                    ctypes.c_ulong(ctypes.sizeof(off)),
                    None,
                    ctypes.c_ulong(0),
                    ctypes.byref(returned),
                    None,
                    None,
                )
            except (OSError, AttributeError):  # reads past such errors anyway
                pass


def _address(sockaddr: SockAddr) -> Address:
    """The normal form of what the socket module reports."""
    host, port = sockaddr[0], sockaddr[1]
    if len(sockaddr) < 4:
        return Address(host, port)
    host, _, zone = host.partition("%")
    packed = _packed(host)
    if packed is not None and packed.startswith(_MAPPED) and len(packed) == 16:
        return Address(socket.inet_ntop(socket.AF_INET, packed[12:]), port)
    scope = sockaddr[3] or zone
    return Address(f"{host}%{scope}" if scope else host, port)


def _packed(host: str) -> bytes | None:
    """The 4 or 16 bytes of an IP literal, else None."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            return socket.inet_pton(family, host)
        except (OSError, ValueError):
            pass
    return None


def _scope(zone: str) -> int:
    """The interface number of what follows ``%``; 0 without one."""
    if not zone:
        return 0
    try:
        number = int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)
    except (OSError, ValueError):
        raise _Unreachable("ENXIO") from None
    if not number < 1 << 32:
        raise _Unreachable("ENXIO")
    return number
