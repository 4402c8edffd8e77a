"""The index of all jobs: its parts, and their lifecycle."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Self

from redis.exceptions import RedisError

from ...redis_client.topology import RedisClient
from ..memory import MemoryMonitor
from ..store import JobStore
from .reader import IndexReader
from .state import IndexState
from .sweeper import IndexSweeper
from .writer import IndexWriter

STOP_TIMEOUT_S = 1.0


async def _unknown_depth() -> None:
    return None


class JobIndex:
    """The index of all jobs; a context manager, which writes what is pending when it exits.

    Args:
        redis: the client.
        replica: a name that this replica keeps when it restarts, and that no other replica has.
        job_ttl_s: the lifetime of a job.
    """

    def __init__(self, redis: RedisClient, replica: str, job_ttl_s: float) -> None:
        self._redis = redis
        self.memory = MemoryMonitor(redis)
        self.state = IndexState(redis, replica)
        self.writer = IndexWriter(redis, self.state, self.memory, job_ttl_s)
        self.sweeper = IndexSweeper(redis, self.state, self.writer, self.memory)

    def reader(self, store: JobStore, queue_depth: Callable[[], Awaitable[int | None]] = _unknown_depth) -> IndexReader:
        """Return a reader of the jobs of a store; `queue_depth` returns about how many messages the queue has."""
        return IndexReader(self._redis, store, self.state, self.writer, self.memory, queue_depth)

    def tasks(self) -> dict[str, Callable[[], Awaitable[object]]]:
        """Return the background tasks by name."""
        return {
            "redis_memory": self.memory.run,
            "index_state": self.state.run,
            "index_writer": self.writer.run,
            "index_sweeper": self.sweeper.run,
        }

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        with suppress(RedisError, OSError):  # the lease then ends, and another replica rebuilds the index
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self.writer.flush()
                await self.state.renew()  # writes whether entries were lost
                await self.state.release()
