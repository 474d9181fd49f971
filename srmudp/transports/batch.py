"""Several datagrams in one system call where Linux can (UDP GSO and GRO), one by one everywhere else.

``sendmsg`` with the ancillary datum ``UDP_SEGMENT`` makes the kernel, or the network card, cut one buffer into
datagrams (Linux 4.18); the socket option ``UDP_GRO`` joins what arrives back to back from one sender (Linux 5.0).
Python does not name the constants; they are those of ``linux/udp.h``.
"""

from __future__ import annotations

import errno
import functools
import socket
import struct
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

SOL_UDP = 17
UDP_SEGMENT = 103
"""Ancillary datum on sending: segment size, unsigned 16 bits."""
UDP_GRO = 104
"""Socket option; the ancillary datum on receiving is the segment size as a C int."""

MAX_SEGMENTS = 64
"""Datagrams of one GSO call: ``UDP_MAX_SEGMENTS`` of Linux before 6.9 (128 since)."""
MAX_BYTES = 64_000
"""Bytes of one GSO call: a super-packet must fit 65,535 with its headers, and larger ones are cut up in software."""
MAX_DATAGRAM = 65_535

_ANCILLARY_SPACE = 64
"""Bytes for the ancillary data of a read; one C int with its header takes 24 on a 64-bit Linux."""

_GSO_REFUSALS = frozenset({errno.EMSGSIZE, errno.EINVAL, errno.EIO})
_REFUSING_LIMIT = 1024
"""Destinations remembered as refusing GSO; the oldest is forgotten first."""
_RETRY_AFTER = 4096
"""Batches sent datagram by datagram to such a destination before GSO is tried again: routes change."""
_KEPT = 4 * 1024 * 1024
"""Bytes of a block that is taken and given back at once, see :func:`_keep_memory`."""
_ERRORS_IN_A_ROW = 16
"""Failing reads before ``receive`` gives up for now, so that a broken descriptor cannot hold its caller for ever."""

_HOPS_BY_DATUM = sys.platform.startswith("linux")
"""Others know no such ancillary datum for sending, and some then send as if it were not there."""
_HOP_LIMITS = (
    (socket.IPPROTO_IP, socket.IP_TTL, socket.IP_TTL),
    # 52 is IPV6_HOPLIMIT of Linux, ipv6(7).
    (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, getattr(socket, "IPV6_HOPLIMIT", 52)),
)
"""Level, option and ancillary datum of a hop limit: IPv4, which an IPv6 socket has for mapped addresses too; IPv6."""

SockAddr = tuple[Any, ...]
"""``(host, port)`` or ``(host, port, flow, scope)`` as the socket module has it."""


