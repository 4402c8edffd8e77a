"""Workers as far as the notifier sees them: each reports on some jobs, over all replicas in turn, until they are told.

As with the real one there is one request in flight, a report that was not answered is sent again with the state of
then and a sequence of its own, and an ending is reported until there is a verdict.
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
    """A replica could not be asked, or cannot tell."""


class ReportedJob:
    """A job as its worker knows it."""

    def __init__(self, job: WatchedJob) -> None:
        self.job = job
        self.sequence = 0
        self.step = 0
        self.sent_at = float("-inf")
        self.finish_requested = False
        self.finished = False
        self.outcome_uncertain = False  # whether an ending was sent that nobody has answered

    def is_due(self, pace_s: float, now: float) -> bool:
        """Tell whether there is something to report now."""
        return not self.finished and (self.finish_requested or now - self.sent_at >= pace_s)

    def next_report(self, now: float) -> dict[str, Any]:
        """Make the report of now."""
        self.sequence += 1
        self.step += 1
        self.sent_at = now
        outcome = {"status": "succeeded", "result": {"steps": self.step}} if self.finish_requested else {}
        return report(self.job.id, self.sequence, progress={"current": self.step}, **outcome)


class FakeWorker:
    """One worker."""

    def __init__(self, jobs: Sequence[WatchedJob], replicas: Sequence[Replica], key: str, pace_s: float) -> None:
        self.jobs = {job.id: ReportedJob(job) for job in jobs}
        self.problems: list[str] = []
        self.failures = 0  # of requests, so far
        self._replicas = itertools.cycle(replicas)
        self._headers = {"Authorization": f"Bearer {key}"}
        self._report_interval_s = pace_s
        self._wakeup = asyncio.Event()

    def finish(self, job: WatchedJob) -> None:
        """End a job."""
        self.jobs[job.id].finish_requested = True
        self._wakeup.set()

    async def run(self) -> None:
        """Report until all jobs have ended."""
        failures = 0
        async with aiohttp.ClientSession(timeout=TIMEOUT, cookie_jar=aiohttp.DummyCookieJar()) as session:
            while not all(work.finished for work in self.jobs.values()):
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
        due = [work for work in self.jobs.values() if work.is_due(self._report_interval_s, now)]
        if due:
            await self._send(session, due)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self._report_interval_s / 10):
                await self._wakeup.wait()

    async def _send(self, session: aiohttp.ClientSession, due: Sequence[ReportedJob]) -> None:
        now = time.monotonic()
        reports = [work.next_report(now) for work in due]
        finishing = [work for work in due if work.finish_requested]
        url = f"{next(self._replicas).internal}/reports"
        try:
            async with session.post(url, json=reports, headers=self._headers) as response:
                if response.status != 200:
                    if response.status != 503:
                        self.problems.append(f"answered {response.status}: {await response.text()}")
                    raise NotifierUnavailable
                verdicts = await response.json()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            for work in due:
                work.sent_at = float("-inf")
            for work in finishing:
                work.outcome_uncertain = True
            raise NotifierUnavailable from error
        for work, verdict in zip(due, verdicts, strict=True):
            self._on_verdict(work, verdict, work in finishing)

    def _on_verdict(self, work: ReportedJob, verdict: dict[str, Any], ending: bool) -> None:
        repeated = verdict["reason"] == "finished" and work.outcome_uncertain
        if verdict["job_id"] != work.job.id or not (verdict["accepted"] or repeated):
            self.problems.append(f"{work.sequence} of {work.job.id} got {verdict}")
        work.finished = ending
