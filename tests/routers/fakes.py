"""Routers that map ports, made up: PCP and NAT-PMP over UDP, UPnP over SSDP and HTTP, by the bytes of the standards."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv6Address
from typing import Any
from xml.etree import ElementTree

from srmudp.models import Address
from srmudp.routers.asking import Grant, RouterError


def until(condition: Callable[[], object], within: float = 20.0) -> None:
    """Return as soon as ``condition`` holds, which another thread is about to bring about."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.0005)


Mappings = dict[int, tuple[str, int, int]]
"""Outside port to our host, our port and the lifetime."""


class FakeRouter:
    """A router that speaks PCP and NAT-PMP, or only one of them, until it is closed.

    Args:
        outside: its outside address.
        speaks: ``"pcp"``, ``"natpmp"``, ``"both"`` or ``"none"``.
        on_map: told of each new outside port with the host and port inside, or None if it goes.
        spoil: changes every answer, or drops it by returning nothing.

    Attributes:
        mappings: the table.
        refuse: a result code for every mapping asked for; 0 for success.
        requests: all that came.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        outside: str = "198.51.100.7",
        speaks: str = "both",
        on_map: Callable[[int, tuple[str, int] | None], None] = lambda outside, inside: None,
        spoil: Callable[[bytes], bytes | None] = lambda answer: answer,
    ) -> None:
        self.outside, self.speaks, self._on_map, self.spoil = outside, speaks, on_map, spoil
        self.lifetime = 7200
        self.refuse = 0
        self.mappings: Mappings = {}
        self.requests: list[bytes] = []
        self.taken: set[int] = set()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((host, port))
        self._socket.settimeout(0.05)
        self._closed = False
        self.address: tuple[str, int] = self._socket.getsockname()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._closed:
            try:
                data, source = self._socket.recvfrom(2048)
            except TimeoutError:
                continue
            self.requests.append(data)
            answer = self._pcp(data, source) if data[0] == 2 else self._natpmp(data, source)
            answer = None if answer is None else self.spoil(answer)
            if answer:
                self._socket.sendto(answer, source)

    def _natpmp(self, data: bytes, source: tuple[str, int]) -> bytes | None:
        if self.speaks not in ("natpmp", "both"):
            return None
        if data == b"\0\0":
            return struct.pack("!BBHI", 0, 128, 0, 99) + socket.inet_aton(self.outside)
        inside, outside, lifetime = struct.unpack("!HHI", data[4:12])
        if self.refuse:
            return struct.pack("!BBHIHHI", 0, 129, self.refuse, 99, inside, 0, 0)
        outside, lifetime = self._map(source[0], inside, outside, lifetime)
        return struct.pack("!BBHIHHI", 0, 129, 0, 99, inside, outside, lifetime)

    def _pcp(self, data: bytes, source: tuple[str, int]) -> bytes | None:
        if self.speaks == "natpmp":
            return struct.pack("!BBHI", 0, 128 | data[1], 1, 99)  # RFC 6886 section 3.5
        if self.speaks == "none":
            return None
        if data[1] == 0:
            return struct.pack("!BBBBII12x", 2, 0x80, 0, 0, 0, 99)
        lifetime = struct.unpack("!I", data[4:8])[0]
        client = IPv6Address(data[8:24]).ipv4_mapped
        inside, outside = struct.unpack("!HH", data[40:44])
        result = self.refuse or (12 if str(client) != source[0] else 0)
        if not result:
            outside, lifetime = self._map(source[0], inside, outside, lifetime)
        header = struct.pack("!BBBBII12x", 2, 0x81, 0, result, lifetime, 99)
        ip = IPv6Address(f"::ffff:{self.outside}").packed
        return header + data[24:40] + struct.pack("!HH", inside, outside) + ip

    def _map(self, host: str, inside: int, outside: int, lifetime: int) -> tuple[int, int]:
        ours = [port for port, (owner, its, _) in self.mappings.items() if (owner, its) == (host, inside)]
        if not lifetime:
            for port in ours:
                del self.mappings[port]
                self._on_map(port, None)
            return 0, 0
        outside = ours[0] if ours else outside
        while outside in self.taken:
            outside += 1
        lifetime = min(lifetime, self.lifetime)
        self.mappings[outside] = host, inside, lifetime
        self._on_map(outside, (host, inside))
        return outside, lifetime

    def close(self) -> None:
        """No answers from now on."""
        self._closed = True
        self._thread.join(5)
        self._socket.close()


class Made:
    """A router made up: ``script`` has what each order to map brings; the last one again and again."""

    def __init__(self, *script: Address | str, protocol: str = "PCP", lifetime: float = 1000.0) -> None:
        self.protocol, self.host = protocol, "192.168.1.1"
        self.script = list(script)
        self.lifetime = lifetime
        self.orders: list[Address | None] = []
        self.closed = 0
        self.found = 0

    def find(self, given_up: Callable[[], bool]) -> Made:
        self.found += 1
        return self

    def map(self, port: int, outside: Address | None) -> Grant:
        self.orders.append(outside)
        said = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(said, str):
            raise RouterError(said)
        return Grant(said, self.lifetime)  # type: ignore[arg-type]

    def unmap(self) -> None:
        pass

    def close(self, limit: float) -> None:
        self.closed += 1

    abandon = unmap


def silent(given_up: Callable[[], bool]) -> Made:
    raise RouterError("nobody answers")


_DESCRIPTION = """<?xml version="1.0"?>
<root xmlns="urn:schemas-upnp-org:device-1-0"><specVersion><major>1</major><minor>0</minor></specVersion>
<device><deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType><friendlyName>fake</friendlyName>
<manufacturer>tests</manufacturer><modelName>fake</modelName><UDN>uuid:00000000-0000-0000-0000-000000000001</UDN>
<deviceList><device><deviceType>urn:schemas-upnp-org:device:WANDevice:1</deviceType><friendlyName>wan</friendlyName>
<deviceList><device><deviceType>urn:schemas-upnp-org:device:WANConnectionDevice:1</deviceType>
<friendlyName>connection</friendlyName><serviceList><service>
<serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>
<serviceId>urn:upnp-org:serviceId:WANIPConn1</serviceId><controlURL>/control</controlURL>
<eventSubURL>/event</eventSubURL><SCPDURL>/scpd.xml</SCPDURL>
</service></serviceList></device></deviceList></device></deviceList></device></root>"""
_ENVELOPE = (
    '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" '
    's:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>{}</s:Body></s:Envelope>'
)


class FakeIgd:
    """A router that speaks UPnP: answers searches and has mappings made over HTTP.

    Args:
        host: its address inside.
        endless: its description has no end.
    """

    def __init__(
        self,
        host: str,
        *,
        outside: str,
        on_map: Callable[[int, tuple[str, int] | None], None] = lambda outside, inside: None,
        endless: bool = False,
    ) -> None:
        self.outside = outside
        self.mappings: Mappings = {}
        self.only_permanent = False
        self.orders: list[str] = []
        self._on_map = on_map
        igd = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if endless:
                    with contextlib.suppress(OSError):
                        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n<root>")
                        while True:
                            self.wfile.write(b"<x>" * 100_000)
                else:
                    self._say(200, _DESCRIPTION.encode())

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self._say(*igd.order(self.headers["SOAPAction"].strip('"').partition("#")[2], body))

            def _say(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "text/xml")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer((host, 0), Handler)
        self._search = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._search.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._search.bind(("", 1900))
        self._search.settimeout(0.05)
        self._closed = False
        group = socket.inet_aton("239.255.255.250") + socket.inet_aton(host)
        self._search.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        self._location = f"http://{host}:{self._http.server_port}/root.xml"
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._serve, self._answer)]
        for thread in self._threads:
            thread.start()

    def _serve(self) -> None:
        self._http.serve_forever(0.05)

    def _answer(self) -> None:
        while not self._closed:
            try:
                data, source = self._search.recvfrom(2048)
            except TimeoutError:
                continue
            target = next((line[3:].strip() for line in data.decode().split("\r\n") if line[:3] == "ST:"), "")
            if data.startswith(b"M-SEARCH") and "InternetGatewayDevice" in target:
                answer = (
                    f"HTTP/1.1 200 OK\r\nST: {target}\r\nUSN: uuid:1::{target}\r\nLOCATION: {self._location}\r\n\r\n"
                )
                self._search.sendto(answer.encode(), source)

    def order(self, action: str, body: bytes) -> tuple[int, bytes]:
        """What is answered to an order."""
        self.orders.append(action)
        given = {element.tag: element.text or "" for element in ElementTree.fromstring(body).iter()}
        port = int(given.get("NewExternalPort", 0))
        said: dict[str, object] = {}
        if action == "GetExternalIPAddress":
            said = {"NewExternalIPAddress": self.outside}
        elif action == "GetStatusInfo":
            said = {"NewConnectionStatus": "Connected", "NewLastConnectionError": "ERROR_NONE", "NewUptime": 9}
        elif action == "AddPortMapping":
            lease = int(given["NewLeaseDuration"])
            if self.only_permanent and lease:
                return self._fault(725, "OnlyPermanentLeasesSupported")
            inside = given["NewInternalClient"], int(given["NewInternalPort"])
            self.mappings[port] = (*inside, lease)
            self._on_map(port, inside)
        elif action == "GetSpecificPortMappingEntry" and port in self.mappings:
            host, inside_port, lease = self.mappings[port]
            said = {"NewInternalClient": host, "NewInternalPort": inside_port, "NewEnabled": 1}
            said |= {"NewPortMappingDescription": "x", "NewLeaseDuration": lease}
        elif action == "DeletePortMapping" and port in self.mappings:
            del self.mappings[port]
            self._on_map(port, None)
        else:
            return self._fault(714, "NoSuchEntryInArray")
        inner = "".join(f"<{name}>{value}</{name}>" for name, value in said.items())
        name = f"u:{action}Response"
        space = 'xmlns:u="urn:schemas-upnp-org:service:WANIPConnection:1"'
        return 200, _ENVELOPE.format(f"<{name} {space}>{inner}</{name}>").encode()

    @staticmethod
    def _fault(code: int, text: str) -> tuple[int, bytes]:
        error = f'<UPnPError xmlns="urn:schemas-upnp-org:control-1-0"><errorCode>{code}</errorCode>'
        error += f"<errorDescription>{text}</errorDescription></UPnPError>"
        fault = f"<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail>{error}</detail>"
        return 500, _ENVELOPE.format(fault + "</s:Fault>").encode()

    def close(self) -> None:
        """Gone."""
        self._closed = True
        self._http.shutdown()
        for thread in self._threads:
            thread.join(5)
        self._http.server_close()
        self._search.close()
