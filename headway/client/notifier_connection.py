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

from headway.client.connection_errors import INVALID_URL, connection_problem
from headway.client.job_subscription import JobSubscription
from headway.client.loop_session import CLOSED, OTHER_LOOP
from headway.client.reconnects import ReconnectDelays
from headway.client.retries import (
    RETRYABLE_STATUSES,
    WARN_AFTER_FAILURES,
    RequestFailed,
    Unreachable,
    error_from_code,
    request_with_retry,
    retry_after_s,
)
from headway.contracts import JobSnapshot, Timestamp, decode, encode
from headway.timestamp import RemoteClock
from headway.tokens import InvalidToken

log = logging.getLogger("headway.client")

HELLO_TIMEOUT_S = 5.0  # a proxy may accept a WebSocket although no notifier is available
PING_INTERVAL_S = 20.0  # a notifier of version 0.1 does not say for how long it may be silent
CLOSE_TIMEOUT_S = 1.0
WEBSOCKET_RETRY_INTERVAL_S = 60.0  # between two attempts while polling
FALLBACK_AFTER_S = 60.0  # if WebSockets have worked before: a restart is more likely than a new proxy
LONG_POLL_S = 25  # how long the notifier may delay the response
EMPTY_POLL_DELAY_S = 1.0  # after a poll without a newer snapshot: a proxy may answer without waiting
CLOSE_POLICY_VIOLATION, CLOSE_MESSAGE_TOO_BIG = 1008, 1009


class _Hello(Struct):
    now: Timestamp
    silence_s: float | None = None  # after how long without a message the connection is lost
    reconnect_s: float | None = None  # within which time to reconnect, because the notifier is about to restart


class _Error(Struct):
    code: str
    message: str
    job_id: UUID | None = None


class _ServerMessage(Struct):
    """A message from the notifier; exactly one field is set."""

    hello: _Hello | None = None
    job: JobSnapshot | None = None
    error: _Error | None = None


