"""The jobs' records in Redis; the script `gate.lua` is the only thing that reads or changes one."""

from __future__ import annotations

import hashlib
import math
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from headway.contracts import DEFAULT_ATTEMPTS, JobReport, OneLine, Progress, Timestamp, Verdict, encode, present
from headway.tokens import Pass

GATE = (Path(__file__).parent / "gate.lua").read_bytes()
GATE_SHA = hashlib.sha1(GATE, usedforsecurity=False).hexdigest()
PREFIX = "headway:job:{"

Call = list[Any]  # the key, then the script's arguments


def channel(job_id: UUID | str) -> str:
    """Name a job's record, and the channel of its changes; the braces are Redis Cluster's hash tag."""
    return f"{PREFIX}{job_id}}}"


class Records:
    """Passes reports, cancels and reads through the gate, a batch in one round trip."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str) -> AsyncIterator[Records]:
        """Open a pool of connections; Redis may still be away."""
        # No retries: a report sent twice would be refused as stale though it was accepted.
        pool = BlockingConnectionPool.from_url(url, max_connections=16, timeout=5, retry=Retry(NoBackoff(), 0))
        async with Redis(connection_pool=pool) as redis:
            yield cls(redis)
        await pool.aclose()

    async def apply(
        self, reports: Iterable[JobReport], unpublished: Callable[[JobReport], None] = lambda _report: None
    ) -> list[Verdict]:
        """Pass reports through the gate, in their order; `unpublished` hears of those that no watcher will.

        Raises:
            RedisError: Redis is away, or the outcome of at least one report is in doubt.
        """
        reports = list(reports)
        answers = await self._call([_report(report) for report in reports])
        verdicts = []
        for report, (*verdict, published) in zip(reports, answers, strict=True):
            verdicts.append(_verdict(report.job_id, verdict))
            if not published:
                unpublished(report)
        return verdicts

    async def progress(self, line: OneLine, job_ttl_s: float) -> Verdict:
        """Pass a one-line report through the gate; the record tells what it does not. Raises as `apply`."""
        (answer,) = await self._call([_progress(line, Timestamp.now(), job_ttl_s)])
        return _verdict(line.job_id, answer[:-1])

    async def cancel(self, granted: Pass) -> bytes:
        """Cancel a job and return its snapshot: at once, or by request when a worker holds it; an ending stands."""
        (snapshot,) = await self._call([_cancel(granted)])
        return bytes(snapshot)

    async def read(self, job_ids: Iterable[str]) -> list[bytes | None]:
        """Return the snapshots of jobs, None for one without a record."""
        return await self._call([[channel(job_id), "read"] for job_id in job_ids])

    async def _call(self, calls: Sequence[Call]) -> list[Any]:
        answers = await self._run(calls)
        missed = [index for index, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if missed:  # a new or emptied Redis: only what did not run is run again
            await self._redis.script_load(GATE)
            for index, answer in zip(missed, await self._run([calls[index] for index in missed]), strict=True):
                answers[index] = answer
        for answer in answers:
            if isinstance(answer, RedisError):
                raise answer
        return answers

    async def _run(self, calls: Sequence[Call]) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for call in calls:
                pipeline.execute_command("EVALSHA", GATE_SHA, 1, *call)
            return list(await pipeline.execute(raise_on_error=False))


def _verdict(job_id: UUID, answer: list[Any]) -> Verdict:
    accepted, reason, cancel_requested, watched = answer
    return Verdict(job_id, bool(accepted), reason.decode() if reason else None, bool(cancel_requested), bool(watched))


def _report(report: JobReport) -> Call:
    """Spell a report as the gate's REPORTED fields."""
    return [
        channel(report.job_id),
        "report",
        encode(report.job_id),
        encode(report.kind),
        encode(report.status),
        report.generation,
        report.attempt,
        report.max_attempts,
        encode(present(report.progress)),
        bytes(report.result),
        encode(report.error),
        encode(report.submitted_at),
        encode(report.due_at),
        encode(report.lease_until),
        encode(report.expires_at),
        report.message_id,
        report.delivery,
        report.sequence,
        int(report.lease_until or 0),
        int(report.due_at or 0),
        int(report.expires_at),
    ]


def _progress(line: OneLine, now: Timestamp, job_ttl_s: float) -> Call:
    """Spell a one-line report as the gate's PROGRESS fields."""
    expires_at = now.after(job_ttl_s)
    return [
        channel(line.job_id),
        "progress",
        encode(line.job_id),
        encode(line.kind),
        encode("succeeded" if line.progress == 100 else "running"),
        DEFAULT_ATTEMPTS,
        encode(present(Progress(line.progress, 100, "%", line.message))),
        math.floor(1000 * line.progress),
        encode(now),
        encode(expires_at),
        int(expires_at),
    ]


def _cancel(granted: Pass) -> Call:
    """Spell a pass as the gate's GRANTED fields."""
    return [
        channel(granted.job_id),
        "cancel",
        encode(granted.job_id),
        encode(granted.kind),
        DEFAULT_ATTEMPTS,
        encode(granted.submitted_at),
        encode(granted.due_at),
        encode(granted.expires_at),
        int(granted.expires_at),
    ]
