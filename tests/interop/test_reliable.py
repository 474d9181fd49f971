"""One short conversation of ``SecureReliableSocket`` with each of the published packages."""

from __future__ import annotations

import pytest

from srmudp.models import Wire
from tests.interop.reliable import converse
from tests.interop.srudp import PACKAGES, Run, Unavailable, package_directory


@pytest.mark.parametrize("wire", PACKAGES)
def test_a_published_package_converses_with_a_secure_reliable_socket(wire: Wire) -> None:
    try:
        directory = package_directory(wire)
    except Unavailable as error:
        pytest.skip(str(error))
    # The old program of the other wire takes five seconds to notice that we have closed.
    converse(Run(wire, "127.0.0.1", "new", "old", 200_000, seed=1), directory, 20.0)
