"""The reporter: sends the reports of all deliveries, with one request in flight.

Changes during a request are coalesced: the next request carries only the latest state of each job. A failed request is
repeated with the latest state and new sequence numbers. If only the response was lost, the notifier would reject the
same sequence number as stale.

Only the notifier itself can reject a report. Any other response, for example of a proxy, means that the notifier is
unavailable. The reports are then sent again over a new connection, which may reach another replica, and in smaller
groups, so that a report which makes each of its requests fail does not hold up the others.

A request costs the notifier more than a report in it. So each request also contains the heartbeats that are due soon.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Container, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress

import aiohttp
import msgspec
import structlog
from msgspec.structs import replace

from headway.backoff import full_jitter_s
from headway.contracts import MAX_REPORTS_BYTES, JobReport, Verdict, decode, encode, uuid_str

from ...runtime.aiohttp_adapter import close_idle_connections
from ...runtime.internal_requests import rejection_of, report_key_headers
from ...runtime.request import JSON
from ...runtime.settings import ReloadingFile
from .. import metrics
from .report_stream import BACKOFF_S, MAX_BACKOFF_S, ReportStream

log: structlog.stdlib.BoundLogger = structlog.get_logger()

TIMEOUT = aiohttp.ClientTimeout(total=6, connect=3)  # a notifier without Redis answers after 5 s
OK = 200
EARLY_HEARTBEAT_FRACTION = 1 / 4  # of the heartbeat: a request contains the heartbeats that are due this much later


class ReportsRejected(Exception):
    """The notifier rejects a request, because one of its reports is invalid."""


class NotifierUnavailable(Exception):
    """The notifier is unreachable or its response is unusable; all reports are sent again."""


class Reporter:
    """Sends the reports of all streams to the notifier and passes each verdict to its stream.

    `reachable` is set while the notifier accepts reports.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        keys: ReloadingFile[tuple[str, ...]],
        heartbeat_s: float,
        worker_id: str | None,
    ) -> None:
        self._session = session
        self._url = url.rstrip("/")
        self._keys = keys
        self._heartbeat_s = heartbeat_s
        self._worker_id = worker_id
        self._streams: set[ReportStream] = set()
        self._wakeup = asyncio.Event()
        self.reachable = asyncio.Event()
        metrics.NOTIFIER_UNAVAILABLE.set_function(lambda: not self.reachable.is_set())

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, url: str, keys: ReloadingFile[tuple[str, ...]], heartbeat_s: float, worker_id: str | None = None
    ) -> AsyncIterator[Reporter]:
        """Open an HTTP session; the notifier need not be reachable yet.

        Args:
            url: the notifier's internal listener.
            keys: the report keys; the first one is used.
            heartbeat_s: the longest interval between two reports of a running job; `set_heartbeat` changes it.
            worker_id: the worker's id in all reports, where the notifier sends control messages.
        """
        async with aiohttp.ClientSession(timeout=TIMEOUT, cookie_jar=aiohttp.DummyCookieJar()) as session:
            yield cls(session, url, keys, heartbeat_s, worker_id)

    @contextmanager
    def stream(self, initial: JobReport, on_verdict: Callable[[Verdict], None]) -> Iterator[ReportStream]:
        """Open the report stream of one delivery; `on_verdict` is called with every verdict."""
        stream = ReportStream(replace(initial, worker=self._worker_id), on_verdict, self._wakeup.set)
        self._streams.add(stream)
        try:
            yield stream
        finally:
            self._streams.discard(stream)

    def set_heartbeat(self, seconds: float) -> None:
        """Set the longest interval between two reports of a running job."""
        self._heartbeat_s = seconds
        self._wakeup.set()

    def report_now(self, job_ids: Container[str] | None = None) -> None:
        """Report running jobs at once: those with these ids, or all."""
        for stream in self._streams:
            if job_ids is None or uuid_str(stream.job_id) in job_ids:
                stream.report_now()

    def check_notifier(self) -> None:
        """Check whether the notifier is ready, because a request of another kind has failed.

        With running jobs, the next report shows it.
        """
        if not self._streams:
            self.reachable.clear()
            self._wakeup.set()

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
        if group := self._next_group(now):
            await self._send(group)
            return
        next_at = min(
            (stream.next_send_at(self._heartbeat_s) for stream in self._streams), default=now + self._heartbeat_s
        )
        with suppress(TimeoutError):
            async with asyncio.timeout(next_at - now):
                await self._wakeup.wait()

    def _next_group(self, now: float) -> list[ReportStream]:
        """Return the streams for the next request: the one that has waited longest, and others with the same limit.

        A stream whose requests have failed shares none with streams whose requests have not.
        """
        due = [stream for stream in self._streams if stream.next_send_at(self._heartbeat_s) <= now]
        if not due:
            return []
        due.sort(key=lambda stream: stream.sent_at)
        limit = due[0].max_group
        early_s = self._heartbeat_s * (1 - EARLY_HEARTBEAT_FRACTION)
        early = (stream for stream in self._streams.difference(due) if stream.next_send_at(early_s) <= now)
        return [stream for stream in (*due, *early) if stream.max_group == limit][:limit]

    async def _probe(self) -> None:
        """Check the notifier's readiness. The next reports use the same connection: to a replica that was ready."""
        async with self._request("GET", "/readyz") as response:
            if response.status != OK:
                raise NotifierUnavailable(f"GET /readyz returned status {response.status}")
        self.reachable.set()

    async def _send(self, streams: list[ReportStream]) -> None:
        """Send the reports of some streams in one request."""
        reports = [stream.next_report() for stream in streams]
        body = encode(reports)
        if len(body) > MAX_REPORTS_BYTES and len(streams) > 1:
            return await self._split_and_send(streams)
        try:
            verdicts = await self._post(reports, body)
        except ReportsRejected as error:
            await self._on_rejection(streams, str(error))
        except NotifierUnavailable as error:
            await self._on_failure(streams, error)
        except asyncio.CancelledError:
            for stream in streams:
                stream.requeue()
            raise
        else:
            self.reachable.set()
            for stream, verdict in zip(streams, verdicts, strict=True):
                stream.on_verdict(verdict)
        return None

    async def _on_rejection(self, streams: list[ReportStream], detail: str) -> None:
        """Called when the notifier rejects a request: send its halves, one after the other.

        A report that is rejected alone is invalid.
        """
        if len(streams) > 1:
            return await self._split_and_send(streams)
        log.error("report_rejected", job_id=str(streams[0].job_id), detail=detail)
        streams[0].on_rejected(detail)
        return None

    async def _on_failure(self, streams: list[ReportStream], error: NotifierUnavailable) -> None:
        """Called when a request failed. If the notifier is ready, a report that failed alone concerns only its job.

        Raises:
            NotifierUnavailable: the failure concerns all reports.
        """
        for stream in streams:
            stream.on_failure(len(streams))
        if len(streams) > 1:
            raise error
        await self._probe()
        if streams[0].failures == 1:
            log.warning("report_failed", job_id=str(streams[0].job_id), error=str(error))

    async def _split_and_send(self, streams: list[ReportStream]) -> None:
        for stream in streams:
            stream.requeue()
        middle = len(streams) // 2
        await self._send(streams[:middle])
        await self._send(streams[middle:])

    async def _post(self, reports: Sequence[JobReport], body: bytes) -> list[Verdict]:
        """Post reports and return their verdicts.

        Raises:
            ReportsRejected: the notifier rejects the request.
            NotifierUnavailable: there is no usable response.
        """
        with metrics.REPORT_DURATION.time():
            async with self._request("POST", "/reports", body) as response:
                return _decode_verdicts(response, await response.read(), reports)

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, body: bytes | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and read its response, without following redirects, which would receive the report key.

        If the request fails or the block raises NotifierUnavailable, no connection is kept.

        Raises:
            NotifierUnavailable: the notifier is unreachable.
        """
        headers = {**report_key_headers(self._keys), "Content-Type": JSON}
        sending = self._session.request(method, self._url + path, data=body, headers=headers, allow_redirects=False)
        try:
            async with sending as response:
                await response.read()
                metrics.REPORT_REQUESTS.labels(str(response.status)).inc()
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            metrics.REPORT_REQUESTS.labels("unreachable").inc()
            close_idle_connections(self._session)
            raise NotifierUnavailable(type(error).__name__) from error
        except NotifierUnavailable:
            close_idle_connections(self._session)
            raise


def _decode_verdicts(response: aiohttp.ClientResponse, body: bytes, reports: Sequence[JobReport]) -> list[Verdict]:
    """Return the verdicts on reports.

    Raises:
        ReportsRejected: the notifier rejects the request.
        NotifierUnavailable: the response is unusable, or another server sent it.
    """
    if response.status != OK:
        if (rejection := rejection_of(response, body)) is not None:
            raise ReportsRejected(rejection)
        raise NotifierUnavailable(f"POST /reports returned status {response.status}")
    try:
        verdicts = decode(body, list[Verdict])
    except msgspec.DecodeError as error:
        raise NotifierUnavailable("the verdicts cannot be decoded") from error
    if [verdict.job_id for verdict in verdicts] != [report.job_id for report in reports]:
        raise NotifierUnavailable("the verdicts do not match the reports")
    return verdicts
