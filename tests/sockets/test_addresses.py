"""Peer names and peer specs."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srmudp.models import Address, Peer, PeerId
from srmudp.sockets.addresses import MAX_ADDRESSES, Target, check_name, parse_peers, parse_target

ALICE = PeerId(bytes(range(32)))
OTHER = PeerId(bytes(range(1, 33)))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("192.0.2.1:8000", Address("192.0.2.1", 8000)),
        (" 192.0.2.1:8000 ", Address("192.0.2.1", 8000)),
        (("192.0.2.1", 8000), Address("192.0.2.1", 8000)),
        ((ipaddress.ip_address("192.0.2.1"), 8000), Address("192.0.2.1", 8000)),
        ("[2001:DB8:0::1]:1", Address("2001:db8::1", 1)),
        (("2001:db8::1", 65535), Address("2001:db8::1", 65535)),
        (("[2001:db8::1]", 65535), Address("2001:db8::1", 65535)),
        ("[::ffff:192.0.2.9]:9", Address("192.0.2.9", 9)),
        ("[fe80::1%7]:9", Address("fe80::1%7", 9)),
        ("127.0.0.1:1", Address("127.0.0.1", 1)),
    ],
)
def test_literal_addresses_are_read_in_canonical_form(spec: Any, expected: Address) -> None:
    assert parse_target("x", spec) == Target((expected,))


def test_an_interface_name_becomes_its_number() -> None:
    assert parse_target("x", "[fe80::1%lo]:9").addresses[0].host.partition("%")[2].isdigit()


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("example.com:8002", ("example.com", 8002)),
        ("Example.COM.:8002", ("example.com", 8002)),
        (("localhost", 1), ("localhost", 1)),
        ("my_box-2:80", ("my_box-2", 80)),
        ("bücher.example:80", ("bücher.example", 80)),
    ],
)
def test_host_names_are_kept_for_the_resolver(spec: Any, expected: tuple[str, int]) -> None:
    assert parse_target("x", spec) == Target((), (expected,))


def test_a_pin_before_the_address() -> None:
    assert parse_target("x", f"{ALICE}@192.0.2.1:5") == Target((Address("192.0.2.1", 5),), (), ALICE)
    assert parse_target("x", f"{ALICE}@[2001:db8::1]:5").peer_id == ALICE


def test_peer_objects_and_lists() -> None:
    both = Target((Address("192.0.2.1", 5),), (("h.example", 6),), ALICE)
    assert parse_target("x", Peer(["192.0.2.1:5", ("h.example", 6)], ALICE)) == both
    assert parse_target("x", Peer(("192.0.2.1:5", "h.example:6"), ALICE)) == both
    assert parse_target("x", [f"{ALICE}@192.0.2.1:5", "h.example:6", "192.0.2.1:5"]) == both
    assert parse_target("x", Peer("192.0.2.1:5")) == Target((Address("192.0.2.1", 5),))
    assert parse_target("x", Peer(("192.0.2.1", 5))) == Target((Address("192.0.2.1", 5),))  # type: ignore[arg-type]
    assert parse_target("x", Peer(peer_id=ALICE)) == Target(peer_id=ALICE)


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "host",
        "host:",
        ":80",
        "host:0",
        "host:65536",
        "host:-1",
        "host:+1",
        "host:1e3",
        "host:٣",
        "host:999999999999999999999",
        "2001:db8::1",
        "2001:db8::1:80",
        "[2001:db8::1]",
        "[2001:db8::1]80",
        "[192.0.2.1]:80",
        "[]:80",
        "[host]:80",
        "1.2.3:80",
        "1.2.3.256:80",
        "1.2.3.4.5:80",
        "0.0.0.0:80",
        "[::]:80",
        "224.0.0.1:80",
        "[ff02::1]:80",
        "255.255.255.255:80",
        "[fe80::1%nosuchif]:80",
        "a b:80",
        "a\x00b:80",
        "-a:80",
        "a..b:80",
        "a" * 64 + ":80",
        "a." * 130 + "a:80",
        "xyz@192.0.2.1:80",
        "@192.0.2.1:80",
        "http://192.0.2.1:80",
        ("host",),
        ("host", "80"),
        ("host", 80.0),
        ("host", True),
        ("host", 0),
        (b"host", 80),
        ("192.0.2.1", 80, 0, 0),
        b"192.0.2.1:80",
        80,
        None,
        [],
        [[]],
        {"a": 1},
        Peer("192.0.2.1:80", peer_id=b"x" * 32),  # type: ignore[arg-type]
        [f"{ALICE}@192.0.2.1:5", f"{OTHER}@192.0.2.1:6"],
        [f"192.0.2.1:{n}" for n in range(1, MAX_ADDRESSES + 2)],
    ],
)
def test_a_malformed_spec_is_refused_by_name(spec: Any) -> None:
    with pytest.raises(ValueError, match="'carol'"):
        parse_target("carol", spec)


@given(st.one_of(st.text(max_size=80), st.tuples(st.text(max_size=20), st.integers())))
def test_any_spec_is_a_target_or_a_value_error(spec: Any) -> None:
    try:
        target = parse_target("x", spec)
    except ValueError:
        return
    assert len(target.addresses) + len(target.hosts) == 1


@pytest.mark.parametrize("name", ["alice", "Ålice", "名前", "a b", "Alice#k3f9", "x" * 64, "é" * 32, "👩‍🚀"])
def test_good_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", " ", "\t", "a\nb", "a\x00", "\x1b[31m", "a\x85", "\u2028", "\ud800", "a\u202eb", "x" * 65, "é" * 33]
)
def test_bad_names(name: str) -> None:
    with pytest.raises(ValueError):
        check_name(name)


def test_a_name_is_text() -> None:
    with pytest.raises(TypeError):
        check_name(b"alice")


def test_a_mapping_is_checked_as_a_whole() -> None:
    assert parse_peers({"a": "192.0.2.1:1", "b": "h.example:2"}) == {
        "a": Target((Address("192.0.2.1", 1),)),
        "b": Target((), (("h.example", 2),)),
    }
    with pytest.raises(ValueError, match="'b'"):
        parse_peers({"a": "192.0.2.1:1", "b": "nonsense"})
    with pytest.raises(ValueError, match="7"):
        parse_peers({7: "192.0.2.1:1"})
    with pytest.raises(TypeError):
        parse_peers(["192.0.2.1:1"])


def test_two_spellings_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="same name"):
        parse_peers({"\u00e9": "192.0.2.1:1", "e\u0301": "192.0.2.1:2"})


def test_our_own_id_is_refused() -> None:
    with pytest.raises(ValueError, match="'me'"):
        parse_peers({"me": f"{ALICE}@192.0.2.1:1"}, ALICE)
    parse_peers({"me": f"{OTHER}@192.0.2.1:1"}, ALICE)


def test_merging_keeps_order_and_pin() -> None:
    a, b = Address("192.0.2.1", 1), Address("192.0.2.2", 2)
    merged = Target((a,), (("h", 1),), ALICE).merged(Target((b, a), (("h", 1), ("i", 2))))
    assert merged == Target((a, b), (("h", 1), ("i", 2)), ALICE)
    assert Target((a,), (), ALICE).merged(Target((), (), OTHER)).peer_id == OTHER
