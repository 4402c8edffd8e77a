"""Repairs the index from the records.

Each minute, one replica compares the next part of the index with the records: some jobs that have not ended, and the
records of one more part of the keys. If entries may have been lost, it rebuilds the index from all records.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import structlog
from redis.exceptions import RedisError

from headway.contracts import Timestamp

from ...redis_client.connector import NodeAddress
from ...redis_client.topology import RedisClient
from ..keys import JOB_KEY_PREFIX
from ..memory import MemoryMonitor
from . import keys
from .lookup import typed_reply
from .state import IndexState, IndexStatus, SweepProgress
from .writer import IndexWriter

log: structlog.stdlib.BoundLogger = structlog.get_logger()

CHECK_INTERVAL_S = 5.0
SWEEP_INTERVAL_MS = 60_000
REBUILD_LEASE_MS = 10_000  # renewed after each scan
SWEEP_KEY = keys.index_key("sweep")
REBUILD_KEY = keys.index_key("rebuild")
KEYS_PER_SCAN = 500
SCAN_PAUSE_S = 0.1  # between two scans, so that they read about 4,000 records per second
SCAN_TIME_S = 5.0  # of a sweep, for all nodes together
JOBS_PER_SHARD = 100  # that a sweep reads
NAMES_PER_SWEEP = 100  # of each directory


class IndexSweeper:
    """Sweeps and rebuilds the index. A lease makes one replica do so; two would do no harm."""

    def __init__(self, redis: RedisClient, state: IndexState, writer: IndexWriter, memory: MemoryMonitor) -> None:
        self._redis = redis
        self._state = state
        self._writer = writer
        self._memory = memory

    async def run(self) -> None:
        """Sweep and rebuild when it is due, until cancelled."""
        is_failing = False
        while True:
            try:
                await self._check()
                is_failing = False
            except (RedisError, OSError) as error:
                if not is_failing:  # log an outage once
                    log.warning("index_not_swept", error=type(error).__name__, reason=str(error))
                is_failing = True
            await asyncio.sleep(CHECK_INTERVAL_S)

    async def _check(self) -> None:
        if self._memory.is_full:
            return
        await self._state.renew()
        status = await self._state.read()
        if not status.needs_rebuild:
            if await self._acquire(SWEEP_KEY, SWEEP_INTERVAL_MS):
                await self.sweep()
        elif await self._acquire(REBUILD_KEY, REBUILD_LEASE_MS):
            status = await self._state.read()  # again: another replica may have rebuilt the index meanwhile
            if status.needs_rebuild:
                await self.rebuild(status)

    async def _acquire(self, key: str, lease_ms: int) -> bool:
        """Return whether this replica has the lease now. A key that another program has written ends like a lease."""
        commands = (
            ("SET", key, 1, "NX", "PX", lease_ms),
            ("PEXPIRE", key, lease_ms, "LT"),  # only to end earlier; needs Redis 7
        )
        reply, _ = await self._redis.execute([(key, command) for command in commands])
        if isinstance(reply, RedisError):
            raise reply
        return reply is not None

    async def sweep(self) -> None:
        """Compare a part of the index with the records: all of it, if there are few records.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        progress = await self._state.read_sweep()
        rank = await self._check_shards(progress.rank)
        nodes = self._redis.nodes()
        cursors = {}
        for node in nodes:
            name = f"{node.host}:{node.port}"
            cursors[name] = await self._check_records(node, progress.cursors.get(name, 0), SCAN_TIME_S / len(nodes))
        await self._state.write_sweep(SweepProgress(rank, cursors))
        for directory in (keys.KIND_HOURS, keys.ENDED_HOURS):
            await self._remove_expired_hours(directory)

    async def _check_shards(self, rank: int) -> int:
        """Compare some jobs that have not ended with their records; return the rank at which to continue."""
        is_last = True
        for name in (*keys.WAITING, *keys.RETRYING, *keys.RUNNING):
            members = await self._range(name, rank, JOBS_PER_SHARD)
            is_last &= len(members) < JOBS_PER_SHARD
            await self._writer.reindex([keys.job_id_of(one) for one in members if len(one) == keys.MEMBER_BYTES])
        return 0 if is_last else rank + JOBS_PER_SHARD

    async def _check_records(self, node: NodeAddress, cursor: int, duration_s: float) -> int:
        """Write the entries of a node's records for some time; return the cursor at which to continue."""
        end = time.monotonic() + duration_s
        async with aclosing(self._scan(node, cursor)) as scan:
            async for cursor, job_ids in scan:
                await self._writer.reindex(job_ids)
                if time.monotonic() >= end:
                    return cursor
        return 0

    async def rebuild(self, status: IndexStatus) -> None:
        """Add the entries of all records.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        started, count = time.monotonic(), 0
        await self._state.begin_rebuild(status)
        for node in self._redis.nodes():
            async with aclosing(self._scan(node, 0)) as scan:
                async for _, job_ids in scan:
                    await self._writer.reindex(job_ids)
                    count += len(job_ids)
                    await self._redis.execute([(REBUILD_KEY, ("PEXPIRE", REBUILD_KEY, REBUILD_LEASE_MS))])
        await self._state.end_rebuild(status)
        await self._redis.execute([(REBUILD_KEY, ("DEL", REBUILD_KEY))])
        log.info("index_rebuilt", jobs=count, duration_s=round(time.monotonic() - started, 3))

    async def _scan(self, node: NodeAddress, cursor: int) -> AsyncGenerator[tuple[int, list[str]], None]:
        """Yield the ids of the jobs that have records on a node, up to the end of the keys, with the next cursors."""
        while True:
            command = ("SCAN", cursor, "MATCH", f"{JOB_KEY_PREFIX}*", "COUNT", KEYS_PER_SCAN)
            (reply,) = await self._redis.execute_on(node, [command])
            if isinstance(reply, RedisError):
                raise reply
            cursor = int(reply[0])
            yield cursor, [job_id for key in reply[1] if (job_id := keys.job_id_of_record(key)) is not None]
            if cursor == 0:
                return
            await asyncio.sleep(SCAN_PAUSE_S)

    async def _remove_expired_hours(self, directory: str) -> None:
        """Remove the oldest sets from a directory that have expired."""
        oldest = keys.hour_of(Timestamp.now()) - 1  # of those that may be about to be created
        names = [name for name in await self._range(directory, 0, NAMES_PER_SWEEP) if _hour_in(name) < oldest]
        set_keys = [keys.index_key(name.decode(errors="replace")) for name in names]
        if names:
            sizes = await self._redis.execute([(key, ("ZCARD", key)) for key in set_keys])
            await self._writer.remove(
                (directory, name) for name, size in zip(names, sizes, strict=True) if typed_reply(size) == 0
            )

    async def _range(self, name: str, rank: int, count: int) -> list[bytes]:
        """Return some members of a set in the order of their scores."""
        key = keys.index_key(name)
        (reply,) = await self._redis.execute([(key, ("ZRANGE", key, rank, rank + count - 1))])
        members: list[bytes] | None = typed_reply(reply)
        if members is None:
            await self._writer.replace(name)
        return members or []


def _hour_in(name: bytes) -> int:
    """Return the hour in the name of a set, or 0 if there is none."""
    hour = name.rpartition(b":")[2]
    return int(hour) if hour.isdigit() else 0
