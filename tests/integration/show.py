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
from tests.integration.crowd import KINDS, Job, Shown, Watcher
from tests.integration.replicas import Replicas
from tests.integration.reporters import Reporter
from tests.waiting import wait_until

log = logging.getLogger(__name__)

REPORTERS = 3
TOKEN_S = 3600
RAMP_S = 0.002  # between two watchers that begin
SEEN_S = 40  # in which at the latest all have seen what has ended
LATE_S = 5.0  # 99 of 100 endings may come so late


class Fault(NamedTuple):
    """Something that went wrong, from when to when."""

    name: str
    began: Timestamp
    over: Timestamp


class Show:
    """What runs, and what befalls it."""

    def __init__(self, replicas: Replicas, jobs: int, watchers: int, pace_s: float, seed: int) -> None:
        self.random = random.Random(seed)
        signer, now = TokenSigner((replicas.keys / "token.pem").read_text()), Timestamp.now()
        ids = [uuid.UUID(int=self.random.getrandbits(128), version=4) for _ in range(jobs)]
        passes = [Grant(job_id=one, kind="k", submitted_at=now, expires_at=now.after(TOKEN_S)) for one in ids]
        self.jobs = [Job(str(one.job_id), signer.sign(one)) for one in passes]
        self.going = self.random.sample(self.jobs, jobs)  # in the order in which they are to end
        self.ended: list[Job] = []
        self.watchers: list[Watcher] = []
        for number in range(watchers):
            turn, place = divmod(number, jobs)
            watcher = KINDS[(turn + place) % len(KINDS)](self.jobs[place], replicas.relay.port)
            watcher.job.watchers.append(watcher)
            self.watchers.append(watcher)
        key = (replicas.keys / "report.key").read_text().strip()
        self.reporters = [Reporter(self.jobs[n::REPORTERS], replicas.all, key, pace_s) for n in range(REPORTERS)]
        self.faults: list[Fault] = []

    @classmethod
    @asynccontextmanager
    async def running(
        cls, replicas: Replicas, *, jobs: int, watchers: int, pace_s: float, seed: int
    ) -> AsyncIterator[Show]:
        """Report and watch until the block ends, which begins once everyone sees something."""
        show = cls(replicas, jobs, watchers, pace_s, seed)
        tasks = [asyncio.create_task(reporter.run()) for reporter in show.reporters]
        try:
            for watcher in show.watchers:
                tasks.append(asyncio.create_task(watcher.run()))
                await asyncio.sleep(RAMP_S)
            await wait_until(lambda: all(watcher.version for watcher in show.watchers), SEEN_S, 0.1)
            yield show
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert [end for end in ends if isinstance(end, Exception)] == []

    def end(self, count: int) -> None:
        """End some jobs."""
        for job in self.going[:count]:
            self.ended.append(job)
            for reporter in self.reporters:
                if job.id in reporter.works:
                    reporter.end(job)
        del self.going[:count]

    async def strike(
        self,
        name: str,
        count: int,
        blow: Callable[[], Awaitable[object]],
        mend: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """Deal a blow, which ends with the fault; some jobs end in it, some right behind it, before all is mended."""
        began = Timestamp.now()
        self.end((count + 1) // 2)
        await blow()
        self.faults.append(Fault(name, began, Timestamp.now()))
        self.end(count // 2)
        if mend is not None:
            await mend()
        await self.all_seen()
        took = [self.late_s(watcher) for job in self.ended[-count:] for watcher in job.watchers]
        log.info("%s: over in %.1f s, %s", name, (self.faults[-1].over - began) / 1000, spread(took))

    async def all_seen(self) -> None:
        """Wait until everyone has seen the endings that there are."""
        await wait_until(lambda: all(job.seen_ended for job in self.ended), SEEN_S, 0.05)

    def late_s(self, watcher: Watcher) -> float:
        """Tell how late a watcher saw its job's ending; see the top."""
        assert watcher.ended is not None
        assert watcher.ended.finished_at is not None
        accepted, seen = watcher.ended.finished_at, watcher.seen_at
        overs = [fault.over for fault in self.faults if fault.began <= seen and fault.over >= accepted]
        return max(0, seen - max(accepted, *overs, 0)) / 1000

    async def finish(self) -> None:
        """End all that still runs, and wait until everyone has seen that."""
        self.end(len(self.going))
        await self.all_seen()
        for kind in KINDS:
            watchers = [watcher for watcher in self.watchers if isinstance(watcher, kind)]
            late = [self.late_s(watcher) for watcher in watchers]
            waited = [(one.seen_at - (one.ended.finished_at or 0)) / 1000 for one in watchers if one.ended]
            connections = sum(watcher.connections for watcher in watchers)
            log.info(
                "%s: late %s; since acceptance %s; %d connections",
                kind.transport,
                spread(late),
                spread(waited),
                connections,
            )
        late = [self.late_s(watcher) for watcher in self.watchers]
        in_vain = sum(reporter.failures for reporter in self.reporters)
        log.info("late: %s; requests of reporters in vain: %d", spread(late), in_vain)

    async def problems(self, redis_url: str) -> list[str]:
        """Say what is wrong, by what the records say in the end."""
        async with redis_from_url(redis_url) as servers:
            texts = await JobStore(servers).read([job.id for job in self.jobs])
        for job, text in zip(self.jobs, texts, strict=True):
            record = decode(text or b"null", Shown)
            for watcher in job.watchers:
                if watcher.version != record.version:
                    watcher.complain(f"ends with {watcher.version} instead of {record.version}")
        late_s = percentile([self.late_s(watcher) for watcher in self.watchers], 99)
        late = [f"99 of 100 endings came within {late_s} s only"] if late_s > LATE_S else []
        return [
            *late,
            *itertools.chain(
                *(watcher.problems for watcher in self.watchers), *(reporter.problems for reporter in self.reporters)
            ),
        ]


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value that so many of 100 do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share / 100))]


def spread(values: list[float]) -> str:
    """Spell how values are spread, in seconds."""
    found = [(name, percentile(values, share)) for name, share in (("p50", 50), ("p99", 99), ("max", 100))]
    return ", ".join(f"{name} {value:.3f} s" for name, value in found)
