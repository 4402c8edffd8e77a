"""Writes the index: shortly after a job's transition, it gives the job the entries of its record."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import structlog
from redis.exceptions import RedisError

from ... import metrics
from ...redis_client.connection import Command
from ...redis_client.topology import RedisClient
from ..memory import MemoryMonitor
from . import keys
from .changes import IndexChanges
from .lookup import read_records, typed_reply
from .state import IndexState

log: structlog.stdlib.BoundLogger = structlog.get_logger()

FLUSH_DELAY_S = 0.2
RETRY_DELAY_S = 1.0
JOBS_PER_FLUSH = 200  # in one round trip, of up to about 30 commands each
MAX_PENDING = 100_000
KEEP_MS = 2 * 3_600_000  # how long a set outlives the jobs that were added last; a record does so by an hour


class IndexWriter:
    """Collects the jobs that have changed, and updates their entries.

    Args:
        redis: the client.
        state: the state of the index.
        memory: while it is full, nothing is written.
        job_ttl_s: the lifetime of a job.
    """

    def __init__(self, redis: RedisClient, state: IndexState, memory: MemoryMonitor, job_ttl_s: float) -> None:
        self._redis = redis
        self._state = state
        self._memory = memory
        self._ttl_ms = round(1000 * job_ttl_s) + KEEP_MS
        self._pending: dict[str, None] = {}  # as an ordered set
        self._has_pending = asyncio.Event()
        self._flushing = asyncio.Lock()

    def add(self, job_id: str) -> None:
        """Called when a job's record has changed in a way that may change its entries."""
        self._pending[job_id] = None
        if len(self._pending) == 1:
            self._has_pending.set()
        elif len(self._pending) > MAX_PENDING:
            self._drop_pending()

    def _drop_pending(self) -> None:
        metrics.INDEX_SKIPPED.inc(len(self._pending))
        self._pending.clear()
        self._state.mark_incomplete()

    async def run(self) -> None:
        """Write what is pending, with a short delay, until cancelled."""
        is_failing = False
        while True:
            await self._has_pending.wait()
            self._has_pending.clear()
            await asyncio.sleep(FLUSH_DELAY_S)
            try:
                await self.flush()
                is_failing = False
            except (RedisError, OSError) as error:
                if not is_failing:  # log an outage once
                    log.warning("index_not_written", error=type(error).__name__, reason=str(error))
                is_failing = True
                await asyncio.sleep(RETRY_DELAY_S)
                self._has_pending.set()

    async def flush(self) -> None:
        """Write all that is pending.

        Raises:
            RedisError, OSError: Redis is unavailable. What was not written is still pending.
        """
        async with self._flushing:
            if self._memory.is_full and self._pending:
                self._drop_pending()
            while job_ids := list(itertools.islice(self._pending, JOBS_PER_FLUSH)):
                for job_id in job_ids:
                    del self._pending[job_id]
                try:
                    await self._write(job_ids, announce=True)
                except BaseException:
                    self._pending |= dict.fromkeys(job_ids)
                    raise

    async def reindex(self, job_ids: Sequence[str]) -> None:
        """Give jobs the entries of their records, unless Redis is full.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        for start in range(0, len(job_ids), JOBS_PER_FLUSH):
            if self._memory.is_full:
                self._state.mark_incomplete()
                return
            await self._write(job_ids[start : start + JOBS_PER_FLUSH], announce=False)

    async def remove(self, entries: Iterable[tuple[str, bytes]]) -> None:
        """Remove members from sets.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        changes = IndexChanges()
        for name, member in entries:
            changes.remove(name, member)
        await self._apply(changes)

    async def replace(self, name: str) -> None:
        """Delete a key that has another type than a set of the index has. The index will be rebuilt.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        log.warning("index_key_replaced", set=name.partition(":")[0])  # an owner or a tag may be personal
        self._state.mark_incomplete()
        await self._redis.execute([(keys.index_key(name), ("DEL", keys.index_key(name)))])

    async def _write(self, job_ids: Sequence[str], *, announce: bool) -> None:
        changes = IndexChanges()
        for job_id, record in zip(job_ids, await read_records(self._redis, job_ids), strict=True):
            changes.set_entries(job_id, record)
        await self._apply(changes)
        if announce:
            publish = "SPUBLISH" if self._redis.sharded else "PUBLISH"
            channels = ((keys.list_channel(name), ids) for name, ids in changes.announcements.items())
            await self._execute([(channel, (publish, channel, " ".join(ids))) for channel, ids in channels])
        metrics.INDEX_WRITTEN.inc(len(job_ids))

    async def _apply(self, changes: IndexChanges) -> None:
        """Apply changes; replace keys of another type."""
        commands = list(changes.commands(self._ttl_ms))
        replies = await self._execute(commands)
        foreign = set()
        for (key, _), reply in zip(commands, replies, strict=True):
            if typed_reply(reply) is None:
                foreign.add(key)
        if foreign:
            for key in foreign:
                await self.replace(keys.index_name(key))
            await self._execute([command for command in commands if command[0] in foreign])

    async def _execute(self, commands: Sequence[tuple[str, Command]]) -> list[Any]:
        return await self._redis.execute(commands) if commands else []
