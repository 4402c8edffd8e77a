"""How often a caller may submit, by a clock of the test's own."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from services.submitter.caller_auth import client_address
from services.submitter.rate_limiter import RateLimiter


def test_a_burst_is_taken_at_once_and_no_more() -> None:
    """A caller who comes anew has the whole burst; then it waits for what the rate brings."""
    rates = RateLimiter(rate_per_s=2, burst=3)
    assert [rates.acquire("a", 10.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert rates.acquire("a", 10.25) == pytest.approx(0.25)
    assert rates.acquire("a", 10.5) == 0


def test_waiting_brings_no_more_than_the_burst() -> None:
    """Whoever has been away for long may no more at once than whoever comes anew."""
    rates = RateLimiter(rate_per_s=1, burst=2)
    rates.acquire("a", 0.0)
    assert [rates.acquire("a", 1e6) > 0 for _ in range(3)] == [False, False, True]


def test_callers_do_not_share() -> None:
    """One caller's flood leaves the others what is theirs."""
    rates = RateLimiter(rate_per_s=1, burst=1)
    assert rates.acquire("a", 0.0) == 0
    assert rates.acquire("a", 0.0) > 0
    assert rates.acquire("b", 0.0) == 0


def test_whoever_asked_least_recently_is_forgotten_first() -> None:
    """The memory is bounded, and who keeps asking stays in it."""
    rates = RateLimiter(rate_per_s=1e-6, burst=1, max_callers=2)
    for caller in ("flood", "b", "flood", "c", "flood"):
        limited = rates.acquire(caller, 0.0) > 0
    assert limited
    assert rates.acquire("b", 0.0) == 0  # forgotten, as it was never heard of


@given(st.lists(st.floats(0, 10), max_size=50), st.floats(0.1, 100), st.integers(1, 10))
def test_no_pattern_of_requests_gets_more_than_its_share(pauses: list[float], rate: float, burst: int) -> None:
    """In any time, a caller gets at most the burst and what the rate brings; and after the wait told, one more."""
    rates = RateLimiter(rate, burst)
    now, taken = 0.0, 0
    for pause in pauses:
        now += pause
        wait_s = rates.acquire("a", now)
        if wait_s > 0:
            now += wait_s + 1e-6
            assert rates.acquire("a", now) == 0
        taken += 1
    assert taken <= burst + rate * now + 1e-6


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
def test_an_address_is_what_the_trusted_proxies_have_seen(forwarded: list[str], hops: int, expected: str) -> None:
    """What a client says of itself is not believed, and who comes past the proxies is its own address."""
    headers = CIMultiDict(("X-Forwarded-For", line) for line in forwarded)
    request = make_mocked_request("POST", "/jobs", headers=headers).clone(remote="192.0.2.1")
    assert client_address(request, hops) == expected
