"""Hints that a message waits: one `GET /wake` is always held at the notifier while this worker has room for one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import structlog

from headway.backoff import full_jitter_s

from ..runtime.wakeup_client import WakeupClient
from . import metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger()

LONG_POLL_S = 30
TIMEOUT = aiohttp.ClientTimeout(total=LONG_POLL_S + 5, connect=3)
BACKOFF_S, BACKOFF_CAP_S = 0.1, 5.0
WOKEN, TIMED_OUT = 200, 204


class WakeupUnavailable(Exception):
    """The notifier holds no request."""


class WakeupListener:
    """Hears of messages that wait, unless this worker declines since it has no room for them."""

    def __init__(self, session: aiohttp.ClientSession, url: str, client: WakeupClient) -> None:
        self._session = session
        self._url = f"{url.rstrip('/')}/wake"
        self._client = client
        self._resumed = asyncio.Event()
        self.received = asyncio.Event()  # a message may wait; whoever polls clears it before
        self.connected = False  # whether the notifier holds a request, as far as that can be known

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str, client: WakeupClient) -> AsyncIterator[WakeupListener]:
        """Open a session to the notifier, which may still be away."""
        async with aiohttp.ClientSession(timeout=TIMEOUT, cookie_jar=aiohttp.DummyCookieJar()) as session:
            yield cls(session, url, client)

    def resume(self) -> None:
        """Ask for hints: this worker has room."""
        self._resumed.set()

    def pause(self) -> None:
        """Ask for none, and leave the one that came, and any that still comes, to a worker that has room."""
        self._resumed.clear()
        if self.received.is_set():
            self.received.clear()
            self._client.notify()

    async def run(self) -> None:
        """Hold a request for ever; while the notifier is away, try again with full jitter."""
        failures = 0
        while True:
            await self._resumed.wait()
            try:
                if await self._wait_for_wakeup(
                    LONG_POLL_S if self.connected else 0
                ):  # the first one only shows that hints flow
                    self._on_wakeup()
                failures = 0
                self._set_connected(True)
            except WakeupUnavailable as error:
                if self.connected:
                    log.warning("hints_lost", error=str(error))
                    self.received.set()  # what the lost request would have brought is found by polling
                self._set_connected(False)
                failures += 1
                await asyncio.sleep(full_jitter_s(failures, BACKOFF_S, BACKOFF_CAP_S))

    def _on_wakeup(self) -> None:
        metrics.HINTS.inc()
        self.received.set()
        if not self._resumed.is_set():  # any more: as if it had come before
            self.pause()

    def _set_connected(self, connected: bool) -> None:
        self.connected = connected
        metrics.HINTS_FLOW.set(connected)

    async def _wait_for_wakeup(self, timeout_s: int) -> bool:
        """Hold one request; tell whether it brought a hint."""
        try:
            async with self._session.get(self._url, params={"timeout_s": timeout_s}) as response:
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise WakeupUnavailable(type(error).__name__) from error
        if status not in (WOKEN, TIMED_OUT):
            raise WakeupUnavailable(f"GET /wake was answered {status}")
        return status == WOKEN
