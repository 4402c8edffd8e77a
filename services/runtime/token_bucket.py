"""A token bucket: limits a rate, and allows bursts."""

from __future__ import annotations


class TokenBucket:
    """The tokens of one caller. Times are monotonic seconds."""

    __slots__ = ("_burst", "_rate", "_tokens", "_updated_at")

    def __init__(self, rate_per_s: float, burst: float, now: float) -> None:
        self._rate = rate_per_s
        self._burst = burst
        self._tokens = burst
        self._updated_at = now

    def acquire(self, now: float, count: int = 1) -> float:
        """Acquire tokens and return 0; if fewer are left, return the seconds until there are enough."""
        self._tokens = min(self._burst, self._tokens + (now - self._updated_at) * self._rate)
        self._updated_at = now
        if self._tokens < count:
            return (count - self._tokens) / self._rate
        self._tokens -= count
        return 0.0
