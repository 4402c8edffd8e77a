"""The reporter: one request in flight, and what is told meanwhile replaces what was: the latest state of a job wins.

A request that fails is sent again with the state of then and a new sequence number, so that a response lost on the
way never turns an accepted report into a refusal.
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
BACKOFF_CAP_S = 2.0
OK = 200
REJECTED_STATUSES = frozenset(
    {400, 413, 422, 500}
)  # anything else says nothing of the reports: a wrong address, or not now


class NotifierUnavailable(Exception):
    """The notifier could not be asked, or cannot tell: everything is sent again."""


class Reporter:
    """Carries the streams' reports to the notifier, and its verdicts back."""

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
        """Open a session to the notifier, which may still be away."""
        async with aiohttp.ClientSession(timeout=TIMEOUT, cookie_jar=aiohttp.DummyCookieJar()) as session:
            yield cls(session, url, keys, heartbeat_s)

    @contextmanager
    def stream(self, first: JobReport, on_verdict: Callable[[Verdict], None]) -> Iterator[ReportStream]:
        """Open the reports of one delivery; `judged` hears every verdict."""
        stream = ReportStream(first, on_verdict, self._wakeup.set)
        self._streams.add(stream)
        try:
            yield stream
        finally:
            self._streams.discard(stream)

    async def run(self) -> None:
        """Send what is due, for ever; while the notifier is away, try again with full jitter."""
        failures = 0
        while True:
            try:
                await self._tick()
                failures = 0
            except NotifierUnavailable as error:
                if self.reachable.is_set() or failures == 0:
                    log.warning("notifier_away", error=str(error))
                self.reachable.clear()
                failures += 1
                await asyncio.sleep(full_jitter_s(failures, BACKOFF_S, BACKOFF_CAP_S))

    async def _tick(self) -> None:
        if not self.reachable.is_set() and not self._streams:
            await self._probe()
        self._wakeup.clear()
        now = time.monotonic()
        due = [stream for stream in self._streams if stream.next_send_at(self._heartbeat_s) <= now]
        if due:
            due.sort(key=lambda stream: stream.sent_at)  # with more than one batch holds, nobody waits for ever
            await self._send(due[:MAX_REPORTS_PER_REQUEST])
            return
        next_at = min(
            (stream.next_send_at(self._heartbeat_s) for stream in self._streams), default=now + self._heartbeat_s
        )
        with suppress(TimeoutError):
            async with asyncio.timeout(next_at - now):
                await self._wakeup.wait()

    async def _probe(self) -> None:
        """Ask whether the notifier can take reports, when there are none whose fate would tell.

        Not over the connection of reports, which the notifier takes quicker where nothing else comes.
        """
        status, _ = await self._request("GET", "/readyz", None, Connection="close")
        if status != OK:
            raise NotifierUnavailable(f"not ready: {status}")
        self.reachable.set()

    async def _send(self, streams: list[ReportStream]) -> None:
        """Send one batch; one that is refused is halved until the report that is to blame stands alone."""
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
                "report_refused", job_id=str(reports[0].job_id), status=status, detail=_error_detail(body_received)
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
                answer = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            metrics.REPORTS.labels("unreachable").inc()
            raise NotifierUnavailable(type(error).__name__) from error
        metrics.REPORTS.labels(str(response.status)).inc()
        if response.status not in REJECTED_STATUSES and response.status != OK:
            raise NotifierUnavailable(f"{method} {path} was answered {response.status}")
        return response.status, answer


def _decode_verdicts(body: bytes, reports: Iterable[JobReport]) -> list[Verdict]:
    try:
        verdicts = decode(body, list[Verdict])
    except msgspec.DecodeError as error:
        raise NotifierUnavailable("the verdicts cannot be read") from error
    if [verdict.job_id for verdict in verdicts] != [report.job_id for report in reports]:
        raise NotifierUnavailable("the verdicts are not those of the reports")
    return verdicts


def _error_detail(body: bytes) -> str:
    try:
        return str(msgspec.json.decode(body)["detail"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return "no detail"
