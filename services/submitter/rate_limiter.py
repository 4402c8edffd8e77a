"""Rate limits per caller, in the memory of this replica."""

from __future__ import annotations

from ..runtime.token_bucket import TokenBucket

MAX_CALLERS = 10_000  # above it, the caller with the oldest last request is removed


class RateLimiter:
    """A token bucket for each recent caller; times are monotonic seconds."""

    def __init__(self, rate_per_s: float, burst: float, max_callers: int = MAX_CALLERS) -> None:
        self._rate = rate_per_s
        self._burst = burst
        self._max_callers = max_callers
        self._buckets: dict[str, TokenBucket] = {}  # ordered by last request

    def acquire(self, caller: str, now: float) -> float:
        """Acquire a token for a caller and return 0; if there is none, return the seconds until the next one."""
        bucket = self._buckets.pop(caller, None) or TokenBucket(self._rate, self._burst, now)
        self._buckets[caller] = bucket
        if len(self._buckets) > self._max_callers:
            del self._buckets[next(iter(self._buckets))]
        return bucket.acquire(now)
