"""``map_port`` of both kinds of socket, by a router made up: what it returns, where it shows, and that it ends."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

import pytest

from srmudp import LocalProtocolError, MappedPort, MultiHolepunchSocket, PortMappingFailed, SocketClosed, aio
from srmudp.models import Address, Candidate, CandidateKind
from srmudp.routers import keeper
from srmudp.routers.asking import RouterError
from tests.routers.fakes import Made, silent, until

OUTSIDE = Address("198.51.100.7", 5000)
MAPPED = MappedPort(OUTSIDE, "PCP", "192.168.1.1", False)


@pytest.fixture
def router(monkeypatch: pytest.MonkeyPatch) -> Made:
    """The only router. No probe leaves this machine."""
    made = Made(OUTSIDE)
    monkeypatch.setattr(keeper, "WAYS", (("PCP", made.find),))
    monkeypatch.setattr(keeper, "_PROBES", ())
    monkeypatch.setattr(keeper, "_PROBE_WAIT", 0.05)
    return made


def hang(given_up: Callable[[], bool]) -> Made:
    while not given_up():
        time.sleep(0.001)
    raise RouterError("given up")


def test_it_shows_while_the_socket_is_open_and_ends_with_it(router: Made) -> None:
    with MultiHolepunchSocket() as sock:
        assert sock.addresses == ()
        assert sock.map_port() == MAPPED
        assert str(MAPPED) == "198.51.100.7:5000"
        (seen,) = sock.addresses
        assert (seen.address, seen.witnesses, seen.confirmed) == (OUTSIDE, ("router 192.168.1.1 (PCP)",), False)
        assert Candidate(CandidateKind.MAPPED, OUTSIDE) in sock.candidates
        assert sock.map_port() == MAPPED, "there is one"
        assert router.found == 1
        assert not router.closed
    assert router.closed == 1
    with pytest.raises(SocketClosed):
        sock.map_port()


def test_the_probe_that_comes_in_proves_it(router: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here it goes to the socket itself: a router that sends back what comes for its outside does the same."""
    with MultiHolepunchSocket() as sock:
        monkeypatch.setattr(keeper, "_PROBES", (0.0,))
        monkeypatch.setattr(keeper, "_PROBE_WAIT", 5.0)
        here = Address("127.0.0.1", sock.port)
        monkeypatch.setattr(keeper.Keeper, "_checked", lambda self, grant: grant._replace(address=here))
        assert sock.map_port().verified
        assert [seen.confirmed for seen in sock.addresses] == [True]
        assert "stun_request" not in sock.drops


def test_what_no_router_does_is_said_and_may_be_tried_again(router: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    with MultiHolepunchSocket() as sock:
        monkeypatch.setattr(keeper, "WAYS", (("PCP", silent),))
        with pytest.raises(PortMappingFailed, match="PCP: nobody answers"):
            sock.map_port()
        assert sock.addresses == ()
        monkeypatch.setattr(keeper, "WAYS", (("PCP", router.find),))
        until(lambda: not sock._engine.mapping._keeper.is_alive)  # type: ignore[union-attr]
        assert sock.map_port() == MAPPED


def test_it_is_given_up_in_time(router: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "WAYS", (("PCP", hang),))
    with MultiHolepunchSocket() as sock:
        with pytest.raises(PortMappingFailed, match=r"within 0\.05 s"):
            sock.map_port(timeout=0.05)
        with pytest.raises(ValueError, match="timeout"):
            sock.map_port(timeout=-1)


def test_where_no_router_leads(router: Made) -> None:
    with MultiHolepunchSocket(host="127.0.0.1") as sock, pytest.raises(LocalProtocolError, match=r"127\.0\.0\.1"):
        sock.map_port()
    assert router.found == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_leaves_the_mapping_to_its_parent(router: Made) -> None:
    with MultiHolepunchSocket() as sock:
        sock.map_port()
        child = os.fork()
        if not child:
            try:
                sock.close()
                os._exit(10 + router.closed)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 10
        assert not router.closed
    assert router.closed == 1


def test_asyncio_has_it_too(router: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with aio.MultiHolepunchSocket() as sock:
            assert await sock.map_port() == MAPPED
            assert [seen.address for seen in sock.addresses] == [OUTSIDE]
            assert await sock.map_port() == MAPPED
        assert router.closed == 1
        async with aio.MultiHolepunchSocket() as sock:
            monkeypatch.setattr(keeper, "WAYS", (("PCP", hang),))
            with pytest.raises(PortMappingFailed, match="within"):
                await sock.map_port(timeout=0.05)
            task = asyncio.create_task(sock.map_port())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            monkeypatch.setattr(keeper, "WAYS", (("PCP", silent),))
            with pytest.raises(PortMappingFailed, match="nobody answers"):
                await sock.map_port()

    asyncio.run(run())


def test_a_loop_that_ends_without_closing_takes_it_back(router: Made) -> None:
    async def run() -> aio.MultiHolepunchSocket:
        sock = aio.MultiHolepunchSocket()
        await sock.map_port()
        return sock

    sock = asyncio.run(run())
    sock._engine.close()
    assert router.closed == 1
