"""A copy of an answer that overtakes the original: the handshake goes on with who really answered."""

from __future__ import annotations

from srmudp.models import Address
from srmudp.wire.packet import PUBLIC_KEY
from tests.endpoints import LINK, add, alive, make_node, status
from tests.simnet import SimNet

STRANGER = Address("10.9.9.9", 999)


def test_a_copy_of_public_key_from_elsewhere_does_not_lead_the_third_arrow_astray() -> None:
    """Somebody who sees the answer sends a copy of it from his own address, which arrives first, every time.

    SHARED_KEY goes where we punched too, so that he delays nothing; what follows does not go to him either.
    """
    net = SimNet(seed=3, link=LINK)
    a, b = make_node(net, "a", "10.0.0.1"), make_node(net, "b", "10.0.0.2")
    net.add_host("stranger", STRANGER.host)
    copies = 0

    def copy(now: float, source: Address, destination: Address, data: bytes) -> None:
        nonlocal copies
        if data[0] == PUBLIC_KEY and destination == a.address:
            copies += 1
            net.inject(STRANGER, destination, data, LINK.latency / 10)

    net.intercept(copy)
    add(a, b, pin=True)
    b.do(b.node.add_peer, "a", [], a.node.peer_id)  # it has no address to punch: a's attempt alone can succeed
    assert net.run_until(lambda: status(a, b).established and status(b, a).established, 2.0)
    assert copies
    alive(net, a, b)
    assert status(a, b).address == b.address
