"""The format of what chats send each other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srmudp import DecodeError
from srmudp.chat.letters import MAX_TEXT, Kind, Letter, read, write


@given(st.sampled_from(Kind), st.text(max_size=16))
def test_round_trip(kind: Kind, text: str) -> None:
    assert read(write(Letter(kind, text))) == Letter(kind, text)


def test_the_bytes() -> None:
    assert write(Letter(Kind.ALL, "hé")) == b"\x01\x02h\xc3\xa9"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a chat message"),
        (b"\x01", "not a chat message"),
        (b"Hello, everyone!", "not a chat message"),
        (b"\x02\x02hi", "another version"),
        (b"\x01\x00hi", "unknown kind"),
        (b"\x01\x7fhi", "unknown kind"),
        (b"\x01\x02\xff\xfe", "not UTF-8"),
        (b"\x01\x02\xed\xa0\x80", "not UTF-8"),
        (b"\x01\x02" + b"x" * (MAX_TEXT + 1), "too long"),
        (b"\x01\x02" + b"x" * 2**20, "too long"),
        (b"\x01\x01" + b"x" * 65, "too long"),
        (b"\x01\x01" + b"x" * 2**20, "too long"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_attack_65_what_is_no_letter(data: bytes, reason: str) -> None:
    """Attack 65: limits before anything is parsed; there is no compression."""
    with pytest.raises(DecodeError, match=reason):
        read(data)


@given(st.binary(max_size=64))
def test_any_bytes_are_a_letter_or_refused(data: bytes) -> None:
    try:
        read(data)
    except DecodeError:
        pass
