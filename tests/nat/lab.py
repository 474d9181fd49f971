"""Real Linux NATs of many kinds between real sockets, in network namespaces.

::

    a  --+                          s 203.0.3.2 and .3 (answers STUN)
         na -- 203.1.1.2 -- ca -- x
    a2 --+                          +- cb -- 203.1.2.2 -- nb -- b

``n`` is the router of a home and ``c`` the one of its provider, which only passes packets on unless the kind is a
carrier's or that of a second router in one home. Hosts behind a NAT have private addresses, and a and b the same one;
those without have public ones, 198.51.1.2 and 198.51.2.2. IPv6 is there everywhere, for hosts that
:meth:`NatLab.set_ipv6` gives it to. Nothing of all this touches the networks of the machine.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Final

from srmudp import Config, DiscoveryFailed, MultiHolepunchSocket, PublicAddress
from tests.namespaces import Namespaces

NAME: Final = "srmudpnat"
SIDES: Final = {"a": 1, "b": 2}
STUN: Final = ("203.0.3.2:3478", "203.0.3.3:3478")
STUN6: Final = ("[2a00:3::2]:3478", "[2a00:3::3]:3478")
PRIVATE: Final = {"a": "192.168.1.2", "a2": "192.168.1.3", "b": "192.168.1.2", "a3": "192.168.1.2"}
FORWARDED: Final = "forwarded"

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
# The ports stand in a map because a number that nft computes gets into a port with its bytes the wrong way round.
_SEQUENTIAL = """
    chain post {
        type nat hook postrouting priority 100;
        oifname wan meta l4proto udp snat to OUTSIDE : numgen inc mod 500 map { IN_A_ROW };
    }
"""
_ONE_A_HOST = """
    map back { type ipv4_addr . inet_service : inet_service; flags dynamic,timeout; timeout 60s; }
    chain post {
        type nat hook postrouting priority 100;
        oifname wan meta l4proto udp snat to OUTSIDE : HASH mod 20000 seed FIRST offset 40000;
    }
    chain note {
        type filter hook postrouting priority 110;
        oifname wan meta l4proto udp update @back { ip daddr . udp sport : ct original proto-src };
    }
    chain pre {
        type nat hook prerouting priority -100;
        iifname wan meta l4proto udp dnat to INSIDE : ip saddr . udp dport map @back;
    }
"""
_ONE_A_HOST = _ONE_A_HOST.replace("HASH", "jhash ip saddr . udp sport . ip daddr")
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
        iifname lan ip daddr OUTSIDE udp dport 20000-29999 dnat to INSIDE;
    }
    chain post {
        type nat hook postrouting priority 100;
        oifname wan meta l4proto udp masquerade HOW;
        oifname lan iifname lan meta l4proto udp snat to OUTSIDE;
    }
"""
_PLAIN = _MASQUERADE.replace("HOW", "")
_RANDOM = _MASQUERADE.replace("HOW", "fully-random")
_BY_HOST = _REMEMBER.replace("TYPE", "ipv4_addr").replace("KEY", "ip daddr")
_BY_PORT = _REMEMBER.replace("TYPE", "ipv4_addr . inet_service").replace("KEY", "ip daddr . udp dport")
_HOME = _PLAIN + _DROP_INBOUND

RULES: Final[dict[str, tuple[str, str]]] = {
    "open": ("", ""),
    "firewall": (_FIREWALL, ""),
    "full-cone": (_PLAIN + _LET_IN.replace("WHOM", ""), ""),
    "restricted": (_PLAIN + _DROP_INBOUND + _BY_HOST + _LET_IN.replace("WHOM", "ip saddr @met"), ""),
    "port-restricted": (_PLAIN + _DROP_INBOUND + _BY_PORT + _LET_IN.replace("WHOM", "ip saddr . udp sport @met"), ""),
    "symmetric-adm": (_ONE_A_HOST + _DROP_INBOUND, ""),
    "symmetric-seq": (_SEQUENTIAL + _DROP_INBOUND, ""),
    "symmetric": (_RANDOM + _DROP_INBOUND, ""),
    "tcp-only": (_BLOCKED, ""),
    "linux": (_HOME, ""),
    "linux-open": (_PLAIN, ""),
    "linux-random": (_RANDOM, ""),
    "cgnat-pr": (_HOME, _HOME),
    "cgnat-sym": (_HOME, _RANDOM + _DROP_INBOUND),
    "double": (_PLAIN, _HOME),
    FORWARDED: (_RANDOM + _DROP_INBOUND + _LET_IN.replace("WHOM", "udp dport 20000-39999"), ""),
    "hairpin": (_HAIRPIN.replace("HOW", "") + _DROP_INBOUND, ""),
    "symmetric-hairpin": (_HAIRPIN.replace("HOW", "fully-random") + _DROP_INBOUND, ""),
    "cgnat-hairpin": (_HOME, _HAIRPIN.replace("HOW", "") + _DROP_INBOUND),
}
"""What the router of a home and its provider's do, by kind of NAT. ``linux`` is a plain masquerade that drops what
nobody asked for, ``linux-open`` one that does not; cgnat is a home behind a carrier, ``double`` one router behind
another in a home; ``forwarded`` gives every flow out another port and lets everybody in at the ports our sockets
have. Hairpin is for the pairs of one home or carrier."""

