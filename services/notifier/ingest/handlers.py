"""What workers report: `POST /reports`, a batch in and a verdict for each out, and one-line reports as a URL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import structlog
from aiohttp import web
from msgspec import Meta
from redis.exceptions import RedisError

from headway.contracts import (
    MAX_DEPTH,
    MAX_REPORTS_BYTES,
    MAX_REPORTS_PER_REQUEST,
    MAX_RESULT_BYTES,
    JobReport,
    ProgressUrlReport,
    Verdict,
    encode,
    nesting_depth,
)

from ...runtime.errors import ServiceUnavailable, Unauthorized, UnprocessableContent
from ...runtime.request import JSON, bearer_token, decode_body, is_valid_key, read_body, read_query
from ...runtime.settings import ReloadingFile
from .. import metrics
from ..records.store import JobStore
from ..watching.synchronizer import SnapshotSynchronizer

log: structlog.stdlib.BoundLogger = structlog.get_logger()

REPORTS_PATH = "/reports"
ACCEPTED = metrics.REPORTS.labels("accepted")
ReportList = Annotated[list[JobReport], Meta(min_length=1, max_length=MAX_REPORTS_PER_REQUEST)]
RETRY_AFTER_S = 1


class ReportHandler:
    """Takes what workers report."""

    def __init__(
        self,
        store: JobStore,
        synchronizer: SnapshotSynchronizer,
        keys: ReloadingFile[tuple[str, ...]],
        job_ttl_s: float,
    ) -> None:
        self._store = store
        self._synchronizer = synchronizer
        self._keys = keys
        self._job_ttl_s = job_ttl_s

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the internal listener."""
        line = "/progress/{key}"
        return [web.post(REPORTS_PATH, self.post), web.get(line, self.progress_url), web.post(line, self.progress_url)]

    async def post(self, request: web.Request) -> web.Response:
        """Take a batch, however it comes; most come another way: see `inlets`."""
        return web.Response(
            body=await self.ingest(bearer_token(request), await read_body(request, MAX_REPORTS_BYTES)),
            content_type=JSON,
        )

    async def ingest(self, key: str | None, body: bytes) -> bytes:
        """Pass a batch through the gate and return the verdicts as JSON.

        Raises a Problem that says what does not fit, or Unavailable when there is any doubt about the outcome.
        """
        self._authorize(key)
        reports = decode_reports(body)
        self._synchronizer.note_sent_times(reports)
        try:
            verdicts = await self._store.apply_reports(reports, self._synchronizer.drop_sent_time)
        except (RedisError, OSError) as error:
            raise _unavailable(error, len(reports)) from error
        return _encode_verdicts(verdicts, verdicts)

    async def progress_url(self, request: web.Request) -> web.Response:
        """Pass a report that is one URL through the gate, and answer its verdict."""
        self._authorize(request.match_info["key"])
        report = read_query(request, ProgressUrlReport)
        try:
            verdict = await self._store.apply_progress(report, self._job_ttl_s)
        except (RedisError, OSError) as error:
            raise _unavailable(error, 1) from error
        return web.Response(body=_encode_verdicts(verdict, [verdict]), content_type=JSON)

    def _authorize(self, key: str | None) -> None:
        if not is_valid_key(key, self._keys.value):
            raise Unauthorized("Send one of the report keys: Authorization: Bearer <key>.")


def _unavailable(error: Exception, count: int) -> ServiceUnavailable:
    """Say that nobody knows whether the reports were taken."""
    log.warning("reports_in_doubt", error=type(error).__name__, count=count)
    return ServiceUnavailable("The records are away; report again.", retry_after_s=RETRY_AFTER_S)


def _encode_verdicts(body: Any, verdicts: Sequence[Verdict]) -> bytes:
    """Count verdicts, and spell them."""
    reasons = [verdict.reason for verdict in verdicts if verdict.reason]
    ACCEPTED.inc(len(verdicts) - len(reasons))
    for reason in reasons:
        metrics.REPORTS.labels(reason).inc()
    return encode(body)


def decode_reports(body: bytes) -> list[JobReport]:
    """Read a batch; a Problem names the element and the field that do not fit."""
    reports: list[JobReport] = decode_body(body, ReportList)
    for index, report in enumerate(reports):
        if len(report.result) <= MAX_DEPTH:  # as of nearly all: neither too much nor too deep
            continue
        if len(report.result) > MAX_RESULT_BYTES:
            raise UnprocessableContent(
                f"Expected a result of at most {MAX_RESULT_BYTES} bytes.", field=f"[{index}].result"
            )
        if nesting_depth(bytes(report.result)) > MAX_DEPTH:
            raise UnprocessableContent(f"Expected a result of at most {MAX_DEPTH} levels.", field=f"[{index}].result")
    return reports
