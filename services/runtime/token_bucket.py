"""A token bucket: limits a rate, and allows bursts."""

from __future__ import annotations


class TokenBucket:
    """The tokens of one caller: how many there were at a time, in monotonic seconds."""

    __slots__ = ("_burst", "_rate", "tokens", "updated_at")

    def __init__(self, rate_per_s: float, burst: float, now: float) -> None:
        self._rate = rate_per_s
        self._burst = burst
        self.tokens = burst
        self.updated_at = now

    def acquire(self, now: float, count: int = 1) -> float:
        """Acquire tokens and return 0; if fewer are left, return the seconds until there are enough."""
        self.tokens = min(self._burst, self.tokens + (now - self.updated_at) * self._rate)
        self.updated_at = now
        if self.tokens < count:
            return (count - self.tokens) / self._rate
        self.tokens -= count
        return 0.0
