"""The store of job records.

Every change goes through the record script. A read is one HMGET: a script would cost Redis several times as much.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar
from uuid import UUID

import structlog
from redis.exceptions import RedisError

from headway.contracts import (
    DEFAULT_ATTEMPTS,
    JobReport,
    Progress,
    ProgressUrlReport,
    Timestamp,
    Verdict,
    encode,
    to_progress_snapshot,
    uuid_str,
)
from headway.tokens import Grant

from .. import metrics
from ..redis_client.connector import NodeAddress
from ..redis_client.topology import RedisClient, SlotNotCovered
from .clock import RedisClock
from .keys import job_key
from .record_read import READ_FIELDS, RecordRead, record_from_reply
from .scripts import RecordScript, ScriptCall

log: structlog.stdlib.BoundLogger = structlog.get_logger()

CANCEL_REQUESTED, WATCHED, PUBLISHED = 1, 2, 4  # bits of the script's reply to an accepted report
C = TypeVar("C")
R = TypeVar("R")
ReadResult = RecordRead | RedisError | OSError | None


class JobStore:
    """Applies reports and cancellations to records, and reads records."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._script = RecordScript(redis)
        self.clock = RedisClock(redis)

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
        reports = list(reports)
        replies = await self._run("report", [_report_call(report) for report in reports], self._script.run)
        verdicts = []
        for report, reply in zip(reports, replies, strict=True):
            verdicts.append(_verdict(report.job_id, reply))
            if isinstance(reply, list) or not reply & PUBLISHED:
                on_unpublished(report)
        return verdicts

    async def apply_progress(self, report: ProgressUrlReport, job_ttl_s: float) -> Verdict:
        """Apply a one-line report. The script fills in its missing fields from the record.

        Raises:
            RedisError, OSError: Redis is unavailable. The report may have been applied.
        """
        (reply,) = await self._run("progress", [_progress_call(report, self.clock.now(), job_ttl_s)], self._script.run)
        return _verdict(report.job_id, reply)

    async def cancel(self, grant: Grant) -> bytes:
        """Cancel a job and return its snapshot as JSON.

        If a worker has a live lease, the cancellation is only requested. A job that has ended does not change.

        Raises:
            RedisError, OSError: Redis is unavailable. The job may have been cancelled.
        """
        job_id = uuid_str(grant.job_id)
        try:
            (snapshot,) = await self._run("cancel", [_cancel_call(grant)], self._script.run)
        except (RedisError, OSError) as error:
            log.warning("cancel_not_confirmed", job_id=job_id, error=type(error).__name__)
            raise
        log.info("cancel_applied", job_id=job_id)
        return bytes(snapshot)

    async def read(self, job_ids: Iterable[str]) -> list[RecordRead | None]:
        """Return the jobs' records, with None for a job without a record.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        return await self._run("read", list(job_ids), self._read_records)

    async def read_available(self, job_ids: Iterable[str]) -> dict[str, ReadResult]:
        """Return the jobs' records as `read` does, or the error of each job whose Redis node is unavailable.

        The nodes are read independently, so that a failed one does not hide the records of the others.
        """
        groups: dict[NodeAddress | None, list[str]] = {}
        for job_id in job_ids:
            groups.setdefault(self._node_of(job_id), []).append(job_id)
        results: dict[str, ReadResult] = {}

        async def read_group(group: list[str]) -> None:
            try:
                results.update(zip(group, await self.read(group), strict=True))
            except (RedisError, OSError) as error:
                results.update(dict.fromkeys(group, error))

        await asyncio.gather(*map(read_group, groups.values()))
        return results

    def _node_of(self, job_id: str) -> NodeAddress | None:
        try:
            return self._redis.node_for_key(job_key(job_id))
        except SlotNotCovered:
            return None

    async def _read_records(self, job_ids: Sequence[str]) -> list[RecordRead | None]:
        keys = map(job_key, job_ids)
        replies = await self._redis.execute([(key, ("HMGET", key, *READ_FIELDS)) for key in keys])
        return [_record(job_id, reply) for job_id, reply in zip(job_ids, replies, strict=True)]

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


def _verdict(job_id: UUID, reply: Any) -> Verdict:
    if isinstance(reply, list):
        reason, cancel_requested = reply
        return Verdict(job_id, accepted=False, reason=reason.decode(), cancel_requested=bool(cancel_requested))
    return Verdict(job_id, True, None, bool(reply & CANCEL_REQUESTED), bool(reply & WATCHED))


def _milliseconds(timestamp: Timestamp | None) -> int | bytes:
    return b"null" if timestamp is None else int(timestamp)


def _report_call(report: JobReport) -> ScriptCall:
    """Return the call for a report: the script's REPORT_FIELDS."""
    return [
        job_key(uuid_str(report.job_id)),
        "report",
        encode(report.kind),
        encode(report.status),
        report.generation,
        report.attempt,
        report.max_attempts,
        encode(to_progress_snapshot(report.progress)),
        bytes(report.result),
        encode(report.error),
        report.submitted_at.to_json(),
        report.expires_at.to_json(),
        report.message_id,
        report.delivery,
        report.sequence,
        _milliseconds(report.lease_until),
        _milliseconds(report.due_at),
        int(report.expires_at),
        _milliseconds(report.sent_at),
    ]


def _progress_call(report: ProgressUrlReport, now: Timestamp, job_ttl_s: float) -> ScriptCall:
    """Return the call for a one-line report: the script's PROGRESS_FIELDS."""
    expires_at = now.after(job_ttl_s)
    return [
        job_key(report.job_id),
        "progress",
        encode(report.kind),
        encode("succeeded" if report.progress == 100 else "running"),
        DEFAULT_ATTEMPTS,
        encode(to_progress_snapshot(Progress(report.progress, 100, "%", report.message))),
        math.floor(1000 * report.progress),
        encode(now),
        encode(expires_at),
        int(expires_at),
    ]


def _cancel_call(grant: Grant) -> ScriptCall:
    """Return the call for a cancellation: the script's CANCEL_FIELDS."""
    return [
        job_key(grant.job_id),
        "cancel",
        encode(grant.kind),
        DEFAULT_ATTEMPTS,
        encode(grant.submitted_at),
        encode(grant.due_at),
        encode(grant.expires_at),
        int(grant.expires_at),
    ]
