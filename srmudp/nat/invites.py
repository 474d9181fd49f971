"""Invites: everything somebody needs to reach us, as one short text.

``srmudp:`` and lower-case base32 without padding, of::

    version | peer-id:32 expires:4 flags | token:16? nat:4? name addresses | checksum:4

The alphabet has no character that a chat program, a mail or a shell would change, a double click selects the whole of
it, and in capitals, which are read as well, it is the alphanumeric mode of QR codes. White space within is ignored,
because mails are wrapped.

A text with a token is a secret: whoever presents the token first is let in. Nothing here shows it but
:meth:`Invite.text`, no exception repeats any part of what it was given, and nothing proves that an invite comes from
whom it names: it is as good as the way by which it came.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from ..exceptions import DecodeError
from ..models import Address, NatBehaviour, NatTraits, PeerId
from ..wire.codec import Reader, encode_address, encode_prefixed
from .candidates import is_one_host

PREFIX: Final = "srmudp:"
VERSION: Final = 1
TOKEN: Final = 16
"""Bytes of a token: nobody guesses 128 bits, at one handshake a guess."""
MAX_TEXT: Final = 500
"""Characters of the longest invite."""
MAX_ADDRESSES: Final = 8
"""Addresses of an invite; each of them is punched."""
MAX_NAME: Final = 64
"""Bytes of the UTF-8 form of a name."""

_CHECKSUM: Final = 4
_LABEL: Final = b"srmudp invite"
_HAS_TOKEN: Final = 0x01
_HAS_NAT: Final = 0x02
_BEHAVIOURS: Final = (
    NatBehaviour.UNKNOWN,
    NatBehaviour.ENDPOINT_INDEPENDENT,
    NatBehaviour.ADDRESS_DEPENDENT,
    NatBehaviour.ADDRESS_AND_PORT_DEPENDENT,
)
_ALPHABET: Final = frozenset("abcdefghijklmnopqrstuvwxyz234567")
_LAST: Final = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Invite:
    """What an invite says.

    Attributes:
        peer_id: who invites; whoever answers has to prove this key.
        addresses: where, the likeliest first; at most ``MAX_ADDRESSES``.
        expires: wall clock (``time.time()``, whole seconds) after which the token is worth nothing.
        name: what the inviting one calls itself. Printable, and no proof of anything.
        nat: what the inviting one knows of its NAT.
        token: ``TOKEN`` secret bytes that whoever presents them first is let in for; empty without one.

    Example::

        invite = Invite.parse(text)
        print(invite.name, invite.peer_id, time.ctime(invite.expires))
    """

    peer_id: PeerId
    addresses: tuple[Address, ...]
    expires: int
    name: str = ""
    nat: NatTraits | None = None
    token: bytes = field(default=b"", repr=False)

    def text(self) -> str:
        """The text to be passed on. With a token in it, it is a secret.

        Raises:
            ValueError: a field does not fit, or there is no address.
        """
        _check(self.name, self.addresses)
        if len(self.token) not in (0, TOKEN) or not 0 <= self.expires <= _LAST:
            raise ValueError("a token or time is out of range")
        body = b"".join(
            (
                bytes((VERSION,)),
                self.peer_id.key,
                self.expires.to_bytes(4, "big"),
                bytes(((_HAS_TOKEN if self.token else 0) | (_HAS_NAT if self.nat else 0),)),
                self.token,
                _nat_bytes(self.nat) if self.nat else b"",
                encode_prefixed(self.name.encode(), MAX_NAME),
                bytes((len(self.addresses),)),
                *(encode_address(address) for address in self.addresses),
            )
        )
        text = base64.b32encode(body + _checksum(body)).decode().rstrip("=").lower()
        return PREFIX + text

    @classmethod
    def parse(cls, text: str) -> Invite:
        """Read an invite. Whether it expired is not looked at.

        Raises:
            ValueError: it is none, mistyped, cut, or of a later version. What it says of it never repeats the text.
        """
        if not isinstance(text, str):
            raise TypeError(f"an invite is str, not {type(text).__name__}")
        if len(text) > 4 * MAX_TEXT:
            raise ValueError(f"not an invite: it has {len(text)} characters; copy the invite alone")
        joined = "".join(text.split()).lower()
        if not joined.startswith(PREFIX):
            raise ValueError(f"not an invite: it does not begin with {PREFIX!r}")
        if len(joined) > MAX_TEXT:
            raise ValueError(
                f"not an invite: it has {len(joined)} characters and an invite at most {MAX_TEXT}; copy it alone"
            )
        body = _unpack(joined[len(PREFIX) :])
        try:
            return cls._read(body)
        except DecodeError as error:
            raise ValueError(f"not an invite that this version understands ({error})") from None

    @classmethod
    def _read(cls, body: bytes) -> Invite:
        reader = Reader(body, 1)
        peer_id, expires, flags = PeerId(reader.take(32)), reader.u32(), reader.u8()
        if flags & ~(_HAS_TOKEN | _HAS_NAT):
            raise DecodeError("unknown flags")
        token = reader.take(TOKEN) if flags & _HAS_TOKEN else b""
        nat = _read_nat(reader) if flags & _HAS_NAT else None
        name, count = reader.text(MAX_NAME), reader.u8()
        if count > MAX_ADDRESSES:
            raise DecodeError("too many addresses")
        addresses = tuple(reader.address() for _ in range(count))
        reader.finish()
        try:
            _check(name, addresses)
        except ValueError as error:
            raise DecodeError(str(error)) from None
        return cls(peer_id, addresses, expires, name, nat, token)


def is_invite(text: object) -> bool:
    """True for what is meant as an invite; ``"srmudp:8000"`` is a host name and a port."""
    if not isinstance(text, str):
        return False
    prefix, _, rest = text.lstrip().partition(":")
    return prefix.lower() + ":" == PREFIX and not (len(rest) <= 5 and rest.strip().isdigit())


def _check(name: str, addresses: Iterable[Address]) -> None:
    addresses = tuple(addresses)
    if not addresses or len(addresses) > MAX_ADDRESSES or not all(map(is_one_host, addresses)):
        raise ValueError("no address, too many, or one that no single host has")
    if name and not name.isprintable():
        raise ValueError("a name with control characters")


def _nat_bytes(nat: NatTraits) -> bytes:
    """Mapping and filtering, the step as a signed byte, the last port; 0 where it is not known."""
    behaviours = _BEHAVIOURS.index(nat.mapping) << 4 | _BEHAVIOURS.index(nat.filtering)
    return bytes((behaviours, (nat.port_step or 0) & 0xFF)) + (nat.last_port or 0).to_bytes(2, "big")


def _read_nat(reader: Reader) -> NatTraits:
    behaviours, step, port = reader.u8(), reader.u8(), reader.u16()
    try:
        mapping, filtering = _BEHAVIOURS[behaviours >> 4], _BEHAVIOURS[behaviours & 0x0F]
        return NatTraits(mapping, filtering, (step - 256 if step > 127 else step) or None, port or None)
    except (IndexError, ValueError):
        raise DecodeError("a NAT that there is not") from None


def _unpack(text: str) -> bytes:
    """What ``text`` stands for, without the checksum, which fits."""
    strange = set(text) - _ALPHABET
    if strange:
        raise ValueError(f"the invite is damaged: it cannot contain {min(strange)!a}; copy the whole of it anew")
    try:
        raw = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError):
        raise ValueError("the invite is cut: characters are missing; copy the whole of it anew") from None
    body = raw[:-_CHECKSUM]
    if base64.b32encode(raw).decode().rstrip("=").lower() != text or raw[-_CHECKSUM:] != _checksum(body):
        raise ValueError("the invite is damaged: a character is missing or mistyped; copy the whole of it anew")
    if not body or body[0] != VERSION:
        raise ValueError("the invite was made by a later version: update srmudp")
    return body


def _checksum(body: bytes) -> bytes:
    return sha256(_LABEL + body).digest()[:_CHECKSUM]
