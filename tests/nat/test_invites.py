"""The text of an invite: what it holds, that damage is noticed and named, and that the secret in it is not shown."""

from __future__ import annotations

import base64
import contextlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srmudp.models import Address, NatBehaviour, NatTraits, PeerId
from srmudp.nat.invites import MAX_ADDRESSES, MAX_TEXT, PREFIX, TOKEN, Invite, _checksum, is_invite
from tests.endpoints import identity

ALICE = identity("a").peer_id
SECRET = bytes(range(200, 216))
PLAIN = Invite(ALICE, (Address("192.0.2.7", 8000), Address("2001:db8::7", 8000)), 1_800_000_000, "Alice", None, SECRET)
NAT = NatTraits(NatBehaviour.ADDRESS_AND_PORT_DEPENDENT, NatBehaviour.ADDRESS_DEPENDENT, -4, 40_001)


def packed(body: bytes) -> str:
    """A text of these bytes with the right checksum."""
    return PREFIX + base64.b32encode(body + _checksum(body)).decode().rstrip("=").lower()


def body_of(invite: Invite) -> bytes:
    text = invite.text()[len(PREFIX) :].upper()
    return base64.b32decode(text + "=" * (-len(text) % 8))[:-4]


def test_an_invite_is_what_was_written() -> None:
    for invite in (PLAIN, replace(PLAIN, nat=NAT), replace(PLAIN, name="", token=b""), replace(PLAIN, nat=NatTraits())):
        assert Invite.parse(invite.text()) == invite


def test_a_mail_may_wrap_it_and_a_qr_code_has_capitals() -> None:
    text = PLAIN.text()
    assert Invite.parse(f"  {text[:40]}\r\n {text[40:99]}\n\t{text[99:]} \n") == PLAIN
    assert Invite.parse(text.upper()) == PLAIN


def test_the_longest_fits() -> None:
    addresses = tuple(Address(f"2001:db8::{number}", 65_535) for number in range(MAX_ADDRESSES))
    text = Invite(ALICE, addresses, (1 << 32) - 1, "é" * 32, NAT, SECRET).text()
    assert len(text) <= MAX_TEXT
    assert len(PLAIN.text()) < 200, "short enough for a QR code on a terminal of 24 lines by 80"


def test_every_mistyped_missing_or_doubled_character_is_noticed() -> None:
    text = PLAIN.text()
    for place in range(len(PREFIX), len(text)):
        for wrong in (
            text[:place] + ("a" if text[place] != "a" else "b") + text[place + 1 :],
            text[:place] + text[place + 1 :],
            text[:place] + text[place] + text[place:],
            text[:place],
        ):
            with pytest.raises(ValueError, match=r"damaged|cut"):
                Invite.parse(wrong)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "does not begin"),
        ("alice.example:8000", "does not begin"),
        ("srmudp:", "damaged"),
        ("srmudp:a", "cut"),
        ("srmudp:" + "a" * 600, "at most 500"),
        (" " * 3000, "3000 characters"),
        ("srmudp:abc!def", "cannot contain '!'"),
        ("srmudp:\u202eabc", r"cannot contain '\\u202e'"),
        ("srmudp:0189", "cannot contain '0'"),
    ],
)
def test_what_is_none_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Invite.parse(text)


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body + b"\0",
        lambda body: body[:-1],
        lambda body: body[:37] + b"\x81" + body[38:],
        lambda body: body.replace(b"Alice", b"A\x1b[0m"),
        lambda body: body.replace(b"Alice", b"A\xff\xffce"),
        lambda body: body.replace(b"\xc0\x00\x02\x07", b"\0\0\0\0"),
        lambda body: body.replace(b"\xc0\x00\x02\x07", b"\xe0\0\0\1"),
        lambda body: body.replace(b"\xc0\x00\x02\x07\x1f\x40", b"\xc0\x00\x02\x07\0\0"),
        lambda body: body.replace(b"\x05Alice\x02", b"\x05Alice\x00"),
        lambda body: body.replace(b"\x05Alice\x02", b"\x05Alice\x09"),
    ],
)
def test_nonsense_with_a_right_checksum_is_refused(change) -> None:  # type: ignore[no-untyped-def]
    body = body_of(PLAIN)
    assert Invite.parse(packed(body)) == PLAIN
    assert change(body) != body
    with pytest.raises(ValueError, match="not an invite that this version understands"):
        Invite.parse(packed(change(body)))


def test_a_later_version_says_so() -> None:
    with pytest.raises(ValueError, match="later version: update"):
        Invite.parse(packed(b"\x02" + body_of(PLAIN)[1:]))


@settings(max_examples=30)
@given(st.text(max_size=80), st.binary(max_size=80))
def test_any_text_is_an_invite_or_a_value_error(text: str, body: bytes) -> None:
    for tried in (text, PREFIX + text, packed(body), packed(b"\x01" + ALICE.key + body)):
        with contextlib.suppress(ValueError):
            assert Invite.parse(tried).text()


def test_what_cannot_be_written_is_refused() -> None:
    for wrong in (
        {"addresses": ()},
        {"addresses": (Address("192.0.2.1", 1),) * 9},
        {"addresses": (Address("224.0.0.1", 1),)},
        {"name": "a\nb"},
        {"name": "a" * 65},
        {"token": b"short"},
        {"expires": 1 << 32},
    ):
        with pytest.raises(ValueError):
            replace(PLAIN, **wrong).text()  # type: ignore[arg-type]


def test_no_repr_shows_the_token() -> None:
    """Attack 45."""
    assert repr(SECRET)[2:-1] not in repr(PLAIN)
    assert SECRET.hex() not in repr(PLAIN)
    assert "token" not in repr(PLAIN)
    assert len(SECRET) == TOKEN


def test_what_is_meant_as_an_invite() -> None:
    assert is_invite(PLAIN.text())
    assert is_invite("  SRMUDP:ABC")
    assert is_invite("srmudp:"), "cut off: an invite, and a bad one"
    assert not is_invite("srmudp:8000"), "a host of that name, and a port"
    assert not is_invite("srmudp.example:8000")
    assert not is_invite(("srmudp:abc", 8000))
    assert isinstance(ALICE, PeerId)
