"""Redis as a cluster and behind Sentinel: records and publications follow their keys, whoever keeps them.

The long form, of 200 watchers, is
`TOPOLOGY_WATCHERS=200 make test ARGS="tests/integration/test_topologies.py --log-level=INFO -rP"`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.crc import key_slot

from services.notifier.records.keys import job_key
from tests.integration.load_scenario import LoadScenario
from tests.integration.redis_servers import RedisCluster, SentinelGroup
from tests.integration.replicas import Replicas

WATCHERS = int(os.environ.get("TOPOLOGY_WATCHERS") or 40)
SEED = int(os.environ.get("TOPOLOGY_SEED") or 1)
JOBS = 40
PACE_S = 0.1
ENDING = 8  # jobs, with each blow
SECONDS_SLOTS = range(5_462, 10_924)  # the second primary's


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[RedisCluster]:
    """Run a cluster."""
    async with RedisCluster.running(tmp_path) as cluster:
        yield cluster


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[SentinelGroup]:
    """Run a primary and a replica behind Sentinel."""
    async with SentinelGroup.running(tmp_path) as watched:
        yield watched


@asynccontextmanager
async def playing(redis_url: str, keys: Path) -> AsyncIterator[LoadScenario]:
    """Play a show over two replicas that read nothing just because it is silent, and judge it at the end."""
    async with (
        Replicas.running([redis_url] * 2, keys, SILENCE_S="60") as replicas,
        LoadScenario.running(replicas, jobs=JOBS, watchers=WATCHERS, pace_s=PACE_S, seed=SEED) as show,
    ):
        yield show
        await show.finish_all()
        assert await show.problems(redis_url) == []


async def test_a_cluster_is_followed_through_moved_slots_and_a_failover(cluster: RedisCluster, tmp_path: Path) -> None:
    """Every watcher ends with the last version of its job, though the job's server has become another."""
    async with playing(cluster.url, tmp_path / "keys") as show:
        slots = {job.id: key_slot(job_key(job.id).encode()) for job in show.unfinished}
        moved = [slot for slot in slots.values() if slot in SECONDS_SLOTS][:3]
        show.unfinished.sort(key=lambda job: slots[job.id] not in moved)  # so that they end meanwhile

        async def move() -> None:
            for slot in moved:
                await cluster.move_slot(slot)

        await show.inject("slots moved", ENDING, move)
        await show.inject("failover", ENDING, cluster.fail_over)


async def test_sentinel_is_followed_through_a_failover(watched: SentinelGroup, tmp_path: Path) -> None:
    """Every watcher ends with the last version of its job, though the server has become another."""
    async with playing(watched.url, tmp_path / "keys") as show:
        await show.inject("failover", ENDING, watched.fail_over)
