"""A load scenario: running jobs, fake workers that report them, watchers, and faults that the test injects.

It measures the delay with which watchers see outcomes. The delay starts when Redis accepted the final report (the
snapshot's `finished_at`) or when a fault in that time ended, whichever is later, and ends when the watcher has read the
snapshot. All times are of this machine's clock.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import NamedTuple

from headway.contracts import Timestamp, decode
from headway.tokens import Grant, TokenSigner
from services.notifier.records.store import JobStore
from services.notifier.redis_client.url import redis_from_url
from tests.integration.fake_workers import FakeWorker
from tests.integration.load_watchers import WATCHER_TYPES, SnapshotHeader, WatchedJob, Watcher
from tests.integration.replicas import Replicas
from tests.waiting import PATIENCE_S, wait_until

log = logging.getLogger(__name__)

WORKERS = 3
TOKEN_TTL_S = 3600
WATCHER_START_INTERVAL_S = 0.002  # between the starts of two watchers
SEEN_TIMEOUT_S = PATIENCE_S  # until all watchers have seen an outcome
MAX_P99_DELAY_S = 5.0  # 99 % of the outcomes must be seen within it


class Fault(NamedTuple):
    """A fault, and when it began and ended."""

    name: str
    began: Timestamp
    ended: Timestamp


class LoadScenario:
    """Jobs with their workers and watchers, and the faults so far."""

    def __init__(self, replicas: Replicas, jobs: int, watchers: int, pace_s: float, seed: int) -> None:
        self.random = random.Random(seed)
        signer, now = TokenSigner((replicas.keys / "token.pem").read_text()), Timestamp.now()
        ids = [uuid.UUID(int=self.random.getrandbits(128), version=4) for _ in range(jobs)]
        grants = [Grant(job_id=job_id, kind="k", submitted_at=now, expires_at=now.after(TOKEN_TTL_S)) for job_id in ids]
        self.jobs = [WatchedJob(str(grant.job_id), signer.sign(grant)) for grant in grants]
        self.unfinished = self.random.sample(self.jobs, jobs)  # in the order in which they will finish
        self.finished: list[WatchedJob] = []
        self.watchers: list[Watcher] = []
        for number in range(watchers):
            round_, index = divmod(number, jobs)
            watcher = WATCHER_TYPES[(round_ + index) % len(WATCHER_TYPES)](self.jobs[index], replicas.proxy.port)
            watcher.job.watchers.append(watcher)
            self.watchers.append(watcher)
        key = (replicas.keys / "report.key").read_text().strip()
        self.workers = [FakeWorker(self.jobs[n::WORKERS], replicas.all, key, pace_s) for n in range(WORKERS)]
        self.faults: list[Fault] = []

    @classmethod
    @asynccontextmanager
    async def running(
        cls, replicas: Replicas, *, jobs: int, watchers: int, pace_s: float, seed: int
    ) -> AsyncIterator[LoadScenario]:
        """Run workers and watchers until the block ends; it starts when every watcher has a snapshot."""
        scenario = cls(replicas, jobs, watchers, pace_s, seed)
        tasks = [asyncio.create_task(worker.run()) for worker in scenario.workers]
        try:
            for watcher in scenario.watchers:
                tasks.append(asyncio.create_task(watcher.run()))
                await asyncio.sleep(WATCHER_START_INTERVAL_S)
            await wait_until(lambda: all(watcher.version for watcher in scenario.watchers), SEEN_TIMEOUT_S, 0.1)
            yield scenario
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [result for result in results if isinstance(result, Exception)] == []

    def finish_jobs(self, count: int) -> None:
        """Finish the next unfinished jobs."""
        for job in self.unfinished[:count]:
            self.finished.append(job)
            for worker in self.workers:
                if job.id in worker.jobs:
                    worker.finish(job)
        del self.unfinished[:count]

    async def inject(
        self,
        name: str,
        count: int,
        cause: Callable[[], Awaitable[object]],
        repair: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """Inject a fault, and wait until all watchers have seen the outcomes of the jobs that finish meanwhile.

        Half of the `count` jobs finish during the fault, the others after it, before the repair.

        Args:
            name: the fault's name in the log.
            count: the number of jobs that finish.
            cause: causes the fault and ends it.
            repair: restores what the fault has left broken.
        """
        began = Timestamp.now()
        self.finish_jobs((count + 1) // 2)
        await cause()
        self.faults.append(Fault(name, began, Timestamp.now()))
        self.finish_jobs(count // 2)
        if repair is not None:
            await repair()
        await self.wait_until_seen()
        delays_s = [self.delay_s(watcher) for job in self.finished[-count:] for watcher in job.watchers]
        duration_s = (self.faults[-1].ended - began) / 1000
        log.info("%s: ended after %.1f s, delay %s", name, duration_s, format_distribution(delays_s))

    async def wait_until_seen(self) -> None:
        """Wait until all watchers have seen the outcomes of all finished jobs."""
        await wait_until(lambda: all(job.outcome_seen_by_all for job in self.finished), SEEN_TIMEOUT_S, 0.05)

    def delay_s(self, watcher: Watcher) -> float:
        """Return the delay with which a watcher saw its job's outcome (see the module's docstring)."""
        assert watcher.outcome is not None
        assert watcher.outcome.finished_at is not None
        accepted, seen = watcher.outcome.finished_at, watcher.outcome_seen_at
        fault_ends = [fault.ended for fault in self.faults if fault.began <= seen and fault.ended >= accepted]
        return max(0, seen - max(accepted, *fault_ends, 0)) / 1000

    async def finish_all(self) -> None:
        """Finish all jobs that still run, wait until all watchers have seen it, and log the delays."""
        self.finish_jobs(len(self.unfinished))
        await self.wait_until_seen()
        for watcher_type in WATCHER_TYPES:
            watchers = [watcher for watcher in self.watchers if isinstance(watcher, watcher_type)]
            delays_s = [self.delay_s(watcher) for watcher in watchers]
            since_acceptance_s = [
                (watcher.outcome_seen_at - (watcher.outcome.finished_at or 0)) / 1000
                for watcher in watchers
                if watcher.outcome
            ]
            connections = sum(watcher.connections for watcher in watchers)
            log.info(
                "%s: delay %s; since acceptance %s; %d connections",
                watcher_type.transport,
                format_distribution(delays_s),
                format_distribution(since_acceptance_s),
                connections,
            )
        delays_s = [self.delay_s(watcher) for watcher in self.watchers]
        failed_requests = sum(worker.failures for worker in self.workers)
        log.info("delay: %s; failed requests of workers: %d", format_distribution(delays_s), failed_requests)

    async def problems(self, redis_url: str) -> list[str]:
        """Return all violations, after comparing the watchers' last versions with the records."""
        async with redis_from_url(redis_url) as client:
            records = await JobStore(client).read([job.id for job in self.jobs])
        for job, record in zip(self.jobs, records, strict=True):
            last = decode(record.snapshot if record else b"null", SnapshotHeader)
            for watcher in job.watchers:
                if watcher.version != last.version:
                    watcher.add_problem(f"has version {watcher.version} at the end instead of {last.version}")
        p99_s = percentile([self.delay_s(watcher) for watcher in self.watchers], 99)
        too_slow = [f"the 99th percentile of the delays is {p99_s} s"] if p99_s > MAX_P99_DELAY_S else []
        return [
            *too_slow,
            *itertools.chain(
                *(watcher.problems for watcher in self.watchers), *(worker.problems for worker in self.workers)
            ),
        ]


def percentile(values: Iterable[float], share: float) -> float:
    """Return a percentile of some values; `share` is in percent."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share / 100))]


def format_distribution(values: list[float]) -> str:
    """Format the median, the 99th percentile and the maximum of some durations in seconds."""
    percentiles = [(name, percentile(values, share)) for name, share in (("p50", 50), ("p99", 99), ("max", 100))]
    return ", ".join(f"{name} {value:.3f} s" for name, value in percentiles)
