"""How often each caller may: a token bucket for each of the latest, in this replica's memory alone."""

from __future__ import annotations

from ..runtime.token_bucket import TokenBucket

MAX_CALLERS = 10_000  # whoever has asked least recently is forgotten first


class RateLimiter:
    """What every caller may still do; times are monotonic seconds."""

    def __init__(self, rate_per_s: float, burst: float, max_callers: int = MAX_CALLERS) -> None:
        self._rate = rate_per_s
        self._burst = burst
        self._max_callers = max_callers
        self._buckets: dict[str, TokenBucket] = {}  # in the order of their last request

    def acquire(self, caller: str, now: float) -> float:
        """Take one from a caller's allowance, and return 0, or else the seconds until there is one."""
        bucket = self._buckets.pop(caller, None) or TokenBucket(self._rate, self._burst, now)
        self._buckets[caller] = bucket
        if len(self._buckets) > self._max_callers:
            del self._buckets[next(iter(self._buckets))]
        return bucket.acquire(now)
