"""Wake-ups for the workers of a queue: `POST /wake` to the notifier when a message becomes visible on it.

A lost wake-up only costs time, because workers also poll. Failures are therefore ignored and nothing is retried.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import structlog

log: structlog.stdlib.BoundLogger = structlog.get_logger()

TIMEOUT = aiohttp.ClientTimeout(total=2)
COALESCE_S = 0.25  # delayed wake-ups that are due within one such interval are sent as one
MAX_DELAY_S = 3600.0  # later ones are left to polling; together with COALESCE_S this bounds the number of timers


class WakeupClient:
    """Sends wake-ups, one request at a time; wake-ups that become due during a request are sent as one."""

    def __init__(self, session: aiohttp.ClientSession, url: str | None, queue: str) -> None:
        self._session = session
        self._queue = queue
        self._url = None if url is None else f"{url.rstrip('/')}/wake"
        self._pending = asyncio.Event()
        self._scheduled: set[int] = set()  # the intervals that have a timer

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str | None, queue: str) -> AsyncIterator[WakeupClient]:
        """Open a session to the notifier, and send a pending wake-up on exit. Without a URL no wake-ups are sent."""
        async with aiohttp.ClientSession(timeout=TIMEOUT, cookie_jar=aiohttp.DummyCookieJar()) as session:
            client = cls(session, url, queue)
            yield client
            if client._pending.is_set():
                await client._post()

    def notify(self) -> None:
        """Schedule a wake-up and return without waiting for the request."""
        self._pending.set()

    def notify_after(self, seconds: float) -> None:
        """Schedule a wake-up for when a delayed message becomes visible; do nothing if that takes over MAX_DELAY_S."""
        if seconds <= 0:
            self.notify()
        elif seconds <= MAX_DELAY_S:
            loop = asyncio.get_running_loop()
            interval = math.ceil((loop.time() + seconds) / COALESCE_S)
            if interval not in self._scheduled:
                self._scheduled.add(interval)
                loop.call_at(interval * COALESCE_S, self._on_due, interval)

    def _on_due(self, interval: int) -> None:
        self._scheduled.discard(interval)
        self.notify()

    async def run(self) -> None:
        """Send pending wake-ups until cancelled."""
        while True:
            await self._pending.wait()
            self._pending.clear()
            try:
                await self._post()
            except asyncio.CancelledError:
                self._pending.set()  # the request may not have been sent
                raise

    async def _post(self) -> None:
        if self._url is None:
            return
        try:
            async with self._session.post(self._url, params={"queue": self._queue}, allow_redirects=False):
                pass
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.debug("wakeup_failed", error=type(error).__name__)
