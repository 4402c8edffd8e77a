"""Statistics of the kinds of jobs, of the last 24 hours.

Nothing is counted when jobs start or end: the numbers are the sizes of the index's sets, and the durations are those of
the newest jobs. They can always be computed again, and cost nothing until a client asks for them.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from headway.contracts import NULL, JobStatus, Timestamp, decode
from headway.fleet import Durations, HourCounts, Kind
from headway.labels import JobFilter

from ..records.clock import RedisClock
from ..records.index.hourly_sets import HourlySets
from ..records.index.keys import HOUR_MS, ended_prefix, hour_of, index_key, kind_prefix
from ..records.index.lookup import typed_reply
from ..records.index.query import JobQuery
from ..records.index.reader import IndexReader
from ..records.shared_read import SharedRead
from ..redis_client.topology import RedisClient
from .workers import WorkerStore

HOURS = 24
ENDINGS: tuple[JobStatus, ...] = ("succeeded", "failed", "cancelled")
SUBMITTED = "submitted"
MAX_AGE_S = 5.0
MAX_SAMPLE = 100  # jobs of a kind, whose durations are read
MAX_SAMPLED_KINDS = 100  # the busiest ones; the durations of the others are unknown


class KindsRead(NamedTuple):
    """All kinds, sorted by name, and whether the index has all jobs."""

    kinds: list[Kind]
    complete: bool


class _EndedJob(Struct, frozen=True):
    """The fields of a snapshot from which a duration is computed."""

    started_at: Timestamp
    finished_at: Timestamp


class KindReader:
    """Reads the statistics of all kinds, at most once in MAX_AGE_S for all clients."""

    def __init__(self, redis: RedisClient, clock: RedisClock, index: IndexReader, workers: WorkerStore) -> None:
        self._redis = redis
        self._clock = clock
        self._index = index
        self._workers = workers
        self._kinds = SharedRead(self._read, MAX_AGE_S)

    async def read(self) -> KindsRead:
        """Return the statistics, as of at most MAX_AGE_S ago.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        return await self._kinds.get()

    async def _read(self) -> KindsRead:
        last_hour = hour_of(self._clock.now())
        since = Timestamp((last_hour - HOURS + 1) * HOUR_MS)
        workers = await self._workers.read()
        counts, is_cut = await self._read_counts(since)
        busiest = sorted(counts, key=lambda kind: -counts[kind].total())[:MAX_SAMPLED_KINDS]
        durations = {kind: await self._read_durations(kind, since) for kind in busiest}
        schemas = await self._workers.read_schemas(workers)
        running = Counter(kind.kind for worker in workers for kind in worker.info.kinds)
        kinds = [
            Kind(
                kind=kind,
                schema=schemas.get(kind, NULL),
                workers=running[kind],
                duration_s=durations.get(kind),
                **_rates(counts.get(kind, Counter()), last_hour),
            )
            for kind in sorted({*running, *counts})
        ]
        return KindsRead(kinds, await self._index.is_complete() and not is_cut)

    async def _read_counts(self, since: Timestamp) -> tuple[dict[str, Counter[tuple[str, int]]], bool]:
        """Return how many jobs of each kind have which outcome in which hour, and whether some are left out."""
        foreign: set[str] = set()
        submitted = HourlySets.of_submitted_jobs(self._redis, None, foreign.add)
        ended = HourlySets.of_ended_jobs(self._redis, ENDINGS, None, foreign.add)
        names = [
            name
            for sets in (submitted, ended)
            async for group in sets.segments(math.inf, float(since))
            for name in group
        ]
        keys = map(index_key, names)
        replies = await self._redis.execute([(key, ("ZCARD", key)) for key in keys])
        counts: dict[str, Counter[tuple[str, int]]] = defaultdict(Counter)
        for name, reply in zip(names, replies, strict=True):
            outcome, kind, hour = _parse_name(name)
            counts[kind][outcome, hour] += typed_reply(reply) or 0
        return counts, submitted.is_cut or ended.is_cut or bool(foreign)

    async def _read_durations(self, kind: str, since: Timestamp) -> Durations | None:
        query = JobQuery(filter=JobFilter(kind=kind), statuses=frozenset({"succeeded"}), since=since, limit=MAX_SAMPLE)
        page = await self._index.page(query)
        seconds = sorted(each for job in page.jobs if (each := _duration_s(job.record.snapshot)) is not None)
        if not seconds:
            return None
        return Durations(*(seconds[math.ceil(share * len(seconds)) - 1] for share in (0.5, 0.95)))


def _parse_name(name: str) -> tuple[str, str, int]:
    """Return the outcome, or SUBMITTED, the kind and the hour of the set with a name."""
    start, _, hour = name.rpartition(":")
    for outcome in ENDINGS:
        if start.startswith(prefix := ended_prefix(outcome)):
            return outcome, start[len(prefix) :], int(hour)
    return SUBMITTED, start[len(kind_prefix("")) :], int(hour)


def _duration_s(snapshot: bytes) -> float | None:
    try:
        job = decode(snapshot, _EndedJob)
    except msgspec.DecodeError:  # another program has damaged the record
        return None
    return max(0, job.finished_at - job.started_at) / 1000


def _rates(counts: Counter[tuple[str, int]], last_hour: int) -> dict[str, Any]:
    """Return the fields of a kind's statistics that are computed from its counts."""
    hours = tuple(
        HourCounts(
            hour=Timestamp(hour * HOUR_MS), **{outcome: counts[outcome, hour] for outcome in (SUBMITTED, *ENDINGS)}
        )
        for hour in range(last_hour - HOURS + 1, last_hour + 1)
    )
    succeeded, failed = sum(hour.succeeded for hour in hours), sum(hour.failed for hour in hours)
    return {
        "hours": hours,
        "rate_per_h": round(sum(hour.submitted for hour in hours) / HOURS, 2),
        "failure_share": round(failed / (succeeded + failed), 4) if succeeded + failed else None,
    }
