"""The clock of Redis, by which the times of all records are."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from redis.exceptions import RedisError

from headway.timestamp import RemoteClock, Timestamp

from ..redis_client.topology import RedisClient
from .keys import job_key

READ_INTERVAL_S = 10.0


class RedisClock(RemoteClock):
    """The clock of Redis.

    Clients compare the times of records with the notifier's `now`, so that both must be from the same clock.
    """

    def __init__(self, redis: RedisClient) -> None:
        super().__init__()
        self._redis = redis

    async def run(self) -> None:
        """Read the clock at regular intervals, until cancelled; without Redis, the last reading stays valid."""
        while True:
            with suppress(RedisError, OSError):  # the subscriptions log it
                await self.read()
            await asyncio.sleep(READ_INTERVAL_S)

    async def read(self) -> None:
        """Read the clock of one node.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        sent_at = time.monotonic()
        (reply,) = await self._redis.execute([(job_key(""), ("TIME",))])
        if isinstance(reply, RedisError):
            raise reply
        seconds, microseconds = map(int, reply)
        self.set(Timestamp(1000 * seconds + microseconds // 1000), (sent_at + time.monotonic()) / 2)