class BatchSocket:
    """Reads and writes batches of datagrams on a bound, non-blocking UDP socket, in as few system calls as it can.

    The socket stays the caller's, who closes it. One thread may send while another receives.

    Args:
        sock: the socket; its option ``UDP_GRO`` is set where there is one.
        gso: False forces the plain path (``sendto`` and ``recvfrom``), the one of systems without offload.

    Attributes:
        sends_batches: segmentation offload is used for sending.
        receives_batches: the system joins datagrams on receiving.
        max_segments: datagrams that one system call sends at most; 1 on the plain path.
    """

    def __init__(self, sock: socket.socket, *, gso: bool = True) -> None:
        _keep_memory()
        self._sock = sock
        self._send_errors: Counter[str] = Counter()  # one counter per direction: two threads count at once
        self._receive_errors: Counter[str] = Counter()
        self._refusing: dict[SockAddr, int] = {}  # destination -> batches until GSO is tried again
        # By name, because Windows has neither.
        self._sendmsg: Any = getattr(sock, "sendmsg", None)
        self._recvmsg: Any = getattr(sock, "recvmsg", None)
        gso = gso and sys.platform.startswith("linux") and self._sendmsg is not None and self._recvmsg is not None
        self.sends_batches = gso and _has_segment(sock)
        self.receives_batches = gso and _set_gro(sock)
        self.max_segments = MAX_SEGMENTS if self.sends_batches else 1
        self._ancillary_size = 0
        self._ancillary: list[tuple[int, int, bytes]] = []
        self._next: tuple[bytes, int, SockAddr] | None = None  # read, but not part of the batch before
        self._at_end = False  # reading would block after what was given out last

    # -- receiving ------------------------------------------------------------------------------------------------

    def receive(self) -> tuple[bytes, int, SockAddr] | None:
        """The next batch as ``(bytes, segment size, source)``, or None when reading would block or the socket closed.

        Datagrams that the system gives one by one are joined here as it would: one source, equal sizes, the last maybe
        shorter. Handling a batch costs little more than handling a datagram.

        Empty datagrams are skipped and counted. Errors (those that ICMP messages leave on some systems among them) are
        counted and read past. Never raises because of the network.
        """
        first = self._next
        self._next = None
        if first is None:
            if self._at_end:  # seen while the batch before was being joined
                self._at_end = False
                return None
            first = self._read()
            if first is None:
                return None
        data, size, source = first
        most = min(MAX_SEGMENTS, MAX_BYTES // size)
        if most < 2 or len(data) != size:
            return first
        parts = [data]
        while len(parts) < most:
            following = self._read()
            if following is None:
                self._at_end = True
                break
            data, length, sender = following
            if length > size or len(data) != length or sender != source:
                self._next = following
                break
            parts.append(data)
            if length < size:
                break
        return (b"".join(parts), size, source) if len(parts) > 1 else first

    def receive_lone(self) -> tuple[bytes, int, SockAddr] | None:
        """As :meth:`receive`, but what came after the first datagram is left to the system and nothing joined here.

        One system call; after it nothing is held back here.
        """
        first = self._next
        self._next = None
        self._at_end = False
        return self._read() if first is None else first

    def _read(self) -> tuple[bytes, int, SockAddr] | None:
        """What one system call gives: a datagram, or several where the system joins them."""
        failures = 0
        while failures < _ERRORS_IN_A_ROW:
            try:
                if self.receives_batches:
                    data, ancillary, _flags, source = self._recvmsg(MAX_DATAGRAM, _ANCILLARY_SPACE)
                else:
                    data, source = self._sock.recvfrom(MAX_DATAGRAM)
                    ancillary = []
            except BlockingIOError:
                return None
            except OSError as error:
                if self._sock.fileno() < 0:
                    return None
                self._receive_errors[_name(error)] += 1
                failures += 1
                continue
            length = size = len(data)
            if not length:
                self._receive_errors["empty"] += 1
                failures = 0
                continue
            for level, kind, value in ancillary:
                if level == SOL_UDP and kind == UDP_GRO:
                    size = int.from_bytes(value[:4], sys.byteorder)
            return data, size if 0 < size <= length else length, source
        return None

    # -- sending --------------------------------------------------------------------------------------------------

    def send(self, payload: bytes, segment_size: int, destination: SockAddr) -> int:
        """Send ``payload`` as datagrams of ``segment_size`` bytes, the last maybe shorter; the bytes handed over.

        Fewer than ``len(payload)`` (then a multiple of ``segment_size``) means that sending would block. What the
        system refuses for good is counted and taken for handed over.

        Where the system refuses a batch but takes its datagrams one by one, that is what the destination gets from then
        on. A batch whose datagrams it refuses too (longer than the MTU) says nothing about GSO.

        Raises:
            ValueError: ``segment_size`` is below 1.
        """
        if segment_size < 1:
            raise ValueError(f"segment_size must be at least 1, not {segment_size}")
        size = len(payload)
        if size <= segment_size:
            if size:
                try:
                    self._sock.sendto(payload, destination)
                except BlockingIOError:
                    return 0
                except OSError as error:
                    if self._after_error(error, self._sock.sendto, payload, destination) == errno.EAGAIN:
                        return 0
            return size
        view = memoryview(payload)
        step = min(MAX_SEGMENTS, MAX_BYTES // segment_size) * segment_size
        if not self.sends_batches or step <= segment_size or (self._refusing and self._refuses_gso(destination)):
            return self._send_plain(view, segment_size, destination, 0)
        offset = 0
        while size - offset > segment_size:
            result = self._send_gso(view[offset : offset + step], segment_size, destination)
            if result == errno.EAGAIN:
                return offset
            if result in _GSO_REFUSALS:
                result = self._send_one(view[offset : offset + segment_size], destination)
                if result == errno.EAGAIN:
                    return offset
                if not result:
                    self._remember_refusal(destination)
                return self._send_plain(view, segment_size, destination, offset + segment_size)
            offset = min(offset + step, size)
        return self._send_plain(view, segment_size, destination, offset)

    def _send_plain(self, view: memoryview, segment_size: int, destination: SockAddr, offset: int) -> int:
        """Send the rest from ``offset`` datagram by datagram; the bytes of ``view`` handed over by now."""
        size = len(view)
        while offset < size:
            if self._send_one(view[offset : offset + segment_size], destination) == errno.EAGAIN:
                return offset
            offset += segment_size
        return size

    def _send_one(self, datagram: bytes | memoryview, destination: SockAddr) -> int:
        """Send one datagram: 0, ``EAGAIN``, or the errno of a refusal, which is counted."""
        try:
            self._sock.sendto(datagram, destination)
        except BlockingIOError:
            return errno.EAGAIN
        except OSError as error:
            return self._after_error(error, self._sock.sendto, datagram, destination)
        return 0

    def _send_gso(self, piece: memoryview, segment_size: int, destination: SockAddr) -> int:
        """The same for several datagrams by one call."""
        if segment_size != self._ancillary_size:
            self._ancillary = [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", segment_size))]
            self._ancillary_size = segment_size
        try:
            self._sendmsg((piece,), self._ancillary, 0, destination)
        except BlockingIOError:
            return errno.EAGAIN
        except OSError as error:
            return self._after_error(error, self._sendmsg, (piece,), self._ancillary, 0, destination)
        return 0

    def send_opener(self, datagram: bytes, destination: SockAddr, hop_limit: int, *, ipv4: bool) -> None:
        """Send one datagram that dies after ``hop_limit`` routers. Lost where the system cannot do it, or has no room.

        No other datagram gets that limit: it is an ancillary datum where the system knows one, else set for the moment,
        as sending is one thread's at a time.

        Args:
            ipv4: the destination is one, however it is spelt.
        """
        options = _HOP_LIMITS if ipv4 else _HOP_LIMITS[1:]
        try:
            if _HOPS_BY_DATUM and self._sendmsg is not None:
                level, _, kind = options[0]
                self._sendmsg((datagram,), [(level, kind, struct.pack("=i", hop_limit))], 0, destination)
                return
            before = [(level, option, self._get(level, option)) for level, option, _ in options]
            settable = [(level, option, value) for level, option, value in before if value is not None]
            if not settable or before[0][2] is None:
                raise OSError(errno.EOPNOTSUPP, "no such socket option")
            try:
                for level, option, _ in settable:
                    self._sock.setsockopt(level, option, hop_limit)
                self._sock.sendto(datagram, destination)
            finally:
                for level, option, value in settable:
                    self._sock.setsockopt(level, option, value)
        except BlockingIOError:
            pass
        except OSError as error:
            self._send_errors[_name(error)] += 1

    def _get(self, level: int, option: int) -> int | None:
        try:
            return self._sock.getsockopt(level, option)
        except OSError:  # the other family's
            return None

    def _after_error(self, error: OSError, call: Callable[..., object], *arguments: object) -> int:
        """Count ``error``, and try ``call(*arguments)``, which raised it, once more if there is hope."""
        self._send_errors[_name(error)] += 1
        # ECONNREFUSED and its like answer an *earlier* datagram (ICMP) and are cleared by being reported.
        if isinstance(error, ConnectionError):
            try:
                call(*arguments)
            except BlockingIOError:
                return errno.EAGAIN
            except OSError as again:
                self._send_errors[_name(again)] += 1
                return again.errno or errno.EPERM
            return 0
        return error.errno or errno.EPERM

    def _refuses_gso(self, destination: SockAddr) -> bool:
        left = self._refusing.get(destination)
        if left is None:
            return False
        if left:
            self._refusing[destination] = left - 1
        else:
            del self._refusing[destination]
        return left > 0

    def _remember_refusal(self, destination: SockAddr) -> None:
        if len(self._refusing) >= _REFUSING_LIMIT:
            del self._refusing[next(iter(self._refusing))]
        self._refusing[destination] = _RETRY_AFTER

    # -- counting -------------------------------------------------------------------------------------------------

    def count_unsendable(self, name: str) -> None:
        """Count, by errno name, a batch that never came as far as the system. For the sending thread."""
        self._send_errors[name] += 1

    @property
    def errors(self) -> dict[str, int]:
        """A snapshot of the refusals by errno name; empty datagrams received are under ``"empty"``. Any thread."""
        total = Counter(dict(self._send_errors))
        total.update(dict(self._receive_errors))
        return dict(total)


@functools.cache
def _keep_memory() -> None:
    """Let the allocator keep the memory of a batch for the next one. Once in a process; harmless where it is no use.

    glibc gives free memory at the end of its heap back beyond 128 KiB, and a batch has 64: each then takes page faults
    anew, a fifth of the time that bulk data cost a sender. Freeing a larger block raises that bound to twice its size
    (mallopt(3), M_MMAP_THRESHOLD). The block is never written to, so it takes no memory.
    """
    bytes(_KEPT)


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "unknown")


def _has_segment(sock: socket.socket) -> bool:
    try:
        sock.getsockopt(SOL_UDP, UDP_SEGMENT)
    except OSError:
        return False
    return True


def _set_gro(sock: socket.socket) -> bool:
    try:
        sock.setsockopt(SOL_UDP, UDP_GRO, 1)
    except OSError:
        return False
    return True
