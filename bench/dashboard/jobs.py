"""Running jobs that exist only as the reports about them."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from dev.reported_jobs import ReportSender
from headway.contracts import Timestamp

TOTAL = 10_000  # the total of each job's progress
KINDS = ("export", "thumbnails", "transcode", "import", "letters")


class RunningJobs:
    """A number of running jobs, and the reports that let all of them advance."""

    def __init__(self, reports: ReportSender) -> None:
        self._reports = reports
        self._jobs: list[dict[str, Any]] = []  # the fields of their reports

    async def start(self, count: int = 1) -> None:
        """Report the start of new jobs."""
        jobs = [_job() for _ in range(count)]
        self._jobs += jobs
        await self._reports.send(jobs)

    async def advance(self, current: int) -> None:
        """Report the progress of all jobs, which differs by one from job to job."""
        numbers = range(current, current + len(self._jobs))
        progress = [
            {"current": number, "total": TOTAL, "unit": "rows", "message": f"Row {number}"} for number in numbers
        ]
        await self._reports.send([{**job, "progress": each} for job, each in zip(self._jobs, progress, strict=True)])


def _job() -> dict[str, Any]:
    job_id = uuid.uuid4()
    kind = KINDS[job_id.int % len(KINDS)]
    labels = {"name": f"{kind.title()} for customer {job_id.int % 10_000}"}
    return {"job_id": str(job_id), "kind": kind, "labels": labels, "submitted_at": str(Timestamp.now())}


async def repeat(action: Callable[[int], Awaitable[None]], per_s: float, count: int) -> None:
    """Call an action at a steady rate, with the number of the call, counted from 1."""
    begin = time.monotonic()
    for number in range(count):
        await asyncio.sleep(max(0, begin + number / per_s - time.monotonic()))
        await action(number + 1)
