"""Real Linux NATs of many kinds between real sockets, in network namespaces.

::

    a 198.51.1.2 --+                                  s 203.0.3.2 and .3 (answers STUN)
                   na 198.18.1.2 -- ca 203.0.1.2 -- x
    a2 198.51.11.2-+                                  +- cb 203.0.2.2 -- nb 198.18.2.2 -- b 198.51.2.2

``n`` is the router of a home and ``c`` the one of its provider, which only passes packets on unless the kind is a
carrier's. Nothing of all this touches the networks of the machine.
"""

from __future__ import annotations

from typing import Final

from srmudp import Config, DiscoveryFailed, MultiHolepunchSocket, PublicAddress
from tests.namespaces import Namespaces

NAME: Final = "srmudpnat"
SIDES: Final = {"a": 1, "b": 2}
STUN: Final = ("203.0.3.2:3478", "203.0.3.3:3478")

_DROP_INBOUND = """
    chain in { type filter hook input priority 0; iifname wan meta l4proto udp ct state new drop; }
"""
_MASQUERADE = """
    chain post { type nat hook postrouting priority 100; oifname wan meta l4proto udp masquerade HOW; }
"""
_LET_IN = """
    chain pre {
        type nat hook prerouting priority -100;
        iifname wan meta l4proto udp WHOM dnat to INSIDE;
    }
"""
_REMEMBER = """
    set met { type TYPE; flags dynamic,timeout; timeout 60s; }
    chain out { type filter hook forward priority 0; oifname wan meta l4proto udp update @met { KEY }; }
"""
_SEQUENTIAL = """
    chain post {
        type nat hook postrouting priority 100;
        oifname wan meta l4proto udp snat to OUTSIDE : numgen inc mod 500 offset FIRST;
    }
"""
_FIREWALL = """
    chain through { type filter hook forward priority 0; iifname wan meta l4proto udp ct state new drop; }
"""
_BLOCKED = """
    chain through { type filter hook forward priority 0; meta l4proto udp drop; }
"""
_HAIRPIN = """
    chain pre {
        type nat hook prerouting priority -100;
        iifname lan ip daddr OUTSIDE udp dport 30000-39999 dnat to SECOND;
        iifname lan2 ip daddr OUTSIDE udp dport 20000-29999 dnat to INSIDE;
    }
    chain post {
        type nat hook postrouting priority 100;
        oifname wan meta l4proto udp masquerade;
        oifname { lan, lan2 } iifname { lan, lan2 } meta l4proto udp masquerade;
    }
"""
_PLAIN = _MASQUERADE.replace("HOW", "")
_RANDOM = _MASQUERADE.replace("HOW", "fully-random")
_BY_HOST = _REMEMBER.replace("TYPE", "ipv4_addr").replace("KEY", "ip daddr")
_BY_PORT = _REMEMBER.replace("TYPE", "ipv4_addr . inet_service").replace("KEY", "ip daddr . udp dport")

RULES: Final[dict[str, tuple[str, str]]] = {
    "open": ("", ""),
    "firewall": (_FIREWALL, ""),
    "full-cone": (_PLAIN + _LET_IN.replace("WHOM", ""), ""),
    "restricted": (_PLAIN + _DROP_INBOUND + _BY_HOST + _LET_IN.replace("WHOM", "ip saddr @met"), ""),
    "port-restricted": (_PLAIN + _DROP_INBOUND + _BY_PORT + _LET_IN.replace("WHOM", "ip saddr . udp sport @met"), ""),
    "symmetric-seq": (_SEQUENTIAL + _DROP_INBOUND, ""),
    "symmetric": (_RANDOM + _DROP_INBOUND, ""),
    "tcp-only": (_BLOCKED, ""),
    "linux": (_PLAIN + _DROP_INBOUND, ""),
    "linux-open": (_PLAIN, ""),
    "cgnat-pr": (_PLAIN + _DROP_INBOUND, _PLAIN + _DROP_INBOUND),
    "cgnat-sym": (_PLAIN + _DROP_INBOUND, _RANDOM + _DROP_INBOUND),
    "hairpin": (_HAIRPIN + _DROP_INBOUND, ""),
}
"""What the router of a home and its provider's do, by kind of NAT. ``linux`` is a plain masquerade that drops what
nobody asked for, ``linux-open`` one that does not; cgnat is a home behind a carrier."""


