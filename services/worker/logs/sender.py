"""The sender of logs: one request a second with the new text of all logs, apart from the reports.

A log may be lost, a report may not. So logs have their own connection, no report and no job waits for one, and what the
notifier refuses is dropped. An append without an answer is repeated: its offset lets the notifier recognize it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import aiohttp
import msgspec
import structlog

from headway.backoff import full_jitter_s
from headway.contracts import JobReport, decode, encode
from headway.details import MAX_APPENDS_BYTES, MAX_APPENDS_PER_REQUEST, LogVerdict

from ...runtime.aiohttp_adapter import close_idle_connections
from ...runtime.internal_requests import rejection_of, report_key_headers
from ...runtime.request import JSON
from ...runtime.settings import ReloadingFile
from .. import metrics
from .capture import capture_output
from .job_log import JobLog

log: structlog.stdlib.BoundLogger = structlog.get_logger()

TIMEOUT = aiohttp.ClientTimeout(total=6, connect=3)
GATHER_S = 0.1  # before the first request: the first lines of a job come together
INTERVAL_S = 1.0  # between the starts of two requests
MAX_EARLY_S = 2.0  # how much earlier an urgent request may start; the next ones are that much later
BACKOFF_S, MAX_BACKOFF_S = 1.0, 10.0
UNSUPPORTED_PAUSE_S = 60.0  # after the answer of a notifier that accepts no logs
EXIT_TIMEOUT_S = 1.0  # for the last request of a worker that stops
MAX_CLOSED_LOGS = MAX_APPENDS_PER_REQUEST  # that wait to be sent; of more, the oldest are dropped
OK, NOT_FOUND = 200, 404


class LogsUnavailable(Exception):
    """The notifier is unreachable or its answer is unusable; the appends are sent again."""


class LogsUnsupported(LogsUnavailable):
    """The notifier accepts no logs, because it is of an older version."""


class LogsRefused(Exception):
    """The notifier refuses a request, because one of its appends is invalid."""


class LogSender:
    """Sends the logs of a worker to the notifier. It knows only the logs that have something to send."""

    def __init__(self, session: aiohttp.ClientSession, url: str, keys: ReloadingFile[tuple[str, ...]]) -> None:
        self._session = session
        self._url = f"{url.rstrip('/')}/logs"
        self._keys = keys
        self._loop = asyncio.get_running_loop()
        self._logs: dict[JobLog, None] = {}  # the one that has waited longest first
        self._due_at = 0.0  # when the next request is due, in the time of the event loop
        self._pending = asyncio.Event()
        self._urgent = asyncio.Event()
        self._delivery_ended = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str, keys: ReloadingFile[tuple[str, ...]]) -> AsyncIterator[LogSender]:
        """Capture what jobs log and print, and open an HTTP session; on exit, send the rest of the logs.

        Args:
            url: the notifier's internal listener; it need not be reachable.
            keys: the report keys; the first one is used.
        """
        async with aiohttp.ClientSession(timeout=TIMEOUT, cookie_jar=aiohttp.DummyCookieJar()) as session:
            sender = cls(session, url, keys)
            with capture_output():
                yield sender
            with suppress(TimeoutError, LogsUnavailable):
                async with asyncio.timeout(EXIT_TIMEOUT_S):
                    while await sender._send():
                        pass

    def open(self, report: JobReport, *, watchers: bool) -> JobLog:
        """Return the log of the delivery that a report names, for all `watchers` of its job or for operators only."""
        return JobLog(report, watchers, self._on_pending)

    async def run(self) -> None:
        """Send what was logged, once a second, until cancelled; on errors retry with backoff and full jitter."""
        failures = 0
        while True:
            await self._pending.wait()
            await self._wait_until_due()
            self._delivery_ended.clear()
            try:
                await self._send()
                failures = 0
            except LogsUnavailable as error:
                if failures == 0:
                    log.warning("logs_unavailable", error=str(error))
                failures += 1
                if isinstance(error, LogsUnsupported):
                    await asyncio.sleep(UNSUPPORTED_PAUSE_S)
                else:  # once an end could be reported, the notifier is available again, and clients wait for the rest
                    await _wait(self._delivery_ended, full_jitter_s(failures, BACKOFF_S, MAX_BACKOFF_S))

    async def _wait_until_due(self) -> None:
        """Wait for the next request's time: one a second on average, of which urgent ones may be somewhat early."""
        now = self._loop.time
        await _wait(self._urgent, max(GATHER_S, self._due_at - now()))
        await asyncio.sleep(self._due_at - MAX_EARLY_S - now())
        self._due_at = max(self._due_at, now()) + INTERVAL_S

    def _on_pending(self, job_log: JobLog) -> None:
        """Called in any thread when a log has something to send."""
        with suppress(RuntimeError):  # the loop was closed before the thread of a handler ended
            self._loop.call_soon_threadsafe(self._add, job_log)

    def _add(self, job_log: JobLog) -> None:
        if job_log.clear_pending():  # it was sent or dropped meanwhile
            return
        self._logs[job_log] = None
        self._pending.set()
        if job_log.is_closed:
            self._delivery_ended.set()
            self._limit_closed_logs()
        if job_log.is_urgent:
            self._urgent.set()

    def _limit_closed_logs(self) -> None:
        """Drop the oldest closed logs, if there are too many."""
        if len(self._logs) > MAX_CLOSED_LOGS:
            closed = [waiting for waiting in self._logs if waiting.is_closed]
            for oldest in closed[:-MAX_CLOSED_LOGS]:
                del self._logs[oldest]
                metrics.LOG_BYTES_LEFT_OUT.inc(oldest.drop())

    async def _send(self) -> bool:
        """Send what is due of all logs in one request; return whether any of it was accepted or refused.

        Raises:
            LogsUnavailable: there is no answer.
        """
        self._urgent.clear()
        appends = await self._next_appends(time.monotonic())
        return bool(appends) and await self._send_group(appends)

    async def _send_group(self, appends: Sequence[tuple[JobLog, bytes]]) -> bool:
        """Send some appends as `_send` does; if the notifier refuses the request, send its halves."""
        try:
            verdicts = await self._post([data for _, data in appends])
        except LogsRefused as error:
            if len(appends) > 1:
                middle = len(appends) // 2
                first = await self._send_group(appends[:middle])
                return await self._send_group(appends[middle:]) or first
            log.warning("logs_refused", detail=str(error))
            self._on_answer(appends[0][0], is_accepted=False)
            return True
        for (job_log, _), verdict in zip(appends, verdicts, strict=True):
            if verdict.reason == "unavailable":
                self._put_back(job_log)
            else:
                self._on_answer(job_log, is_accepted=verdict.accepted)
        return any(verdict.reason != "unavailable" for verdict in verdicts)

    def _on_answer(self, job_log: JobLog, *, is_accepted: bool) -> None:
        (metrics.LOG_BYTES_SENT if is_accepted else metrics.LOG_BYTES_LEFT_OUT).inc(job_log.on_answer())
        self._put_back(job_log)

    async def _next_appends(self, now: float) -> list[tuple[JobLog, bytes]]:
        """Return the logs for the next request, each with its encoded append; reports are sent between two of them."""
        appends: list[tuple[JobLog, bytes]] = []
        size = len(b"[]")
        for job_log in list(self._logs):
            append = job_log.next_append(now)
            metrics.LOG_BYTES_LEFT_OUT.inc(job_log.take_left_out_bytes())
            if append is None:
                self._put_back(job_log)
                continue
            data = encode(append)
            size += len(data) + len(b",")
            if size > MAX_APPENDS_BYTES or len(appends) == MAX_APPENDS_PER_REQUEST:
                break
            appends.append((job_log, data))
            await asyncio.sleep(0)  # the redaction of one text blocks the event loop for some milliseconds
        return appends

    def _put_back(self, job_log: JobLog) -> None:
        """Move a log to the end of the line, or forget it until it has something to send again."""
        self._logs.pop(job_log, None)
        if not job_log.clear_pending():
            self._logs[job_log] = None
        if not self._logs:
            self._pending.clear()

    async def _post(self, appends: Sequence[bytes]) -> list[LogVerdict]:
        """Post appends, without following redirects, which would receive the report key; return the verdicts.

        If there is no answer, no connection is kept: the next one may reach another replica.

        Raises:
            LogsRefused: the notifier refuses the request.
            LogsUnavailable: there is no usable answer.
        """
        headers = {**report_key_headers(self._keys), "Content-Type": JSON}
        body = b"[" + b",".join(appends) + b"]"
        try:
            async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as response:
                metrics.LOG_REQUESTS.labels(str(response.status)).inc()
                return _verdicts(response, await response.read(), len(appends))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            metrics.LOG_REQUESTS.labels("unreachable").inc()
            close_idle_connections(self._session)
            raise LogsUnavailable(type(error).__name__) from error
        except LogsUnavailable:
            close_idle_connections(self._session)
            raise


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, at most some seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _verdicts(response: aiohttp.ClientResponse, body: bytes, count: int) -> list[LogVerdict]:
    """Return the verdicts on `count` appends.

    Raises:
        LogsRefused: the notifier refuses the request.
        LogsUnavailable: the answer is unusable, or another server has sent it.
    """
    if response.status != OK:
        if (rejection := rejection_of(response, body)) is not None:
            raise LogsRefused(rejection)
        error_type = LogsUnsupported if response.status == NOT_FOUND else LogsUnavailable
        raise error_type(f"POST /logs returned status {response.status}")
    try:
        verdicts = decode(body, list[LogVerdict])
    except msgspec.DecodeError as error:
        raise LogsUnavailable("the answer cannot be decoded") from error
    if len(verdicts) != count:
        raise LogsUnavailable("the answer does not match the appends")
    return verdicts
