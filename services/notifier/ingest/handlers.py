"""The handlers of reports: `POST /reports` for lists of reports, and `/progress/{key}` for one-line reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

import msgspec
import structlog
from aiohttp import web
from msgspec import Meta
from redis.exceptions import RedisError

from headway.contracts import (
    MAX_DETAILS_BYTES,
    MAX_NESTING_DEPTH,
    MAX_REPORTS_BYTES,
    MAX_REPORTS_PER_REQUEST,
    MAX_RESULT_BYTES,
    JobReport,
    ProgressUrlReport,
    ReportDetails,
    Verdict,
    decode,
    encode,
    nesting_depth,
)

from ...runtime.auth import require_report_key
from ...runtime.errors import HTTPProblem, ServiceUnavailable, UnprocessableContent
from ...runtime.request import JSON, bearer_token, decode_body, read_body, read_query
from ...runtime.settings import ReloadingFile
from .. import metrics
from ..records.store import JobStore
from ..watching.synchronizer import SnapshotSynchronizer

log: structlog.stdlib.BoundLogger = structlog.get_logger()

ACCEPTED = metrics.REPORTS.labels("accepted")
ReportList = Annotated[list[JobReport], Meta(min_length=1, max_length=MAX_REPORTS_PER_REQUEST)]
RETRY_AFTER_S = 1


class _ReportJob(msgspec.Struct):
    job_id: UUID


class ReportHandler:
    """Authorizes and applies reports, and answers with verdicts."""

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
        path = "/progress/{key}"
        return [web.post("/reports", self.post), web.get(path, self.progress_url), web.post(path, self.progress_url)]

    async def post(self, request: web.Request) -> web.Response:
        """Apply a list of reports and answer with their verdicts."""
        require_report_key(bearer_token(request), self._keys.value)
        body = await read_body(request, MAX_REPORTS_BYTES)
        try:
            reports = decode_reports(body)
        except HTTPProblem as problem:
            job = _job_of_element(body, problem.field or "")
            log.warning("reports_refused", code=problem.code, field=problem.field, **job)
            raise
        self._synchronizer.note_sent_times(reports)
        try:
            verdicts = await self._store.apply_reports(reports, self._synchronizer.drop_sent_time)
        except (RedisError, OSError) as error:
            raise _unavailable(error, [report.job_id for report in reports]) from error
        return web.Response(body=_encode_verdicts(verdicts, verdicts), content_type=JSON)

    async def progress_url(self, request: web.Request) -> web.Response:
        """Apply the one-line report of a URL and answer with its verdict."""
        require_report_key(request.match_info["key"], self._keys.value)
        report = read_query(request, ProgressUrlReport)
        try:
            verdict = await self._store.apply_progress(report, self._job_ttl_s)
        except (RedisError, OSError) as error:
            raise _unavailable(error, [report.job_id]) from error
        return web.Response(body=_encode_verdicts(verdict, [verdict]), content_type=JSON)


def _unavailable(error: Exception, job_ids: Sequence[UUID]) -> ServiceUnavailable:
    """Return the error for reports that may or may not have been applied."""
    job = {"job_id": str(job_ids[0])} if len(job_ids) == 1 else {}
    log.warning("reports_not_confirmed", error=type(error).__name__, count=len(job_ids), **job)
    return ServiceUnavailable("The job records are unavailable; report again.", retry_after_s=RETRY_AFTER_S)


def _job_of_element(body: bytes, field: str) -> dict[str, str]:
    """Return the job id, for the log, in the element that a field such as `[3].delivery` belongs to."""
    try:
        index = int(field[1 : field.index("]")])
        report = decode(bytes(decode(body, list[msgspec.Raw])[index]), _ReportJob)
    except (msgspec.DecodeError, ValueError, LookupError):
        return {}
    return {"job_id": str(report.job_id)}


def _encode_verdicts(body: Any, verdicts: Sequence[Verdict]) -> bytes:
    """Count verdicts, log the rejections, and return the response body as JSON."""
    rejections = [(verdict.job_id, verdict.reason) for verdict in verdicts if verdict.reason]
    ACCEPTED.inc(len(verdicts) - len(rejections))
    for job_id, reason in rejections:
        metrics.REPORTS.labels(reason).inc()
        log.info("report_rejected", job_id=str(job_id), reason=reason)
    return encode(body)


def decode_reports(body: bytes) -> list[JobReport]:
    """Decode a list of reports.

    Raises:
        HTTPProblem: the body is not valid; the error names the element and the field.
    """
    reports: list[JobReport] = decode_body(body, ReportList)
    for index, report in enumerate(reports):
        if report.details is not None and _size(report.details) > MAX_DETAILS_BYTES:
            message = f"Expected a message and a traceback of at most {MAX_DETAILS_BYTES} bytes together."
            raise UnprocessableContent(message, field=f"[{index}].details")
        if len(report.result) <= MAX_NESTING_DEPTH:  # too short to exceed either limit; most results are null
            continue
        if len(report.result) > MAX_RESULT_BYTES:
            raise UnprocessableContent(
                f"Expected a result of at most {MAX_RESULT_BYTES} bytes.", field=f"[{index}].result"
            )
        if nesting_depth(bytes(report.result)) > MAX_NESTING_DEPTH:
            raise UnprocessableContent(
                f"Expected a result nested at most {MAX_NESTING_DEPTH} levels deep.", field=f"[{index}].result"
            )
    return reports


def _size(details: ReportDetails) -> int:
    """Return the size of the message and the traceback in bytes."""
    return sum(len(text.encode()) for text in (details.message, details.traceback) if text is not None)
