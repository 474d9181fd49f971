"""Real Linux networks made for the test: two homes, two routers that translate addresses, and what goes wrong there.

::

    a 192.168.1.2 -- 192.168.1.1 na 203.0.113.1 ---- 203.0.113.2 nb 192.168.2.1 -- 192.168.2.2 b

Each of the four is a network namespace; sockets are made inside them by a thread that enters them for a moment.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from srmudp import Config, MultiHolepunchSocket
from srmudp.models import PeerState
from tests.namespaces import Namespaces, why_not
from tests.real.helpers import DEADLINE, Wire, alive, all_told, connected, content, digests, reach, receive, state

pytestmark = [pytest.mark.netns, pytest.mark.timeout(60)]

HOMES = {"a": "192.168.1", "b": "192.168.2"}
PUBLIC = {"a": "203.0.113.1", "b": "203.0.113.2"}
PORT = 8000


NOT_TESTED = "attacks 43, 50, 53 and 54 are NOT tested on real networks in this run"


class Lab(Namespaces):
    """The four namespaces. ``ip`` and ``nft`` act in one of them: "a", "na", "nb" or "b"."""

    def __init__(self) -> None:
        super().__init__("srmudp")
        self._sockets: list[MultiHolepunchSocket] = []

    def build(self) -> None:
        for where in ("a", "na", "nb", "b"):
            self.add(where)
        self.link("na", "wan", "203.0.113.1/24", "nb", "wan", "203.0.113.2/24")
        for side, home in HOMES.items():
            self.link(side, "eth0", f"{home}.2/24", "n" + side, "lan", f"{home}.1/24")
            self.ip(side, "route", "add", "default", "via", f"{home}.1")
            self.forward("n" + side)

    def nat(self, side: str, ports: str = "", *, inbound: str = "drop") -> None:
        """Make the router of a side translate, with the ports of its own choice or those given.

        Args:
            inbound: what becomes of packets from outside that nobody asked for: a home router drops them, a plain
                Linux box takes them for its own.
        """
        self.nft(
            "n" + side,
            f"""
            table ip nat
            delete table ip nat
            table ip nat {{
                chain post {{
                    type nat hook postrouting priority 100;
                    oifname wan meta l4proto udp masquerade {"to :" + ports if ports else ""};
                }}
                chain input {{
                    type filter hook input priority 0;
                    iifname wan ct state new {inbound};
                }}
            }}
            """,
        )

    def forget_flows(self, side: str) -> None:
        """Have the router of a side forget every mapping: Linux does when the interface of a masquerade goes down."""
        self.ip("n" + side, "link", "set", "wan", "down")
        self.ip("n" + side, "link", "set", "wan", "up")

    def socket(self, where: str, **options: Any) -> MultiHolepunchSocket:
        """A socket there. Closed with the lab."""
        options.setdefault("config", Config(max_mtu=1472))
        made = self.inside(where, lambda: MultiHolepunchSocket(PORT, **options))
        self._sockets.append(made)
        return made

    def close(self) -> None:
        for sock in self._sockets:
            sock.close(0)
        super().close()


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Two homes without translation or filters yet."""
    if reason := why_not():
        pytest.skip(f"{reason}: {NOT_TESTED}")
    made = Lab()
    try:
        try:
            made.build()
        except OSError as error:
            pytest.skip(f"{error}: {NOT_TESTED}")
        yield made
    finally:
        made.close()


def homes(lab: Lab, **options: Any) -> tuple[MultiHolepunchSocket, MultiHolepunchSocket]:
    """Connected sockets in two homes, behind routers that translate and drop what nobody asked for."""
    lab.nat("a")
    lab.nat("b")
    a, b = lab.socket("a", **options), lab.socket("b", **options)
    meet(a, b)
    return a, b


def home_and_public(lab: Lab) -> tuple[MultiHolepunchSocket, MultiHolepunchSocket]:
    """Connected sockets, the first one in a home, the other on a machine that everybody can reach.

    Were that one behind a router too, nobody could tell it where to send when the first has another port.
    """
    lab.nat("a")
    a, b = lab.socket("a"), lab.socket("nb")
    meet(a, b)
    return a, b


def meet(a: MultiHolepunchSocket, b: MultiHolepunchSocket) -> None:
    """Each adds the other's public address, pinned, since a port may change on its way out."""
    a.add_peer("b", f"{b.peer_id}@{PUBLIC['b']}:{PORT}")
    b.add_peer("a", f"{a.peer_id}@{PUBLIC['a']}:{PORT}")
    connected(a, b)


