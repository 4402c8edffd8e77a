"""The handlers of what operators do with one job: `redrive`, `rerun` and `DELETE`.

The internal listener has redrive and rerun, too, for the job `headway.bulk`: with the report key, for all jobs.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TypeVar
from uuid import UUID

from aiohttp import web
from msgspec import UNSET, Struct, UnsetType

from headway.contracts import Json, Name, Natural, encode
from headway.details import RedrivenJob

from ...runtime.auth import job_id_from_path, require_report_key
from ...runtime.errors import UnsupportedMediaType
from ...runtime.request import JSON, bearer_token, decode_body, read_body, read_json_body
from ...runtime.settings import ReloadingFile
from ..idempotency import idempotency_key, rerun_id
from ..job_sender import JobSender
from ..submission import MAX_BODY_BYTES, check_payload
from .audit import log_action
from .auth import Operator, OperatorAuth
from .job_records import JobRecords
from .poison import PoisonedJobs, filtered_fields, queue_in_use
from .run_again import JobRerunner, unknown_job

MAX_REDRIVE_BYTES = 1024  # of a body
T = TypeVar("T")


class RedriveRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a redrive: the generation that the job must have, and whether to drop the checkpoint."""

    generation: Natural | None = None
    from_start: bool = False


class RerunRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a rerun: another payload."""

    payload: Json | UnsetType = UNSET


class InternalRedriveRequest(RedriveRequest, frozen=True, forbid_unknown_fields=True):
    """The body of a redrive on the internal listener: also the operator who asked for it."""

    by: Name = "internal"


class InternalRerunRequest(RerunRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a rerun on the internal listener: also the id of the new job, and the operator who asked for it."""

    id: UUID
    by: Name = "internal"


class OperationsHandler:
    """Handles the requests of operators about one job."""

    def __init__(
        self, auth: OperatorAuth, rerunner: JobRerunner, records: JobRecords, poison: PoisonedJobs, sender: JobSender
    ) -> None:
        self._auth = auth
        self._rerunner = rerunner
        self._records = records
        self._poison = poison
        self._sender = sender

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the public listener."""
        return [
            web.post("/jobs/{id}/redrive", self.redrive),
            web.post("/jobs/{id}/rerun", self.rerun),
            web.delete("/jobs/{id}", self.erase),
        ]

    async def redrive(self, request: web.Request) -> web.Response:
        """Run an ended job again under the same id."""
        operator, job_id = self._auth.authenticate(request), job_id_from_path(request)
        wanted = await _read_optional_body(request, RedriveRequest, MAX_REDRIVE_BYTES)
        return _redriven(
            await self._rerunner.redrive(operator, job_id, wanted.generation, from_start=wanted.from_start)
        )

    async def rerun(self, request: web.Request) -> web.Response:
        """Submit a job again as a new job, and answer with its receipt."""
        operator, job_id = self._auth.authenticate(request), job_id_from_path(request)
        key = idempotency_key(request)
        payload = _checked((await _read_optional_body(request, RerunRequest, MAX_BODY_BYTES)).payload)
        new_id = rerun_id(job_id, None if payload is UNSET else payload, operator.name, key)
        return self._sender.receipt(await self._rerunner.rerun(operator, job_id, payload, new_id, request))

    async def erase(self, request: web.Request) -> web.Response:
        """Remove what an ended job has left: result, log, details, kept message, and its poison messages.

        Raises:
            NotFound: the job has no record and is not on the poison queue.
            Conflict: the job has not ended.
            ServiceUnavailable: the notifier or the queue is unavailable; a part may be erased.
        """
        operator, job_id = self._auth.authenticate(request), job_id_from_path(request)
        kept = await self._records.read(job_id)
        if kept is not None:
            operator.authorize(job_id, kept.kind, kept.labels)
            await self._records.erase(job_id, operator.name)
            log_action("erase", job_id, operator.name)  # at once: the poison queue may be unavailable
        async with self._poison.lease(lambda job: job.latest.job_id == job_id) as (client, job):
            if job is not None:
                if kept is None:
                    operator.authorize(*filtered_fields(job))
                    log_action("erase", job_id, operator.name)
                await client.discard(job)
            elif kept is None:
                raise unknown_job()
            if client.hidden:
                raise queue_in_use()
        return web.Response(status=204)


class InternalOperationsHandler:
    """Handles redrives and reruns for the job `headway.bulk`.

    Args:
        keys: the report keys; without them, every request is refused.
        rerunner: runs jobs again.
        sender: creates receipts.
    """

    def __init__(self, keys: ReloadingFile[tuple[str, ...]] | None, rerunner: JobRerunner, sender: JobSender) -> None:
        self._keys = keys
        self._rerunner = rerunner
        self._sender = sender

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the internal listener."""
        return [web.post("/jobs/{id}/redrive", self.redrive), web.post("/jobs/{id}/rerun", self.rerun)]

    async def redrive(self, request: web.Request) -> web.Response:
        """Run an ended job again under the same id."""
        job_id = self._authorized_job(request)
        wanted = await _read_optional_body(request, InternalRedriveRequest, MAX_REDRIVE_BYTES)
        return _redriven(
            await self._rerunner.redrive(Operator(wanted.by), job_id, wanted.generation, from_start=wanted.from_start)
        )

    async def rerun(self, request: web.Request) -> web.Response:
        """Submit a job again with an id that the worker has chosen, so that a repeated request is the same job."""
        job_id = self._authorized_job(request)
        wanted = await read_json_body(request, InternalRerunRequest, MAX_BODY_BYTES)
        payload = _checked(wanted.payload)
        return self._sender.receipt(
            await self._rerunner.rerun(Operator(wanted.by), job_id, payload, wanted.id, request)
        )

    def _authorized_job(self, request: web.Request) -> UUID:
        require_report_key(bearer_token(request), () if self._keys is None else self._keys.value)
        return job_id_from_path(request)


async def _read_optional_body(request: web.Request, body_type: type[T], limit: int) -> T:
    """Read a JSON body, whose fields are all optional; so is the body."""
    body = await read_body(request, limit)
    if body and request.content_type != JSON:
        raise UnsupportedMediaType(f"Send {JSON}.")
    return decode_body(body or b"{}", body_type)


def _checked(payload: Json | UnsetType) -> Json | UnsetType:
    if payload is not UNSET:
        check_payload(payload)
    return payload


def _redriven(job: RedrivenJob) -> web.Response:
    return web.Response(status=HTTPStatus.ACCEPTED, body=encode(job), content_type=JSON)