class NatLab(Namespaces):
    """The network above, with two STUN servers."""

    def __init__(self) -> None:
        super().__init__(NAME)
        self._servers: list[MultiHolepunchSocket] = []
        self._port = 20_000
        self._first = 40_000

    def build(self) -> None:
        """Make it. Close it whatever happens."""
        for where in ("x", "s"):
            self.add(where)
        self.link("x", "to_s", "203.0.3.1/24", "s", "eth0", "203.0.3.2/24")
        self.ip("s", "addr", "add", "203.0.3.3/24", "dev", "eth0")
        self.ip("s", "route", "add", "default", "via", "203.0.3.1")
        self.forward("x")
        for side, n in SIDES.items():
            for where in ("c" + side, "n" + side, side):
                self.add(where)
            self.link("x", "to_" + side, f"203.0.{n}.1/24", "c" + side, "wan", f"203.0.{n}.2/24")
            self.link("c" + side, "lan", f"198.18.{n}.1/24", "n" + side, "wan", f"198.18.{n}.2/24")
            self.link("n" + side, "lan", f"198.51.{n}.1/24", side, "eth0", f"198.51.{n}.2/24")
            for where, gateway in (
                ("c" + side, f"203.0.{n}.1"),
                ("n" + side, f"198.18.{n}.1"),
                (side, f"198.51.{n}.1"),
            ):
                self.ip(where, "route", "add", "default", "via", gateway)
            for where, inner, gateway in (
                ("x", f"198.18.{n}.0/24", f"203.0.{n}.2"),
                ("x", f"198.51.{n}.0/24", f"203.0.{n}.2"),
                ("c" + side, f"198.51.{n}.0/24", f"198.18.{n}.2"),
            ):
                self.ip(where, "route", "add", inner, "via", gateway)
            self.forward("c" + side)
            self.forward("n" + side)
        self.add("a2")
        self.link("na", "lan2", "198.51.11.1/24", "a2", "eth0", "198.51.11.2/24")
        self.ip("a2", "route", "add", "default", "via", "198.51.11.1")
        for server in STUN:
            host, _, port = server.partition(":")
            self._servers.append(
                self.inside(
                    "s", lambda host=host, port=port: MultiHolepunchSocket(int(port), host=host, serve_stun=True)
                )
            )

    def set_kind(self, side: str, kind: str) -> None:
        """Have a side live behind another kind of NAT from now on; what was there is forgotten."""
        n = SIDES[side]
        # The system still knows the flows of before, and a port cannot have two to one destination.
        self._first = self._first + 500 if self._first < 60_000 else 40_000
        for where, rules, outside, inside in (
            ("n" + side, RULES[kind][0], f"198.18.{n}.2", f"198.51.{n}.2"),
            ("c" + side, RULES[kind][1], f"203.0.{n}.2", f"198.18.{n}.2"),
        ):
            rules = (
                rules.replace("FIRST", str(self._first))
                .replace("OUTSIDE", outside)
                .replace("INSIDE", inside)
                .replace("SECOND", "198.51.11.2")
            )
            self.nft(where, f"flush ruleset\ntable ip lab {{\n{rules}\n}}\n")

    def socket(self, where: str, port: int) -> MultiHolepunchSocket:
        """A socket on a host."""
        return self.inside(where, lambda: MultiHolepunchSocket(port, config=Config(max_mtu=1472)))

    def ports(self) -> tuple[int, int]:
        """Local ports for one trial that no router has seen yet: one in the 20,000s, one in the 30,000s."""
        self._port += 1
        return self._port, self._port + 10_000

    def close(self) -> None:
        """Remove everything."""
        while self._servers:
            self._servers.pop().close(0)
        super().close()


def discover(lab: NatLab, where: str, sock: MultiHolepunchSocket) -> PublicAddress | None:
    """What the two servers see of a socket, or None if nothing comes back."""
    try:
        return lab.inside(where, lambda: sock.discover(STUN, timeout=0.7))
    except DiscoveryFailed:
        return None