def address(sock: MultiHolepunchSocket, name: str) -> tuple[str, int]:
    """Where a socket sends what is for a peer."""
    found = sock.connections_status[name].address
    assert found is not None
    return found.host, found.port


def kinds(sock: MultiHolepunchSocket) -> list[str]:
    """The events of a socket, from now on."""
    heard: list[str] = []
    sock.on_event(lambda event: heard.append(event.kind))
    return heard


class Talk:
    """Messages both ways that are under way while something happens."""

    def __init__(self, a: MultiHolepunchSocket, b: MultiHolepunchSocket, count: int = 6, size: int = 200_000) -> None:
        self._ends = (a, b)
        self._sent = {"a": [content(size, f"a{n}") for n in range(count)]}
        self._sent["b"] = [content(size, f"b{n}") for n in range(count)]
        self._deliveries = [a.send(one, "b") for one in self._sent["a"]]
        self._deliveries += [b.send(one, "a") for one in self._sent["b"]]

    def end(self, within: float) -> None:
        """Each message came once and in order, and the sender knows."""
        a, b = self._ends
        for sock, sender in ((b, "a"), (a, "b")):
            assert digests(receive(sock, len(self._sent[sender]), within)) == digests(self._sent[sender])
        assert all(delivery.wait(within) for delivery in self._deliveries), (state(a), state(b))
        for sock in self._ends:
            assert sock.drops.get("internal_error", 0) == 0, state(sock)


# --- 50: rebinding


def test_attack_50_a_router_that_forgets(lab: Lab) -> None:
    """Attack 50: a router forgets its mappings in the middle of transfers, first for a new port, then a new address."""
    a, b = home_and_public(lab)
    assert address(b, "a") == (PUBLIC["a"], PORT)
    heard = kinds(b)
    talk = Talk(a, b)
    lab.nat("a", "40000-40100")
    lab.forget_flows("a")
    talk.end(DEADLINE)
    host, port = address(b, "a")
    assert (host, 40000 <= port <= 40100) == (PUBLIC["a"], True)
    talk = Talk(a, b)
    lab.ip("na", "addr", "add", "203.0.113.77/24", "dev", "wan")
    lab.ip("na", "addr", "del", "203.0.113.1/24", "dev", "wan")  # its flows go with it, and the second one goes too
    lab.ip("na", "addr", "replace", "203.0.113.77/24", "dev", "wan")
    talk.end(DEADLINE)
    assert address(b, "a")[0] == "203.0.113.77"
    alive(a, b)
    all_told(b)
    assert heard.count("roamed") == 2
    assert not {"lost", "reconnected"} & set(heard)


# --- 43: interfaces that vanish


def test_attack_43_an_interface_goes_down_and_comes_back(lab: Lab) -> None:
    """Attack 43: the cable is pulled for less than ``timeout``, then for more. Sends fail meanwhile, which is told."""
    a, b = homes(lab, timeout=5.0)
    heard = kinds(a)
    for longer in (False, True):
        talk = Talk(a, b)
        lab.ip("a", "link", "set", "eth0", "down")  # takes the routes with it
        if longer:
            reach(lambda: a.connections_status["b"].state is PeerState.LOST, lambda: state(a))
            reach(lambda: b.connections_status["a"].state is PeerState.LOST, lambda: state(b))
        else:
            reach(lambda: a.drops.get("transport_ENETUNREACH", 0) >= 4, lambda: state(a))
        lab.ip("a", "link", "set", "eth0", "up")
        lab.ip("a", "route", "add", "default", "via", "192.168.1.1")
        talk.end(DEADLINE)
        all_told(a)
        assert ("lost" in heard) is longer
    assert a.drops["transport_ENETUNREACH"] >= 8
    assert heard.count("lost") == heard.count("reconnected") == 1
    alive(a, b)


def test_attack_50_an_interface_comes_back_with_another_address(lab: Lab) -> None:
    """Attack 50: out of one Wi-Fi, into another: other address, other mapping, same conversation."""
    a, b = home_and_public(lab)
    heard = kinds(b)
    talk = Talk(a, b)
    lab.ip("a", "link", "set", "eth0", "down")
    lab.ip("a", "addr", "flush", "dev", "eth0")
    lab.ip("a", "addr", "add", "192.168.1.99/24", "dev", "eth0")
    lab.nat("a", "41000-41100")
    reach(lambda: a.drops.get("transport_ENETUNREACH", 0) >= 4, lambda: state(a))
    lab.ip("a", "link", "set", "eth0", "up")
    lab.ip("a", "route", "add", "default", "via", "192.168.1.1")
    talk.end(DEADLINE)
    assert 41000 <= address(b, "a")[1] <= 41100
    alive(a, b)
    all_told(b)
    assert "lost" not in heard


