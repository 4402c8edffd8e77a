"""Hints for the workers that a message can be taken: `POST /wake` to the notifier, whose answer nobody waits for.

A hint that is lost costs time, never a job: workers poll, too. So a failure is none, and nothing is sent again.
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
SLOT_S = 0.25  # hidden messages that are seen again within so long share a hint
MAX_DELAY_S = 3600.0  # whose hint is not forgotten by then; together with the slots this bounds the timers


class WakeupClient:
    """Hints, one request at a time; whatever is to be hinted at meanwhile is one more."""

    def __init__(self, session: aiohttp.ClientSession, url: str | None) -> None:
        self._session = session
        self._url = None if url is None else f"{url.rstrip('/')}/wake"
        self._pending = asyncio.Event()
        self._slots: set[int] = set()

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str | None) -> AsyncIterator[WakeupClient]:
        """Open a session to the notifier, `None` for no hints; at the end one that is still owed is sent."""
        async with aiohttp.ClientSession(timeout=TIMEOUT, cookie_jar=aiohttp.DummyCookieJar()) as session:
            client = cls(session, url)
            yield client
            if client._pending.is_set():
                await client._post()

    def notify(self) -> None:
        """Hint now."""
        self._pending.set()

    def notify_after(self, seconds: float) -> None:
        """Hint when a message that is hidden for so long is seen again; beyond an hour polling must find it."""
        if seconds <= 0:
            self.notify()
        elif seconds <= MAX_DELAY_S:
            loop = asyncio.get_running_loop()
            slot = math.ceil((loop.time() + seconds) / SLOT_S)
            if slot not in self._slots:
                self._slots.add(slot)
                loop.call_at(slot * SLOT_S, self._on_slot, slot)

    def _on_slot(self, slot: int) -> None:
        self._slots.discard(slot)
        self.notify()

    async def run(self) -> None:
        """Send what is owed, for ever."""
        while True:
            await self._pending.wait()
            self._pending.clear()
            try:
                await self._post()
            except asyncio.CancelledError:
                self._pending.set()  # perhaps it was not sent
                raise

    async def _post(self) -> None:
        if self._url is None:
            return
        try:
            async with self._session.post(self._url):
                pass
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.debug("hint_unsent", error=type(error).__name__)
