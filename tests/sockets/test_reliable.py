"""SecureReliableSocket: which form it has, what it is like before, while and after it is connected; both forms."""

from __future__ import annotations

import copy
import errno
import ipaddress
import os
import pickle
import re
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import Crypto.PublicKey.ECC
import pytest

import srmudp
from srmudp import Config, Identity, MultiHolepunchSocket, Packet, SecureReliableSocket
from srmudp.sockets.single.flavours import Flavour, meetings, read_arguments
from srmudp.sockets.single.handle import UdpHandle
from srmudp.transports.impaired import impaired
from tests.sockets.pairs import DEADLINE, FAMILIES, HOSTS, Maker, free_port, make, port_of, read

from .conftest import reach

__all__ = ["make"]

V4, V6 = FAMILIES
STREAM, MESSAGE, UNDECIDED = Flavour.STREAM, Flavour.MESSAGE, Flavour.UNDECIDED


# --- the two constructors ---


@pytest.mark.parametrize(
    ("args", "named", "flavour", "expected"),
    [
        ((), {}, None, (UNDECIDED, 0, V4, 21.0, 3.0, None)),
        ((), {"timeout": 5.0, "span": 1.0}, None, (UNDECIDED, 0, V4, 5.0, 1.0, None)),
        ((V4,), {}, None, (STREAM, 0, V4, 21.0, 3.0, None)),
        ((V6, 10.0, 2.0), {}, None, (STREAM, 0, V6, 10.0, 2.0, None)),
        ((2, 10.0), {}, None, (STREAM, 0, V4, 10.0, 3.0, None)),
        ((), {"family": V6}, None, (STREAM, 0, V6, 21.0, 3.0, None)),
        ((0,), {}, None, (MESSAGE, 0, V4, 21.0, 3.0, None)),
        ((9000, V6), {}, None, (MESSAGE, 9000, V6, 21.0, 3.0, None)),
        ((9000, V4, 4.0, 1.0, False), {}, None, (MESSAGE, 9000, V4, 4.0, 1.0, False)),
        ((), {"port": 9000, "family": V6}, None, (MESSAGE, 9000, V6, 21.0, 3.0, None)),
        ((), {"auto_reconnect": False}, None, (MESSAGE, 0, V4, 21.0, 3.0, False)),
        ((), {}, "message", (MESSAGE, 0, V4, 21.0, 3.0, None)),
        ((2,), {}, "message", (MESSAGE, 2, V4, 21.0, 3.0, None)),
        ((), {"timeout": 5.0}, "stream", (STREAM, 0, V4, 5.0, 3.0, None)),
    ],
)
def test_the_two_constructors_are_told_apart(
    args: tuple[Any, ...], named: dict[str, Any], flavour: str | None, expected: tuple[Any, ...]
) -> None:
    assert read_arguments(args, named, flavour) == expected