class NotifierConnection:
    """A connection to one notifier; it opens when a job is watched, and reopens after a loss until `close`."""

    def __init__(self, session: aiohttp.ClientSession, url: str, clock: RemoteClock) -> None:
        self._session = session
        self._url = url
        self._clock = clock  # set to the notifier's time
        self._subscriptions: dict[UUID, JobSubscription] = {}
        self._has_subscriptions = asyncio.Event()
        self._websocket: aiohttp.ClientWebSocketResponse | None = None
        self._delays = ReconnectDelays()
        self._greeted = False  # whether this connection, or the last one, has received a hello
        self._worked_at: float | None = None  # when the last message arrived, or was missed
        self._polling = False
        self._reconnect_task = asyncio.create_task(self._reconnect_loop())
        self._reconnect_task.add_done_callback(self._on_reconnect_loop_done)

    async def subscribe(self, job_id: UUID, token: str) -> JobSubscription:
        """Subscribe to a job until `unsubscribe`; several watchers of a job share one subscription."""
        job = self._subscriptions.get(job_id)
        if job is None:
            job = self._subscriptions[job_id] = JobSubscription(job_id)
            self._has_subscriptions.set()
        job.watchers += 1
        job.add_token(token)
        try:
            await self._request(job)
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
            if not self._is_own_loop():
                raise RuntimeError(OTHER_LOOP)
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
            except TimeoutError as error:
                reason = error
                if self._greeted:
                    self._worked_at = time.monotonic()
                else:
                    self._fall_back("no hello message")
            except aiohttp.WSServerHandshakeError as error:
                reason = error
                if error.status not in RETRYABLE_STATUSES:
                    self._fall_back(f"the upgrade was answered with {error.status}")
            except INVALID_URL as error:  # a retry would fail in the same way
                problem = connection_problem(error, self._url)
                self._fail_all(Unreachable(f"{self._url} does not answer: {problem}"))
            except (aiohttp.ClientError, OSError) as error:
                reason = error
            finally:
                self._websocket = None
            if code in (CLOSE_POLICY_VIOLATION, CLOSE_MESSAGE_TOO_BIG):
                self._fail_all(RequestFailed(None, "refused", "The notifier rejected this client's messages."))
            await asyncio.sleep(WEBSOCKET_RETRY_INTERVAL_S if self._polling else self._next_delay_s(code, reason))

    async def _run_connection(self) -> int | None:
        """Open a WebSocket, subscribe to all jobs, and process messages until it closes; return the close code.

        Raises:
            TimeoutError: no hello has arrived, or later no message for as long as the hello permits.
            aiohttp.ClientError, OSError: the WebSocket could not be opened.
        """
        url = f"ws{self._url.removeprefix('http')}/live"
        close_timeout = aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT_S)
        self._greeted = False
        async with (
            asyncio.timeout(HELLO_TIMEOUT_S) as timeout,
            self._session.ws_connect(url, heartbeat=PING_INTERVAL_S, timeout=close_timeout) as websocket,
        ):
            self._websocket = websocket
            for job in list(self._subscriptions.values()):
                job.forget_request()
                await self._request(job)
            hello: _Hello | None = None
            async for message in websocket:
                if hello is not None:
                    self._clock.confirm()
                if message.type is aiohttp.WSMsgType.TEXT:
                    hello = await self._on_message(message.data) or hello
                if hello is not None:
                    self._worked_at = time.monotonic()
                    timeout.reschedule(asyncio.get_running_loop().time() + hello.silence_s if hello.silence_s else None)
            return websocket.close_code

    async def _on_message(self, text: str) -> _Hello | None:
        """Called with each message from the notifier; return the hello if it is one."""
        try:
            message = decode(text, _ServerMessage)
        except msgspec.DecodeError as error:
            log.warning("%s sent an unexpected message: %s", self._url, error)
            return None
        if message.job is not None and (job := self._subscriptions.get(message.job.id)) is not None:
            job.update(message.job)
            await self._request(job)
        if message.error is not None and message.error.code != "unknown":  # a later report restores the record
            await self._on_error(message.error)
        if message.hello is not None:
            repeated = message.hello.silence_s is not None
            self._clock.receive(message.hello.now, time.monotonic(), repeated=repeated)
            self._delays.reset()
            self._delays.restart_spread_s = message.hello.reconnect_s
            self._greeted, self._polling = True, False
        return message.hello

    async def _on_error(self, error: _Error) -> None:
        """Called with an error. One without a job id concerns every job that has no snapshot yet."""
        exception = error_from_code(None, error.code, error.message)
        for job in list(self._subscriptions.values()):
            if job.id == error.job_id and isinstance(exception, InvalidToken) and job.reject_token(job.requested):
                job.forget_request()
                await self._request(job)
            elif job.id == error.job_id or (error.job_id is None and job.snapshot is None):
                self._fail(job, exception)

    def _fail_all(self, error: Exception) -> None:
        for job in list(self._subscriptions.values()):
            self._fail(job, error)

    def _fail(self, job: JobSubscription, error: Exception) -> None:
        self._remove(job)
        job.fail(error)

    def _remove(self, job: JobSubscription) -> None:
        self._subscriptions.pop(job.id, None)
        if not self._subscriptions:
            self._has_subscriptions.clear()

    def _fall_back(self, reason: str) -> None:
        """Poll instead, unless WebSockets have worked a short time ago."""
        if self._worked_at is not None and time.monotonic() - self._worked_at < FALLBACK_AFTER_S:
            return
        if not self._polling:
            log.info("%s accepts no WebSocket (%s); polling instead", self._url, reason)
        self._polling = True
        for job in self._subscriptions.values():
            job.notify()

    def _next_delay_s(self, code: int | None, reason: Exception | None) -> float:
        wait_s = 0.0
        if isinstance(reason, aiohttp.WSServerHandshakeError):
            code, wait_s = reason.status, retry_after_s(reason.headers.get("Retry-After", "") if reason.headers else "")
        delay_s = self._delays.next_s(code, wait_s)
        if self._delays.failures == WARN_AFTER_FAILURES:
            log.warning(
                "%s does not answer (%s); reconnecting",
                self._url,
                connection_problem(reason, self._url) if reason else code,
            )
        # An attempt without an answer has taken longer than any delay. The path may have become free meanwhile.
        return 0.0 if isinstance(reason, TimeoutError) and not self._greeted else delay_s

    async def _request(self, job: JobSubscription) -> None:
        if (message := job.next_request()) is not None:
            await self._send(message)

    async def _send(self, message: dict[str, object]) -> None:
        if self._websocket is not None and self._is_own_loop():
            with suppress(ConnectionError):  # the next connection subscribes to all jobs again
                await self._websocket.send_str(encode(message).decode())

    async def _poll(self, job: JobSubscription) -> None:
        known_version, token = job.version, job.token
        condition = {"If-None-Match": f'"{known_version}"'} if known_version >= 0 else {}
        try:
            body = await request_with_retry(
                self._session,
                "GET",
                f"{self._url}/live/jobs/{job.id}",
                token=token,
                headers={"Prefer": f"wait={LONG_POLL_S}", **condition},
                timeout_s=2 * LONG_POLL_S,
                retry_for_s=math.inf,
                clock=self._clock,
            )
            if body:
                job.update(decode(body, JobSnapshot))
            self._clock.confirm()
        except InvalidToken as error:
            if not job.reject_token(token):
                self._fail(job, error)
            return
        except RequestFailed as error:
            if error.code != "unknown":
                raise
        if job.version == known_version:
            await asyncio.sleep(EMPTY_POLL_DELAY_S)

    def _on_reconnect_loop_done(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        for job in list(self._subscriptions.values()):
            self._fail(job, error if isinstance(error, Exception) else RuntimeError(CLOSED))

    def _is_own_loop(self) -> bool:
        return self._reconnect_task.get_loop() is asyncio.get_running_loop()
