"""What has happened before the pictures are taken: the jobs of a day, and other workers."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from redis.asyncio import Redis

from dev.reported_jobs import ReportSender
from headway.contracts import Timestamp

HOURS = 24
HOUR_S = 3_600
BAD_HOURS = (3, 4, 5)  # ago: last night
WORKERS = ("worker-2", "worker-3")
WORKER_INTERVAL_S = 4
SLOTS = 16
SEED = 20


class PastKind(NamedTuple):
    """A kind: how many of its jobs ran in a busy hour, how long an attempt took, and how it may fail."""

    name: str
    per_hour: int
    seconds: float
    failed: float  # share of the jobs, in a good hour
    failed_last_night: float
    error: tuple[str, str]


KINDS = (
    PastKind("letters", 44, 1.5, 0.005, 0.05, ("Timeout", "The mail server did not answer in time.")),
    PastKind("thumbnails", 30, 4, 0.01, 0.01, ("UnidentifiedImage", "The photo is damaged.")),
    PastKind("invoices", 12, 9, 0, 0.02, ("Fail", "The customer has no address.")),
    PastKind("import", 8, 14, 0.05, 0.7, ("InvalidRow", "row 18: 'n/a' is not a number")),
    PastKind("export", 6, 20, 0.01, 0.02, ("Timeout", "The archive was not finished in time.")),
)


class PastJob(NamedTuple):
    """A job of the past: the fields of its reports, those of the last one, and when its attempt started and ended."""

    fields: dict[str, Any]
    ending: dict[str, Any]
    started_at: Timestamp
    ended_at: Timestamp


def past_jobs(now: Timestamp) -> list[PastJob]:
    """Return the jobs of a day, which is busy at noon and fails at night; the same ones each time."""
    chance = random.Random(SEED)  # noqa: S311 - the same pictures each time
    jobs: list[PastJob] = []
    for hour in range(1, HOURS):
        busy = 1 - 0.8 * abs(hour - 13) / 12
        for kind in KINDS:
            count = round(kind.per_hour * busy * chance.uniform(0.8, 1.2))
            jobs += (_past_job(kind, hour, now, chance) for _ in range(count))
    return jobs


def _past_job(kind: PastKind, hour: int, now: Timestamp, chance: random.Random) -> PastJob:
    submitted_at = now.after(-HOUR_S * (hour + chance.random()))
    failed = chance.random() < (kind.failed_last_night if hour in BAD_HOURS else kind.failed)
    number = chance.randrange(10_000)
    fields = {
        "job_id": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
        "kind": kind.name,
        "labels": {"name": f"{kind.name.title()} {number}", "owner": f"customer:{number}"},
        "submitted_at": str(submitted_at),
    }
    error = dict(zip(("type", "message"), kind.error, strict=True))
    ending = {"status": "failed", "error": error} if failed else {"status": "succeeded"}
    started_at = submitted_at.after(chance.random())
    ended_at = started_at.after(kind.seconds * chance.lognormvariate(0, 0.5))
    return PastJob(fields, ending, started_at, ended_at)


async def report_history(reports: ReportSender, state: Path) -> None:
    """Report the jobs of a day, and move them into the past."""
    jobs = past_jobs(Timestamp.now())
    await reports.send([job.fields for job in jobs])
    await reports.send([{**job.fields, **job.ending} for job in jobs])
    await backdate(jobs, reports.env["REDIS_URL"])
    os.kill(int((state / "pid/notifier").read_text()), signal.SIGKILL)  # it rebuilds the index at its start
    await reports.wait_until_ready()


async def backdate(jobs: Sequence[PastJob], redis_url: str) -> None:
    """Change the times of records, which are those of their reports, and remove the index of all jobs."""
    async with Redis.from_url(redis_url) as redis:
        async with redis.pipeline(transaction=False) as pipeline:
            for job in jobs:
                start, end = job.started_at.to_json(), job.ended_at.to_json()
                times: dict[Any, Any] = {"started_at": start, "updated_at": end, "finished_at": end}
                pipeline.hset(f"headway:job:{{{job.fields['job_id']}}}", mapping=times)
            await pipeline.execute()
        await redis.delete(*[key async for key in redis.scan_iter("headway:ix:*")])


@asynccontextmanager
async def other_workers(reports: ReportSender) -> AsyncIterator[None]:
    """Post further workers until the block ends."""

    async def post() -> None:
        kinds = [{"kind": kind.name, "schema": None} for kind in KINDS]
        while True:
            for number, worker in enumerate(WORKERS):
                place = {"id": f"{worker}-{7 * number + 41:x}c2d9", "host": worker, "version": "0.2.0", "queue": "jobs"}
                await reports.post("/workers", {**place, "slots": SLOTS, "running": 5 + 4 * number, "kinds": kinds})
            await asyncio.sleep(WORKER_INTERVAL_S)

    posting = asyncio.create_task(post())
    try:
        yield
    finally:
        posting.cancel()
        await asyncio.wait({posting})
