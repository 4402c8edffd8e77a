"""Back-off: exponential with full jitter, so that those who failed together do not come back together."""

import random


def full_jitter_s(failures: int, base_s: float, cap_s: float) -> float:
    """Return how many seconds to wait after so many failures in a row."""
    return random.uniform(0, min(cap_s, base_s * 2.0 ** min(failures, 16)))  # noqa: S311
