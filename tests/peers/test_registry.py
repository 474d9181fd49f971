"""Who is who: names, keys, addresses, aliases, removals."""

from __future__ import annotations

import random

import pytest

from srmudp.exceptions import UnknownPeer
from srmudp.models import Address, PeerId, Trust
from srmudp.peers.peer import Peer
from srmudp.peers.registry import REMEMBERED_REMOVALS, Registry
from tests.endpoints import make_node
from tests.simnet import SimNet

HOME = Address("192.0.2.1", 1000)


def key(number: int) -> PeerId:
    return PeerId(random.Random(number).randbytes(32))


@pytest.fixture
def host() -> object:
    """An endpoint for the peers to live in; it knows nothing of the registry under test."""
    return make_node(SimNet(1), "a", "10.0.0.1").node


def new(host: object, registry: Registry, name: str, *addresses: Address) -> Peer:
    peer = Peer(host, name, 1000.0)  # type: ignore[arg-type]
    peer.addresses = list(addresses)
    registry.add(peer)
    return peer


def test_add_find_drop(host: object) -> None:
    registry = Registry()
    alice, bob = new(host, registry, "alice"), new(host, registry, "bob")
    assert registry.named("alice") is alice
    assert list(registry) == [alice, bob]
    assert len(registry) == 2
    assert "alice" in registry
    registry.drop(alice)
    registry.drop(alice)
    assert list(registry) == [bob]
    assert "alice" not in registry


def test_an_unknown_name_is_told_with_the_known_ones(host: object) -> None:
    registry = Registry()
    with pytest.raises(UnknownPeer, match=r"'alice'.*none"):
        registry.named("alice")
    new(host, registry, "bob")
    with pytest.raises(UnknownPeer, match=r"'alice'.*bob"):
        registry.named("alice")


def test_a_long_list_of_names_is_cut(host: object) -> None:
    registry = Registry()
    for number in range(500):
        new(host, registry, f"peer {number:04}")
    with pytest.raises(UnknownPeer) as caught:
        registry.named("alice")
    assert len(str(caught.value)) < 1000


def test_iterating_bears_changes(host: object) -> None:
    registry = Registry()
    for name in "abc":
        new(host, registry, name)
    for peer in registry:
        registry.drop(peer)
    assert len(registry) == 0


def test_bind_and_unbind(host: object) -> None:
    registry = Registry()
    alice = new(host, registry, "alice")
    registry.bind(alice, key(1))
    assert registry.by_id(key(1)) is alice
    registry.bind(alice, key(2))
    assert registry.by_id(key(1)) is None
    assert registry.by_id(key(2)) is alice
    registry.unbind(alice)
    registry.unbind(alice)
    assert registry.by_id(key(2)) is None
    assert alice.peer_id is None


def test_dropping_one_peer_leaves_anothers_key(host: object) -> None:
    registry = Registry()
    alice, bob = new(host, registry, "alice"), new(host, registry, "bob")
    registry.bind(alice, key(1))
    registry.bind(bob, key(1))  # taken over
    registry.drop(alice)
    assert registry.by_id(key(1)) is bob


def test_open_names_are_found_by_address(host: object) -> None:
    registry = Registry()
    alice = new(host, registry, "alice", HOME)
    bob = new(host, registry, "bob", Address(HOME.host, 2000))
    assert registry.at(HOME) == [alice]
    assert registry.at(Address(HOME.host, 3000)) == []
    assert registry.only_one_at(HOME.host) is None
    registry.bind(alice, key(1))
    assert registry.at(HOME) == []
    assert registry.only_one_at(HOME.host) is None, "a dead peer's program may have come back with a new key"
    alice.trust = Trust.PINNED
    assert registry.only_one_at(HOME.host) is bob
    assert registry.is_somebodys(HOME)
    assert not registry.is_somebodys(Address(HOME.host, 9))
    assert registry.is_configured(HOME.host)
    assert not registry.is_configured("192.0.2.2")