BARE: Final = frozenset({"open", "firewall", "tcp-only"})
"""Kinds that translate nothing."""
_FIREWALL6 = """
table ip6 lab6 {
    chain through { type filter hook forward priority 0; iifname wan meta l4proto udp ct state new drop; }
}
"""


class NatLab(Namespaces):
    """The network above, with two STUN servers."""

    def __init__(self) -> None:
        super().__init__(NAME)
        self._servers: list[MultiHolepunchSocket] = []
        self._port = 20_000
        self._first = 40_000
        self._kinds: dict[str, str] = {}

    def build(self) -> None:
        """Make it. Close it whatever happens."""
        for where in ("x", "s"):
            self.add(where)
        self.link("x", "to_s", "203.0.3.1/24", "s", "eth0", "203.0.3.2/24")
        self._batch("s", "addr add 203.0.3.3/24 dev eth0", "route add default via 203.0.3.1")
        self._batch("x", "addr add 2a00:3::1/64 dev to_s nodad")
        self._batch(
            *("s", "addr add 2a00:3::2/64 dev eth0 nodad", "addr add 2a00:3::3/64 dev eth0 nodad"),
            "route add default via 2a00:3::1",
        )
        self.forward("x")
        for side, n in SIDES.items():
            home, carrier = "n" + side, "c" + side
            for where in (carrier, home, side):
                self.add(where)
            self.link("x", "to_" + side, f"203.0.{n}.1/24", carrier, "wan", f"203.0.{n}.2/24")
            self.link(carrier, "lan", f"203.1.{n}.1/24", home, "wan", f"203.1.{n}.2/24")
            self._batch(home, "link add lan type bridge", "link set lan up")
            self._batch(home, *(f"addr add {at} dev lan" for at in (f"198.51.{n}.1/24", "192.168.1.1/24")))
            self._batch(home, f"addr add 2a00:{n}:2::1/64 dev lan nodad", f"addr add 2a00:{n}:1::2/64 dev wan nodad")
            self._batch(home, f"route add default via 203.1.{n}.1", f"route add default via 2a00:{n}:1::1")
            self._batch(
                *(carrier, f"addr add 100.64.{n}.1/24 dev lan", f"addr add 2a00:{n}:1::1/64 dev lan nodad"),
                *(f"addr add 2a00:{n}::2/64 dev wan nodad", f"route add default via 203.0.{n}.1"),
                *(f"route add default via 2a00:{n}::1", f"route add 198.51.{n}.0/24 via 203.1.{n}.2"),
                f"route add 2a00:{n}:2::/48 via 2a00:{n}:1::2",
            )
            self._batch(
                *("x", f"route add 203.1.{n}.0/24 via 203.0.{n}.2", f"route add 198.51.{n}.0/24 via 203.0.{n}.2"),
                *(f"addr add 2a00:{n}::1/64 dev to_{side} nodad", f"route add 2a00:{n}::/32 via 2a00:{n}::2"),
            )
            self.forward(carrier)
            self.forward(home)
        self.add("a2")
        for side, home in (("a", "na"), ("a2", "na"), ("b", "nb")):
            self.link(home, "to_" + side, "", side, "eth0", "")
            self._batch(home, f"link set to_{side} master lan")
        for server in (*STUN, *STUN6):
            self._servers.append(self.inside("s", functools.partial(_serve, server)))
        for side in SIDES:
            self.set_kind(side, "open")

    def _batch(self, where: str, *commands: str) -> None:
        """Several of ``ip``'s commands, on both kinds of IP."""
        self.ip(where, "-batch", "-", text="\n".join(commands) + "\n")

    def set_kind(self, side: str, kind: str) -> None:
        """Have a side live behind another kind of NAT from now on, without IPv6; what was there is forgotten."""
        n = SIDES[side]
        bare, behind = kind in BARE, bool(RULES[kind][1])
        outside = f"100.64.{n}.2" if behind else f"203.1.{n}.2"
        inside, second, router = (
            (f"198.51.{n}.2", f"198.51.{n}.3", f"198.51.{n}.1")
            if bare
            else (
                *(PRIVATE[side], PRIVATE["a2"]),
                "192.168.1.1",
            )
        )
        self._kinds[side] = kind
        # The system still knows the flows of before, and a port cannot have two to one destination.
        self._first = self._first + 500 if self._first < 60_000 else 40_000
        for where, rules, its_outside, its_inside, its_second in (
            ("n" + side, RULES[kind][0], outside, inside, second),
            ("c" + side, RULES[kind][1], f"203.0.{n}.2", outside, f"100.64.{n}.3"),
        ):
            rules = (
                rules.replace("FIRST", str(self._first))
                .replace("IN_A_ROW", ", ".join(f"{number} : {self._first + number}" for number in range(500)))
                .replace("OUTSIDE", its_outside)
                .replace("INSIDE", its_inside)
                .replace("SECOND", its_second)
            )
            self.nft(where, f"flush ruleset\ntable ip lab {{\n{rules}\n}}\n")
        self._batch(
            *("n" + side, "addr flush dev wan scope global", f"addr add {outside}/24 dev wan"),
            f"addr add 2a00:{n}:1::2/64 dev wan nodad",
            f"route replace default via {outside[:-1]}1",
            f"route replace default via 2a00:{n}:1::1",
        )
        for host, address in ((side, inside), ("a2", second)) if side == "a" else ((side, inside),):
            self._batch(
                *(host, "addr flush dev eth0 scope global", f"addr add {address}/24 dev eth0"),
                f"route replace default via {router}",
            )
        self.isolate(side, False)

    def set_ipv6(self, side: str, kind: str) -> None:
        """Give a side's host IPv6 beside what it has, "open" or behind a stateful "firewall", till the next kind."""
        n = SIDES[side]
        self._batch(*(side, f"addr add 2a00:{n}:2::2/64 dev eth0 nodad", f"route replace default via 2a00:{n}:2::1"))
        self.nft("n" + side, _FIREWALL6 if kind == "firewall" else "")

    def isolate(self, side: str, on: bool = True) -> None:
        """Keep the hosts in a side's home from talking to each other, as guest networks do; its router still does."""
        for host in ("a", "a2") if side == "a" else (side,):
            self._batch("n" + side, f"link set dev to_{host} type bridge_slave isolated {'on' if on else 'off'}")

    def map_port(self, side: str, outside: int, inside: tuple[str, int] | None) -> None:
        """Have the router of a side let in what comes for a port of its outside, till the next kind; None ends that."""
        rule = "" if inside is None else f"udp dport {outside} dnat to {inside[0]}:{inside[1]}"
        chain = f"chain pre {{\n type nat hook prerouting priority -101;\n iifname wan {rule}\n}}\n" if rule else ""
        # Deleting needs it to be there.
        self.nft("n" + side, f"table ip ports {{ }}\ndelete table ip ports\ntable ip ports {{\n{chain}}}\n")

    def add_neighbour(self) -> None:
        """Have a second home, with host a3, behind the carrier of a. Idempotent; stays."""
        if self.has("a3"):
            return
        self.add("na3")
        self.add("a3")
        # The carrier's side becomes a bridge, as that of a home is.
        self._batch(
            *("ca", "link set lan down", "link set lan name to_a", "link add lan type bridge", "link set lan up"),
            *("addr flush dev to_a", "link set to_a up", "link set to_a master lan"),
            *(
                "addr add 100.64.1.1/24 dev lan",
                "addr add 203.1.1.1/24 dev lan",
                "addr add 2a00:1:1::1/64 dev lan nodad",
            ),
            *("route add 198.51.1.0/24 via 203.1.1.2", "route add 2a00:1:2::/48 via 2a00:1:1::2"),
        )
        self.link("ca", "to_a3", "", "na3", "wan", "100.64.1.3/24")
        self._batch("ca", "link set to_a3 master lan")
        self.link("na3", "lan", "192.168.1.1/24", "a3", "eth0", "192.168.1.2/24")
        self._batch("na3", "route add default via 100.64.1.1")
        self._batch("a3", "route add default via 192.168.1.1")
        self.forward("na3")
        self.nft("na3", f"table ip lab {{\n{_HOME}\n}}\n")

    def told(self, where: str, port: int, seen: PublicAddress | None, *, inside: bool = False) -> list[str]:
        """The address a person tells others: that of the forwarded port, else what servers saw, else a guess.

        Args:
            inside: the private address beside it, for others in the same home.
        """
        public = f"203.1.{SIDES.get(where, 1)}.2:{port}"
        if seen is not None and self._kinds.get(where) != FORWARDED:
            public = str(seen)
        return [public, f"{PRIVATE[where]}:{port}"] if inside else [public]

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


def _serve(server: str) -> MultiHolepunchSocket:
    host, _, port = server.rpartition(":")
    return MultiHolepunchSocket(int(port), host=host.strip("[]"), serve_stun=True)


def discover(
    lab: NatLab, where: str, sock: MultiHolepunchSocket, servers: Sequence[str] = STUN
) -> PublicAddress | None:
    """What the two servers see of a socket, or None if nothing comes back."""
    try:
        return lab.inside(where, lambda: sock.discover(servers, timeout=0.7))
    except DiscoveryFailed:
        return None
