"""In network namespaces: somebody who writes a victim's address on what he sends, and what the victim gets of it.

::

    victim 10.66.1.2 --- x --- 10.66.3.2 server (accepts strangers, answers STUN, has a peer and waits for another)
    attacker 10.66.2.2 --+
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterable, Iterator

import pytest

from srmudp import Config, MultiHolepunchSocket
from srmudp.wire.packet import PUBLIC_KEY, PUNCH, RECORD, SHARED_KEY
from tests.namespaces import Namespaces, why_not
from tests.peers.test_attacks_paths import collected
from tests.real.helpers import Wire, drops, state

pytestmark = [pytest.mark.netns, pytest.mark.timeout(60)]

NETS = {"victim": "10.66.1", "attacker": "10.66.2", "server": "10.66.3"}
PORT = 8000
NOT_TESTED = "attack 36 is NOT tested on real networks in this run"


@pytest.fixture
def lab() -> Iterator[Namespaces]:
    """Three hosts around a router that looks at no sender's address."""
    if reason := why_not():
        pytest.skip(f"{reason}: {NOT_TESTED}")
    with Namespaces("srmudpamp") as made:
        try:
            made.add("x")
            made.forward("x")
            for host, net in NETS.items():
                made.add(host)
                made.link("x", host, f"{net}.1/24", host, "eth0", f"{net}.2/24")
                made.ip(host, "route", "add", "default", "via", f"{net}.1")
            made.run_in("x", "sh", "-c", "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done")
        except OSError as error:
            pytest.skip(f"{error}: {NOT_TESTED}")
        yield made


class Spoofer:
    """Sends UDP datagrams that seem to come from the victim.

    Attributes:
        sent: bytes of UDP payload so far.
    """

    def __init__(self, lab: Namespaces) -> None:
        self._raw = lab.inside("attacker", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW))
        self.sent = 0

    def shoot(self, datagrams: Iterable[bytes]) -> None:
        ends = socket.inet_aton(NETS["victim"] + ".2"), socket.inet_aton(NETS["server"] + ".2")
        for datagram in datagrams:
            size = len(datagram)
            ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 28 + size, 0, 0, 64, 17, 0, *ends)  # the system sums it up
            udp = struct.pack(">HHHH", PORT, PORT, 8 + size, 0)  # no checksum: RFC 768 allows it
            self._raw.sendto(ip + udp + datagram, (NETS["server"] + ".2", 0))
            self.sent += size

    def close(self) -> None:
        self._raw.close()


class Victim:
    """Somebody who never asked for anything.

    Attributes:
        got: bytes of UDP payload so far.
    """

    def __init__(self, lab: Namespaces) -> None:
        self._sock = lab.inside("victim", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._sock.bind(("", PORT))
        self._sock.setblocking(False)
        self.got = 0

    def read(self) -> int:
        """Bytes that came in all."""
        try:
            while True:
                self.got += len(self._sock.recv(65_535))
        except BlockingIOError:
            return self.got

    def close(self) -> None:
        self._sock.close()


def test_attack_36_a_victims_address_on_every_kind_of_packet(lab: Namespaces) -> None:
    """Attack 36: each kind of datagram, real ones of a session that the victim had among them: no more than came in
    goes out, all together, and nothing goes on by itself when the attacker stops."""
    wire, other = Wire(), Wire()
    server = lab.inside(
        "server",
        lambda: MultiHolepunchSocket(PORT, accept=True, serve_stun=True, config=Config(max_mtu=1472, transport=wire)),
    )
    once = lab.inside("victim", lambda: MultiHolepunchSocket(PORT, config=Config(max_mtu=1472, transport=other)))
    friend = lab.inside("attacker", lambda: MultiHolepunchSocket(PORT + 1, config=Config(max_mtu=1472)))
    spoofer = Spoofer(lab)
    with server, friend:
        with once:
            for sock, name, host in ((once, "b", "server"), (friend, "b", "server")):
                sock.add_peer(name, f"{server.peer_id}@{NETS[host]}.2:{PORT}")
            server.add_peer("a", f"{friend.peer_id}@{NETS['attacker']}.2:{PORT + 1}")
            server.add_peer("victim", f"{once.peer_id}@{NETS['victim']}.2:{PORT}")
            assert once.wait_connected("b", 10), state(once)
            assert friend.wait_connected("b", 10), state(friend)
            once.send(bytes(20_000), "b")
            assert server.receive(10) is not None
            real = [datagram for _, datagram in other.sent()]
            server.remove_peer("victim")
        victim = Victim(lab)
        try:
            kinds = {kind: [one for one in real if one[0] == kind] for kind in (PUNCH, PUBLIC_KEY, SHARED_KEY, RECORD)}
            assert kinds[PUNCH]
            assert kinds[RECORD]
            time.sleep(0.3)  # what the server still had to say to the real one, and the system's answers to it
            victim.read()
            victim.got = 0
            for name, datagrams in {**collected(36), **kinds, "all again": real}.items():
                wanted = wire.datagrams + len(datagrams)
                spoofer.shoot(datagrams)
                wire.wait(wanted)
                assert victim.read() <= spoofer.sent, name
            assert drops(server) > 500
            friend.send(b"x", "b")
            assert server.receive(10) is not None, state(server)
            had = victim.read()
            assert had > 0, "not even a punch was answered: the datagrams did not arrive as his"
            time.sleep(0.5)  # that nothing comes cannot be waited for in another way
            assert victim.read() - had <= 3 * 1200, "something is repeated by itself"
            assert victim.got <= spoofer.sent
        finally:
            spoofer.close()
            victim.close()
