"""The reporter: sends the reports of all deliveries, with one request in flight.

Changes during a request are coalesced: the next request carries only the latest state of each job. A failed request is
repeated with the latest state and new sequence numbers. If only the response was lost, the notifier would reject the
same sequence number as stale.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import aiohttp
import msgspec
import structlog

from headway.backoff import full_jitter_s
from headway.contracts import MAX_REPORTS_BYTES, MAX_REPORTS_PER_REQUEST, JobReport, Verdict, decode, encode

from ...runtime.settings import ReloadingFile
from .. import metrics
from .report_stream import ReportStream

log: structlog.stdlib.BoundLogger = structlog.get_logger()

TIMEOUT = aiohttp.ClientTimeout(total=10, connect=3)
BACKOFF_S = 0.1
MAX_BACKOFF_S = 2.0
OK = 200
REJECTED_STATUSES = frozenset({400, 413, 422, 500})  # any other error status does not concern the reports themselves


class NotifierUnavailable(Exception):
    """The notifier is unreachable or its response is unusable; all reports are sent again."""


class Reporter:
    """Sends the reports of all streams to the notifier and passes each verdict to its stream.

    `reachable` is set while the notifier accepts reports.
    """

    def __init__(
        self, session: aiohttp.ClientSession, url: str, keys: ReloadingFile[tuple[str, ...]], heartbeat_s: float
    ) -> None:
        self._session = session
        self._url = url.rstrip("/")
        self._keys = keys
        self._heartbeat_s = heartbeat_s
        self._streams: set[ReportStream] = set()
        self._wakeup = asyncio.Event()
        self.reachable = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, url: str, keys: ReloadingFile[tuple[str, ...]], heartbeat_s: float
    ) -> AsyncIterator[Reporter]:
        """Open an HTTP session; the notifier need not be reachable yet.

        Args:
            url: the notifier's internal listener.
            keys: the report keys; the first one is used.
            heartbeat_s: the longest interval between two reports of a running job.
        """
        async with aiohttp.ClientSession(timeout=TIMEOUT, cookie_jar=aiohttp.DummyCookieJar()) as session:
            yield cls(session, url, keys, heartbeat_s)

    @contextmanager
    def stream(self, initial: JobReport, on_verdict: Callable[[Verdict], None]) -> Iterator[ReportStream]:
        """Open the report stream of one delivery; `on_verdict` is called with every verdict."""
        stream = ReportStream(initial, on_verdict, self._wakeup.set)
        self._streams.add(stream)
        try:
            yield stream
        finally:
            self._streams.discard(stream)

    async def run(self) -> None:
        """Send reports when they are due, until cancelled; on errors retry with backoff and full jitter."""
        failures = 0
        while True:
            try:
                await self._tick()
                failures = 0
            except NotifierUnavailable as error:
                if self.reachable.is_set() or failures == 0:
                    log.warning("notifier_unavailable", error=str(error))
                self.reachable.clear()
                failures += 1
                await asyncio.sleep(full_jitter_s(failures, BACKOFF_S, MAX_BACKOFF_S))

    async def _tick(self) -> None:
        if not self.reachable.is_set() and not self._streams:
            await self._probe()
        self._wakeup.clear()
        now = time.monotonic()
        due = [stream for stream in self._streams if stream.next_send_at(self._heartbeat_s) <= now]
        if due:
            due.sort(key=lambda stream: stream.sent_at)  # the oldest first, if one request cannot hold them all
            await self._send(due[:MAX_REPORTS_PER_REQUEST])
            return
        next_at = min(
            (stream.next_send_at(self._heartbeat_s) for stream in self._streams), default=now + self._heartbeat_s
        )
        with suppress(TimeoutError):
            async with asyncio.timeout(next_at - now):
                await self._wakeup.wait()

    async def _probe(self) -> None:
        """Check the notifier's readiness, while there are no reports to send.

        `Connection: close` keeps the probe off the connection for reports: the notifier has a fast path for
        connections that carry only reports.
        """
        status, _ = await self._request("GET", "/readyz", None, Connection="close")
        if status != OK:
            raise NotifierUnavailable(f"GET /readyz returned status {status}")
        self.reachable.set()

    async def _send(self, streams: list[ReportStream]) -> None:
        """Send the reports of some streams in one request.

        If the notifier rejects the request, its halves are sent one after the other, until the invalid report is alone.
        """
        reports = [stream.next_report() for stream in streams]
        body = encode(reports)
        if len(body) > MAX_REPORTS_BYTES and len(streams) > 1:
            return await self._split_and_send(streams)
        try:
            with metrics.REPORT_DURATION.time():
                status, body_received = await self._request("POST", "/reports", body)
            verdicts = _decode_verdicts(body_received, reports) if status == OK else []
        except (NotifierUnavailable, asyncio.CancelledError):
            for stream in streams:
                stream.requeue()
            raise
        if status == OK:
            self.reachable.set()
            for stream, verdict in zip(streams, verdicts, strict=True):
                stream.on_verdict(verdict)
        elif len(streams) > 1:
            await self._split_and_send(streams)
        else:
            log.error(
                "report_rejected", job_id=str(reports[0].job_id), status=status, detail=_error_detail(body_received)
            )
            streams[0].on_rejected(_error_detail(body_received))
        return None

    async def _split_and_send(self, streams: list[ReportStream]) -> None:
        for stream in streams:
            stream.requeue()
        middle = len(streams) // 2
        await self._send(streams[:middle])
        await self._send(streams[middle:])

    async def _request(self, method: str, path: str, body: bytes | None, **headers: str) -> tuple[int, bytes]:
        headers = {"Authorization": f"Bearer {self._keys.value[0]}", "Content-Type": "application/json", **headers}
        try:
            async with self._session.request(method, self._url + path, data=body, headers=headers) as response:
                received = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            metrics.REPORT_REQUESTS.labels("unreachable").inc()
            raise NotifierUnavailable(type(error).__name__) from error
        metrics.REPORT_REQUESTS.labels(str(response.status)).inc()
        if response.status not in REJECTED_STATUSES and response.status != OK:
            raise NotifierUnavailable(f"{method} {path} returned status {response.status}")
        return response.status, received


def _decode_verdicts(body: bytes, reports: Iterable[JobReport]) -> list[Verdict]:
    try:
        verdicts = decode(body, list[Verdict])
    except msgspec.DecodeError as error:
        raise NotifierUnavailable("the verdicts cannot be decoded") from error
    if [verdict.job_id for verdict in verdicts] != [report.job_id for report in reports]:
        raise NotifierUnavailable("the verdicts do not match the reports")
    return verdicts


def _error_detail(body: bytes) -> str:
    try:
        return str(msgspec.json.decode(body)["detail"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return "no detail"
