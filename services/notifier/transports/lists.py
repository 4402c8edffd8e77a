"""Lists of jobs over HTTP: pages, groups of failures, and the position of a waiting job."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web
from msgspec import DecodeError, Struct, structs

from headway.contracts import JobStatus, Timestamp, decode, encode
from headway.grants import DETAILS, LIST

from ...runtime.errors import ServiceUnavailable, UnprocessableContent
from ...runtime.request import JSON
from .. import metrics
from ..records.index.query import MAX_PAGE, InvalidCursor, JobQuery
from ..records.index.reader import IndexReader, ListedJob, Page
from ..records.store import JobStore
from ..watching.snapshot import PublishedSnapshot
from .auth import TokenAuth, unavailable_without_store
from .failures import Failure, group_failures
from .list_queries import ListFilter, ListParameters, read_parameters

MAX_FAILURES = 1_000
MAX_FAILURE_PAGES = 10
MAX_PAGES_IN_PROGRESS = 20  # each may read up to 2,000 records
HEADERS = {"Cache-Control": "no-store"}


class _WaitingJob(Struct, frozen=True):
    """The fields of a snapshot that determine the position of a job."""

    status: JobStatus
    submitted_at: Timestamp
    redriven_at: Timestamp | None = None


class ListHandler:
    """Handles requests for lists."""

    def __init__(self, index: IndexReader, store: JobStore, auth: TokenAuth) -> None:
        self._index = index
        self._store = store
        self._auth = auth
        self._pages_in_progress = 0

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the public listener."""
        return [
            web.get("/live/jobs", self.list_jobs),
            web.get("/live/failures", self.list_failures),
            web.get("/live/jobs/{id}/position", self.position),
        ]

    async def list_jobs(self, request: web.Request) -> web.Response:
        """Answer with a page of the jobs that match the request and the filter of the token."""
        grant = self._auth.authorize_list(request, LIST)
        query = read_parameters(request, ListParameters).page(grant)
        return await self.answer(query, with_details=DETAILS in grant.scope)

    async def answer(self, query: JobQuery, *, with_details: bool) -> web.Response:
        """Return the response with a page of the jobs that a query selects."""
        page = await self._page(query)
        with unavailable_without_store():
            about = await self._index.about()
        encode_job = _with_details if with_details else _snapshot
        body = b'{"now":%b,"jobs":[%b],"next":%b,"complete":%b,"about":%b}' % (
            self._store.clock.now().to_json(),
            b",".join(text for job in page.jobs if (text := encode_job(job))),
            encode(page.next),
            encode(page.complete),
            encode(about),
        )
        return web.Response(body=body, content_type=JSON, headers=HEADERS)

    async def _page(self, query: JobQuery) -> Page:
        if self._pages_in_progress >= MAX_PAGES_IN_PROGRESS:
            metrics.LIMITS_EXCEEDED.labels("pages").inc()
            raise ServiceUnavailable("Too many lists are read now; try again.", code="overloaded", retry_after_s=1)
        self._pages_in_progress += 1
        try:
            with unavailable_without_store():
                return await self._index.page(query)
        except InvalidCursor as error:
            raise UnprocessableContent(str(error), field="cursor") from error
        finally:
            self._pages_in_progress -= 1

    async def list_failures(self, request: web.Request) -> web.Response:
        """Answer with the newest failures that match the request, grouped by what they have in common."""
        grant = self._auth.authorize_list(request, DETAILS)
        parameters: ListFilter = read_parameters(request, ListFilter)
        if parameters.status:
            raise UnprocessableContent("Only failures are grouped.", field="status")
        query = structs.replace(parameters.query(grant, MAX_PAGE), statuses=frozenset({"failed"}))
        failures: list[Failure] = []
        complete, cursor = True, None
        for _ in range(MAX_FAILURE_PAGES):
            page = await self._page(structs.replace(query, cursor=cursor))
            failures += await self._failures(page.jobs)
            complete, cursor = complete and page.complete, page.next
            if cursor is None or len(failures) >= MAX_FAILURES:
                break
        groups = group_failures(failures[:MAX_FAILURES])
        body = {"now": self._store.clock.now(), "groups": groups, "complete": complete and cursor is None}
        return web.Response(body=encode(body), content_type=JSON, headers=HEADERS)

    async def _failures(self, jobs: Iterable[ListedJob]) -> list[Failure]:
        """Return the failures of jobs with their true errors."""
        found = [(job, failure) for job in jobs if (failure := Failure.from_job(job)) is not None]
        hidden = [job.id for job, _ in found if job.record.error_type is not None]
        with unavailable_without_store():
            errors = dict(zip(hidden, await self._store.read_true_errors(hidden), strict=True))
        return [
            failure.with_true_error(job.record.error_type, errors[job.id]) if job.record.error_type else failure
            for job, failure in found
        ]

    async def position(self, request: web.Request) -> web.Response:
        """Answer with about how many waiting jobs are before a job; with null if it does not wait."""
        grant = self._auth.authorize_job(request).grant
        with unavailable_without_store():
            (record,) = await self._store.read([str(grant.job_id)])
        self._auth.require_record(request, grant, record)
        try:
            job = _WaitingJob("queued", grant.submitted_at) if record is None else decode(record.snapshot, _WaitingJob)
        except DecodeError:
            job = _WaitingJob("queued", grant.submitted_at)  # another program has damaged the record
        before, complete = None, True
        if job.status == "queued":
            with unavailable_without_store():
                before, complete = await self._index.position(job.submitted_at, job.redriven_at)
        body = {"now": self._store.clock.now(), "before": before, "complete": complete}
        return web.Response(body=encode(body), content_type=JSON, headers=HEADERS)


def _snapshot(job: ListedJob) -> bytes:
    """Return the snapshot of a job, or nothing if another program has damaged its record."""
    snapshot = PublishedSnapshot.from_record(job.id, job.record)
    return b"" if snapshot is None else snapshot.text


def _with_details(job: ListedJob) -> bytes:
    """Return the snapshot of a job, its labels, and the type of its error."""
    text = _snapshot(job)
    return text and b'{"job":%b,"labels":%b,"error_type":%b}' % (
        text,
        encode(job.record.labels),
        encode(job.error_type),
    )
