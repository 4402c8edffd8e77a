"""What long polls have in common: how long they wait, and how they end."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from aiohttp import web

from .registry import ConnectionRegistry

COALESCE_DELAY_S = 0.02  # waits for further snapshots after the first one, to answer with all of them


async def wait_until_ready(ready: asyncio.Event, wait_s: float) -> None:
    """Wait until a poll has an answer, and a moment for more of it, or until its time is over."""
    with suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            await ready.wait()
            await asyncio.sleep(COALESCE_DELAY_S)


def close_if_sent_away(registry: ConnectionRegistry, response: web.Response) -> web.Response:
    """Close the connection after the response if clients should use another replica, which a new one reaches."""
    if registry.sends_away:
        response.force_close()
    return response
