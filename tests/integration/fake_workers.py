"""Fake workers: each reports on some jobs, to all replicas in turn, until it is asked to finish them.

They follow the rules of the real worker: one request is in flight; a report without response is sent again with the
current state and a new sequence; an outcome is reported until there is a verdict.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import aiohttp

from headway.backoff import full_jitter_s
from tests.integration.conftest import report
from tests.integration.load_watchers import WatchedJob
from tests.integration.replicas import Replica

TIMEOUT = aiohttp.ClientTimeout(total=10, connect=3)
BACKOFF_S, BACKOFF_CAP_S = 0.1, 2.0


class NotifierUnavailable(ConnectionError):
    """The replica is unreachable or answered 503."""


class ReportedJob:
    """A job and the state of its reports."""

    def __init__(self, job: WatchedJob) -> None:
        self.job = job
        self.sequence = 0
        self.step = 0
        self.sent_at = float("-inf")
        self.finish_requested = False
        self.finished = False
        self.outcome_uncertain = False  # whether the outcome was sent without a response

    def is_due(self, report_interval_s: float, now: float) -> bool:
        """Return whether a report is due."""
        return not self.finished and (self.finish_requested or now - self.sent_at >= report_interval_s)

    def next_report(self, now: float) -> dict[str, Any]:
        """Return a report of the current state, with the next sequence."""
        self.sequence += 1
        self.step += 1
        self.sent_at = now
        outcome = {"status": "succeeded", "result": {"steps": self.step}} if self.finish_requested else {}
        return report(self.job.id, self.sequence, progress={"current": self.step}, **outcome)


class FakeWorker:
    """A worker without handlers."""

    def __init__(
        self, jobs: Sequence[WatchedJob], replicas: Sequence[Replica], key: str, report_interval_s: float
    ) -> None:
        self.jobs = {job.id: ReportedJob(job) for job in jobs}
        self.problems: list[str] = []
        self.failures = 0  # the number of failed requests
        self._replicas = itertools.cycle(replicas)
        self._headers = {"Authorization": f"Bearer {key}"}
        self._report_interval_s = report_interval_s
        self._wakeup = asyncio.Event()

    def finish(self, job: WatchedJob) -> None:
        """Finish a job with the next report."""
        self.jobs[job.id].finish_requested = True
        self._wakeup.set()

    async def run(self) -> None:
        """Report until all jobs have finished."""
        failures = 0
        async with aiohttp.ClientSession(timeout=TIMEOUT, cookie_jar=aiohttp.DummyCookieJar()) as session:
            while not all(job.finished for job in self.jobs.values()):
                try:
                    await self._tick(session)
                    failures = 0
                except NotifierUnavailable:
                    failures += 1
                    self.failures += 1
                    await asyncio.sleep(full_jitter_s(failures, BACKOFF_S, BACKOFF_CAP_S))

    async def _tick(self, session: aiohttp.ClientSession) -> None:
        self._wakeup.clear()
        now = time.monotonic()
        due = [job for job in self.jobs.values() if job.is_due(self._report_interval_s, now)]
        if due:
            await self._send(session, due)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self._report_interval_s / 10):
                await self._wakeup.wait()

    async def _send(self, session: aiohttp.ClientSession, due: Sequence[ReportedJob]) -> None:
        now = time.monotonic()
        reports = [job.next_report(now) for job in due]
        finishing = [job for job in due if job.finish_requested]
        url = f"{next(self._replicas).internal}/reports"
        try:
            async with session.post(url, json=reports, headers=self._headers) as response:
                if response.status != 200:
                    if response.status != 503:
                        self.problems.append(f"answered {response.status}: {await response.text()}")
                    raise NotifierUnavailable
                verdicts = await response.json()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            for job in due:
                job.sent_at = float("-inf")
            for job in finishing:
                job.outcome_uncertain = True
            raise NotifierUnavailable from error
        for job, verdict in zip(due, verdicts, strict=True):
            self._on_verdict(job, verdict, job in finishing)

    def _on_verdict(self, job: ReportedJob, verdict: dict[str, Any], finishing: bool) -> None:
        repeated = verdict["reason"] == "finished" and job.outcome_uncertain
        if verdict["job_id"] != job.job.id or not (verdict["accepted"] or repeated):
            self.problems.append(f"{job.sequence} of {job.job.id} got {verdict}")
        job.finished = finishing
