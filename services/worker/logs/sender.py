"""The sender of logs: one request a second with the new pieces of all logs, apart from the reports.

A log may be lost, a report may not. So logs have their own connection, no report and no job waits for one, and what the
notifier refuses is dropped. A piece without an answer is repeated: its offset lets the notifier recognize it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiohttp
import msgspec
import structlog

from headway.backoff import full_jitter_s
from headway.contracts import JobReport, decode, encode
from headway.details import MAX_APPENDS_BYTES, MAX_APPENDS_PER_REQUEST, LogVerdict

from ...runtime.aiohttp_adapter import close_idle_connections
from ...runtime.settings import ReloadingFile
from .. import metrics
from .capture import capture_output
from .job_log import JobLog

log: structlog.stdlib.BoundLogger = structlog.get_logger()

TIMEOUT = aiohttp.ClientTimeout(total=6, connect=3)
GATHER_S = 0.1  # before the first request: the first lines of a job come together
INTERVAL_S = 1.0  # between two requests
BACKOFF_S, MAX_BACKOFF_S = 1.0, 10.0
UNSUPPORTED_PAUSE_S = 60.0  # after the answer of a notifier that accepts no logs
EXIT_TIMEOUT_S = 1.0  # for the last request of a worker that stops
MAX_CLOSED_LOGS = MAX_APPENDS_PER_REQUEST  # that wait to be sent; of more, the oldest are dropped
OK, NOT_FOUND = 200, 404
REFUSALS = frozenset({400, 413, 422, 500})  # the same request would be refused again


class LogsUnavailable(Exception):
    """The notifier is unreachable or its answer is unusable; the pieces are sent again."""


class LogsUnsupported(LogsUnavailable):
    """The notifier accepts no logs, because it is of an older version."""


class LogSender:
    """Sends the logs of a worker to the notifier. It knows only the logs that have something to send."""

    def __init__(self, session: aiohttp.ClientSession, url: str, keys: ReloadingFile[tuple[str, ...]]) -> None:
        self._session = session
        self._url = f"{url.rstrip('/')}/logs"
        self._keys = keys
        self._loop = asyncio.get_running_loop()
        self._logs: dict[JobLog, None] = {}  # the one that has waited longest first
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
            await _wait(self._urgent, GATHER_S)
            pause_s = INTERVAL_S - GATHER_S
            self._delivery_ended.clear()
            try:
                await self._send()
                failures = 0
            except LogsUnavailable as error:
                if failures == 0:
                    log.warning("logs_unavailable", error=str(error))
                failures += 1
                if isinstance(error, LogsUnsupported):
                    pause_s = UNSUPPORTED_PAUSE_S
                else:  # once an end could be reported, the notifier is available again, and clients wait for the rest
                    await _wait(self._delivery_ended, full_jitter_s(failures, BACKOFF_S, MAX_BACKOFF_S))
                    continue
            await _wait(self._urgent, pause_s)

    def _on_pending(self, job_log: JobLog) -> None:
        """Called in any thread when a log has something to send."""
        with suppress(RuntimeError):  # the loop was closed before the thread of a handler ended
            self._loop.call_soon_threadsafe(self._add, job_log)

    def _add(self, job_log: JobLog) -> None:
        self._logs[job_log] = None
        self._pending.set()
        if job_log.is_closed:
            self._delivery_ended.set()
        if job_log.is_urgent:
            self._urgent.set()
        if len(self._logs) > MAX_CLOSED_LOGS:
            closed = [waiting for waiting in self._logs if waiting.is_closed]
            for oldest in closed[:-MAX_CLOSED_LOGS]:
                del self._logs[oldest]

    async def _send(self) -> bool:
        """Send the next pieces in one request; return whether there were any.

        Raises:
            LogsUnavailable: the pieces have no answer.
        """
        self._urgent.clear()
        pieces = await self._next_pieces(time.monotonic())
        if not pieces:
            return False
        accepted = await self._post(b"[" + b",".join(pieces.values()) + b"]", len(pieces))
        for job_log, is_accepted in zip(pieces, accepted, strict=True):
            (metrics.LOG_BYTES_SENT if is_accepted else metrics.LOG_BYTES_LEFT_OUT).inc(job_log.on_answer())
            self._put_back(job_log)
        return True

    async def _next_pieces(self, now: float) -> dict[JobLog, bytes]:
        """Return the logs for the next request, each with its encoded piece; reports are sent between two pieces."""
        pieces: dict[JobLog, bytes] = {}
        size = len(b"[]")
        for job_log in list(self._logs):
            piece = job_log.next_piece(now)
            metrics.LOG_BYTES_LEFT_OUT.inc(job_log.take_left_out_bytes())
            if piece is None:
                self._put_back(job_log)
                continue
            data = encode(piece)
            size += len(data) + len(b",")
            if size > MAX_APPENDS_BYTES or len(pieces) == MAX_APPENDS_PER_REQUEST:
                break
            pieces[job_log] = data
            await asyncio.sleep(0)  # the redaction of one piece blocks the event loop for some milliseconds
        return pieces

    def _put_back(self, job_log: JobLog) -> None:
        """Move a log to the end of the line, or forget it until it has something to send again."""
        self._logs.pop(job_log, None)
        if not job_log.clear_pending():
            self._logs[job_log] = None
        if not self._logs:
            self._pending.clear()

    async def _post(self, body: bytes, count: int) -> list[bool]:
        """Post pieces, without following redirects, which would receive the report key; return which were accepted.

        If there is no answer, no connection is kept: the next one may reach another replica.

        Raises:
            LogsUnavailable: there is no usable answer.
        """
        headers = {"Authorization": f"Bearer {self._keys.value[0]}", "Content-Type": "application/json"}
        try:
            async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as response:
                metrics.LOG_REQUESTS.labels(str(response.status)).inc()
                return _accepted(response.status, await response.read(), count)
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


def _accepted(status: int, body: bytes, count: int) -> list[bool]:
    """Return which of `count` pieces were accepted.

    Raises:
        LogsUnavailable: the answer is unusable.
    """
    if status in REFUSALS:
        log.warning("logs_refused", status=status)
        return [False] * count
    if status != OK:
        error_type = LogsUnsupported if status == NOT_FOUND else LogsUnavailable
        raise error_type(f"POST /logs returned status {status}")
    try:
        verdicts = decode(body, list[LogVerdict])
    except msgspec.DecodeError as error:
        raise LogsUnavailable("the answer cannot be decoded") from error
    if len(verdicts) != count:
        raise LogsUnavailable("the answer does not match the pieces")
    return [verdict.accepted for verdict in verdicts]
