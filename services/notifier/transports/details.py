"""The details of one job over HTTP, for the scope `details`: why it failed, with what, and what happened before."""

from __future__ import annotations

from aiohttp import web
from msgspec import DecodeError, Struct

from headway.contracts import (
    NULL,
    EarlierAttempt,
    JobError,
    JobSnapshot,
    Json,
    StepTimes,
    Timestamp,
    decode,
    encode,
)
from headway.details import OperatorAction
from headway.grants import DETAILS
from headway.labels import Labels, trace_of
from headway.message_codec import decode_message

from ...runtime.errors import NotFound
from ...runtime.request import JSON
from ..records.details import JobDetails
from ..records.record_read import RecordRead
from ..records.store import JobStore
from .auth import TokenAuth, unavailable_without_store

HEADERS = {"Cache-Control": "no-store"}
OUTCOMES = {"running": None, "retrying": "failed", "queued": "released"}  # of the current attempt; else the status


class TrueError(Struct, frozen=True):
    """The error of an attempt as operators see it; the message is None if it was lost."""

    type: str
    message: str | None

    @classmethod
    def of(cls, error: JobError) -> TrueError:
        """Return an error of a record or of details."""
        return cls(error.type, error.message)


class TracedError(TrueError, frozen=True):
    """The error of a job, and its traceback if that was kept."""

    traceback: str | None


class AttemptDetails(Struct, frozen=True, kw_only=True):
    """An attempt with its error. An attempt that runs has no outcome."""

    attempt: int
    started_at: Timestamp | None
    ended_at: Timestamp | None
    outcome: str | None
    error: TrueError | None


class DetailsBody(Struct, frozen=True, kw_only=True):
    """The response.

    Attributes:
        kept: whether the queue message was kept, which has `payload` and `checkpoint`.
        attempts: the earlier attempts, the oldest first, then the current one if it has started.
        steps: those of the current attempt.
        actions: what operators did with the job, the newest first.
    """

    labels: Labels
    kept: bool
    payload: Json
    checkpoint: Json
    error: TracedError | None
    worker: str | None
    attempts: list[AttemptDetails]
    steps: tuple[StepTimes, ...]
    trace_id: str | None
    actions: tuple[OperatorAction, ...]


class DetailsHandler:
    """Handles requests for details."""

    def __init__(self, store: JobStore, auth: TokenAuth) -> None:
        self._store = store
        self._auth = auth

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the public listener."""
        return [web.get("/live/jobs/{id}/details", self.details)]

    async def details(self, request: web.Request) -> web.Response:
        """Answer with the details of a job that has a record."""
        grant = self._auth.authorize_job(request, scope=DETAILS).grant
        with unavailable_without_store():
            ((record, details),) = await self._store.read_details([str(grant.job_id)])
        self._auth.require_record(request, grant, record)
        body = None if record is None else details_body(record, details)
        if body is None:
            raise NotFound("This job has no record.", code="unknown")
        return web.Response(body=encode(body), content_type=JSON, headers=HEADERS)


def details_body(record: RecordRead, details: JobDetails) -> DetailsBody | None:
    """Return the details of a job, or None if another program has damaged its record."""
    try:
        snapshot = decode(record.snapshot, JobSnapshot)
    except DecodeError:
        return None
    key, attempt = details.attempt, (snapshot.attempt, snapshot.generation, snapshot.started_at)
    is_current = key is not None and (key.attempt, key.generation, key.started_at) == attempt
    error = snapshot.error
    if error is not None:
        error = (details.error if is_current else None) or JobError(record.error_type or error.type, error.message)
    traceback = details.traceback if is_current else None
    payload, checkpoint = _payload(details.message)
    return DetailsBody(
        labels=record.labels,
        kept=details.message is not None,
        payload=payload,
        checkpoint=checkpoint,
        error=None if error is None else TracedError(error.type, error.message, traceback),
        worker=record.worker,
        attempts=[*_earlier_attempts(snapshot, details), *_current_attempt(snapshot, error)],
        steps=details.steps if is_current else (),
        trace_id=_trace_id(record.labels),
        actions=details.actions,
    )


def _payload(message: str | None) -> tuple[Json, Json]:
    """Return the payload and the checkpoint of a queue message; null without a valid one."""
    try:
        job = None if message is None else decode_message(message)
    except DecodeError:
        job = None
    return (NULL, NULL) if job is None else (job.payload, job.checkpoint)


def _earlier_attempts(snapshot: JobSnapshot, details: JobDetails) -> list[AttemptDetails]:
    errors = {(one.attempt, one.started_at): one.error for one in details.earlier_errors}
    if details.attempt is not None and details.error is not None:
        errors[details.attempt.attempt, details.attempt.started_at] = details.error
    return [
        AttemptDetails(
            attempt=one.attempt,
            started_at=one.started_at,
            ended_at=one.ended_at,
            outcome=one.outcome,
            error=_error_of(one, errors.get((one.attempt, one.started_at))),
        )
        for one in snapshot.earlier_attempts
    ]


def _error_of(attempt: EarlierAttempt, error: JobError | None) -> TrueError | None:
    """Return the error of an earlier attempt: its true one, or the type that users see if that was lost."""
    if attempt.error is None:
        return None
    return TrueError(attempt.error, None) if error is None else TrueError.of(error)


def _current_attempt(snapshot: JobSnapshot, error: JobError | None) -> list[AttemptDetails]:
    """Return the current attempt, unless it never started."""
    if snapshot.started_at is None and error is None:
        return []
    outcome = OUTCOMES.get(snapshot.status, snapshot.status)
    return [
        AttemptDetails(
            attempt=snapshot.attempt,
            started_at=snapshot.started_at,
            ended_at=snapshot.finished_at or (None if outcome is None else snapshot.updated_at),
            outcome=outcome,
            error=None if error is None else TrueError.of(error),
        )
    ]


def _trace_id(labels: Labels) -> str | None:
    """Return the id of the trace in which a job was submitted."""
    trace = trace_of(labels)
    return None if trace is None else trace.trace_id
