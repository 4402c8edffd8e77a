"""Run jobs again: a redrive goes on with the same job, a rerun submits it as a new one.

Nothing is lost: a message is sent before anything of the job is changed or deleted. Nothing runs twice: two redrives of
one job have the same generation, of which the fence accepts one message.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import msgspec
from aiohttp import web
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from headway.azure.job_queue import JobQueue, QueueError
from headway.contracts import (
    DEFAULT_ATTEMPTS,
    ENDED,
    MAX_MESSAGE_BYTES,
    JobMessage,
    Json,
    Timestamp,
    decode,
)
from headway.details import KeptJob, RedrivenJob
from headway.labels import NO_LABELS, RESERVED_PREFIX, trace_of
from headway.message_codec import decode_message
from headway.message_rewriting import redriven_message

from ...runtime.errors import Conflict, Forbidden, NotFound, PayloadTooLarge
from ..job_sender import JobSender, queue_unavailable
from ..submission import AcceptedJob, Submission, check_limits, submitted_job
from ..submissions import SubmissionClient
from .audit import log_action
from .auth import Operator
from .job_records import JobRecords
from .poison import PoisonedJobs, filtered_fields


class _Source(Struct, frozen=True):
    """The message to run a job again from.

    Attributes:
        text: the encoded message.
        message: the message.
        submitted_at: when the job was submitted.
    """

    text: str
    message: JobMessage
    submitted_at: Timestamp


class _Snapshot(Struct):
    """The fields of a snapshot that a message may lack."""

    submitted_at: Timestamp
    max_attempts: int
    started_at: Timestamp | None


class JobRerunner:
    """Redrives and reruns jobs."""

    def __init__(
        self,
        records: JobRecords,
        poison: PoisonedJobs,
        queue: JobQueue,
        submissions: SubmissionClient,
        sender: JobSender,
        job_ttl_s: float,
    ) -> None:
        self._records = records
        self._poison = poison
        self._queue = queue
        self._submissions = submissions
        self._sender = sender
        self._job_ttl_s = job_ttl_s
        self._redriving: set[UUID] = set()

    async def redrive(
        self, operator: Operator, job_id: UUID, generation: int | None = None, *, from_start: bool = False
    ) -> RedrivenJob:
        """Run an ended job again under the same id, with all its attempts.

        Args:
            operator: who asks for it.
            job_id: the job.
            generation: the generation that the job must have.
            from_start: whether to drop the checkpoint.

        Raises:
            NotFound: the job has no record and is not on the poison queue.
            Forbidden: the operator may not act on it.
            Conflict: the job has not ended, has another generation, or there is no message to run it from.
            ServiceUnavailable: the queue or the notifier is unavailable; the job was redriven or not.
        """
        with self._one_redrive(job_id):
            kept = await self._records.read(job_id)
            if kept is not None:
                operator.authorize(job_id, kept.kind, kept.labels)
                _check_generation(generation, kept.generation)
                _check_ended(kept)
            source = await self._find_source(operator, job_id, kept)
            if source is None:
                raise _not_kept("It cannot be redriven.")
            if kept is None:
                _check_generation(generation, source.message.generation)
            return await self._redrive(operator, source, kept, from_start=from_start)

    async def rerun(
        self, operator: Operator, job_id: UUID, payload: Json | UnsetType, new_id: UUID, request: web.Request
    ) -> AcceptedJob:
        """Submit a job again as a new job, with its kind, labels and limits; return the new job.

        Args:
            operator: who asks for it.
            job_id: the old job, which stays as it is.
            payload: another payload, UNSET for that of the old job.
            new_id: the id of the new job.
            request: the request, whose trace context the new job gets.

        Raises:
            NotFound, Forbidden, ServiceUnavailable: as for `redrive`.
            Conflict: the payload was not kept, and no other one is given.
            UnprocessableContent, PayloadTooLarge: the payload is invalid.
        """
        kept = await self._records.read(job_id)
        if kept is not None:
            operator.authorize(job_id, kept.kind, kept.labels)
        source = await self._find_source(operator, job_id, kept)
        if source is not None:
            message = source.message
        elif payload is UNSET:
            raise _not_kept("Send a payload.", field="payload")
        else:
            assert kept is not None  # noqa: S101 - otherwise there is a source
            message = _message_from_record(job_id, kept)
        submission, link = _submission(message, payload), trace_of(message.labels)
        accepted = await self._sender.send(submission, new_id, request, operator.name, link)
        log_action("rerun", job_id, operator.name, new_id=str(new_id), new_payload=payload is not UNSET)
        return accepted

    @contextmanager
    def _one_redrive(self, job_id: UUID) -> Iterator[None]:
        """Refuse a second redrive during the first one; on two replicas, the fence rejects its message."""
        if job_id in self._redriving:
            raise Conflict("Another request redrives this job now.", code="not_ended")
        self._redriving.add(job_id)
        try:
            yield
        finally:
            self._redriving.discard(job_id)

    async def _redrive(
        self, operator: Operator, source: _Source, kept: KeptJob | None, *, from_start: bool
    ) -> RedrivenJob:
        """Send the message of the next generation, and then delete what is outdated."""
        job_id, generation = source.message.id, source.message.generation
        generation = 1 + (generation if kept is None else max(kept.generation, generation))
        new_text = redriven_message(
            source.text,
            generation=generation,
            submitted_at=source.submitted_at,
            expires_at=Timestamp.now().after(self._job_ttl_s),
            from_start=from_start,
        )
        if len(new_text) > MAX_MESSAGE_BYTES:
            raise PayloadTooLarge(f"The job's message is larger than {MAX_MESSAGE_BYTES} bytes.")
        try:
            await self._queue.send(new_text)
        except QueueError as error:
            raise queue_unavailable(error) from error
        log_action("redrive", job_id, operator.name, generation=generation)
        submitted = replace(submitted_job(decode_message(new_text)), by=operator.name)
        await self._submissions.post(submitted)
        if kept is None or kept.status == "failed":  # only then the poison queue may have a message
            self._poison.delete_outdated(job_id, generation)
        return RedrivenJob(job_id, generation)

    async def _find_source(self, operator: Operator, job_id: UUID, kept: KeptJob | None) -> _Source | None:
        """Return the message of a job, kept or on the poison queue; None if only its record is left.

        Raises:
            NotFound: the job has no record and is not on the poison queue.
            Forbidden: the job has no record, and the operator may not act on it.
            Conflict: its message cannot be read.
        """
        if kept is not None and kept.message is not None:
            message = _decode_kept(kept.message)
            return _Source(kept.message, message, message.submitted_at or _snapshot(kept).submitted_at)
        if kept is not None and kept.erased:
            return None
        job = await self._poison.find(job_id, None if kept is None else kept.generation)
        if job is None:
            if kept is None:
                raise unknown_job()
            return None
        if kept is None:
            operator.authorize(*filtered_fields(job))
        received, poisoned = job.latest.received, job.latest.message
        if poisoned is not None:
            return _Source(received.text, poisoned, poisoned.submitted_at or received.inserted_at)
        if kept is None:
            raise _unreadable(job.latest.problem)
        return None


def _decode_kept(text: str) -> JobMessage:
    try:
        return decode_message(text)
    except msgspec.DecodeError as error:
        raise _unreadable(error) from error


def _unreadable(problem: object) -> Conflict:
    return Conflict(f"The job's message cannot be read: {problem}.", code="unreadable")


def _snapshot(kept: KeptJob) -> _Snapshot:
    return decode(bytes(kept.snapshot), _Snapshot)


def _message_from_record(job_id: UUID, kept: KeptJob) -> JobMessage:
    """Return a message with what a record has: all but the payload, the timeout and the follow-up job."""
    snapshot = _snapshot(kept)
    is_default = snapshot.started_at is None and snapshot.max_attempts == DEFAULT_ATTEMPTS
    max_attempts = None if is_default else snapshot.max_attempts
    return JobMessage(id=job_id, kind=kept.kind, labels=kept.labels, max_attempts=max_attempts)


def _submission(message: JobMessage, payload: Json | UnsetType) -> Submission:
    """Return the submission that repeats a job's, maybe with another payload."""
    if payload is UNSET:
        payload = message.payload
    elif message.kind.startswith(RESERVED_PREFIX):
        raise Forbidden(f"The payload of a {message.kind} job cannot be changed.", field="payload")
    labels = message.labels or NO_LABELS
    return check_limits(
        Submission(
            kind=message.kind,
            payload=payload,
            max_attempts=message.max_attempts,
            timeout_s=message.timeout_s,
            name=labels.name,
            owner=labels.owner,
            tags=labels.tags,
            on_end=message.on_end,
        )
    )


def _check_generation(wanted: int | None, actual: int) -> None:
    if wanted not in (None, actual):
        raise Conflict(f"The job has the generation {actual}.", code="changed", field="generation")


def _check_ended(kept: KeptJob) -> None:
    if kept.status not in ENDED:
        raise Conflict(f"The job has not ended: it is {kept.status}.", code="not_ended")


def _not_kept(detail: str, field: str | None = None) -> Conflict:
    return Conflict(f"The payload of this job was not kept. {detail}", code="payload_not_kept", field=field)


def unknown_job() -> NotFound:
    """Return the error for a job of which nothing is left."""
    return NotFound("This job has no record, and is not on the poison queue.", code="unknown")
