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
from tests.integration.crowd import Job
from tests.integration.replicas import Replica

TIMEOUT = aiohttp.ClientTimeout(total=10, connect=3)
BACKOFF_S, BACKOFF_CAP_S = 0.1, 2.0


class Away(ConnectionError):
    """A replica could not be asked, or cannot tell."""


class Work:
    """A job as its worker knows it."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.sequence = 0
        self.step = 0
        self.sent_at = float("-inf")
        self.ends = False
        self.ended = False
        self.doubted = False  # whether an ending was sent that nobody has answered

    def due(self, pace_s: float, now: float) -> bool:
        """Tell whether there is something to report now."""
        return not self.ended and (self.ends or now - self.sent_at >= pace_s)

    def stamp(self, now: float) -> dict[str, Any]:
        """Make the report of now."""
        self.sequence += 1
        self.step += 1
        self.sent_at = now
        done = {"status": "succeeded", "result": {"steps": self.step}} if self.ends else {}
        return report(self.job.id, self.sequence, progress={"current": self.step}, **done)


class Reporter:
    """One worker."""

    def __init__(self, jobs: Sequence[Job], replicas: Sequence[Replica], key: str, pace_s: float) -> None:
        self.works = {job.id: Work(job) for job in jobs}
        self.problems: list[str] = []
        self.failures = 0  # of requests, so far
        self._replicas = itertools.cycle(replicas)
        self._headers = {"Authorization": f"Bearer {key}"}
        self._pace_s = pace_s
        self._told = asyncio.Event()

    def end(self, job: Job) -> None:
        """End a job."""
        self.works[job.id].ends = True
        self._told.set()

    async def run(self) -> None:
        """Report until all jobs have ended."""
        failures = 0
        async with aiohttp.ClientSession(timeout=TIMEOUT, cookie_jar=aiohttp.DummyCookieJar()) as session:
            while not all(work.ended for work in self.works.values()):
                try:
                    await self._turn(session)
                    failures = 0
                except Away:
                    failures += 1
                    self.failures += 1
                    await asyncio.sleep(full_jitter_s(failures, BACKOFF_S, BACKOFF_CAP_S))

    async def _turn(self, session: aiohttp.ClientSession) -> None:
        self._told.clear()
        now = time.monotonic()
        due = [work for work in self.works.values() if work.due(self._pace_s, now)]
        if due:
            await self._send(session, due)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self._pace_s / 10):
                await self._told.wait()

    async def _send(self, session: aiohttp.ClientSession, due: Sequence[Work]) -> None:
        now = time.monotonic()
        reports = [work.stamp(now) for work in due]
        ending = [work for work in due if work.ends]
        url = f"{next(self._replicas).internal}/reports"
        try:
            async with session.post(url, json=reports, headers=self._headers) as response:
                if response.status != 200:
                    if response.status != 503:
                        self.problems.append(f"answered {response.status}: {await response.text()}")
                    raise Away
                verdicts = await response.json()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            for work in due:
                work.sent_at = float("-inf")
            for work in ending:
                work.doubted = True
            raise Away from error
        for work, verdict in zip(due, verdicts, strict=True):
            self._judge(work, verdict, work in ending)

    def _judge(self, work: Work, verdict: dict[str, Any], ending: bool) -> None:
        repeated = verdict["reason"] == "finished" and work.doubted
        if verdict["job_id"] != work.job.id or not (verdict["accepted"] or repeated):
            self.problems.append(f"{work.sequence} of {work.job.id} got {verdict}")
        work.ended = ending
