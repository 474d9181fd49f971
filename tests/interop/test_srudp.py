"""One short conversation with each of the published packages; ``python -m tests.interop.srudp`` holds long ones."""

from __future__ import annotations

import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from srmudp.models import Wire
from tests.interop.srudp import PACKAGES, Run, Unavailable, converse, package_directory


@pytest.mark.parametrize("wire", PACKAGES)
def test_a_published_package_converses_with_us(wire: Wire) -> None:
    try:
        directory = package_directory(wire, 30.0)
    except Unavailable as error:
        pytest.skip(str(error))
    first, closes = ("old", "new") if wire == "srudp" else ("new", "old")
    converse(Run(wire, "127.0.0.1", first, closes, 300_000), directory, 20.0)


def test_a_package_is_installed_once_and_never_seen_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    installing = threading.Barrier(2)

    def pip(command: list[str], **options: object) -> None:
        target = Path(command[command.index("--target") + 1])
        target.mkdir()
        installing.wait(10)  # the other one is at it as well
        (target / "package.py").write_text("complete", "utf-8")

    monkeypatch.setattr(subprocess, "run", pip)
    with ThreadPoolExecutor(2) as threads:
        one, two = (call.result(20) for call in [threads.submit(package_directory, "srudp") for _ in range(2)])
    assert one == two
    assert [path.name for path in one.iterdir()] == ["package.py"]
    assert [path.name for path in one.parent.iterdir()] == [one.name]
    assert package_directory("srudp") == one  # pip would wait for ever
