"""Fuzzing by command: ``python -m tests.fuzz [TARGET ...] --seconds 600 --seed 1``.

Each target starts with its files in ``corpus/``, mutates them and what they led to, and runs until its share of the
seconds is over. A finding is written to a folder with its traceback, made smaller first, and how to play it again is
printed. Exits with 1 if there was one.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import random
import sys
import time
import traceback
from pathlib import Path

from tests.fuzz import corpus
from tests.fuzz.mutate import STEP
from tests.fuzz.targets import ENDPOINTS, TARGETS, mutated, run

SHRINKING = 20.0
"""Seconds at most spent on making one finding smaller."""
POOL = 600


def signature(error: BaseException) -> str:
    """What tells one finding from another: its type and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    inner = [frame for frame in frames if "/srmudp/" in frame.filename.replace("\\", "/")] or frames
    return f"{type(error).__name__} in {Path(inner[-1].filename).name}:{inner[-1].name} ({str(error)[:40]})"


def fails(name: str, data: bytes) -> BaseException | None:
    """The finding that an input leads to, if it does."""
    try:
        run(name, data)
    except Exception as error:
        return error
    return None


def shrunk(name: str, data: bytes, kind: str) -> bytes:
    """The same finding with less: pieces are cut out as long as it stays."""
    until = time.monotonic() + SHRINKING
    head, unit = (2, STEP) if name in ENDPOINTS else (0, 1)
    size = max(unit, (len(data) - head) // 2 // unit * unit)
    while size >= unit and time.monotonic() < until:
        at = head
        while at < len(data) and time.monotonic() < until:
            candidate = data[:at] + data[at + size :]
            error = fails(name, candidate)
            if error is not None and signature(error) == kind:
                data = candidate
            else:
                at += size
        size = size // 2 // unit * unit
    return data


def report(name: str, data: bytes, error: BaseException, folder: Path) -> None:
    """Write a finding down and say how to play it again."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    text = "".join(traceback.format_exception(error))
    path.with_suffix(".txt").write_text(text)
    print(f"\nFINDING in {name}: {signature(error)}\n  python -m tests.fuzz {name} --input {path}", flush=True)


def fuzz(name: str, seconds: float, rng: random.Random, folder: Path) -> int:
    """Fuzz one target for some seconds; returns the number of different findings."""
    pool = [data for _, data in corpus.files(name)]
    waiting = list(pool)
    found: set[str] = set()
    known: set[str] = set()
    began = reported = time.monotonic()
    for runs in itertools.count(1):
        data = waiting.pop() if waiting else mutated(name, rng, pool)
        try:
            features = run(name, data)
        except Exception as error:
            kind = signature(error)
            if kind not in found:
                found.add(kind)
                smaller = shrunk(name, data, kind)
                report(name, smaller, fails(name, smaller) or error, folder)
        else:
            if features - known:
                known |= features
                pool.append(data)
                del pool[:-POOL]
        now = time.monotonic()
        if now - reported > 30:
            reported = now
            print(f"{name}: {runs} runs, {len(pool)} inputs in the pool, {len(known)} features", flush=True)
        if now - began >= seconds:
            break
    print(f"{name}: {runs} runs in {now - began:.0f} s, {len(known)} features, {len(found)} findings", flush=True)
    return len(found)


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("target", nargs="*", help="which targets (default: all); --list names them")
    parser.add_argument("--seconds", type=float, default=600.0, help="for all targets together (default: 600)")
    parser.add_argument("--seed", type=int, help="decides everything (default: by chance; it is printed)")
    parser.add_argument("--input", type=Path, help="play this file once, with its traceback, instead of fuzzing")
    parser.add_argument("--out", type=Path, default=Path("fuzz-findings"), help="folder for findings")
    parser.add_argument("--list", action="store_true", help="name the targets and end")
    options = parser.parse_args()
    if options.list:
        print("\n".join(TARGETS))
        return 0
    unknown = [name for name in options.target if name not in TARGETS]
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    if options.input is not None:
        if len(options.target) != 1:
            parser.error("--input needs one target")
        print(sorted(run(options.target[0], options.input.read_bytes())))
        print("nothing found")
        return 0
    names = options.target or list(TARGETS)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    findings = sum(
        fuzz(name, options.seconds / len(names), random.Random(f"{seed}/{name}"), options.out) for name in names
    )
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
