"""The memory of Redis. Above a limit only records are written: all else can wait, be rebuilt or be missed."""

from __future__ import annotations

import asyncio
import math
import re

import structlog
from redis.exceptions import RedisError

from .. import metrics
from ..redis_client.connector import NodeAddress
from ..redis_client.topology import RedisClient

log: structlog.stdlib.BoundLogger = structlog.get_logger()

MAX_USED = 0.8  # of `maxmemory`
READ_INTERVAL_S = 5.0
_FIELD = re.compile(rb"^(used_memory|maxmemory):(\d+)\r?$", re.MULTILINE)


class MemoryMonitor:
    """Reads how much memory the nodes of Redis use."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self.is_full = False  # whether only records may be written
        metrics.REDIS_FULL.set_function(lambda: self.is_full)

    async def run(self) -> None:
        """Read the memory at regular intervals, until cancelled; without Redis, the last reading stays valid."""
        while True:
            try:
                await self.read()
            except (RedisError, OSError) as error:
                log.debug("redis_memory_not_read", error=type(error).__name__)
            await asyncio.sleep(READ_INTERVAL_S)

    async def read(self) -> None:
        """Read the memory of all nodes.

        Raises:
            RedisError, OSError: Redis is unavailable, or does not permit the command INFO.
        """
        shares = [await self._read_share(node) for node in self._redis.nodes()]
        used = max(shares, default=0.0)
        is_full = used > MAX_USED
        if is_full != self.is_full:
            log.warning("redis_full" if is_full else "redis_no_longer_full", used_percent=round(100 * used))
        self.is_full = is_full

    async def _read_share(self, node: NodeAddress) -> float:
        (reply,) = await self._redis.execute_on(node, [("INFO", "memory")])
        if isinstance(reply, RedisError):
            raise reply
        memory = {name: int(number) for name, number in _FIELD.findall(reply)}
        return memory.get(b"used_memory", 0) / (memory.get(b"maxmemory") or math.inf)
