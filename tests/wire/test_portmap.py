"""NAT-PMP and PCP: the bytes of the standards, and that nothing else is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srmudp.exceptions import DecodeError
from srmudp.models import Address
from srmudp.wire.portmap import (
    MAX_ANSWER,
    RouterAnswer,
    natpmp_address_request,
    natpmp_map_request,
    parse_router_answer,
    pcp_announce_request,
    pcp_map_request,
)

NONCE = bytes(range(12))
MAPPED = "00000000000000000000ffff"


def test_requests_are_those_of_the_standards() -> None:
    assert natpmp_address_request() == bytes(2)
    assert natpmp_map_request(5000, 5001, 1200).hex() == "00010000" + "1388" + "1389" + "000004b0"
    announce = "02000000" + "00000000" + MAPPED + "c0a80102"
    assert pcp_announce_request("192.168.1.2").hex() == announce
    head = "02010000" + "000004b0" + MAPPED + "c0a80102" + NONCE.hex() + "11000000"
    none = pcp_map_request(NONCE, "192.168.1.2", 5000, None, 1200)
    assert none.hex() == head + "1388" + "1388" + MAPPED + "00000000"
    again = pcp_map_request(NONCE, "192.168.1.2", 5000, Address("198.51.100.7", 6000), 1200)
    assert again.hex() == head + "1388" + "1770" + MAPPED + "c6336407"
    assert pcp_map_request(NONCE, "192.168.1.2", 5000, None, 0).hex()[80:] == "13880000" + MAPPED + "00000000"


def test_answers_are_read() -> None:
    address = bytes.fromhex("0080" + "0000" + "00000063" + "c6336407")
    assert parse_router_answer(address) == RouterAnswer("NAT-PMP", False, 0, 99, host="198.51.100.7")
    mapped = bytes.fromhex("0081" + "0000" + "00000063" + "1388" + "1770" + "00000e10")
    assert parse_router_answer(mapped) == RouterAnswer("NAT-PMP", True, 0, 99, 3600, b"", 5000, "", 6000)
    refused = parse_router_answer(bytes.fromhex("0081" + "0002" + "00000063"))
    assert (refused.result, refused.reason) == (2, "not authorised")
    head = "02810000" + "00000e10" + "00000063" + "00" * 12
    pcp = bytes.fromhex(head + NONCE.hex() + "11000000" + "1388" + "1770" + MAPPED + "c6336407")
    assert parse_router_answer(pcp) == RouterAnswer("PCP", True, 0, 99, 3600, NONCE, 5000, "198.51.100.7", 6000)
    assert parse_router_answer(pcp[:3] + b"\x08" + pcp[4:]).reason == "no resources"
    assert parse_router_answer(pcp[:3] + b"\xff" + pcp[4:24]).reason == "error 255"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0080",
        "00000000000000000000",  # a request
        "01800000" + "00000063" + "c6336407",  # a version nobody has
        "00800000" + "00000063" + "c63364",  # cut short
        "00800000" + "00000063" + "c633640700",
        "00820000" + "00000063" + "13881770" + "00000e10",  # TCP
        "02810000" + "00000e10" + "00000063" + "00" * 12,  # no mapping in it
        "02810000" + "00000e10" + "00000063" + "00" * 12 + "00" * 12 + "06000000" + "1388" * 2 + "00" * 16,  # TCP
        "02810000" + "00000e10" + "00000063" + "00" * 13,
        "0280" + "00" * MAX_ANSWER,
    ],
)
def test_what_is_no_answer_is_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        parse_router_answer(bytes.fromhex(text))


@given(st.binary(max_size=80), st.sampled_from([b"", b"\0\x80\0\0", b"\0\x81\0\0", b"\2\x80\0\0", b"\2\x81\0\0"]))
def test_any_bytes_are_read_or_refused(data: bytes, begin: bytes) -> None:
    try:
        answer = parse_router_answer(begin + data)
    except DecodeError:
        return
    assert 0 <= answer.port < 1 << 16
    assert answer.reason == "" if not answer.result else answer.reason
