"""What the long polls of both generations of clients have in common."""

from __future__ import annotations

import asyncio
import random

POLL_S = 55.0  # most proxies allow a minute; clients wait for 100 seconds and more
POSTPONE_RANGE_S = (1.0, 2.0)


async def postpone() -> None:
    """Wait for a random moment before an empty answer, because clients poll again at once."""
    await asyncio.sleep(random.uniform(*POSTPONE_RANGE_S))  # noqa: S311 - it spreads load
