"""What a careful application of the demo keeps."""

from __future__ import annotations

from pathlib import Path

from srmudp.cli.demo_peer import Entry, Record, read_record


def test_a_record_knows_after_a_restart_what_it_has(tmp_path: Path) -> None:
    path = str(tmp_path / "record")
    assert read_record(path) == []
    for life, numbers in ((1, (1, 2)), (2, (2, 3))):
        record = Record(path, life)
        for number in numbers:
            record.write("alice", number)
        record.close()
    assert read_record(path) == [
        Entry(1, "alice", 1, False),
        Entry(1, "alice", 2, False),
        Entry(2, "alice", 2, True),
        Entry(2, "alice", 3, False),
    ]