@pytest.mark.parametrize(
    ("args", "named", "error"),
    [
        ((V4, 1.0, 1.0, 1.0, 1.0, 1.0), {}, TypeError),
        (("127.0.0.1",), {}, TypeError),
        ((True,), {}, TypeError),
        ((70_000,), {}, ValueError),
        ((-1,), {}, ValueError),
        ((9000, 77), {}, ValueError),
        ((9000,), {"port": 9000}, TypeError),
        ((V4,), {"timeout": 0.0}, ValueError),
        ((V4,), {"span": float("inf")}, ValueError),
        ((), {"flavour": "stream", "port": 1}, TypeError),
        ((), {"flavour": "both"}, ValueError),
        ((), {"peer_id": "nonsense"}, ValueError),
        ((), {"wire": "srudp 2"}, ValueError),
        ((), {"wire": "srudp", "peer_id": Identity.generate().peer_id}, ValueError),
    ],
)
def test_other_arguments_are_refused_and_leave_nothing_open(
    args: tuple[Any, ...], named: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        SecureReliableSocket(*args, **named)


def test_a_port_that_is_taken_is_refused_and_leaves_nothing_open(make: Maker) -> None:
    taken = make(0)
    with pytest.raises(OSError, match="in use"):
        SecureReliableSocket(port_of(taken))


# --- before it is connected ---


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stream_before_it_is_connected(make: Maker, family: socket.AddressFamily) -> None:
    sock = make(family)
    assert isinstance(sock, socket.socket)
    assert isinstance(sock, SecureReliableSocket)
    assert (sock.family, sock.type, sock.proto) == (family, socket.SOCK_STREAM, 0)
    assert sock.family is family
    assert sock.getsockname()[:2] == (("0.0.0.0", 0) if family == V4 else ("::", 0))
    assert sock.fileno() > 0
    assert (sock.is_closed, sock.established, sock.try_connect) == (False, False, False)
    assert (sock.loss, sock.mtu_size, sock.get_window_size(), sock.receiver_seq) == (0, 0, 0, 1)
    assert (sock.timeout, sock.span, sock.address, sock.peer_id, sock.status) == (21.0, 3.0, None, None, None)
    assert repr(sock) == "<SecureReliableSocket UNKNOWN None send=1 recv=1 loss=0>"
    assert sock.recv(10) == b""
    sock.sendall(b"")
    for send in (sock.send, sock.sendall, sock.broadcast):
        with pytest.raises(ConnectionAbortedError, match="disconnected"):
            send(b"x")
    with pytest.raises(OSError, match="not found peer"):
        sock.getpeername()
    with pytest.raises(NotImplementedError):
        sock.bind(("", 0))
    sock.close()
    sock.close()
    assert (sock.is_closed, sock.fileno(), sock.recv(1)) == (True, -1, b"")
    assert repr(sock).startswith("<SecureReliableSocket CLOSED ")
    for name in (sock.getsockname, sock.getpeername):
        with pytest.raises(OSError, match="closed"):
            name()
    with pytest.raises(AssertionError, match="already closed"):
        sock.connect(("127.0.0.1", 1))


def test_messages_before_they_are_connected(make: Maker) -> None:
    sock = make(0)
    port = port_of(sock)
    assert sock.getsockname() == f"0.0.0.0:{port}"
    assert sock.port == 0
    assert sock.local_address == ("0.0.0.0", port)
    assert sock.get_socket_name() == "Not connected"
    assert sock.receive(timeout=5.0) is None
    assert sock.send(b"") == 0
    assert sock.peer_public_key is None
    with pytest.raises(ConnectionAbortedError):
        sock.send(b"x")
    with pytest.raises(TypeError, match="encode"):
        sock.send("text")
    sock.close()
    assert sock.receive() is None
    again = make(port)  # free at once
    assert again.port == port
    assert again.getsockname().split(":")[1] == str(port)


def test_the_udp_port_is_the_applications_until_connect(make: Maker) -> None:
    """STUN as applications do it, and afterwards nobody takes datagrams from the connection."""
    one, two = make(0), make(0)
    udp = one.receiver_socket
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        before = udp.gettimeout()
        udp.settimeout(5.0)
        udp.sendto(b"where am I?", server.getsockname())
        question, seen = server.recvfrom(100)
        server.sendto(b"there", seen)
        assert udp.recvfrom(100) == (b"there", server.getsockname())
        udp.settimeout(before)
    assert (question, seen[1]) == (b"where am I?", port_of(one))
    connecting = make.start(one.connect, ("127.0.0.1", port_of(two)))
    two.connect(f"127.0.0.1:{seen[1]}")
    connecting.result(DEADLINE)
    udp.settimeout(1.0)  # ignored: it would stop the library's threads
    udp.setblocking(True)
    for receive in (udp.recv, udp.recvfrom, udp.recvmsg):
        with pytest.raises(OSError, match="reads this port"):
            receive(100)
    for receive_into in (udp.recv_into, udp.recvfrom_into):
        with pytest.raises(OSError, match="reads this port"):
            receive_into(bytearray(10))
    with pytest.raises(OSError, match="reads this port"):
        udp.recvmsg_into([bytearray(10)])
    assert udp.getsockname() == one.local_address
    two.send(b"all is well")
    assert one.receive(timeout=DEADLINE) == (f"127.0.0.1:{port_of(two)}", b"all is well", one.peer_public_key)


# --- connecting ---


class Where(NamedTuple):
    host: str
    port: int


@pytest.mark.parametrize("first", [True, False])
def test_on_one_machine_the_second_takes_the_port_beside(make: Maker, first: bool) -> None:
    port = free_port() + (not first)
    one, two = make(V4), make()
    connecting = make.start(one.connect, Where("127.0.0.1", port))
    reach(lambda: port_of(one))
    two.connect((ipaddress.ip_address("127.0.0.1"), str(port)))
    connecting.result(DEADLINE)
    assert one.getsockname() == two.getpeername() == two.address == ("127.0.0.1", port)
    assert two.getsockname() == one.getpeername() == ("127.0.0.1", port ^ 1)
    assert re.fullmatch(
        rf"<SecureReliableSocket ESTABLISHED \('127.0.0.1', {port ^ 1}\) send=\d+ recv=\d+ loss=\d+>", repr(one)
    )
    for sock in (one, two):
        with pytest.raises(AssertionError, match="already established"):
            sock.connect(("127.0.0.1", port))


def test_over_ipv6_with_a_full_address(make: Maker) -> None:
    one, two = make.streams(V6)
    assert one.getpeername() == two.getsockname()
    assert one.getpeername()[0] == "::1"
    assert len(one.getpeername()) == 4
    one.sendall(b"hello world")
    assert two.recv(1024) == b"hello world"


def test_elsewhere_one_port_number_is_for_both_ends() -> None:
    assert meetings(("192.0.2.1", 9000), V4) == [(("", 9000), ("192.0.2.1", 9000))]
    assert meetings(("2001:db8::1", "9000", 0, 0), V6) == [(("", 9000), ("2001:db8::1", 9000, 0, 0))]


def test_a_stream_that_nobody_answers_gives_up(make: Maker) -> None:
    sock = make(V4, 0.35, 0.1)
    port = free_port()
    began = time.monotonic()
    with pytest.raises(ConnectionError, match=r"^timeout on hand shaking$"):
        sock.connect(("127.0.0.1", port))
    assert 0.29 < time.monotonic() - began < 2.0
    assert (sock.is_closed, sock.established, sock.recv(1)) == (False, False, b"")
    assert repr(sock).startswith("<SecureReliableSocket FAILED ")
    with pytest.raises(AssertionError, match="already"):
        sock.connect(("127.0.0.1", port))
    sock.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", port))


def test_text_is_no_address_for_a_stream(make: Maker) -> None:
    with pytest.raises(AssertionError):
        make(V4).connect("127.0.0.1:9000")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:x", 7, ("127.0.0.1",)])
def test_malformed_addresses_of_messages(make: Maker, address: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        make(0).connect(address)


def test_an_unknown_host(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*args: object, **named: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "no such host")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    for sock, address in ((make(V4), ("nowhere.example", 9)), (make(0), "nowhere.example:9")):
        with pytest.raises(socket.gaierror):
            sock.connect(address)
        assert not sock.is_closed
    gone = make(0, auto_reconnect=False)
    with pytest.raises(socket.gaierror):
        gone.connect("nowhere.example:9")
    assert make(V4).connect_ex(("nowhere.example", 9)) == socket.EAI_NONAME


def connect_and_close(make: Maker, sock: SecureReliableSocket, address: object) -> None:
    connecting = make.start(sock.connect, address)
    reach(lambda: sock.try_connect and sock.receiver_socket._lent)
    time.sleep(0.05)  # so that it is in the midst of waiting; any moment would do
    sock.close()
    with pytest.raises(ConnectionAbortedError):
        connecting.result(2.0)
    assert sock.is_closed


def test_close_ends_a_connect_in_progress(make: Maker) -> None:
    connect_and_close(make, make(V4), ("127.0.0.1", free_port()))
    connect_and_close(make, make(0), f"127.0.0.1:{free_port()}")


@pytest.mark.parametrize("is_text", [True, False])
def test_close_before_connect_has_its_port(make: Maker, monkeypatch: pytest.MonkeyPatch, is_text: bool) -> None:
    """Who connects hears that the socket was closed, not of a descriptor that is gone."""
    sock, port, bind = make(), free_port(), UdpHandle.bind

    def bind_late(handle: UdpHandle, address: Any) -> None:
        sock.close()
        bind(handle, address)

    monkeypatch.setattr(UdpHandle, "bind", bind_late)
    with pytest.raises(ConnectionAbortedError, match="closed while it was connecting"):
        sock.connect(f"127.0.0.1:{port}" if is_text else ("127.0.0.1", port))
    assert sock.is_closed


# --- undecided ---


def test_what_decides_without_arguments(make: Maker) -> None:
    by_text, by_hook, by_stun = make(), make(), make()
    by_hook.message_hook_fnc = lambda packet, address, sock: None
    by_stun.receiver_socket.sendto(b"?", ("127.0.0.1", 9))
    for sock in (by_text, by_hook, by_stun):
        assert sock.getsockname()[0] == "0.0.0.0"
        assert sock.receive(timeout=0) is None
    port = free_port()
    connecting = [
        make.start(sock.connect, address)
        for sock, address in (
            (by_text, f"127.0.0.1:{port}"),
            (by_hook, ("127.0.0.1", port)),
            (by_stun, ("127.0.0.1", port)),
        )
    ]
    for sock in (by_text, by_hook, by_stun):
        reach(lambda sock=sock: isinstance(sock.getsockname(), str))  # type: ignore[misc]
        sock.close()
    for call in connecting:
        with pytest.raises(ConnectionAbortedError):
            call.result(2.0)


# --- who it is ---


def test_a_pin_a_saved_identity_and_known_peers(make: Maker, tmp_path: Path) -> None:
    key, known = tmp_path / "alice.key", tmp_path / "peers.json"
    alice_id = Identity.load_or_create(key).peer_id
    for options in ({"peer_id": str(alice_id)}, {"peer_id": alice_id}, {}):
        alice, bob = make(V4, identity=key), make(V4, known_peers=known, **options)
        address = "127.0.0.1", free_port()
        connecting = make.start(alice.connect, address)
        reach(lambda alice=alice: port_of(alice))  # type: ignore[misc]
        bob.connect(address)
        connecting.result(DEADLINE)
        assert bob.peer_id == alice_id
        assert bob.status is not None
        assert bob.status.peer_id == alice_id
        bob.close()
        alice.close()
    assert str(alice_id) in known.read_text()


def test_another_key_than_the_pinned_one_is_refused(make: Maker) -> None:
    pin = Identity.generate().peer_id
    one, two = make(V4, timeout=0.4, span=0.2), make(V4, timeout=0.4, span=0.2, peer_id=pin)
    address = "127.0.0.1", free_port()
    connecting = make.start(one.connect, address)
    with pytest.raises(ConnectionError, match="timeout on hand shaking: another key than the pinned one"):
        two.connect(address)
    with pytest.raises(ConnectionError, match="timeout on hand shaking"):
        connecting.result(DEADLINE)


# --- both forms, connected ---


@pytest.mark.parametrize("form", ["streams", "messages"])
def test_attributes_while_connected(make: Maker, form: str) -> None:
    one, two = getattr(make, form)()
    one.sendall(b"hello")
    assert (two.recv(5) if form == "streams" else two.receive()[1]) == b"hello"
    for sock in (one, two):
        assert sock.established
        assert not sock.is_closed
        assert sock.mtu_size >= 1200
        assert 0 < sock.get_window_size() < sock.mtu_size
        assert sock.loss / sock.receiver_seq * 100 < 1
        assert sock.receiver_seq > 1
        assert sock.sender_seq > 1
        assert sock.peer_public_key is not None
        assert sock.peer_public_key.startswith(b"-----BEGIN PUBLIC KEY-----\n")
    assert one.auto_reconnect is two.auto_reconnect is (form == "messages")
    assert one.peer_id is not None
    assert one.peer_public_key is not None
    assert Crypto.PublicKey.ECC.import_key(one.peer_public_key.decode()).public_key().curve == "Ed25519"


@pytest.mark.parametrize("form", ["streams", "messages"])
def test_it_cannot_be_copied_pickled_or_taken_apart(make: Maker, form: str) -> None:
    one, _ = getattr(make, form)()
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            attempt(one)
    for call in (
        *(one.dup, one.listen, one.accept),
        *(lambda: one.sendto(b"x", ("127.0.0.1", 1)), lambda: one.send(b"x", socket.MSG_OOB)),
        *(lambda: one.sendmsg([b"x"], [(1, 1, b"")]), lambda: one.sendmsg_afalg([b"x"])),
    ):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EOPNOTSUPP
    for junk in ("text", 7, None):
        with pytest.raises(TypeError):
            one.send(junk)


def test_each_form_refuses_what_is_the_others(make: Maker) -> None:
    stream, _ = make.streams()
    message, _ = make.messages()
    for call in (
        *(stream.receive, message.detach, make(socket.AF_INET).detach),
        *(lambda: message.recv(1), lambda: message.recv_into(bytearray(1))),
    ):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EOPNOTSUPP


@pytest.mark.parametrize("form", ["streams", "messages"])
def test_what_is_dropped_without_close_is_cleaned_up(make: Maker, form: str) -> None:
    """Threads and descriptors: the leak check of conftest.py sees to them."""
    one, two = getattr(make, form)()
    if form == "streams":
        one.fileno()  # with its thread
    make.forget(one)
    holder = [one]
    del one

    def drop() -> None:
        holder.clear()
        reach(lambda: len(caught))  # a thread of its own may be about to let go of it

    with pytest.warns(ResourceWarning, match="unclosed <SecureReliableSocket") as caught:
        drop()
    reach(lambda: not two.established)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_copy_in_a_forked_child_is_dead(make: Maker) -> None:
    one, two = make.streams()
    one.fileno()
    child = os.fork()
    if not child:
        try:
            one.sendall(b"from the child")
        except Exception as error:
            os._exit(0 if isinstance(error, RuntimeError | OSError) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    one.sendall(b"from the parent")
    assert two.recv(100) == b"from the parent"


# --- the module ---


def test_names_that_old_programs_import() -> None:
    names: dict[str, Any] = {}
    exec("from srmudp import *", names)
    for name in ("Packet", "bin2packet", "packet2bin", "get_formal_address_format", "SecureReliableSocket"):
        assert name in names
    assert (srmudp.CONTROL_ACK, srmudp.CONTROL_PSH, srmudp.CONTROL_EOF, srmudp.CONTROL_BCT) == (1, 2, 4, 8)
    assert (srmudp.CONTROL_RTM, srmudp.CONTROL_FIN) == (16, 64)
    assert (srmudp.WINDOW_MAX_SIZE, srmudp.SEND_BUFFER_SIZE, srmudp.MAX_RETRANSMIT_LIMIT) == (32_768, 262_144, 4)
    assert srmudp.FLAG_NAMES[srmudp.CONTROL_PSH | srmudp.CONTROL_EOF] == "PSH+EOF"
    assert srmudp.packet_struct.format == "<BIBd"
    packet = Packet(srmudp.CONTROL_PSH, srmudp.CycInt(7), 0, 1.5, b"data")
    assert srmudp.bin2packet(srmudp.packet2bin(packet)) == packet
    assert packet.sender_address is None
    assert srmudp.bin2packet(srmudp.packet2bin(packet), ("127.0.0.1", 9)).sender_address == ("127.0.0.1", 9)
    assert srmudp.CYC_INT0 == 0
    assert srmudp.find_ecdhe_curve("NIST256p").baselen == 32
    with pytest.raises(ConnectionError):
        srmudp.find_ecdhe_curve("secp112r1")


def test_the_formal_address() -> None:
    assert srmudp.get_formal_address_format(("127.0.0.1", "80")) == ("127.0.0.1", 80)
    assert srmudp.get_formal_address_format((ipaddress.ip_address("::1"), 80), V6) == ("::1", 80, 0, 0)
    for text in ("127.0.0.1:80", b"127.0.0.1:80"):
        with pytest.raises(AssertionError):
            srmudp.get_formal_address_format(text)  # type: ignore[arg-type]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux")
@pytest.mark.parametrize("family", FAMILIES)
def test_the_mtu_that_linux_knows(family: int) -> None:
    assert 1280 <= srmudp.get_mtu_linux(family, HOSTS[socket.AddressFamily(family)]) <= 65_536


# --- beside the other class ---


def test_both_classes_in_one_program_and_with_each_other(make: Maker) -> None:
    one, two = make.streams()
    with MultiHolepunchSocket(host="127.0.0.1") as many:
        alone = make(0)
        many.add_peer("alone", ("127.0.0.1", port_of(alone)))
        alone.connect(f"127.0.0.1:{many.port}")
        assert many.wait_connected("alone", DEADLINE)
        assert alone.peer_id == many.peer_id
        delivery = many.send(b"to one of many", "alone")
        assert alone.receive(timeout=DEADLINE) == (f"127.0.0.1:{many.port}", b"to one of many", alone.peer_public_key)
        assert delivery.wait(DEADLINE)
        alone.send(b"thanks")
        message = many.receive(DEADLINE)
        assert message is not None
        assert (message.content, message.peer) == (b"thanks", "alone")
        one.sendall(b"meanwhile")
        assert two.recv(100) == b"meanwhile"


def test_a_stream_on_the_old_wire(make: Maker) -> None:
    """Of two of ours; tests/interop has the old program at the other end."""
    one, two = make.streams(wire="srudp", span=0.5)
    data = os.urandom(100_000)
    sending = make.start(one.sendall, data)
    assert read(two, 1000) == data[:1000]
    assert two.fileno() > 0
    assert read(two, 99_000) == data[1000:]
    sending.result(DEADLINE)
    assert (one.mtu_size, one.get_window_size()) == (1472, 1426)
    assert (one.peer_id, one.peer_public_key) == (None, None)
    two.broadcast(b"to whoever reads")
    assert one.recv(100) == b"to whoever reads"
    with pytest.raises(OSError, match="no end of one direction"):
        one.shutdown(socket.SHUT_WR)
    one.close()
    assert two.recv(10) == b""
    assert two.is_closed


def test_messages_on_the_old_wire(make: Maker) -> None:
    one, two = make.messages(wire="srmudp-0.0.4", span=0.5)
    data = os.urandom(20_000)
    one.send(data)
    received = two.receive(timeout=DEADLINE)
    assert received == (f"127.0.0.1:{port_of(one)}", data, None)


def test_over_a_bad_network(make: Maker) -> None:
    """5 % of the datagrams lost, others twice or late: the stream is whole."""
    config = Config(transport=impaired(loss=0.05, duplicate=0.05, reorder=0.05, seed=1))
    one, two = make.streams(config=config)
    data = os.urandom(500_000)
    sending = make.start(one.sendall, data)
    assert read(two, len(data)) == data
    sending.result(DEADLINE)
    assert threading.active_count() < 30
