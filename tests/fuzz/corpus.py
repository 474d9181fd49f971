"""The corpus: small inputs for every target in ``corpus/<target>/``. ``python -m tests.fuzz.corpus`` writes it anew.

They come from real traffic of simulated conversations with a fixed seed, and from edges thought out by hand. Files
whose name begins with ``finding-`` are kept: each was a finding once.
"""

from __future__ import annotations

import contextlib
import io
import json
import struct
from base64 import b32decode
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from srmudp.crypto.backend import select_backend
from srmudp.crypto.keys import cookie_tag
from srmudp.models import Address, Candidate, NatBehaviour, NatTraits
from srmudp.nat.invites import Invite
from srmudp.wire import frames, packet
from srmudp.wire.codec import VARINT_MAX, encode_varint
from srmudp.wire.frames import Ack, ChannelState, MessagePart, SessionStart, UnreliablePart, parse_frames, serialise
from srmudp.wire.packet import PUBLIC_KEY, PUNCH, RECORD, RESEND, SHARED_KEY, Hello
from srmudp.wire.stun import StunClass, StunMessage
from tests.endpoints import Recorder, connect, identity, make_node, send
from tests.fuzz.old_wire_corpus import put_old_wire
from tests.fuzz.sealed_targets import ListeningBackend
from tests.simnet import Link, SimNet

FOLDER = Path(__file__).parent / "corpus"
SEED = 20

Step = tuple[str, int, int, int, int]
"""Action, who, x, y, seed: one step of a script."""


