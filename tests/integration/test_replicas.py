"""Replicas and their Redis go away and come back, one fault after the other, and no watcher misses the end of its job.

The long form, of 300 jobs and 3,000 watchers with the settings of production, is
`REPLICAS_WATCHERS=3000 REPLICAS_SEED=7 make test ARGS="tests/integration/test_replicas.py --log-level=INFO -rP"`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.integration.load_scenario import LoadScenario
from tests.integration.redis_servers import PERSISTENT, RedisServer
from tests.integration.replicas import Replicas
from tests.integration.tcp_proxy import TcpProxy
from tests.waiting import wait_until

WATCHERS = int(os.environ.get("REPLICAS_WATCHERS") or 150)
SEED = int(os.environ.get("REPLICAS_SEED") or 1)
LONG = WATCHERS >= 1_000
JOBS = WATCHERS // 10 if LONG else 30
PACE_S = max(0.3, WATCHERS / 1_500)  # between two reports of a job
DEAF_S = 5.0 if LONG else 1.0
SILENCE_S = 5.0 if LONG else 60.0  # so long that nothing is made good merely by reading what has gone silent
DRAIN_S = 5.0 if LONG else 0.3
PAUSED_S, AWAY_S = 1.4 * DEAF_S, 0.5
REPLICAS = 3
BLOWS = 2 * REPLICAS + 6


class Stage:
    """Redis, the ways to it, and the replicas."""

    def __init__(self, redis: RedisServer, ways: list[TcpProxy], replicas: Replicas) -> None:
        self.redis = redis
        self.ways = ways
        self.replicas = replicas

    @property
    def redis_url(self) -> str:
        """Where Redis is."""
        return f"redis://{self.redis.address}/0"

    async def redis_killed(self) -> None:
        """Kill Redis, and start it again after a while."""
        self.redis.kill()
        await asyncio.sleep(AWAY_S)
        await self.redis.start()

    async def redis_killed_and_a_replica(self) -> None:
        """Have the watchers of a replica come back to the others while the records are away."""
        self.redis.kill()
        await self.replicas.all[0].kill()
        await asyncio.sleep(AWAY_S)
        await self.redis.start()

    async def redis_paused(self) -> None:
        """Have Redis answer nobody for longer than a replica stands to hear nothing."""
        await self.redis.execute("CLIENT", "PAUSE", round(PAUSED_S * 1000), "ALL")
        await asyncio.sleep(PAUSED_S)
        await wait_until(self.redis.is_up)

    async def way_lost(self) -> None:
        """Have nothing pass between one replica and Redis, for so long that the replica is one to avoid."""
        self.ways[1].pause()
        await asyncio.sleep(2.4 * DEAF_S)
        self.ways[1].resume()


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """Run Redis and three replicas."""
    settings = {"DEAF_S": str(DEAF_S), "SILENCE_S": str(SILENCE_S), "DRAIN_S": str(DRAIN_S)}
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(RedisServer.running(tmp_path, *PERSISTENT))
        ways = [await stack.enter_async_context(TcpProxy.running(lambda: [redis.port])) for _ in range(REPLICAS)]
        urls = [f"redis://127.0.0.1:{way.port}/0" for way in ways]
        replicas = await stack.enter_async_context(Replicas.running(urls, tmp_path / "keys", **settings))
        yield Stage(redis, ways, replicas)


async def befall(show: LoadScenario, stage: Stage, count: int) -> None:
    """Let all faults happen, one after the other."""
    for number, replica in enumerate(stage.replicas.all):
        await show.inject(f"replica {number} stopped", count, replica.stop, replica.start)
        await show.inject(f"replica {number} killed", count, replica.kill, replica.start)
    await show.inject("Redis killed", count, stage.redis_killed)
    for kind in ("normal", "pubsub"):
        await show.inject(
            f"connections killed: {kind}", count, partial(stage.redis.execute, "CLIENT", "KILL", "TYPE", kind)
        )
    await show.inject("Redis paused", count, stage.redis_paused)
    await show.inject("one way to Redis lost", count, stage.way_lost)
    await show.inject(
        "Redis and a replica killed", count, stage.redis_killed_and_a_replica, stage.replicas.all[0].start
    )


@pytest.mark.timeout(900 if LONG else 120)
@pytest.mark.parametrize("seed", [SEED], ids="REPLICAS_SEED={}".format)
async def test_every_watcher_ends_with_the_last_version(stage: Stage, seed: int) -> None:
    """Nobody sees a version go down, and 99 of 100 endings come within five seconds of a fault's end."""
    show_of = LoadScenario.running(stage.replicas, jobs=JOBS, watchers=WATCHERS, pace_s=PACE_S, seed=seed)
    async with show_of as show:
        await befall(show, stage, JOBS // (BLOWS + 1))
        await show.finish_all()
        assert await show.problems(stage.redis_url) == []
