"""Where the two ends of a benchmark are: loopback, a pair of virtual Ethernet devices, and what both need."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """Where the two ends are.

    Attributes:
        tx, rx: their IP addresses.
        enter_tx, enter_rx: commands that run another one there.
        mtu: bytes of an IP packet.
        loss: share of single datagrams lost each way.
        rate: bits a second of the link; None if nothing but the machine bounds it.
        rtt: seconds both ways without a queue.
        queue: of the link, in products of rate and RTT.
    """

    name: str
    tx: str
    rx: str
    enter_tx: tuple[str, ...] = ()
    enter_rx: tuple[str, ...] = ()
    mtu: int = 1500
    loss: float = 0.0
    rate: float | None = None
    rtt: float = 0.0
    queue: float | None = None


LOOPBACK = Place("loopback", "127.0.0.1", "127.0.0.1", mtu=65_536)


def run(*command: str, text: str | None = None) -> None:
    """Run a command of the system.

    Raises:
        RuntimeError: it failed; the text is what it said.
    """
    done = subprocess.run(command, input=text, text=True, capture_output=True, timeout=20)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


@contextlib.contextmanager
def ethernet(loss: float = 0.0) -> Iterator[Place]:
    """Two namespaces with a cable of MTU 1500 between them; gone afterwards.

    Args:
        loss: per cent of single datagrams (and TCP segments) that are lost in each direction. A rule of the packet
            filter on input; segmentation offload is off on the sending side, or 44 datagrams were lost at once.
    """
    a, b = (f"srmudp-bench-{os.getpid()}-{loss:g}-{end}" for end in "ab")
    try:
        for name in (a, b):
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "link", "add", "v0", "netns", a, "mtu", "1500", "type", "veth", "peer", "name", "v0", "netns", b)
        for name, address in ((a, "10.77.0.1"), (b, "10.77.0.2")):
            run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "v0")
            run("ip", "-n", name, "link", "set", "v0", "up")
            if loss:
                enter = ("ip", "netns", "exec", name)
                run(*enter, "ethtool", "-K", "v0", "tx-udp-segmentation", "off", "tso", "off", "gso", "off")
                rule = f"meta l4proto {{ udp, tcp }} numgen random mod 10000 < {round(loss * 100)} drop"
                table = f"table inet t {{\nchain i {{ type filter hook input priority 0; {rule}; }}\n}}\n"
                run(*enter, "nft", "-f", "-", text=table)
        wait_for_link(a, "10.77.0.2")
        what = f"veth, {loss:g} % loss" if loss else "veth"
        enter_a, enter_b = ("ip", "netns", "exec", a), ("ip", "netns", "exec", b)
        yield Place(what, "10.77.0.1", "10.77.0.2", enter_a, enter_b, loss=loss / 100)
    finally:
        for name in (a, b):
            subprocess.run(("ip", "netns", "del", name), capture_output=True, timeout=20)


def wait_for_link(namespace: str, address: str) -> None:
    """Until the neighbour is known: addresses are tentative and devices dormant for a moment."""
    deadline = time.monotonic() + 10
    command = ("ip", "-n", namespace, "route", "get", address)
    while subprocess.run(command, capture_output=True, timeout=10).returncode:
        if time.monotonic() > deadline:
            raise RuntimeError("the virtual Ethernet does not come up")
        time.sleep(0.05)


def why_no_ethernet(loss: float = 0.0) -> str:
    """Why there can be no namespaces here; empty if there can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "network namespaces need root"
    for tool in ("ip", "ethtool", "nft") if loss else ("ip",):
        if shutil.which(tool) is None:
            return f"there is no {tool}"
    return ""


def free_ports(count: int = 2) -> list[int]:
    """Ports of loopback that nobody has at the moment, neither for UDP nor for TCP."""
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            tcp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            udp.bind(("127.0.0.1", 0))
            with contextlib.suppress(OSError):
                tcp.bind(udp.getsockname())
                ports.append(udp.getsockname()[1])
        return ports


NAMED = ("-subj", "/CN=bench", "-addext", "subjectAltName=DNS:bench", "-addext", "basicConstraints=critical,CA:FALSE")
"""What is said of an end, not of an authority: some libraries refuse to meet an authority."""


def make_certificate(folder: str) -> str:
    """Path of a file with a fresh key and its certificate; empty if nothing here can make one."""
    path = os.path.join(folder, "bench.pem")
    if shutil.which("openssl"):
        key = os.path.join(folder, "key.pem")
        command = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        run(*command, "-keyout", key, "-out", path, "-days", "2", *NAMED)
        with open(path, "a") as file:
            file.write(Path(key).read_text())
        return path
    if importlib.util.find_spec("cryptography") is None:
        return ""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bench")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("bench")]), critical=False)
        .sign(private, hashes.SHA256())
    )
    pem, pkcs8, plain = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    Path(path).write_bytes(private.private_bytes(pem, pkcs8, plain) + certificate.public_bytes(pem))
    return path