def files(target: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of every corpus file of a target, in order."""
    folder = FOLDER / target
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        yield path.name, path.read_bytes()


def traffic(pin: bool) -> tuple[list[bytes], list[bytes]]:
    """A conversation of two endpoints over a bad link: the datagrams, and the plaintexts of the records."""
    listening = ListeningBackend(select_backend())
    with contextlib.redirect_stdout(io.StringIO()):
        net = SimNet(SEED, link=Link(latency=0.01, loss=0.05, reorder=0.05, reorder_delay=0.01))
        record = Recorder(net)
        a = make_node(net, "a", "10.0.0.1", claimed="Alice", backend=listening)
        b = make_node(net, "b", "10.0.0.2", backend=listening)
        connect(net, a, b, pin=pin)
        for channel in range(3):
            send(a, b, b"to and fro" * (channel + 1), channel=channel)
            send(b, a, b"fro and to" * (channel + 1), channel=channel, reliable=False)
        net.run(1)
        send(a, b, bytes(range(256)) * 200)
        net.run(2)
        net.run(130)  # a key update
        b.do(b.node.remove_peer, "a")
        net.run(1)
    return [item.data for item in record.items], listening.plaintexts


def smallest(items: Sequence[bytes], key: Callable[[bytes], object], limit: int) -> list[bytes]:
    """The smallest item of each kind that ``key`` tells apart."""
    best: dict[object, bytes] = {}
    for item in sorted(items, key=len):
        best.setdefault(key(item), item)
    return sorted(best.values(), key=lambda item: (len(item), item))[:limit]


def build() -> dict[str, dict[str, bytes]]:
    """Every generated file: target -> name -> content."""
    result: dict[str, dict[str, bytes]] = {}

    def put(target: str, name: str, data: bytes) -> None:
        result.setdefault(target, {})[name] = data

    for pin in (False, True):
        datagrams, plaintexts = traffic(pin)
        label = "pinned" if pin else "open"
        for target, kind in (("punch", PUNCH), ("public_key", PUBLIC_KEY), ("shared_key", SHARED_KEY)):
            for data in smallest([d for d in datagrams if d[0] == kind], lambda d: d[0], 1):
                put(target, label, data)
        segments = [data for data in datagrams if data[0] in (RECORD, RESEND)]
        for number, data in enumerate(smallest(segments, lambda d: (d[0], d[26] > 1, d[29] > 0), 6)):
            put("segment", f"{label}-{number}", data)
        for number, data in enumerate(smallest(plaintexts, _kinds, 40)):
            put("record", f"{label}-{number:02}", data)
            for frame in parse_frames(data):
                if not isinstance(frame, frames.Padding):
                    put(f"frame_{type(frame).__name__}", label, serialise(frame)[1:])
        put("kind", "all", bytes(range(256)))
    _records(put)
    _hellos(put)
    _stun(put)
    put_old_wire(put)
    _frames(put)
    _texts(put)
    scripts(put)
    return result


def _kinds(plaintext: bytes) -> object:
    return tuple(sorted({type(frame).__name__ for frame in parse_frames(plaintext)}))


Put = Callable[[str, str, bytes], None]


def _records(put: Put) -> None:
    cookie = packet.build_cookie(7, b"\x5a" * 16, lambda data: cookie_tag(identity("a").peer_id, data))
    put("cookie", "right", cookie)
    put("cookie", "empty", cookie[:10] + bytes(16) + cookie[26:])
    put("cookie", "version", cookie[:1] + b"\x02" + cookie[2:])
    for name, (count, size, length) in {
        "single": (1, 40, 40),
        "two": (2, 40, 50),
        "all": (44, 30, 44 * 30),
        "short end": (3, 100, 201),
    }.items():
        header = packet.RecordHeader(1, 0x0123456789ABCDEF, 5, 9, count, size)
        wire = packet.cut_record(header, bytes(range(256)) * 6 if length > 1400 else bytes(length))
        put("run", name.replace(" ", "-"), struct.pack(">H", size + 30) + wire)
        put("run", f"{name.replace(' ', '-')}-twice", struct.pack(">H", size + 30) + wire + wire)
        if count > 2:
            gap = wire[: size + 30] + wire[2 * (size + 30) :]
            put("run", f"{name.replace(' ', '-')}-with-a-gap", struct.pack(">H", size + 30) + gap)
        put("segment", name.replace(" ", "-"), wire[: size + 30])
    top = packet.RecordHeader(255, (1 << 64) - 1, packet.NUMBER_LIMIT - 1, packet.NUMBER_LIMIT - 44, 44, 17)
    put("segment", "limits", packet.cut_record(top, bytes(44 * 17))[:47])
    put("segment", "resent", packet.resend_segment(top, bytes(44 * 17), 43, packet.NUMBER_LIMIT - 1))
    for target, kind in (("punch", PUNCH), ("public_key", PUBLIC_KEY), ("shared_key", SHARED_KEY)):
        put(target, "header-alone", bytes((kind, packet.VERSION)) + bytes(7) + b"\1")
        put(target, "index-zero", bytes((kind, packet.VERSION)) + bytes(510))
        put(target, "newer", bytes((kind, packet.VERSION + 1)) + bytes(7) + b"\1" + bytes(502))


def _hellos(put: Put) -> None:
    peer_id = identity("a").peer_id
    plain = Hello(peer_id, bytes(16), 1, True, "", 1)
    put("hello", "plain", plain.encode())
    full = Hello(
        *(peer_id, b"\xff" * 16, (1 << 32) - 1, False, "Zoë \u202e", (1 << 64) - 1),
        observed=Address("2001:db8::1", 65_535),
        token=bytes(64),
    )
    put("hello", "full", full.encode())
    put("hello", "flags", plain.encode()[:52] + b"\x80" + plain.encode()[53:])
    put("hello", "not-utf-8", plain.encode()[:61] + b"\x02\xc3\x28\x00\x00")
    put("hello", "mapped", plain.encode()[:61] + b"\x00\x06" + bytes(10) + b"\xff\xff\x7f\x00\x00\x01\x00\x01\x00")


def _stun(put: Put) -> None:
    samples = json.loads((FOLDER.parent.parent / "vectors" / "stun_rfc5769.json").read_text("utf-8"))["vectors"]
    for sample in samples:
        put("stun", "rfc-5769-" + sample["name"][:3], bytes.fromhex(sample["hex"]))
    name, v4, v6 = bytes(range(12)), Address("192.0.2.1", 3478), Address("2001:db8::1", 1)
    made = {
        "request": StunMessage(StunClass.REQUEST, name),
        "change": StunMessage(StunClass.REQUEST, name, change_ip=True, change_port=True, fingerprint=True),
        "indication": StunMessage(StunClass.INDICATION, name),
        "answer": StunMessage(StunClass.SUCCESS, name, v4, v6, "name", origin=v4, other=v6, fingerprint=True),
        "refusal": StunMessage(StunClass.ERROR, name, error=(420, "why"), unknown=(3, 0x7FFF)),
    }
    for label, message in made.items():
        put("stun", label, message.encode())
    unknown = b"".join(kind.to_bytes(2, "big") + bytes(2) for kind in range(0x30, 0x30 + 300))
    request = made["request"].encode()
    put("stun", "all-unknown", request[:2] + len(unknown).to_bytes(2, "big") + request[4:] + unknown)
    put("stun", "zeros", request[:2] + (1240).to_bytes(2, "big") + request[4:] + bytes(1240))


def _frames(put: Put) -> None:
    spread = tuple((VARINT_MAX - 3 * n, VARINT_MAX - 3 * n) for n in range(frames.MAX_RANGES))
    states = tuple(ChannelState(n, VARINT_MAX, VARINT_MAX - 1) for n in range(64))
    hosts = ("0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "ff02::1", "fe80::1")
    named = [Candidate(frames.CANDIDATE_KINDS[n % 5], Address(hosts[n % 8], (0, 53)[n // 8])) for n in range(16)]
    made: dict[str, frames.Frame] = {
        "full": Ack(VARINT_MAX, spread, spread, spread),
        "everything": Ack(0, ((0, VARINT_MAX),)),
        "all-channels": SessionStart(b"\1" * 8, b"\2" * 8, 0, VARINT_MAX, VARINT_MAX, VARINT_MAX, states, VARINT_MAX),
        "empty": MessagePart(0, 0, 0, 0, b""),
        "far": MessagePart(63, VARINT_MAX, VARINT_MAX - 1, VARINT_MAX, b"x"),
        "huge": UnreliablePart(0, VARINT_MAX, 0, VARINT_MAX, b"x"),
        "longest": frames.Close(frames.CloseCode.LIMIT, "\x1b]0;x\x07" * 18),
        "numbers": frames.Grant(63, VARINT_MAX, VARINT_MAX),
        "nobody": frames.ObservedAddress(Address("::", 0)),
        "far-taken": frames.Taken(63, VARINT_MAX),
        "far-withdrawn": frames.Withdrawn(63, VARINT_MAX),
        "wide": frames.Window(VARINT_MAX),
        "long": frames.SingleOnly(VARINT_MAX),
        "zero-key": frames.KeyUpdate(255, bytes(32)),
        "zero-reply": frames.KeyUpdateReply(255, bytes(32)),
        "zero": frames.PathChallenge(bytes(8)),
        "answer": frames.PathResponse(bytes(8)),
        "ping": frames.Ping(),
        "established": frames.Established(),
        "sixteen": frames.Candidates(VARINT_MAX, tuple(named)),
    }
    for name, frame in made.items():
        put(f"frame_{type(frame).__name__}", name, serialise(frame)[1:])
        put("record", f"one-{type(frame).__name__}-{name}", serialise(frame))
    put("record", "all", b"".join(map(serialise, made.values())))
    put("record", "empty", b"")
    put("record", "zeros", bytes(300))
    put("record", "pings", b"\1" * 1025)
    put("record", "unknown", b"\x3f" + bytes(20))
    put("record", "cut", b"\x04\x00\x80\x00")
    put("record", "nine-acks", serialise(Ack(0, ((0, 0),))) * 9)
    put("record", "five-lists", serialise(frames.Candidates(0, ())) * 5)
    for count in (1, 2, 4, 8):
        put("reader", f"varint-{count}", b"\x04" + encode_varint((1 << (8 * count - 2)) - 1))
    put("reader", "address", b"\x05\x04\x7f\x00\x00\x01\xff\xff")
    put("reader", "address-6", b"\x06\x06" + bytes(15) + b"\x01\x00\x01")
    put("reader", "text", b"\x09\x05\xc3\xa9\xf0\x9f\x98")
    put("reader", "beyond", b"\xf4\x01")


def _texts(put: Put) -> None:
    peer_id = str(identity("a").peer_id)
    for number, text in enumerate(
        (
            *("192.0.2.1:8000", "[2001:db8::1]:8000", "example.com:1", f"{peer_id}@host:65535", "a:1\nb:2\n[::1]:3"),
            *("[fe80::1%1]:5000", "::1:5000", "0.0.0.0:1", "[::ffff:192.0.2.1]:1", "255.255.255.255:9", "host", ":1"),
            *("1.2.3:4", "x..y:1", "\u00e4.example:1", "@:", "@@a:1", "[]:1", "[a]:1", "a:\u0661", "a:99999", "-a:1"),
            *("a" * 64 + ":1", ".".join(["a" * 63] * 5) + ":1", "\n".join(f"10.0.0.{n}:1" for n in range(40))),
        )
    ):
        put("address", f"{number:02}", text.encode())
    for number, text in enumerate(
        ("Alice", "", "  ", "\u00e9\ne\u0301", "a" * 65, "\u202ebob", "a\x00b", "\U0001f600" * 16, "x\u2028y", "a\na")
    ):
        put("name", f"{number:02}", text.encode())
    for name, text in {
        "right": peer_id,
        "upper": f" {peer_id.upper()}\n",
        "short": peer_id[:-1],
        "not-canonical": peer_id[:-1] + "b",
        "padded": peer_id + "====",
        "digits": "0189" * 13,
    }.items():
        put("peer_id", name, text.encode())
    for name, key in {"zeros": bytes(32), "one": b"\1" + bytes(31), "sign": b"\xff" * 32}.items():
        put("peer_id", f"key-{name}", key)
    places = (Address("192.0.2.7", 8000), Address("2001:db8::7", 8000))
    nat = NatTraits(NatBehaviour.ADDRESS_AND_PORT_DEPENDENT, NatBehaviour.ADDRESS_DEPENDENT, -4, 40_001)
    for name, made in {
        "plain": Invite(identity("a").peer_id, places, 1_800_000_000),
        "full": Invite(identity("a").peer_id, places * 4, 4_294_967_295, "Alice", nat, b"T" * 16),
    }.items():
        text = made.text()
        put("invite", name, text.encode())
        put("invite", f"{name}-body", b32decode(text[7:].upper() + "=" * (-len(text[7:]) % 8))[1:-4])
        put("invite", f"{name}-cut", text[:-3].encode())
    put("invite", "long", b"srmudp:" + b"a" * 600)
    put("invite", "port", b"srmudp:8000")
    entry = {"peer_id": peer_id, "pinned": True, "addresses": ["192.0.2.1:8000", "[2001:db8::1]:1"]}
    known = json.dumps({"alice": entry, "b\u00f6b": {"peer_id": peer_id}}, indent=1)
    for name, text in {
        "right": known,
        "empty": "",
        "list": "[]",
        "twice": '{"a": {}, "a": {}}',
        "deep": "[" * 2_000,
        "long-number": "9" * 5_000,
        "surrogate": '{"\\ud800": {"peer_id": "x"}}',
        "nan": '{"a": NaN}',
        "not-text": '{"a": {"peer_id": 7}}',
        "addresses": '{"a": {"peer_id": "x", "addresses": {"a": 1}}}',
        "bom": "\ufeff{}",
    }.items():
        put("known_peers", name, text.encode())
    seed = b"\x01" * 32
    for name, data in {
        "form": f"srmudp identity 1\npeer_id {peer_id}\nseed {seed.hex()}\n".encode(),
        "windows": f"srmudp identity 1\r\npeer_id {peer_id}\r\nseed {seed.hex()}\r\n".encode(),
        "newer": b"srmudp identity 2\n",
        "empty": b"",
        "other": b"-----BEGIN PRIVATE KEY-----\n",
    }.items():
        put("key_file", name, data)


# --- scripts


def script(target: str, header: tuple[int, int], *steps: Step) -> bytes:
    """The bytes of a script for one of the endpoint targets."""
    from tests.fuzz.targets import WORLDS

    actions = list(WORLDS[target].ACTIONS)
    body = b"".join(struct.pack(">BBBBH", actions.index(action), *numbers) for action, *numbers in steps)
    return bytes(header) + body


def scripts(put: Put) -> None:
    """One script for each phase of a connection, each attack in it a few times."""

    def some(action: str, times: int, who: int = 0, y: int = 0) -> list[Step]:
        return [(action, who, 3 * n, y + (n & 1), 1000 + n) for n in range(times)]

    talk: list[Step] = [
        ("connect", 0, 0, 0, 0),
        *(("wait", 0, 60, 2, 0), ("small", 0, 200, 3, 0), ("large", 0, 200, 8, 0), ("unreliable", 0x80, 200, 20, 0)),
        ("wait", 0, 40, 1, 0),
    ]
    attacks: dict[str, list[Step]] = {
        "before": [*some("raw", 6, y=30), talk[0], *some("overtaking", 6), *talk[1:]],
        "during": [talk[0], *some("overtaking", 8, 4), ("wait", 0, 20, 0, 0), *some("mutated", 12), *talk[1:]],
        "after": [*talk, *some("mutated", 20), *some("replayed", 6, 0x18)],
        "records": [*talk, *some("segments", 3, y=250), ("large", 0, 255, 1, 0), *some("overtaking", 8, 2), talk[5]],
        "floods": [*talk, *some("flood", 3), *some("flood", 3, 0x14, 1), *some("batch", 6)],
        "restart": [*talk, ("restart", 0, 0, 0, 0), *some("overtaking", 6), *some("replayed", 8, y=1), *talk[1:]],
        "responder": [*talk, ("restart", 1, 0, 0, 0), *some("replayed", 12, 0x18, 1), *some("mutated", 6), *talk[1:]],
        "roaming": [*talk, ("roam", 0, 0, 0, 0), *some("overtaking", 8, 1), *talk[1:], *some("replayed", 6)],
        "keys": [*talk, ("update", 0, 0, 0, 0), ("wait", 0, 10, 1, 0), *some("overtaking", 8), *talk[1:]],
        "removal": [*talk, ("remove", 0, 30, 0, 0), *some("replayed", 8), *some("mutated", 6), *talk[1:]],
    }
    for number, (name, steps) in enumerate(attacks.items()):
        for variant in (0, 1, 6):
            put("endpoint", f"{name}-{variant}", script("endpoint", (variant | (number % 3) << 3, number), *steps))
    hostile: dict[str, list[Step]] = {
        "frames": [*talk[2:], *some("mutated", 10), *some("crafted", 10, y=2)],
        "kinds": [*talk[2:], *some("same_kind", 12, y=40)],
        "storms": [*talk[2:], *some("storm", 8)],
        "numbers": [*talk[2:], *some("jump", 6), *some("crafted", 6)],
        "pieces": [*talk[2:], *some("fragmented", 12, y=50), talk[5]],
        "glut": [*talk[2:], *some("glut", 4, 0x83, 12), *some("glut", 4, 3, 15), ("large", 0x80, 250, 8, 0), talk[5]],
        "early": [*some("early", 5, y=2), *talk[2:]],
        "silence": [*some("silent", 4, y=1), *talk[2:]],
        "keys": [*talk[2:], ("update", 0, 0, 0, 0), *some("crafted", 12, y=3), talk[5]],
    }
    for number, (name, steps) in enumerate(hostile.items()):
        for variant in (0, 2):
            put("sealed", name + f"-{variant}", script("sealed", (variant, number), *steps))
    knock: list[Step] = [("punch", 0, 0, 0, 1), ("shared_key", 0, 0, 0, 1), ("record", 0, 0, 0, 1)]
    doors: dict[str, list[Step]] = {
        "welcome": [*knock, ("record", 0, 0, 4, 2), *talk[2:]],
        "hellos": [step for n in range(10) for step in (("punch", n, n, 0, n), ("shared_key", 0, 0, 1 + n % 3, n))],
        "tags": [*some("punch", 10, y=1), *some("punch", 4, y=0x80), *some("mutated", 6)],
        "answers": [("wait", 0, 50, 2, 0), *some("public_key", 10, 1), *some("finish_ours", 3), *some("record", 5)],
        "right": [("wait", 0, 50, 2, 0), ("public_key", 0, 0, 0, 3), ("wait", 0, 9, 2, 0), *some("finish_ours", 2)],
        "flood": [*some("punches", 3), *knock, *some("punches", 3, 4), ("wait", 0, 90, 3, 0), *knock],
        "user": [*knock, *some("command", 6), *knock, *some("command", 6, 1, 2), *talk[2:]],
    }
    for number, (name, steps) in enumerate(doors.items()):
        for variant in (0, 8, 16):
            put("handshake", f"{name}-{variant}", script("handshake", (variant, number), *steps))


def main() -> None:
    """Write the corpus; what is no longer made goes, findings stay."""
    made = build()
    for folder in FOLDER.iterdir() if FOLDER.is_dir() else ():
        for path in folder.iterdir():
            if not path.name.startswith("finding-"):
                path.unlink()
    total = 0
    for target, contents in made.items():
        folder = FOLDER / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in contents.items():
            (folder / name).write_bytes(data)
            total += len(data)
    print(f"{sum(map(len, made.values()))} files, {total} bytes in {FOLDER}")


if __name__ == "__main__":
    main()