# --- 53: path MTU


def test_attack_53_a_black_hole_and_forged_icmp(lab: Lab) -> None:
    """Attack 53: forged "fragmentation needed" with an MTU of 68 changes nothing; a router that silently drops what is
    longer than 1,000 bytes, in the middle of transfers, costs a moment. Neither costs the connection."""
    # Without segmentation offload, whose long packets such a link would carry whole, so that the router sees no others.
    a, b = homes(lab, config=Config(max_mtu=1472, gso=False))
    reach(lambda: a.connections_status["b"].mtu == b.connections_status["a"].mtu == 1472, lambda: state(a))
    heard = kinds(a)
    talk = Talk(a, b)
    lab.inside("na", lambda: forge_icmp("192.168.1.2", (HOMES["a"] + ".2", PORT), (PUBLIC["b"], PORT)))
    talk.end(DEADLINE)
    assert a.connections_status["b"].mtu == 1472
    before = Talk(a, b, 4, 100_000)
    # The length in a UDP header counts its 8 bytes too. In "prerouting", where a packet is as it came.
    lab.nft("na", "table ip hole { chain c { type filter hook prerouting priority -300; udp length > 1008 drop; }; }")
    after = Talk(a, b, 4, 100_000)
    before.end(20)
    after.end(20)
    assert a.connections_status["b"].mtu == b.connections_status["a"].mtu == 1000
    alive(a, b)  # and nothing came twice
    all_told(a)
    assert not {"lost", "reconnected"} & set(heard)


def forge_icmp(target: str, source: tuple[str, int], destination: tuple[str, int]) -> None:
    """A hundred ICMP messages of type 3, code 4 (RFC 792, RFC 1191) about a datagram of ours; next-hop MTU 68."""

    def sum16(data: bytes) -> int:
        total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
        total = (total >> 16) + (total & 0xFFFF)
        return ~(total + (total >> 16)) & 0xFFFF

    ends = socket.inet_aton(source[0]), socket.inet_aton(destination[0])
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 1500, 7, 0x4000, 64, 17, 0, *ends)
    ip = ip[:10] + struct.pack(">H", sum16(ip)) + ip[12:]
    body = struct.pack(">BBHHH", 3, 4, 0, 0, 68) + ip + struct.pack(">HHHH", source[1], destination[1], 1480, 0)
    body = body[:2] + struct.pack(">H", sum16(body)) + body[4:]
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        for _ in range(100):
            raw.sendto(body, (target, 0))


# --- 54: unsolicited packets


def before_the_other(first: MultiHolepunchSocket, wire: Wire, other: MultiHolepunchSocket, side: str) -> None:
    """``first`` knocks in vain for a while."""
    first.add_peer("b" if side == "a" else "a", f"{other.peer_id}@{PUBLIC['b' if side == 'a' else 'a']}:{PORT}")
    reach(lambda: len(list(wire.sent())) >= 3)


@pytest.mark.parametrize("first", ["a", "b"])
def test_attack_54_home_routers(lab: Lab, first: str) -> None:
    """Attack 54: a router gets packets from outside before its own peer has spoken. It drops them, so nothing is left
    behind and both ends meet at the ports they expect."""
    lab.nat("a")
    lab.nat("b")
    wire = Wire()
    ends = {
        side: lab.socket(side, config=Config(max_mtu=1472, transport=wire if side == first else None)) for side in "ab"
    }
    before_the_other(ends[first], wire, ends["b" if first == "a" else "a"], first)
    a, b = ends["a"], ends["b"]
    meet(a, b)
    assert address(a, "b") == (PUBLIC["b"], PORT)
    assert address(b, "a") == (PUBLIC["a"], PORT)
    alive(a, b)


def test_attack_54_a_router_that_takes_strangers_packets_for_its_own(lab: Lab) -> None:
    """Attack 54: a plain masquerade keeps the unsolicited packet as a flow, so the peer's own flow gets another port.
    It is recognised by its key wherever it comes from, if the other end lets it in.
    """
    lab.nat("a", inbound="accept")
    wire = Wire()
    a, b = lab.socket("a"), lab.socket("nb", config=Config(max_mtu=1472, transport=wire))
    before_the_other(b, wire, a, "b")
    meet(a, b)
    host, port = address(b, "a")
    assert host == PUBLIC["a"]
    assert port != PORT, "the port was taken"
    alive(a, b)
