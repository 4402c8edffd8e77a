"""The index of all jobs equals a scan of the records, whatever happens to it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from services.notifier.redis_client.topology import RedisClient
from services.notifier.redis_client.url import redis_from_url
from tests.integration.index_world import IndexWorld
from tests.integration.redis_servers import RedisCluster

LONG = bool(os.environ.get("LONG"))
EVENTS = (
    [IndexWorld.change_jobs] * 8
    + [IndexWorld.flush] * 4
    + [
        IndexWorld.crash,
        IndexWorld.expire,
        IndexWorld.lose_keys,
        IndexWorld.replace_keys,
        IndexWorld.add_foreign_members,
        IndexWorld.lose_state,
        IndexWorld.sweep,
    ]
)


@pytest.fixture
async def client(redis: Redis, stores: dict[str, str]) -> AsyncIterator[RedisClient]:
    """Yield a client of the emptied Valkey."""
    async with redis_from_url(stores["REDIS_URL"]) as client:
        yield client


async def check_random_histories(client: RedisClient, seeds: range) -> None:
    """After any events and a sweep, the pages of every query are those of a scan of the records."""
    for seed in seeds:
        world = IndexWorld(client, seed)
        await world.change_jobs()
        history = [world.random.choice(EVENTS) for _ in range(world.random.randrange(5, 30))]
        for event in history:
            await event(world)
        await world.sweep()
        for query in world.queries():
            names = [event.__name__ for event in history]
            assert await world.listed(query) == world.expected(query), (seed, query, names)
        await world.expire_all()


async def test_lists_equal_the_records(client: RedisClient) -> None:
    """On one server."""
    await check_random_histories(client, range(200 if LONG else 10))


async def test_lists_equal_the_records_in_a_cluster(tmp_path: Path) -> None:
    """On a cluster, where the sets are on several nodes."""
    async with RedisCluster.running(tmp_path) as cluster, redis_from_url(cluster.url) as client:
        await client.refresh_slots()
        await check_random_histories(client, range(60 if LONG else 4))
