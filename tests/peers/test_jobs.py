"""Jobs and the token bucket."""

from __future__ import annotations

import pytest

from srmudp.exceptions import AuthenticationError, DecodeError
from srmudp.peers.jobs import Job, TokenBucket


def test_run_computes_and_finish_commits() -> None:
    committed: list[tuple[int | None, float]] = []
    job: Job[int] = Job(lambda: 42, lambda result, now: committed.append((result, now)))
    job.run()
    assert committed == []
    job.finish(3.5)
    assert committed == [(42, 3.5)]


@pytest.mark.parametrize("error", [AuthenticationError, DecodeError])
def test_a_forgery_commits_none(error: type[Exception]) -> None:
    committed: list[int | None] = []

    def compute() -> int:
        raise error("forged")

    job: Job[int] = Job(compute, lambda result, now: committed.append(result))
    job.run()
    job.finish(1.0)
    assert committed == [None]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, ZeroDivisionError])
def test_what_is_not_a_forgery_is_not_hidden(error: type[BaseException]) -> None:
    def compute() -> int:
        raise error

    job: Job[int] = Job(compute, lambda result, now: None)
    with pytest.raises(error):
        job.run()


def test_a_job_that_did_not_run_commits_none() -> None:
    committed: list[int | None] = []
    job: Job[int] = Job(lambda: 42, lambda result, now: committed.append(result))
    job.finish(1.0)
    assert committed == [None]


def test_bucket_starts_full() -> None:
    bucket = TokenBucket(10.0, 3.0)
    assert [bucket.take(100.0) for _ in range(5)] == [True, True, True, False, False]


def test_bucket_refills_at_its_rate_and_not_above_its_burst() -> None:
    bucket = TokenBucket(10.0, 3.0)
    while bucket.take(100.0):
        pass
    assert not bucket.take(100.0625)
    assert bucket.take(100.125)
    assert not bucket.take(100.125)
    assert [bucket.take(1000.0) for _ in range(4)] == [True, True, True, False]


def test_bucket_over_time_allows_rate_times_time() -> None:
    bucket = TokenBucket(20.0, 40.0)
    taken = sum(bucket.take(50.0 + step / 1000) for step in range(10_000))
    assert 40 + 199 <= taken <= 40 + 200
