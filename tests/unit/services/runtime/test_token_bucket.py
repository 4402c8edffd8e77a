"""The token bucket, with times chosen by the test."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.runtime.token_bucket import TokenBucket


def test_a_burst_is_allowed_and_then_the_rate() -> None:
    """A new bucket is full; an empty one returns the seconds until the next token."""
    bucket = TokenBucket(rate_per_s=2, burst=3, now=10.0)
    assert [bucket.acquire(10.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert bucket.acquire(10.25) == pytest.approx(0.25)
    assert bucket.acquire(10.5) == 0


def test_tokens_do_not_exceed_the_burst() -> None:
    """After a long pause a bucket is full and no more."""
    bucket = TokenBucket(rate_per_s=1, burst=2, now=0.0)
    bucket.acquire(0.0)
    assert [bucket.acquire(1e6) > 0 for _ in range(3)] == [False, False, True]


def test_several_tokens_are_acquired_together() -> None:
    """Or none of them is, and the returned wait is that for all."""
    bucket = TokenBucket(rate_per_s=2, burst=5, now=0.0)
    assert [bucket.acquire(0.0, 4), bucket.acquire(0.0, 4), bucket.acquire(0.0)] == [0.0, 1.5, 0.0]


@given(st.lists(st.floats(0, 10), max_size=50), st.floats(0.1, 100), st.integers(1, 10))
def test_no_pattern_of_requests_exceeds_burst_and_rate(pauses: list[float], rate: float, burst: int) -> None:
    """In any time a caller gets at most the burst and the rate; after the returned wait it gets a token."""
    bucket = TokenBucket(rate, burst, 0.0)
    now, acquired = 0.0, 0
    for pause in pauses:
        now += pause
        wait_s = bucket.acquire(now)
        if wait_s > 0:
            now += wait_s + 1e-6
            assert bucket.acquire(now) == 0
        acquired += 1
    assert acquired <= burst + rate * now + 1e-6
