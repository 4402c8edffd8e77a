"""The subscription to Redis: one connection, one owner, and a desired set of channels.

redis-py's reader and writers each reconnect a broken connection on their own, which loses subscriptions. So callers
only change the desired set; the owner subscribes, and on any error closes the connection and subscribes to the whole
set anew. Every confirmation is told: what was published before it may be lost, so that the job must be read.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from services.notifier import metrics
from services.notifier.records import PREFIX, channel

log: structlog.stdlib.BoundLogger = structlog.get_logger()

KEEP = "headway:keep"  # always subscribed: redis-py cannot read a connection without any channel
CANARY_S = 2.0  # how often the connection must answer
DEAF_S = 5.0  # how long it may not
GROUP = 500  # channels in one command
RECONNECT_CAP_S = 1.0


class Bus:
    """Hears what is published of the wanted jobs."""

    def __init__(self, redis: Redis, heard: Callable[[str, bytes], None], confirmed: Callable[[str], None]) -> None:
        self._redis = redis
        self._heard = heard
        self._tell_confirmed = confirmed
        self._wanted: set[str] = set()
        self._asked: set[str] = set()
        self._confirmed: set[str] = set()
        self._changed = asyncio.Event()
        self._ponged = asyncio.Event()
        self.connected = False

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, url: str, heard: Callable[[str, bytes], None], confirmed: Callable[[str], None]
    ) -> AsyncIterator[Bus]:
        """Make a bus with a connection of its own; `run` opens it."""
        async with Redis.from_url(url, retry=Retry(NoBackoff(), 0), health_check_interval=0) as redis:
            yield cls(redis, heard, confirmed)

    def want(self, job_id: str) -> bool:
        """Want to hear of a job; tell whether that is already so, otherwise it will be confirmed."""
        self._wanted.add(job_id)
        self._changed.set()
        return job_id in self._confirmed and job_id in self._asked

    def forget(self, job_id: str) -> None:
        """No longer want to hear of a job."""
        self._wanted.discard(job_id)
        self._changed.set()

    async def run(self) -> None:
        """Own the connection for ever: whatever breaks it, subscribe to everything wanted anew."""
        failures = 0
        while True:
            try:
                async with self._redis.pubsub() as pubsub:
                    await pubsub.subscribe(KEEP)
                    await self._own(pubsub)
            except* (RedisError, OSError, TimeoutError) as errors:
                log.warning("subscription_lost", error=_first(errors))
            failures = 0 if self.connected else failures + 1
            self.connected = False
            self._asked.clear()
            self._confirmed.clear()
            metrics.RECONNECTS.inc()
            await asyncio.sleep(random.uniform(0, min(RECONNECT_CAP_S, 0.05 * 2 ** min(failures, 10))))  # noqa: S311

    async def _own(self, pubsub: PubSub) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen(pubsub))
            group.create_task(self._follow(pubsub))
            group.create_task(self._watch(pubsub))

    async def _listen(self, pubsub: PubSub) -> None:
        while True:
            message: dict[str, Any] | None = await pubsub.get_message(timeout=None)
            if message is not None:
                self._take(message["type"], message["channel"], message["data"])

    def _take(self, kind: str, name: bytes | None, data: Any) -> None:
        if kind == "pong":
            self._ponged.set()
        elif name == KEEP.encode():
            self.connected = True
        elif name is not None:
            job_id = name[len(PREFIX) : -1].decode()
            if kind == "message":
                self._heard(job_id, data)
            elif kind == "subscribe":
                self._confirmed.add(job_id)
                self._tell_confirmed(job_id)
            elif kind == "unsubscribe":
                self._confirmed.discard(job_id)

    async def _follow(self, pubsub: PubSub) -> None:
        """Ask for what is wanted and has not been asked for, and leave what no longer is."""
        while True:
            self._changed.clear()
            new, old = self._wanted - self._asked, self._asked - self._wanted
            self._asked = (self._asked | new) - old  # now, since callers change what is wanted while this waits
            for names, command in ((new, pubsub.subscribe), (old, pubsub.unsubscribe)):
                channels = [channel(job_id) for job_id in names]
                for start in range(0, len(channels), GROUP):
                    await command(*channels[start : start + GROUP])
            await self._changed.wait()

    async def _watch(self, pubsub: PubSub) -> None:
        """Expect an answer now and then: a peer behind a dead network never says that it is gone."""
        while True:
            self._ponged.clear()
            await pubsub.ping()
            async with asyncio.timeout(DEAF_S):
                await self._ponged.wait()
            await asyncio.sleep(CANARY_S)


def _first(errors: BaseExceptionGroup[Any]) -> str:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return type(error).__name__
