"""Submissions for the notifier: `POST /submissions` with the jobs whose messages are on the queue.

The notifier creates a job's record from its submission, so that lists show the job while it waits, and wakes a worker.
No response waits for this, and no job depends on it: without it, lists show a job when it starts, and workers find it
by polling. Failures are therefore ignored after a minute of retries, which bridges a restart of notifier or Redis.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus

import aiohttp
import structlog

from headway.backoff import full_jitter_s
from headway.contracts import MAX_REPORTS_BYTES, MAX_REPORTS_PER_REQUEST, SubmittedJob, encode

from ..runtime.internal_requests import report_key_headers
from ..runtime.request import JSON
from ..runtime.settings import ReloadingFile
from ..runtime.wakeup_client import WakeupClient
from . import metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger()

TIMEOUT = aiohttp.ClientTimeout(total=2)
MAX_PENDING = 10_000  # about 4 MB, and at most 30 MB; beyond it, the oldest is dropped
RETRY_FOR_S = 60.0  # after the first failure; meanwhile, further submissions wait
BACKOFF_S, MAX_BACKOFF_S = 0.1, 2.0


class SubmissionClient:
    """Posts submissions, one request at a time; jobs that are submitted during a request share the next one."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str | None,
        keys: ReloadingFile[tuple[str, ...]] | None,
        queue: str,
        wakeups: WakeupClient,
    ) -> None:
        self._session = session
        self._url = None if url is None or keys is None else f"{url.rstrip('/')}/submissions"
        self._keys = keys
        self._queue = queue
        self._wakeups = wakeups
        self._pending: deque[bytes] = deque(maxlen=MAX_PENDING)  # encoded: small, and without the payload
        self._has_pending = asyncio.Event()
        self._is_failing = False

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, url: str | None, keys: ReloadingFile[tuple[str, ...]] | None, queue: str, wakeups: WakeupClient
    ) -> AsyncIterator[SubmissionClient]:
        """Open a session to the notifier, and post what is pending on exit.

        Args:
            url: the notifier's internal listener.
            keys: the report keys; the first one is used.
            queue: the queue of the jobs.
            wakeups: sends wake-ups for delayed jobs, and while the notifier does not accept submissions. Without a URL
                or a key, it is all that is used.
        """
        async with aiohttp.ClientSession(timeout=TIMEOUT, cookie_jar=aiohttp.DummyCookieJar()) as session:
            client = cls(session, url, keys, queue, wakeups)
            yield client
            with suppress(TimeoutError):
                async with asyncio.timeout(TIMEOUT.total):
                    while client._pending and await client._post(client._take_group()):
                        pass

    def notify(self, job: SubmittedJob, delay_s: float) -> None:
        """Schedule the submission of a job, and return without waiting for the request."""
        if self._url is None or delay_s > 0:
            self._wakeups.notify_after(delay_s)
        if self._url is not None:
            if len(self._pending) == MAX_PENDING:
                metrics.SUBMISSIONS_POSTED.labels("dropped").inc()
            self._pending.append(encode(job))
            self._has_pending.set()

    async def post(self, job: SubmittedJob) -> None:
        """Post a job at once, so that its watchers see that it waits; if that fails, schedule it."""
        if self._url is None or not await self._post([encode(job)]):
            self.notify(job, 0)

    async def run(self) -> None:
        """Post pending submissions until cancelled."""
        while True:
            await self._has_pending.wait()
            self._has_pending.clear()
            while self._pending:
                group = self._take_group()
                try:
                    await self._deliver(group)
                except asyncio.CancelledError:
                    self._pending.extendleft(reversed(group))  # the request may not have been sent
                    raise

    def _take_group(self) -> list[bytes]:
        """Remove and return the submissions of the next request, at least one."""
        group = [self._pending.popleft()]
        size = 2 + len(group[0])
        while self._pending and len(group) < MAX_REPORTS_PER_REQUEST:
            size += 1 + len(self._pending[0])
            if size > MAX_REPORTS_BYTES:
                break
            group.append(self._pending.popleft())
        return group

    async def _deliver(self, group: list[bytes]) -> None:
        """Post a group, and repeat that for a while if the notifier is unavailable."""
        failures, give_up_at = 0, math.inf
        while not await self._post(group):
            failures += 1
            give_up_at = min(give_up_at, time.monotonic() + RETRY_FOR_S)
            if time.monotonic() >= give_up_at:
                metrics.SUBMISSIONS_POSTED.labels("failed").inc(len(group))
                return
            await asyncio.sleep(full_jitter_s(failures, BACKOFF_S, MAX_BACKOFF_S))

    async def _post(self, group: list[bytes]) -> bool:
        """Post a group; return whether the notifier has answered, with a refusal or not."""
        assert self._url is not None and self._keys is not None  # noqa: S101, PT018 - otherwise nothing is pending
        headers = {**report_key_headers(self._keys), "Content-Type": JSON}
        body, query = b"[" + b",".join(group) + b"]", {"queue": self._queue}
        try:
            async with self._session.post(
                self._url, data=body, params=query, headers=headers, allow_redirects=False
            ) as response:
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._on_failure(type(error).__name__)
            return False
        if status >= HTTPStatus.MULTIPLE_CHOICES:
            self._on_failure(f"status {status}")
            if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                return False
        else:
            self._is_failing = False
        metrics.SUBMISSIONS_POSTED.labels("failed" if self._is_failing else "accepted").inc(len(group))
        return True

    def _on_failure(self, error: str) -> None:
        """Called when a request failed: send a wake-up instead, and log the first of several failures."""
        self._wakeups.notify()
        if not self._is_failing:
            log.warning("submissions_failed", error=error)
            self._is_failing = True
