"""A token bucket: so much at once, and so much a second from then on."""

from __future__ import annotations


class Allowance:
    """What one caller may still do; times are monotonic seconds."""

    __slots__ = ("_burst", "_left", "_rate", "_seen_at")

    def __init__(self, rate_per_s: float, burst: float, now: float) -> None:
        self._rate = rate_per_s
        self._burst = burst
        self._left = burst
        self._seen_at = now

    def take(self, now: float) -> float:
        """Take one, and return 0; when there is none, take nothing and return the seconds until there is."""
        self._left = min(self._burst, self._left + (now - self._seen_at) * self._rate)
        self._seen_at = now
        if self._left < 1:
            return (1 - self._left) / self._rate
        self._left -= 1
        return 0.0
