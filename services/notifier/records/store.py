"""The store of job records.

Every change goes through the record script. A read is one HMGET: a script would cost Redis several times as much.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar
from uuid import UUID

import structlog
from redis.exceptions import RedisError

from headway.contracts import JobError, JobReport, ProgressUrlReport, SubmittedJob, Timestamp, Verdict, uuid_str
from headway.tokens import Grant

from .. import metrics
from ..redis_client.by_node import run_by_node
from ..redis_client.lua_script import LuaScript, ScriptCall
from ..redis_client.topology import RedisClient
from . import scripts
from .clock import RedisClock
from .details import DETAILS_FIELDS, JobDetails, details_from_reply, error_from_reply
from .keys import details_key, job_key
from .record_read import READ_FIELDS, RecordRead, record_from_reply
from .script_calls import cancel_call, cancel_unchanged_call, erase_call, progress_call, report_call, submission_call

log: structlog.stdlib.BoundLogger = structlog.get_logger()

CANCEL_REQUESTED, WATCHED, PUBLISHED, TRANSITION = 1, 2, 4, 8  # bits of the script's replies
ERASED = 1
C = TypeVar("C")
R = TypeVar("R")
ReadResult = RecordRead | RedisError | OSError | None


class JobChanged(Exception):
    """A job was not cancelled. Its argument is the reason: `ended`, or `changed` if it was redriven."""


class JobStore:
    """Applies submissions, reports and cancellations to records, and reads records.

    Args:
        redis: the client of Redis.
        on_transition: called with the id of each job that has a new record, or another status, attempt, generation or
            delivery.
        on_cancel_requested: called with a worker and the id of a job whose cancellation it must learn of.
        is_full: returns whether Redis is full, so that the long texts of details are not stored.
    """

    def __init__(
        self,
        redis: RedisClient,
        on_transition: Callable[[str], None] = lambda _job_id: None,
        on_cancel_requested: Callable[[str, str], None] = lambda _worker, _job_id: None,
        is_full: Callable[[], bool] = lambda: False,
    ) -> None:
        self._redis = redis
        self._on_transition = on_transition
        self._on_cancel_requested = on_cancel_requested
        self._is_full = is_full
        self._script = LuaScript(redis, scripts.SCRIPT)
        self.clock = RedisClock(redis)

    async def apply_submissions(self, jobs: Iterable[SubmittedJob]) -> None:
        """Create the records of submitted jobs that have none, and of those with a greater generation.

        Raises:
            RedisError, OSError: Redis is unavailable. Some of the records may have been created.
        """
        jobs = list(jobs)
        replies = await self._change("submission", [(job.id, submission_call(job)) for job in jobs])
        for job, reply in zip(jobs, replies, strict=True):
            self._notify_transition(job.id, reply)

    async def apply_reports(
        self, reports: Iterable[JobReport], on_unpublished: Callable[[JobReport], None] = lambda _report: None
    ) -> list[Verdict]:
        """Apply reports in order and return their verdicts in the same order.

        Args:
            reports: the reports of one request.
            on_unpublished: called with each report that was rejected or did not change the snapshot.

        Raises:
            RedisError, OSError: Redis is unavailable. Some of the reports may have been applied.
        """
        reports, is_full = list(reports), self._is_full()
        calls = [(report.job_id, report_call(report, is_full=is_full)) for report in reports]
        replies = await self._change("report", calls)
        verdicts = []
        for report, reply in zip(reports, replies, strict=True):
            verdicts.append(self._verdict(report.job_id, reply))
            if isinstance(reply, list) or not reply & PUBLISHED:
                on_unpublished(report)
        return verdicts

    async def apply_progress(self, report: ProgressUrlReport, job_ttl_s: float) -> Verdict:
        """Apply a one-line report. The script fills in its missing fields from the record.

        Raises:
            RedisError, OSError: Redis is unavailable. The report may have been applied.
        """
        call = progress_call(report, self.clock.now(), job_ttl_s)
        (reply,) = await self._change("progress", [(report.job_id, call)])
        return self._verdict(report.job_id, reply)

    async def cancel(self, grant: Grant, record: RecordRead | None = None) -> bytes | None:
        """Cancel a job and return its snapshot as JSON, or None if the grant requires a record and there is none.

        If a worker has a live lease, the cancellation is only requested. A job that has ended does not change.

        Args:
            grant: the grant.
            record: the record that matches the grant's filter, if it has one. If it has other labels now, or another
                kind, because it was lost and rebuilt, the job is not cancelled and the result is None.

        Raises:
            RedisError, OSError: Redis is unavailable. The job may have been cancelled.
        """
        return await self._cancel(grant.job_id, cancel_call(grant, record))

    async def cancel_unchanged(self, job_id: UUID, generation: int, until: Timestamp | None, by: str) -> bytes | None:
        """Cancel a job as `cancel` does, and return its snapshot as JSON, or None if it has no record.

        Args:
            job_id: the job.
            generation: the generation that the job must have.
            until: the time after which the job must not have been redriven.
            by: the operator who has requested it.

        Raises:
            JobChanged: the job has ended, or was redriven.
            RedisError, OSError: as for `cancel`.
        """
        return await self._cancel(job_id, cancel_unchanged_call(job_id, generation, until, by))

    async def _cancel(self, job_id: UUID, call: ScriptCall) -> bytes | None:
        try:
            (reply,) = await self._change("cancel", [(job_id, call)])
        except (RedisError, OSError) as error:
            log.warning("cancel_not_confirmed", job_id=uuid_str(job_id), error=type(error).__name__)
            raise
        if reply is None:
            return None
        if isinstance(reply, bytes):
            raise JobChanged(reply.decode())
        snapshot, transition, worker = reply
        log.info("cancel_applied", job_id=uuid_str(job_id))
        self._notify_transition(job_id, transition)
        if worker:
            self._on_cancel_requested(worker.decode(errors="replace"), uuid_str(job_id))
        return bytes(snapshot)

    async def erase(self, job_id: UUID, by: str | None) -> bool | None:
        """Remove the result, the progress message, the details and the log of a job that has ended.

        Args:
            job_id: the job.
            by: the operator who has requested it, if known.

        Returns:
            Whether the job has ended; None if it has no record.

        Raises:
            RedisError, OSError: Redis is unavailable. The job may have been erased.
        """
        (reply,) = await self._change("erase", [(job_id, erase_call(job_id, by))])
        return None if reply is None else reply == ERASED

    async def _change(self, op: str, calls: Sequence[tuple[UUID, ScriptCall]]) -> list[Any]:
        """Execute the script for jobs. If Redis fails, any of them may have changed: a repetition would not tell."""
        try:
            return await self._run(op, [call for _, call in calls], self._script.run)
        except (RedisError, OSError):
            for job_id, _ in calls:
                self._on_transition(uuid_str(job_id))
            raise

    def _verdict(self, job_id: UUID, reply: Any) -> Verdict:
        """Return the verdict for a reply of the script to a report."""
        if isinstance(reply, list):
            reason, cancel_requested, transition = reply
            self._notify_transition(job_id, transition)
            return Verdict(job_id, accepted=False, reason=reason.decode(), cancel_requested=bool(cancel_requested))
        self._notify_transition(job_id, reply)
        return Verdict(job_id, True, None, bool(reply & CANCEL_REQUESTED), bool(reply & WATCHED))

    def _notify_transition(self, job_id: UUID, reply: int) -> None:
        if reply & TRANSITION:
            self._on_transition(uuid_str(job_id))

    async def read(self, job_ids: Iterable[str]) -> list[RecordRead | None]:
        """Return the jobs' records, with None for a job without a record.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        return await self._run("read", list(job_ids), self._read_records)

    async def read_details(self, job_ids: Iterable[str]) -> list[tuple[RecordRead | None, JobDetails]]:
        """Return the jobs' records, with None for a job without a record, and their details.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        return await self._run("read", list(job_ids), self._read_details)

    async def read_true_errors(self, job_ids: Iterable[str]) -> list[JobError | None]:
        """Return the errors in the details of jobs, with None for a job that has none.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        return await self._run("read", list(job_ids), self._read_true_errors)

    async def read_erased(self, job_id: UUID) -> int | None:
        """Return the generation of a job that was erased, None if none was.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        (erased,) = await self._run("read", [job_key(job_id)], self._read_erased)
        return erased

    async def read_available(self, job_ids: Iterable[str]) -> dict[str, ReadResult]:
        """Return the jobs' records as `read` does, or the error of each job whose Redis node is unavailable.

        The nodes are read independently, so that a failed one does not hide the records of the others.
        """
        ids = list(job_ids)
        return dict(zip(ids, await run_by_node(self._redis, ids, job_key, self.read), strict=True))

    async def _read_records(self, job_ids: Sequence[str]) -> list[RecordRead | None]:
        keys = map(job_key, job_ids)
        replies = await self._redis.execute([(key, ("HMGET", key, *READ_FIELDS)) for key in keys])
        return [_record(job_id, reply) for job_id, reply in zip(job_ids, replies, strict=True)]

    async def _read_details(self, job_ids: Sequence[str]) -> list[tuple[RecordRead | None, JobDetails]]:
        keys = map(details_key, job_ids)
        records, replies = await asyncio.gather(
            self._read_records(job_ids),
            self._redis.execute([(key, ("HMGET", key, *DETAILS_FIELDS)) for key in keys]),
        )
        return list(zip(records, map(details_from_reply, replies), strict=True))

    async def _read_true_errors(self, job_ids: Sequence[str]) -> list[JobError | None]:
        keys = map(details_key, job_ids)
        return list(map(error_from_reply, await self._redis.execute([(key, ("HMGET", key, "error")) for key in keys])))

    async def _read_erased(self, keys: Sequence[str]) -> list[int | None]:
        replies = await self._redis.execute([(key, ("HMGET", key, "erased")) for key in keys])
        return [int(reply[0]) if isinstance(reply, list) and (reply[0] or b"").isdigit() else None for reply in replies]

    async def _run(self, op: str, calls: Sequence[C], execute: Callable[[Sequence[C]], Awaitable[list[R]]]) -> list[R]:
        """Execute calls, unless there are none, and measure it."""
        if not calls:
            return []
        started = time.monotonic()
        try:
            return await execute(calls)
        except (RedisError, OSError):
            metrics.REDIS_ERRORS.labels(op).inc()
            raise
        finally:
            metrics.REDIS_DURATION.labels(op).observe(time.monotonic() - started)


def _record(job_id: str, reply: list[bytes | None] | RedisError) -> RecordRead | None:
    """Return a job's record, or None if it has none, or one without a field of every snapshot.

    Raises:
        RedisError: the read failed.
    """
    if isinstance(reply, list) and (record := record_from_reply(reply)) is not None:
        return record
    if isinstance(reply, RedisError) and not str(reply).startswith("WRONGTYPE"):
        raise reply
    if isinstance(reply, RedisError) or any(reply):
        log.warning("invalid_record_ignored", job_id=job_id)
    return None
