"""The delays before a lost WebSocket is opened again, so that thousands of clients spread their reconnects."""

from __future__ import annotations

from headway.backoff import full_jitter_s

# The clients of a replica that is lost come back spread over the first two seconds. One that drains spreads them:
# it closes their connections one after the other, and says within which time they come back.
RECONNECT_SPREAD_S, RECONNECT_CAP_S = 2.0, 4.0
MIN_RESTART_SPREAD_S = 0.5  # whatever the replica says
OVERLOAD_CAP_S = 10.0
CLOSE_TRY_AGAIN_LATER = 1013
OVERLOAD_CODES = frozenset({CLOSE_TRY_AGAIN_LATER, 429, 503})
MIN_OVERLOAD_DELAY_S = 2.0
FAILURES_WHEN_OVERLOADED = 5  # a close with 1013 delays the reconnect as much as five failures


class ReconnectDelays:
    """Counts consecutive failures, from which the delays follow."""

    def __init__(self) -> None:
        self.failures = 0
        self.restart_spread_s: float | None = None  # as the last hello of a replica that restarts says

    def reset(self) -> None:
        """Forget the failures, because the connection works."""
        self.failures = 0

    def next_s(self, code: int | None = None, retry_after_s: float = 0.0) -> float:
        """Count a failure and return the delay before the next attempt.

        Args:
            code: the close code, or the HTTP status with which the upgrade was refused.
            retry_after_s: the delay that the server asks for.
        """
        if self.failures == 0 and self.restart_spread_s is not None:
            self.failures = 1
            return full_jitter_s(0, max(self.restart_spread_s, MIN_RESTART_SPREAD_S), RECONNECT_SPREAD_S)
        if code == CLOSE_TRY_AGAIN_LATER:
            self.failures = max(self.failures, FAILURES_WHEN_OVERLOADED)
        overloaded = code in OVERLOAD_CODES
        min_delay_s = max(retry_after_s, MIN_OVERLOAD_DELAY_S) if overloaded else retry_after_s
        cap_s = OVERLOAD_CAP_S if overloaded else RECONNECT_CAP_S
        delay_s = min_delay_s + full_jitter_s(self.failures, RECONNECT_SPREAD_S, cap_s)
        self.failures += 1
        return delay_s
