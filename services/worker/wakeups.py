"""Wake-ups from the notifier: while the worker has a free slot, it keeps a long poll `GET /wake` open for its queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import structlog

from headway.backoff import full_jitter_s

from ..runtime.wakeup_client import WakeupClient
from . import metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger()

LONG_POLL_S = 30
TIMEOUT = aiohttp.ClientTimeout(total=LONG_POLL_S + 5, connect=3)
BACKOFF_S, MAX_BACKOFF_S = 0.1, 5.0
WOKEN, TIMED_OUT = 200, 204


class WakeupUnavailable(Exception):
    """The notifier cannot be reached or rejects the long poll."""


class WakeupListener:
    """Receives wake-ups while it is resumed; while it is paused, it passes them on to other workers.

    Args:
        session: the HTTP session.
        url: the notifier's internal listener.
        queue: the worker's queue.
        client: passes wake-ups on.
        on_failure: called when the notifier does not answer a long poll as it should.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        queue: str,
        client: WakeupClient,
        on_failure: Callable[[], object],
    ) -> None:
        self._session = session
        self._queue = queue
        self._url = f"{url.rstrip('/')}/wake"
        self._client = client
        self._on_failure = on_failure
        self._resumed = asyncio.Event()
        self.received = asyncio.Event()  # a message may be on the queue; the consumer clears it before it polls
        self.connected = False  # whether the last long poll succeeded

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, url: str, queue: str, client: WakeupClient, on_failure: Callable[[], object]
    ) -> AsyncIterator[WakeupListener]:
        """Open an HTTP session; the notifier need not be reachable yet."""
        async with aiohttp.ClientSession(timeout=TIMEOUT, cookie_jar=aiohttp.DummyCookieJar()) as session:
            yield cls(session, url, queue, client, on_failure)

    def resume(self) -> None:
        """Accept wake-ups: the worker has a free slot."""
        self._resumed.set()

    def pause(self) -> None:
        """Stop accepting wake-ups: no slot is free. One that was received, or still arrives, goes to another worker."""
        self._resumed.clear()
        if self.received.is_set():
            self.received.clear()
            self._client.notify()

    async def run(self) -> None:
        """Keep a long poll open until cancelled; on errors retry with backoff and full jitter."""
        failures = 0
        while True:
            await self._resumed.wait()
            try:
                # The first request does not wait: it only shows that the notifier can send wake-ups.
                if await self._wait_for_wakeup(LONG_POLL_S if self.connected else 0):
                    self._on_wakeup()
                failures = 0
                self._set_connected(True)
            except WakeupUnavailable as error:
                if self.connected:
                    log.warning("wakeups_unavailable", error=str(error))
                    self.received.set()  # the response that was lost may have been a wake-up
                self._set_connected(False)
                self._on_failure()
                failures += 1
                await asyncio.sleep(full_jitter_s(failures, BACKOFF_S, MAX_BACKOFF_S))

    def _on_wakeup(self) -> None:
        metrics.WAKEUPS_RECEIVED.inc()
        self.received.set()
        if not self._resumed.is_set():  # paused during the request: pass the wake-up on
            self.pause()

    def _set_connected(self, connected: bool) -> None:
        self.connected = connected
        metrics.WAKEUPS_CONNECTED.set(connected)

    async def _wait_for_wakeup(self, timeout_s: int) -> bool:
        """Send one long poll and return whether it was answered with a wake-up.

        Raises:
            WakeupUnavailable: the request failed.
        """
        query = {"timeout_s": str(timeout_s), "queue": self._queue}
        try:
            async with self._session.get(self._url, params=query, allow_redirects=False) as response:
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise WakeupUnavailable(type(error).__name__) from error
        if status not in (WOKEN, TIMED_OUT):
            raise WakeupUnavailable(f"GET /wake returned status {status}")
        return status == WOKEN
