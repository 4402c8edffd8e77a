"""Redis Cluster and Redis Sentinel: watchers receive every outcome although slots move and primaries fail.

The long form has 200 watchers:
`TOPOLOGY_WATCHERS=200 make test ARGS="tests/integration/test_topologies.py --log-level=INFO -rP"`
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from redis.crc import key_slot

from services.notifier.records.keys import job_key
from services.notifier.redis_client.topology import RedisClient
from services.notifier.redis_client.url import redis_from_url
from tests.integration.load_scenario import LoadScenario
from tests.integration.redis_servers import RedisCluster, SentinelGroup
from tests.integration.replicas import Replicas
from tests.waiting import wait_until

WATCHERS = int(os.environ.get("TOPOLOGY_WATCHERS") or 40)
SEED = int(os.environ.get("TOPOLOGY_SEED") or 1)
JOBS = 40
REPORT_INTERVAL_S = 0.1  # between two reports of a job
JOBS_PER_FAULT = 8  # finish with each fault
SLOTS_OF_SECOND_PRIMARY = range(5_462, 10_924)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[RedisCluster]:
    """Run a cluster."""
    async with RedisCluster.running(tmp_path) as cluster:
        yield cluster


@pytest.fixture
async def sentinel_group(tmp_path: Path) -> AsyncIterator[SentinelGroup]:
    """Run a primary and its replica, monitored by sentinels."""
    async with SentinelGroup.running(tmp_path) as group:
        yield group


@asynccontextmanager
async def running_scenario(redis_url: str, keys: Path) -> AsyncIterator[LoadScenario]:
    """Run a load scenario on two replicas, finish its jobs at the end of the block, and check for violations.

    `SILENCE_S` is long, so that re-reading silent jobs cannot hide a lost update. When the watchers have left, no
    channel of a job may remain subscribed, although each long poll joins and leaves one.
    """
    async with Replicas.running([redis_url] * 2, keys, SILENCE_S="60") as replicas:
        running = LoadScenario.running(replicas, jobs=JOBS, watchers=WATCHERS, pace_s=REPORT_INTERVAL_S, seed=SEED)
        async with running as scenario:
            yield scenario
            await scenario.finish_all()
            assert await scenario.problems(redis_url) == []
        async with redis_from_url(redis_url) as client:
            await wait_until(partial(no_watched_jobs, client, [job_key(job.id) for job in scenario.jobs]))


async def no_watched_jobs(client: RedisClient, channels: list[str]) -> bool:
    """Return whether no channel has a subscriber at its node."""
    command = "SHARDNUMSUB" if client.sharded else "NUMSUB"
    replies = await client.execute([(channel, ("PUBSUB", command, channel)) for channel in channels])
    return [count for _, count in replies] == [0] * len(channels)


async def test_cluster_moves_slots_and_fails_over(cluster: RedisCluster, tmp_path: Path) -> None:
    """Every watcher ends with the last version of its job, although the job's record moves to another node."""
    async with running_scenario(cluster.url, tmp_path / "keys") as scenario:
        slots = {job.id: key_slot(job_key(job.id).encode()) for job in scenario.unfinished}
        moved = [slot for slot in slots.values() if slot in SLOTS_OF_SECOND_PRIMARY][:3]
        scenario.unfinished.sort(key=lambda job: slots[job.id] not in moved)  # they finish while their slots move

        async def move() -> None:
            for slot in moved:
                await cluster.move_slot(slot)

        await scenario.inject("slots moved", JOBS_PER_FAULT, move)
        await scenario.inject("failover", JOBS_PER_FAULT, cluster.fail_over)


async def test_sentinel_fails_over(sentinel_group: SentinelGroup, tmp_path: Path) -> None:
    """Every watcher ends with the last version of its job, although the replica becomes the primary."""
    async with running_scenario(sentinel_group.url, tmp_path / "keys") as scenario:
        await scenario.inject("failover", JOBS_PER_FAULT, sentinel_group.fail_over)
