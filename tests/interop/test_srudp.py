"""One short conversation with each of the published packages; ``python -m tests.interop.srudp`` holds long ones."""

from __future__ import annotations

import pytest

from srmudp.models import Wire
from tests.interop.srudp import PACKAGES, Run, Unavailable, converse, package_directory


@pytest.mark.xdist_group("interop")
@pytest.mark.parametrize("wire", PACKAGES)
def test_a_published_package_converses_with_us(wire: Wire) -> None:
    try:
        directory = package_directory(wire, 30.0)
    except Unavailable as error:
        pytest.skip(str(error))
    first, closes = ("old", "new") if wire == "srudp" else ("new", "old")
    converse(Run(wire, "127.0.0.1", first, closes, 300_000), directory, 20.0)
