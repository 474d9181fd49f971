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
    first, closes = ("new", "old") if wire == "srudp" else ("old", "new")
    converse(Run(wire, "127.0.0.1", first, closes, 200_000, seed=1), directory, 20.0)
