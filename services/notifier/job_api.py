"""The API of jobs for the other services, on the internal listener: read, list, cancel and erase with a report key."""

from __future__ import annotations

from uuid import UUID

import msgspec
import structlog
from aiohttp import web
from msgspec import Struct, structs

from headway.contracts import ENDED, JobStatus, Json, Name, Natural, Timestamp, decode, encode
from headway.details import KeptJob
from headway.grants import DETAILS, Grant, ListGrant
from headway.labels import ALL_JOBS

from ..runtime.auth import job_id_from_path, require_report_key
from ..runtime.errors import Conflict, NotFound
from ..runtime.request import JSON, bearer_token, decode_body, read_body, read_query
from ..runtime.settings import ReloadingFile
from .records.store import JobChanged, JobStore
from .transports.auth import unavailable_without_store
from .transports.list_queries import ListParameters, read_parameters
from .transports.lists import ListHandler

log: structlog.stdlib.BoundLogger = structlog.get_logger()

ALL_JOBS_GRANT = ListGrant(filter=ALL_JOBS, scope=frozenset({DETAILS}), issued_at=Timestamp(0), expires_at=Timestamp(0))
MAX_CANCEL_BYTES = 1024  # of a body


class CancelRequest(Struct, frozen=True):
    """The body of a cancellation by an action on many jobs; older workers send none.

    Attributes:
        generation: the generation that the job must have.
        until: the time of the action: a job that was redriven after it is not cancelled.
        by: the operator who has requested the action.
    """

    generation: Natural
    until: Timestamp | None = None
    by: Name = "internal"


class EraseQuery(Struct, frozen=True):
    """The query of a request to erase a job: the operator who sent it."""

    by: Name | None = None


class _RecordHeader(Struct, frozen=True):
    """The fields of a snapshot that a kept job has beside it."""

    status: JobStatus
    generation: int
    kind: str


class JobApiHandler:
    """Handles the requests of the submitter and the workers about jobs."""

    def __init__(self, store: JobStore, lists: ListHandler, keys: ReloadingFile[tuple[str, ...]]) -> None:
        self._store = store
        self._lists = lists
        self._keys = keys

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the internal listener."""
        return [
            web.get("/jobs", self.list_jobs),
            web.get("/jobs/{id}", self.read),
            web.delete("/jobs/{id}", self.erase),
            web.post("/jobs/{id}/cancel", self.cancel),
        ]

    async def list_jobs(self, request: web.Request) -> web.Response:
        """Answer with a page of jobs, as the public listener does for a token with the scope `details`.

        The pages have every job that the query selects, because their readers act on each or count them.
        """
        self._require_key(request)
        query = read_parameters(request, ListParameters).page(ALL_JOBS_GRANT)
        return await self._lists.answer(structs.replace(query, exhaustive=True), with_details=True)

    async def read(self, request: web.Request) -> web.Response:
        """Answer with a job's record and the message that was kept of it."""
        job_id = self._authorized_job(request)
        with unavailable_without_store():
            ((record, details),) = await self._store.read_details([str(job_id)])
        if record is None:
            raise _unknown()
        try:
            header = decode(record.snapshot, _RecordHeader)
        except msgspec.DecodeError as error:  # another program has damaged the record
            raise _unknown() from error
        erased = None
        if details.message is None and header.status in ENDED:
            with unavailable_without_store():
                erased = await self._store.read_erased(job_id)
        job = KeptJob(
            status=header.status,
            generation=header.generation,
            kind=header.kind,
            labels=record.labels,
            message=details.message,
            snapshot=Json(record.snapshot),
            erased=erased == header.generation,
        )
        return web.Response(body=encode(job), content_type=JSON)

    async def erase(self, request: web.Request) -> web.Response:
        """Remove what an ended job has left: its result, progress message, details, kept message and log."""
        job_id = self._authorized_job(request)
        by = read_query(request, EraseQuery).by
        with unavailable_without_store():
            has_ended = await self._store.erase(job_id, by)
        if has_ended is None:
            raise _unknown()
        if not has_ended:
            raise Conflict("The job has not ended; cancel it first.", code="not_ended")
        return web.Response(status=204)

    async def cancel(self, request: web.Request) -> web.Response:
        """Cancel a job that has a record, and answer with its snapshot; with a body, only if the job is as it says."""
        job_id = self._authorized_job(request)
        body = await read_body(request, MAX_CANCEL_BYTES)
        wanted = decode_body(body, CancelRequest) if body else None
        with unavailable_without_store():
            snapshot = await self._cancel(job_id, wanted)
        if snapshot is None:
            raise _unknown()
        if wanted is not None:
            log.info("operator_action", action="cancel", job_id=str(job_id), by=wanted.by)
        return web.Response(status=202, body=snapshot, content_type=JSON)

    async def _cancel(self, job_id: UUID, wanted: CancelRequest | None) -> bytes | None:
        if wanted is None:
            now = self._store.clock.now()
            grant = Grant(job_id=job_id, kind="", submitted_at=now, expires_at=now, requires_record=True)
            return await self._store.cancel(grant)
        try:
            return await self._store.cancel_unchanged(job_id, wanted.generation, wanted.until, wanted.by)
        except JobChanged as error:
            raise Conflict("The job has ended, or was redriven.", code=str(error)) from error

    def _authorized_job(self, request: web.Request) -> UUID:
        self._require_key(request)
        return job_id_from_path(request)

    def _require_key(self, request: web.Request) -> None:
        require_report_key(bearer_token(request), self._keys.value)


def _unknown() -> NotFound:
    return NotFound("This job has no record.", code="unknown")
