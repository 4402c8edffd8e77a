"""Rate limits per caller, with times chosen by the test, and the addresses of callers."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from services.submitter.caller_auth import client_address
from services.submitter.rate_limiter import RateLimiter


def test_a_burst_is_allowed_and_then_the_rate() -> None:
    """A new caller has the whole burst; afterwards the limiter returns the seconds until the next token."""
    limiter = RateLimiter(rate_per_s=2, burst=3)
    assert [limiter.acquire("a", 10.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert limiter.acquire("a", 10.25) == pytest.approx(0.25)
    assert limiter.acquire("a", 10.5) == 0


def test_tokens_do_not_exceed_the_burst() -> None:
    """A caller that returns after a long time has no more tokens than a new one."""
    limiter = RateLimiter(rate_per_s=1, burst=2)
    limiter.acquire("a", 0.0)
    assert [limiter.acquire("a", 1e6) > 0 for _ in range(3)] == [False, False, True]


def test_callers_have_separate_limits() -> None:
    """A caller that exceeds its limit does not affect other callers."""
    limiter = RateLimiter(rate_per_s=1, burst=1)
    assert limiter.acquire("a", 0.0) == 0
    assert limiter.acquire("a", 0.0) > 0
    assert limiter.acquire("b", 0.0) == 0


def test_the_least_recent_caller_is_forgotten_first() -> None:
    """The memory is bounded, and a caller that keeps sending requests stays in it."""
    limiter = RateLimiter(rate_per_s=1e-6, burst=1, max_callers=2)
    for caller in ("flood", "b", "flood", "c", "flood"):
        limited = limiter.acquire(caller, 0.0) > 0
    assert limited
    assert limiter.acquire("b", 0.0) == 0  # forgotten, so it counts as a new caller


@given(st.lists(st.floats(0, 10), max_size=50), st.floats(0.1, 100), st.integers(1, 10))
def test_no_pattern_of_requests_exceeds_burst_and_rate(pauses: list[float], rate: float, burst: int) -> None:
    """In any time a caller gets at most the burst and the rate; after the returned wait it gets a token."""
    limiter = RateLimiter(rate, burst)
    now, acquired = 0.0, 0
    for pause in pauses:
        now += pause
        wait_s = limiter.acquire("a", now)
        if wait_s > 0:
            now += wait_s + 1e-6
            assert limiter.acquire("a", now) == 0
        acquired += 1
    assert acquired <= burst + rate * now + 1e-6


@pytest.mark.parametrize(
    ("forwarded", "hops", "expected"),
    [
        ([], 0, "192.0.2.1"),
        (["198.51.100.7"], 0, "192.0.2.1"),
        (["198.51.100.7"], 1, "198.51.100.7"),
        (["spoofed, 198.51.100.7"], 1, "198.51.100.7"),
        (["spoofed", "198.51.100.7, 10.0.0.1"], 2, "198.51.100.7"),
        (["10.0.0.1"], 2, "192.0.2.1"),
        ([], 1, "192.0.2.1"),
    ],
)
def test_the_address_comes_from_trusted_proxies(forwarded: list[str], hops: int, expected: str) -> None:
    """The header's entries of a client are ignored, and a request that bypasses the proxies has its peer's address."""
    headers = CIMultiDict(("X-Forwarded-For", line) for line in forwarded)
    request = make_mocked_request("POST", "/jobs", headers=headers).clone(remote="192.0.2.1")
    assert client_address(request, hops) == expected
