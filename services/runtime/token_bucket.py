"""A token bucket: so much at once, and so much a second from then on."""

from __future__ import annotations


class TokenBucket:
    """What one caller may still do; times are monotonic seconds."""

    __slots__ = ("_burst", "_rate", "_tokens", "_updated_at")

    def __init__(self, rate_per_s: float, burst: float, now: float) -> None:
        self._rate = rate_per_s
        self._burst = burst
        self._tokens = burst
        self._updated_at = now

    def acquire(self, now: float) -> float:
        """Take one, and return 0; when there is none, take nothing and return the seconds until there is."""
        self._tokens = min(self._burst, self._tokens + (now - self._updated_at) * self._rate)
        self._updated_at = now
        if self._tokens < 1:
            return (1 - self._tokens) / self._rate
        self._tokens -= 1
        return 0.0
