"""Hints that a message waits: one `GET /wake` is always held at the notifier while this worker has room for one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import structlog

from headway.backoff import full_jitter_s
from services.runtime.wakeup_client import WakeupClient
from services.worker import metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger()

HOLD_S = 30
TIMEOUT = aiohttp.ClientTimeout(total=HOLD_S + 5, connect=3)
BACKOFF_S, BACKOFF_CAP_S = 0.1, 5.0
HINTED, OVER = 200, 204


class NoHints(Exception):
    """The notifier holds no request."""


class Hints:
    """Hears of messages that wait, unless this worker declines since it has no room for them."""

    def __init__(self, session: aiohttp.ClientSession, url: str, waker: WakeupClient) -> None:
        self._session = session
        self._url = f"{url.rstrip('/')}/wake"
        self._waker = waker
        self._room = asyncio.Event()
        self.came = asyncio.Event()  # a message may wait; whoever polls clears it before
        self.flowing = False  # whether the notifier holds a request, as far as that can be known

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str, waker: WakeupClient) -> AsyncIterator[Hints]:
        """Open a session to the notifier, which may still be away."""
        async with aiohttp.ClientSession(timeout=TIMEOUT, cookie_jar=aiohttp.DummyCookieJar()) as session:
            yield cls(session, url, waker)

    def want(self) -> None:
        """Ask for hints: this worker has room."""
        self._room.set()

    def decline(self) -> None:
        """Ask for none, and leave the one that came, and any that still comes, to a worker that has room."""
        self._room.clear()
        if self.came.is_set():
            self.came.clear()
            self._waker.notify()

    async def run(self) -> None:
        """Hold a request for ever; while the notifier is away, try again with full jitter."""
        failures = 0
        while True:
            await self._room.wait()
            try:
                if await self._ask(HOLD_S if self.flowing else 0):  # the first one only shows that hints flow
                    self._take()
                failures = 0
                self._flow(True)
            except NoHints as error:
                if self.flowing:
                    log.warning("hints_lost", error=str(error))
                    self.came.set()  # what the lost request would have brought is found by polling
                self._flow(False)
                failures += 1
                await asyncio.sleep(full_jitter_s(failures, BACKOFF_S, BACKOFF_CAP_S))

    def _take(self) -> None:
        metrics.HINTS.inc()
        self.came.set()
        if not self._room.is_set():  # any more: as if it had come before
            self.decline()

    def _flow(self, flowing: bool) -> None:
        self.flowing = flowing
        metrics.HINTS_FLOW.set(flowing)

    async def _ask(self, timeout_s: int) -> bool:
        """Hold one request; tell whether it brought a hint."""
        try:
            async with self._session.get(self._url, params={"timeout_s": timeout_s}) as response:
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NoHints(type(error).__name__) from error
        if status not in (HINTED, OVER):
            raise NoHints(f"GET /wake was answered {status}")
        return status == HINTED
