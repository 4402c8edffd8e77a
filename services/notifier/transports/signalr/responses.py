"""What the responses to both generations of clients have in common: their headers, and how long polls wait."""

from __future__ import annotations

import asyncio
import random

from ..event_format import STREAM_HEADERS

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
EVENT_HEADERS = {**HEADERS, **STREAM_HEADERS}
POLL_S = 55.0  # most proxies allow a minute; clients wait for 100 seconds and more
POSTPONE_RANGE_S = (1.0, 2.0)


async def postpone() -> None:
    """Wait for a random moment before an empty answer, because clients poll again at once."""
    await asyncio.sleep(random.uniform(*POSTPONE_RANGE_S))  # noqa: S311 - it spreads load
