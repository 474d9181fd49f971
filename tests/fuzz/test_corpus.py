"""Every corpus file through its target, then mutations of them with a fixed seed: a bounded run in every build.

Longer, by command: ``python -m tests.fuzz``. A failure names the target and the input; save the hexadecimal bytes to a
file and play it again with ``python -m tests.fuzz TARGET --input FILE``.
"""

from __future__ import annotations

import random

import pytest

from tests.fuzz import corpus
from tests.fuzz.mutate import Mutator
from tests.fuzz.targets import ENDPOINTS, PARSERS, TARGETS, Finding, mutated, run
from tests.fuzz.worlds import Slow

MUTATIONS = {"endpoint": 6, "sealed": 7, "handshake": 5}
"""Mutated scripts of each endpoint target in one build."""
PARSED = 120
FILES = {"known_peers": 40, "key_file": 40, "old_clear": 20}
"""The same for the parsers; fewer where each input is a file on disk, or costs key agreements."""
SEED = 1
LARGEST_CORPUS = 300_000


def play(name: str, label: str, data: bytes) -> None:
    """Run one input; a failure says which it was."""
    try:
        run(name, data)
    except Exception as error:
        error.add_note(f"fuzz target {name}, input {label}: {data.hex()}")
        raise


@pytest.mark.parametrize("name", PARSERS)
def test_parser(name: str) -> None:
    """Attack 10: whatever bytes a parser is given, it says a value or what it documents, in bounded time."""
    files = list(corpus.files(name))
    for label, data in files:
        play(name, label, data)
    rng, pool = random.Random(f"{SEED}/{name}"), [data for _, data in files]
    for number in range(FILES.get(name, PARSED)):
        play(name, f"mutation {number} of seed {SEED}", mutated(name, rng, pool))


@pytest.mark.parametrize("name", ENDPOINTS)
def test_whole_endpoint_with_the_corpus(name: str) -> None:
    """Attacks 1 to 20: every script of the corpus; the promises hold, and nothing is left behind."""
    for label, data in corpus.files(name):
        # All findings, and one variant of each of the others, turn by turn of their names.
        if label.startswith("finding-") or label.endswith("-0"):
            play(name, label, data)


@pytest.mark.parametrize("name", ENDPOINTS)
def test_whole_endpoint_with_mutations(name: str) -> None:
    """Attacks 1 to 20: mutated scripts and fresh ones."""
    pool = [data for _, data in corpus.files(name)]
    rng = random.Random(f"{SEED}/{name}")
    for number in range(MUTATIONS[name]):
        play(name, f"mutation {number} of seed {SEED}", mutated(name, rng, pool))


def test_every_target_has_a_corpus_and_it_is_small() -> None:
    """A directory for each target and nothing else; all together below 300 kB."""
    present = {folder.name for folder in corpus.FOLDER.iterdir()}
    assert present == set(TARGETS)
    sizes = [path.stat().st_size for path in corpus.FOLDER.rglob("*") if path.is_file()]
    assert sum(sizes) < LARGEST_CORPUS


def test_mutations_are_the_same_every_time() -> None:
    """One seed, one sequence: a failure can be repeated."""
    pool = [b"\xc5" + bytes(range(80)), b"\xc1\x01" + bytes(510)]

    def some() -> list[bytes]:
        mutator = Mutator(random.Random(5))
        made = [mutator.datagram(pool[n % 2], pool) for n in range(50)]
        return made + [mutator.script(pool[1], pool) for _ in range(20)] + mutator.reorder(pool)

    assert some() == some()
    assert len(set(some())) > 50


def test_a_slow_input_must_be_slow_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no finding; what is slow three times is."""
    calls: list[bytes] = []

    def sometimes(data: bytes) -> None:
        calls.append(data)
        if data == b"always" or len(calls) < 2:
            raise Slow("slow")

    monkeypatch.setitem(TARGETS, "segment", sometimes)
    run("segment", b"once")
    assert len(calls) == 2
    with pytest.raises(Finding):
        run("segment", b"always")
    assert len(calls) == 5
