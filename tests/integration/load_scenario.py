"""A show: running jobs, their reporters and their watchers, the faults that befall them, and what came of it.

How late an ending was: from the moment that Redis accepted its report (the snapshot's `finished_at`), or from the end
of a fault that lay upon the time until then, whichever is later, to the moment that a watcher had read it. All clocks
are this machine's.
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
from tests.waiting import wait_until

log = logging.getLogger(__name__)

WORKERS = 3
TOKEN_TTL_S = 3600
WATCHER_START_INTERVAL_S = 0.002  # between two watchers that begin
SEEN_TIMEOUT_S = 40  # in which at the latest all have seen what has ended
MAX_P99_DELAY_S = 5.0  # 99 of 100 endings may come so late


class Fault(NamedTuple):
    """Something that went wrong, from when to when."""

    name: str
    began: Timestamp
    ended: Timestamp


class LoadScenario:
    """What runs, and what befalls it."""

    def __init__(self, replicas: Replicas, jobs: int, watchers: int, pace_s: float, seed: int) -> None:
        self.random = random.Random(seed)
        signer, now = TokenSigner((replicas.keys / "token.pem").read_text()), Timestamp.now()
        ids = [uuid.UUID(int=self.random.getrandbits(128), version=4) for _ in range(jobs)]
        grants = [Grant(job_id=one, kind="k", submitted_at=now, expires_at=now.after(TOKEN_TTL_S)) for one in ids]
        self.jobs = [WatchedJob(str(one.job_id), signer.sign(one)) for one in grants]
        self.unfinished = self.random.sample(self.jobs, jobs)  # in the order in which they are to end
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
        """Report and watch until the block ends, which begins once everyone sees something."""
        scenario = cls(replicas, jobs, watchers, pace_s, seed)
        tasks = [asyncio.create_task(reporter.run()) for reporter in scenario.workers]
        try:
            for watcher in scenario.watchers:
                tasks.append(asyncio.create_task(watcher.run()))
                await asyncio.sleep(WATCHER_START_INTERVAL_S)
            await wait_until(lambda: all(watcher.version for watcher in scenario.watchers), SEEN_TIMEOUT_S, 0.1)
            yield scenario
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert [end for end in ends if isinstance(end, Exception)] == []

    def finish_jobs(self, count: int) -> None:
        """End some jobs."""
        for job in self.unfinished[:count]:
            self.finished.append(job)
            for reporter in self.workers:
                if job.id in reporter.jobs:
                    reporter.finish(job)
        del self.unfinished[:count]

    async def inject(
        self,
        name: str,
        count: int,
        cause: Callable[[], Awaitable[object]],
        repair: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """Deal a blow, which ends with the fault; some jobs end in it, some right behind it, before all is mended."""
        began = Timestamp.now()
        self.finish_jobs((count + 1) // 2)
        await cause()
        self.faults.append(Fault(name, began, Timestamp.now()))
        self.finish_jobs(count // 2)
        if repair is not None:
            await repair()
        await self.wait_until_seen()
        delays_s = [self.delay_s(watcher) for job in self.finished[-count:] for watcher in job.watchers]
        log.info("%s: over in %.1f s, %s", name, (self.faults[-1].ended - began) / 1000, format_distribution(delays_s))

    async def wait_until_seen(self) -> None:
        """Wait until everyone has seen the endings that there are."""
        await wait_until(lambda: all(job.outcome_seen_by_all for job in self.finished), SEEN_TIMEOUT_S, 0.05)

    def delay_s(self, watcher: Watcher) -> float:
        """Tell how late a watcher saw its job's ending; see the top."""
        assert watcher.outcome is not None
        assert watcher.outcome.finished_at is not None
        accepted, seen = watcher.outcome.finished_at, watcher.outcome_seen_at
        fault_ends = [fault.ended for fault in self.faults if fault.began <= seen and fault.ended >= accepted]
        return max(0, seen - max(accepted, *fault_ends, 0)) / 1000

    async def finish_all(self) -> None:
        """End all that still runs, and wait until everyone has seen that."""
        self.finish_jobs(len(self.unfinished))
        await self.wait_until_seen()
        for kind in WATCHER_TYPES:
            watchers = [watcher for watcher in self.watchers if isinstance(watcher, kind)]
            delays_s = [self.delay_s(watcher) for watcher in watchers]
            since_acceptance_s = [
                (one.outcome_seen_at - (one.outcome.finished_at or 0)) / 1000 for one in watchers if one.outcome
            ]
            connections = sum(watcher.connections for watcher in watchers)
            log.info(
                "%s: late %s; since acceptance %s; %d connections",
                kind.transport,
                format_distribution(delays_s),
                format_distribution(since_acceptance_s),
                connections,
            )
        delays_s = [self.delay_s(watcher) for watcher in self.watchers]
        failed_requests = sum(reporter.failures for reporter in self.workers)
        log.info("late: %s; requests of reporters in vain: %d", format_distribution(delays_s), failed_requests)

    async def problems(self, redis_url: str) -> list[str]:
        """Say what is wrong, by what the records say in the end."""
        async with redis_from_url(redis_url) as client:
            texts = await JobStore(client).read([job.id for job in self.jobs])
        for job, text in zip(self.jobs, texts, strict=True):
            record = decode(text or b"null", SnapshotHeader)
            for watcher in job.watchers:
                if watcher.version != record.version:
                    watcher.add_problem(f"ends with {watcher.version} instead of {record.version}")
        p99_s = percentile([self.delay_s(watcher) for watcher in self.watchers], 99)
        too_slow = [f"99 of 100 endings came within {p99_s} s only"] if p99_s > MAX_P99_DELAY_S else []
        return [
            *too_slow,
            *itertools.chain(
                *(watcher.problems for watcher in self.watchers), *(reporter.problems for reporter in self.workers)
            ),
        ]


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value that so many of 100 do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share / 100))]


def format_distribution(values: list[float]) -> str:
    """Spell how values are spread, in seconds."""
    found = [(name, percentile(values, share)) for name, share in (("p50", 50), ("p99", 99), ("max", 100))]
    return ", ".join(f"{name} {value:.3f} s" for name, value in found)
