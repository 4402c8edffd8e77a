"""The API of jobs for the other services, on the internal listener: read, list, cancel and erase with a report key."""

from __future__ import annotations

from uuid import UUID

import msgspec
from aiohttp import web
from msgspec import Struct, structs

from headway.contracts import JobStatus, Json, Timestamp, decode, encode
from headway.details import KeptJob
from headway.grants import DETAILS, Grant, ListGrant
from headway.labels import JobFilter

from ..runtime.auth import job_id_from_path, require_report_key
from ..runtime.errors import Conflict, NotFound
from ..runtime.request import JSON, bearer_token
from ..runtime.settings import ReloadingFile
from .records.store import JobStore
from .transports.auth import unavailable_without_store
from .transports.list_queries import ListParameters, read_parameters
from .transports.lists import ListHandler

ALL_JOBS = ListGrant(filter=JobFilter(), scope=frozenset({DETAILS}), issued_at=Timestamp(0), expires_at=Timestamp(0))


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
        query = read_parameters(request, ListParameters).page(ALL_JOBS)
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
        job = KeptJob(
            status=header.status,
            generation=header.generation,
            kind=header.kind,
            labels=record.labels,
            message=details.message,
            snapshot=Json(record.snapshot),
        )
        return web.Response(body=encode(job), content_type=JSON)

    async def erase(self, request: web.Request) -> web.Response:
        """Remove what an ended job has left: its result, progress message, details, kept message and log."""
        job_id = self._authorized_job(request)
        with unavailable_without_store():
            has_ended = await self._store.erase(job_id)
        if has_ended is None:
            raise _unknown()
        if not has_ended:
            raise Conflict("The job has not ended; cancel it first.", code="not_ended")
        return web.Response(status=204)

    async def cancel(self, request: web.Request) -> web.Response:
        """Cancel a job that has a record, and answer with its snapshot."""
        job_id, now = self._authorized_job(request), self._store.clock.now()
        grant = Grant(job_id=job_id, kind="", submitted_at=now, expires_at=now, requires_record=True)
        with unavailable_without_store():
            snapshot = await self._store.cancel(grant)
        if snapshot is None:
            raise _unknown()
        return web.Response(status=202, body=snapshot, content_type=JSON)

    def _authorized_job(self, request: web.Request) -> UUID:
        self._require_key(request)
        return job_id_from_path(request)

    def _require_key(self, request: web.Request) -> None:
        require_report_key(bearer_token(request), self._keys.value)


def _unknown() -> NotFound:
    return NotFound("This job has no record.", code="unknown")