def test_a_peer_with_two_addresses_of_one_host_counts_once(host: object) -> None:
    registry = Registry()
    alice = new(host, registry, "alice", HOME, Address(HOME.host, 2000))
    assert registry.only_one_at(HOME.host) is alice


def test_addresses_change_and_go(host: object) -> None:
    registry = Registry()
    alice = new(host, registry, "alice", HOME)
    there = Address("192.0.2.77", 5)
    registry.set_addresses(alice, [there, there])
    assert alice.addresses == [there]
    assert registry.at(there) == [alice]
    assert registry.at(HOME) == []
    assert not registry.is_configured(HOME.host)
    registry.drop(alice)
    assert not registry.is_somebodys(there)
    assert not registry._at, "nothing is kept of who is gone"
    assert not registry._near


def test_aliases(host: object) -> None:
    registry = Registry()
    alice = new(host, registry, "alice")
    registry.alias("ally", alice)
    assert registry.named("ally") is alice
    assert registry.names() == {"alice": alice, "ally": alice}
    assert len(registry) == 1
    registry.drop_alias("ally")
    assert "ally" not in registry
    assert alice.aliases == set()
    assert registry.named("alice") is alice


def test_a_freed_name_may_be_taken_and_is_not_freed_twice(host: object) -> None:
    registry = Registry()
    old = new(host, registry, "alice")
    registry.alias("ally", old)
    registry.free_names(old)
    assert "alice" not in registry
    assert "ally" not in registry
    fresh = new(host, registry, "alice")
    registry.drop(old)
    assert registry.named("alice") is fresh


def test_free_names_leaves_no_alias_behind(host: object) -> None:
    """A peer that comes back under what was its alias has it as its first name alone."""
    registry = Registry()
    alice = new(host, registry, "alice")
    registry.alias("ally", alice)
    registry.free_names(alice)
    assert alice.aliases == set()


def test_rename(host: object) -> None:
    registry = Registry()
    alice = new(host, registry, "alice")
    registry.rename(alice, "bob")
    assert "alice" not in registry
    assert registry.named("bob") is alice
    assert alice.name == "bob"


def test_renaming_a_removed_peer_does_not_take_its_old_name_from_another(host: object) -> None:
    """It was removed, somebody else was added under its name, then it came back under a new one."""
    registry = Registry()
    old = new(host, registry, "alice")
    registry.free_names(old)
    fresh = new(host, registry, "alice")
    registry.rename(old, "bob")
    assert registry.named("alice") is fresh
    assert registry.named("bob") is old


def test_removed_keys_are_remembered_until_bound_again(host: object) -> None:
    registry = Registry()
    registry.remember_removed(key(1))
    assert registry.was_removed(key(1))
    assert not registry.was_removed(key(2))
    registry.bind(new(host, registry, "alice"), key(1))
    assert not registry.was_removed(key(1))


def test_removals_are_bounded_and_the_oldest_goes_first() -> None:
    registry = Registry()
    for number in range(REMEMBERED_REMOVALS + 10):
        registry.remember_removed(PeerId(number.to_bytes(32, "big")))
    assert not registry.was_removed(PeerId((9).to_bytes(32, "big")))
    assert registry.was_removed(PeerId((10).to_bytes(32, "big")))


def test_a_free_name(host: object) -> None:
    registry = Registry()
    tag = key(1).tag
    assert len(tag) == 4
    assert registry.free_name("alice", key(1)) == "alice"
    assert registry.free_name("", key(1)) == tag
    new(host, registry, "alice")
    assert registry.free_name("alice", key(1)) == f"alice#{tag}"
    new(host, registry, f"alice#{tag}")
    assert registry.free_name("alice", key(1)) == f"alice#{tag}-2"
    new(host, registry, f"alice#{tag}-2")
    assert registry.free_name("alice", key(1)) == f"alice#{tag}-3"
    new(host, registry, tag)
    assert registry.free_name("", key(1)) not in registry
