"""Reads lists of jobs from the index. Every job is checked against its record, so that a wrong entry is never shown."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from msgspec import Struct

from headway.contracts import Timestamp

from ...redis_client.topology import RedisClient
from ..memory import MemoryMonitor
from ..record_read import RecordRead
from ..shared_read import SharedRead
from ..store import JobStore
from . import keys
from .entries import record_of
from .hourly_sets import HourlySets
from .lookup import typed_reply
from .oldest import read_oldest
from .page_read import PageRead
from .query import JobQuery
from .state import IndexState
from .writer import IndexWriter

COUNTS_MAX_AGE_S = 1.0
OLDEST_MAX_AGE_S = 5.0
DAY_MS = 24 * keys.HOUR_MS


class ListedJob(NamedTuple):
    """A job of a list.

    Attributes:
        id: the job's id.
        record: its record, which has the snapshot and the labels.
        error_type: the type of its true error, if it has one.
    """

    id: str
    record: RecordRead
    error_type: str | None


class Page(NamedTuple):
    """Some jobs of a list, the newest first.

    Attributes:
        jobs: the jobs; there may be none although more follow.
        next: the cursor of the next page; None if no job follows.
        complete: whether the index has all jobs.
    """

    jobs: list[ListedJob]
    next: str | None
    complete: bool


class JobCounts(Struct, frozen=True):
    """About how many jobs wait, run, and failed in the last 24 hours.

    Attributes:
        waiting: those that wait for their first attempt or for another one.
        retrying: those of them that wait for another one.
        queue: the length of the queue, None if it is unknown.
        oldest: since when the job that waits longest does, None if none waits that is due.
    """

    waiting: int
    retrying: int
    running: int
    failed_24h: int
    queue: int | None = None
    oldest: Timestamp | None = None


class JobPosition(NamedTuple):
    """About how many waiting jobs are before a job, and whether the index has all jobs."""

    before: int
    complete: bool


class IndexReader:
    """Reads pages, counts and positions.

    Args:
        redis: the client.
        store: the store of the records.
        state: the state of the index.
        writer: its pending jobs are written before a page is read.
        memory: while Redis is full, the index is not complete.
        queue_depth: returns about how many messages the queue has, None if that is unknown.
    """

    def __init__(
        self,
        redis: RedisClient,
        store: JobStore,
        state: IndexState,
        writer: IndexWriter,
        memory: MemoryMonitor,
        queue_depth: Callable[[], Awaitable[int | None]],
    ) -> None:
        self._redis = redis
        self._store = store
        self._state = state
        self._writer = writer
        self._memory = memory
        self._queue_depth = queue_depth
        self._counts = SharedRead(self._read_counts, COUNTS_MAX_AGE_S)
        self._oldest = SharedRead(lambda: read_oldest(redis, store), OLDEST_MAX_AGE_S)

    async def page(self, query: JobQuery) -> Page:
        """Return a page.

        Raises:
            InvalidCursor: the cursor was altered, or belongs to another query.
            RedisError, OSError: Redis is unavailable.
        """
        page_read = PageRead(self._redis, self._writer, query)
        await self._writer.flush()
        complete = await self.is_complete()
        found, end = await page_read.run()
        ids = [keys.job_id_of(candidate.position.member) for candidate in found]
        jobs = []
        for job_id, read_record in zip(ids, await self._store.read(ids), strict=True):
            if read_record is None:
                continue
            record = record_of(read_record)
            if record is not None and query.matches(record):  # it may have changed meanwhile
                jobs.append(ListedJob(job_id, read_record, record.true_error_type))
        return Page(jobs, None if end is None else query.cursor_after(end), complete and not page_read.is_cut)

    async def about(self) -> JobCounts:
        """Return about how many jobs wait, run, and have failed, as of at most a second ago.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        return await self._counts.get()

    async def _read_counts(self) -> JobCounts:
        since = float(self._store.clock.now() - DAY_MS)
        sets = HourlySets.of_ended_jobs(self._redis, ["failed"], None, lambda _name: None)
        failed = [name async for names in sets.segments(math.inf, since) for name in names]
        waiting, retrying, running = [
            sum(await self._count(names, -math.inf)) for names in (keys.WAITING, keys.RETRYING, keys.RUNNING)
        ]
        failed_24h = sum(await self._count(failed, since))
        oldest = await self._oldest.get()
        return JobCounts(waiting, retrying, running, failed_24h, await self._queue_depth(), oldest)

    async def position(self, submitted_at: Timestamp, redriven_at: Timestamp | None = None) -> JobPosition:
        """Return how many waiting jobs were submitted before a job was, or before it was run again if it was.

        They include those that were run again later: the sets have the times of submissions only.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        await self._writer.flush()
        before = sum(await self._count(keys.WAITING, -math.inf, f"({int(redriven_at or submitted_at)}"))
        itself = redriven_at is not None  # it is among those that were submitted before
        return JobPosition(max(0, before - itself), await self.is_complete())

    async def _count(self, names: Sequence[str], lowest: float, highest: float | str = math.inf) -> list[int]:
        """Return how many members with a score in a range each set has."""
        set_keys = map(keys.index_key, names)
        replies = await self._redis.execute([(key, ("ZCOUNT", key, lowest, highest)) for key in set_keys])
        return [typed_reply(reply) or 0 for reply in replies]

    async def is_complete(self) -> bool:
        """Return whether the index has all jobs.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        return (await self._state.read()).complete and not self._memory.is_full
