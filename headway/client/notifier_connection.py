"""A WebSocket connection to a notifier, and the jobs watched over it.

A snapshot is always the whole state, so a lost, repeated or skipped one does no harm. After a reconnect the notifier
sends the newest snapshot of each job. If no WebSocket can be opened, for example because of a proxy, every watch polls.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from contextlib import suppress
from uuid import UUID

import aiohttp
import msgspec
from msgspec import Struct

from headway.backoff import full_jitter_s
from headway.client.retries import (
    BACKOFF_BASE_S,
    BACKOFF_CAP_S,
    RETRYABLE_STATUSES,
    WARN_AFTER_FAILURES,
    RequestFailed,
    error_from_code,
    request_with_retry,
)
from headway.contracts import JobSnapshot, Timestamp, decode, encode
from headway.timestamp import RemoteClock

log = logging.getLogger("headway.client")

HELLO_TIMEOUT_S = 5.0  # a proxy may accept a WebSocket although no notifier is available
PING_INTERVAL_S = 20.0
CLOSE_TIMEOUT_S = 1.0
WEBSOCKET_RETRY_INTERVAL_S = 60.0  # between two attempts while polling
LONG_POLL_S = 25  # how long the notifier may delay the response
EMPTY_POLL_DELAY_S = 1.0  # after a poll without a newer snapshot: a proxy may answer without waiting
CLOSE_POLICY_VIOLATION, CLOSE_MESSAGE_TOO_BIG, CLOSE_TRY_AGAIN_LATER = 1008, 1009, 1013
FAILURES_WHEN_OVERLOADED = 5  # a close with 1013 delays the reconnect as much as five failures


class _Hello(Struct):
    now: Timestamp


class _Error(Struct):
    code: str
    message: str
    job_id: UUID | None = None


class _ServerMessage(Struct):
    """A message from the notifier; exactly one field is set."""

    hello: _Hello | None = None
    job: JobSnapshot | None = None
    error: _Error | None = None


class JobSubscription:
    """A watched job, its newest snapshot, and the number of callers in this client that watch it."""

    def __init__(self, job_id: UUID, token: str) -> None:
        self.id = job_id
        self.token = token
        self.watchers = 0
        self.version = -1
        self.snapshot: JobSnapshot | None = None
        self.error: Exception | None = None
        self._changed = asyncio.Event()

    def update(self, snapshot: JobSnapshot) -> None:
        """Store a snapshot and wake the waiting callers, if it is newer."""
        if snapshot.version > self.version:
            self.version, self.snapshot = snapshot.version, snapshot
            self.notify()

    def fail(self, error: Exception) -> None:
        """Raise an exception in all waiting callers."""
        self.error = error
        self.notify()

    def notify(self) -> None:
        """Wake all waiting callers."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def wait(self) -> None:
        """Wait until the next `notify`."""
        await self._changed.wait()


