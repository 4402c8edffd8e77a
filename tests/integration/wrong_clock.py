"""A clock that is wrong by another amount at each reading, for workers that name this module in `WORKER_JOBS`."""

import itertools
import time

HOURS, DAYS = 3600.0, 86_400.0
ERRORS_S = (120.0, -120.0, 5 * HOURS, -5 * HOURS, 8 * DAYS, -8 * DAYS)

_errors_s = itertools.cycle(ERRORS_S)
_clock = time.time


def wrong_time() -> float:
    """Return the time with the next error."""
    return _clock() + next(_errors_s)


def wrong_time_ns() -> int:
    """Return the time in nanoseconds with the next error."""
    return round(wrong_time() * 1e9)


time.time, time.time_ns = wrong_time, wrong_time_ns
