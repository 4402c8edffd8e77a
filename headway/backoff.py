"""Exponential backoff with full jitter: clients that fail at the same time retry at different times."""

import random


def full_jitter_s(failures: int, base_s: float, cap_s: float) -> float:
    """Return a random delay in seconds after a number of consecutive failures.

    Args:
        failures: the number of consecutive failures; each doubles the longest delay.
        base_s: the longest delay without failures.
        cap_s: the limit of the longest delay.
    """
    return random.uniform(0, min(cap_s, base_s * 2.0 ** min(failures, 16)))  # noqa: S311
