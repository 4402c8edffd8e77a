"""Replicas and Redis fail one after the other, and every watcher still receives the outcome of its job.

The long form has 300 jobs, 3,000 watchers and production settings:
`REPLICAS_WATCHERS=3000 REPLICAS_SEED=7 make test ARGS="tests/integration/test_replicas.py --log-level=INFO -rP"`
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
LONG_FORM = WATCHERS >= 1_000
JOBS = WATCHERS // 10 if LONG_FORM else 30
REPORT_INTERVAL_S = max(0.3, WATCHERS / 1_500)  # between two reports of a job
DEAF_S = 5.0 if LONG_FORM else 1.0
SILENCE_S = 5.0 if LONG_FORM else 60.0  # in the short form, re-reading silent jobs comes too late to hide a lost update
DRAIN_S = 5.0 if LONG_FORM else 0.3
REDIS_PAUSE_S = 1.4 * DEAF_S
REDIS_DOWNTIME_S = 0.5
PROXY_PAUSE_S = 2.4 * DEAF_S
REPLICAS = 3
FAULTS = 2 * REPLICAS + 6


class Deployment:
    """Redis, the replicas, and a proxy between Redis and each replica."""

    def __init__(self, redis: RedisServer, redis_proxies: list[TcpProxy], replicas: Replicas) -> None:
        self.redis = redis
        self.redis_proxies = redis_proxies
        self.replicas = replicas

    @property
    def redis_url(self) -> str:
        """The URL of Redis, without a proxy."""
        return f"redis://{self.redis.address}/0"

    async def restart_redis(self) -> None:
        """Kill Redis and start it again after its downtime."""
        self.redis.kill()
        await asyncio.sleep(REDIS_DOWNTIME_S)
        await self.redis.start()

    async def restart_redis_and_kill_replica(self) -> None:
        """Kill Redis and a replica, whose watchers reconnect to the other replicas before Redis is back."""
        self.redis.kill()
        await self.replicas.all[0].kill()
        await asyncio.sleep(REDIS_DOWNTIME_S)
        await self.redis.start()

    async def pause_redis(self) -> None:
        """Stop Redis from answering for longer than a replica waits for its subscription."""
        await self.redis.execute("CLIENT", "PAUSE", round(REDIS_PAUSE_S * 1000), "ALL")
        await asyncio.sleep(REDIS_PAUSE_S)
        await wait_until(self.redis.is_up)

    async def pause_proxy(self) -> None:
        """Stop all traffic between one replica and Redis until that replica has become unready."""
        self.redis_proxies[1].pause()
        await asyncio.sleep(PROXY_PAUSE_S)
        self.redis_proxies[1].resume()


@pytest.fixture
async def deployment(tmp_path: Path) -> AsyncIterator[Deployment]:
    """Run Redis and three replicas."""
    settings = {"DEAF_S": str(DEAF_S), "SILENCE_S": str(SILENCE_S), "DRAIN_S": str(DRAIN_S)}
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(RedisServer.running(tmp_path, *PERSISTENT))
        proxies = [await stack.enter_async_context(TcpProxy.running(lambda: [redis.port])) for _ in range(REPLICAS)]
        urls = [f"redis://127.0.0.1:{proxy.port}/0" for proxy in proxies]
        replicas = await stack.enter_async_context(Replicas.running(urls, tmp_path / "keys", **settings))
        yield Deployment(redis, proxies, replicas)


async def inject_faults(scenario: LoadScenario, deployment: Deployment, count: int) -> None:
    """Inject all faults one after the other; `count` jobs finish with each."""
    for number, replica in enumerate(deployment.replicas.all):
        await scenario.inject(f"replica {number} stopped", count, replica.stop, replica.start)
        await scenario.inject(f"replica {number} killed", count, replica.kill, replica.start)
    await scenario.inject("Redis killed", count, deployment.restart_redis)
    for kind in ("normal", "pubsub"):
        await scenario.inject(
            f"connections killed: {kind}", count, partial(deployment.redis.execute, "CLIENT", "KILL", "TYPE", kind)
        )
    await scenario.inject("Redis paused", count, deployment.pause_redis)
    await scenario.inject("proxy of one replica paused", count, deployment.pause_proxy)
    await scenario.inject(
        "Redis and a replica killed", count, deployment.restart_redis_and_kill_replica, deployment.replicas.all[0].start
    )


@pytest.mark.timeout(900 if LONG_FORM else 300)
@pytest.mark.parametrize("seed", [SEED], ids="REPLICAS_SEED={}".format)
async def test_every_watcher_ends_with_the_last_version(deployment: Deployment, seed: int) -> None:
    """Versions never go down, and 99 % of the outcomes arrive within five seconds of the fault's end."""
    running = LoadScenario.running(
        deployment.replicas, jobs=JOBS, watchers=WATCHERS, pace_s=REPORT_INTERVAL_S, seed=seed
    )
    async with running as scenario:
        await inject_faults(scenario, deployment, JOBS // (FAULTS + 1))
        await scenario.finish_all()
        assert await scenario.problems(deployment.redis_url) == []