class NotifierConnection:
    """A connection to one notifier; it opens when a job is watched, and reopens after a loss until `close`."""

    def __init__(self, session: aiohttp.ClientSession, url: str, clock: RemoteClock) -> None:
        self._session = session
        self._url = url
        self._clock = clock  # set to the notifier's time
        self._subscriptions: dict[UUID, JobSubscription] = {}
        self._has_subscriptions = asyncio.Event()
        self._websocket: aiohttp.ClientWebSocketResponse | None = None
        self._failures = 0
        self._polling = False
        self._reconnect_task = asyncio.create_task(self._reconnect_loop())
        self._reconnect_task.add_done_callback(self._on_reconnect_loop_done)

    async def subscribe(self, job_id: UUID, token: str) -> JobSubscription:
        """Subscribe to a job until `unsubscribe`; several watchers of a job share one subscription."""
        job = self._subscriptions.get(job_id)
        if job is None:
            job = self._subscriptions[job_id] = JobSubscription(job_id, token)
            self._has_subscriptions.set()
        job.watchers += 1
        if job.watchers == 1:
            try:
                await self._subscribe(job)
            except BaseException:
                await self.unsubscribe(job)
                raise
        return job

    async def unsubscribe(self, job: JobSubscription) -> None:
        """Remove a watcher from a subscription; the last one ends it."""
        job.watchers -= 1
        if not job.watchers and self._subscriptions.get(job.id) is job:
            self._remove(job)
            await self._send({"unwatch": job.id})

    async def wait_for_newer(self, job: JobSubscription, version: int) -> JobSnapshot:
        """Return the newest snapshot as soon as it is newer than `version`; raise if the subscription has failed."""
        while job.snapshot is None or job.version <= version:
            if job.error is not None:
                raise job.error
            if self._polling:
                await self._poll(job)
            else:
                await job.wait()
        return job.snapshot

    async def close(self) -> None:
        """Close the WebSocket and end all watches with a RuntimeError."""
        self._reconnect_task.cancel()
        await asyncio.wait({self._reconnect_task})

    async def _reconnect_loop(self) -> None:
        while True:
            await self._has_subscriptions.wait()
            code: int | None = None
            reason: Exception | None = None
            try:
                code = await self._run_connection()
            except TimeoutError:
                self._switch_to_polling("no hello message")
            except aiohttp.WSServerHandshakeError as error:
                reason = error
                if error.status not in RETRYABLE_STATUSES:
                    self._switch_to_polling(f"the upgrade was answered with {error.status}")
            except (aiohttp.ClientError, OSError) as error:
                reason = error
            finally:
                self._websocket = None
            if code in (CLOSE_POLICY_VIOLATION, CLOSE_MESSAGE_TOO_BIG):  # a retry would fail in the same way
                self._fail_all()
            await asyncio.sleep(WEBSOCKET_RETRY_INTERVAL_S if self._polling else self._backoff_s(code, reason))

    async def _run_connection(self) -> int | None:
        """Open a WebSocket, subscribe to all jobs, and process messages until it closes; return the close code."""
        url = f"ws{self._url.removeprefix('http')}/live"
        timeout = aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT_S)
        async with (
            asyncio.timeout(HELLO_TIMEOUT_S) as hello_timeout,
            self._session.ws_connect(url, heartbeat=PING_INTERVAL_S, timeout=timeout) as websocket,
        ):
            self._websocket = websocket
            for job in list(self._subscriptions.values()):
                await self._subscribe(job)
            async for message in websocket:
                if message.type is aiohttp.WSMsgType.TEXT and self._on_message(message.data):
                    hello_timeout.reschedule(None)
                    self._failures = 0
                    self._polling = False
            return websocket.close_code

    def _on_message(self, text: str) -> bool:
        """Called with each message from the notifier; return whether it was a hello."""
        try:
            message = decode(text, _ServerMessage)
        except msgspec.DecodeError as error:
            log.warning("%s sent an unexpected message: %s", self._url, error)
            return False
        if message.job is not None and (subscription := self._subscriptions.get(message.job.id)) is not None:
            subscription.update(message.job)
        if message.error is not None and message.error.code != "unknown":  # a later report restores the record
            self._on_error(message.error)
        if message.hello is not None:
            self._clock.set(message.hello.now, time.monotonic())
        return message.hello is not None

    def _on_error(self, error: _Error) -> None:
        """Called with an error. One without a job id concerns every job that has no snapshot yet."""
        for job in list(self._subscriptions.values()):
            if job.id == error.job_id or (error.job_id is None and job.snapshot is None):
                self._fail(job, error_from_code(None, error.code, error.message))

    def _fail_all(self) -> None:
        for job in list(self._subscriptions.values()):
            self._fail(job, RequestFailed(None, "refused", "The notifier rejected this client's messages."))

    def _fail(self, job: JobSubscription, error: Exception) -> None:
        self._remove(job)
        job.fail(error)

    def _remove(self, job: JobSubscription) -> None:
        del self._subscriptions[job.id]
        if not self._subscriptions:
            self._has_subscriptions.clear()

    def _switch_to_polling(self, reason: str) -> None:
        if not self._polling:
            log.info("%s accepts no WebSocket (%s); polling instead", self._url, reason)
        self._polling = True
        for job in self._subscriptions.values():
            job.notify()

    def _backoff_s(self, code: int | None, reason: Exception | None) -> float:
        if code == CLOSE_TRY_AGAIN_LATER:
            self._failures = max(self._failures, FAILURES_WHEN_OVERLOADED)
        delay_s = full_jitter_s(self._failures, BACKOFF_BASE_S, BACKOFF_CAP_S)
        self._failures += 1
        if self._failures == WARN_AFTER_FAILURES:
            log.warning("%s does not answer (%s); reconnecting", self._url, reason or code)
        return delay_s

    async def _subscribe(self, job: JobSubscription) -> None:
        # Version 0 is the placeholder of a job without a record, so the client does not have a version yet.
        await self._send({"watch": job.token, **({"version": job.version} if job.version > 0 else {})})

    async def _send(self, message: dict[str, object]) -> None:
        if self._websocket is not None:
            with suppress(ConnectionError):  # the next connection subscribes to all jobs again
                await self._websocket.send_str(encode(message).decode())

    async def _poll(self, job: JobSubscription) -> None:
        known_version = job.version
        condition = {"If-None-Match": f'"{known_version}"'} if known_version >= 0 else {}
        try:
            body = await request_with_retry(
                self._session,
                "GET",
                f"{self._url}/live/jobs/{job.id}",
                token=job.token,
                headers={"Prefer": f"wait={LONG_POLL_S}", **condition},
                timeout_s=2 * LONG_POLL_S,
                retry_for_s=math.inf,
            )
            if body:
                job.update(decode(body, JobSnapshot))
        except RequestFailed as error:
            if error.code != "unknown":
                raise
        if job.version == known_version:
            await asyncio.sleep(EMPTY_POLL_DELAY_S)

    def _on_reconnect_loop_done(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        for job in list(self._subscriptions.values()):
            self._fail(job, error if isinstance(error, Exception) else RuntimeError("the client was closed"))
