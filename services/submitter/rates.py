"""How often each caller may: a token bucket for each of the latest, in this replica's memory alone."""

from __future__ import annotations

from services.runtime.token_bucket import TokenBucket

CALLERS = 10_000  # whoever has asked least recently is forgotten first


class Rates:
    """What every caller may still do; times are monotonic seconds."""

    def __init__(self, rate_per_s: float, burst: float, callers: int = CALLERS) -> None:
        self._rate = rate_per_s
        self._burst = burst
        self._callers = callers
        self._allowances: dict[str, TokenBucket] = {}  # in the order of their last request

    def take(self, caller: str, now: float) -> float:
        """Take one from a caller's allowance, and return 0, or else the seconds until there is one."""
        allowance = self._allowances.pop(caller, None) or TokenBucket(self._rate, self._burst, now)
        self._allowances[caller] = allowance
        if len(self._allowances) > self._callers:
            del self._allowances[next(iter(self._allowances))]
        return allowance.acquire(now)
