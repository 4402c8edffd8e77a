"""The clock of Redis, by which the times of all records are."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from redis.exceptions import RedisError

from headway.contracts import Timestamp

from ..redis_client.topology import RedisClient
from .keys import job_key

MEASURE_INTERVAL_S = 10.0


class RedisClock:
    """The time by the clock of Redis, or by this machine's clock until Redis has answered for the first time.

    Clients compare the times of records with the notifier's `now`, so that both must be from the same clock.
    """

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._measured: Timestamp | None = None
        self._measured_at = 0.0  # monotonic seconds

    def now(self) -> Timestamp:
        """Return the current time."""
        if self._measured is None:
            return Timestamp.now()
        return self._measured.after(time.monotonic() - self._measured_at)

    async def run(self) -> None:
        """Measure the clock at regular intervals, until cancelled; without Redis, the last measurement stays valid."""
        while True:
            with suppress(RedisError, OSError):  # the subscriptions log it
                await self.measure()
            await asyncio.sleep(MEASURE_INTERVAL_S)

    async def measure(self) -> None:
        """Read the clock of one node.

        Raises:
            RedisError, OSError: Redis is unavailable.
        """
        asked_at = time.monotonic()
        (reply,) = await self._redis.execute([(job_key(""), ("TIME",))])
        answered_at = time.monotonic()
        if isinstance(reply, RedisError):
            raise reply
        seconds, microseconds = map(int, reply)
        self._measured = Timestamp(1000 * seconds + microseconds // 1000)
        self._measured_at = (asked_at + answered_at) / 2
